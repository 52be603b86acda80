//! The chain of one HSM instance, row by row.

use super::super::crypto::Entropy;
use super::super::domain::keys::{Kid, PrivateKey};
use super::super::domain::{DomainId, Hash};
use super::head::Head;
use super::record::{Anchor, Name, encode_event};
use super::{HEAD_INTERVAL, RECORDS_PER_HEAD, Tip, hash};
use crate::error::{ErrorKind, Result};

/// What a chain begins with.
pub(in crate::hsm) struct Opening<'a> {
    pub(in crate::hsm) domain: DomainId,
    /// Hash of the domain's state.
    pub(in crate::hsm) state: Hash,
    pub(in crate::hsm) host: Name<'a>,
    /// The tips of all chains that have moved since an anchor named them last, in any order. They
    /// must hold until the anchor is stored: read them and store it in one transaction.
    pub(in crate::hsm) seen: Vec<Tip>,
}

pub(in crate::hsm) struct Chain {
    domain: DomainId,
    signer: Kid,
    tip: Tip,
    /// Time of the newest row; it never goes back.
    at: u64,
    /// Time of the newest head.
    head_at: u64,
    /// Records that no head vouches for.
    unsigned: u64,
    closed: bool,
}

impl Chain {
    /// Begins the chain of a new instance; `key` is the member's QHSK. Gives its first two rows.
    pub(in crate::hsm) fn open(
        mut opening: Opening<'_>,
        now: u64,
        entropy: &mut Entropy,
        key: &PrivateKey,
    ) -> Result<(Self, [Vec<u8>; 2])> {
        opening.seen.sort_unstable_by_key(|tip| tip.instance);
        let Opening { domain, state, host, seen } = opening;
        let (instance, signer) = (entropy.array()?, key.public()?.kid());
        let anchor = Anchor { at: now, instance, domain, state, signer, host: host.as_str(), seen }.encode();
        let tip = Tip { instance, seq: 0, hash: hash(&anchor) };
        let mut chain = Self { domain, signer, tip, at: now, head_at: now, unsigned: 1, closed: false };
        let head = chain.head(now, false, key)?;
        Ok((chain, [anchor, head]))
    }

    /// Adds an event, as [`super::Event::encode`] gives it, and gives its row. A clock set back
    /// stands still. Fails if a head must come first, and once the chain is closed.
    pub(in crate::hsm) fn append(&mut self, at: u64, event: &[u8]) -> Result<Vec<u8>> {
        if self.closed || self.unsigned >= RECORDS_PER_HEAD {
            return Err(ErrorKind::GeneralError.with("the audit chain takes no record now"));
        }
        let seq = self.tip.seq.checked_add(1).ok_or(ErrorKind::GeneralError)?;
        let at = self.at.max(at);
        let row = encode_event(seq, at, event, &self.tip.hash);
        (self.tip.seq, self.tip.hash, self.at) = (seq, hash(&row), at);
        self.unsigned += 1;
        Ok(row)
    }

    /// Whether a record waits for a head that is due.
    pub(in crate::hsm) fn head_is_due(&self, now: u64) -> bool {
        self.head_deadline().is_some_and(|deadline| now >= deadline || self.unsigned >= RECORDS_PER_HEAD)
    }

    /// When the records that have none get a head; None if all have.
    pub(in crate::hsm) fn head_deadline(&self) -> Option<u64> {
        (!self.closed && self.unsigned > 0).then(|| self.head_at.saturating_add(HEAD_INTERVAL))
    }

    /// Signs how far the chain has come, and gives the row. A failure changes nothing.
    pub(in crate::hsm) fn head(&mut self, now: u64, closed: bool, key: &PrivateKey) -> Result<Vec<u8>> {
        if self.closed {
            return Err(ErrorKind::GeneralError.with("the audit chain is closed"));
        }
        let Tip { instance, seq, hash: newest } = self.tip;
        let at = self.at.max(now);
        let row = Head { instance, seq, hash: newest, at, closed, signer: self.signer }.sign(&self.domain, key)?;
        (self.tip.hash, self.at, self.head_at) = (hash(&row), at, at);
        (self.unsigned, self.closed) = (0, closed);
        Ok(row)
    }

    pub(in crate::hsm) fn tip(&self) -> Tip {
        self.tip
    }

    pub(in crate::hsm) fn closed(&self) -> bool {
        self.closed
    }
}
