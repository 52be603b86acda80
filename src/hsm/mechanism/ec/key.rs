//! The key type CKK_EC: checks, missing parts, encodings.

use cryptoki_sys as ck;

use super::super::{KeyType, public_key};
use super::params::{self, AnyCurve};
use crate::error::{ErrorKind, Result};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::crypto::aws_lc::ec::{Curve, EcKey};
use crate::hsm::crypto::aws_lc::pkey::{self, PrivateKeyInfo};
use crate::hsm::key::{Key, Secrets};
use crate::hsm::value::{Attributes, Value};

pub(in crate::hsm::mechanism) const KEY_TYPES: &[KeyType] = &[KeyType {
    kind: ck::CKK_EC,
    name: "CKK_EC",
    secrets: &[ck::CKA_VALUE],
    complete,
    to_pkcs8: Some(to_pkcs8),
    from_pkcs8: Some(from_pkcs8),
    strength,
}];

/// The parsed key; of a private one the half that signs and agrees.
pub(super) fn engine(key: &Key) -> Result<&EcKey> {
    key.engine(|key| {
        let curve = weierstrass(&key.attributes)?;
        let parsed = if key.class() == ck::CKO_PRIVATE_KEY {
            EcKey::from_scalar(curve, key.secret(ck::CKA_VALUE)?)
        } else {
            params::weierstrass_point(curve, key.bytes(ck::CKA_EC_POINT)?)
                .and_then(|point| EcKey::from_point(curve, point))
        };
        parsed.ok_or_else(|| ErrorKind::KeyTypeInconsistent.into())
    })
}

/// The curve of the template; CKR_CURVE_NOT_SUPPORTED if it is of another kind.
pub(super) fn weierstrass(attributes: &Attributes) -> Result<Curve> {
    match params::curve(attributes)? {
        AnyCurve::Weierstrass(curve) => Ok(curve),
        _ => Err(ErrorKind::CurveNotSupported.into()),
    }
}

/// Writes what is public of a key.
pub(super) fn store_public(key: &EcKey, attributes: &mut Attributes) -> Result<()> {
    public_key::set_info(attributes, pkey::ec_public(key)?)?;
    params::set_curve(attributes, AnyCurve::Weierstrass(key.curve()))?;
    attributes.set(ck::CKA_EC_POINT, Value::Bytes(params::octet_string(&key.point()?)?));
    Ok(())
}

fn complete(class: ck::CK_OBJECT_CLASS, attributes: &mut Attributes, secrets: &mut Secrets) -> Result<()> {
    let curve = weierstrass(attributes)?;
    let given = match attributes.bytes(ck::CKA_EC_POINT) {
        Some(encoded) if !encoded.is_empty() => Some(point(curve, encoded)?),
        _ => None,
    };
    if class != ck::CKO_PRIVATE_KEY {
        let key = given.ok_or_else(|| ErrorKind::TemplateIncomplete.with("CKA_EC_POINT"))?;
        return store_public(&key, attributes);
    }
    let scalar = secrets.get(ck::CKA_VALUE).ok_or_else(|| ErrorKind::TemplateIncomplete.with("CKA_VALUE"))?;
    let pair = integer(scalar, curve)
        .and_then(|scalar| EcKey::pair_from_scalar(curve, scalar))
        .ok_or_else(|| ErrorKind::AttributeValueInvalid.with("CKA_VALUE is not in 1..n-1"))?;
    if let Some(given) = given
        && given.point()? != pair.point()?
    {
        return Err(ErrorKind::TemplateInconsistent.with("CKA_EC_POINT is of another key"));
    }
    store_public(&pair, attributes)?;
    secrets.set(ck::CKA_VALUE, pair.scalar()?);
    Ok(())
}

fn point(curve: Curve, encoded: &[u8]) -> Result<EcKey> {
    let octets = params::weierstrass_point(curve, encoded)
        .ok_or_else(|| ErrorKind::AttributeValueInvalid.with("CKA_EC_POINT is not an encoded point"))?;
    EcKey::from_point(curve, octets).ok_or_else(|| ErrorKind::PublicKeyInvalid.with("the point is not on the curve"))
}

/// A big integer without leading zeros, if it is no longer than the curve's scalars.
fn integer(bytes: &[u8], curve: Curve) -> Option<&[u8]> {
    let start = bytes.iter().position(|byte| *byte != 0)?;
    bytes.get(start..).filter(|bytes| bytes.len() <= curve.len())
}

fn to_pkcs8(key: &Key) -> Result<SecretBytes> {
    let curve = weierstrass(&key.attributes)?;
    let pair = EcKey::pair_from_scalar(curve, key.secret(ck::CKA_VALUE)?).ok_or(ErrorKind::KeyTypeInconsistent)?;
    pkey::ec_private(&pair)
}

fn from_pkcs8(der: &[u8]) -> Result<(Attributes, Secrets)> {
    let Some(PrivateKeyInfo::Ec(curve, scalar)) = PrivateKeyInfo::parse(der) else {
        return Err(ErrorKind::WrappedKeyInvalid.with("not an EC private key on a curve that is supported"));
    };
    let (mut attributes, mut secrets) = (Attributes::new(), Secrets::new());
    params::set_curve(&mut attributes, AnyCurve::Weierstrass(curve))?;
    secrets.set(ck::CKA_VALUE, scalar);
    Ok((attributes, secrets))
}

fn strength(key: &Key) -> u32 {
    // SP 800-57 part 1, table 2.
    match weierstrass(&key.attributes) {
        Ok(Curve::P256 | Curve::Secp256k1) => 128,
        Ok(Curve::P384) => 192,
        Ok(Curve::P521) => 256,
        Err(_) => 0,
    }
}
