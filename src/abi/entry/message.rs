//! Message-based functions (PKCS#11 3.2 §5.9, §5.11, §5.14, §5.16): not supported.

use cryptoki_sys::{
    CK_BYTE_PTR, CK_FLAGS, CK_MECHANISM_PTR, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR,
    CK_VOID_PTR,
};

use crate::abi::guard::entry;
use crate::error::ErrorKind;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageEncryptInit(
    _hSession: CK_SESSION_HANDLE,
    _pMechanism: CK_MECHANISM_PTR,
    _hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    entry!(C_MessageEncryptInit, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptMessage(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pAssociatedData: CK_BYTE_PTR,
    _ulAssociatedDataLen: CK_ULONG,
    _pPlaintext: CK_BYTE_PTR,
    _ulPlaintextLen: CK_ULONG,
    _pCiphertext: CK_BYTE_PTR,
    _pulCiphertextLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_EncryptMessage, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptMessageBegin(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pAssociatedData: CK_BYTE_PTR,
    _ulAssociatedDataLen: CK_ULONG,
) -> CK_RV {
    entry!(C_EncryptMessageBegin, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptMessageNext(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pPlaintextPart: CK_BYTE_PTR,
    _ulPlaintextPartLen: CK_ULONG,
    _pCiphertextPart: CK_BYTE_PTR,
    _pulCiphertextPartLen: CK_ULONG_PTR,
    _flags: CK_FLAGS,
) -> CK_RV {
    entry!(C_EncryptMessageNext, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageEncryptFinal(_hSession: CK_SESSION_HANDLE) -> CK_RV {
    entry!(C_MessageEncryptFinal, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageDecryptInit(
    _hSession: CK_SESSION_HANDLE,
    _pMechanism: CK_MECHANISM_PTR,
    _hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    entry!(C_MessageDecryptInit, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptMessage(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pAssociatedData: CK_BYTE_PTR,
    _ulAssociatedDataLen: CK_ULONG,
    _pCiphertext: CK_BYTE_PTR,
    _ulCiphertextLen: CK_ULONG,
    _pPlaintext: CK_BYTE_PTR,
    _pulPlaintextLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_DecryptMessage, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptMessageBegin(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pAssociatedData: CK_BYTE_PTR,
    _ulAssociatedDataLen: CK_ULONG,
) -> CK_RV {
    entry!(C_DecryptMessageBegin, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptMessageNext(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pCiphertextPart: CK_BYTE_PTR,
    _ulCiphertextPartLen: CK_ULONG,
    _pPlaintextPart: CK_BYTE_PTR,
    _pulPlaintextPartLen: CK_ULONG_PTR,
    _flags: CK_FLAGS,
) -> CK_RV {
    entry!(C_DecryptMessageNext, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageDecryptFinal(_hSession: CK_SESSION_HANDLE) -> CK_RV {
    entry!(C_MessageDecryptFinal, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageSignInit(
    _hSession: CK_SESSION_HANDLE,
    _pMechanism: CK_MECHANISM_PTR,
    _hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    entry!(C_MessageSignInit, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignMessage(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pData: CK_BYTE_PTR,
    _ulDataLen: CK_ULONG,
    _pSignature: CK_BYTE_PTR,
    _pulSignatureLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_SignMessage, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignMessageBegin(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
) -> CK_RV {
    entry!(C_SignMessageBegin, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignMessageNext(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pDataPart: CK_BYTE_PTR,
    _ulDataPartLen: CK_ULONG,
    _pSignature: CK_BYTE_PTR,
    _pulSignatureLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_SignMessageNext, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageSignFinal(_hSession: CK_SESSION_HANDLE) -> CK_RV {
    entry!(C_MessageSignFinal, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageVerifyInit(
    _hSession: CK_SESSION_HANDLE,
    _pMechanism: CK_MECHANISM_PTR,
    _hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    entry!(C_MessageVerifyInit, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyMessage(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pData: CK_BYTE_PTR,
    _ulDataLen: CK_ULONG,
    _pSignature: CK_BYTE_PTR,
    _ulSignatureLen: CK_ULONG,
) -> CK_RV {
    entry!(C_VerifyMessage, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyMessageBegin(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
) -> CK_RV {
    entry!(C_VerifyMessageBegin, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifyMessageNext(
    _hSession: CK_SESSION_HANDLE,
    _pParameter: CK_VOID_PTR,
    _ulParameterLen: CK_ULONG,
    _pDataPart: CK_BYTE_PTR,
    _ulDataPartLen: CK_ULONG,
    _pSignature: CK_BYTE_PTR,
    _ulSignatureLen: CK_ULONG,
) -> CK_RV {
    entry!(C_VerifyMessageNext, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_MessageVerifyFinal(_hSession: CK_SESSION_HANDLE) -> CK_RV {
    entry!(C_MessageVerifyFinal, |_, _module| Err(ErrorKind::FunctionNotSupported.into()))
}
