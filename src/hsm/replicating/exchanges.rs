//! What an HSM instance remembers of exchanges that are under way: the private halves of its offers,
//! and what it expects of receipts. In its memory only, bounded, and gone with a login.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::domain::Hash;
use super::super::domain::keys::Kid;
use super::super::replication::agreement::{Exchange, ExchangeKeys, OfferSecrets};
use super::super::replication::message::{OfferId, Shipment};
use super::super::replication::{Incarnation, Party, refused};
use crate::error::{ErrorKind, Result};

/// The most offers, and the most shipments, that are remembered.
const MOST: usize = 64;
/// The most ids of offers that were answered and could be sent again.
const MOST_ANSWERED: usize = 1 << 17;
/// How long after its offer's end an exchange may still be finished, in seconds.
const GRACE: u64 = 24 * 3600;

#[derive(Default)]
pub(in crate::hsm) struct Exchanges(Mutex<Held>);

#[derive(Default)]
struct Held {
    /// Oldest first, as are shipments.
    offers: Vec<Offered>,
    shipments: Vec<Shipped>,
    /// Offers that were shipped for, until they have ended everywhere.
    answered: HashMap<OfferId, u64>,
}

/// An offer of this Region's.
struct Offered {
    offer: OfferId,
    to: Party,
    /// The RSK that signed it.
    kid: Kid,
    hash: Hash,
    /// Over the ids of the keys, in their order.
    keys: Hash,
    not_after: u64,
    stage: Stage,
}

enum Stage {
    Waiting(OfferSecrets),
    /// The private half is gone; what came of it stays until the receipt.
    Opened {
        shipment: Hash,
        keys: Arc<ExchangeKeys>,
        confirmed: bool,
    },
}

/// What an offer says that is not secret.
pub(super) struct NewOffer {
    pub(super) offer: OfferId,
    pub(super) to: Party,
    pub(super) kid: Kid,
    pub(super) hash: Hash,
    pub(super) keys: Hash,
    pub(super) not_after: u64,
}

/// A shipment of this Region's.
struct Shipped {
    offer: OfferId,
    to: Party,
    hash: Hash,
    /// Of the offer.
    not_after: u64,
    expected: Arc<[Expected]>,
    receipted: bool,
}

/// What the receipt of a key must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) key_id: String,
    pub(super) term: u64,
    pub(super) newest: u64,
    pub(super) commitment: Hash,
    /// Of the Region's replica that was registered when it was shipped.
    pub(super) incarnation: Option<Incarnation>,
}

/// A shipment that may be remembered.
pub(super) struct NewShipment {
    pub(super) offer: OfferId,
    pub(super) to: Party,
    pub(super) hash: Hash,
    /// Of the offer.
    pub(super) not_after: u64,
    pub(super) expected: Vec<Expected>,
}

impl Exchanges {
    /// Keeps an offer's private half. If there is need for room, the oldest offer goes to the Region that
    /// has most, so that requests that are repeated block nobody. CKR_DEVICE_MEMORY if all wait for the
    /// receipts that are to be made here.
    pub(super) fn offered(&self, new: NewOffer, secrets: OfferSecrets, now: u64) -> Result<()> {
        let mut held = self.held(now);
        let idle = |offered: &Offered| matches!(offered.stage, Stage::Opened { confirmed: true, .. });
        let ended = |offered: &Offered| offered.not_after < now;
        if held.offers.len() >= MOST {
            let waits = |offered: &&Offered| matches!(offered.stage, Stage::Waiting(_));
            let crowd = most_frequent(held.offers.iter().filter(waits).map(|offered| &offered.to)).cloned();
            let same = |offered: &Offered| waits(&offered) && Some(&offered.to) == crowd.as_ref();
            let position = |goes: &dyn Fn(&Offered) -> bool| held.offers.iter().position(goes);
            let at = position(&idle).or_else(|| position(&ended)).or_else(|| position(&same));
            let at = at.ok_or_else(|| {
                ErrorKind::DeviceMemory.with("too many offers wait for their shipments; try again when one has ended")
            })?;
            held.offers.remove(at);
        }
        let NewOffer { offer, to, kid, hash, keys, not_after } = new;
        held.offers.push(Offered { offer, to, kid, hash, keys, not_after, stage: Stage::Waiting(secrets) });
        Ok(())
    }

    /// The keys of a shipment whose signature was verified: the private half of its offer is used for
    /// it, and for no other. The same shipment opens again until [`Self::confirmed`] is forgotten.
    pub(super) fn opened(
        &self,
        shipment: &Shipment<'_>,
        hash: &Hash,
        ids: &Hash,
        (own, from, a_kid): (&Party, &Party, Kid),
        now: u64,
    ) -> Result<Arc<ExchangeKeys>> {
        let mut held = self.held(now);
        let at = held.offers.iter().position(|offered| offered.offer == shipment.offer);
        let offered = at.and_then(|at| held.offers.get(at));
        let offered = offered.ok_or_else(|| refused("this HSM instance made no such offer, or has forgotten it"))?;
        if let Stage::Opened { shipment, keys, .. } = &offered.stage {
            return if shipment == hash { Ok(Arc::clone(keys)) } else { Err(refused("the offer was answered before")) };
        }
        if offered.to != *from {
            return Err(refused("the offer was made to another Region"));
        }
        if offered.hash != shipment.offer_hash || offered.keys != *ids {
            return Err(refused("it answers another offer"));
        }
        if offered.not_after < now {
            return Err(refused("the offer has expired"));
        }
        // From here on the offer is used, whatever comes of it.
        let at = at.unwrap_or_default();
        let mut offered = held.offers.remove(at);
        let Stage::Waiting(secrets) = offered.stage else { return Err(ErrorKind::GeneralError.into()) };
        let exchange = Exchange {
            suite: shipment.suite,
            a: from.clone(),
            b: own.clone(),
            a_kid,
            b_kid: offered.kid,
            offer_hash: offered.hash,
        };
        let keys = Arc::new(secrets.agree(&exchange, shipment)?);
        offered.stage = Stage::Opened { shipment: *hash, keys: Arc::clone(&keys), confirmed: false };
        held.offers.insert(at, offered);
        Ok(keys)
    }

    /// The keys of a shipment that was opened before.
    pub(super) fn open(&self, offer: &OfferId, shipment: &Hash, now: u64) -> Result<Arc<ExchangeKeys>> {
        let held = self.held(now);
        let found = held.offers.iter().find(|offered| offered.offer == *offer);
        match found.map(|offered| &offered.stage) {
            Some(Stage::Opened { shipment: hash, keys, .. }) if hash == shipment => Ok(Arc::clone(keys)),
            _ => Err(refused("this HSM instance has not opened the shipment, or has forgotten it")),
        }
    }

    /// The receipt was made: the exchange goes first when there is need for room.
    pub(super) fn confirmed(&self, offer: &OfferId, now: u64) {
        let mut held = self.held(now);
        let found = held.offers.iter_mut().find(|offered| offered.offer == *offer);
        if let Some(Offered { stage: Stage::Opened { confirmed, .. }, .. }) = found {
            *confirmed = true;
        }
    }

    /// Whether an offer of a Region may be shipped for: not a second time. CKR_DEVICE_MEMORY if too many
    /// shipments to other Regions wait for their receipts.
    pub(super) fn check_unanswered(&self, offer: &OfferId, now: u64) -> Result<()> {
        self.held(now).check_unanswered(offer, now).map(drop)
    }

    /// Remembers a shipment, and that its offer was answered.
    pub(super) fn shipped(&self, new: NewShipment, answered_until: u64, now: u64) -> Result<()> {
        let mut held = self.held(now);
        if let Some(at) = held.check_unanswered(&new.offer, now)? {
            held.shipments.remove(at);
        }
        let NewShipment { offer, to, hash, not_after, expected } = new;
        held.answered.insert(offer, answered_until);
        held.shipments.push(Shipped { offer, to, hash, not_after, expected: expected.into(), receipted: false });
        Ok(())
    }

    /// What the receipt of a shipment must say of its keys, in their order.
    pub(super) fn expected(&self, offer: &OfferId, hash: &Hash, from: &Party, now: u64) -> Result<Arc<[Expected]>> {
        let held = self.held(now);
        let found = held.shipments.iter().find(|shipped| shipped.offer == *offer && shipped.hash == *hash);
        match found {
            Some(shipped) if shipped.to == *from => Ok(Arc::clone(&shipped.expected)),
            Some(_) => Err(refused("the shipment was made for another Region")),
            None => Err(refused("this HSM instance made no such shipment, or has forgotten it")),
        }
    }

    /// A receipt was taken: the shipment goes first when there is need for room.
    pub(super) fn receipted(&self, offer: &OfferId, now: u64) {
        if let Some(shipped) = self.held(now).shipments.iter_mut().find(|shipped| shipped.offer == *offer) {
            shipped.receipted = true;
        }
    }

    /// Wipes what has ended, though nobody asks.
    pub(in crate::hsm) fn tidy(&self, now: u64) {
        drop(self.held(now));
    }

    /// Wipes all.
    pub(in crate::hsm) fn forget(&self) {
        let held = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        drop(held);
    }

    fn held(&self, now: u64) -> MutexGuard<'_, Held> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.offers.retain(|offered| match offered.stage {
            Stage::Waiting(_) => offered.not_after >= now,
            // Its keys are good for nothing but the same receipt again.
            Stage::Opened { confirmed: true, .. } => offered.not_after >= now,
            Stage::Opened { .. } => offered.not_after.saturating_add(GRACE) >= now,
        });
        held.shipments.retain(|shipped| shipped.not_after.saturating_add(GRACE) >= now);
        held
    }
}

impl Held {
    /// Which shipment is to go for another, if one must. One to the Region that has most may: what is lost
    /// is shipped again.
    fn check_unanswered(&mut self, offer: &OfferId, now: u64) -> Result<Option<usize>> {
        if self.answered.contains_key(offer) {
            return Err(refused("the offer was answered before"));
        }
        if self.answered.len() >= MOST_ANSWERED {
            self.answered.retain(|_, until| *until >= now);
        }
        let full = || ErrorKind::DeviceMemory.with("too many shipments wait for their receipts; try again later");
        if self.answered.len() >= MOST_ANSWERED {
            return Err(full());
        }
        if self.shipments.len() < MOST {
            return Ok(None);
        }
        let receipted = self.shipments.iter().position(|shipped| shipped.receipted);
        let ended = || self.shipments.iter().position(|shipped| shipped.not_after < now);
        let crowd = || most_frequent(self.shipments.iter().map(|shipped| &shipped.to));
        let same = || self.shipments.iter().position(|shipped| Some(&shipped.to) == crowd());
        receipted.or_else(ended).or_else(same).map(Some).ok_or_else(full)
    }
}

/// The Region that is there most often.
fn most_frequent<'p>(parties: impl Iterator<Item = &'p Party>) -> Option<&'p Party> {
    let mut counts: HashMap<(&str, &[u8; 16]), (usize, &Party)> = HashMap::new();
    for party in parties {
        counts.entry((&party.region, &party.domain)).or_insert((0, party)).0 += 1;
    }
    counts.into_values().max_by_key(|(count, _)| *count).map(|(_, party)| party)
}

#[cfg(test)]
mod tests {
    use super::super::super::crypto::Entropy;
    use super::super::super::replication::agreement::Suite;
    use super::*;

    #[test]
    fn an_offer_that_nobody_asks_for_is_wiped_at_its_end() {
        let exchanges = Exchanges::default();
        let to = Party { region: "there".to_owned(), domain: [1; 16] };
        let new = NewOffer { offer: [2; 16], to, kid: [3; 32], hash: [4; 48], keys: [5; 48], not_after: 600 };
        exchanges.offered(new, OfferSecrets::generate(Suite::P384, &mut Entropy::System).unwrap(), 0).unwrap();
        exchanges.tidy(600);
        assert_eq!(exchanges.0.lock().unwrap().offers.len(), 1);
        exchanges.tidy(601);
        assert!(exchanges.0.lock().unwrap().offers.is_empty());
    }
}
