//! What the halves of key pairs have in common.

use cryptoki_sys as ck;

use super::ec::params;
use crate::error::{ErrorKind, Result};
use crate::hsm::value::{Attributes, Value};

/// Sets CKA_PUBLIC_KEY_INFO; CKR_TEMPLATE_INCONSISTENT if the template gave another.
pub(super) fn set_info(attributes: &mut Attributes, info: Vec<u8>) -> Result<()> {
    match attributes.bytes(ck::CKA_PUBLIC_KEY_INFO) {
        Some(given) if !given.is_empty() && given != info => {
            Err(ErrorKind::TemplateInconsistent.with("CKA_PUBLIC_KEY_INFO is of another key"))
        }
        _ => {
            attributes.set(ck::CKA_PUBLIC_KEY_INFO, Value::Bytes(info));
            Ok(())
        }
    }
}

/// CKA_EC_POINT of a curve whose points are `len` bytes, from any of its encodings;
/// CKR_ATTRIBUTE_VALUE_INVALID if it is none.
pub(super) fn given_point(attributes: &Attributes, len: usize) -> Result<Option<Vec<u8>>> {
    match attributes.bytes(ck::CKA_EC_POINT) {
        Some(encoded) if !encoded.is_empty() => params::unwrapped(encoded, &[len])
            .map(|point| Some(point.to_vec()))
            .ok_or_else(|| ErrorKind::AttributeValueInvalid.with("CKA_EC_POINT is not an encoded point")),
        _ => Ok(None),
    }
}

/// CKR_TEMPLATE_INCONSISTENT if the template gave another point than the private key's.
pub(super) fn check_point(given: Option<Vec<u8>>, computed: &[u8]) -> Result<()> {
    match given {
        Some(given) if given != computed => Err(ErrorKind::TemplateInconsistent.with("CKA_EC_POINT is of another key")),
        _ => Ok(()),
    }
}
