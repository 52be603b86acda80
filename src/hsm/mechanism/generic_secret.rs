//! Generic secret keys, and what all secret keys have in common (PKCS#11 3.2 §4.11, §6.8).

use cryptoki_sys as ck;

use super::{KeyType, Row, row};
use crate::error::{ErrorKind, Result};
use crate::hsm::crypto::aws_lc::digest::Hash;
use crate::hsm::crypto::aws_lc::random;
use crate::hsm::key::{Key, Secrets};
use crate::hsm::params::{Mechanism, ParamShape};
use crate::hsm::value::{Attributes, Value};

/// The longest secret that is generated, in bytes.
pub(super) const MAX_GENERATED: usize = 512;

/// The longest secret that is taken or derived, in bytes.
pub(super) const MAX_SECRET: usize = 8192;

pub(super) const ROWS: &[Row] = &[Row {
    kind: ck::CKM_GENERIC_SECRET_KEY_GEN,
    name: "CKM_GENERIC_SECRET_KEY_GEN",
    min_key: 8,
    max_key: 8 * MAX_GENERATED as u64,
    params: ParamShape::None,
    key_types: &[ck::CKK_GENERIC_SECRET],
    generate: Some(generate),
    ..Row::NONE
}];

pub(super) const KEY_TYPES: &[KeyType] = &[octets(ck::CKK_GENERIC_SECRET, "CKK_GENERIC_SECRET")];

/// The row of a key type whose value is any string of bytes.
pub(super) const fn octets(kind: ck::CK_KEY_TYPE, name: &'static str) -> KeyType {
    KeyType {
        kind,
        name,
        secrets: &[ck::CKA_VALUE],
        complete: complete_octets,
        to_pkcs8: None,
        from_pkcs8: None,
        strength,
    }
}

/// A random key of the first key type of the mechanism's row, of CKA_VALUE_LEN bytes.
pub(super) fn generate(mechanism: &Mechanism<'_>, attributes: &mut Attributes) -> Result<Secrets> {
    let implied = *row(mechanism.kind)?.key_types.first().ok_or(ErrorKind::GeneralError)?;
    imply_key_type(attributes, implied)?;
    let len = value_len(attributes, MAX_GENERATED)?;
    let mut secrets = Secrets::new();
    secrets.set(ck::CKA_VALUE, random::secret(len)?);
    Ok(secrets)
}

/// Sets the key type, or checks the template's.
pub(super) fn imply_key_type(attributes: &mut Attributes, implied: ck::CK_KEY_TYPE) -> Result<()> {
    match attributes.ulong(ck::CKA_KEY_TYPE) {
        Some(given) if given != implied => Err(ErrorKind::TemplateInconsistent.into()),
        Some(_) => Ok(()),
        None => {
            attributes.set(ck::CKA_KEY_TYPE, Value::Ulong(implied));
            Ok(())
        }
    }
}

/// CKA_VALUE_LEN, from 1 to `max`; CKR_TEMPLATE_INCOMPLETE without it.
pub(super) fn value_len(attributes: &Attributes, max: usize) -> Result<usize> {
    let len = attributes.ulong(ck::CKA_VALUE_LEN).ok_or(ErrorKind::TemplateIncomplete)?;
    match usize::try_from(len) {
        Ok(len) if (1..=max).contains(&len) => Ok(len),
        _ => Err(ErrorKind::AttributeValueInvalid.with("CKA_VALUE_LEN is out of range")),
    }
}

/// Checks a secret key's value and adds what follows from it: CKA_VALUE_LEN and CKA_CHECK_VALUE.
/// `check_value` computes the latter; its first three bytes count.
pub(super) fn complete(
    class: ck::CK_OBJECT_CLASS,
    attributes: &mut Attributes,
    secrets: &Secrets,
    valid_len: impl FnOnce(usize) -> bool,
    check_value: impl FnOnce(&[u8]) -> Result<[u8; 3]>,
) -> Result<()> {
    if class != ck::CKO_SECRET_KEY {
        return Err(ErrorKind::TemplateInconsistent.with("the key type is one of secret keys"));
    }
    let value = secrets.get(ck::CKA_VALUE).ok_or(ErrorKind::TemplateIncomplete)?;
    if !valid_len(value.len()) {
        return Err(ErrorKind::AttributeValueInvalid.with("CKA_VALUE has a length that the key type does not take"));
    }
    let len = value.len() as u64;
    match attributes.ulong(ck::CKA_VALUE_LEN) {
        Some(given) if given != len => {
            return Err(ErrorKind::TemplateInconsistent.with("CKA_VALUE_LEN is not the value's length"));
        }
        _ => attributes.set(ck::CKA_VALUE_LEN, Value::Ulong(len)),
    }
    let expected = check_value(value)?;
    match attributes.bytes(ck::CKA_CHECK_VALUE) {
        // An empty one says that none is wanted (§4.11).
        Some([]) => {
            attributes.remove(ck::CKA_CHECK_VALUE);
        }
        Some(given) if given != expected => {
            return Err(ErrorKind::AttributeValueInvalid.with("CKA_CHECK_VALUE does not fit the value"));
        }
        _ => attributes.set(ck::CKA_CHECK_VALUE, Value::Bytes(expected.to_vec())),
    }
    Ok(())
}

fn complete_octets(class: ck::CK_OBJECT_CLASS, attributes: &mut Attributes, secrets: &mut Secrets) -> Result<()> {
    complete(
        class,
        attributes,
        secrets,
        |len| (1..=MAX_SECRET).contains(&len),
        |value| {
            let [a, b, c, ..] = Hash::Sha1.digest(value)?;
            Ok([a, b, c])
        },
    )
}

/// 8 bits a byte, up to the strongest category there is.
pub(super) fn strength(key: &Key) -> u32 {
    let len = key.secrets.get(ck::CKA_VALUE).map_or(0, <[u8]>::len);
    8 * len.min(32) as u32
}
