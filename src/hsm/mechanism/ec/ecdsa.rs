//! ECDSA (PKCS#11 3.2 §6.3.12, §6.3.13): over a given digest, or a message. A signature is r and s.

use std::sync::Arc;

use cryptoki_sys as ck;

use super::super::hashes;
use super::super::signing::{Scheme, collected, hashed, verdict};
use super::key::engine;
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Operation};
use crate::hsm::crypto::aws_lc::ec::EcKey;
use crate::hsm::key::Key;
use crate::hsm::params::Mechanism;

/// What parts of a given digest may come to; only as many bits as the order has are used.
const MAX_PARTS: usize = 4096;

/// CKM_ECDSA: over a digest of any length, which is cut to the length of the order.
pub(super) fn sign(_: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    Ok(collected(function, MAX_PARTS, ErrorKind::DataLenRange, Ecdsa::new(function, key)?))
}

/// CKM_ECDSA_SHA*.
pub(super) fn sign_hashed(mechanism: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let hash = hashes::find(|names| names.ecdsa, mechanism.kind).ok_or(ErrorKind::MechanismInvalid)?;
    hashed(function, hash, Ecdsa::new(function, key)?)
}

struct Ecdsa {
    key: Arc<Key>,
    signature_len: usize,
}

impl Ecdsa {
    fn new(function: Function, key: Arc<Key>) -> Result<Self> {
        let class = if function == Function::Sign { ck::CKO_PRIVATE_KEY } else { ck::CKO_PUBLIC_KEY };
        if key.class() != class {
            return Err(ErrorKind::KeyTypeInconsistent.into());
        }
        let signature_len = 2 * engine(&key)?.curve().len();
        Ok(Self { key, signature_len })
    }

    fn ec(&self) -> Result<&EcKey> {
        engine(&self.key)
    }
}

impl Scheme for Ecdsa {
    fn signature_len(&self) -> usize {
        self.signature_len
    }

    fn sign(&self, digest: &[u8], out: &mut [u8]) -> Result<()> {
        self.ec()?.sign(digest, out)
    }

    /// A signature may be shorter if its halves are as long as each other (§6.3.1).
    fn verify(&self, digest: &[u8], signature: &[u8]) -> Result<()> {
        if signature.is_empty() || signature.len() > self.signature_len || !signature.len().is_multiple_of(2) {
            return Err(ErrorKind::SignatureLenRange.into());
        }
        verdict(self.ec()?.verify(digest, signature)?)
    }
}
