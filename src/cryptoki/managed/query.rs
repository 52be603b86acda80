//! What is told of managed keys: JSON in the words of the model system. Lists come in pages, each
//! with a marker of where the next begins.

use std::sync::Arc;

use cryptoki_sys as ck;
use serde_json::{Value, json};

use super::super::login::Credentials;
use super::super::objects::open_view;
use super::super::token::Token;
use super::super::{Module, SessionHandle};
use super::request::Request;
use super::resolve::{KeyObjects, key_id};
use super::{now, unexpected};
use crate::error::{ErrorKind, Result};
use crate::hsm::{
    CKA_KMS_CREATED, CKA_KMS_DESCRIPTION, CKA_KMS_ROTATED, CKA_KMS_SPEC, CKA_KMS_USAGE, CKA_KMS_VALID_TO,
    CKA_KMS_VERSION, CKO_KMS_ALIAS, Command, IndexColumn, Manage, Reply, View, state_at, usage_name, version_object,
};
use crate::store::{Filter, Found};

/// The most items of one answer.
const PAGE: usize = 1000;

const DAY: u64 = 24 * 3600;

/// What is asked. The request has KeyId, Limit and Marker as far as they have a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyQuery {
    DescribeKey,
    /// With ExpiringWithinDays: those whose imported material expires by then, the first to expire
    /// first, all at once.
    ListKeys,
    /// Of one key with KeyId.
    ListAliases,
    GetKeyRotationStatus,
    /// All versions of the material, the oldest first.
    ListRotations,
    GetKeyPolicy,
    ListGrants,
    ListUsers,
    DescribeReplicas,
}

impl Module {
    /// Needs a login. The SO reads GetKeyPolicy, ListGrants, DescribeKey and ListUsers.
    pub fn query_keys(&self, session: SessionHandle, query: KeyQuery, request: &str) -> Result<String> {
        let session = self.session(session)?;
        let state = session.enter()?;
        let (token, login) = (&session.token, &state.credentials);
        login.require_login()?;
        let asked = Request::parse(request)?;
        let told = |action| {
            let keys = token.key_objects(login, asked.name("KeyId")?)?;
            token.told(login, action, &keys, request)
        };
        Ok(match query {
            KeyQuery::DescribeKey => return told(Manage::DescribeKey),
            KeyQuery::GetKeyRotationStatus => return told(Manage::GetRotationStatus),
            KeyQuery::GetKeyPolicy => return told(Manage::GetKeyPolicy),
            KeyQuery::DescribeReplicas => return told(Manage::DescribeReplicas),
            KeyQuery::ListGrants => return told(Manage::ListGrants),
            KeyQuery::ListKeys => token.list_keys(login, &asked)?,
            KeyQuery::ListAliases => token.list_aliases(login, &asked)?,
            KeyQuery::ListRotations => token.list_rotations(login, &asked)?,
            KeyQuery::ListUsers => token.list_users()?,
        }
        .to_string())
    }
}

impl Token {
    fn told(self: &Arc<Self>, login: &Credentials, action: Manage, keys: &KeyObjects, request: &str) -> Result<String> {
        let keys = Some(keys.records());
        let command = Command::Manage { action, keys, alias: None, target: None, request, dry_run: false };
        match self.ask(login, command)? {
            Reply::Managed { told, .. } => Ok(told),
            _ => Err(unexpected()),
        }
    }

    fn list_keys(&self, login: &Credentials, asked: &Request) -> Result<Value> {
        asked.only(&["Limit", "Marker", "ExpiringWithinDays"])?;
        login.require_user()?;
        if let Some(days) = asked.number("ExpiringWithinDays")? {
            return Ok(json!({ "Keys": self.expiring(login, days, usize::MAX)?, "Truncated": false }));
        }
        let (limit, after) = asked.page(PAGE)?;
        let found = self.store.managed(after, limit)?;
        page("Keys", &found, limit, |found| Ok(self.seen(login, found)?.map(|view| key_summary(&view))))
    }

    /// The keys whose imported material expires within so many days, the first to expire first; at
    /// most `limit` of what is due by then is looked at.
    pub(super) fn expiring(&self, login: &Credentials, days: u64, limit: usize) -> Result<Vec<Value>> {
        let by = now().saturating_add(days.saturating_mul(DAY));
        let mut keys = Vec::new();
        for found in self.store.due(by, limit)? {
            let Some(view) = self.seen(login, &found)? else { continue };
            if let Some(valid_to) = view.attributes.ulong(CKA_KMS_VALID_TO)
                && (1..=by).contains(&valid_to)
            {
                keys.push((valid_to, key_summary(&view)));
            }
        }
        keys.sort_by_key(|(valid_to, _)| *valid_to);
        Ok(keys.into_iter().map(|(_, key)| key).collect())
    }

    fn list_aliases(&self, login: &Credentials, asked: &Request) -> Result<Value> {
        asked.only(&["KeyId", "Limit", "Marker"])?;
        login.require_user()?;
        let (limit, after) = asked.page(PAGE)?;
        let mut filter = Filter { class: Some(CKO_KMS_ALIAS), ..Filter::default() };
        if let Some(name) = asked.text("KeyId")? {
            let id = self.key_objects(login, name)?.id;
            filter.ids = Some(super::super::find::column_values(self, login, IndexColumn::Id, id.as_bytes())?);
        }
        let found = self.store.find(&filter, after, limit)?;
        page("Aliases", &found, limit, |found| {
            Ok(self
                .seen(login, found)?
                .map(|view| json!({ "AliasName": text(&view, ck::CKA_LABEL), "TargetKeyId": text(&view, ck::CKA_ID) })))
        })
    }

    fn list_rotations(&self, login: &Credentials, asked: &Request) -> Result<Value> {
        asked.only(&["KeyId", "Limit", "Marker"])?;
        login.require_user()?;
        let (limit, after) = asked.page(PAGE)?;
        let keys = self.key_objects(login, asked.name("KeyId")?)?;
        let view = open_view(self, login, &keys.key)?;
        let newest = view.attributes.ulong(CKA_KMS_VERSION).unwrap_or(1);
        let last = newest.min(after.saturating_add(limit as u64));
        let mut rotations = Vec::new();
        for version in after.saturating_add(1)..=last {
            let made = if version == newest {
                view.attributes.ulong(CKA_KMS_ROTATED).or_else(|| view.attributes.ulong(CKA_KMS_CREATED))
            } else {
                let object = version_object(&keys.key.object, version);
                // One that is lost is listed without its date.
                match self.store.get(&object)? {
                    Some(record) => open_view(self, login, &record)?.attributes.ulong(CKA_KMS_CREATED),
                    None => None,
                }
            };
            let mut entry = json!({ "KeyId": keys.id, "KeyVersion": version, "Current": version == newest });
            if let Some(made) = made {
                entry[if version == 1 { "CreationDate" } else { "RotationDate" }] = made.into();
            }
            rotations.push(entry);
        }
        let mut answer = json!({ "Rotations": rotations, "Truncated": last < newest });
        if last < newest {
            answer["NextMarker"] = last.to_string().into();
        }
        Ok(answer)
    }

    /// What the login sees of an object that was found; None if it is gone, or does not open.
    fn seen(&self, login: &Credentials, found: &Found) -> Result<Option<Arc<View>>> {
        let Some(record) = self.store.get(&found.object)? else { return Ok(None) };
        match open_view(self, login, &record) {
            Ok(view) => Ok(Some(view)),
            Err(error) if error.kind() == ErrorKind::UserNotLoggedIn => Err(error),
            Err(error) => {
                tracing::warn!(%error, "an object was left out of a list");
                Ok(None)
            }
        }
    }
}

/// A page of a list.
fn page(
    name: &str,
    found: &[Found],
    limit: usize,
    mut item: impl FnMut(&Found) -> Result<Option<Value>>,
) -> Result<Value> {
    let mut items = Vec::with_capacity(found.len());
    for found in found {
        items.extend(item(found)?);
    }
    let more = found.last().filter(|_| found.len() == limit);
    let mut answer = json!({ name: items, "Truncated": more.is_some() });
    if let Some(last) = more {
        answer["NextMarker"] = last.row.to_string().into();
    }
    Ok(answer)
}

/// What a list says of a key.
fn key_summary(view: &View) -> Value {
    let number = |kind| view.attributes.ulong(kind);
    let mut key = json!({
        "KeyId": key_id(view),
        "KeySpec": text(view, CKA_KMS_SPEC),
        "KeyUsage": number(CKA_KMS_USAGE).and_then(usage_name),
        "KeyState": state_at(&view.attributes, now()),
        "Description": text(view, CKA_KMS_DESCRIPTION),
        "Label": text(view, ck::CKA_LABEL),
        "CreationDate": number(CKA_KMS_CREATED),
        "KeyVersion": number(CKA_KMS_VERSION),
    });
    if let Some(valid_to) = number(CKA_KMS_VALID_TO).filter(|valid_to| *valid_to != 0) {
        key["ValidTo"] = valid_to.into();
    }
    key
}

fn text(view: &View, kind: u64) -> String {
    String::from_utf8_lossy(view.attributes.bytes(kind).unwrap_or_default()).into_owned()
}
