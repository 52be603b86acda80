//! Encryption (PKCS#11 3.2 §5.8).

use cryptoki_sys::{CK_BYTE_PTR, CK_MECHANISM_PTR, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR};

use crate::abi::guard::entry;
use crate::abi::params;
use crate::hsm::Function;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptInit(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hKey: CK_OBJECT_HANDLE,
) -> CK_RV {
    entry!(C_EncryptInit, |caller, module| {
        if module.generates_zero_iv() {
            params::generate_zero_iv(caller, pMechanism, |iv| module.generate_random(hSession, iv))?;
        }
        module.init(hSession, Function::Encrypt, params::optional_mechanism(caller, pMechanism)?.as_ref(), hKey)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Encrypt(
    hSession: CK_SESSION_HANDLE,
    pData: CK_BYTE_PTR,
    ulDataLen: CK_ULONG,
    pEncryptedData: CK_BYTE_PTR,
    pulEncryptedDataLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_Encrypt, |caller, module| caller.transform(
        (pData, ulDataLen),
        (pEncryptedData, pulEncryptedDataLen),
        |input, output| module.one_shot(hSession, Function::Encrypt, input, output)
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptUpdate(
    hSession: CK_SESSION_HANDLE,
    pPart: CK_BYTE_PTR,
    ulPartLen: CK_ULONG,
    pEncryptedPart: CK_BYTE_PTR,
    pulEncryptedPartLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_EncryptUpdate, |caller, module| caller.transform(
        (pPart, ulPartLen),
        (pEncryptedPart, pulEncryptedPartLen),
        |input, output| module.update(hSession, Function::Encrypt, input, output)
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_EncryptFinal(
    hSession: CK_SESSION_HANDLE,
    pLastEncryptedPart: CK_BYTE_PTR,
    pulLastEncryptedPartLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_EncryptFinal, |caller, module| caller.output(pLastEncryptedPart, pulLastEncryptedPartLen, |output| module
        .finish(hSession, Function::Encrypt, output)))
}
