//! The commands about objects: opening and sealing records, and what the ticket's holder may do
//! with them.

use std::sync::Arc;

use cryptoki_sys as ck;

use super::cache::{Cache, Open};
use super::command::{Columns, IndexColumn, ObjectId, Outcome, Place, Record, Reply, Sealed, Ticket, View};
use super::domain::Circumstances;
use super::key::{Key, Secrets};
use super::managed::attributes::{CKA_KMS_GRANTS, CKA_KMS_POLICY, CKA_KMS_STATE, CKA_KMS_USAGE, KeyState, Usage};
use super::managed::creation;
use super::managed::watched::Watched;
use super::managed::{Action, CKM_KMS_WRAP, Refused, is_managed, lifecycle, requested, states};
use super::mechanism::{self, Row};
use super::member::session_object;
use super::params::{Mechanism, MechanismType, Params};
use super::permit::Recorded;
use super::transient::Transient;
use super::value::{AttributeType, Attributes, Template, Value};
use super::{Access, Function, Hsm, Operation, audit, build, domain, draft, managed, record, separation};
use crate::error::{Error, ErrorKind, Result};
use crate::text::hex;

impl Hsm {
    pub(super) fn create(&self, ticket: &Ticket, template: &Template<'_>, place: Place) -> Result<Reply> {
        let access = self.access(ticket);
        let key = build::create(template, access == Access::So && !self.is_founded())?;
        self.new_record(access, key, place).map(one)
    }

    pub(super) fn generate(
        &self,
        ticket: &Ticket,
        mechanism: &Mechanism<'_>,
        template: &Template<'_>,
        place: Place,
    ) -> Result<Reply> {
        let access = self.access(ticket);
        if requested::is_managed(&[template])? {
            return self.generate_managed(access, mechanism.kind, &[template], (place, place)).map(Reply::Records);
        }
        let key = build::generate(mechanism::row(mechanism.kind)?, mechanism, template)?;
        self.new_record(access, key, place).map(one)
    }

    pub(super) fn generate_pair(
        &self,
        ticket: &Ticket,
        mechanism: &Mechanism<'_>,
        (public, public_place): (&Template<'_>, Place),
        (private, private_place): (&Template<'_>, Place),
    ) -> Result<Reply> {
        let access = self.access(ticket);
        if requested::is_managed(&[public, private])? {
            return self
                .generate_managed(access, mechanism.kind, &[public, private], (public_place, private_place))
                .map(Reply::Records);
        }
        let (public, private) = build::generate_pair(mechanism::row(mechanism.kind)?, mechanism, public, private)?;
        Ok(Reply::Records(vec![
            self.new_record(access, public, public_place)?,
            self.new_record(access, private, private_place)?,
        ]))
    }

    pub(super) fn copy(
        &self,
        ticket: &Ticket,
        source: &Record,
        template: &Template<'_>,
        place: Place,
    ) -> Result<Reply> {
        let access = self.access(ticket);
        self.check_trust(template)?;
        let source = self.open(access, source)?;
        let key = build::copy(&source.key, template, access == Access::So, &self.settings)?;
        self.new_record(access, key, place).map(one)
    }

    pub(super) fn set_attributes(&self, ticket: &Ticket, source: &Record, template: &Template<'_>) -> Result<Reply> {
        let access = self.access(ticket);
        self.check_trust(template)?;
        let open = self.open(access, source)?;
        if is_managed(&open.key.attributes) {
            return self.set_managed_attributes(access, &open, template);
        }
        let key = build::set_attributes(&open.key, template, access == Access::So, &self.settings)?;
        let generation = source.generation.checked_add(1).ok_or(ErrorKind::DeviceError)?;
        let record = self.seal(access, key, source.object, generation)?;
        self.cache_of(source).forget(source.sealed.digest());
        Ok(one(record))
    }

    fn set_managed_attributes(&self, access: Access, open: &Open, template: &Template<'_>) -> Result<Reply> {
        let key = &open.key;
        let change = || {
            self.permit(access, &key.attributes, Action::SetDescription, None).map_err(Refused::into_standard)?;
            let changes = draft::changes(&key.attributes, template, false, false)?;
            let changed = lifecycle::set_attributes(&key.attributes, &changes, self.now());
            let changed = changed.map_err(Refused::into_standard)?;
            self.replacement(open, Key::from_parts((changed, key.secrets.duplicate()?, key.marks)))
        };
        self.recorded(&Recorded::of(audit::Action::UpdateDescription, &key.attributes), change()).map(one)
    }

    pub(super) fn check_destroy(&self, ticket: &Ticket, record: &Record) -> Result<Reply> {
        let access = self.access(ticket);
        let open = self.open(access, record)?;
        if open.key.attributes.flag(ck::CKA_TOKEN) && access == Access::Public {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        if !open.key.attributes.flag(ck::CKA_DESTROYABLE) {
            let refused = Err(ErrorKind::ActionProhibited.with("CKA_DESTROYABLE is false"));
            return self.recorded(&Recorded::of(audit::Action::DeleteKey, &open.key.attributes), refused);
        }
        // It is wiped when the last operation with it ends.
        self.cache_of(record).forget(record.sealed.digest());
        Ok(Reply::Done)
    }

    pub(super) fn view(&self, ticket: &Ticket, record: &Record) -> Result<Reply> {
        let open = match self.access(ticket) {
            // The SO asks who may use a key by the name that people know it by.
            Access::So if record.columns.class == managed::CKO_KMS_ALIAS => self.open_any(Access::So, record)?,
            access => self.open(access, record)?,
        };
        if is_managed(&open.key.attributes)
            && let Some(view) = managed_view(&open.key, self.now()).map_err(Refused::into_standard)?
        {
            return Ok(Reply::View(Arc::new(view)));
        }
        Ok(Reply::View(open.view(view)))
    }

    pub(super) fn reveal(&self, ticket: &Ticket, record: &Record, kind: AttributeType) -> Result<Reply> {
        let open = self.open_with_secrets(self.access(ticket), record)?;
        let secret = open.key.secrets.get(kind).ok_or(ErrorKind::AttributeTypeInvalid)?;
        if !is_revealable(&open.key.attributes) {
            return Err(ErrorKind::AttributeSensitive.into());
        }
        Ok(Reply::Secret(secret.to_vec().into()))
    }

    pub(super) fn index_tag(&self, ticket: &Ticket, column: IndexColumn, value: &[u8]) -> Result<Reply> {
        if self.access(ticket) == Access::Public {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        Ok(Reply::Bytes(self.opened()?.index_key().tag(column, value)?.to_vec()))
    }

    pub(super) fn wrap(
        &self,
        ticket: &Ticket,
        mechanism: &Mechanism<'_>,
        (wrapping, key): (&Record, &Record),
        room: usize,
    ) -> Result<Reply> {
        let access = self.access(ticket);
        if mechanism.kind == CKM_KMS_WRAP {
            return self.wrap_managed(access, mechanism, (wrapping, key), room);
        }
        let row = mechanism::row(mechanism.kind)?;
        let functions = row.wrap.ok_or(ErrorKind::MechanismInvalid)?;
        let wrapping = self.open_with_secrets(access, wrapping)?;
        self.refuse_managed(&wrapping.key, audit::Action::WrapKey)?;
        check_key(row, &wrapping.key, ck::CKA_WRAP, ErrorKind::WrappingKeyTypeInconsistent)?;
        let key = self.open_with_secrets(access, key)?;
        if let Err(refused) = separation::check_wrap(&wrapping.key, &key.key, mechanism, self.settings.key_separation) {
            return self.recorded(&Recorded::of(audit::Action::WrapKey, &key.key.attributes), Err(refused));
        }
        let iv = mechanism::generated_iv(&mechanism.params)?;
        let with_iv = match (&iv, &mechanism.params) {
            (Some(iv), Params::GcmGenerate { aad, tag_bits, .. }) => {
                &Mechanism { kind: mechanism.kind, params: Params::Gcm { iv, aad, tag_bits: *tag_bits } }
            }
            _ => mechanism,
        };
        let wrapped = match mechanism::key_type(key.key.key_type()).and_then(|row| row.to_pkcs8) {
            Some(_) if !functions.private_keys => {
                return Err(ErrorKind::KeyNotWrappable.with("this mechanism wraps secret keys only"));
            }
            Some(encode) => (functions.wrap)(with_iv, &wrapping.key, encode(&key.key)?.expose())?,
            None => (functions.wrap)(with_iv, &wrapping.key, key.key.secret(ck::CKA_VALUE)?)?,
        };
        Ok(if wrapped.len() > room { Reply::Needed(wrapped.len()) } else { Reply::Wrapped { wrapped, iv } })
    }

    pub(super) fn unwrap(
        &self,
        ticket: &Ticket,
        mechanism: &Mechanism<'_>,
        (unwrapping, version): (&Record, Option<&Record>),
        wrapped: &[u8],
        (template, place): (&Template<'_>, Place),
    ) -> Result<Reply> {
        let access = self.access(ticket);
        if mechanism.kind == CKM_KMS_WRAP {
            return self.unwrap_managed(access, mechanism, (unwrapping, version), wrapped, (template, place));
        }
        let row = mechanism::row(mechanism.kind)?;
        let functions = row.wrap.ok_or(ErrorKind::MechanismInvalid)?;
        if row.oracle_prone && !self.settings.allows_oracle(mechanism.kind) {
            return Err(ErrorKind::MechanismInvalid.with("unwrapping with this mechanism is off unless configured"));
        }
        let unwrapping = self.open_with_secrets(access, unwrapping)?;
        self.refuse_managed(&unwrapping.key, audit::Action::UnwrapKey)?;
        check_key(row, &unwrapping.key, ck::CKA_UNWRAP, ErrorKind::UnwrappingKeyTypeInconsistent)?;
        if self.settings.key_separation {
            separation::check_unwrap(&unwrapping.key, mechanism)?;
        }
        let plain = (functions.unwrap)(mechanism, &unwrapping.key, wrapped)?;
        if !functions.private_keys && draft::ulong_in(template, ck::CKA_CLASS)? == Some(ck::CKO_PRIVATE_KEY) {
            return Err(ErrorKind::TemplateInconsistent.with("this mechanism unwraps secret keys only"));
        }
        let key = build::unwrap(plain, &unwrapping.key, template, row.zero_pad, &self.settings)?;
        self.new_record(access, key, place).map(one)
    }

    pub(super) fn derive(
        &self,
        ticket: &Ticket,
        mechanism: &Mechanism<'_>,
        (base, salt_key): (&Record, Option<&Record>),
        template: &Template<'_>,
        (place, additional_places): (Place, &[Place]),
    ) -> Result<Reply> {
        let access = self.access(ticket);
        let row = mechanism::row(mechanism.kind)?;
        let base = self.open(access, base)?;
        let derive = || {
            let action = Action::DeriveSharedSecret;
            self.permit(access, &base.key.attributes, action, None).map_err(Refused::into_standard)?;
            check_secrets(&base)?;
            check_key(row, &base.key, ck::CKA_DERIVE, ErrorKind::KeyTypeInconsistent)?;
            let salt_key = salt_key.map(|record| self.open_with_secrets(access, record)).transpose()?;
            if let Some(salt_key) = &salt_key {
                check_salt_key(row, &salt_key.key)?;
                self.require_no_dual_control(&salt_key.key.attributes)?;
            }
            let peer = match mechanism.params {
                Params::Ecdh1 { public_data, .. } => public_data,
                _ => &[],
            };
            let keys = [(&base.record.object, &base.key.attributes)];
            if let Some(wanted) = self.approval(&keys, "DeriveSharedSecret", peer)? {
                return Ok(Reply::ApprovalWanted(wanted));
            }
            let keys = build::derive(row, mechanism, &base.key, salt_key.as_ref().map(|open| &*open.key), template)?;
            let places =
                std::iter::once(place).chain(additional_places.iter().copied().chain(std::iter::repeat(place)));
            keys.into_iter()
                .zip(places)
                .map(|(key, place)| self.new_record(access, key, place))
                .collect::<Result<_>>()
                .map(Reply::Records)
        };
        self.recorded_reply(&Recorded::of(audit::Action::DeriveSharedSecret, &base.key.attributes), derive())
    }

    /// Begins a streaming operation; `key` is None for a digest.
    pub fn begin(
        &self,
        ticket: &Ticket,
        function: Function,
        mechanism: &Mechanism<'_>,
        key: Option<&Record>,
    ) -> Result<Box<dyn Operation>> {
        if self.core.is_member_of_fleet() && self.client.guest.is_none() {
            return Err(ErrorKind::FunctionRejected.with("an operators' connection uses no keys"));
        }
        let row = mechanism::row(mechanism.kind)?;
        let (begin, usage) = match function {
            Function::Digest => return row.digest.ok_or(ErrorKind::MechanismInvalid)?(mechanism),
            Function::Encrypt => (row.cipher, ck::CKA_ENCRYPT),
            Function::Decrypt => (row.cipher, ck::CKA_DECRYPT),
            Function::Sign => (row.sign, ck::CKA_SIGN),
            Function::Verify => (row.sign, ck::CKA_VERIFY),
            Function::SignRecover => (row.recover, ck::CKA_SIGN_RECOVER),
            Function::VerifyRecover => (row.recover, ck::CKA_VERIFY_RECOVER),
        };
        let begin = begin.ok_or(ErrorKind::MechanismInvalid)?;
        let access = self.access(ticket);
        let open = self.open(access, key.ok_or(ErrorKind::KeyHandleInvalid)?)?;
        let begin = || {
            check_secrets(&open)?;
            check_key(row, &open.key, usage, ErrorKind::KeyTypeInconsistent)?;
            if self.settings.key_separation {
                separation::check_use(&open.key, mechanism.kind)?;
            }
            let operation = begin(mechanism, function, Arc::clone(&open.key))?;
            self.controlled(operation, function, &open.record.object, &open.key.attributes)
        };
        if is_managed(&open.key.attributes) { self.begin_watched(access, function, &open.key, begin) } else { begin() }
    }

    /// Begins an operation with a managed key, if the key permits it.
    fn begin_watched(
        &self,
        access: Access,
        function: Function,
        key: &Arc<Key>,
        begin: impl FnOnce() -> Result<Box<dyn Operation>>,
    ) -> Result<Box<dyn Operation>> {
        let action = action_of(function, key)?;
        let begun = self
            .permit(access, &key.attributes, action, None)
            .map_err(Refused::into_standard)
            .and_then(|()| Ok((begin()?, self.principal()?)));
        match begun {
            Ok((inner, principal)) => {
                let recorder = Arc::clone(&self.client.recorder);
                Ok(Box::new(Watched::new(inner, (function, action.named()), Arc::clone(key), principal, recorder)))
            }
            Err(error) => self.recorded(&Recorded::of(action.named(), &key.attributes), Err(error)),
        }
    }

    /// [`Command::CheckUse`](super::Command::CheckUse). A refusal is recorded.
    pub(super) fn check_use(&self, ticket: &Ticket, key: &Record, function: Function) -> Result<Reply> {
        let access = self.access(ticket);
        let open = self.open(access, key)?;
        let action = action_of(function, &open.key)?;
        match self.permit(access, &open.key.attributes, action, None).map_err(Refused::into_standard) {
            Ok(()) => Ok(Reply::Done),
            Err(error) => self.recorded(&Recorded::of(action.named(), &open.key.attributes), Err(error)),
        }
    }

    /// Begins an operation anew that [`Self::begin`] made. What was checked then of the key and the
    /// mechanism still holds; the login may not.
    pub fn restart(&self, ticket: &Ticket, operation: &mut dyn Operation, params: &Params<'_>) -> Result<bool> {
        if operation.is_private() && self.access(ticket) != Access::User {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        operation.restart(params)
    }

    /// C_DigestKey: feeds the value of a key that could be read anyway.
    pub fn digest_key(&self, ticket: &Ticket, digest: &mut dyn Operation, key: &Record) -> Result<()> {
        let open = self.open_with_secrets(self.access(ticket), key)?;
        let attributes = &open.key.attributes;
        if open.key.class() != ck::CKO_SECRET_KEY || !is_revealable(attributes) {
            return Err(ErrorKind::KeyIndigestible.with("only a secret key whose value may be read is digested"));
        }
        match digest.update(open.key.secret(ck::CKA_VALUE)?, None)? {
            Outcome::Written(_) => Ok(()),
            Outcome::Needed(_) => Err(ErrorKind::GeneralError.into()),
        }
    }

    /// Continues a digest from a saved state.
    pub fn resume(&self, _ticket: &Ticket, state: &[u8]) -> Result<Box<dyn Operation>> {
        mechanism::resume_digest(state)
    }

    /// The standard's mechanisms have no room for what a managed key's use is bound to.
    fn refuse_managed(&self, key: &Key, action: audit::Action) -> Result<()> {
        if !is_managed(&key.attributes) {
            return Ok(());
        }
        let refused = ErrorKind::KeyFunctionNotPermitted.with("a managed key wraps and unwraps with CKM_KMS_WRAP");
        self.recorded(&Recorded::of(action, &key.attributes), Err(refused))
    }

    /// A record's object, from the cache or unsealed, with everything about it checked.
    pub(super) fn open(&self, access: Access, record: &Record) -> Result<Arc<Open>> {
        let open = self.open_any(access, record)?;
        may_see(access, &open.key).map(|()| open)
    }

    /// The same for whoever asks: the caller decides who may see it.
    pub(super) fn open_any(&self, access: Access, record: &Record) -> Result<Arc<Open>> {
        let cache = self.cache_of(record);
        if let Some(open) = cache.get(record.sealed.digest()) {
            if open.record != *record {
                return Err(altered(record));
            }
            // What was read before the login is verified after it.
            if open.verified || access == Access::Public {
                return self.without_login(access, open);
            }
        }
        let epoch = cache.epoch();
        let (mut key, verified) = self.unseal(record)?;
        self.check_row(&key, record)?;
        if verified {
            self.apply_trust(&mut key, &record.object);
        }
        let open = Open::new(key, record.clone(), verified);
        cache.put(Arc::clone(&open), epoch);
        self.without_login(access, open)
    }

    /// What nobody who is not logged in may use of a token object: what is sealed of it. An embedded HSM
    /// has not opened that; an HSM of a fleet has.
    fn without_login(&self, access: Access, open: Arc<Open>) -> Result<Arc<Open>> {
        let key = &open.key;
        if access != Access::Public || !self.core.is_member_of_fleet() || key.secrets.is_empty() {
            return Ok(open);
        }
        if !key.attributes.flag(ck::CKA_TOKEN) || key.attributes.flag(ck::CKA_PRIVATE) {
            return Ok(open);
        }
        Ok(Open::new(Key::new(key.attributes.clone(), Secrets::new()), open.record.clone(), true))
    }

    /// Where a record's object is kept opened.
    pub(super) fn cache_of(&self, record: &Record) -> &Cache {
        if session_object::made(record.sealed.as_bytes()) { &self.client.cache } else { &self.core.cache }
    }

    fn session_cache(&self) -> &Cache {
        if self.client.guest.is_some() { &self.client.cache } else { &self.core.cache }
    }

    /// One under a key that an expelled HSM knew may be its making: it wraps nothing, and is trusted by
    /// nobody.
    fn open_session_object(&self, record: &Record) -> Result<Key> {
        let guest =
            self.client.guest.as_ref().ok_or_else(|| ErrorKind::DeviceError.with("a fleet's session object"))?;
        let opened = self.opened()?;
        let (mut key, sealed_under) = session_object::open(record, guest, &opened, Circumstances::of_system().now)?;
        let suspect = [ck::CKA_WRAP, ck::CKA_UNWRAP];
        let suspect = if self.core.is_exposed(&sealed_under) { &suspect[..] } else { &[] };
        for claimed in [ck::CKA_TRUSTED].iter().chain(suspect) {
            if key.attributes.flag(*claimed) {
                key.attributes.set(*claimed, Value::Bool(false));
            }
        }
        Ok(key)
    }

    /// Like [`Self::open`], for a use of the key: what is sealed must have been opened.
    pub(super) fn open_with_secrets(&self, access: Access, record: &Record) -> Result<Arc<Open>> {
        let open = self.open(access, record)?;
        check_secrets(&open).map(|()| open)
    }

    /// Opens a record with what sealed it, this instance or the domain; reads what is public of it
    /// while the domain is not open. The flag says whether the object was verified.
    pub(super) fn unseal(&self, record: &Record) -> Result<(Key, bool)> {
        if Transient::made(record) {
            return Ok((self.client.transient.open(record)?, true));
        }
        if session_object::made(record.sealed.as_bytes()) {
            return Ok((self.open_session_object(record)?, true));
        }
        let key_id = domain::key_id_of(record.sealed.as_bytes())?;
        match self.opened() {
            Ok(domain) => {
                let now = Circumstances::of_system().now;
                let sealer = domain.sealer_for(&key_id, &record.object, record.generation, now)?;
                Ok((record::open(record, sealer)?, true))
            }
            Err(_) => Ok((record::read_unverified(record)?, false)),
        }
    }

    /// That the row's identity and columns are those of the sealed object.
    pub(super) fn check_row(&self, key: &Key, record: &Record) -> Result<()> {
        let named = unique_id(&key.attributes) == hex(&record.object);
        if named && self.columns(&key.attributes)? == record.columns { Ok(()) } else { Err(altered(record)) }
    }

    /// CKA_TRUSTED of a founded domain is what the operators said of the object, not what its record
    /// says.
    fn apply_trust(&self, key: &mut Key, object: &ObjectId) {
        if key.attributes.contains(ck::CKA_TRUSTED)
            && let Some(trusted) = self.operators_trust(object)
        {
            key.attributes.set(ck::CKA_TRUSTED, Value::Bool(trusted));
        }
    }

    /// Refuses a template that sets CKA_TRUSTED where the operators do.
    fn check_trust(&self, template: &Template<'_>) -> Result<()> {
        if template.get(ck::CKA_TRUSTED).is_some() && self.is_founded() {
            return Err(ErrorKind::AttributeReadOnly.with("CKA_TRUSTED is set by the operators' command \"trust key\""));
        }
        Ok(())
    }

    pub(super) fn new_record(&self, access: Access, mut key: Key, place: Place) -> Result<Record> {
        // The caller's template gave the place; an unwrap or derive template may say otherwise.
        if key.attributes.flag(ck::CKA_TOKEN) != (place == Place::Token) {
            return Err(ErrorKind::TemplateInconsistent.with("CKA_TOKEN contradicts the key's template for new keys"));
        }
        let object = creation::new_object()?;
        key.attributes.set(ck::CKA_UNIQUE_ID, Value::Bytes(hex(&object).into_bytes()));
        self.seal(access, key, object, 1)
    }

    /// Seals an object and keeps it opened, since it is likely to be used next.
    pub(super) fn seal(&self, access: Access, key: Key, object: ObjectId, generation: u64) -> Result<Record> {
        may_see(access, &key)?;
        if key.attributes.flag(ck::CKA_TOKEN) && access == Access::Public {
            return Err(ErrorKind::UserNotLoggedIn.with("token objects are made and changed after login"));
        }
        self.seal_any(key, object, generation)
    }

    /// The same for whoever asks: the caller has decided that they may.
    pub(super) fn seal_any(&self, mut key: Key, object: ObjectId, generation: u64) -> Result<Record> {
        let cache = if key.attributes.flag(ck::CKA_TOKEN) { &self.core.cache } else { self.session_cache() };
        let epoch = cache.epoch();
        self.apply_trust(&mut key, &object);
        let sealed = if key.attributes.flag(ck::CKA_TOKEN) {
            Sealed::new(record::seal(&key, &object, generation, self.opened()?.sealer())?)
        } else if let Some(guest) = &self.client.guest {
            session_object::seal(&key, (&object, generation), guest, &*self.opened()?)?
        } else {
            self.client.transient.seal(&key, &object, generation)?
        };
        let record = Record { object, generation, columns: self.columns(&key.attributes)?, sealed };
        cache.put(Open::new(key, record.clone(), true), epoch);
        Ok(record)
    }

    fn columns(&self, attributes: &Attributes) -> Result<Columns> {
        let private = attributes.flag(ck::CKA_PRIVATE);
        let hidden = private && attributes.flag(ck::CKA_TOKEN);
        let column = |kind, column| -> Result<Option<Vec<u8>>> {
            match attributes.bytes(kind) {
                None => Ok(None),
                Some(value) if hidden => Ok(Some(self.opened()?.index_key().tag(column, value)?.to_vec())),
                Some(value) => Ok(Some(value.to_vec())),
            }
        };
        Ok(Columns {
            class: attributes.ulong(ck::CKA_CLASS).unwrap_or(ck::CK_UNAVAILABLE_INFORMATION),
            key_type: attributes.ulong(ck::CKA_KEY_TYPE).or_else(|| attributes.ulong(ck::CKA_CERTIFICATE_TYPE)),
            private,
            label: column(ck::CKA_LABEL, IndexColumn::Label)?,
            id: column(ck::CKA_ID, IndexColumn::Id)?,
            managed: managed::is_managed(attributes),
            due: managed::due_column(attributes),
            replicating: managed::is_replicating(attributes),
        })
    }
}

/// Private objects are the user's; the SO never sees them.
fn may_see(access: Access, key: &Key) -> Result<()> {
    if key.attributes.flag(ck::CKA_PRIVATE) && access != Access::User {
        return Err(ErrorKind::UserNotLoggedIn.into());
    }
    Ok(())
}

/// What a function of the standard does with a managed key.
fn action_of(function: Function, key: &Key) -> Result<Action> {
    let usage = key.attributes.ulong(CKA_KMS_USAGE).and_then(Usage::from_code);
    usage.and_then(|usage| Action::of(function, usage)).ok_or_else(|| ErrorKind::DeviceError.into())
}

/// That what is sealed of a key was opened.
fn check_secrets(open: &Open) -> Result<()> {
    let needs = matches!(open.key.class(), ck::CKO_SECRET_KEY | ck::CKO_PRIVATE_KEY);
    if needs && open.key.secrets.is_empty() {
        return Err(ErrorKind::UserNotLoggedIn.into());
    }
    Ok(())
}

/// The key's usage, type and allowed mechanisms.
pub(super) fn check_key(row: &Row, key: &Key, usage: AttributeType, wrong_type: ErrorKind) -> Result<()> {
    check_usage(row, key, usage)?;
    if !row.key_types.contains(&key.key_type()) {
        return Err(wrong_type.into());
    }
    Ok(())
}

/// HKDF's extract step is a MAC under the salt: no way around a key's usage. Any secret key will do.
fn check_salt_key(row: &Row, key: &Key) -> Result<()> {
    if key.class() != ck::CKO_SECRET_KEY {
        return Err(ErrorKind::KeyTypeInconsistent.with("the HKDF salt is not a secret key"));
    }
    check_usage(row, key, ck::CKA_DERIVE)
}

fn check_usage(row: &Row, key: &Key, usage: AttributeType) -> Result<()> {
    if !key.attributes.flag(usage) {
        return Err(ErrorKind::KeyFunctionNotPermitted.with(format!("the key's attribute {usage:#x} is false")));
    }
    match key.attributes.get(ck::CKA_ALLOWED_MECHANISMS) {
        Some(Value::Mechanisms(allowed)) if !allows(allowed, row.kind) => {
            Err(ErrorKind::MechanismInvalid.with("CKA_ALLOWED_MECHANISMS does not list the mechanism"))
        }
        _ => Ok(()),
    }
}

/// An empty list allows all (PKCS#11 3.2 §4.8).
fn allows(allowed: &[MechanismType], kind: MechanismType) -> bool {
    allowed.is_empty() || allowed.contains(&kind)
}

fn is_revealable(attributes: &Attributes) -> bool {
    !attributes.flag(ck::CKA_SENSITIVE) && attributes.flag(ck::CKA_EXTRACTABLE)
}

fn view(key: &Key) -> View {
    let revealable = is_revealable(&key.attributes);
    let secrets = match mechanism::key_type(key.key_type()) {
        // Also those that are sealed and not opened yet.
        Some(row) if matches!(key.class(), ck::CKO_SECRET_KEY | ck::CKO_PRIVATE_KEY) => row
            .secrets
            .iter()
            .filter(|kind| key.secrets.is_empty() || key.secrets.get(**kind).is_some())
            .map(|kind| (*kind, revealable))
            .collect(),
        _ => Vec::new(),
    };
    let mut view = View { attributes: key.attributes.clone(), secrets };
    // Who may use a managed key is told by GetKeyPolicy and ListGrants, to those who may ask.
    for kind in [CKA_KMS_POLICY, CKA_KMS_GRANTS] {
        if view.attributes.remove(kind).is_some() {
            view.secrets.push((kind, false));
        }
    }
    view
}

/// What may be read of a managed key where that is not what its record says: its state at the time,
/// and its public key only while the state gives it.
fn managed_view(key: &Key, now: u64) -> std::result::Result<Option<View>, Refused> {
    const PUBLIC_KEY: &[AttributeType] =
        &[ck::CKA_PUBLIC_KEY_INFO, ck::CKA_MODULUS, ck::CKA_PUBLIC_EXPONENT, ck::CKA_EC_POINT];
    let state = states::state_at(&key.attributes, now)?.map_or(0, KeyState::code);
    let withheld = states::check(&key.attributes, Action::GetPublicKey, now).is_err();
    if key.attributes.ulong(CKA_KMS_STATE) == Some(state) && !withheld {
        return Ok(None);
    }
    let mut view = view(key);
    view.attributes.set(CKA_KMS_STATE, Value::Ulong(state));
    if withheld {
        for kind in PUBLIC_KEY {
            if view.attributes.remove(*kind).is_some() {
                view.secrets.push((*kind, false));
            }
        }
    }
    Ok(Some(view))
}

fn unique_id(attributes: &Attributes) -> &str {
    attributes.bytes(ck::CKA_UNIQUE_ID).and_then(|id| std::str::from_utf8(id).ok()).unwrap_or_default()
}

fn altered(record: &Record) -> Error {
    ErrorKind::DeviceError.with(format!("the row of object {} does not fit its sealed record", hex(&record.object)))
}

fn one(record: Record) -> Reply {
    Reply::Records(vec![record])
}
