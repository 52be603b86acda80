//! CKM_KMS_ENVELOPE through C_EncryptInit, C_Encrypt, C_DecryptInit and C_Decrypt.
//!
//! An envelope may need the record of an older version, which only the host can fetch, so the
//! operation is one of the host's.

use std::sync::Arc;

use cryptoki_sys as ck;
use zeroize::Zeroizing;

use super::super::ObjectHandle;
use super::super::handle::Handles;
use super::super::login::Credentials;
use super::super::objects::Object;
use super::super::session::State;
use super::super::token::Token;
use super::envelope::is_lack;
use super::resolve::Keys;
use super::{now, unexpected};
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{
    ApprovalRequest, CKA_KMS_DELETION_DATE, CKA_KMS_DUAL_CONTROL, CKA_KMS_MANAGED, CKA_KMS_STATE, CKA_KMS_VALID_TO,
    CKA_KMS_VERSION, CKM_KMS_ENVELOPE, Command, Envelope, EnvelopeName, Function, Mechanism, Operation, Outcome,
    Params, Record, Reply, Value, View, check_context, decrypted_len, encrypted_len, envelope_name, state_name,
    version_object, wrapped_key_name,
};

/// The record of the version of a key that wrapped another with CKM_KMS_WRAP, unless that is the
/// active one. What is wrong with the wrapped key is for the HSM to say.
pub(in crate::cryptoki) fn wrapping_version(
    token: &Arc<Token>,
    handles: &Handles,
    state: &mut State,
    key: &Object,
    wrapped: &[u8],
) -> Result<Option<Record>> {
    let Ok(name) = wrapped_key_name(wrapped) else { return Ok(None) };
    let mut keys = Keys::of(token, handles, state);
    keys.other(key, name).map(|record| record.cloned()).map_err(Error::into_standard)
}

/// Before CKM_KMS_ENVELOPE encrypts or CKM_KMS_WRAP wraps: rotates a key whose period is over. What is
/// wrong with the key comes out when it is used.
pub(in crate::cryptoki) fn rotate_if_due(token: &Arc<Token>, handles: &Handles, state: &mut State, key: ObjectHandle) {
    let mut keys = Keys::of(token, handles, state);
    if let Ok(key) = keys.cache.get(token, keys.login, key).cloned() {
        let _ = keys.rotated(key);
    }
}

/// The envelope operation of a mechanism; None for any other mechanism.
pub(in crate::cryptoki) fn begin(
    token: &Arc<Token>,
    login: &Credentials,
    function: Function,
    mechanism: &Mechanism<'_>,
    key: &Arc<Object>,
) -> Result<Option<Box<dyn Operation>>> {
    if mechanism.kind != CKM_KMS_ENVELOPE {
        return Ok(None);
    }
    let context = context_of(&mechanism.params)?.to_vec();
    check_context(&context)
        .map_err(|error| ErrorKind::MechanismParamInvalid.with(error.detail().unwrap_or_default().to_owned()))?;
    let encrypts = match function {
        Function::Encrypt => true,
        Function::Decrypt => false,
        _ => return Err(ErrorKind::MechanismInvalid.into()),
    };
    let (token, login, key) = (token.clone(), login.clone(), key.clone());
    let operation = EnvelopeOperation { token, login, encrypts, key, context };
    operation.check()?;
    Ok(Some(Box::new(operation)))
}

fn context_of<'a>(params: &Params<'a>) -> Result<&'a [u8]> {
    match params {
        Params::None => Ok(&[]),
        Params::Context(context) => Ok(context),
        _ => Err(ErrorKind::MechanismParamInvalid.into()),
    }
}

/// In place of an answer: another call took the approval that was there.
fn refused(reply: Reply) -> Error {
    match reply {
        Reply::ApprovalWanted(_) => {
            ErrorKind::KmsAccessDenied.with("the key is under dual control: no approval is left")
        }
        _ => unexpected(),
    }
}

/// Knows single parts only: an envelope is small.
struct EnvelopeOperation {
    token: Arc<Token>,
    login: Credentials,
    encrypts: bool,
    key: Arc<Object>,
    context: Vec<u8>,
}

impl EnvelopeOperation {
    /// What C_EncryptInit and C_DecryptInit say of the key. Where its state may forbid the use, the
    /// HSM is asked at once; else it decides when the data comes.
    fn check(&self) -> Result<()> {
        let attributes = &self.key.view(&self.token, &self.login)?.attributes;
        if !attributes.flag(CKA_KMS_MANAGED) || self.key.record.columns.class != ck::CKO_SECRET_KEY {
            return Err(ErrorKind::KeyTypeInconsistent.with("CKM_KMS_ENVELOPE is for symmetric managed keys"));
        }
        let flag = if self.encrypts { ck::CKA_ENCRYPT } else { ck::CKA_DECRYPT };
        let allowed = match attributes.get(ck::CKA_ALLOWED_MECHANISMS) {
            Some(Value::Mechanisms(allowed)) => allowed.is_empty() || allowed.contains(&CKM_KMS_ENVELOPE),
            _ => true,
        };
        if !attributes.flag(flag) || !allowed {
            return Err(ErrorKind::KeyFunctionNotPermitted.with("the key is not for envelopes"));
        }
        let (now, date) = (now(), |kind| attributes.ulong(kind).filter(|date| *date != 0));
        let usable = attributes.ulong(CKA_KMS_STATE).and_then(state_name) == Some("Enabled")
            && date(CKA_KMS_DELETION_DATE).is_none()
            && date(CKA_KMS_VALID_TO).is_none_or(|valid_to| now < valid_to);
        if usable { Ok(()) } else { self.ask_state() }
    }

    /// A use without data, which a key that may be used answers with what is missing.
    fn ask_state(&self) -> Result<()> {
        let with = Envelope { key: &self.key.record, context: &self.context };
        let ask = |command| self.token.audited(true, || self.token.channel.call(&self.login.ticket, command));
        let asked = if self.encrypts {
            ask(Command::EnvelopeEncrypt { with, plaintext: &[], dry_run: true })
        } else {
            ask(Command::EnvelopeDecrypt { with, version: None, blob: &[], dry_run: true })
        };
        match asked {
            Err(error) if matches!(error.kind(), ErrorKind::KmsDryRun | ErrorKind::KmsInvalidCiphertext) => Ok(()),
            asked => asked.map(drop).map_err(Error::into_standard),
        }
    }

    /// The key as it is now: it may have been changed since the beginning.
    fn refresh(&mut self) -> Result<()> {
        if !self.key.is_current(&self.token, self.login.epoch) {
            self.key = self.token.object(&self.login, self.key.handle)?;
        }
        Ok(())
    }

    fn view(&self) -> Result<&View> {
        self.key.view(&self.token, &self.login).map(|view| &**view)
    }

    fn active(&self) -> Result<u64> {
        Ok(self.view()?.attributes.ulong(CKA_KMS_VERSION).unwrap_or(1))
    }

    fn encrypt(&self, plaintext: &[u8]) -> Result<Vec<u8>> {
        let with = Envelope { key: &self.key.record, context: &self.context };
        match self
            .token
            .channel
            .call(&self.login.ticket, Command::EnvelopeEncrypt { with, plaintext, dry_run: false })?
        {
            Reply::Bytes(blob) => Ok(blob),
            reply => Err(refused(reply)),
        }
    }

    fn decrypt(&self, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let version = match envelope_name(blob) {
            Ok(EnvelopeName { object, version }) if object == self.key.record.object && version != self.active()? => {
                self.token.store.get(&version_object(&object, version))?
            }
            _ => None,
        };
        let with = Envelope { key: &self.key.record, context: &self.context };
        let version: Option<&Record> = version.as_ref();
        match self
            .token
            .channel
            .call(&self.login.ticket, Command::EnvelopeDecrypt { with, version, blob, dry_run: false })?
        {
            Reply::Secret(plaintext) => Ok(plaintext),
            reply => Err(refused(reply)),
        }
    }

    fn whole(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        self.refresh()?;
        let len = if self.encrypts { encrypted_len(self.active()?, input.len())? } else { decrypted_len(input)? };
        let Some(output) = output.and_then(|output| output.get_mut(..len)) else { return Ok(Outcome::Needed(len)) };
        let written = if self.encrypts {
            self.encrypt(input)?.into()
        } else {
            match self.decrypt(input) {
                // Another process brought a version into force between two looks at the store.
                Err(error) if is_lack(&error) && !self.key.is_current(&self.token, self.login.epoch) => {
                    self.refresh()?;
                    self.decrypt(input)?
                }
                decrypted => decrypted?,
            }
        };
        if written.len() != len {
            return Err(unexpected());
        }
        output.copy_from_slice(&written);
        Ok(Outcome::Written(len))
    }
}

impl Operation for EnvelopeOperation {
    fn update(&mut self, _input: &[u8], _output: Option<&mut [u8]>) -> Result<Outcome> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    fn finish(&mut self, _output: Option<&mut [u8]>) -> Result<Outcome> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        self.whole(input, output).map_err(Error::into_standard)
    }

    fn approval(&mut self, input: Option<&[u8]>) -> Result<Option<ApprovalRequest>> {
        self.refresh()?;
        let Some(input) =
            input.filter(|_| self.view().is_ok_and(|view| view.attributes.contains(CKA_KMS_DUAL_CONTROL)))
        else {
            return Ok(None);
        };
        let action = if self.encrypts { "Encrypt" } else { "Decrypt" };
        let command = Command::FindApproval { key: &self.key.record, action, input };
        match self.token.channel.call(&self.login.ticket, command)? {
            Reply::Done => Ok(None),
            Reply::ApprovalWanted(request) => Ok(Some(request)),
            _ => Err(unexpected()),
        }
    }

    fn rest(&mut self) -> bool {
        true
    }

    fn restart(&mut self, params: &Params<'_>) -> Result<bool> {
        let context = context_of(params)?;
        self.context.clear();
        self.context.extend_from_slice(context);
        self.check()?;
        Ok(true)
    }
}
