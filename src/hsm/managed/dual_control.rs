//! CKA_KMS_DUAL_CONTROL: whose approvals each use of a managed key needs. CBOR
//! `[threshold, [+ kid of an operator], revision]`; absent where a use needs none.

use cryptoki_sys as ck;
use serde_json::{Value as Json, json};

use super::attributes::CKA_KMS_DUAL_CONTROL;
use super::metadata::Managed;
use super::{Action, Answer, Reason};
use crate::hsm::Function;
use crate::hsm::command::ObjectId;
use crate::hsm::domain::cbor::{Decoder, Encoder};
use crate::hsm::domain::{ControlledKey, KeyControl, State};
use crate::hsm::value::{Attributes, Value};
use crate::text::hex;

/// Longest label that a command repeats, in bytes.
const LABEL: usize = 255;

/// None of a key whose uses need no approval.
pub(in crate::hsm) fn of(key: &Attributes) -> Answer<Option<KeyControl>> {
    let Some(bytes) = key.bytes(CKA_KMS_DUAL_CONTROL) else { return Ok(None) };
    let mut d = Decoder::new(bytes);
    let control = KeyControl::decode(&mut d).and_then(|control| d.end().map(|()| control));
    control.map(Some).map_err(|_| Reason::Damaged.with("a managed key's dual control cannot be read"))
}

pub(in crate::hsm) fn set(key: &mut Attributes, control: &KeyControl) {
    let mut e = Encoder::new();
    control.encode(&mut e);
    key.set(CKA_KMS_DUAL_CONTROL, Value::Bytes(e.finish()));
}

/// The member "DualControl" of a request: `{"Operators": [person, id or kid], "Threshold": M}`.
/// KMS_R_MALFORMED_POLICY unless the domain has such operators.
pub(in crate::hsm) fn requested(request: &Json, state: &State) -> Answer<KeyControl> {
    let malformed = |why: String| Reason::MalformedPolicy.with(format!("DualControl: {why}"));
    let members = request.as_object().ok_or_else(|| malformed("it is no object".to_owned()))?;
    if let Some(other) = members.keys().find(|name| !["Operators", "Threshold"].contains(&name.as_str())) {
        return Err(malformed(format!("there is no member {other:?}")));
    }
    let names: Option<Vec<String>> = request["Operators"]
        .as_array()
        .and_then(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
    let names = names.ok_or_else(|| malformed("Operators is a list of names or key ids".to_owned()))?;
    let threshold = request["Threshold"].as_u64().ok_or_else(|| malformed("Threshold is a number".to_owned()))?;
    KeyControl::named(state, &names, threshold, 1).map_err(|refusal| malformed(refusal.to_string()))
}

/// What a description of the key says of it.
pub(in crate::hsm) fn describe(control: &KeyControl) -> Json {
    let operators: Json = control.operators.iter().map(|kid| hex(kid)).collect();
    json!({ "Operators": operators, "Threshold": control.threshold, "Revision": control.revision })
}

/// The key as commands name it. `object` is the secret key's, or the private half's of a pair.
pub(in crate::hsm) fn named(object: &ObjectId, key: &Attributes) -> Answer<Option<ControlledKey>> {
    let Some(control) = of(key)? else { return Ok(None) };
    let id = Managed::read(key)?.id().as_str().to_owned();
    let label = String::from_utf8_lossy(key.bytes(ck::CKA_LABEL).unwrap_or_default()).into_owned();
    let end = (0..=label.len().min(LABEL)).rev().find(|end| label.is_char_boundary(*end)).unwrap_or_default();
    Ok(Some(ControlledKey { object: *object, id, label: label[..end].to_owned(), control }))
}

/// The action, as approvals name it, that an operation with a key object is; None for the public
/// half of a pair, which anybody may use.
pub(in crate::hsm) fn action(function: Function, key: &Attributes) -> Option<&'static str> {
    let secret = match key.ulong(ck::CKA_CLASS) {
        Some(ck::CKO_SECRET_KEY) => true,
        Some(ck::CKO_PRIVATE_KEY) => false,
        _ => return None,
    };
    Some(match (function, secret) {
        (Function::Encrypt, _) => "Encrypt",
        (Function::Decrypt, _) => "Decrypt",
        (Function::Verify | Function::VerifyRecover, _) => "VerifyMac",
        (_, true) => "GenerateMac",
        (_, false) => "Sign",
    })
}

/// The name of an action that needs approvals; None for what is no use of the key's material.
pub(in crate::hsm) fn name(action: Action) -> Option<&'static str> {
    Some(match action {
        Action::Encrypt => "Encrypt",
        Action::Decrypt => "Decrypt",
        Action::ReEncrypt => "ReEncrypt",
        Action::Sign => "Sign",
        Action::GenerateMac => "GenerateMac",
        Action::VerifyMac => "VerifyMac",
        Action::DeriveSharedSecret => "DeriveSharedSecret",
        Action::GenerateDataKey => "GenerateDataKey",
        Action::GenerateDataKeyPair => "GenerateDataKeyPair",
        _ => return None,
    })
}
