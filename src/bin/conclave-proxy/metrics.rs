//! What is counted, in Prometheus' text format.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::queue::Queue;

/// Why a request was refused.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refused {
    BadRequest,
    NotFound,
    TooLarge,
    Full,
    Timeout,
    Busy,
    Store,
    Connections,
}

/// Their labels, in the same order.
const REASONS: [&str; 8] = ["bad_request", "not_found", "too_large", "full", "timeout", "busy", "store", "connections"];

#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) accepted: AtomicU64,
    pub(crate) accepted_bytes: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) acknowledged: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) connections: AtomicI64,
    refused: [AtomicU64; REASONS.len()],
}

impl Metrics {
    pub(crate) fn refuse(&self, why: Refused) {
        if let Some(count) = self.refused.get(why as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn text(&self, queue: &Queue) -> String {
        let mut out = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, values: &mut dyn Iterator<Item = (String, i128)>| {
            // Writing to a String does not fail.
            let _ = writeln!(out, "# HELP conclave_proxy_{name} {help}\n# TYPE conclave_proxy_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(out, "conclave_proxy_{name}{labels} {value}");
            }
        };
        for (name, help, value) in [
            ("messages_accepted_total", "Messages that were accepted.", &self.accepted),
            ("bytes_accepted_total", "Bytes of messages that were accepted.", &self.accepted_bytes),
            ("messages_delivered_total", "Messages that were given, each time they were.", &self.delivered),
            ("messages_acknowledged_total", "Messages that were acknowledged.", &self.acknowledged),
            ("messages_expired_total", "Messages that ended because they were too old.", &self.expired),
        ] {
            let value = value.load(Ordering::Relaxed).into();
            metric(name, "counter", help, &mut std::iter::once((String::new(), value)));
        }
        let refused = REASONS.iter().zip(&self.refused);
        let mut refused =
            refused.map(|(reason, count)| (format!("{{reason=\"{reason}\"}}"), count.load(Ordering::Relaxed).into()));
        metric("refused_total", "counter", "Requests that were refused.", &mut refused);
        let all = queue.queues().all();
        let mut messages = all.iter().map(|(region, waiting)| (label(region), waiting.messages.into()));
        metric("queue_messages", "gauge", "Messages that wait for a Region.", &mut messages);
        let mut bytes = all.iter().map(|(region, waiting)| (label(region), waiting.bytes.into()));
        metric("queue_bytes", "gauge", "Bytes of messages that wait for a Region.", &mut bytes);
        for (name, help, value) in [
            ("connections", "Connections that are open.", i128::from(self.connections.load(Ordering::Relaxed))),
            ("listeners", "Requests that wait for a message.", queue.listeners() as i128),
        ] {
            metric(name, "gauge", help, &mut std::iter::once((String::new(), value)));
        }
        out
    }
}

fn label(region: &str) -> String {
    // A Region's name has no line ends.
    format!("{{region=\"{}\"}}", region.replace('\\', "\\\\").replace('"', "\\\""))
}
