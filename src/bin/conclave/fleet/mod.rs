//! `conclave host`, `hsm`, `fleet`: what founds a fleet and lets HSMs and hosts into it.

mod connection;
mod stores;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use conclave::hsm::governance;
use conclave::hsm::session::{self, HostKey};
use conclave::hsm::{Command, PinCost, Reply};
use conclave::text::hex;
use serde_json::{Value, json};

use self::connection::Connection;
use self::stores::History;
use crate::args::{
    AtToken, FleetBring, FleetCommand, FleetCreate, FleetDatabase, HostCommand, HostNew, HsmAt, HsmClaim, HsmCommand,
};
use crate::output::{self, Failure, cell};
use crate::session::{Live, parse, unhex};
use crate::{files, operator};

pub(crate) fn host(command: &HostCommand, as_json: bool) -> Result<(), Failure> {
    let HostCommand::New(new) = command;
    new_host(new, as_json)
}

pub(crate) fn hsm(command: &HsmCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        HsmCommand::Status(at) => {
            print_status(&status(&Connection::open(at)?.status()?), as_json);
            Ok(())
        }
        HsmCommand::Claim(claim) => self::claim(claim, as_json),
    }
}

pub(crate) fn run(command: &FleetCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        FleetCommand::Create(create) => self::create(create, as_json),
        FleetCommand::Fingerprint(from) => fingerprint(from, as_json),
        FleetCommand::Bring(bring) => self::bring(bring, as_json),
    }
}

fn new_host(new: &HostNew, as_json: bool) -> Result<(), Failure> {
    let domain = match unhex(&new.domain.to_ascii_lowercase()).and_then(|id| <[u8; 16]>::try_from(id).ok()) {
        Some(id) => id,
        None => operator::domain_of(Some(Path::new(&new.domain)), None)?,
    };
    let stem = new.out.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = new.name.clone().or(stem).unwrap_or_default();
    let claim_path = new.claim.clone().unwrap_or_else(|| {
        let mut path = new.out.clone().into_os_string();
        path.push(".claim");
        PathBuf::from(path)
    });
    let failed = |error| Failure::while_("cannot make the key", &error);
    let key = HostKey::generate().map_err(failed)?;
    let claim = key.claim(&name, &domain).map_err(failed)?;
    let pem = key.to_pem().map_err(failed)?;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&new.out);
    let mut file = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::new(format!("{} exists already: keys are never overwritten", new.out.display()))
        }
        _ => files::unwritten(&new.out, &error),
    })?;
    let written = file.write_all(pem.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| files::unwritten(&new.out, &error))?;
    files::write_new(&claim_path, &claim)?;
    let kid = hex(&key.kid());
    let sentence = format!(
        "{} is the key of the host {name:?}, kid {kid}.\n\
         {} is its claim: `conclave proposal new admit-host --claim` takes it.",
        new.out.display(),
        files::name(&claim_path)
    );
    let said = json!({ "name": name, "kid": kid, "domain": hex(&domain), "key": new.out, "claim": claim_path });
    files::report(&claim_path, as_json, &sentence, &said);
    Ok(())
}

/// An HSM's status as JSON.
fn status(status: &session::Status) -> Value {
    json!({
        "hsm": hex(&status.hsm),
        "kid": hex(&status.kid),
        "domain": status.domain.map(|id| hex(&id)),
        "version": status.version,
        "hash": status.hash.map(|hash| hex(&hash)),
        "member": status.member,
    })
}

fn print_status(status: &Value, as_json: bool) {
    if as_json {
        return output::json(status);
    }
    for (name, column) in [
        ("HSM", "hsm"),
        ("kid", "kid"),
        ("domain", "domain"),
        ("version", "version"),
        ("fingerprint", "hash"),
        ("member", "member"),
    ] {
        println!("{name:12} {}", cell(status, column));
    }
}

fn claim(claim: &HsmClaim, as_json: bool) -> Result<(), Failure> {
    let mut admin = Connection::admin(&claim.admin)?;
    let command = Command::BeginRecovery { pin: &[], cost: PinCost::default() };
    let reply = admin.call(command, "the HSM gave no claim (`conclave fleet bring` brings it the domain)")?;
    let Reply::Recovering { claim: made, .. } = reply else { return Err(connection::unexpected()) };
    let described =
        governance::describe_claim(&made, None).map_err(|error| Failure::while_("cannot read the claim", &error))?;
    files::write_new(&claim.out, &made)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let sentence = format!(
        "{} is the claim of the HSM {:?}, id {}, kid {}.\nCompare that with what the HSM printed when it was started.",
        files::name(&claim.out),
        text(&described["name"]),
        text(&described["id"]),
        text(&described["signing"]["kid"])
    );
    files::report(&claim.out, as_json, &sentence, &described);
    Ok(())
}

fn create(create: &FleetCreate, as_json: bool) -> Result<(), Failure> {
    if create.label.is_empty() || create.label.len() > 32 {
        return Err(Failure::usage("the label must have 1 to 32 bytes"));
    }
    let database = stores::database(&create.database)?;
    stores::check_free(&database)?;
    let mut admin = Connection::admin(&create.admin)?;
    let found = Command::Found { label: &create.label, serial: "", so_pin: &[], cost: PinCost::default() };
    let reply = admin.call(found, "the HSM began no domain")?;
    let Reply::Founded { domain, .. } = reply else { return Err(connection::unexpected()) };
    let described = stores::make(&database, &create.label, &domain).map_err(|failure| {
        let message = format!("{}; the HSM has a domain now that is nowhere else: restart it", failure.message());
        Failure::new(message)
    })?;
    let sentence = format!(
        "The domain {} of {:?} is begun, with this HSM as its only member.\n\
         Let its operators found it now: until then anybody who reaches the operators' socket could.",
        described["domain"].as_str().unwrap_or_default(),
        create.label
    );
    let said = json!({
        "domain": described["domain"], "serial": described["serial"], "label": create.label,
        "fingerprint": described["hash"], "version": described["version"],
    });
    output::done(as_json, &sentence, &said);
    Ok(())
}

fn fingerprint(from: &FleetDatabase, as_json: bool) -> Result<(), Failure> {
    let history = History::read(from)?;
    let said = &history.described;
    let value = json!({
        "fingerprint": said["hash"], "domain": said["domain"], "region": said["region"], "version": said["version"],
    });
    output::done(as_json, said["hash"].as_str().unwrap_or_default(), &value);
    Ok(())
}

fn bring(bring: &FleetBring, as_json: bool) -> Result<(), Failure> {
    let history = History::read(&bring.from)?;
    let mut connection = Connection::open(&bring.to)?;
    let before = connection.status()?;
    let domain = before.domain.map(|id| hex(&id));
    if domain.as_deref().is_some_and(|domain| history.described["domain"] != domain) {
        return Err(Failure::new("the HSM is in another domain: an HSM that is to change is started anew"));
    }
    let after = connection.bring(&history, before.version)?;
    let said = status(&after);
    let next = match after.member {
        true => "It is a member.",
        false => "It is not a member: `conclave hsm claim` gives the claim that operators admit it by.",
    };
    output::done(as_json, &format!("The HSM is at version {} of the domain. {next}", after.version), &said);
    Ok(())
}

pub(crate) fn session(at: &AtToken, as_json: bool) -> Result<(), Failure> {
    let live = Live::at(at)?;
    let said = live.module.describe_session(live.session);
    let said = parse(&said.map_err(|error| Failure::while_("cannot describe the session", &error))?)?;
    if as_json {
        output::json(&said);
        return Ok(());
    }
    for (name, column) in [
        ("mode", "Mode"),
        ("Region", "Region"),
        ("HSM", "Hsm"),
        ("address", "Address"),
        ("valid until", "ValidUntil@"),
        ("members", "Members"),
        ("connections", "Connections"),
        ("version", "DomainVersion"),
    ] {
        println!("{name:12} {}", cell(&said, column));
    }
    Ok(())
}

impl HsmAt {
    fn address(&self) -> Result<conclave::config::Address, Failure> {
        match (&self.admin, &self.hsm) {
            (Some(socket), _) => Ok(conclave::config::Address::Admin(socket.clone())),
            (None, Some(address)) => conclave::config::Address::parse(address, &Path::to_owned)
                .map_err(|why| Failure::usage(format!("--hsm {why}"))),
            (None, None) => Err(Failure::usage("say which HSM: --admin SOCKET or --hsm ADDRESS")),
        }
    }
}
