//! Aliases: made, pointed at another key, deleted.

use super::{Done, Job};
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::cache::Open;
use crate::hsm::command::{IndexColumn, ObjectChange};
use crate::hsm::managed::metadata::Managed;
use crate::hsm::managed::request::OfAlias;
use crate::hsm::managed::{Action, alias};

pub(super) fn create(job: &Job<'_>) -> Result<Done> {
    let name = name(job)?;
    let id = job.keys()?.managed()?.id().clone();
    if job.alias.is_some() {
        return Err(ErrorKind::KmsAlreadyExists.with("there is an alias of this name"));
    }
    job.end_of_checks()?;
    let object = job.hsm.opened()?.index_key().tag(IndexColumn::Alias, name.as_bytes())?;
    let insert = vec![job.hsm.seal_any(alias::make(&name, &id, &object), object, 1)?];
    Ok(ObjectChange { insert, ..ObjectChange::default() }.into())
}

pub(super) fn update(job: &Job<'_>) -> Result<Done> {
    let name = name(job)?;
    let from = job.keys()?.id();
    let alias = existing(job, &name, Some(from))?;
    let target = job.target.as_ref().ok_or_else(|| ErrorKind::KmsNotFound.with("no key is named to point at"))?;
    job.hsm.permit(job.access, target.attributes(), Action::UpdateAliasTo, None)?;
    let (before, after) = (job.keys()?.managed()?, target.managed()?);
    let kind = |key: &Managed| (key.usage(), key.spec().is_symmetric());
    if kind(&before) != kind(&after) {
        return Err(ErrorKind::KmsInvalidKeyUsage.with("an alias keeps to keys of one usage, symmetric or not"));
    }
    let id = after.id().clone();
    job.end_of_checks()?;
    let replace = vec![job.hsm.replacement(alias, alias::make(&name, &id, &alias.record.object))?];
    Ok(ObjectChange { replace, ..ObjectChange::default() }.into())
}

/// Also of an alias whose key is gone.
pub(super) fn delete(job: &Job<'_>) -> Result<Done> {
    let name = name(job)?;
    let alias = existing(job, &name, job.keys.as_ref().map(super::Keys::id))?;
    job.end_of_checks()?;
    let delete = vec![(alias.record.object, alias.record.generation)];
    Ok(ObjectChange { delete, ..ObjectChange::default() }.into())
}

fn name(job: &Job<'_>) -> Result<String> {
    let OfAlias { alias_name, .. } = job.parse()?;
    alias::check_name(&alias_name)?;
    // It is set once.
    let _ = job.about.set(alias_name.clone());
    Ok(alias_name)
}

/// The alias of that name, which names this key.
fn existing<'j>(job: &'j Job<'_>, name: &str, key: Option<&str>) -> Result<&'j Open> {
    let missing = || -> Error { ErrorKind::KmsNotFound.with("there is no alias of this name") };
    let open = job.alias.as_deref().ok_or_else(missing)?;
    let (its_name, its_key) = alias::read(&open.key.attributes).ok_or_else(missing)?;
    if its_name != name || key.is_some_and(|key| key != its_key) {
        return Err(missing());
    }
    Ok(open)
}
