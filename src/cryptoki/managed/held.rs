//! All that the store has of a multi-Region key, by its id: for the exchange with other Regions.

use std::sync::Arc;

use cryptoki_sys as ck;

use super::super::find::column_values;
use super::super::login::Credentials;
use super::super::objects::open_view;
use super::super::token::Token;
use super::resolve::key_id;
use crate::error::Result;
use crate::hsm::{
    CKA_KMS_KEY_ID, CKA_KMS_VERSION, CKO_KMS_DELETED_REPLICA, Held, IndexColumn, KeyRecords, MessageKind, Record, View,
    newest_version, outstanding_messages, version_object,
};
use crate::store::{Filter, Found};

/// Index entries read at a time: both halves of a pair and, rarely, others' objects of that CKA_ID.
const PAGE: usize = 8;

/// To whom and what.
type Messages = Vec<(String, MessageKind)>;

/// The records of a key, or of what is left of a deleted replica.
pub(in crate::cryptoki) struct HeldKey {
    key: Record,
    public: Option<Record>,
    versions: Vec<Record>,
    view: Arc<View>,
}

impl HeldKey {
    pub(in crate::cryptoki) fn held(&self) -> Held<'_> {
        Held { keys: KeyRecords { key: &self.key, public: self.public.as_ref() }, versions: &self.versions }
    }

    /// Whether that Region is still to be told this.
    pub(super) fn has_outstanding(&self, region: &str, kind: MessageKind) -> bool {
        outstanding_messages(&self.view.attributes).iter().any(|(to, what)| to == region && *what == kind)
    }
}

impl Token {
    /// Of each of these ids what the store has; None for one that it has nothing of.
    pub(in crate::cryptoki) fn held_keys(&self, login: &Credentials, ids: &[String]) -> Result<Vec<Option<HeldKey>>> {
        ids.iter().map(|id| self.held_key(login, id)).collect()
    }

    fn held_key(&self, login: &Credentials, id: &str) -> Result<Option<HeldKey>> {
        let ids = column_values(self, login, IndexColumn::Id, id.as_bytes())?;
        let (mut key, mut public) = (None, None);
        self.each_of(login, &Filter { ids: Some(ids.clone()), ..Filter::default() }, |record, view| {
            if !record.columns.managed || key_id(&view) != Some(id) {
                return;
            }
            match record.columns.class {
                ck::CKO_SECRET_KEY | ck::CKO_PRIVATE_KEY => key = Some((record, view)),
                ck::CKO_PUBLIC_KEY => public = Some(record),
                _ => {}
            }
        })?;
        if let Some((key, view)) = key {
            let versions = self.other_versions(&key, &view)?;
            return Ok(Some(HeldKey { key, public, versions, view }));
        }
        let left = Filter { class: Some(CKO_KMS_DELETED_REPLICA), ids: Some(ids), ..Filter::default() };
        let mut deleted = None;
        self.each_of(login, &left, |record, view| {
            if deleted_id(&view) == Some(id) {
                deleted = Some((record, view));
            }
        })?;
        Ok(deleted.map(|(key, view)| HeldKey { key, public: None, versions: Vec::new(), view }))
    }

    /// Those that match. One of a managed key that does not open is an error: it is there, and what is said
    /// of it to another Region would be untrue.
    fn each_of(&self, login: &Credentials, filter: &Filter, mut each: impl FnMut(Record, Arc<View>)) -> Result<()> {
        let mut after = 0;
        loop {
            let found = self.store.find(filter, after, PAGE)?;
            for Found { object, .. } in &found {
                let Some(record) = self.store.get(object)? else { continue };
                if record.columns.managed || record.columns.class == CKO_KMS_DELETED_REPLICA {
                    let view = open_view(self, login, &record)?;
                    each(record, view);
                }
            }
            match found.last() {
                Some(last) if found.len() == PAGE => after = last.row,
                _ => return Ok(()),
            }
        }
    }

    /// The records of the versions but for the active one.
    fn other_versions(&self, key: &Record, view: &View) -> Result<Vec<Record>> {
        let active = view.attributes.ulong(CKA_KMS_VERSION).unwrap_or(1);
        let others = (1..=newest_version(&view.attributes)).filter(|version| *version != active);
        others.filter_map(|version| self.store.get(&version_object(&key.object, version)).transpose()).collect()
    }

    /// What is still to be sent about a key that [`crate::store::Store::replicating`] found: its id, and what.
    pub(super) fn outstanding(&self, login: &Credentials, found: &Found) -> Result<Option<(String, Messages)>> {
        let Some(record) = self.store.get(&found.object)? else { return Ok(None) };
        let Some(view) = self.opened(login, &record)? else { return Ok(None) };
        let id = key_id(&view).or_else(|| deleted_id(&view)).map(str::to_owned);
        Ok(id.map(|id| (id, outstanding_messages(&view.attributes))))
    }

    /// None for what does not open.
    fn opened(&self, login: &Credentials, record: &Record) -> Result<Option<Arc<View>>> {
        match open_view(self, login, record) {
            Ok(view) => Ok(Some(view)),
            Err(error) if self.is_over(&error) => Err(error),
            Err(error) => {
                tracing::warn!(slot = self.slot, %error, "an object was left out of an exchange with other Regions");
                Ok(None)
            }
        }
    }
}

/// The key id of a deleted replica's record.
fn deleted_id(view: &View) -> Option<&str> {
    if view.attributes.ulong(ck::CKA_CLASS) != Some(CKO_KMS_DELETED_REPLICA) {
        return None;
    }
    view.attributes.bytes(CKA_KMS_KEY_ID).and_then(|id| std::str::from_utf8(id).ok())
}
