//! What sessions cost: figures, not a test. `cargo test --release -- --ignored --nocapture session_costs`

use std::time::Instant;

use super::*;

#[test]
#[ignore = "prints figures"]
fn session_costs() {
    for suite in [Suite::P384, Suite::P384MlKem1024] {
        let mut world = World::new("measure", suite);
        let per = |what: &str, count: u32, started: Instant| {
            let each = started.elapsed() / count;
            println!("suite {}: {what}: {each:?}, {:.0} per second", suite.number(), 1.0 / each.as_secs_f64());
        };
        let started = Instant::now();
        let begun: Vec<_> = (0..200).map(|_| world.begin(0)).collect();
        per("message 1", 200, started);
        let started = Instant::now();
        let answers: Vec<_> = begun.iter().map(|(_, m1)| world.answer(0, m1, NOW).unwrap()).collect();
        per("message 2", 200, started);
        let started = Instant::now();
        let finished = begun.into_iter().zip(&answers);
        let sessions: Vec<_> = finished.map(|((n, _), m2)| n.finish_at(&world.follower, m2, NOW).unwrap()).collect();
        per("taking message 2", 200, started);
        let started = Instant::now();
        let requests: Vec<_> = sessions.iter().map(|s| s.connect(&world.follower, &world.hsm(1)).unwrap()).collect();
        per("beginning a connection", 200, started);
        let started = Instant::now();
        for (_, request) in &requests {
            world.accept(1, request, NOW).unwrap();
        }
        per("accepting a connection", 200, started);
        let mut pair = world.connect(&sessions[0], 1).unwrap();
        for len in [100, 4096, 65_536] {
            let (message, count) = (vec![7; len], 2000);
            let (mut wire, mut arrived) = (Vec::new(), crate::hsm::Wiped::default());
            let started = Instant::now();
            for _ in 0..count {
                wire.clear();
                arrived.clear();
                pair.host.seal(&message, &mut wire).unwrap();
                pair.hsm.open(&wire[4..], &mut arrived).unwrap();
            }
            per(&format!("sealing and opening {len} bytes"), count, started);
        }
    }
}
