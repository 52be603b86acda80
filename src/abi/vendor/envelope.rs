//! Envelopes: small plaintexts in blobs under managed keys.

use cryptoki_sys::{CK_BYTE_PTR, CK_FLAGS, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR, CK_UTF8CHAR_PTR};

use super::input;
use super::managed::{have_room, is_dry_run, longest_blob, opened_len, text};
use crate::abi::guard::entry;

/// Encrypts a few bytes under a symmetric managed key of the usage "ENCRYPT_DECRYPT". CKM_KMS_ENVELOPE
/// does the same through C_Encrypt. A call that gives only the length does nothing with the key.
///
/// pKey, ulKeyLen: the key: its id or an alias.
/// pContext, ulContextLen: the encryption context, a JSON object of texts, which KMS_Decrypt has to be
///     given again and which the audit log shows: nothing secret. Empty for none.
/// pPlaintext, ulPlaintextLen: at most 4096 bytes.
/// pBlob, *pulBlobLen: gets the blob (COSE_Encrypt0), which names the key and the version of its
///     material. The buffer has at least ulPlaintextLen + KMS_MAX_BLOB_OVERHEAD bytes, which is also the
///     length given if it is NULL.
///
/// CKR_DATA_LEN_RANGE: the plaintext is too long. KMS_R_INVALID_KEY_USAGE. KMS_R_DISABLED.
/// KMS_R_INVALID_STATE. CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_Encrypt(
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
) -> CK_RV {
    entry!(KMS_Encrypt, |caller, module| {
        let dry_run = is_dry_run(flags)?;
        let key = text(caller, pKey, ulKeyLen)?;
        let context = input(caller, pContext, ulContextLen)?;
        let plaintext = input(caller, pPlaintext, ulPlaintextLen)?;
        let outputs = [(caller.room(pBlob, pulBlobLen)?, longest_blob(plaintext.len())?)];
        if !have_room(module, hSession, &outputs)? {
            return Ok(());
        }
        let blob = module.kms_encrypt(hSession, key, context, plaintext, dry_run)?;
        outputs.iter().try_for_each(|(output, _)| output.give(&blob))
    })
}

/// Decrypts a blob, with whichever version of the key's material it was made. A call that gives only
/// the length does nothing with the key.
///
/// pKey, ulKeyLen: the key that the blob has to be of: its id or an alias; NULL and 0 for any, which the
///     blob names.
/// pContext, ulContextLen: the encryption context that the blob was made with.
/// pBlob, ulBlobLen: the blob.
/// pPlaintext, *pulPlaintextLen: gets the plaintext. It may be the memory of the blob.
///
/// KMS_R_INVALID_CIPHERTEXT: it is no blob, was changed, or was made with another context.
/// KMS_R_INCORRECT_KEY: it is of another key. KMS_R_NOT_FOUND: its key is not in this token.
/// KMS_R_DISABLED. KMS_R_INVALID_STATE. CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_Decrypt(
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
) -> CK_RV {
    entry!(KMS_Decrypt, |caller, module| {
        let dry_run = is_dry_run(flags)?;
        let key = text(caller, pKey, ulKeyLen)?;
        let context = input(caller, pContext, ulContextLen)?;
        let blob = input(caller, pBlob, ulBlobLen)?;
        let outputs = [(caller.room(pPlaintext, pulPlaintextLen)?, opened_len(blob)?)];
        if !have_room(module, hSession, &outputs)? {
            return Ok(());
        }
        let named = !pKey.is_null() || ulKeyLen != 0;
        let plaintext = module.kms_decrypt(hSession, named.then_some(key), context, blob, dry_run)?;
        outputs.iter().try_for_each(|(output, _)| output.give(&plaintext))
    })
}

/// Decrypts a blob and encrypts what was in it under another key, or anew under the same. The plaintext
/// does not leave the HSM. A call that gives only the length does nothing with the keys.
///
/// pSourceContext, ulSourceContextLen: the encryption context that the blob was made with.
/// pBlob, ulBlobLen: the blob, which names its key.
/// pKey, ulKeyLen: the key of the new blob: its id or an alias.
/// pContext, ulContextLen: the encryption context of the new blob.
/// pNewBlob, *pulNewBlobLen: gets the new blob. The buffer has at least the length given if it is NULL. It
///     may be the memory of the old one.
///
/// As KMS_Decrypt and KMS_Encrypt.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ReEncrypt(
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
) -> CK_RV {
    entry!(KMS_ReEncrypt, |caller, module| {
        let dry_run = is_dry_run(flags)?;
        let source_context = input(caller, pSourceContext, ulSourceContextLen)?;
        let blob = input(caller, pBlob, ulBlobLen)?;
        let key = text(caller, pKey, ulKeyLen)?;
        let context = input(caller, pContext, ulContextLen)?;
        let outputs = [(caller.room(pNewBlob, pulNewBlobLen)?, longest_blob(opened_len(blob)?)?)];
        if !have_room(module, hSession, &outputs)? {
            return Ok(());
        }
        let made = module.kms_reencrypt(hSession, source_context, blob, key, context, dry_run)?;
        outputs.iter().try_for_each(|(output, _)| output.give(&made))
    })
}
