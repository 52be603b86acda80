//! Quorum-signed commands: what is signed, how it is read, and when it may be executed.

use sha2::{Digest, Sha256};

use super::super::crypto::Entropy;
use super::cbor::{Decoded, Decoder, Encoder, Malformed};
use super::change::{Change, date};
use super::cose::MultiSigned;
use super::identity::Claim;
use super::keys::{Kid, PrivateKey, PublicKey};
use super::refusal::Refusal;
use super::rules;
use super::seal::DomainId;
use super::state::{Hash, Operator, State, text};
use crate::error::Result;
use crate::text::hex;

const CONTENT_TYPE: &str = "application/vnd.conclave.command";
/// Checked before anything is parsed.
const LARGEST: usize = 1024 * 1024;
/// No set of operators needs more, and each costs a verification.
const MOST_SIGNATURES: usize = 1024;

/// What is proposed and signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Proposal {
    pub(in crate::hsm) domain: DomainId,
    /// Of the state that its signers know.
    pub(in crate::hsm) governance: Hash,
    pub(in crate::hsm) change: Change,
    /// Seconds since 1970, both inclusive.
    pub(in crate::hsm) not_before: u64,
    pub(in crate::hsm) not_after: u64,
    pub(in crate::hsm) nonce: [u8; 16],
}

impl Proposal {
    /// A proposal to a domain in this state.
    pub(in crate::hsm) fn new(
        state: &State,
        change: Change,
        (not_before, not_after): (u64, u64),
        entropy: &mut Entropy,
    ) -> Result<Self> {
        let governance = state.governance();
        Ok(Self { domain: state.domain, governance, change, not_before, not_after, nonce: entropy.array()? })
    }

    /// In plain words: what an operator reads before signing. `state` is the newest he knows.
    pub(in crate::hsm) fn words(&self, state: Option<&State>) -> String {
        let mut lines = vec![format!("Command: {}", self.change.name())];
        lines.extend(self.change.words(&self.domain, state).into_iter().map(|line| format!("  {line}")));
        lines.push(format!("Domain: {}", hex(&self.domain)));
        lines.push(format!("Governance: {}", hex(&self.governance)));
        lines.push(format!("Valid: {} to {}", date(self.not_before), date(self.not_after)));
        lines.push(format!("Nonce: {}", hex(&self.nonce)));
        lines.join("\n") + "\n"
    }

    fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(7).bytes(&self.domain).bytes(&self.governance).text(self.change.name());
        self.change.encode_arguments(&mut e);
        e.uint(self.not_before).uint(self.not_after).bytes(&self.nonce);
        e.finish()
    }

    fn decode(input: &[u8]) -> Decoded<Self> {
        let mut d = Decoder::new(input);
        d.array_of(7)?;
        let domain = d.fixed()?;
        let governance = d.fixed()?;
        let name = text(&mut d)?;
        let proposal = Self {
            domain,
            governance,
            change: Change::decode(&name, &mut d)?,
            not_before: d.uint()?,
            not_after: d.uint()?,
            nonce: d.fixed()?,
        };
        d.end()?;
        Ok(proposal)
    }
}

/// A proposal with the signatures it has so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct SignedCommand {
    proposal: Proposal,
    payload: Vec<u8>,
    signatures: Vec<(Kid, [u8; 96])>,
}

impl SignedCommand {
    pub(in crate::hsm) fn unsigned(proposal: Proposal) -> Self {
        let payload = proposal.encode();
        Self { proposal, payload, signatures: Vec::new() }
    }

    pub(in crate::hsm) fn decode(input: &[u8]) -> std::result::Result<Self, Refusal> {
        if input.len() > LARGEST {
            return Err(Refusal::Malformed("the command is too large"));
        }
        let message = MultiSigned::decode(CONTENT_TYPE, input)?;
        if message.signatures.len() > MOST_SIGNATURES {
            return Err(Refusal::Malformed("too many signatures"));
        }
        for pair in message.signatures.windows(2) {
            if pair[0].0 == pair[1].0 {
                return Err(Refusal::RepeatedSigner(pair[0].0));
            }
            if pair[0].0 > pair[1].0 {
                return Err(Malformed("the signatures are not in order").into());
            }
        }
        let payload = message.content.to_vec();
        Ok(Self { proposal: Proposal::decode(&payload)?, payload, signatures: message.signatures })
    }

    pub(in crate::hsm) fn encode(&self) -> Vec<u8> {
        MultiSigned::encode(CONTENT_TYPE, &self.payload, &self.signatures)
    }

    pub(in crate::hsm) fn proposal(&self) -> &Proposal {
        &self.proposal
    }

    /// SHA-256 of what is signed: the name of a pending proposal, whoever has signed it so far.
    pub(in crate::hsm) fn id(&self) -> [u8; 32] {
        Sha256::digest(&self.payload).into()
    }

    pub(in crate::hsm) fn signers(&self) -> impl Iterator<Item = &Kid> {
        self.signatures.iter().map(|(kid, _)| kid)
    }

    /// The Sig_structure that the holder of this key signs with ESP384.
    pub(in crate::hsm) fn to_sign(&self, kid: &Kid) -> Vec<u8> {
        MultiSigned::to_sign(CONTENT_TYPE, kid, &self.proposal.domain, &self.payload)
    }

    /// Adds a signature, which is verified when the command is.
    pub(in crate::hsm) fn add(&mut self, kid: Kid, signature: [u8; 96]) -> std::result::Result<(), Refusal> {
        match self.signatures.binary_search_by(|(other, _)| other.cmp(&kid)) {
            Ok(_) => Err(Refusal::RepeatedSigner(kid)),
            Err(at) => {
                self.signatures.insert(at, (kid, signature));
                Ok(())
            }
        }
    }

    pub(in crate::hsm) fn sign(&mut self, key: &PrivateKey) -> Result<()> {
        let kid = key.public()?.kid();
        let signature = key.sign(&self.to_sign(&kid))?;
        Ok(self.add(kid, signature)?)
    }

    /// Adds a signature that somebody in the state, or among the founders that the command names,
    /// made with this key (DER SubjectPublicKeyInfo).
    pub(in crate::hsm) fn add_verified(
        &mut self,
        state: &State,
        signer: &[u8],
        signature: &[u8],
    ) -> std::result::Result<(), Refusal> {
        let signature = signature.try_into().map_err(|_| Refusal::Malformed("a signature has 96 bytes"))?;
        let kid = PublicKey::from_spki(signer)?.kid();
        let mut signed = self.clone();
        signed.add(kid, signature)?;
        match (&self.proposal.change, state.log_head) {
            (Change::FoundDomain { operators, .. }, None) => drop(signed.signed_by(&founders(operators)?)?),
            _ => drop(signed.signed_by(&state.operators)?),
        }
        *self = signed;
        Ok(())
    }

    /// Whether the state's operators allow this at this time. Everything is checked but what the
    /// change itself does. Gives the operators that signed.
    pub(in crate::hsm) fn verify(&self, state: &State, at: u64) -> std::result::Result<Vec<Operator>, Refusal> {
        let Proposal { domain, governance, change, not_before, not_after, nonce } = &self.proposal;
        if *domain != state.domain {
            return Err(Refusal::OtherDomain);
        }
        if *governance != state.governance() {
            return Err(Refusal::OtherGovernance);
        }
        if not_after.checked_sub(*not_before).is_none_or(|validity| validity > state.limits.proposal) {
            return Err(Refusal::Validity);
        }
        if at < *not_before {
            return Err(Refusal::NotYetValid);
        }
        if at > *not_after {
            return Err(Refusal::Expired);
        }
        if state.nonces.contains_key(nonce) {
            return Err(Refusal::Replayed);
        }
        match (change, state.log_head) {
            (Change::FoundDomain { operators, .. }, None) => {
                let founders = founders(operators)?;
                let signers = self.signed_by(&founders)?;
                if signers.len() < founders.len() {
                    let counted = format!("every founding operator: {} of {}", signers.len(), founders.len());
                    return Err(Refusal::QuorumNotMet(counted));
                }
                Ok(founders)
            }
            (Change::FoundDomain { .. }, Some(_)) => Err(Refusal::AlreadyFounded),
            (_, None) => Err(Refusal::NotFounded),
            (_, Some(_)) => {
                let signers = self.signed_by(&state.operators)?;
                match change.key() {
                    Some(key) => key.control.met(&signers)?,
                    None => rules::met(state, change.name(), &signers)?,
                }
                Ok(signers.into_iter().cloned().collect())
            }
        }
    }

    /// Whether this key's signature is there and verifies.
    pub(super) fn is_signed_by(&self, key: &PublicKey) -> bool {
        let kid = key.kid();
        let signature = self.signatures.iter().find(|(other, _)| *other == kid);
        signature.is_some_and(|(_, signature)| key.verify(&self.to_sign(&kid), signature))
    }

    /// Adds the signatures that another copy of the same proposal has. A signer's that is here already
    /// stays, for two signatures of one message differ.
    pub(in crate::hsm) fn merge(&mut self, other: &Self) -> std::result::Result<(), Refusal> {
        if self.payload != other.payload {
            return Err(Refusal::Arguments("they are not copies of one proposal"));
        }
        for (kid, signature) in &other.signatures {
            if let Err(at) = self.signatures.binary_search_by(|(held, _)| held.cmp(kid)) {
                self.signatures.insert(at, (*kid, *signature));
            }
        }
        Ok(())
    }

    /// Those of these operators that signed; any other signer is refused.
    fn signed_by<'a>(&self, operators: &'a [Operator]) -> std::result::Result<Vec<&'a Operator>, Refusal> {
        let mut signers: Vec<&Operator> = Vec::new();
        for (kid, signature) in &self.signatures {
            let signer = operators.iter().find(|o| o.signing.kid() == *kid).ok_or(Refusal::UnknownSigner(*kid))?;
            if signers.iter().any(|other| other.id == signer.id) {
                return Err(Refusal::RepeatedSigner(*kid));
            }
            if !signer.signing.verify(&self.to_sign(kid), signature) {
                return Err(Refusal::BadSignature(*kid));
            }
            signers.push(signer);
        }
        Ok(signers)
    }
}

fn founders(claims: &[(Claim, Vec<String>)]) -> std::result::Result<Vec<Operator>, Refusal> {
    claims.iter().map(|(claim, roles)| claim.operator(roles.clone())).collect()
}
