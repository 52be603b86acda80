//! Arguments of the commands about a multi-Region key's replicas.

use clap::Args;

use super::super::By;
use super::ChangeKey;
use crate::times;

#[derive(Args)]
pub(crate) struct KeyPromote {
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// The Region whose replica becomes the primary.
    #[arg(long, value_name = "REGION")]
    pub(crate) to: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// With --proxy or --via it tells the other Region itself, and waits; else `conclave region serve` does.
    #[command(flatten)]
    pub(crate) by: By,
    /// How long to wait for the other Region.
    #[arg(long, value_name = "SPAN", value_parser = times::span, default_value = "10m")]
    pub(crate) timeout: u64,
}
