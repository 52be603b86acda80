//! The state machine over SQLite and the embedded HSM: two modules on one data directory stand for
//! two processes.

use std::path::Path;
use std::thread;

use cryptoki_sys as ck;
use tempfile::TempDir;

use super::looped::{self, over_a_link};
use super::{DATA, NO, NOTHING, PIN, PRIVATE_KEY, SECRET, SO_PIN, YES, padded, refused, template};
use crate::config::PinPolicy;
use crate::cryptoki::backend::Embedded;
use crate::cryptoki::reseal::Threads;
use crate::cryptoki::{Module, ObjectHandle, SessionHandle, Settings};
use crate::error::{ErrorKind, Result};
use crate::hsm::{self, Function, Mechanism, Outcome, Params, PinCost};

const AES: &[u8] = &ck::CKK_AES.to_ne_bytes();
const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

pub(super) fn process(data: &Path) -> Module {
    let cost = PinCost { memory_kib: 1024, passes: 1, lanes: 1 };
    let hsm = hsm::Settings::default();
    let settings = Settings {
        pin: PinPolicy { cost, ..PinPolicy::default() },
        generates_zero_iv: false,
        hsm,
        threads: Threads::Forbidden,
        approval_wait: std::time::Duration::ZERO,
        max_managed_keys: 100_000,
        leaves_due_keys: false,
    };
    Module::over(looped::backend(Embedded::at(data, hsm, true).unwrap(), hsm), settings).unwrap()
}

pub(super) fn token() -> (TempDir, Module) {
    let data = tempfile::tempdir().unwrap();
    let module = process(data.path());
    module.init_token(0, Some(SO_PIN), &padded("first")).unwrap();
    let session = module.rw(0);
    module.login(session, ck::CKU_SO, Some(SO_PIN), None).unwrap();
    module.init_pin(session, Some(PIN)).unwrap();
    module.close_session(session).unwrap();
    (data, module)
}

/// An AES key on the token.
pub(super) fn aes(module: &Module, session: SessionHandle, label: &[u8], private: &[u8]) -> Result<ObjectHandle> {
    let attributes: &[(ck::CK_ATTRIBUTE_TYPE, &[u8])] = &[
        (ck::CKA_TOKEN, YES),
        (ck::CKA_PRIVATE, private),
        (ck::CKA_LABEL, label),
        (ck::CKA_VALUE_LEN, &32_u64.to_ne_bytes()),
    ];
    module.generate_key(session, &Mechanism::new(ck::CKM_AES_KEY_GEN), &template(attributes))
}

pub(super) fn encrypts(module: &Module, session: SessionHandle, key: ObjectHandle) -> Result<()> {
    let params = Params::Gcm { iv: &[7; 12], aad: &[], tag_bits: 128 };
    module.init(session, Function::Encrypt, Some(&Mechanism { kind: ck::CKM_AES_GCM, params }), key)?;
    let mut out = [0; 64];
    assert_eq!(module.one_shot(session, Function::Encrypt, &[1; 32], Some(&mut out)).unwrap(), Outcome::Written(48));
    Ok(())
}

#[test]
fn both_processes_see_what_either_commits() {
    let (data, one) = token();
    let two = process(data.path());
    let (here, there) = (one.user(0), two.user(0));
    for private in [YES, NO] {
        let mine = aes(&one, here, b"a", private).unwrap();
        let theirs = two.search(there, &[(ck::CKA_LABEL, b"a"), (ck::CKA_CLASS, SECRET), (ck::CKA_KEY_TYPE, AES)]);
        assert_eq!(theirs.len(), 1);
        let theirs = theirs[0];
        encrypts(&one, here, mine).unwrap();
        encrypts(&two, there, theirs).unwrap();
        two.set_attributes(there, theirs, &template(&[(ck::CKA_ENCRYPT, NO), (ck::CKA_LABEL, b"b")])).unwrap();
        refused(encrypts(&one, here, mine), ErrorKind::KeyFunctionNotPermitted);
        assert_eq!(one.bytes(here, mine, ck::CKA_LABEL).unwrap(), b"b");
        assert_eq!(one.search(here, &[(ck::CKA_LABEL, b"a")]), NOTHING);
        assert_eq!(one.search(here, &[(ck::CKA_LABEL, b"b")]), [mine]);
        one.destroy_object(here, mine).unwrap();
        refused(encrypts(&two, there, theirs), ErrorKind::KeyHandleInvalid);
        refused(two.bytes(there, theirs, ck::CKA_LABEL), ErrorKind::ObjectHandleInvalid);
        assert_eq!(two.search(there, &[]), NOTHING);
    }
}

#[test]
fn a_change_of_pin_in_another_process_does_not_end_the_login() {
    let (data, one) = token();
    let two = process(data.path());
    let (here, there) = (one.user(0), two.rw(0));
    for round in 0..3_u8 {
        let (old, new) = if round % 2 == 0 { (PIN, b"another" as &[u8]) } else { (b"another" as &[u8], PIN) };
        two.set_pin(there, Some(old), Some(new)).unwrap();
        let key = aes(&one, here, &[round], YES).unwrap();
        encrypts(&one, here, key).unwrap();
        two.login(there, ck::CKU_USER, Some(new), None).unwrap();
        let found = two.search(there, &[(ck::CKA_LABEL, &[round])]);
        encrypts(&two, there, found[0]).unwrap();
        two.logout(there).unwrap();
    }
    one.set_pin(here, Some(b"another"), Some(PIN)).unwrap();
    two.login(there, ck::CKU_USER, Some(PIN), None).unwrap();
}

#[test]
fn the_locked_user_is_unlocked_by_the_so_in_another_process() {
    let (data, one) = token();
    let two = process(data.path());
    let (here, there) = (one.rw(0), two.rw(0));
    for _ in 0..10 {
        refused(one.login(here, ck::CKU_USER, Some(b"wrong"), None), ErrorKind::PinIncorrect);
    }
    refused(two.login(there, ck::CKU_USER, Some(PIN), None), ErrorKind::PinLocked);
    two.login(there, ck::CKU_SO, Some(SO_PIN), None).unwrap();
    two.init_pin(there, Some(b"fresh pin")).unwrap();
    one.login(here, ck::CKU_USER, Some(b"fresh pin"), None).unwrap();
}

#[test]
fn a_token_initialised_anew_is_another() {
    let (data, one) = token();
    let two = process(data.path());
    let session = one.user(0);
    let key = aes(&one, session, b"a", YES).unwrap();
    encrypts(&one, session, key).unwrap();
    two.init_token(0, Some(SO_PIN), &padded("second")).unwrap();
    refused(encrypts(&one, session, key), ErrorKind::DeviceRemoved);
    one.close_session(session).unwrap();
    let session = one.rw(0);
    assert_eq!(one.search(session, &[]), NOTHING);
    refused(one.login(session, ck::CKU_USER, Some(PIN), None), ErrorKind::UserPinNotInitialized);
    one.login(session, ck::CKU_SO, Some(SO_PIN), None).unwrap();
    assert_eq!(one.token_info(0).unwrap().label, "second");
}

#[test]
fn a_destroyed_token_leaves_an_empty_slot_that_is_not_used_again() {
    let (data, one) = token();
    let two = process(data.path());
    let session = one.user(0);
    let key = aes(&one, session, b"a", YES).unwrap();
    two.destroy_token(0, false).unwrap();
    refused(encrypts(&one, session, key), ErrorKind::DeviceRemoved);
    refused(one.open_session(0, ck::CKF_SERIAL_SESSION), ErrorKind::TokenNotRecognized);
    assert_eq!(one.slot_list(false, true).unwrap(), [1]);
    refused(one.session_info(session), ErrorKind::DeviceRemoved);
    one.close_session(session).unwrap();
}

#[test]
fn a_search_finds_by_every_attribute_that_may_be_read() {
    let (_data, module) = token();
    let session = module.user(0);
    for (token, private) in [(YES, YES), (YES, NO), (NO, YES), (NO, NO)] {
        let attributes: &[(ck::CK_ATTRIBUTE_TYPE, &[u8])] = &[
            (ck::CKA_CLASS, SECRET),
            (ck::CKA_KEY_TYPE, AES),
            (ck::CKA_TOKEN, token),
            (ck::CKA_PRIVATE, private),
            (ck::CKA_LABEL, b"l"),
            (ck::CKA_ID, b"i"),
            (ck::CKA_WRAP, NO),
            (ck::CKA_VALUE, &[9; 16]),
        ];
        let key = module.create(session, attributes).unwrap();
        let unlabelled = module.create(session, &[attributes[0], attributes[1], attributes[2], attributes[7]]).unwrap();
        let unique = module.bytes(session, key, ck::CKA_UNIQUE_ID).unwrap();
        assert_eq!(module.search(session, &[(ck::CKA_UNIQUE_ID, &unique)]), [key]);
        assert_eq!(module.search(session, &[(ck::CKA_UNIQUE_ID, &unique[1..])]), NOTHING);
        for some in attributes[..7].chunks(2) {
            assert!(module.search(session, some).contains(&key), "{some:?}");
        }
        assert_eq!(module.search(session, &attributes[..7]), [key]);
        assert_eq!(module.search(session, attributes), NOTHING, "no search by a key's value");
        assert_eq!(module.search(session, &[(ck::CKA_CERTIFICATE_TYPE, AES)]), NOTHING);
        let nameless = module.search(session, &[(ck::CKA_LABEL, b""), (ck::CKA_TOKEN, token)]);
        assert_eq!(nameless, [unlabelled], "a label that was not given is empty");
        for object in [key, unlabelled] {
            module.destroy_object(session, object).unwrap();
        }
    }
}

#[test]
fn both_halves_of_a_pair_are_committed() {
    let (data, one) = token();
    let session = one.user(0);
    let public: &[(ck::CK_ATTRIBUTE_TYPE, &[u8])] =
        &[(ck::CKA_TOKEN, YES), (ck::CKA_EC_PARAMS, P256), (ck::CKA_ID, b"1")];
    let private: &[(ck::CK_ATTRIBUTE_TYPE, &[u8])] =
        &[(ck::CKA_TOKEN, YES), (ck::CKA_PRIVATE, YES), (ck::CKA_ID, b"1")];
    let mechanism = Mechanism::new(ck::CKM_EC_KEY_PAIR_GEN);
    let made = one.generate_key_pair(session, &mechanism, &template(public), &template(private)).unwrap();
    assert_eq!(one.search(session, &[(ck::CKA_ID, b"1")]), [made.0, made.1]);
    let two = process(data.path());
    let there = two.rw(0);
    let seen = two.search(there, &[]);
    assert_eq!(seen.len(), 1, "the private half is hidden before login");
    refused(two.destroy_object(there, seen[0]), ErrorKind::UserNotLoggedIn);
    two.login(there, ck::CKU_USER, Some(PIN), None).unwrap();
    let found = two.search(there, &[(ck::CKA_ID, b"1"), (ck::CKA_CLASS, PRIVATE_KEY)]);
    two.init(there, Function::Sign, Some(&Mechanism::new(ck::CKM_ECDSA)), found[0]).unwrap();
    let mut signature = [0; 64];
    two.one_shot(there, Function::Sign, &[5; 32], Some(&mut signature)).unwrap();
    one.init(session, Function::Verify, Some(&Mechanism::new(ck::CKM_ECDSA)), made.0).unwrap();
    one.verify(session, &[5; 32], &signature).unwrap();
}

#[test]
fn many_writers_lose_nothing() {
    let (data, one) = token();
    let two = process(data.path());
    let watch = one.user(0);
    two.user(0);
    let shared = one.create(watch, &[(ck::CKA_CLASS, DATA), (ck::CKA_TOKEN, YES), (ck::CKA_LABEL, b"shared")]).unwrap();
    thread::scope(|scope| {
        for worker in 0..8_u8 {
            let module = if worker % 2 == 0 { &one } else { &two };
            scope.spawn(move || {
                let session = module.rw(0);
                let shared = module.search(session, &[(ck::CKA_LABEL, b"shared")])[0];
                for round in 0..10_u8 {
                    let label = [b'l', worker, round];
                    let key = aes(module, session, &label, if round % 2 == 0 { YES } else { NO }).unwrap();
                    assert_eq!(module.search(session, &[(ck::CKA_LABEL, &label)]), [key]);
                    encrypts(module, session, key).unwrap();
                    module.set_attributes(session, shared, &template(&[(ck::CKA_APPLICATION, &label)])).unwrap();
                    if round % 2 == 1 {
                        module.destroy_object(session, key).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(one.search(watch, &[(ck::CKA_CLASS, SECRET)]).len(), 8 * 5);
    assert_eq!(one.bytes(watch, shared, ck::CKA_APPLICATION).unwrap().len(), 3);
}

#[test]
fn a_login_during_work_disturbs_no_one() {
    let (_data, module) = token();
    let module = &module;
    let session = module.user(0);
    let public = aes(module, session, b"public", NO).unwrap();
    let stay = module.ro(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || {
                let session = module.rw(0);
                let mut done = 0;
                while done < 200 {
                    match encrypts(module, session, public) {
                        Ok(()) => done += 1,
                        // A secret key's value is open during a login only.
                        Err(error) => assert_eq!(error.kind(), ErrorKind::UserNotLoggedIn),
                    }
                }
            });
        }
        for _ in 0..20 {
            module.logout(stay).unwrap();
            module.login(stay, ck::CKU_USER, Some(PIN), None).unwrap();
        }
    });
}

#[test]
fn a_token_of_schema_1_is_used_by_two_processes() {
    let data = tempfile::tempdir().unwrap();
    let files = data.path().join("tokens/0");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("token.db"), include_bytes!("../../../tests/store/schema-1.db")).unwrap();
    let (one, two) = (process(data.path()), process(data.path()));
    for (number, module) in [(1_u8, &one), (2, &two)] {
        let session = module.rw(0);
        module.login(session, ck::CKU_USER, Some(b"user-pin-1"), None).unwrap();
        let old = module.search(session, &[(ck::CKA_LABEL, b"aes")])[0];
        let cbc = Mechanism { kind: ck::CKM_AES_CBC, params: Params::Iv(&[0; 16]) };
        module.init(session, Function::Encrypt, Some(&cbc), old).unwrap();
        let mut block = [0; 16];
        module.one_shot(session, Function::Encrypt, &[0; 16], Some(&mut block)).unwrap();
        assert_eq!(hex::encode(block), "b16f924d751be0f488a2518c1e8ce8ef");
        let new = aes(module, session, &[number], YES).unwrap();
        encrypts(module, session, new).unwrap();
        module.set_attributes(session, old, &template(&[(ck::CKA_ID, &[number])])).unwrap();
        assert_eq!(module.search(session, &[(ck::CKA_LABEL, b"ec")]).len(), 2);
    }
    let session = two.rw(0);
    assert_eq!(two.search(session, &[(ck::CKA_TOKEN, YES)]).len(), 4 + 2);
}

#[test]
fn right_pins_of_many_at_once_lock_nothing() {
    let (data, module) = token();
    let session = module.rw(0);
    // As many as lock are under way, and succeed.
    let file = rusqlite::Connection::open(data.path().join("tokens/0/token.db")).unwrap();
    let failures = |count: u32| file.execute("UPDATE pins SET failures = ?1 WHERE role = 1", [count]).unwrap();
    failures(10);
    thread::scope(|scope| {
        let login = scope.spawn(|| module.login(session, ck::CKU_USER, Some(PIN), None));
        thread::sleep(std::time::Duration::from_millis(200));
        failures(0);
        login.join().unwrap().unwrap();
    });
    module.logout(session).unwrap();
    failures(10);
    refused(module.login(session, ck::CKU_USER, Some(PIN), None), ErrorKind::PinLocked);
}

over_a_link! {
    both_processes_see_what_either_commits,
    a_change_of_pin_in_another_process_does_not_end_the_login,
    the_locked_user_is_unlocked_by_the_so_in_another_process,
    a_search_finds_by_every_attribute_that_may_be_read,
    both_halves_of_a_pair_are_committed,
}
