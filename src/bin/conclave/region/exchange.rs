//! The exchange of messages with other Regions: what is done with each that comes, and what is sent
//! when. Whatever gets lost on the way is asked for again, at longer and longer intervals.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::thread::sleep;
use std::time::{Duration, Instant};

use conclave::cryptoki::Pending;
use conclave::error::{Error, ErrorKind};
use conclave::hsm::{self, MessageKind, MessageView};

use crate::carrier::{Address, Carrier, Delivery};
use crate::output::Failure;

/// How often it is looked up what is pending, at most.
const LOOK: Duration = Duration::from_secs(5);
/// The same after a message that may have changed it.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// Looking takes no more than this part of the time.
const LOOKING_SHARE: u32 = 5;
/// How long an answer takes, if it comes: for a message, and for each of its keys.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const WAIT_A_KEY: Duration = Duration::from_millis(10);
/// The longest time after which a Region that does not answer is told again.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 60);
/// Of one kind, for one Region: how many batches may be under way, and messages be sent in one turn.
const BATCHES_UNDER_WAY: usize = 4;
const MESSAGES_A_TURN: usize = 8;
/// Messages that were dealt with and may come once more.
const REMEMBERED: usize = 1024;
/// How long an answer is kept that the carrier does not take; the other Region begins again then.
const ANSWER_KEPT: Duration = Duration::from_secs(120);
/// After a failure of the carrier that took no time.
const CARRIER_PAUSE: Duration = Duration::from_secs(1);

/// The Region that takes part.
pub(super) trait Region {
    /// What others are still to be told, all of it.
    fn pending(&self) -> Result<Vec<Pending>, Error>;
    /// The message that tells it of these keys.
    fn tell(&self, kind: MessageKind, region: &str, keys: &[String]) -> Result<Vec<u8>, Error>;
    /// Does what a message asks for; the answer, if it has one.
    fn receive(&self, message: &[u8]) -> Result<Option<Vec<u8>>, Error>;
    /// What anybody can read of a message.
    fn view(&self, message: &[u8]) -> Result<MessageView, Error> {
        hsm::replication_message(message)
    }
}

/// What happened.
pub(super) enum Event<'a> {
    /// A message was taken; `answer` goes back.
    Taken { from: &'a Address, message: &'a MessageView, bytes: usize, answer: Option<&'a MessageView> },
    /// It is not answered and does not come again.
    Refused { from: &'a Address, message: Option<&'a MessageView>, error: &'a Error },
    /// It could not be taken now, and comes again.
    Failed { from: &'a Address, message: Option<&'a MessageView>, error: &'a Error },
    /// A Region was told what was pending.
    Told { region: &'a str, kind: MessageKind, keys: &'a [String], bytes: usize },
    /// That could not be made.
    Untold { region: &'a str, kind: MessageKind, keys: &'a [String], error: &'a Error },
    /// This Region's store cannot be asked what is pending.
    Unknown { error: &'a Error },
    /// The carrier does not work.
    Carrier { failure: &'a Failure },
}

/// When a Region was told of a key.
struct Told {
    at: Instant,
    wait: Duration,
    /// How often it has answered other things since, and nothing about this.
    missed: u32,
}

/// What goes back to the sender of a message, which is acknowledged then.
struct Answer {
    to: Address,
    message: Vec<u8>,
    id: String,
    until: Instant,
}

pub(super) struct Exchange<'a> {
    region: &'a dyn Region,
    carrier: &'a dyn Carrier,
    here: Address,
    batch: usize,
    /// What was pending when it was looked up, less what has been answered since.
    pending: HashMap<(String, MessageKind), Vec<String>>,
    told: HashMap<(String, MessageKind), HashMap<String, Told>>,
    /// When each Region last sent what was taken.
    heard: HashMap<String, Instant>,
    look_at: Instant,
    look_not_before: Instant,
    unsent: Option<Answer>,
    done: VecDeque<String>,
}

impl<'a> Exchange<'a> {
    /// `here` is the address of this process; `batch` is how many keys a message is about, at most.
    pub(super) fn new(region: &'a dyn Region, carrier: &'a dyn Carrier, here: Address, batch: usize) -> Self {
        let now = Instant::now();
        Self {
            region,
            carrier,
            here,
            batch: batch.max(1),
            pending: HashMap::new(),
            told: HashMap::new(),
            heard: HashMap::new(),
            look_at: now,
            look_not_before: now,
            unsent: None,
            done: VecDeque::new(),
        }
    }

    /// Sends what is to be sent, and takes a message if one comes in this time. Whether anything was
    /// sent or taken. Fails if it makes no sense to go on.
    pub(super) fn turn(&mut self, wait: Duration, report: &mut dyn FnMut(&Event<'_>)) -> Result<bool, Failure> {
        if !self.send_answer(report) {
            return Ok(false);
        }
        if Instant::now() >= self.look_at {
            self.look(report)?;
        }
        let told = self.tell_due(report)?;
        let delivery = match self.carrier.receive(&self.here.region, self.own_instance(), wait) {
            Ok(delivery) => delivery,
            Err(failure) => {
                self.carrier_failed(&failure, report);
                return Ok(told);
            }
        };
        let Some(delivery) = delivery else { return Ok(told) };
        self.take(delivery, report)?;
        Ok(true)
    }

    /// How many keys others are still to be told something of, as far as is known.
    pub(super) fn waiting(&self) -> usize {
        self.waiting_keys().len()
    }

    pub(super) fn waiting_keys(&self) -> HashSet<&str> {
        self.pending.values().flatten().map(String::as_str).collect()
    }

    /// Whether nothing is pending, asked of the Region if it looks so.
    pub(super) fn settled(&mut self, report: &mut dyn FnMut(&Event<'_>)) -> Result<bool, Failure> {
        Ok(self.unsent.is_none() && self.waiting() == 0 && self.look(report)? && self.waiting() == 0)
    }

    fn own_instance(&self) -> &str {
        self.here.instance.as_deref().unwrap_or_default()
    }

    /// Asks the Region what is pending; whether it said so.
    fn look(&mut self, report: &mut dyn FnMut(&Event<'_>)) -> Result<bool, Failure> {
        let begun = Instant::now();
        let pending = self.region.pending();
        let now = Instant::now();
        self.look_not_before = now + begun.elapsed() * LOOKING_SHARE;
        self.look_at = (now + LOOK).max(self.look_not_before);
        let pending = match pending {
            Ok(pending) => pending,
            Err(error) => {
                report(&Event::Unknown { error: &error });
                return unless_fatal("cannot tell what is pending", &error).map(|()| false);
            }
        };
        self.pending.clear();
        for Pending { region, kind, keys } in pending {
            self.pending.entry((region, kind)).or_default().extend(keys);
        }
        for (about, told) in &mut self.told {
            let keys: HashSet<&String> = self.pending.get(about).into_iter().flatten().collect();
            told.retain(|key, _| keys.contains(key));
        }
        self.told.retain(|_, told| !told.is_empty());
        Ok(true)
    }

    fn look_soon(&mut self) {
        self.look_at = self.look_at.min((Instant::now() + LOOK_SOON).max(self.look_not_before));
    }

    fn tell_due(&mut self, report: &mut dyn FnMut(&Event<'_>)) -> Result<bool, Failure> {
        let mut any = false;
        for (region, kind, keys) in self.due() {
            let made = self.region.tell(kind, &region, &keys);
            let sent = match &made {
                Ok(message) => Address::new(&region, None)
                    .map_err(Failure::usage)
                    .and_then(|to| self.carrier.send(&to, &self.here, message)),
                Err(error) if error.kind() == ErrorKind::KmsNotFound => {
                    // It is pending no longer.
                    self.look_soon();
                    Ok(())
                }
                Err(error) => {
                    report(&Event::Untold { region: &region, kind, keys: &keys, error });
                    unless_fatal("cannot make a message", error)?;
                    Ok(())
                }
            };
            self.remember_told(&region, kind, &keys);
            match (made, sent) {
                (Ok(message), Ok(())) => {
                    any = true;
                    report(&Event::Told { region: &region, kind, keys: &keys, bytes: message.len() });
                }
                (_, Err(failure)) => {
                    self.carrier_failed(&failure, report);
                    break;
                }
                (Err(_), Ok(())) => {}
            }
        }
        Ok(any)
    }

    /// What a Region is to be told now, in batches: what it was not told of yet, or did not answer in
    /// time. One that answers, but not this, gets it in ever smaller batches: one bad key spoils all.
    fn due(&self) -> Vec<(String, MessageKind, Vec<String>)> {
        let now = Instant::now();
        let none = HashMap::new();
        let mut due = Vec::new();
        for (about, keys) in &self.pending {
            let told = self.told.get(about).unwrap_or(&none);
            let mut by_size: BTreeMap<usize, Vec<&String>> = BTreeMap::new();
            let mut under_way = 0;
            for key in keys {
                match told.get(key) {
                    Some(told) if now < told.at + told.wait => {
                        under_way += usize::from(now < told.at + FIRST_WAIT + WAIT_A_KEY * 1000);
                    }
                    told => {
                        let missed = told.map_or(0, |told| told.missed);
                        by_size.entry((self.batch >> (3 * missed).min(20)).max(1)).or_default().push(key);
                    }
                }
            }
            let mut room = (BATCHES_UNDER_WAY * self.batch).saturating_sub(under_way);
            let batches = by_size.iter().rev().flat_map(|(size, keys)| keys.chunks(*size)).take(MESSAGES_A_TURN);
            for batch in batches.take_while(|batch| room.checked_sub(batch.len()).map(|left| room = left).is_some()) {
                due.push((about.0.clone(), about.1, batch.iter().map(|key| (*key).clone()).collect()));
            }
        }
        due
    }

    fn remember_told(&mut self, region: &str, kind: MessageKind, keys: &[String]) {
        let now = Instant::now();
        let heard = self.heard.get(region).copied();
        let first = FIRST_WAIT + WAIT_A_KEY * u32::try_from(keys.len()).unwrap_or(u32::MAX);
        let told = self.told.entry((region.to_owned(), kind)).or_default();
        for key in keys {
            let entry = match told.get(key) {
                None => Told { at: now, wait: first, missed: 0 },
                Some(before) => {
                    let answered = heard.is_some_and(|heard| heard > before.at);
                    Told {
                        at: now,
                        wait: (before.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT),
                        missed: before.missed + u32::from(answered),
                    }
                }
            };
            told.insert(key.clone(), entry);
        }
    }

    fn take(&mut self, delivery: Delivery, report: &mut dyn FnMut(&Event<'_>)) -> Result<(), Failure> {
        let Delivery { id, from, message: bytes } = delivery;
        if self.done.contains(&id) {
            self.acknowledge(id, report);
            return Ok(());
        }
        let view = self.region.view(&bytes);
        let message = view.as_ref().ok();
        let answer = match self.region.receive(&bytes) {
            Ok(answer) => answer,
            Err(error) if error.kind() == ErrorKind::KmsReplicationRefused => {
                report(&Event::Refused { from: &from, message, error: &error });
                self.acknowledge(id, report);
                return Ok(());
            }
            Err(error) => {
                report(&Event::Failed { from: &from, message, error: &error });
                return unless_fatal("cannot take a message", &error);
            }
        };
        let answered = answer.as_deref().and_then(|answer| self.region.view(answer).ok());
        if let Some(message) = message {
            report(&Event::Taken { from: &from, message, bytes: bytes.len(), answer: answered.as_ref() });
            self.heard_from(message);
        }
        if let Some(MessageView { kind: kind @ MessageKind::Activate, to, keys, .. }) = &answered {
            self.remember_told(to, *kind, keys);
        }
        match answer {
            Some(message) => {
                self.unsent = Some(Answer { to: from, message, id, until: Instant::now() + ANSWER_KEPT });
                self.send_answer(report);
            }
            None => self.acknowledge(id, report),
        }
        Ok(())
    }

    /// Notes what a message that was taken settles. Its sender lives, and is told at once what it did
    /// not answer before.
    fn heard_from(&mut self, message: &MessageView) {
        let (settles, then) = match message.kind {
            MessageKind::Receipt => (Some(MessageKind::Request), Some(MessageKind::Activate)),
            MessageKind::Activated => (Some(MessageKind::Activate), None),
            MessageKind::Forgotten => (Some(MessageKind::Deleted), None),
            MessageKind::Taken => (Some(MessageKind::Handover), None),
            // Of a Region that fetches keys.
            MessageKind::Activate => (Some(MessageKind::Offer), None),
            _ => (None, None),
        };
        if let Some(settled) = settles {
            let about = (message.from.clone(), settled);
            let keys: HashSet<&String> = message.keys.iter().collect();
            let before = self.pending.get(&about).map_or(0, Vec::len);
            if let Some(pending) = self.pending.get_mut(&about) {
                pending.retain(|key| !keys.contains(key));
            }
            let after = self.pending.get(&about).map_or(0, Vec::len);
            if let Some(then) = then
                && after < before
            {
                self.pending.entry((message.from.clone(), then)).or_default().extend(message.keys.iter().cloned());
            }
            if let Some(told) = self.told.get_mut(&about) {
                told.retain(|key, _| !keys.contains(key));
            }
        }
        self.heard.insert(message.from.clone(), Instant::now());
        for ((region, _), told) in &mut self.told {
            for entry in told.values_mut().filter(|_| *region == message.from) {
                entry.wait = entry.wait.min(FIRST_WAIT + WAIT_A_KEY * 1000);
            }
        }
        self.look_soon();
    }

    /// Sends the answer that waits for it; whether none waits now.
    fn send_answer(&mut self, report: &mut dyn FnMut(&Event<'_>)) -> bool {
        let Some(answer) = self.unsent.take() else { return true };
        let sent = self.carrier.send(&answer.to, &self.here, &answer.message);
        if let Err(failure) = &sent {
            self.carrier_failed(failure, report);
            if Instant::now() < answer.until {
                self.unsent = Some(answer);
                return false;
            }
        }
        self.acknowledge(answer.id, report);
        true
    }

    fn acknowledge(&mut self, id: String, report: &mut dyn FnMut(&Event<'_>)) {
        if let Err(failure) = self.carrier.acknowledge(&id) {
            self.carrier_failed(&failure, report);
        }
        if self.done.len() == REMEMBERED {
            self.done.pop_front();
        }
        self.done.push_back(id);
    }

    fn carrier_failed(&self, failure: &Failure, report: &mut dyn FnMut(&Event<'_>)) {
        report(&Event::Carrier { failure });
        sleep(CARRIER_PAUSE);
    }
}

/// Fails if this process can do nothing more, now or later.
fn unless_fatal(doing: &str, error: &Error) -> Result<(), Failure> {
    match error.kind() {
        ErrorKind::UserNotLoggedIn
        | ErrorKind::SessionHandleInvalid
        | ErrorKind::TokenNotPresent
        | ErrorKind::TokenNotRecognized
        | ErrorKind::DeviceRemoved
        | ErrorKind::CryptokiNotInitialized
        | ErrorKind::FunctionNotSupported => Err(Failure::while_(doing, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const KEYS: usize = 10;

    /// Messages are texts, "KIND FROM KEY KEY…".
    #[derive(Default)]
    struct Place {
        pending: RefCell<Vec<Pending>>,
        taken: RefCell<Vec<String>>,
        fails: Cell<Option<ErrorKind>>,
        answer: RefCell<Option<String>>,
    }

    impl Region for Place {
        fn pending(&self) -> Result<Vec<Pending>, Error> {
            Ok(self.pending.borrow().clone())
        }

        fn tell(&self, kind: MessageKind, _: &str, keys: &[String]) -> Result<Vec<u8>, Error> {
            Ok(format!("{} here {}", kind.name(), keys.join(" ")).into_bytes())
        }

        fn receive(&self, message: &[u8]) -> Result<Option<Vec<u8>>, Error> {
            match self.fails.get() {
                Some(kind) => Err(kind.into()),
                None => {
                    self.taken.borrow_mut().push(String::from_utf8_lossy(message).into_owned());
                    Ok(self.answer.borrow().clone().map(String::into_bytes))
                }
            }
        }

        fn view(&self, message: &[u8]) -> Result<MessageView, Error> {
            let text = String::from_utf8_lossy(message).into_owned();
            let mut words = text.split(' ').map(str::to_owned);
            let kind = words.next().and_then(|kind| MessageKind::named(&kind));
            let kind = kind.ok_or_else(|| ErrorKind::KmsReplicationRefused.with("no message"))?;
            let from = words.next().unwrap_or_default();
            Ok(MessageView { kind, from, to: "there".to_owned(), keys: words.collect() })
        }
    }

    #[derive(Default)]
    struct Bag {
        coming: RefCell<VecDeque<(String, String)>>,
        sent: RefCell<Vec<(String, String)>>,
        acknowledged: RefCell<Vec<String>>,
        broken: Cell<bool>,
    }

    impl Carrier for Bag {
        fn send(&self, to: &Address, _: &Address, message: &[u8]) -> Result<(), Failure> {
            if self.broken.get() {
                return Err(Failure::new("broken"));
            }
            self.sent.borrow_mut().push((to.to_string(), String::from_utf8_lossy(message).into_owned()));
            Ok(())
        }

        fn receive(&self, _: &str, _: &str, _: Duration) -> Result<Option<Delivery>, Failure> {
            let coming = self.coming.borrow_mut().pop_front();
            let from = || Address::new("there", Some("1")).map_err(Failure::usage);
            coming.map(|(id, text)| Ok(Delivery { id, from: from()?, message: text.into_bytes() })).transpose()
        }

        fn acknowledge(&self, id: &str) -> Result<(), Failure> {
            self.acknowledged.borrow_mut().push(id.to_owned());
            Ok(())
        }
    }

    impl Bag {
        fn brings(&self, id: &str, text: &str) {
            self.coming.borrow_mut().push_back((id.to_owned(), text.to_owned()));
        }
    }

    fn keys() -> Vec<String> {
        (0..KEYS).map(|key| format!("k{key}")).collect()
    }

    fn wants(place: &Place, kind: MessageKind, keys: Vec<String>) {
        *place.pending.borrow_mut() = vec![Pending { region: "there".to_owned(), kind, keys }];
    }

    fn exchange<'a>(place: &'a Place, bag: &'a Bag, batch: usize) -> Exchange<'a> {
        Exchange::new(place, bag, Address { region: "here".to_owned(), instance: Some("7".to_owned()) }, batch)
    }

    /// One turn; the names of the troubles there were.
    fn turn(exchange: &mut Exchange<'_>) -> Vec<&'static str> {
        let mut troubles = Vec::new();
        let mut report = |event: &Event<'_>| match event {
            Event::Refused { .. } => troubles.push("refused"),
            Event::Failed { .. } => troubles.push("failed"),
            Event::Carrier { .. } => troubles.push("carrier"),
            _ => {}
        };
        assert!(exchange.turn(Duration::ZERO, &mut report).is_ok());
        troubles
    }

    #[test]
    fn what_is_pending_is_sent_once_in_batches_until_it_is_answered() {
        let (place, bag) = (Place::default(), Bag::default());
        wants(&place, MessageKind::Request, keys());
        let mut exchange = exchange(&place, &bag, 4);
        turn(&mut exchange);
        turn(&mut exchange);
        let sizes: Vec<_> = bag.sent.borrow().iter().map(|(_, text)| text.split(' ').count() - 2).collect();
        assert_eq!(sizes, [4, 4, 2]);
        // The receipt of some settles them, and what follows is told of those.
        bag.brings("a", "receipt there k0 k1 k2 k3");
        *place.answer.borrow_mut() = Some("activate here k0 k1 k2 k3".to_owned());
        turn(&mut exchange);
        assert_eq!(bag.sent.borrow().last().unwrap(), &("there/1".to_owned(), "activate here k0 k1 k2 k3".to_owned()));
        assert_eq!(*bag.acknowledged.borrow(), ["a"]);
        assert_eq!(exchange.waiting(), KEYS);
        *place.answer.borrow_mut() = None;
        bag.brings("b", "activated there k0 k1 k2 k3");
        turn(&mut exchange);
        assert_eq!(exchange.waiting(), KEYS - 4);
        assert_eq!(bag.sent.borrow().len(), 4);
    }

    #[test]
    fn what_is_not_answered_is_told_again_in_smaller_batches_if_the_region_lives() {
        let (place, bag) = (Place::default(), Bag::default());
        wants(&place, MessageKind::Request, keys());
        let mut exchange = exchange(&place, &bag, 8);
        turn(&mut exchange);
        let age = |exchange: &mut Exchange<'_>| {
            for told in exchange.told.values_mut().flat_map(HashMap::values_mut) {
                told.at -= told.wait;
            }
        };
        // Nothing is heard: the same again.
        age(&mut exchange);
        turn(&mut exchange);
        assert_eq!(bag.sent.borrow().len(), 4);
        assert!(exchange.told.values().flat_map(HashMap::values).all(|told| told.wait >= 2 * FIRST_WAIT));
        bag.brings("a", "deleted there other");
        turn(&mut exchange);
        age(&mut exchange);
        turn(&mut exchange);
        age(&mut exchange);
        turn(&mut exchange);
        assert!(bag.sent.borrow().last().unwrap().1.split(' ').count() == 3, "{:?}", bag.sent.borrow());
    }

    #[test]
    fn what_is_refused_ends_and_what_failed_comes_again() {
        let (place, bag) = (Place::default(), Bag::default());
        let mut exchange = exchange(&place, &bag, 1);
        place.fails.set(Some(ErrorKind::KmsReplicationRefused));
        bag.brings("a", "garbage");
        assert_eq!(turn(&mut exchange), ["refused"]);
        assert_eq!(*bag.acknowledged.borrow(), ["a"]);
        place.fails.set(Some(ErrorKind::DeviceMemory));
        bag.brings("b", "offer there k0");
        assert_eq!(turn(&mut exchange), ["failed"]);
        assert_eq!(*bag.acknowledged.borrow(), ["a"]);
        place.fails.set(None);
        bag.brings("b", "offer there k0");
        bag.brings("b", "offer there k0");
        assert!(turn(&mut exchange).is_empty() && turn(&mut exchange).is_empty());
        assert_eq!(place.taken.borrow().len(), 1);
        // A process that nobody is logged in to any more ends.
        place.fails.set(Some(ErrorKind::UserNotLoggedIn));
        bag.brings("c", "offer there k0");
        assert!(exchange.turn(Duration::ZERO, &mut |_| {}).is_err());
    }

    #[test]
    fn an_answer_is_kept_until_the_carrier_takes_it() {
        let (place, bag) = (Place::default(), Bag::default());
        let mut exchange = exchange(&place, &bag, 1);
        *place.answer.borrow_mut() = Some("shipment here k0".to_owned());
        bag.brings("a", "offer there k0");
        bag.broken.set(true);
        assert_eq!(turn(&mut exchange), ["carrier"]);
        assert!(bag.acknowledged.borrow().is_empty());
        bag.broken.set(false);
        turn(&mut exchange);
        assert_eq!(*bag.sent.borrow(), [("there/1".to_owned(), "shipment here k0".to_owned())]);
        assert_eq!((bag.acknowledged.borrow().len(), place.taken.borrow().len()), (1, 1));
    }
}
