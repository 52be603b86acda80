//! `conclave domain show`.

use conclave::hsm::governance;
use serde_json::{Value, json};

use crate::args::DomainShow;
use crate::operator::token_of;
use crate::output::{self, Failure, cell, items};
use crate::session::Live;

pub(super) fn show(show: &DomainShow, as_json: bool) -> Result<(), Failure> {
    let state = match &show.file {
        Some(file) => token_of(file)?,
        None => {
            let mut state = Live::at(&show.at)?.domain()?;
            let more = attention(&state);
            if let Some(warnings) = state["warnings"].as_array_mut() {
                warnings.extend(more);
            }
            state
        }
    };
    if as_json {
        output::json(&state);
    } else {
        print(state);
    }
    Ok(())
}

/// What those who govern should see to, beyond what the module warns of.
fn attention(state: &Value) -> Vec<Value> {
    let mut said = Vec::new();
    if state["standing_order"]["due"] == true {
        said.push(json!(
            "a rotation is due by the standing order: the next login or `conclave domain rotate --due` does it"
        ));
    }
    for user in items(&state["users"]) {
        let role = cell(user, "role");
        match (user["has_pin"].as_bool(), user["enrolment"]["open"].as_bool()) {
            (Some(false), Some(true)) => said.push(json!(format!(
                "{role} has no PIN yet: `conclave user set-pin` sets it until {}",
                cell(user, "enrolment.until@")
            ))),
            (Some(false), _) => {
                said.push(json!(format!("{role} has no PIN, and nobody may set one: propose `reset PIN`")))
            }
            _ => {}
        }
    }
    said
}

/// A domain's state as text, of a live one with its warnings first.
fn print(mut state: Value) {
    for warning in items(&state["warnings"]) {
        println!("WARNING: {}", warning.as_str().unwrap_or_default());
    }
    if !items(&state["warnings"]).is_empty() {
        println!("");
    }
    let text = |name: &str| state[name].as_str().unwrap_or_default().to_owned();
    let quoted = |name: &str| format!("{:?}", text(name));
    let changed = governance::date(state["changed"].as_u64().unwrap_or_default());
    for (name, value) in [
        ("Domain", text("domain")),
        ("Name", quoted("name")),
        ("Region", quoted("region")),
        ("Governed by", if state["governed_by"] == "SO" { "the SO".into() } else { "its operators".into() }),
        ("Version", format!("{}, made {changed}", state["version"])),
        ("State", text("hash")),
        ("Governance", text("governance")),
    ] {
        println!("{name:<12} {value}");
    }
    let records = state["records"].take();
    if let Some(keys) = state["domain_keys"].as_array_mut() {
        for key in keys {
            let count = key["id"].as_str().map(|id| records[id].clone()).unwrap_or_default();
            key["objects"] = if records.is_object() && count.is_null() { json!(0) } else { count };
        }
    }
    for (title, headings, columns, list) in TABLES {
        let rows: Vec<Vec<String>> =
            items(&state[list]).iter().map(|item| columns.iter().map(|column| cell(item, column)).collect()).collect();
        if !rows.is_empty() {
            println!("\n{title}");
            output::table(headings, &rows);
        }
    }
    println!("");
    if let Some(threshold) = state["recovery"]["threshold"].as_u64() {
        let holders: Vec<_> =
            items(&state["recovery"]["holders"]).iter().map(|holder| cell(holder, "person")).collect();
        println!("Recovery: any {threshold} of {}", holders.join(", "));
    } else {
        println!("Recovery: nobody holds a share");
    }
    let order = &state["standing_order"];
    let span = |value: &Value| value.as_u64().map(governance::span).unwrap_or_default();
    if order.is_object() {
        let retain = if order["retain"].is_null() { "until another command".into() } else { span(&order["retain"]) };
        println!(
            "Standing order: rotate every {}, within {} of when it is due, until {}; old keys stay {retain}",
            span(&order["interval"]),
            span(&order["window"]),
            cell(order, "until@"),
        );
    }
    let limits = state["limits"].as_object().into_iter().flatten();
    let limits: Vec<_> = limits.map(|(name, limit)| format!("{} {}", name.replace('_', " "), span(limit))).collect();
    println!("Limits: {}", limits.join(", "));
    for (title, list) in [("Trusted keys", "trusted_keys"), ("Cipher suites", "suites")] {
        let list: Vec<_> = items(&state[list]).iter().map(|item| cell(item, "")).collect();
        if !list.is_empty() {
            println!("{title}: {}", list.join(", "));
        }
    }
}

/// What is listed: title, headings, members of each item, and the list's name. A date's member
/// ends with `@`.
type Listed = (&'static str, &'static [&'static str], &'static [&'static str], &'static str);
const TABLES: &[Listed] = &[
    ("HSMs", &["ID", "SIGNS WITH"], &["id", "signing.kid"], "members"),
    ("Operators", &["PERSON", "ROLES", "ID", "SIGNS WITH"], &["person", "roles", "id", "signing.kid"], "operators"),
    ("Hosts", &["NAME", "ID", "SIGNS WITH"], &["name", "id", "signing.kid"], "hosts"),
    ("PINs", &["ROLE", "PIN SET", "MAY BE SET UNTIL"], &["role", "has_pin", "enrolment.until@"], "users"),
    ("Rules", &["NEEDS"], &["words"], "rules"),
    (
        "Domain keys",
        &["ID", "STATUS", "CREATED", "RETIRES", "OBJECTS"],
        &["id", "status", "created@", "retires@", "objects"],
        "domain_keys",
    ),
    ("Trusted Regions", &["NAME", "DOMAIN"], &["name", "domain"], "trusted_regions"),
    ("Revoked", &["OBJECT", "LOWEST GENERATION"], &["object", "lowest"], "revoked"),
];
