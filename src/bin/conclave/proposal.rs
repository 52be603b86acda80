//! `conclave proposal`: commands read, signed and executed, on paper or pending with a token.

use std::fmt::Write as _;
use std::path::Path;

use conclave::error::ErrorKind;
use conclave::hsm::governance::{self, OperatorKeys};
use cryptoki_sys as ck;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::args::{
    ProposalCommand, ProposalExecute, ProposalList, ProposalMerge, ProposalShow, ProposalSign, ProposalSubmit,
    ProposalWithdraw,
};
use crate::output::{self, Failure};
use crate::session::Live;
use crate::{files, operator_keys, propose, times};
use conclave::text::hex;

pub(crate) fn run(command: &ProposalCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        ProposalCommand::New(new) => propose::new(new, as_json),
        ProposalCommand::List(list) => self::list(list, as_json),
        ProposalCommand::Show(show) => self::show(show, as_json),
        ProposalCommand::Sign(sign) => self::sign(sign, as_json),
        ProposalCommand::Merge(merge) => self::merge(merge, as_json),
        ProposalCommand::Submit(submit) => self::submit(submit, as_json),
        ProposalCommand::Withdraw(withdraw) => self::withdraw(withdraw, as_json),
        ProposalCommand::Execute(execute) => self::execute(execute, as_json),
    }
}

fn list(list: &ProposalList, as_json: bool) -> Result<(), Failure> {
    let live = Live::at(&list.at)?;
    let pending = live.pending()?;
    if as_json {
        output::json(&json!(pending));
        return Ok(());
    }
    if pending.is_empty() {
        println!("Nothing is proposed to token {:?}.", live.token.label);
        return Ok(());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().escape_debug().to_string();
    let rows: Vec<_> = pending
        .iter()
        .map(|proposal| {
            let signers = proposal["signers"].as_array().map(Vec::as_slice).unwrap_or_default();
            let persons: Vec<_> = signers.iter().map(|signer| text(&signer["person"])).collect();
            let state = match (&proposal["refusal"], proposal["quorum_met"].as_bool()) {
                (Value::Null, Some(true)) => "ready".to_owned(),
                (Value::String(refusal), Some(true)) => format!("refused: {refusal}"),
                _ => format!("lacking: {}", proposal["lacking"].as_str().unwrap_or_default()),
            };
            let id = text(&proposal["id"]);
            let until = governance::date(proposal["not_after"].as_u64().unwrap_or_default());
            vec![id.get(..12).unwrap_or(&id).to_owned(), text(&proposal["command"]), until, persons.join(", "), state]
        })
        .collect();
    output::table(&["ID", "COMMAND", "VALID UNTIL", "SIGNED BY", "STATE"], &rows);
    Ok(())
}

/// Whether a proposal is named by the id of a pending one: there is no such file.
fn is_id(name: &str) -> bool {
    name.len() >= 4 && name.bytes().all(|digit| digit.is_ascii_hexdigit()) && !Path::new(name).exists()
}

/// A proposal from a file or the pending ones; says whether it is of the latter.
pub(crate) fn read(live: &Live, name: &str) -> Result<(Vec<u8>, bool), Failure> {
    if !is_id(name) {
        return Ok((files::read(Path::new(name))?, false));
    }
    let id = live.pending_id(name)?;
    let proposal = live.module.proposal(live.session, &id);
    Ok((proposal.map_err(|error| Failure::while_("cannot read the proposal", &error))?, true))
}

fn show(show: &ProposalShow, as_json: bool) -> Result<(), Failure> {
    let described = if show.at.token.is_some() || is_id(&show.proposal) {
        let live = Live::at(&show.at)?;
        live.describe(&read(&live, &show.proposal)?.0)?
    } else {
        let token = show.domain.as_deref().map(files::read).transpose()?;
        describe(&files::read(Path::new(&show.proposal))?, token.as_deref())?
    };
    if as_json {
        output::json(&described);
    } else {
        print!("{}", readable(&described));
    }
    Ok(())
}

fn sign(sign: &ProposalSign, as_json: bool) -> Result<(), Failure> {
    let (proposal, token, pending) = if sign.at.token.is_some() || is_id(&sign.proposal) {
        // Closed again before the operator's own keys are opened, perhaps by another module.
        let live = Live::at(&sign.at)?;
        let (proposal, pending) = read(&live, &sign.proposal)?;
        (proposal, Some(live.export()?), pending)
    } else {
        let token = sign.domain.as_deref().map(files::read).transpose()?;
        (files::read(Path::new(&sign.proposal))?, token, false)
    };
    let described = describe(&proposal, token.as_deref())?;
    check(&described, token.as_deref())?;
    if !(as_json && sign.yes) {
        eprint!("{}", readable(&described));
    }
    let name = described["command"].as_str().unwrap_or_default();
    output::confirm("You are about to sign this.", name, sign.yes)?;

    let keys = operator_keys::open(&sign.source)?;
    let mut signed = governance::sign(&proposal, &*keys).map_err(|error| Failure::while_("cannot sign", &error))?;
    check_own(&describe(&signed, token.as_deref())?, &*keys)?;
    let out = match (&sign.out, pending) {
        (Some(out), _) => out.as_path(),
        (None, true) => {
            signed = Live::at(&sign.at)?.keep(&signed)?;
            Path::new("")
        }
        (None, false) => Path::new(&sign.proposal),
    };
    if !out.as_os_str().is_empty() {
        files::replace(out, &signed)?;
    }
    let described = describe(&signed, token.as_deref())?;
    let sentence = match described["lacking"].as_str() {
        Some(lacking) => format!("Signed. Lacking: {lacking}."),
        None if described["quorum_met"] == true => "Signed. The signatures are enough.".to_owned(),
        None => "Signed.".to_owned(),
    };
    files::report(out, as_json, &sentence, &described);
    Ok(())
}

fn submit(submit: &ProposalSubmit, as_json: bool) -> Result<(), Failure> {
    let live = Live::at(&submit.at)?;
    let described = live.describe(&live.keep(&files::read(&submit.file)?)?)?;
    let id = described["id"].as_str().unwrap_or_default();
    let state = match described["lacking"].as_str() {
        Some(lacking) => format!("lacking {lacking}"),
        None => "the signatures are enough".to_owned(),
    };
    let sentence = format!("{} is pending with token {:?}; {state}.", id.get(..12).unwrap_or(id), live.token.label);
    output::done(as_json, &sentence, &described);
    Ok(())
}

fn withdraw(withdraw: &ProposalWithdraw, as_json: bool) -> Result<(), Failure> {
    let live = Live::at(&withdraw.at)?;
    let id = live.pending_id(&withdraw.id)?;
    live.module
        .withdraw_proposal(live.session, &id)
        .map_err(|error| Failure::while_("cannot withdraw the proposal", &error))?;
    output::done(as_json, &format!("{} is withdrawn.", hex(&id)), &json!({ "withdrawn": hex(&id) }));
    Ok(())
}

fn execute(execute: &ProposalExecute, as_json: bool) -> Result<(), Failure> {
    let live = Live::public(execute.login.token.as_deref())?;
    let (proposal, _) = read(&live, &execute.proposal)?;
    let described = live.describe(&proposal)?;
    if !(as_json && execute.yes) {
        eprint!("{}", readable(&described));
    }
    if let Some(refusal) = described["refusal"].as_str() {
        return Err(Failure::refused(format!("refused, and nothing has changed: {refusal}")));
    }
    let name = described["command"].as_str().unwrap_or_default();
    if name == "recover domain" {
        return Err(Failure::usage("a domain is recovered by `conclave domain recovery finish`, with the shares"));
    }
    if name == "use key" {
        return Err(Failure::usage(format!(
            "an approval is for the HSM instance {} alone: the application that has it takes the proposal from the \
             pending ones as soon as it is signed",
            described["arguments"]["instance"].as_str().unwrap_or_default()
        )));
    }
    let caution = CAUTIONS.iter().find(|(command, _)| *command == name).map_or("", |(_, caution)| caution);
    let question = format!("You are about to execute this with token {:?}. {caution}", live.token.label);
    output::confirm(question.trim_end(), name, execute.yes)?;
    live.log_in_if_needed(&execute.login, if live.token.founded { ck::CKU_USER } else { ck::CKU_SO })?;
    live.module
        .execute(live.session, &proposal)
        .map_err(|error| Failure::while_("not executed, and nothing has changed", &error))?;
    let version = live.domain()?["version"].clone();
    let next = NEXT.iter().find(|(commands, _)| commands.contains(&name)).map_or("", |(_, next)| next);
    let version_words = match name {
        "set dual control" => String::new(),
        _ => format!(" The domain is in version {version}."),
    };
    let sentence = format!("Done: {name}.{version_words} {next}");
    let said = json!({ "executed": described["id"], "command": name, "version": version });
    output::done(as_json, sentence.trim_end(), &said);
    Ok(())
}

/// What is said before a command that cannot be undone, or not easily.
const CAUTIONS: &[(&str, &str)] = &[
    ("found domain", "It cannot be undone: from then on the SO's PIN opens the token and nothing else."),
    ("expel HSM", "It cannot be undone: the HSM has to be admitted anew, with new keys."),
    ("schedule retirement", "Once the deadline has passed it cannot be undone: see `conclave domain lost`."),
    ("remove user", "The PIN is gone at once."),
    (
        "emergency promote",
        "If the old primary still lives, what it rotates from now on never comes here: stop it, or be sure that it is \
         gone.",
    ),
    ("give up replica", "The Region gets nothing more of these keys; a replica that still lives there falls behind."),
    ("reset PIN", "The PIN is gone at once."),
];

/// What is to be done after a command.
const NEXT: &[(&[&str], &str)] = &[
    (
        &["found domain"],
        "Give the operators the domain token (`conclave domain export`), and let them make a recovery set \
         (`conclave domain recovery make`).",
    ),
    (&["create user", "reset PIN"], "`conclave user set-pin` sets the PIN."),
    (
        &["rotate domain key", "expel HSM"],
        "Objects are sealed anew as they are used; `conclave domain reseal` does all at once.",
    ),
];

fn merge(merge: &ProposalMerge, as_json: bool) -> Result<(), Failure> {
    let mut merged: Option<Vec<u8>> = None;
    for file in &merge.files {
        let copy = files::read(file)?;
        let failed = |error| Failure::while_(&format!("cannot take the signatures of {}", file.display()), &error);
        merged = Some(match merged {
            Some(merged) => governance::merge(&merged, &copy).map_err(failed)?,
            None => copy,
        });
    }
    let merged = merged.unwrap_or_default();
    let described = describe(&merged, None)?;
    files::replace(&merge.out, &merged)?;
    let count = described["signers"].as_array().map_or(0, Vec::len);
    let sentence = format!("{} has {count} signature{}.", merge.out.display(), if count == 1 { "" } else { "s" });
    files::report(&merge.out, as_json, &sentence, &described);
    Ok(())
}

pub(crate) fn describe(proposal: &[u8], token: Option<&[u8]>) -> Result<Value, Failure> {
    governance::describe_command(proposal, token).map_err(|error| match error.kind() {
        ErrorKind::TokenNotRecognized => Failure::new("the file given with --domain is not a domain token"),
        _ => Failure::while_("cannot read the proposal", &error),
    })
}

/// The refusal that says no more than what is lacking.
const QUORUM: &str = "quorum not met";

/// The words an operator reads, who signed, and what is lacking.
pub(crate) fn readable(described: &Value) -> String {
    let mut text = described["words"].as_str().unwrap_or_default().to_owned();
    let _ = writeln!(text, "Proposal: {}", described["id"].as_str().unwrap_or_default());
    let signers = described["signers"].as_array().map(Vec::as_slice).unwrap_or_default();
    if signers.is_empty() {
        text.push_str("Signed by: nobody yet\n");
    }
    for signer in signers {
        let kid = signer["kid"].as_str().unwrap_or_default();
        let who = match (signer["person"].as_str(), signer["valid"].as_bool()) {
            (Some(person), Some(true)) => format!("{person:?} ({})", roles(signer)),
            (Some(person), _) => format!("{person:?}, but the signature is WRONG"),
            (None, Some(_)) => "NOT an operator of the domain".to_owned(),
            (None, None) => "not verified without the domain's token".to_owned(),
        };
        let _ = writeln!(text, "Signed by: {who}, kid {}", kid.get(..16).unwrap_or(kid));
    }
    if let Some(lacking) = described["lacking"].as_str() {
        let _ = writeln!(text, "Lacking: {lacking}");
    }
    let lacking = described["lacking"].is_string();
    if let Some(refusal) = described["refusal"].as_str().filter(|refusal| !lacking || !refusal.contains(QUORUM)) {
        let _ = writeln!(text, "Now it would be refused: {refusal}");
    } else if described["quorum_met"] == true {
        text.push_str("The signatures are enough.\n");
    }
    if let Some(obstacle) = described["obstacle"].as_str() {
        let _ = writeln!(text, "As things are, it will be refused, whoever signs it: {obstacle}");
    }
    text
}

fn roles(signer: &Value) -> String {
    let roles = signer["roles"].as_array().map(Vec::as_slice).unwrap_or_default();
    roles.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

/// Nobody signs what no HSM would take.
fn check(described: &Value, token: Option<&[u8]>) -> Result<(), Failure> {
    if described["not_after"].as_u64().is_some_and(|end| end < times::now()) {
        return Err(Failure::new("the proposal has expired: ask for a new one"));
    }
    let Some(token) = token else { return Ok(()) };
    let state =
        governance::describe_token(token).map_err(|error| Failure::while_("cannot read the domain's token", &error))?;
    if state["domain"] != described["domain"] {
        return Err(Failure::new("the proposal is for another domain than the token given"));
    }
    if state["governance"] != described["governance"] {
        return Err(Failure::new(
            "the proposal was made for other operators, rules, trusted Regions or limits than the token given has: \
             fetch the newest token, or ask for a new proposal",
        ));
    }
    Ok(())
}

/// That the signature just made is of an operator, as far as those are known.
fn check_own(described: &Value, keys: &dyn OperatorKeys) -> Result<(), Failure> {
    let spki = keys.signing().map_err(|error| Failure::while_("cannot read the public key", &error))?;
    let kid = json!(hex(&Sha256::digest(spki)));
    let own = described["signers"].as_array().and_then(|signers| signers.iter().find(|signer| signer["kid"] == kid));
    match own {
        Some(own) if own["valid"] == false => {
            Err(Failure::new("your key is not one of the domain's operators': nothing was written"))
        }
        _ => Ok(()),
    }
}

/// Shows a proposal on the standard error before something is done with it.
pub(crate) fn show_before(proposal: &[u8], token: Option<&Path>) -> Result<Value, Failure> {
    let token = token.map(files::read).transpose()?;
    let described = describe(proposal, token.as_deref())?;
    eprint!("{}", readable(&described));
    Ok(described)
}
