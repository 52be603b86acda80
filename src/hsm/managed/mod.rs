//! Managed keys: the life cycle of a cloud KMS key inside a token. Pure functions of a key's
//! attributes, the request and the time; sealing and storing is the caller's.

mod attributes;
mod condition;
mod context;
mod creation;
mod data_key;
mod describe;
pub(in crate::hsm) mod dual_control;
mod envelope;
mod grants;
mod import;
mod lifecycle;
mod material;
mod metadata;
pub(in crate::hsm) mod policy;
mod refused;
mod requested;
mod spec;
pub(in crate::hsm) mod states;
mod tags;

use cryptoki_sys as ck;

use super::command::Columns;
use super::value::{Attributes, Template};
use refused::{Answer, Reason};

pub(super) use attributes::{CKA_KMS_KEY_ID, RULES, is_ours as is_attribute};
pub(super) use context::Context;
pub(super) use refused::Refused;
pub(super) use states::Action;

/// Objects of these classes are never found by a search: the material of a key's older version, and
/// an alias.
pub const CKO_KMS_KEY_VERSION: ck::CK_OBJECT_CLASS = ck::CKO_VENDOR_DEFINED | 0x0b4d_5301;
pub const CKO_KMS_ALIAS: ck::CK_OBJECT_CLASS = ck::CKO_VENDOR_DEFINED | 0x0b4d_5302;
pub const HIDDEN_CLASSES: &[ck::CK_OBJECT_CLASS] = &[CKO_KMS_KEY_VERSION, CKO_KMS_ALIAS];

pub(super) fn is_managed(attributes: &Attributes) -> bool {
    attributes.flag(attributes::CKA_KMS_MANAGED)
}

/// Whether a template speaks of a managed key.
pub fn wants_managed(template: &Template<'_>) -> bool {
    template.get(attributes::CKA_KMS_MANAGED).is_some()
}

/// The column by which the store finds what time demands something of.
pub(super) fn due_column(attributes: &Attributes) -> Option<u64> {
    use attributes::{CKA_KMS_DELETION_DATE, CKA_KMS_NEXT_ROTATION, CKA_KMS_VALID_TO};
    if !is_managed(attributes) || attributes.ulong(ck::CKA_CLASS) == Some(ck::CKO_PUBLIC_KEY) {
        return None;
    }
    let dates = [CKA_KMS_DELETION_DATE, CKA_KMS_NEXT_ROTATION, CKA_KMS_VALID_TO];
    let dates = dates.into_iter().filter_map(|date| attributes.ulong(date)).filter(|date| *date != 0);
    Some(dates.min().unwrap_or(Columns::NEVER).min(Columns::NEVER))
}
