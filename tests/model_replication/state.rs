//! What the Regions know of a key, what was said, and the rules.

use std::collections::BTreeSet;

use super::promises::Broken;

pub(super) type Region = usize;
pub(super) const A: Region = 0;
pub(super) const B: Region = 1;
pub(super) const C: Region = 2;
pub(super) const REGIONS: [Region; 3] = [A, B, C];

/// Terms from here on are made by promotions.
pub(super) const PROMOTED: u8 = 32;
/// What a Region comes to by following one primary after another.
pub(super) const MOST_INCARNATIONS: u8 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// A version encrypts when all registered replicas hold it.
    Barrier,
    /// A new replica is not used before its primary, having registered it, says so.
    Creating,
    /// A receipt counts for a Region that is still to be a replica.
    Authorised,
    /// A receipt counts for a shorter time than it takes to delete a key.
    Remembered,
    /// A receipt registers a copy that has the active version, no other.
    NotOvertaken,
    /// A receipt does not replace a copy registered after its shipment.
    SameEntry,
    /// Which copy of the key a message is about.
    ActivateIncarnation,
    DeletedIncarnation,
    /// The active version only goes up.
    ActivateUp,
    /// Updates, activations and handovers are the recorded primary's.
    RecordedPrimary,
    ShipmentTerm,
    /// A shipment with fewer versions than are held is an old one.
    ShipmentVersion,
    /// A version that was in use is not replaced.
    SameVersion,
    /// An unregistered copy gets all versions, whatever it says it holds.
    ShipAll,
    /// No new copy while the primary has not been told that the last one is gone.
    Tombstone,
    /// A copy that is gone is told who must know that, when the primary changes.
    TombstoneTold,
    /// A primary that is handing over registers nothing and forgets nothing.
    Frozen,
    HandoverIncarnation,
    HandoverTerm,
    HandoverSender,
    /// One handover at a time.
    HandoverOnce,
    /// A primary that is handing over gives up nobody: the next one may know of them already.
    KeptWhileMoving,
    TakenTerm,
    /// A promotion by quorum makes a term that no other promotion makes.
    OwnTerm,
    /// A primary that was told of a newer one goes on as one no more;
    Outdated,
    /// one of its replicas must have said so.
    OutdatedListed,
}

/// A primary's knowledge of one replica; `incarnation` is None before a receipt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Entry {
    pub(super) incarnation: Option<u8>,
    pub(super) held: u8,
    pub(super) active: u8,
}

type Entries = [Option<Entry>; 3];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Role {
    /// A handover is to a Region, and has the incarnation that the primary will have as a replica.
    Primary {
        replicas: Entries,
        handover: Option<(Region, u8)>,
        outdated: bool,
    },
    Replica {
        primary: Region,
        incarnation: u8,
    },
}

/// Who must still be told of the primary: Region, incarnation (0: a primary), term that it knows.
type Notice = (Region, u8, u8);

/// A Region's record of the key. Version n's material is `materials[n - 1]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Record {
    pub(super) term: u8,
    pub(super) version: u8,
    pub(super) materials: Vec<u8>,
    pub(super) creating: bool,
    pub(super) role: Role,
    pub(super) notices: BTreeSet<Notice>,
}

impl Record {
    pub(super) fn newest(&self) -> u8 {
        self.materials.len() as u8
    }

    pub(super) fn incarnation(&self) -> Option<u8> {
        match self.role {
            Role::Replica { incarnation, .. } => Some(incarnation),
            Role::Primary { .. } => None,
        }
    }

    pub(super) fn follows(&self, region: Region) -> bool {
        matches!(self.role, Role::Replica { primary, .. } if primary == region)
    }
}

/// What is left of a deleted replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tombstone {
    pub(super) incarnation: u8,
    pub(super) primary: Region,
    pub(super) term: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Shipment {
    pub(super) from: Region,
    pub(super) to: Region,
    pub(super) term: u8,
    pub(super) version: u8,
    /// The versions above this one are shipped.
    pub(super) base: u8,
    pub(super) materials: Vec<u8>,
    /// The incarnation registered when it was made.
    pub(super) registered: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Body {
    Receipt { shipment: usize, incarnation: u8 },
    Activate { incarnation: u8, term: u8, version: u8 },
    Activated { incarnation: u8, version: u8 },
    Deleted { incarnation: u8 },
    Forgotten { incarnation: u8 },
    Handover { incarnation: u8, old: u8, new: u8, primary: Region, details: Option<Details> },
    Taken { new: u8 },
}

/// What only a new primary is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Details {
    pub(super) incarnation: u8,
    pub(super) version: u8,
    pub(super) replicas: Entries,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Message {
    pub(super) from: Region,
    pub(super) to: Region,
    pub(super) body: Body,
}

/// How often each thing may still happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Left {
    pub(super) authorisations: u8,
    pub(super) exchanges: u8,
    pub(super) rotations: u8,
    pub(super) give_ups: u8,
    pub(super) deletions: u8,
    pub(super) handovers: u8,
    pub(super) promotions: u8,
    pub(super) stops: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) records: [Option<Record>; 3],
    pub(super) tombstones: [Option<Tombstone>; 3],
    pub(super) shipments: Vec<Shipment>,
    /// Shipments that their receiver can open, and that their sender takes a receipt for.
    pub(super) open: BTreeSet<usize>,
    pub(super) remembered: BTreeSet<usize>,
    pub(super) said: BTreeSet<Message>,
    pub(super) left: Left,
    /// Incarnations and materials made by each Region.
    pub(super) incarnations: [u8; 3],
    pub(super) made: [u8; 3],
    /// Regions that a quorum gave up, until they are registered again.
    pub(super) given_up: [bool; 3],
    /// Terms and their primaries.
    pub(super) crowned: BTreeSet<(u8, Region)>,
    pub(super) broken: BTreeSet<Broken>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Authorise(Region, Region),
    /// An offer of the second Region reaches the first, which ships.
    Exchange(Region, Region),
    Accept(usize),
    Deliver(Message),
    Rotate(Region),
    GiveUp(Region, Region),
    /// A replica's waiting period is over.
    Delete(Region),
    HandOver(Region, Region),
    /// By quorum: a Region makes itself the primary; a Region follows another that did.
    Promote(Region),
    Follow(Region, Region),
    Stop(Region),
}

impl State {
    pub(super) fn fresh_incarnation(&mut self, region: Region) -> u8 {
        self.incarnations[region] += 1;
        (region as u8 + 1) * 16 + self.incarnations[region]
    }

    pub(super) fn fresh_material(&mut self, region: Region) -> u8 {
        self.made[region] += 1;
        (region as u8 + 1) * 16 + self.made[region]
    }

    pub(super) fn say(&mut self, from: Region, to: Region, body: Body) {
        self.said.insert(Message { from, to, body });
    }

    pub(super) fn crown(&mut self, region: Region, term: u8) {
        if self.crowned.iter().any(|(other, primary)| *other == term && *primary != region) {
            self.broken.insert(Broken::TwoPrimaries);
        }
        self.crowned.insert((term, region));
    }

    /// The registered entries of a primary.
    pub(super) fn entries(&self, region: Region) -> Option<&Entries> {
        match &self.records[region].as_ref()?.role {
            Role::Primary { replicas, .. } => Some(replicas),
            Role::Replica { .. } => None,
        }
    }

    pub(super) fn in_use(&self, region: Region) -> Option<&Record> {
        self.records[region].as_ref().filter(|record| !record.creating && !self.given_up[region])
    }
}
