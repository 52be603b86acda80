//! HSMs of a fleet, over the bytes of their connections: provisioned, founded, admitted, used by two
//! processes of a host, and gone.

use std::sync::Arc;

use cryptoki_sys as ck;
use p384::ecdsa::signature::Signer;
use p384::ecdsa::{Signature, SigningKey};
use p384::pkcs8::EncodePublicKey;
use sha2::{Digest, Sha384};
use zeroize::Zeroizing;

use super::super::governance::{self, OperatorKeys, PartyKind};
use super::super::session::{self, Code, Follower, HostKey, Link, Process, Session};
use super::super::wire::{self, Callbacks, RequestHeader, Room};
use super::super::{
    Command, DomainChange, DomainToken, Function, Log, Mechanism, PinCost, PinRecord, Place, Raw, Record, Reply, Role,
    Settings, Template, Ticket, Wiped,
};
use super::{Connection, Member, Then};
use crate::error::{ErrorKind, Result};

const CHEAP: PinCost = PinCost { memory_kib: 1024, passes: 1, lanes: 1 };

const CODE: &str = "an enrolment code";

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

/// What the store of a Region has.
struct Store {
    origin: DomainToken,
    newest: DomainToken,
    log: Vec<Vec<u8>>,
    pins: Vec<PinRecord>,
}

impl Store {
    fn commit(&mut self, reply: Reply) {
        let Reply::Changed(DomainChange { domain, entries, pins, .. }) = reply else { panic!("{reply:?}") };
        self.newest = domain;
        self.log.extend(entries);
        for pin in pins {
            self.pins.retain(|other| other.role != pin.role);
            self.pins.push(pin);
        }
    }

    fn bring(&self, hsm: &Arc<Member>) -> Option<Code> {
        let entries = self.log.iter().map(Vec::as_slice).collect();
        let (origin, newest) = (&self.origin.bytes[..], &self.newest.bytes[..]);
        let frame = session::Request::Bring { origin, newest, after: self.origin.version, entries }.to_wire().unwrap();
        hsm.clear(&frame[4..], false).refused.map(|refused| refused.code)
    }

    fn follower(&self, fingerprint: &[u8; 48]) -> Follower {
        session::replay(&self.origin.bytes, &self.newest.bytes, &self.log, fingerprint).unwrap()
    }

    fn pin(&self, role: &Role) -> &PinRecord {
        self.pins.iter().find(|pin| pin.role == *role).unwrap()
    }
}

/// One end of a connection.
struct Wire {
    connection: Box<Connection>,
    state: (u64, [u8; 48]),
}

impl Wire {
    fn admin(hsm: &Arc<Member>) -> Self {
        let frame = session::Request::Admin.to_wire().unwrap();
        let Then::Admin(connection) = hsm.clear(&frame[4..], true).then else { panic!() };
        Self { connection, state: (0, [0; 48]) }
    }

    fn send<T>(&mut self, ticket: &Ticket, request: &wire::Request<'_>, take: impl FnOnce(wire::Answer<'_>) -> T) -> T {
        let (version, hash) = self.state;
        let header = RequestHeader { version, hash, stamp: 0, heard: 0, ticket: ticket.clone() };
        let mut message = Wiped::default();
        wire::encode_request(&header, request, &mut message).unwrap();
        let answer = self.connection.request(&message, &mut NoCallbacks);
        assert!(!answer.close);
        let room = Room::default();
        let (_, answer) = wire::decode_reply(&answer.message, &room).unwrap();
        take(answer)
    }

    fn call(&mut self, ticket: &Ticket, command: Command<'_>) -> Result<Reply> {
        self.send(ticket, &wire::Request::Call(command), |answer| match answer {
            wire::Answer::Reply(reply) => Ok(reply),
            wire::Answer::Error(error) => Err(error),
            other => panic!("{other:?}"),
        })
    }

    /// Proposes, has all operators sign, and executes.
    fn run(&mut self, store: &mut Store, request: &serde_json::Value) {
        let nobody = Ticket::public();
        let propose = Command::Propose { request: &request.to_string(), key: None };
        let Ok(Reply::Bytes(mut command)) = self.call(&nobody, propose) else { panic!("{request}") };
        for operator in &OPERATORS {
            command = governance::sign(&command, operator).unwrap();
        }
        store.commit(self.call(&nobody, Command::Execute { proposal: &command, keys: &[] }).unwrap());
    }
}

/// A domain with one host, one user and its first HSM.
struct Fleet {
    store: Store,
    first: Arc<Member>,
    fingerprint: [u8; 48],
    host: HostKey,
}

fn fleet() -> Fleet {
    let first = Arc::new(Member::new(Settings::default(), "one", None).unwrap());
    let mut admin = Wire::admin(&first);
    let nobody = Ticket::public();
    let found = Command::Found { label: "fleet", serial: "", so_pin: b"", cost: CHEAP };
    let view = first.admin.view(&first.core, first.settings, &nobody).unwrap();
    let Ok(Reply::Founded { domain, .. }) = view.call(&nobody, found) else { panic!() };
    let mut store = Store { origin: domain.clone(), newest: domain, log: Vec::new(), pins: Vec::new() };
    let id = first.status().unwrap().domain.unwrap();
    let operators: Vec<_> = OPERATORS
        .iter()
        .map(|operator| {
            let name = format!("operator {}", operator.0);
            let claim = governance::claim(PartyKind::Operator, &name, &id, operator).unwrap();
            serde_json::json!({ "claim": hex::encode(claim), "roles": ["officer", "operator"] })
        })
        .collect();
    let host = HostKey::generate().unwrap();
    let claim = hex::encode(host.claim("web", &id).unwrap());
    let commands = [
        serde_json::json!({ "command": "found domain", "region": "eu-1", "operators": operators }),
        serde_json::json!({ "command": "admit host", "host": claim }),
        serde_json::json!({ "command": "create user", "role": "user", "code": CODE }),
    ];
    for command in &commands {
        admin.run(&mut store, command);
        assert_eq!(store.bring(&first), None);
    }
    let set = Command::SetEnrolledPin { role: Role::User, code: Some(CODE.as_bytes()), pin: b"user pin", cost: CHEAP };
    store.commit(admin.call(&nobody, set).unwrap());
    assert_eq!(store.bring(&first), None);
    let fingerprint = first.status().unwrap().hash.unwrap();
    Fleet { store, first, fingerprint, host }
}

impl Fleet {
    fn negotiate(&self, process: &Process, hsm: &Arc<Member>) -> (Follower, Session) {
        let follower = self.store.follower(&self.fingerprint);
        let id = hsm.id().unwrap();
        let (negotiation, message) = session::negotiate(&self.host, process, &follower, &id, 600).unwrap();
        let answer = hsm.clear(&message[4..], false);
        assert_eq!(answer.refused, None);
        let session = negotiation.finish(&follower, &answer.bytes[4..]).unwrap();
        (follower, session)
    }

    /// A connection to any HSM with a session.
    fn connect(
        &self,
        process: &Process,
        (follower, session): &(Follower, Session),
        hsm: &Arc<Member>,
    ) -> (Wire, Box<Link>) {
        let (connecting, message) = session.connect(follower, &hsm.id().unwrap()).unwrap();
        let answer = hsm.clear(&message[4..], false);
        let Then::Linked(mut connection, mut link) = answer.then else { panic!("{:?}", answer.refused) };
        let (_, hello) = connecting.finish(session, process, follower, &answer.bytes[4..]).unwrap();
        let mut secret = Wiped::default();
        assert!(link.open(&hello[4..], &mut secret).unwrap());
        let welcome = connection.request(&secret, &mut NoCallbacks);
        assert_eq!((&welcome.message[..], welcome.close), (&[0][..], false));
        (Wire { connection, state: (follower.version(), *follower.hash()) }, link)
    }

    /// Admits one more HSM, which recognises the domain by the fingerprint.
    fn grow(&mut self) -> Arc<Member> {
        let hsm = Arc::new(Member::new(Settings::default(), "another", Some(self.fingerprint)).unwrap());
        assert_eq!(self.store.bring(&hsm), None);
        assert_eq!(hsm.standing(), (false, Some(self.store.newest.version)));
        let claim = Command::BeginRecovery { pin: b"", cost: CHEAP };
        let Ok(Reply::Recovering { claim, .. }) = Wire::admin(&hsm).call(&Ticket::public(), claim) else { panic!() };
        let admit = serde_json::json!({ "command": "admit HSM", "hsm": hex::encode(claim) });
        Wire::admin(&self.first).run(&mut self.store, &admit);
        assert_eq!(self.store.bring(&self.first), None);
        assert_eq!(self.store.bring(&hsm), None);
        assert!(hsm.standing().0);
        hsm
    }
}

fn log_in(store: &Store, wire: &mut Wire, pin: &[u8]) -> Result<Ticket> {
    let login = Command::Login { pin, record: store.pin(&Role::User), domain: &store.newest, log: Log::default() };
    wire.call(&Ticket::public(), login).map(|reply| match reply {
        Reply::LoggedIn(ticket) => ticket,
        other => panic!("{other:?}"),
    })
}

fn key(wire: &mut Wire, ticket: &Ticket, place: Place) -> Result<Record> {
    let (on, len) = ([u8::from(place == Place::Token)], 32u64.to_ne_bytes());
    let template = Template(vec![(ck::CKA_TOKEN, Raw::Bytes(&on)), (ck::CKA_VALUE_LEN, Raw::Bytes(&len))]);
    let mechanism = Mechanism::new(ck::CKM_AES_KEY_GEN);
    let generate = Command::GenerateKey { mechanism: &mechanism, template: &template, place };
    wire.call(ticket, generate).map(|reply| match reply {
        Reply::Records(mut records) if records.len() == 1 => records.remove(0),
        other => panic!("{other:?}"),
    })
}

fn encrypt(wire: &mut Wire, ticket: &Ticket, record: &Record) -> Result<Vec<u8>> {
    let mechanism = Mechanism::new(ck::CKM_AES_ECB);
    let record = Some(record);
    let (function, input) = (Function::Encrypt, &[7; 16][..]);
    let request = wire::Request::OneShot { function, mechanism: &mechanism, record, input, room: Some(16) };
    wire.send(ticket, &request, |answer| match answer {
        wire::Answer::Written(output) => Ok(output.to_vec()),
        wire::Answer::Error(error) => Err(error),
        other => panic!("{other:?}"),
    })
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn any_member_serves_a_login_and_its_keys() {
    let mut fleet = fleet();
    let second = fleet.grow();
    let process = Process::new().unwrap();
    let session = fleet.negotiate(&process, &fleet.first);
    let (mut one, _) = fleet.connect(&process, &session, &fleet.first);
    let (mut two, _) = fleet.connect(&process, &session, &second);
    let nobody = Ticket::public();
    assert_eq!(kind(key(&mut one, &nobody, Place::Token)), Some(ErrorKind::UserNotLoggedIn));
    assert_eq!(kind(log_in(&fleet.store, &mut one, b"wrong")), Some(ErrorKind::PinIncorrect));

    let ticket = log_in(&fleet.store, &mut one, b"user pin").unwrap();
    let records = [key(&mut one, &ticket, Place::Token).unwrap(), key(&mut one, &ticket, Place::Session).unwrap()];
    for record in &records {
        let here = encrypt(&mut one, &ticket, record).unwrap();
        assert_eq!(encrypt(&mut two, &ticket, record).unwrap(), here);
        assert_eq!(kind(encrypt(&mut two, &nobody, record)), Some(ErrorKind::UserNotLoggedIn));
    }

    // Another process of the host has neither the login nor the session objects, in the same HSM's cache or not.
    let other = Process::new().unwrap();
    let theirs = fleet.negotiate(&other, &second);
    let (mut stranger, _) = fleet.connect(&other, &theirs, &second);
    assert_eq!(kind(encrypt(&mut stranger, &ticket, &records[0])), Some(ErrorKind::UserNotLoggedIn));
    let own = log_in(&fleet.store, &mut stranger, b"user pin").unwrap();
    assert!(encrypt(&mut stranger, &own, &records[0]).is_ok());
    assert_eq!(kind(encrypt(&mut stranger, &own, &records[1])), Some(ErrorKind::DeviceError));

    one.call(&ticket, Command::Logout).unwrap();
}

#[test]
fn a_rotation_ends_connections_and_keeps_logins_where_they_are_known() {
    let mut fleet = fleet();
    let second = fleet.grow();
    let process = Process::new().unwrap();
    let session = fleet.negotiate(&process, &fleet.first);
    let (mut one, _) = fleet.connect(&process, &session, &fleet.first);
    let ticket = log_in(&fleet.store, &mut one, b"user pin").unwrap();
    let record = key(&mut one, &ticket, Place::Session).unwrap();
    let unused = log_in(&fleet.store, &mut one, b"user pin").unwrap();
    Wire::admin(&fleet.first).run(&mut fleet.store, &serde_json::json!({ "command": "rotate domain key" }));
    assert_eq!(fleet.store.bring(&fleet.first), None);
    assert_eq!(fleet.store.bring(&second), None);

    let answer = one.connection.request(&[], &mut NoCallbacks);
    assert!(answer.close && answer.message.is_empty());
    let (connecting, message) = session.1.connect(&session.0, &second.id().unwrap()).unwrap();
    drop(connecting);
    assert_eq!(second.clear(&message[4..], false).refused.map(|refused| refused.code), Some(Code::Expired));

    let session = fleet.negotiate(&process, &second);
    let (mut one, _) = fleet.connect(&process, &session, &fleet.first);
    let (mut two, _) = fleet.connect(&process, &session, &second);
    assert_eq!(kind(encrypt(&mut one, &ticket, &record)), Some(ErrorKind::UserNotLoggedIn));
    let pin = fleet.store.pin(&Role::User).clone();
    let renew = |wire: &mut Wire, ticket: &Ticket| {
        wire.send(ticket, &wire::Request::RenewTicket { record: &pin }, |answer| match answer {
            wire::Answer::Reply(Reply::LoggedIn(ticket)) => Ok(ticket),
            wire::Answer::Error(error) => Err(error),
            other => panic!("{other:?}"),
        })
    };
    for ticket in [&ticket, &unused] {
        assert_eq!(kind(renew(&mut two, ticket)), Some(ErrorKind::UserNotLoggedIn));
        let renewed = renew(&mut one, ticket).unwrap();
        assert_eq!(encrypt(&mut two, &renewed, &record).unwrap(), encrypt(&mut one, &renewed, &record).unwrap());
    }
}

#[test]
fn who_is_expelled_is_served_no_more() {
    let mut fleet = fleet();
    let second = fleet.grow();
    let process = Process::new().unwrap();
    let session = fleet.negotiate(&process, &fleet.first);
    let (mut one, _) = fleet.connect(&process, &session, &fleet.first);
    let host = fleet.store.follower(&fleet.fingerprint).host(&fleet.host.kid()).unwrap();
    let expel = serde_json::json!({ "command": "expel HSM", "id": hex::encode(second.id().unwrap()) });
    Wire::admin(&fleet.first).run(&mut fleet.store, &expel);
    assert_eq!(fleet.store.bring(&second), None);
    assert!(!second.standing().0);
    assert_eq!(fleet.store.bring(&fleet.first), None);
    let expel = serde_json::json!({ "command": "expel host", "id": hex::encode(host) });
    Wire::admin(&fleet.first).run(&mut fleet.store, &expel);
    assert_eq!(fleet.store.bring(&fleet.first), None);
    assert!(one.connection.request(&[], &mut NoCallbacks).close);
    let (_, message) = session::negotiate(&fleet.host, &process, &session.0, &fleet.first.id().unwrap(), 600).unwrap();
    let refused = fleet.first.clear(&message[4..], false).refused.unwrap();
    assert_eq!(refused.code, Code::Refused);
}

fn set_pin(wire: &mut Wire, role: &Role, code: &str, cost: PinCost) -> Result<Reply> {
    let code = Some(code.as_bytes());
    wire.call(&Ticket::public(), Command::SetEnrolledPin { role: role.clone(), code, pin: b"user pin", cost })
}

#[test]
fn an_enrolment_code_is_not_guessed() {
    let mut fleet = fleet();
    let mut admin = Wire::admin(&fleet.first);
    let short = serde_json::json!({ "command": "reset PIN", "role": "user", "code": "fifteen letters" }).to_string();
    let refused = admin.call(&Ticket::public(), Command::Propose { request: &short, key: None }).unwrap_err();
    assert!(refused.to_string().contains("16 characters"), "{refused}");
    // A hash alone does not show that its code is short.
    let mut short = b"\x83\x69enrolment\x50".to_vec();
    short.extend_from_slice(&fleet.first.status().unwrap().domain.unwrap());
    short.extend_from_slice(b"\x45short");
    for (code, hash) in [("short", hex::encode(Sha384::digest(&short))), (CODE, String::new())] {
        let reset = match &hash[..] {
            "" => serde_json::json!({ "command": "reset PIN", "role": "user", "code": code }),
            _ => serde_json::json!({ "command": "reset PIN", "role": "user", "code_hash": hash }),
        };
        admin.run(&mut fleet.store, &reset);
        assert_eq!(fleet.store.bring(&fleet.first), None);
        let right = set_pin(&mut admin, &Role::User, code, CHEAP);
        assert_eq!(kind(right), (code != CODE).then_some(ErrorKind::FunctionRejected));
    }
    admin.run(&mut fleet.store, &serde_json::json!({ "command": "reset PIN", "role": "user", "code": CODE }));
    assert_eq!(fleet.store.bring(&fleet.first), None);
    let wrong = |wire: &mut Wire| kind(set_pin(wire, &Role::User, "another code, a wrong one", CHEAP));
    (0..10).for_each(|_| assert_eq!(wrong(&mut admin), Some(ErrorKind::FunctionRejected)));
    assert_eq!(wrong(&mut admin), Some(ErrorKind::PinLocked));
    assert_eq!(kind(set_pin(&mut admin, &Role::User, CODE, CHEAP)), Some(ErrorKind::PinLocked));
    admin.run(&mut fleet.store, &serde_json::json!({ "command": "reset PIN", "role": "user", "code": CODE }));
    assert_eq!(fleet.store.bring(&fleet.first), None);
    set_pin(&mut admin, &Role::User, CODE, CHEAP).unwrap();
}

#[test]
fn what_a_pin_hash_costs_is_not_the_host_s_word() {
    let fleet = fleet();
    let process = Process::new().unwrap();
    let session = fleet.negotiate(&process, &fleet.first);
    let (mut wire, _) = fleet.connect(&process, &session, &fleet.first);
    let dear = PinCost { memory_kib: 1024 * 1024, passes: 1, lanes: 1 };
    let record = fleet.store.pin(&Role::User).clone();
    let (old, new, log) = (&b"user pin"[..], &b"another"[..], Log::default());
    let set = Command::SetPin { old, new, record: &record, cost: dear, domain: &fleet.store.newest, log };
    assert_eq!(kind(wire.call(&Ticket::public(), set)), Some(ErrorKind::DeviceMemory));
    assert_eq!(kind(set_pin(&mut wire, &Role::User, CODE, dear)), Some(ErrorKind::DeviceMemory));

    // A record that says so is no attempt at its PIN, and is not hashed.
    let at = record.sealed.windows(6).position(|bytes| bytes == [0x83, 0x19, 4, 0, 1, 1]).unwrap();
    let mut forged = record.clone();
    forged.sealed[at..at + 6].copy_from_slice(&[0x83, 0x19, 0xff, 0xff, 0x17, 1]);
    for _ in 0..11 {
        let (record, domain) = (&forged, &fleet.store.newest);
        let login = Command::Login { pin: b"user pin", record, domain, log: Log::default() };
        assert_eq!(kind(wire.call(&Ticket::public(), login)), Some(ErrorKind::DeviceMemory));
    }
    assert!(log_in(&fleet.store, &mut wire, b"user pin").is_ok());
}

#[test]
fn an_operation_with_a_private_object_is_its_user_s() {
    let mut fleet = fleet();
    let so = serde_json::json!({ "command": "create user", "role": "SO", "code": CODE });
    let mut admin = Wire::admin(&fleet.first);
    admin.run(&mut fleet.store, &so);
    assert_eq!(fleet.store.bring(&fleet.first), None);
    fleet.store.commit(set_pin(&mut admin, &Role::So, CODE, CHEAP).unwrap());
    assert_eq!(fleet.store.bring(&fleet.first), None);

    let process = Process::new().unwrap();
    let session = fleet.negotiate(&process, &fleet.first);
    let (mut wire, _) = fleet.connect(&process, &session, &fleet.first);
    let user = log_in(&fleet.store, &mut wire, b"user pin").unwrap();
    let record = fleet.store.pin(&Role::So);
    let login = Command::Login { pin: b"user pin", record, domain: &fleet.store.newest, log: Log::default() };
    let Ok(Reply::LoggedIn(so)) = wire.call(&Ticket::public(), login) else { panic!() };

    let record = key(&mut wire, &user, Place::Token).unwrap();
    let mechanism = Mechanism::new(ck::CKM_AES_ECB);
    let begin = wire::Request::Begin { function: Function::Encrypt, mechanism: &mechanism, record: Some(&record) };
    let begin = |wire: &mut Wire, ticket: &Ticket| {
        wire.send(ticket, &begin, |answer| match answer {
            wire::Answer::Stream { stream, private: true } => Ok(stream),
            wire::Answer::Error(error) => Err(error),
            other => panic!("{other:?}"),
        })
    };
    let stream = begin(&mut wire, &user).unwrap();
    let update = wire::Request::Update { stream, input: &[7; 16], room: Some(16) };
    let mut go_on = |ticket: &Ticket, request: &wire::Request<'_>| {
        wire.send(ticket, request, |answer| match answer {
            wire::Answer::Written(output) => Ok(output.len()),
            wire::Answer::Error(error) => Err(error),
            other => panic!("{other:?}"),
        })
    };
    for other in [&so, &Ticket::public()] {
        assert_eq!(kind(go_on(other, &update)), Some(ErrorKind::UserNotLoggedIn));
        assert_eq!(kind(go_on(other, &wire::Request::Save { stream })), Some(ErrorKind::UserNotLoggedIn));
    }
    assert_eq!(go_on(&user, &update).unwrap(), 16);
}
