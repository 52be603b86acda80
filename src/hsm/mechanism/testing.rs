//! Helpers for the tests of asymmetric mechanisms: they go through the rows, as the core does.

use std::sync::Arc;

use cryptoki_sys as ck;

use super::{Derivation, key_type, row};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Outcome};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::key::{Key, Secrets};
use crate::hsm::params::{Mechanism, MechanismType, Params};
use crate::hsm::value::{AttributeType, Attributes, Value};

pub(super) fn mechanism(kind: MechanismType, params: Params<'_>) -> Mechanism<'_> {
    Mechanism { kind, params }
}

pub(super) fn bytes(value: &[u8]) -> Value {
    Value::Bytes(value.to_vec())
}

/// A public key as C_CreateObject would make it.
pub(super) fn public(kind: ck::CK_KEY_TYPE, parts: &[(AttributeType, &[u8])]) -> Result<Arc<Key>> {
    let attributes = parts.iter().map(|(kind, part)| (*kind, bytes(part)));
    import(ck::CKO_PUBLIC_KEY, kind, attributes.collect(), Secrets::new())
}

/// A private key as C_CreateObject would make it.
pub(super) fn private(
    kind: ck::CK_KEY_TYPE,
    parts: &[(AttributeType, &[u8])],
    secrets: &[(AttributeType, &[u8])],
) -> Result<Arc<Key>> {
    let mut kept = Secrets::new();
    for (kind, secret) in secrets {
        kept.set(*kind, SecretBytes::copy_of(secret)?);
    }
    import(ck::CKO_PRIVATE_KEY, kind, parts.iter().map(|(kind, part)| (*kind, bytes(part))).collect(), kept)
}

/// A private key as C_UnwrapKey would make it from PKCS#8.
pub(super) fn pkcs8(kind: ck::CK_KEY_TYPE, der: &[u8]) -> Result<Arc<Key>> {
    let (attributes, secrets) = key_type(kind).and_then(|row| row.from_pkcs8).unwrap()(der)?;
    import(ck::CKO_PRIVATE_KEY, kind, attributes, secrets)
}

/// The public half of a private key.
pub(super) fn public_half(key: &Key) -> Arc<Key> {
    let mut attributes = key.attributes.clone();
    attributes.set(ck::CKA_CLASS, Value::Ulong(ck::CKO_PUBLIC_KEY));
    Arc::new(Key::new(attributes, Secrets::new()))
}

pub(super) fn generate(kind: MechanismType, public: Attributes) -> Result<(Arc<Key>, Arc<Key>)> {
    let (mut public, mut private) = (public, Attributes::new());
    public.set(ck::CKA_CLASS, Value::Ulong(ck::CKO_PUBLIC_KEY));
    private.set(ck::CKA_CLASS, Value::Ulong(ck::CKO_PRIVATE_KEY));
    let generate = row(kind)?.generate_pair.ok_or(ErrorKind::MechanismInvalid)?;
    let secrets = generate(&Mechanism::new(kind), &mut public, &mut private)?;
    Ok((Arc::new(Key::new(public, Secrets::new())), Arc::new(Key::new(private, secrets))))
}

pub(super) fn sign(mechanism: &Mechanism<'_>, key: &Arc<Key>, input: &[u8]) -> Result<Vec<u8>> {
    let begin = row(mechanism.kind)?.sign.ok_or(ErrorKind::MechanismInvalid)?;
    let mut operation = begin(mechanism, Function::Sign, key.clone())?;
    let Outcome::Needed(len) = operation.one_shot(input, None)? else { panic!("a query wrote") };
    let mut out = vec![0; len];
    assert_eq!(operation.one_shot(input, Some(&mut out[..len - 1]))?, Outcome::Needed(len));
    assert_eq!(operation.one_shot(input, Some(&mut out))?, Outcome::Written(len));
    Ok(out)
}

/// In parts.
pub(super) fn sign_parts(mechanism: &Mechanism<'_>, key: &Arc<Key>, input: &[u8]) -> Result<Vec<u8>> {
    let begin = row(mechanism.kind)?.sign.ok_or(ErrorKind::MechanismInvalid)?;
    let mut operation = begin(mechanism, Function::Sign, key.clone())?;
    for part in input.chunks(3) {
        operation.update(part, None)?;
    }
    let Outcome::Needed(len) = operation.finish(None)? else { panic!("a query wrote") };
    let mut out = vec![0; len];
    assert_eq!(operation.finish(Some(&mut out))?, Outcome::Written(len));
    Ok(out)
}

pub(super) fn verify(mechanism: &Mechanism<'_>, key: &Arc<Key>, input: &[u8], signature: &[u8]) -> Result<()> {
    let begin = row(mechanism.kind)?.sign.ok_or(ErrorKind::MechanismInvalid)?;
    let whole = begin(mechanism, Function::Verify, key.clone())?.verify_one_shot(input, signature);
    let mut operation = begin(mechanism, Function::Verify, key.clone())?;
    for part in input.chunks(7) {
        operation.update(part, None)?;
    }
    let parts = operation.verify(signature);
    assert_eq!(whole.is_ok(), parts.is_ok());
    whole
}

/// Any of the functions that turn one block into another.
pub(super) fn apply(mechanism: &Mechanism<'_>, function: Function, key: &Arc<Key>, input: &[u8]) -> Result<Vec<u8>> {
    let row = row(mechanism.kind)?;
    let begin = match function {
        Function::SignRecover | Function::VerifyRecover => row.recover,
        _ => row.cipher,
    };
    let mut operation = begin.ok_or(ErrorKind::MechanismInvalid)?(mechanism, function, key.clone())?;
    let Outcome::Needed(bound) = operation.one_shot(input, None)? else { panic!("a query wrote") };
    let mut out = vec![0; bound];
    let Outcome::Written(len) = operation.one_shot(input, Some(&mut out))? else { panic!("the bound is too low") };
    out.truncate(len);
    Ok(out)
}

pub(super) fn derive(mechanism: &Mechanism<'_>, base: &Key, len: Option<usize>) -> Result<Vec<u8>> {
    let derive = row(mechanism.kind)?.derive.ok_or(ErrorKind::MechanismInvalid)?;
    let keys = derive(&Derivation { mechanism, base, salt_key: None, lengths: &[len] })?;
    Ok(keys[0].expose().to_vec())
}

fn import(
    class: ck::CK_OBJECT_CLASS,
    kind: ck::CK_KEY_TYPE,
    mut attributes: Attributes,
    mut secrets: Secrets,
) -> Result<Arc<Key>> {
    attributes.set(ck::CKA_CLASS, Value::Ulong(class));
    attributes.set(ck::CKA_KEY_TYPE, Value::Ulong(kind));
    (key_type(kind).unwrap().complete)(class, &mut attributes, &mut secrets)?;
    Ok(Arc::new(Key::new(attributes, secrets)))
}
