//! The store of a fleet on one machine: a directory of its own, made without a data directory around it.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::super::fork::{self, Epoch};
use super::SqliteStore;
use crate::error::{ErrorKind, Result};
use crate::hsm::DomainToken;

impl SqliteStore {
    /// Makes the token of a new domain, which has no PIN, in a directory that is not there yet.
    /// CKR_FUNCTION_REJECTED if it is.
    pub fn create(directory: &Path, label: &str, serial: &str, domain: &DomainToken) -> Result<Self> {
        fork::register()?;
        let failed = |error: std::io::Error| ErrorKind::DeviceError.with(format!("{}: {error}", directory.display()));
        DirBuilder::new().mode(0o700).create(directory).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                ErrorKind::FunctionRejected.with(format!("{} exists already", directory.display()))
            }
            _ => failed(error),
        })?;
        let made = Epoch::current()
            .enter()
            .and_then(|pass| super::create(&pass, directory, label, serial, domain, None))
            .and_then(|()| File::open(directory).and_then(|file| file.sync_all()).map_err(failed));
        if let Err(error) = made {
            // What cannot be removed is no token.
            let _ = fs::remove_dir_all(directory);
            return Err(error);
        }
        Self::open(directory)
    }
}
