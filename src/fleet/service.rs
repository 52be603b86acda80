//! An HSM, as the server sees it. The server knows frames, and of a message no more than it counts.

use crate::error::Result;
use crate::hsm::Wiped;
pub(super) use crate::hsm::wire::Callbacks;

/// Of a host or an HSM.
pub type Id = [u8; 16];

/// An HSM.
pub trait Service: Send + Sync {
    /// Answers a frame that came before a handshake, or in place of one. `admin`: it came by an admin
    /// socket.
    fn clear(&self, frame: &[u8], admin: bool) -> Clear;

    fn standing(&self) -> Standing;

    fn figures(&self) -> Figures;

    /// Called now and then, when there is time.
    fn tidy(&self) {}
}

/// The answer to a clear frame, with its length before it.
pub struct Clear {
    pub bytes: Vec<u8>,
    pub then: Then,
    /// Why it is a refusal, for the log.
    pub refused: Option<String>,
}

/// What becomes of the connection after a clear answer was sent.
pub enum Then {
    Close,
    KeepOpen,
    /// Frames under the link's keys follow.
    Linked(Box<dyn Party>, Box<dyn Cipher>),
    /// Clear frames with requests follow.
    Admin(Box<dyn Party>),
}

/// The other end of a connection, once it is known.
pub trait Party: Send {
    /// Id and name; none at an admin socket.
    fn host(&self) -> Option<(Id, &str)>;

    /// In seconds since 1970. The connection is closed then.
    fn valid_until(&self) -> Option<u64>;

    /// Executes one request, and waits for the host where it has to call back.
    fn request(&mut self, message: &[u8], callbacks: &mut dyn Callbacks) -> Reply;
}

pub struct Reply {
    pub message: Wiped,
    /// Nothing more is answered on this connection. An empty message is not sent then.
    pub close: bool,
}

/// The keys of a link.
pub trait Cipher: Send {
    /// Opens a frame (without its length) and appends what is in it. True: it was the message's last.
    /// After an error the link is over.
    fn open(&mut self, frame: &[u8], message: &mut Wiped) -> Result<bool>;

    /// Appends a message's frames, with their lengths.
    fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<()>;

    /// A request was answered; the next one begins.
    fn next_request(&mut self);
}

/// Where the HSM stands in its domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub member: bool,
    /// Of the domain's state, if the HSM has one.
    pub version: Option<u64>,
}

/// What the HSM itself counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    pub logins: u64,
    pub wrong_pins: u64,
    /// Roles whose PIN is locked at this HSM.
    pub locked_pins: u64,
    /// Streaming operations under way.
    pub streams: u64,
    /// Host processes that it knows.
    pub clients: u64,
    /// Token records that are held open.
    pub cached_records: u64,
    /// The soonest expiry of imported key material that was used, in seconds since 1970.
    pub imported_expiry: Option<u64>,
}
