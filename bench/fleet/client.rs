//! A host without a PKCS#11 module, which does nothing but shake hands: for measuring what that costs
//! an HSM. Arguments: the host's key, a file with the domain's history (a line of hexadecimal digits
//! each: the origin, the newest token, the entries between), the hash of a state on the way, and an
//! HSM's Unix socket. Reads lines "negotiate COUNT THREADS", "connect COUNT THREADS" and "hold COUNT",
//! which keeps the connections until "drop", and answers each with a line of JSON.

use std::error::Error;
use std::io::{BufRead, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use conclave::hsm::session::{self, FRAME_MAX, Follower, HostKey, HsmId, Link, Process, Reply, Request, Session};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const PATIENCE: Duration = Duration::from_secs(30);
/// Seconds.
const LIFETIME: u64 = 3600;
/// Negotiations on one connection; an HSM takes no more than 16 clear messages on each.
const ON_ONE: usize = 12;

struct Host {
    key: HostKey,
    process: Process,
    follower: Follower,
    socket: String,
    hsm: HsmId,
}

fn main() -> Result<()> {
    let host = Host::new()?;
    let session = host.negotiate(&mut host.open()?)?;
    let mut held = Vec::new();
    println!("{{}}");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<usize>().ok()).unwrap_or(1);
        let (count, threads) = (number(1), number(2));
        let begun = Instant::now();
        match words.first().copied() {
            Some("negotiate") => in_threads(threads, || {
                let mut stream = host.open()?;
                for done in 1..=count / threads {
                    host.negotiate(&mut stream)?;
                    if done % ON_ONE == 0 {
                        stream = host.open()?;
                    }
                }
                Ok(())
            })?,
            Some("connect") => in_threads(threads, || {
                for _ in 0..count / threads {
                    host.connect(&session)?;
                }
                Ok(())
            })?,
            Some("hold") => {
                for _ in 0..count {
                    held.push(host.connect(&session)?);
                }
            }
            Some("drop") => held.clear(),
            _ => return Err(format!("no such command: {line}").into()),
        }
        println!("{{\"seconds\": {}}}", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

fn in_threads(threads: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        running.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })
}

impl Host {
    fn new() -> Result<Self> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let [key, history, hash, socket] = &arguments[..] else { return Err("wants four arguments".into()) };
        let history = std::fs::read_to_string(history)?;
        let mut tokens = history.lines().map(hex::decode).collect::<std::result::Result<Vec<_>, _>>()?.into_iter();
        let (Some(origin), Some(newest)) = (tokens.next(), tokens.next()) else { return Err("no history".into()) };
        let hash = hex::decode(hash)?;
        let hash = hash.first_chunk().filter(|_| hash.len() == 48).ok_or("a hash has 48 bytes")?;
        let follower = session::replay(&origin, &newest, &tokens.collect::<Vec<_>>(), hash)?;
        let mut host = Self {
            key: HostKey::from_pem(&std::fs::read(key)?, None)?,
            process: Process::new()?,
            follower,
            socket: socket.clone(),
            hsm: [0; 16],
        };
        let reply = ask(&mut host.open()?, &Request::Status.to_wire()?)?;
        match Reply::decode(&reply).map_err(|failure| failure.to_string())? {
            Reply::Status(status) => host.hsm = status.hsm,
            _ => return Err("no status".into()),
        }
        Ok(host)
    }

    fn open(&self) -> Result<UnixStream> {
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    fn negotiate(&self, stream: &mut UnixStream) -> Result<Session> {
        let (negotiation, wire) = session::negotiate(&self.key, &self.process, &self.follower, &self.hsm, LIFETIME)?;
        let reply = ask(stream, &wire)?;
        Ok(negotiation.finish(&self.follower, &reply).map_err(|failure| failure.to_string())?)
    }

    fn connect(&self, session: &Session) -> Result<(UnixStream, Link)> {
        let mut stream = self.open()?;
        let (connecting, wire) = session.connect(&self.follower, &self.hsm)?;
        let reply = ask(&mut stream, &wire)?;
        let finished = connecting.finish(session, &self.process, &self.follower, &reply);
        let (mut link, hello) = finished.map_err(|failure| failure.to_string())?;
        link.greeted(&ask(&mut stream, &hello)?)?;
        Ok((stream, link))
    }
}

/// Sends what has its length in front, and gives the answer without.
fn ask(stream: &mut UnixStream, wire: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(wire)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_MAX {
        return Err("a frame is too long".into());
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
