//! `conclave domain`: what a domain token and a history say, and recovery shares.

use conclave::hsm::governance;
use serde_json::{Value, json};

use crate::args::{DomainCommand, DomainHistory, DomainShow, RecoveryCommand, RecoveryContribute};
use crate::operator::token_of;
use crate::output::{self, Failure};
use crate::{files, operator_keys, proposal};

pub(crate) fn run(command: &DomainCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        DomainCommand::Show(show) => self::show(show, as_json),
        DomainCommand::History(history) => self::history(history, as_json),
        DomainCommand::Recovery(RecoveryCommand::Contribute(contribute)) => self::contribute(contribute, as_json),
    }
}

fn show(show: &DomainShow, as_json: bool) -> Result<(), Failure> {
    let state = token_of(&show.file)?;
    if as_json {
        output::json(&state);
    } else {
        print_state(&state);
    }
    Ok(())
}

/// A domain's state as text.
pub(crate) fn print_state(state: &Value) {
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
    for (title, headings, columns, list) in TABLES {
        let rows: Vec<Vec<String>> =
            items(&state[list]).iter().map(|item| columns.iter().map(|column| cell(item, column)).collect()).collect();
        if !rows.is_empty() {
            println!("\n{title}");
            output::table(headings, &rows);
        }
    }
    if let Some(threshold) = state["recovery"]["threshold"].as_u64() {
        let holders: Vec<_> =
            items(&state["recovery"]["holders"]).iter().map(|holder| cell(holder, "person")).collect();
        println!("\nRecovery: any {threshold} of {}", holders.join(", "));
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
    ("Domain keys", &["ID", "STATUS", "CREATED", "RETIRES"], &["id", "status", "created@", "retires@"], "domain_keys"),
    ("Trusted Regions", &["NAME", "DOMAIN"], &["name", "domain"], "trusted_regions"),
];

fn items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// One member of an item as text. Names that people gave are shown escaped, so that none can pass
/// for another row.
fn cell(item: &Value, column: &str) -> String {
    let (path, date) = match column.strip_suffix('@') {
        Some(path) => (path, true),
        None => (column, false),
    };
    let value = path.split('.').fold(item, |value, name| &value[name]);
    let safe = |text: &str| text.escape_debug().to_string();
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::String(words) if path == "words" => words.clone(),
        Value::String(text) => safe(text),
        Value::Array(several) => several.iter().filter_map(Value::as_str).map(safe).collect::<Vec<_>>().join(", "),
        Value::Object(named) => named.values().filter_map(Value::as_str).map(safe).collect::<Vec<_>>().join(", "),
        Value::Number(number) if date => governance::date(number.as_u64().unwrap_or_default()),
        Value::Number(number) => number.to_string(),
    }
}

fn history(arguments: &DomainHistory, as_json: bool) -> Result<(), Failure> {
    let history = files::read(&arguments.file)?;
    let verified = match &arguments.domain {
        Some(token) => governance::verify_history_of(&history, &files::read(token)?),
        None => governance::verify_history(&history),
    };
    let entries = verified.map_err(|error| Failure::while_("the history does not verify", &error))?;
    print_history(&entries, arguments.words, as_json);
    Ok(())
}

/// Verified entries of a history, as a table or in full.
pub(crate) fn print_history(entries: &[Value], words: bool, as_json: bool) {
    if as_json {
        return output::json(&json!(entries));
    }
    let what =
        |entry: &Value| entry["command"].as_str().or_else(|| entry["kind"].as_str()).unwrap_or_default().to_owned();
    let when = |entry: &Value| governance::date(entry["at"].as_u64().unwrap_or_default());
    let who = |entry: &Value| {
        let persons: Vec<_> = items(&entry["signers"]).iter().map(|signer| cell(signer, "person")).collect();
        if persons.is_empty() { "-".to_owned() } else { persons.join(", ") }
    };
    if words {
        for entry in entries {
            println!("Version {}, {}, approved by: {}", entry["version"], when(entry), who(entry));
            println!("{}", entry["words"].as_str().unwrap_or_default());
        }
    } else {
        let rows: Vec<_> = entries.iter().map(|e| vec![e["version"].to_string(), when(e), what(e), who(e)]).collect();
        output::table(&["VERSION", "TIME", "COMMAND", "APPROVED BY"], &rows);
    }
    println!("All {} entries verify.", entries.len());
}

fn contribute(arguments: &RecoveryContribute, as_json: bool) -> Result<(), Failure> {
    let command = files::read(&arguments.command)?;
    let described = proposal::show_before(&command, arguments.history.is_none().then_some(arguments.domain.as_path()))?;
    if described["command"] != "recover domain" {
        return Err(Failure::usage("that is not a `recover domain` command"));
    }
    output::confirm(
        "You are about to give your share of the recovery key to this HSM.",
        "recover domain",
        arguments.yes,
    )?;
    let token = files::read(&arguments.domain)?;
    let history = arguments.history.as_deref().map(files::read).transpose()?;
    let keys = operator_keys::open(&arguments.source)?;
    let share = governance::contribute(&token, history.as_deref(), &command, &*keys)
        .map_err(|error| Failure::while_("your share stays with you", &error))?;
    files::write_new(&arguments.out, &share)?;
    let sentence = format!("{} has your share, for the HSM that the command names alone.", arguments.out.display());
    files::report(&arguments.out, as_json, &sentence, &json!({ "command": described["id"], "share": arguments.out }));
    Ok(())
}
