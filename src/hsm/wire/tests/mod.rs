//! What is encoded is decoded as it was, and nothing else is decoded.

mod hostile;
mod sample;
mod serve;

use proptest::prelude::*;

pub(super) use self::sample::{Sample, Sampler};
use super::codec::Room;
use super::message::{
    Answer, ReplyHeader, Request, RequestHeader, decode_reply, decode_request, decode_response, encode_reply,
    encode_request, encode_response,
};
use crate::hsm::domain::cbor::Encoder;
use crate::hsm::{Mechanism, Params, Raw, Template, Ticket, Wiped};

type Buffer = Wiped;

/// The form of a message, and how it is shown; None for what is none.
type Reading = fn(&[u8]) -> Option<(Buffer, String)>;

/// A message as a sampler makes it, and how it is read.
type Message = (fn(&mut Sampler<'_>) -> (Buffer, String), Reading);

macro_rules! message {
    (|$s:ident| $make:expr, |$bytes:ident, $room:ident| $read:expr, |$value:ident, $out:ident| $write:expr) => {{
        fn make(s: &mut Sampler<'_>) -> (Buffer, String) {
            let $s = s;
            let $value = $make;
            let mut $out = Buffer::default();
            $write;
            ($out, format!("{:?}", $value))
        }
        fn read(bytes: &[u8]) -> Option<(Buffer, String)> {
            let room = Room::new();
            let ($bytes, $room) = (bytes, &room);
            let $value = $read.ok()?;
            let mut $out = Buffer::default();
            $write;
            Some(($out, format!("{:?}", $value)))
        }
        (make as fn(&mut Sampler<'_>) -> (Buffer, String), read as Reading)
    }};
}

fn messages() -> [Message; 3] {
    [
        message!(
            |s| (s.make::<RequestHeader>(), s.make::<Request<'_>>()),
            |bytes, room| decode_request(bytes, room),
            |value, out| encode_request(&value.0, &value.1, &mut out).unwrap()
        ),
        message!(
            |s| (s.make::<ReplyHeader>(), s.make::<Answer<'_>>()),
            |bytes, room| decode_reply(bytes, room),
            |value, out| encode_reply(&value.0, &value.1, &mut out)
        ),
        message!(|s| s.make::<super::Response>(), |bytes, _room| decode_response(bytes), |value, out| encode_response(
            &value, &mut out
        )
        .unwrap()),
    ]
}

/// Calls `with` with sampled messages of each kind.
fn sampled(seed: u64, mut with: impl FnMut(Buffer, String, Reading)) {
    for (make, read) in messages() {
        let (text, room) = (sample::text(seed), Room::new());
        let (message, shown) = make(&mut Sampler::new(seed, &text, &room));
        with(message, shown, read);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn everything_arrives_as_it_was(seed: u64) {
        sampled(seed, |message, shown, read| {
            let (again, arrived) = read(&message).unwrap();
            assert_eq!(arrived, shown);
            assert_eq!(again, message);
        });
    }

    #[test]
    fn what_was_damaged_is_refused_or_is_another_message(seed: u64, damage: u64) {
        sampled(seed, |mut message, _, read| {
            let at = usize::try_from(damage).unwrap() % message.len();
            assert!(read(&message[..at]).is_none(), "cut off at {at}");
            message.append(&[0]);
            assert!(read(&message).is_none(), "with one more byte");
            message.truncate(message.len() - 1);
            message[at] ^= 1 << (damage >> 61);
            if let Some((again, _)) = read(&message) {
                assert_eq!(again, message);
            }
        });
    }

    #[test]
    fn noise_is_no_message(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        for (_, read) in messages() {
            assert!(read(&noise).is_none());
        }
    }
}

fn header() -> RequestHeader {
    RequestHeader { version: 1, hash: [0; 48], stamp: 0, heard: 0, ticket: Ticket::public() }
}

fn reads(message: &[u8]) -> bool {
    let room = Room::new();
    decode_request(message, &room).is_ok()
}

fn sent(request: &Request<'_>) -> Buffer {
    let mut message = Buffer::default();
    encode_request(&header(), request, &mut message).unwrap();
    message
}

#[test]
fn templates_nest_as_deep_as_a_caller_may_nest_them_and_hold_as_much() {
    use crate::hsm::{Command, Place};
    let nested = |depth| (0..depth).fold(Template::default(), |inner, _| Template(vec![(1, Raw::Template(inner))]));
    let long = |len| Template(vec![(1, Raw::Bytes(&[])); len]);
    for (template, fits) in [(nested(4), true), (nested(5), false), (long(4096), true), (long(4097), false)] {
        let command = Command::Create { template: &template, place: Place::Session };
        assert_eq!(reads(&sent(&Request::Call(command))), fits);
    }
    // As many brackets as a frame takes are no deeper.
    let mut message = sent(&Request::Call(Command::Create { template: &long(0), place: Place::Session })).to_vec();
    let at = message.len() - 2;
    message.splice(at..at, std::iter::repeat_n([0x82, 1], 1 << 16).flatten());
    assert!(!reads(&message));
}

#[test]
fn a_length_that_is_not_there_costs_nothing() {
    let mut e = Encoder::new();
    e.array(6).uint(1).bytes(&[0; 48]).uint(0).uint(0).bytes(&[]);
    e.array(5).uint(14).bytes(&[]).bytes(&[]).uint(0);
    let head = e.finish();
    for claim in [&[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], &[0x9a, 0xff, 0xff, 0xff, 0xff, 0x40]] {
        assert!(!reads(&[&head, claim].concat()));
    }
    // More items than a message may have, each of them there.
    let many = [&[0x9a, 0, 4, 0, 1][..], &vec![0x40; (1 << 18) + 1]].concat();
    assert!(!reads(&[&head[..], &many].concat()));
}

#[test]
fn a_secret_is_written_once() {
    let mechanism = Mechanism {
        kind: 0,
        params: Params::Pbkd2 { prf: 1, salt: b"salt", iterations: 1, password: crate::hsm::Secret(b"the password") },
    };
    let template = Template::default();
    let place = crate::hsm::Place::Session;
    let command = crate::hsm::Command::GenerateKey { mechanism: &mechanism, template: &template, place };
    let message = sent(&Request::Call(command));
    assert_eq!(message.windows(12).filter(|window| window == b"the password").count(), 1);
    assert!(!format!("{mechanism:?}").contains("password\""));
}
