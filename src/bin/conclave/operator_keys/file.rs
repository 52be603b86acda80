//! An operator's keys in a file: two PKCS#8 blocks under one passphrase, the signing key first.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use conclave::error::{Error, ErrorKind, Result};
use conclave::hsm::governance::OperatorKeys;
use p384::ecdsa::signature::Signer;
use p384::ecdsa::{Signature, SigningKey};
use p384::elliptic_curve::Generate;
use p384::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use p384::{PublicKey, SecretKey};
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument};
use zeroize::Zeroizing;

use crate::output::Failure;
use crate::pin;

const PEM_LABEL: &str = "ENCRYPTED PRIVATE KEY";
const PEM_END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
/// log2 N, r and p of scrypt: 16 MiB, which OpenSSL still opens by itself, five times over.
const SCRYPT: (u8, u32, u32) = (14, 8, 5);

pub(crate) struct FileKeys {
    signing: SecretKey,
    agreement: SecretKey,
}

impl FileKeys {
    /// Makes two keys and the file that holds them; refuses to overwrite one.
    pub(crate) fn generate(path: &Path, passphrase: &str) -> std::result::Result<Self, Failure> {
        let doing = |error| Failure::while_(&format!("cannot make {}", path.display()), &error);
        let keys = Self { signing: random_key().map_err(doing)?, agreement: random_key().map_err(doing)? };
        let text = keys.encode(passphrase).map_err(doing)?;
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Failure::new(format!("{} exists already: keys are never overwritten", path.display()))
            }
            _ => Failure::new(format!("cannot write {}: {error}", path.display())),
        };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(keys)
    }

    /// Opens the file; `source` says where its passphrase comes from.
    pub(crate) fn open(path: &Path, source: &str) -> std::result::Result<Self, Failure> {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Failure::not_found(format!("there is no file {name}: `conclave operator keygen` makes one"))
            }
            std::io::ErrorKind::InvalidData => Failure::new(format!("{name} is not a file of operator keys")),
            _ => Failure::new(format!("cannot read {name}: {error}")),
        })?;
        let passphrase = pin::read(source, &format!("passphrase of {name}"), false)?;
        Self::decode(&text, &passphrase).map_err(|error| match error.kind() {
            ErrorKind::PinIncorrect => {
                Failure::pin_refused(format!("cannot open {name}: the passphrase is wrong, or the file is damaged"))
            }
            _ => Failure::while_(&format!("cannot open {name}"), &error),
        })
    }

    fn encode(&self, passphrase: &str) -> Result<Zeroizing<String>> {
        let mut text = Zeroizing::new(String::new());
        for (name, key) in [("signing (QOS)", &self.signing), ("agreement (QOA)", &self.agreement)] {
            let document = key.to_pkcs8_der().map_err(internal)?;
            let info = PrivateKeyInfoRef::try_from(document.as_bytes()).map_err(internal)?;
            let (log_n, r, p) = SCRYPT;
            let cost = scrypt::Params::new(log_n, r, p).map_err(internal)?;
            let [salt, iv] = [random()?, random()?];
            let parameters = pbes2::Parameters::generate_scrypt_aes256cbc(cost, &salt, iv).map_err(internal)?;
            let encrypted = info.encrypt_with_params(parameters, passphrase).map_err(internal)?;
            let pem = encrypted.to_pem(PEM_LABEL, LineEnding::LF).map_err(internal)?;
            text.push_str(&format!("Conclave operator key: {name}\n{}", *pem));
        }
        Ok(text)
    }

    fn decode(text: &str, passphrase: &str) -> Result<Self> {
        let mut blocks = text.match_indices(PEM_END).map(|(at, end)| at + end.len()).scan(0, |from, to| {
            let block = &text[*from..to];
            *from = to;
            Some(block)
        });
        let (Some(signing), Some(agreement), None) = (blocks.next(), blocks.next(), blocks.next()) else {
            return Err(ErrorKind::DataInvalid.with("an operator's file has two encrypted keys, this one has not"));
        };
        Ok(Self { signing: decrypt(signing, passphrase)?, agreement: decrypt(agreement, passphrase)? })
    }
}

impl OperatorKeys for FileKeys {
    fn signing(&self) -> Result<Vec<u8>> {
        public(&self.signing)
    }

    fn agreement(&self) -> Result<Vec<u8>> {
        public(&self.agreement)
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 96]> {
        let signature: Signature = SigningKey::from(&self.signing).sign(message);
        Ok(signature.to_bytes().into())
    }

    fn agree(&self, peer: &[u8]) -> Result<Zeroizing<[u8; 48]>> {
        let peer = PublicKey::from_public_key_der(peer)
            .map_err(|_| ErrorKind::PublicKeyInvalid.with("the peer's key is not on the curve P-384"))?;
        let shared = self.agreement.diffie_hellman(&peer);
        Ok(Zeroizing::new((*shared.raw_secret_bytes()).into()))
    }
}

fn decrypt(block: &str, passphrase: &str) -> Result<SecretKey> {
    let damaged = || ErrorKind::DataInvalid.with("the file is damaged");
    let pem = block.find("-----BEGIN").and_then(|at| block.get(at..)).ok_or_else(damaged)?;
    let (label, document) = SecretDocument::from_pem(pem).map_err(|_| damaged())?;
    if label != PEM_LABEL {
        return Err(damaged());
    }
    let info = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes()).map_err(|_| damaged())?;
    // CBC has no tag: a wrong passphrase is seen by what comes out.
    let wrong = || Error::from(ErrorKind::PinIncorrect);
    let plain = info.decrypt(passphrase).map_err(|_| wrong())?;
    PrivateKeyInfoRef::try_from(plain.as_bytes()).map_err(|_| wrong())?;
    SecretKey::from_pkcs8_der(plain.as_bytes())
        .map_err(|_| ErrorKind::CurveNotSupported.with("an operator's keys are on the curve P-384"))
}

fn public(key: &SecretKey) -> Result<Vec<u8>> {
    Ok(key.public_key().to_public_key_der().map_err(internal)?.into_vec())
}

fn random_key() -> Result<SecretKey> {
    SecretKey::try_generate().map_err(|_| ErrorKind::RandomNoRng.into())
}

/// 16 random bytes.
pub(crate) fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    for half in bytes.chunks_exact_mut(8) {
        let drawn = u64::try_generate().map_err(|_| ErrorKind::RandomNoRng)?;
        half.copy_from_slice(&drawn.to_ne_bytes());
    }
    Ok(bytes)
}

fn internal<E>(_: E) -> Error {
    ErrorKind::GeneralError.into()
}
