//! Streaming operations whose key is in an HSM.
//!
//! What an application gives in parts is kept here while it is little and nothing has to come out of it,
//! and goes in one request with the end: an operation of which no part was sent can be done by any HSM.

use std::sync::Arc;

use super::asking::{Asking, Failed, Route};
use super::fleet::Fleet;
use super::params::Owned;
use super::pool::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::session::HsmId;
use crate::hsm::wire::{Answer, Request, StreamId};
use crate::hsm::{ApprovalRequest, Function, Mechanism, Operation, Outcome, Params, Record, Ticket, Wiped};

/// Parts are kept up to so many bytes.
const KEPT: usize = 64 * 1024;
/// What is longer is sent in pieces of this length, where it may be.
const PIECE: usize = 1 << 20;
/// How often another host's change of the key, or the loss of an HSM, is taken before it is an error.
const TRIES: usize = 8;

/// An operation at one HSM.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    pub(super) place: Place,
    pub(super) hsm: HsmId,
    pub(super) id: StreamId,
}

/// What an operation is of.
pub(super) struct Begun {
    /// The name of the login in which it was begun.
    pub(super) ticket: Ticket,
    pub(super) function: Function,
    pub(super) mechanism: Owned,
    pub(super) record: Record,
    /// It uses a private object.
    pub(super) private: bool,
    /// Its key is under dual control: approvals are in one HSM's memory.
    pub(super) controlled: bool,
}

/// How an operation ends that is begun with the same request.
#[derive(Clone, Copy)]
enum End<'e> {
    /// The caller's buffer takes so much; None for a question for the length.
    Output(Option<usize>),
    Signature(&'e [u8]),
}

pub(super) struct RemoteOperation {
    fleet: Arc<Fleet>,
    begun: Begun,
    stream: Option<Stream>,
    /// Parts that no HSM was sent yet.
    parts: Wiped,
    /// Parts were sent to the stream: no other HSM can go on.
    sent: bool,
    /// The length of an input, and what an HSM said its output needs.
    needed: Option<(usize, usize)>,
}

impl Fleet {
    /// Begins an operation at an HSM. `record` becomes the newest if another host changed it.
    pub(super) fn begin(
        &self,
        ticket: &Ticket,
        function: Function,
        mechanism: &Mechanism<'_>,
        record: &mut Record,
        route: Route,
    ) -> Result<(Stream, bool)> {
        self.with_newest(record, |record| {
            let asking = Asking {
                route,
                ticket,
                request: Request::Begin { function, mechanism, record: Some(record) },
                records: &[record],
                managed: record.columns.managed,
                quick: true,
            };
            self.ask(&asking, |place, hsm, answer| match answer {
                Answer::Stream { stream, private } => Ok((Stream { place, hsm: *hsm, id: stream }, private)),
                _ => Err(unexpected()),
            })
        })
    }

    /// Makes a request with a record, again with its newest version where another host changed it.
    fn with_newest<T>(
        &self,
        record: &mut Record,
        mut ask: impl FnMut(&Record) -> std::result::Result<T, Failed>,
    ) -> Result<T> {
        for _ in 0..TRIES {
            match ask(record) {
                Err(Failed::Changed) => {
                    if let Some(newest) = self.newest(record)? {
                        *record = newest;
                    }
                }
                asked => return asked.map_err(Error::from),
            }
        }
        Err(Failed::Changed.into())
    }

    /// Makes a request of the HSM that holds an operation.
    fn at_stream<T>(
        &self,
        ticket: &Ticket,
        stream: Stream,
        request: Request<'_>,
        mut take: impl FnMut(Answer<'_>) -> Result<T>,
    ) -> std::result::Result<T, Failed> {
        let route = Route::At(stream.place, stream.hsm);
        let asking = Asking { route, ticket, request, records: &[], managed: false, quick: true };
        self.ask(&asking, |_, _, answer| take(answer)).map_err(|failed| match failed {
            Failed::Error(error) if error.kind() == ErrorKind::OperationNotInitialized => {
                Failed::Lost(ErrorKind::DeviceError.with("the HSM no longer has the operation"))
            }
            failed => failed,
        })
    }
}

impl RemoteOperation {
    pub(super) fn new(fleet: Arc<Fleet>, begun: Begun, stream: Stream) -> Self {
        Self { fleet, begun, stream: Some(stream), parts: Wiped::default(), sent: false, needed: None }
    }

    /// Whether parts give nothing before the end.
    fn collects(&self) -> bool {
        matches!(self.begun.function, Function::Sign | Function::Verify)
    }

    /// Whether the output's length does not depend on the input's.
    fn has_one_length(&self) -> bool {
        matches!(self.begun.function, Function::Sign | Function::SignRecover)
    }

    fn route(&self) -> Route {
        if self.begun.controlled { Route::Home } else { Route::Any }
    }

    /// Makes a request about the operation at an HSM, where it is begun if it is at none. If that HSM is
    /// lost before it was sent a part, another one gets the request.
    fn streaming<'r, T>(
        &mut self,
        request: impl Fn(StreamId) -> Request<'r>,
        mut take: impl FnMut(Answer<'_>) -> Result<T>,
    ) -> Result<T> {
        for _ in 0..TRIES {
            let stream = match self.stream {
                Some(stream) => stream,
                None if self.sent => break,
                None => {
                    let (route, begun) = (self.route(), &mut self.begun);
                    let mechanism = begun.mechanism.mechanism();
                    let begin = self.fleet.begin(&begun.ticket, begun.function, &mechanism, &mut begun.record, route);
                    *self.stream.insert(begin?.0)
                }
            };
            match self.fleet.at_stream(&self.begun.ticket, stream, request(stream.id), &mut take) {
                Err(Failed::Lost(error)) => {
                    if let Some(stream) = self.stream.take() {
                        self.fleet.abandon(stream);
                    }
                    if self.sent {
                        return Err(error);
                    }
                }
                asked => return asked.map_err(Error::from),
            }
        }
        Err(ErrorKind::DeviceError.with("the HSM that held the operation is gone"))
    }

    /// Makes a request of any HSM that begins and ends the operation: with room for an output, or with a
    /// signature to be verified.
    fn whole<T>(&mut self, input: &[u8], end: End<'_>, mut take: impl FnMut(Answer<'_>) -> Result<T>) -> Result<T> {
        let (route, begun) = (self.route(), &mut self.begun);
        let (mechanism, fleet) = (begun.mechanism.mechanism(), &self.fleet);
        fleet.with_newest(&mut begun.record, |record| {
            let asking = Asking {
                route,
                ticket: &begun.ticket,
                request: match end {
                    End::Output(room) => Request::OneShot {
                        function: begun.function,
                        mechanism: &mechanism,
                        record: Some(record),
                        input,
                        room,
                    },
                    End::Signature(signature) => Request::VerifyOneShot {
                        function: begun.function,
                        mechanism: &mechanism,
                        record: Some(record),
                        input,
                        signature,
                    },
                },
                records: &[record],
                managed: record.columns.managed,
                quick: true,
            };
            fleet.ask(&asking, |_, _, answer| take(answer))
        })
    }

    /// Sends a part to the HSM: from now on no other can go on.
    fn send(&mut self, input: &[u8]) -> Result<()> {
        for piece in input.chunks(PIECE) {
            self.streaming(|stream| Request::Update { stream, input: piece, room: Some(0) }, nothing)?;
            self.sent = true;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let parts = std::mem::take(&mut self.parts);
        self.send(&parts)
    }

    /// Ends the operation, of which no HSM was sent a part, with the whole input.
    fn end_whole(&mut self, input: &[u8], mut output: Option<&mut [u8]>) -> Result<Outcome> {
        let room = output.as_ref().map(|output| output.len());
        if let Some((len, needed)) = self.needed
            && (self.has_one_length() || len == input.len())
            && room.is_none_or(|room| room < needed)
        {
            return Ok(Outcome::Needed(needed));
        }
        if self.collects() && input.len() > PIECE && room.is_some() {
            self.send(input)?;
            return self.end_sent(output);
        }
        let take = |answer: Answer<'_>| outcome(answer, output.as_deref_mut());
        let ended = match self.stream {
            Some(_) => self.streaming(|stream| Request::StreamOneShot { stream, input, room }, take)?,
            None => self.whole(input, End::Output(room), take)?,
        };
        Ok(self.ended(input.len(), ended))
    }

    fn end_sent(&mut self, mut output: Option<&mut [u8]>) -> Result<Outcome> {
        let room = output.as_ref().map(|output| output.len());
        let ended =
            self.streaming(|stream| Request::Finish { stream, room }, |answer| outcome(answer, output.as_deref_mut()))?;
        Ok(self.ended(0, ended))
    }

    fn ended(&mut self, input: usize, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Needed(needed) => self.needed = Some((input, needed)),
            Outcome::Written(written) => {
                if self.has_one_length() {
                    self.needed = Some((0, written));
                }
                self.stream = None;
            }
        }
        outcome
    }
}

impl Operation for RemoteOperation {
    fn update(&mut self, input: &[u8], mut output: Option<&mut [u8]>) -> Result<Outcome> {
        if self.collects() {
            if !self.sent && !self.begun.controlled && self.parts.len() + input.len() <= KEPT {
                self.parts.append(input);
            } else {
                self.flush()?;
                self.send(input)?;
            }
            return Ok(Outcome::Written(0));
        }
        let room = output.as_ref().map(|output| output.len());
        let done = self.streaming(
            |stream| Request::Update { stream, input, room },
            |answer| outcome(answer, output.as_deref_mut()),
        )?;
        self.sent |= matches!(done, Outcome::Written(_));
        Ok(done)
    }

    fn finish(&mut self, output: Option<&mut [u8]>) -> Result<Outcome> {
        if !self.sent && self.collects() {
            let parts = std::mem::take(&mut self.parts);
            let ended = self.end_whole(&parts, output);
            self.parts = parts;
            return ended;
        }
        self.flush()?;
        self.end_sent(output)
    }

    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        self.end_whole(input, output)
    }

    fn verify(&mut self, signature: &[u8]) -> Result<()> {
        if self.sent {
            self.flush()?;
            let verified = self.streaming(|stream| Request::Verify { stream, signature }, nothing);
            return self.verified(verified);
        }
        let parts = std::mem::take(&mut self.parts);
        self.verify_one_shot(&parts, signature)
    }

    fn verify_one_shot(&mut self, input: &[u8], signature: &[u8]) -> Result<()> {
        if input.len() > PIECE {
            self.send(input)?;
            return self.verify(signature);
        }
        let verified = match self.stream {
            Some(_) => self.streaming(|stream| Request::StreamVerifyOneShot { stream, input, signature }, nothing),
            None => self.whole(input, End::Signature(signature), nothing),
        };
        self.verified(verified)
    }

    fn rest(&mut self) -> bool {
        self.end_stream();
        self.parts.clear();
        self.sent = false;
        // Each use of a managed key is permitted anew.
        !self.begun.record.columns.managed
    }

    fn restart(&mut self, params: &Params<'_>) -> Result<bool> {
        self.needed = self.needed.filter(|_| self.has_one_length());
        Ok(self.begun.mechanism.take(params))
    }

    fn approval(&mut self, input: Option<&[u8]>) -> Result<Option<ApprovalRequest>> {
        if !self.begun.controlled {
            return Ok(None);
        }
        self.flush()?;
        let take = |answer: Answer<'_>| match answer {
            Answer::ApprovalWanted(wanted) => Ok(Some(wanted)),
            Answer::Done => Ok(None),
            _ => Err(unexpected()),
        };
        self.streaming(|stream| Request::Approval { stream, input }, take)
    }

    fn is_private(&self) -> bool {
        self.begun.private
    }
}

impl RemoteOperation {
    /// A verification is over, whatever came of it, but at an HSM that did not look at it.
    fn verified(&mut self, verified: Result<()>) -> Result<()> {
        match &verified {
            Err(error) if error.kind() == ErrorKind::UserNotLoggedIn => self.end_stream(),
            _ => self.stream = None,
        }
        verified
    }

    /// The HSM forgets the operation: now, or when it is met again.
    fn end_stream(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        let end = Request::End { stream: stream.id };
        let ended = match self.fleet.pool.is_well(stream.place) {
            true => self.fleet.at_stream(&self.begun.ticket, stream, end, nothing).map_err(Error::from),
            false => Err(ErrorKind::DeviceError.with("it is not used for now")),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "an operation was not ended at its HSM");
            self.fleet.abandon(stream);
        }
    }
}

impl Drop for RemoteOperation {
    fn drop(&mut self) {
        self.end_stream();
    }
}

fn nothing(answer: Answer<'_>) -> Result<()> {
    match answer {
        Answer::Done | Answer::Written(_) => Ok(()),
        Answer::ApprovalWanted(_) => Err(ErrorKind::KeyFunctionNotPermitted.with("the key is under dual control")),
        _ => Err(unexpected()),
    }
}

fn outcome(answer: Answer<'_>, output: Option<&mut [u8]>) -> Result<Outcome> {
    match answer {
        Answer::Written(bytes) => {
            let place = output.unwrap_or_default().get_mut(..bytes.len()).ok_or_else(unexpected)?;
            place.copy_from_slice(bytes);
            Ok(Outcome::Written(bytes.len()))
        }
        Answer::Needed(needed) => Ok(Outcome::Needed(needed)),
        Answer::ApprovalWanted(_) => Err(ErrorKind::KeyFunctionNotPermitted.with("the key is under dual control")),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> Error {
    ErrorKind::DeviceError.with("the HSM answered about an operation with something else")
}
