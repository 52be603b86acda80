//! One connection with one HSM: requests and replies, one at a time.

use std::io;
use std::time::{Duration, Instant};

use zeroize::Zeroize;

use super::socket::Stream;
use crate::config::Address;
use crate::error::Error;
use crate::hsm::session::{self, CLEAR_MAX, Code, Connecting, FRAME_MAX, Follower, HsmId, Link, Process, Session};
use crate::hsm::wire::MAX_MESSAGE;
use crate::hsm::{DomainKeyId, Wiped};

/// Why a connection is of no more use, or was not made.
#[derive(Debug)]
pub(super) enum Broken {
    Io(io::Error),
    /// The HSM said so before there was a link.
    Refused(Code),
    /// The HSM has a newer state of the domain than this host.
    Outdated,
    /// The domain's key was rotated since the link was made; nothing was sent.
    Rotated,
    /// What came is not to be trusted, or something failed here.
    Invalid(Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Invalid(error)
    }
}

impl From<session::Failure> for Broken {
    fn from(failure: session::Failure) -> Self {
        match failure {
            session::Failure::Refused(code) => Self::Refused(code),
            session::Failure::Outdated => Self::Outdated,
            session::Failure::Invalid(error) => Self::Invalid(error),
        }
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Refused(code) => session::Failure::Refused(*code).fmt(f),
            Self::Outdated => session::Failure::Outdated.fmt(f),
            Self::Rotated => f.write_str("its session is from before the domain's last rotation"),
            Self::Invalid(error) => error.fmt(f),
        }
    }
}

/// How long a handshake may take: each of its steps, and the whole of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handshake {
    step: Duration,
    until: Instant,
}

impl Handshake {
    pub(super) fn new(step: Duration, whole: Duration) -> Self {
        Self { step, until: Instant::now() + whole }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now()).min(self.step);
        if left.is_zero() {
            Err(io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time"))
        } else {
            Ok(left)
        }
    }
}

/// A connection before its link: clear messages.
pub(super) struct Clear {
    stream: Stream,
    bound: Handshake,
}

impl Clear {
    pub(super) fn connect(address: &Address, bound: Handshake) -> Result<Self, Broken> {
        Ok(Self { stream: Stream::connect(address, bound.left()?)?, bound })
    }

    /// How long the next step of the handshake may take. An error if nothing is left.
    pub(super) fn left(&self) -> io::Result<Duration> {
        self.bound.left()
    }

    /// Sends a clear message, its length in front, and gives the reply.
    pub(super) fn ask(&mut self, wire: &[u8]) -> Result<Vec<u8>, Broken> {
        self.stream.wait_for(self.bound.left()?)?;
        self.stream.write(wire)?;
        Ok(self.stream.frame(CLEAR_MAX)?.to_vec())
    }

    /// Asks an HSM who it is.
    pub(super) fn status(&mut self) -> Result<session::Status, Broken> {
        let wire = session::Request::Status.to_wire()?;
        self.tell(&wire)
    }

    /// Sends what is answered as [`session::Request::Status`].
    pub(super) fn tell(&mut self, wire: &[u8]) -> Result<session::Status, Broken> {
        let reply = self.ask(wire)?;
        match session::Reply::decode(&reply)? {
            session::Reply::Status(status) => Ok(status),
            _ => Err(unexpected().into()),
        }
    }

    /// Goes on as a link, which the HSM confirms.
    pub(super) fn link(
        mut self,
        connecting: Connecting,
        reply: &[u8],
        (session, process, follower): (&Session, &Process, &Follower),
        hsm: HsmId,
    ) -> Result<Connection, Broken> {
        let (mut link, hello) = connecting.finish(session, process, follower, reply)?;
        self.stream.wait_for(self.bound.left()?)?;
        self.stream.write(&hello)?;
        link.greeted(self.stream.frame(FRAME_MAX)?)?;
        let valid_until = link.valid_until();
        let key = Some(*session.domain_key());
        Ok(Connection { key, ..Connection::new(self.stream, Some(link), hsm, valid_until) })
    }

    /// Goes on with requests in clear frames, on an admin socket.
    pub(super) fn admin(mut self, hsm: HsmId) -> Result<Connection, Broken> {
        let wire = session::Request::Admin.to_wire()?;
        let reply = self.ask(&wire)?;
        match session::Reply::decode(&reply)? {
            session::Reply::Admin => Ok(Connection::new(self.stream, None, hsm, u64::MAX)),
            _ => Err(unexpected().into()),
        }
    }
}

/// A connection on which requests are made.
pub(super) struct Connection {
    stream: Stream,
    /// None on an admin socket, where frames are clear.
    link: Option<Link>,
    /// Who is at the other end.
    pub(super) hsm: HsmId,
    /// The domain key that its session counts under; None where there is no session.
    key: Option<DomainKeyId>,
    /// Seconds since 1970.
    pub(super) valid_until: u64,
    /// When it was last used.
    pub(super) rested: Instant,
    /// The pool's generation when it was made.
    pub(super) generation: u64,
    /// What is sent next.
    pub(super) request: Wiped,
    reply: Wiped,
    frames: Vec<u8>,
}

impl Connection {
    fn new(stream: Stream, link: Option<Link>, hsm: HsmId, valid_until: u64) -> Self {
        Self {
            stream,
            link,
            hsm,
            key: None,
            valid_until,
            rested: Instant::now(),
            generation: 0,
            request: Wiped::default(),
            reply: Wiped::default(),
            frames: Vec::new(),
        }
    }

    /// Whether the HSM has closed it meanwhile.
    pub(super) fn is_stale(&self) -> bool {
        self.stream.is_stale()
    }

    /// Whether it still counts in a state with this active key: who was expelled since may know the keys
    /// of one that does not.
    pub(super) fn is_under(&self, active: Option<&DomainKeyId>) -> bool {
        self.key.is_none_or(|key| active == Some(&key))
    }

    /// How long it is waited for what the HSM sends next, instead of what [`Self::send`] was told. The
    /// time before is given back.
    pub(super) fn wait_for(&mut self, timeout: Duration) -> Result<Duration, Broken> {
        Ok(self.stream.wait_for(timeout)?)
    }

    /// Sends `self.request` as a new request.
    pub(super) fn send(&mut self, timeout: Duration) -> Result<(), Broken> {
        self.stream.wait_for(timeout)?;
        if let Some(link) = &mut self.link {
            link.begin_request();
        }
        self.go_on()
    }

    /// Sends `self.request` as the answer to a callback of the request under way.
    pub(super) fn go_on(&mut self) -> Result<(), Broken> {
        self.frames.clear();
        match &mut self.link {
            Some(link) => link.seal(&self.request, &mut self.frames)?,
            None => {
                let length =
                    u32::try_from(self.request.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
                self.frames.extend_from_slice(&length.to_be_bytes());
                self.frames.extend_from_slice(&self.request);
            }
        }
        Ok(self.stream.write(&self.frames)?)
    }

    /// A request is over: large buffers are let go.
    pub(super) fn rest(&mut self) {
        self.rested = Instant::now();
        for buffer in [&mut self.request, &mut self.reply] {
            if buffer.capacity() > LARGEST_KEPT {
                *buffer = Wiped::default();
            } else {
                // There may be a PIN in it, or what was decrypted.
                buffer.wipe();
            }
        }
        if self.link.is_none() {
            self.frames.zeroize();
        }
        if self.frames.capacity() > LARGEST_KEPT {
            self.frames = Vec::new();
        }
    }

    /// Waits for the next message of the HSM.
    pub(super) fn receive(&mut self) -> Result<(), Broken> {
        self.reply.clear();
        match &mut self.link {
            Some(link) => while !link.open(self.stream.frame(FRAME_MAX)?, &mut self.reply)? {},
            None => {
                let frame = self.stream.frame(MAX_MESSAGE)?;
                self.reply.append(frame);
            }
        }
        Ok(())
    }

    /// What was received last.
    pub(super) fn message(&self) -> &[u8] {
        &self.reply
    }
}

/// Buffers that grew beyond this are let go.
const LARGEST_KEPT: usize = 256 * 1024;

fn unexpected() -> Error {
    crate::error::ErrorKind::DeviceError.with("the HSM answered with another kind of message")
}
