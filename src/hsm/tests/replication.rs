//! Regions that exchange multi-Region keys: an HSM with a founded domain each, and nothing between
//! them but messages.

mod refusals;
mod stories;

use std::collections::BTreeMap;

use serde_json::json;

use super::governed::Token;
use super::*;
use crate::hsm::managed::metadata::Managed;
use crate::hsm::managed::replication::{Outstanding, deleted_object};
use crate::hsm::replication::Party;

/// An HSM with what its store has.
struct Region {
    token: Token,
    name: &'static str,
    records: BTreeMap<ObjectId, Record>,
    /// By key id.
    keys: BTreeMap<String, ObjectId>,
}

/// What a store has of a key.
struct Stored {
    key: Record,
    public: Option<Record>,
    versions: Vec<Record>,
}

impl Stored {
    fn held(&self) -> Held<'_> {
        let keys = KeyRecords { key: &self.key, public: self.public.as_ref() };
        Held { keys, versions: &self.versions }
    }
}

/// Regions that trust each other, each with a user who is logged in.
fn regions<const N: usize>(names: [&'static str; N]) -> [Region; N] {
    let mut regions = names.map(|name| {
        let mut token = Token::new();
        token.found_in(name);
        Region { token, name, records: BTreeMap::new(), keys: BTreeMap::new() }
    });
    let parties: Vec<_> = regions.iter().map(Region::described).collect();
    for region in &mut regions {
        for party in parties.iter().filter(|party| party["name"] != region.name) {
            region.token.run(&json!({ "command": "trust Region", "region": party }));
        }
        region.token.log_in(Role::User);
    }
    regions
}

impl Region {
    /// As the command "trust Region" takes it.
    fn described(&self) -> serde_json::Value {
        let public = self.token.hsm.public().unwrap();
        let state = public.state();
        let keys: Vec<_> = state.replication_keys.iter().map(|key| hex::encode(key.spki())).collect();
        json!({ "name": state.region, "domain": hex::encode(state.domain), "replication_keys": keys })
    }

    fn party(&self) -> Party {
        let public = self.token.hsm.public().unwrap();
        Party { region: public.state().region.clone(), domain: public.state().domain }
    }

    fn run(&mut self, command: &serde_json::Value) {
        self.token.log_in(Role::So);
        self.token.run(command);
        self.token.log_in(Role::User);
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
            self.records.remove(&object);
        }
    }

    fn create(&mut self, request: &serde_json::Value) -> String {
        let mut request = request.clone();
        request["MultiRegion"] = true.into();
        let (change, id) = self.ask(Manage::CreateKey, None, &request).unwrap();
        let key = change.insert.iter().find(|record| record.columns.class != ck::CKO_PUBLIC_KEY).unwrap();
        self.keys.insert(id.clone(), key.object);
        self.commit(change);
        id
    }

    fn ask(&self, action: Manage, id: Option<&str>, request: &serde_json::Value) -> Result<(ObjectChange, String)> {
        let stored = id.and_then(|id| self.stored(id));
        let keys = stored.as_ref().map(|stored| stored.held().keys);
        let request = &request.to_string();
        match self.token.call(Command::Manage { action, keys, alias: None, target: None, request, dry_run: false })? {
            Reply::Managed { change, told } => Ok((change, told)),
            other => panic!("{other:?}"),
        }
    }

    fn manage(&mut self, action: Manage, id: &str, request: &serde_json::Value) -> Result<String> {
        let (change, told) = self.ask(action, Some(id), request)?;
        self.commit(change);
        Ok(told)
    }

    /// What the store has of a key, or of what is left of it.
    fn stored(&self, id: &str) -> Option<Stored> {
        let object = self.keys.get(id)?;
        let Some(key) = self.records.get(object) else {
            let key = self.records.get(&deleted_object(object))?.clone();
            return Some(Stored { key, public: None, versions: Vec::new() });
        };
        let public = self
            .records
            .values()
            .find(|record| record.columns.class == ck::CKO_PUBLIC_KEY && record.columns.id == key.columns.id);
        let versions = (1..=20).filter_map(|version| self.records.get(&version_object(object, version)).cloned());
        Some(Stored { key: key.clone(), public: public.cloned(), versions: versions.collect() })
    }

    fn managed(&self, id: &str) -> Managed {
        let stored = self.stored(id).unwrap();
        let open = self.token.hsm.open(super::super::Access::User, &stored.key).unwrap();
        Managed::read(&open.key.attributes).unwrap()
    }

    /// Lets a Region have a replica.
    fn authorise(&mut self, id: &str, region: &str) -> Result<()> {
        self.manage(Manage::ReplicateKey, id, &json!({ "ReplicaRegion": region })).map(drop)
    }

    /// Takes a step and commits what it gives.
    fn step(&mut self, step: Replicate<'_>) -> Result<Option<Vec<u8>>> {
        match self.token.call(Command::Replicate(step))? {
            Reply::Replicated { change, message, .. } => {
                self.commit(change);
                Ok(message)
            }
            other => panic!("{other:?}"),
        }
    }

    fn offer(&mut self, region: &str, ids: &[&str]) -> Result<Vec<u8>> {
        let stored: Vec<_> = ids.iter().map(|id| (*id, self.stored(id))).collect();
        let wanted: Vec<_> = stored.iter().map(|(id, stored)| (*id, stored.as_ref().map(Stored::held))).collect();
        self.step(Replicate::Offer { region, wanted: &wanted, request: None }).map(Option::unwrap)
    }

    fn accept(&mut self, shipment: &[u8]) -> Result<()> {
        let stored = self.all(shipment)?;
        let held: Vec<_> = stored.iter().map(|stored| stored.as_ref().map(Stored::held)).collect();
        let Reply::Replicated { change, .. } =
            self.token.call(Command::Replicate(Replicate::Accept { shipment, held: &held }))?
        else {
            panic!()
        };
        let view = replication_message(shipment)?;
        for record in &change.insert {
            for id in &view.keys {
                let tag = self.token.call(Command::IndexTag { column: IndexColumn::Id, value: id.as_bytes() }).unwrap();
                let Reply::Bytes(tag) = tag else { panic!() };
                if record.columns.id == Some(tag) && record.columns.class != ck::CKO_PUBLIC_KEY {
                    self.keys.insert(id.clone(), record.object);
                }
            }
        }
        self.commit(change);
        Ok(())
    }

    fn confirm(&mut self, shipment: &[u8]) -> Result<Vec<u8>> {
        let stored = self.all(shipment)?;
        let stored: Vec<_> = stored.iter().map(|stored| stored.as_ref().map(Stored::held)).collect();
        self.step(Replicate::Confirm { shipment, stored: &stored }).map(Option::unwrap)
    }

    fn all(&self, message: &[u8]) -> Result<Vec<Option<Stored>>> {
        Ok(replication_message(message)?.keys.iter().map(|id| self.stored(id)).collect())
    }

    /// Takes any message, as a host does.
    fn receive(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>> {
        let view = replication_message(message)?;
        let stored = self.all(message)?;
        let held: Vec<_> = stored.iter().map(|stored| stored.as_ref().map(Stored::held)).collect();
        match view.kind {
            MessageKind::Request => {
                let wanted: Vec<_> = view.keys.iter().map(String::as_str).zip(held).collect();
                self.step(Replicate::Offer { region: &view.from, wanted: &wanted, request: Some(message) })
            }
            MessageKind::Offer => self.step(Replicate::Ship { offer: message, keys: &held, room: usize::MAX }),
            MessageKind::Shipment => {
                self.accept(message)?;
                self.confirm(message).map(Some)
            }
            _ => self.step(Replicate::Receive { message, keys: &held }),
        }
    }

    fn tell(&mut self, kind: MessageKind, region: &str, id: &str) -> Result<Vec<u8>> {
        let stored = self.stored(id).unwrap();
        self.step(Replicate::Tell { kind, region, keys: &[stored.held()] }).map(Option::unwrap)
    }

    fn encrypt(&self, id: &str, plaintext: &[u8]) -> Result<Vec<u8>> {
        let stored = self.stored(id).unwrap();
        let with = Envelope { key: &stored.key, context: b"" };
        match self.token.call(Command::EnvelopeEncrypt { with, plaintext, dry_run: false })? {
            Reply::Bytes(blob) => Ok(blob),
            other => panic!("{other:?}"),
        }
    }

    fn decrypt(&self, id: &str, blob: &[u8]) -> Result<Vec<u8>> {
        let stored = self.stored(id).unwrap();
        let with = Envelope { key: &stored.key, context: b"" };
        let version = version_object(&stored.key.object, envelope_name(blob)?.version);
        let version = self.records.get(&version);
        match self.token.call(Command::EnvelopeDecrypt { with, version, blob, dry_run: false })? {
            Reply::Secret(plaintext) => Ok(plaintext.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    /// The one-shot result of a mechanism that signs.
    fn sign(&self, id: &str, kind: ck::CK_MECHANISM_TYPE) -> Vec<u8> {
        let stored = self.stored(id).unwrap();
        let mut output = vec![0; 4096];
        let mut operation = self.begin(Function::Sign, kind, &stored.key).unwrap();
        let Ok(Outcome::Written(len)) = operation.one_shot(&[7; 32], Some(&mut output)) else { panic!() };
        output.truncate(len);
        output
    }

    fn verifies(&self, id: &str, kind: ck::CK_MECHANISM_TYPE, signature: &[u8]) -> bool {
        let stored = self.stored(id).unwrap();
        let mut operation = self.begin(Function::Verify, kind, stored.public.as_ref().unwrap_or(&stored.key)).unwrap();
        operation.verify_one_shot(&[7; 32], signature).is_ok()
    }

    fn begin(&self, function: Function, kind: ck::CK_MECHANISM_TYPE, key: &Record) -> Result<Box<dyn Operation>> {
        self.token.hsm.begin(&self.token.ticket, function, &Mechanism::new(kind), Some(key))
    }
}

/// Carries a message and what answers it to and fro, until nothing is answered.
fn carry(from: &mut Region, to: &mut Region, mut message: Vec<u8>) -> Result<()> {
    let (mut here, mut there) = (to, from);
    while let Some(answer) = here.receive(&message)? {
        message = answer;
        std::mem::swap(&mut here, &mut there);
    }
    Ok(())
}

/// The first has a replica of the key in the second.
fn replicated(a: &mut Region, b: &mut Region, id: &str) {
    a.authorise(id, b.name).unwrap();
    let request = a.tell(MessageKind::Request, b.name, id).unwrap();
    carry(a, b, request).unwrap();
}

/// Sends everything that is outstanding of a key, until nothing is, or nothing more can be done.
fn settle(regions: &mut [Region], id: &str) {
    for _ in 0..10 {
        let mut sent = false;
        for at in 0..regions.len() {
            for (party, what) in outstanding(&regions[at], id) {
                let Some(other) = regions.iter().position(|region| region.name == party.region) else { continue };
                let kind = match what {
                    Outstanding::Ship => MessageKind::Request,
                    Outstanding::Activate => MessageKind::Activate,
                    Outstanding::Handover => MessageKind::Handover,
                    Outstanding::Deleted => MessageKind::Deleted,
                };
                let [from, to] = regions.get_disjoint_mut([at, other]).unwrap();
                // An earlier one of this round may have done it.
                if let Ok(message) = from.tell(kind, to.name, id) {
                    sent |= carry(from, to, message).is_ok();
                }
            }
        }
        if !sent {
            return;
        }
    }
    panic!("something is outstanding for ever");
}

fn outstanding(region: &Region, id: &str) -> Vec<(Party, Outstanding)> {
    match region.stored(id) {
        None => Vec::new(),
        Some(stored) if stored.key.columns.class == CKO_KMS_DELETED_REPLICA => {
            let open = region.token.hsm.open(super::super::Access::User, &stored.key).unwrap();
            let replication = open.key.attributes.bytes(crate::hsm::managed::CKA_KMS_REPLICATION).unwrap();
            crate::hsm::managed::replication::Replication::decode(replication).unwrap().outstanding_of_deleted()
        }
        Some(_) => region.managed(id).outstanding(),
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}
