//! Envelope encryption: small plaintexts under a managed key, in blobs that name the key and its
//! version and open under nothing else (`docs/protocols.md`, "Envelopes"); and keys wrapped in the
//! same way ("Wrapped keys").
//!
//! Each blob has a key of its own, derived from the managed key's material and a random salt, so
//! that no number of blobs wears the material out, and a commitment to that key, so that a blob
//! cannot be made to open under two.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::super::command::ObjectId;
use super::super::crypto::SecretBytes;
use super::super::crypto::aws_lc::digest::{Hash, MAX_DIGEST};
use super::super::crypto::aws_lc::gcm::{GcmKey, TAG};
use super::super::crypto::aws_lc::hmac::HmacKey;
use super::super::domain::cbor::{Cursor, Decoded, Decoder, Encoder, Malformed, Map, Sink};
use super::super::random;
use super::context::Context;
use crate::error::{Error, ErrorKind, Result};

/// The longest plaintext, in bytes.
pub(in crate::hsm) const MAX_PLAINTEXT: usize = 4096;

/// Length of a version's material, in bytes.
pub(in crate::hsm) const MATERIAL: usize = 32;

/// The longest content of a wrapped key, in bytes.
pub(in crate::hsm) const MAX_WRAPPED: usize = 64 << 10;

/// A kind of message under a managed key. No message of one kind opens as one of another: they
/// differ in what their keys are derived with.
#[derive(Debug)]
struct Form {
    content_type: &'static str,
    label: &'static [u8],
    /// The longest plaintext, in bytes.
    max: usize,
    too_long: &'static str,
    /// Whether bytes of the caller's are authenticated with it.
    associated: bool,
}

static ENVELOPE: Form = Form {
    content_type: "application/vnd.conclave.envelope",
    label: b"conclave/1 envelope",
    max: MAX_PLAINTEXT,
    too_long: "an envelope holds 4096 bytes at most",
    associated: false,
};

static WRAPPED_KEY: Form = Form {
    content_type: "application/vnd.conclave.wrapped-key",
    label: b"conclave/1 wrapped key",
    max: MAX_WRAPPED,
    too_long: "a key with its attributes has 65536 bytes at most",
    associated: true,
};

/// Room for the longest label.
const LABEL_ROOM: usize = 24;

const COSE_ENCRYPT0: u64 = coset::iana::CborTag::CoseEncrypt0 as u64;
const A256GCM: i64 = coset::iana::Algorithm::A256GCM as i64;
/// The labels of the header, in the order of their encodings.
const ALG: i64 = coset::iana::HeaderParameter::Alg as i64;
const CONTENT_TYPE: i64 = coset::iana::HeaderParameter::ContentType as i64;
const KID: i64 = coset::iana::HeaderParameter::Kid as i64;
const SALT: i64 = coset::iana::HeaderAlgorithmParameter::Salt as i64;
/// Private use (RFC 9052 §11.1), as in sealed records.
const COMMITMENT: i64 = -65537;
/// Private use: the version of the key.
const VERSION: i64 = -65539;

const SALT_LEN: usize = 32;
const KEY_LEN: usize = 32;
const IV_LEN: usize = 12;
const COMMITMENT_LEN: usize = 32;

/// Contexts of usual length are authenticated from the stack.
const STACK: usize = 768;

/// What a blob is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) struct Name<'a> {
    /// CKA_KMS_KEY_ID.
    pub(in crate::hsm) id: &'a str,
    /// Of the key's own record, whatever the version.
    pub(in crate::hsm) object: &'a ObjectId,
    /// Of the material, from 1.
    pub(in crate::hsm) version: u64,
}

/// What is authenticated with a message, besides its name.
#[derive(Debug, Clone, Copy)]
pub(in crate::hsm) struct Bound<'a> {
    pub(in crate::hsm) context: &'a Context<'a>,
    /// Bytes of the caller's, of a wrapped key.
    pub(in crate::hsm) associated: &'a [u8],
}

impl<'a> Bound<'a> {
    fn to(context: &'a Context<'a>) -> Self {
        Self { context, associated: &[] }
    }
}

/// A blob taken apart; nothing of it has been authenticated.
#[derive(Debug, Clone, Copy)]
pub(in crate::hsm) struct Blob<'a> {
    form: &'static Form,
    /// The key that the blob says it was made under.
    pub(in crate::hsm) object: ObjectId,
    pub(in crate::hsm) version: u64,
    salt: [u8; SALT_LEN],
    commitment: [u8; COMMITMENT_LEN],
    protected: &'a [u8],
    ciphertext: &'a [u8],
    tag: [u8; TAG],
}

impl<'a> Blob<'a> {
    /// CKR_ENCRYPTED_DATA_INVALID, the same as for all that does not open.
    pub(in crate::hsm) fn parse(blob: &'a [u8]) -> Result<Self> {
        Self::decode(&ENVELOPE, blob).map_err(|_| refused())
    }

    /// The same of a wrapped key.
    pub(in crate::hsm) fn parse_wrapped(blob: &'a [u8]) -> Result<Self> {
        Self::decode(&WRAPPED_KEY, blob).map_err(|_| refused())
    }

    fn decode(form: &'static Form, blob: &'a [u8]) -> Decoded<Self> {
        let mut d = Decoder::new(blob);
        d.tag(COSE_ENCRYPT0)?;
        d.array_of(3)?;
        let protected = d.bytes()?;
        d.map()?.end()?;
        let content = d.bytes()?;
        d.end()?;
        let (ciphertext, tag) = content.split_last_chunk::<TAG>().ok_or(Malformed("too short"))?;
        if ciphertext.len() > form.max {
            return Err(Malformed("too long"));
        }

        let mut d = Decoder::new(protected);
        let mut header = d.map()?;
        let usual =
            next(&mut header, ALG)?.int()? == A256GCM && next(&mut header, CONTENT_TYPE)?.text()? == form.content_type;
        let object = next(&mut header, KID)?.fixed()?;
        let salt = next(&mut header, SALT)?.fixed()?;
        let commitment = next(&mut header, COMMITMENT)?.fixed()?;
        let version = next(&mut header, VERSION)?.uint()?;
        header.end()?;
        d.end()?;
        if !usual || version == 0 {
            return Err(Malformed("the headers are not those of the kind"));
        }
        Ok(Self { form, object, version, salt, commitment, protected, ciphertext, tag: *tag })
    }

    pub(in crate::hsm) fn plaintext_len(&self) -> usize {
        self.ciphertext.len()
    }
}

/// The value of the header that must be next.
fn next<'m, 'a>(header: &'m mut Map<'_, 'a>, label: i64) -> Decoded<&'m mut Decoder<'a>> {
    match header.next_with(Decoder::int)? {
        Some((found, value)) if found == label => Ok(value),
        _ => Err(Malformed("an unknown, missing or misplaced header")),
    }
}

/// The material of one version, ready for use: what [`Key::engine`](super::super::key::Key::engine)
/// keeps of it.
pub(in crate::hsm) struct Material(HmacKey);

impl Material {
    /// CKR_KEY_SIZE_RANGE unless it has 32 bytes.
    pub(in crate::hsm) fn new(material: &[u8]) -> Result<Self> {
        if material.len() != MATERIAL {
            return Err(ErrorKind::KeySizeRange.into());
        }
        HmacKey::new(Hash::Sha256, material).map(Self)
    }

    /// A blob. CKR_DATA_LEN_RANGE for more than 4096 bytes.
    pub(in crate::hsm) fn seal(&self, name: Name<'_>, context: &Context<'_>, plaintext: &[u8]) -> Result<Vec<u8>> {
        let mut blob = vec![0; sealed_len(name.version, plaintext.len())?];
        self.seal_into(name, context, plaintext, &mut blob)?;
        Ok(blob)
    }

    /// The same into `blob`, which has [`sealed_len`] bytes.
    pub(in crate::hsm) fn seal_into(
        &self,
        name: Name<'_>,
        context: &Context<'_>,
        plaintext: &[u8],
        blob: &mut [u8],
    ) -> Result<()> {
        self.seal_salted(name, context, plaintext, &random::array()?, blob)
    }

    pub(super) fn seal_salted(
        &self,
        name: Name<'_>,
        context: &Context<'_>,
        plaintext: &[u8],
        salt: &[u8; SALT_LEN],
        blob: &mut [u8],
    ) -> Result<()> {
        self.seal_as(&ENVELOPE, name, Bound::to(context), plaintext, salt, blob)
    }

    /// A wrapped key. CKR_DATA_LEN_RANGE for more than 65536 bytes.
    pub(in crate::hsm) fn wrap(&self, name: Name<'_>, bound: Bound<'_>, content: &[u8]) -> Result<Vec<u8>> {
        self.wrap_salted(name, bound, content, &random::array()?)
    }

    pub(super) fn wrap_salted(
        &self,
        name: Name<'_>,
        bound: Bound<'_>,
        content: &[u8],
        salt: &[u8; SALT_LEN],
    ) -> Result<Vec<u8>> {
        let mut wrapped = vec![0; wrapped_len(name.version, content.len())?];
        self.seal_as(&WRAPPED_KEY, name, bound, content, salt, &mut wrapped)?;
        Ok(wrapped)
    }

    /// Opens a wrapped key; errors as of [`Self::open_into`].
    pub(in crate::hsm) fn unwrap(&self, name: Name<'_>, bound: Bound<'_>, wrapped: &Blob<'_>) -> Result<SecretBytes> {
        SecretBytes::fill(wrapped.plaintext_len(), |out| self.open_as(name, bound, wrapped, out))
    }

    fn seal_as(
        &self,
        form: &'static Form,
        name: Name<'_>,
        bound: Bound<'_>,
        plaintext: &[u8],
        salt: &[u8; SALT_LEN],
        blob: &mut [u8],
    ) -> Result<()> {
        if blob.len() != form.sealed_len(name.version, plaintext.len())? {
            return Err(ErrorKind::GeneralError.into());
        }
        let keys = self.derive(form, salt, name.object, name.version)?;
        let header = Header { form, object: name.object, salt, commitment: keys.commitment(), version: name.version };
        let mut e = Encoder::over(blob);
        let protected = header.begin(&mut e, plaintext.len());
        let at = e.used();
        let (head, rest) = blob.split_at_mut_checked(at).ok_or(ErrorKind::GeneralError)?;
        let (ciphertext, place) = rest.split_last_chunk_mut::<TAG>().ok_or(ErrorKind::GeneralError)?;
        let protected = head.get(protected).ok_or(ErrorKind::GeneralError)?;
        *place =
            with_aad(form, protected, name.id, bound, |aad| keys.gcm()?.seal(keys.iv(), aad, plaintext, ciphertext))?;
        Ok(())
    }

    /// Writes the plaintext to `out`, which has [`Blob::plaintext_len`] bytes. A blob of another
    /// key or version, another context and a changed blob give CKR_ENCRYPTED_DATA_INVALID alike.
    pub(in crate::hsm) fn open_into(
        &self,
        name: Name<'_>,
        context: &Context<'_>,
        blob: &Blob<'_>,
        out: &mut [u8],
    ) -> Result<()> {
        self.open_as(name, Bound::to(context), blob, out)
    }

    fn open_as(&self, name: Name<'_>, bound: Bound<'_>, blob: &Blob<'_>, out: &mut [u8]) -> Result<()> {
        if out.len() != blob.plaintext_len() {
            return Err(ErrorKind::GeneralError.into());
        }
        if (&blob.object, blob.version) != (name.object, name.version) {
            return Err(refused());
        }
        let keys = self.derive(blob.form, &blob.salt, name.object, name.version)?;
        if !bool::from(keys.commitment().ct_eq(&blob.commitment)) {
            return Err(refused());
        }
        with_aad(blob.form, blob.protected, name.id, bound, |aad| {
            keys.gcm()?.open(keys.iv(), aad, blob.ciphertext, &blob.tag, out).map_err(|_| refused())
        })
    }

    /// The same into secret memory.
    pub(in crate::hsm) fn open(&self, name: Name<'_>, context: &Context<'_>, blob: &Blob<'_>) -> Result<SecretBytes> {
        SecretBytes::fill(blob.plaintext_len(), |out| self.open_into(name, context, blob, out))
    }

    /// SP 800-108r1 §4.1, HMAC-SHA-256: counter and length of 32 bits, the counter in front.
    fn derive(&self, form: &Form, salt: &[u8; SALT_LEN], object: &ObjectId, version: u64) -> Result<Keys> {
        let mut input = [0; 4 + LABEL_ROOM + 1 + SALT_LEN + size_of::<ObjectId>() + 8 + 4];
        let mut at = 4;
        for part in [form.label, &[0], salt, object, &version.to_be_bytes(), &(8 * Keys::LEN as u32).to_be_bytes()] {
            input[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        let mut keys = Keys(Zeroizing::new([0; Keys::LEN]));
        let mut block = Zeroizing::new([0; MAX_DIGEST]);
        let mut state = self.0.start();
        for (counter, out) in (1u32..).zip(keys.0.chunks_mut(KEY_LEN)) {
            input[..4].copy_from_slice(&counter.to_be_bytes());
            state.restart()?;
            state.update(&input[..at])?;
            state.finish(&mut block)?;
            out.copy_from_slice(&block[..out.len()]);
        }
        Ok(keys)
    }
}

/// Decrypts and encrypts again, without the plaintext leaving. Errors as those of the two.
pub(in crate::hsm) fn reencrypt(
    (from, from_name, from_context): (&Material, Name<'_>, &Context<'_>),
    (to, to_name, to_context): (&Material, Name<'_>, &Context<'_>),
    blob: &Blob<'_>,
) -> Result<Vec<u8>> {
    let plaintext = from.open(from_name, from_context, blob)?;
    to.seal(to_name, to_context, plaintext.expose())
}

/// The length of a blob; CKR_DATA_LEN_RANGE for a plaintext of more than 4096 bytes.
pub(in crate::hsm) fn sealed_len(version: u64, plaintext_len: usize) -> Result<usize> {
    ENVELOPE.sealed_len(version, plaintext_len)
}

/// The length of a wrapped key; CKR_DATA_LEN_RANGE for a content of more than 65536 bytes.
pub(in crate::hsm) fn wrapped_len(version: u64, content_len: usize) -> Result<usize> {
    WRAPPED_KEY.sealed_len(version, content_len)
}

impl Form {
    fn sealed_len(&self, version: u64, plaintext_len: usize) -> Result<usize> {
        if plaintext_len > self.max {
            return Err(ErrorKind::DataLenRange.with(self.too_long));
        }
        let (protected, content) = (self.protected_len(version), plaintext_len + TAG);
        // Tag, array and the empty map are a byte each.
        Ok(3 + head_len(protected as u64) + protected + head_len(content as u64) + content)
    }

    /// The length of the protected header: that of the version's number varies.
    fn protected_len(&self, version: u64) -> usize {
        let content_type = self.content_type.len();
        101 + head_len(content_type as u64) + content_type + head_len(version)
    }
}

/// The length of a CBOR head.
fn head_len(value: u64) -> usize {
    match value {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

struct Header<'a> {
    form: &'static Form,
    object: &'a ObjectId,
    salt: &'a [u8; SALT_LEN],
    commitment: &'a [u8; COMMITMENT_LEN],
    version: u64,
}

impl Header<'_> {
    /// Writes a blob up to the ciphertext; gives where the protected header is.
    fn begin(&self, e: &mut Encoder<Cursor<'_>>, plaintext_len: usize) -> std::ops::Range<usize> {
        e.tag(COSE_ENCRYPT0).array(3).bytes_head(self.form.protected_len(self.version));
        let start = e.used();
        self.write(e);
        let end = e.used();
        e.map(0).bytes_head(plaintext_len + TAG);
        start..end
    }

    fn write(&self, e: &mut Encoder<impl Sink>) {
        e.map(6).int(ALG).int(A256GCM).int(CONTENT_TYPE).text(self.form.content_type);
        e.int(KID).bytes(self.object).int(SALT).bytes(self.salt);
        e.int(COMMITMENT).bytes(self.commitment).int(VERSION).uint(self.version);
    }
}

/// Key, IV and commitment of one blob.
struct Keys(Zeroizing<[u8; Self::LEN]>);

impl Keys {
    const LEN: usize = KEY_LEN + IV_LEN + COMMITMENT_LEN;

    fn gcm(&self) -> Result<GcmKey> {
        GcmKey::new(&self.0[..KEY_LEN], TAG)
    }

    fn iv(&self) -> &[u8] {
        &self.0[KEY_LEN..KEY_LEN + IV_LEN]
    }

    fn commitment(&self) -> &[u8; COMMITMENT_LEN] {
        const { assert!(Self::LEN - COMMITMENT_LEN == KEY_LEN + IV_LEN) };
        // The array is long enough, as asserted.
        self.0.last_chunk().unwrap_or(&[0; COMMITMENT_LEN])
    }
}

/// Gives `use_it` the Enc_structure (RFC 9052 §5.3) with the external AAD `[key id, context]`, of a
/// wrapped key `[key id, context, associated data]`.
fn with_aad<T>(
    form: &Form,
    protected: &[u8],
    id: &str,
    bound: Bound<'_>,
    use_it: impl FnOnce(&[u8]) -> Result<T>,
) -> Result<T> {
    let associated = form.associated.then_some(bound.associated);
    let context = bound.context.encoded();
    let associated_len = associated.map_or(0, |bytes| head_len(bytes.len() as u64) + bytes.len());
    let external_len = 1 + head_len(id.len() as u64) + id.len() + context.len() + associated_len;
    let write = |out: &mut [u8]| {
        let mut e = Encoder::over(out);
        e.array(3).text("Encrypt0").bytes(protected).bytes_head(external_len);
        e.array(2 + usize::from(associated.is_some())).text(id).raw(context);
        if let Some(associated) = associated {
            e.bytes(associated);
        }
        e.used()
    };
    let mut stack = [0; STACK];
    let len = write(&mut stack);
    if let Some(aad) = stack.get(..len) {
        return use_it(aad);
    }
    let mut heap = vec![0; len];
    write(&mut heap);
    use_it(&heap)
}

fn refused() -> Error {
    ErrorKind::EncryptedDataInvalid.with("the blob was refused")
}

#[cfg(test)]
pub(in crate::hsm::managed) mod tests;
