//! Several processes on one token: this test binary runs itself as the others.

use std::collections::BTreeSet;
use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use conclave::error::ErrorKind;
use conclave::hsm::Role;
use conclave::store::{Directory, Store};

use super::home::{self, Home, over_both};
use super::schema_1::put_token;
use super::{by_label, change, domain, entry, object, pin, record};

over_both! {
    acknowledged_writes_survive_a_kill
    the_token_and_the_log_agree_after_a_kill
    no_writer_starves_among_eight
}

const ROLE: &str = "STORE_TEST_ROLE";
const DATA: &str = "STORE_TEST_DATA";
const NUMBER: &str = "STORE_TEST_NUMBER";
const MARK: &str = "#";

fn spawn(role: &str, home: &str, number: u64) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "processes::child", "--nocapture"])
        .env(ROLE, role)
        .env(DATA, home)
        .env(NUMBER, number.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the child said, without the noise of the test harness.
fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map_while(Result::ok).filter_map(|line| Some(line.split_once(MARK)?.1.to_owned()))
}

/// Does nothing unless a test below started it.
#[test]
fn child() {
    let Ok(role) = env::var(ROLE) else { return };
    let data = env::var(DATA).unwrap();
    let number: u64 = env::var(NUMBER).unwrap().parse().unwrap();
    match role.as_str() {
        "write until killed" => write_until_killed(&data, number),
        "commit until killed" => commit_until_killed(&data),
        "take over a token" => take_over_a_token(Path::new(&data), number),
        "create a token" => create_a_token(Path::new(&data)),
        "write for two seconds" => write_for_two_seconds(&data, number),
        _ => unreachable!("{role}"),
    }
}

fn write_until_killed(name: &str, number: u64) {
    let store = home::open(name);
    thread::scope(|scope| {
        for thread in 0..2 {
            let store = &store;
            scope.spawn(move || {
                for count in 0.. {
                    let id = number << 32 | thread << 24 | count;
                    store.insert(&[record(id, "survivor")]).unwrap();
                    println!("{MARK}{id}");
                }
            });
        }
    });
}

fn acknowledged_writes_survive_a_kill(home: &Home) {
    let store = home.create();
    let mut acknowledged = BTreeSet::new();
    for round in 0..8 {
        let mut child = spawn("write until killed", &home.name(), round);
        let mut said = lines(&mut child);
        acknowledged.extend(said.next());
        thread::sleep(Duration::from_millis(20 + 17 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(said);
        for id in &acknowledged {
            let id: u64 = id.parse().unwrap();
            assert_eq!(store.get(&object(id)).unwrap(), Some(record(id, "survivor")));
        }
    }
    println!("{} writes in 8 processes", acknowledged.len());
    assert!(store.count().unwrap() >= acknowledged.len() as u64);
    let begin = Instant::now();
    while !store.counter().is_multiple_of(2) {
        store.find(&by_label("x"), 0, 1).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5), "the counter is put right after a death");
    }
}

/// Chains of one to three entries, with a PIN whose generation is the version.
fn commit_until_killed(name: &str) {
    let store = home::open(name);
    loop {
        let held = store.meta().unwrap().domain.version;
        let (entries, version) = (1 + held % 3, held + 1 + held % 3);
        match store.commit_domain(&change(version, entries, vec![pin(Role::User, version)])) {
            Ok(()) => println!("{MARK}{version}"),
            Err(error) if error.kind() == ErrorKind::FunctionFailed => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn the_token_and_the_log_agree_after_a_kill(home: &Home) {
    let store = home.create();
    let mut acknowledged: u64 = 1;
    for round in 0..8 {
        let mut children = [(); 2].map(|()| spawn("commit until killed", &home.name(), round));
        let mut said: Vec<_> = children.iter_mut().map(lines).collect();
        let first: Vec<_> = said.iter_mut().filter_map(Iterator::next).collect();
        thread::sleep(Duration::from_millis(10 + 13 * round));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let said = first.into_iter().chain(said.into_iter().flatten());
        acknowledged = said.map(|version| version.parse().unwrap()).max().unwrap_or(1).max(acknowledged);
        let meta = store.meta().unwrap();
        let version = meta.domain.version;
        assert!(version >= acknowledged, "{version} < {acknowledged}");
        assert_eq!(meta.domain, domain(version));
        assert_eq!(meta.pin(&Role::User).unwrap().record, pin(Role::User, version));
        assert_eq!(store.log(0, u64::MAX).unwrap(), (2..=version).map(entry).collect::<Vec<_>>());
        assert_eq!(store.origin().unwrap(), Some(domain(1)));
    }
    println!("{acknowledged} versions in 16 processes");
}

fn take_over_a_token(data: &Path, number: u64) {
    let store = Directory::open(data).unwrap().store(0).unwrap();
    assert_eq!(store.meta().unwrap().label, "schema-1");
    assert_eq!(store.find(&by_label("aes"), 0, 10).unwrap().len(), 1);
    store.insert(&[record(number, "new")]).unwrap();
    println!("{MARK}{}", store.count().unwrap());
}

#[test]
fn two_processes_migrate_a_token_at_once() {
    for _ in 0..6 {
        let data = tempfile::tempdir().unwrap();
        put_token(data.path());
        let mut children = [1, 2].map(|number| spawn("take over a token", data.path().to_str().unwrap(), number));
        for child in &mut children {
            assert!(lines(child).last().is_some(), "the child opened and used it");
            assert!(child.wait().unwrap().success());
        }
        let store = Directory::open(data.path()).unwrap().store(0).unwrap();
        assert_eq!(store.count().unwrap(), 6);
        assert_eq!(store.find(&by_label("new"), 0, 10).unwrap().len(), 2);
    }
}

fn create_a_token(data: &Path) {
    let directory = Directory::open(data).unwrap();
    let mut refused = 0;
    loop {
        let slot = directory.free_slot().unwrap();
        match directory.create(slot, "label", "0123456789abcdef", &domain(1), &pin(Role::So, 1)) {
            Ok(store) => {
                store.insert(&[record(1, "mine")]).unwrap();
                println!("{MARK}{slot} {refused}");
                return;
            }
            Err(error) if error.kind() == ErrorKind::FunctionFailed => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn eight_processes_create_tokens_at_once() {
    let data = tempfile::tempdir().unwrap();
    let mut children: Vec<_> =
        (0..8).map(|number| spawn("create a token", data.path().to_str().unwrap(), number)).collect();
    let slots: BTreeSet<u32> = children
        .iter_mut()
        .map(|child| {
            let said = lines(child).last().expect("the child made its token");
            assert!(child.wait().unwrap().success());
            said.split(' ').next().unwrap().parse().unwrap()
        })
        .collect();
    assert_eq!(slots, (0..8).collect());
    let directory = Directory::open(data.path()).unwrap();
    assert_eq!(directory.list().unwrap(), (0..8).collect::<Vec<_>>());
    for slot in slots {
        assert_eq!(directory.store(slot).unwrap().count().unwrap(), 1);
    }
}

/// Says how many writes it made, and the 99th percentile and the maximum of their times in µs.
fn write_for_two_seconds(name: &str, number: u64) {
    let store = home::open(name);
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < Duration::from_secs(2) {
        let one = Instant::now();
        store.insert(&[record(number << 32 | times.len() as u64, "many")]).unwrap();
        times.push(one.elapsed().as_micros());
    }
    times.sort_unstable();
    println!("{MARK}{} {} {}", times.len(), times[times.len() * 99 / 100], times[times.len() - 1]);
}

fn no_writer_starves_among_eight(home: &Home) {
    let store = home.create();
    let mut children: Vec<_> = (0..8).map(|number| spawn("write for two seconds", &home.name(), number)).collect();
    let mut written = Vec::new();
    for child in &mut children {
        let said = lines(child).last().expect("no write failed");
        assert!(child.wait().unwrap().success());
        println!("writes, p99, max in µs: {said}");
        written.push(said.split(' ').next().unwrap().parse::<u64>().unwrap());
    }
    assert_eq!(store.count().unwrap(), written.iter().sum::<u64>());
    let (least, most) = (written.iter().min().unwrap(), written.iter().max().unwrap());
    assert!(least * 4 > *most, "from {least} to {most} writes");
}
