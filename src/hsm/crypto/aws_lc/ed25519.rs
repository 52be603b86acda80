//! Ed25519 with its three schemes (RFC 8032 §5.1).

use aws_lc_sys as sys;

use super::bignum::{Arithmetic, Bn};
use super::{clear_errors, failure, random};
use crate::error::{ErrorKind, Result};
use crate::hsm::crypto::SecretBytes;

pub(in crate::hsm) const SEED_LEN: usize = 32;
pub(in crate::hsm) const PUBLIC_LEN: usize = 32;
pub(in crate::hsm) const SIGNATURE_LEN: usize = 64;

/// Which of the three schemes, with the context of two of them (at most 255 bytes).
#[derive(Debug, Clone)]
pub(in crate::hsm) enum Scheme {
    Pure,
    Context(Vec<u8>),
    /// The input is the SHA-512 digest of the message.
    PreHashed(Vec<u8>),
}

/// A private key, with its public half: the form that AWS-LC signs with.
pub(in crate::hsm) struct PrivateKey(SecretBytes);

impl PrivateKey {
    pub(in crate::hsm) fn generate() -> Result<Self> {
        let seed = random::secret(SEED_LEN)?;
        Self::from_seed(seed.expose())
    }

    /// CKR_ATTRIBUTE_VALUE_INVALID unless the seed has 32 bytes.
    pub(in crate::hsm) fn from_seed(seed: &[u8]) -> Result<Self> {
        if seed.len() != SEED_LEN {
            return Err(ErrorKind::AttributeValueInvalid.with("an Ed25519 private key has 32 bytes"));
        }
        let mut public = [0; PUBLIC_LEN];
        let pair = SecretBytes::fill(SEED_LEN + PUBLIC_LEN, |out| {
            // SAFETY: the buffers have the 32, 64 and 32 bytes that the function writes and reads.
            unsafe { sys::ED25519_keypair_from_seed(public.as_mut_ptr(), out.as_mut_ptr(), seed.as_ptr()) };
            Ok(())
        })?;
        Ok(Self(pair))
    }

    pub(in crate::hsm) fn seed(&self) -> &[u8] {
        &self.0.expose()[..SEED_LEN]
    }

    pub(in crate::hsm) fn public(&self) -> &[u8] {
        &self.0.expose()[SEED_LEN..]
    }

    pub(in crate::hsm) fn sign(&self, scheme: &Scheme, input: &[u8], out: &mut [u8]) -> Result<()> {
        if out.len() != SIGNATURE_LEN {
            return Err(failure());
        }
        let (out, key) = (out.as_mut_ptr(), self.0.expose().as_ptr());
        // SAFETY: `out` has 64 bytes and the key 64; pointers and lengths are of one slice each; a
        // digest has 64 bytes.
        let signed = unsafe {
            match scheme {
                Scheme::Pure => sys::ED25519_sign(out, input.as_ptr(), input.len(), key),
                Scheme::Context(context) => {
                    sys::ED25519ctx_sign(out, input.as_ptr(), input.len(), key, context.as_ptr(), context.len())
                }
                Scheme::PreHashed(_) if input.len() != 64 => 0,
                Scheme::PreHashed(context) => {
                    sys::ED25519ph_sign_digest(out, input.as_ptr(), key, context.as_ptr(), context.len())
                }
            }
        };
        if signed == 1 { Ok(()) } else { Err(failure()) }
    }
}

/// Whether the signature is valid. `public` has 32 bytes and `signature` 64, or it is not.
pub(in crate::hsm) fn verify(public: &[u8], scheme: &Scheme, input: &[u8], signature: &[u8]) -> bool {
    if public.len() != PUBLIC_LEN || signature.len() != SIGNATURE_LEN {
        return false;
    }
    let (key, signature) = (public.as_ptr(), signature.as_ptr());
    // SAFETY: key and signature have 32 and 64 bytes; pointers and lengths are of one slice each; a
    // digest has 64 bytes.
    let valid = unsafe {
        match scheme {
            Scheme::Pure => sys::ED25519_verify(input.as_ptr(), input.len(), signature, key),
            Scheme::Context(context) => {
                sys::ED25519ctx_verify(input.as_ptr(), input.len(), signature, key, context.as_ptr(), context.len())
            }
            Scheme::PreHashed(_) if input.len() != 64 => 0,
            Scheme::PreHashed(context) => {
                sys::ED25519ph_verify_digest(input.as_ptr(), signature, key, context.as_ptr(), context.len())
            }
        }
    };
    if valid != 1 {
        clear_errors();
    }
    valid == 1
}

/// Whether 32 bytes are the canonical encoding of a point of the curve, of more than small order.
pub(in crate::hsm) fn valid_public(public: &[u8]) -> Result<bool> {
    let Ok(mut y) = <[u8; PUBLIC_LEN]>::try_from(public) else { return Ok(false) };
    let x_is_odd = y[31] >> 7 == 1;
    y[31] &= 0x7f;
    y.reverse();
    if SMALL_ORDER_Y.contains(&y) {
        return Ok(false);
    }
    let math = Arithmetic::new()?;
    let (p, one, y) = (Bn::from_bytes(&P)?, Bn::from_word(1)?, Bn::from_bytes(&y)?);
    if y.cmp(&p).is_ge() {
        return Ok(false);
    }
    // x² = (y² - 1) / (d y² + 1), and a / b is a square if and only if a b is (RFC 8032 §5.1.3).
    let y2 = math.mul_mod(&y, &y, &p)?;
    let numerator = math.rem(&math.sub(&math.add(&y2, &p)?, &one)?, &p)?;
    let denominator = math.add(&math.mul_mod(&Bn::from_bytes(&D)?, &y2, &p)?, &one)?;
    let product = math.mul_mod(&numerator, &denominator, &p)?;
    if product.is_zero() {
        return Ok(!x_is_odd);
    }
    let half = math.halve(&math.sub(&p, &one)?)?;
    Ok(math.exp_mod(&product, &half, &p)?.equals_word(1))
}

/// The field's prime, 2^255 - 19.
const P: [u8; 32] = {
    let mut p = [0xff; 32];
    p[0] = 0x7f;
    p[31] = 0xed;
    p
};

/// The curve's d, -121665/121666.
const D: [u8; 32] = [
    0x52, 0x03, 0x6c, 0xee, 0x2b, 0x6f, 0xfe, 0x73, 0x8c, 0xc7, 0x40, 0x79, 0x77, 0x79, 0xe8, 0x98, 0x00, 0x70, 0x0a,
    0x4d, 0x41, 0x41, 0xd8, 0xab, 0x75, 0xeb, 0x4d, 0xca, 0x13, 0x59, 0x78, 0xa3,
];

/// y, big-endian, of the eight points whose order divides the cofactor.
const SMALL_ORDER_Y: [[u8; 32]; 5] = {
    let (mut one, mut minus_one) = ([0; 32], P);
    one[31] = 1;
    minus_one[31] = 0xec;
    [
        [0; 32],
        one,
        minus_one,
        [
            0x05, 0xfc, 0x53, 0x6d, 0x88, 0x02, 0x38, 0xb1, 0x39, 0x33, 0xc6, 0xd3, 0x05, 0xac, 0xdf, 0xd5, 0xf0, 0x98,
            0xef, 0xf2, 0x89, 0xf4, 0xc3, 0x45, 0xb0, 0x27, 0xb2, 0xc2, 0x8f, 0x95, 0xe8, 0x26,
        ],
        [
            0x7a, 0x03, 0xac, 0x92, 0x77, 0xfd, 0xc7, 0x4e, 0xc6, 0xcc, 0x39, 0x2c, 0xfa, 0x53, 0x20, 0x2a, 0x0f, 0x67,
            0x10, 0x0d, 0x76, 0x0b, 0x3c, 0xba, 0x4f, 0xd8, 0x4d, 0x3d, 0x70, 0x6a, 0x17, 0xc7,
        ],
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_checked() {
        for _ in 0..20 {
            let key = PrivateKey::generate().unwrap();
            assert!(valid_public(key.public()).unwrap());
        }
        // Of 256 y values about half have no x; all eight small-order points are refused.
        let on_curve = (0..=255).filter(|low| {
            let mut y = [7; 32];
            y[0] = *low;
            valid_public(&y).unwrap()
        });
        let count = on_curve.count();
        assert!((80..176).contains(&count), "{count}");
        for mut y in SMALL_ORDER_Y {
            y.reverse();
            for sign in [0, 0x80] {
                y[31] |= sign;
                assert!(!valid_public(&y).unwrap());
            }
        }
        let mut not_canonical = P;
        not_canonical.reverse();
        not_canonical[0] += 4;
        assert!(!valid_public(&not_canonical).unwrap());
    }
}
