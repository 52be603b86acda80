/* Operators and what they sign, for the programs that govern a domain by the vendor's interface. The
 * operators' keys are in a second token of the module; their claims are CBOR written by hand
 * (docs/protocols.md), so nothing else is needed. */
#ifndef OPERATORS_H
#define OPERATORS_H
#define OPERATORS "true"
#include "harness.h"

#define MANY 65536

static KMS_FUNCTION_LIST *kms;
static CK_SESSION_HANDLE session;      /* of the token that is governed */
static CK_SESSION_HANDLE keys_session; /* of the token with the operators' keys, which only signs */
static CK_SLOT_ID slot;
static CK_BYTE domain_id[16];
static CK_BYTE json[8 * MANY];

/* Some bytes, and CBOR in core deterministic encoding. */
typedef struct {
    CK_BYTE bytes[MANY];
    CK_ULONG len;
} buffer;

static UNUSED void put(buffer *out, const void *bytes, CK_ULONG n) {
    if (!CHECK(out->len + n <= sizeof out->bytes)) exit(1);
    memcpy(out->bytes + out->len, bytes, n);
    out->len += n;
}

static UNUSED void put_head(buffer *out, int major, CK_ULONG n) {
    CK_BYTE head[3] = {(CK_BYTE)(major << 5 | (n < 24 ? n : n < 256 ? 24 : 25)), (CK_BYTE)n, 0};
    if (n >= 256) head[1] = (CK_BYTE)(n >> 8), head[2] = (CK_BYTE)n;
    put(out, head, n < 24 ? 1 : n < 256 ? 2 : 3);
}

static UNUSED void put_bytes(buffer *out, const void *bytes, CK_ULONG n) {
    put_head(out, 2, n);
    put(out, bytes, n);
}

static UNUSED void put_text(buffer *out, const char *text) {
    put_head(out, 3, strlen(text));
    put(out, text, strlen(text));
}

static UNUSED void to_hex(char *out, const CK_BYTE *bytes, CK_ULONG n) {
    for (CK_ULONG i = 0; i < n; i++) sprintf(out + 2 * i, "%02x", bytes[i]);
    out[2 * n] = 0;
}

static UNUSED void from_hex(CK_BYTE *out, const char *hex, CK_ULONG n) {
    for (CK_ULONG i = 0; i < n; i++) {
        unsigned value = 0;
        CHECK(sscanf(hex + 2 * i, "%2x", &value) == 1);
        out[i] = (CK_BYTE)value;
    }
}

/* Whoever has keys: an operator or a host. */
typedef struct {
    const char *name;
    CK_BYTE id[16];
    CK_OBJECT_HANDLE key;
    CK_BYTE signing[120], agreement[120];
} party;

static UNUSED void digest(CK_MECHANISM_TYPE type, const CK_BYTE *data, CK_ULONG n, CK_BYTE *out, CK_ULONG size) {
    CK_MECHANISM mechanism = {type, NULL, 0};
    OK(p11->C_DigestInit(keys_session, &mechanism));
    OK(p11->C_Digest(keys_session, (CK_BYTE *)(uintptr_t)data, n, out, &size));
}

/* A P-384 pair, kept under this id; the public half as SubjectPublicKeyInfo. */
static UNUSED CK_OBJECT_HANDLE make_pair(const CK_BYTE id[16], CK_BYTE spki[120]) {
    static const CK_BYTE oid[] = {6, 5, 0x2b, 0x81, 4, 0, 0x22};
    static const CK_BYTE prefix[] = {0x30, 0x76, 0x30, 0x10, 6,    7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2,
                                     1,    6,    5,    0x2b, 0x81, 4, 0,    0x22, 3,    0x62, 0};
    CK_OBJECT_HANDLE pub, priv;
    CK_BYTE point[99], info[120];
    CK_ATTRIBUTE public_[] = {BYTES(CKA_EC_PARAMS, oid)};
    CK_ATTRIBUTE private_[] = {YES(CKA_SIGN), YES(CKA_TOKEN), {CKA_ID, (void *)(uintptr_t)id, 16}};
    OK(generate_pair(keys_session, CKM_EC_KEY_PAIR_GEN, public_, 1, private_, COUNT(private_), &pub, &priv));
    CHECK(get(keys_session, pub, CKA_EC_POINT, point, sizeof point) == sizeof point);
    memcpy(spki, prefix, sizeof prefix);
    memcpy(spki + sizeof prefix, point + 2, 97);
    CHECK(get(keys_session, pub, CKA_PUBLIC_KEY_INFO, info, sizeof info) == sizeof info && !memcmp(info, spki, 120));
    return priv;
}

static UNUSED void make_party(party *who) {
    OK(p11->C_GenerateRandom(keys_session, who->id, sizeof who->id));
    who->key = make_pair(who->id, who->signing);
    make_pair((const CK_BYTE[16]){0}, who->agreement);
}

/* ESP384: ECDSA over the SHA-384 of the message, r and s. */
static UNUSED void sign(const party *who, const CK_BYTE *message, CK_ULONG n, CK_BYTE signature[96]) {
    CK_MECHANISM mechanism = {CKM_ECDSA, NULL, 0};
    CK_BYTE hash[48];
    CK_ULONG len = 96;
    digest(CKM_SHA384, message, n, hash, sizeof hash);
    OK(p11->C_SignInit(keys_session, &mechanism, who->key));
    OK(p11->C_Sign(keys_session, hash, sizeof hash, signature, &len));
    CHECK(len == 96);
}

/* The proof of possession, a COSE_Sign1, in hexadecimal. `kind`: 0 for an operator, 1 for a host. */
static UNUSED char *claim(const party *who, int kind) {
    static char hex[5][2048];
    static int next;
    buffer payload = {.len = 0}, header = {.len = 0}, to_sign = {.len = 0}, message = {.len = 0};
    CK_BYTE kid[32], signature[96];
    char *out = hex[next++ % COUNT(hex)];
    put_head(&payload, 4, 5);
    put_head(&payload, 0, (CK_ULONG)kind);
    put_bytes(&payload, who->id, sizeof who->id);
    put_text(&payload, who->name);
    put_bytes(&payload, who->signing, sizeof who->signing);
    if (kind == 1) put(&payload, "\xf6", 1);
    else put_bytes(&payload, who->agreement, sizeof who->agreement);
    digest(CKM_SHA256, who->signing, sizeof who->signing, kid, sizeof kid);
    put(&header, "\xa3\x01\x38\x32\x03", 5); /* alg: ESP384, content type: */
    put_text(&header, "application/vnd.conclave.identity");
    put_head(&header, 0, 4);
    put_bytes(&header, kid, sizeof kid);
    put_head(&to_sign, 4, 4);
    put_text(&to_sign, "Signature1");
    put_bytes(&to_sign, header.bytes, header.len);
    put_bytes(&to_sign, domain_id, sizeof domain_id);
    put_bytes(&to_sign, payload.bytes, payload.len);
    sign(who, to_sign.bytes, to_sign.len, signature);
    put(&message, "\xd2\x84", 2);
    put_bytes(&message, header.bytes, header.len);
    put(&message, "\xa0", 1);
    put_bytes(&message, payload.bytes, payload.len);
    put_bytes(&message, signature, sizeof signature);
    to_hex(out, message.bytes, message.len);
    return out;
}

/* What describes a thing, as a string in `json`. */
static UNUSED const char *described(CK_RV rv, const CK_ULONG *len) {
    OK(rv);
    json[rv == CKR_OK && *len < sizeof json ? *len : 0] = 0;
    return (const char *)json;
}

static UNUSED const char *describe_domain(void) {
    CK_ULONG len = sizeof json - 1;
    return described(kms->KMS_DescribeDomain(session, json, &len), &len);
}

static UNUSED const char *describe(buffer *proposal) {
    CK_ULONG len = sizeof json - 1;
    return described(kms->KMS_DescribeProposal(session, proposal->bytes, proposal->len, json, &len), &len);
}

static UNUSED const char *list(void) {
    CK_ULONG len = sizeof json - 1;
    return described(kms->KMS_ListProposals(session, json, &len), &len);
}

/* The id of a proposal: of what is called so in its description, the one of 32 bytes. */
static UNUSED void id_of(buffer *proposal, CK_BYTE id[32]) {
    const char *at = describe(proposal);
    while ((at = strstr(at, "\"id\":\""))) {
        at += strlen("\"id\":\"");
        if (strspn(at, "0123456789abcdef") == 64) break;
    }
    if (CHECK(at)) from_hex(id, at, 32);
}

/* The number behind the first "name": of the domain's description. */
static UNUSED unsigned long number(const char *name) {
    char key[64];
    snprintf(key, sizeof key, "\"%s\":", name);
    const char *at = strstr(describe_domain(), key);
    return CHECK(at) ? strtoul(at + strlen(key), NULL, 10) : 0;
}

static UNUSED unsigned occurrences(const char *text, const char *what) {
    unsigned n = 0;
    for (; (text = strstr(text, what)); text++) n++;
    return n;
}

/* The last error's sentence says why. */
static UNUSED void says(const char *why) {
    if (!strstr(last_error(), why)) check_failed(__FILE__, __LINE__, "\"%s\" is not in: %s", why, last_error());
}
#define REJECTED(call, why)                                 \
    do {                                                    \
        if (CHECK_RV(call, CKR_FUNCTION_REJECTED)) says(why); \
    } while (0)

static UNUSED void propose(buffer *out, const char *request) {
    out->len = sizeof out->bytes;
    OK(kms->KMS_Propose(session, (CK_UTF8CHAR *)(uintptr_t)request, strlen(request), out->bytes, &out->len));
}

static UNUSED CK_RV add(buffer *proposal, const party *who, CK_BYTE signature[96]) {
    CK_ULONG len = sizeof proposal->bytes;
    /* The output over the input. */
    CK_RV rv = kms->KMS_AddSignature(session, proposal->bytes, proposal->len, (CK_BYTE *)(uintptr_t)who->signing,
                                     sizeof who->signing, signature, 96, proposal->bytes, &len);
    if (rv == CKR_OK) proposal->len = len;
    return rv;
}

static UNUSED void sign_proposal(buffer *proposal, const party *who, CK_BYTE signature[96]) {
    CK_BYTE message[MANY];
    CK_ULONG len = sizeof message;
    OK(kms->KMS_BytesToSign(session, proposal->bytes, proposal->len, (CK_BYTE *)(uintptr_t)who->signing,
                            sizeof who->signing, message, &len));
    sign(who, message, len, signature);
}

static UNUSED CK_RV approve(buffer *proposal, const party *who) {
    CK_BYTE signature[96];
    sign_proposal(proposal, who, signature);
    return add(proposal, who, signature);
}

static UNUSED CK_RV execute(buffer *proposal) { return kms->KMS_Execute(session, proposal->bytes, proposal->len); }

/* Proposed, signed by both and executed. */
static UNUSED buffer decided;
static UNUSED void decide(const char *request, const party *one, const party *other) {
    propose(&decided, request);
    OK(approve(&decided, one));
    OK(approve(&decided, other));
    OK(execute(&decided));
}

/* The vendor's function list. */
static UNUSED void find_kms(void) {
    CK_RV (*find_interface)(CK_UTF8CHAR *, CK_VERSION *, CK_INTERFACE **, CK_FLAGS);
    CK_INTERFACE *found = NULL;
    CK_VERSION version = {1, 1};
    *(void **)&find_interface = dlsym(module, "C_GetInterface");
    OK(find_interface((CK_UTF8CHAR *)KMS_INTERFACE_NAME, &version, &found, 0));
    kms = found ? found->pFunctionList : NULL;
    if (!CHECK(kms) || !CHECK(kms->version.major == 1 && kms->version.minor >= 1)) exit(1);
}

/* Makes the token of that label, as it is before its founding, and opens it: of a fleet, at the admin
 * socket of its first HSM. */
static UNUSED void make_unfounded(const char *label, int fleet) {
    slot = fleet ? OPERATORS_OF(found_fleet(label, ", \"founded\": false")) : make_embedded_token(label);
    session = open_session(slot);
    const char *id = strstr(describe_domain(), "\"domain\":\"");
    if (!CHECK(id)) exit(1);
    from_hex(domain_id, id + strlen("\"domain\":\""), sizeof domain_id);
}

/* The founder does something with the fleet of this operators' slot: what it answers. */
#define ASK_FLEET(what, ...) ask_founder("\"slot\": %lu, " what, slot - OPERATORS_ABOVE, __VA_ARGS__)

/* After the founding of a fleet's domain: its operators admit the host and the other HSMs, and make the SO
 * and the user, who set their PINs; the host is told the fingerprint. From then on the token is as an
 * embedded one. */
static UNUSED void open_fleet(const party *one, const party *other) {
    static const CK_USER_TYPE users[] = {CKU_SO, CKU_USER};
    static const char *const names[] = {"SO", "user"}, *const pins[] = {SO_PIN, USER_PIN};
    static const char code[] = "code of 128 bits";
    char request[8 * 1024], hash[97], path[32];
    to_hex(hash, domain_id, sizeof domain_id);
    const char *claim_ = ASK_FLEET("\"do\": \"claim_first_host\", \"with\": {\"domain\": \"%s\"}", hash);
    snprintf(request, sizeof request, "{\"command\":\"admit host\",\"host\":\"%s\"}", claim_);
    decide(request, one, other);
    for (size_t i = 0; i < COUNT(users); i++) {
        snprintf(request, sizeof request, "{\"command\":\"create user\",\"role\":\"%s\",\"code\":\"%s\"}", names[i], code);
        decide(request, one, other);
        OK(kms->KMS_SetEnrolledPIN(session, users[i], NULL, 0, (CK_BYTE *)(uintptr_t)code, sizeof code - 1,
                                   (CK_UTF8CHAR *)(uintptr_t)pins[i], strlen(pins[i])));
    }
    const char *at = strstr(describe_domain(), "\"hash\":\"");
    if (!CHECK(at)) exit(1);
    snprintf(hash, sizeof hash, "%.96s", at + strlen("\"hash\":\""));
    for (int i = 1; i < HSMS; i++) {
        claim_ = ASK_FLEET("\"do\": \"start_claimant\", \"with\": {\"trust\": \"%s\"}", hash);
        snprintf(request, sizeof request, "{\"command\":\"admit HSM\",\"hsm\":\"%s\"}", claim_);
        decide(request, one, other);
        ASK_FLEET("\"do\": \"%s\"", "bring_all");
    }
    slot -= OPERATORS_ABOVE;
    snprintf(path, sizeof path, "fleets/%lu/trust", slot - FIRST_FLEET);
    write_file(path, hash);
    OK(p11->C_CloseSession(session));
    session = open_session(slot);
}

/* Makes the token of that label, of a fleet or embedded, and founds its domain, as a Region of that name,
 * with operators whose keys are made here, each officer and operator. The user is logged into it. */
static UNUSED void found_region(const char *label, const char *region, party *founders, int n, int fleet) {
    static buffer proposal;
    char request[8 * 1024];
    make_unfounded(label, fleet);
    size_t at = (size_t)sprintf(request, "{\"command\":\"found domain\",\"region\":\"%s\",\"operators\":[", region);
    for (int i = 0; i < n; i++) {
        make_party(&founders[i]);
        at += (size_t)snprintf(request + at, sizeof request - at, "%s{\"claim\":\"%s\",\"roles\":[\"officer\",\"operator\"]}",
                               i ? "," : "", claim(&founders[i], 0));
    }
    snprintf(request + at, sizeof request - at, "]}");
    propose(&proposal, request);
    for (int i = 0; i < n; i++) OK(approve(&proposal, &founders[i]));
    if (!fleet) OK(login(session, CKU_SO, SO_PIN));
    OK(execute(&proposal));
    if (fleet) open_fleet(&founders[0], &founders[1]);
    else OK(p11->C_Logout(session));
    OK(login(session, CKU_USER, USER_PIN));
}

/* Makes the token that has the operators' keys, with the user logged in. It is an embedded one. */
static UNUSED void make_keys_token(void) {
    keys_session = open_session(make_embedded_token("keys"));
    OK(login(keys_session, CKU_USER, USER_PIN));
}

/* The tokens "keys" and "domain": one domain, and its operators' keys. */
static UNUSED void found_domain(party *founders, int n) {
    make_keys_token();
    found_region("domain", "Bern", founders, n, founder() != NULL);
}

/* Opens both tokens in another process and finds the operators' keys again. */
static UNUSED void join_domain(party *founders, int n) {
    slot = slot_of("domain");
    session = open_session(slot);
    keys_session = open_session(slot_of("keys"));
    OK(login(keys_session, CKU_USER, USER_PIN));
    for (int i = 0; i < n; i++) {
        CK_ATTRIBUTE of[] = {{CKA_ID, founders[i].id, 16}, NUMBER(CKA_CLASS, CKO_PRIVATE_KEY)};
        CHECK(find(keys_session, of, 2, &founders[i].key) == 1);
    }
}

#endif
