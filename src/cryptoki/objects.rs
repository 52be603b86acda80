//! The objects of a token that this process has handles for.
//!
//! A handle of a token object is a name for its permanent id and costs no more than that; the
//! records of the last few used ones are kept, and are current as long as the store's counter has
//! not moved. Session objects live here and nowhere else.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use cryptoki_sys as ck;

use super::ObjectHandle;
use super::builtin;
use super::handle::{Fast, FastHasher, Handles};
use super::login::Credentials;
use super::token::{NEVER, Token};
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{Columns, Command, HIDDEN_CLASSES, IndexColumn, ObjectChange, ObjectId, Record, Reply, View};
use crate::store::Filter;

/// One version of an object. A change makes a new one under the same handle.
pub(super) struct Object {
    pub(super) handle: ObjectHandle,
    pub(super) record: Record,
    /// The login during which the record was read or made. The view depends on it, and a private
    /// object's handle ends with it.
    epoch: u32,
    /// The domain version at which it was read, which its view depends on as well.
    domain: u64,
    home: Home,
    /// Destroyed or replaced; only of session objects, others are checked against the store.
    gone: AtomicBool,
    view: OnceLock<Arc<View>>,
}

enum Home {
    /// With an even value of the store's counter up to which the record is known to be the current
    /// one, but for a commit under way.
    Token(AtomicU64),
    Session,
    BuiltIn,
}

impl Object {
    fn new(handle: ObjectHandle, record: Record, epoch: u32, home: Home) -> Self {
        Self { handle, record, epoch, domain: 0, home, gone: AtomicBool::new(false), view: OnceLock::new() }
    }

    fn in_token(handle: ObjectHandle, record: Record, epoch: u32, domain: u64, current_at: u64) -> Arc<Self> {
        let home = Home::Token(AtomicU64::new(current_at));
        Arc::new(Self { domain, ..Self::new(handle, record, epoch, home) })
    }

    fn in_session(handle: ObjectHandle, record: Record, epoch: u32) -> Arc<Self> {
        Arc::new(Self::new(handle, record, epoch, Home::Session))
    }

    fn built_in(handle: ObjectHandle, record: Record, view: View) -> Arc<Self> {
        let view = OnceLock::from(Arc::new(view));
        Arc::new(Self { view, ..Self::new(handle, record, 0, Home::BuiltIn) })
    }

    pub(super) fn is_session(&self) -> bool {
        matches!(self.home, Home::Session)
    }

    /// Whether it is made by the library and can be neither changed nor copied.
    pub(super) fn is_built_in(&self) -> bool {
        matches!(self.home, Home::BuiltIn)
    }

    /// Whether this is still the object's current version. Costs two loads, or a few more when
    /// others write to the token.
    #[inline]
    pub(super) fn is_current(&self, token: &Token, epoch: u32) -> bool {
        match &self.home {
            Home::Token(current_at) => {
                let (counter, known) = (token.store.counter(), current_at.load(Ordering::Acquire));
                self.epoch == epoch && (counter & 1 == 0 && counter == known || self.is_unchanged(token, current_at))
            }
            Home::Session => {
                !self.gone.load(Ordering::Acquire) && (!self.record.columns.private || self.epoch == epoch)
            }
            Home::BuiltIn => true,
        }
    }

    /// Whether what was committed since `current_at` left the object alone.
    #[inline(never)]
    fn is_unchanged(&self, token: &Token, current_at: &AtomicU64) -> bool {
        let since = current_at.load(Ordering::Acquire);
        let Some(now) = token.store.is_unchanged(&self.record.object, since) else { return false };
        // Never back: another thread may know more.
        current_at.fetch_max(now, Ordering::AcqRel);
        true
    }

    /// The attributes, opened once.
    pub(super) fn view(&self, token: &Token, login: &Credentials) -> Result<&Arc<View>> {
        if let Some(view) = self.view.get() {
            return Ok(view);
        }
        let view = open_view(token, login, &self.record)?;
        Ok(self.view.get_or_init(|| view))
    }

    /// Whether each use needs a PIN of its own. Only private keys can have that.
    pub(super) fn always_authenticate(&self, token: &Token, login: &Credentials) -> Result<bool> {
        if self.record.columns.class != ck::CKO_PRIVATE_KEY {
            return Ok(false);
        }
        Ok(self.view(token, login)?.attributes.flag(ck::CKA_ALWAYS_AUTHENTICATE))
    }
}

pub(super) fn open_view(token: &Token, login: &Credentials, record: &Record) -> Result<Arc<View>> {
    match token.channel.call(&login.ticket, Command::View { record })? {
        Reply::View(view) => Ok(view),
        _ => Err(ErrorKind::GeneralError.with("the HSM answered a view with something else")),
    }
}

/// The objects that a session used last, so that using one takes no lock and moves no reference
/// count that threads share.
#[derive(Default)]
pub(super) struct ObjectCache([Option<Arc<Object>>; 4]);

impl ObjectCache {
    /// The object as it is now. CKR_OBJECT_HANDLE_INVALID also for a private object that the login
    /// does not show.
    #[inline]
    pub(super) fn get(&mut self, token: &Token, login: &Credentials, handle: ObjectHandle) -> Result<&Arc<Object>> {
        let place = &mut self.0[handle as usize % 4];
        let hit = matches!(place, Some(held) if held.handle == handle && held.is_current(token, login.epoch));
        if !hit {
            *place = None;
            *place = Some(token.object(login, handle)?);
        }
        place.as_ref().ok_or_else(invalid)
    }

    /// As [`Self::get`], for a key: `missing` if the handle is not that of a key.
    #[inline]
    pub(super) fn key(
        &mut self,
        token: &Token,
        login: &Credentials,
        handle: ObjectHandle,
        missing: ErrorKind,
    ) -> Result<&Arc<Object>> {
        match self.get(token, login, handle) {
            Ok(object) if is_key(&object.record.columns) => Ok(object),
            Ok(_) => Err(missing.into()),
            Err(error) if error.kind() == ErrorKind::ObjectHandleInvalid => Err(missing.into()),
            Err(error) => Err(error),
        }
    }
}

fn is_key(columns: &Columns) -> bool {
    [ck::CKO_SECRET_KEY, ck::CKO_PRIVATE_KEY, ck::CKO_PUBLIC_KEY].contains(&columns.class)
}

/// What a handle stands for.
#[derive(Clone)]
enum Entry {
    /// A token object that was found or has not been used for long. If it is private, the handle is
    /// good only in the login that is given.
    Known {
        id: ObjectId,
        epoch: u32,
    },
    Loaded(Arc<Object>),
}

const SHARDS: usize = 16;

/// Records of token objects kept per shard.
const LOADED: usize = 128;

#[derive(Default)]
struct Shard {
    entries: HashMap<ObjectHandle, Entry, Fast>,
    /// Token objects among the loaded ones, oldest first; may name some that are gone.
    loaded: VecDeque<ObjectHandle>,
}

/// The session objects in order of creation, and by label and id.
#[derive(Default)]
struct SessionObjects {
    ordered: BTreeMap<ObjectHandle, Arc<Object>>,
    /// Hash of a column's value, and the object.
    by_column: BTreeSet<(u64, ObjectHandle)>,
}

pub(super) struct Objects {
    shards: [RwLock<Shard>; SHARDS],
    /// Handles of token objects by id.
    names: [RwLock<HashMap<ObjectId, ObjectHandle, Fast>>; SHARDS],
    session: RwLock<SessionObjects>,
    built_in: OnceLock<Vec<Arc<Object>>>,
}

impl Objects {
    pub(super) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            names: std::array::from_fn(|_| RwLock::default()),
            session: RwLock::default(),
            built_in: OnceLock::new(),
        }
    }

    fn shard(&self, handle: ObjectHandle) -> &RwLock<Shard> {
        &self.shards[handle as usize % SHARDS]
    }

    fn entry(&self, handle: ObjectHandle) -> Option<Entry> {
        read(self.shard(handle)).entries.get(&handle).cloned()
    }

    pub(super) fn contains(&self, handle: ObjectHandle) -> bool {
        read(self.shard(handle)).entries.contains_key(&handle)
    }

    /// Enters a record that was just committed.
    fn add_to_token(
        &self,
        handles: &Handles,
        record: Record,
        (epoch, domain): (u32, u64),
        current_at: u64,
    ) -> ObjectHandle {
        let id = record.object;
        let mut names = write(self.names_of(&id));
        if let Some(&handle) = names.get(&id) {
            // A search in another thread found it first.
            return handle;
        }
        let handle = handles.next();
        names.insert(id, handle);
        write(self.shard(handle)).keep(handle, Object::in_token(handle, record, epoch, domain, current_at));
        handle
    }

    /// Enters a session object.
    pub(super) fn add_to_session(&self, handles: &Handles, record: Record, epoch: u32) -> ObjectHandle {
        let handle = handles.next();
        let object = Object::in_session(handle, record, epoch);
        let mut session = write(&self.session);
        session.insert(&object);
        write(self.shard(handle)).entries.insert(handle, Entry::Loaded(object));
        handle
    }

    /// Puts a new version of a session object in the place of `old`; false if `old` is not the
    /// current one any more.
    pub(super) fn replace_in_session(&self, old: &Object, record: Record) -> bool {
        let mut session = write(&self.session);
        if old.gone.swap(true, Ordering::AcqRel) {
            return false;
        }
        let object = Object::in_session(old.handle, record, old.epoch);
        session.remove(old);
        session.insert(&object);
        write(self.shard(old.handle)).entries.insert(old.handle, Entry::Loaded(object));
        true
    }

    /// Forgets a handle, and with it a session object. False if it was gone.
    pub(super) fn remove(&self, handle: ObjectHandle) -> bool {
        let Some(entry) = self.entry(handle) else { return false };
        let (id, session_object) = match &entry {
            Entry::Known { id, .. } => (*id, None),
            Entry::Loaded(object) => (object.record.object, object.is_session().then_some(object)),
        };
        if session_object.is_some() {
            let mut session = write(&self.session);
            // Under the lock, since it may have been replaced meanwhile.
            if let Some(Entry::Loaded(current)) = self.entry(handle) {
                current.gone.store(true, Ordering::Release);
                session.remove(&current);
            }
            return write(self.shard(handle)).entries.remove(&handle).is_some();
        }
        let removed = write(self.shard(handle)).entries.remove(&handle).is_some();
        let mut names = write(self.names_of(&id));
        if names.get(&id) == Some(&handle) {
            names.remove(&id);
        }
        removed
    }

    /// Forgets a token object that is gone.
    pub(super) fn forget(&self, id: &ObjectId) {
        let handle = read(self.names_of(id)).get(id).copied();
        if let Some(handle) = handle {
            self.remove(handle);
        }
    }

    /// The logout: private session objects are gone. Handles of private token objects are left to
    /// their epoch, but what was read of them goes.
    pub(super) fn forget_private(&self) {
        let mut private = Vec::new();
        for shard in &self.shards {
            let shard = read(shard);
            private.extend(shard.entries.iter().filter_map(|(handle, entry)| match entry {
                Entry::Loaded(object) if object.record.columns.private => Some(*handle),
                _ => None,
            }));
        }
        for handle in private {
            self.remove(handle);
        }
    }

    fn names_of(&self, id: &ObjectId) -> &RwLock<HashMap<ObjectId, ObjectHandle, Fast>> {
        &self.names[id[0] as usize % SHARDS]
    }

    /// Session objects whose columns pass, oldest first.
    pub(super) fn session_objects(&self, filter: &Filter) -> Vec<ObjectHandle> {
        let session = read(&self.session);
        let (column, values) = match (&filter.ids, &filter.labels) {
            (Some(ids), _) => (IndexColumn::Id, ids),
            (None, Some(labels)) => (IndexColumn::Label, labels),
            (None, None) => {
                let passing = session.ordered.values().filter(|object| passes(filter, &object.record));
                return passing.map(|object| object.handle).collect();
            }
        };
        let mut found = Vec::new();
        for hash in values.iter().map(|value| column_hash(column, value)) {
            for (_, handle) in session.by_column.range((hash, ObjectHandle::MIN)..=(hash, ObjectHandle::MAX)) {
                if session.ordered.get(handle).is_some_and(|object| passes(filter, &object.record)) {
                    found.push(*handle);
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Mechanism and profile objects, made when first asked for.
    pub(super) fn built_in(&self, handles: &Handles) -> &[Arc<Object>] {
        self.built_in.get_or_init(|| {
            let objects: Vec<_> =
                builtin::objects().map(|(record, view)| Object::built_in(handles.next(), record, view)).collect();
            for object in &objects {
                write(self.shard(object.handle)).entries.insert(object.handle, Entry::Loaded(object.clone()));
            }
            objects
        })
    }
}

impl Shard {
    /// Keeps a token object's record, and lets the oldest go.
    fn keep(&mut self, handle: ObjectHandle, object: Arc<Object>) {
        let before = self.entries.insert(handle, Entry::Loaded(object));
        if matches!(before, Some(Entry::Loaded(_))) {
            return;
        }
        self.loaded.push_back(handle);
        while self.loaded.len() > LOADED {
            let Some(oldest) = self.loaded.pop_front() else { break };
            if let Some(entry) = self.entries.get_mut(&oldest)
                && let Entry::Loaded(object) = entry
            {
                *entry = Entry::Known { id: object.record.object, epoch: object.epoch };
            }
        }
    }
}

impl SessionObjects {
    fn insert(&mut self, object: &Arc<Object>) {
        self.by_column.extend(column_hashes(&object.record.columns).map(|hash| (hash, object.handle)));
        self.ordered.insert(object.handle, object.clone());
    }

    fn remove(&mut self, object: &Object) {
        self.ordered.remove(&object.handle);
        for hash in column_hashes(&object.record.columns) {
            self.by_column.remove(&(hash, object.handle));
        }
    }
}

fn column_hashes(columns: &Columns) -> impl Iterator<Item = u64> {
    let label = columns.label.as_deref().map(|label| column_hash(IndexColumn::Label, label));
    let id = columns.id.as_deref().map(|id| column_hash(IndexColumn::Id, id));
    label.into_iter().chain(id)
}

fn column_hash(column: IndexColumn, value: &[u8]) -> u64 {
    let mut hasher: FastHasher = Fast::default().build_hasher();
    hasher.write_u64(match column {
        IndexColumn::Label => 1,
        IndexColumn::Id => 2,
        IndexColumn::Alias => 3,
    });
    hasher.write_usize(value.len());
    hasher.write(value);
    hasher.finish()
}

/// The store's meaning of a filter, for session objects.
pub(super) fn passes(filter: &Filter, record: &Record) -> bool {
    let columns = &record.columns;
    let any = |wanted: &Option<Vec<Vec<u8>>>, value: &Option<Vec<u8>>| {
        wanted.as_ref().is_none_or(|wanted| value.as_ref().is_some_and(|value| wanted.contains(value)))
    };
    filter.class.is_none_or(|class| class == columns.class)
        && filter.key_type.is_none_or(|key_type| columns.key_type == Some(key_type))
        && filter.private.is_none_or(|private| private == columns.private)
        && filter.object.is_none_or(|object| object == record.object)
        && any(&filter.labels, &columns.label)
        && any(&filter.ids, &columns.id)
}

impl Token {
    /// The current version of the object that a handle names, if the login shows it.
    pub(super) fn object(&self, login: &Credentials, handle: ObjectHandle) -> Result<Arc<Object>> {
        match self.objects.entry(handle) {
            None => Err(invalid()),
            Some(Entry::Known { id, epoch }) => self.load(login, handle, id, epoch, None),
            Some(Entry::Loaded(object)) => match object.home {
                _ if object.is_current(self, login.epoch) => Ok(object),
                Home::Token(_) => {
                    let (id, epoch) = (object.record.object, object.epoch);
                    self.load(login, handle, id, epoch, Some(object))
                }
                _ => Err(invalid()),
            },
        }
    }

    /// Reads a token object's row again. `epoch` is the login that the handle is from.
    fn load(
        &self,
        login: &Credentials,
        handle: ObjectHandle,
        id: ObjectId,
        epoch: u32,
        held: Option<Arc<Object>>,
    ) -> Result<Arc<Object>> {
        let counter = self.store.counter();
        // What no search finds has no handle, however its id became known.
        let shown = |record: &Record| !HIDDEN_CLASSES.contains(&record.columns.class);
        let Some(record) = self.store.get(&id)?.filter(shown) else {
            self.objects.remove(handle);
            return Err(invalid());
        };
        if record.columns.private && (epoch != login.epoch || !login.sees_private()) {
            if login.is_after(epoch) {
                self.objects.remove(handle);
            }
            return Err(invalid());
        }
        let record = self.reseal_on_use(login, record);
        let domain = self.domain_version();
        // A domain state that is not adopted yet may change what the object is seen as.
        let current_at = if self.has_seen(counter) { counter & !1 } else { NEVER };
        if let Some(held) = held
            && let Home::Token(known) = &held.home
            && held.epoch == login.epoch
            && held.domain == domain
            && held.record == record
        {
            known.store(current_at, Ordering::Release);
            return Ok(held);
        }
        let object = Object::in_token(handle, record, login.epoch, domain, current_at);
        let mut shard = write(self.objects.shard(handle));
        if !shard.entries.contains_key(&handle) {
            return Err(invalid());
        }
        shard.keep(handle, object.clone());
        Ok(object)
    }

    /// The handle of a token object that a search found: the one it has, or a new one. `public`
    /// says that it is known not to be private.
    pub(super) fn handle_of(
        &self,
        handles: &Handles,
        login: &Credentials,
        id: &ObjectId,
        public: bool,
    ) -> Result<ObjectHandle> {
        let names = self.objects.names_of(id);
        let known = read(names).get(id).copied();
        if let Some(handle) = known {
            let epoch = match self.objects.entry(handle) {
                Some(Entry::Known { epoch, .. }) => Some(epoch),
                Some(Entry::Loaded(object)) => Some(object.epoch),
                None => None,
            };
            if epoch.is_some_and(|epoch| public || epoch == login.epoch) {
                return Ok(handle);
            }
            // From before a login or logout: it lives on only if the object is public.
            match self.object(login, handle) {
                Ok(_) => return Ok(handle),
                Err(error) if error.kind() == ErrorKind::ObjectHandleInvalid => {}
                Err(error) => return Err(error),
            }
        }
        let mut names = write(names);
        if let Some(&handle) = names.get(id) {
            return Ok(handle);
        }
        let handle = handles.next();
        let entry = Entry::Known { id: *id, epoch: login.epoch };
        write(self.objects.shard(handle)).entries.insert(handle, entry);
        names.insert(*id, handle);
        Ok(handle)
    }

    /// Commits new token objects, all or none, and gives them handles. There are never more managed
    /// keys than the limit: CKR_TOKEN_RESOURCE_EXCEEDED.
    pub(super) fn commit_new(
        &self,
        handles: &Handles,
        login: &Credentials,
        records: Vec<Record>,
        limit: u64,
    ) -> Result<Vec<ObjectHandle>> {
        // If others changed them since, the store says so by this value.
        let current_at = self.store.counter() & !1;
        if records.iter().any(|record| record.columns.managed) {
            let change = ObjectChange { insert: records.clone(), limit: Some(limit), ..ObjectChange::default() };
            self.store.commit_change(&change)?;
        } else {
            self.store.insert(&records)?;
        }
        let known = (login.epoch, self.domain_version());
        let enter = |record| self.objects.add_to_token(handles, record, known, current_at);
        Ok(records.into_iter().map(enter).collect())
    }
}

fn invalid() -> Error {
    ErrorKind::ObjectHandleInvalid.into()
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
