//! A managed key in the words of the model system, for those who may see it.

use serde_json::{Map, Value, json};

use super::attributes::{KeyState, Origin, Usage};
use super::metadata::Managed;
use super::replication::Role;

impl Managed {
    /// The model system's KeyMetadata, its rotation status and its tags; what has no name there is
    /// `KeyVersion` and `Owner`. Times are seconds since 1970.
    pub(in crate::hsm) fn describe(&self, now: u64) -> Value {
        let state = self.state_at(now);
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| {
            fields.insert(name.to_owned(), value);
        };
        put("KeyId", self.id.as_str().into());
        put("KeySpec", self.spec.name.into());
        put("KeyUsage", self.usage.name().into());
        put("KeyState", state.name().into());
        put("Enabled", (state == KeyState::Enabled).into());
        put("Origin", self.origin.name().into());
        put("CreationDate", self.created.into());
        put("Description", self.description.as_str().into());
        put("MultiRegion", self.id.is_multi_region().into());
        put("Owner", self.owner.as_str().into());
        put("KeyVersion", self.version.into());
        if let Some(purpose) = self.spec.purpose(self.usage) {
            let name = match self.usage {
                Usage::EncryptDecrypt => "EncryptionAlgorithms",
                Usage::SignVerify => "SigningAlgorithms",
                Usage::GenerateVerifyMac => "MacAlgorithms",
                Usage::KeyAgreement => "KeyAgreementAlgorithms",
            };
            put(name, json!(purpose.algorithms));
        }
        if let Some(deletion) = self.deletion {
            match deletion.date {
                Some(date) => put("DeletionDate", date.into()),
                None => put("PendingDeletionWindowInDays", deletion.days.into()),
            }
        }
        if self.origin == Origin::External && self.facts().has_material(now) {
            let valid_to = self.imported.valid_to.filter(|valid_to| *valid_to != 0);
            put("ExpirationModel", valid_to.map_or("KEY_MATERIAL_DOES_NOT_EXPIRE", |_| "KEY_MATERIAL_EXPIRES").into());
            if let Some(valid_to) = valid_to {
                put("ValidTo", valid_to.into());
            }
        }
        put("KeyRotationEnabled", self.rotation.is_some().into());
        if let Some(rotation) = self.rotation {
            put("RotationPeriodInDays", rotation.days.into());
            put("NextRotationDate", rotation.next.into());
        }
        if let Some(rotated) = self.rotated {
            put("RotationDate", rotated.into());
        }
        let tags = self.tags.iter().map(|(name, value)| json!({ "TagKey": name, "TagValue": value }));
        put("Tags", Value::Array(tags.collect()));
        Value::Object(fields)
    }

    /// The model system's MultiRegionConfiguration, with how far the replicas are; None for a key of one
    /// Region. `own` is the Region here.
    pub(in crate::hsm) fn describe_regions(&self, own: &str) -> Option<Value> {
        let replication = self.replication.as_ref()?;
        let (kind, primary) = match &replication.role {
            Role::Primary { .. } => ("PRIMARY", own),
            Role::Replica { primary, .. } => ("REPLICA", primary.region.as_str()),
        };
        let replicas = replication.replicas().iter().map(|replica| {
            json!({
                "Region": replica.party.region,
                "Registered": replica.incarnation.is_some(),
                "Version": replica.held,
                "ActiveVersion": replica.active,
            })
        });
        let mut described = json!({
            "MultiRegionKeyType": kind,
            "PrimaryKey": { "Region": primary },
            "ReplicaKeys": replicas.collect::<Value>(),
            "Term": replication.term,
            "NewestVersion": replication.newest,
        });
        if let Some(to) = replication.handover() {
            described["Handover"] = to.region.as_str().into();
        }
        if let Some((party, term)) = replication.outdated() {
            described["Outdated"] = json!({ "Region": party.region, "Term": term });
        }
        Some(described)
    }
}
