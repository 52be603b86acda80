//! What HMAC and CMAC share: the operation around a keyed computation.

use std::sync::Arc;

use cryptoki_sys as ck;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::room;
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Operation, Outcome};
use crate::hsm::crypto::aws_lc::digest::MAX_DIGEST;
use crate::hsm::key::Key;
use crate::hsm::params::Params;

/// The longest MAC in bytes.
pub(super) const MAX_MAC: usize = MAX_DIGEST;

/// A MAC algorithm: how a computation starts from a key.
pub(super) trait Scheme: Copy + Send + 'static {
    type State: State + Send;

    fn start(self, key: &Key) -> Result<Self::State>;
}

/// A MAC being computed.
pub(super) trait State {
    fn update(&mut self, input: &[u8]) -> Result<()>;

    /// Writes the full MAC to the front of `out`.
    fn finish(&mut self, out: &mut [u8; MAX_MAC]) -> Result<()>;
}

/// C_Sign and C_Verify with a MAC of `len` bytes, the front of the full one.
pub(super) struct MacOperation<S: Scheme> {
    scheme: S,
    key: Arc<Key>,
    function: Function,
    len: usize,
    /// Only a computation in parts is kept here; one call has it on the stack.
    state: Option<Box<S::State>>,
}

impl<S: Scheme> MacOperation<S> {
    pub(super) fn begin(scheme: S, key: Arc<Key>, function: Function, len: usize) -> Result<Box<dyn Operation>> {
        Ok(Box::new(Self { scheme, key, function, len, state: None }))
    }

    /// The full MAC of what came in parts and `input`. Wiped, as it would be a forgery when a
    /// verification fails.
    fn compute(&mut self, input: &[u8]) -> Result<Zeroizing<[u8; MAX_MAC]>> {
        let mut out = Zeroizing::new([0; MAX_MAC]);
        match &mut self.state {
            Some(state) => {
                state.update(input)?;
                state.finish(&mut out)?;
            }
            None => {
                let mut state = self.scheme.start(&self.key)?;
                state.update(input)?;
                state.finish(&mut out)?;
            }
        }
        Ok(out)
    }

    fn only(&self, function: Function) -> Result<()> {
        if self.function == function { Ok(()) } else { Err(ErrorKind::FunctionNotSupported.into()) }
    }
}

impl<S: Scheme> Operation for MacOperation<S> {
    fn update(&mut self, input: &[u8], _output: Option<&mut [u8]>) -> Result<Outcome> {
        let state = match &mut self.state {
            Some(state) => state,
            None => self.state.insert(Box::new(self.scheme.start(&self.key)?)),
        };
        state.update(input)?;
        Ok(Outcome::Written(0))
    }

    fn finish(&mut self, output: Option<&mut [u8]>) -> Result<Outcome> {
        self.one_shot(&[], output)
    }

    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        self.only(Function::Sign)?;
        let Some(output) = room(output, self.len) else {
            return Ok(Outcome::Needed(self.len));
        };
        let mac = self.compute(input)?;
        output.copy_from_slice(&mac[..self.len]);
        Ok(Outcome::Written(self.len))
    }

    fn verify(&mut self, signature: &[u8]) -> Result<()> {
        self.verify_one_shot(&[], signature)
    }

    fn verify_one_shot(&mut self, input: &[u8], signature: &[u8]) -> Result<()> {
        self.only(Function::Verify)?;
        if signature.len() != self.len {
            return Err(ErrorKind::SignatureLenRange.into());
        }
        let mac = self.compute(input)?;
        if mac[..self.len].ct_eq(signature).into() { Ok(()) } else { Err(ErrorKind::SignatureInvalid.into()) }
    }

    fn rest(&mut self) -> bool {
        self.state = None;
        true
    }

    /// A parameter would be another length.
    fn restart(&mut self, params: &Params<'_>) -> Result<bool> {
        Ok(matches!(params, Params::None))
    }

    fn is_private(&self) -> bool {
        self.key.attributes.flag(ck::CKA_PRIVATE)
    }
}
