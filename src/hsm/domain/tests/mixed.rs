//! From an embedded domain to a fleet: an HSM with keys of its own beside the embedded member, which it
//! expels in the end.

use std::sync::Arc;

use super::super::super::command::{DomainToken, PinRecord, Role};
use super::super::super::crypto::Entropy;
use super::super::change::Change;
use super::super::execute::Executed;
use super::super::opened::OwnKeys;
use super::super::refusal::Refusal;
use super::super::seal::key_id_of;
use super::super::state::Enrolment;
use super::super::{Kind, Opened, PublicState, check_pin, token};
use super::CHEAP;
use super::ceremony::{DAY, Governed, NOW, Person, SO_PIN, at, governed, refused, run};
use crate::error::{ErrorKind, Result};

const PIN: &[u8] = b"user-pin";

/// An embedded domain with a user, which has admitted an HSM. Each member is at the newest state.
struct Mixed {
    g: Governed,
    user: PinRecord,
    embedded: Opened,
    own: Arc<OwnKeys>,
    hsm: Opened,
    token: DomainToken,
}

impl Mixed {
    fn new() -> Self {
        let g = governed();
        let people: Vec<&Person> = g.people.iter().collect();
        let enrolment = Enrolment { code: None, until: NOW + DAY };
        let created = run(g.opened(), Change::CreateUser { role: Role::User, enrolment }, &people[..2], NOW).unwrap();
        let (opened, change) = created.opened.set_pin(&Role::User, PIN, None, CHEAP, &mut at(NOW)).unwrap();
        let user = change.pins[0].clone();
        let own = Arc::new(OwnKeys::generate(&mut Entropy::System).unwrap());
        let hsm = own.claim("rack 1", &opened.state().domain).unwrap();
        let admitted = run(&opened, Change::AdmitHsm { hsm }, &people[..2], NOW).unwrap();
        let Executed { opened: embedded, token, .. } = admitted;
        let public = PublicState::of_fingerprint(&token, embedded.public().hash()).unwrap();
        let hsm = Opened::as_member(public, Arc::clone(&own)).unwrap();
        Self { g, user, embedded, own, hsm, token }
    }

    fn people(&self) -> Vec<&Person> {
        self.g.people.iter().take(2).collect()
    }

    fn expel_embedded(&self) -> Result<Executed> {
        let id = self.hsm.state().embedded.unwrap();
        run(&self.hsm, Change::ExpelHsm { id, retain: Some(DAY) }, &self.people(), NOW)
    }
}

fn login(token: &DomainToken, record: &PinRecord, pin: &[u8]) -> Result<Opened> {
    Opened::with_pin(&PublicState::first_seen(token).unwrap(), record, pin)
}

#[test]
fn each_member_executes_and_signs_with_its_own_keys() {
    let m = Mixed::new();
    let rotate = || Change::RotateDomainKey { retain: None };
    let by_hsm = run(&m.hsm, rotate(), &[&m.g.people[2]], NOW).unwrap();
    let kid = |own: &OwnKeys| own.signing.public().unwrap().kid();
    assert_eq!(*by_hsm.opened.public().exporter(), kid(&m.own));
    let public = m.embedded.public().adopt_logged(&by_hsm.token, std::slice::from_ref(&by_hsm.entry), NOW).unwrap();
    let embedded = m.embedded.advance(public).unwrap();
    let by_embedded = run(&embedded, rotate(), &[&m.g.people[2]], NOW).unwrap();
    assert_ne!(by_embedded.opened.public().exporter(), by_hsm.opened.public().exporter());
    let log = std::slice::from_ref(&by_embedded.entry);
    let public = by_hsm.opened.public().adopt_logged(&by_embedded.token, log, NOW).unwrap();
    let hsm = by_hsm.opened.advance(public).unwrap();
    assert_eq!(*hsm.signing_for_tests().public().unwrap().spki(), *m.own.signing.public().unwrap().spki());

    // PINs open what another member signed, also one that was set there.
    for (token, pin) in [(&m.token, PIN), (&by_hsm.token, PIN), (&by_embedded.token, PIN)] {
        login(token, &m.user, pin).unwrap();
        login(token, &m.g.before.so_pin, SO_PIN).unwrap();
        assert_eq!(login(token, &m.user, b"wrong").err().unwrap().kind(), ErrorKind::PinIncorrect);
    }
    check_pin(hsm.public(), &m.user, PIN).unwrap();
    let (_, change) = hsm.set_pin(&Role::User, b"another", None, CHEAP, &mut at(NOW)).unwrap();
    let opened = login(&change.domain, &change.pins[0], b"another").unwrap();
    let record = opened.sealer().seal(Kind::Key, &[7; 16], 1, b"key").unwrap();
    assert_eq!(key_id_of(&record).unwrap(), *hsm.sealer().key_id());
}

/// Who has the store and no PIN cannot show its holder a state of his own, whatever he takes over.
#[test]
fn a_pin_opens_no_state_that_lacks_the_embedded_members_keys() {
    let m = Mixed::new();
    let forger = OwnKeys::generate(&mut Entropy::System).unwrap();
    let member = forger.claim("x", &m.hsm.state().domain).unwrap().member().unwrap();
    let mut state = m.hsm.state().clone();
    state.members.push(member);
    state.members.sort_by_key(|member| member.id);
    let domain = state.domain;
    let (other, _, _) = Opened::found("demo", &state.serial, b"a PIN", CHEAP, &mut at(NOW)).unwrap();
    state.domain_keys.clone_from(&other.state().domain_keys);
    state.index_key = other.state().index_key;
    state.replication_keys.clone_from(&other.state().replication_keys);
    let secrets = other.encoded_secrets_for_tests();
    let (forged, _) = token::export(&state, &secrets, &forger.signing, &mut Entropy::System).unwrap();
    assert!(login(&forged, &m.user, PIN).is_err());
    // Nor one in which another member is the embedded one,
    state.embedded = Some(forger.id);
    let (forged, _) = token::export(&state, &secrets, &forger.signing, &mut Entropy::System).unwrap();
    assert_eq!(login(&forged, &m.user, PIN).err().unwrap().kind(), ErrorKind::TokenNotRecognized);
    // and no embedded process opens one that has none.
    state.embedded = None;
    let (forged, _) = token::export(&state, &secrets, &forger.signing, &mut Entropy::System).unwrap();
    assert_eq!(login(&forged, &m.user, PIN).err().unwrap().kind(), ErrorKind::TokenNotRecognized);
    assert_eq!(state.domain, domain);
}

#[test]
fn the_embedded_member_is_expelled_and_the_pins_stay() {
    let m = Mixed::new();
    let id = m.hsm.state().embedded.unwrap();
    let own_expulsion = run(&m.embedded, Change::ExpelHsm { id, retain: None }, &m.people(), NOW);
    refused(own_expulsion, &Refusal::OwnExpulsion);
    let before = m.hsm.state().clone();
    let record = m.hsm.sealer().seal(Kind::Key, &[7; 16], 1, b"key").unwrap();
    let Executed { opened: hsm, token, entry } = m.expel_embedded().unwrap();

    let state = hsm.state();
    assert_eq!((state.embedded, state.members.len(), &state.serial), (None, 1, &before.serial));
    assert_ne!(state.active_key(), before.active_key());
    assert!(state.replication_keys.iter().all(|key| !before.replication_keys.contains(key)));
    assert_eq!(state.secrets_recipients().len(), 1);
    assert_eq!(state.users, before.users);
    let sealer = hsm.sealer_for(&key_id_of(&record).unwrap(), &[7; 16], 1, NOW).unwrap();
    assert_eq!(sealer.open(Kind::Key, &[7; 16], 1, &record).unwrap().expose(), b"key");

    // The HSM goes on alone: its PIN records are those that were there, and what it holds opens anew.
    check_pin(hsm.public(), &m.user, PIN).unwrap();
    check_pin(hsm.public(), &m.g.before.so_pin, SO_PIN).unwrap();
    assert_eq!(check_pin(hsm.public(), &m.user, b"wrong").err().unwrap().kind(), ErrorKind::PinIncorrect);
    let (after, change) = hsm.set_pin(&Role::User, b"another", None, CHEAP, &mut at(NOW)).unwrap();
    check_pin(after.public(), &change.pins[0], b"another").unwrap();
    assert!(check_pin(after.public(), &m.user, PIN).is_err());
    Opened::as_member(Arc::clone(after.public()), Arc::clone(&m.own)).unwrap();

    // Neither its processes nor a PIN open what came after.
    let public = m.embedded.public().adopt_logged(&token, std::slice::from_ref(&entry), NOW).unwrap();
    assert!(m.embedded.advance(public).is_err());
    for (record, pin) in [(&m.user, PIN), (&m.g.before.so_pin, SO_PIN)] {
        let error = login(&token, record, pin).err().unwrap();
        assert!(error.detail().unwrap().contains("no embedded member"), "{error:?}");
    }
}
