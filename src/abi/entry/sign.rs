//! Signing and MACing (PKCS#11 3.2 §5.13).

use cryptoki_sys::{CK_BYTE_PTR, CK_MECHANISM_PTR, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR};

use crate::abi::guard::entry;
use crate::abi::params;
use crate::hsm::Function;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    entry!(C_SignInit, |caller, module| module.init(
        hSession,
        Function::Sign,
        params::optional_mechanism(caller, pMechanism)?.as_ref(),
        hKey
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Sign(
    hSession: CK_SESSION_HANDLE,
    pData: CK_BYTE_PTR,
    ulDataLen: CK_ULONG,
    pSignature: CK_BYTE_PTR,
    pulSignatureLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_Sign, |caller, module| caller.transform(
        (pData, ulDataLen),
        (pSignature, pulSignatureLen),
        |input, output| module.one_shot(hSession, Function::Sign, input, output)
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignUpdate(hSession: CK_SESSION_HANDLE, pPart: CK_BYTE_PTR, ulPartLen: CK_ULONG) -> CK_RV {
    entry!(C_SignUpdate, |caller, module| module
        .update(hSession, Function::Sign, caller.bytes(pPart, ulPartLen)?, None)
        .map(drop))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignFinal(
    hSession: CK_SESSION_HANDLE,
    pSignature: CK_BYTE_PTR,
    pulSignatureLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_SignFinal, |caller, module| caller.output(pSignature, pulSignatureLen, |output| module.finish(
        hSession,
        Function::Sign,
        output
    )))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignRecoverInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    entry!(C_SignRecoverInit, |caller, module| module.init(
        hSession,
        Function::SignRecover,
        params::optional_mechanism(caller, pMechanism)?.as_ref(),
        hKey
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignRecover(
    hSession: CK_SESSION_HANDLE,
    pData: CK_BYTE_PTR,
    ulDataLen: CK_ULONG,
    pSignature: CK_BYTE_PTR,
    pulSignatureLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_SignRecover, |caller, module| caller.transform(
        (pData, ulDataLen),
        (pSignature, pulSignatureLen),
        |input, output| module.one_shot(hSession, Function::SignRecover, input, output)
    ))
}
