//! The known-answer vectors of commands, the log and recovery, from fixed inputs.

use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha384};

use super::super::super::command::Role;
use super::super::super::crypto::Entropy;
use super::super::cbor::{Decoder, Encoder};
use super::super::change::{Change, RegionKeys};
use super::super::command::{Proposal, SignedCommand};
use super::super::control::{ControlledKey, KeyControl, KeyUse};
use super::super::execute::{Executed, contribute};
use super::super::governance as history;
use super::super::identity::{Claim, Identity, Party};
use super::super::keys::{PrivateKey, PublicKey};
use super::super::log::{Entry, enrolment_hash};
use super::super::opened::OwnKeys;
use super::super::rules::MAJORITY;
use super::super::state::{Enrolment, Limits, Rule, StandingOrder, State, TrustedRegion};
use super::super::{Circumstances, Opened};
use super::CHEAP;
use super::ceremony::{DAY, NOW, Person, founding, three};
use super::vectors::{compare, hex};

fn seeded(seed: &str) -> Circumstances {
    Circumstances { entropy: Entropy::seeded(seed), now: NOW }
}

fn public(key: &PrivateKey) -> PublicKey {
    key.public().unwrap()
}

fn sorted_ids(people: &[Person]) -> Vec<[u8; 16]> {
    let mut ids: Vec<_> = people.iter().map(|p| p.id).collect();
    ids.sort_unstable();
    ids
}

fn region_keys(region: &str, count: u128) -> RegionKeys {
    let key_ids = (1..=count).map(|n| format!("mrk-{:032x}", n << 64)).collect();
    RegionKeys { key_ids, region: region.to_owned() }
}

/// One of each command, with arguments of every form.
pub(super) fn changes(state: &State, people: &[Person], entropy: &mut Entropy) -> Vec<Change> {
    let dora = Person::new(entropy, "Dora \"D\" Größe", &["auditor"]);
    let own = OwnKeys::generate(entropy).unwrap();
    let hsm = own.claim("hsm-2", &state.domain).unwrap();
    let key = PrivateKey::generate(entropy).unwrap();
    let id = entropy.array().unwrap();
    let host = Identity { party: Party::Host, id, name: "web-1".to_owned(), signing: public(&key), agreement: None };
    let host = host.sign(&state.domain, &key).unwrap();
    let rekeyed = Person { id: people[0].id, ..Person::new(entropy, &people[0].name, &["officer"]) };
    let code = Some(enrolment_hash(&state.domain, b"a code"));
    let order = StandingOrder { interval: 30 * DAY, window: DAY, retain: Some(90 * DAY), until: NOW + 365 * DAY };
    let alternatives =
        vec![vec![("auditor".to_owned(), 1), ("officer".to_owned(), MAJORITY)], vec![("officer".to_owned(), 3)]];
    let mut operators: Vec<_> = people.iter().map(|person| public(&person.signing).kid()).collect();
    operators.sort_unstable();
    let next = KeyControl { threshold: 3, operators: operators.clone(), revision: 2 };
    let controlled = ControlledKey {
        object: [7; 16],
        id: "01234567-89ab-4cde-8f01-23456789abcd".to_owned(),
        label: "root \"CA\"".to_owned(),
        control: KeyControl { threshold: 2, operators, revision: 1 },
    };
    let usage = KeyUse { action: "Sign".to_owned(), digest: Some([8; 32]), instance: [9; 16], count: 1 };
    let any = KeyUse { action: "Decrypt".to_owned(), digest: None, count: 1000, ..usage.clone() };
    let region = TrustedRegion { name: "us-west".to_owned(), domain: [3; 16], replication_keys: vec![public(&key)] };
    vec![
        founding(state, people, vec![Rule { command: "trust key".to_owned(), alternatives: alternatives.clone() }]),
        Change::AddOperator { operator: dora.claim(&state.domain), roles: dora.roles.clone() },
        Change::RemoveOperator { id: people[1].id },
        Change::RekeyOperator { operator: rekeyed.claim(&state.domain) },
        Change::SetRule { rule: Rule { command: "rotate RSK".to_owned(), alternatives } },
        Change::AdmitHsm { hsm: hsm.clone() },
        Change::ExpelHsm { id: own.id, retain: Some(7 * DAY) },
        Change::AdmitHost { host },
        Change::ExpelHost { id },
        Change::CreateUser { role: Role::Named("anna".to_owned()), enrolment: Enrolment { code, until: NOW + DAY } },
        Change::RemoveUser { role: Role::User },
        Change::ResetPin { role: Role::So, enrolment: Enrolment { code: None, until: NOW + 3600 } },
        Change::RotateDomainKey { retain: None },
        Change::ScheduleRetirement { key: state.domain_keys[0].id, at: Some(NOW + 90 * DAY) },
        Change::ScheduleRetirement { key: state.domain_keys[0].id, at: None },
        Change::RotateReplicationKey,
        Change::SetStandingOrder { order: Some(order) },
        Change::SetStandingOrder { order: None },
        Change::SetLimits { limits: Limits { offer: 61, ..Limits::default() } },
        Change::AllowSuite { suite: 2, allowed: true },
        Change::TrustRegion { region },
        Change::DistrustRegion { name: "us-west".to_owned() },
        Change::TrustKey { object: [7; 16], trusted: true },
        Change::RevokeKey { object: [7; 16], generation: 70_000 },
        Change::MakeRecoverySet { threshold: 2, operators: sorted_ids(people) },
        Change::RecoverDomain { hsm, version: state.version, state: state.hash() },
        Change::GiveUpReplica { keys: region_keys("us-west", 2) },
        Change::EmergencyPromote { keys: region_keys(&state.region, 1) },
        Change::EmergencyPromote { keys: region_keys("us-west", 3) },
        Change::UseKey { key: controlled.clone(), usage },
        Change::UseKey { key: controlled.clone(), usage: any },
        Change::SetDualControl { key: controlled, control: next },
    ]
}

#[test]
fn commands() {
    let mut c = seeded("commands");
    let (opened, _, _) = Opened::found("demo", "00112233445566aa", b"so-pin-1", CHEAP, &mut c).unwrap();
    let people = three(&mut c.entropy);
    let mut vectors = Vec::new();
    for (n, change) in changes(opened.state(), &people, &mut c.entropy).into_iter().enumerate() {
        let mut arguments = Encoder::new();
        change.encode_arguments(&mut arguments);
        let arguments = arguments.finish();
        let mut d = Decoder::new(&arguments);
        assert_eq!(Change::decode(change.name(), &mut d).unwrap(), change);
        assert!(d.end().is_ok());
        let proposal = Proposal::new(opened.state(), change, (NOW, NOW + DAY), &mut c.entropy).unwrap();
        let mut command = SignedCommand::unsigned(proposal.clone());
        let signers = &people[..n % 4];
        signers.iter().for_each(|person| command.sign(&person.signing).unwrap());
        assert_eq!(SignedCommand::decode(&command.encode()).unwrap(), command);
        vectors.push(json!({
            "command": proposal.change.name(),
            "domain": hex(&proposal.domain),
            "governance": hex(&proposal.governance),
            "arguments": hex(&arguments),
            "not_before": proposal.not_before,
            "not_after": proposal.not_after,
            "nonce": hex(&proposal.nonce),
            "signers": signers.iter().map(|p| hex(p.signing.scalar())).collect::<Vec<_>>(),
            "signed": hex(&command.encode()),
            "words": proposal.words(Some(opened.state())),
        }));
    }
    compare("command.json", vectors.into());
}

#[test]
fn identities() {
    let mut entropy = Entropy::seeded("identities");
    let vectors = [(Party::Operator, "Anna"), (Party::Host, "web-1"), (Party::Hsm, "")].map(|(party, name)| {
        let domain = entropy.array().unwrap();
        let (key, other) = (PrivateKey::generate(&mut entropy).unwrap(), PrivateKey::generate(&mut entropy).unwrap());
        let agreement = (party != Party::Host).then(|| public(&other));
        let id = entropy.array().unwrap();
        let identity = Identity { party, id, name: name.to_owned(), signing: public(&key), agreement };
        let claim = identity.sign(&domain, &key).unwrap();
        json!({
            "party": party as u8,
            "domain": hex(&domain),
            "id": hex(&id),
            "name": name,
            "signing_private": hex(key.scalar()),
            "agreement": agreement.map(|key| hex(key.spki())),
            "message": hex(claim.message()),
        })
    });
    compare("identity.json", vectors.to_vec().into());
}

struct History {
    circumstances: Circumstances,
    people: Vec<Person>,
    entries: Vec<Vec<u8>>,
    steps: Vec<Value>,
}

impl History {
    fn sign(&mut self, state: &State, change: Change, signers: &[usize]) -> SignedCommand {
        let validity = (self.circumstances.now, self.circumstances.now + DAY);
        let proposal = Proposal::new(state, change, validity, &mut self.circumstances.entropy).unwrap();
        let mut command = SignedCommand::unsigned(proposal);
        signers.iter().for_each(|n| command.sign(&self.people[*n].signing).unwrap());
        command
    }

    fn command(&mut self, opened: &Opened, change: Change, signers: &[usize]) -> Executed {
        let command = self.sign(opened.state(), change, signers);
        let executed = opened.execute(&command.encode(), &mut self.circumstances).unwrap();
        self.keep(&executed.entry, executed.opened.state(), signers);
        executed
    }

    fn keep(&mut self, entry: &[u8], state: &State, signers: &[usize]) {
        let mut persons: Vec<_> = signers.iter().map(|n| self.people[*n].name.clone()).collect();
        persons.sort();
        self.entries.push(entry.to_vec());
        self.steps.push(json!({
            "entry": hex(entry),
            "state": hex(&state.encode()),
            "hash": hex(&state.hash()),
            "signers": persons,
            "version": state.version,
            "at": state.changed,
        }));
    }
}

/// A log with every kind of entry, from the state that the SO governed.
#[test]
fn history() {
    let mut circumstances = seeded("history");
    let (first, origin, _) = Opened::found("demo", "00112233445566aa", b"so-pin-1", CHEAP, &mut circumstances).unwrap();
    let people = three(&mut circumstances.entropy);
    let mut h = History { circumstances, people, entries: Vec::new(), steps: Vec::new() };
    let founding = founding(first.state(), &h.people, Vec::new());
    let mut now = h.command(&first, founding, &[0, 1, 2]).opened;

    let code = enrolment_hash(&now.state().domain, b"a code");
    let enrolment = Enrolment { code: Some(code), until: NOW + DAY };
    now = h.command(&now, Change::CreateUser { role: Role::User, enrolment }, &[0, 1]).opened;
    let (opened, change) = now.set_pin(&Role::User, b"1234", Some(b"a code"), CHEAP, &mut h.circumstances).unwrap();
    h.keep(&change.entries[0], opened.state(), &[]);
    let order = StandingOrder { interval: 30 * DAY, window: DAY, retain: Some(DAY), until: NOW + 365 * DAY };
    now = h.command(&opened, Change::SetStandingOrder { order: Some(order) }, &[1, 2]).opened;
    let make = Change::MakeRecoverySet { threshold: 2, operators: sorted_ids(&h.people) };
    now = h.command(&now, make, &[0, 2]).opened;
    for later in [30 * DAY, 31 * DAY] {
        h.circumstances.now = NOW + later;
        let kept = now.housekeeping(&mut h.circumstances).unwrap().unwrap();
        h.keep(&kept.entry, kept.opened.state(), &[]);
        now = kept.opened;
    }
    let dora = Person::new(&mut h.circumstances.entropy, "Dora", &["officer"]);
    let add = Change::AddOperator { operator: dora.claim(&now.state().domain), roles: dora.roles.clone() };
    now = h.command(&now, add, &[0, 1]).opened;
    now = h.command(&now, Change::RemoveOperator { id: h.people[1].id }, &[0, 1, 2]).opened;
    now = h.command(&now, Change::RotateReplicationKey, &[2]).opened;

    // Its HSM is lost; another takes its place, and the SO's PIN is the first to be set again.
    let public = now.public();
    let (claim, sealed) = Opened::begin_recovery(public, b"so-pin-2", CHEAP, &mut h.circumstances).unwrap();
    let hsm = Claim::decode(&claim).unwrap();
    let change = Change::RecoverDomain { hsm, version: now.state().version, state: *public.hash() };
    let command = h.sign(now.state(), change, &[0, 2]).encode();
    let shares = [0, 2].map(|n| {
        contribute(public, &command, &h.people[n].agreement, &mut h.circumstances).map(|share| share.encode()).unwrap()
    });
    let pin = b"so-pin-2";
    let (back, change) =
        Opened::finish_recovery(public, pin, CHEAP, &sealed, &command, &shares, &mut h.circumstances).unwrap();
    let recovered = Entry::decode(&change.entries[0]).unwrap().make(now.state()).unwrap();
    h.keep(&change.entries[0], &recovered, &[0, 2]);
    h.keep(&change.entries[1], back.state(), &[]);
    let keys = back.own_keys_for_tests();
    compare(
        "recovery-keys.json",
        json!([{
            "domain": hex(&back.state().domain),
            "serial": back.state().serial,
            "pin": hex(pin),
            "id": hex(&back.state().members[0].id),
            "signing_private": hex(keys[0].scalar()),
            "agreement_private": hex(keys[1].scalar()),
            "claim": hex(&claim),
            "sealed": hex(&sealed),
        }]),
    );
    compare("log.json", json!({ "genesis": hex(&first.state().encode()), "steps": h.steps }));
    let entries = h.entries.iter().map(Vec::as_slice).collect();
    let file = history::History { origin: &origin.bytes, entries, newest: &change.domain.bytes }.encode();
    let hash = hex(back.public().hash());
    compare("history.json", json!([{ "history": hex(&file), "hash": hash }]));
}

/// From an embedded domain to a fleet, with the PIN of a user who stays.
#[test]
fn fleet_log() {
    let mut circumstances = seeded("fleet log");
    let (first, _, _) = Opened::found("demo", "00112233445566aa", b"so-pin-1", CHEAP, &mut circumstances).unwrap();
    let people = three(&mut circumstances.entropy);
    let mut h = History { circumstances, people, entries: Vec::new(), steps: Vec::new() };
    let founding = founding(first.state(), &h.people, Vec::new());
    let embedded = h.command(&first, founding, &[0, 1, 2]).opened;
    let own = Arc::new(OwnKeys::generate(&mut h.circumstances.entropy).unwrap());
    let hsm = own.claim("rack 1", &embedded.state().domain).unwrap();
    let admitted = h.command(&embedded, Change::AdmitHsm { hsm }, &[0, 1]).opened;
    let hsm = Opened::as_member(Arc::clone(admitted.public()), own).unwrap();
    let expel = Change::ExpelHsm { id: embedded.state().members[0].id, retain: Some(DAY) };
    let expelled = h.command(&hsm, expel, &[0, 1]);
    let (after, change) = expelled.opened.set_pin(&Role::So, b"so-pin-2", None, CHEAP, &mut h.circumstances).unwrap();
    h.keep(&change.entries[0], after.state(), &[]);
    compare(
        "fleet-log.json",
        json!({
            "genesis": hex(&first.state().encode()), "steps": h.steps,
            "tokens": [hex(&expelled.token.bytes), hex(&change.domain.bytes)],
        }),
    );
}

#[test]
fn recovery() {
    let mut circumstances = seeded("recovery");
    let own = Arc::new(OwnKeys::generate(&mut circumstances.entropy).unwrap());
    let (first, _) = Opened::provision("fleet", own, &mut circumstances).unwrap();
    let people = three(&mut circumstances.entropy);
    let mut h = History { circumstances, people, entries: Vec::new(), steps: Vec::new() };
    let founding = founding(first.state(), &h.people, Vec::new());
    let founded = h.command(&first, founding, &[0, 1, 2]).opened;
    let make = Change::MakeRecoverySet { threshold: 2, operators: sorted_ids(&h.people) };
    let ready = h.command(&founded, make, &[0, 1]);
    let state = ready.opened.state();

    let fresh = Arc::new(OwnKeys::generate(&mut h.circumstances.entropy).unwrap());
    let hsm = fresh.claim("fresh", &state.domain).unwrap();
    let change = Change::RecoverDomain { hsm, version: state.version, state: *ready.opened.public().hash() };
    let command = h.sign(state, change, &[0, 2]).encode();
    let contributions: Vec<_> = (0..3)
        .map(|n| contribute(ready.opened.public(), &command, &h.people[n].agreement, &mut h.circumstances).unwrap())
        .collect();
    let set = state.recovery.as_ref().unwrap();
    let hash = Sha384::digest(&command).into();
    let key = set.combine(&state.domain, &hash, &fresh.agreement, &contributions[1..]).unwrap();
    let recovered =
        Opened::recover(ready.opened.public(), Arc::clone(&fresh), &command, &contributions, &mut h.circumstances);
    compare(
        "recovery.json",
        json!([{
            "token": hex(&ready.token.bytes),
            "agreement_privates": h.people.iter().map(|p| hex(p.agreement.scalar())).collect::<Vec<_>>(),
            "recovery_private": hex(key.scalar()),
            "secrets": hex(ready.opened.encoded_secrets_for_tests().expose()),
            "command": hex(&command),
            "hsm_agreement_private": hex(fresh.agreement.scalar()),
            "contributions": contributions.iter().map(|c| hex(&c.encode())).collect::<Vec<_>>(),
            "recovered": hex(&recovered.unwrap().token.bytes),
        }]),
    );
}
