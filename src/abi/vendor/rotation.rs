//! Rotation of managed keys, and what else time demands of them.

use cryptoki_sys::{CK_FLAGS, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR, CK_UTF8CHAR_PTR};

use super::managed::{change, is_dry_run, query, text};
use crate::abi::guard::entry;
use crate::cryptoki::KeyQuery;
use crate::error::ErrorKind;
use crate::hsm::Manage;

/// Makes a new version of a symmetric key's material: it encrypts from now on, and all versions decrypt.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT}.
///
/// KMS_R_UNSUPPORTED: the key is not for envelopes alone, or its material is imported; it rotates by a new
/// key and KMS_UpdateAlias. KMS_R_DISABLED. KMS_R_INVALID_STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_RotateKey(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_RotateKey, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::RotateKey,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Has a key rotated by a period, or no longer. A rotation that is due happens when the key is used,
/// when somebody logs in, or by KMS_RunDue.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT, "Enabled": BOOLEAN, "RotationPeriodInDays": NUMBER? of 90 to
///     2560 (365)}.
///
/// KMS_R_UNSUPPORTED: as for KMS_RotateKey. KMS_R_DISABLED. KMS_R_INVALID_STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_SetRotation(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_SetRotation, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::SetRotation,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Does what time demands of all keys: deletes those whose waiting period is over, deletes imported
/// material that has expired, rotates by period. With a dry run, nothing but KMS_R_DRY_RUN.
///
/// pRequest, ulRequestLen: {}, or nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_RunDue(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_RunDue, |caller, module| {
        let dry_run = is_dry_run(flags)?;
        let request = text(caller, pRequest, ulRequestLen)?;
        if !matches!(serde_json::from_str(request), Ok(serde_json::Value::Object(members)) if members.is_empty())
            && !request.is_empty()
        {
            return Err(ErrorKind::ArgumentsBad.with("the request of KMS_RunDue is {}"));
        }
        module.run_due(hSession, dry_run, &mut |_, _| ())?;
        if dry_run { Err(ErrorKind::KmsDryRun.into()) } else { Ok(()) }
    })
}

/// Tells whether a key is rotated by a period, and when.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT}.
/// pJson, *pulJsonLen: gets a JSON object: KeyId, KeyRotationEnabled, RotationPeriodInDays and
///     NextRotationDate where it is, RotationDate of the newest version.
///
/// CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_GetKeyRotationStatus(
    hSession: CK_SESSION_HANDLE,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_GetKeyRotationStatus, |caller, module| query(
        caller,
        module,
        hSession,
        KeyQuery::GetKeyRotationStatus,
        (pRequest, ulRequestLen),
        (pJson, pulJsonLen)
    ))
}

/// Lists the versions of a key's material that rotations made.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT, "Limit": NUMBER?, "Marker": TEXT?}, as for KMS_ListKeys.
/// pJson, *pulJsonLen: gets {"Rotations": [{"KeyId": TEXT, "KeyVersion": NUMBER, "RotationDate": TIME?, ...}],
///     "Truncated": BOOLEAN, "NextMarker": TEXT?}.
///
/// CKR_BUFFER_TOO_SMALL; the list may grow between two calls.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ListRotations(
    hSession: CK_SESSION_HANDLE,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_ListRotations, |caller, module| query(
        caller,
        module,
        hSession,
        KeyQuery::ListRotations,
        (pRequest, ulRequestLen),
        (pJson, pulJsonLen)
    ))
}
