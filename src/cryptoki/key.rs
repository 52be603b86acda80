//! Key management (PKCS#11 3.2 §5.18) and random numbers (§5.19).

use super::approvals::Attempt;
use super::login::Credentials;
use super::object::records;
use super::objects::Object;
use super::session::{Session, State};
use super::token::Token;
use super::{Module, ObjectHandle, SessionHandle, managed};
use crate::error::{ErrorKind, Result};
use crate::hsm::{CKM_KMS_WRAP, Command, HkdfSalt, Mechanism, Params, Place, Reply, Template, wants_managed};

/// What [`Module::wrap_key`] gives.
#[derive(Debug)]
pub enum Wrapped {
    Made {
        wrapped: Vec<u8>,
        /// The IV, where the mechanism's parameter asked for one.
        iv: Option<Vec<u8>>,
    },
    /// There is not enough room for so many bytes.
    Needed(usize),
}

impl Module {
    pub fn generate_key(
        &self,
        session: SessionHandle,
        mechanism: &Mechanism<'_>,
        template: &Template<'_>,
    ) -> Result<ObjectHandle> {
        let session = self.session(session)?;
        let mut state = session.enter()?;
        let place = session.place(template, Place::Session)?;
        let generate = Command::GenerateKey { mechanism, template, place };
        let call = || session.token.channel.call(&state.credentials.ticket, generate);
        let made = records(session.token.audited(wants_managed(template), call)?)?;
        self.admit_one(&session, &mut state, made, place)
    }

    /// Public handle, private handle. Both halves are committed or none.
    pub fn generate_key_pair(
        &self,
        session: SessionHandle,
        mechanism: &Mechanism<'_>,
        public: &Template<'_>,
        private: &Template<'_>,
    ) -> Result<(ObjectHandle, ObjectHandle)> {
        let session = self.session(session)?;
        let mut state = session.enter()?;
        let public_place = session.place(public, Place::Session)?;
        let private_place = session.place(private, Place::Session)?;
        let generate = Command::GenerateKeyPair { mechanism, public, public_place, private, private_place };
        let managed = wants_managed(public) || wants_managed(private);
        let call = || session.token.channel.call(&state.credentials.ticket, generate);
        let made = records(session.token.audited(managed, call)?)?;
        match self.admit(&session, &mut state, made, &[public_place, private_place])?[..] {
            [public, private] => Ok((public, private)),
            _ => Err(ErrorKind::GeneralError.into()),
        }
    }

    /// The wrapped key, if it has `room` bytes at most.
    pub fn wrap_key(
        &self,
        session: SessionHandle,
        mechanism: &Mechanism<'_>,
        wrapping: ObjectHandle,
        key: ObjectHandle,
        room: usize,
    ) -> Result<Wrapped> {
        let session = self.session(session)?;
        let mut guard = session.enter()?;
        let state = &mut *guard;
        if mechanism.kind == CKM_KMS_WRAP {
            managed::rotate_if_due(&session.token, &self.handles, state, wrapping);
        }
        let token = &*session.token;
        // Two places of the cache may be one, so the first is held by its own reference.
        let wrapping =
            state.cache.key(token, &state.credentials, wrapping, ErrorKind::WrappingKeyHandleInvalid)?.clone();
        let key = state.cache.key(token, &state.credentials, key, ErrorKind::KeyHandleInvalid)?;
        let wrap = Command::Wrap { mechanism, wrapping: &wrapping.record, key: &key.record, room };
        let managed = wrapping.record.columns.managed || key.record.columns.managed;
        let call = || token.channel.call(&state.credentials.ticket, wrap);
        match session.token.audited(managed, call)? {
            Reply::Wrapped { wrapped, iv } => Ok(Wrapped::Made { wrapped, iv }),
            Reply::Needed(len) => Ok(Wrapped::Needed(len)),
            _ => Err(ErrorKind::GeneralError.with("the HSM answered a wrap with something else")),
        }
    }

    pub fn unwrap_key(
        &self,
        session: SessionHandle,
        mechanism: &Mechanism<'_>,
        unwrapping: ObjectHandle,
        wrapped: &[u8],
        template: &Template<'_>,
    ) -> Result<ObjectHandle> {
        let session = self.session(session)?;
        let mut guard = session.enter()?;
        let state = &mut *guard;
        let token = &*session.token;
        let place = session.place(template, Place::Session)?;
        let unwrapping =
            state.cache.key(token, &state.credentials, unwrapping, ErrorKind::UnwrappingKeyHandleInvalid)?.clone();
        refuse_unauthenticated(&unwrapping, token, &state.credentials)?;
        let version = match mechanism.kind {
            CKM_KMS_WRAP => managed::wrapping_version(&session.token, &self.handles, state, &unwrapping, wrapped)?,
            _ => None,
        };
        let unwrap = Command::Unwrap {
            mechanism,
            unwrapping: &unwrapping.record,
            version: version.as_ref(),
            wrapped,
            template,
            place,
        };
        let call = || token.channel.call(&state.credentials.ticket, unwrap);
        let made = records(session.token.audited(unwrapping.record.columns.managed, call)?)?;
        self.admit_one(&session, state, made, place)
    }

    /// The derived key, then the additional keys of SP 800-108; all are committed or none.
    pub fn derive_key(
        &self,
        session: SessionHandle,
        mechanism: &Mechanism<'_>,
        base: ObjectHandle,
        template: &Template<'_>,
    ) -> Result<Vec<ObjectHandle>> {
        self.approved(session, None, ErrorKind::KeyFunctionNotPermitted, |session, state| {
            self.derive_in(session, state, mechanism, base, template)
        })
    }

    fn derive_in(
        &self,
        session: &Session,
        state: &mut State,
        mechanism: &Mechanism<'_>,
        base: ObjectHandle,
        template: &Template<'_>,
    ) -> Result<Attempt<Vec<ObjectHandle>>> {
        let token = &*session.token;
        let additional: &[Template<'_>] = match &mechanism.params {
            Params::Sp800108 { additional, .. } => additional,
            _ => &[],
        };
        let mut places = vec![session.place(template, Place::Session)?];
        for template in additional {
            places.push(session.place(template, Place::Session)?);
        }
        let salt_key = match mechanism.params {
            Params::Hkdf { salt: HkdfSalt::Key(salt), .. } => {
                Some(state.cache.key(token, &state.credentials, salt, ErrorKind::KeyHandleInvalid)?.clone())
            }
            _ => None,
        };
        let base = state.cache.key(token, &state.credentials, base, ErrorKind::KeyHandleInvalid)?;
        refuse_unauthenticated(base, token, &state.credentials)?;
        let derive = Command::Derive {
            mechanism,
            base: &base.record,
            salt_key: salt_key.as_ref().map(|key| &key.record),
            template,
            place: places[0],
            additional_places: &places[1..],
        };
        let managed = base.record.columns.managed || salt_key.as_ref().is_some_and(|key| key.record.columns.managed);
        let call = || token.channel.call(&state.credentials.ticket, derive);
        let made = match session.token.audited(managed, call)? {
            Reply::ApprovalWanted(request) => return Ok(Attempt::wanted(request, &base.record)),
            reply => records(reply)?,
        };
        self.admit(session, state, made, &places).map(Attempt::Done)
    }

    /// CKR_RANDOM_SEED_NOT_SUPPORTED: the generator is the operating system's, and needs none.
    pub fn seed_random(&self, session: SessionHandle, _seed: &[u8]) -> Result<()> {
        drop(self.session(session)?.enter()?);
        Err(ErrorKind::RandomSeedNotSupported.into())
    }

    pub fn generate_random(&self, session: SessionHandle, output: &mut [u8]) -> Result<()> {
        let session = self.session(session)?;
        let state = session.enter()?;
        session.token.channel.call(&state.credentials.ticket, Command::Random { output }).map(drop)
    }
}

/// A key with CKA_ALWAYS_AUTHENTICATE needs a PIN between the beginning of an operation and its
/// use. A call that does both at once leaves no room for it.
fn refuse_unauthenticated(key: &Object, token: &Token, login: &Credentials) -> Result<()> {
    if key.always_authenticate(token, login)? {
        return Err(ErrorKind::UserNotLoggedIn.with("the key wants a PIN for each use"));
    }
    Ok(())
}
