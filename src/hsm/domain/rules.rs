//! Rules: which operators a command needs. Data of the state, counted by distinct persons.

use std::collections::{BTreeMap, BTreeSet};

use super::refusal::Refusal;
use super::state::{Operator, Rule, State};

type Roles = &'static [(&'static str, u64)];

/// As a minimum: more than half of the persons with the role if there are more than three, else two.
pub(in crate::hsm) const MAJORITY: u64 = 0;

const OFFICERS: Roles = &[("officer", 2)];
const GOVERNMENT: Roles = &[("officer", MAJORITY)];
const BOTH: Roles = &[("officer", 1), ("operator", 1)];
const OPERATOR: Roles = &[("operator", 1)];

/// Every command with the rule it has unless the operators give it another.
const DEFAULTS: &[(&str, Roles)] = &[
    ("add operator", GOVERNMENT),
    ("admit HSM", BOTH),
    ("admit host", BOTH),
    ("allow suite", OFFICERS),
    ("create user", BOTH),
    ("distrust Region", OFFICERS),
    ("emergency promote", OFFICERS),
    ("expel HSM", BOTH),
    ("expel host", BOTH),
    ("give up replica", OFFICERS),
    ("make recovery set", OFFICERS),
    ("re-key operator", GOVERNMENT),
    ("recover domain", OFFICERS),
    ("remove operator", GOVERNMENT),
    ("remove user", BOTH),
    ("reset PIN", BOTH),
    ("revoke key", BOTH),
    ("rotate RSK", OPERATOR),
    ("rotate domain key", OPERATOR),
    ("schedule retirement", OPERATOR),
    ("set limits", OFFICERS),
    ("set rule", GOVERNMENT),
    ("standing order", OFFICERS),
    ("trust Region", OFFICERS),
    ("trust key", OFFICERS),
];

/// What changes the rules, directly or through who fills them.
const GOVERNING: [&str; 4] = ["add operator", "re-key operator", "remove operator", "set rule"];

/// A domain's first rules: the defaults, or what is given in their place. Ascending by command.
pub(super) fn at_founding(given: &[Rule]) -> Vec<Rule> {
    let default = DEFAULTS.iter().map(|(command, roles)| Rule {
        command: (*command).to_owned(),
        alternatives: vec![roles.iter().map(|(role, minimum)| ((*role).to_owned(), *minimum)).collect()],
    });
    default.map(|rule| given.iter().find(|other| other.command == rule.command).cloned().unwrap_or(rule)).collect()
}

/// Whether a rule is about a command and says what it needs.
pub(super) fn check_form(rule: &Rule) -> Result<(), Refusal> {
    if !DEFAULTS.iter().any(|(command, _)| *command == rule.command) {
        return Err(Refusal::BadRule("there is no such command"));
    }
    let roles = || rule.alternatives.iter().flatten();
    if rule.alternatives.is_empty() || rule.alternatives.iter().any(Vec::is_empty) {
        return Err(Refusal::BadRule("nobody would be needed"));
    }
    if roles().any(|(role, minimum)| role.is_empty() || *minimum > 255) {
        return Err(Refusal::BadRule("a role has no name, or a minimum is above 255"));
    }
    if rule.alternatives.iter().any(|a| !super::state::ascending(a, |(role, _)| role)) {
        return Err(Refusal::BadRule("roles are not in order"));
    }
    Ok(())
}

/// What holds of every founded state: any rule can be met, and none needs more persons than it
/// takes to change it. The governing rules themselves may differ, since each is changed by itself:
/// the least of them counts for all others.
pub(super) fn check(state: &State) -> Result<(), Refusal> {
    let everyone: Vec<&Operator> = state.operators.iter().collect();
    let strength = |command: &str| {
        let met =
            alternatives(state, command).filter_map(|a| Places::of(a, &state.operators)).filter(|p| p.fit(&everyone));
        met.map(|places| places.0.len()).min().ok_or_else(|| Refusal::LocksOut(command.to_owned()))
    };
    let mut governing = usize::MAX;
    for command in GOVERNING {
        governing = governing.min(strength(command)?);
    }
    for (command, _) in DEFAULTS {
        if strength(command)? > governing && !GOVERNING.contains(command) {
            return Err(Refusal::RuleTooStrong((*command).to_owned()));
        }
    }
    Ok(())
}

/// Whether these signers are enough for the command.
pub(super) fn met(state: &State, command: &str, signers: &[&Operator]) -> Result<(), Refusal> {
    let mut lacking = Vec::new();
    for alternative in alternatives(state, command) {
        match Places::of(alternative, &state.operators) {
            Some(places) if places.fit(signers) => return Ok(()),
            _ => lacking.push(shortfall(alternative, &state.operators, signers)),
        }
    }
    Err(Refusal::QuorumNotMet(lacking.join("; or ")))
}

/// A command that the state has no rule for, because it is newer, needs what a change of rules needs.
fn alternatives<'a>(state: &'a State, command: &str) -> impl Iterator<Item = &'a Vec<(String, u64)>> {
    let named = |name: &str| state.rules.iter().find(|rule| rule.command == name);
    named(command).or_else(|| named("set rule")).into_iter().flat_map(|rule| &rule.alternatives)
}

/// The roles to be filled, each by a person of its own.
struct Places<'a>(Vec<&'a str>);

impl<'a> Places<'a> {
    /// None if there are more places than operators, whatever their roles.
    fn of(alternative: &'a [(String, u64)], operators: &[Operator]) -> Option<Self> {
        let mut places = Vec::new();
        for (role, minimum) in alternative {
            let count = usize::try_from(resolve(role, *minimum, operators)).ok()?;
            if places.len().checked_add(count)? > operators.len() {
                return None;
            }
            places.extend(std::iter::repeat_n(role.as_str(), count));
        }
        Some(Self(places))
    }

    /// Whether each place has a person of its own: a matching, grown by augmenting paths.
    fn fit(&self, signers: &[&Operator]) -> bool {
        let persons = persons(signers);
        let persons: Vec<&BTreeSet<&str>> = persons.values().collect();
        let mut place_of = vec![None; persons.len()];
        (0..self.0.len()).all(|place| self.seat(place, &persons, &mut place_of, &mut vec![false; persons.len()]))
    }

    fn seat(
        &self,
        place: usize,
        persons: &[&BTreeSet<&str>],
        place_of: &mut [Option<usize>],
        tried: &mut [bool],
    ) -> bool {
        for person in 0..persons.len() {
            if tried[person] || !persons[person].contains(self.0[place]) {
                continue;
            }
            tried[person] = true;
            if place_of[person].is_none_or(|other| self.seat(other, persons, place_of, tried)) {
                place_of[person] = Some(place);
                return true;
            }
        }
        false
    }
}

/// A person's roles are those of all of his keys.
fn persons<'a>(signers: &[&'a Operator]) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut persons: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for operator in signers {
        persons.entry(&operator.person).or_default().extend(operator.roles.iter().map(String::as_str));
    }
    persons
}

fn resolve(role: &str, minimum: u64, operators: &[Operator]) -> u64 {
    if minimum != MAJORITY {
        return minimum;
    }
    let holders = operators.iter().filter(|o| o.roles.iter().any(|r| r == role));
    let holders = holders.map(|o| &o.person).collect::<BTreeSet<_>>().len() as u64;
    if holders > 3 { holders / 2 + 1 } else { 2 }
}

/// Such as "officer 1 of 2, operator 1 of 1; each by another person".
fn shortfall(alternative: &[(String, u64)], operators: &[Operator], signers: &[&Operator]) -> String {
    let persons = persons(signers);
    let (mut needed, mut parts) = (0, Vec::new());
    for (role, minimum) in alternative {
        let minimum = resolve(role, *minimum, operators);
        let have = persons.values().filter(|roles| roles.contains(role.as_str())).count();
        needed += minimum;
        parts.push(format!("{role} {have} of {minimum}"));
    }
    format!("{} ({} of {needed} persons)", parts.join(", "), persons.len())
}
