use proptest::prelude::*;

use super::*;
use crate::hsm::managed::attributes::{CKA_KMS_VERSION, Origin};
use crate::hsm::managed::creation::{Creation, Request};
use crate::hsm::managed::lifecycle::Due;
use crate::hsm::managed::lifecycle::tests::{NOW, request};
use crate::hsm::managed::{Action, due_column, is_replicating};
use crate::hsm::value::Attributes;

const DAY: u64 = 86_400;

fn party(name: &str) -> Party {
    Party { region: name.to_owned(), domain: [name.as_bytes()[0]; 16] }
}

fn fresh() -> Managed {
    Creation::new(&Request { multi_region: true, ..request() }, [5; 16], NOW).unwrap().managed
}

/// A new replica of a key, as it is made of a shipment.
fn replica(of: &Managed, primary: &str, incarnation: Incarnation) -> Managed {
    let shipped = of.replication.as_ref().unwrap();
    let role = Role::Replica { primary: party(primary), incarnation, activated: false };
    let replication = Replication { role, notices: Vec::new(), ..shipped.clone() };
    Managed { state: KeyState::Creating, replication: Some(replication), ..of.clone() }
}

/// A primary in A with activated replicas in B and C, and those.
fn three() -> [Managed; 3] {
    let mut a = fresh();
    let mut replicas = Vec::new();
    for (name, incarnation) in [("B", [0xb; 16]), ("C", [0xc; 16])] {
        a = a.authorise(&party(name), NOW).unwrap();
        a.check_ship(&party(name), 0, NOW).unwrap();
        let made = replica(&a, "A", incarnation);
        a = a.register(&party(name), &incarnation, 1, 1).unwrap();
        replicas.push(made.activated_by(&party("A"), &incarnation, (1, 1)).unwrap());
        a = a.acknowledged(&party(name), &incarnation, (1, 1)).unwrap();
    }
    let [b, c] = replicas.try_into().unwrap();
    [a, b, c]
}

fn updated(replica: &Managed, primary: &Managed) -> Managed {
    let mut updated = replica.clone();
    let shipped = primary.replication.as_ref().unwrap();
    if let Some(replication) = &mut updated.replication {
        (replication.term, replication.newest) = (shipped.term, shipped.newest);
    }
    updated.version = updated.version.max(primary.version);
    updated
}

fn why<T: std::fmt::Debug>(answer: Answer<T>) -> (Reason, String) {
    let refused = answer.unwrap_err();
    (refused.reason(), refused.detail().to_owned())
}

fn refused<T: std::fmt::Debug>(answer: Answer<T>, reason: Reason, about: &str) {
    let (given, detail) = why(answer);
    assert!(given == reason && detail.contains(about), "{given:?}: {detail}");
}

fn attributes(key: &Managed) -> Attributes {
    let mut attributes = Attributes::new();
    key.write(&mut attributes);
    attributes
}

fn stays(key: &Managed) {
    assert_eq!(Managed::read(&attributes(key)).as_ref(), Ok(key));
}

#[test]
fn what_never_met_another_region_says_nothing_of_one() {
    let (one, many) = (Creation::new(&request(), [5; 16], NOW).unwrap().managed, fresh());
    for key in [&one, &many, &one.rotate(NOW).unwrap(), &many.rotate(NOW).unwrap()] {
        assert_eq!(attributes(key).get(CKA_KMS_REPLICATION), None);
        assert!(key.version() == key.newest() && !key.is_pending());
        stays(key);
    }
    refused(one.authorise(&party("B"), NOW), Reason::Unsupported, "one Region");
    refused(one.promote_here(7, NOW), Reason::Unsupported, "one Region");
    let mut torn = attributes(&one);
    torn.set(CKA_KMS_REPLICATION, Value::Bytes(Replication::fresh(1).encode()));
    assert_eq!(why(Managed::read(&torn)).0, Reason::Damaged);
}

#[test]
fn records_that_contradict_themselves_are_damaged() {
    let [a, b, _] = three();
    let handing = a.begin_handover("B", NOW).unwrap();
    let outdated = Heard { incarnation: NO_INCARNATION, term: 1, new_term: 2, primary: party("B") };
    for key in [&a, &b, &handing, &a.rotate(NOW).unwrap(), &a.told(&party("A"), &party("B"), &outdated).unwrap()] {
        stays(key);
        let encoded = key.replication.as_ref().unwrap().encode();
        assert_eq!(Replication::decode(&encoded).as_ref(), Ok(key.replication.as_ref().unwrap()));
        assert!(Replication::decode(&encoded[..encoded.len() - 1]).is_err());
        let mut torn = attributes(key);
        torn.set(CKA_KMS_VERSION, Value::Ulong(3));
        assert_eq!(why(Managed::read(&torn)).0, Reason::Damaged);
    }
    for (key, state) in [
        (&a, KeyState::Creating),
        (&a, KeyState::Updating),
        (&handing, KeyState::Enabled),
        (&b, KeyState::Creating),
        (&b, KeyState::Updating),
        (&b, KeyState::PendingReplicaDeletion),
    ] {
        let torn = Managed { state, deletion: None, ..key.clone() };
        assert_eq!(why(Managed::read(&attributes(&torn))).0, Reason::Damaged, "{state:?}");
    }
    let spoilt = |spoil: fn(&mut Vec<Replica>)| {
        let mut replication = a.replication.clone().unwrap();
        if let Role::Primary { replicas, .. } = &mut replication.role {
            spoil(replicas);
        }
        assert!(Replication::decode(&replication.encode()).is_err());
    };
    spoilt(|replicas| replicas.reverse());
    spoilt(|replicas| replicas[0].held = 2);
    spoilt(|replicas| replicas[1].active = 2);
    spoilt(|replicas| replicas[0].incarnation = None);
}

#[test]
fn a_new_replica_is_used_once_its_primary_counts_it() {
    let a = fresh().authorise(&party("B"), NOW).unwrap();
    assert_eq!(a.authorise(&party("B"), NOW).unwrap(), a);
    assert_eq!(a.outstanding(), [(party("B"), Outstanding::Ship)]);
    refused(a.check_ship(&party("C"), 0, NOW), Reason::Replication, "C");
    let stranger = Party { domain: [9; 16], ..party("B") };
    refused(a.check_ship(&stranger, 0, NOW), Reason::Replication, "B");
    refused(a.check_ship(&party("B"), 2, NOW), Reason::Replication, "versions");
    refused(a.disable(NOW).unwrap().check_ship(&party("B"), 0, NOW), Reason::Replication, "disabled");
    refused(a.register(&party("B"), &[1; 16], 2, 1), Reason::Replication, "term");
    refused(a.register(&party("B"), &[1; 16], 1, 2), Reason::Replication, "versions");
    refused(a.register(&party("C"), &[1; 16], 1, 1), Reason::Replication, "allowed");

    let b = replica(&a, "A", [1; 16]);
    stays(&b);
    for action in [Action::Encrypt, Action::Decrypt, Action::Enable, Action::Rotate] {
        refused(b.check(action, NOW), Reason::InvalidState, "Creating");
    }
    let waits = b.schedule_deletion(None, NOW).unwrap();
    stays(&waits);
    assert_eq!(waits.cancel_deletion(NOW).unwrap(), b, "not a way around the primary");
    refused(b.activated_by(&party("A"), &[2; 16], (1, 1)), Reason::Replication, "another replica");
    refused(b.activated_by(&party("A"), &[1; 16], (2, 1)), Reason::Replication, "term");
    refused(b.activated_by(&party("C"), &[1; 16], (1, 1)), Reason::Replication, "Region A");
    refused(b.activated_by(&party("A"), &[1; 16], (1, 2)), Reason::Replication, "version 2");
    refused(a.activated_by(&party("B"), &[1; 16], (1, 1)), Reason::Replication, "primary here");

    let a = a.register(&party("B"), &[1; 16], 1, 1).unwrap();
    assert_eq!(a.outstanding(), [(party("B"), Outstanding::Activate)]);
    assert!(is_replicating(&attributes(&a)));
    refused(a.withdraw("B", NOW), Reason::InvalidState, "B has a replica");
    refused(a.withdraw("C", NOW), Reason::NotFound, "C");
    refused(a.authorise(&stranger, NOW), Reason::InvalidState, "another domain");
    let b = b.activated_by(&party("A"), &[1; 16], (1, 1)).unwrap();
    assert_eq!(b.state_at(NOW), KeyState::Enabled);
    refused(a.acknowledged(&party("B"), &[2; 16], (1, 1)), Reason::Replication, "no such replica");
    refused(a.acknowledged(&party("B"), &[1; 16], (1, 2)), Reason::Replication, "not active");
    let a = a.acknowledged(&party("B"), &[1; 16], (1, 1)).unwrap();
    assert!(a.outstanding().is_empty() && !a.is_replicating() && !b.is_replicating());
    assert_eq!(a.register(&party("B"), &[1; 16], 1, 1).unwrap(), a, "a duplicate changes nothing");
    // The Region makes the replica again: only once the first is known to be gone.
    refused(a.register(&party("B"), &[2; 16], 1, 1), Reason::Replication, "another replica");
    let gone = a.replica_deleted(&party("B"), &[1; 16], 1, NOW).unwrap();
    assert_eq!(gone, fresh());
    let again = gone.authorise(&party("B"), NOW).unwrap().register(&party("B"), &[2; 16], 1, 1).unwrap();
    assert_eq!(again.replica_deleted(&party("B"), &[1; 16], 1, NOW).unwrap(), again, "that was the one before");

    let withdrawn = fresh().authorise(&party("B"), NOW).unwrap().withdraw("B", NOW).unwrap();
    assert_eq!(withdrawn, fresh());
    refused(withdrawn.register(&party("B"), &[1; 16], 1, 1), Reason::Replication, "allowed");
}

#[test]
fn a_new_version_encrypts_when_every_replica_holds_it() {
    let [a, b, _] = three();
    let a = a.set_rotation(Some(90), NOW).unwrap();
    assert_eq!(due_column(&attributes(&a)), Some(NOW + 90 * DAY));
    assert_eq!(a.due(NOW + 90 * DAY), Some(Due::Rotate));
    let pending = a.rotate(NOW + 90 * DAY).unwrap();
    stays(&pending);
    assert_eq!((pending.version(), pending.newest(), pending.is_pending()), (1, 2, true));
    assert_eq!((pending.rotated, pending.rotation.unwrap().next), (None, NOW + 180 * DAY));
    assert_eq!(pending.due(NOW + 900 * DAY), None);
    let next_rotation = due_column(&attributes(&pending));
    assert_ne!(next_rotation, Some(NOW + 180 * DAY), "it waits for the replicas, not for the time");
    refused(pending.rotate(NOW), Reason::InvalidState, "waits for B, C");
    refused(pending.begin_handover("B", NOW), Reason::InvalidState, "waits for B, C");
    refused(pending.activate(NOW), Reason::InvalidState, "waits for B, C");
    assert_eq!(pending.outstanding(), [(party("B"), Outstanding::Ship), (party("C"), Outstanding::Ship)]);

    let with_b = pending.register(&party("B"), &[0xb; 16], 1, 2).unwrap();
    assert!(!with_b.may_activate());
    refused(with_b.activate(NOW), Reason::InvalidState, "waits for C");
    let given_up = with_b.give_up("C", NOW).unwrap();
    assert!(given_up.may_activate(), "the dead replica is not waited for");
    let all = with_b.register(&party("C"), &[0xc; 16], 1, 2).unwrap();
    let active = all.activate(NOW + 5).unwrap();
    stays(&active);
    assert_eq!((active.version(), active.rotated, active.is_pending()), (2, Some(NOW + 5), false));
    assert_eq!(active.outstanding(), [(party("B"), Outstanding::Activate), (party("C"), Outstanding::Activate)]);
    refused(active.activate(NOW), Reason::InvalidState, "no version");

    refused(b.activated_by(&party("A"), &[0xb; 16], (1, 2)), Reason::Replication, "version 2");
    let b = updated(&b, &all);
    assert!(b.is_pending());
    let b = b.activated_by(&party("A"), &[0xb; 16], (1, 2)).unwrap();
    assert_eq!(b.version(), 2);
    assert_eq!(b.activated_by(&party("A"), &[0xb; 16], (1, 1)).unwrap(), b, "nothing goes back");
    // A receipt that comes late takes nothing back either.
    assert_eq!(active.register(&party("B"), &[0xb; 16], 1, 1).unwrap(), active);
}

#[test]
fn a_replica_asks_for_what_is_shared_in_its_primarys_region() {
    let [_, b, _] = three();
    refused(b.rotate(NOW), Reason::Unsupported, "Region A");
    refused(b.set_rotation(None, NOW), Reason::Unsupported, "Region A");
    refused(b.stop_rotation(NOW), Reason::Unsupported, "Region A");
    refused(b.authorise(&party("D"), NOW), Reason::Unsupported, "Region A");
    refused(b.begin_handover("C", NOW), Reason::Unsupported, "Region A");
    refused(b.check_ship(&party("D"), 0, NOW), Reason::Replication, "Region A");
    refused(b.register(&party("D"), &[1; 16], 1, 1), Reason::Replication, "Region A");
    let own = b.disable(NOW).unwrap().set_description("its own", NOW).unwrap();
    stays(&own.tag(&[("a", "b")], NOW).unwrap());
    let rotating = Managed { rotation: Some(crate::hsm::managed::metadata::Rotation { days: 90, next: 1 }), ..b };
    assert_eq!((rotating.due(NOW), due_column(&attributes(&rotating))), (None, due_column(&attributes(&own))));
}

#[test]
fn a_primary_outlives_its_replicas() {
    let [a, b, _] = three();
    let waits = a.schedule_deletion(Some(7), NOW).unwrap();
    stays(&waits);
    assert_eq!(waits.state_at(NOW), KeyState::PendingReplicaDeletion);
    let one = waits.replica_deleted(&party("B"), &[0xb; 16], 1, NOW).unwrap();
    assert_eq!(one.replica_deleted(&party("B"), &[0xb; 16], 1, NOW).unwrap(), one);
    refused(one.replica_deleted(&party("C"), &[0xc; 16], 2, NOW), Reason::Replication, "term");
    assert_eq!(one.replica_deleted(&party("C"), &[1; 16], 1, NOW).unwrap(), one, "another life of it");
    assert_eq!(one.due(u64::MAX), None);
    for none in
        [one.replica_deleted(&party("C"), &[0xc; 16], 1, NOW + DAY).unwrap(), one.give_up("C", NOW + DAY).unwrap()]
    {
        stays(&none);
        assert_eq!((none.due(NOW + 8 * DAY - 1), none.due(NOW + 8 * DAY)), (None, Some(Due::Delete)));
        refused(none.register(&party("C"), &[0xc; 16], 1, 1), Reason::Replication, "deletion");
    }

    let gone = b.schedule_deletion(Some(7), NOW).unwrap();
    assert_eq!(gone.state_at(NOW), KeyState::PendingDeletion, "a replica waits for nobody");
    let left = deleted(&gone, &[7; 16]).unwrap();
    assert!(is_replicating(&left.attributes));
    let left = Replication::decode(left.attributes.bytes(CKA_KMS_REPLICATION).unwrap()).unwrap();
    assert_eq!(left.outstanding_of_deleted(), [(party("A"), Outstanding::Deleted)]);
    assert!(left.check_forgotten(&party("A"), &[0xb; 16]).is_ok());
    refused(left.check_forgotten(&party("A"), &[1; 16]), Reason::Replication, "forgotten");
    refused(left.check_forgotten(&party("C"), &[0xb; 16]), Reason::Replication, "forgotten");
    assert!(deleted(&a, &[7; 16]).is_none());
}

#[test]
fn a_handover_makes_a_replica_the_primary() {
    let [a, b, c] = three();
    refused(a.begin_handover("D", NOW), Reason::NotFound, "D");
    let allowed = a.authorise(&party("D"), NOW).unwrap();
    refused(allowed.begin_handover("B", NOW), Reason::InvalidState, "Region D");
    let behind = fresh().authorise(&party("B"), NOW).unwrap().register(&party("B"), &[2; 16], 1, 1).unwrap();
    refused(behind.begin_handover("B", NOW), Reason::InvalidState, "up to date");

    let handing = a.begin_handover("B", NOW).unwrap();
    assert_eq!(handing.state_at(NOW), KeyState::Updating);
    assert_eq!(handing.begin_handover("B", NOW).unwrap(), handing);
    assert_eq!(handing.outstanding(), [(party("B"), Outstanding::Handover)]);
    refused(handing.begin_handover("C", NOW), Reason::InvalidState, "Region B");
    refused(handing.rotate(NOW), Reason::InvalidState, "Region B");
    refused(handing.set_rotation(None, NOW), Reason::InvalidState, "Region B");
    refused(handing.check_ship(&party("C"), 1, NOW), Reason::Replication, "Region B");
    refused(handing.register(&party("C"), &[1; 16], 1, 1), Reason::Replication, "Region B");
    refused(handing.give_up("B", NOW), Reason::InvalidState, "emergency promote");

    let (heard, details) = handing.handover_details(&party("A")).unwrap();
    assert_eq!(a.handover_details(&party("A")), None);
    let take = |key: &Managed, own: &str, heard: &Heard, details: &Details| {
        key.take_handover(&party(own), &party("A"), (heard, details))
    };
    let wrong = |spoil: fn(&mut Heard, &mut Details)| {
        let (mut heard, mut details) = (heard.clone(), details.clone());
        spoil(&mut heard, &mut details);
        assert_eq!(why(take(&b, "B", &heard, &details)).0, Reason::Replication);
    };
    wrong(|heard, _| heard.incarnation = [0xc; 16]);
    wrong(|heard, _| (heard.term, heard.new_term) = (2, 3));
    wrong(|heard, _| heard.new_term = 3);
    wrong(|heard, _| heard.primary = party("C"));
    wrong(|_, details| details.newest = 2);
    wrong(|_, details| details.replicas[1].held = 2);
    wrong(|_, details| details.replicas.push(details.replicas[1].clone()));
    refused(take(&c, "C", &heard, &details), Reason::Replication, "not one of this replica");
    refused(b.take_handover(&party("B"), &party("C"), (&heard, &details)), Reason::Replication, "primary");
    refused(take(&b.schedule_deletion(None, NOW).unwrap(), "B", &heard, &details), Reason::Replication, "deletion");

    let new = take(&b, "B", &heard, &details).unwrap();
    stays(&new);
    assert_eq!(take(&new, "B", &heard, &details).unwrap(), new);
    let replication = new.replication().unwrap();
    assert!(replication.is_primary() && replication.term == 2);
    let regions: Vec<_> = replication.registered().map(|(replica, _)| replica.party.region.as_str()).collect();
    assert_eq!(regions, ["A", "C"]);

    let taken = |key: &Managed, from: &str, incarnation, term| {
        key.handover_taken(&party("A"), &party(from), &incarnation, term)
    };
    refused(taken(&handing, "B", [1; 16], 2), Reason::Replication, "another handover");
    refused(taken(&handing, "B", [0xb; 16], 3), Reason::Replication, "another handover");
    refused(taken(&handing, "C", [0xc; 16], 2), Reason::Replication, "no handover");
    let old = taken(&handing, "B", [0xb; 16], 2).unwrap();
    stays(&old);
    assert_eq!(taken(&old, "B", [0xb; 16], 2).unwrap(), old);
    assert_eq!(old.state_at(NOW), KeyState::Enabled);
    refused(old.rotate(NOW), Reason::Unsupported, "Region B");
    assert_eq!(old.outstanding(), [(party("C"), Outstanding::Handover)]);
    let incarnation = replication.replica("A").unwrap().incarnation.unwrap();
    assert!(matches!(&old.replication().unwrap().role, Role::Replica { incarnation: own, .. } if *own == incarnation));

    // What the old primary said before is worth nothing more, and the other replica follows.
    refused(new.activated_by(&party("A"), &[0xb; 16], (1, 1)), Reason::Replication, "primary here");
    let old_replication = old.replication().unwrap();
    let told = old_replication.heard_by(&old_replication.notices[0], &party("A"));
    refused(c.told(&party("C"), &party("B"), &told), Reason::Replication, "Region A");
    refused(c.activated_by(&party("B"), &[0xc; 16], (2, 1)), Reason::Replication, "Region A");
    let other = Heard { incarnation: [1; 16], ..told.clone() };
    refused(c.told(&party("C"), &party("A"), &other), Reason::Replication, "another replica");
    let other = Heard { term: 2, new_term: 3, ..told.clone() };
    refused(c.told(&party("C"), &party("A"), &other), Reason::Replication, "term");
    let follows = c.told(&party("C"), &party("A"), &told).unwrap();
    assert_eq!(follows.told(&party("C"), &party("A"), &told).unwrap(), follows);
    refused(follows.activated_by(&party("A"), &[0xc; 16], (1, 1)), Reason::Replication, "Region B");
    assert!(follows.activated_by(&party("B"), &[0xc; 16], (2, 1)).is_ok());
    assert!(taken(&old, "C", [0xc; 16], 2).unwrap().outstanding().is_empty());
    let pending = new.rotate(NOW).unwrap();
    refused(pending.activate(NOW), Reason::InvalidState, "waits for A, C");
    // A replica that is deleted follows, too.
    let mut left = c.replication.clone().unwrap();
    assert_eq!(left.follow(&party("A"), &told), Ok(true));
    assert_eq!(left.outstanding_of_deleted(), [(party("B"), Outstanding::Deleted)]);
}

#[test]
fn a_primary_that_lost_the_answer_follows_two_handovers_at_once() {
    let [a, b, _] = three();
    let handing = a.begin_handover("B", NOW).unwrap();
    let (heard, details) = handing.handover_details(&party("A")).unwrap();
    let b = b.take_handover(&party("B"), &party("A"), (&heard, &details)).unwrap().begin_handover("C", NOW).unwrap();
    let b = b.handover_taken(&party("B"), &party("C"), &[0xc; 16], 3).unwrap();
    let replication = b.replication().unwrap();
    let told = replication.heard_by(&replication.notices[0], &party("B"));
    let a = handing.told(&party("A"), &party("B"), &told).unwrap();
    stays(&a);
    assert!(matches!(&a.replication().unwrap().role, Role::Replica { primary, .. } if *primary == party("C")));
    assert_eq!(a.replication().unwrap().term, 3);
}

/// Between the terms of emergencies.
const ERA: u64 = 1 << 32;

#[test]
fn an_emergency_leaves_one_primary() {
    let [a, b, c] = three();
    refused(a.promote_here(7, NOW), Reason::InvalidState, "primary here");
    refused(b.schedule_deletion(None, NOW).unwrap().promote_here(7, NOW), Reason::InvalidState, "deletion");
    let new = b.promote_here(7, NOW).unwrap();
    stays(&new);
    let replication = new.replication().unwrap();
    assert!(replication.is_primary() && replication.term == ERA + 7 && replication.replicas().is_empty());
    assert_eq!(new.outstanding(), [(party("A"), Outstanding::Handover)]);
    let told = replication.heard_by(&replication.notices[0], &party("B"));

    let forged = Heard { primary: party("C"), ..told.clone() };
    refused(a.told(&party("A"), &party("B"), &forged), Reason::Replication, "primary here");
    let stale = Heard { new_term: 1, ..told.clone() };
    assert_eq!(a.told(&party("A"), &party("B"), &stale).unwrap(), a);
    let outdated = a.told(&party("A"), &party("B"), &told).unwrap();
    stays(&outdated);
    assert_eq!(outdated.told(&party("A"), &party("B"), &told).unwrap(), outdated);
    assert!(outdated.outstanding().is_empty() && outdated.check(Action::Encrypt, NOW).is_ok());
    refused(outdated.rotate(NOW), Reason::InvalidState, "Region B");
    refused(outdated.authorise(&party("D"), NOW), Reason::InvalidState, "Region B");
    refused(outdated.begin_handover("C", NOW), Reason::InvalidState, "Region B");
    refused(outdated.check_ship(&party("C"), 1, NOW), Reason::Replication, "Region B");
    refused(outdated.register(&party("C"), &[0xc; 16], 1, 1), Reason::Replication, "Region B");
    assert!(new.handover_taken(&party("B"), &party("A"), &NO_INCARNATION, ERA + 7).unwrap().outstanding().is_empty());
    assert!(new.give_up("A", NOW).unwrap().outstanding().is_empty());
    refused(new.give_up("C", NOW), Reason::NotFound, "C");

    for key in [&a, &outdated, &c] {
        let moved = key.promote_elsewhere(&party("B"), &[4; 16], NOW).unwrap();
        stays(&moved);
        assert_eq!(moved.state_at(NOW), KeyState::Enabled);
        assert_eq!(moved.promote_elsewhere(&party("B"), &[5; 16], NOW).unwrap(), moved);
        refused(moved.rotate(NOW), Reason::Unsupported, "Region B");
        // The message may come after the quorum has decided. What B said before it, such as a handover, is not
        // for this replica any more.
        let told_late = moved.told(&party("A"), &party("B"), &told).unwrap();
        stays(&told_late);
        assert_eq!(told_late.told(&party("A"), &party("B"), &told).unwrap(), told_late);
        let before = Details { incarnation: [9; 16], version: 1, newest: 1, rotation: None, replicas: Vec::new() };
        let handover = Heard { incarnation: [4; 16], term: 1, new_term: 2, primary: party("A") };
        assert!(told_late.take_handover(&party("A"), &party("B"), (&handover, &before)).is_err());
    }
    let waits = a.schedule_deletion(Some(7), NOW).unwrap().promote_elsewhere(&party("B"), &[4; 16], NOW).unwrap();
    stays(&waits);
    assert_eq!(waits.due(NOW + 7 * DAY), Some(Due::Delete));

    // Whoever stays the primary is above every term that another may have taken meanwhile.
    let handing = a.begin_handover("B", NOW).unwrap().promote_here(7, NOW).unwrap();
    stays(&handing);
    assert_eq!((handing.replication().unwrap().term, handing.state_at(NOW)), (ERA + 7, KeyState::Enabled));
    assert_eq!(outdated.promote_here(1, NOW).unwrap().replication().unwrap().term, 2 * ERA + 1);
    let creating = replica(&a, "A", [1; 16]).promote_here(7, NOW).unwrap();
    stays(&creating);
    assert_eq!(creating.state_at(NOW), KeyState::Enabled);
}

#[test]
fn what_a_description_says_of_the_regions() {
    let [a, b, _] = three();
    let one = Creation::new(&request(), [5; 16], NOW).unwrap().managed;
    assert_eq!(one.describe_regions("A"), None);
    let told = a.begin_handover("B", NOW).unwrap().describe_regions("A").unwrap();
    assert_eq!((&told["MultiRegionKeyType"], &told["PrimaryKey"]["Region"]), (&"PRIMARY".into(), &"A".into()));
    assert_eq!((&told["Handover"], &told["Term"], &told["NewestVersion"]), (&"B".into(), &1.into(), &1.into()));
    let replica = serde_json::json!({ "Region": "C", "Registered": true, "Version": 1, "ActiveVersion": 1 });
    assert_eq!(told["ReplicaKeys"][1], replica);
    let told = b.describe_regions("B").unwrap();
    assert_eq!((&told["MultiRegionKeyType"], &told["PrimaryKey"]["Region"]), (&"REPLICA".into(), &"A".into()));
    let external = Request { multi_region: true, origin: Origin::External, replicate_imported: true, ..request() };
    stays(&Creation::new(&external, [5; 16], NOW).unwrap().managed);
    for request in [Request { multi_region: false, ..external }, Request { origin: Origin::Hsm, ..external }] {
        assert_eq!(why(Creation::new(&request, [5; 16], NOW)).0, Reason::Arguments);
    }
}

/// Three Regions, and what is on its way between them: it may come late, more than once, in another
/// order, or not at all.
struct World {
    keys: [Option<Managed>; 3],
    mail: Vec<(usize, usize, Mail)>,
    lives: u8,
    /// Whose replica is deleted, which its primary has not heard of.
    left: [bool; 3],
}

#[derive(Debug, Clone)]
enum Mail {
    Shipment { term: u64, version: u64, newest: u64 },
    Receipt { incarnation: Incarnation, term: u64, newest: u64 },
    Activate { incarnation: Incarnation, term: u64, version: u64 },
    Activated { incarnation: Incarnation, term: u64, version: u64 },
    Deleted { incarnation: Incarnation, term: u64 },
    Handover { heard: Heard, details: Option<Details> },
    Taken { incarnation: Incarnation, new_term: u64 },
}

const NAMES: [&str; 3] = ["A", "B", "C"];

impl World {
    fn new() -> Self {
        Self { keys: [Some(fresh()), None, None], mail: Vec::new(), lives: 0, left: [false; 3] }
    }

    fn at(name: &str) -> usize {
        NAMES.iter().position(|known| *known == name).unwrap()
    }

    /// A pending version becomes active where it may.
    fn settled(key: Managed) -> Managed {
        if key.may_activate() { key.activate(NOW).unwrap() } else { key }
    }

    fn change(&mut self, at: usize, change: impl FnOnce(&Managed) -> Answer<Managed>) -> bool {
        let Some(Ok(next)) = self.keys[at].as_ref().map(change) else { return false };
        self.keys[at] = Some(Self::settled(next));
        true
    }

    fn ship(&mut self, from: usize, to: usize) {
        let held = self.keys[to].as_ref().map_or(0, Managed::newest);
        let Some(key) = self.keys[from].as_ref().filter(|key| key.check_ship(&party(NAMES[to]), held, NOW).is_ok())
        else {
            return;
        };
        let term = key.replication.as_ref().unwrap().term;
        self.mail.push((from, to, Mail::Shipment { term, version: key.version(), newest: key.newest() }));
    }

    fn tell(&mut self, from: usize) {
        let Some(key) = self.keys[from].clone() else { return };
        let replication = key.replication.as_ref().unwrap();
        for (to, what) in key.outstanding() {
            let mail = match what {
                Outstanding::Ship | Outstanding::Deleted => continue,
                Outstanding::Activate => Mail::Activate {
                    incarnation: replication.replica(&to.region).unwrap().incarnation.unwrap(),
                    term: replication.term,
                    version: key.version(),
                },
                Outstanding::Handover => match replication.notices.iter().find(|notice| notice.party == to) {
                    Some(notice) => {
                        Mail::Handover { heard: replication.heard_by(notice, &party(NAMES[from])), details: None }
                    }
                    None => {
                        let (heard, details) = key.handover_details(&party(NAMES[from])).unwrap();
                        Mail::Handover { heard, details: Some(details) }
                    }
                },
            };
            self.mail.push((from, Self::at(&to.region), mail));
        }
    }

    fn accept(&mut self, from: usize, to: usize, (term, version, newest): (u64, u64, u64)) {
        self.lives += 1;
        let source = fresh();
        let shipped = Replication { term, newest, ..source.replication.clone().unwrap() };
        let source = Managed { version, replication: Some(shipped), ..source };
        let accepted = match &self.keys[to] {
            None if self.left[to] => return,
            None => replica(&source, NAMES[from], [self.lives; 16]),
            Some(key) => {
                let known = key.replication.as_ref().unwrap();
                let follows = matches!(&known.role, Role::Replica { primary, .. } if primary.region == NAMES[from]);
                if !follows || known.term > term || known.newest > newest || key.version > version {
                    return;
                }
                updated(key, &source)
            }
        };
        let Role::Replica { incarnation, .. } = accepted.replication.as_ref().unwrap().role else { return };
        self.keys[to] = Some(accepted);
        self.mail.push((to, from, Mail::Receipt { incarnation, term, newest }));
    }

    fn deliver(&mut self, pick: usize) {
        if self.mail.is_empty() {
            return;
        }
        let (from, to, mail) = self.mail[pick % self.mail.len()].clone();
        let (sender, own) = (party(NAMES[from]), party(NAMES[to]));
        match mail {
            Mail::Shipment { term, version, newest } => self.accept(from, to, (term, version, newest)),
            Mail::Receipt { incarnation, term, newest } => {
                self.change(to, |key| key.register(&sender, &incarnation, term, newest));
            }
            Mail::Activate { incarnation, term, version } => {
                if self.change(to, |key| key.activated_by(&sender, &incarnation, (term, version))) {
                    self.mail.push((to, from, Mail::Activated { incarnation, term, version }));
                }
            }
            Mail::Activated { incarnation, term, version } => {
                self.change(to, |key| key.acknowledged(&sender, &incarnation, (term, version)));
            }
            Mail::Deleted { incarnation, term } => {
                if self.change(to, |key| key.replica_deleted(&sender, &incarnation, term, NOW)) {
                    self.left[from] = false;
                }
            }
            Mail::Handover { heard, details } => {
                let (incarnation, new_term) = (heard.incarnation, heard.new_term);
                let took = self.change(to, |key| match &details {
                    Some(details) => key.take_handover(&own, &sender, (&heard, details)),
                    None => key.told(&own, &sender, &heard),
                });
                if took {
                    self.mail.push((to, from, Mail::Taken { incarnation, new_term }));
                }
            }
            Mail::Taken { incarnation, new_term } => {
                self.change(to, |key| key.handover_taken(&own, &sender, &incarnation, new_term));
            }
        }
    }

    fn delete(&mut self, at: usize) {
        let Some(key) = &self.keys[at] else { return };
        let replication = key.replication.as_ref().unwrap();
        if let Role::Replica { primary, incarnation, .. } = &replication.role {
            let mail = Mail::Deleted { incarnation: *incarnation, term: replication.term };
            self.mail.push((at, Self::at(&primary.region), mail));
            self.keys[at] = None;
            self.left[at] = true;
        }
    }
}

proptest! {
    /// Whatever comes in whatever order: no version encrypts in a Region before every replica that is
    /// in use holds it, and there are never two primaries.
    #[test]
    fn no_version_is_used_before_every_replica_holds_it(
        steps in proptest::collection::vec((0u8..16, 0usize..3, 0usize..3, any::<usize>()), 0..200),
    ) {
        let mut world = World::new();
        for (kind, from, to, pick) in steps {
            match kind {
                0 if from != to => { world.change(from, |key| key.authorise(&party(NAMES[to]), NOW)); }
                1 | 2 if from != to => world.ship(from, to),
                3 => { world.change(from, |key| key.rotate(NOW)); }
                4 if from != to => { world.change(from, |key| key.begin_handover(NAMES[to], NOW)); }
                5 if pick % 4 == 0 => world.delete(from),
                6 if from != to => { world.change(from, |key| key.withdraw(NAMES[to], NOW)); }
                7 | 8 => world.tell(from),
                // Most mail comes soon.
                9..=13 => {
                    let newest = world.mail.len().saturating_sub(1 + pick % 3);
                    world.deliver(newest);
                }
                _ => world.deliver(pick),
            }
            let used: Vec<_> = world.keys.iter().flatten().filter(|key| key.state_at(NOW) != KeyState::Creating).collect();
            for key in &used {
                prop_assert_eq!(&Managed::read(&attributes(key)), &Ok((*key).clone()));
            }
            let active = used.iter().map(|key| key.version()).max().unwrap_or(0);
            prop_assert!(used.iter().all(|key| key.newest() >= active), "{:?}", world.keys);
            let primaries = world.keys.iter().flatten().filter(|key| key.as_settled_primary().is_ok()).count();
            prop_assert!(primaries <= 1, "{:?}", world.keys);
        }
    }
}
