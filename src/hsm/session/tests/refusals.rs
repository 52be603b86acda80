//! Negotiations and connections that are not what they should be.

use super::super::message::{Body, SessionReply, SessionRequest, Signed};
use super::*;
use crate::error::ErrorKind;
use crate::hsm::domain::keys::PrivateKey;

/// What message 1 says, to be said otherwise.
fn said(world: &World, message1: &[u8]) -> SessionRequest {
    let key = world.follower.state().hosts[0].signing;
    Signed::decode::<SessionRequest>(message1).unwrap().verify(&key, &world.domain()).unwrap()
}

fn sign<'a>(body: &impl Body<'a>, key: &PrivateKey, domain: &[u8; 16]) -> Vec<u8> {
    body.sign(key, &key.public().unwrap().kid(), domain).unwrap()
}

fn flipped(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..bytes.len() * 8).map(|bit| {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    })
}

/// That no flipped bit and no other length of a message is taken. Each is unreadable, names another
/// signer, or changes what is signed or the signature; whether the last is noticed is tried for some
/// of them, as it takes a while.
fn only_as_it_was(message: &[u8], domain: &[u8; 16], mut takes: impl FnMut(&[u8]) -> bool) {
    let right = Signed::decode::<SessionRequest>(message).or_else(|_| Signed::decode::<SessionReply<'_>>(message));
    let right = right.unwrap();
    for (bit, changed) in flipped(message).enumerate() {
        let read = Signed::decode::<SessionRequest>(&changed).or_else(|_| Signed::decode::<SessionReply<'_>>(&changed));
        if let Ok(read) = read {
            assert!(read.kid != right.kid || read.covered(domain) != right.covered(domain), "bit {bit}");
            if read.kid == right.kid && bit % 41 != 0 {
                continue;
            }
        }
        assert!(!takes(&changed), "bit {bit}");
    }
    for len in 0..message.len() {
        assert!(!takes(&message[..len]));
    }
    assert!(!takes(&[message, &[0]].concat()));
}

#[test]
fn every_flipped_bit_of_message_1_is_refused() {
    let mut world = World::new("flip 1", Suite::P384);
    let (_, message1) = world.begin(0);
    let domain = world.domain();
    only_as_it_was(&message1, &domain, |bytes| {
        let answered = code(world.answer(0, bytes, NOW));
        assert!(answered.is_none() || answered == Some(Code::Refused));
        answered.is_none()
    });
    // None of them was remembered in place of the right one.
    assert!(world.answer(0, &message1, NOW).is_ok());
}

#[test]
fn every_flipped_bit_of_message_2_is_refused() {
    let mut world = World::new("flip 2", Suite::P384);
    let (negotiation, message1) = world.begin(0);
    let message2 = world.answer(0, &message1, NOW).unwrap();
    let member = world.follower.member(&world.hsm(0)).unwrap();
    let domain = world.domain();
    only_as_it_was(&message2, &domain, |bytes| {
        let signed = Signed::decode::<SessionReply<'_>>(bytes).ok().filter(|signed| signed.kid == member.kid());
        signed.is_some_and(|signed| signed.verify::<SessionReply<'_>>(&member, &domain).is_ok())
    });
    assert!(negotiation.finish_at(&world.follower, &message2, NOW).is_ok());
}

#[test]
fn message_1_says_the_right_things_or_is_refused() {
    for suite in [Suite::P384, Suite::P384MlKem1024] {
        let mut world = World::new("says", suite);
        let (_, message1) = world.begin(0);
        let right = said(&world, &message1);
        let (version, other) = (world.follower.version(), world.hsm(1));
        let later = |by: u64| SessionRequest { not_after: NOW + by, ..right.clone() };
        let cases: [(SessionRequest, Option<Code>); 10] = [
            (SessionRequest { host: [9; 16], ..right.clone() }, Some(Code::Refused)),
            (SessionRequest { hsm: other, ..right.clone() }, Some(Code::Refused)),
            (SessionRequest { lifetime: 0, ..right.clone() }, Some(Code::Refused)),
            (SessionRequest { version: version + 1, ..right.clone() }, Some(Code::Behind)),
            (SessionRequest { version: version - 1, ..right.clone() }, None),
            (later(121), Some(Code::Refused)),
            (later(120), None),
            (SessionRequest { not_after: NOW - 61, ..right.clone() }, Some(Code::Refused)),
            (SessionRequest { not_after: NOW - 60, ..right.clone() }, None),
            (SessionRequest { lifetime: u64::MAX, nonce: [1; 16], ..right.clone() }, None),
        ];
        for (request, expected) in cases {
            let message = request.sign(world.key.private(), &world.key.kid(), &world.domain()).unwrap();
            assert_eq!(code(world.answer(0, &message, NOW)), expected, "{request:?}");
        }
        // Another domain's, another key's, another kind of message; to another HSM.
        let domain = world.domain();
        let elsewhere = right.sign(world.key.private(), &world.key.kid(), &[9; 16]).unwrap();
        let stranger = sign(&right, &PrivateKey::generate(&mut Entropy::System).unwrap(), &domain);
        let own = world.answer(0, &message1, NOW).unwrap();
        for message in [elsewhere, stranger, own] {
            assert_eq!(code(world.answer(0, &message, NOW)), Some(Code::Refused));
        }
        let (_, for_other) = world.begin(1);
        assert_eq!(code(world.answer(0, &for_other, NOW)), Some(Code::Refused));
        // Once, and not again while it would count.
        assert_eq!(code(world.answer(0, &message1, NOW)), Some(Code::Refused));
        assert_eq!(code(world.answer(0, &message1, NOW + 120)), Some(Code::Refused));
        assert_eq!(code(world.answer(0, &message1, NOW + 121)), Some(Code::Refused));
    }
}

#[test]
fn nobody_retries_with_a_lower_suite() {
    let mut world = World::new("lower", Suite::P384);
    let (negotiation, in_suite_1) = world.begin(0);
    let answer = world.answer(0, &in_suite_1, NOW).unwrap();
    let session = negotiation.finish_at(&world.follower, &answer, NOW).unwrap();
    let (_, again) = world.begin(0);
    let (_, request) = session.connect(&world.follower, &world.hsm(0)).unwrap();
    world.run(Change::AllowSuite { suite: 2, allowed: true });
    assert_eq!(code(world.answer(0, &again, NOW)), Some(Code::Refused));
    assert_eq!(code(world.accept(0, &request, NOW)), Some(Code::Expired));
    assert!(session.connect(&world.follower, &world.hsm(0)).is_err());
    let session = world.session(0);
    assert_eq!(code(world.connect(&session, 0)), None);
}

#[test]
fn only_so_many_negotiations_of_a_host_are_remembered() {
    let seen = Seen::default();
    let insert = |host: u8, n: u32, until, now| {
        let hash = sha384(&n.to_be_bytes());
        seen.insert(&[host; 16], hash, until, now)
    };
    for n in 0..4096 {
        insert(1, n, NOW + 60, NOW).unwrap();
    }
    assert_eq!(code(insert(1, 4096, NOW + 60, NOW)), Some(Code::Busy));
    assert_eq!(code(insert(1, 7, NOW + 60, NOW)), Some(Code::Refused));
    insert(2, 4096, NOW + 60, NOW).unwrap();
    assert_eq!(code(insert(1, 7, NOW + 120, NOW + 60)), Some(Code::Refused));
    insert(1, 7, NOW + 120, NOW + 61).unwrap();
}

#[test]
fn message_2_says_the_right_things_or_is_refused() {
    for suite in [Suite::P384, Suite::P384MlKem1024] {
        let mut world = World::new("replies", suite);
        let (id, domain) = (world.hsm(0), world.domain());
        let lower = world.follower.version() - 1;
        let member = world.follower.member(&id).unwrap();
        // Each of them changes what the HSM says, and signs it.
        type Change = for<'a> fn(&mut SessionReply<'a>);
        let changes: [Change; 14] = [
            |reply| reply.request[0] ^= 1,
            |reply| reply.hsm[0] ^= 1,
            |reply| reply.host[0] ^= 1,
            |reply| reply.version += 1,
            |reply| reply.state[0] ^= 1,
            |reply| reply.valid_from = NOW + 61,
            |reply| reply.valid_until = NOW,
            |reply| reply.valid_until += 1,
            |reply| reply.valid_from -= 1,
            |reply| reply.q2 = PrivateKey::generate(&mut Entropy::System).unwrap().public().unwrap(),
            |reply| reply.esk[47] ^= 1,
            |reply| reply.ekt = &reply.ekt[1..],
            |reply| reply.ct = if reply.ct.is_some() { None } else { Some(Box::new([0; 1568])) },
            |reply| reply.ct = Some(Box::new([1; 1568])),
        ];
        let mut finish = |change: &dyn Fn(&mut SessionReply<'_>), now| {
            let (negotiation, message1) = world.begin(0);
            let message2 = world.answer(0, &message1, NOW).unwrap();
            let signed = Signed::decode::<SessionReply<'_>>(&message2).unwrap();
            let mut reply: SessionReply<'_> = signed.verify(&member, &domain).unwrap();
            change(&mut reply);
            let message2 = sign(&reply, world.hsms[0].own.signing(), &domain);
            negotiation.finish_at(&world.follower, &message2, now).is_ok()
        };
        assert!(finish(&|_| {}, NOW) && finish(&|_| {}, NOW - 60) && finish(&|_| {}, NOW + 1799));
        assert!(!finish(&|_| {}, NOW - 61) && !finish(&|_| {}, NOW + 1800));
        assert!(!finish(&|reply| reply.version = lower, NOW));
        for (n, change) in changes.iter().enumerate() {
            assert!(!finish(change, NOW), "change {n}");
        }
    }
}

#[test]
fn a_reply_is_for_one_message_and_from_one_hsm() {
    let mut world = World::new("reply", Suite::P384);
    let domain = world.domain();
    let (first, message1) = world.begin(0);
    let (second, _) = world.begin(0);
    let answer = world.answer(0, &message1, NOW).unwrap();
    assert!(second.finish_at(&world.follower, &answer, NOW).is_err());
    // Another member signs the same; the HSM signs it for another domain.
    let member = world.follower.member(&world.hsm(0)).unwrap();
    let said: SessionReply<'_> = Signed::decode::<SessionReply<'_>>(&answer).unwrap().verify(&member, &domain).unwrap();
    let by_other = sign(&said, world.hsms[1].own.signing(), &domain);
    let elsewhere = sign(&said, world.hsms[0].own.signing(), &[9; 16]);
    for forged in [&by_other, &elsewhere, &message1] {
        let (negotiation, _) = world.begin(0);
        assert!(negotiation.finish_at(&world.follower, forged, NOW).is_err());
    }
    assert!(first.finish_at(&world.follower, &answer, NOW).is_ok());
    // A refusal, and an answer to something else.
    let finish = |world: &mut World, reply: &[u8]| {
        let (negotiation, _) = world.begin(0);
        negotiation.finish(&world.follower, &reply[4..]).err().unwrap()
    };
    let busy = Refused::new(Code::Busy, "").to_wire();
    assert!(matches!(finish(&mut world, &busy), Failure::Refused(Code::Busy)));
    let admin = Reply::Admin.to_wire().unwrap();
    assert!(matches!(finish(&mut world, &admin), Failure::Invalid(_)));
}

#[test]
fn strangers_are_told_so() {
    let mut world = World::new("strangers", Suite::P384);
    let (id, mut at) = (world.hsm(0), world.at(NOW));
    let key = HostKey::generate().unwrap();
    let error = negotiate_at(&key, &world.process, &world.follower, &id, 60, &mut at).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::DeviceError);
    assert!(error.detail().unwrap().contains("this host is not in the domain"));
    let error = negotiate_at(&world.key, &world.process, &world.follower, &[9; 16], 60, &mut at).err().unwrap();
    assert!(error.detail().unwrap().contains("not a member"));
    let session = world.session(0);
    assert!(session.connect(&world.follower, &[9; 16]).is_err());
    // An HSM that is not in the state that it was brought.
    let own = Arc::new(OwnKeys::generate(&mut Entropy::System).unwrap());
    let (_, message1) = world.begin(0);
    let answered = answer_at(&world.hsms[0].opened, &own, &Seen::default(), &message1, &mut at);
    assert_eq!(code(answered), Some(Code::NotMember));
}

#[test]
fn every_flipped_bit_of_an_ekt_is_refused() {
    let mut world = World::new("ekt", Suite::P384);
    let session = world.session(0);
    let (_, request) = session.connect(&world.follower, &world.hsm(1)).unwrap();
    let Request::Connect { ekt, qc } = Request::decode(&request[4..]).unwrap() else { unreachable!() };
    let accept = |world: &mut World, ekt: &[u8], qc: &[u8], now| {
        let mut at = world.at(now);
        code(accept_at(&world.hsms[1].opened, &world.hsms[1].own, ekt, qc, &mut at))
    };
    assert_eq!(accept(&mut world, ekt, &qc, NOW), None);
    for changed in flipped(ekt) {
        assert!(matches!(accept(&mut world, &changed, &qc, NOW), Some(Code::Refused | Code::Expired)));
    }
    for len in 0..ekt.len() {
        assert_eq!(accept(&mut world, &ekt[..len], &qc, NOW), Some(Code::Refused));
    }
    // A point off the curve, and the times of it.
    let mut off = qc;
    off[119] ^= 1;
    assert_eq!(accept(&mut world, ekt, &off, NOW), Some(Code::Refused));
    for (now, expected) in
        [(NOW - 61, Some(Code::Expired)), (NOW - 60, None), (NOW + 1799, None), (NOW + 1800, Some(Code::Expired))]
    {
        assert_eq!(accept(&mut world, ekt, &qc, now), expected);
    }
}

#[test]
fn what_ends_a_session() {
    let mut world = World::new("ends", Suite::P384);
    let (by_0, by_1) = (world.session(0), world.session(1));
    let peer = world.connect(&by_1, 0).unwrap().peer;
    let check = |world: &World, now| code(peer.check(world.hsms[0].opened.state(), now));
    assert_eq!((check(&world, NOW), check(&world, NOW + 1800)), (None, Some(Code::Expired)));
    // A rotation.
    let requests = [0, 1].map(|hsm| by_0.connect(&world.follower, &world.hsm(hsm)).unwrap().1);
    world.run(Change::RotateDomainKey { retain: None });
    assert_eq!(check(&world, NOW), None);
    for (hsm, request) in requests.iter().enumerate() {
        assert_eq!(code(world.accept(hsm, request, NOW)), Some(Code::Expired));
    }
    // Expulsion of the HSM that issued it, which itself finds out.
    let by_1 = world.session(1);
    let (_, request) = by_1.connect(&world.follower, &world.hsm(0)).unwrap();
    let expelled = world.hsm(1);
    world.run(Change::ExpelHsm { id: expelled, retain: None });
    assert_eq!(check(&world, NOW), Some(Code::Expired));
    assert_eq!(code(world.accept(0, &request, NOW)), Some(Code::Expired));
    let session = world.session(0);
    assert!(session.connect(&world.follower, &expelled).is_err());
    // Expulsion of the host.
    let (id, host) = (world.hsm(0), world.host());
    let (_, message1) = world.begin(0);
    let (_, request) = session.connect(&world.follower, &id).unwrap();
    world.run(Change::ExpelHost { id: host });
    assert_eq!(check(&world, NOW), Some(Code::Refused));
    assert_eq!(code(world.answer(0, &message1, NOW)), Some(Code::Refused));
    assert_eq!(code(world.accept(0, &request, NOW)), Some(Code::Refused));
}

#[test]
fn a_host_gives_up_what_an_expelled_hsm_may_know() {
    let mut world = World::new("gives up", Suite::P384);
    let session = world.session(0);
    let id = world.hsm(0);
    // The expelled HSM answers as another one, which it can: it opens the EKT.
    let (connecting, request) = session.connect(&world.follower, &id).unwrap();
    let (reply, ..) = world.accept(0, &request, NOW).unwrap();
    let (negotiation, message1) = world.begin(0);
    let message2 = world.answer(0, &message1, NOW).unwrap();
    let before = world.follower.clone();
    let expelled = world.hsm(1);
    world.run(Change::ExpelHsm { id: expelled, retain: None });
    assert!(session.is_current(&before) && !session.is_current(&world.follower));
    assert!(session.connect(&world.follower, &id).is_err());
    assert!(connecting.finish(&session, &world.process, &world.follower, &reply[4..]).is_err());
    assert!(negotiation.finish_at(&world.follower, &message2, NOW).is_err());
    // A host that does not know of it yet learns that there is something to be learnt.
    let mut at = world.at(NOW);
    let (negotiation, message1) = negotiate_at(&world.key, &world.process, &before, &id, 1800, &mut at).unwrap();
    let message2 = world.answer(0, &message1, NOW).unwrap();
    assert!(matches!(negotiation.finish_at(&before, &message2, NOW), Err(Failure::Outdated)));
}

#[test]
fn a_connection_is_of_one_process_with_one_hsm() {
    let mut world = World::new("process", Suite::P384);
    let session = world.session(0);
    let begin = |world: &mut World| {
        let (connecting, request) = session.connect(&world.follower, &world.hsm(1)).unwrap();
        (connecting, world.accept(1, &request, NOW).unwrap())
    };
    // The key of the session alone is not enough.
    let thief = Process::new().unwrap();
    let (connecting, (reply, mut at_hsm, peer)) = begin(&mut world);
    let (_, hello) = connecting.finish(&session, &thief, &world.follower, &reply[4..]).unwrap();
    assert!(at_hsm.greet(&hello[4..], &peer, &mut Vec::new()).is_err());
    assert!(!at_hsm.is_open());
    // What was changed on the way: Qs, version, hash.
    for change in [
        |reply: &mut [u8; 120], _: &mut u64, _: &mut [u8; 48]| *reply = other_key(),
        |_: &mut [u8; 120], version: &mut u64, _: &mut [u8; 48]| *version += 1,
        |_: &mut [u8; 120], version: &mut u64, hash: &mut [u8; 48]| {
            *version += 1;
            hash[0] ^= 1;
        },
    ] {
        let (connecting, (reply, mut at_hsm, peer)) = begin(&mut world);
        let Ok(Reply::Connect { mut qs, mut version, mut hash }) = Reply::decode(&reply[4..]) else { unreachable!() };
        change(&mut qs, &mut version, &mut hash);
        let reply = Reply::Connect { qs, version, hash }.to_wire().unwrap();
        let (_, hello) = connecting.finish(&session, &world.process, &world.follower, &reply[4..]).unwrap();
        assert!(at_hsm.greet(&hello[4..], &peer, &mut Vec::new()).is_err());
    }
    // Another state of the version that the host knows.
    let (connecting, (reply, ..)) = begin(&mut world);
    let Ok(Reply::Connect { qs, version, .. }) = Reply::decode(&reply[4..]) else { unreachable!() };
    let fork = Reply::Connect { qs, version, hash: [1; 48] }.to_wire().unwrap();
    assert!(connecting.finish(&session, &world.process, &world.follower, &fork[4..]).is_err());
    // Meant for one HSM, carried to another.
    let (connecting, request) = session.connect(&world.follower, &world.hsm(0)).unwrap();
    let (reply, mut at_hsm, peer) = world.accept(1, &request, NOW).unwrap();
    let (_, hello) = connecting.finish(&session, &world.process, &world.follower, &reply[4..]).unwrap();
    assert!(at_hsm.greet(&hello[4..], &peer, &mut Vec::new()).is_err());
    // A greeting that is replayed on another connection of the same session.
    let (connecting, (reply, mut at_hsm, peer)) = begin(&mut world);
    let (_, hello) = connecting.finish(&session, &world.process, &world.follower, &reply[4..]).unwrap();
    at_hsm.greet(&hello[4..], &peer, &mut Vec::new()).unwrap();
    let (_, (_, mut another, peer)) = begin(&mut world);
    assert!(another.greet(&hello[4..], &peer, &mut Vec::new()).is_err());
}

fn other_key() -> [u8; 120] {
    *PrivateKey::generate(&mut Entropy::System).unwrap().public().unwrap().spki()
}
