/* Conclave: the vendor's functions. Licence: Apache-2.0.
   Generated from src/abi/vendor; `make headers` writes it anew. */
#ifndef CONCLAVE_H
#define CONCLAVE_H

#include "conclave_pkcs11.h"

/* How an embedded token's domain is governed. The token's HSM obeys commands that enough of its
   operators have signed. Somebody proposes a command (KMS_Propose), operators look at it
   (KMS_DescribeProposal), sign it with keys that only they hold (KMS_BytesToSign, then
   KMS_AddSignature), and somebody who is logged in has it executed (KMS_Execute). Proposals, domain
   tokens and histories are public and may travel in any way. docs/protocols.md has their formats.

   Arguments. Inputs stay the caller's; they are not changed, and not kept after the call. NULL with
   length 0 is an empty input. Outputs go to memory of the caller's, as C_Sign's does: with the buffer
   NULL the function only gives the length needed; with a buffer, *pul...Len is its size before and
   the output's length after the call. In these two cases, and whenever the buffer is too small
   (CKR_BUFFER_TOO_SMALL, with the length needed), nothing else has changed. Text is UTF-8 without a
   NUL at the end. Functions may be called from several threads at once.

   Return codes. Each function says which it gives and when. All of them also give
   CKR_ARGUMENTS_BAD for NULL where there must be something, for a length that cannot be, and for
   an input longer than 16 MiB; CKR_CRYPTOKI_NOT_INITIALIZED before C_Initialize;
   CKR_SESSION_HANDLE_INVALID and CKR_SESSION_CLOSED; CKR_DEVICE_REMOVED if the token was initialised
   anew; CKR_FUNCTION_FAILED if another process changed the domain meanwhile, and then the call may
   be made again; CKR_DEVICE_ERROR if the store fails or shows an older state than it has shown;
   CKR_HOST_MEMORY and CKR_GENERAL_ERROR. KMS_LastError says more.

   Managed keys have an id, aliases, one usage, a state, versions of their material, and a waiting
   period before their deletion; the README tells of them. They are objects of the token as others
   are: C_FindObjects finds them, and the standard's functions do with them what their usage allows.
   KeyId in a request, and pKey, is a key id or "alias/NAME". Requests and answers are JSON in UTF-8,
   times in them are seconds since 1970, and "NUMBER?" and the like may be left out. flags is 0 or KMS_DRY_RUN:
   then everything is checked, nothing is done, and KMS_R_DRY_RUN is the answer instead of CKR_OK.
   Functions of managed keys need a user's login, and a read/write session if they change something.
   They also give CKR_USER_NOT_LOGGED_IN; CKR_SESSION_READ_ONLY; CKR_ARGUMENTS_BAD for a request that is not
   JSON, lacks a member, or has one that there is not, and for flags that there are not; KMS_R_NOT_FOUND
   for a key or alias that is not in the token; and KMS_R_ACCESS_DENIED. The standard's functions have no
   vendor codes: they give CKR_KEY_FUNCTION_NOT_PERMITTED where a state, a usage or a policy forbids.

   Multi-Region keys. A Region is a domain; Regions that trust each other by their operators' command
   have keys in common. One is a key's primary, others have replicas, and what one encrypted or signed
   every other decrypts or verifies. They send each other messages, by any carrier: one makes a message,
   the other gives it to KMS_ReceiveReplication and sends back what that answers, until nothing is left
   to answer. A message shows key ids and names of Regions, never key material. One that is lost may be
   made again, one that comes twice changes nothing. */

/* The name that C_GetInterface takes; the interface's list is a KMS_FUNCTION_LIST. It is given for each
   version from 1.0 to the list's own. */
#define KMS_INTERFACE_NAME "Vendor Conclave"

/* Attributes of managed keys. Those that a generate template may have: MANAGED, USAGE, SPEC,
   DESCRIPTION, TAGS, MULTI_REGION. DESCRIPTION can be set; the rest is read only. */
#define CKA_KMS_MANAGED (CKA_VENDOR_DEFINED | 0x0b4d5300UL)
#define CKA_KMS_KEY_ID (CKA_VENDOR_DEFINED | 0x0b4d5301UL)
#define CKA_KMS_USAGE (CKA_VENDOR_DEFINED | 0x0b4d5302UL)
#define CKA_KMS_SPEC (CKA_VENDOR_DEFINED | 0x0b4d5303UL)
#define CKA_KMS_ORIGIN (CKA_VENDOR_DEFINED | 0x0b4d5304UL)
#define CKA_KMS_STATE (CKA_VENDOR_DEFINED | 0x0b4d5305UL)
#define CKA_KMS_DESCRIPTION (CKA_VENDOR_DEFINED | 0x0b4d5306UL)
#define CKA_KMS_TAGS (CKA_VENDOR_DEFINED | 0x0b4d5307UL)
#define CKA_KMS_VERSION (CKA_VENDOR_DEFINED | 0x0b4d5308UL)
#define CKA_KMS_CREATED (CKA_VENDOR_DEFINED | 0x0b4d5309UL)
#define CKA_KMS_DELETION_DATE (CKA_VENDOR_DEFINED | 0x0b4d530aUL)
#define CKA_KMS_ROTATION_PERIOD (CKA_VENDOR_DEFINED | 0x0b4d530bUL)
#define CKA_KMS_ROTATED (CKA_VENDOR_DEFINED | 0x0b4d530cUL)
#define CKA_KMS_VALID_TO (CKA_VENDOR_DEFINED | 0x0b4d530dUL)
#define CKA_KMS_MATERIAL (CKA_VENDOR_DEFINED | 0x0b4d530eUL)
#define CKA_KMS_MULTI_REGION (CKA_VENDOR_DEFINED | 0x0b4d530fUL)
#define CKA_KMS_OWNER (CKA_VENDOR_DEFINED | 0x0b4d5310UL)
#define CKA_KMS_POLICY (CKA_VENDOR_DEFINED | 0x0b4d5311UL)
#define CKA_KMS_REPLICATION (CKA_VENDOR_DEFINED | 0x0b4d5312UL)
#define CKA_KMS_DELETION_WINDOW (CKA_VENDOR_DEFINED | 0x0b4d5313UL)
#define CKA_KMS_NEXT_ROTATION (CKA_VENDOR_DEFINED | 0x0b4d5314UL)
#define CKA_KMS_GRANTS (CKA_VENDOR_DEFINED | 0x0b4d5315UL)
#define CKA_KMS_DUAL_CONTROL (CKA_VENDOR_DEFINED | 0x0b4d5316UL)
#define CKA_KMS_REPLICATE_IMPORTED (CKA_VENDOR_DEFINED | 0x0b4d5317UL)

/* Values of CKA_KMS_USAGE. */
#define KMS_USAGE_ENCRYPT_DECRYPT 1UL
#define KMS_USAGE_SIGN_VERIFY 2UL
#define KMS_USAGE_GENERATE_VERIFY_MAC 3UL
#define KMS_USAGE_KEY_AGREEMENT 4UL

/* Values of CKA_KMS_ORIGIN. */
#define KMS_ORIGIN_HSM 1UL
#define KMS_ORIGIN_EXTERNAL 2UL

/* Values of CKA_KMS_STATE: the state at the time of asking. */
#define KMS_STATE_ENABLED 1UL
#define KMS_STATE_DISABLED 2UL
#define KMS_STATE_PENDING_DELETION 3UL
#define KMS_STATE_PENDING_REPLICA_DELETION 4UL
#define KMS_STATE_PENDING_IMPORT 5UL
#define KMS_STATE_CREATING 6UL
#define KMS_STATE_UPDATING 7UL

/* Mechanisms of managed keys: CKM_KMS_ENVELOPE is for C_Encrypt and C_Decrypt, CKM_KMS_WRAP for
   C_WrapKeyAuthenticated and C_UnwrapKeyAuthenticated. The parameter of the first is the encryption
   context, a JSON object of texts; NULL for none. */
#define CKM_KMS_ENVELOPE (CKM_VENDOR_DEFINED | 0x0b4d5301UL)
#define CKM_KMS_WRAP (CKM_VENDOR_DEFINED | 0x0b4d5302UL)

/* Return codes about managed keys. */
/* the key is disabled */
#define KMS_R_DISABLED (CKR_VENDOR_DEFINED | 0x4b4d5301UL)
/* the key's state does not allow this */
#define KMS_R_INVALID_STATE (CKR_VENDOR_DEFINED | 0x4b4d5302UL)
/* keys of this kind do not support this */
#define KMS_R_UNSUPPORTED (CKR_VENDOR_DEFINED | 0x4b4d5303UL)
/* a limit is reached */
#define KMS_R_LIMIT_EXCEEDED (CKR_VENDOR_DEFINED | 0x4b4d5304UL)
/* there is no such key, alias, grant or user */
#define KMS_R_NOT_FOUND (CKR_VENDOR_DEFINED | 0x4b4d5305UL)
/* it exists already */
#define KMS_R_ALREADY_EXISTS (CKR_VENDOR_DEFINED | 0x4b4d5306UL)
/* the alias is not a valid name */
#define KMS_R_INVALID_ALIAS_NAME (CKR_VENDOR_DEFINED | 0x4b4d5307UL)
/* a tag is not valid */
#define KMS_R_INVALID_TAG (CKR_VENDOR_DEFINED | 0x4b4d5308UL)
/* the key is not for this usage */
#define KMS_R_INVALID_KEY_USAGE (CKR_VENDOR_DEFINED | 0x4b4d5309UL)
/* another key encrypted this */
#define KMS_R_INCORRECT_KEY (CKR_VENDOR_DEFINED | 0x4b4d530aUL)
/* the ciphertext or its encryption context is not valid */
#define KMS_R_INVALID_CIPHERTEXT (CKR_VENDOR_DEFINED | 0x4b4d530bUL)
/* the version of the key is not available */
#define KMS_R_KEY_UNAVAILABLE (CKR_VENDOR_DEFINED | 0x4b4d530cUL)
/* the import token is not valid for the key */
#define KMS_R_INVALID_IMPORT_TOKEN (CKR_VENDOR_DEFINED | 0x4b4d530dUL)
/* the import token has expired */
#define KMS_R_EXPIRED_IMPORT_TOKEN (CKR_VENDOR_DEFINED | 0x4b4d530eUL)
/* the material is not what was imported into the key before */
#define KMS_R_INCORRECT_KEY_MATERIAL (CKR_VENDOR_DEFINED | 0x4b4d530fUL)
/* the policy is not valid */
#define KMS_R_MALFORMED_POLICY (CKR_VENDOR_DEFINED | 0x4b4d5310UL)
/* the grant is not valid */
#define KMS_R_INVALID_GRANT (CKR_VENDOR_DEFINED | 0x4b4d5311UL)
/* the key's policy does not allow this */
#define KMS_R_ACCESS_DENIED (CKR_VENDOR_DEFINED | 0x4b4d5312UL)
/* the request would have been carried out */
#define KMS_R_DRY_RUN (CKR_VENDOR_DEFINED | 0x4b4d5313UL)
/* the message of another Region was refused */
#define KMS_R_REPLICATION_REFUSED (CKR_VENDOR_DEFINED | 0x4b4d5314UL)

/*
 Some bytes of the caller.
 */
typedef struct KMS_BYTES {
  CK_BYTE_PTR pBytes;
  CK_ULONG ulLen;
} KMS_BYTES;

/*
 A function that changes what its request, a JSON object, names.
 */
typedef CK_RV (*KMS_CHANGE)(CK_SESSION_HANDLE hSession,
                            CK_FLAGS flags,
                            CK_UTF8CHAR_PTR pRequest,
                            CK_ULONG ulRequestLen);

/*
 A function that makes what its request, a JSON object, asks for, and gives its id.
 */
typedef CK_RV (*KMS_CREATION)(CK_SESSION_HANDLE hSession,
                              CK_FLAGS flags,
                              CK_UTF8CHAR_PTR pRequest,
                              CK_ULONG ulRequestLen,
                              CK_UTF8CHAR_PTR pId,
                              CK_ULONG_PTR pulIdLen);

/*
 A function that answers its request, a JSON object, with JSON.
 */
typedef CK_RV (*KMS_QUERY)(CK_SESSION_HANDLE hSession,
                           CK_UTF8CHAR_PTR pRequest,
                           CK_ULONG ulRequestLen,
                           CK_UTF8CHAR_PTR pJson,
                           CK_ULONG_PTR pulJsonLen);

/*
 A function that takes a message of another Region and makes another.
 */
typedef CK_RV (*KMS_EXCHANGE)(CK_SESSION_HANDLE hSession,
                              CK_BYTE_PTR pMessage,
                              CK_ULONG ulMessageLen,
                              CK_BYTE_PTR pAnswer,
                              CK_ULONG_PTR pulAnswerLen);

/*
 The function list of the interface "Vendor Conclave". Later versions add functions at the end and
 raise the minor version: 1.0 had KMS_LastError alone, 1.1 ends with KMS_Recover, 1.2 with KMS_VerifyAudit,
 1.3 with KMS_ReceiveReplication.
 */
typedef struct KMS_FUNCTION_LIST {
  CK_VERSION version;
  CK_RV (*KMS_LastError)(CK_UTF8CHAR_PTR pMessage, CK_ULONG_PTR pulMessageLen);
  CK_RV (*KMS_DescribeDomain)(CK_SESSION_HANDLE hSession, CK_UTF8CHAR_PTR pJson, CK_ULONG_PTR pulJsonLen);
  CK_RV (*KMS_Propose)(CK_SESSION_HANDLE hSession,
                       CK_UTF8CHAR_PTR pRequest,
                       CK_ULONG ulRequestLen,
                       CK_BYTE_PTR pProposal,
                       CK_ULONG_PTR pulProposalLen);
  CK_RV (*KMS_DescribeProposal)(CK_SESSION_HANDLE hSession,
                                CK_BYTE_PTR pProposal,
                                CK_ULONG ulProposalLen,
                                CK_UTF8CHAR_PTR pJson,
                                CK_ULONG_PTR pulJsonLen);
  CK_RV (*KMS_BytesToSign)(CK_SESSION_HANDLE hSession,
                           CK_BYTE_PTR pProposal,
                           CK_ULONG ulProposalLen,
                           CK_BYTE_PTR pPublicKey,
                           CK_ULONG ulPublicKeyLen,
                           CK_BYTE_PTR pBytes,
                           CK_ULONG_PTR pulBytesLen);
  CK_RV (*KMS_AddSignature)(CK_SESSION_HANDLE hSession,
                            CK_BYTE_PTR pProposal,
                            CK_ULONG ulProposalLen,
                            CK_BYTE_PTR pPublicKey,
                            CK_ULONG ulPublicKeyLen,
                            CK_BYTE_PTR pSignature,
                            CK_ULONG ulSignatureLen,
                            CK_BYTE_PTR pSigned,
                            CK_ULONG_PTR pulSignedLen);
  CK_RV (*KMS_PutProposal)(CK_SESSION_HANDLE hSession,
                           CK_BYTE_PTR pProposal,
                           CK_ULONG ulProposalLen,
                           CK_BYTE_PTR pMerged,
                           CK_ULONG_PTR pulMergedLen);
  CK_RV (*KMS_ListProposals)(CK_SESSION_HANDLE hSession, CK_UTF8CHAR_PTR pJson, CK_ULONG_PTR pulJsonLen);
  CK_RV (*KMS_GetProposal)(CK_SESSION_HANDLE hSession,
                           CK_BYTE_PTR pId,
                           CK_ULONG ulIdLen,
                           CK_BYTE_PTR pProposal,
                           CK_ULONG_PTR pulProposalLen);
  CK_RV (*KMS_WithdrawProposal)(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pId, CK_ULONG ulIdLen);
  CK_RV (*KMS_Execute)(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pProposal, CK_ULONG ulProposalLen);
  CK_RV (*KMS_ExportDomainToken)(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pToken, CK_ULONG_PTR pulTokenLen);
  CK_RV (*KMS_ReadLog)(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pHistory, CK_ULONG_PTR pulHistoryLen);
  CK_RV (*KMS_ImportDomain)(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pHistory, CK_ULONG ulHistoryLen);
  CK_RV (*KMS_SetEnrolledPIN)(CK_SESSION_HANDLE hSession,
                              CK_USER_TYPE userType,
                              CK_UTF8CHAR_PTR pUsername,
                              CK_ULONG ulUsernameLen,
                              CK_BYTE_PTR pCode,
                              CK_ULONG ulCodeLen,
                              CK_UTF8CHAR_PTR pPin,
                              CK_ULONG ulPinLen);
  CK_RV (*KMS_BeginRecovery)(CK_SLOT_ID slotID,
                             CK_UTF8CHAR_PTR pSoPin,
                             CK_ULONG ulSoPinLen,
                             CK_BYTE_PTR pClaim,
                             CK_ULONG_PTR pulClaimLen);
  CK_RV (*KMS_Recover)(CK_SLOT_ID slotID,
                       CK_UTF8CHAR_PTR pSoPin,
                       CK_ULONG ulSoPinLen,
                       CK_BYTE_PTR pCommand,
                       CK_ULONG ulCommandLen,
                       struct KMS_BYTES *pContributions,
                       CK_ULONG ulCount);
  KMS_CHANGE KMS_EnableKey;
  KMS_CHANGE KMS_DisableKey;
  KMS_CHANGE KMS_ScheduleKeyDeletion;
  KMS_CHANGE KMS_CancelKeyDeletion;
  KMS_CHANGE KMS_UpdateKeyDescription;
  KMS_CHANGE KMS_TagKey;
  KMS_CHANGE KMS_UntagKey;
  KMS_CHANGE KMS_CreateAlias;
  KMS_CHANGE KMS_UpdateAlias;
  KMS_CHANGE KMS_DeleteAlias;
  KMS_CHANGE KMS_RotateKey;
  KMS_CHANGE KMS_SetRotation;
  KMS_CHANGE KMS_DeleteImportedKeyMaterial;
  KMS_CHANGE KMS_PutKeyPolicy;
  KMS_CHANGE KMS_RetireGrant;
  KMS_CHANGE KMS_RevokeGrant;
  KMS_CHANGE KMS_RunDue;
  KMS_CREATION KMS_CreateKey;
  KMS_CREATION KMS_CreateGrant;
  KMS_QUERY KMS_DescribeKey;
  KMS_QUERY KMS_ListKeys;
  KMS_QUERY KMS_ListAliases;
  KMS_QUERY KMS_GetKeyRotationStatus;
  KMS_QUERY KMS_ListRotations;
  KMS_QUERY KMS_GetKeyPolicy;
  KMS_QUERY KMS_ListGrants;
  KMS_QUERY KMS_ListUsers;
  CK_RV (*KMS_Encrypt)(CK_SESSION_HANDLE hSession,
                       CK_FLAGS flags,
                       CK_UTF8CHAR_PTR pKey,
                       CK_ULONG ulKeyLen,
                       CK_UTF8CHAR_PTR pContext,
                       CK_ULONG ulContextLen,
                       CK_BYTE_PTR pPlaintext,
                       CK_ULONG ulPlaintextLen,
                       CK_BYTE_PTR pBlob,
                       CK_ULONG_PTR pulBlobLen);
  CK_RV (*KMS_Decrypt)(CK_SESSION_HANDLE hSession,
                       CK_FLAGS flags,
                       CK_UTF8CHAR_PTR pKey,
                       CK_ULONG ulKeyLen,
                       CK_UTF8CHAR_PTR pContext,
                       CK_ULONG ulContextLen,
                       CK_BYTE_PTR pBlob,
                       CK_ULONG ulBlobLen,
                       CK_BYTE_PTR pPlaintext,
                       CK_ULONG_PTR pulPlaintextLen);
  CK_RV (*KMS_ReEncrypt)(CK_SESSION_HANDLE hSession,
                         CK_FLAGS flags,
                         CK_UTF8CHAR_PTR pSourceContext,
                         CK_ULONG ulSourceContextLen,
                         CK_BYTE_PTR pBlob,
                         CK_ULONG ulBlobLen,
                         CK_UTF8CHAR_PTR pKey,
                         CK_ULONG ulKeyLen,
                         CK_UTF8CHAR_PTR pContext,
                         CK_ULONG ulContextLen,
                         CK_BYTE_PTR pNewBlob,
                         CK_ULONG_PTR pulNewBlobLen);
  CK_RV (*KMS_GenerateDataKey)(CK_SESSION_HANDLE hSession,
                               CK_FLAGS flags,
                               CK_UTF8CHAR_PTR pKey,
                               CK_ULONG ulKeyLen,
                               CK_ULONG ulBytes,
                               CK_UTF8CHAR_PTR pContext,
                               CK_ULONG ulContextLen,
                               CK_BYTE_PTR pPlaintext,
                               CK_ULONG_PTR pulPlaintextLen,
                               CK_BYTE_PTR pBlob,
                               CK_ULONG_PTR pulBlobLen);
  CK_RV (*KMS_GenerateDataKeyWithoutPlaintext)(CK_SESSION_HANDLE hSession,
                                               CK_FLAGS flags,
                                               CK_UTF8CHAR_PTR pKey,
                                               CK_ULONG ulKeyLen,
                                               CK_ULONG ulBytes,
                                               CK_UTF8CHAR_PTR pContext,
                                               CK_ULONG ulContextLen,
                                               CK_BYTE_PTR pBlob,
                                               CK_ULONG_PTR pulBlobLen);
  CK_RV (*KMS_GenerateDataKeyPair)(CK_SESSION_HANDLE hSession,
                                   CK_FLAGS flags,
                                   CK_UTF8CHAR_PTR pKey,
                                   CK_ULONG ulKeyLen,
                                   CK_UTF8CHAR_PTR pSpec,
                                   CK_ULONG ulSpecLen,
                                   CK_UTF8CHAR_PTR pContext,
                                   CK_ULONG ulContextLen,
                                   CK_BYTE_PTR pPublic,
                                   CK_ULONG_PTR pulPublicLen,
                                   CK_BYTE_PTR pPrivate,
                                   CK_ULONG_PTR pulPrivateLen,
                                   CK_BYTE_PTR pBlob,
                                   CK_ULONG_PTR pulBlobLen);
  CK_RV (*KMS_GenerateDataKeyPairWithoutPlaintext)(CK_SESSION_HANDLE hSession,
                                                   CK_FLAGS flags,
                                                   CK_UTF8CHAR_PTR pKey,
                                                   CK_ULONG ulKeyLen,
                                                   CK_UTF8CHAR_PTR pSpec,
                                                   CK_ULONG ulSpecLen,
                                                   CK_UTF8CHAR_PTR pContext,
                                                   CK_ULONG ulContextLen,
                                                   CK_BYTE_PTR pPublic,
                                                   CK_ULONG_PTR pulPublicLen,
                                                   CK_BYTE_PTR pBlob,
                                                   CK_ULONG_PTR pulBlobLen);
  CK_RV (*KMS_GetParametersForImport)(CK_SESSION_HANDLE hSession,
                                      CK_FLAGS flags,
                                      CK_UTF8CHAR_PTR pKey,
                                      CK_ULONG ulKeyLen,
                                      CK_UTF8CHAR_PTR pAlgorithm,
                                      CK_ULONG ulAlgorithmLen,
                                      CK_UTF8CHAR_PTR pWrappingSpec,
                                      CK_ULONG ulWrappingSpecLen,
                                      CK_BYTE_PTR pPublicKey,
                                      CK_ULONG_PTR pulPublicKeyLen,
                                      CK_BYTE_PTR pToken,
                                      CK_ULONG_PTR pulTokenLen,
                                      CK_ULONG_PTR pulValidTo);
  CK_RV (*KMS_ImportKeyMaterial)(CK_SESSION_HANDLE hSession,
                                 CK_FLAGS flags,
                                 CK_UTF8CHAR_PTR pKey,
                                 CK_ULONG ulKeyLen,
                                 CK_BYTE_PTR pToken,
                                 CK_ULONG ulTokenLen,
                                 CK_BYTE_PTR pWrapped,
                                 CK_ULONG ulWrappedLen,
                                 CK_ULONG ulValidTo);
  CK_RV (*KMS_CreateUser)(CK_SESSION_HANDLE hSession,
                          CK_UTF8CHAR_PTR pName,
                          CK_ULONG ulNameLen,
                          CK_UTF8CHAR_PTR pPin,
                          CK_ULONG ulPinLen);
  CK_RV (*KMS_RemoveUser)(CK_SESSION_HANDLE hSession, CK_UTF8CHAR_PTR pName, CK_ULONG ulNameLen);
  CK_RV (*KMS_AuditHead)(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pHead, CK_ULONG_PTR pulHeadLen);
  CK_RV (*KMS_ReadAudit)(CK_SESSION_HANDLE hSession,
                         CK_ULONG ulAfter,
                         CK_UTF8CHAR_PTR pJsonLines,
                         CK_ULONG_PTR pulJsonLinesLen,
                         CK_ULONG_PTR pulLast);
  CK_RV (*KMS_VerifyAudit)(CK_SESSION_HANDLE hSession,
                           CK_BYTE_PTR pHead,
                           CK_ULONG ulHeadLen,
                           CK_UTF8CHAR_PTR pJson,
                           CK_ULONG_PTR pulJsonLen);
  KMS_CHANGE KMS_ReplicateKey;
  KMS_CHANGE KMS_UpdatePrimaryRegion;
  KMS_QUERY KMS_DescribeReplicas;
  KMS_QUERY KMS_PendingReplication;
  CK_RV (*KMS_TellReplicas)(CK_SESSION_HANDLE hSession,
                            CK_UTF8CHAR_PTR pRequest,
                            CK_ULONG ulRequestLen,
                            CK_BYTE_PTR pMessage,
                            CK_ULONG_PTR pulMessageLen);
  CK_RV (*KMS_OfferReplicas)(CK_SESSION_HANDLE hSession,
                             CK_UTF8CHAR_PTR pRequest,
                             CK_ULONG ulRequestLen,
                             CK_BYTE_PTR pOffer,
                             CK_ULONG_PTR pulOfferLen);
  KMS_EXCHANGE KMS_ShipReplicas;
  CK_RV (*KMS_AcceptReplicas)(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pShipment, CK_ULONG ulShipmentLen);
  KMS_EXCHANGE KMS_ConfirmReplicas;
  KMS_EXCHANGE KMS_ReceiveReplication;
  CK_RV (*KMS_DescribeSession)(CK_SESSION_HANDLE hSession, CK_UTF8CHAR_PTR pJson, CK_ULONG_PTR pulJsonLen);
} KMS_FUNCTION_LIST;

/*
 The flag by which a function does nothing but say whether it would: KMS_R_DRY_RUN.
 */
#define KMS_DRY_RUN 1

/*
 Bytes of a key id, and of a grant id.
 */
#define KMS_ID_LEN 36

/*
 Bytes by which a blob is longer than its plaintext, at most.
 */
#define KMS_MAX_BLOB_OVERHEAD 169

/*
 Bytes that are enough for every public key of KMS_GenerateDataKeyPair and KMS_GetParametersForImport.
 */
#define KMS_MAX_PUBLIC_KEY_LEN 1024

/*
 Bytes that are enough for every private key of KMS_GenerateDataKeyPair.
 */
#define KMS_MAX_PRIVATE_KEY_LEN 4096

/*
 Bytes that are enough for every import token.
 */
#define KMS_MAX_IMPORT_TOKEN_LEN 4096

/*
 Bytes that are enough for every claim of an HSM.
 */
#define KMS_MAX_CLAIM_LEN 1024

/*
 Bytes that no message between Regions exceeds.
 */
#define KMS_MAX_MESSAGE_LEN 67108864

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

/*
 Makes an alias: another name of a key, which may come to name another key. C_FindObjects finds a key by
 an alias as it does by CKA_LABEL.

 pRequest, ulRequestLen: {"AliasName": "alias/NAME", "TargetKeyId": TEXT}. NAME has letters of ASCII,
     digits, "/", "_" and "-"; the whole has 256 bytes at most.

 KMS_R_INVALID_ALIAS_NAME. KMS_R_ALREADY_EXISTS. KMS_R_LIMIT_EXCEEDED: a key has 50 aliases at most.
 KMS_R_INVALID_STATE: the key waits for its deletion.
 */
CK_RV KMS_CreateAlias(CK_SESSION_HANDLE hSession,
                      CK_FLAGS flags,
                      CK_UTF8CHAR_PTR pRequest,
                      CK_ULONG ulRequestLen);

/*
 Makes an alias name another key of the same usage, and of the same kind: symmetric or not.

 pRequest, ulRequestLen: {"AliasName": TEXT, "TargetKeyId": TEXT}.

 KMS_R_NOT_FOUND. KMS_R_LIMIT_EXCEEDED. KMS_R_INVALID_KEY_USAGE: the keys are not of one kind and usage.
 KMS_R_INVALID_STATE: the key that it is to name waits for its deletion.
 */
CK_RV KMS_UpdateAlias(CK_SESSION_HANDLE hSession,
                      CK_FLAGS flags,
                      CK_UTF8CHAR_PTR pRequest,
                      CK_ULONG ulRequestLen);

/*
 Deletes an alias, whatever the state of its key.

 pRequest, ulRequestLen: {"AliasName": TEXT}.

 KMS_R_NOT_FOUND.
 */
CK_RV KMS_DeleteAlias(CK_SESSION_HANDLE hSession,
                      CK_FLAGS flags,
                      CK_UTF8CHAR_PTR pRequest,
                      CK_ULONG ulRequestLen);

/*
 Lists the aliases, of one key or of all.

 pRequest, ulRequestLen: {"KeyId": TEXT?, "Limit": NUMBER?, "Marker": TEXT?}, as for KMS_ListKeys.
 pJson, *pulJsonLen: gets {"Aliases": [{"AliasName": TEXT, "TargetKeyId": TEXT, ...}], "Truncated":
     BOOLEAN, "NextMarker": TEXT?}.

 CKR_BUFFER_TOO_SMALL; the list may grow between two calls.
 */
CK_RV KMS_ListAliases(CK_SESSION_HANDLE hSession,
                      CK_UTF8CHAR_PTR pRequest,
                      CK_ULONG ulRequestLen,
                      CK_UTF8CHAR_PTR pJson,
                      CK_ULONG_PTR pulJsonLen);

/*
 Signs a head of the audit log: it vouches for all records that there are now. Kept where nobody who
 can write the store can change it, printed even, it shows any later edit, removal, truncation or
 rollback (KMS_VerifyAudit). A user or the SO is logged in.

 pHead, *pulHeadLen: gets the head (COSE_Sign1), at most 512 bytes, for which there must be room. A
     call that gives only the length signs nothing.

 CKR_USER_NOT_LOGGED_IN. CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_AuditHead(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pHead, CK_ULONG_PTR pulHeadLen);

/*
 Reads the audit log, oldest rows first, in pages. A user or the SO is logged in.

 ulAfter: 0 for the first page, then the last one's *pulLast.
 pJsonLines, *pulJsonLinesLen: gets as many of the rows after that as there is room for, at most 1000:
     a JSON object each, ended by a newline. The length 0 is the end of the log. A row has id (what
     ulAfter counts), row ("anchor", "event", "head", or "damaged" with its bytes), instance, seq, time,
     hash; an event has principal, host, action, key, target, context, outcome. docs/protocols.md says
     what they mean.
 pulLast: gets the id of the last row given; ulAfter if none is.

 CKR_USER_NOT_LOGGED_IN. CKR_BUFFER_TOO_SMALL: there is no room for one row; *pulJsonLinesLen is what
 it needs.
 */
CK_RV KMS_ReadAudit(CK_SESSION_HANDLE hSession,
                    CK_ULONG ulAfter,
                    CK_UTF8CHAR_PTR pJsonLines,
                    CK_ULONG_PTR pulJsonLinesLen,
                    CK_ULONG_PTR pulLast);

/*
 Reads the whole audit log and says whether it is as the HSMs of the domain wrote it. Needs no login.
 It takes as long as the log is long, also when only the length is asked for.

 pHead, ulHeadLen: a head that was kept elsewhere (KMS_AuditHead), for which the log is to have
     everything; NULL and 0 for none. Without one, a log that was cut off at its end, or put back as a
     whole to what it once was, looks whole.
 pJson, *pulJsonLen: gets a JSON object: ok, rows, chains, events, heads, head_checked, damage_count,
     damage (the first 1000: id, instance, seq, what), open_count, open (chains that were not closed,
     which is no damage: instance, host, seq, time, unsigned).

 CKR_DATA_INVALID: it is not a head. CKR_SIGNATURE_INVALID: no HSM of this domain signed it.
 CKR_TOKEN_NOT_RECOGNIZED: the domain's own log was damaged. CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_VerifyAudit(CK_SESSION_HANDLE hSession,
                      CK_BYTE_PTR pHead,
                      CK_ULONG ulHeadLen,
                      CK_UTF8CHAR_PTR pJson,
                      CK_ULONG_PTR pulJsonLen);

/*
 Makes a data key, and gives it in clear and in a blob, which KMS_Decrypt opens. A call that gives only
 the lengths makes nothing.

 pKey, ulKeyLen: the symmetric managed key that protects it: its id or an alias.
 ulBytes: the length of the data key, 1 to 1024; 16 and 32 for AES keys.
 pContext, ulContextLen: the encryption context, as for KMS_Encrypt.
 pPlaintext, *pulPlaintextLen: gets the data key, ulBytes bytes.
 pBlob, *pulBlobLen: gets the blob. The buffer has at least ulBytes + KMS_MAX_BLOB_OVERHEAD bytes, which is
     also the length given if it is NULL. Both buffers are NULL or neither.

 CKR_ARGUMENTS_BAD: also for another length, and for one buffer that is NULL. KMS_R_INVALID_KEY_USAGE.
 KMS_R_DISABLED. KMS_R_INVALID_STATE. CKR_BUFFER_TOO_SMALL, with both lengths.
 */
CK_RV KMS_GenerateDataKey(CK_SESSION_HANDLE hSession,
                          CK_FLAGS flags,
                          CK_UTF8CHAR_PTR pKey,
                          CK_ULONG ulKeyLen,
                          CK_ULONG ulBytes,
                          CK_UTF8CHAR_PTR pContext,
                          CK_ULONG ulContextLen,
                          CK_BYTE_PTR pPlaintext,
                          CK_ULONG_PTR pulPlaintextLen,
                          CK_BYTE_PTR pBlob,
                          CK_ULONG_PTR pulBlobLen);

/*
 As KMS_GenerateDataKey, but the data key leaves the HSM in the blob only.
 */
CK_RV KMS_GenerateDataKeyWithoutPlaintext(CK_SESSION_HANDLE hSession,
                                          CK_FLAGS flags,
                                          CK_UTF8CHAR_PTR pKey,
                                          CK_ULONG ulKeyLen,
                                          CK_ULONG ulBytes,
                                          CK_UTF8CHAR_PTR pContext,
                                          CK_ULONG ulContextLen,
                                          CK_BYTE_PTR pBlob,
                                          CK_ULONG_PTR pulBlobLen);

/*
 Makes a key pair, and gives its public key, its private key in clear, and in a blob, which KMS_Decrypt
 opens. A call that gives only the lengths makes nothing.

 pKey, ulKeyLen: the symmetric managed key that protects it: its id or an alias.
 pSpec, ulSpecLen: "RSA_2048", "RSA_3072", "RSA_4096", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521",
     "ECC_SECG_P256K1" or "ECC_ED25519".
 pContext, ulContextLen: the encryption context, as for KMS_Encrypt.
 pPublic, *pulPublicLen: gets the public key, a DER SubjectPublicKeyInfo. The buffer has at least
     KMS_MAX_PUBLIC_KEY_LEN bytes, which is also the length given if it is NULL.
 pPrivate, *pulPrivateLen: gets the private key, a DER PKCS#8; KMS_MAX_PRIVATE_KEY_LEN likewise.
 pBlob, *pulBlobLen: gets the blob of the PKCS#8; KMS_MAX_PRIVATE_KEY_LEN + KMS_MAX_BLOB_OVERHEAD likewise.
     All buffers are NULL or none.

 As KMS_GenerateDataKey.
 */
CK_RV KMS_GenerateDataKeyPair(CK_SESSION_HANDLE hSession,
                              CK_FLAGS flags,
                              CK_UTF8CHAR_PTR pKey,
                              CK_ULONG ulKeyLen,
                              CK_UTF8CHAR_PTR pSpec,
                              CK_ULONG ulSpecLen,
                              CK_UTF8CHAR_PTR pContext,
                              CK_ULONG ulContextLen,
                              CK_BYTE_PTR pPublic,
                              CK_ULONG_PTR pulPublicLen,
                              CK_BYTE_PTR pPrivate,
                              CK_ULONG_PTR pulPrivateLen,
                              CK_BYTE_PTR pBlob,
                              CK_ULONG_PTR pulBlobLen);

/*
 As KMS_GenerateDataKeyPair, but the private key leaves the HSM in the blob only.
 */
CK_RV KMS_GenerateDataKeyPairWithoutPlaintext(CK_SESSION_HANDLE hSession,
                                              CK_FLAGS flags,
                                              CK_UTF8CHAR_PTR pKey,
                                              CK_ULONG ulKeyLen,
                                              CK_UTF8CHAR_PTR pSpec,
                                              CK_ULONG ulSpecLen,
                                              CK_UTF8CHAR_PTR pContext,
                                              CK_ULONG ulContextLen,
                                              CK_BYTE_PTR pPublic,
                                              CK_ULONG_PTR pulPublicLen,
                                              CK_BYTE_PTR pBlob,
                                              CK_ULONG_PTR pulBlobLen);

/*
 Describes the domain behind the session's token: everything public of its state, how many
 records each domain key seals, and what its operators should be warned of. Needs no login.

 pJson, *pulJsonLen: gets a JSON object; bytes in it are hexadecimal, times seconds since 1970.

 CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_DescribeDomain(CK_SESSION_HANDLE hSession, CK_UTF8CHAR_PTR pJson, CK_ULONG_PTR pulJsonLen);

/*
 Gives the newest domain token: the state, signed by the HSM, and its secrets, encrypted to the
 HSMs and users of the domain. It may be shown to anyone. Needs no login.

 pToken, *pulTokenLen: gets the token (COSE_Sign1).

 CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_ExportDomainToken(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pToken, CK_ULONG_PTR pulTokenLen);

/*
 Gives the domain's history: the domain token of before its founding, every log entry since then,
 and the newest domain token, so that anyone can follow and verify who decided what. Needs no
 login.

 pHistory, *pulHistoryLen: gets the history, CBOR
     [origin: bstr, entries: [* bstr], newest: bstr].

 CKR_FUNCTION_REJECTED: the domain is not founded and has no log yet. CKR_BUFFER_TOO_SMALL; the
 history may grow between two calls.
 */
CK_RV KMS_ReadLog(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pHistory, CK_ULONG_PTR pulHistoryLen);

/*
 Brings an older copy of a token forward to the newest state of a history, each entry of which is
 verified. The session is read/write and a user or the SO is logged in. PINs that were changed
 since the copy was made are gone from it.

 pHistory, ulHistoryLen: a history as KMS_ReadLog gives it; at most 1 GiB.

 CKR_USER_NOT_LOGGED_IN. CKR_SESSION_READ_ONLY. CKR_DATA_INVALID: it is not a history.
 CKR_DATA_LEN_RANGE: it is too long. CKR_TOKEN_NOT_RECOGNIZED: its domain token is not one, or no
 HSM of the domain signed it. CKR_FUNCTION_REJECTED: it is of another domain, has nothing newer,
 does not lead from this token's state to its own newest, or would leave no PIN that opens the
 token. Nothing has changed then.
 */
CK_RV KMS_ImportDomain(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pHistory, CK_ULONG ulHistoryLen);

/*
 Sets the PIN of a user whom the operators created, or whose PIN they reset. The session is
 read/write. An embedded token wants a user or the SO logged in, which opens the domain; a fleet
 nobody, if there is a code.

 userType: CKU_USER or CKU_SO.
 pUsername, ulUsernameLen: the name of a named user (CKU_USER); else NULL and 0. UTF-8.
 pCode, ulCodeLen: the enrolment code that the operators gave the holder, at least 16 bytes; NULL and 0 if the
     command asked for none, and then the SO is the one logged in.
 pPin, ulPinLen: the new PIN. UTF-8.

 CKR_USER_NOT_LOGGED_IN. CKR_SESSION_READ_ONLY. CKR_USER_TYPE_INVALID. CKR_PIN_LEN_RANGE.
 CKR_PIN_INVALID: the PIN is not UTF-8. CKR_TOKEN_WRITE_PROTECTED: no command allows the user a
 new PIN now. CKR_FUNCTION_REJECTED: the code is wrong, or the time for it is over. CKR_PIN_LOCKED: ten
 codes were wrong; the operators give another. CKR_DEVICE_MEMORY: the HSM hashes as many PINs as it may.
 */
CK_RV KMS_SetEnrolledPIN(CK_SESSION_HANDLE hSession,
                         CK_USER_TYPE userType,
                         CK_UTF8CHAR_PTR pUsername,
                         CK_ULONG ulUsernameLen,
                         CK_BYTE_PTR pCode,
                         CK_ULONG ulCodeLen,
                         CK_UTF8CHAR_PTR pPin,
                         CK_ULONG ulPinLen);

/*
 Encrypts a few bytes under a symmetric managed key of the usage "ENCRYPT_DECRYPT". CKM_KMS_ENVELOPE
 does the same through C_Encrypt. A call that gives only the length does nothing with the key.

 pKey, ulKeyLen: the key: its id or an alias.
 pContext, ulContextLen: the encryption context, a JSON object of texts, which KMS_Decrypt has to be
     given again and which the audit log shows: nothing secret. Empty for none.
 pPlaintext, ulPlaintextLen: at most 4096 bytes.
 pBlob, *pulBlobLen: gets the blob (COSE_Encrypt0), which names the key and the version of its
     material. The buffer has at least ulPlaintextLen + KMS_MAX_BLOB_OVERHEAD bytes, which is also the
     length given if it is NULL.

 CKR_DATA_LEN_RANGE: the plaintext is too long. KMS_R_INVALID_KEY_USAGE. KMS_R_DISABLED.
 KMS_R_INVALID_STATE. CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_Encrypt(CK_SESSION_HANDLE hSession,
                  CK_FLAGS flags,
                  CK_UTF8CHAR_PTR pKey,
                  CK_ULONG ulKeyLen,
                  CK_UTF8CHAR_PTR pContext,
                  CK_ULONG ulContextLen,
                  CK_BYTE_PTR pPlaintext,
                  CK_ULONG ulPlaintextLen,
                  CK_BYTE_PTR pBlob,
                  CK_ULONG_PTR pulBlobLen);

/*
 Decrypts a blob, with whichever version of the key's material it was made. A call that gives only
 the length does nothing with the key.

 pKey, ulKeyLen: the key that the blob has to be of: its id or an alias; NULL and 0 for any, which the
     blob names.
 pContext, ulContextLen: the encryption context that the blob was made with.
 pBlob, ulBlobLen: the blob.
 pPlaintext, *pulPlaintextLen: gets the plaintext. It may be the memory of the blob.

 KMS_R_INVALID_CIPHERTEXT: it is no blob, was changed, or was made with another context.
 KMS_R_INCORRECT_KEY: it is of another key. KMS_R_NOT_FOUND: its key is not in this token.
 KMS_R_DISABLED. KMS_R_INVALID_STATE. CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_Decrypt(CK_SESSION_HANDLE hSession,
                  CK_FLAGS flags,
                  CK_UTF8CHAR_PTR pKey,
                  CK_ULONG ulKeyLen,
                  CK_UTF8CHAR_PTR pContext,
                  CK_ULONG ulContextLen,
                  CK_BYTE_PTR pBlob,
                  CK_ULONG ulBlobLen,
                  CK_BYTE_PTR pPlaintext,
                  CK_ULONG_PTR pulPlaintextLen);

/*
 Decrypts a blob and encrypts what was in it under another key, or anew under the same. The plaintext
 does not leave the HSM. A call that gives only the length does nothing with the keys.

 pSourceContext, ulSourceContextLen: the encryption context that the blob was made with.
 pBlob, ulBlobLen: the blob, which names its key.
 pKey, ulKeyLen: the key of the new blob: its id or an alias.
 pContext, ulContextLen: the encryption context of the new blob.
 pNewBlob, *pulNewBlobLen: gets the new blob. The buffer has at least the length given if it is NULL. It
     may be the memory of the old one.

 As KMS_Decrypt and KMS_Encrypt.
 */
CK_RV KMS_ReEncrypt(CK_SESSION_HANDLE hSession,
                    CK_FLAGS flags,
                    CK_UTF8CHAR_PTR pSourceContext,
                    CK_ULONG ulSourceContextLen,
                    CK_BYTE_PTR pBlob,
                    CK_ULONG ulBlobLen,
                    CK_UTF8CHAR_PTR pKey,
                    CK_ULONG ulKeyLen,
                    CK_UTF8CHAR_PTR pContext,
                    CK_ULONG ulContextLen,
                    CK_BYTE_PTR pNewBlob,
                    CK_ULONG_PTR pulNewBlobLen);

/*
 Makes an RSA wrapping pair for material that is to be imported into a key. The wrapping key's private
 half travels in the import token, sealed; both are good for 24 hours, for this key only. A call that
 gives only the lengths makes nothing.

 pKey, ulKeyLen: the key, of the origin "EXTERNAL": its id or an alias.
 pAlgorithm, ulAlgorithmLen: how the material will be wrapped: "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256",
     "RSA_AES_KEY_WRAP_SHA_1" or "RSA_AES_KEY_WRAP_SHA_256".
 pWrappingSpec, ulWrappingSpecLen: "RSA_2048", "RSA_3072" or "RSA_4096".
 pPublicKey, *pulPublicKeyLen: gets the wrapping key, a DER SubjectPublicKeyInfo. The buffer has at least
     KMS_MAX_PUBLIC_KEY_LEN bytes, which is also the length given if it is NULL.
 pToken, *pulTokenLen: gets the import token. The buffer has at least KMS_MAX_IMPORT_TOKEN_LEN bytes, which
     is also the length given if it is NULL. Both buffers are NULL or neither.
 pulValidTo: gets the time until which the token is good, seconds since 1970.

 KMS_R_UNSUPPORTED: the key's material is made here. KMS_R_INVALID_STATE: the key waits for its deletion.
 CKR_ARGUMENTS_BAD: also for an algorithm or spec that there is not. CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_GetParametersForImport(CK_SESSION_HANDLE hSession,
                                 CK_FLAGS flags,
                                 CK_UTF8CHAR_PTR pKey,
                                 CK_ULONG ulKeyLen,
                                 CK_UTF8CHAR_PTR pAlgorithm,
                                 CK_ULONG ulAlgorithmLen,
                                 CK_UTF8CHAR_PTR pWrappingSpec,
                                 CK_ULONG ulWrappingSpecLen,
                                 CK_BYTE_PTR pPublicKey,
                                 CK_ULONG_PTR pulPublicKeyLen,
                                 CK_BYTE_PTR pToken,
                                 CK_ULONG_PTR pulTokenLen,
                                 CK_ULONG_PTR pulValidTo);

/*
 Imports material that was wrapped with the wrapping key that came with an import token. A key takes the
 same material only, also after it was deleted or has expired.

 pKey, ulKeyLen: the key that the token was made for: its id or an alias.
 pToken, ulTokenLen: the import token.
 pWrapped, ulWrappedLen: the wrapped material: the bytes of a symmetric key, the PKCS#8 of a private key.
 ulValidTo: when the material expires, seconds since 1970, within 365 days; 0 if it does not.

 KMS_R_INVALID_IMPORT_TOKEN. KMS_R_EXPIRED_IMPORT_TOKEN. KMS_R_INVALID_CIPHERTEXT: the material does not
 unwrap. KMS_R_INCORRECT_KEY_MATERIAL: it does not fit the key's spec, or is not what was imported
 before. KMS_R_UNSUPPORTED: the key's material is made here. KMS_R_INVALID_STATE: the key waits for its
 deletion. CKR_ARGUMENTS_BAD: also for a time that has passed or is too far away.
 */
CK_RV KMS_ImportKeyMaterial(CK_SESSION_HANDLE hSession,
                            CK_FLAGS flags,
                            CK_UTF8CHAR_PTR pKey,
                            CK_ULONG ulKeyLen,
                            CK_BYTE_PTR pToken,
                            CK_ULONG ulTokenLen,
                            CK_BYTE_PTR pWrapped,
                            CK_ULONG ulWrappedLen,
                            CK_ULONG ulValidTo);

/*
 Deletes the imported material of a key, which then waits for the same material to be imported again.
 Without material, nothing happens.

 pRequest, ulRequestLen: {"KeyId": TEXT}.

 KMS_R_UNSUPPORTED: the key's material was made here.
 */
CK_RV KMS_DeleteImportedKeyMaterial(CK_SESSION_HANDLE hSession,
                                    CK_FLAGS flags,
                                    CK_UTF8CHAR_PTR pRequest,
                                    CK_ULONG ulRequestLen);

/*
 Grants somebody a part of what may be done with a key.

 pRequest, ulRequestLen: {"KeyId": TEXT, "GranteePrincipal": TEXT, "Operations": [TEXT],
     "RetiringPrincipal": TEXT?, "Constraints": {"EncryptionContextEquals": {...}} or
     {"EncryptionContextSubset": {...}}?, "Name": TEXT?}. Principals are those of KMS_PutKeyPolicy.
 pId, *pulIdLen: gets the grant's id, KMS_ID_LEN bytes.

 KMS_R_LIMIT_EXCEEDED: a key has 100 grants at most. KMS_R_INVALID_GRANT. KMS_R_DISABLED.
 KMS_R_INVALID_STATE. CKR_BUFFER_TOO_SMALL: nothing was made.
 */
CK_RV KMS_CreateGrant(CK_SESSION_HANDLE hSession,
                      CK_FLAGS flags,
                      CK_UTF8CHAR_PTR pRequest,
                      CK_ULONG ulRequestLen,
                      CK_UTF8CHAR_PTR pId,
                      CK_ULONG_PTR pulIdLen);

/*
 Sets who may do what with a key, in the place of what was said before.

 pRequest, ulRequestLen: {"KeyId": TEXT, "Policy": {"Statement": [{"Principal": [TEXT], "Action": [TEXT],
     "Context": {"Equals": {...}} or {"Subset": {...}}?}]}}. A principal is "so", "user" or "user:NAME", an
     action "Encrypt", "DescribeKey" and the like; "*" is all of them. The README has the actions.

 KMS_R_MALFORMED_POLICY: it is not a policy, or one that nobody could change.
 */
CK_RV KMS_PutKeyPolicy(CK_SESSION_HANDLE hSession,
                       CK_FLAGS flags,
                       CK_UTF8CHAR_PTR pRequest,
                       CK_ULONG ulRequestLen);

/*
 Ends a grant, by the one whom it says may retire it or by the grantee.

 pRequest, ulRequestLen: {"KeyId": TEXT, "GrantId": TEXT}.

 KMS_R_NOT_FOUND.
 */
CK_RV KMS_RetireGrant(CK_SESSION_HANDLE hSession,
                      CK_FLAGS flags,
                      CK_UTF8CHAR_PTR pRequest,
                      CK_ULONG ulRequestLen);

/*
 Ends a grant, by whoever may revoke the key's grants.

 pRequest, ulRequestLen: {"KeyId": TEXT, "GrantId": TEXT}.

 KMS_R_NOT_FOUND.
 */
CK_RV KMS_RevokeGrant(CK_SESSION_HANDLE hSession,
                      CK_FLAGS flags,
                      CK_UTF8CHAR_PTR pRequest,
                      CK_ULONG ulRequestLen);

/*
 Tells who may do what with a key. The token's owners, the SO and the user, may always ask.

 pRequest, ulRequestLen: {"KeyId": TEXT}.
 pJson, *pulJsonLen: gets {"KeyId": TEXT, "Policy": {...}}.

 CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_GetKeyPolicy(CK_SESSION_HANDLE hSession,
                       CK_UTF8CHAR_PTR pRequest,
                       CK_ULONG ulRequestLen,
                       CK_UTF8CHAR_PTR pJson,
                       CK_ULONG_PTR pulJsonLen);

/*
 Lists the grants of a key. The token's owners, the SO and the user, may always ask.

 pRequest, ulRequestLen: {"KeyId": TEXT}.
 pJson, *pulJsonLen: gets {"Grants": [{"GrantId": TEXT, ...}]}.

 CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_ListGrants(CK_SESSION_HANDLE hSession,
                     CK_UTF8CHAR_PTR pRequest,
                     CK_ULONG ulRequestLen,
                     CK_UTF8CHAR_PTR pJson,
                     CK_ULONG_PTR pulJsonLen);

/*
 Lists the token's users: the principals of policies and grants.

 pRequest, ulRequestLen: {}, or nothing.
 pJson, *pulJsonLen: gets {"Users": [...]}.

 CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_ListUsers(CK_SESSION_HANDLE hSession,
                    CK_UTF8CHAR_PTR pRequest,
                    CK_ULONG ulRequestLen,
                    CK_UTF8CHAR_PTR pJson,
                    CK_ULONG_PTR pulJsonLen);

/*
 Makes a managed key. It is for one usage, for ever.

 pRequest, ulRequestLen: a JSON object, of which everything may be left out:
     "KeySpec"              "AES_256" (which is the default; also "SYMMETRIC_DEFAULT"), "RSA_2048", "RSA_3072",
                            "RSA_4096", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521",
                            "ECC_SECG_P256K1", "ECC_ED25519", "HMAC_224", "HMAC_256", "HMAC_384",
                            "HMAC_512"
     "KeyUsage"             "ENCRYPT_DECRYPT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC" or "KEY_AGREEMENT"; it must
                            be given where the spec has more than one
     "Origin"               "HSM" (the default), or "EXTERNAL" for a key whose material will be imported
     "MultiRegion"          BOOLEAN; the key may be replicated, and its id begins with mrk-
     "ReplicateImportedMaterial" BOOLEAN; of a multi-Region key whose material is imported: it goes to the
                            replicas; else each imports the same itself
     "Description"          TEXT
     "Label"                TEXT, the CKA_LABEL
     "Tags"                 [{"TagKey": TEXT, "TagValue": TEXT}]
     "StandardMechanisms"   BOOLEAN; an AES_256 key is also for CKM_AES_GCM, and does not rotate
     "Policy"               as KMS_PutKeyPolicy takes it; else whoever makes the key may do everything
     "DualControl"          {"Operators": [TEXT], "Threshold": NUMBER}; each use needs the approval of so
                            many of these operators of a founded domain
 pId, *pulIdLen: gets the key's id, KMS_ID_LEN bytes.

 CKR_ARGUMENTS_BAD: also for a spec or usage that there is not. KMS_R_INVALID_TAG.
 KMS_R_MALFORMED_POLICY. CKR_TOKEN_RESOURCE_EXCEEDED: there are too many keys. CKR_BUFFER_TOO_SMALL:
 nothing was made.
 */
CK_RV KMS_CreateKey(CK_SESSION_HANDLE hSession,
                    CK_FLAGS flags,
                    CK_UTF8CHAR_PTR pRequest,
                    CK_ULONG ulRequestLen,
                    CK_UTF8CHAR_PTR pId,
                    CK_ULONG_PTR pulIdLen);

/*
 Tells what is public of a key. Whoever is logged in may ask.

 pRequest, ulRequestLen: {"KeyId": TEXT}.
 pJson, *pulJsonLen: gets a JSON object: KeyId, KeySpec, KeyUsage, KeyState, Enabled, Origin,
     CreationDate, Description, Tags, Owner, KeyVersion, and others where there is something to say.

 CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_DescribeKey(CK_SESSION_HANDLE hSession,
                      CK_UTF8CHAR_PTR pRequest,
                      CK_ULONG ulRequestLen,
                      CK_UTF8CHAR_PTR pJson,
                      CK_ULONG_PTR pulJsonLen);

/*
 Lists the managed keys.

 pRequest, ulRequestLen: {"Limit": NUMBER? of 1 to 1000 (100), "Marker": TEXT? (the NextMarker of the list
     before), "ExpiringWithinDays": NUMBER? (only those of which time demands something until then)}.
 pJson, *pulJsonLen: gets {"Keys": [{"KeyId": TEXT, ...}], "Truncated": BOOLEAN, "NextMarker": TEXT?}.

 CKR_BUFFER_TOO_SMALL; the list may grow between two calls.
 */
CK_RV KMS_ListKeys(CK_SESSION_HANDLE hSession,
                   CK_UTF8CHAR_PTR pRequest,
                   CK_ULONG ulRequestLen,
                   CK_UTF8CHAR_PTR pJson,
                   CK_ULONG_PTR pulJsonLen);

/*
 Enables a disabled key.

 pRequest, ulRequestLen: {"KeyId": TEXT}.

 KMS_R_INVALID_STATE: the key waits for its deletion or for its material.
 */
CK_RV KMS_EnableKey(CK_SESSION_HANDLE hSession,
                    CK_FLAGS flags,
                    CK_UTF8CHAR_PTR pRequest,
                    CK_ULONG ulRequestLen);

/*
 Disables a key: nothing is done with it until KMS_EnableKey.

 pRequest, ulRequestLen: {"KeyId": TEXT}.

 KMS_R_INVALID_STATE: the key waits for its deletion or for its material.
 */
CK_RV KMS_DisableKey(CK_SESSION_HANDLE hSession,
                     CK_FLAGS flags,
                     CK_UTF8CHAR_PTR pRequest,
                     CK_ULONG ulRequestLen);

/*
 Schedules the deletion of a key. It waits in the state PendingDeletion, in which nothing is done with
 it, and is deleted with all versions of its material, its public half and its aliases once the time
 is over and somebody is logged in, or KMS_RunDue is called. There is no other way to delete a
 managed key: C_DestroyObject gives CKR_ACTION_PROHIBITED.

 pRequest, ulRequestLen: {"KeyId": TEXT, "PendingWindowInDays": NUMBER? of 7 to 30 (30)}.

 KMS_R_INVALID_STATE: it waits already.
 */
CK_RV KMS_ScheduleKeyDeletion(CK_SESSION_HANDLE hSession,
                              CK_FLAGS flags,
                              CK_UTF8CHAR_PTR pRequest,
                              CK_ULONG ulRequestLen);

/*
 Keeps a key that waits for its deletion. It is disabled then.

 pRequest, ulRequestLen: {"KeyId": TEXT}.

 KMS_R_INVALID_STATE: it does not wait for its deletion, or the time is over.
 */
CK_RV KMS_CancelKeyDeletion(CK_SESSION_HANDLE hSession,
                            CK_FLAGS flags,
                            CK_UTF8CHAR_PTR pRequest,
                            CK_ULONG ulRequestLen);

/*
 Sets the description of a key.

 pRequest, ulRequestLen: {"KeyId": TEXT, "Description": TEXT}.

 KMS_R_INVALID_STATE: the key waits for its deletion. CKR_ARGUMENTS_BAD: also for a description that is
 too long.
 */
CK_RV KMS_UpdateKeyDescription(CK_SESSION_HANDLE hSession,
                               CK_FLAGS flags,
                               CK_UTF8CHAR_PTR pRequest,
                               CK_ULONG ulRequestLen);

/*
 Adds tags to a key, in the place of those with the same names.

 pRequest, ulRequestLen: {"KeyId": TEXT, "Tags": [{"TagKey": TEXT, "TagValue": TEXT}]}.

 KMS_R_INVALID_TAG. KMS_R_LIMIT_EXCEEDED: a key has 50 tags at most. KMS_R_INVALID_STATE: the key waits
 for its deletion.
 */
CK_RV KMS_TagKey(CK_SESSION_HANDLE hSession, CK_FLAGS flags, CK_UTF8CHAR_PTR pRequest, CK_ULONG ulRequestLen);

/*
 Removes tags from a key. Names that it does not have do not matter.

 pRequest, ulRequestLen: {"KeyId": TEXT, "TagKeys": [TEXT]}.

 KMS_R_INVALID_STATE: the key waits for its deletion.
 */
CK_RV KMS_UntagKey(CK_SESSION_HANDLE hSession,
                   CK_FLAGS flags,
                   CK_UTF8CHAR_PTR pRequest,
                   CK_ULONG ulRequestLen);

/*
 Makes a proposal of a command and keeps it among the pending ones. Needs no login, but a
 read/write session. A call that gives only the length keeps nothing.

 pRequest, ulRequestLen: what to do, a JSON object {"command": NAME, ...arguments}, UTF-8.
     "valid_from" (seconds since 1970; now) and "valid_for" (seconds; a day, or less by the
     domain's limits) may be given with each command. Bytes are lower-case hexadecimal, a CLAIM is
     the COSE_Sign1 by which a party proves that it has its keys, a ROLE is "SO", "user" or
     {"named": TEXT}, NUMBER? and the like may be left out. The commands:

     "found domain"         region: TEXT, operators: [{"claim": CLAIM, "roles": [TEXT]}],
                            rules: [RULE]?
     "add operator"         operator: CLAIM, roles: [TEXT]
     "re-key operator"      operator: CLAIM
     "remove operator"      id: BYTES
     "set rule"             rule: RULE = {"command": TEXT, "alternatives": [{ROLE NAME: NUMBER or
                            "majority"}]}
     "admit host"           host: CLAIM
     "expel host"           id: BYTES
     "admit HSM"            hsm: CLAIM
     "expel HSM"            id: BYTES, retain: SECONDS?
     "create user",
     "reset PIN"            role: ROLE, code: TEXT? or code_hash: BYTES?, window: SECONDS? or
                            until: TIME?
     "remove user"          role: ROLE
     "rotate domain key"    retain: SECONDS?
     "schedule retirement"  key: BYTES, at: TIME?
     "rotate RSK"
     "standing order"       order: {"interval": SECONDS, "window": SECONDS, "retain": SECONDS?,
                            "until": TIME} or null
     "set limits"           limits: {NAME: SECONDS}, as KMS_DescribeDomain names them
     "allow suite"          suite: NUMBER, allowed: BOOLEAN?
     "trust Region"         region: {"name": TEXT, "domain": BYTES, "replication_keys": [BYTES]}
     "distrust Region"      name: TEXT
     "trust key"            object: BYTES (CKA_UNIQUE_ID), trusted: BOOLEAN?
     "revoke key"           object: BYTES, generation: NUMBER
     "give up replica",
     "emergency promote"    key_ids: [TEXT, ...], region: TEXT
     "use key"              key: TEXT, action: TEXT, digest: BYTES | null, count: NUMBER?,
                            instance: BYTES?
     "set dual control"     key: TEXT, operators: [TEXT, ...], threshold: NUMBER
     "make recovery set"    threshold: NUMBER, operators: [BYTES]? (the ids; else one per person)
     "recover domain"       hsm: CLAIM (of KMS_BeginRecovery)

 pProposal, *pulProposalLen: gets the proposal (COSE_Sign) without signatures. Show it with
     KMS_DescribeProposal before anybody signs it.

 CKR_ARGUMENTS_BAD: the request is not of that form; KMS_LastError names the field that is wrong.
 CKR_SESSION_READ_ONLY. CKR_BUFFER_TOO_SMALL. CKR_FUNCTION_REJECTED: it has expired already.
 CKR_DEVICE_MEMORY: too many proposals are pending.
 */
CK_RV KMS_Propose(CK_SESSION_HANDLE hSession,
                  CK_UTF8CHAR_PTR pRequest,
                  CK_ULONG ulRequestLen,
                  CK_BYTE_PTR pProposal,
                  CK_ULONG_PTR pulProposalLen);

/*
 Says what a proposal would do in plain words, who has signed it, whether the signatures are
 right and enough, and why it would be refused now. Needs no login.

 pProposal, ulProposalLen: a proposal, pending or not.
 pJson, *pulJsonLen: gets a JSON object: id, command, arguments, words, domain, governance,
     not_before, not_after, nonce, signers, quorum_met, lacking (what the quorum lacks), refusal (why
     it would be refused now), obstacle (why it would be, whoever signs it).

 CKR_DATA_INVALID: it is not a proposal. CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_DescribeProposal(CK_SESSION_HANDLE hSession,
                           CK_BYTE_PTR pProposal,
                           CK_ULONG ulProposalLen,
                           CK_UTF8CHAR_PTR pJson,
                           CK_ULONG_PTR pulJsonLen);

/*
 Gives the bytes that an operator signs: the Sig_structure of his signature. He signs with ECDSA
 over their SHA-384 (CKM_ECDSA_SHA384). Needs no login.

 pProposal, ulProposalLen: the proposal.
 pPublicKey, ulPublicKeyLen: the operator's public signing key, a DER SubjectPublicKeyInfo of
     P-384 with an uncompressed point, 120 bytes (CKA_PUBLIC_KEY_INFO).
 pBytes, *pulBytesLen: gets the bytes.

 CKR_DATA_INVALID: it is not a proposal. CKR_PUBLIC_KEY_INVALID: it is not such a key.
 CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_BytesToSign(CK_SESSION_HANDLE hSession,
                      CK_BYTE_PTR pProposal,
                      CK_ULONG ulProposalLen,
                      CK_BYTE_PTR pPublicKey,
                      CK_ULONG ulPublicKeyLen,
                      CK_BYTE_PTR pBytes,
                      CK_ULONG_PTR pulBytesLen);

/*
 Adds an operator's signature to a proposal, if it is right, and keeps the proposal among the
 pending ones with the signatures it has there. Needs no login, but a read/write session. A call
 that gives only the length verifies the signature and keeps nothing.

 pProposal, ulProposalLen: the proposal, pending or not.
 pPublicKey, ulPublicKeyLen: the key that signed, as for KMS_BytesToSign.
 pSignature, ulSignatureLen: r and s, 48 bytes each (as C_Sign gives them).
 pSigned, *pulSignedLen: gets the proposal with all signatures. It may be the memory of an input.

 CKR_DATA_INVALID: the proposal, key or signature is malformed. CKR_FUNCTION_REJECTED: the key is
 no operator's (or, for "found domain", none of those it names) or has signed already, the
 signature does not verify, or the proposal is for another domain or has expired.
 CKR_SESSION_READ_ONLY. CKR_BUFFER_TOO_SMALL. CKR_DEVICE_MEMORY: too many proposals are pending.
 */
CK_RV KMS_AddSignature(CK_SESSION_HANDLE hSession,
                       CK_BYTE_PTR pProposal,
                       CK_ULONG ulProposalLen,
                       CK_BYTE_PTR pPublicKey,
                       CK_ULONG ulPublicKeyLen,
                       CK_BYTE_PTR pSignature,
                       CK_ULONG ulSignatureLen,
                       CK_BYTE_PTR pSigned,
                       CK_ULONG_PTR pulSignedLen);

/*
 Keeps a proposal that came from elsewhere among the pending ones, with the signatures it has
 there. Needs no login, but a read/write session. A call that gives only the length keeps nothing.

 pProposal, ulProposalLen: the proposal.
 pMerged, *pulMergedLen: gets the proposal with the signatures of both. It may be the memory of
     the input.

 CKR_DATA_INVALID: it is not a proposal. CKR_FUNCTION_REJECTED: it is for another domain, has
 expired, or has a signature that is no operator's or does not verify. CKR_SESSION_READ_ONLY.
 CKR_BUFFER_TOO_SMALL. CKR_DEVICE_MEMORY: too many proposals are pending.
 */
CK_RV KMS_PutProposal(CK_SESSION_HANDLE hSession,
                      CK_BYTE_PTR pProposal,
                      CK_ULONG ulProposalLen,
                      CK_BYTE_PTR pMerged,
                      CK_ULONG_PTR pulMergedLen);

/*
 Lists the pending proposals, oldest first. Needs no login.

 pJson, *pulJsonLen: gets a JSON array; each element is what KMS_DescribeProposal says, and
     "proposal", the proposal itself in hexadecimal.

 CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_ListProposals(CK_SESSION_HANDLE hSession, CK_UTF8CHAR_PTR pJson, CK_ULONG_PTR pulJsonLen);

/*
 Gives a pending proposal. Needs no login.

 pId, ulIdLen: its id, 32 bytes ("id" of KMS_DescribeProposal): the SHA-256 of the command, which
     signatures do not change.
 pProposal, *pulProposalLen: gets the proposal with the signatures that were added.

 CKR_ARGUMENTS_BAD: the id does not have 32 bytes. CKR_FUNCTION_REJECTED: no such proposal is
 pending. CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_GetProposal(CK_SESSION_HANDLE hSession,
                      CK_BYTE_PTR pId,
                      CK_ULONG ulIdLen,
                      CK_BYTE_PTR pProposal,
                      CK_ULONG_PTR pulProposalLen);

/*
 Drops a pending proposal. It takes back no signature: a copy elsewhere with enough of them can
 still be executed until it expires. Needs no login, but a read/write session.

 pId, ulIdLen: its id, as for KMS_GetProposal.

 CKR_ARGUMENTS_BAD: the id does not have 32 bytes. CKR_FUNCTION_REJECTED: no such proposal is
 pending. CKR_SESSION_READ_ONLY.
 */
CK_RV KMS_WithdrawProposal(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pId, CK_ULONG ulIdLen);

/*
 Executes a command that enough operators have signed, and drops it from the pending ones. The
 session is read/write and a user or the SO is logged in, which opens the domain; "found domain"
 needs the SO. "recover domain" is for KMS_Recover.

 pProposal, ulProposalLen: the signed proposal, pending or not.

 CKR_DATA_INVALID: it is not a proposal. CKR_FUNCTION_REJECTED: it was refused; KMS_LastError says
 why, such as "quorum not met". CKR_USER_NOT_LOGGED_IN. CKR_SESSION_READ_ONLY. Nothing has changed
 then.
 */
CK_RV KMS_Execute(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pProposal, CK_ULONG ulProposalLen);

/*
 Begins a recovery: makes keys for the HSM that is to carry the domain on, and gives the claim by
 which the command "recover domain" names it. The keys wait in the token, sealed under the SO's
 new PIN; a recovery that was begun before is forgotten. Needs no session.

 slotID: the token's slot.
 pSoPin, ulSoPinLen: the PIN that the SO will have. KMS_Recover takes the same. UTF-8. NULL for a
     fleet, whose fresh HSM (reached by its operators' socket) keeps its keys itself.
 pClaim, *pulClaimLen: gets the claim (COSE_Sign1). The buffer has at least KMS_MAX_CLAIM_LEN
     bytes, which is also the length given if pClaim is NULL; no keys are made then.

 CKR_ARGUMENTS_BAD: also for an embedded domain without a PIN. CKR_BUFFER_TOO_SMALL: nothing was
 made. CKR_SLOT_ID_INVALID. CKR_TOKEN_NOT_RECOGNIZED: the token
 is not initialised. CKR_PIN_LEN_RANGE. CKR_PIN_INVALID: the PIN is not UTF-8.
 CKR_FUNCTION_REJECTED: the domain has no recovery set, or is not one that recovers here.
 */
CK_RV KMS_BeginRecovery(CK_SLOT_ID slotID,
                        CK_UTF8CHAR_PTR pSoPin,
                        CK_ULONG ulSoPinLen,
                        CK_BYTE_PTR pClaim,
                        CK_ULONG_PTR pulClaimLen);

/*
 Recovers the domain with the operators' shares. The HSM that KMS_BeginRecovery made is then the
 domain's only one, with new domain keys beside the old ones; the SO's PIN is the one given, and
 all others (in a fleet all) have to be reset by "reset PIN". Needs no session.

 slotID: the token's slot.
 pSoPin, ulSoPinLen: the PIN that KMS_BeginRecovery was given; NULL for a fleet.
 pCommand, ulCommandLen: the command "recover domain" with its signatures.
 pContributions, ulCount: the operators' contributions, each the bytes that an operator's side
     made of his share for this command. An array of the caller's; neither it nor what it points
     to is changed or kept.

 CKR_ARGUMENTS_BAD: also for an embedded domain without a PIN, and for more than 1024 contributions. CKR_SLOT_ID_INVALID.
 CKR_TOKEN_NOT_RECOGNIZED: the token is not initialised, or the waiting keys are damaged.
 CKR_PIN_INCORRECT: it is not the PIN that the recovery was begun with. CKR_DATA_INVALID: the
 command or a contribution is malformed. CKR_FUNCTION_REJECTED: no recovery was begun, the command
 is refused, or the shares are too few or wrong; KMS_LastError says which. Nothing has changed
 then.
 */
CK_RV KMS_Recover(CK_SLOT_ID slotID,
                  CK_UTF8CHAR_PTR pSoPin,
                  CK_ULONG ulSoPinLen,
                  CK_BYTE_PTR pCommand,
                  CK_ULONG ulCommandLen,
                  struct KMS_BYTES *pContributions,
                  CK_ULONG ulCount);

/*
 Lets a Region have a replica of a multi-Region key, or no longer as long as it has none. The Region is
 one that the domain trusts. This is what authorises a shipment; a Region's offer is not. A key that is
 to be shipped has no imported material, unless it was made with "ReplicateImportedMaterial".

 pRequest, ulRequestLen: {"KeyId": TEXT, "ReplicaRegion": TEXT, "Withdraw": BOOLEAN? (false)}.

 KMS_R_UNSUPPORTED: the key is of one Region, or a replica here; the primary's Region is named.
 KMS_R_NOT_FOUND: no such Region is trusted. KMS_R_LIMIT_EXCEEDED. KMS_R_DISABLED. KMS_R_INVALID_STATE.
 */
CK_RV KMS_ReplicateKey(CK_SESSION_HANDLE hSession,
                       CK_FLAGS flags,
                       CK_UTF8CHAR_PTR pRequest,
                       CK_ULONG ulRequestLen);

/*
 Begins to make a replica the primary: the key is Updating, and in use as before, until that Region has
 taken it over. The message is KMS_TellReplicas' "handover".

 pRequest, ulRequestLen: {"KeyId": TEXT, "PrimaryRegion": TEXT}.

 KMS_R_UNSUPPORTED: the key is of one Region, or a replica here. KMS_R_NOT_FOUND: the Region has no
 replica. KMS_R_INVALID_STATE: the replica has not all that the primary has yet.
 */
CK_RV KMS_UpdatePrimaryRegion(CK_SESSION_HANDLE hSession,
                              CK_FLAGS flags,
                              CK_UTF8CHAR_PTR pRequest,
                              CK_ULONG ulRequestLen);

/*
 Tells of a multi-Region key's primary and replicas.

 pRequest, ulRequestLen: {"KeyId": TEXT}.
 pJson, *pulJsonLen: gets {"KeyId": TEXT, "MultiRegionKeyType": "PRIMARY" or "REPLICA",
     "PrimaryKey": {"Region": TEXT}, "ReplicaKeys": [{"Region": TEXT, "Registered": BOOLEAN,
     "Version": NUMBER, "ActiveVersion": NUMBER}], "Term": NUMBER, "NewestVersion": NUMBER,
     "Handover": TEXT?, "Outdated": {"Region": TEXT, "Term": NUMBER}?}. KMS_DescribeKey has the same as
     MultiRegionConfiguration.

 KMS_R_UNSUPPORTED: the key is of one Region. CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_DescribeReplicas(CK_SESSION_HANDLE hSession,
                           CK_UTF8CHAR_PTR pRequest,
                           CK_ULONG ulRequestLen,
                           CK_UTF8CHAR_PTR pJson,
                           CK_ULONG_PTR pulJsonLen);

/*
 Lists what other Regions are still to be told of keys, each item by KMS_TellReplicas.

 pRequest, ulRequestLen: {"Region": TEXT?}: only what this one is to be told; or nothing.
 pJson, *pulJsonLen: gets [{"Region": TEXT, "Kind": TEXT, "KeyIds": [TEXT]}], with at most 10 000 key ids
     each.

 CKR_BUFFER_TOO_SMALL; the list may grow between two calls.
 */
CK_RV KMS_PendingReplication(CK_SESSION_HANDLE hSession,
                             CK_UTF8CHAR_PTR pRequest,
                             CK_ULONG ulRequestLen,
                             CK_UTF8CHAR_PTR pJson,
                             CK_ULONG_PTR pulJsonLen);

/*
 Makes the message that tells a Region what it is still to be told of keys; those of which nothing of
 the kind is pending are left out. It may be made and sent again until the Region has answered it.

 pRequest, ulRequestLen: {"Kind": "request", "activate", "deleted" or "handover", "Region": TEXT,
     "KeyIds": [TEXT]}. A request asks the Region for an offer.
 pMessage, *pulMessageLen: gets the message.

 KMS_R_NOT_FOUND: nothing of the kind is pending of any of the keys, or the Region is not trusted.
 CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_TellReplicas(CK_SESSION_HANDLE hSession,
                       CK_UTF8CHAR_PTR pRequest,
                       CK_ULONG ulRequestLen,
                       CK_BYTE_PTR pMessage,
                       CK_ULONG_PTR pulMessageLen);

/*
 Makes an offer to a Region for keys that it is to ship: new ones, or newer versions of those that are
 here. Its private part stays in this process's memory, works once, and is gone with the login, the
 offer's expiry and C_Finalize. The session is read/write.

 pRequest, ulRequestLen: {"Region": TEXT, "KeyIds": [TEXT]}.
 pOffer, *pulOfferLen: gets the offer; the length that is asked for is enough.

 KMS_R_NOT_FOUND: the Region is not trusted. CKR_DEVICE_MEMORY: too many offers are open.
 CKR_BUFFER_TOO_SMALL: nothing was made.
 */
CK_RV KMS_OfferReplicas(CK_SESSION_HANDLE hSession,
                        CK_UTF8CHAR_PTR pRequest,
                        CK_ULONG ulRequestLen,
                        CK_BYTE_PTR pOffer,
                        CK_ULONG_PTR pulOfferLen);

/*
 Answers an offer: a shipment of the keys that are wanted, each of which the Region is allowed to have.
 An offer is answered once.

 pOffer, ulOfferLen: an offer of another Region.
 pShipment, *pulShipmentLen: gets the shipment.

 KMS_R_REPLICATION_REFUSED: the offer is not from a trusted Region, has expired or was answered before,
 or wants a key that the Region is not allowed to have. CKR_DEVICE_MEMORY: too many shipments wait for a
 receipt. CKR_BUFFER_TOO_SMALL: the offer is not answered.
 */
CK_RV KMS_ShipReplicas(CK_SESSION_HANDLE hSession,
                       CK_BYTE_PTR pOffer,
                       CK_ULONG ulOfferLen,
                       CK_BYTE_PTR pShipment,
                       CK_ULONG_PTR pulShipmentLen);

/*
 Takes the keys of a shipment into the token, all or none: a new key belongs to whoever is logged in, and
 may be used once its primary has activated it; of a key that is here, newer versions are added. Taken
 again, a shipment changes nothing. The session is read/write.

 pShipment, ulShipmentLen: the answer to an offer that this process made.

 KMS_R_REPLICATION_REFUSED: it is not that; or it is not from the Region of a key's primary, is older
 than what is here, or contradicts it. CKR_TOKEN_RESOURCE_EXCEEDED: there would be too many managed keys.
 */
CK_RV KMS_AcceptReplicas(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pShipment, CK_ULONG ulShipmentLen);

/*
 Reads the keys of a shipment that was accepted back from the token, and makes the receipt.

 pShipment, ulShipmentLen: the shipment.
 pReceipt, *pulReceiptLen: gets the receipt; the length that is asked for is enough.

 KMS_R_REPLICATION_REFUSED: this process did not accept it, or what is in the token is something else.
 CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_ConfirmReplicas(CK_SESSION_HANDLE hSession,
                          CK_BYTE_PTR pShipment,
                          CK_ULONG ulShipmentLen,
                          CK_BYTE_PTR pReceipt,
                          CK_ULONG_PTR pulReceiptLen);

/*
 Takes any message of another Region, does what it asks for, and gives the answer that is to be sent
 back: to a request the offer, to an offer the shipment, to a shipment (which is accepted and confirmed)
 the receipt, to a receipt an activate if there is something to activate, to an activate, a deleted and
 a handover the message that acknowledges it. The session is read/write.

 pMessage, ulMessageLen: the message.
 pReply, *pulReplyLen: gets the answer; length 0 if there is none. The length that is asked for is enough.

 KMS_R_REPLICATION_REFUSED: the message is refused, and nothing is to be sent back; KMS_LastError and the
 log tell why. After any other error the message may be taken again. CKR_BUFFER_TOO_SMALL: nothing was
 done.
 */
CK_RV KMS_ReceiveReplication(CK_SESSION_HANDLE hSession,
                             CK_BYTE_PTR pMessage,
                             CK_ULONG ulMessageLen,
                             CK_BYTE_PTR pReply,
                             CK_ULONG_PTR pulReplyLen);

/*
 Makes a new version of a symmetric key's material: it encrypts from now on, and all versions decrypt.

 pRequest, ulRequestLen: {"KeyId": TEXT}.

 KMS_R_UNSUPPORTED: the key is not for envelopes alone, or its material is imported; it rotates by a new
 key and KMS_UpdateAlias. KMS_R_DISABLED. KMS_R_INVALID_STATE.
 */
CK_RV KMS_RotateKey(CK_SESSION_HANDLE hSession,
                    CK_FLAGS flags,
                    CK_UTF8CHAR_PTR pRequest,
                    CK_ULONG ulRequestLen);

/*
 Has a key rotated by a period, or no longer. A rotation that is due happens when the key is used,
 when somebody logs in, or by KMS_RunDue.

 pRequest, ulRequestLen: {"KeyId": TEXT, "Enabled": BOOLEAN, "RotationPeriodInDays": NUMBER? of 90 to
     2560 (365)}.

 KMS_R_UNSUPPORTED: as for KMS_RotateKey. KMS_R_DISABLED. KMS_R_INVALID_STATE.
 */
CK_RV KMS_SetRotation(CK_SESSION_HANDLE hSession,
                      CK_FLAGS flags,
                      CK_UTF8CHAR_PTR pRequest,
                      CK_ULONG ulRequestLen);

/*
 Does what time demands of all keys: deletes those whose waiting period is over, deletes imported
 material that has expired, rotates by period. With a dry run, nothing but KMS_R_DRY_RUN.

 pRequest, ulRequestLen: {}, or nothing.
 */
CK_RV KMS_RunDue(CK_SESSION_HANDLE hSession, CK_FLAGS flags, CK_UTF8CHAR_PTR pRequest, CK_ULONG ulRequestLen);

/*
 Tells whether a key is rotated by a period, and when.

 pRequest, ulRequestLen: {"KeyId": TEXT}.
 pJson, *pulJsonLen: gets a JSON object: KeyId, KeyRotationEnabled, RotationPeriodInDays and
     NextRotationDate where it is, RotationDate of the newest version.

 CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_GetKeyRotationStatus(CK_SESSION_HANDLE hSession,
                               CK_UTF8CHAR_PTR pRequest,
                               CK_ULONG ulRequestLen,
                               CK_UTF8CHAR_PTR pJson,
                               CK_ULONG_PTR pulJsonLen);

/*
 Lists the versions of a key's material that rotations made.

 pRequest, ulRequestLen: {"KeyId": TEXT, "Limit": NUMBER?, "Marker": TEXT?}, as for KMS_ListKeys.
 pJson, *pulJsonLen: gets {"Rotations": [{"KeyId": TEXT, "KeyVersion": NUMBER, "RotationDate": TIME?, ...}],
     "Truncated": BOOLEAN, "NextMarker": TEXT?}.

 CKR_BUFFER_TOO_SMALL; the list may grow between two calls.
 */
CK_RV KMS_ListRotations(CK_SESSION_HANDLE hSession,
                        CK_UTF8CHAR_PTR pRequest,
                        CK_ULONG ulRequestLen,
                        CK_UTF8CHAR_PTR pJson,
                        CK_ULONG_PTR pulJsonLen);

/*
 Tells which HSM serves the session's token, and until when. Needs no login.

 pJson, *pulJsonLen: gets a JSON object. Mode is "embedded" (the HSM is in this process, and there is
     no more to tell) or "fleet"; then there are Region, DomainVersion, Members (ids of the HSMs that the
     domain has), Connections (how many this process has open), ValidUntil (the end of its session key,
     seconds since 1970; null before the first), Hsms (one object for each that the configuration lists:
     Address, Hsm, Connections, Trouble, and Home: whether it holds this process's approvals and its exchanges
     with other Regions), and of the HSM that answered this question Hsm (its id), Name, Address and Microseconds,
     or Error if none did. Another HSM may serve the next call.

 CKR_BUFFER_TOO_SMALL.
 */
CK_RV KMS_DescribeSession(CK_SESSION_HANDLE hSession,
                          CK_UTF8CHAR_PTR pJson,
                          CK_ULONG_PTR pulJsonLen);

/*
 Makes a user of that name for C_LoginUser, with a PIN. The SO, who governs the token, is logged in.

 pName, ulNameLen: 1 to 64 bytes UTF-8 without control characters, and not "so", "user", "*", or
     anything that begins with "user:".
 pPin, ulPinLen: the PIN. UTF-8.

 CKR_USER_NOT_LOGGED_IN. CKR_ARGUMENTS_BAD: the name. CKR_PIN_LEN_RANGE. KMS_R_ALREADY_EXISTS.
 CKR_TOKEN_WRITE_PROTECTED: operators govern the token, and "create user" is a command of theirs.
 */
CK_RV KMS_CreateUser(CK_SESSION_HANDLE hSession,
                     CK_UTF8CHAR_PTR pName,
                     CK_ULONG ulNameLen,
                     CK_UTF8CHAR_PTR pPin,
                     CK_ULONG ulPinLen);

/*
 Removes the user of that name and the PIN. Whoever is logged in with it is logged out at the next
 call. Keys that the user owns stay, and so do policies and grants that name the user: they hold
 of a new user of the same name. The SO, who governs the token, is logged in.

 CKR_USER_NOT_LOGGED_IN. KMS_R_NOT_FOUND. CKR_TOKEN_WRITE_PROTECTED: operators govern the token,
 and "remove user" is a command of theirs.
 */
CK_RV KMS_RemoveUser(CK_SESSION_HANDLE hSession, CK_UTF8CHAR_PTR pName, CK_ULONG ulNameLen);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif /* CONCLAVE_H */
