//! Active operations: what C_EncryptInit and its like begin and C_Encrypt and its like end.

use std::sync::Arc;

use cryptoki_sys as ck;

use super::approvals::{Attempt, Wanted};
use super::login::Credentials;
use super::objects::Object;
use super::session::State;
use super::token::Token;
use super::{Module, ObjectHandle, SessionHandle, managed};
use crate::error::{ErrorKind, Result};
use crate::hsm::{
    Attributes, CKA_KMS_DUAL_CONTROL, CKA_KMS_VALID_TO, CKM_KMS_ENVELOPE, Command, Function, Mechanism, MechanismType,
    Operation, Outcome,
};

/// Whether the PIN has been given for a key with CKA_ALWAYS_AUTHENTICATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Authentication {
    NotNeeded,
    Wanted,
    Given,
}

struct Active {
    operation: Box<dyn Operation>,
    /// None for a restored digest, which the host knows nothing of.
    mechanism: Option<MechanismType>,
    /// None for a digest.
    key: Option<Arc<Object>>,
    /// A part of the input was taken: a one-shot call no longer fits.
    fed: bool,
    authentication: Authentication,
}

impl Active {
    fn of_digest(operation: Box<dyn Operation>, mechanism: Option<MechanismType>, fed: bool) -> Self {
        Self { operation, mechanism, key: None, fed, authentication: Authentication::NotNeeded }
    }

    /// Whether it ends with the login.
    fn is_private(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.record.columns.private)
    }

    /// Whether its use is recorded.
    fn is_managed(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.record.columns.managed)
    }

    /// Whether it was begun with this mechanism and this version of the key.
    fn is_of(&self, mechanism: MechanismType, key: Option<&Arc<Object>>) -> bool {
        self.mechanism == Some(mechanism)
            && match (&self.key, key) {
                (Some(mine), Some(key)) => Arc::ptr_eq(mine, key),
                (mine, key) => mine.is_none() && key.is_none(),
            }
    }

    /// Whether the key, if it is a managed one and was changed since it was looked at last, still permits
    /// the use: it may have been disabled meanwhile. An envelope's operation sees to that itself.
    fn recheck(&mut self, token: &Arc<Token>, login: &Credentials, function: Function) -> Result<()> {
        let Some(key) = self.key.as_ref().filter(|key| key.record.columns.managed) else { return Ok(()) };
        if self.mechanism == Some(CKM_KMS_ENVELOPE) {
            return Ok(());
        }
        let begun = key.view(token, login)?;
        let expires = begun.attributes.ulong(CKA_KMS_VALID_TO).is_some_and(|valid_to| valid_to != 0);
        if key.is_current(token, login.epoch) && !expires {
            return Ok(());
        }
        let now = token.object(login, key.handle)?;
        let check = Command::CheckUse { key: &now.record, function };
        token.audited(true, || token.channel.call(&login.ticket, check))?;
        let control = |attributes: &Attributes| attributes.bytes(CKA_KMS_DUAL_CONTROL).map(<[u8]>::to_vec);
        if control(&begun.attributes) != control(&now.view(token, login)?.attributes) {
            let why = "the operators of the key are others than when the operation began";
            return Err(ErrorKind::KeyFunctionNotPermitted.with(why));
        }
        self.key = Some(now);
        Ok(())
    }

    /// CKR_USER_NOT_LOGGED_IN while the context-specific login is missing.
    fn authorised(&mut self) -> Result<&mut Self> {
        if self.authentication == Authentication::Wanted {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        Ok(self)
    }
}

/// At most one active operation of each kind. One that is over rests until the next of its kind: if
/// that has the same mechanism and key, it needs no look-up, no check of the key and no memory.
#[derive(Default)]
pub(super) struct Operations([Place; 7]);

#[derive(Default)]
struct Place {
    operation: Option<Active>,
    resting: bool,
}

impl Place {
    fn of(operation: Active) -> Self {
        Self { operation: Some(operation), resting: false }
    }

    fn active(&self) -> Option<&Active> {
        self.operation.as_ref().filter(|_| !self.resting)
    }

    fn active_mut(&mut self) -> Option<&mut Active> {
        self.operation.as_mut().filter(|_| !self.resting)
    }

    /// The operation succeeded and is over.
    fn rest(&mut self) {
        let Some(operation) = &mut self.operation else { return };
        if operation.authentication == Authentication::NotNeeded && operation.operation.rest() {
            operation.fed = false;
            self.resting = true;
        } else {
            self.clear();
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

const fn place(function: Function) -> usize {
    match function {
        Function::Encrypt => 0,
        Function::Decrypt => 1,
        Function::Digest => 2,
        Function::Sign => 3,
        Function::SignRecover => 4,
        Function::Verify => 5,
        Function::VerifyRecover => 6,
    }
}

/// The flags of C_SessionCancel, in the order of `place`.
const CANCEL_FLAGS: [ck::CK_FLAGS; 7] = [
    ck::CKF_ENCRYPT,
    ck::CKF_DECRYPT,
    ck::CKF_DIGEST,
    ck::CKF_SIGN,
    ck::CKF_SIGN_RECOVER,
    ck::CKF_VERIFY,
    ck::CKF_VERIFY_RECOVER,
];

impl Operations {
    fn is_active(&self, function: Function) -> bool {
        self.0[place(function)].active().is_some()
    }

    fn is_managed(&self, function: Function) -> bool {
        self.0[place(function)].active().is_some_and(Active::is_managed)
    }

    fn begin(&mut self, function: Function, active: Active) {
        self.0[place(function)] = Place::of(active);
    }

    /// Begins a resting operation anew if it is the one wanted; else it is gone.
    fn restart(
        &mut self,
        function: Function,
        mechanism: &Mechanism<'_>,
        key: Option<&Arc<Object>>,
        restart: impl FnOnce(&mut dyn Operation) -> Result<bool>,
    ) -> Result<bool> {
        let place = &mut self.0[place(function)];
        let Some(operation) = &mut place.operation else { return Ok(false) };
        if operation.is_of(mechanism.kind, key) {
            match restart(&mut *operation.operation) {
                Ok(false) => {}
                Ok(true) => {
                    place.resting = false;
                    return Ok(true);
                }
                Err(error) => {
                    place.clear();
                    return Err(error);
                }
            }
        }
        place.clear();
        Ok(false)
    }

    pub(super) fn cancel(&mut self, function: Function) {
        self.0[place(function)].clear();
    }

    pub(super) fn cancel_private(&mut self) {
        for place in &mut self.0 {
            if place.operation.as_ref().is_some_and(Active::is_private) {
                place.clear();
            }
        }
    }

    pub(super) fn cancel_flagged(&mut self, flags: ck::CK_FLAGS) {
        for (slot, flag) in self.0.iter_mut().zip(CANCEL_FLAGS) {
            if flags & flag != 0 {
                slot.clear();
            }
        }
    }

    fn active(&self) -> impl Iterator<Item = &Active> {
        self.0.iter().filter_map(Place::active)
    }

    pub(super) fn want_authentication(&self) -> bool {
        self.active().any(|active| active.authentication != Authentication::NotNeeded)
    }

    pub(super) fn authenticate(&mut self) {
        for active in self.0.iter_mut().filter_map(Place::active_mut) {
            if active.authentication == Authentication::Wanted {
                active.authentication = Authentication::Given;
            }
        }
    }

    /// The active operation; CKR_OPERATION_NOT_INITIALIZED.
    fn get(&mut self, function: Function) -> Result<&mut Active> {
        self.0[place(function)].active_mut().ok_or_else(|| ErrorKind::OperationNotInitialized.into())
    }

    /// Ends an operation whose key no longer permits it.
    fn recheck(&mut self, token: &Arc<Token>, login: &Credentials, function: Function) -> Result<()> {
        let Some(active) = self.0[place(function)].active_mut() else { return Ok(()) };
        let checked = active.recheck(token, login, function);
        if checked.is_err() {
            self.cancel(function);
        }
        checked
    }

    /// What has to be approved before the operation gives its result: with this input, or with what was
    /// fed. None where the call itself will say what is wrong.
    fn wanted(&mut self, function: Function, input: Option<&[u8]>) -> Result<Option<Box<Wanted>>> {
        let Ok(active) = self.get(function) else { return Ok(None) };
        let Some(key) = &active.key else { return Ok(None) };
        if active.authentication == Authentication::Wanted || (input.is_some() && active.fed) {
            return Ok(None);
        }
        let (key, watched) = (key.record.clone(), active.mechanism != Some(CKM_KMS_ENVELOPE));
        match active.operation.approval(input) {
            Ok(request) => Ok(request.map(|request| Box::new(Wanted { request, key, watched }))),
            Err(error) => {
                self.cancel(function);
                Err(error)
            }
        }
    }

    /// Runs a call that ends the operation unless it answers [`Outcome::Needed`].
    fn end_with(
        &mut self,
        function: Function,
        call: impl FnOnce(&mut dyn Operation) -> Result<Outcome>,
    ) -> Result<Outcome> {
        let outcome = call(&mut *self.get(function)?.authorised()?.operation);
        match outcome {
            Ok(Outcome::Needed(_)) => {}
            Ok(Outcome::Written(_)) => self.0[place(function)].rest(),
            Err(_) => self.cancel(function),
        }
        outcome
    }

    /// As [`Self::end_with`], for a call that takes the whole input. After a part was taken it is
    /// CKR_OPERATION_ACTIVE, and the operation goes on (PKCS#11 3.2 §5.8: C_Encrypt "cannot be used
    /// to terminate a multi-part operation").
    fn end_whole(
        &mut self,
        function: Function,
        call: impl FnOnce(&mut dyn Operation) -> Result<Outcome>,
    ) -> Result<Outcome> {
        if self.get(function)?.fed {
            return Err(ErrorKind::OperationActive.into());
        }
        self.end_with(function, call)
    }

    /// Runs a call that takes a part of the input; only an error ends the operation.
    fn feed_with(
        &mut self,
        function: Function,
        call: impl FnOnce(&mut dyn Operation) -> Result<Outcome>,
    ) -> Result<Outcome> {
        let active = self.get(function)?.authorised()?;
        let outcome = call(&mut *active.operation);
        match outcome {
            Ok(Outcome::Written(_)) => active.fed = true,
            Ok(Outcome::Needed(_)) => {}
            Err(_) => self.cancel(function),
        }
        outcome
    }
}

impl Module {
    /// C_EncryptInit and its like. A NULL mechanism cancels the active operation. `key` is ignored
    /// for a digest.
    pub fn init(
        &self,
        session: SessionHandle,
        function: Function,
        mechanism: Option<&Mechanism<'_>>,
        key: ObjectHandle,
    ) -> Result<()> {
        let session = self.session(session)?;
        let mut state = session.enter()?;
        let state = &mut *state;
        let Some(mechanism) = mechanism else {
            state.operations.cancel(function);
            return Ok(());
        };
        if state.operations.is_active(function) {
            return Err(ErrorKind::OperationActive.into());
        }
        let token = &session.token;
        if mechanism.kind == CKM_KMS_ENVELOPE && function == Function::Encrypt {
            managed::rotate_if_due(token, &self.handles, state, key);
        }
        let ticket = &state.credentials.ticket;
        let key = match function {
            Function::Digest => None,
            _ => Some(state.cache.key(token, &state.credentials, key, ErrorKind::KeyHandleInvalid)?),
        };
        let restart = |operation: &mut dyn Operation| match mechanism.kind {
            CKM_KMS_ENVELOPE => operation.restart(&mechanism.params),
            _ => token.channel.restart(ticket, operation, &mechanism.params),
        };
        if state.operations.restart(function, mechanism, key, restart)? {
            return Ok(());
        }
        let envelope = match key {
            Some(key) => managed::begin_envelope(token, &state.credentials, function, mechanism, key)?,
            None => None,
        };
        let operation = match envelope {
            Some(operation) => operation,
            None => {
                let begin = || token.channel.begin(ticket, function, mechanism, key.map(|key| &key.record));
                token.audited(key.is_some_and(|key| key.record.columns.managed), begin)?
            }
        };
        let active = match key {
            None => Active::of_digest(operation, Some(mechanism.kind), false),
            Some(key) => {
                let authentication = if key.always_authenticate(token, &state.credentials)? {
                    Authentication::Wanted
                } else {
                    Authentication::NotNeeded
                };
                let (mechanism, key) = (Some(mechanism.kind), Some(Arc::clone(key)));
                Active { operation, mechanism, key, fed: false, authentication }
            }
        };
        state.operations.begin(function, active);
        Ok(())
    }

    /// C_Encrypt, C_Decrypt, C_Digest, C_Sign, C_SignRecover, C_VerifyRecover.
    pub fn one_shot(
        &self,
        session: SessionHandle,
        function: Function,
        input: &[u8],
        mut output: Option<&mut [u8]>,
    ) -> Result<Outcome> {
        let with_result = output.is_some();
        self.end_approved(session, function, Some(input), with_result, |token, operations| {
            token.audited_output(operations.is_managed(function), output.as_deref_mut(), |output| {
                operations.end_whole(function, |operation| operation.one_shot(input, output))
            })
        })
    }

    /// C_EncryptUpdate, C_DecryptUpdate; C_DigestUpdate, C_SignUpdate, C_VerifyUpdate (no output).
    pub fn update(
        &self,
        session: SessionHandle,
        function: Function,
        input: &[u8],
        output: Option<&mut [u8]>,
    ) -> Result<Outcome> {
        let session = self.session(session)?;
        let State { operations, credentials, .. } = &mut *session.enter()?;
        operations.recheck(&session.token, credentials, function)?;
        session.token.audited_output(operations.is_managed(function), output, |output| {
            operations.feed_with(function, |operation| operation.update(input, output))
        })
    }

    /// C_EncryptFinal, C_DecryptFinal, C_DigestFinal, C_SignFinal.
    pub fn finish(&self, session: SessionHandle, function: Function, mut output: Option<&mut [u8]>) -> Result<Outcome> {
        self.end_approved(session, function, None, output.is_some(), |token, operations| {
            token.audited_output(operations.is_managed(function), output.as_deref_mut(), |output| {
                operations.end_with(function, |operation| operation.finish(output))
            })
        })
    }

    /// Ends an operation, once its key's operators have approved that. A question for the length is
    /// nothing to approve.
    fn end_approved(
        &self,
        session: SessionHandle,
        function: Function,
        input: Option<&[u8]>,
        with_result: bool,
        mut end: impl FnMut(&Arc<Token>, &mut Operations) -> Result<Outcome>,
    ) -> Result<Outcome> {
        self.approved(session, Some(function), ErrorKind::KeyFunctionNotPermitted, |session, state| {
            let State { operations, credentials, .. } = state;
            operations.recheck(&session.token, credentials, function)?;
            if with_result && let Some(wanted) = operations.wanted(function, input)? {
                return Ok(Attempt::Wanted(wanted));
            }
            end(&session.token, operations).map(Attempt::Done)
        })
    }

    pub fn verify(&self, session: SessionHandle, data: &[u8], signature: &[u8]) -> Result<()> {
        let done = |operation: &mut dyn Operation| {
            operation.verify_one_shot(data, signature)?;
            Ok(Outcome::Written(0))
        };
        let end = |token: &Arc<Token>, operations: &mut Operations| {
            token.audited(operations.is_managed(Function::Verify), || operations.end_whole(Function::Verify, done))
        };
        self.end_approved(session, Function::Verify, Some(data), true, end).map(drop)
    }

    pub fn verify_final(&self, session: SessionHandle, signature: &[u8]) -> Result<()> {
        let done = |operation: &mut dyn Operation| {
            operation.verify(signature)?;
            Ok(Outcome::Written(0))
        };
        let end = |token: &Arc<Token>, operations: &mut Operations| {
            token.audited(operations.is_managed(Function::Verify), || operations.end_with(Function::Verify, done))
        };
        self.end_approved(session, Function::Verify, None, true, end).map(drop)
    }

    pub fn digest_key(&self, session: SessionHandle, key: ObjectHandle) -> Result<()> {
        let session = self.session(session)?;
        let mut state = session.enter()?;
        let state = &mut *state;
        state.operations.get(Function::Digest)?;
        let token = &session.token;
        let credentials = &state.credentials;
        let key = state.cache.key(token, credentials, key, ErrorKind::KeyHandleInvalid)?;
        let feed = |operation: &mut dyn Operation| {
            token.channel.digest_key(&credentials.ticket, operation, &key.record)?;
            Ok(Outcome::Written(0))
        };
        state.operations.feed_with(Function::Digest, feed).map(drop)
    }

    /// C_DigestEncryptUpdate (cipher Encrypt, other Digest), C_DecryptDigestUpdate,
    /// C_SignEncryptUpdate, C_DecryptVerifyUpdate. The digest or signature always takes the
    /// plaintext, and takes it only when the cipher has written.
    pub fn dual_update(
        &self,
        session: SessionHandle,
        cipher: Function,
        other: Function,
        input: &[u8],
        output: Option<&mut [u8]>,
    ) -> Result<Outcome> {
        let session = self.session(session)?;
        let State { operations, credentials, .. } = &mut *session.enter()?;
        operations.get(cipher)?.authorised()?;
        operations.get(other)?.authorised()?;
        let token = &session.token;
        let managed = operations.is_managed(cipher) || operations.is_managed(other);
        let mut both = |mut output: Option<&mut [u8]>| {
            operations.recheck(token, credentials, cipher)?;
            operations.recheck(token, credentials, other)?;
            let outcome = operations.feed_with(cipher, |operation| operation.update(input, output.as_deref_mut()))?;
            let Outcome::Written(written) = outcome else { return Ok(outcome) };
            let plain = match (cipher, &output) {
                (Function::Decrypt, Some(output)) => output.get(..written).unwrap_or_default(),
                (Function::Decrypt, None) => &[],
                _ => input,
            };
            operations.feed_with(other, |operation| operation.update(plain, None))?;
            Ok(outcome)
        };
        let outcome = token.audited_output(managed, output, &mut both);
        if outcome.is_err() {
            operations.cancel(cipher);
            operations.cancel(other);
        }
        outcome
    }

    /// C_GetOperationState: of a digest that is alone in its session. CKR_STATE_UNSAVEABLE.
    pub fn operation_state(&self, session: SessionHandle) -> Result<Vec<u8>> {
        let session = self.session(session)?;
        let mut state = session.enter()?;
        if state.operations.active().count() == 0 {
            return Err(ErrorKind::OperationNotInitialized.into());
        }
        let alone = state.operations.active().count() == 1;
        match state.operations.get(Function::Digest) {
            Ok(active) if alone => {
                let mut saved = vec![u8::from(active.fed)];
                saved.extend_from_slice(&active.operation.save()?);
                Ok(saved)
            }
            _ => Err(ErrorKind::StateUnsaveable.into()),
        }
    }

    /// C_SetOperationState: the saved digest takes the place of whatever is active.
    pub fn set_operation_state(
        &self,
        session: SessionHandle,
        state: &[u8],
        encryption_key: ObjectHandle,
        authentication_key: ObjectHandle,
    ) -> Result<()> {
        let saved = state;
        let session = self.session(session)?;
        let mut state = session.enter()?;
        if encryption_key != ck::CK_INVALID_HANDLE || authentication_key != ck::CK_INVALID_HANDLE {
            return Err(ErrorKind::KeyNotNeeded.into());
        }
        let Some((&fed @ 0..=1, sealed)) = saved.split_first() else {
            return Err(ErrorKind::SavedStateInvalid.into());
        };
        let operation = session.token.channel.resume(&state.credentials.ticket, sealed)?;
        state.cancel_all();
        state.operations.begin(Function::Digest, Active::of_digest(operation, None, fed == 1));
        Ok(())
    }
}
