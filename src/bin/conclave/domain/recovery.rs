//! `conclave domain recovery`.

use conclave::hsm::governance;
use serde_json::json;

use crate::args::{RecoveryBegin, RecoveryContribute, RecoveryFinish, RecoveryMake};
use crate::output::{self, Failure};
use crate::session::Live;
use crate::{files, operator_keys, pin, proposal, propose};
use conclave::text::hex;

const NEW_SO_PIN: &str = "new SO PIN";

pub(super) fn make(make: &RecoveryMake, as_json: bool) -> Result<(), Failure> {
    let live = Live::public(make.options.token.as_deref())?;
    let request = propose::recovery_set(&live, make.threshold, &make.operators)?;
    propose::make(&live, request, &make.options, as_json)
}

pub(super) fn begin(begin: &RecoveryBegin, as_json: bool) -> Result<(), Failure> {
    let live = Live::public(begin.options.token.as_deref())?;
    let state = live.domain()?;
    if state["recovery"].is_null() {
        return Err(Failure::refused("nobody holds shares of a recovery key of this domain: it cannot be recovered"));
    }
    // A fleet's fresh HSM is the one at the operators' socket, and nothing changes by naming it.
    let so_pin = match live.is_of_fleet() {
        true => None,
        false => {
            output::confirm(
                "This makes a fresh HSM for the token. One that an earlier `recovery begin` made is forgotten.",
                &live.token.label,
                begin.yes,
            )?;
            Some(pin::read(&begin.new_so_pin, NEW_SO_PIN, true)?)
        }
    };
    let claim = live
        .module
        .begin_recovery(live.slot, so_pin.as_ref().map(|pin| pin.as_bytes()))
        .map_err(|error| Failure::while_("cannot begin a recovery", &error))?;
    let request = json!({ "command": "recover domain", "hsm": hex(&claim) });
    propose::make(&live, request, &begin.options, as_json)
}

pub(super) fn contribute(arguments: &RecoveryContribute, as_json: bool) -> Result<(), Failure> {
    let command = files::read(&arguments.command)?;
    let described = proposal::show_before(&command, arguments.history.is_none().then_some(arguments.domain.as_path()))?;
    if described["command"] != "recover domain" {
        return Err(Failure::usage("that is not a `recover domain` command"));
    }
    output::confirm(
        "You are about to give your share of the recovery key to this HSM.",
        "recover domain",
        arguments.yes,
    )?;
    let token = files::read(&arguments.domain)?;
    let history = arguments.history.as_deref().map(files::read).transpose()?;
    let keys = operator_keys::open(&arguments.source)?;
    let share = governance::contribute(&token, history.as_deref(), &command, &*keys)
        .map_err(|error| Failure::while_("your share stays with you", &error))?;
    files::write_new(&arguments.out, &share)?;
    let sentence = format!("{} has your share, for the HSM that the command names alone.", arguments.out.display());
    files::report(&arguments.out, as_json, &sentence, &json!({ "command": described["id"], "share": arguments.out }));
    Ok(())
}

pub(super) fn finish(finish: &RecoveryFinish, as_json: bool) -> Result<(), Failure> {
    let live = Live::at(&finish.at)?;
    let command = proposal::read(&live, &finish.command)?.0;
    let described = live.describe(&command)?;
    if described["command"] != "recover domain" {
        return Err(Failure::usage("that is not a `recover domain` command"));
    }
    let shares = finish.share.iter().map(|file| files::read(file)).collect::<Result<Vec<_>, _>>()?;
    if !as_json {
        eprint!("{}", proposal::readable(&described));
    }
    let fleet = live.is_of_fleet();
    let (gone, how) = match fleet {
        true => ("All PINs", "reset-pin --user … --code …"),
        false => ("All PINs but the SO's", "reset-pin"),
    };
    let warning = format!("The HSM that the command names becomes the domain's only one. {gone} are gone then.");
    output::confirm(&warning, "recover domain", finish.yes)?;
    let so_pin = if fleet { None } else { Some(pin::read(&finish.new_so_pin, NEW_SO_PIN, false)?) };
    let shares: Vec<&[u8]> = shares.iter().map(Vec::as_slice).collect();
    live.module
        .recover(live.slot, so_pin.as_ref().map(|pin| pin.as_bytes()), &command, &shares)
        .map_err(|error| Failure::while_("the domain was not recovered, and nothing has changed", &error))?;
    let state = live.domain()?;
    let sentence = format!(
        "Token {:?} is recovered, in version {}. Its users get new PINs by `conclave proposal new {how}`.",
        live.token.label, state["version"]
    );
    output::done(as_json, &sentence, &json!({ "token": live.token.label, "version": state["version"] }));
    Ok(())
}
