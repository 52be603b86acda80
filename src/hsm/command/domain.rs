//! The domain as a host holds it: tokens, PIN records, logins.

use std::sync::Arc;

use super::{DomainKeyId, ObjectChange};

/// Proof of a login, as the HSM gave it. Opaque to the host.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket(pub(in crate::hsm) Arc<[u8]>);

impl Ticket {
    /// The ticket of nobody: public objects only.
    pub fn public() -> Self {
        Self(Arc::from([]))
    }

    pub fn is_public(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_public() { "Ticket(public)" } else { "Ticket(..)" })
    }
}

/// Whose PIN it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Role {
    So,
    User,
    /// A named user of C_LoginUser.
    Named(String),
}

impl Role {
    /// The name in policies, grants and the audit log.
    pub(crate) fn principal(&self) -> Arc<str> {
        match self {
            Self::So => Arc::from("so"),
            Self::User => Arc::from("user"),
            Self::Named(name) => Arc::from(format!("user:{name}")),
        }
    }
}

/// A PIN record as stored: opaque to the host but for its owner and generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinRecord {
    pub role: Role,
    /// +1 with each change of the PIN.
    pub generation: u64,
    pub sealed: Vec<u8>,
}

/// A domain token as stored: the state, public part in clear, secrets sealed to its recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainToken {
    pub version: u64,
    pub bytes: Vec<u8>,
}

/// What a change of the domain leaves to commit, all at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainChange {
    pub domain: DomainToken,
    /// Of the log, in order: one for each version up to that of `domain`. Empty while the SO
    /// governs the domain, for the one next version.
    pub entries: Vec<Vec<u8>>,
    /// PINs that were set.
    pub pins: Vec<PinRecord>,
    /// Whose PIN is no longer one.
    pub removed: Vec<Role>,
    /// Keys that the command is about.
    pub objects: ObjectChange,
}

impl DomainChange {
    /// The version that the change was made from; None for what cannot be a change.
    pub fn base(&self) -> Option<u64> {
        let steps = u64::try_from(self.entries.len().max(1)).ok()?;
        self.domain.version.checked_sub(steps)
    }
}

/// Entries of the log: one for each version after `after`, as far as they go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log<'a> {
    pub after: u64,
    pub entries: &'a [Vec<u8>],
}

/// What a host needs to know of the domain state that its HSM holds.
#[derive(Debug, Clone, Default)]
pub struct DomainView {
    pub domain: [u8; 16],
    pub version: u64,
    /// The token's, as the state has them.
    pub label: String,
    pub serial: String,
    /// Operators govern it, no longer the SO.
    pub founded: bool,
    /// The domain key that seals.
    pub active_key: DomainKeyId,
    /// Those that only decrypt.
    pub old_keys: Vec<OldKey>,
    /// The state took the PIN from whoever was logged in.
    pub login_ended: bool,
}

/// A domain key that only decrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldKey {
    pub id: DomainKeyId,
    /// When it goes, seconds since 1970.
    pub retires: Option<u64>,
}

/// Cost of the PIN hash (Argon2id).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinCost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Default for PinCost {
    fn default() -> Self {
        Self { memory_kib: 19 * 1024, passes: 2, lanes: 1 }
    }
}
