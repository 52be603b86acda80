//! The audit log of managed keys.

use cryptoki_sys::{CK_BYTE_PTR, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR, CK_UTF8CHAR_PTR};

use super::input;
use crate::abi::guard::entry;
use crate::error::ErrorKind;

/// What a signed head has room in, in bytes.
const HEAD: usize = 512;
/// The most rows that one call gives.
const ROWS: usize = 1000;

/// Signs a head of the audit log: it vouches for all records that there are now. Kept where nobody who
/// can write the store can change it, printed even, it shows any later edit, removal, truncation or
/// rollback (KMS_VerifyAudit). A user or the SO is logged in.
///
/// pHead, *pulHeadLen: gets the head (COSE_Sign1), at most 512 bytes, for which there must be room. A
///     call that gives only the length signs nothing.
///
/// CKR_USER_NOT_LOGGED_IN. CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_AuditHead(
    hSession: CK_SESSION_HANDLE,
    pHead: CK_BYTE_PTR,
    pulHeadLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_AuditHead, |caller, module| {
        let output = caller.room(pHead, pulHeadLen)?;
        if output.len() < HEAD {
            return output.need(HEAD);
        }
        output.give(&module.audit_head(hSession)?)
    })
}

/// Reads the audit log, oldest rows first, in pages. A user or the SO is logged in.
///
/// ulAfter: 0 for the first page, then the last one's *pulLast.
/// pJsonLines, *pulJsonLinesLen: gets as many of the rows after that as there is room for, at most 1000:
///     a JSON object each, ended by a newline. The length 0 is the end of the log. A row has id (what
///     ulAfter counts), row ("anchor", "event", "head", or "damaged" with its bytes), instance, seq, time,
///     hash; an event has principal, host, action, key, target, context, outcome. docs/protocols.md says
///     what they mean.
/// pulLast: gets the id of the last row given; ulAfter if none is.
///
/// CKR_USER_NOT_LOGGED_IN. CKR_BUFFER_TOO_SMALL: there is no room for one row; *pulJsonLinesLen is what
/// it needs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ReadAudit(
    hSession: CK_SESSION_HANDLE,
    ulAfter: CK_ULONG,
    pJsonLines: CK_UTF8CHAR_PTR,
    pulJsonLinesLen: CK_ULONG_PTR,
    pulLast: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_ReadAudit, |caller, module| {
        let output = caller.room(pJsonLines, pulJsonLinesLen)?;
        let place = caller.place(pulLast)?;
        let rows = module.read_audit(hSession, ulAfter, ROWS)?;
        let (mut lines, mut last) = (String::new(), ulAfter);
        let asked = pJsonLines.is_null();
        for (id, line) in &rows {
            if !asked && !lines.is_empty() && lines.len() + line.len() + 1 > output.len() {
                break;
            }
            lines.push_str(line);
            lines.push('\n');
            last = CK_ULONG::try_from(*id).map_err(|_| ErrorKind::GeneralError)?;
        }
        output.give(lines.as_bytes())?;
        place.write(if asked { ulAfter } else { last });
        Ok(())
    })
}

/// Reads the whole audit log and says whether it is as the HSMs of the domain wrote it. Needs no login.
/// It takes as long as the log is long, also when only the length is asked for.
///
/// pHead, ulHeadLen: a head that was kept elsewhere (KMS_AuditHead), for which the log is to have
///     everything; NULL and 0 for none. Without one, a log that was cut off at its end, or put back as a
///     whole to what it once was, looks whole.
/// pJson, *pulJsonLen: gets a JSON object: ok, rows, chains, events, heads, head_checked, damage_count,
///     damage (the first 1000: id, instance, seq, what), open_count, open (chains that were not closed,
///     which is no damage: instance, host, seq, time, unsigned).
///
/// CKR_DATA_INVALID: it is not a head. CKR_SIGNATURE_INVALID: no HSM of this domain signed it.
/// CKR_TOKEN_NOT_RECOGNIZED: the domain's own log was damaged. CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_VerifyAudit(
    hSession: CK_SESSION_HANDLE,
    pHead: CK_BYTE_PTR,
    ulHeadLen: CK_ULONG,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_VerifyAudit, |caller, module| {
        let output = caller.room(pJson, pulJsonLen)?;
        let head = input(caller, pHead, ulHeadLen)?;
        let head = (!head.is_empty()).then_some(head);
        let report = module.verify_audit(hSession, head, &mut |_, _| ())?;
        output.give(&serde_json::to_vec(&report).map_err(|_| ErrorKind::GeneralError)?)
    })
}
