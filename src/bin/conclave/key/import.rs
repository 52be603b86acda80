//! `conclave key import-parameters`, `import` and `delete-material`.

use conclave::hsm::{Manage, governance};
use serde_json::json;

use crate::args::{KeyDeleteMaterial, KeyImport, KeyImportParameters};
use crate::files;
use crate::managed::{self, reference, unless_dry};
use crate::output::{self, Failure, cell};
use crate::session::Live;

pub(super) fn parameters(arguments: &KeyImportParameters, as_json: bool) -> Result<(), Failure> {
    let change = &arguments.change;
    let live = Live::logged_in(&change.of.login)?;
    let doing = format!("cannot give import parameters for {}", change.of.key);
    let made = live.module.import_parameters(
        live.session,
        &reference(&change.of.key),
        &arguments.algorithm,
        &arguments.wrapping_spec,
        change.trial.dry_run,
    );
    let Some(made) = unless_dry(&doing, made)? else {
        return managed::tried(as_json);
    };
    let outputs = [arguments.public_key.as_deref(), arguments.import_token.as_deref()];
    for (out, bytes) in outputs.iter().zip([&made.public_key, &made.token]) {
        if let Some(out) = out {
            files::replace(out, bytes)?;
        }
    }
    let key = live.describe_key(&change.of.key)?["KeyId"].take();
    let sentence = format!(
        "Wrap the material under the public key ({}), then `conclave key import`. Both files are good for key {} until {}.",
        arguments.algorithm,
        cell(&key, ""),
        governance::date(made.expires),
    );
    let said = json!({
        "KeyId": key, "ParametersValidTo": made.expires, "public_key": arguments.public_key,
        "import_token": arguments.import_token,
    });
    files::report_all(&outputs, as_json, &sentence, &said);
    Ok(())
}

pub(super) fn import(import: &KeyImport, as_json: bool) -> Result<(), Failure> {
    let change = &import.change;
    let (token, material) = (files::read(&import.import_token)?, files::read(&import.material)?);
    let live = Live::logged_in(&change.of.login)?;
    let imported = live.module.import_material(
        live.session,
        &reference(&change.of.key),
        &token,
        &material,
        import.valid_to,
        change.trial.dry_run,
    );
    if unless_dry(&format!("cannot import into {}", change.of.key), imported)?.is_none() {
        return managed::tried(as_json);
    }
    let key = live.describe_key(&change.of.key)?;
    let end = match key["ValidTo"].as_u64() {
        Some(end) => format!("until {}", governance::date(end)),
        None => "without an end".to_owned(),
    };
    let sentence = format!("Key {} has its material, {end}; it is {}.", cell(&key, "KeyId"), cell(&key, "KeyState"));
    output::done(as_json, &sentence, &key);
    Ok(())
}

pub(super) fn delete(delete: &KeyDeleteMaterial, as_json: bool) -> Result<(), Failure> {
    let change = &delete.change;
    let live = Live::logged_in(&change.of.login)?;
    if !change.trial.dry_run {
        let key = live.describe_key(&change.of.key)?;
        let question = format!(
            "The material of key {} ({}) is deleted at once. Only the same material, imported again, brings it back.",
            cell(&key, "KeyId"),
            super::life::called(&key),
        );
        output::confirm(&question, &change.of.key, delete.yes)?;
    }
    let action = Manage::DeleteImportedKeyMaterial;
    managed::change_in(&live, change, action, "delete the material of", json!({}), as_json, |key| {
        format!("Key {} has no material; it waits for the same to be imported again.", cell(key, "KeyId"))
    })
}
