use std::path::PathBuf;
use std::{env, fs};

use ciborium::Value as Cbor;
use coset::{CborSerializable, TaggedCborSerializable};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::super::crypto::Entropy;
use super::*;

const ID: &str = "01234567-89ab-cdef-0123-456789abcdef";
const OBJECT: ObjectId = [7; 16];

fn name(version: u64) -> Name<'static> {
    Name { id: ID, object: &OBJECT, version }
}

fn material(byte: u8) -> Material {
    Material::new(&[byte; MATERIAL]).unwrap()
}

fn context() -> Context<'static> {
    Context::from_pairs([("purpose", "test"), ("user", "anna")]).unwrap()
}

fn open(material: &Material, name: Name<'_>, context: &Context<'_>, blob: &[u8]) -> Result<SecretBytes> {
    material.open(name, context, &Blob::parse(blob)?)
}

/// The one way in which anything is refused.
fn is_refused<T>(result: Result<T>) -> bool {
    result.err().is_some_and(|error| error.to_string() == refused().to_string())
}

proptest! {
    #[test]
    fn opens_what_it_sealed(
        plaintext in proptest::collection::vec(any::<u8>(), 0..=MAX_PLAINTEXT),
        version in 1u64..,
        value in ".{0,1500}",
    ) {
        let context = Context::from_pairs([("name", value.as_str())]).unwrap();
        let blob = material(1).seal(name(version), &context, &plaintext).unwrap();
        let parsed = Blob::parse(&blob).unwrap();
        prop_assert_eq!((parsed.object, parsed.version, parsed.plaintext_len()), (OBJECT, version, plaintext.len()));
        let opened = material(1).open(name(version), &context, &parsed).unwrap();
        prop_assert_eq!(opened.expose(), &plaintext[..]);
    }

    #[test]
    fn hostile_blobs_are_refused(blob in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(is_refused(Blob::parse(&blob)));
    }
}

#[test]
fn every_flipped_bit_and_every_truncation_is_refused() {
    let (material, context) = (material(1), context());
    let blob = material.seal(name(300), &context, b"secret").unwrap();
    assert!(open(&material, name(300), &context, &blob).is_ok());
    for bit in 0..blob.len() * 8 {
        let mut changed = blob.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(is_refused(open(&material, name(300), &context, &changed)), "bit {bit}");
        // Nor does a caller who believes the blob about key and version open it.
        if let Ok(parsed) = Blob::parse(&changed) {
            let believed = Name { id: ID, object: &parsed.object, version: parsed.version };
            assert!(is_refused(material.open(believed, &context, &parsed)), "bit {bit}");
        }
    }
    for len in 0..blob.len() {
        assert!(is_refused(open(&material, name(300), &context, &blob[..len])), "{len} bytes");
    }
    let mut longer = blob.clone();
    longer.push(0);
    assert!(is_refused(Blob::parse(&longer)));
    let encoded = context.encoded();
    for bit in 0..encoded.len() * 8 {
        let mut changed = encoded.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = Context::decode(&changed) {
            assert!(is_refused(open(&material, name(300), &other, &blob)), "bit {bit} of the context");
        }
    }
}

#[test]
fn bound_to_key_version_material_and_context() {
    let (one, context) = (material(1), context());
    let blob = one.seal(name(3), &context, b"secret").unwrap();
    let opens = |material: &Material, name, context: &Context<'_>| {
        let opened = open(material, name, context, &blob);
        assert!(opened.is_ok() || is_refused(open(material, name, context, &blob)));
        opened.is_ok()
    };
    assert!(opens(&one, name(3), &context));
    assert!(!opens(&material(2), name(3), &context), "another material");
    assert!(!opens(&one, name(4), &context), "another version");
    assert!(!opens(&one, Name { object: &[8; 16], ..name(3) }, &context), "another object");
    assert!(!opens(&one, Name { id: "mrk-0", ..name(3) }, &context), "another id");
    assert!(!opens(&one, name(3), &Context::EMPTY), "no context");
    let swapped = Context::from_pairs([("purpose", "anna"), ("user", "test")]).unwrap();
    assert!(!opens(&one, name(3), &swapped), "another context");
}

#[test]
fn two_blobs_have_nothing_in_common() {
    let (one, context) = (material(1), context());
    let [a, b] = [(), ()].map(|()| one.seal(name(1), &context, &[0; 64]).unwrap());
    let (a, b) = (Blob::parse(&a).unwrap(), Blob::parse(&b).unwrap());
    assert!(a.salt != b.salt && a.commitment != b.commitment && a.ciphertext != b.ciphertext);
}

#[test]
fn lengths() {
    let one = material(1);
    for version in [1, 23, 24, 255, 256, 65536, u64::MAX] {
        for len in [0, 7, 8, 32, 239, 240, MAX_PLAINTEXT] {
            let blob = one.seal(name(version), &Context::EMPTY, &vec![5; len]).unwrap();
            assert_eq!(blob.len(), sealed_len(version, len).unwrap());
        }
    }
    assert_eq!(one.seal(name(1), &Context::EMPTY, &[0; 4097]).unwrap_err().kind(), ErrorKind::DataLenRange);
    for len in [0, 16, 31, 33] {
        assert_eq!(Material::new(&vec![0; len]).err().unwrap().kind(), ErrorKind::KeySizeRange);
    }
}

#[test]
fn another_implementation_reads_the_blob() {
    let blob = material(1).seal(name(5), &context(), b"secret").unwrap();
    let message = coset::CoseEncrypt0::from_tagged_slice(&blob).unwrap();
    assert_eq!(message.protected.header.key_id, OBJECT);
    assert_eq!(message.ciphertext.as_ref().unwrap().len(), 6 + 16);
    assert_eq!(message.protected.header.clone().to_vec().unwrap(), message.protected.original_data.clone().unwrap());
    assert_eq!(message.to_tagged_vec().unwrap(), blob);
}

/// What says the same in other bytes is refused before anything is opened.
#[test]
fn only_one_encoding_is_taken() {
    let blob = material(1).seal(name(5), &context(), b"secret").unwrap();
    let Cbor::Tag(16, inner) = ciborium::from_reader(&blob[..]).unwrap() else { panic!("no tag") };
    let parts = inner.into_array().unwrap();
    let header: Cbor = ciborium::from_reader(&parts[0].as_bytes().unwrap()[..]).unwrap();
    let header = header.into_map().unwrap();
    let encode = |value: &Cbor| {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).unwrap();
        bytes
    };
    let message = |protected: Vec<u8>, unprotected: Cbor| {
        let parts = vec![Cbor::Bytes(protected), unprotected, parts[2].clone()];
        encode(&Cbor::Tag(16, Box::new(Cbor::Array(parts))))
    };
    let empty = || Cbor::Map(Vec::new());
    type Pairs = Vec<(Cbor, Cbor)>;
    let with = |change: &dyn Fn(&mut Pairs)| {
        let mut changed = header.clone();
        change(&mut changed);
        message(encode(&Cbor::Map(changed)), empty())
    };
    assert_eq!(with(&|_| ()), blob);
    let refused = [
        ("an unprotected header", message(encode(&Cbor::Map(header.clone())), Cbor::Map(vec![header[0].clone()]))),
        ("no version", with(&|header| drop(header.pop()))),
        ("no commitment", with(&|header| drop(header.remove(4)))),
        ("no key", with(&|header| drop(header.remove(2)))),
        ("an unknown header", with(&|header| header.push(((-65540).into(), 1.into())))),
        ("a header twice", with(&|header| header.push(header[5].clone()))),
        ("another order", with(&|header| header.swap(0, 1))),
        ("another algorithm", with(&|header| header[0].1 = 1.into())),
        ("another content type", with(&|header| header[1].1 = "application/vnd.conclave.sealed.key".into())),
        ("a short key id", with(&|header| header[2].1 = Cbor::Bytes(vec![7; 15]))),
        ("version 0", with(&|header| header[5].1 = 0.into())),
        ("a negative version", with(&|header| header[5].1 = (-1).into())),
        ("no tag", blob[1..].to_vec()),
    ];
    for (what, changed) in refused {
        assert!(is_refused(Blob::parse(&changed)), "{what}");
    }
    // The version in two bytes; its own byte is the last of the protected header.
    let mut protected = encode(&Cbor::Map(header.clone()));
    assert_eq!(protected.pop(), Some(5));
    protected.extend([0x18, 5]);
    assert!(is_refused(Blob::parse(&message(protected, empty()))));
    // Lengths that could be shorter, or have no end.
    for (at, replaced, by) in
        [(0, 1, &[0xd8, 16][..]), (1, 1, &[0x98, 3]), (1, 1, &[0x9f]), (2, 2, &[0x59, 0, blob[3]])]
    {
        let mut changed = blob.clone();
        changed.splice(at..at + replaced, by.iter().copied());
        assert!(is_refused(Blob::parse(&changed)));
    }
}

#[test]
fn reencryption_changes_key_and_context() {
    let (one, two, context) = (material(1), material(2), context());
    let blob = one.seal(name(1), &context, b"secret").unwrap();
    let other = Name { id: "mrk-0", object: &[9; 16], version: 2 };
    let parsed = Blob::parse(&blob).unwrap();
    let again = reencrypt((&one, name(1), &context), (&two, other, &Context::EMPTY), &parsed).unwrap();
    assert_eq!(open(&two, other, &Context::EMPTY, &again).unwrap().expose(), b"secret");
    assert!(is_refused(reencrypt((&one, name(1), &Context::EMPTY), (&two, other, &context), &parsed)));
}

/// Compares with `tests/vectors/envelope`; `CONCLAVE_WRITE_VECTORS=1` writes the file anew.
pub(in crate::hsm::managed) fn compare(name: &str, made: Value) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/envelope").join(name);
    if env::var_os("CONCLAVE_WRITE_VECTORS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let kept: Value = serde_json::from_str(&text).unwrap();
    assert!(kept == made, "{name} is not what the code makes");
}

#[test]
fn vectors() {
    let mut entropy = Entropy::seeded("envelope");
    let contexts: [&[(&str, &str)]; 4] = [
        &[],
        &[("purpose", "test")],
        &[("b", ""), ("aa", "Größe"), ("a", "line\nbreak"), ("ab", "aa")],
        &[("a name that is longer than twenty-three bytes", "1"), ("z", "a value that is longer than that as well")],
    ];
    let vectors = (0..8).map(|n| {
        let material: [u8; 32] = entropy.array().unwrap();
        let object: ObjectId = entropy.array().unwrap();
        let salt: [u8; 32] = entropy.array().unwrap();
        let hex_id = hex::encode(object);
        let id = match n % 2 {
            0 => format!("mrk-{hex_id}"),
            _ => [&hex_id[..8], &hex_id[8..12], &hex_id[12..16], &hex_id[16..20], &hex_id[20..]].join("-"),
        };
        let version = [1, 2, 23, 24, 300, 10_001, 1 << 32, u64::MAX][n];
        let mut plaintext = vec![0; [32, 0, 1, 16, 138, 1024, 2000, 4096][n]];
        entropy.fill(&mut plaintext).unwrap();
        let context = Context::from_pairs(contexts[n % 4].iter().copied()).unwrap();
        let name = Name { id: &id, object: &object, version };
        let keyed = Material::new(&material).unwrap();
        let mut blob = vec![0; sealed_len(version, plaintext.len()).unwrap()];
        keyed.seal_salted(name, &context, &plaintext, &salt, &mut blob).unwrap();
        assert_eq!(open(&keyed, name, &context, &blob).unwrap().expose(), plaintext);
        json!({
            "material": hex::encode(material),
            "key_id": id,
            "object": hex_id,
            "version": version,
            "context": contexts[n % 4],
            "context_encoded": hex::encode(context.encoded()),
            "salt": hex::encode(salt),
            "plaintext": hex::encode(&plaintext),
            "blob": hex::encode(&blob),
        })
    });
    compare("envelope.json", vectors.collect::<Vec<_>>().into());
}
