//! Who may do what with a managed key: policies and grants.

use cryptoki_sys::{CK_FLAGS, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR, CK_UTF8CHAR_PTR};

use super::managed::{change, creation, query};
use crate::abi::guard::entry;
use crate::cryptoki::KeyQuery;
use crate::hsm::Manage;

/// Grants somebody a part of what may be done with a key.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT, "GranteePrincipal": TEXT, "Operations": [TEXT],
///     "RetiringPrincipal": TEXT?, "Constraints": {"EncryptionContextEquals": {...}} or
///     {"EncryptionContextSubset": {...}}?, "Name": TEXT?}. Principals are those of KMS_PutKeyPolicy.
/// pId, *pulIdLen: gets the grant's id, KMS_ID_LEN bytes.
///
/// KMS_R_LIMIT_EXCEEDED: a key has 100 grants at most. KMS_R_INVALID_GRANT. KMS_R_DISABLED.
/// KMS_R_INVALID_STATE. CKR_BUFFER_TOO_SMALL: nothing was made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_CreateGrant(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pId: CK_UTF8CHAR_PTR,
    pulIdLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_CreateGrant, |caller, module| creation(
        caller,
        module,
        hSession,
        Manage::CreateGrant,
        flags,
        (pRequest, ulRequestLen),
        (pId, pulIdLen)
    ))
}

/// Sets who may do what with a key, in the place of what was said before.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT, "Policy": {"Statement": [{"Principal": [TEXT], "Action": [TEXT],
///     "Context": {"Equals": {...}} or {"Subset": {...}}?}]}}. A principal is "so", "user" or "user:NAME", an
///     action "Encrypt", "DescribeKey" and the like; "*" is all of them. The README has the actions.
///
/// KMS_R_MALFORMED_POLICY: it is not a policy, or one that nobody could change.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_PutKeyPolicy(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_PutKeyPolicy, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::PutKeyPolicy,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Ends a grant, by the one whom it says may retire it or by the grantee.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT, "GrantId": TEXT}.
///
/// KMS_R_NOT_FOUND.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_RetireGrant(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_RetireGrant, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::RetireGrant,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Ends a grant, by whoever may revoke the key's grants.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT, "GrantId": TEXT}.
///
/// KMS_R_NOT_FOUND.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_RevokeGrant(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_RevokeGrant, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::RevokeGrant,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Tells who may do what with a key. The token's owners, the SO and the user, may always ask.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT}.
/// pJson, *pulJsonLen: gets {"KeyId": TEXT, "Policy": {...}}.
///
/// CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_GetKeyPolicy(
    hSession: CK_SESSION_HANDLE,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_GetKeyPolicy, |caller, module| query(
        caller,
        module,
        hSession,
        KeyQuery::GetKeyPolicy,
        (pRequest, ulRequestLen),
        (pJson, pulJsonLen)
    ))
}

/// Lists the grants of a key. The token's owners, the SO and the user, may always ask.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT}.
/// pJson, *pulJsonLen: gets {"Grants": [{"GrantId": TEXT, ...}]}.
///
/// CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ListGrants(
    hSession: CK_SESSION_HANDLE,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_ListGrants, |caller, module| query(
        caller,
        module,
        hSession,
        KeyQuery::ListGrants,
        (pRequest, ulRequestLen),
        (pJson, pulJsonLen)
    ))
}

/// Lists the token's users: the principals of policies and grants.
///
/// pRequest, ulRequestLen: {}, or nothing.
/// pJson, *pulJsonLen: gets {"Users": [...]}.
///
/// CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ListUsers(
    hSession: CK_SESSION_HANDLE,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_ListUsers, |caller, module| query(
        caller,
        module,
        hSession,
        KeyQuery::ListUsers,
        (pRequest, ulRequestLen),
        (pJson, pulJsonLen)
    ))
}
