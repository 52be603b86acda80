//! The known-answer vectors of `tests/vectors/audit`: made here from fixed inputs, compared with the
//! files, and made and verified again by an independent peer in `python-tests/test_audit_vectors.py`.
//!
//! `CONCLAVE_WRITE_VECTORS=1` writes the files anew; that is a change of format.

use std::path::PathBuf;
use std::{env, fs};

use serde_json::{Value, json};

use super::super::line;
use super::{DOMAIN, Stored, World, encoded_context, sample};

fn compare(name: &str, made: &Value) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/audit").join(name);
    if env::var_os("CONCLAVE_WRITE_VECTORS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, serde_json::to_string_pretty(made).unwrap() + "\n").unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let kept: Value = serde_json::from_str(&text).unwrap();
    assert!(kept == *made, "{name} is not what the code makes");
}

/// Three chains side by side, one of which is never closed, and a fourth for a head to keep.
fn log() -> (World, usize) {
    let mut world = World::new("audit vectors");
    let context = encoded_context(&[("b", "ä \"quoted\""), ("aa", ""), ("purpose", "vectors")]);
    let chains = [world.open(), world.open()];
    let step = |world: &mut World, chain: usize, n: usize| {
        world.now += 251;
        world.event(chain, &sample(n, &context));
    };
    for n in 0..12 {
        step(&mut world, chains[n % 2], n);
        if n % 5 == 4 {
            world.head(chains[n % 2], false);
        }
    }
    world.head(chains[0], true);
    let third = world.open();
    for n in 12..60 {
        step(&mut world, [chains[1], third][n % 2], n);
    }
    world.head(third, true);
    world.now = 1_900_000_000_999;
    let kept = world.take_head();
    (world, kept)
}

fn described(rows: &[Stored]) -> Value {
    rows.iter()
        .map(|(instance, row)| {
            let line: Value = serde_json::from_str(&line(instance, row).unwrap()).unwrap();
            json!({ "instance": hex::encode(instance), "bytes": hex::encode(row), "line": line })
        })
        .collect()
}

#[test]
fn a_log_and_what_is_done_to_it() {
    let (world, place) = log();
    let kept = world.rows[place].1.clone();
    let (found, report) = world.verify(&world.rows, &[&kept]);
    assert_eq!(found, []);
    assert_eq!((report.open.len(), report.open[0].unsigned), (1, 25));
    let vector = json!({
        "domain": hex::encode(DOMAIN),
        "signing_private": hex::encode(world.key.scalar()),
        "signing": hex::encode(world.public().spki()),
        "kept": hex::encode(&kept),
        "open": report.open.iter().map(|open| json!({
            "instance": hex::encode(open.instance), "host": open.host, "seq": open.seq, "at": open.at,
            "unsigned": open.unsigned,
        })).collect::<Value>(),
        "rows": described(&world.rows),
    });
    compare("log.json", &vector);

    let rows = &world.rows;
    let mut cases = Vec::new();
    let mut case = |what: &str, changed: Vec<Stored>| {
        let (found, _) = world.verify(&changed, &[&kept]);
        assert!(!found.is_empty(), "{what}");
        // A row of the log is told by its number there.
        let told = changed.iter().map(|row| match rows.iter().position(|original| original == row) {
            Some(number) => json!(number),
            None => json!({ "instance": hex::encode(row.0), "bytes": hex::encode(&row.1) }),
        });
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        cases.push(json!({ "what": what, "rows": told.collect::<Value>(), "found": found }));
    };
    let without = |n: usize| [&rows[..n], &rows[n + 1..]].concat();
    let with = |n: usize, row: Stored| [&rows[..n], &[row], &rows[n + 1..]].concat();
    let flipped = |n: usize, at: usize| {
        let mut row = rows[n].clone();
        row.1[at] ^= 1;
        with(n, row)
    };
    case("the anchor removed", without(0));
    case("a record removed", without(7));
    case("a head removed", without(10));
    case("the newest chain's anchor removed", without(rows.len() - 3));
    case("the first record's principal changed", flipped(4, 12));
    case("a signature changed", flipped(rows.len() - 1, rows[rows.len() - 1].1.len() - 1));
    case("a row cut short", with(6, (rows[6].0, rows[6].1[..20].to_vec())));
    case("a record there twice", [&rows[..9], &rows[8..]].concat());
    case("two records of a chain exchanged", {
        let mut rows = rows.clone();
        let (a, b) = (rows.len() - 20, rows.len() - 18);
        rows.swap(a, b);
        rows
    });
    case("a record under another chain", with(6, (rows[5].0, rows[6].1.clone())));
    case("the first chain removed", rows.iter().filter(|row| row.0 != rows[0].0).cloned().collect());
    case("the newest rows removed", rows[..place - 1].to_vec());
    case("the newest rows but an anchor removed", rows[..place].to_vec());
    case("a chain begins before one it has seen goes on", {
        let mut rows = rows.clone();
        rows.swap(place - 1, place - 3);
        rows
    });
    case("a closed chain goes on", [&rows[..], &[(rows[rows.len() - 1].0, rows[4].1.clone())]].concat());
    compare("damage.json", &cases.into());
}
