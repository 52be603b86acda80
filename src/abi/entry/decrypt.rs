//! Decryption (PKCS#11 3.2 §5.10).

use cryptoki_sys::{CK_BYTE_PTR, CK_MECHANISM_PTR, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR};

use crate::abi::guard::entry;
use crate::abi::params;
use crate::hsm::Function;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    entry!(C_DecryptInit, |caller, module| module.init(
        hSession,
        Function::Decrypt,
        params::optional_mechanism(caller, pMechanism)?.as_ref(),
        hKey
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Decrypt(
    hSession: CK_SESSION_HANDLE,
    pEncryptedData: CK_BYTE_PTR,
    ulEncryptedDataLen: CK_ULONG,
    pData: CK_BYTE_PTR,
    pulDataLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_Decrypt, |caller, module| caller.transform(
        (pEncryptedData, ulEncryptedDataLen),
        (pData, pulDataLen),
        |input, output| module.one_shot(hSession, Function::Decrypt, input, output)
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptUpdate(
    hSession: CK_SESSION_HANDLE,
    pEncryptedPart: CK_BYTE_PTR,
    ulEncryptedPartLen: CK_ULONG,
    pPart: CK_BYTE_PTR,
    pulPartLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_DecryptUpdate, |caller, module| caller.transform(
        (pEncryptedPart, ulEncryptedPartLen),
        (pPart, pulPartLen),
        |input, output| module.update(hSession, Function::Decrypt, input, output)
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptFinal(
    hSession: CK_SESSION_HANDLE,
    pLastPart: CK_BYTE_PTR,
    pulLastPartLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_DecryptFinal, |caller, module| caller.output(pLastPart, pulLastPartLen, |output| module.finish(
        hSession,
        Function::Decrypt,
        output
    )))
}
