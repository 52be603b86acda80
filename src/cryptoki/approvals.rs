//! Keys under dual control: a use that its operators have not approved is proposed to them, and the
//! call waits for their signatures as long as the configuration allows.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::domain::{parse, text};
use super::login::Credentials;
use super::session::{Session, State};
use super::token::{NEVER, Token, lock};
use super::{Module, SessionHandle};
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{ApprovalRequest, Command, Function, KeyRecords, ObjectChange, ObjectId, Record, Reply, governance};
use crate::store::ProposalId;
use crate::text::hex;

/// Between two looks at the store's counter, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// The proposals that calls of this process wait for, each for its own.
#[derive(Default)]
pub(super) struct Awaited(Mutex<HashSet<ProposalId>>);

/// The right to wait for a proposal.
struct Claim<'a> {
    awaited: &'a Awaited,
    id: ProposalId,
}

impl Awaited {
    fn claim(&self, id: ProposalId) -> Option<Claim<'_>> {
        lock(&self.0).insert(id).then_some(Claim { awaited: self, id })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(&self.awaited.0).remove(&self.id);
    }
}

/// What became of a call.
pub(super) enum Attempt<T> {
    Done(T),
    /// Nothing was done.
    Wanted(Box<Wanted>),
}

impl<T> Attempt<T> {
    /// A command with this key was answered by a request.
    pub(super) fn wanted(request: ApprovalRequest, key: &Record) -> Self {
        Self::Wanted(Box::new(Wanted { request, key: key.clone(), watched: false }))
    }
}

/// A use of a key that has to be approved first.
pub(super) struct Wanted {
    pub(super) request: ApprovalRequest,
    pub(super) key: Record,
    /// The HSM holds an operation that records its own end.
    pub(super) watched: bool,
}

impl Module {
    /// Makes a call in a session, again and again while it wants an approval and gets one. The session
    /// is not locked meanwhile; its close, a logout and C_Finalize end the wait. If the approval is not
    /// given in time, `function`'s operation is over and the error is of the kind `denied`.
    pub(super) fn approved<T>(
        &self,
        handle: SessionHandle,
        function: Option<Function>,
        denied: ErrorKind,
        mut call: impl FnMut(&Session, &mut State) -> Result<Attempt<T>>,
    ) -> Result<T> {
        let mut deadline = None;
        loop {
            let session = self.session(handle)?;
            let mut state = session.enter()?;
            let wanted = match call(&session, &mut state)? {
                Attempt::Done(done) => return Ok(done),
                Attempt::Wanted(wanted) => wanted,
            };
            let credentials = state.credentials.clone();
            drop(state);
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.settings.approval_wait);
            let wait =
                Wait { module: self, handle, token: &session.token, credentials: &credentials, deadline, denied };
            if let Err(error) = wait.obtain(&wanted) {
                if !wanted.watched {
                    wait.record_refusal(&wanted);
                }
                if let (Some(function), Ok(mut state)) = (function, session.enter()) {
                    state.operations.cancel(function);
                }
                return Err(error);
            }
        }
    }
}

impl Module {
    /// Executes a command that a key's own operators signed: approves uses by this process's HSM, or
    /// changes who the operators are. Needs the login of a user, who sees the key.
    pub(super) fn execute_about_key(&self, session: SessionHandle, proposal: &[u8], key: &ObjectId) -> Result<()> {
        let session = self.session(session)?;
        let credentials = session.enter()?.credentials.clone();
        session.require_rw()?;
        let token = &session.token;
        token.change_keys(&credentials, false, || {
            let keys = token.key_objects_of(&credentials, key)?;
            let keys = keys.ok_or_else(|| ErrorKind::KmsNotFound.with("the key of the command is gone"))?;
            let command = Command::Approve { proposal, keys: keys.records() };
            match token.audited(true, || token.channel.call(&credentials.ticket, command))? {
                Reply::Done => Ok((ObjectChange::default(), ())),
                Reply::Managed { change, .. } => Ok((change, ())),
                _ => Err(super::domain::unexpected()),
            }
        })?;
        token.store.delete_proposal(&governance::command_id(proposal)?)?;
        Ok(())
    }
}

impl Token {
    /// The key that a request is about, by its member "key": a key id, an alias, or CKA_UNIQUE_ID.
    /// None for a request about the domain.
    pub(super) fn key_of_request(&self, login: &Credentials, request: &str) -> Result<Option<Record>> {
        let Ok(request) = serde_json::from_str::<Value>(request) else { return Ok(None) };
        let (command, name) = (request["command"].as_str(), request["key"].as_str());
        let (Some("use key" | "set dual control"), Some(name)) = (command, name) else { return Ok(None) };
        if !login.sees_private() {
            return Err(ErrorKind::UserNotLoggedIn.with("a user's login opens the key that the command is about"));
        }
        match unhex(name) {
            Some(object) => self.store.get(&object),
            None => Ok(Some(self.key_objects(login, name)?.key)),
        }
    }
}

fn unhex(text: &str) -> Option<ObjectId> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
    Some(number.to_be_bytes())
}

struct Wait<'a> {
    module: &'a Module,
    handle: SessionHandle,
    token: &'a Arc<Token>,
    credentials: &'a Credentials,
    deadline: Instant,
    denied: ErrorKind,
}

/// A pending proposal of the use that is wanted.
struct Pending {
    bytes: Vec<u8>,
    /// What its signatures lack; None if it can be taken.
    lacking: Option<String>,
}

impl Wait<'_> {
    /// Brings the HSM an approval: of those pending, or by a new proposal.
    fn obtain(&self, wanted: &Wanted) -> Result<()> {
        let instance = parse(&text(self.call(Command::DescribeDomain)?)?)?["instance"].clone();
        let mut mine = None;
        for bytes in self.token.store.proposals()? {
            let named = governance::key_use(&bytes).is_ok_and(|named| {
                named.is_some_and(|usage| {
                    json!(hex(&usage.instance)) == instance
                        && usage.object == wanted.request.object
                        && usage.action == wanted.request.action
                        && usage.digest.is_none_or(|digest| digest == wanted.request.digest)
                })
            });
            if !named {
                continue;
            }
            let Some(claim) = self.token.awaited.claim(governance::command_id(&bytes)?) else { continue };
            let Some(pending) = self.look_at(bytes)? else { continue };
            if pending.lacking.is_some() {
                mine = mine.or(Some((claim, pending)));
            } else if self.take(&claim.id, &pending.bytes, wanted)? {
                return Ok(());
            }
        }
        let (claim, pending) = match mine {
            Some(mine) => mine,
            None => self.propose(wanted)?,
        };
        self.wait_for(&claim, pending.lacking, wanted)
    }

    /// That nobody approved the use. If the login has ended, there is nothing to record it with.
    fn record_refusal(&self, Wanted { request, key, .. }: &Wanted) {
        let command = Command::Unapproved { key, action: &request.action, refused: self.denied };
        if let Err(error) = self.token.audited(true, || self.call(command)) {
            tracing::warn!(slot = self.token.slot, %error, "a use that was not approved is not in the audit log");
        }
    }

    fn call(&self, command: Command<'_>) -> Result<Reply> {
        self.token.channel.call(&self.credentials.ticket, command)
    }

    /// None for a proposal that no more signatures can save.
    fn look_at(&self, bytes: Vec<u8>) -> Result<Option<Pending>> {
        let described = parse(&self.token.describe(&bytes)?)?;
        let lacking = described["lacking"].as_str().map(str::to_owned);
        match (described["refusal"].as_str(), lacking) {
            (None, None) => Ok(Some(Pending { bytes, lacking: None })),
            (Some(refusal), Some(lacking)) if refusal.contains(&lacking) => {
                Ok(Some(Pending { bytes, lacking: Some(lacking) }))
            }
            _ => Ok(None),
        }
    }

    /// Gives a signed proposal to the HSM; whatever it says, it says for good.
    fn take(&self, id: &ProposalId, proposal: &[u8], wanted: &Wanted) -> Result<bool> {
        let keys = KeyRecords { key: &wanted.key, public: None };
        let taken = self.token.audited(true, || self.call(Command::Approve { proposal, keys }));
        if let Err(error) = self.token.store.delete_proposal(id) {
            tracing::warn!(slot = self.token.slot, %error, "a proposal that was taken stays among the pending ones");
        }
        match taken {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::FunctionRejected => {
                tracing::warn!(slot = self.token.slot, %error, "a pending approval was refused");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn propose(&self, wanted: &Wanted) -> Result<(Claim<'_>, Pending)> {
        let ApprovalRequest { action, digest, object } = &wanted.request;
        let request = json!({ "command": "use key", "key": hex(object), "action": action, "digest": hex(digest) });
        let propose = Command::Propose { request: &request.to_string(), key: Some(&wanted.key) };
        let bytes = super::domain::bytes(self.call(propose)?)?;
        let id = governance::command_id(&bytes)?;
        let claim = self.token.awaited.claim(id).ok_or(ErrorKind::GeneralError)?;
        self.token.drop_expired()?;
        self.token.store.put_proposal(&id, &bytes)?;
        tracing::info!(
            slot = self.token.slot,
            proposal = hex(&id),
            action,
            "a use of a key is proposed to its operators"
        );
        let pending = self.look_at(bytes)?.ok_or_else(|| self.denied(&id, "it cannot be approved as things are"))?;
        Ok((claim, pending))
    }

    fn wait_for(&self, claim: &Claim<'_>, lacking: Option<String>, wanted: &Wanted) -> Result<()> {
        let id = &claim.id;
        let mut lacking = lacking.unwrap_or_default();
        let (mut seen, mut pause) = (NEVER, PAUSE.0);
        loop {
            if let Some(ended) = self.ended() {
                // Nobody waits for it any more.
                let _ = self.token.store.delete_proposal(id);
                return Err(ended);
            }
            let counter = self.token.store.counter() & !1;
            if counter != seen {
                seen = counter;
                // The operators, too, may have changed.
                self.token.check()?;
                let Some(bytes) = self.token.pending(id)? else {
                    return Err(self.denied(id, "it was withdrawn"));
                };
                match self.look_at(bytes)? {
                    Some(Pending { bytes, lacking: None }) => {
                        return match self.take(id, &bytes, wanted)? {
                            true => Ok(()),
                            false => Err(self.denied(id, "it was refused")),
                        };
                    }
                    Some(Pending { lacking: Some(still), .. }) => lacking = still,
                    None => return Err(self.denied(id, "it can be approved no longer")),
                }
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let short = hex(id).get(..12).unwrap_or_default().to_owned();
                let label = self.token.domain().label.clone();
                return Err(self.denied(
                    id,
                    &format!("it lacks {lacking}. `conclave proposal sign {short} --token {label:?}`, then try again"),
                ));
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Why nobody waits any longer.
    fn ended(&self) -> Option<Error> {
        if let Err(error) = self.module.session(self.handle) {
            return Some(error);
        }
        let logged_out = self.token.epoch() != self.credentials.epoch;
        logged_out.then(|| ErrorKind::UserNotLoggedIn.with("the login ended while an approval was awaited"))
    }

    fn denied(&self, id: &ProposalId, why: &str) -> Error {
        self.denied.with(format!("the key is under dual control, and proposal {} is not approved: {why}", hex(id)))
    }
}
