//! Arguments of `conclave proposal`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::KeySource;

#[derive(Subcommand)]
pub(crate) enum ProposalCommand {
    /// Show a proposal in plain words: what it does, who signed, what is lacking.
    #[command(after_help = "Examples:\n  conclave proposal show rotate.proposal --domain domain.token\n  \
                            conclave proposal show - --json < rotate.proposal\n\n\
                            With the domain's token it says whose signatures there are and whether they are enough.")]
    Show(ProposalShow),
    /// Read a proposal, and sign it.
    #[command(
        after_help = "Examples:\n  conclave proposal sign rotate.proposal --keys anna.pem --domain domain.token\n  \
                            conclave proposal sign rotate.proposal --pkcs11 libsofthsm2.so --label anna --out signed.proposal\n\n\
                            What you sign is shown first; you confirm by typing the command's name."
    )]
    Sign(ProposalSign),
    /// Make one proposal of several copies, with the signatures of all.
    #[command(after_help = "Example:\n  conclave proposal merge anna.proposal ben.proposal --out both.proposal")]
    Merge(ProposalMerge),
}

#[derive(Args)]
pub(crate) struct ProposalShow {
    /// The proposal (`-` is the standard input).
    pub(crate) file: PathBuf,
    /// The newest domain token you know.
    #[arg(long, value_name = "FILE")]
    pub(crate) domain: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct ProposalSign {
    /// The proposal (`-` is the standard input).
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) source: KeySource,
    /// The newest domain token you know.
    #[arg(long, value_name = "FILE")]
    pub(crate) domain: Option<PathBuf>,
    /// Where to write the signed proposal (`-` is the standard output); else it is written in place.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args)]
pub(crate) struct ProposalMerge {
    /// Copies of one proposal.
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Where to write it (`-` is the standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}
