//! Arguments of `conclave grant`.

use clap::{Args, Subcommand};

use super::{ChangeKey, OneKey, pair};

#[derive(Subcommand)]
pub(crate) enum GrantCommand {
    /// Let a user do some things with a managed key.
    #[command(
        after_help = "Examples:\n  conclave grant create invoices --grantee user:anna --operations Encrypt,Decrypt --token web\n  \
                            conclave grant create invoices --grantee user:anna --operations Decrypt --context-subset customer=7\n\n\
                            Operations are such as Encrypt, Decrypt, ReEncrypt, GenerateDataKey, GenerateDataKeyPair, Sign, \
                            Verify, GenerateMac, VerifyMac, DeriveSharedSecret, WrapKey, UnwrapKey, CreateGrant, \
                            RetireGrant. With a context the grant holds only where the encryption context is that one, or \
                            contains it."
    )]
    Create(GrantCreate),
    /// List the grants of a key. Whoever owns the token can always see them.
    #[command(after_help = "Examples:\n  conclave grant list invoices --token web\n  \
                            conclave grant list invoices --so-pin env:SO_PIN --json")]
    List(OneKey),
    /// Give a grant up, as its retiring principal, or as the grantee if RetireGrant is among its operations.
    #[command(
        after_help = "Example:\n  conclave grant retire invoices 5f2d5cc3-3c5a-4f8a-9f3e-0b2c9d1e7a44 --login-as anna --token web"
    )]
    Retire(GrantEnd),
    /// Take a grant back, as one who governs the key.
    #[command(
        after_help = "Example:\n  conclave grant revoke invoices 5f2d5cc3-3c5a-4f8a-9f3e-0b2c9d1e7a44 --token web"
    )]
    Revoke(GrantEnd),
}

#[derive(Args)]
pub(crate) struct GrantCreate {
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// Who gets it: `user`, or `user:NAME`.
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) grantee: String,
    /// What the grantee may do.
    #[arg(long, value_name = "OPERATION,…", value_delimiter = ',', required = true)]
    pub(crate) operations: Vec<String>,
    /// Who may retire it, besides the grantee if RetireGrant is among the operations.
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) retiring: Option<String>,
    /// A name for it.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A pair of the encryption context that must be exactly this; may be given again.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair, conflicts_with = "context_subset")]
    pub(crate) context_equals: Vec<(String, String)>,
    /// A pair that the encryption context must contain; may be given again.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) context_subset: Vec<(String, String)>,
}

#[derive(Args)]
pub(crate) struct GrantEnd {
    #[command(flatten)]
    pub(crate) change: ChangeKey,
    /// The grant's id.
    pub(crate) grant: String,
}
