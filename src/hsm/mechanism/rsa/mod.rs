//! RSA (PKCS#11 3.2 §6.1).

mod aes_key_wrap;
mod implicit_rejection;
mod key;
mod keygen;
mod oaep;
mod pkcs1;
mod pss;
mod raw;
mod single_part;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::sync::Arc;

use cryptoki_sys as ck;

use self::single_part::{Block, single_part};
use super::signing::Scheme;
use super::{Row, WrapFns};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::Function;
use crate::hsm::crypto::SecretBytes;
use crate::hsm::crypto::aws_lc::rsa::RsaKey;
use crate::hsm::key::Key;
use crate::hsm::params::ParamShape;

pub(super) use key::KEY_TYPES;

/// Sizes in bits of keys that are made, sign, encrypt and decrypt.
const BITS: RangeInclusive<u32> = 2048..=4096;

/// Sizes of keys that verify: old signatures outlive the keys that made them.
const VERIFY_BITS: RangeInclusive<u32> = 1024..=4096;

const RSA: Row =
    Row { min_key: *BITS.start() as u64, max_key: *BITS.end() as u64, key_types: &[ck::CKK_RSA], ..Row::NONE };

/// A row for signatures: the smaller keys verify only.
const SIGN: Row = Row { min_key: *VERIFY_BITS.start() as u64, ..RSA };

macro_rules! hashed {
    ($kind:ident, $params:ident, $begin:path) => {
        Row { kind: ck::$kind, name: stringify!($kind), params: ParamShape::$params, sign: Some($begin), ..SIGN }
    };
}

pub(super) const ROWS: &[Row] = &[
    Row {
        kind: ck::CKM_RSA_PKCS_KEY_PAIR_GEN,
        name: "CKM_RSA_PKCS_KEY_PAIR_GEN",
        generate_pair: Some(keygen::generate),
        ..RSA
    },
    Row {
        kind: ck::CKM_RSA_PKCS,
        name: "CKM_RSA_PKCS",
        cipher: Some(pkcs1::cipher),
        sign: Some(pkcs1::sign),
        recover: Some(pkcs1::recover),
        wrap: Some(WrapFns { wrap: pkcs1::wrap, unwrap: pkcs1::unwrap, private_keys: false }),
        oracle_prone: true,
        ..SIGN
    },
    Row {
        kind: ck::CKM_RSA_X_509,
        name: "CKM_RSA_X_509",
        cipher: Some(raw::cipher),
        sign: Some(raw::sign),
        recover: Some(raw::recover),
        ..SIGN
    },
    Row {
        kind: ck::CKM_RSA_PKCS_OAEP,
        name: "CKM_RSA_PKCS_OAEP",
        params: ParamShape::Oaep,
        cipher: Some(oaep::cipher),
        wrap: Some(WrapFns { wrap: oaep::wrap, unwrap: oaep::unwrap, private_keys: false }),
        ..RSA
    },
    Row {
        kind: ck::CKM_RSA_AES_KEY_WRAP,
        name: "CKM_RSA_AES_KEY_WRAP",
        params: ParamShape::RsaAesKeyWrap,
        wrap: Some(WrapFns { wrap: aes_key_wrap::wrap, unwrap: aes_key_wrap::unwrap, private_keys: true }),
        ..RSA
    },
    hashed!(CKM_SHA1_RSA_PKCS, None, pkcs1::sign_hashed),
    hashed!(CKM_SHA224_RSA_PKCS, None, pkcs1::sign_hashed),
    hashed!(CKM_SHA256_RSA_PKCS, None, pkcs1::sign_hashed),
    hashed!(CKM_SHA384_RSA_PKCS, None, pkcs1::sign_hashed),
    hashed!(CKM_SHA512_RSA_PKCS, None, pkcs1::sign_hashed),
    hashed!(CKM_SHA3_224_RSA_PKCS, None, pkcs1::sign_hashed),
    hashed!(CKM_SHA3_256_RSA_PKCS, None, pkcs1::sign_hashed),
    hashed!(CKM_SHA3_384_RSA_PKCS, None, pkcs1::sign_hashed),
    hashed!(CKM_SHA3_512_RSA_PKCS, None, pkcs1::sign_hashed),
    hashed!(CKM_RSA_PKCS_PSS, Pss, pss::sign),
    hashed!(CKM_SHA1_RSA_PKCS_PSS, Pss, pss::sign_hashed),
    hashed!(CKM_SHA224_RSA_PKCS_PSS, Pss, pss::sign_hashed),
    hashed!(CKM_SHA256_RSA_PKCS_PSS, Pss, pss::sign_hashed),
    hashed!(CKM_SHA384_RSA_PKCS_PSS, Pss, pss::sign_hashed),
    hashed!(CKM_SHA512_RSA_PKCS_PSS, Pss, pss::sign_hashed),
    hashed!(CKM_SHA3_224_RSA_PKCS_PSS, Pss, pss::sign_hashed),
    hashed!(CKM_SHA3_256_RSA_PKCS_PSS, Pss, pss::sign_hashed),
    hashed!(CKM_SHA3_384_RSA_PKCS_PSS, Pss, pss::sign_hashed),
    hashed!(CKM_SHA3_512_RSA_PKCS_PSS, Pss, pss::sign_hashed),
];

/// A key that was checked for what it is to do.
struct Checked(Arc<Key>);

impl Checked {
    /// CKR_KEY_TYPE_INCONSISTENT for the wrong half, CKR_KEY_SIZE_RANGE for a wrong size.
    fn new(key: Arc<Key>, function: Function) -> Result<Self> {
        check(&key, function)?;
        Ok(Self(key))
    }

    fn rsa(&self) -> Result<&RsaKey> {
        key::engine(&self.0)
    }
}

fn check(key: &Key, function: Function) -> Result<&RsaKey> {
    let (class, bits) = match function {
        Function::Sign | Function::SignRecover | Function::Decrypt => (ck::CKO_PRIVATE_KEY, BITS),
        Function::Verify | Function::VerifyRecover => (ck::CKO_PUBLIC_KEY, VERIFY_BITS),
        Function::Encrypt | Function::Digest => (ck::CKO_PUBLIC_KEY, BITS),
    };
    if key.class() != class {
        return Err(ErrorKind::KeyTypeInconsistent.into());
    }
    let rsa = key::engine(key)?;
    if bits.contains(&rsa.bits()) { Ok(rsa) } else { Err(ErrorKind::KeySizeRange.into()) }
}

/// The checked key of a wrap.
fn wrapping(key: &Key) -> Result<&RsaKey> {
    check(key, Function::Encrypt).map_err(|error| match error.kind() {
        ErrorKind::KeySizeRange => ErrorKind::WrappingKeySizeRange.into(),
        ErrorKind::KeyTypeInconsistent => ErrorKind::WrappingKeyTypeInconsistent.into(),
        _ => error,
    })
}

/// The checked key of an unwrap.
fn unwrapping(key: &Key) -> Result<&RsaKey> {
    check(key, Function::Decrypt).map_err(|error| match error.kind() {
        ErrorKind::KeySizeRange => ErrorKind::UnwrappingKeySizeRange.into(),
        ErrorKind::KeyTypeInconsistent => ErrorKind::UnwrappingKeyTypeInconsistent.into(),
        _ => error,
    })
}
