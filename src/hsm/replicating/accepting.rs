//! Shipments: what is taken of them, and the receipts for what was.

use std::sync::Arc;

use super::super::audit::Action as Audited;
use super::super::command::{Held, MessageKind, ObjectChange, Reply};
use super::super::managed::creation::version_object;
use super::super::managed::replica::{self, Accepted, Shipped, Terms};
use super::super::managed::replication::Role;
use super::super::random;
use super::super::replication::agreement::{ExchangeKeys, Place};
use super::super::replication::message::{Opened, Receipt, Receipted, SealedKey, Shipment};
use super::super::replication::record::KeyRecord;
use super::super::replication::{Party, refused};
use super::{Attempt, Exchanging, Found, OpenKey, add, check_places, hash_of_ids, told};
use crate::error::{ErrorKind, Result};

impl Exchanging<'_> {
    /// [`Replicate::Accept`](super::super::Replicate::Accept).
    pub(super) fn accept(&self, shipment: &[u8], held: &[Option<Held<'_>>]) -> Attempt<Reply> {
        let Opened { message, kid, hash } = self.open::<Shipment<'_>>(shipment)?;
        let (from, shipment) = (message.from, message.body);
        self.check_suite(shipment.suite.number())?;
        check_places(shipment.keys.len(), held.len())?;
        let ids = hash_of_ids(shipment.keys.iter().map(|sealed| &*sealed.key_id));
        let exchanges = &self.hsm.client.exchanges;
        let parties = (&self.own, &from, kid);
        let agreed = self.hsm.while_opened(|| exchanges.opened(&shipment, &hash, &ids, parties, self.now))??;
        let owner = self.hsm.principal()?;
        let (count, mut change) = (held.len(), ObjectChange::default());
        for (index, (sealed, held)) in shipment.keys.iter().zip(held).enumerate() {
            let one = || -> Result<ObjectChange> {
                let shipped = open_one(&agreed, sealed, (index, count))?;
                self.accept_one(&shipped, held.as_ref(), &from, &owner)
            };
            add(&mut change, one().map_err(|error| self.failed(MessageKind::Shipment, &sealed.key_id, error))?);
        }
        let ids: Vec<_> = shipment.keys.iter().map(|sealed| &*sealed.key_id).collect();
        Ok(Reply::Replicated { change, message: None, told: told(&ids, &[]) })
    }

    fn accept_one(
        &self,
        shipped: &Shipped,
        held: Option<&Held<'_>>,
        primary: &Party,
        owner: &str,
    ) -> Result<ObjectChange> {
        let record = &shipped.record;
        let index = self.opened.index_key();
        let commitment =
            record.material_digest.map(|digest| index.commitment_to(&record.object, &digest)).transpose()?;
        let (accepted, old) = match self.find(held, &record.key_id)? {
            None => {
                let terms = Terms { owner, primary, incarnation: random::array()? };
                (replica::make(shipped, &terms, commitment)?, None)
            }
            Some(Found::Deleted(..)) => {
                let why = format!("the key {} was deleted here, which its primary has not heard of yet", record.key_id);
                return Err(refused(why));
            }
            Some(Found::Key(key)) => {
                check_primary(&key, primary)?;
                let numbers = record.versions.iter().map(|version| version.version);
                let opened = self.versions(&key, numbers)?;
                let versions: Vec<_> = opened.iter().map(|(version, open)| (*version, &*open.key)).collect();
                let accepted = replica::update(shipped, &key.source(&versions), commitment)?;
                drop(versions);
                (accepted, Some((key, opened)))
            }
        };
        let Accepted { key, public, new, replaced, gone } = accepted;
        let mut change = ObjectChange::default();
        let changed = key.as_ref().map(|key| key.attributes.clone());
        let (old, versions) = old.unzip();
        let old = old.as_ref().map(|old| &old.keys);
        if let Some(key) = key {
            match old {
                None => change.insert.push(self.hsm.seal_any(key, record.object, 1)?),
                Some(old) => change.replace.push(self.hsm.replacement(&old.key, key)?),
            }
        }
        if let Some((object, public)) = public {
            match old.and_then(|old| old.public.as_ref()) {
                None => change.insert.push(self.hsm.seal_any(public, object, 1)?),
                Some(old) => change.replace.push(self.hsm.replacement(old, public)?),
            }
        }
        for (version, key) in new {
            change.insert.push(self.hsm.seal_any(key, version_object(&record.object, version), 1)?);
        }
        for (version, key) in replaced {
            let old = versions.iter().flatten().find(|(number, _)| *number == version);
            let (_, old) = old.ok_or(ErrorKind::GeneralError)?;
            change.replace.push(self.hsm.replacement(old, key)?);
        }
        change.purge.extend(gone.into_iter().map(|version| version_object(&record.object, version)));
        if let Some(attributes) = changed {
            self.record(Audited::AcceptReplica, &attributes, &primary.region)?;
        }
        Ok(change)
    }

    /// [`Replicate::Confirm`](super::super::Replicate::Confirm).
    pub(super) fn confirm(&self, shipment: &[u8], stored: &[Option<Held<'_>>]) -> Attempt<Reply> {
        let Opened { message, hash, .. } = self.open::<Shipment<'_>>(shipment)?;
        let (from, shipment) = (message.from, message.body);
        check_places(shipment.keys.len(), stored.len())?;
        let agreed = self.hsm.client.exchanges.open(&shipment.offer, &hash, self.now)?;
        let count = stored.len();
        let mut keys = Vec::with_capacity(count);
        for (index, (sealed, stored)) in shipment.keys.iter().zip(stored).enumerate() {
            let one = || -> Result<Receipted> {
                let shipped = open_one(&agreed, sealed, (index, count))?;
                self.confirm_one(&shipped.record, stored.as_ref(), &from, &agreed)
            };
            keys.push(one().map_err(|error| self.failed(MessageKind::Shipment, &sealed.key_id, error))?);
        }
        let offer = shipment.offer;
        let message = self.signed(from, Receipt { offer, shipment_hash: hash, keys })?;
        self.hsm.client.exchanges.confirmed(&offer, self.now);
        let ids: Vec<_> = shipment.keys.iter().map(|sealed| &*sealed.key_id).collect();
        Ok(Reply::Replicated { change: ObjectChange::default(), message: Some(message), told: told(&ids, &[]) })
    }

    /// What the receipt says of a key: of the material as it was read back.
    fn confirm_one(
        &self,
        record: &KeyRecord,
        stored: Option<&Held<'_>>,
        primary: &Party,
        agreed: &Arc<ExchangeKeys>,
    ) -> Result<Receipted> {
        let lost = || {
            let why = format!("the key {} is not stored as it was accepted: accept the shipment again", record.key_id);
            ErrorKind::FunctionFailed.with(why)
        };
        let Some(Found::Key(key)) = self.find(stored, &record.key_id)? else { return Err(lost()) };
        check_primary(&key, primary)?;
        let replication = key.managed.replication()?;
        let Role::Replica { incarnation, .. } = &replication.role else { return Err(lost()) };
        if *key.object() != record.object || replication.term != record.term || replication.newest < record.newest {
            return Err(lost());
        }
        let opened = self.versions(&key, record.versions.iter().map(|version| version.version))?;
        let versions: Vec<_> = opened.iter().map(|(version, open)| (*version, &*open.key)).collect();
        let source = key.source(&versions);
        let read_back = |(version, shipped): (u64, _)| match source.digest(&key.managed, version) {
            Ok(digest) if digest == shipped => Ok((version, digest)),
            _ => Err(lost()),
        };
        let digests = record.digests().into_iter().map(read_back).collect::<Result<Vec<_>>>()?;
        Ok(Receipted {
            key_id: record.key_id.clone(),
            incarnation: *incarnation,
            term: record.term,
            version: key.managed.version(),
            newest: record.newest,
            commitment: agreed.commitment_key().commit(&record.key_id, &record.object, &digests)?,
        })
    }
}

fn open_one(agreed: &ExchangeKeys, sealed: &SealedKey<'_>, (index, count): (usize, usize)) -> Result<Shipped> {
    let opened = agreed.open(Place { index, count, key_id: &sealed.key_id }, &sealed.sealed)?;
    let record = KeyRecord::decode(opened.expose())?;
    if record.key_id != sealed.key_id {
        return Err(refused("it names a key by another's id"));
    }
    Shipped::check(record)
}

/// That another Region is the one which a replica has its primary in.
fn check_primary(key: &OpenKey<'_>, from: &Party) -> Result<()> {
    let id = key.keys.id();
    match &key.managed.replication()?.role {
        Role::Replica { primary, .. } if primary == from => Ok(()),
        Role::Replica { primary, .. } => {
            Err(refused(format_args!("the primary of the key {id} is in the Region {}", primary.region)))
        }
        Role::Primary { .. } => Err(refused(format_args!("the key {id} is the primary here"))),
    }
}
