//! The domain as a whole: what it is, its history, and the PINs that its operators let holders set.

use cryptoki_sys::{CK_BYTE_PTR, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR, CK_USER_TYPE, CK_UTF8CHAR_PTR};

use super::input;
use crate::abi::guard::entry;

/// Describes the domain behind the session's token: everything public of its state, how many
/// records each domain key seals, and what its operators should be warned of. Needs no login.
///
/// pJson, *pulJsonLen: gets a JSON object; bytes in it are hexadecimal, times seconds since 1970.
///
/// CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_DescribeDomain(
    hSession: CK_SESSION_HANDLE,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_DescribeDomain, |caller, module| {
        let output = caller.room(pJson, pulJsonLen)?;
        output.give(module.describe_domain(hSession)?.as_bytes())
    })
}

/// Gives the newest domain token: the state, signed by the HSM, and its secrets, encrypted to the
/// HSMs and users of the domain. It may be shown to anyone. Needs no login.
///
/// pToken, *pulTokenLen: gets the token (COSE_Sign1).
///
/// CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ExportDomainToken(
    hSession: CK_SESSION_HANDLE,
    pToken: CK_BYTE_PTR,
    pulTokenLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_ExportDomainToken, |caller, module| {
        let output = caller.room(pToken, pulTokenLen)?;
        output.give(&module.export_domain_token(hSession)?)
    })
}

/// Gives the domain's history: the domain token of before its founding, every log entry since then,
/// and the newest domain token, so that anyone can follow and verify who decided what. Needs no
/// login.
///
/// pHistory, *pulHistoryLen: gets the history, CBOR
///     [origin: bstr, entries: [* bstr], newest: bstr].
///
/// CKR_FUNCTION_REJECTED: the domain is not founded and has no log yet. CKR_BUFFER_TOO_SMALL; the
/// history may grow between two calls.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ReadLog(
    hSession: CK_SESSION_HANDLE,
    pHistory: CK_BYTE_PTR,
    pulHistoryLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_ReadLog, |caller, module| {
        let output = caller.room(pHistory, pulHistoryLen)?;
        output.give(&module.history(hSession)?)
    })
}

/// Brings an older copy of a token forward to the newest state of a history, each entry of which is
/// verified. The session is read/write and a user or the SO is logged in. PINs that were changed
/// since the copy was made are gone from it.
///
/// pHistory, ulHistoryLen: a history as KMS_ReadLog gives it; at most 1 GiB.
///
/// CKR_USER_NOT_LOGGED_IN. CKR_SESSION_READ_ONLY. CKR_DATA_INVALID: it is not a history.
/// CKR_DATA_LEN_RANGE: it is too long. CKR_TOKEN_NOT_RECOGNIZED: its domain token is not one, or no
/// HSM of the domain signed it. CKR_FUNCTION_REJECTED: it is of another domain, has nothing newer,
/// does not lead from this token's state to its own newest, or would leave no PIN that opens the
/// token. Nothing has changed then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ImportDomain(
    hSession: CK_SESSION_HANDLE,
    pHistory: CK_BYTE_PTR,
    ulHistoryLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_ImportDomain, |caller, module| module.import_domain(hSession, caller.bytes(pHistory, ulHistoryLen)?))
}

/// Sets the PIN of a user whom the operators created, or whose PIN they reset. The session is
/// read/write. An embedded token wants a user or the SO logged in, which opens the domain; a fleet
/// nobody, if there is a code.
///
/// userType: CKU_USER or CKU_SO.
/// pUsername, ulUsernameLen: the name of a named user (CKU_USER); else NULL and 0. UTF-8.
/// pCode, ulCodeLen: the enrolment code that the operators gave the holder, at least 16 bytes; NULL and 0 if the
///     command asked for none, and then the SO is the one logged in.
/// pPin, ulPinLen: the new PIN. UTF-8.
///
/// CKR_USER_NOT_LOGGED_IN. CKR_SESSION_READ_ONLY. CKR_USER_TYPE_INVALID. CKR_PIN_LEN_RANGE.
/// CKR_PIN_INVALID: the PIN is not UTF-8. CKR_TOKEN_WRITE_PROTECTED: no command allows the user a
/// new PIN now. CKR_FUNCTION_REJECTED: the code is wrong, or the time for it is over. CKR_PIN_LOCKED: ten
/// codes were wrong; the operators give another. CKR_DEVICE_MEMORY: the HSM hashes as many PINs as it may.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_SetEnrolledPIN(
    hSession: CK_SESSION_HANDLE,
    userType: CK_USER_TYPE,
    pUsername: CK_UTF8CHAR_PTR,
    ulUsernameLen: CK_ULONG,
    pCode: CK_BYTE_PTR,
    ulCodeLen: CK_ULONG,
    pPin: CK_UTF8CHAR_PTR,
    ulPinLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_SetEnrolledPIN, |caller, module| {
        let given = !pCode.is_null() || ulCodeLen != 0;
        let code = given.then(|| input(caller, pCode, ulCodeLen)).transpose()?;
        let name = input(caller, pUsername, ulUsernameLen)?;
        module.set_enrolled_pin(hSession, userType, Some(name), code, caller.optional_bytes(pPin, ulPinLen)?)
    })
}
