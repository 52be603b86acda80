//! Managed keys: made, described, enabled, disabled, tagged, and deleted after a waiting period.

use cryptoki_sys::{CK_FLAGS, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR, CK_UTF8CHAR_PTR};

use super::managed::{change, creation, query};
use crate::abi::guard::entry;
use crate::cryptoki::KeyQuery;
use crate::hsm::Manage;

/// Makes a managed key. It is for one usage, for ever.
///
/// pRequest, ulRequestLen: a JSON object, of which everything may be left out:
///     "KeySpec"              "AES_256" (which is the default; also "SYMMETRIC_DEFAULT"), "RSA_2048", "RSA_3072",
///                            "RSA_4096", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521",
///                            "ECC_SECG_P256K1", "ECC_ED25519", "HMAC_224", "HMAC_256", "HMAC_384",
///                            "HMAC_512"
///     "KeyUsage"             "ENCRYPT_DECRYPT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC" or "KEY_AGREEMENT"; it must
///                            be given where the spec has more than one
///     "Origin"               "HSM" (the default), or "EXTERNAL" for a key whose material will be imported
///     "MultiRegion"          BOOLEAN; the key may be replicated, and its id begins with mrk-
///     "ReplicateImportedMaterial" BOOLEAN; of a multi-Region key whose material is imported: it goes to the
///                            replicas; else each imports the same itself
///     "Description"          TEXT
///     "Label"                TEXT, the CKA_LABEL
///     "Tags"                 [{"TagKey": TEXT, "TagValue": TEXT}]
///     "StandardMechanisms"   BOOLEAN; an AES_256 key is also for CKM_AES_GCM, and does not rotate
///     "Policy"               as KMS_PutKeyPolicy takes it; else whoever makes the key may do everything
///     "DualControl"          {"Operators": [TEXT], "Threshold": NUMBER}; each use needs the approval of so
///                            many of these operators of a founded domain
/// pId, *pulIdLen: gets the key's id, KMS_ID_LEN bytes.
///
/// CKR_ARGUMENTS_BAD: also for a spec or usage that there is not. KMS_R_INVALID_TAG.
/// KMS_R_MALFORMED_POLICY. CKR_TOKEN_RESOURCE_EXCEEDED: there are too many keys. CKR_BUFFER_TOO_SMALL:
/// nothing was made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_CreateKey(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pId: CK_UTF8CHAR_PTR,
    pulIdLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_CreateKey, |caller, module| creation(
        caller,
        module,
        hSession,
        Manage::CreateKey,
        flags,
        (pRequest, ulRequestLen),
        (pId, pulIdLen)
    ))
}

/// Tells what is public of a key. Whoever is logged in may ask.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT}.
/// pJson, *pulJsonLen: gets a JSON object: KeyId, KeySpec, KeyUsage, KeyState, Enabled, Origin,
///     CreationDate, Description, Tags, Owner, KeyVersion, and others where there is something to say.
///
/// CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_DescribeKey(
    hSession: CK_SESSION_HANDLE,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_DescribeKey, |caller, module| query(
        caller,
        module,
        hSession,
        KeyQuery::DescribeKey,
        (pRequest, ulRequestLen),
        (pJson, pulJsonLen)
    ))
}

/// Lists the managed keys.
///
/// pRequest, ulRequestLen: {"Limit": NUMBER? of 1 to 1000 (100), "Marker": TEXT? (the NextMarker of the list
///     before), "ExpiringWithinDays": NUMBER? (only those of which time demands something until then)}.
/// pJson, *pulJsonLen: gets {"Keys": [{"KeyId": TEXT, ...}], "Truncated": BOOLEAN, "NextMarker": TEXT?}.
///
/// CKR_BUFFER_TOO_SMALL; the list may grow between two calls.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ListKeys(
    hSession: CK_SESSION_HANDLE,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_ListKeys, |caller, module| query(
        caller,
        module,
        hSession,
        KeyQuery::ListKeys,
        (pRequest, ulRequestLen),
        (pJson, pulJsonLen)
    ))
}

/// Enables a disabled key.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT}.
///
/// KMS_R_INVALID_STATE: the key waits for its deletion or for its material.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_EnableKey(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_EnableKey, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::EnableKey,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Disables a key: nothing is done with it until KMS_EnableKey.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT}.
///
/// KMS_R_INVALID_STATE: the key waits for its deletion or for its material.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_DisableKey(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_DisableKey, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::DisableKey,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Schedules the deletion of a key. It waits in the state PendingDeletion, in which nothing is done with
/// it, and is deleted with all versions of its material, its public half and its aliases once the time
/// is over and somebody is logged in, or KMS_RunDue is called. There is no other way to delete a
/// managed key: C_DestroyObject gives CKR_ACTION_PROHIBITED.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT, "PendingWindowInDays": NUMBER? of 7 to 30 (30)}.
///
/// KMS_R_INVALID_STATE: it waits already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ScheduleKeyDeletion(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_ScheduleKeyDeletion, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::ScheduleKeyDeletion,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Keeps a key that waits for its deletion. It is disabled then.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT}.
///
/// KMS_R_INVALID_STATE: it does not wait for its deletion, or the time is over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_CancelKeyDeletion(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_CancelKeyDeletion, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::CancelKeyDeletion,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Sets the description of a key.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT, "Description": TEXT}.
///
/// KMS_R_INVALID_STATE: the key waits for its deletion. CKR_ARGUMENTS_BAD: also for a description that is
/// too long.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_UpdateKeyDescription(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_UpdateKeyDescription, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::UpdateDescription,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Adds tags to a key, in the place of those with the same names.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT, "Tags": [{"TagKey": TEXT, "TagValue": TEXT}]}.
///
/// KMS_R_INVALID_TAG. KMS_R_LIMIT_EXCEEDED: a key has 50 tags at most. KMS_R_INVALID_STATE: the key waits
/// for its deletion.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_TagKey(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_TagKey, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::TagKey,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Removes tags from a key. Names that it does not have do not matter.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT, "TagKeys": [TEXT]}.
///
/// KMS_R_INVALID_STATE: the key waits for its deletion.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_UntagKey(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_UntagKey, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::UntagKey,
        flags,
        (pRequest, ulRequestLen)
    ))
}
