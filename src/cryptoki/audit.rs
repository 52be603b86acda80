//! The audit log as the host sees to it: the chain is begun before the first call on a managed key,
//! records are stored after calls and by a thread of the library's own, and the chain is closed with
//! the login.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use super::reseal::Threads;
use super::token::Token;
use super::{Module, SessionHandle};
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{self, AuditFlush, AuditMode, AuditReport, Command, Outcome, Reply, Ticket, audit_line};

/// How long the library's own thread rests between two looks.
const REST: Duration = Duration::from_millis(200);

/// How many rows are read at once.
const PAGE: usize = 1000;

/// What stores the records of a token in this process.
pub(super) struct Auditing {
    threads: Threads,
    /// The thread that does it is there.
    running: AtomicBool,
    /// The user knows that the log cannot be written.
    warned: AtomicBool,
}

impl Auditing {
    pub(super) fn new(threads: Threads) -> Self {
        Self { threads, running: AtomicBool::new(false), warned: AtomicBool::new(false) }
    }
}

impl Module {
    /// A signed head for the whole audit log as it is now: a few hundred bytes to keep elsewhere. Needs a
    /// login.
    pub fn audit_head(&self, session: SessionHandle) -> Result<Vec<u8>> {
        let session = self.session(session)?;
        let ticket = session.enter()?.credentials.ticket.clone();
        let token = &session.token;
        match token.channel.call(&ticket, Command::AuditHead { host: host_name(), store: &*token.store })? {
            Reply::Bytes(head) => Ok(head),
            _ => Err(unexpected()),
        }
    }

    /// Rows of the audit log above the number `after`, at most `limit`: the number of each, and the row as
    /// a line of JSON. Needs a login.
    pub fn read_audit(&self, session: SessionHandle, after: u64, limit: usize) -> Result<Vec<(u64, String)>> {
        let session = self.session(session)?;
        if session.enter()?.credentials.holder.is_none() {
            return Err(ErrorKind::UserNotLoggedIn.with("the audit log is for those who may log in"));
        }
        let rows = session.token.store.audit(after, limit)?;
        Ok(rows.iter().map(|row| (row.id, audit_line(row.id, &row.instance, &row.bytes))).collect())
    }

    /// Reads the whole audit log and says what is wrong with it, also against a head that was kept
    /// elsewhere. `progress` is told how many rows are done, of about how many. Needs no login.
    /// CKR_DATA_INVALID or CKR_SIGNATURE_INVALID if the head is none of this domain.
    pub fn verify_audit(
        &self,
        session: SessionHandle,
        head: Option<&[u8]>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<AuditReport> {
        let session = self.session(session)?;
        drop(session.enter()?);
        let token = &session.token;
        let newest = token.domain_token()?;
        let origin = token.store.origin()?;
        let entries = match &origin {
            Some(origin) => token.store.log(origin.version, newest.version)?,
            None => Vec::new(),
        };
        let begin = Command::AuditVerifier { origin: origin.as_ref(), entries: &entries };
        let Reply::AuditVerifier(mut verifier) = token.channel.call(&Ticket::public(), begin)? else {
            return Err(unexpected());
        };
        if let Some(head) = head {
            verifier.keep(head)?;
        }
        let (mut done, mut after, total) = (0, 0, token.store.newest_audit_row()?);
        loop {
            let rows = token.store.audit(after, PAGE)?;
            let Some(last) = rows.last() else { return Ok(verifier.finish()) };
            after = last.id;
            done += rows.len() as u64;
            rows.iter().for_each(|row| verifier.row(row.id, &row.instance, &row.bytes));
            progress(done, total.max(done));
        }
    }
}

impl Module {
    /// At the process's end: closes the chains that are being written, for at most so long. The thread that
    /// ends the process may be inside a call, so another does it, where threads are allowed.
    pub fn close_audit(&'static self, patience: Duration) {
        let tokens: Vec<Arc<Token>> =
            self.open_tokens().into_iter().filter(|token| token.channel.audit().open).collect();
        if tokens.is_empty() {
            return;
        }
        let close = move || {
            for token in &tokens {
                token.close_audit();
                token.channel.settle();
            }
        };
        if matches!(self.settings.threads, Threads::Forbidden) {
            return close();
        }
        let (done, closed) = mpsc::channel();
        let work = move || {
            if hsm::prepare_thread().is_ok() {
                close();
            }
            // Nobody may wait any longer.
            let _ = done.send(());
        };
        if std::thread::Builder::new().spawn(work).is_ok() {
            let _ = closed.recv_timeout(patience);
        }
    }
}

impl Token {
    /// Makes a call of the HSM that may be about a managed key, with its record. Where the log is strict,
    /// the answer is dropped (and what is secret in it wiped) unless the record is stored, so that nothing
    /// of it is given out or committed.
    pub(super) fn audited<T>(self: &Arc<Self>, managed: bool, call: impl FnOnce() -> Result<T>) -> Result<T> {
        if !managed {
            return call();
        }
        self.audit_before()?;
        let answer = call();
        let stored = self.audit_after();
        let answer = answer?;
        stored.map(|()| answer)
    }

    /// As [`Self::audited`], for a call that writes: what it wrote is wiped unless its record is stored.
    pub(super) fn audited_output(
        self: &Arc<Self>,
        managed: bool,
        mut output: Option<&mut [u8]>,
        call: impl FnOnce(Option<&mut [u8]>) -> Result<Outcome>,
    ) -> Result<Outcome> {
        if !managed {
            return call(output);
        }
        self.audit_before()?;
        let outcome = call(output.as_deref_mut());
        let stored = self.audit_after();
        if let (Ok(Outcome::Written(written)), Err(_), Some(output)) = (&outcome, &stored, output) {
            output.iter_mut().take(*written).for_each(|byte| *byte = 0);
        }
        let outcome = outcome?;
        stored.map(|()| outcome)
    }

    /// To be called before a call on a managed key: begins the chain if there is none. Fails in strict
    /// mode only.
    pub(super) fn audit_before(&self) -> Result<()> {
        let status = self.channel.audit();
        if status.mode == AuditMode::Off || status.open {
            return Ok(());
        }
        let begin = Command::BeginAudit { host: host_name(), store: &*self.store };
        match self.channel.call(&Ticket::public(), begin) {
            // Nobody is logged in: the call itself is refused.
            Err(error) if error.kind() == ErrorKind::UserNotLoggedIn => Ok(()),
            begun => self.settle(status.mode, begun.map(drop)),
        }
    }

    /// To be called after a call on a managed key, before its output is given or its change committed.
    /// Fails in strict mode only, when the record cannot be stored.
    pub(super) fn audit_after(self: &Arc<Self>) -> Result<()> {
        let status = self.channel.audit();
        let flush = match status.mode {
            AuditMode::Off => return Ok(()),
            AuditMode::Strict => Some(AuditFlush::Recorded),
            AuditMode::On => status.due.then_some(AuditFlush::Waiting),
        };
        let stored = flush.map_or(Ok(()), |flush| self.flush_audit(flush));
        self.flush_in_background();
        self.settle(status.mode, stored)
    }

    /// Ends the chain, if there is one, while the key that signs it is there.
    pub(super) fn close_audit(&self) {
        if self.channel.audit().open
            && let Err(error) = self.flush_audit(AuditFlush::Closing)
        {
            tracing::warn!(slot = self.slot, %error, "the audit chain of this login was not closed");
        }
    }

    pub(super) fn flush_audit(&self, flush: AuditFlush) -> Result<()> {
        self.channel.call(&Ticket::public(), Command::FlushAudit { flush, store: &*self.store }).map(drop)
    }

    fn settle(&self, mode: AuditMode, stored: Result<()>) -> Result<()> {
        let warned = &self.auditing.warned;
        match stored {
            Ok(()) => {
                if warned.load(Ordering::Relaxed) && warned.swap(false, Ordering::Relaxed) {
                    tracing::warn!(slot = self.slot, "the audit log is written again");
                }
                Ok(())
            }
            Err(error) if mode == AuditMode::Strict => Err(unrecorded(&error)),
            Err(error) => {
                if !warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(slot = self.slot, %error, "the audit log cannot be written; its records wait");
                }
                Ok(())
            }
        }
    }

    /// Has a thread store what waits, where threads are allowed.
    fn flush_in_background(self: &Arc<Self>) {
        let Auditing { threads: Threads::Allowed(enter), running, .. } = &self.auditing else { return };
        if running.load(Ordering::Relaxed) || !self.channel.audit().waiting || running.swap(true, Ordering::SeqCst) {
            return;
        }
        let (token, enter) = (Arc::clone(self), *enter);
        let work = move || {
            let running = &token.auditing.running;
            if enter().is_err() {
                return running.store(false, Ordering::SeqCst);
            }
            loop {
                token.flush_while_waiting();
                running.store(false, Ordering::SeqCst);
                // What came in between found this thread there.
                if !token.channel.audit().waiting || token.is_removed() || running.swap(true, Ordering::SeqCst) {
                    return;
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("conclave-audit".to_owned()).spawn(work) {
            running.store(false, Ordering::SeqCst);
            tracing::debug!(slot = self.slot, %error, "no thread stores audit records");
        }
    }

    fn flush_while_waiting(&self) {
        loop {
            std::thread::sleep(REST);
            let status = self.channel.audit();
            if !status.waiting || self.is_removed() {
                break;
            }
            if status.due {
                let stored = self.flush_audit(AuditFlush::Waiting);
                // In strict mode it is for the calls to fail.
                let _ = self.settle(AuditMode::On, stored);
            }
        }
    }
}

fn unexpected() -> Error {
    ErrorKind::GeneralError.with("the HSM answered about the audit log with something else")
}

fn unrecorded(error: &Error) -> Error {
    ErrorKind::DeviceError.with(format!("refused, for the audit log cannot be written: {error}"))
}

/// As the operating system has it, asked once; "" if it does not say.
pub(super) fn host_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
        let name = files.iter().find_map(|file| std::fs::read_to_string(file).ok());
        name.unwrap_or_default().trim().to_owned()
    })
}
