/* The known attacks on the PKCS#11 API, each carried out against a token in its default
 * configuration, and each refused at some step. See "What PKCS#11 alone gets wrong" in
 * ARCHITECTURE.md and SECURITY.md. */
#include "harness.h"

static CK_SESSION_HANDLE session;
static CK_MECHANISM key_wrap = {CKM_AES_KEY_WRAP, NULL, 0}, key_wrap_pad = {CKM_AES_KEY_WRAP_KWP, NULL, 0},
                    ecb = {CKM_AES_ECB, NULL, 0}, pkcs = {CKM_RSA_PKCS, NULL, 0}, raw_rsa = {CKM_RSA_X_509, NULL, 0};
static CK_RSA_PKCS_OAEP_PARAMS oaep_params = {CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED, NULL, 0};
static CK_MECHANISM oaep = {CKM_RSA_PKCS_OAEP, &oaep_params, sizeof oaep_params};

static CK_RV wrap(CK_MECHANISM *mechanism, CK_OBJECT_HANDLE with, CK_OBJECT_HANDLE key, CK_BYTE *out, CK_ULONG *len) {
    *len = 1024;
    return p11->C_WrapKey(session, mechanism, with, key, out, len);
}

static CK_RV unwrap_as(CK_MECHANISM *mechanism, CK_OBJECT_HANDLE with, CK_BYTE *wrapped, CK_ULONG len,
                       const CK_ATTRIBUTE *extra, CK_ULONG more, CK_OBJECT_HANDLE *key) {
    CK_ATTRIBUTE template[MAX_TEMPLATE] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES),
                                           NO(CKA_TOKEN)};
    *key = 0;
    return p11->C_UnwrapKey(session, mechanism, with, wrapped, len, template, merge(template, 3, extra, more), key);
}
#define UNWRAP(mechanism, with, wrapped, len, key, ...)                                   \
    unwrap_as(mechanism, with, wrapped, len, (const CK_ATTRIBUTE[]){__VA_ARGS__},         \
              sizeof((const CK_ATTRIBUTE[]){__VA_ARGS__}) / sizeof(CK_ATTRIBUTE), key)

/* A sensitive key that may be wrapped: what the attacker is after. */
static CK_OBJECT_HANDLE target(void) {
    CK_OBJECT_HANDLE key;
    OK(AES(session, 32, &key, YES(CKA_SENSITIVE), YES(CKA_EXTRACTABLE), YES(CKA_ENCRYPT), YES(CKA_DECRYPT)));
    return key;
}

/* A wrapping key made the way that the rules ask for. */
static CK_OBJECT_HANDLE proper_wrapper(void) {
    CK_OBJECT_HANDLE key;
    OK(AES(session, 32, &key, YES(CKA_WRAP), YES(CKA_UNWRAP), NO(CKA_ENCRYPT), NO(CKA_DECRYPT), YES(CKA_SENSITIVE),
           NO(CKA_EXTRACTABLE)));
    return key;
}

/* An AES key whose value the attacker knows. */
static CK_RV known_key(CK_OBJECT_HANDLE *key, const CK_ATTRIBUTE *extra, CK_ULONG more) {
    static const CK_BYTE value[32] = "the attacker knows this key....";
    CK_ATTRIBUTE template[MAX_TEMPLATE] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES),
                                           BYTES(CKA_VALUE, value), NO(CKA_TOKEN)};
    *key = 0;
    return p11->C_CreateObject(session, template, merge(template, 4, extra, more), key);
}

static void the_proper_way_works(void) {
    CK_BYTE wrapped[1024];
    CK_ULONG len;
    CK_OBJECT_HANDLE kek = proper_wrapper(), key;
    OK(wrap(&key_wrap, kek, target(), wrapped, &len));
    OK(UNWRAP(&key_wrap, kek, wrapped, len, &key, YES(CKA_SENSITIVE), YES(CKA_ENCRYPT)));
    OK(wrap(&key_wrap_pad, kek, target(), wrapped, &len));
}

/* Clulow: one key both wraps and decrypts. */
static void wrap_then_decrypt(void) {
    CK_OBJECT_HANDLE both;
    CK_BYTE wrapped[1024];
    CK_ULONG len;
    CK_RV rv = AES(session, 32, &both, YES(CKA_WRAP), YES(CKA_DECRYPT), YES(CKA_ENCRYPT), YES(CKA_UNWRAP));
    if (rv == CKR_OK) {
        CHECK_RV(wrap(&key_wrap, both, target(), wrapped, &len), CKR_KEY_NOT_WRAPPABLE);
        CHECK_RV(wrap(&key_wrap_pad, both, target(), wrapped, &len), CKR_KEY_NOT_WRAPPABLE);
    } else
        CHECK_RV(rv, CKR_TEMPLATE_INCONSISTENT);
    /* A key of every default does not do it either. */
    OK(AES(session, 32, &both));
    REFUSED(wrap(&key_wrap, both, target(), wrapped, &len));
}

/* A key stream: with CTR or GCM under the attacker's IV, encrypting zeros gives what XORs the key out. */
static void wrap_then_encrypt(void) {
    CK_OBJECT_HANDLE both;
    CK_BYTE wrapped[1024], iv[16] = {0};
    CK_ULONG len;
    CK_AES_CTR_PARAMS ctr_params = {128, {0}};
    CK_MECHANISM ctr = {CKM_AES_CTR, &ctr_params, sizeof ctr_params};
    GCM(gcm, iv);
    if (AES(session, 32, &both, YES(CKA_WRAP), YES(CKA_ENCRYPT), NO(CKA_DECRYPT)) == CKR_OK) {
        REFUSED(wrap(&ctr, both, target(), wrapped, &len));
        REFUSED(wrap(&gcm, both, target(), wrapped, &len));
        REFUSED(wrap(&key_wrap, both, target(), wrapped, &len));
    }
    REFUSED(wrap(&ctr, proper_wrapper(), target(), wrapped, &len));
    REFUSED(wrap(&gcm, proper_wrapper(), target(), wrapped, &len));
}

/* Adding the other usage afterwards, in one step or in two. */
static void usage_added_later(void) {
    CK_OBJECT_HANDLE wrapper = proper_wrapper(), cipher;
    REFUSED(set_bool(session, wrapper, CKA_DECRYPT, 1));
    REFUSED(set_bool(session, wrapper, CKA_ENCRYPT, 1));
    if (set_bool(session, wrapper, CKA_WRAP, 0) == CKR_OK && set_bool(session, wrapper, CKA_UNWRAP, 0) == CKR_OK)
        REFUSED(set_bool(session, wrapper, CKA_DECRYPT, 1));
    OK(AES(session, 32, &cipher, YES(CKA_ENCRYPT), YES(CKA_DECRYPT), NO(CKA_WRAP), NO(CKA_UNWRAP)));
    REFUSED(set_bool(session, cipher, CKA_WRAP, 1));
    REFUSED(set_bool(session, cipher, CKA_UNWRAP, 1));
    if (set_bool(session, cipher, CKA_DECRYPT, 0) == CKR_OK && set_bool(session, cipher, CKA_ENCRYPT, 0) == CKR_OK)
        REFUSED(set_bool(session, cipher, CKA_WRAP, 1));
}

/* The same through a copy. */
static void usage_added_by_copy(void) {
    CK_OBJECT_HANDLE copy;
    CK_BYTE wrapped[1024];
    CK_ULONG len;
    CK_ATTRIBUTE decrypts[] = {YES(CKA_DECRYPT)}, wraps[] = {YES(CKA_WRAP), NO(CKA_DECRYPT), NO(CKA_ENCRYPT)};
    REFUSED(p11->C_CopyObject(session, proper_wrapper(), decrypts, 1, &copy));
    if (p11->C_CopyObject(session, target(), wraps, 3, &copy) == CKR_OK)
        REFUSED(wrap(&key_wrap, copy, target(), wrapped, &len));
}

/* Unwrap as decrypt: wrap a sensitive key properly, unwrap it where it can be read. */
static void unwrap_as_decrypt(void) {
    CK_OBJECT_HANDLE kek = proper_wrapper(), key;
    CK_BYTE wrapped[1024], value[64];
    CK_ULONG len;
    OK(wrap(&key_wrap, kek, target(), wrapped, &len));
    if (UNWRAP(&key_wrap, kek, wrapped, len, &key, NO(CKA_SENSITIVE), YES(CKA_EXTRACTABLE)) == CKR_OK)
        CHECK(get(session, key, CKA_VALUE, value, sizeof value) == (CK_ULONG)-1);
    if (UNWRAP(&key_wrap, kek, wrapped, len, &key, NUMBER(CKA_KEY_TYPE, CKK_GENERIC_SECRET), NO(CKA_SENSITIVE)) ==
        CKR_OK)
        CHECK(get(session, key, CKA_VALUE, value, sizeof value) == (CK_ULONG)-1);
}

/* The wrapping key itself, wrapped and unwrapped as a key that decrypts. */
static void wrapping_key_reimported(void) {
    CK_OBJECT_HANDLE kek, again;
    CK_BYTE wrapped[1024], blob[1024], out[64];
    CK_ULONG len, blob_len, out_len = sizeof out;
    OK(AES(session, 32, &kek, YES(CKA_WRAP), YES(CKA_UNWRAP), NO(CKA_ENCRYPT), NO(CKA_DECRYPT), YES(CKA_SENSITIVE),
           YES(CKA_EXTRACTABLE)));
    if (wrap(&key_wrap, kek, target(), wrapped, &len) != CKR_OK) return; /* refused: an extractable key is no wrapper */
    if (wrap(&key_wrap, kek, kek, blob, &blob_len) != CKR_OK) return;
    if (UNWRAP(&key_wrap, kek, blob, blob_len, &again, YES(CKA_DECRYPT), YES(CKA_SENSITIVE)) != CKR_OK) return;
    if (p11->C_DecryptInit(session, &ecb, again) != CKR_OK) return;
    REFUSED(p11->C_Decrypt(session, wrapped, 32, out, &out_len));
}

/* A wrapping key that the attacker made outside: imported, unwrapped, or derived. */
static void wrapper_known_to_the_attacker(void) {
    CK_OBJECT_HANDLE imported, trojan;
    CK_BYTE wrapped[1024];
    CK_ULONG len;
    CK_ATTRIBUTE wraps[] = {YES(CKA_WRAP), NO(CKA_DECRYPT), NO(CKA_ENCRYPT), YES(CKA_SENSITIVE)};
    if (known_key(&imported, wraps, 4) == CKR_OK)
        CHECK_RV(wrap(&key_wrap, imported, target(), wrapped, &len), CKR_KEY_NOT_WRAPPABLE);
    /* Trojan: the attacker encrypts a known key under a key that unwraps, and unwraps it as a wrapper. */
    CK_OBJECT_HANDLE known;
    CK_ATTRIBUTE plain[] = {NO(CKA_SENSITIVE), YES(CKA_EXTRACTABLE)};
    CK_OBJECT_HANDLE kek = proper_wrapper();
    OK(known_key(&known, plain, 2));
    OK(wrap(&key_wrap, kek, known, wrapped, &len));
    if (UNWRAP(&key_wrap, kek, wrapped, len, &trojan, YES(CKA_WRAP), NO(CKA_DECRYPT), YES(CKA_SENSITIVE)) == CKR_OK) {
        CHECK(get_bool(session, trojan, CKA_LOCAL) == 0);
        CHECK(get_bool(session, trojan, CKA_ALWAYS_SENSITIVE) == 0);
        CHECK(get_bool(session, trojan, CKA_NEVER_EXTRACTABLE) == 0);
        CHECK_RV(wrap(&key_wrap, trojan, target(), wrapped, &len), CKR_KEY_NOT_WRAPPABLE);
    }
    /* Derived from something known. */
    static const CK_BYTE data[32] = "known to the attacker as well..";
    CK_KEY_DERIVATION_STRING_DATA string = {(CK_BYTE *)(uintptr_t)data, 32};
    CK_MECHANISM derive = {CKM_CONCATENATE_BASE_AND_DATA, &string, sizeof string};
    CK_ATTRIBUTE may_derive[] = {YES(CKA_DERIVE)};
    if (known_key(&imported, may_derive, 1) == CKR_OK) {
        CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), NUMBER(CKA_VALUE_LEN, 32),
                            YES(CKA_WRAP), YES(CKA_SENSITIVE), NO(CKA_TOKEN)};
        CK_OBJECT_HANDLE derived;
        if (p11->C_DeriveKey(session, &derive, imported, t, COUNT(t), &derived) == CKR_OK)
            REFUSED(wrap(&key_wrap, derived, target(), wrapped, &len));
    }
}

/* A public key in the token, the private half in the attacker's hand. */
static void imported_public_key(void) {
    static CK_BYTE modulus[256];
    static const CK_BYTE exponent[] = {1, 0, 1};
    CK_OBJECT_HANDLE pub, priv, imported, key = target();
    CK_BYTE wrapped[1024];
    CK_ULONG len;
    CK_ATTRIBUTE wraps[] = {YES(CKA_WRAP)}, unwraps[] = {YES(CKA_UNWRAP), NO(CKA_DECRYPT)};
    OK(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, wraps, 1, unwraps, 2, &pub, &priv));
    CHECK(get(session, pub, CKA_MODULUS, modulus, sizeof modulus) == 256);
    CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_PUBLIC_KEY), NUMBER(CKA_KEY_TYPE, CKK_RSA), BYTES(CKA_MODULUS, modulus),
                        BYTES(CKA_PUBLIC_EXPONENT, exponent), YES(CKA_WRAP), NO(CKA_TOKEN)};
    if (p11->C_CreateObject(session, t, COUNT(t), &imported) == CKR_OK) {
        REFUSED(wrap(&oaep, imported, key, wrapped, &len));
        REFUSED(wrap(&pkcs, imported, key, wrapped, &len));
        REFUSED(set_bool(session, imported, CKA_TRUSTED, 1));
    }
    /* A pair whose private half decrypts. */
    CK_ATTRIBUTE both[] = {YES(CKA_UNWRAP), YES(CKA_DECRYPT)};
    if (generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, wraps, 1, both, 2, &pub, &priv) == CKR_OK)
        REFUSED(wrap(&oaep, pub, key, wrapped, &len));
}

static void attributes_loosened(void) {
    CK_OBJECT_HANDLE key = target(), copy;
    CK_ATTRIBUTE readable[] = {NO(CKA_SENSITIVE)}, extractable[] = {YES(CKA_EXTRACTABLE)},
                 trusted[] = {YES(CKA_TRUSTED)}, any_wrapper[] = {NO(CKA_WRAP_WITH_TRUSTED)};
    REFUSED(set_bool(session, key, CKA_SENSITIVE, 0));
    REFUSED(p11->C_CopyObject(session, key, readable, 1, &copy));
    REFUSED(set_bool(session, key, CKA_TRUSTED, 1));
    REFUSED(p11->C_CopyObject(session, key, trusted, 1, &copy));
    REFUSED(set_bool(session, key, CKA_ALWAYS_SENSITIVE, 1));
    REFUSED(set_bool(session, key, CKA_LOCAL, 0));
    REFUSED(set_bool(session, key, CKA_NEVER_EXTRACTABLE, 1));
    OK(set_bool(session, key, CKA_EXTRACTABLE, 0));
    REFUSED(set_bool(session, key, CKA_EXTRACTABLE, 1));
    REFUSED(p11->C_CopyObject(session, key, extractable, 1, &copy));
    CHECK(get_bool(session, key, CKA_NEVER_EXTRACTABLE) == 0);
    OK(AES(session, 16, &key, YES(CKA_WRAP_WITH_TRUSTED), YES(CKA_EXTRACTABLE)));
    REFUSED(set_bool(session, key, CKA_WRAP_WITH_TRUSTED, 0));
    REFUSED(p11->C_CopyObject(session, key, any_wrapper, 1, &copy));
    OK(AES(session, 16, &key, NO(CKA_COPYABLE)));
    CHECK_RV(p11->C_CopyObject(session, key, NULL, 0, &copy), CKR_ACTION_PROHIBITED);
    REFUSED(set_bool(session, key, CKA_COPYABLE, 1));
    OK(AES(session, 16, &key, NO(CKA_DESTROYABLE)));
    CHECK_RV(p11->C_DestroyObject(session, key), CKR_ACTION_PROHIBITED);
    OK(AES(session, 16, &key, NO(CKA_MODIFIABLE)));
    REFUSED(set_bool(session, key, CKA_ENCRYPT, 0));
    REFUSED(set_bool(session, key, CKA_MODIFIABLE, 1));
}

static void allowed_mechanisms(void) {
    CK_OBJECT_HANDLE key;
    CK_BYTE iv[16] = {0};
    CK_MECHANISM_TYPE only[] = {CKM_AES_CBC}, more[] = {CKM_AES_CBC, CKM_AES_ECB};
    CK_MECHANISM cbc = {CKM_AES_CBC, iv, 16};
    CK_ATTRIBUTE wider[] = {BYTES(CKA_ALLOWED_MECHANISMS, more)};
    OK(AES(session, 16, &key, YES(CKA_ENCRYPT), BYTES(CKA_ALLOWED_MECHANISMS, only)));
    CHECK_RV_IN(p11->C_EncryptInit(session, &ecb, key), CKR_MECHANISM_INVALID, CKR_KEY_FUNCTION_NOT_PERMITTED);
    REFUSED(p11->C_SetAttributeValue(session, key, wider, 1));
    /* An empty list would allow all. */
    CK_ATTRIBUTE none[] = {{CKA_ALLOWED_MECHANISMS, NULL, 0}};
    CK_OBJECT_HANDLE copy;
    REFUSED(p11->C_SetAttributeValue(session, key, none, 1));
    REFUSED(p11->C_CopyObject(session, key, none, 1, &copy));
    OK(p11->C_EncryptInit(session, &cbc, key));
    (void)p11->C_EncryptInit(session, NULL, 0);
}

/* TRUSTED is the SO's to give: not by creating, generating, unwrapping or copying as the user. */
static void trusted_by_the_user(void) {
    CK_OBJECT_HANDLE key;
    CK_ATTRIBUTE trusted[] = {YES(CKA_TRUSTED), YES(CKA_WRAP)};
    CK_BYTE wrapped[1024];
    CK_ULONG len;
    CK_OBJECT_HANDLE kek = proper_wrapper();
    REFUSED(AES(session, 32, &key, YES(CKA_WRAP), YES(CKA_TRUSTED)));
    REFUSED(known_key(&key, trusted, 2));
    OK(wrap(&key_wrap, kek, target(), wrapped, &len));
    REFUSED(UNWRAP(&key_wrap, kek, wrapped, len, &key, YES(CKA_TRUSTED)));
    CK_BYTE certificate[] = {0x30, 0}, name[] = {0x30, 0};
    CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_CERTIFICATE), NUMBER(CKA_CERTIFICATE_TYPE, CKC_X_509),
                        BYTES(CKA_VALUE, certificate), BYTES(CKA_SUBJECT, name), YES(CKA_TRUSTED), NO(CKA_TOKEN)};
    REFUSED(p11->C_CreateObject(session, t, COUNT(t), &key));
}

static void wrap_with_trusted(void) {
    CK_OBJECT_HANDLE key;
    CK_BYTE wrapped[1024];
    CK_ULONG len;
    OK(AES(session, 32, &key, YES(CKA_WRAP_WITH_TRUSTED), YES(CKA_EXTRACTABLE), NO(CKA_SENSITIVE)));
    REFUSED(wrap(&key_wrap, proper_wrapper(), key, wrapped, &len));
}

static void weak_wrapping_key(void) {
    CK_OBJECT_HANDLE pub, priv, kek, key = target();
    CK_BYTE wrapped[1024];
    CK_ULONG len;
    CK_ATTRIBUTE wraps[] = {YES(CKA_WRAP), NUMBER(CKA_MODULUS_BITS, 1024)}, unwraps[] = {YES(CKA_UNWRAP)};
    /* RSA-1024 has 80 bits: either there is no such key or it wraps nothing of worth. */
    if (generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, wraps, 2, unwraps, 1, &pub, &priv) == CKR_OK)
        REFUSED(wrap(&oaep, pub, key, wrapped, &len));
    /* 128 bits for a 256-bit key: 112 are asked for at the least, so this is allowed. */
    OK(AES(session, 16, &kek, YES(CKA_WRAP), NO(CKA_DECRYPT), NO(CKA_ENCRYPT)));
    OK(wrap(&key_wrap, kek, key, wrapped, &len));
}

static void unextractable(void) {
    CK_OBJECT_HANDLE key;
    CK_BYTE wrapped[1024];
    CK_ULONG len;
    OK(AES(session, 32, &key, NO(CKA_EXTRACTABLE)));
    CHECK_RV(wrap(&key_wrap, proper_wrapper(), key, wrapped, &len), CKR_KEY_UNEXTRACTABLE);
}

/* Bleichenbacher: a wrong padding looks like a right one, each time the same. */
static void padding_oracle(void) {
    CK_OBJECT_HANDLE pub, priv, key;
    CK_ATTRIBUTE encrypts[] = {YES(CKA_ENCRYPT)}, decrypts[] = {YES(CKA_DECRYPT)};
    CK_BYTE sealed[256], first[256], again[256], wrong[256], message[48];
    CK_ULONG len = sizeof sealed, n, m;
    int lengths_differ = 0;
    CK_ULONG previous = 0;
    OK(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, encrypts, 1, decrypts, 1, &pub, &priv));
    memset(message, 'm', sizeof message);
    OK(p11->C_EncryptInit(session, &pkcs, pub));
    OK(p11->C_Encrypt(session, message, sizeof message, sealed, &len));
    n = sizeof first;
    OK(p11->C_DecryptInit(session, &pkcs, priv));
    OK(p11->C_Decrypt(session, sealed, len, first, &n));
    CHECK(n == sizeof message && !memcmp(first, message, n));
    for (int i = 0; i < 24; i++) {
        memcpy(wrong, sealed, sizeof wrong);
        wrong[255 - i] ^= (CK_BYTE)(1 + i);
        n = sizeof first;
        m = sizeof again;
        OK(p11->C_DecryptInit(session, &pkcs, priv));
        OK(p11->C_Decrypt(session, wrong, 256, first, &n));
        OK(p11->C_DecryptInit(session, &pkcs, priv));
        OK(p11->C_Decrypt(session, wrong, 256, again, &m));
        CHECK(n <= 245 && n == m && !memcmp(first, again, n));
        CHECK(n != sizeof message || memcmp(first, message, n));
        if (i && n != previous) lengths_differ = 1;
        previous = n;
    }
    CHECK(lengths_differ);
    /* The size query tells nothing about the padding either. */
    CK_ULONG asked[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        OK(p11->C_DecryptInit(session, &pkcs, priv));
        OK(p11->C_Decrypt(session, i ? wrong : sealed, 256, NULL, &asked[i]));
        (void)p11->C_DecryptInit(session, NULL, 0);
    }
    CHECK(asked[0] == asked[1]);
    /* Unwrapping with that padding is off. */
    CK_ATTRIBUTE unwraps[] = {YES(CKA_UNWRAP)};
    OK(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0, unwraps, 1, &pub, &priv));
    REFUSED(UNWRAP(&pkcs, priv, sealed, 256, &key, YES(CKA_SENSITIVE)));
}

/* Vaudenay: CBC padding as an unwrap oracle is off; of all wrong ciphertexts the answers are alike. */
static void unwrap_oracles(void) {
    CK_OBJECT_HANDLE kek = proper_wrapper(), key;
    CK_BYTE iv[16] = {0}, wrapped[1024], garbage[48];
    CK_ULONG len;
    CK_MECHANISM cbc_pad = {CKM_AES_CBC_PAD, iv, 16};
    memset(garbage, 0x5a, sizeof garbage);
    REFUSED(UNWRAP(&cbc_pad, kek, garbage, 48, &key, YES(CKA_SENSITIVE)));
    OK(wrap(&key_wrap_pad, kek, target(), wrapped, &len));
    CK_RV seen = 0;
    for (CK_ULONG i = 0; i < len; i++) {
        wrapped[i] ^= 0x10;
        CK_RV rv = UNWRAP(&key_wrap_pad, kek, wrapped, len, &key, YES(CKA_SENSITIVE));
        wrapped[i] ^= 0x10;
        if (i == 0) seen = rv;
        CHECK(rv == CKR_WRAPPED_KEY_INVALID && rv == seen);
    }
}

/* Decryption by unwrapping: without integrity, XORing the IV until the last byte of the new key is a
 * zero that CKA_VALUE_LEN lets cut off gives the key byte by byte; of a key wrap too, block by block. */
static void unwrap_without_integrity(void) {
    CK_OBJECT_HANDLE kek = proper_wrapper(), known, key;
    CK_BYTE iv[16] = {0}, wrapped[1024];
    CK_ULONG len;
    CK_AES_CTR_PARAMS ctr_params = {128, {0}};
    CK_MECHANISM malleable[] = {ecb, {CKM_AES_CBC, iv, 16}, {CKM_AES_CTR, &ctr_params, sizeof ctr_params}};
    CK_ATTRIBUTE plain[] = {NO(CKA_SENSITIVE), YES(CKA_EXTRACTABLE)};
    OK(known_key(&known, plain, 2));
    for (size_t i = 0; i < COUNT(malleable); i++) {
        CHECK_RV(wrap(&malleable[i], kek, target(), wrapped, &len), CKR_KEY_NOT_WRAPPABLE);
        OK(wrap(&malleable[i], kek, known, wrapped, &len));
        CHECK_RV(UNWRAP(&malleable[i], kek, wrapped, len, &key), CKR_KEY_FUNCTION_NOT_PERMITTED);
    }
    OK(wrap(&key_wrap, kek, target(), wrapped, &len));
    for (size_t i = 0; i < COUNT(malleable); i++)
        CHECK_RV(UNWRAP(&malleable[i], kek, wrapped, 16, &key, NUMBER(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
                        NUMBER(CKA_VALUE_LEN, 15)),
                 CKR_KEY_FUNCTION_NOT_PERMITTED);
    CK_MECHANISM cbc_pad = {CKM_AES_CBC_PAD, iv, 16};
    CHECK_RV(wrap(&cbc_pad, kek, target(), wrapped, &len), CKR_KEY_NOT_WRAPPABLE);
    /* A tag of 32 bits is soon forged by trying. */
    CK_GCM_PARAMS short_tag = {iv, 12, 96, NULL, 0, 32};
    CK_MECHANISM gcm = {CKM_AES_GCM, &short_tag, sizeof short_tag};
    OK(wrap(&gcm, kek, known, wrapped, &len));
    CHECK_RV(UNWRAP(&gcm, kek, wrapped, len, &key), CKR_MECHANISM_PARAM_INVALID);
    short_tag.ulTagBits = 128;
    OK(wrap(&gcm, kek, known, wrapped, &len));
    OK(UNWRAP(&gcm, kek, wrapped, len, &key));
}

/* HKDF's extract step is HMAC under the salt: a key that may only verify must not come to sign so. */
static void hkdf_salt_signs(void) {
    static const CK_BYTE message[] = "message";
    static const CK_MECHANISM_TYPE hmac_only[] = {CKM_SHA256_HMAC};
    CK_OBJECT_HANDLE salt, base, tag, pub, priv;
    CK_MECHANISM generate = {CKM_GENERIC_SECRET_KEY_GEN, NULL, 0};
    CK_ATTRIBUTE b[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
                        BYTES(CKA_VALUE, message), YES(CKA_DERIVE), NO(CKA_TOKEN)};
    CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_DATA), NO(CKA_TOKEN)};
    OK(p11->C_CreateObject(session, b, COUNT(b), &base));
    for (int i = 0; i < 3; i++) {
        CK_ATTRIBUTE s[] = {NUMBER(CKA_VALUE_LEN, 32), YES(CKA_VERIFY), NO(CKA_SIGN), {CKA_DERIVE, NULL, 1},
                            BYTES(CKA_ALLOWED_MECHANISMS, hmac_only)};
        CK_BBOOL derives = i > 0;
        s[3].pValue = &derives;
        OK(p11->C_GenerateKey(session, &generate, s, i == 1 ? 5 : 4, &salt));
        CK_HKDF_PARAMS params = {CK_TRUE, CK_FALSE, CKM_SHA256, CKF_HKDF_SALT_KEY, NULL, 0, salt, NULL, 0};
        CK_MECHANISM hkdf = {CKM_HKDF_DATA, &params, sizeof params};
        static const CK_RV expected[] = {CKR_KEY_FUNCTION_NOT_PERMITTED, CKR_MECHANISM_INVALID, CKR_OK};
        CHECK_RV(p11->C_DeriveKey(session, &hkdf, base, t, COUNT(t), &tag), expected[i]);
    }
    CK_ATTRIBUTE derives[] = {YES(CKA_DERIVE)};
    OK(generate_pair(session, CKM_EC_KEY_PAIR_GEN, NULL, 0, derives, 1, &pub, &priv));
    CK_HKDF_PARAMS params = {CK_TRUE, CK_FALSE, CKM_SHA256, CKF_HKDF_SALT_KEY, NULL, 0, priv, NULL, 0};
    CK_MECHANISM hkdf = {CKM_HKDF_DATA, &params, sizeof params};
    CHECK_RV(p11->C_DeriveKey(session, &hkdf, base, t, COUNT(t), &tag), CKR_KEY_TYPE_INCONSISTENT);
}

/* RSA: one error for every wrong OAEP block. */
static void oaep_oracle(void) {
    CK_OBJECT_HANDLE pub, priv;
    CK_ATTRIBUTE encrypts[] = {YES(CKA_ENCRYPT)}, decrypts[] = {YES(CKA_DECRYPT)};
    CK_BYTE block[256], out[256];
    CK_ULONG n;
    OK(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, encrypts, 1, decrypts, 1, &pub, &priv));
    CK_RV seen = 0;
    for (int i = 0; i < 10; i++) {
        memset(block, i + 1, sizeof block);
        block[0] = 0;
        n = sizeof out;
        OK(p11->C_DecryptInit(session, &oaep, priv));
        CK_RV rv = p11->C_Decrypt(session, block, 256, out, &n);
        if (!i) seen = rv;
        CHECK(rv == CKR_ENCRYPTED_DATA_INVALID && rv == seen);
    }
}

/* Guessing a secret by asking which keys have it. */
static void find_by_secret(void) {
    static const CK_BYTE value[32] = "the attacker knows this key....";
    CK_OBJECT_HANDLE key, pub, priv;
    CK_BYTE exponent[512];
    CK_ATTRIBUTE sensitive[] = {YES(CKA_SENSITIVE), TEXT(CKA_LABEL, "guessed")};
    OK(known_key(&key, sensitive, 2));
    CK_ATTRIBUTE by_value[] = {BYTES(CKA_VALUE, value)}, by_both[] = {TEXT(CKA_LABEL, "guessed"), BYTES(CKA_VALUE, value)};
    CHECK(find(session, by_value, 1, NULL) == 0);
    CHECK(find(session, by_both, 2, NULL) == 0);
    CHECK(find(session, by_both, 1, NULL) == 1);
    OK(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0, NULL, 0, &pub, &priv));
    static const CK_ATTRIBUTE_TYPE secret[] = {CKA_PRIVATE_EXPONENT, CKA_PRIME_1,     CKA_PRIME_2,
                                               CKA_EXPONENT_1,       CKA_EXPONENT_2, CKA_COEFFICIENT};
    for (size_t i = 0; i < COUNT(secret); i++) {
        CK_ATTRIBUTE read = {secret[i], exponent, sizeof exponent};
        memset(exponent, 0xee, sizeof exponent);
        CHECK_RV(p11->C_GetAttributeValue(session, priv, &read, 1), CKR_ATTRIBUTE_SENSITIVE);
        CHECK(read.ulValueLen == CK_UNAVAILABLE_INFORMATION);
        for (size_t k = 0; k < sizeof exponent; k++)
            if (!CHECK(exponent[k] == 0xee)) break;
        read = (CK_ATTRIBUTE){secret[i], NULL, 0};
        CHECK_RV(p11->C_GetAttributeValue(session, priv, &read, 1), CKR_ATTRIBUTE_SENSITIVE);
    }
    CK_ATTRIBUTE read = {CKA_VALUE, exponent, sizeof exponent};
    CHECK_RV(p11->C_GetAttributeValue(session, key, &read, 1), CKR_ATTRIBUTE_SENSITIVE);
    /* Unextractable is as secret as sensitive. */
    OK(AES(session, 16, &key, NO(CKA_SENSITIVE), NO(CKA_EXTRACTABLE)));
    CHECK(get(session, key, CKA_VALUE, exponent, sizeof exponent) == (CK_ULONG)-1);
    OK(AES(session, 16, &key, NO(CKA_SENSITIVE), YES(CKA_EXTRACTABLE)));
    CHECK(get(session, key, CKA_VALUE, exponent, sizeof exponent) == 16);
}

/* The key's bytes through a digest, or a mechanism that hands them out. */
static void digest_of_a_secret(void) {
    CK_OBJECT_HANDLE key = target();
    CK_MECHANISM sha = {CKM_SHA256, NULL, 0};
    OK(p11->C_DigestInit(session, &sha));
    CHECK_RV_IN(p11->C_DigestKey(session, key), CKR_KEY_INDIGESTIBLE, CKR_OK);
    (void)p11->C_DigestInit(session, NULL);
}

/* Reading a key out bit by bit: extracting parts of it, or XORing it with a known value. */
static void derivation_attacks(void) {
    CK_OBJECT_HANDLE key, part;
    CK_BYTE byte[64];
    CK_EXTRACT_PARAMS bit = 8;
    static const CK_BYTE zeros[32];
    CK_KEY_DERIVATION_STRING_DATA string = {(CK_BYTE *)(uintptr_t)zeros, 32};
    CK_MECHANISM all[] = {{CKM_EXTRACT_KEY_FROM_KEY, &bit, sizeof bit},
                          {CKM_XOR_BASE_AND_DATA, &string, sizeof string},
                          {CKM_CONCATENATE_BASE_AND_DATA, &string, sizeof string},
                          {CKM_CONCATENATE_DATA_AND_BASE, &string, sizeof string},
                          {CKM_AES_ECB_ENCRYPT_DATA, &string, sizeof string}};
    OK(AES(session, 32, &key, YES(CKA_DERIVE), YES(CKA_SENSITIVE), NO(CKA_EXTRACTABLE)));
    for (size_t i = 0; i < COUNT(all); i++) {
        CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
                            NUMBER(CKA_VALUE_LEN, 1), NO(CKA_SENSITIVE), YES(CKA_EXTRACTABLE), NO(CKA_TOKEN)};
        if (p11->C_DeriveKey(session, &all[i], key, t, COUNT(t), &part) == CKR_OK)
            CHECK(get(session, part, CKA_VALUE, byte, sizeof byte) == (CK_ULONG)-1);
    }
}

/* Values that would make a key worthless. */
static void bad_rsa_values(void) {
    static CK_BYTE modulus[256];
    CK_OBJECT_HANDLE key;
    static const CK_BYTE e_one[] = {1}, e_even[] = {4}, e_good[] = {1, 0, 1}, e_zero[] = {0};
    memset(modulus, 0xd7, sizeof modulus);
    struct {
        const CK_BYTE *exponent;
        CK_ULONG exponent_len, modulus_len;
        CK_BYTE last;
    } cases[] = {{e_one, 1, 256, 0xd7},
                 {e_even, 1, 256, 0xd7},
                 {e_zero, 1, 256, 0xd7},
                 {e_good, 3, 256, 0xd6},
                 {e_good, 3, 32, 0xd7},
                 {e_good, 3, 0, 0},
                 {e_good, 0, 256, 0xd7},
                 {modulus, 256, 256, 0xd7}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        modulus[cases[i].modulus_len ? cases[i].modulus_len - 1 : 0] = cases[i].last;
        CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_PUBLIC_KEY), NUMBER(CKA_KEY_TYPE, CKK_RSA),
                            {CKA_MODULUS, modulus, cases[i].modulus_len},
                            {CKA_PUBLIC_EXPONENT, (void *)(uintptr_t)cases[i].exponent, cases[i].exponent_len},
                            NO(CKA_TOKEN)};
        if (!REFUSED(p11->C_CreateObject(session, t, COUNT(t), &key))) fprintf(stderr, "  case %zu\n", i);
        modulus[255] = 0xd7;
    }
    CK_OBJECT_HANDLE pub, priv;
    static const CK_BYTE one[] = {1};
    CK_ATTRIBUTE e[] = {BYTES(CKA_PUBLIC_EXPONENT, one)}, small[] = {NUMBER(CKA_MODULUS_BITS, 512)},
                 huge[] = {NUMBER(CKA_MODULUS_BITS, 1UL << 40)};
    REFUSED(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, e, 1, NULL, 0, &pub, &priv));
    REFUSED(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, small, 1, NULL, 0, &pub, &priv));
    REFUSED(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, huge, 1, NULL, 0, &pub, &priv));
    /* A private key whose parts do not belong together. */
    CK_BYTE d[256], p[128];
    memset(d, 0x11, sizeof d);
    memset(p, 0x77, sizeof p);
    CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_PRIVATE_KEY), NUMBER(CKA_KEY_TYPE, CKK_RSA), BYTES(CKA_MODULUS, modulus),
                        BYTES(CKA_PUBLIC_EXPONENT, e_good), BYTES(CKA_PRIVATE_EXPONENT, d), BYTES(CKA_PRIME_1, p),
                        BYTES(CKA_PRIME_2, p), BYTES(CKA_EXPONENT_1, p), BYTES(CKA_EXPONENT_2, p),
                        BYTES(CKA_COEFFICIENT, p), NO(CKA_TOKEN)};
    REFUSED(p11->C_CreateObject(session, t, COUNT(t), &key));
}

/* Points that are not on the curve, at infinity, or of small order. */
static void bad_points(void) {
    CK_OBJECT_HANDLE pub, priv, key;
    CK_ATTRIBUTE derive[] = {YES(CKA_DERIVE)};
    CK_BYTE point[80], bad[4][67];
    CK_ULONG lens[4] = {65, 65, 1, 33};
    OK(generate_pair(session, CKM_EC_KEY_PAIR_GEN, NULL, 0, derive, 1, &pub, &priv));
    CHECK(get(session, pub, CKA_EC_POINT, point, sizeof point) == 67);
    memcpy(bad[0], point + 2, 65);
    bad[0][64] ^= 1; /* off the curve */
    memset(bad[1], 0, 65);
    bad[1][0] = 4; /* (0, 0) */
    bad[2][0] = 0; /* infinity */
    memset(bad[3], 0xff, 33);
    bad[3][0] = 2; /* x not in the field */
    for (int i = 0; i < 4; i++) {
        CK_ECDH1_DERIVE_PARAMS ecdh = {CKD_NULL, 0, NULL, lens[i], bad[i]};
        CK_MECHANISM mechanism = {CKM_ECDH1_DERIVE, &ecdh, sizeof ecdh};
        CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
                            NUMBER(CKA_VALUE_LEN, 32), NO(CKA_TOKEN)};
        REFUSED(p11->C_DeriveKey(session, &mechanism, priv, t, COUNT(t), &key));
        CK_BYTE encoded[69] = {4, (CK_BYTE)lens[i]};
        memcpy(encoded + 2, bad[i], lens[i]);
        CK_ATTRIBUTE c[] = {NUMBER(CKA_CLASS, CKO_PUBLIC_KEY), NUMBER(CKA_KEY_TYPE, CKK_EC),
                            BYTES(CKA_EC_PARAMS, P256_OID), {CKA_EC_POINT, encoded, lens[i] + 2}, NO(CKA_TOKEN)};
        if (!REFUSED(p11->C_CreateObject(session, c, COUNT(c), &key))) fprintf(stderr, "  point %d\n", i);
    }
    /* Private scalars: zero, and the group order. */
    static const CK_BYTE order[32] = {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                      0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63,
                                      0x25, 0x51};
    static const CK_BYTE zero[32];
    const CK_BYTE *scalars[] = {order, zero};
    for (int i = 0; i < 2; i++) {
        CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_PRIVATE_KEY), NUMBER(CKA_KEY_TYPE, CKK_EC),
                            BYTES(CKA_EC_PARAMS, P256_OID), {CKA_VALUE, (void *)(uintptr_t)scalars[i], 32},
                            NO(CKA_TOKEN)};
        REFUSED(p11->C_CreateObject(session, t, COUNT(t), &key));
    }
}

/* X25519 with a point of small order gives zero: refused. */
static void small_order_x25519(void) {
    static const CK_BYTE oid[] = {6, 3, 0x2b, 0x65, 0x6e};
    CK_OBJECT_HANDLE pub, priv, key;
    CK_BYTE low[32] = {0};
    CK_MECHANISM generate = {CKM_EC_MONTGOMERY_KEY_PAIR_GEN, NULL, 0};
    CK_ATTRIBUTE public_[] = {BYTES(CKA_EC_PARAMS, oid), NO(CKA_TOKEN)}, private_[] = {YES(CKA_DERIVE), NO(CKA_TOKEN)};
    OK(p11->C_GenerateKeyPair(session, &generate, public_, 2, private_, 2, &pub, &priv));
    for (int i = 0; i < 2; i++) {
        low[0] = (CK_BYTE)i;
        CK_ECDH1_DERIVE_PARAMS ecdh = {CKD_NULL, 0, NULL, 32, low};
        CK_MECHANISM mechanism = {CKM_ECDH1_DERIVE, &ecdh, sizeof ecdh};
        CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
                            NUMBER(CKA_VALUE_LEN, 32), NO(CKA_TOKEN)};
        REFUSED(p11->C_DeriveKey(session, &mechanism, priv, t, COUNT(t), &key));
    }
}

/* GCM: no empty IV, no tag of a few bits, and CKM_AES_GCM's counter is not the caller's to choose. */
static void gcm_misuse(void) {
    CK_OBJECT_HANDLE key;
    CK_BYTE iv[16] = {0};
    OK(AES(session, 16, &key, YES(CKA_ENCRYPT), YES(CKA_DECRYPT)));
    CK_GCM_PARAMS params = {iv, 0, 0, NULL, 0, 128};
    CK_MECHANISM gcm = {CKM_AES_GCM, &params, sizeof params};
    REFUSED(p11->C_EncryptInit(session, &gcm, key));
    static const CK_ULONG tags[] = {0, 8, 16, 24, 129, 256};
    for (size_t i = 0; i < COUNT(tags); i++) {
        params = (CK_GCM_PARAMS){iv, 12, 96, NULL, 0, tags[i]};
        if (!REFUSED(p11->C_DecryptInit(session, &gcm, key))) fprintf(stderr, "  tag of %lu bits\n", tags[i]);
        (void)p11->C_DecryptInit(session, NULL, 0);
    }
}

/* Another class or type for the same bytes: an unwrap template may not turn one kind into another
 * that is weaker, and a template of the unwrapping key binds. */
static void templates_bind(void) {
    CK_OBJECT_HANDLE kek, key, free_key;
    CK_BYTE wrapped[1024];
    CK_ULONG len;
    CK_ATTRIBUTE inner[] = {YES(CKA_ENCRYPT), NO(CKA_EXTRACTABLE)};
    CK_ATTRIBUTE only_signers[] = {YES(CKA_SIGN)};
    OK(AES(session, 32, &kek, YES(CKA_WRAP), YES(CKA_UNWRAP), {CKA_UNWRAP_TEMPLATE, inner, sizeof inner}));
    OK(wrap(&key_wrap, kek, target(), wrapped, &len));
    CHECK_RV(UNWRAP(&key_wrap, kek, wrapped, len, &key, YES(CKA_EXTRACTABLE)), CKR_TEMPLATE_INCONSISTENT);
    OK(UNWRAP(&key_wrap, kek, wrapped, len, &key));
    CHECK(get_bool(session, key, CKA_EXTRACTABLE) == 0);
    CK_ATTRIBUTE lasting[] = {YES(CKA_TOKEN)};
    OK(AES(session, 32, &kek, YES(CKA_WRAP), YES(CKA_UNWRAP), {CKA_UNWRAP_TEMPLATE, lasting, sizeof lasting}));
    OK(wrap(&key_wrap, kek, target(), wrapped, &len));
    CHECK_RV(UNWRAP(&key_wrap, kek, wrapped, len, &key), CKR_TEMPLATE_INCONSISTENT);
    OK(AES(session, 32, &kek, YES(CKA_WRAP), {CKA_WRAP_TEMPLATE, only_signers, sizeof only_signers}));
    OK(AES(session, 32, &free_key, YES(CKA_EXTRACTABLE), NO(CKA_SIGN), YES(CKA_ENCRYPT)));
    REFUSED(wrap(&key_wrap, kek, free_key, wrapped, &len));
}

/* Raw RSA under a key that signs with padding: kept apart by ALLOWED_MECHANISMS if one wishes; a
 * decryption key does not sign by default and the other way round. */
static void sign_and_decrypt_apart(void) {
    CK_OBJECT_HANDLE pub, priv;
    CK_ATTRIBUTE signs[] = {YES(CKA_SIGN), NO(CKA_DECRYPT)}, decrypts[] = {YES(CKA_DECRYPT), NO(CKA_SIGN)};
    OK(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0, signs, 2, &pub, &priv));
    CHECK_RV(p11->C_DecryptInit(session, &raw_rsa, priv), CKR_KEY_FUNCTION_NOT_PERMITTED);
    OK(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0, decrypts, 2, &pub, &priv));
    CHECK_RV(p11->C_SignInit(session, &raw_rsa, priv), CKR_KEY_FUNCTION_NOT_PERMITTED);
}

/* Makes the token object of that label TRUSTED: the SO does it, or in a fleet, where he may not, its
 * operators. */
static CK_OBJECT_HANDLE trust(CK_ATTRIBUTE *label) {
    CK_OBJECT_HANDLE key = 0;
    char id[33] = "";
    OK(p11->C_Logout(session));
    OK(login(session, CKU_SO, SO_PIN));
    CHECK(find(session, label, 1, &key) == 1);
    CHECK_RV(set_bool(session, key, CKA_TRUSTED, 1), founder() ? CKR_ATTRIBUTE_READ_ONLY : CKR_OK);
    OK(p11->C_Logout(session));
    OK(login(session, CKU_USER, USER_PIN));
    CHECK(find(session, label, 1, &key) == 1);
    if (founder()) {
        CHECK(get_bool(session, key, CKA_TRUSTED) == 0 && get(session, key, CKA_UNIQUE_ID, id, 32) == 32);
        ask_founder("\"slot\": %lu, \"do\": \"trust_key\", \"with\": {\"object\": \"%s\"}", test_slot, id);
        /* Attributes are what the host read of its database, a second ago at most. */
        for (double end = now() + 10; get_bool(session, key, CKA_TRUSTED) != 1 && now() < end;) usleep(20000);
    }
    return key;
}

/* TRUSTED as the SO or the operators give it, and what it then allows. */
static void trusted_by_others(void) {
    CK_OBJECT_HANDLE kek, key;
    CK_BYTE wrapped[1024];
    CK_ULONG len;
    CK_ATTRIBUTE label[] = {TEXT(CKA_LABEL, "to be trusted")};
    OK(AES(session, 32, &kek, YES(CKA_TOKEN), NO(CKA_PRIVATE), YES(CKA_WRAP), NO(CKA_DECRYPT), NO(CKA_ENCRYPT),
           TEXT(CKA_LABEL, "to be trusted")));
    kek = trust(label);
    CHECK(get_bool(session, kek, CKA_TRUSTED) == 1);
    OK(AES(session, 32, &key, YES(CKA_WRAP_WITH_TRUSTED), YES(CKA_EXTRACTABLE)));
    OK(wrap(&key_wrap, kek, key, wrapped, &len));
    /* The user cannot turn a trusted wrapper into a decrypter, nor copy the mark. */
    REFUSED(set_bool(session, kek, CKA_DECRYPT, 1));
    CK_ATTRIBUTE session_copy[] = {NO(CKA_TOKEN)};
    CK_OBJECT_HANDLE copy;
    if (p11->C_CopyObject(session, kek, session_copy, 1, &copy) == CKR_OK)
        CHECK(get_bool(session, copy, CKA_TRUSTED) != 1);
    OK(p11->C_DestroyObject(session, kek));
}

/* A key made neither to wrap nor to decrypt, of which one copy comes to wrap and another to
 * decrypt: nobody's word makes the first a wrapper of sensitive keys. */
static void trusted_with_a_copy_that_decrypts(void) {
    CK_OBJECT_HANDLE kek, copy;
    CK_BYTE wrapped[1024];
    CK_ULONG len;
    CK_ATTRIBUTE label[] = {TEXT(CKA_LABEL, "signs")},
                 decrypts[] = {NO(CKA_TOKEN), YES(CKA_DECRYPT), TEXT(CKA_LABEL, "decrypts")};
    OK(AES(session, 32, &kek, YES(CKA_TOKEN), NO(CKA_PRIVATE), YES(CKA_SIGN), NO(CKA_WRAP), NO(CKA_UNWRAP),
           NO(CKA_DECRYPT), NO(CKA_ENCRYPT), label[0]));
    OK(p11->C_CopyObject(session, kek, decrypts, 3, &copy));
    OK(set_bool(session, kek, CKA_WRAP, 1));
    kek = trust(label);
    CHECK_RV(wrap(&key_wrap, kek, target(), wrapped, &len), CKR_KEY_NOT_WRAPPABLE);
    OK(p11->C_DestroyObject(session, kek));
}

/* What is refused above is done where HSMs are told to, and there alone. */
static void allowed_by_the_settings(void) {
    CK_OBJECT_HANDLE both, pub, priv, key;
    CK_ATTRIBUTE encrypts[] = {YES(CKA_ENCRYPT)}, unwraps[] = {YES(CKA_UNWRAP)};
    CK_BYTE wrapped[1024], sealed[256], value[32] = {1}, iv[16] = {0};
    CK_ULONG len = sizeof sealed;
    CK_MECHANISM cbc_pad = {CKM_AES_CBC_PAD, iv, 16};
    OK(p11->C_Finalize(NULL));
    configure_hsms("key_separation = 'off'\npkcs1_unwrap = true\ncbc_pad_unwrap = true\n",
                   ", \"key_separation\": \"off\", \"pkcs1_unwrap\": \"on\", \"cbc_pad_unwrap\": \"on\"");
    OK(initialize());
    session = open_session(make_token("lenient"));
    OK(login(session, CKU_USER, USER_PIN));
    OK(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, encrypts, 1, unwraps, 1, &pub, &priv));
    OK(p11->C_EncryptInit(session, &pkcs, pub));
    OK(p11->C_Encrypt(session, value, sizeof value, sealed, &len));
    OK(UNWRAP(&pkcs, priv, sealed, len, &key, YES(CKA_SENSITIVE)));
    OK(AES(session, 32, &both, YES(CKA_WRAP), YES(CKA_UNWRAP), YES(CKA_DECRYPT)));
    OK(wrap(&cbc_pad, both, target(), wrapped, &len));
    OK(UNWRAP(&cbc_pad, both, wrapped, len, &key, YES(CKA_SENSITIVE)));
    if (!founder()) return;
    /* The fleet of before has its own settings. */
    CK_SESSION_HANDLE lenient = session;
    session = open_session(test_slot);
    OK(login(session, CKU_USER, USER_PIN));
    wrap_then_decrypt();
    padding_oracle();
    session = lenient;
}

int main(int argc, char **argv) {
    start(argc, argv);
    session = user_session();
    RUN(the_proper_way_works);
    RUN(wrap_then_decrypt);
    RUN(wrap_then_encrypt);
    RUN(usage_added_later);
    RUN(usage_added_by_copy);
    RUN(unwrap_as_decrypt);
    RUN(wrapping_key_reimported);
    RUN(wrapper_known_to_the_attacker);
    RUN(imported_public_key);
    RUN(attributes_loosened);
    RUN(allowed_mechanisms);
    RUN(trusted_by_the_user);
    RUN(wrap_with_trusted);
    RUN(weak_wrapping_key);
    RUN(unextractable);
    RUN(padding_oracle);
    RUN(unwrap_oracles);
    RUN(unwrap_without_integrity);
    RUN(oaep_oracle);
    RUN(find_by_secret);
    RUN(digest_of_a_secret);
    RUN(derivation_attacks);
    RUN(hkdf_salt_signs);
    RUN(bad_rsa_values);
    RUN(bad_points);
    RUN(small_order_x25519);
    RUN(gcm_misuse);
    RUN(templates_bind);
    RUN(sign_and_decrypt_apart);
    RUN(trusted_by_others);
    RUN(trusted_with_a_copy_that_decrypts);
    RUN(allowed_by_the_settings);
    OK(p11->C_Finalize(NULL));
    return finish();
}
