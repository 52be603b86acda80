//! Where the server is reached: Unix sockets and TCP.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use super::slots::Peer;

/// `unix:PATH` or `tcp:HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Address {
    Unix(PathBuf),
    Tcp(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("tcp", rest)) if rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => {
                Ok(Self::Tcp(rest.to_owned()))
            }
            _ => Err(format!("{text:?} is neither unix:PATH nor tcp:ADDR:PORT")),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// A socket that listens.
pub struct Listener {
    socket: Socket,
    address: Address,
    admin: bool,
}

enum Socket {
    /// With the device and inode of its file.
    Unix(UnixListener, (u64, u64)),
    Tcp(TcpListener),
}

pub(super) struct Accepted {
    pub(super) fd: OwnedFd,
    pub(super) peer: Peer,
}

impl Listener {
    /// Listens at an address. The file of a Unix socket gets this mode; one that is left over from a
    /// process that is gone is removed. Fails with a sentence.
    pub fn bind(address: &Address, mode: u32) -> Result<Self, String> {
        let cannot = |error: io::Error| format!("cannot listen at {address}: {error}");
        match address {
            Address::Unix(path) => Self::unix(path, mode, false).map_err(cannot),
            Address::Tcp(at) => {
                let listener = TcpListener::bind(at).map_err(cannot)?;
                listener.set_nonblocking(true).map_err(cannot)?;
                let address = Address::Tcp(listener.local_addr().map_err(cannot)?.to_string());
                Ok(Self { socket: Socket::Tcp(listener), address, admin: false })
            }
        }
    }

    /// An admin socket: only its own user may open it.
    pub fn admin(path: &Path) -> Result<Self, String> {
        Self::unix(path, 0o600, true).map_err(|error| format!("cannot listen at {}: {error}", path.display()))
    }

    fn unix(path: &Path, mode: u32, admin: bool) -> io::Result<Self> {
        remove_stale(path)?;
        // The process's umask keeps others out until the mode is set.
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        let file = fs::symlink_metadata(path)?;
        let socket = Socket::Unix(listener, (file.dev(), file.ino()));
        Ok(Self { socket, address: Address::Unix(path.to_owned()), admin })
    }

    /// The address that it really has: a port of 0 is replaced.
    pub fn address(&self) -> &Address {
        &self.address
    }

    pub fn is_admin(&self) -> bool {
        self.admin
    }

    /// None: nobody waits.
    pub(super) fn accept(&self) -> io::Result<Option<Accepted>> {
        let accepted = match &self.socket {
            Socket::Unix(listener, _) => listener.accept().and_then(|(stream, _)| {
                let user = rustix::net::sockopt::socket_peercred(&stream)?.uid.as_raw();
                Ok(Accepted { fd: stream.into(), peer: Peer::User(user) })
            }),
            Socket::Tcp(listener) => listener.accept().and_then(|(stream, address)| {
                stream.set_nodelay(true)?;
                Ok(Accepted { fd: stream.into(), peer: Peer::Address(subscriber(address.ip())) })
            }),
        };
        match accepted {
            Ok(accepted) => Ok(Some(accepted)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Nobody finds it any more; removes the file of a Unix socket if it is still this one's.
    pub(super) fn withdraw(&self) {
        // What waits is refused at once.
        let _ = rustix::net::shutdown(self, rustix::net::Shutdown::Both);
        if let (Socket::Unix(_, identity), Address::Unix(path)) = (&self.socket, &self.address)
            && fs::symlink_metadata(path).is_ok_and(|file| (file.dev(), file.ino()) == *identity)
            && let Err(error) = fs::remove_file(path)
        {
            tracing::info!(%error, "{} stays behind", path.display());
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(listener, _) => listener.as_fd(),
            Socket::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// Removes a socket at which nobody listens. Anything else that is there is left alone, so that
/// binding fails.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(file) = fs::symlink_metadata(path) else { return Ok(()) };
    if !file.file_type().is_socket() {
        return Err(io::Error::other("there is something else than a socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::other("another process listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// To whom an address is counted: in IPv6 a subscriber has a /64.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_written() {
        for text in ["unix:/run/a:b", "tcp:127.0.0.1:0", "tcp:[::1]:8000", "tcp:localhost:1"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for wrong in ["", "unix:", "tcp:", "tcp:1.2.3.4", "tcp:a:70000", "/run/a", "udp:1.2.3.4:5"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_a_socket_that_nobody_serves_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let address = Address::Unix(path.clone());
        let first = Listener::bind(&address, 0o660).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        assert!(Listener::bind(&address, 0o660).is_err());
        drop(first);
        let second = Listener::admin(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        second.withdraw();
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(Listener::bind(&address, 0o660).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn an_ipv6_subscriber_is_counted_once() {
        let [a, b, c]: [IpAddr; 3] = ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"].map(|a| a.parse().unwrap());
        assert!(subscriber(a) == subscriber(b) && subscriber(a) != subscriber(c));
        assert_eq!(subscriber("::ffff:10.0.0.1".parse().unwrap()), "10.0.0.1".parse::<IpAddr>().unwrap());
    }
}
