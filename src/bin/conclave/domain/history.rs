//! `conclave domain history`.

use conclave::hsm::governance;
use serde_json::{Value, json};

use crate::args::DomainHistory;
use crate::files;
use crate::output::{self, Failure, cell, items};
use crate::session::Live;

pub(super) fn run(arguments: &DomainHistory, as_json: bool) -> Result<(), Failure> {
    let history = match &arguments.file {
        Some(file) => files::read(file)?,
        None => Live::at(&arguments.at)?.history()?,
    };
    let verified = match &arguments.domain {
        Some(token) => governance::verify_history_of(&history, &files::read(token)?),
        None => governance::verify_history(&history),
    };
    let entries = verified.map_err(|error| Failure::while_("the history does not verify", &error))?;
    if let Some(out) = &arguments.out {
        files::replace(out, &history)?;
        if files::is_standard(out) {
            eprintln!("{}", verified_all(&entries));
            return Ok(());
        }
    }
    print(&entries, arguments.words, as_json);
    Ok(())
}

/// Verified entries of a history, as a table or in full.
fn print(entries: &[Value], words: bool, as_json: bool) {
    if as_json {
        return output::json(&json!(entries));
    }
    if words {
        for entry in entries {
            println!("Version {}, {}, approved by: {}", entry["version"], cell(entry, "at@"), who(entry));
            println!("{}", entry["words"].as_str().unwrap_or_default());
        }
    } else {
        table(entries);
    }
    println!("{}", verified_all(entries));
}

fn verified_all(entries: &[Value]) -> String {
    let all = match entries.len() {
        1 => "The entry verifies.".to_owned(),
        count => format!("All {count} entries verify."),
    };
    match entries.first() {
        Some(first) if first["command"] != "found domain" => {
            format!("{all} INCOMPLETE: what was approved before version {} is missing.", first["version"])
        }
        _ => all,
    }
}

pub(super) fn table(entries: &[Value]) {
    let rows: Vec<_> =
        entries.iter().map(|e| vec![e["version"].to_string(), cell(e, "at@"), what(e), who(e)]).collect();
    output::table(&["VERSION", "TIME", "COMMAND", "APPROVED BY"], &rows);
}

fn what(entry: &Value) -> String {
    entry["command"].as_str().or_else(|| entry["kind"].as_str()).unwrap_or_default().to_owned()
}

fn who(entry: &Value) -> String {
    let persons: Vec<_> = items(&entry["signers"]).iter().map(|signer| cell(signer, "person")).collect();
    if persons.is_empty() { "-".to_owned() } else { persons.join(", ") }
}
