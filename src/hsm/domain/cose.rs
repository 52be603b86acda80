//! COSE messages (RFC 9052): the one header they all use, and the structures that are authenticated.
//!
//! Everything is in the protected header; an unprotected header is always empty.

use coset::iana;

use super::cbor::{Decoder, Encoder, Malformed};

type Decoded<T> = Result<T, Malformed>;

pub(in crate::hsm) const A256GCM: i64 = iana::Algorithm::A256GCM as i64;
pub(in crate::hsm) const HMAC_SHA_384: i64 = iana::Algorithm::HMAC_384_384 as i64;
pub(in crate::hsm) const ESP384: i64 = iana::Algorithm::ESP384 as i64;

const ALG: i64 = iana::HeaderParameter::Alg as i64;
const CONTENT_TYPE: i64 = iana::HeaderParameter::ContentType as i64;
const KID: i64 = iana::HeaderParameter::Kid as i64;
const SALT: i64 = iana::HeaderAlgorithmParameter::Salt as i64;
/// Private use (RFC 9052 §11.1): the key commitment of a sealed object.
const COMMITMENT: i64 = -65537;
/// Private use: the encoded parameters of a PIN record.
const PARAMETERS: i64 = -65538;

/// The forms of message in use, with their tags and the context strings of what they authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Form {
    Encrypt0,
    Mac0,
    Sign1,
}

impl Form {
    fn tag(self) -> u64 {
        match self {
            Self::Encrypt0 => iana::CborTag::CoseEncrypt0 as u64,
            Self::Mac0 => iana::CborTag::CoseMac0 as u64,
            Self::Sign1 => iana::CborTag::CoseSign1 as u64,
        }
    }

    fn context(self) -> &'static str {
        match self {
            Self::Encrypt0 => "Encrypt0",
            Self::Mac0 => "MAC0",
            Self::Sign1 => "Signature1",
        }
    }
}

/// A protected header. `algorithm` and `content_type` are always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) struct Header<'a> {
    pub(in crate::hsm) algorithm: i64,
    /// Names exactly one kind of message.
    pub(in crate::hsm) content_type: &'a str,
    pub(in crate::hsm) kid: Option<&'a [u8]>,
    pub(in crate::hsm) salt: Option<[u8; 32]>,
    pub(in crate::hsm) commitment: Option<[u8; 32]>,
    pub(in crate::hsm) parameters: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    pub(in crate::hsm) fn new(algorithm: i64, content_type: &'a str) -> Self {
        Self { algorithm, content_type, kid: None, salt: None, commitment: None, parameters: None }
    }

    pub(in crate::hsm) fn encode(&self) -> Vec<u8> {
        let optional = [self.kid.is_some(), self.salt.is_some(), self.commitment.is_some(), self.parameters.is_some()];
        let mut e = Encoder::new();
        e.map(2 + optional.iter().filter(|there| **there).count());
        e.int(ALG).int(self.algorithm).int(CONTENT_TYPE).text(self.content_type);
        let bytes = [
            (KID, self.kid),
            (SALT, self.salt.as_ref().map(|s| &s[..])),
            (COMMITMENT, self.commitment.as_ref().map(|c| &c[..])),
            (PARAMETERS, self.parameters),
        ];
        for (label, value) in bytes {
            if let Some(value) = value {
                e.int(label).bytes(value);
            }
        }
        e.finish()
    }

    fn decode(protected: &'a [u8]) -> Decoded<Self> {
        let mut d = Decoder::new(protected);
        let mut map = d.map()?;
        let mut header = Self::new(0, "");
        let mut found = 0;
        while let Some((label, value)) = map.next_with(Decoder::int)? {
            found += 1;
            match label {
                ALG if found == 1 => header.algorithm = value.int()?,
                CONTENT_TYPE if found == 2 => header.content_type = value.text()?,
                KID if found > 2 => header.kid = Some(value.bytes()?),
                SALT if found > 2 => header.salt = Some(value.fixed()?),
                COMMITMENT if found > 2 => header.commitment = Some(value.fixed()?),
                PARAMETERS if found > 2 => header.parameters = Some(value.bytes()?),
                _ => return Err(Malformed("an unknown or missing header")),
            }
        }
        map.end()?;
        d.end()?;
        if found < 2 { Err(Malformed("a header is missing")) } else { Ok(header) }
    }
}

/// A message taken apart. `tag` is the tag of a MAC or the signature, empty for an encryption.
pub(in crate::hsm) struct Message<'a> {
    pub(in crate::hsm) form: Form,
    pub(in crate::hsm) header: Header<'a>,
    pub(in crate::hsm) protected: &'a [u8],
    pub(in crate::hsm) content: &'a [u8],
    pub(in crate::hsm) tag: &'a [u8],
}

impl<'a> Message<'a> {
    pub(in crate::hsm) fn decode(form: Form, input: &'a [u8]) -> Decoded<Self> {
        let mut d = Decoder::new(input);
        d.tag(form.tag())?;
        d.array_of(if form == Form::Encrypt0 { 3 } else { 4 })?;
        let protected = d.bytes()?;
        d.map()?.end()?;
        let content = d.bytes()?;
        let tag = if form == Form::Encrypt0 { &[] } else { d.bytes()? };
        d.end()?;
        Ok(Self { form, header: Header::decode(protected)?, protected, content, tag })
    }

    /// What the message authenticates (RFC 9052 §4.4, §5.3, §6.3).
    pub(in crate::hsm) fn authenticated(&self, external_aad: &[u8]) -> Vec<u8> {
        authenticated(self.form, self.protected, external_aad, self.content)
    }
}

/// The structure that a message authenticates; `content` counts except for an encryption.
pub(in crate::hsm) fn authenticated(form: Form, protected: &[u8], external_aad: &[u8], content: &[u8]) -> Vec<u8> {
    let mut e = Encoder::new();
    e.array(if form == Form::Encrypt0 { 3 } else { 4 }).text(form.context()).bytes(protected).bytes(external_aad);
    if form != Form::Encrypt0 {
        e.bytes(content);
    }
    e.finish()
}

/// A COSE_Sign (RFC 9052 §4.1) taken apart: one content, any number of signatures.
pub(in crate::hsm) struct MultiSigned<'a> {
    pub(in crate::hsm) content: &'a [u8],
    /// As they come: `kid` and signature.
    pub(in crate::hsm) signatures: Vec<([u8; 32], [u8; 96])>,
}

impl<'a> MultiSigned<'a> {
    pub(in crate::hsm) fn decode(content_type: &str, input: &'a [u8]) -> Decoded<Self> {
        let mut d = Decoder::new(input);
        d.tag(iana::CborTag::CoseSign as u64)?;
        d.array_of(4)?;
        if d.bytes()? != body_header(content_type) {
            return Err(Malformed("the headers are not those of this message"));
        }
        d.map()?.end()?;
        let content = d.bytes()?;
        let signatures = d.list(|d| {
            d.array_of(3)?;
            let kid = signer_kid(d.bytes()?)?;
            d.map()?.end()?;
            Ok((kid, d.fixed()?))
        })?;
        d.end()?;
        Ok(Self { content, signatures })
    }

    pub(in crate::hsm) fn encode(content_type: &str, content: &[u8], signatures: &[([u8; 32], [u8; 96])]) -> Vec<u8> {
        let mut e = Encoder::new();
        e.tag(iana::CborTag::CoseSign as u64).array(4).bytes(&body_header(content_type)).map(0).bytes(content);
        e.list(signatures, |e, (kid, signature)| {
            e.array(3).bytes(&signer_header(kid)).map(0).bytes(signature);
        });
        e.finish()
    }

    /// What the holder of `kid` signs (RFC 9052 §4.4).
    pub(in crate::hsm) fn to_sign(content_type: &str, kid: &[u8; 32], external_aad: &[u8], content: &[u8]) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(5).text("Signature").bytes(&body_header(content_type)).bytes(&signer_header(kid));
        e.bytes(external_aad).bytes(content);
        e.finish()
    }
}

fn body_header(content_type: &str) -> Vec<u8> {
    let mut e = Encoder::new();
    e.map(1).int(CONTENT_TYPE).text(content_type);
    e.finish()
}

fn signer_header(kid: &[u8; 32]) -> Vec<u8> {
    let mut e = Encoder::new();
    e.map(2).int(ALG).int(ESP384).int(KID).bytes(kid);
    e.finish()
}

fn signer_kid(protected: &[u8]) -> Decoded<[u8; 32]> {
    let mut d = Decoder::new(protected);
    let mut map = d.map()?;
    let Some((ALG, algorithm)) = map.next_with(Decoder::int)? else {
        return Err(Malformed("a signature names no algorithm"));
    };
    if algorithm.int()? != ESP384 {
        return Err(Malformed("a signature has another algorithm than ESP384"));
    }
    let Some((KID, kid)) = map.next_with(Decoder::int)? else {
        return Err(Malformed("a signature names no signer"));
    };
    let kid = kid.fixed()?;
    map.end()?;
    d.end()?;
    Ok(kid)
}

/// A message with a tag or signature, put together.
pub(in crate::hsm) fn encode(form: Form, protected: &[u8], content: &[u8], tag: &[u8]) -> Vec<u8> {
    let mut e = Encoder::new();
    e.tag(form.tag()).array(4).bytes(protected).map(0).bytes(content).bytes(tag);
    e.finish()
}

/// The beginning of an encryption, up to where `len` bytes of ciphertext and tag follow.
pub(in crate::hsm) fn begin_encrypt0(protected: &[u8], len: usize) -> Vec<u8> {
    let mut e = Encoder::new();
    e.tag(Form::Encrypt0.tag()).array(3).bytes(protected).map(0).bytes_head(len);
    e.finish()
}
