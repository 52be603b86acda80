//! `conclave store`: moves tokens between a directory and a database.

use conclave::config::Config;
use conclave::store::{Location, migrate};
use conclave::text::hex;
use serde_json::{Map, json};

use crate::args::{Migrate, StoreCommand};
use crate::output::{self, Failure, Progress};

pub(crate) fn run(command: &StoreCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        StoreCommand::Migrate(places) => move_token(places, as_json),
    }
}

fn move_token(places: &Migrate, as_json: bool) -> Result<(), Failure> {
    let config = Config::load().map_err(|error| Failure::while_("reading the configuration", &error))?;
    let (from, to) = (Location::parse(&places.from, &config.data_dir), Location::parse(&places.to, &config.data_dir));
    let mut progress = Progress::new(as_json);
    let report = migrate(&from, &to, &mut |done, total| progress.show(done, total))
        .map_err(|error| Failure::while_("migrating the token", &error))?;
    drop(progress);
    let digest = hex(&report.digest);
    let total: u64 = report.rows.iter().map(|(_, count)| count).sum();
    let objects = report.rows.iter().find(|(table, _)| *table == "objects").map_or(0, |(_, count)| *count);
    let rows: Map<_, _> = report.rows.iter().map(|(table, count)| ((*table).to_owned(), json!(count))).collect();
    let sentence = format!(
        "Token {:?} was copied from {from} to {to}: {objects} objects, {total} rows in all.\n\
         They were read back; the digest of both is {digest}.\n\
         The source is as it was: once the copy is in use, nobody may write to it any more.",
        report.label
    );
    let (from, to) = (from.to_string(), to.to_string());
    let value = json!({
        "label": report.label, "serial": report.serial, "from": from, "to": to, "rows": rows, "digest": digest,
    });
    output::done(as_json, &sentence, &value);
    Ok(())
}
