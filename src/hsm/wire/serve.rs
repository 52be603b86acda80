//! The HSM's end: a request is decoded, executed and answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::super::command::{Command, DomainToken, Log, Operation, Outcome, PinRecord, Reply, Ticket};
use super::super::quota::Quota;
use super::super::{Access, AuditBatch, AuditOpening, AuditStatus, AuditStore, Hsm, Wiped, random};
use super::codec::Room;
use super::message::{
    Answer, Callback, Description, ReplyHeader, Request, RequestHeader, Response, StreamId, decode_request,
    decode_response, encode_reply,
};
use super::{MAX_HELD, MAX_MESSAGE, MAX_RANDOM, MAX_STREAMS};
use crate::error::{Error, ErrorKind, Result};

/// The longest output of an operation: a reply has it, and a head.
const MAX_OUTPUT: usize = MAX_MESSAGE - 1024;
/// What an open operation is taken to need besides the input that it keeps, in bytes.
const OPEN: usize = 4096;
/// An operation that was not used for so long goes if there is no room for another: its host may have
/// lost the answer in which it was named.
pub(super) const FORGOTTEN: Duration = Duration::from_secs(60);

/// How an HSM asks the host whose request it executes.
pub trait Callbacks: Send {
    /// Sends a callback, which is a whole reply, and gives the host's whole message. After an error the
    /// link is to be closed.
    fn call(&mut self, callback: &[u8]) -> Result<Wiped>;
}

/// An HSM in the name of one host process, with what requests need beside the command set.
pub trait Party: Sync {
    /// The HSM in the name of the ticket's holder. The error is what the request gets.
    fn view(&self, ticket: &Ticket) -> Result<Arc<Hsm>>;

    /// Version and hash of the domain state that is held; version 0 for none.
    fn held(&self) -> (u64, [u8; 48]);

    /// The highest stamp that was announced, and a number that every announcement raises.
    fn told(&self) -> (u64, u64);

    fn announced(&self, stamp: u64);

    fn audit(&self) -> AuditStatus;

    /// This ticket was given for a PIN.
    fn logged_in(&self, ticket: &Ticket);

    /// The login of this ticket was ended.
    fn logged_out(&self, ticket: &Ticket);

    /// Answers as [`Command::Adopt`]. `origin` and `newest` are domain tokens.
    fn bring(&self, origin: &[u8], newest: &[u8], log: Log<'_>) -> Result<Reply>;

    /// A new ticket in the place of one.
    fn renew(&self, ticket: &Ticket, record: &PinRecord) -> Result<Ticket>;

    fn describe(&self) -> Description;

    /// What [`Command::Login`] and [`Command::SetPin`] get as the domain: nothing where the HSM holds one.
    fn domain(&self) -> Option<(&DomainToken, Log<'_>)> {
        None
    }
}

/// The operations that one host process has open.
pub struct Streams {
    open: Mutex<Open>,
    /// What they may keep in memory.
    quota: Arc<Quota>,
}

impl Default for Streams {
    fn default() -> Self {
        Self::keeping(MAX_HELD)
    }
}

#[derive(Default)]
struct Open {
    last: StreamId,
    operations: HashMap<StreamId, Stream>,
}

struct Stream {
    operation: Shared,
    /// Who was logged in when it was begun. Only he goes on with a private object.
    holder: Option<Arc<str>>,
    /// What it took of the quota.
    held: usize,
    used: Instant,
}

type Shared = Arc<Mutex<Box<dyn Operation>>>;

/// Executes one request and writes the reply to `out`. An error is for closing the link: what came is no
/// request, or the link broke during a callback.
pub fn serve_request(
    party: &dyn Party,
    streams: &Streams,
    message: &[u8],
    callbacks: &mut dyn Callbacks,
    out: &mut Wiped,
) -> Result<()> {
    let relay = Relay { party, link: Mutex::new(Ok(callbacks)) };
    {
        let room = match party.domain() {
            Some((domain, log)) => Room::with(&relay, domain, log),
            None => Room::with_store(&relay),
        };
        let (header, request) = decode_request(message, &room)?;
        let mut output = Wiped::default();
        let serving = Serving { party, streams, ticket: &header.ticket };
        let answer = match serving.refused(&header, &request) {
            Some(refusal) => refusal,
            None => serving.answer(request, &mut output).unwrap_or_else(Answer::Error),
        };
        encode_reply(&reply_header(party), &answer, out);
    }
    relay.link.into_inner().unwrap_or_else(PoisonError::into_inner).map(drop)
}

fn reply_header(party: &dyn Party) -> ReplyHeader {
    let (version, hash) = party.held();
    ReplyHeader { version, hash, stamp: party.told().0, audit: party.audit() }
}

struct Serving<'s> {
    party: &'s dyn Party,
    streams: &'s Streams,
    ticket: &'s Ticket,
}

impl Serving<'_> {
    /// What is answered instead, where host and HSM do not know the same.
    fn refused(&self, header: &RequestHeader, request: &Request<'_>) -> Option<Answer<'static>> {
        let carries_records = match request {
            Request::Call(_)
            | Request::Begin { .. }
            | Request::OneShot { .. }
            | Request::VerifyOneShot { .. }
            | Request::DigestKey { .. }
            | Request::Resume { .. } => true,
            Request::Bring { .. } | Request::Announce { .. } | Request::Ping | Request::Describe => return None,
            _ => false,
        };
        let (version, hash) = self.party.held();
        if header.version > version {
            return Some(Answer::Behind);
        }
        if header.version == version && header.hash != hash {
            let fork = "the host and the HSM hold different histories of the domain";
            return Some(Answer::Error(ErrorKind::DeviceError.with(fork)));
        }
        let (stamp, heard) = self.party.told();
        if carries_records && header.stamp < stamp && header.heard != heard {
            return Some(Answer::Stale { stamp, heard });
        }
        None
    }

    /// Answers a request. What an operation writes goes through `output`.
    fn answer<'o>(&self, request: Request<'_>, output: &'o mut Wiped) -> Result<Answer<'o>> {
        let (party, streams) = (self.party, self.streams);
        let hsm = || party.view(self.ticket);
        match request {
            Request::Call(command) => {
                let ends_login = matches!(command, Command::Logout);
                let view = match hsm() {
                    // Also a login whose ticket is not good any more is ended, for it could be renewed.
                    Err(_) if ends_login => party.view(&Ticket::public()),
                    view => view,
                };
                let reply = view?.call(self.ticket, command)?;
                if ends_login {
                    party.logged_out(self.ticket);
                }
                if let Reply::LoggedIn(ticket) = &reply {
                    party.logged_in(ticket);
                }
                Ok(Answer::Reply(reply))
            }
            Request::Begin { function, mechanism, record } => {
                let (hsm, free) = (hsm()?, streams.free()?);
                free.open(hsm.begin(self.ticket, function, mechanism, record)?, hsm.logged_in())
            }
            Request::OneShot { function, mechanism, record, input, room } => {
                let mut operation = hsm()?.begin(self.ticket, function, mechanism, record)?;
                if room.is_some()
                    && let Some(wanted) = operation.approval(Some(input))?
                {
                    return Ok(Answer::ApprovalWanted(wanted));
                }
                write(output, room, input.len(), |output| operation.one_shot(input, output)).map(Written::answer)
            }
            Request::VerifyOneShot { function, mechanism, record, input, signature } => {
                let mut operation = hsm()?.begin(self.ticket, function, mechanism, record)?;
                match operation.approval(Some(input))? {
                    Some(wanted) => Ok(Answer::ApprovalWanted(wanted)),
                    None => operation.verify_one_shot(input, signature).map(|()| Answer::Done),
                }
            }
            Request::Update { stream, input, room } => self
                .with(stream, false, |operation| {
                    write(output, room, input.len(), |output| operation.update(input, output))
                })
                .map(Written::answer),
            Request::Finish { stream, room } => self
                .with(stream, true, |operation| write(output, room, 0, |output| operation.finish(output)))
                .map(Written::answer),
            Request::StreamOneShot { stream, input, room } => self
                .with(stream, true, |operation| {
                    write(output, room, input.len(), |output| operation.one_shot(input, output))
                })
                .map(Written::answer),
            Request::Verify { stream, signature } => {
                self.with(stream, true, |operation| operation.verify(signature)).map(|()| Answer::Done)
            }
            Request::StreamVerifyOneShot { stream, input, signature } => {
                self.with(stream, true, |operation| operation.verify_one_shot(input, signature)).map(|()| Answer::Done)
            }
            Request::Approval { stream, input } => {
                let wanted = self.with(stream, false, |operation| operation.approval(input))?;
                Ok(wanted.map_or(Answer::Done, Answer::ApprovalWanted))
            }
            Request::DigestKey { stream, record } => {
                let hsm = hsm()?;
                self.with(stream, false, |operation| hsm.digest_key(self.ticket, operation, record))
                    .map(|()| Answer::Done)
            }
            Request::Save { stream } => {
                let (operation, holder) = streams.get(stream)?;
                let operation = enter(&operation)?;
                self.permit(&**operation, holder.as_ref())?;
                *output = operation.save()?.into();
                Ok(Answer::Written(output))
            }
            Request::Resume { state } => {
                let (hsm, free) = (hsm()?, streams.free()?);
                free.open(hsm.resume(self.ticket, state)?, hsm.logged_in())
            }
            Request::End { stream } => {
                streams.end(stream);
                Ok(Answer::Done)
            }
            Request::Bring { origin, newest, after, entries } => {
                party.bring(origin, newest, Log { after, entries }).map(Answer::Reply)
            }
            Request::Announce { stamp } => {
                party.announced(stamp);
                Ok(Answer::Done)
            }
            Request::RenewTicket { record } => party.renew(self.ticket, record).map(Reply::LoggedIn).map(Answer::Reply),
            Request::Ping => Ok(Answer::Done),
            Request::Describe => Ok(Answer::Description(party.describe())),
            Request::Random { len } => {
                if len > MAX_RANDOM {
                    return Err(ErrorKind::DataLenRange.with(format!("at most {MAX_RANDOM} random bytes at once")));
                }
                *output = Wiped::zeros(len);
                random::fill(output)?;
                Ok(Answer::Written(output))
            }
        }
    }

    /// Works on an open operation. An error ends it, and so does a call that `ends` it and did.
    /// CKR_USER_NOT_LOGGED_IN, and nothing is ended, for one that is another's.
    fn with<T: Progress>(
        &self,
        stream: StreamId,
        ends: bool,
        work: impl FnOnce(&mut dyn Operation) -> Result<T>,
    ) -> Result<T> {
        let (operation, holder) = self.streams.get(stream)?;
        let mut operation = enter(&operation)?;
        self.permit(&**operation, holder.as_ref())?;
        let worked = work(&mut **operation).and_then(|done| {
            self.streams.hold(stream, operation.held())?;
            Ok(done)
        });
        if worked.as_ref().map_or(true, |done| ends && done.is_done()) {
            self.streams.end(stream);
        }
        worked
    }

    /// An operation with a private object goes on for the user who began it. CKR_USER_NOT_LOGGED_IN.
    fn permit(&self, operation: &dyn Operation, holder: Option<&Arc<str>>) -> Result<()> {
        if !operation.is_private() {
            return Ok(());
        }
        let hsm = self.party.view(self.ticket)?;
        match hsm.access(self.ticket) == Access::User && hsm.logged_in().as_ref() == holder {
            true => Ok(()),
            false => Err(ErrorKind::UserNotLoggedIn.with("the operation is of another login")),
        }
    }
}

/// Whether a call did what it was to do.
trait Progress {
    fn is_done(&self) -> bool {
        true
    }
}

impl Progress for () {}

impl<T> Progress for Option<T> {}

/// What became of a call with an output buffer.
enum Written<'o> {
    Output(&'o [u8]),
    Needed(usize),
}

impl Progress for Written<'_> {
    fn is_done(&self) -> bool {
        matches!(self, Self::Output(_))
    }
}

impl<'o> Written<'o> {
    fn answer(self) -> Answer<'o> {
        match self {
            Self::Output(output) => Answer::Written(output),
            Self::Needed(len) => Answer::Needed(len),
        }
    }
}

/// Makes a call that writes at most `room` bytes. Gives it what it needs, however much room there is.
fn write<'o>(
    output: &'o mut Wiped,
    room: Option<usize>,
    input: usize,
    mut call: impl FnMut(Option<&mut [u8]>) -> Result<Outcome>,
) -> Result<Written<'o>> {
    let too_long = || ErrorKind::DataLenRange.with(format!("an HSM gives at most {MAX_OUTPUT} bytes at once"));
    let Some(room) = room else {
        return match call(None)? {
            Outcome::Needed(len) => Ok(Written::Needed(len)),
            Outcome::Written(_) => Ok(Written::Output(&[])),
        };
    };
    let mut len = room.min(input.saturating_add(1024)).min(MAX_OUTPUT);
    loop {
        *output = Wiped::zeros(len);
        match call(Some(output))? {
            Outcome::Written(written) => return output.get(..written).map(Written::Output).ok_or_else(too_long),
            Outcome::Needed(needed) if needed > room => return Ok(Written::Needed(needed)),
            Outcome::Needed(needed) if needed > len && needed <= MAX_OUTPUT => len = needed,
            Outcome::Needed(_) => return Err(too_long()),
        }
    }
}

/// A stream that another call works on is busy for this one.
fn enter(stream: &Shared) -> Result<MutexGuard<'_, Box<dyn Operation>>> {
    match stream.try_lock() {
        Ok(operation) => Ok(operation),
        Err(TryLockError::WouldBlock) => Err(ErrorKind::OperationActive.with("the operation is busy")),
        Err(TryLockError::Poisoned(_)) => Err(ErrorKind::DeviceError.with("a call on the operation broke off")),
    }
}

/// The right to open one more stream.
struct Free<'s>(&'s Streams);

impl Streams {
    /// The operations take at most so many bytes together.
    pub fn keeping(most: usize) -> Self {
        Self::within(Quota::new(most))
    }

    pub(in crate::hsm) fn within(quota: Arc<Quota>) -> Self {
        Self { open: Mutex::default(), quota }
    }

    pub fn len(&self) -> usize {
        self.lock().operations.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends what was not used for so long.
    pub fn sweep(&self, idle: Duration) {
        loop {
            let gone = self.forget(&mut self.lock(), idle);
            if gone.is_none() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be asked before an operation is begun. CKR_DEVICE_MEMORY.
    fn free(&self) -> Result<Free<'_>> {
        let mut open = self.lock();
        let gone = match open.operations.len() < MAX_STREAMS {
            true => None,
            false => Some(self.forget(&mut open, FORGOTTEN).ok_or_else(full)?),
        };
        drop(open);
        // Its end may be recorded.
        drop(gone);
        Ok(Free(self))
    }

    fn get(&self, stream: StreamId) -> Result<(Shared, Option<Arc<str>>)> {
        let mut open = self.lock();
        let stream = open.operations.get_mut(&stream);
        let stream = stream.ok_or_else(|| ErrorKind::OperationNotInitialized.with("the HSM has no such operation"))?;
        stream.used = Instant::now();
        Ok((Arc::clone(&stream.operation), stream.holder.clone()))
    }

    fn end(&self, stream: StreamId) {
        let ended = self.take(&mut self.lock(), stream);
        // Its end may be recorded.
        drop(ended);
    }

    fn take(&self, open: &mut Open, stream: StreamId) -> Option<Stream> {
        let taken = open.operations.remove(&stream)?;
        self.quota.give_back(taken.held);
        Some(taken)
    }

    /// Takes out what was idle longest, if that is so long.
    fn forget(&self, open: &mut Open, idle: Duration) -> Option<Stream> {
        let (stream, oldest) = open.operations.iter().min_by_key(|(_, stream)| stream.used)?;
        let stream = *stream;
        if oldest.used.elapsed() < idle {
            return None;
        }
        self.take(open, stream)
    }

    /// An operation keeps so many bytes of input now. CKR_DEVICE_MEMORY if that is too much for all together.
    fn hold(&self, stream: StreamId, held: usize) -> Result<()> {
        let mut gone = Vec::new();
        let mut open = self.lock();
        let held = held + OPEN;
        let Some(before) = open.operations.get(&stream).map(|stream| stream.held) else { return Ok(()) };
        if held > before {
            while !self.quota.take(held - before) {
                gone.push(self.forget(&mut open, FORGOTTEN).ok_or_else(too_much)?);
            }
        } else {
            self.quota.give_back(before - held);
        }
        match open.operations.get_mut(&stream) {
            Some(stream) => stream.held = held,
            None => self.quota.give_back(held.saturating_sub(before)),
        }
        Ok(())
    }

    /// Makes all operations older.
    #[cfg(test)]
    pub(super) fn age(&self, by: Duration) {
        let older = |at: Instant| at.checked_sub(by).unwrap();
        self.lock().operations.values_mut().for_each(|stream| stream.used = older(stream.used));
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        let open = self.open.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.quota.give_back(open.operations.values().map(|stream| stream.held).sum());
    }
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Streams({})", self.len())
    }
}

impl Free<'_> {
    fn open(self, operation: Box<dyn Operation>, holder: Option<Arc<str>>) -> Result<Answer<'static>> {
        let (private, streams) = (operation.is_private(), self.0);
        let mut open = streams.lock();
        if open.operations.len() >= MAX_STREAMS {
            return Err(full());
        }
        if !streams.quota.take(OPEN) {
            return Err(too_much());
        }
        open.last += 1;
        let stream = open.last;
        let operation = Arc::new(Mutex::new(operation));
        open.operations.insert(stream, Stream { operation, holder, held: OPEN, used: Instant::now() });
        Ok(Answer::Stream { stream, private })
    }
}

fn full() -> Error {
    ErrorKind::DeviceMemory.with(format!("a process has at most {MAX_STREAMS} operations open at one HSM"))
}

fn too_much() -> Error {
    ErrorKind::DeviceMemory.with("the HSM has no room for more input of operations that are under way")
}

/// A store of audit rows on the other end of the link. What breaks the link is kept for its end.
struct Relay<'r> {
    party: &'r dyn Party,
    link: Mutex<Result<&'r mut dyn Callbacks>>,
}

impl Relay<'_> {
    fn ask(&self, callback: Callback) -> Result<Response> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = || ErrorKind::DeviceError.with("the link broke during a callback");
        let callbacks = link.as_mut().map_err(|_| broken())?;
        let mut message = Wiped::default();
        encode_reply(&reply_header(self.party), &Answer::Callback(callback), &mut message);
        let answer = callbacks.call(&message).and_then(|answer| decode_response(&answer));
        answer.map_err(|error| {
            *link = Err(error);
            broken()
        })
    }

    fn store(&self, callback: Callback) -> Result<()> {
        match self.ask(callback)? {
            Response::Stored => Ok(()),
            Response::Failed(error) => Err(error),
            Response::Tips(_) => Err(unexpected()),
        }
    }
}

fn unexpected() -> Error {
    ErrorKind::DeviceError.with("the host answered a callback with something else")
}

impl AuditStore for Relay<'_> {
    fn open_audit(&self, opening: AuditOpening) -> Result<()> {
        let tips = match self.ask(Callback::Open)? {
            Response::Tips(tips) => tips,
            Response::Failed(error) => return Err(error),
            Response::Stored => return Err(unexpected()),
        };
        match opening(tips) {
            Ok(batch) => self.store(Callback::Opening(batch)),
            Err(error) => {
                self.store(Callback::Abort)?;
                Err(error)
            }
        }
    }

    fn append_audit(&self, batch: &AuditBatch<'_>) -> Result<()> {
        self.store(Callback::Append(AuditBatch { rows: batch.rows.to_vec().into(), ..*batch }))
    }
}
