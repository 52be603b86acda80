//! The epoll set.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::io::timespec;

/// The token of the event that wakes every worker.
const WAKE: u64 = u64::MAX;

/// What a socket is armed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    Readable,
    Writable,
    /// At once, unless the other end does not read: input is there already.
    Now,
}

impl Interest {
    fn flags(self) -> EventFlags {
        let wanted = match self {
            Self::Readable => EventFlags::IN | EventFlags::RDHUP,
            Self::Writable => EventFlags::OUT,
            Self::Now => EventFlags::IN | EventFlags::OUT,
        };
        wanted | EventFlags::ONESHOT
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Woken {
    By(u64),
    Nothing,
    /// By [`Poller::wake`].
    ToStop,
}

pub(super) struct Poller {
    epoll: OwnedFd,
    wake: OwnedFd,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(Self { epoll, wake })
    }

    pub(super) fn add(&self, source: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(token), Interest::Readable.flags())?)
    }

    pub(super) fn arm(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, source, EventData::new_u64(token), interest.flags())?)
    }

    pub(super) fn remove(&self, source: impl AsFd) {
        // It may never have been added.
        let _ = epoll::delete(&self.epoll, source);
    }

    /// Waits for one event.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<Woken> {
        let mut events: Vec<Event> = Vec::with_capacity(1);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timespec(timeout).as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Copied out of what is packed in C.
        Ok(match events.first().map(|event| event.data) {
            None => Woken::Nothing,
            Some(data) if data.u64() == WAKE => Woken::ToStop,
            Some(data) => Woken::By(data.u64()),
        })
    }

    /// Wakes every worker, now and from now on.
    pub(super) fn wake(&self) -> io::Result<()> {
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes())?;
        Ok(())
    }
}
