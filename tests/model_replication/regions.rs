//! A multi-Region key's life: who is primary, who holds which version.
//!
//! The network keeps every message for ever and gives it to its receiver whenever the attacker likes, or
//! never: that is dropping, delay, repetition, reordering and replay at once. Cryptography is that of
//! `exchange`: here a message is from whom it says, and a shipment opens for an open offer.
//!
//! A Region that stops and comes back is one that gets no message for a while, and that has
//! forgotten its offers and shipments: that is an action of its own.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use super::state::{
    A, Action, B, Body, C, Details, Entry, Left, MOST_INCARNATIONS, Message, PROMOTED, REGIONS, Record, Region, Role,
    Rule, Shipment, State, Tombstone,
};

pub(super) struct Regions {
    pub(super) off: Option<Rule>,
    pub(super) left: Left,
    /// Replicas in use at the beginning.
    pub(super) replicas: &'static [Region],
    /// The attacker has C, a Region that is trusted for other keys.
    pub(super) hostile: bool,
    pub(super) goals: &'static [Goal],
}

/// What must be possible.
pub(super) type Goal = (&'static str, fn(&Regions, &State) -> bool);

impl Regions {
    fn on(&self, rule: Rule) -> bool {
        self.off != Some(rule)
    }
}

impl Regions {
    /// Every message that a Region would send now is said now; nobody need hear it.
    fn speak(&self, state: &mut State) {
        for from in REGIONS {
            if let Some(tombstone) = state.tombstones[from] {
                state.say(from, tombstone.primary, Body::Deleted { incarnation: tombstone.incarnation });
            }
            let Some(record) = state.records[from].clone() else { continue };
            for (to, incarnation, old) in record.notices.iter().copied() {
                let primary = match record.role {
                    Role::Primary { .. } => from,
                    Role::Replica { primary, .. } => primary,
                };
                if to != primary {
                    let body = Body::Handover { incarnation, old, new: record.term, primary, details: None };
                    state.say(from, to, body);
                }
            }
            let Role::Primary { replicas, handover, outdated } = record.role else { continue };
            if outdated {
                continue;
            }
            for to in REGIONS {
                let Some(Entry { incarnation: Some(incarnation), held, active }) = replicas[to] else { continue };
                if active < record.version && (held >= record.version || !self.on(Rule::NotOvertaken)) {
                    let version = record.version.min(held);
                    state.say(from, to, Body::Activate { incarnation, term: record.term, version });
                }
                if let Some((target, own)) = handover.filter(|(target, _)| *target == to) {
                    let mut others = replicas;
                    others[target] = None;
                    let details = Details { incarnation: own, version: record.version, replicas: others };
                    let (old, new) = (record.term, record.term + 1);
                    let body = Body::Handover { incarnation, old, new, primary: to, details: Some(details) };
                    state.say(from, to, body);
                }
            }
        }
    }

    /// A primary's pending version becomes active as soon as it may.
    fn complete(&self, state: &mut State, region: Region) {
        let Some(record) = &mut state.records[region] else { return };
        let Role::Primary { replicas, handover: None, outdated: false } = record.role else { return };
        let newest = record.newest();
        let held = (replicas.iter().flatten())
            .all(|entry| entry.incarnation.is_none() || entry.held >= newest || !self.on(Rule::Barrier));
        if held {
            record.version = newest;
        }
    }

    fn exchange(&self, state: &mut State, from: Region, to: Region) -> Option<()> {
        let record = state.records[from].as_ref()?;
        let Role::Primary { replicas, handover: None, outdated: false } = record.role else { return None };
        let entry = replicas[to]?;
        let says = match &state.records[to] {
            Some(Record { role: Role::Primary { .. }, .. }) => return None,
            Some(replica) => replica.newest(),
            None => 0,
        };
        let base = if self.on(Rule::ShipAll) { says.min(entry.held) } else { says };
        // The newest is shipped whether or not it is held.
        let base = base.min(record.newest() - 1);
        let shipment = Shipment {
            from,
            to,
            term: record.term,
            version: record.version,
            base,
            materials: record.materials.clone(),
            registered: entry.incarnation,
        };
        let number = state.shipments.len();
        state.shipments.push(shipment);
        state.open.insert(number);
        state.remembered.insert(number);
        Some(())
    }

    /// A receiver takes a shipment, commits it and says so.
    fn accept(&self, state: &mut State, number: usize) -> Option<()> {
        if !state.open.remove(&number) {
            return None;
        }
        let Shipment { from, to, term, version, base, materials, .. } = state.shipments[number].clone();
        let newest = materials.len() as u8;
        let incarnation = match state.records[to].clone() {
            None => {
                if base > 0 || (self.on(Rule::Tombstone) && state.tombstones[to].is_some()) {
                    return None;
                }
                let incarnation = state.fresh_incarnation(to);
                let role = Role::Replica { primary: from, incarnation };
                let creating = self.on(Rule::Creating);
                state.records[to] = Some(Record { term, version, materials, creating, role, notices: BTreeSet::new() });
                incarnation
            }
            Some(mut record) => {
                let Role::Replica { primary, incarnation } = record.role else { return None };
                let refused = (self.on(Rule::RecordedPrimary) && primary != from)
                    || (self.on(Rule::ShipmentTerm) && term < record.term)
                    || (self.on(Rule::ShipmentVersion) && term == record.term && newest < record.newest())
                    || base > record.newest();
                if refused {
                    return None;
                }
                let used = record.version as usize;
                let shipped = base as usize..materials.len();
                let replaced = |n: usize| shipped.contains(&n) && record.materials[n] != materials[n];
                let conflict = (0..used.min(materials.len())).any(replaced) || materials.len() < used;
                if conflict && self.on(Rule::SameVersion) && self.on(Rule::ShipmentVersion) {
                    return None;
                }
                record.materials.truncate(materials.len());
                for n in shipped {
                    match record.materials.get_mut(n) {
                        Some(held) => *held = materials[n],
                        None => record.materials.push(materials[n]),
                    }
                }
                record.term = term;
                record.version = if self.on(Rule::ActivateUp) { version.max(record.version) } else { version };
                record.version = record.version.min(newest);
                state.records[to] = Some(record);
                incarnation
            }
        };
        state.say(to, from, Body::Receipt { shipment: number, incarnation });
        Some(())
    }

    fn deliver(&self, state: &mut State, Message { from, to, body }: Message) -> Option<()> {
        match body {
            Body::Receipt { shipment, incarnation } => self.receipt(state, shipment, incarnation),
            Body::Activate { incarnation, term, version } => {
                let record = state.records[to].as_mut()?;
                let refused = (self.on(Rule::RecordedPrimary) && !record.follows(from))
                    || (self.on(Rule::ActivateIncarnation) && record.incarnation() != Some(incarnation))
                    // Second lines: no promise here needs them.
                    || record.term != term
                    || version > record.newest();
                if refused || record.incarnation().is_none() {
                    return None;
                }
                record.creating = false;
                record.version = if self.on(Rule::ActivateUp) { version.max(record.version) } else { version };
                state.say(to, from, Body::Activated { incarnation, version });
                Some(())
            }
            Body::Activated { incarnation, version } => {
                let Role::Primary { replicas, .. } = &mut state.records[to].as_mut()?.role else { return None };
                let entry = replicas[from].as_mut().filter(|entry| entry.incarnation == Some(incarnation))?;
                entry.active = entry.active.max(version);
                Some(())
            }
            Body::Deleted { incarnation } => self.deleted(state, from, to, incarnation),
            Body::Forgotten { incarnation } => {
                state.tombstones[to].filter(|it| it.incarnation == incarnation && it.primary == from)?;
                state.tombstones[to] = None;
                Some(())
            }
            Body::Handover { incarnation, old, new, primary, details } => {
                self.handover(state, from, to, (incarnation, old, new, primary, details))
            }
            Body::Taken { new } => self.taken(state, from, to, new),
        }
    }

    fn receipt(&self, state: &mut State, number: usize, incarnation: u8) -> Option<()> {
        let shipment = state.shipments[number].clone();
        if !state.remembered.contains(&number) {
            return None;
        }
        let (region, newest) = (shipment.from, shipment.materials.len() as u8);
        let record = state.records[region].as_mut()?;
        let version = record.version;
        let Role::Primary { replicas, handover, outdated: false } = &mut record.role else { return None };
        if handover.is_some() && self.on(Rule::Frozen) {
            return None;
        }
        let entry = match replicas[shipment.to] {
            Some(entry) => entry,
            None if self.on(Rule::Authorised) => return None,
            None => Entry::default(),
        };
        let known = entry.incarnation == Some(incarnation);
        let overtaken = newest < version && self.on(Rule::NotOvertaken);
        let other = entry.incarnation != shipment.registered && self.on(Rule::SameEntry);
        if !known && (overtaken || other) {
            return None;
        }
        let entry = if known { entry } else { Entry::default() };
        let held = entry.held.max(newest);
        replicas[shipment.to] = Some(Entry { incarnation: Some(incarnation), held, ..entry });
        if !known && state.crowned.last().is_some_and(|(_, newest)| *newest == region) {
            state.given_up[shipment.to] = false;
        }
        self.complete(state, region);
        Some(())
    }

    fn deleted(&self, state: &mut State, from: Region, to: Region, incarnation: u8) -> Option<()> {
        let Role::Primary { replicas, handover, .. } = &mut state.records[to].as_mut()?.role else {
            if !self.on(Rule::Frozen) {
                state.say(to, from, Body::Forgotten { incarnation });
                return Some(());
            }
            return None;
        };
        let listed = replicas[from].is_some_and(|entry| entry.incarnation == Some(incarnation));
        match *handover {
            // What was never taken is cancelled.
            Some((target, _)) if target == from && listed => *handover = None,
            Some(_) if self.on(Rule::Frozen) => return None,
            _ => {}
        }
        if listed || (!self.on(Rule::DeletedIncarnation) && replicas[from].is_some()) {
            replicas[from] = None;
        }
        state.say(to, from, Body::Forgotten { incarnation });
        self.complete(state, to);
        Some(())
    }

    fn handover(
        &self,
        state: &mut State,
        from: Region,
        to: Region,
        (incarnation, old, new, primary, details): (u8, u8, u8, Region, Option<Details>),
    ) -> Option<()> {
        let Some(record) = state.records[to].as_mut() else {
            if primary == to {
                return None;
            }
            // Who is gone is told where to say so; what is long gone ends the notice.
            let tombstone = state.tombstones[to].as_mut();
            if let Some(tombstone) = tombstone.filter(|it| it.incarnation == incarnation && new > it.term) {
                if tombstone.term != old || tombstone.primary != from {
                    return None;
                }
                if self.on(Rule::TombstoneTold) {
                    (tombstone.primary, tombstone.term) = (primary, new);
                }
            }
            state.say(to, from, Body::Taken { new });
            return Some(());
        };
        if self.on(Rule::HandoverTerm) && new <= record.term {
            state.say(to, from, Body::Taken { new });
            return Some(());
        }
        match &mut record.role {
            Role::Primary { replicas, outdated, handover, .. } => {
                let listed = replicas[from].is_some() || handover.is_some_and(|(target, _)| target == from);
                let listed = listed || !self.on(Rule::OutdatedListed);
                if primary != from || new <= record.term || !listed {
                    return None;
                }
                *outdated = self.on(Rule::Outdated);
            }
            Role::Replica { primary: recorded, incarnation: own } => {
                let refused = (self.on(Rule::HandoverIncarnation) && *own != incarnation)
                    || (self.on(Rule::HandoverTerm) && record.term != old)
                    || (self.on(Rule::HandoverSender) && *recorded != from);
                if refused {
                    return None;
                }
                if primary == to {
                    let details = details?;
                    if record.creating || details.version != record.version || record.newest() != record.version {
                        return None;
                    }
                    let mut replicas = details.replicas;
                    let (held, active) = (details.version, details.version);
                    replicas[from] = Some(Entry { incarnation: Some(details.incarnation), held, active });
                    record.role = Role::Primary { replicas, handover: None, outdated: false };
                    record.term = new;
                    state.crown(to, new);
                } else {
                    *recorded = primary;
                    record.term = new;
                }
            }
        }
        state.say(to, from, Body::Taken { new });
        Some(())
    }

    fn taken(&self, state: &mut State, from: Region, to: Region, new: u8) -> Option<()> {
        let record = state.records[to].as_mut()?;
        if let Role::Primary { replicas, handover: Some((target, incarnation)), outdated: false } = record.role
            && target == from
        {
            if new != record.term + 1 && self.on(Rule::TakenTerm) {
                return None;
            }
            for other in REGIONS {
                if let Some(Entry { incarnation: Some(told), .. }) = replicas[other].filter(|_| other != target) {
                    record.notices.insert((other, told, record.term));
                }
            }
            record.role = Role::Replica { primary: from, incarnation };
            record.term += 1;
            return Some(());
        }
        if new != record.term {
            return None;
        }
        let before = record.notices.len();
        record.notices.retain(|(told, _, _)| *told != from);
        (record.notices.len() < before).then_some(())
    }

    /// What a Region's quorum or its users do.
    fn command(&self, state: &mut State, action: &Action) -> Option<()> {
        match *action {
            Action::Authorise(region, to) => {
                state.left.authorisations = state.left.authorisations.checked_sub(1)?;
                let Role::Primary { replicas, handover: None, outdated: false } =
                    &mut state.records[region].as_mut()?.role
                else {
                    return None;
                };
                if replicas[to].is_some() {
                    return None;
                }
                replicas[to] = Some(Entry::default());
            }
            Action::Rotate(region) => {
                state.left.rotations = state.left.rotations.checked_sub(1)?;
                let record = state.records[region].as_ref()?;
                let Role::Primary { handover: None, outdated: false, .. } = record.role else { return None };
                if record.newest() > record.version {
                    return None;
                }
                let material = state.fresh_material(region);
                state.records[region].as_mut()?.materials.push(material);
                self.complete(state, region);
            }
            Action::GiveUp(region, other) => {
                state.left.give_ups = state.left.give_ups.checked_sub(1)?;
                let Role::Primary { replicas, handover, .. } = &mut state.records[region].as_mut()?.role else {
                    return None;
                };
                replicas[other]?;
                if handover.is_some() && self.on(Rule::KeptWhileMoving) {
                    return None;
                }
                *handover = handover.filter(|(target, _)| *target != other);
                replicas[other] = None;
                state.given_up[other] = true;
                self.complete(state, region);
            }
            Action::Delete(region) => {
                state.left.deletions = state.left.deletions.checked_sub(1)?;
                let record = state.records[region].as_ref()?;
                let term = record.term;
                let Role::Replica { primary, incarnation } = record.role else { return None };
                if !record.notices.is_empty() {
                    return None;
                }
                state.tombstones[region] = Some(Tombstone { incarnation, primary, term });
                state.records[region] = None;
                // That takes longer than offers and shipments are kept.
                state.open.clear();
                if self.on(Rule::Remembered) {
                    state.remembered.clear();
                }
            }
            Action::HandOver(region, to) => {
                state.left.handovers = state.left.handovers.checked_sub(1)?;
                let incarnation = state.fresh_incarnation(region);
                let record = state.records[region].as_mut()?;
                let (version, newest) = (record.version, record.newest());
                let Role::Primary { replicas, handover, outdated: false } = &mut record.role else { return None };
                let entry = replicas[to].filter(|entry| entry.incarnation.is_some())?;
                let unregistered = replicas.iter().flatten().any(|entry| entry.incarnation.is_none());
                let current = newest == version && entry.held == version && entry.active == version;
                let under_way = handover.is_some() && self.on(Rule::HandoverOnce);
                if !current || under_way || (unregistered && self.on(Rule::Frozen)) {
                    return None;
                }
                *handover = Some((to, incarnation));
            }
            Action::Promote(region) => {
                state.left.promotions = state.left.promotions.checked_sub(1)?;
                let record = state.records[region].as_mut()?;
                let old = match record.role {
                    Role::Replica { primary, .. } if !record.creating => Some(primary),
                    Role::Primary { handover: Some((target, _)), .. } => Some(target),
                    Role::Primary { outdated: true, .. } => None,
                    _ => return None,
                };
                record.notices = old.map(|old| (old, 0, record.term)).into_iter().collect();
                // The low bits are random; that is, no other Region's.
                let next = (record.term / PROMOTED + 1) * PROMOTED + region as u8 * 8;
                record.term = if self.on(Rule::OwnTerm) { next } else { record.term + 1 };
                let term = record.term;
                record.role = Role::Primary { replicas: [None; 3], handover: None, outdated: false };
                state.crown(region, term);
                for other in REGIONS {
                    state.given_up[other] = other != region;
                }
                self.complete(state, region);
            }
            Action::Follow(region, primary) => {
                let leads = state.crowned.iter().any(|(term, leader)| *leader == primary && *term >= PROMOTED);
                let record = state.records[region].as_ref()?;
                // A quorum does not change its mind for ever.
                let again = state.incarnations[region] >= MOST_INCARNATIONS;
                if !leads || again || record.creating || record.follows(primary) {
                    return None;
                }
                let incarnation = state.fresh_incarnation(region);
                let record = state.records[region].as_mut()?;
                record.role = Role::Replica { primary, incarnation };
                record.notices.clear();
            }
            Action::Stop(region) => {
                state.left.stops = state.left.stops.checked_sub(1)?;
                let shipments = state.shipments.clone();
                state.open.retain(|number| shipments[*number].to != region);
                state.remembered.retain(|number| shipments[*number].from != region);
            }
            Action::Exchange(from, to) => {
                state.left.exchanges = state.left.exchanges.checked_sub(1)?;
                self.exchange(state, from, to)?;
            }
            Action::Accept(number) => self.accept(state, number)?,
            Action::Deliver(ref message) => self.deliver(state, message.clone())?,
        }
        Some(())
    }
}

/// What C may say of a key that it is no replica of; the network shows it all incarnations and terms.
fn invented(state: &State) -> Vec<Message> {
    let mut bodies = Vec::new();
    for record in state.records.iter().flatten() {
        let (term, version) = (record.term, record.version + 1);
        bodies.push(Body::Taken { new: term + 1 });
        let incarnation = record.incarnation().unwrap_or_default();
        let handover = Body::Handover { incarnation, old: term, new: term + 1, primary: C, details: None };
        let activate = Body::Activate { incarnation, term, version: version.min(record.newest()) };
        bodies.extend([handover, activate, Body::Deleted { incarnation }, Body::Activated { incarnation, version }]);
    }
    let to = [A, B].into_iter().flat_map(|to| bodies.iter().map(move |body| (to, body.clone())));
    to.map(|(to, body)| Message { from: C, to, body }).collect()
}

impl Model for Regions {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            records: [None, None, None],
            tombstones: [None; 3],
            shipments: Vec::new(),
            open: BTreeSet::new(),
            remembered: BTreeSet::new(),
            said: BTreeSet::new(),
            left: self.left,
            incarnations: [0; 3],
            made: [0; 3],
            given_up: [false; 3],
            crowned: BTreeSet::from([(1, A)]),
            broken: BTreeSet::new(),
        };
        let material = state.fresh_material(A);
        let record = |role| Record {
            term: 1,
            version: 1,
            materials: vec![material],
            creating: false,
            role,
            notices: BTreeSet::new(),
        };
        let mut replicas = [None; 3];
        for region in self.replicas {
            let incarnation = state.fresh_incarnation(*region);
            replicas[*region] = Some(Entry { incarnation: Some(incarnation), held: 1, active: 1 });
            state.records[*region] = Some(record(Role::Replica { primary: A, incarnation }));
            // What was said when it was made.
            state.say(A, *region, Body::Activate { incarnation, term: 1, version: 1 });
        }
        state.records[A] = Some(record(Role::Primary { replicas, handover: None, outdated: false }));
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(state.said.iter().cloned().map(Action::Deliver));
        actions.extend(state.open.iter().copied().map(Action::Accept));
        if self.hostile {
            actions.extend(invented(state).into_iter().map(Action::Deliver));
        }
        for one in REGIONS {
            let several = [Action::Rotate(one), Action::Delete(one), Action::Promote(one), Action::Stop(one)];
            actions.extend(several);
            for other in REGIONS.into_iter().filter(|other| *other != one) {
                actions.extend([
                    Action::Authorise(one, other),
                    Action::Exchange(one, other),
                    Action::GiveUp(one, other),
                    Action::HandOver(one, other),
                    Action::Follow(one, other),
                ]);
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.command(&mut state, &action)?;
        self.speak(&mut state);
        self.judge(last, &action, &mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let kept = Property::always("every promise is kept", |_, state: &State| state.broken.is_empty());
        let goals = self.goals.iter().map(|(name, goal)| Property::sometimes(name, *goal));
        [kept].into_iter().chain(goals).collect()
    }
}
