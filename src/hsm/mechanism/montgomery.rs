//! X25519 (PKCS#11 3.2 §6.3.7, §6.3.11): generation, agreement, the key type CKK_EC_MONTGOMERY.

use cryptoki_sys as ck;

use super::ec::params::{self, AnyCurve};
use super::generic_secret::imply_key_type;
use super::{KeyType, Row, public_key};
use crate::error::{ErrorKind, Result};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::crypto::aws_lc::pkey::{PrivateKeyInfo, Rfc8410};
use crate::hsm::crypto::aws_lc::x25519::{self, KEY_LEN};
use crate::hsm::key::{Key, Secrets};
use crate::hsm::params::Mechanism;
use crate::hsm::value::{Attributes, Value};

pub(super) const ROWS: &[Row] = &[Row {
    kind: ck::CKM_EC_MONTGOMERY_KEY_PAIR_GEN,
    name: "CKM_EC_MONTGOMERY_KEY_PAIR_GEN",
    min_key: 255,
    max_key: 255,
    extra_flags: ck::CKF_EC_F_P | ck::CKF_EC_OID | ck::CKF_EC_CURVENAME | ck::CKF_EC_COMPRESS,
    key_types: &[ck::CKK_EC_MONTGOMERY],
    generate_pair: Some(generate),
    ..Row::NONE
}];

pub(super) const KEY_TYPES: &[KeyType] = &[KeyType {
    kind: ck::CKK_EC_MONTGOMERY,
    name: "CKK_EC_MONTGOMERY",
    secrets: &[ck::CKA_VALUE],
    complete,
    to_pkcs8: Some(|key| Rfc8410::X25519.private(key.secret(ck::CKA_VALUE)?)),
    from_pkcs8: Some(from_pkcs8),
    strength: |_| 128,
}];

/// The shared secret with a peer's key, raw or in a DER string; None if that is not valid.
pub(super) fn agree(key: &Key, peer: &[u8]) -> Option<Result<SecretBytes>> {
    let peer = params::unwrapped(peer, &[KEY_LEN])?;
    match key.secret(ck::CKA_VALUE) {
        Ok(private) => x25519::agree(private, peer),
        Err(error) => Some(Err(error)),
    }
}

fn generate(_: &Mechanism<'_>, public: &mut Attributes, private: &mut Attributes) -> Result<Secrets> {
    check_curve(public)?;
    imply_key_type(public, ck::CKK_EC_MONTGOMERY)?;
    imply_key_type(private, ck::CKK_EC_MONTGOMERY)?;
    let (secret, point) = x25519::generate()?;
    for half in [public, private] {
        store_public(&point, half)?;
    }
    let mut secrets = Secrets::new();
    secrets.set(ck::CKA_VALUE, secret);
    Ok(secrets)
}

fn check_curve(attributes: &Attributes) -> Result<()> {
    match params::curve(attributes)? {
        AnyCurve::Curve25519 => Ok(()),
        _ => Err(ErrorKind::CurveNotSupported.into()),
    }
}

/// CKA_EC_POINT is the 32 bytes as they are (§6.3.7).
fn store_public(public: &[u8], attributes: &mut Attributes) -> Result<()> {
    public_key::set_info(attributes, Rfc8410::X25519.public(public)?)?;
    params::set_curve(attributes, AnyCurve::Curve25519)?;
    attributes.set(ck::CKA_EC_POINT, Value::Bytes(public.to_vec()));
    Ok(())
}

fn complete(class: ck::CK_OBJECT_CLASS, attributes: &mut Attributes, secrets: &mut Secrets) -> Result<()> {
    check_curve(attributes)?;
    let given = public_key::given_point(attributes, KEY_LEN)?;
    if class != ck::CKO_PRIVATE_KEY {
        let point = given.ok_or_else(|| ErrorKind::TemplateIncomplete.with("CKA_EC_POINT"))?;
        if !x25519::valid_public(&point) {
            return Err(ErrorKind::PublicKeyInvalid.with("a point of small order"));
        }
        return store_public(&point, attributes);
    }
    let secret = secrets.get(ck::CKA_VALUE).ok_or_else(|| ErrorKind::TemplateIncomplete.with("CKA_VALUE"))?;
    if secret.len() != KEY_LEN {
        return Err(ErrorKind::AttributeValueInvalid.with("an X25519 private key has 32 bytes"));
    }
    let public = x25519::public_of(secret)?;
    public_key::check_point(given, &public)?;
    store_public(&public, attributes)
}

fn from_pkcs8(der: &[u8]) -> Result<(Attributes, Secrets)> {
    let Some(PrivateKeyInfo::X25519(secret)) = PrivateKeyInfo::parse(der) else {
        return Err(ErrorKind::WrappedKeyInvalid.with("not an X25519 private key"));
    };
    let (mut attributes, mut secrets) = (Attributes::new(), Secrets::new());
    params::set_curve(&mut attributes, AnyCurve::Curve25519)?;
    secrets.set(ck::CKA_VALUE, secret);
    Ok((attributes, secrets))
}
