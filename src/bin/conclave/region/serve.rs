//! `conclave region serve`.

use std::time::{Duration, Instant};

use serde_json::json;

use super::exchange::Event;
use super::lines::Lines;
use super::stop::Stop;
use super::{BATCH, Post};
use crate::args::RegionServe;
use crate::output::Failure;
use crate::session::Live;

/// How long one turn waits for a message; a signal is heeded after it.
const TURN: Duration = Duration::from_secs(1);

pub(super) fn run(serve: &RegionServe, as_json: bool) -> Result<(), Failure> {
    let live = Live::logged_in(&serve.login)?;
    let post = Post::open(&serve.by, &live)?;
    let stop = Stop::on_signals()?;
    let mut lines = Lines::new(as_json);
    lines.note("serving", &format!("{:?} as {}", live.token.label, post.here), json!(post.here.region));
    let mut exchange = post.exchange(&live, BATCH);
    let mut active = Instant::now();
    let mut unreachable = None;
    while !stop.wished() {
        let turn = exchange.turn(TURN, &mut |event| {
            unreachable = match event {
                Event::Carrier { failure } => Some(failure.message().to_owned()),
                _ => None,
            };
            lines.print(event);
        })?;
        if turn {
            active = Instant::now();
        }
        if serve.once && active.elapsed() >= Duration::from_secs(serve.quiet) {
            break;
        }
    }
    lines.note("ended", &format!("{:?}", live.token.label), json!(post.here.region));
    match unreachable {
        Some(message) if serve.once => Err(Failure::new(message)),
        _ => Ok(()),
    }
}
