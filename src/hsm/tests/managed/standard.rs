//! Managed keys under the standard's functions.

use super::*;

const SIGNING: &str = r#"{"KeySpec":"ECC_NIST_P256","KeyUsage":"SIGN_VERIFY","Label":"ca"}"#;

fn on() -> Raw<'static> {
    Raw::Bytes(&[1])
}

impl Token {
    fn begin(
        &self,
        function: Function,
        mechanism: ck::CK_MECHANISM_TYPE,
        record: &Record,
    ) -> Result<Box<dyn Operation>> {
        self.hsm.begin(&self.ticket, function, &Mechanism::new(mechanism), Some(record))
    }

    fn sign(&self, id: &str, message: &[u8]) -> Result<Vec<u8>> {
        let mut signature = [0; 512];
        let mut signing = self.begin(Function::Sign, ck::CKM_ECDSA_SHA256, self.record(id))?;
        match signing.one_shot(message, Some(&mut signature))? {
            Outcome::Written(len) => Ok(signature[..len].to_vec()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_managed_pair_signs_while_its_state_and_owner_let_it() {
    let mut token = Token::new();
    let id = token.create(SIGNING);
    let signature = token.sign(&id, b"message").unwrap();
    let public = token.keys(&id).public.unwrap();
    let mut verifying = token.begin(Function::Verify, ck::CKM_ECDSA_SHA256, public).unwrap();
    verifying.verify_one_shot(b"message", &signature).unwrap();
    assert!(!verifying.rest(), "each use is permitted anew");

    assert!(token.sign(&id, &[0; 4096]).is_ok());
    assert_eq!(kind(token.sign(&id, &[0; 4097])), ErrorKind::DataLenRange);
    let mut parts = token.begin(Function::Sign, ck::CKM_ECDSA_SHA256, token.record(&id)).unwrap();
    parts.update(&[0; 4096], None).unwrap();
    assert_eq!(kind(parts.update(&[0], None)), ErrorKind::DataLenRange);

    let wrong = token.begin(Function::Decrypt, ck::CKM_ECDSA_SHA256, token.record(&id)).map(drop);
    assert_eq!(kind(wrong), ErrorKind::MechanismInvalid);
    token.manage(Manage::DisableKey, &id, "{}").unwrap();
    for record in [token.keys(&id).key, token.keys(&id).public.unwrap()] {
        for function in [Function::Sign, Function::Verify] {
            let refused = token.begin(function, ck::CKM_ECDSA_SHA256, record).map(drop);
            assert_eq!(kind(refused), ErrorKind::KeyFunctionNotPermitted, "both halves, {function:?}");
        }
    }
    token.manage(Manage::EnableKey, &id, "{}").unwrap();
    token.log_in(&alice());
    assert_eq!(kind(token.sign(&id, b"message")), ErrorKind::KeyFunctionNotPermitted);
}

#[test]
fn keys_agree_only_if_they_were_made_for_it() {
    let mut token = Token::new();
    let id = token.create(r#"{"KeySpec":"ECC_NIST_P256","KeyUsage":"KEY_AGREEMENT"}"#);
    let point = token.view(token.keys(&id).public.unwrap()).attributes.bytes(ck::CKA_EC_POINT).unwrap().to_vec();
    let derive = |token: &Token, base: &Record| {
        let params = Params::Ecdh1 { kdf: ck::CKD_NULL, shared_data: &[], public_data: &point };
        let mechanism = Mechanism { kind: ck::CKM_ECDH1_DERIVE, params };
        let template = Template::default();
        let (salt_key, place) = (None, Place::Session);
        let command = Command::Derive {
            mechanism: &mechanism,
            base,
            salt_key,
            template: &template,
            place,
            additional_places: &[],
        };
        token.call(command)
    };
    assert!(matches!(derive(&token, token.record(&id)), Ok(Reply::Records(_))));
    let signing = token.create(SIGNING);
    assert_eq!(kind(derive(&token, token.record(&signing))), ErrorKind::KeyFunctionNotPermitted);
    token.manage(Manage::DisableKey, &id, "{}").unwrap();
    assert_eq!(kind(derive(&token, token.record(&id))), ErrorKind::KeyFunctionNotPermitted);
}

#[test]
fn a_managed_key_is_not_copied_wrapped_destroyed_or_loosened() {
    let mut token = Token::new();
    let id = token.create("{}");
    let record = token.record(&id);
    let template = Template::default();
    let copy = Command::Copy { source: record, template: &template, place: Place::Token };
    assert_eq!(kind(token.call(copy)), ErrorKind::ActionProhibited);
    assert_eq!(kind(token.call(Command::CheckDestroy { record })), ErrorKind::ActionProhibited);
    let wrapping = aes_key(&token.hsm, &[(ck::CKA_WRAP, true)]).unwrap();
    let mechanism = Mechanism::new(ck::CKM_AES_KEY_WRAP_KWP);
    let wrap = Command::Wrap { mechanism: &mechanism, wrapping: &wrapping, key: record, room: 100 };
    assert_eq!(kind(token.call(wrap)), ErrorKind::KeyUnextractable);
    let reveal = Command::Reveal { record, attribute: ck::CKA_VALUE };
    assert_eq!(kind(token.call(reveal)), ErrorKind::AttributeSensitive);
    // A key that rotates takes no mechanism whose output names no version.
    let encrypt = token.begin(Function::Encrypt, ck::CKM_AES_GCM, record).map(drop);
    assert_eq!(kind(encrypt), ErrorKind::MechanismInvalid);

    for (kind_of, value, expected) in [
        (ck::CKA_ID, &b"other"[..], ErrorKind::AttributeReadOnly),
        (ck::CKA_ENCRYPT, &[0], ErrorKind::AttributeReadOnly),
        (ck::CKA_DESTROYABLE, &[0], ErrorKind::AttributeReadOnly),
        (CKA_KMS_MANAGED, &[0], ErrorKind::AttributeReadOnly),
        (CKA_KMS_POLICY, b"", ErrorKind::AttributeReadOnly),
    ] {
        let template = Template(vec![(kind_of, Raw::Bytes(value))]);
        let set = Command::SetAttributes { record, template: &template };
        assert_eq!(kind(token.call(set)), expected, "{kind_of:#x}");
    }
    let template = Template(vec![(ck::CKA_LABEL, Raw::Bytes(b"new")), (CKA_KMS_DESCRIPTION, Raw::Bytes(b"ours"))]);
    let Ok(Reply::Records(changed)) = token.call(Command::SetAttributes { record, template: &template }) else {
        panic!()
    };
    token.commit(ObjectChange { replace: changed, ..ObjectChange::default() });
    assert_eq!(token.describe(&id)["Description"], "ours");

    let pair = token.create(SIGNING);
    let half = Command::SetAttributes { record: token.record(&pair), template: &template };
    assert_eq!(kind(token.call(half)), ErrorKind::AttributeReadOnly, "the halves stay alike");

    let ordinary = aes_key(&token.hsm, &[]).unwrap();
    let described = Template(vec![(CKA_KMS_DESCRIPTION, Raw::Bytes(b"ours"))]);
    let set = Command::SetAttributes { record: &ordinary, template: &described };
    assert_eq!(kind(token.call(set)), ErrorKind::AttributeReadOnly, "an ordinary key has none such");
}

#[test]
fn a_template_makes_a_managed_key_of_whoever_is_logged_in() {
    let mut token = Token::new();
    token.log_in(&alice());
    let len = bytes(32);
    let allowed = [CKM_KMS_ENVELOPE, CKM_KMS_WRAP].map(u64::to_ne_bytes).concat();
    let generate = |token: &Token, list: Option<&[u8]>, place| {
        let mut template = vec![(CKA_KMS_MANAGED, on()), (ck::CKA_VALUE_LEN, Raw::Bytes(&len))];
        template.extend(list.map(|list| (ck::CKA_ALLOWED_MECHANISMS, Raw::Bytes(list))));
        let command = Command::GenerateKey {
            mechanism: &Mechanism::new(ck::CKM_AES_KEY_GEN),
            template: &Template(template),
            place,
        };
        match token.call(command)? {
            Reply::Records(insert) => Ok(insert),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(kind(generate(&token, None, Place::Session)), ErrorKind::TemplateInconsistent);
    let mut made = |list| {
        let insert = generate(&token, list, Place::Token).unwrap();
        let id = token.view(&insert[0]).attributes.bytes(ck::CKA_ID).unwrap().to_vec();
        token.commit(ObjectChange { insert, ..ObjectChange::default() });
        String::from_utf8(id).unwrap()
    };
    let (standard, rotating) = (made(None), made(Some(&allowed)));
    assert_eq!(token.describe(&standard)["Owner"], "user:alice");
    assert_eq!(kind(token.manage(Manage::RotateKey, &standard, "{}")), ErrorKind::KmsUnsupported);
    token.manage(Manage::RotateKey, &rotating, "{}").unwrap();
    let gcm = Mechanism { kind: ck::CKM_AES_GCM, params: Params::Gcm { iv: &[1; 12], aad: &[], tag_bits: 128 } };
    let begin = |id| token.hsm.begin(&token.ticket, Function::Encrypt, &gcm, Some(token.record(id))).map(drop);
    assert!(begin(&standard).is_ok());
    assert_eq!(kind(begin(&rotating)), ErrorKind::MechanismInvalid);
    assert!(token.encrypt(&standard, "", b"x").is_ok(), "the envelope is there as well");
    token.log_in(&Role::So);
    assert_eq!(kind(generate(&token, None, Place::Token)), ErrorKind::UserNotLoggedIn);
}

#[test]
fn what_is_shown_is_what_holds_at_the_time() {
    let mut token = Token::new();
    let id = token.create(SIGNING);
    let shown = |token: &Token| {
        let view = token.view(token.keys(&id).public.unwrap());
        (view.attributes.ulong(CKA_KMS_STATE), view.attributes.bytes(ck::CKA_PUBLIC_KEY_INFO).is_some())
    };
    assert_eq!(shown(&token), (Some(1), true));
    token.manage(Manage::DisableKey, &id, "{}").unwrap();
    assert_eq!(shown(&token), (Some(2), true));
    token.manage(Manage::ScheduleKeyDeletion, &id, "{}").unwrap();
    assert_eq!(shown(&token), (Some(3), false));
    let view = token.view(token.record(&id));
    assert!(view.secrets.contains(&(ck::CKA_PUBLIC_KEY_INFO, false)));

    // The halves of a key are one.
    let (key, _) = token.key(&id);
    let alone = KeyRecords { key: &token.records[&key], public: None };
    let command = Command::Manage {
        action: Manage::CancelKeyDeletion,
        keys: Some(alone),
        alias: None,
        target: None,
        request: "{}",
        dry_run: false,
    };
    assert_eq!(kind(token.call(command)), ErrorKind::DeviceError);
}
