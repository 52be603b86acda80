//! HKDF (PKCS#11 3.2 §6.62, RFC 5869).

use cryptoki_sys as ck;

use super::generic_secret::{self, MAX_GENERATED, MAX_SECRET};
use super::{Derivation, KeyType, Row, digest};
use crate::error::{ErrorKind, Result};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::crypto::aws_lc::kdf::{hkdf_expand, hkdf_extract};
use crate::hsm::params::{HkdfSalt, MechanismType, ParamShape, Params};

pub(super) const ROWS: &[Row] = &[
    derivation(ck::CKM_HKDF_DERIVE, "CKM_HKDF_DERIVE"),
    derivation(ck::CKM_HKDF_DATA, "CKM_HKDF_DATA"),
    Row {
        kind: ck::CKM_HKDF_KEY_GEN,
        name: "CKM_HKDF_KEY_GEN",
        min_key: 1,
        max_key: MAX_GENERATED as u64,
        params: ParamShape::None,
        key_types: &[ck::CKK_HKDF],
        generate: Some(generic_secret::generate),
        ..Row::NONE
    },
];

pub(super) const KEY_TYPES: &[KeyType] = &[generic_secret::octets(ck::CKK_HKDF, "CKK_HKDF")];

const fn derivation(kind: MechanismType, name: &'static str) -> Row {
    Row {
        kind,
        name,
        min_key: 1,
        max_key: MAX_SECRET as u64,
        params: ParamShape::Hkdf,
        key_types: &[ck::CKK_HKDF, ck::CKK_GENERIC_SECRET],
        derive: Some(derive),
        ..Row::NONE
    }
}

/// The extract step alone gives the hash's length. The expand step needs to be told a length, and
/// a base key of the hash's length at least if it is not the extract step's result.
fn derive(derivation: &Derivation<'_>) -> Result<Vec<SecretBytes>> {
    let Params::Hkdf { extract, expand, prf, salt, info } = derivation.mechanism.params else {
        return Err(ErrorKind::MechanismParamInvalid.into());
    };
    let hash = digest::hash(prf)?;
    let want = derivation.lengths.first().copied().flatten();
    let base = derivation.base.secret(ck::CKA_VALUE).or_else(|_| derivation.base.bytes(ck::CKA_VALUE))?;

    let extracted = match extract {
        true => {
            let salt = match salt {
                HkdfSalt::None => &[][..],
                HkdfSalt::Data(salt) => salt,
                HkdfSalt::Key(_) => {
                    derivation.salt_key.ok_or(ErrorKind::MechanismParamInvalid)?.secret(ck::CKA_VALUE)?
                }
            };
            Some(hkdf_extract(hash, base, salt)?)
        }
        false => None,
    };
    let derived = match (extracted, expand) {
        (Some(extracted), false) => {
            if want.is_some_and(|want| want != hash.len()) {
                return Err(ErrorKind::TemplateInconsistent.with("HKDF's extract step gives the hash's length"));
            }
            extracted
        }
        (extracted, true) => {
            let key = extracted.as_ref().map_or(base, SecretBytes::expose);
            if key.len() < hash.len() {
                return Err(ErrorKind::KeySizeRange.into());
            }
            match want.ok_or(ErrorKind::TemplateIncomplete)? {
                0 => return Err(ErrorKind::KeySizeRange.into()),
                want => hkdf_expand(hash, key, info, want)?,
            }
        }
        (None, false) => return Err(ErrorKind::MechanismParamInvalid.into()),
    };
    Ok(vec![derived])
}
