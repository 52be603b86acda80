/* The keys that the benchmarks use. */
#include "bench.h"

#include <stdio.h>
#include <string.h>

static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
static CK_OBJECT_CLASS secret_class = CKO_SECRET_KEY, private_class = CKO_PRIVATE_KEY;
static CK_KEY_TYPE aes_type = CKK_AES, generic_type = CKK_GENERIC_SECRET;
static CK_ULONG length_32 = 32;
static unsigned char exponent[] = {1, 0, 1};

#define FLAG(type, value) {type, &(value), sizeof(CK_BBOOL)}
#define LENGTH(array) (sizeof(array) / sizeof *(array))

void nth_label(unsigned long n, char label[16]) { snprintf(label, 16, "key-%08lu", n); }

void nth_id(unsigned long n, unsigned char id[20]) {
    /* Spread like the hash of a public key, so that no index profits from an order. */
    uint64_t x = n + 1;
    for (int i = 0; i < 20; i++) {
        x ^= x >> 33;
        x *= 0xff51afd7ed558ccdULL;
        x ^= x >> 29;
        id[i] = (unsigned char)(x >> 24);
    }
    memcpy(id, &n, 4);
}

CK_RV generate_secret(CK_SESSION_HANDLE session, enum fixture which, bool token, CK_OBJECT_HANDLE *key) {
    bool kek = which == FIXTURE_KEK, hmac = which == FIXTURE_HMAC;
    CK_BBOOL cipher = !kek && !hmac, mac = hmac, wrap = kek, stored = token;
    CK_BBOOL extractable = which == FIXTURE_PAYLOAD;
    CK_ATTRIBUTE template[] = {
        {CKA_VALUE_LEN, &length_32, sizeof length_32},
        FLAG(CKA_TOKEN, stored),
        FLAG(CKA_PRIVATE, yes),
        FLAG(CKA_SENSITIVE, yes),
        FLAG(CKA_EXTRACTABLE, extractable),
        FLAG(CKA_ENCRYPT, cipher),
        FLAG(CKA_DECRYPT, cipher),
        FLAG(CKA_SIGN, mac),
        FLAG(CKA_VERIFY, mac),
        FLAG(CKA_WRAP, wrap),
        FLAG(CKA_UNWRAP, wrap),
    };
    CK_MECHANISM mechanism = {hmac ? CKM_GENERIC_SECRET_KEY_GEN : CKM_AES_KEY_GEN, NULL, 0};
    CK_RV rv = p11->C_GenerateKey(session, &mechanism, template, LENGTH(template), key);
    if (rv == CKR_OK || !hmac) return rv;
    /* Not every token generates generic secrets: import one. */
    unsigned char value[32];
    rv = p11->C_GenerateRandom(session, value, sizeof value);
    if (rv != CKR_OK) return rv;
    CK_ATTRIBUTE import[] = {
        {CKA_CLASS, &secret_class, sizeof secret_class},
        {CKA_KEY_TYPE, &generic_type, sizeof generic_type},
        {CKA_VALUE, value, sizeof value},
        FLAG(CKA_TOKEN, stored),
        FLAG(CKA_SIGN, yes),
        FLAG(CKA_VERIFY, yes),
    };
    return p11->C_CreateObject(session, import, LENGTH(import), key);
}

struct curve {
    enum fixture which;
    CK_MECHANISM_TYPE mechanism;
    bool derive;
    size_t length;
    unsigned char parameters[16];
};

/* A curve may appear more than once: tokens differ in the mechanism and the name they take. */
static struct curve curves[] = {
    {FIXTURE_P256, CKM_EC_KEY_PAIR_GEN, false, 10, "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"},
    {FIXTURE_P384, CKM_EC_KEY_PAIR_GEN, false, 7, "\x06\x05\x2b\x81\x04\x00\x22"},
    {FIXTURE_ECDH_P256, CKM_EC_KEY_PAIR_GEN, true, 10, "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"},
    {FIXTURE_ED25519, CKM_EC_EDWARDS_KEY_PAIR_GEN, false, 5, "\x06\x03\x2b\x65\x70"},
    {FIXTURE_ED25519, CKM_EC_EDWARDS_KEY_PAIR_GEN, false, 14, "\x13\x0c" "edwards25519"},
    {FIXTURE_X25519, CKM_EC_MONTGOMERY_KEY_PAIR_GEN, true, 5, "\x06\x03\x2b\x65\x6e"},
    {FIXTURE_X25519, CKM_EC_EDWARDS_KEY_PAIR_GEN, true, 5, "\x06\x03\x2b\x65\x6e"},
};

CK_RV generate_pair(CK_SESSION_HANDLE session, enum fixture which, bool token, const char *label,
                    CK_OBJECT_HANDLE *public_key, CK_OBJECT_HANDLE *private_key) {
    CK_BBOOL stored = token;
    CK_ULONG bits = which == FIXTURE_RSA4096 ? 4096 : which == FIXTURE_RSA3072 ? 3072 : 2048;
    bool rsa = which == FIXTURE_RSA2048 || which == FIXTURE_RSA3072 || which == FIXTURE_RSA4096;
    CK_RV rv = CKR_MECHANISM_INVALID;
    for (size_t i = 0; i < LENGTH(curves); i++) {
        struct curve *curve = rsa ? NULL : &curves[i];
        if (curve && curve->which != which) continue;
        CK_BBOOL sign = !curve || !curve->derive, derive = !sign;
        CK_ATTRIBUTE public_template[] = {
            FLAG(CKA_TOKEN, stored),
            FLAG(CKA_VERIFY, sign),
            {CKA_LABEL, (void *)(uintptr_t)label, strlen(label)},
            {CKA_ID, (void *)(uintptr_t)label, strlen(label)},
            {CKA_PUBLIC_EXPONENT, exponent, sizeof exponent},
            {CKA_MODULUS_BITS, &bits, sizeof bits},
        };
        CK_ULONG public_count = 6;
        if (curve) {
            public_template[4] = (CK_ATTRIBUTE){CKA_EC_PARAMS, curve->parameters, curve->length};
            public_count = 5;
        }
        CK_ATTRIBUTE private_template[] = {
            FLAG(CKA_TOKEN, stored),
            FLAG(CKA_PRIVATE, yes),
            FLAG(CKA_SENSITIVE, yes),
            FLAG(CKA_EXTRACTABLE, no),
            FLAG(CKA_SIGN, sign),
            FLAG(CKA_DERIVE, derive),
            {CKA_LABEL, (void *)(uintptr_t)label, strlen(label)},
            {CKA_ID, (void *)(uintptr_t)label, strlen(label)},
        };
        CK_MECHANISM mechanism = {rsa ? CKM_RSA_PKCS_KEY_PAIR_GEN : curve->mechanism, NULL, 0};
        rv = p11->C_GenerateKeyPair(session, &mechanism, public_template, public_count, private_template,
                                    LENGTH(private_template), public_key, private_key);
        if (rv == CKR_OK || rsa) break;
    }
    return rv;
}

CK_RV create_secret(CK_SESSION_HANDLE session, bool token, const char *label, const unsigned char *id, size_t id_len,
                    CK_OBJECT_HANDLE *key) {
    CK_BBOOL stored = token;
    unsigned char value[32] = {0};
    snprintf((char *)value, sizeof value, "%s", label);
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &secret_class, sizeof secret_class},
        {CKA_KEY_TYPE, &aes_type, sizeof aes_type},
        {CKA_VALUE, value, sizeof value},
        {CKA_LABEL, (void *)(uintptr_t)label, strlen(label)},
        {CKA_ID, (void *)(uintptr_t)id, id_len},
        FLAG(CKA_TOKEN, stored),
        FLAG(CKA_PRIVATE, yes),
        FLAG(CKA_SENSITIVE, yes),
        FLAG(CKA_EXTRACTABLE, no),
        FLAG(CKA_ENCRYPT, yes),
        FLAG(CKA_DECRYPT, yes),
    };
    return p11->C_CreateObject(session, template, LENGTH(template), key);
}

CK_RV find_one(CK_SESSION_HANDLE session, CK_OBJECT_CLASS class, CK_ATTRIBUTE_TYPE by, const void *value,
               size_t length, CK_OBJECT_HANDLE *found) {
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &class, sizeof class},
        {by, (void *)(uintptr_t)value, length},
    };
    CK_ULONG count = 0;
    CK_RV rv = p11->C_FindObjectsInit(session, template, 2);
    if (rv != CKR_OK) return rv;
    rv = p11->C_FindObjects(session, found, 1, &count);
    CK_RV final = p11->C_FindObjectsFinal(session);
    if (rv == CKR_OK) rv = final;
    return rv == CKR_OK && count != 1 ? CKR_OBJECT_HANDLE_INVALID : rv;
}

/* Finds the token's signing key and signs 32 bytes with it. */
CK_RV sign_with_signer(CK_SESSION_HANDLE session, const char **kind) {
    CK_OBJECT_HANDLE key;
    CK_KEY_TYPE type = 0;
    CK_ATTRIBUTE read = {CKA_KEY_TYPE, &type, sizeof type};
    CK_RV rv = find_one(session, private_class, CKA_LABEL, "signer", 6, &key);
    if (rv == CKR_OK) rv = p11->C_GetAttributeValue(session, key, &read, 1);
    if (rv != CKR_OK) return rv;
    *kind = type == CKK_EC ? "P-256" : "RSA-2048";
    CK_MECHANISM mechanism = {type == CKK_EC ? CKM_ECDSA : CKM_RSA_PKCS, NULL, 0};
    unsigned char digest[32] = {1}, signature[600];
    CK_ULONG length = sizeof signature;
    rv = p11->C_SignInit(session, &mechanism, key);
    return rv == CKR_OK ? p11->C_Sign(session, digest, sizeof digest, signature, &length) : rv;
}

/* The public point without its OCTET STRING header. */
static CK_RV read_point(CK_SESSION_HANDLE session, struct keys *keys, CK_OBJECT_HANDLE public_key) {
    CK_ATTRIBUTE read = {CKA_EC_POINT, keys->point, sizeof keys->point};
    CK_RV rv = p11->C_GetAttributeValue(session, public_key, &read, 1);
    if (rv != CKR_OK) return rv;
    keys->point_len = read.ulValueLen;
    if (keys->point_len > 2 && keys->point[0] == 4 && keys->point[1] == keys->point_len - 2) {
        keys->point_len -= 2;
        memmove(keys->point, keys->point + 2, keys->point_len);
    }
    return CKR_OK;
}

struct keys *fixture(CK_SESSION_HANDLE session, enum fixture which) {
    static struct keys all[FIXTURE_COUNT];
    struct keys *keys = &all[which];
    if (keys->ready || which == FIXTURE_NONE) return keys;
    CK_OBJECT_HANDLE peer_public, peer_private;
    switch (which) {
    case FIXTURE_AES:
    case FIXTURE_HMAC:
    case FIXTURE_KEK:
    case FIXTURE_PAYLOAD:
        keys->rv = generate_secret(session, which, false, &keys->private_key);
        break;
    case FIXTURE_SIGNER:
        keys->rv = find_one(session, private_class, CKA_LABEL, "signer", 6, &keys->private_key);
        break;
    case FIXTURE_ECDH_P256:
    case FIXTURE_X25519:
        keys->rv = generate_pair(session, which, false, "peer", &peer_public, &peer_private);
        if (keys->rv == CKR_OK) keys->rv = read_point(session, keys, peer_public);
        if (keys->rv != CKR_OK) break;
        /* fall through */
    default:
        keys->rv = generate_pair(session, which, false, "bench", &keys->public_key, &keys->private_key);
    }
    keys->ready = true;
    return keys;
}
