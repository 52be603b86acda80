//! Arguments of `conclave key create`.

use std::path::PathBuf;

use clap::Args;

use super::super::Login;
use super::{Trial, pair};

#[derive(Args)]
pub(crate) struct KeyCreate {
    /// What kind of key.
    #[arg(long, default_value = "AES_256")]
    pub(crate) spec: String,
    /// What it is for, for ever.
    #[arg(long, value_parser = ["ENCRYPT_DECRYPT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT"])]
    pub(crate) usage: Option<String>,
    /// Where its material comes from: made in the HSM, or imported.
    #[arg(long, value_parser = ["HSM", "EXTERNAL"], default_value = "HSM")]
    pub(crate) origin: String,
    /// Make a multi-Region key (its id begins with `mrk-`).
    #[arg(long)]
    pub(crate) multi_region: bool,
    /// A multi-Region key of imported material: ship that to the replicas, which else import it themselves.
    #[arg(long, requires = "multi_region")]
    pub(crate) replicate_imported: bool,
    /// The label by which PKCS#11 programs find it.
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// What it is for, in words.
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// A tag; may be given again.
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) tags: Vec<(String, String)>,
    /// An alias to make for it; may be given again.
    #[arg(long = "alias", value_name = "NAME")]
    pub(crate) aliases: Vec<String>,
    /// AES_256: allow CKM_AES_GCM of the standard; such a key does not rotate.
    #[arg(long)]
    pub(crate) standard_mechanisms: bool,
    /// Its policy, a file of JSON (`-` is the standard input); else the user who makes it may do everything.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Dual control: the operators who approve its use, by name or id.
    #[arg(long, value_name = "NAME|ID,…", value_delimiter = ',', requires = "threshold")]
    pub(crate) operators: Vec<String>,
    /// Dual control: how many of them must.
    #[arg(long, value_name = "COUNT", requires = "operators")]
    pub(crate) threshold: Option<u64>,
    #[command(flatten)]
    pub(crate) trial: Trial,
    #[command(flatten)]
    pub(crate) login: Login,
}
