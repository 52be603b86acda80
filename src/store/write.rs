//! The writes, as data: what one transaction can do to a token.

use std::sync::Mutex;

use super::ProposalId;
use crate::error::{Error, ErrorKind};
use crate::hsm::{
    AuditBatch, AuditOpening, DomainChange, DomainToken, ObjectChange, ObjectId, PinRecord, Record, Role,
};

/// One write. Owned, since it may be carried out by the thread that commits for others.
pub(super) enum Write {
    Reset {
        label: String,
        serial: String,
        domain: DomainToken,
        so_pin: Option<PinRecord>,
    },
    /// Deletes everything; the token is gone.
    Erase,
    CommitDomain(DomainChange),
    PutProposal {
        id: ProposalId,
        bytes: Vec<u8>,
    },
    DeleteProposal(ProposalId),
    PutRecovery(Vec<u8>),
    BeginAttempt {
        role: Role,
        limit: u32,
    },
    /// `right`: no failures are left. Else nobody looked at the PIN: there is one less.
    EndAttempt {
        role: Role,
        right: bool,
    },
    Insert(Vec<Record>),
    Replace(Record),
    ReplaceAll(Vec<Record>),
    Change(ObjectChange),
    Delete(ObjectId),
    /// Taken by whoever commits it.
    OpenAudit(Mutex<Option<AuditOpening>>),
    AppendAudit(AuditBatch<'static>),
}

/// What a write tells whoever asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    /// The failures of a PIN, with this attempt.
    Failures(u32),
    /// Whether there was something to delete.
    Deleted(bool),
    /// For each record whether it was replaced.
    Replaced(Vec<bool>),
}

/// What a commit changes of what others may remember.
pub(super) enum Changed {
    Anything,
    Objects(Vec<ObjectId>),
}

/// What these writes change of what others may remember; None if nobody remembers anything of it, as
/// of audit rows.
pub(super) fn changed_by(writes: &[Write]) -> Option<Changed> {
    if writes.iter().all(|write| matches!(write, Write::OpenAudit(_) | Write::AppendAudit(_))) {
        return None;
    }
    let mut objects = Vec::new();
    for write in writes {
        match write {
            Write::Replace(record) => objects.push(record.object),
            Write::ReplaceAll(records) => objects.extend(records.iter().map(|record| record.object)),
            Write::Change(change) => {
                // An id that is computed, as an alias's, may be remembered as free.
                objects.extend(change.insert.iter().chain(&change.replace).map(|record| record.object));
                objects.extend(change.delete.iter().map(|(object, _)| *object));
                objects.extend(&change.purge);
            }
            Write::Delete(object) => objects.push(*object),
            // The domain's state decides what an object is seen as; keys may be changed with it.
            Write::Reset { .. } | Write::Erase | Write::CommitDomain(_) => return Some(Changed::Anything),
            // Nobody knows a new object.
            Write::Insert(_)
            | Write::PutProposal { .. }
            | Write::DeleteProposal(_)
            | Write::PutRecovery(_)
            | Write::BeginAttempt { .. }
            | Write::EndAttempt { .. }
            | Write::OpenAudit(_)
            | Write::AppendAudit(_) => {}
        }
    }
    Some(Changed::Objects(objects))
}

impl Write {
    /// The first content of a token.
    pub(super) fn first(label: &str, serial: &str, domain: &DomainToken, so_pin: Option<&PinRecord>) -> Self {
        Self::Reset {
            label: label.to_owned(),
            serial: serial.to_owned(),
            domain: domain.clone(),
            so_pin: so_pin.cloned(),
        }
    }
}

/// The two columns that name a role.
pub(super) fn role_columns(role: &Role) -> (i64, &str) {
    match role {
        Role::So => (0, ""),
        Role::User => (1, ""),
        Role::Named(name) => (2, name),
    }
}

/// No `meta` row: the token was destroyed while this process had it open.
pub(super) fn removed() -> Error {
    ErrorKind::DeviceRemoved.with("the token was destroyed")
}

pub(super) fn gone() -> Error {
    ErrorKind::ObjectHandleInvalid.with("the object was deleted")
}

pub(super) fn changed(what: &str) -> Error {
    ErrorKind::FunctionFailed.with(format!("{what} was changed by another in between"))
}

pub(super) fn other_answer() -> Error {
    ErrorKind::GeneralError.with("the store answered another write")
}
