//! What is done with a connection while a worker has it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::gate::Gate;
use super::io::{BadLength, Frames, Io, Sent};
use super::limits::{CLEAR_FRAMES, Limits, MESSAGE, SMALL};
use super::metrics::Closed;
use super::poller::Interest;
use super::server::Shared;
use super::service::{Callbacks, Cipher, Party, Then};
use super::slots::Slot;
use crate::error::{ErrorKind, Result};
use crate::hsm::Wiped;

/// Requests that are handled before other connections have their turn.
const BURST: u32 = 32;
/// A host that asks again within this time is worth looking out for.
const SOON: Duration = Duration::from_micros(200);
/// How often in vain, at most, before the lookout is given up.
const HOT: u8 = 4;

/// `[255, 2]` (busy) and `[255, 5]` (too large).
const BUSY: [u8; 4] = [0x82, 0x18, 0xff, 2];
const TOO_LARGE: [u8; 4] = [0x82, 0x18, 0xff, 5];

/// What the worker does with the connection now.
pub(super) enum Next {
    /// To be armed; closed for that reason after that time.
    Wait(Interest, Instant, Closed),
    /// Somebody else arms it when it may go on.
    Parked(Option<Instant>),
    Close(Closed),
}

pub(super) struct Connection {
    io: Io,
    phase: Phase,
    /// Since when the rest of a frame, or of a message, is awaited.
    frame_since: Option<Instant>,
    message_since: Option<Instant>,
    /// What was opened of a message that is not handled yet, and whether that is all of it.
    message: Wiped,
    complete: bool,
    /// To be closed after the output was sent.
    closing: Option<Closed>,
    answered: Option<Instant>,
    hot: u8,
    /// What it takes of the memory for large messages.
    reserved: usize,
    /// The server's, when the link was made.
    epoch: u64,
}

enum Phase {
    Clear {
        admin: bool,
        frames: u32,
        since: Instant,
    },
    /// `greeting`: since when the first frame is awaited, which alone shows that the host is there.
    Linked {
        party: Box<dyn Party>,
        cipher: Box<dyn Cipher>,
        greeting: Option<Instant>,
    },
    Admin {
        party: Box<dyn Party>,
    },
}

impl Connection {
    pub(super) fn new(admin: bool) -> Self {
        Self {
            io: Io::default(),
            phase: Phase::Clear { admin, frames: 0, since: Instant::now() },
            frame_since: None,
            message_since: None,
            message: Wiped::default(),
            complete: false,
            closing: None,
            answered: None,
            hot: 0,
            reserved: 0,
            epoch: 0,
        }
    }

    /// Does what can be done without waiting for the other end.
    pub(super) fn run(&mut self, shared: &Shared, slot: &Arc<Slot>) -> Next {
        let fd = slot.fd.as_fd();
        if self.answered.is_some_and(|at| at.elapsed() < SOON) {
            self.hot = HOT;
        }
        let mut burst = 0;
        loop {
            if let Some(why) = slot.doomed() {
                return Next::Close(why);
            }
            let output = self.io.output.len();
            match self.io.flush(fd) {
                Ok(Sent::All) => shared.metrics.sent(output),
                Ok(Sent::Blocked) if !self.account(shared) => return Next::Close(Closed::Memory),
                Ok(Sent::Blocked) => {
                    return Next::Wait(Interest::Writable, Instant::now() + shared.limits.frame, Closed::Slow);
                }
                Err(_) => return Next::Close(self.closing.unwrap_or(Closed::Lost)),
            }
            if let Some(why) = self.closing {
                return Next::Close(why);
            }
            if shared.stopping() {
                return Next::Close(Closed::Stopping);
            }
            if self.epoch != shared.epoch() && matches!(self.phase, Phase::Linked { .. }) {
                return Next::Close(Closed::Expired);
            }
            if self.complete {
                if !self.request(shared, slot, fd) {
                    return Next::Parked(None);
                }
                continue;
            }
            match self.io.frame(self.phase.frames()) {
                Ok(Some(_)) if burst == BURST => {
                    return Next::Wait(Interest::Now, Instant::now() + shared.limits.frame, Closed::Slow);
                }
                Ok(Some(range)) => {
                    burst += 1;
                    self.frame_since = None;
                    match &mut self.phase {
                        Phase::Clear { .. } => {
                            if !self.clear(shared, slot, range) {
                                return Next::Parked(self.handshake_deadline(&shared.limits));
                            }
                        }
                        Phase::Linked { cipher, .. } => {
                            let opened = cipher.open(self.io.bytes(range.clone()), &mut self.message);
                            self.io.consume(range.end);
                            match opened {
                                Ok(last) => self.complete = last,
                                Err(_) => return Next::Close(Closed::BadFrame),
                            }
                            if !self.greeted(shared, slot) {
                                return Next::Close(Closed::Busy);
                            }
                            if self.message.len() > MESSAGE {
                                return Next::Close(Closed::TooLarge);
                            }
                            if !self.account(shared) {
                                return Next::Close(Closed::Memory);
                            }
                        }
                        Phase::Admin { .. } => {
                            self.message.append(self.io.bytes(range.clone()));
                            self.io.consume(range.end);
                            self.io.wipe();
                            self.complete = true;
                        }
                    }
                }
                Ok(None) => match self.io.fill(fd) {
                    Ok(0) => return Next::Close(Closed::ByPeer),
                    Ok(read) => {
                        shared.metrics.received(read);
                        if !self.account(shared) {
                            return Next::Close(Closed::Memory);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if !self.look_out(shared, fd) {
                            return self.pause(&shared.limits);
                        }
                    }
                    Err(_) => return Next::Close(Closed::Lost),
                },
                Err(BadLength) => {
                    if matches!(self.phase, Phase::Clear { .. }) {
                        put(&mut self.io.output, &TOO_LARGE);
                    }
                    self.closing = Some(Closed::TooLarge);
                }
            }
        }
    }

    /// Gives back what it took of what there is for all.
    pub(super) fn release(&mut self, shared: &Shared) {
        shared.memory.fetch_sub(std::mem::take(&mut self.reserved), Ordering::Relaxed);
    }

    pub(super) fn shrink(&mut self) {
        self.io.shrink();
        if self.message.is_empty() {
            self.message = Wiped::default();
        }
    }

    pub(super) fn state(&self) -> usize {
        match self.phase {
            Phase::Clear { .. } => 0,
            Phase::Linked { .. } => 1,
            Phase::Admin { .. } => 2,
        }
    }

    /// A clear frame. False: it has to wait.
    fn clear(&mut self, shared: &Shared, slot: &Arc<Slot>, range: std::ops::Range<usize>) -> bool {
        let Phase::Clear { admin, frames, since } = &mut self.phase else { return true };
        let admin = *admin;
        if *frames >= CLEAR_FRAMES {
            put(&mut self.io.output, &BUSY);
            self.closing = Some(Closed::Refused);
            return true;
        }
        // Whoever can open an admin socket is no stranger.
        let gate = (!admin).then_some(&shared.strangers);
        if gate.is_some_and(|gate| !gate.enter(slot)) {
            return false;
        }
        *frames += 1;
        let started = Instant::now();
        let answer = {
            let _inside = Inside::new(shared, slot, gate);
            let frame = self.io.bytes(range.clone());
            catch_unwind(AssertUnwindSafe(|| shared.service.clear(frame, admin)))
                .inspect(|answer| shared.metrics.clear(frame, &answer.bytes, started.elapsed()))
        };
        // The next step has its own time.
        *since = Instant::now();
        self.io.consume(range.end);
        let Ok(answer) = answer else {
            self.closing = Some(Closed::Failed);
            return true;
        };
        if let Some(why) = answer.refused {
            shared.refused(format_args!("{:?}: {why}", slot.peer));
        }
        match answer.then {
            Then::Close => self.closing = Some(Closed::Refused),
            Then::KeepOpen => {}
            Then::Linked(party, cipher) => {
                self.epoch = shared.epoch();
                shared.metrics.moved(self.state(), 1);
                // Who shows an EKT may have seen it go by: it is the host's with its first frame.
                self.phase = Phase::Linked { party, cipher, greeting: Some(Instant::now()) };
            }
            Then::Admin(party) => {
                shared.slots.no_stranger(slot);
                shared.metrics.moved(self.state(), 2);
                tracing::info!(peer = ?slot.peer, "an administrator connected");
                self.phase = Phase::Admin { party };
            }
        }
        self.io.output.extend_from_slice(&answer.bytes);
        true
    }

    /// A frame of a link was opened: with the first, the connection is the host's. False: that has too many.
    fn greeted(&mut self, shared: &Shared, slot: &Arc<Slot>) -> bool {
        let Phase::Linked { party, greeting, .. } = &mut self.phase else { return true };
        if greeting.take().is_none() {
            return true;
        }
        if let Some((id, name)) = party.host() {
            match shared.slots.assign(slot, (id, name), &shared.limits) {
                None => {
                    shared.refused(format_args!("host {name} has too many connections"));
                    return false;
                }
                Some(1) => tracing::info!(host = name, "a host connected"),
                Some(connections) => tracing::debug!(host = name, connections, "a host connected again"),
            }
        }
        shared.slots.no_stranger(slot);
        true
    }

    /// Executes the request that `message` is. False: it has to wait.
    fn request(&mut self, shared: &Shared, slot: &Arc<Slot>, fd: BorrowedFd<'_>) -> bool {
        let gate = slot.host.get().map(|host| &host.gate);
        if gate.is_some_and(|gate| !gate.enter(slot)) {
            return false;
        }
        let started = Instant::now();
        let Self { io, phase, message, .. } = self;
        let (party, mut cipher) = match phase {
            Phase::Linked { party, cipher, .. } => (party, Some(cipher)),
            Phase::Admin { party } => (party, None),
            Phase::Clear { .. } => return true,
        };
        let reply = {
            let _inside = Inside::new(shared, slot, gate);
            let mut calling =
                Calling { io, fd, cipher: cipher.as_deref_mut().map(Box::as_mut), limits: &shared.limits };
            catch_unwind(AssertUnwindSafe(|| party.request(message, &mut calling)))
        };
        match reply {
            Ok(reply) => {
                shared.metrics.request(message, &reply.message, started.elapsed());
                if !reply.message.is_empty() || !reply.close {
                    let sealed = match cipher {
                        Some(cipher) => {
                            let sealed = cipher.seal(&reply.message, &mut io.output);
                            cipher.next_request();
                            sealed
                        }
                        None => {
                            put(&mut io.output, &reply.message);
                            Ok(())
                        }
                    };
                    if sealed.is_err() {
                        self.closing = Some(Closed::BadFrame);
                    }
                }
                if reply.close {
                    self.closing = Some(Closed::ByHsm);
                } else if remaining(party.as_ref()).is_some_and(|rest| rest.is_zero()) {
                    self.closing = Some(Closed::Expired);
                }
            }
            Err(_) => {
                tracing::error!("a request failed within the HSM; its connection is closed");
                self.closing = Some(Closed::Failed);
            }
        }
        self.message.wipe();
        if self.message.capacity() > SMALL {
            self.message = Wiped::default();
        }
        self.complete = false;
        self.message_since = None;
        self.answered = Some(Instant::now());
        if !self.account(shared) {
            self.closing.get_or_insert(Closed::Memory);
        }
        true
    }

    /// Looks for the next request for a moment. True: something came.
    fn look_out(&mut self, shared: &Shared, fd: BorrowedFd<'_>) -> bool {
        let busy = matches!(self.phase, Phase::Linked { .. }) && self.hot > 0 && self.message.is_empty();
        if !busy || self.io.is_partial() {
            return false;
        }
        let Some(_spinning) = shared.spin() else { return false };
        let until = Instant::now() + shared.limits.spin;
        while Instant::now() < until {
            // Whoever else wants this core has it first.
            std::thread::yield_now();
            match self.io.fill(fd) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // An end or an error shows again.
                read => {
                    shared.metrics.received(read.unwrap_or(0));
                    self.hot = HOT;
                    return true;
                }
            }
        }
        self.hot -= 1;
        false
    }

    /// What is awaited, and until when.
    fn pause(&mut self, limits: &Limits) -> Next {
        let now = Instant::now();
        let partial = self.io.is_partial();
        if partial {
            self.frame_since.get_or_insert(now);
        }
        if partial || !self.message.is_empty() {
            self.message_since.get_or_insert(now);
        }
        let rest = match &self.phase {
            Phase::Linked { party, .. } | Phase::Admin { party } => remaining(party.as_ref()),
            Phase::Clear { .. } => None,
        };
        // No message in parts may hold up the end of the session for long.
        let expiry = rest.map(|rest| (now + rest, Closed::Expired));
        let deadlines = [
            self.handshake_deadline(limits).map(|at| (at, Closed::Handshake)),
            self.frame_since.map(|since| (since + limits.frame, Closed::Slow)),
            self.message_since.map(|since| (since + limits.message, Closed::Slow)),
            expiry,
            Some((now + limits.idle, Closed::Idle)),
        ];
        let (at, why) = deadlines.into_iter().flatten().min_by_key(|(at, _)| *at).unwrap_or((now, Closed::Idle));
        Next::Wait(Interest::Readable, at, why)
    }

    fn handshake_deadline(&self, limits: &Limits) -> Option<Instant> {
        match self.phase {
            Phase::Clear { since, .. } | Phase::Linked { greeting: Some(since), .. } => Some(since + limits.handshake),
            _ => None,
        }
    }

    /// Counts what it holds of large messages. False: there is no room for it.
    fn account(&mut self, shared: &Shared) -> bool {
        let held = self.message.len() + self.io.held();
        let wanted = if held > SMALL { held } else { 0 };
        if wanted <= self.reserved {
            shared.memory.fetch_sub(self.reserved - wanted, Ordering::Relaxed);
            self.reserved = wanted;
            return true;
        }
        let more = wanted - self.reserved;
        let before = shared.memory.fetch_add(more, Ordering::Relaxed);
        self.reserved = wanted;
        // Strangers leave the most of it to hosts.
        let is_stranger = matches!(self.phase, Phase::Clear { admin: false, .. });
        before.saturating_add(more) <= if is_stranger { shared.limits.memory / 4 } else { shared.limits.memory }
    }
}

impl Phase {
    fn frames(&self) -> Frames {
        match self {
            Self::Clear { .. } => Frames::Clear,
            Self::Linked { .. } => Frames::Link,
            Self::Admin { .. } => Frames::Admin,
        }
    }
}

/// While a request is executed. Whoever waited at the gate goes on afterwards.
struct Inside<'a> {
    shared: &'a Shared,
    gate: Option<&'a Gate>,
}

impl<'a> Inside<'a> {
    fn new(shared: &'a Shared, slot: &Slot, gate: Option<&'a Gate>) -> Self {
        slot.busy.store(true, Ordering::Release);
        Self { shared, gate }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.gate.map(Gate::leave).into_iter().flatten().for_each(|next| self.shared.arm(&next, Interest::Now));
    }
}

/// Asks the host while its request is under way.
struct Calling<'a> {
    io: &'a mut Io,
    fd: BorrowedFd<'a>,
    cipher: Option<&'a mut (dyn Cipher + 'static)>,
    limits: &'a Limits,
}

impl Callbacks for Calling<'_> {
    fn call(&mut self, message: &[u8]) -> Result<Wiped> {
        let lost = |error: io::Error| ErrorKind::DeviceError.with(format!("the host did not answer the HSM: {error}"));
        let frames = if self.cipher.is_some() { Frames::Link } else { Frames::Admin };
        match &mut self.cipher {
            Some(cipher) => cipher.seal(message, &mut self.io.output)?,
            None => put(&mut self.io.output, message),
        }
        let until = Instant::now() + self.limits.callback;
        self.io.flush_until(self.fd, until).map_err(lost)?;
        let mut answer = Wiped::default();
        loop {
            let range = self.io.frame_until(self.fd, frames, until).map_err(lost)?;
            let frame = self.io.bytes(range.clone());
            let last = match &mut self.cipher {
                Some(cipher) => cipher.open(frame, &mut answer)?,
                None => {
                    answer.append(frame);
                    true
                }
            };
            self.io.consume(range.end);
            if self.cipher.is_none() {
                self.io.wipe();
            }
            if last {
                return Ok(answer);
            }
            if answer.len() > SMALL {
                return Err(ErrorKind::DeviceError.with("the host's answer is too large"));
            }
        }
    }
}

/// How long the party's session is still good.
fn remaining(party: &dyn Party) -> Option<Duration> {
    let until = UNIX_EPOCH.checked_add(Duration::from_secs(party.valid_until()?))?;
    Some(until.duration_since(SystemTime::now()).unwrap_or_default())
}

/// A clear frame. Nothing that long exists that its length has no room for.
fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}
