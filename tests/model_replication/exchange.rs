//! One exchange: offer, shipment, acceptance with confirm, receipt.
//!
//! Cryptography is symbolic: a record opens for who knows a private half of its two ephemeral keys,
//! and a signature is whose key made it. A and B are honest. C is a Region that both trust, for
//! another key; it is the attacker's, and so are an old signature key of B, everything that is sent,
//! and the hosts, who ask for what they like and show what records they like.
//!
//! A check alone is shown to be needed, or several together: then each of them suffices without the
//! others.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Checker, HasDiscoveries, Model, Property};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Signatures are by a key that the receiver trusts,
    Signature,
    /// and trusts still,
    Distrust,
    /// as that of the Region that the message is from.
    From,
    /// Messages are for their receiver.
    OfferTo,
    ShipmentTo,
    Expired,
    /// An offer is shipped for once.
    OfferOnce,
    /// The record says that the key may go to that Region,
    Authorised,
    /// of that domain: a Region founded anew is another.
    Domain,
    /// The record is that of the key that is asked for.
    RecordBound,
    SuiteAllowed,
    /// A shipment is from whom the offer was for, and has the key that the offer asks for.
    OfferedTo,
    Asked,
    /// A shipment names the offer that it answers, by its hash.
    OfferHash,
    /// Keys are derived from who ships what to whom.
    Transcript,
    /// The private half of an offer works once.
    Once,
    /// It is gone when the offer has expired,
    WipedExpired,
    /// and that of a shipment when the shipment is made.
    WipedShipped,
    /// A key that is a Region's own is not taken from another,
    Own,
    /// and a replica only from its primary.
    RecordedPrimary,
    NotOlder,
    /// A receipt is for what is stored,
    Confirmed,
    /// for this shipment,
    ShipmentHash,
    /// for what was in it, and of who could open it.
    Commitment,
}

/// Checks that are needed: each list breaks a promise, and no list without one of its members.
const NEEDED: [&[Check]; 21] = [
    &[Check::Signature],
    &[Check::Distrust],
    &[Check::From],
    &[Check::OfferTo],
    &[Check::Expired],
    &[Check::OfferOnce],
    &[Check::Authorised],
    &[Check::Domain],
    &[Check::RecordBound],
    &[Check::SuiteAllowed],
    &[Check::OfferedTo],
    &[Check::Asked],
    &[Check::Once],
    &[Check::WipedExpired],
    &[Check::WipedShipped],
    &[Check::Own],
    &[Check::RecordedPrimary],
    &[Check::NotOlder],
    &[Check::Confirmed],
    &[Check::ShipmentHash, Check::Commitment],
    &[Check::ShipmentTo, Check::OfferHash, Check::Transcript],
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Region {
    A,
    B,
    C,
}
use Region::{A, B, C};

/// Who signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Signer {
    Of(Region),
    /// A key of B that is trusted no more.
    OldB,
    Stranger,
}

const FORGERS: [Signer; 3] = [Signer::Of(C), Signer::OldB, Signer::Stranger];

/// A's keys, by whom they may go to; and one that B made itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    ForB,
    ForC,
    /// For the domain that B was before it was founded anew.
    ForFormerB,
    OfB,
}

/// An ephemeral key: of an offer or a shipment of this number, or the attacker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Ephemeral {
    Honest(usize),
    Attacker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Offer {
    signer: Signer,
    from: Region,
    to: Region,
    /// Random; the attacker may repeat one.
    number: usize,
    suite: u8,
    key: Key,
    rakb: Ephemeral,
}

/// B's offer of the time when suite 1 was allowed still.
const EARLIER: Offer =
    Offer { signer: Signer::Of(B), from: B, to: A, number: 8, suite: 1, key: Key::ForB, rakb: Ephemeral::Honest(8) };

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Shipment {
    signer: Signer,
    from: Region,
    to: Region,
    offer: Offer,
    raka: Ephemeral,
    key: Key,
    /// Whose material it is, and its version.
    material: (Region, u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Held {
    primary: Region,
    material: (Region, u8),
}

/// B's word that it holds what was in a shipment of A.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Receipt {
    shipment: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Broken {
    /// A key is where it was not authorised, or open to the attacker.
    WrongPlace,
    /// A Region ships for an offer that was not made, or not for it.
    NotMeant,
    /// B took what its host did not ask for from there.
    Forged,
    /// An ephemeral key was used for two derivations.
    Twice,
    OutsideItsTime,
    /// What was recorded can be read later.
    ReadLater,
    WentBack,
    /// A counts on a copy that is not there.
    NotHeld,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    expired: bool,
    /// The version of A's keys.
    version: u8,
    /// What A remembers: offers shipped for, shipments it takes receipts for.
    used: BTreeSet<Offer>,
    remembered: BTreeSet<usize>,
    shipments: Vec<Shipment>,
    /// The version that A knows B to hold.
    registered: u8,
    offers: Vec<Offer>,
    /// Offers whose private half B has, and those that it has used.
    open: BTreeSet<usize>,
    spent: BTreeSet<usize>,
    /// What B's host has stored, and what it has to store.
    held: BTreeMap<Key, Held>,
    taken: Option<(Key, Held)>,
    receipts: BTreeSet<Receipt>,
    /// The last shipment of A that was accepted, until B's HSM stops.
    accepted: Option<usize>,
    broken: BTreeSet<Broken>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Offer(Region, Key),
    /// An offer reaches A, whose host shows the record of a key.
    Ship(Offer, Key),
    /// A shipment reaches B, which takes it to be for an offer of its own.
    Accept(usize, Shipment, Option<usize>),
    Store,
    Confirm,
    /// A receipt reaches A, which takes it to be for a shipment.
    Register(Receipt, usize),
    Rotate,
    Expire,
    StopA,
    StopB,
}

struct Exchange {
    off: Vec<Check>,
}

impl Exchange {
    fn on(&self, check: Check) -> bool {
        !self.off.contains(&check)
    }

    /// Whether a signature counts for a message from that Region.
    fn signed(&self, signer: Signer, from: Region) -> bool {
        let (trusted, region) = match signer {
            Signer::Of(region) => (true, region),
            Signer::OldB => (!self.on(Check::Distrust), B),
            Signer::Stranger => (false, C),
        };
        let trusted = trusted || (signer == Signer::Stranger && !self.on(Check::Signature));
        trusted && (region == from || !self.on(Check::From) || signer == Signer::Stranger)
    }

    fn authorised(&self, key: Key, region: Region) -> bool {
        match key {
            Key::ForB => region == B,
            Key::ForC => region == C,
            Key::ForFormerB => region == B && !self.on(Check::Domain),
            Key::OfB => false,
        }
    }

    fn ship(&self, state: &mut State, offer: Offer, shown: Key) -> Option<()> {
        let refused = [
            (Check::Signature, !self.signed(offer.signer, offer.from)),
            (Check::OfferTo, offer.to != A),
            (Check::Expired, state.expired),
            (Check::OfferOnce, state.used.contains(&offer)),
            (Check::Authorised, !self.authorised(offer.key, offer.from)),
            (Check::RecordBound, shown != offer.key),
            (Check::SuiteAllowed, offer.suite == 1),
        ];
        if refused.iter().any(|(check, refused)| *refused && (self.on(*check) || *check == Check::Signature)) {
            return None;
        }
        let number = state.shipments.len();
        let once = state.shipments.iter().all(|shipment| shipment.offer != offer) || !state.used.contains(&offer);
        state.used.insert(offer);
        state.remembered.insert(number);
        state.shipments.push(Shipment {
            signer: Signer::Of(A),
            from: A,
            to: offer.from,
            offer,
            raka: Ephemeral::Honest(number),
            key: shown,
            material: (A, state.version),
        });

        let attackers = offer.rakb == Ephemeral::Attacker || offer.suite == 1;
        let right = match shown {
            Key::ForC => offer.from == C,
            Key::ForB => offer.from == B && !attackers,
            Key::ForFormerB | Key::OfB => false,
        };
        let meant = match offer.signer {
            Signer::Of(B) => offer == EARLIER || (offer.to == A && state.offers.contains(&offer)),
            signer => signer == Signer::Of(offer.from),
        };
        let promises = [
            (Broken::WrongPlace, right),
            (Broken::NotMeant, meant && offer.to == A),
            (Broken::Twice, once),
            (Broken::OutsideItsTime, !state.expired),
        ];
        state.broken.extend(promises.iter().filter(|(_, kept)| !kept).map(|(broken, _)| *broken));
        Some(())
    }

    fn accept(&self, state: &mut State, number: usize, shipment: Shipment, sent: Option<usize>) -> Option<()> {
        let offer = state.offers[number];
        // The keys are those of the ephemeral keys and, with the transcript, of what was agreed.
        let derived = shipment.offer.rakb == offer.rakb
            && (!self.on(Check::Transcript) || (shipment.offer == offer && shipment.to == B));
        let taken = state.taken.filter(|(key, _)| *key == shipment.key).map(|(_, held)| held);
        let own = taken.or_else(|| state.held.get(&shipment.key).copied());
        let refused = [
            (Check::Signature, !self.signed(shipment.signer, shipment.from)),
            (Check::ShipmentTo, shipment.to != B),
            (Check::OfferHash, shipment.offer != offer),
            (Check::OfferedTo, shipment.from != offer.to),
            (Check::Asked, shipment.key != offer.key),
            (Check::Own, own.is_some_and(|held| held.primary == B)),
            (Check::RecordedPrimary, own.is_some_and(|held| held.primary != B && held.primary != shipment.from)),
            (
                Check::NotOlder,
                own.is_some_and(|held| held.primary == shipment.from && held.material > shipment.material),
            ),
        ];
        let refused =
            refused.iter().any(|(check, refused)| *refused && (self.on(*check) || *check == Check::Signature));
        if refused || !derived || shipment.offer.number != offer.number {
            return None;
        }
        let first = state.spent.insert(number);
        if self.on(Check::Once) {
            state.open.remove(&number);
        }
        let (primary, material) = (shipment.from, shipment.material);
        state.taken = Some((shipment.key, Held { primary, material }));
        state.accepted = sent;

        // Some offer asked there for that key, and what came is that Region's.
        let asked = state.offers.iter().any(|it| it.to == primary && it.key == shipment.key);
        let forged = !asked || material.0 != primary || own.is_some_and(|held| held.primary != primary);
        let back = own.is_some_and(|held| held.primary == primary && held.material > material);
        let promises = [
            (Broken::WrongPlace, material.0 != A || shipment.key == Key::ForB),
            (Broken::Forged, !forged),
            (Broken::Twice, first),
            (Broken::OutsideItsTime, !state.expired),
            (Broken::WentBack, !back),
        ];
        state.broken.extend(promises.iter().filter(|(_, kept)| !kept).map(|(broken, _)| *broken));
        Some(())
    }

    /// Whether one who takes both Regions' HSMs and keys now reads an exchange that is over.
    fn read_later(&self, state: &State) -> bool {
        state.shipments.iter().any(|shipment| match shipment.offer.rakb {
            Ephemeral::Honest(number) if number < state.offers.len() => {
                let over = state.spent.contains(&number) || state.expired;
                over && (state.open.contains(&number) || !self.on(Check::WipedShipped))
            }
            _ => false,
        })
    }

    fn register(&self, state: &mut State, receipt: Receipt, number: usize) -> Option<()> {
        let (said, counted) = (state.shipments[receipt.shipment], state.shipments[number]);
        let refused = [
            (Check::ShipmentHash, receipt.shipment != number),
            (Check::Commitment, (said.raka, said.material) != (counted.raka, counted.material)),
        ];
        let refused = refused.iter().any(|(check, refused)| self.on(*check) && *refused);
        if refused || !state.remembered.contains(&number) || said.offer.number != counted.offer.number {
            return None;
        }
        state.registered = state.registered.max(counted.material.1);
        Some(())
    }
}

impl Model for Exchange {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let own = Held { primary: B, material: (B, 1) };
        vec![State {
            expired: false,
            version: 1,
            used: BTreeSet::new(),
            remembered: BTreeSet::new(),
            shipments: Vec::new(),
            registered: 0,
            offers: Vec::new(),
            open: BTreeSet::new(),
            spent: BTreeSet::new(),
            held: BTreeMap::from([(Key::OfB, own)]),
            taken: None,
            receipts: BTreeSet::new(),
            accepted: None,
            broken: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend([Action::Rotate, Action::Expire, Action::StopA, Action::StopB, Action::Store, Action::Confirm]);
        let keys = [Key::ForB, Key::ForC, Key::ForFormerB, Key::OfB];
        let asked = [(A, Key::ForB), (A, Key::ForC), (A, Key::ForFormerB), (C, Key::ForB), (C, Key::OfB)];
        actions.extend(asked.map(|(to, key)| Action::Offer(to, key)));
        // Offers that there are, and those that the attacker can make: with keys of its own, or B's.
        let mut offers = state.offers.clone();
        offers.push(EARLIER);
        for signer in FORGERS {
            for from in [B, C] {
                for key in [Key::ForB, Key::ForC] {
                    let forged = Offer { signer, from, to: A, number: 9, suite: 2, key, rakb: Ephemeral::Attacker };
                    offers.push(forged);
                    let copies = state.offers.iter().map(|it| Offer { number: it.number, rakb: it.rakb, ..forged });
                    offers.extend(copies);
                }
            }
        }
        for offer in offers {
            actions.extend(keys[..3].iter().map(|shown| Action::Ship(offer, *shown)));
        }
        for number in state.open.iter().copied() {
            let sent = state.shipments.iter().enumerate();
            actions.extend(sent.map(|(sent, shipment)| Action::Accept(number, *shipment, Some(sent))));
            for signer in FORGERS {
                for (from, key) in [A, C].into_iter().flat_map(|from| keys.map(|key| (from, key))) {
                    let (offer, material) = (state.offers[number], (C, 1));
                    let forged = Shipment { signer, from, to: B, offer, raka: Ephemeral::Attacker, key, material };
                    actions.push(Action::Accept(number, forged, None));
                }
            }
        }
        for receipt in &state.receipts {
            actions.extend((0..state.shipments.len()).map(|number| Action::Register(*receipt, number)));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Offer(to, key) => {
                let number = state.offers.len();
                // Two offers and two shipments tell all there is to tell.
                if number == 2 || state.expired {
                    return None;
                }
                let rakb = Ephemeral::Honest(number);
                state.offers.push(Offer { signer: Signer::Of(B), from: B, to, number, suite: 2, key, rakb });
                state.open.insert(number);
            }
            Action::Ship(offer, shown) => {
                if state.shipments.len() == 2 {
                    return None;
                }
                self.ship(&mut state, offer, shown)?;
            }
            Action::Accept(number, shipment, sent) => {
                if state.expired && self.on(Check::Expired) {
                    return None;
                }
                self.accept(&mut state, number, shipment, sent)?;
            }
            Action::Store => {
                let (key, held) = state.taken.take()?;
                state.held.insert(key, held);
            }
            Action::Confirm => {
                let shipment = state.accepted?;
                let Shipment { key, from, material, .. } = state.shipments[shipment];
                let stored = Held { primary: from, material };
                if state.held.get(&key) != Some(&stored) && self.on(Check::Confirmed) {
                    return None;
                }
                state.receipts.insert(Receipt { shipment });
            }
            Action::Register(receipt, number) => self.register(&mut state, receipt, number)?,
            Action::Rotate => state.version = 2,
            Action::Expire => {
                state.expired = true;
                if self.on(Check::WipedExpired) {
                    state.open.clear();
                }
            }
            Action::StopA => {
                state.used.clear();
                state.remembered.clear();
            }
            Action::StopB => {
                state.open.clear();
                state.accepted = None;
                state.taken = None;
            }
        }
        if self.read_later(&state) {
            state.broken.insert(Broken::ReadLater);
        }
        let known = state.held.get(&Key::ForB).filter(|held| held.primary == A);
        if state.registered > known.map_or(0, |held| held.material.1) {
            state.broken.insert(Broken::NotHeld);
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let kept = Property::always("every promise is kept", |_, state: &State| state.broken.is_empty());
        if !self.off.is_empty() {
            return vec![kept];
        }
        vec![
            kept,
            Property::sometimes("a replica is registered", |_, state: &State| state.registered == 1),
            Property::sometimes("and brought up to date", |_, state: &State| {
                state.receipts.len() == 2 && state.registered == 2
            }),
            Property::sometimes("what was lost is run again", |_, state: &State| {
                state.spent.len() == 1 && state.offers.len() == 2 && state.registered == 1
            }),
        ]
    }
}

fn broken(off: &[Check]) -> BTreeSet<Broken> {
    let checker = Exchange { off: off.to_vec() }.checker().threads(2).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    let path = checker.discovery("every promise is kept");
    path.map(|path| path.last_state().broken.clone()).unwrap_or_default()
}

#[test]
fn the_exchange_cannot_be_cheated() {
    let checker = Exchange { off: Vec::new() }.checker().threads(2).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.is_done());
}

#[test]
fn each_check_of_the_exchange_is_needed() {
    for needed in NEEDED {
        assert_ne!(broken(needed), BTreeSet::new(), "nothing needs {needed:?}");
        for spared in needed.iter().filter(|_| needed.len() > 1) {
            let others: Vec<Check> = needed.iter().copied().filter(|check| check != spared).collect();
            assert_eq!(broken(&others), BTreeSet::new(), "{spared:?} does not suffice");
        }
    }
}
