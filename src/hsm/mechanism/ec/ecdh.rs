//! Key agreement (PKCS#11 3.2 §6.3.17, §6.3.18) of short Weierstrass and Montgomery keys. All curves
//! have cofactor 1 or clear it themselves, so that both mechanisms compute the same.

use cryptoki_sys as ck;
use zeroize::Zeroize;

use super::super::generic_secret::MAX_SECRET;
use super::super::{Derivation, hashes, montgomery};
use super::{key, params};
use crate::error::{ErrorKind, Result};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::crypto::aws_lc::digest::{Digester, Hash, MAX_DIGEST};
use crate::hsm::params::Params;

/// CKR_PUBLIC_KEY_INVALID for a peer's key that is malformed, not on the curve, or gives zero.
pub(super) fn derive(derivation: &Derivation<'_>) -> Result<Vec<SecretBytes>> {
    let Params::Ecdh1 { kdf, shared_data, public_data } = derivation.mechanism.params else {
        return Err(ErrorKind::MechanismParamInvalid.into());
    };
    let kdf = Kdf::new(kdf, shared_data)?;
    let base = derivation.base;
    if base.class() != ck::CKO_PRIVATE_KEY {
        return Err(ErrorKind::KeyTypeInconsistent.into());
    }
    let agreed = if base.key_type() == ck::CKK_EC_MONTGOMERY {
        montgomery::agree(base, public_data)
    } else {
        let ec = key::engine(base)?;
        params::weierstrass_point(ec.curve(), public_data).and_then(|point| ec.agree(point))
    };
    let shared = agreed.ok_or(ErrorKind::PublicKeyInvalid)??;
    let len = derivation.lengths.first().copied().flatten();
    kdf.apply(&shared, shared_data, len).map(|key| vec![key])
}

/// How the key comes from the shared secret.
enum Kdf {
    /// CKD_NULL: its last bytes.
    Null,
    /// ANSI X9.63: hashes of secret, counter, shared data.
    X963(Hash),
    /// SP 800-56A §5.8.1.1: hashes of counter, secret, shared data.
    Sp800(Hash),
}

impl Kdf {
    fn new(kdf: u64, shared_data: &[u8]) -> Result<Self> {
        if kdf == ck::CKD_NULL {
            return match shared_data {
                [] => Ok(Self::Null),
                _ => Err(ErrorKind::MechanismParamInvalid.with("CKD_NULL takes no shared data")),
            };
        }
        let x963 = hashes::find(|names| names.kdf_x963, kdf).map(Self::X963);
        x963.or_else(|| hashes::find(|names| names.kdf_sp800, kdf).map(Self::Sp800))
            .ok_or_else(|| ErrorKind::MechanismParamInvalid.with("the KDF is not supported"))
    }

    /// `len` bytes; without it as many as the secret or the hash has. CKR_KEY_SIZE_RANGE for more
    /// than a key can have.
    fn apply(&self, shared: &SecretBytes, info: &[u8], len: Option<usize>) -> Result<SecretBytes> {
        if len.is_some_and(|len| len > MAX_SECRET) {
            return Err(ErrorKind::KeySizeRange.into());
        }
        let secret = shared.expose();
        let (hash, counter_first) = match self {
            Self::Null => {
                let start = secret.len().checked_sub(len.unwrap_or(secret.len()));
                let tail = start.and_then(|start| secret.get(start..));
                return SecretBytes::copy_of(tail.ok_or_else(|| {
                    ErrorKind::TemplateInconsistent.with("the shared secret is shorter than the key")
                })?);
            }
            Self::X963(hash) => (*hash, false),
            Self::Sp800(hash) => (*hash, true),
        };
        SecretBytes::fill(len.unwrap_or(hash.len()), |out| {
            for (counter, chunk) in (1u32..).zip(out.chunks_mut(hash.len())) {
                let counter = counter.to_be_bytes();
                let (first, second): (&[u8], &[u8]) =
                    if counter_first { (&counter, secret) } else { (secret, &counter) };
                let mut digester = Digester::new(hash)?;
                let mut block = [0; MAX_DIGEST];
                for part in [first, second, info] {
                    digester.update(part)?;
                }
                digester.finish(&mut block)?;
                chunk.copy_from_slice(&block[..chunk.len()]);
                block.zeroize();
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST CAVS (ANSI X9.63, SHA-256), and the vector of SP 800-56A that pyca/cryptography tests with.
    #[test]
    fn kdfs() {
        for (kdf, secret, info, expected) in [
            (
                ck::CKD_SHA256_KDF,
                "96c05619d56c328ab95fe84b18264b08725b85e33fd34f08",
                "",
                "443024c3dae66b95e6f5670601558f71",
            ),
            (
                ck::CKD_SHA256_KDF_SP800,
                "52169af5c485dcc2321eb8d26d5efa21fb9b93c98e38412ee2484cf14f0d0d23",
                "a1b2c3d4e53728157e634612c12d6d5223e204aeea4341565369647bd184bcd246f72971f292badaa2fe4124612cba",
                "1c3bc9e7c4547c5191c0d478cccaed55",
            ),
        ] {
            let [secret, info, expected] = [secret, info, expected].map(|text| hex::decode(text).unwrap());
            let secret = SecretBytes::copy_of(&secret).unwrap();
            let derived = Kdf::new(kdf, &info).unwrap().apply(&secret, &info, Some(16)).unwrap();
            assert_eq!(derived.expose(), expected);
        }
    }
}
