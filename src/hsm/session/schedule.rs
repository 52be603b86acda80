//! What keys are derived from: the transcripts of a negotiation and of a connection.

use zeroize::Zeroizing;

use super::super::crypto::SecretBytes;
use super::super::domain::cbor::Encoder;
use super::super::domain::keys::{Agreement, Kid, PrivateKey, PublicKey};
use super::super::domain::{DomainId, Hash, expand};
use super::super::ephemeral::{KemBytes, Suite, encode_kem};
use super::{HsmId, sha384};
use crate::error::Result;

/// What both sides of a negotiation know.
pub(super) struct Negotiated<'a> {
    pub(super) suite: Suite,
    pub(super) host: &'a [u8; 16],
    pub(super) hsm: &'a HsmId,
    /// Of QHOS.
    pub(super) host_kid: &'a Kid,
    /// Of QHSK.
    pub(super) hsm_kid: &'a Kid,
    pub(super) domain: &'a DomainId,
    pub(super) region: &'a str,
    /// Of message 1, all its bytes.
    pub(super) request: &'a Hash,
    pub(super) q1: &'a PublicKey,
    pub(super) q2: &'a PublicKey,
    /// Of the HSM's state.
    pub(super) version: u64,
    pub(super) state: &'a Hash,
    /// The ciphertext of suite 2.
    pub(super) ct: Option<&'a KemBytes>,
}

impl Negotiated<'_> {
    /// NK: a key and an IV, which encrypt one session key.
    pub(super) fn key(&self, shared: &SecretBytes) -> Result<Zeroizing<[u8; 44]>> {
        expand(None, shared.expose(), &info("session", self.suite, &self.transcript()))
    }

    pub(super) fn transcript(&self) -> Hash {
        let mut e = Encoder::new();
        e.array(13).uint(self.suite.number()).bytes(self.host).bytes(self.hsm);
        e.bytes(self.host_kid).bytes(self.hsm_kid).bytes(self.domain).text(self.region);
        e.bytes(self.request).bytes(self.q1.spki()).bytes(self.q2.spki());
        e.uint(self.version).bytes(self.state);
        encode_kem(&mut e, self.ct);
        sha384(&e.finish())
    }
}

/// What both ends of a connection know.
pub(super) struct Connection<'a> {
    pub(super) suite: Suite,
    /// Of the EKT.
    pub(super) ekt: &'a Hash,
    pub(super) qc: &'a PublicKey,
    pub(super) qs: &'a PublicKey,
    pub(super) hsm: &'a HsmId,
    pub(super) host: &'a [u8; 16],
    pub(super) domain: &'a DomainId,
    /// Of the HSM's state.
    pub(super) version: u64,
    pub(super) state: &'a Hash,
}

impl Connection<'_> {
    /// The keys host→HSM and HSM→host. Only who has the session key `sk` and one of the two ephemeral
    /// keys gets them.
    pub(super) fn keys(&self, own: &PrivateKey, peer: &PublicKey, sk: &SecretBytes) -> Result<Zeroizing<[u8; 64]>> {
        expand(Some(sk.expose()), &*own.shared(peer)?, &info("connection", self.suite, &self.transcript()))
    }

    pub(super) fn transcript(&self) -> Hash {
        let mut e = Encoder::new();
        e.array(8).bytes(self.ekt).bytes(self.qc.spki()).bytes(self.qs.spki());
        e.bytes(self.hsm).bytes(self.host).bytes(self.domain).uint(self.version).bytes(self.state);
        sha384(&e.finish())
    }
}

fn info(label: &str, suite: Suite, transcript: &Hash) -> Vec<u8> {
    let mut e = Encoder::new();
    e.array(4).text("conclave/1").text(label).uint(suite.number()).bytes(transcript);
    e.finish()
}
