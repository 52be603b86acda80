//! What follows from the other messages. A key of a message of which it cannot follow is refused by
//! itself; the message is, if all are.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::super::audit::Action as Audited;
use super::super::cache::Open;
use super::super::command::{Held, MessageKind, ObjectChange, Reply};
use super::super::key::Key;
use super::super::managed::CKA_KMS_REPLICATION;
use super::super::managed::metadata::Managed;
use super::super::managed::replication::{Details, Heard, Outstanding, Replica, Replication};
use super::super::replication::message::{
    Activate, Activated, Activation, Deleted, Deletion, Forgotten, HandedOver, Handover, HandoverDetails, Item,
    Message, Opened, Receipt, Receipted, Taken, TakenKey,
};
use super::super::replication::{Party, refused};
use super::super::value::Value;
use super::exchanges::Expected;
use super::{Attempt, Exchanging, Failed, Found, OpenKey, add, check_places, told};
use crate::error::{ErrorKind, Result};

/// What one key of a message came to: its change, and what is answered of it.
struct Outcome<A> {
    change: ObjectChange,
    answer: Option<A>,
}

impl<A> Outcome<A> {
    fn answer(answer: A) -> Self {
        Self { change: ObjectChange::default(), answer: Some(answer) }
    }

    fn nothing() -> Self {
        Self { change: ObjectChange::default(), answer: None }
    }
}

/// What a message came to.
struct Followed<A> {
    change: ObjectChange,
    answers: Vec<A>,
    told: String,
}

impl Exchanging<'_> {
    /// [`Replicate::Receive`](super::super::Replicate::Receive).
    pub(super) fn receive(&self, kind: MessageKind, bytes: &[u8], keys: &[Option<Held<'_>>]) -> Attempt<Reply> {
        match kind {
            MessageKind::Receipt => self.take_receipt(bytes, keys),
            MessageKind::Activate => {
                let Message { from, body, .. } = self.open::<Activate>(bytes)?.message;
                let followed = self.follow(kind, &body.keys, keys, |item, key| self.activate(&from, item, key))?;
                self.answer(from, followed, |keys| Activated { keys })
            }
            MessageKind::Activated => {
                let Message { from, body, .. } = self.open::<Activated>(bytes)?.message;
                let followed = self.follow(kind, &body.keys, keys, |item, key| self.activated(&from, item, key))?;
                Ok(unanswered(followed))
            }
            MessageKind::Deleted => {
                let Message { from, body, .. } = self.open::<Deleted>(bytes)?.message;
                let followed = self.follow(kind, &body.keys, keys, |item, key| self.deleted(&from, item, key))?;
                self.answer(from, followed, |keys| Forgotten { keys })
            }
            MessageKind::Forgotten => {
                let Message { from, body, .. } = self.open::<Forgotten>(bytes)?.message;
                let followed = self.follow(kind, &body.keys, keys, |item, key| self.forgotten(&from, item, key))?;
                Ok(unanswered(followed))
            }
            MessageKind::Handover => {
                let Message { from, body, .. } = self.open::<Handover>(bytes)?.message;
                let followed = self.follow(kind, &body.keys, keys, |item, key| self.handover(&from, item, key))?;
                self.answer(from, followed, |keys| Taken { keys })
            }
            MessageKind::Taken => {
                let Message { from, body, .. } = self.open::<Taken>(bytes)?.message;
                let followed = self.follow(kind, &body.keys, keys, |item, key| self.taken(&from, item, key))?;
                Ok(unanswered(followed))
            }
            MessageKind::Request | MessageKind::Offer | MessageKind::Shipment => {
                Err(ErrorKind::ArgumentsBad.with("an offer or a shipment is not only received").into())
            }
        }
    }

    fn follow<'m, I: Item<'m>, A>(
        &self,
        kind: MessageKind,
        items: &[I],
        keys: &[Option<Held<'_>>],
        mut one: impl FnMut(&I, Option<Found<'_>>) -> Result<Outcome<A>>,
    ) -> Attempt<Followed<A>> {
        check_places(items.len(), keys.len())?;
        let mut change = ObjectChange::default();
        let (mut answers, mut done, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
        for (item, held) in items.iter().zip(keys) {
            let key_id = item.key_id();
            match self.find(held.as_ref(), key_id).and_then(|found| one(item, found)) {
                Ok(outcome) => {
                    add(&mut change, outcome.change);
                    answers.extend(outcome.answer);
                    done.push(key_id);
                }
                Err(error) if error.kind() == ErrorKind::KmsReplicationRefused => {
                    wrong.push((key_id, self.refuse(kind.name(), Some(key_id), error)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if done.is_empty() {
            let first = wrong.into_iter().next().map(|(_, error)| error);
            return Err(Failed { error: first.unwrap_or_else(|| refused("it names no key")), recorded: true });
        }
        for (key_id, error) in &wrong {
            tracing::warn!(key_id, %error, kind = kind.name(), "a key of a message of another Region was refused");
        }
        let told = told(&done, &wrong);
        Ok(Followed { change, answers, told })
    }

    fn answer<'b, A, B: super::super::replication::message::Body<'b>>(
        &self,
        to: Party,
        followed: Followed<A>,
        body: impl FnOnce(Vec<A>) -> B,
    ) -> Attempt<Reply> {
        let Followed { change, answers, told } = followed;
        let message = if answers.is_empty() { None } else { Some(self.signed(to, body(answers))?) };
        Ok(Reply::Replicated { change, message, told })
    }

    fn take_receipt(&self, bytes: &[u8], keys: &[Option<Held<'_>>]) -> Attempt<Reply> {
        let Opened { message: Message { from, body, .. }, .. } = self.open::<Receipt>(bytes)?;
        let exchanges = &self.hsm.client.exchanges;
        let expected = exchanges.expected(&body.offer, &body.shipment_hash, &from, self.now)?;
        if !expected.iter().map(|expected| &*expected.key_id).eq(body.keys.iter().map(|item| &*item.key_id)) {
            return Err(refused("it is not for the keys that were shipped").into());
        }
        let mut at = expected.iter();
        let followed = self.follow(MessageKind::Receipt, &body.keys, keys, |item, key| {
            let expected = at.next().ok_or(ErrorKind::GeneralError)?;
            self.register(&from, expected, item, key)
        })?;
        exchanges.receipted(&body.offer, self.now);
        self.answer(from, followed, |keys| Activate { keys })
    }

    fn register(
        &self,
        from: &Party,
        expected: &Expected,
        item: &Receipted,
        key: Option<Found<'_>>,
    ) -> Result<Outcome<Activation>> {
        let same = (expected.term, expected.newest) == (item.term, item.newest);
        if !same || !bool::from(expected.commitment.ct_eq(&item.commitment)) {
            return Err(refused("it is not for the material that was shipped"));
        }
        let key = here(key)?;
        // The receipt of a replica that was deleted since must not take the place of the one made anew.
        let listed = key.managed.replication()?.replica(&from.region).and_then(|replica| replica.incarnation);
        if listed != Some(item.incarnation) && listed != expected.incarnation {
            return Err(refused("another replica was registered since the shipment"));
        }
        let registered = key.managed.register(from, &item.incarnation, item.term, item.newest)?;
        let after = self.activated_here(&key, registered)?;
        if after != key.managed {
            self.record(Audited::RegisterReplica, key.keys.attributes(), &from.region)?;
        }
        if after.version() != key.managed.version() {
            self.record(Audited::RotateKey, key.keys.attributes(), &self.own.region)?;
        }
        let answer = activation(&after, from);
        Ok(Outcome { change: self.change(&key, &after)?, answer })
    }

    /// With the pending version active, if no replica that must have it lacks it.
    pub(super) fn activated_here(&self, key: &OpenKey<'_>, managed: Managed) -> Result<Managed> {
        if !managed.may_activate() {
            return Ok(managed);
        }
        let made = self.made(key, managed.newest())?;
        Ok(managed.activate(made.unwrap_or(self.now))?)
    }

    fn activate(&self, from: &Party, item: &Activation, key: Option<Found<'_>>) -> Result<Outcome<Activation>> {
        let key = here(key)?;
        let mut after = key.managed.activated_by(from, &item.incarnation, (item.term, item.version))?;
        if after.version() != key.managed.version() {
            after = after.made(self.made(&key, after.version())?);
        }
        if after != key.managed {
            self.record(Audited::ActivateReplica, key.keys.attributes(), &from.region)?;
        }
        let answer = Activation { version: after.version(), ..item.clone() };
        Ok(Outcome { change: self.change(&key, &after)?, answer: Some(answer) })
    }

    fn activated(&self, from: &Party, item: &Activation, key: Option<Found<'_>>) -> Result<Outcome<()>> {
        let key = here(key)?;
        let after = key.managed.acknowledged(from, &item.incarnation, (item.term, item.version))?;
        Ok(Outcome { change: self.change(&key, &after)?, answer: None })
    }

    fn deleted(&self, from: &Party, item: &Deletion, key: Option<Found<'_>>) -> Result<Outcome<Deletion>> {
        let answer = item.clone();
        // A primary that is gone itself waits for nobody.
        let Some(Found::Key(key)) = key else { return Ok(Outcome::answer(answer)) };
        let after = key.managed.replica_deleted(from, &item.incarnation, item.term, self.now)?;
        let after = self.activated_here(&key, after)?;
        if after != key.managed {
            self.record(Audited::DeleteReplica, key.keys.attributes(), &from.region)?;
        }
        Ok(Outcome { change: self.change(&key, &after)?, answer: Some(answer) })
    }

    fn forgotten(&self, from: &Party, item: &Deletion, key: Option<Found<'_>>) -> Result<Outcome<()>> {
        let Some(found) = key else { return Ok(Outcome::nothing()) };
        let Found::Deleted(open, replication) = found else {
            return Err(refused("the replica is not deleted"));
        };
        replication.check_forgotten(from, &item.incarnation)?;
        if !replication.notices.is_empty() {
            return Err(refused("the deleted key has still to tell who is its primary"));
        }
        let delete = vec![(open.record.object, open.record.generation)];
        Ok(Outcome { change: ObjectChange { delete, ..ObjectChange::default() }, answer: None })
    }

    fn handover(&self, from: &Party, item: &HandedOver, key: Option<Found<'_>>) -> Result<Outcome<TakenKey>> {
        let heard = Heard {
            incarnation: item.incarnation,
            term: item.old_term,
            new_term: item.new_term,
            primary: item.primary.clone(),
        };
        let answer = TakenKey { key_id: item.key_id.clone(), incarnation: item.incarnation, new_term: item.new_term };
        let key = match key {
            // A replica that was here before needs to know of no primary.
            Some(found) if item.details.is_none() && heard.primary != self.own && found.was_replaced(&heard) => {
                return Ok(Outcome::answer(answer));
            }
            Some(Found::Key(key)) => key,
            Some(Found::Deleted(open, mut replication)) if item.details.is_none() => {
                let follows = replication.follow(from, &heard)?;
                let change = if follows { self.rewritten(&open, &replication)? } else { ObjectChange::default() };
                return Ok(Outcome { change, answer: Some(answer) });
            }
            // What is not here needs to know of no primary.
            None if item.details.is_none() => return Ok(Outcome::answer(answer)),
            _ => return Err(refused("there is no such replica here that could become the primary")),
        };
        let after = match &item.details {
            Some(details) => key.managed.take_handover(&self.own, from, (&heard, &details_of(details)))?,
            None => key.managed.told(&self.own, from, &heard)?,
        };
        if after != key.managed {
            self.record(Audited::TakeHandover, key.keys.attributes(), &heard.primary.region)?;
            if let Some((party, term)) = after.replication()?.outdated() {
                let (key_id, region) = (&item.key_id, &party.region);
                tracing::error!(
                    key_id,
                    region,
                    term,
                    "another Region is the primary of a key that is the primary here"
                );
            }
        }
        Ok(Outcome { change: self.change(&key, &after)?, answer: Some(answer) })
    }

    fn taken(&self, from: &Party, item: &TakenKey, key: Option<Found<'_>>) -> Result<Outcome<()>> {
        match key {
            None => Ok(Outcome::nothing()),
            Some(Found::Deleted(open, mut replication)) => {
                let told = replication.notice_taken(from, &item.incarnation, item.new_term);
                let change = if told { self.rewritten(&open, &replication)? } else { ObjectChange::default() };
                Ok(Outcome { change, answer: None })
            }
            Some(Found::Key(key)) => {
                let after = key.managed.handover_taken(&self.own, from, &item.incarnation, item.new_term)?;
                if after != key.managed {
                    self.record(Audited::UpdatePrimaryRegion, key.keys.attributes(), &from.region)?;
                }
                Ok(Outcome { change: self.change(&key, &after)?, answer: None })
            }
        }
    }

    /// What is left of a deleted replica, as it is now.
    fn rewritten(&self, open: &Arc<Open>, replication: &Replication) -> Result<ObjectChange> {
        let mut attributes = open.key.attributes.clone();
        attributes.set(CKA_KMS_REPLICATION, Value::Bytes(replication.encode()));
        let key = Key::from_parts((attributes, open.key.secrets.duplicate()?, open.key.marks));
        Ok(ObjectChange { replace: vec![self.hsm.replacement(open, key)?], ..ObjectChange::default() })
    }
}

/// What a replica is to be told of the active version, if it has that and has not said that it knows.
pub(super) fn activation(managed: &Managed, party: &Party) -> Option<Activation> {
    let due = managed.outstanding().into_iter().any(|due| due == (party.clone(), Outstanding::Activate));
    let replication = managed.replication().ok().filter(|_| due)?;
    let incarnation = replication.replica(&party.region)?.incarnation?;
    let (key_id, version) = (managed.id().as_str().to_owned(), managed.version());
    Some(Activation { key_id, incarnation, term: replication.term, version })
}

fn unanswered<A>(followed: Followed<A>) -> Reply {
    Reply::Replicated { change: followed.change, message: None, told: followed.told }
}

fn here<'h>(key: Option<Found<'h>>) -> Result<Box<OpenKey<'h>>> {
    match key {
        Some(Found::Key(key)) => Ok(key),
        Some(Found::Deleted(..)) => Err(refused("the key was deleted here")),
        None => Err(refused("there is no such key here")),
    }
}

fn details_of(details: &HandoverDetails) -> Details {
    let replicas = details.replicas.iter().map(|replica| Replica {
        party: replica.party.clone(),
        incarnation: Some(replica.incarnation),
        held: replica.held,
        active: replica.active,
    });
    Details {
        incarnation: details.incarnation,
        version: details.version,
        newest: details.newest,
        rotation: details.rotation,
        replicas: replicas.collect(),
    }
}
