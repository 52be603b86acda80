//! The audit log of an HSM instance: which chain it writes, and the commands that begin it, store it
//! and close it. The log itself is `audit/`.
//!
//! No lock is held while rows are stored but `opening`, which nobody takes from within a store.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use super::audit::{self, Batch, Chain, Event, Journal, KeyName, Name, Opening, Sign};
use super::command::{Reply, Ticket};
use super::crypto::Entropy;
use super::domain::{Opened, SigningKey};
use super::managed::CKA_KMS_KEY_ID;
use super::permit::Recorded;
use super::{Access, Hsm};
use crate::error::{ErrorKind, Result};

/// Whether uses of managed keys are recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AuditMode {
    Off,
    /// A use whose record cannot be stored yet succeeds all the same.
    #[default]
    On,
    /// Nothing is given out and nothing is changed before the record is stored.
    Strict,
}

/// How far a chain has come: the number of its newest record, and the hash of its newest row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditTip {
    /// The chain: the random name of the HSM instance that writes it.
    pub instance: [u8; 16],
    pub seq: u64,
    pub hash: [u8; 48],
}

/// Rows of one chain, to be stored all or none, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditBatch<'a> {
    /// The number of the first row in the chain, from 0. A row that is stored already stays.
    pub first: u64,
    pub rows: Cow<'a, [Vec<u8>]>,
    /// Where the chain is with these rows.
    pub tip: AuditTip,
    /// Whether it ends with them.
    pub closed: bool,
}

/// Makes the first rows of a chain, given the tips of all chains of which rows were stored since a chain
/// was begun last, that one's own among them.
pub type AuditOpening = Box<dyn FnOnce(Vec<AuditTip>) -> Result<AuditBatch<'static>> + Send>;

/// Where an HSM's audit rows go, in the order in which they are committed.
pub trait AuditStore: Send + Sync {
    /// Begins a chain: what `opening` makes of the tips is stored in the transaction that read them.
    fn open_audit(&self, opening: AuditOpening) -> Result<()>;

    /// Stores rows, durably.
    fn append_audit(&self, batch: &AuditBatch<'_>) -> Result<()>;
}

impl std::fmt::Debug for dyn AuditStore + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditStore(..)")
    }
}

/// What [`super::Command::FlushAudit`] has to see to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditFlush {
    /// Everything that waits, and a head if one is due.
    Waiting,
    /// That what was recorded until now is stored.
    Recorded,
    /// The chain's end.
    Closing,
}

/// What a host has to know before and after a call on a managed key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuditStatus {
    pub mode: AuditMode,
    /// The chain was begun.
    pub open: bool,
    /// Records, or a head, wait to be stored.
    pub waiting: bool,
    /// Somebody should flush now.
    pub due: bool,
}

/// Takes what is recorded. Streaming operations hold on to it.
pub(super) struct Recorder {
    mode: AuditMode,
    /// Held while a chain is begun.
    opening: Mutex<()>,
    writing: RwLock<Option<Arc<Writing>>>,
    /// Records that came while there was no chain.
    missed: AtomicU64,
    warned: AtomicBool,
}

/// The chain that is being written.
struct Writing {
    journal: Journal,
    host: String,
    key: SigningKey,
}

impl Recorder {
    pub(super) fn new(mode: AuditMode) -> Self {
        Self {
            mode,
            opening: Mutex::default(),
            writing: RwLock::default(),
            missed: AtomicU64::new(0),
            warned: AtomicBool::new(false),
        }
    }

    pub(super) fn status(&self) -> AuditStatus {
        let mut status = AuditStatus { mode: self.mode, ..AuditStatus::default() };
        if self.mode != AuditMode::Off
            && let Some(writing) = self.writing()
        {
            status.open = true;
            status.waiting = writing.journal.waits();
            status.due = status.waiting && writing.journal.due(milliseconds());
        }
        status
    }

    /// Records in the name of a principal; "" is nobody. Fails in strict mode only.
    pub(super) fn record<T>(&self, principal: &str, what: &Recorded<'_>, outcome: &Result<T>) -> Result<()> {
        if self.mode == AuditMode::Off {
            return Ok(());
        }
        let recorded = match self.writing() {
            Some(writing) => writing.push(principal, what, audit::Outcome::of(outcome)),
            None => {
                self.missed.fetch_add(1, Ordering::Relaxed);
                Err(ErrorKind::GeneralError.with("no audit chain was begun"))
            }
        };
        match recorded {
            Ok(()) => {
                if self.warned.load(Ordering::Relaxed) && self.warned.swap(false, Ordering::Relaxed) {
                    tracing::warn!("the audit log takes records again");
                }
                Ok(())
            }
            Err(error) if self.mode == AuditMode::Strict => {
                Err(ErrorKind::DeviceError
                    .with(format!("refused, for it cannot be recorded in the audit log: {error}")))
            }
            Err(error) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "uses of managed keys are missing from the audit log");
                }
                Ok(())
            }
        }
    }

    /// Lets go of a chain, closed or not, and of the key that signs it.
    pub(super) fn forget(&self) {
        drop(self.writing.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn writing(&self) -> Option<Arc<Writing>> {
        self.writing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Writing {
    fn push(&self, principal: &str, what: &Recorded<'_>, outcome: audit::Outcome) -> Result<()> {
        let context = what.context.filter(|context| !context.is_empty());
        let context = context.map(|context| audit::Context::from_encoded(context.encoded())).transpose()?;
        let key = what.key.and_then(|key| key.bytes(CKA_KMS_KEY_ID)).and_then(|id| std::str::from_utf8(id).ok());
        let event = Event {
            principal: name(principal),
            host: name(&self.host),
            action: what.action,
            key: key.and_then(KeyName::new),
            target: what.target.map(name),
            context,
            outcome,
        };
        self.journal.push(&event, milliseconds()).map(drop)
    }

    /// Records how many records came before there was a chain.
    fn push_missed(&self, count: u64) -> Result<()> {
        let (count, host) = (count.to_string(), name(&self.host));
        let outcome = audit::Outcome::of::<()>(&Err(ErrorKind::DeviceError.into()));
        let (principal, action, target) = (Name::NOBODY, audit::Action::RecordsLost, Some(name(&count)));
        let event = Event { principal, host, action, key: None, target, context: None, outcome };
        self.journal.push(&event, milliseconds()).map(drop)
    }
}

impl Hsm {
    pub fn audit_status(&self) -> AuditStatus {
        self.client.recorder.status()
    }

    /// Begins this instance's chain, unless it was begun.
    pub(super) fn begin_audit(&self, host: &str, store: &dyn AuditStore) -> Result<Reply> {
        let recorder = &self.client.recorder;
        let _one = recorder.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if recorder.mode == AuditMode::Off || recorder.writing().is_some() {
            return Ok(Reply::Done);
        }
        let opened = self.opened()?;
        let key = opened.signing_key()?;
        let (chain, _) = open_chain(&opened, host, store, false)?;
        let writing = Writing { journal: Journal::new(chain), host: host.to_owned(), key };
        match recorder.missed.swap(0, Ordering::Relaxed) {
            0 => {}
            missed => writing.push_missed(missed)?,
        }
        // A logout meanwhile leaves nothing behind.
        let installed = self.while_opened(|| {
            *recorder.writing.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(writing));
        });
        installed.map(|()| Reply::Done)
    }

    pub(super) fn flush_audit(&self, flush: AuditFlush, store: &dyn AuditStore) -> Result<Reply> {
        let Some(writing) = self.client.recorder.writing() else { return Ok(Reply::Done) };
        let journal = &writing.journal;
        let (ticket, sign) = match flush {
            AuditFlush::Waiting => (u64::MAX, Sign::WhenDue),
            AuditFlush::Recorded => (journal.pushed(), Sign::WhenDue),
            AuditFlush::Closing => (u64::MAX, Sign::Closing),
        };
        journal.flush(ticket, sign, milliseconds(), &writing.key, |batch| store.append_audit(&owned(batch)))?;
        Ok(Reply::Done)
    }

    /// A signed head that vouches for the whole log as it is now: the last row of a chain that is begun
    /// and closed for it.
    pub(super) fn audit_head(&self, ticket: &Ticket, host: &str, store: &dyn AuditStore) -> Result<Reply> {
        if self.access(ticket) == Access::Public {
            return Err(ErrorKind::UserNotLoggedIn.with("a login opens the key that signs the head"));
        }
        let opened = self.opened()?;
        if let Some(writing) = self.client.recorder.writing() {
            let store = |batch: &Batch<'_>| store.append_audit(&owned(batch));
            writing.journal.flush(u64::MAX, Sign::Now, milliseconds(), &writing.key, store)?;
        }
        let (_, head) = open_chain(&opened, host, store, true)?;
        Ok(Reply::Bytes(head))
    }
}

/// Begins a chain, and closes it at once if so wanted. Gives its last row.
fn open_chain(opened: &Arc<Opened>, host: &str, store: &dyn AuditStore, closed: bool) -> Result<(Chain, Vec<u8>)> {
    let made = Arc::new(Mutex::new(None));
    let (result, host, opened) = (Arc::clone(&made), host.to_owned(), Arc::clone(opened));
    store.open_audit(Box::new(move |seen| {
        let (domain, state) = (opened.state().domain, *opened.public().hash());
        let opening = Opening { domain, state, host: name(&host), seen };
        let (now, key) = (milliseconds(), opened.signing()?);
        let (mut chain, rows) = Chain::open(opening, now, &mut Entropy::System, key)?;
        let mut rows = Vec::from(rows);
        if closed {
            rows.push(chain.head(now, true, key)?);
        }
        let last = rows.last().cloned().unwrap_or_default();
        let batch = AuditBatch { first: 0, rows: Cow::Owned(rows), tip: chain.tip(), closed };
        *result.lock().unwrap_or_else(PoisonError::into_inner) = Some((chain, last));
        Ok(batch)
    }))?;
    let made = made.lock().unwrap_or_else(PoisonError::into_inner).take();
    made.ok_or_else(|| ErrorKind::GeneralError.with("the store began no audit chain"))
}

fn owned<'a>(batch: &Batch<'a>) -> AuditBatch<'a> {
    AuditBatch { first: batch.first, rows: Cow::Borrowed(batch.rows), tip: batch.tip, closed: batch.closed }
}

/// As much of a text as a row holds.
fn name(text: &str) -> Name<'_> {
    let mut end = text.len().min(audit::TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Name::new(&text[..end]).unwrap_or(Name::NOBODY)
}

fn milliseconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
