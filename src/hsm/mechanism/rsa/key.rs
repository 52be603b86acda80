//! The key type: checks, missing parts, encodings.

use cryptoki_sys as ck;

use super::super::KeyType;
use super::super::public_key;
use super::{BITS, VERIFY_BITS};
use crate::error::{ErrorKind, Result};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::crypto::aws_lc::pkey::{self, PrivateKeyInfo};
use crate::hsm::crypto::aws_lc::rsa::{RsaKey, RsaParts};
use crate::hsm::key::{Key, Secrets};
use crate::hsm::value::{AttributeType, Attributes, Value};

pub(in crate::hsm::mechanism) const KEY_TYPES: &[KeyType] = &[KeyType {
    kind: ck::CKK_RSA,
    name: "CKK_RSA",
    secrets: &[
        ck::CKA_PRIVATE_EXPONENT,
        ck::CKA_PRIME_1,
        ck::CKA_PRIME_2,
        ck::CKA_EXPONENT_1,
        ck::CKA_EXPONENT_2,
        ck::CKA_COEFFICIENT,
    ],
    complete,
    to_pkcs8: Some(to_pkcs8),
    from_pkcs8: Some(from_pkcs8),
    strength,
}];

/// The parsed key.
pub(super) fn engine(key: &Key) -> Result<&RsaKey> {
    key.engine(|key| {
        if key.class() == ck::CKO_PRIVATE_KEY {
            return RsaKey::pair(&parts_of(&key.attributes, &key.secrets)?);
        }
        let (n, e) = (key.bytes(ck::CKA_MODULUS)?, key.bytes(ck::CKA_PUBLIC_EXPONENT)?);
        RsaKey::public(n, e)?.ok_or_else(|| ErrorKind::KeyTypeInconsistent.into())
    })
}

/// Writes the parts of a pair into both halves.
pub(super) fn store_pair(
    key: &RsaKey,
    public: &mut Attributes,
    private: &mut Attributes,
    secrets: &mut Secrets,
) -> Result<()> {
    let parts = key.parts()?;
    store_public(key, &parts, public)?;
    public.set(ck::CKA_MODULUS_BITS, Value::Ulong(key.bits().into()));
    store_public(key, &parts, private)?;
    store_secrets(parts, secrets);
    Ok(())
}

fn complete(class: ck::CK_OBJECT_CLASS, attributes: &mut Attributes, secrets: &mut Secrets) -> Result<()> {
    let mut parts = parts_of(attributes, secrets)?;
    let bits = 8 * parts.n.len() as u32 - parts.n.first().map_or(0, |top| top.leading_zeros());
    let allowed = if class == ck::CKO_PRIVATE_KEY { BITS } else { VERIFY_BITS };
    if !allowed.contains(&bits) {
        return Err(ErrorKind::AttributeValueInvalid.with(format!("an RSA modulus of {bits} bits")));
    }
    if class == ck::CKO_PRIVATE_KEY {
        if parts.d.is_none() {
            return Err(ErrorKind::TemplateIncomplete.with("CKA_PRIVATE_EXPONENT"));
        }
        let key = RsaKey::import(&mut parts)?
            .ok_or_else(|| ErrorKind::AttributeValueInvalid.with("the parts of the RSA key do not belong together"))?;
        store_public(&key, &parts, attributes)?;
        store_secrets(parts, secrets);
        return Ok(());
    }
    let e = parts.e.as_deref().ok_or_else(|| ErrorKind::TemplateIncomplete.with("CKA_PUBLIC_EXPONENT"))?;
    let key = RsaKey::public(&parts.n, e)?
        .ok_or_else(|| ErrorKind::AttributeValueInvalid.with("not an RSA modulus and public exponent"))?;
    if attributes.ulong(ck::CKA_MODULUS_BITS).is_some_and(|given| given != u64::from(bits)) {
        return Err(ErrorKind::TemplateInconsistent.with("CKA_MODULUS_BITS"));
    }
    attributes.set(ck::CKA_MODULUS_BITS, Value::Ulong(bits.into()));
    store_public(&key, &parts, attributes)
}

fn store_public(key: &RsaKey, parts: &RsaParts, attributes: &mut Attributes) -> Result<()> {
    public_key::set_info(attributes, pkey::rsa_public(key)?)?;
    attributes.set(ck::CKA_MODULUS, Value::Bytes(parts.n.clone()));
    attributes.set(ck::CKA_PUBLIC_EXPONENT, Value::Bytes(parts.e.clone().unwrap_or_default()));
    Ok(())
}

fn store_secrets(parts: RsaParts, secrets: &mut Secrets) {
    for (kind, part) in [
        (ck::CKA_PRIVATE_EXPONENT, parts.d),
        (ck::CKA_PRIME_1, parts.p),
        (ck::CKA_PRIME_2, parts.q),
        (ck::CKA_EXPONENT_1, parts.dp),
        (ck::CKA_EXPONENT_2, parts.dq),
        (ck::CKA_COEFFICIENT, parts.qi),
    ] {
        if let Some(part) = part {
            secrets.set(kind, part);
        }
    }
}

fn parts_of(attributes: &Attributes, secrets: &Secrets) -> Result<RsaParts> {
    let secret = |kind| match secrets.get(kind) {
        Some(bytes) if !bytes.is_empty() => integer(bytes).and_then(SecretBytes::copy_of).map(Some),
        _ => Ok(None),
    };
    let public = |kind: AttributeType| match attributes.bytes(kind) {
        Some(bytes) if !bytes.is_empty() => integer(bytes).map(|bytes| Some(bytes.to_vec())),
        _ => Ok(None),
    };
    Ok(RsaParts {
        n: public(ck::CKA_MODULUS)?.ok_or_else(|| ErrorKind::TemplateIncomplete.with("CKA_MODULUS"))?,
        e: public(ck::CKA_PUBLIC_EXPONENT)?,
        d: secret(ck::CKA_PRIVATE_EXPONENT)?,
        p: secret(ck::CKA_PRIME_1)?,
        q: secret(ck::CKA_PRIME_2)?,
        dp: secret(ck::CKA_EXPONENT_1)?,
        dq: secret(ck::CKA_EXPONENT_2)?,
        qi: secret(ck::CKA_COEFFICIENT)?,
    })
}

/// A big integer without leading zeros, of no more bytes than the longest modulus.
fn integer(bytes: &[u8]) -> Result<&[u8]> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let bytes = bytes.get(start..).unwrap_or_default();
    if bytes.len() > BITS.end().div_ceil(8) as usize {
        return Err(ErrorKind::AttributeValueInvalid.with("a part of the RSA key is too long"));
    }
    Ok(bytes)
}

fn to_pkcs8(key: &Key) -> Result<SecretBytes> {
    pkey::rsa_private(engine(key)?)
}

fn from_pkcs8(der: &[u8]) -> Result<(Attributes, Secrets)> {
    let Some(PrivateKeyInfo::Rsa(parts)) = PrivateKeyInfo::parse(der) else {
        return Err(ErrorKind::WrappedKeyInvalid.with("not an RSA private key"));
    };
    let (mut attributes, mut secrets) = (Attributes::new(), Secrets::new());
    attributes.set(ck::CKA_MODULUS, Value::Bytes(parts.n.clone()));
    if let Some(e) = &parts.e {
        attributes.set(ck::CKA_PUBLIC_EXPONENT, Value::Bytes(e.clone()));
    }
    store_secrets(*parts, &mut secrets);
    Ok((attributes, secrets))
}

/// SP 800-57 part 1, table 2; 4096 bits count as the next smaller size that the table has.
fn strength(key: &Key) -> u32 {
    match engine(key).map_or(0, RsaKey::bits) {
        3072.. => 128,
        2048.. => 112,
        1024.. => 80,
        _ => 0,
    }
}
