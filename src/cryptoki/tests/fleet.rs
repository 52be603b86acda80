//! The state machine over HSMs of a fleet: servers of their own, here in threads, with real sockets and
//! links. Two modules stand for two host processes.

mod faults;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki_sys as ck;
use p384::ecdsa::signature::Signer;
use p384::ecdsa::{Signature, SigningKey};
use p384::pkcs8::EncodePublicKey;
use serde_json::{Value, json};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::{DATA, PIN, YES, refused, template};
use crate::config::{self, Address, Config, Database, FIRST_SLOT, PinPolicy, ZeroIv};
use crate::cryptoki::reseal::Threads;
use crate::cryptoki::{Module, ObjectHandle, SessionHandle, Settings, backend};
use crate::error::{ErrorKind, Result};
use crate::fleet::{Limits, Listener, Server};
use crate::hsm::governance::{self, OperatorKeys, PartyKind};
use crate::hsm::session::{self, HostKey};
use crate::hsm::wire::{Answer, Callbacks, Request, RequestHeader, Room, decode_reply, encode_request};
use crate::hsm::{self, AuditMode, Command, Function, Mechanism, Member, Outcome, PinCost, Reply, Then, Ticket, Wiped};
use crate::store::{Directory, Store};

const CHEAP: PinCost = PinCost { memory_kib: 1024, passes: 1, lanes: 1 };
const SLOT: u64 = FIRST_SLOT as u64;

/// An operator, whose keys are made of a number.
struct Operator(u8);

impl Operator {
    fn key(&self, purpose: u8) -> p384::SecretKey {
        p384::SecretKey::from_slice(&[self.0 * 2 + purpose; 48]).unwrap()
    }

    fn spki(&self, purpose: u8) -> Vec<u8> {
        self.key(purpose).public_key().to_public_key_der().unwrap().into_vec()
    }
}

impl OperatorKeys for Operator {
    fn signing(&self) -> Result<Vec<u8>> {
        Ok(self.spki(0))
    }

    fn agreement(&self) -> Result<Vec<u8>> {
        Ok(self.spki(1))
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 96]> {
        let signature: Signature = SigningKey::from(self.key(0)).sign(message);
        Ok(signature.to_bytes().into())
    }

    fn agree(&self, _peer: &[u8]) -> Result<Zeroizing<[u8; 48]>> {
        unreachable!()
    }
}

const OPERATORS: [Operator; 3] = [Operator(1), Operator(2), Operator(3)];

struct NoCallbacks;

impl Callbacks for NoCallbacks {
    fn call(&mut self, _: &[u8]) -> Result<Wiped> {
        Err(ErrorKind::FunctionFailed.into())
    }
}

/// An HSM that runs.
struct Running {
    member: Arc<Member>,
    server: Server,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.stop();
    }
}

/// A Region: HSMs, operators, a host, a store of one machine.
struct Region {
    directory: TempDir,
    hsms: Vec<Option<Running>>,
    trust: [u8; 48],
}

/// A request of an operator's, past the module.
fn admin_call(member: &Arc<Member>, command: Command<'_>) -> Reply {
    let frame = session::Request::Admin.to_wire().unwrap();
    let Then::Admin(mut connection) = member.clear(&frame[4..], true).then else { panic!() };
    let header = RequestHeader { version: 0, hash: [0; 48], stamp: 0, heard: 0, ticket: Ticket::public() };
    let mut message = Wiped::default();
    encode_request(&header, &Request::Call(command), &mut message).unwrap();
    let answer = connection.request(&message, &mut NoCallbacks);
    let room = Room::new();
    match decode_reply(&answer.message, &room).unwrap().1 {
        Answer::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

impl Region {
    /// Founded, with a user and a host, and grown to this many HSMs.
    fn new(hsms: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut region = Self { directory, hsms: Vec::new(), trust: [0; 48] };
        region.start(None);
        let first = Arc::clone(&region.hsms[0].as_ref().unwrap().member);
        let found = Command::Found { label: "fleet", serial: "", so_pin: b"", cost: CHEAP };
        let Reply::Founded { domain, so_pin } = admin_call(&first, found) else { panic!() };
        let serial = "0123456789abcdef";
        let made = Directory::open(region.directory.path()).unwrap().create(0, "fleet", serial, &domain, &so_pin);
        drop(made.unwrap());
        let id = first.status().unwrap().domain.unwrap();
        let operators: Vec<_> = OPERATORS
            .iter()
            .map(|operator| {
                let name = format!("operator {}", operator.0);
                let claim = governance::claim(PartyKind::Operator, &name, &id, operator).unwrap();
                json!({ "claim": hex::encode(claim), "roles": ["officer", "operator"] })
            })
            .collect();
        let host = HostKey::generate().unwrap();
        std::fs::write(region.host_key(), host.to_pem().unwrap().as_bytes()).unwrap();
        std::fs::set_permissions(region.host_key(), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let claim = hex::encode(host.claim("web", &id).unwrap());
        region.run(&json!({ "command": "found domain", "region": "eu-1", "operators": operators }));
        region.trust = first.status().unwrap().hash.unwrap();
        region.run(&json!({ "command": "admit host", "host": claim }));
        region.run(&json!({ "command": "create user", "role": "user", "code": "an enrolment code" }));
        let admin = region.admin();
        let session = admin.rw(SLOT);
        admin.set_enrolled_pin(session, ck::CKU_USER, None, Some(b"an enrolment code"), Some(PIN)).unwrap();
        for _ in 1..hsms {
            region.start(Some(region.trust));
            region.admit(region.hsms.len() - 1);
        }
        region
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn host_key(&self) -> PathBuf {
        self.path("host.pem")
    }

    fn start(&mut self, fingerprint: Option<[u8; 48]>) {
        self.hsms.push(None);
        self.start_at(self.hsms.len() - 1, fingerprint);
    }

    /// A new HSM at the addresses of that number.
    fn start_at(&mut self, number: usize, fingerprint: Option<[u8; 48]>) {
        self.hsms[number] = None;
        let (public, admin) = (self.path(&format!("h{number}")), self.path(&format!("a{number}")));
        for path in [&public, &admin] {
            let _ = std::fs::remove_file(path);
        }
        let settings = hsm::Settings::default();
        let member = Arc::new(Member::new(settings, &format!("hsm {number}"), fingerprint).unwrap());
        let address = format!("unix:{}", public.display()).parse().unwrap();
        let listeners = vec![Listener::bind(&address, 0o600).unwrap(), Listener::admin(&admin).unwrap()];
        let limits = Limits { grace: Duration::from_millis(200), ..Limits::default() };
        let server = Server::new(Arc::new(Arc::clone(&member)), listeners, limits).unwrap();
        let watching = server.downgrade();
        member.on_change(move |change| {
            if let Some(server) = watching.upgrade() {
                if change.rotated || !change.member {
                    server.end_links();
                }
                let gone = change.gone_hosts.clone();
                server.expel(|host| gone.contains(host));
            }
        });
        server.start().unwrap();
        self.hsms[number] = Some(Running { member, server });
    }

    fn kill(&mut self, number: usize) {
        self.hsms[number] = None;
    }

    fn member(&self, number: usize) -> &Arc<Member> {
        &self.hsms[number].as_ref().unwrap().member
    }

    fn admit(&self, number: usize) {
        self.bring(number);
        let claim = Command::BeginRecovery { pin: b"", cost: CHEAP };
        let Reply::Recovering { claim, .. } = admin_call(self.member(number), claim) else { panic!() };
        self.run(&json!({ "command": "admit HSM", "hsm": hex::encode(claim) }));
    }

    fn bring(&self, number: usize) {
        let store = crate::store::SqliteStore::open(&self.path("tokens/0")).unwrap();
        let (origin, newest) = (store.origin().unwrap().unwrap(), store.meta().unwrap().domain);
        let entries = store.log(origin.version, newest.version).unwrap();
        let entries = entries.iter().map(Vec::as_slice).collect();
        let (origin, after) = (&origin.bytes[..], origin.version);
        let frame = session::Request::Bring { origin, newest: &newest.bytes, after, entries }.to_wire().unwrap();
        let answer = self.member(number).clear(&frame[4..], false);
        assert!(answer.refused.is_none(), "{:?}", answer.refused);
    }

    /// Proposes, has all operators sign, and executes, through an HSM that runs and is a member.
    fn run(&self, request: &Value) {
        let admin = self.admin();
        let session = admin.rw(SLOT);
        let mut command = admin.propose(session, &request.to_string()).unwrap();
        for operator in &OPERATORS {
            command = governance::sign(&command, operator).unwrap();
        }
        admin.execute(session, &command).unwrap();
    }

    fn module(&self, fleet: config::Fleet) -> Module {
        let hsm = hsm::Settings::default();
        let config = Config {
            file: None,
            data_dir: self.directory.path().to_owned(),
            free_slot: false,
            key_separation: true,
            gcm_zero_iv: ZeroIv::Caller,
            pkcs1_unwrap: false,
            cbc_pad_unwrap: false,
            audit: AuditMode::On,
            log: None,
            log_level: tracing::level_filters::LevelFilter::WARN,
            pin: PinPolicy { cost: CHEAP, ..PinPolicy::default() },
            approval_wait: Duration::ZERO,
            max_managed_keys: 1000,
            embedded: false,
            fleets: vec![fleet],
        };
        let settings = Settings {
            pin: config.pin,
            generates_zero_iv: false,
            hsm,
            threads: Threads::Forbidden,
            approval_wait: Duration::ZERO,
            max_managed_keys: 1000,
            leaves_due_keys: false,
        };
        Module::over(backend::open(&config, hsm).unwrap(), settings).unwrap()
    }

    fn fleet(&self, hsms: Vec<Address>) -> config::Fleet {
        config::Fleet {
            slot: FIRST_SLOT,
            region: "eu-1".to_owned(),
            hsms,
            host_key: None,
            host_key_passphrase: None,
            trust: None,
            trust_file: None,
            database: Database::Sqlite(self.path("tokens/0")),
            pool: 4,
            timeout: Duration::from_secs(10),
            label: None,
        }
    }

    /// An operator's module, at the first HSM that is a member.
    fn admin(&self) -> Module {
        let standing = |hsm: &Running| hsm.member.standing().0;
        let number = self.hsms.iter().position(|hsm| hsm.as_ref().is_some_and(standing)).unwrap();
        self.module(self.fleet(vec![Address::Admin(self.path(&format!("a{number}")))]))
    }

    /// A host's module.
    fn host(&self) -> Module {
        let hsms = (0..self.hsms.len()).map(|number| Address::Unix(self.path(&format!("h{number}"))));
        let fleet = self.fleet(hsms.collect());
        self.module(config::Fleet { host_key: Some(self.host_key()), trust: Some(self.trust), ..fleet })
    }
}

fn logged_in(module: &Module) -> SessionHandle {
    let session = module.rw(SLOT);
    module.login(session, ck::CKU_USER, Some(PIN), None).unwrap();
    session
}

fn hmac_key(module: &Module, session: SessionHandle, token: bool) -> ObjectHandle {
    let (on, len) = ([u8::from(token)], 32_u64.to_ne_bytes());
    let attributes: &[(ck::CK_ATTRIBUTE_TYPE, &[u8])] =
        &[(ck::CKA_TOKEN, &on), (ck::CKA_SIGN, YES), (ck::CKA_VERIFY, YES), (ck::CKA_VALUE_LEN, &len)];
    module.generate_key(session, &Mechanism::new(ck::CKM_GENERIC_SECRET_KEY_GEN), &template(attributes)).unwrap()
}

fn sign(module: &Module, session: SessionHandle, key: ObjectHandle, input: &[u8]) -> Result<Vec<u8>> {
    module.init(session, Function::Sign, Some(&Mechanism::new(ck::CKM_SHA256_HMAC)), key)?;
    let mut output = [0; 64];
    match module.one_shot(session, Function::Sign, input, Some(&mut output))? {
        Outcome::Written(len) => Ok(output[..len].to_vec()),
        Outcome::Needed(_) => panic!("there is room"),
    }
}

fn parts(module: &Module, session: SessionHandle, key: ObjectHandle, input: &[u8], part: usize) -> Result<Vec<u8>> {
    module.init(session, Function::Sign, Some(&Mechanism::new(ck::CKM_SHA256_HMAC)), key)?;
    for part in input.chunks(part) {
        module.update(session, Function::Sign, part, None)?;
    }
    let mut output = [0; 64];
    match module.finish(session, Function::Sign, Some(&mut output))? {
        Outcome::Written(len) => Ok(output[..len].to_vec()),
        Outcome::Needed(_) => panic!("there is room"),
    }
}

fn described(module: &Module, session: SessionHandle) -> Value {
    serde_json::from_str(&module.describe_session(session).unwrap()).unwrap()
}

#[test]
fn any_hsm_serves_a_host_and_one_that_dies_is_not_missed() {
    let mut region = Region::new(3);
    let module = region.host();
    let info = module.token_info(SLOT).unwrap();
    assert!(info.founded && info.label == "fleet");
    refused(module.init_token(SLOT, Some(PIN), &[b' '; 32]), ErrorKind::TokenWriteProtected);
    let session = logged_in(&module);
    let keys = [hmac_key(&module, session, true), hmac_key(&module, session, false)];
    let long = vec![9; 200_000];
    let expected: Vec<_> = keys.iter().map(|key| sign(&module, session, *key, DATA).unwrap()).collect();
    let expected_long = sign(&module, session, keys[0], &long).unwrap();
    assert_eq!(parts(&module, session, keys[0], &long, 1000).unwrap(), expected_long);
    assert_eq!(parts(&module, session, keys[0], DATA, 1).unwrap(), expected[0]);
    for _ in 0..12 {
        for (key, expected) in keys.iter().zip(&expected) {
            assert_eq!(sign(&module, session, *key, DATA).unwrap(), *expected);
        }
    }
    let told = described(&module, session);
    assert_eq!((&told["Mode"], &told["Region"]), (&json!("fleet"), &json!("eu-1")));
    assert!(told["Hsms"].as_array().unwrap().iter().all(|hsm| hsm["Connections"] != json!(0)), "{told}");
    assert_eq!(told["Members"].as_array().unwrap().len(), 3);

    // Begun at an HSM that dies before the end, with and without parts that it was sent.
    module.init(session, Function::Sign, Some(&Mechanism::new(ck::CKM_SHA256_HMAC)), keys[0]).unwrap();
    module.update(session, Function::Sign, &long, None).unwrap();
    region.kill(0);
    region.kill(2);
    for (key, expected) in keys.iter().zip(&expected) {
        let other = module.rw(SLOT);
        assert_eq!(sign(&module, other, *key, DATA).unwrap(), *expected);
        module.close_session(other).unwrap();
    }
    match module.finish(session, Function::Sign, Some(&mut [0; 64])) {
        Ok(Outcome::Written(_)) => {}
        other => refused(other, ErrorKind::DeviceError),
    }
    let mut random = [0; 100_000];
    module.generate_random(session, &mut random).unwrap();
    assert!(random.iter().any(|byte| *byte != 0));

    // A new HSM at an old address is no member, and then it is.
    region.start_at(0, Some(region.trust));
    for _ in 0..6 {
        assert_eq!(sign(&module, session, keys[0], DATA).unwrap(), expected[0]);
    }
    region.admit(0);
    region.kill(1);
    let begun = Instant::now();
    while sign(&module, session, keys[0], DATA).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(sign(&module, session, keys[1], DATA).unwrap(), expected[1]);
    region.kill(0);
    let error = sign(&module, session, keys[0], DATA).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceError);
    let told = error.to_string();
    assert!((0..3).all(|number| told.contains(&format!("/h{number}: "))), "{told}");
}

#[test]
fn the_domain_goes_on_while_a_host_works() {
    let region = Region::new(2);
    let (module, other) = (region.host(), region.host());
    let (session, theirs) = (logged_in(&module), logged_in(&other));
    let keys = [hmac_key(&module, session, true), hmac_key(&module, session, false)];
    let expected: Vec<_> = keys.iter().map(|key| sign(&module, session, *key, DATA).unwrap()).collect();
    region.run(&json!({ "command": "rotate domain key" }));
    for _ in 0..4 {
        for (key, expected) in keys.iter().zip(&expected) {
            assert_eq!(sign(&module, session, *key, DATA).unwrap(), *expected);
        }
    }
    // The PIN's holder stays logged in, with the new one.
    module.set_pin(session, Some(PIN), Some(b"another PIN")).unwrap();
    assert_eq!(sign(&module, session, keys[0], DATA).unwrap(), expected[0]);
    refused(other.login(theirs, ck::CKU_USER, Some(PIN), None), ErrorKind::UserAlreadyLoggedIn);

    let id = hex::encode(region.member(1).id().unwrap());
    region.run(&json!({ "command": "expel HSM", "id": id }));
    for _ in 0..4 {
        assert_eq!(sign(&module, session, keys[0], DATA).unwrap(), expected[0]);
    }
    assert_eq!(described(&module, session)["Members"].as_array().unwrap().len(), 1);

    let admin = region.admin();
    let state: Value = serde_json::from_str(&admin.describe_domain(admin.rw(SLOT)).unwrap()).unwrap();
    let host = state["hosts"][0]["id"].as_str().unwrap().to_owned();
    region.run(&json!({ "command": "expel host", "id": host }));
    let error = sign(&module, session, keys[0], DATA).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceError);
    assert!(error.to_string().contains("this host is not in the domain"), "{error}");
}

#[test]
fn several_threads_sign_while_hsms_die_and_come_back() {
    let mut region = Region::new(3);
    let module = region.host();
    let session = logged_in(&module);
    let key = hmac_key(&module, session, true);
    let expected = sign(&module, session, key, DATA).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let session = module.rw(SLOT);
                    let mut count = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        assert_eq!(sign(&module, session, key, DATA).unwrap(), expected);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for number in [0, 1, 2] {
            region.kill(number);
            std::thread::sleep(Duration::from_millis(100));
            region.start_at(number, Some(region.trust));
            region.admit(number);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let counts: Vec<u64> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        assert!(counts.iter().all(|count| *count > 10), "{counts:?}");
    });
}

#[test]
fn sessions_and_tickets_are_renewed_and_a_reset_pin_ends_the_login() {
    let region = Region::new(1);
    region.run(&json!({ "command": "set limits", "limits": { "session_key": 4, "login_ticket": 2 } }));
    let module = region.host();
    let session = logged_in(&module);
    let key = hmac_key(&module, session, true);
    let expected = sign(&module, session, key, DATA).unwrap();
    let first = described(&module, session)["ValidUntil"].as_u64().unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        assert_eq!(sign(&module, session, key, DATA).unwrap(), expected);
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(described(&module, session)["ValidUntil"].as_u64().unwrap() > first);
    region.run(&json!({ "command": "reset PIN", "role": "user", "code": "another enrolment code" }));
    refused(sign(&module, session, key, DATA), ErrorKind::KeyHandleInvalid);
    let admin = region.admin();
    admin
        .set_enrolled_pin(admin.rw(SLOT), ck::CKU_USER, None, Some(b"another enrolment code"), Some(b"the next PIN"))
        .unwrap();
    module.login(session, ck::CKU_USER, Some(b"the next PIN"), None).unwrap();
}

#[test]
fn a_database_that_goes_back_is_refused() {
    let region = Region::new(1);
    let (old, new) = (region.path("tokens/0"), region.path("copy"));
    let copy = |from: &Path, to: &Path| {
        let _ = std::fs::remove_dir_all(to);
        std::fs::create_dir(to).unwrap();
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    };
    copy(&old, &new);
    region.run(&json!({ "command": "rotate domain key" }));
    logged_in(&region.host());
    copy(&new, &old);
    // The host is in another domain, too.
    let other = Region::new(1);
    let key = HostKey::from_pem(&std::fs::read(region.host_key()).unwrap(), None).unwrap();
    let claim = key.claim("elsewhere", &other.member(0).status().unwrap().domain.unwrap()).unwrap();
    other.run(&json!({ "command": "admit host", "host": hex::encode(claim) }));
    let hsms = vec![Address::Unix(other.path("h0"))];
    let there = config::Fleet { host_key: Some(region.host_key()), trust: Some(other.trust), ..other.fleet(hsms) };
    logged_in(&other.module(there));
    let error = region.host().token_info(SLOT).unwrap_err();
    assert!(error.to_string().contains("has seen version"), "{error}");
}
