//! The state machine over a store and an HSM that are stand-ins. Two [`Module`]s over one world
//! stand for two processes.

mod audit;
mod fake;
#[cfg(all(feature = "fleet", feature = "conclaved"))]
mod fleet;
mod governed;
mod looped;
mod managed;
mod real;
mod users;

use std::sync::Arc;

use cryptoki_sys as ck;

use self::fake::{FakeBackend, World};
use super::reseal::Threads;
use super::{Module, ObjectHandle, Readable, SessionHandle, Settings};
use crate::config::PinPolicy;
use crate::error::{ErrorKind, Result};
use crate::hsm::{Function, Mechanism, Outcome, Raw, Template};
use crate::store::Store;

const SO_PIN: &[u8] = b"so pin";
const PIN: &[u8] = b"user pin";
/// No object.
const NOTHING: [ObjectHandle; 0] = [];
const YES: &[u8] = &[1];
const NO: &[u8] = &[0];
const SECRET: &[u8] = &ck::CKO_SECRET_KEY.to_ne_bytes();
const DATA: &[u8] = &ck::CKO_DATA.to_ne_bytes();
const PRIVATE_KEY: &[u8] = &ck::CKO_PRIVATE_KEY.to_ne_bytes();

fn process(world: &Arc<World>) -> Module {
    let settings = Settings {
        pin: PinPolicy::default(),
        generates_zero_iv: false,
        hsm: crate::hsm::Settings::default(),
        threads: Threads::Forbidden,
        approval_wait: std::time::Duration::ZERO,
        max_managed_keys: 100_000,
        leaves_due_keys: false,
    };
    Module::over(Box::new(FakeBackend(world.clone())), settings).unwrap()
}

/// A world with one token that has both PINs, and a process on it.
fn token() -> (Arc<World>, Module) {
    let world = Arc::new(World::default());
    let module = process(&world);
    module.init_token(0, Some(SO_PIN), &padded("first")).unwrap();
    let session = module.rw(0);
    module.login(session, ck::CKU_SO, Some(SO_PIN), None).unwrap();
    module.init_pin(session, Some(PIN)).unwrap();
    module.close_session(session).unwrap();
    (world, module)
}

fn padded(label: &str) -> [u8; 32] {
    let mut padded = [b' '; 32];
    padded[..label.len()].copy_from_slice(label.as_bytes());
    padded
}

fn template<'a>(attributes: &[(ck::CK_ATTRIBUTE_TYPE, &'a [u8])]) -> Template<'a> {
    Template(attributes.iter().map(|(kind, value)| (*kind, Raw::Bytes(value))).collect())
}

impl Module {
    fn rw(&self, slot: u64) -> SessionHandle {
        self.open_session(slot, ck::CKF_SERIAL_SESSION | ck::CKF_RW_SESSION).unwrap()
    }

    fn ro(&self, slot: u64) -> SessionHandle {
        self.open_session(slot, ck::CKF_SERIAL_SESSION).unwrap()
    }

    /// A R/W session of the logged-in user.
    fn user(&self, slot: u64) -> SessionHandle {
        let session = self.rw(slot);
        self.login(session, ck::CKU_USER, Some(PIN), None).unwrap();
        session
    }

    fn create(&self, session: SessionHandle, attributes: &[(ck::CK_ATTRIBUTE_TYPE, &[u8])]) -> Result<ObjectHandle> {
        self.create_object(session, &template(attributes))
    }

    fn search(&self, session: SessionHandle, attributes: &[(ck::CK_ATTRIBUTE_TYPE, &[u8])]) -> Vec<ObjectHandle> {
        self.find_init(session, &template(attributes)).unwrap();
        let mut found = Vec::new();
        loop {
            let mut some = [0; 7];
            let count = self.find(session, &mut some).unwrap();
            if count == 0 {
                break;
            }
            found.extend_from_slice(&some[..count]);
        }
        self.find_final(session).unwrap();
        found
    }

    fn bytes(&self, session: SessionHandle, object: ObjectHandle, kind: ck::CK_ATTRIBUTE_TYPE) -> Result<Vec<u8>> {
        self.with_attributes(session, object, |attributes| match attributes.read(kind)? {
            Readable::Value(crate::hsm::Value::Bytes(bytes)) => Ok(bytes.clone()),
            _ => panic!("not a byte string"),
        })?
    }

    fn begin(&self, session: SessionHandle, function: Function, key: ObjectHandle) -> Result<()> {
        self.init(session, function, Some(&Mechanism::new(0)), key)
    }
}

#[track_caller]
fn refused<T>(result: Result<T>, kind: ErrorKind) {
    match result {
        Ok(_) => panic!("done, instead of {kind:?}"),
        Err(error) => assert_eq!(error.kind(), kind),
    }
}

#[test]
fn the_free_slot_comes_last_and_becomes_a_token() {
    let (world, module) = token();
    assert_eq!(module.slot_list(false, false).unwrap(), [0], "the list changes on a NULL call only");
    assert_eq!(module.slot_list(false, true).unwrap(), [0, 1]);
    let free = module.token_info(1).unwrap();
    assert_eq!(free.flags & ck::CKF_TOKEN_INITIALIZED, 0);
    refused(module.open_session(1, ck::CKF_SERIAL_SESSION), ErrorKind::TokenNotRecognized);
    refused(module.init_token(1, Some(b"abc"), &padded("x")), ErrorKind::PinLenRange);
    refused(module.init_token(1, None, &padded("x")), ErrorKind::ArgumentsBad);
    refused(module.init_token(2, Some(SO_PIN), &padded("x")), ErrorKind::SlotIdInvalid);
    process(&world).init_token(1, Some(SO_PIN), &padded("second")).unwrap();
    assert_eq!(module.slot_list(false, true).unwrap(), [0, 1, 2]);
    let info = module.token_info(1).unwrap();
    assert_eq!((info.label.as_str(), info.serial.len()), ("second", 16));
    assert_ne!(info.flags & ck::CKF_TOKEN_INITIALIZED, 0);
    assert_eq!(info.flags & ck::CKF_USER_PIN_INITIALIZED, 0);
    let session = module.ro(1);
    refused(module.login(session, ck::CKU_USER, Some(PIN), None), ErrorKind::UserPinNotInitialized);
}

#[test]
fn session_states_follow_the_login() {
    let (_, module) = token();
    refused(module.open_session(0, ck::CKF_RW_SESSION), ErrorKind::SessionParallelNotSupported);
    let (ro, rw) = (module.ro(0), module.rw(0));
    let states = || [ro, rw].map(|session| module.session_info(session).unwrap().state);
    assert_eq!(states(), [ck::CKS_RO_PUBLIC_SESSION, ck::CKS_RW_PUBLIC_SESSION]);
    refused(module.login(rw, ck::CKU_SO, Some(SO_PIN), None), ErrorKind::SessionReadOnlyExists);
    refused(module.login(rw, 7, Some(SO_PIN), None), ErrorKind::UserTypeInvalid);
    refused(module.logout(ro), ErrorKind::UserNotLoggedIn);
    module.login(ro, ck::CKU_USER, Some(PIN), None).unwrap();
    assert_eq!(states(), [ck::CKS_RO_USER_FUNCTIONS, ck::CKS_RW_USER_FUNCTIONS]);
    refused(module.login(rw, ck::CKU_USER, Some(PIN), None), ErrorKind::UserAlreadyLoggedIn);
    refused(module.login(rw, ck::CKU_SO, Some(SO_PIN), None), ErrorKind::UserAnotherAlreadyLoggedIn);
    module.logout(rw).unwrap();
    module.close_session(ro).unwrap();
    refused(module.session_info(ro), ErrorKind::SessionHandleInvalid);
    module.login(rw, ck::CKU_SO, Some(SO_PIN), None).unwrap();
    assert_eq!(module.session_info(rw).unwrap().state, ck::CKS_RW_SO_FUNCTIONS);
    refused(module.open_session(0, ck::CKF_SERIAL_SESSION), ErrorKind::SessionReadWriteSoExists);
    module.close_all_sessions(0).unwrap();
    let again = module.ro(0);
    assert_eq!(module.session_info(again).unwrap().state, ck::CKS_RO_PUBLIC_SESSION, "the last close logs out");
    assert_eq!(module.token_info(0).unwrap().session_count, 1);
}

#[test]
fn wrong_pins_are_counted_and_lock() {
    let (world, module) = token();
    let session = module.rw(0);
    let flags = || {
        module.token_info(0).unwrap().flags
            & (ck::CKF_USER_PIN_COUNT_LOW | ck::CKF_USER_PIN_FINAL_TRY | ck::CKF_USER_PIN_LOCKED)
    };
    refused(module.login(session, ck::CKU_USER, Some(&[b'x'; 300]), None), ErrorKind::PinIncorrect);
    refused(module.login(session, ck::CKU_USER, None, None), ErrorKind::ArgumentsBad);
    assert_eq!(flags(), 0, "what cannot be a PIN costs no attempt");
    for _ in 0..8 {
        refused(module.login(session, ck::CKU_USER, Some(b"wrong"), None), ErrorKind::PinIncorrect);
    }
    assert_eq!(flags(), ck::CKF_USER_PIN_COUNT_LOW);
    refused(module.set_pin(session, Some(b"wrong"), Some(b"new pin")), ErrorKind::PinIncorrect);
    assert_eq!(flags(), ck::CKF_USER_PIN_COUNT_LOW | ck::CKF_USER_PIN_FINAL_TRY);
    refused(process(&world).login_once(b"wrong"), ErrorKind::PinIncorrect);
    assert_eq!(flags(), ck::CKF_USER_PIN_LOCKED);
    refused(module.login(session, ck::CKU_USER, Some(PIN), None), ErrorKind::PinLocked);
    refused(module.init_pin(session, Some(b"new pin")), ErrorKind::UserNotLoggedIn);
    module.login(session, ck::CKU_SO, Some(SO_PIN), None).unwrap();
    refused(module.init_pin(session, Some(b"new")), ErrorKind::PinLenRange);
    refused(module.init_pin(session, Some(&[b'x'; 256])), ErrorKind::PinLenRange);
    module.init_pin(session, Some(b"new pin")).unwrap();
    assert_eq!(flags(), 0);
    module.logout(session).unwrap();
    refused(module.set_pin(module.ro(0), Some(b"new pin"), Some(PIN)), ErrorKind::SessionReadOnly);
    module.set_pin(session, Some(b"new pin"), Some(PIN)).unwrap();
    module.login(session, ck::CKU_USER, Some(PIN), None).unwrap();
}

impl Module {
    fn login_once(&self, pin: &[u8]) -> Result<()> {
        self.login(self.ro(0), ck::CKU_USER, Some(pin), None)
    }
}

#[test]
fn initialising_anew_ends_sessions_of_other_processes() {
    let (world, module) = token();
    let other = process(&world);
    let session = module.user(0);
    let object = module.create(session, &[(ck::CKA_CLASS, DATA), (ck::CKA_TOKEN, YES)]).unwrap();
    refused(module.init_token(0, Some(SO_PIN), &padded("new")), ErrorKind::SessionExists);
    refused(other.init_token(0, Some(b"wrong"), &padded("new")), ErrorKind::PinIncorrect);
    let serial = module.token_info(0).unwrap().serial;
    other.init_token(0, Some(SO_PIN), &padded("new")).unwrap();
    refused(module.object_size(session, object), ErrorKind::DeviceRemoved);
    let info = module.token_info(0).unwrap();
    assert_eq!(info.label, "new");
    assert_ne!(info.serial, serial);
    assert_eq!(info.session_count, 0);
    module.close_session(session).unwrap();
    let session = module.rw(0);
    refused(module.object_size(session, object), ErrorKind::ObjectHandleInvalid);
    refused(module.login(session, ck::CKU_USER, Some(PIN), None), ErrorKind::UserPinNotInitialized);
}

#[test]
fn logout_takes_private_objects_and_operations() {
    let (_, module) = token();
    let session = module.user(0);
    let private_token = module
        .create(
            session,
            &[(ck::CKA_CLASS, SECRET), (ck::CKA_PRIVATE, YES), (ck::CKA_TOKEN, YES), (ck::CKA_LABEL, b"p")],
        )
        .unwrap();
    let private_session = module.create(session, &[(ck::CKA_CLASS, SECRET), (ck::CKA_PRIVATE, YES)]).unwrap();
    let public = module.create(session, &[(ck::CKA_CLASS, SECRET), (ck::CKA_PRIVATE, NO)]).unwrap();
    module.begin(session, Function::Encrypt, private_token).unwrap();
    module.begin(session, Function::Decrypt, public).unwrap();
    module.logout(session).unwrap();
    refused(module.one_shot(session, Function::Encrypt, b"x", None), ErrorKind::OperationNotInitialized);
    module.one_shot(session, Function::Decrypt, b"x", None).unwrap();
    for object in [private_token, private_session] {
        refused(module.object_size(session, object), ErrorKind::ObjectHandleInvalid);
        refused(module.begin(session, Function::Sign, object), ErrorKind::KeyHandleInvalid);
    }
    assert_eq!(module.search(session, &[]), [public]);
    module.login(session, ck::CKU_USER, Some(PIN), None).unwrap();
    refused(module.object_size(session, private_token), ErrorKind::ObjectHandleInvalid);
    let found = module.search(session, &[(ck::CKA_LABEL, b"p")]);
    assert_eq!(found.len(), 1);
    assert_ne!(found[0], private_token, "a handle does not come back");
    module.object_size(session, found[0]).unwrap();
    module.close_session(session).unwrap();
    let session = module.rw(0);
    module.login(session, ck::CKU_SO, Some(SO_PIN), None).unwrap();
    assert_eq!(module.search(session, &[]), NOTHING, "the SO sees no private objects");
    refused(module.object_size(session, found[0]), ErrorKind::ObjectHandleInvalid);
}

#[test]
fn handles_found_before_a_logout_survive_it_only_for_public_objects() {
    let (world, module) = token();
    let maker = process(&world);
    let session = maker.user(0);
    for private in [YES, NO] {
        maker.create(session, &[(ck::CKA_CLASS, DATA), (ck::CKA_PRIVATE, private), (ck::CKA_TOKEN, YES)]).unwrap();
    }
    let session = module.user(0);
    let found = module.search(session, &[]);
    assert_eq!(found.len(), 2);
    module.logout(session).unwrap();
    assert_eq!(module.search(session, &[]), found[1..]);
    module.login(session, ck::CKU_USER, Some(PIN), None).unwrap();
    let again = module.search(session, &[]);
    assert_ne!(again[0], found[0]);
    assert_eq!(again[1], found[1]);
    refused(module.object_size(session, found[0]), ErrorKind::ObjectHandleInvalid);
}

#[test]
fn read_only_sessions_do_not_write_to_the_token() {
    let (_, module) = token();
    let rw = module.user(0);
    let ro = module.ro(0);
    let object = module.create(rw, &[(ck::CKA_CLASS, DATA), (ck::CKA_TOKEN, YES)]).unwrap();
    refused(module.create(ro, &[(ck::CKA_CLASS, DATA), (ck::CKA_TOKEN, YES)]), ErrorKind::SessionReadOnly);
    refused(module.create(ro, &[(ck::CKA_CLASS, DATA), (ck::CKA_TOKEN, b"")]), ErrorKind::AttributeValueInvalid);
    refused(module.destroy_object(ro, object), ErrorKind::SessionReadOnly);
    refused(module.set_attributes(ro, object, &template(&[(ck::CKA_LABEL, b"x")])), ErrorKind::SessionReadOnly);
    let mine = module.create(ro, &[(ck::CKA_CLASS, DATA)]).unwrap();
    module.set_attributes(rw, mine, &template(&[(ck::CKA_LABEL, b"mine")])).unwrap();
    assert_eq!(module.bytes(ro, mine, ck::CKA_LABEL).unwrap(), b"mine");
    assert_eq!(module.search(rw, &[(ck::CKA_LABEL, b"mine")]), [mine]);
    module.close_session(ro).unwrap();
    refused(module.object_size(rw, mine), ErrorKind::ObjectHandleInvalid);
    assert_eq!(module.search(rw, &[]), [object]);
}

#[test]
fn what_one_process_commits_the_other_sees_at_its_next_call() {
    let (world, one) = token();
    let other = process(&world);
    let (here, there) = (one.user(0), other.user(0));
    let attributes: &[_] =
        &[(ck::CKA_CLASS, SECRET), (ck::CKA_TOKEN, YES), (ck::CKA_LABEL, b"a"), (ck::CKA_PRIVATE, YES)];
    let mine = one.create(here, attributes).unwrap();
    let theirs = other.search(there, &[(ck::CKA_LABEL, b"a")])[0];
    assert_eq!(other.bytes(there, theirs, ck::CKA_LABEL).unwrap(), b"a");
    one.set_attributes(here, mine, &template(&[(ck::CKA_LABEL, b"b")])).unwrap();
    assert_eq!(other.bytes(there, theirs, ck::CKA_LABEL).unwrap(), b"b");
    assert_eq!(other.search(there, &[(ck::CKA_LABEL, b"a")]), NOTHING);
    assert_eq!(other.search(there, &[(ck::CKA_LABEL, b"b")]), [theirs]);
    other.set_attributes(there, theirs, &template(&[(ck::CKA_ID, b"1")])).unwrap();
    one.set_attributes(here, mine, &template(&[(ck::CKA_LABEL, b"c")])).unwrap();
    assert_eq!(one.bytes(here, mine, ck::CKA_ID).unwrap(), b"1");
    one.set_attributes(here, mine, &template(&[(ck::CKA_DESTROYABLE, NO)])).unwrap();
    refused(other.destroy_object(there, theirs), ErrorKind::ActionProhibited);
    one.set_attributes(here, mine, &template(&[(ck::CKA_DESTROYABLE, YES)])).unwrap();
    other.destroy_object(there, theirs).unwrap();
    refused(one.begin(here, Function::Encrypt, mine), ErrorKind::KeyHandleInvalid);
    refused(one.destroy_object(here, mine), ErrorKind::ObjectHandleInvalid);
    let new = one.create(here, attributes).unwrap();
    assert_ne!(new, mine);
}

#[test]
fn a_search_pages_and_is_not_disturbed() {
    let (_, module) = token();
    let session = module.user(0);
    let mut made = Vec::new();
    for number in 0..600_u32 {
        let token = if number % 3 == 0 { NO } else { YES };
        let label = if number % 2 == 0 { b"even" as &[u8] } else { b"odd" };
        let id = number.to_be_bytes();
        let attributes: &[_] = &[
            (ck::CKA_CLASS, DATA),
            (ck::CKA_TOKEN, token),
            (ck::CKA_LABEL, label),
            (ck::CKA_ID, &id),
            (ck::CKA_PRIVATE, YES),
        ];
        made.push(module.create(session, attributes).unwrap());
    }
    assert_eq!(module.search(session, &[]).len(), 600);
    assert_eq!(module.search(session, &[(ck::CKA_TOKEN, YES)]).len(), 400);
    assert_eq!(module.search(session, &[(ck::CKA_TOKEN, NO), (ck::CKA_LABEL, b"even")]).len(), 100);
    assert_eq!(module.search(session, &[(ck::CKA_ID, &77_u32.to_be_bytes())]), [made[77]]);
    assert_eq!(module.search(session, &[(ck::CKA_ID, &78_u32.to_be_bytes()), (ck::CKA_LABEL, b"even")]), [made[78]]);
    assert_eq!(module.search(session, &[(ck::CKA_ID, &78_u32.to_be_bytes()), (ck::CKA_LABEL, b"odd")]), NOTHING);
    assert_eq!(module.search(session, &[(ck::CKA_LABEL, b"odd"), (ck::CKA_LABEL, b"even")]), NOTHING);
    assert_eq!(module.search(session, &[(ck::CKA_PRIVATE, NO)]), NOTHING);
    // An attribute without a column is compared with the objects themselves.
    module.set_attributes(session, made[500], &template(&[(ck::CKA_APPLICATION, b"mine")])).unwrap();
    assert_eq!(module.search(session, &[(ck::CKA_APPLICATION, b"mine")]), [made[500]]);
    assert_eq!(module.search(session, &[(ck::CKA_APPLICATION, b"other")]), NOTHING);
    refused(module.find_init(session, &template(&[(ck::CKA_CLASS, b"?")])), ErrorKind::AttributeValueInvalid);

    module.find_init(session, &template(&[(ck::CKA_TOKEN, YES)])).unwrap();
    refused(module.find_init(session, &Template::default()), ErrorKind::OperationActive);
    let mut seen = 0;
    let mut one = [0];
    while module.find(session, &mut one).unwrap() == 1 {
        module.destroy_object(session, one[0]).unwrap();
        seen += 1;
    }
    assert_eq!(seen, 400, "destroying what was found loses nothing");
    module.find_final(session).unwrap();
    refused(module.find_final(session), ErrorKind::OperationNotInitialized);
    refused(module.find(session, &mut one), ErrorKind::OperationNotInitialized);
}

#[test]
fn a_search_is_no_oracle_for_key_values() {
    let (_, module) = token();
    let session = module.user(0);
    let key: &[_] = &[(ck::CKA_CLASS, SECRET), (ck::CKA_VALUE, b"0123456789abcdef")];
    let object = module.create(session, key).unwrap();
    assert_eq!(module.search(session, &key[..1]), [object]);
    assert_eq!(module.search(session, key), NOTHING);
    refused(module.bytes(session, object, ck::CKA_VALUE), ErrorKind::AttributeSensitive);
    refused(module.bytes(session, object, ck::CKA_OWNER), ErrorKind::AttributeTypeInvalid);
}

#[test]
fn mechanism_and_profile_objects_are_found_by_class_only() {
    let (_, module) = token();
    let session = module.rw(0);
    assert_eq!(module.search(session, &[]), NOTHING);
    let profiles = module.search(session, &[(ck::CKA_CLASS, &ck::CKO_PROFILE.to_ne_bytes())]);
    assert_eq!(profiles.len(), 2);
    let baseline: &[(ck::CK_ATTRIBUTE_TYPE, &[u8])] = &[
        (ck::CKA_CLASS, &ck::CKO_PROFILE.to_ne_bytes()),
        (ck::CKA_PROFILE_ID, &ck::CKP_BASELINE_PROVIDER.to_ne_bytes()),
    ];
    assert_eq!(module.search(session, baseline), profiles[..1]);
    let mechanisms = module.search(session, &[(ck::CKA_CLASS, &ck::CKO_MECHANISM.to_ne_bytes())]);
    assert_eq!(mechanisms.len(), module.mechanism_list(0).unwrap().len());
    refused(module.destroy_object(session, profiles[0]), ErrorKind::ActionProhibited);
    refused(module.begin(session, Function::Sign, profiles[0]), ErrorKind::KeyHandleInvalid);
    module.object_size(session, profiles[0]).unwrap();
}

#[test]
fn an_operation_ends_as_the_standard_says() {
    let (_, module) = token();
    let session = module.rw(0);
    let key = module.create(session, &[(ck::CKA_CLASS, SECRET)]).unwrap();
    let mut out = [0; 8];
    let encrypt = Function::Encrypt;
    refused(module.one_shot(session, encrypt, b"x", None), ErrorKind::OperationNotInitialized);
    refused(module.begin(session, encrypt, key + 1000), ErrorKind::KeyHandleInvalid);
    module.begin(session, encrypt, key).unwrap();
    refused(module.begin(session, encrypt, key), ErrorKind::OperationActive);
    module.begin(session, Function::Digest, 0).unwrap();
    assert_eq!(module.one_shot(session, encrypt, b"abc", None).unwrap(), Outcome::Needed(4));
    assert_eq!(module.one_shot(session, encrypt, b"abc", Some(&mut out[..3])).unwrap(), Outcome::Needed(4));
    assert_eq!(module.one_shot(session, encrypt, b"abc", Some(&mut out)).unwrap(), Outcome::Written(4));
    refused(module.one_shot(session, encrypt, b"abc", Some(&mut out)), ErrorKind::OperationNotInitialized);
    // Init followed directly by Final.
    module.begin(session, encrypt, key).unwrap();
    assert_eq!(module.finish(session, encrypt, None).unwrap(), Outcome::Needed(1));
    assert_eq!(module.finish(session, encrypt, Some(&mut out)).unwrap(), Outcome::Written(1));
    // A part, and then the whole.
    module.begin(session, encrypt, key).unwrap();
    assert_eq!(module.update(session, encrypt, b"abc", Some(&mut out[..2])).unwrap(), Outcome::Needed(3));
    assert_eq!(module.update(session, encrypt, b"abc", Some(&mut out)).unwrap(), Outcome::Written(3));
    refused(module.one_shot(session, encrypt, b"abc", Some(&mut out)), ErrorKind::OperationActive);
    module.finish(session, encrypt, Some(&mut out)).unwrap();
    // An error ends it.
    for call in [Module::one_shot, Module::update] {
        module.begin(session, encrypt, key).unwrap();
        refused(call(&module, session, encrypt, b"!", Some(&mut out)), ErrorKind::DataInvalid);
        refused(module.finish(session, encrypt, None), ErrorKind::OperationNotInitialized);
    }
    module.begin(session, Function::Verify, key).unwrap();
    refused(module.verify(session, b"abc", b"xyz"), ErrorKind::SignatureInvalid);
    refused(module.verify(session, b"abc", b"abc"), ErrorKind::OperationNotInitialized);
    module.begin(session, Function::Verify, key).unwrap();
    module.update(session, Function::Verify, b"abc", None).unwrap();
    refused(module.verify(session, b"", b"abc"), ErrorKind::OperationActive);
    module.verify_final(session, b"abc").unwrap();
    // Cancelled.
    module.begin(session, encrypt, key).unwrap();
    module.init(session, encrypt, None, 0).unwrap();
    module.begin(session, encrypt, key).unwrap();
    module.find_init(session, &Template::default()).unwrap();
    module.session_cancel(session, ck::CKF_ENCRYPT | ck::CKF_FIND_OBJECTS | ck::CKF_SIGN).unwrap();
    refused(module.finish(session, encrypt, None), ErrorKind::OperationNotInitialized);
    module.find_init(session, &Template::default()).unwrap();
    assert_eq!(module.finish(session, Function::Digest, None).unwrap(), Outcome::Needed(1), "not cancelled");
}

#[test]
fn dual_operations_feed_both_or_neither() {
    let (_, module) = token();
    let session = module.rw(0);
    let key = module.create(session, &[(ck::CKA_CLASS, SECRET)]).unwrap();
    let mut out = [0; 8];
    module.begin(session, Function::Digest, 0).unwrap();
    let dual = |input: &[u8], output: Option<&mut [u8]>| {
        module.dual_update(session, Function::Decrypt, Function::Digest, input, output)
    };
    refused(dual(b"abc", Some(&mut out)), ErrorKind::OperationNotInitialized);
    module.begin(session, Function::Decrypt, key).unwrap();
    assert_eq!(dual(b"abc", None).unwrap(), Outcome::Needed(3));
    assert_eq!(dual(b"abc", Some(&mut out[..1])).unwrap(), Outcome::Needed(3));
    assert_eq!(dual(b"abc", Some(&mut out)).unwrap(), Outcome::Written(3));
    assert_eq!(module.finish(session, Function::Digest, Some(&mut out)).unwrap(), Outcome::Written(4));
    assert_eq!(&out[..4], b"abc.");
    module.begin(session, Function::Digest, 0).unwrap();
    refused(dual(b"!", Some(&mut out)), ErrorKind::DataInvalid);
    for function in [Function::Decrypt, Function::Digest] {
        refused(module.finish(session, function, None), ErrorKind::OperationNotInitialized);
    }
}

#[test]
fn a_digest_is_saved_and_continued() {
    let (_, module) = token();
    let (one, two) = (module.rw(0), module.rw(0));
    let key = module.create(one, &[(ck::CKA_CLASS, SECRET)]).unwrap();
    refused(module.operation_state(one), ErrorKind::OperationNotInitialized);
    module.begin(one, Function::Digest, 0).unwrap();
    module.update(one, Function::Digest, b"ab", None).unwrap();
    module.digest_key(one, key).unwrap();
    let saved = module.operation_state(one).unwrap();
    module.begin(one, Function::Sign, key).unwrap();
    refused(module.operation_state(one), ErrorKind::StateUnsaveable);
    refused(module.set_operation_state(two, &saved, key, 0), ErrorKind::KeyNotNeeded);
    refused(module.set_operation_state(two, &[], 0, 0), ErrorKind::SavedStateInvalid);
    module.set_operation_state(two, &saved, 0, 0).unwrap();
    refused(module.one_shot(two, Function::Digest, b"", None), ErrorKind::OperationActive);
    let mut out = [0; 8];
    assert_eq!(module.finish(two, Function::Digest, Some(&mut out)).unwrap(), Outcome::Written(6));
    assert_eq!(&out[..6], b"abkey.");
}

#[test]
fn an_always_authenticate_key_wants_the_pin_each_time() {
    let (world, module) = token();
    let session = module.user(0);
    let attributes: &[_] = &[(ck::CKA_CLASS, PRIVATE_KEY), (ck::CKA_ALWAYS_AUTHENTICATE, YES), (ck::CKA_PRIVATE, YES)];
    let key = module.create(session, attributes).unwrap();
    let confirm = |pin| module.login(session, ck::CKU_CONTEXT_SPECIFIC, Some(pin), None);
    let mut out = [0; 8];
    refused(confirm(PIN), ErrorKind::OperationNotInitialized);
    for _ in 0..2 {
        module.begin(session, Function::Sign, key).unwrap();
        refused(module.one_shot(session, Function::Sign, b"x", Some(&mut out)), ErrorKind::UserNotLoggedIn);
        refused(module.update(session, Function::Sign, b"x", None), ErrorKind::UserNotLoggedIn);
        refused(confirm(b"wrong"), ErrorKind::PinIncorrect);
        assert_eq!(world.store(0).meta().unwrap().pins.iter().map(|pin| pin.failures).sum::<u32>(), 1);
        refused(module.one_shot(session, Function::Sign, b"x", Some(&mut out)), ErrorKind::UserNotLoggedIn);
        confirm(PIN).unwrap();
        module.one_shot(session, Function::Sign, b"x", Some(&mut out)).unwrap();
    }
    let unwrap = module.unwrap_key(session, &Mechanism::new(0), key, b"x", &Template::default());
    refused(unwrap, ErrorKind::UserNotLoggedIn);
}

#[test]
fn a_finalized_module_is_empty() {
    let (_, module) = token();
    let session = module.user(0);
    module.finalize();
    module.finalize();
    let closed = ErrorKind::CryptokiNotInitialized;
    refused(module.session_info(session), closed);
    refused(module.close_session(session), closed);
    refused(module.open_session(0, ck::CKF_SERIAL_SESSION), closed);
    refused(module.slot_list(false, true), closed);
    refused(module.token_info(0), closed);
}

#[test]
fn threads_share_a_token() {
    let (_, module) = token();
    let module = &module;
    let watch = module.user(0);
    let key = module.create(watch, &[(ck::CKA_CLASS, SECRET), (ck::CKA_TOKEN, YES)]).unwrap();
    let mut handles: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8_u8)
            .map(|worker| {
                scope.spawn(move || {
                    let mut seen = Vec::new();
                    for round in 0..50_u8 {
                        let session = module.rw(0);
                        let id = [worker, round];
                        let token = if round % 5 == 0 { YES } else { NO };
                        let mine = module
                            .create(session, &[(ck::CKA_CLASS, DATA), (ck::CKA_TOKEN, token), (ck::CKA_ID, &id)])
                            .unwrap();
                        assert_eq!(module.search(session, &[(ck::CKA_ID, &id)]), [mine]);
                        module.begin(session, Function::Encrypt, key).unwrap();
                        module.one_shot(session, Function::Encrypt, b"abc", Some(&mut [0; 8])).unwrap();
                        if round % 2 == 0 {
                            module.destroy_object(session, mine).unwrap();
                        }
                        module.close_session(session).unwrap();
                        seen.extend([session, mine]);
                    }
                    seen
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let total = handles.len();
    handles.sort_unstable();
    handles.dedup();
    assert_eq!(handles.len(), total, "no handle was given twice");
    assert_eq!(module.search(watch, &[(ck::CKA_CLASS, DATA)]).len(), 8 * 5, "session objects went with their sessions");
}
