//! The known-answer vectors of `tests/vectors/domain`: made here from fixed inputs, compared with
//! the files, and opened by an independent peer in `python-tests/test_vectors.py`.
//!
//! `CONCLAVE_WRITE_VECTORS=1` writes the files anew; that is a change of format.

use std::path::PathBuf;
use std::sync::Arc;
use std::{env, fs};

use serde_json::{Value, json};

use super::super::super::command::{IndexColumn, PinRecord, Role};
use super::super::super::crypto::{Entropy, SecretBytes};
use super::super::keys::PrivateKey;
use super::super::seal::{IndexKey, Kind, Sealer};
use super::super::{Circumstances, Opened, pin};
use super::CHEAP;

pub(super) fn compare(name: &str, made: Value) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/domain").join(name);
    if env::var_os("CONCLAVE_WRITE_VECTORS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let kept: Value = serde_json::from_str(&text).unwrap();
    assert!(kept == made, "{name} is not what the code makes");
}

pub(super) fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

struct Inputs {
    domain: [u8; 16],
    region: String,
    key: [u8; 32],
    object: [u8; 16],
    generation: u64,
}

impl Inputs {
    fn draw(entropy: &mut Entropy, n: usize) -> Self {
        Self {
            domain: entropy.array().unwrap(),
            region: ["local-00112233445566aa", "eu-north", ""][n % 3].to_owned(),
            key: entropy.array().unwrap(),
            object: entropy.array().unwrap(),
            generation: [1, 23, 24, 70_000, u64::MAX][n % 5],
        }
    }

    fn sealer(&self) -> Sealer {
        let key = SecretBytes::copy_of(&self.key).unwrap();
        Sealer::new(self.domain, Arc::from(&*self.region), Arc::new(key)).unwrap()
    }

    fn json(&self, kind: Kind) -> Value {
        json!({
            "kind": kind.name(),
            "domain": hex(&self.domain),
            "region": self.region,
            "domain_key": hex(&self.key),
            "key_id": hex(self.sealer().key_id()),
            "object": hex(&self.object),
            "generation": self.generation,
        })
    }
}

fn with(mut json: Value, more: &[(&str, String)]) -> Value {
    for (key, value) in more {
        json[*key] = Value::String(value.clone());
    }
    json
}

#[test]
fn sealing_and_macs() {
    let mut entropy = Entropy::seeded("sealing");
    let (mut sealed, mut macs) = (Vec::new(), Vec::new());
    for (n, kind) in Kind::ALL.iter().enumerate() {
        let inputs = Inputs::draw(&mut entropy, n);
        let salt: [u8; 32] = entropy.array().unwrap();
        let mut text = vec![0; n * n * 5];
        entropy.fill(&mut text).unwrap();
        let Inputs { object, generation, .. } = &inputs;
        let record = inputs.sealer().seal_salted(*kind, object, *generation, &text, salt).unwrap();
        assert_eq!(inputs.sealer().open(*kind, object, *generation, &record).unwrap().expose(), text);
        let more = [("salt", hex(&salt)), ("plaintext", hex(&text)), ("sealed", hex(&record))];
        sealed.push(with(inputs.json(*kind), &more));
        let record = inputs.sealer().mac(*kind, object, *generation, &text).unwrap();
        macs.push(with(inputs.json(*kind), &[("clear", hex(&text)), ("record", hex(&record))]));
    }
    compare("sealing.json", sealed.into());
    compare("mac.json", macs.into());
}

#[test]
fn index_tags() {
    let mut entropy = Entropy::seeded("index");
    let columns = [("label", IndexColumn::Label), ("id", IndexColumn::Id)];
    let vectors = (0..8).map(|n: usize| {
        let key: [u8; 32] = entropy.array().unwrap();
        let mut value = vec![0; n * 9];
        entropy.fill(&mut value).unwrap();
        let (name, column) = columns[n % 2];
        let index = IndexKey::new(SecretBytes::copy_of(&key).unwrap());
        json!({
            "index_key": hex(&key),
            "key_id": hex(&index.id().unwrap()),
            "column": name,
            "value": hex(&value),
            "tag": hex(&index.tag(column, &value).unwrap()),
        })
    });
    compare("index-tag.json", vectors.collect::<Vec<_>>().into());
}

/// A record with what it takes to open it and what that gives.
fn pin_vector(record: &PinRecord, pin: &[u8], agreement: &PrivateKey) -> Value {
    let (role, name) = match &record.role {
        Role::So => (0, None),
        Role::User => (1, None),
        Role::Named(name) => (2, Some(name)),
    };
    json!({
        "role": role,
        "name": name,
        "generation": record.generation,
        "pin": hex(pin),
        "agreement_private": hex(agreement.scalar()),
        "record": hex(&record.sealed),
    })
}

/// A token with its hash and each PIN that opens it.
#[test]
fn tokens_and_pin_records() {
    let mut circumstances = Circumstances { entropy: Entropy::seeded("tokens"), now: 1_700_000_000 };
    let (first, token1, so_record) =
        Opened::found("demo", "00112233445566aa", b"so-pin-1", CHEAP, &mut circumstances).unwrap();
    let user_pin = "Größe 12".as_bytes();
    let (second, change2) = first.change_pin(&Role::User, user_pin, CHEAP, &mut circumstances).unwrap();
    let named = Role::Named("anna".to_owned());
    let (third, change3) = second.change_pin(&named, b"", CHEAP, &mut circumstances).unwrap();
    let so = pin_of(&first, &so_record, b"so-pin-1");
    let user = pin_of(&second, &change2.pins[0], user_pin);
    let anna = pin_of(&third, &change3.pins[0], b"");
    let tokens = [
        (&token1, &first, vec![so.clone()]),
        (&change2.domain, &second, vec![so.clone(), user.clone()]),
        (&change3.domain, &third, vec![so, user, anna]),
    ];
    let vectors = tokens.map(|(token, opened, pins)| {
        let state = opened.state();
        json!({
            "token": hex(&token.bytes),
            "version": token.version,
            "domain": hex(&state.domain),
            "serial": state.serial,
            "hash": hex(opened.public().hash()),
            "secrets": hex(opened.encoded_secrets_for_tests().expose()),
            "pins": pins,
        })
    });
    compare("domain-token.json", vectors.to_vec().into());
}

fn pin_of(opened: &Opened, record: &PinRecord, pin: &[u8]) -> Value {
    pin_vector(record, pin, &pin::open(opened.public(), record, pin).unwrap())
}
