//! Data keys: made here, handed out in clear to be used elsewhere, and in a blob to be kept. The
//! caller decides whether the clear half leaves the HSM.

use super::super::crypto::SecretBytes;
use super::super::crypto::aws_lc::random;
use super::context::Context;
use super::envelope::{Material, Name};
use super::material::{self, Pair};
use super::spec::Spec;
use crate::error::{ErrorKind, Result};

/// The longest data key, in bytes.
pub(in crate::hsm) const MAX_LEN: usize = 1024;

/// CKR_ARGUMENTS_BAD unless 1 to 1024.
pub(in crate::hsm) fn check_len(len: usize) -> Result<()> {
    if (1..=MAX_LEN).contains(&len) {
        Ok(())
    } else {
        Err(ErrorKind::ArgumentsBad.with("a data key has 1 to 1024 bytes"))
    }
}

/// `len` random bytes, and the blob that holds them. CKR_ARGUMENTS_BAD unless 1 to 1024.
pub(in crate::hsm) fn generate(
    key: &Material,
    name: Name<'_>,
    context: &Context<'_>,
    len: usize,
) -> Result<(SecretBytes, Vec<u8>)> {
    check_len(len)?;
    let plaintext = random::secret(len)?;
    let blob = key.seal(name, context, plaintext.expose())?;
    Ok((plaintext, blob))
}

/// A new pair of an RSA, EC or Ed25519 spec, and the blob that holds its PKCS#8.
pub(in crate::hsm) fn generate_pair(
    key: &Material,
    name: Name<'_>,
    context: &Context<'_>,
    spec: &Spec,
) -> Result<(Pair, Vec<u8>)> {
    let pair = material::generate_pair(spec)?;
    let blob = key.seal(name, context, pair.private.expose())?;
    Ok((pair, blob))
}

#[cfg(test)]
mod tests {
    use super::super::envelope::{Blob, MATERIAL, MAX_PLAINTEXT};
    use super::*;

    const NAME: Name<'static> = Name { id: "mrk-00", object: &[7; 16], version: 2 };

    #[test]
    fn data_keys_open_under_their_key_and_context() {
        let keyed = Material::new(&[1; MATERIAL]).unwrap();
        let context = Context::from_pairs([("file", "a.txt")]).unwrap();
        for len in [1, 16, 32, MAX_LEN] {
            let (plaintext, blob) = generate(&keyed, NAME, &context, len).unwrap();
            let opened = keyed.open(NAME, &context, &Blob::parse(&blob).unwrap()).unwrap();
            assert_eq!((opened.len(), opened.expose()), (len, plaintext.expose()));
            assert!(keyed.open(NAME, &Context::EMPTY, &Blob::parse(&blob).unwrap()).is_err());
        }
        for len in [0, MAX_LEN + 1, usize::MAX] {
            assert_eq!(generate(&keyed, NAME, &context, len).err().unwrap().kind(), ErrorKind::ArgumentsBad);
        }
    }

    #[test]
    fn pairs_of_every_size_fit_in_a_blob() {
        let keyed = Material::new(&[1; MATERIAL]).unwrap();
        for name in ["RSA_2048", "RSA_4096", "ECC_NIST_P521", "ECC_SECG_P256K1", "ECC_ED25519"] {
            let spec = Spec::named(name).unwrap();
            let (pair, blob) = generate_pair(&keyed, NAME, &Context::EMPTY, spec).unwrap();
            let opened = keyed.open(NAME, &Context::EMPTY, &Blob::parse(&blob).unwrap()).unwrap();
            assert!(opened.expose() == pair.private.expose() && opened.len() <= MAX_PLAINTEXT);
            let key = material::read(spec, opened).unwrap();
            assert_eq!(key.bytes(cryptoki_sys::CKA_PUBLIC_KEY_INFO).unwrap(), pair.public, "{name}");
        }
        let secret = generate_pair(&keyed, NAME, &Context::EMPTY, Spec::named("HMAC_256").unwrap());
        assert_eq!(secret.err().unwrap().kind(), ErrorKind::ArgumentsBad);
    }
}
