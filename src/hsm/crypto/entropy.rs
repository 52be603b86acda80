//! Random bytes for the domain: the operating system's, so that a fork needs no reseeding.

use crate::error::{ErrorKind, Result};

/// A source of random bytes.
pub(in crate::hsm) enum Entropy {
    System,
    /// Expands a seed: known-answer vectors are made with it.
    #[cfg(test)]
    Seeded {
        seed: Vec<u8>,
        taken: u64,
    },
}

impl Entropy {
    #[cfg(test)]
    pub(in crate::hsm) fn seeded(seed: &str) -> Self {
        Self::Seeded { seed: seed.as_bytes().to_vec(), taken: 0 }
    }

    pub(in crate::hsm) fn fill(&mut self, output: &mut [u8]) -> Result<()> {
        match self {
            Self::System => fill_from_system(output),
            #[cfg(test)]
            Self::Seeded { seed, taken } => {
                use sha2::{Digest, Sha256};
                for chunk in output.chunks_mut(32) {
                    let block = Sha256::new().chain_update(&*seed).chain_update(taken.to_be_bytes()).finalize();
                    chunk.copy_from_slice(&block[..chunk.len()]);
                    *taken += 1;
                }
                Ok(())
            }
        }
    }

    pub(in crate::hsm) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

fn fill_from_system(mut output: &mut [u8]) -> Result<()> {
    while !output.is_empty() {
        // SAFETY: the pointer and length are those of a slice we may write.
        let got = unsafe { libc::getrandom(output.as_mut_ptr().cast(), output.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => output = &mut output[got..],
            Err(_) => {
                let error = std::io::Error::last_os_error();
                if error.kind() != std::io::ErrorKind::Interrupted {
                    return Err(ErrorKind::RandomNoRng.with(format!("getrandom: {error}")));
                }
            }
        }
    }
    Ok(())
}
