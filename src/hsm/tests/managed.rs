//! Managed keys through the command set, with their records as a store would keep them.

mod life;
mod regions;
mod standard;

use std::collections::BTreeMap;

pub(super) use life::wrapped;
use serde_json::{Value as Json, json};

use super::*;

const CHEAP: PinCost = PinCost { memory_kib: 1024, passes: 1, lanes: 1 };

/// An HSM with a domain and the records of its token.
struct Token {
    hsm: Hsm,
    domain: DomainToken,
    pins: Vec<PinRecord>,
    ticket: Ticket,
    records: BTreeMap<ObjectId, Record>,
}

fn alice() -> Role {
    Role::Named("alice".to_owned())
}

impl Token {
    /// With a user and alice; the user is logged in.
    fn new() -> Self {
        let hsm = hsm();
        let found = Command::Found { label: "demo", serial: "00112233445566aa", so_pin: b"a PIN", cost: CHEAP };
        let Ok(Reply::Founded { domain, so_pin }) = hsm.call(&Ticket::public(), found) else { panic!() };
        let (ticket, records) = (Ticket::public(), BTreeMap::new());
        let mut token = Self { hsm, domain, pins: vec![so_pin], ticket, records };
        token.log_in(&Role::So);
        for role in [Role::User, alice()] {
            let Ok(Reply::Changed(change)) = token.call(Command::InitPin { role, pin: b"a PIN", cost: CHEAP }) else {
                panic!()
            };
            token.pins.extend(change.pins);
            token.domain = change.domain;
            token.call(Command::Adopt { domain: &token.domain, log: Log::default() }).unwrap();
        }
        token.log_in(&Role::User);
        token
    }

    fn log_in(&mut self, role: &Role) {
        let record = self.pins.iter().find(|record| record.role == *role).unwrap();
        let login = Command::Login { pin: b"a PIN", record, domain: &self.domain, log: Log::default() };
        let Ok(Reply::LoggedIn(ticket)) = self.hsm.call(&self.ticket, login) else { panic!() };
        self.ticket = ticket;
    }

    fn call(&self, command: Command<'_>) -> Result<Reply> {
        self.hsm.call(&self.ticket, command)
    }

    fn commit(&mut self, change: ObjectChange) {
        for record in change.insert {
            assert_eq!(record.generation, 1);
            assert!(self.records.insert(record.object, record).is_none());
        }
        for record in change.replace {
            let old = self.records.insert(record.object, record.clone()).unwrap();
            assert_eq!(old.generation + 1, record.generation);
        }
        for (object, generation) in change.delete {
            assert_eq!(self.records.remove(&object).unwrap().generation, generation);
        }
        for object in change.purge {
            assert!(self.records.remove(&object).is_some());
        }
    }

    /// The object ids of a key's halves.
    fn key(&self, id: &str) -> (ObjectId, Option<ObjectId>) {
        let tag = self.call(Command::IndexTag { column: IndexColumn::Id, value: id.as_bytes() }).unwrap();
        let Reply::Bytes(tag) = tag else { panic!() };
        let found = |public| {
            let mut all = self.records.values();
            let is = |class| (class == ck::CKO_PUBLIC_KEY) == public;
            all.find(|record| {
                record.columns.managed && record.columns.id.as_ref() == Some(&tag) && is(record.columns.class)
            })
            .map(|record| record.object)
        };
        (found(false).unwrap(), found(true))
    }

    fn keys(&self, id: &str) -> KeyRecords<'_> {
        let (key, public) = self.key(id);
        KeyRecords { key: &self.records[&key], public: public.map(|public| &self.records[&public]) }
    }

    fn record(&self, id: &str) -> &Record {
        self.keys(id).key
    }

    fn alias(&self, name: &str) -> Option<&Record> {
        let tag = self.call(Command::IndexTag { column: IndexColumn::Alias, value: name.as_bytes() }).unwrap();
        let Reply::Bytes(tag) = tag else { panic!() };
        self.records.get(&ObjectId::try_from(tag).unwrap())
    }

    fn ask(&self, action: Manage, id: Option<&str>, request: &str, dry_run: bool) -> Result<(ObjectChange, String)> {
        let keys = id.map(|id| self.keys(id));
        match self.call(Command::Manage { action, keys, alias: None, target: None, request, dry_run })? {
            Reply::Managed { change, told } => Ok((change, told)),
            other => panic!("{other:?}"),
        }
    }

    /// Asks and commits.
    fn manage(&mut self, action: Manage, id: &str, request: &str) -> Result<String> {
        let (change, told) = self.ask(action, Some(id), request, false)?;
        self.commit(change);
        Ok(told)
    }

    fn create(&mut self, request: &str) -> String {
        let (change, id) = self.ask(Manage::CreateKey, None, request, false).unwrap();
        self.commit(change);
        id
    }

    fn describe(&self, id: &str) -> Json {
        let (change, told) = self.ask(Manage::DescribeKey, Some(id), "{}", false).unwrap();
        assert_eq!(change, ObjectChange::default());
        serde_json::from_str(&told).unwrap()
    }

    fn encrypt(&self, id: &str, context: &str, plaintext: &[u8]) -> Result<Vec<u8>> {
        let with = Envelope { key: self.record(id), context: context.as_bytes() };
        match self.call(Command::EnvelopeEncrypt { with, plaintext, dry_run: false })? {
            Reply::Bytes(blob) => Ok(blob),
            other => panic!("{other:?}"),
        }
    }

    fn decrypt(&self, id: &str, context: &str, blob: &[u8]) -> Result<Vec<u8>> {
        let key = self.record(id);
        let with = Envelope { key, context: context.as_bytes() };
        let version = envelope_name(blob).ok().map(|name| version_object(&key.object, name.version));
        let version = version.and_then(|object| self.records.get(&object));
        match self.call(Command::EnvelopeDecrypt { with, version, blob, dry_run: false })? {
            Reply::Secret(plaintext) => Ok(plaintext.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    /// Does what time demands of a key; what that was.
    fn keep_time(&mut self, id: &str) -> Option<String> {
        match self.call(Command::KeepTime { keys: self.keys(id) }).unwrap() {
            Reply::Done => None,
            Reply::Managed { change, told } => {
                self.commit(change);
                Some(told)
            }
            other => panic!("{other:?}"),
        }
    }

    fn view(&self, record: &Record) -> Arc<View> {
        match self.call(Command::View { record }).unwrap() {
            Reply::View(view) => view,
            other => panic!("{other:?}"),
        }
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}
