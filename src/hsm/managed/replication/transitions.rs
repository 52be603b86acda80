//! What happens to a multi-Region key by requests of its users and by messages of other Regions. A
//! message was verified before: `from` is who signed it. Each function gives the key as it will be,
//! or says why not. KMS_R_REPLICATION_REFUSED answers a message; a message that was followed already
//! changes nothing.

use sha2::{Digest, Sha256};

use super::super::attributes::KeyState;
use super::super::lifecycle::ROTATION_DAYS;
use super::super::metadata::{KeyId, Managed, Rotation};
use super::super::states::Action;
use super::super::{Answer, Reason, Refused};
use super::{Details, Heard, Incarnation, MAX_REPLICAS, NO_INCARNATION, Notice, Replica, Replication, Role};
use crate::hsm::replication::Party;

pub(super) fn refuse(why: impl Into<std::borrow::Cow<'static, str>>) -> Refused {
    Reason::Replication.with(why)
}

/// Whether one term may come after another: some emergencies later, but not so many that none could
/// follow.
pub(in crate::hsm) fn within_reach(term: u64, next: u64) -> bool {
    next >> 32 <= (term >> 32) + 1024
}

/// The incarnation that a primary has as a replica once a handover gave it this term.
fn former_primary(id: &KeyId, region: &str, term: u64) -> Incarnation {
    let digest = Sha256::new()
        .chain_update(b"former primary")
        .chain_update(id.as_str())
        .chain_update(term.to_be_bytes())
        .chain_update(region)
        .finalize();
    let mut incarnation = Incarnation::default();
    incarnation.copy_from_slice(&digest[..16]);
    incarnation
}

impl Replication {
    /// What is told those who are to know the primary, as a notice says it.
    pub(in crate::hsm) fn heard_by(&self, notice: &Notice, own: &Party) -> Heard {
        let primary = match &self.role {
            Role::Primary { .. } => own,
            Role::Replica { primary, .. } => primary,
        };
        Heard { incarnation: notice.incarnation, term: notice.old_term, new_term: self.term, primary: primary.clone() }
    }

    /// A replica, also one that is deleted, hears of a new primary. True: it follows; false: it did
    /// before.
    pub(in crate::hsm) fn follow(&mut self, from: &Party, heard: &Heard) -> Answer<bool> {
        let Role::Replica { primary, incarnation, .. } = &mut self.role else {
            return Err(refuse("the key is the primary here"));
        };
        if *incarnation != heard.incarnation {
            return Err(refuse("the message is for another replica, which was here before"));
        }
        if self.term >= heard.new_term && (self.term > heard.new_term || *primary == heard.primary) {
            return Ok(false);
        }
        if primary != from {
            return Err(refuse(format!("the primary of the key is in the Region {}", primary.region)));
        }
        if !within_reach(self.term, heard.new_term) {
            return Err(refuse("no key has had so many primaries"));
        }
        if heard.term != self.term || heard.new_term <= heard.term {
            return Err(refuse(format!("the term of the key is {}, not {}", self.term, heard.term)));
        }
        *primary = heard.primary.clone();
        self.term = heard.new_term;
        Ok(true)
    }

    /// One that was told of the primary of this term took it. False if that was known, or it speaks of an
    /// earlier one.
    pub(in crate::hsm) fn notice_taken(&mut self, from: &Party, incarnation: &Incarnation, new_term: u64) -> bool {
        if new_term != self.term {
            return false;
        }
        let before = self.notices.len();
        self.notices.retain(|notice| notice.party != *from || notice.incarnation != *incarnation);
        self.notices.len() < before
    }

    /// Whether a primary may let the record of a deleted replica go.
    pub(in crate::hsm) fn check_forgotten(&self, from: &Party, incarnation: &Incarnation) -> Answer<()> {
        match &self.role {
            Role::Replica { primary, incarnation: own, .. } if primary == from && own == incarnation => Ok(()),
            _ => Err(refuse("it is not this replica that its primary has forgotten")),
        }
    }
}

impl Managed {
    pub(super) fn with_replication(&self, replication: Replication) -> Self {
        Self { replication: Some(replication), ..self.clone() }
    }

    /// The key's Regions, where it is the primary. KMS_R_UNSUPPORTED elsewhere, naming the primary's.
    fn as_primary(&self) -> Answer<&Replication> {
        let replication = self.replication()?;
        match &replication.role {
            Role::Primary { .. } => Ok(replication),
            Role::Replica { primary, .. } => Err(Reason::Unsupported
                .with(format!("the key is a replica here: its primary is in the Region {}", primary.region))),
        }
    }

    /// The same where the primary may change what all Regions share. KMS_R_INVALID_STATE while
    /// another Region is, or comes to be, the primary.
    pub(in crate::hsm) fn as_settled_primary(&self) -> Answer<&Replication> {
        let replication = self.as_primary()?;
        if let Some((party, term)) = replication.outdated() {
            return Err(Reason::InvalidState.with(format!(
                "the Region {} says that it is the primary of the key, of term {term}: a quorum decides which is",
                party.region
            )));
        }
        match replication.handover() {
            None => Ok(replication),
            Some(to) => {
                Err(Reason::InvalidState.with(format!("the key is being handed over to the Region {}", to.region)))
            }
        }
    }

    /// [`Self::as_settled_primary`] for a message.
    fn as_asked_primary(&self) -> Answer<&Replication> {
        self.as_settled_primary().map_err(|refused| refuse(refused.detail().to_owned()))
    }

    /// The replica that sent a message, and the Regions with it.
    fn registered(&self, from: &Party, incarnation: &Incarnation) -> Answer<(Replication, usize)> {
        let replication = self.as_asked_primary()?.clone();
        let is = |replica: &Replica| replica.party == *from && replica.incarnation.as_ref() == Some(incarnation);
        let at = replication.replicas().iter().position(is);
        at.map(|at| (replication, at)).ok_or_else(|| refuse("no such replica of the key is registered"))
    }

    /// Lets a Region have a replica. One that may already may.
    pub(in crate::hsm) fn authorise(&self, party: &Party, now: u64) -> Answer<Self> {
        self.check(Action::Replicate, now)?;
        let mut replication = self.as_settled_primary()?.clone();
        let Role::Primary { replicas, .. } = &mut replication.role else { return Err(refuse("a replica")) };
        let fresh = Replica { party: party.clone(), incarnation: None, held: 0, active: 0 };
        match replicas.binary_search_by(|replica| replica.party.region.cmp(&party.region)) {
            Ok(at) if replicas[at].party == *party => {}
            Ok(at) if replicas[at].incarnation.is_none() => replicas[at] = fresh,
            Ok(_) => {
                return Err(Reason::InvalidState.with(format!(
                    "a replica is registered in another domain of the name {}: a quorum gives it up",
                    party.region
                )));
            }
            Err(_) if replicas.len() >= MAX_REPLICAS => {
                return Err(Reason::LimitExceeded.with(format!("a key has at most {MAX_REPLICAS} replicas")));
            }
            Err(at) => replicas.insert(at, fresh),
        }
        Ok(self.with_replication(replication))
    }

    /// The Region may no longer have a replica that it has not registered yet.
    pub(in crate::hsm) fn withdraw(&self, region: &str, now: u64) -> Answer<Self> {
        self.check(Action::Replicate, now)?;
        let mut replication = self.as_settled_primary()?.clone();
        let Role::Primary { replicas, .. } = &mut replication.role else { return Err(refuse("a replica")) };
        let at = replicas.iter().position(|replica| replica.party.region == region);
        let at =
            at.ok_or_else(|| Reason::NotFound.with(format!("the Region {region} may have no replica of the key")))?;
        if replicas[at].incarnation.is_some() {
            return Err(Reason::InvalidState
                .with(format!("the Region {region} has a replica: it is deleted there, or a quorum gives it up")));
        }
        replicas.remove(at);
        Ok(self.with_replication(replication))
    }

    /// That the key may be shipped to a Region which holds its versions up to `held`, 0 for none.
    pub(in crate::hsm) fn check_ship(&self, to: &Party, held: u64, now: u64) -> Answer<()> {
        let replication = self.as_asked_primary()?;
        let replica = replication
            .replicas()
            .iter()
            .find(|replica| replica.party == *to)
            .ok_or_else(|| refuse(format!("nobody has allowed the key to the Region {}", to.region)))?;
        if held > replication.newest {
            return Err(refuse(format!("the Region {} holds versions that are not known here", to.region)));
        }
        let allowed = match (replica.incarnation, self.state_at(now)) {
            (Some(_), KeyState::Enabled | KeyState::Disabled | KeyState::PendingImport) => Ok(()),
            _ => self.check(Action::Replicate, now),
        };
        allowed.map_err(|refused| refuse(refused.detail().to_owned()))
    }

    /// The version above which all are shipped to a Region that says it holds those up to `held`. One
    /// that is not registered may hold others of the same numbers, of a primary that was given up.
    pub(in crate::hsm) fn ships_above(&self, to: &Party, held: u64) -> u64 {
        let replica = self.replication.as_ref().and_then(|replication| replication.replica(&to.region));
        replica.filter(|replica| replica.incarnation.is_some()).map_or(0, |replica| replica.held.min(held))
    }

    /// A replica holds all versions up to `newest`; its commitment to them was found right.
    pub(in crate::hsm) fn register(
        &self,
        from: &Party,
        incarnation: &Incarnation,
        term: u64,
        newest: u64,
    ) -> Answer<Self> {
        let mut replication = self.as_asked_primary()?.clone();
        if term != replication.term || newest == 0 || newest > replication.newest {
            return Err(refuse("the receipt is of another term, or of versions that are not here"));
        }
        if self.state == KeyState::PendingDeletion {
            return Err(refuse("the key waits for its deletion"));
        }
        let Role::Primary { replicas, .. } = &mut replication.role else { return Err(refuse("a replica")) };
        let replica = replicas.iter_mut().find(|replica| replica.party == *from);
        let replica =
            replica.ok_or_else(|| refuse(format!("nobody has allowed the key to the Region {}", from.region)))?;
        match &replica.incarnation {
            Some(known) if known == incarnation => replica.held = replica.held.max(newest),
            Some(_) => {
                return Err(refuse(
                    "another replica of the Region is registered: it is deleted there, or given up, first",
                ));
            }
            None if newest < self.version => {
                return Err(refuse("the receipt is of a time before the active version: another exchange is needed"));
            }
            None => (replica.incarnation, replica.held) = (Some(*incarnation), newest),
        }
        Ok(self.with_replication(replication))
    }

    /// Whether the pending version may become the active one: every registered replica holds it.
    pub(in crate::hsm) fn may_activate(&self) -> bool {
        self.is_pending() && self.as_settled_primary().is_ok_and(|replication| replication.missing().is_empty())
    }

    /// The pending version, made at that time, becomes the active one at the primary.
    pub(in crate::hsm) fn activate(&self, made: u64) -> Answer<Self> {
        let replication = self.as_settled_primary()?;
        if !self.is_pending() {
            return Err(Reason::InvalidState.with("no version of the key is pending"));
        }
        let missing = replication.missing();
        if !missing.is_empty() {
            return Err(self.waits_for(&missing));
        }
        Ok(Self { version: replication.newest, rotated: Some(made), ..self.clone() })
    }

    pub(in crate::hsm) fn waits_for(&self, missing: &[&Party]) -> Refused {
        let regions: Vec<_> = missing.iter().map(|party| party.region.as_str()).collect();
        let regions = if regions.is_empty() { "no Region".to_owned() } else { regions.join(", ") };
        Reason::InvalidState.with(format!("version {} of the key is pending: it waits for {regions}", self.newest()))
    }

    /// The primary says that a version is active: the replica may be used, and encrypts with no older
    /// version. If [`Self::version`] goes up the caller brings that version's material into place,
    /// and [`Self::made`] its date.
    pub(in crate::hsm) fn activated_by(
        &self,
        from: &Party,
        incarnation: &Incarnation,
        (term, version): (u64, u64),
    ) -> Answer<Self> {
        let mut replication = self.replication()?.clone();
        match &mut replication.role {
            Role::Replica { primary, incarnation: own, activated } if primary == from => {
                if own != incarnation || term != replication.term {
                    return Err(refuse("the message is for another replica or of another term"));
                }
                *activated = true;
            }
            Role::Replica { primary, .. } => {
                return Err(refuse(format!("the primary of the key is in the Region {}", primary.region)));
            }
            Role::Primary { .. } => return Err(refuse("the key is the primary here")),
        }
        if version == 0 || version > replication.newest {
            return Err(refuse(format!("version {version} of the key is not here")));
        }
        let state = if self.state == KeyState::Creating { KeyState::Enabled } else { self.state };
        let version = self.version.max(version);
        Ok(Self { state, version, replication: Some(replication), ..self.clone() })
    }

    /// With the date of the active version.
    pub(in crate::hsm) fn made(&self, rotated: Option<u64>) -> Self {
        Self { rotated, ..self.clone() }
    }

    /// A replica says that a version is active there.
    pub(in crate::hsm) fn acknowledged(
        &self,
        from: &Party,
        incarnation: &Incarnation,
        (term, version): (u64, u64),
    ) -> Answer<Self> {
        let (mut replication, at) = self.registered(from, incarnation)?;
        if term != replication.term || version > self.version {
            return Err(refuse("the message is of another term, or of a version that is not active"));
        }
        if let Role::Primary { replicas, .. } = &mut replication.role
            && let Some(replica) = replicas.get_mut(at)
            && version <= replica.held
        {
            replica.active = replica.active.max(version);
        }
        Ok(self.with_replication(replication))
    }

    /// A replica is gone. The last begins the waiting period of a primary that waits for its replicas.
    pub(in crate::hsm) fn replica_deleted(
        &self,
        from: &Party,
        incarnation: &Incarnation,
        term: u64,
        now: u64,
    ) -> Answer<Self> {
        let mut replication = self.as_asked_primary()?.clone();
        if term > replication.term {
            return Err(refuse(format!("the term of the key is {}, not {term}", replication.term)));
        }
        let Role::Primary { replicas, .. } = &mut replication.role else { return Err(refuse("a replica")) };
        replicas.retain(|replica| replica.party != *from || replica.incarnation.as_ref() != Some(incarnation));
        self.with_replication(replication).without_replicas(now)
    }

    /// The waiting period of a primary begins if it waits for replicas that are no more.
    pub(super) fn without_replicas(self, now: u64) -> Answer<Self> {
        let waits = self.replication()?.registered().next().is_some();
        if self.state == KeyState::PendingReplicaDeletion && !waits { self.replicas_deleted(now) } else { Ok(self) }
    }

    /// The key is to have its primary in the Region of a replica, which is up to date.
    pub(in crate::hsm) fn begin_handover(&self, region: &str, now: u64) -> Answer<Self> {
        self.check(Action::MakePrimary, now)?;
        if self.as_primary()?.handover().is_some_and(|to| to.region == region) {
            return Ok(self.clone());
        }
        let mut replication = self.as_settled_primary()?.clone();
        if self.is_pending() {
            return Err(self.waits_for(&replication.missing()));
        }
        let to = replication.replica(region).filter(|replica| replica.incarnation.is_some());
        let to = to.ok_or_else(|| Reason::NotFound.with(format!("the Region {region} has no replica of the key")))?;
        if to.active != self.version || to.held != self.version {
            return Err(Reason::InvalidState.with(format!("the replica in the Region {region} is not up to date yet")));
        }
        if let Some(waiting) = replication.replicas().iter().find(|replica| replica.incarnation.is_none()) {
            return Err(Reason::InvalidState.with(format!(
                "the Region {} is allowed the key and has no replica yet: complete or withdraw that first",
                waiting.party.region
            )));
        }
        let to = to.party.clone();
        if let Role::Primary { handover, .. } = &mut replication.role {
            *handover = Some(to);
        }
        Ok(Self { state: KeyState::Updating, replication: Some(replication), ..self.clone() })
    }

    /// What the Region hears that a handover is under way to.
    pub(in crate::hsm) fn handover_details(&self, own: &Party) -> Option<(Heard, Details)> {
        let replication = self.replication.as_ref()?;
        let primary = replication.handover()?.clone();
        let incarnation = replication.replica(&primary.region)?.incarnation?;
        let new_term = replication.term.checked_add(1)?;
        let details = Details {
            incarnation: former_primary(&self.id, &own.region, new_term),
            version: self.version,
            newest: replication.newest,
            rotation: self.rotation.map(|rotation| (rotation.days, rotation.next)),
            replicas: replication.registered().map(|(replica, _)| replica.clone()).collect(),
        };
        Some((Heard { incarnation, term: replication.term, new_term, primary }, details))
    }

    /// The replica becomes the primary.
    pub(in crate::hsm) fn take_handover(
        &self,
        own: &Party,
        from: &Party,
        (heard, details): (&Heard, &Details),
    ) -> Answer<Self> {
        let replication = self.replication()?;
        let (primary, incarnation, activated) = match &replication.role {
            // It was taken before, whatever came after that.
            _ if replication.term >= heard.new_term => return Ok(self.clone()),
            Role::Replica { primary, incarnation, activated } => (primary, incarnation, activated),
            Role::Primary { .. } => return Err(refuse("the key is the primary here")),
        };
        if primary != from || *incarnation != heard.incarnation || heard.primary != *own {
            return Err(refuse("the handover is not one of this replica by its primary"));
        }
        if heard.term != replication.term || replication.term.checked_add(1) != Some(heard.new_term) {
            return Err(refuse(format!("the term of the key is {}, not {}", replication.term, heard.term)));
        }
        if !activated || (details.version, details.newest) != (self.version, replication.newest) || self.is_pending() {
            return Err(refuse("the replica is not up to date"));
        }
        if self.state == KeyState::PendingDeletion {
            return Err(refuse("the replica waits for its deletion"));
        }
        let old = Replica {
            party: from.clone(),
            incarnation: Some(details.incarnation),
            held: details.newest,
            active: details.version,
        };
        let mut replicas: Vec<_> = details.replicas.iter().filter(|replica| replica.party != *own).cloned().collect();
        replicas.push(old);
        replicas.sort_by(|a, b| a.party.region.cmp(&b.party.region));
        let role = Role::Primary { replicas, handover: None, outdated: None };
        let taken = Replication { term: heard.new_term, role, ..replication.clone() };
        if !taken.is_consistent() {
            return Err(refuse("what the handover says of the replicas contradicts itself"));
        }
        let namesake = |replica: &Replica| replica.party.region == own.region && replica.party != *own;
        if details.replicas.iter().any(namesake) {
            return Err(refuse("the handover lists a replica in another domain of this Region's name"));
        }
        if details.rotation.is_some_and(|(days, _)| !ROTATION_DAYS.contains(&days) || self.check_rotates().is_err()) {
            return Err(refuse("the handover has a period of rotation that the key cannot have"));
        }
        let rotation = details.rotation.map(|(days, next)| Rotation { days, next });
        Ok(Self { rotation, replication: Some(taken), ..self.clone() })
    }

    /// The new primary has taken the key, or one that was to be told of it has.
    pub(in crate::hsm) fn handover_taken(
        &self,
        own: &Party,
        from: &Party,
        incarnation: &Incarnation,
        new_term: u64,
    ) -> Answer<Self> {
        let mut replication = self.replication()?.clone();
        if replication.notice_taken(from, incarnation, new_term) {
            return Ok(self.with_replication(replication));
        }
        if replication.handover() == Some(from) {
            let held = replication.replica(&from.region).and_then(|replica| replica.incarnation);
            if held.as_ref() != Some(incarnation) || replication.term.checked_add(1) != Some(new_term) {
                return Err(refuse("the message is of another handover"));
            }
            return Ok(self.handed_over(own, from, new_term));
        }
        if new_term <= replication.term {
            Ok(self.clone())
        } else {
            Err(refuse("no handover to the Region is under way"))
        }
    }

    fn handed_over(&self, own: &Party, to: &Party, new_term: u64) -> Self {
        let Some(replication) = &self.replication else { return self.clone() };
        let others = replication.registered().filter(|(replica, _)| replica.party != *to);
        let told = others.map(|(replica, incarnation)| Notice {
            party: replica.party.clone(),
            incarnation,
            old_term: replication.term,
        });
        let notices = replication.notices.iter().cloned().chain(told).collect();
        let incarnation = former_primary(&self.id, &own.region, new_term);
        let role = Role::Replica { primary: to.clone(), incarnation, activated: true };
        let replication = Replication { term: new_term, newest: replication.newest, role, notices };
        Self { state: self.settled_state(), replication: Some(replication), ..self.clone() }
    }

    pub(super) fn settled_state(&self) -> KeyState {
        if self.state == KeyState::Updating { KeyState::Enabled } else { self.state }
    }

    /// Another Region says who is the primary now: a replica follows its old primary, and a primary
    /// that was replaced finds itself outdated.
    pub(in crate::hsm) fn told(&self, own: &Party, from: &Party, heard: &Heard) -> Answer<Self> {
        let mut replication = self.replication()?.clone();
        if heard.primary == *own && heard.new_term != replication.term {
            return Err(refuse("the handover to this Region lacks its details"));
        }
        if !replication.is_primary() {
            let replaced = heard.incarnation == NO_INCARNATION && heard.primary == *from;
            let follows = matches!(&replication.role, Role::Replica { primary, .. } if primary == from);
            if replaced && follows {
                // The quorum here came before the message. Whatever the primary said before its emergency, such
                // as a handover, is for another replica.
                if let Role::Replica { incarnation, .. } = &mut replication.role
                    && heard.new_term > replication.term
                {
                    *incarnation = former_primary(&self.id, &own.region, heard.new_term);
                }
                return Ok(self.with_replication(replication));
            }
            replication.follow(from, heard)?;
            return Ok(self.with_replication(replication));
        }
        if heard.new_term <= replication.term {
            // Others know by now, or will be told, who is the primary of the higher term.
            return Ok(self.clone());
        }
        if !within_reach(replication.term, heard.new_term) {
            return Err(refuse("no key has had so many primaries"));
        }
        let next = replication.term.checked_add(1);
        if replication.handover() == Some(from)
            && next == Some(heard.term)
            && heard.incarnation == former_primary(&self.id, &own.region, heard.term)
        {
            // The Region took the handover, and has handed over the key in turn.
            return self.handed_over(own, from, heard.term).told(own, from, heard);
        }
        if heard.primary != *from || heard.incarnation != NO_INCARNATION {
            return Err(refuse("the key is the primary here"));
        }
        let listed = replication.replicas().iter().any(|replica| replica.party == *from)
            || replication.notices.iter().any(|notice| notice.party == *from);
        if !listed {
            return Err(refuse(format!("nobody has allowed the key to the Region {}", from.region)));
        }
        if let Role::Primary { outdated, .. } = &mut replication.role
            && outdated.as_ref().is_none_or(|(_, term)| *term < heard.new_term)
        {
            *outdated = Some((from.clone(), heard.new_term));
        }
        Ok(self.with_replication(replication))
    }
}
