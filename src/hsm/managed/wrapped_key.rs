//! What is inside a wrapped key: its value with the attributes that travel (`docs/protocols.md`,
//! "Wrapped keys"), so that the key comes back as what it was, or stricter.

use cryptoki_sys as ck;

use super::super::attribute::{self, MATERIAL, SO_TRUE, UNWRAP_NOT};
use super::super::crypto::SecretBytes;
use super::super::domain::cbor::{Decoded, Decoder, Encoder};
use super::super::key::Key;
use super::super::separation::Marks;
use super::super::value::{AttributeType, Attributes, Template, Value};
use super::super::{build, draft, mechanism, record};
use super::is_managed;
use crate::error::{Error, ErrorKind, Result};

/// What a template of the unwrapping may make of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    /// A name: anything.
    Be,
    /// True is stricter.
    BecomeTrue,
    /// False is stricter.
    BecomeFalse,
    /// A list that gets shorter; an empty one allows all.
    Shrink,
    /// The same, or something where there was nothing.
    Stay,
}

/// The attributes that travel. What follows from the value does not, nor what a token says of its own
/// objects; CKA_TOKEN is where the key is to be, for the caller to say.
const TRAVELLING: &[(AttributeType, May)] = &[
    (ck::CKA_CLASS, May::Stay),
    (ck::CKA_KEY_TYPE, May::Stay),
    (ck::CKA_LABEL, May::Be),
    (ck::CKA_ID, May::Be),
    (ck::CKA_SUBJECT, May::Be),
    (ck::CKA_START_DATE, May::Stay),
    (ck::CKA_END_DATE, May::Stay),
    (ck::CKA_PRIVATE, May::BecomeTrue),
    (ck::CKA_SENSITIVE, May::BecomeTrue),
    (ck::CKA_WRAP_WITH_TRUSTED, May::BecomeTrue),
    (ck::CKA_ALWAYS_AUTHENTICATE, May::BecomeTrue),
    (ck::CKA_EXTRACTABLE, May::BecomeFalse),
    (ck::CKA_MODIFIABLE, May::BecomeFalse),
    (ck::CKA_COPYABLE, May::BecomeFalse),
    (ck::CKA_DESTROYABLE, May::BecomeFalse),
    (ck::CKA_ENCRYPT, May::BecomeFalse),
    (ck::CKA_DECRYPT, May::BecomeFalse),
    (ck::CKA_SIGN, May::BecomeFalse),
    (ck::CKA_SIGN_RECOVER, May::BecomeFalse),
    (ck::CKA_VERIFY, May::BecomeFalse),
    (ck::CKA_WRAP, May::BecomeFalse),
    (ck::CKA_UNWRAP, May::BecomeFalse),
    (ck::CKA_DERIVE, May::BecomeFalse),
    (ck::CKA_DECAPSULATE, May::BecomeFalse),
    (ck::CKA_ALLOWED_MECHANISMS, May::Shrink),
    (ck::CKA_WRAP_TEMPLATE, May::Stay),
    (ck::CKA_UNWRAP_TEMPLATE, May::Stay),
    (ck::CKA_DERIVE_TEMPLATE, May::Stay),
];

/// `[{attribute: value}, value, marks]`. CKR_KEY_NOT_WRAPPABLE for a managed key.
pub(in crate::hsm) fn content(key: &Key) -> Result<SecretBytes> {
    if is_managed(&key.attributes) {
        return Err(ErrorKind::KeyNotWrappable.with("a managed key is not wrapped"));
    }
    let travels = |kind| TRAVELLING.iter().any(|(travels, _)| *travels == kind);
    let attributes = key.attributes.iter().filter(|(kind, _)| travels(*kind));
    let attributes: Attributes = attributes.map(|(kind, value)| (kind, value.clone())).collect();
    let mut e = Encoder::secret();
    record::write_attributes(e.array(3), &attributes);
    match mechanism::key_type(key.key_type()).and_then(|row| row.to_pkcs8) {
        Some(encode) if key.class() == ck::CKO_PRIVATE_KEY => e.bytes(encode(key)?.expose()),
        _ => e.bytes(key.secret(ck::CKA_VALUE)?),
    };
    e.uint(key.marks);
    e.finish()
}

/// The key of a content. It is neither LOCAL nor ALWAYS_SENSITIVE nor NEVER_EXTRACTABLE.
///
/// `template` may make it stricter, name it anew and say where it is to be: else
/// CKR_TEMPLATE_INCONSISTENT. CKR_WRAPPED_KEY_INVALID for what is no content.
pub(in crate::hsm) fn restore(content: &SecretBytes, unwrapping: &Key, template: &Template<'_>) -> Result<Key> {
    let (mut attributes, value, marks) = read(content.expose()).map_err(|_| ErrorKind::WrappedKeyInvalid)?;
    if attributes.iter().any(|(kind, _)| travelling(kind).is_none()) {
        return Err(ErrorKind::WrappedKeyInvalid.into());
    }
    let enforced = match unwrapping.attributes.get(ck::CKA_UNWRAP_TEMPLATE) {
        Some(Value::Template(enforced)) => enforced.clone(),
        _ => Attributes::new(),
    };
    let encoded = draft::encode_values(&enforced);
    apply(&mut attributes, &draft::merge(template, &enforced, &encoded)?)?;
    build::restore(&attributes, SecretBytes::copy_of(value)?, marks)
}

fn read(content: &[u8]) -> Decoded<(Attributes, &[u8], Marks)> {
    let mut d = Decoder::new(content);
    d.array_of(3)?;
    let parts = (record::read_attributes(&mut d, true)?, d.bytes()?, d.uint()?);
    d.end()?;
    Ok(parts)
}

fn travelling(kind: AttributeType) -> Option<May> {
    TRAVELLING.iter().find(|(travels, _)| *travels == kind).map(|(_, may)| *may)
}

fn apply(attributes: &mut Attributes, template: &Template<'_>) -> Result<()> {
    let class = attributes.ulong(ck::CKA_CLASS).and_then(attribute::class_bit);
    let class = class.ok_or(ErrorKind::WrappedKeyInvalid)?;
    let key_type = attributes.ulong(ck::CKA_KEY_TYPE);
    let mut seen = Vec::with_capacity(template.0.len());
    for (kind, raw) in &template.0 {
        if seen.contains(kind) {
            return Err(ErrorKind::TemplateInconsistent.with(format!("attribute {kind:#x} is given twice")));
        }
        seen.push(*kind);
        let rule = draft::find(*kind, class, key_type)?;
        if rule.has(UNWRAP_NOT | MATERIAL) {
            return Err(ErrorKind::AttributeReadOnly.with(format!("attribute {kind:#x} cannot be given here")));
        }
        let value = draft::decode(rule, raw)?;
        if rule.has(SO_TRUE) && value == Value::Bool(true) {
            return Err(ErrorKind::AttributeReadOnly.with("CKA_TRUSTED is set by the SO"));
        }
        // What does not travel was not there: CKA_TOKEN, or what the value is compared with.
        let may = travelling(*kind).unwrap_or(May::Stay);
        if !is_allowed(may, attributes.get(*kind), &value) {
            return Err(loosened(*kind));
        }
        attributes.set(*kind, value);
    }
    Ok(())
}

fn is_allowed(may: May, old: Option<&Value>, new: &Value) -> bool {
    let Some(old) = old else { return true };
    old == new
        || match may {
            May::Be => true,
            May::BecomeTrue => *new == Value::Bool(true),
            May::BecomeFalse => *new == Value::Bool(false),
            May::Shrink => match (old, new) {
                (Value::Mechanisms(old), Value::Mechanisms(new)) => {
                    old.is_empty() || (!new.is_empty() && new.iter().all(|mechanism| old.contains(mechanism)))
                }
                _ => false,
            },
            May::Stay => matches!(old, Value::Bytes(old) if old.is_empty()),
        }
}

fn loosened(kind: AttributeType) -> Error {
    ErrorKind::TemplateInconsistent
        .with(format!("attribute {kind:#x} travels with the key, and can only be made stricter"))
}

#[cfg(test)]
mod tests;
