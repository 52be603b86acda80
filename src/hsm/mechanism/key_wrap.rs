//! AES key wrap, plain and with padding (PKCS#11 3.2 §6.16, SP 800-38F).

use std::sync::Arc;

use cryptoki_sys as ck;
use zeroize::Zeroizing;

use super::aes::{AES, direction, schedules};
use super::wrap::{unwrap_with, wrap_with, wrap_zero_padded};
use super::{Row, WrapFns, room};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Operation, Outcome};
use crate::hsm::crypto::aws_lc::aes::{AesKey, BLOCK, Direction};
use crate::hsm::key::Key;
use crate::hsm::params::{Mechanism, ParamShape, Params};

/// The unit of key wrapping.
const SEMIBLOCK: usize = 8;

pub(super) const ROWS: &[Row] = &[
    Row {
        kind: ck::CKM_AES_KEY_WRAP,
        name: "CKM_AES_KEY_WRAP",
        params: ParamShape::OptionalIv,
        cipher: Some(begin),
        wrap: Some(WrapFns {
            wrap: |mechanism, key, plain| wrap_zero_padded(begin, mechanism, key, plain, SEMIBLOCK, 2 * SEMIBLOCK),
            unwrap: |mechanism, key, wrapped| unwrap_with(begin, mechanism, key, wrapped),
            private_keys: true,
        }),
        zero_pad: SEMIBLOCK,
        ..AES
    },
    Row {
        kind: ck::CKM_AES_KEY_WRAP_KWP,
        name: "CKM_AES_KEY_WRAP_KWP",
        params: ParamShape::OptionalIv,
        cipher: Some(begin),
        wrap: Some(WrapFns {
            wrap: |mechanism, key, plain| wrap_with(begin, mechanism, key, plain),
            unwrap: |mechanism, key, wrapped| unwrap_with(begin, mechanism, key, wrapped),
            private_keys: true,
        }),
        ..AES
    },
];

fn begin(mechanism: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let iv = match mechanism.params {
        Params::None => None,
        Params::Iv(iv) => Some(iv),
        _ => return Err(ErrorKind::MechanismParamInvalid.into()),
    };
    let bad = |_| ErrorKind::MechanismParamInvalid;
    let form = match mechanism.kind {
        ck::CKM_AES_KEY_WRAP => Form::Plain(iv.map(TryInto::try_into).transpose().map_err(bad)?),
        _ => Form::Padded(iv.map(TryInto::try_into).transpose().map_err(bad)?),
    };
    schedules(&key)?;
    Ok(Box::new(WrapOperation { key, direction: direction(function)?, form }))
}

/// KW or KWP, with the caller's initial value or the default one.
#[derive(Clone, Copy)]
enum Form {
    Plain(Option<[u8; 8]>),
    Padded(Option<[u8; 4]>),
}

/// C_Encrypt and C_Decrypt; the mechanisms know single parts only.
struct WrapOperation {
    key: Arc<Key>,
    direction: Direction,
    form: Form,
}

impl Operation for WrapOperation {
    fn update(&mut self, _input: &[u8], _output: Option<&mut [u8]>) -> Result<Outcome> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    fn finish(&mut self, _output: Option<&mut [u8]>) -> Result<Outcome> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        let aes = schedules(&self.key)?;
        if self.direction == Direction::Encrypt {
            let len = self.form.wrapped_len(input)?;
            let Some(output) = room(output, len) else {
                return Ok(Outcome::Needed(len));
            };
            self.form.wrap(aes, input, output)?;
            return Ok(Outcome::Written(len));
        }
        self.form.check_wrapped(input)?;
        let Some(output) = output else {
            return Ok(Outcome::Needed(input.len() - SEMIBLOCK));
        };
        let plain = self.form.unwrap(aes, input)?;
        let Some(output) = room(Some(output), plain.len()) else {
            return Ok(Outcome::Needed(plain.len()));
        };
        output.copy_from_slice(&plain);
        Ok(Outcome::Written(plain.len()))
    }
}

impl Form {
    /// CKR_DATA_LEN_RANGE for a plaintext that cannot be wrapped.
    fn wrapped_len(self, plain: &[u8]) -> Result<usize> {
        match self {
            Self::Plain(_) if plain.len() >= 2 * SEMIBLOCK && plain.len().is_multiple_of(SEMIBLOCK) => {
                Ok(plain.len() + SEMIBLOCK)
            }
            Self::Plain(_) => Err(ErrorKind::DataLenRange.into()),
            Self::Padded(_) => Ok(padded_len(plain)? + SEMIBLOCK),
        }
    }

    /// CKR_ENCRYPTED_DATA_LEN_RANGE for a length that wrapping never gives.
    fn check_wrapped(self, wrapped: &[u8]) -> Result<()> {
        let least = match self {
            Self::Plain(_) => 3 * SEMIBLOCK,
            Self::Padded(_) => 2 * SEMIBLOCK,
        };
        if wrapped.len() >= least && wrapped.len().is_multiple_of(SEMIBLOCK) {
            Ok(())
        } else {
            Err(ErrorKind::EncryptedDataLenRange.into())
        }
    }

    fn wrap(self, aes: &AesKey, plain: &[u8], output: &mut [u8]) -> Result<()> {
        let iv = match self {
            Self::Plain(iv) => return aes.wrap(iv.as_ref(), plain, output),
            Self::Padded(None) => return aes.wrap_padded(plain, output),
            Self::Padded(Some(iv)) => iv,
        };
        let mut padded = Zeroizing::new(vec![0; padded_len(plain)?]);
        padded[..plain.len()].copy_from_slice(plain);
        let iv = full_iv(iv, plain.len());
        match <[u8; SEMIBLOCK]>::try_from(&padded[..]) {
            Ok(only) => output.copy_from_slice(&aes.encrypt_block(&join(iv, only))),
            Err(_) => aes.wrap(Some(&iv), &padded, output)?,
        }
        Ok(())
    }

    fn unwrap(self, aes: &AesKey, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        self.check_wrapped(wrapped)?;
        let mut plain = Zeroizing::new(vec![0; wrapped.len() - SEMIBLOCK]);
        match self {
            Self::Plain(iv) => aes.unwrap(iv.as_ref(), wrapped, &mut plain)?,
            Self::Padded(None) => {
                let len = aes.unwrap_padded(wrapped, &mut plain)?;
                plain.truncate(len);
            }
            Self::Padded(Some(iv)) => {
                let len = unwrap_with_iv(aes, iv, wrapped, &mut plain)?;
                plain.truncate(len);
            }
        }
        Ok(plain)
    }
}

/// KWP with a caller's initial value, which AWS-LC knows for the plain wrap only. The length is
/// part of the full initial value, and there are eight for a number of semiblocks.
fn unwrap_with_iv(aes: &AesKey, iv: [u8; 4], wrapped: &[u8], plain: &mut [u8]) -> Result<usize> {
    let longest = plain.len();
    for len in (longest - SEMIBLOCK + 1..=longest).rev() {
        let iv = full_iv(iv, len);
        let opened = match <[u8; BLOCK]>::try_from(wrapped) {
            Ok(only) => {
                let block = Zeroizing::new(aes.decrypt_block(&only));
                let (head, tail) = block.split_at(SEMIBLOCK);
                plain.copy_from_slice(tail);
                head == iv
            }
            Err(_) => aes.unwrap(Some(&iv), wrapped, plain).is_ok(),
        };
        if opened && plain[len..].iter().all(|byte| *byte == 0) {
            return Ok(len);
        }
    }
    plain.fill(0);
    Err(ErrorKind::EncryptedDataInvalid.into())
}

/// CKR_DATA_LEN_RANGE for a plaintext that KWP does not take: nothing, or 2^31 bytes and more.
fn padded_len(plain: &[u8]) -> Result<usize> {
    const MAX: usize = i32::MAX as usize - BLOCK;
    if (1..=MAX).contains(&plain.len()) {
        Ok(plain.len().next_multiple_of(SEMIBLOCK))
    } else {
        Err(ErrorKind::DataLenRange.into())
    }
}

/// KWP's initial value: the constant and the length of the plaintext.
fn full_iv(iv: [u8; 4], len: usize) -> [u8; 8] {
    let mut full = [0; 8];
    full[..4].copy_from_slice(&iv);
    full[4..].copy_from_slice(&(len as u32).to_be_bytes());
    full
}

fn join(head: [u8; SEMIBLOCK], tail: [u8; SEMIBLOCK]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..SEMIBLOCK].copy_from_slice(&head);
    block[SEMIBLOCK..].copy_from_slice(&tail);
    block
}
