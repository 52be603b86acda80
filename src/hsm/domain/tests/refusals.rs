//! Every reason to refuse a command, one by one. Nothing changes, and the error says which.

use std::sync::Arc;

use super::super::super::command::Role;
use super::super::super::crypto::Entropy;
use super::super::PublicState;
use super::super::change::Change;
use super::super::command::{Proposal, SignedCommand};
use super::super::identity::{Identity, Party};
use super::super::log::Entry;
use super::super::refusal::Refusal;
use super::super::rules::MAJORITY;
use super::super::state::{Enrolment, Limits, Rule};
use super::ceremony::{DAY, NOW, Person, at, embedded, fleet, founding, governed, propose, refused, run, sign};
use crate::error::ErrorKind;

const ROTATE: Change = Change::RotateDomainKey { retain: None };

fn rule(command: &str, alternatives: &[&[(&str, u64)]]) -> Rule {
    let places = |a: &&[(&str, u64)]| a.iter().map(|(role, n)| ((*role).to_owned(), *n)).collect();
    Rule { command: command.to_owned(), alternatives: alternatives.iter().map(places).collect() }
}

fn quorum(text: &str) -> Refusal {
    Refusal::QuorumNotMet(text.to_owned())
}

fn trust_key() -> Change {
    Change::TrustKey { object: [7; 16], trusted: true }
}

#[test]
fn each_changed_byte_of_a_command() {
    let g = governed();
    let command = sign(propose(g.state(), trust_key(), &mut at(NOW)), &[&g.people[0], &g.people[1]]);
    assert!(g.opened().execute(&command, &mut at(NOW)).is_ok());
    for byte in 0..command.len() {
        let mut changed = command.clone();
        changed[byte] ^= 1 << (byte % 8);
        let kind = g.opened().execute(&changed, &mut at(NOW)).err().map(|e| e.kind());
        assert!(matches!(kind, Some(ErrorKind::FunctionRejected | ErrorKind::DataInvalid)), "byte {byte}: {kind:?}");
    }
    for len in (0..command.len()).step_by(5) {
        let kind = g.opened().execute(&command[..len], &mut at(NOW)).err().map(|e| e.kind());
        assert_eq!(kind, Some(ErrorKind::DataInvalid), "{len} bytes");
    }
    let trailing = [&command[..], &[0]].concat();
    refused(g.opened().execute(&trailing, &mut at(NOW)), &Refusal::Malformed("trailing bytes"));
}

#[test]
fn cbor_in_another_encoding() {
    let g = governed();
    let command = sign(propose(g.state(), trust_key(), &mut at(NOW)), &[&g.people[0], &g.people[1]]);
    // The tag's one byte head as two bytes; an indefinite array.
    let longer = [&[0xd9, 0, command[1]][..], &command[2..]].concat();
    assert_eq!(command[..2], [0xd8, 98]);
    refused(g.opened().execute(&longer, &mut at(NOW)), &Refusal::Malformed("a head is not shortest"));
    let mut indefinite = command.clone();
    assert_eq!(indefinite[2], 0x84);
    indefinite[2] = 0x9f;
    indefinite.push(0xff);
    let refusal = Refusal::Malformed("an indefinite or reserved length");
    refused(g.opened().execute(&indefinite, &mut at(NOW)), &refusal);
}

#[test]
fn one_signature_of_two() {
    let g = governed();
    refused(run(g.opened(), trust_key(), &[&g.people[0]], NOW), &quorum("officer 1 of 2 (1 of 2 persons)"));
    refused(run(g.opened(), trust_key(), &[], NOW), &quorum("officer 0 of 2 (0 of 2 persons)"));
}

#[test]
fn the_same_operator_twice() {
    let g = governed();
    let proposal = propose(g.state(), trust_key(), &mut at(NOW));
    let kid = g.people[0].signing.public().unwrap().kid();
    let mut command = SignedCommand::unsigned(proposal);
    command.sign(&g.people[0].signing).unwrap();
    refused(command.sign(&g.people[0].signing), &Refusal::RepeatedSigner(kid));
    // Not by the tool, but by hand: the signature's three items once more.
    let encoded = command.encode();
    let once = &encoded[encoded.len() - (1 + 2 + 39 + 1 + 2 + 96)..];
    assert_eq!(once[0], 0x83);
    let mut twice = [&encoded[..], once].concat();
    let count = encoded.len() - once.len() - 1;
    assert_eq!(twice[count], 0x81);
    twice[count] = 0x82;
    refused(g.opened().execute(&twice, &mut at(NOW)), &Refusal::RepeatedSigner(kid));
}

#[test]
fn one_person_fills_one_place() {
    let g = governed();
    let admit = || {
        let key = Person::both("host");
        let signing = key.signing.public().unwrap();
        let host = Identity { party: Party::Host, id: key.id, name: "web-1".to_owned(), signing, agreement: None };
        Change::AdmitHost { host: host.sign(&g.state().domain, &key.signing).unwrap() }
    };
    // Officer and operator, in one person.
    let alone = quorum("officer 1 of 1, operator 1 of 1 (1 of 2 persons)");
    refused(run(g.opened(), admit(), &[&g.people[0]], NOW), &alone);
    assert!(run(g.opened(), admit(), &[&g.people[0], &g.people[1]], NOW).is_ok());
    // The same person with a second set of keys.
    let again = Person { name: "Anna".to_owned(), ..Person::both("") };
    let change = Change::AddOperator { operator: again.claim(&g.state().domain), roles: again.roles.clone() };
    let more = run(g.opened(), change, &[&g.people[0], &g.people[1]], NOW).unwrap();
    refused(run(&more.opened, trust_key(), &[&g.people[0], &again], NOW), &quorum("officer 1 of 2 (1 of 2 persons)"));
    assert!(run(&more.opened, trust_key(), &[&again, &g.people[1]], NOW).is_ok());
}

#[test]
fn strangers_and_removed_operators() {
    let g = governed();
    let eve = Person::both("Eve");
    let unknown = |person: &Person| Refusal::UnknownSigner(person.signing.public().unwrap().kid());
    refused(run(g.opened(), trust_key(), &[&g.people[0], &g.people[1], &eve], NOW), &unknown(&eve));

    let dora = Person::both("Dora");
    let add = Change::AddOperator { operator: dora.claim(&g.state().domain), roles: dora.roles.clone() };
    let four = run(g.opened(), add, &[&g.people[0], &g.people[1]], NOW).unwrap();
    let early = sign(propose(four.opened.state(), trust_key(), &mut at(NOW)), &[&g.people[0], &g.people[2]]);
    let remove = Change::RemoveOperator { id: g.people[2].id };
    let fired = run(&four.opened, remove, &[&g.people[0], &g.people[1], &dora], NOW).unwrap();
    refused(run(&fired.opened, trust_key(), &[&g.people[0], &g.people[2]], NOW), &unknown(&g.people[2]));
    // What was signed before the removal is void.
    refused(fired.opened.execute(&early, &mut at(NOW)), &Refusal::OtherGovernance);
}

#[test]
fn a_majority_of_more_than_three() {
    let g = governed();
    let dora = Person::both("Dora");
    let add = Change::AddOperator { operator: dora.claim(&g.state().domain), roles: dora.roles.clone() };
    let four = run(g.opened(), add, &[&g.people[0], &g.people[1]], NOW).unwrap();
    let again = || Change::SetRule { rule: rule("rotate RSK", &[&[("officer", 2)]]) };
    let two = [&g.people[0], &g.people[1]];
    refused(run(&four.opened, again(), &two, NOW), &quorum("officer 2 of 3 (2 of 3 persons)"));
    assert!(run(&four.opened, again(), &[&g.people[0], &g.people[1], &dora], NOW).is_ok());
}

#[test]
fn the_wrong_time() {
    let g = governed();
    let people = [&g.people[0], &g.people[1]];
    let with = |not_before, not_after| {
        let mut proposal = propose(g.state(), trust_key(), &mut at(NOW));
        (proposal.not_before, proposal.not_after) = (not_before, not_after);
        sign(proposal, &people)
    };
    let execute = |command: &[u8], now| g.opened().execute(command, &mut at(now));
    refused(execute(&with(NOW + 1, NOW + DAY), NOW), &Refusal::NotYetValid);
    refused(execute(&with(NOW - DAY, NOW - 1), NOW), &Refusal::Expired);
    refused(execute(&with(NOW, NOW - 1), NOW), &Refusal::Validity);
    refused(execute(&with(NOW, NOW + 7 * DAY + 1), NOW), &Refusal::Validity);
    assert!(execute(&with(NOW, NOW + 7 * DAY), NOW).is_ok());

    // A clock that was set back revives nothing: the domain remembers its last change.
    let short = with(NOW, NOW + 10);
    let later = run(g.opened(), Change::RotateReplicationKey, &people, NOW + 100).unwrap();
    refused(later.opened.execute(&short, &mut at(NOW)), &Refusal::Expired);
}

#[test]
fn a_command_twice() {
    let g = governed();
    let command = sign(propose(g.state(), ROTATE, &mut at(NOW)), &[&g.people[0]]);
    let once = g.opened().execute(&command, &mut at(NOW)).unwrap();
    refused(once.opened.execute(&command, &mut at(NOW)), &Refusal::Replayed);
    // The nonce is forgotten when the command is void anyway.
    let later = run(&once.opened, ROTATE, &[&g.people[0]], NOW + 2 * DAY).unwrap();
    assert_eq!(later.opened.state().nonces.len(), 1);
    refused(later.opened.execute(&command, &mut at(NOW)), &Refusal::Expired);
}

#[test]
fn another_domain_or_government() {
    let (g, other) = (governed(), governed());
    let mut elsewhere = propose(g.state(), ROTATE, &mut at(NOW));
    elsewhere.domain = other.state().domain;
    refused(g.opened().execute(&sign(elsewhere, &[&g.people[0]]), &mut at(NOW)), &Refusal::OtherDomain);
    // Signed for another domain, shown as ours.
    let mut proposal = propose(g.state(), ROTATE, &mut at(NOW));
    proposal.domain = other.state().domain;
    let signed = SignedCommand::decode(&sign(proposal.clone(), &[&g.people[0]])).unwrap();
    proposal.domain = g.state().domain;
    let mut renamed = SignedCommand::unsigned(proposal);
    let kid = g.people[0].signing.public().unwrap().kid();
    let signature = g.people[0].signing.sign(&signed.to_sign(&kid)).unwrap();
    renamed.add(kid, signature).unwrap();
    refused(g.opened().execute(&renamed.encode(), &mut at(NOW)), &Refusal::BadSignature(kid));

    let command = sign(propose(g.state(), ROTATE, &mut at(NOW)), &[&g.people[0]]);
    let limits = Limits { offer: 61, ..Limits::default() };
    let moved = run(g.opened(), Change::SetLimits { limits }, &[&g.people[0], &g.people[1]], NOW).unwrap();
    refused(moved.opened.execute(&command, &mut at(NOW)), &Refusal::OtherGovernance);
}

#[test]
fn what_would_lock_everyone_out() {
    let g = governed();
    let people: Vec<&Person> = g.people.iter().collect();
    let set = |rule| run(g.opened(), Change::SetRule { rule }, &people, NOW);
    let locked = |command: &str| Refusal::LocksOut(command.to_owned());
    refused(set(rule("trust key", &[&[("auditor", 1)]])), &locked("trust key"));
    refused(set(rule("set rule", &[&[("officer", 4)]])), &locked("set rule"));
    refused(set(rule("rotate RSK", &[&[("officer", 2), ("operator", 2)]])), &locked("rotate RSK"));
    let strong = Refusal::RuleTooStrong("rotate RSK".to_owned());
    refused(set(rule("rotate RSK", &[&[("officer", 3)]])), &strong);
    refused(set(rule("make tea", &[&[("officer", 1)]])), &Refusal::BadRule("there is no such command"));
    refused(set(rule("set rule", &[])), &Refusal::BadRule("nobody would be needed"));
    // What changes rules is raised rule by rule; the least of them bounds all other rules.
    let raised = set(rule("set rule", &[&[("officer", 3)]])).unwrap();
    let again = |rule| run(&raised.opened, Change::SetRule { rule }, &people, NOW);
    assert!(again(rule("add operator", &[&[("officer", 3)]])).is_ok());
    refused(again(rule("rotate RSK", &[&[("officer", 3)]])), &strong);
    // An alternative that nobody can meet is no harm beside one that can be.
    assert!(set(rule("trust key", &[&[("auditor", 1)], &[("officer", 2)]])).is_ok());

    let remove = |opened: &_, n: usize| run(opened, Change::RemoveOperator { id: g.people[n].id }, &people[..2], NOW);
    let two = remove(g.opened(), 2).unwrap();
    refused(remove(&two.opened, 1), &locked("add operator"));
}

#[test]
fn a_founding_needs_all_its_founders() {
    let before = embedded();
    let g = governed();
    let people: Vec<&Person> = g.people.iter().collect();
    let state = before.opened.state();
    let found = |change, signers: &[&Person]| run(&before.opened, change, signers, NOW);
    let all = || founding(state, &g.people, Vec::new());
    refused(found(all(), &people[..2]), &quorum("every founding operator: 2 of 3"));
    refused(
        found(founding(state, &g.people[..1], Vec::new()), &people[..1]),
        &Refusal::LocksOut("add operator".into()),
    );
    refused(found(ROTATE, &people), &Refusal::NotFounded);
    refused(run(g.opened(), founding(g.state(), &g.people, Vec::new()), &people, NOW), &Refusal::AlreadyFounded);
    let Change::FoundDomain { mut members, operators, rules, .. } = all() else { unreachable!() };
    members[0].agreement = g.people[0].agreement.public().unwrap();
    let renamed = Change::FoundDomain { region: "eu".to_owned(), members, operators, rules };
    refused(found(renamed, &people), &Refusal::Arguments("they name other HSMs than the domain has"));
    assert!(found(all(), &people).is_ok());
}

#[test]
fn keys_without_proof_and_keys_in_use() {
    let g = governed();
    let people: Vec<&Person> = g.people.iter().collect();
    let (dora, eve) = (Person::both("Dora"), Person::both("Eve"));
    let add = |operator| {
        let roles = vec!["officer".to_owned()];
        run(g.opened(), Change::AddOperator { operator, roles }, &people, NOW)
    };
    // Eve names Dora's key as hers.
    let mut identity = dora.claim(&g.state().domain).identity;
    identity.name = "Eve".to_owned();
    let stolen = identity.sign(&g.state().domain, &eve.signing).unwrap();
    refused(add(stolen), &Refusal::NoPossession);
    refused(add(dora.claim(&[1; 16])), &Refusal::NoPossession);
    let host = Identity { party: Party::Host, agreement: None, ..dora.claim(&g.state().domain).identity };
    refused(add(host.sign(&g.state().domain, &dora.signing).unwrap()), &Refusal::NoPossession);
    let twin = Person { id: [9; 16], ..Person::both("Anna") };
    let mut identity = twin.claim(&g.state().domain).identity;
    identity.agreement = Some(g.people[0].agreement.public().unwrap());
    refused(add(identity.sign(&g.state().domain, &twin.signing).unwrap()), &Refusal::KeyInUse);
    refused(add(g.people[0].claim(&g.state().domain)), &Refusal::KeyInUse);
    assert!(add(dora.claim(&g.state().domain)).is_ok());
}

#[test]
fn two_tokens_for_one_version_and_old_ones() {
    let g = governed();
    let public = g.opened().public();
    let one = run(g.opened(), ROTATE, &[&g.people[0]], NOW).unwrap();
    let two = run(g.opened(), ROTATE, &[&g.people[1]], NOW).unwrap();
    let held = public.adopt_logged(&one.token, std::slice::from_ref(&one.entry), NOW).unwrap();
    let fork = held.adopt_logged(&two.token, &[two.entry], NOW).err().unwrap();
    let hex = |hash: &[u8]| hash.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let detail = fork.detail().unwrap();
    assert!(detail.contains(&hex(held.hash())) && detail.contains(&hex(two.opened.public().hash())), "{detail}");
    let old = held.adopt_logged(&g.founded.token, &[], NOW).err().unwrap();
    assert!(old.detail().unwrap().contains("older"));
}

#[test]
fn a_forged_or_missing_log() {
    let g = governed();
    let public = g.opened().public();
    let two = run(g.opened(), ROTATE, &[&g.people[0]], NOW).unwrap();
    let three = run(&two.opened, trust_key(), &[&g.people[0], &g.people[1]], NOW).unwrap();
    let adopt = |log: &[&Vec<u8>]| {
        public.adopt_logged(&three.token, &log.iter().map(|e| (*e).clone()).collect::<Vec<_>>(), NOW)
    };
    assert_eq!(adopt(&[&two.entry, &three.entry]).unwrap().hash(), three.opened.public().hash());
    refused(adopt(&[]), &Refusal::LogMissing);
    refused(adopt(&[&three.entry]), &Refusal::LogMissing);
    refused(adopt(&[&two.entry, &two.entry]), &Refusal::Replayed);
    refused(adopt(&[&three.entry, &two.entry]), &Refusal::LogMismatch);
    // A member that claims a change which nobody signed.
    let mut state = three.opened.state().clone();
    state.trusted_keys.insert([8; 16]);
    let secrets = three.opened.encoded_secrets_for_tests();
    let signer = three.opened.signing_for_tests();
    let (forged, _) = super::super::token::export(&state, &secrets, signer, &mut Entropy::System).unwrap();
    let log = [two.entry.clone(), three.entry.clone()];
    refused(public.adopt_logged(&forged, &log, NOW), &Refusal::LogMismatch);
    // Entries with what was made swapped, or dated otherwise.
    let mut entry = Entry::decode(&two.entry).unwrap();
    entry.at += 1;
    let dated = [entry.encode(), three.entry.clone()];
    assert!(public.adopt_logged(&three.token, &dated, NOW).is_err());
    entry.at = NOW + 61;
    refused(public.adopt_logged(&two.token, &[entry.encode()], NOW), &Refusal::InTheFuture);
    entry.at = g.state().changed - 1;
    refused(public.adopt_logged(&two.token, &[entry.encode()], NOW), &Refusal::Backdated);
}

#[test]
fn a_fleet_adopts_nothing_without_a_log() {
    let (founded, people) = fleet();
    let public = founded.opened.public();
    let next = run(&founded.opened, ROTATE, &[&people[0]], NOW).unwrap();
    refused(public.adopt(&next.token), &Refusal::LogMissing);
    let stranger = PublicState::of_fingerprint(&next.token, founded.opened.public().hash());
    assert!(stranger.err().unwrap().detail().unwrap().contains("fingerprint"));
    assert!(PublicState::of_fingerprint(&next.token, next.opened.public().hash()).is_ok());
    assert!(Arc::ptr_eq(&public.adopt(&founded.token).unwrap(), public));
}

#[test]
fn enrolments_that_do_not_fit() {
    let g = governed();
    let people = [&g.people[0], &g.people[1]];
    let create = |until| {
        let enrolment = Enrolment { code: None, until };
        run(g.opened(), Change::CreateUser { role: Role::User, enrolment }, &people, NOW)
    };
    let window = Refusal::Arguments("the time to set the PIN in has passed or is too long");
    refused(create(NOW - 1), &window);
    refused(create(NOW + 31 * DAY), &window);
    let made = create(NOW + DAY).unwrap();
    let set = |opened: &super::super::Opened, role, code: Option<&[u8]>, now| {
        opened.set_pin(&role, b"1234", code, super::CHEAP, &mut at(now))
    };
    refused(set(g.opened(), Role::User, None, NOW), &Refusal::NoEnrolment);
    refused(set(&made.opened, Role::User, None, NOW + DAY + 1), &Refusal::EnrolmentEnded);
    refused(set(&made.opened, Role::User, Some(b"guess"), NOW), &Refusal::EnrolmentCode);
    let (done, _) = set(&made.opened, Role::User, None, NOW).unwrap();
    refused(set(&done, Role::User, Some(b"code"), NOW), &Refusal::NoEnrolment);
    let so = Change::CreateUser { role: Role::So, enrolment: Enrolment { code: None, until: NOW + 1 } };
    refused(run(g.opened(), so, &people, NOW), &Refusal::Exists("the user"));
}

#[test]
fn expulsions_and_admissions_that_do_not_fit() {
    let g = governed();
    let people = [&g.people[0], &g.people[1]];
    let member = g.state().members[0].id;
    let expel = Change::ExpelHsm { id: member, retain: None };
    refused(run(g.opened(), expel, &people, NOW), &Refusal::LastMember);
    let own = super::super::opened::OwnKeys::generate(&mut Entropy::System).unwrap();
    let hsm = own.claim("second", &g.state().domain).unwrap();
    let recover = Change::RecoverDomain { hsm, version: g.state().version, state: *g.opened().public().hash() };
    refused(run(g.opened(), recover, &people, NOW), &Refusal::NotARecovery);
    let default: Proposal = propose(g.state(), ROTATE, &mut at(NOW));
    assert_eq!(g.state().rules.iter().find(|r| r.command == "set rule").unwrap().alternatives[0][0].1, MAJORITY);
    assert!(default.words(None).starts_with("Command: rotate domain key\n"));
}
