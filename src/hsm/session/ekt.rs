//! The exported key token: a session key with whose it is and how long, sealed under the domain key,
//! so that any member can open it and no host can.

use super::super::command::ObjectId;
use super::super::crypto::{Entropy, SecretBytes};
use super::super::domain::cbor::{Decoded, Decoder, Encoder, Malformed};
use super::super::domain::{Kind, Opened, State, key_id_of};
use super::super::ephemeral::Suite;
use super::{Code, HsmId, Refused, SKEW};
use crate::error::Result;

const GENERATION: u64 = 1;

/// A domain key's name.
type KeyId = [u8; 16];

/// What an EKT says besides its session key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) suite: Suite,
    pub(super) host: [u8; 16],
    /// SHA-256 of the process secret.
    pub(super) process: [u8; 32],
    pub(super) issuer: HsmId,
    /// Seconds since 1970.
    pub(super) valid_from: u64,
    pub(super) valid_until: u64,
}

impl Terms {
    /// CBOR `[object, sealed]`.
    pub(super) fn seal(&self, sk: &SecretBytes, opened: &Opened, entropy: &mut Entropy) -> Result<Vec<u8>> {
        let mut plaintext = Encoder::secret();
        plaintext.array(7).uint(self.suite.number()).bytes(sk.expose()).bytes(&self.host).bytes(&self.process);
        plaintext.bytes(&self.issuer).uint(self.valid_from).uint(self.valid_until);
        let plaintext = plaintext.finish()?;
        let (object, salt) = (entropy.array::<16>()?, entropy.array()?);
        let sealer = opened.sealer();
        let sealed = sealer.seal_salted(Kind::Session, &object, GENERATION, plaintext.expose(), salt)?;
        let mut e = Encoder::new();
        e.array(2).bytes(&object).bytes(&sealed);
        Ok(e.finish())
    }

    /// Opens an EKT under the active domain key, and checks that it counts now.
    pub(super) fn open(ekt: &[u8], opened: &Opened, now: u64) -> std::result::Result<(Self, SecretBytes), Refused> {
        let (object, sealed) = split(ekt)?;
        let sealer = opened.sealer();
        if key_id_of(sealed)? != *sealer.key_id() {
            return Err(Refused::new(Code::Expired, "the session is not under the active domain key"));
        }
        let plaintext = sealer.open(Kind::Session, &object, GENERATION, sealed)?;
        let (terms, sk) = Self::read(plaintext.expose())?;
        terms.check(opened.state(), now)?;
        Ok((terms, SecretBytes::copy_of(sk)?))
    }

    fn read(plaintext: &[u8]) -> Decoded<(Self, &[u8])> {
        let mut d = Decoder::new(plaintext);
        d.array_of(7)?;
        let (suite, sk) = (Suite::decode(&mut d)?, d.bytes()?);
        let terms = Self {
            suite,
            host: d.fixed()?,
            process: d.fixed()?,
            issuer: d.fixed()?,
            valid_from: d.uint()?,
            valid_until: d.uint()?,
        };
        d.end()?;
        if sk.len() == 32 { Ok((terms, sk)) } else { Err(Malformed("a session key has a wrong length")) }
    }

    /// That the host and the issuer are still in the state, which allows nothing stronger than the
    /// suite, and that it is the time.
    fn check(&self, state: &State, now: u64) -> std::result::Result<(), Refused> {
        check_parties(state, &self.host, &self.issuer)?;
        if Suite::highest(&state.suites) != Some(self.suite) {
            return Err(Refused::new(Code::Expired, "the session is of another suite than the domain's"));
        }
        let lifetime = self.valid_until.saturating_sub(self.valid_from);
        if self.valid_from > now.saturating_add(SKEW) || now >= self.valid_until || lifetime > state.limits.session_key
        {
            return Err(Refused::new(Code::Expired, "the session is over"));
        }
        Ok(())
    }
}

/// That a session's host and the HSM that issued it are in the state.
pub(super) fn check_parties(state: &State, host: &[u8; 16], issuer: &HsmId) -> std::result::Result<(), Refused> {
    if !state.hosts.iter().any(|entry| entry.id == *host) {
        return Err(Refused::new(Code::Refused, "the host is not in the domain"));
    }
    if !state.members.iter().any(|member| member.id == *issuer) {
        return Err(Refused::new(Code::Expired, "the HSM that issued the session is not a member any more"));
    }
    Ok(())
}

/// The id of the domain key that an EKT says it is sealed under, not verified.
pub(super) fn key_of(ekt: &[u8]) -> Result<KeyId> {
    key_id_of(split(ekt)?.1)
}

fn split(ekt: &[u8]) -> Decoded<(ObjectId, &[u8])> {
    let mut d = Decoder::new(ekt);
    d.array_of(2)?;
    let parts = (d.fixed()?, d.bytes()?);
    d.end()?;
    Ok(parts)
}
