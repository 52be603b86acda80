//! Sealing of session objects: under a key of this HSM instance's memory, with which they go.
//!
//! Nobody else ever opens such a record, so it is no message of `docs/protocols.md`: the mark, the
//! IV (a counter), the AES-256-GCM ciphertext of `[{attribute: value}, {attribute: secret}, marks]`
//! and the tag. The key is scheduled for each use, so that it rests in secret memory only.

use std::sync::atomic::{AtomicU64, Ordering};

use super::command::{ObjectId, Record, Sealed};
use super::crypto::SecretBytes;
use super::crypto::aws_lc::gcm::{GcmKey, TAG};
use super::key::Key;
use super::{random, record};
use crate::error::{ErrorKind, Result};

/// The first byte; that of a COSE message is the head of a tag.
const MARK: u8 = 0;
const IV: usize = 12;
const HEAD: usize = 1 + IV;

pub(super) struct Transient {
    key: SecretBytes,
    next: AtomicU64,
}

impl Transient {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { key: SecretBytes::fill(32, random::fill)?, next: AtomicU64::new(0) })
    }

    /// Whether a record was made by [`Self::seal`], of this instance or of another.
    pub(super) fn made(record: &Record) -> bool {
        record.sealed.as_bytes().first() == Some(&MARK)
    }

    pub(super) fn seal(&self, key: &Key, object: &ObjectId, generation: u64) -> Result<Sealed> {
        let body = record::body(key)?;
        let body = body.expose();
        let mut sealed = vec![0; HEAD + body.len() + TAG];
        let (head, rest) = sealed.split_at_mut(HEAD);
        head[0] = MARK;
        head[HEAD - 8..].copy_from_slice(&self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let (ciphertext, place) = rest.split_at_mut(body.len());
        let tag = self.gcm()?.seal(&head[1..], &aad(object, generation), body, ciphertext)?;
        place.copy_from_slice(&tag);
        // The tag and the IV are as good a name as a digest of them all, and are there already.
        let mut name = [0; 32];
        name[..TAG].copy_from_slice(&tag);
        name[32 - IV..].copy_from_slice(&head[1..]);
        Ok(Sealed::named(sealed, name))
    }

    pub(super) fn open(&self, record: &Record) -> Result<Key> {
        let sealed = record.sealed.as_bytes();
        let refused = || ErrorKind::DeviceError.with("a session object's record was refused");
        let (head, rest) = sealed.split_at_checked(HEAD).ok_or_else(refused)?;
        let (ciphertext, tag) = rest.split_last_chunk::<TAG>().ok_or_else(refused)?;
        let aad = aad(&record.object, record.generation);
        let body = SecretBytes::fill(ciphertext.len(), |body| {
            self.gcm()?.open(&head[1..], &aad, ciphertext, tag, body).map_err(|_| refused())
        })?;
        record::read_body(record, body.expose())
    }

    fn gcm(&self) -> Result<GcmKey> {
        GcmKey::new(self.key.expose(), TAG)
    }
}

fn aad(object: &ObjectId, generation: u64) -> [u8; 24] {
    let mut aad = [0; 24];
    aad[..16].copy_from_slice(object);
    aad[16..].copy_from_slice(&generation.to_be_bytes());
    aad
}
