//! Takes events from many threads and makes one chain of them.
//!
//! A thread that pushes only encodes its event and copies it into a queue, under a lock held for
//! nothing else. Hashing, signing and storing are for whoever flushes, one at a time, for all events
//! that wait: a group commit. Nothing is lost when storing fails; what waits is bounded.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::domain::keys::PrivateKey;
use super::chain::Chain;
use super::record::{Action, Event, Name, Outcome};
use super::{HEAD_INTERVAL, RECORDS_PER_HEAD, Tip};
use crate::error::{ErrorKind, Result};

/// How many bytes of events may wait to be stored.
const BACKLOG: usize = 16 * 1024 * 1024;
const NEVER: u64 = u64::MAX;
/// Time and length come before each event in the queue.
const PREFIX: usize = 12;

/// When a flush signs what has no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Sign {
    /// After a second or 1000 records.
    WhenDue,
    Now,
    /// Now, and nothing follows.
    Closing,
}

/// What is to be stored, all or nothing, in this order.
pub(in crate::hsm) struct Batch<'a> {
    /// The first row's number in the chain, from 0: instance and number name a row, so that a batch
    /// of which nobody knows whether it was stored can be stored again.
    pub(in crate::hsm) first: u64,
    pub(in crate::hsm) rows: &'a [Vec<u8>],
    /// Where the chain is with these rows.
    pub(in crate::hsm) tip: Tip,
    /// Whether it ends with them.
    pub(in crate::hsm) closed: bool,
}

pub(in crate::hsm) struct Journal {
    queue: Mutex<Queue>,
    writer: Mutex<Writer>,
    /// Bytes of events that are not stored.
    backlog: AtomicUsize,
    /// How many pushes are stored.
    stored: AtomicU64,
    /// When somebody should flush.
    deadline: AtomicU64,
}

#[derive(Default)]
struct Queue {
    events: Vec<u8>,
    waiting: u64,
    /// How many were ever pushed.
    pushed: u64,
    /// How many were refused since the last that was not.
    lost: u64,
    closed: bool,
}

struct Writer {
    chain: Chain,
    /// Events from the queue, and how many bytes of them are rows already.
    taken: Vec<u8>,
    done: usize,
    /// The ticket of the last of them.
    ticket: u64,
    /// How many rows of the chain are stored.
    stored: u64,
    /// Rows that are not.
    rows: Vec<Vec<u8>>,
}

impl Journal {
    /// Of a chain whose first rows are stored.
    pub(in crate::hsm) fn new(chain: Chain) -> Self {
        let writer = Writer { chain, taken: Vec::new(), done: 0, ticket: 0, stored: 2, rows: Vec::new() };
        Self {
            queue: Mutex::default(),
            writer: Mutex::new(writer),
            backlog: AtomicUsize::new(0),
            stored: AtomicU64::new(0),
            deadline: AtomicU64::new(NEVER),
        }
    }

    /// Queues an event; the ticket is what [`Self::flush`] waits for. Refused when too much waits to
    /// be stored (the log then says how many events it lacks), and when the journal is closed.
    pub(in crate::hsm) fn push(&self, event: &Event<'_>, now: u64) -> Result<u64> {
        let encoded = event.encode();
        let mut queue = lock(&self.queue);
        if queue.closed {
            return Err(ErrorKind::GeneralError.with("the audit chain is closed"));
        }
        if self.backlog.load(Ordering::Relaxed) > BACKLOG {
            queue.lost += 1;
            return Err(ErrorKind::DeviceMemory.with("too many audit records wait to be stored"));
        }
        if queue.lost > 0 {
            let count = queue.lost.to_string();
            queue.lost = 0;
            if let Some(target) = Name::new(&count) {
                let outcome = Outcome::of::<()>(&Err(ErrorKind::DeviceMemory.into()));
                let action = Action::RecordsLost;
                let (principal, target, host) = (Name::NOBODY, Some(target), event.host);
                let lost = Event { principal, host, action, key: None, target, context: None, outcome };
                self.enqueue(&mut queue, now, &lost.encode());
            }
        }
        self.enqueue(&mut queue, now, &encoded);
        Ok(queue.pushed)
    }

    /// Whether somebody should flush, for events have waited a second, 1000 wait, or a head is due.
    /// Costs one load.
    pub(in crate::hsm) fn due(&self, now: u64) -> bool {
        now >= self.deadline.load(Ordering::Relaxed)
    }

    /// Whether anything waits to be stored or signed.
    pub(in crate::hsm) fn waits(&self) -> bool {
        self.deadline.load(Ordering::Relaxed) != NEVER
    }

    /// The ticket of the newest event.
    pub(in crate::hsm) fn pushed(&self) -> u64 {
        lock(&self.queue).pushed
    }

    /// Makes rows of all events that wait and has them stored. Returns at once if they are signed when
    /// due and another thread has stored the ticket's meanwhile; u64::MAX waits for none. What `store` fails to store is given to the next flush's again.
    pub(in crate::hsm) fn flush(
        &self,
        ticket: u64,
        sign: Sign,
        now: u64,
        key: &PrivateKey,
        store: impl FnOnce(&Batch<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut writer = lock(&self.writer);
        if sign == Sign::WhenDue && self.stored.load(Ordering::Relaxed) >= ticket {
            return Ok(());
        }
        self.take(&mut writer, sign);
        let done = writer.make_rows(sign, now, key).and_then(|()| writer.store(store));
        let again = if done.is_ok() { writer.chain.head_deadline() } else { Some(now.saturating_add(HEAD_INTERVAL)) };
        self.deadline.fetch_min(again.unwrap_or(NEVER), Ordering::Relaxed);
        done?;
        self.backlog.fetch_sub(writer.taken.len(), Ordering::Relaxed);
        self.stored.store(writer.ticket, Ordering::Relaxed);
        writer.taken.clear();
        writer.done = 0;
        Ok(())
    }

    fn enqueue(&self, queue: &mut Queue, now: u64, event: &[u8]) {
        queue.waiting += 1;
        let wait = if queue.waiting < RECORDS_PER_HEAD { HEAD_INTERVAL } else { 0 };
        self.deadline.fetch_min(now.saturating_add(wait), Ordering::Relaxed);
        queue.events.extend_from_slice(&now.to_le_bytes());
        queue.events.extend_from_slice(&(event.len() as u32).to_le_bytes());
        queue.events.extend_from_slice(event);
        queue.pushed += 1;
        self.backlog.fetch_add(PREFIX + event.len(), Ordering::Relaxed);
    }

    fn take(&self, writer: &mut Writer, sign: Sign) {
        let mut queue = lock(&self.queue);
        queue.closed |= sign == Sign::Closing;
        if writer.taken.is_empty() {
            std::mem::swap(&mut writer.taken, &mut queue.events);
        } else {
            writer.taken.append(&mut queue.events);
        }
        writer.ticket = queue.pushed;
        queue.waiting = 0;
        self.deadline.store(NEVER, Ordering::Relaxed);
    }
}

impl Writer {
    /// Makes rows of the events taken, with the heads that are due.
    fn make_rows(&mut self, sign: Sign, now: u64, key: &PrivateKey) -> Result<()> {
        while let Some((at, event)) = next_event(&self.taken, self.done) {
            if self.chain.head_is_due(at) {
                self.rows.push(self.chain.head(at, false, key)?);
            }
            self.rows.push(self.chain.append(at, event)?);
            self.done += PREFIX + event.len();
        }
        let wanted = match sign {
            Sign::WhenDue => self.chain.head_is_due(now),
            Sign::Now => self.chain.head_deadline().is_some(),
            Sign::Closing => !self.chain.closed(),
        };
        if wanted {
            self.rows.push(self.chain.head(now, sign == Sign::Closing, key)?);
        }
        Ok(())
    }

    fn store(&mut self, store: impl FnOnce(&Batch<'_>) -> Result<()>) -> Result<()> {
        let Self { chain, rows, stored, .. } = self;
        if !rows.is_empty() {
            let (tip, closed) = (chain.tip(), chain.closed());
            store(&Batch { first: *stored, rows, tip, closed })?;
            *stored += rows.len() as u64;
            rows.clear();
        }
        Ok(())
    }
}

fn next_event(events: &[u8], at: usize) -> Option<(u64, &[u8])> {
    let (time, rest) = events.get(at..)?.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    Some((u64::from_le_bytes(*time), rest.get(..u32::from_le_bytes(*len) as usize)?))
}

/// A thread that panicked left nothing half done: each change under these locks ends what it began.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
