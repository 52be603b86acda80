//! A token whose file is of schema 1: an AES key, an EC key pair and a data object, which the module
//! of version 0.1.0 made with the PIN `user-pin-1`.

use std::fs;
use std::path::Path;

use conclave::hsm::{Columns, Record, Role};
use conclave::store::{Directory, Filter, Store};

use super::{by_label, change, domain_key, entry, record};

const OBJECTS: u64 = 4;

pub(super) fn put_token(data: &Path) {
    let token = data.join("tokens/0");
    fs::create_dir_all(&token).unwrap();
    fs::write(token.join("token.db"), include_bytes!("schema-1.db")).unwrap();
}

#[test]
fn it_is_migrated_with_what_it_holds() {
    let data = tempfile::tempdir().unwrap();
    put_token(data.path());
    let store = Directory::open(data.path()).unwrap().store(0).unwrap();
    let meta = store.meta().unwrap();
    assert_eq!((meta.label.as_str(), meta.domain.version, meta.pins.len()), ("schema-1", 2, 2));
    assert_eq!(store.count_by_domain_key().unwrap(), [(None, OBJECTS)]);
    let found = store.sealed_under_other(&domain_key(1), 0, 10).unwrap();
    assert_eq!(found, store.find(&Filter::default(), 0, 10).unwrap());
    // A record is found by its key once it is written again, with the id that is in it.
    let aes = store.find(&by_label("aes"), 0, 10).unwrap()[0].object;
    let old = store.get(&aes).unwrap().unwrap();
    let key = old.sealed.domain_key().unwrap();
    let label = Some(b"renamed".to_vec());
    let new = Record { generation: 2, columns: Columns { label, ..old.columns.clone() }, ..old };
    store.replace(&new).unwrap();
    assert_eq!(store.get(&aes).unwrap(), Some(new));
    assert_eq!(store.count_by_domain_key().unwrap(), [(None, OBJECTS - 1), (Some(key), 1)]);
    let left = store.sealed_under_other(&key, 0, 10).unwrap();
    assert_eq!(left, found[1..]);
    // It can be founded, too.
    store.commit_domain(&change(3, 1, vec![])).unwrap();
    assert_eq!(store.origin().unwrap(), Some(meta.domain));
    assert_eq!(store.log(2, 3).unwrap(), [entry(3)]);
    assert!(store.meta().unwrap().pin(&Role::User).is_some());
    store.insert(&[record(1, "new")]).unwrap();
    // None of its objects is a managed key.
    assert_eq!(store.count_managed().unwrap(), 0);
    let mut managed = record(2, "managed");
    managed.columns.managed = true;
    store.insert(&[managed]).unwrap();
    assert_eq!(store.count_managed().unwrap(), 1);
}
