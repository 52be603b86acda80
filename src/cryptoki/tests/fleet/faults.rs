//! HSMs that hang, or break off, in the middle of what they are asked: behind a relay that passes on what
//! it is told to.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::*;
use crate::channel::{Channel, Remote};
use crate::hsm::{Manage, Operation, Params, Record};
use crate::store::SqliteStore;

const ALL: usize = usize::MAX;
/// What takes longer has waited for an HSM that hangs: whoever waits for one does so for 1 s at most, but
/// for the answer to a request (10 s).
const LONG: Duration = Duration::from_secs(4);

/// Between hosts and one HSM.
struct Relay {
    path: PathBuf,
    state: Arc<Passing>,
}

struct Passing {
    /// Frames of the HSM that are still passed on.
    frames: AtomicUsize,
    /// What a host sends ends its connection.
    cuts: AtomicBool,
    cut: AtomicUsize,
    over: AtomicBool,
    open: Mutex<Vec<UnixStream>>,
}

impl Relay {
    fn new(path: PathBuf, hsm: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        let state = Arc::new(Passing {
            frames: AtomicUsize::new(ALL),
            cuts: AtomicBool::new(false),
            cut: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let passing = Arc::clone(&state);
        std::thread::spawn(move || {
            for host in listener.incoming() {
                if passing.over.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(host), Ok(hsm)) = (host, UnixStream::connect(&hsm)) else { continue };
                let mut open = passing.open.lock().unwrap_or_else(PoisonError::into_inner);
                open.extend([host.try_clone().unwrap(), hsm.try_clone().unwrap()]);
                drop(open);
                let (back, there) = ((hsm.try_clone().unwrap(), host.try_clone().unwrap()), (host, hsm));
                let (one, other) = (Arc::clone(&passing), Arc::clone(&passing));
                std::thread::spawn(move || one.requests(there.0, there.1));
                std::thread::spawn(move || other.answers(back.0, back.1));
            }
        });
        Self { path, state }
    }

    /// From now on so many frames of the HSM come through.
    fn pass(&self, frames: usize) {
        self.state.frames.store(frames, Ordering::Relaxed);
    }

    /// Whether what a host sends ends its connection.
    fn cut(&self, cuts: bool) {
        self.state.cuts.store(cuts, Ordering::Relaxed);
    }

    fn break_off(&self) {
        self.state.end_all();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        self.state.end_all();
        let _ = UnixStream::connect(&self.path);
    }
}

impl Passing {
    fn end_all(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn requests(&self, mut host: UnixStream, mut hsm: UnixStream) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = host.read(&mut buffer) {
            if self.cuts.load(Ordering::Relaxed) {
                self.cut.fetch_add(1, Ordering::Relaxed);
                break;
            }
            if hsm.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = (host.shutdown(Shutdown::Both), hsm.shutdown(Shutdown::Both));
    }

    fn answers(&self, mut hsm: UnixStream, mut host: UnixStream) {
        let mut length = [0; 4];
        while hsm.read_exact(&mut length).is_ok() {
            let mut body = vec![0; u32::from_be_bytes(length) as usize];
            if hsm.read_exact(&mut body).is_err() {
                break;
            }
            let one = |left: usize| if left == ALL { Some(ALL) } else { left.checked_sub(1) };
            while self.frames.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one).is_err() {
                if self.over.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            if host.write_all(&length).and_then(|()| host.write_all(&body)).is_err() {
                break;
            }
        }
        let _ = (host.shutdown(Shutdown::Both), hsm.shutdown(Shutdown::Both));
    }
}

impl Region {
    fn relay(&self, number: usize) -> Relay {
        Relay::new(self.path(&format!("r{number}")), self.path(&format!("h{number}")))
    }

    fn through(&self, relays: &[Relay]) -> config::Fleet {
        let hsms = relays.iter().map(|relay| Address::Unix(relay.path.clone())).collect();
        config::Fleet { host_key: Some(self.host_key()), trust: Some(self.trust), ..self.fleet(hsms) }
    }

    fn channel(&self, fleet: &config::Fleet) -> Remote {
        Remote::new(fleet, Arc::new(SqliteStore::open(&self.path("tokens/0")).unwrap())).unwrap()
    }
}

/// As C_Login does, without its count of attempts.
fn log_in(channel: &Remote, user: hsm::Role, pin: &[u8]) -> Ticket {
    let store = channel.store();
    let meta = store.meta().unwrap();
    let log = hsm::Log { after: meta.domain.version, entries: &[] };
    let record = &meta.pin(&user).unwrap().record;
    let login = Command::Login { pin, record, domain: &meta.domain, log };
    let Reply::LoggedIn(ticket) = channel.call(&Ticket::public(), login).unwrap() else { panic!() };
    ticket
}

fn hmac_record(channel: &Remote, ticket: &Ticket) -> Record {
    let len = 32_u64.to_ne_bytes();
    let attributes: &[(ck::CK_ATTRIBUTE_TYPE, &[u8])] =
        &[(ck::CKA_PRIVATE, YES), (ck::CKA_SIGN, YES), (ck::CKA_VERIFY, YES), (ck::CKA_VALUE_LEN, &len)];
    let template = template(attributes);
    let mechanism = Mechanism::new(ck::CKM_GENERIC_SECRET_KEY_GEN);
    let place = hsm::Place::Session;
    let made =
        channel.call(ticket, Command::GenerateKey { mechanism: &mechanism, template: &template, place }).unwrap();
    let Reply::Records(mut records) = made else { panic!() };
    records.pop().unwrap()
}

/// Makes sure of a connection with each HSM.
fn meet(module: &Module, session: SessionHandle) {
    let begun = Instant::now();
    let is_met = |hsm: &Value| hsm["Trouble"].is_null() && hsm["Connections"] != json!(0);
    while !described(module, session)["Hsms"].as_array().unwrap().iter().all(is_met) {
        assert!(begun.elapsed() < LONG);
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    (work(), begun.elapsed())
}

#[test]
fn a_logout_waits_little_for_an_hsm_that_hangs_and_no_other_session_does() {
    let region = Region::new(2);
    let relays = [region.relay(0), region.relay(1)];
    let module = region.module(region.through(&relays));
    let (session, other) = (logged_in(&module), module.rw(SLOT));
    meet(&module, session);
    relays[0].pass(0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                longest = longest.max(timed(|| module.session_info(other).unwrap()).1);
            }
            longest
        });
        let (ended, took) = timed(|| module.logout(session));
        over.store(true, Ordering::Relaxed);
        ended.unwrap();
        assert!(took < LONG, "{took:?}");
        let longest = others.join().unwrap();
        assert!(longest < took * 3 / 4, "{longest:?} of {took:?}");
    });
    // The domain goes on.
    relays[0].pass(ALL);
    module.login(session, ck::CKU_USER, Some(PIN), None).unwrap();
    meet(&module, session);
    relays[0].pass(0);
    region.run(&json!({ "command": "set limits", "limits": { "session_key": 1800 } }));
    let (_, took) = timed(|| module.session_info(session).unwrap());
    assert!(took < LONG, "{took:?}");
    assert_eq!(region.member(1).standing(), region.member(0).standing());
    relays[0].pass(ALL);
}

#[test]
fn one_hsm_that_is_silent_keeps_nobody_from_another() {
    let region = Region::new(2);
    let relays = [region.relay(0), region.relay(1)];
    let module = region.module(region.through(&relays));
    let sessions = [module.rw(SLOT), module.rw(SLOT)];
    // It says who it is, and no more.
    relays[0].pass(1);
    std::thread::scope(|scope| {
        let module = &module;
        let first = scope.spawn(move || module.generate_random(sessions[0], &mut [0]));
        let begun = Instant::now();
        while relays[0].state.frames.load(Ordering::Relaxed) > 0 {
            assert!(begun.elapsed() < LONG);
            std::thread::sleep(Duration::from_millis(1));
        }
        let (done, took) = timed(|| module.generate_random(sessions[1], &mut [0]));
        done.unwrap();
        assert!(took < LONG, "{took:?}");
        relays[0].pass(ALL);
        first.join().unwrap().unwrap();
    });
}

#[test]
fn a_pin_goes_to_two_hsms_at_most_that_break_off() {
    let region = Region::new(3);
    let relays = [region.relay(0), region.relay(1), region.relay(2)];
    let module = region.module(region.through(&relays));
    let session = module.rw(SLOT);
    meet(&module, session);
    relays.iter().for_each(|relay| relay.cut(true));
    refused(module.login(session, ck::CKU_USER, Some(PIN), None), ErrorKind::DeviceError);
    let cut: usize = relays.iter().map(|relay| relay.state.cut.load(Ordering::Relaxed)).sum();
    assert_eq!(cut, 2);
    relays.iter().for_each(|relay| relay.cut(false));
    module.login(session, ck::CKU_USER, Some(PIN), None).unwrap();
}

#[test]
fn an_hsm_that_hangs_within_a_transaction_keeps_the_store_for_a_second() {
    let region = Region::new(1);
    let relays = [region.relay(0)];
    let module = region.module(region.through(&relays));
    let session = logged_in(&module);
    // It asks for the tips of the log, and takes them without a word.
    relays[0].pass(1);
    let (made, took) = timed(|| module.manage(session, Manage::CreateKey, "{}", false));
    assert!(took < LONG, "{took:?}");
    refused(made, ErrorKind::DeviceError);
    relays[0].pass(ALL);
    module.manage(session, Manage::CreateKey, "{}", false).unwrap();
}

#[test]
fn an_operation_ends_at_its_hsm_whatever_becomes_of_the_host_s() {
    let region = Region::new(1);
    let relays = [region.relay(0)];
    let channel = region.channel(&region.through(&relays));
    let user = log_in(&channel, hsm::Role::User, PIN);
    let record = hmac_record(&channel, &user);
    let (hmac, long) = (Mechanism::new(ck::CKM_SHA256_HMAC), vec![0; 200_000]);
    let streams = || region.member(0).figures().streams;
    let begin = || {
        let mut operation = channel.begin(&user, Function::Verify, &hmac, Some(&record)).unwrap();
        operation.update(&long, None).unwrap();
        assert_eq!(streams(), 1);
        operation
    };
    // Its end is lost, with the connection.
    let operation = begin();
    relays[0].cut(true);
    relays[0].break_off();
    drop(operation);
    assert_eq!(streams(), 1);
    relays[0].cut(false);
    let begun = Instant::now();
    while channel.call(&Ticket::public(), Command::Random { output: &mut [0] }).is_err() {
        assert!(begun.elapsed() < LONG);
    }
    assert_eq!(streams(), 0);
    // The login is over before the end.
    let mut operation = begin();
    region.run(&json!({ "command": "reset PIN", "role": "user", "code": "once more, please" }));
    refused(operation.verify(&[0; 32]), ErrorKind::UserNotLoggedIn);
    assert_eq!(streams(), 0);
}

#[test]
fn an_expulsion_goes_to_another_hsm() {
    let region = Region::new(2);
    // As an operator may, who lists both.
    let admins = (0..2).map(|number| Address::Admin(region.path(&format!("a{number}"))));
    let module = region.module(region.fleet(admins.collect()));
    let session = module.rw(SLOT);
    module.describe_domain(session).unwrap();
    let id = hex::encode(region.member(1).id().unwrap());
    let mut command = module.propose(session, &json!({ "command": "expel HSM", "id": id }).to_string()).unwrap();
    for operator in &OPERATORS {
        command = governance::sign(&command, operator).unwrap();
    }
    module.execute(session, &command).unwrap();
}

#[test]
fn what_is_private_is_not_continued_in_the_so_s_login() {
    let region = Region::new(1);
    region.run(&json!({ "command": "create user", "role": "SO", "code": "enrol the officer" }));
    let admin = region.admin();
    admin
        .set_enrolled_pin(admin.rw(SLOT), ck::CKU_SO, None, Some(b"enrol the officer"), Some(b"the SO's PIN"))
        .unwrap();
    let relays = [region.relay(0)];
    let channel = region.channel(&region.through(&relays));
    let user = log_in(&channel, hsm::Role::User, PIN);
    let record = hmac_record(&channel, &user);
    let (hmac, none) = (Mechanism::new(ck::CKM_SHA256_HMAC), Params::None);
    let begin = || channel.begin(&user, Function::Sign, &hmac, Some(&record)).unwrap();
    let mut operation: Box<dyn Operation> = begin();
    assert!(operation.one_shot(DATA, Some(&mut [0; 32])).is_ok() && operation.rest());
    assert!(channel.restart(&user, &mut *operation, &none).unwrap());
    let so = log_in(&channel, hsm::Role::So, b"the SO's PIN");
    refused(channel.restart(&so, &mut *operation, &none), ErrorKind::UserNotLoggedIn);
    refused(channel.begin(&so, Function::Sign, &hmac, Some(&record)).map(drop), ErrorKind::UserNotLoggedIn);
}
