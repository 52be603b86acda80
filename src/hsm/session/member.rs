//! The HSM's side: answering message 1, accepting a connection.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use super::super::crypto::SecretBytes;
use super::super::domain::keys::{Kid, PrivateKey, PublicKey};
use super::super::domain::{Circumstances, Hash, Opened, OwnKeys, State, gcm_seal};
use super::super::ephemeral::{self, Suite};
use super::clear::Reply;
use super::ekt::{Terms, check_parties};
use super::link::{End, Link};
use super::message::{Body, Esk, SessionReply, SessionRequest, Signed};
use super::schedule::{Connection, Negotiated};
use super::{Code, HsmId, Refused, SKEW, sha384};
use crate::error::{ErrorKind, Result};

type Answered<T> = std::result::Result<T, Refused>;

/// Messages 1 of one host that are remembered at once.
const SEEN_PER_HOST: usize = 4096;

/// The messages 1 that were answered, each until it counts no more: none is answered twice.
#[derive(Default)]
pub struct Seen(Mutex<HashMap<[u8; 16], SeenOfHost>>);

#[derive(Default)]
struct SeenOfHost {
    hashes: HashSet<Hash>,
    ends: BTreeSet<(u64, Hash)>,
}

/// Whom a connection is with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub host: [u8; 16],
    pub host_name: String,
    /// SHA-256 of the process secret, which [`Link::greet`] checks.
    pub process: [u8; 32],
    /// The HSM that issued the session.
    pub issuer: HsmId,
    /// Of the session, in seconds since 1970.
    pub valid_until: u64,
    /// Of the state that the connection was accepted in.
    pub state_version: u64,
}

impl Peer {
    /// Whether its session still counts: time is not over, host and issuer are in the state.
    pub(in crate::hsm) fn check(&self, state: &State, now: u64) -> Answered<()> {
        if now >= self.valid_until {
            return Err(Refused::new(Code::Expired, "the session is over"));
        }
        check_parties(state, &self.host, &self.issuer)
    }
}

/// Answers message 1 with the reply that carries message 2, ready for the wire.
pub(in crate::hsm) fn answer(
    opened: &Opened,
    own: &OwnKeys,
    seen: &Seen,
    message1: &[u8],
    now: u64,
) -> Answered<Vec<u8>> {
    let message2 = answer_at(opened, own, seen, message1, &mut Circumstances { now, ..Circumstances::of_system() })?;
    Ok(Reply::Negotiate(&message2).to_wire()?)
}

pub(super) fn answer_at(
    opened: &Opened,
    own: &OwnKeys,
    seen: &Seen,
    message1: &[u8],
    circumstances: &mut Circumstances,
) -> Answered<Vec<u8>> {
    let (state, now) = (opened.state(), circumstances.now);
    let hsm_kid = own_kid(state, own)?;
    let signed = Signed::decode::<SessionRequest>(message1)?;
    let host = state.hosts.iter().find(|host| host.signing.kid() == signed.kid);
    let host = host.ok_or_else(|| Refused::new(Code::Refused, "the host is not in the domain"))?;
    let hash = sha384(message1);
    if seen.contains(&host.id, &hash) {
        return Err(Refused::new(Code::Refused, "the message was answered before"));
    }
    let request: SessionRequest = signed.verify(&host.signing, &state.domain)?;
    check_request(&request, state, &host.id, own.id(), now)?;
    seen.insert(&host.id, hash, request.not_after.saturating_add(SKEW), now)?;

    let entropy = &mut circumstances.entropy;
    let answered = ephemeral::answer(&request.q1, request.ek.as_ref(), entropy)?;
    let answered = answered.ok_or_else(|| Refused::new(Code::Refused, "the encapsulation key is not valid"))?;
    let sk = SecretBytes::fill(32, |sk| entropy.fill(sk))?;
    let terms = Terms {
        suite: request.suite,
        host: host.id,
        process: request.process,
        issuer: *own.id(),
        valid_from: now,
        valid_until: now.saturating_add(request.lifetime.min(state.limits.session_key)),
    };
    let ekt = terms.seal(&sk, opened, entropy)?;
    let nk = Negotiated {
        suite: request.suite,
        host: &host.id,
        hsm: own.id(),
        host_kid: &signed.kid,
        hsm_kid: &hsm_kid,
        domain: &state.domain,
        region: &state.region,
        request: &hash,
        q1: &request.q1,
        q2: &answered.public,
        version: state.version,
        state: opened.public().hash(),
        ct: answered.ct.as_ref(),
    }
    .key(&answered.shared)?;
    let reply = SessionReply {
        request: hash,
        hsm: *own.id(),
        host: host.id,
        version: state.version,
        state: *opened.public().hash(),
        valid_from: terms.valid_from,
        valid_until: terms.valid_until,
        q2: answered.public,
        ct: answered.ct,
        esk: encrypt(&nk, &sk, &ekt)?,
        ekt: &ekt,
    };
    Ok(reply.sign(own.signing(), &hsm_kid, &state.domain)?)
}

fn check_request(request: &SessionRequest, state: &State, host: &[u8; 16], hsm: &HsmId, now: u64) -> Answered<()> {
    let limit = state.limits.handshake.saturating_add(SKEW);
    let holds = [
        (request.host == *host, Code::Refused, "the message names another host than its signer"),
        (request.hsm == *hsm, Code::Refused, "the message is for another HSM"),
        (now <= request.not_after.saturating_add(SKEW), Code::Refused, "the message has expired"),
        (request.not_after <= now.saturating_add(limit), Code::Refused, "the message ends too far ahead"),
        (request.lifetime > 0, Code::Refused, "the message asks for no lifetime"),
        (request.version <= state.version, Code::Behind, "the host knows a newer state"),
        (
            Some(request.suite) == Suite::highest(&state.suites),
            Code::Refused,
            "the message is of another suite than the domain's highest",
        ),
    ];
    match holds.into_iter().find(|(holds, ..)| !holds) {
        Some((_, code, why)) => Err(Refused::new(code, why)),
        None => Ok(()),
    }
}

/// ESK: the session key under NK, with the EKT's hash as AAD.
fn encrypt(nk: &[u8; 44], sk: &SecretBytes, ekt: &[u8]) -> Result<Esk> {
    let (key, iv) = nk.split_at(32);
    let mut esk = [0; 48];
    let (body, tag) = esk.split_at_mut(32);
    if sk.len() != body.len() {
        return Err(ErrorKind::GeneralError.into());
    }
    body.copy_from_slice(sk.expose());
    tag.copy_from_slice(&gcm_seal(key, iv, &sha384(ekt), body)?);
    Ok(esk)
}

/// Accepts a connection with the EKT and Qc of a [`super::Request::Connect`]: the reply, ready for the
/// wire, the link, and whom it is with if [`Link::greet`] succeeds.
pub(in crate::hsm) fn accept(
    opened: &Opened,
    own: &OwnKeys,
    ekt: &[u8],
    qc: &[u8],
    now: u64,
) -> Answered<(Vec<u8>, Link, Peer)> {
    accept_at(opened, own, ekt, qc, &mut Circumstances { now, ..Circumstances::of_system() })
}

pub(super) fn accept_at(
    opened: &Opened,
    own: &OwnKeys,
    ekt: &[u8],
    qc: &[u8],
    circumstances: &mut Circumstances,
) -> Answered<(Vec<u8>, Link, Peer)> {
    let state = opened.state();
    own_kid(state, own)?;
    let (terms, sk) = Terms::open(ekt, opened, circumstances.now)?;
    let qc = PublicKey::from_spki(qc)?;
    let host = state.hosts.iter().find(|host| host.id == terms.host);
    let host_name = host.map(|host| host.name.clone()).unwrap_or_default();
    let key = PrivateKey::generate(&mut circumstances.entropy)?;
    let qs = key.public()?;
    let keys = Connection {
        suite: terms.suite,
        ekt: &sha384(ekt),
        qc: &qc,
        qs: &qs,
        hsm: own.id(),
        host: &terms.host,
        domain: &state.domain,
        version: state.version,
        state: opened.public().hash(),
    }
    .keys(&key, &qc, &sk)?;
    let link = Link::new(End::Hsm, &keys, terms.valid_until)?;
    let reply = Reply::Connect { qs: *qs.spki(), version: state.version, hash: *opened.public().hash() }.to_wire()?;
    let Terms { host, process, issuer, valid_until, .. } = terms;
    Ok((reply, link, Peer { host, host_name, process, issuer, valid_until, state_version: state.version }))
}

/// The name of this HSM's QHSK, by which it is in the state.
fn own_kid(state: &State, own: &OwnKeys) -> Answered<Kid> {
    let member = state.members.iter().find(|member| member.id == *own.id());
    let member = member.ok_or_else(|| Refused::new(Code::NotMember, "this HSM is not a member of the domain"))?;
    Ok(member.signing.kid())
}

impl Seen {
    fn contains(&self, host: &[u8; 16], hash: &Hash) -> bool {
        let hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(host).is_some_and(|seen| seen.hashes.contains(hash))
    }

    /// Remembers a message until a time. Refuses one that is remembered, and is busy when it has as
    /// many of this host as it remembers at once: a host's messages shut out no other.
    pub(super) fn insert(&self, host: &[u8; 16], hash: Hash, until: u64, now: u64) -> Answered<()> {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = hosts.entry(*host).or_default();
        while let Some((end, old)) = seen.ends.first().copied().filter(|(end, _)| *end < now) {
            seen.ends.remove(&(end, old));
            seen.hashes.remove(&old);
        }
        if seen.hashes.contains(&hash) {
            return Err(Refused::new(Code::Refused, "the message was answered before"));
        }
        if seen.hashes.len() >= SEEN_PER_HOST {
            return Err(Refused::new(Code::Busy, "the host negotiates too often"));
        }
        seen.hashes.insert(hash);
        seen.ends.insert((until, hash));
        Ok(())
    }
}
