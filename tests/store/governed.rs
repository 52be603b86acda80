//! What a founded domain keeps besides its token: the log, proposals, a pending recovery; and the
//! sweep over objects after a change of its key.

use std::collections::BTreeMap;
use std::thread;

use conclave::error::{ErrorKind, Result};
use conclave::hsm::{DomainChange, DomainToken, ObjectChange, PinRecord, Record, Role};
use conclave::store::{PROPOSALS, Store};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::home::{Home, over_both};
use super::{change, domain, domain_key, entry, object, pin, record, sealed_under};

over_both! {
    commits_of_the_domain_are_as_a_model_says
    a_chain_is_committed_whole_or_not_at_all
    proposals_keep_their_order_and_their_number_is_bounded
    the_keys_that_wait_for_a_recovery_are_one_row
    a_sweep_finds_what_is_under_other_keys
    what_another_changed_is_not_replaced
    of_two_sweeps_at_once_each_record_is_of_one
}

fn refused<T>(result: Result<T>, kind: ErrorKind) {
    assert_eq!(result.err().map(|error| error.kind()), Some(kind));
}

fn roles() -> [Role; 3] {
    [Role::So, Role::User, Role::Named("anna".into())]
}

/// What the store must hold after a sequence of commits.
#[derive(Debug, Clone)]
struct Model {
    domain: DomainToken,
    origin: Option<DomainToken>,
    log: Vec<(u64, Vec<u8>)>,
    pins: BTreeMap<usize, u64>,
}

impl Model {
    fn new() -> Self {
        Self { domain: domain(1), origin: None, log: Vec::new(), pins: [(0, 1)].into() }
    }

    fn commit(&mut self, step: &Step, change: &DomainChange) -> std::result::Result<(), ErrorKind> {
        let mut next = self.clone();
        let held = self.domain.version;
        if change.domain.version.checked_sub(step.entries.max(1)) != Some(held) {
            return Err(ErrorKind::FunctionFailed);
        }
        if step.entries == 0 && !self.log.is_empty() {
            return Err(ErrorKind::GeneralError);
        }
        if step.entries > 0 && self.log.is_empty() {
            next.origin = Some(self.domain.clone());
        }
        next.log.extend((held + 1..).zip(change.entries.iter().cloned()));
        next.pins.retain(|role, _| !step.removed.contains(role));
        for (role, generation) in &step.pins {
            if next.pins.insert(*role, *generation).is_some_and(|stored| stored >= *generation) {
                return Err(ErrorKind::FunctionFailed);
            }
        }
        next.domain = change.domain.clone();
        *self = next;
        Ok(())
    }

    fn check(&self, store: &dyn Store) {
        let meta = store.meta().unwrap();
        assert_eq!(meta.domain, self.domain);
        let roles = roles();
        let stored: Vec<_> = meta.pins.into_iter().map(|pin| pin.record).collect();
        assert_eq!(stored, self.pins.iter().map(|(role, g)| pin(roles[*role].clone(), *g)).collect::<Vec<PinRecord>>());
        assert_eq!(store.origin().unwrap(), self.origin);
        let version = self.domain.version;
        for (after, up_to) in [(0, u64::MAX), (version, u64::MAX), (version - 1, version), (2, version / 2)] {
            let wanted = self.log.iter().filter(|(version, _)| *version > after && *version <= up_to);
            assert_eq!(store.log(after, up_to).unwrap(), wanted.map(|(_, entry)| entry.clone()).collect::<Vec<_>>());
        }
    }
}

#[derive(Debug, Clone)]
struct Step {
    /// How far from the version after the one held.
    off: i64,
    entries: u64,
    pins: Vec<(usize, u64)>,
    removed: Vec<usize>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pins = prop::collection::vec((0..3_usize, 1..12_u64), 0..3);
    let off = prop_oneof![8 => Just(0_i64), 1 => -2..=2_i64];
    let entries = prop_oneof![1 => Just(0_u64), 6 => 1..=3_u64];
    let step = (off, entries, pins, prop::collection::vec(0..3_usize, 0..2));
    let step = step.prop_map(|(off, entries, pins, removed)| Step { off, entries, pins, removed });
    prop::collection::vec(step, 1..20)
}

fn commits_of_the_domain_are_as_a_model_says(home: &Home) {
    let store = home.create();
    let other = home.open();
    let mut runner = TestRunner::new(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() });
    let runs = runner.run(&steps(), |steps| {
        store.reset("label", "0123456789abcdef", &domain(1), Some(&pin(Role::So, 1))).unwrap();
        let mut model = Model::new();
        model.check(&*other);
        for (number, step) in steps.iter().enumerate() {
            let version = (model.domain.version + step.entries.max(1)).saturating_add_signed(step.off).max(1);
            let change = DomainChange {
                domain: DomainToken { version, bytes: format!("step {number}").into_bytes() },
                entries: (0..step.entries).map(|entry| format!("{number}.{entry}").into_bytes()).collect(),
                pins: step.pins.iter().map(|(role, generation)| pin(roles()[*role].clone(), *generation)).collect(),
                removed: step.removed.iter().map(|role| roles()[*role].clone()).collect(),
                objects: ObjectChange::default(),
            };
            let done = store.commit_domain(&change).map_err(|error| error.kind());
            assert_eq!(done, model.commit(step, &change), "{step:?}");
            model.check(&*other);
        }
        Ok(())
    });
    runs.unwrap();
}

fn a_chain_is_committed_whole_or_not_at_all(home: &Home) {
    let store = home.create();
    assert_eq!(store.origin().unwrap(), None);
    store.commit_domain(&change(2, 0, vec![pin(Role::User, 1)])).unwrap();
    assert_eq!(store.log(0, u64::MAX).unwrap(), Vec::<Vec<u8>>::new());
    let user_removed = |change| DomainChange { removed: vec![Role::User], ..change };
    for (version, entries, kind) in [
        (2, 1, ErrorKind::FunctionFailed),
        (3, 2, ErrorKind::FunctionFailed),
        (4, 1, ErrorKind::FunctionFailed),
        (5, 2, ErrorKind::FunctionFailed),
        (6, 3, ErrorKind::FunctionFailed),
        (4, 0, ErrorKind::FunctionFailed),
        (0, 0, ErrorKind::FunctionFailed),
    ] {
        refused(store.commit_domain(&user_removed(change(version, entries, vec![]))), kind);
        assert_eq!((store.meta().unwrap().domain, store.origin().unwrap()), (domain(2), None));
    }
    store.commit_domain(&change(3, 1, vec![])).unwrap();
    // A PIN that is refused takes the whole chain with it.
    refused(store.commit_domain(&change(6, 3, vec![pin(Role::User, 1)])), ErrorKind::FunctionFailed);
    assert_eq!(store.log(0, u64::MAX).unwrap(), [entry(3)]);
    store.begin_attempt(&Role::User, 10).unwrap();
    store.commit_domain(&user_removed(change(6, 3, vec![]))).unwrap();
    refused(store.begin_attempt(&Role::User, 10), ErrorKind::UserPinNotInitialized);
    refused(store.commit_domain(&change(7, 0, vec![])), ErrorKind::GeneralError);
    // A PIN that was removed may come back with any generation: the domain's state has the record of it.
    store.commit_domain(&change(7, 1, vec![pin(Role::User, 1)])).unwrap();
    assert_eq!(store.meta().unwrap().pin(&Role::User).unwrap().failures, 0);
    assert_eq!(store.log(3, 6).unwrap(), [entry(4), entry(5), entry(6)]);
    assert_eq!(store.log(6, u64::MAX).unwrap(), [entry(7)]);
    assert_eq!(store.log(7, 3).unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(store.log(u64::MAX, u64::MAX).unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(store.origin().unwrap(), Some(domain(2)), "it stays while later tokens go");
    store.reset("again", "0123456789abcdef", &domain(1), Some(&pin(Role::So, 1))).unwrap();
    assert_eq!((store.origin().unwrap(), store.log(0, u64::MAX).unwrap()), (None, vec![]));
}

fn proposals_keep_their_order_and_their_number_is_bounded(home: &Home) {
    let store = home.create();
    let id = |number: u64| {
        let mut id = [0xff; 32];
        // Ids do not come in order.
        id[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        id
    };
    let bytes = |number: u64| format!("proposal {number}").into_bytes();
    for number in 0..PROPOSALS {
        store.put_proposal(&id(number), &bytes(number)).unwrap();
    }
    let error = store.put_proposal(&id(PROPOSALS), &bytes(PROPOSALS)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceMemory);
    assert!(error.to_string().contains("1000 proposals"), "{error}");
    let before = store.counter();
    store.put_proposal(&id(7), b"signed").unwrap();
    assert_ne!(store.counter(), before);
    let mut expected: Vec<_> = (0..PROPOSALS).map(bytes).collect();
    expected[7] = b"signed".to_vec();
    let other = home.open();
    assert_eq!(other.proposals().unwrap(), expected);
    assert!(store.delete_proposal(&id(7)).unwrap());
    assert!(!store.delete_proposal(&id(7)).unwrap());
    store.put_proposal(&id(7), &bytes(7)).unwrap();
    expected.remove(7);
    expected.push(bytes(7));
    assert_eq!(other.proposals().unwrap(), expected);
    store.reset("again", "0123456789abcdef", &domain(1), Some(&pin(Role::So, 1))).unwrap();
    assert_eq!(other.proposals().unwrap(), Vec::<Vec<u8>>::new());
}

fn the_keys_that_wait_for_a_recovery_are_one_row(home: &Home) {
    let store = home.create();
    assert_eq!(store.recovery().unwrap(), None);
    store.put_recovery(b"one").unwrap();
    store.put_recovery(b"two").unwrap();
    store.commit_domain(&change(2, 1, vec![])).unwrap();
    assert_eq!(store.recovery().unwrap(), Some(b"two".to_vec()));
    store.put_recovery(&[]).unwrap();
    assert_eq!(store.recovery().unwrap(), None);
    store.put_recovery(b"three").unwrap();
    store.reset("again", "0123456789abcdef", &domain(1), Some(&pin(Role::So, 1))).unwrap();
    assert_eq!(store.recovery().unwrap(), None);
}

fn under(number: u64, generation: u64, key: u8) -> Record {
    Record { generation, sealed: sealed_under(key, number), ..record(number, "swept") }
}

fn a_sweep_finds_what_is_under_other_keys(home: &Home) {
    let store = home.create();
    let records: Vec<_> = (1..=30)
        .map(|number| match number % 3 {
            0 => record(number, "of no key"),
            key => under(number, 1, key as u8),
        })
        .collect();
    store.insert(&records).unwrap();
    let count = |key: Option<u8>, count: u64| (key.map(domain_key), count);
    assert_eq!(store.count_by_domain_key().unwrap(), [count(None, 10), count(Some(1), 10), count(Some(2), 10)]);
    for active in 1..=3 {
        let all = store.sealed_under_other(&domain_key(active), 0, 100).unwrap();
        let expected = (1..=30).filter(|number| number % 3 != u64::from(active)).map(object);
        assert_eq!(all.iter().map(|found| found.object).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        let page = store.sealed_under_other(&domain_key(active), all[4].row, 5).unwrap();
        assert_eq!(page, all[5..10], "in the order of creation, whatever the key");
    }
    let (mut after, mut pages) = (0, 0);
    loop {
        let page = store.sealed_under_other(&domain_key(3), after, 4).unwrap();
        let Some(last) = page.last() else { break };
        (after, pages) = (last.row, pages + 1);
        let number = |found: &conclave::store::Found| u64::from_be_bytes(found.object[..8].try_into().unwrap());
        let resealed: Vec<_> = page.iter().map(|found| under(number(found), 2, 3)).collect();
        assert_eq!(store.replace_all(&resealed).unwrap(), vec![true; page.len()]);
    }
    assert_eq!(pages, 8);
    assert_eq!(store.count_by_domain_key().unwrap(), [count(Some(3), 30)]);
    assert!(store.sealed_under_other(&domain_key(3), 0, 1).unwrap().is_empty());
    assert_eq!(store.get(&object(6)).unwrap(), Some(under(6, 2, 3)));
    store.replace(&under(6, 3, 1)).unwrap();
    assert_eq!(store.count_by_domain_key().unwrap(), [count(Some(1), 1), count(Some(3), 29)]);
}

fn what_another_changed_is_not_replaced(home: &Home) {
    let store = home.create();
    let other = home.open();
    store.insert(&(1..=5).map(|number| under(number, 1, 1)).collect::<Vec<_>>()).unwrap();
    other.replace(&under(2, 2, 9)).unwrap();
    other.delete(&object(3)).unwrap();
    let before = other.counter();
    let all: Vec<_> = [1, 2, 3, 4, 77, 5].map(|number| under(number, 2, 2)).into();
    assert_eq!(store.replace_all(&all).unwrap(), [true, false, false, true, false, true]);
    assert_eq!(other.counter(), before + 2, "one transaction");
    assert_eq!(other.get(&object(1)).unwrap(), Some(under(1, 2, 2)));
    assert_eq!(other.get(&object(2)).unwrap(), Some(under(2, 2, 9)));
    assert_eq!(other.get(&object(3)).unwrap(), None);
    assert_eq!(store.replace_all(&all).unwrap(), [false; 6]);
    assert_eq!(store.replace_all(&[]).unwrap(), Vec::<bool>::new());
}

fn of_two_sweeps_at_once_each_record_is_of_one(home: &Home) {
    const RECORDS: u64 = 240;
    let store = home.create();
    store.insert(&(0..RECORDS).map(|number| under(number, 1, 1)).collect::<Vec<_>>()).unwrap();
    let won: Vec<Vec<u64>> = thread::scope(|scope| {
        let sweeps = [2, 3].map(|key| {
            let store = home.open();
            scope.spawn(move || {
                let mut won = Vec::new();
                for chunk in (0..RECORDS).collect::<Vec<_>>().chunks(20) {
                    let records: Vec<_> = chunk.iter().map(|number| under(*number, 2, key)).collect();
                    let replaced = store.replace_all(&records).unwrap();
                    won.extend(chunk.iter().zip(replaced).filter(|(_, won)| *won).map(|(number, _)| *number));
                }
                won
            })
        });
        sweeps.map(|sweep| sweep.join().unwrap()).into()
    });
    assert_eq!((won[0].len() + won[1].len()) as u64, RECORDS);
    for (key, won) in (2..).zip(&won) {
        assert!(won.iter().all(|number| store.get(&object(*number)).unwrap() == Some(under(*number, 2, key))));
    }
}
