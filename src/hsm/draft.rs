//! From a caller's template to an object: the one checked path that create, generate, unwrap,
//! derive, copy and set all take (PKCS#11 3.2 §4.1).

use cryptoki_sys as ck;

use super::attribute::{self, Classes, Form, Missing, Rule};
use super::crypto::SecretBytes;
use super::key::Secrets;
use super::managed;
use super::separation::{self, Usages};
use super::value::{AttributeType, Attributes, Raw, Template, Value};
use crate::error::{ErrorKind, Result};

/// The most bytes one attribute may have.
const MAX_VALUE: usize = 1 << 20;
/// The most bytes of key material one attribute may have.
const MAX_MATERIAL: usize = 8 << 10;

/// How an object comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Create,
    Generate,
    Unwrap,
    Derive,
}

impl Origin {
    fn forbids(self, rule: &Rule) -> bool {
        rule.has(match self {
            Self::Create => attribute::CREATE_NOT,
            Self::Generate | Self::Derive => attribute::GENERATE_NOT,
            Self::Unwrap => attribute::UNWRAP_NOT,
        })
    }

    fn requires(self, rule: &Rule) -> bool {
        match self {
            Self::Create => rule.has(attribute::CREATE_MUST),
            Self::Generate => rule.has(attribute::GENERATE_MUST),
            Self::Unwrap | Self::Derive => false,
        }
    }
}

/// An object in the making.
pub(super) struct Draft {
    pub(super) class: ck::CK_OBJECT_CLASS,
    pub(super) bit: Classes,
    /// Key type or certificate type.
    pub(super) sub: Option<u64>,
    pub(super) attributes: Attributes,
    pub(super) secrets: Secrets,
}

/// What the template need not say because the mechanism does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Implied {
    pub(super) class: Option<ck::CK_OBJECT_CLASS>,
    /// Key types that the mechanism makes, the usual one first; empty if the template must say.
    pub(super) key_types: &'static [ck::CK_KEY_TYPE],
}

impl Implied {
    pub(super) const NOTHING: Self = Self { class: None, key_types: &[] };
}

impl Draft {
    /// Checks a template and gives it the defaults. `usages` is what the caller asked of the key
    /// (for a pair, of both halves), on which usage flags default.
    pub(super) fn new(
        template: &Template<'_>,
        origin: Origin,
        implied: Implied,
        so: bool,
        usages: Usages,
    ) -> Result<Self> {
        let class = match (ulong_in(template, ck::CKA_CLASS)?, implied.class) {
            (Some(given), Some(class)) if given != class => {
                return Err(ErrorKind::TemplateInconsistent.with("CKA_CLASS is not what the mechanism makes"));
            }
            (Some(class), _) | (None, Some(class)) => class,
            (None, None) => return Err(ErrorKind::TemplateIncomplete.with("CKA_CLASS is missing")),
        };
        let bit = attribute::class_bit(class)
            .ok_or_else(|| ErrorKind::AttributeValueInvalid.with("objects of this CKA_CLASS cannot be made"))?;
        let sub = sub_type(template, bit, implied)?;

        let mut draft = Self { class, bit, sub, attributes: Attributes::of_key(), secrets: Secrets::new() };
        let mut seen = Vec::with_capacity(template.0.len());
        for (kind, raw) in &template.0 {
            if seen.contains(kind) {
                return Err(ErrorKind::TemplateInconsistent.with(format!("attribute {kind:#x} is given twice")));
            }
            seen.push(*kind);
            let rule = find(*kind, bit, sub)?;
            if origin.forbids(rule) {
                return Err(ErrorKind::AttributeReadOnly.with(format!("attribute {kind:#x} cannot be given here")));
            }
            if rule.has(attribute::MATERIAL) {
                draft.secrets.set(*kind, material(*kind, raw)?);
                continue;
            }
            let value = decode(rule, raw)?;
            if rule.has(attribute::SO_TRUE) && value == Value::Bool(true) && !(so && origin == Origin::Create) {
                return Err(ErrorKind::AttributeReadOnly.with("CKA_TRUSTED is set by the SO"));
            }
            draft.attributes.set(*kind, value);
        }
        draft.attributes.set(ck::CKA_CLASS, Value::Ulong(class));
        if let Some(sub) = sub {
            let kind = if bit == attribute::CERTIFICATE { ck::CKA_CERTIFICATE_TYPE } else { ck::CKA_KEY_TYPE };
            draft.attributes.set(kind, Value::Ulong(sub));
        }
        draft.finish(origin, usages)?;
        Ok(draft)
    }

    /// Refuses what is missing and sets what was left out.
    fn finish(&mut self, origin: Origin, usages: Usages) -> Result<()> {
        for rule in attribute::rules_of(self.bit, self.sub) {
            if self.attributes.contains(rule.kind) || self.secrets.get(rule.kind).is_some() {
                continue;
            }
            if origin.requires(rule) {
                return Err(ErrorKind::TemplateIncomplete.with(format!("attribute {:#x} is missing", rule.kind)));
            }
            let value = match rule.default {
                Missing::Absent => continue,
                Missing::Bool(b) => Value::Bool(b),
                Missing::Ulong(n) => Value::Ulong(n),
                Missing::Empty => Value::Bytes(Vec::new()),
                Missing::Usage => Value::Bool(separation::default_usage(rule.kind, self.bit, self.sub, usages)),
            };
            self.attributes.set(rule.kind, value);
        }
        if self.attributes.flag(ck::CKA_ALWAYS_AUTHENTICATE) && !self.attributes.flag(ck::CKA_PRIVATE) {
            return Err(ErrorKind::TemplateInconsistent.with("CKA_ALWAYS_AUTHENTICATE needs CKA_PRIVATE (§4.10)"));
        }
        Ok(())
    }
}

/// What a template says of CKA_CLASS, CKA_KEY_TYPE and the like.
pub(super) fn ulong_in(template: &Template<'_>, kind: AttributeType) -> Result<Option<u64>> {
    template.get(kind).map(|raw| ulong(kind, raw)).transpose()
}

/// What a template says of a flag.
pub(super) fn bool_in(template: &Template<'_>, kind: AttributeType) -> Result<Option<bool>> {
    template.get(kind).map(|raw| boolean(kind, raw)).transpose()
}

/// The attributes a copy or a change gives, checked against what the object has.
///
/// `copying` also allows what only C_CopyObject may change. `so` says who asks.
pub(super) fn changes(current: &Attributes, template: &Template<'_>, copying: bool, so: bool) -> Result<Attributes> {
    let class = current.ulong(ck::CKA_CLASS).and_then(attribute::class_bit).unwrap_or(attribute::DATA);
    let sub = current.ulong(ck::CKA_KEY_TYPE).or_else(|| current.ulong(ck::CKA_CERTIFICATE_TYPE));
    let mut changed = Attributes::new();
    for (kind, raw) in &template.0 {
        if changed.contains(*kind) {
            return Err(ErrorKind::TemplateInconsistent.with(format!("attribute {kind:#x} is given twice")));
        }
        let rule = find(*kind, class, sub)?;
        let allowed = attribute::MODIFY | if copying { attribute::COPY } else { 0 };
        let foreign = managed::is_attribute(*kind) && !managed::is_managed(current);
        if foreign || !rule.has(allowed) {
            return Err(ErrorKind::AttributeReadOnly.with(format!("attribute {kind:#x} cannot be changed")));
        }
        let value = decode(rule, raw)?;
        check_monotonic(rule, current.get(*kind), &value, copying, so)?;
        changed.set(*kind, value);
    }
    Ok(changed)
}

/// Attributes only ever get stricter.
fn check_monotonic(rule: &Rule, old: Option<&Value>, new: &Value, copying: bool, so: bool) -> Result<()> {
    let was = |b| old == Some(&Value::Bool(b));
    let becomes = |b| *new == Value::Bool(b);
    let loosens = (rule.has(attribute::STAYS_TRUE) && was(true) && becomes(false))
        || (rule.has(attribute::STAYS_FALSE) && was(false) && becomes(true))
        || (rule.has(attribute::SO_TRUE) && becomes(true) && (copying || (!so && !was(true))))
        || (rule.kind == ck::CKA_PRIVATE && was(true) && becomes(false))
        || (rule.kind == ck::CKA_MODIFIABLE && was(false) && becomes(true))
        || match (old, new) {
            // An empty list allows all.
            (Some(Value::Mechanisms(old)), Value::Mechanisms(new)) if !old.is_empty() => {
                new.is_empty() || !new.iter().all(|m| old.contains(m))
            }
            _ => false,
        };
    if loosens {
        let text = format!("attribute {:#x} can only be made stricter", rule.kind);
        return Err(if copying { ErrorKind::TemplateInconsistent } else { ErrorKind::AttributeReadOnly }.with(text));
    }
    Ok(())
}

/// Whether an object has every attribute of a wrap template.
pub(super) fn matches(attributes: &Attributes, wanted: &Attributes) -> bool {
    wanted.iter().all(|(kind, value)| attributes.get(kind) == Some(value))
}

/// Adds the attributes of a key's unwrap or derive template: one that the caller gives otherwise
/// is CKR_TEMPLATE_INCONSISTENT. The bytes of `encoded` back the result.
pub(super) fn merge<'a>(
    template: &Template<'a>,
    enforced: &Attributes,
    encoded: &'a [Vec<u8>],
) -> Result<Template<'a>> {
    let mut merged = template.clone();
    for ((kind, value), bytes) in enforced.iter().zip(encoded) {
        match template.get(kind) {
            None => merged.0.push((kind, Raw::Bytes(bytes))),
            Some(raw) => {
                let form = attribute::form_of(kind).unwrap_or(Form::Bytes);
                if decode_form(kind, form, raw)? != *value {
                    return Err(ErrorKind::TemplateInconsistent
                        .with(format!("attribute {kind:#x} contradicts the key's template for new keys")));
                }
            }
        }
    }
    Ok(merged)
}

/// The values of a template as a caller would have given them.
pub(super) fn encode_values(attributes: &Attributes) -> Vec<Vec<u8>> {
    attributes
        .iter()
        .map(|(_, value)| match value {
            Value::Bool(b) => vec![u8::from(*b)],
            Value::Ulong(n) => n.to_ne_bytes().to_vec(),
            Value::Bytes(b) => b.clone(),
            Value::Mechanisms(list) => list.iter().flat_map(|m| m.to_ne_bytes()).collect(),
            Value::Template(_) => Vec::new(),
        })
        .collect()
}

fn sub_type(template: &Template<'_>, bit: Classes, implied: Implied) -> Result<Option<u64>> {
    if bit == attribute::DATA {
        return Ok(None);
    }
    if bit == attribute::CERTIFICATE {
        let kind = ulong_in(template, ck::CKA_CERTIFICATE_TYPE)?
            .ok_or_else(|| ErrorKind::TemplateIncomplete.with("CKA_CERTIFICATE_TYPE is missing"))?;
        return match kind {
            ck::CKC_X_509 | ck::CKC_X_509_ATTR_CERT | ck::CKC_WTLS => Ok(Some(kind)),
            _ => Err(ErrorKind::AttributeValueInvalid.with("this CKA_CERTIFICATE_TYPE is not supported")),
        };
    }
    let given = ulong_in(template, ck::CKA_KEY_TYPE)?;
    match (given, implied.key_types) {
        (Some(kind), []) => Ok(Some(kind)),
        (Some(kind), list) if list.contains(&kind) => Ok(Some(kind)),
        (Some(_), _) => Err(ErrorKind::TemplateInconsistent.with("CKA_KEY_TYPE is not what the mechanism makes")),
        (None, [first, ..]) => Ok(Some(*first)),
        (None, []) => Err(ErrorKind::TemplateIncomplete.with("CKA_KEY_TYPE is missing")),
    }
}

pub(super) fn find(kind: AttributeType, class: Classes, sub: Option<u64>) -> Result<&'static Rule> {
    attribute::find(kind, class, sub).ok_or_else(|| {
        ErrorKind::AttributeTypeInvalid.with(format!("attribute {kind:#x} does not belong to the object"))
    })
}

fn material(kind: AttributeType, raw: &Raw<'_>) -> Result<SecretBytes> {
    match raw {
        Raw::Bytes(bytes) if bytes.len() <= MAX_MATERIAL => SecretBytes::copy_of(bytes),
        _ => Err(invalid(kind)),
    }
}

pub(super) fn decode(rule: &Rule, raw: &Raw<'_>) -> Result<Value> {
    decode_form(rule.kind, rule.form, raw)
}

fn decode_form(kind: AttributeType, form: Form, raw: &Raw<'_>) -> Result<Value> {
    let bytes = match (form, raw) {
        (Form::Template, Raw::Template(template)) => return nested(template).map(Value::Template),
        (Form::Template, Raw::Bytes([])) => return Ok(Value::Template(Attributes::new())),
        (Form::Template, _) | (_, Raw::Template(_)) => return Err(invalid(kind)),
        (_, Raw::Bytes(bytes)) => *bytes,
    };
    if bytes.len() > MAX_VALUE {
        return Err(invalid(kind));
    }
    Ok(match form {
        Form::Bool => Value::Bool(boolean(kind, raw)?),
        Form::Ulong => Value::Ulong(ulong(kind, raw)?),
        Form::Bytes | Form::Text => Value::Bytes(bytes.to_vec()),
        Form::BigInt => {
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            Value::Bytes(bytes[zeros..].to_vec())
        }
        Form::Date => {
            if !(bytes.is_empty() || (bytes.len() == 8 && bytes.iter().all(u8::is_ascii_digit))) {
                return Err(invalid(kind));
            }
            Value::Bytes(bytes.to_vec())
        }
        Form::Mechanisms => {
            let (list, rest) = bytes.as_chunks::<{ size_of::<ck::CK_MECHANISM_TYPE>() }>();
            if !rest.is_empty() {
                return Err(invalid(kind));
            }
            Value::Mechanisms(list.iter().map(|m| ck::CK_MECHANISM_TYPE::from_ne_bytes(*m)).collect())
        }
        Form::Template => return Err(invalid(kind)),
    })
}

/// A template inside a template: plain attributes only, whatever object they will meet.
fn nested(template: &Template<'_>) -> Result<Attributes> {
    let mut attributes = Attributes::new();
    for (kind, raw) in &template.0 {
        let form = attribute::form_of(*kind).filter(|form| *form != Form::Template).ok_or_else(|| invalid(*kind))?;
        if attributes.contains(*kind) {
            return Err(ErrorKind::TemplateInconsistent.with(format!("attribute {kind:#x} is given twice")));
        }
        attributes.set(*kind, decode_form(*kind, form, raw)?);
    }
    Ok(attributes)
}

fn boolean(kind: AttributeType, raw: &Raw<'_>) -> Result<bool> {
    match raw {
        Raw::Bytes([ck::CK_FALSE]) => Ok(false),
        Raw::Bytes([ck::CK_TRUE]) => Ok(true),
        _ => Err(invalid(kind)),
    }
}

fn ulong(kind: AttributeType, raw: &Raw<'_>) -> Result<u64> {
    match raw {
        Raw::Bytes(bytes) => (*bytes).try_into().map(ck::CK_ULONG::from_ne_bytes).map_err(|_| invalid(kind)),
        Raw::Template(_) => Err(invalid(kind)),
    }
}

fn invalid(kind: AttributeType) -> crate::error::Error {
    ErrorKind::AttributeValueInvalid.with(format!("the value of attribute {kind:#x} has a wrong form or length"))
}
