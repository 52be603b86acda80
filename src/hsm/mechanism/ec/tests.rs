use std::sync::Arc;

use cryptoki_sys as ck;

use super::super::testing::*;
use crate::error::ErrorKind;
use crate::hsm::key::Key;
use crate::hsm::params::Params;
use crate::hsm::value::Attributes;

const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[6, 5, 0x2b, 0x81, 4, 0, 0x22];
const P521: &[u8] = &[6, 5, 0x2b, 0x81, 4, 0, 0x23];
const SECP256K1: &[u8] = &[6, 5, 0x2b, 0x81, 4, 0, 0x0a];

fn pair(params: &[u8]) -> (Arc<Key>, Arc<Key>) {
    let template: Attributes = [(ck::CKA_EC_PARAMS, bytes(params))].into_iter().collect();
    generate(ck::CKM_EC_KEY_PAIR_GEN, template).unwrap()
}

#[test]
fn pairs_sign_and_verify() {
    for params in [P256, P384, P521, SECP256K1] {
        let (public, private) = pair(params);
        for kind in [ck::CKM_ECDSA, ck::CKM_ECDSA_SHA1, ck::CKM_ECDSA_SHA512, ck::CKM_ECDSA_SHA3_256] {
            let mechanism = mechanism(kind, Params::None);
            let signature = sign_parts(&mechanism, &private, b"message").unwrap();
            verify(&mechanism, &public, b"message", &signature).unwrap();
            let refused = verify(&mechanism, &public, b"massage", &signature).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::SignatureInvalid);
            let refused = verify(&mechanism, &public, b"message", &signature[1..]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::SignatureLenRange);
        }
    }
}
