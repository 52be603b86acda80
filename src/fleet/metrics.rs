//! What is counted, in Prometheus' text format.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::service::{Figures, Standing};

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    ByPeer,
    Lost,
    Idle,
    Slow,
    Handshake,
    Expired,
    Expelled,
    TooLarge,
    BadFrame,
    Busy,
    Memory,
    Refused,
    ByHsm,
    Failed,
    Stopping,
}

const CLOSED: [(Closed, &str); 15] = [
    (Closed::ByPeer, "by_peer"),
    (Closed::Lost, "lost"),
    (Closed::Idle, "idle"),
    (Closed::Slow, "slow"),
    (Closed::Handshake, "handshake_time"),
    (Closed::Expired, "expired"),
    (Closed::Expelled, "expelled"),
    (Closed::TooLarge, "too_large"),
    (Closed::BadFrame, "bad_frame"),
    (Closed::Busy, "too_many"),
    (Closed::Memory, "memory"),
    (Closed::Refused, "refused"),
    (Closed::ByHsm, "by_hsm"),
    (Closed::Failed, "failed"),
    (Closed::Stopping, "stopping"),
];

impl Closed {
    /// The inverse of `as u8`.
    pub(super) fn of(number: u8) -> Self {
        CLOSED.get(usize::from(number)).map_or(Self::Failed, |(why, _)| *why)
    }

    pub(super) fn name(self) -> &'static str {
        CLOSED.get(self as usize).map_or("", |(_, name)| name)
    }
}

/// What a request asks; others are counted with the last name.
const OPS: [&str; 21] = [
    "call",
    "begin",
    "one_shot",
    "verify_one_shot",
    "update",
    "finish",
    "stream_one_shot",
    "verify",
    "stream_verify_one_shot",
    "approval",
    "digest_key",
    "save",
    "resume",
    "end",
    "bring",
    "announce",
    "renew_ticket",
    "ping",
    "describe",
    "random",
    "other",
];
/// What a reply is; likewise.
const RESULTS: [&str; 6] = ["done", "error", "behind", "stale", "approval_wanted", "other"];
/// The first element of a clear frame; likewise.
const CLEAR: [&str; 6] = ["status", "bring", "negotiate", "connect", "admin", "other"];
/// The code of a refusal, after "done"; likewise.
const CLEAR_RESULTS: [&str; 8] = ["done", "refused", "busy", "not_a_member", "behind", "too_large", "expired", "other"];
const STATES: [&str; 3] = ["handshake", "linked", "admin"];

/// Upper bounds of the histogram, in microseconds.
const BOUNDS: [u64; 16] =
    [10, 20, 30, 50, 80, 120, 200, 500, 1_000, 2_000, 5_000, 20_000, 100_000, 500_000, 2_000_000, 10_000_000];

/// Durations, by bound.
#[derive(Default)]
struct Histogram {
    /// One more than there are bounds.
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Histogram {
    fn add(&self, took: Duration) {
        let micros = took.as_nanos().div_ceil(1000);
        let at = BOUNDS.iter().position(|bound| micros <= u128::from(*bound)).unwrap_or(BOUNDS.len());
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(0), Ordering::Relaxed);
    }

    fn text(&self, out: &mut String, name: &str, label: &str) {
        let mut sum = 0;
        let bounds = BOUNDS.iter().map(|bound| format!("{}", *bound as f64 / 1e6));
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&self.counts) {
            sum += count.load(Ordering::Relaxed);
            let _ = writeln!(out, "{PREFIX}{name}_bucket{{{label},le=\"{bound}\"}} {sum}");
        }
        let seconds = self.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
        let _ = writeln!(out, "{PREFIX}{name}_sum{{{label}}} {seconds}\n{PREFIX}{name}_count{{{label}}} {sum}");
    }

    fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0)
    }
}

const PREFIX: &str = "conclaved_";

#[derive(Default)]
pub struct Metrics {
    requests: [[AtomicU64; RESULTS.len()]; OPS.len()],
    took: [Histogram; OPS.len()],
    clear: [[AtomicU64; CLEAR_RESULTS.len()]; CLEAR.len()],
    clear_took: [Histogram; CLEAR.len()],
    connections: [AtomicI64; STATES.len()],
    accepted: AtomicU64,
    turned_away: AtomicU64,
    closed: [AtomicU64; CLOSED.len()],
    received: AtomicU64,
    sent: AtomicU64,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        if bytes > 0 {
            self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.step(0, 1);
    }

    pub(super) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection went from one state to another.
    pub(super) fn moved(&self, from: usize, to: usize) {
        self.step(from, -1);
        self.step(to, 1);
    }

    pub(super) fn closed(&self, state: usize, why: Closed) {
        self.step(state, -1);
        count(&self.closed, why as usize);
    }

    fn step(&self, state: usize, by: i64) {
        if let Some(connections) = self.connections.get(state) {
            connections.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// A clear frame was answered.
    pub(super) fn clear(&self, frame: &[u8], answer: &[u8], took: Duration) {
        let kind = element(frame).min(CLEAR.len() - 1);
        let result = match answer {
            [_, _, _, _, 0x82, 0x18, 0xff, code] => usize::from(*code).clamp(1, CLEAR_RESULTS.len() - 1),
            _ => 0,
        };
        if let Some(results) = self.clear.get(kind) {
            count(results, result);
        }
        if let Some(histogram) = self.clear_took.get(kind) {
            histogram.add(took);
        }
    }

    /// A request was answered.
    pub(super) fn request(&self, request: &[u8], reply: &[u8], took: Duration) {
        let op = inner(request, 5).map_or(usize::MAX, element).min(OPS.len() - 1);
        let result = match inner(reply, 4).map_or(usize::MAX, element) {
            0 | 5..=8 | 10 => 0,
            result @ 1..=3 => result,
            9 => 4,
            _ => 5,
        };
        if let Some(results) = self.requests.get(op) {
            count(results, result);
        }
        if let Some(histogram) = self.took.get(op) {
            histogram.add(took);
        }
    }

    /// `gauges`: name, help and value of what others count.
    pub(super) fn text(
        &self,
        standing: &Standing,
        figures: &Figures,
        gauges: &[(&str, &str, usize)],
        uptime: Duration,
    ) -> String {
        let mut out = String::with_capacity(16 * 1024);
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            // Writing to a String does not fail.
            let _ = writeln!(out, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}");
        };
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);

        head(&mut out, "requests_total", "counter", "Requests of hosts, by what is asked and what came of it.");
        labelled(&mut out, "requests_total", "op", (&OPS, &RESULTS), &self.requests);
        head(&mut out, "clear_total", "counter", "Clear messages and handshakes, by kind and what came of them.");
        labelled(&mut out, "clear_total", "kind", (&CLEAR, &CLEAR_RESULTS), &self.clear);
        for (name, label, help, names, histograms) in [
            ("request_seconds", "op", "What requests took within the HSM.", &OPS[..], &self.took[..]),
            ("clear_seconds", "kind", "What handshakes took within the HSM.", &CLEAR[..], &self.clear_took[..]),
        ] {
            head(&mut out, name, "histogram", help);
            for (value, histogram) in names.iter().zip(histograms).filter(|(_, histogram)| !histogram.is_empty()) {
                histogram.text(&mut out, name, &format!("{label}=\"{value}\""));
            }
        }
        head(&mut out, "connections", "gauge", "Open connections, by state.");
        for (state, count) in STATES.iter().zip(&self.connections) {
            let _ = writeln!(out, "{PREFIX}connections{{state=\"{state}\"}} {}", count.load(Ordering::Relaxed));
        }
        head(&mut out, "connections_closed_total", "counter", "Connections that ended, by reason.");
        for ((_, why), count) in CLOSED.iter().zip(&self.closed) {
            let _ = writeln!(out, "{PREFIX}connections_closed_total{{reason=\"{why}\"}} {}", load(count));
        }
        let counters = [
            ("connections_accepted_total", "Connections that were accepted.", load(&self.accepted)),
            ("connections_turned_away_total", "Connections beyond the limits.", load(&self.turned_away)),
            ("received_bytes_total", "Bytes from hosts.", load(&self.received)),
            ("sent_bytes_total", "Bytes to hosts.", load(&self.sent)),
            ("logins_total", "Logins with a right PIN.", figures.logins),
            ("wrong_pins_total", "Wrong PINs.", figures.wrong_pins),
        ];
        let own = [
            ("member", "1 while this HSM is a member of its domain.", u64::from(standing.member)),
            ("domain_version", "Version of the domain's state; 0 without a domain.", standing.version.unwrap_or(0)),
            ("locked_pins", "Roles whose PIN is locked at this HSM.", figures.locked_pins),
            ("streams", "Streaming operations under way.", figures.streams),
            ("clients", "Host processes that this HSM knows.", figures.clients),
            ("cached_records", "Token records that are held open.", figures.cached_records),
            ("uptime_seconds", "Since the server's start.", uptime.as_secs()),
        ];
        let expiry = figures.imported_expiry.map(|at| {
            ("imported_expiry_seconds", "The soonest expiry of imported key material in use, since 1970.", at)
        });
        let gauges = gauges.iter().map(|(name, help, value)| (*name, *help, *value as u64));
        let all = counters.into_iter().map(|metric| ("counter", metric));
        for (kind, (name, help, value)) in all.chain(own.into_iter().chain(expiry).chain(gauges).map(|m| ("gauge", m)))
        {
            head(&mut out, name, kind, help);
            let _ = writeln!(out, "{PREFIX}{name} {value}");
        }
        out
    }
}

/// The counts of a table that are not 0.
fn labelled<const N: usize, const M: usize>(
    out: &mut String,
    name: &str,
    label: &str,
    names: (&[&str; N], &[&str; M]),
    counts: &[[AtomicU64; M]; N],
) {
    for (row, counts) in names.0.iter().zip(counts) {
        for (column, count) in names.1.iter().zip(counts) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let _ = writeln!(out, "{PREFIX}{name}{{{label}=\"{row}\",result=\"{column}\"}} {count}");
            }
        }
    }
}

fn count(counts: &[AtomicU64], at: usize) {
    if let Some(count) = counts.get(at) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The first element of a short CBOR array, if it is a number below 24.
fn element(message: &[u8]) -> usize {
    match message {
        [0x80..=0x97, number @ 0..=23, ..] => usize::from(*number),
        _ => usize::MAX,
    }
}

/// What follows the first `before` elements of an array that has one more.
fn inner(message: &[u8], before: u8) -> Option<&[u8]> {
    let (head, mut rest) = message.split_first()?;
    if *head != 0x80 | (before + 1) {
        return None;
    }
    for _ in 0..before {
        rest = skip(rest, 2)?;
    }
    Some(rest)
}

/// What follows a data item: a number, a string, a simple value, or an array of these.
fn skip(bytes: &[u8], depth: u8) -> Option<&[u8]> {
    let (head, rest) = bytes.split_first()?;
    let (argument, rest) = match head & 0x1f {
        small @ 0..=23 => (u64::from(small), rest),
        size @ 24..=27 => {
            let (argument, rest) = rest.split_at_checked(1 << (size - 24))?;
            (argument.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), rest)
        }
        _ => return None,
    };
    match head >> 5 {
        0 | 1 | 7 => Some(rest),
        2 | 3 => rest.get(usize::try_from(argument).ok()?..),
        4 if depth > 0 && argument < 24 => (0..argument).try_fold(rest, |rest, _| skip(rest, depth - 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_their_places() {
        for (number, (why, _)) in CLOSED.iter().enumerate() {
            assert_eq!((*why as usize, Closed::of(number as u8)), (number, *why));
        }
    }

    #[test]
    fn the_text_has_every_line_well_formed() {
        let metrics = Metrics::new();
        metrics.accepted();
        metrics.moved(0, 1);
        let hash = [&[0x58, 48][..], &[9; 48]].concat();
        let request = [&[0x86, 1][..], &hash, &[0x19, 1, 0, 0, 0x41, 7, 0x81, 17]].concat();
        let reply = [&[0x85, 1][..], &hash, &[0, 0x84, 1, 0xf5, 0xf4, 0xf4, 0x81, 0]].concat();
        metrics.request(&request, &reply, Duration::from_micros(25));
        metrics.request(&[0xff], &[], Duration::from_secs(100));
        metrics.clear(&[0x82, 2, 0], &[0, 0, 0, 4, 0x82, 0x18, 0xff, 3], Duration::from_millis(1));
        let text =
            metrics.text(&Standing::default(), &Figures::default(), &[("workers", "Threads.", 4)], Duration::ZERO);
        for wanted in [
            "conclaved_requests_total{op=\"ping\",result=\"done\"} 1\n",
            "conclaved_requests_total{op=\"other\",result=\"other\"} 1\n",
            "conclaved_request_seconds_bucket{op=\"ping\",le=\"0.00003\"} 1\n",
            "conclaved_request_seconds_bucket{op=\"other\",le=\"10\"} 0\n",
            "conclaved_request_seconds_count{op=\"other\"} 1\n",
            "conclaved_clear_total{kind=\"negotiate\",result=\"not_a_member\"} 1\n",
            "conclaved_connections{state=\"linked\"} 1\n",
            "conclaved_member 0\n",
            "conclaved_workers 4\n",
        ] {
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok()), "{line}");
        }
    }
}
