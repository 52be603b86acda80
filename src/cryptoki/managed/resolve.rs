//! From what names a managed key, its id or an alias, to its records.
//!
//! The key id is the key's CKA_ID, and an alias is a record whose object id follows from its name, so
//! both are one look-up in an index. A session remembers the keys that it used last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki_sys as ck;

use super::super::ObjectHandle;
use super::super::find::column_values;
use super::super::handle::Handles;
use super::super::login::Credentials;
use super::super::objects::{Object, ObjectCache, open_view};
use super::super::session::State;
use super::super::token::Token;
use super::{ALIAS, unexpected};
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{
    CKA_KMS_KEY_ID, CKA_KMS_MANAGED, CKA_KMS_NEXT_ROTATION, CKO_KMS_ALIAS, Command, IndexColumn, KeyRecords, ObjectId,
    Record, Reply, View, version_object,
};
use crate::store::{Filter, Found};

/// Names that a session remembers.
const NAMES: usize = 256;
/// Records of versions but the active one that it keeps.
const VERSIONS: usize = 8;
/// Index entries read at a time.
const PAGE: usize = 16;
/// After a rotation that was due and was not done, the key's uses do not try again for this long.
const PAUSE: Duration = Duration::from_secs(60);

/// The records of one managed key.
pub(in crate::cryptoki) struct KeyObjects {
    /// The key id.
    pub(super) id: String,
    pub(in crate::cryptoki) key: Record,
    pub(super) public: Option<Record>,
}

impl KeyObjects {
    pub(in crate::cryptoki) fn records(&self) -> KeyRecords<'_> {
        KeyRecords { key: &self.key, public: self.public.as_ref() }
    }
}

/// An alias and the key id that it names.
pub(in crate::cryptoki) struct Alias {
    pub(super) record: Record,
    pub(in crate::cryptoki) key_id: String,
}

/// What a session remembers of the managed keys it used.
#[derive(Default)]
pub(in crate::cryptoki) struct References {
    by_name: HashMap<Box<str>, Known>,
    /// By the object id that an envelope names.
    by_object: HashMap<ObjectId, ObjectHandle>,
    versions: Vec<Version>,
    /// The place of the next version that is kept.
    next: usize,
    /// The rotation that failed last, or had nothing to do.
    failed: Option<(ObjectId, Instant)>,
}

#[derive(Clone, Copy)]
struct Known {
    handle: ObjectHandle,
    /// The alias that led to it, and the store's counter since when it is known.
    alias: Option<(ObjectId, u64)>,
}

struct Version {
    record: Record,
    since: u64,
}

impl References {
    fn remember(&mut self, name: &str, known: Known) {
        if self.by_name.len() >= NAMES {
            self.by_name.clear();
        }
        self.by_name.insert(name.into(), known);
    }

    /// What a name led to before, if it still does.
    fn recall(&mut self, token: &Token, name: &str) -> Option<ObjectHandle> {
        let known = self.by_name.get_mut(name)?;
        if let Some((alias, since)) = &mut known.alias {
            match token.unchanged_since(alias, *since) {
                Some(now) => *since = now,
                None => {
                    self.by_name.remove(name);
                    return None;
                }
            }
        }
        Some(known.handle)
    }
}

/// A session's way to its managed keys.
pub(super) struct Keys<'a> {
    pub(super) token: &'a Arc<Token>,
    pub(super) handles: &'a Handles,
    pub(super) login: &'a Credentials,
    pub(super) cache: &'a mut ObjectCache,
    pub(super) references: &'a mut References,
}

impl<'a> Keys<'a> {
    pub(super) fn of(token: &'a Arc<Token>, handles: &'a Handles, state: &'a mut State) -> Self {
        let State { credentials, cache, managed: references, .. } = state;
        Self { token, handles, login: credentials, cache, references }
    }

    /// The managed key that an id or alias names. KMS_R_NOT_FOUND.
    pub(super) fn named(&mut self, name: &str) -> Result<Arc<Object>> {
        if let Some(handle) = self.references.recall(self.token, name) {
            match self.cache.get(self.token, self.login, handle) {
                Ok(object) => return Ok(Arc::clone(object)),
                Err(error) if error.kind() == ErrorKind::ObjectHandleInvalid => {}
                Err(error) => return Err(error),
            }
        }
        let mut alias = None;
        let key = match name.strip_prefix(ALIAS) {
            None => self.token.key_object(self.login, name)?,
            Some(_) => {
                let since = self.token.store.counter() & !1;
                let found = self.token.alias(self.login, name)?.ok_or_else(|| unknown(name))?;
                alias = Some((found.record.object, since));
                self.token.key_object(self.login, &found.key_id)?
            }
        };
        let handle = self.token.handle_of(self.handles, self.login, &key.object, false)?;
        self.references.remember(name, Known { handle, alias });
        self.cache.get(self.token, self.login, handle).cloned().map_err(|error| gone(error, name))
    }

    /// The managed key that an envelope names. KMS_R_NOT_FOUND.
    pub(super) fn of_object(&mut self, object: &ObjectId) -> Result<Arc<Object>> {
        let missing = |error| gone(error, "that the ciphertext names");
        if let Some(handle) = self.references.by_object.get(object) {
            match self.cache.get(self.token, self.login, *handle) {
                Ok(object) => return Ok(Arc::clone(object)),
                Err(error) if error.kind() == ErrorKind::ObjectHandleInvalid => {}
                Err(error) => return Err(error),
            }
        }
        let handle = self.token.handle_of(self.handles, self.login, object, false)?;
        let found = self.cache.get(self.token, self.login, handle).cloned().map_err(missing)?;
        if !found.record.columns.managed {
            return Err(missing(ErrorKind::ObjectHandleInvalid.into()));
        }
        if self.references.by_object.len() >= NAMES {
            self.references.by_object.clear();
        }
        self.references.by_object.insert(*object, handle);
        Ok(found)
    }

    /// The record of a version of a key that is not the active one. KMS_R_KEY_UNAVAILABLE.
    pub(super) fn version(&mut self, key: &ObjectId, version: u64) -> Result<&Record> {
        let id = version_object(key, version);
        let versions = &mut self.references.versions;
        let known = versions.iter_mut().position(|known| {
            known.record.object == id
                && self.token.unchanged_since(&id, known.since).map(|now| known.since = now).is_some()
        });
        let place = match known {
            Some(place) => place,
            None => {
                let since = self.token.store.counter() & !1;
                let record = self.token.version_record(self.login, &id, version)?;
                let place = match versions.iter().position(|known| known.record.object == id) {
                    Some(place) => place,
                    None => self.references.next % VERSIONS,
                };
                let fresh = Version { record, since };
                match versions.get_mut(place) {
                    Some(old) => *old = fresh,
                    None => versions.push(fresh),
                }
                self.references.next = place.wrapping_add(1);
                place.min(versions.len().saturating_sub(1))
            }
        };
        versions.get(place).map(|known| &known.record).ok_or_else(|| ErrorKind::GeneralError.into())
    }

    /// Rotates a key that is about to encrypt, if its period is over. The use does not depend on it.
    pub(super) fn rotated(&mut self, key: Arc<Object>) -> Result<Arc<Object>> {
        let view = key.view(self.token, self.login)?;
        let Some(next) = view.attributes.ulong(CKA_KMS_NEXT_ROTATION) else { return Ok(key) };
        let id = key.record.object;
        let paused = |(failed, at): &(ObjectId, Instant)| *failed == id && at.elapsed() < PAUSE;
        if next > super::now() || self.references.failed.as_ref().is_some_and(paused) {
            return Ok(key);
        }
        match self.token.keep_time(self.login, &id, None) {
            Ok(done) => {
                if done.rotated == 0 {
                    // Another process was first, or the HSM's clock is behind.
                    self.references.failed = Some((id, Instant::now()));
                }
                self.cache.get(self.token, self.login, key.handle).cloned()
            }
            Err(error) => {
                tracing::warn!(%error, key = key_id(view).unwrap_or_default(), "the rotation that is due failed");
                self.references.failed = Some((id, Instant::now()));
                Ok(key)
            }
        }
    }
}

impl Token {
    /// Whether an object is what it was at an even value of the store's counter: a newer such value.
    fn unchanged_since(&self, object: &ObjectId, since: u64) -> Option<u64> {
        if self.store.counter() == since {
            return Some(since);
        }
        self.store.is_unchanged(object, since)
    }

    /// The object id of an alias.
    fn alias_object(&self, login: &Credentials, name: &str) -> Result<ObjectId> {
        let command = Command::IndexTag { column: IndexColumn::Alias, value: name.as_bytes() };
        match self.channel.call(&login.ticket, command)? {
            Reply::Bytes(tag) => tag.first_chunk().copied().ok_or_else(unexpected),
            _ => Err(unexpected()),
        }
    }

    /// The alias of a name, "alias/" included.
    pub(in crate::cryptoki) fn alias(&self, login: &Credentials, name: &str) -> Result<Option<Alias>> {
        let Some(record) = self.store.get(&self.alias_object(login, name)?)? else { return Ok(None) };
        if record.columns.class != CKO_KMS_ALIAS {
            return Ok(None);
        }
        let view = open_view(self, login, &record)?;
        let key_id = view.attributes.bytes(ck::CKA_ID).and_then(|id| std::str::from_utf8(id).ok());
        let key_id = key_id.ok_or_else(|| ErrorKind::DeviceError.with(format!("{name} names nothing")))?.to_owned();
        Ok(Some(Alias { record, key_id }))
    }

    /// The records of the key that an id or alias names. KMS_R_NOT_FOUND.
    pub(in crate::cryptoki) fn key_objects(&self, login: &Credentials, name: &str) -> Result<KeyObjects> {
        let id = match name.strip_prefix(ALIAS) {
            None => name.to_owned(),
            Some(_) => self.alias(login, name)?.ok_or_else(|| unknown(name))?.key_id,
        };
        let key = self.key_object(login, &id)?;
        let public = if key.columns.class == ck::CKO_PRIVATE_KEY {
            let ids = column_values(self, login, IndexColumn::Id, id.as_bytes())?;
            self.managed_of_class(login, ck::CKO_PUBLIC_KEY, &ids, &id)?
        } else {
            None
        };
        Ok(KeyObjects { id, key, public })
    }

    /// The same from the key's object id.
    pub(in crate::cryptoki) fn key_objects_of(
        &self,
        login: &Credentials,
        object: &ObjectId,
    ) -> Result<Option<KeyObjects>> {
        let Some(record) = self.store.get(object)? else { return Ok(None) };
        let view = open_view(self, login, &record)?;
        match key_id(&view) {
            Some(id) => self.key_objects(login, id).map(Some),
            None => Ok(None),
        }
    }

    /// The secret key, or the private half, that has a key id.
    fn key_object(&self, login: &Credentials, id: &str) -> Result<Record> {
        let ids = column_values(self, login, IndexColumn::Id, id.as_bytes())?;
        for class in [ck::CKO_SECRET_KEY, ck::CKO_PRIVATE_KEY] {
            if let Some(record) = self.managed_of_class(login, class, &ids, id)? {
                return Ok(record);
            }
        }
        Err(unknown(id))
    }

    /// The object of a managed key among all that have its id as their CKA_ID.
    fn managed_of_class(&self, login: &Credentials, class: u64, ids: &[Vec<u8>], id: &str) -> Result<Option<Record>> {
        let filter = Filter { class: Some(class), ids: Some(ids.to_vec()), ..Filter::default() };
        let (mut after, mut damaged) = (0, None);
        loop {
            let found = self.store.find(&filter, after, PAGE)?;
            for Found { object, .. } in &found {
                let Some(record) = self.store.get(object)?.filter(|record| record.columns.managed) else { continue };
                // The SO does not see it; the HSM looks at it anyway.
                if !login.sees_private() {
                    return Ok(Some(record));
                }
                match open_view(self, login, &record) {
                    Ok(view) if key_id(&view) == Some(id) => return Ok(Some(record)),
                    Ok(_) => {}
                    Err(error) => damaged = Some(error),
                }
            }
            match found.last() {
                Some(last) if found.len() == PAGE => after = last.row,
                _ => return damaged.map_or(Ok(None), Err),
            }
        }
    }

    /// The aliases of a key, at most `limit`.
    pub(super) fn aliases_of(&self, login: &Credentials, id: &str, limit: usize) -> Result<Vec<Found>> {
        let ids = column_values(self, login, IndexColumn::Id, id.as_bytes())?;
        self.store.find(&Filter { class: Some(CKO_KMS_ALIAS), ids: Some(ids), ..Filter::default() }, 0, limit)
    }

    fn version_record(&self, login: &Credentials, id: &ObjectId, version: u64) -> Result<Record> {
        let record = self.store.get(id)?.ok_or_else(|| {
            ErrorKind::KmsKeyUnavailable.with(format!("the token has no record of the key's version {version}"))
        })?;
        Ok(self.reseal_on_use(login, record))
    }
}

/// The id of a managed key; None for an ordinary object.
pub(super) fn key_id(view: &View) -> Option<&str> {
    if !view.attributes.flag(CKA_KMS_MANAGED) {
        return None;
    }
    view.attributes.bytes(CKA_KMS_KEY_ID).and_then(|id| std::str::from_utf8(id).ok())
}

pub(super) fn unknown(name: &str) -> Error {
    ErrorKind::KmsNotFound.with(format!("there is no managed key or alias {name:?} in this token"))
}

/// An object that is not there is a key that is not.
fn gone(error: Error, name: &str) -> Error {
    if error.kind() == ErrorKind::ObjectHandleInvalid { unknown(name) } else { error }
}
