//! What an exchange tells: a line for each message and refusal.

use std::time::{Duration, Instant};

use conclave::hsm::{MessageView, governance};
use serde_json::{Map, Value, json};

use super::exchange::Event;
use crate::times;

/// How many of a message's key ids a line has.
const IDS: usize = 3;
/// A failure of the carrier that goes on is told once in this time.
const REPEAT: Duration = Duration::from_secs(60);

/// Whether it is something to be seen to, and not the ordinary course.
pub(super) fn is_trouble(event: &Event<'_>) -> bool {
    !matches!(event, Event::Taken { .. } | Event::Told { .. })
}

/// An event as an object, its members in the order in which a line has them.
fn members(event: &Event<'_>) -> Vec<(&'static str, Value)> {
    let about = |view: Option<&MessageView>| {
        let kind = view.map_or("unknown", |view| view.kind.name());
        let keys = view.map(|view| view.keys.as_slice()).unwrap_or_default();
        [("message", json!(kind)), ("keys", json!(keys.len())), ("ids", json!(keys.get(..IDS).unwrap_or(keys)))]
    };
    let told = |keys: &[String]| [("keys", json!(keys.len())), ("ids", json!(keys.get(..IDS).unwrap_or(keys)))];
    let mut members = Vec::with_capacity(8);
    let mut put = |name, value| members.push((name, value));
    match event {
        Event::Taken { from, message, bytes, answer } => {
            put("event", json!("taken"));
            put("from", json!(from.to_string()));
            about(Some(message)).into_iter().for_each(|(name, value)| put(name, value));
            put("bytes", json!(bytes));
            put("answer", json!(answer.map(|answer| answer.kind.name())));
        }
        Event::Refused { from, message, error } | Event::Failed { from, message, error } => {
            put("event", json!(if matches!(event, Event::Refused { .. }) { "refused" } else { "failed" }));
            put("from", json!(from.to_string()));
            about(*message).into_iter().for_each(|(name, value)| put(name, value));
            put("reason", json!(error.to_string()));
        }
        Event::Told { region, kind, keys, bytes } => {
            put("event", json!("sent"));
            put("to", json!(region));
            put("message", json!(kind.name()));
            told(keys).into_iter().for_each(|(name, value)| put(name, value));
            put("bytes", json!(bytes));
        }
        Event::Untold { region, kind, keys, error } => {
            put("event", json!("not-sent"));
            put("to", json!(region));
            put("message", json!(kind.name()));
            told(keys).into_iter().for_each(|(name, value)| put(name, value));
            put("reason", json!(error.to_string()));
        }
        Event::Unknown { error } => {
            put("event", json!("failed"));
            put("reason", json!(format!("cannot tell what is pending: {error}")));
        }
        Event::Carrier { failure } => {
            put("event", json!("carrier"));
            put("reason", json!(failure.message()));
        }
    }
    members
}

/// An event in one line, without its time.
pub(super) fn words(event: &Event<'_>) -> String {
    let mut line = String::new();
    for (name, value) in members(event) {
        let text = match &value {
            Value::Null => continue,
            Value::String(text) if plain(text) => text.clone(),
            Value::Array(ids) if ids.is_empty() => continue,
            Value::Array(ids) => {
                let ids: Vec<_> =
                    ids.iter().filter_map(Value::as_str).map(|id| id.escape_default().to_string()).collect();
                ids.join(",")
            }
            value => value.to_string(),
        };
        if !line.is_empty() {
            line.push(' ');
        }
        if name != "event" {
            line.push_str(name);
            line.push('=');
        }
        line.push_str(&text);
    }
    line
}

/// What a line has without quotes.
fn plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_/.:".contains(&byte))
}

/// Prints events to the standard output as they happen.
pub(super) struct Lines {
    as_json: bool,
    last_failure: Option<(String, Instant)>,
}

impl Lines {
    pub(super) fn new(as_json: bool) -> Self {
        Self { as_json, last_failure: None }
    }

    pub(super) fn print(&mut self, event: &Event<'_>) {
        if let Event::Carrier { failure } = event {
            let same = |(text, at): &(String, Instant)| text == failure.message() && at.elapsed() < REPEAT;
            if self.last_failure.as_ref().is_some_and(same) {
                return;
            }
            self.last_failure = Some((failure.message().to_owned(), Instant::now()));
        }
        if self.as_json {
            let mut object = Map::new();
            object.insert("at".to_owned(), json!(times::now()));
            object.extend(members(event).into_iter().map(|(name, value)| (name.to_owned(), value)));
            println!("{}", Value::Object(object));
        } else {
            println!("{} {}", governance::date(times::now()), words(event));
        }
    }

    /// A line of this program's own.
    pub(super) fn note(&self, event: &str, more: &str, value: Value) {
        if self.as_json {
            println!("{}", json!({ "at": times::now(), "event": event, "region": value }));
        } else {
            println!("{} {event} {more}", governance::date(times::now()));
        }
    }
}
