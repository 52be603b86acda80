//! The public part of a domain's state: who belongs to it, by which rules, and which keys it has.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha384};

use super::super::command::{ObjectId, Role};
use super::cbor::{Decoder, Encoder, Malformed};
use super::keys::PublicKey;
use super::recovery::RecoverySet;
use super::seal::{DomainId, KeyId};
use crate::error::{ErrorKind, Result};

type Decoded<T> = std::result::Result<T, Malformed>;

/// SHA-384 over an encoded state (or what else is chained).
pub(in crate::hsm) type Hash = [u8; 48];

/// The public part. Collections are sorted by their first field and have no duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct State {
    pub(in crate::hsm) domain: DomainId,
    /// The token's label.
    pub(in crate::hsm) name: String,
    pub(in crate::hsm) region: String,
    pub(in crate::hsm) partition: String,
    /// The token's serial number; it stays when an embedded domain becomes a fleet.
    pub(in crate::hsm) serial: String,
    /// +1 with every change.
    pub(in crate::hsm) version: u64,
    /// Hash of the state before; None for the first.
    pub(in crate::hsm) previous: Option<Hash>,
    /// None before the founding: the SO governs and there is no log.
    pub(in crate::hsm) log_head: Option<Hash>,
    pub(in crate::hsm) members: Vec<Member>,
    /// Who may open the secrets without being a member.
    pub(in crate::hsm) recipients: Vec<Recipient>,
    pub(in crate::hsm) operators: Vec<Operator>,
    pub(in crate::hsm) hosts: Vec<Host>,
    pub(in crate::hsm) users: Vec<User>,
    /// Empty: governed by the SO.
    pub(in crate::hsm) rules: Vec<Rule>,
    pub(in crate::hsm) domain_keys: Vec<DomainKey>,
    pub(in crate::hsm) index_key: KeyId,
    /// Replication signing keys of this Region, oldest first; the last signs.
    pub(in crate::hsm) replication_keys: Vec<PublicKey>,
    pub(in crate::hsm) trusted_regions: Vec<TrustedRegion>,
    /// The lowest record generation accepted of these objects.
    pub(in crate::hsm) revoked: BTreeMap<ObjectId, u64>,
    /// Nonces of executed commands, each until its not-after (seconds since 1970).
    pub(in crate::hsm) nonces: BTreeMap<[u8; 16], u64>,
    pub(in crate::hsm) limits: Limits,
    /// Allowed suites, ascending.
    pub(in crate::hsm) suites: Vec<u64>,
    /// When the last change was made, seconds since 1970; never goes back.
    pub(in crate::hsm) changed: u64,
    pub(in crate::hsm) standing_order: Option<StandingOrder>,
    /// Objects that count as CKA_TRUSTED once the domain is founded.
    pub(in crate::hsm) trusted_keys: BTreeSet<ObjectId>,
    pub(in crate::hsm) recovery: Option<RecoverySet>,
    /// The member whose keys are among the secrets, and whom PINs open: the processes of an embedded
    /// token. None in a fleet.
    pub(in crate::hsm) embedded: Option<[u8; 16]>,
}

/// An HSM of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Member {
    pub(in crate::hsm) id: [u8; 16],
    /// QHSK.
    pub(in crate::hsm) signing: PublicKey,
    /// QHAK.
    pub(in crate::hsm) agreement: PublicKey,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Recipient {
    pub(in crate::hsm) id: [u8; 16],
    pub(in crate::hsm) agreement: PublicKey,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Operator {
    pub(in crate::hsm) id: [u8; 16],
    pub(in crate::hsm) person: String,
    /// Ascending.
    pub(in crate::hsm) roles: Vec<String>,
    /// QOS.
    pub(in crate::hsm) signing: PublicKey,
    /// QOA.
    pub(in crate::hsm) agreement: PublicKey,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Host {
    pub(in crate::hsm) id: [u8; 16],
    pub(in crate::hsm) name: String,
    /// QHOS.
    pub(in crate::hsm) signing: PublicKey,
}

/// Who logs in with a PIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct User {
    pub(in crate::hsm) role: Role,
    /// Of the PIN record in force.
    pub(in crate::hsm) generation: u64,
    /// The key that the PIN record wraps. While the domain has an embedded member, the secrets are
    /// encrypted to it.
    pub(in crate::hsm) agreement: Option<PublicKey>,
    /// The holder may set a PIN: there until it is done.
    pub(in crate::hsm) enrolment: Option<Enrolment>,
}

/// How a PIN may be set that operators allowed and do not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Enrolment {
    /// Of the code that must be shown; without one, whoever opened the token as SO sets the PIN.
    pub(in crate::hsm) code: Option<Hash>,
    /// Seconds since 1970.
    pub(in crate::hsm) until: u64,
}

/// What a command needs: one of the alternatives, each a set of roles with a minimum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Rule {
    pub(in crate::hsm) command: String,
    pub(in crate::hsm) alternatives: Vec<Vec<(String, u64)>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct DomainKey {
    /// Commits to the key (see `seal::key_id`).
    pub(in crate::hsm) id: KeyId,
    pub(in crate::hsm) status: KeyStatus,
    /// Seconds since 1970.
    pub(in crate::hsm) created: u64,
    /// When a decrypt-only key goes.
    pub(in crate::hsm) retires: Option<u64>,
    /// The Region in the AAD of what is sealed under it: the domain's when the key was made.
    pub(in crate::hsm) region: String,
}

/// Leave to rotate domain keys without a command. All in seconds, `until` since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) struct StandingOrder {
    /// A rotation is due each time the active key's age passes a multiple of this,
    pub(in crate::hsm) interval: u64,
    /// and may be made this long after.
    pub(in crate::hsm) window: u64,
    /// How long the key that goes may still decrypt.
    pub(in crate::hsm) retain: Option<u64>,
    pub(in crate::hsm) until: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum KeyStatus {
    Active,
    DecryptOnly,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct TrustedRegion {
    pub(in crate::hsm) name: String,
    pub(in crate::hsm) domain: DomainId,
    pub(in crate::hsm) replication_keys: Vec<PublicKey>,
}

/// Lifetimes in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) struct Limits {
    pub(in crate::hsm) session_key: u64,
    pub(in crate::hsm) handshake: u64,
    pub(in crate::hsm) login_ticket: u64,
    pub(in crate::hsm) offer: u64,
    pub(in crate::hsm) proposal: u64,
    pub(in crate::hsm) approval: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            session_key: 3600,
            handshake: 60,
            login_ticket: 15 * 60,
            offer: 10 * 60,
            proposal: 7 * 24 * 3600,
            approval: 24 * 3600,
        }
    }
}

impl State {
    /// The user's entry, if there is one.
    pub(in crate::hsm) fn user(&self, role: &Role) -> Option<&User> {
        self.users.iter().find(|user| user.role == *role)
    }

    /// Sets a user's entry, replacing one it may have.
    pub(super) fn set_user(&mut self, user: User) {
        match self.users.binary_search_by(|other| order(&other.role).cmp(&order(&user.role))) {
            Ok(at) => self.users[at] = user,
            Err(at) => self.users.insert(at, user),
        }
    }

    /// Refuses a record older than what a revocation accepts.
    pub(in crate::hsm) fn check_generation(&self, object: &ObjectId, generation: u64) -> Result<()> {
        match self.revoked.get(object) {
            Some(lowest) if generation < *lowest => {
                Err(ErrorKind::DeviceError.with("the record is older than the key's revocation allows"))
            }
            _ => Ok(()),
        }
    }

    /// The domain key that seals. A state that was checked has exactly one.
    pub(in crate::hsm) fn active_key(&self) -> KeyId {
        let active = self.domain_keys.iter().find(|key| key.status == KeyStatus::Active);
        active.map(|key| key.id).unwrap_or_default()
    }

    /// The domain keys that only decrypt.
    pub(in crate::hsm) fn old_keys(&self) -> impl Iterator<Item = &DomainKey> {
        self.domain_keys.iter().filter(|key| key.status == KeyStatus::DecryptOnly)
    }

    /// Hash over what a signer of a command consents to be ruled by.
    pub(in crate::hsm) fn governance(&self) -> Hash {
        let mut e = Encoder::new();
        e.array(5);
        e.list(&self.operators, |e, o| o.encode(e));
        e.list(&self.rules, |e, r| r.encode(e));
        e.list(&self.trusted_regions, |e, r| r.encode(e));
        self.limits.encode(&mut e);
        e.list(&self.suites, |e, s| {
            e.uint(*s);
        });
        Sha384::digest(e.finish()).into()
    }

    /// SHA-384 of the encoding: what the next state and its log chain to.
    pub(in crate::hsm) fn hash(&self) -> Hash {
        Sha384::digest(self.encode()).into()
    }

    fn is_embedded_alone(&self) -> bool {
        matches!(&self.members[..], [member] if Some(member.id) == self.embedded)
    }

    /// The embedded member, if the domain has one.
    pub(super) fn embedded_member(&self) -> Option<&Member> {
        self.members.iter().find(|member| Some(member.id) == self.embedded)
    }

    /// Everybody the secrets are encrypted to, each once, ordered by `kid`.
    pub(super) fn secrets_recipients(&self) -> BTreeMap<[u8; 32], PublicKey> {
        let members = self.members.iter().map(|m| m.agreement);
        let others = self.recipients.iter().map(|r| r.agreement);
        let users = self.users.iter().filter(|_| self.embedded.is_some()).filter_map(|u| u.agreement);
        members.chain(others).chain(users).map(|key| (key.kid(), key)).collect()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        // Not where an embedded member is alone, so that states of release 0.1 keep their hashes.
        let says_embedded = !self.is_embedded_alone();
        e.map(if says_embedded { 28 } else { 27 });
        e.uint(1).bytes(&self.domain);
        e.uint(2).text(&self.name);
        e.uint(3).text(&self.region);
        e.uint(4).text(&self.partition);
        e.uint(5).text(&self.serial);
        e.uint(6).uint(self.version);
        e.uint(7).optional(self.previous, |e, hash| {
            e.bytes(&hash);
        });
        e.uint(8).bytes(&self.governance());
        e.uint(9).optional(self.log_head, |e, hash| {
            e.bytes(&hash);
        });
        e.uint(10).list(&self.members, |e, m| m.encode(e));
        e.uint(11).list(&self.recipients, |e, r| r.encode(e));
        e.uint(12).list(&self.operators, |e, o| o.encode(e));
        e.uint(13).list(&self.hosts, |e, h| h.encode(e));
        e.uint(14).list(&self.users, |e, u| u.encode(e));
        e.uint(15).list(&self.rules, |e, r| r.encode(e));
        e.uint(16).list(&self.domain_keys, |e, k| k.encode(e));
        e.uint(17).bytes(&self.index_key);
        e.uint(18).list(&self.replication_keys, |e, k| k.encode(e));
        e.uint(19).list(&self.trusted_regions, |e, r| r.encode(e));
        for (key, map) in [(20, &self.revoked), (21, &self.nonces)] {
            e.uint(key).map(map.len());
            for (id, value) in map {
                e.bytes(id).uint(*value);
            }
        }
        e.uint(22);
        self.limits.encode(&mut e);
        e.uint(23).list(&self.suites, |e, s| {
            e.uint(*s);
        });
        e.uint(24).uint(self.changed);
        e.uint(25).optional(self.standing_order, |e, order| order.encode(e));
        e.uint(26).array(self.trusted_keys.len());
        for object in &self.trusted_keys {
            e.bytes(object);
        }
        e.uint(27).optional(self.recovery.as_ref(), |e, set| set.encode(e));
        if says_embedded {
            e.uint(28).optional(self.embedded, |e, id| {
                e.bytes(&id);
            });
        }
        e.finish()
    }

    /// Reads and checks a state: what it says must be consistent in itself.
    pub(super) fn decode(input: &[u8]) -> Decoded<Self> {
        let mut d = Decoder::new(input);
        let mut m = d.map()?;
        let domain = m.field(1)?.fixed()?;
        let name = text(m.field(2)?)?;
        let region = text(m.field(3)?)?;
        let partition = text(m.field(4)?)?;
        let serial = text(m.field(5)?)?;
        let version = m.field(6)?.uint()?;
        let previous = m.field(7)?.optional(Decoder::fixed)?;
        let governance: Hash = m.field(8)?.fixed()?;
        let mut state = Self {
            domain,
            name,
            region,
            partition,
            serial,
            version,
            previous,
            log_head: m.field(9)?.optional(Decoder::fixed)?,
            members: m.field(10)?.list(Member::decode)?,
            recipients: m.field(11)?.list(Recipient::decode)?,
            operators: m.field(12)?.list(Operator::decode)?,
            hosts: m.field(13)?.list(Host::decode)?,
            users: m.field(14)?.list(User::decode)?,
            rules: m.field(15)?.list(Rule::decode)?,
            domain_keys: m.field(16)?.list(DomainKey::decode)?,
            index_key: m.field(17)?.fixed()?,
            replication_keys: m.field(18)?.list(PublicKey::decode)?,
            trusted_regions: m.field(19)?.list(TrustedRegion::decode)?,
            revoked: id_map(m.field(20)?)?,
            nonces: id_map(m.field(21)?)?,
            limits: Limits::decode(m.field(22)?)?,
            suites: m.field(23)?.list(Decoder::uint)?,
            changed: m.field(24)?.uint()?,
            standing_order: m.field(25)?.optional(StandingOrder::decode)?,
            trusted_keys: id_set(m.field(26)?)?,
            recovery: m.field(27)?.optional(RecoverySet::decode)?,
            embedded: None,
        };
        match m.next_with(Decoder::uint)? {
            Some((28, value)) => {
                state.embedded = value.optional(Decoder::fixed)?;
                if state.is_embedded_alone() {
                    return Err(Malformed("a field says what its absence says"));
                }
            }
            Some(_) => return Err(Malformed("an unknown field")),
            None => match &state.members[..] {
                [member] => state.embedded = Some(member.id),
                _ => return Err(Malformed("a field is missing")),
            },
        }
        m.end()?;
        d.end()?;
        state.check()?;
        if state.governance() != governance {
            return Err(Malformed("the governance hash is wrong"));
        }
        Ok(state)
    }

    /// What holds of every state.
    pub(super) fn check(&self) -> Decoded<()> {
        let sorted = ascending(&self.members, |m| m.id)
            && ascending(&self.recipients, |r| r.id)
            && ascending(&self.operators, |o| o.id)
            && self.operators.iter().all(|o| !o.roles.is_empty() && ascending(&o.roles, |r| r))
            && ascending(&self.hosts, |h| h.id)
            && ascending(&self.users, |u| order(&u.role))
            && ascending(&self.rules, |r| &r.command)
            && self.rules.iter().flat_map(|r| &r.alternatives).all(|a| !a.is_empty() && ascending(a, |(role, _)| role))
            && ascending(&self.domain_keys, |k| k.id)
            && ascending(&self.trusted_regions, |r| &r.name)
            && ascending(&self.suites, |s| *s);
        let recovery = self.recovery.as_ref().map(RecoverySet::recipient);
        let active = self.domain_keys.iter().filter(|k| k.status == KeyStatus::Active).count();
        let holds = [
            (sorted, "a collection is not sorted or has duplicates"),
            (self.version > 0, "version 0"),
            ((self.version == 1) == self.previous.is_none(), "the previous state's hash is missing or too much"),
            (!self.members.is_empty(), "no members"),
            (active == 1, "not exactly one active domain key"),
            (!self.replication_keys.is_empty(), "no replication key"),
            (!self.suites.is_empty(), "no suite is allowed"),
            (self.users.iter().all(|u| u.generation > 0), "generation 0"),
            (self.recipients.iter().eq(&recovery), "a recipient is not the recovery set's"),
            (self.embedded_member().map(|m| m.id) == self.embedded, "the embedded member is not a member"),
        ];
        match holds.iter().find(|(holds, _)| !holds) {
            Some((_, why)) => Err(Malformed(why)),
            None => Ok(()),
        }
    }
}

impl Member {
    pub(super) fn encode(&self, e: &mut Encoder) {
        e.array(3).bytes(&self.id);
        self.signing.encode(e);
        self.agreement.encode(e);
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(3)?;
        Ok(Self { id: d.fixed()?, signing: PublicKey::decode(d)?, agreement: PublicKey::decode(d)? })
    }
}

impl Recipient {
    fn encode(&self, e: &mut Encoder) {
        e.array(2).bytes(&self.id);
        self.agreement.encode(e);
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(2)?;
        Ok(Self { id: d.fixed()?, agreement: PublicKey::decode(d)? })
    }
}

impl Operator {
    fn encode(&self, e: &mut Encoder) {
        e.array(5).bytes(&self.id).text(&self.person).list(&self.roles, |e, role| {
            e.text(role);
        });
        self.signing.encode(e);
        self.agreement.encode(e);
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(5)?;
        Ok(Self {
            id: d.fixed()?,
            person: text(d)?,
            roles: d.list(text)?,
            signing: PublicKey::decode(d)?,
            agreement: PublicKey::decode(d)?,
        })
    }
}

impl Host {
    fn encode(&self, e: &mut Encoder) {
        e.array(3).bytes(&self.id).text(&self.name);
        self.signing.encode(e);
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(3)?;
        Ok(Self { id: d.fixed()?, name: text(d)?, signing: PublicKey::decode(d)? })
    }
}

impl User {
    fn encode(&self, e: &mut Encoder) {
        e.array(5);
        encode_role(e, &self.role);
        e.uint(self.generation).optional(self.agreement, |e, key| key.encode(e));
        e.optional(self.enrolment.as_ref(), |e, enrolment| enrolment.encode(e));
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(5)?;
        Ok(Self {
            role: decode_role(d)?,
            generation: d.uint()?,
            agreement: d.optional(PublicKey::decode)?,
            enrolment: d.optional(Enrolment::decode)?,
        })
    }
}

impl Enrolment {
    pub(super) fn encode(&self, e: &mut Encoder) {
        e.array(2);
        e.optional(self.code, |e, hash| {
            e.bytes(&hash);
        });
        e.uint(self.until);
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(2)?;
        Ok(Self { code: d.optional(Decoder::fixed)?, until: d.uint()? })
    }
}

impl Rule {
    pub(super) fn encode(&self, e: &mut Encoder) {
        e.array(2).text(&self.command).list(&self.alternatives, |e, alternative| {
            e.list(alternative, |e, (role, minimum)| {
                e.array(2).text(role).uint(*minimum);
            });
        });
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(2)?;
        let command = text(d)?;
        let alternatives = d.list(|d| {
            d.list(|d| {
                d.array_of(2)?;
                Ok((text(d)?, d.uint()?))
            })
        })?;
        Ok(Self { command, alternatives })
    }
}

impl DomainKey {
    fn encode(&self, e: &mut Encoder) {
        let status = match self.status {
            KeyStatus::Active => 0,
            KeyStatus::DecryptOnly => 1,
        };
        e.array(5).bytes(&self.id).uint(status).uint(self.created).optional(self.retires, |e, t| {
            e.uint(t);
        });
        e.text(&self.region);
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(5)?;
        let id = d.fixed()?;
        let status = match d.uint()? {
            0 => KeyStatus::Active,
            1 => KeyStatus::DecryptOnly,
            _ => return Err(Malformed("an unknown status of a domain key")),
        };
        Ok(Self { id, status, created: d.uint()?, retires: d.optional(Decoder::uint)?, region: text(d)? })
    }
}

impl StandingOrder {
    pub(super) fn encode(&self, e: &mut Encoder) {
        e.array(4).uint(self.interval).uint(self.window);
        e.optional(self.retain, |e, retain| {
            e.uint(retain);
        });
        e.uint(self.until);
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(4)?;
        Ok(Self { interval: d.uint()?, window: d.uint()?, retain: d.optional(Decoder::uint)?, until: d.uint()? })
    }
}

impl TrustedRegion {
    pub(super) fn encode(&self, e: &mut Encoder) {
        e.array(3).text(&self.name).bytes(&self.domain).list(&self.replication_keys, |e, key| key.encode(e));
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(3)?;
        Ok(Self { name: text(d)?, domain: d.fixed()?, replication_keys: d.list(PublicKey::decode)? })
    }
}

impl Limits {
    pub(super) fn encode(&self, e: &mut Encoder) {
        let Self { session_key, handshake, login_ticket, offer, proposal, approval } = self;
        e.list(&[session_key, handshake, login_ticket, offer, proposal, approval], |e, n| {
            e.uint(**n);
        });
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(6)?;
        Ok(Self {
            session_key: d.uint()?,
            handshake: d.uint()?,
            login_ticket: d.uint()?,
            offer: d.uint()?,
            proposal: d.uint()?,
            approval: d.uint()?,
        })
    }
}

/// A role as two items: its number, and the name of a named user.
pub(in crate::hsm) fn encode_role(e: &mut Encoder, role: &Role) {
    let (number, name) = order(role);
    e.uint(number).optional(name, |e, name| {
        e.text(name);
    });
}

pub(in crate::hsm) fn decode_role(d: &mut Decoder<'_>) -> Decoded<Role> {
    match (d.uint()?, d.optional(text)?) {
        (0, None) => Ok(Role::So),
        (1, None) => Ok(Role::User),
        (2, Some(name)) => Ok(Role::Named(name)),
        _ => Err(Malformed("an unknown role")),
    }
}

pub(super) fn order(role: &Role) -> (u64, Option<&str>) {
    match role {
        Role::So => (0, None),
        Role::User => (1, None),
        Role::Named(name) => (2, Some(name)),
    }
}

pub(super) fn text(d: &mut Decoder<'_>) -> Decoded<String> {
    let text = d.text()?;
    if text.len() > 255 { Err(Malformed("a text is too long")) } else { Ok(text.to_owned()) }
}

fn id_set(d: &mut Decoder<'_>) -> Decoded<BTreeSet<ObjectId>> {
    let ids = d.list(Decoder::fixed)?;
    if ascending(&ids, |id| *id) { Ok(ids.into_iter().collect()) } else { Err(Malformed("ids are not in order")) }
}

fn id_map(d: &mut Decoder<'_>) -> Decoded<BTreeMap<[u8; 16], u64>> {
    let mut read = BTreeMap::new();
    let mut map = d.map()?;
    while let Some((id, value)) = map.next_with(Decoder::fixed)? {
        read.insert(id, value.uint()?);
    }
    map.end()?;
    Ok(read)
}

pub(super) fn ascending<'a, T, K: PartialOrd>(items: &'a [T], key: impl Fn(&'a T) -> K) -> bool {
    items.windows(2).all(|pair| key(&pair[0]) < key(&pair[1]))
}
