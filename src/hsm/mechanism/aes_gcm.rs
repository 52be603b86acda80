//! AES-GCM with the caller's IV (PKCS#11 3.2 §6.13, SP 800-38D).

use std::sync::Arc;

use cryptoki_sys as ck;

use super::aes::{AES, direction};
use super::wrap::{unwrap_with, wrap_with};
use super::{Row, WrapFns, room};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Operation, Outcome};
use crate::hsm::crypto::aws_lc::aes::Direction;
use crate::hsm::crypto::aws_lc::gcm::{GcmKey, GcmStream, MAX_DATA, TAG};
use crate::hsm::key::Key;
use crate::hsm::params::{Mechanism, ParamShape, Params};
use crate::hsm::random;

pub(super) const ROWS: &[Row] = &[Row {
    kind: ck::CKM_AES_GCM,
    name: "CKM_AES_GCM",
    params: ParamShape::Gcm,
    cipher: Some(begin),
    wrap: Some(WrapFns {
        wrap: |mechanism, key, plain| wrap_with(begin, mechanism, key, plain),
        unwrap: |mechanism, key, wrapped| unwrap_with(begin, mechanism, key, wrapped),
        private_keys: true,
    }),
    ..AES
}];

fn begin(mechanism: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let (iv, aad, tag_len) = parameters(&mechanism.params)?;
    keyed(&key)?;
    Ok(Box::new(GcmOperation {
        key,
        direction: direction(function)?,
        tag_len,
        iv: Short::new(iv),
        aad: Short::new(aad),
        parts: Parts::None,
    }))
}

/// IV, additional data, bytes of tag.
fn parameters<'a>(params: &Params<'a>) -> Result<(&'a [u8], &'a [u8], usize)> {
    let Params::Gcm { iv, aad, tag_bits } = *params else {
        return Err(ErrorKind::MechanismParamInvalid.into());
    };
    // SP 800-38D §5.2.1.2, appendix C for the two short ones.
    let (32 | 64 | 96 | 104 | 112 | 120 | 128, false) = (tag_bits, iv.is_empty()) else {
        return Err(ErrorKind::MechanismParamInvalid.into());
    };
    Ok((iv, aad, tag_bits as usize / 8))
}

/// SP 800-38D §8.2.2: an IV drawn by itself has so many random bits at least.
const LEAST_RANDOM_BITS: u64 = 96;
/// The longest IV that is made here, in bytes.
const MAX_MADE_IV: usize = 32;

/// The IV of a wrap whose parameter asks for one: the fixed bits and random ones. None for other
/// parameters. CKR_MECHANISM_PARAM_INVALID for less than 96 random bits, or more than 32 bytes.
pub(in crate::hsm) fn generated_iv(params: &Params<'_>) -> Result<Option<Vec<u8>>> {
    let Params::GcmGenerate { iv, fixed_bits, .. } = *params else {
        return Ok(None);
    };
    let bits = 8 * iv.len() as u64;
    if iv.len() > MAX_MADE_IV || bits.checked_sub(fixed_bits).is_none_or(|random| random < LEAST_RANDOM_BITS) {
        return Err(ErrorKind::MechanismParamInvalid
            .with("an IV is made with 96 random bits or more behind the fixed ones, in 32 bytes at most"));
    }
    let mut made = vec![0; iv.len()];
    random::fill(&mut made)?;
    for (at, (made, fixed)) in made.iter_mut().zip(iv).enumerate() {
        let kept = fixed_bits.saturating_sub(8 * at as u64).min(8) as u32;
        let mask = !0xff_u8.checked_shr(kept).unwrap_or(0);
        *made = (fixed & mask) | (*made & !mask);
    }
    Ok(Some(made))
}

/// The key's GCM with full tags, made once.
fn keyed(key: &Key) -> Result<&GcmKey> {
    key.engine(|key| GcmKey::new(key.secret(ck::CKA_VALUE)?, TAG))
}

struct GcmOperation {
    key: Arc<Key>,
    direction: Direction,
    tag_len: usize,
    iv: Short<16>,
    aad: Short<64>,
    parts: Parts,
}

/// What came before in an operation of several parts.
enum Parts {
    None,
    Encrypted(GcmStream),
    /// Ciphertext and tag: nothing is decrypted before the tag is there.
    Held(Vec<u8>),
}

impl GcmOperation {
    /// Decrypts ciphertext with its tag at the end. `output` is left alone unless it is large
    /// enough, and zeroed if the tag is wrong.
    fn open(&self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        let Some((data, tag)) = input.len().checked_sub(self.tag_len).and_then(|at| input.split_at_checked(at)) else {
            return Err(ErrorKind::EncryptedDataLenRange.into());
        };
        let Some(output) = room(output, data.len()) else {
            return Ok(Outcome::Needed(data.len()));
        };
        match self.tag_len {
            TAG => keyed(&self.key)?.open(self.iv.get(), self.aad.get(), data, tag, output)?,
            _ => GcmKey::new(self.key.secret(ck::CKA_VALUE)?, self.tag_len)?.open(
                self.iv.get(),
                self.aad.get(),
                data,
                tag,
                output,
            )?,
        }
        Ok(Outcome::Written(data.len()))
    }

    fn seal(&self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        let len = input.len().checked_add(self.tag_len).ok_or(ErrorKind::DataLenRange)?;
        let Some(output) = room(output, len) else {
            return Ok(Outcome::Needed(len));
        };
        let (data, tag) = output.split_at_mut(input.len());
        let full = keyed(&self.key)?.seal(self.iv.get(), self.aad.get(), input, data)?;
        tag.copy_from_slice(&full[..self.tag_len]);
        Ok(Outcome::Written(len))
    }

    /// The encryption in parts, begun if it was not.
    fn stream(&mut self) -> Result<&mut GcmStream> {
        if let Parts::None = self.parts {
            let key = self.key.secret(ck::CKA_VALUE)?;
            self.parts = Parts::Encrypted(GcmStream::encrypt(key, self.iv.get(), self.aad.get())?);
        }
        match &mut self.parts {
            Parts::Encrypted(stream) => Ok(stream),
            _ => Err(ErrorKind::GeneralError.into()),
        }
    }

    /// Keeps a part of a ciphertext for the end.
    fn hold(&mut self, input: &[u8]) -> Result<()> {
        if let Parts::None = self.parts {
            self.parts = Parts::Held(Vec::new());
        }
        let Parts::Held(held) = &mut self.parts else {
            return Err(ErrorKind::GeneralError.into());
        };
        if (held.len() as u64).saturating_add(input.len() as u64) > MAX_DATA + self.tag_len as u64 {
            return Err(ErrorKind::EncryptedDataLenRange.into());
        }
        held.try_reserve(input.len()).map_err(|_| ErrorKind::DeviceMemory)?;
        held.extend_from_slice(input);
        Ok(())
    }
}

impl Operation for GcmOperation {
    fn update(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        let len = if self.direction == Direction::Encrypt { input.len() } else { 0 };
        let Some(output) = room(output, len) else {
            return Ok(Outcome::Needed(len));
        };
        match self.direction {
            Direction::Encrypt => self.stream()?.update(input, output)?,
            Direction::Decrypt => self.hold(input)?,
        }
        Ok(Outcome::Written(len))
    }

    fn finish(&mut self, output: Option<&mut [u8]>) -> Result<Outcome> {
        if self.direction == Direction::Decrypt {
            return match &self.parts {
                Parts::Held(held) => self.open(held, output),
                _ => self.open(&[], output),
            };
        }
        let len = self.tag_len;
        let Some(output) = room(output, len) else {
            return Ok(Outcome::Needed(len));
        };
        let tag = self.stream()?.tag()?;
        output.copy_from_slice(&tag[..len]);
        Ok(Outcome::Written(len))
    }

    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        if !matches!(self.parts, Parts::None) {
            return Err(ErrorKind::OperationActive.into());
        }
        match self.direction {
            Direction::Encrypt => self.seal(input, output),
            Direction::Decrypt => self.open(input, output),
        }
    }

    fn rest(&mut self) -> bool {
        self.parts = Parts::None;
        true
    }

    fn restart(&mut self, params: &Params<'_>) -> Result<bool> {
        let (iv, aad, tag_len) = parameters(params)?;
        (self.iv, self.aad, self.tag_len) = (Short::new(iv), Short::new(aad), tag_len);
        Ok(true)
    }

    fn held(&self) -> usize {
        if let Parts::Held(held) = &self.parts { held.len() } else { 0 }
    }

    fn is_private(&self) -> bool {
        self.key.attributes.flag(ck::CKA_PRIVATE)
    }
}

/// A copy of some bytes that needs no allocation up to `N` of them.
enum Short<const N: usize> {
    Inline([u8; N], usize),
    Heap(Vec<u8>),
}

impl<const N: usize> Short<N> {
    fn new(bytes: &[u8]) -> Self {
        if bytes.len() > N {
            return Self::Heap(bytes.to_vec());
        }
        let mut inline = [0; N];
        inline[..bytes.len()].copy_from_slice(bytes);
        Self::Inline(inline, bytes.len())
    }

    fn get(&self) -> &[u8] {
        match self {
            Self::Inline(bytes, len) => &bytes[..*len],
            Self::Heap(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_ivs_keep_the_fixed_bits_and_nothing_else() {
        let made = |iv: &[u8], fixed_bits| {
            generated_iv(&Params::GcmGenerate { iv, fixed_bits, aad: &[], tag_bits: 128 }).map(Option::unwrap)
        };
        let (mut ones, mut zeros) = ([0; 14], [0xff; 14]);
        for _ in 0..100 {
            let iv = made(&[0xa5; 14], 11).unwrap();
            assert_eq!((iv[0], iv[1] & 0xe0), (0xa5, 0xa0));
            (0..14).for_each(|at| (ones[at], zeros[at]) = (ones[at] | iv[at], zeros[at] & iv[at]));
        }
        assert_eq!((ones[1], zeros[1]), (0xbf, 0xa0), "what follows the fixed bits is random");
        assert!(ones[2..].iter().all(|b| *b == 0xff) && zeros[2..].iter().all(|b| *b == 0));
        for (len, fixed) in [(12, 1), (11, 0), (16, 33), (12, u64::MAX), (0, 0), (33, 0)] {
            let refused = made(&vec![0; len], fixed).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::MechanismParamInvalid, "{len} bytes, {fixed} fixed");
        }
        assert!(made(&[0; 12], 0).is_ok() && made(&[0; 16], 32).is_ok());
        assert!(generated_iv(&Params::Gcm { iv: &[1; 12], aad: &[], tag_bits: 128 }).unwrap().is_none());
    }
}
