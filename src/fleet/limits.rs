//! What a connection, a host or a stranger may take of the HSM.

use std::time::Duration;

/// All counts are at least 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, in all.
    pub connections: usize,
    pub connections_per_host: usize,
    /// Connections without a handshake at once, in all and from one address (or user, by a Unix
    /// socket).
    pub strangers: usize,
    pub strangers_per_peer: usize,
    /// Threads that handle requests: how many there always are, and how many there may be.
    pub min_workers: usize,
    pub workers: usize,
    /// Of these at once for one host, and for clear messages.
    pub workers_per_host: usize,
    pub workers_for_strangers: usize,
    /// Bytes of unfinished messages above [`SMALL`] each, in all.
    pub memory: usize,
    /// For each step of a handshake.
    pub handshake: Duration,
    /// For the rest of a frame or message that was begun, and for taking a reply.
    pub frame: Duration,
    /// For a message of many frames.
    pub message: Duration,
    pub idle: Duration,
    /// For the host's answer to a callback.
    pub callback: Duration,
    /// For requests under way when the process is to end.
    pub grace: Duration,
    /// How long a worker looks out for a busy connection's next request. Saves a wake-up where cores are
    /// free, and takes them from others where they are not.
    pub spin: Duration,
}

/// Of a frame under a link's keys: the mark of the last one, 64 KiB, the tag.
pub(super) const LINK_FRAME: usize = 1 + 64 * 1024 + 16;
/// Of a clear frame, and of one that brings a domain's state.
pub(super) const CLEAR_FRAME: usize = 64 * 1024;
pub(super) const BRING_FRAME: usize = 16 << 20;
/// Of a message.
pub(super) const MESSAGE: usize = 64 << 20;
/// How much of a message a connection may hold without its being counted.
pub(super) const SMALL: usize = 1 << 20;
/// Clear frames on one connection; a handshake needs few.
pub(super) const CLEAR_FRAMES: u32 = 16;

impl Default for Limits {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            connections: 4096,
            connections_per_host: 512,
            strangers: 256,
            strangers_per_peer: 64,
            min_workers: (2 * cores).max(4),
            workers: 64.max(4 * cores),
            workers_per_host: 48.max(3 * cores),
            workers_for_strangers: cores.clamp(2, 8),
            memory: 512 << 20,
            handshake: Duration::from_secs(5),
            frame: Duration::from_secs(10),
            message: Duration::from_secs(60),
            idle: Duration::from_secs(600),
            callback: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            spin: Duration::ZERO,
        }
    }
}
