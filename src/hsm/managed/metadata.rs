//! What a managed key's record says of it, read from its attributes and written back.

use cryptoki_sys as ck;

use super::attributes::{
    CKA_KMS_CREATED, CKA_KMS_DELETION_DATE, CKA_KMS_DELETION_WINDOW, CKA_KMS_DESCRIPTION, CKA_KMS_KEY_ID,
    CKA_KMS_MANAGED, CKA_KMS_MATERIAL, CKA_KMS_MULTI_REGION, CKA_KMS_NEXT_ROTATION, CKA_KMS_ORIGIN, CKA_KMS_OWNER,
    CKA_KMS_REPLICATE_IMPORTED, CKA_KMS_REPLICATION, CKA_KMS_ROTATED, CKA_KMS_ROTATION_PERIOD, CKA_KMS_SPEC,
    CKA_KMS_STATE, CKA_KMS_TAGS, CKA_KMS_USAGE, CKA_KMS_VALID_TO, CKA_KMS_VERSION, KeyState, Origin, Usage,
};
use super::replication::{Replication, Role};
use super::spec::{Purpose, Spec};
use super::states::{Action, Facts};
use super::tags::Tags;
use super::{Answer, Reason, Refused};
use crate::hsm::value::{AttributeType, Attributes, Value};

/// A managed key but for its material, its policy, and what the standard says of it. Times are
/// seconds since 1970. It changes through the functions of `lifecycle.rs` only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Managed {
    pub(super) id: KeyId,
    pub(super) usage: Usage,
    pub(super) spec: &'static Spec,
    pub(super) origin: Origin,
    /// The principal that made it.
    pub(super) owner: String,
    pub(super) created: u64,
    /// As it was last decided; [`Self::state_at`] is what holds.
    pub(super) state: KeyState,
    pub(super) description: String,
    pub(super) tags: Tags,
    /// The version of the material that encrypts, from 1.
    pub(super) version: u64,
    /// When that was made by a rotation.
    pub(super) rotated: Option<u64>,
    pub(super) rotation: Option<Rotation>,
    pub(super) deletion: Option<Deletion>,
    pub(super) imported: Imported,
    /// Of a key that could rotate: the standard's mechanisms work with it, so it does not. It is what
    /// CKA_ALLOWED_MECHANISMS says, decided for ever at the making.
    pub(super) standard_mechanisms: bool,
    /// Of a multi-Region key: what it has to do with other Regions.
    pub(super) replication: Option<Replication>,
    /// Of a multi-Region key: imported material goes to its replicas.
    pub(super) replicate_imported: bool,
}

/// Rotation by period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rotation {
    pub(super) days: u64,
    pub(super) next: u64,
}

/// The waiting period of a key that is to be deleted. It has no date as long as it has not begun:
/// while the key has replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deletion {
    pub(super) days: u64,
    pub(super) date: Option<u64>,
}

/// Of a key whose material is imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Imported {
    /// End of the material's validity, 0 if it has none; None while there is no material.
    pub(super) valid_to: Option<u64>,
    /// The commitment to the material that was first imported.
    pub(super) commitment: Option<Vec<u8>>,
}

impl Managed {
    /// KMS_R_UNSUPPORTED for an ordinary key, CKR_DEVICE_ERROR for one that contradicts itself.
    pub(in crate::hsm) fn read(attributes: &Attributes) -> Answer<Self> {
        if !attributes.flag(CKA_KMS_MANAGED) {
            return Err(Reason::Unsupported.with("the key is not a managed key"));
        }
        Self::parse(attributes).ok_or_else(|| Reason::Damaged.with("a managed key's attributes contradict each other"))
    }

    fn parse(attributes: &Attributes) -> Option<Self> {
        let number = |kind| attributes.ulong(kind);
        let text = |kind| attributes.bytes(kind).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let rotation = match (number(CKA_KMS_ROTATION_PERIOD), number(CKA_KMS_NEXT_ROTATION)) {
            (None, None) => None,
            (Some(days), Some(next)) => Some(Rotation { days, next }),
            _ => return None,
        };
        let state = KeyState::from_code(number(CKA_KMS_STATE)?)?;
        let deletion = match (state, number(CKA_KMS_DELETION_WINDOW), number(CKA_KMS_DELETION_DATE)) {
            (KeyState::PendingDeletion, Some(days), date @ Some(_)) => Some(Deletion { days, date }),
            (KeyState::PendingReplicaDeletion, Some(days), None) => Some(Deletion { days, date: None }),
            (KeyState::PendingDeletion | KeyState::PendingReplicaDeletion, ..) => return None,
            (_, None, None) => None,
            _ => return None,
        };
        let spec = Spec::named(text(CKA_KMS_SPEC)?)?;
        let usage = Usage::from_code(number(CKA_KMS_USAGE)?)?;
        let id = KeyId::parse(text(CKA_KMS_KEY_ID)?)?;
        let version = number(CKA_KMS_VERSION).filter(|version| *version > 0)?;
        let replication = match attributes.bytes(CKA_KMS_REPLICATION) {
            Some(encoded) => Some(Replication::decode(encoded).ok()?),
            None => id.is_multi_region().then(|| Replication::fresh(version)),
        };
        let managed = Self {
            id,
            usage,
            spec,
            origin: Origin::from_code(number(CKA_KMS_ORIGIN)?)?,
            owner: text(CKA_KMS_OWNER)?.to_owned(),
            created: number(CKA_KMS_CREATED)?,
            state,
            description: text(CKA_KMS_DESCRIPTION)?.to_owned(),
            tags: Tags::decode(attributes.bytes(CKA_KMS_TAGS)?).ok()?,
            version,
            rotated: number(CKA_KMS_ROTATED),
            rotation,
            deletion,
            imported: Imported {
                valid_to: number(CKA_KMS_VALID_TO),
                commitment: attributes.bytes(CKA_KMS_MATERIAL).map(<[u8]>::to_vec),
            },
            standard_mechanisms: has_standard_mechanisms(attributes, spec.purpose(usage)?),
            replication,
            replicate_imported: attributes.flag(CKA_KMS_REPLICATE_IMPORTED),
        };
        let consistent = attributes.flag(CKA_KMS_MULTI_REGION) == managed.id.is_multi_region()
            && managed.fits_replication()
            && (managed.origin == Origin::External || managed.imported == Imported::default());
        consistent.then_some(managed)
    }

    /// Whether what is said of other Regions fits the rest.
    fn fits_replication(&self) -> bool {
        let external = self.origin == Origin::External;
        let Some(replication) = &self.replication else { return !self.replicate_imported };
        let role = match (&replication.role, self.state) {
            (Role::Primary { .. }, KeyState::Creating) => false,
            (Role::Primary { handover, .. }, KeyState::Updating) => handover.is_some(),
            (Role::Primary { handover, .. }, _) => handover.is_none(),
            (Role::Replica { .. }, KeyState::PendingReplicaDeletion | KeyState::Updating) => false,
            (Role::Replica { activated, .. }, KeyState::Creating) => !activated,
            (Role::Replica { activated, .. }, state) => *activated || state == KeyState::PendingDeletion,
        };
        role && self.id.is_multi_region()
            && replication.newest >= self.version
            && (external || !self.replicate_imported)
    }

    /// Sets the attributes, and removes those that the key has no longer.
    pub(in crate::hsm) fn write(&self, attributes: &mut Attributes) {
        let text = |text: &str| Some(Value::Bytes(text.as_bytes().to_vec()));
        let number = |number: Option<u64>| number.map(Value::Ulong);
        let replication =
            self.replication.as_ref().filter(|replication| **replication != Replication::fresh(self.version));
        let values: [(AttributeType, Option<Value>); 21] = [
            (CKA_KMS_MANAGED, Some(Value::Bool(true))),
            (CKA_KMS_KEY_ID, text(self.id.as_str())),
            (CKA_KMS_USAGE, number(Some(self.usage.code()))),
            (CKA_KMS_SPEC, text(self.spec.name)),
            (CKA_KMS_ORIGIN, number(Some(self.origin.code()))),
            (CKA_KMS_STATE, number(Some(self.state.code()))),
            (CKA_KMS_DESCRIPTION, text(&self.description)),
            (CKA_KMS_TAGS, Some(Value::Bytes(self.tags.encode()))),
            (CKA_KMS_VERSION, number(Some(self.version))),
            (CKA_KMS_CREATED, number(Some(self.created))),
            (CKA_KMS_DELETION_DATE, number(self.deletion.and_then(|deletion| deletion.date))),
            (CKA_KMS_ROTATION_PERIOD, number(self.rotation.map(|rotation| rotation.days))),
            (CKA_KMS_ROTATED, number(self.rotated)),
            (CKA_KMS_VALID_TO, number(self.imported.valid_to)),
            (CKA_KMS_MATERIAL, self.imported.commitment.clone().map(Value::Bytes)),
            (CKA_KMS_MULTI_REGION, Some(Value::Bool(self.id.is_multi_region()))),
            (CKA_KMS_OWNER, text(&self.owner)),
            (CKA_KMS_DELETION_WINDOW, number(self.deletion.map(|deletion| deletion.days))),
            (CKA_KMS_NEXT_ROTATION, number(self.rotation.map(|rotation| rotation.next))),
            (CKA_KMS_REPLICATION, replication.map(|replication| Value::Bytes(replication.encode()))),
            (CKA_KMS_REPLICATE_IMPORTED, self.replicate_imported.then_some(Value::Bool(true))),
        ];
        for (kind, value) in values {
            match value {
                Some(value) => attributes.set(kind, value),
                None => {
                    attributes.remove(kind);
                }
            }
        }
    }

    pub(in crate::hsm) fn id(&self) -> &KeyId {
        &self.id
    }

    pub(in crate::hsm) fn spec(&self) -> &'static Spec {
        self.spec
    }

    pub(in crate::hsm) fn usage(&self) -> Usage {
        self.usage
    }

    pub(in crate::hsm) fn origin(&self) -> Origin {
        self.origin
    }

    pub(in crate::hsm) fn owner(&self) -> &str {
        &self.owner
    }

    pub(in crate::hsm) fn tags(&self) -> &Tags {
        &self.tags
    }

    pub(in crate::hsm) fn version(&self) -> u64 {
        self.version
    }

    /// The commitment that material to be imported must have; None before the first import.
    pub(in crate::hsm) fn commitment(&self) -> Option<&[u8]> {
        self.imported.commitment.as_deref()
    }

    /// The state at a time.
    pub(in crate::hsm) fn state_at(&self, now: u64) -> KeyState {
        self.facts().state_at(now)
    }

    /// Whether the table allows an action now.
    pub(in crate::hsm) fn check(&self, action: Action, now: u64) -> Result<(), Refused> {
        self.facts().check(action, now)
    }

    pub(super) fn facts(&self) -> Facts {
        Facts {
            state: self.state,
            origin: self.origin,
            valid_to: self.imported.valid_to,
            deletion_date: self.deletion.and_then(|deletion| deletion.date),
        }
    }
}

fn has_standard_mechanisms(attributes: &Attributes, purpose: &Purpose) -> bool {
    match attributes.get(ck::CKA_ALLOWED_MECHANISMS) {
        Some(Value::Mechanisms(allowed)) if !purpose.versioned.is_empty() => {
            allowed.iter().any(|mechanism| purpose.mechanisms.contains(mechanism))
        }
        _ => false,
    }
}

/// CKA_KMS_KEY_ID: a version 4 UUID, or `mrk-` and 32 hexadecimal digits for a key of several Regions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::hsm) struct KeyId(String);

impl KeyId {
    pub(in crate::hsm) fn new(random: [u8; 16], multi_region: bool) -> Self {
        if multi_region {
            return Self(format!("mrk-{:032x}", u128::from_be_bytes(random)));
        }
        let mut octets = random;
        octets[6] = octets[6] & 0x0f | 0x40;
        octets[8] = octets[8] & 0x3f | 0x80;
        let digits = format!("{:032x}", u128::from_be_bytes(octets));
        Self(UUID_GROUPS.map(|(start, end)| &digits[start..end]).join("-"))
    }

    /// None for what is no key id in its one spelling.
    pub(in crate::hsm) fn parse(text: &str) -> Option<Self> {
        let hex = |digits: &str| digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let well_formed = match text.strip_prefix("mrk-") {
            Some(digits) => digits.len() == 32 && hex(digits),
            None => {
                let lengths = text.split('-').map(str::len);
                lengths.eq(UUID_GROUPS.iter().map(|(start, end)| end - start)) && text.split('-').all(hex)
            }
        };
        well_formed.then(|| Self(text.to_owned()))
    }

    pub(in crate::hsm) fn as_str(&self) -> &str {
        &self.0
    }

    pub(in crate::hsm) fn is_multi_region(&self) -> bool {
        self.0.starts_with("mrk-")
    }
}

/// The digits of each group.
const UUID_GROUPS: [(usize, usize); 5] = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
