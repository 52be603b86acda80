//! A replica made of what was shipped, or brought up to date with it. What is the Region's own stays
//! as it is: policy, grants, tags, description, label, state, deletion.

use cryptoki_sys as ck;

use super::super::attributes::{KeyState, Origin};
use super::super::creation::{self, Creation, Made, version_key};
use super::super::material;
use super::super::metadata::{Imported, Managed, Rotation};
use super::super::replication::{Replication, Role, within_reach};
use super::super::tags::Tags;
use super::{Shipped, Source, refused};
use crate::error::Result;
use crate::hsm::command::ObjectId;
use crate::hsm::crypto::SecretBytes;
use crate::hsm::key::Key;
use crate::hsm::replication::record::KeyVersion;
use crate::hsm::replication::{Incarnation, Party, sha384};
use crate::hsm::value::Value;
use crate::text::hex;

/// Whose replica a new one is.
#[derive(Debug, Clone, Copy)]
pub(in crate::hsm) struct Terms<'a> {
    /// The principal that accepts it.
    pub(in crate::hsm) owner: &'a str,
    pub(in crate::hsm) primary: &'a Party,
    pub(in crate::hsm) incarnation: Incarnation,
}

/// What is to be stored. Versions are stored under [`creation::version_object`].
#[derive(Default)]
pub(in crate::hsm) struct Accepted {
    /// The key, where it is new or changed.
    pub(in crate::hsm) key: Option<Key>,
    pub(in crate::hsm) public: Option<(ObjectId, Key)>,
    /// Versions that were not there, and those that were and are others now.
    pub(in crate::hsm) new: Vec<(u64, Key)>,
    pub(in crate::hsm) replaced: Vec<(u64, Key)>,
    /// Pending versions that are none any more.
    pub(in crate::hsm) gone: Vec<u64>,
}

/// A new replica, which waits in Creating until the primary's Region counts it. `commitment` is to the
/// material that it takes, if that is imported.
pub(in crate::hsm) fn make(shipped: &Shipped, terms: &Terms<'_>, commitment: Option<[u8; 32]>) -> Result<Accepted> {
    let record = &shipped.record;
    if record.versions.first().is_some_and(|version| version.version != 1) {
        return Err(refused(&record.key_id, "its first versions are missing"));
    }
    if !within_reach(0, record.term) {
        return Err(refused(&record.key_id, "no key has had so many primaries"));
    }
    let role = Role::Replica { primary: terms.primary.clone(), incarnation: terms.incarnation, activated: false };
    let imported = shipped.origin == Origin::External;
    let managed = Managed {
        id: shipped.id.clone(),
        usage: shipped.usage,
        spec: shipped.spec,
        origin: shipped.origin,
        owner: terms.owner.to_owned(),
        created: record.created,
        state: KeyState::Creating,
        description: String::new(),
        tags: Tags::default(),
        version: record.version,
        rotated: record.rotated,
        rotation: record.rotation.map(|(days, next)| Rotation { days, next }),
        deletion: None,
        imported: Imported {
            valid_to: (imported && !record.versions.is_empty()).then(|| record.valid_to.unwrap_or(0)),
            commitment: commitment.map(Vec::from),
        },
        standard_mechanisms: record.standard_mechanisms,
        replicate_imported: record.replicate_imported,
        replication: Some(Replication { term: record.term, newest: record.newest, role, notices: Vec::new() }),
    };
    let creation = Creation::of(managed, &record.label)?;
    let waiting = named(creation.without_material(), &record.object);
    let mut accepted = Accepted::default();
    if record.versions.is_empty() {
        accepted.key = Some(waiting);
        return Ok(accepted);
    }
    for version in &record.versions {
        let material = read(shipped, version)?;
        if version.version == record.version {
            accepted.fill(shipped, &waiting, &creation.managed, material)?;
        } else {
            let key = version_key(&creation.managed, &record.object, version.version, version.created, &material)?;
            accepted.new.push((version.version, key));
        }
    }
    Ok(accepted)
}

/// A replica that is here with what is new of it. `commitment` is to the material that was shipped, if
/// that is imported.
///
/// Its primary's Region was verified. KMS_R_REPLICATION_REFUSED if the term or a version is lower than
/// what is here, or a version's material another; only a pending one goes for that of a higher term.
pub(in crate::hsm) fn update(shipped: &Shipped, held: &Source<'_>, commitment: Option<[u8; 32]>) -> Result<Accepted> {
    let record = &shipped.record;
    let wrong = |why: &str| Err(refused(&record.key_id, why));
    let mut managed = Managed::read(&held.key.attributes)?;
    let replication = managed.replication()?.clone();
    let newer_term = record.term > replication.term;
    let same = (managed.spec, managed.usage, managed.origin, managed.created)
        == (shipped.spec, shipped.usage, shipped.origin, record.created)
        && managed.standard_mechanisms == record.standard_mechanisms
        && managed.replicate_imported == record.replicate_imported
        && held.object == record.object;
    if !same {
        return wrong("it is not the key that is here");
    }
    if record.term < replication.term {
        return wrong("its term is lower than the one here");
    }
    if !within_reach(replication.term, record.term) {
        return wrong("no key has had so many primaries");
    }
    if record.version < managed.version || (record.newest < replication.newest && !newer_term) {
        return wrong("its version is lower than the one here");
    }
    if record.versions.first().is_some_and(|version| version.version > replication.newest.saturating_add(1)) {
        return wrong("versions are missing");
    }
    managed.rotation = record.rotation.map(|(days, next)| Rotation { days, next });
    managed.replication = Some(Replication { term: record.term, newest: record.newest, ..replication.clone() });

    let mut accepted = Accepted::default();
    for version in &record.versions {
        let number = version.version;
        let here = if number == managed.version {
            (!held.key.secrets.is_empty()).then(|| held.digest(&managed, number)).transpose()?
        } else {
            held.has(number).then(|| held.digest(&managed, number)).transpose()?
        };
        match here {
            Some(digest) if digest == sha384(version.material.expose()) => {}
            Some(_) if newer_term && number > managed.version => {
                let key = version_key(&managed, &held.object, number, version.created, &read(shipped, version)?)?;
                accepted.replaced.push((number, key));
            }
            Some(_) => return wrong("it has another material for a version that is here"),
            // Imported material that was deleted here, or never came.
            None if number == managed.version => {
                if managed.imported.commitment.as_deref() != commitment.as_ref().map(|c| &c[..]) {
                    return wrong("it has other imported material than the key takes");
                }
                managed.imported.valid_to = Some(record.valid_to.unwrap_or(0));
                accepted.fill(shipped, held.key, &managed, read(shipped, version)?)?;
            }
            None => {
                let key = version_key(&managed, &held.object, number, version.created, &read(shipped, version)?)?;
                accepted.new.push((number, key));
            }
        }
    }
    accepted.gone = (record.newest.saturating_add(1)..=replication.newest).collect();
    if accepted.key.is_none() {
        accepted.key = rewritten(held.key, &managed)?;
        accepted.public = match held.public {
            Some((object, public)) => rewritten(public, &managed)?.map(|public| (object, public)),
            None => None,
        };
    }
    Ok(accepted)
}

/// A half as `managed` says it is; None if that is how it is.
fn rewritten(half: &Key, managed: &Managed) -> Result<Option<Key>> {
    let mut attributes = half.attributes.clone();
    managed.write(&mut attributes);
    if attributes == half.attributes {
        return Ok(None);
    }
    Ok(Some(Key::from_parts((attributes, half.secrets.duplicate()?, half.marks))))
}

impl Accepted {
    /// The key with the active version's material; of a pair, both halves.
    fn fill(&mut self, shipped: &Shipped, waiting: &Key, managed: &Managed, material: Key) -> Result<()> {
        let generator = (managed.origin == Origin::Hsm).then_some(managed.spec.generator);
        let (key, public) = match creation::filled(waiting, managed, material, generator)? {
            Made::Secret(key) => (key, None),
            Made::Pair { public, private } => (private, Some(public)),
        };
        self.key = Some(key);
        let object = shipped.record.public_object;
        self.public = object.zip(public).map(|(object, public)| (object, named(public, &object)));
        Ok(())
    }
}

/// The material of a version, if it is material of the key's spec.
fn read(shipped: &Shipped, version: &KeyVersion) -> Result<Key> {
    let material = SecretBytes::copy_of(version.material.expose())?;
    material::read(shipped.spec, material)
        .ok_or_else(|| refused(&shipped.record.key_id, "what was shipped is no material of its spec"))
}

fn named(mut key: Key, object: &ObjectId) -> Key {
    key.attributes.set(ck::CKA_UNIQUE_ID, Value::Bytes(hex(object).into_bytes()));
    key
}
