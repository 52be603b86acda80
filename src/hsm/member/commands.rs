//! The commands that a fleet's HSM executes otherwise than an embedded one: those about PINs, which open
//! nothing here, and those that only an embedded HSM has.

use std::sync::Arc;

use super::super::command::{Command, PinCost, PinRecord, Reply, Role, Ticket};
use super::super::core::Guest;
use super::super::domain::{self, Circumstances, Opened, OwnKeys};
use super::super::{Access, Hsm};
use super::pins::check_cost;
use super::ticket::Login;
use crate::error::{Error, ErrorKind, Result};

impl Hsm {
    /// Executes a command at a member of a fleet.
    pub(in crate::hsm) fn call_member(
        &self,
        own: &Arc<OwnKeys>,
        ticket: &Ticket,
        command: Command<'_>,
    ) -> Result<Reply> {
        hash_cost(&command).map_or(Ok(()), check_cost)?;
        match (command, &self.client.guest) {
            (Command::Login { pin, record, .. }, Some(guest)) => self.log_in_guest(own, guest, pin, record),
            (Command::Logout, Some(_)) => self.log_out_guest(),
            (Command::CheckPin { pin, record }, Some(_)) => self.check_guest_pin(ticket, pin, record),
            (Command::SetPin { old, new, record, cost, .. }, Some(_)) => self.set_guest_pin((old, new), record, cost),
            (Command::Found { .. } | Command::Adopt { .. } | Command::Import { .. }, Some(_))
            | (Command::BeginRecovery { .. } | Command::FinishRecovery { .. }, Some(_)) => Err(governed()),
            // The log has the name that the session proved.
            (Command::BeginAudit { store, .. }, Some(_)) => self.begin_audit(&self.client.host, store),
            (Command::AuditHead { store, .. }, Some(_)) => self.audit_head(ticket, &self.client.host, store),
            // They hash a PIN.
            (command @ (Command::InitPin { .. } | Command::CreateUser { .. }), Some(_)) => {
                let _place = self.core.pins.place(self.whose());
                self.execute_command(ticket, command)
            }
            (command, Some(_)) => self.execute_command(ticket, command),
            (Command::Found { label, .. }, None) => self.begin_fleet(own, label),
            (Command::BeginRecovery { .. }, None) => self.claim(own),
            (Command::FinishRecovery { command, contributions, .. }, None) => {
                self.recover_fleet(own, command, contributions)
            }
            (command, None) if is_for_operators(&command) => self.execute_command(ticket, command),
            (_, None) => Err(ErrorKind::FunctionRejected.with("an operators' connection is for the domain alone")),
        }
    }

    /// A new domain with this HSM as its only member, to be founded by its operators.
    fn begin_fleet(&self, own: &Arc<OwnKeys>, label: &str) -> Result<Reply> {
        let mut held = self.core.held_mut();
        if held.public.is_some() {
            return Err(ErrorKind::FunctionRejected.with("this HSM has a domain; one that was just started has none"));
        }
        let (opened, domain) = Opened::provision(label, Arc::clone(own), &mut Circumstances::of_system())?;
        held.public = Some(Arc::clone(opened.public()));
        held.opened = Some(Arc::new(opened));
        // Nobody has a PIN before operators open an enrolment.
        let so_pin = PinRecord { role: Role::So, generation: 0, sealed: Vec::new() };
        Ok(Reply::Founded { domain, so_pin })
    }

    fn log_in_guest(&self, own: &OwnKeys, guest: &Guest, pin: &[u8], record: &PinRecord) -> Result<Reply> {
        self.check_counted(&*self.opened()?, record, pin)?;
        // The hash took its time, and the domain may have gone on.
        let (opened, now) = (self.opened()?, self.now());
        let login = Login {
            role: record.role.clone(),
            guest: *guest,
            issuer: *own.id(),
            generation: record.generation,
            issued: now,
            expires: now.saturating_add(opened.state().limits.login_ticket),
        };
        Ok(Reply::LoggedIn(login.seal(&opened)?))
    }

    /// The member forgets the process's login ([`super::Visit`]); here, what it leaves behind.
    fn log_out_guest(&self) -> Result<Reply> {
        self.client.recorder.forget();
        self.client.exchanges.forget();
        Ok(Reply::Done)
    }

    fn check_guest_pin(&self, ticket: &Ticket, pin: &[u8], record: &PinRecord) -> Result<Reply> {
        if self.access(ticket) == Access::Public {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        self.check_counted(&*self.opened()?, record, pin).map(|()| Reply::Done)
    }

    fn set_guest_pin(&self, (old, new): (&[u8], &[u8]), record: &PinRecord, cost: PinCost) -> Result<Reply> {
        let opened = self.opened()?;
        self.check_counted(&opened, record, old)?;
        let _place = self.core.pins.place(self.whose());
        let (_, change) = opened.change_pin(&record.role, new, cost, &mut Circumstances::of_system())?;
        Ok(Reply::Changed(change))
    }

    fn check_counted(&self, opened: &Opened, record: &PinRecord, pin: &[u8]) -> Result<()> {
        let user = opened.state().user(&record.role).ok_or(ErrorKind::UserPinNotInitialized)?;
        check_cost(domain::pin_cost(record)?)?;
        let check = || domain::check_pin(opened.public(), record, pin);
        self.core.pins.attempt(self.whose(), (&record.role, user.generation), check)
    }

    fn whose(&self) -> Option<[u8; 16]> {
        self.client.guest.map(|guest| guest.host)
    }

    /// What names this HSM in the commands "admit HSM" and "recover domain".
    fn claim(&self, own: &OwnKeys) -> Result<Reply> {
        let public = self.public()?;
        let claim = own.claim(&self.core.name, &public.state().domain)?;
        Ok(Reply::Recovering { claim: claim.message().to_vec(), sealed: Vec::new() })
    }

    /// Opens the domain with the operators' shares: this HSM is then its only member.
    fn recover_fleet(&self, own: &Arc<OwnKeys>, command: &[u8], contributions: &[&[u8]]) -> Result<Reply> {
        let public = self.public()?;
        let change = Opened::recover_fleet(&public, Arc::clone(own), command, contributions)?;
        Ok(Reply::Changed(change))
    }
}

/// What the hash of a new PIN is to cost.
fn hash_cost(command: &Command<'_>) -> Option<PinCost> {
    match command {
        Command::InitPin { cost, .. }
        | Command::CreateUser { cost, .. }
        | Command::SetPin { cost, .. }
        | Command::SetEnrolledPin { cost, .. } => Some(*cost),
        _ => None,
    }
}

/// What operators do by their own signatures, or anybody may read.
fn is_for_operators(command: &Command<'_>) -> bool {
    matches!(
        command,
        Command::DescribeDomain
            | Command::Propose { key: None, .. }
            | Command::DescribeCommand { .. }
            | Command::AddSignature { .. }
            | Command::Execute { keys: [], .. }
            | Command::SetEnrolledPin { code: Some(_), .. }
            | Command::Housekeeping
    )
}

fn governed() -> Error {
    ErrorKind::TokenWriteProtected.with("a fleet's domain is governed by its operators, from its founding on")
}
