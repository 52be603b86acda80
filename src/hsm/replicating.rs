//! The commands of the exchange with other Regions (`docs/protocols.md`, "Replication"). What a key
//! becomes by a message is for `managed/replication/` to say; what a message says and what is sealed
//! into it, for `replication/`.

mod accepting;
mod deciding;
mod exchanges;
mod offering;
mod receiving;
mod telling;

use std::collections::HashMap;
use std::sync::Arc;

pub(super) use exchanges::Exchanges;
use serde_json::json;
use sha2::{Digest, Sha384};

use super::audit::Action as Audited;
use super::cache::Open;
use super::command::{Held, MessageKind, MessageView, ObjectChange, ObjectId, Replicate, Reply, Ticket};
use super::domain::cbor::Encoder;
use super::domain::keys::PrivateKey;
use super::domain::{Hash, Opened, TrustedRegion};
use super::key::Key;
use super::managed::creation::{self, version_object};
use super::managed::metadata::Managed;
use super::managed::replica::Source;
use super::managed::replication::{Heard, NO_INCARNATION, Replication, Role};
use super::managed::{CKA_KMS_CREATED, CKA_KMS_KEY_ID, CKA_KMS_MANAGED, CKA_KMS_REPLICATION, CKO_KMS_DELETED_REPLICA};
use super::managing::Keys;
use super::permit::Recorded;
use super::replication::{Party, message, refused};
use super::value::{Attributes, Value};
use super::{Access, Hsm};
use crate::error::{Error, ErrorKind, Result};

/// What a peer's clock may differ by, in seconds.
const TOLERANCE: u64 = 60;

impl Hsm {
    /// [`Command::Replicate`](super::Command::Replicate).
    pub(super) fn replicate(&self, ticket: &Ticket, step: Replicate<'_>) -> Result<Reply> {
        let access = self.access(ticket);
        if access != Access::User {
            return Err(
                ErrorKind::UserNotLoggedIn.with("keys are exchanged with other Regions while a user is logged in")
            );
        }
        let opened = self.opened()?;
        let state = opened.state();
        let own = Party { region: state.region.clone(), domain: state.domain };
        let job = Exchanging { hsm: self, access, own, now: self.now(), opened: &opened };
        let (kind, outcome) = match step {
            Replicate::Check { message } => {
                let checked = message::verify(message, job.trusted()).map(|_| Reply::Replicated {
                    change: ObjectChange::default(),
                    message: None,
                    told: String::new(),
                });
                return checked.map_err(|error| job.refuse("message", None, error));
            }
            Replicate::Offer { region, wanted, request } => (MessageKind::Request, job.offer(region, wanted, request)),
            Replicate::Ship { offer, keys, room } => (MessageKind::Offer, job.ship(offer, keys, room)),
            Replicate::Accept { shipment, held } => (MessageKind::Shipment, job.accept(shipment, held)),
            Replicate::Confirm { shipment, stored } => (MessageKind::Shipment, job.confirm(shipment, stored)),
            Replicate::Receive { message, keys } => {
                let kind = message::peek(message).map_err(|error| job.refuse("message", None, error))?.kind;
                (kind, job.receive(kind, message, keys))
            }
            Replicate::Tell { kind, region, keys } => (kind, job.tell(kind, region, keys)),
        };
        outcome.map_err(|failed| match failed {
            Failed { error, recorded: false } => job.refuse(kind.name(), None, error),
            Failed { error, .. } => error,
        })
    }
}

/// What anybody can read of a message. KMS_R_REPLICATION_REFUSED for what is none.
pub fn replication_message(message: &[u8]) -> Result<MessageView> {
    message::peek(message)
}

/// An error, and whether it was recorded with the key that it is about.
struct Failed {
    error: Error,
    recorded: bool,
}

impl<E: Into<Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { error: error.into(), recorded: false }
    }
}

type Attempt<T> = std::result::Result<T, Failed>;

/// One step on its way.
struct Exchanging<'a> {
    hsm: &'a Hsm,
    access: Access,
    /// This Region.
    own: Party,
    now: u64,
    opened: &'a Arc<Opened>,
}

/// What a store has under a key id.
enum Found<'a> {
    Key(Box<OpenKey<'a>>),
    /// What is left of a deleted replica.
    Deleted(Arc<Open>, Replication),
}

impl Found<'_> {
    /// Whether a handover speaks of a replica that is not here any more.
    fn was_replaced(&self, heard: &Heard) -> bool {
        let role = match self {
            Self::Key(key) => key.managed.replication().map(|replication| &replication.role).ok(),
            Self::Deleted(_, replication) => Some(&replication.role),
        };
        heard.incarnation != NO_INCARNATION
            && matches!(role, Some(Role::Replica { incarnation, .. }) if *incarnation != heard.incarnation)
    }
}

/// A multi-Region key, opened but for its other versions.
struct OpenKey<'a> {
    keys: Keys,
    managed: Managed,
    held: Held<'a>,
}

impl<'a> OpenKey<'a> {
    fn object(&self) -> &ObjectId {
        &self.keys.key.record.object
    }

    fn source<'k>(&'k self, versions: &'k [(u64, &'k Key)]) -> Source<'k> {
        Source {
            object: *self.object(),
            key: &self.keys.key.key,
            public: self.keys.public.as_ref().map(|public| (public.record.object, &*public.key)),
            versions,
        }
    }
}

impl Exchanging<'_> {
    fn trusted(&self) -> &[TrustedRegion] {
        &self.opened.state().trusted_regions
    }

    /// A Region that the quorum trusts. KMS_R_NOT_FOUND.
    fn party(&self, region: &str) -> Result<Party> {
        let found = self.trusted().iter().find(|trusted| trusted.name == region);
        let found =
            found.ok_or_else(|| ErrorKind::KmsNotFound.with(format!("the Region {region} is not trusted here")))?;
        Ok(Party { region: found.name.clone(), domain: found.domain })
    }

    /// The RSK that signs.
    fn signer(&self) -> Result<&PrivateKey> {
        self.opened.replication_key()
    }

    fn signed<'b, B: message::Body<'b>>(&self, to: Party, body: B) -> Result<Vec<u8>> {
        message::Message { from: self.own.clone(), to, body }.sign(self.signer()?)
    }

    /// A message of a trusted Region for this one.
    fn open<'b, B: message::Body<'b>>(&self, bytes: &'b [u8]) -> Result<message::Opened<B>> {
        message::Message::open(bytes, &self.own, self.trusted())
    }

    /// The end of a message of a peer, whose clock may differ.
    fn check_end(&self, not_after: u64) -> Result<()> {
        let longest = self.opened.state().limits.offer.saturating_add(TOLERANCE);
        if not_after.saturating_add(TOLERANCE) < self.now {
            return Err(refused("it has expired"));
        }
        if not_after > self.now.saturating_add(longest) {
            return Err(refused("it is good for longer than is allowed here"));
        }
        Ok(())
    }

    fn check_suite(&self, suite: u64) -> Result<()> {
        if self.opened.state().suites.contains(&suite) { Ok(()) } else { Err(refused("its suite is not allowed here")) }
    }

    /// What the store has of a key that is named by this id.
    fn find<'h>(&self, held: Option<&Held<'h>>, key_id: &str) -> Result<Option<Found<'h>>> {
        let Some(held) = held else { return Ok(None) };
        let others = || ErrorKind::DeviceError.with(format!("the records are not those of the key {key_id}"));
        if held.keys.key.columns.class == CKO_KMS_DELETED_REPLICA {
            let open = self.hsm.open(self.access, held.keys.key)?;
            let attributes = &open.key.attributes;
            let replication =
                attributes.bytes(CKA_KMS_REPLICATION).and_then(|encoded| Replication::decode(encoded).ok());
            let named = attributes.bytes(CKA_KMS_KEY_ID) == Some(key_id.as_bytes());
            let replication = replication.filter(|_| named).ok_or_else(others)?;
            return Ok(Some(Found::Deleted(open, replication)));
        }
        let keys = self.hsm.open_keys(self.access, held.keys, None)?;
        let managed = keys.managed()?;
        if keys.id() != key_id {
            return Err(others());
        }
        Ok(Some(Found::Key(Box::new(OpenKey { keys, managed, held: *held }))))
    }

    /// Versions of a key besides the active one, those of them that are there, ascending.
    fn versions(&self, key: &OpenKey<'_>, wanted: impl Iterator<Item = u64>) -> Result<Vec<(u64, Arc<Open>)>> {
        let there: HashMap<&ObjectId, _> = key.held.versions.iter().map(|record| (&record.object, record)).collect();
        let mut found = Vec::new();
        for version in wanted.filter(|version| *version != key.managed.version()) {
            let Some(record) = there.get(&version_object(key.object(), version)) else { continue };
            let open = self.hsm.open(self.access, record)?;
            if open.key.attributes.get(CKA_KMS_KEY_ID) != key.keys.attributes().get(CKA_KMS_KEY_ID) {
                return Err(ErrorKind::DeviceError.with("a version is another key's"));
            }
            found.push((version, open));
        }
        Ok(found)
    }

    /// The change that makes a key what `after` says. Of a version that comes into force, the material is
    /// brought into place.
    fn change(&self, key: &OpenKey<'_>, after: &Managed) -> Result<ObjectChange> {
        if *after == key.managed {
            return Ok(ObjectChange::default());
        }
        let version = after.version();
        if version == key.managed.version() {
            return self.hsm.edit_key(&key.keys, |attributes| after.write(attributes));
        }
        let pending = self.version(key, version)?;
        let (active, before) = creation::activate(&key.keys.key.key, key.object(), &pending.key, after)?;
        Ok(ObjectChange {
            insert: vec![self.hsm.seal_any(before, version_object(key.object(), key.managed.version()), 1)?],
            replace: vec![self.hsm.replacement(&key.keys.key, active)?],
            delete: vec![(pending.record.object, pending.record.generation)],
            ..ObjectChange::default()
        })
    }

    /// A version that is there. CKR_DEVICE_ERROR.
    fn version(&self, key: &OpenKey<'_>, version: u64) -> Result<Arc<Open>> {
        let found = self.versions(key, std::iter::once(version))?.pop();
        let missing =
            || ErrorKind::DeviceError.with(format!("version {version} of the key {} is missing", key.keys.id()));
        found.map(|(_, open)| open).ok_or_else(missing)
    }

    /// When a version that is not the active one was made.
    fn made(&self, key: &OpenKey<'_>, version: u64) -> Result<Option<u64>> {
        Ok(self.version(key, version)?.key.attributes.ulong(CKA_KMS_CREATED))
    }

    /// Records what was done with a key for, or by, another Region.
    fn record(&self, action: Audited, key: &Attributes, region: &str) -> Result<()> {
        let recorded = Recorded { target: Some(region), ..Recorded::of(action, key) };
        self.hsm.recorded(&recorded, Ok(()))
    }

    /// Records that a message was refused; other errors are this Region's own.
    fn refuse(&self, kind: &str, key_id: Option<&str>, error: Error) -> Error {
        if error.kind() != ErrorKind::KmsReplicationRefused {
            return error;
        }
        let key: Option<Attributes> = key_id.map(|id| {
            let id = Value::Bytes(id.as_bytes().to_vec());
            [(CKA_KMS_MANAGED, Value::Bool(true)), (CKA_KMS_KEY_ID, id)].into_iter().collect()
        });
        let recorded =
            Recorded { action: Audited::RefuseReplication, key: key.as_ref(), target: Some(kind), context: None };
        self.hsm.recorded::<()>(&recorded, Err(error)).err().unwrap_or_else(|| ErrorKind::GeneralError.into())
    }

    /// An error with one key of a message.
    fn failed(&self, kind: MessageKind, key_id: &str, error: Error) -> Failed {
        Failed { error: self.refuse(kind.name(), Some(key_id), error), recorded: true }
    }
}

/// Adds a key's change to that of a whole message.
fn add(all: &mut ObjectChange, one: ObjectChange) {
    let ObjectChange { insert, replace, delete, purge, limit: _ } = one;
    all.insert.extend(insert);
    all.replace.extend(replace);
    all.delete.extend(delete);
    all.purge.extend(purge);
}

/// What is told of a step: the keys that it was done for, and those that were refused.
fn told(done: &[&str], refused: &[(&str, Error)]) -> String {
    let refused: Vec<_> =
        refused.iter().map(|(key, error)| json!({ "KeyId": key, "Reason": error.to_string() })).collect();
    json!({ "KeyIds": done, "Refused": refused }).to_string()
}

/// Over the ids of a message's keys, in their order.
fn hash_of_ids<'k>(ids: impl Iterator<Item = &'k str>) -> Hash {
    let mut hash = Sha384::new();
    for id in ids {
        let mut e = Encoder::new();
        e.text(id);
        hash.update(e.finish());
    }
    hash.finalize().into()
}

/// That there is one place for each key of a message.
fn check_places(keys: usize, places: usize) -> Result<()> {
    if keys == places {
        return Ok(());
    }
    Err(ErrorKind::ArgumentsBad.with("there must be one place for each key of the message"))
}
