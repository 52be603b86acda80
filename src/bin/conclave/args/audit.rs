//! Arguments of `conclave audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{AtToken, Login};

#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// List who did what with which managed key, and how it ended.
    #[command(after_help = "Examples:\n  conclave audit list --token web\n  \
                            conclave audit list --token web --key 7b1f5f2e-… --last 20\n  \
                            conclave audit list --token web --pin env:USER_PIN --json")]
    List(AuditList),
    /// Read the whole log and say whether it is as the HSM wrote it.
    #[command(after_help = "Examples:\n  conclave audit verify --token web\n  \
                            conclave audit verify --token web --head monday.head\n\n\
                            Without --head, a log that was cut off at its end, or put back as a whole to what it \
                            once was, looks whole: keep a head elsewhere (`conclave audit head`). Chains that were not \
                            closed are named: their process runs or was killed; nobody vouches for their unsigned \
                            records. Exits with 1 if something is wrong. Needs no PIN.")]
    Verify(AuditVerify),
    /// Write the log as lines of JSON, with everything it has.
    #[command(after_help = "Examples:\n  conclave audit export --token web --out log.jsonl\n  \
                            conclave audit export --token web --after 120 >> log.jsonl")]
    Export(AuditExport),
    /// Sign a head of the log, to be kept elsewhere: it vouches for all records there are now.
    #[command(after_help = "Examples:\n  conclave audit head --token web --out monday.head\n  \
                            conclave audit head --token web           in hexadecimal, to print\n\n\
                            Keep it where nobody who can write the token's files can change it.")]
    Head(AuditHead),
}

#[derive(Args)]
pub(crate) struct AuditList {
    #[command(flatten)]
    pub(crate) login: Login,
    /// Only of this key: its id, also when the key is gone, or an alias of it.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Only the newest.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) last: Option<usize>,
}

#[derive(Args)]
pub(crate) struct AuditVerify {
    #[command(flatten)]
    pub(crate) at: AtToken,
    /// A head that was kept elsewhere, as it is or in hexadecimal (`-` is the standard input).
    #[arg(long, value_name = "FILE")]
    pub(crate) head: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct AuditExport {
    #[command(flatten)]
    pub(crate) login: Login,
    /// Begin after the row of this id.
    #[arg(long, value_name = "ID", default_value_t = 0)]
    pub(crate) after: u64,
    /// Where to write it; else to the standard output.
    #[arg(long, value_name = "FILE", default_value = "-", hide_default_value = true)]
    pub(crate) out: PathBuf,
}

#[derive(Args)]
pub(crate) struct AuditHead {
    #[command(flatten)]
    pub(crate) login: Login,
    /// Where to write it, as it is; else it is printed in hexadecimal.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}
