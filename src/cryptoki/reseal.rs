//! Sealing objects anew after a rotation of the domain key: in the background, on use, and on
//! request. Objects stay in use meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::login::{Credentials, Holder};
use super::token::Token;
use super::{Module, SealedObject, SessionHandle};
use crate::error::{ErrorKind, Result};
use crate::hsm::{Command, Record, Reply, Ticket};
use crate::text::hex;

/// How many objects are committed at once: a commit waits for the disk, and is seen by every session.
const BATCH: usize = 256;
/// Rounds over all objects; more than one only if others change them meanwhile.
const ROUNDS: usize = 4;
/// The library's own thread rests after each batch for half as long as that took, at most for this
/// long: the application has more use for the processor.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// Threads of the library's own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Threads {
    /// CKF_LIBRARY_CANT_CREATE_OS_THREADS.
    Forbidden,
    /// Each calls this first, and ends if it is refused.
    Allowed(fn() -> Result<()>),
}

/// What is being sealed anew in this process.
#[derive(Default)]
pub(super) struct Resealing {
    /// The thread that does it is there.
    running: AtomicBool,
    /// There may be something to do since it began.
    wanted: AtomicBool,
}

/// The right to be that thread.
struct Running<'a>(&'a AtomicBool);

impl<'a> Running<'a> {
    fn begin(running: &'a AtomicBool) -> Option<Self> {
        (!running.swap(true, Ordering::SeqCst)).then_some(Self(running))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Module {
    /// Seals everything anew that is not under the active domain key, and answers how many objects
    /// that were. `progress` is told how many are done, of how many.
    pub fn reseal(&self, session: SessionHandle, progress: &mut dyn FnMut(u64, u64)) -> Result<u64> {
        let session = self.session(session)?;
        let credentials = session.enter()?.credentials.clone();
        session.require_rw()?;
        if credentials.holder.is_none() {
            return Err(ErrorKind::UserNotLoggedIn.with("a login opens the domain"));
        }
        let token = &session.token;
        let active = token.domain().active_key;
        let counts = token.store.count_by_domain_key()?;
        let total = counts.iter().filter(|(key, _)| *key != Some(active)).map(|(_, count)| count).sum();
        token.reseal_all(&credentials.ticket, &mut |done| {
            progress(done, total);
            true
        })
    }
}

impl Module {
    /// The objects that a domain key seals, which are lost with it unless they are sealed anew before.
    /// Looks at every object not under the active key. CKR_FUNCTION_REJECTED if that key is named.
    pub fn sealed_under(&self, session: SessionHandle, key: &[u8]) -> Result<Vec<SealedObject>> {
        let session = self.session(session)?;
        let credentials = session.enter()?.credentials.clone();
        let token = &session.token;
        let active = token.domain().active_key;
        if key == active.as_slice() {
            return Err(ErrorKind::FunctionRejected.with("the active domain key has no deadline"));
        }
        let (mut sealed, mut after) = (Vec::new(), 0);
        loop {
            let found = token.store.sealed_under_other(&active, after, BATCH)?;
            let Some(last) = found.last() else { return Ok(sealed) };
            after = last.row;
            for object in &found {
                let Some(record) = token.store.get(&object.object)? else { continue };
                if record.sealed.domain_key().is_none_or(|under| under[..] != *key) {
                    continue;
                }
                let view = match token.channel.call(&credentials.ticket, Command::View { record: &record }) {
                    Ok(Reply::View(view)) => Some(view),
                    _ => None,
                };
                sealed.push(SealedObject { unique_id: hex(&object.object), view });
            }
        }
    }
}

impl Token {
    /// Has a thread seal anew what is left, if domain keys are old and somebody is logged in.
    pub(super) fn reseal_in_background(self: &Arc<Self>, threads: Threads) {
        let Threads::Allowed(enter) = threads else { return };
        if !self.has_old_keys() || self.credentials().holder.is_none() {
            return;
        }
        // The one that is there looks at this before it ends.
        self.resealing.wanted.store(true, Ordering::SeqCst);
        if self.resealing.running.load(Ordering::SeqCst) {
            return;
        }
        let token = Arc::clone(self);
        let work = move || {
            if enter().is_err() {
                return;
            }
            let Resealing { running, wanted } = &token.resealing;
            while wanted.load(Ordering::SeqCst) {
                let Some(_running) = Running::begin(running) else { return };
                while wanted.swap(false, Ordering::SeqCst) {
                    token.reseal_for_login();
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("conclave-reseal".to_owned()).spawn(work) {
            tracing::warn!(slot = self.slot, %error, "no thread seals objects under the new domain key");
        }
    }

    /// Seals what is left, as long as the login lasts that there is now.
    fn reseal_for_login(&self) {
        let login = self.credentials();
        if login.holder.is_none() {
            return;
        }
        let mut since = Instant::now();
        let done = self.reseal_all(&login.ticket, &mut |_| {
            std::thread::sleep((since.elapsed() / 2).min(LONGEST_REST));
            since = Instant::now();
            self.epoch() == login.epoch && !self.is_removed()
        });
        match done {
            Ok(0) => {}
            Ok(count) => tracing::info!(slot = self.slot, count, "objects were sealed under the new domain key"),
            // It ended with the login.
            Err(_) if self.epoch() != login.epoch || self.is_removed() => {}
            Err(error) => tracing::warn!(slot = self.slot, %error, "sealing under the new domain key stopped"),
        }
    }

    /// Seals what is left, batch by batch, until `go_on` says no. Answers how many objects were.
    pub(super) fn reseal_all(&self, ticket: &Ticket, go_on: &mut dyn FnMut(u64) -> bool) -> Result<u64> {
        let mut done = 0;
        for _ in 0..ROUNDS {
            let (before, mut after, mut missed, mut refused) = (done, 0, false, 0_u64);
            loop {
                // A newer rotation during the work is followed.
                self.check()?;
                let found = self.store.sealed_under_other(&self.domain().active_key, after, BATCH)?;
                let Some(last) = found.last() else { break };
                after = last.row;
                let mut anew = Vec::with_capacity(found.len());
                for object in &found {
                    if let Some(record) = self.store.get(&object.object)? {
                        match self.sealed_anew(ticket, &record) {
                            Ok(record) => anew.extend(record),
                            Err(error) if self.is_over(&error) => return Err(error),
                            Err(error) => {
                                refused += 1;
                                tracing::debug!(slot = self.slot, %error, "an object was not sealed anew");
                            }
                        }
                    }
                }
                let replaced = self.store.replace_all(&anew)?;
                done += replaced.iter().filter(|replaced| **replaced).count() as u64;
                missed |= replaced.contains(&false);
                if !go_on(done) {
                    return Ok(done);
                }
            }
            if !missed || done == before {
                if refused > 0 {
                    tracing::warn!(slot = self.slot, refused, "objects were not sealed anew: damaged, revoked or lost");
                }
                break;
            }
        }
        Ok(done)
    }

    /// An object that is about to be used, sealed under the active domain key if it was not; as it
    /// is if that fails, since the use does not depend on it.
    pub(super) fn reseal_on_use(&self, login: &Credentials, record: Record) -> Record {
        if !self.has_old_keys() || !matches!(login.holder, Some(Holder::User(_))) {
            return record;
        }
        let domain = self.domain();
        let old = record.sealed.domain_key().is_some_and(|key| domain.old_keys.iter().any(|old| old.id == key));
        if !old {
            return record;
        }
        let anew = self.sealed_anew(&login.ticket, &record).ok().flatten();
        match anew {
            Some(anew) if self.store.replace(&anew).is_ok() => anew,
            _ => record,
        }
    }

    /// None if it is under the active domain key already.
    fn sealed_anew(&self, ticket: &Ticket, record: &Record) -> Result<Option<Record>> {
        match self.channel.call(ticket, Command::Reseal { record })? {
            Reply::Done => Ok(None),
            Reply::Records(mut records) if records.len() == 1 => Ok(records.pop()),
            _ => Err(ErrorKind::GeneralError.with("the HSM answered a re-sealing with something else")),
        }
    }
}
