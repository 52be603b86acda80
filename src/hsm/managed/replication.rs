//! CKA_KMS_REPLICATION: what a multi-Region key's record says of its other Regions. The changes are
//! in `replication/transitions.rs`; the messages that bring them about are not known here.
//!
//! CBOR `[term, newest, role, [* notice]]` with
//! ```text
//! role    = [1, [* [party, incarnation / null, held, active]], party / null, [party, term] / null]   primary
//!         / [2, party, incarnation, activated: bool]                                                 replica
//! notice  = [party, incarnation, old term]
//! ```
//! Absent on a multi-Region key that is a primary of term 1 and never had to do with another Region.

mod emergency;
mod transitions;

pub(in crate::hsm) use transitions::within_reach;

use cryptoki_sys as ck;
use sha2::{Digest, Sha256};

use super::attributes::{CKA_KMS_KEY_ID, CKA_KMS_REPLICATION, KeyState};
use super::creation::derived;
use super::metadata::Managed;
use super::{Answer, Reason};
use crate::hsm::command::ObjectId;
use crate::hsm::domain::cbor::{Decoded, Decoder, Encoder, Malformed};
use crate::hsm::key::{Key, Secrets};
use crate::hsm::replication::{Incarnation, Party};
use crate::hsm::value::Value;
use crate::text::hex;

/// The most replicas of a key, and the most notices.
pub(in crate::hsm) const MAX_REPLICAS: usize = 64;

/// Of the primary that an emergency replaced, which is no replica.
pub(in crate::hsm) const NO_INCARNATION: Incarnation = [0; 16];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Replication {
    /// +1 with each change of the primary.
    pub(in crate::hsm) term: u64,
    /// The newest version that is here. Above the active one it is pending: it decrypts, and encrypts
    /// nowhere.
    pub(in crate::hsm) newest: u64,
    pub(in crate::hsm) role: Role,
    pub(in crate::hsm) notices: Vec<Notice>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) enum Role {
    Primary {
        /// Ascending by Region, each once.
        replicas: Vec<Replica>,
        /// One of them that is to be the primary.
        handover: Option<Party>,
        /// Who says that it is the primary of this higher term.
        outdated: Option<(Party, u64)>,
    },
    Replica {
        primary: Party,
        incarnation: Incarnation,
        /// Whether the primary counts it, so that it may be used.
        activated: bool,
    },
}

/// A Region that the primary's owner allowed to have the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Replica {
    pub(in crate::hsm) party: Party,
    /// None until its receipt.
    pub(in crate::hsm) incarnation: Option<Incarnation>,
    /// The newest version that it gave a receipt for.
    pub(in crate::hsm) held: u64,
    /// The version that it said is active there.
    pub(in crate::hsm) active: u64,
}

/// Who must still be told who is primary now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Notice {
    pub(in crate::hsm) party: Party,
    /// [`NO_INCARNATION`] for the old primary of an emergency.
    pub(in crate::hsm) incarnation: Incarnation,
    /// The last that it knows.
    pub(in crate::hsm) old_term: u64,
}

/// What a handover says of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Heard {
    /// Of the replica that it is told, or [`NO_INCARNATION`].
    pub(in crate::hsm) incarnation: Incarnation,
    /// The term before.
    pub(in crate::hsm) term: u64,
    pub(in crate::hsm) new_term: u64,
    pub(in crate::hsm) primary: Party,
}

/// What a handover says to the new primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Details {
    /// Of the old primary as a replica.
    pub(in crate::hsm) incarnation: Incarnation,
    pub(in crate::hsm) version: u64,
    pub(in crate::hsm) newest: u64,
    /// Days between rotations, and the next.
    pub(in crate::hsm) rotation: Option<(u64, u64)>,
    /// The registered replicas, the new primary among them.
    pub(in crate::hsm) replicas: Vec<Replica>,
}

/// The record that a deleted replica leaves until its primary has heard of it.
pub(in crate::hsm) fn deleted_object(object: &ObjectId) -> ObjectId {
    let digest = Sha256::new().chain_update(b"deleted").chain_update(object).finalize();
    let mut id = ObjectId::default();
    id.copy_from_slice(&digest[..16]);
    derived(id)
}

/// That record, of a replica whose time is over. Its id finds it; CKA_KMS_REPLICATION is as it was.
pub(in crate::hsm) fn deleted(managed: &Managed, object: &ObjectId) -> Option<Key> {
    let replication = managed.replication.as_ref().filter(|replication| !replication.is_primary())?;
    let text = |text: &str| Value::Bytes(text.as_bytes().to_vec());
    let attributes = [
        (ck::CKA_CLASS, Value::Ulong(super::CKO_KMS_DELETED_REPLICA)),
        (ck::CKA_TOKEN, Value::Bool(true)),
        (ck::CKA_PRIVATE, Value::Bool(true)),
        (ck::CKA_MODIFIABLE, Value::Bool(false)),
        (ck::CKA_COPYABLE, Value::Bool(false)),
        (ck::CKA_DESTROYABLE, Value::Bool(false)),
        (ck::CKA_ID, text(managed.id.as_str())),
        (ck::CKA_UNIQUE_ID, text(&hex(&deleted_object(object)))),
        (CKA_KMS_KEY_ID, text(managed.id.as_str())),
        (CKA_KMS_REPLICATION, Value::Bytes(replication.encode())),
    ];
    Some(Key::new(attributes.into_iter().collect(), Secrets::new()))
}

/// What is still to be sent about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Outstanding {
    /// A request: the Region has not the key, or not its newest version.
    Ship,
    Activate,
    /// A handover, to the new primary or to one that must be told of it.
    Handover,
    /// That a replica is gone from here.
    Deleted,
}

impl Replication {
    /// Of a key that never had to do with another Region.
    pub(in crate::hsm) fn fresh(version: u64) -> Self {
        let role = Role::Primary { replicas: Vec::new(), handover: None, outdated: None };
        Self { term: 1, newest: version, role, notices: Vec::new() }
    }

    pub(in crate::hsm) fn is_primary(&self) -> bool {
        matches!(self.role, Role::Primary { .. })
    }

    /// Those that the primary's owner allowed; none at a replica.
    pub(in crate::hsm) fn replicas(&self) -> &[Replica] {
        match &self.role {
            Role::Primary { replicas, .. } => replicas,
            Role::Replica { .. } => &[],
        }
    }

    pub(in crate::hsm) fn replica(&self, region: &str) -> Option<&Replica> {
        self.replicas().iter().find(|replica| replica.party.region == region)
    }

    /// Those that gave a receipt, with their incarnations: the ones that the primary waits for.
    pub(in crate::hsm) fn registered(&self) -> impl Iterator<Item = (&Replica, Incarnation)> {
        self.replicas().iter().filter_map(|replica| replica.incarnation.map(|incarnation| (replica, incarnation)))
    }

    /// The registered replicas that have not the newest version: what an activation waits for.
    pub(in crate::hsm) fn missing(&self) -> Vec<&Party> {
        self.registered().filter(|(replica, _)| replica.held < self.newest).map(|(replica, _)| &replica.party).collect()
    }

    /// The other Region that a handover is under way to.
    pub(in crate::hsm) fn handover(&self) -> Option<&Party> {
        match &self.role {
            Role::Primary { handover, .. } => handover.as_ref(),
            Role::Replica { .. } => None,
        }
    }

    pub(in crate::hsm) fn outdated(&self) -> Option<&(Party, u64)> {
        match &self.role {
            Role::Primary { outdated, .. } => outdated.as_ref(),
            Role::Replica { .. } => None,
        }
    }

    /// Whether a key whose active version is this may have a newer one now.
    pub(in crate::hsm) fn may_rotate(&self, version: u64) -> bool {
        self.newest == version && matches!(&self.role, Role::Primary { handover: None, outdated: None, .. })
    }

    /// What is still to be sent of a key whose active version is this, in the order of the Regions.
    pub(in crate::hsm) fn outstanding(&self, version: u64) -> Vec<(Party, Outstanding)> {
        let mut due = Vec::new();
        if let Role::Primary { replicas, handover, outdated: None } = &self.role {
            match handover {
                Some(party) => due.push((party.clone(), Outstanding::Handover)),
                None => due.extend(replicas.iter().filter_map(|replica| {
                    let what = match replica.incarnation {
                        Some(_) if replica.held >= version && replica.active < version => Outstanding::Activate,
                        Some(_) if replica.held >= self.newest => return None,
                        _ => Outstanding::Ship,
                    };
                    Some((replica.party.clone(), what))
                })),
            }
        }
        due.extend(self.notices.iter().map(|notice| (notice.party.clone(), Outstanding::Handover)));
        due
    }

    /// What the record of a deleted replica has still to be sent.
    pub(in crate::hsm) fn outstanding_of_deleted(&self) -> Vec<(Party, Outstanding)> {
        let primary = match &self.role {
            Role::Replica { primary, .. } => Some((primary.clone(), Outstanding::Deleted)),
            Role::Primary { .. } => None,
        };
        let notices = self.notices.iter().map(|notice| (notice.party.clone(), Outstanding::Handover));
        primary.into_iter().chain(notices).collect()
    }

    pub(in crate::hsm) fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(4).uint(self.term).uint(self.newest);
        match &self.role {
            Role::Primary { replicas, handover, outdated } => {
                e.array(4).uint(1).list(replicas, |e, replica| {
                    e.array(4);
                    replica.party.encode(e);
                    e.optional(replica.incarnation.as_ref(), |e, incarnation| {
                        e.bytes(incarnation);
                    });
                    e.uint(replica.held).uint(replica.active);
                });
                e.optional(handover.as_ref(), |e, party| party.encode(e));
                e.optional(outdated.as_ref(), |e, (party, term)| {
                    e.array(2);
                    party.encode(e);
                    e.uint(*term);
                });
            }
            Role::Replica { primary, incarnation, activated } => {
                e.array(4).uint(2);
                primary.encode(&mut e);
                e.bytes(incarnation).bool(*activated);
            }
        }
        e.list(&self.notices, |e, notice| {
            e.array(3);
            notice.party.encode(e);
            e.bytes(&notice.incarnation).uint(notice.old_term);
        });
        e.finish()
    }

    pub(in crate::hsm) fn decode(encoded: &[u8]) -> Decoded<Self> {
        let mut d = Decoder::new(encoded);
        d.array_of(4)?;
        let (term, newest) = (d.uint()?, d.uint()?);
        d.array_of(4)?;
        let role = match d.uint()? {
            1 => Role::Primary {
                replicas: d.list(|d| {
                    d.array_of(4)?;
                    let party = Party::decode(d)?;
                    let incarnation = d.optional(Decoder::fixed)?;
                    Ok(Replica { party, incarnation, held: d.uint()?, active: d.uint()? })
                })?,
                handover: d.optional(Party::decode)?,
                outdated: d.optional(|d| {
                    d.array_of(2)?;
                    Ok((Party::decode(d)?, d.uint()?))
                })?,
            },
            2 => Role::Replica { primary: Party::decode(&mut d)?, incarnation: d.fixed()?, activated: d.bool()? },
            _ => return Err(Malformed("a key is a primary or a replica")),
        };
        let notices = d.list(|d| {
            d.array_of(3)?;
            Ok(Notice { party: Party::decode(d)?, incarnation: d.fixed()?, old_term: d.uint()? })
        })?;
        d.end()?;
        let replication = Self { term, newest, role, notices };
        if replication.is_consistent() {
            Ok(replication)
        } else {
            Err(Malformed("what is said of the Regions contradicts itself"))
        }
    }

    fn is_consistent(&self) -> bool {
        let within = |replica: &Replica| {
            replica.active <= replica.held
                && replica.held <= self.newest
                && (replica.incarnation.is_some() || replica.held == 0)
        };
        let replicas = self.replicas();
        let handover = self.handover();
        self.term > 0
            && self.newest > 0
            && replicas.len() <= MAX_REPLICAS
            && replicas.is_sorted_by(|a, b| a.party.region < b.party.region)
            && replicas.iter().all(within)
            && handover.is_none_or(|to| self.registered().any(|(replica, _)| replica.party == *to))
            && self.outdated().is_none_or(|(_, term)| *term > self.term)
    }
}

impl Managed {
    /// Of a multi-Region key. KMS_R_UNSUPPORTED for another.
    pub(in crate::hsm) fn replication(&self) -> Answer<&Replication> {
        self.replication.as_ref().ok_or_else(|| Reason::Unsupported.with("the key is of one Region, for ever"))
    }

    /// Whether a newer version waits for the replicas.
    pub(in crate::hsm) fn is_pending(&self) -> bool {
        self.newest() > self.version
    }

    /// The newest version that is here; above [`Self::version`] it is pending.
    pub(in crate::hsm) fn newest(&self) -> u64 {
        self.replication.as_ref().map_or(self.version, |replication| replication.newest)
    }

    /// What is still to be sent of the key.
    pub(in crate::hsm) fn outstanding(&self) -> Vec<(Party, Outstanding)> {
        let Some(replication) = &self.replication else { return Vec::new() };
        let mut due = replication.outstanding(self.version);
        if matches!(self.state, KeyState::PendingDeletion | KeyState::PendingReplicaDeletion) {
            due.retain(|(_, what)| *what != Outstanding::Ship);
        }
        due
    }

    /// The column by which the store finds keys that something is still to be sent of.
    pub(in crate::hsm) fn is_replicating(&self) -> bool {
        !self.outstanding().is_empty()
    }
}

#[cfg(test)]
mod tests;
