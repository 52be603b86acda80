//! What each change makes of the state: a pure function of the public state, the change, its time
//! and what the executing HSM made for it. Executors and adopters go through the same lines.

use super::super::command::Role;
use super::change::Change;
use super::identity::{Claim, Party};
use super::keys::PublicKey;
use super::log::Results;
use super::recovery::RecoverySet;
use super::refusal::Refusal;
use super::rules;
use super::seal::KeyId;
use super::state::{DomainKey, Enrolment, Hash, Host, KeyStatus, Operator, State, User, ascending};
use super::token::SUITE;

type Applied<T> = Result<T, Refusal>;

/// Suites that the protocol names.
const SUITES: [u64; 2] = [1, 2];
/// How long the holder has to set a PIN, at most.
const LONGEST_ENROLMENT: u64 = 30 * 24 * 3600;
/// How long the SO's PIN of an embedded domain may be set after a recovery.
const RECOVERED_ENROLMENT: u64 = 3600;
/// How long an old domain key decrypts at least: less would destroy what it seals before anything can be
/// sealed anew.
const SHORTEST_RETENTION: u64 = 3600;
/// A year; no lifetime needs more.
const LONGEST_LIMIT: u64 = 366 * 24 * 3600;

/// What an HSM has to make for a change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) domain_key: bool,
    pub(super) replication_key: bool,
    /// A recovery set with this threshold for these operators, ascending.
    pub(super) recovery: Option<(u64, Vec<Operator>)>,
}

impl Needs {
    pub(super) fn of(state: &State, change: &Change) -> Applied<Self> {
        let mut needs = Self::default();
        match change {
            Change::FoundDomain { .. } | Change::RotateDomainKey { .. } => needs.domain_key = true,
            Change::RotateReplicationKey => needs.replication_key = true,
            // Whoever leaves knows the keys, and an HSM may have made the recovery key.
            Change::ExpelHsm { .. } | Change::RecoverDomain { .. } => {
                needs.domain_key = true;
                needs.replication_key = true;
                needs.recovery = remade(state, |_| true, None)?;
            }
            Change::RemoveOperator { id } if holds_share(state, id) => {
                needs.recovery = remade(state, |other| other != id, None)?;
            }
            Change::RekeyOperator { operator } if holds_share(state, &operator.identity.id) => {
                needs.recovery = remade(state, |_| true, Some(operator))?;
            }
            Change::MakeRecoverySet { threshold, operators } => {
                let mut holders = Vec::new();
                for id in operators {
                    holders.push(find_operator(state, id)?.clone());
                }
                needs.recovery = Some((*threshold, holders));
            }
            _ => {}
        }
        if let Some((threshold, holders)) = &needs.recovery {
            let persons = holders.iter().map(|holder| &holder.person);
            if persons.collect::<std::collections::BTreeSet<_>>().len() != holders.len() {
                return Err(Refusal::Arguments("one person would hold two shares"));
            }
            if *threshold < 2 || *threshold > holders.len() as u64 {
                return Err(Refusal::ShareHolders { threshold: *threshold, holders: holders.len() });
            }
        }
        Ok(needs)
    }
}

fn holds_share(state: &State, operator: &[u8; 16]) -> bool {
    state.recovery.as_ref().is_some_and(|set| set.shares.iter().any(|share| share.operator == *operator))
}

/// The set in force, to be made anew for those of its holders that stay, one of them with a new key.
fn remade(
    state: &State,
    stays: impl Fn(&[u8; 16]) -> bool,
    rekeyed: Option<&Claim>,
) -> Applied<Option<(u64, Vec<Operator>)>> {
    let Some(set) = &state.recovery else { return Ok(None) };
    let mut holders = Vec::new();
    for share in set.shares.iter().filter(|share| stays(&share.operator)) {
        let mut holder = find_operator(state, &share.operator)?.clone();
        if let Some(claim) = rekeyed.filter(|claim| claim.identity.id == holder.id) {
            holder = claim.operator(holder.roles)?;
        }
        holders.push(holder);
    }
    Ok(Some((set.threshold(), holders)))
}

/// The state after the change, but for what every step sets: version, chain, log, time, nonces.
pub(super) fn apply(old: &State, hash: &Hash, change: &Change, at: u64, results: &Results) -> Applied<State> {
    let needs = Needs::of(old, change)?;
    check_results(&needs, results)?;
    let mut state = old.clone();
    match change {
        Change::FoundDomain { region, members, operators, rules: given } => {
            found(&mut state, region, operators)?;
            if *members != old.members {
                return Err(Refusal::Arguments("they name other HSMs than the domain has"));
            }
            given.iter().try_for_each(rules::check_form)?;
            if !ascending(given, |rule| &rule.command) {
                return Err(Refusal::BadRule("rules are not in order"));
            }
            state.rules = rules::at_founding(given);
        }
        Change::AddOperator { operator, roles } => {
            operator.verify(Party::Operator, &state.domain)?;
            add_operator(&mut state, operator.operator(roles.clone())?)?;
        }
        Change::RemoveOperator { id } => {
            find_operator(&state, id)?;
            state.operators.retain(|operator| operator.id != *id);
        }
        Change::RekeyOperator { operator } => {
            operator.verify(Party::Operator, &state.domain)?;
            let held = find_operator(&state, &operator.identity.id)?.clone();
            let new = operator.operator(held.roles)?;
            if new.person != held.person {
                return Err(Refusal::Arguments("new keys are for the same person"));
            }
            state.operators.retain(|other| other.id != held.id);
            // The keys he had are not new ones.
            if new.signing == held.signing || new.agreement == held.agreement {
                return Err(Refusal::KeyInUse);
            }
            add_operator(&mut state, new)?;
        }
        Change::SetRule { rule } => {
            rules::check_form(rule)?;
            match state.rules.binary_search_by(|other| other.command.cmp(&rule.command)) {
                Ok(at) => state.rules[at] = rule.clone(),
                Err(at) => state.rules.insert(at, rule.clone()),
            }
        }
        Change::AdmitHsm { hsm } => {
            hsm.verify(Party::Hsm, &state.domain)?;
            let member = hsm.member()?;
            check_new_keys(&state, &[member.signing, member.agreement])?;
            insert(&mut state.members, member, |m| m.id, "the HSM's id")?;
        }
        Change::ExpelHsm { id, .. } => {
            let before = state.members.len();
            state.members.retain(|member| member.id != *id);
            if state.members.len() == before {
                return Err(Refusal::Unknown("the HSM"));
            }
            if state.members.is_empty() {
                return Err(Refusal::LastMember);
            }
            state.embedded = state.embedded.filter(|embedded| embedded != id);
            state.replication_keys.clear();
        }
        Change::AdmitHost { host } => {
            let identity = host.verify(Party::Host, &state.domain)?;
            check_new_keys(&state, &[identity.signing])?;
            let new = Host { id: identity.id, name: identity.name.clone(), signing: identity.signing };
            insert(&mut state.hosts, new, |h| h.id, "the host's id")?;
        }
        Change::ExpelHost { id } => {
            let before = state.hosts.len();
            state.hosts.retain(|host| host.id != *id);
            if state.hosts.len() == before {
                return Err(Refusal::Unknown("the host"));
            }
        }
        Change::CreateUser { role, enrolment } => {
            if state.user(role).is_some() {
                return Err(Refusal::Exists("the user"));
            }
            check_name(role)?;
            check_enrolment(enrolment, at)?;
            let enrolment = Some(enrolment.clone());
            state.set_user(User { role: role.clone(), generation: 1, agreement: None, enrolment });
        }
        Change::RemoveUser { role } => {
            if *role == Role::So {
                return Err(Refusal::Arguments("the SO opens the token and stays"));
            }
            state.user(role).ok_or(Refusal::Unknown("the user"))?;
            state.users.retain(|user| user.role != *role);
        }
        Change::ResetPin { role, enrolment } => {
            let held = state.user(role).ok_or(Refusal::Unknown("the user"))?;
            check_enrolment(enrolment, at)?;
            let generation = held.generation.checked_add(1).ok_or(Refusal::Arguments("no generation is left"))?;
            let enrolment = Some(enrolment.clone());
            state.set_user(User { role: role.clone(), generation, agreement: None, enrolment });
        }
        Change::RotateDomainKey { .. } | Change::RotateReplicationKey | Change::MakeRecoverySet { .. } => {}
        Change::ScheduleRetirement { key, at: deadline } => {
            let entry = state.domain_keys.iter_mut().find(|entry| entry.id == *key);
            let entry = entry.ok_or(Refusal::Unknown("the domain key"))?;
            if entry.status == KeyStatus::Active {
                return Err(Refusal::Arguments("the active domain key is rotated first"));
            }
            if deadline.is_some_and(|deadline| deadline < at) {
                return Err(Refusal::Arguments("the deadline has passed"));
            }
            entry.retires = *deadline;
        }
        Change::SetStandingOrder { order } => {
            if order.is_some_and(|o| o.interval == 0 || o.window >= o.interval || o.until <= at) {
                return Err(Refusal::Arguments("the interval, window or end makes no sense"));
            }
            check_retention(order.and_then(|order| order.retain))?;
            state.standing_order = *order;
        }
        Change::SetLimits { limits } => {
            let all = [
                limits.session_key,
                limits.handshake,
                limits.login_ticket,
                limits.offer,
                limits.proposal,
                limits.approval,
            ];
            // A proposal must live long enough to be signed, or nothing could be changed again.
            if all.iter().any(|limit| *limit == 0 || *limit > LONGEST_LIMIT) || limits.proposal < 3600 {
                return Err(Refusal::Arguments("a lifetime is out of bounds"));
            }
            state.limits = *limits;
        }
        Change::AllowSuite { suite, allowed } => {
            if !SUITES.contains(suite) {
                return Err(Refusal::Unknown("the suite"));
            }
            if !allowed && *suite == SUITE {
                return Err(Refusal::Arguments("domain tokens need the suite"));
            }
            match (state.suites.binary_search(suite), allowed) {
                (Err(at), true) => state.suites.insert(at, *suite),
                (Ok(at), false) => drop(state.suites.remove(at)),
                (Ok(_), true) => return Err(Refusal::Exists("the suite")),
                (Err(_), false) => return Err(Refusal::Unknown("the suite")),
            }
        }
        Change::TrustRegion { region } => {
            if region.name.is_empty() || region.name == state.region || region.domain == state.domain {
                return Err(Refusal::Arguments("a Region does not trust itself"));
            }
            if region.replication_keys.is_empty() {
                return Err(Refusal::Arguments("a trusted Region has a replication key"));
            }
            match state.trusted_regions.binary_search_by(|other| other.name.cmp(&region.name)) {
                Ok(at) => state.trusted_regions[at] = region.clone(),
                Err(at) => state.trusted_regions.insert(at, region.clone()),
            }
        }
        Change::DistrustRegion { name } => {
            let before = state.trusted_regions.len();
            state.trusted_regions.retain(|region| region.name != *name);
            if state.trusted_regions.len() == before {
                return Err(Refusal::Unknown("the Region"));
            }
        }
        Change::TrustKey { object, trusted: true } => {
            if !state.trusted_keys.insert(*object) {
                return Err(Refusal::Exists("the trust"));
            }
        }
        Change::TrustKey { object, trusted: false } => {
            if !state.trusted_keys.remove(object) {
                return Err(Refusal::Unknown("the trusted key"));
            }
        }
        Change::RevokeKey { object, generation } => {
            let lowest = state.revoked.entry(*object).or_default();
            if *generation <= *lowest {
                return Err(Refusal::Arguments("that generation is refused already"));
            }
            *lowest = *generation;
        }
        Change::RecoverDomain { hsm, version, state: named } => {
            if *version != old.version || named != hash {
                return Err(Refusal::OtherState);
            }
            hsm.verify(Party::Hsm, &state.domain)?;
            let member = hsm.member()?;
            check_new_keys(&state, &[member.signing, member.agreement])?;
            state.replication_keys.clear();
            // Nobody opens an embedded token without a PIN, so the HSM that recovers it sets the SO's.
            let embedded = state.embedded.is_some();
            state.embedded = state.embedded.map(|_| member.id);
            state.members = vec![member];
            for user in &mut state.users {
                let until = at.saturating_add(RECOVERED_ENROLMENT);
                user.generation = user.generation.saturating_add(1);
                user.agreement = None;
                user.enrolment = (embedded && user.role == Role::So).then_some(Enrolment { code: None, until });
            }
        }
        // What these do to the keys is no part of the state.
        Change::GiveUpReplica { keys } => {
            if keys.region.is_empty() || keys.region == state.region {
                return Err(Refusal::Arguments("another Region has the replicas that are given up"));
            }
        }
        Change::EmergencyPromote { keys } => {
            if keys.region != state.region && !state.trusted_regions.iter().any(|region| region.name == keys.region) {
                return Err(Refusal::Unknown("the Region"));
            }
        }
        Change::UseKey { .. } | Change::SetDualControl { .. } => return Err(Refusal::AboutAKey),
    }
    let retain = match change {
        Change::RotateDomainKey { retain } | Change::ExpelHsm { retain, .. } => *retain,
        _ => None,
    };
    if let Some(key) = results.domain_key {
        rotate(&mut state, key, at, retain)?;
    }
    if let Some(key) = results.replication_key {
        check_new_keys(&state, &[key])?;
        // The one before stays, for Regions that do not trust the new one yet.
        let stale = state.replication_keys.len().saturating_sub(1);
        state.replication_keys.drain(..stale);
        state.replication_keys.push(key);
    }
    if let Some(set) = &results.recovery {
        set_recovery(&mut state, set);
    }
    rules::check(&state)?;
    state.check()?;
    Ok(state)
}

/// Makes `key` the active one. The one that goes keeps decrypting for `retain` seconds.
pub(super) fn rotate(state: &mut State, key: KeyId, at: u64, retain: Option<u64>) -> Applied<()> {
    check_retention(retain)?;
    let deadline = retain.map(|retain| at.checked_add(retain).ok_or(Refusal::Arguments("the deadline is too far off")));
    let deadline = deadline.transpose()?;
    for entry in state.domain_keys.iter_mut().filter(|entry| entry.status == KeyStatus::Active) {
        entry.status = KeyStatus::DecryptOnly;
        entry.retires = deadline;
    }
    let region = state.region.clone();
    let new = DomainKey { id: key, status: KeyStatus::Active, created: at, retires: None, region };
    insert(&mut state.domain_keys, new, |k| k.id, "the domain key")
}

fn check_retention(retain: Option<u64>) -> Applied<()> {
    if retain.is_some_and(|retain| retain < SHORTEST_RETENTION) {
        return Err(Refusal::Arguments("an old domain key decrypts for an hour at least, to seal its objects anew"));
    }
    Ok(())
}

/// The state in which the holder of a role has set a PIN: his own, or with the leave of a command.
pub(super) fn set_pin(old: &State, role: &Role, agreement: PublicKey, code: Option<&[u8]>, at: u64) -> Applied<State> {
    let held = old.user(role).ok_or(Refusal::NoEnrolment)?;
    match (&held.enrolment, held.agreement) {
        (Some(enrolment), _) => {
            if at > enrolment.until {
                return Err(Refusal::EnrolmentEnded);
            }
            let shown = code.map(|code| super::log::enrolment_hash(&old.domain, code));
            if shown != enrolment.code {
                return Err(Refusal::EnrolmentCode);
            }
        }
        (None, Some(_)) if code.is_none() => {}
        _ => return Err(Refusal::NoEnrolment),
    }
    check_new_keys(old, &[agreement])?;
    let generation = held.generation.checked_add(1).ok_or(Refusal::Arguments("no generation is left"))?;
    let mut state = old.clone();
    state.set_user(User { role: role.clone(), generation, agreement: Some(agreement), enrolment: None });
    Ok(state)
}

fn found(state: &mut State, region: &str, operators: &[(Claim, Vec<String>)]) -> Applied<()> {
    if region.is_empty() || region.starts_with("local-") {
        return Err(Refusal::Arguments("the Region needs a name of its own"));
    }
    region.clone_into(&mut state.region);
    for (claim, roles) in operators {
        claim.verify(Party::Operator, &state.domain)?;
        add_operator(state, claim.operator(roles.clone())?)?;
    }
    Ok(())
}

fn add_operator(state: &mut State, operator: Operator) -> Applied<()> {
    if operator.person.is_empty() {
        return Err(Refusal::Arguments("an operator is a person with a name"));
    }
    let roles = &operator.roles;
    if roles.is_empty() || roles.iter().any(String::is_empty) || !ascending(roles, |role| role) {
        return Err(Refusal::Arguments("roles are missing or not in order"));
    }
    check_new_keys(state, &[operator.signing, operator.agreement])?;
    insert(&mut state.operators, operator, |o| o.id, "the operator's id")
}

fn find_operator<'a>(state: &'a State, id: &[u8; 16]) -> Applied<&'a Operator> {
    state.operators.iter().find(|operator| operator.id == *id).ok_or(Refusal::Unknown("the operator"))
}

/// No key has two owners or two purposes.
fn check_new_keys(state: &State, new: &[PublicKey]) -> Applied<()> {
    let members = state.members.iter().flat_map(|m| [m.signing, m.agreement]);
    let operators = state.operators.iter().flat_map(|o| [o.signing, o.agreement]);
    let hosts = state.hosts.iter().map(|h| h.signing);
    let users = state.users.iter().filter_map(|u| u.agreement);
    let recipients = state.recipients.iter().map(|r| r.agreement);
    let replication = state.replication_keys.iter().copied();
    let mut held = members.chain(operators).chain(hosts).chain(users).chain(recipients).chain(replication);
    let twice = new.iter().enumerate().any(|(n, key)| new[..n].contains(key));
    if twice || held.any(|key| new.contains(&key)) { Err(Refusal::KeyInUse) } else { Ok(()) }
}

fn check_name(role: &Role) -> Applied<()> {
    match role {
        Role::Named(name) if name.is_empty() || name.len() > 255 => {
            Err(Refusal::Arguments("the user's name has a wrong length"))
        }
        _ => Ok(()),
    }
}

fn check_enrolment(enrolment: &Enrolment, at: u64) -> Applied<()> {
    match enrolment.until.checked_sub(at) {
        Some(window) if window <= LONGEST_ENROLMENT => Ok(()),
        _ => Err(Refusal::Arguments("the time to set the PIN in has passed or is too long")),
    }
}

fn set_recovery(state: &mut State, set: &RecoverySet) {
    state.recipients = vec![set.recipient()];
    state.recovery = Some(set.clone());
}

/// That the executor made exactly what the change needs.
fn check_results(needs: &Needs, results: &Results) -> Applied<()> {
    let recovery = match (&needs.recovery, &results.recovery) {
        (None, None) => true,
        (Some((threshold, holders)), Some(set)) => {
            set.threshold() == *threshold
                && set.shares.iter().map(|share| share.operator).eq(holders.iter().map(|holder| holder.id))
        }
        _ => false,
    };
    let exact = recovery
        && results.domain_key.is_some() == needs.domain_key
        && results.replication_key.is_some() == needs.replication_key;
    if exact { Ok(()) } else { Err(Refusal::Results) }
}

/// Adds to a collection that is sorted by `key` and has no duplicates.
fn insert<T, K: Ord>(items: &mut Vec<T>, item: T, key: impl Fn(&T) -> K, what: &'static str) -> Applied<()> {
    match items.binary_search_by(|other| key(other).cmp(&key(&item))) {
        Ok(_) => Err(Refusal::Exists(what)),
        Err(at) => {
            items.insert(at, item);
            Ok(())
        }
    }
}
