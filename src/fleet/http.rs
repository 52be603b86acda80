//! `/healthz` and `/metrics`, on an address of their own.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::server::WeakServer;

/// For a request's head, and for all of a connection.
const HEAD: Duration = Duration::from_secs(5);
const ALL: Duration = Duration::from_secs(60);
const MAX_HEAD: usize = 16 * 1024;
const CONNECTIONS: usize = 32;
/// The pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Where the health of an HSM is told.
pub struct Health {
    listener: TcpListener,
}

impl Health {
    pub fn bind(address: &str) -> Result<Self, String> {
        let cannot = |error: io::Error| format!("cannot listen at {address}: {error}");
        let listener = TcpListener::bind(address).map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        Ok(Self { listener })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers in a thread of its own, for as long as the process is there.
    pub fn serve(self, server: WeakServer) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(self.listener)?
        };
        let serving = move || runtime.block_on(serve(listener, server));
        thread::Builder::new().name("http".to_owned()).spawn(serving).map(drop)
    }
}

async fn serve(listener: tokio::net::TcpListener, server: WeakServer) {
    let server = Arc::new(server);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let answering = service_fn(|request| {
                let answer = answer(&request, &server);
                async { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), answering);
            // What a client does wrong is its own affair.
            let _ = timeout(ALL, connection).await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, server: &WeakServer) -> Response<Full<Bytes>> {
    let Some(server) = server.upgrade() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "not a member: it has ended\n".to_owned());
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/healthz" => {
            let standing = server.standing();
            match (standing.member, standing.version) {
                (true, _) => text(StatusCode::OK, "member\n".to_owned()),
                (false, None) => text(StatusCode::SERVICE_UNAVAILABLE, "not a member: no domain yet\n".to_owned()),
                (false, Some(version)) => {
                    let why = format!("not a member in version {version} of the domain\n");
                    text(StatusCode::SERVICE_UNAVAILABLE, why)
                }
            }
        }
        "/metrics" => text(StatusCode::OK, server.metrics()),
        _ => text(StatusCode::NOT_FOUND, "/healthz and /metrics\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
