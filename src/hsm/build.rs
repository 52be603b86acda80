//! Making objects: create, generate, unwrap, derive, copy. Pure functions of template, mechanism
//! and keys; sealing and storing is the caller's.

use cryptoki_sys as ck;

use super::attribute;
use super::crypto::SecretBytes;
use super::draft::{self, Draft, Implied, Origin};
use super::key::Key;
use super::mechanism::{self, Derivation, KeyType, Row};
use super::params::{Mechanism, MechanismType, Params};
use super::separation::{self, Marks, Usages};
use super::value::{Attributes, Raw, Template, Value};
use super::{Settings, crypto};
use crate::error::{ErrorKind, Result};

/// C_CreateObject.
pub(super) fn create(template: &Template<'_>, so: bool) -> Result<Key> {
    let mut draft = Draft::new(template, Origin::Create, Implied::NOTHING, so, Usages::asked(&[template])?)?;
    if separation::concerns(draft.bit) {
        complete(&mut draft)?;
        default_id(&mut draft.attributes)?;
    } else if draft.bit == attribute::CERTIFICATE {
        complete_certificate(&mut draft.attributes)?;
    }
    Ok(sealed_off(draft, None, false))
}

/// C_GenerateKey.
pub(super) fn generate(row: &Row, mechanism: &Mechanism<'_>, template: &Template<'_>) -> Result<Key> {
    let make = row.generate.ok_or(ErrorKind::MechanismInvalid)?;
    let implied = Implied { class: Some(ck::CKO_SECRET_KEY), key_types: row.key_types };
    let mut draft = Draft::new(template, Origin::Generate, implied, false, Usages::asked(&[template])?)?;
    draft.secrets = make(mechanism, &mut draft.attributes)?;
    complete(&mut draft)?;
    // Whoever knows the password knows the key.
    let secret_source = mechanism.kind != ck::CKM_PKCS5_PBKD2;
    Ok(sealed_off(draft, Some(mechanism.kind), secret_source))
}

/// C_GenerateKeyPair: public half, private half.
pub(super) fn generate_pair(
    row: &Row,
    mechanism: &Mechanism<'_>,
    public: &Template<'_>,
    private: &Template<'_>,
) -> Result<(Key, Key)> {
    let make = row.generate_pair.ok_or(ErrorKind::MechanismInvalid)?;
    let usages = Usages::asked(&[public, private])?;
    let half = |template, class| {
        let implied = Implied { class: Some(class), key_types: row.key_types };
        Draft::new(template, Origin::Generate, implied, false, usages)
    };
    let mut public_half = half(public, ck::CKO_PUBLIC_KEY)?;
    let mut private_half = half(private, ck::CKO_PRIVATE_KEY)?;
    if public_half.sub != private_half.sub {
        return Err(ErrorKind::TemplateInconsistent.with("the halves have different key types"));
    }
    private_half.secrets = make(mechanism, &mut public_half.attributes, &mut private_half.attributes)?;
    share_id(&mut public_half.attributes, &mut private_half.attributes)?;
    let private_half = sealed_off(private_half, Some(mechanism.kind), true);
    let mut public_half = sealed_off(public_half, Some(mechanism.kind), true);
    public_half.marks = separation::marks_of_public(private_half.marks);
    Ok((public_half, private_half))
}

/// C_UnwrapKey, after the unwrapping key was found fit.
pub(super) fn unwrap(
    plain: SecretBytes,
    unwrapping: &Key,
    template: &Template<'_>,
    zero_pad: usize,
    settings: &Settings,
) -> Result<Key> {
    let enforced = enforced(unwrapping, ck::CKA_UNWRAP_TEMPLATE);
    let encoded = draft::encode_values(&enforced);
    let template = draft::merge(template, &enforced, &encoded)?;
    let mut draft = Draft::new(&template, Origin::Unwrap, Implied::NOTHING, false, Usages::asked(&[&template])?)?;
    set_value(&mut draft, plain, zero_pad)?;
    complete(&mut draft).map_err(|_| ErrorKind::WrappedKeyInvalid)?;
    default_id(&mut draft.attributes)?;
    if settings.key_separation {
        separation::check_unwrapped(unwrapping, &draft.attributes)?;
    }
    Ok(sealed_off(draft, None, false))
}

/// A key that was wrapped with its attributes: those that are to be restored, its value, its marks.
/// CKR_WRAPPED_KEY_INVALID.
pub(super) fn restore(attributes: &Attributes, value: SecretBytes, marks: Marks) -> Result<Key> {
    let invalid = |_| ErrorKind::WrappedKeyInvalid;
    // Templates inside have no encoding as a caller gives them; what they are was checked when they were made.
    let is_plain = |value: &Value| !matches!(value, Value::Template(_));
    let plain: Attributes = attributes.iter().filter(|(_, v)| is_plain(v)).map(|(k, v)| (k, v.clone())).collect();
    let encoded = draft::encode_values(&plain);
    let given = plain.iter().zip(&encoded).map(|((kind, _), bytes)| (kind, Raw::Bytes(bytes))).collect();
    let mut draft =
        Draft::new(&Template(given), Origin::Unwrap, Implied::NOTHING, false, Usages::default()).map_err(invalid)?;
    for (kind, value) in attributes.iter().filter(|(_, value)| !is_plain(value)) {
        let rule = draft::find(kind, draft.bit, draft.sub).map_err(invalid)?;
        if rule.form != attribute::Form::Template {
            return Err(ErrorKind::WrappedKeyInvalid.into());
        }
        draft.attributes.set(kind, value.clone());
    }
    set_value(&mut draft, value, 0)?;
    complete(&mut draft).map_err(invalid)?;
    let mut key = sealed_off(draft, None, false);
    key.marks = marks & !separation::WRAP_ONLY;
    Ok(key)
}

/// Puts an unwrapped value into the key that is made of it.
fn set_value(draft: &mut Draft, plain: SecretBytes, zero_pad: usize) -> Result<()> {
    match draft.class {
        ck::CKO_SECRET_KEY => {
            let length = draft.attributes.ulong(ck::CKA_VALUE_LEN);
            draft.secrets.set(ck::CKA_VALUE, mechanism::unpad_zeros(zero_pad, plain, length)?);
        }
        ck::CKO_PRIVATE_KEY => {
            let parse = key_type_of(draft)?.from_pkcs8.ok_or(ErrorKind::WrappedKeyInvalid)?;
            let plain = mechanism::unpad_private_key(zero_pad, plain)?;
            let (values, secrets) = parse(plain.expose()).map_err(|_| ErrorKind::WrappedKeyInvalid)?;
            for (kind, value) in values.iter() {
                draft.attributes.set(kind, value.clone());
            }
            draft.secrets = secrets;
        }
        _ => return Err(ErrorKind::TemplateInconsistent.with("only secret and private keys are unwrapped")),
    }
    Ok(())
}

/// C_DeriveKey, after the base key was found fit: the key, then the additional keys.
pub(super) fn derive(
    row: &Row,
    mechanism: &Mechanism<'_>,
    base: &Key,
    salt_key: Option<&Key>,
    template: &Template<'_>,
) -> Result<Vec<Key>> {
    let make = row.derive.ok_or(ErrorKind::MechanismInvalid)?;
    let enforced = enforced(base, ck::CKA_DERIVE_TEMPLATE);
    let encoded = draft::encode_values(&enforced);
    let mut templates = vec![draft::merge(template, &enforced, &encoded)?];
    if let Params::Sp800108 { additional, .. } = &mechanism.params {
        for template in additional {
            templates.push(draft::merge(template, &enforced, &encoded)?);
        }
    }
    let data = mechanism.kind == ck::CKM_HKDF_DATA;
    let mut drafts = templates.iter().map(|template| derived_draft(template, data)).collect::<Result<Vec<_>>>()?;
    let lengths = drafts
        .iter()
        .map(|draft| draft.attributes.ulong(ck::CKA_VALUE_LEN).map(usize::try_from).transpose())
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|_| ErrorKind::KeySizeRange)?;
    let values = make(&Derivation { mechanism, base, salt_key, lengths: &lengths })?;
    if values.len() != drafts.len() {
        return Err(ErrorKind::GeneralError.with("a derivation made a wrong number of keys"));
    }
    for (draft, value) in drafts.iter_mut().zip(values) {
        if data {
            draft.attributes.set(ck::CKA_VALUE, Value::Bytes(value.expose().to_vec()));
        } else {
            draft.secrets.set(ck::CKA_VALUE, value);
            complete(draft)?;
        }
    }
    Ok(drafts.into_iter().map(|draft| derived(draft, base)).collect())
}

/// C_CopyObject.
pub(super) fn copy(source: &Key, template: &Template<'_>, so: bool, settings: &Settings) -> Result<Key> {
    if !source.attributes.flag(ck::CKA_COPYABLE) {
        return Err(ErrorKind::ActionProhibited.with("CKA_COPYABLE is false"));
    }
    changed(source, template, true, so, settings)
}

/// C_SetAttributeValue: the object as it will be.
pub(super) fn set_attributes(source: &Key, template: &Template<'_>, so: bool, settings: &Settings) -> Result<Key> {
    if !source.attributes.flag(ck::CKA_MODIFIABLE) {
        return Err(ErrorKind::ActionProhibited.with("CKA_MODIFIABLE is false"));
    }
    changed(source, template, false, so, settings)
}

fn changed(source: &Key, template: &Template<'_>, copying: bool, so: bool, settings: &Settings) -> Result<Key> {
    let changes = draft::changes(&source.attributes, template, copying, so)?;
    if settings.key_separation {
        separation::check_change(source, &changes)?;
    }
    let mut attributes = source.attributes.clone();
    if copying && attributes.flag(ck::CKA_TRUSTED) {
        attributes.set(ck::CKA_TRUSTED, Value::Bool(false));
    }
    for (kind, value) in changes.iter() {
        attributes.set(kind, value.clone());
    }
    Ok(Key::from_parts((attributes, source.secrets.duplicate()?, source.marks)))
}

fn derived_draft(template: &Template<'_>, data: bool) -> Result<Draft> {
    const GENERIC: &[ck::CK_KEY_TYPE] = &[ck::CKK_GENERIC_SECRET];
    let class = if data { ck::CKO_DATA } else { ck::CKO_SECRET_KEY };
    let key_types = if template.get(ck::CKA_KEY_TYPE).is_some() { &[] } else { GENERIC };
    let mut template = template.clone();
    let mut length = None;
    if data {
        // CKA_VALUE_LEN says how much data to derive, although a data object has no such attribute.
        length = draft::ulong_in(&template, ck::CKA_VALUE_LEN)?;
        template.0.retain(|(kind, _)| *kind != ck::CKA_VALUE_LEN && *kind != ck::CKA_KEY_TYPE);
    }
    let implied = Implied { class: Some(class), key_types };
    let mut draft = Draft::new(&template, Origin::Derive, implied, false, Usages::asked(&[&template])?)?;
    if let Some(length) = length {
        draft.attributes.set(ck::CKA_VALUE_LEN, Value::Ulong(length));
    }
    Ok(draft)
}

fn derived(mut draft: Draft, base: &Key) -> Key {
    if draft.bit == attribute::DATA {
        draft.attributes.remove(ck::CKA_VALUE_LEN);
        return sealed_off(draft, None, false);
    }
    let inherits = |kind| base.attributes.flag(kind);
    let always = inherits(ck::CKA_ALWAYS_SENSITIVE) && draft.attributes.flag(ck::CKA_SENSITIVE);
    let never = inherits(ck::CKA_NEVER_EXTRACTABLE) && !draft.attributes.flag(ck::CKA_EXTRACTABLE);
    let mut key = sealed_off(draft, None, false);
    key.attributes.set(ck::CKA_ALWAYS_SENSITIVE, Value::Bool(always));
    key.attributes.set(ck::CKA_NEVER_EXTRACTABLE, Value::Bool(never));
    key
}

/// Fixes what was decided at the making: LOCAL, ALWAYS_SENSITIVE, NEVER_EXTRACTABLE, the marks.
/// `generator` is the mechanism of a key generated here; `secret_source` says that nobody outside
/// knows its value.
fn sealed_off(draft: Draft, generator: Option<MechanismType>, secret_source: bool) -> Key {
    let Draft { bit, mut attributes, secrets, .. } = draft;
    if separation::concerns(bit) {
        attributes.set(ck::CKA_LOCAL, Value::Bool(generator.is_some()));
        if let Some(generator) = generator {
            attributes.set(ck::CKA_KEY_GEN_MECHANISM, Value::Ulong(generator));
        }
    }
    if bit & (attribute::PRIVATE | attribute::SECRET) != 0 {
        let sensitive = secret_source && attributes.flag(ck::CKA_SENSITIVE);
        let unextractable = secret_source && !attributes.flag(ck::CKA_EXTRACTABLE);
        attributes.set(ck::CKA_ALWAYS_SENSITIVE, Value::Bool(sensitive));
        attributes.set(ck::CKA_NEVER_EXTRACTABLE, Value::Bool(unextractable));
    }
    let marks = separation::marks_of_new(&attributes, bit);
    Key::from_parts((attributes, secrets, marks))
}

fn complete(draft: &mut Draft) -> Result<()> {
    let row = key_type_of(draft)?;
    (row.complete)(draft.class, &mut draft.attributes, &mut draft.secrets)
}

fn key_type_of(draft: &Draft) -> Result<&'static KeyType> {
    draft
        .sub
        .and_then(mechanism::key_type)
        .ok_or_else(|| ErrorKind::AttributeValueInvalid.with("this CKA_KEY_TYPE is not supported"))
}

fn enforced(key: &Key, template: ck::CK_ATTRIBUTE_TYPE) -> Attributes {
    match key.attributes.get(template) {
        Some(Value::Template(enforced)) => enforced.clone(),
        _ => Attributes::new(),
    }
}

/// X.509 certificates carry a value or say where it is.
fn complete_certificate(attributes: &mut Attributes) -> Result<()> {
    let empty = |kind| attributes.bytes(kind).is_none_or(<[u8]>::is_empty);
    if empty(ck::CKA_VALUE) {
        if empty(ck::CKA_URL) {
            return Err(ErrorKind::TemplateIncomplete.with("a certificate needs CKA_VALUE or CKA_URL"));
        }
        return Ok(());
    }
    let value = attributes.bytes(ck::CKA_VALUE).unwrap_or_default();
    let check = crypto::sha1(value)[..3].to_vec();
    match attributes.bytes(ck::CKA_CHECK_VALUE) {
        Some(given) if !given.is_empty() && given != check => {
            return Err(ErrorKind::AttributeValueInvalid.with("CKA_CHECK_VALUE does not fit the certificate"));
        }
        Some([]) => {}
        _ => attributes.set(ck::CKA_CHECK_VALUE, Value::Bytes(check)),
    }
    Ok(())
}

/// CKA_ID of an asymmetric key defaults to the SHA-1 of its public key, so that the halves of a
/// pair find each other.
fn default_id(attributes: &mut Attributes) -> Result<()> {
    if attributes.bytes(ck::CKA_ID).is_some_and(|id| !id.is_empty()) {
        return Ok(());
    }
    if let Some(info) = attributes.bytes(ck::CKA_PUBLIC_KEY_INFO).filter(|info| !info.is_empty()) {
        let id = key_identifier(info)?;
        attributes.set(ck::CKA_ID, Value::Bytes(id));
    }
    Ok(())
}

/// Both halves of a pair have the same CKA_ID unless the templates say otherwise.
fn share_id(public: &mut Attributes, private: &mut Attributes) -> Result<()> {
    let given = |half: &Attributes| half.bytes(ck::CKA_ID).filter(|id| !id.is_empty()).map(<[u8]>::to_vec);
    match (given(public), given(private)) {
        (Some(id), None) => private.set(ck::CKA_ID, Value::Bytes(id)),
        (None, Some(id)) => public.set(ck::CKA_ID, Value::Bytes(id)),
        _ => {
            default_id(public)?;
            default_id(private)?;
        }
    }
    Ok(())
}

/// RFC 5280 §4.2.1.2, method 1: SHA-1 of the subjectPublicKey bits.
fn key_identifier(info: &[u8]) -> Result<Vec<u8>> {
    use p384::pkcs8::der::Decode;
    use p384::pkcs8::spki::SubjectPublicKeyInfoRef;
    let info = SubjectPublicKeyInfoRef::from_der(info)
        .map_err(|_| ErrorKind::AttributeValueInvalid.with("CKA_PUBLIC_KEY_INFO is not a SubjectPublicKeyInfo"))?;
    Ok(crypto::sha1(info.subject_public_key.raw_bytes()).to_vec())
}
