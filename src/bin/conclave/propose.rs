//! `conclave proposal new` and the proposals that other commands make: requests to the HSM.

use std::path::Path;

use conclave::hsm::governance;
use cryptoki_sys as ck;
use serde_json::{Map, Value, json};

use crate::args::{Enrol, NewCommand, ProposalNew, ProposalOptions};
use crate::output::Failure;
use crate::session::{self, Live};
use crate::{files, key, operator, operator_keys, pin, proposal};
use conclave::text::hex;

pub(crate) fn new(new: &ProposalNew, as_json: bool) -> Result<(), Failure> {
    let live = Live::public(new.options.token.as_deref())?;
    match (&new.command, &new.request) {
        (Some(_), Some(_)) => Err(Failure::usage("give either a command or --request, not both")),
        (Some(NewCommand::CreateUser(enrol)), None) => self::enrol(&live, "create user", enrol, &new.options, as_json),
        (Some(NewCommand::ResetPin(enrol)), None) => self::enrol(&live, "reset PIN", enrol, &new.options, as_json),
        (Some(command), None) => make(&live, request(&live, command)?, &new.options, as_json),
        (None, Some(file)) => make(&live, read_json(file)?, &new.options, as_json),
        (None, None) => Err(Failure::usage(
            "say which command, or give one as JSON with --request: see `conclave proposal new --help`",
        )),
    }
}

/// Has the HSM make the proposal, shows it, and writes or keeps it.
pub(crate) fn make(live: &Live, request: Value, options: &ProposalOptions, as_json: bool) -> Result<(), Failure> {
    make_with(live, request, options, "", json!({}), as_json)
}

/// The same with more to say of it: lines of text, and members of the JSON.
fn make_with(
    live: &Live,
    mut request: Value,
    options: &ProposalOptions,
    note: &str,
    more: Value,
    as_json: bool,
) -> Result<(), Failure> {
    for (name, value) in [("valid_for", options.valid_for), ("valid_from", options.valid_from)] {
        if let Some(value) = value {
            request[name] = json!(value);
        }
    }
    let made = live.module.propose(live.session, &request.to_string());
    let made = made.map_err(|error| Failure::while_("cannot propose this", &error))?;
    let mut described = live.describe(&made)?;
    let id = described["id"].as_str().unwrap_or_default().to_owned();
    let stdout = Path::new("-");
    let (out, place) = match &options.out {
        Some(out) => {
            files::write_new(out, &made)?;
            (out.as_path(), format!("{} is the proposal, to be signed: `conclave proposal sign`.", out.display()))
        }
        None => {
            live.keep(&made)?;
            let short = id.get(..12).unwrap_or(&id);
            let sign = format!("`conclave proposal sign {short} --token {:?} …`", live.token.label);
            (Path::new(""), format!("It is pending with token {:?}, to be signed: {sign}.", live.token.label))
        }
    };
    if let (Some(members), Some(more)) = (described.as_object_mut(), more.as_object()) {
        members.extend(more.clone());
        members.insert("file".to_owned(), json!(options.out.as_deref().filter(|out| *out != stdout)));
    }
    files::report(out, as_json, &format!("{}{note}{place}", proposal::readable(&described)), &described);
    Ok(())
}

fn request(live: &Live, command: &NewCommand) -> Result<Value, Failure> {
    Ok(match command {
        NewCommand::AddOperator { claim, roles } => {
            json!({ "command": "add operator", "operator": read_hex(claim)?, "roles": roles })
        }
        NewCommand::RemoveOperator { operator } => {
            json!({ "command": "remove operator", "id": id_of(live, "operators", "person", operator)? })
        }
        NewCommand::RekeyOperator { claim } => json!({ "command": "re-key operator", "operator": read_hex(claim)? }),
        NewCommand::SetRule { rule, needs } => {
            let alternatives = needs.iter().map(|needs| alternative(needs)).collect::<Result<Vec<_>, _>>()?;
            json!({ "command": "set rule", "rule": { "command": rule, "alternatives": alternatives } })
        }
        NewCommand::AdmitHsm { claim } => json!({ "command": "admit HSM", "hsm": read_hex(claim)? }),
        NewCommand::ExpelHsm { id, retain } => {
            json!({ "command": "expel HSM", "id": id_of(live, "members", "id", id)?, "retain": retain })
        }
        NewCommand::AdmitHost { claim } => json!({ "command": "admit host", "host": read_hex(claim)? }),
        NewCommand::ExpelHost { host } => {
            json!({ "command": "expel host", "id": id_of(live, "hosts", "name", host)? })
        }
        NewCommand::CreateUser(enrol) => json!({ "command": "create user", "role": role(&enrol.user) }),
        NewCommand::ResetPin(enrol) => json!({ "command": "reset PIN", "role": role(&enrol.user) }),
        NewCommand::RemoveUser { user } => json!({ "command": "remove user", "role": role(user) }),
        NewCommand::RotateDomainKey { retain } => rotate(*retain),
        NewCommand::ScheduleRetirement { key, at } => {
            json!({ "command": "schedule retirement", "key": domain_key(live, key)?, "at": at })
        }
        NewCommand::RotateReplicationKey => json!({ "command": "rotate RSK" }),
        NewCommand::StandingOrder { end: true, .. } => json!({ "command": "standing order", "order": null }),
        NewCommand::StandingOrder { interval, window, retain, until, .. } => json!({
            "command": "standing order",
            "order": { "interval": interval, "window": window, "retain": retain, "until": until },
        }),
        NewCommand::SetLimits { session_key, handshake, login_ticket, offer, proposal, approval } => json!({
            "command": "set limits",
            "limits": {
                "session_key": session_key, "handshake": handshake, "login_ticket": login_ticket,
                "offer": offer, "proposal": proposal, "approval": approval,
            },
        }),
        NewCommand::AllowSuite { suite, forbid } => {
            json!({ "command": "allow suite", "suite": suite, "allowed": !forbid })
        }
        NewCommand::TrustRegion { region: Some(file), .. } => {
            json!({ "command": "trust Region", "region": read_json(file)? })
        }
        NewCommand::TrustRegion { region: None, domain } => {
            let Some(domain) = domain else { return Err(Failure::usage("give --region FILE or --domain FILE")) };
            let state = operator::token_of(domain)?;
            let keys = state["replication_keys"].as_array().map(Vec::as_slice).unwrap_or_default();
            let keys: Value = keys.iter().map(|key| key["public_key"].clone()).collect();
            let region = json!({ "name": state["region"], "domain": state["domain"], "replication_keys": keys });
            json!({ "command": "trust Region", "region": region })
        }
        NewCommand::DistrustRegion { name } => json!({ "command": "distrust Region", "name": name }),
        NewCommand::GiveUpReplica { keys, region } => {
            json!({ "command": "give up replica", "key_ids": keys, "region": region })
        }
        NewCommand::EmergencyPromote { keys, region } => {
            json!({ "command": "emergency promote", "key_ids": keys, "region": region })
        }
        NewCommand::TrustKey { object, distrust, pin } => json!({
            "command": "trust key", "object": object_id(live, object, pin)?, "trusted": !distrust,
        }),
        NewCommand::RevokeKey { object, generation } => {
            json!({ "command": "revoke key", "object": object, "generation": generation })
        }
        NewCommand::UseKey { key, action, digest, any: _, count, instance, pin } => {
            log_in(live, pin)?;
            json!({
                "command": "use key", "key": key, "action": action, "digest": digest, "count": count,
                "instance": instance,
            })
        }
        NewCommand::SetDualControl { key, operators, threshold, pin } => {
            log_in(live, pin)?;
            json!({ "command": "set dual control", "key": key, "operators": operators, "threshold": threshold })
        }
    })
}

/// A command that lets a user set a PIN, perhaps with a code.
fn enrol(live: &Live, name: &str, enrol: &Enrol, options: &ProposalOptions, as_json: bool) -> Result<(), Failure> {
    let mut request = json!({ "command": name, "role": role(&enrol.user), "window": enrol.window });
    let Some(source) = &enrol.code else { return make(live, request, options, as_json) };
    if source != "new" {
        request["code"] = json!(*pin::read(source, "enrolment code", true)?);
        return make(live, request, options, as_json);
    }
    let random = operator_keys::random().map_err(|error| Failure::while_("cannot make a code", &error))?;
    let groups: Vec<String> = random.chunks(2).map(hex).collect();
    let code = groups.join("-");
    request["code"] = json!(code);
    let note = format!("Enrolment code, for this user alone: {code}\n");
    make_with(live, request, options, &note, json!({ "code": code }), as_json)
}

pub(crate) fn rotate(retain: Option<u64>) -> Value {
    json!({ "command": "rotate domain key", "retain": retain })
}

/// `found domain` by the claims of operators, each `FILE:ROLE,ROLE`.
pub(crate) fn found(region: &str, operators: &[String], rules: Option<&Path>) -> Result<Value, Failure> {
    let mut founders = Vec::with_capacity(operators.len());
    for operator in operators {
        let Some((file, roles)) =
            operator.rsplit_once(':').filter(|(file, roles)| !file.is_empty() && !roles.is_empty())
        else {
            return Err(Failure::usage(format!(
                "{operator:?}: give a claim's file and roles, anna.claim:officer,operator"
            )));
        };
        let roles: Vec<&str> = roles.split(',').collect();
        founders.push(json!({ "claim": read_hex(Path::new(file))?, "roles": roles }));
    }
    let mut request = json!({ "command": "found domain", "region": region, "operators": founders });
    if let Some(rules) = rules {
        request["rules"] = read_json(rules)?;
    }
    Ok(request)
}

/// `make recovery set`; without operators, one key of every person.
pub(crate) fn recovery_set(live: &Live, threshold: u64, operators: &[String]) -> Result<Value, Failure> {
    let mut request = json!({ "command": "make recovery set", "threshold": threshold });
    if !operators.is_empty() {
        let ids =
            operators.iter().map(|name| id_of(live, "operators", "person", name)).collect::<Result<Vec<_>, _>>()?;
        request["operators"] = json!(ids);
    }
    Ok(request)
}

/// Whose PIN: `SO`, `user`, or a name.
fn role(user: &str) -> Value {
    match user {
        "SO" | "user" => json!(user),
        name => json!({ "named": name }),
    }
}

/// One alternative of a rule, `officer=2,operator=majority`.
fn alternative(needs: &str) -> Result<Value, Failure> {
    let wrong = || Failure::usage(format!("{needs:?}: give roles with numbers, such as officer=2,operator=majority"));
    let mut alternative = Map::new();
    for place in needs.split(',') {
        let (role, number) = place.split_once('=').ok_or_else(wrong)?;
        let number = match number {
            "majority" => json!(number),
            number => json!(number.parse::<u8>().map_err(|_| wrong())?),
        };
        if alternative.insert(role.to_owned(), number).is_some() {
            return Err(wrong());
        }
    }
    Ok(Value::Object(alternative))
}

/// The id of one of the parties in a list of the state, by name or by id.
fn id_of(live: &Live, list: &str, name: &str, wanted: &str) -> Result<String, Failure> {
    let state = live.domain()?;
    let parties = state[list].as_array().map(Vec::as_slice).unwrap_or_default();
    let found: Vec<&str> = parties
        .iter()
        .filter(|party| party["id"] == *wanted || party[name] == *wanted)
        .filter_map(|party| party["id"].as_str())
        .collect();
    match found.as_slice() {
        [id] => Ok((*id).to_owned()),
        [] => {
            Err(Failure::not_found(format!("{wanted:?} is not one of the domain's {list}: see `conclave domain show`")))
        }
        _ => Err(Failure::usage(format!("{wanted:?} has several keys: give the id of the one that is meant"))),
    }
}

/// The domain key whose id begins so.
pub(crate) fn domain_key(live: &Live, beginning: &str) -> Result<String, Failure> {
    let state = live.domain()?;
    let keys = state["domain_keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut found = keys.iter().filter_map(|key| key["id"].as_str()).filter(|id| id.starts_with(beginning));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id.to_owned()),
        (None, _) => {
            Err(Failure::not_found(format!("there is no domain key {beginning:?}: see `conclave domain show`")))
        }
        _ => Err(Failure::usage(format!("several domain keys begin with {beginning:?}: give more digits"))),
    }
}

/// CKA_UNIQUE_ID of the one object with this name that can be trusted.
fn object_id(live: &Live, name: &str, source: &str) -> Result<String, Failure> {
    if name.len() == 32 && session::unhex(name).is_some() {
        return Ok(name.to_owned());
    }
    if source != "none" {
        log_in(live, source)?;
    }
    match key::trustable(&live.module, live.session, name)?.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::not_found(format!("{name:?} is not a key or certificate that can be trusted"))),
        several => Err(Failure::usage(format!("{name:?} are several: give the unique id, {}", several.join(" or ")))),
    }
}

fn log_in(live: &Live, source: &str) -> Result<(), Failure> {
    let pin = pin::read(source, "user PIN", false)?;
    let login = live.module.login(live.session, ck::CKU_USER, Some(pin.as_bytes()), None);
    login.map_err(|error| Failure::while_("the user PIN was not taken", &error))
}

fn read_hex(file: &Path) -> Result<String, Failure> {
    let claim = files::read(file)?;
    governance::describe_claim(&claim, None)
        .map_err(|error| Failure::while_(&format!("{} is not a claim", file.display()), &error))?;
    Ok(hex(&claim))
}

fn read_json(file: &Path) -> Result<Value, Failure> {
    serde_json::from_slice(&files::read(file)?).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Failure::usage(format!("{} is not JSON (line {line}, column {column})", file.display()))
    })
}
