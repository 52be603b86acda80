//! Measurements for the benchmark (`scripts/bench.sh` runs them): one line of JSON each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::super::crypto::Entropy;
use super::super::change::Change;
use super::super::command::SignedCommand;
use super::super::opened::OwnKeys;
use super::super::state::Member;
use super::super::{Opened, PublicState};
use super::ceremony::{NOW, at, founding, governed, propose, run, sign, three};

/// Rounds take turns and the best is told, since whatever disturbs makes them slower.
const ROUNDS: u32 = 5;

/// Seconds that one run takes, in the best round.
fn best(mut run: impl FnMut()) -> f64 {
    let round = |run: &mut dyn FnMut()| {
        let (start, mut runs) = (Instant::now(), 0);
        while runs < 3 || start.elapsed() < Duration::from_millis(60) {
            run();
            runs += 1;
        }
        start.elapsed().as_secs_f64() / f64::from(runs)
    };
    (0..ROUNDS).map(|_| round(&mut run)).fold(f64::INFINITY, f64::min)
}

#[test]
#[ignore = "a measurement"]
fn measure_commands() {
    let g = governed();
    let people = [&g.people[0], &g.people[1]];
    let change = Change::TrustKey { object: [7; 16], trusted: true };
    let command = sign(propose(g.state(), change, &mut at(NOW)), &people);
    let signed = SignedCommand::decode(&command).unwrap();
    let verify = best(|| drop(signed.verify(g.state(), NOW).unwrap()));
    let execute = best(|| drop(g.opened().execute(&command, &mut at(NOW)).unwrap()));
    let done = g.opened().execute(&command, &mut at(NOW)).unwrap();
    let log = [done.entry];
    let public = g.opened().public();
    let adopt = best(|| drop(public.adopt_logged(&done.token, &log, NOW).unwrap()));
    let newer = public.adopt_logged(&done.token, &log, NOW).unwrap();
    let open = best(|| drop(g.opened().advance(Arc::clone(&newer)).unwrap()));
    println!(
        "{{\"name\":\"commands\",\"signatures\":2,\"verify_rate\":{:.4},\"execute_rate\":{:.4},\"adopt_ms\":{:.4},\"open_ms\":{:.4}}}",
        1.0 / verify,
        1.0 / execute,
        adopt * 1e3,
        open * 1e3
    );
}

#[test]
#[ignore = "a measurement"]
fn measure_tokens() {
    let entropy = &mut Entropy::System;
    let own = Arc::new(OwnKeys::generate(entropy).unwrap());
    let (provisioned, _) = Opened::provision("fleet", Arc::clone(&own), &mut at(NOW)).unwrap();
    let people = three(entropy);
    let change = founding(provisioned.state(), &people, Vec::new());
    let founded = run(&provisioned, change, &people.iter().collect::<Vec<_>>(), NOW).unwrap().opened;
    for members in [3, 30, 300] {
        let mut state = founded.state().clone();
        while state.members.len() < members {
            let other = OwnKeys::generate(entropy).unwrap();
            let (signing, agreement) = (other.signing.public().unwrap(), other.agreement.public().unwrap());
            state.members.push(Member { id: other.id, signing, agreement });
        }
        state.members.sort_by_key(|member| member.id);
        let (opened, token) = founded.export(&state, Arc::clone(founded.secrets()), &mut at(NOW)).unwrap();
        let export = best(|| drop(founded.export(&state, Arc::clone(founded.secrets()), &mut at(NOW)).unwrap()));
        let public = PublicState::of_fingerprint(&token, opened.public().hash()).unwrap();
        let change = Change::TrustKey { object: [7; 16], trusted: true };
        let done = run(&opened, change, &[&people[0], &people[1]], NOW).unwrap();
        let log = [done.entry];
        let adopt = best(|| drop(public.adopt_logged(&done.token, &log, NOW).unwrap()));
        let newer = public.adopt_logged(&done.token, &log, NOW).unwrap();
        let open = best(|| drop(Opened::as_member(Arc::clone(&newer), Arc::clone(&own)).unwrap()));
        println!(
            "{{\"name\":\"token\",\"members\":{members},\"bytes\":{},\"export_ms\":{:.4},\"adopt_ms\":{:.4},\"open_ms\":{:.4}}}",
            token.bytes.len(),
            export * 1e3,
            adopt * 1e3,
            open * 1e3
        );
    }
}
