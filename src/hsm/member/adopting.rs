//! How an HSM of a fleet comes to its domain, and follows it.

use std::sync::Arc;

use super::super::command::{DomainKeyId, DomainToken, DomainView, Log};
use super::super::domain::{Circumstances, Opened, PublicState, ends_pin};
use super::super::login::is_same_user;
use super::super::session;
use super::Member;
use crate::error::{ErrorKind, Result};
use crate::text::hex;

/// What became of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub version: u64,
    /// Whether this HSM is a member.
    pub member: bool,
    /// Hosts that were in the state before.
    pub gone_hosts: Vec<[u8; 16]>,
    /// Another domain key seals: connections of sessions under the one before are over.
    pub rotated: bool,
}

impl Member {
    /// Takes the domain's history: `log` has the entries of the versions after `log.after`, up to that of
    /// `newest`. Without a domain, the HSM takes it if the fingerprint that its operator typed in is on the
    /// way from `origin`. It takes nothing that the log does not lead to.
    pub(super) fn bring(&self, origin: &[u8], newest: &[u8], log: Log<'_>) -> Result<DomainView> {
        let held = self.core.held().public.clone();
        match held {
            Some(held) => {
                let token = DomainToken { version: PublicState::version_of(newest)?, bytes: newest.to_vec() };
                let since = log.since(held.state().version);
                let public = held.adopt_logged(&token, since, Circumstances::of_system().now)?;
                self.install(public, since);
            }
            None => {
                let fingerprint = self.fingerprint.ok_or_else(|| {
                    ErrorKind::FunctionRejected
                        .with("this HSM was given no domain fingerprint to recognise its domain by")
                })?;
                let follower = session::replay(origin, newest, log.entries, &fingerprint)?;
                self.install(Arc::clone(follower.public()), &[]);
            }
        }
        let public = self.core.public()?;
        Ok(DomainView::of(&public, false))
    }

    /// Goes on in a state that was verified against the one held.
    pub(super) fn install(&self, public: Arc<PublicState>, since: &[Vec<u8>]) {
        let Some(own) = &self.core.own else { return };
        let mut held = self.core.held_mut();
        let before = held.public.clone();
        if before.as_ref().is_some_and(|before| before.state().version >= public.state().version) {
            return;
        }
        let state = public.state();
        let is_member = state.members.iter().any(|member| member.id == *own.id());
        let opened = match &held.opened {
            _ if !is_member => None,
            Some(opened) => Some(opened.advance(Arc::clone(&public))),
            None => Some(Opened::as_member(Arc::clone(&public), Arc::clone(own))),
        };
        let opened = opened.and_then(|opened| {
            opened.map(Arc::new).inspect_err(|error| tracing::error!(%error, "this HSM cannot open the domain")).ok()
        });
        let (was_member, rotated) =
            (held.opened.is_some(), before.as_ref().is_some_and(|b| b.state().active_key() != state.active_key()));
        self.core.expose(exposed(before.as_deref(), &public, since.len()));
        let change = Change {
            version: state.version,
            member: opened.is_some(),
            gone_hosts: gone_hosts(before.as_deref(), &public),
            rotated,
        };
        let gone = std::mem::replace(&mut held.opened, opened.clone());
        held.public = Some(Arc::clone(&public));
        // What was opened may be trusted no longer, or revoked.
        self.core.cache.clear();
        match &opened {
            Some(opened) => {
                let stays = |role: &_| {
                    before.as_ref().is_some_and(|before| {
                        is_same_user(role, before.state(), opened.state()) && !ends_pin(since, role)
                    })
                };
                self.guests.adopted(opened, stays);
            }
            None => self.guests.clear(),
        }
        drop(held);
        drop(gone);
        tracing::info!(
            version = change.version,
            hash = hex(&public.hash()[..8]),
            member = change.member,
            "domain adopted"
        );
        if was_member && !change.member {
            tracing::error!("this HSM is no longer a member of the domain: it serves nobody");
        }
        if let Some(watcher) = self.watcher.get() {
            watcher(&change);
        }
    }
}

/// Domain keys that an HSM which is no longer a member knew. What was before the first state held, and what
/// was between the two where several steps are taken at once, is not known: their keys may be such.
fn exposed(before: Option<&PublicState>, now: &PublicState, steps: usize) -> impl Iterator<Item = DomainKeyId> {
    let mut keys: Vec<DomainKeyId> = Vec::new();
    match before {
        None => keys.extend(now.state().old_keys().map(|key| key.id)),
        Some(before) => {
            let stays = |id| now.state().members.iter().any(|member| member.id == id);
            let rotated = before.state().active_key() != now.state().active_key();
            if (steps > 1 && rotated) || !before.state().members.iter().all(|member| stays(member.id)) {
                keys.extend(before.state().domain_keys.iter().map(|key| key.id));
            }
        }
    }
    keys.into_iter()
}

fn gone_hosts(before: Option<&PublicState>, now: &PublicState) -> Vec<[u8; 16]> {
    let hosts = before.map(|before| before.state().hosts.as_slice()).unwrap_or_default();
    let stays = |id| now.state().hosts.iter().any(|host| host.id == id);
    hosts.iter().map(|host| host.id).filter(|id| !stays(*id)).collect()
}
