//! `conclave alias`.

use conclave::cryptoki::KeyQuery;
use conclave::hsm::Manage;
use serde_json::{Value, json};

use crate::args::{AliasCommand, AliasDelete, AliasList, AliasTo};
use crate::managed::{self, reference};
use crate::output::{self, Failure, cell};
use crate::session::Live;

pub(crate) fn run(command: &AliasCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        AliasCommand::Create(to) => point(to, Manage::CreateAlias, "create", as_json),
        AliasCommand::Update(to) => point(to, Manage::UpdateAlias, "update", as_json),
        AliasCommand::Delete(delete) => self::delete(delete, as_json),
        AliasCommand::List(list) => self::list(list, as_json),
    }
}

fn point(to: &AliasTo, action: Manage, verb: &str, as_json: bool) -> Result<(), Failure> {
    let live = Live::logged_in(&to.login)?;
    let name = managed::alias(&to.name);
    let request = json!({ "AliasName": name, "TargetKeyId": reference(&to.key) });
    if live.manage(&format!("cannot {verb} {name}"), action, &request, to.trial.dry_run)?.is_none() {
        return managed::tried(as_json);
    }
    let key = live.describe_key(&name)?;
    let said = json!({ "AliasName": name, "TargetKeyId": key["KeyId"] });
    output::done(as_json, &format!("{name} is key {}.", cell(&key, "KeyId")), &said);
    Ok(())
}

fn delete(delete: &AliasDelete, as_json: bool) -> Result<(), Failure> {
    let live = Live::logged_in(&delete.login)?;
    let name = managed::alias(&delete.name);
    let request = json!({ "AliasName": name });
    match live.manage(&format!("cannot delete {name}"), Manage::DeleteAlias, &request, delete.trial.dry_run)? {
        Some(_) => output::done(as_json, &format!("{name} is deleted; the key stays."), &json!({ "deleted": name })),
        None => return managed::tried(as_json),
    }
    Ok(())
}

fn list(list: &AliasList, as_json: bool) -> Result<(), Failure> {
    let live = Live::logged_in(&list.login)?;
    let request = list.key.as_ref().map_or_else(|| json!({}), |key| json!({ "KeyId": reference(key) }));
    let aliases = live.query_all("cannot list the aliases", KeyQuery::ListAliases, request, "Aliases")?;
    if as_json {
        output::json(&Value::Array(aliases));
    } else if aliases.is_empty() {
        println!("There is no alias. `conclave alias create` makes one.");
    } else {
        let rows: Vec<_> =
            aliases.iter().map(|alias| vec![cell(alias, "AliasName"), cell(alias, "TargetKeyId")]).collect();
        output::table(&["ALIAS", "KEY"], &rows);
    }
    Ok(())
}
