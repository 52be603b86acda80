//! Approvals of uses of keys under dual control: what operators signed for this HSM instance, kept
//! in its memory only and gone with it. Each use takes one, exactly once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptoki_sys as ck;
use sha2::{Digest, Sha256};

use super::command::{ApprovalRequest, KeyRecords, ObjectChange, ObjectId, Operation, Outcome, Record, Reply, Ticket};
use super::domain::{Change, ControlledKey, Hash, KeyControl, KeyUse, Refusal, SignedCommand};
use super::managed::dual_control;
use super::permit::{Clock, Recorded};
use super::value::Attributes;
use super::{Access, Function, Hsm, audit, random};
use crate::error::{Error, ErrorKind, Result};
use crate::text::hex;

/// What is kept at once, so that no one fills the memory with what was signed long ago.
const MOST: usize = 10_000;

/// The approvals of one HSM instance.
pub(super) struct Approvals {
    instance: [u8; 16],
    clock: Clock,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    approvals: Vec<Approval>,
    /// Of all commands taken, with the last second in which they are valid.
    nonces: BTreeMap<[u8; 16], u64>,
    /// For the next approval.
    number: u64,
}

struct Approval {
    number: u64,
    object: ObjectId,
    /// Whose it is; one that was given under another is of no use.
    control: KeyControl,
    governance: Hash,
    action: String,
    digest: Option<[u8; 32]>,
    left: u64,
    /// The last second, since 1970.
    until: u64,
}

/// A use of a key that needs an approval.
#[derive(Clone)]
struct Use {
    object: ObjectId,
    control: KeyControl,
    action: String,
}

/// One use that was approved, until it is spent; given back if it was not.
struct Granted {
    approvals: Arc<Approvals>,
    number: u64,
    digest: [u8; 32],
    spent: bool,
}

impl Drop for Granted {
    fn drop(&mut self) {
        if !self.spent {
            self.approvals.give_back(self.number);
        }
    }
}

impl Approvals {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { instance: random::array()?, clock: Clock::default(), held: Mutex::default() })
    }

    /// The name of the HSM instance.
    pub(super) fn instance(&self) -> [u8; 16] {
        self.instance
    }

    /// Forgets what was approved under other operators, rules or limits than those now in force.
    pub(super) fn governed_by(&self, governance: &Hash) {
        self.held().approvals.retain(|approval| approval.governance == *governance);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        held.approvals.retain(|approval| approval.until >= now);
        held.nonces.retain(|_, until| *until >= now);
        held
    }

    /// Takes a verified command. A second time it is refused.
    fn add(&self, key: ControlledKey, usage: &KeyUse, command: &SignedCommand) -> std::result::Result<(), Error> {
        let proposal = command.proposal();
        let mut held = self.held();
        // By the clock by which nonces are forgotten.
        if proposal.not_after < self.clock.now() {
            return Err(Refusal::Expired.into());
        }
        if held.nonces.contains_key(&proposal.nonce) {
            return Err(Refusal::Replayed.into());
        }
        if held.approvals.len() >= MOST || held.nonces.len() >= 2 * MOST {
            return Err(ErrorKind::DeviceMemory.with("too many approvals wait to be used"));
        }
        held.nonces.insert(proposal.nonce, proposal.not_after);
        held.number += 1;
        let number = held.number;
        held.approvals.push(Approval {
            number,
            object: key.object,
            control: key.control,
            governance: proposal.governance,
            action: usage.action.clone(),
            digest: usage.digest,
            left: usage.count,
            until: proposal.not_after,
        });
        Ok(())
    }

    /// Takes one use of this input out of what was approved: of that input alone first, and first
    /// what ends first.
    fn take(self: &Arc<Self>, what: &Use, digest: [u8; 32]) -> Option<Granted> {
        let mut held = self.held();
        let fits = |approval: &&mut Approval| {
            approval.left > 0
                && approval.object == what.object
                && approval.control == what.control
                && approval.action == what.action
                && approval.digest.is_none_or(|only| only == digest)
        };
        let found = held.approvals.iter_mut().filter(fits).min_by_key(|a| (a.digest.is_none(), a.until))?;
        // One with nothing left stays until it ends: a use that came to nothing is given back.
        found.left -= 1;
        let number = found.number;
        drop(held);
        Some(Granted { approvals: Arc::clone(self), number, digest, spent: false })
    }

    fn give_back(&self, number: u64) {
        if let Some(approval) = self.held().approvals.iter_mut().find(|approval| approval.number == number) {
            approval.left += 1;
        }
    }
}

impl Use {
    fn request(&self, digest: [u8; 32]) -> ApprovalRequest {
        ApprovalRequest { object: self.object, action: self.action.clone(), digest }
    }
}

fn denied(what: &Use, digest: [u8; 32]) -> Error {
    ErrorKind::KeyFunctionNotPermitted.with(format!(
        "the key is under dual control: {} on the input with the SHA-256 {} needs the approval of {} of its operators",
        what.action,
        hex(&digest),
        what.control.threshold
    ))
}

impl Hsm {
    /// Takes an approval for a use of each of these keys, or none. What is to be approved first, if
    /// there is not; None also for keys that need none. Approvals are spent even if the use then fails.
    pub(super) fn approval(
        &self,
        keys: &[(&ObjectId, &Attributes)],
        action: &str,
        input: &[u8],
    ) -> Result<Option<ApprovalRequest>> {
        let mut taken = Vec::new();
        for (object, key) in keys {
            let Some(control) = dual_control::of(key)? else { continue };
            let what = Use { object: **object, control, action: action.to_owned() };
            let digest = Sha256::digest(input).into();
            match self.client.approvals.take(&what, digest) {
                Some(granted) => taken.push(granted),
                None => return Ok(Some(what.request(digest))),
            }
        }
        taken.iter_mut().for_each(|granted| granted.spent = true);
        Ok(None)
    }

    pub(super) fn find_approval(&self, ticket: &Ticket, key: &Record, action: &str, input: &[u8]) -> Result<Reply> {
        let open = self.open(self.access(ticket), key)?;
        let Some(control) = dual_control::of(&open.key.attributes)? else { return Ok(Reply::Done) };
        let what = Use { object: key.object, control, action: action.to_owned() };
        let digest = Sha256::digest(input).into();
        // What is taken here is given back at once.
        let found = self.client.approvals.take(&what, digest);
        Ok(found.map_or_else(|| Reply::ApprovalWanted(what.request(digest)), |_| Reply::Done))
    }

    /// [`Command::Unapproved`](super::Command::Unapproved).
    pub(super) fn unapproved(&self, ticket: &Ticket, key: &Record, action: &str, refused: ErrorKind) -> Result<Reply> {
        let open = self.open(self.access(ticket), key)?;
        let action = audit::Action::of_name(action).ok_or(ErrorKind::ArgumentsBad)?;
        let refused = Err::<(), _>(refused.with("the key's operators did not approve"));
        self.record(&Recorded::of(action, &open.key.attributes), &refused)?;
        Ok(Reply::Done)
    }

    /// Refuses a use of a key under dual control that no approval can name.
    pub(super) fn require_no_dual_control(&self, key: &Attributes) -> Result<()> {
        match dual_control::of(key)? {
            Some(_) => {
                Err(ErrorKind::KeyFunctionNotPermitted
                    .with("the key is under dual control, which does not cover this use"))
            }
            None => Ok(()),
        }
    }

    /// Makes an operation with a key take the approvals that the key needs.
    pub(super) fn controlled(
        &self,
        operation: Box<dyn Operation>,
        function: Function,
        object: &ObjectId,
        key: &Attributes,
    ) -> Result<Box<dyn Operation>> {
        let (Some(action), Some(control)) = (dual_control::action(function, key), dual_control::of(key)?) else {
            return Ok(operation);
        };
        let what = Use { object: *object, control, action: action.to_owned() };
        let approvals = Arc::clone(&self.client.approvals);
        let in_one_call = matches!(function, Function::Encrypt | Function::Decrypt);
        Ok(Box::new(Controlled { inner: operation, approvals, what, in_one_call, input: Sha256::new(), granted: None }))
    }

    /// A key under dual control as a proposal names it.
    pub(super) fn controlled_key(&self, ticket: &Ticket, record: &Record) -> Result<Option<ControlledKey>> {
        let open = self.open(self.access(ticket), record)?;
        Ok(dual_control::named(&record.object, &open.key.attributes)?)
    }

    /// Takes what the operators of a key signed: an approval of uses by this instance, or a change of
    /// who they are.
    pub(super) fn approve(&self, ticket: &Ticket, proposal: &[u8], keys: KeyRecords<'_>) -> Result<Reply> {
        if self.access(ticket) != Access::User {
            return Err(ErrorKind::UserNotLoggedIn.with("a user's login opens the key that the command is about"));
        }
        let open = self.open(Access::User, keys.key)?;
        let (target, taken) = match self.take_command(proposal, keys) {
            Ok((id, reply)) => (Some(id), Ok(reply)),
            Err(error) => (None, Err(error)),
        };
        let target = target.as_deref();
        let what = Recorded { target, ..Recorded::of(audit::Action::ApproveUse, &open.key.attributes) };
        self.record(&what, &taken)?;
        taken
    }

    /// Also gives the command's id in hexadecimal.
    fn take_command(&self, proposal: &[u8], keys: KeyRecords<'_>) -> Result<(String, Reply)> {
        let command = SignedCommand::decode(proposal)?;
        let public = self.public()?;
        let state = public.state();
        let change = &command.proposal().change;
        let key = change.key().ok_or_else(|| ErrorKind::FunctionRejected.with("the command is not about a key"))?;
        command.verify(state, self.now().max(state.changed))?;
        if self.controlled_key_of(keys.key)?.as_ref() != Some(key) {
            return Err(Refusal::OtherKey.into());
        }
        let id = hex(&command.id());
        match change {
            Change::UseKey { key, usage } => {
                usage.check()?;
                if usage.instance != self.client.approvals.instance {
                    return Err(Refusal::OtherInstance.into());
                }
                self.client.approvals.add(key.clone(), usage, &command)?;
                Ok((id, Reply::Done))
            }
            Change::SetDualControl { control, .. } => {
                if control.revision != key.control.revision.saturating_add(1) {
                    return Err(Refusal::OtherKey.into());
                }
                control.check(state)?;
                let halves = [Some(keys.key), keys.public];
                let replace = halves.into_iter().flatten().map(|half| self.with_control(half, &key.id, control));
                let change = ObjectChange { replace: replace.collect::<Result<_>>()?, ..ObjectChange::default() };
                Ok((id, Reply::Managed { change, told: key.id.clone() }))
            }
            _ => Err(Refusal::AboutAKey.into()),
        }
    }

    fn controlled_key_of(&self, record: &Record) -> Result<Option<ControlledKey>> {
        let open = self.open(Access::User, record)?;
        if open.key.class() == ck::CKO_PUBLIC_KEY {
            return Ok(None);
        }
        Ok(dual_control::named(&record.object, &open.key.attributes)?)
    }

    fn with_control(&self, record: &Record, id: &str, control: &KeyControl) -> Result<Record> {
        let (mut key, _) = self.unseal(record)?;
        self.check_row(&key, record)?;
        if dual_control::named(&record.object, &key.attributes)?.is_none_or(|key| key.id != id) {
            return Err(Refusal::OtherKey.into());
        }
        dual_control::set(&mut key.attributes, control);
        let generation = record.generation.checked_add(1).ok_or(ErrorKind::DeviceError)?;
        let resealed = self.seal(Access::User, key, record.object, generation)?;
        self.cache_of(record).forget(record.sealed.digest());
        Ok(resealed)
    }
}

/// An operation with a key under dual control: it gives nothing before it has an approval.
struct Controlled {
    inner: Box<dyn Operation>,
    approvals: Arc<Approvals>,
    what: Use,
    /// It would write before the whole input is known.
    in_one_call: bool,
    /// Of the parts so far.
    input: Sha256,
    granted: Option<Granted>,
}

impl Controlled {
    fn digest(&self, input: Option<&[u8]>) -> [u8; 32] {
        match input {
            Some(input) => Sha256::digest(input).into(),
            None => self.input.clone().finalize().into(),
        }
    }

    /// Whether there is an approval for this input; it is this operation's from now on.
    fn has(&mut self, digest: [u8; 32]) -> bool {
        if self.granted.as_ref().is_none_or(|granted| granted.digest != digest) {
            // What was taken for another input is given back first: it may be for any.
            self.granted = None;
            self.granted = self.approvals.take(&self.what, digest);
        }
        self.granted.is_some()
    }

    /// Runs the call that gives the result. An approval is spent by whatever is not a question for
    /// the length.
    fn with_approval(
        &mut self,
        input: Option<&[u8]>,
        call: impl FnOnce(&mut dyn Operation) -> Result<Outcome>,
    ) -> Result<Outcome> {
        let digest = self.digest(input);
        if !self.has(digest) {
            return Err(denied(&self.what, digest));
        }
        let outcome = call(&mut *self.inner);
        if !matches!(outcome, Ok(Outcome::Needed(_)))
            && let Some(mut granted) = self.granted.take()
        {
            granted.spent = true;
        }
        outcome
    }
}

impl Operation for Controlled {
    fn update(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        if self.in_one_call {
            let why = "a key under dual control encrypts and decrypts in one call, C_Encrypt or C_Decrypt";
            return Err(ErrorKind::KeyFunctionNotPermitted.with(why));
        }
        let outcome = self.inner.update(input, output)?;
        self.input.update(input);
        Ok(outcome)
    }

    fn finish(&mut self, output: Option<&mut [u8]>) -> Result<Outcome> {
        match output {
            None => self.inner.finish(None),
            Some(output) => self.with_approval(None, |inner| inner.finish(Some(output))),
        }
    }

    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        match output {
            None => self.inner.one_shot(input, None),
            Some(output) => self.with_approval(Some(input), |inner| inner.one_shot(input, Some(output))),
        }
    }

    fn verify(&mut self, signature: &[u8]) -> Result<()> {
        self.with_approval(None, |inner| inner.verify(signature).map(|()| Outcome::Written(0))).map(drop)
    }

    fn verify_one_shot(&mut self, input: &[u8], signature: &[u8]) -> Result<()> {
        let verify = |inner: &mut dyn Operation| inner.verify_one_shot(input, signature).map(|()| Outcome::Written(0));
        self.with_approval(Some(input), verify).map(drop)
    }

    fn held(&self) -> usize {
        self.inner.held()
    }

    fn is_private(&self) -> bool {
        self.inner.is_private()
    }

    fn approval(&mut self, input: Option<&[u8]>) -> Result<Option<ApprovalRequest>> {
        let digest = self.digest(input);
        Ok(if self.has(digest) { None } else { Some(self.what.request(digest)) })
    }
}
