//! Papers: files of bytes, where `-` is the standard input or output.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::Value;

use crate::output::{self, Failure};

pub(crate) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A paper's name in a sentence.
pub(crate) fn name(path: &Path) -> String {
    if is_standard(path) { "the standard input".to_owned() } else { path.display().to_string() }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    if is_standard(path) {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        return read.map(|_| bytes).map_err(|error| Failure::new(format!("cannot read the standard input: {error}")));
    }
    std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::not_found(format!("there is no file {}", path.display())),
        _ => Failure::new(format!("cannot read {}: {error}", path.display())),
    })
}

/// Writes a new paper; one that exists is not overwritten.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if is_standard(path) {
        return to_standard_output(bytes);
    }
    let mut file = create(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| unwritten(path, &error))
}

/// A file that is not there yet.
pub(crate) fn create(path: &Path) -> Result<File, Failure> {
    let created = OpenOptions::new().write(true).create_new(true).open(path);
    created.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::new(format!("{} exists already: give another name", path.display()))
        }
        _ => unwritten(path, &error),
    })
}

pub(crate) fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot write {}: {error}", path.display()))
}

/// Writes a paper in place of the one there may be: it is the old one or the new one at any time.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    replace_with(path, bytes, 0o666)
}

/// The same for what only its owner may read.
pub(crate) fn replace_secret(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    replace_with(path, bytes, 0o600)
}

fn replace_with(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    if is_standard(path) {
        return to_standard_output(bytes);
    }
    let failed = |error| unwritten(path, &error);
    // A pipe or a device is written to as it is.
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(bytes)).map_err(failed);
    }
    let mut name = path.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // What cannot be removed was not made.
        let _ = std::fs::remove_file(&beside);
    }
    written.map_err(failed)
}

/// Says what was done; to the standard error if the paper itself went to the standard output.
pub(crate) fn report(out: &Path, as_json: bool, sentence: &str, value: &Value) {
    match (is_standard(out), as_json) {
        (false, _) => output::done(as_json, sentence, value),
        (true, true) => eprintln!("{value}"),
        (true, false) => eprintln!("{sentence}"),
    }
}

/// The same of several papers, those that were asked for.
pub(crate) fn report_all(outputs: &[Option<&Path>], as_json: bool, sentence: &str, value: &Value) {
    let standard = outputs.iter().flatten().find(|out| is_standard(out));
    report(standard.copied().unwrap_or_else(|| Path::new("")), as_json, sentence, value);
}

fn to_standard_output(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() && !is_text(bytes) {
        return Err(Failure::usage("the result is bytes, which a terminal cannot show: give a file or a pipe"));
    }
    let written = out.write_all(bytes).and_then(|()| out.flush());
    written.map_err(|error| Failure::new(format!("cannot write to the standard output: {error}")))
}

/// What a terminal shows and does not obey.
fn is_text(bytes: &[u8]) -> bool {
    let printable = |text: &str| text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t'));
    std::str::from_utf8(bytes).is_ok_and(printable)
}
