//! A token's store, moved from SQLite to PostgreSQL and back.

use std::borrow::Cow;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use conclave::error::ErrorKind;
use conclave::hsm::{AuditBatch, AuditStore, AuditTip, ObjectChange, Role};
use conclave::store::{Filter, Location, PostgresStore, Report, SqliteStore, Store, migrate};

use super::support::server;
use super::{SECRET_KEY, by_label, change, domain, domain_key, new_token, object, pin, record, sealed_under};

const OBJECTS: u64 = 3000;

fn batch(chain: u8, first: u64, rows: u64, closed: bool) -> AuditBatch<'static> {
    let content: Vec<Vec<u8>> = (first..first + rows).map(|row| format!("{chain} {row}").into_bytes()).collect();
    let tip = AuditTip { instance: [chain; 16], seq: first + rows - 1, hash: [chain; 48] };
    AuditBatch { first, rows: Cow::Owned(content), tip, closed }
}

/// Something in every table, with gaps.
fn fill(store: &dyn Store) {
    for chunk in (1..=OBJECTS).collect::<Vec<_>>().chunks(500) {
        let records: Vec<_> = chunk
            .iter()
            .map(|number| {
                let mut record = record(*number, &format!("key {}", number % 700));
                match number % 5 {
                    0 => (record.columns.managed, record.columns.due) = (true, Some(1000 + number)),
                    1 => record.sealed = sealed_under(1, *number),
                    2 => (record.columns.label, record.columns.class) = (None, u64::MAX),
                    3 => (record.columns.id, record.columns.replicating) = (None, true),
                    _ => {}
                }
                record
            })
            .collect();
        store.insert(&records).unwrap();
    }
    store.delete(&object(17)).unwrap();
    store.delete(&object(OBJECTS)).unwrap();
    store.commit_domain(&change(2, 0, vec![pin(Role::User, 4), pin(Role::Named("Ägir".into()), 1)])).unwrap();
    for version in 3..=8 {
        store.commit_domain(&change(version, 1, vec![pin(Role::Named(format!("user {version}")), 1)])).unwrap();
    }
    assert_eq!(store.begin_attempt(&Role::User, 9).unwrap(), 1);
    for number in 0..5 {
        store.put_proposal(&[9 - number; 32], &[number; 70]).unwrap();
    }
    assert!(store.delete_proposal(&[7; 32]).unwrap());
    store.put_recovery(b"sealed keys").unwrap();
    for chain in [9, 5] {
        store.open_audit(Box::new(move |_| Ok(batch(chain, 0, 2, false)))).unwrap();
    }
    store.append_audit(&batch(9, 2, 300, true)).unwrap();
}

/// All that can be asked of a store.
fn contents(store: &dyn Store) -> impl PartialEq + std::fmt::Debug + use<> {
    let meta = store.meta().unwrap();
    let pins: Vec<_> = meta.pins.into_iter().map(|pin| (pin.record, pin.failures)).collect();
    let all = store.find(&Filter::default(), 0, usize::MAX).unwrap();
    let records: Vec<_> = all.iter().map(|found| store.get(&found.object).unwrap()).collect();
    let found = (
        all,
        store.find(&by_label("key 33"), 0, 100).unwrap(),
        store.find(&Filter { class: Some(SECRET_KEY), ..Filter::default() }, 50, 40).unwrap(),
        store.managed(10, 1000).unwrap(),
        store.due(1500, 1000).unwrap(),
        store.replicating(0, 1000).unwrap(),
        store.sealed_under_other(&domain_key(1), 0, 1000).unwrap(),
    );
    let counts = (store.count().unwrap(), store.count_managed().unwrap(), store.count_by_domain_key().unwrap());
    let kept = (store.log(0, u64::MAX).unwrap(), store.origin().unwrap(), store.proposals().unwrap());
    let names = (meta.label, meta.serial, meta.domain);
    (names, pins, records, found, counts, kept, (store.recovery().unwrap(), store.audit(0, 1000).unwrap()))
}

fn moved(from: &Location, to: &Location) -> Report {
    let mut last = (0, 0);
    let report = migrate(from, to, &mut |done, total| last = (done, total)).unwrap();
    assert!(last.0 == last.1 && last.1 > 2 * (OBJECTS - 2), "{last:?}");
    report
}

#[test]
fn a_token_goes_to_a_database_and_back_and_stays_what_it_is() {
    let data = tempfile::tempdir().unwrap();
    let (_, embedded) = new_token(data.path());
    fill(&embedded);
    let before = contents(&embedded);
    let url = server().database();
    let (home, there) = (Location::parse("0", data.path()), Location::parse(&url, data.path()));
    let report = moved(&home, &there);
    assert_eq!((report.label.as_str(), report.serial.as_str()), ("label", "0123456789abcdef"));
    assert!(report.rows.contains(&("objects", OBJECTS - 2)), "{:?}", report.rows);
    let shared = PostgresStore::open(&url, Duration::ZERO).unwrap();
    assert!(contents(&shared) == before);
    assert!(shared.counter() > embedded.counter());
    assert!(contents(&embedded) == before, "the source stays");

    // Nothing is put where something is.
    let refused = migrate(&home, &there, &mut |_, _| {}).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FunctionRejected);
    assert!(!refused.to_string().contains("a-password"));

    // It works there: places, counts, audit rows and versions go on from where they were.
    shared.insert(&[record(OBJECTS + 1, "new")]).unwrap();
    let limit = Some(store_managed(&shared));
    let one_more = ObjectChange { limit, insert: vec![managed(OBJECTS + 2)], ..ObjectChange::default() };
    assert_eq!(shared.commit_change(&one_more).unwrap_err().kind(), ErrorKind::TokenResourceExceeded);
    shared.append_audit(&batch(9, 2, 301, true)).unwrap();
    assert_eq!(shared.audit(0, 1000).unwrap().len(), 305);
    shared.commit_domain(&change(9, 1, vec![])).unwrap();
    shared.put_proposal(&[1; 32], b"new").unwrap();
    let changed = contents(&shared);

    let back = Location::Directory(data.path().join("tokens/1"));
    let again = moved(&there, &back);
    assert_ne!(again.digest, report.digest);
    let store = SqliteStore::open(&data.path().join("tokens/1")).unwrap();
    assert!(contents(&store) == changed);
    assert!(store.counter() > shared.counter());
    store.insert(&[record(OBJECTS + 3, "newest")]).unwrap();
    assert_eq!(migrate(&there, &back, &mut |_, _| {}).unwrap_err().kind(), ErrorKind::FunctionRejected);
}

fn managed(number: u64) -> conclave::hsm::Record {
    let mut record = record(number, "managed");
    record.columns.managed = true;
    record
}

fn store_managed(store: &dyn Store) -> u64 {
    store.count_managed().unwrap()
}

#[test]
fn one_that_is_changed_meanwhile_or_ends_early_makes_no_token() {
    let data = tempfile::tempdir().unwrap();
    let (_, embedded) = new_token(data.path());
    fill(&embedded);
    let url = server().database();
    let (home, there) = (Location::parse("0", data.path()), Location::parse(&url, data.path()));
    let mut calls = 0;
    let changed = migrate(&home, &there, &mut |_, _| {
        calls += 1;
        if calls == 9 {
            embedded.insert(&[record(77_777, "meanwhile")]).unwrap();
        }
    });
    let error = changed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FunctionFailed);
    assert!(error.to_string().contains("changed meanwhile"), "{error}");
    let shared = PostgresStore::open(&url, Duration::ZERO).unwrap();
    assert_eq!(shared.meta().unwrap_err().kind(), ErrorKind::DeviceRemoved);
    // What it has left there, and what is none of the token's, is gone after the next.
    moved(&home, &there);
    assert!(contents(&shared) == contents(&embedded));

    let target = Location::Directory(data.path().join("tokens/1"));
    let mut calls = 0;
    let audited = migrate(&there, &target, &mut |_, _| {
        calls += 1;
        if calls == 3 {
            shared.append_audit(&batch(5, 2, 1, false)).unwrap();
        }
    });
    assert_eq!(audited.unwrap_err().kind(), ErrorKind::FunctionFailed);
    let names: Vec<_> =
        std::fs::read_dir(data.path().join("tokens")).unwrap().flatten().map(|it| it.file_name()).collect();
    assert!(names.iter().all(|name| name == "0" || name == ".lock"), "{names:?}");
    let nowhere = migrate(&Location::parse("7", data.path()), &target, &mut |_, _| {}).unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::TokenNotPresent);
}

#[test]
fn the_command_says_what_was_moved() {
    let data = tempfile::tempdir().unwrap();
    let (_, store) = new_token(data.path());
    store.insert(&[record(1, "a"), record(2, "b")]).unwrap();
    drop(store);
    let url = server().database();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_conclave"));
        command.env("CONCLAVE_HOME", data.path()).env_remove("CONCLAVE_CONF").args(["store", "migrate"]).args(args);
        command.output().unwrap()
    };
    let done = run(&["--from", "0", "--to", &url, "--json"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&report["label"], &report["rows"]["objects"]), (&"label".into(), &2.into()));
    assert!(!String::from_utf8_lossy(&done.stdout).contains("a-password"));
    let copy = data.path().join("copy");
    let back = run(&["--from", &url, "--to", &format!("sqlite:{}", copy.display())]);
    let said = String::from_utf8_lossy(&back.stdout).into_owned();
    assert!(
        back.status.success() && said.contains("2 objects") && said.contains(report["digest"].as_str().unwrap()),
        "{said}"
    );
    assert!(Path::new(&copy).join("token.db").exists());
    let refused = run(&["--from", "0", "--to", &url]);
    assert_eq!(refused.status.code(), Some(5), "{}", String::from_utf8_lossy(&refused.stderr));
    assert_eq!(domain(1), SqliteStore::open(&copy).unwrap().meta().unwrap().domain);
}
