//! Changes of managed keys: committed as a whole or not at all; what is due and how many there are.

use conclave::error::ErrorKind;
use conclave::hsm::{CKO_KMS_ALIAS, Columns, DomainChange, ObjectChange, Record};
use conclave::store::{Filter, Store};

use super::home::{Home, over_both};
use super::{SECRET_KEY, change, object, record};

over_both! {
    a_change_is_all_or_nothing
    the_limit_counts_keys_and_holds_while_many_are_made_at_once
    the_count_is_right_after_every_kind_of_change
    a_command_of_the_domain_changes_keys_with_it_or_nothing
    what_is_to_be_told_comes_in_pages
    what_is_due_comes_first_and_what_is_hidden_is_never_found
}

const PUBLIC_KEY: u64 = 2;
const PRIVATE_KEY: u64 = 3;

fn managed(number: u64, class: u64, due: Option<u64>) -> Record {
    let mut record = record(number, "managed");
    (record.columns.class, record.columns.managed, record.columns.due) = (class, true, due);
    record
}

fn next(record: &Record) -> Record {
    Record { generation: record.generation + 1, ..record.clone() }
}

fn generations(store: &dyn Store, numbers: std::ops::RangeInclusive<u64>) -> Vec<Option<u64>> {
    numbers.map(|number| store.get(&object(number)).unwrap().map(|record| record.generation)).collect()
}

fn a_change_is_all_or_nothing(home: &Home) {
    let store = home.create();
    let (public, private) = (managed(1, PUBLIC_KEY, None), managed(2, PRIVATE_KEY, Some(Columns::NEVER)));
    let made = ObjectChange { insert: vec![public.clone(), private.clone()], ..ObjectChange::default() };
    store.commit_change(&made).unwrap();

    // Both halves, an alias, a version that goes and one that is not there.
    store.insert(&[record(3, "version")]).unwrap();
    let mut alias = managed(4, CKO_KMS_ALIAS, None);
    alias.columns.managed = false;
    let change = ObjectChange {
        insert: vec![alias.clone()],
        replace: vec![next(&public), next(&private)],
        delete: vec![(object(3), 1)],
        purge: vec![object(77)],
        limit: None,
    };
    let since = store.counter();
    store.commit_change(&change).unwrap();
    assert_eq!(generations(&*store, 1..=4), [Some(2), Some(2), None, Some(1)]);
    let other = home.open();
    assert_eq!(generations(&*other, 1..=4), [Some(2), Some(2), None, Some(1)]);
    for number in 1..=4 {
        assert_eq!(store.is_unchanged(&object(number), since), None, "{number}");
    }

    // Each of these fails at one of its parts; the others are not done either.
    let good = ObjectChange {
        insert: vec![record(9, "new")],
        replace: vec![next(&next(&public)), next(&next(&private))],
        ..ObjectChange::default()
    };
    let taken = ObjectChange { insert: vec![record(9, "new"), alias.clone()], ..good.clone() };
    let overtaken = ObjectChange { replace: vec![next(&next(&public)), next(&private)], ..good.clone() };
    let lost = ObjectChange { replace: vec![next(&next(&public)), next(&record(8, "x"))], ..good.clone() };
    let other_generation = ObjectChange { delete: vec![(object(4), 7)], ..good.clone() };
    let gone = ObjectChange { delete: vec![(object(3), 1)], ..good.clone() };
    let too_many = ObjectChange { insert: vec![managed(9, SECRET_KEY, None)], limit: Some(1), ..good.clone() };
    for (change, expected) in [
        (taken, ErrorKind::KmsAlreadyExists),
        (overtaken, ErrorKind::FunctionFailed),
        (lost, ErrorKind::ObjectHandleInvalid),
        (other_generation, ErrorKind::FunctionFailed),
        (gone, ErrorKind::ObjectHandleInvalid),
        (too_many, ErrorKind::TokenResourceExceeded),
    ] {
        assert_eq!(store.commit_change(&change).unwrap_err().kind(), expected, "{change:?}");
        assert_eq!(generations(&*store, 1..=4), [Some(2), Some(2), None, Some(1)], "{change:?}");
        assert_eq!(store.get(&object(9)).unwrap(), None);
    }
    store.commit_change(&good).unwrap();
    assert_eq!(generations(&*store, 1..=2), [Some(3), Some(3)]);
}

fn the_limit_counts_keys_and_holds_while_many_are_made_at_once(home: &Home) {
    let store = home.create();
    let other = home.open();
    let stores: [&dyn Store; 2] = [&*store, &*other];
    let made: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|thread| {
                let store = stores[thread];
                scope.spawn(move || {
                    let make = |number: u64| {
                        let number = (thread as u64 * 100 + number) * 2 + 1;
                        // A pair is one key.
                        let insert = vec![
                            managed(number, PUBLIC_KEY, None),
                            managed(number + 1, PRIVATE_KEY, Some(Columns::NEVER)),
                        ];
                        store.commit_change(&ObjectChange { insert, limit: Some(10), ..ObjectChange::default() })
                    };
                    (0..10).filter(|number| make(*number).is_ok()).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(made, 10);
    assert_eq!((store.count_managed().unwrap(), store.count().unwrap()), (10, 20));
    let first = store.managed(0, 6).unwrap();
    let second = store.managed(first[5].row, 6).unwrap();
    assert_eq!((first.len(), second.len()), (6, 4));
}

fn the_count_is_right_after_every_kind_of_change(home: &Home) {
    let store = home.create();
    let count = |expected: u64| {
        assert_eq!(store.count_managed().unwrap(), expected);
        assert_eq!(store.managed(0, 100).unwrap().len() as u64, expected);
    };
    count(0);
    let pair = [managed(1, PUBLIC_KEY, None), managed(2, PRIVATE_KEY, None)];
    let keys: Vec<_> = (3..=6).map(|number| managed(number, SECRET_KEY, None)).collect();
    store.insert(&[&pair[..], &keys, &[record(7, "ordinary")]].concat()).unwrap();
    count(5);
    // Nothing of what is refused or already there counts.
    store.insert(&[managed(8, SECRET_KEY, None), keys[0].clone()]).unwrap_err();
    store.replace(&next(&pair[0])).unwrap();
    store.replace_all(&[next(&keys[0]), next(&next(&keys[1]))]).unwrap();
    count(5);
    let mut ordinary = next(&keys[1]);
    ordinary.columns.managed = false;
    store.replace(&ordinary).unwrap();
    count(4);
    let mut adopted = next(&record(7, "ordinary"));
    adopted.columns.managed = true;
    store.replace(&adopted).unwrap();
    count(5);
    let change = ObjectChange {
        delete: vec![(object(2), 1), (object(1), 2)],
        purge: vec![object(5), object(99)],
        ..ObjectChange::default()
    };
    store.commit_change(&change).unwrap();
    count(3);
    store.delete(&object(6)).unwrap();
    count(2);
    drop(store);
    let store = home.open();
    assert_eq!(store.count_managed().unwrap(), 2);
    store.reset("again", "0123456789abcdef", &super::domain(1), Some(&super::pin(conclave::hsm::Role::So, 1))).unwrap();
    assert_eq!(store.count_managed().unwrap(), 0);
    store.insert(&[managed(1, SECRET_KEY, None)]).unwrap();
    assert_eq!(store.count_managed().unwrap(), 1);
}

fn a_command_of_the_domain_changes_keys_with_it_or_nothing(home: &Home) {
    let store = home.create();
    store.insert(&[managed(1, SECRET_KEY, None)]).unwrap();
    let with = |version, objects| DomainChange { objects, ..change(version, 1, Vec::new()) };
    let replace = |record: &Record| ObjectChange { replace: vec![next(record)], ..ObjectChange::default() };
    // The key was changed meanwhile: the domain is not, either.
    let stale = store.commit_domain(&with(2, replace(&next(&managed(1, SECRET_KEY, None)))));
    assert_eq!(stale.unwrap_err().kind(), ErrorKind::FunctionFailed);
    assert_eq!((store.meta().unwrap().domain.version, generations(&*store, 1..=1)), (1, vec![Some(1)]));
    let since = store.counter();
    store.commit_domain(&with(2, replace(&managed(1, SECRET_KEY, None)))).unwrap();
    assert_eq!((store.meta().unwrap().domain.version, generations(&*store, 1..=1)), (2, vec![Some(2)]));
    assert_eq!(store.is_unchanged(&object(1), since), None);
    // The domain was changed meanwhile: the key is not.
    let late = store.commit_domain(&with(2, replace(&next(&managed(1, SECRET_KEY, None)))));
    assert_eq!(late.unwrap_err().kind(), ErrorKind::FunctionFailed);
    assert_eq!(generations(&*store, 1..=1), [Some(2)]);
}

fn what_is_to_be_told_comes_in_pages(home: &Home) {
    let store = home.create();
    let told = |number, class, managed| {
        let mut record = record(number, "told");
        (record.columns.class, record.columns.managed, record.columns.replicating) = (class, managed, true);
        record
    };
    let tombstone = 0x8000_0000 | u64::from(u16::MAX);
    let halves = [told(2, PUBLIC_KEY, true), told(3, PRIVATE_KEY, true)];
    store.insert(&[&[told(1, SECRET_KEY, true), managed(4, SECRET_KEY, None)], &halves[..]].concat()).unwrap();
    store.insert(&[told(5, tombstone, false)]).unwrap();
    let numbers = |found: &[conclave::store::Found]| found.iter().map(|found| found.object).collect::<Vec<_>>();
    let first = store.replicating(0, 2).unwrap();
    assert_eq!(numbers(&first), [object(1), object(3)]);
    assert_eq!(numbers(&store.replicating(first[1].row, 2).unwrap()), [object(5)]);
    let mut done = next(&told(1, SECRET_KEY, true));
    done.columns.replicating = false;
    store.replace(&done).unwrap();
    assert_eq!(numbers(&store.replicating(0, 9).unwrap()), [object(3), object(5)]);
    assert!(store.get(&object(5)).unwrap().unwrap().columns.replicating);
}

fn what_is_due_comes_first_and_what_is_hidden_is_never_found(home: &Home) {
    let store = home.create();
    let mut hidden = managed(5, CKO_KMS_ALIAS, None);
    hidden.columns.managed = false;
    store
        .insert(&[
            managed(1, SECRET_KEY, Some(300)),
            managed(2, SECRET_KEY, Some(100)),
            managed(3, SECRET_KEY, Some(Columns::NEVER)),
            managed(4, SECRET_KEY, Some(200)),
            hidden,
        ])
        .unwrap();
    let due = |by, limit| store.due(by, limit).unwrap().iter().map(|found| found.object).collect::<Vec<_>>();
    assert_eq!(due(299, 9), [object(2), object(4)]);
    assert_eq!(due(300, 2), [object(2), object(4)]);
    assert_eq!(due(Columns::NEVER - 1, 9), [object(2), object(4), object(1)]);
    let found = |filter: Filter| store.find(&filter, 0, 9).unwrap().len();
    assert_eq!(found(Filter::default()), 4);
    assert_eq!(found(super::by_label("managed")), 4);
    assert_eq!(found(Filter { object: Some(object(5)), ..Filter::default() }), 0);
    assert_eq!(found(Filter { class: Some(CKO_KMS_ALIAS), ..Filter::default() }), 1);
}
