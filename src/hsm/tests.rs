//! The command set on session objects, which need no login.

use std::sync::Arc;

use cryptoki_sys as ck;

use super::*;
use crate::error::ErrorKind;

mod dual_control;
mod governed;
mod managed;
mod replication;

fn bytes(value: u64) -> [u8; 8] {
    value.to_ne_bytes()
}

fn hsm() -> Hsm {
    Hsm::new(Settings::default()).unwrap()
}

/// A session secret key of nobody's: CKA_PRIVATE false.
fn aes_key(hsm: &Hsm, flags: &[(AttributeType, bool)]) -> Result<Record> {
    let len = bytes(32);
    let mut template = vec![(ck::CKA_VALUE_LEN, Raw::Bytes(&len)), (ck::CKA_PRIVATE, Raw::Bytes(&[0]))];
    for (kind, on) in flags {
        template.push((*kind, Raw::Bytes(if *on { &[1] } else { &[0] })));
    }
    let command = Command::GenerateKey {
        mechanism: &Mechanism::new(ck::CKM_AES_KEY_GEN),
        template: &Template(template),
        place: Place::Session,
    };
    match hsm.call(&Ticket::public(), command)? {
        Reply::Records(mut records) => Ok(records.remove(0)),
        other => panic!("{other:?}"),
    }
}

fn view(hsm: &Hsm, record: &Record) -> Arc<View> {
    match hsm.call(&Ticket::public(), Command::View { record }).unwrap() {
        Reply::View(view) => view,
        other => panic!("{other:?}"),
    }
}

fn set(hsm: &Hsm, record: &Record, kind: AttributeType, on: bool) -> Result<Reply> {
    let template = Template(vec![(kind, Raw::Bytes(if on { &[1] } else { &[0] }))]);
    hsm.call(&Ticket::public(), Command::SetAttributes { record, template: &template })
}

#[test]
fn a_key_encrypts_and_decrypts_and_survives_eviction() {
    let hsm = hsm();
    let key = aes_key(&hsm, &[]).unwrap();
    let iv = [7; 16];
    let mechanism = Mechanism { kind: ck::CKM_AES_CBC_PAD, params: Params::Iv(&iv) };
    let mut sealed = [0; 48];
    let mut op = hsm.begin(&Ticket::public(), Function::Encrypt, &mechanism, Some(&key)).unwrap();
    let Outcome::Written(len) = op.one_shot(b"the quick brown fox jumps", Some(&mut sealed)).unwrap() else { panic!() };
    hsm.core.cache.clear();
    let mut plain = [0; 48];
    let mut op = hsm.begin(&Ticket::public(), Function::Decrypt, &mechanism, Some(&key)).unwrap();
    let Outcome::Written(n) = op.one_shot(&sealed[..len], Some(&mut plain)).unwrap() else { panic!() };
    assert_eq!(&plain[..n], b"the quick brown fox jumps");
}

#[test]
fn a_record_that_was_changed_anywhere_is_refused() {
    let hsm = hsm();
    let key = aes_key(&hsm, &[]).unwrap();
    for at in 0..key.sealed.as_bytes().len() {
        let mut bytes = key.sealed.as_bytes().to_vec();
        bytes[at] ^= 1;
        let forged = Record { sealed: Sealed::new(bytes), ..key.clone() };
        assert!(hsm.call(&Ticket::public(), Command::View { record: &forged }).is_err(), "byte {at}");
    }
    let renamed = Record { columns: Columns { label: Some(b"other".to_vec()), ..key.columns.clone() }, ..key.clone() };
    assert!(hsm.call(&Ticket::public(), Command::View { record: &renamed }).is_err());
    hsm.core.cache.clear();
    assert!(hsm.call(&Ticket::public(), Command::View { record: &renamed }).is_err());
    let older = Record { generation: 2, ..key };
    assert!(hsm.call(&Ticket::public(), Command::View { record: &older }).is_err());
}

#[test]
fn usage_defaults_keep_wrapping_and_decrypting_apart() {
    let hsm = hsm();
    let all = view(&hsm, &aes_key(&hsm, &[]).unwrap());
    assert!(all.attributes.flag(ck::CKA_ENCRYPT) && all.attributes.flag(ck::CKA_WRAP));
    let wrapper = view(&hsm, &aes_key(&hsm, &[(ck::CKA_WRAP, true)]).unwrap());
    assert!(wrapper.attributes.flag(ck::CKA_UNWRAP));
    assert!(!wrapper.attributes.flag(ck::CKA_DECRYPT) && !wrapper.attributes.flag(ck::CKA_ENCRYPT));
    let cipher = view(&hsm, &aes_key(&hsm, &[(ck::CKA_DECRYPT, true)]).unwrap());
    assert!(!cipher.attributes.flag(ck::CKA_WRAP) && !cipher.attributes.flag(ck::CKA_UNWRAP));
}

#[test]
fn a_wrapping_key_never_comes_to_decrypt_even_in_two_steps() {
    let hsm = hsm();
    let wrapper = aes_key(&hsm, &[(ck::CKA_WRAP, true)]).unwrap();
    assert!(set(&hsm, &wrapper, ck::CKA_DECRYPT, true).is_err());
    let Reply::Records(mut idle) = set(&hsm, &wrapper, ck::CKA_WRAP, false).unwrap() else { panic!() };
    let idle = idle.remove(0);
    let refused = set(&hsm, &idle, ck::CKA_DECRYPT, true).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TemplateInconsistent);
}

#[test]
fn attributes_only_get_stricter() {
    let hsm = hsm();
    let key = aes_key(&hsm, &[(ck::CKA_EXTRACTABLE, false)]).unwrap();
    for (kind, looser) in [(ck::CKA_SENSITIVE, false), (ck::CKA_EXTRACTABLE, true), (ck::CKA_TRUSTED, true)] {
        assert_eq!(set(&hsm, &key, kind, looser).unwrap_err().kind(), ErrorKind::AttributeReadOnly, "{kind:#x}");
    }
}

#[test]
fn key_material_is_named_below_the_boundary_only() {
    let boundary = include_str!("mod.rs");
    for module in ["crypto", "domain", "key", "mechanism", "draft", "build", "record", "cache", "separation"] {
        assert!(boundary.contains(&format!("\nmod {module};")), "{module} must be private to hsm");
    }
}

#[test]
fn a_private_key_that_unwraps_does_not_read_by_raw_signatures() {
    let hsm = hsm();
    let bits = bytes(2048);
    let on: &[u8] = &[1];
    let public = Template(vec![
        (ck::CKA_MODULUS_BITS, Raw::Bytes(&bits)),
        (ck::CKA_WRAP, Raw::Bytes(on)),
        (ck::CKA_PRIVATE, Raw::Bytes(&[0])),
    ]);
    let private = Template(vec![
        (ck::CKA_UNWRAP, Raw::Bytes(on)),
        (ck::CKA_SIGN, Raw::Bytes(on)),
        (ck::CKA_PRIVATE, Raw::Bytes(&[0])),
    ]);
    let command = Command::GenerateKeyPair {
        mechanism: &Mechanism::new(ck::CKM_RSA_PKCS_KEY_PAIR_GEN),
        public: &public,
        public_place: Place::Session,
        private: &private,
        private_place: Place::Session,
    };
    let Reply::Records(pair) = hsm.call(&Ticket::public(), command).unwrap() else { panic!() };
    let sign = |kind| hsm.begin(&Ticket::public(), Function::Sign, &Mechanism::new(kind), Some(&pair[1])).map(|_| ());
    assert_eq!(sign(ck::CKM_RSA_X_509).unwrap_err().kind(), ErrorKind::KeyFunctionNotPermitted);
    assert!(sign(ck::CKM_SHA256_RSA_PKCS).is_ok());

    let secret = aes_key(&hsm, &[(ck::CKA_EXTRACTABLE, true)]).unwrap();
    let wrap = |wrapping, mechanism: &Mechanism<'_>| {
        hsm.call(&Ticket::public(), Command::Wrap { mechanism, wrapping, key: &secret, room: 1024 }).map(|_| ())
    };
    let oaep = Params::Oaep(Oaep { hash: ck::CKM_SHA256, mgf: ck::CKG_MGF1_SHA256, label: &[] });
    assert!(wrap(&pair[0], &Mechanism { kind: ck::CKM_RSA_PKCS_OAEP, params: oaep }).is_ok());
    let both = aes_key(&hsm, &[(ck::CKA_WRAP, true), (ck::CKA_DECRYPT, true)]).unwrap();
    let refused = wrap(&both, &Mechanism::new(ck::CKM_AES_KEY_WRAP)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::KeyNotWrappable);
}
