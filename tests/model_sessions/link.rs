//! Frames of connections, and requests that are made again when a connection is lost.
//!
//! A request and a reply have two frames each. The attacker has all frames that were ever sent, and
//! delivers them where and as often as it likes, or cuts the connection. What is delivered and refused
//! closes a connection, and so is a cut.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use super::{Judged, KEPT, bound, holds, needed};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Each connection has keys of its own,
    KeyPerLink,
    /// and each direction;
    KeyPerDirection,
    /// frames come in the order they were sent,
    Counter,
    /// the last of a message is told from the others,
    Last,
    /// and belong to the request under way.
    Number,
    /// A connection whose reply is not awaited any more is closed.
    CloseWhenLate,
    /// What must not happen twice is not asked again,
    StepOnce,
    /// a login is so once,
    LoginAgainOnce,
    /// and what the host has committed something for is not.
    NotAfterCommit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Whatever comes of it comes with the reply.
    Safe,
    /// A step of an exchange, or what follows on output already given.
    Step,
    Login,
    /// The HSM asks the host to commit something before it goes on.
    Committing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Way {
    ToHsm,
    ToHost,
}

/// A part of what an attempt at a request sends or is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    Request(usize, u8),
    Callback(usize),
    Answer(usize),
    Reply(usize, u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Frame {
    link: usize,
    way: Way,
    counter: u8,
    number: u8,
    last: bool,
    part: Part,
}

/// One end of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct End {
    sent: u8,
    received: u8,
    number: u8,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Link {
    closed: bool,
    host: End,
    hsm: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Broken {
    /// An HSM does what was not asked like that,
    Forged,
    /// or does it again.
    Replayed,
    /// The host takes something else, or a part, for the reply.
    OtherReply,
    /// Something is done more often than it may be.
    Doubled,
    CommittedTwice,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    links: Vec<Link>,
    frames: BTreeSet<Frame>,
    /// Attempts: which request on which connection.
    attempts: Vec<(usize, usize)>,
    /// The attempt whose reply is awaited, and the requests that are over.
    waiting: Option<usize>,
    over: usize,
    answered: usize,
    executed: BTreeSet<usize>,
    commits: Vec<usize>,
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
    Send(usize),
    /// A frame reaches an end of a connection, said to be the last or not.
    Deliver(Frame, usize, Way, bool),
    Cut(usize),
    /// The host waits no longer.
    Late,
    /// The application is told that it failed.
    Fail,
}

struct Requests {
    kind: Kind,
    off: Vec<Check>,
}

impl Requests {
    fn on(&self, check: Check) -> bool {
        !self.off.contains(&check)
    }

    /// How often the host asks for one request.
    fn attempts(&self, state: &State) -> usize {
        let committed = state.commits.contains(&state.over);
        match self.kind {
            Kind::Step if self.on(Check::StepOnce) => 1,
            Kind::Login if self.on(Check::LoginAgainOnce) => 2,
            Kind::Committing if committed && self.on(Check::NotAfterCommit) => 0,
            _ => 3,
        }
    }

    /// How often a request may be executed.
    fn allowed(&self) -> usize {
        match self.kind {
            Kind::Step => 1,
            Kind::Login => 2,
            Kind::Safe | Kind::Committing => usize::MAX,
        }
    }

    fn send(&self, state: &mut State, link: usize, way: Way, parts: &[Part]) {
        let Link { host, hsm, .. } = &mut state.links[link];
        let end = if way == Way::ToHsm { host } else { hsm };
        for (n, part) in parts.iter().enumerate() {
            let (counter, number, last) = (end.sent, end.number, n + 1 == parts.len());
            end.sent += 1;
            state.frames.insert(Frame { link, way, counter, number, last, part: *part });
        }
    }

    /// A message of the host is complete.
    fn serve(&self, state: &mut State, link: usize, parts: &[Part]) {
        if let [Part::Answer(attempt)] = parts
            && state.executed.contains(attempt)
        {
            self.send(state, link, Way::ToHost, &[Part::Reply(*attempt, 0), Part::Reply(*attempt, 1)]);
            state.links[link].hsm.number += 1;
            return;
        }
        let [Part::Request(attempt, 0), Part::Request(other, 1)] = *parts else {
            state.broken.insert(Broken::Forged);
            return;
        };
        let (request, sent_on) = state.attempts[attempt];
        if other != attempt || sent_on != link {
            state.broken.insert(Broken::Forged);
        }
        if !state.executed.insert(attempt) {
            state.broken.insert(Broken::Replayed);
        }
        let times = state.executed.iter().filter(|attempt| state.attempts[**attempt].0 == request).count();
        if times > self.allowed() {
            state.broken.insert(Broken::Doubled);
        }
        if self.kind == Kind::Committing {
            self.send(state, link, Way::ToHost, &[Part::Callback(attempt)]);
        } else {
            self.send(state, link, Way::ToHost, &[Part::Reply(attempt, 0), Part::Reply(attempt, 1)]);
            state.links[link].hsm.number += 1;
        }
    }

    /// A message of an HSM is complete, on the connection of the attempt that is waited for.
    fn take(&self, state: &mut State, attempt: usize, parts: &[Part]) {
        let (request, link) = state.attempts[attempt];
        if parts == [Part::Callback(attempt)] {
            if state.commits.contains(&request) {
                state.broken.insert(Broken::CommittedTwice);
            }
            state.commits.push(request);
            self.send(state, link, Way::ToHsm, &[Part::Answer(attempt)]);
            return;
        }
        if parts != [Part::Reply(attempt, 0), Part::Reply(attempt, 1)] {
            state.broken.insert(Broken::OtherReply);
        }
        state.links[link].host.number += 1;
        state.waiting = None;
        state.over += 1;
        state.answered += 1;
    }

    fn deliver(&self, state: &mut State, frame: Frame, link: usize, way: Way, last: bool) -> Option<()> {
        let attempt = state.waiting.filter(|attempt| state.attempts[*attempt].1 == link);
        if way == Way::ToHost && attempt.is_none() {
            return None;
        }
        let Link { closed, host, hsm } = &mut state.links[link];
        let end = if way == Way::ToHsm { hsm } else { host };
        let refused = [
            (Check::KeyPerLink, frame.link != link),
            (Check::KeyPerDirection, frame.way != way),
            (Check::Counter, frame.counter != end.received),
            (Check::Number, frame.number != end.number),
            (Check::Last, frame.last != last),
        ];
        if *closed || refused.iter().any(|(check, refused)| *refused && self.on(*check)) {
            return None;
        }
        end.received += 1;
        end.parts.push(frame.part);
        if !last {
            return (end.parts.len() < 3).then_some(());
        }
        let parts = std::mem::take(&mut end.parts);
        match attempt {
            Some(attempt) if way == Way::ToHost => self.take(state, attempt, &parts),
            _ => self.serve(state, link, &parts),
        }
        Some(())
    }
}

impl Model for Requests {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            links: vec![Link::default(); if self.kind == Kind::Login { 3 } else { bound(2, 3) }],
            frames: BTreeSet::new(),
            attempts: Vec::new(),
            waiting: None,
            over: 0,
            answered: 0,
            executed: BTreeSet::new(),
            commits: Vec::new(),
            broken: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend([Action::Late, Action::Fail]);
        for link in 0..state.links.len() {
            actions.extend([Action::Send(link), Action::Cut(link)]);
            for frame in state.frames.iter().copied() {
                for way in [Way::ToHsm, Way::ToHost] {
                    actions.extend([true, false].map(|last| Action::Deliver(frame, link, way, last)));
                }
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let tried = state.attempts.iter().filter(|(request, _)| *request == state.over).count();
        match action {
            Action::Send(link) => {
                let attempt = state.attempts.len();
                let may = state.waiting.is_none() && tried < self.attempts(&state) && !state.links[link].closed;
                // Two requests, and three attempts, tell all there is to tell.
                if !may || attempt == 3 || state.over == 2 {
                    return None;
                }
                state.attempts.push((state.over, link));
                state.waiting = Some(attempt);
                self.send(&mut state, link, Way::ToHsm, &[Part::Request(attempt, 0), Part::Request(attempt, 1)]);
            }
            Action::Deliver(frame, link, way, end) => self.deliver(&mut state, frame, link, way, end)?,
            Action::Cut(link) => {
                if std::mem::replace(&mut state.links[link].closed, true) {
                    return None;
                }
                state.waiting = state.waiting.filter(|attempt| state.attempts[*attempt].1 != link);
            }
            Action::Late => {
                let link = &mut state.links[state.attempts[state.waiting.take()?].1];
                link.closed = self.on(Check::CloseWhenLate);
                link.host.number += 1;
                link.host.parts.clear();
            }
            Action::Fail => {
                if state.waiting.is_some() || tried == 0 {
                    return None;
                }
                state.over += 1;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let kept = Property::always(KEPT, |_, state: &State| state.broken.is_empty());
        if !self.off.is_empty() {
            return vec![kept];
        }
        vec![kept, Property::sometimes("two requests are answered", |_, state: &State| state.answered == 2)]
    }
}

#[test]
fn no_frame_is_taken_for_another() {
    for kind in [Kind::Safe, Kind::Step, Kind::Login, Kind::Committing] {
        holds(Requests { kind, off: Vec::new() });
    }
}

#[test]
fn each_check_of_a_frame_is_needed() {
    let lists: [(&[Check], Kind); 8] = [
        (&[Check::KeyPerLink], Kind::Safe),
        (&[Check::KeyPerDirection], Kind::Safe),
        (&[Check::Counter], Kind::Safe),
        (&[Check::Last], Kind::Safe),
        (&[Check::Number, Check::CloseWhenLate], Kind::Safe),
        (&[Check::StepOnce], Kind::Step),
        (&[Check::LoginAgainOnce], Kind::Login),
        (&[Check::NotAfterCommit], Kind::Committing),
    ];
    needed(&lists, |kind, off| Requests { kind: *kind, off });
}
