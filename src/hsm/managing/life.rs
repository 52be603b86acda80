//! The life of a key, on request and by the clock. The rules are those of `managed/lifecycle.rs`.

use cryptoki_sys as ck;
use serde_json::json;

use super::{Done, Job, Keys};
use crate::error::{ErrorKind, Result};
use crate::hsm::Hsm;
use crate::hsm::audit::Action as Audited;
use crate::hsm::command::{KeyRecords, ObjectChange, Reply, Ticket};
use crate::hsm::managed::creation::{self, version_object};
use crate::hsm::managed::dual_control;
use crate::hsm::managed::lifecycle::Due;
use crate::hsm::managed::metadata::Managed;
use crate::hsm::managed::replication;
use crate::hsm::managed::request::{
    self, OfKey, ScheduleKeyDeletion, SetRotation, TagKey, UntagKey, UpdateDescription,
};
use crate::hsm::permit::Recorded;

pub(super) fn describe(job: &Job<'_>) -> Result<Done> {
    let OfKey { .. } = job.parse()?;
    let keys = job.keys()?;
    let mut described = keys.managed()?.describe(job.now);
    if let Some(regions) = super::regions::described(job, keys)? {
        described["MultiRegionConfiguration"] = regions;
    }
    if let Some(label) = keys.attributes().bytes(ck::CKA_LABEL).filter(|label| !label.is_empty()) {
        described["Label"] = String::from_utf8_lossy(label).into();
    }
    if let Some(control) = dual_control::of(keys.attributes())? {
        described["DualControl"] = dual_control::describe(&control);
    }
    job.end_of_checks()?;
    Ok(Done::told(described.to_string()))
}

pub(super) fn enable(job: &Job<'_>) -> Result<Done> {
    let OfKey { .. } = job.parse()?;
    job.rewrite(&job.keys()?.managed()?.enable(job.now)?)
}

pub(super) fn disable(job: &Job<'_>) -> Result<Done> {
    let OfKey { .. } = job.parse()?;
    job.rewrite(&job.keys()?.managed()?.disable(job.now)?)
}

pub(super) fn schedule_deletion(job: &Job<'_>) -> Result<Done> {
    let request: ScheduleKeyDeletion = job.parse()?;
    job.rewrite(&job.keys()?.managed()?.schedule_deletion(request.pending_window_in_days, job.now)?)
}

pub(super) fn cancel_deletion(job: &Job<'_>) -> Result<Done> {
    let OfKey { .. } = job.parse()?;
    job.rewrite(&job.keys()?.managed()?.cancel_deletion(job.now)?)
}

pub(super) fn update_description(job: &Job<'_>) -> Result<Done> {
    let request: UpdateDescription = job.parse()?;
    job.rewrite(&job.keys()?.managed()?.set_description(&request.description, job.now)?)
}

pub(super) fn tag(job: &Job<'_>) -> Result<Done> {
    let request: TagKey = job.parse()?;
    job.rewrite(&job.keys()?.managed()?.tag(&request::tags(&request.tags), job.now)?)
}

pub(super) fn untag(job: &Job<'_>) -> Result<Done> {
    let request: UntagKey = job.parse()?;
    let names: Vec<&str> = request.tag_keys.iter().map(String::as_str).collect();
    job.rewrite(&job.keys()?.managed()?.untag(&names, job.now)?)
}

pub(super) fn set_rotation(job: &Job<'_>) -> Result<Done> {
    let request: SetRotation = job.parse()?;
    let managed = job.keys()?.managed()?;
    match (request.enabled, request.rotation_period_in_days) {
        (true, days) => job.rewrite(&managed.set_rotation(days, job.now)?),
        (false, None) => job.rewrite(&managed.stop_rotation(job.now)?),
        (false, Some(_)) => Err(ErrorKind::ArgumentsBad.with("rotation that is off has no period")),
    }
}

pub(super) fn rotation_status(job: &Job<'_>) -> Result<Done> {
    let OfKey { .. } = job.parse()?;
    let described = job.keys()?.managed()?.describe(job.now);
    job.end_of_checks()?;
    let mut status = json!({});
    for name in
        ["KeyId", "KeyRotationEnabled", "RotationPeriodInDays", "NextRotationDate", "RotationDate", "KeyVersion"]
    {
        if let Some(value) = described.get(name) {
            status[name] = value.clone();
        }
    }
    Ok(Done::told(status.to_string()))
}

pub(super) fn rotate(job: &Job<'_>) -> Result<Done> {
    let OfKey { .. } = job.parse()?;
    let keys = job.keys()?;
    keys.managed()?.rotate(job.now)?;
    job.end_of_checks()?;
    Ok(job.hsm.rotated(keys, job.now)?.into())
}

pub(super) fn delete_material(job: &Job<'_>) -> Result<Done> {
    let OfKey { .. } = job.parse()?;
    let keys = job.keys()?;
    let managed = keys.managed()?.delete_material(job.now)?;
    job.end_of_checks()?;
    Ok(job.hsm.emptied(keys, &managed)?.into())
}

impl Hsm {
    /// [`Command::KeepTime`](crate::hsm::Command::KeepTime): in the name of nobody, and no policy is
    /// asked. Tells of what was done by its name in the audit log.
    pub(in crate::hsm) fn keep_time(&self, ticket: &Ticket, records: KeyRecords<'_>) -> Result<Reply> {
        let keys = self.open_keys_for_time(self.access(ticket), records)?;
        let (managed, now) = (keys.managed()?, self.now());
        let Some(due) = managed.due(now) else { return Ok(Reply::Done) };
        let (action, change) = match due {
            Due::Delete => (Audited::DeleteKey, self.deleted(&keys, &managed)),
            Due::ExpireMaterial => {
                let emptied = || self.emptied(&keys, &managed.expire_material(now)?);
                (Audited::ExpireKeyMaterial, emptied())
            }
            Due::Rotate => (Audited::RotateKey, self.rotated(&keys, now)),
        };
        let recorded = self.client.recorder.record("", &Recorded::of(action, keys.attributes()), &change);
        let change = change?;
        recorded?;
        Ok(Reply::Managed { change, told: action.name().to_owned() })
    }

    /// A new version of the material. The version before it gets a record of its own, or the new one does
    /// while it is pending.
    fn rotated(&self, keys: &Keys, now: u64) -> Result<ObjectChange> {
        let object = keys.key.record.object;
        let (new, (number, version)) = creation::rotate(&keys.key.key, &object, now)?;
        let insert = vec![self.seal_any(version, version_object(&object, number), 1)?];
        Ok(ObjectChange { insert, replace: vec![self.replacement(&keys.key, new)?], ..ObjectChange::default() })
    }

    /// All of a key is to go. A replica leaves what tells its primary.
    fn deleted(&self, keys: &Keys, managed: &Managed) -> Result<ObjectChange> {
        let objects = std::iter::once(&keys.key).chain(&keys.public);
        let object = &keys.key.record.object;
        let left = replication::deleted(managed, object);
        let left = left.map(|left| self.seal_any(left, replication::deleted_object(object), 1)).transpose()?;
        let versions = (1..=managed.newest()).filter(|version| *version != managed.version());
        Ok(ObjectChange {
            insert: left.into_iter().collect(),
            delete: objects.map(|open| (open.record.object, open.record.generation)).collect(),
            purge: versions.map(|version| version_object(object, version)).collect(),
            ..ObjectChange::default()
        })
    }

    /// The key without its material; the public half goes with that.
    fn emptied(&self, keys: &Keys, managed: &Managed) -> Result<ObjectChange> {
        let key = creation::without_material(&keys.key.key, managed);
        let public = keys.public.iter().map(|public| (public.record.object, public.record.generation));
        Ok(ObjectChange {
            replace: vec![self.replacement(&keys.key, key)?],
            delete: public.collect(),
            ..ObjectChange::default()
        })
    }
}
