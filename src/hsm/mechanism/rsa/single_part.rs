//! RSA encryption and recovery as operations: one block in, one block out.

use zeroize::Zeroizing;

use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Operation, Outcome};

/// What turns one block into another.
pub(super) trait Block: Send {
    /// The longest input in bytes, and the error for a longer one.
    fn input(&self) -> (usize, ErrorKind);

    /// The longest output in bytes: what a caller is told who asks for the length.
    fn output_bound(&self) -> usize;

    /// The output may be too small for what comes out; then nothing was written.
    fn apply(&self, input: &[u8], output: &mut [u8]) -> Result<Outcome>;
}

pub(super) fn single_part<B: Block + 'static>(block: B) -> Box<dyn Operation> {
    Box::new(SinglePart { block, input: Zeroizing::new(Vec::new()) })
}

/// `bytes` into the output if they fit, else `needed`.
pub(super) fn deliver(bytes: &[u8], output: &mut [u8], needed: usize) -> Outcome {
    match output.get_mut(..bytes.len()) {
        Some(out) => {
            out.copy_from_slice(bytes);
            Outcome::Written(bytes.len())
        }
        None => Outcome::Needed(needed),
    }
}

struct SinglePart<B> {
    block: B,
    /// What updates brought, allocated once so that no copy stays behind.
    input: Zeroizing<Vec<u8>>,
}

impl<B: Block> Operation for SinglePart<B> {
    fn update(&mut self, input: &[u8], _output: Option<&mut [u8]>) -> Result<Outcome> {
        let (limit, too_long) = self.block.input();
        if input.len() > limit - self.input.len() {
            return Err(too_long.into());
        }
        if self.input.capacity() < limit {
            self.input.reserve_exact(limit);
        }
        self.input.extend_from_slice(input);
        Ok(Outcome::Written(0))
    }

    fn finish(&mut self, output: Option<&mut [u8]>) -> Result<Outcome> {
        match output {
            Some(output) => self.block.apply(&self.input, output),
            None => Ok(Outcome::Needed(self.block.output_bound())),
        }
    }

    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        let (limit, too_long) = self.block.input();
        if input.len() > limit {
            return Err(too_long.into());
        }
        match output {
            Some(output) => self.block.apply(input, output),
            None => Ok(Outcome::Needed(self.block.output_bound())),
        }
    }
}
