//! `conclave-proxy` as carrier, by HTTP/1.1.

use std::thread::sleep;
use std::time::{Duration, Instant};

use ureq::http::{Response, Uri};
use ureq::{Agent, Body, Error};

use super::address::{Address, encode};
use super::{Carrier, Delivery, LEASE, MAX_MESSAGE, check_size};
use crate::output::Failure;

/// How long a request is tried again when the proxy does not answer.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

const CONNECTING: Duration = Duration::from_secs(10);
/// What an answer may take beyond the time that its bytes need and that it was asked to wait.
const ANSWERING: Duration = Duration::from_secs(60);
/// The slowest line that is put up with, in bytes a second.
const SLOWEST: u64 = 32 * 1024;
/// What the proxy waits at most for a message, in seconds.
const MAX_WAIT: u64 = 30;
/// Of an error's text, in bytes.
const MAX_TEXT: u64 = 4096;

pub(crate) struct Http {
    /// Without a slash at the end.
    base: String,
    agent: Agent,
}

impl Http {
    pub(crate) fn new(url: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::usage(format!("--proxy {url}: {why}, such as http://127.0.0.1:8470"));
        let uri: Uri = url.parse().map_err(|_| wrong("this is no URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(wrong(
                    "conclave has no TLS of its own, and the messages need none: give the http URL of the proxy, or \
                     of a tunnel to it",
                ));
            }
            _ => return Err(wrong("a URL begins with http://")),
        }
        if uri.query().is_some() || uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(wrong("a proxy's URL is a host, perhaps with a port and a path"));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECTING))
            .user_agent(concat!("conclave/", env!("CARGO_PKG_VERSION")));
        Ok(Self { base: url.trim_end_matches('/').to_owned(), agent: config.build().into() })
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v1/messages/{path}", self.base)
    }

    /// Sends a request until there is an answer that is not "later", or patience ends.
    fn ask(&self, doing: &str, request: impl Fn() -> Result<Response<Body>, Error>) -> Result<Response<Body>, Failure> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let reason = match request() {
                Ok(answer) if !matches!(answer.status().as_u16(), 408 | 429 | 502..=504) => return Ok(answer),
                Ok(answer) => refusal(answer),
                Err(error) if passing(&error) => error.to_string(),
                Err(error) => return Err(self.failed(doing, &error.to_string())),
            };
            if begun.elapsed() + pause > PATIENCE {
                return Err(self.failed(doing, &reason));
            }
            sleep(jittered(pause));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn failed(&self, doing: &str, reason: &str) -> Failure {
        Failure::new(format!("cannot {doing} the proxy at {}: {reason}", self.base))
    }
}

impl Carrier for Http {
    fn send(&self, to: &Address, from: &Address, message: &[u8]) -> Result<(), Failure> {
        check_size(message)?;
        let doing = "give a message to";
        let answer = self.ask(doing, || {
            let post = self.agent.post(self.url(&to.encoded())).header("X-Conclave-From", from.encoded());
            let post = post.content_type("application/octet-stream");
            post.config().timeout_global(Some(time_for(message.len()))).build().send(message)
        })?;
        match answer.status().as_u16() {
            201 => Ok(()),
            507 => {
                let why = refusal(answer);
                Err(self.failed(doing, &format!("{why}; is anybody serving Region {:?}?", to.region)))
            }
            _ => Err(self.failed(doing, &refusal(answer))),
        }
    }

    fn receive(&self, region: &str, instance: &str, wait: Duration) -> Result<Option<Delivery>, Failure> {
        let address = Address::new(region, Some(instance)).map_err(Failure::usage)?;
        let doing = "take a message from";
        let begun = Instant::now();
        loop {
            // Whole seconds, so that a short wait is at least one.
            let left = wait.saturating_sub(begun.elapsed());
            let seconds = left.as_millis().div_ceil(1000).min(MAX_WAIT.into());
            let path = format!("{}?instance={}&wait={seconds}&lease={LEASE}", encode(region), encode(instance));
            let mut answer = self.ask(doing, || {
                let config = self.agent.get(self.url(&path)).config();
                let answering = ANSWERING + Duration::from_secs(MAX_WAIT);
                let config = config.timeout_recv_response(Some(answering));
                config.timeout_recv_body(Some(time_for(MAX_MESSAGE))).build().call()
            })?;
            match answer.status().as_u16() {
                200 => {
                    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
                    let (id, from) = (header("X-Conclave-Id"), header("X-Conclave-From"));
                    let (Some(id), Some(Ok(from))) = (id, from.map(Address::decode)) else {
                        return Err(self.failed(doing, "the answer has no id or no sender: is it conclave-proxy?"));
                    };
                    let id = format!("{}/{}", encode(&address.region), encode(id));
                    let message = answer.body_mut().with_config().limit(MAX_MESSAGE as u64 + 1).read_to_vec();
                    let message = message.map_err(|error| self.failed(doing, &error.to_string()))?;
                    return Ok(Some(Delivery { id, from, message }));
                }
                204 if begun.elapsed() >= wait => return Ok(None),
                204 => {}
                _ => return Err(self.failed(doing, &refusal(answer))),
            }
        }
    }

    fn acknowledge(&self, id: &str) -> Result<(), Failure> {
        let doing = "acknowledge a message to";
        let answer = self
            .ask(doing, || self.agent.delete(self.url(id)).config().timeout_global(Some(ANSWERING)).build().call())?;
        match answer.status().as_u16() {
            204 | 404 => Ok(()),
            _ => Err(self.failed(doing, &refusal(answer))),
        }
    }
}

/// Whether another try may end otherwise.
fn passing(error: &Error) -> bool {
    matches!(
        error,
        Error::Io(_) | Error::Timeout(_) | Error::HostNotFound | Error::ConnectionFailed | Error::Protocol(_)
    )
}

/// What an answer that is no success says, in one line.
fn refusal(mut answer: Response<Body>) -> String {
    let status = answer.status();
    let text = answer.body_mut().with_config().limit(MAX_TEXT).lossy_utf8(true).read_to_string().unwrap_or_default();
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    format!("it answers {status}{}{text}", if text.is_empty() { "" } else { ": " })
}

fn time_for(bytes: usize) -> Duration {
    ANSWERING + Duration::from_secs(bytes as u64 / SLOWEST)
}

/// Between half and all of a pause, so that those who wait do not all come back at once.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without random numbers the pause is what it is.
    let _ = getrandom::fill(&mut byte);
    pause.mul_f64(0.5 + f64::from(byte[0]) / 510.0)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A proxy that gives these answers, one to each connection; what it was asked then.
    fn scripted(answers: &'static [&'static str]) -> (Http, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let proxy = thread::spawn(move || {
            let asked = answers.iter().map(|answer| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
                let len = head
                    .to_lowercase()
                    .split("content-length: ")
                    .nth(1)
                    .map_or(0, |rest| rest.lines().next().and_then(|len| len.parse().ok()).unwrap_or_default());
                let mut body = vec![0; len];
                reader.read_exact(&mut body).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                head + &String::from_utf8(body).unwrap()
            });
            asked.collect()
        });
        (Http::new(&url).unwrap_or_else(|_| panic!("a good URL")), proxy)
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn a_message_is_sent_again_until_it_is_accepted() {
        let (http, proxy) = scripted(&[
            "",
            "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 507 Full\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfull",
        ]);
        let (to, from) = (address("Zürich/a b"), address("eu/0a"));
        assert!(http.send(&to, &from, b"text").is_ok());
        let refused = http.send(&to, &from, b"text").expect_err("507 is no success");
        assert!(refused.message().contains("507 Insufficient Storage: full; is anybody"), "{}", refused.message());
        let asked = proxy.join().unwrap();
        for request in &asked {
            assert!(request.starts_with("POST /v1/messages/Z%C3%BCrich/a%20b HTTP/1.1\r\n"), "{request}");
            assert!(request.to_lowercase().contains("x-conclave-from: eu/0a\r\n"), "{request}");
            assert!(request.ends_with("\r\n\r\ntext"), "{request}");
        }
    }

    #[test]
    fn a_message_is_taken_and_acknowledged() {
        let (http, proxy) = scripted(&[
            "HTTP/1.1 204 None\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX-Conclave-Id: 7f\r\nX-Conclave-From: u%20s\r\nContent-Length: 3\r\n\
             Connection: close\r\n\r\none",
            "HTTP/1.1 204 Gone\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 404 Gone\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\ntwo",
        ]);
        let delivery = http.receive("eu", "i", Duration::from_secs(9)).ok().flatten().expect("a message");
        assert_eq!((delivery.from, delivery.message), (address("u s"), b"one".to_vec()));
        assert!(http.acknowledge(&delivery.id).is_ok() && http.acknowledge(&delivery.id).is_ok());
        assert!(http.receive("eu", "i", Duration::ZERO).is_err(), "an answer without its headers");
        let asked = proxy.join().unwrap();
        assert!(asked[0].starts_with("GET /v1/messages/eu?instance=i&wait=9&lease=60 "), "{}", asked[0]);
        assert!(asked[2].starts_with("DELETE /v1/messages/eu/7f "), "{}", asked[2]);
    }

    #[test]
    fn only_plain_http_urls_are_taken() {
        for url in ["https://proxy", "ftp://proxy", "proxy:8470", "http://", "http://a:b@proxy", "http://proxy/?x"] {
            assert!(Http::new(url).is_err(), "{url}");
        }
        assert!(Http::new("http://proxy:8470/conclave/").is_ok_and(|http| http.base == "http://proxy:8470/conclave"));
    }
}
