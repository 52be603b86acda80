//! Arguments of `conclave proposal`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{AtToken, KeySource, Login, ProposalNew};

#[derive(Subcommand)]
pub(crate) enum ProposalCommand {
    /// Propose a command.
    #[command(
        after_help = "Examples:\n  conclave proposal new admit-host --claim web-1.claim --token web --out admit.proposal\n  \
                      conclave proposal new reset-pin --user user --code new --token web\n  \
                      conclave proposal new --request request.json --out any.proposal\n\n\
                      Without --out the proposal is kept among the token's pending ones. A request is a JSON object, \
                      {\"command\": NAME, …}; include/conclave.h lists them (KMS_Propose). Spans are such as 90d, 24h, 30m, \
                      45s; times such as 2027-01-31, \"2027-01-31 23:59:59\" (UTC) or +30d, from now on."
    )]
    New(ProposalNew),
    /// List the pending proposals of a token.
    #[command(after_help = "Example:\n  conclave proposal list --token web")]
    List(ProposalList),
    /// Show a proposal in plain words: what it does, who signed, what is lacking.
    #[command(after_help = "Examples:\n  conclave proposal show rotate.proposal --domain domain.token\n  \
                            conclave proposal show - --json < rotate.proposal\n  \
                            conclave proposal show 5a03c8 --token web\n\n\
                            With the domain's token, or the live one, it says whose signatures there are and whether \
                            they are enough.")]
    Show(ProposalShow),
    /// Read a proposal, and sign it.
    #[command(
        after_help = "Examples:\n  conclave proposal sign rotate.proposal --keys anna.pem --domain domain.token\n  \
                            conclave proposal sign rotate.proposal --pkcs11 libsofthsm2.so --label anna --out signed.proposal\n  \
                            conclave proposal sign 5a03c8 --token web --keys anna.pem\n\n\
                            What you sign is shown first; you confirm by typing the command's name. A pending proposal \
                            is put back with your signature."
    )]
    Sign(ProposalSign),
    /// Make one proposal of several copies, with the signatures of all.
    #[command(after_help = "Example:\n  conclave proposal merge anna.proposal ben.proposal --out both.proposal")]
    Merge(ProposalMerge),
    /// Put a proposal among a token's pending ones, with the signatures of both copies.
    #[command(after_help = "Example:\n  conclave proposal submit anna.proposal --token web")]
    Submit(ProposalSubmit),
    /// Drop a pending proposal. Copies elsewhere stay valid until they expire.
    #[command(after_help = "Example:\n  conclave proposal withdraw 5a03c8 --token web")]
    Withdraw(ProposalWithdraw),
    /// Execute a proposal that a quorum signed.
    #[command(after_help = "Examples:\n  conclave proposal execute rotate.proposal --token web --pin env:USER_PIN\n  \
                            conclave proposal execute 5a03c8 --token web\n  \
                            conclave proposal execute found.proposal --token web --so-pin env:SO_PIN\n\n\
                            What it does is shown first; you confirm by typing the command's name. Any PIN of the token \
                            will do, since a login opens the domain; for `found domain` it is the SO's. Exits with 5 if \
                            the domain refuses the command; then nothing has changed.")]
    Execute(ProposalExecute),
}

#[derive(Args)]
pub(crate) struct ProposalList {
    #[command(flatten)]
    pub(crate) at: AtToken,
}

#[derive(Args)]
pub(crate) struct ProposalShow {
    /// The proposal: a file (`-` is the standard input), or the id of a pending one or its beginning.
    #[arg(value_name = "FILE|ID")]
    pub(crate) proposal: String,
    /// The newest domain token you know.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(crate) domain: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) at: AtToken,
}

#[derive(Args)]
pub(crate) struct ProposalSign {
    /// The proposal: a file (`-` is the standard input), or the id of a pending one or its beginning.
    #[arg(value_name = "FILE|ID")]
    pub(crate) proposal: String,
    #[command(flatten)]
    pub(crate) source: KeySource,
    /// The newest domain token you know.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(crate) domain: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) at: AtToken,
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

#[derive(Args)]
pub(crate) struct ProposalSubmit {
    /// The proposal (`-` is the standard input).
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) at: AtToken,
}

#[derive(Args)]
pub(crate) struct ProposalWithdraw {
    /// The id of a pending proposal, or its beginning.
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) at: AtToken,
}

#[derive(Args)]
pub(crate) struct ProposalExecute {
    /// The proposal: a file (`-` is the standard input), or the id of a pending one or its beginning.
    #[arg(value_name = "FILE|ID")]
    pub(crate) proposal: String,
    #[command(flatten)]
    pub(crate) login: Login,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}
