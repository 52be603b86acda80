//! PSS signatures (PKCS#11 3.2 §6.1.10), over a digest or a message.

use std::sync::Arc;

use super::super::hashes;
use super::super::signing::{check_len, collected, hashed, verdict};
use super::{Checked, Scheme};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Operation};
use crate::hsm::crypto::aws_lc::digest::Hash;
use crate::hsm::crypto::aws_lc::rsa::RsaKey;
use crate::hsm::key::Key;
use crate::hsm::params::{Mechanism, Params};

/// CKM_RSA_PKCS_PSS: over a digest of the hash that the parameter names.
pub(super) fn sign(mechanism: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let scheme = Pss::new(mechanism, function, key)?;
    Ok(collected(function, scheme.hash.len(), ErrorKind::DataLenRange, scheme))
}

/// CKM_SHA*_RSA_PKCS_PSS: the hash of the parameter must be the mechanism's.
pub(super) fn sign_hashed(mechanism: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let hash = hashes::find(|names| names.rsa_pss, mechanism.kind).ok_or(ErrorKind::MechanismInvalid)?;
    let scheme = Pss::new(mechanism, function, key)?;
    if scheme.hash != hash {
        return Err(ErrorKind::MechanismParamInvalid.with("hashAlg is not the mechanism's hash"));
    }
    hashed(function, hash, scheme)
}

struct Pss {
    key: Checked,
    hash: Hash,
    mgf: Hash,
    salt_len: usize,
}

impl Pss {
    fn new(mechanism: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Self> {
        let Params::Pss(params) = &mechanism.params else { return Err(ErrorKind::MechanismParamInvalid.into()) };
        let hash = hashes::find(|names| names.digest, params.hash).ok_or(ErrorKind::MechanismParamInvalid)?;
        let mgf = hashes::find(|names| names.mgf, params.mgf).ok_or(ErrorKind::MechanismParamInvalid)?;
        let key = Checked::new(key, function)?;
        let max = key.rsa()?.max_salt(hash).ok_or(ErrorKind::KeySizeRange)?;
        let salt_len = usize::try_from(params.salt_len)
            .ok()
            .filter(|len| *len <= max)
            .ok_or_else(|| ErrorKind::MechanismParamInvalid.with("sLen is more than the modulus takes"))?;
        Ok(Self { key, hash, mgf, salt_len })
    }

    fn check_input(&self, digest: &[u8]) -> Result<()> {
        if digest.len() == self.hash.len() { Ok(()) } else { Err(ErrorKind::DataLenRange.into()) }
    }
}

impl Scheme for Pss {
    fn signature_len(&self) -> usize {
        self.key.rsa().map_or(0, RsaKey::len)
    }

    fn sign(&self, digest: &[u8], out: &mut [u8]) -> Result<()> {
        self.check_input(digest)?;
        self.key.rsa()?.sign_pss(self.hash, self.mgf, self.salt_len, digest, out)
    }

    fn verify(&self, digest: &[u8], signature: &[u8]) -> Result<()> {
        self.check_input(digest)?;
        let rsa = self.key.rsa()?;
        check_len(signature, rsa.len())?;
        verdict(rsa.verify_pss(self.hash, self.mgf, self.salt_len, digest, signature)?)
    }
}
