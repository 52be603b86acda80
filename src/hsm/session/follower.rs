//! The domain's state as somebody outside it holds it: verified, and only ever newer.

use std::sync::Arc;

use super::super::command::{DomainView, Role};
use super::super::domain::keys::PublicKey;
use super::super::domain::{Circumstances, PublicState, State, ends_pin};
use super::super::login::is_same_user;
use super::HsmId;
use crate::error::{ErrorKind, Result};

/// A host's, or a new HSM's, verified copy of the state.
#[derive(Clone)]
pub struct Follower(Arc<PublicState>);

/// A first copy, against the fingerprint that an operator gave: the SHA-384 hash of any state on the
/// way from the origin's to the newest. `log` has all entries between the two. Trusts nothing else.
pub fn replay(origin: &[u8], newest: &[u8], log: &[Vec<u8>], fingerprint: &[u8; 48]) -> Result<Follower> {
    Follower::replay_at(origin, newest, log, fingerprint, Circumstances::of_system().now)
}

impl Follower {
    /// A copy of what was verified otherwise.
    pub(in crate::hsm) fn of(public: Arc<PublicState>) -> Self {
        Self(public)
    }

    /// [`replay`] at this time.
    pub(in crate::hsm) fn replay_at(
        origin: &[u8],
        newest: &[u8],
        log: &[Vec<u8>],
        fingerprint: &[u8; 48],
        now: u64,
    ) -> Result<Self> {
        PublicState::of_history(origin, newest, log, fingerprint, now).map(Self)
    }

    /// Goes on to a newer state: `log` has all entries from this copy's state to the token's. The same
    /// state gives the same copy; an older one, another of the same version (an alarm) or one that the
    /// log does not lead to is refused.
    pub fn advance(&self, token: &[u8], log: &[Vec<u8>]) -> Result<Self> {
        self.advance_at(token, log, Circumstances::of_system().now)
    }

    /// [`Self::advance`] at this time.
    pub(in crate::hsm) fn advance_at(&self, token: &[u8], log: &[Vec<u8>], now: u64) -> Result<Self> {
        self.0.adopt_bytes(token, log, now).map(Self)
    }

    pub fn version(&self) -> u64 {
        self.state().version
    }

    /// SHA-384 of the state.
    pub fn hash(&self) -> &[u8; 48] {
        self.0.hash()
    }

    pub fn domain(&self) -> &[u8; 16] {
        &self.state().domain
    }

    pub fn region(&self) -> &str {
        &self.state().region
    }

    pub fn members(&self) -> Vec<HsmId> {
        self.state().members.iter().map(|member| member.id).collect()
    }

    /// The id of the domain key that seals: when it changes, sessions and links from before are over.
    pub fn active_key(&self) -> [u8; 16] {
        self.state().active_key()
    }

    /// The host that has this key. CKR_DEVICE_ERROR if the domain has none.
    pub fn host(&self, kid: &[u8; 32]) -> Result<[u8; 16]> {
        let host = self.state().hosts.iter().find(|host| host.signing.kid() == *kid);
        host.map(|host| host.id).ok_or_else(|| {
            ErrorKind::DeviceError.with("this host is not in the domain; its operators admit it with `admit host`")
        })
    }

    /// What a host needs to know of the state. A login is not known here.
    pub fn view(&self) -> DomainView {
        DomainView::of(&self.0, false)
    }

    /// Whether who logged in as a role in this state is still logged in in a newer one, to which these
    /// entries of the log lead: not if the PIN was ended meanwhile.
    pub fn keeps_login(&self, newer: &Self, log: &[Vec<u8>], role: &Role) -> bool {
        !ends_pin(log, role) && is_same_user(role, self.state(), newer.state())
    }

    pub(in crate::hsm) fn public(&self) -> &Arc<PublicState> {
        &self.0
    }

    pub(super) fn state(&self) -> &State {
        self.0.state()
    }

    /// QHSK of a member.
    pub(super) fn member(&self, hsm: &HsmId) -> Result<PublicKey> {
        let member = self.state().members.iter().find(|member| member.id == *hsm);
        member
            .map(|member| member.signing)
            .ok_or_else(|| ErrorKind::DeviceError.with("the HSM is not a member of the domain"))
    }
}
