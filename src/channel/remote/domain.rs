//! The domain as this host knows it: verified against the fingerprint that its operator gave, only ever
//! newer, and no older than any process of this host has seen.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::hsm::session::{Follower, HsmId, replay};
use crate::hsm::{DomainKeyId, DomainToken};
use crate::store::{Store, lock_file};
use crate::text::hex;

/// How long to wait for another process that writes down what it has seen.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// One state of the domain.
pub(super) struct Known {
    pub(super) follower: Follower,
    pub(super) token: DomainToken,
    /// The token that the log begins with.
    pub(super) origin: DomainToken,
    pub(super) active_key: DomainKeyId,
    pub(super) members: Vec<HsmId>,
}

impl Known {
    pub(super) fn version(&self) -> u64 {
        self.token.version
    }
}

pub(super) struct Domain {
    store: Arc<dyn Store>,
    trust: OnceLock<[u8; 48]>,
    /// Where the host keeps the highest state it has seen.
    seen: Option<PathBuf>,
    known: RwLock<Option<Arc<Known>>>,
    /// Held while a state is verified.
    advancing: Mutex<()>,
}

/// The step from one known state to the next.
pub(super) struct Step {
    pub(super) before: Option<Arc<Known>>,
    pub(super) now: Arc<Known>,
    /// Of the log, between the two.
    pub(super) entries: Vec<Vec<u8>>,
}

impl Domain {
    /// `host_key` is the file beside which the host remembers.
    pub(super) fn new(store: Arc<dyn Store>, trust: Option<[u8; 48]>, host_key: Option<&Path>) -> Self {
        let seen = host_key.map(|path| beside(path, ".seen"));
        let trust = trust.map(OnceLock::from).unwrap_or_default();
        Self { store, trust, seen, known: RwLock::default(), advancing: Mutex::default() }
    }

    /// The newest state that was verified; that of the store if none was yet.
    pub(super) fn known(&self) -> Result<Arc<Known>> {
        match self.held() {
            Some(known) => Ok(known),
            None => Ok(self.catch_up()?.now),
        }
    }

    pub(super) fn held(&self) -> Option<Arc<Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The fingerprint where the operator gave none, over the operators' own socket.
    pub(super) fn trust_also(&self, hash: Option<[u8; 48]>) {
        if let Some(hash) = hash {
            self.trust.get_or_init(|| hash);
        }
    }

    pub(super) fn has_trust(&self) -> bool {
        self.trust.get().is_some()
    }

    /// Takes what the store has, if that is newer.
    pub(super) fn catch_up(&self) -> Result<Step> {
        self.store.forget();
        let meta = self.store.meta()?;
        self.advance(&meta.domain)
    }

    /// Takes a token: the one held, or a newer one to which the store's log leads.
    pub(super) fn advance(&self, token: &DomainToken) -> Result<Step> {
        let _one = self.advancing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.held();
        let mut stored: Option<DomainToken> = None;
        loop {
            let token = stored.as_ref().unwrap_or(token);
            let (follower, origin, entries) = match &before {
                Some(known) if known.token == *token => {
                    return Ok(Step { now: Arc::clone(known), before, entries: Vec::new() });
                }
                // What another thread has passed already, unless the store went back.
                Some(known) if token.version < known.version() && self.stored()?.version >= known.version() => {
                    return Ok(Step { now: Arc::clone(known), before, entries: Vec::new() });
                }
                Some(known) => {
                    let entries = self.store.log(known.version(), token.version)?;
                    (known.follower.advance(&token.bytes, &entries)?, known.origin.clone(), entries)
                }
                None => {
                    // Before the founding there is no log.
                    let origin = self.store.origin()?.unwrap_or_else(|| token.clone());
                    let entries = self.store.log(origin.version, token.version)?;
                    let trust = self.trust.get().ok_or_else(no_trust)?;
                    (replay(&origin.bytes, &token.bytes, &entries, trust)?, origin, entries)
                }
            };
            if let Some(older) = self.remember(&follower)? {
                // Another process may have seen what was committed since the token was read.
                let newest = self.stored()?;
                if newest.version <= token.version {
                    return Err(older);
                }
                stored = Some(newest);
                continue;
            }
            let (active_key, members) = (follower.view().active_key, follower.members());
            let now = Arc::new(Known { follower, token: token.clone(), origin, active_key, members });
            *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&now));
            return Ok(Step { before, now, entries });
        }
    }

    fn stored(&self) -> Result<DomainToken> {
        self.store.forget();
        Ok(self.store.meta()?.domain)
    }

    /// The history from a version on, or from the beginning: what brings an HSM to the newest state.
    pub(super) fn entries_after(&self, known: &Known, version: u64) -> Result<(u64, Vec<Vec<u8>>)> {
        let after = version.clamp(known.origin.version, known.version());
        Ok((after, self.store.log(after, known.version())?))
    }

    fn remember(&self, follower: &Follower) -> Result<Option<Error>> {
        let Some(path) = &self.seen else { return Ok(None) };
        let (domain, hash) = (hex(follower.domain()), hex(follower.hash()));
        Seen { domain, version: follower.version(), hash }.remember(path)
    }
}

/// The highest state of a domain that a host has seen.
struct Seen {
    /// Hexadecimal, as the hash is.
    domain: String,
    version: u64,
    hash: String,
}

impl Seen {
    /// Keeps a state that is newer than all that this host has seen, and refuses another of the same version.
    /// For an older one gives what is wrong with it. The file has a line for each domain that the host is in.
    fn remember(self, path: &Path) -> Result<Option<Error>> {
        let not_kept = |error: &dyn std::fmt::Display| {
            tracing::warn!(%error, file = %path.display(), "the domain's newest state is not remembered");
        };
        // Whoever has it reads, compares and writes.
        let locked = lock_file(&beside(path, ".lock"), LOCK_WAIT);
        let mut seen = Self::read(path)?;
        match seen.iter_mut().find(|seen| seen.domain == self.domain) {
            Some(before) if before.version > self.version => {
                return Ok(Some(ErrorKind::DeviceError.with(format!(
                    "the database shows version {} of the domain, but this host has seen version {} ({})",
                    self.version,
                    before.version,
                    path.display()
                ))));
            }
            Some(before) if before.version == self.version && before.hash == self.hash => return Ok(None),
            Some(before) if before.version == self.version => {
                return Err(ErrorKind::DeviceError.with(format!(
                    "ALARM: the database shows another version {} of the domain than this host has seen: {} is not \
                     {} ({})",
                    self.version,
                    self.hash,
                    before.hash,
                    path.display()
                )));
            }
            Some(before) => *before = self,
            None => seen.push(self),
        }
        match locked {
            Ok(_locked) => {
                let lines: String = seen.iter().map(|seen| format!("{seen}\n")).collect();
                if let Err(error) = replace(path, &lines) {
                    not_kept(&error);
                }
            }
            Err(error) => not_kept(&error),
        }
        Ok(None)
    }

    /// All of a file; none if there is no file.
    fn read(path: &Path) -> Result<Vec<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ErrorKind::DeviceError.with(format!("{}: {error}", path.display()))),
        };
        let seen = text.lines().filter(|line| !line.trim().is_empty()).map(Self::parse).collect::<Option<_>>();
        seen.ok_or_else(|| ErrorKind::DeviceError.with(format!("{}: cannot be understood", path.display())))
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (domain, version, hash) = (words.next()?, words.next()?, words.next()?);
        Some(Self { domain: domain.to_owned(), version: version.parse().ok()?, hash: hash.to_owned() })
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.domain, self.version, self.hash)
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes a file whole or not at all.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let part = beside(path, &format!(".{}", std::process::id()));
    let written =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&part).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&part, path)
        });
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

fn no_trust() -> Error {
    ErrorKind::TokenNotRecognized.with("[[fleet]] lacks the key trust, and no HSM of it has a domain")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(domain: &str, version: u64, hash: &str) -> Seen {
        Seen { domain: domain.to_owned(), version, hash: hash.to_owned() }
    }

    #[test]
    fn what_was_seen_of_each_domain_only_goes_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.seen");
        std::thread::scope(|scope| {
            for domain in ["a", "b"] {
                for odd in 0..2 {
                    let path = &path;
                    scope.spawn(move || {
                        for version in (1..40).filter(|version| version % 2 == odd) {
                            let kept = seen(domain, version, "h").remember(path).unwrap().is_none();
                            let all = Seen::read(path).unwrap();
                            let now = all.iter().find(|seen| seen.domain == domain).unwrap().version;
                            assert!(now >= version, "{now} after {version}, {kept}");
                        }
                    });
                }
            }
        });
        assert!(seen("a", 39, "h").remember(&path).unwrap().is_none());
        assert!(seen("a", 39, "g").remember(&path).unwrap_err().to_string().contains("ALARM"));
        let older = seen("b", 38, "h").remember(&path).unwrap().unwrap();
        assert!(older.to_string().contains("has seen version 39"), "{older}");
        std::fs::write(&path, "no such thing").unwrap();
        assert!(seen("a", 40, "h").remember(&path).is_err());
    }
}
