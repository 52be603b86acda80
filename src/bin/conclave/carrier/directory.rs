//! A directory as carrier: DIR/REGION/[INSTANCE/]TIME-RANDOM.msg, each written atomically. A Region
//! has one reader. What no one acknowledges stays until somebody deletes the file.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Address, Carrier, Delivery, LEASE, MAX_MESSAGE, check_size, instance};
use crate::output::Failure;

/// The first line of each file. The lines "to ADDRESS" and "from ADDRESS" and an empty one follow.
const FORMAT: &str = "conclave message 1";
const SUFFIX: &str = ".msg";
/// What the lines before the message may have, in bytes.
const MAX_HEAD: usize = 4096;
const POLL: Duration = Duration::from_millis(250);

pub(crate) struct Directory {
    root: PathBuf,
    /// Files that were given, and when they may be given again.
    given: Mutex<HashMap<PathBuf, Instant>>,
}

impl Directory {
    pub(crate) fn new(root: &Path) -> Result<Self, Failure> {
        match fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => Ok(Self { root: root.to_owned(), given: Mutex::default() }),
            Ok(_) => Err(Failure::usage(format!("{} is no directory", root.display()))),
            Err(error) => Err(failed("use", root, &error)),
        }
    }

    /// The directory of an address. Names are encoded, so that none leads elsewhere.
    fn of(&self, address: &Address) -> PathBuf {
        self.root.join(address.encoded())
    }

    /// The oldest message that is for one of the addresses and was not given lately.
    fn oldest(&self, addresses: &[Address]) -> Result<Option<Delivery>, Failure> {
        let mut found = Vec::new();
        for address in addresses {
            let dir = self.of(address);
            for name in messages(&dir).map_err(|error| failed("read", &dir, &error))? {
                found.push((name.clone(), dir.join(name), address));
            }
        }
        found.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        let now = Instant::now();
        for (_, path, address) in found {
            if self.lock().get(&path).is_some_and(|until| *until > now) {
                continue;
            }
            let message = match read(&path) {
                Ok(message) => message,
                // Acknowledged meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    set_aside(&path, &error);
                    continue;
                }
                Err(error) => return Err(failed("read", &path, &error)),
            };
            // Where file names ignore case, two addresses may share a directory.
            if message.to != *address {
                continue;
            }
            self.lock().insert(path.clone(), now + Duration::from_secs(LEASE));
            let id = path.into_os_string().into_string();
            let id = id.map_err(|_| Failure::usage("the name of the directory is not UTF-8"))?;
            return Ok(Some(Delivery { id, from: message.from, message: message.bytes }));
        }
        Ok(None)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Instant>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carrier for Directory {
    fn send(&self, to: &Address, from: &Address, message: &[u8]) -> Result<(), Failure> {
        check_size(message)?;
        let dir = self.of(to);
        make(&self.root, &dir).map_err(|error| failed("make", &dir, &error))?;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let name = format!("{time:020}-{}", instance()?);
        let (hidden, path) = (dir.join(format!(".{name}.new")), dir.join(format!("{name}{SUFFIX}")));
        let head = format!("{FORMAT}\nto {}\nfrom {}\n\n", to.encoded(), from.encoded());
        let written = create(&hidden)
            .and_then(|mut file| {
                file.write_all(head.as_bytes())?;
                file.write_all(message)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&hidden, &path))
            .and_then(|()| sync(&dir));
        if written.is_err() {
            // What cannot be removed was not made, or has its name.
            let _ = fs::remove_file(&hidden);
        }
        written.map_err(|error| failed("write", &path, &error))
    }

    fn receive(&self, region: &str, instance: &str, wait: Duration) -> Result<Option<Delivery>, Failure> {
        let until = Instant::now().checked_add(wait);
        let addresses = [Address::new(region, None), Address::new(region, Some(instance))];
        let addresses = addresses.into_iter().collect::<Result<Vec<_>, _>>().map_err(Failure::usage)?;
        loop {
            let found = self.oldest(&addresses)?;
            let left = until.map_or(POLL, |until| until.saturating_duration_since(Instant::now()));
            if found.is_some() || left.is_zero() {
                return Ok(found);
            }
            sleep(left.min(POLL));
        }
    }

    fn acknowledge(&self, id: &str) -> Result<(), Failure> {
        let path = Path::new(id);
        if self.lock().remove(path).is_none() {
            return Err(Failure::new(format!("{id} is no message that was given")));
        }
        let removed = fs::remove_file(path).and_then(|()| path.parent().map_or(Ok(()), sync));
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", path, &error)),
            _ => Ok(()),
        }
    }
}

struct Message {
    to: Address,
    from: Address,
    bytes: Vec<u8>,
}

/// ErrorKind::InvalidData for what is no message.
fn read(path: &Path) -> io::Result<Message> {
    let mut contents = Vec::new();
    // A pipe would hold the reader up.
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is no file"));
    }
    File::open(path)?.take((MAX_HEAD + MAX_MESSAGE + 1) as u64).read_to_end(&mut contents)?;
    parse(contents).map_err(|reason| io::Error::new(ErrorKind::InvalidData, reason))
}

fn parse(mut contents: Vec<u8>) -> Result<Message, String> {
    let head = contents.get(..contents.len().min(MAX_HEAD)).unwrap_or_default();
    let end = head.windows(2).position(|two| two == b"\n\n").ok_or("it is no message of this format")?;
    let text = std::str::from_utf8(head.get(..end).unwrap_or_default()).map_err(|_| "its head is not UTF-8")?;
    let lines: Vec<&str> = text.split('\n').collect();
    let &[FORMAT, to, from] = lines.as_slice() else {
        return Err("it is no message of this format".to_owned());
    };
    let address = |line: &str, name: &str| Address::decode(line.strip_prefix(name).unwrap_or_default());
    let (to, from) = (address(to, "to ")?, address(from, "from ")?);
    contents.drain(..end + 2);
    if contents.len() > MAX_MESSAGE {
        return Err("it is longer than a message may be".to_owned());
    }
    Ok(Message { to, from, bytes: contents })
}

/// The names of the messages in a directory; none if it does not exist.
fn messages(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().into_string();
        names.extend(name.ok().filter(|name| name.ends_with(SUFFIX) && !name.starts_with('.')));
    }
    Ok(names)
}

/// Gives a file that is no message another name, so that it is not looked at again.
fn set_aside(path: &Path, error: &io::Error) {
    let mut name = path.as_os_str().to_owned();
    name.push(".refused");
    let done = fs::rename(path, &name).map_or("it stays", |()| "its name now ends with .refused");
    eprintln!("conclave: {} is skipped: {error}; {done}", path.display());
}

/// Makes a directory below `root` durably.
fn make(root: &Path, dir: &Path) -> io::Result<()> {
    if dir == root || dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(root);
    make(root, parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => sync(parent),
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Makes what was done in a directory durable, as far as its file system can.
fn sync(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        done => done,
    }
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot {doing} {}: {error}", path.display());
    if error.kind() == ErrorKind::NotFound { Failure::not_found(message) } else { Failure::new(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn good<T>(done: Result<T, Failure>) -> T {
        done.unwrap_or_else(|_| panic!("it failed"))
    }

    fn now(carrier: &Directory, region: &str, instance: &str) -> Option<Delivery> {
        good(carrier.receive(region, instance, Duration::ZERO))
    }

    #[test]
    fn messages_come_oldest_first_to_the_region_and_the_instance() {
        let dir = tempfile::tempdir().unwrap();
        let carrier = good(Directory::new(dir.path()));
        let from = address("Zürich ?/0a");
        for (to, message) in
            [("eu", "1"), ("eu/one", "2"), ("eu/two", "3"), ("us", "4"), ("eu", ""), ("../us", "5"), ("eu", "\n\n7")]
        {
            match to.parse() {
                Ok(to) => good(carrier.send(&to, &from, message.as_bytes())),
                Err(_) => assert_eq!(to, "../us"),
            }
        }
        let mut taken = Vec::new();
        while let Some(delivery) = now(&carrier, "eu", "one") {
            assert_eq!(delivery.from, from);
            taken.push(delivery);
        }
        let texts: Vec<_> = taken.iter().map(|delivery| delivery.message.as_slice()).collect();
        assert_eq!(texts, [&b"1"[..], b"2", b"", b"\n\n7"]);
        for delivery in &taken {
            good(carrier.acknowledge(&delivery.id));
        }
        assert!(carrier.acknowledge("/etc/passwd").is_err());
        // A reader that begins anew finds what was not acknowledged, and no more.
        let carrier = good(Directory::new(dir.path()));
        assert!(now(&carrier, "eu", "one").is_none());
        assert_eq!(now(&carrier, "eu", "two").unwrap().message, b"3");
        assert!(carrier.receive("us", "", Duration::ZERO).is_err(), "an instance has a name");
    }

    #[test]
    fn what_is_no_message_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let carrier = good(Directory::new(dir.path()));
        good(carrier.send(&address("eu"), &address("us"), b"good"));
        let eu = dir.path().join("eu");
        for (name, contents) in [
            ("0.msg", ""),
            ("1.msg", "conclave message 1\nto eu\nfrom u%0as\n\nx"),
            ("2.msg", "conclave message 2\nto eu\nfrom us\n\nx"),
            ("3.msg", "conclave message 1\nto other\nfrom us\n\nof another directory"),
            (".4.msg", "half written"),
        ] {
            fs::write(eu.join(name), contents).unwrap();
        }
        assert_eq!(now(&carrier, "eu", "one").unwrap().message, b"good");
        assert!(now(&carrier, "eu", "one").is_none());
        let refused = fs::read_dir(&eu).unwrap().flatten().filter(|e| e.path().extension().unwrap() == "refused");
        assert_eq!(refused.count(), 3);
    }

    #[test]
    fn a_message_that_comes_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let carrier = good(Directory::new(dir.path()));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| carrier.receive("eu", "one", Duration::from_secs(20)));
            good(carrier.send(&address("eu/one"), &address("us"), b"late"));
            assert_eq!(good(waiting.join().unwrap()).unwrap().message, b"late");
        });
        let begun = Instant::now();
        assert!(good(carrier.receive("eu", "one", Duration::from_millis(300))).is_none(), "it is not given twice");
        assert!(begun.elapsed() >= Duration::from_millis(300));
        assert!(carrier.send(&address("eu"), &address("us"), &vec![0; MAX_MESSAGE + 1]).is_err());
    }
}
