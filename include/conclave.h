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
   CKR_HOST_MEMORY and CKR_GENERAL_ERROR. KMS_LastError says more. */

/* The name that C_GetInterface takes; the interface's list is a KMS_FUNCTION_LIST. */
#define KMS_INTERFACE_NAME "Vendor Conclave"

/*
 Some bytes of the caller.
 */
typedef struct KMS_BYTES {
  CK_BYTE_PTR pBytes;
  CK_ULONG ulLen;
} KMS_BYTES;

/*
 The function list of the interface "Vendor Conclave". Later versions add functions at the end and
 raise the minor version: 1.0 had KMS_LastError alone.
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
} KMS_FUNCTION_LIST;

/*
 Bytes that are enough for every claim of an HSM.
 */
#define KMS_MAX_CLAIM_LEN 1024

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
 read/write and a user or the SO is logged in, which opens the domain.

 userType: CKU_USER or CKU_SO.
 pUsername, ulUsernameLen: the name of a named user (CKU_USER); else NULL and 0. UTF-8.
 pCode, ulCodeLen: the enrolment code that the operators gave the holder; NULL and 0 if the
     command asked for none, and then the SO is the one logged in.
 pPin, ulPinLen: the new PIN. UTF-8.

 CKR_USER_NOT_LOGGED_IN. CKR_SESSION_READ_ONLY. CKR_USER_TYPE_INVALID. CKR_PIN_LEN_RANGE.
 CKR_PIN_INVALID: the PIN is not UTF-8. CKR_TOKEN_WRITE_PROTECTED: no command allows the user a
 new PIN now. CKR_FUNCTION_REJECTED: the code is wrong, or the time for it is over.
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
 pSoPin, ulSoPinLen: the PIN that the SO will have. KMS_Recover takes the same. UTF-8.
 pClaim, *pulClaimLen: gets the claim (COSE_Sign1). The buffer has at least KMS_MAX_CLAIM_LEN
     bytes, which is also the length given if pClaim is NULL; no keys are made then.

 CKR_BUFFER_TOO_SMALL: nothing was made. CKR_SLOT_ID_INVALID. CKR_TOKEN_NOT_RECOGNIZED: the token
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
 all others have to be reset by "reset PIN". Needs no session.

 slotID: the token's slot.
 pSoPin, ulSoPinLen: the PIN that KMS_BeginRecovery was given.
 pCommand, ulCommandLen: the command "recover domain" with its signatures.
 pContributions, ulCount: the operators' contributions, each the bytes that an operator's side
     made of his share for this command. An array of the caller's; neither it nor what it points
     to is changed or kept.

 CKR_ARGUMENTS_BAD: also for more than 1024 contributions. CKR_SLOT_ID_INVALID.
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

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif /* CONCLAVE_H */
