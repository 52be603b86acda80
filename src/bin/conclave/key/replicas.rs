//! `conclave key replicas` and `promote`.

use conclave::cryptoki::KeyQuery;
use conclave::hsm::Manage;
use serde_json::{Value, json};

use crate::args::{KeyPromote, OneKey};
use crate::managed::{self, reference};
use crate::output::{self, Failure, cell, items};
use crate::region;
use crate::session::Live;

pub(super) fn show(one: &OneKey, as_json: bool) -> Result<(), Failure> {
    let live = Live::logged_in(&one.login)?;
    let key = described(&live, &one.key)?;
    if as_json {
        output::json(&key);
    } else {
        print(&key);
    }
    Ok(())
}

fn described(live: &Live, key: &str) -> Result<Value, Failure> {
    let request = json!({ "KeyId": reference(key) });
    live.query(&format!("cannot tell the replicas of {key}"), KeyQuery::DescribeReplicas, &request)
}

fn print(key: &Value) {
    let outdated = &key["Outdated"];
    if outdated.is_object() {
        println!(
            "WARNING: {} is the primary now (term {}). This Region's operators say so with `conclave proposal new \
             emergency-promote`.\n",
            cell(outdated, "Region"),
            cell(outdated, "Term"),
        );
    }
    println!("Key          {}", cell(key, "KeyId"));
    let here = match key["MultiRegionKeyType"].as_str() {
        Some("PRIMARY") => "the primary",
        _ => "a replica",
    };
    println!("Here         {here}");
    println!("Primary      {}", cell(key, "PrimaryKey.Region"));
    println!("Version      {}", cell(key, "NewestVersion"));
    println!("Term         {}", cell(key, "Term"));
    if !key["Handover"].is_null() {
        println!("Handover     to {}, which has not taken it yet", cell(key, "Handover"));
    }
    let rows: Vec<_> = items(&key["ReplicaKeys"])
        .iter()
        .map(|replica| {
            let made = replica["Registered"] == true;
            let version = |name: &str| if made { cell(replica, name) } else { "-".to_owned() };
            let state = if made { "made" } else { "allowed, not made yet" };
            vec![cell(replica, "Region"), state.to_owned(), version("Version"), version("ActiveVersion")]
        })
        .collect();
    if !rows.is_empty() {
        println!("");
        output::table(&["REPLICA", "STATE", "HAS VERSION", "USES VERSION"], &rows);
    }
}

pub(super) fn promote(promote: &KeyPromote, as_json: bool) -> Result<(), Failure> {
    let KeyPromote { change, to, by, .. } = promote;
    let name = &change.of.key;
    let live = Live::logged_in(&change.of.login)?;
    let key = described(&live, name)?;
    // What was begun is only told once more.
    let begun = key["Handover"] == **to;
    if !begun {
        if !change.trial.dry_run {
            let question = format!(
                "The primary of key {} goes to {to:?}: from then on it is rotated and replicated there only, and this \
                 Region cannot take it back by itself.",
                cell(&key, "KeyId"),
            );
            output::confirm(&question, name, promote.yes)?;
        }
        let request = json!({ "KeyId": reference(name), "PrimaryRegion": to });
        let doing = format!("cannot promote {name}");
        if live.manage(&doing, Manage::UpdatePrimaryRegion, &request, change.trial.dry_run)?.is_none() {
            return managed::tried(as_json);
        }
    }
    let id = cell(&key, "KeyId");
    let waits = by.proxy.is_some() || by.via.is_some();
    if waits {
        region::hand_over(&live, &id, to, by, promote.timeout, as_json)?;
    }
    let now = described(&live, name)?;
    let sentence = match waits {
        true => format!("The primary of key {id} is in {to:?}."),
        false => format!("The primary of key {id} goes to {to:?}: `conclave region serve` tells it."),
    };
    output::done(as_json, &sentence, &now);
    Ok(())
}
