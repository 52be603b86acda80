//! What a carrier, or another Region, could do that does not keep to the protocol. Nothing of it changes
//! a record, and an honest exchange succeeds afterwards.

use super::*;
use crate::hsm::domain::TrustedRegion;
use crate::hsm::replication::message::{Activate, Activation, Body, Message, Receipt, Shipment};

/// A refused message changes nothing.
fn refuses(region: &mut Region, message: &[u8], what: &str) {
    let before = region.records.clone();
    let refused = region.receive(message).expect_err(what);
    assert_eq!(refused.kind(), ErrorKind::KmsReplicationRefused, "{what}: {refused}");
    assert!(region.records == before, "{what}");
}

fn signed<'b, B: Body<'b>>(from: &Region, to: &Region, body: B) -> Vec<u8> {
    let opened = from.token.hsm.opened().unwrap();
    Message { from: from.party(), to: to.party(), body }.sign(opened.replication_key().unwrap()).unwrap()
}

fn read<'b, B: Body<'b>>(at: &Region, message: &'b [u8]) -> B {
    let trusted: Vec<TrustedRegion> = at.token.hsm.public().unwrap().state().trusted_regions.clone();
    Message::<B>::open(message, &at.party(), &trusted).unwrap().message.body
}

/// Every bit of damage, and every end that is too early.
fn damaged(region: &mut Region, message: &[u8]) {
    let name = replication_message(message).unwrap().kind.name();
    for at in 0..message.len() {
        let mut bytes = message.to_vec();
        bytes[at] ^= 1 << (at % 8);
        refuses(region, &bytes, &format!("{name}, byte {at}"));
    }
    for len in [0, 1, message.len() / 2, message.len() - 1] {
        refuses(region, &message[..len], &format!("{name} of {len} bytes"));
    }
    refuses(region, &[message, b"\0"].concat(), name);
}

#[test]
fn no_damaged_message_is_taken() {
    let [mut a, mut b] = regions(["eu-north", "us-west"]);
    let id = a.create(&json!({}));
    a.authorise(&id, "us-west").unwrap();
    let mut message = a.tell(MessageKind::Request, "us-west", &id).unwrap();
    // Request, offer, shipment, receipt, activate, activated.
    for turn in 0..6 {
        let to = if turn % 2 == 0 { &mut b } else { &mut a };
        damaged(to, &message);
        match to.receive(&message).unwrap() {
            Some(answer) => message = answer,
            None => assert_eq!(turn, 5),
        }
    }
    a.manage(Manage::UpdatePrimaryRegion, &id, &json!({ "PrimaryRegion": "us-west" })).unwrap();
    let handover = a.tell(MessageKind::Handover, "us-west", &id).unwrap();
    damaged(&mut b, &handover);
    let taken = b.receive(&handover).unwrap().unwrap();
    damaged(&mut a, &taken);
    assert!(a.receive(&taken).unwrap().is_none());
    a.manage(Manage::ScheduleKeyDeletion, &id, &json!({ "PendingWindowInDays": 7 })).unwrap();
    a.token.hsm.core.clock.pass_days(7);
    let stored = a.stored(&id).unwrap();
    let Ok(Reply::Managed { change, .. }) = a.token.call(Command::KeepTime { keys: stored.held().keys }) else {
        panic!()
    };
    a.commit(change);
    let deleted = a.tell(MessageKind::Deleted, "us-west", &id).unwrap();
    damaged(&mut b, &deleted);
    let forgotten = b.receive(&deleted).unwrap().unwrap();
    damaged(&mut a, &forgotten);
    assert!(a.receive(&forgotten).unwrap().is_none());
    assert!(a.records.is_empty());
}

#[test]
fn a_region_gets_what_was_allowed_to_it_and_nothing_else() {
    let [mut a, mut b, mut c] = regions(["eu-north", "us-west", "ap-south"]);
    let (id, other) = (a.create(&json!({})), a.create(&json!({})));
    a.authorise(&id, "us-west").unwrap();
    for ids in [vec![&*other], vec![&*id, &*other], vec!["mrk-00000000000000000000000000000000"]] {
        let offer = b.offer("eu-north", &ids).unwrap();
        refuses(&mut a, &offer, "not allowed");
    }
    let offer = c.offer("eu-north", &[&id]).unwrap();
    refuses(&mut a, &offer, "allowed to another Region");
    let offer = b.offer("ap-south", &[&id]).unwrap();
    refuses(&mut a, &offer, "for another Region");
    refuses(&mut c, &offer, "no primary");

    let offer = b.offer("eu-north", &[&id]).unwrap();
    let shipment = a.receive(&offer).unwrap().unwrap();
    refuses(&mut a, &offer, "an offer that was answered");
    refuses(&mut c, &shipment, "for another Region");
    // The keys of a Region that is trusted no more.
    let trusted = a.described();
    b.run(&json!({ "command": "distrust Region", "name": "eu-north" }));
    refuses(&mut b, &shipment, "a Region that is not trusted");
    b.run(&json!({ "command": "trust Region", "region": trusted }));
    carry(&mut a, &mut b, shipment).unwrap();
    assert!(outstanding(&a, &id).is_empty());
    // A disabled key does not go to a new Region, and its replicas are kept up to date.
    a.authorise(&id, "ap-south").unwrap();
    a.manage(Manage::DisableKey, &id, &json!({})).unwrap();
    let offer = c.offer("eu-north", &[&id]).unwrap();
    refuses(&mut a, &offer, "disabled");
    let offer = b.offer("eu-north", &[&id]).unwrap();
    assert!(a.receive(&offer).unwrap().is_some());
}

#[test]
fn an_exchange_is_its_own() {
    let [mut a, mut b] = regions(["eu-north", "us-west"]);
    let ids = [(), ()].map(|()| a.create(&json!({})));
    for id in &ids {
        a.authorise(id, "us-west").unwrap();
    }
    let both: Vec<_> = ids.iter().map(String::as_str).collect();
    let offers = [b.offer("eu-north", &both).unwrap(), b.offer("eu-north", &both).unwrap()];
    let shipments = offers.each_ref().map(|offer| a.receive(offer).unwrap().unwrap());
    let bodies = shipments.each_ref().map(|shipment| read::<Shipment<'_>>(&b, shipment));

    let forge = |a: &Region, b: &Region, change: &dyn Fn(&mut Shipment<'_>)| {
        let mut body = bodies[0].clone();
        change(&mut body);
        signed(a, b, body)
    };
    let other = signed(&a, &b, Shipment { offer: bodies[1].offer, ..bodies[0].clone() });
    refuses(&mut b, &other, "of another offer");
    let hash = signed(&a, &b, Shipment { offer_hash: [1; 48], ..bodies[0].clone() });
    refuses(&mut b, &hash, "of another offer's bytes");
    let fewer = forge(&a, &b, &|body| drop(body.keys.pop()));
    refuses(&mut b, &fewer, "without one of the keys");
    // From here on the first offer is used.
    let swapped = forge(&a, &b, &|body| {
        let [one, two] = &mut body.keys[..] else { panic!() };
        std::mem::swap(&mut one.sealed, &mut two.sealed);
    });
    refuses(&mut b, &swapped, "two keys swapped");
    refuses(&mut b, &shipments[0], "an offer that was used");

    b.accept(&shipments[1]).unwrap();
    let receipt = b.confirm(&shipments[1]).unwrap();
    let body = read::<Receipt>(&a, &receipt);
    let forge = |b: &Region, a: &Region, change: &dyn Fn(&mut Receipt)| {
        let mut body = body.clone();
        change(&mut body);
        signed(b, a, body)
    };
    for (what, change) in [
        ("of another offer", &(|body: &mut Receipt| body.offer = [9; 16]) as &dyn Fn(&mut Receipt)),
        ("of another shipment", &|body: &mut Receipt| body.shipment_hash = [9; 48]),
        ("of other material", &|body: &mut Receipt| {
            let commitment = body.keys[1].commitment;
            body.keys.iter_mut().for_each(|key| key.commitment = commitment.map(|byte| !byte));
        }),
        ("of other keys", &|body: &mut Receipt| body.keys.reverse()),
        ("of another term", &|body: &mut Receipt| body.keys.iter_mut().for_each(|key| key.term = 2)),
        ("of another version", &|body: &mut Receipt| body.keys.iter_mut().for_each(|key| key.newest = 2)),
    ] {
        let forged = forge(&b, &a, change);
        refuses(&mut a, &forged, what);
    }
    let activate = a.receive(&receipt).unwrap().unwrap();
    let keys = read::<Activate>(&b, &activate).keys;
    for (what, change) in [
        ("of another replica", Activation { incarnation: [9; 16], ..keys[0].clone() }),
        ("of another term", Activation { term: 2, ..keys[0].clone() }),
        ("of a version that is not there", Activation { version: 2, ..keys[0].clone() }),
    ] {
        let forged = signed(&a, &b, Activate { keys: vec![change] });
        refuses(&mut b, &forged, what);
    }
    carry(&mut a, &mut b, activate).unwrap();
    for id in &ids {
        let blob = a.encrypt(id, b"text").unwrap();
        assert_eq!(b.decrypt(id, &blob).unwrap(), b"text");
    }
}

#[test]
fn what_comes_too_late_or_in_another_suite_is_refused() {
    let [mut a, mut b] = regions(["eu-north", "us-west"]);
    let id = a.create(&json!({}));
    a.authorise(&id, "us-west").unwrap();
    let offer = b.offer("eu-north", &[&id]).unwrap();
    let shipment = a.receive(&offer).unwrap().unwrap();
    let late = b.offer("eu-north", &[&id]).unwrap();
    a.token.hsm.core.clock.pass_days(1);
    refuses(&mut a, &late, "an offer that has ended");
    b.token.hsm.core.clock.pass_days(1);
    refuses(&mut b, &shipment, "a shipment for an offer that has ended");

    // Of the suites that are allowed at both.
    b.run(&json!({ "command": "allow suite", "suite": 2 }));
    let other = b.offer("eu-north", &[&id]).unwrap();
    refuses(&mut a, &other, "a suite that is not allowed");
    a.run(&json!({ "command": "allow suite", "suite": 2 }));
    let request = a.tell(MessageKind::Request, "us-west", &id).unwrap();
    carry(&mut a, &mut b, request).unwrap();

    // Old records at either side.
    let old = a.records.clone();
    a.manage(Manage::RotateKey, &id, &json!({})).unwrap();
    let mut all = [a, b];
    settle(&mut all, &id);
    let [a, b] = &mut all;
    let newer = std::mem::replace(&mut a.records, old);
    let offer = b.offer("eu-north", &[&id]).unwrap();
    refuses(a, &offer, "it holds a version that the primary does not know");
    a.records = newer;
    let request = b.offer("eu-north", &[&id]).unwrap();
    carry(b, a, request).unwrap();
}

#[test]
fn offers_are_bounded_and_end_with_the_login() {
    let [mut a, mut b] = regions(["eu-north", "us-west"]);
    let id = a.create(&json!({}));
    a.authorise(&id, "us-west").unwrap();
    let first = b.offer("eu-north", &[&id]).unwrap();
    for _ in 0..64 {
        b.offer("eu-north", &[&id]).unwrap();
    }
    let room = 1 << 20;
    let stored = a.stored(&id).unwrap();
    let keys = [Some(stored.held())];
    let ship = Command::Replicate(Replicate::Ship { offer: &first, keys: &keys, room });
    let Ok(Reply::Replicated { message: Some(shipment), .. }) = a.token.call(ship) else { panic!() };
    refuses(&mut b, &shipment, "an offer that went for a newer one");
    b.token.hsm.core.clock.pass_days(1);
    a.token.hsm.core.clock.pass_days(1);
    let offer = b.offer("eu-north", &[&id]).unwrap();
    let stored = a.stored(&id).unwrap();
    let keys = [Some(stored.held())];
    let ship = |room| Command::Replicate(Replicate::Ship { offer: &offer, keys: &keys, room });
    let Ok(Reply::Needed(room)) = a.token.call(ship(0)) else { panic!() };
    let Ok(Reply::Replicated { message: Some(shipment), .. }) = a.token.call(ship(room)) else { panic!() };
    assert!(shipment.len() <= room);
    b.token.call(Command::Logout).unwrap();
    b.token.log_in(Role::User);
    refuses(&mut b, &shipment, "an offer that a logout forgot");
    let request = a.tell(MessageKind::Request, "us-west", &id).unwrap();
    carry(&mut a, &mut b, request).unwrap();
}
