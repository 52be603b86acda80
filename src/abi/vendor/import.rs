//! Import of key material that was made elsewhere.

use cryptoki_sys::{CK_BYTE_PTR, CK_FLAGS, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR, CK_UTF8CHAR_PTR};

use super::input;
use super::managed::{KMS_MAX_IMPORT_TOKEN_LEN, KMS_MAX_PUBLIC_KEY_LEN, change, have_room, is_dry_run, text};
use crate::abi::guard::entry;
use crate::hsm::Manage;

/// Makes an RSA wrapping pair for material that is to be imported into a key. The wrapping key's private
/// half travels in the import token, sealed; both are good for 24 hours, for this key only. A call that
/// gives only the lengths makes nothing.
///
/// pKey, ulKeyLen: the key, of the origin "EXTERNAL": its id or an alias.
/// pAlgorithm, ulAlgorithmLen: how the material will be wrapped: "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256",
///     "RSA_AES_KEY_WRAP_SHA_1" or "RSA_AES_KEY_WRAP_SHA_256".
/// pWrappingSpec, ulWrappingSpecLen: "RSA_2048", "RSA_3072" or "RSA_4096".
/// pPublicKey, *pulPublicKeyLen: gets the wrapping key, a DER SubjectPublicKeyInfo. The buffer has at least
///     KMS_MAX_PUBLIC_KEY_LEN bytes, which is also the length given if it is NULL.
/// pToken, *pulTokenLen: gets the import token. The buffer has at least KMS_MAX_IMPORT_TOKEN_LEN bytes, which
///     is also the length given if it is NULL. Both buffers are NULL or neither.
/// pulValidTo: gets the time until which the token is good, seconds since 1970.
///
/// KMS_R_UNSUPPORTED: the key's material is made here. KMS_R_INVALID_STATE: the key waits for its deletion.
/// CKR_ARGUMENTS_BAD: also for an algorithm or spec that there is not. CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_GetParametersForImport(
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
) -> CK_RV {
    entry!(KMS_GetParametersForImport, |caller, module| {
        let dry_run = is_dry_run(flags)?;
        let key = text(caller, pKey, ulKeyLen)?;
        let algorithm = text(caller, pAlgorithm, ulAlgorithmLen)?;
        let spec = text(caller, pWrappingSpec, ulWrappingSpecLen)?;
        let public = caller.room(pPublicKey, pulPublicKeyLen)?;
        let token = caller.room(pToken, pulTokenLen)?;
        let until = caller.place(pulValidTo)?;
        let outputs = [(public, KMS_MAX_PUBLIC_KEY_LEN as usize), (token, KMS_MAX_IMPORT_TOKEN_LEN as usize)];
        if !have_room(module, hSession, &outputs)? {
            return Ok(());
        }
        let made = module.import_parameters(hSession, key, algorithm, spec, dry_run)?;
        let [(public, _), (token, _)] = outputs;
        public.give(&made.public_key)?;
        token.give(&made.token)?;
        until.write(made.expires);
        Ok(())
    })
}

/// Imports material that was wrapped with the wrapping key that came with an import token. A key takes the
/// same material only, also after it was deleted or has expired.
///
/// pKey, ulKeyLen: the key that the token was made for: its id or an alias.
/// pToken, ulTokenLen: the import token.
/// pWrapped, ulWrappedLen: the wrapped material: the bytes of a symmetric key, the PKCS#8 of a private key.
/// ulValidTo: when the material expires, seconds since 1970, within 365 days; 0 if it does not.
///
/// KMS_R_INVALID_IMPORT_TOKEN. KMS_R_EXPIRED_IMPORT_TOKEN. KMS_R_INVALID_CIPHERTEXT: the material does not
/// unwrap. KMS_R_INCORRECT_KEY_MATERIAL: it does not fit the key's spec, or is not what was imported
/// before. KMS_R_UNSUPPORTED: the key's material is made here. KMS_R_INVALID_STATE: the key waits for its
/// deletion. CKR_ARGUMENTS_BAD: also for a time that has passed or is too far away.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ImportKeyMaterial(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pKey: CK_UTF8CHAR_PTR,
    ulKeyLen: CK_ULONG,
    pToken: CK_BYTE_PTR,
    ulTokenLen: CK_ULONG,
    pWrapped: CK_BYTE_PTR,
    ulWrappedLen: CK_ULONG,
    ulValidTo: CK_ULONG,
) -> CK_RV {
    entry!(KMS_ImportKeyMaterial, |caller, module| {
        let dry_run = is_dry_run(flags)?;
        let key = text(caller, pKey, ulKeyLen)?;
        let token = input(caller, pToken, ulTokenLen)?;
        let wrapped = input(caller, pWrapped, ulWrappedLen)?;
        let valid_to = (ulValidTo != 0).then_some(ulValidTo);
        module.import_material(hSession, key, token, wrapped, valid_to, dry_run)
    })
}

/// Deletes the imported material of a key, which then waits for the same material to be imported again.
/// Without material, nothing happens.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT}.
///
/// KMS_R_UNSUPPORTED: the key's material was made here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_DeleteImportedKeyMaterial(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_DeleteImportedKeyMaterial, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::DeleteImportedKeyMaterial,
        flags,
        (pRequest, ulRequestLen)
    ))
}
