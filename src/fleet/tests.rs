//! The server with an HSM that echoes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::service::Callbacks;
use super::*;
use crate::error::{ErrorKind, Result};
use crate::hsm::Wiped;

const HOST: Id = [7; 16];

/// Clear frame "link" links, "admin" makes an administrator; "nap" takes 100 ms, "panic" panics.
struct Echo;

impl Service for Echo {
    fn clear(&self, frame: &[u8], admin: bool) -> Clear {
        let then = match frame {
            b"link" => Then::Linked(Box::new(Guest(Some(u64::MAX))), Box::new(Plain)),
            b"brief" => Then::Linked(Box::new(Guest(Some(1))), Box::new(Plain)),
            b"admin" if admin => Then::Admin(Box::new(Guest(None))),
            b"nap" => {
                thread::sleep(Duration::from_millis(100));
                Then::KeepOpen
            }
            b"panic" => panic!("as asked"),
            b"close" => Then::Close,
            _ => Then::KeepOpen,
        };
        Clear { bytes: [&(frame.len() as u32).to_be_bytes(), frame].concat(), then, refused: None }
    }

    fn standing(&self) -> Standing {
        Standing { member: true, version: Some(3) }
    }

    fn figures(&self) -> Figures {
        Figures::default()
    }
}

/// Echoes; "nap" takes 300 ms, "ask" calls back with "?", "bye" closes, "panic" panics.
struct Guest(Option<u64>);

impl Party for Guest {
    fn host(&self) -> Option<(Id, &str)> {
        self.0.map(|_| (HOST, "h"))
    }

    fn valid_until(&self) -> Option<u64> {
        self.0
    }

    fn request(&mut self, message: &[u8], callbacks: &mut dyn Callbacks) -> Reply {
        let mut reply = Wiped::from(message.to_vec());
        match message {
            b"nap" => thread::sleep(Duration::from_millis(300)),
            b"ask" => match callbacks.call(b"?") {
                Ok(answer) => reply = answer,
                Err(_) => return Reply { message: Wiped::default(), close: true },
            },
            b"panic" => panic!("as asked"),
            _ => {}
        }
        Reply { message: reply, close: message == b"bye" }
    }
}

/// No keys: the mark of the last frame, and what is in it. A frame that begins with 9 is wrong.
struct Plain;

impl Cipher for Plain {
    fn open(&mut self, frame: &[u8], message: &mut Wiped) -> Result<bool> {
        match frame {
            [last @ (0 | 1), rest @ ..] => {
                message.append(rest);
                Ok(*last == 1)
            }
            _ => Err(ErrorKind::DeviceError.into()),
        }
    }

    fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let mut parts = message.chunks(64 * 1024).peekable();
        loop {
            let part = parts.next().unwrap_or_default();
            out.extend_from_slice(&(part.len() as u32 + 1).to_be_bytes());
            out.push(u8::from(parts.peek().is_none()));
            out.extend_from_slice(part);
            if parts.peek().is_none() {
                return Ok(());
            }
        }
    }

    fn next_request(&mut self) {}
}

struct Running {
    server: Server,
    dir: TempDir,
}

impl Running {
    fn new(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        let listeners =
            vec![Listener::bind(&Address::Unix(path("s")), 0o660).unwrap(), Listener::admin(&path("admin")).unwrap()];
        let server = Server::new(Arc::new(Echo), listeners, limits).unwrap();
        server.start().unwrap();
        Self { server, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self) -> Client {
        Client::open(&self.path("s"))
    }

    fn link(&self) -> Client {
        let mut client = self.open();
        assert_eq!(client.ask(b"link"), b"link");
        // With the first frame it is the host's.
        assert_eq!(client.request(b"here"), b"here");
        client
    }

    /// Until the text of the metrics has this line.
    fn await_metric(&self, line: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        while !self.server.metrics().lines().any(|found| found == line) {
            assert!(Instant::now() < until, "{line}\n{}", self.server.metrics());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

struct Client(UnixStream);

impl Client {
    fn open(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn frame(&mut self, bytes: &[u8]) {
        self.send(&[&(bytes.len() as u32).to_be_bytes(), bytes].concat());
    }

    fn read(&mut self) -> Vec<u8> {
        let mut prefix = [0; 4];
        self.0.read_exact(&mut prefix).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
        self.0.read_exact(&mut frame).unwrap();
        frame
    }

    fn ask(&mut self, frame: &[u8]) -> Vec<u8> {
        self.frame(frame);
        self.read()
    }

    /// In a link, a message of one frame.
    fn request(&mut self, message: &[u8]) -> Vec<u8> {
        let answer = self.ask(&[&[1], message].concat());
        assert_eq!(answer.first(), Some(&1));
        answer[1..].to_vec()
    }

    fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        // A reset is an end too.
        self.0.read_to_end(&mut rest).map_or(true, |_| rest.is_empty())
    }
}

#[test]
fn requests_are_answered_in_order_however_they_are_cut() {
    let running = Running::new(Limits { spin: Duration::from_micros(50), ..Limits::default() });
    let mut client = running.link();
    assert_eq!(client.request(b"one"), b"one");
    // Two at once, and one byte by byte.
    client.send(&[0, 0, 0, 2, 1, b'a', 0, 0, 0, 2, 1, b'b']);
    assert_eq!((client.read(), client.read()), (b"\x01a".to_vec(), b"\x01b".to_vec()));
    for byte in [0, 0, 0, 3, 1, b'c', b'd'] {
        client.send(&[byte]);
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(client.read(), b"\x01cd");
    // A large one, both ways.
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| at as u8).collect();
    let mut writing = Client(client.0.try_clone().unwrap());
    let sent = large.clone();
    let writer = thread::spawn(move || {
        let mut parts = sent.chunks(64 * 1024).peekable();
        while let Some(part) = parts.next() {
            writing.frame(&[&[u8::from(parts.peek().is_none())], part].concat());
        }
    });
    let mut back = Vec::new();
    loop {
        let frame = client.read();
        back.extend_from_slice(&frame[1..]);
        if frame[0] == 1 {
            break;
        }
    }
    writer.join().unwrap();
    assert!(back == large);
    assert_eq!(client.request(b"bye"), b"bye");
    assert!(client.is_closed());
    running.await_metric("conclaved_connections_closed_total{reason=\"by_hsm\"} 1");
}

#[test]
fn a_request_may_ask_its_host() {
    let running = Running::new(Limits { callback: Duration::from_millis(200), ..Limits::default() });
    let mut client = running.link();
    assert_eq!(client.request(b"ask"), b"?");
    assert_eq!(client.request(b"answer"), b"answer");
    // Who does not answer is left.
    assert_eq!(client.request(b"ask"), b"?");
    assert!(client.is_closed());
    let mut admin = Client::open(&running.path("admin"));
    assert_eq!(admin.ask(b"admin"), b"admin");
    assert_eq!(admin.ask(b"ask"), b"?");
    assert_eq!(admin.ask(b"yes"), b"yes");
    assert_eq!(admin.ask(&vec![5; 100_000]), vec![5; 100_000]);
}

#[test]
fn what_is_wrong_closes_its_connection_only() {
    let running = Running::new(Limits::default());
    let mut good = running.link();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4], &[0xff; 64], &[0, 2, 0, 0, 0x84, 1]] {
        let mut client = running.open();
        client.send(garbage);
        assert_eq!(client.read(), [0x82, 0x18, 0xff, 5]);
        assert!(client.is_closed());
    }
    for wrong in [&[0, 1, 0, 18][..], &[0, 0, 0, 1, 9]] {
        let mut client = running.link();
        client.send(wrong);
        assert!(client.is_closed());
    }
    for wrong in [&b"panic"[..], b"close"] {
        let mut client = running.open();
        client.frame(wrong);
        if wrong == b"close" {
            assert_eq!(client.read(), wrong);
        }
        assert!(client.is_closed());
    }
    let mut client = running.link();
    client.frame(b"\x01panic");
    assert!(client.is_closed());
    let mut client = running.open();
    assert_eq!(client.ask(b"brief"), b"brief");
    assert!(client.is_closed() && good.request(b"still here") == b"still here");
    // A domain's state may be larger.
    let bring = [&[0x85, 1][..], &vec![0; 1 << 20]].concat();
    let mut client = running.open();
    assert!(client.ask(&bring) == bring);
    running.await_metric("conclaved_connections_closed_total{reason=\"failed\"} 2");
    running.await_metric("conclaved_connections_closed_total{reason=\"bad_frame\"} 1");
    running.await_metric("conclaved_connections_closed_total{reason=\"expired\"} 1");
}

#[test]
fn those_who_take_their_time_hold_up_nobody() {
    let limits = Limits {
        handshake: Duration::from_millis(500),
        frame: Duration::from_millis(700),
        strangers_per_peer: 1000,
        ..Limits::default()
    };
    let running = Running::new(limits);
    let mut good = running.link();
    let mut slow: Vec<_> = (0..200)
        .map(|at| {
            let mut client = if at % 2 == 0 { running.open() } else { running.link() };
            client.send(&[0, 0, 1]);
            client
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..200 {
        assert_eq!(good.request(b"quick"), b"quick");
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(slow.iter_mut().all(Client::is_closed));
    running.await_metric("conclaved_connections{state=\"linked\"} 1");
    running.await_metric("conclaved_connections{state=\"handshake\"} 0");
    running.await_metric("conclaved_connections_closed_total{reason=\"handshake_time\"} 100");
    running.await_metric("conclaved_connections_closed_total{reason=\"slow\"} 100");
    assert_eq!(good.request(b"still here"), b"still here");
}

#[test]
fn connections_are_limited() {
    let limits = Limits { connections: 8, connections_per_host: 3, strangers_per_peer: 4, ..Limits::default() };
    let running = Running::new(limits);
    let mut hosts: Vec<_> = (0..3).map(|_| running.link()).collect();
    let mut fourth = running.open();
    assert_eq!(fourth.ask(b"link"), b"link");
    fourth.frame(b"\x01here");
    assert!(fourth.is_closed());
    running.await_metric("conclaved_connections{state=\"handshake\"} 0");
    let mut strangers: Vec<_> = (0..4).map(|_| running.open()).collect();
    for stranger in &mut strangers {
        assert_eq!(stranger.ask(b"hello"), b"hello");
    }
    let mut fifth = running.open();
    assert_eq!(fifth.read(), [0x82, 0x18, 0xff, 2]);
    assert!(fifth.is_closed());
    assert!(hosts.iter_mut().all(|host| host.request(b"x") == b"x"));
    // Whoever leaves makes room.
    drop(strangers);
    drop(hosts);
    running.await_metric("conclaved_connections{state=\"linked\"} 0");
    running.link();
}

#[test]
fn workers_grow_when_all_are_held_up() {
    let limits =
        Limits { min_workers: 2, workers: 12, workers_per_host: 10, workers_for_strangers: 1, ..Limits::default() };
    let running = Running::new(limits);
    let mut good = running.link();
    let mut held: Vec<_> = (0..9).map(|_| running.link()).collect();
    // Strangers have one worker at a time.
    let mut strangers: Vec<_> = (0..3).map(|_| running.open()).collect();
    let begun = Instant::now();
    strangers.iter_mut().for_each(|client| client.frame(b"nap"));
    held.iter_mut().for_each(|client| client.frame(b"\x01nap"));
    assert_eq!(good.request(b"quick"), b"quick");
    assert!(begun.elapsed() < Duration::from_millis(250), "{:?}", begun.elapsed());
    assert!(held.iter_mut().all(|client| client.read() == b"\x01nap"));
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    assert!(strangers.iter_mut().all(|client| client.read() == b"nap"));
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    // More at once than the host may have wait for their turn.
    held.extend((0..3).map(|_| running.link()));
    held.iter_mut().for_each(|client| client.frame(b"\x01nap"));
    assert!(held.iter_mut().all(|client| client.read() == b"\x01nap"));
}

#[test]
fn an_expelled_host_is_closed_at_once() {
    let running = Running::new(Limits::default());
    let (mut idle, mut busy, mut stranger) = (running.link(), running.link(), running.open());
    busy.frame(b"\x01nap");
    thread::sleep(Duration::from_millis(50));
    running.server.expel(|host| *host == HOST);
    assert!(idle.is_closed() && busy.is_closed());
    assert_eq!(stranger.ask(b"hello"), b"hello");
    running.await_metric("conclaved_connections_closed_total{reason=\"expelled\"} 2");
}

#[test]
fn those_who_wait_for_their_turn_end_too() {
    let running = Running::new(Limits { workers_per_host: 1, ..Limits::default() });
    let nap = |host: &mut Vec<Client>| host.iter_mut().for_each(|client| client.frame(b"\x01nap"));
    let mut host: Vec<_> = (0..5).map(|_| running.link()).collect();
    nap(&mut host);
    thread::sleep(Duration::from_millis(50));
    running.server.expel(|host| *host == HOST);
    // Clients see the end in any case; the server is to see it, too.
    running.await_metric("conclaved_connections_closed_total{reason=\"expelled\"} 5");
    let mut host: Vec<_> = (0..5).map(|_| running.link()).collect();
    nap(&mut host);
    thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    assert!(running.server.stop());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn strangers_leave_memory_to_hosts() {
    let running = Running::new(Limits { memory: 16 << 20, ..Limits::default() });
    let mut stranger = running.open();
    // What brings a domain may be that long.
    let mut frame = (8_u32 << 20).to_be_bytes().to_vec();
    frame.extend([0x85, 1]);
    frame.resize(5 << 20, 0);
    let _ = stranger.0.write_all(&frame);
    running.await_metric("conclaved_connections_closed_total{reason=\"memory\"} 1");
    let mut host = running.link();
    let part = [&[0][..], &[7; 64 * 1024]].concat();
    (0..80).for_each(|_| host.frame(&part));
    host.frame(&[1]);
    assert_eq!(host.read().len(), part.len());
}

#[test]
fn links_that_are_over_end_with_their_request() {
    let running = Running::new(Limits::default());
    let (mut idle, mut busy, mut stranger) = (running.link(), running.link(), running.open());
    busy.frame(b"\x01nap");
    thread::sleep(Duration::from_millis(50));
    running.server.end_links();
    assert!(idle.is_closed());
    assert_eq!(busy.read(), b"\x01nap");
    assert!(busy.is_closed());
    assert_eq!((stranger.ask(b"link"), stranger.request(b"x")), (b"link".to_vec(), b"x".to_vec()));
}

#[test]
fn at_the_end_what_is_under_way_is_finished() {
    let running = Running::new(Limits::default());
    let (mut idle, mut busy) = (running.link(), running.link());
    busy.frame(b"\x01nap");
    thread::sleep(Duration::from_millis(50));
    assert!(running.server.stop());
    assert_eq!(busy.read(), b"\x01nap");
    assert!(busy.is_closed() && idle.is_closed());
    assert!(!running.path("s").exists() && !running.path("admin").exists());
}

/// `cargo test --release --lib fleet::tests::speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn speed() {
    for (what, spin) in [("with lookout", 50), ("without", 0)] {
        let running = Running::new(Limits { spin: Duration::from_micros(spin), ..Limits::default() });
        let mut client = running.link();
        let mut took: Vec<_> = (0..20_000)
            .map(|_| {
                let begun = Instant::now();
                client.request(&[5; 200]);
                begun.elapsed()
            })
            .collect();
        took.sort();
        println!("{what}: p50 {:?} p99 {:?}", took[10_000], took[19_800]);
        for threads in [2, 8] {
            let begun = Instant::now();
            thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        let mut client = running.link();
                        (0..20_000).for_each(|_| drop(client.request(&[5; 200])));
                    });
                }
            });
            println!("{what}: {threads} threads: {:.0}/s", f64::from(threads * 20_000) / begun.elapsed().as_secs_f64());
        }
    }
}

#[test]
fn who_shows_the_token_of_a_host_is_not_the_host() {
    let limits = Limits { connections_per_host: 2, handshake: Duration::from_millis(300), ..Limits::default() };
    let running = Running::new(limits);
    let mut shown: Vec<_> = (0..10)
        .map(|_| {
            let mut thief = running.open();
            assert_eq!(thief.ask(b"link"), b"link");
            thief
        })
        .collect();
    let mut host = running.link();
    assert!(shown.iter_mut().all(Client::is_closed));
    assert_eq!(host.request(b"still here"), b"still here");
    running.await_metric("conclaved_connections_closed_total{reason=\"handshake_time\"} 10");
}
