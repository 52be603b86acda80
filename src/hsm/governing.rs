//! The commands about the domain: describing it, proposing and executing what operators sign, and
//! what its own standing orders and deadlines ask for.

use super::command::{
    DomainChange, DomainToken, DomainView, Held, Log, ObjectChange, OldKey, PinCost, Record, Reply, Role, Ticket,
};
use super::domain::governance::History;
use super::domain::{Circumstances, Executed, Opened, PublicState, Refusal, SignedCommand, json};
use super::{Access, Hsm};
use crate::error::{ErrorKind, Result};
use crate::text::hex;

impl Hsm {
    pub(super) fn describe_domain(&self) -> Result<Reply> {
        let public = self.public()?;
        let mut described = json::describe(&public, Circumstances::of_system().now);
        described["instance"] = hex(&self.client.approvals.instance()).into();
        Ok(Reply::Text(described.to_string()))
    }

    /// A proposal as JSON asks for it, in CBOR, with no signature yet.
    pub(super) fn propose(&self, ticket: &Ticket, request: &str, key: Option<&Record>) -> Result<Reply> {
        let public = self.public()?;
        let mut circumstances = Circumstances::of_system();
        let now = circumstances.now;
        let key = key.map(|record| self.controlled_key(ticket, record)).transpose()?.flatten();
        let about = json::About { key, instance: self.client.approvals.instance() };
        let proposal = json::request(request, public.state(), public.hash(), now, about, &mut circumstances.entropy)?;
        Ok(Reply::Bytes(SignedCommand::unsigned(proposal).encode()))
    }

    pub(super) fn describe_command(&self, command: &[u8]) -> Result<Reply> {
        let public = self.public()?;
        let command = SignedCommand::decode(command)?;
        let described = json::describe_command(&command, Some(public.state()), Circumstances::of_system().now);
        Ok(Reply::Text(described.to_string()))
    }

    /// Adds a signature of one of the operators, or founders, that was made elsewhere.
    pub(super) fn add_signature(&self, command: &[u8], signer: &[u8], signature: &[u8]) -> Result<Reply> {
        let public = self.public()?;
        let mut command = SignedCommand::decode(command)?;
        command.add_verified(public.state(), signer, signature)?;
        Ok(Reply::Bytes(command.encode()))
    }

    /// Verifies and executes a command. Nothing changes before the reply is committed and adopted.
    pub(super) fn execute(&self, ticket: &Ticket, command: &[u8], keys: &[Held<'_>]) -> Result<Reply> {
        let (access, fleet) = (self.access(ticket), self.core.is_member_of_fleet());
        if access == Access::Public && !fleet {
            return Err(ErrorKind::UserNotLoggedIn.with("a login opens the domain that the command is to change"));
        }
        let opened = self.opened()?;
        if opened.state().log_head.is_none() && access != Access::So && !fleet {
            return Err(ErrorKind::UserNotLoggedIn.with("the SO governs the domain until he hands it over"));
        }
        let executed = opened.execute(command, &mut Circumstances::of_system())?;
        let objects = self.decided(access, &opened, &SignedCommand::decode(command)?.proposal().change, keys)?;
        Ok(Reply::Changed(DomainChange { objects, ..changed(&opened, executed) }))
    }

    /// One step of what is due by the standing order or a deadline; Done if there is none. Needs an
    /// open domain, and nobody's leave.
    pub(super) fn housekeeping(&self) -> Result<Reply> {
        let opened = self.opened()?;
        let due = opened.housekeeping(&mut Circumstances::of_system())?;
        Ok(due.map_or(Reply::Done, |executed| Reply::Changed(changed(&opened, executed))))
    }

    /// Sets the PIN that a command opened an enrolment for.
    pub(super) fn set_enrolled_pin(
        &self,
        ticket: &Ticket,
        role: &Role,
        code: Option<&[u8]>,
        pin: &[u8],
        cost: PinCost,
    ) -> Result<Reply> {
        let access = self.access(ticket);
        let open = access != Access::Public || self.core.is_member_of_fleet();
        if !open || (code.is_none() && access != Access::So) {
            return Err(ErrorKind::UserNotLoggedIn.with("a login opens the domain; without a code, that of the SO"));
        }
        let opened = self.opened()?;
        let Some(user) = opened.state().user(role).filter(|user| user.enrolment.is_some()) else {
            let why =
                "no command allows a new PIN now: operators open an enrolment by \"create user\" or \"reset PIN\"";
            return Err(ErrorKind::TokenWriteProtected.with(why));
        };
        let whose = self.client.guest.map(|guest| guest.host);
        // A guess is counted as one of a PIN is, and costs no hash of the new one.
        if let Some(code) = code {
            let guess = || opened.check_code(role, code);
            let checked = self.core.pins.attempt(whose, (role, user.generation), guess);
            checked.map_err(|error| match error.kind() {
                ErrorKind::PinIncorrect => Refusal::EnrolmentCode.into(),
                _ => error,
            })?;
        }
        let _place = self.core.pins.place(whose);
        let (_, change) = opened.set_pin(role, pin, code, cost, &mut Circumstances::of_system())?;
        Ok(Reply::Changed(change))
    }

    /// What brings a store that has an older version of this domain to the newest of a history.
    pub(super) fn import(&self, ticket: &Ticket, history: &[u8]) -> Result<Reply> {
        if self.access(ticket) == Access::Public {
            return Err(ErrorKind::UserNotLoggedIn.with("a login opens the domain that is to be brought forward"));
        }
        let history = History::decode(history)?;
        let newest = DomainToken { version: PublicState::version_of(history.newest)?, bytes: history.newest.to_vec() };
        let entries: Vec<Vec<u8>> = history.entries.iter().map(|entry| entry.to_vec()).collect();
        let log = Log { after: PublicState::version_of(history.origin)?, entries: &entries };
        let opened = self.opened()?;
        let held = opened.public();
        let (version, now) = (held.state().version, Circumstances::of_system().now);
        let newer = held.adopt_logged(&newest, log.since(version), now)?;
        let entries = log.since(version).to_vec();
        if entries.is_empty() {
            return Err(ErrorKind::FunctionRejected.with("the history has nothing newer than this token"));
        }
        let stays = |role: &Role| match (held.state().user(role), newer.state().user(role)) {
            (Some(old), Some(new)) => old.generation == new.generation && new.agreement.is_some(),
            _ => false,
        };
        let (kept, removed): (Vec<_>, Vec<_>) =
            held.state().users.iter().map(|user| user.role.clone()).partition(stays);
        if kept.is_empty() {
            let why = "every PIN has changed since: nobody could open the token; take the newer token's files instead";
            return Err(ErrorKind::FunctionRejected.with(why));
        }
        opened.advance(newer)?;
        Ok(Reply::Changed(DomainChange {
            domain: newest,
            entries,
            pins: Vec::new(),
            removed,
            objects: ObjectChange::default(),
        }))
    }

    /// Makes a fresh HSM's keys, sealed under the SO's new PIN, for a domain whose PINs are lost.
    pub(super) fn begin_recovery(&self, so_pin: &[u8], cost: PinCost) -> Result<Reply> {
        let public = self.public()?;
        check_so_pin(so_pin)?;
        let (claim, sealed) = Opened::begin_recovery(&public, so_pin, cost, &mut Circumstances::of_system())?;
        Ok(Reply::Recovering { claim, sealed })
    }

    /// Opens the domain with the operators' shares and goes on as its only HSM.
    pub(super) fn finish_recovery(
        &self,
        so_pin: &[u8],
        cost: PinCost,
        sealed: &[u8],
        command: &[u8],
        contributions: &[&[u8]],
    ) -> Result<Reply> {
        let public = self.public()?;
        check_so_pin(so_pin)?;
        if sealed.is_empty() {
            return Err(ErrorKind::FunctionRejected.with("no recovery was begun on this token"));
        }
        let contributions: Vec<Vec<u8>> = contributions.iter().map(|bytes| bytes.to_vec()).collect();
        let mut circumstances = Circumstances::of_system();
        let (_, change) =
            Opened::finish_recovery(&public, so_pin, cost, sealed, command, &contributions, &mut circumstances)?;
        Ok(Reply::Changed(change))
    }
}

fn check_so_pin(pin: &[u8]) -> Result<()> {
    let none = "an embedded domain is recovered with the PIN that the SO is to have";
    if pin.is_empty() { Err(ErrorKind::ArgumentsBad.with(none)) } else { Ok(()) }
}

impl DomainView {
    pub(super) fn of(public: &PublicState, login_ended: bool) -> Self {
        let state = public.state();
        Self {
            domain: state.domain,
            version: state.version,
            label: state.name.clone(),
            serial: state.serial.clone(),
            founded: state.log_head.is_some(),
            active_key: state.active_key(),
            old_keys: state.old_keys().map(|key| OldKey { id: key.id, retires: key.retires }).collect(),
            login_ended,
        }
    }
}

impl Log<'_> {
    /// The entries after a version.
    pub(super) fn since(&self, version: u64) -> &[Vec<u8>] {
        let known = usize::try_from(version.saturating_sub(self.after)).unwrap_or(usize::MAX);
        self.entries.get(known..).unwrap_or_default()
    }
}

/// What is to be committed of a step. Whoever has no PIN any more loses its record.
fn changed(before: &Opened, executed: Executed) -> DomainChange {
    let Executed { opened, token, entry } = executed;
    let gone = |role: &&Role| opened.state().user(role).is_none_or(|user| user.agreement.is_none());
    let had = before.state().users.iter().map(|user| &user.role);
    let removed = had.filter(gone).cloned().collect();
    DomainChange { domain: token, entries: vec![entry], pins: Vec::new(), removed, objects: ObjectChange::default() }
}
