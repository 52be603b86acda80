//! Elliptic curves (PKCS#11 3.2 §6.3): short Weierstrass keys and ECDSA; key agreement of these and
//! of Montgomery keys.

mod ecdh;
mod ecdsa;
mod key;
mod keygen;
pub(super) mod params;
#[cfg(test)]
mod tests;

use cryptoki_sys as ck;

use super::Row;
use crate::hsm::params::ParamShape;

pub(super) use key::KEY_TYPES;

/// What is supported of curves over prime fields, as CK_MECHANISM_INFO tells it.
const FLAGS: ck::CK_FLAGS =
    ck::CKF_EC_F_P | ck::CKF_EC_OID | ck::CKF_EC_CURVENAME | ck::CKF_EC_UNCOMPRESS | ck::CKF_EC_COMPRESS;

const EC: Row = Row { min_key: 256, max_key: 521, extra_flags: FLAGS, key_types: &[ck::CKK_EC], ..Row::NONE };

macro_rules! ecdsa {
    ($kind:ident, $begin:path) => {
        Row { kind: ck::$kind, name: stringify!($kind), sign: Some($begin), ..EC }
    };
}

macro_rules! ecdh {
    ($kind:ident) => {
        Row {
            kind: ck::$kind,
            name: stringify!($kind),
            params: ParamShape::Ecdh1,
            min_key: 255,
            key_types: &[ck::CKK_EC, ck::CKK_EC_MONTGOMERY],
            derive: Some(ecdh::derive),
            ..EC
        }
    };
}

pub(super) const ROWS: &[Row] = &[
    Row { kind: ck::CKM_EC_KEY_PAIR_GEN, name: "CKM_EC_KEY_PAIR_GEN", generate_pair: Some(keygen::generate), ..EC },
    ecdsa!(CKM_ECDSA, ecdsa::sign),
    ecdsa!(CKM_ECDSA_SHA1, ecdsa::sign_hashed),
    ecdsa!(CKM_ECDSA_SHA224, ecdsa::sign_hashed),
    ecdsa!(CKM_ECDSA_SHA256, ecdsa::sign_hashed),
    ecdsa!(CKM_ECDSA_SHA384, ecdsa::sign_hashed),
    ecdsa!(CKM_ECDSA_SHA512, ecdsa::sign_hashed),
    ecdsa!(CKM_ECDSA_SHA3_224, ecdsa::sign_hashed),
    ecdsa!(CKM_ECDSA_SHA3_256, ecdsa::sign_hashed),
    ecdsa!(CKM_ECDSA_SHA3_384, ecdsa::sign_hashed),
    ecdsa!(CKM_ECDSA_SHA3_512, ecdsa::sign_hashed),
    ecdh!(CKM_ECDH1_DERIVE),
    ecdh!(CKM_ECDH1_COFACTOR_DERIVE),
];
