//! Functions that are not supported: KEM, a signature given first, asynchronous
//! calls; and the two of parallel functions, which there are none of (PKCS#11 3.2 §5.20).

use cryptoki_sys::{
    CK_ASYNC_DATA_PTR, CK_ATTRIBUTE_PTR, CK_BYTE_PTR, CK_MECHANISM_PTR, CK_OBJECT_HANDLE, CK_OBJECT_HANDLE_PTR, CK_RV,
    CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR, CK_UTF8CHAR_PTR,
};

use crate::abi::guard::entry;
use crate::error::ErrorKind;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionStatus(_hSession: CK_SESSION_HANDLE) -> CK_RV {
    entry!(C_GetFunctionStatus, |_, _module| Err(ErrorKind::FunctionNotParallel.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CancelFunction(_hSession: CK_SESSION_HANDLE) -> CK_RV {
    entry!(C_CancelFunction, |_, _module| Err(ErrorKind::FunctionNotParallel.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncapsulateKey(
    _hSession: CK_SESSION_HANDLE,
    _pMechanism: CK_MECHANISM_PTR,
    _hPublicKey: CK_OBJECT_HANDLE,
    _pTemplate: CK_ATTRIBUTE_PTR,
    _ulAttributeCount: CK_ULONG,
    _pCiphertext: CK_BYTE_PTR,
    _pulCiphertextLen: CK_ULONG_PTR,
    _phKey: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    entry!(C_EncapsulateKey, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecapsulateKey(
    _hSession: CK_SESSION_HANDLE,
    _pMechanism: CK_MECHANISM_PTR,
    _hPrivateKey: CK_OBJECT_HANDLE,
    _pTemplate: CK_ATTRIBUTE_PTR,
    _ulAttributeCount: CK_ULONG,
    _pCiphertext: CK_BYTE_PTR,
    _ulCiphertextLen: CK_ULONG,
    _phKey: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    entry!(C_DecapsulateKey, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifySignatureInit(
    _hSession: CK_SESSION_HANDLE,
    _pMechanism: CK_MECHANISM_PTR,
    _hKey: CK_OBJECT_HANDLE,
    _pSignature: CK_BYTE_PTR,
    _ulSignatureLen: CK_ULONG,
) -> CK_RV {
    entry!(C_VerifySignatureInit, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifySignature(
    _hSession: CK_SESSION_HANDLE,
    _pData: CK_BYTE_PTR,
    _ulDataLen: CK_ULONG,
) -> CK_RV {
    entry!(C_VerifySignature, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifySignatureUpdate(
    _hSession: CK_SESSION_HANDLE,
    _pPart: CK_BYTE_PTR,
    _ulPartLen: CK_ULONG,
) -> CK_RV {
    entry!(C_VerifySignatureUpdate, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifySignatureFinal(_hSession: CK_SESSION_HANDLE) -> CK_RV {
    entry!(C_VerifySignatureFinal, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_AsyncComplete(
    _hSession: CK_SESSION_HANDLE,
    _pFunctionName: CK_UTF8CHAR_PTR,
    _pResult: CK_ASYNC_DATA_PTR,
) -> CK_RV {
    entry!(C_AsyncComplete, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_AsyncGetID(
    _hSession: CK_SESSION_HANDLE,
    _pFunctionName: CK_UTF8CHAR_PTR,
    _pulID: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_AsyncGetID, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_AsyncJoin(
    _hSession: CK_SESSION_HANDLE,
    _pFunctionName: CK_UTF8CHAR_PTR,
    _ulID: CK_ULONG,
    _pData: CK_BYTE_PTR,
    _ulDataLen: CK_ULONG,
) -> CK_RV {
    entry!(C_AsyncJoin, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}
