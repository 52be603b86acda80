//! The commands by which a managed key gets material that was made elsewhere.

use std::sync::Arc;

use super::Hsm;
use super::audit::Action as Audited;
use super::cache::Open;
use super::command::{KeyRecords, ObjectChange, ObjectId, Record, Reply, Ticket};
use super::domain::{self, Circumstances};
use super::key::Key;
use super::managed::creation::{self, Made};
use super::managed::import::{self, Algorithm, Token};
use super::managed::metadata::Managed;
use super::managed::spec::Spec;
use super::managed::{Action, is_managed};
use super::permit::Recorded;
use super::value::Value;
use crate::error::{ErrorKind, Result};
use crate::text::hex;

impl Hsm {
    pub(super) fn import_parameters(
        &self,
        ticket: &Ticket,
        key: &Record,
        (algorithm, spec): (&str, &str),
        dry_run: bool,
    ) -> Result<Reply> {
        let access = self.access(ticket);
        let open = self.open(access, key)?;
        if !is_managed(&open.key.attributes) {
            return Err(ErrorKind::KmsUnsupported.with("the key is not a managed key"));
        }
        let attributes = &open.key.attributes;
        let make = || {
            self.permit(access, attributes, Action::GetParametersForImport, None)?;
            let now = self.now();
            Managed::read(attributes)?.check_import_parameters(now)?;
            let algorithm = Algorithm::named(algorithm)
                .ok_or_else(|| ErrorKind::ArgumentsBad.with("there is no such wrapping algorithm"))?;
            let spec =
                Spec::named(spec).ok_or_else(|| ErrorKind::ArgumentsBad.with("there is no such wrapping key spec"))?;
            import::check_wrapping(spec)?;
            if dry_run {
                return Err(ErrorKind::KmsDryRun.into());
            }
            let opened = self.opened()?;
            let made = import::parameters(opened.sealer(), &open.record.object, algorithm, spec, now)?;
            Ok(Reply::ImportParameters { public_key: made.public_key, token: made.token, expires: made.expires })
        };
        self.recorded(&Recorded::of(Audited::GetParametersForImport, attributes), make())
    }

    pub(super) fn import_material(
        &self,
        ticket: &Ticket,
        records: KeyRecords<'_>,
        (token, wrapped): (&[u8], &[u8]),
        valid_to: Option<u64>,
        dry_run: bool,
    ) -> Result<Reply> {
        let access = self.access(ticket);
        let keys = self.open_keys(access, records, None)?;
        let take = || {
            self.permit(access, keys.attributes(), Action::ImportMaterial, None)?;
            let (managed, now) = (keys.managed()?, self.now());
            let record = &keys.key.record;
            let opened = self.opened()?;
            let invalid = || ErrorKind::KmsInvalidImportToken;
            let key_id = domain::key_id_of(token).map_err(|_| invalid())?;
            let clock = Circumstances::of_system().now;
            let sealer = opened
                .sealer_for(&key_id, &record.object, record.generation, clock)
                .map_err(|_| invalid().with("the token was made under a domain key that is gone"))?;
            let token = Token::open(sealer, &record.object, token, now)?;
            let material = import::import(&token, wrapped, managed.spec(), &record.object, opened.index_key())?;
            managed.import_material(&material.commitment, valid_to, now)?;
            if dry_run {
                return Err(ErrorKind::KmsDryRun.into());
            }
            let made = creation::with_material(&keys.key.key, material.key, &material.commitment, valid_to, now)?;
            self.filled(&keys.key, keys.public.as_ref(), made)
        };
        let change = self.recorded(&Recorded::of(Audited::ImportKeyMaterial, keys.attributes()), take())?;
        Ok(Reply::Managed { change, told: String::new() })
    }

    /// The key with its material; the public half is made anew, in the place of the one there may be.
    fn filled(&self, old: &Open, old_public: Option<&Arc<Open>>, made: Made) -> Result<ObjectChange> {
        let named = |mut public: Key, object: &ObjectId| {
            public.attributes.set(cryptoki_sys::CKA_UNIQUE_ID, Value::Bytes(hex(object).into_bytes()));
            public
        };
        let (key, public) = match made {
            Made::Secret(key) => (key, None),
            Made::Pair { public, private } => (private, Some(public)),
        };
        let mut change = ObjectChange { replace: vec![self.replacement(old, key)?], ..ObjectChange::default() };
        match (public, old_public) {
            (None, _) => {}
            (Some(public), Some(old)) => {
                change.replace.push(self.replacement(old, named(public, &old.record.object))?);
            }
            (Some(public), None) => {
                let object = creation::new_object()?;
                change.insert.push(self.seal_any(named(public, &object), object, 1)?);
            }
        }
        Ok(change)
    }
}
