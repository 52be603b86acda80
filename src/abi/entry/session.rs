//! Session management (PKCS#11 3.2 §5.6).

use cryptoki_sys::{
    CK_BYTE_PTR, CK_FLAGS, CK_FLAGS_PTR, CK_NOTIFY, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SESSION_HANDLE_PTR,
    CK_SESSION_INFO_PTR, CK_SESSION_VALIDATION_FLAGS_TYPE, CK_SLOT_ID, CK_ULONG, CK_ULONG_PTR, CK_USER_TYPE,
    CK_UTF8CHAR_PTR, CK_VOID_PTR, CKS_LAST_VALIDATION_OK,
};

use crate::abi::guard::entry;
use crate::abi::info;
use crate::error::ErrorKind;

/// There are no notifications, so the callback is never called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_OpenSession(
    slotID: CK_SLOT_ID,
    flags: CK_FLAGS,
    _pApplication: CK_VOID_PTR,
    _Notify: CK_NOTIFY,
    phSession: CK_SESSION_HANDLE_PTR,
) -> CK_RV {
    entry!(C_OpenSession, |caller, module| caller.answer(phSession, || module.open_session(slotID, flags)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CloseSession(hSession: CK_SESSION_HANDLE) -> CK_RV {
    entry!(C_CloseSession, |_, module| module.close_session(hSession))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CloseAllSessions(slotID: CK_SLOT_ID) -> CK_RV {
    entry!(C_CloseAllSessions, |_, module| module.close_all_sessions(slotID))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetSessionInfo(hSession: CK_SESSION_HANDLE, pInfo: CK_SESSION_INFO_PTR) -> CK_RV {
    entry!(C_GetSessionInfo, |caller, module| caller
        .answer(pInfo, || Ok(info::session(&module.session_info(hSession)?))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SessionCancel(hSession: CK_SESSION_HANDLE, flags: CK_FLAGS) -> CK_RV {
    entry!(C_SessionCancel, |_, module| module.session_cancel(hSession, flags))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetOperationState(
    hSession: CK_SESSION_HANDLE,
    pOperationState: CK_BYTE_PTR,
    pulOperationStateLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_GetOperationState, |caller, module| caller.list(
        &module.operation_state(hSession)?,
        pOperationState,
        pulOperationStateLen
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetOperationState(
    hSession: CK_SESSION_HANDLE,
    pOperationState: CK_BYTE_PTR,
    ulOperationStateLen: CK_ULONG,
    hEncryptionKey: CK_OBJECT_HANDLE,
    hAuthenticationKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    entry!(C_SetOperationState, |caller, module| module.set_operation_state(
        hSession,
        caller.bytes(pOperationState, ulOperationStateLen)?,
        hEncryptionKey,
        hAuthenticationKey
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Login(
    hSession: CK_SESSION_HANDLE,
    userType: CK_USER_TYPE,
    pPin: CK_UTF8CHAR_PTR,
    ulPinLen: CK_ULONG,
) -> CK_RV {
    entry!(C_Login, |caller, module| module.login(hSession, userType, caller.optional_bytes(pPin, ulPinLen)?, None))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_LoginUser(
    hSession: CK_SESSION_HANDLE,
    userType: CK_USER_TYPE,
    pPin: CK_UTF8CHAR_PTR,
    ulPinLen: CK_ULONG,
    pUsername: CK_UTF8CHAR_PTR,
    ulUsernameLen: CK_ULONG,
) -> CK_RV {
    entry!(C_LoginUser, |caller, module| module.login(
        hSession,
        userType,
        caller.optional_bytes(pPin, ulPinLen)?,
        Some(caller.bytes(pUsername, ulUsernameLen)?)
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Logout(hSession: CK_SESSION_HANDLE) -> CK_RV {
    entry!(C_Logout, |_, module| module.logout(hSession))
}

/// The module is not validated, so no flag is ever set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetSessionValidationFlags(
    hSession: CK_SESSION_HANDLE,
    r#type: CK_SESSION_VALIDATION_FLAGS_TYPE,
    pFlags: CK_FLAGS_PTR,
) -> CK_RV {
    entry!(C_GetSessionValidationFlags, |caller, module| caller.answer(pFlags, || {
        module.session_info(hSession)?;
        if r#type != CKS_LAST_VALIDATION_OK {
            return Err(ErrorKind::ArgumentsBad.into());
        }
        Ok(0)
    }))
}
