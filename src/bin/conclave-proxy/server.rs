//! Connections: how many there are, and how long each may take for what it does.

use std::convert::Infallible;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::metrics::Refused;
use crate::service::Service;

/// What a request's head may take, and the time between two requests.
const HEAD: Duration = Duration::from_secs(20);
/// Of a request's head, in bytes.
const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;
/// What requests may take that are being answered when the proxy ends.
const GRACE: Duration = Duration::from_secs(20);
/// The pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
    Content-Length: 26\r\nContent-Type: text/plain\r\n\r\nthere are too many others\n";

/// Serves until `stop`, then until what was begun is done or its time is over.
pub(crate) async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    max_connections: u32,
    stop: impl Future<Output = ()>,
) {
    let slots = Arc::new(Semaphore::new(max_connections as usize));
    let (stopping, stopped) = watch::channel(false);
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, _)) => match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    let (service, stopped) = (Arc::clone(&service), stopped.clone());
                    tokio::spawn(async move {
                        connection(stream, &service, stopped).await;
                        drop(slot);
                    });
                }
                Err(_) => {
                    service.metrics.refuse(Refused::Connections);
                    turn_away(stream);
                }
            },
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    service.queue.close();
    stopping.send_replace(true);
    if timeout(GRACE, slots.acquire_many(max_connections)).await.is_err() {
        tracing::warn!("some requests took too long to be waited for");
    }
}

async fn connection(stream: TcpStream, service: &Arc<Service>, mut stopped: watch::Receiver<bool>) {
    // Only a matter of speed.
    let _ = stream.set_nodelay(true);
    service.metrics.connections.fetch_add(1, Ordering::Relaxed);
    let (deadline, mut due) = watch::channel(Instant::now() + 2 * HEAD);
    let deadline = Arc::new(deadline);
    let answering = service_fn(|request| {
        let (service, deadline) = (Arc::clone(service), Arc::clone(&deadline));
        async move { Ok::<_, Infallible>(service.answer(request, &deadline).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), answering);
    tokio::pin!(connection);
    let mut ending = false;
    loop {
        let at = *due.borrow_and_update();
        tokio::select! {
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(%error, "a connection ended");
                }
                break;
            }
            () = sleep_until(at) => {
                tracing::debug!("a connection took too long");
                break;
            }
            // There is a new deadline.
            _ = due.changed() => {}
            _ = stopped.wait_for(|stopped| *stopped), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
    service.metrics.connections.fetch_sub(1, Ordering::Relaxed);
}

/// Says that there are too many, as far as it goes without waiting.
fn turn_away(stream: TcpStream) {
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write_all(TURNED_AWAY);
    }
}
