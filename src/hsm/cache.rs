//! Opened records by the digest of their sealed bytes: bounded, so that steady use costs no
//! unsealing and memory does not grow with the number of keys.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::command::{Record, View};
use super::key::Key;
use super::quota::Quota;

const SHARDS: usize = 16;
const PER_SHARD: usize = 64;

/// An opened object and what it was opened as.
pub(super) struct Open {
    pub(super) key: Arc<Key>,
    view: OnceLock<Arc<View>>,
    /// The record it came from, whose columns and identity were checked.
    pub(super) record: Record,
    /// Whether it was authenticated; a public object is not before the login.
    pub(super) verified: bool,
}

/// Larger objects are not kept where there is a quota, in bytes.
const LARGE: usize = 256 * 1024;
/// What an opened object takes besides what is sealed of it, twice, in bytes.
const OVERHEAD: usize = 1024;

impl Open {
    /// About the memory that it takes, in bytes.
    fn size(&self) -> usize {
        2 * self.record.sealed.as_bytes().len() + OVERHEAD
    }

    pub(super) fn new(key: Key, record: Record, verified: bool) -> Arc<Self> {
        Arc::new(Self { key: Arc::new(key), view: OnceLock::new(), record, verified })
    }

    /// The same object, sealed anew as another record.
    pub(super) fn resealed(&self, record: Record) -> Arc<Self> {
        Arc::new(Self { key: Arc::clone(&self.key), view: self.view.clone(), record, verified: self.verified })
    }

    /// What may be read of the object, put together by `make` when first asked for.
    pub(super) fn view(&self, make: impl FnOnce(&Key) -> View) -> Arc<View> {
        Arc::clone(self.view.get_or_init(|| Arc::new(make(&self.key))))
    }
}

type Shard = HashMap<[u8; 32], Arc<Open>, BuildHasherDefault<DigestHasher>>;

#[derive(Default)]
pub(super) struct Cache {
    shards: [RwLock<Shard>; SHARDS],
    /// How often it was cleared.
    epoch: AtomicU64,
    /// What it may take, if that is not its own affair.
    quota: Option<Arc<Quota>>,
}

/// When something was opened that is to be kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch(u64);

impl Cache {
    /// One that keeps nothing for which there is no room.
    pub(super) fn within(quota: Arc<Quota>) -> Self {
        Self { shards: Default::default(), epoch: AtomicU64::new(0), quota: Some(quota) }
    }

    pub(super) fn get(&self, digest: &[u8; 32]) -> Option<Arc<Open>> {
        self.shard(digest).read().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    /// To be taken before the domain's state is looked at to open something.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    /// Keeps what was opened, unless the cache was cleared since.
    pub(super) fn put(&self, open: Arc<Open>, epoch: Epoch) {
        if self.quota.is_some() && open.size() > LARGE {
            return;
        }
        let digest = *open.record.sealed.digest();
        let mut evicted = Vec::new();
        let mut shard = self.shard(&digest).write().unwrap_or_else(PoisonError::into_inner);
        if epoch != self.epoch() {
            return;
        }
        let mut has_room = self.take(&open);
        if shard.len() >= PER_SHARD || !has_room {
            // Any will do: the map's order is that of a digest.
            let victims: Vec<_> = shard.keys().take(PER_SHARD / 4).copied().collect();
            evicted.extend(victims.iter().filter_map(|victim| shard.remove(victim)));
            self.release(evicted.iter());
            has_room = has_room || self.take(&open);
        }
        if has_room && let Some(same) = shard.insert(digest, open) {
            self.release([&same].into_iter());
            evicted.push(same);
        }
        drop(shard);
        drop(evicted);
    }

    /// False if there is no room for it.
    fn take(&self, open: &Open) -> bool {
        self.quota.as_ref().is_none_or(|quota| quota.take(open.size()))
    }

    fn release<'o>(&self, gone: impl Iterator<Item = &'o Arc<Open>>) {
        if let Some(quota) = &self.quota {
            quota.give_back(gone.map(|open| open.size()).sum());
        }
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    pub(super) fn forget(&self, digest: &[u8; 32]) {
        let gone = self.shard(digest).write().unwrap_or_else(PoisonError::into_inner).remove(digest);
        self.release(gone.iter());
    }

    /// Forgets everything, also what another thread is about to keep that it opened before.
    pub(super) fn clear(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        for shard in &self.shards {
            let all = std::mem::take(&mut *shard.write().unwrap_or_else(PoisonError::into_inner));
            self.release(all.values());
        }
    }

    fn shard(&self, digest: &[u8; 32]) -> &RwLock<Shard> {
        &self.shards[usize::from(digest[31]) % SHARDS]
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        if self.quota.is_some() {
            self.clear();
        }
    }
}

/// A digest is its own hash.
#[derive(Default)]
struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    fn write_usize(&mut self, _len: usize) {}
}
