//! Data keys and data-key pairs: made in the HSM to be used elsewhere, and kept in blobs.

use cryptoki_sys::{CK_BYTE_PTR, CK_FLAGS, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR, CK_UTF8CHAR_PTR};

use super::input;
use super::managed::{
    KMS_MAX_BLOB_OVERHEAD, KMS_MAX_PRIVATE_KEY_LEN, KMS_MAX_PUBLIC_KEY_LEN, have_room, is_dry_run, text,
};
use crate::abi::guard::entry;
use crate::error::{ErrorKind, Result};

const LONGEST: CK_ULONG = 1024;

/// Makes a data key, and gives it in clear and in a blob, which KMS_Decrypt opens. A call that gives only
/// the lengths makes nothing.
///
/// pKey, ulKeyLen: the symmetric managed key that protects it: its id or an alias.
/// ulBytes: the length of the data key, 1 to 1024; 16 and 32 for AES keys.
/// pContext, ulContextLen: the encryption context, as for KMS_Encrypt.
/// pPlaintext, *pulPlaintextLen: gets the data key, ulBytes bytes.
/// pBlob, *pulBlobLen: gets the blob. The buffer has at least ulBytes + KMS_MAX_BLOB_OVERHEAD bytes, which is
///     also the length given if it is NULL. Both buffers are NULL or neither.
///
/// CKR_ARGUMENTS_BAD: also for another length, and for one buffer that is NULL. KMS_R_INVALID_KEY_USAGE.
/// KMS_R_DISABLED. KMS_R_INVALID_STATE. CKR_BUFFER_TOO_SMALL, with both lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_GenerateDataKey(
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
) -> CK_RV {
    entry!(KMS_GenerateDataKey, |caller, module| {
        let dry_run = is_dry_run(flags)?;
        let key = text(caller, pKey, ulKeyLen)?;
        let context = input(caller, pContext, ulContextLen)?;
        let len = length(ulBytes)?;
        let outputs = [
            (caller.room(pPlaintext, pulPlaintextLen)?, len),
            (caller.room(pBlob, pulBlobLen)?, len + KMS_MAX_BLOB_OVERHEAD as usize),
        ];
        if !have_room(module, hSession, &outputs)? {
            return Ok(());
        }
        let made = module.generate_data_key(hSession, key, len, context, true, dry_run)?;
        let [(plaintext, _), (blob, _)] = outputs;
        plaintext.give(&made.plaintext.ok_or(ErrorKind::GeneralError)?)?;
        blob.give(&made.blob)
    })
}

/// As KMS_GenerateDataKey, but the data key leaves the HSM in the blob only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_GenerateDataKeyWithoutPlaintext(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pKey: CK_UTF8CHAR_PTR,
    ulKeyLen: CK_ULONG,
    ulBytes: CK_ULONG,
    pContext: CK_UTF8CHAR_PTR,
    ulContextLen: CK_ULONG,
    pBlob: CK_BYTE_PTR,
    pulBlobLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_GenerateDataKeyWithoutPlaintext, |caller, module| {
        let dry_run = is_dry_run(flags)?;
        let key = text(caller, pKey, ulKeyLen)?;
        let context = input(caller, pContext, ulContextLen)?;
        let len = length(ulBytes)?;
        let outputs = [(caller.room(pBlob, pulBlobLen)?, len + KMS_MAX_BLOB_OVERHEAD as usize)];
        if !have_room(module, hSession, &outputs)? {
            return Ok(());
        }
        let made = module.generate_data_key(hSession, key, len, context, false, dry_run)?;
        outputs.iter().try_for_each(|(output, _)| output.give(&made.blob))
    })
}

/// Makes a key pair, and gives its public key, its private key in clear, and in a blob, which KMS_Decrypt
/// opens. A call that gives only the lengths makes nothing.
///
/// pKey, ulKeyLen: the symmetric managed key that protects it: its id or an alias.
/// pSpec, ulSpecLen: "RSA_2048", "RSA_3072", "RSA_4096", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521",
///     "ECC_SECG_P256K1" or "ECC_ED25519".
/// pContext, ulContextLen: the encryption context, as for KMS_Encrypt.
/// pPublic, *pulPublicLen: gets the public key, a DER SubjectPublicKeyInfo. The buffer has at least
///     KMS_MAX_PUBLIC_KEY_LEN bytes, which is also the length given if it is NULL.
/// pPrivate, *pulPrivateLen: gets the private key, a DER PKCS#8; KMS_MAX_PRIVATE_KEY_LEN likewise.
/// pBlob, *pulBlobLen: gets the blob of the PKCS#8; KMS_MAX_PRIVATE_KEY_LEN + KMS_MAX_BLOB_OVERHEAD likewise.
///     All buffers are NULL or none.
///
/// As KMS_GenerateDataKey.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_GenerateDataKeyPair(
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
) -> CK_RV {
    entry!(KMS_GenerateDataKeyPair, |caller, module| {
        let dry_run = is_dry_run(flags)?;
        let key = text(caller, pKey, ulKeyLen)?;
        let spec = text(caller, pSpec, ulSpecLen)?;
        let context = input(caller, pContext, ulContextLen)?;
        let outputs = [
            (caller.room(pPublic, pulPublicLen)?, KMS_MAX_PUBLIC_KEY_LEN as usize),
            (caller.room(pPrivate, pulPrivateLen)?, KMS_MAX_PRIVATE_KEY_LEN as usize),
            (caller.room(pBlob, pulBlobLen)?, LONGEST_PAIR_BLOB),
        ];
        if !have_room(module, hSession, &outputs)? {
            return Ok(());
        }
        let made = module.generate_data_key_pair(hSession, key, spec, context, true, dry_run)?;
        let [(public, _), (private, _), (blob, _)] = outputs;
        public.give(&made.public)?;
        private.give(&made.private.ok_or(ErrorKind::GeneralError)?)?;
        blob.give(&made.blob)
    })
}

/// As KMS_GenerateDataKeyPair, but the private key leaves the HSM in the blob only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_GenerateDataKeyPairWithoutPlaintext(
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
) -> CK_RV {
    entry!(KMS_GenerateDataKeyPairWithoutPlaintext, |caller, module| {
        let dry_run = is_dry_run(flags)?;
        let key = text(caller, pKey, ulKeyLen)?;
        let spec = text(caller, pSpec, ulSpecLen)?;
        let context = input(caller, pContext, ulContextLen)?;
        let outputs = [
            (caller.room(pPublic, pulPublicLen)?, KMS_MAX_PUBLIC_KEY_LEN as usize),
            (caller.room(pBlob, pulBlobLen)?, LONGEST_PAIR_BLOB),
        ];
        if !have_room(module, hSession, &outputs)? {
            return Ok(());
        }
        let made = module.generate_data_key_pair(hSession, key, spec, context, false, dry_run)?;
        let [(public, _), (blob, _)] = outputs;
        public.give(&made.public)?;
        blob.give(&made.blob)
    })
}

const LONGEST_PAIR_BLOB: usize = (KMS_MAX_PRIVATE_KEY_LEN + KMS_MAX_BLOB_OVERHEAD) as usize;

fn length(bytes: CK_ULONG) -> Result<usize> {
    if !(1..=LONGEST).contains(&bytes) {
        return Err(ErrorKind::ArgumentsBad.with("a data key has 1 to 1024 bytes"));
    }
    Ok(bytes as usize)
}
