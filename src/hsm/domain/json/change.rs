//! Commands and their arguments as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::change::{Change, MAX_KEYS, RegionKeys};
use super::super::control::{ControlledKey, KeyControl, KeyUse};
use super::super::identity::{Claim, Party};
use super::super::log::{enrolment_hash, is_enrolment_code};
use super::super::state::{Enrolment, Hash, Operator, Rule, State};
use super::form::{Fields, Form, bad, checked, read_limits, read_list, write_limits, write_list};
use crate::error::Result;
use crate::hsm::replication::message;

/// For a user to set his PIN, unless the request says otherwise.
const ENROLMENT: u64 = 7 * 24 * 3600;

/// What a request may leave out and the HSM fills in.
pub(super) struct Context<'a> {
    pub(super) state: &'a State,
    /// The state's hash.
    pub(super) hash: &'a Hash,
    pub(super) now: u64,
    pub(super) about: About,
}

/// What a command about a key is made with.
#[derive(Default)]
pub(in crate::hsm) struct About {
    /// The key, which the caller found by the request's member "key".
    pub(in crate::hsm) key: Option<ControlledKey>,
    /// This HSM instance.
    pub(in crate::hsm) instance: [u8; 16],
}

/// The arguments, as a request would give them.
pub(super) fn write(change: &Change) -> Value {
    match change {
        Change::FoundDomain { region, members, operators, rules } => {
            let operators = operators.iter().map(|(claim, roles)| json!({ "claim": claim.write(), "roles": roles }));
            json!({
                "region": region,
                "members": write_list(members),
                "operators": operators.collect::<Value>(),
                "rules": write_list(rules),
            })
        }
        Change::AddOperator { operator, roles } => json!({ "operator": operator.write(), "roles": roles }),
        Change::RemoveOperator { id } | Change::ExpelHost { id } => json!({ "id": id.write() }),
        Change::RekeyOperator { operator } => json!({ "operator": operator.write() }),
        Change::SetRule { rule } => json!({ "rule": rule.write() }),
        Change::AdmitHsm { hsm } => json!({ "hsm": hsm.write() }),
        Change::ExpelHsm { id, retain } => json!({ "id": id.write(), "retain": retain }),
        Change::AdmitHost { host } => json!({ "host": host.write() }),
        Change::CreateUser { role, enrolment } | Change::ResetPin { role, enrolment } => {
            let code_hash = enrolment.code.map(|hash| hash.write());
            json!({ "role": role.write(), "code_hash": code_hash, "until": enrolment.until })
        }
        Change::RemoveUser { role } => json!({ "role": role.write() }),
        Change::RotateDomainKey { retain } => json!({ "retain": retain }),
        Change::ScheduleRetirement { key, at } => json!({ "key": key.write(), "at": at }),
        Change::RotateReplicationKey => json!({}),
        Change::SetStandingOrder { order } => json!({ "order": order.map(|order| order.write()) }),
        Change::SetLimits { limits } => json!({ "limits": write_limits(limits) }),
        Change::AllowSuite { suite, allowed } => json!({ "suite": suite, "allowed": allowed }),
        Change::TrustRegion { region } => json!({ "region": region.write() }),
        Change::DistrustRegion { name } => json!({ "name": name }),
        Change::TrustKey { object, trusted } => json!({ "object": object.write(), "trusted": trusted }),
        Change::RevokeKey { object, generation } => json!({ "object": object.write(), "generation": generation }),
        Change::MakeRecoverySet { threshold, operators } => {
            json!({ "threshold": threshold, "operators": write_list(operators) })
        }
        Change::RecoverDomain { hsm, version, state } => {
            json!({ "hsm": hsm.write(), "version": version, "state": state.write() })
        }
        Change::GiveUpReplica { keys } | Change::EmergencyPromote { keys } => {
            json!({ "key_ids": keys.key_ids, "region": keys.region })
        }
        Change::UseKey { key, usage } => json!({
            "key": key.id,
            "action": usage.action,
            "digest": usage.digest.map(|digest| digest.write()),
            "instance": usage.instance.write(),
            "count": usage.count,
        }),
        Change::SetDualControl { key, control } => json!({
            "key": key.id,
            "operators": write_list(&control.operators),
            "threshold": control.threshold,
        }),
    }
}

/// Takes the arguments of the command with this name.
pub(super) fn read(name: &str, f: &mut Fields<'_>, context: &Context<'_>) -> Result<Change> {
    let Context { state, hash, now, ref about } = *context;
    Ok(match name {
        "found domain" => Change::FoundDomain {
            region: f.read("region")?,
            members: list_or(f, "members", Form::read, || state.members.clone())?,
            operators: list(f, "operators", |value, at| founder(value, at, state))?,
            rules: {
                let mut rules: Vec<Rule> = list_or(f, "rules", Form::read, Vec::new)?;
                rules.sort_by(|a, b| a.command.cmp(&b.command));
                rules
            },
        },
        "add operator" => {
            Change::AddOperator { operator: claim(f, "operator", Party::Operator, state)?, roles: roles(f)? }
        }
        "remove operator" => Change::RemoveOperator { id: f.read("id")? },
        "re-key operator" => Change::RekeyOperator { operator: claim(f, "operator", Party::Operator, state)? },
        "set rule" => Change::SetRule { rule: f.read("rule")? },
        "admit HSM" => Change::AdmitHsm { hsm: claim(f, "hsm", Party::Hsm, state)? },
        "expel HSM" => Change::ExpelHsm { id: f.read("id")?, retain: f.maybe("retain")? },
        "admit host" => Change::AdmitHost { host: claim(f, "host", Party::Host, state)? },
        "expel host" => Change::ExpelHost { id: f.read("id")? },
        "create user" => Change::CreateUser { role: f.read("role")?, enrolment: enrolment(f, state, now)? },
        "remove user" => Change::RemoveUser { role: f.read("role")? },
        "reset PIN" => Change::ResetPin { role: f.read("role")?, enrolment: enrolment(f, state, now)? },
        "rotate domain key" => Change::RotateDomainKey { retain: f.maybe("retain")? },
        "schedule retirement" => Change::ScheduleRetirement { key: f.read("key")?, at: f.maybe("at")? },
        "rotate RSK" => Change::RotateReplicationKey,
        "standing order" => {
            let order = f.given("order").ok_or_else(|| f.missing("order"))?;
            let order = if order.is_null() { None } else { Some(Form::read(order, "order")?) };
            Change::SetStandingOrder { order }
        }
        "set limits" => {
            let limits = f.given("limits").ok_or_else(|| f.missing("limits"))?;
            Change::SetLimits { limits: read_limits(limits, "limits", &state.limits)? }
        }
        "allow suite" => Change::AllowSuite { suite: f.read("suite")?, allowed: f.maybe("allowed")?.unwrap_or(true) },
        "trust Region" => Change::TrustRegion { region: f.read("region")? },
        "distrust Region" => Change::DistrustRegion { name: f.read("name")? },
        "trust key" => Change::TrustKey { object: f.read("object")?, trusted: f.maybe("trusted")?.unwrap_or(true) },
        "revoke key" => Change::RevokeKey { object: f.read("object")?, generation: f.read("generation")? },
        "make recovery set" => {
            let mut operators = list_or(f, "operators", Form::read, || one_per_person(&state.operators))?;
            operators.sort_unstable();
            operators.dedup();
            Change::MakeRecoverySet { threshold: f.read("threshold")?, operators }
        }
        "recover domain" => Change::RecoverDomain {
            hsm: claim(f, "hsm", Party::Hsm, state)?,
            version: f.maybe("version")?.unwrap_or(state.version),
            state: f.maybe("state")?.unwrap_or(*hash),
        },
        "give up replica" => Change::GiveUpReplica { keys: region_keys(f)? },
        "emergency promote" => Change::EmergencyPromote { keys: region_keys(f)? },
        "use key" => {
            let key = about_key(f, about)?;
            let usage = KeyUse {
                action: f.read("action")?,
                digest: {
                    let digest = f.given("digest").ok_or_else(|| f.missing("digest"))?;
                    if digest.is_null() { None } else { Some(Form::read(digest, "digest")?) }
                },
                instance: f.maybe("instance")?.unwrap_or(about.instance),
                count: f.maybe("count")?.unwrap_or(1),
            };
            usage.check()?;
            Change::UseKey { key, usage }
        }
        "set dual control" => {
            let key = about_key(f, about)?;
            let names: Vec<String> = list(f, "operators", Form::read)?;
            let revision = key.control.revision.saturating_add(1);
            let control = KeyControl::named(state, &names, f.read("threshold")?, revision)?;
            Change::SetDualControl { key, control }
        }
        _ => return Err(bad("command", "there is no such command")),
    })
}

fn list<T>(f: &mut Fields<'_>, name: &'static str, read: impl Fn(&Value, &str) -> Result<T>) -> Result<Vec<T>> {
    let value = f.given(name).ok_or_else(|| f.missing(name))?;
    read_list(value, &f.path(name), read)
}

fn list_or<T>(
    f: &mut Fields<'_>,
    name: &'static str,
    read: impl Fn(&Value, &str) -> Result<T>,
    default: impl FnOnce() -> Vec<T>,
) -> Result<Vec<T>> {
    match f.given(name) {
        None | Some(Value::Null) => Ok(default()),
        Some(value) => read_list(value, &f.path(name), read),
    }
}

fn region_keys(f: &mut Fields<'_>) -> Result<RegionKeys> {
    let mut key_ids: Vec<String> = list(f, "key_ids", Form::read)?;
    key_ids.sort_unstable();
    key_ids.dedup();
    if key_ids.is_empty() || key_ids.len() > MAX_KEYS {
        return Err(bad(&f.path("key_ids"), "must name 1 to 10000 keys"));
    }
    if key_ids.iter().any(|id| !message::is_key_id(id)) {
        return Err(bad(&f.path("key_ids"), "must be ids of multi-Region keys (mrk-…)"));
    }
    Ok(RegionKeys { key_ids, region: f.read("region")? })
}

/// The key that a command is about.
pub(super) fn controlled(key: &ControlledKey) -> Value {
    let ControlledKey { object, id, label, control } = key;
    json!({
        "object": object.write(), "id": id, "label": label,
        "operators": write_list(&control.operators), "threshold": control.threshold,
    })
}

fn about_key(f: &mut Fields<'_>, about: &About) -> Result<ControlledKey> {
    let _: String = f.read("key")?;
    about.key.clone().ok_or_else(|| bad("key", "is not a key under dual control"))
}

fn claim(f: &mut Fields<'_>, name: &'static str, party: Party, state: &State) -> Result<Claim> {
    checked(f.read(name)?, party, &state.domain, &f.path(name))
}

/// Ascending, as the state has them.
fn roles(f: &mut Fields<'_>) -> Result<Vec<String>> {
    let mut roles: Vec<String> = list(f, "roles", Form::read)?;
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() || roles.iter().any(String::is_empty) {
        return Err(bad(&f.path("roles"), "must name at least one role"));
    }
    Ok(roles)
}

fn founder(value: &Value, at: &str, state: &State) -> Result<(Claim, Vec<String>)> {
    let mut fields = Fields::of(value, at)?;
    let founder = (claim(&mut fields, "claim", Party::Operator, state)?, roles(&mut fields)?);
    fields.end().map(|()| founder)
}

fn enrolment(f: &mut Fields<'_>, state: &State, now: u64) -> Result<Enrolment> {
    let code: Option<String> = f.maybe("code")?;
    let code_hash: Option<Hash> = f.maybe("code_hash")?;
    let code = match (code, code_hash) {
        (Some(_), Some(_)) => return Err(bad("code_hash", "give either the code or its hash")),
        (Some(code), None) if !is_enrolment_code(code.as_bytes()) => {
            return Err(bad(
                "code",
                "has fewer than 16 characters: its hash is public, so it must be too long to guess",
            ));
        }
        (Some(code), None) => Some(enrolment_hash(&state.domain, code.as_bytes())),
        (None, hash) => hash,
    };
    let window: Option<u64> = f.maybe("window")?;
    let until = match (window, f.maybe("until")?) {
        (Some(_), Some(_)) => return Err(bad("until", "give either a window or its end")),
        (None, Some(until)) => until,
        (window, None) => {
            now.checked_add(window.unwrap_or(ENROLMENT)).ok_or_else(|| bad("window", "ends too far in the future"))?
        }
    };
    Ok(Enrolment { code, until })
}

/// The first key of each person, in the order of ids.
fn one_per_person(operators: &[Operator]) -> Vec<[u8; 16]> {
    let mut persons = BTreeMap::new();
    for operator in operators {
        persons.entry(&operator.person).or_insert(operator.id);
    }
    persons.into_values().collect()
}
