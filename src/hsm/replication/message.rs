//! The ten messages: a COSE_Sign1 each, signed with the sending Region's newest replication signing
//! key (RSK), with the sender's domain id as external AAD.

use std::borrow::Cow;
use std::collections::HashSet;

use super::super::command::{MessageKind, MessageView};
use super::super::domain::cbor::{Decoded, Decoder, Encoder, Malformed, Sink};
use super::super::domain::cose::{self, ESP384, Form, Header};
use super::super::domain::keys::{Kid, PrivateKey, PublicKey};
use super::super::domain::{Hash, TrustedRegion};
use super::super::ephemeral::{KemBytes, Suite, encode_kem};
use super::{Incarnation, Party, refused, sha384};
use crate::error::{ErrorKind, Result};

/// The most bytes of a message.
pub(in crate::hsm) const MAX_MESSAGE: usize = 64 << 20;
/// The most keys of a message.
pub(in crate::hsm) const MAX_KEYS: usize = 100_000;

/// Names an offer, and what follows from it.
pub(in crate::hsm) type OfferId = [u8; 16];

/// A message as it was read or is to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Message<B> {
    pub(in crate::hsm) from: Party,
    pub(in crate::hsm) to: Party,
    pub(in crate::hsm) body: B,
}

/// A message that a trusted Region signed for this one.
#[derive(Debug)]
pub(in crate::hsm) struct Opened<B> {
    pub(in crate::hsm) message: Message<B>,
    /// The RSK that signed it.
    pub(in crate::hsm) kid: Kid,
    /// SHA-384 of all its bytes.
    pub(in crate::hsm) hash: Hash,
}

/// What follows sender and receiver in a message of one kind.
pub(in crate::hsm) trait Body<'a>: Sized {
    const KIND: MessageKind;
    /// How many items the body is.
    const ITEMS: usize;
    fn encode(&self, e: &mut Encoder);
    fn decode(d: &mut Decoder<'a>) -> Decoded<Self>;
    fn key_ids(&self) -> Vec<&str>;
}

/// A key in a message.
pub(in crate::hsm) trait Item<'a>: Sized {
    fn key_id(&self) -> &str;
    fn encode(&self, e: &mut Encoder);
    fn decode(d: &mut Decoder<'a>) -> Decoded<Self>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Request {
    pub(in crate::hsm) nonce: [u8; 16],
    /// Seconds since 1970.
    pub(in crate::hsm) not_after: u64,
    pub(in crate::hsm) keys: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Offer {
    pub(in crate::hsm) offer: OfferId,
    pub(in crate::hsm) suite: Suite,
    /// Seconds since 1970.
    pub(in crate::hsm) not_after: u64,
    pub(in crate::hsm) keys: Vec<Wanted>,
    /// RAKB.
    pub(in crate::hsm) rakb: PublicKey,
    /// The encapsulation key of suite 2.
    pub(in crate::hsm) ek: Option<KemBytes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Wanted {
    pub(in crate::hsm) key_id: String,
    /// The newest version that B has; 0 if it has not the key.
    pub(in crate::hsm) held: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Shipment<'a> {
    pub(in crate::hsm) offer: OfferId,
    pub(in crate::hsm) offer_hash: Hash,
    pub(in crate::hsm) suite: Suite,
    /// RAKA.
    pub(in crate::hsm) raka: PublicKey,
    /// The ciphertext of suite 2.
    pub(in crate::hsm) ct: Option<KemBytes>,
    pub(in crate::hsm) keys: Vec<SealedKey<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct SealedKey<'a> {
    pub(in crate::hsm) key_id: String,
    /// A record sealed under RWK (see `record.rs`).
    pub(in crate::hsm) sealed: Cow<'a, [u8]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Receipt {
    pub(in crate::hsm) offer: OfferId,
    pub(in crate::hsm) shipment_hash: Hash,
    pub(in crate::hsm) keys: Vec<Receipted>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Receipted {
    pub(in crate::hsm) key_id: String,
    pub(in crate::hsm) incarnation: Incarnation,
    pub(in crate::hsm) term: u64,
    pub(in crate::hsm) version: u64,
    pub(in crate::hsm) newest: u64,
    pub(in crate::hsm) commitment: Hash,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Activate {
    pub(in crate::hsm) keys: Vec<Activation>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Activated {
    pub(in crate::hsm) keys: Vec<Activation>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Activation {
    pub(in crate::hsm) key_id: String,
    pub(in crate::hsm) incarnation: Incarnation,
    pub(in crate::hsm) term: u64,
    pub(in crate::hsm) version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Deleted {
    pub(in crate::hsm) keys: Vec<Deletion>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Forgotten {
    pub(in crate::hsm) keys: Vec<Deletion>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Deletion {
    pub(in crate::hsm) key_id: String,
    pub(in crate::hsm) incarnation: Incarnation,
    pub(in crate::hsm) term: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Handover {
    pub(in crate::hsm) keys: Vec<HandedOver>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct HandedOver {
    pub(in crate::hsm) key_id: String,
    /// Of the replica that is told.
    pub(in crate::hsm) incarnation: Incarnation,
    pub(in crate::hsm) old_term: u64,
    pub(in crate::hsm) new_term: u64,
    pub(in crate::hsm) primary: Party,
    /// For the new primary only.
    pub(in crate::hsm) details: Option<HandoverDetails>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct HandoverDetails {
    /// Of the old primary as a replica.
    pub(in crate::hsm) incarnation: Incarnation,
    pub(in crate::hsm) version: u64,
    pub(in crate::hsm) newest: u64,
    /// Period in days, and when the next is due (seconds since 1970).
    pub(in crate::hsm) rotation: Option<(u64, u64)>,
    pub(in crate::hsm) replicas: Vec<HandedReplica>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct HandedReplica {
    pub(in crate::hsm) party: Party,
    pub(in crate::hsm) incarnation: Incarnation,
    pub(in crate::hsm) held: u64,
    pub(in crate::hsm) active: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Taken {
    pub(in crate::hsm) keys: Vec<TakenKey>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct TakenKey {
    pub(in crate::hsm) key_id: String,
    pub(in crate::hsm) incarnation: Incarnation,
    pub(in crate::hsm) new_term: u64,
}

impl<'a, B: Body<'a>> Message<B> {
    /// The signed message. Fails if it were larger than a receiver takes.
    pub(in crate::hsm) fn sign(&self, key: &PrivateKey) -> Result<Vec<u8>> {
        let keys = self.body.key_ids().len();
        if keys == 0 || keys > MAX_KEYS {
            return Err(ErrorKind::KmsLimitExceeded.with(format!("a message is for 1 to {MAX_KEYS} keys, not {keys}")));
        }
        let content = self.encode();
        let kid = key.public()?.kid();
        let mut header = Header::new(ESP384, content_type(B::KIND));
        header.kid = Some(&kid);
        let protected = header.encode();
        let signature = key.sign(&cose::authenticated(Form::Sign1, &protected, &self.from.domain, &content))?;
        let message = cose::encode(Form::Sign1, &protected, &content, &signature);
        if message.len() > MAX_MESSAGE {
            return Err(ErrorKind::KmsLimitExceeded.with("the message is too long; name fewer keys"));
        }
        Ok(message)
    }

    /// The message, if a Region of `trusted` signed it with one of its RSKs, as itself, for `own`.
    pub(in crate::hsm) fn open(bytes: &'a [u8], own: &Party, trusted: &[TrustedRegion]) -> Result<Opened<B>> {
        let Verified { kind, parsed, kid, sender } = verify(bytes, trusted)?;
        if kind != B::KIND {
            return Err(refused(format_args!(
                "a message \"{}\" was expected, not \"{}\"",
                B::KIND.name(),
                kind.name()
            )));
        }
        let message = Self::decode(parsed.content).map_err(|malformed| refused(malformed.0))?;
        if (&*message.from.region, &message.from.domain) != (&*sender.name, &sender.domain) {
            return Err(refused(format_args!("{:?} signed it as another Region", sender.name)));
        }
        if message.to != *own {
            return Err(refused(format_args!("it is for {:?}, not for this Region", message.to.region)));
        }
        Ok(Opened { message, kid, hash: sha384(bytes) })
    }

    pub(in crate::hsm) fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(2 + B::ITEMS);
        self.from.encode(&mut e);
        self.to.encode(&mut e);
        self.body.encode(&mut e);
        e.finish()
    }

    fn decode(content: &'a [u8]) -> Decoded<Self> {
        let mut d = Decoder::new(content);
        d.array_of(2 + B::ITEMS)?;
        let message = Self { from: Party::decode(&mut d)?, to: Party::decode(&mut d)?, body: B::decode(&mut d)? };
        d.end()?;
        Ok(message)
    }

    fn view(content: &'a [u8]) -> Decoded<MessageView> {
        let Self { from, to, body } = Self::decode(content)?;
        let keys = body.key_ids().into_iter().map(str::to_owned).collect();
        Ok(MessageView { kind: B::KIND, from: from.region, to: to.region, keys })
    }
}

/// What any message says of itself, *not verified*: for hosts, which route and log by it.
pub(in crate::hsm) fn peek(bytes: &[u8]) -> Result<MessageView> {
    let view = parse(bytes).and_then(|(kind, parsed)| match kind {
        MessageKind::Request => Message::<Request>::view(parsed.content),
        MessageKind::Offer => Message::<Offer>::view(parsed.content),
        MessageKind::Shipment => Message::<Shipment<'_>>::view(parsed.content),
        MessageKind::Receipt => Message::<Receipt>::view(parsed.content),
        MessageKind::Activate => Message::<Activate>::view(parsed.content),
        MessageKind::Activated => Message::<Activated>::view(parsed.content),
        MessageKind::Deleted => Message::<Deleted>::view(parsed.content),
        MessageKind::Forgotten => Message::<Forgotten>::view(parsed.content),
        MessageKind::Handover => Message::<Handover>::view(parsed.content),
        MessageKind::Taken => Message::<Taken>::view(parsed.content),
    });
    view.map_err(|malformed| refused(malformed.0))
}

fn content_type(kind: MessageKind) -> &'static str {
    match kind {
        MessageKind::Request => "application/vnd.conclave.replication.request",
        MessageKind::Offer => "application/vnd.conclave.replication.offer",
        MessageKind::Shipment => "application/vnd.conclave.replication.shipment",
        MessageKind::Receipt => "application/vnd.conclave.replication.receipt",
        MessageKind::Activate => "application/vnd.conclave.replication.activate",
        MessageKind::Activated => "application/vnd.conclave.replication.activated",
        MessageKind::Deleted => "application/vnd.conclave.replication.deleted",
        MessageKind::Forgotten => "application/vnd.conclave.replication.forgotten",
        MessageKind::Handover => "application/vnd.conclave.replication.handover",
        MessageKind::Taken => "application/vnd.conclave.replication.taken",
    }
}

/// A message whose signature verified; what it says is not looked at yet.
pub(in crate::hsm) struct Verified<'a, 't> {
    kind: MessageKind,
    parsed: cose::Message<'a>,
    kid: Kid,
    sender: &'t TrustedRegion,
}

/// Whose message it is: before anything of it is looked at.
pub(in crate::hsm) fn verify<'a, 't>(bytes: &'a [u8], trusted: &'t [TrustedRegion]) -> Result<Verified<'a, 't>> {
    let (kind, parsed) = parse(bytes).map_err(|malformed| refused(malformed.0))?;
    let kid: Kid = parsed.header.kid.and_then(|kid| kid.try_into().ok()).unwrap_or_default();
    let signed = |region: &&TrustedRegion| {
        let key = region.replication_keys.iter().find(|key| key.kid() == kid);
        key.is_some_and(|key| key.verify(&parsed.authenticated(&region.domain), parsed.tag))
    };
    let sender = trusted.iter().find(signed).ok_or_else(|| refused("no trusted Region signed it"))?;
    Ok(Verified { kind, parsed, kid, sender })
}

fn parse(bytes: &[u8]) -> Decoded<(MessageKind, cose::Message<'_>)> {
    if bytes.len() > MAX_MESSAGE {
        return Err(Malformed("it is longer than 64 MiB"));
    }
    let parsed = cose::Message::decode(Form::Sign1, bytes)?;
    let header = &parsed.header;
    let kind = MessageKind::ALL.into_iter().find(|kind| content_type(*kind) == header.content_type);
    let kind = kind.ok_or(Malformed("it is no message of replication"))?;
    let expected = Header { kid: header.kid, ..Header::new(ESP384, content_type(kind)) };
    if *header != expected || header.kid.is_none_or(|kid| kid.len() != 32) || parsed.tag.len() != 96 {
        return Err(Malformed("the headers are not those of a message of replication"));
    }
    Ok((kind, parsed))
}

impl Body<'_> for Request {
    const KIND: MessageKind = MessageKind::Request;
    const ITEMS: usize = 3;

    fn encode(&self, e: &mut Encoder) {
        e.bytes(&self.nonce).uint(self.not_after);
        encode_items(e, &self.keys);
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        Ok(Self { nonce: d.fixed()?, not_after: d.uint()?, keys: items(d)? })
    }

    fn key_ids(&self) -> Vec<&str> {
        ids(&self.keys)
    }
}

impl Body<'_> for Offer {
    const KIND: MessageKind = MessageKind::Offer;
    const ITEMS: usize = 6;

    fn encode(&self, e: &mut Encoder) {
        e.bytes(&self.offer).uint(self.suite.number()).uint(self.not_after);
        encode_items(e, &self.keys);
        e.bytes(self.rakb.spki());
        encode_kem(e, self.ek.as_ref());
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        let (offer, suite) = (d.fixed()?, Suite::decode(d)?);
        let (not_after, keys) = (d.uint()?, items(d)?);
        Ok(Self { offer, suite, not_after, keys, rakb: PublicKey::from_spki(d.bytes()?)?, ek: suite.decode_kem(d)? })
    }

    fn key_ids(&self) -> Vec<&str> {
        ids(&self.keys)
    }
}

impl<'a> Body<'a> for Shipment<'a> {
    const KIND: MessageKind = MessageKind::Shipment;
    const ITEMS: usize = 6;

    fn encode(&self, e: &mut Encoder) {
        e.bytes(&self.offer).bytes(&self.offer_hash).uint(self.suite.number()).bytes(self.raka.spki());
        encode_kem(e, self.ct.as_ref());
        encode_items(e, &self.keys);
    }

    fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        let (offer, offer_hash, suite) = (d.fixed()?, d.fixed()?, Suite::decode(d)?);
        let raka = PublicKey::from_spki(d.bytes()?)?;
        Ok(Self { offer, offer_hash, suite, raka, ct: suite.decode_kem(d)?, keys: items(d)? })
    }

    fn key_ids(&self) -> Vec<&str> {
        ids(&self.keys)
    }
}

impl Body<'_> for Receipt {
    const KIND: MessageKind = MessageKind::Receipt;
    const ITEMS: usize = 3;

    fn encode(&self, e: &mut Encoder) {
        e.bytes(&self.offer).bytes(&self.shipment_hash);
        encode_items(e, &self.keys);
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        Ok(Self { offer: d.fixed()?, shipment_hash: d.fixed()?, keys: items(d)? })
    }

    fn key_ids(&self) -> Vec<&str> {
        ids(&self.keys)
    }
}

/// Bodies that are a list of keys.
macro_rules! lists {
    ($($body:ident)*) => { $(
        impl Body<'_> for $body {
            const KIND: MessageKind = MessageKind::$body;
            const ITEMS: usize = 1;

            fn encode(&self, e: &mut Encoder) {
                encode_items(e, &self.keys);
            }

            fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
                Ok(Self { keys: items(d)? })
            }

            fn key_ids(&self) -> Vec<&str> {
                ids(&self.keys)
            }
        }
    )* };
}

lists! { Activate Activated Deleted Forgotten Handover Taken }

impl Item<'_> for String {
    fn key_id(&self) -> &str {
        self
    }

    fn encode(&self, e: &mut Encoder) {
        e.text(self);
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        key_id(d)
    }
}

impl Item<'_> for Wanted {
    fn key_id(&self) -> &str {
        &self.key_id
    }

    fn encode(&self, e: &mut Encoder) {
        e.array(2).text(&self.key_id).uint(self.held);
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(2)?;
        Ok(Self { key_id: key_id(d)?, held: d.uint()? })
    }
}

impl<'a> Item<'a> for SealedKey<'a> {
    fn key_id(&self) -> &str {
        &self.key_id
    }

    fn encode(&self, e: &mut Encoder) {
        e.array(2).text(&self.key_id).bytes(&self.sealed);
    }

    fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        d.array_of(2)?;
        Ok(Self { key_id: key_id(d)?, sealed: d.bytes()?.into() })
    }
}

impl Item<'_> for Receipted {
    fn key_id(&self) -> &str {
        &self.key_id
    }

    fn encode(&self, e: &mut Encoder) {
        e.array(6).text(&self.key_id).bytes(&self.incarnation);
        e.uint(self.term).uint(self.version).uint(self.newest).bytes(&self.commitment);
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(6)?;
        let (key_id, incarnation) = (key_id(d)?, d.fixed()?);
        let (term, version, newest) = (d.uint()?, d.uint()?, d.uint()?);
        Ok(Self { key_id, incarnation, term, version, newest, commitment: d.fixed()? })
    }
}

impl Item<'_> for Activation {
    fn key_id(&self) -> &str {
        &self.key_id
    }

    fn encode(&self, e: &mut Encoder) {
        e.array(4).text(&self.key_id).bytes(&self.incarnation).uint(self.term).uint(self.version);
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(4)?;
        Ok(Self { key_id: key_id(d)?, incarnation: d.fixed()?, term: d.uint()?, version: d.uint()? })
    }
}

impl Item<'_> for Deletion {
    fn key_id(&self) -> &str {
        &self.key_id
    }

    fn encode(&self, e: &mut Encoder) {
        e.array(3).text(&self.key_id).bytes(&self.incarnation).uint(self.term);
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(3)?;
        Ok(Self { key_id: key_id(d)?, incarnation: d.fixed()?, term: d.uint()? })
    }
}

impl Item<'_> for HandedOver {
    fn key_id(&self) -> &str {
        &self.key_id
    }

    fn encode(&self, e: &mut Encoder) {
        e.array(6).text(&self.key_id).bytes(&self.incarnation).uint(self.old_term).uint(self.new_term);
        self.primary.encode(e);
        e.optional(self.details.as_ref(), |e, details| details.encode(e));
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(6)?;
        Ok(Self {
            key_id: key_id(d)?,
            incarnation: d.fixed()?,
            old_term: d.uint()?,
            new_term: d.uint()?,
            primary: Party::decode(d)?,
            details: d.optional(HandoverDetails::decode)?,
        })
    }
}

impl Item<'_> for TakenKey {
    fn key_id(&self) -> &str {
        &self.key_id
    }

    fn encode(&self, e: &mut Encoder) {
        e.array(3).text(&self.key_id).bytes(&self.incarnation).uint(self.new_term);
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(3)?;
        Ok(Self { key_id: key_id(d)?, incarnation: d.fixed()?, new_term: d.uint()? })
    }
}

impl HandoverDetails {
    fn encode(&self, e: &mut Encoder) {
        e.array(5).bytes(&self.incarnation).uint(self.version).uint(self.newest);
        encode_rotation(e, self.rotation);
        e.list(&self.replicas, |e, replica| {
            e.array(4);
            replica.party.encode(e);
            e.bytes(&replica.incarnation).uint(replica.held).uint(replica.active);
        });
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(5)?;
        Ok(Self {
            incarnation: d.fixed()?,
            version: d.uint()?,
            newest: d.uint()?,
            rotation: decode_rotation(d)?,
            replicas: d.list(|d| {
                d.array_of(4)?;
                let (party, incarnation) = (Party::decode(d)?, d.fixed()?);
                Ok(HandedReplica { party, incarnation, held: d.uint()?, active: d.uint()? })
            })?,
        })
    }
}

/// `[days, next]` or null.
pub(super) fn encode_rotation<S: Sink>(e: &mut Encoder<S>, rotation: Option<(u64, u64)>) {
    e.optional(rotation, |e, (days, next)| {
        e.array(2).uint(days).uint(next);
    });
}

pub(super) fn decode_rotation(d: &mut Decoder<'_>) -> Decoded<Option<(u64, u64)>> {
    d.optional(|d| {
        d.array_of(2)?;
        Ok((d.uint()?, d.uint()?))
    })
}

/// The id of a multi-Region key: `mrk-` and 32 hexadecimal digits.
pub(in crate::hsm) fn key_id(d: &mut Decoder<'_>) -> Decoded<String> {
    let text = d.text()?;
    if is_key_id(text) { Ok(text.to_owned()) } else { Err(Malformed("a key id is not that of a multi-Region key")) }
}

pub(in crate::hsm) fn is_key_id(text: &str) -> bool {
    let digits = text.strip_prefix("mrk-").unwrap_or_default();
    digits.len() == 32 && digits.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

fn encode_items<'a, T: Item<'a>>(e: &mut Encoder, items: &[T]) {
    e.list(items, |e, item| item.encode(e));
}

fn items<'a, T: Item<'a>>(d: &mut Decoder<'a>) -> Decoded<Vec<T>> {
    let count = d.array()?;
    if count == 0 || count > MAX_KEYS {
        return Err(Malformed("it has no keys, or too many"));
    }
    let items = (0..count).map(|_| T::decode(d)).collect::<Decoded<Vec<_>>>()?;
    let mut seen = HashSet::with_capacity(count);
    if items.iter().all(|item| seen.insert(item.key_id())) { Ok(items) } else { Err(Malformed("a key appears twice")) }
}

fn ids<'a, T: Item<'a>>(items: &[T]) -> Vec<&str> {
    items.iter().map(Item::key_id).collect()
}
