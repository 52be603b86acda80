//! The vendor's functions, `KMS_*`: exported, and in the interface "Vendor Conclave".
//!
//! Their comments are those of `include/conclave.h`, whose head (in `build.rs`) says what holds for
//! all of them.
#![allow(non_snake_case, non_camel_case_types, clippy::missing_safety_doc)]

mod aliases;
mod audit;
mod data_key;
mod domain;
mod envelope;
mod import;
mod key_policy;
mod keys;
mod managed;
mod proposal;
mod recovery;
mod replication;
mod rotation;
mod session;
mod users;

pub use aliases::*;
pub use audit::*;
pub use data_key::*;
pub use domain::*;
pub use envelope::*;
pub use import::*;
pub use key_policy::*;
pub use keys::*;
pub use managed::*;
pub use proposal::*;
pub use recovery::*;
pub use replication::*;
pub use rotation::*;
pub use session::*;
pub use users::*;

use cryptoki_sys::{
    CK_BYTE_PTR, CK_FLAGS, CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID, CK_ULONG, CK_ULONG_PTR, CK_USER_TYPE, CK_UTF8CHAR_PTR,
    CK_VERSION,
};

use super::guard;
use super::last_error;
use super::ptr::Caller;
use crate::error::{ErrorKind, Result};
use crate::hsm::Outcome;

/// The name that C_GetInterface takes, with its NUL.
pub(super) const INTERFACE_NAME: &[u8] = b"Vendor Conclave\0";

/// Longest input in bytes, but for a history.
const LONGEST_INPUT: CK_ULONG = 16 << 20;

/// The function list of the interface "Vendor Conclave". Later versions add functions at the end and
/// raise the minor version: 1.0 had KMS_LastError alone, 1.1 ends with KMS_Recover, 1.2 with KMS_VerifyAudit,
/// 1.3 with KMS_ReceiveReplication.
#[repr(C)]
#[expect(clippy::type_complexity, reason = "the types are those of C")]
pub struct KMS_FUNCTION_LIST {
    pub version: CK_VERSION,
    pub KMS_LastError: Option<unsafe extern "C" fn(pMessage: CK_UTF8CHAR_PTR, pulMessageLen: CK_ULONG_PTR) -> CK_RV>,
    pub KMS_DescribeDomain: Option<
        unsafe extern "C" fn(hSession: CK_SESSION_HANDLE, pJson: CK_UTF8CHAR_PTR, pulJsonLen: CK_ULONG_PTR) -> CK_RV,
    >,
    pub KMS_Propose: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            pRequest: CK_UTF8CHAR_PTR,
            ulRequestLen: CK_ULONG,
            pProposal: CK_BYTE_PTR,
            pulProposalLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_DescribeProposal: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            pProposal: CK_BYTE_PTR,
            ulProposalLen: CK_ULONG,
            pJson: CK_UTF8CHAR_PTR,
            pulJsonLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_BytesToSign: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            pProposal: CK_BYTE_PTR,
            ulProposalLen: CK_ULONG,
            pPublicKey: CK_BYTE_PTR,
            ulPublicKeyLen: CK_ULONG,
            pBytes: CK_BYTE_PTR,
            pulBytesLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_AddSignature: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            pProposal: CK_BYTE_PTR,
            ulProposalLen: CK_ULONG,
            pPublicKey: CK_BYTE_PTR,
            ulPublicKeyLen: CK_ULONG,
            pSignature: CK_BYTE_PTR,
            ulSignatureLen: CK_ULONG,
            pSigned: CK_BYTE_PTR,
            pulSignedLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_PutProposal: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            pProposal: CK_BYTE_PTR,
            ulProposalLen: CK_ULONG,
            pMerged: CK_BYTE_PTR,
            pulMergedLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_ListProposals: Option<
        unsafe extern "C" fn(hSession: CK_SESSION_HANDLE, pJson: CK_UTF8CHAR_PTR, pulJsonLen: CK_ULONG_PTR) -> CK_RV,
    >,
    pub KMS_GetProposal: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            pId: CK_BYTE_PTR,
            ulIdLen: CK_ULONG,
            pProposal: CK_BYTE_PTR,
            pulProposalLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_WithdrawProposal:
        Option<unsafe extern "C" fn(hSession: CK_SESSION_HANDLE, pId: CK_BYTE_PTR, ulIdLen: CK_ULONG) -> CK_RV>,
    pub KMS_Execute: Option<
        unsafe extern "C" fn(hSession: CK_SESSION_HANDLE, pProposal: CK_BYTE_PTR, ulProposalLen: CK_ULONG) -> CK_RV,
    >,
    pub KMS_ExportDomainToken: Option<
        unsafe extern "C" fn(hSession: CK_SESSION_HANDLE, pToken: CK_BYTE_PTR, pulTokenLen: CK_ULONG_PTR) -> CK_RV,
    >,
    pub KMS_ReadLog: Option<
        unsafe extern "C" fn(hSession: CK_SESSION_HANDLE, pHistory: CK_BYTE_PTR, pulHistoryLen: CK_ULONG_PTR) -> CK_RV,
    >,
    pub KMS_ImportDomain: Option<
        unsafe extern "C" fn(hSession: CK_SESSION_HANDLE, pHistory: CK_BYTE_PTR, ulHistoryLen: CK_ULONG) -> CK_RV,
    >,
    pub KMS_SetEnrolledPIN: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            userType: CK_USER_TYPE,
            pUsername: CK_UTF8CHAR_PTR,
            ulUsernameLen: CK_ULONG,
            pCode: CK_BYTE_PTR,
            ulCodeLen: CK_ULONG,
            pPin: CK_UTF8CHAR_PTR,
            ulPinLen: CK_ULONG,
        ) -> CK_RV,
    >,
    pub KMS_BeginRecovery: Option<
        unsafe extern "C" fn(
            slotID: CK_SLOT_ID,
            pSoPin: CK_UTF8CHAR_PTR,
            ulSoPinLen: CK_ULONG,
            pClaim: CK_BYTE_PTR,
            pulClaimLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_Recover: Option<
        unsafe extern "C" fn(
            slotID: CK_SLOT_ID,
            pSoPin: CK_UTF8CHAR_PTR,
            ulSoPinLen: CK_ULONG,
            pCommand: CK_BYTE_PTR,
            ulCommandLen: CK_ULONG,
            pContributions: *mut KMS_BYTES,
            ulCount: CK_ULONG,
        ) -> CK_RV,
    >,
    pub KMS_EnableKey: KMS_CHANGE,
    pub KMS_DisableKey: KMS_CHANGE,
    pub KMS_ScheduleKeyDeletion: KMS_CHANGE,
    pub KMS_CancelKeyDeletion: KMS_CHANGE,
    pub KMS_UpdateKeyDescription: KMS_CHANGE,
    pub KMS_TagKey: KMS_CHANGE,
    pub KMS_UntagKey: KMS_CHANGE,
    pub KMS_CreateAlias: KMS_CHANGE,
    pub KMS_UpdateAlias: KMS_CHANGE,
    pub KMS_DeleteAlias: KMS_CHANGE,
    pub KMS_RotateKey: KMS_CHANGE,
    pub KMS_SetRotation: KMS_CHANGE,
    pub KMS_DeleteImportedKeyMaterial: KMS_CHANGE,
    pub KMS_PutKeyPolicy: KMS_CHANGE,
    pub KMS_RetireGrant: KMS_CHANGE,
    pub KMS_RevokeGrant: KMS_CHANGE,
    pub KMS_RunDue: KMS_CHANGE,
    pub KMS_CreateKey: KMS_CREATION,
    pub KMS_CreateGrant: KMS_CREATION,
    pub KMS_DescribeKey: KMS_QUERY,
    pub KMS_ListKeys: KMS_QUERY,
    pub KMS_ListAliases: KMS_QUERY,
    pub KMS_GetKeyRotationStatus: KMS_QUERY,
    pub KMS_ListRotations: KMS_QUERY,
    pub KMS_GetKeyPolicy: KMS_QUERY,
    pub KMS_ListGrants: KMS_QUERY,
    pub KMS_ListUsers: KMS_QUERY,
    pub KMS_Encrypt: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            flags: CK_FLAGS,
            pKey: CK_UTF8CHAR_PTR,
            ulKeyLen: CK_ULONG,
            pContext: CK_UTF8CHAR_PTR,
            ulContextLen: CK_ULONG,
            pPlaintext: CK_BYTE_PTR,
            ulPlaintextLen: CK_ULONG,
            pBlob: CK_BYTE_PTR,
            pulBlobLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_Decrypt: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            flags: CK_FLAGS,
            pKey: CK_UTF8CHAR_PTR,
            ulKeyLen: CK_ULONG,
            pContext: CK_UTF8CHAR_PTR,
            ulContextLen: CK_ULONG,
            pBlob: CK_BYTE_PTR,
            ulBlobLen: CK_ULONG,
            pPlaintext: CK_BYTE_PTR,
            pulPlaintextLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_ReEncrypt: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            flags: CK_FLAGS,
            pSourceContext: CK_UTF8CHAR_PTR,
            ulSourceContextLen: CK_ULONG,
            pBlob: CK_BYTE_PTR,
            ulBlobLen: CK_ULONG,
            pKey: CK_UTF8CHAR_PTR,
            ulKeyLen: CK_ULONG,
            pContext: CK_UTF8CHAR_PTR,
            ulContextLen: CK_ULONG,
            pNewBlob: CK_BYTE_PTR,
            pulNewBlobLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_GenerateDataKey: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            flags: CK_FLAGS,
            pKey: CK_UTF8CHAR_PTR,
            ulKeyLen: CK_ULONG,
            ulBytes: CK_ULONG,
            pContext: CK_UTF8CHAR_PTR,
            ulContextLen: CK_ULONG,
            pPlaintext: CK_BYTE_PTR,
            pulPlaintextLen: CK_ULONG_PTR,
            pBlob: CK_BYTE_PTR,
            pulBlobLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_GenerateDataKeyWithoutPlaintext: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            flags: CK_FLAGS,
            pKey: CK_UTF8CHAR_PTR,
            ulKeyLen: CK_ULONG,
            ulBytes: CK_ULONG,
            pContext: CK_UTF8CHAR_PTR,
            ulContextLen: CK_ULONG,
            pBlob: CK_BYTE_PTR,
            pulBlobLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_GenerateDataKeyPair: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            flags: CK_FLAGS,
            pKey: CK_UTF8CHAR_PTR,
            ulKeyLen: CK_ULONG,
            pSpec: CK_UTF8CHAR_PTR,
            ulSpecLen: CK_ULONG,
            pContext: CK_UTF8CHAR_PTR,
            ulContextLen: CK_ULONG,
            pPublic: CK_BYTE_PTR,
            pulPublicLen: CK_ULONG_PTR,
            pPrivate: CK_BYTE_PTR,
            pulPrivateLen: CK_ULONG_PTR,
            pBlob: CK_BYTE_PTR,
            pulBlobLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_GenerateDataKeyPairWithoutPlaintext: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            flags: CK_FLAGS,
            pKey: CK_UTF8CHAR_PTR,
            ulKeyLen: CK_ULONG,
            pSpec: CK_UTF8CHAR_PTR,
            ulSpecLen: CK_ULONG,
            pContext: CK_UTF8CHAR_PTR,
            ulContextLen: CK_ULONG,
            pPublic: CK_BYTE_PTR,
            pulPublicLen: CK_ULONG_PTR,
            pBlob: CK_BYTE_PTR,
            pulBlobLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_GetParametersForImport: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            flags: CK_FLAGS,
            pKey: CK_UTF8CHAR_PTR,
            ulKeyLen: CK_ULONG,
            pAlgorithm: CK_UTF8CHAR_PTR,
            ulAlgorithmLen: CK_ULONG,
            pWrappingSpec: CK_UTF8CHAR_PTR,
            ulWrappingSpecLen: CK_ULONG,
            pPublicKey: CK_BYTE_PTR,
            pulPublicKeyLen: CK_ULONG_PTR,
            pToken: CK_BYTE_PTR,
            pulTokenLen: CK_ULONG_PTR,
            pulValidTo: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_ImportKeyMaterial: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            flags: CK_FLAGS,
            pKey: CK_UTF8CHAR_PTR,
            ulKeyLen: CK_ULONG,
            pToken: CK_BYTE_PTR,
            ulTokenLen: CK_ULONG,
            pWrapped: CK_BYTE_PTR,
            ulWrappedLen: CK_ULONG,
            ulValidTo: CK_ULONG,
        ) -> CK_RV,
    >,
    pub KMS_CreateUser: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            pName: CK_UTF8CHAR_PTR,
            ulNameLen: CK_ULONG,
            pPin: CK_UTF8CHAR_PTR,
            ulPinLen: CK_ULONG,
        ) -> CK_RV,
    >,
    pub KMS_RemoveUser:
        Option<unsafe extern "C" fn(hSession: CK_SESSION_HANDLE, pName: CK_UTF8CHAR_PTR, ulNameLen: CK_ULONG) -> CK_RV>,
    pub KMS_AuditHead: Option<
        unsafe extern "C" fn(hSession: CK_SESSION_HANDLE, pHead: CK_BYTE_PTR, pulHeadLen: CK_ULONG_PTR) -> CK_RV,
    >,
    pub KMS_ReadAudit: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            ulAfter: CK_ULONG,
            pJsonLines: CK_UTF8CHAR_PTR,
            pulJsonLinesLen: CK_ULONG_PTR,
            pulLast: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_VerifyAudit: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            pHead: CK_BYTE_PTR,
            ulHeadLen: CK_ULONG,
            pJson: CK_UTF8CHAR_PTR,
            pulJsonLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_ReplicateKey: KMS_CHANGE,
    pub KMS_UpdatePrimaryRegion: KMS_CHANGE,
    pub KMS_DescribeReplicas: KMS_QUERY,
    pub KMS_PendingReplication: KMS_QUERY,
    pub KMS_TellReplicas: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            pRequest: CK_UTF8CHAR_PTR,
            ulRequestLen: CK_ULONG,
            pMessage: CK_BYTE_PTR,
            pulMessageLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_OfferReplicas: Option<
        unsafe extern "C" fn(
            hSession: CK_SESSION_HANDLE,
            pRequest: CK_UTF8CHAR_PTR,
            ulRequestLen: CK_ULONG,
            pOffer: CK_BYTE_PTR,
            pulOfferLen: CK_ULONG_PTR,
        ) -> CK_RV,
    >,
    pub KMS_ShipReplicas: KMS_EXCHANGE,
    pub KMS_AcceptReplicas: Option<
        unsafe extern "C" fn(hSession: CK_SESSION_HANDLE, pShipment: CK_BYTE_PTR, ulShipmentLen: CK_ULONG) -> CK_RV,
    >,
    pub KMS_ConfirmReplicas: KMS_EXCHANGE,
    pub KMS_ReceiveReplication: KMS_EXCHANGE,
    pub KMS_DescribeSession: Option<
        unsafe extern "C" fn(hSession: CK_SESSION_HANDLE, pJson: CK_UTF8CHAR_PTR, pulJsonLen: CK_ULONG_PTR) -> CK_RV,
    >,
}

macro_rules! table {
    ($($name:ident)*) => {
        pub(super) static FUNCTION_LIST: KMS_FUNCTION_LIST =
            KMS_FUNCTION_LIST { version: CK_VERSION { major: 1, minor: 4 }, $($name: Some($name),)* };

        /// The names of all functions, in the order of the list.
        pub const NAMES: &[&str] = &[$(stringify!($name),)*];
    };
}

table! {
    KMS_LastError
    KMS_DescribeDomain
    KMS_Propose KMS_DescribeProposal KMS_BytesToSign KMS_AddSignature KMS_PutProposal KMS_ListProposals
    KMS_GetProposal KMS_WithdrawProposal KMS_Execute
    KMS_ExportDomainToken KMS_ReadLog KMS_ImportDomain KMS_SetEnrolledPIN
    KMS_BeginRecovery KMS_Recover
    KMS_EnableKey KMS_DisableKey KMS_ScheduleKeyDeletion KMS_CancelKeyDeletion
    KMS_UpdateKeyDescription KMS_TagKey KMS_UntagKey KMS_CreateAlias KMS_UpdateAlias KMS_DeleteAlias
    KMS_RotateKey KMS_SetRotation KMS_DeleteImportedKeyMaterial KMS_PutKeyPolicy KMS_RetireGrant
    KMS_RevokeGrant KMS_RunDue
    KMS_CreateKey KMS_CreateGrant
    KMS_DescribeKey KMS_ListKeys KMS_ListAliases KMS_GetKeyRotationStatus KMS_ListRotations
    KMS_GetKeyPolicy KMS_ListGrants KMS_ListUsers
    KMS_Encrypt KMS_Decrypt KMS_ReEncrypt KMS_GenerateDataKey KMS_GenerateDataKeyWithoutPlaintext
    KMS_GenerateDataKeyPair KMS_GenerateDataKeyPairWithoutPlaintext KMS_GetParametersForImport
    KMS_ImportKeyMaterial
    KMS_CreateUser KMS_RemoveUser
    KMS_AuditHead KMS_ReadAudit KMS_VerifyAudit
    KMS_ReplicateKey KMS_UpdatePrimaryRegion KMS_DescribeReplicas KMS_PendingReplication KMS_TellReplicas
    KMS_OfferReplicas KMS_ShipReplicas KMS_AcceptReplicas KMS_ConfirmReplicas KMS_ReceiveReplication
    KMS_DescribeSession
}

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

/// An input that is neither a history nor a message between Regions: CKR_ARGUMENTS_BAD for NULL with a length, and for more than
/// [`LONGEST_INPUT`].
fn input(caller: &Caller, pointer: *const u8, len: CK_ULONG) -> Result<&[u8]> {
    if len > LONGEST_INPUT {
        return Err(ErrorKind::ArgumentsBad.with("an input is longer than 16 MiB"));
    }
    caller.bytes(pointer, len)
}
