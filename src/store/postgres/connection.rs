//! One connection to the database, driven by the thread that uses it.
//!
//! Each has a small event loop of its own, which runs during a call and not between calls, so that no
//! thread is started. A forked child closes the sockets that it inherited and forgets the rest.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::ToSocketAddrs;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{timeout, timeout_at};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::{ChannelBinding, TlsConnect};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row, Statement};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::CONNECTIONS;
use super::failure::Failure;
use super::url::Target;

const CONNECT: Duration = Duration::from_secs(3);
const GOODBYE: Duration = Duration::from_millis(200);
/// Until a peer that answers nothing is given up.
const UNANSWERED: Duration = Duration::from_secs(6);
const KEEPALIVE: Duration = Duration::from_secs(15);
const NONE: RawFd = -1;
const PLAIN: (SslMode, NoTls) = (SslMode::Disable, NoTls);

/// What every connection is set to. The two timeouts free the locks of a host that is gone.
const SETTINGS: &str = "
    SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE;
    SET statement_timeout = '10s';
    SET idle_in_transaction_session_timeout = '5s';
    SET client_min_messages = 'warning'";
/// A commit that is acknowledged is on disk, whatever the server's default is.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit', true) IN ('off', 'local')";

/// The sockets of a store.
pub(super) struct Sockets([AtomicI32; CONNECTIONS]);

impl Sockets {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicI32::new(NONE)))
    }

    /// Takes all descriptors, for a forked child to close.
    pub(super) fn take(&self) -> impl Iterator<Item = RawFd> {
        self.0.iter().map(|place| place.swap(NONE, Ordering::AcqRel)).filter(|fd| *fd != NONE)
    }

    fn enter(&self, fd: RawFd) {
        let free = |place: &&AtomicI32| place.compare_exchange(NONE, fd, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        self.0.iter().find(free);
    }

    fn leave(&self, fd: RawFd) {
        let held = |place: &&AtomicI32| place.compare_exchange(fd, NONE, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        self.0.iter().find(held);
    }
}

/// A socket that is entered in [`Sockets`] while it is open.
struct Listed<S: AsRawFd> {
    socket: S,
    sockets: Arc<Sockets>,
}

impl<S: AsRawFd> Listed<S> {
    fn new(socket: S, sockets: &Arc<Sockets>) -> Self {
        sockets.enter(socket.as_raw_fd());
        Self { socket, sockets: Arc::clone(sockets) }
    }
}

impl<S: AsRawFd> Drop for Listed<S> {
    fn drop(&mut self) {
        self.sockets.leave(self.socket.as_raw_fd());
    }
}

impl<S: AsRawFd + AsyncRead + Unpin> AsyncRead for Listed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsRawFd + AsyncWrite + Unpin> AsyncWrite for Listed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

pub(super) struct Connection {
    // In the order in which they are to be dropped.
    session: Session,
    driver: Option<JoinHandle<()>>,
    runtime: Runtime,
}

impl Connection {
    /// Tries the hosts in turn until one that can be written to answers.
    pub(super) fn open(target: &Target, sockets: &Arc<Sockets>, deadline: Instant) -> Result<Self, Failure> {
        let limit = target.config.get_connect_timeout().copied().unwrap_or(CONNECT);
        let ports = target.config.get_ports();
        let mut failure = Failure::Lost("no host".into());
        for (index, host) in target.config.get_hosts().iter().enumerate() {
            let deadline = deadline.min(Instant::now() + limit);
            let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
            match Self::open_at(target, host, port, sockets, deadline) {
                Ok(connection) => return Ok(connection),
                Err(unusable) => failure = unusable,
            }
        }
        Err(failure)
    }

    fn open_at(
        target: &Target,
        host: &Host,
        port: u16,
        sockets: &Arc<Sockets>,
        deadline: Instant,
    ) -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(Failure::io)?;
        let (client, driver) = match host {
            Host::Tcp(name) => open_tcp(&runtime, target, sockets, (name, port), deadline)?,
            Host::Unix(path) => open_unix(&runtime, target, sockets, (path, port), deadline)?,
        };
        let session = Session { client, statements: HashMap::new(), queues: false };
        let mut connection = Self { session, driver: Some(driver), runtime };
        connection.run(deadline, Session::prepare_for_use)?;
        Ok(connection)
    }

    /// Runs a task with the session; [`Failure::Late`] if it takes longer.
    pub(super) fn run<T>(
        &mut self,
        deadline: Instant,
        task: impl AsyncFnOnce(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Self { session, runtime, .. } = self;
        runtime.block_on(async {
            let done = timeout_at(deadline.into(), task(session)).await;
            done.unwrap_or(Err(Failure::Late))
        })
    }

    /// Whether it can be used no more.
    pub(super) fn is_closed(&self) -> bool {
        self.session.client.is_closed() || self.driver.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Tells the server, if it is there to be told.
    pub(super) fn close(mut self) {
        let driver = self.driver.take();
        let Self { session, runtime, .. } = self;
        drop(session);
        if let Some(driver) = driver {
            let _ = runtime.block_on(async { timeout(GOODBYE, driver).await });
        }
    }
}

/// What statements are sent by.
pub(super) struct Session {
    client: Client,
    statements: HashMap<String, Statement>,
    queues: bool,
}

pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Session {
    async fn prepare_for_use(&mut self) -> Result<(), Failure> {
        let (set, durable, read_only, engine) = tokio::join!(
            biased;
            self.client.batch_execute(SETTINGS),
            self.client.simple_query(DURABLE),
            self.client.query_one("SHOW transaction_read_only", &[]),
            self.client.query_one("SELECT version()", &[]),
        );
        set?;
        durable?;
        let engine = engine?;
        let engine: &str = engine.try_get(0)?;
        self.queues = engine.starts_with("PostgreSQL ") && !engine.contains("-YB-");
        match read_only?.try_get::<_, &str>(0)? {
            "off" => Ok(()),
            _ => Err(Failure::Lost("the server only reads".into())),
        }
    }

    /// The statement, prepared once per connection.
    pub(super) async fn statement(&mut self, sql: &str) -> Result<Statement, Failure> {
        if let Some(known) = self.statements.get(sql) {
            return Ok(known.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    pub(super) async fn query(&mut self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Failure> {
        let statement = self.statement(sql).await?;
        Ok(self.client.query(&statement, params).await?)
    }

    pub(super) async fn query_opt(&mut self, sql: &str, params: Params<'_>) -> Result<Option<Row>, Failure> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    /// How many rows it changed.
    pub(super) async fn execute(&mut self, sql: &str, params: Params<'_>) -> Result<u64, Failure> {
        let statement = self.statement(sql).await?;
        Ok(self.client.execute(&statement, params).await?)
    }

    /// Statements without parameters.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), Failure> {
        Ok(self.client.batch_execute(sql).await?)
    }

    /// What begins a transaction that first locks the row of a table. PostgreSQL fixes what a transaction
    /// sees before it waits for a row, and then refuses it when the wait is over. The table's lock, which
    /// it waits for first come first served and which keeps no reader out, spares us that; the other
    /// engines neither need nor have it. Nothing but speed depends on it.
    pub(super) fn beginning(&self, table: &str) -> String {
        match self.queues {
            true => format!("BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE"),
            false => "BEGIN".to_owned(),
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }
}

type Opened = Result<(Client, JoinHandle<()>), Failure>;

fn open_tcp(
    runtime: &Runtime,
    target: &Target,
    sockets: &Arc<Sockets>,
    (name, port): (&str, u16),
    deadline: Instant,
) -> Opened {
    let mut failure = Failure::Lost(format!("{name} has no address").into());
    for address in (name, port).to_socket_addrs().map_err(Failure::io)? {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let connected = std::net::TcpStream::connect_timeout(&address, left).and_then(|socket| {
            let options = SockRef::from(&socket);
            options.set_tcp_nodelay(true)?;
            options.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
            options.set_tcp_user_timeout(Some(UNANSWERED))?;
            socket.set_nonblocking(true)?;
            let _inside = runtime.enter();
            tokio::net::TcpStream::from_std(socket)
        });
        let socket = match connected {
            Ok(socket) => Listed::new(socket, sockets),
            Err(error) => {
                failure = Failure::io(error);
                continue;
            }
        };
        let Some(config) = &target.tls else { return greet(runtime, target, socket, PLAIN, deadline) };
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| Failure::Lost(format!("{name} is no name that a certificate could have").into()))?;
        return greet(runtime, target, socket, (SslMode::Require, Tls { config: Arc::clone(config), name }), deadline);
    }
    Err(failure)
}

fn open_unix(
    runtime: &Runtime,
    target: &Target,
    sockets: &Arc<Sockets>,
    (directory, port): (&Path, u16),
    deadline: Instant,
) -> Opened {
    let path = directory.join(format!(".s.PGSQL.{port}"));
    let connect = || {
        let socket = std::os::unix::net::UnixStream::connect(&path)?;
        socket.set_nonblocking(true)?;
        let _inside = runtime.enter();
        tokio::net::UnixStream::from_std(socket)
    };
    let socket = connect().map_err(|error| Failure::Lost(format!("{}: {error}", path.display()).into()))?;
    greet(runtime, target, Listed::new(socket, sockets), PLAIN, deadline)
}

/// The server's own handshake, after which the connection is driven by the event loop.
fn greet<S, T>(runtime: &Runtime, target: &Target, socket: S, (mode, tls): (SslMode, T), deadline: Instant) -> Opened
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: TlsConnect<S>,
    T::Stream: Send + 'static,
{
    runtime.block_on(async {
        let mut config = target.config.clone();
        config.ssl_mode(mode);
        let (client, connection) = timeout_at(deadline.into(), config.connect_raw(socket, tls))
            .await
            .map_err(|_| Failure::Lost("the database did not answer in time".into()))??;
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok((client, driver))
    })
}

/// How a connection is encrypted, and with whom.
struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Tls {
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { TlsConnector::from(self.config).connect(self.name, stream).await.map(Encrypted) })
    }
}

struct Encrypted<S>(tokio_rustls::client::TlsStream<S>);

/// The certificate is verified, which is what channel binding would make up for.
impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
