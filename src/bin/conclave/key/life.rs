//! `conclave key describe` and what changes a managed key without touching its material.

use conclave::hsm::{Manage, governance};
use serde_json::{Value, json};

use crate::args::{KeyDelete, KeySetDescription, KeyTag, KeyUntag, OneKey};
use crate::managed;
use crate::output::{self, Failure, cell, items};
use crate::session::Live;
use crate::times;

pub(super) fn describe(one: &OneKey, as_json: bool) -> Result<(), Failure> {
    let key = Live::logged_in(&one.login)?.describe_key(&one.key)?;
    if as_json {
        output::json(&key);
        return Ok(());
    }
    let has = |name: &str| !key[name].is_null();
    let tags = items(&key["Tags"]).iter().map(|tag| format!("{}={}", cell(tag, "TagKey"), cell(tag, "TagValue")));
    let version = match has("RotationDate") {
        true => format!("{}, made {}", cell(&key, "KeyVersion"), cell(&key, "RotationDate@")),
        false => cell(&key, "KeyVersion"),
    };
    let rotation = match has("RotationPeriodInDays") {
        true => {
            format!("every {} days, next on {}", cell(&key, "RotationPeriodInDays"), cell(&key, "NextRotationDate@"))
        }
        false => String::new(),
    };
    let deletion = match (has("DeletionDate"), has("PendingDeletionWindowInDays")) {
        (true, _) => format!("on {}", cell(&key, "DeletionDate@")),
        (_, true) => {
            format!("{} days after the last replica's", cell(&key, "PendingDeletionWindowInDays"))
        }
        _ => String::new(),
    };
    let material = match (key["ExpirationModel"].as_str(), key["Origin"].as_str()) {
        (Some("KEY_MATERIAL_EXPIRES"), _) => format!("imported, expires on {}", cell(&key, "ValidTo@")),
        (Some(_), _) => "imported, does not expire".to_owned(),
        (None, Some("EXTERNAL")) => "to be imported".to_owned(),
        _ => "made in the HSM".to_owned(),
    };
    let control = &key["DualControl"];
    let control = match control["Threshold"].as_u64() {
        Some(threshold) => {
            let kids = items(&control["Operators"]).iter().filter_map(Value::as_str);
            let kids: Vec<_> = kids.map(|kid| kid.get(..16).unwrap_or(kid)).collect();
            format!("each use needs {threshold} of the operators {}", kids.join(", "))
        }
        None => String::new(),
    };
    let replication = &key["MultiRegionConfiguration"];
    let regions = match replication["MultiRegionKeyType"].as_str() {
        Some("PRIMARY") => {
            let replicas: Vec<_> =
                items(&replication["ReplicaKeys"]).iter().map(|replica| cell(replica, "Region")).collect();
            let replicas = if replicas.is_empty() { "none".to_owned() } else { replicas.join(", ") };
            format!("the primary; replicas in {replicas}")
        }
        Some(_) => format!("a replica of the primary in {}", cell(replication, "PrimaryKey.Region")),
        None => String::new(),
    };
    let shown = |name: &str| if has(name) { cell(&key, name) } else { String::new() };
    for (name, value) in [
        ("Key", shown("KeyId")),
        ("State", shown("KeyState")),
        ("Spec", format!("{}, for {}", cell(&key, "KeySpec"), cell(&key, "KeyUsage"))),
        ("Label", shown("Label")),
        ("Description", shown("Description")),
        ("Aliases", shown("Aliases")),
        ("Tags", tags.collect::<Vec<_>>().join(", ")),
        ("Owner", shown("Owner")),
        ("Created", cell(&key, "CreationDate@")),
        ("Version", version),
        ("Material", material),
        ("Regions", regions),
        ("Rotation", rotation),
        ("Deletion", deletion),
        ("Control", control),
    ] {
        if !value.is_empty() && value != "\"\"" {
            println!("{name:<12} {value}");
        }
    }
    Ok(())
}

pub(super) fn delete(delete: &KeyDelete, as_json: bool) -> Result<(), Failure> {
    const DAY: u64 = 86_400;
    let change = &delete.change;
    let live = Live::logged_in(&change.of.login)?;
    if !change.trial.dry_run {
        let key = live.describe_key(&change.of.key)?;
        let date = governance::date(times::now().saturating_add(delete.days * DAY));
        let question = format!(
            "Key {} ({}) can no longer be used, and on {date} it is deleted, with everything encrypted under it.",
            cell(&key, "KeyId"),
            called(&key),
        );
        output::confirm(&question, &change.of.key, delete.yes)?;
    }
    let more = json!({ "PendingWindowInDays": delete.days });
    managed::change_in(&live, change, Manage::ScheduleKeyDeletion, "schedule the deletion of", more, as_json, |key| {
        format!(
            "Key {0} will be deleted on {1}. Until then: `conclave key cancel-deletion {0}`.",
            cell(key, "KeyId"),
            cell(key, "DeletionDate@")
        )
    })
}

/// By what a person knows a key: its aliases, label, description, or else its spec.
pub(super) fn called(key: &Value) -> String {
    let names = ["Aliases", "Label", "Description", "KeySpec"].map(|name| cell(key, name));
    names.into_iter().find(|name| !matches!(name.as_str(), "" | "-" | "\"\"")).unwrap_or_default()
}

pub(super) fn set_description(set: &KeySetDescription, as_json: bool) -> Result<(), Failure> {
    let more = json!({ "Description": set.text });
    managed::change(&set.change, Manage::UpdateDescription, "describe", more, as_json, |key| {
        format!("The description of key {} is set.", cell(key, "KeyId"))
    })
}

pub(super) fn tag(tag: &KeyTag, as_json: bool) -> Result<(), Failure> {
    let more = json!({ "Tags": managed::tags(&tag.tags) });
    managed::change(&tag.change, Manage::TagKey, "tag", more, as_json, tagged)
}

pub(super) fn untag(untag: &KeyUntag, as_json: bool) -> Result<(), Failure> {
    let more = json!({ "TagKeys": untag.names });
    managed::change(&untag.change, Manage::UntagKey, "remove tags from", more, as_json, tagged)
}

fn tagged(key: &Value) -> String {
    let tags = items(&key["Tags"]);
    format!("Key {} has {} tag{}.", cell(key, "KeyId"), tags.len(), if tags.len() == 1 { "" } else { "s" })
}
