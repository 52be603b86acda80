//! A stream socket to an HSM, and the frames on it: u32 length, big-endian, and so many bytes.

use std::io::{self, Read};
use std::net::ToSocketAddrs;
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::config::Address;

/// What is read at once: a frame of the usual size comes with one call.
const CHUNK: usize = 16 * 1024;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(2);
/// A peer that is gone without a word is noticed after this, however long it may compute.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(2), Duration::from_secs(1), 3);
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

pub(super) struct Stream {
    socket: Socket,
    /// What was read and not taken yet is `buffer[taken..read]`.
    buffer: Vec<u8>,
    taken: usize,
    read: usize,
    timeout: Duration,
}

impl Stream {
    pub(super) fn connect(address: &Address, timeout: Duration) -> io::Result<Self> {
        let socket = match address {
            Address::Unix(path) | Address::Admin(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.connect_timeout(&SockAddr::unix(path)?, CONNECT.min(timeout))?;
                socket
            }
            Address::Tcp(host, port) => connect_tcp(host, *port, CONNECT.min(timeout))?,
        };
        Self::over(socket, timeout)
    }

    pub(super) fn over(socket: Socket, timeout: Duration) -> io::Result<Self> {
        let mut stream = Self { socket, buffer: vec![0; CHUNK], taken: 0, read: 0, timeout: Duration::ZERO };
        stream.wait_for(timeout)?;
        Ok(stream)
    }

    /// How long to wait for what the peer sends, or takes; gives how long that was before.
    pub(super) fn wait_for(&mut self, timeout: Duration) -> io::Result<Duration> {
        if self.timeout != timeout {
            self.socket.set_read_timeout(Some(timeout))?;
            self.socket.set_write_timeout(Some(timeout))?;
        }
        Ok(std::mem::replace(&mut self.timeout, timeout))
    }

    /// Writes frames, lengths and all.
    pub(super) fn write(&mut self, mut frames: &[u8]) -> io::Result<()> {
        while !frames.is_empty() {
            // An application that did not ask for SIGPIPE gets none.
            match self.socket.send_with_flags(frames, libc::MSG_NOSIGNAL) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => frames = frames.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(late(error)),
            }
        }
        Ok(())
    }

    /// Reads the next frame and gives it without its length. One of more than `limit` bytes is an
    /// error; the place is the stream's own and is good until the next call.
    pub(super) fn frame(&mut self, limit: usize) -> io::Result<&[u8]> {
        self.fill(4)?;
        let length = self.buffer.get(self.taken..).and_then(<[u8]>::first_chunk).map_or(0, |l| u32::from_be_bytes(*l));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it announced a frame of {length} bytes")));
        }
        self.fill(4 + length)?;
        let from = self.taken + 4;
        self.taken = from + length;
        Ok(self.buffer.get(from..self.taken).unwrap_or_default())
    }

    /// Has `wanted` bytes in the buffer from `taken` on.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        if self.taken == self.read {
            (self.taken, self.read) = (0, 0);
        }
        if self.taken + wanted > self.buffer.len() {
            self.buffer.copy_within(self.taken..self.read, 0);
            self.read -= self.taken;
            self.taken = 0;
            if wanted > self.buffer.len() {
                self.buffer.resize(wanted, 0);
            }
        }
        while self.read - self.taken < wanted {
            match (&self.socket).read(self.buffer.get_mut(self.read..).unwrap_or_default()) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")),
                Ok(count) => self.read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(late(error)),
            }
        }
        Ok(())
    }

    /// Whether the peer has closed it, or sent what nobody asked for, while it was idle.
    pub(super) fn is_stale(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
        let peeked = self.socket.recv_with_flags(&mut byte, flags);
        self.taken != self.read || !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

fn connect_tcp(host: &str, port: u16, timeout: Duration) -> io::Result<Socket> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        match socket.connect_timeout(&address.into(), timeout) {
            Ok(()) => {
                let (idle, interval, retries) = KEEPALIVE;
                let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(retries);
                let tcp = SockRef::from(&socket);
                tcp.set_tcp_nodelay(true)?;
                tcp.set_tcp_keepalive(&keepalive)?;
                tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
                return Ok(socket);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// A timeout says so.
fn late(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn pair() -> (Stream, Socket) {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        (Stream::over(ours, Duration::from_millis(100)).unwrap(), theirs)
    }

    #[test]
    fn frames_come_whole_however_they_arrive() {
        let (mut stream, peer) = pair();
        let large = vec![7; 50_000];
        let mut wire = vec![0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0xc3, 0x50];
        wire.extend_from_slice(&large);
        wire.extend_from_slice(&[0, 0, 0, 1, 9]);
        let writer = std::thread::spawn(move || {
            for part in wire.chunks(1013) {
                (&peer).write_all(part).unwrap();
            }
            peer
        });
        assert_eq!(stream.frame(10).unwrap(), [1, 2]);
        assert!(stream.frame(10).unwrap().is_empty());
        assert_eq!(stream.frame(50_000).unwrap(), large);
        assert_eq!(stream.frame(10).unwrap(), [9]);
        let peer = writer.join().unwrap();
        assert!(!stream.is_stale());
        assert_eq!(stream.frame(10).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(peer);
        assert!(stream.is_stale());
        assert_eq!(stream.frame(10).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_frame_beyond_the_limit_is_not_read() {
        let (mut stream, peer) = pair();
        (&peer).write_all(&[0, 1, 0, 0]).unwrap();
        assert_eq!(stream.frame(65_535).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
