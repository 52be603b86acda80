//! Key material of a spec: made, read, and encoded.

use cryptoki_sys as ck;

use super::super::crypto::SecretBytes;
use super::super::key::{Key, Secrets};
use super::super::mechanism;
use super::super::params::Mechanism;
use super::super::value::{Attributes, Value};
use super::spec::Spec;
use crate::error::{ErrorKind, Result};

/// A new pair in its standard encodings.
pub(in crate::hsm) struct Pair {
    /// DER SubjectPublicKeyInfo.
    pub(in crate::hsm) public: Vec<u8>,
    /// DER PKCS#8.
    pub(in crate::hsm) private: SecretBytes,
}

/// A new pair. CKR_ARGUMENTS_BAD if keys of the spec are no pairs.
pub(in crate::hsm) fn generate_pair(spec: &Spec) -> Result<Pair> {
    if spec.is_symmetric() {
        return Err(ErrorKind::ArgumentsBad.with("a key of this spec is not a pair"));
    }
    let half = |class| [(ck::CKA_CLASS, Value::Ulong(class))].into_iter().collect::<Attributes>();
    let (mut public, mut private) = (half(ck::CKO_PUBLIC_KEY), half(ck::CKO_PRIVATE_KEY));
    spec.parametrize(&mut public);
    let generate = mechanism::row(spec.generator)?.generate_pair.ok_or(ErrorKind::GeneralError)?;
    let secrets = generate(&Mechanism::new(spec.generator), &mut public, &mut private)?;
    let info = public.bytes(ck::CKA_PUBLIC_KEY_INFO).ok_or(ErrorKind::GeneralError)?.to_vec();
    Ok(Pair { public: info, private: encode(spec, &Key::new(private, secrets))? })
}

/// The key whose value is `material`: the bytes of a secret key, PKCS#8 of a private one. It has the
/// attributes that follow from the value, CKA_CLASS and CKA_KEY_TYPE. None if it is no material of
/// the spec.
pub(in crate::hsm) fn read(spec: &Spec, material: SecretBytes) -> Option<Key> {
    let row = mechanism::key_type(spec.key_type)?;
    let class = if spec.is_symmetric() { ck::CKO_SECRET_KEY } else { ck::CKO_PRIVATE_KEY };
    let (mut attributes, mut secrets) = (Attributes::new(), Secrets::new());
    if spec.is_symmetric() {
        secrets.set(ck::CKA_VALUE, material);
    } else {
        (attributes, secrets) = row.from_pkcs8?(material.expose()).ok()?;
    }
    attributes.set(ck::CKA_CLASS, Value::Ulong(class));
    attributes.set(ck::CKA_KEY_TYPE, Value::Ulong(spec.key_type));
    (row.complete)(class, &mut attributes, &mut secrets).ok()?;
    spec.fits(&attributes).then(|| Key::new(attributes, secrets))
}

/// The one encoding of a key's material: the value of a secret key, PKCS#8 as it is made here.
pub(in crate::hsm) fn encode(spec: &Spec, key: &Key) -> Result<SecretBytes> {
    match mechanism::key_type(spec.key_type).and_then(|row| row.to_pkcs8) {
        Some(to_pkcs8) => to_pkcs8(key),
        None => SecretBytes::copy_of(key.secret(ck::CKA_VALUE)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_material_of_their_spec_and_of_no_other() {
        // Any bytes are a secret key.
        let pairs = || Spec::ALL.iter().filter(|spec| !spec.is_symmetric());
        for spec in pairs().filter(|spec| spec.name != "RSA_4096") {
            let pair = generate_pair(spec).unwrap();
            for other in pairs() {
                let found = read(other, SecretBytes::copy_of(pair.private.expose()).unwrap());
                assert_eq!(found.is_some(), spec == other, "{} as {}", spec.name, other.name);
                if let Some(key) = found {
                    assert_eq!(key.bytes(ck::CKA_PUBLIC_KEY_INFO).unwrap(), pair.public);
                    assert_eq!(encode(spec, &key).unwrap().expose(), pair.private.expose());
                }
            }
        }
        assert!(generate_pair(Spec::named("AES_256").unwrap()).is_err());
    }
}
