//! What a quorum decides of a key when another Region cannot be reached.

use super::super::attributes::KeyState;
use super::super::lifecycle::later;
use super::super::metadata::{Deletion, Managed};
use super::super::{Answer, Reason};
use super::{Incarnation, NO_INCARNATION, Notice, Replication, Role};
use crate::hsm::replication::Party;

impl Managed {
    /// Forgets the replica of a Region, or that it was to be told something. A pending version and a
    /// deletion that waited for it need not any more.
    pub(in crate::hsm) fn give_up(&self, region: &str, now: u64) -> Answer<Self> {
        let mut replication = self.replication()?.clone();
        if replication.handover().is_some_and(|to| to.region == region) {
            return Err(Reason::InvalidState
                .with(format!("the key is being handed over to the Region {region}: emergency promote ends that")));
        }
        if let (Some(to), Some(_)) = (replication.handover(), replication.replica(region)) {
            // The next primary may count it already, and it must be told whom to follow.
            return Err(Reason::InvalidState.with(format!(
                "the key is being handed over to the Region {}: the replica is given up there, once that has it",
                to.region
            )));
        }
        let told = replication.notices.len();
        replication.notices.retain(|notice| notice.party.region != region);
        let mut found = replication.notices.len() < told;
        if let Role::Primary { replicas, .. } = &mut replication.role {
            let before = replicas.len();
            replicas.retain(|replica| replica.party.region != region);
            found |= replicas.len() < before;
        }
        if !found {
            return Err(Reason::NotFound.with(format!("the key has nothing to do with the Region {region}")));
        }
        self.with_replication(replication).without_replicas(now)
    }

    /// The key is the primary here from now on, whatever its old primary does. Its replicas come back
    /// one by one.
    ///
    /// Its term is one that no other promotion makes: the next multiple of 2^32, and `random`. So it is
    /// above that of any handover there was, and two emergencies are told apart.
    pub(in crate::hsm) fn promote_here(&self, random: u32, now: u64) -> Answer<Self> {
        let replication = self.replication()?;
        let (old, known) = match &replication.role {
            Role::Replica { primary, .. } => (primary, replication.term),
            Role::Primary { outdated: Some((party, term)), .. } => (party, *term),
            Role::Primary { handover: Some(to), outdated: None, .. } => (to, replication.term),
            Role::Primary { .. } => return Err(Reason::InvalidState.with("the key is the primary here")),
        };
        if self.state == KeyState::PendingDeletion {
            return Err(Reason::InvalidState.with("the key waits for its deletion, which can be cancelled"));
        }
        let era = (known >> 32) + 1;
        let term = (era < 1 << 31).then_some(era << 32 | u64::from(random));
        let term = term.ok_or_else(|| Reason::LimitExceeded.with("the key has had too many primaries"))?;
        let mut notices = replication.notices.clone();
        notices.retain(|notice| notice.party != *old);
        notices.push(Notice { party: old.clone(), incarnation: NO_INCARNATION, old_term: replication.term });
        let role = Role::Primary { replicas: Vec::new(), handover: None, outdated: None };
        let state = if self.state == KeyState::Creating { KeyState::Enabled } else { self.settled_state() };
        let promoted = Replication { term, newest: replication.newest, role, notices };
        Self { state, replication: Some(promoted), ..self.clone() }.without_replicas(now)
    }

    /// Another Region is the primary from now on, of which the key becomes a new replica by the next
    /// exchange. It stays in use as it is.
    pub(in crate::hsm) fn promote_elsewhere(
        &self,
        primary: &Party,
        incarnation: &Incarnation,
        now: u64,
    ) -> Answer<Self> {
        let replication = self.replication()?;
        let activated = match &replication.role {
            Role::Replica { primary: known, .. } if known == primary => return Ok(self.clone()),
            Role::Replica { activated, .. } => *activated,
            Role::Primary { .. } => true,
        };
        let role = Role::Replica { primary: primary.clone(), incarnation: *incarnation, activated };
        let replication = Replication { role, ..replication.clone() };
        let deletion = match (self.state, self.deletion) {
            (KeyState::PendingReplicaDeletion, Some(Deletion { days, .. })) => {
                Some(Deletion { days, date: Some(later(now, days)) })
            }
            (_, deletion) => deletion,
        };
        let state = match self.state {
            KeyState::PendingReplicaDeletion => KeyState::PendingDeletion,
            _ => self.settled_state(),
        };
        Ok(Self { state, deletion, replication: Some(replication), ..self.clone() })
    }
}
