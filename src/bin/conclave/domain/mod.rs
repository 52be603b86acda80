//! `conclave domain`: founding, what a domain and its history say, its keys, recovery.

mod history;
mod keys;
mod recovery;
mod state;

use serde_json::json;

use crate::args::{DomainCommand, DomainExport, DomainFound, DomainImport, RecoveryCommand};
use crate::output::{self, Failure};
use crate::session::Live;
use crate::{files, propose};

pub(crate) fn run(command: &DomainCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        DomainCommand::Found(found) => self::found(found, as_json),
        DomainCommand::Show(show) => state::show(show, as_json),
        DomainCommand::Export(export) => self::export(export, as_json),
        DomainCommand::History(history) => history::run(history, as_json),
        DomainCommand::Import(import) => self::import(import, as_json),
        DomainCommand::Rotate(rotate) => keys::rotate(rotate, as_json),
        DomainCommand::Reseal(reseal) => keys::reseal(reseal, as_json),
        DomainCommand::Lost(lost) => keys::lost(lost, as_json),
        DomainCommand::Recovery(RecoveryCommand::Make(make)) => recovery::make(make, as_json),
        DomainCommand::Recovery(RecoveryCommand::Begin(begin)) => recovery::begin(begin, as_json),
        DomainCommand::Recovery(RecoveryCommand::Contribute(contribute)) => recovery::contribute(contribute, as_json),
        DomainCommand::Recovery(RecoveryCommand::Finish(finish)) => recovery::finish(finish, as_json),
    }
}

fn found(found: &DomainFound, as_json: bool) -> Result<(), Failure> {
    let live = Live::public(found.options.token.as_deref())?;
    if live.token.founded {
        return Err(Failure::refused(format!("operators govern token {:?} already", live.token.label)));
    }
    let request = propose::found(&found.region, &found.operator, found.rules.as_deref())?;
    propose::make(&live, request, &found.options, as_json)
}

fn export(export: &DomainExport, as_json: bool) -> Result<(), Failure> {
    let live = Live::at(&export.at)?;
    let (token, state) = (live.export()?, live.domain()?);
    files::replace(&export.out, &token)?;
    let (version, domain) = (&state["version"], state["domain"].as_str().unwrap_or_default());
    let sentence = format!("{} is version {version} of domain {domain}.", export.out.display());
    let said = json!({ "file": export.out, "domain": domain, "version": version, "hash": state["hash"] });
    files::report(&export.out, as_json, &sentence, &said);
    Ok(())
}

fn import(import: &DomainImport, as_json: bool) -> Result<(), Failure> {
    let history = files::read(&import.file)?;
    let live = Live::public(import.login.token.as_deref())?;
    let before = live.domain()?;
    live.log_in(&import.login, cryptoki_sys::CKU_USER)?;
    live.module
        .import_domain(live.session, &history)
        .map_err(|error| Failure::while_("the history was not taken, and nothing has changed", &error))?;
    let after = live.domain()?;
    let sentence =
        format!("Token {:?} went from version {} to {}.", live.token.label, before["version"], after["version"]);
    output::done(as_json, &sentence, &json!({ "from": before["version"], "to": after["version"] }));
    Ok(())
}
