//! Explicit-state models of quorum-signed commands and of how their log is adopted.
//!
//! Each check of the module is a switch here. With all of them on, no state that an attacker can
//! reach breaks a promise; with any one of them off, the checker finds an attack. The attacker owns
//! the network, the store and the clock, all of Anna's keys, and the keys of whoever was removed.
//!
//! The checks have the names of the refusals in `src/hsm/domain/refusal.rs`.

use std::collections::BTreeSet;

use stateright::{Checker, Model, Property};

/// The checks of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Bytes have one reading, for signers and HSM alike; all others are refused.
    Malformed,
    OtherDomain,
    OtherGovernance,
    NotYetValid,
    Expired,
    /// The HSM's time never goes back.
    Backdated,
    Replayed,
    UnknownSigner,
    RepeatedSigner,
    BadSignature,
    /// Two keys of one person are one person.
    DistinctPersons,
    /// A person with two roles fills one place.
    OnePlaceEach,
    LocksOut,
    RuleTooStrong,
}

const CHECKS: [Check; 14] = [
    Check::Malformed,
    Check::OtherDomain,
    Check::OtherGovernance,
    Check::NotYetValid,
    Check::Expired,
    Check::Backdated,
    Check::Replayed,
    Check::UnknownSigner,
    Check::RepeatedSigner,
    Check::BadSignature,
    Check::DistinctPersons,
    Check::OnePlaceEach,
    Check::LocksOut,
    Check::RuleTooStrong,
];

/// Keys and whose they are. All keys are of officers; all but the second of operators as well.
const PERSONS: [&str; 4] = ["Anna", "Anna", "Ben", "Cleo"];
const BEN: usize = 2;
const CLEO: usize = 3;

fn is_operator(key: usize) -> bool {
    key != 1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Officers: two, or as many as the rule was set to.
    Trust,
    /// An officer and an operator.
    Admit,
    Remove(&'static str),
    /// As many officers for a change of operators or rules.
    Govern(usize),
    /// As many officers for trusting a key.
    TrustRule(usize),
}

/// What is signed; its number is its nonce. `epoch` is the governance it was made for.
struct Proposal {
    ours: bool,
    epoch: u8,
    change: Change,
    /// Encoded so that a lenient HSM would read this where the signers read `change`.
    misread: Option<Change>,
    not_before: u8,
    not_after: u8,
    /// Ben agrees to this.
    ben: bool,
    /// So does Cleo, while she is an operator.
    cleo: bool,
}

const fn proposal(epoch: u8, change: Change, ben: bool, cleo: bool) -> Proposal {
    Proposal { ours: true, epoch, change, misread: None, not_before: 0, not_after: 2, ben, cleo }
}

const PROPOSALS: [Proposal; 11] = [
    Proposal { not_before: 1, not_after: 1, ..proposal(0, Change::Trust, true, false) },
    Proposal { ours: false, ..proposal(0, Change::Trust, true, false) },
    // What the attacker would like, and nobody else.
    proposal(0, Change::Trust, false, false),
    proposal(1, Change::Trust, false, false),
    proposal(0, Change::Admit, false, false),
    proposal(0, Change::Remove("Cleo"), true, true),
    proposal(0, Change::Admit, true, false),
    Proposal { misread: Some(Change::Trust), ..proposal(0, Change::Admit, true, false) },
    // Honest mistakes.
    proposal(1, Change::Remove("Ben"), true, false),
    proposal(0, Change::Govern(4), true, false),
    proposal(0, Change::TrustRule(3), true, false),
];

impl Proposal {
    /// What an HSM that accepts this does.
    fn executed(&self) -> Change {
        self.misread.unwrap_or(self.change)
    }
}

/// A broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Broken {
    /// Executed without enough persons who agreed to exactly this, under the rules in force.
    Quorum,
    OutsideItsTime,
    Twice,
    LockedOut,
    /// Fewer persons can change a rule than it asks for.
    RuleIsEmpty,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// The operating system's clock, which anybody may set, and the latest the HSM has seen.
    clock: u8,
    seen: u8,
    /// Proposals that Ben and Cleo have signed.
    ben: BTreeSet<usize>,
    cleo: BTreeSet<usize>,
    operators: BTreeSet<usize>,
    epoch: u8,
    govern: usize,
    trust: usize,
    nonces: BTreeSet<usize>,
    executed: Vec<usize>,
    broken: BTreeSet<Broken>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    SetClock(u8),
    BenSigns(usize),
    CleoSigns(usize),
    /// A proposal with signatures, each by a key over some proposal.
    Submit(usize, Vec<(usize, usize)>),
}

struct Quorum {
    off: Option<Check>,
}

impl Quorum {
    fn on(&self, check: Check) -> bool {
        self.off != Some(check)
    }

    /// Whether the HSM accepts the command; these are the lines of `SignedCommand::verify`.
    fn accepts(&self, state: &State, number: usize, signatures: &[(usize, usize)], now: u8) -> bool {
        let proposal = &PROPOSALS[number];
        let keys: Vec<usize> = signatures.iter().map(|(key, _)| *key).collect();
        let refused = [
            (Check::Malformed, proposal.misread.is_some()),
            (Check::OtherDomain, !proposal.ours),
            (Check::OtherGovernance, proposal.epoch != state.epoch),
            (Check::NotYetValid, now < proposal.not_before),
            (Check::Expired, now > proposal.not_after),
            (Check::Replayed, state.nonces.contains(&number)),
            (Check::UnknownSigner, keys.iter().any(|key| !state.operators.contains(key))),
            (Check::RepeatedSigner, keys.iter().collect::<BTreeSet<_>>().len() < keys.len()),
            (Check::BadSignature, signatures.iter().any(|(_, over)| *over != number)),
        ];
        if refused.iter().any(|(check, refused)| self.on(*check) && *refused) {
            return false;
        }
        // Signers are told apart by person, by key, or not at all.
        let signers = keys.iter().enumerate().map(|(n, key)| {
            let person = if self.on(Check::DistinctPersons) { PERSONS[*key].to_owned() } else { key.to_string() };
            let person = if self.on(Check::RepeatedSigner) { person } else { format!("{person} {n}") };
            (person, is_operator(*key))
        });
        enough(state, proposal.executed(), &signers.collect::<Vec<_>>(), self.on(Check::OnePlaceEach))
    }
}

/// Whether the rule is met by these signers, each a person and whether operator.
fn enough(state: &State, change: Change, signers: &[(String, bool)], one_place_each: bool) -> bool {
    let persons: BTreeSet<&String> = signers.iter().map(|(person, _)| person).collect();
    match change {
        Change::Trust => persons.len() >= state.trust,
        Change::Remove(_) | Change::Govern(_) | Change::TrustRule(_) => persons.len() >= state.govern,
        Change::Admit => {
            let operators = signers.iter().any(|(_, operator)| *operator);
            operators && persons.len() >= if one_place_each { 2 } else { 1 }
        }
    }
}

impl Model for Quorum {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            clock: 0,
            seen: 0,
            ben: BTreeSet::new(),
            cleo: BTreeSet::new(),
            operators: (0..4).collect(),
            epoch: 0,
            govern: 2,
            trust: 2,
            nonces: BTreeSet::new(),
            executed: Vec::new(),
            broken: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend((0..4).filter(|time| *time != state.clock).map(Action::SetClock));
        for (number, proposal) in PROPOSALS.iter().enumerate() {
            let there = proposal.epoch == state.epoch;
            if proposal.ben && there && !state.ben.contains(&number) && state.operators.contains(&BEN) {
                actions.push(Action::BenSigns(number));
            }
            if proposal.cleo && there && !state.cleo.contains(&number) && state.operators.contains(&CLEO) {
                actions.push(Action::CleoSigns(number));
            }
            let mut signatures: Vec<(usize, usize)> = vec![(0, number), (1, number)];
            signatures.extend(state.ben.iter().map(|over| (BEN, *over)));
            signatures.extend(state.cleo.iter().map(|over| (CLEO, *over)));
            if !state.operators.contains(&CLEO) {
                signatures.push((CLEO, number));
            }
            for (n, first) in signatures.iter().enumerate() {
                actions.push(Action::Submit(number, vec![*first]));
                actions.extend(signatures[n..].iter().map(|second| Action::Submit(number, vec![*first, *second])));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let (number, signatures) = match action {
            Action::SetClock(time) => {
                state.clock = time;
                return Some(state);
            }
            Action::BenSigns(number) => {
                state.ben.insert(number);
                return Some(state);
            }
            Action::CleoSigns(number) => {
                state.cleo.insert(number);
                return Some(state);
            }
            Action::Submit(number, signatures) => (number, signatures),
        };
        let now = if self.on(Check::Backdated) { last.clock.max(last.seen) } else { last.clock };
        // Three executions tell all there is to tell.
        if last.executed.len() >= 3 || !self.accepts(last, number, &signatures, now) {
            return None;
        }
        let proposal = &PROPOSALS[number];
        match proposal.executed() {
            Change::Remove(person) => state.operators.retain(|key| PERSONS[*key] != person),
            Change::Govern(officers) => state.govern = officers,
            Change::TrustRule(officers) => state.trust = officers,
            Change::Trust | Change::Admit => {}
        }
        let persons = state.operators.iter().map(|key| PERSONS[*key]).collect::<BTreeSet<_>>().len();
        let locked = persons < state.govern.max(2) || persons < state.trust;
        let empty = state.trust > state.govern;
        if (locked && self.on(Check::LocksOut)) || (empty && self.on(Check::RuleTooStrong)) {
            return None;
        }
        if matches!(proposal.executed(), Change::Remove(_) | Change::Govern(_) | Change::TrustRule(_)) {
            state.epoch = 1;
        }
        state.seen = last.seen.max(now);
        state.nonces.retain(|nonce| PROPOSALS[*nonce].not_after >= now);
        state.nonces.insert(number);
        state.executed.push(number);

        // What is promised, told without the checks.
        let agreed: Vec<(String, bool)> = (last.operators.iter())
            .filter(|key| match PERSONS[**key] {
                "Anna" => true,
                _ if proposal.misread.is_some() => false,
                "Ben" => last.ben.contains(&number),
                _ => last.cleo.contains(&number),
            })
            .map(|key| (PERSONS[*key].to_owned(), is_operator(*key)))
            .collect();
        let in_force = proposal.ours && proposal.epoch == last.epoch;
        let latest = last.clock.max(last.seen);
        let promises = [
            (Broken::Quorum, in_force && enough(last, proposal.executed(), &agreed, true)),
            (Broken::OutsideItsTime, (proposal.not_before..=proposal.not_after).contains(&latest)),
            (Broken::Twice, !last.executed.contains(&number)),
            (Broken::LockedOut, !locked),
            (Broken::RuleIsEmpty, !empty),
        ];
        state.broken.extend(promises.iter().filter(|(_, kept)| !kept).map(|(broken, _)| *broken));
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every promise is kept", |_, state: &State| state.broken.is_empty()),
            // The model is not silent because nothing ever happens.
            Property::sometimes("Cleo is removed", |_, state: &State| !state.operators.contains(&CLEO)),
            Property::sometimes("a key is trusted", |_, state: &State| state.executed.contains(&0)),
        ]
    }
}

#[test]
fn the_quorum_cannot_be_cheated() {
    let checker = Quorum { off: None }.checker().spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.is_done());
}

#[test]
fn each_check_of_a_command_is_needed() {
    for check in CHECKS {
        let checker = Quorum { off: Some(check) }.checker().spawn_bfs().join();
        assert!(checker.discovery("every promise is kept").is_some(), "nothing needs {check:?}");
    }
}

/// The checks of an HSM that is shown a domain token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adopting {
    /// A member of the state before it signed.
    Member,
    /// The log has an entry for each version.
    LogMissing,
    /// The log leads to the token's state.
    LogMismatch,
    /// Each entry verifies: a quorum's command, or made under leave that one gave.
    Entry,
    /// No older version is taken.
    Older,
    /// No other state of the version held is taken: two tokens for one version are an alarm.
    Fork,
    /// The log begins at the state held.
    Chain,
    /// An HSM that was expelled counts no more.
    Expelled,
}

const ADOPTING: [Adopting; 8] = [
    Adopting::Member,
    Adopting::LogMissing,
    Adopting::LogMismatch,
    Adopting::Entry,
    Adopting::Older,
    Adopting::Fork,
    Adopting::Chain,
    Adopting::Expelled,
];

/// The log that comes with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Shown {
    /// Of the token's own changes.
    Own,
    /// None, or one with an entry left out.
    Missing,
    /// Well signed, of another state.
    Another,
}

/// One version's entry: signed by a quorum (of which there may be two for one version, when a
/// captured member executes another command), the expulsion of the captured member, or invented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Entry {
    Signed,
    SignedToo,
    Expulsion,
    Invented,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Signer {
    Member,
    /// Captured: signs what the attacker likes, until expelled.
    Captured,
    Stranger,
}

/// What one honest HSM holds, and which promises were broken on its way there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Held {
    log: Vec<Entry>,
    broken: BTreeSet<&'static str>,
}

struct Adoption {
    off: Option<Adopting>,
}

impl Model for Adoption {
    type State = Held;
    type Action = (Signer, Vec<Entry>, Shown);

    fn init_states(&self) -> Vec<Held> {
        vec![Held { log: Vec::new(), broken: BTreeSet::new() }]
    }

    /// Tokens with every log of up to three entries; an honest member shows none that is invented.
    fn actions(&self, _: &Held, actions: &mut Vec<Self::Action>) {
        let entries = [Entry::Signed, Entry::SignedToo, Entry::Expulsion, Entry::Invented];
        let mut logs: Vec<Vec<Entry>> = vec![Vec::new()];
        for length in 0..3 {
            let longer: Vec<Vec<Entry>> = (logs.iter().filter(|log| log.len() == length))
                .flat_map(|log| entries.map(|entry| [&log[..], &[entry]].concat()))
                .collect();
            logs.extend(longer);
        }
        for log in logs {
            if !log.contains(&Entry::Invented) {
                actions.push((Signer::Member, log.clone(), Shown::Own));
            }
            for shown in [Shown::Own, Shown::Missing, Shown::Another] {
                actions.push((Signer::Captured, log.clone(), shown));
                actions.push((Signer::Stranger, log.clone(), shown));
            }
        }
    }

    fn next_state(&self, held: &Held, (signer, shown, log): Self::Action) -> Option<Held> {
        let on = |check| self.off != Some(check);
        let newer = shown.len() > held.log.len();
        // Who is a member is read from the state before the token's.
        let before = &shown[..shown.len().saturating_sub(1)];
        let expelled = signer == Signer::Captured && before.contains(&Entry::Expulsion);
        let refused = [
            (Adopting::Member, signer == Signer::Stranger),
            (Adopting::LogMissing, newer && log == Shown::Missing),
            (Adopting::LogMismatch, newer && log == Shown::Another),
            (Adopting::Entry, newer && log == Shown::Own && shown.contains(&Entry::Invented)),
            (Adopting::Older, shown.len() < held.log.len()),
            (Adopting::Fork, shown.len() == held.log.len()),
            (Adopting::Chain, newer && !shown.starts_with(&held.log)),
            (Adopting::Expelled, expelled),
        ];
        if shown == held.log || refused.iter().any(|(check, refused)| on(*check) && *refused) {
            return None;
        }
        let mut broken = held.broken.clone();
        let promises = [
            ("a change that nobody signed", shown.contains(&Entry::Invented)),
            ("what was held is undone", !shown.starts_with(&held.log)),
            ("a stranger speaks for the domain", signer == Signer::Stranger),
            ("an expelled HSM speaks for the domain", expelled),
        ];
        broken.extend(promises.iter().filter(|(_, broken)| *broken).map(|(what, _)| *what));
        Some(Held { log: shown, broken })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every promise is kept", |_, held: &Held| held.broken.is_empty()),
            Property::sometimes("three versions are followed", |_, held: &Held| held.log.len() == 3),
        ]
    }
}

#[test]
fn the_log_cannot_be_cheated() {
    let checker = Adoption { off: None }.checker().spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.is_done());
}

#[test]
fn each_check_of_a_token_is_needed() {
    for check in ADOPTING {
        let checker = Adoption { off: Some(check) }.checker().spawn_bfs().join();
        assert!(checker.discovery("every promise is kept").is_some(), "nothing needs {check:?}");
    }
}
