//! Removal of PKCS #1 v1.5 encryption padding with implicit rejection: a ciphertext whose padding
//! is wrong decrypts to a message that is derived from it and the key, so that a caller cannot
//! tell the one from the other (draft-irtf-cfrg-rsa-guidance §7; the derivation is OpenSSL's).
//!
//! Everything up to the choice between the two messages takes the same steps for each ciphertext.

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq, ConstantTimeLess};
use zeroize::{Zeroize, Zeroizing};

use crate::error::{ErrorKind, Result};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::crypto::aws_lc::digest::{Hash, MAX_DIGEST};
use crate::hsm::crypto::aws_lc::hmac::HmacKey;

/// The message in `block`, which is the decrypted ciphertext, as long as the modulus; or another.
/// `d` is the private exponent.
pub(super) fn unpad(block: &[u8], d: &[u8], ciphertext: &[u8]) -> Result<SecretBytes> {
    let k = block.len();
    let (Ok(len), true) = (u16::try_from(k), k > HEAD + MIN_PADDING) else {
        return Err(ErrorKind::EncryptedDataLenRange.into());
    };
    let derived = Derivation::new(d, ciphertext, k)?;
    let other = derived.bytes(b"message", k)?;
    let other_start = u32::from(len) - u32::from(derived.length(len)?);

    let mut good = block[0].ct_eq(&0) & block[1].ct_eq(&2);
    let (mut separator, mut found) = (0u32, Choice::from(0));
    for (at, byte) in (0u32..).zip(block).skip(HEAD) {
        let zero = byte.ct_eq(&0);
        separator.conditional_assign(&at, zero & !found);
        found |= zero;
    }
    // No separator at all leaves it at 0, which is too early as well.
    good &= !separator.ct_lt(&((HEAD + MIN_PADDING) as u32));

    let start = u32::conditional_select(&other_start, &(separator + 1), good);
    let chosen = SecretBytes::fill(k, |out| {
        for ((out, byte), other) in out.iter_mut().zip(block).zip(other.expose()) {
            *out = u8::conditional_select(other, byte, good);
        }
        Ok(())
    })?;
    // The length is the caller's to know from here on, of either message.
    SecretBytes::copy_of(chosen.expose().get(start as usize..).unwrap_or_default())
}

/// Bytes before the padding: 0 and the block type.
const HEAD: usize = 2;

/// The least number of padding bytes.
const MIN_PADDING: usize = 8;

/// Candidates for the length of the other message, of two bytes each.
const CANDIDATES: usize = 128;

/// The pseudo-random function of a key and a ciphertext.
struct Derivation(HmacKey);

impl Derivation {
    /// HMAC-SHA-256 under the hash of the private exponent, over the ciphertext; both as long as
    /// the modulus.
    fn new(d: &[u8], ciphertext: &[u8], k: usize) -> Result<Self> {
        let padding = k.checked_sub(d.len()).ok_or(ErrorKind::KeyTypeInconsistent)?;
        let padded = SecretBytes::fill(k, |out| {
            out[padding..].copy_from_slice(d);
            Ok(())
        })?;
        let hashed = Zeroizing::new(Hash::Sha256.digest(padded.expose())?);
        let key = HmacKey::new(Hash::Sha256, &hashed[..LEN])?;
        let derived = Zeroizing::new(mac(&key, &[ciphertext])?);
        HmacKey::new(Hash::Sha256, &derived[..LEN]).map(Self)
    }

    fn bytes(&self, label: &[u8], len: usize) -> Result<SecretBytes> {
        let bits = u16::try_from(8 * len).map_err(|_| ErrorKind::EncryptedDataLenRange)?.to_be_bytes();
        SecretBytes::fill(len, |out| {
            for (counter, chunk) in (0u16..).zip(out.chunks_mut(LEN)) {
                let mut block = mac(&self.0, &[&counter.to_be_bytes(), label, &bits])?;
                chunk.copy_from_slice(&block[..chunk.len()]);
                block.zeroize();
            }
            Ok(())
        })
    }

    /// Length of the other message: the last candidate that leaves room for the padding of a
    /// modulus of `k` bytes, each first cut to as many bits as that takes.
    fn length(&self, k: u16) -> Result<u16> {
        let limit = k - (HEAD + MIN_PADDING) as u16;
        let mask = u16::MAX >> limit.leading_zeros();
        let mut length = 0;
        for pair in self.bytes(b"length", 2 * CANDIDATES)?.expose().chunks_exact(2) {
            let candidate = u16::from_be_bytes([pair[0], pair[1]]) & mask;
            length.conditional_assign(&candidate, candidate.ct_lt(&limit));
        }
        Ok(length)
    }
}

/// Bytes of a SHA-256 digest.
const LEN: usize = 32;

fn mac(key: &HmacKey, parts: &[&[u8]]) -> Result<[u8; MAX_DIGEST]> {
    let mut state = key.start();
    for part in parts {
        state.update(part)?;
    }
    let mut out = [0; MAX_DIGEST];
    state.finish(&mut out)?;
    Ok(out)
}
