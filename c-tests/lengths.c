/* The length convention of every function with output (PKCS#11 3.2 section 5.2): NULL asks for the
 * size, a buffer too small gets CKR_BUFFER_TOO_SMALL, the size that is needed, and nothing else
 * changes; the exact size is enough; nothing is written behind it. */
#include "harness.h"

#define GUARD 0xc7
#define ROOM 4096

static CK_SESSION_HANDLE session;
static CK_OBJECT_HANDLE aes, hmac, rsa_public, rsa_private, ec_public, ec_private, kek;
static CK_BYTE data[256], sealed[512];
static CK_ULONG sealed_len;

/* One function with its input fixed: only the output varies. `begin` (re)starts the operation. */
typedef CK_RV (*output_call)(CK_BYTE *out, CK_ULONG *len);
typedef void (*begin_call)(void);

/* `exact`: the answer to NULL is the true length and not just enough. */
static void convention(const char *name, begin_call begin, output_call call, int exact) {
    static CK_BYTE buffer[ROOM];
    CK_ULONG asked = 0, given, want;
    int before = checks_failed;
    if (begin) begin();
    OK(call(NULL, &asked));
    CHECK(asked < ROOM);
    given = 0;
    if (asked) {
        /* Twice: the operation goes on after each. */
        CHECK_RV(call(buffer, &given), CKR_BUFFER_TOO_SMALL);
        CHECK(exact ? given == asked : given > 0 && given <= asked);
        if (exact) {
            memset(buffer, GUARD, sizeof buffer);
            given = asked - 1;
            CHECK_RV(call(buffer, &given), CKR_BUFFER_TOO_SMALL);
            CHECK(given == asked);
            for (CK_ULONG i = asked - 1; i < asked + 64; i++) CHECK(buffer[i] == GUARD);
        }
    }
    memset(buffer, GUARD, sizeof buffer);
    given = want = asked;
    OK(call(buffer, &given));
    CHECK(exact ? given == want : given <= want);
    for (CK_ULONG i = given; i < given + 64; i++) CHECK(buffer[i] == GUARD);
    if (checks_failed != before) fprintf(stderr, "  in %s\n", name);
}

static CK_BYTE iv[16];
static CK_GCM_PARAMS gcm_params = {iv, 12, 96, NULL, 0, 128};
static CK_MECHANISM cbc_pad = {CKM_AES_CBC_PAD, iv, 16}, cbc = {CKM_AES_CBC, iv, 16}, sha = {CKM_SHA512, NULL, 0},
                    hmac_sha = {CKM_SHA256_HMAC, NULL, 0}, rsa = {CKM_RSA_PKCS, NULL, 0},
                    rsa_sha = {CKM_SHA256_RSA_PKCS, NULL, 0}, ecdsa = {CKM_ECDSA, NULL, 0},
                    gcm = {CKM_AES_GCM, &gcm_params, sizeof gcm_params}, kw = {CKM_AES_KEY_WRAP, NULL, 0},
                    ecb = {CKM_AES_ECB, NULL, 0};

static void seal(CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key, CK_ULONG size) {
    sealed_len = sizeof sealed;
    OK(p11->C_EncryptInit(session, mechanism, key));
    OK(p11->C_Encrypt(session, data, size, sealed, &sealed_len));
}

#define BEGIN(name, call) \
    static void name(void) { OK(call); }
#define OUTPUT(name, call) \
    static CK_RV name(CK_BYTE *out, CK_ULONG *len) { return call; }

BEGIN(begin_encrypt_cbc, p11->C_EncryptInit(session, &cbc_pad, aes))
BEGIN(begin_encrypt_gcm, p11->C_EncryptInit(session, &gcm, aes))
BEGIN(begin_encrypt_rsa, p11->C_EncryptInit(session, &rsa, rsa_public))
BEGIN(begin_decrypt_cbc, p11->C_DecryptInit(session, &cbc_pad, aes))
BEGIN(begin_decrypt_gcm, p11->C_DecryptInit(session, &gcm, aes))
BEGIN(begin_decrypt_rsa, p11->C_DecryptInit(session, &rsa, rsa_private))
BEGIN(begin_digest, p11->C_DigestInit(session, &sha))
BEGIN(begin_hmac, p11->C_SignInit(session, &hmac_sha, hmac))
BEGIN(begin_rsa, p11->C_SignInit(session, &rsa_sha, rsa_private))
BEGIN(begin_ecdsa, p11->C_SignInit(session, &ecdsa, ec_private))
BEGIN(begin_sign_recover, p11->C_SignRecoverInit(session, &rsa, rsa_private))
BEGIN(begin_verify_recover, p11->C_VerifyRecoverInit(session, &rsa, rsa_public))
OUTPUT(encrypt_50, p11->C_Encrypt(session, data, 50, out, len))
OUTPUT(encrypt_update_50, p11->C_EncryptUpdate(session, data, 50, out, len))
OUTPUT(encrypt_final, p11->C_EncryptFinal(session, out, len))
OUTPUT(decrypt, p11->C_Decrypt(session, sealed, sealed_len, out, len))
OUTPUT(decrypt_update, p11->C_DecryptUpdate(session, sealed, 48, out, len))
OUTPUT(decrypt_final, p11->C_DecryptFinal(session, out, len))
OUTPUT(digest, p11->C_Digest(session, data, 50, out, len))
OUTPUT(digest_final, p11->C_DigestFinal(session, out, len))
OUTPUT(sign_32, p11->C_Sign(session, data, 32, out, len))
OUTPUT(sign_final, p11->C_SignFinal(session, out, len))
OUTPUT(sign_recover, p11->C_SignRecover(session, data, 32, out, len))
OUTPUT(verify_recover, p11->C_VerifyRecover(session, sealed, sealed_len, out, len))
OUTPUT(wrap, p11->C_WrapKey(session, &kw, kek, aes, out, len))
OUTPUT(operation_state, p11->C_GetOperationState(session, out, len))
OUTPUT(digest_encrypt, p11->C_DigestEncryptUpdate(session, data, 32, out, len))
OUTPUT(sign_encrypt, p11->C_SignEncryptUpdate(session, data, 32, out, len))
OUTPUT(decrypt_digest, p11->C_DecryptDigestUpdate(session, sealed, 48, out, len))
OUTPUT(decrypt_verify, p11->C_DecryptVerifyUpdate(session, sealed, 48, out, len))

static void encryption(void) {
    convention("C_Encrypt CBC_PAD", begin_encrypt_cbc, encrypt_50, 1);
    convention("C_Encrypt GCM", begin_encrypt_gcm, encrypt_50, 1);
    convention("C_Encrypt RSA", begin_encrypt_rsa, encrypt_50, 1);
    convention("C_EncryptUpdate CBC_PAD", begin_encrypt_cbc, encrypt_update_50, 1);
    convention("C_EncryptFinal CBC_PAD", NULL, encrypt_final, 1);
    convention("C_EncryptUpdate GCM", begin_encrypt_gcm, encrypt_update_50, 1);
    convention("C_EncryptFinal GCM", NULL, encrypt_final, 1);
    convention("C_EncryptFinal CBC_PAD of nothing", begin_encrypt_cbc, encrypt_final, 1);
    convention("C_EncryptFinal GCM of nothing", begin_encrypt_gcm, encrypt_final, 1);
}

static void decryption(void) {
    seal(&gcm, aes, 100);
    convention("C_Decrypt GCM", begin_decrypt_gcm, decrypt, 1);
    seal(&cbc_pad, aes, 100);
    /* How much padding there is shows only at the end. */
    convention("C_Decrypt CBC_PAD", begin_decrypt_cbc, decrypt, 0);
    seal(&rsa, rsa_public, 30);
    convention("C_Decrypt RSA", begin_decrypt_rsa, decrypt, 0);
    seal(&cbc_pad, aes, 40);
    convention("C_DecryptUpdate CBC_PAD", begin_decrypt_cbc, decrypt_update, 1);
    convention("C_DecryptFinal CBC_PAD", NULL, decrypt_final, 0);
    seal(&gcm, aes, 32);
    OK(p11->C_DecryptInit(session, &gcm, aes));
    CK_ULONG n = 0;
    OK(p11->C_DecryptUpdate(session, sealed, sealed_len, data + 128, &n));
    CHECK(n == 0);
    convention("C_DecryptFinal GCM", NULL, decrypt_final, 1);
}

/* A retry after CKR_BUFFER_TOO_SMALL gives the right bytes, not those of a half-run operation. */
static void retried_bytes(void) {
    CK_BYTE first[64], again[64];
    CK_ULONG len = sizeof first, small = 3;
    OK(p11->C_EncryptInit(session, &cbc_pad, aes));
    OK(p11->C_Encrypt(session, data, 50, first, &len));
    OK(p11->C_EncryptInit(session, &cbc_pad, aes));
    CHECK_RV(p11->C_Encrypt(session, data, 50, again, &small), CKR_BUFFER_TOO_SMALL);
    CHECK(small == len);
    OK(p11->C_Encrypt(session, data, 50, again, &small));
    CHECK(small == len && !memcmp(first, again, len));
    OK(p11->C_EncryptInit(session, &cbc_pad, aes));
    CK_ULONG part = 5, total;
    CHECK_RV(p11->C_EncryptUpdate(session, data, 50, again, &part), CKR_BUFFER_TOO_SMALL);
    OK(p11->C_EncryptUpdate(session, data, 50, again, &part));
    total = part;
    part = sizeof again - total;
    OK(p11->C_EncryptFinal(session, again + total, &part));
    CHECK(total + part == len && !memcmp(first, again, len));
}

static void digests(void) {
    convention("C_Digest", begin_digest, digest, 1);
    convention("C_DigestFinal", begin_digest, digest_final, 1);
}

static void signatures(void) {
    convention("C_Sign HMAC", begin_hmac, sign_32, 1);
    convention("C_SignFinal HMAC", begin_hmac, sign_final, 1);
    convention("C_Sign RSA", begin_rsa, sign_32, 1);
    convention("C_SignFinal RSA", begin_rsa, sign_final, 1);
    convention("C_Sign ECDSA", begin_ecdsa, sign_32, 1);
    convention("C_SignRecover RSA", begin_sign_recover, sign_recover, 1);
    sealed_len = sizeof sealed;
    OK(p11->C_SignRecoverInit(session, &rsa, rsa_private));
    OK(p11->C_SignRecover(session, data, 32, sealed, &sealed_len));
    convention("C_VerifyRecover RSA", begin_verify_recover, verify_recover, 0);
}

static void wrapping(void) { convention("C_WrapKey", NULL, wrap, 1); }

static void states(void) {
    CK_ULONG len = 0;
    begin_digest();
    OK(p11->C_DigestUpdate(session, data, 50));
    CK_RV rv = p11->C_GetOperationState(session, NULL, &len);
    /* Where it cannot be honest it says so. */
    if (CHECK_RV_IN(rv, CKR_OK, CKR_STATE_UNSAVEABLE, CKR_FUNCTION_NOT_SUPPORTED) && rv == CKR_OK)
        convention("C_GetOperationState", NULL, operation_state, 1);
    (void)p11->C_DigestInit(session, NULL);
}

static void dual(void) {
    CK_BYTE rest[64];
    CK_ULONG len = sizeof rest;
    begin_digest();
    begin_encrypt_cbc();
    convention("C_DigestEncryptUpdate", NULL, digest_encrypt, 1);
    OK(p11->C_EncryptFinal(session, rest, &len));
    len = sizeof rest;
    OK(p11->C_DigestFinal(session, rest, &len));
    /* The refused calls left the digest as it was. */
    CK_BYTE alone[64];
    CK_ULONG alone_len = sizeof alone;
    begin_digest();
    OK(p11->C_Digest(session, data, 32, alone, &alone_len));
    CHECK(!memcmp(alone, rest, 64));
    begin_hmac();
    begin_encrypt_cbc();
    convention("C_SignEncryptUpdate", NULL, sign_encrypt, 1);
    len = sizeof rest;
    OK(p11->C_EncryptFinal(session, rest, &len));
    len = sizeof rest;
    OK(p11->C_SignFinal(session, rest, &len));
    seal(&cbc_pad, aes, 40);
    begin_digest();
    begin_decrypt_cbc();
    convention("C_DecryptDigestUpdate", NULL, decrypt_digest, 1);
    len = sizeof rest;
    OK(p11->C_DecryptFinal(session, rest, &len));
    len = sizeof rest;
    OK(p11->C_DigestFinal(session, rest, &len));
    OK(p11->C_VerifyInit(session, &hmac_sha, hmac));
    begin_decrypt_cbc();
    convention("C_DecryptVerifyUpdate", NULL, decrypt_verify, 1);
    len = sizeof rest;
    OK(p11->C_DecryptFinal(session, rest, &len));
    CHECK_RV(p11->C_VerifyFinal(session, rest, 32), CKR_SIGNATURE_INVALID);
}

static void attributes(void) {
    CK_BYTE value[64];
    CK_ATTRIBUTE id[] = {BYTES(CKA_ID, "0123456789")};
    OK(p11->C_SetAttributeValue(session, aes, id, 1));
    CK_ATTRIBUTE read = {CKA_ID, NULL, 0};
    OK(p11->C_GetAttributeValue(session, aes, &read, 1));
    CHECK(read.ulValueLen == 11);
    memset(value, GUARD, sizeof value);
    read = (CK_ATTRIBUTE){CKA_ID, value, 10};
    CHECK_RV(p11->C_GetAttributeValue(session, aes, &read, 1), CKR_BUFFER_TOO_SMALL);
    CHECK(read.ulValueLen == CK_UNAVAILABLE_INFORMATION);
    CHECK(value[10] == GUARD);
    read = (CK_ATTRIBUTE){CKA_ID, value, 11};
    OK(p11->C_GetAttributeValue(session, aes, &read, 1));
    CHECK(read.ulValueLen == 11 && value[11] == GUARD && !memcmp(value, "0123456789", 11));
}

static void lists(void) {
    CK_ULONG n = 0, few;
    CK_SLOT_ID slots[64];
    OK(p11->C_GetSlotList(CK_FALSE, NULL, &n));
    CHECK(n >= 1 && n < 60);
    memset(slots, GUARD, sizeof slots);
    few = n - 1;
    CHECK_RV(p11->C_GetSlotList(CK_FALSE, slots, &few), CKR_BUFFER_TOO_SMALL);
    CHECK(few == n);
    OK(p11->C_GetSlotList(CK_FALSE, slots, &n));
    CHECK(((CK_BYTE *)&slots[n])[0] == GUARD);
}

/* An operation that failed is over; one whose buffer was too small is not. */
static void what_ends_an_operation(void) {
    CK_BYTE out[64];
    CK_ULONG len = sizeof out;
    OK(p11->C_EncryptInit(session, &cbc, aes));
    CHECK_RV(p11->C_Encrypt(session, data, 15, out, &len), CKR_DATA_LEN_RANGE);
    CHECK_RV(p11->C_Encrypt(session, data, 16, out, &len), CKR_OPERATION_NOT_INITIALIZED);
    OK(p11->C_DecryptInit(session, &ecb, aes));
    CHECK_RV_IN(p11->C_Decrypt(session, data, 15, out, &len), CKR_ENCRYPTED_DATA_LEN_RANGE,
                CKR_ENCRYPTED_DATA_INVALID);
    CHECK_RV(p11->C_Decrypt(session, data, 16, out, &len), CKR_OPERATION_NOT_INITIALIZED);
    begin_hmac();
    len = 1;
    CHECK_RV(p11->C_Sign(session, data, 5, out, &len), CKR_BUFFER_TOO_SMALL);
    CHECK(len == 32);
    OK(p11->C_Sign(session, data, 5, out, &len));
    CHECK_RV(p11->C_Sign(session, data, 5, out, &len), CKR_OPERATION_NOT_INITIALIZED);
    OK(p11->C_VerifyInit(session, &hmac_sha, hmac));
    CHECK_RV(p11->C_Verify(session, data, 6, out, 32), CKR_SIGNATURE_INVALID);
    CHECK_RV(p11->C_Verify(session, data, 5, out, 32), CKR_OPERATION_NOT_INITIALIZED);
}

int main(int argc, char **argv) {
    CK_MECHANISM generic = {CKM_GENERIC_SECRET_KEY_GEN, NULL, 0};
    CK_ATTRIBUTE secret[] = {NUMBER(CKA_VALUE_LEN, 32), YES(CKA_SIGN), YES(CKA_VERIFY), NO(CKA_TOKEN)};
    CK_ATTRIBUTE pub[] = {YES(CKA_VERIFY_RECOVER), YES(CKA_ENCRYPT), YES(CKA_VERIFY)};
    CK_ATTRIBUTE priv[] = {YES(CKA_SIGN_RECOVER), YES(CKA_DECRYPT), YES(CKA_SIGN)};
    start(argc, argv);
    session = user_session();
    memset(data, 'd', sizeof data);
    OK(AES(session, 32, &aes, YES(CKA_ENCRYPT), YES(CKA_DECRYPT), YES(CKA_EXTRACTABLE)));
    OK(AES(session, 32, &kek, YES(CKA_WRAP), YES(CKA_UNWRAP), NO(CKA_ENCRYPT), NO(CKA_DECRYPT)));
    OK(p11->C_GenerateKey(session, &generic, secret, COUNT(secret), &hmac));
    OK(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, pub, COUNT(pub), priv, COUNT(priv), &rsa_public,
                     &rsa_private));
    OK(generate_pair(session, CKM_EC_KEY_PAIR_GEN, NULL, 0, NULL, 0, &ec_public, &ec_private));
    RUN(encryption);
    RUN(decryption);
    RUN(retried_bytes);
    RUN(digests);
    RUN(signatures);
    RUN(wrapping);
    RUN(states);
    RUN(dual);
    RUN(attributes);
    RUN(lists);
    RUN(what_ends_an_operation);
    OK(p11->C_Finalize(NULL));
    return finish();
}
