//! Sessions between a host and the HSMs of a fleet: their messages and their key schedule, both ends
//! (`docs/protocols.md`, "Sessions").
//!
//! Nothing here has a socket, and only [`Seen`] has state: bytes and the time go in, bytes come out.
//! What is returned to be sent is ready for the wire, its length in front; what is received is given
//! without that length. A host does
//! ```text
//! replay → Follower            once, and Follower::advance when the domain goes on
//! negotiate → Negotiation      once per process and validity period
//! Negotiation::finish → Session
//! Session::connect → Connecting, finish → Link, Link::greeted     per connection, to any member
//! Link::begin_request, seal, open                                 per request
//! ```
//! and an HSM answers with `answer`, `accept`, [`Link::greet`] and the same of `Link`.

mod clear;
mod ekt;
mod follower;
mod host;
mod link;
mod member;
mod message;
mod schedule;

use std::borrow::Cow;
use std::fmt;

use super::domain::Hash;
use super::domain::cbor::Malformed;
use crate::error::{Error, ErrorKind};

pub use clear::{BRING_MAX, CLEAR_MAX, Reply, Request, Status, clear_limit};
pub use follower::{Follower, replay};
pub use host::{Connecting, HostKey, Negotiation, Process, Session, negotiate};
pub use link::{FRAME_MAX, Link, MESSAGE_MAX};
pub use member::{Peer, Seen};
#[allow(unused_imports, reason = "the HSM's side is called by the member of a fleet")]
pub(in crate::hsm) use member::{accept, answer};

/// An HSM's id in the domain's state.
pub type HsmId = [u8; 16];

/// How far the clocks of a host and an HSM may differ, in seconds.
const SKEW: u64 = 60;

/// What an HSM answers when it does not do what a clear message asks; the numbers are the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// For a reason that is the HSM's.
    Refused = 1,
    Busy = 2,
    /// It is not a member, as far as it knows: bring it the domain.
    NotMember = 3,
    /// Its state is older than the host's: bring it the domain.
    Behind = 4,
    TooLarge = 5,
    /// The session is over, or under an older domain key: negotiate again.
    Expired = 6,
}

impl Code {
    const ALL: [Self; 6] = [Self::Refused, Self::Busy, Self::NotMember, Self::Behind, Self::TooLarge, Self::Expired];

    fn number(self) -> u64 {
        self as u64
    }

    fn of_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// Whether the HSM keeps the connection, for what the host does next.
    pub fn keeps_connection(self) -> bool {
        matches!(self, Self::NotMember | Self::Behind | Self::Expired)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Refused => "the HSM refused it",
            Self::Busy => "the HSM is busy",
            Self::NotMember => "the HSM is not a member of the domain",
            Self::Behind => "the HSM's domain state is older than the host's",
            Self::TooLarge => "the HSM found the message too large",
            Self::Expired => "the HSM wants the session negotiated anew",
        }
    }
}

/// An HSM's refusal: the code is for the peer, the reason for the HSM's own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub code: Code,
    pub why: Cow<'static, str>,
}

impl Refused {
    pub(in crate::hsm) fn new(code: Code, why: impl Into<Cow<'static, str>>) -> Self {
        Self { code, why: why.into() }
    }

    /// The reply that says so.
    pub fn to_wire(&self) -> Vec<u8> {
        clear::refusal(self.code)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        Self::new(Code::Refused, malformed.0)
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::new(Code::Refused, error.to_string())
    }
}

/// Why a host does not get on with an HSM.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The HSM said so.
    Refused(Code),
    /// It knows a newer state than the host: advance the follower by the store's newest, begin anew.
    Outdated,
    /// What it sent is not to be trusted or not to be read, or something failed on this side.
    Invalid(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Invalid(error)
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Invalid(not_taken(malformed.0))
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(code) => ErrorKind::DeviceError.with(code.text()),
            Failure::Outdated => ErrorKind::DeviceError.with(OUTDATED),
            Failure::Invalid(error) => error,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(code) => f.write_str(code.text()),
            Self::Outdated => f.write_str(OUTDATED),
            Self::Invalid(error) => error.fmt(f),
        }
    }
}

const OUTDATED: &str = "the HSM has a newer state of the domain than the host";

/// The error of a message from an HSM that a host does not take.
fn not_taken(why: impl fmt::Display) -> Error {
    ErrorKind::DeviceError.with(format!("the HSM's message was not taken: {why}"))
}

fn sha384(bytes: &[u8]) -> Hash {
    use sha2::Digest;
    sha2::Sha384::digest(bytes).into()
}

#[cfg(test)]
mod tests;
