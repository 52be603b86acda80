//! Short Weierstrass curves: key pairs, ECDSA, ECDH.

use std::ptr::{self, NonNull};

use aws_lc_sys as sys;

use super::bignum::Bn;
use super::{clear_errors, failure};
use crate::error::Result;
use crate::hsm::crypto::SecretBytes;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Curve {
    P256,
    P384,
    P521,
    Secp256k1,
}

impl Curve {
    /// Bits of the field and of the order, which agree on these curves.
    pub(in crate::hsm) fn bits(self) -> u32 {
        match self {
            Self::P256 | Self::Secp256k1 => 256,
            Self::P384 => 384,
            Self::P521 => 521,
        }
    }

    /// Bytes of a coordinate, and of a scalar.
    pub(in crate::hsm) fn len(self) -> usize {
        self.bits().div_ceil(8) as usize
    }

    fn nid(self) -> i32 {
        match self {
            Self::P256 => sys::NID_X9_62_prime256v1,
            Self::P384 => sys::NID_secp384r1,
            Self::P521 => sys::NID_secp521r1,
            Self::Secp256k1 => sys::NID_secp256k1,
        }
    }
}

/// A private key, a public key, or both halves of a pair.
pub(in crate::hsm) struct EcKey {
    key: NonNull<sys::EC_KEY>,
    curve: Curve,
}

// SAFETY: an EC_KEY is not changed after it was made, and AWS-LC lets many threads read one.
unsafe impl Send for EcKey {}
// SAFETY: as above.
unsafe impl Sync for EcKey {}

impl EcKey {
    pub(in crate::hsm) fn generate(curve: Curve) -> Result<Self> {
        let this = Self::empty(curve)?;
        // SAFETY: the key is valid, has a group, and is not shared yet.
        match unsafe { sys::EC_KEY_generate_key(this.key.as_ptr()) } {
            1 => Ok(this),
            _ => Err(failure()),
        }
    }

    /// A private key without its point: enough to sign and to agree. None unless the big-endian
    /// scalar is in 1..n-1.
    pub(in crate::hsm) fn from_scalar(curve: Curve, scalar: &[u8]) -> Option<Self> {
        let scalar = Bn::from_bytes(scalar).ok().filter(|scalar| !scalar.is_zero())?;
        let this = Self::empty(curve).ok()?;
        // SAFETY: both are valid; the key is not shared yet. Scalars of n and more are refused.
        match unsafe { sys::EC_KEY_set_private_key(this.key.as_ptr(), scalar.as_ptr()) } {
            1 => Some(this),
            _ => {
                clear_errors();
                None
            }
        }
    }

    /// A whole pair from its private half.
    pub(in crate::hsm) fn pair_from_scalar(curve: Curve, scalar: &[u8]) -> Option<Self> {
        let this = Self::from_scalar(curve, scalar)?;
        let mut point = this.new_point().ok()?;
        // SAFETY: group, point and scalar are valid and belong together; a NULL point and factor
        // ask for the multiple of the base point only.
        let computed = unsafe {
            sys::EC_POINT_mul(
                this.group(),
                point.as_mut_ptr(),
                sys::EC_KEY_get0_private_key(this.key.as_ptr()),
                ptr::null(),
                ptr::null(),
                ptr::null_mut(),
            )
        };
        (computed == 1 && this.set_public(&point)).then_some(this)
    }

    /// A public key from a compressed or uncompressed point (SEC 1 §2.3.3). None unless it is a
    /// point of the curve other than infinity; cofactors are 1, so its order is right as well.
    pub(in crate::hsm) fn from_point(curve: Curve, octets: &[u8]) -> Option<Self> {
        let this = Self::empty(curve).ok()?;
        let point = this.parse_point(octets)?;
        this.set_public(&point).then_some(this)
    }

    pub(in crate::hsm) fn curve(&self) -> Curve {
        self.curve
    }

    /// The uncompressed point; fails for a private key without it.
    pub(in crate::hsm) fn point(&self) -> Result<Vec<u8>> {
        let mut octets = vec![0; 1 + 2 * self.curve.len()];
        // SAFETY: the key is valid; its point, where it has one, belongs to its group, and
        // `octets` is writable for its length.
        let written = unsafe {
            let point = sys::EC_KEY_get0_public_key(self.key.as_ptr());
            if point.is_null() {
                return Err(failure());
            }
            sys::EC_POINT_point2oct(
                self.group(),
                point,
                sys::point_conversion_form_t::POINT_CONVERSION_UNCOMPRESSED,
                octets.as_mut_ptr(),
                octets.len(),
                ptr::null_mut(),
            )
        };
        if written == octets.len() { Ok(octets) } else { Err(failure()) }
    }

    /// The private scalar, big-endian, as long as the order; fails for a public key.
    pub(in crate::hsm) fn scalar(&self) -> Result<SecretBytes> {
        // SAFETY: the key is valid and outlives the copy.
        let scalar = unsafe { Bn::copy_of(sys::EC_KEY_get0_private_key(self.key.as_ptr())) }?.ok_or_else(failure)?;
        SecretBytes::fill(self.curve.len(), |out| scalar.write_padded(out))
    }

    /// ECDSA over a digest of any length; `out` is exactly `2 * curve.len()` bytes of r and s.
    pub(in crate::hsm) fn sign(&self, digest: &[u8], out: &mut [u8]) -> Result<()> {
        let len = self.curve.len();
        if out.len() != 2 * len {
            return Err(failure());
        }
        // SAFETY: the digest's pointer and length are of one slice, and the key is valid.
        let signature = unsafe { sys::ECDSA_do_sign(digest.as_ptr(), digest.len(), self.key.as_ptr()) };
        let signature = Signature(NonNull::new(signature).ok_or_else(failure)?);
        let (r, s) = out.split_at_mut(len);
        // SAFETY: r and s belong to the signature, which outlives the call; each half of `out` is
        // writable for `len` bytes.
        let written = unsafe {
            sys::BN_bn2bin_padded(r.as_mut_ptr(), len, sys::ECDSA_SIG_get0_r(signature.0.as_ptr())) == 1
                && sys::BN_bn2bin_padded(s.as_mut_ptr(), len, sys::ECDSA_SIG_get0_s(signature.0.as_ptr())) == 1
        };
        if written { Ok(()) } else { Err(failure()) }
    }

    /// Whether the two halves of `signature` are a valid r and s.
    pub(in crate::hsm) fn verify(&self, digest: &[u8], signature: &[u8]) -> Result<bool> {
        let (r, s) = signature.split_at(signature.len() / 2);
        let (r, s) = (Bn::from_bytes(r)?, Bn::from_bytes(s)?);
        // SAFETY: ECDSA_SIG_new has no preconditions; NULL is turned into an error.
        let parsed = unsafe { sys::ECDSA_SIG_new() };
        let parsed = Signature(NonNull::new(parsed).ok_or_else(failure)?);
        // SAFETY: all are valid; ECDSA_SIG_set0 takes r and s over, and succeeds as neither is NULL.
        let valid = unsafe {
            sys::ECDSA_SIG_set0(parsed.0.as_ptr(), r.into_raw(), s.into_raw()) == 1
                && sys::ECDSA_do_verify(digest.as_ptr(), digest.len(), parsed.0.as_ptr(), self.key.as_ptr()) == 1
        };
        if !valid {
            clear_errors();
        }
        Ok(valid)
    }

    /// ECDH: the x coordinate, as long as the field. None if the peer's point is not valid.
    pub(in crate::hsm) fn agree(&self, peer: &[u8]) -> Option<Result<SecretBytes>> {
        let peer = self.parse_point(peer)?;
        Some(SecretBytes::fill(self.curve.len(), |out| {
            // SAFETY: point and key are valid and of one group; `out` is writable for its length.
            let written = unsafe {
                sys::ECDH_compute_key(out.as_mut_ptr().cast(), out.len(), peer.as_ptr(), self.key.as_ptr(), None)
            };
            if usize::try_from(written) == Ok(out.len()) { Ok(()) } else { Err(failure()) }
        }))
    }

    pub(super) fn as_ptr(&self) -> *mut sys::EC_KEY {
        self.key.as_ptr()
    }

    /// Takes over an EC_KEY that has a private half. None for a curve that is not supported.
    ///
    /// # Safety
    /// `key` is valid for the duration of the call.
    pub(super) unsafe fn scalar_of(key: *const sys::EC_KEY) -> Option<(Curve, SecretBytes)> {
        // SAFETY: valid by this function's contract; a key that was parsed has a group.
        let nid = unsafe { sys::EC_GROUP_get_curve_name(sys::EC_KEY_get0_group(key)) };
        let curve = [Curve::P256, Curve::P384, Curve::P521, Curve::Secp256k1].into_iter().find(|c| c.nid() == nid)?;
        // SAFETY: as above; the scalar belongs to the key, which outlives the copy.
        let scalar = unsafe { Bn::copy_of(sys::EC_KEY_get0_private_key(key)) }.ok()??;
        let scalar = SecretBytes::fill(curve.len(), |out| scalar.write_padded(out)).ok()?;
        Some((curve, scalar))
    }

    fn empty(curve: Curve) -> Result<Self> {
        // SAFETY: takes any number; NULL is turned into an error.
        let key = unsafe { sys::EC_KEY_new_by_curve_name(curve.nid()) };
        NonNull::new(key).map(|key| Self { key, curve }).ok_or_else(failure)
    }

    fn group(&self) -> *const sys::EC_GROUP {
        // SAFETY: the key is valid and was made with a group, which is static.
        unsafe { sys::EC_KEY_get0_group(self.key.as_ptr()) }
    }

    fn set_public(&self, point: &Point) -> bool {
        // SAFETY: both are valid and of one group; the key is not shared yet.
        unsafe { sys::EC_KEY_set_public_key(self.key.as_ptr(), point.as_ptr()) == 1 }
    }

    fn new_point(&self) -> Result<Point> {
        // SAFETY: the group is valid; NULL is turned into an error.
        let point = unsafe { sys::EC_POINT_new(self.group()) };
        NonNull::new(point).map(Point).ok_or_else(failure)
    }

    fn parse_point(&self, octets: &[u8]) -> Option<Point> {
        let len = self.curve.len();
        // The hybrid form and infinity are encodings that nobody needs.
        if !matches!((octets.first()?, octets.len() - 1), (4, l) if l == 2 * len)
            && !matches!((octets.first()?, octets.len() - 1), (2 | 3, l) if l == len)
        {
            return None;
        }
        let mut point = self.new_point().ok()?;
        // SAFETY: group and point are valid and belong together; pointer and length are of one
        // slice. The function checks that the point is on the curve.
        let valid = unsafe {
            sys::EC_POINT_oct2point(self.group(), point.as_mut_ptr(), octets.as_ptr(), octets.len(), ptr::null_mut())
                == 1
                && sys::EC_POINT_is_at_infinity(self.group(), point.as_ptr()) == 0
        };
        if !valid {
            clear_errors();
        }
        valid.then_some(point)
    }
}

impl Drop for EcKey {
    fn drop(&mut self) {
        // SAFETY: self owns the key, and nothing uses it after this.
        unsafe { sys::EC_KEY_free(self.key.as_ptr()) }
    }
}

struct Point(NonNull<sys::EC_POINT>);

impl Point {
    fn as_ptr(&self) -> *const sys::EC_POINT {
        self.0.as_ptr()
    }

    fn as_mut_ptr(&mut self) -> *mut sys::EC_POINT {
        self.0.as_ptr()
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        // SAFETY: self owns the point, and nothing uses it after this.
        unsafe { sys::EC_POINT_free(self.0.as_ptr()) }
    }
}

struct Signature(NonNull<sys::ECDSA_SIG>);

impl Drop for Signature {
    fn drop(&mut self) {
        // SAFETY: self owns the signature, and nothing uses it after this.
        unsafe { sys::ECDSA_SIG_free(self.0.as_ptr()) }
    }
}
