//! The configuration: one optional TOML file and a few variables of the environment.
//!
//! Whatever cannot be read or understood is an error that names the file, the line and the key.

mod fleet;

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use tracing::level_filters::LevelFilter;

pub use fleet::{Address, Database, FIRST_SLOT, Fleet, Passphrase};

use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{AuditMode, PinCost};

const SYSTEM_FILE: &str = "/etc/conclave/conclave.toml";

/// What the HSM accepts as the cost of a PIN hash.
const MEMORY_KIB: RangeInclusive<u32> = 1024..=1024 * 1024;
const PASSES: RangeInclusive<u32> = 1..=64;
const LANES: RangeInclusive<u32> = 1..=16;
/// Of a PIN, in bytes.
const PIN_LEN: RangeInclusive<usize> = 1..=255;

const MAX_MANAGED_KEYS: u64 = 100_000;

/// The configuration, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from.
    pub file: Option<PathBuf>,
    pub data_dir: PathBuf,
    /// Whether to show one uninitialised slot, from which the next token is made.
    pub free_slot: bool,
    /// Whether a key that wraps may not also decrypt. Off for compatibility tests only.
    pub key_separation: bool,
    pub gcm_zero_iv: ZeroIv,
    /// Whether unwrapping with CKM_RSA_PKCS is allowed: it is a padding oracle.
    pub pkcs1_unwrap: bool,
    /// Whether unwrapping with CKM_AES_CBC_PAD is allowed: likewise.
    pub cbc_pad_unwrap: bool,
    /// Whether uses of managed keys are recorded in the audit log.
    pub audit: AuditMode,
    /// None for standard error.
    pub log: Option<PathBuf>,
    pub log_level: LevelFilter,
    pub pin: PinPolicy,
    /// How long a use of a key under dual control waits for its operators.
    pub approval_wait: Duration,
    /// How many managed keys a token may have.
    pub max_managed_keys: u64,
    /// Whether the tokens of the data directory have slots.
    pub embedded: bool,
    pub fleets: Vec<Fleet>,
}

/// What CKM_AES_GCM does with an IV of zeros.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZeroIv {
    /// Uses it, as any IV of the caller's.
    #[default]
    Caller,
    /// Replaces it, in the caller's parameter, by one that the HSM generates.
    Generate,
}

/// What a PIN must be, and what hashing it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinPolicy {
    pub cost: PinCost,
    /// In bytes.
    pub min_len: usize,
    pub max_len: usize,
}

impl Default for PinPolicy {
    fn default() -> Self {
        Self { cost: PinCost::default(), min_len: 4, max_len: 255 }
    }
}

type Environment<'a> = &'a dyn Fn(&CStr) -> Option<OsString>;

impl Config {
    /// Reads the file that CONCLAVE_CONF names, else the user's, else the system's, else takes the
    /// defaults. Touches no other file.
    pub fn load() -> Result<Self> {
        Self::load_from(&secure_variable, Path::new(SYSTEM_FILE))
    }

    fn load_from(variable: Environment<'_>, system_file: &Path) -> Result<Self> {
        let home = || home(variable);
        let file = match variable(c"CONCLAVE_CONF") {
            Some(named) => {
                let path = resolve(Path::new(&named))?;
                let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
                Some((path, text))
            }
            None => {
                let directory = base(variable, c"XDG_CONFIG_HOME").or_else(|| Some(home()?.join(".config")));
                let user = directory.map(|directory| directory.join("conclave/conclave.toml"));
                let mut found = None;
                for path in user.into_iter().chain([system_file.to_owned()]) {
                    found = read_if_there(&path)?.map(|text| (path, text));
                    if found.is_some() {
                        break;
                    }
                }
                found
            }
        };
        let (path, contents) = match &file {
            Some((path, text)) => (Some(path.as_path()), Contents::parse(path, text)?),
            None => (None, Contents::default()),
        };
        // A relative path in the file begins where the file is.
        let beside = |given: &Path| path.and_then(Path::parent).map_or_else(|| given.to_owned(), |dir| dir.join(given));
        let data_dir = match (variable(c"CONCLAVE_HOME"), &contents.data_dir) {
            (Some(named), _) => resolve(Path::new(&named))?,
            (None, Some(named)) => beside(named),
            (None, None) => base(variable, c"XDG_DATA_HOME")
                .or_else(|| Some(home()?.join(".local/share")))
                .ok_or_else(|| {
                    wrong("no data directory: HOME is not set and the user has no entry in the password file")
                })?
                .join("conclave"),
        };
        Ok(Self {
            file: path.map(Path::to_owned),
            data_dir,
            free_slot: contents.free_slot.unwrap_or(true),
            key_separation: contents.key_separation.unwrap_or(Switch::On) == Switch::On,
            gcm_zero_iv: contents.gcm_zero_iv,
            pkcs1_unwrap: contents.pkcs1_unwrap,
            cbc_pad_unwrap: contents.cbc_pad_unwrap,
            audit: contents.audit.into(),
            log: contents.log.as_deref().map(beside),
            log_level: contents.log_level.into(),
            approval_wait: Duration::from_secs(contents.approval_wait.into()),
            pin: match &file {
                Some((path, text)) => contents.pin.check(path, text)?,
                None => PinPolicy::default(),
            },
            max_managed_keys: contents.max_managed_keys.unwrap_or(MAX_MANAGED_KEYS),
            embedded: contents.embedded.unwrap_or(true),
            fleets: match &file {
                Some((path, text)) => fleet::check(contents.fleet, (path, text), &beside)?,
                None => Vec::new(),
            },
        })
    }

    /// Makes the data directory with mode 0700. One that is another user's, or that others may
    /// write to, is refused.
    pub fn prepare_data_dir(&self) -> Result<()> {
        let path = &self.data_dir;
        let about = |what: &str| wrong(format!("data directory {}: {what}", path.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| about(&error.to_string()))?;
        let metadata = fs::metadata(path).map_err(|error| about(&error.to_string()))?;
        // SAFETY: takes and changes nothing.
        let user = unsafe { libc::geteuid() };
        if metadata.uid() != user {
            return Err(about(&format!("belongs to user {}, not to {user} who runs this", metadata.uid())));
        }
        if metadata.mode() & 0o022 != 0 {
            let mode = metadata.mode() & 0o777;
            return Err(about(&format!("has mode {mode:03o}: others may write to it; run chmod 700 on it")));
        }
        Ok(())
    }
}

/// The file, as written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Contents {
    data_dir: Option<PathBuf>,
    free_slot: Option<bool>,
    key_separation: Option<Switch>,
    gcm_zero_iv: ZeroIv,
    pkcs1_unwrap: bool,
    cbc_pad_unwrap: bool,
    audit: Audit,
    log: Option<PathBuf>,
    log_level: LogLevel,
    /// In seconds.
    approval_wait: u32,
    pin: PinTable,
    max_managed_keys: Option<u64>,
    embedded: Option<bool>,
    fleet: Vec<Spanned<fleet::Table>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Audit {
    Off,
    #[default]
    On,
    Strict,
}

impl From<Audit> for AuditMode {
    fn from(audit: Audit) -> Self {
        match audit {
            Audit::Off => Self::Off,
            Audit::On => Self::On,
            Audit::Strict => Self::Strict,
        }
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LogLevel {
    Error,
    #[default]
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PinTable {
    memory_kib: Option<Spanned<u32>>,
    passes: Option<Spanned<u32>>,
    lanes: Option<Spanned<u32>>,
    min_len: Option<Spanned<usize>>,
    max_len: Option<Spanned<usize>>,
}

impl Contents {
    fn parse(path: &Path, text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            let place = error.span().map(|span| place(path, text, span.start));
            wrong(format!("{}: {}", place.unwrap_or_else(|| path.display().to_string()), error.message()))
        })
    }
}

impl PinTable {
    fn check(self, path: &Path, text: &str) -> Result<PinPolicy> {
        fn within<T: Copy + PartialOrd + std::fmt::Display>(
            value: Option<Spanned<T>>,
            default: T,
            range: RangeInclusive<T>,
            place: impl Fn(usize) -> String,
        ) -> Result<T> {
            match value {
                None => Ok(default),
                Some(value) if range.contains(value.get_ref()) => Ok(value.into_inner()),
                Some(value) => {
                    let (from, to) = range.into_inner();
                    Err(wrong(format!("{}: must be from {from} to {to}", place(value.span().start))))
                }
            }
        }
        let place = |at| place(path, text, at);
        let default = PinPolicy::default();
        let memory_kib = within(self.memory_kib, default.cost.memory_kib, MEMORY_KIB, place)?;
        let passes = within(self.passes, default.cost.passes, PASSES, place)?;
        let lanes = within(self.lanes, default.cost.lanes, LANES, place)?;
        let max_len = within(self.max_len, default.max_len, PIN_LEN, place)?;
        let min_len = within(self.min_len, default.min_len.min(max_len), *PIN_LEN.start()..=max_len, place)?;
        Ok(PinPolicy { cost: PinCost { memory_kib, passes, lanes }, min_len, max_len })
    }
}

/// "file, line 3, key pin.passes" for a byte of the text.
fn place(path: &Path, text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let number = before.matches('\n').count() + 1;
    let place = format!("{}, line {number}", path.display());
    let line = text.lines().nth(number - 1).unwrap_or_default().trim();
    let Some((key, _)) = line.split_once('=') else { return place };
    let table = before.lines().rev().find_map(|line| {
        let name = line.trim().strip_prefix('[')?;
        name.strip_prefix('[').unwrap_or(name).split(']').next()
    });
    match table {
        Some(table) => format!("{place}, key {}.{}", table.trim(), key.trim()),
        None => format!("{place}, key {}", key.trim()),
    }
}

/// Where a relative path begins is where the process is now.
fn resolve(path: &Path) -> Result<PathBuf> {
    absolute(path).map_err(|error| unreadable(path, &error))
}

/// None if there is no such file.
fn read_if_there(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// A base directory of the XDG specification, which says to ignore relative paths.
fn base(variable: Environment<'_>, name: &CStr) -> Option<PathBuf> {
    variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn home(variable: Environment<'_>) -> Option<PathBuf> {
    base(variable, c"HOME").or_else(home_of_user)
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    wrong(format!("{}: {error}", path.display()))
}

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    ErrorKind::GeneralError.with(message)
}

/// A variable, unless it is empty, or the process has privileges that its caller lacks.
fn secure_variable(name: &CStr) -> Option<OsString> {
    unsafe extern "C" {
        /// glibc and musl; the `libc` crate does not declare it.
        fn secure_getenv(name: *const libc::c_char) -> *const libc::c_char;
    }
    // SAFETY: `name` is a C string. The answer is one too and is copied at once; that nobody
    // changes the environment meanwhile is what every C library asks of its caller.
    let value = unsafe {
        let value = secure_getenv(name.as_ptr());
        if value.is_null() {
            return None;
        }
        CStr::from_ptr(value)
    };
    (!value.is_empty()).then(|| OsStr::from_bytes(value.to_bytes()).to_owned())
}

/// The home directory in the password file.
fn home_of_user() -> Option<PathBuf> {
    let mut buffer = vec![0 as libc::c_char; 16 * 1024];
    let mut found = std::ptr::null_mut();
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
    // SAFETY: all pointers are valid for writes, the buffer for its length.
    let rc =
        unsafe { libc::getpwuid_r(libc::geteuid(), entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found) };
    if rc != 0 || found.is_null() {
        return None;
    }
    // SAFETY: the call succeeded, so the entry is filled in and its strings lie in the buffer.
    let home: CString = unsafe {
        let directory = (*found).pw_dir;
        if directory.is_null() {
            return None;
        }
        CStr::from_ptr(directory).to_owned()
    };
    Some(PathBuf::from(OsStr::from_bytes(home.to_bytes()))).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::os::unix::fs::PermissionsExt;

    fn load(variables: &[(&CStr, &Path)], system: &Path) -> Result<Config> {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        Config::load_from(&|name| variables.get(name).map(|value| value.as_os_str().to_owned()), system)
    }

    fn with_text(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("conclave.toml");
        fs::write(&path, text).unwrap();
        load(&[(c"CONCLAVE_CONF", &path), (c"HOME", dir.path())], Path::new("/nonexistent"))
    }

    #[test]
    fn without_a_file_the_defaults_hold() {
        let dir = tempfile::tempdir().unwrap();
        let none = Path::new("/nonexistent");
        let config = load(&[(c"HOME", dir.path())], none).unwrap();
        assert_eq!(config.data_dir, dir.path().join(".local/share/conclave"));
        assert!(config.free_slot && config.key_separation && !config.pkcs1_unwrap && !config.cbc_pad_unwrap);
        assert_eq!((config.gcm_zero_iv, config.log_level), (ZeroIv::Caller, LevelFilter::WARN));
        assert_eq!(config.audit, AuditMode::On);
        assert_eq!((config.pin.min_len, config.pin.max_len), (4, 255));
        let config = load(&[(c"HOME", dir.path()), (c"XDG_DATA_HOME", Path::new("/x"))], none).unwrap();
        assert_eq!(config.data_dir, Path::new("/x/conclave"));
        let config = load(&[(c"HOME", dir.path()), (c"XDG_DATA_HOME", Path::new("relative"))], none).unwrap();
        assert_eq!(config.data_dir, dir.path().join(".local/share/conclave"));
        let config = load(&[(c"CONCLAVE_HOME", Path::new("/y")), (c"HOME", dir.path())], none).unwrap();
        assert_eq!(config.data_dir, Path::new("/y"));
    }

    #[test]
    fn files_are_looked_for_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let system = write("etc.toml", "data_dir = \"/system\"");
        let home = [(c"HOME", dir.path())];
        assert_eq!(load(&home, &system).unwrap().data_dir, Path::new("/system"));
        let user = write(".config/conclave/conclave.toml", "data_dir = \"relative\"");
        let config = load(&home, &system).unwrap();
        assert_eq!(config.data_dir, dir.path().join(".config/conclave/relative"));
        assert_eq!(config.file, Some(user.clone()));
        let missing = dir.path().join("missing.toml");
        let error = load(&[(c"HOME", dir.path()), (c"CONCLAVE_CONF", &missing)], &system).unwrap_err();
        assert!(error.to_string().contains("missing.toml"), "{error}");
        fs::remove_file(&user).unwrap();
        fs::create_dir(&user).unwrap();
        assert!(load(&home, &system).is_err(), "what is there and cannot be read is an error");
    }

    #[test]
    fn a_full_file_is_understood() {
        let config = with_text(
            "data_dir = '/data'\nfree_slot = false\nkey_separation = 'off'\ngcm_zero_iv = 'generate'\n\
             pkcs1_unwrap = true\ncbc_pad_unwrap = true\naudit = 'strict'\nlog = '/log'\nlog_level = 'trace'\n\
             [pin]\nmemory_kib = 65536\npasses = 3\nlanes = 2\nmin_len = 8\nmax_len = 64\n",
        )
        .unwrap();
        assert!(!config.free_slot && !config.key_separation && config.pkcs1_unwrap && config.cbc_pad_unwrap);
        assert_eq!((config.gcm_zero_iv, config.log_level), (ZeroIv::Generate, LevelFilter::TRACE));
        assert_eq!((config.audit, config.log), (AuditMode::Strict, Some("/log".into())));
        let cost = PinCost { memory_kib: 65536, passes: 3, lanes: 2 };
        assert_eq!(config.pin, PinPolicy { cost, min_len: 8, max_len: 64 });
    }

    #[test]
    fn a_fleet_is_understood() {
        let trust = "0123456789abcdef".repeat(6);
        let fleet = format!(
            "[[fleet]]\nregion = 'eu-1'\nhsm = ['unix:run/a.sock', 'tcp:hsm-b:7300', 'tcp:[::1]:1']\n\
             host_key = 'host.pem'\ntrust = '{trust}'\ndatabase = 'sqlite:/keys'\n"
        );
        let config = with_text(&format!("embedded = false\n{fleet}pool = 2\ntimeout = 3\n{fleet}slot = 7\n")).unwrap();
        let directory = config.file.as_deref().and_then(Path::parent).unwrap();
        let [first, second] = &config.fleets[..] else { panic!("two fleets") };
        assert!(!config.embedded && !first.is_admin());
        assert_eq!((first.slot, second.slot), (FIRST_SLOT, FIRST_SLOT + 7));
        assert_eq!(first.hsms[0], Address::Unix(directory.join("run/a.sock")));
        assert_eq!(first.hsms[1], Address::Tcp("hsm-b".to_owned(), 7300));
        assert_eq!(first.hsms[2].to_string(), "tcp:[::1]:1");
        assert_eq!(first.host_key, Some(directory.join("host.pem")));
        assert_eq!(first.trust.map(|trust| trust[..2].to_vec()), Some(vec![1, 0x23]));
        assert_eq!(first.database, Database::Sqlite("/keys".into()));
        assert_eq!((first.pool, second.pool, first.timeout), (2, 4, Duration::from_secs(3)));
        let admin = "[[fleet]]\nregion = 'r'\nhsm = ['admin:/a']\ndatabase = 'postgresql://u:secret@h/d'\n";
        let config = with_text(admin).unwrap();
        assert!(config.fleets[0].is_admin() && !format!("{config:?}").contains("secret"));
        for (change, expected) in [
            (("'tcp:hsm-b:7300'", "'tcp:hsm-b'"), "key fleet.hsm: must be unix:PATH"),
            (("'tcp:hsm-b:7300'", "'admin:/a'"), "stand alone"),
            (("host_key = 'host.pem'\n", ""), "lacks the key host_key"),
            (("cdef'", "cde'"), "key fleet.trust: must be the 96"),
            (("pem'\n", "pem'\nhost_key_passphrase = 'pass:x'\n"), "must be env:NAME or file:PATH"),
            (("sqlite:", "mysql:"), "line 6, key fleet.database: must be postgresql"),
            (("'eu-1'", "''"), "line 2, key fleet.region"),
            (("region", "regions"), "regions"),
        ] {
            let message = with_text(&fleet.replacen(change.0, change.1, 1)).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let message = with_text(&format!("{fleet}slot = 1\n{fleet}")).unwrap_err().to_string();
        assert!(message.contains("another fleet has slot 1"), "{message}");
    }

    #[test]
    fn errors_name_the_file_the_line_and_the_key() {
        for (text, parts) in [
            ("free_slot = true\nfree_slots = true\n", ["line 2", "free_slots"]),
            ("\n\nfree_slot = 1\n", ["line 3", "key free_slot"]),
            ("audit = true", ["line 1", "key audit"]),
            ("key_separation = 'maybe'", ["line 1", "key key_separation"]),
            ("[pin]\nlanes = 1\npasses = 0\n", ["line 3", "key pin.passes: must be from 1 to 64"]),
            ("[pin]\nmemory_kib = 99999999\n", ["line 2", "key pin.memory_kib"]),
            ("[pin]\nmax_len = 256\n", ["line 2", "key pin.max_len"]),
            ("[pin]\nmax_len = 8\nmin_len = 9\n", ["line 3", "key pin.min_len: must be from 1 to 8"]),
            ("log = \n", ["line 1", "log"]),
            ("[pins]\n", ["line 1", "pins"]),
        ] {
            let error = with_text(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::GeneralError);
            let message = error.to_string();
            assert!(message.contains("conclave.toml"), "{message}");
            assert!(parts.iter().all(|part| message.contains(part)), "{text:?}: {message}");
        }
    }

    #[test]
    fn the_data_directory_is_the_users_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let config = load(&[(c"CONCLAVE_HOME", &path)], Path::new("/nonexistent")).unwrap();
        config.prepare_data_dir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&dir.path().join("a"))), (0o700, 0o700));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        let message = config.prepare_data_dir().unwrap_err().to_string();
        assert!(message.contains("mode 770") && message.contains("a/b"), "{message}");
    }
}
