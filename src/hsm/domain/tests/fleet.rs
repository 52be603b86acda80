//! Several HSMs of one domain. Each has keys of its own, and nothing but bytes goes between them:
//! claims, commands, tokens, log entries, contributions.

use std::sync::Arc;

use sha2::{Digest, Sha384};

use super::super::super::command::{DomainToken, ObjectId};
use super::super::super::crypto::{Entropy, SecretBytes};
use super::super::change::Change;
use super::super::execute::{Executed, contribute};
use super::super::identity::Claim;
use super::super::keys::PrivateKey;
use super::super::log::{Entry, Step};
use super::super::opened::OwnKeys;
use super::super::recovery::Contribution;
use super::super::refusal::Refusal;
use super::super::seal::key_id_of;
use super::super::state::{Hash, StandingOrder, State};
use super::super::{Kind, Opened, PublicState, token};
use super::ceremony::{DAY, NOW, Person, at, founding, propose, refused, sign, three};
use crate::error::Result;

const OBJECT: ObjectId = [7; 16];

/// What the HSMs publish: each version's token with the entry that led to it.
#[derive(Default)]
struct Board(Vec<(DomainToken, Vec<u8>)>);

impl Board {
    fn newest(&self) -> &DomainToken {
        &self.0.last().unwrap().0
    }

    fn version(&self, version: u64) -> &(DomainToken, Vec<u8>) {
        self.0.iter().find(|(token, _)| token.version == version).unwrap()
    }

    /// The entries of the versions after this one.
    fn entries(&self, after: u64) -> Vec<Vec<u8>> {
        self.0.iter().filter(|(token, _)| token.version > after).map(|(_, entry)| entry.clone()).collect()
    }
}

struct Hsm {
    own: Arc<OwnKeys>,
    opened: Opened,
}

impl Hsm {
    fn state(&self) -> &State {
        self.opened.state()
    }

    fn version(&self) -> u64 {
        self.state().version
    }

    fn adopt(&mut self, token: &DomainToken, log: &[Vec<u8>], now: u64) -> Result<()> {
        let public = self.opened.public().adopt_logged(token, log, now)?;
        self.opened = self.opened.advance(public)?;
        Ok(())
    }

    /// Adopts the newest token by the log.
    fn follow(&mut self, board: &Board, now: u64) -> Result<()> {
        self.adopt(board.newest(), &board.entries(self.version()), now)
    }

    /// Executes a command without publishing what came of it.
    fn execute(&mut self, command: &[u8], now: u64) -> Result<(DomainToken, Vec<u8>)> {
        let executed = self.opened.execute(command, &mut at(now))?;
        self.opened = executed.opened;
        Ok((executed.token, executed.entry))
    }

    fn seal(&self) -> Vec<u8> {
        self.seal_generation(1)
    }

    fn seal_generation(&self, generation: u64) -> Vec<u8> {
        self.opened.sealer().seal(Kind::Key, &OBJECT, generation, b"key").unwrap()
    }

    fn opens(&self, record: &[u8]) -> bool {
        self.opens_at(record, 1, NOW)
    }

    fn opens_at(&self, record: &[u8], generation: u64, now: u64) -> bool {
        let sealer = self.opened.sealer_for(&key_id_of(record).unwrap(), &OBJECT, generation, now);
        sealer.is_ok_and(|s| s.open(Kind::Key, &OBJECT, generation, record).is_ok_and(|key| key.expose() == b"key"))
    }
}

struct Fleet {
    people: Vec<Person>,
    board: Board,
    hsms: Vec<Hsm>,
}

impl Fleet {
    /// Founded by three people, each officer and operator, and grown to this many HSMs.
    fn of(count: usize) -> Self {
        let own = Arc::new(OwnKeys::generate(&mut Entropy::System).unwrap());
        let (opened, _) = Opened::provision("fleet", Arc::clone(&own), &mut at(NOW)).unwrap();
        let people = three(&mut Entropy::System);
        let founding = founding(opened.state(), &people, Vec::new());
        let mut fleet = Self { people, board: Board::default(), hsms: vec![Hsm { own, opened }] };
        fleet.run(0, founding, &[0, 1, 2]).unwrap();
        (1..count).for_each(|_| fleet.grow());
        fleet
    }

    /// Admits one more HSM, which adopts against the fingerprint that its operator types in.
    fn grow(&mut self) {
        let own = Arc::new(OwnKeys::generate(&mut Entropy::System).unwrap());
        let claim = own.claim("another", &self.hsms[0].state().domain).unwrap().message().to_vec();
        self.run(0, Change::AdmitHsm { hsm: Claim::decode(&claim).unwrap() }, &[0, 1]).unwrap();
        let typed: Hash = *self.hsms[0].opened.public().hash();
        let public = PublicState::of_fingerprint(self.board.newest(), &typed).unwrap();
        self.hsms.push(Hsm { opened: Opened::as_member(public, Arc::clone(&own)).unwrap(), own });
        self.settle();
    }

    fn command(&self, state: &State, change: Change, signers: &[usize]) -> Vec<u8> {
        let signers: Vec<&Person> = signers.iter().map(|n| &self.people[*n]).collect();
        sign(propose(state, change, &mut at(NOW)), &signers)
    }

    /// One HSM executes and publishes.
    fn run(&mut self, hsm: usize, change: Change, signers: &[usize]) -> Result<()> {
        let command = self.command(self.hsms[hsm].state(), change, signers);
        let step = self.hsms[hsm].execute(&command, NOW)?;
        self.board.0.push(step);
        Ok(())
    }

    /// All follow to the newest version.
    fn settle(&mut self) {
        self.hsms.iter_mut().for_each(|hsm| hsm.follow(&self.board, NOW).unwrap());
    }

    fn ids(&self) -> Vec<[u8; 16]> {
        let mut ids: Vec<_> = self.people.iter().map(|person| person.id).collect();
        ids.sort_unstable();
        ids
    }

    fn make_recovery_set(&mut self, threshold: u64) {
        let operators = self.ids();
        self.run(0, Change::MakeRecoverySet { threshold, operators }, &[0, 1]).unwrap();
        self.settle();
    }

    fn rotate(&mut self, hsm: usize) {
        self.run(hsm, Change::RotateDomainKey { retain: None }, &[2]).unwrap();
    }

    /// The command to recover on a fresh HSM, made and signed against this state.
    fn recovery_command(&self, public: &PublicState, fresh: &OwnKeys) -> Vec<u8> {
        let state = public.state();
        let hsm = fresh.claim("fresh", &state.domain).unwrap();
        let change = Change::RecoverDomain { hsm, version: state.version, state: *public.hash() };
        self.command(state, change, &[0, 1])
    }

    fn contribute(&self, public: &PublicState, command: &[u8], person: usize) -> Result<Contribution> {
        let made = contribute(public, command, &self.people[person].agreement, &mut at(NOW))?;
        Ok(Contribution::decode(&made.encode())?)
    }
}

const ROTATE: Change = Change::RotateDomainKey { retain: None };

#[test]
fn a_fleet_grows_by_claims_and_fingerprints() {
    let mut fleet = Fleet::of(3);
    assert_eq!(fleet.hsms[0].state().members.len(), 3);
    for from in 0..3 {
        let record = fleet.hsms[from].seal();
        assert!(fleet.hsms.iter().all(|hsm| hsm.opens(&record)));
    }
    // Nobody takes a first token whose fingerprint is not the one typed in.
    let mut typed = *fleet.hsms[0].opened.public().hash();
    typed[47] ^= 1;
    assert!(PublicState::of_fingerprint(fleet.board.newest(), &typed).is_err());
    // Who was not admitted adopts what is public and opens nothing.
    let stranger = Arc::new(OwnKeys::generate(&mut Entropy::System).unwrap());
    let public = PublicState::first_seen(fleet.board.newest()).unwrap();
    assert!(Opened::as_member(public, Arc::clone(&stranger)).is_err());
    // A claim is good for one domain, proves its key, and names no key that is known already.
    let admit = |claim: &[u8]| Change::AdmitHsm { hsm: Claim::decode(claim).unwrap() };
    let foreign = stranger.claim("x", &[9; 16]).unwrap();
    refused(fleet.run(0, admit(foreign.message()), &[0, 1]), &Refusal::NoPossession);
    let domain = fleet.hsms[0].state().domain;
    let mut unsigned = stranger.claim("x", &domain).unwrap().message().to_vec();
    *unsigned.last_mut().unwrap() ^= 1;
    refused(fleet.run(0, admit(&unsigned), &[0, 1]), &Refusal::NoPossession);
    let again = OwnKeys { id: [1; 16], ..copy(&fleet.hsms[1].own) };
    refused(fleet.run(0, admit(again.claim("x", &domain).unwrap().message()), &[0, 1]), &Refusal::KeyInUse);
}

fn copy(own: &OwnKeys) -> OwnKeys {
    let copy = |key: &PrivateKey| PrivateKey::from_scalar(key.scalar()).unwrap();
    OwnKeys { id: own.id, signing: copy(&own.signing), agreement: copy(&own.agreement) }
}

#[test]
fn any_member_executes_and_the_others_follow() {
    let mut fleet = Fleet::of(3);
    let base = fleet.hsms[0].version();
    let mut records = vec![fleet.hsms[0].seal()];
    // B, then C, then B again; A is away.
    for hsm in [1, 2, 1] {
        fleet.hsms[hsm].follow(&fleet.board, NOW).unwrap();
        fleet.rotate(hsm);
        records.push(fleet.hsms[hsm].seal());
    }
    let newest = fleet.board.newest().clone();
    let all = fleet.board.entries(base);
    assert_eq!((newest.version, all.len()), (base + 3, 3));
    let a = &mut fleet.hsms[0];
    assert!(!a.opens(&records[1]));
    // Not without every entry, in their order, up to just this token.
    refused(a.adopt(&newest, &[], NOW), &Refusal::LogMissing);
    for missing in 0..3 {
        let mut log = all.clone();
        log.remove(missing);
        refused(a.adopt(&newest, &log, NOW), &Refusal::LogMissing);
    }
    let repeated = [all[0].clone(), all[0].clone(), all[1].clone()];
    refused(a.adopt(&newest, &repeated, NOW), &Refusal::Replayed);
    let (between, _) = fleet.board.version(base + 2);
    refused(a.adopt(between, &all, NOW), &Refusal::LogMissing);
    refused(a.adopt(between, &[all[0].clone(), all[2].clone()], NOW), &Refusal::LogMismatch);
    // By several versions, or by one at a time.
    a.adopt(between, &all[..2], NOW).unwrap();
    a.adopt(&newest, &all[2..], NOW).unwrap();
    assert!(records.iter().all(|record| a.opens(record)));
    fleet.settle();
    for hsm in &fleet.hsms {
        assert_eq!(hsm.opened.public().hash(), fleet.hsms[0].opened.public().hash());
        assert!(records.iter().all(|record| hsm.opens(record)));
    }
    // An old token is no way back.
    let (old, _) = fleet.board.version(base + 1);
    let error = fleet.hsms[0].adopt(old, &[], NOW).unwrap_err();
    assert!(error.detail().unwrap().contains("older"), "{error:?}");
}

#[test]
fn two_tokens_for_one_version_raise_an_alarm() {
    let mut fleet = Fleet::of(3);
    let command = |fleet: &Fleet, change| fleet.command(fleet.hsms[0].state(), change, &[0, 1]);
    let commands = [command(&fleet, ROTATE), command(&fleet, Change::RotateReplicationKey)];
    let by_a = fleet.hsms[0].execute(&commands[0], NOW).unwrap();
    let by_b = fleet.hsms[1].execute(&commands[1], NOW).unwrap();
    // The third takes the first it sees, as any does.
    fleet.hsms[2].adopt(&by_b.0, std::slice::from_ref(&by_b.1), NOW).unwrap();
    let hashes = [0, 1, 1].map(|n| *fleet.hsms[n].opened.public().hash());
    assert_ne!(hashes[0], hashes[1]);
    for (hsm, (other, entry)) in [(0, &by_b), (1, &by_a), (2, &by_a)] {
        let shown = hashes[usize::from(hsm == 0)];
        let error = fleet.hsms[hsm].adopt(other, std::slice::from_ref(entry), NOW).unwrap_err();
        let detail = error.detail().unwrap();
        let named = |hash: &Hash| detail.contains(&hex::encode(hash));
        assert!(named(&hashes[hsm]) && named(&shown), "{detail}");
        assert_eq!(*fleet.hsms[hsm].opened.public().hash(), hashes[hsm]);
    }
    // Nor does the fork come in by its continuation.
    let next = fleet.command(fleet.hsms[1].state(), ROTATE, &[2]);
    let (token, entry) = fleet.hsms[1].execute(&next, NOW).unwrap();
    refused(fleet.hsms[0].adopt(&token, std::slice::from_ref(&entry), NOW), &Refusal::LogMismatch);
    refused(fleet.hsms[0].adopt(&token, &[by_b.1, entry], NOW), &Refusal::LogMissing);
}

#[test]
fn an_expelled_hsm_knows_nothing_newer() {
    let mut fleet = Fleet::of(3);
    fleet.make_recovery_set(2);
    let before = fleet.hsms[0].state().clone();
    let record = fleet.hsms[0].seal();
    let expel = Change::ExpelHsm { id: fleet.hsms[2].own.id, retain: Some(DAY) };
    // It does not do so itself.
    let command = fleet.command(&before, expel, &[0, 1]);
    refused(fleet.hsms[2].execute(&command, NOW), &Refusal::OwnExpulsion);
    let step = fleet.hsms[0].execute(&command, NOW).unwrap();
    fleet.board.0.push(step);
    let base = fleet.hsms[2].version();
    let expelled_from =
        fleet.hsms[2].opened.public().adopt_logged(fleet.board.newest(), &fleet.board.entries(base), NOW);
    assert!(fleet.hsms[2].opened.advance(expelled_from.unwrap()).is_err());
    fleet.hsms[1].follow(&fleet.board, NOW).unwrap();

    let after = fleet.hsms[1].state();
    assert!(after.replication_keys.iter().all(|key| !before.replication_keys.contains(key)));
    assert_ne!((&after.recipients, &after.recovery), (&before.recipients, &before.recovery));
    let sealed = fleet.hsms[1].seal();
    assert_ne!(key_id_of(&sealed).unwrap(), key_id_of(&record).unwrap());
    assert!(fleet.hsms[0].opens(&sealed) && fleet.hsms[0].opens(&record) && !fleet.hsms[2].opens(&sealed));
    // The shares of the set that it may have made open no newer token.
    let public = fleet.hsms[1].opened.public();
    let old_key = old_recovery_key(&fleet, &before);
    assert!(public.open_secrets(&old_key).is_err());

    // What it goes on with from where it was is refused, and so is what it makes of the public state
    // that it can still compute.
    let own_way = fleet.command(&before, ROTATE, &[2]);
    let (token, entry) = fleet.hsms[2].execute(&own_way, NOW).unwrap();
    let not_a_member = |result: Result<()>| {
        let error = result.unwrap_err();
        assert!(error.detail().unwrap().contains("not a member"), "{error:?}");
    };
    not_a_member(fleet.hsms[1].adopt(&token, std::slice::from_ref(&entry), NOW));
    let command = fleet.command(fleet.hsms[1].state(), ROTATE, &[2]);
    let honest = fleet.hsms[0].opened.execute(&command, &mut at(NOW)).unwrap();
    let forged = export(honest.opened.state(), &fleet.hsms[2].own.signing);
    not_a_member(fleet.hsms[1].adopt(&forged, std::slice::from_ref(&honest.entry), NOW));
    fleet.hsms[1].adopt(&honest.token, &[honest.entry], NOW).unwrap();
}

/// The key that three old shares of a set open, whose holders have kept them.
fn old_recovery_key(fleet: &Fleet, old: &State) -> PrivateKey {
    let set = old.recovery.as_ref().unwrap();
    let hsm = PrivateKey::generate(&mut Entropy::System).unwrap();
    let (public, hash) = (hsm.public().unwrap(), [1; 48]);
    let shares: Vec<_> = fleet
        .people
        .iter()
        .map(|person| {
            let operator = old.operators.iter().find(|operator| operator.id == person.id).unwrap();
            let to = (&hash, &public);
            set.contribute(&old.domain, operator, &person.agreement, to, &mut Entropy::System).unwrap()
        })
        .collect();
    set.combine(&old.domain, &hash, &hsm, &shares).unwrap()
}

/// A token of this state with somebody's signature, and secrets that are none.
fn export(state: &State, signer: &PrivateKey) -> DomainToken {
    let nothing = SecretBytes::copy_of(&[0; 64]).unwrap();
    token::export(state, &nothing, signer, &mut Entropy::System).unwrap().0
}

#[test]
fn nobody_follows_a_token_that_expels_its_own_signer() {
    let mut fleet = Fleet::of(3);
    let expel = Change::ExpelHsm { id: fleet.hsms[2].own.id, retain: None };
    let command = fleet.command(fleet.hsms[0].state(), expel, &[0, 1]);
    let honest = fleet.hsms[0].opened.execute(&command, &mut at(NOW)).unwrap();
    let log = [honest.entry.clone()];
    let forged = export(honest.opened.state(), &fleet.hsms[2].own.signing);
    let error = fleet.hsms[1].adopt(&forged, &log, NOW).unwrap_err();
    assert!(error.detail().unwrap().contains("expels its own signer"), "{error:?}");
    fleet.hsms[1].adopt(&honest.token, &log, NOW).unwrap();
}

#[test]
fn a_member_only_signs_what_the_log_leads_to() {
    let mut fleet = Fleet::of(2);
    let command = fleet.command(fleet.hsms[0].state(), ROTATE, &[2]);
    let honest = fleet.hsms[0].opened.execute(&command, &mut at(NOW)).unwrap();
    let log = std::slice::from_ref(&honest.entry);
    // Whatever else a member puts into its state, nobody signed for it.
    let mut more_trust = honest.opened.state().clone();
    more_trust.trusted_keys.insert(OBJECT);
    let mut no_members = honest.opened.state().clone();
    no_members.members.retain(|member| member.id == fleet.hsms[0].own.id);
    let mut no_rule = honest.opened.state().clone();
    no_rule.rules.retain(|rule| rule.command != "trust key");
    for state in [more_trust, no_members, no_rule] {
        let forged = export(&state, &fleet.hsms[0].own.signing);
        refused(fleet.hsms[1].adopt(&forged, log, NOW), &Refusal::LogMismatch);
    }
    // Nor can it swap the key in the results: the id is part of the entry and commits to the key.
    let mut entry = Entry::decode(&honest.entry).unwrap();
    let Step::Command { results, .. } = &mut entry.step else { panic!() };
    results.domain_key = Some([1; 16]);
    refused(fleet.hsms[1].adopt(&honest.token, &[entry.encode()], NOW), &Refusal::LogMismatch);
    fleet.hsms[1].adopt(&honest.token, log, NOW).unwrap();
}

#[test]
fn a_standing_order_holds_by_every_members_own_clock() {
    let mut fleet = Fleet::of(2);
    let order = StandingOrder { interval: 30 * DAY, window: DAY, retain: Some(DAY), until: NOW + 365 * DAY };
    fleet.run(0, Change::SetStandingOrder { order: Some(order) }, &[0, 1]).unwrap();
    fleet.settle();
    // A's clock is fast.
    let due = NOW + 30 * DAY;
    let rotated = fleet.hsms[0].opened.housekeeping(&mut at(due)).unwrap().unwrap();
    let (log, b) = ([rotated.entry.clone()], &mut fleet.hsms[1]);
    refused(b.adopt(&rotated.token, &log, NOW), &Refusal::InTheFuture);
    refused(b.adopt(&rotated.token, &log, due - 61), &Refusal::InTheFuture);
    assert!(b.opened.housekeeping(&mut at(due - 61)).unwrap().is_none());
    b.adopt(&rotated.token, &log, due - 60).unwrap();
    assert_eq!(b.opened.sealer().key_id(), rotated.opened.sealer().key_id());
    // Once in an interval, whoever does it.
    assert!(b.opened.housekeeping(&mut at(due)).unwrap().is_none());
    let mut again = Entry::decode(&rotated.entry).unwrap();
    again.at = due + 1;
    refused(again.follow(b.state(), due + 1).map(|_| ()).map_err(Into::into), &Refusal::NoStandingOrder);
}

#[test]
fn a_retired_key_opens_nothing() {
    let mut fleet = Fleet::of(2);
    let record = fleet.hsms[0].seal();
    fleet.run(0, Change::RotateDomainKey { retain: Some(DAY) }, &[2]).unwrap();
    fleet.settle();
    let newer = fleet.hsms[1].seal();
    let deadline = NOW + DAY;
    assert!(fleet.hsms.iter().all(|hsm| hsm.opens_at(&record, 1, deadline - 1)));
    // The deadline holds before anybody makes the entry.
    assert!(fleet.hsms.iter().all(|hsm| !hsm.opens_at(&record, 1, deadline)));
    let retired = fleet.hsms[0].opened.housekeeping(&mut at(deadline)).unwrap().unwrap();
    refused(fleet.hsms[1].adopt(&retired.token, std::slice::from_ref(&retired.entry), NOW), &Refusal::InTheFuture);
    fleet.hsms[1].adopt(&retired.token, &[retired.entry], deadline).unwrap();
    // Then also where the clock is set back.
    assert!(!fleet.hsms[1].opens_at(&record, 1, NOW) && fleet.hsms[1].opens_at(&newer, 1, NOW));
}

#[test]
fn a_revocation_reaches_every_member() {
    let mut fleet = Fleet::of(2);
    let (first, second) = (fleet.hsms[0].seal(), fleet.hsms[0].seal_generation(2));
    fleet.run(1, Change::RevokeKey { object: OBJECT, generation: 2 }, &[0, 1]).unwrap();
    assert!(fleet.hsms[0].opens(&first));
    fleet.settle();
    for hsm in &fleet.hsms {
        assert!(!hsm.opens_at(&first, 1, NOW) && hsm.opens_at(&second, 2, NOW));
    }
    let lower = Change::RevokeKey { object: OBJECT, generation: 1 };
    assert!(fleet.run(0, lower, &[0, 1]).is_err());
}

#[test]
fn a_lost_fleet_comes_back_on_a_fresh_hsm() {
    let mut fleet = Fleet::of(2);
    fleet.make_recovery_set(2);
    let old_record = fleet.hsms[0].seal();
    // The set does not age: a rotation, and another member.
    fleet.rotate(1);
    fleet.settle();
    fleet.grow();
    let record = fleet.hsms[2].seal();

    let public = PublicState::first_seen(fleet.board.newest()).unwrap();
    let fresh = Arc::new(OwnKeys::generate(&mut Entropy::System).unwrap());
    let command = fleet.recovery_command(&public, &fresh);
    let shares: Vec<_> = (0..3).map(|person| fleet.contribute(&public, &command, person).unwrap()).collect();
    let recover = |own: &Arc<OwnKeys>, command: &[u8], shares: &[Contribution]| {
        Opened::recover(&public, Arc::clone(own), command, shares, &mut at(NOW))
    };
    let few = Refusal::TooFewShares { have: 1, need: 2 };
    refused(recover(&fresh, &command, &shares[..1]), &few);
    refused(recover(&fresh, &command, &[shares[1].clone(), shares[1].clone()]), &few);
    // Shares are for the one HSM and the one command that the operators signed.
    let other = Arc::new(OwnKeys::generate(&mut Entropy::System).unwrap());
    refused(recover(&other, &command, &shares[..2]), &Refusal::NotARecovery);
    let for_other = fleet.recovery_command(&public, &other);
    refused(recover(&other, &for_other, &shares[..2]), &Refusal::BadShare);
    let again = fleet.recovery_command(&public, &fresh);
    refused(recover(&fresh, &again, &shares[..2]), &Refusal::BadShare);

    let mut bent = shares[0].encode();
    *bent.last_mut().unwrap() ^= 1;
    let bent = Contribution::decode(&bent).unwrap();
    refused(recover(&fresh, &command, &[bent, shares[1].clone()]), &Refusal::BadShare);
    // No share moves without the quorum.
    let hsm = fresh.claim("fresh", &public.state().domain).unwrap();
    let change = Change::RecoverDomain { hsm, version: public.state().version, state: *public.hash() };
    let alone = fleet.command(public.state(), change, &[0]);
    let quorum = Refusal::QuorumNotMet("officer 1 of 2 (1 of 2 persons)".to_owned());
    refused(fleet.contribute(&public, &alone, 0), &quorum);

    for pair in [[0, 1], [0, 2], [2, 1]] {
        assert!(recover(&fresh, &command, &pair.map(|n: usize| shares[n].clone())).is_ok());
    }
    let Executed { opened, token, entry } = recover(&fresh, &command, &shares[1..]).unwrap();
    // Who held the state before follows to the one that the HSM of the recovery signed, and to no other's.
    let followed = public.adopt_logged(&token, std::slice::from_ref(&entry), NOW).unwrap();
    assert_eq!(followed.hash(), opened.public().hash());
    let by_an_old_member = export(opened.state(), &fleet.hsms[0].own.signing);
    assert!(public.adopt_logged(&by_an_old_member, std::slice::from_ref(&entry), NOW).is_err());
    let back = Hsm { own: fresh, opened };
    assert!(back.opens(&old_record) && back.opens(&record));
    assert_eq!(back.state().members.iter().map(|member| member.id).collect::<Vec<_>>(), [back.own.id]);
    assert_ne!(back.state().recipients, public.state().recipients);
    assert!(back.state().replication_keys.iter().all(|key| !public.state().replication_keys.contains(key)));
    refused(fleet.contribute(back.opened.public(), &again, 0), &Refusal::OtherState);
    // The HSMs that were thought lost are no members and cannot follow.
    let sealed = back.seal();
    assert!(fleet.hsms.iter().all(|hsm| !hsm.opens(&sealed)));
    let (token, entry) = {
        let command = fleet.command(back.state(), ROTATE, &[2]);
        let rotated = back.opened.execute(&command, &mut at(NOW)).unwrap();
        (rotated.token, rotated.entry)
    };
    assert!(fleet.hsms[0].adopt(&token, &[entry], NOW).is_err());
    assert!(public.open_secrets(&back.own.agreement).is_err());
}

#[test]
fn who_leaves_takes_no_share_along() {
    let mut fleet = Fleet::of(1);
    fleet.make_recovery_set(2);
    let old = Arc::clone(fleet.hsms[0].opened.public());
    fleet.run(0, Change::RemoveOperator { id: fleet.people[2].id }, &[0, 1]).unwrap();
    let public = Arc::clone(fleet.hsms[0].opened.public());
    // The old shares, all of them, open the old token and not the newer one.
    let old_key = old_recovery_key(&fleet, old.state());
    assert!(old.open_secrets(&old_key).is_ok());
    assert!(public.open_secrets(&old_key).is_err());

    let fresh = Arc::new(OwnKeys::generate(&mut Entropy::System).unwrap());
    let command = fleet.recovery_command(&public, &fresh);
    refused(fleet.contribute(&public, &command, 2), &Refusal::Unknown("the operator"));
    let (hash, hsm): (Hash, _) = (Sha384::digest(&command).into(), fresh.agreement.public().unwrap());
    let kept = |person: usize| {
        let operator = old.state().operators.iter().find(|o| o.id == fleet.people[person].id).unwrap();
        let (set, key) = (old.state().recovery.as_ref().unwrap(), &fleet.people[person].agreement);
        set.contribute(&old.state().domain, operator, key, (&hash, &hsm), &mut Entropy::System).unwrap()
    };
    let recover =
        |shares: &[Contribution]| Opened::recover(&public, Arc::clone(&fresh), &command, shares, &mut at(NOW));
    let shares = [0, 1].map(|person| fleet.contribute(&public, &command, person).unwrap());
    refused(recover(&[shares[0].clone(), kept(2)]), &Refusal::BadShare);
    refused(recover(&[shares[0].clone(), kept(1)]), &Refusal::BadShare);
    assert!(recover(&shares).is_ok());
}
