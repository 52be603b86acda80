//! Arguments of `conclave domain`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::KeySource;

#[derive(Subcommand)]
pub(crate) enum DomainCommand {
    /// Show a domain: who governs it, by which rules, and its keys.
    #[command(after_help = "Examples:\n  conclave domain show --file domain.token\n  \
                            conclave domain show --file - --json < domain.token")]
    Show(DomainShow),
    /// Print who approved what, verified as it prints.
    #[command(after_help = "Examples:\n  conclave domain history --file domain.history --domain domain.token\n  \
                            conclave domain history --file domain.history --words\n\n\
                            A history proves itself from its first token on. With a domain token that you know it must \
                            go through that one's state.")]
    History(DomainHistory),
    /// Recovery of a domain whose HSMs are lost.
    #[command(subcommand)]
    Recovery(RecoveryCommand),
}

#[derive(Args)]
pub(crate) struct DomainShow {
    /// A domain token (`-` is the standard input).
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Args)]
pub(crate) struct DomainHistory {
    /// The history (`-` is the standard input).
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// A domain token that you know.
    #[arg(long, value_name = "FILE")]
    pub(crate) domain: Option<PathBuf>,
    /// Print each command in full.
    #[arg(long)]
    pub(crate) words: bool,
}

#[derive(Subcommand)]
pub(crate) enum RecoveryCommand {
    /// Give your share to the HSM that a signed `recover domain` command names.
    #[command(after_help = "Example:\n  conclave domain recovery contribute --domain domain.token \
                            --command recover.proposal --keys anna.pem --out anna.share\n\n\
                            Nothing moves unless a quorum of the operators in that token signed the command. The share \
                            is encrypted to the HSM that it names.")]
    Contribute(RecoveryContribute),
}

#[derive(Args)]
pub(crate) struct RecoveryContribute {
    /// The newest domain token you know.
    #[arg(long, value_name = "FILE")]
    pub(crate) domain: PathBuf,
    /// A history that leads from there to the state which the command names, if it is newer.
    #[arg(long, value_name = "FILE")]
    pub(crate) history: Option<PathBuf>,
    /// The signed command (`-` is the standard input).
    #[arg(long, value_name = "FILE")]
    pub(crate) command: PathBuf,
    #[command(flatten)]
    pub(crate) source: KeySource,
    /// The share (`-` is the standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}
