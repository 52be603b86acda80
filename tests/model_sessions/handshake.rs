//! Negotiation of session keys, and connections.
//!
//! Cryptography is symbolic: keys are known to who knows what they are derived from. A and B are
//! honest HSMs, H an honest host. The attacker owns the network, the HSM X, which version 2 expels,
//! the host M, which version 3 expels, and a domain of its own in which H is a host as well.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use super::{Judged, KEPT, bound, holds, needed};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Message 1 is signed by the host that it names,
    HostSignature,
    /// which is in the state;
    HostInState,
    /// it is for this HSM,
    Meant,
    /// of this domain: an HSM chooses its own id,
    Domain,
    /// and comes in its time,
    Fresh,
    /// once,
    Seen,
    /// however long its time is allowed to last.
    SeenLongEnough,
    /// Message 2 is signed by the HSM that was asked, a member,
    ReplySigner,
    /// with the version that the host knows;
    ReplyVersion,
    /// it names message 1,
    ReplyHash,
    /// and the host;
    ReplyHost,
    /// and the key that opens it is derived from both.
    Transcript,
    /// A session key opens under the active domain key,
    EktActive,
    /// while its host is in the state;
    EktHost,
    /// connections end when either is no longer so:
    LinkActive,
    LinkHost,
    /// or when its time is over.
    LinkTime,
    /// The host uses no session key that is not under the active domain key that it knows of, and no
    /// connection made with one,
    HostActive,
    /// and never forgets the highest version that it has seen.
    KeepsHighest,
    /// Keys of a connection are derived from which HSM it is to,
    HsmInKeys,
    /// its version,
    VersionInKeys,
    /// and a fresh agreement,
    FreshAgreement,
    /// whose private halves are wiped.
    Wiped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Hsm {
    A,
    B,
    X,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    H,
    M,
}

/// A secret, an ephemeral key or a session key, by who made it: an honest party, or the attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Made {
    Honest(usize),
    Attacker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Message1 {
    signer: Host,
    host: Host,
    to: Hsm,
    ours: bool,
    made: usize,
    q1: Made,
}

/// A session key sealed under the domain key of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Ekt {
    sk: Made,
    host: Host,
    key: usize,
    made: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Message2 {
    signer: Hsm,
    to: Message1,
    version: usize,
    ekt: Ekt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Session {
    asked: usize,
    ekt: Ekt,
}

/// One end of a connection: the host's when `ekt` is what it showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Link {
    hsm: Hsm,
    ekt: Ekt,
    qc: Made,
    qs: Made,
    version: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Broken {
    /// The attacker reads what H writes.
    Secrecy,
    /// An HSM serves the attacker as H.
    Impersonated,
    /// Host and HSM differ on who they are, or on the version.
    Misbound,
    /// An HSM answers what was not meant for it.
    NotMeant,
    Replayed,
    OutsideItsTime,
    /// A host that is expelled is served.
    ExpelledServed,
    /// What is under an old domain key is accepted.
    OldKey,
    /// A host takes an older version than it has seen.
    Lower,
    /// What was recorded can be read later.
    ReadLater,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    clock: usize,
    /// Versions of the domain, of H, the highest that H has ever had, and of A. B is never behind.
    domain: usize,
    host: usize,
    highest: usize,
    a: usize,
    restarts: usize,
    /// Messages 1 of H, and which of them still wait.
    asked: Vec<Message1>,
    waiting: BTreeSet<usize>,
    replies: Vec<Message2>,
    sessions: Vec<Session>,
    /// H's connections to be, by session and HSM, and those that are.
    connecting: Vec<(Ekt, Hsm)>,
    links: Vec<(usize, Link)>,
    accepted: Vec<Link>,
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
    /// The quorum changes the domain; A and H learn of it.
    Change,
    Adopt,
    Learn,
    Restart,
    Ask {
        to: Hsm,
        ours: bool,
    },
    Answer(Hsm, Message1),
    /// H takes a reply for the answer to its message.
    Take(usize, Message2),
    Connect(usize, Hsm),
    Accept(Hsm, Ekt, Made),
    /// H takes an ephemeral key and a version for the answer.
    Finish(usize, Made, usize),
}

/// What is explored: from one version to another, so many ticks.
#[derive(Debug, Clone, Copy)]
struct Case {
    from: usize,
    to: usize,
    ticks: usize,
    restarts: usize,
    asks: usize,
}

/// Nothing changes but the time; an HSM was expelled before.
const AGEING: Case = Case { from: 2, to: 2, ticks: 2, restarts: 0, asks: 1 };
const TWICE: Case = Case { ticks: 0, asks: 2, ..AGEING };
const HSM_EXPELLED: Case = Case { from: 1, to: 2, ticks: 0, restarts: 0, asks: 1 };
const HOST_EXPELLED: Case = Case { from: 2, to: 3, ..HSM_EXPELLED };
const RESTARTED: Case = Case { restarts: 1, asks: 2, ..HSM_EXPELLED };

struct Handshake {
    case: Case,
    off: Vec<Check>,
}

/// The active domain key of a version.
fn key(version: usize) -> usize {
    version.min(2)
}

fn is_host(version: usize, host: Host) -> bool {
    host == Host::H || version < 3
}

/// What the attacker learns of session keys: X has the first domain key, M its own answers.
fn knows(state: &State, sk: Made) -> bool {
    match sk {
        Made::Attacker => true,
        Made::Honest(number) => {
            let reply = state.replies[number];
            reply.to.q1 == Made::Attacker || reply.ekt.key == 1
        }
    }
}

impl State {
    fn version(&self, hsm: Hsm) -> usize {
        if hsm == Hsm::A { self.a } else { self.domain }
    }
}

impl Handshake {
    fn on(&self, check: Check) -> bool {
        !self.off.contains(&check)
    }

    fn refused(&self, checks: &[(Check, bool)]) -> bool {
        checks.iter().any(|(check, refused)| *refused && self.on(*check))
    }

    fn answer(&self, state: &mut State, hsm: Hsm, message: Message1) -> Option<()> {
        let (clock, version) = (state.clock, state.version(hsm));
        let before = |state: &State| {
            message.q1 != Made::Attacker && state.replies.iter().any(|it| it.signer == hsm && it.to == message)
        };
        let late = clock > message.made + 1;
        let remembered = if self.on(Check::SeenLongEnough) { !late } else { clock <= message.made };
        let refused = self.refused(&[
            (Check::HostSignature, message.signer != message.host),
            (Check::HostInState, !is_host(version, message.host)),
            (Check::Meant, message.to != hsm),
            (Check::Domain, !message.ours),
            (Check::Fresh, late),
            (Check::Seen, before(state) && remembered),
        ]);
        if refused {
            return None;
        }
        let promises = [
            (Broken::NotMeant, message.to == hsm && message.ours),
            (Broken::OutsideItsTime, !late),
            (Broken::Replayed, !before(state)),
            (Broken::ExpelledServed, is_host(version, message.host)),
        ];
        state.broken.extend(promises.iter().filter(|(_, kept)| !kept).map(|(broken, _)| *broken));
        let sk = Made::Honest(state.replies.len());
        let ekt = Ekt { sk, host: message.host, key: key(version), made: clock };
        state.replies.push(Message2 { signer: hsm, to: message, version, ekt });
        Some(())
    }

    fn take(&self, state: &mut State, number: usize, reply: Message2) -> Option<()> {
        let message = state.asked[number];
        let member = reply.signer != Hsm::X || state.host < 2;
        let refused = self.refused(&[
            (Check::ReplySigner, reply.signer != message.to || !member),
            (Check::ReplyVersion, reply.version != state.host),
            (Check::ReplyHash, reply.to != message),
            (Check::ReplyHost, reply.to.host != Host::H),
            (Check::Transcript, reply.to != message),
        ]);
        // The attacker makes what it likes of keys of its own.
        let derived = reply.to.q1 == message.q1 || reply.ekt.sk == Made::Attacker;
        if refused || !derived || !state.waiting.remove(&number) {
            return None;
        }
        let ours = reply.to == message && reply.to.host == Host::H && reply.signer == message.to;
        let promises = [(Broken::Misbound, ours), (Broken::Lower, reply.version >= state.highest)];
        state.broken.extend(promises.iter().filter(|(_, kept)| !kept).map(|(broken, _)| *broken));
        state.sessions.push(Session { asked: number, ekt: reply.ekt });
        Some(())
    }

    fn accept(&self, state: &mut State, hsm: Hsm, ekt: Ekt, qc: Made) -> Option<()> {
        let version = state.version(hsm);
        let refused = self.refused(&[
            (Check::EktActive, ekt.key != key(version)),
            (Check::EktHost, !is_host(version, ekt.host)),
            (Check::LinkTime, state.clock > ekt.made + 1),
        ]);
        if refused {
            return None;
        }
        let qs = Made::Honest(state.accepted.len());
        state.accepted.push(Link { hsm, ekt, qc, qs, version });
        Some(())
    }

    fn finish(&self, state: &mut State, number: usize, qs: Made, version: usize) -> Option<()> {
        let (ekt, hsm) = state.connecting[number];
        let refused = self.refused(&[(Check::HostActive, ekt.key != key(state.host))]);
        if refused || state.links.iter().any(|(it, _)| *it == number) {
            return None;
        }
        state.links.push((number, Link { hsm, ekt, qc: Made::Honest(number), qs, version }));
        Some(())
    }

    /// Whether the host's and the HSM's keys of a connection are the same.
    fn same_keys(&self, host: &Link, hsm: &Link) -> bool {
        (host.ekt.sk, host.qc, host.qs) == (hsm.ekt.sk, hsm.qc, hsm.qs)
            && (host.hsm == hsm.hsm || !self.on(Check::HsmInKeys))
            && (host.version == hsm.version || !self.on(Check::VersionInKeys))
    }

    /// Adds what is broken by what could be done now.
    fn judge(&self, state: &mut State) {
        let agreed = self.on(Check::FreshAgreement);
        let mut broken = BTreeSet::new();
        for (_, link) in &state.links {
            let used = !self.on(Check::HostActive) || link.ekt.key == key(state.host);
            let attacker = knows(state, link.ekt.sk) && (!agreed || link.qs == Made::Attacker);
            if used && attacker && state.highest >= 2 {
                broken.insert(Broken::Secrecy);
            }
            let Some(theirs) = state.accepted.iter().find(|it| self.same_keys(link, it)) else { continue };
            if link.hsm != theirs.hsm || link.version != theirs.version {
                broken.insert(Broken::Misbound);
            }
            if !agreed || !self.on(Check::Wiped) {
                broken.insert(Broken::ReadLater);
            }
        }
        for link in &state.accepted {
            let version = state.version(link.hsm);
            let moved = version != link.version;
            let over = state.clock > link.ekt.made + 1;
            let closed = self.refused(&[
                (Check::LinkActive, moved && link.ekt.key != key(version)),
                (Check::LinkHost, moved && !is_host(version, link.ekt.host)),
                (Check::LinkTime, over),
            ]);
            if closed || version < 2 {
                continue;
            }
            let attacker = knows(state, link.ekt.sk) && (!agreed || link.qc == Made::Attacker);
            let promises = [
                (Broken::Impersonated, link.ekt.host == Host::M || !attacker),
                (Broken::ExpelledServed, is_host(version, link.ekt.host)),
                (Broken::OldKey, link.ekt.key == key(version)),
                (Broken::OutsideItsTime, !over),
            ];
            broken.extend(promises.iter().filter(|(_, kept)| !kept).map(|(broken, _)| *broken));
        }
        state.broken.extend(broken);
    }
}

impl Model for Handshake {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let from = self.case.from;
        vec![State {
            clock: 0,
            domain: from,
            host: from,
            highest: from,
            a: from,
            restarts: 0,
            asked: Vec::new(),
            waiting: BTreeSet::new(),
            replies: Vec::new(),
            sessions: Vec::new(),
            connecting: Vec::new(),
            links: Vec::new(),
            accepted: Vec::new(),
            broken: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend([Action::Tick, Action::Change, Action::Adopt, Action::Learn, Action::Restart]);
        actions.extend([true, false].map(|ours| Action::Ask { to: Hsm::A, ours }));

        // Messages 1 of H, and of M: with a key of its own, or one that it saw.
        let mut messages = state.asked.clone();
        let keys = state.asked.iter().map(|it| it.q1).chain([Made::Attacker]);
        for q1 in keys {
            let by_m = Message1 { signer: Host::M, host: Host::M, to: Hsm::A, ours: true, made: state.clock, q1 };
            messages.push(by_m);
            messages.push(Message1 { host: Host::H, ..by_m });
        }
        for message in messages {
            actions.extend([Hsm::A, Hsm::B].map(|hsm| Action::Answer(hsm, message)));
        }
        // Replies of honest HSMs, and of X with keys of its own.
        let forged = |host| Ekt { sk: Made::Attacker, host, key: 1, made: state.clock };
        for number in state.waiting.iter().copied() {
            actions.extend(state.replies.iter().map(|reply| Action::Take(number, *reply)));
            for version in [state.host, state.domain] {
                let (signer, to, ekt) = (Hsm::X, state.asked[number], forged(Host::H));
                actions.push(Action::Take(number, Message2 { signer, to, version, ekt }));
            }
        }
        for session in 0..state.sessions.len() {
            actions.extend([Hsm::A, Hsm::B].map(|hsm| Action::Connect(session, hsm)));
        }
        let qcs = (0..state.connecting.len()).map(Made::Honest).chain([Made::Attacker]);
        for qc in qcs {
            let ekts = state.replies.iter().map(|it| it.ekt).chain([forged(Host::H)]);
            for ekt in ekts {
                actions.extend([Hsm::A, Hsm::B].map(|hsm| Action::Accept(hsm, ekt, qc)));
            }
        }
        let qss: Vec<Made> = (0..state.accepted.len()).map(Made::Honest).chain([Made::Attacker]).collect();
        for number in 0..state.connecting.len() {
            for version in self.case.from..=self.case.to {
                actions.extend(qss.iter().map(|qs| Action::Finish(number, *qs, version)));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick if state.clock < self.case.ticks => state.clock += 1,
            Action::Change if state.domain < self.case.to => state.domain += 1,
            Action::Adopt if state.a < state.domain => state.a += 1,
            Action::Learn if state.host < state.domain => {
                state.host += 1;
                state.highest = state.highest.max(state.host);
            }
            Action::Restart if state.restarts < self.case.restarts => {
                state.restarts += 1;
                state.host = if self.on(Check::KeepsHighest) { state.highest } else { self.case.from };
                state.waiting.clear();
                state.sessions.clear();
                state.links.clear();
            }
            Action::Tick | Action::Change | Action::Adopt | Action::Learn | Action::Restart => return None,
            Action::Ask { to, ours } => {
                let number = state.asked.len();
                if number == self.case.asks {
                    return None;
                }
                let (signer, q1) = (Host::H, Made::Honest(number));
                state.asked.push(Message1 { signer, host: Host::H, to, ours, made: state.clock, q1 });
                state.waiting.insert(number);
            }
            Action::Answer(hsm, message) if state.replies.len() < 2 => self.answer(&mut state, hsm, message)?,
            Action::Take(number, reply) => self.take(&mut state, number, reply)?,
            Action::Connect(session, hsm) if state.connecting.len() < bound(1, 2) => {
                state.connecting.push((state.sessions[session].ekt, hsm));
            }
            Action::Accept(hsm, ekt, qc) if state.accepted.len() < bound(1, 2) => {
                self.accept(&mut state, hsm, ekt, qc)?;
            }
            Action::Finish(number, qs, version) => self.finish(&mut state, number, qs, version)?,
            Action::Answer(..) | Action::Connect(..) | Action::Accept(..) => return None,
        }
        self.judge(&mut state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let kept = Property::always(KEPT, |_, state: &State| state.broken.is_empty());
        if !self.off.is_empty() {
            return vec![kept];
        }
        let connected = Property::sometimes("H is connected", |model: &Self, state: &State| {
            let (end, links) = (model.case.to, &state.links);
            let both = |link: &Link| state.accepted.iter().any(|it| model.same_keys(link, it));
            links.iter().any(|(_, link)| link.version == end && both(link))
        });
        vec![kept, connected]
    }
}

#[test]
fn the_handshake_cannot_be_cheated() {
    for case in [AGEING, TWICE, HSM_EXPELLED, HOST_EXPELLED, RESTARTED] {
        holds(Handshake { case, off: Vec::new() });
    }
}

#[test]
fn each_check_of_the_handshake_is_needed() {
    let lists: [(&[Check], Case); 21] = [
        (&[Check::HostSignature], TWICE),
        (&[Check::HostInState], HOST_EXPELLED),
        (&[Check::Meant], TWICE),
        (&[Check::Domain], TWICE),
        (&[Check::Fresh], AGEING),
        (&[Check::Seen], TWICE),
        (&[Check::SeenLongEnough], AGEING),
        (&[Check::ReplySigner], TWICE),
        (&[Check::ReplyVersion], HSM_EXPELLED),
        (&[Check::ReplyHash, Check::ReplyHost, Check::Transcript], TWICE),
        (&[Check::EktActive], TWICE),
        (&[Check::EktHost], HOST_EXPELLED),
        (&[Check::LinkActive], HSM_EXPELLED),
        (&[Check::LinkHost], HOST_EXPELLED),
        (&[Check::LinkTime], AGEING),
        (&[Check::HostActive], HSM_EXPELLED),
        (&[Check::KeepsHighest], RESTARTED),
        (&[Check::HsmInKeys], TWICE),
        (&[Check::VersionInKeys], HOST_EXPELLED),
        (&[Check::FreshAgreement], TWICE),
        (&[Check::Wiped], TWICE),
    ];
    needed(&lists, |case, off| Handshake { case: *case, off });
}
