//! Recovery of a domain whose PINs are lost, by its operators' shares.

use cryptoki_sys::{CK_BYTE_PTR, CK_RV, CK_SLOT_ID, CK_ULONG, CK_ULONG_PTR, CK_UTF8CHAR_PTR};

use super::input;
use crate::abi::guard::entry;
use crate::error::ErrorKind;

/// Bytes that are enough for every claim of an HSM.
pub const KMS_MAX_CLAIM_LEN: CK_ULONG = 1024;

/// More shares than a recovery set can have.
const MOST_CONTRIBUTIONS: CK_ULONG = 1024;

/// Some bytes of the caller.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KMS_BYTES {
    pub pBytes: CK_BYTE_PTR,
    pub ulLen: CK_ULONG,
}

/// Begins a recovery: makes keys for the HSM that is to carry the domain on, and gives the claim by
/// which the command "recover domain" names it. The keys wait in the token, sealed under the SO's
/// new PIN; a recovery that was begun before is forgotten. Needs no session.
///
/// slotID: the token's slot.
/// pSoPin, ulSoPinLen: the PIN that the SO will have. KMS_Recover takes the same. UTF-8. NULL for a
///     fleet, whose fresh HSM (reached by its operators' socket) keeps its keys itself.
/// pClaim, *pulClaimLen: gets the claim (COSE_Sign1). The buffer has at least KMS_MAX_CLAIM_LEN
///     bytes, which is also the length given if pClaim is NULL; no keys are made then.
///
/// CKR_ARGUMENTS_BAD: also for an embedded domain without a PIN. CKR_BUFFER_TOO_SMALL: nothing was
/// made. CKR_SLOT_ID_INVALID. CKR_TOKEN_NOT_RECOGNIZED: the token
/// is not initialised. CKR_PIN_LEN_RANGE. CKR_PIN_INVALID: the PIN is not UTF-8.
/// CKR_FUNCTION_REJECTED: the domain has no recovery set, or is not one that recovers here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_BeginRecovery(
    slotID: CK_SLOT_ID,
    pSoPin: CK_UTF8CHAR_PTR,
    ulSoPinLen: CK_ULONG,
    pClaim: CK_BYTE_PTR,
    pulClaimLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_BeginRecovery, |caller, module| {
        let output = caller.room(pClaim, pulClaimLen)?;
        let most = KMS_MAX_CLAIM_LEN as usize;
        if output.len() < most {
            module.token_info(slotID)?;
            return output.need(most);
        }
        output.give(&module.begin_recovery(slotID, caller.optional_bytes(pSoPin, ulSoPinLen)?)?)
    })
}

/// Recovers the domain with the operators' shares. The HSM that KMS_BeginRecovery made is then the
/// domain's only one, with new domain keys beside the old ones; the SO's PIN is the one given, and
/// all others (in a fleet all) have to be reset by "reset PIN". Needs no session.
///
/// slotID: the token's slot.
/// pSoPin, ulSoPinLen: the PIN that KMS_BeginRecovery was given; NULL for a fleet.
/// pCommand, ulCommandLen: the command "recover domain" with its signatures.
/// pContributions, ulCount: the operators' contributions, each the bytes that an operator's side
///     made of his share for this command. An array of the caller's; neither it nor what it points
///     to is changed or kept.
///
/// CKR_ARGUMENTS_BAD: also for an embedded domain without a PIN, and for more than 1024 contributions. CKR_SLOT_ID_INVALID.
/// CKR_TOKEN_NOT_RECOGNIZED: the token is not initialised, or the waiting keys are damaged.
/// CKR_PIN_INCORRECT: it is not the PIN that the recovery was begun with. CKR_DATA_INVALID: the
/// command or a contribution is malformed. CKR_FUNCTION_REJECTED: no recovery was begun, the command
/// is refused, or the shares are too few or wrong; KMS_LastError says which. Nothing has changed
/// then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_Recover(
    slotID: CK_SLOT_ID,
    pSoPin: CK_UTF8CHAR_PTR,
    ulSoPinLen: CK_ULONG,
    pCommand: CK_BYTE_PTR,
    ulCommandLen: CK_ULONG,
    pContributions: *mut KMS_BYTES,
    ulCount: CK_ULONG,
) -> CK_RV {
    entry!(KMS_Recover, |caller, module| {
        if ulCount > MOST_CONTRIBUTIONS {
            return Err(ErrorKind::ArgumentsBad.with("there are more than 1024 contributions"));
        }
        let pin = caller.optional_bytes(pSoPin, ulSoPinLen)?;
        let command = input(caller, pCommand, ulCommandLen)?;
        let contributions = caller.array(pContributions, ulCount)?.iter();
        let contributions: Result<Vec<_>, _> = contributions.map(|one| input(caller, one.pBytes, one.ulLen)).collect();
        module.recover(slotID, pin, command, &contributions?)
    })
}
