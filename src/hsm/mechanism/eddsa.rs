//! Ed25519 (PKCS#11 3.2 §6.3.10, §6.3.14): generation, signatures, the key type CKK_EC_EDWARDS.

use std::sync::Arc;

use cryptoki_sys as ck;

use super::ec::params::{self, AnyCurve};
use super::generic_secret::imply_key_type;
use super::signing::{self, check_len, collected, hashed, verdict};
use super::{KeyType, Row, public_key};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Operation};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::crypto::aws_lc::digest::Hash;
use crate::hsm::crypto::aws_lc::ed25519::{self, PUBLIC_LEN, PrivateKey, SIGNATURE_LEN};
use crate::hsm::crypto::aws_lc::pkey::{PrivateKeyInfo, Rfc8410};
use crate::hsm::key::{Key, Secrets};
use crate::hsm::params::{Mechanism, ParamShape, Params};
use crate::hsm::value::{Attributes, Value};

const ED25519: Row = Row {
    min_key: 255,
    max_key: 255,
    extra_flags: ck::CKF_EC_F_P | ck::CKF_EC_OID | ck::CKF_EC_CURVENAME | ck::CKF_EC_COMPRESS,
    ..Row::NONE
};

pub(super) const ROWS: &[Row] = &[
    Row {
        kind: ck::CKM_EC_EDWARDS_KEY_PAIR_GEN,
        name: "CKM_EC_EDWARDS_KEY_PAIR_GEN",
        key_types: &[ck::CKK_EC_EDWARDS],
        generate_pair: Some(generate),
        ..ED25519
    },
    Row {
        kind: ck::CKM_EDDSA,
        name: "CKM_EDDSA",
        key_types: &[ck::CKK_EC_EDWARDS],
        params: ParamShape::OptionalEddsa,
        sign: Some(sign),
        ..ED25519
    },
];

pub(super) const KEY_TYPES: &[KeyType] = &[KeyType {
    kind: ck::CKK_EC_EDWARDS,
    name: "CKK_EC_EDWARDS",
    secrets: &[ck::CKA_VALUE],
    complete,
    to_pkcs8: Some(|key| Rfc8410::Ed25519.private(key.secret(ck::CKA_VALUE)?)),
    from_pkcs8: Some(from_pkcs8),
    strength: |_| 128,
}];

/// The message is processed twice, so that its parts are kept; more fails with
/// CKR_TOKEN_RESOURCE_EXCEEDED (§6.3.14).
const MAX_PARTS: usize = 64 << 20;

fn generate(_: &Mechanism<'_>, public: &mut Attributes, private: &mut Attributes) -> Result<Secrets> {
    check_curve(public)?;
    imply_key_type(public, ck::CKK_EC_EDWARDS)?;
    imply_key_type(private, ck::CKK_EC_EDWARDS)?;
    let key = PrivateKey::generate()?;
    for half in [public, private] {
        store_public(key.public(), half)?;
    }
    let mut secrets = Secrets::new();
    secrets.set(ck::CKA_VALUE, SecretBytes::copy_of(key.seed())?);
    Ok(secrets)
}

/// Ed25519 without a parameter or with an empty one, since the context of Ed25519ctx is not to be
/// empty (RFC 8032 §8.3); else Ed25519ctx or Ed25519ph.
fn sign(mechanism: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let scheme = match mechanism.params {
        Params::None | Params::Eddsa { prehash: false, context: [] } => ed25519::Scheme::Pure,
        Params::Eddsa { context, .. } if context.len() > 255 => {
            return Err(ErrorKind::MechanismParamInvalid.with("the context is longer than 255 bytes"));
        }
        Params::Eddsa { prehash: true, context } => ed25519::Scheme::PreHashed(context.to_vec()),
        Params::Eddsa { prehash: false, context } => ed25519::Scheme::Context(context.to_vec()),
        _ => return Err(ErrorKind::MechanismParamInvalid.into()),
    };
    let class = if function == Function::Sign { ck::CKO_PRIVATE_KEY } else { ck::CKO_PUBLIC_KEY };
    if key.class() != class {
        return Err(ErrorKind::KeyTypeInconsistent.into());
    }
    let prehash = matches!(scheme, ed25519::Scheme::PreHashed(_));
    let signer = Eddsa { key, scheme };
    if prehash {
        return hashed(function, Hash::Sha512, signer);
    }
    Ok(collected(function, MAX_PARTS, ErrorKind::TokenResourceExceeded, signer))
}

struct Eddsa {
    key: Arc<Key>,
    scheme: ed25519::Scheme,
}

impl signing::Scheme for Eddsa {
    fn signature_len(&self) -> usize {
        SIGNATURE_LEN
    }

    fn sign(&self, input: &[u8], out: &mut [u8]) -> Result<()> {
        let private: &PrivateKey = self.key.engine(|key| PrivateKey::from_seed(key.secret(ck::CKA_VALUE)?))?;
        private.sign(&self.scheme, input, out)
    }

    fn verify(&self, input: &[u8], signature: &[u8]) -> Result<()> {
        check_len(signature, SIGNATURE_LEN)?;
        verdict(ed25519::verify(self.key.bytes(ck::CKA_EC_POINT)?, &self.scheme, input, signature))
    }
}

fn check_curve(attributes: &Attributes) -> Result<()> {
    match params::curve(attributes)? {
        AnyCurve::Edwards25519 => Ok(()),
        _ => Err(ErrorKind::CurveNotSupported.into()),
    }
}

/// CKA_EC_POINT is the 32 bytes as they are (§6.3.5).
fn store_public(public: &[u8], attributes: &mut Attributes) -> Result<()> {
    public_key::set_info(attributes, Rfc8410::Ed25519.public(public)?)?;
    params::set_curve(attributes, AnyCurve::Edwards25519)?;
    attributes.set(ck::CKA_EC_POINT, Value::Bytes(public.to_vec()));
    Ok(())
}

fn complete(class: ck::CK_OBJECT_CLASS, attributes: &mut Attributes, secrets: &mut Secrets) -> Result<()> {
    check_curve(attributes)?;
    let given = public_key::given_point(attributes, PUBLIC_LEN)?;
    if class != ck::CKO_PRIVATE_KEY {
        let point = given.ok_or_else(|| ErrorKind::TemplateIncomplete.with("CKA_EC_POINT"))?;
        if !ed25519::valid_public(&point)? {
            return Err(ErrorKind::PublicKeyInvalid.with("not a point of edwards25519"));
        }
        return store_public(&point, attributes);
    }
    let seed = secrets.get(ck::CKA_VALUE).ok_or_else(|| ErrorKind::TemplateIncomplete.with("CKA_VALUE"))?;
    let key = PrivateKey::from_seed(seed)?;
    public_key::check_point(given, key.public())?;
    store_public(key.public(), attributes)
}

fn from_pkcs8(der: &[u8]) -> Result<(Attributes, Secrets)> {
    let Some(PrivateKeyInfo::Ed25519(seed)) = PrivateKeyInfo::parse(der) else {
        return Err(ErrorKind::WrappedKeyInvalid.with("not an Ed25519 private key"));
    };
    let (mut attributes, mut secrets) = (Attributes::new(), Secrets::new());
    params::set_curve(&mut attributes, AnyCurve::Edwards25519)?;
    secrets.set(ck::CKA_VALUE, seed);
    Ok((attributes, secrets))
}
