//! Arguments of `conclave key`.

mod create;
mod envelope;
mod import;
mod life;
mod objects;
mod policy;
mod replicas;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Login;

pub(crate) use create::*;
pub(crate) use envelope::*;
pub(crate) use import::*;
pub(crate) use life::*;
pub(crate) use objects::*;
pub(crate) use policy::*;
pub(crate) use replicas::*;

/// KEY is the id of a managed key or one of its aliases, with or without `alias/`.
#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// List the objects of a token: what the standard says of each, then the managed keys.
    #[command(after_help = "Examples:\n  conclave key list --token web\n  \
                            conclave key list --token web --pin none     only what is public\n  \
                            conclave key list --token web --expiring 60 --pin env:USER_PIN --json")]
    List(KeyList),
    /// Show all readable attributes of the objects with a label, CKA_ID or unique id.
    #[command(after_help = "Examples:\n  conclave key show --token web signing\n  \
                            conclave key show --token web 01a2 --pin env:USER_PIN")]
    Show(KeyShow),
    /// Mark a key or certificate as trusted (CKA_TRUSTED), as the security officer who governs the token.
    ///
    /// Only objects with CKA_PRIVATE false can be trusted: the security officer does not see
    /// private ones.
    #[command(after_help = "Example:\n  conclave key trust --token web backup-wrapping-key")]
    Trust(KeyTrust),

    /// Create a managed key.
    #[command(after_help = "Examples:\n  conclave key create --token web --alias invoices\n  \
                            conclave key create --spec ECC_NIST_P256 --usage SIGN_VERIFY --label signing --tag stage=live\n  \
                            conclave key create --origin EXTERNAL --alias brought     its material is imported\n\n\
                            Specs: AES_256, RSA_2048, RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384, ECC_NIST_P521, \
                            ECC_SECG_P256K1, ECC_ED25519, HMAC_224, HMAC_256, HMAC_384, HMAC_512.\n\
                            A spec with one usage needs no --usage. The usage is for ever. A key under dual control \
                            (--operators, --threshold) is used only with the approval of so many of those operators; the \
                            domain must be governed by them.")]
    Create(KeyCreate),
    /// Describe a managed key: its state, versions, tags, aliases, dates.
    #[command(after_help = "Examples:\n  conclave key describe invoices --token web\n  \
                            conclave key describe alias/invoices --pin env:USER_PIN --json")]
    Describe(OneKey),
    /// Write the public key of a pair: a SubjectPublicKeyInfo, DER.
    #[command(after_help = "Example:\n  conclave key public-key releases --token web --out releases.der")]
    PublicKey(KeyPublicKey),
    /// Enable a disabled key.
    #[command(after_help = "Example:\n  conclave key enable invoices --token web")]
    Enable(ChangeKey),
    /// Disable a key: it cannot be used until it is enabled again.
    #[command(after_help = "Example:\n  conclave key disable invoices --token web")]
    Disable(ChangeKey),
    /// Have a key deleted after a waiting period, in which it cannot be used and its deletion can be cancelled.
    #[command(after_help = "Examples:\n  conclave key delete invoices --token web\n  \
                            conclave key delete invoices --days 7 --yes --pin env:USER_PIN\n\n\
                            When the date has come, any login, use, or `conclave key rotate --due` deletes the key.")]
    Delete(KeyDelete),
    /// Cancel the deletion of a key that waits for it; the key is disabled then.
    #[command(after_help = "Example:\n  conclave key cancel-deletion 1ad62b7c-6d35-4d0c-9d80-2f9c0a4e1d05 --token web")]
    CancelDeletion(ChangeKey),
    /// Say in words what a key is for.
    #[command(after_help = "Example:\n  conclave key set-description invoices \"files of the year 2027\" --token web")]
    SetDescription(KeySetDescription),
    /// Set tags of a key.
    #[command(after_help = "Example:\n  conclave key tag invoices stage=live owner=books --token web")]
    Tag(KeyTag),
    /// Remove tags from a key.
    #[command(after_help = "Example:\n  conclave key untag invoices stage owner --token web")]
    Untag(KeyUntag),
    /// Make a new version of a key's material, or do for all keys what time demands.
    #[command(after_help = "Examples:\n  conclave key rotate invoices --token web\n  \
                            conclave key rotate --due --token web --pin file:/etc/conclave/web.pin     for cron\n\n\
                            The newest version encrypts; older ones still decrypt. --due makes the rotations that are \
                            due, deletes the keys whose waiting period is over and the imported material that has \
                            expired. Uses and logins see to that too; it is for tokens that rest for weeks.")]
    Rotate(KeyRotate),
    /// Show a key's versions and when it rotates by itself, or change that.
    #[command(after_help = "Examples:\n  conclave key rotation invoices --token web\n  \
                            conclave key rotation invoices --every 365 --token web\n  \
                            conclave key rotation invoices --off --token web")]
    Rotation(KeyRotation),

    /// Show where a multi-Region key is: its primary, its replicas, the versions they have.
    #[command(after_help = "Examples:\n  conclave key replicas invoices --token web\n  \
                            conclave key replicas mrk-0c5d… --token web --pin env:USER_PIN --json")]
    Replicas(OneKey),
    /// Make another Region's replica of a key its primary; the primary here becomes a replica.
    #[command(
        after_help = "Examples:\n  conclave key promote invoices --to us-1 --proxy http://proxy:8470 --token web\n  \
                            conclave key promote invoices --to us-1 --token web\n\n\
                            The replica must have all versions. Without --proxy and --via, `conclave region serve` of both \
                            Regions does the rest. If this Region is lost, the other one's operators promote its replica: \
                            `conclave proposal new emergency-promote`."
    )]
    Promote(KeyPromote),

    /// Get a wrapping key and an import token, both good for 24 hours, to import material into a key.
    #[command(after_help = "Example:\n  conclave key import-parameters brought --public-key wrapping.der \
                            --import-token import.token --token web\n\n\
                            The material is then wrapped where it is, for instance with\n  \
                            openssl pkeyutl -encrypt -pubin -inkey wrapping.der -keyform DER -in material.key -out material.wrapped \\\n    \
                            -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256\n\
                            Material: 32 bytes of AES, the bytes of an HMAC key, or the PKCS#8 (DER) of an RSA or EC key, \
                            which is too long for RSAES_OAEP_*.")]
    ImportParameters(KeyImportParameters),
    /// Import wrapped material into a key; after a deletion or expiry, only the same again.
    #[command(
        after_help = "Examples:\n  conclave key import brought --import-token import.token --material material.wrapped --token web\n  \
                            conclave key import brought --import-token import.token --material material.wrapped \
                            --valid-to +90d --token web"
    )]
    Import(KeyImport),
    /// Delete the imported material of a key at once; the key waits for the same material again.
    #[command(after_help = "Example:\n  conclave key delete-material brought --token web")]
    DeleteMaterial(KeyDeleteMaterial),

    /// Encrypt at most 4096 bytes; a file of any size needs a data key.
    #[command(
        after_help = "Examples:\n  conclave key encrypt invoices --context customer=7 --in note --out note.blob --token web\n  \
                            echo secret | conclave key encrypt invoices --token web --pin env:USER_PIN > secret.blob\n\n\
                            The context is not secret; the same must be given to decrypt."
    )]
    Encrypt(KeyEncrypt),
    /// Decrypt what `encrypt`, `re-encrypt` or `data-key` made; the blob says with which key.
    #[command(
        after_help = "Examples:\n  conclave key decrypt --context customer=7 --in note.blob --out note --token web\n  \
                            conclave key decrypt --key invoices --token web --pin env:USER_PIN < secret.blob"
    )]
    Decrypt(KeyDecrypt),
    /// Encrypt again under another key, version or context; the plaintext stays in the HSM.
    #[command(
        after_help = "Example:\n  conclave key re-encrypt invoices-2028 --in note.blob --source-context customer=7 \
                            --context customer=8 --out note.blob --token web"
    )]
    ReEncrypt(KeyReEncrypt),
    /// Make a data key: in clear, to encrypt with it elsewhere, and as a blob, to be kept with the data.
    #[command(
        after_help = "Examples:\n  conclave key data-key invoices --plaintext-out data.key --blob-out data.blob --token web\n  \
                            conclave key data-key invoices --spec ECC_NIST_P256 --public-out pair.pub.der --blob-out pair.blob --token web\n\n\
                            Without --plaintext-out the key itself does not leave the HSM; `conclave key decrypt` gives it \
                            later. A pair's private key is PKCS#8, its public key a SubjectPublicKeyInfo, both DER."
    )]
    DataKey(KeyDataKey),
    /// Who may do what with a key.
    #[command(subcommand)]
    Policy(PolicyCommand),
}

/// The subject of most commands.
#[derive(Args)]
pub(crate) struct OneKey {
    /// The id of a managed key, or an alias of it.
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) login: Login,
}

#[derive(Args)]
pub(crate) struct KeyPublicKey {
    #[command(flatten)]
    pub(crate) of: OneKey,
    /// Where to write it; the standard output if not given.
    #[arg(long, value_name = "FILE", default_value = "-", hide_default_value = true)]
    pub(crate) out: PathBuf,
}

/// A change of one key.
#[derive(Args)]
pub(crate) struct ChangeKey {
    #[command(flatten)]
    pub(crate) of: OneKey,
    #[command(flatten)]
    pub(crate) trial: Trial,
}

#[derive(Args)]
pub(crate) struct Trial {
    /// Only say whether it would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `NAME=VALUE`; the value may have further `=`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "it is NAME=VALUE".to_owned())
}
