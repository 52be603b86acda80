//! Signatures as operations: over the hash of a streamed message, or over the input itself.

use super::room;
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Operation, Outcome};
use crate::hsm::crypto::aws_lc::digest::{Digester, Hash, MAX_DIGEST};

/// What signs and verifies an input that is there as a whole.
pub(super) trait Scheme: Send {
    fn signature_len(&self) -> usize;

    /// `out` is exactly `signature_len()` bytes.
    fn sign(&self, input: &[u8], out: &mut [u8]) -> Result<()>;

    /// CKR_SIGNATURE_LEN_RANGE for a length that no signature has, else CKR_SIGNATURE_INVALID.
    fn verify(&self, input: &[u8], signature: &[u8]) -> Result<()>;
}

/// An operation over the hash of the message.
pub(super) fn hashed<S: Scheme + 'static>(function: Function, hash: Hash, scheme: S) -> Result<Box<dyn Operation>> {
    let digester = Digester::new(hash)?;
    Ok(Box::new(Hashed { function, digester, scheme }))
}

/// An operation over the message itself; parts are collected up to `limit` bytes, beyond which
/// they fail with `too_long`.
pub(super) fn collected<S: Scheme + 'static>(
    function: Function,
    limit: usize,
    too_long: ErrorKind,
    scheme: S,
) -> Box<dyn Operation> {
    Box::new(Collected { function, limit, too_long, message: Vec::new(), scheme })
}

/// CKR_SIGNATURE_INVALID unless `valid`.
pub(super) fn verdict(valid: bool) -> Result<()> {
    if valid { Ok(()) } else { Err(ErrorKind::SignatureInvalid.into()) }
}

/// CKR_SIGNATURE_LEN_RANGE unless the signature has the length.
pub(super) fn check_len(signature: &[u8], len: usize) -> Result<()> {
    if signature.len() == len { Ok(()) } else { Err(ErrorKind::SignatureLenRange.into()) }
}

fn expect(function: Function, expected: Function) -> Result<()> {
    if function == expected { Ok(()) } else { Err(ErrorKind::FunctionNotSupported.into()) }
}

struct Hashed<S> {
    function: Function,
    digester: Digester,
    scheme: S,
}

impl<S: Scheme> Hashed<S> {
    fn digest(&mut self) -> Result<([u8; MAX_DIGEST], usize)> {
        let mut digest = [0; MAX_DIGEST];
        self.digester.finish(&mut digest)?;
        Ok((digest, self.digester.hash().len()))
    }
}

impl<S: Scheme> Operation for Hashed<S> {
    fn update(&mut self, input: &[u8], _output: Option<&mut [u8]>) -> Result<Outcome> {
        self.digester.update(input)?;
        Ok(Outcome::Written(0))
    }

    fn finish(&mut self, output: Option<&mut [u8]>) -> Result<Outcome> {
        self.one_shot(&[], output)
    }

    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        expect(self.function, Function::Sign)?;
        let len = self.scheme.signature_len();
        let Some(out) = room(output, len) else { return Ok(Outcome::Needed(len)) };
        self.digester.update(input)?;
        let (digest, digest_len) = self.digest()?;
        self.scheme.sign(&digest[..digest_len], out)?;
        Ok(Outcome::Written(len))
    }

    fn verify(&mut self, signature: &[u8]) -> Result<()> {
        expect(self.function, Function::Verify)?;
        let (digest, digest_len) = self.digest()?;
        self.scheme.verify(&digest[..digest_len], signature)
    }
}

struct Collected<S> {
    function: Function,
    limit: usize,
    too_long: ErrorKind,
    message: Vec<u8>,
    scheme: S,
}

impl<S: Scheme> Operation for Collected<S> {
    fn update(&mut self, input: &[u8], _output: Option<&mut [u8]>) -> Result<Outcome> {
        if input.len() > self.limit - self.message.len() {
            return Err(self.too_long.into());
        }
        self.message.extend_from_slice(input);
        Ok(Outcome::Written(0))
    }

    fn held(&self) -> usize {
        self.message.len()
    }

    fn finish(&mut self, output: Option<&mut [u8]>) -> Result<Outcome> {
        let message = std::mem::take(&mut self.message);
        let outcome = self.one_shot(&message, output);
        self.message = message;
        outcome
    }

    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        expect(self.function, Function::Sign)?;
        let len = self.scheme.signature_len();
        let Some(out) = room(output, len) else { return Ok(Outcome::Needed(len)) };
        self.scheme.sign(input, out)?;
        Ok(Outcome::Written(len))
    }

    fn verify(&mut self, signature: &[u8]) -> Result<()> {
        let message = std::mem::take(&mut self.message);
        self.verify_one_shot(&message, signature)
    }

    fn verify_one_shot(&mut self, input: &[u8], signature: &[u8]) -> Result<()> {
        expect(self.function, Function::Verify)?;
        self.scheme.verify(input, signature)
    }
}
