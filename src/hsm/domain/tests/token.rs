use std::sync::Arc;

use coset::TaggedCborSerializable;
use sha2::{Digest, Sha384};

use super::super::super::command::{DomainToken, IndexColumn, PinCost, PinRecord, Role};
use super::super::super::crypto::{Entropy, SecretBytes};
use super::super::cbor::{Decoder, Encoder};
use super::super::cose::{self, ESP384, Form, Header, Message};
use super::super::keys::{PrivateKey, PublicKey};
use super::super::state::{KeyStatus, State};
use super::super::{Circumstances, Kind, Opened, PublicState, check_pin, key_id_of};
use super::CHEAP;
use crate::error::{ErrorKind, Result};

const SO_PIN: &[u8] = b"so-pin-1";
const OBJECT: [u8; 16] = [7; 16];

fn seeded(seed: &str) -> Circumstances {
    Circumstances { entropy: Entropy::seeded(seed), now: 1_700_000_000 }
}

struct Founded {
    opened: Opened,
    domain: DomainToken,
    so_pin: PinRecord,
}

fn found(seed: &str) -> Founded {
    let (opened, domain, so_pin) = Opened::found("demo", "00112233445566aa", SO_PIN, CHEAP, &mut seeded(seed)).unwrap();
    Founded { opened, domain, so_pin }
}

fn adopt(opened: &Opened, token: &DomainToken) -> Result<Opened> {
    opened.advance(opened.public().adopt(token)?)
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

fn detail<T>(result: Result<T>) -> String {
    result.err().unwrap().detail().unwrap_or_default().to_owned()
}

fn open(domain: &Opened, generation: u64, sealed: &[u8]) -> Result<SecretBytes> {
    let sealer = domain.sealer_for(&key_id_of(sealed)?, &OBJECT, generation, 1_700_000_000)?;
    sealer.open(Kind::Key, &OBJECT, generation, sealed)
}

fn set_pin(opened: &Opened, role: Role, pin: &[u8]) -> (Opened, PinRecord, DomainToken) {
    let (opened, change) = opened.change_pin(&role, pin, CHEAP, &mut Circumstances::of_system()).unwrap();
    (opened, change.pins[0].clone(), change.domain)
}

#[test]
fn each_pin_opens_the_same_domain() {
    let founded = found("a");
    let sealed = founded.opened.sealer().seal(Kind::Key, &OBJECT, 1, b"key").unwrap();
    let (opened, user, domain) = set_pin(&founded.opened, Role::User, b"user-pin");
    let (opened, named, domain2) = set_pin(&opened, Role::Named("anna".into()), b"");
    assert_eq!((domain.version, domain2.version), (2, 3));
    assert_eq!(opened.state().previous.map(|h| h.len()), Some(48));

    let public = PublicState::first_seen(&domain2).unwrap();
    assert_eq!(public.hash(), opened.public().hash());
    for (record, pin) in [(&founded.so_pin, SO_PIN), (&user, b"user-pin"), (&named, b"")] {
        check_pin(&public, record, pin).unwrap();
        let again = Opened::with_pin(&public, record, pin).unwrap();
        assert_eq!(open(&again, 1, &sealed).unwrap().expose(), b"key");
        let tag = |o: &Opened| o.index_key().tag(IndexColumn::Id, b"1").unwrap();
        assert_eq!(tag(&again), tag(&founded.opened));
        assert_eq!(kind(Opened::with_pin(&public, record, b"wrong")), Some(ErrorKind::PinIncorrect));
        assert_eq!(kind(check_pin(&public, record, b"wrong")), Some(ErrorKind::PinIncorrect));
        assert_eq!(kind(check_pin(&public, record, &[b'1'; 256])), Some(ErrorKind::PinLenRange));
    }
}

#[test]
fn a_changed_pin_shuts_the_old_one_out() {
    let founded = found("a");
    let (opened, first, domain) = set_pin(&founded.opened, Role::User, b"first");
    let (_, second, newer) = set_pin(&opened, Role::User, b"second");
    assert_eq!((first.generation, second.generation), (1, 2));
    let public = PublicState::first_seen(&newer).unwrap();
    assert!(Opened::with_pin(&public, &second, b"second").is_ok());
    assert_eq!(kind(Opened::with_pin(&public, &first, b"first")), Some(ErrorKind::TokenNotRecognized));
    // The old record under the new generation does not help.
    let forged = PinRecord { generation: 2, ..first };
    assert_eq!(kind(Opened::with_pin(&public, &forged, b"first")), Some(ErrorKind::TokenNotRecognized));
    let public = PublicState::first_seen(&domain).unwrap();
    assert_eq!(kind(Opened::with_pin(&public, &second, b"second")), Some(ErrorKind::TokenNotRecognized));
    let nobody = PinRecord { role: Role::Named("eve".into()), ..second };
    assert_eq!(kind(check_pin(&public, &nobody, b"second")), Some(ErrorKind::UserPinNotInitialized));
}

#[test]
fn a_swapped_record_gets_no_secrets() {
    let founded = found("a");
    let (opened, user, _) = set_pin(&founded.opened, Role::User, b"user-pin");
    // The file's owner puts in a record of his own making, for a PIN he knows.
    let mut entropy = Entropy::System;
    let (planted, _) = super::super::pin::make(
        opened.state(),
        &opened.state().members[0].signing,
        &Role::User,
        1,
        b"known",
        CHEAP,
        &mut entropy,
    )
    .unwrap();
    assert_eq!(kind(Opened::with_pin(opened.public(), &planted, b"known")), Some(ErrorKind::TokenNotRecognized));
    // The next change of another PIN encrypts to the key that the state names, whatever the file has.
    let (_, _, newer) = set_pin(&opened, Role::So, b"so-pin-2");
    let public = PublicState::first_seen(&newer).unwrap();
    assert!(Opened::with_pin(&public, &user, b"user-pin").is_ok());
    assert_eq!(kind(Opened::with_pin(&public, &planted, b"known")), Some(ErrorKind::TokenNotRecognized));
}

#[test]
fn a_swapped_state_is_not_opened() {
    let founded = found("a");
    // The file's owner signs a state that names the victim's PIN, with secrets that he knows.
    let attacker = found("b");
    let mut state = attacker.opened.state().clone();
    state.domain = founded.opened.state().domain;
    state.users = founded.opened.state().users.clone();
    let secrets = SecretBytes::copy_of(b"known to the attacker").unwrap();
    let signer = attacker.opened.signing_for_tests();
    let (token, _) = super::super::token::export(&state, &secrets, signer, &mut Entropy::System).unwrap();
    let public = PublicState::first_seen(&token).unwrap();
    assert!(detail(Opened::with_pin(&public, &founded.so_pin, SO_PIN)).contains("not the one"));
}

#[test]
fn the_cost_has_a_floor_and_a_ceiling() {
    let with = |memory_kib, passes, lanes| {
        let cost = PinCost { memory_kib, passes, lanes };
        kind(Opened::found("demo", "00", SO_PIN, cost, &mut seeded("a")))
    };
    for (memory, passes, lanes) in [(1023, 1, 1), (u32::MAX, 1, 1), (1024, 0, 1), (1024, 65, 1), (1024, 1, 17)] {
        assert_eq!(with(memory, passes, lanes), Some(ErrorKind::ArgumentsBad), "{memory} {passes} {lanes}");
    }
    assert_eq!(with(1024 * 1024, 64, 1), Some(ErrorKind::ArgumentsBad));
    assert_eq!(with(2048, 2, 2), None);
}

#[test]
fn every_change_to_a_pin_record_is_refused() {
    let founded = found("a");
    let public = founded.opened.public();
    let refused = |sealed: Vec<u8>, what: &str| {
        let record = PinRecord { sealed, ..founded.so_pin.clone() };
        let kind = kind(check_pin(public, &record, SO_PIN));
        assert!(matches!(kind, Some(ErrorKind::TokenNotRecognized | ErrorKind::PinIncorrect)), "{what}: {kind:?}");
    };
    let sealed = &founded.so_pin.sealed;
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        refused(changed, &format!("bit {bit}"));
    }
    for len in 0..sealed.len() {
        refused(sealed[..len].to_vec(), &format!("{len} bytes"));
    }
    refused([&sealed[..], &[0]].concat(), "trailing byte");
    let record = PinRecord { role: Role::User, ..founded.so_pin.clone() };
    assert_eq!(kind(check_pin(public, &record, SO_PIN)), Some(ErrorKind::UserPinNotInitialized));
    let elsewhere = found("b");
    assert_eq!(
        kind(check_pin(elsewhere.opened.public(), &founded.so_pin, SO_PIN)),
        Some(ErrorKind::TokenNotRecognized)
    );
}

#[test]
fn every_change_to_a_domain_token_is_refused() {
    let founded = found("a");
    let bytes = &founded.domain.bytes;
    let refused = |bytes: Vec<u8>, what: &str| {
        let token = DomainToken { version: 1, bytes };
        assert_eq!(kind(PublicState::first_seen(&token)), Some(ErrorKind::TokenNotRecognized), "{what}");
    };
    // One bit of each byte: a signature is verified for each.
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        refused(changed, &format!("byte {at}"));
    }
    for len in (0..bytes.len()).step_by(7) {
        refused(bytes[..len].to_vec(), &format!("{len} bytes"));
    }
    refused([&bytes[..], &[0]].concat(), "trailing byte");
    let renumbered = DomainToken { version: 2, bytes: bytes.clone() };
    assert_eq!(kind(PublicState::first_seen(&renumbered)), Some(ErrorKind::TokenNotRecognized));
}

/// Signs a changed state anew, with whatever is left of the token.
fn forge(token: &DomainToken, signer: &PrivateKey, content_type: &str, change: impl FnOnce(&mut State)) -> DomainToken {
    let message = Message::decode(Form::Sign1, &token.bytes).unwrap();
    let mut d = Decoder::new(message.content);
    d.array_of(2).unwrap();
    let encoded = d.bytes().unwrap();
    let mut payload = Encoder::new();
    payload.array(2);
    let mut state = State::decode(encoded).unwrap();
    change(&mut state);
    payload.bytes(&state.encode());
    payload.raw(d.remaining());
    let payload = payload.finish();
    let kid = signer.public().unwrap().kid();
    let mut header = Header::new(ESP384, content_type);
    header.kid = Some(&kid);
    let protected = header.encode();
    let signature = signer.sign(&cose::authenticated(Form::Sign1, &protected, &state.domain, &payload)).unwrap();
    DomainToken { version: state.version, bytes: cose::encode(Form::Sign1, &protected, &payload, &signature) }
}

#[test]
fn only_members_speak_for_the_domain() {
    const TYPE: &str = "application/vnd.conclave.domain-token";
    let founded = found("a");
    let held = PublicState::first_seen(&founded.domain).unwrap();
    let next = |state: &mut State| {
        state.version += 1;
        state.previous = Some(*held.hash());
    };
    let member = founded.opened.signing_for_tests();
    let stranger = PrivateKey::generate(&mut Entropy::System).unwrap();
    // Signed by the member, this would do.
    let good = forge(&founded.domain, member, TYPE, next);
    assert!(held.adopt(&good).is_ok());

    let by_stranger = forge(&founded.domain, &stranger, TYPE, next);
    assert!(detail(held.adopt(&by_stranger)).contains("signer is not a member"));
    let takeover = forge(&founded.domain, &stranger, TYPE, |state| {
        next(state);
        state.members[0].signing = stranger.public().unwrap();
    });
    assert!(detail(held.adopt(&takeover)).contains("signer is not a member"));
    let suicide = forge(&founded.domain, member, TYPE, |state| {
        next(state);
        state.members[0].signing = stranger.public().unwrap();
    });
    assert!(detail(held.adopt(&suicide)).contains("expels its own signer"));
    let retyped = forge(&founded.domain, member, "application/vnd.conclave.proposal", next);
    assert_eq!(kind(held.adopt(&retyped)), Some(ErrorKind::TokenNotRecognized));
    // Whoever is added to the recipients gets nothing out of what was encrypted before.
    let listed = forge(&founded.domain, member, TYPE, |state| {
        next(state);
        state.users[0].agreement = Some(stranger.public().unwrap());
    });
    assert!(detail(held.adopt(&listed)).contains("exactly the state's recipients"));
    let two_active = forge(&founded.domain, member, TYPE, |state| {
        next(state);
        let mut key = state.domain_keys[0].clone();
        key.id[0] ^= 1;
        key.status = KeyStatus::Active;
        state.domain_keys.push(key);
        state.domain_keys.sort_by_key(|key| key.id);
    });
    assert!(detail(held.adopt(&two_active)).contains("active domain key"));
    // The secrets must be those that the state commits to.
    let other_keys = forge(&founded.domain, member, TYPE, |state| {
        next(state);
        state.domain_keys[0].id[0] ^= 1;
    });
    assert!(adopt(&founded.opened, &other_keys).is_err());
}

#[test]
fn versions_only_go_forward_and_never_fork() {
    let founded = found("a");
    let (two, _, second) = set_pin(&founded.opened, Role::User, b"2222");
    let (three, _, third) = set_pin(&two, Role::User, b"3333");
    let (_, _, fork) = set_pin(&founded.opened, Role::User, b"fork");
    let held = PublicState::first_seen(&second).unwrap();
    let first = PublicState::first_seen(&founded.domain).unwrap();

    assert_eq!(first.adopt(&second).unwrap().hash(), held.hash());
    assert_eq!(held.adopt(&third).unwrap().state().version, 3);
    assert!(Arc::ptr_eq(&held.adopt(&second).unwrap(), &held));
    assert!(detail(held.adopt(&founded.domain)).contains("older"));
    assert!(detail(held.adopt(&fork)).contains("another state of the same version"));
    let forked = PublicState::first_seen(&fork).unwrap();
    assert!(detail(forked.adopt(&third)).contains("does not continue"));
    // An embedded instance that was away takes the newest at once.
    assert_eq!(adopt(&founded.opened, &third).unwrap().public().hash(), three.public().hash());
    let other = found("b");
    assert!(detail(held.adopt(&other.domain)).contains("another domain"));
    let sealed = three.sealer().seal(Kind::Key, &OBJECT, 1, b"key").unwrap();
    let caught_up = adopt(&founded.opened, &third).unwrap();
    assert_eq!(open(&caught_up, 1, &sealed).unwrap().expose(), b"key");
    assert!(open(&other.opened, 1, &sealed).is_err());
}

#[test]
fn revoked_generations_are_refused() {
    let founded = found("a");
    let old = founded.opened.sealer().seal(Kind::Key, &OBJECT, 4, b"key").unwrap();
    let new = founded.opened.sealer().seal(Kind::Key, &OBJECT, 5, b"key").unwrap();
    let mut circumstances = seeded("c");
    let (opened, token) = founded
        .opened
        .next_version(&mut circumstances, |state| {
            state.revoked.insert(OBJECT, 5);
            Ok(())
        })
        .unwrap();
    assert_eq!(PublicState::first_seen(&token).unwrap().hash(), opened.public().hash());
    assert!(open(&opened, 4, &old).is_err());
    assert!(open(&opened, 5, &new).is_ok());
}

#[test]
fn a_state_must_be_consistent() {
    let good = found("a").opened.state().clone();
    assert_eq!(State::decode(&good.encode()).unwrap(), good);
    type Break = fn(&mut State);
    let breaks: [(&str, Break); 8] = [
        ("no members", |s| s.members.clear()),
        ("a member twice", |s| s.members.push(s.members[0].clone())),
        ("version 0", |s| s.version = 0),
        ("no previous hash", |s| s.version = 2),
        ("no active key", |s| s.domain_keys[0].status = KeyStatus::DecryptOnly),
        ("no suite", |s| s.suites.clear()),
        ("unsorted suites", |s| s.suites = vec![2, 1]),
        ("a long name", |s| s.name = "x".repeat(256)),
    ];
    for (what, change) in breaks {
        let mut state = good.clone();
        change(&mut state);
        assert!(State::decode(&state.encode()).is_err(), "{what}");
    }
    // Another governance hash than that of the rules.
    let governance = good.governance();
    let mut encoded = good.encode();
    let at = encoded.windows(48).position(|w| w == governance).unwrap();
    encoded[at] ^= 1;
    assert!(State::decode(&encoded).is_err());
}

#[test]
fn public_keys_have_one_encoding_and_lie_on_the_curve() {
    let key = PrivateKey::generate(&mut Entropy::System).unwrap().public().unwrap();
    let spki = *key.spki();
    assert_eq!(PublicKey::from_spki(&spki), Ok(key));
    for at in [30, 119] {
        let mut changed = spki;
        changed[at] ^= 1;
        assert!(PublicKey::from_spki(&changed).is_err());
    }
    let mut compressed = spki;
    compressed[23] = 2;
    assert!(PublicKey::from_spki(&compressed).is_err());
    assert!(PublicKey::from_spki(&spki[..119]).is_err());
}

#[test]
fn another_implementation_verifies_the_signature() {
    let founded = found("a");
    let message = coset::CoseSign1::from_tagged_slice(&founded.domain.bytes).unwrap();
    let signer = founded.opened.state().members[0].signing;
    assert_eq!(message.protected.header.key_id, signer.kid());
    let domain = founded.opened.state().domain;
    let verified = message.verify_signature(
        &domain,
        |signature, data| {
            if signer.verify(data, signature) { Ok(()) } else { Err(()) }
        },
    );
    assert_eq!(verified, Ok(()));
    let payload = message.payload.unwrap();
    let mut d = Decoder::new(&payload);
    d.array_of(2).unwrap();
    assert_eq!(Sha384::digest(d.bytes().unwrap())[..], founded.opened.public().hash()[..]);
}
