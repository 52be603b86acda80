//! Session objects of a fleet's hosts: any member opens them, for the process that made them alone.
//!
//! A mark, then a COSE_Encrypt0 under the domain key of `[host, process, body]` (`docs/protocols.md`).

use subtle::ConstantTimeEq;

use super::super::command::DomainKeyId;
use super::super::command::{ObjectId, Record, Sealed};
use super::super::core::Guest;
use super::super::domain::cbor::{Decoded, Decoder, Encoder};
use super::super::domain::{Kind, Opened, key_id_of};
use super::super::key::Key;
use super::super::record;
use crate::error::{Error, ErrorKind, Result};

/// The first byte; that of an embedded HSM's session objects is 0, that of a COSE message the head of a tag.
const MARK: u8 = 1;

/// Whether [`seal`] made the record.
pub(in crate::hsm) fn made(sealed: &[u8]) -> bool {
    sealed.first() == Some(&MARK)
}

pub(in crate::hsm) fn seal(
    key: &Key,
    (object, generation): (&ObjectId, u64),
    guest: &Guest,
    opened: &Opened,
) -> Result<Sealed> {
    let body = record::body(key)?;
    let mut content = Encoder::secret();
    content.array(3).bytes(&guest.host).bytes(&guest.process).bytes(body.expose());
    let content = content.finish()?;
    let message = opened.sealer().seal(Kind::SessionObject, object, generation, content.expose())?;
    let mut sealed = Vec::with_capacity(message.len() + 1);
    sealed.push(MARK);
    sealed.extend_from_slice(&message);
    Ok(Sealed::new(sealed))
}

/// The object, with the key that it is sealed under. `now` in seconds since 1970.
pub(in crate::hsm) fn open(record: &Record, guest: &Guest, opened: &Opened, now: u64) -> Result<(Key, DomainKeyId)> {
    let message = record.sealed.as_bytes().get(1..).ok_or_else(refused)?;
    let key_id = key_id_of(message)?;
    let sealer = opened.sealer_for(&key_id, &record.object, record.generation, now)?;
    let content = sealer.open(Kind::SessionObject, &record.object, record.generation, message)?;
    let (host, process, body) = read(content.expose()).map_err(|_| refused())?;
    if !bool::from(host.ct_eq(&guest.host) & process.ct_eq(&guest.process)) {
        return Err(refused());
    }
    Ok((record::read_body(record, body)?, key_id))
}

fn read(content: &[u8]) -> Decoded<([u8; 16], [u8; 32], &[u8])> {
    let mut d = Decoder::new(content);
    d.array_of(3)?;
    let parts = (d.fixed()?, d.fixed()?, d.bytes()?);
    d.end()?;
    Ok(parts)
}

fn refused() -> Error {
    ErrorKind::DeviceError.with("a session object's record was refused: it is none of this process")
}
