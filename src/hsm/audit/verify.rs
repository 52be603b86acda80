//! Reads a log row by row, in the order in which it was stored, and finds what was changed since.
//!
//! Memory is that of the chains still open, and of those closed since the last anchor. A row's
//! damage is reported once: reading goes on from what the row itself says.

use std::collections::{BTreeSet, HashMap};

use super::super::domain::DomainId;
use super::super::domain::cbor::Malformed;
use super::super::domain::keys::{Kid, PublicKey};
use super::head::{Head, VerifyingKey};
use super::record::{Anchor, Recorded, Row};
use super::{Instance, RECORDS_PER_HEAD, Tip, hash};
use crate::error::{ErrorKind, Result};

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::hsm) enum Damage {
    #[error("this is not a row of a log: {0}")]
    Malformed(&'static str),
    #[error("the row belongs to another chain or another domain")]
    Misplaced,
    #[error("the chain has no beginning here, or was closed before")]
    NoBeginning,
    #[error("the chain begins a second time")]
    SecondBeginning,
    #[error("the chain goes on after it was closed")]
    AfterClose,
    #[error("{}", missing(*.from, *.to))]
    Missing { from: u64, to: u64 },
    #[error("the record is out of order or there twice")]
    OutOfOrder,
    #[error("this row or the one before it was changed, or a head between them is missing")]
    Changed,
    #[error("the time goes back")]
    Backdated,
    #[error("the head does not fit the chain")]
    HeadDoesNotFit,
    #[error("the head names a signer that is not the chain's or not a member's")]
    UnknownSigner,
    #[error("the head's signature does not verify")]
    Signature,
    #[error("a head is missing")]
    HeadMissing,
    #[error("chain {} of which this one saw record {seq} is not there", short(.chain))]
    ChainMissing { chain: Instance, seq: u64 },
    #[error("chain {} ended with record {seq} when this one began, and with {found} here", short(.chain))]
    ChainShorter { chain: Instance, seq: u64, found: u64 },
    #[error("chain {} is not what it was when this one began", short(.chain))]
    ChainDiffers { chain: Instance },
    #[error("chain {} was not there when this one began", short(.chain))]
    ChainInserted { chain: Instance },
    #[error("the chain of the head kept elsewhere is not there")]
    KeptMissing,
    #[error("the head kept elsewhere vouches for records up to {seq}, the chain ends with {found}")]
    KeptTruncated { seq: u64, found: u64 },
    #[error("the chain is not the one that the head kept elsewhere vouches for")]
    KeptDiffers,
}

/// Damage, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Finding {
    /// Number of the row in the order read, from 1; None if it is no row's.
    pub(in crate::hsm) row: Option<u64>,
    pub(in crate::hsm) instance: Instance,
    /// Number of the record, or of the one before a head.
    pub(in crate::hsm) seq: Option<u64>,
    pub(in crate::hsm) damage: Damage,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(row) = self.row {
            write!(f, "row {row}, ")?;
        }
        write!(f, "chain {}", short(&self.instance))?;
        if let Some(seq) = self.seq {
            write!(f, ", record {seq}")?;
        }
        write!(f, ": {}", self.damage)
    }
}

/// A chain that has not been closed: its HSM still runs, or ended without a chance to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct OpenChain {
    pub(in crate::hsm) instance: Instance,
    pub(in crate::hsm) host: String,
    /// Number of the newest record, and the time of the newest row.
    pub(in crate::hsm) seq: u64,
    pub(in crate::hsm) at: u64,
    /// How many records at its end no head vouches for: whoever can write the store could have
    /// changed or added them.
    pub(in crate::hsm) unsigned: u64,
}

/// What the rows read so far are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::hsm) struct Counts {
    pub(in crate::hsm) rows: u64,
    pub(in crate::hsm) chains: u64,
    pub(in crate::hsm) events: u64,
    pub(in crate::hsm) heads: u64,
}

pub(in crate::hsm) struct Report {
    pub(in crate::hsm) counts: Counts,
    /// What only the end of the log shows.
    pub(in crate::hsm) findings: Vec<Finding>,
    /// Ascending by time of the newest row.
    pub(in crate::hsm) open: Vec<OpenChain>,
}

/// `K` gives the public key of a QHSK by its kid, if it was ever a member's of the domain.
pub(in crate::hsm) struct Verifier<K> {
    keys: Keys<K>,
    chains: HashMap<Instance, Progress>,
    /// The chains that have moved since an anchor named them last.
    moved: BTreeSet<Instance>,
    kept: HashMap<Instance, Vec<Kept>>,
    counts: Counts,
    /// Of the row at hand.
    found: Vec<Finding>,
}

struct Progress {
    tip: Tip,
    at: u64,
    host: Box<str>,
    /// Unknown for a chain whose anchor is missing.
    signer: Option<Kid>,
    closed: bool,
    /// How many records may follow before a head; none after an anchor.
    allowed: u64,
    unsigned: u64,
    /// Records since the last head whose signature was verified.
    unverified: u64,
    /// The newest head, if its signature was not verified.
    head: Option<Box<[u8]>>,
}

/// A head kept elsewhere, and how far its chain was seen to come.
struct Kept {
    head: Head,
    met: bool,
    reached: Option<u64>,
}

impl<K: Fn(&Kid) -> Option<PublicKey>> Verifier<K> {
    pub(in crate::hsm) fn new(domain: DomainId, keys: K) -> Self {
        Self {
            keys: Keys { domain, lookup: keys, parsed: HashMap::new() },
            chains: HashMap::new(),
            moved: BTreeSet::new(),
            kept: HashMap::new(),
            counts: Counts::default(),
            found: Vec::new(),
        }
    }

    /// Also demands what a head kept elsewhere vouches for. To be called before the first row.
    /// CKR_DATA_INVALID if it is no head, CKR_SIGNATURE_INVALID if no member signed it.
    pub(in crate::hsm) fn keep(&mut self, head: &[u8]) -> Result<()> {
        let parsed = Head::decode(head).map_err(|Malformed(why)| ErrorKind::DataInvalid.with(why))?;
        self.keys.check(&parsed.signer, head).map_err(|why| ErrorKind::SignatureInvalid.with(why.to_string()))?;
        self.kept.entry(parsed.instance).or_default().push(Kept { head: parsed, met: false, reached: None });
        Ok(())
    }

    #[cfg(test)]
    pub(in crate::hsm) fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes the next row, and says what it shows to be wrong: mostly nothing.
    pub(in crate::hsm) fn row(&mut self, instance: &Instance, row: &[u8]) -> Vec<Finding> {
        self.counts.rows += 1;
        match Row::decode(row) {
            Ok(Row::Anchor(anchor)) => self.anchor(instance, &anchor, row),
            Ok(Row::Event(event)) => self.event(instance, &event, row),
            Ok(Row::Head(head)) => self.head(instance, &head, row),
            Err(Malformed(why)) => self.report(instance, None, Damage::Malformed(why)),
        }
        std::mem::take(&mut self.found)
    }

    /// To be called after the last row.
    pub(in crate::hsm) fn finish(mut self) -> Report {
        let mut open = Vec::new();
        for (instance, chain) in std::mem::take(&mut self.chains) {
            let found = |damage| Finding { row: None, instance, seq: Some(chain.tip.seq), damage };
            if let (Some(signer), Some(head)) = (&chain.signer, &chain.head)
                && let Err(damage) = self.keys.check(signer, head)
            {
                self.found.push(found(damage));
            }
            if chain.allowed == 0 && chain.tip.seq == 0 {
                self.found.push(found(Damage::HeadMissing));
            }
            if !chain.closed {
                let Progress { tip: Tip { seq, .. }, at, host, unsigned, .. } = chain;
                open.push(OpenChain { instance, host: host.into(), seq, at, unsigned });
            }
        }
        for (instance, kept) in &self.kept {
            for Kept { head, met, reached } in kept {
                let damage = match *reached {
                    None => Damage::KeptMissing,
                    Some(found) if found < head.seq => Damage::KeptTruncated { seq: head.seq, found },
                    Some(found) if !met || (head.closed && found > head.seq) => Damage::KeptDiffers,
                    Some(_) => continue,
                };
                self.found.push(Finding { row: None, instance: *instance, seq: Some(head.seq), damage });
            }
        }
        self.found.sort_by_key(|finding| finding.instance);
        open.sort_by_key(|chain| chain.at);
        Report { counts: self.counts, findings: self.found, open }
    }

    fn anchor(&mut self, instance: &Instance, anchor: &Anchor<'_>, row: &[u8]) {
        self.counts.chains += 1;
        if anchor.instance != *instance || anchor.domain != self.keys.domain {
            return self.report(instance, Some(0), Damage::Misplaced);
        }
        if self.chains.contains_key(instance) {
            return self.report(instance, Some(0), Damage::SecondBeginning);
        }
        self.compare_seen(instance, &anchor.seen);
        let tip = Tip { instance: *instance, seq: 0, hash: hash(row) };
        let mut chain = Progress::at(tip, anchor.at);
        chain.host = anchor.host.into();
        chain.signer = Some(anchor.signer);
        chain.allowed = 0;
        chain.unsigned = 1;
        self.advance(chain);
    }

    /// An anchor names exactly the chains that have moved since the anchor before it.
    fn compare_seen(&mut self, instance: &Instance, seen: &[Tip]) {
        for tip in seen {
            let chain = tip.instance;
            let moved = self.moved.remove(&chain);
            let damage = match self.chains.get(&chain) {
                Some(found) if moved && found.tip == *tip => continue,
                Some(found) if found.tip.seq < tip.seq => {
                    Damage::ChainShorter { chain, seq: tip.seq, found: found.tip.seq }
                }
                Some(_) => Damage::ChainDiffers { chain },
                None => Damage::ChainMissing { chain, seq: tip.seq },
            };
            self.report(instance, Some(0), damage);
        }
        for tip in seen {
            if self.chains.get(&tip.instance).is_some_and(|chain| chain.closed) {
                self.chains.remove(&tip.instance);
            }
        }
        for chain in std::mem::take(&mut self.moved) {
            self.report(instance, Some(0), Damage::ChainInserted { chain });
        }
    }

    fn event(&mut self, instance: &Instance, event: &Recorded<'_>, row: &[u8]) {
        self.counts.events += 1;
        let seq = event.seq;
        let tip = Tip { instance: *instance, seq, hash: hash(row) };
        let Some(mut chain) = self.chains.remove(instance) else {
            self.report(instance, Some(seq), Damage::NoBeginning);
            return self.advance(Progress::at(tip, event.at));
        };
        let expected = chain.tip.seq.saturating_add(1);
        if seq < expected {
            self.report(instance, Some(seq), Damage::OutOfOrder);
            self.chains.insert(*instance, chain);
            return;
        }
        if std::mem::take(&mut chain.closed) {
            self.report(instance, Some(seq), Damage::AfterClose);
        } else if seq > expected {
            self.report(instance, Some(seq), Damage::Missing { from: expected, to: seq - 1 });
        } else if event.previous != chain.tip.hash {
            self.report(instance, Some(seq), Damage::Changed);
        } else if chain.allowed == 0 {
            self.report(instance, Some(seq), Damage::HeadMissing);
        }
        if self.found.is_empty() && event.at < chain.at {
            self.report(instance, Some(seq), Damage::Backdated);
        }
        chain.allowed = if chain.allowed == 0 { RECORDS_PER_HEAD } else { chain.allowed } - 1;
        (chain.tip, chain.at) = (tip, event.at);
        chain.unsigned += 1;
        chain.unverified += 1;
        self.advance(chain);
    }

    fn head(&mut self, instance: &Instance, head: &Head, row: &[u8]) {
        self.counts.heads += 1;
        let seq = head.seq;
        if head.instance != *instance {
            return self.report(instance, Some(seq), Damage::Misplaced);
        }
        let tip = Tip { instance: *instance, seq, hash: hash(row) };
        let mut chain = self.chains.remove(instance).unwrap_or_else(|| {
            self.report(instance, Some(seq), Damage::NoBeginning);
            Progress::at(Tip { hash: head.hash, ..tip }, head.at)
        });
        if seq < chain.tip.seq {
            self.report(instance, Some(seq), Damage::OutOfOrder);
            self.chains.insert(*instance, chain);
            return;
        }
        if std::mem::take(&mut chain.closed) {
            self.report(instance, Some(seq), Damage::AfterClose);
        } else if seq != chain.tip.seq || head.hash != chain.tip.hash {
            self.report(instance, Some(seq), Damage::HeadDoesNotFit);
        }
        if self.found.is_empty() && head.at < chain.at {
            self.report(instance, Some(seq), Damage::Backdated);
        }
        let signer = *chain.signer.get_or_insert(head.signer);
        if head.signer != signer {
            self.report(instance, Some(seq), Damage::UnknownSigner);
        } else if head.closed || chain.unverified >= RECORDS_PER_HEAD {
            // The heads in between are part of what this one vouches for.
            if let Err(damage) = self.keys.check(&signer, row) {
                self.report(instance, Some(seq), damage);
            }
            chain.unverified = 0;
            chain.head = None;
        } else {
            chain.head = Some(row.into());
        }
        (chain.tip, chain.at, chain.closed) = (tip, head.at, head.closed);
        (chain.allowed, chain.unsigned) = (RECORDS_PER_HEAD, 0);
        self.advance(chain);
    }

    /// Puts a chain back at its new tip.
    fn advance(&mut self, chain: Progress) {
        let tip = chain.tip;
        if let Some(kept) = self.kept.get_mut(&tip.instance) {
            for kept in kept {
                kept.reached = kept.reached.max(Some(tip.seq));
                kept.met |= (kept.head.seq, kept.head.hash) == (tip.seq, tip.hash);
            }
        }
        self.moved.insert(tip.instance);
        self.chains.insert(tip.instance, chain);
    }

    fn report(&mut self, instance: &Instance, seq: Option<u64>, damage: Damage) {
        self.found.push(Finding { row: Some(self.counts.rows), instance: *instance, seq, damage });
    }
}

impl Progress {
    /// Of a chain found here for the first time.
    fn at(tip: Tip, at: u64) -> Self {
        Self {
            tip,
            at,
            host: Box::default(),
            signer: None,
            closed: false,
            allowed: RECORDS_PER_HEAD,
            unsigned: 0,
            unverified: 0,
            head: None,
        }
    }
}

/// The members' keys, each parsed once.
struct Keys<K> {
    domain: DomainId,
    lookup: K,
    parsed: HashMap<Kid, Option<VerifyingKey>>,
}

impl<K: Fn(&Kid) -> Option<PublicKey>> Keys<K> {
    fn check(&mut self, signer: &Kid, head: &[u8]) -> std::result::Result<(), Damage> {
        let lookup = &self.lookup;
        let find = || lookup(signer).and_then(|key| VerifyingKey::new(&key));
        let key = self.parsed.entry(*signer).or_insert_with(find);
        let key = key.as_ref().ok_or(Damage::UnknownSigner)?;
        if key.signed(&self.domain, head) { Ok(()) } else { Err(Damage::Signature) }
    }
}

fn missing(from: u64, to: u64) -> String {
    if from == to { format!("record {from} is missing") } else { format!("records {from} to {to} are missing") }
}

fn short(instance: &Instance) -> String {
    instance[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}
