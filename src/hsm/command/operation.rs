//! Streaming operations.

use super::super::params::Params;
use super::ObjectId;
use crate::error::{ErrorKind, Result};

/// What an operation does; decides which usage attribute the key needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Function {
    Encrypt,
    Decrypt,
    Digest,
    Sign,
    SignRecover,
    Verify,
    VerifyRecover,
}

/// A use of a key under dual control that its operators have not approved yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRequest {
    /// The key.
    pub object: ObjectId,
    /// The model system's name of what is done with it, such as "Sign".
    pub action: String,
    /// SHA-256 of the input.
    pub digest: [u8; 32],
}

/// The result of a call with an output buffer (PKCS#11 3.2 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The output was written and is this long.
    Written(usize),
    /// No buffer was given, or it is too small: this many bytes are needed, and nothing changed.
    Needed(usize),
}

/// A streaming operation: an object the channel hands out, fed until it is finished.
///
/// `output` is None when the caller only asks for the length. A method that answers
/// [`Outcome::Needed`] has changed nothing and may be called again. After an error, or after
/// `finish` or `one_shot` wrote, the operation is over. Methods that do not fit the operation's
/// [`Function`] answer CKR_FUNCTION_NOT_SUPPORTED.
pub trait Operation: Send {
    /// Takes a part of the input. Ciphers may write; digests, signatures and verifications
    /// write nothing (`Written(0)`).
    fn update(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome>;

    /// Ends the operation and writes what is left: last block, tag, digest, signature.
    fn finish(&mut self, output: Option<&mut [u8]>) -> Result<Outcome>;

    /// The whole in one call. Input and output may not overlap (the ABI copies if they do).
    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome>;

    /// Ends a verification.
    fn verify(&mut self, _signature: &[u8]) -> Result<()> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    /// A verification in one call.
    fn verify_one_shot(&mut self, input: &[u8], signature: &[u8]) -> Result<()> {
        self.update(input, None)?;
        self.verify(signature)
    }

    /// Forgets what an operation that is over worked on, to be begun anew by [`Self::restart`].
    /// False if it cannot be; then it is to be dropped.
    fn rest(&mut self) -> bool {
        false
    }

    /// Begins anew after [`Self::rest`], for the same function, mechanism and key, with this
    /// parameter. False if only a new operation can take it.
    fn restart(&mut self, _params: &Params<'_>) -> Result<bool> {
        Ok(false)
    }

    /// What must be approved before `one_shot` (with this input), `finish` or a verification gives a
    /// result; None if nothing must, or it was.
    fn approval(&mut self, _input: Option<&[u8]>) -> Result<Option<ApprovalRequest>> {
        Ok(None)
    }

    /// How many bytes of input it keeps until it ends.
    fn held(&self) -> usize {
        0
    }

    /// Whether it uses a private object.
    fn is_private(&self) -> bool {
        true
    }

    /// The state for C_GetOperationState, where it can be saved.
    fn save(&self) -> Result<Vec<u8>> {
        Err(ErrorKind::StateUnsaveable.into())
    }
}
