//! Arguments of what changes a managed key.

use clap::Args;

use super::super::Login;
use super::{ChangeKey, Trial, pair};

#[derive(Args)]
pub(crate) struct KeyDelete {
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// The waiting period: 7 to 30 days.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(7..=30))]
    pub(crate) days: u64,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args)]
pub(crate) struct KeySetDescription {
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// The new description.
    pub(crate) text: String,
}

#[derive(Args)]
pub(crate) struct KeyTag {
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// The tags; one that is there already gets the new value.
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) tags: Vec<(String, String)>,
}

#[derive(Args)]
pub(crate) struct KeyUntag {
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// The names of the tags.
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

#[derive(Args)]
pub(crate) struct KeyRotate {
    /// The id of a managed key, or an alias of it.
    #[arg(required_unless_present = "due")]
    pub(crate) key: Option<String>,
    /// Do what is due for all keys of the token: rotations, deletions, expiries.
    #[arg(long, conflicts_with = "key")]
    pub(crate) due: bool,
    #[command(flatten)]
    pub(crate) trial: Trial,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Args)]
pub(crate) struct KeyRotation {
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// Rotate it by itself every so many days: 90 to 2560.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(90..=2560))]
    pub(crate) every: Option<u64>,
    /// Rotate it no longer by itself.
    #[arg(long, conflicts_with = "every")]
    pub(crate) off: bool,
}
