//! Arguments of `conclave region` and `conclave replicate`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{AtToken, Login};
use crate::times;

#[derive(Subcommand)]
pub(crate) enum RegionCommand {
    /// Show this Region: its name, its domain, the keys that sign what it sends.
    #[command(after_help = "Examples:\n  conclave region show --token web\n  \
                            conclave region show --token web --json > eu-1.region\n\n\
                            The JSON is what the other Region's `conclave proposal new trust-region --region` takes. It is \
                            public, but whoever carries it might exchange it: before they sign, its operators compare \
                            domain and fingerprints with yours, by telephone for instance. Needs no PIN.")]
    Show(RegionShow),
    /// Answer the messages of other Regions, and send what they are still to be told, until it is stopped.
    #[command(
        after_help = "Examples:\n  conclave region serve --proxy http://proxy:8470 --token web --pin file:/etc/conclave/web.pin\n  \
                            conclave region serve --via /media/stick --token web\n  \
                            conclave region serve --once --proxy http://proxy:8470 --token web --pin file:…     from cron\n\n\
                            It prints one line for each message (with --json an object). A message that this Region \
                            refuses is acknowledged and never answered; one that it could not take, as its store was busy \
                            or full, comes again. An offer works only in the process that made it: leave it running while \
                            the answer travels. SIGTERM and ctrl-C end it."
    )]
    Serve(RegionServe),
    /// Fetch replicas of keys from the Region of their primary, which must have allowed it.
    #[command(
        after_help = "Example:\n  conclave region pull mrk-0c5d… --from eu-1 --proxy http://proxy:8470 --token web\n\n\
                            It also brings a replica up to date. In the other Region `conclave region serve` must run."
    )]
    Pull(RegionPull),
}

/// What carries the messages.
#[derive(Args)]
pub(crate) struct By {
    /// The conclave-proxy that carries the messages.
    #[arg(long, value_name = "URL", conflicts_with = "via")]
    pub(crate) proxy: Option<String>,
    /// A directory that carries the messages, on a USB stick for instance.
    #[arg(long, value_name = "DIR")]
    pub(crate) via: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct RegionShow {
    #[command(flatten)]
    pub(crate) at: AtToken,
}

#[derive(Args)]
pub(crate) struct RegionServe {
    #[command(flatten)]
    pub(crate) by: By,
    /// End when nothing has come for a while (--quiet).
    #[arg(long)]
    pub(crate) once: bool,
    /// How long it must be quiet for --once to end.
    #[arg(long, value_name = "SPAN", value_parser = times::span, default_value = "10s", requires = "once")]
    pub(crate) quiet: u64,
    #[command(flatten)]
    pub(crate) login: Login,
}

/// How long to wait, and how much at a time.
#[derive(Args)]
pub(crate) struct Patience {
    /// How long to wait for the other Region; what was begun stays begun.
    #[arg(long, value_name = "SPAN", value_parser = times::span, default_value = "10m")]
    pub(crate) timeout: u64,
    /// How many keys one exchange is about, at most 10 000.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=10_000), default_value_t = 1000)]
    pub(crate) batch: u16,
}

#[derive(Args)]
pub(crate) struct RegionPull {
    /// The ids of the keys.
    #[arg(required = true, value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// The Region that has the primaries.
    #[arg(long, value_name = "REGION")]
    pub(crate) from: String,
    #[command(flatten)]
    pub(crate) by: By,
    #[command(flatten)]
    pub(crate) patience: Patience,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Args)]
pub(crate) struct Replicate {
    /// The ids of multi-Region keys, or aliases of them.
    #[arg(value_name = "KEY", required_unless_present_any = ["all_multi_region", "keys_from"])]
    pub(crate) keys: Vec<String>,
    /// All keys whose primary is in this Region.
    #[arg(long, conflicts_with_all = ["keys", "keys_from"])]
    pub(crate) all_multi_region: bool,
    /// Those that a file names, one a line (`-` is the standard input).
    #[arg(long, value_name = "FILE", conflicts_with = "keys")]
    pub(crate) keys_from: Option<PathBuf>,
    /// The Region that gets a replica of each.
    #[arg(long, value_name = "REGION")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) by: By,
    /// Allow it and end: `conclave region serve` in both Regions does the rest.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Take back what was allowed for a replica that was not made yet.
    #[arg(long, conflicts_with_all = ["proxy", "via", "no_wait"])]
    pub(crate) withdraw: bool,
    #[command(flatten)]
    pub(crate) patience: Patience,
    #[command(flatten)]
    pub(crate) login: Login,
}
