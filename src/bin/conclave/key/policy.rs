//! `conclave key policy`.

use std::path::Path;

use conclave::cryptoki::KeyQuery;
use conclave::hsm::Manage;
use serde_json::{Value, json};

use crate::args::{OneKey, PolicyCommand, PolicySet};
use crate::files;
use crate::managed::{self, reference};
use crate::output::{self, Failure, cell};
use crate::session::Live;

pub(super) fn run(command: &PolicyCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        PolicyCommand::Show(one) => show(one),
        PolicyCommand::Set(set) => self::set(set, as_json),
    }
}

/// JSON either way: what `set` takes.
fn show(one: &OneKey) -> Result<(), Failure> {
    let live = Live::logged_in(&one.login)?;
    let doing = format!("cannot show the policy of {}", one.key);
    let answer = live.query(&doing, KeyQuery::GetKeyPolicy, &json!({ "KeyId": reference(&one.key) }))?;
    output::json(answer.get("Policy").unwrap_or(&answer));
    Ok(())
}

fn set(set: &PolicySet, as_json: bool) -> Result<(), Failure> {
    let more = json!({ "Policy": read(&set.file)? });
    managed::change(&set.change, Manage::PutKeyPolicy, "set the policy of", more, as_json, |key| {
        format!("The policy of key {} is set.", cell(key, "KeyId"))
    })
}

/// A policy from a file.
pub(super) fn read(file: &Path) -> Result<Value, Failure> {
    let name = files::name(file);
    serde_json::from_slice(&files::read(file)?).map_err(|error| {
        Failure::usage(format!("{name} is not JSON ({error}): `conclave key policy show` gives an example"))
    })
}
