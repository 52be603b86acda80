//! Which token, and who logs in to it.

use clap::Args;

#[derive(Args)]
pub(crate) struct AtToken {
    /// The token's label, serial number or slot id; not needed if there is only one.
    #[arg(long)]
    pub(crate) token: Option<String>,
}

/// Without a PIN's source it is asked for: the user's, or the SO's where only he will do.
#[derive(Args)]
pub(crate) struct Login {
    /// The token's label, serial number or slot id; not needed if there is only one.
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// Log in as the user; his PIN comes from here.
    #[arg(long, value_name = "SOURCE", conflicts_with = "so_pin")]
    pub(crate) pin: Option<String>,
    /// Log in as the security officer; his PIN comes from here.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) so_pin: Option<String>,
    /// Log in as the user of this name.
    #[arg(long, value_name = "NAME", conflicts_with = "so_pin")]
    pub(crate) login_as: Option<String>,
}
