//! Arguments of `conclave domain`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{AtToken, KeySource, Login, ProposalOptions};
use crate::times;

#[derive(Subcommand)]
pub(crate) enum DomainCommand {
    /// Propose to hand a token's domain over to its operators, for good.
    #[command(
        after_help = "Example:\n  conclave domain found --token web --region eu-1 --operator anna.claim:officer,operator \\\n      \
                            --operator ben.claim:officer,operator --out found.proposal\n\n\
                            Every operator named signs it (conclave proposal sign); then the SO executes it (conclave \
                            proposal execute). Until then nothing has changed."
    )]
    Found(DomainFound),
    /// Show a domain: who governs it, by which rules, its keys, and what is to be seen to.
    #[command(after_help = "Examples:\n  conclave domain show --token web\n  \
                            conclave domain show --file domain.token\n  \
                            conclave domain show --file - --json < domain.token\n\nNeeds no PIN.")]
    Show(DomainShow),
    /// Write the newest domain token, which is public.
    #[command(after_help = "Example:\n  conclave domain export --token web --out domain.token\n\n\
                            Operators keep it: with it they read and check proposals.")]
    Export(DomainExport),
    /// Print who approved what, verified as it prints.
    #[command(after_help = "Examples:\n  conclave domain history --token web --out domain.history\n  \
                            conclave domain history --file domain.history --domain domain.token\n  \
                            conclave domain history --file domain.history --words\n\n\
                            A history proves itself from its first token on. With a domain token that you know it must \
                            go through that one's state.")]
    History(DomainHistory),
    /// Bring an older copy of a token forward to the newest state of a history.
    #[command(after_help = "Example:\n  conclave domain import --token web --file domain.history\n\n\
                            PINs that were changed meanwhile are gone from this copy. Keys that were made meanwhile \
                            are not in a history.")]
    Import(DomainImport),
    /// Propose a new domain key; with --due, do what standing order and deadlines ask for now.
    #[command(after_help = "Examples:\n  conclave domain rotate --token web --retain 30d --out rotate.proposal\n  \
                            conclave domain rotate --token web --due --pin file:/etc/conclave/pin     from cron\n\n\
                            --due is a login and nothing else: every login does what is due.")]
    Rotate(DomainRotate),
    /// Seal all objects anew that are not under the active domain key.
    #[command(after_help = "Example:\n  conclave domain reseal --token web --pin env:USER_PIN\n\n\
                            Applications go on meanwhile. Their logins do the same in the background.")]
    Reseal(DomainReseal),
    /// List the objects that would be lost at a domain key's deadline.
    #[command(after_help = "Examples:\n  conclave domain lost --token web --key 70b297 --pin env:USER_PIN\n  \
                            conclave domain lost --token web --json\n\n\
                            Without --key, for all keys that only decrypt. Without a PIN labels are not shown. \
                            Nothing is sealed anew by this.")]
    Lost(DomainLost),
    /// Recovery of a domain whose HSMs are lost.
    #[command(subcommand)]
    Recovery(RecoveryCommand),
}

#[derive(Args)]
pub(crate) struct DomainFound {
    /// What the domain's Region is called from now on.
    #[arg(long, value_name = "NAME")]
    pub(crate) region: String,
    /// A founding operator: the file of the claim, and the roles.
    #[arg(long, value_name = "FILE:ROLE,ROLE", required = true)]
    pub(crate) operator: Vec<String>,
    /// Rules in place of defaults: a JSON list of {"command": NAME, "alternatives": [{ROLE: NUMBER}]}.
    #[arg(long, value_name = "FILE")]
    pub(crate) rules: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: ProposalOptions,
}

#[derive(Args)]
pub(crate) struct DomainShow {
    /// A domain token instead of a live one (`-` is the standard input).
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) at: AtToken,
}

#[derive(Args)]
pub(crate) struct DomainExport {
    #[command(flatten)]
    pub(crate) at: AtToken,
    /// The file to write, in place of the one there may be (`-` is the standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Args)]
pub(crate) struct DomainHistory {
    /// A history instead of a live token's (`-` is the standard input).
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) at: AtToken,
    /// A domain token that you know.
    #[arg(long, value_name = "FILE")]
    pub(crate) domain: Option<PathBuf>,
    /// Print each command in full.
    #[arg(long)]
    pub(crate) words: bool,
    /// Write the history here too, in place of the one there may be (`-` is the standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct DomainImport {
    #[command(flatten)]
    pub(crate) login: Login,
    /// The history (`-` is the standard input).
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Args)]
pub(crate) struct DomainRotate {
    /// How long the old key still decrypts, such as 30d; without it, until another command.
    #[arg(long, value_name = "SPAN", value_parser = times::span)]
    pub(crate) retain: Option<u64>,
    /// Log in, which does what is due, and say what that was.
    #[arg(long, conflicts_with_all = ["retain", "out"])]
    pub(crate) due: bool,
    /// Where the user's PIN comes from, with --due.
    #[arg(long, value_name = "SOURCE", requires = "due", conflicts_with = "so_pin")]
    pub(crate) pin: Option<String>,
    /// Where the SO's PIN comes from, with --due.
    #[arg(long, value_name = "SOURCE", requires = "due")]
    pub(crate) so_pin: Option<String>,
    /// Log in as the user of this name, with --due.
    #[arg(long, value_name = "NAME", requires = "due", conflicts_with = "so_pin")]
    pub(crate) login_as: Option<String>,
    #[command(flatten)]
    pub(crate) options: ProposalOptions,
}

#[derive(Args)]
pub(crate) struct DomainReseal {
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Args)]
pub(crate) struct DomainLost {
    /// The domain key's id in hexadecimal, or its beginning.
    #[arg(long, value_name = "ID")]
    pub(crate) key: Option<String>,
    #[command(flatten)]
    pub(crate) at: AtToken,
    /// Where the user's PIN comes from; `none` shows no labels.
    #[arg(long, value_name = "SOURCE", default_value = "none")]
    pub(crate) pin: String,
}

#[derive(Subcommand)]
pub(crate) enum RecoveryCommand {
    /// Propose a recovery key whose shares operators hold.
    #[command(after_help = "Example:\n  conclave domain recovery make --token web --threshold 2 --out shares.proposal")]
    Make(RecoveryMake),
    /// Make a fresh HSM for a domain whose PINs are lost, and the command that names it.
    #[command(
        after_help = "Example:\n  conclave domain recovery begin --token web --new-so-pin prompt --out recover.proposal\n\n\
                            Operators sign the command (conclave proposal sign) and give their shares (conclave domain \
                            recovery contribute); `conclave domain recovery finish` recovers with them. To begin again \
                            makes another HSM: commands and shares for the one before are void then.\n\n\
                            For a fleet the fresh HSM is a new `conclaved`, reached by its operators' socket, to which \
                            `conclave fleet bring` brought the domain; there is no PIN then."
    )]
    Begin(RecoveryBegin),
    /// Give your share to the HSM that a signed `recover domain` command names.
    #[command(after_help = "Example:\n  conclave domain recovery contribute --domain domain.token \
                            --command recover.proposal --keys anna.pem --out anna.share\n\n\
                            Nothing moves unless a quorum of the operators in that token signed the command. The share \
                            is encrypted to the HSM that it names.")]
    Contribute(RecoveryContribute),
    /// Recover the domain with the signed command and the shares.
    #[command(
        after_help = "Example:\n  conclave domain recovery finish --token web --command recover.proposal \\\n      \
                            --share anna.share --share ben.share --new-so-pin prompt\n\n\
                            The PIN is the one that `begin` was given; it is the SO's from then on. All other PINs are \
                            to be set anew: conclave proposal new reset-pin. In a fleet there is no such PIN, and all are."
    )]
    Finish(RecoveryFinish),
}

#[derive(Args)]
pub(crate) struct RecoveryMake {
    /// How many shares recover the domain.
    #[arg(long, value_name = "M")]
    pub(crate) threshold: u64,
    /// Who holds a share: names or ids. Without it, every person once.
    #[arg(long, value_name = "NAME|ID,…", value_delimiter = ',')]
    pub(crate) operators: Vec<String>,
    #[command(flatten)]
    pub(crate) options: ProposalOptions,
}

#[derive(Args)]
pub(crate) struct RecoveryBegin {
    /// Where the PIN comes from that is the SO's once the domain is recovered.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) new_so_pin: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) options: ProposalOptions,
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

#[derive(Args)]
pub(crate) struct RecoveryFinish {
    #[command(flatten)]
    pub(crate) at: AtToken,
    /// The signed `recover domain` command: a file (`-` is the standard input), or the id of a pending one.
    #[arg(long, value_name = "FILE|ID")]
    pub(crate) command: String,
    /// An operator's share.
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) share: Vec<PathBuf>,
    /// Where the PIN comes from that `begin` was given.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) new_so_pin: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}
