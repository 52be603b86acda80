/* Every group of functions once, as an ordinary application uses it. */
#include "harness.h"

static CK_SESSION_HANDLE session;

static void info(void) {
    CK_INFO info;
    CK_SLOT_INFO slot;
    CK_TOKEN_INFO token;
    OK(p11->C_GetInfo(&info));
    CHECK(info.cryptokiVersion.major == 3 || info.cryptokiVersion.major == 2);
    CHECK(info.flags == 0);
    OK(p11->C_GetSlotInfo(test_slot, &slot));
    CHECK(slot.flags & CKF_TOKEN_PRESENT);
    OK(p11->C_GetTokenInfo(test_slot, &token));
    CHECK(token.flags & CKF_TOKEN_INITIALIZED);
    CHECK(token.flags & CKF_USER_PIN_INITIALIZED);
    CHECK(token.flags & CKF_LOGIN_REQUIRED);
    CHECK(token.flags & CKF_RNG);
    CHECK(!(token.flags & (CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_LOCKED | CKF_SO_PIN_LOCKED)));
    CHECK(token.ulSessionCount >= 1 && token.ulRwSessionCount >= 1);
    CHECK(token.ulMinPinLen > 0 && token.ulMaxPinLen >= 32);
    CHECK(test_slot < 0x80000000UL);
}

static void interfaces(void) {
    CK_RV (*list)(CK_INTERFACE *, CK_ULONG *);
    CK_RV (*interface)(CK_UTF8CHAR *, CK_VERSION *, CK_INTERFACE **, CK_FLAGS);
    CK_INTERFACE found[16], *one = NULL;
    CK_ULONG n = 0;
    *(void **)&list = dlsym(module, "C_GetInterfaceList");
    *(void **)&interface = dlsym(module, "C_GetInterface");
    if (!CHECK(list && interface)) return;
    OK(list(NULL, &n));
    CHECK(n >= 3 && n <= COUNT(found));
    CK_ULONG few = 1;
    CHECK_RV(list(found, &few), CKR_BUFFER_TOO_SMALL);
    CHECK(few == n);
    OK(list(found, &n));
    int versions = 0;
    for (CK_ULONG i = 0; i < n; i++) {
        CK_VERSION *version = found[i].pFunctionList;
        /* A child must be told that it is not initialised: never fork safe. */
        CHECK(!(found[i].flags & CKF_INTERFACE_FORK_SAFE));
        if (!strcmp((char *)found[i].pInterfaceName, "PKCS 11"))
            versions |= version->major == 2   ? (version->minor == 40 ? 1 : 64)
                        : version->minor == 0 ? 2
                        : version->minor == 2 ? 4
                                              : 64;
    }
    CHECK(versions == 7);
    OK(interface(NULL, NULL, &one, 0));
    CHECK(one && !strcmp((char *)one->pInterfaceName, "PKCS 11"));
    CHECK(interface((CK_UTF8CHAR *)"no such thing", NULL, &one, 0) == CKR_FUNCTION_FAILED ||
          interface((CK_UTF8CHAR *)"no such thing", NULL, &one, 0) == CKR_ARGUMENTS_BAD);
    REFUSED(interface(NULL, NULL, &one, CKF_INTERFACE_FORK_SAFE));
    CK_VERSION odd = {9, 9};
    REFUSED(interface((CK_UTF8CHAR *)"PKCS 11", &odd, &one, 0));
}

/* Each function of each table is there, and is the exported symbol of its name. */
static void tables(void) {
    CHECK((void *)(uintptr_t)p11->C_Sign == dlsym(module, "C_Sign"));
    CHECK((void *)(uintptr_t)p11->C_WaitForSlotEvent == dlsym(module, "C_WaitForSlotEvent"));
    if (!CHECK(p30)) return;
    CHECK((void *)(uintptr_t)p30->C_SessionCancel == dlsym(module, "C_SessionCancel"));
    CHECK((void *)(uintptr_t)p30->C_MessageVerifyFinal == dlsym(module, "C_MessageVerifyFinal"));
    void **entry = (void **)((char *)p30 + offsetof(CK_FUNCTION_LIST_3_0, C_Initialize));
    size_t n = (sizeof *p30 - offsetof(CK_FUNCTION_LIST_3_0, C_Initialize)) / sizeof(void *);
    for (size_t i = 0; i < n; i++) CHECK(entry[i] != NULL);
}

static void mechanisms(void) {
    CK_MECHANISM_TYPE list[512];
    CK_ULONG n = 0;
    OK(p11->C_GetMechanismList(test_slot, NULL, &n));
    CHECK(n > 20 && n < COUNT(list));
    CK_ULONG few = n - 1;
    CHECK_RV(p11->C_GetMechanismList(test_slot, list, &few), CKR_BUFFER_TOO_SMALL);
    CHECK(few == n);
    OK(p11->C_GetMechanismList(test_slot, list, &n));
    for (CK_ULONG i = 0; i < n; i++) {
        CK_MECHANISM_INFO info;
        OK(p11->C_GetMechanismInfo(test_slot, list[i], &info));
        CHECK(info.flags != 0 && info.ulMinKeySize <= info.ulMaxKeySize);
        for (CK_ULONG k = 0; k < i; k++) CHECK(list[k] != list[i]);
    }
    CK_MECHANISM_INFO info;
    CHECK_RV(p11->C_GetMechanismInfo(test_slot, 0x7fffffffUL, &info), CKR_MECHANISM_INVALID);
}

static void random_bytes(void) {
    CK_BYTE a[1000] = {0}, b[1000] = {0};
    OK(p11->C_GenerateRandom(session, a, sizeof a));
    OK(p11->C_GenerateRandom(session, b, sizeof b));
    CHECK(memcmp(a, b, sizeof a) != 0);
    OK(p11->C_GenerateRandom(session, a, 0));
    CHECK_RV_IN(p11->C_SeedRandom(session, a, 16), CKR_OK, CKR_RANDOM_SEED_NOT_SUPPORTED);
}

static void digests(void) {
    static const CK_BYTE abc[] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
                                  0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
                                  0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
    CK_MECHANISM sha256 = {CKM_SHA256, NULL, 0};
    CK_BYTE out[64];
    CK_ULONG len = sizeof out;
    OK(p11->C_DigestInit(session, &sha256));
    OK(p11->C_Digest(session, (CK_BYTE *)"abc", 3, out, &len));
    CHECK(len == 32 && !memcmp(out, abc, 32));
    OK(p11->C_DigestInit(session, &sha256));
    for (int i = 0; i < 3; i++) OK(p11->C_DigestUpdate(session, (CK_BYTE *)"abc" + i, 1));
    len = sizeof out;
    OK(p11->C_DigestFinal(session, out, &len));
    CHECK(len == 32 && !memcmp(out, abc, 32));
    /* Init directly followed by Final. */
    OK(p11->C_DigestInit(session, &sha256));
    len = sizeof out;
    OK(p11->C_DigestFinal(session, out, &len));
    CHECK(len == 32 && out[0] == 0xe3 && out[1] == 0xb0);
}

static void aes(void) {
    CK_OBJECT_HANDLE key;
    CK_BYTE iv[16] = {1, 2, 3}, data[1000], sealed[1100], opened[1100];
    CK_ULONG sealed_len, opened_len;
    CK_AES_CTR_PARAMS ctr = {128, {0}};
    GCM(gcm, iv);
    CK_MECHANISM all[] = {gcm,
                          {CKM_AES_CBC_PAD, iv, 16},
                          {CKM_AES_CBC, iv, 16},
                          {CKM_AES_ECB, NULL, 0},
                          {CKM_AES_CTR, &ctr, sizeof ctr}};
    memset(data, 'x', sizeof data);
    OK(AES(session, 32, &key, YES(CKA_ENCRYPT), YES(CKA_DECRYPT)));
    for (size_t i = 0; i < COUNT(all); i++) {
        CK_ULONG size = 960;
        sealed_len = sizeof sealed;
        OK(p11->C_EncryptInit(session, &all[i], key));
        OK(p11->C_Encrypt(session, data, size, sealed, &sealed_len));
        CHECK(sealed_len >= size && memcmp(sealed, data, 64));
        opened_len = sizeof opened;
        OK(p11->C_DecryptInit(session, &all[i], key));
        OK(p11->C_Decrypt(session, sealed, sealed_len, opened, &opened_len));
        CHECK(opened_len == size && !memcmp(opened, data, size));
        /* In parts of odd sizes, the same bytes. */
        CK_BYTE parts[1100];
        CK_ULONG total = 0, len;
        OK(p11->C_EncryptInit(session, &all[i], key));
        for (CK_ULONG at = 0; at < size; at += 37) {
            CK_ULONG step = size - at < 37 ? size - at : 37;
            len = sizeof parts - total;
            OK(p11->C_EncryptUpdate(session, data + at, step, parts + total, &len));
            total += len;
        }
        len = sizeof parts - total;
        OK(p11->C_EncryptFinal(session, parts + total, &len));
        total += len;
        CHECK(total == sealed_len && !memcmp(parts, sealed, total));
        total = 0;
        OK(p11->C_DecryptInit(session, &all[i], key));
        for (CK_ULONG at = 0; at < sealed_len; at += 51) {
            CK_ULONG step = sealed_len - at < 51 ? sealed_len - at : 51;
            len = sizeof opened - total;
            OK(p11->C_DecryptUpdate(session, sealed + at, step, opened + total, &len));
            total += len;
        }
        len = sizeof opened - total;
        OK(p11->C_DecryptFinal(session, opened + total, &len));
        total += len;
        CHECK(total == size && !memcmp(opened, data, size));
    }
    OK(p11->C_DestroyObject(session, key));
    CHECK_RV_IN(p11->C_EncryptInit(session, &gcm, key), CKR_KEY_HANDLE_INVALID, CKR_OBJECT_HANDLE_INVALID);
}

static void sign_and_verify(CK_MECHANISM_TYPE type, CK_OBJECT_HANDLE private_key, CK_OBJECT_HANDLE public_key,
                            CK_ULONG size) {
    CK_MECHANISM mechanism = {type, NULL, 0};
    CK_BYTE data[32] = "thirty-two bytes, like a digest", signature[512];
    CK_ULONG len = sizeof signature;
    OK(p11->C_SignInit(session, &mechanism, private_key));
    OK(p11->C_Sign(session, data, 32, signature, &len));
    CHECK(len == size);
    OK(p11->C_VerifyInit(session, &mechanism, public_key));
    OK(p11->C_Verify(session, data, 32, signature, len));
    data[0] ^= 1;
    OK(p11->C_VerifyInit(session, &mechanism, public_key));
    CHECK_RV(p11->C_Verify(session, data, 32, signature, len), CKR_SIGNATURE_INVALID);
    OK(p11->C_VerifyInit(session, &mechanism, public_key));
    CHECK_RV(p11->C_Verify(session, data, 32, signature, len - 1), CKR_SIGNATURE_LEN_RANGE);
}

static void signatures(void) {
    CK_OBJECT_HANDLE pub, priv, hmac;
    CK_MECHANISM generic = {CKM_GENERIC_SECRET_KEY_GEN, NULL, 0};
    CK_ATTRIBUTE secret[] = {NUMBER(CKA_VALUE_LEN, 32), YES(CKA_SIGN), YES(CKA_VERIFY), NO(CKA_TOKEN)};
    CK_BYTE byte;
    OK(generate_pair(session, CKM_EC_KEY_PAIR_GEN, NULL, 0, NULL, 0, &pub, &priv));
    sign_and_verify(CKM_ECDSA, priv, pub, 64);
    sign_and_verify(CKM_ECDSA_SHA256, priv, pub, 64);
    CHECK(get(session, priv, CKA_VALUE, &byte, 1) == (CK_ULONG)-1);
    OK(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0, NULL, 0, &pub, &priv));
    sign_and_verify(CKM_RSA_PKCS, priv, pub, 256);
    sign_and_verify(CKM_SHA256_RSA_PKCS, priv, pub, 256);
    CK_RSA_PKCS_PSS_PARAMS pss = {CKM_SHA256, CKG_MGF1_SHA256, 32};
    CK_MECHANISM mechanism = {CKM_SHA256_RSA_PKCS_PSS, &pss, sizeof pss};
    CK_BYTE signature[256];
    CK_ULONG len = 256;
    OK(p11->C_SignInit(session, &mechanism, priv));
    OK(p11->C_SignUpdate(session, (CK_BYTE *)"in two", 6));
    OK(p11->C_SignUpdate(session, (CK_BYTE *)" parts", 6));
    OK(p11->C_SignFinal(session, signature, &len));
    OK(p11->C_VerifyInit(session, &mechanism, pub));
    OK(p11->C_Verify(session, (CK_BYTE *)"in two parts", 12, signature, len));
    OK(p11->C_GenerateKey(session, &generic, secret, COUNT(secret), &hmac));
    sign_and_verify(CKM_SHA256_HMAC, hmac, hmac, 32);
    OK(p11->C_DestroyObject(session, hmac));
}

static void sign_recover(void) {
    CK_OBJECT_HANDLE pub, priv;
    CK_MECHANISM mechanism = {CKM_RSA_PKCS, NULL, 0};
    CK_ATTRIBUTE recover[] = {YES(CKA_VERIFY_RECOVER)}, sign[] = {YES(CKA_SIGN_RECOVER)};
    CK_BYTE signature[256], data[64];
    CK_ULONG len = sizeof signature, got = sizeof data;
    OK(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, recover, 1, sign, 1, &pub, &priv));
    OK(p11->C_SignRecoverInit(session, &mechanism, priv));
    OK(p11->C_SignRecover(session, (CK_BYTE *)"recovered", 9, signature, &len));
    OK(p11->C_VerifyRecoverInit(session, &mechanism, pub));
    OK(p11->C_VerifyRecover(session, signature, len, data, &got));
    CHECK(got == 9 && !memcmp(data, "recovered", 9));
    signature[9] ^= 1;
    OK(p11->C_VerifyRecoverInit(session, &mechanism, pub));
    CHECK_RV(p11->C_VerifyRecover(session, signature, len, data, &got), CKR_SIGNATURE_INVALID);
}

static void agreement(void) {
    CK_OBJECT_HANDLE pub[2], priv[2], key[2];
    CK_ATTRIBUTE derive[] = {YES(CKA_DERIVE)};
    CK_BYTE point[2][80], value[2][32];
    CK_ULONG len[2];
    for (int i = 0; i < 2; i++) {
        OK(generate_pair(session, CKM_EC_KEY_PAIR_GEN, NULL, 0, derive, 1, &pub[i], &priv[i]));
        len[i] = get(session, pub[i], CKA_EC_POINT, point[i], sizeof point[i]);
        CHECK(len[i] == 67 && point[i][0] == 4 && point[i][1] == 65);
    }
    for (int i = 0; i < 2; i++) {
        /* The raw point from one side, the OCTET STRING from the other: both are accepted. */
        CK_ECDH1_DERIVE_PARAMS ecdh = {CKD_NULL, 0, NULL, 65 + 2 * (CK_ULONG)i, point[1 - i] + 2 - 2 * i};
        CK_MECHANISM mechanism = {CKM_ECDH1_DERIVE, &ecdh, sizeof ecdh};
        CK_ATTRIBUTE template[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
                                   NUMBER(CKA_VALUE_LEN, 32),         NO(CKA_SENSITIVE),
                                   YES(CKA_EXTRACTABLE),              NO(CKA_TOKEN)};
        OK(p11->C_DeriveKey(session, &mechanism, priv[i], template, COUNT(template), &key[i]));
        CHECK(get(session, key[i], CKA_VALUE, value[i], 32) == 32);
        CHECK(get_bool(session, key[i], CKA_LOCAL) == 0);
    }
    CHECK(!memcmp(value[0], value[1], 32));
}

static void wrapping(void) {
    CK_OBJECT_HANDLE kek, key, again;
    CK_MECHANISM kw = {CKM_AES_KEY_WRAP, NULL, 0}, ecb = {CKM_AES_ECB, NULL, 0};
    CK_BYTE wrapped[64], first[16], second[16], zero[16] = {0};
    CK_ULONG len = sizeof wrapped, out = 16;
    CK_ATTRIBUTE template[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), YES(CKA_ENCRYPT),
                               NO(CKA_TOKEN)};
    OK(AES(session, 32, &kek, YES(CKA_WRAP), YES(CKA_UNWRAP), NO(CKA_ENCRYPT), NO(CKA_DECRYPT)));
    OK(AES(session, 32, &key, YES(CKA_EXTRACTABLE), YES(CKA_ENCRYPT), YES(CKA_DECRYPT)));
    OK(p11->C_WrapKey(session, &kw, kek, key, wrapped, &len));
    CHECK(len == 40);
    OK(p11->C_UnwrapKey(session, &kw, kek, wrapped, len, template, COUNT(template), &again));
    OK(p11->C_EncryptInit(session, &ecb, key));
    OK(p11->C_Encrypt(session, zero, 16, first, &out));
    OK(p11->C_EncryptInit(session, &ecb, again));
    OK(p11->C_Encrypt(session, zero, 16, second, &out));
    CHECK(!memcmp(first, second, 16));
    wrapped[3] ^= 1;
    CHECK_RV(p11->C_UnwrapKey(session, &kw, kek, wrapped, len, template, COUNT(template), &again),
             CKR_WRAPPED_KEY_INVALID);
}

static void dual_functions(void) {
    CK_OBJECT_HANDLE key;
    CK_BYTE iv[16] = {0}, data[64] = "digested and encrypted", sealed[80], opened[80], digest[32], again[32];
    CK_MECHANISM cbc = {CKM_AES_CBC_PAD, iv, 16}, sha = {CKM_SHA256, NULL, 0};
    CK_ULONG len = sizeof sealed, last, total, size = 32;
    OK(AES(session, 16, &key, YES(CKA_ENCRYPT), YES(CKA_DECRYPT)));
    OK(p11->C_DigestInit(session, &sha));
    OK(p11->C_EncryptInit(session, &cbc, key));
    CK_RV rv = p11->C_DigestEncryptUpdate(session, data, sizeof data, sealed, &len);
    if (rv == CKR_FUNCTION_NOT_SUPPORTED) { /* SoftHSM2 */
        CHECK(p30 == NULL);
        return;
    }
    OK(rv);
    last = sizeof sealed - len;
    OK(p11->C_EncryptFinal(session, sealed + len, &last));
    total = len + last;
    OK(p11->C_DigestFinal(session, digest, &size));
    OK(p11->C_DigestInit(session, &sha));
    OK(p11->C_DecryptInit(session, &cbc, key));
    len = sizeof opened;
    OK(p11->C_DecryptDigestUpdate(session, sealed, total, opened, &len));
    last = sizeof opened - len;
    OK(p11->C_DecryptFinal(session, opened + len, &last));
    CHECK(len + last == sizeof data && !memcmp(opened, data, sizeof data));
    if (last) { /* what Final released was not digested by the Update: finish as the standard's example does */
        OK(p11->C_DigestUpdate(session, opened + len, last));
    }
    size = 32;
    OK(p11->C_DigestFinal(session, again, &size));
    CHECK(!memcmp(digest, again, 32));
    /* Sign and encrypt, decrypt and verify. */
    CK_MECHANISM generic = {CKM_GENERIC_SECRET_KEY_GEN, NULL, 0}, hmac = {CKM_SHA256_HMAC, NULL, 0};
    CK_ATTRIBUTE secret[] = {NUMBER(CKA_VALUE_LEN, 32), YES(CKA_SIGN), YES(CKA_VERIFY), NO(CKA_TOKEN)};
    CK_MECHANISM ecb = {CKM_AES_ECB, NULL, 0};
    CK_OBJECT_HANDLE mac_key;
    OK(p11->C_GenerateKey(session, &generic, secret, COUNT(secret), &mac_key));
    OK(p11->C_SignInit(session, &hmac, mac_key));
    OK(p11->C_EncryptInit(session, &ecb, key));
    len = sizeof sealed;
    OK(p11->C_SignEncryptUpdate(session, data, sizeof data, sealed, &len));
    CHECK(len == sizeof data);
    size = 32;
    OK(p11->C_SignFinal(session, digest, &size));
    last = 16;
    OK(p11->C_EncryptFinal(session, again, &last));
    CHECK(last == 0);
    OK(p11->C_VerifyInit(session, &hmac, mac_key));
    OK(p11->C_DecryptInit(session, &ecb, key));
    total = sizeof opened;
    OK(p11->C_DecryptVerifyUpdate(session, sealed, len, opened, &total));
    CHECK(total == sizeof data && !memcmp(opened, data, sizeof data));
    OK(p11->C_VerifyFinal(session, digest, size));
    last = 16;
    OK(p11->C_DecryptFinal(session, again, &last));
}

static void cancelling(void) {
    CK_OBJECT_HANDLE key;
    CK_BYTE iv[16] = {0}, out[64];
    CK_ULONG len = sizeof out;
    CK_MECHANISM cbc = {CKM_AES_CBC, iv, 16};
    OK(AES(session, 16, &key, YES(CKA_ENCRYPT)));
    OK(p11->C_EncryptInit(session, &cbc, key));
    CHECK_RV(p11->C_EncryptInit(session, &cbc, key), CKR_OPERATION_ACTIVE);
    if (p30) {
        OK(p30->C_SessionCancel(session, CKF_ENCRYPT));
        CHECK_RV(p11->C_Encrypt(session, iv, 16, out, &len), CKR_OPERATION_NOT_INITIALIZED);
        OK(p11->C_EncryptInit(session, &cbc, key));
        OK(p11->C_EncryptInit(session, NULL, key));
        CHECK_RV(p11->C_Encrypt(session, iv, 16, out, &len), CKR_OPERATION_NOT_INITIALIZED);
        OK(p11->C_EncryptInit(session, &cbc, key));
    }
    OK(p11->C_Encrypt(session, iv, 16, out, &len));
    OK(p11->C_FindObjectsInit(session, NULL, 0));
    CHECK_RV(p11->C_FindObjectsInit(session, NULL, 0), CKR_OPERATION_ACTIVE);
    OK(p11->C_FindObjectsFinal(session));
    CHECK_RV(p11->C_FindObjectsFinal(session), CKR_OPERATION_NOT_INITIALIZED);
}

static void odds_and_ends(void) {
    CK_SLOT_ID slot;
    CHECK_RV(p11->C_WaitForSlotEvent(CKF_DONT_BLOCK, &slot, NULL), CKR_NO_EVENT);
    CHECK_RV(p11->C_GetFunctionStatus(session), CKR_FUNCTION_NOT_PARALLEL);
    CHECK_RV(p11->C_CancelFunction(session), CKR_FUNCTION_NOT_PARALLEL);
    CHECK_RV(p11->C_Initialize(NULL), CKR_CRYPTOKI_ALREADY_INITIALIZED);
    CHECK_RV(p11->C_OpenSession(test_slot, CKF_RW_SESSION, NULL, NULL, &(CK_SESSION_HANDLE){0}),
             CKR_SESSION_PARALLEL_NOT_SUPPORTED);
    CHECK_RV(p11->C_OpenSession(0x12345, CKF_SERIAL_SESSION, NULL, NULL, &(CK_SESSION_HANDLE){0}),
             CKR_SLOT_ID_INVALID);
}

/* A token and its slot id outlive the library's life, and so do token objects. */
static void lasting(void) {
    CK_OBJECT_HANDLE key;
    CK_ATTRIBUTE by_label[] = {TEXT(CKA_LABEL, "lasting")};
    OK(AES(session, 32, &key, YES(CKA_TOKEN), TEXT(CKA_LABEL, "lasting")));
    OK(p11->C_Finalize(NULL));
    CHECK_RV(p11->C_GetInfo(&(CK_INFO){0}), CKR_CRYPTOKI_NOT_INITIALIZED);
    OK(initialize());
    CHECK(slot_of("test") == test_slot);
    session = open_session(test_slot);
    CHECK(find(session, by_label, 1, NULL) == 0);
    OK(login(session, CKU_USER, USER_PIN));
    CHECK(find(session, by_label, 1, &key) == 1);
    OK(p11->C_DestroyObject(session, key));
    CHECK(find(session, by_label, 1, NULL) == 0);
}

static void initialize_arguments(void) {
    CK_C_INITIALIZE_ARGS args;
    OK(p11->C_Finalize(NULL));
    CHECK_RV(p11->C_Finalize(NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
    memset(&args, 0, sizeof args);
    args.pReserved = &args;
    CHECK_RV(p11->C_Initialize(&args), CKR_ARGUMENTS_BAD);
    args.pReserved = NULL;
    /* Some of the four mutex functions, not all. */
    args.CreateMutex = (CK_CREATEMUTEX)(uintptr_t)&initialize;
    CHECK_RV(p11->C_Initialize(&args), CKR_ARGUMENTS_BAD);
    /* All four, and no leave to use the system's own. */
    args.DestroyMutex = (CK_DESTROYMUTEX)(uintptr_t)&initialize;
    args.LockMutex = (CK_LOCKMUTEX)(uintptr_t)&initialize;
    args.UnlockMutex = (CK_UNLOCKMUTEX)(uintptr_t)&initialize;
    args.flags = CKF_OS_LOCKING_OK;
    OK(p11->C_Initialize(&args));
    CHECK_RV(p11->C_Finalize(&args), CKR_ARGUMENTS_BAD);
    OK(p11->C_Finalize(NULL));
    memset(&args, 0, sizeof args);
    args.flags = CKF_LIBRARY_CANT_CREATE_OS_THREADS | CKF_OS_LOCKING_OK;
    OK(p11->C_Initialize(&args));
    OK(p11->C_Finalize(NULL));
    OK(p11->C_Initialize(NULL));
}

int main(int argc, char **argv) {
    start(argc, argv);
    session = user_session();
    RUN(info);
    RUN(interfaces);
    RUN(tables);
    RUN(mechanisms);
    RUN(random_bytes);
    RUN(digests);
    RUN(aes);
    RUN(signatures);
    RUN(sign_recover);
    RUN(agreement);
    RUN(wrapping);
    RUN(dual_functions);
    RUN(cancelling);
    RUN(odds_and_ends);
    RUN(lasting);
    RUN(initialize_arguments);
    OK(p11->C_Finalize(NULL));
    return finish();
}
