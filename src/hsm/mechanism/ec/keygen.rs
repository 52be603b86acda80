//! Generation of pairs (PKCS#11 3.2 §6.3.9).

use cryptoki_sys as ck;

use super::super::generic_secret::imply_key_type;
use super::key::{store_public, weierstrass};
use crate::error::Result;
use crate::hsm::crypto::aws_lc::ec::EcKey;
use crate::hsm::key::Secrets;
use crate::hsm::params::Mechanism;
use crate::hsm::value::Attributes;

/// Needs CKA_EC_PARAMS of the public template.
pub(super) fn generate(_: &Mechanism<'_>, public: &mut Attributes, private: &mut Attributes) -> Result<Secrets> {
    let curve = weierstrass(public)?;
    imply_key_type(public, ck::CKK_EC)?;
    imply_key_type(private, ck::CKK_EC)?;
    let key = EcKey::generate(curve)?;
    store_public(&key, public)?;
    store_public(&key, private)?;
    let mut secrets = Secrets::new();
    secrets.set(ck::CKA_VALUE, key.scalar()?);
    Ok(secrets)
}
