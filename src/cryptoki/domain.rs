//! The domain behind a token: proposals, what operators signed, the log, recovery. The vendor's
//! functions and the `conclave` command come here.

use std::collections::BTreeMap;
use std::sync::Arc;

use cryptoki_sys as ck;
use serde_json::{Value, json};

use super::login::{Holder, changed, retry};
use super::managed::HeldKey;
use super::token::{Token, lock};
use super::{Module, SessionHandle, SlotId};
use crate::error::{ErrorKind, Result};
use crate::hsm::{Command, DomainView, Reply, Ticket, governance};
use crate::text::hex;

/// Before a domain key's deadline the operators are warned for this long, in seconds.
const WARNING: u64 = 7 * 24 * 3600;
/// More steps are never due at once: each domain key retires once.
const MOST_STEPS: usize = 64;

impl Module {
    /// Everything public of the domain as JSON, with how many records each domain key seals and
    /// what is to be warned of.
    pub fn describe_domain(&self, session: SessionHandle) -> Result<String> {
        let token = self.token_of(session)?;
        let mut described = parse(&text(token.channel.call(&Ticket::public(), Command::DescribeDomain)?)?)?;
        let counts = token.counts()?;
        let by_key: BTreeMap<_, _> = counts.iter().map(|(key, count)| (key.clone(), *count)).collect();
        described["records"] = json!(by_key);
        described["warnings"] = json!(token.warnings(&token.domain(), &by_key));
        Ok(described.to_string())
    }

    /// A proposal as JSON asks for it: COSE_Sign without signatures. It is not kept.
    /// One about a key under dual control needs the login of a user, who sees the key.
    pub fn propose(&self, session: SessionHandle, request: &str) -> Result<Vec<u8>> {
        let session = self.session(session)?;
        let credentials = session.enter()?.credentials.clone();
        let token = &session.token;
        let key = token.key_of_request(&credentials, request)?;
        bytes(token.channel.call(&credentials.ticket, Command::Propose { request, key: key.as_ref() })?)
    }

    /// What a proposal says in plain words, who signed it, and whether that is enough. JSON.
    pub fn describe_proposal(&self, session: SessionHandle, proposal: &[u8]) -> Result<String> {
        self.token_of(session)?.describe(proposal)
    }

    /// What the holder of a key signs. `signer` is a DER SubjectPublicKeyInfo.
    pub fn bytes_to_sign(&self, session: SessionHandle, proposal: &[u8], signer: &[u8]) -> Result<Vec<u8>> {
        self.token_of(session)?;
        governance::to_sign(proposal, signer)
    }

    /// The proposal with one more signature, which is verified. It is not kept.
    pub fn add_signature(
        &self,
        session: SessionHandle,
        proposal: &[u8],
        signer: &[u8],
        signature: &[u8],
    ) -> Result<Vec<u8>> {
        let command = Command::AddSignature { proposal, signer, signature };
        bytes(self.token_of(session)?.channel.call(&Ticket::public(), command)?)
    }

    /// Keeps a proposal among the pending ones, with the signatures it had there; answers it. Its
    /// own signatures must verify.
    pub fn put_proposal(&self, session: SessionHandle, proposal: &[u8]) -> Result<Vec<u8>> {
        self.put_proposal_within(session, proposal, usize::MAX)
    }

    /// As [`Self::put_proposal`], but keeps nothing if the answer is longer than `room` bytes.
    pub fn put_proposal_within(&self, session: SessionHandle, proposal: &[u8], room: usize) -> Result<Vec<u8>> {
        let session = self.session(session)?;
        drop(session.enter()?);
        session.require_rw()?;
        let token = &session.token;
        let described = parse(&token.describe(proposal)?)?;
        let refused = |why: String| Err(ErrorKind::FunctionRejected.with(why));
        if described["domain"] != json!(hex(&token.domain().domain)) {
            return refused("the proposal is for another domain".to_owned());
        }
        if governance::command_end(proposal)? < now() {
            return refused("the proposal has expired".to_owned());
        }
        // One of these would stay with the proposal and spoil the signatures that are added to it.
        let signers = described["signers"].as_array().map_or(&[][..], Vec::as_slice);
        if let Some(bad) = signers.iter().find(|signer| signer["valid"] != json!(true)) {
            let kid = bad["kid"].as_str().and_then(|kid| kid.get(..16)).unwrap_or_default();
            return refused(format!("the signature of {kid} is no operator's, or does not verify"));
        }
        let id = governance::command_id(proposal)?;
        let _gate = lock(&token.gate);
        token.drop_expired()?;
        let merged = match token.pending(&id)? {
            Some(held) => governance::merge(proposal, &held)?,
            None => proposal.to_vec(),
        };
        if merged.len() <= room {
            token.store.put_proposal(&id, &merged)?;
        }
        Ok(merged)
    }

    /// The pending proposals, oldest first: a JSON array of what [`Self::describe_proposal`] says of
    /// each, and the proposal itself in hexadecimal.
    pub fn proposals(&self, session: SessionHandle) -> Result<String> {
        let token = self.token_of(session)?;
        let mut list = Vec::new();
        for proposal in token.store.proposals()? {
            let mut described = match token.describe(&proposal) {
                Ok(described) => parse(&described)?,
                // One that somebody damaged does not hide the others.
                Err(error) => {
                    tracing::warn!(slot = token.slot, %error, "a pending proposal cannot be read");
                    continue;
                }
            };
            described["proposal"] = json!(hex(&proposal));
            list.push(described);
        }
        Ok(Value::Array(list).to_string())
    }

    /// A pending proposal by its id.
    pub fn proposal(&self, session: SessionHandle, id: &[u8]) -> Result<Vec<u8>> {
        let id = proposal_id(id)?;
        self.token_of(session)?.pending(&id)?.ok_or_else(|| no_such_proposal(&id))
    }

    /// Drops a pending proposal. Copies of it elsewhere stay what they are.
    pub fn withdraw_proposal(&self, session: SessionHandle, id: &[u8]) -> Result<()> {
        let id = proposal_id(id)?;
        let session = self.session(session)?;
        drop(session.enter()?);
        session.require_rw()?;
        if session.token.store.delete_proposal(&id)? { Ok(()) } else { Err(no_such_proposal(&id)) }
    }

    /// Executes a command that a quorum signed. Needs a login, which opens the domain; the founding
    /// needs the SO's. CKR_FUNCTION_REJECTED if it is refused, and then nothing has changed.
    pub fn execute(&self, session: SessionHandle, proposal: &[u8]) -> Result<()> {
        if let Some(key) = governance::key_of(proposal)? {
            return self.execute_about_key(session, proposal, &key);
        }
        let (token, ticket) = self.writer(session)?;
        // The deadline may be near, and nobody has been warned of it yet.
        if governance::command_name(proposal)? == "schedule retirement"
            && let Err(error) = token.reseal_all(&ticket, &mut |_| true)
        {
            tracing::warn!(slot = token.slot, %error, "not everything was sealed anew before a deadline is set");
        }
        let ids = governance::command_keys(proposal)?;
        let login = self.session(session)?.enter()?.credentials.clone();
        if !ids.is_empty() && !login.sees_private() {
            return Err(ErrorKind::UserNotLoggedIn.with("a user's login opens the keys that the command is about"));
        }
        let gate = lock(&token.gate);
        token.change(|| {
            let found = token.held_keys(&login, &ids)?;
            let missing = ids.iter().zip(&found).find(|(_, held)| held.is_none());
            if let Some((id, _)) = missing {
                return Err(ErrorKind::KmsNotFound.with(format!("there is no managed key {id:?} in this token")));
            }
            let keys: Vec<_> = found.iter().flatten().map(HeldKey::held).collect();
            token.audited(!ids.is_empty(), || token.channel.call(&ticket, Command::Execute { proposal, keys: &keys }))
        })?;
        // It is executed, whatever happens now; a proposal that stays is refused as executed before.
        if let Err(error) = governance::command_id(proposal).and_then(|id| token.store.delete_proposal(&id)) {
            tracing::warn!(slot = token.slot, %error, "an executed proposal stays among the pending ones");
        }
        token.housekeep();
        drop(gate);
        token.reseal_in_background(self.settings.threads);
        Ok(())
    }

    /// The newest domain token.
    pub fn export_domain_token(&self, session: SessionHandle) -> Result<Vec<u8>> {
        Ok(self.token_of(session)?.domain_token()?.bytes)
    }

    /// The history file: the domain token before the founding, the log, the newest token.
    /// CKR_FUNCTION_REJECTED before the founding, when there is no log.
    pub fn history(&self, session: SessionHandle) -> Result<Vec<u8>> {
        let token = self.token_of(session)?;
        let newest = token.domain_token()?;
        let origin = token.store.origin()?.filter(|origin| origin.version < newest.version);
        let none = || match token.domain().founded {
            true => ErrorKind::TokenNotRecognized.with("the beginning of the domain's log is missing from the store"),
            false => ErrorKind::FunctionRejected.with("the domain is not founded: there is no log yet"),
        };
        let origin = origin.ok_or_else(none)?;
        let entries = token.store.log(origin.version, newest.version)?;
        let entries = entries.iter().map(Vec::as_slice).collect();
        Ok(governance::History { origin: &origin.bytes, entries, newest: &newest.bytes }.encode())
    }

    /// Brings an older copy of the token forward to the newest state of a history, entry by entry
    /// verified. PINs that were changed meanwhile are gone from this copy.
    pub fn import_domain(&self, session: SessionHandle, history: &[u8]) -> Result<()> {
        let (token, ticket) = self.writer(session)?;
        let _gate = lock(&token.gate);
        token.change(|| token.channel.call(&ticket, Command::Import { history }))
    }

    /// Sets the PIN of a user for whom a command opened an enrolment. `code` is the one that the
    /// operators gave him; without one the SO must be logged in.
    pub fn set_enrolled_pin(
        &self,
        session: SessionHandle,
        user: ck::CK_USER_TYPE,
        name: Option<&[u8]>,
        code: Option<&[u8]>,
        pin: Option<&[u8]>,
    ) -> Result<()> {
        let role = Holder::named(user, name)?.role();
        let pin = self.new_pin(pin)?;
        let (token, ticket) = self.writer(session)?;
        let _gate = lock(&token.gate);
        let cost = self.settings.pin.cost;
        token.change(|| token.channel.call(&ticket, Command::SetEnrolledPin { role: role.clone(), code, pin, cost }))
    }

    /// Makes a fresh HSM for a domain whose PINs are lost, and answers what names it in the command
    /// that recovers it. Its keys wait in the store, sealed under the SO's new PIN; those of a fleet's HSM
    /// stay with it, and there is no PIN then.
    pub fn begin_recovery(&self, slot: SlotId, so_pin: Option<&[u8]>) -> Result<Vec<u8>> {
        let token = self.token(slot)?;
        token.check()?;
        let pin = self.recovery_pin(so_pin)?;
        let cost = self.settings.pin.cost;
        match token.channel.call(&Ticket::public(), Command::BeginRecovery { pin, cost })? {
            Reply::Recovering { claim, sealed } if sealed.is_empty() => Ok(claim),
            Reply::Recovering { claim, sealed } => token.store.put_recovery(&sealed).map(|()| claim),
            _ => Err(unexpected()),
        }
    }

    /// Recovers the domain with the command that operators signed and their shares: the fresh HSM is
    /// its only one, the PIN that it was made with is the SO's, and all other PINs are to be reset; in a
    /// fleet all.
    pub fn recover(&self, slot: SlotId, so_pin: Option<&[u8]>, command: &[u8], contributions: &[&[u8]]) -> Result<()> {
        let token = self.token(slot)?;
        let pin = self.recovery_pin(so_pin)?;
        let cost = self.settings.pin.cost;
        let _gate = lock(&token.gate);
        let sealed = token.store.recovery()?.unwrap_or_default();
        token.change(|| {
            let command = Command::FinishRecovery { pin, cost, sealed: &sealed, command, contributions };
            token.channel.call(&Ticket::public(), command)
        })?;
        // The domain is recovered; the keys that waited are of no more use to anybody.
        if !sealed.is_empty()
            && let Err(error) = token.store.put_recovery(&[])
        {
            tracing::warn!(slot = token.slot, %error, "the keys that waited for the recovery stay in the store");
        }
        Ok(())
    }

    /// Empty where there is none, which only a fleet's HSM takes.
    fn recovery_pin<'a>(&self, pin: Option<&'a [u8]>) -> Result<&'a [u8]> {
        pin.map_or(Ok(&[]), |pin| self.new_pin(Some(pin)))
    }

    fn token_of(&self, session: SessionHandle) -> Result<Arc<Token>> {
        let session = self.session(session)?;
        drop(session.enter()?);
        Ok(Arc::clone(&session.token))
    }

    /// The token and ticket of a session that may change the token.
    fn writer(&self, session: SessionHandle) -> Result<(Arc<Token>, Ticket)> {
        let session = self.session(session)?;
        let ticket = session.enter()?.credentials.ticket.clone();
        session.require_rw()?;
        Ok((Arc::clone(&session.token), ticket))
    }
}

impl Token {
    /// Commits what the HSM makes of the domain, and adopts it; once more if another process changed
    /// the domain meanwhile. The caller holds the gate.
    pub(super) fn change(&self, mut make: impl FnMut() -> Result<Reply>) -> Result<()> {
        retry(|| {
            self.look_anew()?;
            let change = changed(make()?)?;
            self.store.commit_domain(&change)?;
            change.objects.delete.iter().for_each(|(object, _)| self.objects.forget(object));
            Ok(())
        })?;
        self.check()
    }

    /// Does what is due by the standing order and the deadlines, and warns of deadlines to come.
    /// What fails is logged and is due again at the next login.
    pub(super) fn housekeep(&self) {
        for _ in 0..MOST_STEPS {
            match self.step() {
                Ok(true) => {}
                Ok(false) => break,
                // The step before took the PIN of whoever is logged in.
                Err(error) if error.kind() == ErrorKind::UserNotLoggedIn => break,
                Err(error) => {
                    tracing::warn!(slot = self.slot, %error, "the domain's standing order or a deadline was not seen to");
                    break;
                }
            }
        }
        let domain = self.domain();
        if domain.old_keys.iter().any(|key| key.retires.is_some()) {
            match self.counts() {
                Ok(counts) => {
                    for warning in self.warnings(&domain, &counts.into_iter().collect()) {
                        tracing::warn!(slot = self.slot, "{warning}");
                    }
                }
                Err(error) => tracing::warn!(slot = self.slot, %error, "the records cannot be counted"),
            }
        }
    }

    fn step(&self) -> Result<bool> {
        self.look_anew()?;
        match self.channel.call(&Ticket::public(), Command::Housekeeping)? {
            Reply::Done => return Ok(false),
            Reply::Changed(change) => match self.store.commit_domain(&change) {
                // Another process did it, or keeps the store busy.
                Err(error) if error.kind() == ErrorKind::FunctionFailed => {
                    let before = self.domain_version();
                    self.check()?;
                    if self.domain_version() == before {
                        return Err(error);
                    }
                }
                committed => committed?,
            },
            _ => return Err(unexpected()),
        }
        self.check().map(|()| true)
    }

    /// How many records each domain key seals, by its id in hexadecimal.
    fn counts(&self) -> Result<Vec<(String, u64)>> {
        let counts = self.store.count_by_domain_key()?;
        Ok(counts
            .into_iter()
            .map(|(key, count)| (key.map_or_else(|| "unknown".to_owned(), |id| hex(&id)), count))
            .collect())
    }

    /// What would be lost, and when.
    fn warnings(&self, domain: &DomainView, counts: &BTreeMap<String, u64>) -> Vec<String> {
        let now = now();
        let soon = domain.old_keys.iter().filter_map(|key| Some((hex(&key.id), key.retires?)));
        soon.filter(|(_, retires)| *retires <= now.saturating_add(WARNING))
            .filter_map(|(key, retires)| {
                let count = counts.get(&key).copied().filter(|count| *count > 0)?;
                let days = retires.saturating_sub(now) / (24 * 3600);
                Some(format!(
                    "domain key {key} retires in {days} days, and {count} objects are still sealed under it: they are \
                     lost then, unless `conclave domain reseal` seals them anew"
                ))
            })
            .collect()
    }

    pub(super) fn describe(&self, proposal: &[u8]) -> Result<String> {
        text(self.channel.call(&Ticket::public(), Command::DescribeCommand { proposal })?)
    }

    pub(super) fn drop_expired(&self) -> Result<()> {
        for held in self.store.proposals()? {
            // What cannot be read is not this release's to drop.
            let Ok(id) = governance::command_id(&held) else { continue };
            if governance::command_end(&held)? < now() {
                self.store.delete_proposal(&id)?;
            }
        }
        Ok(())
    }

    pub(super) fn pending(&self, id: &[u8; 32]) -> Result<Option<Vec<u8>>> {
        for held in self.store.proposals()? {
            if governance::command_id(&held).is_ok_and(|held| held == *id) {
                return Ok(Some(held));
            }
        }
        Ok(None)
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn proposal_id(id: &[u8]) -> Result<[u8; 32]> {
    id.try_into().map_err(|_| ErrorKind::ArgumentsBad.with("the id of a proposal has 32 bytes"))
}

fn no_such_proposal(id: &[u8; 32]) -> crate::error::Error {
    ErrorKind::FunctionRejected.with(format!("there is no pending proposal {}", hex(id)))
}

pub(super) fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|_| unexpected())
}

pub(super) fn text(reply: Reply) -> Result<String> {
    match reply {
        Reply::Text(text) => Ok(text),
        _ => Err(unexpected()),
    }
}

pub(super) fn bytes(reply: Reply) -> Result<Vec<u8>> {
    match reply {
        Reply::Bytes(bytes) => Ok(bytes),
        _ => Err(unexpected()),
    }
}

pub(super) fn unexpected() -> crate::error::Error {
    ErrorKind::GeneralError.with("the HSM answered a command about the domain with something else")
}
