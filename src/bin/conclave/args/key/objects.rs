//! Arguments of what `conclave key` does with any object.

use clap::Args;

#[derive(Args)]
pub(crate) struct KeyList {
    #[command(flatten)]
    pub(crate) at: KeyAt,
    /// Only the keys whose imported material expires within so many days (30 if not given).
    #[arg(long, value_name = "DAYS", num_args = 0..=1, default_missing_value = "30")]
    pub(crate) expiring: Option<u64>,
}

#[derive(Args)]
pub(crate) struct KeyAt {
    /// The token's label, serial number or slot id; not needed if there is only one.
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// Where the user's PIN comes from; `none` shows public objects only.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) pin: String,
    /// Log in as the user of this name.
    #[arg(long, value_name = "NAME")]
    pub(crate) login_as: Option<String>,
}

#[derive(Args)]
pub(crate) struct KeyShow {
    /// A label, a CKA_ID or a unique id in hexadecimal, or the id of a managed key.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) at: KeyAt,
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
