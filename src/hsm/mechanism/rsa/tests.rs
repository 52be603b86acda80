use std::sync::{Arc, LazyLock};

use cryptoki_sys as ck;

use super::super::testing::*;
use crate::error::ErrorKind;
use crate::hsm::command::Function;
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
