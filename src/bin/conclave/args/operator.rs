//! Arguments of `conclave operator`, and where an operator's keys are.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Subcommand)]
pub(crate) enum OperatorCommand {
    /// Make an operator's two keys, for signing and for recovery shares.
    #[command(after_help = "Examples:\n  conclave operator keygen --out anna.pem\n  \
                            conclave operator keygen --pkcs11 /usr/lib/softhsm/libsofthsm2.so --label anna\n\n\
                            The file is PKCS#8 under a passphrase; `openssl pkey` reads it. In a token the keys \
                            are called LABEL and `LABEL agreement`, and never leave it.")]
    Keygen(OperatorKeygen),
    /// Show the public keys, and the names (kid) that commands have them under.
    #[command(after_help = "Example:\n  conclave operator show --keys anna.pem")]
    Show(OperatorShow),
    /// Claim the keys for a person in one domain: what `found domain` and `add operator` take.
    #[command(after_help = "Examples:\n  \
                            conclave operator claim --person Anna --domain domain.token --keys anna.pem --out anna.claim\n  \
                            conclave operator claim --host web-1 --domain-id 70b297… --keys web-1.pem --out web-1.claim\n\n\
                            Check the domain's id with the person who sent it to you: a claim is good for one domain.")]
    Claim(OperatorClaim),
    /// Show whose keys a claim is about, and whether it is good, before you propose it.
    #[command(after_help = "Example:\n  conclave operator check anna.claim --domain domain.token\n\n\
                            Compare the kid with the one that the person told you. Exits with 1 if the claim is not good \
                            for the domain.")]
    Check(OperatorCheck),
    /// Claim new keys for an operator of a domain: what `re-key operator` takes.
    #[command(after_help = "Example:\n  \
                            conclave operator rekey --operator Anna --domain domain.token --keys new.pem --out anna.claim")]
    Rekey(OperatorRekey),
}

#[derive(Args)]
pub(crate) struct OperatorKeygen {
    /// The file to make; it is never overwritten.
    #[arg(long, value_name = "FILE", required_unless_present = "pkcs11", conflicts_with = "pkcs11")]
    pub(crate) out: Option<PathBuf>,
    /// Where the new file's passphrase comes from.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) passphrase: String,
    /// Make the keys in a token of this PKCS#11 module instead.
    #[arg(long, value_name = "MODULE", requires = "label")]
    pub(crate) pkcs11: Option<PathBuf>,
    /// The label of the keys in the token.
    #[arg(long, requires = "pkcs11")]
    pub(crate) label: Option<String>,
    /// The token's label; not needed if the module has only one.
    #[arg(long, requires = "pkcs11")]
    pub(crate) token_label: Option<String>,
    /// Where the PIN of the token with the keys comes from.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) pin: String,
}

/// Where an operator's keys are.
#[derive(Args)]
pub(crate) struct KeySource {
    /// Your keys, as `conclave operator keygen` wrote them.
    #[arg(long, value_name = "FILE", required_unless_present = "pkcs11", conflicts_with = "pkcs11")]
    pub(crate) keys: Option<PathBuf>,
    /// Where the file's passphrase comes from.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) passphrase: String,
    /// Your keys are in a token of this PKCS#11 module.
    #[arg(long, value_name = "MODULE", requires = "label")]
    pub(crate) pkcs11: Option<PathBuf>,
    /// The label of your keys in that token.
    #[arg(long, requires = "pkcs11")]
    pub(crate) label: Option<String>,
    /// That token's label; not needed if the module has only one.
    #[arg(long, requires = "pkcs11")]
    pub(crate) token_label: Option<String>,
    /// Where the PIN of the token with your keys comes from.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) pin: String,
}

#[derive(Args)]
pub(crate) struct OperatorShow {
    #[command(flatten)]
    pub(crate) source: KeySource,
}

#[derive(Args)]
pub(crate) struct OperatorClaim {
    /// The operator's name. Who has several keys has one name.
    #[arg(long, value_name = "NAME", required_unless_present = "host", conflicts_with = "host")]
    pub(crate) person: Option<String>,
    /// The name of a service host, which signs only.
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Option<String>,
    /// The domain, by its token (`-` is the standard input).
    #[arg(long, value_name = "FILE", required_unless_present = "domain_id", conflicts_with = "domain_id")]
    pub(crate) domain: Option<PathBuf>,
    /// The domain, by its id in hexadecimal.
    #[arg(long, value_name = "HEX")]
    pub(crate) domain_id: Option<String>,
    #[command(flatten)]
    pub(crate) source: KeySource,
    /// The claim (`-` is the standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Args)]
pub(crate) struct OperatorCheck {
    /// The claim (`-` is the standard input).
    pub(crate) claim: PathBuf,
    /// The domain that it is to be good for, by its token.
    #[arg(long, value_name = "FILE", required_unless_present = "domain_id", conflicts_with = "domain_id")]
    pub(crate) domain: Option<PathBuf>,
    /// The same, by its id in hexadecimal.
    #[arg(long, value_name = "HEX")]
    pub(crate) domain_id: Option<String>,
}

#[derive(Args)]
pub(crate) struct OperatorRekey {
    /// The operator who gets new keys: the person's name, or the id in hexadecimal.
    #[arg(long, value_name = "NAME|ID")]
    pub(crate) operator: String,
    /// The domain's token (`-` is the standard input).
    #[arg(long, value_name = "FILE")]
    pub(crate) domain: PathBuf,
    #[command(flatten)]
    pub(crate) source: KeySource,
    /// The claim (`-` is the standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}
