//! Arguments of bringing one's own key.

use std::path::PathBuf;

use clap::Args;

use super::ChangeKey;
use crate::times;

#[derive(Args)]
pub(crate) struct KeyImportParameters {
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// How the material will be wrapped.
    #[arg(
        long,
        default_value = "RSAES_OAEP_SHA_256",
        value_parser = ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256"]
    )]
    pub(crate) algorithm: String,
    /// The spec of the wrapping key.
    #[arg(long, default_value = "RSA_4096", value_parser = ["RSA_2048", "RSA_3072", "RSA_4096"])]
    pub(crate) wrapping_spec: String,
    /// Where to write the wrapping key (SubjectPublicKeyInfo, DER).
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    pub(crate) public_key: Option<PathBuf>,
    /// Where to write the import token.
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    pub(crate) import_token: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct KeyImport {
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// The import token (`-` is the standard input).
    #[arg(long, value_name = "FILE")]
    pub(crate) import_token: PathBuf,
    /// The wrapped material (`-` is the standard input).
    #[arg(long, value_name = "FILE")]
    pub(crate) material: PathBuf,
    /// When the material expires: at most 365 days from now, such as 2027-01-31 or +90d; never if not given.
    #[arg(long, value_name = "TIME", value_parser = times::instant)]
    pub(crate) valid_to: Option<u64>,
}

#[derive(Args)]
pub(crate) struct KeyDeleteMaterial {
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}
