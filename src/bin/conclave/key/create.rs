//! `conclave key create`.

use conclave::hsm::Manage;
use serde_json::json;

use super::policy;
use crate::args::KeyCreate;
use crate::managed;
use crate::output::{self, Failure, cell};
use crate::session::Live;

pub(super) fn run(create: &KeyCreate, as_json: bool) -> Result<(), Failure> {
    let mut request = json!({ "KeySpec": create.spec, "Origin": create.origin });
    for (name, value) in [("KeyUsage", &create.usage), ("Label", &create.label), ("Description", &create.description)] {
        if let Some(value) = value {
            request[name] = json!(value);
        }
    }
    for (name, asked) in [
        ("MultiRegion", create.multi_region),
        ("ReplicateImportedMaterial", create.replicate_imported),
        ("StandardMechanisms", create.standard_mechanisms),
    ] {
        if asked {
            request[name] = json!(true);
        }
    }
    if !create.tags.is_empty() {
        request["Tags"] = managed::tags(&create.tags);
    }
    if let Some(file) = &create.policy {
        request["Policy"] = policy::read(file)?;
    }
    if let Some(threshold) = create.threshold {
        request["DualControl"] = json!({ "Operators": create.operators, "Threshold": threshold });
    }
    let live = Live::logged_in(&create.login)?;
    let made = live.manage("cannot create the key", Manage::CreateKey, &request, create.trial.dry_run)?;
    let Some(id) = made else {
        return managed::tried(as_json);
    };
    for name in create.aliases.iter().map(|name| managed::alias(name)) {
        let request = json!({ "AliasName": name, "TargetKeyId": id });
        live.manage(&format!("key {id} was made, but not {name}"), Manage::CreateAlias, &request, false)?;
    }
    let key = live.describe_key(&id)?;
    let next = match key["Origin"].as_str() {
        Some("EXTERNAL") => "It waits for its material: `conclave key import-parameters` begins the import.",
        _ => "It is ready.",
    };
    let sentence = format!("Key {id} is made: {} for {}. {next}", cell(&key, "KeySpec"), cell(&key, "KeyUsage"));
    output::done(as_json, &sentence, &key);
    Ok(())
}
