//! A connection's frames: AES-256-GCM, a key for each direction, strictly in order.
//!
//! A frame is `last: 1 byte ‖ ciphertext ‖ tag`, behind its length. Its nonce is the number of frames
//! before it in its direction, and it is bound to the request that it belongs to. The frames of a
//! message but the last are full, so a message is cut in one way only.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::super::crypto::Wiped;
use super::super::crypto::aws_lc::gcm::{GcmKey, TAG};
use super::super::domain::cbor::Encoder;
use super::Peer;
use super::host::Process;
use crate::error::{Error, ErrorKind, Result};

/// The most plaintext bytes of a frame.
const PLAIN_MAX: usize = 64 * 1024;
/// The most bytes of a frame, without its length; more is refused before it is read.
pub const FRAME_MAX: usize = 1 + PLAIN_MAX + TAG;
/// The most bytes of a message.
pub const MESSAGE_MAX: usize = 64 << 20;
/// The frames that a key encrypts.
const FRAMES: u64 = 1 << 32;
/// What an HSM answers to the process secret.
const WELCOME: [u8; 1] = [0];

/// One end of an encrypted connection. Any failure closes it for good.
pub struct Link {
    sending: Direction,
    receiving: Direction,
    /// Of the request under way.
    request: u64,
    /// Seconds since 1970.
    valid_until: u64,
    closed: bool,
}

struct Direction {
    key: GcmKey,
    /// Frames so far.
    frames: u64,
}

/// Which end of a connection: the keys are those of host→HSM and HSM→host, 32 bytes each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Host,
    Hsm,
}

impl Link {
    pub(super) fn new(end: End, keys: &[u8; 64], valid_until: u64) -> Result<Self> {
        let (to_hsm, to_host) = keys.split_at(32);
        let (to_hsm, to_host) = (Direction::new(to_hsm)?, Direction::new(to_host)?);
        let (sending, receiving) = if end == End::Host { (to_hsm, to_host) } else { (to_host, to_hsm) };
        Ok(Self { sending, receiving, request: 0, valid_until, closed: false })
    }

    /// The end of the session that the link belongs to, in seconds since 1970.
    pub fn valid_until(&self) -> u64 {
        self.valid_until
    }

    /// Whether the link can still be used: not after a failure.
    pub fn is_open(&self) -> bool {
        !self.closed
    }

    /// Goes on to the next request, at both ends. Request 0 is the greeting.
    pub fn begin_request(&mut self) {
        self.request += 1;
    }

    /// Appends the frames of a message of the request under way to `out`, each behind its length.
    pub fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if message.len() > MESSAGE_MAX {
            return Err(ErrorKind::DataLenRange.with(format!("a message has at most {MESSAGE_MAX} bytes")));
        }
        self.attempt(|link| link.seal_frames(message, out))
    }

    fn seal_frames(&mut self, mut rest: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let frames = rest.len().div_ceil(PLAIN_MAX).max(1);
        out.reserve(rest.len() + frames * (4 + 1 + TAG));
        loop {
            let (part, after) = rest.split_at(rest.len().min(PLAIN_MAX));
            let last = after.is_empty();
            let len = u32::try_from(1 + part.len() + TAG).map_err(|_| ErrorKind::GeneralError)?;
            out.extend_from_slice(&len.to_be_bytes());
            out.push(last.into());
            let start = out.len();
            out.resize(start + part.len(), 0);
            let tag = self.sending.seal(self.request, last, part, &mut out[start..])?;
            out.extend_from_slice(&tag);
            if last {
                return Ok(());
            }
            rest = after;
        }
    }

    /// Opens the next frame, given without its length, and appends it to `message`. Whether it was the
    /// message's last. The caller empties `message` for the next.
    pub fn open(&mut self, frame: &[u8], message: &mut Wiped) -> Result<bool> {
        self.attempt(|link| link.open_frame(frame, message))
    }

    fn open_frame(&mut self, frame: &[u8], message: &mut Wiped) -> Result<bool> {
        let parts = frame.split_first().and_then(|(last, rest)| Some((*last, rest.split_last_chunk::<TAG>()?)));
        let Some((last @ (0 | 1), (ciphertext, tag))) = parts else {
            return Err(broken("a frame is malformed"));
        };
        let last = last == 1;
        if ciphertext.len() > PLAIN_MAX || !last && ciphertext.len() < PLAIN_MAX {
            return Err(broken("a frame has a wrong length"));
        }
        if message.len() + ciphertext.len() > MESSAGE_MAX {
            return Err(broken("a message is too long"));
        }
        let start = message.len();
        let opened = self.receiving.open(self.request, last, (ciphertext, tag), message.append_zeros(ciphertext.len()));
        if opened.is_err() {
            message.truncate(start);
        }
        opened.map(|()| last)
    }

    /// At the host, after its first frame: the HSM's answer to that. Then [`Self::begin_request`].
    pub fn greeted(&mut self, frame: &[u8]) -> Result<()> {
        let mut answer = Wiped::default();
        self.attempt(|link| match link.open_frame(frame, &mut answer)? {
            true if *answer == WELCOME => Ok(()),
            _ => Err(broken("the HSM's greeting is wrong")),
        })
    }

    /// At the HSM: the host's first frame, which shows that the peer is the process that the session
    /// was negotiated for. Appends the answer to `out`. Then [`Self::begin_request`].
    pub fn greet(&mut self, frame: &[u8], peer: &Peer, out: &mut Vec<u8>) -> Result<()> {
        let mut secret = Wiped::default();
        self.attempt(|link| {
            let last = link.open_frame(frame, &mut secret)?;
            let digest: [u8; 32] = Sha256::digest(&*secret).into();
            if !last || secret.len() != 32 || !bool::from(digest.ct_eq(&peer.process)) {
                return Err(broken("the connection is not of the process that negotiated"));
            }
            link.seal_frames(&WELCOME, out)
        })
    }

    /// At the host: its first frame.
    pub(super) fn hello(&mut self, process: &Process) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.seal(process.secret(), &mut out)?;
        Ok(out)
    }

    fn attempt<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.closed {
            return Err(broken("it was closed before"));
        }
        let done = work(self);
        self.closed = done.is_err();
        done
    }
}

impl Direction {
    fn new(key: &[u8]) -> Result<Self> {
        Ok(Self { key: GcmKey::new(key, TAG)?, frames: 0 })
    }

    fn seal(&mut self, request: u64, last: bool, plaintext: &[u8], out: &mut [u8]) -> Result<[u8; TAG]> {
        let nonce = self.next_nonce()?;
        let (aad, len) = associated(request, last);
        self.key.seal(&nonce, &aad[..len], plaintext, out)
    }

    /// Zeros in `out`, if it fails.
    fn open(&mut self, request: u64, last: bool, sealed: (&[u8], &[u8; TAG]), out: &mut [u8]) -> Result<()> {
        let nonce = self.next_nonce()?;
        let (aad, len) = associated(request, last);
        let opened = self.key.open(&nonce, &aad[..len], sealed.0, sealed.1, out);
        opened.map_err(|_| broken("a frame does not verify"))
    }

    /// 96 bits, big-endian.
    fn next_nonce(&mut self) -> Result<[u8; 12]> {
        if self.frames == FRAMES {
            return Err(broken("it has carried as many frames as it may"));
        }
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.frames.to_be_bytes());
        self.frames += 1;
        Ok(nonce)
    }
}

/// CBOR `[request, last]` and its length.
fn associated(request: u64, last: bool) -> ([u8; 16], usize) {
    let mut aad = [0; 16];
    let mut e = Encoder::over(&mut aad);
    e.array(2).uint(request).bool(last);
    let used = e.used();
    (aad, used)
}

fn broken(why: &'static str) -> Error {
    ErrorKind::DeviceError.with(format!("the connection with the HSM is closed: {why}"))
}
