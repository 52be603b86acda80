//! Named users (C_LoginUser) of a token that its SO governs: he makes and removes them. Where
//! operators govern, they do it by command.

use std::sync::Arc;

use super::command::{DomainChange, PinCost, Reply, Role, Ticket};
use super::domain::{Circumstances, Opened, State};
use super::permit::Recorded;
use super::{Access, Hsm, audit};
use crate::error::{ErrorKind, Result};

/// The longest name in bytes.
const LONGEST_NAME: usize = 64;

/// Names that would be taken for somebody else where people read who may do what.
const TAKEN: &[&str] = &["so", "user"];
const TAKEN_PREFIX: &str = "user:";

impl Hsm {
    /// KMS_R_ALREADY_EXISTS; CKR_ARGUMENTS_BAD for a name that no user can have.
    pub(super) fn create_user(&self, ticket: &Ticket, name: &str, pin: &[u8], cost: PinCost) -> Result<Reply> {
        let outcome = self.as_governing_so(ticket, "create user", "create-user").and_then(|opened| {
            check_name(name)?;
            opened.create_user(&Role::Named(name.to_owned()), pin, cost, &mut Circumstances::of_system())
        });
        self.user_changed(audit::Action::CreateUser, name, outcome)
    }

    /// Ends the user's login everywhere. KMS_R_NOT_FOUND.
    pub(super) fn remove_user(&self, ticket: &Ticket, name: &str) -> Result<Reply> {
        let outcome = self
            .as_governing_so(ticket, "remove user", "remove-user")
            .and_then(|opened| opened.remove_user(&Role::Named(name.to_owned()), &mut Circumstances::of_system()));
        self.user_changed(audit::Action::RemoveUser, name, outcome)
    }

    fn as_governing_so(&self, ticket: &Ticket, command: &str, proposal: &str) -> Result<Arc<Opened>> {
        if self.access(ticket) != Access::So {
            return Err(ErrorKind::UserNotLoggedIn.with("users are made and removed by the SO"));
        }
        if self.is_founded() {
            return Err(ErrorKind::TokenWriteProtected.with(format!(
                "operators govern the domain: {command:?} is their command, `conclave proposal new {proposal}`"
            )));
        }
        self.opened()
    }

    fn user_changed(&self, action: audit::Action, name: &str, outcome: Result<DomainChange>) -> Result<Reply> {
        let recorded = self.record(&Recorded { action, key: None, target: Some(name), context: None }, &outcome);
        let change = outcome?;
        recorded.map(|()| Reply::Changed(change))
    }
}

/// The principals who could change a policy: users who have a PIN or may set one. The SO sees no
/// managed keys.
pub(super) fn who_changes_policies(state: &State) -> Vec<String> {
    let alive = state.users.iter().filter(|user| user.agreement.is_some() || user.enrolment.is_some());
    alive.filter(|user| user.role != Role::So).map(|user| user.role.principal().to_string()).collect()
}

fn check_name(name: &str) -> Result<()> {
    let lower = name.to_lowercase();
    let why = if name.is_empty() || name.len() > LONGEST_NAME {
        "has 1 to 64 bytes"
    } else if name.chars().any(char::is_control) {
        "has no control characters"
    } else if name.trim() != name {
        "has no spaces at its ends"
    } else if TAKEN.contains(&lower.as_str()) || lower.starts_with(TAKEN_PREFIX) || name == "*" {
        "is none that stands for others in a policy"
    } else {
        return Ok(());
    };
    Err(ErrorKind::ArgumentsBad.with(format!("the name of a user {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["alice", "Ålice Ω", "soso", "users", "a:b", &"x".repeat(64)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "so", "SO", "User", "user:alice", "USER:x", "*", " a", "a\n", "a\u{7f}", &"é".repeat(33)] {
            assert_eq!(check_name(name).unwrap_err().kind(), ErrorKind::ArgumentsBad, "{name:?}");
        }
    }
}
