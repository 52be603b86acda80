//! Who may use a key: its policy and its grants. The rules are those of `managed/policy.rs` and
//! `managed/grants.rs`.

use serde_json::{Map, Value as Json, json};

use super::{Done, Job};
use crate::error::Result;
use crate::hsm::managed::grants::{Grants, Issuer};
use crate::hsm::managed::policy::Policy;
use crate::hsm::managed::request::{OfGrant, OfKey, PutKeyPolicy};
use crate::hsm::managed::{CKA_KMS_GRANTS, CKA_KMS_OWNER, CKA_KMS_POLICY};
use crate::hsm::random;
use crate::hsm::users;
use crate::hsm::value::Value;

pub(super) fn put_policy(job: &Job<'_>) -> Result<Done> {
    let PutKeyPolicy { policy, .. } = job.parse()?;
    let encoded = encoded(job, &policy)?;
    job.edit(|attributes| attributes.set(CKA_KMS_POLICY, Value::Bytes(encoded.clone())))
}

/// A policy that a request gives, as the key has it.
pub(super) fn encoded(job: &Job<'_>, policy: &Json) -> Result<Vec<u8>> {
    let changers = users::who_changes_policies(job.hsm.public()?.state());
    Ok(Policy::from_json(policy, &changers)?.encode())
}

/// A key without a policy has the one that its owner may do everything.
pub(super) fn get_policy(job: &Job<'_>) -> Result<Done> {
    let OfKey { .. } = job.parse()?;
    let keys = job.keys()?;
    let policy = Policy::of(keys.attributes())?;
    let is_default = policy.is_none();
    let owner = || keys.attributes().bytes(CKA_KMS_OWNER).map(String::from_utf8_lossy).unwrap_or_default();
    let policy = policy.map_or_else(
        || json!({ "Statement": [{ "Principal": [owner()], "Action": ["*"] }] }),
        |policy| policy.to_json(),
    );
    let told = json!({ "KeyId": keys.id(), "Policy": policy, "IsDefault": is_default });
    job.end_of_checks()?;
    Ok(Done::told(told.to_string()))
}

/// Tells the grant's id.
pub(super) fn create_grant(job: &Job<'_>) -> Result<Done> {
    let request: Map<String, Json> = job.parse()?;
    let principal = job.hsm.principal()?;
    let issuer = Issuer { principal: &principal, random: random::array()?, now: job.now };
    let (grants, id) = Grants::create(job.keys()?.attributes(), &request, &issuer)?;
    // It is set once.
    let _ = job.about.set(id.clone());
    Ok(Done { told: id, ..replace(job, &grants)? })
}

pub(super) fn retire_grant(job: &Job<'_>) -> Result<Done> {
    let id = grant_id(job)?;
    replace(job, &Grants::retire(job.keys()?.attributes(), &id, &job.hsm.principal()?)?)
}

pub(super) fn revoke_grant(job: &Job<'_>) -> Result<Done> {
    let id = grant_id(job)?;
    replace(job, &Grants::revoke(job.keys()?.attributes(), &id, &job.hsm.principal()?)?)
}

pub(super) fn list_grants(job: &Job<'_>) -> Result<Done> {
    let OfKey { .. } = job.parse()?;
    let keys = job.keys()?;
    let told = json!({ "KeyId": keys.id(), "Grants": Grants::of(keys.attributes())?.to_json(), "Truncated": false });
    job.end_of_checks()?;
    Ok(Done::told(told.to_string()))
}

fn grant_id(job: &Job<'_>) -> Result<String> {
    let OfGrant { grant_id, .. } = job.parse()?;
    // It is set once.
    let _ = job.about.set(grant_id.clone());
    Ok(grant_id)
}

/// The key with these grants; nothing if it has them.
fn replace(job: &Job<'_>, grants: &Grants<'_>) -> Result<Done> {
    let encoded = grants.encode();
    if encoded.as_deref() == job.keys()?.attributes().bytes(CKA_KMS_GRANTS) {
        return job.end_of_checks().map(|()| Done::default());
    }
    job.edit(|attributes| match &encoded {
        Some(encoded) => attributes.set(CKA_KMS_GRANTS, Value::Bytes(encoded.clone())),
        None => {
            attributes.remove(CKA_KMS_GRANTS);
        }
    })
}
