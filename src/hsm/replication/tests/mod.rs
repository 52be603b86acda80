//! Messages, agreement and records: what one side makes the other reads, and nothing else.

mod vectors;

use proptest::prelude::*;

use super::super::crypto::{Entropy, SecretBytes};
use super::super::domain::TrustedRegion;
use super::super::domain::cbor::Encoder;
use super::super::domain::cose::{self, ESP384, Form, Header};
use super::super::domain::keys::PrivateKey;
use super::agreement::{Exchange, ExchangeKeys, OfferSecrets, Place, Suite};
use super::message::*;
use super::record::{KeyRecord, KeyVersion};
use super::{Party, sha384};
use crate::error::{ErrorKind, Result};
use crate::hsm::MessageKind;

/// Two Regions that trust each other, A and B.
struct Regions {
    entropy: Entropy,
    a: Party,
    b: Party,
    a_rsk: PrivateKey,
    b_rsk: PrivateKey,
}

impl Regions {
    fn new(seed: &str) -> Self {
        let mut entropy = Entropy::seeded(seed);
        let a = Party { region: "eu-north".to_owned(), domain: entropy.array().unwrap() };
        let b = Party { region: "us-west".to_owned(), domain: entropy.array().unwrap() };
        let a_rsk = PrivateKey::generate(&mut entropy).unwrap();
        let b_rsk = PrivateKey::generate(&mut entropy).unwrap();
        Self { entropy, a, b, a_rsk, b_rsk }
    }

    fn trusted(party: &Party, rsk: &PrivateKey) -> TrustedRegion {
        let replication_keys = vec![rsk.public().unwrap()];
        TrustedRegion { name: party.region.clone(), domain: party.domain, replication_keys }
    }

    /// What B knows of A.
    fn known_to_b(&self) -> Vec<TrustedRegion> {
        vec![Self::trusted(&self.a, &self.a_rsk)]
    }

    fn known_to_a(&self) -> Vec<TrustedRegion> {
        vec![Self::trusted(&self.b, &self.b_rsk)]
    }

    /// From A to B.
    fn send<'a, B: Body<'a>>(&self, body: B) -> Vec<u8> {
        Message { from: self.a.clone(), to: self.b.clone(), body }.sign(&self.a_rsk).unwrap()
    }

    /// From B to A.
    fn answer<'a, B: Body<'a>>(&self, body: B) -> Vec<u8> {
        Message { from: self.b.clone(), to: self.a.clone(), body }.sign(&self.b_rsk).unwrap()
    }

    fn receive<'a, B: Body<'a>>(&self, bytes: &'a [u8]) -> Result<Opened<B>> {
        Message::open(bytes, &self.b, &self.known_to_b())
    }

    fn offer(&mut self, suite: Suite) -> (OfferSecrets, Offer) {
        let secrets = OfferSecrets::generate(suite, &mut self.entropy).unwrap();
        let (rakb, ek) = secrets.public().unwrap();
        let keys = vec![Wanted { key_id: id(1), held: 0 }, Wanted { key_id: id(2), held: 70_000 }];
        (secrets, Offer { offer: self.entropy.array().unwrap(), suite, not_after: 1_700_000_600, keys, rakb, ek })
    }

    fn exchange(&self, suite: Suite, offer: &[u8]) -> Exchange {
        let kid = |key: &PrivateKey| key.public().unwrap().kid();
        Exchange {
            suite,
            a: self.a.clone(),
            b: self.b.clone(),
            a_kid: kid(&self.a_rsk),
            b_kid: kid(&self.b_rsk),
            offer_hash: sha384(offer),
        }
    }
}

fn id(n: u128) -> String {
    format!("mrk-{:032x}", n.wrapping_mul(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef))
}

fn handover(new_primary: &Party) -> Handover {
    let replica = HandedReplica { party: new_primary.clone(), incarnation: [5; 16], held: 3, active: 2 };
    let details = HandoverDetails {
        incarnation: [4; 16],
        version: 3,
        newest: 3,
        rotation: Some((90, 1_800_000_000)),
        replicas: vec![replica],
    };
    let without = HandoverDetails { rotation: None, replicas: Vec::new(), ..details.clone() };
    let handed = |n, details| HandedOver {
        key_id: id(n),
        incarnation: [3; 16],
        old_term: 1,
        new_term: 2,
        primary: new_primary.clone(),
        details,
    };
    Handover { keys: vec![handed(1, Some(details)), handed(2, None), handed(3, Some(without))] }
}

fn activation() -> Vec<Activation> {
    [1, 2].map(|n| Activation { key_id: id(n), incarnation: [3; 16], term: 1, version: 23 + n as u64 }).into()
}

fn deletion() -> Vec<Deletion> {
    vec![Deletion { key_id: id(1), incarnation: [3; 16], term: u64::MAX }]
}

fn record() -> KeyRecord {
    let version = |version, material: &[u8]| KeyVersion {
        version,
        created: 1_700_000_000 + version,
        material: SecretBytes::copy_of(material).unwrap(),
    };
    KeyRecord {
        key_id: id(1),
        object: [1; 16],
        public_object: Some([2; 16]),
        spec: "SYMMETRIC_DEFAULT".to_owned(),
        usage: 1,
        origin: 0,
        standard_mechanisms: false,
        replicate_imported: true,
        label: b"label \xff".to_vec(),
        created: 1_700_000_000,
        term: 1,
        version: 2,
        newest: 3,
        rotated: Some(1_700_000_002),
        rotation: Some((365, 1_731_536_000)),
        valid_to: None,
        material_digest: Some([9; 48]),
        versions: vec![version(2, &[2; 32]), version(3, &[3; 32])],
    }
}

fn refused<T>(result: Result<T>) {
    assert_eq!(result.err().map(|error| error.kind()), Some(ErrorKind::KmsReplicationRefused));
}

/// That a message arrives as it was sent, and is nothing else.
fn crosses<B>(regions: &Regions, kind: MessageKind, body: B)
where
    B: for<'a> Body<'a> + Clone + PartialEq + std::fmt::Debug,
{
    let bytes = regions.send(body.clone());
    let opened = regions.receive::<B>(&bytes).unwrap();
    assert_eq!(opened.message.body, body);
    assert_eq!((opened.kid, opened.hash), (regions.a_rsk.public().unwrap().kid(), sha384(&bytes)));
    let view = peek(&bytes).unwrap();
    assert_eq!((view.kind, &*view.from, &*view.to), (kind, "eu-north", "us-west"));
    assert_eq!(view.keys, body.key_ids());
    if kind != MessageKind::Taken {
        refused(regions.receive::<Taken>(&bytes));
    } else {
        refused(regions.receive::<Deleted>(&bytes));
    }
}

#[test]
fn every_message_arrives() {
    let regions = Regions::new("arrives");
    crosses(&regions, MessageKind::Request, Request { nonce: [1; 16], not_after: 5, keys: vec![id(1)] });
    for suite in [Suite::P384, Suite::P384MlKem1024] {
        let offer = Regions::new("offer").offer(suite).1;
        crosses(&regions, MessageKind::Offer, offer);
    }
    let receipted =
        Receipted { key_id: id(1), incarnation: [1; 16], term: 1, version: 2, newest: 3, commitment: [4; 48] };
    let receipt = Receipt { offer: [1; 16], shipment_hash: [2; 48], keys: vec![receipted] };
    crosses(&regions, MessageKind::Receipt, receipt);
    crosses(&regions, MessageKind::Activate, Activate { keys: activation() });
    crosses(&regions, MessageKind::Activated, Activated { keys: activation() });
    crosses(&regions, MessageKind::Deleted, Deleted { keys: deletion() });
    crosses(&regions, MessageKind::Forgotten, Forgotten { keys: deletion() });
    crosses(&regions, MessageKind::Handover, handover(&regions.b));
    let taken = TakenKey { key_id: id(1), incarnation: [1; 16], new_term: 2 };
    crosses(&regions, MessageKind::Taken, Taken { keys: vec![taken] });
}

#[test]
fn every_flipped_bit_is_refused() {
    let regions = Regions::new("flipped");
    let bytes = regions.send(Activate { keys: activation() });
    let mut read = 0;
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        refused(regions.receive::<Activate>(&flipped));
        read += usize::from(peek(&flipped).is_ok());
    }
    // Some of them a host reads, and the HSM does not believe.
    assert!(read > 0);
    for len in 0..bytes.len() {
        refused(regions.receive::<Activate>(&bytes[..len]));
    }
    refused(regions.receive::<Activate>(&[&bytes[..], &[0]].concat()));
}

#[test]
fn nobody_speaks_for_another() {
    let regions = Regions::new("speaks");
    let message = |from: &Party, to: &Party| Message {
        from: from.clone(),
        to: to.clone(),
        body: Activate { keys: activation() },
    };
    let open =
        |bytes: &[u8], trusted: &[TrustedRegion]| Message::<Activate>::open(bytes, &regions.b, trusted).map(drop);
    let known = regions.known_to_b();
    let honest = message(&regions.a, &regions.b).sign(&regions.a_rsk).unwrap();
    assert!(open(&honest, &known).is_ok());
    refused(open(&honest, &[]));
    // Another key, another domain of the same name, another receiver.
    refused(open(&message(&regions.a, &regions.b).sign(&regions.b_rsk).unwrap(), &known));
    let elsewhere = Party { domain: [9; 16], ..regions.a.clone() };
    refused(open(&message(&elsewhere, &regions.b).sign(&regions.a_rsk).unwrap(), &known));
    refused(open(&message(&regions.a, &regions.a).sign(&regions.a_rsk).unwrap(), &known));
    refused(open(
        &message(&regions.a, &Party { domain: [9; 16], ..regions.b.clone() }).sign(&regions.a_rsk).unwrap(),
        &known,
    ));
    // C is trusted too, and signs as A.
    let c_rsk = PrivateKey::generate(&mut Entropy::seeded("c")).unwrap();
    let c = Party { region: "ap-south".to_owned(), domain: [7; 16] };
    let both = [Regions::trusted(&c, &c_rsk), known[0].clone()];
    refused(open(&message(&regions.a, &regions.b).sign(&c_rsk).unwrap(), &both));
    assert!(open(&honest, &both).is_ok());
    // The name of A with the domain of C, signed by C.
    let mixed = Party { domain: c.domain, ..regions.a.clone() };
    refused(open(&message(&mixed, &regions.b).sign(&c_rsk).unwrap(), &both));
    // An RSK that A has no more, beside one that it has.
    let mut rotated = known[0].clone();
    rotated.replication_keys = vec![c_rsk.public().unwrap()];
    refused(open(&honest, &[rotated.clone()]));
    rotated.replication_keys.push(regions.a_rsk.public().unwrap());
    assert!(open(&honest, &[rotated]).is_ok());
}

/// A message with this content, signed by A, whatever it says.
fn forged(regions: &Regions, content: &[u8]) -> Vec<u8> {
    let kid = regions.a_rsk.public().unwrap().kid();
    let mut header = Header::new(ESP384, "application/vnd.conclave.replication.request");
    header.kid = Some(&kid);
    let protected = header.encode();
    let signed = cose::authenticated(Form::Sign1, &protected, &regions.a.domain, content);
    cose::encode(Form::Sign1, &protected, content, &regions.a_rsk.sign(&signed).unwrap())
}

#[test]
fn only_the_one_encoding_is_read() {
    let regions = Regions::new("encoding");
    let content = |keys: &[&str], nonce: &[u8]| {
        let mut e = Encoder::new();
        e.array(5);
        regions.a.encode(&mut e);
        regions.b.encode(&mut e);
        e.bytes(nonce).uint(7).list(keys, |e, key| {
            e.text(key);
        });
        e.finish()
    };
    let read = |content: &[u8]| regions.receive::<Request>(&forged(&regions, content)).map(drop);
    let (one, two) = (id(1), id(2));
    let good = content(&[&one, &two], &[0; 16]);
    assert!(read(&good).is_ok());
    refused(read(&content(&[], &[0; 16])));
    refused(read(&content(&[&one, &two, &one], &[0; 16])));
    refused(read(&content(&[&one.to_uppercase()], &[0; 16])));
    refused(read(&content(&["0123"], &[0; 16])));
    refused(read(&content(&[&one], &[0; 15])));
    refused(read(&[&good[..], &[0xf6]].concat()));
    // The number 7 in two bytes.
    let at = good.iter().position(|byte| *byte == 7).unwrap();
    let long = [&good[..at], &[0x18, 7], &good[at + 1..]].concat();
    refused(read(&long));
    let many: Vec<String> = (0..=MAX_KEYS as u128).map(id).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(read(&content(&many[..MAX_KEYS], &[0; 16])).is_ok());
    refused(read(&content(&many, &[0; 16])));
    refused(peek(&vec![0; MAX_MESSAGE + 1]));
    let request = |keys| Message {
        from: regions.a.clone(),
        to: regions.b.clone(),
        body: Request { nonce: [0; 16], not_after: 7, keys },
    };
    assert!(request(Vec::new()).sign(&regions.a_rsk).is_err());
}

#[test]
fn a_suite_has_its_own_keys_and_no_others() {
    let mut regions = Regions::new("suites");
    for (suite, other) in [(Suite::P384, Suite::P384MlKem1024), (Suite::P384MlKem1024, Suite::P384)] {
        let (_, offer) = regions.offer(suite);
        let wrong = regions.send(Offer { suite: other, ..offer });
        refused(regions.receive::<Offer>(&wrong));
    }
    assert_eq!(Suite::highest(&[1, 2, 3]), Some(Suite::P384MlKem1024));
    assert_eq!((Suite::highest(&[1]), Suite::highest(&[3])), (Some(Suite::P384), None));
}

#[test]
fn what_is_sealed_opens_in_its_place_only() {
    for suite in [Suite::P384, Suite::P384MlKem1024] {
        let mut regions = Regions::new("sealed");
        let (secrets, offer) = regions.offer(suite);
        let offered = regions.answer(offer.clone());
        let opened = Message::<Offer>::open(&offered, &regions.a, &regions.known_to_a()).unwrap();
        assert_eq!(opened.message.body, offer);
        let exchange = regions.exchange(suite, &offered);
        let (raka, ct, at_a) = ExchangeKeys::answer(&exchange, &offer, &mut Entropy::System).unwrap();
        let place = Place { index: 0, count: 2, key_id: &offer.keys[0].key_id };
        let sealed = at_a.seal(place, b"record").unwrap();
        let keys = vec![SealedKey { key_id: id(1), sealed: sealed.clone().into() }];
        let shipment = Shipment { offer: offer.offer, offer_hash: opened.hash, suite, raka, ct, keys };
        let shipped = regions.send(shipment.clone());
        let received = regions.receive::<Shipment<'_>>(&shipped).unwrap().message.body;
        assert_eq!(received, shipment);

        let copy = || {
            let mut again = Regions::new("sealed");
            again.offer(suite).0
        };
        let at_b = secrets.agree(&exchange, &received).unwrap();
        assert_eq!(at_b.open(place, &sealed).unwrap().expose(), b"record");
        let versions = [(1, sha384(b"one")), (2, sha384(b"two"))];
        let commit = |keys: &ExchangeKeys| keys.commitment_key().commit(&id(1), &[1; 16], &versions).unwrap();
        assert_eq!(commit(&at_a), commit(&at_b));
        assert_ne!(commit(&at_a), at_a.commitment_key().commit(&id(1), &[1; 16], &versions[..1]).unwrap());

        refused(at_b.open(Place { index: 1, ..place }, &sealed));
        refused(at_b.open(Place { count: 3, ..place }, &sealed));
        refused(at_b.open(Place { key_id: &id(2), ..place }, &sealed));
        let mut flipped = sealed.clone();
        *flipped.last_mut().unwrap() ^= 1;
        refused(at_b.open(place, &flipped));
        // Anything else in the transcript gives other keys.
        let others = [
            Exchange { a: regions.b.clone(), ..exchange.clone() },
            Exchange { b: regions.a.clone(), ..exchange.clone() },
            Exchange { a_kid: [0; 32], ..exchange.clone() },
            Exchange { b_kid: [0; 32], ..exchange.clone() },
        ];
        for other in others {
            refused(copy().agree(&other, &received).unwrap().open(place, &sealed));
        }
        if let Some(ct) = &received.ct {
            let mut wrong = ct.clone();
            wrong[7] ^= 1;
            let wrong = Shipment { ct: Some(wrong), ..received.clone() };
            refused(copy().agree(&exchange, &wrong).unwrap().open(place, &sealed));
        }
        refused(copy().agree(&exchange, &Shipment { offer_hash: [0; 48], ..received.clone() }).map(drop));
        assert!(copy().agree(&exchange, &received).unwrap().open(place, &sealed).is_ok());
    }
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let written = record();
    let encoded = written.encode().unwrap();
    let read = KeyRecord::decode(encoded.expose()).unwrap();
    assert_eq!(read.encode().unwrap().expose(), encoded.expose());
    assert_eq!((read.digests(), read.label), (written.digests(), written.label));
    for len in 0..encoded.len() {
        refused(KeyRecord::decode(&encoded.expose()[..len]).map(drop));
    }
    let refuse = |change: fn(&mut KeyRecord)| {
        let mut record = record();
        change(&mut record);
        refused(KeyRecord::decode(record.encode().unwrap().expose()).map(drop));
    };
    refuse(|record| record.versions[0].version = 1);
    refuse(|record| record.newest = 4);
    refuse(|record| record.version = 4);
    refuse(|record| record.version = 0);
    refuse(|record| record.term = 0);
    refuse(|record| record.key_id = "mrk-1".to_owned());
    refuse(|record| record.versions.swap(0, 1));
    // A key that waits for its material has none.
    let mut empty = record();
    empty.versions.clear();
    assert!(KeyRecord::decode(empty.encode().unwrap().expose()).is_ok());
}

/// One message of each kind, and of each suite.
fn one_of_each() -> Vec<Vec<u8>> {
    let mut regions = Regions::new("each");
    let receipted =
        Receipted { key_id: id(1), incarnation: [1; 16], term: 1, version: 2, newest: 3, commitment: [4; 48] };
    let taken = TakenKey { key_id: id(1), incarnation: [1; 16], new_term: 2 };
    let mut all = vec![
        regions.send(Request { nonce: [1; 16], not_after: 5, keys: vec![id(1), id(2)] }),
        regions.send(Receipt { offer: [1; 16], shipment_hash: [2; 48], keys: vec![receipted] }),
        regions.send(Activate { keys: activation() }),
        regions.send(Deleted { keys: deletion() }),
        regions.send(handover(&regions.b)),
        regions.send(Taken { keys: vec![taken] }),
    ];
    for suite in [Suite::P384, Suite::P384MlKem1024] {
        let (_, offer) = regions.offer(suite);
        let keys = vec![SealedKey { key_id: id(1), sealed: vec![7; 90].into() }];
        let (raka, ct) = (offer.rakb, offer.ek.clone());
        all.push(regions.send(Shipment { offer: [1; 16], offer_hash: [2; 48], suite, raka, ct, keys }));
        all.push(regions.send(offer));
    }
    all
}

#[test]
fn hostile_bytes_are_refused_and_nothing_worse() {
    let messages = one_of_each();
    let regions = Regions::new("each");
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 0..6);
    proptest!(ProptestConfig::with_cases(4096), |(which in any::<prop::sample::Index>(), edits in edits)| {
        let honest = which.get(&messages);
        let mut bytes = honest.clone();
        for (at, byte, how) in &edits {
            let at = at.index(bytes.len().max(1)).min(bytes.len());
            match how {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, *byte),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.get_mut(at).into_iter().for_each(|place| *place = *byte),
            }
        }
        let read = peek(&bytes);
        if bytes == *honest {
            prop_assert!(read.is_ok());
        } else {
            // A host may read it; the HSM takes it as nothing.
            prop_assert!(regions.receive::<Request>(&bytes).is_err());
            prop_assert!(regions.receive::<Offer>(&bytes).is_err());
            prop_assert!(regions.receive::<Shipment<'_>>(&bytes).is_err());
            prop_assert!(regions.receive::<Handover>(&bytes).is_err());
        }
    });
}
