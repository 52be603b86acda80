//! The life of a managed key: each function takes the key as it is and the time (seconds since
//! 1970), and gives the key as it will be, or says why not.

use cryptoki_sys as ck;
use subtle::ConstantTimeEq;

use super::attributes::{CKA_KMS_DESCRIPTION, KeyState, Origin, Usage};
use super::metadata::{Deletion, Imported, Managed, Rotation};
use super::replication::Role;
use super::states::Action;
use super::{Answer, Reason};
use crate::hsm::value::{Attributes, Value};

/// Days of the waiting period before a deletion.
pub(in crate::hsm) const DELETION_DAYS: std::ops::RangeInclusive<u64> = 7..=30;
pub(in crate::hsm) const DEFAULT_DELETION_DAYS: u64 = 30;
/// Days between rotations.
pub(in crate::hsm) const ROTATION_DAYS: std::ops::RangeInclusive<u64> = 90..=2560;
pub(in crate::hsm) const DEFAULT_ROTATION_DAYS: u64 = 365;
/// The most days that imported material may be valid for.
pub(in crate::hsm) const MAX_VALIDITY_DAYS: u64 = 365;
/// The longest description, in characters.
pub(in crate::hsm) const MAX_DESCRIPTION: usize = 8192;

/// What time demands of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Due {
    /// The waiting period is over: all versions are to be destroyed, with the record.
    Delete,
    /// The imported material has expired: it is to be destroyed, with [`Managed::expire_material`].
    ExpireMaterial,
    /// The next rotation by period: [`Managed::rotate`].
    Rotate,
}

impl Managed {
    pub(in crate::hsm) fn enable(&self, now: u64) -> Answer<Self> {
        self.check(Action::Enable, now)?;
        Ok(Self { state: KeyState::Enabled, ..self.clone() })
    }

    pub(in crate::hsm) fn disable(&self, now: u64) -> Answer<Self> {
        self.check(Action::Disable, now)?;
        Ok(Self { state: KeyState::Disabled, ..self.clone() })
    }

    /// Begins the waiting period, of 30 days by default; a primary key with replicas waits for their
    /// deletion first.
    pub(in crate::hsm) fn schedule_deletion(&self, days: Option<u64>, now: u64) -> Answer<Self> {
        let days = days.unwrap_or(DEFAULT_DELETION_DAYS);
        if !DELETION_DAYS.contains(&days) {
            return Err(Reason::Arguments.with("the waiting period before a deletion is 7 to 30 days"));
        }
        self.check(Action::ScheduleDeletion, now)?;
        let has_replicas = self.replication.as_ref().is_some_and(|known| known.registered().next().is_some());
        let (state, date) = if has_replicas {
            (KeyState::PendingReplicaDeletion, None)
        } else {
            (KeyState::PendingDeletion, Some(later(now, days)))
        };
        Ok(Self { state, deletion: Some(Deletion { days, date }), ..self.clone() })
    }

    /// The last replica is gone: a primary key that waited for that begins its waiting period.
    pub(in crate::hsm) fn replicas_deleted(&self, now: u64) -> Answer<Self> {
        match (self.state, self.deletion) {
            (KeyState::PendingReplicaDeletion, Some(Deletion { days, .. })) => Ok(Self {
                state: KeyState::PendingDeletion,
                deletion: Some(Deletion { days, date: Some(later(now, days)) }),
                ..self.clone()
            }),
            _ => Err(Reason::InvalidState.with("the key does not wait for its replicas' deletion")),
        }
    }

    /// Leaves the key disabled; a replica that was not used yet waits for its primary again.
    pub(in crate::hsm) fn cancel_deletion(&self, now: u64) -> Answer<Self> {
        self.check(Action::CancelDeletion, now)?;
        let role = self.replication.as_ref().map(|replication| &replication.role);
        let state = match role {
            Some(Role::Replica { activated: false, .. }) => KeyState::Creating,
            _ => KeyState::Disabled,
        };
        Ok(Self { state, deletion: None, ..self.clone() })
    }

    pub(in crate::hsm) fn set_description(&self, description: &str, now: u64) -> Answer<Self> {
        check_description(description)?;
        self.check(Action::SetDescription, now)?;
        Ok(Self { description: description.to_owned(), ..self.clone() })
    }

    pub(in crate::hsm) fn tag(&self, tags: &[(&str, &str)], now: u64) -> Answer<Self> {
        self.check(Action::Tag, now)?;
        Ok(Self { tags: self.tags.with(tags)?, ..self.clone() })
    }

    pub(in crate::hsm) fn untag(&self, names: &[&str], now: u64) -> Answer<Self> {
        self.check(Action::Untag, now)?;
        Ok(Self { tags: self.tags.without(names), ..self.clone() })
    }

    /// Rotation every so many days from now on, 365 by default.
    pub(in crate::hsm) fn set_rotation(&self, days: Option<u64>, now: u64) -> Answer<Self> {
        let days = days.unwrap_or(DEFAULT_ROTATION_DAYS);
        if !ROTATION_DAYS.contains(&days) {
            return Err(Reason::Arguments.with("the period of rotation is 90 to 2560 days"));
        }
        self.check(Action::SetRotation, now)?;
        self.check_rotates()?;
        self.check_shared()?;
        Ok(Self { rotation: Some(Rotation { days, next: later(now, days) }), ..self.clone() })
    }

    pub(in crate::hsm) fn stop_rotation(&self, now: u64) -> Answer<Self> {
        self.check(Action::SetRotation, now)?;
        self.check_rotates()?;
        self.check_shared()?;
        Ok(Self { rotation: None, ..self.clone() })
    }

    /// A new version, whose material the caller makes. It is the active one at once, or pending
    /// ([`Self::is_pending`]) until the replicas hold it. On demand, it leaves the dates of the rotation
    /// by period as they were.
    pub(in crate::hsm) fn rotate(&self, now: u64) -> Answer<Self> {
        self.check(Action::Rotate, now)?;
        self.check_rotates()?;
        self.check_shared()?;
        let version =
            self.version.checked_add(1).ok_or_else(|| Reason::LimitExceeded.with("the key has too many versions"))?;
        let rotation = self.rotation.map(|rotation| {
            let next = if rotation.next <= now { later(now, rotation.days) } else { rotation.next };
            Rotation { next, ..rotation }
        });
        let mut rotated = Self { rotation, ..self.clone() };
        let mut waits = false;
        if let Some(replication) = &mut rotated.replication {
            if replication.newest > self.version {
                return Err(self.waits_for(&replication.missing()));
            }
            replication.newest = version;
            waits = replication.registered().next().is_some();
        }
        if !waits {
            (rotated.version, rotated.rotated) = (version, Some(now));
        }
        Ok(rotated)
    }

    /// That the key may be given parameters for an import.
    pub(in crate::hsm) fn check_import_parameters(&self, now: u64) -> Answer<()> {
        self.check(Action::GetParametersForImport, now)?;
        self.check_imports()
    }

    /// Takes material with this commitment, until `valid_to` if it expires. What a key once had
    /// imported is all that it takes again; KMS_R_INCORRECT_KEY_MATERIAL for anything else.
    /// The key is in the state it was in before its material was deleted or expired.
    pub(in crate::hsm) fn import_material(&self, commitment: &[u8], valid_to: Option<u64>, now: u64) -> Answer<Self> {
        if valid_to.is_some_and(|valid_to| valid_to <= now || valid_to > later(now, MAX_VALIDITY_DAYS)) {
            return Err(Reason::Arguments.with("imported material expires after at most 365 days, and not in the past"));
        }
        self.check(Action::ImportMaterial, now)?;
        self.check_imports()?;
        if let Some(first) = &self.imported.commitment
            && !bool::from(first.as_slice().ct_eq(commitment))
        {
            return Err(Reason::IncorrectKeyMaterial.with("the key takes only the material it had before"));
        }
        let imported = Imported { valid_to: Some(valid_to.unwrap_or(0)), commitment: Some(commitment.to_vec()) };
        Ok(Self { imported, ..self.clone() })
    }

    /// Without its imported material, which the caller destroys; the commitment stays.
    pub(in crate::hsm) fn delete_material(&self, now: u64) -> Answer<Self> {
        self.check(Action::DeleteMaterial, now)?;
        self.check_imports()?;
        Ok(self.without_material())
    }

    /// The same for material that has expired, in any state of the key.
    pub(in crate::hsm) fn expire_material(&self, now: u64) -> Answer<Self> {
        if !self.has_expired_material(now) {
            return Err(Reason::InvalidState.with("the key has no material that has expired"));
        }
        Ok(self.without_material())
    }

    /// What is to be done with the key now, whoever notices it; the most final thing first.
    pub(in crate::hsm) fn due(&self, now: u64) -> Option<Due> {
        if self.facts().is_deletion_due(now) {
            Some(Due::Delete)
        } else if self.has_expired_material(now) {
            Some(Due::ExpireMaterial)
        } else if self.rotation.is_some_and(|rotation| rotation.next <= now) && self.rotate(now).is_ok() {
            Some(Due::Rotate)
        } else {
            None
        }
    }

    /// When the imported material expires, if that is within so many days.
    pub(in crate::hsm) fn expires_within(&self, days: u64, now: u64) -> Option<u64> {
        self.imported.valid_to.filter(|valid_to| (1..=later(now, days)).contains(valid_to))
    }

    fn without_material(&self) -> Self {
        Self { imported: Imported { valid_to: None, ..self.imported.clone() }, ..self.clone() }
    }

    fn has_expired_material(&self, now: u64) -> bool {
        self.imported.valid_to.is_some() && !self.facts().has_material(now)
    }

    /// A signature or a MAC has no room to name a version, and imported material is of one.
    pub(super) fn check_rotates(&self) -> Answer<()> {
        if !self.spec.is_symmetric() || self.usage != Usage::EncryptDecrypt || self.origin != Origin::Hsm {
            return Err(Reason::Unsupported.with("only symmetric encryption keys whose material was made here rotate"));
        }
        if self.standard_mechanisms {
            let why =
                "what the standard's mechanisms encrypt names no version: this key rotates by a new key and an alias";
            return Err(Reason::Unsupported.with(why));
        }
        Ok(())
    }

    /// What the Regions share is changed where the primary is.
    fn check_shared(&self) -> Answer<()> {
        if self.replication.is_some() {
            self.as_settled_primary()?;
        }
        Ok(())
    }

    fn check_imports(&self) -> Answer<()> {
        if self.origin == Origin::External {
            return Ok(());
        }
        Err(Reason::Unsupported.with("the key's material was made here; it is not imported"))
    }
}

/// C_SetAttributeValue of a managed key: its label and description, where its state lets it be
/// described. Gives all of its attributes. `changes` are checked against the attribute table.
pub(in crate::hsm) fn set_attributes(current: &Attributes, changes: &Attributes, now: u64) -> Answer<Attributes> {
    let mut managed = Managed::read(current)?;
    managed.check(Action::SetDescription, now)?;
    let mut changed = current.clone();
    let is_half = matches!(current.ulong(ck::CKA_CLASS), Some(ck::CKO_PUBLIC_KEY | ck::CKO_PRIVATE_KEY));
    for (kind, value) in changes.iter() {
        match (kind, value) {
            (ck::CKA_LABEL, Value::Bytes(_)) => changed.set(kind, value.clone()),
            (CKA_KMS_DESCRIPTION, _) if is_half => {
                let why = "the description of a pair is that of both halves: KMS_UpdateKeyDescription changes it";
                return Err(Reason::ReadOnly.with(why));
            }
            (CKA_KMS_DESCRIPTION, Value::Bytes(text)) => {
                let text = std::str::from_utf8(text).map_err(|_| Reason::Arguments.with("a description is UTF-8"))?;
                managed = managed.set_description(text, now)?;
            }
            _ => {
                let why = format!("attribute {kind:#x} of a managed key cannot be changed");
                return Err(Reason::ReadOnly.with(why));
            }
        }
    }
    managed.write(&mut changed);
    Ok(changed)
}

pub(super) fn check_description(description: &str) -> Answer<()> {
    if description.chars().count() > MAX_DESCRIPTION {
        return Err(Reason::Arguments.with("a description has at most 8192 characters"));
    }
    Ok(())
}

/// A time so many days later.
pub(super) fn later(now: u64, days: u64) -> u64 {
    now.saturating_add(days.saturating_mul(86_400))
}

#[cfg(test)]
pub(super) mod tests;
