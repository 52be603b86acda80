//! `conclave key list`: the objects of a token, with the managed keys in columns of their own.

use std::collections::{HashMap, HashSet};

use conclave::cryptoki::KeyQuery;
use conclave::hsm::Template;
use cryptoki_sys as ck;
use serde_json::{Map, Value, json};

use super::objects::{USES, find, name_of, read};
use crate::args::{KeyAt, KeyList, Login};
use crate::output::{self, Failure, cell, items};
use crate::session::{self, Live};

/// A session as the arguments ask for, logged in unless they say `none`.
pub(super) fn open(at: &KeyAt) -> Result<Live, Failure> {
    let live = Live::public(at.token.as_deref())?;
    if at.pin != "none" {
        let login = Login { token: None, pin: Some(at.pin.clone()), so_pin: None, login_as: at.login_as.clone() };
        live.log_in(&login, ck::CKU_USER)?;
    }
    Ok(live)
}

pub(super) fn run(arguments: &KeyList, as_json: bool) -> Result<(), Failure> {
    let live = open(&arguments.at)?;
    if let Some(days) = arguments.expiring {
        return expiring(&live, days, as_json);
    }
    let public = arguments.at.pin == "none";
    let managed = if public { HashMap::new() } else { managed_keys(&live)? };
    let (mut list, mut rows, mut managed_rows) = (Vec::new(), Vec::new(), Vec::new());
    let mut listed = HashSet::new();
    for object in find(&live.module, live.session, &Template::default())? {
        let mut shown = read(&live.module, live.session, object)?;
        let id = shown.get("kms_key_id").and_then(Value::as_str);
        match id.and_then(|id| managed.get(id)) {
            Some(key) => {
                // The halves of a pair are one key.
                if listed.insert(key["KeyId"].as_str()) {
                    managed_rows.push(row(key));
                }
                if as_json {
                    shown.insert("managed".to_owned(), key.clone());
                }
            }
            None => rows.push(ordinary(&shown)),
        }
        if as_json {
            list.push(shown);
        }
    }
    if as_json {
        output::json(&json!(list));
        return Ok(());
    }
    if rows.is_empty() && managed_rows.is_empty() {
        let what = if public { "public object" } else { "object" };
        println!("Token {:?} has no {what}.", live.token.label);
    }
    if !rows.is_empty() {
        output::table(&["CLASS", "TYPE", "LABEL", "ID", "USES"], &rows);
    }
    if !rows.is_empty() && !managed_rows.is_empty() {
        println!("");
    }
    if !managed_rows.is_empty() {
        output::table(&["MANAGED KEY", "STATE", "SPEC", "USAGE", "LABEL", "ALIASES"], &managed_rows);
    }
    Ok(())
}

/// What the token says of each managed key, by its id.
fn managed_keys(live: &Live) -> Result<HashMap<String, Value>, Failure> {
    let doing = "cannot list the managed keys";
    let mut keys = HashMap::new();
    for key in live.query_all(doing, KeyQuery::ListKeys, json!({ "Limit": 1000 }), "Keys")? {
        if let Some(id) = key["KeyId"].as_str() {
            keys.insert(id.to_owned(), key);
        }
    }
    if keys.is_empty() {
        return Ok(keys);
    }
    for key in keys.values_mut() {
        key["Aliases"] = json!([]);
    }
    for mut alias in live.query_all(doing, KeyQuery::ListAliases, json!({ "Limit": 1000 }), "Aliases")? {
        let names = alias["TargetKeyId"].as_str().and_then(|id| keys.get_mut(id));
        if let Some(Value::Array(names)) = names.map(|key| &mut key["Aliases"]) {
            names.push(alias["AliasName"].take());
        }
    }
    Ok(keys)
}

fn row(key: &Value) -> Vec<String> {
    ["KeyId", "KeyState", "KeySpec", "KeyUsage", "Label", "Aliases"].map(|column| cell(key, column)).to_vec()
}

fn ordinary(shown: &Map<String, Value>) -> Vec<String> {
    let text = |name: &str| shown.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let uses: Vec<&str> = USES
        .iter()
        .filter(|(kind, _)| name_of(*kind).and_then(|name| shown.get(name)) == Some(&json!(true)))
        .map(|(_, name)| *name)
        .collect();
    vec![text("class"), text("key_type"), text("label"), text("id"), uses.join(",")]
}

/// The keys whose imported material expires within so many days.
fn expiring(live: &Live, days: u64, as_json: bool) -> Result<(), Failure> {
    let due = live.module.due_keys(live.session, days);
    let mut due = session::parse(&due.map_err(|error| Failure::while_("cannot list what expires", &error))?)?;
    let due = due["Keys"].take();
    if as_json {
        output::json(&due);
        return Ok(());
    }
    let columns = ["ValidTo@", "KeyId", "KeyState", "KeySpec", "Label", "Description"];
    let rows: Vec<_> = items(&due).iter().map(|key| columns.map(|column| cell(key, column)).to_vec()).collect();
    if rows.is_empty() {
        println!("No imported material expires within {days} days.");
    } else {
        output::table(&["EXPIRES", "MANAGED KEY", "STATE", "SPEC", "LABEL", "DESCRIPTION"], &rows);
    }
    Ok(())
}
