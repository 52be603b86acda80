//! A connection to an HSM before any session: clear messages, and an operators' requests.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use conclave::config::Address;
use conclave::hsm::session::{self, Status};
use conclave::hsm::wire::{self, Answer, RequestHeader, Room};
use conclave::hsm::{Command, Reply, Ticket, Wiped};

use super::stores::History;
use crate::args::HsmAt;
use crate::output::Failure;

const PATIENCE: Duration = Duration::from_secs(30);

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

pub(super) struct Connection {
    stream: Box<dyn Stream>,
    address: Address,
}

impl Connection {
    pub(super) fn open(at: &HsmAt) -> Result<Self, Failure> {
        Self::to(at.address()?)
    }

    fn to(address: Address) -> Result<Self, Failure> {
        let connected = || -> io::Result<Box<dyn Stream>> {
            match &address {
                Address::Unix(path) | Address::Admin(path) => {
                    let stream = UnixStream::connect(path)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    Ok(Box::new(stream))
                }
                Address::Tcp(host, port) => {
                    let stream = TcpStream::connect((host.as_str(), *port))?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    Ok(Box::new(stream))
                }
            }
        };
        let stream =
            connected().map_err(|error| Failure::new(format!("cannot reach the HSM at {address}: {error}")))?;
        Ok(Self { stream, address })
    }

    /// The operators' socket, for requests.
    pub(super) fn admin(socket: &Path) -> Result<Admin, Failure> {
        let mut connection = Self::to(Address::Admin(socket.to_owned()))?;
        let wire = session::Request::Admin.to_wire().map_err(|error| connection.failed(&error))?;
        let reply = connection.ask(&wire)?;
        match session::Reply::decode(&reply) {
            Ok(session::Reply::Admin) => Ok(Admin(connection)),
            Ok(_) => Err(unexpected()),
            Err(failure) => Err(connection.failed(&failure)),
        }
    }

    pub(super) fn status(&mut self) -> Result<Status, Failure> {
        let wire = session::Request::Status.to_wire().map_err(|error| self.failed(&error))?;
        self.tell(&wire)
    }

    /// Carries a history to the HSM, which has this version of it (0 for none).
    pub(super) fn bring(&mut self, history: &History, version: u64) -> Result<Status, Failure> {
        let after = version.clamp(history.origin.version, history.newest.version);
        let known = usize::try_from(after - history.origin.version).unwrap_or(usize::MAX);
        let entries = history.entries.iter().skip(known).map(Vec::as_slice).collect();
        let request =
            session::Request::Bring { origin: &history.origin.bytes, newest: &history.newest.bytes, after, entries };
        let wire = request.to_wire().map_err(|error| self.failed(&error))?;
        self.tell(&wire)
    }

    /// Sends what is answered by a status.
    fn tell(&mut self, wire: &[u8]) -> Result<Status, Failure> {
        let reply = self.ask(wire)?;
        match session::Reply::decode(&reply) {
            Ok(session::Reply::Status(status)) => Ok(status),
            Ok(_) => Err(unexpected()),
            Err(failure) => Err(self.failed(&failure)),
        }
    }

    /// Sends bytes with their length in front, and gives the answer without.
    fn ask(&mut self, wire: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut exchange = || -> io::Result<Vec<u8>> {
            self.stream.write_all(wire)?;
            self.stream.flush()?;
            let mut length = [0; 4];
            self.stream.read_exact(&mut length)?;
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if length > wire::MAX_MESSAGE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it announced too large a message"));
            }
            let mut reply = vec![0; length];
            self.stream.read_exact(&mut reply)?;
            Ok(reply)
        };
        exchange().map_err(|error| Failure::new(format!("the HSM at {} did not answer: {error}", self.address)))
    }

    fn failed(&self, why: &dyn std::fmt::Display) -> Failure {
        Failure::new(format!("the HSM at {}: {why}", self.address))
    }
}

/// An HSM's operators' socket.
pub(super) struct Admin(Connection);

impl Admin {
    /// Executes a command; `what` did not happen if it fails.
    pub(super) fn call(&mut self, command: Command<'_>, what: &str) -> Result<Reply, Failure> {
        let failed = |error| Failure::while_(what, &error);
        let header = RequestHeader { version: 0, hash: [0; 48], stamp: 0, heard: 0, ticket: Ticket::public() };
        let mut message = Wiped::default();
        wire::encode_request(&header, &wire::Request::Call(command), &mut message).map_err(failed)?;
        let length = u32::try_from(message.len()).map_err(|_| Failure::new("the request is too large"))?;
        let wire = [&length.to_be_bytes()[..], &message].concat();
        let reply = self.0.ask(&wire)?;
        let room = Room::new();
        match wire::decode_reply(&reply, &room).map_err(failed)?.1 {
            Answer::Reply(reply) => Ok(reply),
            Answer::Error(error) => Err(failed(error)),
            _ => Err(unexpected()),
        }
    }
}

pub(super) fn unexpected() -> Failure {
    Failure::new("the HSM answered something else: is it of another release?")
}
