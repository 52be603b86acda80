//! `conclave proposal`: commands on paper, read and signed.

use std::fmt::Write as _;
use std::path::Path;

use conclave::hsm::governance::{self, OperatorKeys};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::args::{ProposalCommand, ProposalMerge, ProposalShow, ProposalSign};
use crate::output::{self, Failure, hex};
use crate::{files, operator_keys};

pub(crate) fn run(command: &ProposalCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        ProposalCommand::Show(show) => self::show(show, as_json),
        ProposalCommand::Sign(sign) => self::sign(sign, as_json),
        ProposalCommand::Merge(merge) => self::merge(merge, as_json),
    }
}

fn show(show: &ProposalShow, as_json: bool) -> Result<(), Failure> {
    let token = show.domain.as_deref().map(files::read).transpose()?;
    let described = describe(&files::read(&show.file)?, token.as_deref())?;
    if as_json {
        output::json(&described);
    } else {
        print!("{}", readable(&described));
    }
    Ok(())
}

fn sign(sign: &ProposalSign, as_json: bool) -> Result<(), Failure> {
    let token = sign.domain.as_deref().map(files::read).transpose()?;
    let proposal = files::read(&sign.file)?;
    let described = describe(&proposal, token.as_deref())?;
    check(&described, token.as_deref())?;
    eprint!("{}", readable(&described));
    let name = described["command"].as_str().unwrap_or_default();
    output::confirm("You are about to sign this.", name, sign.yes)?;

    let keys = operator_keys::open(&sign.source)?;
    let signed = governance::sign(&proposal, &*keys).map_err(|error| Failure::while_("cannot sign", &error))?;
    let described = describe(&signed, token.as_deref())?;
    check_own(&described, &*keys)?;
    let out = sign.out.as_deref().unwrap_or(&sign.file);
    files::replace(out, &signed)?;
    let sentence = match described["lacking"].as_str() {
        Some(lacking) => format!("Signed. Lacking: {lacking}."),
        None if described["quorum_met"] == true => "Signed. The signatures are enough.".to_owned(),
        None => "Signed.".to_owned(),
    };
    files::report(out, as_json, &sentence, &described);
    Ok(())
}

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
    governance::describe_command(proposal, token).map_err(|error| Failure::while_("cannot read the proposal", &error))
}

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
    if let Some(refusal) = described["refusal"].as_str() {
        let _ = writeln!(text, "Now it would be refused: {refusal}");
    } else if described["quorum_met"] == true {
        text.push_str("The signatures are enough.\n");
    }
    text
}

fn roles(signer: &Value) -> String {
    let roles = signer["roles"].as_array().map(Vec::as_slice).unwrap_or_default();
    roles.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

/// Nobody signs what no HSM would take.
fn check(described: &Value, token: Option<&[u8]>) -> Result<(), Failure> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if described["not_after"].as_u64().is_some_and(|end| end < now) {
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
