//! AES: key type, key generation, ECB, CBC, CBC-PAD and CTR (PKCS#11 3.2 §6.10, §6.11).

use std::sync::Arc;

use cryptoki_sys as ck;
use subtle::{ConstantTimeEq, ConstantTimeGreater};
use zeroize::{Zeroize, Zeroizing};

use super::generic_secret::{self, MAX_GENERATED};
use super::wrap::{unwrap_with, wrap_with, wrap_zero_padded};
use super::{KeyType, Row, WrapFns, room};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Operation, Outcome};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::crypto::aws_lc::aes::{AesKey, BLOCK, CtrState, Direction};
use crate::hsm::key::{Key, Secrets};
use crate::hsm::params::{Mechanism, ParamShape, Params};
use crate::hsm::value::Attributes;

/// Sizes of AES keys as the mechanisms' rows have them, in bytes.
pub(super) const MIN_KEY: u64 = 16;
pub(super) const MAX_KEY: u64 = 32;

/// What the rows of all AES mechanisms start from.
pub(super) const AES: Row = Row { min_key: MIN_KEY, max_key: MAX_KEY, key_types: &[ck::CKK_AES], ..Row::NONE };

pub(super) const ROWS: &[Row] = &[
    Row {
        kind: ck::CKM_AES_KEY_GEN,
        name: "CKM_AES_KEY_GEN",
        params: ParamShape::None,
        generate: Some(generate),
        ..AES
    },
    Row {
        kind: ck::CKM_AES_ECB,
        name: "CKM_AES_ECB",
        params: ParamShape::None,
        cipher: Some(begin_block),
        wrap: Some(WrapFns { wrap: wrap_blocks, unwrap: unwrap_blocks, private_keys: false }),
        zero_pad: BLOCK,
        ..AES
    },
    Row {
        kind: ck::CKM_AES_CBC,
        name: "CKM_AES_CBC",
        params: ParamShape::Iv16,
        cipher: Some(begin_block),
        wrap: Some(WrapFns { wrap: wrap_blocks, unwrap: unwrap_blocks, private_keys: false }),
        zero_pad: BLOCK,
        ..AES
    },
    Row {
        kind: ck::CKM_AES_CBC_PAD,
        name: "CKM_AES_CBC_PAD",
        params: ParamShape::Iv16,
        cipher: Some(begin_block),
        wrap: Some(WrapFns {
            wrap: |mechanism, key, plain| wrap_with(begin_block, mechanism, key, plain),
            unwrap: unwrap_blocks,
            private_keys: true,
        }),
        oracle_prone: true,
        ..AES
    },
    Row {
        kind: ck::CKM_AES_CTR,
        name: "CKM_AES_CTR",
        params: ParamShape::Ctr,
        cipher: Some(begin_ctr),
        wrap: Some(WrapFns {
            wrap: |mechanism, key, plain| wrap_with(begin_ctr, mechanism, key, plain),
            unwrap: |mechanism, key, wrapped| unwrap_with(begin_ctr, mechanism, key, wrapped),
            private_keys: false,
        }),
        ..AES
    },
];

pub(super) const KEY_TYPES: &[KeyType] = &[KeyType {
    kind: ck::CKK_AES,
    name: "CKK_AES",
    secrets: &[ck::CKA_VALUE],
    complete,
    to_pkcs8: None,
    from_pkcs8: None,
    strength: generic_secret::strength,
}];

fn complete(class: ck::CK_OBJECT_CLASS, attributes: &mut Attributes, secrets: &mut Secrets) -> Result<()> {
    generic_secret::complete(class, attributes, secrets, is_key_len, |value| {
        let [a, b, c, ..] = AesKey::new(value)?.encrypt_block(&[0; BLOCK]);
        Ok([a, b, c])
    })
}

fn is_key_len(len: usize) -> bool {
    matches!(len, 16 | 24 | 32)
}

fn generate(mechanism: &Mechanism<'_>, attributes: &mut Attributes) -> Result<Secrets> {
    if !is_key_len(generic_secret::value_len(attributes, MAX_GENERATED)?) {
        return Err(ErrorKind::AttributeValueInvalid.with("CKA_VALUE_LEN of an AES key is 16, 24 or 32"));
    }
    generic_secret::generate(mechanism, attributes)
}

/// The key's schedules, made once.
pub(super) fn schedules(key: &Key) -> Result<&AesKey> {
    key.engine(|key| AesKey::new(key.secret(ck::CKA_VALUE)?))
}

/// The direction of a cipher operation.
pub(super) fn direction(function: Function) -> Result<Direction> {
    match function {
        Function::Encrypt => Ok(Direction::Encrypt),
        Function::Decrypt => Ok(Direction::Decrypt),
        _ => Err(ErrorKind::FunctionNotSupported.into()),
    }
}

fn wrap_blocks(mechanism: &Mechanism<'_>, key: &Arc<Key>, plain: &[u8]) -> Result<Vec<u8>> {
    wrap_zero_padded(begin_block, mechanism, key, plain, BLOCK, BLOCK)
}

fn unwrap_blocks(mechanism: &Mechanism<'_>, key: &Arc<Key>, wrapped: &[u8]) -> Result<SecretBytes> {
    if wrapped.is_empty() {
        return Err(ErrorKind::WrappedKeyLenRange.into());
    }
    unwrap_with(begin_block, mechanism, key, wrapped)
}

fn begin_block(mechanism: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let (chained, padded) = match mechanism.kind {
        ck::CKM_AES_ECB => (false, false),
        ck::CKM_AES_CBC => (true, false),
        _ => (true, true),
    };
    let iv = block_iv(&mechanism.params, chained)?;
    schedules(&key)?;
    let direction = direction(function)?;
    Ok(Box::new(BlockOperation { key, direction, chained, padded, iv, held: [0; BLOCK], held_len: 0 }))
}

fn block_iv(params: &Params<'_>, chained: bool) -> Result<[u8; BLOCK]> {
    match params {
        Params::Iv(iv) if chained => (*iv).try_into().map_err(|_| ErrorKind::MechanismParamInvalid.into()),
        Params::None if !chained => Ok([0; BLOCK]),
        _ => Err(ErrorKind::MechanismParamInvalid.into()),
    }
}

/// ECB and CBC: whole blocks go through, the rest is held until more comes.
struct BlockOperation {
    key: Arc<Key>,
    direction: Direction,
    chained: bool,
    /// PKCS#7. A decryption holds the last whole block back, which may be padding.
    padded: bool,
    iv: [u8; BLOCK],
    held: [u8; BLOCK],
    held_len: usize,
}

impl BlockOperation {
    /// Whole blocks, `input` and `output` of the same length.
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<()> {
        let aes = schedules(&self.key)?;
        match self.chained {
            true => aes.cbc(self.direction, &mut self.iv, input, output),
            false => aes.ecb(self.direction, input, output),
        }
    }

    /// The error for input that does not end on a block.
    fn bad_length(&self) -> ErrorKind {
        match self.direction {
            Direction::Encrypt => ErrorKind::DataLenRange,
            Direction::Decrypt => ErrorKind::EncryptedDataLenRange,
        }
    }

    fn unpads(&self) -> bool {
        self.padded && self.direction == Direction::Decrypt
    }

    fn pads(&self) -> bool {
        self.padded && self.direction == Direction::Encrypt
    }

    /// The last, padded block of plaintext, fewer than 16 bytes.
    fn pad_last(&mut self, rest: &[u8], output: &mut [u8]) -> Result<()> {
        let mut block = Zeroizing::new([(BLOCK - rest.len()) as u8; BLOCK]);
        block[..rest.len()].copy_from_slice(rest);
        self.run(&*block, output)
    }

    /// Decrypts the last block after `previous`, and gives it with the length of its plaintext.
    fn unpad_last(&self, previous: [u8; BLOCK], last: &[u8]) -> Result<(Zeroizing<[u8; BLOCK]>, usize)> {
        let (mut iv, mut block) = (previous, Zeroizing::new([0; BLOCK]));
        schedules(&self.key)?.cbc(Direction::Decrypt, &mut iv, last, &mut *block)?;
        let len = unpadded_len(&block).ok_or(ErrorKind::EncryptedDataInvalid)?;
        Ok((block, len))
    }

    /// A whole padded ciphertext. The last block is looked at first, so that nothing is written
    /// before the padding and the room for the plaintext are known to be right.
    fn decrypt_padded(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        let Some((before, last)) = input.split_last_chunk::<BLOCK>().filter(|_| input.len().is_multiple_of(BLOCK))
        else {
            return Err(ErrorKind::EncryptedDataLenRange.into());
        };
        let Some(output) = output.filter(|output| output.len() >= before.len()) else {
            return Ok(Outcome::Needed(input.len()));
        };
        let previous = before.last_chunk().copied().unwrap_or(self.iv);
        let (block, rest) = self.unpad_last(previous, last)?;
        let len = before.len() + rest;
        let Some(output) = room(Some(output), len) else {
            return Ok(Outcome::Needed(len));
        };
        let (front, back) = output.split_at_mut(before.len());
        self.run(before, front)?;
        back.copy_from_slice(&block[..rest]);
        Ok(Outcome::Written(len))
    }
}

impl Operation for BlockOperation {
    fn update(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        let total = self.held_len + input.len();
        let through = match self.unpads() {
            true => total.saturating_sub(1) / BLOCK * BLOCK,
            false => total / BLOCK * BLOCK,
        };
        let Some(output) = room(output, through) else {
            return Ok(Outcome::Needed(through));
        };
        let mut input = input;
        if through > 0 {
            let mut output = output;
            if self.held_len > 0 {
                let (fill, rest) = input.split_at(BLOCK - self.held_len);
                self.held[self.held_len..].copy_from_slice(fill);
                let (first, others) = output.split_at_mut(BLOCK);
                let block = Zeroizing::new(self.held);
                self.run(&*block, first)?;
                (input, output) = (rest, others);
                self.held_len = 0;
            }
            let (whole, rest) = input.split_at(output.len());
            self.run(whole, output)?;
            input = rest;
        }
        self.held[self.held_len..][..input.len()].copy_from_slice(input);
        self.held_len += input.len();
        Ok(Outcome::Written(through))
    }

    fn finish(&mut self, output: Option<&mut [u8]>) -> Result<Outcome> {
        if self.pads() {
            let Some(output) = room(output, BLOCK) else {
                return Ok(Outcome::Needed(BLOCK));
            };
            let held = Zeroizing::new(self.held);
            self.pad_last(&held[..self.held_len], output)?;
            return Ok(Outcome::Written(BLOCK));
        }
        if self.held_len != if self.unpads() { BLOCK } else { 0 } {
            return Err(self.bad_length().into());
        }
        let Some(output) = output else {
            return Ok(Outcome::Needed(self.held_len));
        };
        if !self.unpads() {
            return Ok(Outcome::Written(0));
        }
        let (block, len) = self.unpad_last(self.iv, &self.held)?;
        let Some(output) = room(Some(output), len) else {
            return Ok(Outcome::Needed(len));
        };
        output.copy_from_slice(&block[..len]);
        Ok(Outcome::Written(len))
    }

    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        if self.held_len > 0 {
            return Err(ErrorKind::OperationActive.into());
        }
        if self.unpads() {
            return self.decrypt_padded(input, output);
        }
        let whole = input.len() / BLOCK * BLOCK;
        if !self.padded && whole != input.len() {
            return Err(self.bad_length().into());
        }
        let len = if self.padded { whole + BLOCK } else { whole };
        let Some(output) = room(output, len) else {
            return Ok(Outcome::Needed(len));
        };
        let (front, back) = output.split_at_mut(whole);
        self.run(&input[..whole], front)?;
        if self.padded {
            self.pad_last(&input[whole..], back)?;
        }
        Ok(Outcome::Written(len))
    }

    fn rest(&mut self) -> bool {
        self.held.zeroize();
        self.held_len = 0;
        true
    }

    fn restart(&mut self, params: &Params<'_>) -> Result<bool> {
        self.iv = block_iv(params, self.chained)?;
        Ok(true)
    }

    fn is_private(&self) -> bool {
        self.key.attributes.flag(ck::CKA_PRIVATE)
    }
}

impl Drop for BlockOperation {
    fn drop(&mut self) {
        self.held.zeroize();
    }
}

/// The length of the plaintext in a block with PKCS#7 padding, None if the padding is wrong; takes
/// the same time for every block.
fn unpadded_len(block: &[u8; BLOCK]) -> Option<usize> {
    let pad = block[BLOCK - 1];
    let mut good = pad.ct_gt(&0) & !pad.ct_gt(&(BLOCK as u8));
    for (from_end, byte) in (0u8..).zip(block.iter().rev()) {
        good &= !pad.ct_gt(&from_end) | byte.ct_eq(&pad);
    }
    bool::from(good).then(|| BLOCK - usize::from(pad))
}

fn begin_ctr(mechanism: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let Params::Ctr { counter_bits: bits @ 1..=128, block } = mechanism.params else {
        return Err(ErrorKind::MechanismParamInvalid.into());
    };
    direction(function)?;
    schedules(&key)?;
    let count = u128::from_be_bytes(block);
    let blocks = match bits {
        // One short of what there are if all bits count from zero, which nobody will notice.
        128 => {
            if count == 0 {
                u128::MAX
            } else {
                count.wrapping_neg()
            }
        }
        _ => (1 << bits) - (count & ((1 << bits) - 1)),
    };
    Ok(Box::new(CtrOperation { key, state: CtrState::new(block), blocks, done: 0 }))
}

/// CTR: a stream cipher that ends where the counter would run into the nonce.
struct CtrOperation {
    key: Arc<Key>,
    state: CtrState,
    /// Blocks there are counters for.
    blocks: u128,
    /// Bytes so far.
    done: u128,
}

impl Operation for CtrOperation {
    fn update(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        let done = self.done.saturating_add(input.len() as u128);
        if done.div_ceil(BLOCK as u128) > self.blocks {
            return Err(ErrorKind::DataLenRange.into());
        }
        let Some(output) = room(output, input.len()) else {
            return Ok(Outcome::Needed(input.len()));
        };
        schedules(&self.key)?.ctr(&mut self.state, input, output)?;
        self.done = done;
        Ok(Outcome::Written(input.len()))
    }

    fn finish(&mut self, output: Option<&mut [u8]>) -> Result<Outcome> {
        Ok(output.map_or(Outcome::Needed(0), |_| Outcome::Written(0)))
    }

    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        self.update(input, output)
    }
}
