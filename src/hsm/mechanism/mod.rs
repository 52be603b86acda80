//! Mechanisms: one row each in the table of their family's file, and one implementation.
//!
//! `C_GetMechanismList`, `C_GetMechanismInfo`, the parser of the parameter, the checks before an
//! operation and the README's table all come from the row.

mod aes;
mod aes_gcm;
mod aes_mac;
mod digest;
mod ec;
mod eddsa;
mod generic_secret;
mod hashes;
mod hkdf;
mod hmac;
mod key_wrap;
mod kms;
mod mac;
mod montgomery;
mod pbkdf2;
mod public_key;
mod rsa;
mod signing;
mod sp800_108;
#[cfg(test)]
mod testing;
mod wrap;

#[cfg(test)]
mod asymmetric_vectors;
#[cfg(test)]
mod vector_tests;

use std::sync::{Arc, LazyLock};

use cryptoki_sys as ck;

use super::command::{Function, Operation};
use super::crypto::SecretBytes;
use super::key::{Key, Secrets};
use super::params::{Mechanism, MechanismType, ParamShape};
use super::value::Attributes;
use crate::error::{ErrorKind, Result};

pub(super) use aes_gcm::generated_iv;
pub(super) use digest::resume as resume_digest;
pub(super) use wrap::{unpad_private_key, unpad_zeros};

/// A mechanism as the table has it.
pub(super) struct Row {
    pub(super) kind: MechanismType,
    /// The name in the standard.
    pub(super) name: &'static str,
    /// Sizes as `CK_MECHANISM_INFO` has them (bits or bytes, as the mechanism's section says).
    pub(super) min_key: u64,
    pub(super) max_key: u64,
    /// CKF_EC_* and the like; the usage flags follow from the functions below.
    pub(super) extra_flags: ck::CK_FLAGS,
    pub(super) params: ParamShape,
    /// Key types that may be used with it; of a generator, those it makes, the first one being
    /// implied. Empty for a digest.
    pub(super) key_types: &'static [ck::CK_KEY_TYPE],
    /// Encrypt and decrypt.
    pub(super) cipher: Option<BeginFn>,
    pub(super) digest: Option<DigestFn>,
    /// Sign and verify.
    pub(super) sign: Option<BeginFn>,
    /// Sign-recover and verify-recover.
    pub(super) recover: Option<BeginFn>,
    pub(super) generate: Option<GenerateFn>,
    pub(super) generate_pair: Option<GeneratePairFn>,
    pub(super) wrap: Option<WrapFns>,
    pub(super) derive: Option<DeriveFn>,
    /// Whether an unwrap tells, by failing or not, about the padding of the plaintext: such
    /// unwraps are off unless configured.
    pub(super) oracle_prone: bool,
    /// The block to which wrapping fills a key up with zeros, 0 if it does not: what is unwrapped
    /// goes through [`unpad_zeros`], or [`unpad_private_key`].
    pub(super) zero_pad: usize,
}

/// Makes the operation. The key's usage, type and allowed mechanisms have been checked; `function`
/// says the direction. Parameters are checked here.
pub(super) type BeginFn = fn(&Mechanism<'_>, Function, Arc<Key>) -> Result<Box<dyn Operation>>;

/// Makes the operation of a digest, which has no key.
pub(super) type DigestFn = fn(&Mechanism<'_>) -> Result<Box<dyn Operation>>;

/// Makes a secret key's value. `attributes` is the checked template (CKA_VALUE_LEN, CKA_KEY_TYPE);
/// the function may add attributes that follow.
pub(super) type GenerateFn = fn(&Mechanism<'_>, &mut Attributes) -> Result<Secrets>;

/// Makes a pair. The checked templates are completed in place (modulus, point, parameters on both
/// halves); the private half's secrets are returned.
pub(super) type GeneratePairFn =
    fn(&Mechanism<'_>, public: &mut Attributes, private: &mut Attributes) -> Result<Secrets>;

/// Derives `want` bytes (None: the mechanism's natural length) from a base key.
pub(super) type DeriveFn = fn(&Derivation<'_>) -> Result<Vec<SecretBytes>>;

pub(super) struct Derivation<'a> {
    pub(super) mechanism: &'a Mechanism<'a>,
    pub(super) base: &'a Key,
    pub(super) salt_key: Option<&'a Key>,
    /// Lengths wanted in bytes: of the key, then of each additional key of SP 800-108. None where
    /// neither the template nor the key type says.
    pub(super) lengths: &'a [Option<usize>],
}

/// Encrypts a key's bytes.
pub(super) type WrapFn = fn(&Mechanism<'_>, wrapping: &Arc<Key>, plain: &[u8]) -> Result<Vec<u8>>;

/// Wrapping works on the key's encoded bytes: the value of a secret key, PKCS#8 of a private key.
#[derive(Clone, Copy)]
pub(super) struct WrapFns {
    pub(super) wrap: WrapFn,
    /// Any failure is CKR_WRAPPED_KEY_INVALID (or CKR_WRAPPED_KEY_LEN_RANGE for a length that
    /// can be judged without the key), the same for every reason.
    pub(super) unwrap: fn(&Mechanism<'_>, unwrapping: &Arc<Key>, wrapped: &[u8]) -> Result<SecretBytes>,
    /// Whether a private key may be wrapped with it.
    pub(super) private_keys: bool,
}

impl Row {
    /// A row with no function: what a family's table starts its rows from.
    pub(super) const NONE: Self = Self {
        kind: 0,
        name: "",
        min_key: 0,
        max_key: 0,
        extra_flags: 0,
        params: ParamShape::None,
        key_types: &[],
        cipher: None,
        digest: None,
        sign: None,
        recover: None,
        generate: None,
        generate_pair: None,
        wrap: None,
        derive: None,
        oracle_prone: false,
        zero_pad: 0,
    };

    fn flags(&self) -> ck::CK_FLAGS {
        let mut flags = self.extra_flags;
        for (present, bits) in [
            (self.cipher.is_some(), ck::CKF_ENCRYPT | ck::CKF_DECRYPT),
            (self.digest.is_some(), ck::CKF_DIGEST),
            (self.sign.is_some(), ck::CKF_SIGN | ck::CKF_VERIFY),
            (self.recover.is_some(), ck::CKF_SIGN_RECOVER | ck::CKF_VERIFY_RECOVER),
            (self.generate.is_some(), ck::CKF_GENERATE),
            (self.generate_pair.is_some(), ck::CKF_GENERATE_KEY_PAIR),
            (self.wrap.is_some(), ck::CKF_WRAP | ck::CKF_UNWRAP),
            (self.derive.is_some(), ck::CKF_DERIVE),
        ] {
            if present {
                flags |= bits;
            }
        }
        flags
    }
}

/// The front of the caller's buffer, exactly `need` bytes; None if there is no buffer or too small
/// a one, for which the answer is [`Outcome::Needed`](super::command::Outcome::Needed).
fn room(output: Option<&mut [u8]>, need: usize) -> Option<&mut [u8]> {
    output.and_then(|output| output.get_mut(..need))
}

/// The families' tables.
const FAMILIES: &[&[Row]] = &[
    digest::ROWS,
    generic_secret::ROWS,
    hmac::ROWS,
    aes::ROWS,
    aes_gcm::ROWS,
    key_wrap::ROWS,
    kms::ROWS,
    aes_mac::ROWS,
    hkdf::ROWS,
    pbkdf2::ROWS,
    sp800_108::ROWS,
    rsa::ROWS,
    ec::ROWS,
    eddsa::ROWS,
    montgomery::ROWS,
];

static TABLE: LazyLock<Vec<&'static Row>> = LazyLock::new(|| {
    let mut rows: Vec<&'static Row> = FAMILIES.iter().flat_map(|family| family.iter()).collect();
    rows.sort_by_key(|row| row.kind);
    rows
});

/// The table by number: each row is at its hash, or at the next free place.
static INDEX: LazyLock<Box<[Option<&'static Row>; INDEX_SIZE]>> = LazyLock::new(|| {
    let mut index = Box::new([None; INDEX_SIZE]);
    for row in TABLE.iter() {
        let mut at = index_of(row.kind);
        while index[at].is_some() {
            at = (at + 1) % INDEX_SIZE;
        }
        index[at] = Some(*row);
    }
    index
});

/// A power of two, several times the number of rows.
const INDEX_SIZE: usize = 1024;

fn index_of(kind: MechanismType) -> usize {
    (kind.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as usize % INDEX_SIZE
}

/// The row of a mechanism; CKR_MECHANISM_INVALID if there is none.
pub(super) fn row(kind: MechanismType) -> Result<&'static Row> {
    let mut at = index_of(kind);
    while let Some(row) = INDEX[at] {
        if row.kind == kind {
            return Ok(row);
        }
        at = (at + 1) % INDEX_SIZE;
    }
    Err(ErrorKind::MechanismInvalid.into())
}

/// What the host may know of a mechanism.
#[derive(Debug, Clone, Copy)]
pub struct MechanismInfo {
    pub kind: MechanismType,
    pub name: &'static str,
    pub min_key: u64,
    pub max_key: u64,
    /// CKF_*.
    pub flags: ck::CK_FLAGS,
    pub params: ParamShape,
    /// Whether unwrapping with it is a padding oracle, which the settings must allow.
    pub oracle_prone: bool,
}

/// Every mechanism, in the order of its number.
pub fn mechanisms() -> impl Iterator<Item = MechanismInfo> {
    TABLE.iter().map(|row| info(row))
}

/// One mechanism; CKR_MECHANISM_INVALID if it is not supported.
pub fn mechanism_info(kind: MechanismType) -> Result<MechanismInfo> {
    row(kind).map(info)
}

pub(super) fn begin_digest(mechanism: &Mechanism<'_>) -> Result<Box<dyn Operation>> {
    row(mechanism.kind)?.digest.ok_or(ErrorKind::MechanismInvalid)?(mechanism)
}

/// The form of a mechanism's parameter, None if the mechanism is not supported.
pub fn param_shape(kind: MechanismType) -> Option<ParamShape> {
    row(kind).ok().map(|row| row.params)
}

fn info(row: &Row) -> MechanismInfo {
    MechanismInfo {
        kind: row.kind,
        name: row.name,
        min_key: row.min_key,
        max_key: row.max_key,
        flags: row.flags(),
        params: row.params,
        oracle_prone: row.oracle_prone,
    }
}

/// Takes a private key's values out of PKCS#8.
pub(super) type FromPkcs8Fn = fn(&[u8]) -> Result<(Attributes, Secrets)>;

/// A key type: how its values are checked, completed, encoded.
pub(super) struct KeyType {
    pub(super) kind: ck::CK_KEY_TYPE,
    pub(super) name: &'static str,
    /// The secret attributes it has: (class, attribute). CKA_VALUE of a secret key, the private
    /// exponent and primes of RSA, ...
    pub(super) secrets: &'static [super::value::AttributeType],
    /// Checks the values that a template, an unwrap or a derivation gave (points on the curve,
    /// moduli, lengths) and adds those that follow (CKA_VALUE_LEN, CKA_MODULUS_BITS, CKA_EC_POINT,
    /// CKA_CHECK_VALUE, CKA_PUBLIC_KEY_INFO on both halves, CRT values). For all three classes.
    /// CKR_TEMPLATE_INCOMPLETE, CKR_ATTRIBUTE_VALUE_INVALID, CKR_CURVE_NOT_SUPPORTED, ...
    pub(super) complete: fn(class: ck::CK_OBJECT_CLASS, &mut Attributes, &mut Secrets) -> Result<()>,
    /// PKCS#8 PrivateKeyInfo of a private key; None for secret keys (their CKA_VALUE is wrapped).
    pub(super) to_pkcs8: Option<fn(&Key) -> Result<SecretBytes>>,
    /// Values of a private key from PKCS#8, not yet completed.
    pub(super) from_pkcs8: Option<FromPkcs8Fn>,
    /// Security strength in bits (SP 800-57 part 1, table 2).
    pub(super) strength: fn(&Key) -> u32,
}

/// The families' key types.
const KEY_TYPES: &[&[KeyType]] = &[
    generic_secret::KEY_TYPES,
    hmac::KEY_TYPES,
    hkdf::KEY_TYPES,
    aes::KEY_TYPES,
    rsa::KEY_TYPES,
    ec::KEY_TYPES,
    eddsa::KEY_TYPES,
    montgomery::KEY_TYPES,
];

/// The name of a supported key type in the standard.
pub fn key_type_name(kind: ck::CK_KEY_TYPE) -> Option<&'static str> {
    key_type(kind).map(|row| row.name)
}

/// The row of a key type, if it is supported.
pub(super) fn key_type(kind: ck::CK_KEY_TYPE) -> Option<&'static KeyType> {
    KEY_TYPES.iter().flat_map(|family| family.iter()).find(|row| row.kind == kind)
}
