//! The arguments, with the help that users read.

mod alias;
mod audit;
mod domain;
mod fleet;
mod grant;
mod key;
mod login;
mod operator;
mod proposal;
mod propose;
mod region;
#[cfg(feature = "fleet")]
mod store;
mod user;

use clap::{Args, Parser, Subcommand};

pub(crate) use alias::*;
pub(crate) use audit::*;
pub(crate) use domain::*;
pub(crate) use fleet::*;
pub(crate) use grant::*;
pub(crate) use key::*;
pub(crate) use login::*;
pub(crate) use operator::*;
pub(crate) use proposal::*;
pub(crate) use propose::*;
pub(crate) use region::*;
#[cfg(feature = "fleet")]
pub(crate) use store::*;
pub(crate) use user::*;

/// Conclave: a PKCS#11 token backed by a software HSM.
#[derive(Parser)]
#[command(
    name = "conclave",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 PIN refused,\n5 refused by those who govern: the quorum, the rules, a key's policy, the state,\n6 not in time.\n\
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
    /// Keys and other objects of a token; the life of managed keys, and what they are used for.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Aliases: names of managed keys that can be pointed elsewhere.
    #[command(subcommand)]
    Alias(AliasCommand),
    /// Grants: what one user may do with a managed key.
    #[command(subcommand)]
    Grant(GrantCommand),
    /// Let another Region have replicas of multi-Region keys, and bring them there.
    #[command(
        after_help = "Examples:\n  conclave replicate invoices --to us-1 --proxy http://proxy:8470 --token web\n  \
                            conclave replicate --all-multi-region --to us-1 --via /media/stick --token web\n  \
                            conclave replicate --keys-from keys.txt --to us-1 --no-wait --token web\n  \
                            conclave replicate invoices --to us-1 --withdraw --token web\n\n\
                            Both Regions must trust each other (conclave region show), and in the other one \
                            `conclave region serve` must run. It ends when all replicas are in use. Exits with 6 if that \
                            was not so in time: the same command goes on."
    )]
    Replicate(Replicate),
    /// Regions: what this one is, and the exchange of multi-Region keys with others.
    #[command(subcommand)]
    Region(RegionCommand),
    /// Domains: founding, what a token and its history say, rotation, recovery.
    #[command(subcommand)]
    Domain(DomainCommand),
    /// Operators: their keys, and claims to them.
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Proposals: commands to be read and signed by a quorum, and executed.
    #[command(subcommand)]
    Proposal(ProposalCommand),
    /// Users: add, remove, list, their PINs.
    #[command(subcommand)]
    User(UserCommand),
    /// Fleets: HSMs as processes of their own, in one domain.
    #[command(subcommand)]
    Fleet(FleetCommand),
    /// One HSM of a fleet: who it is, and the claim to be admitted by.
    #[command(subcommand)]
    Hsm(HsmCommand),
    /// Hosts of a fleet: their keys.
    #[command(subcommand)]
    Host(HostCommand),
    /// Sessions with the HSMs of a fleet.
    #[command(subcommand)]
    Session(SessionCommand),
    /// The audit log of managed keys: list, verify, export, a head to keep elsewhere.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// The store of a token: move it.
    #[cfg(feature = "fleet")]
    #[command(subcommand)]
    Store(StoreCommand),
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
    /// Also a token that has managed keys: at once, without their waiting period.
    #[arg(long)]
    pub(crate) with_managed_keys: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_fit_together() {
        super::Arguments::command().debug_assert();
    }
}
