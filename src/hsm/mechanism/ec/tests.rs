use std::sync::Arc;

use cryptoki_sys as ck;

use super::super::key_type;
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

/// A P-256 key in PKCS#8 and its SubjectPublicKeyInfo, made by OpenSSL.
const P256_PKCS8: &str = "308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420\
    848c810f549a62f637c43c99615918cb6c8e5755edc5dd211fdfb666593a69b8a14403420004256bc0cd79c1aae5\
    1eb472f7044b8e968185f8ae5b029cba1d104bdf684181fd996e3f6f0d4717ebef4c47af93af22446c7be659aee4\
    ae7f0d7a8c04ff75fe52";
const P256_SPKI: &str = "3059301306072a8648ce3d020106082a8648ce3d03010703420004256bc0cd79c1aae51eb472\
    f7044b8e968185f8ae5b029cba1d104bdf684181fd996e3f6f0d4717ebef4c47af93af22446c7be659aee4ae7f0d7a\
    8c04ff75fe52";

/// RFC 8410 §10.3, and a key made by OpenSSL.
const ED25519_PKCS8: &str =
    "302e020100300506032b657004220420d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842";
const X25519_PKCS8: &str =
    "302e020100300506032b656e0422042020f2feac04a3cd96639cd3997e0b88c1b36d8ab0cc3ee3fed8aae330cfcf5c73";

#[test]
fn private_keys_travel_as_pkcs8() {
    for (kind, text, public) in [
        (ck::CKK_EC, P256_PKCS8, P256_SPKI),
        (
            ck::CKK_EC_EDWARDS,
            ED25519_PKCS8,
            "302a300506032b657003210019bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1",
        ),
        (
            ck::CKK_EC_MONTGOMERY,
            X25519_PKCS8,
            "302a300506032b656e032100798a37809adf538e0af5f941adc3111eb7386b597463b40ac05e7d8d66f5f356",
        ),
    ] {
        let der = hex::decode(text).unwrap();
        let key = pkcs8(kind, &der).unwrap();
        assert_eq!(key.bytes(ck::CKA_PUBLIC_KEY_INFO).unwrap(), hex::decode(public).unwrap());
        let row = key_type(kind).unwrap();
        assert_eq!(row.to_pkcs8.unwrap()(&key).unwrap().expose(), der);
        assert_eq!((row.strength)(&key), 128);
        let mut longer = der.clone();
        longer.push(0);
        for other in [&longer[..], &der[1..], &der[..der.len() - 1], &[]] {
            assert_eq!(pkcs8(kind, other).err().unwrap().kind(), ErrorKind::WrappedKeyInvalid);
        }
        for other in [ck::CKK_RSA, ck::CKK_EC, ck::CKK_EC_EDWARDS, ck::CKK_EC_MONTGOMERY] {
            assert!(other == kind || pkcs8(other, &der).is_err());
        }
    }
}

#[test]
fn points_come_in_many_encodings_and_leave_in_one() {
    let private = pkcs8(ck::CKK_EC, &hex::decode(P256_PKCS8).unwrap()).unwrap();
    let stored = private.bytes(ck::CKA_EC_POINT).unwrap();
    assert_eq!((stored.len(), &stored[..3]), (67, &[4, 65, 4][..]));
    let raw = &stored[2..];
    let compressed = [&[2 + (raw[64] & 1)], &raw[1..33]].concat();
    let names: [&[u8]; 4] = [P256, b"\x13\x09secp256r1", b"\x13\x0aprime256v1", b"\x13\x05P-256"];
    for params in names {
        for point in [
            stored.to_vec(),
            raw.to_vec(),
            compressed.clone(),
            [&[4, 33], &compressed[..]].concat(),
            [&[3, 66, 0], raw].concat(),
        ] {
            let key = public(ck::CKK_EC, &[(ck::CKA_EC_PARAMS, params), (ck::CKA_EC_POINT, &point)]).unwrap();
            assert_eq!(key.bytes(ck::CKA_EC_POINT).unwrap(), stored);
            assert_eq!(key.bytes(ck::CKA_EC_PARAMS).unwrap(), P256);
            assert_eq!(key.bytes(ck::CKA_PUBLIC_KEY_INFO).unwrap(), hex::decode(P256_SPKI).unwrap());
        }
    }
    let mut off_curve = raw.to_vec();
    off_curve[64] ^= 1;
    let hybrid = [&[6 + (raw[64] & 1)], &raw[1..]].concat();
    for (point, expected) in [
        (&off_curve[..], ErrorKind::PublicKeyInvalid),
        (&hybrid, ErrorKind::PublicKeyInvalid),
        (&[0], ErrorKind::AttributeValueInvalid),
        (&[4, 1, 0], ErrorKind::AttributeValueInvalid),
        (&raw[..64], ErrorKind::AttributeValueInvalid),
        (&[], ErrorKind::TemplateIncomplete),
    ] {
        let refused = public(ck::CKK_EC, &[(ck::CKA_EC_PARAMS, P256), (ck::CKA_EC_POINT, point)]).err().unwrap();
        assert_eq!(refused.kind(), expected);
    }
    for (params, expected) in [
        (&[6, 3, 0x2b, 0x65, 0x70][..], ErrorKind::CurveNotSupported),
        (&[6, 3, 0x2b, 0x65, 0x71], ErrorKind::CurveNotSupported),
        (b"\x13\x09secp256r2", ErrorKind::CurveNotSupported),
        (&[5, 0], ErrorKind::DomainParamsInvalid),
        (&[0x30, 0], ErrorKind::DomainParamsInvalid),
        (&[], ErrorKind::DomainParamsInvalid),
        (&P256[..9], ErrorKind::DomainParamsInvalid),
    ] {
        let refused = public(ck::CKK_EC, &[(ck::CKA_EC_PARAMS, params), (ck::CKA_EC_POINT, raw)]).err().unwrap();
        assert_eq!(refused.kind(), expected);
        let template: Attributes = [(ck::CKA_EC_PARAMS, bytes(params))].into_iter().collect();
        assert_eq!(generate(ck::CKM_EC_KEY_PAIR_GEN, template).err().unwrap().kind(), expected);
    }
}

#[test]
fn scalars_are_checked() {
    let order = hex::decode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").unwrap();
    let mut last = order.clone();
    last[31] -= 1;
    let import = |scalar: &[u8]| private(ck::CKK_EC, &[(ck::CKA_EC_PARAMS, P256)], &[(ck::CKA_VALUE, scalar)]);
    for scalar in [&last[..], &[1], &[0; 40].into_iter().chain([5]).collect::<Vec<_>>()] {
        let key = import(scalar).unwrap();
        assert_eq!(key.secret(ck::CKA_VALUE).unwrap().len(), 32);
        let ecdsa = mechanism(ck::CKM_ECDSA, Params::None);
        verify(&ecdsa, &public_half(&key), b"digest", &sign(&ecdsa, &key, b"digest").unwrap()).unwrap();
    }
    for scalar in [&order[..], &[0xff; 32], &[1; 33], &[0; 32], &[]] {
        assert_eq!(import(scalar).err().unwrap().kind(), ErrorKind::AttributeValueInvalid);
    }
    let mine = pkcs8(ck::CKK_EC, &hex::decode(P256_PKCS8).unwrap()).unwrap();
    let other = import(&[1]).unwrap();
    let point = other.bytes(ck::CKA_EC_POINT).unwrap();
    let value = mine.secret(ck::CKA_VALUE).unwrap();
    let parts: [(_, &[u8]); 2] = [(ck::CKA_EC_PARAMS, P256), (ck::CKA_EC_POINT, point)];
    let mixed = private(ck::CKK_EC, &parts, &[(ck::CKA_VALUE, value)]);
    assert_eq!(mixed.err().unwrap().kind(), ErrorKind::TemplateInconsistent);
}

#[test]
fn curve_25519_keys_are_checked() {
    for (kind, oid, generator) in [
        (ck::CKK_EC_EDWARDS, 0x70, ck::CKM_EC_EDWARDS_KEY_PAIR_GEN),
        (ck::CKK_EC_MONTGOMERY, 0x6e, ck::CKM_EC_MONTGOMERY_KEY_PAIR_GEN),
    ] {
        let curve: (u64, &[u8]) = (ck::CKA_EC_PARAMS, &[6, 3, 0x2b, 0x65, oid]);
        let template = |params: &[u8]| [(ck::CKA_EC_PARAMS, bytes(params))].into_iter().collect();
        let names: [&[u8]; 2] = match kind {
            ck::CKK_EC_EDWARDS => [b"\x13\x0cedwards25519", b"\x06\x09\x2b\x06\x01\x04\x01\xda\x47\x0f\x01"],
            _ => [b"\x13\x0acurve25519", b"\x13\x0bcurve25519"],
        };
        for name in names {
            let (named, _) = generate(generator, template(name)).unwrap();
            assert_eq!(named.bytes(ck::CKA_EC_PARAMS).unwrap(), curve.1);
        }
        let (generated, private_half) = generate(generator, template(curve.1)).unwrap();
        let point = generated.bytes(ck::CKA_EC_POINT).unwrap();
        assert_eq!(point.len(), 32);
        let octets = [&[4, 32], point].concat();
        let imported = public(kind, &[curve, (ck::CKA_EC_POINT, &octets)]).unwrap();
        assert_eq!(imported.attributes, generated.attributes);
        for point in [[0; 32], [1; 32].map(|_| 0xff)] {
            let refused = public(kind, &[curve, (ck::CKA_EC_POINT, &point)]);
            // X25519 takes keys that are not canonical (RFC 7748 §5).
            let allowed = kind == ck::CKK_EC_MONTGOMERY && point[0] == 0xff;
            assert!(allowed || refused.err().unwrap().kind() == ErrorKind::PublicKeyInvalid);
        }
        let other_point: [(u64, &[u8]); 2] = [curve, (ck::CKA_EC_POINT, &[9; 32])];
        let value: (u64, &[u8]) = (ck::CKA_VALUE, private_half.secret(ck::CKA_VALUE).unwrap());
        assert_eq!(private(kind, &other_point, &[value]).err().unwrap().kind(), ErrorKind::TemplateInconsistent);
        let short = private(kind, &[curve], &[(ck::CKA_VALUE, &[1; 31])]);
        assert_eq!(short.err().unwrap().kind(), ErrorKind::AttributeValueInvalid);
        for wrong in [P256, &[6, 3, 0x2b, 0x65, 0x71]] {
            assert_eq!(generate(generator, template(wrong)).err().unwrap().kind(), ErrorKind::CurveNotSupported);
        }
    }
}

#[test]
fn both_sides_agree() {
    for params in [P256, P521] {
        let ((public_a, private_a), (public_b, private_b)) = (pair(params), pair(params));
        for (kdf, shared_data) in
            [(ck::CKD_NULL, &b""[..]), (ck::CKD_SHA256_KDF, b"info"), (ck::CKD_SHA3_512_KDF_SP800, b"")]
        {
            let agree = |mine: &Key, theirs: &Key, len| {
                let public_data = theirs.bytes(ck::CKA_EC_POINT).unwrap();
                let params = Params::Ecdh1 { kdf, shared_data, public_data };
                derive(&mechanism(ck::CKM_ECDH1_COFACTOR_DERIVE, params), mine, len)
            };
            let secret = agree(&private_a, &public_b, Some(24)).unwrap();
            assert_eq!(secret, agree(&private_b, &public_a, Some(24)).unwrap());
            let whole = agree(&private_a, &public_b, None).unwrap();
            if kdf == ck::CKD_NULL {
                assert_eq!(secret, whole[whole.len() - 24..]);
                let refused = agree(&private_a, &public_b, Some(67)).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::TemplateInconsistent);
            } else {
                assert_eq!(secret, whole[..24]);
                assert_eq!(agree(&private_a, &public_b, Some(200)).unwrap()[..24], secret);
            }
        }
    }
    let (public_a, private_a) = pair(P256);
    let (other, _) = pair(P384);
    let point = |key: &Key| key.bytes(ck::CKA_EC_POINT).unwrap().to_vec();
    for (kdf, shared_data, public_data, expected) in [
        (ck::CKD_NULL, &b"x"[..], point(&public_a), ErrorKind::MechanismParamInvalid),
        (ck::CKD_SHA1_KDF_ASN1, b"", point(&public_a), ErrorKind::MechanismParamInvalid),
        (ck::CKD_NULL, b"", point(&other), ErrorKind::PublicKeyInvalid),
        (ck::CKD_NULL, b"", vec![0], ErrorKind::PublicKeyInvalid),
        (ck::CKD_NULL, b"", vec![], ErrorKind::PublicKeyInvalid),
    ] {
        let params = Params::Ecdh1 { kdf, shared_data, public_data: &public_data };
        let refused = derive(&mechanism(ck::CKM_ECDH1_DERIVE, params), &private_a, None).unwrap_err();
        assert_eq!(refused.kind(), expected);
    }
}
