//! Generation of pairs (PKCS#11 3.2 §6.1.4).

use cryptoki_sys as ck;

use super::super::generic_secret::imply_key_type;
use super::BITS;
use super::key::store_pair;
use crate::error::{ErrorKind, Result};
use crate::hsm::crypto::aws_lc::rsa::RsaKey;
use crate::hsm::key::Secrets;
use crate::hsm::params::Mechanism;
use crate::hsm::value::Attributes;

const F4: [u8; 3] = [1, 0, 1];

/// Needs CKA_MODULUS_BITS of the public template, and takes CKA_PUBLIC_EXPONENT: odd, at least 3
/// and of 32 bits at most; 65537 by default.
pub(super) fn generate(_: &Mechanism<'_>, public: &mut Attributes, private: &mut Attributes) -> Result<Secrets> {
    let bits =
        public.ulong(ck::CKA_MODULUS_BITS).ok_or_else(|| ErrorKind::TemplateIncomplete.with("CKA_MODULUS_BITS"))?;
    let bits = u32::try_from(bits).ok().filter(|bits| BITS.contains(bits)).ok_or(ErrorKind::KeySizeRange)?;
    let given = public.bytes(ck::CKA_PUBLIC_EXPONENT).filter(|e| !e.is_empty()).unwrap_or(&F4);
    let e = exponent(given).ok_or_else(|| ErrorKind::AttributeValueInvalid.with("CKA_PUBLIC_EXPONENT"))?;
    imply_key_type(public, ck::CKK_RSA)?;
    imply_key_type(private, ck::CKK_RSA)?;
    let key = RsaKey::generate(bits, &e.to_be_bytes())?;
    let mut secrets = Secrets::new();
    store_pair(&key, public, private, &mut secrets)?;
    Ok(secrets)
}

fn exponent(bytes: &[u8]) -> Option<u32> {
    let e = bytes.iter().try_fold(0u64, |e, byte| {
        let e = e << 8 | u64::from(*byte);
        (e <= u32::MAX.into()).then_some(e)
    })?;
    u32::try_from(e).ok().filter(|e| *e >= 3 && e % 2 == 1)
}
