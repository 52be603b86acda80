//! `conclaved`, the program: what it tells, how it keeps to itself, whom it leaves waiting, how it ends.

#![cfg(feature = "conclaved")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use conclave::hsm::Ticket;
use conclave::hsm::wire::{Answer, Request, RequestHeader, Room, decode_reply, encode_request};
use serde_json::Value;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);
const BUSY: [u8; 4] = [0x82, 0x18, 0xff, 2];
const TOO_LARGE: [u8; 4] = [0x82, 0x18, 0xff, 5];

struct Running {
    child: Child,
    told: Value,
    dir: TempDir,
}

impl Running {
    fn new(more: &[&str]) -> Self {
        Self::at(tempfile::tempdir().unwrap(), more)
    }

    fn at(dir: TempDir, more: &[&str]) -> Self {
        // Whoever it becomes may make its sockets there.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
        let mut child = Self::command(&dir, more).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told = serde_json::from_str(&line).unwrap_or_default();
        Self { child, told, dir }
    }

    fn command(dir: &TempDir, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_conclaved"));
        command
            .args(["--name", "a", "--json", "--listen", "tcp:127.0.0.1:0", "--metrics", "127.0.0.1:0"])
            .arg("--listen")
            .arg(format!("unix:{}", dir.path().join("s").display()))
            .arg("--admin")
            .arg(dir.path().join("admin"))
            .args(more)
            .env("HOME", dir.path().join("nowhere"))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.path().join("log")).unwrap());
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.child.id()).into()
    }

    fn tcp(&self) -> Client<TcpStream> {
        let address = self.told["listen"][0].as_str().unwrap().strip_prefix("tcp:").unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Client(stream)
    }

    fn unix(&self, name: &str) -> Client<UnixStream> {
        let stream = UnixStream::connect(self.path(name)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Client(stream)
    }

    fn admin(&self) -> Client<UnixStream> {
        let mut client = self.unix("admin");
        assert_eq!(client.ask(&[0x81, 4]), [0x81, 4]);
        client
    }

    /// Status and body.
    fn http(&self, path: &str) -> (u32, String) {
        let mut stream = TcpStream::connect(self.told["metrics"].as_str().unwrap()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.http("/metrics").1;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    fn signal(&self, signal: i32) {
        let id = i32::try_from(self.child.id()).unwrap();
        // SAFETY: the child is there until it is waited for.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    }

    fn await_end(&mut self) -> ExitStatus {
        let until = Instant::now() + SOON;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None if Instant::now() > until => panic!("it goes on\n{}", self.log()),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client<S>(S);

impl<S: Read + Write> Client<S> {
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn try_ask(&mut self, frame: &[u8]) -> std::io::Result<Vec<u8>> {
        self.0.write_all(&[&u32::try_from(frame.len()).unwrap().to_be_bytes(), frame].concat())?;
        self.read()
    }

    fn ask(&mut self, frame: &[u8]) -> Vec<u8> {
        self.try_ask(frame).unwrap()
    }

    fn read(&mut self) -> std::io::Result<Vec<u8>> {
        let mut prefix = [0; 4];
        self.0.read_exact(&mut prefix)?;
        let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
        self.0.read_exact(&mut frame)?;
        Ok(frame)
    }

    /// At an admin socket.
    fn try_ping(&mut self) -> std::io::Result<()> {
        let header = RequestHeader { version: 0, hash: [0; 48], stamp: 0, heard: 0, ticket: Ticket::public() };
        let mut message = conclave::hsm::Wiped::default();
        encode_request(&header, &Request::Ping, &mut message).unwrap();
        let reply = self.try_ask(&message)?;
        let room = Room::new();
        let (_, answer) = decode_reply(&reply, &room).unwrap();
        assert!(matches!(answer, Answer::Done), "{answer:?}");
        Ok(())
    }

    fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        // A reset is an end too.
        self.0.read_to_end(&mut rest).map_or(true, |_| rest.is_empty())
    }
}

#[test]
fn it_says_who_it_is_and_that_it_is_no_member() {
    let running = Running::new(&["--log-format", "json"]);
    let [id, signing, agreement] =
        ["id", "signing", "agreement"].map(|name| hex::decode(running.told[name].as_str().unwrap()).unwrap());
    assert_eq!((id.len(), signing.len(), agreement.len()), (16, 32, 32));
    // [0, id, kid, null, 0, null, false]
    let status = [&[0x87, 0, 0x50], &id[..], &[0x58, 32], &signing[..], &[0xf6, 0, 0xf6, 0xf4]].concat();
    assert_eq!(running.tcp().ask(&[0x81, 0]), status);
    assert_eq!(running.unix("s").ask(&[0x81, 0]), status);
    // Whoever is no administrator does not become one, and nobody is served.
    assert_eq!(running.unix("s").ask(&[0x81, 4]), [0x82, 0x18, 0xff, 1]);
    let connect = [&[0x83, 3, 0x41, 0, 0x58, 120][..], &[0; 120]].concat();
    assert_eq!(running.tcp().ask(&connect), [0x82, 0x18, 0xff, 3]);
    running.admin().try_ping().unwrap();

    assert_eq!(running.http("/healthz"), (503, "not a member: no domain yet\n".to_owned()));
    assert_eq!(running.http("/nothing").0, 404);
    assert_eq!(running.metric("conclaved_member"), 0);
    assert_eq!(running.metric("conclaved_clear_total{kind=\"status\",result=\"done\"}"), 2);
    assert_eq!(running.metric("conclaved_clear_total{kind=\"connect\",result=\"not_a_member\"}"), 1);
    assert_eq!(running.metric("conclaved_requests_total{op=\"ping\",result=\"done\"}"), 1);
    for line in running.log().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert!(event["time"].is_string() && event["level"].is_string() && event["message"].is_string(), "{line}");
    }
    // Its keys are its own.
    let other = Running::new(&[]);
    assert!(other.told["id"] != running.told["id"] && other.told["signing"] != running.told["signing"]);
}

#[test]
fn hostile_clients_hold_up_nobody() {
    let running = Running::new(&["--handshake-time", "2", "--max-strangers-per-peer", "40"]);
    let mut good = running.admin();
    // Half frames, byte by byte, up to the limit; the next ones are sent away.
    let mut slow: Vec<_> = (0..40).map(|_| running.tcp()).collect();
    slow.iter_mut().for_each(|client| client.send(&[0, 0, 0x80]));
    let mut one_too_many = running.tcp();
    assert_eq!(one_too_many.read().unwrap(), BUSY);
    assert!(one_too_many.is_closed());
    for round in 0..20 {
        // Some are closed already.
        slow.iter_mut().for_each(|client| drop(client.0.write(&[round])));
        let begun = Instant::now();
        good.try_ping().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        thread::sleep(Duration::from_millis(2));
    }
    assert!(slow.iter_mut().all(Client::is_closed));
    for garbage in [&b"\x16\x03\x01\x02\x00\x01"[..], b"GET / HTTP/1.1\r\n\r\n", &[0, 0, 0, 0], &[0, 1, 0, 1, 0x85, 2]]
    {
        let mut client = running.unix("s");
        client.send(garbage);
        assert_eq!(client.read().unwrap(), TOO_LARGE, "{garbage:?}");
        assert!(client.is_closed());
    }
    // No CBOR, no kind, too much of it, another form of a number, no signature.
    for wrong in [&[0xff][..], &[0x81, 99], &[0x82, 0, 0], &[0x81, 0x18, 0], &[0x82, 2, 0x41, 0], &[0x9f; 60_000]] {
        let mut client = running.tcp();
        let refused = client.ask(wrong);
        assert!(matches!(refused[..], [0x82, 0x18, 0xff, 1 | 3]), "{wrong:02x?}: {refused:02x?}");
    }
    assert!(running.metric("conclaved_connections_turned_away_total") >= 1);
    assert!(running.metric("conclaved_connections_closed_total{reason=\"handshake_time\"}") >= 1);
    good.try_ping().unwrap();
}

#[test]
fn it_keeps_to_itself() {
    // SAFETY: takes and changes nothing.
    let root = unsafe { libc::geteuid() } == 0;
    let running = Running::new(if root { &["--user", "nobody"] } else { &[] });
    running.admin().try_ping().unwrap();
    let status = fs::read_to_string(running.proc("status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".to_owned(), "2".to_owned()));
    let limits = fs::read_to_string(running.proc("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..], ["0", "0", "bytes"]);
    if root {
        assert_eq!(field("Uid:").split_whitespace().collect::<Vec<_>>(), ["65534"; 4]);
        assert!(field("CapEff:").chars().all(|digit| digit == '0'));
        // The files of a process that can be dumped are its user's.
        assert_eq!(fs::metadata(running.proc("environ")).unwrap().uid(), 0);
        // Nothing but sockets, and what the test gave it.
        let given = fs::canonicalize(running.path("log")).unwrap();
        for entry in fs::read_dir(running.proc("fd")).unwrap() {
            let at = fs::read_link(entry.unwrap().path()).unwrap();
            let name = at.to_string_lossy().into_owned();
            let known = ["socket:", "anon_inode:", "pipe:", "/dev/null"].iter().any(|kind| name.starts_with(kind));
            assert!(known || at == given, "{name}");
        }
    }
    let mode = |name| fs::metadata(running.path(name)).unwrap().mode() & 0o777;
    assert_eq!((mode("s"), mode("admin")), (0o660, 0o600));
    let mut files: Vec<_> = fs::read_dir(running.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["admin", "log", "s"]);
}

#[test]
fn it_ends_as_told_under_load_and_leaves_nothing() {
    let mut running = Running::new(&[]);
    let (ended, pings) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut clients: Vec<_> = (0..8).map(|_| running.admin()).collect();
    let status = thread::scope(|scope| {
        for client in &mut clients {
            let (ended, pings) = (&ended, &pings);
            // Each is served until its connection is closed, and not after the end.
            scope.spawn(move || {
                while client.try_ping().is_ok() {
                    assert!(!ended.load(Ordering::Acquire));
                    pings.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while pings.load(Ordering::Relaxed) < 500 {
            thread::sleep(Duration::from_millis(1));
        }
        running.signal(libc::SIGHUP);
        running.signal(libc::SIGTERM);
        let status = running.await_end();
        ended.store(true, Ordering::Release);
        status
    });
    assert_eq!(status.code(), Some(0), "{}", running.log());
    assert!(!running.path("s").exists() && !running.path("admin").exists());
    assert!(running.log().lines().last().unwrap().contains("ended"));
}

#[test]
fn a_place_that_is_taken_is_left_alone_and_one_that_is_deserted_is_not() {
    let mut running = Running::new(&[]);
    let second = Running::command(&running.dir, &["--user", "no such user"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let second = Running::command(&running.dir, &[]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(running.log().contains("another process listens there"), "{}", running.log());
    running.admin().try_ping().unwrap();
    running.signal(libc::SIGKILL);
    running.await_end();
    assert!(fs::symlink_metadata(running.path("s")).unwrap().file_type().is_socket());
    let dir = std::mem::replace(&mut running.dir, tempfile::tempdir().unwrap());
    let again = Running::at(dir, &[]);
    again.admin().try_ping().unwrap();
    assert_eq!(Running::command(&again.dir, &["--max-workers", "0"]).output().unwrap().status.code(), Some(2));
}
