//! What operators do with papers alone.

use serde_json::json;
use zeroize::Zeroizing;

use super::super::super::command::Role;
use super::super::change::Change;
use super::super::command::SignedCommand;
use super::super::governance::{
    History, OperatorKeys, PartyKind, claim, command_id, contribute_at, describe_claim, describe_command,
    describe_token, merge, rekey_claim, sign, verify_history, verify_history_at,
};
use super::super::keys::{Agreement, PublicKey};
use super::super::opened::OwnKeys;
use super::super::recovery::Contribution;
use super::super::refusal::Refusal;
use super::super::state::{Enrolment, StandingOrder};
use super::super::{Opened, PublicState};
use super::CHEAP;
use super::ceremony::{DAY, Governed, NOW, Person, at, fleet, governed, propose, refused, run};
use crate::error::Result;

impl OperatorKeys for Person {
    fn signing(&self) -> Result<Vec<u8>> {
        Ok(self.signing.public()?.spki().to_vec())
    }

    fn agreement(&self) -> Result<Vec<u8>> {
        Ok(self.agreement.public()?.spki().to_vec())
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 96]> {
        self.signing.sign(message)
    }

    fn agree(&self, peer: &[u8]) -> Result<Zeroizing<[u8; 48]>> {
        self.agreement.shared(&PublicKey::from_spki(peer).unwrap())
    }
}

/// A domain with an entry of each kind after its founding.
struct Told {
    governed: Governed,
    entries: Vec<Vec<u8>>,
    newest: Vec<u8>,
}

impl Told {
    fn new() -> Self {
        let governed = governed();
        let people: Vec<&Person> = governed.people.iter().collect();
        let mut entries = vec![governed.founded.entry.clone()];
        let enrolment = Enrolment { code: None, until: NOW + DAY };
        let create = Change::CreateUser { role: Role::User, enrolment };
        let created = run(governed.opened(), create, &people[..2], NOW).unwrap();
        let (enrolled, pin) = created.opened.set_pin(&Role::User, b"1234", None, CHEAP, &mut at(NOW)).unwrap();
        let order = StandingOrder { interval: 30 * DAY, window: DAY, retain: Some(DAY), until: NOW + 99 * DAY };
        let change = Change::SetStandingOrder { order: Some(order) };
        let ordered = run(&enrolled, change, &people[1..], NOW).unwrap();
        let rotated = ordered.opened.housekeeping(&mut at(NOW + 30 * DAY)).unwrap().unwrap();
        let retired = rotated.opened.housekeeping(&mut at(NOW + 31 * DAY)).unwrap().unwrap();
        entries.push(created.entry);
        entries.extend(pin.entries);
        entries.extend([ordered.entry, rotated.entry, retired.entry]);
        let newest = retired.token.bytes;
        Self { governed, entries, newest }
    }

    fn origin(&self) -> &[u8] {
        &self.governed.before.token.bytes
    }

    fn history(&self, entries: &[Vec<u8>]) -> Vec<u8> {
        let entries = entries.iter().map(Vec::as_slice).collect();
        History { origin: self.origin(), entries, newest: &self.newest }.encode()
    }
}

const LATER: u64 = NOW + 40 * DAY;

#[test]
fn a_history_verifies_and_tells_who_approved() {
    let told = Told::new();
    let history = told.history(&told.entries);
    let shown = verify_history_at(&history, LATER).unwrap();
    let kinds: Vec<_> = shown.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["command", "command", "PIN set", "command", "rotation", "retirement"]);
    assert_eq!((&shown[0]["version"], &shown[0]["command"]), (&json!(2), &json!("found domain")));
    let persons = |n: usize| {
        let mut persons: Vec<_> = shown[n]["signers"].as_array().unwrap().iter().map(|s| s["person"].clone()).collect();
        persons.sort_by_key(ToString::to_string);
        persons
    };
    assert_eq!(
        (persons(0).len(), persons(1), persons(3)),
        (3, vec![json!("Anna"), json!("Ben")], vec![json!("Ben"), json!("Cleo")])
    );
    assert!(persons(2).is_empty() && shown[1]["words"].as_str().unwrap().contains("Create the user"));
    let newest = describe_token(&told.newest).unwrap();
    assert_eq!((&newest["hash"], &newest["version"]), (&shown[5]["state"], &json!(7)));
    assert!(verify_history(&history).is_err(), "its entries are dated in the future");
}

#[test]
fn a_changed_history_is_found() {
    let told = Told::new();
    let verify = |entries: &[Vec<u8>]| verify_history_at(&told.history(entries), LATER);
    let everything = &told.entries;
    for n in 0..everything.len() {
        let mut removed = everything.clone();
        removed.remove(n);
        assert!(verify(&removed).is_err(), "entry {n} removed");
        let mut twice = everything.clone();
        twice.insert(n, everything[n].clone());
        assert!(verify(&twice).is_err(), "entry {n} repeated");
        if n > 0 {
            let mut swapped = everything.clone();
            swapped.swap(n - 1, n);
            assert!(verify(&swapped).is_err(), "entry {n} swapped");
        }
        // Every bit would take minutes; a prime stride meets every field.
        for bit in (0..everything[n].len() * 8).step_by(97) {
            let mut bent = everything.clone();
            bent[n][bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&bent).is_err(), "entry {n}, bit {bit}");
        }
    }
    let history = told.history(everything);
    assert!(verify_history_at(&[history.as_slice(), &[0]].concat(), LATER).is_err());
    // Another token at either end.
    let entries = || everything.iter().map(Vec::as_slice).collect();
    let founded = &told.governed.founded.token.bytes;
    let end = History { origin: told.origin(), entries: entries(), newest: founded };
    refused(verify_history_at(&end.encode(), LATER), &Refusal::LogMismatch);
    let begin = History { origin: founded, entries: entries(), newest: &told.newest };
    assert!(verify_history_at(&begin.encode(), LATER).is_err());
    // What somebody who knows the founded state was not told of, but not the whole history.
    let rest =
        History { origin: founded, entries: everything[1..].iter().map(Vec::as_slice).collect(), newest: &told.newest };
    assert_eq!(verify_history_at(&rest.encode(), LATER).unwrap().len(), 5);
    let why = verify_history(&rest.encode()).unwrap_err();
    assert!(why.detail().unwrap().contains("begins after the founding"), "{why}");
    // A token that no member before signed.
    let mut forged = told.newest.clone();
    *forged.last_mut().unwrap() ^= 1;
    let forged = History { origin: told.origin(), entries: entries(), newest: &forged };
    assert!(verify_history_at(&forged.encode(), LATER).is_err());
}

#[test]
fn signatures_are_gathered_on_paper() {
    let g = governed();
    let token = &g.founded.token.bytes;
    let change = Change::TrustKey { object: [7; 16], trusted: true };
    let blank = SignedCommand::unsigned(propose(g.state(), change, &mut at(NOW))).encode();
    let anna = sign(&blank, &g.people[0]).unwrap();
    assert!(sign(&anna, &g.people[0]).unwrap_err().detail().unwrap().contains("already"));
    let ben = sign(&blank, &g.people[1]).unwrap();
    let both = merge(&anna, &ben).unwrap();
    assert_eq!(merge(&ben, &anna).unwrap(), both);
    assert_eq!(command_id(&both).unwrap(), command_id(&blank).unwrap());
    let shown = describe_command(&both, Some(token)).unwrap();
    assert_eq!((&shown["quorum_met"], &shown["lacking"]), (&json!(true), &json!(null)));
    assert_eq!(describe_command(&anna, Some(token)).unwrap()["quorum_met"], false);
    let executed = g.opened().execute(&both, &mut at(NOW)).unwrap();
    assert!(executed.opened.state().trusted_keys.contains(&[7; 16]));
    let change = Change::TrustKey { object: [8; 16], trusted: true };
    let other = SignedCommand::unsigned(propose(g.state(), change, &mut at(NOW))).encode();
    refused(merge(&both, &other), &Refusal::Arguments("they are not copies of one proposal"));
}

#[test]
fn claims_are_made_for_one_domain() {
    let g = governed();
    let (domain, dora) = (g.state().domain, Person::both("Dora"));
    let made = claim(PartyKind::Operator, "Dora", &domain, &dora).unwrap();
    let shown = describe_claim(&made, Some(&domain)).unwrap();
    assert_eq!((&shown["party"], &shown["name"], &shown["valid"]), (&json!("operator"), &json!("Dora"), &json!(true)));
    assert_eq!(describe_claim(&made, Some(&[0; 16])).unwrap()["valid"], false);
    assert!(describe_claim(&made, None).unwrap()["valid"].is_null());
    let host = describe_claim(&claim(PartyKind::Host, "web-1", &domain, &dora).unwrap(), Some(&domain)).unwrap();
    assert_eq!((&host["agreement"], &host["valid"]), (&json!(null), &json!(true)));
    let again = rekey_claim(&g.people[0].id, "Anna", &domain, &dora).unwrap();
    let operator = super::super::identity::Claim::decode(&again).unwrap();
    assert!(run(g.opened(), Change::RekeyOperator { operator }, &[&g.people[0], &g.people[1]], NOW).is_ok());
    assert!(claim(PartyKind::Operator, "", &domain, &dora).is_err());
}

#[test]
fn a_share_moves_for_the_newest_state_only() {
    let (founded, people) = fleet();
    let all: Vec<&Person> = people.iter().collect();
    let mut ids: Vec<_> = people.iter().map(|p| p.id).collect();
    ids.sort_unstable();
    let make = Change::MakeRecoverySet { threshold: 2, operators: ids };
    let ready = run(&founded.opened, make, &all, NOW).unwrap();
    let newest = run(&ready.opened, Change::RotateReplicationKey, &all[..1], NOW).unwrap();
    let public = PublicState::of_bytes(&newest.token.bytes).unwrap();
    let fresh = std::sync::Arc::new(OwnKeys::generate(&mut super::super::super::crypto::Entropy::System).unwrap());
    let hsm = fresh.claim("fresh", &public.state().domain).unwrap();
    let change = Change::RecoverDomain { hsm, version: public.state().version, state: *public.hash() };
    let blank = SignedCommand::unsigned(propose(public.state(), change, &mut at(NOW))).encode();
    let command = sign(&sign(&blank, all[0]).unwrap(), all[2]).unwrap();
    // Anna knows an older token, which is not enough; the history brings her forward.
    let share = |token: &[u8], history: Option<&[u8]>, command: &[u8], person: &Person| {
        contribute_at(token, history, command, person, &mut at(NOW))
    };
    let entries = vec![newest.entry.as_slice()];
    let history = History { origin: &ready.token.bytes, entries, newest: &newest.token.bytes }.encode();
    refused(share(&ready.token.bytes, None, &command, all[0]), &Refusal::OtherState);
    let shares = [
        share(&ready.token.bytes, Some(&history), &command, all[0]).unwrap(),
        share(&newest.token.bytes, None, &command, all[1]).unwrap(),
    ];
    let shares = shares.map(|share| Contribution::decode(&share).unwrap());
    assert!(Opened::recover(&public, fresh, &command, &shares, &mut at(NOW)).is_ok());
    // What she knows is not on the way.
    let elsewhere = share(&founded.token.bytes, Some(&history), &command, all[0]).unwrap_err();
    assert!(elsewhere.detail().unwrap().contains("does not go through"), "{elsewhere}");
    let alone = sign(&blank, all[0]).unwrap();
    let quorum = Refusal::QuorumNotMet("officer 1 of 2 (1 of 2 persons)".to_owned());
    refused(share(&newest.token.bytes, None, &alone, all[0]), &quorum);
    let eve = Person::both("Eve");
    refused(share(&newest.token.bytes, None, &command, &eve), &Refusal::Unknown("the operator"));
}
