/* Every function of the 2.40 list with arguments that are legal in number and otherwise up to the
 * caller: S a session, P a pointer (NULL or not), N a length. For the tests that call them all. */
#ifndef CONCLAVE_TEST_CALLS_H
#define CONCLAVE_TEST_CALLS_H

/* X(call) for each function that takes a session. */
#define SESSION_CALLS(X, S, P, N)                                                     \
    X(p11->C_GetSessionInfo(S, (CK_SESSION_INFO *)(P)))                               \
    X(p11->C_GetOperationState(S, (P), (CK_ULONG *)(P)))                              \
    X(p11->C_SetOperationState(S, (P), (N), 0, 0))                                    \
    X(p11->C_Login(S, CKU_USER, (P), (N)))                                            \
    X(p11->C_InitPIN(S, (P), (N)))                                                    \
    X(p11->C_SetPIN(S, (P), (N), (P), (N)))                                           \
    X(p11->C_CreateObject(S, (CK_ATTRIBUTE *)(P), (N), (CK_ULONG *)(P)))              \
    X(p11->C_CopyObject(S, 1, (CK_ATTRIBUTE *)(P), (N), (CK_ULONG *)(P)))             \
    X(p11->C_DestroyObject(S, 1))                                                     \
    X(p11->C_GetObjectSize(S, 1, (CK_ULONG *)(P)))                                    \
    X(p11->C_GetAttributeValue(S, 1, (CK_ATTRIBUTE *)(P), (N)))                       \
    X(p11->C_SetAttributeValue(S, 1, (CK_ATTRIBUTE *)(P), (N)))                       \
    X(p11->C_FindObjectsInit(S, (CK_ATTRIBUTE *)(P), (N)))                            \
    X(p11->C_FindObjects(S, (CK_ULONG *)(P), (N), (CK_ULONG *)(P)))                   \
    X(p11->C_FindObjectsFinal(S))                                                     \
    X(p11->C_EncryptInit(S, (CK_MECHANISM *)(P), 1))                                  \
    X(p11->C_Encrypt(S, (P), (N), (P), (CK_ULONG *)(P)))                              \
    X(p11->C_EncryptUpdate(S, (P), (N), (P), (CK_ULONG *)(P)))                        \
    X(p11->C_EncryptFinal(S, (P), (CK_ULONG *)(P)))                                   \
    X(p11->C_DecryptInit(S, (CK_MECHANISM *)(P), 1))                                  \
    X(p11->C_Decrypt(S, (P), (N), (P), (CK_ULONG *)(P)))                              \
    X(p11->C_DecryptUpdate(S, (P), (N), (P), (CK_ULONG *)(P)))                        \
    X(p11->C_DecryptFinal(S, (P), (CK_ULONG *)(P)))                                   \
    X(p11->C_DigestInit(S, (CK_MECHANISM *)(P)))                                      \
    X(p11->C_Digest(S, (P), (N), (P), (CK_ULONG *)(P)))                               \
    X(p11->C_DigestUpdate(S, (P), (N)))                                               \
    X(p11->C_DigestKey(S, 1))                                                         \
    X(p11->C_DigestFinal(S, (P), (CK_ULONG *)(P)))                                    \
    X(p11->C_SignInit(S, (CK_MECHANISM *)(P), 1))                                     \
    X(p11->C_Sign(S, (P), (N), (P), (CK_ULONG *)(P)))                                 \
    X(p11->C_SignUpdate(S, (P), (N)))                                                 \
    X(p11->C_SignFinal(S, (P), (CK_ULONG *)(P)))                                      \
    X(p11->C_SignRecoverInit(S, (CK_MECHANISM *)(P), 1))                              \
    X(p11->C_SignRecover(S, (P), (N), (P), (CK_ULONG *)(P)))                          \
    X(p11->C_VerifyInit(S, (CK_MECHANISM *)(P), 1))                                   \
    X(p11->C_Verify(S, (P), (N), (P), (N)))                                           \
    X(p11->C_VerifyUpdate(S, (P), (N)))                                               \
    X(p11->C_VerifyFinal(S, (P), (N)))                                                \
    X(p11->C_VerifyRecoverInit(S, (CK_MECHANISM *)(P), 1))                            \
    X(p11->C_VerifyRecover(S, (P), (N), (P), (CK_ULONG *)(P)))                        \
    X(p11->C_DigestEncryptUpdate(S, (P), (N), (P), (CK_ULONG *)(P)))                  \
    X(p11->C_DecryptDigestUpdate(S, (P), (N), (P), (CK_ULONG *)(P)))                  \
    X(p11->C_SignEncryptUpdate(S, (P), (N), (P), (CK_ULONG *)(P)))                    \
    X(p11->C_DecryptVerifyUpdate(S, (P), (N), (P), (CK_ULONG *)(P)))                  \
    X(p11->C_GenerateKey(S, (CK_MECHANISM *)(P), (CK_ATTRIBUTE *)(P), (N), (CK_ULONG *)(P)))                 \
    X(p11->C_GenerateKeyPair(S, (CK_MECHANISM *)(P), (CK_ATTRIBUTE *)(P), (N), (CK_ATTRIBUTE *)(P), (N),     \
                             (CK_ULONG *)(P), (CK_ULONG *)(P)))                       \
    X(p11->C_WrapKey(S, (CK_MECHANISM *)(P), 1, 1, (P), (CK_ULONG *)(P)))             \
    X(p11->C_UnwrapKey(S, (CK_MECHANISM *)(P), 1, (P), (N), (CK_ATTRIBUTE *)(P), (N), (CK_ULONG *)(P)))      \
    X(p11->C_DeriveKey(S, (CK_MECHANISM *)(P), 1, (CK_ATTRIBUTE *)(P), (N), (CK_ULONG *)(P)))                \
    X(p11->C_SeedRandom(S, (P), (N)))                                                 \
    X(p11->C_GenerateRandom(S, (P), (N)))                                             \
    X(p11->C_Logout(S))                                                               \
    X(p11->C_CloseSession(S))

/* X(call) for each function that takes a slot. */
#define SLOT_CALLS(X, S, P, N)                                                        \
    X(p11->C_GetSlotInfo(S, (CK_SLOT_INFO *)(P)))                                     \
    X(p11->C_GetTokenInfo(S, (CK_TOKEN_INFO *)(P)))                                   \
    X(p11->C_GetMechanismList(S, (CK_ULONG *)(P), (CK_ULONG *)(P)))                   \
    X(p11->C_GetMechanismInfo(S, CKM_AES_CBC, (CK_MECHANISM_INFO *)(P)))              \
    X(p11->C_InitToken(S, (P), (N), (P)))                                             \
    X(p11->C_OpenSession(S, CKF_SERIAL_SESSION, NULL, NULL, (CK_ULONG *)(P)))         \
    X(p11->C_CloseAllSessions(S))

#endif
