//! A multi-Region key's other Regions: who may have it, and where its primary is.

use serde_json::Value;

use super::{Done, Job, Keys};
use crate::error::{ErrorKind, Result};
use crate::hsm::managed::request::{OfKey, ReplicateKey, UpdatePrimaryRegion};
use crate::hsm::replication::Party;

pub(super) fn replicate(job: &Job<'_>) -> Result<Done> {
    let request: ReplicateKey = job.parse()?;
    let _ = job.about.set(request.replica_region.clone());
    let managed = job.keys()?.managed()?;
    if request.withdraw {
        return job.rewrite(&managed.withdraw(&request.replica_region, job.now)?);
    }
    managed.replication()?;
    job.rewrite(&managed.authorise(&trusted(job, &request.replica_region)?, job.now)?)
}

pub(super) fn update_primary(job: &Job<'_>) -> Result<Done> {
    let request: UpdatePrimaryRegion = job.parse()?;
    let _ = job.about.set(request.primary_region.clone());
    let managed = job.keys()?.managed()?;
    let replication = managed.replication()?;
    let party = trusted(job, &request.primary_region)?;
    if replication.replica(&party.region).is_some_and(|replica| replica.party != party) {
        let why = format!("the replica is in another domain of the name {}: a quorum gives it up", party.region);
        return Err(ErrorKind::KmsInvalidState.with(why));
    }
    job.rewrite(&managed.begin_handover(&request.primary_region, job.now)?)
}

pub(super) fn describe(job: &Job<'_>) -> Result<Done> {
    let OfKey { .. } = job.parse()?;
    let keys = job.keys()?;
    keys.managed()?.replication()?;
    let mut described = described(job, keys)?.unwrap_or_default();
    described["KeyId"] = keys.id().into();
    job.end_of_checks()?;
    Ok(Done::told(described.to_string()))
}

/// The member "MultiRegionConfiguration" of a description.
pub(super) fn described(job: &Job<'_>, keys: &Keys) -> Result<Option<Value>> {
    Ok(keys.managed()?.describe_regions(&job.hsm.public()?.state().region))
}

/// Another Region that the domain trusts.
fn trusted(job: &Job<'_>, name: &str) -> Result<Party> {
    let public = job.hsm.public()?;
    let state = public.state();
    if name == state.region {
        return Err(ErrorKind::ArgumentsBad.with("this is the Region itself"));
    }
    let region = state.trusted_regions.iter().find(|region| region.name == name);
    let region = region.ok_or_else(|| {
        ErrorKind::KmsNotFound.with(format!("the domain trusts no Region {name}: \"trust Region\" makes it"))
    })?;
    Ok(Party { region: region.name.clone(), domain: region.domain })
}
