//! Who serves a session.

use cryptoki_sys::{CK_RV, CK_SESSION_HANDLE, CK_ULONG_PTR, CK_UTF8CHAR_PTR};

use crate::abi::guard::entry;

/// Tells which HSM serves the session's token, and until when. Needs no login.
///
/// pJson, *pulJsonLen: gets a JSON object. Mode is "embedded" (the HSM is in this process, and there is
///     no more to tell) or "fleet"; then there are Region, DomainVersion, Members (ids of the HSMs that the
///     domain has), Connections (how many this process has open), ValidUntil (the end of its session key,
///     seconds since 1970; null before the first), Hsms (one object for each that the configuration lists:
///     Address, Hsm, Connections, Trouble, and Home: whether it holds this process's approvals and its exchanges
///     with other Regions), and of the HSM that answered this question Hsm (its id), Name, Address and Microseconds,
///     or Error if none did. Another HSM may serve the next call.
///
/// CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_DescribeSession(
    hSession: CK_SESSION_HANDLE,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_DescribeSession, |caller, module| {
        let output = caller.room(pJson, pulJsonLen)?;
        output.give(module.describe_session(hSession)?.as_bytes())
    })
}
