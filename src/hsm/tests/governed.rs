//! Token objects of a domain that three operators govern.

use p384::ecdsa::signature::Signer;
use p384::ecdsa::{Signature, SigningKey};
use p384::pkcs8::{DecodePublicKey, EncodePublicKey};
use zeroize::Zeroizing;

use super::*;
use crate::hsm::governance::{self, OperatorKeys, PartyKind};

const CHEAP: PinCost = PinCost { memory_kib: 1024, passes: 1, lanes: 1 };
const ON: Raw<'_> = Raw::Bytes(&[1]);
const OFF: Raw<'_> = Raw::Bytes(&[0]);

/// An operator, whose keys are made of a number.
pub(super) struct Operator(pub(super) u8);

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

    fn agree(&self, peer: &[u8]) -> Result<Zeroizing<[u8; 48]>> {
        let peer = p384::PublicKey::from_public_key_der(peer).unwrap();
        let shared = self.key(1).diffie_hellman(&peer);
        Ok(Zeroizing::new((*shared.raw_secret_bytes()).into()))
    }
}

pub(super) const OPERATORS: [Operator; 3] = [Operator(1), Operator(2), Operator(3)];

/// An HSM with its domain as a store would keep it.
pub(super) struct Token {
    pub(super) hsm: Hsm,
    pub(super) domain: DomainToken,
    so: PinRecord,
    so_pin: &'static [u8],
    user: Option<PinRecord>,
    pub(super) ticket: Ticket,
}

impl Token {
    /// Governed by its SO, who is logged in; a user has a PIN.
    pub(super) fn new() -> Self {
        let hsm = hsm();
        let found = Command::Found { label: "demo", serial: "00112233445566aa", so_pin: b"so", cost: CHEAP };
        let Ok(Reply::Founded { domain, so_pin }) = hsm.call(&Ticket::public(), found) else { panic!() };
        let mut token = Self { hsm, domain, so: so_pin, so_pin: b"so", user: None, ticket: Ticket::public() };
        token.log_in(Role::So);
        let reply = token.call(Command::InitPin { role: Role::User, pin: b"user", cost: CHEAP }).unwrap();
        token.commit(reply);
        token
    }

    pub(super) fn call(&self, command: Command<'_>) -> Result<Reply> {
        self.hsm.call(&self.ticket, command)
    }

    pub(super) fn log_in(&mut self, role: Role) {
        let (pin, record): (&[u8], _) = match role {
            Role::So => (self.so_pin, &self.so),
            _ => (b"user", self.user.as_ref().unwrap()),
        };
        let login = Command::Login { pin, record, domain: &self.domain, log: Log::default() };
        let Ok(Reply::LoggedIn(ticket)) = self.call(login) else { panic!() };
        self.ticket = ticket;
    }

    /// Keeps and adopts what a change left.
    pub(super) fn commit(&mut self, reply: Reply) {
        let Reply::Changed(change) = reply else { panic!("{reply:?}") };
        for record in &change.pins {
            match record.role {
                Role::So => self.so = record.clone(),
                _ => self.user = Some(record.clone()),
            }
        }
        let log = Log { after: self.domain.version, entries: &change.entries };
        self.domain = change.domain.clone();
        self.call(Command::Adopt { domain: &change.domain, log }).unwrap();
    }

    /// Proposes, has all operators sign, and executes.
    pub(super) fn run(&mut self, request: &serde_json::Value) {
        let command = self.signed(request);
        let reply = self.call(Command::Execute { proposal: &command, keys: &[] }).unwrap();
        self.commit(reply);
    }

    /// A proposal that all operators have signed.
    pub(super) fn signed(&self, request: &serde_json::Value) -> Vec<u8> {
        let Ok(Reply::Bytes(mut command)) = self.call(Command::Propose { request: &request.to_string(), key: None })
        else {
            panic!("{request}")
        };
        for operator in &OPERATORS {
            command = governance::sign(&command, operator).unwrap();
        }
        command
    }

    /// Another process that opens the same files: nobody is logged in.
    pub(super) fn restart(&mut self) {
        self.hsm = hsm();
        self.ticket = Ticket::public();
        self.call(Command::Adopt { domain: &self.domain, log: Log::default() }).unwrap();
    }

    /// Hands the domain over to the operators. The SO is logged in.
    pub(super) fn found(&mut self) {
        self.found_in("eu-north");
    }

    pub(super) fn found_in(&mut self, region: &str) {
        let Ok(Reply::Domain(view)) = self.call(Command::Adopt { domain: &self.domain, log: Log::default() }) else {
            panic!()
        };
        let operators = OPERATORS.iter().map(|operator| {
            let name = format!("operator {}", operator.0);
            let claim = governance::claim(PartyKind::Operator, &name, &view.domain, operator).unwrap();
            serde_json::json!({ "claim": hex::encode(claim), "roles": ["officer", "operator"] })
        });
        let operators: Vec<_> = operators.collect();
        self.run(&serde_json::json!({ "command": "found domain", "region": region, "operators": operators }));
    }

    fn rotate(&mut self) {
        self.run(&serde_json::json!({ "command": "rotate domain key" }));
    }

    fn trust(&mut self, key: &Record, trusted: bool) {
        let object = hex::encode(key.object);
        self.run(&serde_json::json!({ "command": "trust key", "object": object, "trusted": trusted }));
    }

    /// An AES key in the token.
    fn key(&self, more: &[(AttributeType, Raw<'_>)]) -> Record {
        let len = bytes(32);
        let mut template = vec![(ck::CKA_TOKEN, ON), (ck::CKA_VALUE_LEN, Raw::Bytes(&len))];
        template.extend(more.iter().cloned());
        one(self.call(Command::GenerateKey {
            mechanism: &Mechanism::new(ck::CKM_AES_KEY_GEN),
            template: &Template(template),
            place: Place::Token,
        }))
    }

    fn set(&self, record: &Record, kind: AttributeType, value: Raw<'_>) -> Result<Reply> {
        self.call(Command::SetAttributes { record, template: &Template(vec![(kind, value)]) })
    }

    fn trusted(&self, record: &Record) -> bool {
        let Ok(Reply::View(view)) = self.call(Command::View { record }) else { panic!() };
        view.attributes.flag(ck::CKA_TRUSTED)
    }

    fn encrypts(&self, record: &Record) -> Result<[u8; 16]> {
        let mechanism = Mechanism::new(ck::CKM_AES_ECB);
        let mut output = [0; 16];
        let mut operation = self.hsm.begin(&self.ticket, Function::Encrypt, &mechanism, Some(record))?;
        operation.one_shot(&[7; 16], Some(&mut output))?;
        Ok(output)
    }

    fn reseal(&self, record: &Record) -> Result<Option<Record>> {
        match self.call(Command::Reseal { record })? {
            Reply::Done => Ok(None),
            reply => Ok(Some(one(Ok(reply)))),
        }
    }
}

fn one(reply: Result<Reply>) -> Record {
    match reply {
        Ok(Reply::Records(mut records)) if records.len() == 1 => records.remove(0),
        other => panic!("{other:?}"),
    }
}

pub(super) fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn objects_are_sealed_anew_by_any_login_and_seen_by_none() {
    let mut token = Token::new();
    token.log_in(Role::User);
    let private = token.key(&[(ck::CKA_LABEL, Raw::Bytes(b"one"))]);
    // A public object with a secret inside.
    let public = token.key(&[(ck::CKA_PRIVATE, OFF)]);
    let class = bytes(ck::CKO_DATA);
    let data = Template(vec![
        (ck::CKA_CLASS, Raw::Bytes(&class)),
        (ck::CKA_TOKEN, ON),
        (ck::CKA_PRIVATE, OFF),
        (ck::CKA_VALUE, Raw::Bytes(b"data")),
    ]);
    let data = one(token.call(Command::Create { template: &data, place: Place::Token }));
    let records = [&private, &public, &data];
    let values = [token.encrypts(&private).unwrap(), token.encrypts(&public).unwrap()];
    assert!(records.iter().all(|record| token.reseal(record).unwrap().is_none()));

    token.log_in(Role::So);
    token.found();
    token.rotate();
    let anew = records.map(|record| token.reseal(record).unwrap().unwrap());
    let active = token.key(&[(ck::CKA_PRIVATE, OFF)]).sealed.domain_key();
    for (old, new) in records.iter().zip(&anew) {
        assert_eq!((new.object, new.generation, &new.columns), (old.object, 2, &old.columns));
        assert_eq!(new.sealed.domain_key(), active);
        assert_ne!(old.sealed.domain_key(), active);
        assert!(token.reseal(new).unwrap().is_none());
    }
    assert_eq!(kind(token.call(Command::View { record: &anew[0] })), Some(ErrorKind::UserNotLoggedIn));
    assert_eq!(kind(token.encrypts(&anew[0])), Some(ErrorKind::UserNotLoggedIn));

    token.log_in(Role::User);
    for (n, value) in values.iter().enumerate() {
        assert_eq!(token.encrypts(&anew[n]).unwrap(), *value);
        assert_eq!(token.encrypts(records[n]).unwrap(), *value);
        // In use, too: the opened key goes on as the new record.
        let again = token.reseal(records[n]).unwrap().unwrap();
        assert_eq!(token.encrypts(&again).unwrap(), *value);
    }
    let Ok(Reply::View(view)) = token.call(Command::View { record: &anew[2] }) else { panic!() };
    assert_eq!(view.attributes.bytes(ck::CKA_VALUE), Some(&b"data"[..]));

    // What does not verify does not get a fresh seal.
    for record in records {
        let mut altered = record.sealed.as_bytes().to_vec();
        *altered.last_mut().unwrap() ^= 1;
        let altered = Record { sealed: Sealed::new(altered), ..record.clone() };
        let other_generation = Record { generation: 2, ..record.clone() };
        let renamed = Columns { label: Some(b"two".to_vec()), ..record.columns.clone() };
        let renamed = Record { columns: renamed, ..record.clone() };
        let moved = Record { object: private.object.map(|byte| byte ^ 1), ..record.clone() };
        for forged in [altered, other_generation, renamed, moved] {
            assert_eq!(kind(token.reseal(&forged)), Some(ErrorKind::DeviceError));
        }
    }
    assert!(token.reseal(&aes_key(&token.hsm, &[]).unwrap()).unwrap().is_none());
    token.call(Command::Logout).unwrap();
    assert_eq!(kind(token.reseal(&private)), Some(ErrorKind::UserNotLoggedIn));
}

#[test]
fn a_retired_or_revoked_record_does_not_come_back_by_a_fresh_seal() {
    let mut token = Token::new();
    token.log_in(Role::User);
    let (first, second) = (token.key(&[]), token.key(&[]));
    token.log_in(Role::So);
    token.found();
    let object = hex::encode(first.object);
    token.run(&serde_json::json!({ "command": "revoke key", "object": object, "generation": 2 }));
    assert_eq!(kind(token.reseal(&first)), Some(ErrorKind::DeviceError));
    // The key that the founding made is rotated out and ends at once; the first one stays.
    let third = token.key(&[(ck::CKA_PRIVATE, OFF)]);
    let sealed_under = hex::encode(third.sealed.domain_key().unwrap());
    token.rotate();
    let now = crate::hsm::domain::Circumstances::of_system().now;
    token.run(&serde_json::json!({ "command": "schedule retirement", "key": sealed_under, "at": now + 1 }));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(kind(token.reseal(&third)), Some(ErrorKind::DeviceError));
    assert!(token.reseal(&second).unwrap().is_some());
}

#[test]
fn operators_say_which_keys_are_trusted() {
    let mut token = Token::new();
    token.log_in(Role::User);
    let wrapper = token.key(&[(ck::CKA_WRAP, ON), (ck::CKA_PRIVATE, OFF)]);
    let secret = token.key(&[(ck::CKA_EXTRACTABLE, ON), (ck::CKA_WRAP_WITH_TRUSTED, ON)]);
    // Before the founding, as PKCS#11 has it: the SO.
    assert_eq!(kind(token.set(&wrapper, ck::CKA_TRUSTED, ON)), Some(ErrorKind::AttributeReadOnly));
    token.log_in(Role::So);
    let wrapper = one(token.set(&wrapper, ck::CKA_TRUSTED, ON));
    token.log_in(Role::User);
    let wrap = |token: &Token, wrapping: &Record| {
        let mechanism = Mechanism::new(ck::CKM_AES_KEY_WRAP);
        token.call(Command::Wrap { mechanism: &mechanism, wrapping, key: &secret, room: 1024 })
    };
    assert!(token.trusted(&wrapper) && wrap(&token, &wrapper).is_ok());
    let copy = |token: &Token, more: &[(AttributeType, Raw<'_>)]| {
        let template = Template(more.to_vec());
        token.call(Command::Copy { source: &wrapper, template: &template, place: Place::Token })
    };
    assert!(!token.trusted(&one(copy(&token, &[]))));
    assert_eq!(kind(copy(&token, &[(ck::CKA_TRUSTED, ON)])), Some(ErrorKind::TemplateInconsistent));

    // From the founding on the record's word counts for nothing.
    token.log_in(Role::So);
    assert!(token.trusted(&wrapper));
    token.found();
    assert!(!token.trusted(&wrapper));
    token.log_in(Role::User);
    assert_eq!(kind(wrap(&token, &wrapper)), Some(ErrorKind::KeyNotWrappable));
    token.trust(&wrapper, true);
    assert!(token.trusted(&wrapper) && wrap(&token, &wrapper).is_ok());
    assert_eq!(kind(copy(&token, &[(ck::CKA_TRUSTED, ON)])), Some(ErrorKind::AttributeReadOnly));
    let copied = one(copy(&token, &[]));
    assert!(!token.trusted(&copied));
    assert_eq!(kind(wrap(&token, &copied)), Some(ErrorKind::KeyNotWrappable));
    // A change of the key, and a fresh seal, keep it trusted.
    let renamed = one(token.set(&wrapper, ck::CKA_LABEL, Raw::Bytes(b"renamed")));
    assert!(token.trusted(&renamed) && wrap(&token, &renamed).is_ok());
    token.rotate();
    let wrapper = token.reseal(&renamed).unwrap().unwrap();
    assert!(token.trusted(&wrapper) && wrap(&token, &wrapper).is_ok());
    // At once, also for a key that is open.
    token.trust(&wrapper, false);
    assert!(!token.trusted(&wrapper));
    assert_eq!(kind(wrap(&token, &wrapper)), Some(ErrorKind::KeyNotWrappable));

    token.log_in(Role::So);
    for value in [ON, OFF] {
        assert_eq!(kind(token.set(&wrapper, ck::CKA_TRUSTED, value)), Some(ErrorKind::AttributeReadOnly));
    }
    let (class, aes) = (bytes(ck::CKO_SECRET_KEY), bytes(ck::CKK_AES));
    let create = |place, in_token| {
        let template = Template(vec![
            (ck::CKA_CLASS, Raw::Bytes(&class)),
            (ck::CKA_KEY_TYPE, Raw::Bytes(&aes)),
            (ck::CKA_VALUE, Raw::Bytes(&[1; 16])),
            (ck::CKA_PRIVATE, OFF),
            (ck::CKA_TOKEN, in_token),
            (ck::CKA_TRUSTED, ON),
        ]);
        token.call(Command::Create { template: &template, place })
    };
    for (place, in_token) in [(Place::Token, ON), (Place::Session, OFF)] {
        assert_eq!(kind(create(place, in_token)), Some(ErrorKind::AttributeReadOnly));
    }
}

/// Every PIN is lost. What is needed is the store's bytes, the operators, and no process that was there before.
#[test]
fn a_token_comes_back_when_all_pins_are_lost() {
    let mut token = Token::new();
    token.log_in(Role::User);
    let key = token.key(&[]);
    let value = token.encrypts(&key).unwrap();
    token.log_in(Role::So);
    token.found();
    let begin = |token: &Token| token.call(Command::BeginRecovery { pin: b"new", cost: CHEAP });
    assert_eq!(kind(begin(&token)), Some(ErrorKind::FunctionRejected));
    token.run(&serde_json::json!({ "command": "make recovery set", "threshold": 2 }));
    token.rotate();
    let (so_before, user_before) = (token.so.clone(), token.user.clone().unwrap());

    token.restart();
    let Ok(Reply::Recovering { claim, sealed }) = begin(&token) else { panic!() };
    token.restart();
    let command = token.signed(&serde_json::json!({ "command": "recover domain", "hsm": hex::encode(&claim) }));
    let shares: Vec<_> = OPERATORS[1..]
        .iter()
        .map(|operator| governance::contribute(&token.domain.bytes, None, &command, operator).unwrap())
        .collect();
    let finish = |token: &Token, pin: &[u8], shares: &[&[u8]]| {
        let (sealed, command) = (&sealed[..], &command[..]);
        token.call(Command::FinishRecovery { pin, cost: CHEAP, sealed, command, contributions: shares })
    };
    let shares: Vec<&[u8]> = shares.iter().map(Vec::as_slice).collect();
    assert_eq!(kind(finish(&token, b"new", &shares[..1])), Some(ErrorKind::FunctionRejected));
    assert_eq!(kind(finish(&token, b"so", &shares)), Some(ErrorKind::PinIncorrect));
    // The recovery is no command that a login executes.
    assert_eq!(kind(token.call(Command::Execute { proposal: &command, keys: &[] })), Some(ErrorKind::UserNotLoggedIn));

    let Ok(Reply::Changed(change)) = finish(&token, b"new", &shares) else { panic!() };
    assert_eq!((change.base(), change.entries.len()), (Some(token.domain.version), 2));
    assert_eq!(change.removed, [Role::User]);
    token.commit(Reply::Changed(change));
    token.so_pin = b"new";
    token.log_in(Role::So);
    assert!(token.reseal(&key).unwrap().is_some());
    let log_in = |token: &Token, pin: &[u8], record: &PinRecord| {
        kind(token.call(Command::Login { pin, record, domain: &token.domain, log: Log::default() }))
    };
    assert_eq!(log_in(&token, b"so", &so_before), Some(ErrorKind::TokenNotRecognized));
    assert_eq!(log_in(&token, b"user", &user_before), Some(ErrorKind::UserPinNotInitialized));

    // The user's PIN is set again by the operators' leave, and his key is there.
    token.log_in(Role::So);
    let set = Command::InitPin { role: Role::User, pin: b"user", cost: CHEAP };
    assert_eq!(kind(token.call(set)), Some(ErrorKind::TokenWriteProtected));
    token.run(&serde_json::json!({ "command": "reset PIN", "role": "user" }));
    let reply = token.call(Command::InitPin { role: Role::User, pin: b"user", cost: CHEAP }).unwrap();
    token.commit(reply);
    token.log_in(Role::User);
    assert_eq!(token.encrypts(&key).unwrap(), value);
}
