//! The vendor's functions, `KMS_*`: exported, and in the interface "Vendor Conclave".
#![allow(non_snake_case, non_camel_case_types, clippy::missing_safety_doc)]

use cryptoki_sys::{CK_RV, CK_ULONG_PTR, CK_UTF8CHAR_PTR, CK_VERSION};

use super::guard;
use super::last_error;
use super::ptr::Caller;
use crate::hsm::Outcome;

/// The name that C_GetInterface takes, with its NUL.
pub(super) const INTERFACE_NAME: &[u8] = b"Vendor Conclave\0";

/// The function list of the interface "Vendor Conclave". Later versions add functions at the end and
/// raise the minor version.
#[repr(C)]
pub struct KMS_FUNCTION_LIST {
    pub version: CK_VERSION,
    pub KMS_LastError: Option<unsafe extern "C" fn(pMessage: CK_UTF8CHAR_PTR, pulMessageLen: CK_ULONG_PTR) -> CK_RV>,
}

pub(super) static FUNCTION_LIST: KMS_FUNCTION_LIST =
    KMS_FUNCTION_LIST { version: CK_VERSION { major: 1, minor: 0 }, KMS_LastError: Some(KMS_LastError) };

/// Gives the sentence about the last C_ or KMS_ call that failed in the calling thread: the
/// function, the return code's name and what was wrong. UTF-8, without a NUL at the end; empty if no
/// call failed. It never has a secret in it. With `pMessage` NULL only the length is given;
/// CKR_BUFFER_TOO_SMALL with the length needed if `*pulMessageLen` is less. Works at any time, also
/// before C_Initialize.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_LastError(pMessage: CK_UTF8CHAR_PTR, pulMessageLen: CK_ULONG_PTR) -> CK_RV {
    // Not through `entry!`: its own failure must not replace the sentence that is asked for.
    guard::unrecorded(|| {
        // SAFETY: the pointers are those of this function's caller, used while it runs.
        let caller = unsafe { Caller::new() };
        last_error::with(|sentence| {
            caller.output(pMessage, pulMessageLen, |output| match output {
                Some(output) if output.len() >= sentence.len() => {
                    output[..sentence.len()].copy_from_slice(sentence);
                    Ok(Outcome::Written(sentence.len()))
                }
                _ => Ok(Outcome::Needed(sentence.len())),
            })
        })
    })
}
