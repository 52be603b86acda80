//! The arguments, with the help that users read.

mod domain;
mod login;
mod operator;
mod proposal;
mod propose;
mod user;

use clap::{Args, Parser, Subcommand};

pub(crate) use domain::*;
pub(crate) use login::*;
pub(crate) use operator::*;
pub(crate) use proposal::*;
pub(crate) use propose::*;
pub(crate) use user::*;

/// Conclave: a PKCS#11 token backed by a software HSM.
#[derive(Parser)]
#[command(
    name = "conclave",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 PIN refused,\n5 refused by those who govern: the quorum, the rules, the state.\n\
                  The data directory is CONCLAVE_HOME, else data_dir of the configuration, else\n\
                  $XDG_DATA_HOME/conclave, else ~/.local/share/conclave.\n\n\
                  PINs and passphrases are asked for at the terminal. Elsewhere give a source:\n  \
                  env:NAME    an environment variable\n  \
                  file:PATH   the first line of a file\n  \
                  stdin       a line of the standard input\n  \
                  pass:PIN    the PIN itself (others on this machine may see it)"
)]
pub(crate) struct Arguments {
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Tokens: list, initialise, destroy.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Keys and other objects of a token: list, show, trust.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Domains: founding, what a token and its history say, rotation, recovery.
    #[command(subcommand)]
    Domain(DomainCommand),
    /// Operators: their keys, and claims to them.
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Proposals: commands to be read and signed by a quorum, and executed.
    #[command(subcommand)]
    Proposal(ProposalCommand),
    /// Users: their PINs.
    #[command(subcommand)]
    User(UserCommand),
    /// List the mechanisms.
    #[command(after_help = "Example:\n  conclave mechanisms --json")]
    Mechanisms,
    /// Check the installation and say why something does not work.
    #[command(after_help = "Example:\n  conclave doctor\n\nExits with 1 if a check failed.")]
    Doctor,
}

#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// List the tokens.
    #[command(after_help = "Examples:\n  conclave token list\n  conclave token list --json")]
    List,
    /// Initialise a token in the free slot.
    #[command(after_help = "Examples:\n  conclave token init --label web\n  \
                            conclave token init --label ci --so-pin env:SO_PIN --pin env:USER_PIN")]
    Init(TokenInit),
    /// Destroy a token and all its keys. Cannot be undone; needs no PIN.
    #[command(after_help = "Example:\n  conclave token destroy web")]
    Destroy(TokenDestroy),
}

#[derive(Args)]
pub(crate) struct TokenInit {
    /// The token's label, at most 32 bytes.
    #[arg(long)]
    pub(crate) label: String,
    /// Where the security officer's PIN comes from.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) so_pin: String,
    /// Where the user's PIN comes from.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) pin: String,
}

#[derive(Args)]
pub(crate) struct TokenDestroy {
    /// The token's label, serial number or slot id.
    pub(crate) token: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// List the objects of a token.
    #[command(after_help = "Examples:\n  conclave key list --token web\n  \
                            conclave key list --token web --pin none     only what is public\n  \
                            conclave key list --token web --pin env:USER_PIN --json")]
    List(KeyList),
    /// Show all readable attributes of the objects with a label, CKA_ID or unique id.
    #[command(after_help = "Examples:\n  conclave key show --token web signing\n  \
                            conclave key show --token web 01a2 --pin env:USER_PIN")]
    Show(KeyShow),
    /// Mark a key or certificate as trusted (CKA_TRUSTED), as the security officer who governs the token.
    ///
    /// Only objects with CKA_PRIVATE false can be trusted: the security officer does not see
    /// private ones.
    #[command(after_help = "Example:\n  conclave key trust --token web backup-wrapping-key")]
    Trust(KeyTrust),
}

#[derive(Args)]
pub(crate) struct KeyList {
    /// The token's label, serial number or slot id; not needed if there is only one.
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// Where the user's PIN comes from; `none` lists public objects only.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) pin: String,
}

#[derive(Args)]
pub(crate) struct KeyShow {
    /// A label, a CKA_ID or a unique id in hexadecimal.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) at: KeyList,
}

#[derive(Args)]
pub(crate) struct KeyTrust {
    /// A label, a CKA_ID or a unique id in hexadecimal.
    pub(crate) name: String,
    /// The token's label, serial number or slot id; not needed if there is only one.
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// Where the security officer's PIN comes from.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) so_pin: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_fit_together() {
        super::Arguments::command().debug_assert();
    }
}
