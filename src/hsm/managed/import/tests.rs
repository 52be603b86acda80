use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::super::super::crypto::Entropy;
use super::super::attributes::Origin;
use super::super::creation::{Creation, Request};
use super::super::envelope::tests::compare;
use super::super::lifecycle::tests::{NOW, request};
use super::*;
use crate::error::Error;

const OBJECT: ObjectId = [7; 16];

fn sealer(key: u8) -> Sealer {
    Sealer::new([1; 16], Arc::from("local-1"), Arc::new(SecretBytes::copy_of(&[key; 32]).unwrap())).unwrap()
}

fn index() -> IndexKey {
    IndexKey::new(SecretBytes::copy_of(&[5; 32]).unwrap())
}

fn spec(name: &str) -> &'static Spec {
    Spec::named(name).unwrap()
}

fn is(error: Option<Error>, kind: ErrorKind) -> bool {
    error.is_some_and(|error| error.kind() == kind)
}

fn begin(algorithm: Algorithm, bits: &str) -> (Parameters, Token) {
    let parameters = parameters(&sealer(1), &OBJECT, algorithm, spec(bits), NOW).unwrap();
    let token = Token::open(&sealer(1), &OBJECT, &parameters.token, NOW).unwrap();
    (parameters, token)
}

/// Wraps with the mechanism itself, under the private key's public half.
fn wrapped(token: &Token, material: &[u8]) -> Vec<u8> {
    let mut attributes = token.wrapping.attributes.clone();
    attributes.set(ck::CKA_CLASS, crate::hsm::value::Value::Ulong(ck::CKO_PUBLIC_KEY));
    let public = Arc::new(Key::new(attributes, crate::hsm::key::Secrets::new()));
    let mechanism = token.algorithm.mechanism();
    (mechanism::row(mechanism.kind).unwrap().wrap.unwrap().wrap)(&mechanism, &public, material).unwrap()
}

#[test]
fn a_token_is_for_one_key_and_for_a_day() {
    let (Parameters { token, expires, .. }, _) = begin(Algorithm::OaepSha256, "RSA_2048");
    assert_eq!(expires, NOW + VALIDITY);
    let open = |sealer: &Sealer, object: &ObjectId, token: &[u8], now| Token::open(sealer, object, token, now).err();
    assert!(open(&sealer(1), &OBJECT, &token, expires - 1).is_none());
    assert!(is(open(&sealer(1), &OBJECT, &token, expires), ErrorKind::KmsExpiredImportToken));
    assert!(is(open(&sealer(1), &[8; 16], &token, NOW), ErrorKind::KmsInvalidImportToken), "another key's");
    assert!(is(open(&sealer(2), &OBJECT, &token, NOW), ErrorKind::KmsInvalidImportToken), "another domain key's");
    for at in (0..token.len()).step_by(7) {
        let mut changed = token.clone();
        changed[at] ^= 1;
        assert!(is(open(&sealer(1), &OBJECT, &changed, NOW), ErrorKind::KmsInvalidImportToken), "byte {at}");
    }
    // A key's record is no token, even of the same key.
    let record = sealer(1).seal(Kind::Key, &OBJECT, GENERATION, b"x").unwrap();
    assert!(is(open(&sealer(1), &OBJECT, &record, NOW), ErrorKind::KmsInvalidImportToken));
    assert!(is(open(&sealer(1), &OBJECT, b"", NOW), ErrorKind::KmsInvalidImportToken));
    let aes = parameters(&sealer(1), &OBJECT, Algorithm::OaepSha1, spec("AES_256"), NOW);
    assert_eq!(aes.err().unwrap().kind(), ErrorKind::ArgumentsBad);
}

#[test]
fn material_fits_the_spec() {
    let (_, token) = begin(Algorithm::AesKeyWrapSha256, "RSA_2048");
    let import = |material: &[u8], name| import(&token, &wrapped(&token, material), spec(name), &OBJECT, &index());
    let imported = import(&[3; 32], "AES_256").unwrap();
    assert_eq!(imported.key.secret(ck::CKA_VALUE).unwrap(), [3; 32]);
    assert_eq!((imported.key.class(), imported.key.key_type()), (ck::CKO_SECRET_KEY, ck::CKK_AES));
    let p256 = material::generate_pair(spec("ECC_NIST_P256")).unwrap();
    let imported = import(p256.private.expose(), "ECC_NIST_P256").unwrap();
    assert_eq!(imported.key.bytes(ck::CKA_PUBLIC_KEY_INFO).unwrap(), p256.public);
    for (material, name) in [
        (&[3; 16][..], "AES_256"),
        (&[3; 33], "AES_256"),
        (&[3; 31], "HMAC_256"),
        (&[3; 33], "HMAC_256"),
        (&[3; 32], "ECC_NIST_P256"),
        (p256.private.expose(), "ECC_NIST_P384"),
        (p256.private.expose(), "ECC_SECG_P256K1"),
        (p256.private.expose(), "RSA_2048"),
        (p256.private.expose(), "AES_256"),
    ] {
        assert!(is(import(material, name).err(), ErrorKind::KmsIncorrectKeyMaterial), "{name}");
    }
}

#[test]
fn what_does_not_unwrap_is_refused_in_one_way() {
    for algorithm in [Algorithm::OaepSha1, Algorithm::AesKeyWrapSha1] {
        let (_, token) = begin(algorithm, "RSA_2048");
        let import = |wrapped: &[u8]| import(&token, wrapped, spec("AES_256"), &OBJECT, &index()).err();
        let good = wrapped(&token, &[3; 32]);
        assert!(import(&good).is_none());
        for len in [0, 1, 255, 256, 257, good.len() - 1] {
            if len < good.len() {
                assert!(is(import(&good[..len]), ErrorKind::KmsInvalidCiphertext), "{len} bytes");
            }
        }
        for at in (0..good.len()).step_by(37) {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert!(is(import(&changed), ErrorKind::KmsInvalidCiphertext), "byte {at}");
        }
        let (_, other) = begin(algorithm, "RSA_2048");
        assert!(is(import(&wrapped(&other, &[3; 32])), ErrorKind::KmsInvalidCiphertext), "another wrapping key");
    }
}

#[test]
fn a_commitment_tells_the_same_material_from_another() {
    let (_, token) = begin(Algorithm::AesKeyWrapSha256, "RSA_2048");
    let commitment = |material: &[u8], name, object: &ObjectId| {
        import(&token, &wrapped(&token, material), spec(name), object, &index()).unwrap().commitment
    };
    let first = commitment(&[3; 32], "AES_256", &OBJECT);
    assert_eq!(commitment(&[3; 32], "AES_256", &OBJECT), first);
    assert_ne!(commitment(&[4; 32], "AES_256", &OBJECT), first);
    // Two keys with the same material cannot be told from two with different ones.
    assert_ne!(commitment(&[3; 32], "AES_256", &[8; 16]), first);
    let [one, other] = [(), ()].map(|()| material::generate_pair(spec("ECC_ED25519")).unwrap());
    let first = commitment(one.private.expose(), "ECC_ED25519", &OBJECT);
    assert_eq!(commitment(one.private.expose(), "ECC_ED25519", &OBJECT), first);
    assert_ne!(commitment(other.private.expose(), "ECC_ED25519", &OBJECT), first);
}

#[test]
fn commitment_vectors() {
    let mut entropy = Entropy::seeded("material commitment");
    let vectors = [16, 32, 138, 1300].map(|len| {
        let key: [u8; 32] = entropy.array().unwrap();
        let object: ObjectId = entropy.array().unwrap();
        let mut material = vec![0; len];
        entropy.fill(&mut material).unwrap();
        let index = IndexKey::new(SecretBytes::copy_of(&key).unwrap());
        json!({
            "index_key": hex::encode(key),
            "object": hex::encode(object),
            "material": hex::encode(&material),
            "commitment": hex::encode(index.material_commitment(&object, &material).unwrap()),
        })
    });
    compare("material-commitment.json", vectors.to_vec().into());
}

/// A key whose material was deleted takes the same back, and no other.
#[test]
fn what_is_imported_again_is_the_same() {
    let (_, token) = begin(Algorithm::OaepSha256, "RSA_2048");
    let commitment = |byte: u8| {
        import(&token, &wrapped(&token, &[byte; 32]), spec("AES_256"), &OBJECT, &index()).unwrap().commitment
    };
    let request = Request { origin: Origin::External, ..request() };
    let key = Creation::new(&request, [6; 16], NOW).unwrap().managed;
    let held = key.import_material(&commitment(3), None, NOW).unwrap();
    let deleted = held.delete_material(NOW).unwrap();
    assert!(deleted.import_material(&commitment(3), None, NOW).is_ok());
    let refused = deleted.import_material(&commitment(4), None, NOW).err().map(Error::from);
    assert!(is(refused, ErrorKind::KmsIncorrectKeyMaterial));
}

/// Runs `openssl` in `directory`.
fn openssl(directory: &Path, arguments: &str) {
    let done = Command::new("openssl").current_dir(directory).args(arguments.split_whitespace()).output().unwrap();
    assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Material wrapped in `directory` by the `openssl` command as the README tells users to.
fn wrapped_by_openssl(directory: &Path, parameters: &Parameters, algorithm: Algorithm) -> Vec<u8> {
    fs::write(directory.join("wrapping.der"), &parameters.public_key).unwrap();
    let hash = if algorithm.name().ends_with("SHA_1") { "sha1" } else { "sha256" };
    let encrypt = format!(
        "pkeyutl -encrypt -pubin -inkey wrapping.der -keyform DER -pkeyopt rsa_padding_mode:oaep \
         -pkeyopt rsa_oaep_md:{hash} -pkeyopt rsa_mgf1_md:{hash}"
    );
    if algorithm.name().starts_with("RSAES") {
        openssl(directory, &format!("{encrypt} -in material -out wrapped"));
        return fs::read(directory.join("wrapped")).unwrap();
    }
    openssl(directory, "rand -out aes 32");
    let aes = hex::encode(fs::read(directory.join("aes")).unwrap());
    openssl(directory, &format!("enc -id-aes256-wrap-pad -K {aes} -iv A65959A6 -in material -out tail"));
    openssl(directory, &format!("{encrypt} -in aes -out head"));
    ["head", "tail"].map(|part| fs::read(directory.join(part)).unwrap()).concat()
}

#[test]
fn openssl_wraps_what_is_imported() {
    if Command::new("openssl").arg("version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "openssl is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let genpkey = |arguments: &str| format!("genpkey -out key.pem -algorithm {arguments}");
    let ec = |curve: &str| genpkey(&format!("EC -pkeyopt ec_paramgen_curve:{curve} -pkeyopt ec_param_enc:named_curve"));
    for algorithm in Algorithm::ALL {
        let (parameters, token) = begin(*algorithm, "RSA_2048");
        let mut materials = vec![
            ("AES_256", "rand -out material 32".to_owned()),
            ("HMAC_384", "rand -out material 48".to_owned()),
            ("ECC_NIST_P256", ec("P-256")),
            ("ECC_ED25519", genpkey("ED25519")),
        ];
        // More than OAEP takes under such a key.
        if !algorithm.name().starts_with("RSAES") {
            materials
                .extend([("ECC_NIST_P521", ec("P-521")), ("RSA_2048", genpkey("RSA -pkeyopt rsa_keygen_bits:2048"))]);
        }
        for (name, make) in materials {
            openssl(directory, &make);
            if make.starts_with("genpkey") {
                openssl(directory, "pkcs8 -topk8 -nocrypt -in key.pem -outform DER -out material");
            }
            let wrapped = wrapped_by_openssl(directory, &parameters, *algorithm);
            let imported = import(&token, &wrapped, spec(name), &OBJECT, &index());
            let imported = imported.unwrap_or_else(|e| panic!("{name} with {}: {e:?}", algorithm.name()));
            let material = fs::read(directory.join("material")).unwrap();
            match imported.key.class() {
                ck::CKO_SECRET_KEY => assert_eq!(imported.key.secret(ck::CKA_VALUE).unwrap(), material),
                _ => {
                    openssl(directory, "pkey -in key.pem -pubout -outform DER -out public");
                    let public = fs::read(directory.join("public")).unwrap();
                    assert_eq!(imported.key.bytes(ck::CKA_PUBLIC_KEY_INFO).unwrap(), public, "{name}");
                }
            }
        }
    }
}
