/* Random calls with hostile arguments: handles good, stale and wild, lengths true, short and absurd,
 * mechanisms and templates made of pieces. Nothing is checked but that every call returns, that no
 * buffer is written behind its length, and that a fresh session still works afterwards.
 *
 * usage: fuzz MODULE SECONDS [SEED]. The seed is printed; the same seed makes the same calls. */
#include "harness.h"

static uint64_t state;
static CK_SESSION_HANDLE sessions[8];
static CK_OBJECT_HANDLE objects[64];
static int nobjects;
static CK_MECHANISM_TYPE mechanisms[512];
static CK_ULONG nmechanisms;
static CK_SLOT_ID slot;

/* xorshift64*: quick and the same everywhere. */
static uint64_t any(void) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1dULL;
}
static uint64_t below(uint64_t n) { return any() % n; }
static int one_in(uint64_t n) { return below(n) == 0; }

static CK_SESSION_HANDLE session(void) {
    if (one_in(40)) return any();
    return sessions[below(COUNT(sessions))];
}

static CK_OBJECT_HANDLE object(void) {
    if (!nobjects || one_in(30)) return one_in(2) ? below(100) : any();
    return objects[below((uint64_t)nobjects)];
}

static void remember(CK_OBJECT_HANDLE handle) {
    if (nobjects < (int)COUNT(objects)) objects[nobjects++] = handle;
    else objects[below(COUNT(objects))] = handle;
}

/* A length for a buffer of `true_` bytes: mostly true, sometimes shorter, sometimes absurd. Absurd
 * lengths are those that no process can have. */
static CK_ULONG length(CK_ULONG true_) {
    static const CK_ULONG absurd[] = {~0UL, ~0UL - 7, ~0UL / 2, 1UL << 63, (1UL << 63) + 8, ~0UL / 24 + 1};
    if (one_in(25)) return absurd[below(COUNT(absurd))];
    return one_in(3) ? below(true_ + 1) : true_;
}

/* Blocks of memory with random contents, each used for one argument of a call. */
#define BLOCK 512
static CK_BYTE blocks[24][BLOCK];
static int next_block;
static CK_BYTE *block(void) {
    CK_BYTE *at = blocks[next_block++ % COUNT(blocks)];
    uint64_t fill = any();
    if (one_in(2)) memset(at, (int)fill, BLOCK);
    else
        for (int i = 0; i < BLOCK; i += 8) {
            fill = any();
            memcpy(at + i, &fill, 8);
        }
    return at + (one_in(4) ? 1 : 0);
}
#define ROOM (BLOCK - 8)
static CK_BYTE *maybe_null(CK_BYTE *at) { return one_in(15) ? NULL : at; }

static CK_ULONG numbers[64];
static int next_number;
static CK_ULONG *number(CK_ULONG value) {
    CK_ULONG *at = &numbers[next_number++ % COUNT(numbers)];
    *at = value;
    return at;
}

static const CK_BYTE p384_oid[] = {6, 5, 0x2b, 0x81, 4, 0, 0x22}, ed_oid[] = {6, 3, 0x2b, 0x65, 0x70},
                     x_oid[] = {6, 3, 0x2b, 0x65, 0x6e};
static const CK_ATTRIBUTE_TYPE bools[] = {
    CKA_TOKEN,  CKA_PRIVATE,        CKA_SENSITIVE,        CKA_EXTRACTABLE, CKA_ENCRYPT,  CKA_DECRYPT,
    CKA_WRAP,   CKA_UNWRAP,         CKA_SIGN,             CKA_VERIFY,      CKA_DERIVE,   CKA_MODIFIABLE,
    CKA_LOCAL,  CKA_SIGN_RECOVER,   CKA_VERIFY_RECOVER,   CKA_TRUSTED,     CKA_COPYABLE, CKA_ALWAYS_AUTHENTICATE,
    CKA_DESTROYABLE, CKA_WRAP_WITH_TRUSTED, CKA_NEVER_EXTRACTABLE};
static const CK_ATTRIBUTE_TYPE blobs[] = {
    CKA_LABEL,    CKA_ID,          CKA_VALUE,   CKA_MODULUS,    CKA_PUBLIC_EXPONENT, CKA_PRIVATE_EXPONENT,
    CKA_PRIME_1,  CKA_EC_POINT,    CKA_SUBJECT, CKA_ISSUER,     CKA_SERIAL_NUMBER,   CKA_APPLICATION,
    CKA_START_DATE, CKA_END_DATE,  CKA_CHECK_VALUE, CKA_PUBLIC_KEY_INFO, CKA_UNIQUE_ID, CKA_EC_PARAMS};
static const CK_ULONG classes[] = {CKO_DATA, CKO_CERTIFICATE, CKO_PUBLIC_KEY, CKO_PRIVATE_KEY, CKO_SECRET_KEY,
                                   CKO_PROFILE, CKO_MECHANISM};
static const CK_ULONG key_types[] = {CKK_RSA, CKK_EC, CKK_EC_EDWARDS, CKK_EC_MONTGOMERY, CKK_AES, CKK_GENERIC_SECRET,
                                     CKK_SHA256_HMAC, CKK_HKDF};

static CK_ATTRIBUTE templates[4][16];
static int next_template;
/* Mostly well-formed attributes; sometimes wrong sizes, a nested template, a repeated one. */
static CK_ATTRIBUTE *template_(CK_ULONG *n, int depth) {
    CK_ATTRIBUTE *t = templates[next_template++ % COUNT(templates)];
    CK_ULONG count = below(12);
    for (CK_ULONG i = 0; i < count; i++) {
        switch (below(9)) {
        case 0: t[i] = (CK_ATTRIBUTE){CKA_CLASS, number(classes[below(COUNT(classes))]), 8}; break;
        case 1: t[i] = (CK_ATTRIBUTE){CKA_KEY_TYPE, number(key_types[below(COUNT(key_types))]), 8}; break;
        case 2: t[i] = (CK_ATTRIBUTE){CKA_VALUE_LEN, number(one_in(8) ? any() : below(80)), 8}; break;
        case 3: {
            const CK_BYTE *oids[] = {P256_OID, p384_oid, ed_oid, x_oid};
            CK_ULONG lens[] = {10, 7, 5, 5}, which = below(4);
            t[i] = (CK_ATTRIBUTE){CKA_EC_PARAMS, (void *)(uintptr_t)oids[which], lens[which]};
            break;
        }
        case 4: t[i] = (CK_ATTRIBUTE){blobs[below(COUNT(blobs))], maybe_null(block()), length(below(80))}; break;
        case 5:
            if (depth < 2 && one_in(3)) {
                CK_ULONG inner;
                CK_ATTRIBUTE *nested = template_(&inner, depth + 1);
                t[i] = (CK_ATTRIBUTE){CKA_UNWRAP_TEMPLATE, nested, inner * sizeof *nested};
                break;
            }
            t[i] = (CK_ATTRIBUTE){any(), block(), below(64)};
            break;
        default: t[i] = (CK_ATTRIBUTE){bools[below(COUNT(bools))], number(below(2)), one_in(20) ? below(9) : 1};
        }
    }
    *n = one_in(60) ? length(count) : count;
    if (*n > count && *n < 1000) *n = count;
    return one_in(30) ? NULL : t;
}

static CK_MECHANISM mechanism_store[8];
static CK_BYTE parameter_store[8][128];
static int next_mechanism;
static CK_MECHANISM *mechanism(void) {
    int at = next_mechanism++ % (int)COUNT(mechanism_store);
    CK_MECHANISM *m = &mechanism_store[at];
    CK_BYTE *parameter = parameter_store[at];
    memset(parameter, 0, 128);
    *m = (CK_MECHANISM){one_in(30) ? any() : mechanisms[below(nmechanisms)], NULL, 0};
    /* A structure goes with its own mechanism: another's would take lengths for pointers, and nothing
     * can defend itself against a wild pointer. */
    switch (below(9)) {
    case 0: break;
    case 1: /* an IV; in CK_RSA_AES_KEY_WRAP_PARAMS it would be a pointer that no length goes with */
        if (m->mechanism == CKM_RSA_AES_KEY_WRAP) break;
        m->pParameter = block();
        m->ulParameterLen = 16;
        break;
    case 2: {
        CK_GCM_PARAMS p = {maybe_null(block()), length(12), below(200), maybe_null(block()), length(40),
                           one_in(2) ? 128 : below(140)};
        memcpy(parameter, &p, sizeof p);
        m->pParameter = parameter, m->ulParameterLen = sizeof p;
        m->mechanism = CKM_AES_GCM;
        break;
    }
    case 3: {
        CK_RSA_PKCS_PSS_PARAMS p = {one_in(5) ? any() : CKM_SHA256, 1 + below(6), one_in(5) ? any() : below(64)};
        memcpy(parameter, &p, sizeof p);
        m->pParameter = parameter, m->ulParameterLen = sizeof p;
        m->mechanism = CKM_SHA256_RSA_PKCS_PSS;
        break;
    }
    case 4: {
        CK_RSA_PKCS_OAEP_PARAMS p = {CKM_SHA256, 1 + below(6), below(3), maybe_null(block()), length(20)};
        memcpy(parameter, &p, sizeof p);
        m->pParameter = parameter, m->ulParameterLen = sizeof p;
        m->mechanism = CKM_RSA_PKCS_OAEP;
        break;
    }
    case 5: {
        CK_ECDH1_DERIVE_PARAMS p = {1 + below(9), length(30), maybe_null(block()), length(65), maybe_null(block())};
        memcpy(parameter, &p, sizeof p);
        m->pParameter = parameter, m->ulParameterLen = sizeof p;
        m->mechanism = one_in(2) ? CKM_ECDH1_DERIVE : CKM_ECDH1_COFACTOR_DERIVE;
        break;
    }
    case 6: {
        CK_AES_CTR_PARAMS p = {one_in(3) ? any() : 128, {0}};
        memcpy(parameter, &p, sizeof p);
        m->pParameter = parameter, m->ulParameterLen = sizeof p;
        m->mechanism = CKM_AES_CTR;
        break;
    }
    case 7: {
        CK_HKDF_PARAMS p = {below(2) != 0, below(2) != 0, CKM_SHA256, 1 + below(4), maybe_null(block()), length(16),
                            object(), maybe_null(block()), length(16)};
        memcpy(parameter, &p, sizeof p);
        m->pParameter = parameter, m->ulParameterLen = sizeof p;
        m->mechanism = CKM_HKDF_DERIVE;
        break;
    }
    default: /* zeros of any length: NULL pointers with no length in every structure */
        m->pParameter = parameter, m->ulParameterLen = below(128);
    }
    if (one_in(40)) m->ulParameterLen = length(m->ulParameterLen);
    return one_in(40) ? NULL : m;
}

/* An output buffer with a guard behind the length that the call is told. */
static CK_BYTE output[4096];
static CK_ULONG output_len, told;
static CK_BYTE *out(void) {
    output_len = told = one_in(3) ? below(64) : 1024;
    memset(output, 0xc7, sizeof output);
    return one_in(12) ? NULL : output;
}
static CK_ULONG *out_len(void) { return one_in(60) ? NULL : &output_len; }

/* The vendor's functions, if the module has them. */
static KMS_FUNCTION_LIST *kms;

static void find_vendor(void) {
    CK_RV (*get_interface)(CK_UTF8CHAR *, CK_VERSION *, CK_INTERFACE **, CK_FLAGS);
    CK_INTERFACE *found = NULL;
    *(void **)&get_interface = dlsym(module, "C_GetInterface");
    if (get_interface && get_interface((CK_UTF8CHAR *)KMS_INTERFACE_NAME, NULL, &found, 0) == CKR_OK)
        kms = found->pFunctionList;
}

/* A proposal, mostly with a byte changed, a part left out, or noise at its end. */
static CK_BYTE *paper(CK_ULONG *n) {
    static CK_BYTE fresh[1024], copies[4][1024];
    static CK_ULONG fresh_len;
    static int next;
    static const char request[] = "{\"command\":\"rotate domain key\",\"retain\":60,\"valid_for\":1}";
    if (!fresh_len || one_in(500)) {
        fresh_len = sizeof fresh;
        if (kms->KMS_Propose(sessions[0], (CK_BYTE *)(uintptr_t)request, strlen(request), fresh, &fresh_len) != CKR_OK)
            fresh_len = 0;
    }
    CK_BYTE *copy = copies[next++ % COUNT(copies)];
    memcpy(copy, fresh, sizeof fresh);
    *n = fresh_len;
    if (fresh_len && one_in(2)) copy[below(fresh_len)] ^= (CK_BYTE)(1 << below(8));
    if (fresh_len && one_in(4)) copy[below(fresh_len)] = (CK_BYTE)any();
    if (one_in(4)) *n = length(fresh_len);
    return one_in(30) ? NULL : copy;
}

/* Managed keys, and messages between Regions. */
static char key_ids[8][KMS_ID_LEN + 1];

/* A request, mostly of the right form, about a key that may be there. */
static CK_BYTE *asking(CK_ULONG *n) {
    static char texts[4][512];
    static int next;
    static const char *const formats[] = {
        "{\"KeyId\":\"%s\"}",
        "{\"KeyId\":\"%s\",\"PendingWindowInDays\":7}",
        "{\"KeyId\":\"%s\",\"Enabled\":true}",
        "{\"KeyId\":\"%s\",\"Tags\":[{\"TagKey\":\"a\",\"TagValue\":\"b\"}]}",
        "{\"KeyId\":\"%s\",\"Description\":\"x\"}",
        "{\"TargetKeyId\":\"%s\",\"AliasName\":\"alias/a\"}",
        "{\"KeyId\":\"%s\",\"Policy\":{\"Statement\":[{\"Principal\":[\"*\"],\"Action\":[\"*\"]}]}}",
        "{\"KeyId\":\"%s\",\"GranteePrincipal\":\"so\",\"Operations\":[\"Encrypt\"]}",
        "{\"KeyId\":\"%s\",\"ReplicaRegion\":\"Bern\"}",
        "{\"KeyId\":\"%s\",\"PrimaryRegion\":\"Bern\"}",
        "{\"Region\":\"Bern\",\"KeyIds\":[\"%s\"]}",
        "{\"Kind\":\"request\",\"Region\":\"Bern\",\"KeyIds\":[\"%s\"]}",
        "{\"Limit\":3,\"Marker\":\"%s\"}",
        "{\"MultiRegion\":true,\"KeySpec\":\"SYMMETRIC_DEFAULT\",\"Description\":\"%s\"}",
        "{}",
    };
    char *text = texts[next++ % COUNT(texts)];
    const char *key = one_in(8) ? "alias/a" : key_ids[below(COUNT(key_ids))];
    CK_ULONG len = (CK_ULONG)snprintf(text, sizeof texts[0], formats[below(COUNT(formats))], key);
    if (one_in(6)) text[below(len)] = (char)any();
    *n = one_in(30) ? length(len) : len;
    return one_in(60) ? NULL : (CK_BYTE *)text;
}

/* A message of another Region whose parts are right, mostly with a byte changed or its end missing. */
static CK_BYTE *letter(CK_ULONG *n) {
    static const char *const kinds[] = {"request",   "offer",   "shipment",  "receipt",  "activate",
                                        "activated", "deleted", "forgotten", "handover", "taken"};
    static CK_BYTE copies[4][BLOCK];
    static int next;
    static const char key[] = "\x78\x24mrk-00112233445566778899aabbccddeeff";
    CK_BYTE *copy = copies[next++ % COUNT(copies)], *at = copy;
    char type[64];
    size_t kind = one_in(2) ? 0 : below(COUNT(kinds));
    int len = snprintf(type, sizeof type, "application/vnd.conclave.replication.%s", kinds[kind]);
    /* COSE_Sign1 of alg ESP384, content type and kid; the content begins with the two Regions. */
    at += sprintf((char *)at, "\xd2\x84\x58%c\xa3\x01\x38\x32\x03\x78%c%s\x04\x58\x20%.32s\xa0\x58", 42 + len, len,
                  type, "kid kid kid kid kid kid kid kid ");
    CK_BYTE *size = at++, *content = at;
    *at++ = kind == 0 || kind == 3 ? 0x85 : kind < 3 ? 0x88 : 0x83;
    for (int i = 0; i < 2; i++) at += sprintf((char *)at, "\x82\x61%c\x50%.16s", 'a' + i, "domain of Region");
    if (kind == 0) at += sprintf((char *)at, "\x50%.16s\x1a%.4s\x81%s", "nonce of Region.", "zzzz", key);
    else at += sprintf((char *)at, "\x81\x84%s\x50%.16s\x01\x02", key, "incarnation.....");
    *size = (CK_BYTE)(at - content);
    *at++ = 0x58;
    *at++ = 96;
    memset(at, (int)any(), 96);
    CK_ULONG whole = *n = (CK_ULONG)(at + 96 - copy);
    if (one_in(2)) copy[below(whole)] ^= (CK_BYTE)(1 << below(8));
    if (one_in(4)) copy[below(whole)] = (CK_BYTE)any();
    if (one_in(4)) *n = length(whole);
    return one_in(30) ? NULL : copy;
}

/* A key pair under a managed key, mostly with room enough for its three parts; rarely one of RSA, which
 * takes its time. */
static void data_key_pair(CK_SESSION_HANDLE s, CK_FLAGS flags, CK_BYTE *key, CK_ULONG key_len, CK_BYTE *text, CK_ULONG n) {
    static const char *const specs[] = {"ECC_NIST_P256", "ECC_NIST_P384", "ECC_ED25519", "ECC_SECG_P256K1", "ECC_", "RSA_2048"};
    static const CK_ULONG enough[] = {KMS_MAX_PUBLIC_KEY_LEN, KMS_MAX_PRIVATE_KEY_LEN,
                                      KMS_MAX_PRIVATE_KEY_LEN + KMS_MAX_BLOB_OVERHEAD};
    static CK_BYTE parts[3][KMS_MAX_PRIVATE_KEY_LEN + KMS_MAX_BLOB_OVERHEAD + 1];
    CK_BYTE *part[3];
    CK_ULONG room[3], lens[3], *len[3];
    const char *spec = specs[below(one_in(20) ? COUNT(specs) : COUNT(specs) - 1)];
    CK_UTF8CHAR *name = (CK_UTF8CHAR *)(uintptr_t)spec;
    CK_ULONG spec_len = one_in(20) ? length(strlen(spec)) : strlen(spec);
    if (one_in(2)) text = NULL, n = 0;
    for (int i = 0; i < 3; i++) {
        lens[i] = room[i] = one_in(10) ? below(64) : enough[i];
        parts[i][room[i]] = 0xc7;
        part[i] = maybe_null(parts[i]);
        len[i] = one_in(60) ? NULL : &lens[i];
    }
    if (one_in(2))
        (void)kms->KMS_GenerateDataKeyPair(s, flags, key, key_len, name, spec_len, text, n, part[0], len[0], part[1], len[1],
                                           part[2], len[2]);
    else
        (void)kms->KMS_GenerateDataKeyPairWithoutPlaintext(s, flags, key, key_len, name, spec_len, text, n, part[0], len[0],
                                                           part[2], len[2]);
    for (int i = 0; i < 3; i++) CHECK(parts[i][room[i]] == 0xc7);
}

static void key_call(CK_SESSION_HANDLE s, CK_BYTE *data, CK_ULONG len) {
    const KMS_CHANGE changes[] = {
        kms->KMS_EnableKey, kms->KMS_DisableKey, kms->KMS_ScheduleKeyDeletion, kms->KMS_CancelKeyDeletion,
        kms->KMS_UpdateKeyDescription, kms->KMS_TagKey, kms->KMS_UntagKey, kms->KMS_CreateAlias, kms->KMS_UpdateAlias,
        kms->KMS_DeleteAlias, kms->KMS_RotateKey, kms->KMS_SetRotation, kms->KMS_DeleteImportedKeyMaterial,
        kms->KMS_PutKeyPolicy, kms->KMS_RetireGrant, kms->KMS_RevokeGrant, kms->KMS_RunDue, kms->KMS_ReplicateKey,
        kms->KMS_UpdatePrimaryRegion};
    const KMS_QUERY queries[] = {
        kms->KMS_DescribeKey, kms->KMS_ListKeys, kms->KMS_ListAliases, kms->KMS_GetKeyRotationStatus,
        kms->KMS_ListRotations, kms->KMS_GetKeyPolicy, kms->KMS_ListGrants, kms->KMS_ListUsers,
        kms->KMS_DescribeReplicas, kms->KMS_PendingReplication, kms->KMS_TellReplicas, kms->KMS_OfferReplicas};
    const KMS_EXCHANGE exchanges[] = {kms->KMS_ShipReplicas, kms->KMS_ConfirmReplicas, kms->KMS_ReceiveReplication};
    static CK_BYTE blob[512];
    static CK_ULONG blob_len;
    CK_ULONG n = 0, m = sizeof blob, valid_to = 0;
    CK_BYTE *text = asking(&n), *key = (CK_BYTE *)key_ids[below(COUNT(key_ids))];
    CK_FLAGS flags = one_in(4) ? below(4) : 0;
    CK_ULONG key_len = one_in(20) ? length(KMS_ID_LEN) : strlen((char *)key);
    switch (below(17)) {
    case 0:
    case 1:
    case 2: (void)changes[below(COUNT(changes))](s, flags, text, n); break;
    case 3:
    case 4: (void)queries[below(COUNT(queries))](s, text, n, out(), out_len()); break;
    case 5: {
        CK_ULONG id_len = KMS_ID_LEN;
        CK_BYTE id[KMS_ID_LEN];
        if (one_in(2)) (void)kms->KMS_CreateGrant(s, flags, text, n, out(), out_len());
        else if (one_in(4) && kms->KMS_CreateKey(s, 0, text, n, id, &id_len) == CKR_OK)
            snprintf(key_ids[below(COUNT(key_ids))], sizeof key_ids[0], "%.*s", (int)id_len, (char *)id);
        break;
    }
    case 6: {
        CK_ULONG size = len;
        CK_BYTE *message = one_in(8) ? data : letter(&size);
        (void)exchanges[below(COUNT(exchanges))](s, message, size, out(), out_len());
        break;
    }
    case 7: {
        CK_ULONG size = 0;
        CK_BYTE *message = letter(&size);
        (void)kms->KMS_AcceptReplicas(s, message, size);
        break;
    }
    case 8:
        if (kms->KMS_Encrypt(s, 0, key, key_len, NULL, 0, block(), 16, blob, &m) == CKR_OK) blob_len = m;
        if (blob_len && one_in(2)) blob[below(blob_len)] ^= (CK_BYTE)any();
        break;
    case 9: (void)kms->KMS_Decrypt(s, flags, key, one_in(2) ? 0 : key_len, text, n, blob, blob_len, out(), out_len()); break;
    case 10: (void)kms->KMS_ReEncrypt(s, flags, NULL, 0, blob, blob_len, key, key_len, text, n, out(), out_len()); break;
    case 11:
        (void)kms->KMS_GenerateDataKeyWithoutPlaintext(s, flags, key, key_len, below(2000), text, n, out(), out_len());
        break;
    case 12:
        m = ROOM;
        (void)kms->KMS_GenerateDataKey(s, flags, key, key_len, below(64), NULL, 0, block(), &m, out(), out_len());
        break;
    case 13: {
        static CK_BYTE public_key[KMS_MAX_PUBLIC_KEY_LEN];
        CK_ULONG public_len = sizeof public_key;
        static const char algorithm[] = "RSAES_OAEP_SHA_256", spec[] = "RSA_2048";
        if (one_in(10))
            (void)kms->KMS_GetParametersForImport(s, flags, key, key_len, (CK_BYTE *)(uintptr_t)algorithm, sizeof algorithm - 1,
                                                  (CK_BYTE *)(uintptr_t)spec, sizeof spec - 1, public_key, &public_len, out(),
                                                  out_len(), one_in(9) ? NULL : &valid_to);
        (void)kms->KMS_ImportKeyMaterial(s, flags, key, key_len, data, len, block(), length(32), below(3));
        break;
    }
    case 14:
        if (one_in(2)) (void)kms->KMS_AuditHead(s, out(), out_len());
        else (void)kms->KMS_ReadAudit(s, one_in(2) ? 0 : any(), out(), out_len(), one_in(9) ? NULL : &valid_to);
        break;
    case 15: data_key_pair(s, flags, key, key_len, text, n); break;
    default:
        if (one_in(50)) (void)kms->KMS_CreateUser(s, data, length(8), block(), length(16));
        else if (one_in(2)) (void)kms->KMS_RemoveUser(s, data, length(8));
        else (void)kms->KMS_VerifyAudit(s, data, len, out(), out_len());
    }
}

static void vendor_call(CK_SESSION_HANDLE s, CK_BYTE *data, CK_ULONG len) {
    static const char *const requests[] = {
        "{\"command\":\"rotate RSK\",\"valid_for\":1}", "{\"command\":\"found domain\",\"region\":\"x\",\"operators\":[]}",
        "{\"command\":\"set limits\",\"limits\":{\"proposal\":1}}", "{\"command\":\"expel host\",\"id\":\"00ff\"}"};
    CK_ULONG n = 0;
    CK_BYTE *given = paper(&n);
    switch (below(16)) {
    case 0: (void)kms->KMS_DescribeDomain(s, out(), out_len()); break;
    case 1:
    case 2: {
        char text[128];
        snprintf(text, sizeof text, "%s", requests[below(COUNT(requests))]);
        if (!one_in(8)) text[below(strlen(text))] = (char)any();
        (void)kms->KMS_Propose(s, (CK_BYTE *)text, strlen(text), out(), out_len());
        break;
    }
    case 3:
    case 4: (void)kms->KMS_DescribeProposal(s, given, n, out(), out_len()); break;
    case 5: (void)kms->KMS_BytesToSign(s, given, n, data, one_in(2) ? 120 : len, out(), out_len()); break;
    case 6: (void)kms->KMS_AddSignature(s, given, n, data, 120, block(), length(96), out(), out_len()); break;
    case 7: (void)kms->KMS_PutProposal(s, given, n, out(), out_len()); break;
    case 8: (void)kms->KMS_ListProposals(s, out(), out_len()); break;
    case 9: (void)kms->KMS_GetProposal(s, data, one_in(2) ? 32 : len, out(), out_len()); break;
    case 10: (void)kms->KMS_WithdrawProposal(s, data, one_in(2) ? 32 : len); break;
    case 11: (void)kms->KMS_Execute(s, given, n); break;
    case 12:
        if (one_in(2)) (void)kms->KMS_ExportDomainToken(s, out(), out_len());
        else (void)kms->KMS_ReadLog(s, out(), out_len());
        break;
    case 13: (void)kms->KMS_ImportDomain(s, one_in(2) ? given : data, one_in(2) ? n : len); break;
    case 14: (void)kms->KMS_SetEnrolledPIN(s, below(4), data, len, block(), length(16), block(), length(16)); break;
    default: {
        KMS_BYTES shares[3] = {{given, n}, {data, len}, {block(), length(64)}};
        if (one_in(2)) (void)kms->KMS_BeginRecovery(slot, block(), length(16), out(), out_len());
        else (void)kms->KMS_Recover(slot, block(), length(16), given, n, one_in(20) ? NULL : shares, below(4));
    }
    }
}

static void call(void) {
    CK_OBJECT_HANDLE made = 0, second = 0;
    CK_SESSION_HANDLE s = session();
    CK_ULONG n, n2;
    CK_BYTE *data = maybe_null(block());
    CK_ULONG len = length(below(ROOM));
    CK_ATTRIBUTE *t, *t2;
    told = sizeof output;
    switch (below(kms ? 59 : 56)) {
    case 0:
    case 1: (void)p11->C_EncryptInit(s, mechanism(), object()); break;
    case 2:
    case 3: (void)p11->C_Encrypt(s, data, len, out(), out_len()); break;
    case 4: (void)p11->C_EncryptUpdate(s, data, len, out(), out_len()); break;
    case 5: (void)p11->C_EncryptFinal(s, out(), out_len()); break;
    case 6:
    case 7: (void)p11->C_DecryptInit(s, mechanism(), object()); break;
    case 8:
    case 9: (void)p11->C_Decrypt(s, data, len, out(), out_len()); break;
    case 10: (void)p11->C_DecryptUpdate(s, data, len, out(), out_len()); break;
    case 11: (void)p11->C_DecryptFinal(s, out(), out_len()); break;
    case 12: (void)p11->C_DigestInit(s, mechanism()); break;
    case 13: (void)p11->C_Digest(s, data, len, out(), out_len()); break;
    case 14: (void)p11->C_DigestUpdate(s, data, len); break;
    case 15: (void)p11->C_DigestKey(s, object()); break;
    case 16: (void)p11->C_DigestFinal(s, out(), out_len()); break;
    case 17:
    case 18: (void)p11->C_SignInit(s, mechanism(), object()); break;
    case 19:
    case 20: (void)p11->C_Sign(s, data, len, out(), out_len()); break;
    case 21: (void)p11->C_SignUpdate(s, data, len); break;
    case 22: (void)p11->C_SignFinal(s, out(), out_len()); break;
    case 23: (void)p11->C_SignRecoverInit(s, mechanism(), object()); break;
    case 24: (void)p11->C_SignRecover(s, data, len, out(), out_len()); break;
    case 25: (void)p11->C_VerifyInit(s, mechanism(), object()); break;
    case 26: (void)p11->C_Verify(s, data, len, block(), length(256)); break;
    case 27: (void)p11->C_VerifyUpdate(s, data, len); break;
    case 28: (void)p11->C_VerifyFinal(s, block(), length(256)); break;
    case 29: (void)p11->C_VerifyRecoverInit(s, mechanism(), object()); break;
    case 30: (void)p11->C_VerifyRecover(s, data, len, out(), out_len()); break;
    case 31: (void)p11->C_DigestEncryptUpdate(s, data, len, out(), out_len()); break;
    case 32: (void)p11->C_DecryptDigestUpdate(s, data, len, out(), out_len()); break;
    case 33: (void)p11->C_SignEncryptUpdate(s, data, len, out(), out_len()); break;
    case 34: (void)p11->C_DecryptVerifyUpdate(s, data, len, out(), out_len()); break;
    case 35:
    case 36:
        t = template_(&n, 0);
        if (p11->C_GenerateKey(s, mechanism(), t, n, &made) == CKR_OK) remember(made);
        break;
    case 37:
        t = template_(&n, 0);
        t2 = template_(&n2, 0);
        if (p11->C_GenerateKeyPair(s, mechanism(), t, n, t2, n2, &made, &second) == CKR_OK) remember(made), remember(second);
        break;
    case 38: (void)p11->C_WrapKey(s, mechanism(), object(), object(), out(), out_len()); break;
    case 39:
        t = template_(&n, 0);
        if (p11->C_UnwrapKey(s, mechanism(), object(), data, len, t, n, &made) == CKR_OK) remember(made);
        break;
    case 40:
    case 41:
        t = template_(&n, 0);
        if (p11->C_DeriveKey(s, mechanism(), object(), t, n, &made) == CKR_OK) remember(made);
        break;
    case 42:
    case 43:
        t = template_(&n, 0);
        if (p11->C_CreateObject(s, t, n, one_in(50) ? NULL : &made) == CKR_OK && made) remember(made);
        break;
    case 44:
        t = template_(&n, 0);
        if (p11->C_CopyObject(s, object(), t, n, &made) == CKR_OK) remember(made);
        break;
    case 45: (void)p11->C_DestroyObject(s, object()); break;
    case 46: (void)p11->C_GetObjectSize(s, object(), number(0)); break;
    case 47:
    case 48: {
        CK_ATTRIBUTE read[6];
        for (int i = 0; i < 6; i++)
            read[i] = (CK_ATTRIBUTE){one_in(2) ? blobs[below(COUNT(blobs))] : one_in(5) ? any() : bools[below(COUNT(bools))],
                                     one_in(4) ? NULL : output + i * 64, below(64)};
        (void)p11->C_GetAttributeValue(s, object(), one_in(50) ? NULL : read, below(7));
        break;
    }
    case 49:
        t = template_(&n, 0);
        (void)p11->C_SetAttributeValue(s, object(), t, n);
        break;
    case 50:
        t = template_(&n, 0);
        (void)p11->C_FindObjectsInit(s, t, n);
        break;
    case 51: {
        CK_OBJECT_HANDLE found[8];
        (void)p11->C_FindObjects(s, one_in(20) ? NULL : found, one_in(10) ? 0 : below(9), number(0));
        if (one_in(3)) (void)p11->C_FindObjectsFinal(s);
        break;
    }
    case 52: (void)p11->C_GenerateRandom(s, output, below(64)); break;
    case 53: (void)p11->C_SeedRandom(s, data, len); break;
    case 54:
        if (one_in(2)) (void)p11->C_GetOperationState(s, out(), out_len());
        else (void)p11->C_SetOperationState(s, data, len, object(), object());
        break;
    case 56:
    case 57:
    case 58:
        if (one_in(2)) vendor_call(s, data, len);
        else key_call(s, data, len);
        break;
    default: {
        /* Sessions come and go. */
        CK_SESSION_HANDLE *which = &sessions[below(COUNT(sessions))];
        if (one_in(3)) (void)p11->C_CloseSession(*which);
        if (one_in(2)) (void)p11->C_OpenSession(slot, CKF_SERIAL_SESSION | (one_in(4) ? 0 : CKF_RW_SESSION), NULL, NULL, which);
        if (p30 && one_in(3)) (void)p30->C_SessionCancel(*which, any() & 0xffff00);
        if (one_in(100)) (void)p11->C_SetPIN(*which, data, len, block(), length(20));
        CK_SESSION_INFO info;
        (void)p11->C_GetSessionInfo(*which, &info);
    }
    }
    if (told < 1024) CHECK(output[told] == 0xc7 && output[told + 1] == 0xc7);
}

static int seconds;
static uint64_t seed;
static long calls;

static void random_calls(void) {
    CK_SESSION_HANDLE keeper = open_session(slot);
    CK_BYTE id[8];
    double end = now() + seconds;
    OK(login(keeper, CKU_USER, USER_PIN));
    CK_ULONG n = COUNT(mechanisms);
    OK(p11->C_GetMechanismList(slot, mechanisms, &n));
    nmechanisms = n;
    /* Good keys to start from. */
    CK_OBJECT_HANDLE a, b;
    OK(AES(keeper, 32, &a));
    remember(a);
    OK(AES(keeper, 16, &a, YES(CKA_WRAP), YES(CKA_UNWRAP)));
    remember(a);
    OK(generate_pair(keeper, CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0, NULL, 0, &a, &b));
    remember(a), remember(b);
    OK(generate_pair(keeper, CKM_EC_KEY_PAIR_GEN, NULL, 0, NULL, 0, &a, &b));
    remember(a), remember(b);
    for (size_t i = 0; i < COUNT(sessions); i++) sessions[i] = open_session(slot);
    while (now() < end && checks_failed == 0) {
        for (int i = 0; i < 200; i++, calls++) call();
        alarm(60 * (unsigned)slowness()); /* a call that hangs ends the program */
        /* Token objects made along the way should not pile up. */
        if (nobjects == (int)COUNT(objects) && one_in(4))
            for (int i = 8; i < nobjects; i++) (void)p11->C_DestroyObject(keeper, objects[i]);
        OK(p11->C_GenerateRandom(keeper, id, sizeof id));
    }
    CK_MECHANISM sha = {CKM_SHA256, NULL, 0};
    CK_ULONG len = 32;
    OK(p11->C_DigestInit(keeper, &sha));
    OK(p11->C_Digest(keeper, id, 8, output, &len));
    OK(p11->C_CloseSession(keeper));
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: fuzz MODULE SECONDS [SEED]\n");
        return 2;
    }
    start(argc, argv);
    seconds = atoi(argv[2]);
    seed = argc > 3 ? strtoull(argv[3], NULL, 0) : (uint64_t)time(NULL) * 2654435761u ^ (uint64_t)getpid();
    state = seed | 1;
    fprintf(stderr, "seed %#llx\n", (unsigned long long)seed);
    OK(initialize());
    slot = make_token("test");
    find_vendor();
    if (kms && kms->version.minor < 3) kms = NULL;
    RUN(random_calls);
    OK(p11->C_Finalize(NULL));
    fprintf(stderr, "%ld calls\n", calls);
    return finish();
}
