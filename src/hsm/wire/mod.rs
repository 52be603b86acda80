//! Everything that crosses an authenticated session between a host and an HSM, as CBOR.
//!
//! ```text
//! request  = [version, hash, stamp, heard, ticket, [op, …]]     the domain state that the host knows
//! reply    = [version, hash, stamp, audit status, [status, …]]  the domain state that the HSM holds
//! response = [op, …]                                            the host's to a callback
//! ```
//! The numbers of `op` and `status` are in the tables of `message.rs`, those of commands in `tables.rs`.
//!
//! A host encodes a [`Request`] ([`encode_request`]) and decodes the reply ([`decode_reply`]). An
//! [`Answer::Callback`] is a question in between, which it answers with [`encode_response`], and then
//! reads on. The HSM's end is [`serve_request`].
//!
//! Templates have values in the caller's `CK_ULONG` format, so both ends are of one byte order and width.
//!
//! What does not cross: [`Command::Random`] is [`Request::Random`], [`Command::Adopt`] is
//! [`Request::Bring`], and [`Command::AuditVerifier`] is [`AuditVerifier::of_domain`] at the host.
//! [`Command::Login`] and [`Command::SetPin`] go without the domain that they carry: the HSM holds one.

mod codec;
mod message;
mod serve;
mod tables;
#[cfg(test)]
mod tests;

pub use codec::Room;
pub use message::{
    Answer, Callback, Description, ReplyHeader, Request, RequestHeader, Response, StreamId, decode_reply,
    decode_request, decode_response, encode_reply, encode_request, encode_response,
};
pub use serve::{Callbacks, Party, Streams, serve_request};

#[cfg(doc)]
use super::{AuditVerifier, Command};

/// The longest message: a request, a reply, a callback.
pub const MAX_MESSAGE: usize = 64 << 20;
/// The most random bytes of one request.
pub const MAX_RANDOM: usize = 1 << 20;
/// The most operations that a host process has open at one HSM.
pub const MAX_STREAMS: usize = 1024;
/// How many bytes those operations may take together, with the input that they keep until they end.
pub const MAX_HELD: usize = 256 << 20;
/// The longest ticket, in bytes.
const MAX_TICKET: usize = 4096;
