//! A founded domain through the module: two modules on one data directory stand for two processes.

use std::cell::RefCell;
use std::path::Path;

use cryptoki_sys as ck;
use p384::ecdsa::signature::Signer;
use p384::ecdsa::{Signature, SigningKey};
use p384::pkcs8::{DecodePublicKey, EncodePublicKey};
use p384::{PublicKey, SecretKey};
use serde_json::{Value, json};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::looped::over_a_link;
use super::real::{aes, encrypts, process, token};
use super::{NO, PIN, SO_PIN, YES, padded, refused, template};
use crate::cryptoki::reseal::Threads;
use crate::cryptoki::{Module, Readable, SessionHandle};
use crate::error::{ErrorKind, Result};
use crate::hsm;
use crate::hsm::governance::{self, OperatorKeys, PartyKind};

thread_local! {
    static NEXT: RefCell<u8> = const { RefCell::new(1) };
}

/// An operator with keys of his own.
struct Person {
    name: &'static str,
    signing: SecretKey,
    agreement: SecretKey,
}

impl Person {
    fn new(name: &'static str) -> Self {
        let key = || {
            NEXT.with_borrow_mut(|next| *next += 1);
            SecretKey::from_slice(&[NEXT.with_borrow(|next| *next); 48]).unwrap()
        };
        Self { name, signing: key(), agreement: key() }
    }
}

fn spki(key: &SecretKey) -> Vec<u8> {
    key.public_key().to_public_key_der().unwrap().as_bytes().to_vec()
}

impl OperatorKeys for Person {
    fn signing(&self) -> Result<Vec<u8>> {
        Ok(spki(&self.signing))
    }

    fn agreement(&self) -> Result<Vec<u8>> {
        Ok(spki(&self.agreement))
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 96]> {
        let signature: Signature = SigningKey::from(self.signing.clone()).sign(message);
        Ok(signature.to_bytes().into())
    }

    fn agree(&self, peer: &[u8]) -> Result<Zeroizing<[u8; 48]>> {
        let peer = PublicKey::from_public_key_der(peer).unwrap();
        let shared = self.agreement.diffie_hellman(&peer);
        Ok(Zeroizing::new((*shared.raw_secret_bytes()).into()))
    }
}

impl Module {
    pub(super) fn so(&self, slot: u64) -> SessionHandle {
        let session = self.rw(slot);
        self.login(session, ck::CKU_SO, Some(SO_PIN), None).unwrap();
        session
    }

    fn described(&self, session: SessionHandle) -> Value {
        serde_json::from_str(&self.describe_domain(session).unwrap()).unwrap()
    }

    /// Proposes, has it signed, executes.
    fn command(&self, session: SessionHandle, request: &Value, signers: &[&Person]) -> Result<()> {
        let mut proposal = self.propose(session, &request.to_string())?;
        for signer in signers {
            proposal = governance::sign(&proposal, *signer)?;
        }
        self.execute(session, &proposal)
    }

    fn records_under(&self, session: SessionHandle, key: &Value) -> u64 {
        self.described(session)["records"][key.as_str().unwrap()].as_u64().unwrap_or(0)
    }
}

fn claim(person: &Person, domain: &Value) -> String {
    let domain: [u8; 16] = hex::decode(domain["domain"].as_str().unwrap()).unwrap().try_into().unwrap();
    hex::encode(governance::claim(PartyKind::Operator, person.name, &domain, person).unwrap())
}

/// A token with a key, founded by three officers and operators.
fn founded() -> (TempDir, Module, [Person; 3]) {
    let (data, module) = token();
    let persons = ["Anna", "Ben", "Cleo"].map(Person::new);
    let session = module.so(0);
    let domain = module.described(session);
    let operators: Vec<_> = persons
        .iter()
        .map(|person| json!({ "claim": claim(person, &domain), "roles": ["officer", "operator"] }))
        .collect();
    let request = json!({ "command": "found domain", "region": "eu", "operators": operators });
    let [anna, ben, cleo] = &persons;
    refused(module.command(session, &request, &[anna, ben]), ErrorKind::FunctionRejected);
    refused(module.history(session), ErrorKind::FunctionRejected);
    module.command(session, &request, &[anna, ben, cleo]).unwrap();
    module.close_session(session).unwrap();
    (data, module, persons)
}

fn rotation() -> Value {
    json!({ "command": "rotate domain key", "retain": 3600 })
}

fn active_key(domain: &Value) -> Value {
    let keys = domain["domain_keys"].as_array().unwrap();
    keys.iter().find(|key| key["status"] == "active").unwrap()["id"].clone()
}

#[test]
fn the_so_hands_the_domain_over_for_good() {
    let (data, module, _) = founded();
    let other = process(data.path());
    refused(module.init_token(0, Some(SO_PIN), &padded("again")), ErrorKind::TokenWriteProtected);
    let session = module.so(0);
    refused(module.init_pin(session, Some(b"another")), ErrorKind::TokenWriteProtected);
    module.set_pin(session, Some(SO_PIN), Some(SO_PIN)).unwrap();
    module.close_session(session).unwrap();
    // Whoever holds a PIN changes it, and the log says so.
    let user = other.user(0);
    other.set_pin(user, Some(PIN), Some(b"new pin")).unwrap();
    let entries = governance::verify_history(&other.history(user).unwrap()).unwrap();
    assert_eq!(entries.iter().map(|entry| &entry["kind"]).collect::<Vec<_>>(), ["command", "PIN set", "PIN set"]);
    let told: Vec<_> = entries[0]["signers"].as_array().unwrap().iter().map(|signer| &signer["person"]).collect();
    assert_eq!(told, ["Anna", "Ben", "Cleo"]);
    let info = module.token_info(0).unwrap();
    assert_eq!(info.label, "first");
}

#[test]
fn operators_reset_a_pin_and_only_its_holder_sets_it() {
    let (data, module, [anna, ben, _]) = founded();
    let other = process(data.path());
    let user = other.user(0);
    aes(&other, user, b"a", YES).unwrap();
    let session = module.rw(0);
    let reset = json!({ "command": "reset PIN", "role": "user", "code": "let me in, please" });
    refused(module.command(session, &reset, &[&anna, &ben]), ErrorKind::UserNotLoggedIn);
    module.login(session, ck::CKU_SO, Some(SO_PIN), None).unwrap();
    refused(module.command(session, &reset, &[&anna]), ErrorKind::FunctionRejected);
    module.command(session, &reset, &[&anna, &ben]).unwrap();
    // The user is out at once, in every process.
    assert_eq!(other.session_info(user).unwrap().state, ck::CKS_RW_PUBLIC_SESSION);
    refused(other.login(user, ck::CKU_USER, Some(PIN), None), ErrorKind::UserPinNotInitialized);
    refused(module.init_pin(session, Some(PIN)), ErrorKind::TokenWriteProtected);
    let set = |code| module.set_enrolled_pin(session, ck::CKU_USER, None, code, Some(b"newer pin"));
    refused(set(None), ErrorKind::FunctionRejected);
    refused(set(Some(b"wrong")), ErrorKind::FunctionRejected);
    set(Some(b"let me in, please")).unwrap();
    refused(set(Some(b"let me in, please")), ErrorKind::TokenWriteProtected);
    other.login(user, ck::CKU_USER, Some(b"newer pin"), None).unwrap();
    let found = other.search(user, &[(ck::CKA_LABEL, b"a")]);
    encrypts(&other, user, found[0]).unwrap();
}

#[test]
fn a_login_does_not_outlast_its_pin() {
    let (data, module, [anna, ben, _]) = founded();
    let other = process(data.path());
    let user = other.user(0);
    let session = module.so(0);
    let reset = json!({ "command": "reset PIN", "role": "user", "code": "a code for another" });
    module.command(session, &reset, &[&anna, &ben]).unwrap();
    module.set_enrolled_pin(session, ck::CKU_USER, None, Some(b"a code for another"), Some(b"another's")).unwrap();
    // The other process has seen nothing of it so far.
    assert_eq!(other.session_info(user).unwrap().state, ck::CKS_RW_PUBLIC_SESSION);
    refused(aes(&other, user, b"a", YES), ErrorKind::UserNotLoggedIn);
    // Who changes his own PIN stays logged in elsewhere.
    other.login(user, ck::CKU_USER, Some(b"another's"), None).unwrap();
    module.logout(session).unwrap();
    module.login(session, ck::CKU_USER, Some(b"another's"), None).unwrap();
    module.set_pin(session, Some(b"another's"), Some(b"changed")).unwrap();
    aes(&other, user, b"a", YES).unwrap();
}

#[test]
fn one_operator_cannot_destroy_what_a_domain_key_seals() {
    let (_data, module, [anna, ..]) = founded();
    let session = module.user(0);
    aes(&module, session, b"a", YES).unwrap();
    let before = active_key(&module.described(session));
    for retain in [0, 3599] {
        let rotate = json!({ "command": "rotate domain key", "retain": retain });
        refused(module.command(session, &rotate, &[&anna]), ErrorKind::FunctionRejected);
    }
    module.command(session, &json!({ "command": "rotate domain key" }), &[&anna]).unwrap();
    assert_eq!(module.records_under(session, &before), 1);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let retire = json!({ "command": "schedule retirement", "key": before, "at": now + 1 });
    module.command(session, &retire, &[&anna]).unwrap();
    assert_eq!(module.records_under(session, &before), 0);
    let found = module.search(session, &[(ck::CKA_LABEL, b"a")]);
    encrypts(&module, session, found[0]).unwrap();
}

#[test]
fn a_rotation_is_followed_by_all_and_everything_is_sealed_anew() {
    let (data, module, [anna, ..]) = founded();
    let other = process(data.path());
    let (here, there) = (module.user(0), other.user(0));
    for n in 0..300_u32 {
        aes(&module, here, &n.to_be_bytes(), if n % 2 == 0 { YES } else { NO }).unwrap();
    }
    let used = other.search(there, &[(ck::CKA_LABEL, &7_u32.to_be_bytes())])[0];
    encrypts(&other, there, used).unwrap();
    let before = active_key(&module.described(here));
    assert_eq!(module.records_under(here, &before), 300);
    module.command(here, &rotation(), &[&anna]).unwrap();
    let after = active_key(&module.described(here));
    assert_ne!(before, after);
    // This one is sealed anew because it is used, in the process that did not rotate.
    encrypts(&other, there, used).unwrap();
    encrypts(&other, there, used).unwrap();
    assert_eq!((module.records_under(here, &before), module.records_under(here, &after)), (299, 1));
    let warnings = module.described(here)["warnings"].as_array().unwrap().clone();
    assert!(warnings[0].as_str().unwrap().contains("299 objects"), "{warnings:?}");
    let mut told = Vec::new();
    assert_eq!(module.reseal(here, &mut |done, total| told.push((done, total))).unwrap(), 299);
    assert_eq!(told, [(256, 299), (299, 299)]);
    assert_eq!((module.records_under(here, &before), module.records_under(here, &after)), (0, 300));
    assert!(module.described(here)["warnings"].as_array().unwrap().is_empty());
    for n in 0..300_u32 {
        let found = other.search(there, &[(ck::CKA_LABEL, &n.to_be_bytes())]);
        encrypts(&other, there, found[0]).unwrap();
    }
}

#[test]
fn a_thread_seals_anew_while_the_login_lasts() {
    let (data, module, [anna, ..]) = founded();
    drop(module);
    let mut module = process(data.path());
    module.settings.threads = Threads::Allowed(|| Ok(()));
    let session = module.user(0);
    for n in 0..300_u32 {
        aes(&module, session, &n.to_be_bytes(), YES).unwrap();
    }
    module.command(session, &rotation(), &[&anna]).unwrap();
    let key = active_key(&module.described(session));
    let since = std::time::Instant::now();
    while module.records_under(session, &key) < 300 {
        assert!(since.elapsed().as_secs() < 30, "not sealed anew");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn trust_is_what_the_operators_say() {
    let (data, module, [anna, ben, _]) = founded();
    let other = process(data.path());
    let (session, there) = (module.user(0), other.user(0));
    let key = aes(&module, session, b"wrapping", NO).unwrap();
    let seen = other.search(there, &[(ck::CKA_LABEL, b"wrapping")])[0];
    let id = String::from_utf8(module.bytes(session, key, ck::CKA_UNIQUE_ID).unwrap()).unwrap();
    let trusted = || {
        other
            .with_attributes(there, seen, |attributes| match attributes.read(ck::CKA_TRUSTED)? {
                Readable::Value(hsm::Value::Bool(trusted)) => Result::Ok(*trusted),
                _ => panic!("not a boolean"),
            })
            .unwrap()
            .unwrap()
    };
    assert!(!trusted());
    let trust = |trusted: bool| json!({ "command": "trust key", "object": id, "trusted": trusted });
    module.command(session, &trust(true), &[&anna, &ben]).unwrap();
    assert!(trusted());
    let set = template(&[(ck::CKA_TRUSTED, NO)]);
    refused(module.set_attributes(session, key, &set), ErrorKind::AttributeReadOnly);
    module.command(session, &trust(false), &[&anna, &ben]).unwrap();
    assert!(!trusted());
}

#[test]
fn proposals_wait_and_collect_signatures() {
    let (data, module, [anna, ben, _]) = founded();
    let session = module.user(0);
    // What cannot be read is in nobody's way.
    let file = rusqlite::Connection::open(data.path().join("tokens/0/token.db")).unwrap();
    file.execute("INSERT INTO proposals (id, bytes) VALUES (zeroblob(32), x'00ff')", []).unwrap();
    let proposal = module.propose(session, &rotation().to_string()).unwrap();
    assert_eq!(module.proposals(session).unwrap(), "[]");
    module.put_proposal(session, &governance::sign(&proposal, &anna).unwrap()).unwrap();
    let to_sign = module.bytes_to_sign(session, &proposal, &ben.signing().unwrap()).unwrap();
    let signature = ben.sign(&to_sign).unwrap();
    let signed = module.add_signature(session, &proposal, &ben.signing().unwrap(), &signature).unwrap();
    let wrong = module.add_signature(session, &proposal, &anna.signing().unwrap(), &signature);
    refused(wrong, ErrorKind::FunctionRejected);
    let merged = module.put_proposal(session, &signed).unwrap();
    let list: Value = serde_json::from_str(&module.proposals(session).unwrap()).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["signers"].as_array().unwrap().len(), 2);
    assert_eq!(list[0]["proposal"], hex::encode(&merged));
    let id = hex::decode(list[0]["id"].as_str().unwrap()).unwrap();
    assert_eq!(module.proposal(session, &id).unwrap(), merged);
    module.execute(session, &merged).unwrap();
    assert_eq!(module.proposals(session).unwrap(), "[]");
    refused(module.withdraw_proposal(session, &id), ErrorKind::FunctionRejected);
    refused(module.execute(session, &merged), ErrorKind::FunctionRejected);
}

#[test]
fn a_domain_whose_pins_are_lost_comes_back_with_enough_shares() {
    let (data, module, [anna, ben, cleo]) = founded();
    let session = module.user(0);
    aes(&module, session, b"kept", YES).unwrap();
    module.command(session, &json!({ "command": "make recovery set", "threshold": 2 }), &[&anna, &ben]).unwrap();
    module.command(session, &rotation(), &[&anna]).unwrap();
    drop(module);

    let module = process(data.path());
    let fresh = module.begin_recovery(0, Some(b"new so pin")).unwrap();
    let session = module.rw(0);
    let request = json!({ "command": "recover domain", "hsm": hex::encode(fresh) });
    let mut command = module.propose(session, &request.to_string()).unwrap();
    for signer in [&anna, &cleo] {
        command = governance::sign(&command, signer).unwrap();
    }
    let token = module.export_domain_token(session).unwrap();
    let share = |person: &Person| governance::contribute(&token, None, &command, person).unwrap();
    let (bens, cleos) = (share(&ben), share(&cleo));
    let recover = |pin: &[u8], shares: &[&[u8]]| module.recover(0, Some(pin), &command, shares);
    refused(recover(b"new so pin", &[&bens]), ErrorKind::FunctionRejected);
    refused(recover(b"new so pin", &[&bens, &bens]), ErrorKind::FunctionRejected);
    refused(recover(b"other pin", &[&bens, &cleos]), ErrorKind::PinIncorrect);
    recover(b"new so pin", &[&bens, &cleos]).unwrap();
    refused(recover(b"new so pin", &[&bens, &cleos]), ErrorKind::FunctionRejected);

    refused(module.login(session, ck::CKU_USER, Some(PIN), None), ErrorKind::UserPinNotInitialized);
    refused(module.login(session, ck::CKU_SO, Some(SO_PIN), None), ErrorKind::PinIncorrect);
    module.login(session, ck::CKU_SO, Some(b"new so pin"), None).unwrap();
    module.command(session, &json!({ "command": "reset PIN", "role": "user" }), &[&anna, &ben]).unwrap();
    module.init_pin(session, Some(PIN)).unwrap();
    module.logout(session).unwrap();
    module.login(session, ck::CKU_USER, Some(PIN), None).unwrap();
    let found = module.search(session, &[(ck::CKA_LABEL, b"kept")]);
    encrypts(&module, session, found[0]).unwrap();
    governance::verify_history(&module.history(session).unwrap()).unwrap();
}

#[test]
fn an_older_copy_is_brought_forward_by_the_history() {
    let (data, module, [anna, ..]) = founded();
    let session = module.user(0);
    aes(&module, session, b"a", YES).unwrap();
    module.finalize();
    drop(module);
    let copy = tempfile::tempdir().unwrap();
    copy_all(data.path(), copy.path());

    let module = process(data.path());
    let session = module.user(0);
    module.command(session, &rotation(), &[&anna]).unwrap();
    module.command(session, &rotation(), &[&anna]).unwrap();
    let history = module.history(session).unwrap();
    let newest = module.described(session);

    let older = process(copy.path());
    let there = older.user(0);
    older.import_domain(there, &history).unwrap();
    assert_eq!(older.described(there)["hash"], newest["hash"]);
    refused(older.import_domain(there, &history), ErrorKind::FunctionRejected);
    let found = older.search(there, &[(ck::CKA_LABEL, b"a")]);
    encrypts(&older, there, found[0]).unwrap();
    assert_eq!(older.history(there).unwrap(), history);
}

fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

over_a_link! {
    the_so_hands_the_domain_over_for_good,
    operators_reset_a_pin_and_only_its_holder_sets_it,
    a_login_does_not_outlast_its_pin,
    one_operator_cannot_destroy_what_a_domain_key_seals,
    a_rotation_is_followed_by_all_and_everything_is_sealed_anew,
    trust_is_what_the_operators_say,
    proposals_wait_and_collect_signatures,
    a_domain_whose_pins_are_lost_comes_back_with_enough_shares,
    an_older_copy_is_brought_forward_by_the_history,
}
