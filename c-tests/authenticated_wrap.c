/* C_WrapKeyAuthenticated and C_UnwrapKeyAuthenticated with CKM_AES_GCM: the caller's memory, the
 * length convention, and the attacks on a stream mode that wraps. */
#include "harness.h"

static CK_SESSION_HANDLE session;
static CK_C_WrapKeyAuthenticated wrap_authenticated;
static CK_C_UnwrapKeyAuthenticated unwrap_authenticated;
static CK_BYTE aad[] = "the caller's own words";

/* A parameter with its places. */
struct gcm {
    CK_BYTE iv[12], tag[16];
    CK_GCM_MESSAGE_PARAMS params;
    CK_MECHANISM mechanism;
};

static CK_MECHANISM *gcm(struct gcm *gcm, CK_GENERATOR_FUNCTION generator) {
    gcm->params = (CK_GCM_MESSAGE_PARAMS){gcm->iv, sizeof gcm->iv, 0, generator, gcm->tag, 128};
    gcm->mechanism = (CK_MECHANISM){CKM_AES_GCM, &gcm->params, sizeof gcm->params};
    return &gcm->mechanism;
}

static CK_RV wrap(CK_MECHANISM *mechanism, CK_OBJECT_HANDLE with, CK_OBJECT_HANDLE key, CK_BYTE *out, CK_ULONG *len) {
    return wrap_authenticated(session, mechanism, with, key, aad, sizeof aad, out, len);
}

static CK_RV unwrap(CK_MECHANISM *mechanism, CK_OBJECT_HANDLE with, CK_BYTE *wrapped, CK_ULONG len,
                    CK_OBJECT_HANDLE *key) {
    CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), NO(CKA_TOKEN),
                        YES(CKA_EXTRACTABLE)};
    *key = 0;
    return unwrap_authenticated(session, mechanism, with, wrapped, len, t, COUNT(t), aad, sizeof aad, key);
}

static CK_OBJECT_HANDLE target(void) {
    CK_OBJECT_HANDLE key;
    OK(AES(session, 32, &key, YES(CKA_SENSITIVE), YES(CKA_EXTRACTABLE)));
    return key;
}

/* A key whose value the caller knows: 32 bytes of `fill`. */
static CK_OBJECT_HANDLE known(int fill) {
    CK_BYTE value[32];
    CK_OBJECT_HANDLE key = 0;
    memset(value, fill, sizeof value);
    CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), BYTES(CKA_VALUE, value),
                        NO(CKA_TOKEN), NO(CKA_SENSITIVE), YES(CKA_EXTRACTABLE)};
    OK(p11->C_CreateObject(session, t, COUNT(t), &key));
    return key;
}

static CK_MECHANISM_TYPE only_gcm[] = {CKM_AES_GCM};

/* A key that wraps with CKM_AES_GCM and nothing else. */
static CK_OBJECT_HANDLE wrapper(void) {
    CK_OBJECT_HANDLE key;
    OK(AES(session, 32, &key, YES(CKA_WRAP), YES(CKA_UNWRAP), BYTES(CKA_ALLOWED_MECHANISMS, only_gcm)));
    return key;
}

static void wraps_and_unwraps(void) {
    struct gcm one = {{0}, {0}}, two = {{0}, {0}};
    CK_BYTE wrapped[64], again[64];
    CK_ULONG len = sizeof wrapped, again_len = sizeof again;
    CK_OBJECT_HANDLE kek = wrapper(), key = target(), back;
    OK(wrap(gcm(&one, CKG_GENERATE), kek, key, wrapped, &len));
    CHECK(len == 32);
    OK(wrap(gcm(&two, CKG_GENERATE_RANDOM), kek, key, again, &again_len));
    CHECK(memcmp(one.iv, two.iv, 12) && memcmp(one.tag, two.tag, 16) && memcmp(wrapped, again, 32));
    /* What the unwrapping ignores. */
    one.params.ivGenerator = CKG_GENERATE_COUNTER;
    one.params.ulIvFixedBits = 99999;
    OK(unwrap(&one.mechanism, kek, wrapped, len, &back));
    CHECK(get_bool(session, back, CKA_LOCAL) == 0);
    CHECK(get_bool(session, back, CKA_SENSITIVE) == 1);
    CHECK(get_bool(session, back, CKA_ALWAYS_SENSITIVE) == 0);
    CHECK(get_bool(session, back, CKA_NEVER_EXTRACTABLE) == 0);
    /* The same key: what it wraps again with the first key's mechanism is of the same length, and
     * both encrypt alike. */
    CK_BYTE block[16] = {1}, a[16], b[16];
    CK_MECHANISM ecb = {CKM_AES_ECB, NULL, 0};
    CK_OBJECT_HANDLE both[] = {key, back};
    for (int i = 0; i < 2; i++) {
        CK_ULONG n = 16;
        if (OK(p11->C_EncryptInit(session, &ecb, both[i]))) OK(p11->C_Encrypt(session, block, 16, i ? b : a, &n));
    }
    CHECK(!memcmp(a, b, 16));
}

static void one_error_for_whatever_was_changed(void) {
    struct gcm p = {{0}, {0}};
    CK_BYTE wrapped[64];
    CK_ULONG len = sizeof wrapped;
    CK_OBJECT_HANDLE kek = wrapper(), back;
    OK(wrap(gcm(&p, CKG_GENERATE), kek, target(), wrapped, &len));
    struct {
        CK_BYTE *start;
        CK_ULONG len;
    } parts[] = {{wrapped, len}, {p.tag, 16}, {p.iv, 12}, {aad, sizeof aad}};
    for (size_t part = 0; part < COUNT(parts); part++)
        for (CK_ULONG at = 0; at < parts[part].len; at++) {
            parts[part].start[at] ^= 0x20;
            CHECK_RV(unwrap(&p.mechanism, kek, wrapped, len, &back), CKR_WRAPPED_KEY_INVALID);
            CHECK(back == 0);
            parts[part].start[at] ^= 0x20;
        }
    CHECK_RV(unwrap(&p.mechanism, kek, wrapped, len - 1, &back), CKR_WRAPPED_KEY_INVALID);
    CHECK_RV(unwrap(&p.mechanism, wrapper(), wrapped, len, &back), CKR_WRAPPED_KEY_INVALID);
    OK(unwrap(&p.mechanism, kek, wrapped, len, &back));
}

static void nothing_is_written_without_room(void) {
    struct gcm p = {{7, 7}, {9, 9}};
    CK_BYTE wrapped[64];
    CK_ULONG len;
    CK_OBJECT_HANDLE kek = wrapper(), key = target();
    memset(wrapped, 0x55, sizeof wrapped);
    gcm(&p, CKG_GENERATE);
    OK(wrap(&p.mechanism, kek, key, NULL, &len));
    CHECK(len == 32);
    for (CK_ULONG room = 0; room < 32; room += 31) {
        len = room;
        CHECK_RV(wrap(&p.mechanism, kek, key, wrapped, &len), CKR_BUFFER_TOO_SMALL);
        CHECK(len == 32 && wrapped[0] == 0x55 && p.iv[0] == 7 && p.tag[0] == 9);
    }
    len = 32;
    OK(wrap(&p.mechanism, kek, key, wrapped, &len));
    CHECK(len == 32 && wrapped[32] == 0x55);
    CHECK_RV(wrap(&p.mechanism, kek, key, wrapped, NULL), CKR_ARGUMENTS_BAD);
    CHECK_RV(wrap_authenticated(session, &p.mechanism, kek, key, NULL, 5, wrapped, &len), CKR_ARGUMENTS_BAD);
    CHECK_RV(wrap(NULL, kek, key, wrapped, &len), CKR_ARGUMENTS_BAD);
    CHECK_RV(unwrap_authenticated(session, &p.mechanism, kek, wrapped, 32, NULL, 0, aad, sizeof aad, NULL),
             CKR_ARGUMENTS_BAD);
}

/* Without a place of its own the tag follows the ciphertext; the parameter is then CK_GCM_PARAMS
 * without pAAD. */
static void the_tag_may_follow(void) {
    CK_BYTE iv[12] = {1, 2, 3}, wrapped[64], apart[64];
    CK_ULONG len = sizeof wrapped, apart_len = sizeof apart;
    CK_GCM_PARAMS params = {iv, 12, 96, NULL, 0, 128};
    CK_MECHANISM mechanism = {CKM_AES_GCM, &params, sizeof params};
    CK_OBJECT_HANDLE kek, key = known(5), back;
    struct gcm p = {{1, 2, 3}, {0}};
    OK(AES(session, 32, &kek));
    OK(wrap(&mechanism, kek, key, wrapped, &len));
    CHECK(len == 48);
    OK(wrap(gcm(&p, CKG_NO_GENERATE), kek, key, apart, &apart_len));
    CHECK(apart_len == 32 && !memcmp(wrapped, apart, 32) && !memcmp(wrapped + 32, p.tag, 16));
    OK(unwrap(&mechanism, kek, wrapped, len, &back));
    CHECK_RV(unwrap(&mechanism, kek, wrapped, 15, &back), CKR_WRAPPED_KEY_LEN_RANGE);
}

static void parameters_are_checked(void) {
    struct gcm p = {{0}, {0}};
    CK_BYTE wrapped[64], long_iv[64] = {0};
    CK_ULONG len = sizeof wrapped;
    CK_OBJECT_HANDLE kek = wrapper(), key = target();
    static const struct {
        CK_ULONG iv_len, fixed_bits, generator, tag_bits;
    } wrong[] = {
        {12, 0, CKG_GENERATE_COUNTER, 128}, {12, 0, CKG_GENERATE_COUNTER_XOR, 128}, {12, 0, 77, 128},
        {12, 1, CKG_GENERATE, 128}, {12, 97, CKG_GENERATE, 128}, {8, 0, CKG_GENERATE, 128},
        {33, 0, CKG_GENERATE, 128}, {0, 0, CKG_GENERATE, 128}, {12, (CK_ULONG)-1, CKG_GENERATE, 128},
        {12, 0, CKG_GENERATE, 0}, {12, 0, CKG_GENERATE, 100}, {12, 0, CKG_GENERATE, 136},
        {12, 0, CKG_GENERATE, (CK_ULONG)-1}, {12, 0, CKG_GENERATE, 64}, {12, 0, CKG_NO_GENERATE, 128},
    };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        gcm(&p, wrong[i].generator);
        p.params.pIv = long_iv;
        p.params.ulIvLen = wrong[i].iv_len;
        p.params.ulIvFixedBits = wrong[i].fixed_bits;
        p.params.ulTagBits = wrong[i].tag_bits;
        len = sizeof wrapped;
        if (!CHECK_RV(wrap(&p.mechanism, kek, key, wrapped, &len), CKR_MECHANISM_PARAM_INVALID))
            fprintf(stderr, "  row %zu\n", i);
    }
    gcm(&p, CKG_GENERATE)->ulParameterLen -= 8;
    CHECK_RV(wrap(&p.mechanism, kek, key, wrapped, &len), CKR_MECHANISM_PARAM_INVALID);
    gcm(&p, CKG_GENERATE);
    p.params.pIv = NULL;
    CHECK_RV(wrap(&p.mechanism, kek, key, wrapped, &len), CKR_MECHANISM_PARAM_INVALID);
    CK_MECHANISM key_wrap = {CKM_AES_KEY_WRAP, NULL, 0};
    CHECK_RV(wrap(&key_wrap, kek, key, wrapped, &len), CKR_MECHANISM_INVALID);
}

/* C_WrapKey with CK_GCM_WRAP_PARAMS: the tag follows, and the bits that are fixed stay. */
static void wrap_params(void) {
    CK_BYTE iv[16] = {0xaa, 0xbb, 0xcc, 0xdd}, wrapped[64];
    CK_ULONG len = sizeof wrapped;
    CK_GCM_WRAP_PARAMS params = {iv, 16, 32, CKG_GENERATE, aad, sizeof aad, 128};
    CK_MECHANISM mechanism = {CKM_AES_GCM, &params, sizeof params};
    CK_OBJECT_HANDLE kek = wrapper(), back = 0;
    OK(p11->C_WrapKey(session, &mechanism, kek, target(), wrapped, &len));
    CHECK(len == 48);
    CHECK(iv[0] == 0xaa && iv[3] == 0xdd);
    CHECK(memcmp(iv + 4, (CK_BYTE[12]){0}, 12));
    CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), NO(CKA_TOKEN)};
    OK(p11->C_UnwrapKey(session, &mechanism, kek, wrapped, len, t, COUNT(t), &back));
    params.ulAADLen--;
    CHECK_RV(p11->C_UnwrapKey(session, &mechanism, kek, wrapped, len, t, COUNT(t), &back), CKR_WRAPPED_KEY_INVALID);
}

/* An IV that is used twice gives the difference of two keys; one that is known beforehand can be had
 * the key stream of, with a known key or another mode. */
static void no_key_stream(void) {
    static const CK_MECHANISM_TYPE two[] = {CKM_AES_GCM, CKM_AES_ECB};
    struct gcm p = {{0}, {0}};
    CK_BYTE wrapped[64];
    CK_ULONG len = sizeof wrapped;
    CK_OBJECT_HANDLE kek, copy;
    CK_MECHANISM ecb = {CKM_AES_ECB, NULL, 0};
    GCM(caller_iv, p.iv);
    /* Any mechanism, or one more than CKM_AES_GCM: no sensitive key. */
    OK(AES(session, 32, &kek, YES(CKA_WRAP), YES(CKA_UNWRAP)));
    CHECK_RV(wrap(gcm(&p, CKG_GENERATE), kek, target(), wrapped, &len), CKR_KEY_NOT_WRAPPABLE);
    OK(AES(session, 32, &kek, YES(CKA_WRAP), BYTES(CKA_ALLOWED_MECHANISMS, two)));
    CHECK_RV(wrap(&p.mechanism, kek, target(), wrapped, &len), CKR_KEY_NOT_WRAPPABLE);
    /* Nor after the list got shorter: a copy may have kept the longer one. */
    CK_ATTRIBUTE shorter[] = {BYTES(CKA_ALLOWED_MECHANISMS, only_gcm)};
    OK(p11->C_SetAttributeValue(session, kek, shorter, 1));
    CHECK_RV(wrap(&p.mechanism, kek, target(), wrapped, &len), CKR_KEY_NOT_WRAPPABLE);
    /* A key that encrypts or decrypts as well, or was imported. */
    OK(AES(session, 32, &kek, YES(CKA_WRAP), YES(CKA_ENCRYPT), BYTES(CKA_ALLOWED_MECHANISMS, only_gcm)));
    CHECK_RV(wrap(&p.mechanism, kek, target(), wrapped, &len), CKR_KEY_NOT_WRAPPABLE);
    CK_BYTE value[32] = {1};
    CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), BYTES(CKA_VALUE, value),
                        NO(CKA_TOKEN), YES(CKA_WRAP), BYTES(CKA_ALLOWED_MECHANISMS, only_gcm)};
    OK(p11->C_CreateObject(session, t, COUNT(t), &kek));
    CHECK_RV(wrap(&p.mechanism, kek, target(), wrapped, &len), CKR_KEY_NOT_WRAPPABLE);
    /* The right key wraps not even a known key under the caller's IV, nor with another mode, nor
     * does a copy of it. */
    CK_OBJECT_HANDLE proper = wrapper();
    CK_ATTRIBUTE any[] = {{CKA_ALLOWED_MECHANISMS, NULL, 0}}, more[] = {BYTES(CKA_ALLOWED_MECHANISMS, two)},
                 same[] = {NO(CKA_TOKEN)};
    REFUSED(p11->C_CopyObject(session, proper, any, 1, &copy));
    REFUSED(p11->C_CopyObject(session, proper, more, 1, &copy));
    OK(p11->C_CopyObject(session, proper, same, 1, &copy));
    REFUSED(set_bool(session, copy, CKA_ENCRYPT, 1));
    CK_OBJECT_HANDLE both[] = {proper, copy};
    for (int i = 0; i < 2; i++) {
        len = sizeof wrapped;
        OK(wrap(gcm(&p, CKG_GENERATE), both[i], target(), wrapped, &len));
        CHECK_RV(wrap(gcm(&p, CKG_NO_GENERATE), both[i], known(3), wrapped, &len), CKR_MECHANISM_PARAM_INVALID);
        CHECK_RV(p11->C_WrapKey(session, &caller_iv, both[i], known(3), wrapped, &len), CKR_MECHANISM_PARAM_INVALID);
        CHECK_RV(p11->C_WrapKey(session, &ecb, both[i], known(3), wrapped, &len), CKR_MECHANISM_INVALID);
        REFUSED(p11->C_EncryptInit(session, &caller_iv, both[i]));
    }
    /* A readable key out of a wrapped one. */
    len = sizeof wrapped;
    OK(wrap(gcm(&p, CKG_GENERATE), proper, target(), wrapped, &len));
    CK_ATTRIBUTE readable[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), NO(CKA_TOKEN),
                               NO(CKA_SENSITIVE)};
    CHECK_RV(unwrap_authenticated(session, &p.mechanism, proper, wrapped, len, readable, COUNT(readable), aad,
                                  sizeof aad, &copy),
             CKR_TEMPLATE_INCONSISTENT);
}

static void templates_bind(void) {
    struct gcm p = {{0}, {0}};
    CK_BYTE wrapped[64];
    CK_ULONG len = sizeof wrapped;
    CK_OBJECT_HANDLE kek, back, labelled;
    CK_ATTRIBUTE wanted[] = {TEXT(CKA_LABEL, "traveller")}, given[] = {NO(CKA_EXTRACTABLE)};
    OK(AES(session, 32, &kek, YES(CKA_WRAP), YES(CKA_UNWRAP), BYTES(CKA_ALLOWED_MECHANISMS, only_gcm),
           {CKA_WRAP_TEMPLATE, wanted, sizeof wanted}, {CKA_UNWRAP_TEMPLATE, given, sizeof given}));
    CHECK_RV(wrap(gcm(&p, CKG_GENERATE), kek, target(), wrapped, &len), CKR_KEY_HANDLE_INVALID);
    OK(AES(session, 32, &labelled, TEXT(CKA_LABEL, "traveller"), YES(CKA_EXTRACTABLE)));
    OK(wrap(&p.mechanism, kek, labelled, wrapped, &len));
    CHECK_RV(unwrap(&p.mechanism, kek, wrapped, len, &back), CKR_TEMPLATE_INCONSISTENT);
    CK_ATTRIBUTE t[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY), NUMBER(CKA_KEY_TYPE, CKK_AES), NO(CKA_TOKEN)};
    OK(unwrap_authenticated(session, &p.mechanism, kek, wrapped, len, t, COUNT(t), aad, sizeof aad, &back));
    CHECK(get_bool(session, back, CKA_EXTRACTABLE) == 0);
    OK(AES(session, 32, &labelled, NO(CKA_EXTRACTABLE)));
    CHECK_RV(wrap(&p.mechanism, wrapper(), labelled, wrapped, &len), CKR_KEY_UNEXTRACTABLE);
}

int main(int argc, char **argv) {
    start(argc, argv);
    *(void **)&wrap_authenticated = dlsym(module, "C_WrapKeyAuthenticated");
    *(void **)&unwrap_authenticated = dlsym(module, "C_UnwrapKeyAuthenticated");
    session = user_session();
    RUN(wraps_and_unwraps);
    RUN(one_error_for_whatever_was_changed);
    RUN(nothing_is_written_without_room);
    RUN(the_tag_may_follow);
    RUN(parameters_are_checked);
    RUN(wrap_params);
    RUN(no_key_stream);
    RUN(templates_bind);
    OK(p11->C_Finalize(NULL));
    return finish();
}
