//! Decoders: what they read is what would be written, and nothing makes them panic.

use proptest::prelude::*;

use super::super::ekt::Terms;
use super::super::message::{SessionReply, SessionRequest, Signed};
use super::*;

#[test]
fn clear_messages_are_read_as_they_were_written() {
    let entries: Vec<&[u8]> = vec![b"one", b"two"];
    let requests = [
        Request::Status,
        Request::Bring { origin: b"origin", newest: b"newest", after: 7, entries },
        Request::Negotiate(b"message"),
        Request::Connect { ekt: b"ekt", qc: [4; 120] },
        Request::Admin,
    ];
    for request in requests {
        let wire = request.to_wire().unwrap();
        assert_eq!(u32::from_be_bytes(*wire.first_chunk().unwrap()) as usize, wire.len() - 4);
        assert_eq!(Request::decode(&wire[4..]).unwrap(), request);
        strict(&wire[4..], |bytes| Request::decode(bytes).is_ok());
    }
    let status = Status { hsm: [1; 16], kid: [2; 32], domain: None, version: 0, hash: None, member: false };
    let full = Status { domain: Some([3; 16]), version: 5, hash: Some([4; 48]), member: true, ..status.clone() };
    let contradictions = [
        Status { version: 1, ..status.clone() },
        Status { member: true, ..status.clone() },
        Status { hash: None, ..full.clone() },
        Status { version: 0, ..full.clone() },
    ];
    for status in contradictions {
        assert!(Reply::decode(&Reply::Status(status).to_wire().unwrap()[4..]).is_err());
    }
    let replies = [
        Reply::Status(status),
        Reply::Status(full),
        Reply::Negotiate(b"message"),
        Reply::Connect { qs: [4; 120], version: 9, hash: [5; 48] },
        Reply::Admin,
    ];
    for reply in replies {
        let wire = reply.to_wire().unwrap();
        assert_eq!(Reply::decode(&wire[4..]).unwrap(), reply);
        strict(&wire[4..], |bytes| Reply::decode(bytes).is_ok());
    }
    for code in Code::ALL {
        let wire = Refused::new(code, "why").to_wire();
        assert_eq!(wire, Reply::Refused(code).to_wire().unwrap());
        assert!(matches!(Reply::decode(&wire[4..]), Err(Failure::Refused(read)) if read == code));
    }
    assert!(matches!(Reply::decode(&[0x82, 0x18, 255, 7]), Err(Failure::Invalid(_))));
}

/// That no other length of it is read.
fn strict(bytes: &[u8], reads: impl Fn(&[u8]) -> bool) {
    assert!((0..bytes.len()).all(|len| !reads(&bytes[..len])));
    assert!(!reads(&[bytes, &[0]].concat()));
}

#[test]
fn clear_messages_have_a_largest_size() {
    let over = vec![0; CLEAR_MAX];
    assert!(Request::Negotiate(&over).to_wire().is_err() && Reply::Negotiate(&over).to_wire().is_err());
    let bring = |len: usize| Request::Bring { origin: &[], newest: &vec![0; len], after: 1, entries: vec![] }.to_wire();
    assert!(bring(BRING_MAX).is_err());
    let wire = bring(BRING_MAX - 100).unwrap();
    assert_eq!(clear_limit([wire[4], wire[5]]), BRING_MAX);
    assert!(Request::decode(&wire[4..]).is_ok());
    let too_large = |bytes: &[u8]| code(Request::decode(bytes).map(drop));
    assert_eq!(too_large(&[&wire[4..], &[0; 101]].concat()), Some(Code::TooLarge));
    assert_eq!(too_large(&vec![0x82; CLEAR_MAX + 1]), Some(Code::TooLarge));
    assert_eq!(clear_limit([0x82, 2]), CLEAR_MAX);
    // Entries of nothing would take sixteen times their length and more.
    let entries = vec![&[][..]; BRING_MAX / 128 + 1];
    let wire = Request::Bring { origin: &[], newest: &[], after: 1, entries }.to_wire().unwrap();
    assert!(Request::decode(&wire[4..]).is_err());
    assert!(matches!(Reply::decode(&vec![0x82; CLEAR_MAX + 1]), Err(Failure::Invalid(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is read is written again as it was.
    #[test]
    fn clear_messages_have_one_encoding(
        kind in prop_oneof![Just(0u8), Just(1), Just(2), Just(3), Just(4), any::<u8>()],
        items in 0u8..8,
        rest in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [&[0x80 | items, kind], &rest[..]].concat();
        for bytes in [&bytes, &rest] {
            if let Ok(request) = Request::decode(bytes) {
                prop_assert_eq!(&request.to_wire().unwrap()[4..], &bytes[..]);
            }
            if let Ok(reply) = Reply::decode(bytes) {
                prop_assert_eq!(&reply.to_wire().unwrap()[4..], &bytes[..]);
            }
        }
    }

    /// Bytes of every kind, and good messages with a piece replaced, do no harm.
    #[test]
    fn decoders_take_any_bytes(
        junk in proptest::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
    ) {
        let good = good();
        for message in &good.messages {
            let start = at.index(message.len());
            let mut changed = message.clone();
            let end = (start + junk.len() % 8).min(changed.len());
            changed.splice(start..end, junk.iter().copied().take(8));
            for bytes in [&changed, &junk] {
                let _ = Signed::decode::<SessionRequest>(bytes);
                let _ = Signed::decode::<SessionReply<'_>>(bytes);
                if let Ok((terms, _)) = Terms::open(bytes, &good.world.hsms[0].opened, NOW) {
                    prop_assert!(*bytes == good.messages[2] && terms.host == good.world.host());
                }
            }
        }
    }
}

/// What one negotiation leaves.
struct Good {
    /// Message 1, message 2, the EKT.
    messages: [Vec<u8>; 3],
    world: World,
}

fn good() -> &'static Good {
    static GOOD: std::sync::OnceLock<Good> = std::sync::OnceLock::new();
    GOOD.get_or_init(|| {
        let mut world = World::new("codec", Suite::P384);
        let (negotiation, message1) = world.begin(0);
        let message2 = world.answer(0, &message1, NOW).unwrap();
        let session = negotiation.finish_at(&world.follower, &message2, NOW).unwrap();
        let ekt = session.for_tests().0.to_vec();
        Good { messages: [message1, message2, ekt], world }
    })
}
