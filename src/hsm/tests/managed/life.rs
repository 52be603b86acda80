//! From creation to deletion.

use p384::pkcs8::EncodePrivateKey;
use p384::pkcs8::der::Decode;
use p384::pkcs8::spki::SubjectPublicKeyInfoRef;

use super::*;
use crate::hsm::key::{Key, Secrets};
use crate::hsm::mechanism;

const AES: &str = r#"{"Description":"of the shop","Tags":[{"TagKey":"team","TagValue":"a"}]}"#;

#[test]
fn every_version_decrypts_what_it_encrypted() {
    let mut token = Token::new();
    let id = token.create(AES);
    let context = r#"{"file":"a"}"#;
    let mut blobs = vec![token.encrypt(&id, context, b"version 1").unwrap()];
    for version in 2..=4 {
        token.manage(Manage::RotateKey, &id, "{}").unwrap();
        assert_eq!(token.describe(&id)["KeyVersion"], version);
        blobs.push(token.encrypt(&id, context, format!("version {version}").as_bytes()).unwrap());
    }
    assert_eq!(token.records.len(), 4, "the key and three older versions");
    for forget in [false, true] {
        if forget {
            token.hsm.core.cache.clear();
        }
        for (version, blob) in (1..).zip(&blobs) {
            let plaintext = token.decrypt(&id, context, blob).unwrap();
            assert_eq!(plaintext, format!("version {version}").into_bytes());
            assert_eq!(kind(token.decrypt(&id, "", blob)), ErrorKind::KmsInvalidCiphertext, "another context");
        }
    }

    let other = token.create("{}");
    assert_eq!(kind(token.decrypt(&other, context, &blobs[0])), ErrorKind::KmsIncorrectKey);
    assert_eq!(kind(token.decrypt(&id, context, b"no blob")), ErrorKind::KmsInvalidCiphertext);
    assert_eq!(kind(token.encrypt(&id, "[]", b"")), ErrorKind::ArgumentsBad);
    assert_eq!(kind(token.encrypt(&id, "", &[0; 4097])), ErrorKind::DataLenRange);

    // The record of another version, or none.
    let key = token.record(&id);
    let with = Envelope { key, context: context.as_bytes() };
    for version in [None, token.records.get(&version_object(&key.object, 2)), Some(key)] {
        let decrypt = Command::EnvelopeDecrypt { with, version, blob: &blobs[0], dry_run: false };
        assert_eq!(kind(token.call(decrypt)), ErrorKind::KmsKeyUnavailable);
    }

    let to = Envelope { key: token.record(&other), context: b"" };
    let version = token.records.get(&version_object(&key.object, 1));
    let command = Command::ReEncrypt { from: with, version, blob: &blobs[0], to, dry_run: false };
    let Ok(Reply::Bytes(blob)) = token.call(command) else { panic!() };
    assert_eq!(token.decrypt(&other, "", &blob).unwrap(), b"version 1");
}

#[test]
fn data_keys_come_back_from_their_blobs() {
    let mut token = Token::new();
    let id = token.create("{}");
    let with = || Envelope { key: token.record(&id), context: br#"{"a":"b"}"# };
    for with_plaintext in [true, false] {
        let command = Command::GenerateDataKey { with: with(), len: 32, with_plaintext, dry_run: false };
        let Ok(Reply::DataKey { plaintext, blob }) = token.call(command) else { panic!() };
        let opened = token.decrypt(&id, r#"{"a":"b"}"#, &blob).unwrap();
        assert_eq!(opened.len(), 32);
        assert_eq!(plaintext.map(|plaintext| plaintext.to_vec()), with_plaintext.then_some(opened));

        let command =
            Command::GenerateDataKeyPair { with: with(), spec: "ECC_NIST_P256", with_plaintext, dry_run: false };
        let Ok(Reply::DataKeyPair { private, blob, .. }) = token.call(command) else { panic!() };
        let opened = token.decrypt(&id, r#"{"a":"b"}"#, &blob).unwrap();
        assert_eq!(private.map(|private| private.to_vec()), with_plaintext.then_some(opened));
    }
    let long = Command::GenerateDataKey { with: with(), len: 1025, with_plaintext: true, dry_run: false };
    assert_eq!(kind(token.call(long)), ErrorKind::ArgumentsBad);
    let secret = Command::GenerateDataKeyPair { with: with(), spec: "AES_256", with_plaintext: true, dry_run: false };
    assert_eq!(kind(token.call(secret)), ErrorKind::ArgumentsBad);
}

#[test]
fn a_key_goes_through_its_states() {
    let mut token = Token::new();
    let id = token.create(AES);
    token.manage(Manage::DisableKey, &id, "{}").unwrap();
    assert_eq!(kind(token.encrypt(&id, "", b"")), ErrorKind::KmsDisabled);
    assert_eq!(kind(token.manage(Manage::RotateKey, &id, "{}")), ErrorKind::KmsDisabled);
    token.manage(Manage::EnableKey, &id, "{}").unwrap();
    token.manage(Manage::UpdateDescription, &id, r#"{"Description":"ours"}"#).unwrap();
    token.manage(Manage::TagKey, &id, r#"{"Tags":[{"TagKey":"b","TagValue":"c"}]}"#).unwrap();
    token.manage(Manage::UntagKey, &id, r#"{"TagKeys":["team"]}"#).unwrap();
    token.manage(Manage::SetRotation, &id, r#"{"Enabled":true,"RotationPeriodInDays":90}"#).unwrap();
    let described = token.describe(&id);
    assert_eq!((&described["Description"], &described["Tags"][0]["TagKey"]), (&"ours".into(), &"b".into()));
    let (_, status) = token.ask(Manage::GetRotationStatus, Some(&id), "{}", false).unwrap();
    assert_eq!(serde_json::from_str::<Json>(&status).unwrap()["RotationPeriodInDays"], 90);

    assert_eq!(token.keep_time(&id), None);
    token.hsm.core.clock.pass_days(90);
    assert_eq!(token.keep_time(&id).as_deref(), Some("RotateKey"));
    assert_eq!((token.keep_time(&id), &token.describe(&id)["KeyVersion"]), (None, &2.into()));

    let refused = token.manage(Manage::ScheduleKeyDeletion, &id, r#"{"PendingWindowInDays":6}"#);
    assert_eq!(kind(refused), ErrorKind::ArgumentsBad);
    token.manage(Manage::ScheduleKeyDeletion, &id, r#"{"PendingWindowInDays":7}"#).unwrap();
    assert_eq!(kind(token.encrypt(&id, "", b"")), ErrorKind::KmsInvalidState);
    token.manage(Manage::CancelKeyDeletion, &id, "{}").unwrap();
    assert_eq!(token.describe(&id)["KeyState"], "Disabled");
    token.manage(Manage::ScheduleKeyDeletion, &id, r#"{"PendingWindowInDays":7}"#).unwrap();
    token.hsm.core.clock.pass_days(7);
    assert_eq!(kind(token.manage(Manage::CancelKeyDeletion, &id, "{}")), ErrorKind::KmsInvalidState);
    // Whoever is logged in: it is done in the name of nobody.
    token.log_in(&Role::So);
    assert_eq!(token.keep_time(&id).as_deref(), Some("DeleteKey"));
    assert!(token.records.is_empty(), "with all of its versions");
}

#[test]
fn a_refusal_and_a_dry_run_change_nothing() {
    let mut token = Token::new();
    let id = token.create(AES);
    let before = token.records.clone();
    for (action, request) in [
        (Manage::DisableKey, "{}"),
        (Manage::EnableKey, "{}"),
        (Manage::ScheduleKeyDeletion, "{}"),
        (Manage::UpdateDescription, r#"{"Description":"x"}"#),
        (Manage::TagKey, r#"{"Tags":[]}"#),
        (Manage::UntagKey, r#"{"TagKeys":[]}"#),
        (Manage::SetRotation, r#"{"Enabled":false}"#),
        (Manage::RotateKey, "{}"),
        (Manage::CreateAlias, r#"{"AliasName":"alias/a"}"#),
        (Manage::DescribeKey, "{}"),
    ] {
        assert_eq!(kind(token.ask(action, Some(&id), request, true)), ErrorKind::KmsDryRun, "{action:?}");
        let unknown = r#"{"Unknown":1}"#;
        assert_eq!(kind(token.ask(action, Some(&id), unknown, true)), ErrorKind::ArgumentsBad, "{action:?}");
    }
    assert_eq!(kind(token.ask(Manage::CreateKey, None, AES, true)), ErrorKind::KmsDryRun);
    let refused = token.ask(Manage::CancelKeyDeletion, Some(&id), "{}", true);
    assert_eq!(kind(refused), ErrorKind::KmsInvalidState, "what would be refused is, also in a dry run");
    let with = Envelope { key: token.record(&id), context: b"" };
    let encrypt = Command::EnvelopeEncrypt { with, plaintext: b"", dry_run: true };
    assert_eq!(kind(token.call(encrypt)), ErrorKind::KmsDryRun);
    assert_eq!(token.records, before);
    assert_eq!(token.describe(&id)["KeyState"], "Enabled");
}

#[test]
fn a_key_is_its_owners() {
    let mut token = Token::new();
    let id = token.create(AES);
    let blob = token.encrypt(&id, "", b"x").unwrap();
    token.log_in(&alice());
    assert_eq!(token.describe(&id)["Owner"], "user");
    assert_eq!(kind(token.decrypt(&id, "", &blob)), ErrorKind::KmsAccessDenied);
    for action in [Manage::DisableKey, Manage::RotateKey, Manage::ScheduleKeyDeletion] {
        assert_eq!(kind(token.manage(action, &id, "{}")), ErrorKind::KmsAccessDenied, "{action:?}");
    }
    let hers = token.create("{}");
    assert_eq!(token.describe(&hers)["Owner"], "user:alice");
    assert!(token.encrypt(&hers, "", b"x").is_ok());
    token.log_in(&Role::User);
    assert_eq!(kind(token.encrypt(&hers, "", b"x")), ErrorKind::KmsAccessDenied);
    token.log_in(&Role::So);
    assert_eq!(token.describe(&hers)["Owner"], "user:alice");
    assert_eq!(kind(token.manage(Manage::DisableKey, &hers, "{}")), ErrorKind::UserNotLoggedIn);
    assert_eq!(kind(token.ask(Manage::CreateKey, None, "{}", false)), ErrorKind::UserNotLoggedIn);
}

#[test]
fn an_alias_names_one_key_after_another() {
    let mut token = Token::new();
    let (first, second) = (token.create("{}"), token.create("{}"));
    let request = r#"{"AliasName":"alias/invoices","TargetKeyId":"x"}"#;
    let ask = |token: &Token, action, key: Option<&str>, target: Option<&str>| {
        let (keys, target) = (key.map(|id| token.keys(id)), target.map(|id| token.keys(id)));
        let alias = token.alias("alias/invoices");
        match token.call(Command::Manage { action, keys, alias, target, request, dry_run: false })? {
            Reply::Managed { change, .. } => Ok(change),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(kind(ask(&token, Manage::DeleteAlias, Some(&first), None)), ErrorKind::KmsNotFound);
    let created = ask(&token, Manage::CreateAlias, Some(&first), None).unwrap();
    token.commit(created);
    assert_eq!(kind(ask(&token, Manage::CreateAlias, Some(&second), None)), ErrorKind::KmsAlreadyExists);
    let names = |token: &Token| {
        let view = token.view(token.alias("alias/invoices").unwrap());
        String::from_utf8(view.attributes.bytes(ck::CKA_ID).unwrap().to_vec()).unwrap()
    };
    assert_eq!(names(&token), first);
    assert_eq!(kind(ask(&token, Manage::UpdateAlias, Some(&second), Some(&first))), ErrorKind::KmsNotFound);
    let updated = ask(&token, Manage::UpdateAlias, Some(&first), Some(&second)).unwrap();
    token.commit(updated);
    assert_eq!(names(&token), second);
    token.manage(Manage::ScheduleKeyDeletion, &first, "{}").unwrap();
    assert_eq!(kind(ask(&token, Manage::UpdateAlias, Some(&second), Some(&first))), ErrorKind::KmsInvalidState);
    let deleted = ask(&token, Manage::DeleteAlias, Some(&second), None).unwrap();
    token.commit(deleted);
    assert!(token.alias("alias/invoices").is_none());
    let refused = token.ask(Manage::CreateAlias, Some(&second), r#"{"AliasName":"invoices"}"#, false);
    assert_eq!(kind(refused), ErrorKind::KmsInvalidAliasName);
}

/// What a caller does with the parameters of an import: RSA_AES_KEY_WRAP_SHA_256.
pub(in crate::hsm::tests) fn wrapped(public_key: &[u8], material: &[u8]) -> Vec<u8> {
    let info = SubjectPublicKeyInfoRef::from_der(public_key).unwrap();
    // SEQUENCE { INTEGER n, INTEGER 65537 } of a modulus of 2048 bits.
    let modulus = info.subject_public_key.raw_bytes()[9..265].to_vec();
    let attributes: Attributes = [
        (ck::CKA_CLASS, Value::Ulong(ck::CKO_PUBLIC_KEY)),
        (ck::CKA_KEY_TYPE, Value::Ulong(ck::CKK_RSA)),
        (ck::CKA_MODULUS, Value::Bytes(modulus)),
        (ck::CKA_PUBLIC_EXPONENT, Value::Bytes(vec![1, 0, 1])),
    ]
    .into_iter()
    .collect();
    let oaep = Oaep { hash: ck::CKM_SHA256, mgf: ck::CKG_MGF1_SHA256, label: &[] };
    let wrapping = Mechanism { kind: ck::CKM_RSA_AES_KEY_WRAP, params: Params::RsaAesKeyWrap { aes_bits: 256, oaep } };
    let wrap = mechanism::row(wrapping.kind).unwrap().wrap.unwrap().wrap;
    wrap(&wrapping, &Arc::new(Key::new(attributes, Secrets::new())), material).unwrap()
}

impl Token {
    fn import(&mut self, id: &str, material: &[u8], valid_to: Option<u64>) -> Result<()> {
        let (algorithm, spec) = ("RSA_AES_KEY_WRAP_SHA_256", "RSA_2048");
        let key = self.record(id);
        let parameters = Command::ImportParameters { key, algorithm, spec, dry_run: false };
        let Reply::ImportParameters { public_key, token, .. } = self.call(parameters)? else { panic!() };
        let (keys, wrapped) = (self.keys(id), wrapped(&public_key, material));
        let import = Command::ImportMaterial { keys, token: &token, wrapped: &wrapped, valid_to, dry_run: false };
        let Reply::Managed { change, .. } = self.call(import)? else { panic!() };
        self.commit(change);
        Ok(())
    }
}

#[test]
fn imported_material_comes_and_goes() {
    let mut token = Token::new();
    let aes = token.create(r#"{"Origin":"EXTERNAL"}"#);
    assert_eq!(token.describe(&aes)["KeyState"], "PendingImport");
    assert_eq!(kind(token.encrypt(&aes, "", b"")), ErrorKind::KmsInvalidState);
    assert_eq!(kind(token.import(&aes, &[1; 31], None)), ErrorKind::KmsIncorrectKeyMaterial);
    let expiry = token.hsm.now() + 86_400;
    token.import(&aes, &[1; 32], Some(expiry)).unwrap();
    let blob = token.encrypt(&aes, "", b"x").unwrap();
    assert_eq!(kind(token.manage(Manage::RotateKey, &aes, "{}")), ErrorKind::KmsUnsupported);
    token.hsm.core.clock.pass_days(1);
    assert_eq!(kind(token.decrypt(&aes, "", &blob)), ErrorKind::KmsInvalidState);
    assert_eq!(token.keep_time(&aes).as_deref(), Some("ExpireKeyMaterial"));
    assert_eq!(kind(token.import(&aes, &[2; 32], None)), ErrorKind::KmsIncorrectKeyMaterial);
    token.import(&aes, &[1; 32], None).unwrap();
    assert_eq!(token.decrypt(&aes, "", &blob).unwrap(), b"x");
    let ours = token.create("{}");
    assert_eq!(kind(token.import(&ours, &[1; 32], None)), ErrorKind::KmsUnsupported);

    let ec = token.create(r#"{"KeySpec":"ECC_NIST_P384","KeyUsage":"SIGN_VERIFY","Origin":"EXTERNAL"}"#);
    let private = p384::SecretKey::from_slice(&[7; 48]).unwrap().to_pkcs8_der().unwrap();
    token.import(&ec, private.as_bytes(), None).unwrap();
    let (key, public) = token.key(&ec);
    let halves = [token.view(&token.records[&key]), token.view(&token.records[&public.unwrap()])];
    let info = |half: &View| half.attributes.bytes(ck::CKA_PUBLIC_KEY_INFO).unwrap().to_vec();
    assert_eq!(info(&halves[0]), info(&halves[1]));
    token.import(&ec, private.as_bytes(), None).unwrap();
    assert_eq!(token.key(&ec), (key, public), "the same objects");
    token.manage(Manage::DeleteImportedKeyMaterial, &ec, "{}").unwrap();
    assert_eq!(token.key(&ec).1, None, "the public half goes with the material");
    assert_eq!(token.describe(&ec)["KeyState"], "PendingImport");
    assert!(token.view(token.record(&ec)).attributes.bytes(ck::CKA_PUBLIC_KEY_INFO).is_none());
    token.import(&ec, private.as_bytes(), None).unwrap();
    assert!(token.key(&ec).1.is_some());
}
