/* Hostile arguments: NULLs, wrong lengths, wrong handles, wrong state, huge and repeated templates.
 * Nothing may crash, hang or change anything. */
#include "harness.h"
#include "calls.h"

static CK_SESSION_HANDLE session;
static CK_BYTE scratch[65536] __attribute__((aligned(16)));
static const CK_ULONG HUGE_LENGTHS[] = {~0UL, ~0UL - 1, ~0UL / 2, ~0UL / 2 + 1, ~0UL / sizeof(CK_ATTRIBUTE),
                                        ~0UL / sizeof(CK_ATTRIBUTE) + 1, 1UL << 32, (1UL << 31) + 1};

static void before_initialize(void) {
#define NOT_INITIALIZED(call) CHECK_RV(call, CKR_CRYPTOKI_NOT_INITIALIZED);
    SESSION_CALLS(NOT_INITIALIZED, 1, scratch, 16)
    SLOT_CALLS(NOT_INITIALIZED, 0, scratch, 16)
    SESSION_CALLS(NOT_INITIALIZED, 1, NULL, 0)
    NOT_INITIALIZED(p11->C_GetInfo((CK_INFO *)scratch))
    NOT_INITIALIZED(p11->C_GetSlotList(CK_FALSE, NULL, (CK_ULONG *)scratch))
    NOT_INITIALIZED(p11->C_WaitForSlotEvent(CKF_DONT_BLOCK, (CK_ULONG *)scratch, NULL))
    NOT_INITIALIZED(p11->C_Finalize(NULL))
}

static void wrong_session(void) {
    static const CK_SESSION_HANDLE wrong[] = {0, 0xffffffffUL, ~0UL, 0x1234567812345678UL};
    for (size_t i = 0; i < COUNT(wrong); i++) {
#define INVALID_SESSION(call) CHECK_RV(call, CKR_SESSION_HANDLE_INVALID);
        memset(scratch, 0, sizeof scratch);
        SESSION_CALLS(INVALID_SESSION, wrong[i], scratch, 16)
#define REFUSES(call) REFUSED(call);
        SESSION_CALLS(REFUSES, wrong[i], NULL, 16)
    }
}

static void wrong_slot(void) {
    static const CK_SLOT_ID wrong[] = {0x7fffffffUL, 0xffffffffUL, ~0UL};
    for (size_t i = 0; i < COUNT(wrong); i++) {
#define INVALID_SLOT(call) CHECK_RV(call, CKR_SLOT_ID_INVALID);
        SLOT_CALLS(INVALID_SLOT, wrong[i], scratch, 16)
        SLOT_CALLS(REFUSES, wrong[i], NULL, 16)
    }
}

static void nulls(void) {
    CK_SESSION_HANDLE other = open_session(test_slot);
    /* What a NULL may legally do here (closing, ending, cancelling) is done on another session. */
#define RETURNS(call) (void)(call);
    SESSION_CALLS(RETURNS, other, NULL, 0)
    OK(login(session, CKU_USER, USER_PIN)); /* the C_Logout among the calls */
    for (size_t i = 0; i < COUNT(HUGE_LENGTHS); i++) {
        other = open_session(test_slot);
        SESSION_CALLS(RETURNS, other, NULL, HUGE_LENGTHS[i])
        OK(login(session, CKU_USER, USER_PIN));
    }
    CHECK_RV(p11->C_GetInfo(NULL), CKR_ARGUMENTS_BAD);
    CHECK_RV(p11->C_GetSlotList(CK_FALSE, NULL, NULL), CKR_ARGUMENTS_BAD);
    CHECK_RV(p11->C_GetFunctionList(NULL), CKR_ARGUMENTS_BAD);
    CHECK_RV(p11->C_GetSlotInfo(test_slot, NULL), CKR_ARGUMENTS_BAD);
    CHECK_RV(p11->C_GetTokenInfo(test_slot, NULL), CKR_ARGUMENTS_BAD);
    CHECK_RV(p11->C_GetMechanismList(test_slot, NULL, NULL), CKR_ARGUMENTS_BAD);
    CHECK_RV(p11->C_GetMechanismInfo(test_slot, CKM_AES_CBC, NULL), CKR_ARGUMENTS_BAD);
    CHECK_RV(p11->C_OpenSession(test_slot, CKF_SERIAL_SESSION, NULL, NULL, NULL), CKR_ARGUMENTS_BAD);
    CHECK_RV(p11->C_GetSessionInfo(session, NULL), CKR_ARGUMENTS_BAD);
    CHECK_RV(p11->C_CreateObject(session, NULL, 3, (CK_ULONG *)scratch), CKR_ARGUMENTS_BAD);
    CHECK_RV(p11->C_GenerateRandom(session, NULL, 5), CKR_ARGUMENTS_BAD);
    CHECK_RV(p11->C_FindObjectsInit(session, NULL, 5), CKR_ARGUMENTS_BAD);
    CHECK_RV(p11->C_GenerateKey(session, NULL, NULL, 0, (CK_ULONG *)scratch), CKR_ARGUMENTS_BAD);
}

static void null_and_zero_are_empty(void) {
    CK_MECHANISM sha = {CKM_SHA256, NULL, 0};
    CK_ULONG len = sizeof scratch;
    OK(p11->C_DigestInit(session, &sha));
    OK(p11->C_Digest(session, NULL, 0, scratch, &len));
    CHECK(len == 32 && scratch[0] == 0xe3);
    OK(p11->C_DigestInit(session, &sha));
    OK(p11->C_DigestUpdate(session, NULL, 0));
    len = sizeof scratch;
    OK(p11->C_DigestFinal(session, scratch, &len));
    OK(p11->C_DigestInit(session, &sha));
    CHECK_RV(p11->C_DigestUpdate(session, NULL, 1), CKR_ARGUMENTS_BAD);
    (void)p11->C_DigestFinal(session, scratch, &len);
}

/* A length that no memory has behind it must be refused before anything is read. */
static void huge_lengths(void) {
    CK_OBJECT_HANDLE key = 0;
    CK_MECHANISM ecb = {CKM_AES_ECB, NULL, 0}, sha = {CKM_SHA256, NULL, 0};
    OK(AES(session, 16, &key, YES(CKA_ENCRYPT), YES(CKA_DECRYPT)));
    for (size_t i = 0; i < 6; i++) { /* those above the largest object a process can have */
        CK_ULONG huge = HUGE_LENGTHS[i], len = sizeof scratch;
        OK(p11->C_EncryptInit(session, &ecb, key));
        REFUSED(p11->C_Encrypt(session, scratch, huge, scratch, &len));
        (void)p11->C_EncryptInit(session, NULL, 0);
        OK(p11->C_DigestInit(session, &sha));
        REFUSED(p11->C_DigestUpdate(session, scratch, huge));
        (void)p11->C_DigestInit(session, NULL);
        REFUSED(p11->C_GenerateRandom(session, scratch, huge));
        CK_ATTRIBUTE value[] = {NUMBER(CKA_CLASS, CKO_DATA), {CKA_VALUE, scratch, huge}};
        REFUSED(p11->C_CreateObject(session, value, 2, &(CK_ULONG){0}));
        REFUSED(p11->C_CreateObject(session, (CK_ATTRIBUTE *)scratch, huge, &(CK_ULONG){0}));
        CK_MECHANISM bad = {CKM_AES_CBC, scratch, huge};
        REFUSED(p11->C_EncryptInit(session, &bad, key));
        CK_GCM_PARAMS gcm = {scratch, huge, 0, scratch, huge, 128};
        bad = (CK_MECHANISM){CKM_AES_GCM, &gcm, sizeof gcm};
        REFUSED(p11->C_EncryptInit(session, &bad, key));
        gcm = (CK_GCM_PARAMS){scratch, 12, 96, scratch, huge, 128};
        REFUSED(p11->C_EncryptInit(session, &bad, key));
        gcm = (CK_GCM_PARAMS){scratch, 12, 96, NULL, 0, huge};
        REFUSED(p11->C_EncryptInit(session, &bad, key));
        CK_ATTRIBUTE length[] = {NUMBER(CKA_VALUE_LEN, 0)};
        *(CK_ULONG *)length[0].pValue = huge;
        CK_MECHANISM generic = {CKM_GENERIC_SECRET_KEY_GEN, NULL, 0};
        REFUSED(p11->C_GenerateKey(session, &generic, length, 1, &(CK_ULONG){0}));
        /* A PIN is refused for its length before it is read or hashed, and is not counted. */
        REFUSED(p11->C_SetPIN(session, scratch, huge, scratch, huge));
    }
    CK_TOKEN_INFO info;
    OK(p11->C_GetTokenInfo(test_slot, &info));
    CHECK(!(info.flags & CKF_USER_PIN_COUNT_LOW));
}

static void huge_pin(void) {
    CK_SESSION_HANDLE other = open_session(test_slot);
    CK_BYTE *pin = malloc(64 << 20);
    memset(pin, 'p', 64 << 20);
    double begin = now();
    CHECK_RV_IN(p11->C_Login(other, CKU_CONTEXT_SPECIFIC, pin, 64 << 20), CKR_PIN_LEN_RANGE, CKR_PIN_INCORRECT,
                CKR_OPERATION_NOT_INITIALIZED);
    CHECK_RV_IN(p11->C_SetPIN(session, (CK_UTF8CHAR *)USER_PIN, strlen(USER_PIN), pin, 64 << 20), CKR_PIN_LEN_RANGE);
    CHECK(now() - begin < 2 * slowness());
    CHECK_RV_IN(p11->C_SetPIN(session, (CK_UTF8CHAR *)USER_PIN, strlen(USER_PIN), pin, 1), CKR_PIN_LEN_RANGE);
    free(pin);
    OK(p11->C_CloseSession(other));
}

static void templates(void) {
    CK_OBJECT_HANDLE object = 0;
    CK_ATTRIBUTE twice[] = {NUMBER(CKA_CLASS, CKO_DATA), TEXT(CKA_LABEL, "a"), TEXT(CKA_LABEL, "b")};
    CHECK_RV_IN(p11->C_CreateObject(session, twice, 3, &object), CKR_TEMPLATE_INCONSISTENT);
    CK_ATTRIBUTE *many = calloc(100000, sizeof *many);
    for (int i = 0; i < 100000; i++) many[i] = (CK_ATTRIBUTE){CKA_VENDOR_DEFINED + (CK_ULONG)i, NULL, 0};
    REFUSED(p11->C_CreateObject(session, many, 100000, &object));
    double begin = now();
    (void)p11->C_GetAttributeValue(session, 1, many, 100000);
    if (p11->C_FindObjectsInit(session, many, 100000) == CKR_OK) OK(p11->C_FindObjectsFinal(session));
    CHECK(now() - begin < 5 * slowness());
    free(many);
    CK_BBOOL two = 2;
    CK_ULONG class = CKO_DATA;
    CK_ATTRIBUTE wrong_bool[] = {{CKA_CLASS, &class, sizeof class}, {CKA_PRIVATE, &two, 1}};
    CHECK_RV_IN(p11->C_CreateObject(session, wrong_bool, 2, &object), CKR_ATTRIBUTE_VALUE_INVALID, CKR_OK);
    wrong_bool[1].ulValueLen = 8;
    CHECK_RV(p11->C_CreateObject(session, wrong_bool, 2, &object), CKR_ATTRIBUTE_VALUE_INVALID);
    CK_ATTRIBUTE short_class[] = {{CKA_CLASS, &class, 4}};
    REFUSED(p11->C_CreateObject(session, short_class, 1, &object));
    CK_ATTRIBUTE null_value[] = {NUMBER(CKA_CLASS, CKO_DATA), {CKA_LABEL, NULL, 10}};
    REFUSED(p11->C_CreateObject(session, null_value, 2, &object));
    CK_ATTRIBUTE nothing[] = {NUMBER(CKA_CLASS, 0x7777)};
    REFUSED(p11->C_CreateObject(session, nothing, 1, &object));
    CHECK_RV(p11->C_CreateObject(session, NULL, 0, &object), CKR_TEMPLATE_INCOMPLETE);
    CK_MECHANISM aes = {CKM_AES_KEY_GEN, NULL, 0};
    CK_ATTRIBUTE wrong_class[] = {NUMBER(CKA_CLASS, CKO_PUBLIC_KEY), NUMBER(CKA_VALUE_LEN, 16)};
    CHECK_RV(p11->C_GenerateKey(session, &aes, wrong_class, 2, &object), CKR_TEMPLATE_INCONSISTENT);
    CK_ATTRIBUTE no_length[] = {YES(CKA_ENCRYPT)};
    CHECK_RV(p11->C_GenerateKey(session, &aes, no_length, 1, &object), CKR_TEMPLATE_INCOMPLETE);
    CK_ATTRIBUTE odd_length[] = {NUMBER(CKA_VALUE_LEN, 17)};
    CHECK_RV_IN(p11->C_GenerateKey(session, &aes, odd_length, 1, &object), CKR_ATTRIBUTE_VALUE_INVALID,
                CKR_KEY_SIZE_RANGE, CKR_TEMPLATE_INCONSISTENT);
    CK_ATTRIBUTE read_only[] = {NUMBER(CKA_VALUE_LEN, 16), YES(CKA_LOCAL)};
    CHECK_RV_IN(p11->C_GenerateKey(session, &aes, read_only, 2, &object), CKR_ATTRIBUTE_READ_ONLY,
                CKR_TEMPLATE_INCONSISTENT);
}

static void read_only_sessions(void) {
    CK_SESSION_HANDLE ro;
    CK_OBJECT_HANDLE object;
    CK_ATTRIBUTE token_object[] = {NUMBER(CKA_CLASS, CKO_DATA), YES(CKA_TOKEN), TEXT(CKA_VALUE, "v")};
    OK(p11->C_OpenSession(test_slot, CKF_SERIAL_SESSION, NULL, NULL, &ro));
    CHECK_RV(p11->C_CreateObject(ro, token_object, 3, &object), CKR_SESSION_READ_ONLY);
    CHECK_RV(AES(ro, 16, &object, YES(CKA_TOKEN)), CKR_SESSION_READ_ONLY);
    OK(AES(ro, 16, &object, NO(CKA_TOKEN)));
    OK(p11->C_CreateObject(session, token_object, 3, &object));
    CHECK_RV(p11->C_DestroyObject(ro, object), CKR_SESSION_READ_ONLY);
    CHECK_RV(set_bool(ro, object, CKA_PRIVATE, 0) == CKR_OK ? CKR_OK : CKR_SESSION_READ_ONLY, CKR_SESSION_READ_ONLY);
    OK(p11->C_DestroyObject(session, object));
    OK(p11->C_CloseSession(ro));
}

/* Handles of things gone are never another's. */
static void stale_handles(void) {
    CK_OBJECT_HANDLE key, other;
    CK_BYTE byte[64];
    OK(AES(session, 16, &key, YES(CKA_ENCRYPT)));
    OK(p11->C_DestroyObject(session, key));
    for (int i = 0; i < 200; i++) {
        OK(AES(session, 16, &other, YES(CKA_ENCRYPT)));
        if (!CHECK(other != key)) break;
        OK(p11->C_DestroyObject(session, other));
    }
    CHECK_RV(p11->C_DestroyObject(session, key), CKR_OBJECT_HANDLE_INVALID);
    CHECK_RV(p11->C_GetAttributeValue(session, key, &(CK_ATTRIBUTE){CKA_LABEL, byte, 64}, 1),
             CKR_OBJECT_HANDLE_INVALID);
    CHECK_RV(p11->C_GetObjectSize(session, key, &(CK_ULONG){0}), CKR_OBJECT_HANDLE_INVALID);
    CK_SESSION_HANDLE a = open_session(test_slot);
    OK(AES(a, 16, &key, YES(CKA_ENCRYPT)));
    OK(p11->C_CloseSession(a));
    /* A session object dies with its session. */
    CHECK_RV(p11->C_DestroyObject(session, key), CKR_OBJECT_HANDLE_INVALID);
    for (int i = 0; i < 200; i++) {
        CK_SESSION_HANDLE b = open_session(test_slot);
        CHECK(b != a);
        OK(p11->C_CloseSession(b));
    }
    CHECK_RV(p11->C_CloseSession(a), CKR_SESSION_HANDLE_INVALID);
}

static void wrong_state(void) {
    CK_ULONG len = sizeof scratch;
    CK_ULONG n;
    CHECK_RV(p11->C_Encrypt(session, scratch, 16, scratch, &len), CKR_OPERATION_NOT_INITIALIZED);
    CHECK_RV(p11->C_EncryptUpdate(session, scratch, 16, scratch, &len), CKR_OPERATION_NOT_INITIALIZED);
    CHECK_RV(p11->C_EncryptFinal(session, scratch, &len), CKR_OPERATION_NOT_INITIALIZED);
    CHECK_RV(p11->C_Decrypt(session, scratch, 16, scratch, &len), CKR_OPERATION_NOT_INITIALIZED);
    CHECK_RV(p11->C_Digest(session, scratch, 16, scratch, &len), CKR_OPERATION_NOT_INITIALIZED);
    CHECK_RV(p11->C_DigestUpdate(session, scratch, 16), CKR_OPERATION_NOT_INITIALIZED);
    CHECK_RV(p11->C_DigestFinal(session, scratch, &len), CKR_OPERATION_NOT_INITIALIZED);
    CHECK_RV(p11->C_Sign(session, scratch, 16, scratch, &len), CKR_OPERATION_NOT_INITIALIZED);
    CHECK_RV(p11->C_SignUpdate(session, scratch, 16), CKR_OPERATION_NOT_INITIALIZED);
    CHECK_RV(p11->C_SignFinal(session, scratch, &len), CKR_OPERATION_NOT_INITIALIZED);
    CHECK_RV(p11->C_Verify(session, scratch, 16, scratch, 16), CKR_OPERATION_NOT_INITIALIZED);
    CHECK_RV(p11->C_VerifyFinal(session, scratch, 16), CKR_OPERATION_NOT_INITIALIZED);
    CHECK_RV(p11->C_FindObjects(session, (CK_ULONG *)scratch, 5, &n), CKR_OPERATION_NOT_INITIALIZED);
    /* One-shot after an Update. */
    CK_MECHANISM sha = {CKM_SHA256, NULL, 0};
    OK(p11->C_DigestInit(session, &sha));
    OK(p11->C_DigestUpdate(session, scratch, 16));
    CHECK_RV_IN(p11->C_Digest(session, scratch, 16, scratch, &len), CKR_OPERATION_ACTIVE, CKR_FUNCTION_FAILED,
                CKR_OPERATION_NOT_INITIALIZED);
    (void)p11->C_DigestInit(session, NULL);
}

static void wrong_keys(void) {
    CK_OBJECT_HANDLE aes, pub, priv;
    CK_MECHANISM ecdsa = {CKM_ECDSA, NULL, 0}, ecb = {CKM_AES_ECB, NULL, 0}, odd = {0x70000001UL, NULL, 0};
    CK_MECHANISM sha = {CKM_SHA256, NULL, 0}, odd_digest = {CKM_AES_ECB, NULL, 0};
    OK(AES(session, 16, &aes, YES(CKA_ENCRYPT), NO(CKA_DECRYPT), NO(CKA_SIGN)));
    OK(generate_pair(session, CKM_EC_KEY_PAIR_GEN, NULL, 0, NULL, 0, &pub, &priv));
    CHECK_RV(p11->C_EncryptInit(session, &ecb, 0), CKR_KEY_HANDLE_INVALID);
    CHECK_RV(p11->C_EncryptInit(session, &ecb, ~0UL), CKR_KEY_HANDLE_INVALID);
    CHECK_RV_IN(p11->C_EncryptInit(session, &ecb, pub), CKR_KEY_TYPE_INCONSISTENT, CKR_KEY_FUNCTION_NOT_PERMITTED);
    CHECK_RV(p11->C_DecryptInit(session, &ecb, aes), CKR_KEY_FUNCTION_NOT_PERMITTED);
    CHECK_RV_IN(p11->C_SignInit(session, &ecdsa, aes), CKR_KEY_TYPE_INCONSISTENT, CKR_KEY_FUNCTION_NOT_PERMITTED);
    CHECK_RV_IN(p11->C_SignInit(session, &ecdsa, pub), CKR_KEY_TYPE_INCONSISTENT, CKR_KEY_FUNCTION_NOT_PERMITTED);
    CHECK_RV(p11->C_EncryptInit(session, &odd, aes), CKR_MECHANISM_INVALID);
    CHECK_RV(p11->C_EncryptInit(session, &sha, aes), CKR_MECHANISM_INVALID);
    CHECK_RV(p11->C_DigestInit(session, &odd_digest), CKR_MECHANISM_INVALID);
    CHECK_RV(p11->C_DestroyObject(session, 0), CKR_OBJECT_HANDLE_INVALID);
}

/* Mechanism parameters of every wrong size for every mechanism: refused or accepted, never a crash. */
static void parameters(void) {
    CK_MECHANISM_TYPE list[512];
    CK_ULONG n = COUNT(list);
    CK_OBJECT_HANDLE keys[4], pub, rsa_pub;
    CK_ATTRIBUTE derive[] = {YES(CKA_DERIVE)};
    CK_MECHANISM generic = {CKM_GENERIC_SECRET_KEY_GEN, NULL, 0};
    CK_ATTRIBUTE secret[] = {NUMBER(CKA_VALUE_LEN, 32), YES(CKA_SIGN), YES(CKA_DERIVE), NO(CKA_TOKEN)};
    static const CK_ULONG sizes[] = {0, 1, 8, 12, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 4096};
    OK(p11->C_GetMechanismList(test_slot, list, &n));
    OK(AES(session, 32, &keys[0], YES(CKA_ENCRYPT), YES(CKA_DECRYPT), YES(CKA_DERIVE), YES(CKA_SIGN)));
    OK(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0, NULL, 0, &rsa_pub, &keys[1]));
    OK(generate_pair(session, CKM_EC_KEY_PAIR_GEN, NULL, 0, derive, 1, &pub, &keys[2]));
    OK(p11->C_GenerateKey(session, &generic, secret, COUNT(secret), &keys[3]));
    for (int fill = 0; fill < 2; fill++) {
        /* All zero: NULL pointers with no length. All ones: wild pointers with lengths that no
         * memory has. A wild pointer with a plausible length cannot be defended against. */
        static CK_BYTE block[4096] __attribute__((aligned(16)));
        memset(block, fill ? 0xff : 0, sizeof block);
        for (CK_ULONG m = 0; m < n; m++) {
            /* Its parameter has a pointer that no length goes with. */
            if (fill && list[m] == CKM_RSA_AES_KEY_WRAP) continue;
            for (size_t s = 0; s < COUNT(sizes); s++) {
                CK_MECHANISM mechanism = {list[m], block, sizes[s]};
                CK_ULONG len = sizeof scratch;
                for (size_t k = 0; k < COUNT(keys); k++) {
                    if (p11->C_EncryptInit(session, &mechanism, k == 1 ? rsa_pub : keys[k]) == CKR_OK)
                        (void)p11->C_Encrypt(session, scratch, 32, scratch + 1024, &len);
                    if (p11->C_DecryptInit(session, &mechanism, keys[k]) == CKR_OK)
                        (void)p11->C_Decrypt(session, scratch, 32, scratch + 1024, &len);
                    if (p11->C_SignInit(session, &mechanism, keys[k]) == CKR_OK)
                        (void)p11->C_Sign(session, scratch, 32, scratch + 1024, &len);
                    CK_OBJECT_HANDLE made;
                    CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
                                        NUMBER(CKA_VALUE_LEN, 16), NO(CKA_TOKEN)};
                    if (p11->C_DeriveKey(session, &mechanism, keys[k], t, COUNT(t), &made) == CKR_OK)
                        OK(p11->C_DestroyObject(session, made));
                }
                if (p11->C_DigestInit(session, &mechanism) == CKR_OK)
                    OK(p11->C_Digest(session, scratch, 32, scratch + 1024, &len));
                if (p30)
                    (void)p30->C_SessionCancel(session, CKF_ENCRYPT | CKF_DECRYPT | CKF_SIGN | CKF_DIGEST);
            }
        }
    }
    CK_MECHANISM null_block = {CKM_AES_CBC, NULL, 16};
    REFUSED(p11->C_EncryptInit(session, &null_block, keys[0]));
    OK(p11->C_GenerateRandom(session, scratch, 16));
}

static void unaligned(void) {
    CK_BYTE *odd = scratch + 1;
    CK_OBJECT_HANDLE key = 0;
    CK_ATTRIBUTE length = NUMBER(CKA_VALUE_LEN, 16), on = YES(CKA_ENCRYPT);
    CK_MECHANISM aes = {CKM_AES_KEY_GEN, NULL, 0};
    memcpy(odd, &length, sizeof length);
    memcpy(odd + sizeof length, &on, sizeof on);
    memcpy(odd + 200, &aes, sizeof aes);
    OK(p11->C_GenerateKey(session, (CK_MECHANISM *)(void *)(odd + 200), (CK_ATTRIBUTE *)(void *)odd, 2,
                          (CK_ULONG *)(void *)(odd + 300)));
    memcpy(&key, odd + 300, sizeof key);
    CHECK(key != 0);
    CK_ULONG value = 5;
    CK_BYTE unaligned_value[9];
    memcpy(unaligned_value + 1, &value, sizeof value);
    CK_ATTRIBUTE read = {CKA_VALUE_LEN, unaligned_value + 1, 8};
    OK(p11->C_GetAttributeValue(session, key, &read, 1));
    memcpy(&value, unaligned_value + 1, sizeof value);
    CHECK(value == 16);
    CK_GCM_PARAMS gcm = {scratch + 1001, 12, 96, scratch + 1003, 7, 128};
    memcpy(odd + 400, &gcm, sizeof gcm);
    CK_MECHANISM mechanism = {CKM_AES_GCM, odd + 400, sizeof gcm};
    memcpy(odd + 500, &mechanism, sizeof mechanism);
    CK_ULONG len = 100;
    memcpy(odd + 600, &len, sizeof len);
    OK(p11->C_EncryptInit(session, (CK_MECHANISM *)(void *)(odd + 500), key));
    OK(p11->C_Encrypt(session, scratch + 2001, 33, scratch + 3003, (CK_ULONG *)(void *)(odd + 600)));
    memcpy(&len, odd + 600, sizeof len);
    CHECK(len == 49);
}

/* Input and output in the same place, as the standard allows. */
static void in_place(void) {
    CK_OBJECT_HANDLE key;
    CK_BYTE iv[16] = {0}, data[64], copy[80];
    OK(AES(session, 16, &key, YES(CKA_ENCRYPT), YES(CKA_DECRYPT)));
    GCM(gcm, iv);
    CK_MECHANISM all[] = {{CKM_AES_CBC, iv, 16}, {CKM_AES_ECB, NULL, 0}, gcm};
    for (size_t i = 0; i < COUNT(all); i++) {
        CK_BYTE buffer[96];
        CK_ULONG len = sizeof copy;
        memset(data, 7, sizeof data);
        memcpy(buffer, data, sizeof data);
        OK(p11->C_EncryptInit(session, &all[i], key));
        OK(p11->C_Encrypt(session, data, sizeof data, copy, &len));
        len = sizeof buffer;
        OK(p11->C_EncryptInit(session, &all[i], key));
        OK(p11->C_Encrypt(session, buffer, sizeof data, buffer, &len));
        CHECK(!memcmp(buffer, copy, len));
        CK_ULONG opened = sizeof buffer;
        OK(p11->C_DecryptInit(session, &all[i], key));
        OK(p11->C_Decrypt(session, buffer, len, buffer, &opened));
        CHECK(opened == sizeof data && !memcmp(buffer, data, sizeof data));
    }
}

static void bad_tag_leaves_nothing(void) {
    CK_OBJECT_HANDLE key;
    CK_BYTE iv[16] = {0}, data[64], sealed[80], opened[96];
    CK_ULONG len = sizeof sealed, got = sizeof opened;
    OK(AES(session, 16, &key, YES(CKA_ENCRYPT), YES(CKA_DECRYPT)));
    GCM(gcm, iv);
    memset(data, 0x42, sizeof data);
    OK(p11->C_EncryptInit(session, &gcm, key));
    OK(p11->C_Encrypt(session, data, sizeof data, sealed, &len));
    sealed[79] ^= 1;
    memset(opened, 0xaa, sizeof opened);
    OK(p11->C_DecryptInit(session, &gcm, key));
    CHECK_RV(p11->C_Decrypt(session, sealed, len, opened, &got), CKR_ENCRYPTED_DATA_INVALID);
    for (size_t i = 0; i + 4 < sizeof opened; i++) CHECK(memcmp(opened + i, "BBBB", 4) != 0);
    /* In parts: nothing before the tag has been checked. */
    memset(opened, 0xaa, sizeof opened);
    OK(p11->C_DecryptInit(session, &gcm, key));
    got = sizeof opened;
    OK(p11->C_DecryptUpdate(session, sealed, len, opened, &got));
    CHECK(got == 0);
    got = sizeof opened;
    CHECK_RV(p11->C_DecryptFinal(session, opened, &got), CKR_ENCRYPTED_DATA_INVALID);
    for (size_t i = 0; i + 4 < sizeof opened; i++) CHECK(memcmp(opened + i, "BBBB", 4) != 0);
}

/* C_SetAttributeValue is all or nothing; C_GetAttributeValue goes on and marks what it could not read. */
static void attributes_atomic(void) {
    CK_OBJECT_HANDLE key;
    CK_BYTE label[32];
    OK(AES(session, 16, &key, TEXT(CKA_LABEL, "before"), YES(CKA_ENCRYPT), YES(CKA_SENSITIVE)));
    CK_ATTRIBUTE changes[] = {TEXT(CKA_LABEL, "after"), NO(CKA_SENSITIVE)};
    REFUSED(p11->C_SetAttributeValue(session, key, changes, 2));
    CHECK(get(session, key, CKA_LABEL, label, sizeof label) == 6 && !memcmp(label, "before", 6));
    CK_BBOOL flag;
    CK_ATTRIBUTE mixed[] = {{CKA_VALUE, label, sizeof label},
                            {CKA_ENCRYPT, &flag, 1},
                            {CKA_MODULUS, label, sizeof label},
                            {CKA_LABEL, label, 2},
                            {CKA_LABEL, NULL, 0},
                            {CKA_LABEL, label, sizeof label}};
    CHECK_RV_IN(p11->C_GetAttributeValue(session, key, mixed, COUNT(mixed)), CKR_ATTRIBUTE_SENSITIVE,
                CKR_ATTRIBUTE_TYPE_INVALID, CKR_BUFFER_TOO_SMALL);
    CHECK(mixed[0].ulValueLen == CK_UNAVAILABLE_INFORMATION);
    CHECK(mixed[1].ulValueLen == 1 && flag == CK_TRUE);
    CHECK(mixed[2].ulValueLen == CK_UNAVAILABLE_INFORMATION);
    CHECK(mixed[3].ulValueLen == CK_UNAVAILABLE_INFORMATION);
    CHECK(mixed[4].ulValueLen == 6);
    CHECK(mixed[5].ulValueLen == 6 && !memcmp(label, "before", 6));
}

int main(int argc, char **argv) {
    start(argc, argv);
    RUN(before_initialize);
    session = user_session();
    RUN(wrong_session);
    RUN(wrong_slot);
    RUN(nulls);
    RUN(null_and_zero_are_empty);
    RUN(huge_lengths);
    RUN(huge_pin);
    RUN(templates);
    RUN(read_only_sessions);
    RUN(stale_handles);
    RUN(wrong_state);
    RUN(wrong_keys);
    RUN(parameters);
    RUN(unaligned);
    RUN(in_place);
    RUN(bad_tag_leaves_nothing);
    RUN(attributes_atomic);
    OK(p11->C_Finalize(NULL));
    RUN(before_initialize);
    return finish();
}
