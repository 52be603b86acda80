//! A connection's bytes: what came and is not yet handled, and what is still to be sent.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use zeroize::Zeroize;

use super::limits::{BRING_FRAME, CLEAR_FRAME, LINK_FRAME, MESSAGE};

/// Of a frame's length.
const PREFIX: usize = 4;
/// What is read at once, at least and at most.
const LEAST: usize = 8 * 1024;
const MOST: usize = 256 * 1024;
/// What an idle connection may keep of its buffers.
const KEPT: usize = 4 * 1024;

/// How long a frame may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Frames {
    Clear,
    Link,
    Admin,
}

/// A length that is no frame's here.
#[derive(Debug)]
pub(super) struct BadLength;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    All,
    /// The other end has to take some first.
    Blocked,
}

#[derive(Default)]
pub(super) struct Io {
    input: Vec<u8>,
    /// Where what is not handled begins.
    at: usize,
    pub(super) output: Vec<u8>,
    sent: usize,
}

impl Io {
    /// Where the next frame is, without its length, if all of it is there.
    pub(super) fn frame(&self, frames: Frames) -> Result<Option<Range<usize>>, BadLength> {
        let Some(len) = self.frame_len() else { return Ok(None) };
        let begin = self.at + PREFIX;
        let (usual, most) = match frames {
            Frames::Clear => (CLEAR_FRAME, BRING_FRAME),
            Frames::Link => (LINK_FRAME, LINK_FRAME),
            Frames::Admin => (MESSAGE, MESSAGE),
        };
        if len == 0 || len > most {
            return Err(BadLength);
        }
        // More than usual may only be an array of five that begins with 1.
        if len > usual {
            match self.input.get(begin..begin + 2) {
                None => return Ok(None),
                Some([0x85, 1]) => {}
                Some(_) => return Err(BadLength),
            }
        }
        Ok((self.input.len() >= begin + len).then_some(begin..begin + len))
    }

    fn frame_len(&self) -> Option<usize> {
        let prefix = self.input.get(self.at..)?.first_chunk::<PREFIX>()?;
        usize::try_from(u32::from_be_bytes(*prefix)).ok()
    }

    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.input.get(range).unwrap_or_default()
    }

    /// A frame that ended there was handled.
    pub(super) fn consume(&mut self, end: usize) {
        self.at = end;
        if self.at >= self.input.len() {
            self.input.clear();
            self.at = 0;
        }
    }

    /// Part of a frame is there.
    pub(super) fn is_partial(&self) -> bool {
        self.at < self.input.len()
    }

    /// How many bytes are held.
    pub(super) fn held(&self) -> usize {
        self.input.len() + self.output.len()
    }

    /// Reads what is there, without waiting. `WouldBlock`: nothing; 0: the other end has closed.
    pub(super) fn fill(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        if self.at > 0 {
            self.input.drain(..self.at);
            self.at = 0;
        }
        // The length is checked before anything of the frame is waited for, and memory follows what
        // really came.
        let wanted = self.frame_len().map_or(LEAST, |len| PREFIX.saturating_add(len).saturating_sub(self.input.len()));
        self.input.reserve(wanted.clamp(LEAST, MOST));
        loop {
            match rustix::net::recv(fd, spare_capacity(&mut self.input), RecvFlags::DONTWAIT) {
                Ok((_, read)) => return Ok(read),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends what there is to send, without waiting.
    pub(super) fn flush(&mut self, fd: BorrowedFd<'_>) -> io::Result<Sent> {
        while let Some(rest @ [_, ..]) = self.output.get(self.sent..) {
            match rustix::net::send(fd, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => self.sent += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Sent::Blocked),
                Err(error) => return Err(error.into()),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(Sent::All)
    }

    /// Sends everything, and waits for it until `until`.
    pub(super) fn flush_until(&mut self, fd: BorrowedFd<'_>, until: Instant) -> io::Result<()> {
        while self.flush(fd)? == Sent::Blocked {
            await_until(fd, PollFlags::OUT, until)?;
        }
        Ok(())
    }

    /// Waits for the next frame until `until`.
    pub(super) fn frame_until(
        &mut self,
        fd: BorrowedFd<'_>,
        frames: Frames,
        until: Instant,
    ) -> io::Result<Range<usize>> {
        loop {
            match self.frame(frames) {
                Ok(Some(range)) => return Ok(range),
                Ok(None) => {}
                Err(BadLength) => return Err(io::ErrorKind::InvalidData.into()),
            }
            match self.fill(fd) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => await_until(fd, PollFlags::IN, until)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Wipes what was handled: at an admin socket it was in the clear.
    pub(super) fn wipe(&mut self) {
        let at = self.at;
        match self.is_partial() {
            true => self.input.iter_mut().take(at).for_each(|byte| *byte = 0),
            false => self.input.zeroize(),
        }
    }

    /// Gives up what an idle connection does not need.
    pub(super) fn shrink(&mut self) {
        for buffer in [&mut self.input, &mut self.output] {
            if buffer.is_empty() && buffer.capacity() > KEPT {
                *buffer = Vec::new();
            }
        }
    }
}

fn await_until(fd: BorrowedFd<'_>, what: PollFlags, until: Instant) -> io::Result<()> {
    let rest = until.saturating_duration_since(Instant::now());
    if rest.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    match poll(&mut [PollFd::from_borrowed_fd(fd, what)], timespec(rest).as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// None means for ever, for a time that no clock has.
pub(super) fn timespec(duration: Duration) -> Option<Timespec> {
    Timespec::try_from(duration).ok()
}
