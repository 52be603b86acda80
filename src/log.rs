//! The log: a `tracing` subscriber that writes each event as one line with one `write(2)`, to
//! standard error or to a file that it only ever appends to.
//!
//! It takes no lock and keeps no descriptor, so it works in a forked child, after a daemon has
//! closed all its files, and while another program rotates the log.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::error::Error;

/// Sends the events up to `level` to the file, else to standard error. Only the first call in a
/// process has an effect. Fails if the file cannot be written.
pub fn install(level: LevelFilter, file: Option<&Path>) -> io::Result<()> {
    file.map(open).transpose()?;
    // An error says that there is one already.
    let _ = tracing::subscriber::set_global_default(Log { level, file: file.map(Path::to_owned), json: false });
    Ok(())
}

/// The same, to standard error, with each line a JSON object.
pub fn install_json(level: LevelFilter) {
    let _ = tracing::subscriber::set_global_default(Log { level, file: None, json: true });
}

/// Tells standard error what went wrong before the log was there.
pub fn early(error: &Error) {
    to_stderr(line(&Level::ERROR, module_path!(), format_args!("{error}")).as_bytes());
}

struct Log {
    level: LevelFilter,
    file: Option<PathBuf>,
    json: bool,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let line = if self.json {
            json_line(event)
        } else {
            let mut text = Text::default();
            event.record(&mut text);
            line(metadata.level(), metadata.target(), format_args!("{}{}", text.message, text.fields))
        };
        let written = self
            .file
            .as_deref()
            .is_some_and(|file| open(file).and_then(|mut file| file.write_all(line.as_bytes())).is_ok());
        if !written {
            to_stderr(line.as_bytes());
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event's message, and its other fields as ` name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// An event's fields, by name.
#[derive(Default)]
struct Json(serde_json::Map<String, serde_json::Value>);

impl Visit for Json {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

/// One line with an object. JSON has no control characters.
fn json_line(event: &Event<'_>) -> String {
    let mut fields = Json::default();
    event.record(&mut fields);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    fields.0.insert("time".to_owned(), timestamp(time.as_secs(), time.subsec_millis()).into());
    fields.0.insert("level".to_owned(), event.metadata().level().as_str().into());
    fields.0.insert("target".to_owned(), event.metadata().target().into());
    fields.0.insert("pid".to_owned(), process::id().into());
    format!("{}\n", serde_json::Value::Object(fields.0))
}

/// One line, in which control characters are escaped so that no event can pass for two.
fn line(level: &Level, target: &str, text: fmt::Arguments<'_>) -> String {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut line = timestamp(time.as_secs(), time.subsec_millis());
    let _ = write!(line, " {level} conclave[{}] {target}: ", process::id());
    for character in text.to_string().chars() {
        match character.is_control() {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line.push('\n');
    line
}

/// RFC 3339 in UTC. `seconds` since 1970.
fn timestamp(seconds: u64, millis: u32) -> String {
    let (date, time) = crate::text::utc(seconds);
    format!("{date}T{time}.{millis:03}Z")
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Not through `std::io::stderr`, whose lock another thread may hold at a fork.
fn to_stderr(bytes: &[u8]) {
    // SAFETY: the bytes are valid for reads; a closed descriptor is an error that is ignored.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_civil_dates() {
        assert_eq!(timestamp(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(951_782_399, 7), "2000-02-28T23:59:59.007Z");
        assert_eq!(timestamp(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(timestamp(1_709_251_199, 999), "2024-02-29T23:59:59.999Z");
        assert_eq!(timestamp(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
        assert_eq!(timestamp(1_767_225_599, 0), "2025-12-31T23:59:59.000Z");
    }

    #[test]
    fn a_line_stays_one_line() {
        let line = line(&Level::WARN, "target", format_args!("a\nb\r\x1b[0m é"));
        assert!(line.contains("target: a\\nb\\r\\u{1b}[0m é\n"), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn events_are_appended_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "before\n").unwrap();
        let log = Log { level: LevelFilter::INFO, file: Some(path.clone()), json: false };
        tracing::subscriber::with_default(log, || {
            tracing::info!(slot = 3, "opened");
            tracing::debug!("not shown");
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("before\n") && text.ends_with(": opened slot=3\n"), "{text}");
        assert_eq!(text.lines().count(), 2);
    }
}
