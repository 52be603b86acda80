//! Random numbers (PKCS#11 3.2 §5.19).

use cryptoki_sys::{CK_BYTE_PTR, CK_RV, CK_SESSION_HANDLE, CK_ULONG};

use crate::abi::guard::entry;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SeedRandom(hSession: CK_SESSION_HANDLE, pSeed: CK_BYTE_PTR, ulSeedLen: CK_ULONG) -> CK_RV {
    entry!(C_SeedRandom, |caller, module| module.seed_random(hSession, caller.bytes(pSeed, ulSeedLen)?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GenerateRandom(
    hSession: CK_SESSION_HANDLE,
    RandomData: CK_BYTE_PTR,
    ulRandomLen: CK_ULONG,
) -> CK_RV {
    entry!(C_GenerateRandom, |caller, module| caller
        .fill(RandomData, ulRandomLen, |output| module.generate_random(hSession, output)))
}
