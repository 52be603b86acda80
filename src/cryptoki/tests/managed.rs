//! Managed keys over SQLite and the embedded HSM: their names, changes by several processes, and
//! envelopes.

use cryptoki_sys as ck;
use serde_json::{Value, json};

use super::looped::over_a_link;
use super::real::{aes, process, token};
use super::{NO, NOTHING, PRIVATE_KEY, SECRET, SO_PIN, YES, padded, refused, template};
use crate::cryptoki::{KeyQuery, Module, ObjectHandle, SessionHandle};
use crate::error::{ErrorKind, Result};
use crate::hsm::{
    CKA_KMS_MANAGED, CKM_KMS_ENVELOPE, CKO_KMS_ALIAS, CKO_KMS_KEY_VERSION, Function, Manage, Mechanism, Outcome,
    Params, envelope_name,
};

const CONTEXT: &[u8] = br#"{"tenant":"a"}"#;

impl Module {
    fn create_key(&self, session: SessionHandle, request: &Value) -> String {
        self.manage(session, Manage::CreateKey, &request.to_string(), false).unwrap()
    }

    fn of_key(&self, session: SessionHandle, action: Manage, key: &str) -> Result<String> {
        self.manage(session, action, &json!({ "KeyId": key }).to_string(), false)
    }

    fn alias(&self, session: SessionHandle, action: Manage, name: &str, key: &str) -> Result<String> {
        self.manage(session, action, &json!({ "AliasName": name, "TargetKeyId": key }).to_string(), false)
    }

    fn delete_alias(&self, session: SessionHandle, name: &str) -> Result<String> {
        self.manage(session, Manage::DeleteAlias, &json!({ "AliasName": name }).to_string(), false)
    }

    fn ask(&self, session: SessionHandle, query: KeyQuery, request: &Value) -> Value {
        serde_json::from_str(&self.query_keys(session, query, &request.to_string()).unwrap()).unwrap()
    }

    fn encrypt(&self, session: SessionHandle, key: &str, plaintext: &[u8]) -> Result<Vec<u8>> {
        self.kms_encrypt(session, key, CONTEXT, plaintext, false)
    }

    fn decrypt(&self, session: SessionHandle, blob: &[u8]) -> Result<Vec<u8>> {
        self.kms_decrypt(session, None, CONTEXT, blob, false).map(|plaintext| plaintext.to_vec())
    }

    fn with_id(&self, session: SessionHandle, id: &str) -> Vec<ObjectHandle> {
        self.search(session, &[(ck::CKA_ID, id.as_bytes())])
    }

    fn envelope(&self, session: SessionHandle, function: Function, context: &[u8], key: ObjectHandle) -> Result<()> {
        let mechanism = Mechanism { kind: CKM_KMS_ENVELOPE, params: Params::Context(context) };
        self.init(session, function, Some(&mechanism), key)
    }
}

#[test]
fn a_key_is_found_by_its_id_its_label_and_its_aliases_in_every_process() {
    let (data, one) = token();
    let two = process(data.path());
    let (here, there) = (one.user(0), two.user(0));
    let first = one.create_key(here, &json!({ "Label": "invoices" }));
    let second = one.create_key(here, &json!({ "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY" }));
    let third = one.create_key(here, &json!({}));

    // Ordinary keys may have any CKA_ID and label.
    for _ in 0..20 {
        let ordinary = aes(&one, here, b"alias/app", YES).unwrap();
        one.set_attributes(here, ordinary, &template(&[(ck::CKA_ID, first.as_bytes())])).unwrap();
    }
    one.alias(here, Manage::CreateAlias, "alias/app", &first).unwrap();
    let blob = two.encrypt(there, "alias/app", b"for the first").unwrap();
    assert_eq!(one.kms_decrypt(here, Some(&first), CONTEXT, &blob, false).unwrap()[..], *b"for the first");
    let managed = one.search(here, &[(ck::CKA_LABEL, b"invoices")]);
    assert_eq!((managed.len(), one.with_id(here, &first).len()), (1, 21));
    let named = two.search(there, &[(ck::CKA_LABEL, b"alias/app"), (ck::CKA_CLASS, SECRET)]);
    assert_eq!(named.len(), 21);
    let both = [(ck::CKA_LABEL, &b"alias/app"[..]), (ck::CKA_ID, first.as_bytes())];
    assert_eq!(one.search(here, &both).len(), 21);
    let neither = [(ck::CKA_LABEL, &b"alias/app"[..]), (ck::CKA_ID, third.as_bytes())];
    assert_eq!(one.search(here, &neither), NOTHING);

    // What a session remembers of an alias is forgotten when another process points it elsewhere.
    one.alias(here, Manage::UpdateAlias, "alias/app", &third).unwrap();
    let blob = two.encrypt(there, "alias/app", b"for the third").unwrap();
    refused(two.kms_decrypt(there, Some(&first), CONTEXT, &blob, false), ErrorKind::KmsIncorrectKey);
    assert_eq!(two.kms_decrypt(there, Some("alias/app"), CONTEXT, &blob, false).unwrap()[..], *b"for the third");
    one.delete_alias(here, "alias/app").unwrap();
    refused(two.encrypt(there, "alias/app", b"x"), ErrorKind::KmsNotFound);
    refused(one.delete_alias(here, "alias/app"), ErrorKind::KmsNotFound);
    assert_eq!(one.search(here, &[(ck::CKA_LABEL, b"alias/app")]).len(), 20);

    // Both halves of a pair answer to its alias; it signs and is no key for envelopes.
    one.alias(here, Manage::CreateAlias, "alias/signer", &second).unwrap();
    refused(one.alias(here, Manage::CreateAlias, "alias/signer", &first), ErrorKind::KmsAlreadyExists);
    assert_eq!(two.search(there, &[(ck::CKA_LABEL, b"alias/signer")]).len(), 2);
    let private = two.search(there, &[(ck::CKA_LABEL, b"alias/signer"), (ck::CKA_CLASS, PRIVATE_KEY)]);
    two.begin(there, Function::Sign, private[0]).unwrap_err();
    refused(two.encrypt(there, "alias/signer", b"x"), ErrorKind::KmsInvalidKeyUsage);
    refused(two.destroy_object(there, private[0]), ErrorKind::ActionProhibited);

    // Aliases and older versions are no objects of the standard.
    one.of_key(here, Manage::RotateKey, &first).unwrap();
    for class in [CKO_KMS_ALIAS, CKO_KMS_KEY_VERSION] {
        assert_eq!(one.search(here, &[(ck::CKA_CLASS, &class.to_ne_bytes())]), NOTHING);
    }
    let aliases = one.ask(here, KeyQuery::ListAliases, &json!({}));
    assert_eq!(aliases["Aliases"], json!([{ "AliasName": "alias/signer", "TargetKeyId": second }]));

    // Whoever is not logged in finds none of it, and a read-only session changes nothing.
    two.logout(there).unwrap();
    refused(two.encrypt(there, &first, b"x"), ErrorKind::UserNotLoggedIn);
    refused(two.query_keys(there, KeyQuery::ListKeys, "{}"), ErrorKind::UserNotLoggedIn);
    let read_only = one.ro(0);
    refused(one.of_key(read_only, Manage::DisableKey, &first), ErrorKind::SessionReadOnly);
    one.encrypt(read_only, &first, b"x").unwrap();
}

#[test]
fn the_so_describes_keys_and_uses_none() {
    let (_data, module) = token();
    let user = module.user(0);
    let key = module.create_key(user, &json!({}));
    module.logout(user).unwrap();
    module.login(user, ck::CKU_SO, Some(SO_PIN), None).unwrap();
    assert_eq!(module.ask(user, KeyQuery::DescribeKey, &json!({ "KeyId": key }))["KeyId"], json!(key));
    refused(module.encrypt(user, &key, b"x"), ErrorKind::UserNotLoggedIn);
    module.of_key(user, Manage::DisableKey, &key).unwrap_err();
    let users = module.ask(user, KeyQuery::ListUsers, &json!({}));
    assert_eq!(users["Users"].as_array().map(Vec::len), Some(2));
}

#[test]
fn every_version_decrypts_and_many_do_not_slow_the_newest() {
    let (data, one) = token();
    let two = process(data.path());
    let (here, there) = (one.user(0), two.user(0));
    let key = one.create_key(here, &json!({}));
    let mut blobs = vec![one.encrypt(here, &key, b"0").unwrap()];
    let uses = |times: u32| {
        let begun = std::time::Instant::now();
        for _ in 0..times {
            one.encrypt(here, &key, b"some data").unwrap();
        }
        begun.elapsed()
    };
    let before = uses(200);
    for version in 1..300_u32 {
        let (module, session) = if version % 2 == 0 { (&one, here) } else { (&two, there) };
        module.of_key(session, Manage::RotateKey, &key).unwrap();
        if version % 50 == 0 {
            blobs.push(one.encrypt(here, &key, version.to_string().as_bytes()).unwrap());
        }
    }
    let after = uses(200);
    assert!(after < before * 5 + std::time::Duration::from_millis(50), "{before:?}, then {after:?}");
    for (number, blob) in blobs.iter().enumerate() {
        let expected = (number * 50).to_string();
        assert_eq!(envelope_name(blob).unwrap().version, number as u64 * 50 + 1);
        for (module, session) in [(&one, here), (&two, there)] {
            assert_eq!(module.decrypt(session, blob).unwrap(), expected.as_bytes());
        }
    }
    let renewed = two.kms_reencrypt(there, CONTEXT, &blobs[0], &key, b"", false).unwrap();
    assert_eq!(envelope_name(&renewed).unwrap().version, 300);
    assert_eq!(one.kms_decrypt(here, None, b"", &renewed, false).unwrap()[..], *b"0");

    let (mut listed, mut marker) = (Vec::new(), Value::Null);
    loop {
        let page = one.ask(here, KeyQuery::ListRotations, &json!({ "KeyId": key, "Limit": 120, "Marker": marker }));
        listed.extend(page["Rotations"].as_array().unwrap().iter().map(|entry| entry["KeyVersion"].as_u64().unwrap()));
        marker = page["NextMarker"].clone();
        if page["Truncated"] == json!(false) {
            break;
        }
    }
    assert!(listed.into_iter().eq(1..=300));
}

#[test]
fn changes_of_one_key_from_many_sides_all_happen() {
    let (data, one) = token();
    let key = one.create_key(one.user(0), &json!({}));
    let modules = [one, process(data.path()), process(data.path())];
    std::thread::scope(|scope| {
        for (number, module) in modules.iter().enumerate() {
            let key = &key;
            scope.spawn(move || {
                let session = if number == 0 { module.rw(0) } else { module.user(0) };
                for round in 0..8 {
                    let tag =
                        json!({ "KeyId": key, "Tags": [{ "TagKey": format!("{number}-{round}"), "TagValue": "" }] });
                    module.manage(session, Manage::TagKey, &tag.to_string(), false).unwrap();
                    module.of_key(session, Manage::RotateKey, key).unwrap();
                    let blob = module.encrypt(session, key, b"x").unwrap();
                    assert_eq!(module.decrypt(session, &blob).unwrap(), b"x");
                }
            });
        }
    });
    let described = modules[0].ask(modules[0].rw(0), KeyQuery::DescribeKey, &json!({ "KeyId": key }));
    assert_eq!((&described["KeyVersion"], described["Tags"].as_array().unwrap().len()), (&json!(25), 24));
}

#[test]
fn limits_hold() {
    let (_data, mut module) = token();
    module.settings.max_managed_keys = 2;
    let session = module.user(0);
    let first = module.create_key(session, &json!({ "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY" }));
    let second = module.create_key(session, &json!({}));
    refused(module.manage(session, Manage::CreateKey, "{}", false), ErrorKind::TokenResourceExceeded);
    let wanted: &[(ck::CK_ATTRIBUTE_TYPE, &[u8])] =
        &[(CKA_KMS_MANAGED, YES), (ck::CKA_TOKEN, YES), (ck::CKA_VALUE_LEN, &32_u64.to_ne_bytes())];
    let generated = module.generate_key(session, &Mechanism::new(ck::CKM_AES_KEY_GEN), &template(wanted));
    refused(generated, ErrorKind::TokenResourceExceeded);
    for number in 0..50 {
        module.alias(session, Manage::CreateAlias, &format!("alias/{number}"), &first).unwrap();
    }
    refused(module.alias(session, Manage::CreateAlias, "alias/50", &first), ErrorKind::KmsLimitExceeded);
    module.alias(session, Manage::CreateAlias, "alias/50", &second).unwrap();
    refused(module.alias(session, Manage::UpdateAlias, "alias/50", &first), ErrorKind::KmsLimitExceeded);
    module.alias(session, Manage::UpdateAlias, "alias/7", &first).unwrap();
    let page = module.ask(session, KeyQuery::ListAliases, &json!({ "KeyId": first, "Limit": 20 }));
    assert_eq!((page["Aliases"].as_array().unwrap().len(), &page["Truncated"]), (20, &json!(true)));
    let rest = json!({ "KeyId": first, "Limit": 1000, "Marker": page["NextMarker"] });
    assert_eq!(module.ask(session, KeyQuery::ListAliases, &rest)["Aliases"].as_array().unwrap().len(), 30);
    let keys = module.ask(session, KeyQuery::ListKeys, &json!({ "Limit": 1 }));
    assert_eq!((&keys["Keys"][0]["KeyId"], &keys["Keys"][0]["KeyState"]), (&json!(first), &json!("Enabled")));
    refused(module.query_keys(session, KeyQuery::ListKeys, r#"{"Marker":"x"}"#), ErrorKind::ArgumentsBad);

    // Neither C_InitToken nor a careless command destroys what has a waiting period.
    let schedule = json!({ "KeyId": second, "PendingWindowInDays": 7 }).to_string();
    module.manage(session, Manage::ScheduleKeyDeletion, &schedule, false).unwrap();
    module.close_session(session).unwrap();
    refused(module.init_token(0, Some(SO_PIN), &padded("again")), ErrorKind::TokenWriteProtected);
    refused(module.destroy_token(0, false), ErrorKind::TokenWriteProtected);
    module.destroy_token(0, true).unwrap();
}

#[test]
fn envelopes_by_functions_of_the_standard() {
    let (data, one) = token();
    let two = process(data.path());
    let (here, there) = (one.user(0), two.user(0));
    let id = one.create_key(here, &json!({}));
    let key = one.with_id(here, &id)[0];
    let mut blob = vec![0; 8192];

    one.envelope(here, Function::Encrypt, CONTEXT, key).unwrap();
    let Outcome::Needed(len) = one.one_shot(here, Function::Encrypt, b"hello", None).unwrap() else { panic!() };
    let short = one.one_shot(here, Function::Encrypt, b"hello", Some(&mut blob[..len - 1]));
    assert_eq!(short.unwrap(), Outcome::Needed(len));
    assert_eq!(one.one_shot(here, Function::Encrypt, b"hello", Some(&mut blob)).unwrap(), Outcome::Written(len));
    refused(one.one_shot(here, Function::Encrypt, b"hello", None), ErrorKind::OperationNotInitialized);
    blob.truncate(len);
    assert_eq!(two.decrypt(there, &blob).unwrap(), b"hello");

    // In parts, of a wrong length, in another context, after a rotation by another process.
    one.envelope(here, Function::Encrypt, CONTEXT, key).unwrap();
    refused(one.update(here, Function::Encrypt, b"hello", None), ErrorKind::FunctionNotSupported);
    one.envelope(here, Function::Encrypt, CONTEXT, key).unwrap();
    refused(one.one_shot(here, Function::Encrypt, &[0; 4097], None), ErrorKind::DataLenRange);
    two.of_key(there, Manage::RotateKey, &id).unwrap();
    for (context, expected) in [(CONTEXT, None), (b"", Some(ErrorKind::EncryptedDataInvalid)), (CONTEXT, None)] {
        one.envelope(here, Function::Decrypt, context, key).unwrap();
        let mut plain = [0; 5];
        assert_eq!(one.one_shot(here, Function::Decrypt, &blob, None).unwrap(), Outcome::Needed(5));
        match (one.one_shot(here, Function::Decrypt, &blob, Some(&mut plain)), expected) {
            (Ok(done), None) => assert_eq!((done, &plain), (Outcome::Written(5), b"hello")),
            (done, expected) => refused(done, expected.unwrap()),
        }
    }
    let other = one.create_key(here, &json!({}));
    one.envelope(here, Function::Decrypt, CONTEXT, one.with_id(here, &other)[0]).unwrap();
    refused(one.one_shot(here, Function::Decrypt, &blob, Some(&mut [0; 5])), ErrorKind::EncryptedDataInvalid);

    // The rules of the key are those of the standard's codes.
    let ordinary = aes(&one, here, b"a", NO).unwrap();
    one.envelope(here, Function::Encrypt, CONTEXT, ordinary).unwrap_err();
    one.envelope(here, Function::Encrypt, CONTEXT, key).unwrap();
    two.of_key(there, Manage::DisableKey, &id).unwrap();
    refused(one.one_shot(here, Function::Encrypt, b"x", Some(&mut [0; 500])), ErrorKind::KeyFunctionNotPermitted);
    refused(one.envelope(here, Function::Encrypt, CONTEXT, key), ErrorKind::KeyFunctionNotPermitted);
    refused(one.envelope(here, Function::Decrypt, CONTEXT, key), ErrorKind::KeyFunctionNotPermitted);
    refused(one.encrypt(here, &id, b"x"), ErrorKind::KmsDisabled);
    refused(one.decrypt(here, &blob), ErrorKind::KmsDisabled);
    refused(one.decrypt(here, b"no envelope"), ErrorKind::KmsInvalidCiphertext);
}

#[test]
fn an_operation_that_waits_ends_when_its_key_is_disabled() {
    let (data, one) = token();
    let two = process(data.path());
    let (session, other) = (one.user(0), two.user(0));
    let id = one.create_key(session, &json!({ "KeySpec": "HMAC_256" }));
    let [key] = one.with_id(session, &id)[..] else { panic!() };
    let mechanism = Mechanism { kind: ck::CKM_SHA256_HMAC, params: Params::None };
    let begin = || one.init(session, Function::Sign, Some(&mechanism), key);
    let sign = |data: &[u8]| one.one_shot(session, Function::Sign, data, Some(&mut [0; 32]));
    let policy = |actions: &[&str]| {
        let policy = json!({ "Statement": [{ "Principal": ["user"], "Action": actions }] });
        let request = json!({ "KeyId": id, "Policy": policy });
        two.manage(other, Manage::PutKeyPolicy, &request.to_string(), false).unwrap();
    };

    begin().unwrap();
    two.of_key(other, Manage::DisableKey, &id).unwrap();
    refused(sign(b"data"), ErrorKind::KeyFunctionNotPermitted);
    refused(sign(b"data"), ErrorKind::OperationNotInitialized);
    two.of_key(other, Manage::EnableKey, &id).unwrap();

    // What changes nothing of it does not end it.
    begin().unwrap();
    let described = json!({ "KeyId": id, "Description": "another" });
    two.manage(other, Manage::UpdateDescription, &described.to_string(), false).unwrap();
    one.update(session, Function::Sign, b"da", None).unwrap();
    policy(&["PutKeyPolicy"]);
    refused(one.finish(session, Function::Sign, Some(&mut [0; 32])), ErrorKind::KeyFunctionNotPermitted);
    policy(&["*"]);
    begin().unwrap();
    policy(&["PutKeyPolicy"]);
    refused(one.update(session, Function::Sign, b"da", None), ErrorKind::KeyFunctionNotPermitted);
    policy(&["*"]);
    begin().unwrap();
    sign(b"data").unwrap();
}

#[test]
fn what_a_part_gave_and_what_was_refused_is_in_the_log() {
    let (_data, module) = token();
    let session = module.user(0);
    let id = module.create_key(session, &json!({ "KeySpec": "AES_256", "StandardMechanisms": true }));
    let key = module.with_id(session, &id)[0];
    let said = || {
        let rows = module.read_audit(session, 0, 100).unwrap();
        let rows = rows.iter().map(|(_, line)| serde_json::from_str::<Value>(line).unwrap());
        let said = |row: Value| Some(format!("{} {}", row["action"].as_str()?, row["outcome"].as_str()?));
        rows.filter_map(said).collect::<Vec<_>>()
    };
    let stored = || module.audit_head(session).map(drop).unwrap();
    let params = || Params::Gcm { iv: &[7; 12], aad: &[], tag_bits: 128 };
    let begin =
        || module.init(session, Function::Encrypt, Some(&Mechanism { kind: ck::CKM_AES_GCM, params: params() }), key);
    let mut out = [0; 64];

    begin().unwrap();
    assert_eq!(module.update(session, Function::Encrypt, &[0; 32], Some(&mut out)).unwrap(), Outcome::Written(32));
    stored();
    assert_eq!(said(), ["CreateKey CKR_OK", "Encrypt CKR_OK"]);
    module.finish(session, Function::Encrypt, Some(&mut out)).unwrap();
    begin().unwrap();
    module.update(session, Function::Encrypt, &[0; 32], Some(&mut out)).unwrap();
    module.init(session, Function::Encrypt, None, key).unwrap();
    refused(module.destroy_object(session, key), ErrorKind::ActionProhibited);
    let wrap = Mechanism::new(ck::CKM_AES_KEY_WRAP);
    refused(module.wrap_key(session, &wrap, key, key, 100).map(drop), ErrorKind::KeyFunctionNotPermitted);
    stored();
    let since = [
        "Encrypt CKR_OK",
        "Encrypt CKR_FUNCTION_CANCELED",
        "DeleteKey CKR_ACTION_PROHIBITED",
        "WrapKey CKR_KEY_FUNCTION_NOT_PERMITTED",
    ];
    assert_eq!(said()[2..], since);
}

over_a_link! {
    a_key_is_found_by_its_id_its_label_and_its_aliases_in_every_process,
    the_so_describes_keys_and_uses_none,
    every_version_decrypts_and_many_do_not_slow_the_newest,
    envelopes_by_functions_of_the_standard,
    an_operation_that_waits_ends_when_its_key_is_disabled,
    what_a_part_gave_and_what_was_refused_is_in_the_log,
}
