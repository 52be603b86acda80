//! Requests and descriptions in JSON.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::super::command::Role;
use super::super::super::crypto::Entropy;
use super::super::change::Change;
use super::super::command::{Proposal, SignedCommand};
use super::super::json::{About, describe, describe_command, request};
use super::super::rules::MAJORITY;
use super::super::state::{Enrolment, Limits, Rule, StandingOrder, State};
use super::ceremony::{DAY, Governed, NOW, Person, at, embedded, founding, governed, propose, three};
use super::vectors_governance::changes;
use crate::error::{ErrorKind, Result};

fn ask(state: &State, value: &Value) -> Result<Proposal> {
    request(&value.to_string(), state, &state.hash(), NOW, About::default(), &mut Entropy::System)
}

/// The request that a command's description amounts to.
fn asked_again(command: &SignedCommand) -> Value {
    let described = describe_command(command, None, NOW);
    let mut value = described["arguments"].clone();
    value["command"] = described["command"].clone();
    value
}

fn round_trip(state: &State, change: &Change) {
    let command = SignedCommand::unsigned(propose(state, change.clone(), &mut at(NOW)));
    let value = asked_again(&command);
    let again = ask(state, &value).unwrap_or_else(|error| panic!("{value}: {error}"));
    assert_eq!(again.change, *change, "{value}");
}

#[test]
fn every_command_survives_json() {
    let before = embedded();
    let state = before.opened.state();
    let people = three(&mut Entropy::System);
    // What is about a key is made from its record (`hsm/tests/dual_control.rs`).
    for change in changes(state, &people, &mut Entropy::System).into_iter().filter(|change| change.key().is_none()) {
        round_trip(state, &change);
        // A field that nobody knows is refused wherever it stands.
        let command = SignedCommand::unsigned(propose(state, change.clone(), &mut at(NOW)));
        let mut value = asked_again(&command);
        value["extra"] = json!(1);
        let error = ask(state, &value).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ArgumentsBad);
        assert!(error.detail().unwrap().contains("\"extra\""), "{error}");
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let alternative = proptest::collection::btree_map(".{1,20}", MAJORITY..=255, 1..4);
    ("\\PC{0,30}", proptest::collection::vec(alternative, 1..4)).prop_map(|(command, alternatives)| Rule {
        command,
        alternatives: alternatives.into_iter().map(|alternative| alternative.into_iter().collect()).collect(),
    })
}

fn change() -> impl Strategy<Value = Change> {
    let enrolment = || {
        let code = proptest::option::of(proptest::array::uniform32(any::<u8>()));
        (code, any::<u64>()).prop_map(|(code, until)| {
            let code = code.map(|half| std::array::from_fn(|n| half[n % 32]));
            Enrolment { code, until }
        })
    };
    let role = || prop_oneof![Just(Role::So), Just(Role::User), ".{0,40}".prop_map(Role::Named)];
    prop_oneof![
        rule().prop_map(|rule| Change::SetRule { rule }),
        (role(), enrolment()).prop_map(|(role, enrolment)| Change::CreateUser { role, enrolment }),
        (role(), enrolment()).prop_map(|(role, enrolment)| Change::ResetPin { role, enrolment }),
        ".{0,40}".prop_map(|name| Change::DistrustRegion { name }),
        any::<Option<u64>>().prop_map(|retain| Change::RotateDomainKey { retain }),
        any::<[u64; 6]>().prop_map(|[session_key, handshake, login_ticket, offer, proposal, approval]| {
            Change::SetLimits { limits: Limits { session_key, handshake, login_ticket, offer, proposal, approval } }
        }),
        any::<(u64, u64, Option<u64>, u64)>().prop_map(|(interval, window, retain, until)| {
            Change::SetStandingOrder { order: Some(StandingOrder { interval, window, retain, until }) }
        }),
        any::<([u8; 16], u64)>().prop_map(|(object, generation)| Change::RevokeKey { object, generation }),
    ]
}

#[test]
fn any_argument_survives_json() {
    let before = embedded();
    proptest!(|(change in change())| round_trip(before.opened.state(), &change));
}

#[test]
fn what_is_left_out_is_filled_in() {
    let Governed { people, founded, .. } = governed();
    let state = founded.opened.state();
    let proposal = ask(state, &json!({ "command": "make recovery set", "threshold": 2 })).unwrap();
    let mut ids: Vec<_> = people.iter().map(|p| p.id).collect();
    ids.sort_unstable();
    assert_eq!(proposal.change, Change::MakeRecoverySet { threshold: 2, operators: ids });
    assert_eq!((proposal.not_before, proposal.not_after), (NOW, NOW + DAY));
    let value = json!({ "command": "create user", "role": "user", "code": "of 128 random bits", "window": 60, "valid_for": 7 * DAY });
    let proposal = ask(state, &value).unwrap();
    let Change::CreateUser { enrolment, .. } = &proposal.change else { panic!() };
    assert_eq!((enrolment.until, proposal.not_after), (NOW + 60, NOW + 7 * DAY));
    assert_eq!(enrolment.code, Some(super::super::log::enrolment_hash(&state.domain, b"of 128 random bits")));
    let value = json!({ "command": "set limits", "limits": { "offer": 5 } });
    let limits = Limits { offer: 5, ..Limits::default() };
    assert_eq!(ask(state, &value).unwrap().change, Change::SetLimits { limits });
    let before = embedded();
    let people = three(&mut Entropy::System);
    let state = before.opened.state();
    let operators: Vec<_> = people
        .iter()
        .map(|p| json!({ "claim": super::vectors::hex(p.claim(&state.domain).message()), "roles": ["operator", "officer"] }))
        .collect();
    let value = json!({ "command": "found domain", "region": "eu-north", "operators": operators });
    assert_eq!(ask(state, &value).unwrap().change, founding(state, &people, Vec::new()));
}

#[test]
fn a_wrong_field_is_named() {
    let Governed { people, founded, .. } = governed();
    let state = founded.opened.state();
    let own = super::vectors::hex(people[0].claim(&[0; 16]).message());
    for (value, said) in [
        (json!([]), "the request: must be an object"),
        (json!({}), "command: is missing"),
        (json!({ "command": "obey" }), "command: there is no such command"),
        (json!({ "command": "remove operator" }), "id: is missing"),
        (json!({ "command": "remove operator", "id": 7 }), "id: must be bytes"),
        (json!({ "command": "remove operator", "id": "é0" }), "id: must be bytes"),
        (json!({ "command": "remove operator", "id": "0A" }), "id: must be bytes"),
        (json!({ "command": "remove operator", "id": "00" }), "id: must be 16 bytes"),
        (json!({ "command": "rotate domain key", "retain": -1 }), "retain: must be a whole number"),
        (json!({ "command": "rotate domain key", "valid_for": 8 * DAY }), "valid_for: must be from 1 to 604800"),
        (json!({ "command": "rotate domain key", "valid_from": u64::MAX }), "valid_from: lies too far"),
        (json!({ "command": "standing order" }), "order: is missing"),
        (json!({ "command": "standing order", "order": { "interval": 1, "window": "x" } }), "order.window: must be"),
        (
            json!({ "command": "set rule", "rule": { "command": "x", "alternatives": [{ "officer": 0 }] } }),
            "rule.alternatives[0].\"officer\": must be a number from 1 to 255",
        ),
        (json!({ "command": "add operator", "operator": own, "roles": ["a"] }), "operator: is not a claim for this"),
        (json!({ "command": "create user", "role": "root" }), "role: must be \"SO\""),
        (json!({ "command": "create user", "role": "user", "code": "a", "code_hash": "00".repeat(48) }), "code_hash: "),
    ] {
        let error = ask(state, &value).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ArgumentsBad);
        assert!(error.detail().unwrap().starts_with(said), "{value}: {error}");
    }
    let error =
        request("{\"command\": ", state, &state.hash(), NOW, About::default(), &mut Entropy::System).unwrap_err();
    assert!(error.detail().unwrap().contains("is not JSON (line 1"), "{error}");
}

#[test]
fn a_command_shows_who_signed_and_who_is_missing() {
    let Governed { people, founded, .. } = governed();
    let state = founded.opened.state();
    let add = |person: &Person| Change::AddOperator { operator: person.claim(&state.domain), roles: vec!["x".into()] };
    let mut command = SignedCommand::unsigned(propose(state, add(&Person::both("Dora")), &mut at(NOW)));
    command.sign(&people[0].signing).unwrap();
    let shown = describe_command(&command, Some(state), NOW);
    assert_eq!(shown["signers"][0]["person"], "Anna");
    assert_eq!((&shown["signers"][0]["valid"], &shown["quorum_met"]), (&json!(true), &json!(false)));
    assert_eq!(shown["lacking"], "officer 1 of 2 (1 of 2 persons)");
    assert_eq!(shown["refusal"], "quorum not met: officer 1 of 2 (1 of 2 persons)");
    assert!(describe_command(&command, None, NOW)["signers"][0]["valid"].is_null());
    // A name that looks like Anna's is another person's.
    let alike = SignedCommand::unsigned(propose(state, add(&Person::both("Аnna")), &mut at(NOW)));
    assert!(shown["words"].as_str().unwrap().contains("a new person, who counts beside \"Anna\", \"Ben\", \"Cleo\""));
    let words = |command| describe_command(command, Some(state), NOW)["words"].as_str().unwrap().to_owned();
    assert!(words(&alike).contains("a new person"));
    let again = SignedCommand::unsigned(propose(state, add(&Person::both("Anna")), &mut at(NOW)));
    assert!(words(&again).contains("an operator already"));
    // What would be refused whoever signs it is said before anybody does.
    assert!(shown["obstacle"].is_null());
    let reset = Change::RemoveUser { role: crate::hsm::command::Role::Named("nobody".into()) };
    let reset = SignedCommand::unsigned(propose(state, reset, &mut at(NOW)));
    assert_eq!(describe_command(&reset, Some(state), NOW)["obstacle"], "the user is unknown");
    command.add([1; 32], [7; 96]).unwrap();
    command.sign(&people[1].signing).unwrap();
    let shown = describe_command(&command, Some(state), NOW);
    assert_eq!((&shown["quorum_met"], &shown["lacking"]), (&json!(true), &json!(null)));
    assert_eq!(shown["refusal"], "unknown signer 0101010101010101");
    // Those who found a domain vouch for themselves.
    let before = embedded();
    let (state, people) = (before.opened.state(), three(&mut Entropy::System));
    let mut command = SignedCommand::unsigned(propose(state, founding(state, &people, vec![]), &mut at(NOW)));
    command.sign(&people[1].signing).unwrap();
    let shown = describe_command(&command, None, NOW);
    assert_eq!((&shown["signers"][0]["valid"], &shown["quorum_met"]), (&json!(true), &json!(false)));
    assert_eq!(shown["lacking"], "every founding operator signs: \"Anna\", \"Cleo\" have not");
}

#[test]
fn a_state_is_described() {
    let Governed { before, founded, .. } = governed();
    let shown = describe(before.opened.public(), NOW);
    assert_eq!((&shown["governed_by"], &shown["version"]), (&json!("SO"), &json!(1)));
    assert_eq!(shown["users"][0], json!({ "role": "SO", "has_pin": true, "generation": 1, "enrolment": null }));
    let shown = describe(founded.opened.public(), NOW);
    assert_eq!((&shown["governed_by"], &shown["region"]), (&json!("operators"), &json!("eu-north")));
    assert_eq!(shown["operators"].as_array().unwrap().len(), 3);
    assert_eq!(shown["rules"].as_array().unwrap().len(), founded.opened.state().rules.len());
    assert_eq!(shown["hash"], super::vectors::hex(founded.opened.public().hash()));
    let add = shown["rules"].as_array().unwrap().iter().find(|r| r["command"] == "add operator").unwrap();
    assert_eq!(add["alternatives"], json!([{ "officer": "majority" }]));
}
