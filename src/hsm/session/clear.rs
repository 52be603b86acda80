//! Clear messages: what is sent before, or instead of, a handshake. CBOR arrays that begin with
//! their kind, each behind its length (u32, big-endian).

use super::super::domain::cbor::{Decoded, Decoder, Encoder, Malformed};
use super::{Code, Failure, HsmId, Refused};
use crate::error::{ErrorKind, Result};

/// The most bytes of a clear message.
pub const CLEAR_MAX: usize = 64 * 1024;
/// The most bytes of a [`Request::Bring`].
pub const BRING_MAX: usize = 16 << 20;
/// The most entries of it. Each is signed, so that many would be longer; lists of nothing take memory.
const ENTRIES_MAX: usize = BRING_MAX / 128;

const STATUS: u64 = 0;
const BRING: u64 = 1;
const NEGOTIATE: u64 = 2;
const CONNECT: u64 = 3;
const ADMIN: u64 = 4;
const REFUSED: u64 = 255;

/// From a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    Status,
    /// The domain's history: the token it begins with, the newest, and the entries of the versions
    /// after `after`, which is the origin's version or the HSM's own. Answered as `Status`.
    Bring {
        origin: &'a [u8],
        newest: &'a [u8],
        after: u64,
        entries: Vec<&'a [u8]>,
    },
    /// Message 1.
    Negotiate(&'a [u8]),
    /// A session's EKT, and Qc as SubjectPublicKeyInfo.
    Connect {
        ekt: &'a [u8],
        qc: [u8; 120],
    },
    /// Clear frames with requests and replies follow: on an admin socket only.
    Admin,
}

/// From an HSM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<'a> {
    Status(Status),
    /// Message 2.
    Negotiate(&'a [u8]),
    /// Qs, and the version and hash of the HSM's state. Encrypted frames follow.
    Connect {
        qs: [u8; 120],
        version: u64,
        hash: [u8; 48],
    },
    Admin,
    Refused(Code),
}

/// An HSM as it says it is: not authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub hsm: HsmId,
    /// Of QHSK: SHA-256 of its SubjectPublicKeyInfo.
    pub kid: [u8; 32],
    /// None before it has a domain; then `version` is 0 and `hash` None.
    pub domain: Option<[u8; 16]>,
    pub version: u64,
    /// Of the state.
    pub hash: Option<[u8; 48]>,
    pub member: bool,
}

/// The most bytes of a clear message that begins with these two.
pub fn clear_limit(start: [u8; 2]) -> usize {
    // An array of five, of which the first is the kind.
    if start == [0x85, BRING as u8] { BRING_MAX } else { CLEAR_MAX }
}

impl<'a> Request<'a> {
    /// The message, its length in front. CKR_DATA_LEN_RANGE if no HSM would take it.
    pub fn to_wire(&self) -> Result<Vec<u8>> {
        let mut e = begin();
        match self {
            Self::Status => e.array(1).uint(STATUS),
            Self::Bring { origin, newest, after, entries } => {
                e.array(5).uint(BRING).bytes(origin).bytes(newest).uint(*after).list(entries, |e, entry| {
                    e.bytes(entry);
                })
            }
            Self::Negotiate(message) => e.array(2).uint(NEGOTIATE).bytes(message),
            Self::Connect { ekt, qc } => e.array(3).uint(CONNECT).bytes(ekt).bytes(qc),
            Self::Admin => e.array(1).uint(ADMIN),
        };
        finish(e, if matches!(self, Self::Bring { .. }) { BRING_MAX } else { CLEAR_MAX })
    }

    /// Reads a message of at most [`clear_limit`] bytes.
    pub fn decode(bytes: &'a [u8]) -> std::result::Result<Self, Refused> {
        let limit = bytes.first_chunk().map_or(CLEAR_MAX, |start| clear_limit(*start));
        if bytes.len() > limit {
            return Err(Refused::new(Code::TooLarge, format!("a clear message of {} bytes", bytes.len())));
        }
        Ok(Self::read(bytes)?)
    }

    fn read(bytes: &'a [u8]) -> Decoded<Self> {
        let mut d = Decoder::new(bytes);
        let request = match (d.array()?, d.uint()?) {
            (1, STATUS) => Self::Status,
            (5, BRING) => {
                Self::Bring { origin: d.bytes()?, newest: d.bytes()?, after: d.uint()?, entries: entries(&mut d)? }
            }
            (2, NEGOTIATE) => Self::Negotiate(d.bytes()?),
            (3, CONNECT) => Self::Connect { ekt: d.bytes()?, qc: d.fixed()? },
            (1, ADMIN) => Self::Admin,
            _ => return Err(Malformed("an unknown clear message")),
        };
        d.end()?;
        Ok(request)
    }
}

impl<'a> Reply<'a> {
    /// The message, its length in front.
    pub fn to_wire(&self) -> Result<Vec<u8>> {
        let mut e = begin();
        match self {
            Self::Status(Status { hsm, kid, domain, version, hash, member }) => {
                e.array(7).uint(STATUS).bytes(hsm).bytes(kid);
                e.optional(domain.as_ref(), |e, domain| {
                    e.bytes(domain);
                });
                e.uint(*version).optional(hash.as_ref(), |e, hash| {
                    e.bytes(hash);
                });
                e.bool(*member)
            }
            Self::Negotiate(message) => e.array(2).uint(NEGOTIATE).bytes(message),
            Self::Connect { qs, version, hash } => e.array(4).uint(CONNECT).bytes(qs).uint(*version).bytes(hash),
            Self::Admin => e.array(1).uint(ADMIN),
            Self::Refused(code) => return Ok(refusal(*code)),
        };
        finish(e, CLEAR_MAX)
    }

    /// Reads a reply; a refusal is the error.
    pub fn decode(bytes: &'a [u8]) -> std::result::Result<Self, Failure> {
        if bytes.len() > CLEAR_MAX {
            return Err(Malformed("a clear message is too large").into());
        }
        match Self::read(bytes)? {
            Self::Refused(code) => Err(Failure::Refused(code)),
            reply => Ok(reply),
        }
    }

    fn read(bytes: &'a [u8]) -> Decoded<Self> {
        let mut d = Decoder::new(bytes);
        let reply = match (d.array()?, d.uint()?) {
            (7, STATUS) => {
                let (hsm, kid) = (d.fixed()?, d.fixed()?);
                let (domain, version) = (d.optional(Decoder::fixed)?, d.uint()?);
                let (hash, member) = (d.optional(Decoder::fixed)?, d.bool()?);
                if domain.is_some() != hash.is_some() || domain.is_some() != (version > 0) || member && domain.is_none()
                {
                    return Err(Malformed("a status contradicts itself"));
                }
                Self::Status(Status { hsm, kid, domain, version, hash, member })
            }
            (2, NEGOTIATE) => Self::Negotiate(d.bytes()?),
            (4, CONNECT) => Self::Connect { qs: d.fixed()?, version: d.uint()?, hash: d.fixed()? },
            (1, ADMIN) => Self::Admin,
            (2, REFUSED) => Self::Refused(Code::of_number(d.uint()?).ok_or(Malformed("an unknown refusal"))?),
            _ => return Err(Malformed("an unknown clear reply")),
        };
        d.end()?;
        Ok(reply)
    }
}

fn entries<'a>(d: &mut Decoder<'a>) -> Decoded<Vec<&'a [u8]>> {
    match d.array()? {
        len if len <= ENTRIES_MAX => (0..len).map(|_| d.bytes()).collect(),
        _ => Err(Malformed("too many entries")),
    }
}

pub(super) fn refusal(code: Code) -> Vec<u8> {
    let mut e = begin();
    e.array(2).uint(REFUSED).uint(code.number());
    with_length(e)
}

/// With room for the length.
fn begin() -> Encoder {
    let mut e = Encoder::new();
    e.raw(&[0; 4]);
    e
}

fn finish(e: Encoder, limit: usize) -> Result<Vec<u8>> {
    let wire = with_length(e);
    if wire.len() - 4 > limit {
        return Err(ErrorKind::DataLenRange.with(format!("a message to an HSM has at most {limit} bytes in clear")));
    }
    Ok(wire)
}

fn with_length(e: Encoder) -> Vec<u8> {
    let mut wire = e.finish();
    let len = u32::try_from(wire.len() - 4).unwrap_or(u32::MAX);
    wire[..4].copy_from_slice(&len.to_be_bytes());
    wire
}
