//! Managed keys: the life cycle of a cloud KMS key inside a token. Pure functions of a key's
//! attributes, the request and the time; sealing and storing is the caller's.

pub(super) mod alias;
pub(super) mod attributes;
mod condition;
mod context;
pub(super) mod creation;
pub(super) mod data_key;
mod describe;
pub(super) mod dual_control;
pub(super) mod envelope;
pub(super) mod grants;
mod host;
pub(super) mod import;
pub(super) mod lifecycle;
mod material;
pub(super) mod metadata;
pub(super) mod policy;
mod refused;
pub(super) mod replica;
pub(super) mod replication;
pub(super) mod request;
pub(super) mod requested;
pub(super) mod spec;
pub(super) mod states;
mod tags;
pub(super) mod watched;
pub(super) mod wrapped_key;

use cryptoki_sys as ck;

use super::command::Columns;
use super::value::{Attributes, Template};
use refused::{Answer, Reason};
use replication::Replication;

pub use attributes::{
    CKA_KMS_CREATED, CKA_KMS_DELETION_DATE, CKA_KMS_DELETION_WINDOW, CKA_KMS_DESCRIPTION, CKA_KMS_DUAL_CONTROL,
    CKA_KMS_GRANTS, CKA_KMS_KEY_ID, CKA_KMS_MANAGED, CKA_KMS_MATERIAL, CKA_KMS_MULTI_REGION, CKA_KMS_NEXT_ROTATION,
    CKA_KMS_ORIGIN, CKA_KMS_OWNER, CKA_KMS_POLICY, CKA_KMS_REPLICATE_IMPORTED, CKA_KMS_REPLICATION, CKA_KMS_ROTATED,
    CKA_KMS_ROTATION_PERIOD, CKA_KMS_SPEC, CKA_KMS_STATE, CKA_KMS_TAGS, CKA_KMS_USAGE, CKA_KMS_VALID_TO,
    CKA_KMS_VERSION, CKM_KMS_ENVELOPE, CKM_KMS_WRAP,
};
pub use creation::version_object;
pub use host::{
    EnvelopeName, check_context, decrypted_len, encrypted_len, envelope_name, newest_version, outstanding_messages,
    state_at, state_name, usage_name, wrapped_key_name,
};

pub(super) use attributes::{RULES, is_ours as is_attribute};
pub(super) use context::Context;
pub(super) use refused::Refused;
pub(super) use states::Action;

/// Objects of these classes are never found by a search: the material of a key's version that is not the
/// active one, an alias, and what is left of a deleted replica until its primary has heard of it.
pub const CKO_KMS_KEY_VERSION: ck::CK_OBJECT_CLASS = ck::CKO_VENDOR_DEFINED | 0x0b4d_5301;
pub const CKO_KMS_ALIAS: ck::CK_OBJECT_CLASS = ck::CKO_VENDOR_DEFINED | 0x0b4d_5302;
pub const CKO_KMS_DELETED_REPLICA: ck::CK_OBJECT_CLASS = ck::CKO_VENDOR_DEFINED | 0x0b4d_5303;
pub const HIDDEN_CLASSES: &[ck::CK_OBJECT_CLASS] = &[CKO_KMS_KEY_VERSION, CKO_KMS_ALIAS, CKO_KMS_DELETED_REPLICA];

pub(super) fn is_managed(attributes: &Attributes) -> bool {
    attributes.flag(attributes::CKA_KMS_MANAGED)
}

/// Whether a template speaks of a managed key.
pub fn wants_managed(template: &Template<'_>) -> bool {
    template.get(attributes::CKA_KMS_MANAGED).is_some()
}

/// The column by which the store finds what other Regions are still to be told.
pub(super) fn is_replicating(attributes: &Attributes) -> bool {
    attributes.ulong(ck::CKA_CLASS) != Some(ck::CKO_PUBLIC_KEY) && !outstanding_messages(attributes).is_empty()
}

/// The column by which the store finds what time demands something of. A key that is not enabled
/// does not rotate before it is, and one whose Regions have something to do before does not either:
/// each writes its record.
pub(super) fn due_column(attributes: &Attributes) -> Option<u64> {
    if !is_managed(attributes) || attributes.ulong(ck::CKA_CLASS) == Some(ck::CKO_PUBLIC_KEY) {
        return None;
    }
    let rotates = attributes.ulong(CKA_KMS_STATE) == Some(attributes::KeyState::Enabled.code())
        && attributes.bytes(CKA_KMS_REPLICATION).is_none_or(|encoded| {
            let version = attributes.ulong(CKA_KMS_VERSION);
            Replication::decode(encoded).is_ok_and(|replication| version.is_some_and(|v| replication.may_rotate(v)))
        });
    let rotation = rotates.then_some(CKA_KMS_NEXT_ROTATION);
    let dates = [CKA_KMS_DELETION_DATE, CKA_KMS_VALID_TO].into_iter().chain(rotation);
    let dates = dates.filter_map(|date| attributes.ulong(date)).filter(|date| *date != 0);
    Some(dates.min().unwrap_or(Columns::NEVER).min(Columns::NEVER))
}
