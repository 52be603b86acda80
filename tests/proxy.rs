//! `conclave-proxy` as a process: what it keeps, gives, refuses and survives.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const MIB: usize = 1024 * 1024;

struct Proxy {
    child: Child,
    address: String,
}

impl Proxy {
    fn start(data: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_conclave-proxy"))
            .args(["--listen", "127.0.0.1:0", "--log-level", "debug", "--log"])
            .arg(data.join("log"))
            .arg("--data")
            .arg(data.join("data"))
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect("it says where it listens").to_owned();
        Self { child, address }
    }

    fn signal(&mut self, signal: i32) -> ExitStatus {
        // SAFETY: the child is this process's own and has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id().try_into().unwrap(), signal) }, 0);
        self.child.wait().unwrap()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// One request on a connection of its own.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        Answer::read(&mut stream)
    }

    /// The new message's id.
    fn send(&self, to: &str, body: &[u8]) -> String {
        let answer = self.ask("POST", &format!("/v1/messages/{to}"), FROM, body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        let id: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        id["id"].as_str().unwrap().to_owned()
    }

    fn get(&self, path_and_query: &str) -> Answer {
        self.ask("GET", &format!("/v1/messages/{path_and_query}"), "", b"")
    }

    /// The bytes of the next message and its id.
    fn take(&self, path_and_query: &str) -> Option<(Vec<u8>, String)> {
        let answer = self.get(path_and_query);
        match answer.status {
            200 => Some((answer.body.clone(), answer.header("x-conclave-id"))),
            204 => None,
            status => panic!("{status} {}", answer.text()),
        }
    }

    fn acknowledge(&self, region: &str, id: &str) -> u16 {
        self.ask("DELETE", &format!("/v1/messages/{region}/{id}"), "", b"").status
    }

    fn metric(&self, name: &str) -> Option<u64> {
        let text = self.ask("GET", "/metrics", "", b"").text();
        let line =
            text.lines().find_map(|line| line.strip_prefix(&format!("conclave_proxy_{name} ")).map(str::to_owned));
        line.map(|value| value.parse().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const FROM: &str = "X-Conclave-From: us/0a\r\n";

struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    /// To the end of the connection.
    fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
        let headers = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, headers, body: bytes[end + 4..].to_vec() }
    }

    fn header(&self, name: &str) -> String {
        let lines = self.headers.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next().unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

#[test]
fn messages_reach_the_region_and_the_instance_oldest_first() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(dir.path(), &[]);
    assert_eq!(proxy.take("eu?instance=one"), None);
    let ids = [("eu", "1"), ("eu/one", "2"), ("eu/two", "3"), ("eu", "4"), ("Z%C3%BCrich%20%26", "5")]
        .map(|(to, text)| proxy.send(to, text.as_bytes()));
    let answer = proxy.get("eu?instance=one");
    assert_eq!((answer.header("x-conclave-id"), answer.header("x-conclave-from")), (ids[0].clone(), "us/0a".into()));
    let taken = [(); 3].map(|()| proxy.take("eu?instance=one").map(|(text, _)| text));
    assert_eq!(taken, [Some(b"2".to_vec()), Some(b"4".to_vec()), None]);
    assert_eq!(proxy.take("eu"), None, "the Region alone does not get what is for an instance");
    assert_eq!(proxy.take("eu?instance=two"), Some((b"3".to_vec(), ids[2].clone())));
    assert_eq!(proxy.take("Z%C3%BCrich%20%26").unwrap().0, b"5");

    assert_eq!(proxy.acknowledge("us", &ids[0]), 404, "another Region's");
    assert_eq!([0, 0].map(|_| proxy.acknowledge("eu", &ids[0])), [204, 404]);
    assert_eq!(proxy.metric("queue_messages{region=\"eu\"}"), Some(3));
    assert_eq!(proxy.metric("queue_bytes{region=\"Zürich &\"}"), Some(1));
    assert_eq!(proxy.metric("messages_accepted_total"), Some(5));
    assert_eq!(proxy.metric("messages_delivered_total"), Some(5));
    assert_eq!(proxy.metric("messages_acknowledged_total"), Some(1));
    assert_eq!(proxy.metric("refused_total{reason=\"not_found\"}"), Some(2));
    assert_eq!(proxy.ask("GET", "/healthz", "", b"").text(), "ok\n");
}

#[test]
fn what_is_not_acknowledged_is_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(dir.path(), &[]);
    let id = proxy.send("eu", b"again");
    let begun = Instant::now();
    assert_eq!(proxy.take("eu?lease=2").unwrap().1, id);
    assert_eq!(proxy.take("eu"), None);
    // Who waits gets it when the lease ends, not later.
    assert_eq!(proxy.take("eu?lease=1&wait=20").unwrap().1, id);
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(1900) && waited < Duration::from_secs(10), "{waited:?}");
}

#[test]
fn who_waits_gets_a_message_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let mut proxy = Proxy::start(dir.path(), &["--max-connections", "400"]);
    let begun = Instant::now();
    assert_eq!(proxy.take("eu?wait=1"), None);
    assert!(begun.elapsed() >= Duration::from_secs(1));

    let mut listeners: Vec<TcpStream> = (0..200).map(|_| proxy.connect()).collect();
    for (n, listener) in listeners.iter_mut().enumerate() {
        let request =
            format!("GET /v1/messages/eu?wait=30&instance=i{n} HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n");
        listener.write_all(request.as_bytes()).unwrap();
    }
    while proxy.metric("listeners") != Some(200) {
        assert!(begun.elapsed() < Duration::from_secs(30));
        thread::sleep(Duration::from_millis(20));
    }
    // They wait without a thread each.
    let threads = std::fs::read_dir(format!("/proc/{}/task", proxy.child.id())).unwrap().count();
    assert!(threads < 50, "{threads} threads");
    let mut sent = BTreeSet::new();
    for n in 0..100 {
        sent.insert(proxy.send("eu", &[n]));
        sent.insert(proxy.send(&format!("eu/i{}", 100 + n), &[n, n]));
    }
    // At most one each; 100 were for those of whom some had taken one that was for all.
    thread::sleep(Duration::from_millis(500));
    let status = proxy.signal(libc::SIGTERM);
    assert!(status.success(), "{status}");
    let given: Vec<Answer> = listeners.iter_mut().map(Answer::read).filter(|answer| answer.status == 200).collect();
    let ids: BTreeSet<String> = given.iter().map(|answer| answer.header("x-conclave-id")).collect();
    assert_eq!(ids.len(), given.len(), "nobody gets another's");
    assert!(given.len() >= 100 && ids.is_subset(&sent), "{}", given.len());

    // Who got none was sent away by SIGTERM, and the rest waits.
    let proxy = Proxy::start(dir.path(), &[]);
    assert_eq!(proxy.metric("queue_messages{region=\"eu\"}"), Some(200));
}

#[test]
fn messages_and_leases_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut proxy = Proxy::start(dir.path(), &[]);
    let ids: Vec<String> = (0..50_u8).map(|n| proxy.send("eu", &vec![n; 1000 * usize::from(n) + 1])).collect();
    assert_eq!(proxy.take("eu?lease=3600").unwrap().1, ids[0]);
    assert_eq!(proxy.take("eu?lease=2").unwrap().1, ids[1]);
    assert_eq!(proxy.acknowledge("eu", &ids[2]), 204);

    let second = Command::new(env!("CARGO_BIN_EXE_conclave-proxy"))
        .args(["--listen", "127.0.0.1:0", "--data"])
        .arg(dir.path().join("data"))
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let why = String::from_utf8(second.stderr).unwrap();
    assert!(why.contains("another conclave-proxy uses it"), "{why}");

    proxy.signal(libc::SIGKILL);
    let mut proxy = Proxy::start(dir.path(), &[]);
    assert_eq!(proxy.metric("queue_messages{region=\"eu\"}"), Some(49));
    assert_eq!(proxy.acknowledge("eu", &ids[0]), 204, "the lease is still there to be ended");
    thread::sleep(Duration::from_secs(2));
    for (n, id) in ids.iter().enumerate().filter(|(n, _)| *n == 1 || *n > 2) {
        let (bytes, taken) = proxy.take("eu").unwrap();
        assert_eq!((&taken, bytes), (id, vec![n.try_into().unwrap(); 1000 * n + 1]));
        assert_eq!(proxy.acknowledge("eu", id), 204);
    }
    assert_eq!(proxy.take("eu"), None);

    // Killed in the middle of sending: what was answered with 201 is there, whole.
    let address = proxy.address.clone();
    let sender = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let (mut sent, mut answer) = (0_u32, [0; 12]);
        loop {
            let body = vec![(sent % 251) as u8; 20_000];
            let head = format!("POST /v1/messages/us HTTP/1.1\r\nHost: p\r\n{FROM}Content-Length: 20000\r\n\r\n");
            let asked = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            if asked.and_then(|()| stream.read_exact(&mut answer)).is_err() {
                return sent;
            }
            assert_eq!(&answer, b"HTTP/1.1 201");
            sent += 1;
            let mut rest = Vec::new();
            while !rest.ends_with(b"}\n") {
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_err() {
                    return sent;
                }
                rest.push(byte[0]);
            }
        }
    });
    thread::sleep(Duration::from_millis(700));
    proxy.signal(libc::SIGKILL);
    let sent = sender.join().unwrap();
    let proxy = Proxy::start(dir.path(), &[]);
    let waiting = proxy.metric("queue_messages{region=\"us\"}").unwrap();
    assert!(sent > 0 && [0, 1].map(|more| u64::from(sent) + more).contains(&waiting), "{sent} {waiting}");
    for n in 0..sent {
        assert_eq!(proxy.take("us").unwrap().0, vec![(n % 251) as u8; 20_000]);
    }
}

#[test]
fn what_has_no_room_is_refused_and_what_is_too_old_ends() {
    let dir = tempfile::tempdir().unwrap();
    let limits = ["--max-messages", "3", "--max-bytes", "1000", "--max-total-bytes", "1500", "--max-regions", "3"];
    let mut proxy = Proxy::start(dir.path(), &limits);
    let post = |proxy: &Proxy, to: &str, size: usize| {
        proxy.ask("POST", &format!("/v1/messages/{to}"), FROM, &vec![7; size]).status
    };
    assert_eq!([1, 1, 1, 1].map(|size| post(&proxy, "eu", size)), [201, 201, 201, 507]);
    assert_eq!([1000, 1].map(|size| post(&proxy, "us", size)), [201, 507]);
    assert_eq!([498, 497].map(|size| post(&proxy, "asia", size)), [507, 201], "no room for all");
    let id = proxy.take("eu?instance=x").unwrap().1;
    assert_eq!(proxy.acknowledge("eu", &id), 204);
    assert_eq!([post(&proxy, "af", 1), post(&proxy, "eu", 1), post(&proxy, "eu", 1)], [507, 201, 507]);
    assert_eq!(proxy.metric("refused_total{reason=\"full\"}"), Some(5));

    assert!(proxy.signal(libc::SIGINT).success());
    let proxy = Proxy::start(dir.path(), &["--ttl", "1", "--max-messages", "3"]);
    let begun = Instant::now();
    while proxy.metric("messages_expired_total") != Some(5) {
        assert!(begun.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(proxy.metric("queue_messages{region=\"eu\"}"), None);
    assert_eq!(post(&proxy, "eu", 1), 201);
    assert_eq!(proxy.take("eu").map(|(bytes, _)| bytes), Some(vec![7]));
}

#[test]
fn only_the_regions_named_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(dir.path(), &["--region", "eu", "--region", "us"]);
    proxy.send("eu", b"1");
    proxy.send("us/x", b"1");
    assert_eq!(proxy.ask("POST", "/v1/messages/asia", FROM, b"1").status, 404);
    assert_eq!(proxy.get("asia").status, 404);
}

#[test]
fn large_messages_pass_and_larger_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(dir.path(), &["--max-memory", "128M"]);
    let largest: Vec<u8> = (0..64 * MIB).map(|n| (n % 253) as u8).collect();
    thread::scope(|scope| {
        // More than memory has room for at once.
        for _ in 0..3 {
            scope.spawn(|| proxy.send("eu", &largest));
        }
    });
    for _ in 0..3 {
        let (bytes, id) = proxy.take("eu?lease=600").unwrap();
        assert!(bytes == largest, "{} bytes", bytes.len());
        assert_eq!(proxy.acknowledge("eu", &id), 204);
    }
    let mut larger = largest;
    larger.push(0);
    let answer = proxy.ask("POST", "/v1/messages/eu", FROM, &larger);
    assert_eq!((answer.status, answer.header("connection").as_str()), (413, "close"));
    // One that does not say how long it is.
    let mut stream = proxy.connect();
    let head = format!("POST /v1/messages/eu HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n{FROM}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    for chunk in larger.chunks(MIB) {
        stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).unwrap();
        stream.write_all(chunk).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(Answer::read(&mut stream).status, 413);
    assert_eq!(proxy.metric("refused_total{reason=\"too_large\"}"), Some(2));
    assert_eq!(proxy.metric("queue_bytes{region=\"eu\"}"), None);
}

#[test]
fn bad_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(dir.path(), &[]);
    let long = format!("/v1/messages/{}", "r".repeat(256));
    let name = "r".repeat(255);
    for (method, path, headers, body, status) in [
        ("POST", "/v1/messages/eu", "", "x", 400),
        ("POST", "/v1/messages/eu", "X-Conclave-From: a/b/c\r\n", "x", 400),
        ("POST", "/v1/messages/eu", "X-Conclave-From: \u{fc}\r\n", "x", 400),
        ("POST", "/v1/messages/eu", FROM, "", 400),
        ("POST", "/v1/messages/", FROM, "x", 400),
        ("POST", "/v1/messages/eu/", FROM, "x", 400),
        ("POST", "/v1/messages/eu%0a", FROM, "x", 400),
        ("POST", "/v1/messages/e%2Fu", FROM, "x", 400),
        ("POST", "/v1/messages/%ff", FROM, "x", 400),
        ("POST", "/v1/messages/%2e%2e", FROM, "x", 400),
        ("POST", &long, FROM, "x", 400),
        ("POST", &format!("/v1/messages/{name}"), FROM, "x", 201),
        ("POST", "/v1/messages/eu/a/b", FROM, "x", 404),
        ("GET", "/v1/messages/eu?wait=31", "", "", 400),
        ("GET", "/v1/messages/eu?wait=1&wait=1", "", "", 400),
        ("GET", "/v1/messages/eu?lease=0", "", "", 400),
        ("GET", "/v1/messages/eu?who=me", "", "", 400),
        ("GET", "/v1/messages/eu/one", "", "", 405),
        ("PUT", "/v1/messages/eu", "", "x", 405),
        ("DELETE", "/v1/messages/eu", "", "", 405),
        ("DELETE", "/v1/messages/eu/none", "", "", 404),
        ("POST", "/metrics", "", "", 405),
        ("GET", "/", "", "", 404),
        ("GET", "/v1/messages", "", "", 404),
    ] {
        let answer = proxy.ask(method, path, headers, body.as_bytes());
        assert_eq!(answer.status, status, "{method} {path} {headers}: {}", answer.text());
    }
    for raw in ["nonsense\r\n\r\n", "GET / HTTP/1.1\r\nbad header\r\n\r\n"] {
        let mut stream = proxy.connect();
        stream.write_all(raw.as_bytes()).unwrap();
        assert_eq!(Answer::read(&mut stream).status, 400, "{raw}");
    }
    let mut stream = proxy.connect();
    stream.write_all(format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000)).as_bytes()).unwrap();
    let mut answer = Vec::new();
    // The connection may be reset, as not everything was read.
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(proxy.ask("GET", "/healthz", "", b"").status, 200);
    // No log has what a message says.
    proxy.send("eu", b"SECRET-BODY");
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("refused") && log.contains("a message came") && !log.contains("SECRET"), "{log}");
}

#[test]
fn slow_clients_and_too_many_do_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(dir.path(), &["--max-connections", "20"]);
    // Half a request on each of the places but one.
    let mut slow: Vec<TcpStream> = (0..19).map(|_| proxy.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ").unwrap();
    }
    let begun = Instant::now();
    proxy.send("eu", b"meanwhile");
    let last = proxy.connect();
    while !matches!(begun.elapsed().as_secs(), 10..) {
        // The last place may not have been taken yet.
        let mut turned_away = proxy.connect();
        let mut answer = Vec::new();
        turned_away.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        if turned_away.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 503") {
            break;
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "somebody is told that there are too many");
    drop(last);
    // Those who never finish their request are sent away in time.
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    let waited = begun.elapsed();
    assert!(waited > Duration::from_secs(10) && waited < Duration::from_secs(40), "{waited:?}");
    assert_eq!(proxy.take("eu").unwrap().0, b"meanwhile");
    assert!(proxy.metric("refused_total{reason=\"connections\"}") > Some(0));
}

#[test]
fn wrong_usage_and_failures_have_their_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_conclave-proxy"));
        let done = command.arg("--data").arg(&data).args(more).output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    assert_eq!(run(&["--max-bytes", "x"]).0, Some(2));
    assert_eq!(run(&["--region", "a/b"]).0, Some(2));
    assert_eq!(run(&["--help"]).0, Some(0));
    assert!(matches!(run(&["--listen", "999.0.0.1:1"]), (Some(1), why) if why.contains("cannot listen at")));
    std::fs::write(data.join("messages.db"), "this is no database, but it is long enough to be read as one").unwrap();
    let (code, why) = run(&["--listen", "127.0.0.1:0"]);
    assert!(code == Some(1) && why.contains("damaged"), "{why}");
}
