use std::sync::Arc;

use coset::{CborSerializable, TaggedCborSerializable};
use proptest::prelude::*;

use super::super::super::command::IndexColumn;
use super::super::super::crypto::SecretBytes;
use super::super::seal::{IndexKey, Kind, Sealer, key_id_of, unverified};
use crate::error::{ErrorKind, Result};

const OBJECT: [u8; 16] = [7; 16];

fn sealer(key: u8, domain: u8, region: &str) -> Sealer {
    let key = SecretBytes::copy_of(&[key; 32]).unwrap();
    Sealer::new([domain; 16], Arc::from(region), Arc::new(key)).unwrap()
}

fn refused<T>(result: Result<T>) -> bool {
    result.err().is_some_and(|e| e.kind() == ErrorKind::DeviceError)
}

proptest! {
    #[test]
    fn opens_what_it_sealed(plaintext in proptest::collection::vec(any::<u8>(), 0..700), generation: u64) {
        let s = sealer(1, 2, "local-1");
        let sealed = s.seal(Kind::Key, &OBJECT, generation, &plaintext).unwrap();
        let opened = s.open(Kind::Key, &OBJECT, generation, &sealed).unwrap();
        prop_assert_eq!(opened.expose(), &plaintext[..]);
        prop_assert_eq!(&key_id_of(&sealed).unwrap(), s.key_id());
        let public = s.mac(Kind::Key, &OBJECT, generation, &plaintext).unwrap();
        prop_assert_eq!(s.verify_mac(Kind::Key, &OBJECT, generation, &public).unwrap(), &plaintext[..]);
        prop_assert_eq!(unverified(Kind::Key, &public).unwrap(), &plaintext[..]);
        prop_assert_eq!(&key_id_of(&public).unwrap(), s.key_id());
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let s = sealer(1, 2, "local-1");
    for (mac, record) in [
        (false, s.seal(Kind::Key, &OBJECT, 3, b"secret").unwrap()),
        (true, s.mac(Kind::Key, &OBJECT, 3, b"clear").unwrap()),
    ] {
        let open = |bytes: &[u8]| match mac {
            true => s.verify_mac(Kind::Key, &OBJECT, 3, bytes).map(|_| ()),
            false => s.open(Kind::Key, &OBJECT, 3, bytes).map(|_| ()),
        };
        assert!(open(&record).is_ok());
        for bit in 0..record.len() * 8 {
            let mut changed = record.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(open(&changed)), "bit {bit}");
        }
        for len in 0..record.len() {
            assert!(refused(open(&record[..len])), "{len} bytes");
        }
        let mut longer = record.clone();
        longer.push(0);
        assert!(refused(open(&longer)));
    }
}

#[test]
fn nothing_opens_as_something_else() {
    let s = sealer(1, 2, "local-1");
    for kind in Kind::ALL {
        let sealed = s.seal(*kind, &OBJECT, 3, b"secret").unwrap();
        let public = s.mac(*kind, &OBJECT, 3, b"clear").unwrap();
        for other in Kind::ALL {
            assert_eq!(s.open(*other, &OBJECT, 3, &sealed).is_ok(), kind == other, "{kind:?} as {other:?}");
            assert_eq!(s.verify_mac(*other, &OBJECT, 3, &public).is_ok(), kind == other, "{kind:?} as {other:?}");
            assert_eq!(unverified(*other, &public).is_ok(), kind == other);
        }
        assert!(refused(s.open(*kind, &OBJECT, 3, &public)));
        assert!(refused(s.verify_mac(*kind, &OBJECT, 3, &sealed)));
        assert!(refused(s.open(*kind, &OBJECT, 2, &sealed)), "another generation");
        assert!(refused(s.open(*kind, &[8; 16], 3, &sealed)), "another object");
        assert!(refused(s.verify_mac(*kind, &OBJECT, 4, &public)), "another generation");
        assert!(refused(s.verify_mac(*kind, &[8; 16], 3, &public)), "another object");
        for stranger in [sealer(9, 2, "local-1"), sealer(1, 9, "local-1"), sealer(1, 2, "local-9")] {
            assert!(refused(stranger.open(*kind, &OBJECT, 3, &sealed)));
            assert!(refused(stranger.verify_mac(*kind, &OBJECT, 3, &public)));
        }
    }
}

#[test]
fn the_kind_is_in_the_key_and_not_only_in_the_name() {
    let s = sealer(1, 2, "local-1");
    let sealed = s.seal(Kind::Session, &OBJECT, 3, b"secret").unwrap();
    let name = b"sealed.session";
    let at = sealed.windows(name.len()).position(|w| w == name).unwrap();
    let mut forged = sealed.clone();
    // A name of the same length, so that the encoding stays right.
    forged[at + 7..at + 14].copy_from_slice(b"-policy");
    assert!(refused(s.open(Kind::Policy, &OBJECT, 3, &forged)));
    assert!(refused(s.open(Kind::Session, &OBJECT, 3, &forged)));
}

#[test]
fn another_implementation_reads_the_messages() {
    let s = sealer(1, 2, "local-1");
    let sealed = s.seal(Kind::Key, &OBJECT, 3, b"secret").unwrap();
    let message = coset::CoseEncrypt0::from_tagged_slice(&sealed).unwrap();
    assert_eq!(message.protected.header.key_id, s.key_id());
    assert_eq!(message.ciphertext.as_ref().unwrap().len(), 6 + 16);
    assert_eq!(message.to_tagged_vec().unwrap(), sealed);

    let public = s.mac(Kind::Key, &OBJECT, 3, b"clear").unwrap();
    let message = coset::CoseMac0::from_tagged_slice(&public).unwrap();
    assert_eq!(message.payload.as_deref(), Some(&b"clear"[..]));
    assert_eq!(message.protected.header.clone().to_vec().unwrap(), message.protected.original_data.unwrap());
}

#[test]
fn index_tags_tell_columns_and_keys_apart() {
    let tag = |key: u8, column, value: &[u8]| {
        IndexKey::new(SecretBytes::copy_of(&[key; 32]).unwrap()).tag(column, value).unwrap()
    };
    let label = tag(1, IndexColumn::Label, b"signing");
    assert_eq!(label, tag(1, IndexColumn::Label, b"signing"));
    assert_ne!(label, tag(1, IndexColumn::Id, b"signing"));
    assert_ne!(label, tag(1, IndexColumn::Label, b"signinG"));
    assert_ne!(label, tag(2, IndexColumn::Label, b"signing"));
}
