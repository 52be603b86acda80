//! The sealed form of an object, one COSE message (`docs/protocols.md`).
//!
//! A private object is a COSE_Encrypt0 of `[{attribute: value}, {attribute: secret}, marks]`. An
//! object with CKA_PRIVATE false is a COSE_Mac0 of `[{attribute: value}, marks, sealed or null]`,
//! readable by anyone, where `sealed` is a COSE_Encrypt0 of `{attribute: secret}`.

use cryptoki_sys as ck;

use super::command::{ObjectId, Record};
use super::crypto::SecretBytes;
use super::domain::cbor::{Decoded, Decoder, Encoder, Malformed, Sink, Type};
use super::domain::{self, Kind, Sealer};
use super::key::{Key, Secrets};
use super::separation::Marks;
use super::value::{AttributeType, Attributes, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::text::hex;

/// The kind under which objects of a class are sealed.
fn kind_of(class: ck::CK_OBJECT_CLASS) -> Kind {
    match class {
        ck::CKO_DATA | ck::CKO_CERTIFICATE => Kind::DataObject,
        _ => Kind::Key,
    }
}

/// Seals an object; [`open`] is the inverse.
pub(super) fn seal(key: &Key, object: &ObjectId, generation: u64, sealer: &Sealer) -> Result<Vec<u8>> {
    let kind = kind_of(key.class());
    if key.attributes.flag(ck::CKA_PRIVATE) {
        return sealer.seal(kind, object, generation, body(key)?.expose());
    }
    let sealed = if key.secrets.is_empty() {
        None
    } else {
        let mut body = Encoder::secret();
        write_secrets(&mut body, &key.secrets);
        Some(sealer.seal(kind, object, generation, body.finish()?.expose())?)
    };
    let mut clear = Encoder::new();
    clear.array(3);
    write_attributes(&mut clear, &key.attributes);
    clear.uint(key.marks).optional(sealed, |out, sealed| {
        out.bytes(&sealed);
    });
    sealer.mac(kind, object, generation, &clear.finish())
}

/// All of an object, to be sealed.
pub(super) fn body(key: &Key) -> Result<SecretBytes> {
    let mut body = Encoder::secret();
    body.array(3);
    write_attributes(&mut body, &key.attributes);
    write_secrets(&mut body, &key.secrets);
    body.uint(key.marks);
    body.finish()
}

/// The inverse of [`body`].
pub(super) fn read_body(record: &Record, body: &[u8]) -> Result<Key> {
    let (attributes, found, marks) = read_private(body).map_err(|malformed| damaged(record, malformed.0))?;
    Ok(Key::from_parts((attributes, copy_secrets(&found)?, marks)))
}

/// Opens an object with the key that sealed it: everything is authenticated.
pub(super) fn open(record: &Record, sealer: &Sealer) -> Result<Key> {
    let kind = kind_of(record.columns.class);
    let (object, generation, bytes) = (&record.object, record.generation, record.sealed.as_bytes());
    let wrong = |malformed: Malformed| damaged(record, malformed.0);
    if record.columns.private {
        return read_body(record, sealer.open(kind, object, generation, bytes)?.expose());
    }
    let clear = sealer.verify_mac(kind, object, generation, bytes)?;
    let public = read_public(clear).map_err(wrong)?;
    let mut secrets = Secrets::new();
    if let Some(sealed) = public.sealed {
        let body = sealer.open(kind, object, generation, sealed)?;
        let mut d = Decoder::new(body.expose());
        let found = read_secrets(&mut d).and_then(|found| d.end().map(|()| found)).map_err(wrong)?;
        secrets = copy_secrets(&found)?;
    }
    Ok(Key::from_parts((public.attributes, secrets, public.marks)))
}

/// Reads the clear attributes of a public object without verifying them; what only a verified
/// object may claim (TRUSTED, WRAP) is taken away. CKR_USER_NOT_LOGGED_IN for a private object.
/// Only token objects are ever read so.
pub(super) fn read_unverified(record: &Record) -> Result<Key> {
    if record.columns.private {
        return Err(ErrorKind::UserNotLoggedIn.into());
    }
    let clear = domain::unverified(kind_of(record.columns.class), record.sealed.as_bytes())?;
    let mut public = read_public(clear).map_err(|malformed| damaged(record, malformed.0))?;
    if !public.attributes.flag(ck::CKA_TOKEN) {
        return Err(damaged(record, "a session object of another instance"));
    }
    for claimed in [ck::CKA_TRUSTED, ck::CKA_WRAP] {
        if public.attributes.flag(claimed) {
            public.attributes.set(claimed, Value::Bool(false));
        }
    }
    Ok(Key::from_parts((public.attributes, Secrets::new(), 0)))
}

struct Public<'a> {
    attributes: Attributes,
    marks: Marks,
    sealed: Option<&'a [u8]>,
}

type FoundSecrets<'a> = Vec<(AttributeType, &'a [u8])>;

fn read_private(body: &[u8]) -> Decoded<(Attributes, FoundSecrets<'_>, Marks)> {
    let mut d = Decoder::new(body);
    d.array_of(3)?;
    let parts = (read_attributes(&mut d, true)?, read_secrets(&mut d)?, d.uint()?);
    d.end()?;
    Ok(parts)
}

fn read_public(clear: &[u8]) -> Decoded<Public<'_>> {
    let mut d = Decoder::new(clear);
    d.array_of(3)?;
    let public =
        Public { attributes: read_attributes(&mut d, true)?, marks: d.uint()?, sealed: d.optional(Decoder::bytes)? };
    d.end()?;
    Ok(public)
}

fn read_secrets<'a>(d: &mut Decoder<'a>) -> Decoded<FoundSecrets<'a>> {
    let mut found = Vec::new();
    let mut map = d.map()?;
    while let Some((kind, value)) = map.next_with(Decoder::uint)? {
        found.push((kind, value.bytes()?));
    }
    map.end()?;
    Ok(found)
}

fn copy_secrets(found: &FoundSecrets<'_>) -> Result<Secrets> {
    let mut secrets = Secrets::new();
    for (kind, secret) in found {
        secrets.set(*kind, SecretBytes::copy_of(secret)?);
    }
    Ok(secrets)
}

fn write_secrets<S: Sink>(out: &mut Encoder<S>, secrets: &Secrets) {
    let mut sorted: Vec<(AttributeType, &SecretBytes)> = secrets.iter().collect();
    sorted.sort_by_key(|(kind, _)| *kind);
    out.map(sorted.len());
    for (kind, secret) in sorted {
        out.uint(kind).bytes(secret.expose());
    }
}

pub(super) fn write_attributes<'e, S: Sink>(out: &'e mut Encoder<S>, attributes: &Attributes) -> &'e mut Encoder<S> {
    out.map(attributes.len());
    for (kind, value) in attributes.iter() {
        out.uint(kind);
        match value {
            Value::Bool(b) => out.bool(*b),
            Value::Ulong(n) => out.uint(*n),
            Value::Bytes(b) => out.bytes(b),
            Value::Mechanisms(list) => out.list(list, |out, mechanism| {
                out.uint(*mechanism);
            }),
            Value::Template(nested) => write_attributes(out, nested),
        };
    }
    out
}

pub(super) fn read_attributes(d: &mut Decoder<'_>, nesting: bool) -> Decoded<Attributes> {
    let mut found = Vec::with_capacity(24);
    let mut map = d.map()?;
    while let Some((kind, value)) = map.next_with(Decoder::uint)? {
        let value = match value.peek()? {
            Type::Bool => Value::Bool(value.bool()?),
            Type::Uint => Value::Ulong(value.uint()?),
            Type::Bytes => Value::Bytes(value.bytes()?.to_vec()),
            Type::Array => Value::Mechanisms(value.list(Decoder::uint)?),
            Type::Map if nesting => Value::Template(read_attributes(value, false)?),
            _ => return Err(Malformed("an attribute of an unknown form")),
        };
        found.push((kind, value));
    }
    map.end()?;
    // Map keys were in ascending order of their encodings, which for integers is their own.
    Ok(Attributes::from_sorted(found))
}

fn damaged(record: &Record, why: &str) -> Error {
    ErrorKind::DeviceError.with(format!("the record of object {} is damaged: {why}", hex(&record.object)))
}
