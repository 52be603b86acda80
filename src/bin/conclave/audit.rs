//! `conclave audit`: the log of who did what with which managed key.

use std::collections::VecDeque;
use std::io::{BufWriter, Write};

use conclave::error::ErrorKind;
use conclave::text::hex;
use cryptoki_sys as ck;
use serde_json::{Value, json};

use crate::args::{AuditCommand, AuditExport, AuditHead, AuditList, AuditVerify};
use crate::files;
use crate::managed::reference;
use crate::output::{self, Failure, Progress, cell};
use crate::session::{Live, unhex};

/// How many rows are read at once.
const PAGE: usize = 1000;

/// The columns of a list, and the least width of each.
const COLUMNS: [(&str, &str, usize); 7] = [
    ("TIME", "time", 24),
    ("PRINCIPAL", "principal", 9),
    ("ACTION", "action", 25),
    ("KEY", "key", 36),
    ("OUTCOME", "outcome", 24),
    ("TARGET", "target", 6),
    ("CONTEXT", "context", 7),
];

pub(crate) fn run(command: &AuditCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        AuditCommand::List(list) => self::list(list, as_json),
        AuditCommand::Verify(verify) => self::verify(verify, as_json),
        AuditCommand::Export(export) => self::export(export, as_json),
        AuditCommand::Head(head) => self::head(head, as_json),
    }
}

fn list(list: &AuditList, as_json: bool) -> Result<(), Failure> {
    let live = Live::public(list.login.token.as_deref())?;
    live.log_in(&list.login, ck::CKU_USER)?;
    let key = list.key.as_deref().map(|key| key_id(&live, key)).transpose()?;
    let mut newest = VecDeque::new();
    let mut printer = Printer::new(as_json);
    for_each(&live, 0, &mut |line| {
        let row: Value = serde_json::from_str(line).unwrap_or_default();
        let wanted = row["row"] == "event" && key.as_ref().is_none_or(|key| row["key"] == **key);
        match (wanted, list.last) {
            (false, _) => {}
            (true, None) => printer.print(&row),
            (true, Some(last)) => {
                newest.push_back(row);
                if newest.len() > last {
                    newest.pop_front();
                }
            }
        }
        Ok(())
    })?;
    newest.iter().for_each(|row| printer.print(row));
    printer.end();
    Ok(())
}

/// The id of a key; one that is given stays, for the key may be gone.
fn key_id(live: &Live, key: &str) -> Result<String, Failure> {
    let named = reference(key);
    if !named.starts_with("alias/") {
        return Ok(named);
    }
    Ok(cell(&live.describe_key(&named)?, "KeyId"))
}

/// Prints events as they come: a table, or a JSON array.
struct Printer {
    as_json: bool,
    any: bool,
}

impl Printer {
    fn new(as_json: bool) -> Self {
        if as_json {
            print!("[");
        } else {
            Self::line(COLUMNS.map(|(heading, ..)| heading.to_owned()));
        }
        Self { as_json, any: false }
    }

    fn print(&mut self, row: &Value) {
        if self.as_json {
            print!("{}\n{row}", if self.any { "," } else { "" });
        } else {
            Self::line(COLUMNS.map(|(_, name, _)| match &row[name] {
                Value::Object(context) => {
                    let pairs = context.iter().map(|(key, value)| format!("{key:?}={value}"));
                    pairs.collect::<Vec<_>>().join(" ")
                }
                // What the HSM did of itself is nobody's.
                Value::String(nobody) if nobody.is_empty() => "-".to_owned(),
                _ => cell(row, name),
            }));
        }
        self.any = true;
    }

    fn line(cells: [String; COLUMNS.len()]) {
        let cells = cells.iter().zip(COLUMNS).map(|(cell, (.., width))| format!("{cell:<width$}  "));
        println!("{}", cells.collect::<String>().trim_end());
    }

    fn end(&self) {
        if self.as_json {
            println!("\n]");
        }
    }
}

fn verify(verify: &AuditVerify, as_json: bool) -> Result<(), Failure> {
    let head = verify.head.as_deref().map(files::read).transpose()?.map(|bytes| {
        let text = std::str::from_utf8(&bytes).ok().and_then(|text| unhex(text.trim()));
        text.unwrap_or(bytes)
    });
    let live = Live::at(&verify.at)?;
    let mut progress = Progress::new(as_json);
    let report = live.module.verify_audit(live.session, head.as_deref(), &mut |done, total| progress.show(done, total));
    drop(progress);
    let report = report.map_err(|error| match (&verify.head, error.kind()) {
        (Some(head), ErrorKind::DataInvalid) => {
            Failure::new(format!("{} is no head of an audit log ({error})", files::name(head)))
        }
        _ => Failure::while_("the audit log cannot be verified", &error),
    })?;
    if as_json {
        output::json(&serde_json::to_value(&report).unwrap_or_default());
    } else {
        for damage in &report.damage {
            let row = damage.id.map(|id| format!("row {id}, ")).unwrap_or_default();
            let seq = damage.seq.map(|seq| format!(", record {seq}")).unwrap_or_default();
            println!("{row}chain {}{seq}: {}", short(&damage.instance), damage.what);
        }
        for chain in &report.open {
            println!(
                "not closed: chain {} of host {:?}, up to record {} at {}, {} of them unsigned",
                short(&chain.instance),
                chain.host,
                chain.seq,
                chain.time,
                chain.unsigned
            );
        }
        let against = if report.head_checked { ", and has all that the head vouches for" } else { "" };
        if report.ok {
            println!("{} events in {} chains: the log is whole{against}", report.events, report.chains);
        }
    }
    match report.damage_count {
        0 => Ok(()),
        count => Err(Failure::new(format!("the audit log is damaged: {count} findings"))),
    }
}

fn export(export: &AuditExport, as_json: bool) -> Result<(), Failure> {
    let live = Live::public(export.login.token.as_deref())?;
    live.log_in(&export.login, ck::CKU_USER)?;
    let failed = |error: std::io::Error| files::unwritten(&export.out, &error);
    let standard = files::is_standard(&export.out);
    let out: Box<dyn Write> =
        if standard { Box::new(std::io::stdout().lock()) } else { Box::new(files::create(&export.out)?) };
    let (mut out, mut rows) = (BufWriter::new(out), 0_u64);
    for_each(&live, export.after, &mut |line| {
        rows += 1;
        writeln!(out, "{line}").map_err(failed)
    })?;
    out.flush().map_err(failed)?;
    if !standard {
        output::done(
            as_json,
            &format!("{rows} rows were written to {}.", export.out.display()),
            &json!({ "rows": rows }),
        );
    }
    Ok(())
}

fn head(head: &AuditHead, as_json: bool) -> Result<(), Failure> {
    let live = Live::public(head.login.token.as_deref())?;
    live.log_in(&head.login, ck::CKU_USER)?;
    let signed = live.module.audit_head(live.session);
    let signed = signed.map_err(|error| Failure::while_("cannot sign a head of the audit log", &error))?;
    let printed = json!({ "head": hex(&signed) });
    match &head.out {
        Some(out) => {
            files::write_new(out, &signed)?;
            files::report(out, as_json, &format!("The head was written to {}.", out.display()), &printed);
        }
        None => output::done(as_json, &hex(&signed), &printed),
    }
    Ok(())
}

/// Reads the log from after a row on, line by line.
fn for_each(live: &Live, mut after: u64, take: &mut dyn FnMut(&str) -> Result<(), Failure>) -> Result<(), Failure> {
    loop {
        let page = live.module.read_audit(live.session, after, PAGE);
        let page = page.map_err(|error| Failure::while_("cannot read the audit log", &error))?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = *last;
        page.iter().try_for_each(|(_, line)| take(line))?;
    }
}

fn short(instance: &str) -> &str {
    instance.get(..8).unwrap_or(instance)
}
