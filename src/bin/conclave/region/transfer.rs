//! An exchange about certain keys, until all is said: by `replicate`, `region pull` and `key promote`.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use conclave::cryptoki::{KeyQuery, Pending};
use conclave::error::{Error, ErrorKind};
use conclave::hsm::MessageKind;
use serde_json::{Value, json};

use super::exchange::Region;
use super::lines::{is_trouble, words};
use super::stop::Stop;
use super::{Post, require_trusted};
use crate::args::{By, RegionPull};
use crate::output::{self, Failure, Progress};
use crate::session::{self, Live};

const TURN: Duration = Duration::from_millis(500);
/// How many refusals and failures are told.
const TROUBLES: usize = 10;

/// How an exchange ended.
pub(super) struct Outcome {
    /// Ids of keys of which something is still to be told.
    pub(super) waiting: Vec<String>,
    pub(super) seconds: f64,
    /// It was ended by a signal.
    pub(super) stopped: bool,
}

/// Takes part until nothing is pending, time is over, or a signal comes. What is refused or fails
/// meanwhile goes to the standard error. `total` is the number of keys.
pub(super) fn run(
    region: &dyn Region,
    post: &Post,
    batch: usize,
    timeout: Duration,
    total: usize,
    as_json: bool,
) -> Result<Outcome, Failure> {
    let stop = Stop::on_signals()?;
    let begun = Instant::now();
    let mut exchange = post.exchange(region, batch);
    let mut progress = Progress::new(as_json);
    let mut troubles = Vec::new();
    let mut report = |event: &super::exchange::Event<'_>| {
        if is_trouble(event) && troubles.len() < TROUBLES {
            let words = words(event);
            if !troubles.contains(&words) {
                eprintln!("conclave: {words}");
                troubles.push(words);
            }
        }
    };
    let mut late = false;
    while !exchange.settled(&mut report)? && !stop.wished() && !late {
        exchange.turn(TURN, &mut report)?;
        let done = total.saturating_sub(exchange.waiting());
        progress.show(done as u64, total as u64);
        late = begun.elapsed() >= timeout;
    }
    drop(progress);
    let mut waiting: Vec<_> = exchange.waiting_keys().into_iter().map(str::to_owned).collect();
    waiting.sort();
    Ok(Outcome { waiting, seconds: begun.elapsed().as_secs_f64(), stopped: stop.wished() })
}

impl Outcome {
    /// Fails unless all was said. `what` is what is waited for, such as "the replica of".
    pub(super) fn check(&self, what: &str, region: &str) -> Result<(), Failure> {
        let Some(first) = self.waiting.first() else { return Ok(()) };
        let more = match self.waiting.len() {
            1 => String::new(),
            several => format!(" and {} more", several - 1),
        };
        let why = if self.stopped { "it was stopped" } else { "time is over" };
        Err(Failure::late(format!(
            "{why}, and {what} {first}{more} is not done in {region:?}: see there whether `conclave region serve` runs, \
             and what it refuses. The same command goes on, as does `conclave region serve` here"
        )))
    }
}

/// What is pending of some keys for one Region.
pub(super) struct Part<'a> {
    pub(super) live: &'a Live,
    pub(super) region: &'a str,
    pub(super) kinds: &'a [MessageKind],
    pub(super) keys: HashSet<String>,
}

impl Region for Part<'_> {
    fn pending(&self) -> Result<Vec<Pending>, Error> {
        let mut pending = self.live.module.pending_replication(self.live.session, Some(self.region), usize::MAX)?;
        pending.retain(|item| self.kinds.contains(&item.kind));
        for item in &mut pending {
            item.keys.retain(|key| self.keys.contains(key));
        }
        Ok(pending)
    }

    fn tell(&self, kind: MessageKind, region: &str, keys: &[String]) -> Result<Vec<u8>, Error> {
        self.live.tell(kind, region, keys)
    }

    fn receive(&self, message: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Region::receive(self.live, message)
    }
}

/// Tells Regions of the new primary of a key, and waits until its successor has taken it.
pub(crate) fn hand_over(live: &Live, key: &str, to: &str, by: &By, timeout: u64, as_json: bool) -> Result<(), Failure> {
    let post = Post::open(by, live)?;
    let part = Part { live, region: to, kinds: &[MessageKind::Handover], keys: HashSet::from([key.to_owned()]) };
    run(&part, &post, 1, Duration::from_secs(timeout), 1, as_json)?.check("the promotion of the replica of", to)
}

/// `conclave region pull`.
pub(super) fn pull(pull: &RegionPull, as_json: bool) -> Result<(), Failure> {
    if let Some(wrong) = pull.keys.iter().find(|key| !key.starts_with("mrk-")) {
        return Err(Failure::usage(format!("{wrong:?} is no id of a multi-Region key, which begins with mrk-")));
    }
    let live = Live::logged_in(&pull.login)?;
    require_trusted(&live, &pull.from)?;
    let post = Post::open(&pull.by, &live)?;
    let keys: HashSet<String> = pull.keys.iter().cloned().collect();
    let total = keys.len();
    let fetching = Fetching { live: &live, from: &pull.from, missing: RefCell::new(keys) };
    let timeout = Duration::from_secs(pull.patience.timeout);
    let outcome = run(&fetching, &post, pull.patience.batch.into(), timeout, total, as_json)?;
    let said = json!({
        "from": pull.from, "keys": total, "done": total.saturating_sub(outcome.waiting.len()),
        "waiting": outcome.waiting, "seconds": outcome.seconds,
    });
    let missing = outcome.check("the replica of", &pull.from);
    if as_json || missing.is_ok() {
        let keys = if total == 1 { "One key is".to_owned() } else { format!("{total} keys are") };
        output::done(
            as_json,
            &format!("{keys} here as they are in {:?}.", pull.from).replace("is here as they are", "is here as it is"),
            &said,
        );
    }
    missing
}

/// Keys that are to come from a Region: offers are what it is told.
struct Fetching<'a> {
    live: &'a Live,
    from: &'a str,
    /// Those that no shipment has brought yet, or that are not in use yet.
    missing: RefCell<HashSet<String>>,
}

impl Fetching<'_> {
    fn is_waiting(&self, key: &str) -> Result<bool, Error> {
        let request = json!({ "KeyId": key }).to_string();
        match self.live.module.query_keys(self.live.session, KeyQuery::DescribeKey, &request) {
            Ok(described) => {
                let state = session::parse(&described).map(|key| key["KeyState"].clone());
                Ok(matches!(state, Ok(Value::String(state)) if state == "Creating"))
            }
            Err(error) if error.kind() == ErrorKind::KmsNotFound => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl Region for Fetching<'_> {
    fn pending(&self) -> Result<Vec<Pending>, Error> {
        let mut keys: Vec<_> = self.missing.borrow().iter().cloned().collect();
        keys.sort();
        Ok(vec![Pending { region: self.from.to_owned(), kind: MessageKind::Offer, keys }])
    }

    fn tell(&self, _: MessageKind, region: &str, keys: &[String]) -> Result<Vec<u8>, Error> {
        self.live.module.offer_replicas(self.live.session, region, keys)
    }

    fn receive(&self, message: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let answer = Region::receive(self.live, message)?;
        let view = self.view(message)?;
        if matches!(view.kind, MessageKind::Shipment | MessageKind::Activate) && view.from == self.from {
            for key in &view.keys {
                if !self.is_waiting(key)? {
                    self.missing.borrow_mut().remove(key);
                }
            }
        }
        Ok(answer)
    }
}
