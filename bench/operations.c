/* The table of benchmarks, and what each does. */
#include "bench.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static uint64_t next_random(struct worker *w) {
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random;
}

static CK_RV session(struct worker *w) {
    CK_SESSION_HANDLE s;
    CK_RV rv = p11->C_OpenSession(w->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &s);
    return rv == CKR_OK ? p11->C_CloseSession(s) : rv;
}

static CK_RV random_bytes(struct worker *w) { return p11->C_GenerateRandom(w->session, w->output, w->bench->size); }

static CK_RV digest(struct worker *w) {
    CK_MECHANISM mechanism = {w->bench->mechanism, NULL, 0};
    CK_ULONG length = 64;
    CK_RV rv = p11->C_DigestInit(w->session, &mechanism);
    return rv == CKR_OK ? p11->C_Digest(w->session, w->input, w->bench->size, w->output, &length) : rv;
}

/* Fills `space` with the mechanism's parameter; a fresh counter IV for each operation. */
struct iv_space {
    unsigned char iv[16];
    CK_GCM_PARAMS gcm;
};

static CK_MECHANISM cipher_mechanism(struct worker *w, struct iv_space *space) {
    memset(space, 0, sizeof *space);
    w->counter++;
    memcpy(space->iv, &w->counter, 8);
    space->iv[11] = (unsigned char)(w->index + 1);
    if (w->bench->mechanism != CKM_AES_GCM) return (CK_MECHANISM){w->bench->mechanism, space->iv, 16};
    space->gcm.pIv = space->iv;
    space->gcm.ulIvLen = 12;
    space->gcm.ulIvBits = 96;
    space->gcm.ulTagBits = 128;
    return (CK_MECHANISM){CKM_AES_GCM, &space->gcm, sizeof space->gcm};
}

static CK_RV encrypt(struct worker *w) {
    struct iv_space space;
    CK_MECHANISM mechanism = cipher_mechanism(w, &space);
    CK_ULONG length = BUFFER_SIZE;
    CK_RV rv = p11->C_EncryptInit(w->session, &mechanism, w->keys->private_key);
    return rv == CKR_OK ? p11->C_Encrypt(w->session, w->input, w->bench->size, w->output, &length) : rv;
}

/* Decrypts the same ciphertext over and over: encrypt it under the IV that decrypt() uses. */
static CK_RV prepare_decrypt(struct worker *w) {
    w->counter = 0;
    CK_RV rv = encrypt(w);
    if (rv == CKR_OK) memcpy(w->input, w->output, w->bench->size + 16);
    return rv;
}

static CK_RV decrypt(struct worker *w) {
    struct iv_space space;
    w->counter = 0;
    CK_MECHANISM mechanism = cipher_mechanism(w, &space);
    CK_ULONG length = BUFFER_SIZE;
    CK_ULONG tag = w->bench->mechanism == CKM_AES_GCM ? 16 : 0;
    CK_RV rv = p11->C_DecryptInit(w->session, &mechanism, w->keys->private_key);
    return rv == CKR_OK ? p11->C_Decrypt(w->session, w->input, w->bench->size + tag, w->output, &length) : rv;
}

static CK_RV sign(struct worker *w) {
    CK_MECHANISM mechanism = {w->bench->mechanism, NULL, 0};
    w->signature_len = sizeof w->signature;
    CK_RV rv = p11->C_SignInit(w->session, &mechanism, w->keys->private_key);
    return rv == CKR_OK ? p11->C_Sign(w->session, w->input, w->bench->size, w->signature, &w->signature_len) : rv;
}

/* CKM_RSA_PKCS, which every token has, over the DigestInfo of a SHA-256 digest. */
static CK_RV prepare_rsa(struct worker *w) {
    static const unsigned char header[] = {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
                                           0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20};
    memcpy(w->input, header, sizeof header);
    return sign(w);
}

static CK_RV verify(struct worker *w) {
    CK_MECHANISM mechanism = {w->bench->mechanism, NULL, 0};
    CK_RV rv = p11->C_VerifyInit(w->session, &mechanism, w->keys->public_key);
    return rv == CKR_OK ? p11->C_Verify(w->session, w->input, w->bench->size, w->signature, w->signature_len) : rv;
}

static CK_OBJECT_CLASS secret_class = CKO_SECRET_KEY;
static CK_KEY_TYPE aes_type = CKK_AES, generic_type = CKK_GENERIC_SECRET;
static CK_ULONG length_32 = 32;
static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;

static CK_RV agree(struct worker *w) {
    CK_ECDH1_DERIVE_PARAMS parameters;
    memset(&parameters, 0, sizeof parameters);
    parameters.kdf = CKD_NULL;
    parameters.pPublicData = (unsigned char *)(uintptr_t)w->keys->point;
    parameters.ulPublicDataLen = w->keys->point_len;
    CK_MECHANISM mechanism = {CKM_ECDH1_DERIVE, &parameters, sizeof parameters};
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &secret_class, sizeof secret_class},
        {CKA_KEY_TYPE, &generic_type, sizeof generic_type},
        {CKA_VALUE_LEN, &length_32, sizeof length_32},
        {CKA_TOKEN, &no, 1},
        {CKA_DERIVE, &yes, 1},
    };
    return p11->C_DeriveKey(w->session, &mechanism, w->keys->private_key, template, LENGTH(template), &w->object);
}

static CK_RV generate(struct worker *w) { return generate_secret(w->session, FIXTURE_AES, w->bench->token, &w->object); }

/* `size` names the kind of key. */
static CK_RV pair(struct worker *w) {
    return generate_pair(w->session, (enum fixture)w->bench->size, w->bench->token, "new", &w->object2, &w->object);
}

static CK_RV destroy(struct worker *w) { return p11->C_DestroyObject(w->session, w->object); }

static CK_RV destroy_both(struct worker *w) {
    CK_RV rv = p11->C_DestroyObject(w->session, w->object);
    CK_RV second = p11->C_DestroyObject(w->session, w->object2);
    return rv == CKR_OK ? second : rv;
}

static CK_RV create(struct worker *w) {
    char label[40];
    unsigned char id[20];
    uint64_t unique = w->counter++;
    snprintf(label, sizeof label, "new-%ld-%u-%llu", (long)getpid(), w->index, (unsigned long long)unique);
    nth_id((unsigned long)next_random(w), id);
    return create_secret(w->session, w->bench->token, label, id, sizeof id, &w->object);
}

static CK_RV wrap(struct worker *w) {
    CK_MECHANISM mechanism = {w->bench->mechanism, NULL, 0};
    w->signature_len = sizeof w->signature;
    return p11->C_WrapKey(w->session, &mechanism, w->keys->private_key, w->other->private_key, w->signature,
                          &w->signature_len);
}

static CK_RV unwrap(struct worker *w) {
    CK_MECHANISM mechanism = {w->bench->mechanism, NULL, 0};
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &secret_class, sizeof secret_class},
        {CKA_KEY_TYPE, &aes_type, sizeof aes_type},
        {CKA_TOKEN, &no, 1},
        {CKA_ENCRYPT, &yes, 1},
        {CKA_DECRYPT, &yes, 1},
    };
    return p11->C_UnwrapKey(w->session, &mechanism, w->keys->private_key, w->signature, w->signature_len, template,
                            LENGTH(template), &w->object);
}

static CK_RV attributes(struct worker *w) {
    CK_KEY_TYPE type;
    CK_OBJECT_CLASS class;
    unsigned char label[64];
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &class, sizeof class},
        {CKA_KEY_TYPE, &type, sizeof type},
        {CKA_LABEL, label, sizeof label},
    };
    return p11->C_GetAttributeValue(w->session, w->keys->private_key, template, LENGTH(template));
}

static CK_RV find_label(struct worker *w) {
    char label[16];
    nth_label(next_random(w) % w->population, label);
    return find_one(w->session, CKO_SECRET_KEY, CKA_LABEL, label, strlen(label), &w->object);
}

static CK_RV find_id(struct worker *w) {
    unsigned char id[20];
    nth_id(next_random(w) % w->population, id);
    return find_one(w->session, CKO_SECRET_KEY, CKA_ID, id, sizeof id, &w->object);
}

#define ROW(n, f, m, s, o, ...) {.name = n, .fixture = f, .mechanism = m, .size = s, .operate = o, __VA_ARGS__}
#define SIGNATURES(n, f, m, s, p) \
    ROW(n "-sign", f, m, s, sign, .prepare = p), ROW(n "-verify", f, m, s, verify, .prepare = p)

static const struct benchmark benchmarks[] = {
    ROW("session", FIXTURE_NONE, 0, 0, session, .token = false),
    ROW("random-32", FIXTURE_NONE, 0, 32, random_bytes, .token = false),
    ROW("sha256-64", FIXTURE_NONE, CKM_SHA256, 64, digest, .token = false),
    ROW("sha256-16k", FIXTURE_NONE, CKM_SHA256, 16384, digest, .token = false),
    ROW("sha512-16k", FIXTURE_NONE, CKM_SHA512, 16384, digest, .token = false),
    ROW("aes-gcm-32", FIXTURE_AES, CKM_AES_GCM, 32, encrypt, .token = false),
    ROW("aes-gcm-4k", FIXTURE_AES, CKM_AES_GCM, 4096, encrypt, .token = false),
    ROW("aes-gcm-1m", FIXTURE_AES, CKM_AES_GCM, 1 << 20, encrypt, .token = false),
    ROW("aes-gcm-open-32", FIXTURE_AES, CKM_AES_GCM, 32, decrypt, .prepare = prepare_decrypt),
    ROW("aes-gcm-open-4k", FIXTURE_AES, CKM_AES_GCM, 4096, decrypt, .prepare = prepare_decrypt),
    ROW("aes-cbc-32", FIXTURE_AES, CKM_AES_CBC, 32, encrypt, .token = false),
    ROW("aes-cbc-4k", FIXTURE_AES, CKM_AES_CBC, 4096, encrypt, .token = false),
    ROW("hmac-64", FIXTURE_HMAC, CKM_SHA256_HMAC, 64, sign, .token = false),
    SIGNATURES("rsa2048", FIXTURE_RSA2048, CKM_RSA_PKCS, 51, prepare_rsa),
    SIGNATURES("rsa3072", FIXTURE_RSA3072, CKM_RSA_PKCS, 51, prepare_rsa),
    SIGNATURES("rsa4096", FIXTURE_RSA4096, CKM_RSA_PKCS, 51, prepare_rsa),
    SIGNATURES("p256", FIXTURE_P256, CKM_ECDSA, 32, sign),
    SIGNATURES("p384", FIXTURE_P384, CKM_ECDSA, 48, sign),
    SIGNATURES("ed25519", FIXTURE_ED25519, CKM_EDDSA, 64, sign),
    ROW("ecdh-p256", FIXTURE_ECDH_P256, 0, 0, agree, .after = destroy),
    ROW("x25519", FIXTURE_X25519, 0, 0, agree, .after = destroy),
    ROW("generate-aes", FIXTURE_NONE, 0, 0, generate, .after = destroy),
    ROW("generate-p256", FIXTURE_NONE, 0, FIXTURE_P256, pair, .after = destroy_both),
    ROW("generate-rsa2048", FIXTURE_NONE, 0, FIXTURE_RSA2048, pair, .after = destroy_both),
    ROW("generate-aes-token", FIXTURE_NONE, 0, 0, generate, .after = destroy, .token = true),
    ROW("generate-p256-token", FIXTURE_NONE, 0, FIXTURE_P256, pair, .after = destroy_both, .token = true),
    ROW("generate-rsa2048-token", FIXTURE_NONE, 0, FIXTURE_RSA2048, pair, .after = destroy_both, .token = true),
    ROW("wrap", FIXTURE_KEK, CKM_AES_KEY_WRAP, 0, wrap, .token = false),
    ROW("unwrap", FIXTURE_KEK, CKM_AES_KEY_WRAP, 0, unwrap, .prepare = wrap, .after = destroy),
    ROW("create", FIXTURE_NONE, 0, 0, create, .after = destroy),
    ROW("destroy", FIXTURE_NONE, 0, 0, destroy, .before = create),
    ROW("create-token", FIXTURE_NONE, 0, 0, create, .after = destroy, .token = true),
    ROW("destroy-token", FIXTURE_NONE, 0, 0, destroy, .before = create, .token = true),
    ROW("attributes", FIXTURE_AES, 0, 0, attributes, .token = false),
    ROW("attributes-token", FIXTURE_SIGNER, 0, 0, attributes, .token = false),
    ROW("find-label", FIXTURE_NONE, 0, 0, find_label, .token = false),
    ROW("find-id", FIXTURE_NONE, 0, 0, find_id, .token = false),
};

const struct benchmark *benchmark_named(const char *name) {
    for (size_t i = 0; i < LENGTH(benchmarks); i++)
        if (strcmp(benchmarks[i].name, name) == 0) return &benchmarks[i];
    return NULL;
}

void benchmark_list(void) {
    for (size_t i = 0; i < LENGTH(benchmarks); i++) puts(benchmarks[i].name);
}
