//! Frames that do not arrive as they were sent: every one of them closes the link.

use super::super::super::crypto::Wiped;
use super::super::host::Process as HostProcess;
use super::super::link::End;
use super::*;

type Message = Wiped;

/// Two links with the same keys, without a handshake.
fn ends() -> (Link, Link) {
    let keys = std::array::from_fn(|n| n as u8);
    (Link::new(End::Host, &keys, NOW).unwrap(), Link::new(End::Hsm, &keys, NOW).unwrap())
}

fn sealed(link: &mut Link, message: &[u8]) -> Vec<Vec<u8>> {
    let mut wire = Vec::new();
    link.seal(message, &mut wire).unwrap();
    frames(&wire)
}

/// That a link refuses a frame, and then everything.
fn closes(link: &mut Link, frame: &[u8]) {
    let mut message = Message::default();
    assert!(link.open(frame, &mut message).is_err());
    assert!(message.is_empty() && !link.is_open());
    assert!(link.seal(b"more", &mut Vec::new()).is_err());
}

#[test]
fn every_flipped_bit_closes() {
    let (mut host, _) = ends();
    let frame = &sealed(&mut host, b"a request")[0];
    for bit in 0..frame.len() * 8 {
        let mut flipped = frame.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        closes(&mut ends().1, &flipped);
    }
    for len in 0..frame.len() {
        closes(&mut ends().1, &frame[..len]);
    }
    closes(&mut ends().1, &[&frame[..], &[0]].concat());
    assert!(ends().1.open(frame, &mut Message::default()).unwrap());
}

#[test]
fn frames_are_taken_in_order_and_once() {
    let (mut host, mut hsm) = ends();
    let frames: Vec<_> = (0..3).map(|n| sealed(&mut host, &[n]).remove(0)).collect();
    closes(&mut ends().1, &frames[1]);
    hsm.open(&frames[0], &mut Message::default()).unwrap();
    closes(&mut hsm, &frames[0]);
    let (_, mut hsm) = ends();
    hsm.open(&frames[0], &mut Message::default()).unwrap();
    closes(&mut hsm, &frames[2]);
}

#[test]
fn frames_are_of_one_direction_one_request_and_one_connection() {
    let (mut host, mut hsm) = ends();
    let request = sealed(&mut host, b"request").remove(0);
    // Sent back to who sent it.
    closes(&mut host, &request);
    hsm.open(&request, &mut Message::default()).unwrap();
    let reply = sealed(&mut hsm, b"reply").remove(0);
    closes(&mut hsm, &reply);
    // For another request than it was made for.
    let (mut host, _) = ends();
    host.begin_request();
    closes(&mut host, &reply);
    let (mut host, mut hsm) = ends();
    host.begin_request();
    closes(&mut hsm, &sealed(&mut host, b"request")[0]);
    // From another connection, between the same ends.
    let mut keys: [u8; 64] = std::array::from_fn(|n| n as u8);
    keys[31] ^= 1;
    let mut other = Link::new(End::Host, &keys, NOW).unwrap();
    closes(&mut ends().1, &sealed(&mut other, b"request")[0]);
}

#[test]
fn messages_are_cut_in_one_way() {
    let (mut host, mut hsm) = ends();
    let cut = sealed(&mut host, &[7; 65_536 * 2 + 1]);
    assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), [FRAME_MAX, FRAME_MAX, 18]);
    // The end is missing: no last frame. An end that came too early is another frame.
    let mut message = Message::default();
    assert!(!hsm.open(&cut[0], &mut message).unwrap() && !hsm.open(&cut[1], &mut message).unwrap());
    assert_eq!(message.len(), 2 * 65_536);
    let mut early = cut[0].clone();
    early[0] = 1;
    closes(&mut ends().1, &early);
    early[0] = 2;
    closes(&mut ends().1, &early);
    // Frames that are larger than one may be, or small and not the last.
    closes(&mut ends().1, &vec![0; FRAME_MAX + 1]);
    let mut small = sealed(&mut ends().0, b"part").remove(0);
    small[0] = 0;
    closes(&mut ends().1, &small);
    // Messages that are longer than one may be.
    let (mut host, mut hsm) = ends();
    assert!(host.seal(&vec![0; MESSAGE_MAX + 1], &mut Vec::new()).is_err());
    assert!(host.is_open());
    let mut message = Message::zeros(MESSAGE_MAX);
    let frame = sealed(&mut host, b"!").remove(0);
    assert!(hsm.open(&frame, &mut message).is_err() && message.len() == MESSAGE_MAX);
}

#[test]
fn greetings_are_of_the_process() {
    let peer = World::pair("greetings").peer;
    let (mut host, mut hsm) = ends();
    let wrong = HostProcess::new().unwrap();
    let hello = host.hello(&wrong).unwrap();
    assert!(hsm.greet(&hello[4..], &peer, &mut Vec::new()).is_err());
    let (mut host, mut hsm) = ends();
    let (hello, mut answer) = (host.hello(&wrong).unwrap(), Vec::new());
    hsm.greet(&hello[4..], &Peer { process: wrong.id(), ..peer }, &mut answer).unwrap();
    host.greeted(&answer[4..]).unwrap();
    // Any other answer is none.
    for other in [&b""[..], b"\x01", b"\0\0"] {
        let (mut host, mut hsm) = ends();
        assert!(host.greeted(&sealed(&mut hsm, other)[0]).is_err() && !host.is_open());
    }
}

#[test]
fn buffers_are_used_again() {
    let (mut host, mut hsm) = ends();
    let (mut wire, mut message) = (Vec::with_capacity(4096), Message::from(Vec::with_capacity(4096)));
    let (at, to) = (wire.as_ptr(), message.as_ptr());
    for n in 0..100u32 {
        wire.clear();
        message.clear();
        host.seal(&n.to_be_bytes(), &mut wire).unwrap();
        assert!(hsm.open(&wire[4..], &mut message).unwrap());
        assert_eq!(*message, n.to_be_bytes());
        host.begin_request();
        hsm.begin_request();
    }
    assert_eq!((at, to), (wire.as_ptr(), message.as_ptr()));
}
