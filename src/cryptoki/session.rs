//! Sessions: the table, their state, and the session management functions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};

use cryptoki_sys as ck;

use super::find::Find;
use super::handle::Fast;
use super::login::{Credentials, Holder};
use super::managed::References;
use super::objects::ObjectCache;
use super::operation::Operations;
use super::token::Token;
use super::{Module, ObjectHandle, SessionHandle, SessionInfo, SlotId};
use crate::channel::reads_from;
use crate::error::{ErrorKind, Result};

/// An open session. One thread at a time uses it; the lock makes that true.
pub(super) struct Session {
    pub(super) handle: SessionHandle,
    pub(super) token: Arc<Token>,
    pub(super) rw: bool,
    state: Mutex<State>,
}

/// What a session is in the middle of.
pub(super) struct State {
    closed: bool,
    /// The token's login as this session last saw it.
    pub(super) credentials: Credentials,
    pub(super) cache: ObjectCache,
    pub(super) managed: References,
    pub(super) operations: Operations,
    pub(super) find: Option<Find>,
    /// Session objects that go with this session; may name some that are gone already.
    owned: Vec<ObjectHandle>,
}

impl Session {
    /// Locks the session for one call and brings it up to date with its token: what another
    /// process or session did to the token or the login is seen here.
    #[inline]
    pub(super) fn enter(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if state.closed {
            return Err(ErrorKind::SessionHandleInvalid.into());
        }
        if let Err(error) = self.token.check() {
            if self.token.is_removed() {
                state.cancel_all();
            }
            return Err(error);
        }
        reads_from(self.token.store.stamp());
        if self.token.channel.has_ended_login() {
            self.token.end_login_at_once();
        }
        if state.credentials.epoch != self.token.epoch() {
            state.follow(self.token.credentials());
        }
        Ok(state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| {
            // A call panicked half-way: what it was doing is not to be continued.
            self.state.clear_poison();
            let mut state = poisoned.into_inner();
            state.cancel_all();
            state
        })
    }

    /// Drops what a logout ends, unless the session is busy: then it does so at its next call.
    pub(super) fn catch_up(&self) {
        if let Ok(mut state) = self.state.try_lock()
            && state.credentials.epoch != self.token.epoch()
        {
            state.follow(self.token.credentials());
        }
    }

    /// Ends the session. It is out of the table already. Waits for a call that is inside, unless
    /// told not to.
    fn close(&self, wait: bool) {
        let state = if wait {
            Some(self.lock())
        } else {
            match self.state.try_lock() {
                Ok(state) => Some(state),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            }
        };
        if let Some(mut state) = state {
            state.closed = true;
            state.cancel_all();
            for object in state.owned.drain(..) {
                self.token.objects.remove(object);
            }
        }
        self.token.leave_session(self.rw);
    }

    /// CKR_SESSION_READ_ONLY unless the session may write to the token.
    pub(super) fn require_rw(&self) -> Result<()> {
        if self.rw { Ok(()) } else { Err(ErrorKind::SessionReadOnly.into()) }
    }
}

impl State {
    fn new(credentials: Credentials) -> Self {
        Self {
            closed: false,
            credentials,
            cache: ObjectCache::default(),
            managed: References::default(),
            operations: Operations::default(),
            find: None,
            owned: Vec::new(),
        }
    }

    /// Takes over a login or logout: operations with private keys and searches that could see
    /// private objects end.
    fn follow(&mut self, credentials: Credentials) {
        self.credentials = credentials;
        self.cache = ObjectCache::default();
        self.managed = References::default();
        self.operations.cancel_private();
        if self.find.as_ref().is_some_and(Find::sees_private) {
            self.find = None;
        }
    }

    pub(super) fn cancel_all(&mut self) {
        self.operations = Operations::default();
        self.find = None;
    }

    pub(super) fn own(&mut self, token: &Token, object: ObjectHandle) {
        // Objects destroyed through other sessions leave their handles here; now and then they go.
        if self.owned.len() == self.owned.capacity() && self.owned.len() >= 1024 {
            self.owned.retain(|&handle| token.objects.contains(handle));
        }
        self.owned.push(object);
    }

    pub(super) fn disown(&mut self, object: ObjectHandle) {
        if let Some(at) = self.owned.iter().rposition(|&handle| handle == object) {
            self.owned.swap_remove(at);
        }
    }
}

const SHARDS: usize = 64;

/// All open sessions by handle, in shards so that threads do not meet.
pub(super) struct Sessions([Shard; SHARDS]);

#[repr(align(64))]
#[derive(Default)]
struct Shard(RwLock<HashMap<SessionHandle, Arc<Session>, Fast>>);

impl Sessions {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Shard::default()))
    }

    fn shard(&self, handle: SessionHandle) -> &RwLock<HashMap<SessionHandle, Arc<Session>, Fast>> {
        &self.0[handle as usize % SHARDS].0
    }

    fn get(&self, handle: SessionHandle) -> Option<Arc<Session>> {
        self.shard(handle).read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()
    }

    fn insert(&self, session: Arc<Session>) {
        self.shard(session.handle).write().unwrap_or_else(PoisonError::into_inner).insert(session.handle, session);
    }

    fn take(&self, handle: SessionHandle) -> Option<Arc<Session>> {
        self.shard(handle).write().unwrap_or_else(PoisonError::into_inner).remove(&handle)
    }

    fn select(&self, wanted: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let mut selected = Vec::new();
        for shard in &self.0 {
            let shard = shard.0.read().unwrap_or_else(PoisonError::into_inner);
            selected.extend(shard.values().filter(|session| wanted(session)).cloned());
        }
        selected
    }
}

impl Module {
    /// CKR_SESSION_HANDLE_INVALID, CKR_CRYPTOKI_NOT_INITIALIZED.
    #[inline]
    pub(super) fn session(&self, handle: SessionHandle) -> Result<Arc<Session>> {
        match self.sessions.get(handle) {
            Some(session) => Ok(session),
            None => {
                self.check_open()?;
                Err(ErrorKind::SessionHandleInvalid.into())
            }
        }
    }

    /// C_OpenSession. Touches no store.
    pub fn open_session(&self, slot: SlotId, flags: ck::CK_FLAGS) -> Result<SessionHandle> {
        self.check_open()?;
        if flags & ck::CKF_SERIAL_SESSION == 0 {
            return Err(ErrorKind::SessionParallelNotSupported.into());
        }
        if flags & ck::CKF_ASYNC_SESSION != 0 {
            return Err(ErrorKind::SessionAsyncNotSupported.into());
        }
        let rw = flags & ck::CKF_RW_SESSION != 0;
        let token = self.token(slot)?;
        token.enter_session(rw)?;
        let handle = self.handles.next();
        let state = Mutex::new(State::new(token.credentials()));
        self.sessions.insert(Arc::new(Session { handle, token, rw, state }));
        // C_Finalize may have emptied the table just before.
        if let Err(error) = self.check_open() {
            let _ = self.close_session(handle);
            return Err(error);
        }
        Ok(handle)
    }

    pub fn close_session(&self, session: SessionHandle) -> Result<()> {
        match self.sessions.take(session) {
            Some(session) => {
                session.close(true);
                Ok(())
            }
            None => {
                self.check_open()?;
                Err(ErrorKind::SessionHandleInvalid.into())
            }
        }
    }

    pub fn close_all_sessions(&self, slot: SlotId) -> Result<()> {
        self.slot(slot)?;
        for session in self.sessions.select(|session| session.token.slot == slot) {
            if let Some(session) = self.sessions.take(session.handle) {
                session.close(true);
            }
        }
        Ok(())
    }

    /// Closes everything without waiting for calls that are inside.
    pub(super) fn abandon_sessions(&self) {
        for session in self.sessions.select(|_| true) {
            if let Some(session) = self.sessions.take(session.handle) {
                session.close(false);
            }
        }
    }

    /// Lets the token's sessions drop what a logout ended.
    pub(super) fn settle_logout(&self, token: &Arc<Token>) {
        for session in self.sessions.select(|session| Arc::ptr_eq(&session.token, token)) {
            session.catch_up();
        }
    }

    pub fn session_info(&self, session: SessionHandle) -> Result<SessionInfo> {
        let session = self.session(session)?;
        let state = session.enter()?;
        let rw = if session.rw { ck::CKF_RW_SESSION } else { 0 };
        Ok(SessionInfo {
            slot: session.token.slot,
            state: match (&state.credentials.holder, session.rw) {
                (None, false) => ck::CKS_RO_PUBLIC_SESSION,
                (None, true) => ck::CKS_RW_PUBLIC_SESSION,
                (Some(Holder::So), _) => ck::CKS_RW_SO_FUNCTIONS,
                (Some(Holder::User(_)), false) => ck::CKS_RO_USER_FUNCTIONS,
                (Some(Holder::User(_)), true) => ck::CKS_RW_USER_FUNCTIONS,
            },
            flags: ck::CKF_SERIAL_SESSION | rw,
            device_error: 0,
        })
    }

    /// Which HSM serves the session's token, and until when: JSON.
    pub fn describe_session(&self, session: SessionHandle) -> Result<String> {
        let session = self.session(session)?;
        drop(session.enter()?);
        Ok(session.token.channel.describe())
    }

    /// C_SessionCancel with CKF_ENCRYPT | ...; what is not active needs no cancelling.
    pub fn session_cancel(&self, session: SessionHandle, flags: ck::CK_FLAGS) -> Result<()> {
        let session = self.session(session)?;
        let mut state = session.enter()?;
        state.operations.cancel_flagged(flags);
        if flags & ck::CKF_FIND_OBJECTS != 0 {
            state.find = None;
        }
        Ok(())
    }
}
