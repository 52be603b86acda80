//! PBKDF2 as a way to generate a key (PKCS#11 3.2 §6.37, RFC 8018).

use cryptoki_sys as ck;

use super::Row;
use super::generic_secret::{self, MAX_GENERATED};
use crate::error::{ErrorKind, Result};
use crate::hsm::crypto::aws_lc::digest::Hash;
use crate::hsm::crypto::aws_lc::kdf;
use crate::hsm::key::Secrets;
use crate::hsm::params::{Mechanism, ParamShape, Params};
use crate::hsm::value::{Attributes, Value};

/// The most iterations that a call may cost, over all blocks of the key: some ten seconds.
const MAX_ITERATIONS: u64 = 20_000_000;

pub(super) const ROWS: &[Row] = &[Row {
    kind: ck::CKM_PKCS5_PBKD2,
    name: "CKM_PKCS5_PBKD2",
    params: ParamShape::Pbkd2,
    key_types: &[
        ck::CKK_GENERIC_SECRET,
        ck::CKK_AES,
        ck::CKK_HKDF,
        ck::CKK_SHA_1_HMAC,
        ck::CKK_SHA224_HMAC,
        ck::CKK_SHA256_HMAC,
        ck::CKK_SHA384_HMAC,
        ck::CKK_SHA512_HMAC,
        ck::CKK_SHA512_224_HMAC,
        ck::CKK_SHA512_256_HMAC,
        ck::CKK_SHA3_224_HMAC,
        ck::CKK_SHA3_256_HMAC,
        ck::CKK_SHA3_384_HMAC,
        ck::CKK_SHA3_512_HMAC,
    ],
    generate: Some(generate),
    ..Row::NONE
}];

fn generate(mechanism: &Mechanism<'_>, attributes: &mut Attributes) -> Result<Secrets> {
    let Params::Pbkd2 { prf, salt, iterations, password } = &mechanism.params else {
        return Err(ErrorKind::MechanismParamInvalid.into());
    };
    let hash = match *prf {
        ck::CKP_PKCS5_PBKD2_HMAC_SHA1 => Hash::Sha1,
        ck::CKP_PKCS5_PBKD2_HMAC_SHA224 => Hash::Sha224,
        ck::CKP_PKCS5_PBKD2_HMAC_SHA256 => Hash::Sha256,
        ck::CKP_PKCS5_PBKD2_HMAC_SHA384 => Hash::Sha384,
        ck::CKP_PKCS5_PBKD2_HMAC_SHA512 => Hash::Sha512,
        ck::CKP_PKCS5_PBKD2_HMAC_SHA512_224 => Hash::Sha512_224,
        ck::CKP_PKCS5_PBKD2_HMAC_SHA512_256 => Hash::Sha512_256,
        _ => return Err(ErrorKind::MechanismParamInvalid.into()),
    };
    attributes.set_default(ck::CKA_KEY_TYPE, Value::Ulong(ck::CKK_GENERIC_SECRET));
    let len = generic_secret::value_len(attributes, MAX_GENERATED)?;
    let cost = iterations.saturating_mul(len.div_ceil(hash.len()) as u64);
    let iterations = match u32::try_from(*iterations) {
        Ok(iterations @ 1..) if cost <= MAX_ITERATIONS => iterations,
        _ => return Err(ErrorKind::MechanismParamInvalid.with("the iteration count of PBKDF2 is out of range")),
    };
    let mut secrets = Secrets::new();
    secrets.set(ck::CKA_VALUE, kdf::pbkdf2(hash, password.0, salt, iterations, len)?);
    Ok(secrets)
}
