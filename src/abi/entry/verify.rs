//! Verifying signatures and MACs (PKCS#11 3.2 §5.15).

use cryptoki_sys::{CK_BYTE_PTR, CK_MECHANISM_PTR, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR};

use crate::abi::guard::entry;
use crate::abi::params;
use crate::hsm::Function;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    entry!(C_VerifyInit, |caller, module| module.init(
        hSession,
        Function::Verify,
        params::optional_mechanism(caller, pMechanism)?.as_ref(),
        hKey
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Verify(
    hSession: CK_SESSION_HANDLE,
    pData: CK_BYTE_PTR,
    ulDataLen: CK_ULONG,
    pSignature: CK_BYTE_PTR,
    ulSignatureLen: CK_ULONG,
) -> CK_RV {
    entry!(C_Verify, |caller, module| module.verify(
        hSession,
        caller.bytes(pData, ulDataLen)?,
        caller.bytes(pSignature, ulSignatureLen)?
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyUpdate(hSession: CK_SESSION_HANDLE, pPart: CK_BYTE_PTR, ulPartLen: CK_ULONG) -> CK_RV {
    entry!(C_VerifyUpdate, |caller, module| module
        .update(hSession, Function::Verify, caller.bytes(pPart, ulPartLen)?, None)
        .map(drop))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyFinal(
    hSession: CK_SESSION_HANDLE,
    pSignature: CK_BYTE_PTR,
    ulSignatureLen: CK_ULONG,
) -> CK_RV {
    entry!(C_VerifyFinal, |caller, module| module.verify_final(hSession, caller.bytes(pSignature, ulSignatureLen)?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyRecoverInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    entry!(C_VerifyRecoverInit, |caller, module| module.init(
        hSession,
        Function::VerifyRecover,
        params::optional_mechanism(caller, pMechanism)?.as_ref(),
        hKey
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyRecover(
    hSession: CK_SESSION_HANDLE,
    pSignature: CK_BYTE_PTR,
    ulSignatureLen: CK_ULONG,
    pData: CK_BYTE_PTR,
    pulDataLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_VerifyRecover, |caller, module| caller.transform(
        (pSignature, ulSignatureLen),
        (pData, pulDataLen),
        |input, output| module.one_shot(hSession, Function::VerifyRecover, input, output)
    ))
}
