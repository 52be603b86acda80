//! RSA: keys with their checks and missing parts, and the operations of PKCS #1 (RFC 8017).

use std::os::raw::c_int;
use std::ptr::{self, NonNull};

use aws_lc_sys as sys;

use super::bignum::{Arithmetic, Bn};
use super::digest::Hash;
use super::pkey::Pkey;
use super::{check, clear_errors, failure};
use crate::error::{ErrorKind, Result};
use crate::hsm::crypto::SecretBytes;

/// The parts of a key as big-endian integers; what is absent is computed where it can be.
pub(in crate::hsm) struct RsaParts {
    pub(in crate::hsm) n: Vec<u8>,
    pub(in crate::hsm) e: Option<Vec<u8>>,
    pub(in crate::hsm) d: Option<SecretBytes>,
    pub(in crate::hsm) p: Option<SecretBytes>,
    pub(in crate::hsm) q: Option<SecretBytes>,
    pub(in crate::hsm) dp: Option<SecretBytes>,
    pub(in crate::hsm) dq: Option<SecretBytes>,
    pub(in crate::hsm) qi: Option<SecretBytes>,
}

/// Padding of a raw operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Padding {
    None,
    /// RSASSA-PKCS1-v1_5 (block type 1) when signing, RSAES-PKCS1-v1_5 (block type 2) when
    /// encrypting.
    Pkcs1,
}

impl Padding {
    fn id(self) -> c_int {
        match self {
            Self::None => sys::RSA_NO_PADDING,
            Self::Pkcs1 => sys::RSA_PKCS1_PADDING,
        }
    }
}

/// A public key, or a pair.
pub(in crate::hsm) struct RsaKey {
    /// Owns `rsa`.
    pkey: Pkey,
    rsa: NonNull<sys::RSA>,
    bits: u32,
}

// SAFETY: after it was made an RSA is used by operations only, which AWS-LC lets many threads do
// at once (its caches are behind a lock of its own).
unsafe impl Send for RsaKey {}
// SAFETY: as above.
unsafe impl Sync for RsaKey {}

impl RsaKey {
    /// A new pair. CKR_KEY_SIZE_RANGE for a size that AWS-LC does not make: it rounds down.
    pub(in crate::hsm) fn generate(bits: u32, e: &[u8]) -> Result<Self> {
        if !bits.is_multiple_of(128) {
            return Err(ErrorKind::KeySizeRange.with("RSA keys are made in multiples of 128 bits"));
        }
        let e = Bn::from_bytes(e)?;
        let this = Self::new(|rsa| {
            let bits = c_int::try_from(bits).map_err(|_| ErrorKind::KeySizeRange)?;
            // SAFETY: both are valid; the key is not shared yet; no callback is given.
            check(unsafe { sys::RSA_generate_key_ex(rsa, bits, e.as_ptr(), ptr::null_mut()) })
        })?;
        if this.bits == bits { Ok(this) } else { Err(ErrorKind::KeySizeRange.into()) }
    }

    /// A public key; None if the modulus is even or the exponent not odd or not in 3..2^33.
    pub(in crate::hsm) fn public(n: &[u8], e: &[u8]) -> Result<Option<Self>> {
        let (n, e) = (Bn::from_bytes(n)?, Bn::from_bytes(e)?);
        let this = Self::new(|rsa| {
            // SAFETY: all are valid, the key is not shared yet, and it takes n and e over.
            check(unsafe { sys::RSA_set0_key(rsa, n.into_raw(), e.into_raw(), ptr::null_mut()) })
        })?;
        Ok(this.is_consistent().then_some(this))
    }

    /// A pair from parts of which all are present and were checked before.
    pub(in crate::hsm) fn pair(parts: &RsaParts) -> Result<Self> {
        let secret = |part: &Option<SecretBytes>| {
            part.as_ref().ok_or_else(failure).and_then(|part| Bn::from_bytes(part.expose()))
        };
        let e = Bn::from_bytes(parts.e.as_deref().ok_or_else(failure)?)?;
        let (n, d) = (Bn::from_bytes(&parts.n)?, secret(&parts.d)?);
        let (p, q) = (secret(&parts.p)?, secret(&parts.q)?);
        let (dp, dq, qi) = (secret(&parts.dp)?, secret(&parts.dq)?, secret(&parts.qi)?);
        Self::new(|rsa| {
            // SAFETY: all are valid, the key is not shared yet, and it takes the parts over. The
            // functions fail for NULL parts only, of which there are none.
            unsafe {
                check(sys::RSA_set0_key(rsa, n.into_raw(), e.into_raw(), d.into_raw()))?;
                check(sys::RSA_set0_factors(rsa, p.into_raw(), q.into_raw()))?;
                check(sys::RSA_set0_crt_params(rsa, dp.into_raw(), dq.into_raw(), qi.into_raw()))
            }
        })
    }

    /// A pair from a modulus, a private exponent and whatever else is given; fills in the rest of
    /// `parts`. None unless all parts belong together.
    pub(in crate::hsm) fn import(parts: &mut RsaParts) -> Result<Option<Self>> {
        let Some(()) = complete(parts)? else { return Ok(None) };
        let this = Self::pair(parts)?;
        Ok((this.is_consistent() && this.agrees_with_itself()).then_some(this))
    }

    pub(in crate::hsm) fn bits(&self) -> u32 {
        self.bits
    }

    /// Bytes of the modulus, of a signature, of a ciphertext.
    pub(in crate::hsm) fn len(&self) -> usize {
        self.bits.div_ceil(8) as usize
    }

    pub(in crate::hsm) fn parts(&self) -> Result<RsaParts> {
        // SAFETY: the RSA is valid.
        unsafe { RsaParts::copy_of(self.as_ptr()) }
    }

    /// RSASSA-PKCS1-v1_5 over a digest; `out` is `len()` bytes.
    pub(in crate::hsm) fn sign_pkcs1(&self, hash: Hash, digest: &[u8], out: &mut [u8]) -> Result<()> {
        self.whole(out)?;
        let mut written = 0;
        // SAFETY: the key is valid, the digest's pointer and length are of one slice, and `out`
        // has the modulus's length.
        check(unsafe {
            sys::RSA_sign(nid(hash), digest.as_ptr(), digest.len(), out.as_mut_ptr(), &mut written, self.as_ptr())
        })
    }

    pub(in crate::hsm) fn verify_pkcs1(&self, hash: Hash, digest: &[u8], signature: &[u8]) -> bool {
        // SAFETY: the key is valid; pointers and lengths are of one slice each.
        succeeded(unsafe {
            sys::RSA_verify(
                nid(hash),
                digest.as_ptr(),
                digest.len(),
                signature.as_ptr(),
                signature.len(),
                self.as_ptr(),
            )
        })
    }

    /// RSASSA-PSS over a digest of `hash`; `out` is `len()` bytes, the salt fits the modulus.
    pub(in crate::hsm) fn sign_pss(
        &self,
        hash: Hash,
        mgf: Hash,
        salt_len: usize,
        digest: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        self.whole(out)?;
        self.pss_input(hash, salt_len, digest)?;
        let mut written = 0;
        // SAFETY: the key is valid, the digest has the hash's length, the hashes are statics, and
        // `out` is writable for its length.
        check(unsafe {
            sys::RSA_sign_pss_mgf1(
                self.as_ptr(),
                &mut written,
                out.as_mut_ptr(),
                out.len(),
                digest.as_ptr(),
                digest.len(),
                hash.evp_md(),
                mgf.evp_md(),
                salt_len as c_int,
            )
        })
    }

    pub(in crate::hsm) fn verify_pss(
        &self,
        hash: Hash,
        mgf: Hash,
        salt_len: usize,
        digest: &[u8],
        signature: &[u8],
    ) -> Result<bool> {
        self.pss_input(hash, salt_len, digest)?;
        // SAFETY: the key is valid, the digest has the hash's length, the hashes are statics;
        // pointers and lengths are of one slice each.
        Ok(succeeded(unsafe {
            sys::RSA_verify_pss_mgf1(
                self.as_ptr(),
                digest.as_ptr(),
                digest.len(),
                hash.evp_md(),
                mgf.evp_md(),
                salt_len as c_int,
                signature.as_ptr(),
                signature.len(),
            )
        }))
    }

    /// The longest salt that fits; None if not even an empty one does.
    pub(in crate::hsm) fn max_salt(&self, hash: Hash) -> Option<usize> {
        // emLen is that of an integer of one bit less than the modulus (RFC 8017 §9.1.1).
        ((self.bits - 1).div_ceil(8) as usize).checked_sub(hash.len() + 2)
    }

    /// The private operation of a signature over `input` as it is; `out` is `len()` bytes. None if
    /// the input does not fit: too long, or as an integer not below the modulus.
    pub(in crate::hsm) fn sign_raw(&self, padding: Padding, input: &[u8], out: &mut [u8]) -> Result<Option<()>> {
        self.whole(out)?;
        let mut written = 0;
        // SAFETY: the key is valid; pointers and lengths are of one slice each.
        let signed = unsafe {
            sys::RSA_sign_raw(
                self.as_ptr(),
                &mut written,
                out.as_mut_ptr(),
                out.len(),
                input.as_ptr(),
                input.len(),
                padding.id(),
            )
        };
        Ok(succeeded(signed).then_some(()))
    }

    /// What a signature was made over, at the front of `out`, which is `len()` bytes: its length.
    /// None if the signature is not valid.
    pub(in crate::hsm) fn recover(&self, padding: Padding, signature: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
        self.whole(out)?;
        let mut written = 0;
        // SAFETY: the key is valid; pointers and lengths are of one slice each.
        let recovered = unsafe {
            sys::RSA_verify_raw(
                self.as_ptr(),
                &mut written,
                out.as_mut_ptr(),
                out.len(),
                signature.as_ptr(),
                signature.len(),
                padding.id(),
            )
        };
        Ok(succeeded(recovered).then_some(written))
    }

    /// Encrypts; `out` is `len()` bytes. None if the input does not fit.
    pub(in crate::hsm) fn encrypt(&self, padding: Padding, input: &[u8], out: &mut [u8]) -> Result<Option<()>> {
        self.whole(out)?;
        let mut written = 0;
        // SAFETY: the key is valid; pointers and lengths are of one slice each.
        let encrypted = unsafe {
            sys::RSA_encrypt(
                self.as_ptr(),
                &mut written,
                out.as_mut_ptr(),
                out.len(),
                input.as_ptr(),
                input.len(),
                padding.id(),
            )
        };
        Ok(succeeded(encrypted).then_some(()))
    }

    /// The private operation on a ciphertext, padding and all. None if that is not of the
    /// modulus's length or not below the modulus.
    pub(in crate::hsm) fn decrypt_raw(&self, input: &[u8]) -> Result<Option<SecretBytes>> {
        let mut decrypted = false;
        let plain = SecretBytes::fill(self.len(), |out| {
            let mut written = 0;
            // SAFETY: the key is valid; pointers and lengths are of one slice each.
            decrypted = succeeded(unsafe {
                sys::RSA_decrypt(
                    self.as_ptr(),
                    &mut written,
                    out.as_mut_ptr(),
                    out.len(),
                    input.as_ptr(),
                    input.len(),
                    sys::RSA_NO_PADDING,
                )
            });
            Ok(())
        })?;
        Ok(decrypted.then_some(plain))
    }

    /// RSAES-OAEP; `out` is `len()` bytes. None if the input does not fit.
    pub(in crate::hsm) fn encrypt_oaep(
        &self,
        hash: Hash,
        mgf: Hash,
        label: &[u8],
        input: &[u8],
        out: &mut [u8],
    ) -> Result<Option<()>> {
        if self.max_oaep(hash).is_none_or(|max| input.len() > max) {
            return Ok(None);
        }
        let padded = SecretBytes::fill(self.len(), |block| {
            // SAFETY: pointers and lengths are of one slice each; the hashes are statics.
            check(unsafe {
                sys::RSA_padding_add_PKCS1_OAEP_mgf1(
                    block.as_mut_ptr(),
                    block.len(),
                    input.as_ptr(),
                    input.len(),
                    label.as_ptr(),
                    label.len(),
                    hash.evp_md(),
                    mgf.evp_md(),
                )
            })
        })?;
        self.encrypt(Padding::None, padded.expose(), out)
    }

    /// The longest plaintext of OAEP; None if the modulus is too short for the hash.
    pub(in crate::hsm) fn max_oaep(&self, hash: Hash) -> Option<usize> {
        self.len().checked_sub(2 * hash.len() + 2)
    }

    /// RSAES-OAEP; None if the ciphertext is not valid, for whatever reason.
    pub(in crate::hsm) fn decrypt_oaep(
        &self,
        hash: Hash,
        mgf: Hash,
        label: &[u8],
        input: &[u8],
    ) -> Result<Option<SecretBytes>> {
        // SAFETY: the EVP_PKEY is valid; NULL is checked below.
        let context = NonNull::new(unsafe { sys::EVP_PKEY_CTX_new(self.pkey.as_ptr(), ptr::null_mut()) });
        let context = DecryptContext(context.ok_or_else(failure)?);
        let raw = context.0.as_ptr();
        // SAFETY: the context is valid and the hashes are statics.
        unsafe {
            check(sys::EVP_PKEY_decrypt_init(raw))?;
            check(sys::EVP_PKEY_CTX_set_rsa_padding(raw, sys::RSA_PKCS1_OAEP_PADDING))?;
            check(sys::EVP_PKEY_CTX_set_rsa_oaep_md(raw, hash.evp_md()))?;
            check(sys::EVP_PKEY_CTX_set_rsa_mgf1_md(raw, mgf.evp_md()))?;
        }
        if !label.is_empty() {
            // SAFETY: the copy is made by AWS-LC's allocator and its length is the label's; on
            // success the context takes it over, otherwise it is freed here.
            unsafe {
                let copy = sys::OPENSSL_memdup(label.as_ptr().cast(), label.len());
                if copy.is_null() || sys::EVP_PKEY_CTX_set0_rsa_oaep_label(raw, copy.cast(), label.len()) != 1 {
                    sys::OPENSSL_free(copy);
                    return Err(failure());
                }
            }
        }
        let mut written = self.len();
        let mut decrypted = false;
        let mut plain = SecretBytes::fill(self.len(), |out| {
            // SAFETY: the context is set up, `out` is writable for `written` bytes, and the
            // input's pointer and length are of one slice.
            decrypted = succeeded(unsafe {
                sys::EVP_PKEY_decrypt(raw, out.as_mut_ptr(), &mut written, input.as_ptr(), input.len())
            });
            Ok(())
        })?;
        plain.truncate(written);
        Ok(decrypted.then_some(plain))
    }

    pub(super) fn pkey(&self) -> &Pkey {
        &self.pkey
    }

    fn new(fill: impl FnOnce(*mut sys::RSA) -> Result<()>) -> Result<Self> {
        // SAFETY: RSA_new has no preconditions; NULL is turned into an error.
        let rsa = NonNull::new(unsafe { sys::RSA_new() }).ok_or_else(failure)?;
        let owned = Pkey::new().and_then(|pkey| {
            // SAFETY: both are valid. On success the EVP_PKEY takes over the one reference.
            check(unsafe { sys::EVP_PKEY_assign_RSA(pkey.as_ptr(), rsa.as_ptr()) }).map(|()| pkey)
        });
        let pkey = owned.inspect_err(|_| {
            // SAFETY: the EVP_PKEY did not take the reference over.
            unsafe { sys::RSA_free(rsa.as_ptr()) }
        })?;
        fill(rsa.as_ptr())?;
        // SAFETY: the key has a modulus now.
        let bits = unsafe { sys::RSA_bits(rsa.as_ptr()) };
        Ok(Self { pkey, rsa, bits })
    }

    fn as_ptr(&self) -> *mut sys::RSA {
        self.rsa.as_ptr()
    }

    /// RSA_check_key: n = p q, d e = 1 and the CRT values agree, as far as the parts are present.
    fn is_consistent(&self) -> bool {
        // SAFETY: the RSA is valid.
        succeeded(unsafe { sys::RSA_check_key(self.as_ptr()) })
    }

    /// Whether the public operation undoes the private one, which composite "primes" would break.
    fn agrees_with_itself(&self) -> bool {
        let probe = [0x5a; 32];
        let mut signature = vec![0; self.len()];
        self.sign_pkcs1(Hash::Sha256, &probe, &mut signature).is_ok()
            && self.verify_pkcs1(Hash::Sha256, &probe, &signature)
    }

    fn whole(&self, out: &[u8]) -> Result<()> {
        if out.len() == self.len() { Ok(()) } else { Err(failure()) }
    }

    /// AWS-LC reads as many bytes as the hash gives, and takes a negative salt length for a rule.
    fn pss_input(&self, hash: Hash, salt_len: usize, digest: &[u8]) -> Result<()> {
        let fits = self.max_salt(hash).is_some_and(|max| salt_len <= max);
        if fits && digest.len() == hash.len() { Ok(()) } else { Err(failure()) }
    }
}

struct DecryptContext(NonNull<sys::EVP_PKEY_CTX>);

impl Drop for DecryptContext {
    fn drop(&mut self) {
        // SAFETY: self owns the context, and nothing uses it after this.
        unsafe { sys::EVP_PKEY_CTX_free(self.0.as_ptr()) }
    }
}

fn nid(hash: Hash) -> c_int {
    // SAFETY: the hash's description is a static.
    unsafe { sys::EVP_MD_type(hash.evp_md()) }
}

/// For a call that may fail because of its input.
fn succeeded(status: c_int) -> bool {
    if status != 1 {
        clear_errors();
    }
    status == 1
}

/// Public exponents that a key without one is tried with.
const USUAL_EXPONENTS: [u64; 4] = [65_537, 3, 17, 5];

/// Fills in what follows from the modulus and the private exponent. None if they do not fit.
fn complete(parts: &mut RsaParts) -> Result<Option<()>> {
    let math = Arithmetic::new()?;
    let n = Bn::from_bytes(&parts.n)?;
    let Some(d) = &parts.d else { return Ok(None) };
    let d = Bn::from_bytes(d.expose())?;
    if !n.is_odd() || d.is_zero() || d.cmp(&n).is_ge() {
        return Ok(None);
    }
    let e = match &parts.e {
        Some(e) => Bn::from_bytes(e)?,
        None => match public_exponent(&math, &n, &d)? {
            Some(e) => e,
            None => return Ok(None),
        },
    };
    if !e.is_odd() || !(2..=33).contains(&e.bits()) {
        return Ok(None);
    }
    let (p, q) = match (&parts.p, &parts.q) {
        (Some(p), Some(q)) => (Bn::from_bytes(p.expose())?, Bn::from_bytes(q.expose())?),
        _ => match factor(&math, &n, &e, &d)? {
            Some(factors) => factors,
            None => return Ok(None),
        },
    };
    // What follows needs odd moduli above 2; whether the factors are right is checked at the end.
    if [&p, &q].iter().any(|prime| !prime.is_odd() || prime.bits() < 2 || prime.cmp(&n).is_ge()) {
        return Ok(None);
    }
    let (one, two) = (Bn::from_word(1)?, Bn::from_word(2)?);
    if parts.dp.is_none() {
        parts.dp = Some(math.rem(&d, &math.sub(&p, &one)?)?.to_secret()?);
    }
    if parts.dq.is_none() {
        parts.dq = Some(math.rem(&d, &math.sub(&q, &one)?)?.to_secret()?);
    }
    if parts.qi.is_none() {
        // By Fermat: q^(p-2) is the inverse modulo a prime p.
        parts.qi = Some(math.exp_mod(&math.rem(&q, &p)?, &math.sub(&p, &two)?, &p)?.to_secret()?);
    }
    parts.e = Some(e.to_bytes()?);
    parts.p = Some(p.to_secret()?);
    parts.q = Some(q.to_secret()?);
    Ok(Some(()))
}

/// The usual exponent that undoes `d`, if one does.
fn public_exponent(math: &Arithmetic, n: &Bn, d: &Bn) -> Result<Option<Bn>> {
    let probe = Bn::from_word(0x5a5a_5a5a)?;
    let powered = math.exp_mod(&probe, d, n)?;
    for candidate in USUAL_EXPONENTS {
        let e = Bn::from_word(candidate)?;
        if math.exp_mod(&powered, &e, n)?.cmp(&probe).is_eq() {
            return Ok(Some(e));
        }
    }
    Ok(None)
}

/// The factors of `n`, the larger first, from a pair of exponents (SP 800-56B r2, appendix C.1).
fn factor(math: &Arithmetic, n: &Bn, e: &Bn, d: &Bn) -> Result<Option<(Bn, Bn)>> {
    let one = Bn::from_word(1)?;
    let n_minus_one = math.sub(n, &one)?;
    let mut r = math.sub(&math.mul(d, e)?, &one)?;
    let mut twos = 0;
    if r.is_zero() {
        return Ok(None);
    }
    while !r.is_odd() {
        r = math.halve(&r)?;
        twos += 1;
    }
    // Each base splits n with a probability of a half at least.
    for base in [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71] {
        let mut x = math.exp_mod(&Bn::from_word(base)?, &r, n)?;
        for _ in 0..twos {
            if x.equals_word(1) || x.cmp(&n_minus_one).is_eq() {
                break;
            }
            let square = math.mul_mod(&x, &x, n)?;
            if square.equals_word(1) {
                let p = math.gcd(&math.sub(&x, &one)?, n)?;
                let q = math.div(n, &p)?;
                return Ok(Some(if p.cmp(&q).is_ge() { (p, q) } else { (q, p) }));
            }
            x = square;
        }
    }
    Ok(None)
}
