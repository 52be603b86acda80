//! A real PostgreSQL for the tests of one program (`scripts/postgres.sh`): one server for all of them, a
//! database for each. It ends with the program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A server. `start` makes one for a test that stops it; others share [`server`].
pub(crate) struct Server {
    directory: PathBuf,
}

/// The server that all tests of this program share.
pub(crate) fn server() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(Server::start)
}

impl Server {
    pub(crate) fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // The server's user must be able to enter it, as it could not a directory of the test's own.
        let directory = PathBuf::from(format!("/tmp/conclave-postgres-{pid}-{number}"));
        let _ = std::fs::remove_dir_all(&directory);
        script(&["start", path(&directory), &pid.to_string()]);
        Self { directory }
    }

    /// A new database; its address, over TCP with TLS.
    pub(crate) fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("region_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        script(&["database", path(&self.directory), &name])
    }

    /// The same database over the Unix socket.
    pub(crate) fn by_socket(&self, url: &str) -> String {
        let name = url.rsplit_once('?').unwrap().0.rsplit_once('/').unwrap().1;
        let directory = path(&self.directory).replace('/', "%2F");
        format!("postgresql://conclave@{directory}:{}/{name}", self.port())
    }

    pub(crate) fn port(&self) -> u16 {
        std::fs::read_to_string(self.directory.join("port")).unwrap().trim().parse().unwrap()
    }

    /// Runs SQL in a database as its owner; what it answers, one row a line.
    pub(crate) fn sql(&self, url: &str, sql: &str) -> String {
        let bare = url.split_once('?').unwrap().0;
        let url = format!("{bare}?sslmode=verify-full&sslrootcert={}", path(&self.directory.join("ca.pem")));
        let answer =
            Command::new("psql").args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", sql]).output().unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8(answer.stdout).unwrap().trim().to_owned()
    }

    /// Stops it as a crash does.
    pub(crate) fn down(&self) {
        script(&["down", path(&self.directory)]);
    }

    pub(crate) fn up(&self) {
        script(&["up", path(&self.directory)]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        script(&["stop", path(&self.directory)]);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn script(args: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/postgres.sh");
    let answer = Command::new(script).args(args).output().unwrap();
    assert!(answer.status.success(), "{args:?}: {}", String::from_utf8_lossy(&answer.stderr));
    String::from_utf8(answer.stdout).unwrap().trim().to_owned()
}
