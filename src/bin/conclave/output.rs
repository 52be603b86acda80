//! What the command line prints: tables, JSON, failures.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use conclave::error::{Error, ErrorKind};
use serde_json::Value;

/// The exit code of what the domain refuses.
const REFUSED: u8 = 5;

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

    /// Those who govern, by their rules and the state they made, do not allow it.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { code: REFUSED, rv: Some(ErrorKind::FunctionRejected.name()), ..Self::new(message) }
    }

    /// Says what was being done when the error came.
    pub(crate) fn while_(doing: &str, error: &Error) -> Self {
        let code = match error.kind() {
            ErrorKind::PinIncorrect | ErrorKind::PinLocked | ErrorKind::PinLenRange | ErrorKind::PinInvalid => 4,
            ErrorKind::FunctionRejected => REFUSED,
            _ => 1,
        };
        Self { code, message: format!("{doing}: {error}{}", advice(error.kind())), rv: Some(error.kind().name()) }
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
        ErrorKind::UserPinNotInitialized => "; `conclave user set-pin` sets it",
        ErrorKind::TokenNotRecognized | ErrorKind::DeviceError => "; run `conclave doctor`",
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
