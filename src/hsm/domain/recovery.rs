//! Recovery: an agreement key whose private half nobody holds, shared among operators (M of N).
//!
//! Its public half is a recipient of every later domain token. Feldman's verifiable sharing over the
//! scalar field of P-384: the commitments tell a right share from a wrong one, and the first of
//! them is the public half itself.

use p384::elliptic_curve::rand_core::{TryCryptoRng, TryRng};
use p384::{NonZeroScalar, ProjectivePoint, Scalar, SecretKey};
use sha2::{Digest, Sha384};
use vsss_rs::{DefaultShare, FeldmanVerifierSet, IdentifierPrimeField, ReadableShareSet, ShareVerifierGroup, feldman};
use zeroize::{Zeroize, Zeroizing};

use super::super::crypto::{Entropy, SecretBytes};
use super::cbor::{Decoded, Decoder, Encoder, Malformed};
use super::keys::{self, Agreement, PrivateKey, PublicKey};
use super::refusal::Refusal;
use super::seal::{self, DomainId};
use super::state::{Hash, Operator, Recipient, State};
use super::token::SUITE;
use crate::error::{Error, ErrorKind, Result};

type Field = IdentifierPrimeField<Scalar>;
type ShareOf = DefaultShare<Field, Field>;
type Commitment = ShareVerifierGroup<ProjectivePoint>;

/// A share's scalar and tag.
const SEALED: usize = 64;

/// The public record of a recovery key. Share *n*, from 1, is the *n*th in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct RecoverySet {
    pub(in crate::hsm) id: [u8; 16],
    /// To the coefficients of the sharing polynomial, as many as shares are needed; the first is
    /// the recovery key's public half.
    pub(in crate::hsm) commitments: Vec<PublicKey>,
    pub(super) ephemeral: PublicKey,
    /// Ascending by operator.
    pub(in crate::hsm) shares: Vec<SealedShare>,
}

/// A share encrypted to its operator's QOA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct SealedShare {
    pub(in crate::hsm) operator: [u8; 16],
    sealed: [u8; SEALED],
}

/// An operator's share, encrypted anew to the HSM that a recovery command names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Contribution {
    operator: [u8; 16],
    ephemeral: PublicKey,
    sealed: [u8; SEALED],
}

impl RecoverySet {
    /// Makes a recovery key and shares it; it is forgotten when this returns.
    pub(super) fn make(state: &State, threshold: u64, holders: &[&Operator], entropy: &mut Entropy) -> Result<Self> {
        let count = |n: u64| usize::try_from(n).map_err(|_| ErrorKind::GeneralError);
        let id = entropy.array()?;
        let key = PrivateKey::generate(entropy)?;
        let mut secret = IdentifierPrimeField(*parse(&key)?.to_nonzero_scalar().as_ref());
        let mut drawn = Drawn { entropy, failed: None };
        let split =
            feldman::split_secret::<ShareOf, Commitment>(count(threshold)?, holders.len(), &secret, None, &mut drawn);
        secret.zeroize();
        if let Some(failed) = drawn.failed {
            return Err(failed);
        }
        let (mut shares, verifiers) = split.map_err(|_| ErrorKind::GeneralError.with("the sharing failed"))?;
        let ephemeral = PrivateKey::generate(entropy)?;
        let mut set = Self { id, commitments: Vec::new(), ephemeral: ephemeral.public()?, shares: Vec::new() };
        for commitment in FeldmanVerifierSet::<ShareOf, Commitment>::verifiers(&verifiers) {
            let point = p384::PublicKey::from_affine(commitment.0.to_affine()).map_err(|_| ErrorKind::GeneralError)?;
            set.commitments.push(PublicKey::of(&point)?);
        }
        for (n, (share, holder)) in shares.iter_mut().zip(holders).enumerate() {
            let info = set.share_info(&state.domain, n as u64 + 1, holder);
            let scalar = Zeroizing::new(<[u8; 48]>::from(share.value.0.to_bytes()));
            let sealed = seal_share(&ephemeral, &holder.agreement, &info, &*scalar)?;
            set.shares.push(SealedShare { operator: holder.id, sealed });
            share.zeroize();
        }
        Ok(set)
    }

    /// How many shares open the recovery key.
    pub(in crate::hsm) fn threshold(&self) -> u64 {
        self.commitments.len() as u64
    }

    pub(super) fn recipient(&self) -> Recipient {
        Recipient { id: self.id, agreement: self.commitments[0] }
    }

    /// Opens an operator's share, checks it against the commitments, and encrypts it to an HSM.
    /// `command` is the hash of the recovery command, which the caller has verified.
    pub(super) fn contribute(
        &self,
        domain: &DomainId,
        operator: &Operator,
        key: &dyn Agreement,
        (command, hsm): (&Hash, &PublicKey),
        entropy: &mut Entropy,
    ) -> Result<Contribution> {
        let (index, entry) = self.share_of(&operator.id)?;
        let info = self.share_info(domain, index, operator);
        let scalar = open_share(key, &self.ephemeral, &info, &entry.sealed)?.ok_or(Refusal::BadShare)?;
        self.check_share(index, &scalar)?;
        let ephemeral = PrivateKey::generate(entropy)?;
        let public = ephemeral.public()?;
        let info = self.contribution_info(domain, command, index, &public, hsm);
        let sealed = seal_share(&ephemeral, hsm, &info, scalar.expose())?;
        Ok(Contribution { operator: operator.id, ephemeral: public, sealed })
    }

    /// The recovery key, out of enough contributions to this HSM.
    pub(super) fn combine(
        &self,
        domain: &DomainId,
        command: &Hash,
        hsm: &PrivateKey,
        contributions: &[Contribution],
    ) -> Result<PrivateKey> {
        let mut shares: Vec<ShareOf> = Vec::new();
        for contribution in contributions {
            let (index, _) = self.share_of(&contribution.operator)?;
            let info = self.contribution_info(domain, command, index, &contribution.ephemeral, &hsm.public()?);
            let scalar = open_share(hsm, &contribution.ephemeral, &info, &contribution.sealed)?;
            let share = self.check_share(index, &scalar.ok_or(Refusal::BadShare)?)?;
            if shares.iter().all(|other| other.identifier != share.identifier) {
                shares.push(share);
            }
        }
        if (shares.len() as u64) < self.threshold() {
            return Err(Refusal::TooFewShares { have: shares.len(), need: self.threshold() }.into());
        }
        let combined = shares.combine();
        shares.zeroize();
        let mut combined = combined.map_err(|_| Refusal::BadShare)?;
        let scalar = Zeroizing::new(<[u8; 48]>::from(combined.0.to_bytes()));
        combined.zeroize();
        let key = PrivateKey::from_scalar(&*scalar)?;
        if key.public()? == self.commitments[0] { Ok(key) } else { Err(Refusal::BadShare.into()) }
    }

    /// The share, if it is on the polynomial that the commitments commit to.
    fn check_share(&self, index: u64, scalar: &SecretBytes) -> Result<ShareOf> {
        let value = SecretKey::from_slice(scalar.expose()).map_err(|_| Refusal::BadShare)?;
        let share = ShareOf {
            identifier: IdentifierPrimeField(Scalar::from(index)),
            value: IdentifierPrimeField(*NonZeroScalar::from(&value).as_ref()),
        };
        let mut verifiers = vec![vsss_rs::ValueGroup(ProjectivePoint::GENERATOR)];
        for commitment in &self.commitments {
            verifiers.push(vsss_rs::ValueGroup(commitment.point()?));
        }
        FeldmanVerifierSet::<ShareOf, Commitment>::verify_share(&verifiers, &share).map_err(|_| Refusal::BadShare)?;
        Ok(share)
    }

    fn share_of(&self, operator: &[u8; 16]) -> std::result::Result<(u64, &SealedShare), Refusal> {
        let at = self.shares.binary_search_by(|share| share.operator.cmp(operator)).map_err(|_| Refusal::BadShare)?;
        Ok((at as u64 + 1, &self.shares[at]))
    }

    fn share_info(&self, domain: &DomainId, index: u64, holder: &Operator) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(7).bytes(domain).bytes(&self.id).uint(index).bytes(&holder.id);
        e.bytes(self.ephemeral.spki()).bytes(holder.agreement.spki()).bytes(self.commitments[0].spki());
        info("recovery-share", &e.finish())
    }

    fn contribution_info(
        &self,
        domain: &DomainId,
        command: &Hash,
        index: u64,
        ephemeral: &PublicKey,
        hsm: &PublicKey,
    ) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(6).bytes(domain).bytes(&self.id).bytes(command).uint(index).bytes(ephemeral.spki()).bytes(hsm.spki());
        info("recovery-contribution", &e.finish())
    }

    pub(super) fn encode(&self, e: &mut Encoder) {
        e.array(4).bytes(&self.id).list(&self.commitments, |e, key| key.encode(e));
        self.ephemeral.encode(e);
        e.list(&self.shares, |e, share| {
            e.array(2).bytes(&share.operator).bytes(&share.sealed);
        });
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(4)?;
        let set = Self {
            id: d.fixed()?,
            commitments: d.list(PublicKey::decode)?,
            ephemeral: PublicKey::decode(d)?,
            shares: d.list(|d| {
                d.array_of(2)?;
                Ok(SealedShare { operator: d.fixed()?, sealed: d.fixed()? })
            })?,
        };
        if set.commitments.len() < 2
            || set.shares.len() < set.commitments.len()
            || !super::state::ascending(&set.shares, |share| share.operator)
        {
            return Err(Malformed("the recovery set is not one"));
        }
        Ok(set)
    }
}

impl Contribution {
    pub(in crate::hsm) fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(4).uint(SUITE).bytes(&self.operator);
        self.ephemeral.encode(&mut e);
        e.bytes(&self.sealed);
        e.finish()
    }

    pub(in crate::hsm) fn decode(input: &[u8]) -> std::result::Result<Self, Refusal> {
        let mut d = Decoder::new(input);
        d.array_of(4)?;
        if d.uint()? != SUITE {
            return Err(Refusal::Malformed("an unknown suite"));
        }
        let contribution = Self { operator: d.fixed()?, ephemeral: PublicKey::decode(&mut d)?, sealed: d.fixed()? };
        d.end()?;
        Ok(contribution)
    }
}

fn parse(key: &PrivateKey) -> Result<SecretKey> {
    SecretKey::from_slice(key.scalar()).map_err(|_| ErrorKind::GeneralError.into())
}

/// `["conclave/1", label, suite, SHA-384(transcript)]`.
fn info(label: &str, transcript: &[u8]) -> Vec<u8> {
    let mut e = Encoder::new();
    e.array(4).text("conclave/1").text(label).uint(SUITE).bytes(&Sha384::digest(transcript));
    e.finish()
}

fn seal_share(own: &PrivateKey, peer: &PublicKey, info: &[u8], scalar: &[u8]) -> Result<[u8; SEALED]> {
    let key: Zeroizing<[u8; 44]> = own.agree(peer, info)?;
    let mut sealed = [0; SEALED];
    let (body, tag) = sealed.split_at_mut(48);
    body.copy_from_slice(scalar);
    tag.copy_from_slice(&seal::gcm_seal(&key[..32], &key[32..], &[], body)?);
    Ok(sealed)
}

fn open_share(own: &dyn Agreement, peer: &PublicKey, info: &[u8], sealed: &[u8]) -> Result<Option<SecretBytes>> {
    let key: Zeroizing<[u8; 44]> = keys::agree(own, peer, info)?;
    seal::gcm_open(&key[..32], &key[32..], &[], sealed)
}

/// Our randomness as the sharing wants it. That cannot fail; a failure is remembered and looked at
/// before anything drawn is used.
struct Drawn<'a> {
    entropy: &'a mut Entropy,
    failed: Option<Error>,
}

impl TryRng for Drawn<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> std::result::Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> std::result::Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, output: &mut [u8]) -> std::result::Result<(), Self::Error> {
        if let Err(error) = self.entropy.fill(output) {
            // A constant that no rejection sampling turns down for ever.
            output.fill(1);
            self.failed = Some(error);
        }
        Ok(())
    }
}

impl TryCryptoRng for Drawn<'_> {}
