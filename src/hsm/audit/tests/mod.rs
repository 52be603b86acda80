mod damage;
mod journal;
mod speed;
mod vectors;

use std::collections::BTreeMap;

use super::super::crypto::Entropy;
use super::super::domain::DomainId;
use super::super::domain::cbor::Encoder;
use super::super::domain::keys::{Kid, PrivateKey, PublicKey};
use super::{
    Action, Chain, Context, Event, Finding, Instance, KeyName, Name, Opening, Outcome, Report, Tip, Verifier, hash,
};
use crate::error::{ErrorKind, Result};

const NOW: u64 = 1_800_000_000_000;
const DOMAIN: DomainId = [0xd0; 16];
const KEY: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

/// A stored row and the chain it is stored under.
type Stored = (Instance, Vec<u8>);

/// A store with the chains of one member's instances.
struct World {
    key: PrivateKey,
    entropy: Entropy,
    now: u64,
    rows: Vec<Stored>,
    chains: Vec<Chain>,
    moved: BTreeMap<Instance, Tip>,
}

impl World {
    fn new(seed: &str) -> Self {
        let mut entropy = Entropy::seeded(seed);
        let key = PrivateKey::generate(&mut entropy).unwrap();
        Self { key, entropy, now: NOW, rows: Vec::new(), chains: Vec::new(), moved: BTreeMap::new() }
    }

    fn open(&mut self) -> usize {
        let seen = std::mem::take(&mut self.moved).into_values().collect();
        let host = Name::new("web-1").unwrap();
        let opening = Opening { domain: DOMAIN, state: [0x5a; 48], host, seen };
        let (chain, rows) = Chain::open(opening, self.now, &mut self.entropy, &self.key).unwrap();
        let number = self.chains.len();
        self.chains.push(chain);
        rows.into_iter().for_each(|row| self.store(number, row));
        number
    }

    fn event(&mut self, chain: usize, event: &Event<'_>) {
        let row = self.chains[chain].append(self.now, &event.encode()).unwrap();
        self.store(chain, row);
    }

    fn head(&mut self, chain: usize, closed: bool) {
        let row = self.chains[chain].head(self.now, closed, &self.key).unwrap();
        self.store(chain, row);
    }

    fn store(&mut self, chain: usize, row: Vec<u8>) {
        let tip = self.chains[chain].tip();
        self.rows.push((tip.instance, row));
        self.moved.insert(tip.instance, tip);
    }

    /// Opens a chain for the sake of its head, and closes it. Gives the head's place among the rows.
    fn take_head(&mut self) -> usize {
        let chain = self.open();
        let place = self.rows.len() - 1;
        self.head(chain, true);
        place
    }

    fn public(&self) -> PublicKey {
        self.key.public().unwrap()
    }

    fn verify(&self, rows: &[Stored], kept: &[&[u8]]) -> (Vec<Finding>, Report) {
        verify(&[self.public()], rows, kept)
    }
}

/// The findings row by row, then those of the end, and the report.
fn verify(members: &[PublicKey], rows: &[Stored], kept: &[&[u8]]) -> (Vec<Finding>, Report) {
    let lookup = |kid: &Kid| members.iter().copied().find(|key| key.kid() == *kid);
    let mut verifier = Verifier::new(DOMAIN, lookup);
    for head in kept {
        verifier.keep(head).unwrap();
    }
    let mut found: Vec<_> = rows.iter().flat_map(|(instance, row)| verifier.row(instance, row)).collect();
    let report = verifier.finish();
    found.extend(report.findings.iter().cloned());
    (found, report)
}

fn encoded_context(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut e = Encoder::new();
    e.map(pairs.len());
    for (key, value) in pairs {
        e.text(key).text(value);
    }
    e.finish()
}

/// An event of some form.
fn sample(n: usize, context: &[u8]) -> Event<'_> {
    let failed: Result<()> = Err(ErrorKind::KeyFunctionNotPermitted.into());
    Event {
        principal: Name::new(["SO", "user", "anna", "Größe"][n % 4]).unwrap(),
        host: Name::new(["web-1", "web-2"][n % 2]).unwrap(),
        action: Action::ALL[n % Action::ALL.len()],
        key: (!n.is_multiple_of(5)).then(|| KeyName::new(KEY).unwrap()),
        target: n.is_multiple_of(3).then(|| Name::new("alias/files").unwrap()),
        context: (n % 4 == 1).then(|| Context::from_encoded(context).unwrap()),
        outcome: if n % 7 == 6 { Outcome::of(&failed) } else { Outcome::OK },
    }
}

#[test]
fn names_of_keys() {
    let mrk = "mrk-0123456789abcdef0123456789abcdef";
    assert!([KEY, mrk].into_iter().all(|name| KeyName::new(name).is_some()));
    let wrong = ["", "mrk-", &KEY[1..], &KEY.to_uppercase(), &mrk[..35], &format!("{KEY}-"), &format!("{mrk}0")];
    assert!(wrong.into_iter().all(|name| KeyName::new(name).is_none()));
}

#[test]
fn actions_have_names_of_their_own() {
    for action in Action::ALL {
        assert_eq!(Action::of_name(action.name()), Some(*action));
    }
}

#[test]
fn contexts_have_one_encoding() {
    let good = encoded_context(&[("b", "1"), ("aa", "2")]);
    assert_eq!(Context::from_encoded(&good).unwrap().pairs().unwrap(), [("b", "1"), ("aa", "2")]);
    let long = "x".repeat(9000);
    for pairs in [&[("aa", "2"), ("b", "1")][..], &[("a", "1"), ("a", "1")], &[("a", &long)]] {
        assert!(Context::from_encoded(&encoded_context(pairs)).is_err());
    }
    assert!(Context::from_encoded(&[good, vec![0]].concat()).is_err());
}

#[test]
fn a_chain_asks_for_its_heads_and_takes_nothing_after_the_last() {
    let mut world = World::new("heads");
    let chain = world.open();
    let event = sample(1, &[0xa0]).encode();
    let chain = &mut world.chains[chain];
    assert!(!chain.head_is_due(NOW + 5000));
    for n in 0..1000 {
        assert!(!chain.head_is_due(NOW + 999));
        assert_eq!(chain.head_is_due(NOW + 1000), n > 0);
        chain.append(NOW, &event).unwrap();
    }
    assert!(chain.head_is_due(NOW));
    assert!(chain.append(NOW, &event).is_err());
    chain.head(NOW, false, &world.key).unwrap();
    chain.append(NOW, &event).unwrap();
    chain.head(NOW, true, &world.key).unwrap();
    assert!(chain.append(NOW, &event).is_err() && chain.head(NOW, true, &world.key).is_err());
    assert!(!chain.head_is_due(u64::MAX));
}

#[test]
fn a_clock_that_goes_back_stands_still_in_the_log() {
    let mut world = World::new("clock");
    let chain = world.open();
    world.event(chain, &sample(2, &[]));
    world.now -= 5000;
    world.event(chain, &sample(3, &[]));
    world.head(chain, true);
    assert_eq!(world.verify(&world.rows, &[]).0, []);
}

/// The hash by which a row is named.
fn hash_of(row: &Stored) -> [u8; 48] {
    hash(&row.1)
}
