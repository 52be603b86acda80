//! The vendor's mechanisms of managed keys, as far as the table knows them: what they do is not a
//! streaming operation, but a command of its own.

use cryptoki_sys as ck;

use super::Row;
use super::aes::AES;
use crate::hsm::managed::attributes::{CKM_KMS_ENVELOPE, CKM_KMS_WRAP};
use crate::hsm::params::ParamShape;

pub(super) const ROWS: &[Row] = &[
    Row {
        kind: CKM_KMS_ENVELOPE,
        name: "CKM_KMS_ENVELOPE",
        min_key: 32,
        params: ParamShape::Context,
        extra_flags: ck::CKF_ENCRYPT | ck::CKF_DECRYPT,
        ..AES
    },
    Row {
        kind: CKM_KMS_WRAP,
        name: "CKM_KMS_WRAP",
        min_key: 32,
        params: ParamShape::Context,
        extra_flags: ck::CKF_WRAP | ck::CKF_UNWRAP,
        ..AES
    },
];
