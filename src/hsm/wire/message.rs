//! Requests, replies, and the callbacks between them.

use std::borrow::Cow;

use super::super::command::{ApprovalRequest, Command, Function, PinRecord, Record, Reply, Ticket};
use super::super::domain::cbor::{Decoded, Decoder, Encoder, Malformed, Sink};
use super::super::{AuditBatch, AuditStatus, AuditTip, Mechanism, Wiped};
use super::codec::{Room, Wire, count, put_list, take_list, wire_enum, wire_struct};
use super::{MAX_MESSAGE, MAX_TICKET};
use crate::error::{Error, ErrorKind, Result};

/// An operation that an HSM holds for a host process.
pub type StreamId = u64;

/// What a host says with each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// The newest domain state that it knows.
    pub version: u64,
    pub hash: [u8; 48],
    /// Of the store, when it read the records that it sends.
    pub stamp: u64,
    /// What an HSM said last that it had heard ([`Answer::Stale`]), if the host has read the store since.
    pub heard: u64,
    pub ticket: Ticket,
}

/// What an HSM says with each reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyHeader {
    /// The domain state that it holds.
    pub version: u64,
    pub hash: [u8; 48],
    /// The highest stamp that was announced to it.
    pub stamp: u64,
    pub audit: AuditStatus,
}

/// What a host asks. `room` is how many bytes the caller's buffer takes, None where the caller asks for
/// the length alone.
#[derive(Debug)]
pub enum Request<'a> {
    /// Answered by [`Answer::Reply`].
    Call(Command<'a>),
    /// Answered by [`Answer::Stream`].
    Begin {
        function: Function,
        mechanism: &'a Mechanism<'a>,
        record: Option<&'a Record>,
    },
    /// Begins an operation and ends it with the whole input: [`Answer::Written`], [`Answer::Needed`] or
    /// [`Answer::ApprovalWanted`].
    OneShot {
        function: Function,
        mechanism: &'a Mechanism<'a>,
        record: Option<&'a Record>,
        input: &'a [u8],
        room: Option<usize>,
    },
    /// The same of a verification: [`Answer::Done`] or [`Answer::ApprovalWanted`].
    VerifyOneShot {
        function: Function,
        mechanism: &'a Mechanism<'a>,
        record: Option<&'a Record>,
        input: &'a [u8],
        signature: &'a [u8],
    },
    /// [`Answer::Written`] or [`Answer::Needed`], as the two below.
    Update {
        stream: StreamId,
        input: &'a [u8],
        room: Option<usize>,
    },
    Finish {
        stream: StreamId,
        room: Option<usize>,
    },
    StreamOneShot {
        stream: StreamId,
        input: &'a [u8],
        room: Option<usize>,
    },
    /// [`Answer::Done`].
    Verify {
        stream: StreamId,
        signature: &'a [u8],
    },
    /// [`Answer::Done`].
    StreamVerifyOneShot {
        stream: StreamId,
        input: &'a [u8],
        signature: &'a [u8],
    },
    /// [`Answer::ApprovalWanted`], or [`Answer::Done`] where nothing is to be approved.
    Approval {
        stream: StreamId,
        input: Option<&'a [u8]>,
    },
    /// [`Answer::Done`].
    DigestKey {
        stream: StreamId,
        record: &'a Record,
    },
    /// [`Answer::Written`].
    Save {
        stream: StreamId,
    },
    /// [`Answer::Stream`].
    Resume {
        state: &'a [u8],
    },
    /// [`Answer::Done`], also where there is no such stream.
    End {
        stream: StreamId,
    },
    /// Brings the HSM forward: answered as [`Command::Adopt`]. `origin` and `newest` are domain tokens,
    /// `entries` those of the log after the version `after`.
    Bring {
        origin: &'a [u8],
        newest: &'a [u8],
        after: u64,
        entries: &'a [Vec<u8>],
    },
    /// The store has this stamp: [`Answer::Done`].
    Announce {
        stamp: u64,
    },
    /// A new ticket for the login of the header's: [`Reply::LoggedIn`].
    RenewTicket {
        record: &'a PinRecord,
    },
    /// [`Answer::Done`].
    Ping,
    /// [`Answer::Description`].
    Describe,
    /// At most [`super::MAX_RANDOM`] bytes: [`Answer::Written`].
    Random {
        len: usize,
    },
}

wire_enum!(Request<'a> {
    0 = Call(command),
    1 = Begin { function, mechanism, record },
    2 = OneShot { function, mechanism, record, input, room },
    3 = VerifyOneShot { function, mechanism, record, input, signature },
    4 = Update { stream, input, room },
    5 = Finish { stream, room },
    6 = StreamOneShot { stream, input, room },
    7 = Verify { stream, signature },
    8 = StreamVerifyOneShot { stream, input, signature },
    9 = Approval { stream, input },
    10 = DigestKey { stream, record },
    11 = Save { stream },
    12 = Resume { state },
    13 = End { stream },
    14 = Bring { origin, newest, after, entries },
    15 = Announce { stamp },
    16 = RenewTicket { record },
    17 = Ping,
    18 = Describe,
    19 = Random { len },
});

/// What an HSM answers. [`Answer::Callback`] is not the last word.
#[derive(Debug)]
pub enum Answer<'a> {
    Done,
    Reply(Reply),
    Stream {
        stream: StreamId,
        /// It uses a private object.
        private: bool,
    },
    Written(&'a [u8]),
    Needed(usize),
    /// Nothing was done.
    ApprovalWanted(ApprovalRequest),
    Description(Description),
    Error(Error),
    /// The host knows a newer domain than this HSM, which is to be brought forward first.
    Behind,
    /// Another host has committed what this one had not read: nothing was done. The host is to read the
    /// store and to repeat the request, which passes with this stamp, or with this `heard` where the store
    /// has no such stamp, unless something was announced meanwhile.
    Stale {
        stamp: u64,
        heard: u64,
    },
    Callback(Callback),
}

wire_enum!(Answer<'a> {
    0 = Done,
    1 = Error(error),
    2 = Behind,
    3 = Stale { stamp, heard },
    4 = Callback(callback),
    5 = Reply(reply),
    6 = Stream { stream, private },
    7 = Written(bytes),
    8 = Needed(len),
    9 = ApprovalWanted(request),
    10 = Description(description),
});

/// Who answers, and what it knows of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub hsm: [u8; 16],
    pub name: String,
    /// Of the domain held.
    pub version: u64,
    /// When the session is over, seconds since 1970.
    pub valid_until: u64,
}

wire_struct! {
    Description { hsm, name, version, valid_until }
}

/// What an HSM asks of a host while it executes a command with an audit store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callback {
    /// Rows to be stored: answered by [`Response::Stored`].
    Append(AuditBatch<'static>),
    /// Begin a transaction: answered by the tips that are there, [`Response::Tips`].
    Open,
    /// Rows to be committed in that transaction: answered by [`Response::Stored`].
    Opening(AuditBatch<'static>),
    /// That transaction is to be rolled back: answered by [`Response::Stored`].
    Abort,
}

wire_enum!(Callback { 0 = Append(batch), 1 = Open, 2 = Opening(batch), 3 = Abort, });

/// A host's answer to a [`Callback`].
#[derive(Debug)]
pub enum Response {
    Stored,
    Failed(Error),
    Tips(Vec<AuditTip>),
}

wire_enum!(Response { 0 = Stored, 1 = Failed(error), 2 = Tips(tips), });

/// `[first, [* row], tip, closed]`
impl<'a> Wire<'a> for AuditBatch<'static> {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        e.array(4).uint(self.first);
        put_list(&self.rows, e);
        self.tip.put(e);
        self.closed.put(e);
    }

    fn take(d: &mut Decoder<'a>, room: &'a Room<'a>) -> Decoded<Self> {
        d.array_of(4)?;
        let (first, rows) = (d.uint()?, Cow::Owned(take_list(d, room)?));
        Ok(Self { first, rows, tip: Wire::take(d, room)?, closed: d.bool()? })
    }
}

/// Writes a request; `out` is emptied first. CKR_FUNCTION_NOT_SUPPORTED for a command that does not
/// cross, CKR_DATA_LEN_RANGE for one that is longer than [`MAX_MESSAGE`].
pub fn encode_request(header: &RequestHeader, request: &Request<'_>, out: &mut Wiped) -> Result<()> {
    if let Request::Call(command) = request
        && !command.crosses()
    {
        return Err(ErrorKind::FunctionNotSupported.with("this command does not cross a link"));
    }
    written(out, |e| {
        e.array(6).uint(header.version).bytes(&header.hash).uint(header.stamp).uint(header.heard);
        header.ticket.put(e);
        request.put(e);
    })
}

/// Reads a request. What is refused is no request: the link is to be closed.
pub fn decode_request<'a>(message: &'a [u8], room: &'a Room<'a>) -> Result<(RequestHeader, Request<'a>)> {
    let mut d = Decoder::new(message);
    d.array_of(6)?;
    let header = RequestHeader {
        version: d.uint()?,
        hash: d.fixed()?,
        stamp: d.uint()?,
        heard: d.uint()?,
        ticket: Wire::take(&mut d, room)?,
    };
    if header.ticket.0.len() > MAX_TICKET {
        return Err(Malformed("a ticket is too long").into());
    }
    let request = Wire::take(&mut d, room)?;
    d.end()?;
    Ok((header, request))
}

/// Writes a reply; `out` is emptied first. One that is too long, or that does not cross, becomes an
/// error's.
pub fn encode_reply(header: &ReplyHeader, answer: &Answer<'_>, out: &mut Wiped) {
    let refused = match answer {
        Answer::Reply(reply) if !reply.crosses() => Err(ErrorKind::FunctionNotSupported.into()),
        _ => write_reply(header, answer, out),
    };
    // An error is short.
    let _ = refused.or_else(|error| write_reply(header, &Answer::Error(error), out));
}

fn write_reply(header: &ReplyHeader, answer: &Answer<'_>, out: &mut Wiped) -> Result<()> {
    written(out, |e| {
        e.array(5).uint(header.version).bytes(&header.hash).uint(header.stamp);
        header.audit.put(e);
        answer.put(e);
    })
}

/// Reads a reply. What is refused is no reply: the link is to be closed.
pub fn decode_reply<'a>(message: &'a [u8], room: &'a Room<'a>) -> Result<(ReplyHeader, Answer<'a>)> {
    let mut d = Decoder::new(message);
    d.array_of(5)?;
    let header =
        ReplyHeader { version: d.uint()?, hash: d.fixed()?, stamp: d.uint()?, audit: Wire::take(&mut d, room)? };
    let answer = Wire::take(&mut d, room)?;
    d.end()?;
    Ok((header, answer))
}

/// Writes what answers a callback; `out` is emptied first.
pub fn encode_response(response: &Response, out: &mut Wiped) -> Result<()> {
    written(out, |e| response.put(e))
}

/// Reads what answers a callback. What is refused is none: the link is to be closed.
pub fn decode_response(message: &[u8]) -> Result<Response> {
    let room = Room::new();
    let mut d = Decoder::new(message);
    let response = Wire::take(&mut d, &room)?;
    d.end()?;
    Ok(response)
}

/// Takes [`MAX_MESSAGE`] bytes, and counts what is more.
struct Bounded<'o> {
    out: &'o mut Wiped,
    len: usize,
}

impl Sink for Bounded<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.len = self.len.saturating_add(bytes.len());
        if self.len <= MAX_MESSAGE {
            self.out.append(bytes);
        }
    }
}

fn written(out: &mut Wiped, write: impl FnOnce(&mut Encoder<Bounded<'_>>)) -> Result<()> {
    out.clear();
    let mut e = Encoder::onto(Bounded { out, len: 0 });
    write(&mut e);
    if e.into_sink().len > MAX_MESSAGE {
        return Err(
            ErrorKind::DataLenRange.with(format!("a message to or from an HSM has at most {MAX_MESSAGE} bytes"))
        );
    }
    Ok(())
}
