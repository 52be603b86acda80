//! The tokens under the data directory: `tokens/<slot id>/{token.db,lock,counter}`.
//!
//! A token is made in a directory with another name and renamed when it is complete, so whatever
//! has a number for a name is an initialised token. A destroyed one leaves the marker
//! `<slot id>.destroyed`, so that its id is not given again.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use super::fork::{self, Epoch};
use super::lock::{PlainLock, WRITE_WAIT};
use super::sqlite::{self, SqliteStore};
use super::{Store, io_error};
use crate::error::{ErrorKind, Result};
use crate::hsm::{DomainToken, PinRecord};

/// The number of a slot: small, never changed, never reused.
pub type Slot = u32;

const LOCK: &str = ".lock";
const DESTROYED: &str = ".destroyed";
/// Prefix of directories that are not tokens yet, or no longer.
const TRANSIENT: &str = ".part-";
/// Fleets have the slots from here on; Java cannot use ids from 2^31 on.
const SLOTS: Slot = crate::config::FIRST_SLOT;

/// The directory of tokens.
pub struct Directory {
    epoch: Epoch,
    path: PathBuf,
}

impl Directory {
    /// Makes it if need be. `data` exists.
    pub fn open(data: &Path) -> Result<Self> {
        fork::register()?;
        let path = data.join("tokens");
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => sync(data)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error(&path, &error)),
        }
        Ok(Self { epoch: Epoch::current(), path })
    }

    /// The slots with an initialised token, in ascending order.
    pub fn list(&self) -> Result<Vec<Slot>> {
        Ok(self.scan()?.tokens)
    }

    /// The slot that the next token gets.
    pub fn free_slot(&self) -> Result<Slot> {
        self.scan()?.free()
    }

    /// Makes the token of a free slot: all of it or nothing. CKR_FUNCTION_FAILED if the slot is
    /// free no longer, since another process was faster.
    pub fn create(
        &self,
        slot: Slot,
        label: &str,
        serial: &str,
        domain: &DomainToken,
        so_pin: &PinRecord,
    ) -> Result<SqliteStore> {
        let lock = PlainLock::acquire(&self.path.join(LOCK), self.epoch, WRITE_WAIT)?;
        if self.scan()?.free()? != slot {
            return Err(
                ErrorKind::FunctionFailed.with(format!("slot {slot} was taken by another; look at the list anew"))
            );
        }
        self.sweep()?;
        let part = self.transient();
        DirBuilder::new().mode(0o700).create(&part).map_err(|error| io_error(&part, &error))?;
        let path = self.token(slot);
        let made = sqlite::create(lock.pass(), &part, label, serial, domain, Some(so_pin))
            .and_then(|()| sync(&part))
            .and_then(|()| fs::rename(&part, &path).map_err(|error| io_error(&path, &error)));
        if let Err(error) = made {
            let _ = fs::remove_dir_all(&part);
            return Err(error);
        }
        sync(&self.path)?;
        drop(lock);
        SqliteStore::open(&path)
    }

    /// CKR_TOKEN_NOT_PRESENT if there is none.
    pub fn store(&self, slot: Slot) -> Result<SqliteStore> {
        let path = self.token(slot);
        match path.is_dir() {
            true => SqliteStore::open(&path),
            false => Err(ErrorKind::TokenNotPresent.with(format!("{}: no such token", path.display()))),
        }
    }

    /// Deletes the token and all its files. Its id is not used again.
    pub fn destroy(&self, slot: Slot) -> Result<()> {
        match self.store(slot).and_then(|store| store.meta().map(|_| store)) {
            Ok(store) => store.erase()?,
            Err(error) if error.kind() == ErrorKind::TokenNotPresent => return Err(error),
            // Unreadable: there is nothing to tell other processes by.
            Err(_) => {}
        }
        let lock = PlainLock::acquire(&self.path.join(LOCK), self.epoch, WRITE_WAIT)?;
        let marker = self.path.join(format!("{slot}{DESTROYED}"));
        File::create(&marker).and_then(|file| file.sync_all()).map_err(|error| io_error(&marker, &error))?;
        sync(&self.path)?;
        let (path, part) = (self.token(slot), self.transient());
        fs::rename(&path, &part).map_err(|error| io_error(&path, &error))?;
        sync(&self.path)?;
        fs::remove_dir_all(&part).map_err(|error| io_error(&part, &error))?;
        drop(lock);
        Ok(())
    }

    /// Whether a token can be put there: the parent directory exists, and neither the token nor the marker
    /// of one that was destroyed.
    #[cfg(feature = "fleet")]
    pub(super) fn check_new(path: &Path) -> Result<()> {
        let mut marker = path.as_os_str().to_owned();
        marker.push(DESTROYED);
        if path.exists() || Path::new(&marker).exists() {
            let detail = format!("{}: there is, or was, a token; take the next free slot", path.display());
            return Err(ErrorKind::FunctionRejected.with(detail));
        }
        match path.parent().is_some_and(Path::is_dir) {
            true => Ok(()),
            false => Err(ErrorKind::TokenNotPresent.with(format!("{}: there is no directory for it", path.display()))),
        }
    }

    fn token(&self, slot: Slot) -> PathBuf {
        self.path.join(slot.to_string())
    }

    /// A name of its own for each use.
    fn transient(&self) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        self.path.join(format!("{TRANSIENT}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Removes what processes that died left half made or half removed. The caller holds the lock.
    fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path).map_err(|error| io_error(&self.path, &error))?.flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(TRANSIENT)) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    fn scan(&self) -> Result<Scan> {
        let failed = |error| io_error(&self.path, &error);
        let mut scan = Scan::default();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(slot) = name.strip_suffix(DESTROYED).and_then(number) {
                scan.destroyed.push(slot);
            } else if let Some(slot) = number(name)
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
            {
                scan.tokens.push(slot);
            }
        }
        let destroyed = &scan.destroyed;
        scan.tokens.retain(|slot| !destroyed.contains(slot));
        scan.tokens.sort_unstable();
        Ok(scan)
    }
}

/// What is in the directory.
#[derive(Default)]
struct Scan {
    tokens: Vec<Slot>,
    destroyed: Vec<Slot>,
}

impl Scan {
    /// One above all that were ever given, so that the free slot sorts last.
    fn free(&self) -> Result<Slot> {
        let next = self.tokens.iter().chain(&self.destroyed).max().map_or(0, |last| last + 1);
        match next < SLOTS {
            true => Ok(next),
            false => Err(ErrorKind::TokenResourceExceeded.with("all slot ids have been used")),
        }
    }
}

/// A slot id as it is written: decimal, without leading zeros.
fn number(name: &str) -> Option<Slot> {
    name.parse().ok().filter(|slot: &Slot| *slot < SLOTS && slot.to_string() == name)
}

/// Makes the entries of a directory durable.
pub(super) fn sync(directory: &Path) -> Result<()> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(|error| io_error(directory, &error))
}
