//! The domain in JSON, one form for the vendor interface and the command line: what is asked for,
//! and what is shown. What is signed is never JSON.

mod change;
mod form;

use serde_json::{Value, json};

use super::super::crypto::Entropy;
use super::change::{self as changes, Change};
use super::command::{Proposal, SignedCommand};
use super::execute;
use super::keys::{Kid, PublicKey};
use super::log;
use super::refusal::Refusal;
use super::rules;
use super::state::{DomainKey, Hash, KeyStatus, Member, Operator, Rule, State, TrustedRegion, User};
use super::token::PublicState;
use crate::error::Result;
use crate::text::hex;
pub(in crate::hsm) use change::About;
use change::Context;
use form::{Fields, Form, bad, write_limits};

/// Checked before anything is parsed.
const LARGEST: usize = 1024 * 1024;

/// Reads a request, `{"command": NAME, …arguments}`: the arguments are named as the fields of
/// [`Change`]. Optional are `valid_from` (seconds since 1970) and `valid_for` (seconds). What the
/// state says is filled in. CKR_ARGUMENTS_BAD names the field that is wrong.
pub(in crate::hsm) fn request(
    text: &str,
    state: &State,
    state_hash: &Hash,
    now: u64,
    about: About,
    entropy: &mut Entropy,
) -> Result<Proposal> {
    if text.len() > LARGEST {
        return Err(bad("the request", "is too large"));
    }
    let value: Value = serde_json::from_str(text).map_err(|error| {
        bad("the request", &format!("is not JSON (line {}, column {})", error.line(), error.column()))
    })?;
    let mut fields = Fields::of(&value, "")?;
    let name: String = fields.read("command")?;
    let not_before = fields.maybe("valid_from")?.unwrap_or(now);
    let longest = state.limits.proposal;
    let valid_for = fields.maybe("valid_for")?.unwrap_or_else(|| state.limits.approval.min(longest));
    if valid_for == 0 || valid_for > longest {
        return Err(bad("valid_for", &format!("must be from 1 to {longest} seconds, the domain's limit")));
    }
    let not_after = not_before.checked_add(valid_for).ok_or_else(|| bad("valid_from", "lies too far in the future"))?;
    let change = change::read(&name, &mut fields, &Context { state, hash: state_hash, now, about })?;
    fields.end()?;
    Proposal::new(state, change, (not_before, not_after), entropy)
}

/// Everything public of a state. A key is `{"kid", "public_key"}` (SubjectPublicKeyInfo).
pub(in crate::hsm) fn describe(public: &PublicState, now: u64) -> Value {
    let mut described = describe_state(public.state(), now);
    described["hash"] = public.hash().write();
    described["exporter"] = public.exporter().write();
    described
}

/// [`describe`] without what only a token tells.
fn describe_state(state: &State, now: u64) -> Value {
    let operator = |o: &Operator| {
        json!({
            "id": o.id.write(), "person": o.person, "roles": o.roles,
            "signing": key(&o.signing), "agreement": key(&o.agreement),
        })
    };
    let member = |m: &Member| json!({ "id": m.id.write(), "signing": key(&m.signing), "agreement": key(&m.agreement) });
    let user = |u: &User| {
        let enrolment = u.enrolment.as_ref().map(|enrolment| {
            json!({
                "until": enrolment.until, "needs_code": enrolment.code.is_some(), "open": now <= enrolment.until,
            })
        });
        json!({
            "role": u.role.write(), "has_pin": u.agreement.is_some(), "generation": u.generation,
            "enrolment": enrolment,
        })
    };
    let rule = |rule: &Rule| {
        let mut written = rule.write();
        written["words"] = changes::rule_words(rule).into();
        written
    };
    let domain_key = |key: &DomainKey| {
        let status = match key.status {
            KeyStatus::Active => "active",
            KeyStatus::DecryptOnly => "decrypt-only",
        };
        json!({
            "id": key.id.write(), "status": status, "created": key.created, "retires": key.retires,
            "region": key.region,
        })
    };
    let region = |region: &TrustedRegion| {
        let keys: Value = region.replication_keys.iter().map(key).collect();
        json!({ "name": region.name, "domain": region.domain.write(), "replication_keys": keys })
    };
    let standing_order = state.standing_order.map(|order| {
        let mut written = order.write();
        written["due"] = log::rotation_is_due(state, now).into();
        written
    });
    let recovery = state.recovery.as_ref().map(|set| {
        let holders: Value = set.shares.iter().map(|share| holder(state, &share.operator)).collect();
        json!({ "id": set.id.write(), "threshold": set.threshold(), "holders": holders })
    });
    let revoked = state.revoked.iter().map(|(object, lowest)| json!({ "object": hex(object), "lowest": lowest }));
    json!({
        "domain": state.domain.write(),
        "name": state.name,
        "region": state.region,
        "partition": state.partition,
        "serial": state.serial,
        "version": state.version,
        "changed": state.changed,
        "previous": state.previous.map(|hash| hash.write()),
        "governed_by": if state.log_head.is_some() { "operators" } else { "SO" },
        "log_head": state.log_head.map(|hash| hash.write()),
        "governance": state.governance().write(),
        "embedded": state.embedded.map(|id| id.write()),
        "members": state.members.iter().map(member).collect::<Value>(),
        "operators": state.operators.iter().map(operator).collect::<Value>(),
        "hosts": state.hosts.iter()
            .map(|h| json!({ "id": h.id.write(), "name": h.name, "signing": key(&h.signing) }))
            .collect::<Value>(),
        "users": state.users.iter().map(user).collect::<Value>(),
        "rules": state.rules.iter().map(rule).collect::<Value>(),
        "domain_keys": state.domain_keys.iter().map(domain_key).collect::<Value>(),
        "replication_keys": state.replication_keys.iter().map(key).collect::<Value>(),
        "trusted_regions": state.trusted_regions.iter().map(region).collect::<Value>(),
        "limits": write_limits(&state.limits),
        "suites": state.suites,
        "standing_order": standing_order,
        "trusted_keys": state.trusted_keys.iter().map(Form::write).collect::<Value>(),
        "revoked": revoked.collect::<Value>(),
        "recovery": recovery,
    })
}

/// A command with who signed it. Without a state only what the command itself says is known, and
/// `valid`, `quorum_met` and `refusal` are null. `refusal` is what an HSM in this state would say
/// now, but for what executing the change itself would find; `obstacle` is that.
pub(in crate::hsm) fn describe_command(command: &SignedCommand, state: Option<&State>, now: u64) -> Value {
    let proposal = command.proposal();
    let founders = founders(&proposal.change);
    let known = match (&founders, state) {
        (Some(founders), _) => Some(founders.as_slice()),
        (None, state) => state.map(|state| state.operators.as_slice()),
    };
    let signers = signers(command, known);
    let quorum = known.map(|known| quorum(command, known, founders.is_some(), state));
    let refusal = state.map(|state| command.verify(state, now).err().map(|refusal| refusal.to_string()));
    // One that was executed, or is for others, would find anything.
    let current = state.filter(|state| {
        state.domain == proposal.domain
            && state.governance() == proposal.governance
            && !state.nonces.contains_key(&proposal.nonce)
    });
    let obstacle = current.and_then(|state| execute::obstacle(state, &proposal.change, now));
    json!({
        "id": command.id().write(),
        "command": proposal.change.name(),
        "arguments": change::write(&proposal.change),
        "key": proposal.change.key().map(change::controlled),
        "words": proposal.words(state),
        "domain": proposal.domain.write(),
        "governance": proposal.governance.write(),
        "not_before": proposal.not_before,
        "not_after": proposal.not_after,
        "nonce": proposal.nonce.write(),
        "signers": signers,
        "quorum_met": quorum.as_ref().map(Option::is_none),
        "lacking": quorum.flatten(),
        "refusal": refusal.flatten(),
        "obstacle": obstacle,
    })
}

/// Each signature with the operator it is of, as far as he is known, and whether it verifies.
fn signers(command: &SignedCommand, known: Option<&[Operator]>) -> Value {
    let described = command.signers().map(|kid| {
        let operator = known.and_then(|known| known.iter().find(|o| o.signing.kid() == *kid));
        let valid = known.map(|_| operator.is_some_and(|o| command.is_signed_by(&o.signing)));
        json!({
            "kid": kid.write(),
            "operator": operator.map(|o| o.id.write()),
            "person": operator.map(|o| &o.person),
            "roles": operator.map(|o| &o.roles),
            "valid": valid,
        })
    });
    described.collect()
}

/// What the valid signatures lack; None if they are enough.
fn quorum(command: &SignedCommand, known: &[Operator], founding: bool, state: Option<&State>) -> Option<String> {
    let signed: Vec<&Operator> = known.iter().filter(|o| command.is_signed_by(&o.signing)).collect();
    if founding {
        let lacking: Vec<_> =
            known.iter().filter(|o| !command.is_signed_by(&o.signing)).map(|o| format!("{:?}", o.person)).collect();
        return (!lacking.is_empty())
            .then(|| format!("every founding operator signs: {} have not", lacking.join(", ")));
    }
    let change = &command.proposal().change;
    let met = match change.key() {
        Some(key) => key.control.met(&signed),
        None => rules::met(state?, change.name(), &signed),
    };
    match met {
        Ok(()) => None,
        Err(Refusal::QuorumNotMet(lacking)) => Some(lacking),
        Err(other) => Some(other.to_string()),
    }
}

/// The operators that a founding names.
fn founders(change: &Change) -> Option<Vec<Operator>> {
    let Change::FoundDomain { operators, .. } = change else { return None };
    Some(operators.iter().filter_map(|(claim, roles)| claim.operator(roles.clone()).ok()).collect())
}

fn holder(state: &State, id: &[u8; 16]) -> Value {
    let person = state.operators.iter().find(|o| o.id == *id).map(|o| &o.person);
    json!({ "operator": id.write(), "person": person })
}

/// `{kid, public_key}`, both in hexadecimal.
pub(super) fn key(key: &PublicKey) -> Value {
    let kid: Kid = key.kid();
    json!({ "kid": kid.write(), "public_key": key.write() })
}

/// Who signed a log entry: person, roles, id and kid of each.
pub(in crate::hsm) fn describe_signers(signers: &[Operator]) -> Value {
    let described = signers.iter().map(
        |o| json!({ "operator": o.id.write(), "person": o.person, "roles": o.roles, "kid": o.signing.kid().write() }),
    );
    described.collect()
}
