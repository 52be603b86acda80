//! `[[fleet]]`: a Region whose HSMs are processes of their own. One slot for each entry.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{place, wrong};
use crate::error::{Error, ErrorKind, Result};

/// Slots of fleets are numbered from here, those of the data directory stay below.
pub const FIRST_SLOT: u32 = 1 << 30;

/// Connections to one HSM.
const POOL: RangeInclusive<usize> = 1..=256;
const DEFAULT_POOL: usize = 4;
/// Seconds until an HSM that does not answer is given up.
const TIMEOUT: RangeInclusive<u64> = 1..=3600;
const DEFAULT_TIMEOUT: u64 = 10;
const MOST_HSMS: usize = 64;
/// Bytes in a Unix socket's path.
const LONGEST_PATH: usize = 107;

/// A fleet that this host uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// The slot's id: [`FIRST_SLOT`] and the entry's `slot`, which is its place in the file if it has none.
    pub slot: u32,
    pub region: String,
    /// Where its HSMs listen: at least one.
    pub hsms: Vec<Address>,
    /// The host's signing key. None if all addresses are those of operators.
    pub host_key: Option<PathBuf>,
    /// What its file is encrypted under, if it is.
    pub host_key_passphrase: Option<Passphrase>,
    /// The hash of a domain state that the operator vouches for. None as for the host key.
    pub trust: Option<[u8; 48]>,
    /// The file that says so instead, which may come later.
    pub trust_file: Option<PathBuf>,
    pub database: Database,
    /// Connections to each HSM, at most.
    pub pool: usize,
    /// How long an HSM may take to answer a request that costs it little.
    pub timeout: Duration,
    /// What the slot is called, beside its Region.
    pub label: Option<String>,
}

impl Fleet {
    /// [`Self::trust`], or what the file says. CKR_DEVICE_ERROR if that is not there or says none.
    pub fn trusted(&self) -> Result<Option<[u8; 48]>> {
        let Some(path) = &self.trust_file else { return Ok(self.trust) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| ErrorKind::DeviceError.with(format!("{}: {error}", path.display())))?;
        let wanted =
            || ErrorKind::DeviceError.with(format!("{}: no 96 hexadecimal digits of a domain state", path.display()));
        unhex(text.trim()).map(Some).ok_or_else(wanted)
    }

    /// Whether it is reached as its operators reach it: for the founding and the first admissions.
    pub fn is_admin(&self) -> bool {
        self.hsms.iter().all(|hsm| matches!(hsm, Address::Admin(_)))
    }
}

/// Where an HSM listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Unix(PathBuf),
    /// Host and port.
    Tcp(String, u16),
    /// The socket of its operators.
    Admin(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(host, port) if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "tcp:{host}:{port}"),
            Self::Admin(path) => write!(f, "admin:{}", path.display()),
        }
    }
}

impl Address {
    /// Of the form in which [`fmt::Display`] writes it; `beside` completes paths. The error says what it must be.
    pub fn parse(text: &str, beside: &dyn Fn(&Path) -> PathBuf) -> std::result::Result<Self, &'static str> {
        const FORM: &str = "must be unix:PATH, tcp:HOST:PORT or admin:PATH";
        let path = |path: &str| {
            let path = beside(Path::new(path));
            match path.as_os_str().len() {
                0 => Err(FORM),
                1..=LONGEST_PATH => Ok(path),
                _ => Err("the path of a Unix socket has at most 107 bytes"),
            }
        };
        match text.split_once(':') {
            Some((_, "")) => Err(FORM),
            Some(("unix", rest)) => path(rest).map(Self::Unix),
            Some(("admin", rest)) => path(rest).map(Self::Admin),
            Some(("tcp", rest)) => {
                let (host, port) = rest.rsplit_once(':').ok_or(FORM)?;
                let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                match port.parse() {
                    Ok(port @ 1..) if !host.is_empty() => Ok(Self::Tcp(host.to_owned(), port)),
                    _ => Err(FORM),
                }
            }
            _ => Err(FORM),
        }
    }
}

/// Where the passphrase of a host's key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passphrase {
    /// In this variable of the environment.
    Env(String),
    /// In the first line of a file.
    File(PathBuf),
}

impl Passphrase {
    /// `beside` completes a path. The error says what it must be.
    fn parse(text: &str, beside: &dyn Fn(&Path) -> PathBuf) -> std::result::Result<Self, &'static str> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(beside(Path::new(path)))),
            _ => Err("must be env:NAME or file:PATH"),
        }
    }
}

/// Where a fleet's key tokens are.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// A URL, which may hold a password.
    Postgres(String),
    /// The directory of one token, for hosts of one machine.
    Sqlite(PathBuf),
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(_) => f.write_str("Postgres(..)"),
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
        }
    }
}

impl Database {
    /// `beside` completes a path. The error says what it must be.
    pub fn parse(text: &str, beside: &dyn Fn(&Path) -> PathBuf) -> std::result::Result<Self, &'static str> {
        match text.split_once(':') {
            Some(("postgresql" | "postgres", _)) => Ok(Self::Postgres(text.to_owned())),
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(beside(Path::new(path)))),
            _ => Err("must be postgresql://… or sqlite:DIRECTORY"),
        }
    }
}

/// An entry, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    region: Spanned<String>,
    hsm: Spanned<Vec<Spanned<String>>>,
    host_key: Option<PathBuf>,
    host_key_passphrase: Option<Spanned<String>>,
    trust: Option<Spanned<String>>,
    database: Spanned<String>,
    pool: Option<Spanned<usize>>,
    timeout: Option<Spanned<u64>>,
    label: Option<String>,
    slot: Option<Spanned<u32>>,
}

/// The entries of a file, complete.
pub(super) fn check(
    tables: Vec<Spanned<Table>>,
    (path, text): (&Path, &str),
    beside: &dyn Fn(&Path) -> PathBuf,
) -> Result<Vec<Fleet>> {
    let place = |at| place(path, text, at);
    let mut fleets: Vec<Fleet> = Vec::with_capacity(tables.len());
    for (number, table) in tables.into_iter().enumerate() {
        let (entry, slot) = (table.span().start, table.get_ref().slot.as_ref().map(|slot| slot.span().start));
        let default = u32::try_from(number).unwrap_or(FIRST_SLOT);
        let fleet = table.into_inner().check(default, entry, &place, beside)?;
        if fleets.iter().any(|other| other.slot == fleet.slot) {
            let number = fleet.slot - FIRST_SLOT;
            return Err(wrong(format!("{}: another fleet has slot {number}", place(slot.unwrap_or(entry)))));
        }
        fleets.push(fleet);
    }
    Ok(fleets)
}

impl Table {
    fn check(
        self,
        default_slot: u32,
        entry: usize,
        place: &dyn Fn(usize) -> String,
        beside: &dyn Fn(&Path) -> PathBuf,
    ) -> Result<Fleet> {
        let refuse = |at: usize, what: &str| -> Error { wrong(format!("{}: {what}", place(at))) };
        if self.region.get_ref().is_empty() {
            return Err(refuse(self.region.span().start, "must name a Region"));
        }
        if !(1..=MOST_HSMS).contains(&self.hsm.get_ref().len()) {
            return Err(refuse(self.hsm.span().start, "must list from 1 to 64 HSMs"));
        }
        let mut hsms = Vec::with_capacity(self.hsm.get_ref().len());
        for written in self.hsm.get_ref() {
            let at = written.span().start;
            let hsm = Address::parse(written.get_ref(), beside).map_err(|what| refuse(at, what))?;
            if hsms.contains(&hsm) {
                return Err(refuse(at, "the HSM is listed twice"));
            }
            hsms.push(hsm);
        }
        let admin = hsms.iter().filter(|hsm| matches!(hsm, Address::Admin(_))).count();
        if admin != 0 && admin != hsms.len() {
            return Err(refuse(self.hsm.span().start, "the addresses of operators (admin:) stand alone"));
        }
        let file = self.trust.as_ref().and_then(|written| written.get_ref().strip_prefix("file:"));
        let trust_file = file.filter(|file| !file.is_empty()).map(|file| beside(Path::new(file)));
        let trust = match &self.trust {
            Some(_) if trust_file.is_some() => None,
            Some(written) => {
                let wanted = || {
                    refuse(written.span().start, "must be the 96 hexadecimal digits of a domain state, or file:PATH")
                };
                Some(unhex(written.get_ref()).ok_or_else(wanted)?)
            }
            None => None,
        };
        if admin == 0 && (self.host_key.is_none() || self.trust.is_none()) {
            let missing = if self.trust.is_none() { "trust" } else { "host_key" };
            return Err(refuse(entry, &format!("the fleet lacks the key {missing}")));
        }
        let passphrase = self.host_key_passphrase.map(|written| {
            Passphrase::parse(written.get_ref(), beside).map_err(|what| refuse(written.span().start, what))
        });
        let database = Database::parse(self.database.get_ref(), beside)
            .map_err(|what| refuse(self.database.span().start, what))?;
        let pool = match self.pool {
            Some(pool) if !POOL.contains(pool.get_ref()) => {
                return Err(refuse(pool.span().start, "must be from 1 to 256"));
            }
            pool => pool.map_or(DEFAULT_POOL, Spanned::into_inner),
        };
        let timeout = match self.timeout {
            Some(timeout) if !TIMEOUT.contains(timeout.get_ref()) => {
                return Err(refuse(timeout.span().start, "must be from 1 to 3600"));
            }
            timeout => timeout.map_or(DEFAULT_TIMEOUT, Spanned::into_inner),
        };
        let slot = match self.slot {
            Some(slot) if *slot.get_ref() >= FIRST_SLOT => {
                return Err(refuse(slot.span().start, "must be less than 1073741824"));
            }
            slot => slot.map_or(default_slot, Spanned::into_inner),
        };
        Ok(Fleet {
            slot: FIRST_SLOT.saturating_add(slot),
            region: self.region.into_inner(),
            hsms,
            host_key: self.host_key.as_deref().map(beside),
            host_key_passphrase: passphrase.transpose()?,
            trust,
            trust_file,
            database,
            pool,
            timeout: Duration::from_secs(timeout),
            label: self.label,
        })
    }
}

fn unhex(text: &str) -> Option<[u8; 48]> {
    let mut bytes = [0; 48];
    if text.len() != 96 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
