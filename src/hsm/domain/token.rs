//! Domain tokens: a state signed by a member, its secrets encrypted to everybody who may open them.

use std::sync::Arc;

use sha2::{Digest, Sha384};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::super::command::DomainToken;
use super::super::crypto::{Entropy, SecretBytes};
use super::cbor::{Decoder, Encoder, Malformed};
use super::cose::{self, ESP384, Form, Header, Message};
use super::keys::{Kid, PrivateKey, PublicKey};
use super::log;
use super::opened::Circumstances;
use super::refusal::Refusal;
use super::seal;
use super::state::{Hash, Member, State};
use crate::error::{Error, ErrorKind, Result};
use crate::text::hex;

const CONTENT_TYPE: &str = "application/vnd.conclave.domain-token";
/// The suite of P-384 alone.
pub(super) const SUITE: u64 = 1;
/// More than any domain needs; checked before anything is parsed.
const LARGEST: usize = 16 * 1024 * 1024;
const OLDER: &str = "its version is older than the one held";

/// A state whose token was verified: its public part, its hash, and the secrets still encrypted.
pub(in crate::hsm) struct PublicState {
    state: State,
    hash: Hash,
    envelope: Envelope,
    /// Kid of the member that exported the token.
    exporter: Kid,
}

impl PublicState {
    /// Takes a token without a state to compare with: a member that the state itself names must
    /// have signed it. What vouches for that member is the PIN record that opens it.
    pub(in crate::hsm) fn first_seen(token: &DomainToken) -> Result<Arc<Self>> {
        let parsed = Parsed::of(token)?;
        let signer = parsed.signer(&parsed.state.members)?;
        parsed.verify(&signer).map(Arc::new)
    }

    /// Takes the first token of a newly provisioned HSM, whose operator typed in the state's hash.
    pub(in crate::hsm) fn of_fingerprint(token: &DomainToken, hash: &Hash) -> Result<Arc<Self>> {
        let public = Self::first_seen(token)?;
        if public.hash == *hash { Ok(public) } else { Err(refused("it is not the one with this fingerprint")) }
    }

    /// [`Self::adopt_logged`] without a log, at the system's time.
    pub(in crate::hsm) fn adopt(self: &Arc<Self>, token: &DomainToken) -> Result<Arc<Self>> {
        self.adopt_logged(token, &[], Circumstances::of_system().now)
    }

    /// Takes a newer token.
    ///
    /// `log` has the entries between the two states, one for each version. They are verified one by
    /// one and must lead to exactly the token's state, and a member of the state before it must have
    /// signed. Only while an embedded domain is governed by its SO, and has no log, a member's
    /// signature is enough; its store keeps the newest token only, so versions may be skipped.
    ///
    /// The same state is answered with what is held. Refused: an older version, another state of
    /// the same version (which is an alarm), another domain.
    pub(in crate::hsm) fn adopt_logged(
        self: &Arc<Self>,
        token: &DomainToken,
        log: &[Vec<u8>],
        now: u64,
    ) -> Result<Arc<Self>> {
        self.adopt_parsed(Parsed::of(token)?, log, now)
    }

    /// [`Self::adopt_logged`] of a token whose version is known from nothing else.
    pub(in crate::hsm) fn adopt_bytes(self: &Arc<Self>, token: &[u8], log: &[Vec<u8>], now: u64) -> Result<Arc<Self>> {
        self.adopt_parsed(Parsed::of_bytes(token)?, log, now)
    }

    fn adopt_parsed(self: &Arc<Self>, parsed: Parsed<'_>, log: &[Vec<u8>], now: u64) -> Result<Arc<Self>> {
        let held = &self.state;
        if parsed.state.domain != held.domain {
            return Err(refused("it belongs to another domain"));
        }
        if parsed.state.version == held.version && parsed.hash == self.hash {
            return Ok(Arc::clone(self));
        }
        if parsed.state.version <= held.version {
            let signer = parsed.signer(&held.members)?;
            let other = parsed.verify(&signer)?;
            return Err(if other.state.version < held.version { refused(OLDER) } else { self.fork(&other.hash) });
        }
        let governed_by_so = held.log_head.is_none() && held.embedded.is_some();
        let members = if governed_by_so && log.is_empty() {
            if parsed.state.version - 1 == held.version && parsed.state.previous != Some(self.hash) {
                return Err(refused("it does not continue the state held"));
            }
            held.members.clone()
        } else {
            let Some((last, earlier)) = log.split_last() else { return Err(Refusal::LogMissing.into()) };
            if log.len() as u64 != parsed.state.version - held.version {
                return Err(Refusal::LogMissing.into());
            }
            let before = log::replay(held, earlier, now)?;
            let reached = log::replay(&before, std::slice::from_ref(last), now)?;
            if reached.hash() != parsed.hash {
                return Err(Refusal::LogMismatch.into());
            }
            signers(&before, &reached).to_vec()
        };
        parsed.of_member(&members).map(Arc::new)
    }

    /// Takes a token whose version is known from nothing else, as [`Self::first_seen`] does.
    pub(in crate::hsm) fn of_bytes(bytes: &[u8]) -> Result<Arc<Self>> {
        let parsed = Parsed::of_bytes(bytes)?;
        let signer = parsed.signer(&parsed.state.members)?;
        parsed.verify(&signer).map(Arc::new)
    }

    /// The version that a token's state says, not verified.
    pub(in crate::hsm) fn version_of(bytes: &[u8]) -> Result<u64> {
        Ok(Parsed::of_bytes(bytes)?.state.version)
    }

    /// Takes the token of a state that was computed: a member of the state before signed it, or the HSM
    /// that a recovery names.
    pub(in crate::hsm) fn of_state(bytes: &[u8], hash: &Hash, before: &State) -> Result<Arc<Self>> {
        let parsed = Parsed::of_bytes(bytes)?;
        if parsed.hash != *hash {
            return Err(Refusal::LogMismatch.into());
        }
        let signers = signers(before, &parsed.state).to_vec();
        parsed.of_member(&signers).map(Arc::new)
    }

    /// Takes the newest token of a domain of which nothing is held but a fingerprint: the hash of any
    /// of its states from the origin's on. The entries must lead from the origin's state through that
    /// one to exactly the newest, signed as [`Self::of_state`] says.
    pub(in crate::hsm) fn of_history(
        origin: &[u8],
        newest: &[u8],
        log: &[Vec<u8>],
        fingerprint: &Hash,
        now: u64,
    ) -> Result<Arc<Self>> {
        let origin = Self::of_bytes(origin)?;
        let mut known = origin.hash == *fingerprint;
        let (mut before, mut state, mut reached) = (origin.state.clone(), origin.state.clone(), origin.hash);
        for entry in log {
            let next = log::replay(&state, std::slice::from_ref(entry), now)?;
            reached = next.hash();
            known |= reached == *fingerprint;
            before = std::mem::replace(&mut state, next);
        }
        if !known {
            return Err(refused("no state of its history has the fingerprint given"));
        }
        Self::of_state(newest, &reached, &before)
    }

    /// The alarm: somebody made two states of one version.
    fn fork(&self, shown: &Hash) -> Error {
        let (held, shown) = (hex(&self.hash), hex(shown));
        tracing::error!(
            version = self.state.version,
            held,
            shown,
            "two domain states of one version: the one held is kept"
        );
        refused(format!("there is another state of the same version: held {held}, shown {shown}"))
    }

    pub(in crate::hsm) fn state(&self) -> &State {
        &self.state
    }

    /// SHA-384 of the encoded state.
    pub(in crate::hsm) fn hash(&self) -> &Hash {
        &self.hash
    }

    pub(super) fn exporter(&self) -> &Kid {
        &self.exporter
    }

    /// The encoded secrets, for the holder of a recipient's private key.
    pub(super) fn open_secrets(&self, key: &PrivateKey) -> Result<SecretBytes> {
        self.envelope.open(&self.state, &self.hash, &self.exporter, key)
    }
}

/// Who may sign the state that an entry of the log makes of the one before: its members. Only a recovery
/// leaves none of them, and the HSM that it names signs.
fn signers<'s>(before: &'s State, after: &'s State) -> &'s [Member] {
    let stays = |member: &Member| before.members.iter().any(|other| other.id == member.id);
    if after.members.iter().any(stays) { &before.members } else { &after.members }
}

/// Signs a state and encrypts its secrets to all its recipients.
pub(super) fn export(
    state: &State,
    secrets: &SecretBytes,
    signer: &PrivateKey,
    entropy: &mut Entropy,
) -> Result<(DomainToken, Arc<PublicState>)> {
    state.check().map_err(|why| ErrorKind::GeneralError.with(why.0))?;
    let encoded = state.encode();
    let hash: Hash = Sha384::digest(&encoded).into();
    let exporter = signer.public()?.kid();
    let envelope = Envelope::seal(state, &hash, &exporter, secrets, entropy)?;

    let mut payload = Encoder::new();
    payload.array(2).bytes(&encoded);
    envelope.encode(&mut payload);
    let payload = payload.finish();
    let mut header = Header::new(ESP384, CONTENT_TYPE);
    header.kid = Some(&exporter);
    let protected = header.encode();
    let signature = signer.sign(&cose::authenticated(Form::Sign1, &protected, &state.domain, &payload))?;
    let bytes = cose::encode(Form::Sign1, &protected, &payload, &signature);
    if bytes.len() > LARGEST {
        return Err(ErrorKind::FunctionRejected.with("the domain's state would be too large for anybody to read"));
    }
    let public = PublicState { state: state.clone(), hash, envelope, exporter };
    Ok((DomainToken { version: state.version, bytes }, Arc::new(public)))
}

/// A token taken apart, its signature not verified yet.
struct Parsed<'a> {
    message: Message<'a>,
    state: State,
    hash: Hash,
    envelope: Envelope,
    exporter: Kid,
}

impl<'a> Parsed<'a> {
    fn of(token: &'a DomainToken) -> Result<Self> {
        let parsed = Self::of_bytes(&token.bytes)?;
        if parsed.state.version != token.version {
            return Err(refused("it is stored under another version"));
        }
        Ok(parsed)
    }

    fn of_bytes(bytes: &'a [u8]) -> Result<Self> {
        if bytes.len() > LARGEST {
            return Err(refused("it is too large"));
        }
        Self::decode(bytes).map_err(|why| refused(why.0))
    }

    fn decode(bytes: &'a [u8]) -> std::result::Result<Self, Malformed> {
        let message = Message::decode(Form::Sign1, bytes)?;
        let exporter: Kid =
            message.header.kid.and_then(|kid| kid.try_into().ok()).ok_or(Malformed("no signer is named"))?;
        let expected = Header { kid: message.header.kid, ..Header::new(ESP384, CONTENT_TYPE) };
        if message.header != expected {
            return Err(Malformed("the headers are not those of a domain token"));
        }
        let mut d = Decoder::new(message.content);
        d.array_of(2)?;
        let encoded = d.bytes()?;
        let envelope = Envelope::decode(&mut d)?;
        d.end()?;
        let state = State::decode(encoded)?;
        if !envelope.wrapped.iter().map(|(kid, _)| kid).eq(state.secrets_recipients().keys()) {
            return Err(Malformed("the secrets are not encrypted to exactly the state's recipients"));
        }
        Ok(Self { message, state, hash: Sha384::digest(encoded).into(), envelope, exporter })
    }

    /// The key of the member that is said to have signed.
    fn signer(&self, members: &[Member]) -> Result<PublicKey> {
        let signer = members.iter().find(|m| m.signing.kid() == self.exporter);
        signer.map(|m| m.signing).ok_or_else(|| refused("its signer is not a member"))
    }

    /// Verifies that one of these members signed, and that it stays.
    fn of_member(self, before: &[Member]) -> Result<PublicState> {
        let signer = self.signer(before)?;
        if !self.state.members.iter().any(|m| m.signing == signer) {
            return Err(refused("it expels its own signer"));
        }
        self.verify(&signer)
    }

    fn verify(self, signer: &PublicKey) -> Result<PublicState> {
        let signed = self.message.authenticated(&self.state.domain);
        if !signer.verify(&signed, self.message.tag) {
            return Err(refused("its signature does not verify"));
        }
        Ok(PublicState { state: self.state, hash: self.hash, envelope: self.envelope, exporter: self.exporter })
    }
}

/// The secrets, encrypted once, and the content key encrypted to each recipient by a one-pass
/// agreement with one ephemeral key.
struct Envelope {
    suite: u64,
    ephemeral: PublicKey,
    /// By kid, ascending.
    wrapped: Vec<(Kid, [u8; 48])>,
    ciphertext: Vec<u8>,
}

impl Envelope {
    fn seal(state: &State, hash: &Hash, exporter: &Kid, secrets: &SecretBytes, entropy: &mut Entropy) -> Result<Self> {
        let ephemeral = PrivateKey::generate(entropy)?;
        let public = ephemeral.public()?;
        let content_key = SecretBytes::fill(32, |key| entropy.fill(key))?;
        let mut wrapped = Vec::new();
        for (kid, recipient) in state.secrets_recipients() {
            let info = transcript_info(state, hash, exporter, &public, &recipient);
            let key: Zeroizing<[u8; 44]> = ephemeral.agree(&recipient, &info)?;
            let mut slot = [0; 48];
            let (body, tag) = slot.split_at_mut(32);
            body.copy_from_slice(content_key.expose());
            tag.copy_from_slice(&seal::gcm_seal(&key[..32], &key[32..], &[], body)?);
            wrapped.push((kid, slot));
        }
        let key = content_keys(&content_key, hash)?;
        let mut ciphertext = Vec::with_capacity(secrets.len() + 16);
        ciphertext.extend_from_slice(secrets.expose());
        let tag = seal::gcm_seal(&key[..32], &key[32..], &[], &mut ciphertext)?;
        ciphertext.extend_from_slice(&tag);
        Ok(Self { suite: SUITE, ephemeral: public, wrapped, ciphertext })
    }

    fn open(&self, state: &State, hash: &Hash, exporter: &Kid, key: &PrivateKey) -> Result<SecretBytes> {
        if self.suite != SUITE || !state.suites.contains(&self.suite) {
            return Err(refused("its suite is not allowed"));
        }
        let recipient = key.public()?;
        let kid = recipient.kid();
        let entry = self.wrapped.iter().find(|(other, _)| bool::from(other.ct_eq(&kid)));
        let (_, slot) = entry.ok_or_else(|| refused("its secrets are not encrypted to this key"))?;
        let info = transcript_info(state, hash, exporter, &self.ephemeral, &recipient);
        let wrapping: Zeroizing<[u8; 44]> = key.agree(&self.ephemeral, &info)?;
        let damaged = || refused("its secrets do not decrypt");
        let content_key = seal::gcm_open(&wrapping[..32], &wrapping[32..], &[], slot)?.ok_or_else(damaged)?;
        let content = content_keys(&content_key, hash)?;
        seal::gcm_open(&content[..32], &content[32..], &[], &self.ciphertext)?.ok_or_else(damaged)
    }

    fn encode(&self, e: &mut Encoder) {
        e.array(4).uint(self.suite);
        self.ephemeral.encode(e);
        e.list(&self.wrapped, |e, (kid, wrapped)| {
            e.array(2).bytes(kid).bytes(wrapped);
        });
        e.bytes(&self.ciphertext);
    }

    fn decode(d: &mut Decoder<'_>) -> std::result::Result<Self, Malformed> {
        d.array_of(4)?;
        Ok(Self {
            suite: d.uint()?,
            ephemeral: PublicKey::decode(d)?,
            wrapped: d.list(|d| {
                d.array_of(2)?;
                Ok((d.fixed()?, d.fixed()?))
            })?,
            ciphertext: d.bytes()?.to_vec(),
        })
    }
}

/// `["conclave/1", "domain-token", suite, SHA-384(transcript)]`.
fn transcript_info(
    state: &State,
    hash: &Hash,
    exporter: &Kid,
    ephemeral: &PublicKey,
    recipient: &PublicKey,
) -> Vec<u8> {
    let mut transcript = Encoder::new();
    transcript.array(8).bytes(&state.domain).text(&state.region).uint(state.version).bytes(hash);
    transcript.bytes(exporter).bytes(&recipient.kid()).bytes(ephemeral.spki()).bytes(recipient.spki());
    let mut info = Encoder::new();
    info.array(4).text("conclave/1").text("domain-token").uint(SUITE).bytes(&Sha384::digest(transcript.finish()));
    info.finish()
}

/// Key and IV of the secrets: the content key is used once, for this state.
fn content_keys(content_key: &SecretBytes, hash: &Hash) -> Result<Zeroizing<[u8; 44]>> {
    let mut info = Encoder::new();
    info.array(4).text("conclave/1").text("state-secrets").uint(SUITE).bytes(hash);
    seal::expand(None, content_key.expose(), &info.finish())
}

fn refused(why: impl std::fmt::Display) -> Error {
    ErrorKind::TokenNotRecognized.with(format!("the domain token was refused: {why}"))
}
