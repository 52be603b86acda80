//! Arguments of envelope encryption.

use std::path::PathBuf;

use clap::Args;

use super::super::Login;
use super::{ChangeKey, Trial, pair};

/// What is read and written.
#[derive(Args)]
pub(crate) struct Stream {
    /// What to read; the standard input if not given.
    #[arg(long = "in", value_name = "FILE", default_value = "-", hide_default_value = true)]
    pub(crate) input: PathBuf,
    /// What to write; the standard output if not given.
    #[arg(long = "out", value_name = "FILE", default_value = "-", hide_default_value = true)]
    pub(crate) output: PathBuf,
}

#[derive(Args)]
pub(crate) struct KeyEncrypt {
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// A pair of the encryption context; may be given again.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) context: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) stream: Stream,
}

#[derive(Args)]
pub(crate) struct KeyDecrypt {
    /// Refuse a blob of any other key than this.
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// A pair of the encryption context; may be given again.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) context: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) stream: Stream,
    #[command(flatten)]
    pub(crate) trial: Trial,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Args)]
pub(crate) struct KeyReEncrypt {
    /// The key to encrypt with, and how.
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// A pair of the context that the blob was made with; may be given again.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) source_context: Vec<(String, String)>,
    /// A pair of the new context; may be given again.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) context: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) stream: Stream,
}

#[derive(Args)]
pub(crate) struct KeyDataKey {
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// The length of a symmetric data key: 1 to 1024.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) bytes: u64,
    /// Make a pair of this spec instead: RSA_2048 to RSA_4096, ECC_NIST_P256 to P521, ECC_SECG_P256K1, ECC_ED25519.
    #[arg(long, conflicts_with = "bytes")]
    pub(crate) spec: Option<String>,
    /// A pair of the encryption context; may be given again.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) context: Vec<(String, String)>,
    /// Where to write the key in clear, readable by you alone; without it, it is not given.
    #[arg(long, value_name = "FILE")]
    pub(crate) plaintext_out: Option<PathBuf>,
    /// Where to write the blob.
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    pub(crate) blob_out: Option<PathBuf>,
    /// Where to write a pair's public key.
    #[arg(long, value_name = "FILE", requires = "spec")]
    pub(crate) public_out: Option<PathBuf>,
}
