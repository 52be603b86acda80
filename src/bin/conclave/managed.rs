//! Requests to a token about managed keys, and what it tells of them.

use conclave::cryptoki::KeyQuery;
use conclave::error::{Error, ErrorKind};
use conclave::hsm::Manage;
use cryptoki_sys as ck;
use serde_json::{Value, json};

use crate::args::{ChangeKey, Login};
use crate::output::{self, Failure};
use crate::session::{self, Live};

impl Live {
    /// A token with a user logged in, who is asked for his PIN unless the arguments say otherwise.
    pub(crate) fn logged_in(login: &Login) -> Result<Self, Failure> {
        let live = Self::public(login.token.as_deref())?;
        live.log_in(login, ck::CKU_USER)?;
        Ok(live)
    }

    /// Makes a change and gives what is told of it, such as an id; None if it was a trial that
    /// would have succeeded. `doing` begins the sentence of a failure.
    pub(crate) fn manage(
        &self,
        doing: &str,
        action: Manage,
        request: &Value,
        dry_run: bool,
    ) -> Result<Option<String>, Failure> {
        unless_dry(doing, self.module.manage(self.session, action, &request.to_string(), dry_run))
    }

    pub(crate) fn query(&self, doing: &str, query: KeyQuery, request: &Value) -> Result<Value, Failure> {
        let answer = self.module.query_keys(self.session, query, &request.to_string());
        session::parse(&answer.map_err(|error| Failure::while_(doing, &error))?)
    }

    /// All items of a list that comes in pages.
    pub(crate) fn query_all(
        &self,
        doing: &str,
        query: KeyQuery,
        mut request: Value,
        list: &str,
    ) -> Result<Vec<Value>, Failure> {
        let mut all = Vec::new();
        loop {
            let mut page = self.query(doing, query, &request)?;
            if let Value::Array(items) = page[list].take() {
                all.extend(items);
            }
            match page["NextMarker"].take() {
                Value::Null => return Ok(all),
                marker => request["Marker"] = marker,
            }
        }
    }

    /// A key as the token describes it, with its aliases.
    pub(crate) fn describe_key(&self, key: &str) -> Result<Value, Failure> {
        let request = json!({ "KeyId": reference(key) });
        let mut described = self.query(&format!("cannot describe {key}"), KeyQuery::DescribeKey, &request)?;
        let aliases = self.query_all("cannot list its aliases", KeyQuery::ListAliases, request, "Aliases")?;
        let names: Vec<_> = aliases.into_iter().map(|mut alias| alias["AliasName"].take()).collect();
        described["Aliases"] = Value::Array(names);
        Ok(described)
    }
}

/// The key that an argument names: its id, or an alias, whose `alias/` may be left out.
pub(crate) fn reference(key: &str) -> String {
    let digits = |text: &str| text.bytes().all(|digit| digit.is_ascii_hexdigit() || digit == b'-');
    let is_id = key.len() == 36 && key.strip_prefix("mrk-").map_or_else(|| digits(key), digits);
    if is_id { key.to_owned() } else { alias(key) }
}

pub(crate) fn alias(name: &str) -> String {
    if name.starts_with("alias/") { name.to_owned() } else { format!("alias/{name}") }
}

/// A JSON object of the pairs of an argument.
pub(crate) fn object(pairs: &[(String, String)]) -> Result<Value, Failure> {
    let mut object = serde_json::Map::new();
    for (name, value) in pairs {
        if object.insert(name.clone(), json!(value)).is_some() {
            return Err(Failure::usage(format!("{name:?} is given twice")));
        }
    }
    Ok(Value::Object(object))
}

/// The tags of an argument as requests have them.
pub(crate) fn tags(pairs: &[(String, String)]) -> Value {
    pairs.iter().map(|(name, value)| json!({ "TagKey": name, "TagValue": value })).collect()
}

/// What was done; None if it was a trial that would have succeeded.
pub(crate) fn unless_dry<T>(doing: &str, done: Result<T, Error>) -> Result<Option<T>, Failure> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == ErrorKind::KmsDryRun => Ok(None),
        Err(error) => Err(Failure::while_(doing, &error)),
    }
}

/// Says that a trial would have succeeded.
pub(crate) fn tried(as_json: bool) -> Result<(), Failure> {
    output::done(as_json, "Dry run: it would be done; nothing has changed.", &json!({ "dry_run": true }));
    Ok(())
}

/// Changes one key, and says `sentence`, which is given the key as it is now; as JSON, that itself.
pub(crate) fn change(
    change: &ChangeKey,
    action: Manage,
    doing: &str,
    more: Value,
    as_json: bool,
    sentence: impl FnOnce(&Value) -> String,
) -> Result<(), Failure> {
    let live = Live::logged_in(&change.of.login)?;
    change_in(&live, change, action, doing, more, as_json, sentence)
}

/// The same with an open token.
pub(crate) fn change_in(
    live: &Live,
    change: &ChangeKey,
    action: Manage,
    doing: &str,
    mut more: Value,
    as_json: bool,
    sentence: impl FnOnce(&Value) -> String,
) -> Result<(), Failure> {
    let key = &change.of.key;
    more["KeyId"] = json!(reference(key));
    if live.manage(&format!("cannot {doing} {key}"), action, &more, change.trial.dry_run)?.is_none() {
        return tried(as_json);
    }
    let now = live.describe_key(key)?;
    output::done(as_json, &sentence(&now), &now);
    Ok(())
}
