/* Conclave: the vendor's functions. Licence: Apache-2.0.
   Generated from src/abi/vendor.rs; `make headers` writes it anew. */
#ifndef CONCLAVE_H
#define CONCLAVE_H

#include "conclave_pkcs11.h"

/* The name that C_GetInterface takes; the interface's list is a KMS_FUNCTION_LIST. */
#define KMS_INTERFACE_NAME "Vendor Conclave"

/*
 The function list of the interface "Vendor Conclave". Later versions add functions at the end and
 raise the minor version.
 */
typedef struct KMS_FUNCTION_LIST {
  CK_VERSION version;
  CK_RV (*KMS_LastError)(CK_UTF8CHAR_PTR pMessage, CK_ULONG_PTR pulMessageLen);
} KMS_FUNCTION_LIST;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Gives the sentence about the last C_ or KMS_ call that failed in the calling thread: the
 function, the return code's name and what was wrong. UTF-8, without a NUL at the end; empty if no
 call failed. It never has a secret in it. With `pMessage` NULL only the length is given;
 CKR_BUFFER_TOO_SMALL with the length needed if `*pulMessageLen` is less. Works at any time, also
 before C_Initialize.
 */
CK_RV KMS_LastError(CK_UTF8CHAR_PTR pMessage, CK_ULONG_PTR pulMessageLen);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif /* CONCLAVE_H */
