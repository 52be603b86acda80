//! One token as this process has it open: its store, its HSM, its login and its objects.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::SlotId;
use super::approvals::Awaited;
use super::audit::Auditing;
use super::login::{Credentials, Holder};
use super::objects::Objects;
use super::reseal::{Resealing, Threads};
use crate::channel::Channel;
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{Command, DomainToken, DomainView, Log, Reply, Ticket};
use crate::store::{Meta, Store};

/// The counter value that no store has.
pub(super) const NEVER: u64 = u64::MAX;

/// A token between its initialisation and the next one. When it is initialised anew, by this
/// process or another, this object is dead and the slot gets a new one.
pub(super) struct Token {
    pub(super) slot: SlotId,
    pub(super) store: Arc<dyn Store>,
    pub(super) channel: Box<dyn Channel>,
    pub(super) objects: Objects,
    /// Serialises what hashes PINs, so that the login state does not change beneath it. Never held
    /// by a call that only uses keys.
    pub(super) gate: Mutex<()>,
    pub(super) resealing: Resealing,
    pub(super) awaited: Awaited,
    pub(super) auditing: Auditing,
    serial: String,
    removed: AtomicBool,
    /// The store's counter, made even, when `serial` and the domain were last compared.
    seen: AtomicU64,
    /// The domain token that the HSM was last brought to.
    held: Mutex<DomainToken>,
    /// What the HSM said of it.
    domain: RwLock<Arc<DomainView>>,
    /// Its version, and whether it has domain keys which only decrypt, to be read without the lock.
    version: AtomicU64,
    old_keys: AtomicBool,
    login: RwLock<Credentials>,
    /// `login.epoch`, to be read without the lock.
    epoch: AtomicU32,
    sessions: AtomicU64,
    rw_sessions: AtomicU64,
}

impl Token {
    /// Opens a token: reads its own rows and gives the HSM the domain's public part.
    pub(super) fn open(
        slot: SlotId,
        store: Arc<dyn Store>,
        channel: Box<dyn Channel>,
        threads: Threads,
    ) -> Result<Self> {
        let counter = store.counter();
        let meta = store.meta()?;
        let log = Log { after: meta.domain.version, entries: &[] };
        let domain = adopted(channel.call(&Ticket::public(), Command::Adopt { domain: &meta.domain, log })?)?;
        Ok(Self {
            slot,
            store,
            channel,
            objects: Objects::new(),
            gate: Mutex::new(()),
            serial: meta.serial,
            removed: AtomicBool::new(false),
            seen: AtomicU64::new(counter & !1),
            held: Mutex::new(meta.domain),
            version: AtomicU64::new(domain.version),
            old_keys: AtomicBool::new(!domain.old_keys.is_empty()),
            domain: RwLock::new(Arc::new(domain)),
            resealing: Resealing::default(),
            awaited: Awaited::default(),
            auditing: Auditing::new(threads),
            login: RwLock::new(Credentials::nobody(0)),
            epoch: AtomicU32::new(0),
            sessions: AtomicU64::new(0),
            rw_sessions: AtomicU64::new(0),
        })
    }

    /// Sees what other processes did to the token as a whole; one comparison when nothing did.
    /// CKR_DEVICE_REMOVED once the token was initialised anew.
    #[inline]
    pub(super) fn check(&self) -> Result<()> {
        // An odd counter is a commit under way, not yet acknowledged to anyone.
        let counter = self.store.counter() & !1;
        if counter == self.seen.load(Ordering::Acquire) {
            return Ok(());
        }
        self.look_again(counter)
    }

    /// [`Self::check`] without trust in the counter, which whoever edits the file does not move.
    pub(super) fn look_anew(&self) -> Result<()> {
        let counter = self.store.counter() & !1;
        self.store.forget();
        self.look_again(counter)
    }

    #[cold]
    fn look_again(&self, counter: u64) -> Result<()> {
        let looked = self.take_newer(counter);
        self.channel.settle();
        looked
    }

    fn take_newer(&self, counter: u64) -> Result<()> {
        let mut held = lock(&self.held);
        if self.is_removed() {
            return Err(ErrorKind::DeviceRemoved.into());
        }
        let meta = match self.store.meta() {
            Ok(meta) if meta.serial == self.serial => meta,
            Err(error) if error.kind() != ErrorKind::DeviceRemoved => return Err(error),
            // Initialised anew, or destroyed.
            _ => {
                self.mark_removed();
                self.clear_login();
                return Err(ErrorKind::DeviceRemoved.into());
            }
        };
        // An older token, or another of the same version, is for the HSM to refuse.
        if meta.domain != *held {
            let after = held.version;
            let newer = meta.domain.version > after;
            let entries = if newer { self.store.log(after, meta.domain.version)? } else { Vec::new() };
            let log = Log { after, entries: &entries };
            let domain = self.channel.call(&Ticket::public(), Command::Adopt { domain: &meta.domain, log });
            let domain = domain.map_err(|error| self.refused(error)).and_then(adopted)?;
            *held = meta.domain;
            let login_ended = domain.login_ended;
            self.version.store(domain.version, Ordering::Release);
            self.old_keys.store(!domain.old_keys.is_empty(), Ordering::Release);
            *self.domain.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(domain);
            if login_ended {
                self.clear_login_at_once();
            }
        }
        self.seen.store(counter, Ordering::Release);
        Ok(())
    }

    /// Why the HSM does not take what is stored: a token that is damaged, whichever call notices. It is
    /// looked at anew the next time, for it may be put right by hand.
    #[cold]
    fn refused(&self, error: Error) -> Error {
        self.store.forget();
        match error.kind() {
            ErrorKind::FunctionRejected | ErrorKind::DataInvalid => {
                let why = error.detail().unwrap_or("its log is refused");
                ErrorKind::TokenNotRecognized.with(format!("the stored log was refused: {why}"))
            }
            _ => error,
        }
    }

    /// The domain as the HSM holds it.
    pub(super) fn domain(&self) -> Arc<DomainView> {
        Arc::clone(&self.domain.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn domain_version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether the domain is known to be the one of this value of the store's counter.
    pub(super) fn has_seen(&self, counter: u64) -> bool {
        self.seen.load(Ordering::Acquire) == counter & !1
    }

    /// Whether the domain has keys that only decrypt. One load.
    #[inline]
    pub(super) fn has_old_keys(&self) -> bool {
        self.old_keys.load(Ordering::Acquire)
    }

    /// The log's entries from the version that the HSM was last brought to, up to that of `meta`,
    /// and the version before the first.
    pub(super) fn log_to(&self, meta: &Meta) -> Result<(u64, Vec<Vec<u8>>)> {
        let held = lock(&self.held).version;
        Ok((held, self.store.log(held, meta.domain.version)?))
    }

    /// The newest domain token: the stored one, which the HSM has taken.
    pub(super) fn domain_token(&self) -> Result<DomainToken> {
        self.look_anew()?;
        Ok(lock(&self.held).clone())
    }

    /// The token is no longer in its slot: every later call of its sessions fails.
    pub(super) fn remove(&self) {
        let no_look = lock(&self.held);
        self.mark_removed();
        self.clear_login();
        drop(no_look);
        self.channel.settle();
    }

    /// With `held` locked, so that `seen` is not overwritten.
    fn mark_removed(&self) {
        self.removed.store(true, Ordering::Release);
        self.seen.store(NEVER, Ordering::Release);
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Whether what failed so for one object fails for all: without a login, a token or an HSM.
    pub(super) fn is_over(&self, error: &Error) -> bool {
        matches!(error.kind(), ErrorKind::UserNotLoggedIn | ErrorKind::DeviceRemoved) || !self.channel.serves()
    }

    pub(super) fn meta(&self) -> Result<Meta> {
        self.store.meta()
    }

    // Sessions

    /// Counts a session in. CKR_SESSION_READ_WRITE_SO_EXISTS, CKR_DEVICE_REMOVED.
    pub(super) fn enter_session(&self, rw: bool) -> Result<()> {
        let login = self.login.read().unwrap_or_else(PoisonError::into_inner);
        if self.is_removed() {
            return Err(ErrorKind::DeviceRemoved.into());
        }
        if !rw && login.is_so() {
            return Err(ErrorKind::SessionReadWriteSoExists.into());
        }
        self.sessions.fetch_add(1, Ordering::AcqRel);
        if rw {
            self.rw_sessions.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Counts a session out. With the last one goes the login (PKCS#11 3.2 §5.6, C_CloseSession).
    pub(super) fn leave_session(&self, rw: bool) {
        if rw {
            self.rw_sessions.fetch_sub(1, Ordering::AcqRel);
        }
        if self.sessions.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut login = self.login.write().unwrap_or_else(PoisonError::into_inner);
            if self.sessions.load(Ordering::Acquire) == 0 {
                self.clear(&mut login);
            }
            drop(login);
            self.channel.settle();
        }
    }

    /// All sessions, and those of them that are read/write.
    pub(super) fn session_counts(&self) -> (u64, u64) {
        (self.sessions.load(Ordering::Acquire), self.rw_sessions.load(Ordering::Acquire))
    }

    /// Takes the token out of use if no session is open; else CKR_SESSION_EXISTS.
    pub(super) fn remove_if_idle(&self) -> Result<()> {
        let _no_look = lock(&self.held);
        let _no_entry = self.login.write().unwrap_or_else(PoisonError::into_inner);
        if self.session_counts().0 != 0 {
            return Err(ErrorKind::SessionExists.into());
        }
        self.mark_removed();
        Ok(())
    }

    // Login

    #[inline]
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn credentials(&self) -> Credentials {
        self.login.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Enters the ticket of a login that the HSM granted, unless the state has changed since it was
    /// asked, when the epoch was `before`: then the HSM forgets it and the reason is the error.
    pub(super) fn begin_login(&self, holder: Holder, ticket: Ticket, before: u32) -> Result<()> {
        let mut login = self.login.write().unwrap_or_else(PoisonError::into_inner);
        let (all, rw) = self.session_counts();
        let refusal = if self.is_removed() {
            Some(ErrorKind::DeviceRemoved)
        } else if all == 0 {
            Some(ErrorKind::SessionClosed)
        } else if holder == Holder::So && all != rw {
            Some(ErrorKind::SessionReadOnlyExists)
        } else if login.epoch != before {
            // The domain's next state took the PIN.
            Some(ErrorKind::UserPinNotInitialized)
        } else {
            None
        };
        if let Some(kind) = refusal {
            self.log_out_of_hsm();
            drop(login);
            self.channel.settle();
            return Err(kind.into());
        }
        *login = Credentials { epoch: login.epoch.wrapping_add(1), ticket, holder: Some(holder) };
        self.epoch.store(login.epoch, Ordering::Release);
        Ok(())
    }

    /// As [`Self::clear_login`], when the HSM has ended it; also one that is about to be entered.
    pub(super) fn end_login_at_once(&self) {
        self.clear_login_at_once();
        self.channel.settle();
    }

    /// Ends the login, if there is one: private session objects are gone, handles of private
    /// objects are dead. Answers whether there was one. The caller settles the channel.
    pub(super) fn clear_login(&self) -> bool {
        let mut login = self.login.write().unwrap_or_else(PoisonError::into_inner);
        self.clear(&mut login)
    }

    fn clear_login_at_once(&self) {
        let mut login = self.login.write().unwrap_or_else(PoisonError::into_inner);
        if !self.clear(&mut login) {
            *login = Credentials::nobody(login.epoch.wrapping_add(1));
            self.epoch.store(login.epoch, Ordering::Release);
        }
    }

    fn clear(&self, login: &mut Credentials) -> bool {
        if login.holder.is_none() {
            return false;
        }
        *login = Credentials::nobody(login.epoch.wrapping_add(1));
        self.epoch.store(login.epoch, Ordering::Release);
        self.objects.forget_private();
        self.log_out_of_hsm();
        true
    }

    /// The HSM wipes what the login opened. That cannot be refused; if the HSM is not there, there
    /// is nothing left to wipe. One elsewhere is told by [`Channel::settle`], to be called when no lock is
    /// held.
    pub(super) fn log_out_of_hsm(&self) {
        self.close_audit();
        if let Err(error) = self.channel.call(&Ticket::public(), Command::Logout) {
            tracing::warn!(%error, slot = self.slot, "the HSM did not confirm the logout");
        }
    }
}

fn adopted(reply: Reply) -> Result<DomainView> {
    match reply {
        Reply::Domain(view) => Ok(view),
        _ => Err(ErrorKind::GeneralError.with("the HSM answered an adoption with something else")),
    }
}

/// Locks a mutex whose data stays whole when a holder panics.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
