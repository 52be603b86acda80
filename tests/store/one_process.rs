//! Reads, compare-and-set writes, paging, threads, and look-ups among many.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use conclave::error::ErrorKind;
use conclave::hsm::{ObjectId, Role};
use conclave::store::{Filter, Store};

use super::home::{Home, over_both};
use super::{SECRET_KEY, by_label, change, domain, new_token, object, pin, record};

over_both! {
    records_are_found_replaced_and_deleted
    an_insert_is_all_or_nothing
    paging_goes_on_when_what_was_found_is_deleted
    the_domain_and_the_pins_are_compared_and_set
    threads_share_commits_and_each_gets_its_own_result
    finding_one_of_many_is_one_look_up
}

const NONE: [ObjectId; 0] = [];

fn records_are_found_replaced_and_deleted(home: &Home) {
    let store = home.create();
    let other = home.open();
    let before = other.counter();
    let mut vendor = record(2, "b");
    vendor.columns.class = u64::MAX;
    vendor.columns.key_type = None;
    store.insert(&[record(1, "a"), vendor.clone()]).unwrap();
    assert_ne!(other.counter(), before);
    assert_eq!(other.counter() % 2, 0);
    assert_eq!(other.get(&object(1)).unwrap().unwrap(), record(1, "a"));
    assert_eq!(other.get(&object(2)).unwrap().unwrap(), vendor);
    assert_eq!(other.get(&object(3)).unwrap(), None);
    assert_eq!(other.count().unwrap(), 2);

    let found =
        |filter: Filter| other.find(&filter, 0, 10).unwrap().iter().map(|found| found.object).collect::<Vec<_>>();
    assert_eq!(found(by_label("a")), [object(1)]);
    assert_eq!(found(Filter { class: Some(u64::MAX), ..Filter::default() }), [object(2)]);
    assert_eq!(found(Filter { key_type: Some(0x1f), ..Filter::default() }), [object(1)]);
    assert_eq!(
        found(Filter { labels: Some(vec![b"b".to_vec(), b"a".to_vec()]), ..Filter::default() }),
        [object(1), object(2)]
    );
    assert_eq!(found(Filter { labels: Some(Vec::new()), ..Filter::default() }), NONE);
    assert_eq!(found(Filter { private: Some(false), ..Filter::default() }), NONE);
    assert_eq!(found(Filter::default()), [object(1), object(2)]);

    let mut changed = record(1, "c");
    changed.generation = 2;
    store.replace(&changed).unwrap();
    assert_eq!(found(by_label("a")), NONE);
    assert_eq!(found(by_label("c")), [object(1)]);
    assert_eq!(store.replace(&changed).unwrap_err().kind(), ErrorKind::FunctionFailed);
    other.delete(&object(1)).unwrap();
    assert_eq!(found(by_label("c")), NONE);
    assert_eq!(store.replace(&changed).unwrap_err().kind(), ErrorKind::ObjectHandleInvalid);
    assert_eq!(store.delete(&object(1)).unwrap_err().kind(), ErrorKind::ObjectHandleInvalid);
}

fn an_insert_is_all_or_nothing(home: &Home) {
    let store = home.create();
    store.insert(&[record(1, "a")]).unwrap();
    store.insert(&[record(2, "a"), record(1, "a")]).unwrap_err();
    assert_eq!(store.count().unwrap(), 1);
}

fn paging_goes_on_when_what_was_found_is_deleted(home: &Home) {
    let store = home.create();
    store.insert(&(1..=25).map(|number| record(number, "same")).collect::<Vec<_>>()).unwrap();
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = store.find(&by_label("same"), after, 10).unwrap();
        let Some(last) = page.last() else { break };
        after = last.row;
        for found in &page {
            seen.push(found.object);
            store.delete(&found.object).unwrap();
        }
    }
    assert_eq!(seen, (1..=25).map(object).collect::<Vec<_>>());
}

fn the_domain_and_the_pins_are_compared_and_set(home: &Home) {
    let store = home.create();
    let meta = store.meta().unwrap();
    assert_eq!((meta.label.as_str(), meta.serial.as_str()), ("label", "0123456789abcdef"));
    assert_eq!(meta.domain, domain(1));
    assert_eq!(store.begin_attempt(&Role::User, 10).unwrap_err().kind(), ErrorKind::UserPinNotInitialized);

    store.commit_domain(&change(2, 0, vec![pin(Role::User, 1), pin(Role::Named("alice".into()), 1)])).unwrap();
    assert_eq!(store.commit_domain(&change(2, 0, vec![])).unwrap_err().kind(), ErrorKind::FunctionFailed);
    assert_eq!(
        store.commit_domain(&change(3, 0, vec![pin(Role::User, 1)])).unwrap_err().kind(),
        ErrorKind::FunctionFailed
    );
    let meta = store.meta().unwrap();
    assert_eq!(meta.domain, domain(2), "a refused PIN leaves the domain as it was");
    assert_eq!(meta.pins.len(), 3);

    for count in 1..=3 {
        assert_eq!(store.begin_attempt(&Role::User, 3).unwrap(), count);
    }
    assert_eq!(store.begin_attempt(&Role::User, 3).unwrap_err().kind(), ErrorKind::PinLocked);
    assert_eq!(store.meta().unwrap().pin(&Role::User).unwrap().failures, 3);
    store.commit_domain(&change(3, 0, vec![pin(Role::User, 2)])).unwrap();
    assert_eq!(store.meta().unwrap().pin(&Role::User).unwrap().failures, 0);
    assert_eq!(store.begin_attempt(&Role::User, 3).unwrap(), 1);
    store.end_attempt(&Role::User).unwrap();
    assert_eq!(store.meta().unwrap().pin(&Role::User).unwrap().failures, 0);

    store.insert(&[record(1, "a")]).unwrap();
    store.reset("again", "0123456789abcdef", &domain(1), Some(&pin(Role::So, 1))).unwrap();
    let meta = store.meta().unwrap();
    assert_eq!((meta.label.as_str(), meta.pins.len(), &meta.domain), ("again", 1, &domain(1)));
    assert_eq!(store.count().unwrap(), 0);
}

#[test]
fn a_destroyed_token_is_gone_for_all_and_its_slot_is_not_reused() {
    let data = tempfile::tempdir().unwrap();
    let (directory, store) = new_token(data.path());
    store.insert(&[record(1, "a")]).unwrap();
    assert_eq!(directory.list().unwrap(), [0]);
    assert_eq!(directory.free_slot().unwrap(), 1);
    assert_eq!(
        directory.create(0, "x", "y", &domain(1), &pin(Role::So, 1)).err().map(|error| error.kind()),
        Some(ErrorKind::FunctionFailed)
    );
    directory.destroy(0).unwrap();
    assert!(directory.list().unwrap().is_empty());
    assert_eq!(directory.free_slot().unwrap(), 1);
    assert_eq!(directory.store(0).err().map(|error| error.kind()), Some(ErrorKind::TokenNotPresent));
    assert_eq!(directory.destroy(0).unwrap_err().kind(), ErrorKind::TokenNotPresent);
    assert_eq!(store.meta().unwrap_err().kind(), ErrorKind::DeviceRemoved);
    assert_eq!(store.insert(&[record(2, "a")]).unwrap_err().kind(), ErrorKind::DeviceRemoved);
    assert_eq!(store.get(&object(1)).unwrap(), None);
}

#[test]
fn files_are_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let data = tempfile::tempdir().unwrap();
    let (_, store) = new_token(data.path());
    store.insert(&[record(1, "a")]).unwrap();
    let token = data.path().join("tokens/0");
    assert_eq!(token.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let mut names = Vec::new();
    for entry in token.read_dir().unwrap().map(Result::unwrap) {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["counter", "lock", "token.db", "token.db-shm", "token.db-wal"]);
}

fn threads_share_commits_and_each_gets_its_own_result(home: &Home) {
    let store = home.create();
    let store: Arc<dyn Store> = store.into();
    let (threads, each) = (8, 25);
    let before = store.counter();
    thread::scope(|scope| {
        for thread in 0..threads {
            let store = Arc::clone(&store);
            scope.spawn(move || {
                for number in 0..each {
                    let id = thread * 1000 + number;
                    store.insert(&[record(id, "t")]).unwrap();
                    assert!(store.get(&object(id)).unwrap().is_some(), "one reads what one wrote");
                    assert!(store.insert(&[record(id, "t")]).is_err());
                }
            });
        }
    });
    assert_eq!(store.count().unwrap(), threads * each);
    let commits = (store.counter() - before) / 2;
    println!("{} writes in {commits} commits", threads * each);
    assert!(commits < threads * each, "{commits} commits");
}

fn finding_one_of_many_is_one_look_up(home: &Home) {
    // A database answers from another process, and looks first whether others have written.
    let (many, limit) = if home.is_remote() { (20_000, 20) } else { (100_000, 1) };
    let store = home.create();
    let time = Instant::now();
    for chunk in (0..many).collect::<Vec<_>>().chunks(5_000) {
        store
            .insert(&chunk.iter().map(|number| record(*number, &format!("key {number}"))).collect::<Vec<_>>())
            .unwrap();
    }
    println!("filled with {many}: {:?}", time.elapsed());
    const ROUNDS: u32 = 2_000;
    let per = |what: &str, run: &dyn Fn(u64)| {
        let time = Instant::now();
        (0..u64::from(ROUNDS)).for_each(|round| run(round * 37 % many));
        let per = time.elapsed() / ROUNDS;
        println!("{what}: {per:?}");
        per
    };
    let filter = |number: u64| Filter { class: Some(SECRET_KEY), ..by_label(&format!("key {number}")) };
    let find = per("find by label", &|number| assert_eq!(store.find(&filter(number), 0, 16).unwrap().len(), 1));
    assert!(find < Duration::from_millis(limit), "{find:?}");
    per("find again", &|number| assert_eq!(store.find(&filter(number), 0, 16).unwrap().len(), 1));
    per("find none", &|number| assert!(store.find(&by_label(&format!("no {number}")), 0, 16).unwrap().is_empty()));
    let one = filter(5);
    per("find the same", &|_| assert_eq!(store.find(&one, 0, 16).unwrap().len(), 1));
    per("get", &|number| assert!(store.get(&object(number)).unwrap().is_some()));
    let time = Instant::now();
    let (mut after, mut seen) = (0, 0);
    loop {
        let page = store.find(&Filter { class: Some(SECRET_KEY), ..Filter::default() }, after, 1024).unwrap();
        let Some(last) = page.last() else { break };
        (after, seen) = (last.row, seen + page.len() as u64);
    }
    println!("enumerate all: {:?}", time.elapsed());
    assert_eq!(seen, many);
}

#[test]
fn only_complete_tokens_are_listed() {
    let data = tempfile::tempdir().unwrap();
    let (directory, _store) = new_token(data.path());
    let tokens = data.path().join("tokens");
    for name in [".part-1-1", "01", "-1", "x", "2147483648"] {
        std::fs::create_dir(tokens.join(name)).unwrap();
    }
    std::fs::write(tokens.join("7"), "a file").unwrap();
    assert_eq!(directory.list().unwrap(), [0]);
    assert_eq!(directory.free_slot().unwrap(), 1);
    directory.create(1, "label", "serial", &domain(1), &pin(Role::So, 1)).unwrap();
    assert_eq!(directory.list().unwrap(), [0, 1]);
    assert!(!tokens.join(".part-1-1").exists(), "what a dead process left is removed");
}
