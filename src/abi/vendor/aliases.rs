//! Aliases: names of managed keys that may come to name others.

use cryptoki_sys::{CK_FLAGS, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR, CK_UTF8CHAR_PTR};

use super::managed::{change, query};
use crate::abi::guard::entry;
use crate::cryptoki::KeyQuery;
use crate::hsm::Manage;

/// Makes an alias: another name of a key, which may come to name another key. C_FindObjects finds a key by
/// an alias as it does by CKA_LABEL.
///
/// pRequest, ulRequestLen: {"AliasName": "alias/NAME", "TargetKeyId": TEXT}. NAME has letters of ASCII,
///     digits, "/", "_" and "-"; the whole has 256 bytes at most.
///
/// KMS_R_INVALID_ALIAS_NAME. KMS_R_ALREADY_EXISTS. KMS_R_LIMIT_EXCEEDED: a key has 50 aliases at most.
/// KMS_R_INVALID_STATE: the key waits for its deletion.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_CreateAlias(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_CreateAlias, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::CreateAlias,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Makes an alias name another key of the same usage, and of the same kind: symmetric or not.
///
/// pRequest, ulRequestLen: {"AliasName": TEXT, "TargetKeyId": TEXT}.
///
/// KMS_R_NOT_FOUND. KMS_R_LIMIT_EXCEEDED. KMS_R_INVALID_KEY_USAGE: the keys are not of one kind and usage.
/// KMS_R_INVALID_STATE: the key that it is to name waits for its deletion.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_UpdateAlias(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_UpdateAlias, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::UpdateAlias,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Deletes an alias, whatever the state of its key.
///
/// pRequest, ulRequestLen: {"AliasName": TEXT}.
///
/// KMS_R_NOT_FOUND.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_DeleteAlias(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_DeleteAlias, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::DeleteAlias,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Lists the aliases, of one key or of all.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT?, "Limit": NUMBER?, "Marker": TEXT?}, as for KMS_ListKeys.
/// pJson, *pulJsonLen: gets {"Aliases": [{"AliasName": TEXT, "TargetKeyId": TEXT, ...}], "Truncated":
///     BOOLEAN, "NextMarker": TEXT?}.
///
/// CKR_BUFFER_TOO_SMALL; the list may grow between two calls.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ListAliases(
    hSession: CK_SESSION_HANDLE,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_ListAliases, |caller, module| query(
        caller,
        module,
        hSession,
        KeyQuery::ListAliases,
        (pRequest, ulRequestLen),
        (pJson, pulJsonLen)
    ))
}
