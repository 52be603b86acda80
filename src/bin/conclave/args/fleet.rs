//! Arguments of `conclave host`, `hsm`, `fleet` and `session`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::AtToken;

#[derive(Subcommand)]
pub(crate) enum HostCommand {
    /// Make a host's key, and the claim by which operators admit it.
    #[command(after_help = "Example:\n  \
                            conclave host new --out web-1.pem --name web-1 --domain 70b297…\n  \
                            conclave proposal new admit-host --claim web-1.pem.claim\n\n\
                            The key stays on the host, in a file that only its user can read; the claim goes to the \
                            operators. In conclave.toml: host_key = \"web-1.pem\".")]
    New(HostNew),
}

#[derive(Args)]
pub(crate) struct HostNew {
    /// The file of the key to make; it is never overwritten.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// What operators call the host; its file's name if not given.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The domain's id in hexadecimal, or a file with its token.
    #[arg(long, value_name = "ID|FILE")]
    pub(crate) domain: String,
    /// The file of the claim; beside the key if not given (`-` is the standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) claim: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(crate) enum HsmCommand {
    /// Ask an HSM who it is, and which domain it is in.
    #[command(after_help = "Examples:\n  conclave hsm status --hsm tcp:10.0.0.5:8471\n  \
                            conclave hsm status --admin /run/conclave/a.admin --json\n\n\
                            Anybody may ask, and nothing proves the answer.")]
    Status(HsmAt),
    /// Get the claim by which operators admit an HSM, or let it recover the domain.
    #[command(after_help = "Example:\n  conclave hsm claim --admin /run/conclave/b.admin --out b.claim\n  \
                            conclave proposal new admit-hsm --claim b.claim\n\n\
                            The HSM must know the domain: `conclave fleet bring`. Compare the kid with what conclaved \
                            printed when it started.")]
    Claim(HsmClaim),
}

/// Where an HSM is.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct HsmAt {
    /// The operators' socket of the HSM.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) admin: Option<PathBuf>,
    /// Where hosts connect: unix:PATH or tcp:HOST:PORT.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) hsm: Option<String>,
}

#[derive(Args)]
pub(crate) struct HsmClaim {
    /// The operators' socket of the HSM.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) admin: PathBuf,
    /// The claim (`-` is the standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Subcommand)]
pub(crate) enum FleetCommand {
    /// Begin a fleet's domain on an HSM that was just started, and make its store.
    #[command(
        after_help = "Example:\n  conclave fleet create --admin /run/conclave/a.admin --label payments \\\n      \
                            --database postgresql://conclave@db/payments\n\n\
                            Then the operators found the domain: `conclave domain found`, over a fleet of \
                            conclave.toml with hsm = [\"admin:/run/conclave/a.admin\"] and the same database."
    )]
    Create(FleetCreate),
    /// Show the fingerprint of a fleet's domain: what HSMs and hosts recognise it by.
    #[command(after_help = "Examples:\n  conclave fleet fingerprint --database sqlite:/var/lib/conclave/payments\n  \
                            conclaved --domain-fingerprint $(conclave fleet fingerprint) …\n\n\
                            It is the hash of the newest state, once the log was replayed up to it. Any later one is as \
                            good; compare it with what the operators have seen before you give it to others.")]
    Fingerprint(FleetDatabase),
    /// Carry a fleet's domain to an HSM: one that is to join, or was away.
    #[command(
        after_help = "Example:\n  conclave fleet bring --admin /run/conclave/b.admin --database postgresql://…\n\n\
                            Hosts do so by themselves. An HSM that has no domain takes it only if it was started with \
                            the domain's fingerprint."
    )]
    Bring(FleetBring),
}

#[derive(Args)]
pub(crate) struct FleetCreate {
    /// The operators' socket of the HSM.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) admin: PathBuf,
    /// Where the key tokens will be: postgresql://… or sqlite:DIRECTORY. Nothing is there yet.
    #[arg(long, value_name = "URL")]
    pub(crate) database: String,
    /// The token's label, at most 32 bytes.
    #[arg(long)]
    pub(crate) label: String,
}

/// Where a fleet's domain is read.
#[derive(Args)]
pub(crate) struct FleetDatabase {
    /// The store: postgresql://… or sqlite:DIRECTORY. Without it, that of the fleet in conclave.toml.
    #[arg(long, value_name = "URL")]
    pub(crate) database: Option<String>,
    /// Which fleet in conclave.toml, by its label or Region; not needed if there is only one.
    #[arg(long, value_name = "NAME", conflicts_with = "database")]
    pub(crate) fleet: Option<String>,
}

#[derive(Args)]
pub(crate) struct FleetBring {
    #[command(flatten)]
    pub(crate) to: HsmAt,
    #[command(flatten)]
    pub(crate) from: FleetDatabase,
}

#[derive(Subcommand)]
pub(crate) enum SessionCommand {
    /// Show which HSM serves a token, and until when.
    #[command(after_help = "Example:\n  conclave session show --token payments")]
    Show(AtToken),
}
