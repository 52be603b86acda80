//! The commands that encrypt and decrypt in envelopes, and make data keys.

use std::sync::Arc;

use cryptoki_sys as ck;
use zeroize::Zeroizing;

use super::cache::Open;
use super::command::{Envelope, ObjectId, Record, Reply, Ticket};
use super::key::Key;
use super::managed::envelope::{self, Blob, MAX_PLAINTEXT, Material, Name};
use super::managed::spec::Spec;
use super::managed::{
    Action, CKA_KMS_KEY_ID, CKA_KMS_VERSION, CKO_KMS_KEY_VERSION, Context, data_key, is_managed, newest_version,
    version_object,
};
use super::permit::Recorded;
use super::value::Attributes;
use super::{Access, Hsm};
use crate::error::{Error, ErrorKind, Result};

/// A managed key with a context, for one call.
struct With<'a> {
    open: Arc<Open>,
    context: Context<'a>,
}

impl With<'_> {
    fn attributes(&self) -> &Attributes {
        &self.open.key.attributes
    }

    fn id(&self) -> Result<&str> {
        let id = self.attributes().bytes(CKA_KMS_KEY_ID).and_then(|id| std::str::from_utf8(id).ok());
        id.ok_or_else(|| ErrorKind::DeviceError.into())
    }

    fn version(&self) -> Result<u64> {
        self.attributes().ulong(CKA_KMS_VERSION).ok_or_else(|| ErrorKind::DeviceError.into())
    }

    fn name(&self, version: u64) -> Result<Name<'_>> {
        Ok(Name { id: self.id()?, object: &self.open.record.object, version })
    }

    /// The newest material, and what a blob made with it is bound to.
    fn newest(&self) -> Result<(&Material, Name<'_>)> {
        Ok((material(&self.open.key)?, self.name(self.version()?)?))
    }

    fn recorded(&self, action: Action) -> Recorded<'_> {
        Recorded { context: Some(&self.context), ..Recorded::of(action.named(), self.attributes()) }
    }
}

/// A version's material, parsed once.
pub(super) fn material(key: &Key) -> Result<&Material> {
    key.engine(|key| Material::new(key.secret(ck::CKA_VALUE)?))
}

fn invalid() -> Error {
    ErrorKind::KmsInvalidCiphertext.with("the blob was refused")
}

/// A blob that does not open has one error, whatever the reason.
fn refused(error: Error) -> Error {
    if error.kind() == ErrorKind::EncryptedDataInvalid { invalid() } else { error }
}

fn end_of_checks(dry_run: bool) -> Result<()> {
    if dry_run { Err(ErrorKind::KmsDryRun.into()) } else { Ok(()) }
}

impl Hsm {
    pub(super) fn envelope_encrypt(
        &self,
        ticket: &Ticket,
        with: Envelope<'_>,
        plaintext: &[u8],
        dry_run: bool,
    ) -> Result<Reply> {
        let access = self.access(ticket);
        let with = self.with(access, with)?;
        let encrypt = || {
            self.permit_envelope(access, &with, Action::Encrypt)?;
            if plaintext.len() > MAX_PLAINTEXT {
                return Err(ErrorKind::DataLenRange.with("an envelope holds 4096 bytes at most"));
            }
            end_of_checks(dry_run)?;
            if let Some(wanted) = self.approved(&[&with], "Encrypt", plaintext)? {
                return Ok(wanted);
            }
            let (material, name) = with.newest()?;
            material.seal(name, &with.context, plaintext).map(Reply::Bytes)
        };
        self.recorded_reply(&with.recorded(Action::Encrypt), encrypt())
    }

    pub(super) fn envelope_decrypt(
        &self,
        ticket: &Ticket,
        with: Envelope<'_>,
        (version, blob): (Option<&Record>, &[u8]),
        dry_run: bool,
    ) -> Result<Reply> {
        let access = self.access(ticket);
        let with = self.with(access, with)?;
        let decrypt = || {
            self.permit_envelope(access, &with, Action::Decrypt)?;
            let input = blob;
            let (blob, holder) = self.version_of(access, &with, version, blob)?;
            end_of_checks(dry_run)?;
            if let Some(wanted) = self.approved(&[&with], "Decrypt", input)? {
                return Ok(wanted);
            }
            let mut plaintext = Zeroizing::new(vec![0; blob.plaintext_len()]);
            let name = with.name(blob.version)?;
            material(&holder.key)?.open_into(name, &with.context, &blob, &mut plaintext).map_err(refused)?;
            Ok(Reply::Secret(plaintext))
        };
        self.recorded_reply(&with.recorded(Action::Decrypt), decrypt())
    }

    pub(super) fn reencrypt(
        &self,
        ticket: &Ticket,
        (from, version, blob): (Envelope<'_>, Option<&Record>, &[u8]),
        to: Envelope<'_>,
        dry_run: bool,
    ) -> Result<Reply> {
        let access = self.access(ticket);
        let (from, to) = (self.with(access, from)?, self.with(access, to)?);
        let reencrypt = || {
            self.permit_envelope(access, &from, Action::ReEncrypt)?;
            self.permit_envelope(access, &to, Action::ReEncrypt)?;
            let input = blob;
            let (blob, holder) = self.version_of(access, &from, version, blob)?;
            end_of_checks(dry_run)?;
            if let Some(wanted) = self.approved(&[&from, &to], "ReEncrypt", input)? {
                return Ok(wanted);
            }
            let old = (material(&holder.key)?, from.name(blob.version)?, &from.context);
            let (newest, name) = to.newest()?;
            envelope::reencrypt(old, (newest, name, &to.context), &blob).map_err(refused).map(Reply::Bytes)
        };
        let outcome = reencrypt();
        let (from_id, to_id) = (from.id()?, to.id()?);
        let read = Recorded { target: Some(to_id), ..from.recorded(Action::ReEncrypt) };
        let written = Recorded { target: Some(from_id), ..to.recorded(Action::ReEncrypt) };
        let outcome = self.recorded_reply(&read, outcome);
        self.recorded_reply(&written, outcome)
    }

    pub(super) fn generate_data_key(
        &self,
        ticket: &Ticket,
        with: Envelope<'_>,
        len: usize,
        (with_plaintext, dry_run): (bool, bool),
    ) -> Result<Reply> {
        let access = self.access(ticket);
        let with = self.with(access, with)?;
        let action = if with_plaintext { Action::GenerateDataKey } else { Action::GenerateDataKeyWithoutPlaintext };
        let generate = || {
            self.permit_envelope(access, &with, action)?;
            data_key::check_len(len)?;
            end_of_checks(dry_run)?;
            if let Some(wanted) = self.approved(&[&with], "GenerateDataKey", with.context.encoded())? {
                return Ok(wanted);
            }
            let (material, name) = with.newest()?;
            let (plaintext, blob) = data_key::generate(material, name, &with.context, len)?;
            let plaintext = with_plaintext.then(|| plaintext.expose().to_vec().into());
            Ok(Reply::DataKey { plaintext, blob })
        };
        self.recorded_reply(&with.recorded(action), generate())
    }

    pub(super) fn generate_data_key_pair(
        &self,
        ticket: &Ticket,
        with: Envelope<'_>,
        spec: &str,
        (with_plaintext, dry_run): (bool, bool),
    ) -> Result<Reply> {
        let access = self.access(ticket);
        let with = self.with(access, with)?;
        let action =
            if with_plaintext { Action::GenerateDataKeyPair } else { Action::GenerateDataKeyPairWithoutPlaintext };
        let generate = || {
            self.permit_envelope(access, &with, action)?;
            let spec = Spec::named(spec).filter(|spec| !spec.is_symmetric());
            let spec = spec.ok_or_else(|| ErrorKind::ArgumentsBad.with("there are no pairs of this spec"))?;
            end_of_checks(dry_run)?;
            if let Some(wanted) = self.approved(&[&with], "GenerateDataKeyPair", with.context.encoded())? {
                return Ok(wanted);
            }
            let (material, name) = with.newest()?;
            let (pair, blob) = data_key::generate_pair(material, name, &with.context, spec)?;
            let private = with_plaintext.then(|| pair.private.expose().to_vec().into());
            Ok(Reply::DataKeyPair { public: pair.public, private, blob })
        };
        self.recorded_reply(&with.recorded(action), generate())
    }

    fn with<'a>(&self, access: Access, with: Envelope<'a>) -> Result<With<'a>> {
        let open = self.open(access, with.key)?;
        if !is_managed(&open.key.attributes) {
            return Err(ErrorKind::KmsUnsupported.with("the key is not a managed key"));
        }
        Ok(With { open, context: Context::given(with.context)? })
    }

    /// What is to be answered if a key is under dual control and this use was not approved.
    fn approved(&self, keys: &[&With<'_>], action: &str, input: &[u8]) -> Result<Option<Reply>> {
        let keys: Vec<_> = keys.iter().map(|with| (&with.open.record.object, with.attributes())).collect();
        Ok(self.approval(&keys, action, input)?.map(Reply::ApprovalWanted))
    }

    fn permit_envelope(&self, access: Access, with: &With<'_>, action: Action) -> Result<()> {
        self.permit(access, with.attributes(), action, Some(&with.context))?;
        if with.open.key.class() != ck::CKO_SECRET_KEY {
            return Err(ErrorKind::KmsInvalidKeyUsage.with("envelopes are made by symmetric keys"));
        }
        Ok(())
    }

    /// A blob taken apart, and what has the material of the version that made it.
    fn version_of<'b>(
        &self,
        access: Access,
        with: &With<'_>,
        version: Option<&Record>,
        blob: &'b [u8],
    ) -> Result<(Blob<'b>, Arc<Open>)> {
        let blob = Blob::parse(blob).map_err(|_| invalid())?;
        let holder = self.holder_of(access, &with.open, version, (blob.object, blob.version))?;
        Ok((blob, holder))
    }

    /// What has the material of the version that made a message: the key itself, or a record of
    /// another version. KMS_R_INCORRECT_KEY for one of another key.
    pub(super) fn holder_of(
        &self,
        access: Access,
        key: &Arc<Open>,
        version: Option<&Record>,
        (object, number): (ObjectId, u64),
    ) -> Result<Arc<Open>> {
        if object != key.record.object {
            return Err(ErrorKind::KmsIncorrectKey.with("the blob was made with another key"));
        }
        if key.key.attributes.ulong(CKA_KMS_VERSION) == Some(number) {
            return Ok(Arc::clone(key));
        }
        // Another Region may encrypt with a version that is only pending here.
        if number > newest_version(&key.key.attributes) {
            return Err(invalid());
        }
        let record = version.filter(|record| record.object == version_object(&object, number)).ok_or_else(|| {
            ErrorKind::KmsKeyUnavailable.with(format!("version {number} of the key is not in the store"))
        })?;
        let open = self.open(access, record)?;
        let attributes = &open.key.attributes;
        let fits = open.key.class() == CKO_KMS_KEY_VERSION && attributes.ulong(CKA_KMS_VERSION) == Some(number);
        if fits { Ok(open) } else { Err(ErrorKind::DeviceError.with("a record is not that of the version")) }
    }
}
