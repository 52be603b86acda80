//! The commands that change managed keys, or tell of them: one table, and what a row does.

mod access;
mod aliases;
mod create;
mod life;
mod regions;

use std::cell::OnceCell;
use std::sync::Arc;

use cryptoki_sys as ck;

use super::audit;
use super::cache::Open;
use super::command::{KeyRecords, Manage, ObjectChange, Record, Reply, Ticket};
use super::key::Key;
use super::managed::metadata::Managed;
use super::managed::{Action, CKA_KMS_KEY_ID, is_managed, request};
use super::permit::Recorded;
use super::value::Attributes;
use super::{Access, Hsm};
use crate::error::{ErrorKind, Result};

/// One command.
struct Row {
    manage: Manage,
    /// What the key must permit; None where there is no key yet.
    permits: Option<Action>,
    perform: fn(&Job<'_>) -> Result<Done>,
}

impl Row {
    /// The name under which it is recorded.
    fn named(&self) -> audit::Action {
        self.permits.map_or(audit::Action::CreateKey, Action::named)
    }
}

const fn row(manage: Manage, permits: Action, perform: fn(&Job<'_>) -> Result<Done>) -> Row {
    Row { manage, permits: Some(permits), perform }
}

const TABLE: &[Row] = &[
    Row { manage: Manage::CreateKey, permits: None, perform: create::create_key },
    row(Manage::DescribeKey, Action::Describe, life::describe),
    row(Manage::EnableKey, Action::Enable, life::enable),
    row(Manage::DisableKey, Action::Disable, life::disable),
    row(Manage::ScheduleKeyDeletion, Action::ScheduleDeletion, life::schedule_deletion),
    row(Manage::CancelKeyDeletion, Action::CancelDeletion, life::cancel_deletion),
    row(Manage::UpdateDescription, Action::SetDescription, life::update_description),
    row(Manage::TagKey, Action::Tag, life::tag),
    row(Manage::UntagKey, Action::Untag, life::untag),
    row(Manage::SetRotation, Action::SetRotation, life::set_rotation),
    row(Manage::GetRotationStatus, Action::GetRotationStatus, life::rotation_status),
    row(Manage::RotateKey, Action::Rotate, life::rotate),
    row(Manage::DeleteImportedKeyMaterial, Action::DeleteMaterial, life::delete_material),
    row(Manage::CreateAlias, Action::CreateAlias, aliases::create),
    row(Manage::UpdateAlias, Action::UpdateAliasFrom, aliases::update),
    row(Manage::DeleteAlias, Action::DeleteAlias, aliases::delete),
    row(Manage::PutKeyPolicy, Action::PutPolicy, access::put_policy),
    row(Manage::GetKeyPolicy, Action::GetPolicy, access::get_policy),
    row(Manage::CreateGrant, Action::CreateGrant, access::create_grant),
    row(Manage::RetireGrant, Action::RetireGrant, access::retire_grant),
    row(Manage::RevokeGrant, Action::RevokeGrant, access::revoke_grant),
    row(Manage::ListGrants, Action::ListGrants, access::list_grants),
    row(Manage::ReplicateKey, Action::Replicate, regions::replicate),
    row(Manage::UpdatePrimaryRegion, Action::MakePrimary, regions::update_primary),
    row(Manage::DescribeReplicas, Action::Describe, regions::describe),
];

/// What a command did: what is to be committed, and what is told.
#[derive(Default)]
struct Done {
    change: ObjectChange,
    told: String,
}

impl Done {
    fn told(told: String) -> Self {
        Self { told, ..Self::default() }
    }
}

impl From<ObjectChange> for Done {
    fn from(change: ObjectChange) -> Self {
        Self { change, told: String::new() }
    }
}

/// The objects of one managed key, opened.
pub(super) struct Keys {
    pub(super) key: Arc<Open>,
    pub(super) public: Option<Arc<Open>>,
}

impl Keys {
    pub(super) fn attributes(&self) -> &Attributes {
        &self.key.key.attributes
    }

    /// What a record says of a managed key.
    pub(super) fn managed(&self) -> Result<Managed> {
        Ok(Managed::read(self.attributes())?)
    }

    pub(super) fn id(&self) -> &str {
        let id = self.attributes().bytes(CKA_KMS_KEY_ID);
        id.and_then(|id| std::str::from_utf8(id).ok()).unwrap_or_default()
    }

    /// Whether they are the objects of one key, and all of them: a change of one half would be none.
    fn check(&self) -> Result<()> {
        if !is_managed(self.attributes()) || self.key.key.class() == ck::CKO_PUBLIC_KEY {
            return Err(ErrorKind::KmsUnsupported.with("the key is not a managed key"));
        }
        let pair = self.key.key.class() == ck::CKO_PRIVATE_KEY && !self.key.key.secrets.is_empty();
        let whole = match &self.public {
            None => !pair,
            Some(public) => {
                let attributes = &public.key.attributes;
                public.key.class() == ck::CKO_PUBLIC_KEY
                    && is_managed(attributes)
                    && attributes.get(CKA_KMS_KEY_ID) == self.attributes().get(CKA_KMS_KEY_ID)
            }
        };
        if whole { Ok(()) } else { Err(ErrorKind::DeviceError.with("the records are not those of one managed key")) }
    }
}

/// One command on its way.
struct Job<'a> {
    hsm: &'a Hsm,
    access: Access,
    keys: Option<Keys>,
    alias: Option<Arc<Open>>,
    target: Option<Keys>,
    request: &'a str,
    dry_run: bool,
    now: u64,
    /// What else the record names.
    about: OnceCell<String>,
    /// The key that was made.
    made: OnceCell<Attributes>,
}

impl Job<'_> {
    fn run(&self, row: &Row) -> Result<Done> {
        if let Some((action, keys)) = row.permits.zip(self.keys.as_ref()) {
            self.hsm.permit(self.access, keys.attributes(), action, None)?;
        }
        (row.perform)(self)
    }

    fn keys(&self) -> Result<&Keys> {
        self.keys.as_ref().ok_or_else(|| ErrorKind::KmsNotFound.with("no key is named"))
    }

    fn parse<'r, R: serde::Deserialize<'r>>(&'r self) -> Result<R> {
        Ok(request::parse(self.request)?)
    }

    /// To be asked when all was checked and nothing is made yet.
    fn end_of_checks(&self) -> Result<()> {
        if self.dry_run { Err(ErrorKind::KmsDryRun.into()) } else { Ok(()) }
    }

    /// The key as this says, both halves of a pair.
    fn rewrite(&self, managed: &Managed) -> Result<Done> {
        self.edit(|attributes| managed.write(attributes))
    }

    /// The key with attributes changed, those of both halves of a pair alike.
    fn edit(&self, edit: impl Fn(&mut Attributes)) -> Result<Done> {
        self.end_of_checks()?;
        Ok(self.hsm.edit_key(self.keys()?, edit)?.into())
    }
}

impl Hsm {
    /// [`Command::Manage`](super::Command::Manage).
    pub(super) fn manage(
        &self,
        ticket: &Ticket,
        action: Manage,
        (keys, alias, target): (Option<KeyRecords<'_>>, Option<&Record>, Option<KeyRecords<'_>>),
        request: &str,
        dry_run: bool,
    ) -> Result<Reply> {
        let access = self.access(ticket);
        let row = TABLE.iter().find(|row| row.manage == action).ok_or(ErrorKind::FunctionNotSupported)?;
        let job = Job {
            hsm: self,
            access,
            keys: keys.map(|keys| self.open_keys(access, keys, row.permits)).transpose()?,
            alias: alias.map(|alias| self.open(access, alias)).transpose()?,
            target: target.map(|keys| self.open_keys(access, keys, None)).transpose()?,
            request,
            dry_run,
            now: self.now(),
            about: OnceCell::new(),
            made: OnceCell::new(),
        };
        let outcome = job.run(row);
        let recorded = Recorded {
            action: row.named(),
            key: job.keys.as_ref().map(Keys::attributes).or_else(|| job.made.get()),
            target: job.about.get().map(String::as_str),
            context: None,
        };
        let Done { change, told } = self.recorded(&recorded, outcome)?;
        Ok(Reply::Managed { change, told })
    }

    /// Opens a managed key for an action. The SO sees of one what the token's owner may always read.
    pub(super) fn open_keys(&self, access: Access, records: KeyRecords<'_>, action: Option<Action>) -> Result<Keys> {
        let owners = matches!(action, Some(Action::Describe | Action::GetPolicy | Action::ListGrants));
        let open = |record| match access {
            Access::So if owners => self.open_any(access, record),
            _ => self.open(access, record),
        };
        let keys = Keys { key: open(records.key)?, public: records.public.map(open).transpose()? };
        keys.check().map(|()| keys)
    }

    /// The same for what time demands, in the name of nobody: the login need only be there.
    pub(super) fn open_keys_for_time(&self, access: Access, records: KeyRecords<'_>) -> Result<Keys> {
        if access == Access::Public {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        let open = |record| self.open_any(access, record);
        let keys = Keys { key: open(records.key)?, public: records.public.map(open).transpose()? };
        keys.check().map(|()| keys)
    }

    /// A key with attributes changed; both halves of a pair have the same managed attributes.
    pub(super) fn edit_key(&self, keys: &Keys, edit: impl Fn(&mut Attributes)) -> Result<ObjectChange> {
        let edited = |open: &Open| -> Result<Record> {
            let key = &open.key;
            let mut attributes = key.attributes.clone();
            edit(&mut attributes);
            self.replacement(open, Key::from_parts((attributes, key.secrets.duplicate()?, key.marks)))
        };
        let replace = std::iter::once(&keys.key).chain(&keys.public).map(|open| edited(open));
        Ok(ObjectChange { replace: replace.collect::<Result<_>>()?, ..ObjectChange::default() })
    }

    /// The next generation of a record that was opened, which is not needed any more.
    pub(super) fn replacement(&self, old: &Open, new: Key) -> Result<Record> {
        let generation = old.record.generation.checked_add(1).ok_or(ErrorKind::DeviceError)?;
        let record = self.seal_any(new, old.record.object, generation)?;
        self.cache_of(&old.record).forget(old.record.sealed.digest());
        Ok(record)
    }
}
