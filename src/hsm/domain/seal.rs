//! Sealing under a domain key: records that only an HSM of the domain can open, records in clear
//! that only it can make, and the keyed hashes of index columns.

use std::sync::Arc;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha384};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::super::command::{IndexColumn, ObjectId};
use super::super::crypto::{Entropy, SecretBytes};
use super::cbor::{Encoder, Malformed};
use super::cose::{self, Form, Header, Message};
use crate::error::{Error, ErrorKind, Result};

/// A domain's random name.
pub(in crate::hsm) type DomainId = [u8; 16];

/// A sealing key's name, derived from the key itself.
pub(in crate::hsm) type KeyId = [u8; 16];

const TAG: usize = 16;
/// What [`key_id`] calls the keys of a [`Sealer`].
pub(super) const DOMAIN_KEY: &str = "domain key";

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What a sealed object is; one kind never opens as another.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(dead_code, reason = "the format names every kind; what is sealed as some comes later")]
        pub(in crate::hsm) enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            #[cfg(test)]
            pub(in crate::hsm) const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in content types and derivations.
            pub(in crate::hsm) fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            pub(in crate::hsm) fn sealed_type(self) -> &'static str {
                match self { $(Self::$name => concat!("application/vnd.conclave.sealed.", $text),)* }
            }

            fn public_type(self) -> &'static str {
                match self { $(Self::$name => concat!("application/vnd.conclave.public.", $text),)* }
            }
        }
    };
}

kinds! {
    Key = "key";
    /// Data, certificate and other objects that are not keys.
    DataObject = "data-object";
    Session = "session";
    LoginTicket = "login-ticket";
    /// A session object of a fleet's host.
    SessionObject = "session-object";
    PinRecord = "pin-record";
    Import = "import";
    Alias = "alias";
    Policy = "policy";
    ReplicationAuthorisation = "replication-authorisation";
    Proposal = "proposal";
    AuditHead = "audit-head";
    IndexKey = "index-key";
    /// The keys of an HSM that waits for the recovery of an embedded domain.
    RecoveryKeys = "recovery-keys";
    /// A key on its way to another Region.
    Replica = "replica";
}

/// A domain key, with the domain and Region it belongs to.
pub(in crate::hsm) struct Sealer {
    domain: DomainId,
    region: Arc<str>,
    id: KeyId,
    key: Arc<SecretBytes>,
}

impl Sealer {
    pub(in crate::hsm) fn new(domain: DomainId, region: Arc<str>, key: Arc<SecretBytes>) -> Result<Self> {
        Ok(Self { domain, region, id: key_id(DOMAIN_KEY, key.expose())?, key })
    }

    pub(in crate::hsm) fn key_id(&self) -> &KeyId {
        &self.id
    }

    /// A COSE_Encrypt0 that opens only with the same kind, object and generation.
    pub(in crate::hsm) fn seal(
        &self,
        kind: Kind,
        object: &ObjectId,
        generation: u64,
        plaintext: &[u8],
    ) -> Result<Vec<u8>> {
        self.seal_salted(kind, object, generation, plaintext, Entropy::System.array()?)
    }

    pub(in crate::hsm) fn seal_salted(
        &self,
        kind: Kind,
        object: &ObjectId,
        generation: u64,
        plaintext: &[u8],
        salt: [u8; 32],
    ) -> Result<Vec<u8>> {
        let keys = Keys::derive(self.key.expose(), &salt, kind, &self.domain)?;
        let mut header = Header::new(cose::A256GCM, kind.sealed_type());
        header.kid = Some(&self.id);
        header.salt = Some(salt);
        keys.seal(header, &self.aad(object, generation), plaintext)
    }

    /// Opens what [`Self::seal`] made; anything else is refused.
    pub(in crate::hsm) fn open(
        &self,
        kind: Kind,
        object: &ObjectId,
        generation: u64,
        sealed: &[u8],
    ) -> Result<SecretBytes> {
        let message = Message::decode(Form::Encrypt0, sealed).map_err(refused)?;
        let header = &message.header;
        let (Some(salt), None, Some(kid)) = (&header.salt, header.parameters, header.kid) else {
            return Err(refused(Malformed("the headers are not those of a sealed object")));
        };
        if header.content_type != kind.sealed_type() || kid != self.id {
            return Err(refused(Malformed("sealed as another kind or under another key")));
        }
        let keys = Keys::derive(self.key.expose(), salt, kind, &self.domain)?;
        keys.open(&message, &self.aad(object, generation))?.ok_or_else(|| refused(Malformed("it does not verify")))
    }

    /// A COSE_Mac0 that holds `clear`: readable by anyone, made by this key only.
    pub(in crate::hsm) fn mac(&self, kind: Kind, object: &ObjectId, generation: u64, clear: &[u8]) -> Result<Vec<u8>> {
        let mut header = Header::new(cose::HMAC_SHA_384, kind.public_type());
        header.kid = Some(&self.id);
        let protected = header.encode();
        let covered = cose::authenticated(Form::Mac0, &protected, &self.aad(object, generation), clear);
        let tag = self.mac_state(kind, &covered)?.finalize().into_bytes();
        Ok(cose::encode(Form::Mac0, &protected, clear, &tag))
    }

    /// What [`Self::mac`] was given; anything it did not make is refused.
    pub(in crate::hsm) fn verify_mac<'a>(
        &self,
        kind: Kind,
        object: &ObjectId,
        generation: u64,
        record: &'a [u8],
    ) -> Result<&'a [u8]> {
        let message = public_message(kind, record)?;
        if message.header.kid != Some(&self.id) {
            return Err(refused(Malformed("made under another key")));
        }
        let covered = message.authenticated(&self.aad(object, generation));
        // `verify_slice` compares in constant time.
        self.mac_state(kind, &covered)?
            .verify_slice(message.tag)
            .map_err(|_| refused(Malformed("it does not verify")))?;
        Ok(message.content)
    }

    fn mac_state(&self, kind: Kind, covered: &[u8]) -> Result<Hmac<Sha384>> {
        let mut info = Encoder::new();
        info.array(3).text("mac").text(kind.name()).bytes(&self.domain);
        let key = expand::<48>(None, self.key.expose(), &info.finish())?;
        let mut mac = <Hmac<Sha384> as KeyInit>::new_from_slice(&*key).map_err(|_| ErrorKind::GeneralError)?;
        mac.update(covered);
        Ok(mac)
    }

    /// What ties a record to its key, Region, place and age.
    fn aad(&self, object: &ObjectId, generation: u64) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(4).bytes(&self.id).text(&self.region).bytes(object).uint(generation);
        e.finish()
    }
}

/// The content of a record made by [`Sealer::mac`], *not verified*: what may be shown of a public
/// object before login.
pub(in crate::hsm) fn unverified(kind: Kind, record: &[u8]) -> Result<&[u8]> {
    public_message(kind, record).map(|message| message.content)
}

/// The id of the key that a sealed or public record says it was made under, not verified.
pub(in crate::hsm) fn key_id_of(record: &[u8]) -> Result<KeyId> {
    let message =
        Message::decode(Form::Encrypt0, record).or_else(|_| Message::decode(Form::Mac0, record)).map_err(refused)?;
    message.header.kid.and_then(|kid| kid.try_into().ok()).ok_or_else(|| refused(Malformed("no key is named")))
}

/// The key of the hashes under which private objects' labels and ids are indexed.
pub(in crate::hsm) struct IndexKey(SecretBytes);

impl IndexKey {
    pub(in crate::hsm) fn new(key: SecretBytes) -> Self {
        Self(key)
    }

    pub(super) fn id(&self) -> Result<KeyId> {
        key_id("index key", self.0.expose())
    }

    pub(super) fn secret(&self) -> &SecretBytes {
        &self.0
    }

    /// HMAC-SHA-256 over `[column, value]`, truncated to 16 bytes.
    pub(in crate::hsm) fn tag(&self, column: IndexColumn, value: &[u8]) -> Result<[u8; 16]> {
        let mut e = Encoder::new();
        e.array(2);
        e.text(match column {
            IndexColumn::Label => "label",
            IndexColumn::Id => "id",
            IndexColumn::Alias => "alias",
        });
        e.bytes(value);
        let input = Zeroizing::new(e.finish());
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(self.0.expose()).map_err(|_| ErrorKind::GeneralError)?;
        mac.update(&input);
        let mut tag = [0; 16];
        tag.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        Ok(tag)
    }

    /// What is kept of a managed key's imported material: [`Self::commitment_to`] its SHA-384.
    pub(in crate::hsm) fn material_commitment(&self, object: &ObjectId, material: &[u8]) -> Result<[u8; 32]> {
        self.commitment_to(object, &Sha384::digest(material).into())
    }

    /// HMAC-SHA-256 over `[object, SHA-384(material)]` under a key derived from this one. It tells the
    /// same material from another, and nothing of either.
    pub(in crate::hsm) fn commitment_to(&self, object: &ObjectId, material: &[u8; 48]) -> Result<[u8; 32]> {
        let mut info = Encoder::new();
        info.array(1).text("material commitment");
        let key = expand::<32>(None, self.0.expose(), &info.finish())?;
        let mut input = Encoder::secret();
        input.array(2).bytes(object).bytes(material);
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&*key).map_err(|_| ErrorKind::GeneralError)?;
        mac.update(input.finish()?.expose());
        Ok(mac.finalize().into_bytes().into())
    }
}

/// What a sealing key and a salt give: a key used once, its IV, and a commitment to it.
pub(in crate::hsm) struct Keys(Zeroizing<[u8; 76]>);

impl Keys {
    /// HKDF-SHA-384 with `info = [kind, domain id]`.
    pub(in crate::hsm) fn derive(key: &[u8], salt: &[u8; 32], kind: Kind, domain: &DomainId) -> Result<Self> {
        let mut info = Encoder::new();
        info.array(2).text(kind.name()).bytes(domain);
        Ok(Self(expand(Some(salt), key, &info.finish())?))
    }

    fn commitment(&self) -> [u8; 32] {
        let mut commitment = [0; 32];
        commitment.copy_from_slice(&self.0[44..]);
        commitment
    }

    /// A COSE_Encrypt0 with this header and the commitment.
    pub(in crate::hsm) fn seal(
        &self,
        mut header: Header<'_>,
        external_aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>> {
        header.commitment = Some(self.commitment());
        let protected = header.encode();
        let aad = cose::authenticated(Form::Encrypt0, &protected, external_aad, &[]);
        let mut sealed = cose::begin_encrypt0(&protected, plaintext.len() + TAG);
        let start = sealed.len();
        // Reserved first, so that the plaintext is copied to one place only and encrypted there.
        sealed.reserve_exact(plaintext.len() + TAG);
        sealed.extend_from_slice(plaintext);
        let tag = gcm_seal(&self.0[..32], &self.0[32..44], &aad, &mut sealed[start..])?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// The plaintext of a COSE_Encrypt0, or None if it was not made with these keys.
    pub(in crate::hsm) fn open(&self, message: &Message<'_>, external_aad: &[u8]) -> Result<Option<SecretBytes>> {
        let committed = message.header.commitment.unwrap_or_default();
        if message.header.algorithm != cose::A256GCM || !bool::from(committed.ct_eq(&self.commitment())) {
            return Ok(None);
        }
        gcm_open(&self.0[..32], &self.0[32..44], &message.authenticated(external_aad), message.content)
    }
}

/// AES-256-GCM in place; gives the tag. What cannot be encrypted is wiped.
pub(in crate::hsm) fn gcm_seal(key: &[u8], iv: &[u8], aad: &[u8], buffer: &mut [u8]) -> Result<[u8; TAG]> {
    let cipher = Aes256Gcm::new_from_slice(key).map_err(|_| ErrorKind::GeneralError)?;
    let iv = iv.try_into().map_err(|_| ErrorKind::GeneralError)?;
    let sealed = cipher.encrypt_inout_detached(iv, aad, InOutBuf::from(&mut *buffer));
    sealed.map(Into::into).map_err(|_| {
        zeroize::Zeroize::zeroize(buffer);
        ErrorKind::DataLenRange.into()
    })
}

/// The plaintext of AES-256-GCM ciphertext and tag, or None if it does not verify.
pub(in crate::hsm) fn gcm_open(key: &[u8], iv: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Option<SecretBytes>> {
    let cipher = Aes256Gcm::new_from_slice(key).map_err(|_| ErrorKind::GeneralError)?;
    let iv = iv.try_into().map_err(|_| ErrorKind::GeneralError)?;
    let Some((ciphertext, tag)) = sealed.split_last_chunk::<TAG>() else { return Ok(None) };
    let mut plaintext = SecretBytes::copy_of(ciphertext)?;
    let opened = cipher.decrypt_inout_detached(iv, aad, InOutBuf::from(plaintext.expose_mut()), &(*tag).into());
    Ok(opened.ok().map(|()| plaintext))
}

/// HKDF-SHA-384, extract and expand.
pub(in crate::hsm) fn expand<const N: usize>(
    salt: Option<&[u8]>,
    key: &[u8],
    info: &[u8],
) -> Result<Zeroizing<[u8; N]>> {
    let mut output = Zeroizing::new([0; N]);
    Hkdf::<Sha384>::new(salt, key).expand(info, &mut *output).map_err(|_| ErrorKind::GeneralError)?;
    Ok(output)
}

/// The id that commits to a key: whoever signs the id vouches for the key.
pub(super) fn key_id(label: &str, key: &[u8]) -> Result<KeyId> {
    let mut info = Encoder::new();
    info.array(2).text("key id").text(label);
    Ok(*expand::<16>(None, key, &info.finish())?)
}

fn public_message(kind: Kind, record: &[u8]) -> Result<Message<'_>> {
    let message = Message::decode(Form::Mac0, record).map_err(refused)?;
    let header = &message.header;
    let expected = Header { kid: header.kid, ..Header::new(cose::HMAC_SHA_384, kind.public_type()) };
    if *header == expected { Ok(message) } else { Err(refused(Malformed("made as another kind"))) }
}

fn refused(why: Malformed) -> Error {
    ErrorKind::DeviceError.with(format!("a sealed record was refused: {}", why.0))
}
