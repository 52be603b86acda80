use std::sync::Mutex;

use super::super::{Batch, Journal, Row, Sign};
use super::{NOW, Stored, World, sample, verify};
use crate::error::{ErrorKind, Result};

/// A journal, and a store for it.
struct Fixture {
    world: World,
    journal: Journal,
    rows: Mutex<Vec<Stored>>,
}

impl Fixture {
    fn new() -> Self {
        let mut world = World::new("journal");
        let number = world.open();
        let journal = Journal::new(world.chains.remove(number));
        Self { rows: Mutex::new(world.rows.clone()), world, journal }
    }

    fn store(&self, batch: &Batch<'_>) -> Result<()> {
        let mut rows = self.rows.lock().unwrap();
        assert_eq!(batch.first, rows.len() as u64);
        rows.extend(batch.rows.iter().map(|row| (batch.tip.instance, row.clone())));
        Ok(())
    }

    fn flush(&self, sign: Sign, now: u64) {
        self.journal.flush(u64::MAX, sign, now, &self.world.key, |batch| self.store(batch)).unwrap();
    }

    /// Numbers of the stored rows that are heads.
    fn heads(&self) -> Vec<usize> {
        let rows = self.rows.lock().unwrap();
        let head = |n: &usize| matches!(Row::decode(&rows[*n].1), Ok(Row::Head(_)));
        (0..rows.len()).filter(head).collect()
    }

    fn check(&self) -> u64 {
        let (found, report) = verify(&[self.world.public()], &self.rows.lock().unwrap(), &[]);
        assert_eq!(found, []);
        report.counts.events
    }
}

#[test]
fn many_threads_make_one_chain() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let Fixture { journal, world, .. } = &fixture;
            let fixture = &fixture;
            scope.spawn(move || {
                for n in 0..1000 {
                    let ticket = journal.push(&sample(n, &[0xa0]), NOW + n as u64).unwrap();
                    if n % 100 == thread {
                        let store = |batch: &Batch<'_>| fixture.store(batch);
                        journal.flush(ticket, Sign::WhenDue, NOW + n as u64, &world.key, store).unwrap();
                    }
                }
            });
        }
    });
    fixture.flush(Sign::Closing, NOW + 2000);
    assert_eq!(fixture.check(), 4000);
    assert!(fixture.heads().len() >= 5);
    assert!(fixture.journal.push(&sample(1, &[0xa0]), NOW).is_err());
    fixture.flush(Sign::Closing, NOW + 3000);
    fixture.check();
}

#[test]
fn heads_come_after_a_second_or_a_thousand_records() {
    let fixture = Fixture::new();
    let journal = &fixture.journal;
    assert!(!journal.due(u64::MAX - 1));
    journal.push(&sample(1, &[0xa0]), NOW + 100).unwrap();
    assert!(!journal.due(NOW + 1099) && journal.due(NOW + 1100));
    // Stored early, it still wants its head a second after the last.
    fixture.flush(Sign::WhenDue, NOW + 500);
    assert_eq!(fixture.heads(), [1]);
    assert!(!journal.due(NOW + 999) && journal.due(NOW + 1000));
    fixture.flush(Sign::WhenDue, NOW + 1000);
    assert_eq!(fixture.heads(), [1, 3]);
    assert!(!journal.due(u64::MAX - 1));
    for n in 0..2500 {
        assert_eq!(journal.due(NOW + 1001), n >= 1000);
        journal.push(&sample(2, &[0xa0]), NOW + 1001).unwrap();
    }
    fixture.flush(Sign::WhenDue, NOW + 1001);
    assert_eq!(fixture.heads(), [1, 3, 1004, 2005]);
    fixture.flush(Sign::Now, NOW + 1002);
    assert_eq!(fixture.heads(), [1, 3, 1004, 2005, 2506]);
    fixture.flush(Sign::Now, NOW + 1003);
    assert_eq!((fixture.heads().len(), fixture.check()), (5, 2501));
}

#[test]
fn what_could_not_be_stored_is_stored_later() {
    let fixture = Fixture::new();
    let Fixture { journal, world, .. } = &fixture;
    let fail = |_: &Batch<'_>| Err(ErrorKind::DeviceError.into());
    for n in 0..3 {
        let ticket = journal.push(&sample(n, &[0xa0]), NOW).unwrap();
        assert!(journal.flush(ticket, Sign::Now, NOW + 10, &world.key, fail).is_err());
        assert!(!journal.due(NOW + 999) && journal.due(NOW + 1010));
    }
    assert_eq!(fixture.check(), 0);
    fixture.flush(Sign::WhenDue, NOW + 1010);
    assert_eq!(fixture.check(), 3);
    // Another thread has stored the ticket's.
    journal.flush(3, Sign::WhenDue, NOW + 9000, &world.key, fail).unwrap();
}

#[test]
fn a_store_that_fails_for_long_costs_records_and_the_log_says_how_many() {
    let fixture = Fixture::new();
    let journal = &fixture.journal;
    let mut kept = 0_u64;
    let error = loop {
        match journal.push(&sample(1, &[0xa0]), NOW) {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::DeviceMemory);
    assert!(journal.push(&sample(1, &[0xa0]), NOW).is_err());
    fixture.flush(Sign::Now, NOW);
    journal.push(&sample(2, &[0xa0]), NOW).unwrap();
    fixture.flush(Sign::Closing, NOW);
    assert_eq!(fixture.check(), kept + 2);
    let rows = fixture.rows.lock().unwrap();
    let Ok(Row::Event(lost)) = Row::decode(&rows[rows.len() - 3].1) else { panic!("no event") };
    assert_eq!((lost.action, lost.target, lost.outcome), ("RecordsLost", Some("2"), "CKR_DEVICE_MEMORY"));
}
