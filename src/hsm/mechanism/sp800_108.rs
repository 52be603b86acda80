//! The counter mode KDF of SP 800-108 (PKCS#11 3.2 §6.42).

use cryptoki_sys as ck;
use zeroize::Zeroizing;

use super::aes_mac::Cmac;
use super::generic_secret::MAX_SECRET;
use super::mac::{MAX_MAC, Scheme, State};
use super::{Derivation, Row, hmac};
use crate::error::{ErrorKind, Result};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::crypto::aws_lc::aes::BLOCK;
use crate::hsm::key::Key;
use crate::hsm::params::{ParamShape, Params, PrfData};

pub(super) const ROWS: &[Row] = &[Row {
    kind: ck::CKM_SP800_108_COUNTER_KDF,
    name: "CKM_SP800_108_COUNTER_KDF",
    min_key: 8,
    max_key: 8 * MAX_SECRET as u64,
    params: ParamShape::Sp800108,
    key_types: &[
        ck::CKK_GENERIC_SECRET,
        ck::CKK_AES,
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
    derive: Some(derive),
    ..Row::NONE
}];

fn derive(derivation: &Derivation<'_>) -> Result<Vec<SecretBytes>> {
    let Params::Sp800108 { prf, data, .. } = &derivation.mechanism.params else {
        return Err(ErrorKind::MechanismParamInvalid.into());
    };
    let base = derivation.base;
    if *prf == ck::CKM_AES_CMAC {
        if base.key_type() != ck::CKK_AES {
            return Err(ErrorKind::KeyTypeInconsistent.into());
        }
        return expand(Cmac, BLOCK, base, data, derivation.lengths);
    }
    let (hash, key_type) = hmac::prf(*prf).ok_or(ErrorKind::MechanismParamInvalid)?;
    if base.key_type() != ck::CKK_GENERIC_SECRET && base.key_type() != key_type {
        return Err(ErrorKind::KeyTypeInconsistent.into());
    }
    expand(hash, hash.len(), base, data, derivation.lengths)
}

/// Each key starts with a new segment, which is one output of the PRF, of `segment` bytes.
fn expand<S: Scheme>(
    scheme: S,
    segment: usize,
    base: &Key,
    data: &[PrfData<'_>],
    lengths: &[Option<usize>],
) -> Result<Vec<SecretBytes>> {
    let lengths = lengths
        .iter()
        .map(|len| match len {
            Some(1..=MAX_SECRET) => Ok(len.unwrap_or_default()),
            Some(_) => Err(ErrorKind::KeySizeRange.into()),
            None => Err(ErrorKind::TemplateIncomplete.into()),
        })
        .collect::<Result<Vec<usize>>>()?;
    let bytes: u64 = lengths.iter().map(|len| *len as u64).sum();
    let segments: u64 = lengths.iter().map(|len| len.div_ceil(segment) as u64).sum();
    let input = Input::new(data, 8 * bytes, 8 * segments * segment as u64)?;
    if segments > input.max_counter {
        return Err(ErrorKind::KeySizeRange.into());
    }

    let mut counter = 0u64;
    let mut block = Zeroizing::new([0; MAX_MAC]);
    lengths
        .into_iter()
        .map(|len| {
            SecretBytes::fill(len, |out| {
                for part in out.chunks_mut(segment) {
                    counter += 1;
                    let mut state = scheme.start(base)?;
                    input.feed(counter, &mut state)?;
                    state.finish(&mut block)?;
                    part.copy_from_slice(&block[..part.len()]);
                }
                Ok(())
            })
        })
        .collect()
}

/// The PRF's input data: the caller's list with the length of the keying material filled in.
struct Input<'a> {
    parts: Vec<Part<'a>>,
    /// 2^r - 1 for a counter of r bits.
    max_counter: u64,
}

enum Part<'a> {
    Bytes(&'a [u8]),
    Length(Number),
    Counter { little_endian: bool, width: usize },
}

impl<'a> Input<'a> {
    /// The counter is there once, the length at most once; CKR_MECHANISM_PARAM_INVALID.
    fn new(data: &[PrfData<'a>], bits_of_keys: u64, bits_of_segments: u64) -> Result<Self> {
        let (mut counter, mut length) = (None, false);
        let parts = data
            .iter()
            .map(|item| match *item {
                PrfData::Bytes([]) => Err(ErrorKind::MechanismParamInvalid.into()),
                PrfData::Bytes(bytes) => Ok(Part::Bytes(bytes)),
                PrfData::Counter { little_endian, bits } => {
                    let width = width(bits, 32)?;
                    if counter.replace(max_of(width)).is_some() {
                        return Err(ErrorKind::MechanismParamInvalid.into());
                    }
                    Ok(Part::Counter { little_endian, width })
                }
                PrfData::Length { sum_of_segments, little_endian, bits } => {
                    let value = if sum_of_segments { bits_of_segments } else { bits_of_keys };
                    let width = width(bits, 64)?;
                    if std::mem::replace(&mut length, true) || value > max_of(width) {
                        return Err(ErrorKind::MechanismParamInvalid.into());
                    }
                    Ok(Part::Length(Number::new(value, width, little_endian)))
                }
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { parts, max_counter: counter.ok_or(ErrorKind::MechanismParamInvalid)? })
    }

    fn feed(&self, counter: u64, state: &mut impl State) -> Result<()> {
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => state.update(bytes)?,
                Part::Length(length) => state.update(length.bytes())?,
                Part::Counter { little_endian, width } => {
                    state.update(Number::new(counter, *width, *little_endian).bytes())?;
                }
            }
        }
        Ok(())
    }
}

/// The width in bytes of a number of `bits` bits, whole bytes up to `max` bits.
fn width(bits: u64, max: u64) -> Result<usize> {
    if bits.is_multiple_of(8) && (8..=max).contains(&bits) {
        Ok(bits as usize / 8)
    } else {
        Err(ErrorKind::MechanismParamInvalid.into())
    }
}

/// The largest number of `width` bytes, 1 to 8.
fn max_of(width: usize) -> u64 {
    u64::MAX >> (64 - 8 * width)
}

/// A number as a string of `width` bytes, 1 to 8.
struct Number {
    bytes: [u8; 8],
    from: usize,
    to: usize,
}

impl Number {
    fn new(value: u64, width: usize, little_endian: bool) -> Self {
        match little_endian {
            true => Self { bytes: value.to_le_bytes(), from: 0, to: width },
            false => Self { bytes: value.to_be_bytes(), from: 8 - width, to: 8 },
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.from..self.to]
    }
}
