//! `conclave grant`.

use conclave::cryptoki::KeyQuery;
use conclave::hsm::Manage;
use serde_json::{Value, json};

use crate::args::{GrantCommand, GrantCreate, GrantEnd, OneKey};
use crate::managed::{self, reference};
use crate::output::{self, Failure, cell, items};
use crate::session::Live;

pub(crate) fn run(command: &GrantCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        GrantCommand::Create(create) => self::create(create, as_json),
        GrantCommand::List(one) => list(one, as_json),
        GrantCommand::Retire(end) => self::end(end, Manage::RetireGrant, "retire", "retired", as_json),
        GrantCommand::Revoke(end) => self::end(end, Manage::RevokeGrant, "revoke", "revoked", as_json),
    }
}

fn create(create: &GrantCreate, as_json: bool) -> Result<(), Failure> {
    let key = &create.change.of.key;
    let mut request = json!({
        "KeyId": reference(key), "GranteePrincipal": create.grantee, "Operations": create.operations,
    });
    if let Some(name) = &create.name {
        request["Name"] = json!(name);
    }
    if let Some(retiring) = &create.retiring {
        request["RetiringPrincipal"] = json!(retiring);
    }
    for (constraint, pairs) in
        [("EncryptionContextEquals", &create.context_equals), ("EncryptionContextSubset", &create.context_subset)]
    {
        if !pairs.is_empty() {
            request["Constraints"] = json!({ constraint: managed::object(pairs)? });
        }
    }
    let live = Live::logged_in(&create.change.of.login)?;
    let doing = format!("cannot grant anything on {key}");
    let Some(id) = live.manage(&doing, Manage::CreateGrant, &request, create.change.trial.dry_run)? else {
        return managed::tried(as_json);
    };
    let sentence = format!("Grant {id}: {} may {} with {key}.", create.grantee, create.operations.join(", "));
    output::done(as_json, &sentence, &json!({ "GrantId": id, "KeyId": live.describe_key(key)?["KeyId"] }));
    Ok(())
}

fn list(one: &OneKey, as_json: bool) -> Result<(), Failure> {
    let live = Live::logged_in(&one.login)?;
    let doing = format!("cannot list the grants of {}", one.key);
    let grants = live.query_all(&doing, KeyQuery::ListGrants, json!({ "KeyId": reference(&one.key) }), "Grants")?;
    if as_json {
        output::json(&Value::Array(grants));
    } else if grants.is_empty() {
        println!("Nothing is granted on {}.", one.key);
    } else {
        let rows: Vec<_> = grants
            .iter()
            .map(|grant| {
                let constraints = grant["Constraints"].as_object().into_iter().flatten();
                let conditions: Vec<_> =
                    constraints.map(|(name, context)| format!("{} {context}", constraint(name))).collect();
                let columns = ["GrantId", "Name", "GranteePrincipal", "Operations", "RetiringPrincipal"];
                let mut row: Vec<_> = columns.iter().map(|column| cell(grant, column)).collect();
                row.push(if items(&grant["Operations"]).is_empty() { "-".to_owned() } else { conditions.join("; ") });
                row
            })
            .collect();
        output::table(&["GRANT", "NAME", "GRANTEE", "MAY", "RETIRED BY", "IF THE CONTEXT"], &rows);
    }
    Ok(())
}

fn constraint(name: &str) -> &str {
    match name {
        "EncryptionContextEquals" => "is",
        "EncryptionContextSubset" => "contains",
        other => other,
    }
}

fn end(end: &GrantEnd, action: Manage, verb: &str, done: &str, as_json: bool) -> Result<(), Failure> {
    let live = Live::logged_in(&end.change.of.login)?;
    let request = json!({ "KeyId": reference(&end.change.of.key), "GrantId": end.grant });
    let doing = format!("cannot {verb} the grant");
    match live.manage(&doing, action, &request, end.change.trial.dry_run)? {
        Some(_) => output::done(as_json, &format!("Grant {} is {done}.", end.grant), &json!({ done: end.grant })),
        None => return managed::tried(as_json),
    }
    Ok(())
}
