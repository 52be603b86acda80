/* Managed keys as a C program uses them, through the vendor's interface and through the symbols: made,
 * used, rotated, imported, disabled, deleted; NULL and short buffers; several threads. */
#include "harness.h"

static KMS_FUNCTION_LIST *kms;
static CK_SESSION_HANDLE session;
static char key[KMS_ID_LEN + 1];
static CK_BYTE json[64 * 1024];

#define ID(text) (CK_BYTE *)(uintptr_t)(text), strlen(text)
#define NO_CONTEXT NULL, 0
#define CONTEXT ID("{\"file\":\"a.txt\"}")
#define LONGEST (4096 + KMS_MAX_BLOB_OVERHEAD)

/* A request in which %s is the key. */
static CK_BYTE *request(const char *format, const char *about) {
    static __thread char text[2048];
    snprintf(text, sizeof text, format, about);
    return (CK_BYTE *)text;
}
#define ASK(function, format, about) \
    (kms->function(session, 0, request(format, about), strlen((char *)request(format, about))))
#define KEY_ID "{\"KeyId\":\"%s\"}"

static const char *query(KMS_QUERY function, const char *format, const char *about) {
    CK_ULONG len = sizeof json - 1;
    CK_BYTE *text = request(format, about);
    if (!OK(function(session, text, strlen((char *)text), json, &len))) len = 0;
    json[len] = 0;
    return (const char *)json;
}
#define HAS(function, about, text) CHECK(strstr(query(kms->function, KEY_ID, about), text))

static int count_keys(void) {
    int n = 0;
    for (const char *at = query(kms->KMS_ListKeys, "{\"Limit\":%s}", "1000"); (at = strstr(at, "\"KeyId\"")); at++) n++;
    return n;
}

static void make_key(char *id, const char *text) {
    CK_ULONG len = KMS_ID_LEN;
    memset(id, 0, KMS_ID_LEN + 1);
    OK(kms->KMS_CreateKey(session, 0, ID(text), (CK_BYTE *)id, &len));
    CHECK(len == KMS_ID_LEN);
}

static CK_ULONG seal(const char *id, CK_BYTE *blob, const char *text) {
    CK_ULONG len = LONGEST;
    OK(kms->KMS_Encrypt(session, 0, ID(id), CONTEXT, ID(text), blob, &len));
    return len;
}

static void opens_to(CK_BYTE *blob, CK_ULONG blob_len, const char *text) {
    CK_BYTE out[4096];
    CK_ULONG len = sizeof out;
    OK(kms->KMS_Decrypt(session, 0, NULL, 0, CONTEXT, blob, blob_len, out, &len));
    CHECK(len == strlen(text) && !memcmp(out, text, len));
}

/* The tests. */

static void interface(void) {
    static const char *const names[] = {
        "KMS_EnableKey", "KMS_DisableKey", "KMS_ScheduleKeyDeletion", "KMS_CancelKeyDeletion",
        "KMS_UpdateKeyDescription", "KMS_TagKey", "KMS_UntagKey", "KMS_CreateAlias", "KMS_UpdateAlias",
        "KMS_DeleteAlias", "KMS_RotateKey", "KMS_SetRotation", "KMS_DeleteImportedKeyMaterial", "KMS_PutKeyPolicy",
        "KMS_RetireGrant", "KMS_RevokeGrant", "KMS_RunDue", "KMS_CreateKey", "KMS_CreateGrant", "KMS_DescribeKey",
        "KMS_ListKeys", "KMS_ListAliases", "KMS_GetKeyRotationStatus", "KMS_ListRotations", "KMS_GetKeyPolicy",
        "KMS_ListGrants", "KMS_ListUsers", "KMS_Encrypt", "KMS_Decrypt", "KMS_ReEncrypt", "KMS_GenerateDataKey",
        "KMS_GenerateDataKeyWithoutPlaintext", "KMS_GenerateDataKeyPair", "KMS_GenerateDataKeyPairWithoutPlaintext",
        "KMS_GetParametersForImport", "KMS_ImportKeyMaterial",
    };
    CK_RV (*find_interface)(CK_UTF8CHAR *, CK_VERSION *, CK_INTERFACE **, CK_FLAGS);
    CK_INTERFACE *found = NULL;
    CK_VERSION version = {1, 2};
    *(void **)&find_interface = dlsym(module, "C_GetInterface");
    OK(find_interface((CK_UTF8CHAR *)KMS_INTERFACE_NAME, &version, &found, 0));
    kms = found ? found->pFunctionList : NULL;
    if (!CHECK(kms)) exit(1);
    void **entries = (void **)((char *)kms + offsetof(KMS_FUNCTION_LIST, KMS_EnableKey));
    for (size_t i = 0; i < COUNT(names); i++) CHECK(entries[i] && entries[i] == dlsym(module, names[i]));
}

static void logged_out(void) {
    CK_BYTE blob[LONGEST];
    CK_ULONG len = sizeof blob;
    CK_SESSION_HANDLE reading = 0;
    OK(p11->C_Logout(session));
    CHECK_RV(kms->KMS_CreateKey(session, 0, ID("{}"), blob, &len), CKR_USER_NOT_LOGGED_IN);
    len = sizeof blob;
    CHECK_RV(kms->KMS_Encrypt(session, 0, ID("alias/none"), NO_CONTEXT, ID("a"), blob, &len), CKR_USER_NOT_LOGGED_IN);
    len = sizeof blob;
    CHECK_RV(kms->KMS_ListKeys(session, ID("{}"), blob, &len), CKR_USER_NOT_LOGGED_IN);
    OK(login(session, CKU_USER, USER_PIN));
    OK(p11->C_OpenSession(test_slot, CKF_SERIAL_SESSION, NULL, NULL, &reading));
    len = sizeof blob;
    CHECK_RV(kms->KMS_CreateKey(reading, 0, ID("{}"), blob, &len), CKR_SESSION_READ_ONLY);
    OK(p11->C_CloseSession(reading));
    len = sizeof blob;
    CHECK_RV(kms->KMS_CreateKey(reading, 0, ID("{}"), blob, &len), CKR_SESSION_HANDLE_INVALID);
    len = 0;
    CHECK_RV(kms->KMS_CreateKey(reading, 0, ID("{}"), NULL, &len), CKR_SESSION_HANDLE_INVALID);
}

static void creation(void) {
    CK_BYTE id[KMS_ID_LEN];
    CK_ULONG len = 0;
    int before = count_keys();
    OK(kms->KMS_CreateKey(session, 0, ID("{}"), NULL, &len));
    CHECK(len == KMS_ID_LEN);
    len = KMS_ID_LEN - 1;
    CHECK_RV(kms->KMS_CreateKey(session, 0, ID("{}"), id, &len), CKR_BUFFER_TOO_SMALL);
    CHECK(len == KMS_ID_LEN);
    CHECK_RV(kms->KMS_CreateKey(session, KMS_DRY_RUN, ID("{}"), id, &len), KMS_R_DRY_RUN);
    CHECK_RV(kms->KMS_CreateKey(session, 2, ID("{}"), id, &len), CKR_ARGUMENTS_BAD);
    CHECK_RV(kms->KMS_CreateKey(session, ~0UL, ID("{}"), id, &len), CKR_ARGUMENTS_BAD);
    static const char *const wrong[] = {"{", "[]", "7", "{\"KeySpec\":\"AES_128\"}", "{\"KeySpec\":7}", "{\"Colour\":\"red\"}",
                                        "{\"KeyUsage\":\"SIGN_VERIFY\"}", "{\"KeySpec\":\"RSA_2048\"}", "\xff\xfe"};
    for (size_t i = 0; i < COUNT(wrong); i++) {
        len = KMS_ID_LEN;
        CHECK_RV(kms->KMS_CreateKey(session, 0, ID(wrong[i]), id, &len), CKR_ARGUMENTS_BAD);
    }
    CHECK(count_keys() == before);

    make_key(key, "{\"Description\":\"of the tests\",\"Label\":\"invoices\",\"Tags\":[{\"TagKey\":\"a\",\"TagValue\":\"b\"}]}");
    CHECK(count_keys() == before + 1);
    CHECK(strlen(key) == KMS_ID_LEN);
    HAS(KMS_DescribeKey, key, "\"KeyState\":\"Enabled\"");
    HAS(KMS_DescribeKey, key, "of the tests");

    CK_OBJECT_HANDLE object = 0;
    CK_ATTRIBUTE by_id[] = {{CKA_ID, key, KMS_ID_LEN}}, by_label[] = {TEXT(CKA_LABEL, "invoices")};
    CHECK(find(session, by_id, 1, &object) == 1 && find(session, by_label, 1, NULL) == 1);
    CK_ULONG state = 0, usage = 0;
    CHECK(get_bool(session, object, CKA_KMS_MANAGED) == 1 && get_bool(session, object, CKA_DESTROYABLE) == 0);
    CHECK(get(session, object, CKA_KMS_STATE, &state, sizeof state) == sizeof state && state == KMS_STATE_ENABLED);
    CHECK(get(session, object, CKA_KMS_USAGE, &usage, sizeof usage) == sizeof usage && usage == KMS_USAGE_ENCRYPT_DECRYPT);
    CHECK_RV(p11->C_DestroyObject(session, object), CKR_ACTION_PROHIBITED);
    CHECK(get_bool(session, object, CKA_SENSITIVE) == 1 && get_bool(session, object, CKA_EXTRACTABLE) == 0);
    CK_UTF8CHAR label[32];
    memset(label, ' ', sizeof label);
    OK(p11->C_CloseSession(session));
    CHECK_RV(p11->C_InitToken(test_slot, ID(SO_PIN), label), CKR_TOKEN_WRITE_PROTECTED);
    session = open_session(test_slot);
    OK(login(session, CKU_USER, USER_PIN));
}

static void envelopes(void) {
    CK_BYTE blob[LONGEST], out[LONGEST], big[4097] = {0};
    CK_ULONG len = 0, need;
    OK(kms->KMS_Encrypt(session, 0, ID(key), CONTEXT, ID("hello"), NULL, &len));
    CHECK(len == 5 + KMS_MAX_BLOB_OVERHEAD);
    len--;
    CHECK_RV(kms->KMS_Encrypt(session, 0, ID(key), CONTEXT, ID("hello"), blob, &len), CKR_BUFFER_TOO_SMALL);
    CHECK(len == 5 + KMS_MAX_BLOB_OVERHEAD);
    OK(kms->KMS_Encrypt(session, 0, ID(key), CONTEXT, ID("hello"), blob, &len));
    CHECK(len <= 5 + KMS_MAX_BLOB_OVERHEAD);
    need = 0;
    OK(kms->KMS_Decrypt(session, 0, NULL, 0, CONTEXT, blob, len, NULL, &need));
    CHECK(need == 5);
    need = 4;
    CHECK_RV(kms->KMS_Decrypt(session, 0, NULL, 0, CONTEXT, blob, len, out, &need), CKR_BUFFER_TOO_SMALL);
    CHECK(need == 5);
    OK(kms->KMS_Decrypt(session, 0, ID(key), CONTEXT, blob, len, out, &need));
    CHECK(need == 5 && !memcmp(out, "hello", 5));
    CHECK_RV(kms->KMS_Decrypt(session, KMS_DRY_RUN, ID(key), CONTEXT, blob, len, out, &need), KMS_R_DRY_RUN);
    CHECK_RV(kms->KMS_Decrypt(session, 0, NULL, 0, NO_CONTEXT, blob, len, out, &need), KMS_R_INVALID_CIPHERTEXT);
    CHECK_RV(kms->KMS_Decrypt(session, 0, NULL, 0, ID("{\"file\":1}"), blob, len, out, &need), CKR_ARGUMENTS_BAD);
    CHECK_RV(kms->KMS_Decrypt(session, 0, ID("alias/none"), CONTEXT, blob, len, out, &need), KMS_R_NOT_FOUND);
    blob[len - 1] ^= 1;
    CHECK_RV(kms->KMS_Decrypt(session, 0, NULL, 0, CONTEXT, blob, len, out, &need), KMS_R_INVALID_CIPHERTEXT);
    blob[len - 1] ^= 1;
    CHECK_RV(kms->KMS_Decrypt(session, 0, NULL, 0, CONTEXT, blob, len - 1, out, &need), KMS_R_INVALID_CIPHERTEXT);
    CHECK_RV(kms->KMS_Decrypt(session, 0, NULL, 0, CONTEXT, NULL, 0, out, &need), KMS_R_INVALID_CIPHERTEXT);

    /* The longest, and one more. */
    CK_ULONG long_len = sizeof out;
    OK(kms->KMS_Encrypt(session, 0, ID(key), NO_CONTEXT, big, 4096, out, &long_len));
    CK_ULONG opened = sizeof big;
    OK(kms->KMS_Decrypt(session, 0, NULL, 0, NO_CONTEXT, out, long_len, big, &opened));
    CHECK(opened == 4096);
    long_len = sizeof out;
    CHECK_RV(kms->KMS_Encrypt(session, 0, ID(key), NO_CONTEXT, big, 4097, out, &long_len), CKR_DATA_LEN_RANGE);

    /* To another key, into the same memory; and back out in place. */
    char other[KMS_ID_LEN + 1];
    make_key(other, "{}");
    CHECK_RV(kms->KMS_Decrypt(session, 0, ID(other), CONTEXT, blob, len, out, &need), KMS_R_INCORRECT_KEY);
    CK_ULONG room = 0;
    OK(kms->KMS_ReEncrypt(session, 0, CONTEXT, blob, len, ID(other), NO_CONTEXT, NULL, &room));
    CHECK(room == 5 + KMS_MAX_BLOB_OVERHEAD);
    OK(kms->KMS_ReEncrypt(session, 0, CONTEXT, blob, len, ID(other), NO_CONTEXT, blob, &room));
    OK(kms->KMS_Decrypt(session, 0, ID(other), NO_CONTEXT, blob, room, blob, &room));
    CHECK(room == 5 && !memcmp(blob, "hello", 5));

    /* The same through the standard's functions. */
    CK_OBJECT_HANDLE object = 0;
    CK_ATTRIBUTE by_id[] = {{CKA_ID, key, KMS_ID_LEN}};
    CK_MECHANISM envelope = {CKM_KMS_ENVELOPE, (void *)(uintptr_t)"{\"file\":\"a.txt\"}", 16};
    CHECK(find(session, by_id, 1, &object) == 1);
    OK(p11->C_EncryptInit(session, &envelope, object));
    len = 0;
    OK(p11->C_Encrypt(session, ID("standard"), NULL, &len));
    CHECK(len > 8 && len <= 8 + KMS_MAX_BLOB_OVERHEAD);
    OK(p11->C_Encrypt(session, ID("standard"), blob, &len));
    opens_to(blob, len, "standard");
    OK(p11->C_DecryptInit(session, &envelope, object));
    need = sizeof out;
    OK(p11->C_Decrypt(session, blob, len, out, &need));
    CHECK(need == 8 && !memcmp(out, "standard", 8));
    envelope.pParameter = NULL;
    envelope.ulParameterLen = 0;
    OK(p11->C_DecryptInit(session, &envelope, object));
    need = sizeof out;
    CHECK_RV(p11->C_Decrypt(session, blob, len, out, &need), CKR_ENCRYPTED_DATA_INVALID);
}

static void data_keys(void) {
    CK_BYTE plain[1024], blob[LONGEST], out[4096];
    CK_ULONG plain_len = 0, blob_len = 0, out_len;
    OK(kms->KMS_GenerateDataKey(session, 0, ID(key), 32, CONTEXT, NULL, &plain_len, NULL, &blob_len));
    CHECK(plain_len == 32 && blob_len == 32 + KMS_MAX_BLOB_OVERHEAD);
    /* Whichever buffer is short: neither is touched, and both lengths are told. */
    for (int which = 0; which < 2; which++) {
        memset(plain, 0x55, sizeof plain);
        memset(blob, 0x55, sizeof blob);
        plain_len = which ? 32 : 31;
        blob_len = 32 + KMS_MAX_BLOB_OVERHEAD - (CK_ULONG)which;
        CHECK_RV(kms->KMS_GenerateDataKey(session, 0, ID(key), 32, CONTEXT, plain, &plain_len, blob, &blob_len),
                 CKR_BUFFER_TOO_SMALL);
        CHECK(plain_len == 32 && blob_len == 32 + KMS_MAX_BLOB_OVERHEAD);
        CHECK(plain[0] == 0x55 && !memcmp(plain, plain + 1, sizeof plain - 1));
        CHECK(blob[0] == 0x55 && !memcmp(blob, blob + 1, sizeof blob - 1));
    }
    CHECK_RV(kms->KMS_GenerateDataKey(session, 0, ID(key), 32, CONTEXT, NULL, &plain_len, blob, &blob_len), CKR_ARGUMENTS_BAD);
    CHECK_RV(kms->KMS_GenerateDataKey(session, 0, ID(key), 32, CONTEXT, plain, &plain_len, NULL, &blob_len), CKR_ARGUMENTS_BAD);
    CHECK_RV(kms->KMS_GenerateDataKey(session, 0, ID(key), 32, CONTEXT, plain, NULL, blob, &blob_len), CKR_ARGUMENTS_BAD);
    static const CK_ULONG bad[] = {0, 1025, ~0UL};
    for (size_t i = 0; i < COUNT(bad); i++)
        CHECK_RV(kms->KMS_GenerateDataKey(session, 0, ID(key), bad[i], CONTEXT, plain, &plain_len, blob, &blob_len),
                 CKR_ARGUMENTS_BAD);
    CHECK_RV(kms->KMS_GenerateDataKey(session, KMS_DRY_RUN, ID(key), 32, CONTEXT, plain, &plain_len, blob, &blob_len),
             KMS_R_DRY_RUN);
    static const CK_ULONG good[] = {1, 16, 32, 1024};
    for (size_t i = 0; i < COUNT(good); i++) {
        plain_len = sizeof plain, blob_len = sizeof blob, out_len = sizeof out;
        OK(kms->KMS_GenerateDataKey(session, 0, ID(key), good[i], CONTEXT, plain, &plain_len, blob, &blob_len));
        OK(kms->KMS_Decrypt(session, 0, NULL, 0, CONTEXT, blob, blob_len, out, &out_len));
        CHECK(plain_len == good[i] && out_len == good[i] && !memcmp(plain, out, good[i]));
        blob_len = sizeof blob, out_len = sizeof out;
        OK(kms->KMS_GenerateDataKeyWithoutPlaintext(session, 0, ID(key), good[i], CONTEXT, blob, &blob_len));
        OK(kms->KMS_Decrypt(session, 0, NULL, 0, CONTEXT, blob, blob_len, out, &out_len));
        CHECK(out_len == good[i]);
    }

    static CK_BYTE public_[KMS_MAX_PUBLIC_KEY_LEN], private_[KMS_MAX_PRIVATE_KEY_LEN];
    CK_ULONG public_len = 0, private_len = 0;
    blob_len = 0;
#define PAIR(spec) \
    kms->KMS_GenerateDataKeyPair(session, 0, ID(key), ID(spec), CONTEXT, public_, &public_len, private_, &private_len, blob, &blob_len)
    OK(kms->KMS_GenerateDataKeyPair(session, 0, ID(key), ID("ECC_NIST_P256"), CONTEXT, NULL, &public_len, NULL, &private_len,
                                    NULL, &blob_len));
    CHECK(public_len == sizeof public_ && private_len == sizeof private_ && blob_len == LONGEST);
    private_len--;
    CHECK_RV(PAIR("ECC_NIST_P256"), CKR_BUFFER_TOO_SMALL);
    CHECK(public_len == sizeof public_ && private_len == sizeof private_ && blob_len == LONGEST);
    OK(PAIR("ECC_NIST_P256"));
    out_len = sizeof out;
    OK(kms->KMS_Decrypt(session, 0, NULL, 0, CONTEXT, blob, blob_len, out, &out_len));
    CHECK(public_len == 91 && out_len == private_len && !memcmp(out, private_, out_len));
    public_len = sizeof public_, private_len = sizeof private_, blob_len = sizeof blob;
    OK(PAIR("RSA_4096"));
    public_len = sizeof public_, private_len = sizeof private_, blob_len = sizeof blob;
    CHECK_RV(PAIR("HMAC_256"), CKR_ARGUMENTS_BAD);
    CHECK_RV(PAIR("nothing"), CKR_ARGUMENTS_BAD);
    public_len = sizeof public_, blob_len = sizeof blob, out_len = sizeof out;
    OK(kms->KMS_GenerateDataKeyPairWithoutPlaintext(session, 0, ID(key), ID("ECC_ED25519"), CONTEXT, public_, &public_len, blob,
                                                    &blob_len));
    OK(kms->KMS_Decrypt(session, 0, NULL, 0, CONTEXT, blob, blob_len, out, &out_len));
    CHECK(public_len == 44);
}

static void aliases(void) {
    char other[KMS_ID_LEN + 1], text[256];
    CK_BYTE blob[LONGEST];
    CK_ATTRIBUTE by_alias[] = {TEXT(CKA_LABEL, "alias/shop")};
    make_key(other, "{}");
    OK(ASK(KMS_CreateAlias, "{\"AliasName\":\"alias/shop\",\"TargetKeyId\":\"%s\"}", key));
    CHECK_RV(ASK(KMS_CreateAlias, "{\"AliasName\":\"alias/shop\",\"TargetKeyId\":\"%s\"}", other), KMS_R_ALREADY_EXISTS);
    CHECK_RV(ASK(KMS_CreateAlias, "{\"AliasName\":\"shop\",\"TargetKeyId\":\"%s\"}", other), KMS_R_INVALID_ALIAS_NAME);
    CHECK_RV(ASK(KMS_CreateAlias, "{\"AliasName\":\"alias/b b\",\"TargetKeyId\":\"%s\"}", other), KMS_R_INVALID_ALIAS_NAME);
    CHECK(find(session, by_alias, 1, NULL) == 1);
    opens_to(blob, seal("alias/shop", blob, "by its alias"), "by its alias");
    OK(ASK(KMS_UpdateAlias, "{\"AliasName\":\"alias/shop\",\"TargetKeyId\":\"%s\"}", other));
    snprintf(text, sizeof text, "\"KeyId\":\"%s\"", other);
    HAS(KMS_DescribeKey, "alias/shop", text);
    HAS(KMS_ListAliases, other, "alias/shop");
    CHECK(!strstr(query(kms->KMS_ListAliases, KEY_ID, key), "alias/shop"));
    OK(ASK(KMS_DeleteAlias, "{\"AliasName\":\"%s\"}", "alias/shop"));
    CHECK_RV(ASK(KMS_DeleteAlias, "{\"AliasName\":\"%s\"}", "alias/shop"), KMS_R_NOT_FOUND);
    CHECK(find(session, by_alias, 1, NULL) == 0);
}

static void rotation(void) {
    CK_BYTE first[LONGEST], second[LONGEST];
    CK_ULONG one = seal(key, first, "version one");
    OK(ASK(KMS_RotateKey, KEY_ID, key));
    HAS(KMS_DescribeKey, key, "\"KeyVersion\":2");
    HAS(KMS_ListRotations, key, "\"KeyVersion\":1");
    CK_ULONG two = seal(key, second, "version two");
    opens_to(first, one, "version one");
    opens_to(second, two, "version two");
    OK(ASK(KMS_SetRotation, "{\"KeyId\":\"%s\",\"Enabled\":true,\"RotationPeriodInDays\":90}", key));
    HAS(KMS_GetKeyRotationStatus, key, "\"KeyRotationEnabled\":true");
    CHECK_RV(ASK(KMS_SetRotation, "{\"KeyId\":\"%s\",\"Enabled\":true,\"RotationPeriodInDays\":89}", key), CKR_ARGUMENTS_BAD);
    OK(ASK(KMS_SetRotation, "{\"KeyId\":\"%s\",\"Enabled\":false}", key));
    HAS(KMS_GetKeyRotationStatus, key, "\"KeyRotationEnabled\":false");
    OK(kms->KMS_RunDue(session, 0, NULL, 0));
    OK(kms->KMS_RunDue(session, 0, ID("{}")));
    CHECK_RV(kms->KMS_RunDue(session, 0, ID("{\"a\":1}")), CKR_ARGUMENTS_BAD);
    CHECK_RV(kms->KMS_RunDue(session, KMS_DRY_RUN, ID("{}")), KMS_R_DRY_RUN);
}

static void states(void) {
    CK_BYTE blob[LONGEST];
    CK_ULONG len = seal(key, blob, "kept"), room = sizeof json;
    CK_OBJECT_HANDLE object = 0;
    CK_ATTRIBUTE by_id[] = {{CKA_ID, key, KMS_ID_LEN}};
    CK_MECHANISM envelope = {CKM_KMS_ENVELOPE, NULL, 0};
    CHECK(find(session, by_id, 1, &object) == 1);
    CHECK_RV(kms->KMS_DisableKey(session, KMS_DRY_RUN, request(KEY_ID, key), strlen((char *)request(KEY_ID, key))), KMS_R_DRY_RUN);
    HAS(KMS_DescribeKey, key, "\"KeyState\":\"Enabled\"");
    OK(ASK(KMS_DisableKey, KEY_ID, key));
    HAS(KMS_DescribeKey, key, "\"KeyState\":\"Disabled\"");
    CHECK_RV(kms->KMS_Decrypt(session, 0, NULL, 0, CONTEXT, blob, len, json, &room), KMS_R_DISABLED);
    REFUSED(p11->C_EncryptInit(session, &envelope, object));
    CHECK_RV(ASK(KMS_RotateKey, KEY_ID, key), KMS_R_DISABLED);
    OK(ASK(KMS_EnableKey, KEY_ID, key));
    opens_to(blob, len, "kept");
    OK(ASK(KMS_ScheduleKeyDeletion, "{\"KeyId\":\"%s\",\"PendingWindowInDays\":7}", key));
    HAS(KMS_DescribeKey, key, "\"DeletionDate\"");
    CHECK_RV(kms->KMS_Decrypt(session, 0, NULL, 0, CONTEXT, blob, len, json, &room), KMS_R_INVALID_STATE);
    CHECK_RV(ASK(KMS_EnableKey, KEY_ID, key), KMS_R_INVALID_STATE);
    CHECK_RV(ASK(KMS_CreateAlias, "{\"AliasName\":\"alias/late\",\"TargetKeyId\":\"%s\"}", key), KMS_R_INVALID_STATE);
    OK(ASK(KMS_CancelKeyDeletion, KEY_ID, key));
    HAS(KMS_DescribeKey, key, "\"KeyState\":\"Disabled\"");
    OK(ASK(KMS_EnableKey, KEY_ID, key));
    opens_to(blob, len, "kept");
    OK(ASK(KMS_TagKey, "{\"KeyId\":\"%s\",\"Tags\":[{\"TagKey\":\"c\",\"TagValue\":\"d\"}]}", key));
    OK(ASK(KMS_UntagKey, "{\"KeyId\":\"%s\",\"TagKeys\":[\"a\"]}", key));
    OK(ASK(KMS_UpdateKeyDescription, "{\"KeyId\":\"%s\",\"Description\":\"another\"}", key));
    HAS(KMS_DescribeKey, key, "\"another\"");
    CHECK(!strstr((char *)json, "\"TagKey\":\"a\""));
    CHECK_RV(ASK(KMS_EnableKey, KEY_ID, "00000000-0000-4000-8000-000000000000"), KMS_R_NOT_FOUND);
    CHECK_RV(ASK(KMS_EnableKey, "{\"KeyId\":7%s}", ""), CKR_ARGUMENTS_BAD);
    CHECK_RV(ASK(KMS_EnableKey, "{}%s", ""), CKR_ARGUMENTS_BAD);
}

/* The material is wrapped with the standard's functions: the wrapping key is RSA_2048, whose modulus has its
 * place in the SubjectPublicKeyInfo. */
static void import(void) {
    char external[KMS_ID_LEN + 1], other[KMS_ID_LEN + 1];
    static CK_BYTE public_[KMS_MAX_PUBLIC_KEY_LEN], token[KMS_MAX_IMPORT_TOKEN_LEN], blob[LONGEST];
    CK_BYTE material[32], wrapped[256];
    CK_ULONG public_len = 0, token_len = 0, until = 0, wrapped_len = sizeof wrapped, len;
    make_key(external, "{\"Origin\":\"EXTERNAL\"}");
    make_key(other, "{\"Origin\":\"EXTERNAL\"}");
    HAS(KMS_DescribeKey, external, "\"KeyState\":\"PendingImport\"");
#define PARAMETERS(id, algorithm, public_at, token_at)                                                                       \
    kms->KMS_GetParametersForImport(session, 0, ID(id), ID(algorithm), ID("RSA_2048"), public_at, &public_len, token_at, &token_len, \
                                    &until)
    OK(PARAMETERS(external, "RSAES_OAEP_SHA_256", NULL, NULL));
    CHECK(public_len == sizeof public_ && token_len == sizeof token && until == 0);
    token_len--;
    CHECK_RV(PARAMETERS(external, "RSAES_OAEP_SHA_256", public_, token), CKR_BUFFER_TOO_SMALL);
    CHECK(public_len == sizeof public_ && token_len == sizeof token);
    CHECK_RV(PARAMETERS(external, "RSAES_OAEP_SHA_256", NULL, token), CKR_ARGUMENTS_BAD);
    CHECK_RV(PARAMETERS(external, "RSAES_PKCS1_V1_5", public_, token), CKR_ARGUMENTS_BAD);
    CHECK_RV(PARAMETERS(key, "RSAES_OAEP_SHA_256", public_, token), KMS_R_UNSUPPORTED);
    if (!OK(PARAMETERS(external, "RSAES_OAEP_SHA_256", public_, token)) || !CHECK(public_len == 294)) return;
    time_t now = time(NULL);
    CHECK(until > (CK_ULONG)now + 86000 && until <= (CK_ULONG)now + 86400);

    CK_BYTE exponent[] = {1, 0, 1};
    CK_ATTRIBUTE wrapping[] = {NUMBER(CKA_CLASS, CKO_PUBLIC_KEY), NUMBER(CKA_KEY_TYPE, CKK_RSA), {CKA_MODULUS, public_ + 33, 256},
                               BYTES(CKA_PUBLIC_EXPONENT, exponent), YES(CKA_ENCRYPT), NO(CKA_TOKEN)};
    CK_RSA_PKCS_OAEP_PARAMS oaep = {CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED, NULL, 0};
    CK_MECHANISM rsa = {CKM_RSA_PKCS_OAEP, &oaep, sizeof oaep};
    CK_OBJECT_HANDLE handle;
    memset(material, 7, sizeof material);
    OK(p11->C_CreateObject(session, wrapping, COUNT(wrapping), &handle));
    OK(p11->C_EncryptInit(session, &rsa, handle));
    OK(p11->C_Encrypt(session, material, sizeof material, wrapped, &wrapped_len));

#define IMPORT(id, valid) kms->KMS_ImportKeyMaterial(session, 0, ID(id), token, token_len, wrapped, wrapped_len, valid)
    len = sizeof blob;
    CHECK_RV(kms->KMS_Encrypt(session, 0, ID(external), NO_CONTEXT, ID("a"), blob, &len), KMS_R_INVALID_STATE);
    CHECK_RV(IMPORT(other, 0), KMS_R_INVALID_IMPORT_TOKEN);
    CHECK_RV(IMPORT(external, (CK_ULONG)now - 1), CKR_ARGUMENTS_BAD);
    CHECK_RV(IMPORT(external, (CK_ULONG)now + 366 * 86400), CKR_ARGUMENTS_BAD);
    wrapped[9] ^= 1;
    CHECK_RV(IMPORT(external, 0), KMS_R_INVALID_CIPHERTEXT);
    wrapped[9] ^= 1;
    token[token_len / 2] ^= 1;
    CHECK_RV(IMPORT(external, 0), KMS_R_INVALID_IMPORT_TOKEN);
    token[token_len / 2] ^= 1;
    CHECK_RV(kms->KMS_ImportKeyMaterial(session, 0, ID(external), NULL, 0, wrapped, wrapped_len, 0), KMS_R_INVALID_IMPORT_TOKEN);
    CHECK_RV(kms->KMS_ImportKeyMaterial(session, 0, ID(external), token, token_len, NULL, 0, 0), KMS_R_INVALID_CIPHERTEXT);
    CHECK_RV(kms->KMS_ImportKeyMaterial(session, KMS_DRY_RUN, ID(external), token, token_len, wrapped, wrapped_len, 0),
             KMS_R_DRY_RUN);
    HAS(KMS_DescribeKey, external, "\"KeyState\":\"PendingImport\"");
    OK(IMPORT(external, (CK_ULONG)now + 86400));
    HAS(KMS_DescribeKey, external, "\"KEY_MATERIAL_EXPIRES\"");
    len = seal(external, blob, "brought along");
    OK(ASK(KMS_DeleteImportedKeyMaterial, KEY_ID, external));
    HAS(KMS_DescribeKey, external, "\"KeyState\":\"PendingImport\"");
    OK(IMPORT(external, 0));
    opens_to(blob, len, "brought along");
    CHECK_RV(ASK(KMS_RotateKey, KEY_ID, external), KMS_R_UNSUPPORTED);
}

/* NULL and impossible lengths, in each argument of each shape. */
static void arguments(void) {
    CK_BYTE out[LONGEST];
    CK_ULONG len = sizeof out, big = ~0UL, huge = (16 << 20) + 1;
    const KMS_CHANGE *changes = &kms->KMS_EnableKey;
    for (int i = 0; i < 17; i++) {
        CHECK_RV(changes[i](session, 0, NULL, 1), CKR_ARGUMENTS_BAD);
        CHECK_RV(changes[i](session, 0, out, big), CKR_ARGUMENTS_BAD);
        CHECK_RV(changes[i](session, 0, out, huge), CKR_ARGUMENTS_BAD);
        CHECK_RV(changes[i](session, 2, ID("{}")), CKR_ARGUMENTS_BAD);
        CHECK_RV(changes[i](session, 0, ID("[")), CKR_ARGUMENTS_BAD);
        CHECK_RV(changes[i](session + 1000, 0, ID("{\"KeyId\":\"a\",\"AliasName\":\"alias/a\"}")), i == 16 ? CKR_ARGUMENTS_BAD : CKR_SESSION_HANDLE_INVALID);
    }
    const KMS_CREATION creations[] = {kms->KMS_CreateKey, kms->KMS_CreateGrant};
    for (int i = 0; i < 2; i++) {
        CHECK_RV(creations[i](session, 0, ID("{}"), out, NULL), CKR_ARGUMENTS_BAD);
        CHECK_RV(creations[i](session, 0, ID("{}"), out, &big), CKR_ARGUMENTS_BAD);
        CHECK_RV(creations[i](session, 0, NULL, 9, out, &len), CKR_ARGUMENTS_BAD);
        big = ~0UL;
    }
    const KMS_QUERY *queries = &kms->KMS_DescribeKey;
    for (int i = 0; i < 8; i++) {
        CHECK_RV(queries[i](session, ID("{}"), out, NULL), CKR_ARGUMENTS_BAD);
        CHECK_RV(queries[i](session, NULL, 9, out, &len), CKR_ARGUMENTS_BAD);
        CHECK_RV(queries[i](session, ID("{"), out, &len), CKR_ARGUMENTS_BAD);
        CHECK_RV(queries[i](session, out, huge, out, &len), CKR_ARGUMENTS_BAD);
    }
#define BAD(call) CHECK_RV(call, CKR_ARGUMENTS_BAD)
    BAD(kms->KMS_Encrypt(session, 0, NULL, 1, NO_CONTEXT, ID("a"), out, &len));
    BAD(kms->KMS_Encrypt(session, 0, ID(key), NULL, 1, ID("a"), out, &len));
    BAD(kms->KMS_Encrypt(session, 0, ID(key), NO_CONTEXT, NULL, 1, out, &len));
    BAD(kms->KMS_Encrypt(session, 0, ID(key), NO_CONTEXT, ID("a"), out, NULL));
    BAD(kms->KMS_Encrypt(session, 4, ID(key), NO_CONTEXT, ID("a"), out, &len));
    BAD(kms->KMS_Encrypt(session, 0, ID("\xff"), NO_CONTEXT, ID("a"), out, &len));
    BAD(kms->KMS_Encrypt(session, 0, ID(key), ID("{\"a\":\"b\",\"a\":\"c\"}"), ID("a"), out, &len));
    BAD(kms->KMS_Decrypt(session, 0, NULL, 1, NO_CONTEXT, ID("a"), out, &len));
    BAD(kms->KMS_Decrypt(session, 0, NULL, 0, NO_CONTEXT, NULL, 1, out, &len));
    BAD(kms->KMS_Decrypt(session, 0, NULL, 0, NO_CONTEXT, out, huge, out, &len));
    BAD(kms->KMS_ReEncrypt(session, 0, NO_CONTEXT, NULL, 1, ID(key), NO_CONTEXT, out, &len));
    BAD(kms->KMS_ReEncrypt(session, 0, NO_CONTEXT, out, big, ID(key), NO_CONTEXT, out, &len));
    BAD(kms->KMS_GenerateDataKeyWithoutPlaintext(session, 0, ID(key), 32, NO_CONTEXT, out, NULL));
    BAD(kms->KMS_GenerateDataKeyWithoutPlaintext(session, 0, NULL, 1, 32, NO_CONTEXT, out, &len));
    BAD(kms->KMS_GenerateDataKeyPairWithoutPlaintext(session, 0, ID(key), NULL, 1, NO_CONTEXT, out, &len, out, &len));
    BAD(kms->KMS_GetParametersForImport(session, 0, ID(key), ID("RSAES_OAEP_SHA_1"), ID("RSA_2048"), out, &len, out, &len, NULL));
    BAD(kms->KMS_ImportKeyMaterial(session, 0, ID(key), NULL, 1, ID("a"), 0));
    BAD(kms->KMS_ImportKeyMaterial(session, 0, ID(key), ID("a"), NULL, 1, 0));
}

static volatile int done;

static void *use(void *arg) {
    CK_SESSION_HANDLE own = open_session(test_slot);
    CK_BYTE blob[LONGEST], plain[64], data[64];
    memset(data, (int)(long)arg + 1, sizeof data);
    for (int i = 0; i < 100 && !checks_failed; i++) {
        CK_ULONG len = sizeof blob, got = sizeof plain;
        OK(kms->KMS_Encrypt(own, 0, ID(key), CONTEXT, data, sizeof data, blob, &len));
        OK(kms->KMS_Decrypt(own, 0, NULL, 0, CONTEXT, blob, len, plain, &got));
        CHECK(got == sizeof data && !memcmp(plain, data, got));
        len = sizeof blob, got = sizeof plain;
        OK(kms->KMS_GenerateDataKey(own, 0, ID(key), 32, NO_CONTEXT, plain, &got, blob, &len));
    }
    OK(p11->C_CloseSession(own));
    return NULL;
}

static void *rotate(void *arg) {
    (void)arg;
    for (int i = 0; !done && i < 50; i++) OK(ASK(KMS_RotateKey, KEY_ID, key));
    return NULL;
}

static void threads(void) {
    pthread_t users[4], rotating;
    for (long i = 0; i < 4; i++) pthread_create(&users[i], NULL, use, (void *)i);
    pthread_create(&rotating, NULL, rotate, NULL);
    for (int i = 0; i < 4; i++) pthread_join(users[i], NULL);
    done = 1;
    pthread_join(rotating, NULL);
}

int main(int argc, char **argv) {
    start(argc, argv);
    session = user_session();
    RUN(interface);
    RUN(logged_out);
    RUN(creation);
    RUN(envelopes);
    RUN(data_keys);
    RUN(aliases);
    RUN(rotation);
    RUN(states);
    RUN(import);
    RUN(arguments);
    RUN(threads);
    OK(p11->C_Finalize(NULL));
    return finish();
}
