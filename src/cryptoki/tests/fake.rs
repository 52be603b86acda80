//! A store in memory and an HSM that keeps attributes in a table: what the state machine needs
//! below it, shared by modules that stand for processes.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cryptoki_sys as ck;

use crate::channel::Channel;
use crate::cryptoki::SlotId;
use crate::cryptoki::backend::{Backend, SlotIds};
use crate::error::{ErrorKind, Result};
use crate::hsm::{
    AttributeType, Attributes, AuditBatch, AuditOpening, AuditStore, Columns, Command, DomainChange, DomainKeyId,
    DomainToken, DomainView, Function, IndexColumn, Mechanism, ObjectChange, ObjectId, Operation, Outcome, PinRecord,
    Place, Raw, Record, Reply, Role, Sealed, Template, Ticket, Value, View,
};
use crate::store::{AuditRow, Filter, Found, Meta, PROPOSALS, Pin, ProposalId, Store};

/// What all processes share.
#[derive(Default)]
pub(super) struct World {
    tokens: Mutex<BTreeMap<SlotId, Arc<MemoryStore>>>,
    /// Attributes by digest of the record: what sealing hides.
    sealed: Mutex<HashMap<[u8; 32], Attributes>>,
    next: AtomicU64,
}

impl World {
    pub(super) fn store(&self, slot: SlotId) -> Arc<MemoryStore> {
        self.tokens.lock().unwrap()[&slot].clone()
    }
}

pub(super) struct FakeBackend(pub(super) Arc<World>);

impl Backend for FakeBackend {
    fn slots(&self) -> Result<SlotIds> {
        let tokens: Vec<_> = self.0.tokens.lock().unwrap().keys().copied().collect();
        let free = Some(tokens.last().map_or(0, |last| last + 1));
        Ok(SlotIds { tokens, free })
    }

    fn store(&self, slot: SlotId) -> Result<Option<Arc<dyn Store>>> {
        Ok(self.0.tokens.lock().unwrap().get(&slot).map(|store| store.clone() as _))
    }

    fn create(
        &self,
        slot: SlotId,
        label: &str,
        serial: &str,
        domain: &DomainToken,
        so_pin: &PinRecord,
    ) -> Result<Arc<dyn Store>> {
        let store = Arc::new(MemoryStore::default());
        store.reset(label, serial, domain, Some(so_pin))?;
        if self.0.tokens.lock().unwrap().insert(slot, store.clone()).is_some() {
            return Err(ErrorKind::FunctionFailed.into());
        }
        Ok(store)
    }

    fn destroy(&self, slot: SlotId) -> Result<()> {
        self.0.tokens.lock().unwrap().remove(&slot).map(drop).ok_or_else(|| ErrorKind::TokenNotPresent.into())
    }

    fn channel(&self, _slot: SlotId) -> Result<Box<dyn Channel>> {
        Ok(Box::new(FakeHsm { world: self.0.clone(), held: Mutex::new(None), user: Mutex::new(None) }))
    }
}

/// One HSM instance; who is logged in decides, since only a real HSM makes tickets.
struct FakeHsm {
    world: Arc<World>,
    held: Mutex<Option<DomainToken>>,
    user: Mutex<Option<Role>>,
}

impl FakeHsm {
    fn seal(&self, attributes: Attributes, object: ObjectId, generation: u64) -> Record {
        let private = attributes.flag(ck::CKA_PRIVATE);
        let column = |kind, column| {
            attributes.bytes(kind).map(|value| if private { tag(column, value) } else { value.to_vec() })
        };
        let columns = Columns {
            class: attributes.ulong(ck::CKA_CLASS).unwrap(),
            key_type: attributes.ulong(ck::CKA_KEY_TYPE),
            private,
            label: column(ck::CKA_LABEL, IndexColumn::Label),
            id: column(ck::CKA_ID, IndexColumn::Id),
            managed: false,
            due: None,
            replicating: false,
        };
        let serial = self.world.next.fetch_add(1, Ordering::Relaxed);
        let sealed = Sealed::new(serial.to_be_bytes().to_vec());
        self.world.sealed.lock().unwrap().insert(*sealed.digest(), attributes);
        Record { object, generation, columns, sealed }
    }

    fn make(&self, template: &Template<'_>, place: Place) -> Result<Record> {
        let mut attributes = typed(template);
        if attributes.flag(ck::CKA_PRIVATE) && !matches!(*self.user.lock().unwrap(), Some(Role::User | Role::Named(_)))
        {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        let mut object = ObjectId::default();
        object[8..].copy_from_slice(&self.world.next.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        attributes.set(ck::CKA_TOKEN, Value::Bool(place == Place::Token));
        attributes.set_default(ck::CKA_DESTROYABLE, Value::Bool(true));
        Ok(self.seal(attributes, object, 1))
    }

    fn open(&self, record: &Record) -> Result<Attributes> {
        assert!(self.held.lock().unwrap().is_some(), "the HSM has adopted no domain");
        let attributes = self.world.sealed.lock().unwrap()[record.sealed.digest()].clone();
        if attributes.flag(ck::CKA_PRIVATE) && !matches!(*self.user.lock().unwrap(), Some(Role::User | Role::Named(_)))
        {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        Ok(attributes)
    }

    fn change(&self, role: Role, generation: u64, pin: &[u8]) -> Reply {
        let record = PinRecord { role, generation, sealed: pin.to_vec() };
        let mut domain = self.held.lock().unwrap().clone().unwrap();
        domain.version += 1;
        Reply::Changed(DomainChange {
            domain,
            entries: Vec::new(),
            pins: vec![record],
            removed: Vec::new(),
            objects: ObjectChange::default(),
        })
    }
}

fn tag(column: IndexColumn, value: &[u8]) -> Vec<u8> {
    let mut tag = format!("{column:?}:").into_bytes();
    tag.extend(value.iter().rev());
    tag
}

fn typed(template: &Template<'_>) -> Attributes {
    let value = |kind: AttributeType, raw: &Raw<'_>| match (kind, raw) {
        (_, Raw::Bytes([byte])) if kind != ck::CKA_ID && kind != ck::CKA_LABEL => Value::Bool(*byte != 0),
        (ck::CKA_CLASS | ck::CKA_KEY_TYPE, Raw::Bytes(bytes)) => {
            Value::Ulong(u64::from_ne_bytes((*bytes).try_into().unwrap()))
        }
        (_, Raw::Bytes(bytes)) => Value::Bytes(bytes.to_vec()),
        (_, Raw::Template(template)) => Value::Template(typed(template)),
    };
    template.0.iter().map(|(kind, raw)| (*kind, value(*kind, raw))).collect()
}

impl Channel for FakeHsm {
    fn call(&self, _: &Ticket, command: Command<'_>) -> Result<Reply> {
        Ok(match command {
            Command::Found { label, serial, so_pin, .. } => Reply::Founded {
                domain: DomainToken { version: 1, bytes: format!("{label}/{serial}").into_bytes() },
                so_pin: PinRecord { role: Role::So, generation: 1, sealed: so_pin.to_vec() },
            },
            Command::Adopt { domain, .. } => {
                *self.held.lock().unwrap() = Some(domain.clone());
                let text = String::from_utf8(domain.bytes.clone()).unwrap();
                let (label, serial) = text.rsplit_once('/').unwrap();
                Reply::Domain(DomainView {
                    version: domain.version,
                    label: label.to_owned(),
                    serial: serial.to_owned(),
                    ..DomainView::default()
                })
            }
            Command::Housekeeping => Reply::Done,
            Command::Login { pin, record, .. } => {
                if pin != record.sealed {
                    return Err(ErrorKind::PinIncorrect.into());
                }
                *self.user.lock().unwrap() = Some(record.role.clone());
                Reply::LoggedIn(Ticket::public())
            }
            Command::CheckPin { pin, record } if pin != record.sealed => return Err(ErrorKind::PinIncorrect.into()),
            Command::CheckPin { .. } => Reply::Done,
            Command::Logout => {
                *self.user.lock().unwrap() = None;
                Reply::Done
            }
            Command::InitPin { role, pin, .. } => {
                self.change(role, self.world.next.fetch_add(1, Ordering::Relaxed), pin)
            }
            Command::SetPin { old, record, .. } if old != record.sealed => return Err(ErrorKind::PinIncorrect.into()),
            Command::SetPin { new, record, .. } => self.change(record.role.clone(), record.generation + 1, new),
            Command::Create { template, place } | Command::GenerateKey { template, place, .. } => {
                Reply::Records(vec![self.make(template, place)?])
            }
            Command::GenerateKeyPair { public, public_place, private, private_place, .. } => {
                Reply::Records(vec![self.make(public, public_place)?, self.make(private, private_place)?])
            }
            Command::SetAttributes { record, template } => {
                let mut attributes = self.open(record)?;
                for (kind, value) in typed(template).iter() {
                    attributes.set(kind, value.clone());
                }
                Reply::Records(vec![self.seal(attributes, record.object, record.generation + 1)])
            }
            Command::CheckDestroy { record } => {
                if !self.open(record)?.flag(ck::CKA_DESTROYABLE) {
                    return Err(ErrorKind::ActionProhibited.into());
                }
                Reply::Done
            }
            Command::View { record } => {
                let mut attributes = self.open(record)?;
                let secrets = attributes.remove(ck::CKA_VALUE).map(|_| (ck::CKA_VALUE, false)).into_iter().collect();
                Reply::View(Arc::new(View { attributes, secrets }))
            }
            Command::IndexTag { column, value } => Reply::Bytes(tag(column, value)),
            Command::Random { output } => {
                let number = self.world.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
                output.iter_mut().zip(number).for_each(|(byte, random)| *byte = random);
                Reply::Done
            }
            _ => return Err(ErrorKind::FunctionNotSupported.into()),
        })
    }

    fn begin(
        &self,
        _: &Ticket,
        function: Function,
        _: &Mechanism<'_>,
        key: Option<&Record>,
    ) -> Result<Box<dyn Operation>> {
        key.map(|key| self.open(key)).transpose()?;
        Ok(Box::new(Echo { function, fed: Vec::new() }))
    }

    fn digest_key(&self, _: &Ticket, digest: &mut dyn Operation, _: &Record) -> Result<()> {
        digest.update(b"key", None).map(drop)
    }

    fn resume(&self, _: &Ticket, state: &[u8]) -> Result<Box<dyn Operation>> {
        Ok(Box::new(Echo { function: Function::Digest, fed: state.to_vec() }))
    }
}

/// Ciphers give back their input, everything ends with `.`; a digest or signature is its input.
/// `!` is refused.
struct Echo {
    function: Function,
    fed: Vec<u8>,
}

fn put(bytes: &[u8], output: Option<&mut [u8]>) -> Outcome {
    match output.and_then(|output| output.get_mut(..bytes.len())) {
        Some(output) => {
            output.copy_from_slice(bytes);
            Outcome::Written(bytes.len())
        }
        None => Outcome::Needed(bytes.len()),
    }
}

impl Operation for Echo {
    fn update(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        if input.contains(&b'!') {
            return Err(ErrorKind::DataInvalid.into());
        }
        if matches!(self.function, Function::Encrypt | Function::Decrypt) {
            return Ok(put(input, output));
        }
        self.fed.extend_from_slice(input);
        Ok(Outcome::Written(0))
    }

    fn finish(&mut self, output: Option<&mut [u8]>) -> Result<Outcome> {
        let mut last = self.fed.clone();
        last.push(b'.');
        Ok(put(&last, output))
    }

    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        if input.contains(&b'!') {
            return Err(ErrorKind::DataInvalid.into());
        }
        let mut all = input.to_vec();
        all.push(b'.');
        Ok(put(&all, output))
    }

    fn verify(&mut self, signature: &[u8]) -> Result<()> {
        if signature == self.fed { Ok(()) } else { Err(ErrorKind::SignatureInvalid.into()) }
    }

    fn save(&self) -> Result<Vec<u8>> {
        Ok(self.fed.clone())
    }
}

#[derive(Default)]
pub(super) struct MemoryStore {
    counter: AtomicU64,
    rows: Mutex<Rows>,
}

#[derive(Default)]
struct Rows {
    meta: Option<Meta>,
    records: BTreeMap<u64, Record>,
    last: u64,
    origin: Option<DomainToken>,
    log: BTreeMap<u64, Vec<u8>>,
    proposals: Vec<(ProposalId, Vec<u8>)>,
    recovery: Option<Vec<u8>>,
}

impl MemoryStore {
    fn commit<T>(&self, write: impl FnOnce(&mut Rows) -> Result<T>) -> Result<T> {
        let mut rows = self.rows.lock().unwrap();
        self.counter.fetch_add(1, Ordering::AcqRel);
        let done = write(&mut rows);
        self.counter.fetch_add(1, Ordering::AcqRel);
        done
    }

    fn pins<T>(&self, role: &Role, write: impl FnOnce(&mut Pin) -> Result<T>) -> Result<T> {
        self.commit(|rows| write(rows.meta.as_mut().unwrap().pins.iter_mut().find(|p| p.record.role == *role).unwrap()))
    }
}

impl Rows {
    fn row(&self, object: &ObjectId) -> Result<u64> {
        let found = self.records.iter().find(|(_, record)| record.object == *object);
        found.map(|(row, _)| *row).ok_or_else(|| ErrorKind::ObjectHandleInvalid.into())
    }

    fn replace(&mut self, record: &Record) -> Result<()> {
        let row = self.row(&record.object)?;
        if self.records[&row].generation + 1 != record.generation {
            return Err(ErrorKind::FunctionFailed.into());
        }
        self.records.insert(row, record.clone());
        Ok(())
    }
}

/// The HSM here records nothing.
impl AuditStore for MemoryStore {
    fn open_audit(&self, _opening: AuditOpening) -> Result<()> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    fn append_audit(&self, _batch: &AuditBatch<'_>) -> Result<()> {
        Err(ErrorKind::FunctionNotSupported.into())
    }
}

impl Store for MemoryStore {
    fn counter(&self) -> u64 {
        self.counter.load(Ordering::Acquire)
    }

    fn meta(&self) -> Result<Meta> {
        Ok(self.rows.lock().unwrap().meta.clone().unwrap())
    }

    fn reset(&self, label: &str, serial: &str, domain: &DomainToken, so_pin: Option<&PinRecord>) -> Result<()> {
        self.commit(|rows| {
            let pins = so_pin.map(|pin| Pin { record: pin.clone(), failures: 0 }).into_iter().collect();
            *rows = Rows {
                meta: Some(Meta { label: label.into(), serial: serial.into(), domain: domain.clone(), pins }),
                ..Rows::default()
            };
            Ok(())
        })
    }

    fn commit_domain(&self, change: &DomainChange) -> Result<()> {
        self.commit(|rows| {
            let meta = rows.meta.as_mut().unwrap();
            let held = meta.domain.version;
            let is_old = |pin: &PinRecord| {
                let left = !change.removed.contains(&pin.role);
                left && meta.pin(&pin.role).is_some_and(|stored| stored.record.generation >= pin.generation)
            };
            if change.base() != Some(held) || change.pins.iter().any(is_old) {
                return Err(ErrorKind::FunctionFailed.into());
            }
            if !rows.log.is_empty() && change.entries.is_empty() {
                return Err(ErrorKind::GeneralError.into());
            }
            if rows.log.is_empty() && !change.entries.is_empty() {
                rows.origin = Some(meta.domain.clone());
            }
            rows.log.extend((held + 1..).zip(change.entries.iter().cloned()));
            meta.domain = change.domain.clone();
            meta.pins.retain(|old| !change.removed.contains(&old.record.role));
            for pin in &change.pins {
                meta.pins.retain(|old| old.record.role != pin.role);
                meta.pins.push(Pin { record: pin.clone(), failures: 0 });
            }
            Ok(())
        })
    }

    fn log(&self, after: u64, up_to: u64) -> Result<Vec<Vec<u8>>> {
        let rows = self.rows.lock().unwrap();
        let later = rows.log.iter().filter(|(version, _)| **version > after && **version <= up_to);
        Ok(later.map(|(_, entry)| entry.clone()).collect())
    }

    fn origin(&self) -> Result<Option<DomainToken>> {
        Ok(self.rows.lock().unwrap().origin.clone())
    }

    fn put_proposal(&self, id: &ProposalId, bytes: &[u8]) -> Result<()> {
        self.commit(|rows| {
            if let Some((_, old)) = rows.proposals.iter_mut().find(|(other, _)| other == id) {
                *old = bytes.to_vec();
                return Ok(());
            }
            if rows.proposals.len() as u64 >= PROPOSALS {
                return Err(ErrorKind::DeviceMemory.into());
            }
            rows.proposals.push((*id, bytes.to_vec()));
            Ok(())
        })
    }

    fn proposals(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.rows.lock().unwrap().proposals.iter().map(|(_, bytes)| bytes.clone()).collect())
    }

    fn delete_proposal(&self, id: &ProposalId) -> Result<bool> {
        self.commit(|rows| {
            let before = rows.proposals.len();
            rows.proposals.retain(|(other, _)| other != id);
            Ok(rows.proposals.len() < before)
        })
    }

    fn put_recovery(&self, sealed: &[u8]) -> Result<()> {
        self.commit(|rows| {
            rows.recovery = (!sealed.is_empty()).then(|| sealed.to_vec());
            Ok(())
        })
    }

    fn recovery(&self) -> Result<Option<Vec<u8>>> {
        Ok(self.rows.lock().unwrap().recovery.clone())
    }

    fn begin_attempt(&self, role: &Role, limit: u32) -> Result<u32> {
        self.pins(role, |pin| {
            if pin.failures >= limit {
                return Err(ErrorKind::PinLocked.into());
            }
            pin.failures += 1;
            Ok(pin.failures)
        })
    }

    fn end_attempt(&self, role: &Role) -> Result<()> {
        self.pins(role, |pin| {
            pin.failures = 0;
            Ok(())
        })
    }

    fn take_back_attempt(&self, role: &Role) -> Result<()> {
        self.pins(role, |pin| {
            pin.failures = pin.failures.saturating_sub(1);
            Ok(())
        })
    }

    fn get(&self, object: &ObjectId) -> Result<Option<Record>> {
        Ok(self.rows.lock().unwrap().records.values().find(|record| record.object == *object).cloned())
    }

    fn insert(&self, records: &[Record]) -> Result<()> {
        self.commit(|rows| {
            for record in records {
                rows.last += 1;
                rows.records.insert(rows.last, record.clone());
            }
            Ok(())
        })
    }

    fn replace(&self, record: &Record) -> Result<()> {
        self.commit(|rows| rows.replace(record))
    }

    fn replace_all(&self, records: &[Record]) -> Result<Vec<bool>> {
        self.commit(|rows| Ok(records.iter().map(|record| rows.replace(record).is_ok()).collect()))
    }

    /// The fake HSM makes no managed keys.
    fn commit_change(&self, _change: &ObjectChange) -> Result<()> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    fn managed(&self, _after: u64, _limit: usize) -> Result<Vec<Found>> {
        Ok(Vec::new())
    }

    fn count_managed(&self) -> Result<u64> {
        Ok(0)
    }

    fn replicating(&self, _after: u64, _limit: usize) -> Result<Vec<Found>> {
        Ok(Vec::new())
    }

    fn due(&self, _by: u64, _limit: usize) -> Result<Vec<Found>> {
        Ok(Vec::new())
    }

    fn audit(&self, _after: u64, _limit: usize) -> Result<Vec<AuditRow>> {
        Ok(Vec::new())
    }

    fn newest_audit_row(&self) -> Result<u64> {
        Ok(0)
    }

    fn delete(&self, object: &ObjectId) -> Result<()> {
        self.commit(|rows| {
            let row = rows.row(object)?;
            rows.records.remove(&row);
            Ok(())
        })
    }

    fn find(&self, filter: &Filter, after: u64, limit: usize) -> Result<Vec<Found>> {
        let rows = self.rows.lock().unwrap();
        let later = rows.records.range(after + 1..);
        let passing = later.filter(|(_, record)| crate::cryptoki::objects::passes(filter, record));
        Ok(passing.map(|(row, record)| Found { row: *row, object: record.object }).take(limit).collect())
    }

    fn count(&self) -> Result<u64> {
        Ok(self.rows.lock().unwrap().records.len() as u64)
    }

    fn sealed_under_other(&self, active: &DomainKeyId, after: u64, limit: usize) -> Result<Vec<Found>> {
        let rows = self.rows.lock().unwrap();
        let other = rows.records.range(after + 1..).filter(|(_, record)| record.sealed.domain_key() != Some(*active));
        Ok(other.map(|(row, record)| Found { row: *row, object: record.object }).take(limit).collect())
    }

    fn count_by_domain_key(&self) -> Result<Vec<(Option<DomainKeyId>, u64)>> {
        let mut counts = BTreeMap::new();
        for record in self.rows.lock().unwrap().records.values() {
            *counts.entry(record.sealed.domain_key()).or_default() += 1;
        }
        Ok(counts.into_iter().collect())
    }
}
