//! A key as it travels: what all Regions share of it, and the versions that the receiver lacks.

use super::super::command::ObjectId;
use super::super::crypto::SecretBytes;
use super::super::domain::Hash;
use super::super::domain::cbor::{Decoded, Decoder, Encoder, Malformed};
use super::message::{decode_rotation, encode_rotation, key_id};
use super::{refused, sha384};
use crate::error::Result;

/// The plaintext of a sealed key of a shipment. Times are seconds since 1970.
pub(in crate::hsm) struct KeyRecord {
    pub(in crate::hsm) key_id: String,
    /// The key, and the public half of a pair.
    pub(in crate::hsm) object: ObjectId,
    pub(in crate::hsm) public_object: Option<ObjectId>,
    pub(in crate::hsm) spec: String,
    /// The numbers that CKA_KMS_USAGE and CKA_KMS_ORIGIN have.
    pub(in crate::hsm) usage: u64,
    pub(in crate::hsm) origin: u64,
    pub(in crate::hsm) standard_mechanisms: bool,
    pub(in crate::hsm) replicate_imported: bool,
    pub(in crate::hsm) label: Vec<u8>,
    pub(in crate::hsm) created: u64,
    pub(in crate::hsm) term: u64,
    /// The active version, and the newest.
    pub(in crate::hsm) version: u64,
    pub(in crate::hsm) newest: u64,
    pub(in crate::hsm) rotated: Option<u64>,
    /// Period in days, and when the next is due.
    pub(in crate::hsm) rotation: Option<(u64, u64)>,
    pub(in crate::hsm) valid_to: Option<u64>,
    /// SHA-384 of imported material.
    pub(in crate::hsm) material_digest: Option<Hash>,
    /// Ascending.
    pub(in crate::hsm) versions: Vec<KeyVersion>,
}

/// The material of one version.
pub(in crate::hsm) struct KeyVersion {
    pub(in crate::hsm) version: u64,
    pub(in crate::hsm) created: u64,
    /// The value of a secret key, PKCS#8 of a private one.
    pub(in crate::hsm) material: SecretBytes,
}

/// Version, creation time, material.
type Parsed<'a> = (u64, u64, &'a [u8]);

impl KeyRecord {
    pub(in crate::hsm) fn encode(&self) -> Result<SecretBytes> {
        let mut e = Encoder::secret();
        e.array(18).text(&self.key_id).bytes(&self.object);
        e.optional(self.public_object, |e, object| {
            e.bytes(&object);
        });
        e.text(&self.spec).uint(self.usage).uint(self.origin);
        e.bool(self.standard_mechanisms).bool(self.replicate_imported).bytes(&self.label);
        e.uint(self.created).uint(self.term).uint(self.version).uint(self.newest);
        e.optional(self.rotated, |e, at| {
            e.uint(at);
        });
        encode_rotation(&mut e, self.rotation);
        e.optional(self.valid_to, |e, at| {
            e.uint(at);
        });
        e.optional(self.material_digest, |e, digest| {
            e.bytes(&digest);
        });
        e.list(&self.versions, |e, version| {
            e.array(3).uint(version.version).uint(version.created).bytes(version.material.expose());
        });
        e.finish()
    }

    /// Reads what [`Self::encode`] wrote. The versions ascend without gaps to the newest, and the
    /// active one is not above it; whether they are those that the receiver lacks, its caller knows.
    pub(in crate::hsm) fn decode(input: &[u8]) -> Result<Self> {
        let (mut record, versions) = Self::read(input).map_err(|malformed| refused(malformed.0))?;
        for (version, created, material) in versions {
            record.versions.push(KeyVersion { version, created, material: SecretBytes::copy_of(material)? });
        }
        Ok(record)
    }

    fn read(input: &[u8]) -> Decoded<(Self, Vec<Parsed<'_>>)> {
        let mut d = Decoder::new(input);
        d.array_of(18)?;
        let record = Self {
            key_id: key_id(&mut d)?,
            object: d.fixed()?,
            public_object: d.optional(Decoder::fixed)?,
            spec: text(&mut d)?.to_owned(),
            usage: d.uint()?,
            origin: d.uint()?,
            standard_mechanisms: d.bool()?,
            replicate_imported: d.bool()?,
            label: d.bytes()?.to_vec(),
            created: d.uint()?,
            term: d.uint()?,
            version: d.uint()?,
            newest: d.uint()?,
            rotated: d.optional(Decoder::uint)?,
            rotation: decode_rotation(&mut d)?,
            valid_to: d.optional(Decoder::uint)?,
            material_digest: d.optional(Decoder::fixed)?,
            versions: Vec::new(),
        };
        let versions = d.list(|d| {
            d.array_of(3)?;
            Ok((d.uint()?, d.uint()?, d.bytes()?))
        })?;
        d.end()?;
        let gaps = versions.windows(2).any(|pair| pair[0].0.checked_add(1) != Some(pair[1].0));
        if gaps || versions.last().is_some_and(|(last, ..)| *last != record.newest) {
            return Err(Malformed("the versions of a key have gaps"));
        }
        if record.term == 0
            || record.version == 0
            || record.version > record.newest
            || versions.first().is_some_and(|(first, ..)| *first == 0)
        {
            return Err(Malformed("the versions of a key are not such"));
        }
        Ok((record, versions))
    }

    /// The versions with the hash of each one's material, as a receipt commits to them.
    pub(in crate::hsm) fn digests(&self) -> Vec<(u64, Hash)> {
        self.versions.iter().map(|version| (version.version, sha384(version.material.expose()))).collect()
    }
}

fn text<'a>(d: &mut Decoder<'a>) -> Decoded<&'a str> {
    let text = d.text()?;
    if text.len() > 255 { Err(Malformed("a text is too long")) } else { Ok(text) }
}
