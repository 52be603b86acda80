//! The arguments, with the help that users read.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tracing::level_filters::LevelFilter;

use crate::address::MAX_MESSAGE;

/// Carries messages between the Regions of Conclave. It knows no keys and understands no message.
#[derive(Parser)]
#[command(
    name = "conclave-proxy",
    version,
    after_help = "Examples:\n  \
        conclave-proxy --data /var/lib/conclave-proxy\n  \
        conclave-proxy --data /var/lib/conclave-proxy --listen 10.0.0.5:8470 --region eu --region us\n  \
        curl http://127.0.0.1:8470/healthz\n  \
        curl http://127.0.0.1:8470/metrics\n\n\
        Regions use it by `conclave region serve --proxy http://HOST:8470`.\n\
        It has no TLS and asks nobody who he is: let only the Regions reach it (docs/proxy.md).\n\
        SIGTERM and SIGINT end it. Exit codes: 0 done, 1 failed, 2 wrong usage."
)]
pub(crate) struct Arguments {
    /// Where to listen. Port 0 is any free one; the first line of the output says which.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8470")]
    pub(crate) listen: String,
    /// The directory of the messages; made if it is not there. One proxy may use it at a time.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Carry only to this Region; may be given several times. Without it: to any.
    #[arg(long, value_name = "NAME")]
    pub(crate) region: Vec<String>,
    /// How many messages may wait for one Region.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_messages: u64,
    /// How many bytes may wait for one Region, such as 500M or 2G.
    #[arg(long, value_name = "N", default_value = "1G", value_parser = bytes)]
    pub(crate) max_bytes: u64,
    /// How many bytes may wait for all Regions.
    #[arg(long, value_name = "N", default_value = "10G", value_parser = bytes)]
    pub(crate) max_total_bytes: u64,
    /// For how many Regions messages may wait.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_regions: u64,
    /// How long a message waits before it is forgotten, in seconds.
    #[arg(long, value_name = "S", default_value = "86400", value_parser = seconds)]
    pub(crate) ttl: Duration,
    /// How many connections there may be; who waits for a message has one.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) max_connections: u32,
    /// Bytes of messages in memory, on their way in or out; who does not find room waits.
    #[arg(long, value_name = "N", default_value = "512M", value_parser = memory)]
    pub(crate) max_memory: u64,
    /// Where the log goes; without it, to standard error.
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// What is logged: error, warn, info, debug (also each message's way, never its bytes), trace, off.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: LevelFilter,
}

fn seconds(text: &str) -> Result<Duration, String> {
    // A hundred years, so that no sum of times overflows.
    const MAX: u64 = 100 * 366 * 86_400;
    match text.parse() {
        Ok(seconds @ 1..=MAX) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("must be from 1 to {MAX} seconds")),
    }
}

/// A number, perhaps with K, M, G or T for powers of 1024.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    let shift = match text.get(digits.len()..) {
        Some("") => 0,
        Some("K") => 10,
        Some("M") => 20,
        Some("G") => 30,
        Some("T") => 40,
        _ => return Err("one unit is enough: K, M, G or T".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "must be a number, perhaps with K, M, G or T".to_owned())?;
    // What SQLite can count.
    number
        .checked_mul(1 << shift)
        .filter(|bytes| (1..=1 << 60).contains(bytes))
        .ok_or_else(|| "out of range".to_owned())
}

fn memory(text: &str) -> Result<u64, String> {
    let least = 2 * MAX_MESSAGE as u64;
    match bytes(text)? {
        // tokio's semaphore counts its KiB.
        bytes if bytes >= least && bytes <= 1 << 38 => Ok(bytes),
        _ => Err(format!("must be from {}M to 256G", least >> 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
        let given = Arguments::try_parse_from(["conclave-proxy", "--data", "d", "--max-bytes", "3M"]).unwrap();
        assert_eq!((given.max_bytes, given.max_total_bytes), (3 << 20, 10 << 30));
    }

    #[test]
    fn sizes_and_times_are_checked() {
        assert_eq!((bytes("17"), bytes("2K"), bytes("1T")), (Ok(17), Ok(2048), Ok(1 << 40)));
        for wrong in ["", "G", "1GG", "1 G", "-1", "0", "99999999T", "1.5M", "1g"] {
            assert!(bytes(wrong).is_err(), "{wrong:?}");
        }
        assert!(memory("127M").is_err() && memory("128M").is_ok() && memory("257G").is_err());
        assert!(seconds("0").is_err() && seconds("99999999999").is_err() && seconds("1").is_ok());
    }
}
