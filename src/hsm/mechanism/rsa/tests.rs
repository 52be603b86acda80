use std::sync::{Arc, LazyLock};

use cryptoki_sys as ck;

use super::super::testing::*;
use super::super::{key_type, row};
use crate::error::ErrorKind;
use crate::hsm::command::{Function, Outcome};
use crate::hsm::key::Key;
use crate::hsm::params::{Oaep, Params, Pss};
use crate::hsm::value::{Attributes, Value};

static PAIR: LazyLock<(Arc<Key>, Arc<Key>)> = LazyLock::new(|| pair(2048).unwrap());

fn pair(bits: u64) -> crate::error::Result<(Arc<Key>, Arc<Key>)> {
    let template: Attributes = [(ck::CKA_MODULUS_BITS, Value::Ulong(bits))].into_iter().collect();
    generate(ck::CKM_RSA_PKCS_KEY_PAIR_GEN, template)
}

#[test]
fn pairs_sign_and_verify() {
    let (public, private) = &*PAIR;
    let pss = |hash, mgf, salt_len| Params::Pss(Pss { hash, mgf, salt_len });
    for (kind, params) in [
        (ck::CKM_RSA_PKCS, Params::None),
        (ck::CKM_RSA_X_509, Params::None),
        (ck::CKM_SHA256_RSA_PKCS, Params::None),
        (ck::CKM_SHA3_512_RSA_PKCS, Params::None),
        (ck::CKM_RSA_PKCS_PSS, pss(ck::CKM_SHA_1, ck::CKG_MGF1_SHA512, 0)),
        (ck::CKM_SHA384_RSA_PKCS_PSS, pss(ck::CKM_SHA384, ck::CKG_MGF1_SHA3_256, 206)),
    ] {
        let mechanism = mechanism(kind, params);
        let signature = sign(&mechanism, private, &[7; 20]).unwrap();
        verify(&mechanism, public, &[7; 20], &signature).unwrap();
        verify(&mechanism, public, &[7; 20], &sign_parts(&mechanism, private, &[7; 20]).unwrap()).unwrap();
        let refused = verify(&mechanism, public, &[8; 20], &signature).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::SignatureInvalid);
        let refused = verify(&mechanism, public, &[7; 20], &signature[1..]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::SignatureLenRange);
    }
    for (kind, params) in [
        (ck::CKM_SHA256_RSA_PKCS_PSS, pss(ck::CKM_SHA384, ck::CKG_MGF1_SHA256, 32)),
        (ck::CKM_SHA384_RSA_PKCS_PSS, pss(ck::CKM_SHA384, ck::CKG_MGF1_SHA384, 207)),
        (ck::CKM_RSA_PKCS_PSS, pss(ck::CKM_SHA384, 0, 32)),
        (ck::CKM_RSA_PKCS_PSS, pss(ck::CKM_SHA384, ck::CKG_MGF1_SHA384, u64::MAX)),
        (ck::CKM_RSA_PKCS_PSS, Params::None),
    ] {
        let refused = sign(&mechanism(kind, params), private, &[7; 20]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::MechanismParamInvalid);
    }
}

#[test]
fn ciphertexts_decrypt() {
    let (public, private) = &*PAIR;
    let oaep = Oaep { hash: ck::CKM_SHA256, mgf: ck::CKG_MGF1_SHA1, label: b"label" };
    for (kind, params) in [(ck::CKM_RSA_PKCS, Params::None), (ck::CKM_RSA_PKCS_OAEP, Params::Oaep(oaep))] {
        let mechanism = mechanism(kind, params);
        for len in [0, 1, 190] {
            let plain = vec![9; len];
            let ciphertext = apply(&mechanism, Function::Encrypt, public, &plain).unwrap();
            assert_eq!(apply(&mechanism, Function::Decrypt, private, &ciphertext).unwrap(), plain);
        }
        assert_eq!(
            apply(&mechanism, Function::Encrypt, public, &[0; 246]).unwrap_err().kind(),
            ErrorKind::DataLenRange
        );
    }
    let raw = mechanism(ck::CKM_RSA_X_509, Params::None);
    let ciphertext = apply(&raw, Function::Encrypt, public, &[5; 3]).unwrap();
    let plain = apply(&raw, Function::Decrypt, private, &ciphertext).unwrap();
    assert_eq!((plain.len(), &plain[253..]), (256, &[5; 3][..]));
    let refused = apply(&raw, Function::Encrypt, public, &[0xff; 256]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::DataInvalid);
}

#[test]
fn recovery_gives_back_what_was_signed() {
    let (public, private) = &*PAIR;
    let pkcs = mechanism(ck::CKM_RSA_PKCS, Params::None);
    let signature = apply(&pkcs, Function::SignRecover, private, b"digest").unwrap();
    assert_eq!(apply(&pkcs, Function::VerifyRecover, public, &signature).unwrap(), b"digest");
    let raw = mechanism(ck::CKM_RSA_X_509, Params::None);
    let recovered = apply(&raw, Function::VerifyRecover, public, &signature).unwrap();
    assert_eq!((&recovered[..2], &recovered[250..]), (&[0, 1][..], &b"digest"[..]));
    let forged = apply(&pkcs, Function::VerifyRecover, public, &[1; 256]).unwrap_err();
    assert_eq!(forged.kind(), ErrorKind::SignatureInvalid);
}

/// The lines of a vector file: their words, in hexadecimal after the first.
fn vectors() -> (Vec<u8>, Vec<[Vec<u8>; 2]>) {
    let (mut key, mut cases) = (Vec::new(), Vec::new());
    for line in include_str!("vectors/implicit_rejection.txt").lines() {
        let mut words = line.split(' ');
        let kind = words.next();
        let mut bytes = || hex::decode(words.next().unwrap_or_default()).unwrap();
        match kind {
            Some("key") => key = bytes(),
            Some("case") => cases.push([bytes(), bytes()]),
            _ => {}
        }
    }
    (key, cases)
}

#[test]
fn implicit_rejection() {
    let (der, cases) = vectors();
    let key = pkcs8(ck::CKK_RSA, &der).unwrap();
    let pkcs = mechanism(ck::CKM_RSA_PKCS, Params::None);
    assert_eq!(cases.len(), 9);
    for [ciphertext, plain] in &cases {
        assert_eq!(&apply(&pkcs, Function::Decrypt, &key, ciphertext).unwrap(), plain);
        if plain.is_empty() {
            continue;
        }
        // Too small a buffer is told the bound, never the length; just enough is enough.
        let begin = row(pkcs.kind).unwrap().cipher.unwrap();
        let mut operation = begin(&pkcs, Function::Decrypt, key.clone()).unwrap();
        let mut out = vec![0; plain.len()];
        let small = operation.one_shot(ciphertext, Some(&mut out[1..])).unwrap();
        assert_eq!((small, &out), (Outcome::Needed(245), &vec![0; plain.len()]));
        assert_eq!(operation.one_shot(ciphertext, Some(&mut out)).unwrap(), Outcome::Written(plain.len()));
        assert_eq!(&out, plain);
    }
    let unwrap = row(pkcs.kind).unwrap().wrap.unwrap().unwrap;
    assert_eq!(unwrap(&pkcs, &key, &cases[6][0]).unwrap().expose(), cases[6][1]);
    let refused = unwrap(&pkcs, &key, &[0xff; 256]).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::WrappedKeyInvalid);
}

const PRIVATE_PARTS: [u64; 6] = [
    ck::CKA_PRIVATE_EXPONENT,
    ck::CKA_PRIME_1,
    ck::CKA_PRIME_2,
    ck::CKA_EXPONENT_1,
    ck::CKA_EXPONENT_2,
    ck::CKA_COEFFICIENT,
];

/// Imports a key with these secret parts only, changed by `change`.
fn import(
    whole: &Key,
    with_e: bool,
    parts: &[u64],
    change: impl Fn(u64, &mut Vec<u8>),
) -> crate::error::Result<Arc<Key>> {
    let part = |kind, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        change(kind, &mut bytes);
        (kind, bytes)
    };
    let mut public = vec![part(ck::CKA_MODULUS, whole.bytes(ck::CKA_MODULUS)?)];
    if with_e {
        public.push(part(ck::CKA_PUBLIC_EXPONENT, whole.bytes(ck::CKA_PUBLIC_EXPONENT)?));
    }
    let secret: Vec<_> = parts.iter().map(|kind| part(*kind, whole.secret(*kind).unwrap())).collect();
    let [public, secret]: [Vec<(u64, &[u8])>; 2] =
        [&public, &secret].map(|parts| parts.iter().map(|(kind, part)| (*kind, &part[..])).collect());
    private(ck::CKK_RSA, &public, &secret)
}

#[test]
fn missing_parts_are_computed() {
    let (der, _) = vectors();
    let whole = pkcs8(ck::CKK_RSA, &der).unwrap();
    assert_eq!(key_type(ck::CKK_RSA).unwrap().to_pkcs8.unwrap()(&whole).unwrap().expose(), der);
    for parts in [&PRIVATE_PARTS[..1], &PRIVATE_PARTS[..3], &PRIVATE_PARTS[..]] {
        for with_e in [false, true] {
            let key = import(&whole, with_e, parts, |_, part| part.insert(0, 0)).unwrap();
            for kind in PRIVATE_PARTS {
                // The factors that were found may stand in another order than the key's own.
                let same = key.secret(kind).unwrap() == whole.secret(kind).unwrap();
                assert!(same || parts.len() == 1);
            }
            assert_eq!(key.attributes, whole.attributes);
            let sha = mechanism(ck::CKM_SHA256_RSA_PKCS, Params::None);
            verify(&sha, &public_half(&whole), b"m", &sign(&sha, &key, b"m").unwrap()).unwrap();
        }
    }
}

#[test]
fn inconsistent_keys_are_refused() {
    let whole = &PAIR.1;
    for kind in PRIVATE_PARTS.into_iter().chain([ck::CKA_MODULUS, ck::CKA_PUBLIC_EXPONENT]) {
        for change in [
            |part: &mut Vec<u8>| *part.last_mut().unwrap() ^= 2,
            |part: &mut Vec<u8>| part.truncate(1),
            |part: &mut Vec<u8>| {
                part.extend([1; 600]);
            },
        ] {
            let changed = import(whole, true, &PRIVATE_PARTS, |at, part| {
                if at == kind {
                    change(part);
                }
            });
            assert_eq!(changed.err().unwrap().kind(), ErrorKind::AttributeValueInvalid, "{kind:#x}");
        }
    }
    let missing = import(whole, true, &[], |_, _| {}).err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::TemplateIncomplete);

    let n = whole.bytes(ck::CKA_MODULUS).unwrap();
    let public = |n: &[u8], e: &[u8]| public(ck::CKK_RSA, &[(ck::CKA_MODULUS, n), (ck::CKA_PUBLIC_EXPONENT, e)]);
    let mut even = n.to_vec();
    even[255] &= 0xfe;
    for (n, e) in [
        (n, &[1][..]),
        (n, &[1, 0, 0]),
        (n, &[0xff; 6]),
        (&even, &[1, 0, 1]),
        (&n[..127], &[1, 0, 1]),
        (&[0xff; 513], &[1, 0, 1]),
    ] {
        assert_eq!(public(n, e).err().unwrap().kind(), ErrorKind::AttributeValueInvalid);
    }
    assert_eq!(public(n, &[]).err().unwrap().kind(), ErrorKind::TemplateIncomplete);
    assert_eq!(public(&[], &[3]).err().unwrap().kind(), ErrorKind::TemplateIncomplete);

    // A small key verifies what was signed long ago, and does nothing else.
    let mut small = n[..128].to_vec();
    small[127] |= 1;
    let small = public(&small, &[3]).unwrap();
    let pkcs = mechanism(ck::CKM_RSA_PKCS, Params::None);
    assert_eq!(verify(&pkcs, &small, b"d", &[1; 128]).unwrap_err().kind(), ErrorKind::SignatureInvalid);
    assert_eq!(apply(&pkcs, Function::Encrypt, &small, b"d").unwrap_err().kind(), ErrorKind::KeySizeRange);
}

#[test]
fn generation_checks_its_template() {
    for (bits, e, expected) in [
        (Some(2050), None, ErrorKind::KeySizeRange),
        (Some(1024), None, ErrorKind::KeySizeRange),
        (Some(u64::MAX), None, ErrorKind::KeySizeRange),
        (None, None, ErrorKind::TemplateIncomplete),
        (Some(2048), Some(&[1][..]), ErrorKind::AttributeValueInvalid),
        (Some(2048), Some(&[4]), ErrorKind::AttributeValueInvalid),
        (Some(2048), Some(&[1; 64]), ErrorKind::AttributeValueInvalid),
    ] {
        let mut template = Attributes::new();
        if let Some(bits) = bits {
            template.set(ck::CKA_MODULUS_BITS, Value::Ulong(bits));
        }
        if let Some(e) = e {
            template.set(ck::CKA_PUBLIC_EXPONENT, bytes(e));
        }
        let refused = generate(ck::CKM_RSA_PKCS_KEY_PAIR_GEN, template).err().unwrap();
        assert_eq!(refused.kind(), expected);
    }
    for (public, private) in [&*PAIR, &pair(2176).unwrap()] {
        for kind in [ck::CKA_MODULUS, ck::CKA_PUBLIC_EXPONENT, ck::CKA_PUBLIC_KEY_INFO] {
            assert_eq!(public.bytes(kind).unwrap(), private.bytes(kind).unwrap());
        }
        let bits = public.attributes.ulong(ck::CKA_MODULUS_BITS).unwrap();
        assert_eq!(public.bytes(ck::CKA_MODULUS).unwrap().len() as u64 * 8, bits);
    }
}

#[test]
fn aes_key_wrap_takes_keys_of_any_length() {
    let (public, private) = &*PAIR;
    let oaep = Oaep { hash: ck::CKM_SHA256, mgf: ck::CKG_MGF1_SHA256, label: b"" };
    for aes_bits in [128, 192, 256] {
        let mechanism = mechanism(ck::CKM_RSA_AES_KEY_WRAP, Params::RsaAesKeyWrap { aes_bits, oaep });
        let fns = row(mechanism.kind).unwrap().wrap.unwrap();
        for len in [1, 16, 33, 2000] {
            let plain = vec![3; len];
            let wrapped = (fns.wrap)(&mechanism, public, &plain).unwrap();
            assert_eq!((fns.unwrap)(&mechanism, private, &wrapped).unwrap().expose(), plain);
            for at in [0, 255, 256, wrapped.len() - 1] {
                let mut changed = wrapped.clone();
                changed[at] ^= 1;
                let refused = (fns.unwrap)(&mechanism, private, &changed).err().unwrap();
                assert_eq!(refused.kind(), ErrorKind::WrappedKeyInvalid);
            }
            for cut in [0, 256, 264, wrapped.len() - 1] {
                let refused = (fns.unwrap)(&mechanism, private, &wrapped[..cut]).err().unwrap();
                assert_eq!(refused.kind(), ErrorKind::WrappedKeyLenRange);
            }
        }
    }
}
