//! Offers and what is shipped for them.

use super::super::audit::Action as Audited;
use super::super::command::{Held, MessageKind, Reply};
use super::super::crypto::Entropy;
use super::super::managed::replication::Role;
use super::super::random;
use super::super::replication::agreement::{Exchange, ExchangeKeys, OfferSecrets, Place, Suite};
use super::super::replication::message::{Message, Offer, Request, SealedKey, Shipment, Wanted};
use super::super::replication::{Party, refused, sha384};
use super::exchanges::{Expected, NewOffer, NewShipment};
use super::{Attempt, Exchanging, Found, OpenKey, TOLERANCE, check_places, hash_of_ids, told};
use crate::error::{ErrorKind, Result};

/// More than a record and a message add to the records that they are made of.
const OVERHEAD: usize = 512;

impl Exchanging<'_> {
    /// [`Replicate::Offer`](super::super::Replicate::Offer).
    pub(super) fn offer(
        &self,
        region: &str,
        wanted: &[(&str, Option<Held<'_>>)],
        request: Option<&[u8]>,
    ) -> Attempt<Reply> {
        let to = match request {
            None => self.party(region)?,
            Some(request) => {
                let Message { from, body, .. } = self.open::<Request>(request)?.message;
                if from.region != region {
                    return Err(refused(format_args!("the Region {} sent it, not {region}", from.region)).into());
                }
                self.check_end(body.not_after)?;
                from
            }
        };
        let mut keys = Vec::with_capacity(wanted.len());
        for (key_id, held) in wanted {
            let found = self.find(held.as_ref(), key_id)?;
            let held = held_of(found.as_ref(), &to).map_err(|why| match request {
                Some(_) => self.failed(MessageKind::Request, key_id, refused(format_args!("the key {key_id} {why}"))),
                None => ErrorKind::KmsInvalidState.with(format!("the key {key_id} {why}")).into(),
            })?;
            keys.push(Wanted { key_id: (*key_id).to_owned(), held });
        }
        let state = self.opened.state();
        let suite = Suite::highest(&state.suites)
            .ok_or_else(|| ErrorKind::KmsUnsupported.with("no suite that is known here is allowed"))?;
        let secrets = OfferSecrets::generate(suite, &mut Entropy::System)?;
        let (rakb, ek) = secrets.public()?;
        let (offer, not_after) = (random::array()?, self.now.saturating_add(state.limits.offer));
        let ids = hash_of_ids(keys.iter().map(|wanted| &*wanted.key_id));
        let message = self.signed(to.clone(), Offer { offer, suite, not_after, keys, rakb, ek })?;
        let kid = self.signer()?.public()?.kid();
        let new = NewOffer { offer, to, kid, hash: sha384(&message), keys: ids, not_after };
        // A logout meanwhile leaves nothing behind.
        self.hsm.while_opened(|| self.hsm.client.exchanges.offered(new, secrets, self.now))??;
        let ids: Vec<_> = wanted.iter().map(|(key_id, _)| *key_id).collect();
        Ok(Reply::Replicated { change: Default::default(), message: Some(message), told: told(&ids, &[]) })
    }

    /// [`Replicate::Ship`](super::super::Replicate::Ship).
    pub(super) fn ship(&self, offer: &[u8], keys: &[Option<Held<'_>>], room: usize) -> Attempt<Reply> {
        let opened = self.open::<Offer>(offer)?;
        let (to, offer) = (opened.message.from, opened.message.body);
        self.check_end(offer.not_after)?;
        self.check_suite(offer.suite.number())?;
        self.hsm.client.exchanges.check_unanswered(&offer.offer, self.now)?;
        check_places(offer.keys.len(), keys.len())?;
        let most = longest(keys);
        if most > room {
            return Ok(Reply::Needed(most));
        }
        let exchange = Exchange {
            suite: offer.suite,
            a: self.own.clone(),
            b: to.clone(),
            a_kid: self.signer()?.public()?.kid(),
            b_kid: opened.kid,
            offer_hash: opened.hash,
        };
        let (raka, ct, agreed) = ExchangeKeys::answer(&exchange, &offer, &mut Entropy::System)?;
        let count = keys.len();
        let (mut sealed, mut expected) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (index, (wanted, held)) in offer.keys.iter().zip(keys).enumerate() {
            let place = Place { index, count, key_id: &wanted.key_id };
            let (record, expects) = self
                .ship_one(&to, wanted, held.as_ref(), (&agreed, place))
                .map_err(|error| self.failed(MessageKind::Offer, &wanted.key_id, error))?;
            sealed.push(SealedKey { key_id: wanted.key_id.clone(), sealed: record.into() });
            expected.push(expects);
        }
        let shipment =
            Shipment { offer: offer.offer, offer_hash: opened.hash, suite: offer.suite, raka, ct, keys: sealed };
        let message = self.signed(to.clone(), shipment)?;
        if message.len() > room {
            return Ok(Reply::Needed(message.len()));
        }
        let new = NewShipment { offer: offer.offer, to, hash: sha384(&message), not_after: offer.not_after, expected };
        let answered_until = offer.not_after.saturating_add(TOLERANCE);
        self.hsm.while_opened(|| self.hsm.client.exchanges.shipped(new, answered_until, self.now))??;
        let ids: Vec<_> = offer.keys.iter().map(|wanted| &*wanted.key_id).collect();
        Ok(Reply::Replicated { change: Default::default(), message: Some(message), told: told(&ids, &[]) })
    }

    fn ship_one(
        &self,
        to: &Party,
        wanted: &Wanted,
        held: Option<&Held<'_>>,
        (agreed, place): (&ExchangeKeys, Place<'_>),
    ) -> Result<(Vec<u8>, Expected)> {
        let found = self.find(held, &wanted.key_id)?;
        let Some(Found::Key(key)) = found else {
            return Err(refused(format_args!("there is no key {}", wanted.key_id)));
        };
        let OpenKey { managed, .. } = &*key;
        managed.check_ship(to, wanted.held, self.now)?;
        let (newest, above) = (managed.newest(), managed.ships_above(to, wanted.held));
        let opened = self.versions(&key, above.saturating_add(1).min(newest)..=newest)?;
        let versions: Vec<_> = opened.iter().map(|(version, open)| (*version, &*open.key)).collect();
        let record = key.source(&versions).ship(managed, above)?;
        let commitment = agreed.commitment_key().commit(&record.key_id, &record.object, &record.digests())?;
        let sealed = agreed.seal(place, record.encode()?.expose())?;
        self.record(Audited::ShipReplica, key.keys.attributes(), &to.region)?;
        let incarnation = managed.replication()?.replica(&to.region).and_then(|replica| replica.incarnation);
        let (term, newest) = (record.term, record.newest);
        Ok((sealed, Expected { key_id: record.key_id, term, newest, commitment, incarnation }))
    }
}

/// The newest version of which the material is here, 0 for none; or why the key is not to be shipped.
fn held_of(found: Option<&Found<'_>>, from: &Party) -> std::result::Result<u64, String> {
    let key = match found {
        None => return Ok(0),
        Some(Found::Deleted(..)) => {
            return Err("was deleted here, which its primary has not heard of yet".to_owned());
        }
        Some(Found::Key(key)) => key,
    };
    let replication = key.managed.replication().map_err(|_| "is of one Region".to_owned())?;
    match &replication.role {
        Role::Replica { primary, .. } if primary == from => {
            Ok(if key.keys.key.key.secrets.is_empty() { 0 } else { replication.newest })
        }
        Role::Replica { primary, .. } => Err(format!("has its primary in the Region {}", primary.region)),
        Role::Primary { .. } => Err("has its primary here".to_owned()),
    }
}

/// A length that no shipment of these exceeds: a sealed record has more than goes into a shipment.
fn longest(keys: &[Option<Held<'_>>]) -> usize {
    let records = keys.iter().flatten().flat_map(|held| std::iter::once(held.keys.key).chain(held.versions));
    let bytes: usize = records.map(|record| record.sealed.as_bytes().len() + OVERHEAD).sum();
    // The ciphertext of suite 2, names and hashes.
    bytes + 8 * OVERHEAD
}
