//! Slot and token management (PKCS#11 3.2 §5.5).

use cryptoki_sys::{
    CK_BBOOL, CK_FALSE, CK_FLAGS, CK_MECHANISM_INFO_PTR, CK_MECHANISM_TYPE, CK_MECHANISM_TYPE_PTR, CK_RV,
    CK_SESSION_HANDLE, CK_SLOT_ID, CK_SLOT_ID_PTR, CK_SLOT_INFO_PTR, CK_TOKEN_INFO_PTR, CK_ULONG, CK_ULONG_PTR,
    CK_UTF8CHAR_PTR, CK_VOID_PTR, CKF_DONT_BLOCK,
};

use crate::abi::guard::entry;
use crate::abi::info;
use crate::error::ErrorKind;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetSlotList(
    tokenPresent: CK_BBOOL,
    pSlotList: CK_SLOT_ID_PTR,
    pulCount: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_GetSlotList, |caller, module| caller.list(
        &module.slot_list(tokenPresent != CK_FALSE, pSlotList.is_null())?,
        pSlotList,
        pulCount
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetSlotInfo(slotID: CK_SLOT_ID, pInfo: CK_SLOT_INFO_PTR) -> CK_RV {
    entry!(C_GetSlotInfo, |caller, module| caller.answer(pInfo, || Ok(info::slot(&module.slot_info(slotID)?))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetTokenInfo(slotID: CK_SLOT_ID, pInfo: CK_TOKEN_INFO_PTR) -> CK_RV {
    entry!(C_GetTokenInfo, |caller, module| caller.answer(pInfo, || Ok(info::token(&module.token_info(slotID)?))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_WaitForSlotEvent(flags: CK_FLAGS, pSlot: CK_SLOT_ID_PTR, pReserved: CK_VOID_PTR) -> CK_RV {
    entry!(C_WaitForSlotEvent, |caller, module| caller.answer(pSlot, || {
        if !pReserved.is_null() {
            return Err(ErrorKind::ArgumentsBad.into());
        }
        module.wait_for_slot_event(flags & CKF_DONT_BLOCK != 0)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetMechanismList(
    slotID: CK_SLOT_ID,
    pMechanismList: CK_MECHANISM_TYPE_PTR,
    pulCount: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_GetMechanismList, |caller, module| caller.list(&module.mechanism_list(slotID)?, pMechanismList, pulCount))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetMechanismInfo(
    slotID: CK_SLOT_ID,
    r#type: CK_MECHANISM_TYPE,
    pInfo: CK_MECHANISM_INFO_PTR,
) -> CK_RV {
    entry!(C_GetMechanismInfo, |caller, module| caller
        .answer(pInfo, || Ok(info::mechanism(&module.mechanism_info(slotID, r#type)?))))
}

/// `pLabel` is 32 bytes, blank padded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_InitToken(
    slotID: CK_SLOT_ID,
    pPin: CK_UTF8CHAR_PTR,
    ulPinLen: CK_ULONG,
    pLabel: CK_UTF8CHAR_PTR,
) -> CK_RV {
    entry!(C_InitToken, |caller, module| module.init_token(
        slotID,
        caller.optional_bytes(pPin, ulPinLen)?,
        &caller.read(pLabel.cast::<[u8; 32]>())?
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_InitPIN(hSession: CK_SESSION_HANDLE, pPin: CK_UTF8CHAR_PTR, ulPinLen: CK_ULONG) -> CK_RV {
    entry!(C_InitPIN, |caller, module| module.init_pin(hSession, caller.optional_bytes(pPin, ulPinLen)?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetPIN(
    hSession: CK_SESSION_HANDLE,
    pOldPin: CK_UTF8CHAR_PTR,
    ulOldLen: CK_ULONG,
    pNewPin: CK_UTF8CHAR_PTR,
    ulNewLen: CK_ULONG,
) -> CK_RV {
    entry!(C_SetPIN, |caller, module| module.set_pin(
        hSession,
        caller.optional_bytes(pOldPin, ulOldLen)?,
        caller.optional_bytes(pNewPin, ulNewLen)?
    ))
}
