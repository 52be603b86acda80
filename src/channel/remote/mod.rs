//! The HSMs of a fleet: processes of their own, reached over authenticated links
//! (`docs/protocols.md`, "Sessions").
//!
//! A call goes to the HSM with the least to do, over one of a few connections that are kept to each; one
//! that fails is left, and another is asked. The channel holds no key and no record: what it knows is the
//! domain's public state, verified, and who is logged in.

mod announcing;
mod asking;
mod auditing;
mod connecting;
mod connection;
mod domain;
mod fleet;
mod lives;
mod logins;
mod operation;
mod params;
mod pool;
mod records;
mod socket;
mod telling;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cryptoki_sys as ck;
use serde_json::json;

use self::announcing::Announcing;
use self::asking::{Asking, Failed, Route};
use self::fleet::Fleet;
use self::logins::Login;
use self::operation::{Begun, RemoteOperation};
use self::params::Owned;
use super::Channel;
use crate::config;
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::wire::{Answer, MAX_RANDOM, Request};
use crate::hsm::{
    self, AuditFlush, AuditStatus, AuditVerifier, CKA_KMS_DUAL_CONTROL, Command, DomainToken, Function, Manage,
    Mechanism, Operation, Params, Record, Reply, Role, Ticket, wants_managed,
};
use crate::store::Store;
use crate::text::hex;

/// How often another host's changes are taken before they are an error.
const TRIES: usize = 8;
/// How many keys' dual control is remembered.
const REMEMBERED: usize = 256;

/// One fleet, as one process uses it.
#[derive(Clone)]
pub struct Remote {
    fleet: Arc<Fleet>,
    store: Arc<dyn Store>,
    /// Digests of managed keys' records, and whether the key is under dual control.
    controlled: Arc<Mutex<Vec<Controlled>>>,
}

type Controlled = ([u8; 32], bool);

impl Remote {
    /// Connects with nobody yet.
    pub fn new(config: &config::Fleet, store: Arc<dyn Store>) -> Result<Self> {
        let fleet = Arc::new(Fleet::new(config, Arc::clone(&store))?);
        let store = match fleet.hears_of_commits() {
            true => Arc::new(Announcing::new(store, Arc::clone(&fleet))),
            false => store,
        };
        Ok(Self { fleet, store, controlled: Arc::default() })
    }

    /// The store, which has the HSMs told of each commit.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// Sends a command, again with newer records where another host changed them.
    fn send(&self, ticket: &Ticket, mut command: Command<'_>, tries: usize) -> Result<Reply> {
        let route = self.route(ticket, &mut command);
        let (managed, quick) = (is_managed(&mut command), is_quick(&command));
        let records: Vec<&Record> = records::carried(&mut command).all().collect();
        let mut asking = Asking { route, ticket, request: Request::Call(command), records: &records, managed, quick };
        let asked = self.fleet.ask(&asking, |_, _, answer| match answer {
            Answer::Reply(reply) => Ok(reply),
            Answer::Done => Ok(Reply::Done),
            _ => Err(unexpected()),
        });
        match asked {
            Err(Failed::Changed) if tries > 0 => {}
            asked => return asked.map_err(Error::from),
        }
        let mut newer = Vec::with_capacity(records.len());
        for record in &records {
            newer.push(self.fleet.newest(record)?.unwrap_or_else(|| (*record).clone()));
        }
        let Request::Call(command) = &mut asking.request else { return Err(unexpected()) };
        let carried = records::carried(command);
        if !carried.fixed.is_empty() {
            // Whoever asked reads anew.
            return Err(Failed::Changed.into());
        }
        self.send_again(ticket, asking.request, &newer, tries - 1)
    }

    /// Sends a command with these records in the place of its own.
    fn send_again(&self, ticket: &Ticket, request: Request<'_>, newer: &[Record], tries: usize) -> Result<Reply> {
        let Request::Call(mut command) = request else { return Err(unexpected()) };
        for (slot, newest) in records::carried(&mut command).slots.into_iter().zip(newer) {
            *slot = newest;
        }
        self.send(ticket, command, tries)
    }

    /// Takes a domain token: an HSM is brought forward when it is asked next, those that are there at once.
    fn adopt(&self, token: &DomainToken) -> Result<Reply> {
        if !self.fleet.domain.has_trust() {
            self.fleet.ask(&plain(Request::Ping), |_, _, _| Ok(())).map_err(Error::from)?;
        }
        let step = self.fleet.domain.advance(token)?;
        self.fleet.stepped(&step);
        let mut view = step.now.follower.view();
        view.login_ended = self.fleet.login_ended.swap(false, Ordering::AcqRel);
        Ok(Reply::Domain(view))
    }

    /// Sees to it that HSMs know at least this state.
    fn at_least(&self, token: &DomainToken) -> Result<()> {
        if self.fleet.domain.held().is_none_or(|known| known.version() < token.version) {
            let step = self.fleet.domain.advance(token)?;
            self.fleet.stepped(&step);
        }
        Ok(())
    }

    fn log_out(&self) -> Reply {
        self.fleet.audits.end();
        self.fleet.login_ended.store(false, Ordering::Release);
        for login in self.fleet.logins.end_all() {
            self.fleet.errands.log_out(login.ticket.clone());
        }
        Reply::Done
    }

    /// Random bytes from an HSM, as many at once as a link carries.
    fn random(&self, output: &mut [u8]) -> Result<Reply> {
        for part in output.chunks_mut(MAX_RANDOM) {
            let len = part.len();
            self.fleet
                .ask(&plain(Request::Random { len }), |_, _, answer| match answer {
                    Answer::Written(bytes) if bytes.len() == len => {
                        part.copy_from_slice(bytes);
                        Ok(())
                    }
                    _ => Err(unexpected()),
                })
                .map_err(Error::from)?;
        }
        Ok(Reply::Done)
    }

    fn begin_audit(&self, host: &str) -> Result<Reply> {
        if self.fleet.logins.is_empty() {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        // Each HSM is told before its first call on a managed key.
        self.fleet.audits.begin(host);
        Ok(Reply::Done)
    }

    fn flush_audit(&self, flush: AuditFlush) -> Result<Reply> {
        if flush == AuditFlush::Closing {
            self.fleet.audits.end();
            self.fleet.errands.close();
            return Ok(Reply::Done);
        }
        let mut flushed = Ok(Reply::Done);
        for place in self.fleet.audits.places(false) {
            let done = self.fleet.flush_audit(place, flush);
            if done.is_err() {
                flushed = done.map(|()| Reply::Done);
            }
        }
        flushed
    }

    fn audit_head(&self, ticket: &Ticket, host: &str) -> Result<Reply> {
        // The head vouches for what is stored.
        self.flush_audit(AuditFlush::Recorded)?;
        self.send(ticket, Command::AuditHead { host, store: &*self.fleet.store }, 0)
    }

    fn audit_verifier(&self, origin: Option<&DomainToken>, entries: &[Vec<u8>]) -> Result<Reply> {
        let known = self.fleet.domain.known()?;
        let verifier = AuditVerifier::of_domain(&known.token, known.follower.hash(), origin, entries)?;
        Ok(Reply::AuditVerifier(Box::new(verifier)))
    }

    /// What is bound to the memory of one HSM, as approvals are, goes to the same one.
    fn route(&self, ticket: &Ticket, command: &mut Command<'_>) -> Route {
        match command {
            Command::DescribeDomain
            | Command::Propose { .. }
            | Command::FindApproval { .. }
            | Command::Unapproved { .. }
            | Command::Approve { .. }
            | Command::Replicate(_) => Route::Home,
            Command::EnvelopeEncrypt { .. }
            | Command::EnvelopeDecrypt { .. }
            | Command::ReEncrypt { .. }
            | Command::GenerateDataKey { .. }
            | Command::GenerateDataKeyPair { .. }
            | Command::Derive { .. }
            | Command::Wrap { .. }
            | Command::Unwrap { .. } => {
                // What is wrong with a record is for the command itself to say.
                let controlled = |record| self.is_controlled(ticket, record).unwrap_or_default();
                if records::carried(command).all().any(controlled) { Route::Home } else { Route::Any }
            }
            _ => Route::Any,
        }
    }

    /// Whether a managed key is under dual control.
    fn is_controlled(&self, ticket: &Ticket, record: &Record) -> Result<bool> {
        let columns = &record.columns;
        if !columns.managed || ![ck::CKO_SECRET_KEY, ck::CKO_PRIVATE_KEY].contains(&columns.class) {
            return Ok(false);
        }
        let digest = *record.sealed.digest();
        let lock = || self.controlled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, controlled)) = lock().iter().find(|(known, _)| *known == digest) {
            return Ok(*controlled);
        }
        let Reply::View(view) = self.send(ticket, Command::View { record }, TRIES)? else { return Err(unexpected()) };
        let controlled = view.attributes.contains(CKA_KMS_DUAL_CONTROL);
        let mut known = lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.push((digest, controlled));
        Ok(controlled)
    }
}

impl Channel for Remote {
    fn call(&self, ticket: &Ticket, command: Command<'_>) -> Result<Reply> {
        match command {
            Command::Adopt { domain, .. } => self.adopt(domain),
            Command::Login { pin, record, domain, log } => {
                // An HSM that hears of the last logout later would take it for one of this login.
                self.fleet.settle_all();
                self.at_least(domain)?;
                let version = self.fleet.domain.known()?.version();
                let reply = self.send(&Ticket::public(), Command::Login { pin, record, domain, log }, 0)?;
                if let Reply::LoggedIn(ticket) = &reply {
                    self.fleet.login_ended.store(false, Ordering::Release);
                    self.fleet.logins.begin(record.role.clone(), ticket, version);
                }
                Ok(reply)
            }
            Command::SetPin { domain, .. } => {
                self.at_least(domain)?;
                self.send(ticket, command, TRIES)
            }
            Command::Logout => Ok(self.log_out()),
            Command::Random { output } => self.random(output),
            Command::BeginAudit { host, .. } => self.begin_audit(host),
            Command::FlushAudit { flush, .. } => self.flush_audit(flush),
            Command::AuditHead { host, .. } => self.audit_head(ticket, host),
            Command::AuditVerifier { origin, entries } => self.audit_verifier(origin, entries),
            command => self.send(ticket, command, TRIES),
        }
    }

    fn begin(
        &self,
        ticket: &Ticket,
        function: Function,
        mechanism: &Mechanism<'_>,
        key: Option<&Record>,
    ) -> Result<Box<dyn Operation>> {
        if function == Function::Digest {
            return hsm::begin_digest(mechanism);
        }
        let mut record = key.ok_or(ErrorKind::KeyHandleInvalid)?.clone();
        let controlled = self.is_controlled(ticket, &record)?;
        let route = if controlled { Route::Home } else { Route::Any };
        let (stream, private) = self.fleet.begin(ticket, function, mechanism, &mut record, route)?;
        let mechanism = Owned::of(mechanism).ok_or(ErrorKind::MechanismParamInvalid)?;
        // What is public of an object outlives the login in which it was used; what is sealed of it does not.
        let has_secrets = matches!(record.columns.class, ck::CKO_SECRET_KEY | ck::CKO_PRIVATE_KEY);
        let named = private || record.columns.managed || (has_secrets && !record.is_transient());
        let ticket = if named { ticket.clone() } else { Ticket::public() };
        let begun = Begun { ticket, function, mechanism, record, private, controlled };
        Ok(Box::new(RemoteOperation::new(Arc::clone(&self.fleet), begun, stream)))
    }

    /// An HSM that was not reached, or broke off, has none that counts: each counts wrong PINs itself. What
    /// lacks memory is refused before the PIN's hash.
    fn looked_at_pin(&self, error: &Error) -> bool {
        !matches!(error.kind(), ErrorKind::DeviceError | ErrorKind::DeviceMemory | ErrorKind::HostMemory)
    }

    fn restart(&self, ticket: &Ticket, operation: &mut dyn Operation, params: &Params<'_>) -> Result<bool> {
        let user = |login: &Login| login.role != Role::So;
        if operation.is_private() && !self.fleet.logins.get(ticket).as_deref().is_some_and(user) {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        operation.restart(params)
    }

    /// The value is one that the login may read anyway; so the digest stays in this process, and needs no
    /// HSM to go on.
    fn digest_key(&self, ticket: &Ticket, digest: &mut dyn Operation, key: &Record) -> Result<()> {
        let indigestible = || ErrorKind::KeyIndigestible.with("only a secret key whose value may be read is digested");
        if key.columns.class != ck::CKO_SECRET_KEY {
            return Err(indigestible());
        }
        let value = match self.send(ticket, Command::Reveal { record: key, attribute: ck::CKA_VALUE }, TRIES) {
            Ok(Reply::Secret(value)) => value,
            Ok(_) => return Err(unexpected()),
            Err(error) if matches!(error.kind(), ErrorKind::AttributeSensitive | ErrorKind::AttributeTypeInvalid) => {
                return Err(indigestible());
            }
            Err(error) => return Err(error),
        };
        digest.update(&value, None).map(drop)
    }

    fn audit(&self) -> AuditStatus {
        self.fleet.audits.status()
    }

    fn serves(&self) -> bool {
        !self.fleet.pool.unfailing().is_empty()
    }

    fn settle(&self) {
        self.fleet.settle();
    }

    fn resume(&self, _ticket: &Ticket, state: &[u8]) -> Result<Box<dyn Operation>> {
        hsm::resume_digest(state)
    }

    fn has_ended_login(&self) -> bool {
        self.fleet.login_ended.load(Ordering::Relaxed) && self.fleet.login_ended.swap(false, Ordering::AcqRel)
    }

    fn describe(&self) -> String {
        let fleet = &self.fleet;
        let begun = Instant::now();
        let answered = fleet.ask(&plain(Request::Describe), |place, _, answer| match answer {
            Answer::Description(description) => Ok((place, description)),
            _ => Err(unexpected()),
        });
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let standings = fleet.pool.standings();
        let home = fleet.home();
        let hsms: Vec<_> = (fleet.config.hsms.iter().zip(&standings).enumerate())
            .map(|(place, (address, standing))| {
                json!({
                    "Address": address.to_string(),
                    "Hsm": standing.id.map(|id| hex(&id)),
                    "Home": home == Some(place),
                    "Connections": standing.connections,
                    "Trouble": standing.trouble,
                })
            })
            .collect();
        let known = fleet.domain.held();
        let mut described = json!({
            "Mode": "fleet",
            "Region": fleet.config.region,
            "Connections": standings.iter().map(|standing| standing.connections).sum::<usize>(),
            "Members": known.iter().flat_map(|known| &known.members).map(|id| hex(id)).collect::<Vec<_>>(),
            "DomainVersion": known.map(|known| known.version()),
            "ValidUntil": fleet.valid_until(),
            "Hsms": hsms,
        });
        match answered {
            Ok((place, description)) => {
                described["Hsm"] = json!(hex(&description.hsm));
                described["Name"] = json!(description.name);
                described["Address"] = json!(fleet.config.hsms.get(place).map(ToString::to_string));
                described["Microseconds"] = json!(micros);
            }
            Err(failed) => described["Error"] = json!(Error::from(failed).to_string()),
        }
        described.to_string()
    }
}

/// In nobody's name, about no record.
fn plain(request: Request<'_>) -> Asking<'_> {
    static NOBODY: std::sync::LazyLock<Ticket> = std::sync::LazyLock::new(Ticket::public);
    Asking { route: Route::Any, ticket: &NOBODY, request, records: &[], managed: false, quick: true }
}

/// Whether the audit log has a record of it.
fn is_managed(command: &mut Command<'_>) -> bool {
    match command {
        Command::Manage { .. } | Command::Replicate(_) | Command::KeepTime { .. } => true,
        Command::CreateUser { .. } | Command::RemoveUser { .. } => true,
        Command::GenerateKey { template, .. } => wants_managed(template),
        Command::GenerateKeyPair { public, private, .. } => wants_managed(public) || wants_managed(private),
        Command::View { .. } | Command::Reseal { .. } => false,
        command => records::carried(command).all().any(|record| record.columns.managed),
    }
}

/// Whether it costs an HSM little: no prime is looked for, and no PIN hashed.
fn is_quick(command: &Command<'_>) -> bool {
    !matches!(
        command,
        Command::Login { .. }
            | Command::CheckPin { .. }
            | Command::InitPin { .. }
            | Command::CreateUser { .. }
            | Command::SetPin { .. }
            | Command::SetEnrolledPin { .. }
            | Command::BeginRecovery { .. }
            | Command::FinishRecovery { .. }
            | Command::Execute { .. }
            | Command::Import { .. }
            | Command::GenerateKeyPair { .. }
            | Command::GenerateDataKeyPair { .. }
            | Command::ImportParameters { .. }
            | Command::Derive { .. }
            | Command::Replicate(_)
            | Command::Manage { action: Manage::CreateKey | Manage::RotateKey, .. }
    )
}

fn unexpected() -> Error {
    ErrorKind::DeviceError.with("the HSM answered with another kind of answer")
}
