//! What commands do, in an embedded domain and between HSMs that exchange only bytes.

use std::sync::Arc;

use super::super::super::command::{ObjectId, Role};
use super::super::super::crypto::Entropy;
use super::super::change::{Change, RegionKeys, date};
use super::super::execute::contribute;
use super::super::identity::{Claim, Identity, Party};
use super::super::log::{self, Entry, enrolment_hash};
use super::super::opened::OwnKeys;
use super::super::refusal::Refusal;
use super::super::seal::key_id_of;
use super::super::state::{Enrolment, KeyStatus, StandingOrder, TrustedRegion};
use super::super::{Kind, Opened, PublicState};
use super::CHEAP;
use super::ceremony::{DAY, NOW, Person, SO_PIN, at, fleet, governed, propose, refused, run, sign};
use crate::error::ErrorKind;

const OBJECT: ObjectId = [7; 16];

fn seal(opened: &Opened) -> Vec<u8> {
    opened.sealer().seal(Kind::Key, &OBJECT, 1, b"key").unwrap()
}

fn opens(opened: &Opened, record: &[u8]) -> bool {
    opens_at(opened, record, NOW)
}

fn opens_at(opened: &Opened, record: &[u8], now: u64) -> bool {
    let sealer = opened.sealer_for(&key_id_of(record).unwrap(), &OBJECT, 1, now);
    sealer.is_ok_and(|s| s.open(Kind::Key, &OBJECT, 1, record).is_ok_and(|key| key.expose() == b"key"))
}

#[test]
fn from_so_to_quorum() {
    let g = governed();
    let (before, after) = (g.before.opened.state(), g.state());
    assert_eq!((after.version, after.region.as_str()), (2, "eu-north"));
    // The Region has its name now, and what was sealed under the old one still opens.
    let regions: Vec<_> =
        after.domain_keys.iter().map(|k| (k.status == KeyStatus::Active, k.region.as_str())).collect();
    assert!(regions.contains(&(true, "eu-north")) && regions.contains(&(false, before.region.as_str())));
    let record = seal(&g.before.opened);
    assert!(opens(g.opened(), &record));
    // The SO PIN opens the token, and sets no PIN any more.
    let public = g.before.opened.public().adopt(&g.founded.token).unwrap();
    let so = Opened::with_pin(&public, &g.before.so_pin, SO_PIN).unwrap();
    assert!(opens(&so, &record));
    refused(so.change_pin(&Role::User, b"1234", CHEAP, &mut at(NOW)), &Refusal::NoEnrolment);
    let direct = so.next_version(&mut at(NOW), |_| Ok(()));
    assert_eq!(direct.err().unwrap().kind(), ErrorKind::TokenWriteProtected);
    // An instance that has the log takes the founding by it, too.
    let log = [g.founded.entry.clone()];
    assert!(g.before.opened.public().adopt_logged(&g.founded.token, &log, NOW).is_ok());
    assert_eq!(g.before.token.version, 1);
}

#[test]
fn a_pin_is_set_by_its_holder() {
    let g = governed();
    let people = [&g.people[0], &g.people[1]];
    let code = b"a code that only Uma knows";
    let enrolment = Enrolment { code: Some(enrolment_hash(&g.state().domain, code)), until: NOW + DAY };
    let create = Change::CreateUser { role: Role::User, enrolment };
    let created = run(g.opened(), create, &people, NOW).unwrap();
    let set = |opened: &Opened, pin: &[u8], code: Option<&[u8]>| {
        opened.set_pin(&Role::User, pin, code, CHEAP, &mut at(NOW)).unwrap()
    };
    let (enrolled, change) = set(&created.opened, b"first", Some(code));
    let public = created.opened.public().adopt_logged(&change.domain, &change.entries, NOW).unwrap();
    let uma = Opened::with_pin(&public, &change.pins[0], b"first").unwrap();
    // Later she changes it herself.
    let (changed, second) = uma.change_pin(&Role::User, b"second", CHEAP, &mut at(NOW)).unwrap();
    let public = enrolled.public().adopt_logged(&second.domain, &second.entries, NOW).unwrap();
    assert!(Opened::with_pin(&public, &second.pins[0], b"second").is_ok());
    // A reset ends the PIN at once, before the new one is there.
    let enrolment = Enrolment { code: None, until: NOW + DAY };
    let reset = run(&changed, Change::ResetPin { role: Role::User, enrolment }, &people, NOW).unwrap();
    let error = Opened::with_pin(reset.opened.public(), &second.pins[0], b"second").err().unwrap();
    assert_eq!(error.kind(), ErrorKind::UserPinNotInitialized);
    let (_, third) = set(&reset.opened, b"third", None);
    assert_eq!([&change, &second, &third].map(|change| change.pins[0].generation), [2, 3, 5]);
    let removed = run(&changed, Change::RemoveUser { role: Role::User }, &people, NOW).unwrap();
    assert!(removed.opened.state().user(&Role::User).is_none());
}

#[test]
fn domain_keys_rotate_and_retire() {
    let g = governed();
    let first = seal(g.opened());
    let rotate = Change::RotateDomainKey { retain: Some(90 * DAY) };
    let rotated = run(g.opened(), rotate, &[&g.people[0]], NOW).unwrap();
    let second = seal(&rotated.opened);
    assert!(opens(&rotated.opened, &first) && opens(&rotated.opened, &second));
    let old = key_id_of(&first).unwrap();
    // It holds whether or not somebody made the entry.
    assert!(opens_at(&rotated.opened, &first, NOW + 90 * DAY - 1));
    assert!(!opens_at(&rotated.opened, &first, NOW + 90 * DAY));
    assert!(opens_at(&rotated.opened, &second, NOW + 90 * DAY));
    // The deadline itself needs no signature, and does not come early.
    assert!(rotated.opened.housekeeping(&mut at(NOW + 90 * DAY - 1)).unwrap().is_none());
    let retired = rotated.opened.housekeeping(&mut at(NOW + 90 * DAY)).unwrap().unwrap();
    assert!(!opens(&retired.opened, &first) && opens(&retired.opened, &second));
    let public = rotated.opened.public();
    let log = [retired.entry.clone()];
    refused(public.adopt_logged(&retired.token, &log, NOW), &Refusal::InTheFuture);
    assert!(public.adopt_logged(&retired.token, &log, NOW + 90 * DAY).is_ok());
    // Operators may put it off.
    let later = Change::ScheduleRetirement { key: old, at: None };
    let kept = run(&rotated.opened, later, &[&g.people[0]], NOW).unwrap();
    assert!(kept.opened.housekeeping(&mut at(NOW + 91 * DAY)).unwrap().is_none());
}

#[test]
fn a_standing_order_rotates_on_time() {
    let g = governed();
    let order = StandingOrder { interval: 30 * DAY, window: DAY, retain: Some(90 * DAY), until: NOW + 365 * DAY };
    let change = Change::SetStandingOrder { order: Some(order) };
    let ordered = run(g.opened(), change, &[&g.people[0], &g.people[1]], NOW).unwrap();
    let due = |now| log::rotation_is_due(ordered.opened.state(), now);
    assert!(!due(NOW + 30 * DAY - 1) && due(NOW + 30 * DAY) && due(NOW + 31 * DAY));
    assert!(!due(NOW + 31 * DAY + 1) && due(NOW + 60 * DAY) && !due(NOW + 390 * DAY));
    let rotated = ordered.opened.housekeeping(&mut at(NOW + 30 * DAY)).unwrap().unwrap();
    assert!(rotated.opened.housekeeping(&mut at(NOW + 30 * DAY)).unwrap().is_none());
    assert_ne!(rotated.opened.sealer().key_id(), ordered.opened.sealer().key_id());
    let public = ordered.opened.public();
    assert!(public.adopt_logged(&rotated.token, std::slice::from_ref(&rotated.entry), NOW + 40 * DAY).is_ok());
    // A member that rotates before it is due.
    let mut entry = Entry::decode(&rotated.entry).unwrap();
    entry.at = NOW + 29 * DAY;
    let early = public.adopt_logged(&rotated.token, &[entry.encode()], NOW + 40 * DAY);
    refused(early, &Refusal::NoStandingOrder);
}

#[test]
fn the_other_commands() {
    let g = governed();
    let people: Vec<&Person> = g.people.iter().collect();
    let go = |change| run(g.opened(), change, &people, NOW).unwrap().opened;
    let key = Person::both("web-1");
    let signing = key.signing.public().unwrap();
    let host = Identity { party: Party::Host, id: key.id, name: "web-1".to_owned(), signing, agreement: None };
    let admitted = go(Change::AdmitHost { host: host.sign(&g.state().domain, &key.signing).unwrap() });
    assert_eq!(admitted.state().hosts[0].name, "web-1");
    let expelled = run(&admitted, Change::ExpelHost { id: key.id }, &people, NOW).unwrap();
    assert!(expelled.opened.state().hosts.is_empty());

    let replication_keys = vec![signing];
    let region = TrustedRegion { name: "us-west".to_owned(), domain: [3; 16], replication_keys };
    let trusting = go(Change::TrustRegion { region });
    assert_ne!(trusting.state().governance(), g.state().governance());
    let name = "us-west".to_owned();
    assert!(
        run(&trusting, Change::DistrustRegion { name }, &people, NOW)
            .unwrap()
            .opened
            .state()
            .trusted_regions
            .is_empty()
    );

    let keys = |region: &str| RegionKeys { key_ids: vec![format!("mrk-{:032x}", 7)], region: region.to_owned() };
    // The state stays as it is, but for version, log and nonce.
    let given_up = go(Change::GiveUpReplica { keys: keys("us-west") });
    let mut same = given_up.state().clone();
    let held = g.state();
    (same.version, same.previous, same.log_head) = (held.version, held.previous, held.log_head);
    same.nonces.clone_from(&held.nonces);
    assert_eq!((&same, given_up.state().version), (held, held.version + 1));
    let promote = |on: &Opened, region: &str| run(on, Change::EmergencyPromote { keys: keys(region) }, &people, NOW);
    assert!(promote(g.opened(), &held.region).is_ok() && promote(&trusting, "us-west").is_ok());
    refused(promote(g.opened(), "us-west"), &Refusal::Unknown("the Region"));
    assert!(run(g.opened(), Change::GiveUpReplica { keys: keys(&held.region) }, &people, NOW).is_err());
    assert!(run(g.opened(), Change::GiveUpReplica { keys: keys("us-west") }, &people[..1], NOW).is_err());

    let trusted = go(Change::TrustKey { object: OBJECT, trusted: true });
    assert!(trusted.state().trusted_keys.contains(&OBJECT));
    let record = seal(g.opened());
    let revoked = go(Change::RevokeKey { object: OBJECT, generation: 2 });
    assert!(opens(g.opened(), &record) && !opens(&revoked, &record));
    assert_eq!(go(Change::AllowSuite { suite: 2, allowed: true }).state().suites, [1, 2]);

    let rotated = go(Change::RotateReplicationKey);
    let again = run(&rotated, Change::RotateReplicationKey, &people, NOW).unwrap().opened;
    assert_eq!((rotated.state().replication_keys.len(), again.state().replication_keys.len()), (2, 2));

    let rekeyed = Person { id: g.people[0].id, ..Person::both("Anna") };
    let change = Change::RekeyOperator { operator: rekeyed.claim(&g.state().domain) };
    let rekeyed_domain = go(change);
    let trust = || Change::TrustKey { object: OBJECT, trusted: true };
    assert!(run(&rekeyed_domain, trust(), &[&rekeyed, people[1]], NOW).is_ok());
    assert!(run(&rekeyed_domain, trust(), &[people[0], people[1]], NOW).is_err());
}

#[test]
fn the_history_tells_who_approved() {
    let g = governed();
    let rotated = run(g.opened(), Change::RotateDomainKey { retain: None }, &[&g.people[2]], NOW).unwrap();
    let first = Entry::decode(&g.founded.entry).unwrap().follow(g.before.opened.state(), NOW).unwrap();
    assert_eq!(first.signers.len(), 3);
    let second = Entry::decode(&rotated.entry).unwrap().follow(&first.state, NOW).unwrap();
    assert_eq!(second.signers.iter().map(|o| o.person.as_str()).collect::<Vec<_>>(), ["Cleo"]);
    assert_eq!(second.state, *rotated.opened.state());
}

#[test]
fn a_recovery_set_keeps_its_threshold() {
    let (founded, people) = fleet();
    let all: Vec<&Person> = people.iter().collect();
    let mut ids: Vec<_> = people.iter().map(|p| p.id).collect();
    ids.sort_unstable();
    let make = |threshold| Change::MakeRecoverySet { threshold, operators: ids.clone() };
    let ready = run(&founded.opened, make(2), &all, NOW).unwrap();
    let removed = run(&ready.opened, Change::RemoveOperator { id: people[2].id }, &all, NOW).unwrap();
    let set = removed.opened.state().recovery.as_ref().unwrap();
    assert_eq!((set.shares.len(), set.threshold()), (2, 2));
    assert_ne!(removed.opened.state().recipients, ready.opened.state().recipients);
    let strict = run(&founded.opened, make(3), &all, NOW).unwrap();
    let refusal = Refusal::ShareHolders { threshold: 3, holders: 2 };
    refused(run(&strict.opened, Change::RemoveOperator { id: people[2].id }, &all, NOW), &refusal);
    refused(run(&founded.opened, make(1), &all, NOW), &Refusal::ShareHolders { threshold: 1, holders: 3 });
}

#[test]
fn an_embedded_domain_is_recovered_too() {
    let g = governed();
    let people: Vec<&Person> = g.people.iter().collect();
    let mut ids: Vec<_> = people.iter().map(|p| p.id).collect();
    ids.sort_unstable();
    let enrolment = || Enrolment { code: None, until: NOW + DAY };
    let create = Change::CreateUser { role: Role::User, enrolment: enrolment() };
    let with_user = run(g.opened(), create, &people, NOW).unwrap().opened;
    let (with_user, user) = with_user.set_pin(&Role::User, b"user", None, CHEAP, &mut at(NOW)).unwrap();
    refused(
        Opened::begin_recovery(with_user.public(), b"new", CHEAP, &mut at(NOW)),
        &Refusal::Unknown("the recovery set"),
    );
    let make = Change::MakeRecoverySet { threshold: 2, operators: ids };
    let ready = run(&with_user, make, &people, NOW).unwrap();
    let record = seal(&ready.opened);
    let public = PublicState::first_seen(&ready.token).unwrap();

    let (claim, keys) = Opened::begin_recovery(&public, b"new", CHEAP, &mut at(NOW)).unwrap();
    let hsm = Claim::decode(&claim).unwrap();
    let change = Change::RecoverDomain { hsm: hsm.clone(), version: public.state().version, state: *public.hash() };
    let command = sign(propose(public.state(), change, &mut at(NOW)), &people[..2]);
    let share = |n: usize| contribute(&public, &command, &people[n].agreement, &mut at(NOW)).unwrap().encode();
    let finish = |pin: &[u8], keys: &[u8], shares: &[Vec<u8>], now| {
        Opened::finish_recovery(&public, pin, CHEAP, keys, &command, shares, &mut at(now))
    };
    let shares = [share(0), share(2)];
    let wrong = finish(b"wrong", &keys, &shares, NOW).err().unwrap();
    assert_eq!(wrong.kind(), ErrorKind::PinIncorrect);
    refused(finish(b"new", &keys, &shares[..1], NOW), &Refusal::TooFewShares { have: 1, need: 2 });
    // Keys of another attempt are not those that the command names; changed ones are none.
    let (_, others) = Opened::begin_recovery(&public, b"new", CHEAP, &mut at(NOW)).unwrap();
    refused(finish(b"new", &others, &shares, NOW), &Refusal::NotARecovery);
    for byte in (0..keys.len()).step_by(29) {
        let mut changed = keys.clone();
        changed[byte] ^= 1;
        let kind = finish(b"new", &changed, &shares, NOW).err().map(|error| error.kind());
        assert!(matches!(kind, Some(ErrorKind::TokenNotRecognized | ErrorKind::PinIncorrect)), "{byte}: {kind:?}");
    }

    let (back, change) = finish(b"new", &keys, &shares, NOW).unwrap();
    assert!(opens(&back, &record));
    assert_eq!((change.base(), change.domain.version), (Some(ready.token.version), ready.token.version + 2));
    assert_eq!((change.entries.len(), &change.pins[0].role, &change.removed[..]), (2, &Role::So, &[Role::User][..]));
    let state = back.state();
    assert_eq!((state.members.len(), state.members[0].id), (1, hsm.identity.id));
    let user_now = state.user(&Role::User).unwrap();
    assert!(user_now.agreement.is_none() && user_now.enrolment.is_none());

    // Whoever holds the state before takes both steps by the log, and neither alone.
    let adopted = public.adopt_logged(&change.domain, &change.entries, NOW).unwrap();
    refused(public.adopt_logged(&change.domain, &change.entries[..1], NOW), &Refusal::LogMissing);
    assert!(opens(&Opened::with_pin(&adopted, &change.pins[0], b"new").unwrap(), &record));
    // The old HSM, if it turns up again, and the old PINs are shut out.
    assert!(ready.opened.advance(Arc::clone(&adopted)).is_err());
    let gone = |record| Opened::with_pin(&adopted, record, SO_PIN).err().unwrap().kind();
    assert_eq!(gone(&g.before.so_pin), ErrorKind::TokenNotRecognized);
    assert_eq!(gone(&user.pins[0]), ErrorKind::UserPinNotInitialized);

    // The user comes back by command; nobody else sets his PIN.
    refused(back.set_pin(&Role::User, b"user", None, CHEAP, &mut at(NOW)), &Refusal::NoEnrolment);
    let reset = Change::ResetPin { role: Role::User, enrolment: enrolment() };
    let reset = run(&back, reset, &people, NOW).unwrap().opened;
    let (_, change) = reset.set_pin(&Role::User, b"user", None, CHEAP, &mut at(NOW)).unwrap();
    let public = PublicState::first_seen(&change.domain).unwrap();
    assert!(opens(&Opened::with_pin(&public, &change.pins[0], b"user").unwrap(), &record));
}

/// The enrolment that a recovery opens is the SO's, ends, and is an embedded domain's only.
#[test]
fn a_recovery_lets_the_so_set_a_pin() {
    let g = governed();
    let people: Vec<&Person> = g.people.iter().collect();
    let mut ids: Vec<_> = people.iter().map(|p| p.id).collect();
    ids.sort_unstable();
    let make = Change::MakeRecoverySet { threshold: 2, operators: ids };
    let ready = run(g.opened(), make, &people, NOW).unwrap();
    let public = ready.opened.public();
    let fresh = Arc::new(OwnKeys::generate(&mut Entropy::System).unwrap());
    let hsm = fresh.claim("fresh", &public.state().domain).unwrap();
    let change = Change::RecoverDomain { hsm, version: public.state().version, state: *public.hash() };
    let command = sign(propose(public.state(), change, &mut at(NOW)), &people[..2]);
    let shares = [0, 2].map(|n| contribute(public, &command, &people[n].agreement, &mut at(NOW)).unwrap());
    let back = Opened::recover(public, fresh, &command, &shares, &mut at(NOW)).unwrap();
    let enrolment = Some(Enrolment { code: None, until: NOW + 3600 });
    assert_eq!(back.opened.state().user(&Role::So).unwrap().enrolment, enrolment);
    let set = |now| back.opened.set_pin(&Role::So, b"new", None, CHEAP, &mut at(now));
    assert!(set(NOW + 3600).is_ok());
    refused(set(NOW + 3601), &Refusal::EnrolmentEnded);
}

#[test]
fn words_cannot_be_forged_by_names() {
    let g = governed();
    let eve = Person { name: "Eve\n  Valid: \u{202e}for ever".to_owned(), ..Person::both("") };
    let change = Change::AddOperator { operator: eve.claim(&g.state().domain), roles: eve.roles.clone() };
    let words = propose(g.state(), change, &mut at(NOW)).words(None);
    assert_eq!(words.lines().count(), 6, "{words}");
    assert!(words.contains(r#""Eve\n  Valid: \u{202e}for ever""#), "{words}");
    assert!(words.contains("Valid: 2027-01-15 07:59:00 UTC to 2027-01-16 08:00:00 UTC"), "{words}");
    let remove = propose(g.state(), Change::RemoveOperator { id: g.people[0].id }, &mut at(NOW));
    assert!(remove.words(Some(g.state())).contains("\"Anna\""));
    for (time, text) in [
        (0, "1970-01-01 00:00:00 UTC"),
        (951_782_399, "2000-02-28 23:59:59 UTC"),
        (951_782_400, "2000-02-29 00:00:00 UTC"),
        (4_107_542_399, "2100-02-28 23:59:59 UTC"),
        (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        (253_402_300_799, "9999-12-31 23:59:59 UTC"),
    ] {
        assert_eq!(date(time), text);
    }
}
