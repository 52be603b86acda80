//! Logins: PINs, tickets and their renewal; session objects.
//!
//! P1 is an honest process of host H. The attacker has stolen H's key but not what is in P1's memory,
//! save all tickets and session objects; it has a host M, and X, which the change of version may expel.
//! A host that X vouched for while it was a member counts as logged in at who believed that: after
//! the expulsion of a captured HSM, new PINs end all logins.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use super::{Judged, KEPT, bound, holds, needed};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// A connection is of the process that its session key names.
    ProcessSecret,
    /// A ticket is for its process, and so for its host;
    TicketProcess,
    /// it is of the generation of the PIN,
    TicketGeneration,
    /// under the active key,
    TicketActive,
    /// and for a time.
    TicketTime,
    /// It is renewed under the active key, or by who has seen it when that was active,
    RenewSeen,
    /// while the PIN is the same.
    RenewGeneration,
    /// A PIN is compared with the record that the state names;
    PinRecord,
    /// it is counted how often,
    PinCount,
    /// before it is.
    CountFirst,
    /// A session object is for its process,
    ObjectProcess,
    /// and what an expelled HSM could have made wraps nothing and is trusted with nothing.
    ObjectTrust,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    ExpelX,
    Rotate,
    NewPin,
}

/// Who speaks: host and process.
type Party = (u8, u8);
const P1: Party = (0, 1);
/// Another process with the key of P1's host, and the host M.
const THIEVES: [Party; 2] = [(0, 2), (1, 3)];
const M: Party = THIEVES[1];

const HSMS: [usize; 2] = [0, 1];
/// Wrong PINs before the HSM takes none.
const TRIES: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Ticket {
    party: Party,
    generation: u8,
    key: u8,
    made: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Object {
    party: Party,
    key: u8,
    forged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Broken {
    /// Served without a PIN, or with one that is no more.
    NotLoggedIn,
    OldKey,
    OutsideItsTime,
    /// More PINs were tried than may be.
    Guessed,
    /// A session object opens for another process.
    OtherProcess,
    /// An expelled HSM's object is trusted.
    Trusted,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    clock: u8,
    domain: u8,
    versions: [u8; 2],
    tickets: BTreeSet<Ticket>,
    /// Tickets that an HSM has seen when their key was active.
    seen: [BTreeSet<Ticket>; 2],
    objects: BTreeSet<Object>,
    /// Who gave a PIN, and its generation.
    proved: BTreeSet<(Party, u8)>,
    /// PINs being compared, those counted and those compared, by HSM.
    trying: [u8; 2],
    counted: [u8; 2],
    tried: [u8; 2],
    renewed: bool,
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
    Tick,
    Change,
    Adopt(usize),
    /// With the PIN of a generation, and its record.
    Login(usize, Party, u8),
    Forge,
    /// By who, said to be who.
    Use(usize, Party, Party, Ticket),
    Renew(usize, Party, Party, Ticket),
    MakeObject(usize),
    Open(usize, Party, Party, Object),
    Try(usize),
    Tried(usize),
}

#[derive(Clone, Copy)]
struct Case {
    change: Change,
    ticks: u8,
    guesses: bool,
}

const EXPELLED: Case = Case { change: Change::ExpelX, ticks: 0, guesses: false };
const ROTATED: Case = Case { change: Change::Rotate, ..EXPELLED };
const NEW_PIN: Case = Case { change: Change::NewPin, ..EXPELLED };
const AGEING: Case = Case { ticks: 2, ..ROTATED };
const GUESSING: Case = Case { guesses: true, ..NEW_PIN };

struct Logins {
    case: Case,
    off: Vec<Check>,
}

impl Logins {
    fn on(&self, check: Check) -> bool {
        !self.off.contains(&check)
    }

    fn refused(&self, checks: &[(Check, bool)]) -> bool {
        checks.iter().any(|(check, refused)| *refused && self.on(*check))
    }

    /// The active domain key, and the generation of the PIN, at a version.
    fn key(&self, version: u8) -> u8 {
        if self.case.change == Change::NewPin { 1 } else { version }
    }

    fn generation(&self, version: u8) -> u8 {
        if self.case.change == Change::NewPin { version } else { 1 }
    }

    /// What an HSM learns of a ticket that it takes; what X vouched for in its time is believed.
    fn believe(&self, state: &mut State, hsm: usize, ticket: Ticket) {
        state.seen[hsm].insert(ticket);
        if state.versions[hsm] == 1 && self.case.change == Change::ExpelX && ticket.party == M {
            state.proved.insert((M, 1));
        }
    }

    fn present(&self, state: &mut State, action: &Action) -> Option<()> {
        let (Action::Use(hsm, by, said, ticket) | Action::Renew(hsm, by, said, ticket)) = *action else { return None };
        let renewal = matches!(action, Action::Renew(..));
        let version = state.versions[hsm];
        let (key, generation) = (self.key(version), self.generation(version));
        let late = state.clock > ticket.made + 1;
        let known = ticket.key == key || state.seen[hsm].contains(&ticket);
        let refused = self.refused(&[
            (Check::ProcessSecret, by != said),
            (Check::TicketProcess, ticket.party.1 != said.1),
            (Check::TicketGeneration, !renewal && ticket.generation != generation),
            (Check::TicketActive, !renewal && ticket.key != key),
            (Check::TicketTime, !renewal && late),
            (Check::RenewSeen, renewal && !known),
            (Check::RenewGeneration, renewal && ticket.generation != generation),
        ]);
        if refused {
            return None;
        }
        if ticket.key == key {
            self.believe(state, hsm, ticket);
        }
        if renewal {
            let new = Ticket { generation, key, made: state.clock, ..ticket };
            state.tickets.insert(new);
            state.seen[hsm].insert(new);
            state.renewed = true;
        }
        let promises = [
            (Broken::NotLoggedIn, state.proved.contains(&(by, generation))),
            (Broken::OldKey, renewal || ticket.key == key),
            (Broken::OutsideItsTime, renewal || !late),
        ];
        state.broken.extend(promises.iter().filter(|(_, kept)| !kept).map(|(broken, _)| *broken));
        Some(())
    }

    fn open(&self, state: &mut State, hsm: usize, by: Party, said: Party, object: Object) -> Option<()> {
        let expelled = self.case.change == Change::ExpelX && state.versions[hsm] == 2;
        let refused =
            self.refused(&[(Check::ProcessSecret, by != said), (Check::ObjectProcess, object.party.1 != said.1)]);
        if refused {
            return None;
        }
        if object.party != by {
            state.broken.insert(Broken::OtherProcess);
        }
        let trusted = !(expelled && object.key == 1 && self.on(Check::ObjectTrust));
        if object.forged && expelled && trusted {
            state.broken.insert(Broken::Trusted);
        }
        Some(())
    }

    fn login(&self, state: &mut State, hsm: usize, party: Party, pin: u8) -> Option<()> {
        let version = state.versions[hsm];
        let (key, generation) = (self.key(version), self.generation(version));
        // Whoever has the first PIN may show its record, which was in the store.
        if pin != generation && self.on(Check::PinRecord) {
            return None;
        }
        if pin != generation {
            state.broken.insert(Broken::NotLoggedIn);
        }
        state.proved.insert((party, pin));
        let ticket = Ticket { party, generation, key, made: state.clock };
        state.tickets.insert(ticket);
        state.seen[hsm].insert(ticket);
        Some(())
    }
}

impl Model for Logins {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            clock: 0,
            domain: 1,
            versions: [1, 1],
            tickets: BTreeSet::new(),
            seen: [BTreeSet::new(), BTreeSet::new()],
            objects: BTreeSet::new(),
            proved: BTreeSet::new(),
            trying: [0; 2],
            counted: [0; 2],
            tried: [0; 2],
            renewed: false,
            broken: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if self.case.guesses {
            actions.extend([Action::Change, Action::Adopt(0), Action::Try(0), Action::Tried(0)]);
            return;
        }
        actions.extend([Action::Tick, Action::Change, Action::Forge]);
        for hsm in HSMS {
            actions.extend([Action::Adopt(hsm), Action::MakeObject(hsm)]);
            actions.extend([1, 2].map(|pin| Action::Login(hsm, P1, pin)));
            // The first PIN leaked, which is why there is a second.
            if self.case.change == Change::NewPin {
                actions.push(Action::Login(hsm, M, 1));
            }
            for by in THIEVES.into_iter().chain([P1]) {
                for said in [by, (by.0, P1.1)] {
                    let uses = |ticket: &Ticket| Action::Use(hsm, by, said, *ticket);
                    let renewals = |ticket: &Ticket| Action::Renew(hsm, by, said, *ticket);
                    actions.extend(state.tickets.iter().map(uses));
                    actions.extend(state.tickets.iter().map(renewals));
                    actions.extend(state.objects.iter().map(|object| Action::Open(hsm, by, said, *object)));
                }
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick if state.clock < self.case.ticks => state.clock += 1,
            Action::Change if state.domain == 1 => state.domain = 2,
            Action::Adopt(hsm) if state.versions[hsm] < state.domain => {
                state.versions[hsm] += 1;
                // A new generation is a new PIN.
                if self.case.change == Change::NewPin {
                    (state.counted[hsm], state.tried[hsm], state.trying[hsm]) = (0, 0, 0);
                }
            }
            Action::Tick | Action::Change | Action::Adopt(_) => return None,
            Action::Login(hsm, party, pin) => self.login(&mut state, hsm, party, pin)?,
            Action::Forge if self.case.change == Change::ExpelX => {
                state.tickets.insert(Ticket { party: M, generation: 1, key: 1, made: 0 });
                state.objects.insert(Object { party: M, key: 1, forged: true });
            }
            Action::Use(..) | Action::Renew(..) => self.present(&mut state, &action)?,
            Action::MakeObject(hsm) if state.objects.len() < bound(2, 4) => {
                let key = self.key(state.versions[hsm]);
                state.objects.insert(Object { party: P1, key, forged: false });
            }
            Action::Open(hsm, by, said, object) => self.open(&mut state, hsm, by, said, object)?,
            Action::Try(hsm) if state.trying[hsm] < 2 => {
                if state.counted[hsm] >= TRIES && self.on(Check::PinCount) {
                    return None;
                }
                state.trying[hsm] += 1;
                state.counted[hsm] += u8::from(self.on(Check::CountFirst));
            }
            Action::Tried(hsm) => {
                state.trying[hsm] = state.trying[hsm].checked_sub(1)?;
                state.counted[hsm] += u8::from(!self.on(Check::CountFirst));
                state.tried[hsm] += 1;
                if state.tried[hsm] > TRIES {
                    state.broken.insert(Broken::Guessed);
                }
            }
            Action::Forge | Action::MakeObject(_) | Action::Try(_) => return None,
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let kept = Property::always(KEPT, |_, state: &State| state.broken.is_empty());
        if !self.off.is_empty() || self.case.guesses {
            return vec![kept];
        }
        vec![
            kept,
            Property::sometimes("a login outlives the change", |_, state: &State| {
                state.renewed && state.versions == [2, 2]
            }),
        ]
    }
}

#[test]
fn no_login_is_stolen() {
    for case in [EXPELLED, ROTATED, NEW_PIN, AGEING, GUESSING] {
        holds(Logins { case, off: Vec::new() });
    }
}

#[test]
fn each_check_of_a_login_is_needed() {
    let lists: [(&[Check], Case); 12] = [
        (&[Check::ProcessSecret], ROTATED),
        (&[Check::TicketProcess], ROTATED),
        (&[Check::TicketGeneration], NEW_PIN),
        (&[Check::TicketActive], ROTATED),
        (&[Check::TicketTime], AGEING),
        (&[Check::RenewSeen], EXPELLED),
        (&[Check::RenewGeneration], NEW_PIN),
        (&[Check::PinRecord], NEW_PIN),
        (&[Check::PinCount], GUESSING),
        (&[Check::CountFirst], GUESSING),
        (&[Check::ObjectProcess], ROTATED),
        (&[Check::ObjectTrust], EXPELLED),
    ];
    needed(&lists, |case, off| Logins { case: *case, off });
}
