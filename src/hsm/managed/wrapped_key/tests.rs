use std::path::PathBuf;
use std::{env, fs};

use serde_json::{Value as Json, json};

use super::super::super::crypto::Entropy;
use super::super::super::key::Secrets;
use super::super::super::separation::{GCM_ONLY, MADE_TO_WRAP, WRAP_ONLY};
use super::super::super::value::Raw;
use super::super::context::Context;
use super::super::envelope::{Blob, Bound, MATERIAL, Material, Name};
use super::*;

const YES: Raw<'static> = Raw::Bytes(&[1]);
const NO: Raw<'static> = Raw::Bytes(&[0]);

/// Any key that unwraps, with this CKA_UNWRAP_TEMPLATE.
fn unwrapping(enforced: &[(AttributeType, Value)]) -> Key {
    let enforced: Attributes = enforced.iter().cloned().collect();
    Key::new([(ck::CKA_UNWRAP_TEMPLATE, Value::Template(enforced))].into_iter().collect(), Secrets::new())
}

/// A secret key that encrypts and may leave, with more attributes and these marks.
fn secret(more: &[(AttributeType, Value)], marks: Marks) -> Key {
    let value = SecretBytes::copy_of(&[9; 32]).unwrap();
    let given: Attributes = [
        (ck::CKA_CLASS, Value::Ulong(ck::CKO_SECRET_KEY)),
        (ck::CKA_KEY_TYPE, Value::Ulong(ck::CKK_AES)),
        (ck::CKA_LABEL, Value::Bytes(b"traveller".to_vec())),
        (ck::CKA_EXTRACTABLE, Value::Bool(true)),
        (ck::CKA_ENCRYPT, Value::Bool(true)),
        (ck::CKA_DECRYPT, Value::Bool(false)),
        (ck::CKA_WRAP, Value::Bool(false)),
        (ck::CKA_UNWRAP, Value::Bool(false)),
    ]
    .into_iter()
    .chain(more.iter().cloned())
    .collect();
    build::restore(&given, value, marks).unwrap()
}

fn restored(key: &Key, template: &[(AttributeType, Raw<'_>)]) -> std::result::Result<Key, ErrorKind> {
    restore(&content(key).unwrap(), &unwrapping(&[]), &Template(template.to_vec())).map_err(|error| error.kind())
}

#[test]
fn a_key_comes_back_as_what_it_was() {
    let template: Attributes = [(ck::CKA_LABEL, Value::Bytes(b"x".to_vec()))].into_iter().collect();
    let key = secret(
        &[
            (ck::CKA_WRAP_TEMPLATE, Value::Template(template)),
            (ck::CKA_ALLOWED_MECHANISMS, Value::Mechanisms(vec![ck::CKM_AES_GCM, ck::CKM_AES_ECB])),
            (ck::CKA_START_DATE, Value::Bytes(b"20260101".to_vec())),
        ],
        MADE_TO_WRAP | GCM_ONLY | WRAP_ONLY,
    );
    let back = restored(&key, &[]).unwrap();
    assert_eq!(back.attributes, key.attributes);
    assert_eq!(back.secrets.get(ck::CKA_VALUE), key.secrets.get(ck::CKA_VALUE));
    assert_eq!(back.marks, MADE_TO_WRAP | GCM_ONLY, "what left may be known elsewhere");
    for kind in [ck::CKA_LOCAL, ck::CKA_ALWAYS_SENSITIVE, ck::CKA_NEVER_EXTRACTABLE, ck::CKA_TRUSTED] {
        assert!(!back.attributes.flag(kind), "{kind:#x}");
    }
}

#[test]
fn a_template_only_makes_it_stricter() {
    let list = |kinds: &[u64]| kinds.iter().flat_map(|kind| kind.to_ne_bytes()).collect::<Vec<u8>>();
    let (one, two, none) = (list(&[ck::CKM_AES_GCM]), list(&[ck::CKM_AES_GCM, ck::CKM_AES_CBC]), Vec::new());
    let key = secret(
        &[
            (ck::CKA_SENSITIVE, Value::Bool(true)),
            (ck::CKA_ALLOWED_MECHANISMS, Value::Mechanisms(vec![ck::CKM_AES_GCM, ck::CKM_AES_ECB])),
        ],
        0,
    );
    let ulong = |n: u64| n.to_ne_bytes();
    let (class, other, len) = (ulong(ck::CKO_SECRET_KEY), ulong(ck::CKK_GENERIC_SECRET), ulong(32));
    for allowed in [
        (ck::CKA_TOKEN, YES),
        (ck::CKA_LABEL, Raw::Bytes(b"another")),
        (ck::CKA_EXTRACTABLE, NO),
        (ck::CKA_ENCRYPT, NO),
        (ck::CKA_COPYABLE, NO),
        (ck::CKA_WRAP_WITH_TRUSTED, YES),
        (ck::CKA_ALLOWED_MECHANISMS, Raw::Bytes(&one)),
        (ck::CKA_END_DATE, Raw::Bytes(b"20270101")),
        (ck::CKA_CLASS, Raw::Bytes(&class)),
        (ck::CKA_VALUE_LEN, Raw::Bytes(&len)),
    ] {
        let back = restored(&key, std::slice::from_ref(&allowed)).unwrap();
        let (_, value) = content_attribute(&back, allowed.0);
        assert_eq!(
            value,
            draft::decode(draft::find(allowed.0, attribute::SECRET, Some(ck::CKK_AES)).unwrap(), &allowed.1).ok()
        );
    }
    for (refused, kind) in [
        ((ck::CKA_SENSITIVE, NO), ErrorKind::TemplateInconsistent),
        ((ck::CKA_PRIVATE, NO), ErrorKind::TemplateInconsistent),
        ((ck::CKA_DECRYPT, YES), ErrorKind::TemplateInconsistent),
        ((ck::CKA_WRAP, YES), ErrorKind::TemplateInconsistent),
        ((ck::CKA_ALLOWED_MECHANISMS, Raw::Bytes(&two)), ErrorKind::TemplateInconsistent),
        ((ck::CKA_ALLOWED_MECHANISMS, Raw::Bytes(&none)), ErrorKind::TemplateInconsistent),
        ((ck::CKA_KEY_TYPE, Raw::Bytes(&other)), ErrorKind::TemplateInconsistent),
        ((ck::CKA_TRUSTED, YES), ErrorKind::AttributeReadOnly),
        ((ck::CKA_LOCAL, YES), ErrorKind::AttributeReadOnly),
        ((ck::CKA_VALUE, Raw::Bytes(&[9; 32])), ErrorKind::AttributeReadOnly),
        ((ck::CKA_MODULUS, Raw::Bytes(&[9; 32])), ErrorKind::AttributeTypeInvalid),
    ] {
        assert_eq!(restored(&key, std::slice::from_ref(&refused)).err(), Some(kind), "{:#x}", refused.0);
    }
    let extractable = unwrapping(&[(ck::CKA_EXTRACTABLE, Value::Bool(false))]);
    let bound = restore(&content(&key).unwrap(), &extractable, &Template::default()).unwrap();
    assert!(!bound.attributes.flag(ck::CKA_EXTRACTABLE));
}

fn content_attribute(key: &Key, kind: AttributeType) -> (AttributeType, Option<Value>) {
    (kind, key.attributes.get(kind).cloned())
}

#[test]
fn what_no_hsm_writes_is_no_content() {
    let whole = content(&secret(&[], 0)).unwrap();
    let refused = |bytes: &[u8]| {
        let content = SecretBytes::copy_of(bytes).unwrap();
        restore(&content, &unwrapping(&[]), &Template::default()).err().map(|error| error.kind())
    };
    assert_eq!(refused(whole.expose()), None);
    for len in 0..whole.len() {
        assert_eq!(refused(&whole.expose()[..len]), Some(ErrorKind::WrappedKeyInvalid), "{len} bytes");
    }
    let with = |kind, value: Value| {
        let mut attributes = secret(&[], 0).attributes;
        attributes =
            attributes.iter().filter(|(kind, _)| travelling(*kind).is_some()).map(|(k, v)| (k, v.clone())).collect();
        attributes.set(kind, value);
        let mut e = Encoder::new();
        record::write_attributes(e.array(3), &attributes).bytes(&[9; 32]).uint(0);
        refused(&e.finish())
    };
    let invalid = Some(ErrorKind::WrappedKeyInvalid);
    assert_eq!(with(ck::CKA_TRUSTED, Value::Bool(true)), invalid);
    assert_eq!(with(ck::CKA_LOCAL, Value::Bool(true)), invalid);
    assert_eq!(with(ck::CKA_CLASS, Value::Ulong(ck::CKO_DATA)), invalid);
    assert_eq!(with(ck::CKA_KEY_TYPE, Value::Ulong(ck::CKK_DES3)), invalid);
    assert_eq!(with(ck::CKA_SENSITIVE, Value::Ulong(1)), invalid);
    assert_eq!(with(ck::CKA_SENSITIVE, Value::Template(Attributes::new())), invalid);
}

#[test]
fn wrapped_keys_and_envelopes_do_not_open_as_each_other() {
    let material = Material::new(&[1; MATERIAL]).unwrap();
    let name = Name { id: "mrk-0", object: &[7; 16], version: 3 };
    let bound = Bound { context: &Context::EMPTY, associated: b"" };
    let wrapped = material.wrap(name, bound, b"content").unwrap();
    assert!(Blob::parse(&wrapped).is_err());
    assert!(Blob::parse_wrapped(&material.seal(name, &Context::EMPTY, b"content").unwrap()).is_err());
    let blob = Blob::parse_wrapped(&wrapped).unwrap();
    assert_eq!(material.unwrap(name, bound, &blob).unwrap().expose(), b"content");
    let other = Context::from_pairs([("a", "b")]).unwrap();
    for wrong in [Bound { associated: b"x", ..bound }, Bound { context: &other, ..bound }] {
        assert!(material.unwrap(name, wrong, &blob).is_err());
    }
    for at in 0..wrapped.len() {
        let mut changed = wrapped.clone();
        changed[at] ^= 1;
        assert!(Blob::parse_wrapped(&changed).and_then(|blob| material.unwrap(name, bound, &blob)).is_err(), "{at}");
    }
}

/// Compares with `tests/vectors/wrap`; `CONCLAVE_WRITE_VECTORS=1` writes the file anew.
#[test]
fn vectors() {
    let mut entropy = Entropy::seeded("wrapped key");
    let contexts: [&[(&str, &str)]; 3] = [&[], &[("purpose", "backup")], &[("b", "Größe"), ("aa", "")]];
    let mut vectors = Vec::new();
    for n in 0..6_usize {
        let [material, salt]: [[u8; 32]; 2] = [entropy.array().unwrap(), entropy.array().unwrap()];
        let object: [u8; 16] = entropy.array().unwrap();
        let id = format!("mrk-{}", hex::encode(object));
        let version = [1, 23, 24, 300, 1 << 32, u64::MAX][n];
        let mut associated = vec![0; [0, 1, 23, 24, 300, 2000][n]];
        entropy.fill(&mut associated).unwrap();
        let context = Context::from_pairs(contexts[n % 3].iter().copied()).unwrap();
        let more: &[_] = match n {
            0 => &[],
            1 => &[(ck::CKA_ALLOWED_MECHANISMS, Value::Mechanisms(vec![ck::CKM_AES_GCM]))],
            2 => {
                &[(ck::CKA_WRAP_TEMPLATE, Value::Template([(ck::CKA_TOKEN, Value::Bool(true))].into_iter().collect()))]
            }
            _ => &[(ck::CKA_SENSITIVE, Value::Bool(true)), (ck::CKA_START_DATE, Value::Bytes(b"20260101".to_vec()))],
        };
        let key = secret(more, n as Marks);
        let content = content(&key).unwrap();
        let name = Name { id: &id, object: &object, version };
        let bound = Bound { context: &context, associated: &associated };
        let wrapped = Material::new(&material).unwrap().wrap_salted(name, bound, content.expose(), &salt).unwrap();
        vectors.push(json!({
            "material": hex::encode(material),
            "key_id": id,
            "object": hex::encode(object),
            "version": version,
            "context": contexts[n % 3],
            "associated": hex::encode(&associated),
            "salt": hex::encode(salt),
            "value": hex::encode([9; 32]),
            "content": hex::encode(content.expose()),
            "wrapped": hex::encode(&wrapped),
        }));
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/wrap/wrapped-key.json");
    if env::var_os("CONCLAVE_WRITE_VECTORS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, serde_json::to_string_pretty(&Json::from(vectors.clone())).unwrap() + "\n").unwrap();
    }
    let kept: Json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert!(kept == Json::from(vectors), "wrapped-key.json is not what the code makes");
}
