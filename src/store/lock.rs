//! Who writes: a `flock` on a sidecar file, taken in the order of asking.
//!
//! SQLite's own busy handler lets the slowest of several writers starve. The lock file is opened
//! anew for each attempt and held only together with the fork gate, so that no child inherits it.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::counter::Sidecar;
use super::fork::{Epoch, Pass};
use super::io_error;
use crate::error::{ErrorKind, Result};

/// How long a writer waits for the others.
pub(super) const WRITE_WAIT: Duration = Duration::from_secs(10);
/// How often the first in the queue looks, should nobody wake it (the holder may have died).
const FIRST_LOOKS: Duration = Duration::from_millis(1);
/// How often the others show that they are alive.
const OTHERS_LOOK: Duration = Duration::from_millis(5);

/// The write lock of a token, and the right to use its database.
pub(super) struct WriteLock<'a> {
    file: Option<File>,
    sidecar: &'a Sidecar,
    _pass: Pass,
}

impl<'a> WriteLock<'a> {
    /// CKR_FUNCTION_FAILED when the deadline passes; nothing has changed then.
    pub(super) fn acquire(sidecar: &'a Sidecar, path: &Path, epoch: Epoch, deadline: Instant) -> Result<Self> {
        if !sidecar.is_awaited() {
            let pass = epoch.enter()?;
            if let Some(file) = try_lock(path)? {
                return Ok(Self { file: Some(file), sidecar, _pass: pass });
            }
        }
        let mut place = sidecar.join();
        loop {
            let first = match &place {
                Some(waiting) if waiting.beat() => waiting.is_first(),
                _ => {
                    place = sidecar.join();
                    true
                }
            };
            let signal = place.as_ref().map(|place| place.signal());
            let late = Instant::now() >= deadline;
            if first || late {
                let pass = epoch.enter()?;
                if let Some(file) = try_lock(path)? {
                    return Ok(Self { file: Some(file), sidecar, _pass: pass });
                }
            }
            if late {
                return Err(busy(path, WRITE_WAIT));
            }
            let pause = if first { FIRST_LOOKS } else { OTHERS_LOOK };
            match (&place, signal) {
                (Some(place), Some(signal)) => place.sleep(signal, pause),
                _ => thread::sleep(pause),
            }
        }
    }
}

impl Drop for WriteLock<'_> {
    fn drop(&mut self) {
        // Closing the only descriptor releases the lock.
        drop(self.file.take());
        self.sidecar.wake_first();
    }
}

/// A lock without a queue, for what is rare.
pub(super) struct PlainLock {
    _file: File,
    _pass: Pass,
}

impl PlainLock {
    pub(super) fn acquire(path: &Path, epoch: Epoch, wait: Duration) -> Result<Self> {
        let deadline = Instant::now() + wait;
        loop {
            let pass = epoch.enter()?;
            if let Some(file) = try_lock(path)? {
                return Ok(Self { _file: file, _pass: pass });
            }
            drop(pass);
            if Instant::now() >= deadline {
                return Err(busy(path, wait));
            }
            thread::sleep(FIRST_LOOKS);
        }
    }

    pub(super) fn pass(&self) -> &Pass {
        &self._pass
    }
}

/// The lock if nobody has it; it is released when the file is closed. The caller holds the gate.
pub(super) fn try_lock(path: &Path) -> Result<Option<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|error| io_error(path, &error))?;
    loop {
        // SAFETY: an open descriptor and a constant.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(Some(file));
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EWOULDBLOCK) => return Ok(None),
            Some(libc::EINTR) => {}
            _ => return Err(io_error(path, &error)),
        }
    }
}

fn busy(path: &Path, waited: Duration) -> crate::error::Error {
    let seconds = waited.as_secs();
    ErrorKind::FunctionFailed
        .with(format!("{}: others kept the store busy for {seconds} s; nothing was changed", path.display()))
}
