//! What is promised of a key in several Regions, told without the rules.

use std::collections::BTreeSet;

use super::regions::Regions;
use super::state::{Action, Body, Entry, Message, REGIONS, Record, Role, State};

/// A broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Broken {
    /// A Region in use lacks a version that another one encrypts under, or did.
    Undecryptable,
    /// A primary does not know a replica that is in use.
    Unlisted,
    /// A primary waits for a replica that is gone.
    Ghost,
    /// A primary has a replica that nobody authorised.
    NotAuthorised,
    /// Of one term; or at once, and none is about to follow nor made by a quorum.
    TwoPrimaries,
    /// A Region's record went back in term or version.
    WentBack,
    /// Material that was in use is no more.
    Lost,
    /// A Region follows another in a term that it has not reached as a primary.
    NeverPrimary,
    /// A primary makes versions after it was told of a newer one.
    Knowingly,
}

impl Regions {
    /// Adds what a step has broken.
    pub(super) fn judge(&self, last: &State, action: &Action, state: &mut State) {
        let mut broken = BTreeSet::new();
        let promoted = state.left.promotions < self.left.promotions;
        for region in REGIONS {
            let (Some(before), Some(record)) = (&last.records[region], &state.records[region]) else { continue };
            let back = record.version < before.version
                || (record.term, record.newest()) < (before.term, before.newest())
                || record.version > record.newest();
            if back {
                broken.insert(Broken::WentBack);
            }
            let used = before.version as usize;
            if record.materials.get(..used) != before.materials.get(..used) {
                broken.insert(Broken::Lost);
            }
            let told = |message: &Message| {
                message.from == region && matches!(message.body, Body::Taken { new } if new > record.term)
            };
            if record.newest() > before.newest() && state.entries(region).is_some() && last.said.iter().any(told) {
                broken.insert(Broken::Knowingly);
            }
            if let Role::Replica { primary, .. } = record.role
                && record.term != before.term
                && !promoted
                && !state.crowned.iter().any(|(term, leader)| *leader == primary && *term >= record.term)
            {
                broken.insert(Broken::NeverPrimary);
            }
        }
        for primary in REGIONS {
            let (Some(before), Some(entries)) = (last.entries(primary), state.entries(primary)) else { continue };
            for region in REGIONS {
                let made = before[region].is_none() && entries[region].is_some();
                if made && *action != Action::Authorise(primary, region) {
                    broken.insert(Broken::NotAuthorised);
                }
            }
        }
        for one in REGIONS {
            for other in REGIONS.into_iter().filter(|other| *other != one && !promoted) {
                let (Some(old), Some(new)) = (&state.records[one], &state.records[other]) else { continue };
                if let (Role::Primary { handover, .. }, Role::Primary { .. }) = (old.role, new.role)
                    && old.term < new.term
                    && handover.is_none_or(|(target, _)| !state.crowned.contains(&(old.term + 1, target)))
                {
                    broken.insert(Broken::TwoPrimaries);
                }
            }
            let Some(record) = state.in_use(one) else { continue };
            let version = record.version as usize;
            for other in REGIONS {
                let Some(held) = state.in_use(other) else { continue };
                if held.materials.get(..version) != record.materials.get(..version) {
                    broken.insert(Broken::Undecryptable);
                }
            }
            let Role::Replica { primary, incarnation } = record.role else { continue };
            let Some(leader) = &state.records[primary] else { continue };
            if let Role::Primary { replicas, .. } = leader.role
                && leader.term == record.term
                && replicas[one].is_none_or(|entry| entry.incarnation != Some(incarnation))
            {
                broken.insert(Broken::Unlisted);
            }
        }
        for primary in REGIONS {
            if let Some(Record { role: Role::Primary { outdated: true, .. }, term, .. }) = state.records[primary]
                && state.crowned.iter().all(|(other, _)| *other <= term)
            {
                broken.insert(Broken::NeverPrimary);
            }
            let Some(Record { role: Role::Primary { replicas: entries, handover: None, .. }, .. }) =
                &state.records[primary]
            else {
                continue;
            };
            for region in REGIONS {
                let Some(Entry { incarnation: Some(incarnation), .. }) = entries[region] else { continue };
                // A tombstone goes when its primary says so, or to who is primary next.
                let coming = state.tombstones[region].is_some_and(|it| {
                    let told = state.records[it.primary].as_ref().is_some_and(|record| {
                        matches!(record.role, Role::Primary { .. })
                            || record.notices.iter().any(|(to, ..)| *to == region)
                    });
                    it.incarnation == incarnation && (it.primary == primary || told)
                });
                if state.records[region].is_none() && !coming {
                    broken.insert(Broken::Ghost);
                }
            }
        }
        state.broken.extend(broken);
    }
}
