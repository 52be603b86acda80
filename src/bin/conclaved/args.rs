//! The options, from the command line and a file, with the help that users read.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use conclave::fleet::{Address, Limits};
use conclave::hsm::{AuditMode, Settings};
use serde::Deserialize;

/// An HSM of a fleet of Conclave. It makes its keys when it starts, holds them in locked memory only,
/// and serves the hosts of its domain from when it is admitted until it ends.
#[derive(Parser)]
#[command(
    name = "conclaved",
    version,
    after_help = "Examples:\n  \
        conclaved --name a --listen unix:/run/conclave/a.sock --admin /run/conclave/a.admin\n  \
        conclaved --name b --listen tcp:10.0.0.5:8471 --domain-fingerprint 5f0c… --metrics 127.0.0.1:9471\n  \
        conclaved --config /etc/conclave/conclaved.toml --user conclave\n  \
        curl http://127.0.0.1:9471/healthz\n\n\
        The file is TOML with the same names, such as: name = \"a\"; listen = [\"tcp:10.0.0.5:8471\"]. What the\n\
        command line says goes before. The first lines of the output say the HSM's id and fingerprints, which\n\
        its admission names. SIGTERM and SIGINT end it; its keys are gone then, and the next start is another\n\
        HSM (docs/conclaved.md). Exit codes: 0 ended as told, 1 failed, 2 wrong usage."
)]
pub(crate) struct Arguments {
    /// A TOML file with any of these options.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// What either says.
#[derive(clap::Args, Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Options {
    /// The HSM's name, as operators and logs know it.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where hosts connect, unix:PATH or tcp:ADDR:PORT; may be given several times. Port 0 is any free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<Address>,
    /// The mode of Unix sockets, in octal [default: 0660].
    #[arg(long, value_name = "MODE")]
    socket_mode: Option<String>,
    /// A Unix socket of mode 0600, for founding a domain and for admissions.
    #[arg(long, value_name = "PATH")]
    admin: Option<PathBuf>,
    /// Where /healthz and /metrics are, in plain HTTP for anybody who can connect: prefer loopback.
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<String>,
    /// The domain that it may join: the hash of one of its states, 96 hex digits. Without it it joins none, and
    /// may only begin one.
    #[arg(long, value_name = "HEX")]
    domain_fingerprint: Option<String>,
    /// Whether uses of managed keys are recorded [default: on].
    #[arg(long, value_name = "MODE")]
    audit: Option<Audit>,
    /// Whether a key that wraps may not also decrypt; off for compatibility tests only [default: on].
    #[arg(long, value_name = "SWITCH")]
    key_separation: Option<Switch>,
    /// Whether C_UnwrapKey takes CKM_RSA_PKCS, a padding oracle [default: off].
    #[arg(long, value_name = "SWITCH")]
    pkcs1_unwrap: Option<Switch>,
    /// Whether C_UnwrapKey takes CKM_AES_CBC_PAD, likewise [default: off].
    #[arg(long, value_name = "SWITCH")]
    cbc_pad_unwrap: Option<Switch>,
    /// The user that it becomes when root starts it.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Whether it makes itself undumpable, untraceable and bound to few system calls [default: on].
    #[arg(long, value_name = "SWITCH")]
    hardening: Option<Switch>,
    /// The part of that which is a filter of system calls [default: on].
    #[arg(long, value_name = "SWITCH")]
    seccomp: Option<Switch>,
    /// How the first lines are written.
    #[arg(long)]
    #[serde(default)]
    json: bool,
    /// How events are written to standard error: text (name=value) or json [default: text].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<Format>,
    /// What is logged: error, warn, info, debug, trace, off [default: info].
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    #[command(flatten)]
    #[serde(default)]
    limits: LimitOptions,
}

/// Numbers of 1 or more; times in seconds.
#[derive(clap::Args, Deserialize, Default)]
#[command(next_help_heading = "Limits (in the file: under [limits])")]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct LimitOptions {
    /// Open connections [default: 4096].
    #[arg(long, value_name = "N")]
    max_connections: Option<u32>,
    /// Of one host [default: 512].
    #[arg(long, value_name = "N")]
    max_connections_per_host: Option<u32>,
    /// Connections before their handshake [default: 256].
    #[arg(long, value_name = "N")]
    max_strangers: Option<u32>,
    /// Of these, from one address (IPv6: /64) or, by a Unix socket, one user [default: 64].
    #[arg(long, value_name = "N")]
    max_strangers_per_peer: Option<u32>,
    /// Threads that handle requests [default: 64, or 4 per core].
    #[arg(long, value_name = "N")]
    max_workers: Option<u32>,
    /// Of these at once, for one host [default: 3 of 4].
    #[arg(long, value_name = "N")]
    max_workers_per_host: Option<u32>,
    /// Memory for unfinished messages above 1 MiB, in MiB [default: 512].
    #[arg(long, value_name = "MIB")]
    max_message_memory: Option<u32>,
    /// For each step of a handshake [default: 5].
    #[arg(long, value_name = "S")]
    handshake_time: Option<u32>,
    /// For a frame that was begun, and for taking a reply [default: 10].
    #[arg(long, value_name = "S")]
    frame_time: Option<u32>,
    /// For a message of many frames [default: 60].
    #[arg(long, value_name = "S")]
    message_time: Option<u32>,
    /// After which an unused connection is closed [default: 600].
    #[arg(long, value_name = "S")]
    idle_time: Option<u32>,
    /// For a host's answer to the HSM's own question [default: 10].
    #[arg(long, value_name = "S")]
    callback_time: Option<u32>,
    /// For requests under way at the end [default: 5].
    #[arg(long, value_name = "S")]
    grace_time: Option<u32>,
    /// How long a worker looks out for a busy connection's next request, in microseconds; takes cores that
    /// are idle otherwise [default: 0].
    #[arg(long, value_name = "US")]
    spin_time: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Audit {
    Off,
    On,
    Strict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Text,
    Json,
}

/// What the program does, complete.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) listen: Vec<Address>,
    pub(crate) socket_mode: u32,
    pub(crate) admin: Option<PathBuf>,
    pub(crate) metrics: Option<String>,
    pub(crate) fingerprint: Option<[u8; 48]>,
    pub(crate) settings: Settings,
    pub(crate) user: Option<String>,
    pub(crate) hardening: bool,
    pub(crate) seccomp: bool,
    pub(crate) json: bool,
    pub(crate) log_format: Format,
    pub(crate) log_level: tracing::level_filters::LevelFilter,
    pub(crate) limits: Limits,
}

impl Arguments {
    /// Fails with a sentence.
    pub(crate) fn plan(self) -> Result<Plan, String> {
        let file = match &self.config {
            None => Options::default(),
            Some(path) => read(path)?,
        };
        self.options.over(file).complete()
    }
}

fn read(path: &Path) -> Result<Options, String> {
    let about = |what: String| format!("{}: {what}", path.display());
    let text = fs::read_to_string(path).map_err(|error| about(error.to_string()))?;
    toml::from_str(&text).map_err(|error| about(error.to_string().trim_end().to_owned()))
}

impl Options {
    /// What is said here, else what the other says.
    fn over(mut self, other: Self) -> Self {
        macro_rules! fall_back {
            ($mine:expr, $other:expr, $($name:ident)*) => { $( $mine.$name = $mine.$name.take().or($other.$name); )* };
        }
        fall_back!(self, other, name socket_mode admin metrics domain_fingerprint audit key_separation pkcs1_unwrap
            cbc_pad_unwrap user hardening seccomp log_format log_level);
        fall_back!(self.limits, other.limits, max_connections max_connections_per_host max_strangers
            max_strangers_per_peer max_workers max_workers_per_host max_message_memory handshake_time frame_time
            message_time idle_time callback_time grace_time spin_time);
        if self.listen.is_empty() {
            self.listen = other.listen;
        }
        self.json |= other.json;
        self
    }

    fn complete(self) -> Result<Plan, String> {
        let on = |switch: Option<Switch>, default| switch.unwrap_or(default) == Switch::On;
        let name = self.name.ok_or("give the HSM a name: --name NAME")?;
        if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
            return Err("--name: up to 64 characters, and no control characters".to_owned());
        }
        if self.listen.is_empty() {
            return Err("say where hosts connect: --listen unix:PATH or --listen tcp:ADDR:PORT".to_owned());
        }
        let mode = self.socket_mode.as_deref().unwrap_or("0660");
        let socket_mode = u32::from_str_radix(mode, 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .ok_or_else(|| format!("--socket-mode: {mode:?} is no mode such as 0660"))?;
        let fingerprint = self.domain_fingerprint.as_deref().map(fingerprint).transpose()?;
        let level = self.log_level.as_deref().unwrap_or("info");
        let defaults = Settings::default();
        Ok(Plan {
            name,
            listen: self.listen,
            socket_mode,
            admin: self.admin,
            metrics: self.metrics,
            fingerprint,
            settings: Settings {
                key_separation: on(self.key_separation, Switch::On),
                pkcs1_unwrap: on(self.pkcs1_unwrap, Switch::Off),
                cbc_pad_unwrap: on(self.cbc_pad_unwrap, Switch::Off),
                audit: match self.audit {
                    None => defaults.audit,
                    Some(Audit::Off) => AuditMode::Off,
                    Some(Audit::On) => AuditMode::On,
                    Some(Audit::Strict) => AuditMode::Strict,
                },
            },
            user: self.user,
            hardening: on(self.hardening, Switch::On),
            seccomp: on(self.hardening, Switch::On) && on(self.seccomp, Switch::On),
            json: self.json,
            log_format: self.log_format.unwrap_or(Format::Text),
            log_level: level.parse().map_err(|_| format!("--log-level: {level:?} is no level"))?,
            limits: self.limits.complete()?,
        })
    }
}

impl LimitOptions {
    fn complete(self) -> Result<Limits, String> {
        let defaults = Limits::default();
        let count = |name: &str, value: Option<u32>, default: usize| match value {
            None => Ok(default),
            Some(0) => Err(format!("--{name}: must be at least 1")),
            Some(value) => Ok(value as usize),
        };
        let time = |name: &str, value: Option<u32>, default: Duration| match value {
            None => Ok(default),
            Some(0) => Err(format!("--{name}: must be at least 1")),
            Some(seconds) => Ok(Duration::from_secs(seconds.into())),
        };
        let workers = count("max-workers", self.max_workers, defaults.workers)?;
        Ok(Limits {
            connections: count("max-connections", self.max_connections, defaults.connections)?,
            connections_per_host: count(
                "max-connections-per-host",
                self.max_connections_per_host,
                defaults.connections_per_host,
            )?,
            strangers: count("max-strangers", self.max_strangers, defaults.strangers)?,
            strangers_per_peer: count(
                "max-strangers-per-peer",
                self.max_strangers_per_peer,
                defaults.strangers_per_peer,
            )?,
            min_workers: defaults.min_workers.min(workers),
            workers,
            workers_per_host: count("max-workers-per-host", self.max_workers_per_host, (workers * 3).div_ceil(4))?,
            workers_for_strangers: defaults.workers_for_strangers,
            memory: count("max-message-memory", self.max_message_memory, defaults.memory >> 20)? << 20,
            handshake: time("handshake-time", self.handshake_time, defaults.handshake)?,
            frame: time("frame-time", self.frame_time, defaults.frame)?,
            message: time("message-time", self.message_time, defaults.message)?,
            idle: time("idle-time", self.idle_time, defaults.idle)?,
            callback: time("callback-time", self.callback_time, defaults.callback)?,
            grace: time("grace-time", self.grace_time, defaults.grace)?,
            spin: self.spin_time.map_or(defaults.spin, |micros| Duration::from_micros(micros.into())),
        })
    }
}

/// Of 96 hex digits.
fn fingerprint(text: &str) -> Result<[u8; 48], String> {
    let wrong = || "--domain-fingerprint: 96 hex digits, as `conclave fleet fingerprint` prints them".to_owned();
    let digits = text.as_bytes();
    if digits.len() != 96 {
        return Err(wrong());
    }
    let mut bytes = [0; 48];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.contains('+'));
        *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(wrong)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Plan, String> {
        Arguments::try_parse_from([&["conclaved"], more].concat()).map_err(|error| error.to_string())?.plan()
    }

    #[test]
    fn the_arguments_fit_together() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
        let plan =
            parse(&["--name", "a", "--listen", "unix:/s", "--listen", "tcp:[::1]:0", "--audit", "strict"]).unwrap();
        assert_eq!((plan.listen.len(), plan.socket_mode, plan.seccomp), (2, 0o660, true));
        assert_eq!((plan.settings.audit, plan.limits), (AuditMode::Strict, Limits::default()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (more, wanted) in [
            (&["--listen", "unix:/s"][..], "--name"),
            (&["--name", "a"], "--listen"),
            (&["--name", "a", "--listen", "/s"], "unix:PATH"),
            (&["--name", "a", "--listen", "unix:/s", "--socket-mode", "8"], "--socket-mode"),
            (&["--name", "a", "--listen", "unix:/s", "--max-workers", "0"], "--max-workers"),
            (&["--name", "a", "--listen", "unix:/s", "--domain-fingerprint", "ab"], "96 hex"),
            (&["--name", "a", "--listen", "unix:/s", "--config", "/nowhere"], "/nowhere"),
        ] {
            let why = parse(more).unwrap_err();
            assert!(why.contains(wanted), "{why}");
        }
        assert_eq!(fingerprint(&"0fA0".repeat(24)).unwrap()[..2], [0x0f, 0xa0]);
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("conclaved.toml");
        let text = "name = \"a\"\nlisten = [\"unix:/a\", \"tcp:1.2.3.4:5\"]\naudit = \"off\"\nseccomp = \"off\"\n\
            [limits]\nmax-connections = 7\nidle-time = 3\n";
        fs::write(&path, text).unwrap();
        let plan = parse(&["--config", path.to_str().unwrap(), "--name", "b", "--idle-time", "4"]).unwrap();
        assert_eq!((plan.name.as_str(), plan.listen.len(), plan.seccomp), ("b", 2, false));
        assert_eq!((plan.limits.connections, plan.limits.idle), (7, Duration::from_secs(4)));
        fs::write(&path, "nam = \"a\"").unwrap();
        let why = parse(&["--config", path.to_str().unwrap()]).unwrap_err();
        assert!(why.contains("nam") && why.contains("line 1"), "{why}");
    }
}
