//! What the functions of managed keys have in common.

use cryptoki_sys::{CK_BYTE_PTR, CK_FLAGS, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR, CK_UTF8CHAR_PTR};

use super::input;
use crate::abi::ptr::{Caller, Room};
use crate::cryptoki::{KeyQuery, Module};
use crate::error::{ErrorKind, Result};
use crate::hsm::{self, Manage};

/// The flag by which a function does nothing but say whether it would: KMS_R_DRY_RUN.
pub const KMS_DRY_RUN: CK_FLAGS = 1;

/// Bytes of a key id, and of a grant id.
pub const KMS_ID_LEN: CK_ULONG = 36;

/// Bytes by which a blob is longer than its plaintext, at most.
pub const KMS_MAX_BLOB_OVERHEAD: CK_ULONG = 169;

/// Bytes that are enough for every public key of KMS_GenerateDataKeyPair and KMS_GetParametersForImport.
pub const KMS_MAX_PUBLIC_KEY_LEN: CK_ULONG = 1024;

/// Bytes that are enough for every private key of KMS_GenerateDataKeyPair.
pub const KMS_MAX_PRIVATE_KEY_LEN: CK_ULONG = 4096;

/// Bytes that are enough for every import token.
pub const KMS_MAX_IMPORT_TOKEN_LEN: CK_ULONG = 4096;

/// A function that changes what its request, a JSON object, names.
pub type KMS_CHANGE = Option<
    unsafe extern "C" fn(
        hSession: CK_SESSION_HANDLE,
        flags: CK_FLAGS,
        pRequest: CK_UTF8CHAR_PTR,
        ulRequestLen: CK_ULONG,
    ) -> CK_RV,
>;

/// A function that makes what its request, a JSON object, asks for, and gives its id.
pub type KMS_CREATION = Option<
    unsafe extern "C" fn(
        hSession: CK_SESSION_HANDLE,
        flags: CK_FLAGS,
        pRequest: CK_UTF8CHAR_PTR,
        ulRequestLen: CK_ULONG,
        pId: CK_UTF8CHAR_PTR,
        pulIdLen: CK_ULONG_PTR,
    ) -> CK_RV,
>;

/// A function that answers its request, a JSON object, with JSON.
pub type KMS_QUERY = Option<
    unsafe extern "C" fn(
        hSession: CK_SESSION_HANDLE,
        pRequest: CK_UTF8CHAR_PTR,
        ulRequestLen: CK_ULONG,
        pJson: CK_UTF8CHAR_PTR,
        pulJsonLen: CK_ULONG_PTR,
    ) -> CK_RV,
>;

/// Whether the flags ask for a dry run. CKR_ARGUMENTS_BAD for flags that there are not.
pub(super) fn is_dry_run(flags: CK_FLAGS) -> Result<bool> {
    if flags & !KMS_DRY_RUN != 0 {
        return Err(ErrorKind::ArgumentsBad.with("there is no flag but KMS_DRY_RUN"));
    }
    Ok(flags & KMS_DRY_RUN != 0)
}

/// CKR_ARGUMENTS_BAD unless it is UTF-8.
pub(super) fn text(caller: &Caller, pointer: CK_UTF8CHAR_PTR, len: CK_ULONG) -> Result<&str> {
    std::str::from_utf8(input(caller, pointer, len)?).map_err(|_| ErrorKind::ArgumentsBad.with("a text is not UTF-8"))
}

/// A [`KMS_CHANGE`].
pub(super) fn change(
    caller: &Caller,
    module: &Module,
    session: CK_SESSION_HANDLE,
    action: Manage,
    flags: CK_FLAGS,
    (request, len): (CK_UTF8CHAR_PTR, CK_ULONG),
) -> Result<()> {
    let dry_run = is_dry_run(flags)?;
    module.manage(session, action, text(caller, request, len)?, dry_run).map(drop)
}

/// A [`KMS_CREATION`].
pub(super) fn creation(
    caller: &Caller,
    module: &Module,
    session: CK_SESSION_HANDLE,
    action: Manage,
    flags: CK_FLAGS,
    (request, len): (CK_UTF8CHAR_PTR, CK_ULONG),
    (id, id_len): (CK_UTF8CHAR_PTR, CK_ULONG_PTR),
) -> Result<()> {
    let dry_run = is_dry_run(flags)?;
    let request = text(caller, request, len)?;
    let outputs = [(caller.room(id, id_len)?, KMS_ID_LEN as usize)];
    if !have_room(module, session, &outputs)? {
        return Ok(());
    }
    let made = module.manage(session, action, request, dry_run)?;
    outputs.iter().try_for_each(|(output, _)| output.give(made.as_bytes()))
}

/// A [`KMS_QUERY`].
pub(super) fn query(
    caller: &Caller,
    module: &Module,
    session: CK_SESSION_HANDLE,
    query: KeyQuery,
    (request, len): (CK_UTF8CHAR_PTR, CK_ULONG),
    (json, json_len): (CK_BYTE_PTR, CK_ULONG_PTR),
) -> Result<()> {
    let output = caller.room(json, json_len)?;
    output.give(module.query_keys(session, query, text(caller, request, len)?)?.as_bytes())
}

/// Whether each output has room for the most bytes that may come. If not, all the lengths are given,
/// and nothing is to be done: only they were asked for, or CKR_BUFFER_TOO_SMALL. CKR_ARGUMENTS_BAD if
/// some buffers are NULL and others not, lest a caller takes what was not made for made.
pub(super) fn have_room(module: &Module, session: CK_SESSION_HANDLE, outputs: &[(Room<'_>, usize)]) -> Result<bool> {
    let asked = outputs.iter().filter(|(output, _)| output.is_asked()).count();
    if asked != 0 && asked != outputs.len() {
        return Err(ErrorKind::ArgumentsBad.with("either all of the buffers are NULL or none is"));
    }
    if asked == 0 && outputs.iter().all(|(output, most)| output.len() >= *most) {
        return Ok(true);
    }
    module.session_info(session)?;
    // Each is given its length, whatever becomes of the others.
    let needed: Vec<_> = outputs.iter().map(|(output, most)| output.need(*most)).collect();
    needed.into_iter().collect::<Result<()>>()?;
    Ok(false)
}

/// The length of a blob, at most: what callers are told to have room for.
pub(super) fn longest_blob(plaintext_len: usize) -> Result<usize> {
    hsm::encrypted_len(u64::MAX, plaintext_len)?;
    Ok(plaintext_len + KMS_MAX_BLOB_OVERHEAD as usize)
}

/// The length of what is in a blob. KMS_R_INVALID_CIPHERTEXT for what is no blob.
pub(super) fn opened_len(blob: &[u8]) -> Result<usize> {
    hsm::decrypted_len(blob).map_err(|_| ErrorKind::KmsInvalidCiphertext.with("it is no blob of an envelope"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_blob_is_longer_than_callers_are_told() {
        let longest = (0..=4096).map(|len| hsm::encrypted_len(u64::MAX, len).unwrap() - len).max();
        assert_eq!(longest, Some(KMS_MAX_BLOB_OVERHEAD as usize));
        assert_eq!(longest_blob(4097).unwrap_err().kind(), ErrorKind::DataLenRange);
    }
}
