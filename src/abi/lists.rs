//! The function tables of 2.40, 3.0 and 3.2 and the interfaces, all from one list of functions.

use cryptoki_sys as ck;

use super::entry::*;
use super::info;
use super::ptr::Caller;
use super::vendor;
use crate::error::{ErrorKind, Result};

/// Calls `$with` with the names of the functions: those of 2.40, of 3.0, and of 3.2.
macro_rules! functions {
    ($with:ident) => {
        $with! {
            [
                C_Initialize C_Finalize C_GetInfo C_GetFunctionList
                C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList C_GetMechanismInfo
                C_InitToken C_InitPIN C_SetPIN
                C_OpenSession C_CloseSession C_CloseAllSessions C_GetSessionInfo
                C_GetOperationState C_SetOperationState C_Login C_Logout
                C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize
                C_GetAttributeValue C_SetAttributeValue
                C_FindObjectsInit C_FindObjects C_FindObjectsFinal
                C_EncryptInit C_Encrypt C_EncryptUpdate C_EncryptFinal
                C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal
                C_DigestInit C_Digest C_DigestUpdate C_DigestKey C_DigestFinal
                C_SignInit C_Sign C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover
                C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal C_VerifyRecoverInit C_VerifyRecover
                C_DigestEncryptUpdate C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate
                C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey
                C_SeedRandom C_GenerateRandom
                C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent
            ]
            [
                C_GetInterfaceList C_GetInterface C_LoginUser C_SessionCancel
                C_MessageEncryptInit C_EncryptMessage C_EncryptMessageBegin C_EncryptMessageNext C_MessageEncryptFinal
                C_MessageDecryptInit C_DecryptMessage C_DecryptMessageBegin C_DecryptMessageNext C_MessageDecryptFinal
                C_MessageSignInit C_SignMessage C_SignMessageBegin C_SignMessageNext C_MessageSignFinal
                C_MessageVerifyInit C_VerifyMessage C_VerifyMessageBegin C_VerifyMessageNext C_MessageVerifyFinal
            ]
            [
                C_EncapsulateKey C_DecapsulateKey
                C_VerifySignatureInit C_VerifySignature C_VerifySignatureUpdate C_VerifySignatureFinal
                C_GetSessionValidationFlags
                C_AsyncComplete C_AsyncGetID C_AsyncJoin
                C_WrapKeyAuthenticated C_UnwrapKeyAuthenticated
            ]
        }
    };
}

macro_rules! tables {
    ([$($v2:ident)*] [$($v3_0:ident)*] [$($v3_2:ident)*]) => {
        static LIST_2_40: ck::CK_FUNCTION_LIST =
            ck::CK_FUNCTION_LIST { version: V2_40, $($v2: Some($v2),)* };

        static LIST_3_0: ck::CK_FUNCTION_LIST_3_0 =
            ck::CK_FUNCTION_LIST_3_0 { version: V3_0, $($v2: Some($v2),)* $($v3_0: Some($v3_0),)* };

        static LIST_3_2: ck::CK_FUNCTION_LIST_3_2 = ck::CK_FUNCTION_LIST_3_2 {
            version: info::CRYPTOKI,
            $($v2: Some($v2),)* $($v3_0: Some($v3_0),)* $($v3_2: Some($v3_2),)*
        };

        /// The names of all functions, in the order of the tables.
        pub const NAMES: &[&str] =
            &[$(stringify!($v2),)* $(stringify!($v3_0),)* $(stringify!($v3_2),)*];
    };
}

const V2_40: ck::CK_VERSION = ck::CK_VERSION { major: 2, minor: 40 };
const V3_0: ck::CK_VERSION = ck::CK_VERSION { major: 3, minor: 0 };

functions!(tables);

const STANDARD: &[u8] = b"PKCS 11\0";

/// The default first (PKCS#11 3.2 §5.4.5). None is CKF_INTERFACE_FORK_SAFE.
static INTERFACES: Interfaces = Interfaces([
    interface_of(STANDARD, (&raw const LIST_3_2).cast()),
    interface_of(STANDARD, (&raw const LIST_3_0).cast()),
    interface_of(STANDARD, (&raw const LIST_2_40).cast()),
    interface_of(vendor::INTERFACE_NAME, (&raw const vendor::FUNCTION_LIST).cast()),
]);

struct Interfaces([ck::CK_INTERFACE; 4]);

// SAFETY: the pointers lead to statics that never change.
unsafe impl Sync for Interfaces {}

const fn interface_of(name: &'static [u8], functions: *const std::ffi::c_void) -> ck::CK_INTERFACE {
    ck::CK_INTERFACE { pInterfaceName: name.as_ptr().cast_mut(), pFunctionList: functions.cast_mut(), flags: 0 }
}

/// The table of 2.40, which is what C_GetFunctionList gives (§5.4.4).
pub(super) fn function_list() -> *mut ck::CK_FUNCTION_LIST {
    (&raw const LIST_2_40).cast_mut()
}

pub(super) fn interfaces() -> &'static [ck::CK_INTERFACE] {
    &INTERFACES.0
}

/// C_GetInterface (§5.4.6): the first interface that has the name, the version and all the flags. A
/// NULL name or version stands for any. The vendor's list begins with all that its earlier versions
/// had, so it is one of those, too.
pub(super) fn interface(
    caller: &Caller,
    (name, version, flags): (ck::CK_UTF8CHAR_PTR, Option<ck::CK_VERSION>, ck::CK_FLAGS),
    result: ck::CK_INTERFACE_PTR_PTR,
) -> Result<()> {
    let place = caller.place(result)?;
    let found = INTERFACES.0.iter().find(|interface| {
        // SAFETY: every function list starts with its version.
        let offered = unsafe { interface.pFunctionList.cast::<ck::CK_VERSION>().read() };
        (name.is_null() || caller.is_string(name, interface.pInterfaceName))
            && version.is_none_or(|wanted| {
                let vendors = interface.pInterfaceName.cast_const() == vendor::INTERFACE_NAME.as_ptr();
                let enough = vendors && wanted.minor < offered.minor;
                wanted.major == offered.major && (wanted.minor == offered.minor || enough)
            })
            && interface.flags & flags == flags
    });
    let found = found.ok_or_else(|| ErrorKind::FunctionFailed.with("there is no such interface"))?;
    place.write(std::ptr::from_ref(found).cast_mut());
    Ok(())
}
