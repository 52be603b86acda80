//! Envelope encryption and data keys. A use in the steady state touches no database.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::super::approvals::Attempt;
use super::super::objects::Object;
use super::super::{Module, SessionHandle};
use super::resolve::Keys;
use super::unexpected;
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{CKA_KMS_VERSION, Command, Envelope, EnvelopeName, Record, Reply, envelope_name};

/// A data key, in the clear if it was asked for, and in an envelope.
pub struct DataKey {
    pub plaintext: Option<Zeroizing<Vec<u8>>>,
    pub blob: Vec<u8>,
}

/// A data key pair.
pub struct DataKeyPair {
    /// DER SubjectPublicKeyInfo.
    pub public: Vec<u8>,
    /// DER PKCS#8, if it was asked for.
    pub private: Option<Zeroizing<Vec<u8>>>,
    /// The private key in an envelope.
    pub blob: Vec<u8>,
}

impl Module {
    /// An envelope with at most 4096 bytes. `context` is a JSON object of strings, or nothing.
    pub fn kms_encrypt(
        &self,
        session: SessionHandle,
        key: &str,
        context: &[u8],
        plaintext: &[u8],
        dry_run: bool,
    ) -> Result<Vec<u8>> {
        self.using_keys(session, |keys| {
            let key = keys.encrypting(key)?;
            let with = Envelope { key: &key.record, context };
            match keys.token.ask(keys.login, Command::EnvelopeEncrypt { with, plaintext, dry_run })? {
                Reply::Bytes(blob) => Ok(Attempt::Done(blob)),
                reply => wanted(reply, &[&key.record]),
            }
        })
    }

    /// What is in an envelope. Without `key` its own name says which; with one, another key's is
    /// KMS_R_INCORRECT_KEY.
    pub fn kms_decrypt(
        &self,
        session: SessionHandle,
        key: Option<&str>,
        context: &[u8],
        blob: &[u8],
        dry_run: bool,
    ) -> Result<Zeroizing<Vec<u8>>> {
        self.using_keys(session, |keys| {
            keys.as_it_is_now(|keys| {
                let key = match key {
                    Some(name) => keys.named(name)?,
                    None => keys.of_blob(blob)?,
                };
                let done = keys.decrypt(&key, context, blob, dry_run);
                Ok((key, done))
            })
        })
    }

    /// An envelope under another key or context, or the newest version; the plaintext stays inside.
    pub fn kms_reencrypt(
        &self,
        session: SessionHandle,
        source_context: &[u8],
        blob: &[u8],
        key: &str,
        context: &[u8],
        dry_run: bool,
    ) -> Result<Vec<u8>> {
        self.using_keys(session, |keys| {
            let to = keys.encrypting(key)?;
            keys.as_it_is_now(|keys| {
                let source = keys.of_blob(blob)?;
                let done = keys.reencrypt((&source, source_context), blob, (&to, context), dry_run);
                Ok((source, done))
            })
        })
    }

    /// A data key of `len` bytes, from 1 to 1024.
    pub fn generate_data_key(
        &self,
        session: SessionHandle,
        key: &str,
        len: usize,
        context: &[u8],
        with_plaintext: bool,
        dry_run: bool,
    ) -> Result<DataKey> {
        self.using_keys(session, |keys| {
            let key = keys.encrypting(key)?;
            let with = Envelope { key: &key.record, context };
            let command = Command::GenerateDataKey { with, len, with_plaintext, dry_run };
            match keys.token.ask(keys.login, command)? {
                Reply::DataKey { plaintext, blob } => Ok(Attempt::Done(DataKey { plaintext, blob })),
                reply => wanted(reply, &[&key.record]),
            }
        })
    }

    /// A data key pair of a spec of the model system's names.
    pub fn generate_data_key_pair(
        &self,
        session: SessionHandle,
        key: &str,
        spec: &str,
        context: &[u8],
        with_plaintext: bool,
        dry_run: bool,
    ) -> Result<DataKeyPair> {
        self.using_keys(session, |keys| {
            let key = keys.encrypting(key)?;
            let with = Envelope { key: &key.record, context };
            let command = Command::GenerateDataKeyPair { with, spec, with_plaintext, dry_run };
            match keys.token.ask(keys.login, command)? {
                Reply::DataKeyPair { public, private, blob } => {
                    Ok(Attempt::Done(DataKeyPair { public, private, blob }))
                }
                reply => wanted(reply, &[&key.record]),
            }
        })
    }

    /// Runs a call that uses managed keys. CKR_USER_NOT_LOGGED_IN.
    pub(super) fn with_keys<T>(
        &self,
        session: SessionHandle,
        call: impl FnOnce(&mut Keys<'_>) -> Result<T>,
    ) -> Result<T> {
        let session = self.session(session)?;
        let mut state = session.enter()?;
        state.credentials.require_user()?;
        call(&mut Keys::of(&session.token, &self.handles, &mut state))
    }

    /// The same for a call that keys under dual control may want an approval of.
    fn using_keys<T>(
        &self,
        session: SessionHandle,
        mut call: impl FnMut(&mut Keys<'_>) -> Result<Attempt<T>>,
    ) -> Result<T> {
        self.approved(session, None, ErrorKind::KmsAccessDenied, |session, state| {
            state.credentials.require_user()?;
            call(&mut Keys::of(&session.token, &self.handles, state))
        })
    }
}

/// What is wanted of one of the keys in place of the command's answer.
fn wanted<T>(reply: Reply, keys: &[&Record]) -> Result<Attempt<T>> {
    let Reply::ApprovalWanted(request) = reply else { return Err(unexpected()) };
    let key = keys.iter().find(|key| key.object == request.object).ok_or_else(unexpected)?;
    Ok(Attempt::wanted(request, key))
}

/// What a version that is looked for in the wrong place comes to.
pub(super) fn is_lack(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::KmsKeyUnavailable | ErrorKind::KmsInvalidCiphertext)
}

impl Keys<'_> {
    /// The key that a name stands for, after a rotation that is due.
    fn encrypting(&mut self, name: &str) -> Result<Arc<Object>> {
        let key = self.named(name)?;
        self.rotated(key)
    }

    /// The key that an envelope names. KMS_R_INVALID_CIPHERTEXT for what is no envelope.
    fn of_blob(&mut self, blob: &[u8]) -> Result<Arc<Object>> {
        let name = envelope_name(blob).map_err(|_| ErrorKind::KmsInvalidCiphertext)?;
        self.of_object(&name.object)
    }

    /// Does something with a key, and once more if it failed for the lack of a version while another
    /// process changed the key: a version that comes into force, or goes out of it, changes its place.
    fn as_it_is_now<T>(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<(Arc<Object>, Result<Attempt<T>>)>,
    ) -> Result<Attempt<T>> {
        let (key, done) = work(self)?;
        match done {
            Err(error) if is_lack(&error) && !key.is_current(self.token, self.login.epoch) => work(self)?.1,
            done => done,
        }
    }

    /// The record of the version that an envelope was made with, unless that is the active one. What is
    /// wrong with the envelope itself is for the HSM to say.
    pub(super) fn version_of(&mut self, key: &Object, blob: &[u8]) -> Result<Option<&Record>> {
        match envelope_name(blob) {
            Ok(name) => self.other(key, name),
            Err(_) => Ok(None),
        }
    }

    /// The record of a version of the key that is not the active one: an older one, or one that is here
    /// and comes into force when all Regions have it.
    pub(super) fn other(&mut self, key: &Object, name: EnvelopeName) -> Result<Option<&Record>> {
        let EnvelopeName { object, version } = name;
        let active = key.view(self.token, self.login)?.attributes.ulong(CKA_KMS_VERSION).unwrap_or(1);
        if object != key.record.object || version == active {
            return Ok(None);
        }
        match self.version(&object, version) {
            // A version that nobody made: the HSM says so.
            Err(error) if version > active && error.kind() == ErrorKind::KmsKeyUnavailable => Ok(None),
            found => found.map(Some),
        }
    }

    fn reencrypt(
        &mut self,
        (from, source_context): (&Object, &[u8]),
        blob: &[u8],
        (to, context): (&Object, &[u8]),
        dry_run: bool,
    ) -> Result<Attempt<Vec<u8>>> {
        let (token, login) = (self.token, self.login);
        let version = self.version_of(from, blob)?;
        let command = Command::ReEncrypt {
            from: Envelope { key: &from.record, context: source_context },
            version,
            blob,
            to: Envelope { key: &to.record, context },
            dry_run,
        };
        match token.ask(login, command)? {
            Reply::Bytes(blob) => Ok(Attempt::Done(blob)),
            reply => wanted(reply, &[&from.record, &to.record]),
        }
    }

    pub(super) fn decrypt(
        &mut self,
        key: &Object,
        context: &[u8],
        blob: &[u8],
        dry_run: bool,
    ) -> Result<Attempt<Zeroizing<Vec<u8>>>> {
        let (token, login) = (self.token, self.login);
        let version = self.version_of(key, blob)?;
        let with = Envelope { key: &key.record, context };
        match token.ask(login, Command::EnvelopeDecrypt { with, version, blob, dry_run })? {
            Reply::Secret(plaintext) => Ok(Attempt::Done(plaintext)),
            reply => wanted(reply, &[&key.record]),
        }
    }
}
