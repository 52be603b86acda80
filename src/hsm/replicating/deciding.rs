//! What a quorum decides of keys whose other Regions cannot be reached: "give up replica" and "emergency
//! promote". Their changes are committed with the command, or neither is.

use std::sync::Arc;

use super::super::audit::Action as Audited;
use super::super::command::{Held, ObjectChange};
use super::super::crypto::Entropy;
use super::super::domain::{Change, Opened, RegionKeys};
use super::super::managed::replication::{Replication, Role};
use super::super::replication::Party;
use super::super::{Access, Hsm};
use super::{Exchanging, Found, add};
use crate::error::{Error, ErrorKind, Result};

impl Hsm {
    /// What a command, which was verified, makes of the keys that it names; `keys` are those, in its order.
    pub(in crate::hsm) fn decided(
        &self,
        access: Access,
        opened: &Arc<Opened>,
        change: &Change,
        keys: &[Held<'_>],
    ) -> Result<ObjectChange> {
        let named = change.region_keys();
        if named.map_or(0, |named| named.key_ids.len()) != keys.len() {
            return Err(ErrorKind::ArgumentsBad.with("there must be one place for each key of the command"));
        }
        let Some(named) = named else { return Ok(ObjectChange::default()) };
        if access != Access::User {
            return Err(ErrorKind::UserNotLoggedIn.with("a user's login opens the keys that the command is about"));
        }
        let state = opened.state();
        let own = Party { region: state.region.clone(), domain: state.domain };
        Exchanging { hsm: self, access, own, now: self.now(), opened }.decide(change, named, keys)
    }
}

impl Exchanging<'_> {
    fn decide(&self, change: &Change, named: &RegionKeys, keys: &[Held<'_>]) -> Result<ObjectChange> {
        let region = &named.region;
        let elsewhere = match change {
            Change::EmergencyPromote { .. } if *region != self.own.region => Some(self.party(region)?),
            _ => None,
        };
        let mut all = ObjectChange::default();
        for (id, held) in named.key_ids.iter().zip(keys) {
            let about = |error: Error| error.kind().with(format!("{id}: {}", error.detail().unwrap_or_default()));
            let gone = || ErrorKind::KmsNotFound.with(format!("there is no managed key {id:?} in this token"));
            let key = match self.find(Some(held), id)?.ok_or_else(gone)? {
                Found::Key(key) => key,
                Found::Deleted(_, left) => {
                    if !matches!(change, Change::GiveUpReplica { .. }) || !is_told(&left, region) {
                        return Err(gone());
                    }
                    all.delete.push((held.keys.key.object, held.keys.key.generation));
                    continue;
                }
            };
            let (action, after) = match (change, &elsewhere) {
                (Change::GiveUpReplica { .. }, _) => (Audited::GiveUpReplica, key.managed.give_up(region, self.now)),
                (_, None) => (
                    Audited::EmergencyPromote,
                    key.managed.promote_here(u32::from_be_bytes(Entropy::System.array()?), self.now),
                ),
                (_, Some(primary)) => {
                    let incarnation = Entropy::System.array()?;
                    let after = key.managed.promote_elsewhere(primary, &incarnation, self.now);
                    (Audited::EmergencyPromote, after)
                }
            };
            let after = after.map_err(|refused| about(refused.into()))?;
            let after = self.activated_here(&key, after)?;
            self.record(action, key.keys.attributes(), region)?;
            if after.version() != key.managed.version() {
                self.record(Audited::RotateKey, key.keys.attributes(), &self.own.region)?;
            }
            add(&mut all, self.change(&key, &after)?);
        }
        Ok(all)
    }
}

/// Whether the Region is the one that is still to be told that the replica is gone.
fn is_told(left: &Replication, region: &str) -> bool {
    matches!(&left.role, Role::Replica { primary, .. } if primary.region == region)
}
