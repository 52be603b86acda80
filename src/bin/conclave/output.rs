//! What the command line prints: tables, JSON, progress, failures.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use conclave::error::{Error, ErrorKind};
use conclave::hsm::governance;
use serde_json::Value;

/// The exit code of what those who govern refuse.
const REFUSED: u8 = 5;
/// That of what was begun and did not end in time.
const LATE: u8 = 6;

/// Why a command ended without doing its work.
pub(crate) struct Failure {
    code: u8,
    message: String,
    rv: Option<&'static str>,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), rv: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, ..Self::new(message) }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self { code: 3, ..Self::new(message) }
    }

    pub(crate) fn pin_refused(message: impl Into<String>) -> Self {
        Self { code: 4, ..Self::new(message) }
    }

    pub(crate) fn late(message: impl Into<String>) -> Self {
        Self { code: LATE, ..Self::new(message) }
    }

    /// Those who govern, by their rules and the state they made, do not allow it.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { code: REFUSED, rv: Some(ErrorKind::FunctionRejected.name()), ..Self::new(message) }
    }

    /// Says what was being done when the error came.
    pub(crate) fn while_(doing: &str, error: &Error) -> Self {
        let code = match error.kind() {
            ErrorKind::PinIncorrect | ErrorKind::PinLocked | ErrorKind::PinLenRange | ErrorKind::PinInvalid => 4,
            ErrorKind::FunctionRejected
            | ErrorKind::KmsAccessDenied
            | ErrorKind::KmsDisabled
            | ErrorKind::KmsInvalidState => REFUSED,
            ErrorKind::KmsNotFound => 3,
            _ => 1,
        };
        Self { code, message: format!("{doing}: {error}{}", advice(error.kind())), rv: Some(error.kind().name()) }
    }

    /// Adds what to do about a failure of this return code.
    pub(crate) fn advise(mut self, kind: ErrorKind, advice: &str) -> Self {
        if self.is(kind) {
            self.message.push_str(advice);
        }
        self
    }

    pub(crate) fn is(&self, kind: ErrorKind) -> bool {
        self.rv == Some(kind.name())
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn report(&self, json: bool) -> ExitCode {
        if json {
            eprintln!("{}", serde_json::json!({ "error": self.message, "rv": self.rv }));
        } else {
            let rv = self.rv.map(|rv| format!(" ({rv})")).unwrap_or_default();
            eprintln!("conclave: {}{rv}", self.message);
        }
        ExitCode::from(self.code)
    }
}

/// What to do about it.
fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::PinLocked => {
            "; the SO unlocks a user's PIN by setting a new one (pkcs11-tool --init-pin), \
             a locked SO PIN leaves only `conclave token destroy`; where operators govern, they reset either: \
             `conclave proposal new reset-pin`"
        }
        ErrorKind::UserPinNotInitialized => "; `conclave user list` says who has one, `conclave user set-pin` sets it",
        ErrorKind::TokenNotRecognized | ErrorKind::DeviceError => "; run `conclave doctor`",
        ErrorKind::UserNotLoggedIn => "; this takes a user's login (--pin, perhaps with --login-as), not the SO's",
        ErrorKind::KmsNotFound => "; see `conclave key list`, `conclave alias list`, `conclave grant list`",
        ErrorKind::KmsDisabled => "; `conclave key enable` enables it",
        ErrorKind::KmsInvalidState => "; `conclave key describe` shows its state",
        ErrorKind::KmsAccessDenied => "; `conclave key policy show` and `conclave grant list` say who may",
        ErrorKind::KmsInvalidImportToken | ErrorKind::KmsExpiredImportToken => {
            "; `conclave key import-parameters` gives a new one"
        }
        _ => "",
    }
}

/// Prints rows under their headings, columns aligned.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let text: String = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        text.trim_end().to_owned()
    };
    let mut out = std::io::stdout().lock();
    // A closed pipe (`| head`) is the reader's wish, not a failure.
    let _ = writeln!(out, "{}", line(&mut headings.iter().copied()));
    for row in rows {
        let _ = writeln!(out, "{}", line(&mut row.iter().map(String::as_str)));
    }
}

pub(crate) fn json(value: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = serde_json::to_writer_pretty(&mut out, value);
    let _ = writeln!(out);
}

/// Prints a sentence, or the JSON that says the same.
pub(crate) fn done(as_json: bool, sentence: &str, value: &Value) {
    if as_json {
        json(value);
    } else {
        println!("{sentence}");
    }
}

/// The items of a list; none of what is no list.
pub(crate) fn items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// One member of an item as text, a date if the name ends with `@`; the item itself if none is named.
/// Names that people gave are shown escaped, so that none can pass for another row.
pub(crate) fn cell(item: &Value, column: &str) -> String {
    let (path, date) = match column.strip_suffix('@') {
        Some(path) => (path, true),
        None => (column, false),
    };
    let value = path.split('.').filter(|name| !name.is_empty()).fold(item, |value, name| &value[name]);
    // A space at an end would not be seen.
    let safe = |text: &str| if text.trim() == text { text.escape_debug().to_string() } else { format!("{text:?}") };
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::String(words) if path == "words" => words.clone(),
        Value::String(text) => safe(text),
        Value::Array(several) => several.iter().filter_map(Value::as_str).map(safe).collect::<Vec<_>>().join(", "),
        // In quotes, for a user may be called "SO".
        Value::Object(named) => {
            named.values().filter_map(Value::as_str).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
        }
        Value::Number(number) if date => governance::date(number.as_u64().unwrap_or_default()),
        Value::Number(number) => number.to_string(),
    }
}

/// How far a long piece of work is, on the standard error: a bar at a terminal, in a log a line at
/// every tenth of the way. Work that is done within a second shows none.
pub(crate) struct Progress {
    begun: Instant,
    terminal: bool,
    quiet: bool,
    shown: u64,
}

impl Progress {
    pub(crate) fn new(as_json: bool) -> Self {
        Self { begun: Instant::now(), terminal: std::io::stderr().is_terminal(), quiet: as_json, shown: 0 }
    }

    pub(crate) fn show(&mut self, done: u64, total: u64) {
        let percent = (done * 100).checked_div(total).unwrap_or(100).min(100);
        let enough = if self.terminal { percent > self.shown || done == total } else { percent >= self.shown + 10 };
        if self.quiet || !enough || self.begun.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.shown = percent;
        let mut err = std::io::stderr().lock();
        let (start, end) = if self.terminal { ("\r", "") } else { ("", "\n") };
        let filled = usize::try_from(percent / 5).unwrap_or_default();
        // What cannot be shown does not stop the work.
        let _ = write!(err, "{start}[{:<20}] {done} of {total}{end}", "#".repeat(filled)).and_then(|()| err.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.shown > 0 && !self.quiet {
            eprintln!();
        }
    }
}

/// Asks before what cannot be undone: the answer must be `expected`.
pub(crate) fn confirm(question: &str, expected: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("not at a terminal: give --yes to confirm"));
    }
    eprint!("{question}\nType {expected:?} to go on: ");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && answer.trim_end_matches(['\r', '\n']) == expected {
        Ok(())
    } else {
        Err(Failure::new("not confirmed, nothing was changed"))
    }
}
