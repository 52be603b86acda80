//! Arguments of `conclave key policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ChangeKey, OneKey};

#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Show who may do what with a key: its policy, as JSON. Whoever owns the token can always see it.
    #[command(after_help = "Examples:\n  conclave key policy show invoices --token web > invoices.policy\n  \
                            conclave key policy show invoices --so-pin env:SO_PIN")]
    Show(OneKey),
    /// Set who may do what with a key. A policy that nobody could change again is refused.
    #[command(after_help = "Examples:\n  conclave key policy set invoices invoices.policy --token web\n  \
                            conclave key policy set invoices - --pin env:USER_PIN < invoices.policy\n\n\
                            A file such as `show` gives.")]
    Set(PolicySet),
}

#[derive(Args)]
pub(crate) struct PolicySet {
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// The policy, JSON (`-` is the standard input).
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
}
