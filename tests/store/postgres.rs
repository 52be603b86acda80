//! What only a store in a database has to show: that commits are neither lost nor doubled, whatever the
//! database and the network do, and that hosts see each other's.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use conclave::error::ErrorKind;
use conclave::hsm::{Record, Role};
use conclave::store::{Filter, PostgresStore, Store};

use super::home::Home;
use super::support::{Server, server};
use super::{SECRET_KEY, by_label, change, domain, entry, object, pin, record};

const FAR: Duration = Duration::from_secs(1000);

fn create(url: &str) -> PostgresStore {
    PostgresStore::create(url, "label", "0123456789abcdef", &domain(1), Some(&pin(Role::So, 1))).unwrap()
}

fn next(record: &Record) -> Record {
    Record { generation: record.generation + 1, ..record.clone() }
}

/// What may be in the way of a commit: the function fails so many times, however often it is rolled back.
fn fail(url: &str, code: &str, times: u32, deferred: bool) {
    let trigger = if deferred { "CONSTRAINT TRIGGER" } else { "TRIGGER" };
    let when = if deferred { "DEFERRABLE INITIALLY DEFERRED" } else { "" };
    server().sql(
        url,
        &format!(
            "DROP SEQUENCE IF EXISTS fails CASCADE; CREATE SEQUENCE fails;
             CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF nextval('fails') <= {times} THEN RAISE EXCEPTION 'injected' USING ERRCODE = '{code}'; END IF;
                 RETURN NEW; END $$;
             DROP TRIGGER IF EXISTS fail ON commits;
             CREATE {trigger} fail AFTER INSERT ON commits {when} FOR EACH ROW EXECUTE FUNCTION fail()"
        ),
    );
}

#[test]
fn a_transaction_that_was_in_anothers_way_is_tried_again() {
    let url = server().database();
    let store = create(&url);
    let mut number = 0;
    for (code, deferred) in [("40001", false), ("40P01", false), ("40001", true), ("40003", true)] {
        fail(&url, code, 3, deferred);
        number += 1;
        store.insert(&[record(number, "again")]).unwrap();
        assert_eq!(server().sql(&url, "SELECT last_value FROM fails"), "4", "{code} {deferred}");
        assert_eq!(store.count().unwrap(), number);
    }
    // What another attempt cannot mend is told at once, and nothing is left of it.
    fail(&url, "53100", 1, true);
    assert_eq!(store.insert(&[record(9, "full")]).unwrap_err().kind(), ErrorKind::DeviceMemory);
    assert_eq!(store.get(&object(9)).unwrap(), None);
    store.insert(&[record(9, "full")]).unwrap();
    // There is an end to it.
    fail(&url, "40001", u32::MAX, false);
    let begin = Instant::now();
    let error = store.insert(&[record(10, "never")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FunctionFailed, "{error}");
    assert!(begin.elapsed() > Duration::from_secs(8) && begin.elapsed() < Duration::from_secs(30));
    assert_eq!(store.get(&object(10)).unwrap(), None);
}

/// What the network does to the next commit that passes.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    Before,
    After,
}

/// Stands between a store and the server, and cuts connections.
struct Wire {
    port: u16,
    /// 0: passes all. Else counts down with each commit; at 1 it is cut.
    cut: Arc<(AtomicUsize, AtomicBool)>,
}

impl Wire {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new((AtomicUsize::new(0), AtomicBool::new(false)));
        let shared = Arc::clone(&cut);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let Ok(server) = TcpStream::connect(("127.0.0.1", server().port())) else { continue };
                let cut = Arc::clone(&shared);
                let silent = Arc::new(AtomicBool::new(false));
                let (from_server, to_client, mute) =
                    (server.try_clone().unwrap(), client.try_clone().unwrap(), Arc::clone(&silent));
                thread::spawn(move || pass(from_server, to_client, |_| !mute.load(Ordering::SeqCst)));
                thread::spawn(move || {
                    pass(client, server, |bytes| {
                        let commits = bytes.windows(7).any(|window| window == b"COMMIT\0");
                        if !commits || cut.0.load(Ordering::SeqCst) == 0 || cut.0.fetch_sub(1, Ordering::SeqCst) != 1 {
                            return true;
                        }
                        silent.store(true, Ordering::SeqCst);
                        // After the server has it, its answer does not pass.
                        cut.1.load(Ordering::SeqCst)
                    });
                });
            }
        });
        Self { port, cut }
    }

    fn url(&self, url: &str) -> String {
        let bare = url.split_once('?').unwrap().0.replace(&server().port().to_string(), &self.port.to_string());
        format!("{bare}?sslmode=disable")
    }

    fn cut(&self, cut: Cut, nth: usize) {
        self.cut.1.store(cut == Cut::After, Ordering::SeqCst);
        self.cut.0.store(nth, Ordering::SeqCst);
    }
}

/// Hands on what comes until `may` says no.
fn pass(mut from: TcpStream, mut to: TcpStream, mut may: impl FnMut(&[u8]) -> bool) {
    let mut bytes = [0; 65536];
    loop {
        let length = from.read(&mut bytes).unwrap_or(0);
        if length == 0 || !may(&bytes[..length]) || to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_connection_lost_at_the_commit_loses_and_doubles_nothing() {
    let url = server().database();
    drop(create(&url));
    let wire = Wire::new();
    let store = PostgresStore::open(&wire.url(&url), Duration::ZERO).unwrap();
    for round in 1..=12 {
        wire.cut(if round % 2 == 0 { Cut::Before } else { Cut::After }, 1);
        // Counted once, not twice.
        assert_eq!(store.begin_attempt(&Role::So, 100).unwrap(), round);
        wire.cut(if round % 3 == 0 { Cut::Before } else { Cut::After }, 1);
        store.insert(&[record(u64::from(round), "cut")]).unwrap();
        wire.cut(Cut::After, 1);
        let version = u64::from(round) + 1;
        store.commit_domain(&change(version, 1, vec![])).unwrap();
        wire.cut(Cut::After, 1);
        let refused = store.commit_domain(&change(version, 1, vec![])).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::FunctionFailed);
    }
    assert_eq!(store.meta().unwrap().pin(&Role::So).unwrap().failures, 12);
    assert_eq!(store.count().unwrap(), 12);
    assert_eq!(store.log(0, u64::MAX).unwrap(), (2..=13).map(entry).collect::<Vec<_>>());
    // Others commit in between, so that the newest commit is not the one that is looked for.
    let others = PostgresStore::open(&url, Duration::ZERO).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1000.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                others.insert(&[record(number, "other")]).unwrap();
            }
        });
        for round in 13..=40 {
            wire.cut(if round % 2 == 0 { Cut::Before } else { Cut::After }, 1);
            assert_eq!(store.begin_attempt(&Role::So, 100).unwrap(), round);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(others.meta().unwrap().pin(&Role::So).unwrap().failures, 40);
}

#[test]
fn hosts_learn_of_each_others_commits_by_hints_and_by_looking() {
    let url = server().database();
    let one = create(&url);
    let records: Vec<_> = (1..=3).map(|number| record(number, "shared")).collect();
    one.insert(&records).unwrap();
    let other = PostgresStore::open(&url, FAR).unwrap();
    let since = other.counter();
    assert_eq!((since % 2, other.stamp(), one.stamp()), (0, since, since));
    assert_eq!(other.find(&by_label("new"), 0, 9).unwrap(), []);
    let version = other.meta().unwrap().domain.version;

    one.replace(&next(&records[0])).unwrap();
    one.insert(&[record(4, "new")]).unwrap();
    // Nobody told the other one.
    assert_eq!((other.counter(), other.is_unchanged(&object(1), since)), (since, Some(since)));
    assert_eq!(other.find(&by_label("new"), 0, 9).unwrap(), []);
    other.hint(one.stamp());
    assert_eq!(other.counter(), one.stamp());
    assert_eq!(other.is_unchanged(&object(1), since), None);
    assert_eq!(other.is_unchanged(&object(2), since), Some(one.stamp()), "what was left alone is not read again");
    assert_eq!(other.find(&by_label("new"), 0, 9).unwrap().len(), 1);
    assert_eq!(other.meta().unwrap().domain.version, version);

    // A change of the domain may change what every object is seen as.
    let since = other.counter();
    one.commit_domain(&change(2, 1, vec![])).unwrap();
    other.hint(one.stamp());
    assert_ne!(other.counter(), since);
    assert_eq!((other.is_unchanged(&object(2), since), other.meta().unwrap().domain.version), (None, 2));

    // One's own commit tells of what others have done before it.
    let since = other.counter();
    one.delete(&object(2)).unwrap();
    other.insert(&[record(5, "own")]).unwrap();
    assert_eq!((other.is_unchanged(&object(2), since), other.is_unchanged(&object(3), since).is_some()), (None, true));

    // Who lies is looked into, and not believed.
    let before = other.counter();
    other.hint(u64::MAX);
    assert_eq!((other.counter(), other.stamp()), (before, before));

    let third = PostgresStore::open(&url, Duration::from_millis(200)).unwrap();
    let before = third.counter();
    one.insert(&[record(6, "late")]).unwrap();
    let begin = Instant::now();
    while third.counter() == before {
        assert!(begin.elapsed() < Duration::from_secs(5), "one that nobody tells looks by itself");
        thread::sleep(Duration::from_millis(5));
    }

    // A database that was put back to an older state: everybody sees the counter move on.
    server().sql(
        &url,
        "UPDATE state SET counter = counter - 3;
        DELETE FROM commits WHERE counter > (SELECT counter FROM state)",
    );
    other.hint(u64::MAX);
    let (before, since) = (other.stamp(), other.counter());
    other.hint(u64::MAX);
    assert!(other.counter() > before || since > before);
    assert_eq!(other.is_unchanged(&object(3), before), None);
    one.hint(other.stamp());
    assert_eq!(one.counter(), other.counter());
}

#[test]
fn a_pin_is_counted_for_each_of_many_hosts_that_try_at_once() {
    let home = Home::postgres();
    let first = home.create();
    let counted = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let store = home.open();
                while store.begin_attempt(&Role::So, 30).map_err(|error| error.kind()) != Err(ErrorKind::PinLocked) {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(counted.load(Ordering::Relaxed), 30);
    assert_eq!(first.meta().unwrap().pin(&Role::So).unwrap().failures, 30);
}

#[test]
fn of_many_hosts_one_makes_each_version() {
    let home = Home::postgres();
    home.create();
    let made = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let store = home.open();
                for version in 2..=12 {
                    match store.commit_domain(&change(version, 1, vec![pin(Role::User, version)])) {
                        Ok(()) => drop(made.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::FunctionFailed, "{error}"),
                    }
                }
            });
        }
    });
    let store = home.open();
    let version = store.meta().unwrap().domain.version;
    assert_eq!(made.load(Ordering::Relaxed), version - 1);
    assert_eq!(store.log(0, u64::MAX).unwrap(), (2..=version).map(entry).collect::<Vec<_>>());
}

#[test]
fn only_a_token_of_this_release_is_taken_and_only_a_server_that_shows_who_it_is() {
    let url = server().database();
    let open = |url: &str| PostgresStore::open(url, FAR).unwrap();
    let error = open(&url).meta().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TokenNotRecognized);
    assert!(error.to_string().contains("tables"), "{error}");
    let store = create(&url);
    let again = PostgresStore::create(&url, "x", "y", &domain(1), None).err().unwrap();
    assert_eq!(again.kind(), ErrorKind::FunctionRejected);
    assert_eq!(store.meta().unwrap().label, "label");
    assert_eq!(open(&server().by_socket(&url)).meta().unwrap().label, "label");
    let (bare, root) = url.split_once("&sslrootcert=").unwrap();
    let other_root = root.replace("ca.pem", "server.pem");
    let error = open(&format!("{bare}&sslrootcert={other_root}")).meta().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceError);
    let wrong = open(&url.replace("a-password", "another")).meta().unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::DeviceError);
    assert!(!wrong.to_string().contains("another"), "{wrong}");

    store.erase().unwrap();
    assert_eq!(store.meta().unwrap_err().kind(), ErrorKind::DeviceRemoved);
    assert_eq!(store.insert(&[record(1, "x")]).unwrap_err().kind(), ErrorKind::DeviceRemoved);
    // A domain that a quorum founded has no SO PIN.
    let store = PostgresStore::create(&url, "again", "y", &domain(7), None).unwrap();
    assert_eq!((store.meta().unwrap().domain, store.meta().unwrap().pins.len()), (domain(7), 0));
    server().sql(&url, "UPDATE schema_version SET version = 99");
    let newer = open(&url).meta().unwrap_err();
    assert_eq!(newer.kind(), ErrorKind::TokenNotRecognized);
    assert!(newer.to_string().contains("version 99"), "{newer}");
}

#[test]
fn each_search_goes_by_an_index_without_statistics() {
    const MANY: u64 = 3000;
    const ROUNDS: u64 = 100;
    let url = server().database();
    drop(create(&url));
    server().sql(&url, "ALTER TABLE objects SET (autovacuum_enabled = false)");
    let store = PostgresStore::open(&url, FAR).unwrap();
    for chunk in (0..MANY).collect::<Vec<_>>().chunks(1000) {
        store.insert(&chunk.iter().map(|number| record(*number, &format!("{number}"))).collect::<Vec<_>>()).unwrap();
    }
    drop(store);
    let read = || {
        // What a session has counted is written down when it ends.
        thread::sleep(Duration::from_millis(300));
        let sql = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'objects'";
        let sum = "SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes WHERE relname = 'objects'";
        let number = |sql: &str| server().sql(&url, sql).parse::<u64>().unwrap();
        number(sql) + number(sum)
    };
    let label = |number: u64| format!("{number}").into_bytes();
    let filters: [(&str, &dyn Fn(u64) -> Filter); 4] = [
        ("label", &|number| Filter { class: Some(SECRET_KEY), ..by_label(&format!("{number}")) }),
        ("labels", &|number| Filter { labels: Some(vec![label(number), label(number + 1)]), ..Filter::default() }),
        ("id", &|number| Filter { ids: Some(vec![number.to_be_bytes().to_vec()]), ..Filter::default() }),
        ("object", &|number| Filter { object: Some(object(number)), ..Filter::default() }),
    ];
    for (name, filter) in filters {
        let before = read();
        let store = PostgresStore::open(&url, FAR).unwrap();
        for round in 0..ROUNDS {
            assert!(!store.find(&filter(round * 29), 0, 16).unwrap().is_empty());
        }
        drop(store);
        let rows = read() - before;
        assert!(rows < ROUNDS * 8, "{name}: {rows} rows were read for {ROUNDS} searches");
    }
}

/// Sockets of this process that lead to the port.
fn sockets_to(port: u16) -> usize {
    let is_to = |fd: i32| {
        // SAFETY: an all-zero address is a valid value.
        let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        // SAFETY: the address and its length are valid for writes.
        let known = unsafe { libc::getpeername(fd, (&raw mut address).cast(), &raw mut length) };
        known == 0 && u16::from_be(address.sin_port) == port
    };
    (0..1024).filter(|fd| is_to(*fd)).count()
}

#[test]
fn a_restart_of_the_server_is_survived_and_a_child_keeps_no_socket() {
    let own = Server::start();
    let url = own.database();
    let store = create(&url);
    store.insert(&[record(0, "first")]).unwrap();
    assert_eq!(sockets_to(own.port()), 1);
    // SAFETY: the child only looks at its descriptors and asks the store, and ends without returning.
    let child = match unsafe { libc::fork() } {
        0 => {
            let left = sockets_to(own.port());
            let refused = matches!(store.meta(), Err(error) if error.kind() == ErrorKind::CryptokiNotInitialized);
            let found = matches!(store.count(), Err(error) if error.kind() == ErrorKind::CryptokiNotInitialized);
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(left != 0 || !refused || !found)) }
        }
        pid => pid,
    };
    let mut status = -1;
    // SAFETY: the status is valid for writes.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
    store.insert(&[record(1, "after the fork")]).unwrap();

    let stop = AtomicBool::new(false);
    let written: Vec<u64> = thread::scope(|scope| {
        let writers: Vec<_> = (1..=3_u64)
            .map(|writer| {
                let (url, stop) = (&url, &stop);
                scope.spawn(move || {
                    let store = PostgresStore::open(url, Duration::ZERO).unwrap();
                    let mut count = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let id = writer << 32 | count;
                        store.insert(&[record(id, "survivor")]).unwrap();
                        assert!(store.get(&object(id)).unwrap().is_some());
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(300));
            own.down();
            own.up();
        }
        thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    println!("{written:?} writes over two restarts");
    assert_eq!(store.count().unwrap(), 2 + written.iter().sum::<u64>());

    // What is known is of use for a while without the server; what has to be read is not there.
    let label = store.meta().unwrap().label;
    let held = store.counter();
    own.down();
    thread::sleep(Duration::from_millis(1200));
    assert_eq!((store.counter(), store.meta().unwrap().label), (held, label));
    let error = store.get(&object(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceError, "{error}");
    own.up();
    assert!(store.get(&object(0)).unwrap().is_some());
}
