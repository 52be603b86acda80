//! Whether what a request shows, and the HSM that gets it, are new enough.
//!
//! H asks two HSMs and shows them what it has read in the store. Another host commits and announces; one
//! that is captured announces what it likes. The domain changes, and the first HSM may have adopted
//! another state of the same version, which a captured member made; the second is never behind.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use super::{Judged, KEPT, bound, holds, needed};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// An HSM that is behind its host does nothing,
    Behind,
    /// nor one with another state of the version.
    SameState,
    /// Nor does one that was told of a newer stamp than the request has,
    Stale,
    /// unless the host says that it read the store since the last announcement that the HSM heard,
    Heard,
    /// that this HSM heard,
    HeardHere,
    /// whatever stamp it had.
    HeardAnything,
    /// Told that, the host reads,
    ReadsAnew,
    /// and the stamp no later than what it stands for.
    StampFirst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Broken {
    /// An HSM works with what a commit that it was told of has replaced.
    Outdated,
    /// It acts on an older state than the host that asks knows, or on another.
    OldState,
}

/// What a liar announces.
const LIE: u8 = 99;

/// A request under way: to whom, stamp, of which time its records are, what was heard, version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Request {
    to: usize,
    stamp: u8,
    read: u8,
    says: Option<(usize, u8)>,
    version: u8,
}

/// What an HSM remembers of announcements, and the highest that it was told of truly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Memory {
    told: u8,
    max: u8,
    heard: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// The stamp of the store.
    store: u8,
    lies: usize,
    hsms: [Memory; 2],
    /// The stamp that H has, of which time its records really are, and what it says which HSM heard.
    stamp: u8,
    read: u8,
    says: Option<(usize, u8)>,
    /// H is in the middle of reading.
    reading: bool,
    /// H was told what an HSM remembers, and has not read since: highest stamp, and what was heard.
    shown: Option<(usize, u8, u8)>,
    domain: u8,
    host: u8,
    hsm: u8,
    /// The HSM has another state of its version.
    forked: bool,
    request: Option<Request>,
    executed: usize,
    broken: BTreeSet<Broken>,
}

impl Judged for State {
    type Broken = Broken;
    fn broken(&self) -> &BTreeSet<Broken> {
        &self.broken
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Commit,
    Announce(usize, u8),
    /// The first and the second half of reading the store.
    Read,
    ReadOn,
    Send(usize),
    Arrive,
    Change,
    Learn,
    Adopt,
}

struct Freshness {
    forked: bool,
    off: Vec<Check>,
}

impl Freshness {
    fn on(&self, check: Check) -> bool {
        !self.off.contains(&check)
    }

    fn arrive(&self, state: &mut State) -> Option<()> {
        let Request { to, stamp, read, says, version } = state.request.take()?;
        let first = to == 0;
        let other = first && state.forked && version == state.hsm;
        let behind = first && state.hsm < version;
        if (behind && self.on(Check::Behind)) || (other && self.on(Check::SameState)) {
            // The host brings the HSM forward; one with another state is left alone.
            state.hsm = state.hsm.max(if state.forked { 0 } else { version });
            return Some(());
        }
        let Memory { told, max, heard } = state.hsms[to];
        let here = says.is_some_and(|(hsm, says)| says == heard && (hsm == to || !self.on(Check::HeardHere)));
        if stamp < max && !here && self.on(Check::Stale) {
            state.shown = Some((to, max, heard));
            return Some(());
        }
        if read < told {
            state.broken.insert(Broken::Outdated);
        }
        if behind || other {
            state.broken.insert(Broken::OldState);
        }
        state.executed += 1;
        Some(())
    }
}

impl Model for Freshness {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            store: 1,
            lies: 0,
            hsms: [Memory::default(); 2],
            stamp: 1,
            read: 1,
            says: None,
            reading: false,
            shown: None,
            domain: 2,
            host: 1,
            hsm: if self.forked { 2 } else { 1 },
            forked: self.forked,
            request: None,
            executed: 0,
            broken: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend([Action::Commit, Action::Read, Action::ReadOn, Action::Arrive]);
        for hsm in [0, 1] {
            actions.extend([Action::Announce(hsm, state.store), Action::Announce(hsm, LIE), Action::Send(hsm)]);
        }
        actions.extend([Action::Change, Action::Learn, Action::Adopt]);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Commit if usize::from(state.store) < bound(3, 4) => state.store += 1,
            Action::Announce(hsm, stamp) => {
                let memory = &mut state.hsms[hsm];
                // Announcing again what was announced says nothing new.
                if stamp == LIE {
                    state.lies += 1;
                } else if stamp <= memory.told {
                    return None;
                } else {
                    memory.told = stamp;
                }
                if state.lies > bound(1, 2) {
                    return None;
                }
                memory.heard += u8::from(stamp > memory.max || self.on(Check::HeardAnything));
                memory.max = memory.max.max(stamp);
            }
            Action::Read if !state.reading => {
                state.reading = true;
                if self.on(Check::StampFirst) {
                    state.stamp = state.store;
                } else {
                    state.read = state.store;
                }
                if let Some((hsm, max, heard)) = state.shown.take() {
                    if self.on(Check::Heard) {
                        state.says = Some((hsm, heard));
                    } else {
                        state.stamp = max;
                    }
                }
            }
            Action::ReadOn if state.reading => {
                state.reading = false;
                if self.on(Check::StampFirst) {
                    state.read = state.store;
                } else {
                    state.stamp = state.store;
                }
            }
            Action::Send(to) if state.request.is_none() && !state.reading && state.executed < bound(1, 2) => {
                if let Some((hsm, _, heard)) = state.shown.take() {
                    if self.on(Check::ReadsAnew) {
                        return None;
                    }
                    state.says = Some((hsm, heard));
                }
                let State { stamp, read, says, host: version, .. } = state;
                state.request = Some(Request { to, stamp, read, says, version });
            }
            Action::Arrive => self.arrive(&mut state)?,
            Action::Change if state.domain < 3 && !state.forked => state.domain += 1,
            Action::Learn if state.host < state.domain => state.host += 1,
            Action::Adopt if state.hsm < state.domain && !state.forked => state.hsm += 1,
            Action::Commit
            | Action::Read
            | Action::ReadOn
            | Action::Send(_)
            | Action::Change
            | Action::Learn
            | Action::Adopt => return None,
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let kept = Property::always(KEPT, |_, state: &State| state.broken.is_empty());
        if !self.off.is_empty() || self.forked {
            return vec![kept];
        }
        let served = |_: &Self, state: &State| state.executed > 0 && state.lies > 0 && state.hsms[0].told > 1;
        vec![kept, Property::sometimes("H is served in spite of a liar", served)]
    }
}

#[test]
fn nothing_is_done_with_what_is_outdated() {
    for forked in [false, true] {
        holds(Freshness { forked, off: Vec::new() });
    }
}

#[test]
fn each_check_of_freshness_is_needed() {
    let lists: [(&[Check], bool); 8] = [
        (&[Check::Behind], false),
        (&[Check::SameState], true),
        (&[Check::Stale], false),
        (&[Check::Heard], false),
        (&[Check::HeardHere], false),
        (&[Check::HeardAnything], false),
        (&[Check::ReadsAnew], false),
        (&[Check::StampFirst], false),
    ];
    needed(&lists, |forked, off| Freshness { forked: *forked, off });
}
