//! `conclave operator`: an operator's keys, and claims to them.

use std::path::Path;

use conclave::hsm::governance::{self, OperatorKeys, PartyKind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::args::{OperatorCheck, OperatorClaim, OperatorCommand, OperatorKeygen, OperatorRekey, OperatorShow};
use crate::operator_keys::{self, FileKeys, TokenKeys};
use crate::output::{self, Failure};
use crate::{files, pin};
use conclave::text::hex;

/// Fewer characters are found by trying.
const SHORTEST_PASSPHRASE: usize = 8;

pub(crate) fn run(command: &OperatorCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        OperatorCommand::Keygen(keygen) => generate(keygen, as_json),
        OperatorCommand::Show(show) => self::show(show, as_json),
        OperatorCommand::Claim(claim) => self::claim(claim, as_json),
        OperatorCommand::Check(check) => self::check(check, as_json),
        OperatorCommand::Rekey(rekey) => self::rekey(rekey, as_json),
    }
}

fn generate(keygen: &OperatorKeygen, as_json: bool) -> Result<(), Failure> {
    if let Some(path) = &keygen.out {
        if path.exists() {
            return Err(Failure::new(format!("{} exists already: keys are never overwritten", path.display())));
        }
        let passphrase = pin::read(&keygen.passphrase, "new passphrase", true)?;
        if passphrase.chars().count() < SHORTEST_PASSPHRASE {
            return Err(Failure::usage(format!("a passphrase has at least {SHORTEST_PASSPHRASE} characters")));
        }
        let keys = FileKeys::generate(path, &passphrase)?;
        return print(&keys, &format!("Made {}.", path.display()), as_json);
    }
    let (Some(module), Some(label)) = (&keygen.pkcs11, &keygen.label) else {
        return Err(Failure::usage("say where to make the keys: --out FILE, or --pkcs11 MODULE --label LABEL"));
    };
    let pin = pin::read(&keygen.pin, "PIN of the token", false)?;
    let keys = TokenKeys::generate(module, keygen.token_label.as_deref(), label, &pin)?;
    print(&keys, &format!("Made {label:?} and \"{label} agreement\" in the token."), as_json)
}

fn show(show: &OperatorShow, as_json: bool) -> Result<(), Failure> {
    print(&*operator_keys::open(&show.source)?, "", as_json)
}

fn print(keys: &dyn OperatorKeys, sentence: &str, as_json: bool) -> Result<(), Failure> {
    let failed = |error| Failure::while_("cannot read the public keys", &error);
    let key = |spki: Vec<u8>| json!({ "kid": kid(&spki), "public_key": hex(&spki) });
    let value = json!({
        "signing": key(keys.signing().map_err(failed)?),
        "agreement": key(keys.agreement().map_err(failed)?),
    });
    if as_json {
        output::json(&value);
        return Ok(());
    }
    if !sentence.is_empty() {
        println!("{sentence}");
    }
    let row = |name: &str, key: &str| vec![name.to_owned(), value[key]["kid"].as_str().unwrap_or_default().to_owned()];
    output::table(&["KEY", "KID"], &[row("signing", "signing"), row("agreement", "agreement")]);
    Ok(())
}

fn claim(claim: &OperatorClaim, as_json: bool) -> Result<(), Failure> {
    let domain = domain_of(claim.domain.as_deref(), claim.domain_id.as_deref())?;
    let (kind, name) = match (&claim.person, &claim.host) {
        (Some(person), _) => (PartyKind::Operator, person),
        (None, Some(host)) => (PartyKind::Host, host),
        (None, None) => return Err(Failure::usage("say who claims the keys: --person NAME or --host NAME")),
    };
    let keys = operator_keys::open(&claim.source)?;
    let made = governance::claim(kind, name, &domain, &*keys)
        .map_err(|error| Failure::while_("cannot make the claim", &error))?;
    write(&made, &domain, &claim.out, as_json)
}

fn check(check: &OperatorCheck, as_json: bool) -> Result<(), Failure> {
    let domain = domain_of(check.domain.as_deref(), check.domain_id.as_deref())?;
    let described = governance::describe_claim(&files::read(&check.claim)?, Some(&domain))
        .map_err(|error| Failure::while_(&format!("{} is not a claim", check.claim.display()), &error))?;
    if described["valid"] != true {
        return Err(Failure::new("the claim is not good for this domain: it was made for another, or changed"));
    }
    if as_json {
        output::json(&described);
        return Ok(());
    }
    println!(
        "The claim of the {} {:?} is good for domain {}.",
        text(&described, "party"),
        text(&described, "name"),
        hex(&domain)
    );
    let row = |key: &str| described[key]["kid"].as_str().map(|kid| vec![key.to_owned(), kid.to_owned()]);
    output::table(&["KEY", "KID"], &["signing", "agreement"].into_iter().filter_map(row).collect::<Vec<_>>());
    Ok(())
}

fn rekey(rekey: &OperatorRekey, as_json: bool) -> Result<(), Failure> {
    let token = token_of(&rekey.domain)?;
    let domain = domain_id(text(&token, "domain"))?;
    let wanted = &rekey.operator;
    let operators = token["operators"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found: Vec<_> = operators.iter().filter(|o| o["id"] == **wanted || o["person"] == **wanted).collect();
    let operator = match found.as_slice() {
        [one] => one,
        [] => return Err(Failure::not_found(format!("the domain has no operator {wanted:?}"))),
        _ => return Err(Failure::usage(format!("{wanted:?} has several keys: give the id of the one to replace"))),
    };
    let id = domain_id(text(operator, "id"))?;
    let keys = operator_keys::open(&rekey.source)?;
    let made = governance::rekey_claim(&id, text(operator, "person"), &domain, &*keys)
        .map_err(|error| Failure::while_("cannot make the claim", &error))?;
    write(&made, &domain, &rekey.out, as_json)
}

fn write(claim: &[u8], domain: &[u8; 16], out: &Path, as_json: bool) -> Result<(), Failure> {
    let described = governance::describe_claim(claim, Some(domain))
        .map_err(|error| Failure::while_("cannot read the claim", &error))?;
    files::write_new(out, claim)?;
    let (name, kid) = (text(&described, "name"), text(&described["signing"], "kid"));
    let sentence = format!(
        "{} claims {name:?} in domain {}, signing with {kid}.\n\
         Whoever proposes to admit you needs the file; tell him the kid by another way, so that he can compare.",
        out.display(),
        hex(domain)
    );
    files::report(out, as_json, &sentence, &described);
    Ok(())
}

pub(crate) fn domain_of(token: Option<&Path>, id: Option<&str>) -> Result<[u8; 16], Failure> {
    match (token, id) {
        (Some(token), _) => domain_id(text(&token_of(token)?, "domain")),
        (None, Some(id)) => domain_id(id),
        (None, None) => Err(Failure::usage("say which domain: --domain FILE or --domain-id HEX")),
    }
}

/// What a domain token says.
pub(crate) fn token_of(path: &Path) -> Result<Value, Failure> {
    governance::describe_token(&files::read(path)?)
        .map_err(|error| Failure::while_(&format!("{} is not a domain token", path.display()), &error))
}

fn domain_id(hexadecimal: &str) -> Result<[u8; 16], Failure> {
    let digits = hexadecimal.as_bytes();
    let wrong = || Failure::usage("a domain's id is 32 hexadecimal digits");
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect();
    bytes.filter(|_| digits.len() == 32).and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn kid(spki: &[u8]) -> String {
    hex(&Sha256::digest(spki))
}
