//! What another Region takes of a key, and what a key becomes here of what another Region shipped.
//! A Region decides the material and what all share; what may be done with a key follows from that
//! by the same templates as of a key made here.

mod accept;

use cryptoki_sys as ck;

pub(in crate::hsm) use accept::{Accepted, Terms, make, update};

use super::attributes::{Origin, Usage};
use super::creation::is_derived;
use super::lifecycle::ROTATION_DAYS;
use super::metadata::{KeyId, Managed};
use super::spec::Spec;
use super::{CKA_KMS_CREATED, material};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::ObjectId;
use crate::hsm::domain::Hash;
use crate::hsm::key::Key;
use crate::hsm::replication::record::{KeyRecord, KeyVersion};
use crate::hsm::replication::sha384;

/// The opened objects of a key that is shipped, as they are here.
pub(in crate::hsm) struct Source<'a> {
    pub(in crate::hsm) object: ObjectId,
    pub(in crate::hsm) key: &'a Key,
    pub(in crate::hsm) public: Option<(ObjectId, &'a Key)>,
    /// Those other versions than the active one that are asked for, ascending.
    pub(in crate::hsm) versions: &'a [(u64, &'a Key)],
}

impl Source<'_> {
    /// The key for a Region that has its versions up to `held`, 0 for none; the newest at least.
    /// CKR_DEVICE_ERROR if a version is not there.
    pub(in crate::hsm) fn ship(&self, managed: &Managed, held: u64) -> Result<KeyRecord> {
        let replication = managed.replication()?;
        let imported = managed.origin == Origin::External;
        let there = managed.imported.valid_to;
        let ships = !imported || (managed.replicate_imported && there.is_some());
        let newest = replication.newest;
        let first = held.saturating_add(1).min(newest);
        let versions = match ships {
            true => (first..=newest).map(|version| self.version(managed, version)).collect::<Result<_>>()?,
            false => Vec::new(),
        };
        let material_digest = match (imported, there) {
            (true, Some(_)) => Some(self.digest(managed, managed.version)?),
            _ => None,
        };
        Ok(KeyRecord {
            key_id: managed.id.as_str().to_owned(),
            object: self.object,
            public_object: self.public.map(|(object, _)| object).filter(|_| ships),
            spec: managed.spec.name.to_owned(),
            usage: managed.usage.code(),
            origin: managed.origin.code(),
            standard_mechanisms: managed.standard_mechanisms,
            replicate_imported: managed.replicate_imported,
            label: self.key.attributes.bytes(ck::CKA_LABEL).unwrap_or_default().to_vec(),
            created: managed.created,
            term: replication.term,
            version: managed.version,
            newest,
            rotated: managed.rotated,
            rotation: managed.rotation.map(|rotation| (rotation.days, rotation.next)),
            valid_to: there.filter(|end| ships && *end != 0),
            material_digest,
            versions,
        })
    }

    /// SHA-384 of a version's material, as it is here.
    pub(in crate::hsm) fn digest(&self, managed: &Managed, version: u64) -> Result<Hash> {
        Ok(sha384(material::encode(managed.spec, self.of(managed, version)?)?.expose()))
    }

    fn version(&self, managed: &Managed, version: u64) -> Result<KeyVersion> {
        let key = self.of(managed, version)?;
        let created = match version == managed.version {
            true => managed.rotated.unwrap_or(managed.created),
            false => key.attributes.ulong(CKA_KMS_CREATED).unwrap_or(managed.created),
        };
        Ok(KeyVersion { version, created, material: material::encode(managed.spec, key)? })
    }

    /// Whether a version besides the active one is there.
    fn has(&self, version: u64) -> bool {
        self.versions.binary_search_by_key(&version, |(number, _)| *number).is_ok()
    }

    /// What has the material of a version.
    fn of(&self, managed: &Managed, version: u64) -> Result<&Key> {
        if version == managed.version {
            return Ok(self.key);
        }
        let at = self.versions.binary_search_by_key(&version, |(number, _)| *number);
        let found = at.ok().and_then(|at| self.versions.get(at)).map(|(_, key)| *key);
        found.ok_or_else(|| {
            ErrorKind::DeviceError.with(format!("version {version} of the key {} is missing", managed.id.as_str()))
        })
    }
}

/// A record that came, all of which is consistent in itself.
pub(in crate::hsm) struct Shipped {
    pub(in crate::hsm) record: KeyRecord,
    id: KeyId,
    spec: &'static Spec,
    usage: Usage,
    origin: Origin,
}

impl Shipped {
    /// KMS_R_REPLICATION_REFUSED for what no HSM ships.
    pub(in crate::hsm) fn check(record: KeyRecord) -> Result<Self> {
        let wrong = |why: &str| refused(&record.key_id, why);
        let id =
            KeyId::parse(&record.key_id).filter(KeyId::is_multi_region).ok_or_else(|| wrong("it is of one Region"))?;
        let spec = Spec::named(&record.spec).filter(|spec| spec.name == record.spec);
        let spec = spec.ok_or_else(|| wrong("its spec is not known here"))?;
        let usage = Usage::from_code(record.usage).ok_or_else(|| wrong("its usage is not known here"))?;
        let origin = Origin::from_code(record.origin).ok_or_else(|| wrong("its origin is not known here"))?;
        let shipped = Self { record, id, spec, usage, origin };
        match shipped.contradiction() {
            Some(why) => Err(refused(&shipped.record.key_id, why)),
            None => Ok(shipped),
        }
    }

    fn contradiction(&self) -> Option<&'static str> {
        let Self { record, spec, .. } = self;
        let purpose = spec.purpose(self.usage);
        let imported = self.origin == Origin::External;
        let versioned = purpose.is_some_and(|purpose| !purpose.versioned.is_empty());
        let rotates = versioned && !imported && !record.standard_mechanisms;
        let shipped = !record.versions.is_empty();
        let first = record.versions.first().map_or(1, |version| version.version);
        let numbers = record.versions.iter().map(|version| version.version);
        let committed = match (record.versions.as_slice(), &record.material_digest) {
            ([version], Some(committed)) => sha384(version.material.expose()) == *committed,
            _ => true,
        };
        let holds = [
            (purpose.is_some(), "keys of its spec are not for its usage"),
            (versioned || !record.standard_mechanisms, "it has no mechanisms to choose from"),
            (
                imported || !record.replicate_imported,
                "it says of material that was made in an HSM that it was imported",
            ),
            (
                imported || record.material_digest.is_none(),
                "it says of material that was made in an HSM that it was imported",
            ),
            (!shipped || !imported || record.material_digest.is_some(), "imported material without its digest"),
            (committed, "the material is not what its digest says"),
            (shipped || imported, "it has no material"),
            (record.replicate_imported || !imported || !shipped, "imported material that stays where it is"),
            (record.valid_to.is_none_or(|end| imported && shipped && end > 0), "the end of no imported material"),
            (
                record.public_object.is_some() == (shipped && !spec.is_symmetric()),
                "the halves are not those of its spec",
            ),
            (record.public_object != Some(record.object), "two objects have one name"),
            (
                ![Some(record.object), record.public_object].iter().flatten().any(is_derived),
                "its name is one that is computed of another's",
            ),
            (record.term > 0 && record.version > 0, "a term or version of 0"),
            (
                record.newest.checked_sub(record.version).is_some_and(|pending| pending <= 1),
                "more than one pending version",
            ),
            (rotates || record.newest == 1, "a second version of a key that does not rotate"),
            (rotates || record.rotation.is_none(), "a period for a key that does not rotate"),
            (record.rotation.is_none_or(|(days, _)| ROTATION_DAYS.contains(&days)), "a period that is not allowed"),
            (record.rotated.is_some() == (record.version > 1), "the date of its active version"),
            (!shipped || (first > 0 && (first..=record.newest).eq(numbers)), "versions are missing"),
        ];
        holds.iter().find(|(holds, _)| !holds).map(|(_, why)| *why)
    }
}

/// A key that is not taken.
fn refused(key_id: &str, why: &str) -> crate::error::Error {
    ErrorKind::KmsReplicationRefused.with(format!("the key {key_id} is refused: {why}"))
}
