//! What the proxy answers to a request. docs/proxy.md has the paths.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::address::{Address, MAX_MESSAGE, decode};
use crate::metrics::{Metrics, Refused};
use crate::queue::{Failed, Queue};
use crate::store::{Accepted, MAX_LEASE, Taken};

const FROM: HeaderName = HeaderName::from_static("x-conclave-from");
const ID: HeaderName = HeaderName::from_static("x-conclave-id");

/// In seconds.
const MAX_WAIT: u64 = 30;
const DEFAULT_LEASE: u64 = 30;

/// What a request and its answer may take beyond the time that their bytes need.
const PATIENCE: Duration = Duration::from_secs(60);
/// The slowest line that is put up with, in bytes a second.
const SLOWEST: u64 = 32 * 1024;
/// How long a message waits for room in memory.
const ROOM: Duration = Duration::from_secs(10);
const HEALTHY: Duration = Duration::from_secs(2);
/// What is read of a message that is refused, so that the sender sees why.
const DRAINED: usize = 2 * MAX_MESSAGE;
const DRAINING: Duration = Duration::from_secs(10);

type Answer = Response<Full<Bytes>>;

/// When a connection ends, whatever it is doing.
pub(crate) type Deadline = watch::Sender<Instant>;

pub(crate) struct Service {
    pub(crate) queue: Arc<Queue>,
    pub(crate) metrics: Metrics,
    /// Those that are served; empty for any.
    pub(crate) regions: Vec<String>,
    /// KiB of messages that may come to memory.
    pub(crate) memory: Arc<Semaphore>,
}

/// A request that is not done.
struct Refusal {
    status: StatusCode,
    why: Refused,
    text: String,
}

/// Bytes that count as memory in use as long as there are any.
struct Held {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Service {
    pub(crate) fn new(queue: Arc<Queue>, regions: Vec<String>, max_memory: u64) -> Self {
        let memory = usize::try_from(max_memory / 1024).unwrap_or(Semaphore::MAX_PERMITS);
        Self { queue, metrics: Metrics::default(), regions, memory: Arc::new(Semaphore::new(memory)) }
    }

    pub(crate) async fn answer(&self, request: Request<Incoming>, deadline: &Deadline) -> Answer {
        let (parts, mut body) = request.into_parts();
        deadline.send_replace(Instant::now() + 2 * PATIENCE);
        let answer = match self.route(&parts, &mut body, deadline).await {
            Ok(answer) => answer,
            Err(refusal) => {
                self.metrics.refuse(refusal.why);
                tracing::info!(
                    status = refusal.status.as_u16(),
                    method = %parts.method,
                    path = parts.uri.path(),
                    why = refusal.text,
                    "refused"
                );
                let mut answer = refusal.answer();
                if !body.is_end_stream() {
                    // Else a sender who does not look up from sending finds the connection reset.
                    if !parts.headers.contains_key(header::EXPECT) {
                        let _ = timeout(DRAINING, drain(&mut body)).await;
                    }
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                answer
            }
        };
        deadline.send_replace(Instant::now() + PATIENCE + time_for(answer.body().size_hint().lower()));
        answer
    }

    async fn route(&self, parts: &Parts, body: &mut Incoming, deadline: &Deadline) -> Result<Answer, Refusal> {
        let path = parts.uri.path();
        let names: Vec<&str> = match path.strip_prefix("/v1/messages/") {
            Some(names) => names.split('/').collect(),
            None => return self.about_itself(&parts.method, path).await,
        };
        match (&parts.method, names.as_slice()) {
            (&Method::POST, [_] | [_, _]) => self.accept(path, &parts.headers, body, deadline).await,
            (&Method::GET, [region]) => {
                self.give(&self.region(region)?, parts.uri.query().unwrap_or_default(), deadline).await
            }
            (&Method::DELETE, [region, id]) => self.acknowledge(self.region(region)?, id).await,
            (_, [_]) => Err(Refusal::method("only GET and POST are for a Region's messages")),
            (_, [_, _]) => Err(Refusal::method("only POST and DELETE are for this path")),
            _ => Err(Refusal::nothing_there()),
        }
    }

    async fn about_itself(&self, method: &Method, path: &str) -> Result<Answer, Refusal> {
        if !matches!(path, "/healthz" | "/metrics") {
            return Err(Refusal::nothing_there());
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Refusal::method("only GET and HEAD are for this path"));
        }
        if path == "/metrics" {
            let text = self.metrics.text(&self.queue);
            return Ok(respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text));
        }
        match timeout(HEALTHY, self.queue.call(|_| Ok(()))).await {
            Ok(Ok(())) => Ok(respond(StatusCode::OK, "text/plain", "ok\n")),
            _ => Ok(respond(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "the store does not answer\n")),
        }
    }

    async fn accept(
        &self,
        path: &str,
        headers: &HeaderMap,
        body: &mut Incoming,
        deadline: &Deadline,
    ) -> Result<Answer, Refusal> {
        let to = Address::decode(path.strip_prefix("/v1/messages/").unwrap_or_default()).map_err(Refusal::bad)?;
        self.check_served(&to.region)?;
        let from = headers.get(FROM).ok_or_else(|| "the header X-Conclave-From is missing".to_owned());
        let from = from.and_then(|from| from.to_str().map_err(|_| "X-Conclave-From is not ASCII".to_owned()));
        let from = from.and_then(Address::decode).map_err(Refusal::bad)?;

        // What has no room is refused before it is read.
        let declared = body.size_hint().exact();
        let largest = declared.unwrap_or(MAX_MESSAGE as u64);
        if largest > MAX_MESSAGE as u64 {
            return Err(Refusal::too_large());
        }
        if declared == Some(0) {
            return Err(Refusal::bad("the message is empty".to_owned()));
        }
        self.queue.queues().room(&to.region, declared.unwrap_or_default()).map_err(Refusal::full)?;
        let until = Instant::now() + PATIENCE + time_for(largest);
        deadline.send_replace(until + 2 * PATIENCE);
        let room = self.room(largest).await?;
        let bytes = timeout_at(until, read(body, declared)).await.map_err(|_| Refusal {
            status: StatusCode::REQUEST_TIMEOUT,
            why: Refused::Timeout,
            text: "the message came too slowly".to_owned(),
        })??;

        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| {
            tracing::error!(%error, "no random numbers");
            Refusal::failed(Failed::Other)
        })?;
        let id = conclave::text::hex(&random);
        let (size, address) = (bytes.len(), to.clone());
        tracing::debug!(%to, %from, size, "a message came");
        let held = Held { bytes, _room: room };
        let accepted = self.queue.call(move |store| store.accept(&id, &to, &from, held.as_ref())).await;
        match accepted.map_err(Refusal::failed)? {
            Accepted::Full(why) => Err(Refusal::full(why)),
            Accepted::Id(id) => {
                self.queue.ring(&address.region, address.instance.as_deref());
                self.metrics.accepted.fetch_add(1, Ordering::Relaxed);
                self.metrics.accepted_bytes.fetch_add(size as u64, Ordering::Relaxed);
                Ok(respond(StatusCode::CREATED, "application/json", format!("{}\n", json!({ "id": id }))))
            }
        }
    }

    async fn give(&self, region: &str, query: &str, deadline: &Deadline) -> Result<Answer, Refusal> {
        let Query { instance, wait, lease } = Query::parse(query).map_err(Refusal::bad)?;
        deadline.send_replace(Instant::now() + wait + 2 * PATIENCE);
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let taken = self.queue.take(region, instance.as_deref(), left, lease).await.map_err(Refusal::failed)?;
            let Some(Taken::Message { seq, id, sender, size }) = taken else {
                return Ok(empty(StatusCode::NO_CONTENT));
            };
            let room = match self.room(size).await {
                Ok(room) => room,
                Err(refusal) => {
                    self.queue.call(move |store| store.show(seq)).await.map_err(Refusal::failed)?;
                    self.queue.ring(region, None);
                    return Err(refusal);
                }
            };
            let bytes = self.queue.call(move |store| store.bytes(seq)).await.map_err(Refusal::failed)?;
            // It may have ended meanwhile.
            let Some(bytes) = bytes else { continue };
            self.metrics.delivered.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(region, instance, from = sender, size, "a message is given");
            let body = Bytes::from_owner(Held { bytes, _room: room });
            let mut answer = respond(StatusCode::OK, "application/octet-stream", body);
            for (name, value) in [(ID, id), (FROM, sender)] {
                let value = HeaderValue::try_from(value).map_err(|_| Refusal::failed(Failed::Other))?;
                answer.headers_mut().insert(name, value);
            }
            return Ok(answer);
        }
    }

    async fn acknowledge(&self, region: String, id: &str) -> Result<Answer, Refusal> {
        let id = decode(id).map_err(Refusal::bad)?;
        let of = region.clone();
        let known = self.queue.call(move |store| store.acknowledge(&of, &id)).await.map_err(Refusal::failed)?;
        if !known {
            let text = "there is no such message: it was acknowledged, or became too old".to_owned();
            return Err(Refusal { status: StatusCode::NOT_FOUND, why: Refused::NotFound, text });
        }
        self.metrics.acknowledged.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(region, "a message was acknowledged");
        Ok(empty(StatusCode::NO_CONTENT))
    }

    fn region(&self, encoded: &str) -> Result<String, Refusal> {
        let address = Address::decode(encoded).map_err(Refusal::bad)?;
        self.check_served(&address.region)?;
        Ok(address.region)
    }

    fn check_served(&self, region: &str) -> Result<(), Refusal> {
        if self.regions.is_empty() || self.regions.iter().any(|served| served == region) {
            return Ok(());
        }
        let text = "this proxy does not serve the Region".to_owned();
        Err(Refusal { status: StatusCode::NOT_FOUND, why: Refused::NotFound, text })
    }

    /// Room in memory for a message.
    async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Refusal> {
        let busy = || Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            why: Refused::Busy,
            text: "too many messages are on their way at once: try again".to_owned(),
        };
        let permits = u32::try_from(bytes.div_ceil(1024)).map_err(|_| Refusal::too_large())?;
        let room = timeout(ROOM, Arc::clone(&self.memory).acquire_many_owned(permits)).await;
        room.map_err(|_| busy())?.map_err(|_| busy())
    }
}

impl Refusal {
    fn bad(text: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, why: Refused::BadRequest, text }
    }

    fn method(text: &str) -> Self {
        Self { status: StatusCode::METHOD_NOT_ALLOWED, ..Self::bad(text.to_owned()) }
    }

    fn nothing_there() -> Self {
        Self { status: StatusCode::NOT_FOUND, why: Refused::NotFound, text: "there is no such path".to_owned() }
    }

    fn too_large() -> Self {
        let text = format!("a message has at most {MAX_MESSAGE} bytes");
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, why: Refused::TooLarge, text }
    }

    fn full(text: String) -> Self {
        Self { status: StatusCode::INSUFFICIENT_STORAGE, why: Refused::Full, text }
    }

    fn failed(failed: Failed) -> Self {
        match failed {
            Failed::DiskFull => Self::full("the proxy's disk is full".to_owned()),
            Failed::Other => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                why: Refused::Store,
                text: "the proxy's store failed: its log says why".to_owned(),
            },
        }
    }

    fn answer(&self) -> Answer {
        let mut answer = respond(self.status, "text/plain; charset=utf-8", format!("{}\n", self.text));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Query {
    instance: Option<String>,
    wait: Duration,
    lease: Duration,
}

impl Query {
    fn parse(text: &str) -> Result<Self, String> {
        let (mut instance, mut wait, mut lease) = (None, None, None);
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            // A name without a value is refused below, as its value.
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match name {
                "instance" => &mut instance,
                "wait" => &mut wait,
                "lease" => &mut lease,
                _ => return Err("only instance, wait and lease may be in the query".to_owned()),
            };
            if place.replace(value).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
        let seconds = |name: &str, value: Option<&str>, default: u64, least: u64, most: u64| {
            let seconds = value.map_or(Some(default), |value| value.parse().ok());
            let seconds = seconds.filter(|seconds| (least..=most).contains(seconds));
            seconds.map(Duration::from_secs).ok_or_else(|| format!("{name} must be from {least} to {most} seconds"))
        };
        // "any" stands for the Region, whose name is checked where it is.
        let instance = instance.map(|name| Address::new("any", Some(&decode(name)?))).transpose()?;
        Ok(Self {
            instance: instance.and_then(|address| address.instance),
            wait: seconds("wait", wait, 0, 0, MAX_WAIT)?,
            lease: seconds("lease", lease, DEFAULT_LEASE, 1, MAX_LEASE)?,
        })
    }
}

async fn read(body: &mut Incoming, declared: Option<u64>) -> Result<Vec<u8>, Refusal> {
    let expected = declared.and_then(|len| usize::try_from(len).ok()).unwrap_or_default();
    let mut bytes = Vec::with_capacity(expected.min(MAX_MESSAGE));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::bad(format!("the message cannot be read: {error}")))?;
        // Trailers mean nothing here.
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > MAX_MESSAGE {
            return Err(Refusal::too_large());
        }
        bytes.extend_from_slice(&data);
    }
    if bytes.is_empty() { Err(Refusal::bad("the message is empty".to_owned())) } else { Ok(bytes) }
}

async fn drain(body: &mut Incoming) {
    let mut drained = 0;
    while let Some(Ok(frame)) = body.frame().await {
        drained += frame.data_ref().map_or(0, Bytes::len);
        if drained > DRAINED {
            return;
        }
    }
}

fn time_for(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST)
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = empty(status);
    *answer.body_mut() = Full::new(body.into());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_checked() {
        let good = Query::parse("wait=30&instance=a%2db&lease=3600").unwrap();
        let expected = (Some("a-b".to_owned()), Duration::from_secs(30), Duration::from_secs(3600));
        assert_eq!((good.instance, good.wait, good.lease), expected);
        let default = Query { instance: None, wait: Duration::ZERO, lease: Duration::from_secs(30) };
        assert_eq!(Query::parse(""), Ok(default));
        for wrong in
            ["wait=31", "wait=-1", "wait", "wait=", "lease=0", "lease=3601", "instance=", "instance=a%0a", "x=1"]
        {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Query::parse("wait=1&wait=1").is_err() && Query::parse("instance=a%2fb").is_err());
    }
}
