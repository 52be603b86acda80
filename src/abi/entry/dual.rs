//! Dual-function cryptographic functions (PKCS#11 3.2 §5.17).

use cryptoki_sys::{CK_BYTE_PTR, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR};

use crate::abi::guard::entry;
use crate::hsm::Function;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestEncryptUpdate(
    hSession: CK_SESSION_HANDLE,
    pPart: CK_BYTE_PTR,
    ulPartLen: CK_ULONG,
    pEncryptedPart: CK_BYTE_PTR,
    pulEncryptedPartLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_DigestEncryptUpdate, |caller, module| caller.transform(
        (pPart, ulPartLen),
        (pEncryptedPart, pulEncryptedPartLen),
        |input, output| module.dual_update(hSession, Function::Encrypt, Function::Digest, input, output)
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptDigestUpdate(
    hSession: CK_SESSION_HANDLE,
    pEncryptedPart: CK_BYTE_PTR,
    ulEncryptedPartLen: CK_ULONG,
    pPart: CK_BYTE_PTR,
    pulPartLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_DecryptDigestUpdate, |caller, module| caller.transform(
        (pEncryptedPart, ulEncryptedPartLen),
        (pPart, pulPartLen),
        |input, output| module.dual_update(hSession, Function::Decrypt, Function::Digest, input, output)
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SignEncryptUpdate(
    hSession: CK_SESSION_HANDLE,
    pPart: CK_BYTE_PTR,
    ulPartLen: CK_ULONG,
    pEncryptedPart: CK_BYTE_PTR,
    pulEncryptedPartLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_SignEncryptUpdate, |caller, module| caller.transform(
        (pPart, ulPartLen),
        (pEncryptedPart, pulEncryptedPartLen),
        |input, output| module.dual_update(hSession, Function::Encrypt, Function::Sign, input, output)
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DecryptVerifyUpdate(
    hSession: CK_SESSION_HANDLE,
    pEncryptedPart: CK_BYTE_PTR,
    ulEncryptedPartLen: CK_ULONG,
    pPart: CK_BYTE_PTR,
    pulPartLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_DecryptVerifyUpdate, |caller, module| caller.transform(
        (pEncryptedPart, ulEncryptedPartLen),
        (pPart, pulPartLen),
        |input, output| module.dual_update(hSession, Function::Decrypt, Function::Verify, input, output)
    ))
}
