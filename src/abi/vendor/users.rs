//! Named users.

use cryptoki_sys::{CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_UTF8CHAR_PTR};

use super::input;
use crate::abi::guard::entry;

/// Makes a user of that name for C_LoginUser, with a PIN. The SO, who governs the token, is logged in.
///
/// pName, ulNameLen: 1 to 64 bytes UTF-8 without control characters, and not "so", "user", "*", or
///     anything that begins with "user:".
/// pPin, ulPinLen: the PIN. UTF-8.
///
/// CKR_USER_NOT_LOGGED_IN. CKR_ARGUMENTS_BAD: the name. CKR_PIN_LEN_RANGE. KMS_R_ALREADY_EXISTS.
/// CKR_TOKEN_WRITE_PROTECTED: operators govern the token, and "create user" is a command of theirs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_CreateUser(
    hSession: CK_SESSION_HANDLE,
    pName: CK_UTF8CHAR_PTR,
    ulNameLen: CK_ULONG,
    pPin: CK_UTF8CHAR_PTR,
    ulPinLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_CreateUser, |caller, module| {
        let name = input(caller, pName, ulNameLen)?;
        module.create_user(hSession, name, caller.optional_bytes(pPin, ulPinLen)?)
    })
}

/// Removes the user of that name and the PIN. Whoever is logged in with it is logged out at the next
/// call. Keys that the user owns stay, and so do policies and grants that name the user: they hold
/// of a new user of the same name. The SO, who governs the token, is logged in.
///
/// CKR_USER_NOT_LOGGED_IN. KMS_R_NOT_FOUND. CKR_TOKEN_WRITE_PROTECTED: operators govern the token,
/// and "remove user" is a command of theirs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_RemoveUser(
    hSession: CK_SESSION_HANDLE,
    pName: CK_UTF8CHAR_PTR,
    ulNameLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_RemoveUser, |caller, module| module.remove_user(hSession, input(caller, pName, ulNameLen)?))
}
