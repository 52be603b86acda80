//! Arguments of `conclave alias`.

use clap::{Args, Subcommand};

use super::{Login, Trial};

#[derive(Subcommand)]
pub(crate) enum AliasCommand {
    /// Make an alias of a managed key.
    #[command(
        after_help = "Example:\n  conclave alias create invoices 1ad62b7c-6d35-4d0c-9d80-2f9c0a4e1d05 --token web"
    )]
    Create(AliasTo),
    /// Point an alias to another key: rotation by hand.
    #[command(
        after_help = "Example:\n  conclave alias update invoices 77c0a1f2-90ab-4c5e-8d11-5b1f0e6a2c33 --token web\n\n\
                            The other key must be of the same kind and usage."
    )]
    Update(AliasTo),
    /// Delete an alias; the key stays.
    #[command(after_help = "Example:\n  conclave alias delete invoices --token web")]
    Delete(AliasDelete),
    /// List the aliases of a token, or of one key.
    #[command(after_help = "Examples:\n  conclave alias list --token web\n  \
                            conclave alias list 1ad62b7c-6d35-4d0c-9d80-2f9c0a4e1d05 --pin env:USER_PIN --json")]
    List(AliasList),
}

#[derive(Args)]
pub(crate) struct AliasTo {
    /// The alias, with or without `alias/`: letters, digits, `/`, `_` and `-`.
    pub(crate) name: String,
    /// The id of a managed key, or another alias of it.
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) trial: Trial,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Args)]
pub(crate) struct AliasDelete {
    /// The alias, with or without `alias/`.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) trial: Trial,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Args)]
pub(crate) struct AliasList {
    /// The id of a managed key, or an alias of it.
    pub(crate) key: Option<String>,
    #[command(flatten)]
    pub(crate) login: Login,
}
