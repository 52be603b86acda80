//! The host's side: its key, its process, negotiating a session, connecting with it.

use p384::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::super::crypto::{Entropy, SecretBytes};
use super::super::domain::governance::{self, OperatorKeys, PartyKind};
use super::super::domain::keys::{Kid, PrivateKey, PublicKey};
use super::super::domain::{Circumstances, Hash, gcm_open};
use super::super::ephemeral::{Ephemeral, Suite};
use super::clear::{Reply, Request};
use super::link::{End, Link};
use super::message::{Body, SessionReply, SessionRequest, Signed};
use super::schedule::{Connection, Negotiated};
use super::{Failure, Follower, HsmId, SKEW, ekt, not_taken, sha384};
use crate::error::{Error, ErrorKind, Result};

/// QHOS: the key by which a domain knows a host.
pub struct HostKey {
    key: PrivateKey,
    public: PublicKey,
}

#[cfg(feature = "fleet")]
fn encrypted(pem: &str, passphrase: &[u8]) -> p384::pkcs8::Result<p384::SecretKey> {
    p384::SecretKey::from_pkcs8_encrypted_pem(pem, passphrase)
}

/// Only hosts have such keys.
#[cfg(not(feature = "fleet"))]
fn encrypted(_: &str, _: &[u8]) -> p384::pkcs8::Result<p384::SecretKey> {
    Err(p384::pkcs8::Error::ParametersMalformed)
}

impl HostKey {
    pub fn generate() -> Result<Self> {
        Self::of(PrivateKey::generate(&mut Entropy::System)?)
    }

    /// From PKCS#8 in PEM: unencrypted, or under a passphrase if one is given. CKR_DATA_INVALID for anything else.
    pub fn from_pem(pem: &[u8], passphrase: Option<&[u8]>) -> Result<Self> {
        let pem = std::str::from_utf8(pem).unwrap_or_default();
        let (key, wanted) = match passphrase {
            None => (p384::SecretKey::from_pkcs8_pem(pem), "an unencrypted P-384 private key in PEM (PKCS#8)"),
            Some(passphrase) => {
                let wanted = "a P-384 private key in PEM (PKCS#8) under this passphrase (PBES2)";
                (encrypted(pem, passphrase), wanted)
            }
        };
        let key = key.map_err(|_| ErrorKind::DataInvalid.with(format!("the host key is not {wanted}")))?;
        Self::of(PrivateKey::from_scalar(&Zeroizing::new(<[u8; 48]>::from(key.to_bytes()))[..])?)
    }

    /// Unencrypted PKCS#8 in PEM: for a file that only the host's user can read.
    pub fn to_pem(&self) -> Result<Zeroizing<String>> {
        let key = p384::SecretKey::from_slice(self.key.scalar()).map_err(|_| ErrorKind::GeneralError)?;
        key.to_pkcs8_pem(LineEnding::LF).map_err(|_| ErrorKind::GeneralError.into())
    }

    pub(super) fn of(key: PrivateKey) -> Result<Self> {
        Ok(Self { public: key.public()?, key })
    }

    #[cfg(test)]
    pub(super) fn private(&self) -> &PrivateKey {
        &self.key
    }

    /// SHA-256 of the public key's SubjectPublicKeyInfo.
    pub fn kid(&self) -> [u8; 32] {
        self.public.kid()
    }

    /// The proof of possession that `admit host` takes, for one domain.
    pub fn claim(&self, name: &str, domain: &[u8; 16]) -> Result<Vec<u8>> {
        governance::claim(PartyKind::Host, name, domain, self)
    }
}

impl OperatorKeys for HostKey {
    fn signing(&self) -> Result<Vec<u8>> {
        Ok(self.public.spki().to_vec())
    }

    fn agreement(&self) -> Result<Vec<u8>> {
        Err(no_agreement())
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 96]> {
        self.key.sign(message)
    }

    fn agree(&self, _: &[u8]) -> Result<Zeroizing<[u8; 48]>> {
        Err(no_agreement())
    }
}

fn no_agreement() -> Error {
    ErrorKind::FunctionRejected.with("a host has no agreement key")
}

/// A host process: what binds logins and session objects to it, across its sessions.
pub struct Process {
    secret: SecretBytes,
    /// Kept beside the secret, which a forked child finds wiped: it gets on with no HSM in its
    /// parent's name.
    id: [u8; 32],
}

impl Process {
    /// A new one, with a random secret of 32 bytes.
    pub fn new() -> Result<Self> {
        Self::generate(&mut Entropy::System)
    }

    pub(super) fn generate(entropy: &mut Entropy) -> Result<Self> {
        let secret = SecretBytes::fill(32, |secret| entropy.fill(secret))?;
        let id = Sha256::digest(secret.expose()).into();
        Ok(Self { secret, id })
    }

    /// SHA-256 of the secret: what HSMs know the process by.
    pub fn id(&self) -> [u8; 32] {
        self.id
    }

    pub(super) fn secret(&self) -> &[u8] {
        self.secret.expose()
    }
}

/// A negotiation that waits for message 2.
pub struct Negotiation {
    ephemeral: Ephemeral,
    q1: PublicKey,
    suite: Suite,
    hsm: HsmId,
    host: [u8; 16],
    host_kid: Kid,
    /// SHA-384 of message 1.
    request: Hash,
    lifetime: u64,
}

/// Begins a session with a member: what waits for the answer, and the [`Request::Negotiate`] to be
/// sent to that HSM. `lifetime` in seconds; the HSM may give less. CKR_DEVICE_ERROR if the host or the
/// HSM is not in the domain.
pub fn negotiate(
    key: &HostKey,
    process: &Process,
    follower: &Follower,
    hsm: &HsmId,
    lifetime: u64,
) -> Result<(Negotiation, Vec<u8>)> {
    let (negotiation, message1) = negotiate_at(key, process, follower, hsm, lifetime, &mut Circumstances::of_system())?;
    Ok((negotiation, Request::Negotiate(&message1).to_wire()?))
}

pub(super) fn negotiate_at(
    key: &HostKey,
    process: &Process,
    follower: &Follower,
    hsm: &HsmId,
    lifetime: u64,
    circumstances: &mut Circumstances,
) -> Result<(Negotiation, Vec<u8>)> {
    let state = follower.state();
    let host_kid = key.kid();
    let host = follower.host(&host_kid)?;
    follower.member(hsm)?;
    let suite = Suite::highest(&state.suites)
        .ok_or_else(|| ErrorKind::DeviceError.with("the domain allows no suite that is known here"))?;
    let ephemeral = Ephemeral::generate(suite, &mut circumstances.entropy)?;
    let (q1, ek) = ephemeral.public()?;
    let request = SessionRequest {
        suite,
        host,
        hsm: *hsm,
        process: process.id(),
        nonce: circumstances.entropy.array()?,
        lifetime,
        not_after: circumstances.now.saturating_add(state.limits.handshake),
        version: state.version,
        q1,
        ek,
    };
    let message1 = request.sign(&key.key, &host_kid, &state.domain)?;
    let request = sha384(&message1);
    Ok((Negotiation { ephemeral, q1, suite, hsm: *hsm, host, host_kid, request, lifetime }, message1))
}

impl Negotiation {
    /// Takes the HSM's reply, the whole clear message. `follower` may be newer than the one it began
    /// with; the HSM must have exactly its state.
    pub fn finish(self, follower: &Follower, reply: &[u8]) -> std::result::Result<Session, Failure> {
        let Reply::Negotiate(message2) = Reply::decode(reply)? else {
            return Err(not_taken("it answers another message").into());
        };
        self.finish_at(follower, message2, Circumstances::of_system().now)
    }

    pub(super) fn finish_at(
        self,
        follower: &Follower,
        message2: &[u8],
        now: u64,
    ) -> std::result::Result<Session, Failure> {
        let state = follower.state();
        let signed = Signed::decode::<SessionReply<'_>>(message2)?;
        let member = follower.member(&self.hsm)?;
        if signed.kid != member.kid() {
            return Err(not_taken("another than the HSM signed it").into());
        }
        let reply: SessionReply<'_> = signed.verify(&member, &state.domain)?;
        self.check(&reply, now)?;
        if reply.version > follower.version() {
            return Err(Failure::Outdated);
        }
        let lifetime = reply.valid_until - reply.valid_from;
        let holds = [
            (reply.version == follower.version(), "the HSM's state is older than the host's"),
            (reply.state == *follower.hash(), "the HSM has another state of the same version"),
            (lifetime <= state.limits.session_key, "the session is longer than the domain allows"),
        ];
        all_hold(&holds)?;
        let agreed = self.ephemeral.agree(&reply.q2, reply.ct.as_ref())?;
        let agreed = agreed.ok_or_else(|| not_taken("it is of another suite"))?;
        let nk = Negotiated {
            suite: self.suite,
            host: &self.host,
            hsm: &self.hsm,
            host_kid: &self.host_kid,
            hsm_kid: &signed.kid,
            domain: &state.domain,
            region: &state.region,
            request: &self.request,
            q1: &self.q1,
            q2: &reply.q2,
            version: reply.version,
            state: &reply.state,
            ct: reply.ct.as_ref(),
        }
        .key(&agreed)?;
        let (key, iv) = nk.split_at(32);
        let sk = gcm_open(key, iv, &sha384(reply.ekt), &reply.esk)?;
        let sk = sk.ok_or_else(|| not_taken("its session key does not decrypt"))?;
        let session = Session {
            suite: self.suite,
            ekt: reply.ekt.to_vec(),
            ekt_hash: sha384(reply.ekt),
            domain_key: ekt::key_of(reply.ekt)?,
            sk,
            host: self.host,
            issuer: self.hsm,
            valid_until: reply.valid_until,
        };
        session.check(follower)?;
        Ok(session)
    }

    fn check(&self, reply: &SessionReply<'_>, now: u64) -> Result<()> {
        all_hold(&[
            (reply.request == self.request, "it answers another message"),
            (reply.hsm == self.hsm && reply.host == self.host, "it is between others"),
            (reply.valid_from <= now.saturating_add(SKEW), "the session begins in the future"),
            (now < reply.valid_until, "the session is over"),
            (reply.valid_from < reply.valid_until, "the session ends before it begins"),
            (
                reply.valid_until.saturating_sub(reply.valid_from) <= self.lifetime,
                "the session is longer than was asked for",
            ),
        ])
    }
}

fn all_hold(holds: &[(bool, &'static str)]) -> Result<()> {
    match holds.iter().find(|(holds, _)| !holds) {
        Some((_, why)) => Err(not_taken(why)),
        None => Ok(()),
    }
}

/// A session: a key that the host shares with all members of the domain, for a while.
pub struct Session {
    suite: Suite,
    ekt: Vec<u8>,
    ekt_hash: Hash,
    /// That the EKT is sealed under.
    domain_key: [u8; 16],
    sk: SecretBytes,
    host: [u8; 16],
    issuer: HsmId,
    valid_until: u64,
}

/// A connection that waits for the HSM's reply.
pub struct Connecting {
    key: PrivateKey,
    qc: PublicKey,
    hsm: HsmId,
}

impl Session {
    /// The HSM that it was negotiated with.
    pub fn issuer(&self) -> &HsmId {
        &self.issuer
    }

    /// Seconds since 1970.
    pub fn valid_until(&self) -> u64 {
        self.valid_until
    }

    /// The id of the domain key that its EKT is sealed under.
    pub fn domain_key(&self) -> &[u8; 16] {
        &self.domain_key
    }

    /// Whether the session counts in this state: who was expelled since may know its key. When it does
    /// not any more, its links are to be closed, and another one negotiated.
    pub fn is_current(&self, follower: &Follower) -> bool {
        let suite = Suite::highest(&follower.state().suites);
        self.domain_key == follower.active_key() && suite == Some(self.suite) && follower.member(&self.issuer).is_ok()
    }

    fn check(&self, follower: &Follower) -> Result<()> {
        if self.is_current(follower) {
            return Ok(());
        }
        Err(ErrorKind::DeviceError.with("the session is from before the domain's last rotation: negotiate anew"))
    }

    /// Begins a connection with any member: what waits for the answer, and the [`Request::Connect`].
    pub fn connect(&self, follower: &Follower, hsm: &HsmId) -> Result<(Connecting, Vec<u8>)> {
        self.connect_at(follower, hsm, &mut Entropy::System)
    }

    pub(super) fn connect_at(
        &self,
        follower: &Follower,
        hsm: &HsmId,
        entropy: &mut Entropy,
    ) -> Result<(Connecting, Vec<u8>)> {
        self.check(follower)?;
        follower.member(hsm)?;
        let key = PrivateKey::generate(entropy)?;
        let qc = key.public()?;
        let request = Request::Connect { ekt: &self.ekt, qc: *qc.spki() }.to_wire()?;
        Ok((Connecting { key, qc, hsm: *hsm }, request))
    }

    #[cfg(test)]
    pub(super) fn for_tests(&self) -> (&[u8], &[u8]) {
        (&self.ekt, self.sk.expose())
    }
}

impl Connecting {
    /// Takes the HSM's reply, a clear message: the link, and the first frame to be sent on it. The
    /// reply is authenticated only by [`Link::greeted`], to which the HSM's answer to that frame goes.
    ///
    /// The HSM's state may be of an older version than the host's: it is brought forward through the
    /// link, in which both name what they know.
    pub fn finish(
        self,
        session: &Session,
        process: &Process,
        follower: &Follower,
        reply: &[u8],
    ) -> std::result::Result<(Link, Vec<u8>), Failure> {
        let Reply::Connect { qs, version, hash } = Reply::decode(reply)? else {
            return Err(not_taken("it answers another message").into());
        };
        session.check(follower)?;
        follower.member(&self.hsm)?;
        if version == follower.version() && hash != *follower.hash() {
            return Err(not_taken("the HSM has another state of the same version").into());
        }
        let qs = PublicKey::from_spki(&qs)?;
        let keys = Connection {
            suite: session.suite,
            ekt: &session.ekt_hash,
            qc: &self.qc,
            qs: &qs,
            hsm: &self.hsm,
            host: &session.host,
            domain: follower.domain(),
            version,
            state: &hash,
        }
        .keys(&self.key, &qs, &session.sk)?;
        let mut link = Link::new(End::Host, &keys, session.valid_until)?;
        let hello = link.hello(process)?;
        Ok((link, hello))
    }
}
