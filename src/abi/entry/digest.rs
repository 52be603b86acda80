//! Message digesting (PKCS#11 3.2 §5.12).

use cryptoki_sys::{
    CK_BYTE_PTR, CK_INVALID_HANDLE, CK_MECHANISM_PTR, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG,
    CK_ULONG_PTR,
};

use crate::abi::guard::entry;
use crate::abi::params;
use crate::hsm::Function;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestInit(hSession: CK_SESSION_HANDLE, pMechanism: CK_MECHANISM_PTR) -> CK_RV {
    entry!(C_DigestInit, |caller, module| module.init(
        hSession,
        Function::Digest,
        params::optional_mechanism(caller, pMechanism)?.as_ref(),
        CK_INVALID_HANDLE
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Digest(
    hSession: CK_SESSION_HANDLE,
    pData: CK_BYTE_PTR,
    ulDataLen: CK_ULONG,
    pDigest: CK_BYTE_PTR,
    pulDigestLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_Digest, |caller, module| caller.transform((pData, ulDataLen), (pDigest, pulDigestLen), |input, output| {
        module.one_shot(hSession, Function::Digest, input, output)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestUpdate(hSession: CK_SESSION_HANDLE, pPart: CK_BYTE_PTR, ulPartLen: CK_ULONG) -> CK_RV {
    entry!(C_DigestUpdate, |caller, module| module
        .update(hSession, Function::Digest, caller.bytes(pPart, ulPartLen)?, None)
        .map(drop))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestKey(hSession: CK_SESSION_HANDLE, hKey: CK_OBJECT_HANDLE) -> CK_RV {
    entry!(C_DigestKey, |_, module| module.digest_key(hSession, hKey))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestFinal(
    hSession: CK_SESSION_HANDLE,
    pDigest: CK_BYTE_PTR,
    pulDigestLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_DigestFinal, |caller, module| caller.output(pDigest, pulDigestLen, |output| module.finish(
        hSession,
        Function::Digest,
        output
    )))
}
