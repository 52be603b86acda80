//! What operators do with papers alone: claims, commands, domain tokens, histories and recovery
//! shares are bytes that travel by any way. There is no HSM and no store here, and nothing is secret
//! but the operator's own keys, which are used where they are held.
//!
//! A command that cannot be read, does not fit or is not allowed gives CKR_DATA_INVALID or
//! CKR_FUNCTION_REJECTED with a sentence that says why.

use std::sync::Arc;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::super::crypto::Entropy;
use super::cbor::{Decoder, Encoder, Malformed};
use super::change::{self, Change, role_words};
use super::command::SignedCommand;
use super::execute;
use super::identity::{Claim, Identity, Party};
use super::json;
use super::keys::{Agreement, PublicKey};
use super::log::{Entry, Step};
use super::opened::Circumstances;
use super::refusal::Refusal;
use super::state::{Hash, State};
use super::token::PublicState;
use crate::error::{Error, ErrorKind, Result};
use crate::text::hex;

/// An operator's two P-384 keys, in a file or in any PKCS#11 token.
pub trait OperatorKeys {
    /// QOS: DER SubjectPublicKeyInfo with an uncompressed point, 120 bytes.
    fn signing(&self) -> Result<Vec<u8>>;
    /// QOA, likewise.
    fn agreement(&self) -> Result<Vec<u8>>;
    /// ECDSA with SHA-384 over the message (ESP384), raw `r ‖ s`.
    fn sign(&self, message: &[u8]) -> Result<[u8; 96]>;
    /// ECDH with this public key (SubjectPublicKeyInfo): the x coordinate.
    fn agree(&self, peer: &[u8]) -> Result<Zeroizing<[u8; 48]>>;
}

/// Who claims keys for himself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartyKind {
    Operator,
    /// Signs only.
    Host,
}

/// A proof of possession for a command that admits a new party. `name` is the operator's person or
/// the host's name. The id is random.
pub fn claim(kind: PartyKind, name: &str, domain: &[u8; 16], keys: &dyn OperatorKeys) -> Result<Vec<u8>> {
    make_claim(kind, Entropy::System.array()?, name, domain, keys)
}

/// The same with new keys of an operator who has this id and name already.
pub fn rekey_claim(id: &[u8; 16], name: &str, domain: &[u8; 16], keys: &dyn OperatorKeys) -> Result<Vec<u8>> {
    make_claim(PartyKind::Operator, *id, name, domain, keys)
}

fn make_claim(
    kind: PartyKind,
    id: [u8; 16],
    name: &str,
    domain: &[u8; 16],
    keys: &dyn OperatorKeys,
) -> Result<Vec<u8>> {
    if name.is_empty() || name.len() > 255 {
        return Err(ErrorKind::ArgumentsBad.with("the name must have from 1 to 255 bytes"));
    }
    if name.trim() != name || name.chars().any(char::is_control) {
        return Err(ErrorKind::ArgumentsBad.with("the name has a space at an end, or a control character"));
    }
    let (party, agreement) = match kind {
        PartyKind::Operator => (Party::Operator, Some(public_key(&keys.agreement()?)?)),
        PartyKind::Host => (Party::Host, None),
    };
    let signing = public_key(&keys.signing()?)?;
    if agreement == Some(signing) {
        return Err(ErrorKind::ArgumentsBad.with("the signing and the agreement key are the same"));
    }
    let identity = Identity { party, id, name: name.to_owned(), signing, agreement };
    let signature = keys.sign(&identity.to_sign(domain))?;
    let claim = identity.signed(&signature);
    claim.verify(party, domain).map_err(|_| wrong_signature())?;
    Ok(claim.message().to_vec())
}

/// `{party, id, name, signing, agreement, valid}`; `valid` says whether it was signed for this
/// domain, and is null if none is given.
pub fn describe_claim(claim: &[u8], domain: Option<&[u8; 16]>) -> Result<Value> {
    let claim = Claim::decode(claim).map_err(Refusal::from)?;
    let identity = &claim.identity;
    let party = match identity.party {
        Party::Operator => "operator",
        Party::Host => "host",
        Party::Hsm => "HSM",
    };
    Ok(json!({
        "party": party,
        "id": hex(&identity.id),
        "name": identity.name,
        "signing": json::key(&identity.signing),
        "agreement": identity.agreement.as_ref().map(json::key),
        "valid": domain.map(|domain| claim.verify(identity.party, domain).is_ok()),
    }))
}

/// The state of a domain token that one of the members it names has signed. Whether those are the
/// right ones, its hash tells whoever knows it.
pub fn describe_token(token: &[u8]) -> Result<Value> {
    let public = PublicState::of_bytes(token)?;
    Ok(json::describe(&public, Circumstances::of_system().now))
}

/// A command with who signed it; with a domain token also whether those are enough.
pub fn describe_command(command: &[u8], token: Option<&[u8]>) -> Result<Value> {
    let command = SignedCommand::decode(command)?;
    let public = token.map(PublicState::of_bytes).transpose()?;
    let state = public.as_ref().map(|public| public.state());
    Ok(json::describe_command(&command, state, Circumstances::of_system().now))
}

/// Seconds since 1970 as text, such as "2026-01-31 23:59:59 UTC".
pub fn date(time: u64) -> String {
    change::date(time)
}

/// A time span in seconds as text, such as "36 hours".
pub fn span(seconds: u64) -> String {
    change::span(seconds)
}

/// SHA-256 of what is signed: the name of a proposal, whoever has signed it so far.
pub fn command_id(command: &[u8]) -> Result<[u8; 32]> {
    Ok(SignedCommand::decode(command)?.id())
}

/// The ids of the multi-Region keys whose records a command changes, in its order; none for another.
pub fn command_keys(command: &[u8]) -> Result<Vec<String>> {
    let command = SignedCommand::decode(command)?;
    Ok(command.proposal().change.region_keys().map(|keys| keys.key_ids.clone()).unwrap_or_default())
}

/// Such as "rotate domain key".
pub fn command_name(command: &[u8]) -> Result<&'static str> {
    Ok(SignedCommand::decode(command)?.proposal().change.name())
}

/// The last second in which a command may be executed, since 1970. Its signatures are not verified.
pub fn command_end(command: &[u8]) -> Result<u64> {
    Ok(SignedCommand::decode(command)?.proposal().not_after)
}

/// The key under dual control that a command is about: its CKA_UNIQUE_ID as bytes. None for a command
/// about the domain. Its signatures are not verified.
pub fn key_of(command: &[u8]) -> Result<Option<[u8; 16]>> {
    Ok(SignedCommand::decode(command)?.proposal().change.key().map(|key| key.object))
}

/// The HSM that a command expels, which does not carry it out itself; None for another command. Its
/// signatures are not verified.
pub fn expelled(command: &[u8]) -> Result<Option<[u8; 16]>> {
    Ok(match &SignedCommand::decode(command)?.proposal().change {
        Change::ExpelHsm { id, .. } => Some(*id),
        _ => None,
    })
}

/// The use of a key under dual control that a command is to approve.
pub struct ProposedUse {
    /// The key.
    pub object: [u8; 16],
    pub action: String,
    /// None for any input.
    pub digest: Option<[u8; 32]>,
    pub instance: [u8; 16],
}

/// None for another command. Its signatures are not verified.
pub fn key_use(command: &[u8]) -> Result<Option<ProposedUse>> {
    Ok(match &SignedCommand::decode(command)?.proposal().change {
        Change::UseKey { key, usage } => Some(ProposedUse {
            object: key.object,
            action: usage.action.clone(),
            digest: usage.digest,
            instance: usage.instance,
        }),
        _ => None,
    })
}

/// What the holder of a key (DER SubjectPublicKeyInfo) signs with ESP384: the Sig_structure.
pub fn to_sign(command: &[u8], signer: &[u8]) -> Result<Vec<u8>> {
    Ok(SignedCommand::decode(command)?.to_sign(&public_key(signer)?.kid()))
}

/// The command with this operator's signature added.
pub fn sign(command: &[u8], keys: &dyn OperatorKeys) -> Result<Vec<u8>> {
    let mut command = SignedCommand::decode(command)?;
    let key = public_key(&keys.signing()?)?;
    let kid = key.kid();
    if command.signers().any(|signer| *signer == kid) {
        return Err(ErrorKind::FunctionRejected.with("this key has signed the command already"));
    }
    command.add(kid, keys.sign(&command.to_sign(&kid))?)?;
    if !command.is_signed_by(&key) {
        return Err(wrong_signature());
    }
    Ok(command.encode())
}

/// Two copies of one proposal, made one with the signatures of both.
pub fn merge(a: &[u8], b: &[u8]) -> Result<Vec<u8>> {
    let mut merged = SignedCommand::decode(a)?;
    merged.merge(&SignedCommand::decode(b)?)?;
    Ok(merged.encode())
}

/// A history taken apart, nothing verified.
pub struct History<'a> {
    /// The domain token of the version before the first entry.
    pub origin: &'a [u8],
    /// Of the log, one for each version.
    pub entries: Vec<&'a [u8]>,
    /// The newest domain token.
    pub newest: &'a [u8],
}

impl<'a> History<'a> {
    /// CBOR `[origin: bstr, entries: [* bstr], newest: bstr]`.
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(3).bytes(self.origin).list(&self.entries, |e, entry| {
            e.bytes(entry);
        });
        e.bytes(self.newest);
        e.finish()
    }

    pub fn decode(input: &'a [u8]) -> Result<Self> {
        let read = || -> std::result::Result<Self, Malformed> {
            let mut d = Decoder::new(input);
            d.array_of(3)?;
            let history = Self { origin: d.bytes()?, entries: d.list(Decoder::bytes)?, newest: d.bytes()? };
            d.end()?;
            Ok(history)
        };
        read().map_err(|why| ErrorKind::DataInvalid.with(format!("not a history: {}", why.0)))
    }

    /// Follows every entry from the origin to the newest token; gives what each did.
    fn verify(&self, now: u64) -> Result<Verified> {
        let origin = PublicState::of_bytes(self.origin)?;
        let mut reached = *origin.hash();
        let mut hashes = vec![reached];
        let (mut before, mut state) = (origin.state().clone(), origin.state().clone());
        let mut described = Vec::with_capacity(self.entries.len());
        for bytes in &self.entries {
            let version = state.version.saturating_add(1);
            let refused = |refusal: Refusal| {
                ErrorKind::FunctionRejected.with(format!("the entry that makes version {version}: {refusal}"))
            };
            let entry = Entry::decode(bytes).map_err(refused)?;
            let stepped = entry.follow(&state, now).map_err(refused)?;
            reached = stepped.state.hash();
            let mut value = describe_entry(&entry, &state);
            value["version"] = stepped.state.version.into();
            value["at"] = entry.at.into();
            value["signers"] = json::describe_signers(&stepped.signers);
            value["state"] = hex(&reached).into();
            described.push(value);
            hashes.push(reached);
            before = std::mem::replace(&mut state, stepped.state);
        }
        Ok(Verified { newest: PublicState::of_state(self.newest, &reached, &before)?, hashes, described })
    }
}

struct Verified {
    newest: Arc<PublicState>,
    /// Of every state on the way, the origin's first.
    hashes: Vec<Hash>,
    described: Vec<Value>,
}

/// Verifies a history: each entry by the state before it, and the newest token at its end. One value
/// for each entry: `{version, at, kind, command, id, words, signers, state}`.
///
/// It begins with whatever its origin says: compare the domain and the hashes with what is known, or
/// use [`verify_history_of`]. One that begins after the founding is refused.
pub fn verify_history(history: &[u8]) -> Result<Vec<Value>> {
    let origin = PublicState::of_bytes(History::decode(history)?.origin)?;
    if origin.state().log_head.is_some() {
        let why = "the history begins after the founding: what was approved before that is missing";
        return Err(ErrorKind::FunctionRejected.with(why));
    }
    Ok(History::decode(history)?.verify(Circumstances::of_system().now)?.described)
}

/// The same; refused unless it goes through the state of a domain token that is known.
pub fn verify_history_of(history: &[u8], known: &[u8]) -> Result<Vec<Value>> {
    let verified = History::decode(history)?.verify(Circumstances::of_system().now)?;
    through(&verified, &*PublicState::of_bytes(known)?)?;
    Ok(verified.described)
}

fn through(verified: &Verified, known: &PublicState) -> Result<()> {
    if verified.hashes.contains(known.hash()) {
        Ok(())
    } else {
        Err(ErrorKind::FunctionRejected.with("the history does not go through the state of the domain token given"))
    }
}

/// An operator's part in a recovery: his share, encrypted to the HSM that the command names.
///
/// `token` is the newest that he knows. If the domain went on since, a history leads from it to the
/// state that the command names. Refused unless the command verifies there.
pub fn contribute(token: &[u8], history: Option<&[u8]>, command: &[u8], keys: &dyn OperatorKeys) -> Result<Vec<u8>> {
    contribute_at(token, history, command, keys, &mut Circumstances::of_system())
}

pub(super) fn contribute_at(
    token: &[u8],
    history: Option<&[u8]>,
    command: &[u8],
    keys: &dyn OperatorKeys,
    circumstances: &mut Circumstances,
) -> Result<Vec<u8>> {
    let mut public = PublicState::of_bytes(token)?;
    if let Some(history) = history {
        let verified = History::decode(history)?.verify(circumstances.now)?;
        through(&verified, &public)?;
        public = verified.newest;
    }
    let held = Held { keys, agreement: public_key(&keys.agreement()?)? };
    Ok(execute::contribute(&public, command, &held, circumstances)?.encode())
}

#[cfg(test)]
pub(super) fn verify_history_at(history: &[u8], now: u64) -> Result<Vec<Value>> {
    Ok(History::decode(history)?.verify(now)?.described)
}

/// An operator's agreement key, as the recovery uses it.
struct Held<'a> {
    keys: &'a dyn OperatorKeys,
    agreement: PublicKey,
}

impl Agreement for Held<'_> {
    fn public(&self) -> Result<PublicKey> {
        Ok(self.agreement)
    }

    fn shared(&self, peer: &PublicKey) -> Result<Zeroizing<[u8; 48]>> {
        self.keys.agree(peer.spki())
    }
}

fn describe_entry(entry: &Entry, before: &State) -> Value {
    let key = |done: &str, id: &[u8]| format!("Domain key {} {done}\n", hex(id));
    let (kind, words) = match &entry.step {
        Step::Command { command, .. } => {
            let proposal = command.proposal();
            let words = proposal.words(Some(before));
            let id = hex(&command.id());
            return json!({ "kind": "command", "command": proposal.change.name(), "id": id, "words": words });
        }
        Step::SetPin { role, .. } => ("PIN set", format!("The holder of the PIN of {} set it.\n", role_words(role))),
        Step::Rotate { domain_key } => ("rotation", key("was made under the standing order.", domain_key)),
        Step::Retire { domain_key } => ("retirement", key("was destroyed at its deadline.", domain_key)),
    };
    json!({ "kind": kind, "command": null, "id": null, "words": words })
}

fn public_key(spki: &[u8]) -> Result<PublicKey> {
    PublicKey::from_spki(spki)
        .map_err(|_| ErrorKind::PublicKeyInvalid.with("an operator's keys are on the curve P-384"))
}

fn wrong_signature() -> Error {
    ErrorKind::SignatureInvalid.with("the signature that the key made does not verify")
}
