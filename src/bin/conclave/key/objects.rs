//! What `conclave key` does with any object of the standard: `show`, `trust`.

use conclave::cryptoki::{Module, ObjectHandle, Readable, SessionHandle};
use conclave::error::ErrorKind;
use conclave::hsm::{self, AttributeType, Attributes, Raw, Template, Value};
use cryptoki_sys as ck;
use serde_json::{Map, json};

use crate::args::{KeyPublicKey, KeyShow, KeyTrust};
use crate::files;
use crate::managed;
use crate::output::{self, Failure};
use crate::session::{self, Live};

/// The attributes that are shown, in the order they are shown.
const SHOWN: &[(AttributeType, &str)] = &[
    (ck::CKA_CLASS, "class"),
    (ck::CKA_KEY_TYPE, "key_type"),
    (ck::CKA_CERTIFICATE_TYPE, "certificate_type"),
    (ck::CKA_LABEL, "label"),
    (ck::CKA_ID, "id"),
    (ck::CKA_UNIQUE_ID, "unique_id"),
    (ck::CKA_PRIVATE, "private"),
    (ck::CKA_MODIFIABLE, "modifiable"),
    (ck::CKA_COPYABLE, "copyable"),
    (ck::CKA_DESTROYABLE, "destroyable"),
    (ck::CKA_TRUSTED, "trusted"),
    (ck::CKA_ENCRYPT, "encrypt"),
    (ck::CKA_DECRYPT, "decrypt"),
    (ck::CKA_SIGN, "sign"),
    (ck::CKA_SIGN_RECOVER, "sign_recover"),
    (ck::CKA_VERIFY, "verify"),
    (ck::CKA_VERIFY_RECOVER, "verify_recover"),
    (ck::CKA_WRAP, "wrap"),
    (ck::CKA_UNWRAP, "unwrap"),
    (ck::CKA_DERIVE, "derive"),
    (ck::CKA_SENSITIVE, "sensitive"),
    (ck::CKA_EXTRACTABLE, "extractable"),
    (ck::CKA_ALWAYS_SENSITIVE, "always_sensitive"),
    (ck::CKA_NEVER_EXTRACTABLE, "never_extractable"),
    (ck::CKA_WRAP_WITH_TRUSTED, "wrap_with_trusted"),
    (ck::CKA_ALWAYS_AUTHENTICATE, "always_authenticate"),
    (ck::CKA_LOCAL, "local"),
    (ck::CKA_KEY_GEN_MECHANISM, "key_gen_mechanism"),
    (ck::CKA_ALLOWED_MECHANISMS, "allowed_mechanisms"),
    (ck::CKA_START_DATE, "start_date"),
    (ck::CKA_END_DATE, "end_date"),
    (ck::CKA_SUBJECT, "subject"),
    (ck::CKA_MODULUS_BITS, "modulus_bits"),
    (ck::CKA_EC_PARAMS, "ec_params"),
    (ck::CKA_EC_POINT, "ec_point"),
    (ck::CKA_VALUE_LEN, "value_len"),
    (ck::CKA_CHECK_VALUE, "check_value"),
    (ck::CKA_PUBLIC_KEY_INFO, "public_key_info"),
    (ck::CKA_APPLICATION, "application"),
    (hsm::CKA_KMS_MANAGED, "kms_managed"),
    (hsm::CKA_KMS_KEY_ID, "kms_key_id"),
    (hsm::CKA_KMS_SPEC, "kms_spec"),
    (hsm::CKA_KMS_USAGE, "kms_usage"),
    (hsm::CKA_KMS_STATE, "kms_state"),
    (hsm::CKA_KMS_VERSION, "kms_version"),
    (hsm::CKA_KMS_DESCRIPTION, "kms_description"),
    (hsm::CKA_KMS_OWNER, "kms_owner"),
];

const CLASSES: &[(u64, &str)] = &[
    (ck::CKO_DATA, "data"),
    (ck::CKO_CERTIFICATE, "certificate"),
    (ck::CKO_PUBLIC_KEY, "public key"),
    (ck::CKO_PRIVATE_KEY, "private key"),
    (ck::CKO_SECRET_KEY, "secret key"),
];

/// Usage attributes in short.
pub(super) const USES: &[(AttributeType, &str)] = &[
    (ck::CKA_ENCRYPT, "encrypt"),
    (ck::CKA_DECRYPT, "decrypt"),
    (ck::CKA_SIGN, "sign"),
    (ck::CKA_VERIFY, "verify"),
    (ck::CKA_WRAP, "wrap"),
    (ck::CKA_UNWRAP, "unwrap"),
    (ck::CKA_DERIVE, "derive"),
];

pub(super) fn show(arguments: &KeyShow, as_json: bool) -> Result<(), Failure> {
    let Live { module, session, .. } = &super::list::open(&arguments.at)?;
    let objects = find_named(module, *session, &arguments.name)?;
    let shown = objects.into_iter().map(|object| read(module, *session, object)).collect::<Result<Vec<_>, _>>()?;
    if as_json {
        output::json(&json!(shown));
        return Ok(());
    }
    for (nth, object) in shown.iter().enumerate() {
        if nth != 0 {
            println!("");
        }
        for (name, value) in object {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            println!("{:<20} {text}", name.replace('_', " "));
        }
    }
    Ok(())
}

pub(super) fn trust(arguments: &KeyTrust, as_json: bool) -> Result<(), Failure> {
    let module = session::open_module()?;
    let (slot, token) = session::find_token(&module, arguments.token.as_deref())?;
    if token.founded {
        return Err(Failure::refused(format!(
            "operators govern token {:?}: `conclave proposal new trust-key --object {:?}` asks them",
            token.label, arguments.name
        )));
    }
    let session = session::open(&module, slot, ck::CKU_SO, &arguments.so_pin)?;
    let objects = find_named(&module, session, &arguments.name)?;
    output::confirm(
        &format!("A trusted key may wrap every extractable key of the token. Trust {:?}?", arguments.name),
        &arguments.name,
        arguments.yes,
    )?;
    let template = Template(vec![(ck::CKA_TRUSTED, Raw::Bytes(&[ck::CK_TRUE]))]);
    let mut trusted = 0;
    for object in objects {
        match module.set_attributes(session, object, &template) {
            Ok(()) => trusted += 1,
            // The private half of a pair has no such attribute.
            Err(error) if error.kind() == ErrorKind::AttributeTypeInvalid => {}
            Err(error) => return Err(Failure::while_("cannot trust the key", &error)),
        }
    }
    if trusted == 0 {
        return Err(Failure::new(format!("{:?} is not a key or certificate that can be trusted", arguments.name)));
    }
    output::done(as_json, &format!("{:?} is trusted.", arguments.name), &json!({ "trusted": trusted }));
    Ok(())
}

/// The public key of a managed pair.
pub(super) fn public_key(arguments: &KeyPublicKey, as_json: bool) -> Result<(), Failure> {
    let (key, out) = (&arguments.of.key, &arguments.out);
    let live = Live::logged_in(&arguments.of.login)?;
    let id = live.describe_key(key)?["KeyId"].as_str().unwrap_or_default().to_owned();
    let class = ck::CKO_PUBLIC_KEY.to_ne_bytes();
    let template = Template(vec![(ck::CKA_CLASS, Raw::Bytes(&class)), (ck::CKA_ID, Raw::Bytes(id.as_bytes()))]);
    let mut found = None;
    for object in find(&live.module, live.session, &template)? {
        let read =
            live.module.with_attributes(live.session, object, |source| match source.read(ck::CKA_PUBLIC_KEY_INFO) {
                Ok(Readable::Value(Value::Bytes(info))) => Some(info.clone()),
                _ => None,
            });
        found = read.map_err(|error| Failure::while_("cannot read the key", &error))?.or(found);
    }
    let public =
        found.ok_or_else(|| Failure::not_found(format!("{key} has no public key: see `conclave key describe`")))?;
    files::replace(out, &public)?;
    let sentence = format!("{}: {} bytes, the public key of {id}.", out.display(), public.len());
    if !files::is_standard(out) {
        output::done(as_json, &sentence, &json!({ "KeyId": id, "file": out }));
    }
    Ok(())
}

/// The unique ids of the objects with this name that have CKA_TRUSTED.
pub(crate) fn trustable(module: &Module, session: SessionHandle, name: &str) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for object in find_named(module, session, name)? {
        let shown = read(module, session, object)?;
        if shown.contains_key("trusted") {
            found.extend(shown.get("unique_id").and_then(|id| id.as_str()).map(str::to_owned));
        }
    }
    Ok(found)
}

/// The readable attributes that say what an object is, as JSON.
pub(crate) fn summary(attributes: &Attributes) -> Map<String, serde_json::Value> {
    let named = SHOWN.iter().take_while(|(kind, _)| *kind != ck::CKA_PRIVATE);
    named.filter_map(|(kind, name)| Some(((*name).to_owned(), display(*kind, attributes.get(*kind)?)))).collect()
}

/// The objects with this label, else with this CKA_ID in hexadecimal or as text, else with this unique
/// id, else the key with this alias.
fn find_named(module: &Module, session: SessionHandle, name: &str) -> Result<Vec<ObjectHandle>, Failure> {
    let id =
        (0..name.len()).step_by(2).map(|at| name.get(at..at + 2).and_then(|byte| u8::from_str_radix(byte, 16).ok()));
    let id: Option<Vec<u8>> = id.collect();
    let mut templates = vec![(ck::CKA_LABEL, name.as_bytes())];
    if let Some(id) = id.as_deref().filter(|id| !id.is_empty()) {
        templates.push((ck::CKA_ID, id));
    }
    // The id of a managed key is text.
    templates.push((ck::CKA_ID, name.as_bytes()));
    templates.push((ck::CKA_UNIQUE_ID, name.as_bytes()));
    let alias = managed::alias(name);
    templates.push((ck::CKA_LABEL, alias.as_bytes()));
    for (kind, value) in templates {
        let found = find(module, session, &Template(vec![(kind, Raw::Bytes(value))]))?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(Failure::not_found(format!(
        "no object has the label, CKA_ID, unique id or alias {name:?}: see `conclave key list`"
    )))
}

pub(super) fn find(
    module: &Module,
    session: SessionHandle,
    template: &Template<'_>,
) -> Result<Vec<ObjectHandle>, Failure> {
    let failed = |error| Failure::while_("cannot search the token", &error);
    module.find_init(session, template).map_err(failed)?;
    let mut found = Vec::new();
    let mut batch = [0; 256];
    loop {
        match module.find(session, &mut batch).map_err(failed)? {
            0 => break,
            n => found.extend_from_slice(&batch[..n]),
        }
    }
    module.find_final(session).map_err(failed)?;
    Ok(found)
}

/// The readable attributes of an object as JSON.
pub(super) fn read(
    module: &Module,
    session: SessionHandle,
    object: ObjectHandle,
) -> Result<Map<String, serde_json::Value>, Failure> {
    module
        .with_attributes(session, object, |source| {
            let mut shown = Map::new();
            for (kind, name) in SHOWN {
                if let Ok(Readable::Value(value)) = source.read(*kind) {
                    shown.insert((*name).to_owned(), display(*kind, value));
                }
            }
            shown
        })
        .map_err(|error| Failure::while_("cannot read an object", &error))
}

fn display(kind: AttributeType, value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(b) => json!(b),
        Value::Ulong(n) => match kind {
            ck::CKA_CLASS => named(CLASSES, *n),
            ck::CKA_KEY_TYPE => match hsm::key_type_name(*n) {
                Some(name) => json!(name.trim_start_matches("CKK_")),
                None => json!(format!("{n:#x}")),
            },
            ck::CKA_KEY_GEN_MECHANISM => mechanism(*n),
            hsm::CKA_KMS_USAGE => json!(hsm::usage_name(*n)),
            hsm::CKA_KMS_STATE => json!(hsm::state_name(*n)),
            _ => json!(n),
        },
        Value::Bytes(bytes) => match kind {
            ck::CKA_LABEL
            | ck::CKA_UNIQUE_ID
            | ck::CKA_APPLICATION
            | ck::CKA_START_DATE
            | ck::CKA_END_DATE
            | hsm::CKA_KMS_KEY_ID
            | hsm::CKA_KMS_SPEC
            | hsm::CKA_KMS_DESCRIPTION
            | hsm::CKA_KMS_OWNER => {
                json!(String::from_utf8_lossy(bytes))
            }
            _ => json!(conclave::text::hex(bytes)),
        },
        Value::Mechanisms(list) => json!(list.iter().map(|kind| mechanism(*kind)).collect::<Vec<_>>()),
        Value::Template(nested) => json!(nested.len()),
    }
}

fn named(names: &[(u64, &str)], value: u64) -> serde_json::Value {
    match names.iter().find(|(known, _)| *known == value) {
        Some((_, name)) => json!(name),
        None => json!(format!("{value:#x}")),
    }
}

fn mechanism(kind: u64) -> serde_json::Value {
    match hsm::mechanism_info(kind) {
        Ok(info) => json!(info.name),
        Err(_) if kind == ck::CK_UNAVAILABLE_INFORMATION => json!("none"),
        Err(_) => json!(format!("{kind:#x}")),
    }
}

pub(super) fn name_of(kind: AttributeType) -> Option<&'static str> {
    SHOWN.iter().find(|(shown, _)| *shown == kind).map(|(_, name)| *name)
}
