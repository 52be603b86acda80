//! What a record costs, and a million of them:
//! `cargo test --lib audit::tests::speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::super::{Batch, Journal, Sign, Verifier};
use super::{DOMAIN, NOW, World, encoded_context, sample};

const RECORDS: u64 = 1_000_000;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}

#[test]
#[ignore = "prints how fast it is"]
fn a_million_records() {
    let context = encoded_context(&[("bucket", "invoices"), ("object", "2026/11/22/000000000001.pdf")]);
    let event = sample(1, &context);
    let mut world = World::new("speed");
    (0..4).for_each(|_| _ = world.open());
    let journals: Vec<_> = world.chains.drain(..).map(Journal::new).collect();
    let public = world.public();
    let mut verifier = Verifier::new(DOMAIN, |_: &_| Some(public));
    assert!(world.rows.iter().all(|(instance, row)| verifier.row(instance, row).is_empty()));

    let [mut push, mut make, mut verify] = [Duration::ZERO; 3];
    let (mut bytes, mut before, mut pushed) = (0, 0, 0);
    while pushed < RECORDS {
        for journal in &journals {
            let start = Instant::now();
            for n in 0..1000 {
                black_box(journal.push(&event, NOW + pushed + n).unwrap());
            }
            push += start.elapsed();
            pushed += 1000;
            let start = Instant::now();
            let mut rows = Vec::new();
            let store = |batch: &Batch<'_>| {
                rows.extend(batch.rows.iter().map(|row| (batch.tip.instance, row.clone())));
                Ok(())
            };
            journal.flush(u64::MAX, Sign::WhenDue, NOW + pushed, &world.key, store).unwrap();
            make += start.elapsed();
            bytes += rows.iter().map(|row| row.1.len()).sum::<usize>();
            let start = Instant::now();
            assert!(rows.iter().all(|(instance, row)| verifier.row(instance, row).is_empty()));
            verify += start.elapsed();
        }
        if pushed == RECORDS / 10 {
            before = resident_kib();
        }
    }
    let grown = resident_kib().saturating_sub(before);
    let counts = verifier.counts();
    let report = verifier.finish();
    assert!(report.findings.is_empty() && counts.events == RECORDS && report.open.len() == 4);
    assert!(grown < 2048, "memory grew by {grown} KiB over the last nine tenths");
    let each = |all: Duration| all.as_nanos() / u128::from(RECORDS);
    println!(
        "{RECORDS} records of {} bytes, {} heads: push {} ns, make {} ns, verify {} ns each ({:.0} a second); \
         memory grew by {grown} KiB",
        bytes / RECORDS as usize,
        counts.heads,
        each(push),
        each(make),
        each(verify),
        RECORDS as f64 / verify.as_secs_f64(),
    );
}

#[test]
#[ignore = "prints how fast it is"]
fn pushes_of_many_threads() {
    let mut world = World::new("threads");
    let number = world.open();
    let journal = Journal::new(world.chains.remove(number));
    let each = 10_000_u32;
    for threads in [1, 2, 4, 8] {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..each).for_each(|n| drop(journal.push(&sample(n as usize, &[0xa0]), NOW))));
            }
        });
        println!("{threads} threads: {} ns a push", start.elapsed().as_nanos() / u128::from(each * threads));
        journal.flush(u64::MAX, Sign::Now, NOW, &world.key, |_| Ok(())).unwrap();
    }
}
