//! `conclaved`: an HSM of a fleet as a process. The HSM itself is [`crate::hsm`]; here are the
//! sockets, the limits, what is measured and told, and what hardens the process.
//!
//! Idle connections wait in one epoll set, and idle workers wait on it: the kernel's list of ready
//! connections is the queue. A connection is armed for one event (oneshot), so one worker at a time
//! has it. It reads what is there, handles whole requests and gives the connection back; it never waits
//! for the rest of a frame.

mod connection;
mod gate;
pub mod harden;
mod http;
mod io;
mod limits;
mod listen;
mod member;
mod metrics;
mod poller;
pub mod seccomp;
mod server;
mod service;
mod slots;
#[cfg(test)]
mod tests;
mod workers;

pub use http::Health;
pub use limits::Limits;
pub use listen::{Address, Listener};
pub use metrics::Metrics;
pub use server::{Server, WeakServer};
pub use service::{Cipher, Clear, Figures, Id, Party, Reply, Service, Standing, Then};
