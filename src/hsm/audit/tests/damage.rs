//! Whatever is done to a log by someone without the member's key is found.

use proptest::prelude::*;

use super::super::{Damage, Head, Row};
use super::{Stored, World, encoded_context, hash_of, sample, verify};
use crate::error::ErrorKind;

fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let mut at = 0;
    while let Some(found) = out[at..].windows(old.len()).position(|window| window == old) {
        out[at + found..at + found + old.len()].copy_from_slice(new);
        at += found + old.len();
    }
    out
}

/// Takes another row in place of `rows[at]`, and makes all later rows name it: the work of somebody
/// who lacks nothing but the key.
fn rewritten(rows: &[Stored], at: usize, row: Vec<u8>) -> Vec<Stored> {
    let mut rows = rows.to_vec();
    let mut changed = vec![(hash_of(&rows[at]), at)];
    rows[at].1 = row;
    for later in at + 1..rows.len() {
        let before = hash_of(&rows[later]);
        for (old, place) in &changed {
            rows[later].1 = replaced(&rows[later].1, old, &hash_of(&rows[*place]));
        }
        if hash_of(&rows[later]) != before {
            changed.push((before, later));
        }
    }
    rows
}

/// Chains that come, go on and go at random, some by a crash, and at the end a head to keep.
fn world(steps: &[(u8, u8)]) -> (World, usize) {
    let mut world = World::new("damage");
    let context = encoded_context(&[("purpose", "test")]);
    let mut open = vec![world.open()];
    for (n, (step, which)) in steps.iter().enumerate() {
        world.now += 137;
        let place = usize::from(*which) % open.len().max(1);
        match (step % 8, open.get(place).copied()) {
            (0, _) | (_, None) => open.push(world.open()),
            (1, Some(chain)) => {
                world.head(chain, true);
                open.remove(place);
            }
            (2, Some(_)) => {
                open.remove(place);
            }
            (3, Some(chain)) => world.head(chain, false),
            (_, Some(chain)) => world.event(chain, &sample(n, &context)),
        }
    }
    let kept = world.take_head();
    (world, kept)
}

#[derive(Debug, Clone, Copy)]
enum Attack {
    Flip { bit: usize },
    OtherChain,
    Remove,
    RemoveChain,
    CutChain,
    CutLog,
    Repeat { to: usize },
    Swap,
    Rewrite,
    Insert,
}

fn attacks() -> impl Strategy<Value = Attack> {
    prop_oneof![
        3 => any::<usize>().prop_map(|bit| Attack::Flip { bit }),
        1 => Just(Attack::OtherChain),
        2 => Just(Attack::Remove),
        1 => Just(Attack::RemoveChain),
        1 => Just(Attack::CutChain),
        1 => Just(Attack::CutLog),
        1 => any::<usize>().prop_map(|to| Attack::Repeat { to }),
        2 => Just(Attack::Swap),
        2 => Just(Attack::Rewrite),
        1 => Just(Attack::Insert),
    ]
}

/// The log after the attack at this place; None where it does nothing that counts.
fn attacked(rows: &[Stored], kept: usize, at: usize, attack: Attack) -> Option<Vec<Stored>> {
    let instance = rows[at].0;
    let next = (at + 1..rows.len()).find(|n| rows[*n].0 == instance);
    let event = || matches!(Row::decode(&rows[at].1), Ok(Row::Event(_)));
    // The newest chain may go on and need not be closed: what comes after the kept head is not covered.
    let covered = at <= kept;
    let mut out = rows.to_vec();
    match attack {
        Attack::Flip { bit } => out[at].1[bit / 8 % rows[at].1.len()] ^= 1 << (bit % 8),
        Attack::OtherChain => out[at].0 = rows.iter().find(|row| row.0 != instance)?.0,
        Attack::Remove if covered => drop(out.remove(at)),
        Attack::RemoveChain => out.retain(|row| row.0 != instance),
        Attack::CutChain if covered => {
            let mut n = 0;
            out.retain(|row| (row.0 != instance || n < at, n += 1).0);
        }
        Attack::CutLog if covered => out.truncate(at),
        Attack::Repeat { to } => out.insert(at + 1 + to % (rows.len() - at), rows[at].clone()),
        Attack::Swap => out.swap(at, next?),
        Attack::Rewrite if event() => {
            let changed = replaced(&rows[at].1, b"CKR_OK", b"CKR_KO");
            (changed != rows[at].1).then_some(())?;
            out = rewritten(rows, at, changed);
        }
        Attack::Insert if event() => {
            let forged = replaced(&rows[at].1, b"web-", b"bad-");
            out.insert(at, (instance, forged));
        }
        _ => return None,
    }
    Some(out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn an_honest_log_is_found_whole_and_each_attack_is_found(
        steps in prop::collection::vec(any::<(u8, u8)>(), 0..40),
        tries in prop::collection::vec((any::<prop::sample::Index>(), attacks()), 24),
    ) {
        let (world, place) = world(&steps);
        let kept = world.rows[place].1.as_slice();
        let (found, report) = world.verify(&world.rows, &[kept]);
        prop_assert_eq!(found, vec![]);
        prop_assert_eq!(report.counts.chains, world.chains.len() as u64);
        let open = world.chains.iter().filter(|chain| !chain.closed()).count();
        prop_assert_eq!(report.open.len(), open);
        for (at, attack) in tries {
            let at = at.index(world.rows.len());
            let Some(rows) = attacked(&world.rows, place, at, attack) else { continue };
            let (found, _) = world.verify(&rows, &[kept]);
            prop_assert!(!found.is_empty(), "row {} of {}, {:?}", at, world.rows.len(), attack);
        }
    }

    #[test]
    fn rows_of_any_bytes_are_no_trouble(
        rows in prop::collection::vec((0..3_u8, prop::collection::vec(any::<u8>(), 0..80)), 0..20),
    ) {
        let rows: Vec<Stored> = rows.into_iter().map(|(chain, row)| ([chain; 16], row)).collect();
        prop_assert_eq!(verify(&[], &rows, &[]).0.len(), rows.len());
    }
}

fn damages(world: &World, rows: &[Stored], kept: &[&[u8]]) -> Vec<Damage> {
    world.verify(rows, kept).0.into_iter().map(|finding| finding.damage).collect()
}

/// One chain of ten events with a head after each, then a kept head.
fn simple() -> (World, usize) {
    let mut world = World::new("simple");
    let chain = world.open();
    for n in 0..10 {
        world.now += 1000;
        world.event(chain, &sample(n, &[0xa0]));
        world.head(chain, false);
    }
    world.head(chain, true);
    let kept = world.take_head();
    (world, kept)
}

#[test]
fn each_damage_is_reported_once_and_by_its_name() {
    let (world, place) = simple();
    let (first, second) = (world.rows[0].0, world.rows[place].0);
    let kept = world.rows[place].1.clone();
    let check = |rows: Vec<Stored>, expected: &[Damage]| assert_eq!(damages(&world, &rows, &[&kept]), expected);
    let edited = |change: &dyn Fn(&mut Vec<Stored>)| {
        let mut rows = world.rows.clone();
        change(&mut rows);
        rows
    };

    // Rows 2n and 2n + 1 are record n and its head.
    check(edited(&|rows| rows[8].1 = replaced(&rows[8].1, b"CKR_OK", b"CKR_KO")), &[Damage::HeadDoesNotFit]);
    check(edited(&|rows| *rows[9].1.last_mut().unwrap() ^= 1), &[Damage::Changed]);
    check(edited(&|rows| drop(rows.drain(8..10))), &[Damage::Missing { from: 4, to: 4 }]);
    check(edited(&|rows| drop(rows.remove(9))), &[Damage::Changed]);
    check(edited(&|rows| drop(rows.remove(0))), &[Damage::NoBeginning]);
    check(
        edited(&|rows| {
            let row = rows[6].clone();
            rows.insert(12, row);
        }),
        &[Damage::OutOfOrder],
    );
    check(edited(&|rows| drop(rows.drain(16..23))), &[Damage::ChainShorter { chain: first, seq: 10, found: 7 }]);
    check(edited(&|rows| drop(rows.drain(22..23))), &[Damage::ChainDiffers { chain: first }]);
    check(edited(&|rows| drop(rows.drain(..23))), &[Damage::ChainMissing { chain: first, seq: 10 }]);
    check(world.rows[..place - 1].to_vec(), &[Damage::KeptMissing]);
    check(
        edited(&|rows| {
            let event = rows[2].1.clone();
            rows.push((second, event));
        }),
        &[Damage::AfterClose],
    );
}

#[test]
fn a_rewritten_log_lacks_signatures() {
    let (world, place) = simple();
    let changed = replaced(&world.rows[8].1, b"CKR_OK", b"CKR_KO");
    let rows = rewritten(&world.rows, 8, changed);
    let found = damages(&world, &rows, &[]);
    // The closing heads of both chains: they vouch for all the others.
    assert_eq!(found, [Damage::Signature, Damage::Signature]);
    assert!(damages(&world, &rows, &[&world.rows[place].1]).contains(&Damage::KeptDiffers));
}

#[test]
fn against_a_kept_head_a_chain_is_cut_or_another() {
    let mut world = World::new("kept");
    let chain = world.open();
    (0..5).for_each(|n| world.event(chain, &sample(n, &[0xa0])));
    world.head(chain, false);
    let kept = world.rows.last().unwrap().1.clone();
    world.event(chain, &sample(9, &[0xa0]));
    assert_eq!(damages(&world, &world.rows, &[&kept]), []);
    assert_eq!(damages(&world, &world.rows[..5], &[&kept]), [Damage::KeptTruncated { seq: 5, found: 3 }]);
    // Another history by the same instance, well signed.
    let mut other = World::new("kept");
    let chain = other.open();
    (5..15).for_each(|n| other.event(chain, &sample(n, &[0xa0])));
    other.head(chain, true);
    assert_eq!(damages(&other, &other.rows, &[]), []);
    assert_eq!(damages(&other, &other.rows, &[&kept]), [Damage::KeptDiffers]);
    assert!(kept.len() < 350, "{}", kept.len());
}

#[test]
fn a_kept_head_must_be_signed_by_a_member() {
    let (world, place) = simple();
    let lookup = |_: &_| Some(world.public());
    let mut head = world.rows[place].1.clone();
    assert!(super::Verifier::new(super::DOMAIN, lookup).keep(&head).is_ok());
    let refused = |domain, head: &[u8]| super::Verifier::new(domain, lookup).keep(head).unwrap_err().kind();
    assert_eq!(refused([1; 16], &head), ErrorKind::SignatureInvalid);
    assert_eq!(
        super::Verifier::new(super::DOMAIN, |_: &_| None).keep(&head).unwrap_err().kind(),
        ErrorKind::SignatureInvalid
    );
    assert_eq!(refused(super::DOMAIN, &world.rows[0].1), ErrorKind::DataInvalid);
    *head.last_mut().unwrap() ^= 1;
    assert_eq!(refused(super::DOMAIN, &head), ErrorKind::SignatureInvalid);
}

#[test]
fn a_chain_that_only_begins_and_one_that_was_never_signed() {
    let mut world = World::new("inserted");
    let chain = world.open();
    world.event(chain, &sample(1, &[0xa0]));
    let (found, report) = world.verify(&world.rows, &[]);
    assert_eq!(found, []);
    let open = &report.open[0];
    assert_eq!((open.seq, open.unsigned, open.host.as_str()), (1, 1, "web-1"));
    // Somebody without the key can make an anchor, but no head.
    assert_eq!(damages(&world, &world.rows[..1], &[]), [Damage::HeadMissing]);
    let mut forged = Head::decode(&world.rows[1].1).unwrap();
    forged.at += 1;
    let forged = forged.sign(&super::DOMAIN, &World::new("another").key).unwrap();
    let rows = [world.rows[0].clone(), (world.rows[1].0, forged)];
    assert_eq!(damages(&world, &rows, &[]), [Damage::Signature]);
}

#[test]
fn more_than_a_thousand_records_need_a_head() {
    let mut world = World::new("thousand");
    let chain = world.open();
    (0..1000).for_each(|n| world.event(chain, &sample(n, &[0xa0])));
    world.head(chain, false);
    world.event(chain, &sample(7, &[0xa0]));
    assert_eq!(damages(&world, &world.rows, &[]), []);
    let head = world.rows.len() - 2;
    world.rows.remove(head);
    assert_eq!(damages(&world, &world.rows, &[]), [Damage::Changed]);
}
