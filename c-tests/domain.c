/* The vendor's interface as a C program uses it: three operators found a domain two-of-three, one
 * signature is refused, a host is admitted, keys are rotated, PINs are enrolled, the history is read
 * and brings an older copy of the token forward. */
#include "operators.h"

static party anna = {.name = "Anna"}, ben = {.name = "Ben"}, cleo = {.name = "Cléo"}, stranger = {.name = "Mallory"};
static party host = {.name = "web-1"};

/* An output of `function` as §5.2 has it: NULL and a buffer one byte short change nothing. */
#define OUTPUT(out, size, function, ...)                                        \
    do {                                                                        \
        CK_ULONG need_ = 0, len_;                                               \
        CHECK_RV(function(__VA_ARGS__, (out), NULL), CKR_ARGUMENTS_BAD);        \
        OK(function(__VA_ARGS__, NULL, &need_));                                \
        if (!CHECK(need_ > 0 && need_ < (size))) break;                         \
        memset((out), 0x55, need_);                                             \
        len_ = need_ - 1;                                                       \
        CHECK_RV(function(__VA_ARGS__, (out), &len_), CKR_BUFFER_TOO_SMALL);    \
        CHECK(len_ == need_);                                                   \
        CHECK((out)[0] == 0x55 && !memcmp((out), (out) + 1, need_ - 1));        \
        len_ = need_;                                                           \
        OK(function(__VA_ARGS__, (out), &len_));                                \
        CHECK(len_ == need_);                                                   \
    } while (0)

/* The tests. */

static void interface(void) {
    find_kms();
    static const char *const names[] = {
        "KMS_LastError",       "KMS_DescribeDomain", "KMS_Propose",       "KMS_DescribeProposal",
        "KMS_BytesToSign",     "KMS_AddSignature",   "KMS_PutProposal",   "KMS_ListProposals",
        "KMS_GetProposal",     "KMS_WithdrawProposal", "KMS_Execute",     "KMS_ExportDomainToken",
        "KMS_ReadLog",         "KMS_ImportDomain",   "KMS_SetEnrolledPIN", "KMS_BeginRecovery",
        "KMS_Recover",
    };
    void **entries = (void **)((char *)kms + offsetof(KMS_FUNCTION_LIST, KMS_LastError));
    size_t n = (offsetof(KMS_FUNCTION_LIST, KMS_EnableKey) - offsetof(KMS_FUNCTION_LIST, KMS_LastError)) / sizeof(void *);
    if (!CHECK(n == COUNT(names))) return;
    for (size_t i = 0; i < n; i++) CHECK(entries[i] && entries[i] == dlsym(module, names[i]));
}

/* The SO lets the operators govern an embedded token. A fleet never had one. */
static void log_in_so(void) {
    if (!founder()) OK(login(session, CKU_SO, SO_PIN));
}

static void log_out_so(void) {
    if (!founder()) OK(p11->C_Logout(session));
}

/* Before the founding the SO governs, and there is no log. */
static void governed_by_the_so(void) {
    CK_ULONG len = sizeof json;
    const char *text = describe_domain();
    CHECK(strstr(text, "\"governed_by\":\"SO\"") && strstr(text, "\"name\":\"domain\""));
    REJECTED(kms->KMS_ReadLog(session, json, &len), "not founded");
    CHECK(!strcmp(list(), "[]"));
    static const char rotate[] = "{\"command\":\"rotate domain key\"}";
    buffer *proposal = calloc(1, sizeof *proposal);
    propose(proposal, rotate);
    unsigned long version = number("version");
    if (!founder()) CHECK_RV(execute(proposal), CKR_USER_NOT_LOGGED_IN);
    log_in_so();
    REJECTED(execute(proposal), "not founded");
    log_out_so();
    CHECK(number("version") == version);
    free(proposal);
}

static buffer founding;

static void found(void) {
    char request[8 * 1024], id[65];
    CK_BYTE signature[96], bytes[32];
    static buffer copy, merged;
    snprintf(request, sizeof request,
             "{\"command\":\"found domain\",\"region\":\"Bern\",\"operators\":["
             "{\"claim\":\"%s\",\"roles\":[\"officer\",\"operator\"]},"
             "{\"claim\":\"%s\",\"roles\":[\"operator\",\"officer\"]},"
             "{\"claim\":\"%s\",\"roles\":[\"officer\",\"operator\"]}],"
             "\"rules\":[{\"command\":\"rotate domain key\",\"alternatives\":[{\"operator\":2}]}]}",
             claim(&anna, 0), claim(&ben, 0), claim(&cleo, 0));
    /* What is only asked for its length is not kept. */
    unsigned before = occurrences(list(), "\"proposal\":");
    CK_ULONG need = 0, few;
    OK(kms->KMS_Propose(session, (CK_BYTE *)request, strlen(request), NULL, &need));
    few = need - 1;
    CHECK_RV(kms->KMS_Propose(session, (CK_BYTE *)request, strlen(request), founding.bytes, &few), CKR_BUFFER_TOO_SMALL);
    CHECK(few == need && occurrences(list(), "\"proposal\":") == before);
    propose(&founding, request);
    CHECK(founding.len == need && occurrences(list(), "\"proposal\":") == before + 1);

    CHECK(strstr(describe(&founding), "\"command\":\"found domain\"") && strstr((char *)json, "\"quorum_met\":false"));
    CHECK(strstr((char *)json, "Anna") && strstr((char *)json, "Cléo") && strstr((char *)json, "Bern"));
    id_of(&founding, bytes);
    to_hex(id, bytes, 32);

    OUTPUT(copy.bytes, sizeof copy.bytes, kms->KMS_BytesToSign, session, founding.bytes, founding.len, anna.signing, 120);
    sign_proposal(&founding, &anna, signature);
    few = founding.len;
    CHECK_RV(kms->KMS_AddSignature(session, founding.bytes, founding.len, anna.signing, 120, signature, 96, NULL, &few), CKR_OK);
    CHECK(strstr(describe(&founding), "\"signers\":[]"));
    OUTPUT(copy.bytes, sizeof copy.bytes, kms->KMS_AddSignature, session, founding.bytes, founding.len, anna.signing, 120,
           signature, 96);
    /* Ben signs a copy that Anna's signature is not in; the token puts them together. */
    OK(approve(&founding, &ben));
    CHECK(strstr(describe(&founding), "\"person\":\"Anna\"") && strstr((char *)json, "\"person\":\"Ben\""));
    log_in_so();
    REJECTED(execute(&founding), "quorum not met");
    log_out_so();

    /* Cléo's signature is changed on its way: refused, and not kept. */
    sign_proposal(&founding, &cleo, signature);
    signature[50] ^= 1;
    REJECTED(add(&founding, &cleo, signature), "does not verify");
    CHECK_RV(kms->KMS_AddSignature(session, founding.bytes, founding.len, cleo.signing, 120, signature, 95, copy.bytes, &need),
             CKR_DATA_INVALID);
    CHECK_RV(kms->KMS_BytesToSign(session, founding.bytes, founding.len, cleo.signing, 119, copy.bytes, &need),
             CKR_PUBLIC_KEY_INVALID);
    sign_proposal(&founding, &stranger, signature);
    REJECTED(add(&founding, &stranger, signature), "unknown signer");
    REJECTED(add(&founding, &cleo, signature), "does not verify");
    CHECK(!strstr(describe(&founding), "\"person\":\"Cléo\",\"roles\":[\"officer\",\"operator\"],\"valid\":true"));
    OK(approve(&founding, &cleo));
    CHECK(strstr(describe(&founding), "\"quorum_met\":true") && strstr((char *)json, "\"refusal\":null"));

    /* What is kept is what was signed so far. */
    OUTPUT(copy.bytes, sizeof copy.bytes, kms->KMS_GetProposal, session, bytes, 32);
    CHECK(!memcmp(copy.bytes, founding.bytes, founding.len));
    OUTPUT(merged.bytes, sizeof merged.bytes, kms->KMS_PutProposal, session, founding.bytes, founding.len);
    CHECK(!memcmp(merged.bytes, founding.bytes, founding.len));
    CHECK(strstr(list(), id));

    unsigned long version = number("version");
    if (!founder()) {
        /* It is for the SO to hand the domain over. */
        CHECK_RV(execute(&founding), CKR_USER_NOT_LOGGED_IN);
        OK(login(session, CKU_USER, USER_PIN));
        CHECK_RV(execute(&founding), CKR_USER_NOT_LOGGED_IN);
        CHECK(number("version") == version);
        OK(p11->C_Logout(session));
    }
    log_in_so();
    OK(execute(&founding));
    CHECK(number("version") == version + 1);
    CHECK(strstr(describe_domain(), "\"governed_by\":\"operators\"") && strstr((char *)json, "\"region\":\"Bern\""));
    CHECK(!strstr(list(), id));
    CHECK_RV(execute(&founding), CKR_FUNCTION_REJECTED);
    log_out_so();
    if (founder()) open_fleet(&anna, &ben);
}

/* The slot of an HSM's admin socket is for the domain alone: nobody logs in there, and no key is there. */
static void the_operators_slot(void) {
    CK_UTF8CHAR label[32];
    CK_OBJECT_HANDLE key;
    if (!founder()) return;
    CK_SESSION_HANDLE theirs = open_session(OPERATORS_OF(slot));
    CHECK_RV(login(theirs, CKU_USER, USER_PIN), CKR_FUNCTION_REJECTED);
    CHECK_RV(login(theirs, CKU_SO, SO_PIN), CKR_FUNCTION_REJECTED);
    REFUSED(AES(theirs, 32, &key, NO(CKA_PRIVATE), YES(CKA_ENCRYPT)));
    CHECK(find(theirs, NULL, 0, NULL) == 0);
    OK(p11->C_CloseSession(theirs));
    memset(label, ' ', sizeof label);
    CHECK_RV(p11->C_InitToken(OPERATORS_OF(slot), (CK_UTF8CHAR *)SO_PIN, strlen(SO_PIN), label), CKR_TOKEN_WRITE_PROTECTED);
}

/* From the founding on the SO PIN opens the token and nothing else. */
static void the_so_governs_no_more(void) {
    CK_UTF8CHAR label[32];
    OK(login(session, CKU_SO, SO_PIN));
    CHECK_RV(p11->C_InitPIN(session, (CK_UTF8CHAR *)"another-pin", 11), CKR_TOKEN_WRITE_PROTECTED);
    OK(p11->C_Logout(session));
    memset(label, ' ', sizeof label);
    CK_SESSION_HANDLE other = open_session(slot);
    OK(p11->C_CloseSession(session));
    OK(p11->C_CloseSession(other));
    CHECK_RV(p11->C_InitToken(slot, (CK_UTF8CHAR *)SO_PIN, strlen(SO_PIN), label), CKR_TOKEN_WRITE_PROTECTED);
    session = open_session(slot);
    OK(login(session, CKU_USER, USER_PIN));
}

static void admit_a_host(void) {
    static buffer proposal, alone, changed;
    char request[4096];
    CK_BYTE signature[96];
    CK_ULONG len;
    snprintf(request, sizeof request, "{\"command\":\"admit host\",\"host\":\"%s\"}", claim(&host, 1));
    propose(&proposal, request);
    alone = proposal;
    REJECTED(execute(&proposal), "quorum not met");
    OK(approve(&proposal, &anna));
    REJECTED(execute(&proposal), "quorum not met");
    sign_proposal(&proposal, &anna, signature);
    REJECTED(add(&proposal, &anna, signature), "appears twice");
    sign_proposal(&proposal, &stranger, signature);
    REJECTED(add(&proposal, &stranger, signature), "unknown signer");
    /* A copy with a signature that is changed on its way would spoil the one that is kept. */
    changed = proposal;
    changed.bytes[changed.len - 1] ^= 1;
    len = sizeof changed.bytes;
    REJECTED(kms->KMS_PutProposal(session, changed.bytes, changed.len, changed.bytes, &len), "does not verify");
    /* Ben's copy travelled without Anna's signature and comes back by KMS_PutProposal. */
    sign_proposal(&alone, &ben, signature);
    OK(add(&alone, &ben, signature));
    len = sizeof proposal.bytes;
    OK(kms->KMS_PutProposal(session, alone.bytes, alone.len, proposal.bytes, &len));
    proposal.len = len;
    CHECK(strstr(describe(&proposal), "\"quorum_met\":true"));
    OK(execute(&proposal));
    CHECK(strstr(describe_domain(), "\"name\":\"web-1\""));
    REJECTED(execute(&proposal), "executed before");
}

/* Nothing that differs from what was signed in one bit, or is cut short, is executed. */
static void no_bit_may_change(void) {
    static buffer proposal, changed;
    unsigned long version = number("version");
    propose(&proposal, "{\"command\":\"rotate domain key\",\"retain\":86400}");
    OK(approve(&proposal, &anna));
    OK(approve(&proposal, &cleo));
    CK_ULONG step = slowness() > 10 ? 1009 : slowness() > 1 ? 13 : 1;
    for (CK_ULONG bit = 0; bit < 8 * proposal.len; bit += step) {
        changed = proposal;
        changed.bytes[bit / 8] ^= (CK_BYTE)(1 << bit % 8);
        if (!CHECK_RV_IN(execute(&changed), CKR_DATA_INVALID, CKR_FUNCTION_REJECTED)) break;
    }
    for (CK_ULONG len = 0; len < proposal.len; len += step)
        if (!CHECK_RV(kms->KMS_Execute(session, proposal.bytes, len), CKR_DATA_INVALID)) break;
    changed = proposal;
    put(&changed, "", 1);
    CHECK_RV(execute(&changed), CKR_DATA_INVALID);
    CHECK(number("version") == version);
    OK(execute(&proposal));
    CHECK(number("version") == version + 1);
}

/* What was made before a rotation goes on under the new domain key. */
static void rotate(void) {
    CK_OBJECT_HANDLE key;
    CK_BYTE iv[12] = {1}, text[48];
    CK_ULONG len = sizeof text;
    GCM(mechanism, iv);
    OK(AES(session, 32, &key, YES(CKA_TOKEN), YES(CKA_ENCRYPT), YES(CKA_DECRYPT)));
    unsigned keys = occurrences(describe_domain(), "\"decrypt-only\"");
    decide("{\"command\":\"rotate domain key\"}", &ben, &cleo);
    CHECK(occurrences(describe_domain(), "\"decrypt-only\"") == keys + 1);
    CHECK(occurrences(describe_domain(), "\"active\"") == 1);
    OK(p11->C_EncryptInit(session, &mechanism, key));
    OK(p11->C_Encrypt(session, (CK_BYTE *)"of before", 9, text, &len));
    CHECK(len == 25);
    OK(p11->C_DestroyObject(session, key));
}

static void list_and_withdraw(void) {
    static buffer proposal;
    static CK_BYTE out[MANY];
    CK_BYTE id[32];
    CK_ULONG len = sizeof out;
    unsigned before = occurrences(list(), "\"proposal\":");
    propose(&proposal, "{\"command\":\"rotate RSK\",\"valid_for\":3600}");
    id_of(&proposal, id);
    CHECK(occurrences(list(), "\"proposal\":") == before + 1);
    OK(kms->KMS_GetProposal(session, id, sizeof id, out, &len));
    CHECK(len == proposal.len && !memcmp(out, proposal.bytes, len));
    CHECK_RV(kms->KMS_WithdrawProposal(session, id, 31), CKR_ARGUMENTS_BAD);
    OK(kms->KMS_WithdrawProposal(session, id, sizeof id));
    REJECTED(kms->KMS_WithdrawProposal(session, id, sizeof id), "no pending proposal");
    REJECTED(kms->KMS_GetProposal(session, id, sizeof id, out, &len), "no pending proposal");
    CHECK(occurrences(list(), "\"proposal\":") == before);
    /* Whoever may only read proposes nothing. */
    CK_SESSION_HANDLE reader = 0;
    OK(p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &reader));
    static const char request[] = "{\"command\":\"rotate RSK\"}";
    len = sizeof out;
    CHECK_RV(kms->KMS_Propose(reader, (CK_UTF8CHAR *)request, strlen(request), out, &len), CKR_SESSION_READ_ONLY);
    CHECK_RV(kms->KMS_PutProposal(reader, proposal.bytes, proposal.len, out, &len), CKR_SESSION_READ_ONLY);
    CHECK_RV(kms->KMS_Execute(reader, proposal.bytes, proposal.len), CKR_SESSION_READ_ONLY);
    OK(p11->C_CloseSession(reader));
    CHECK(occurrences(list(), "\"proposal\":") == before);
}

static void requests_are_checked(void) {
    static const char *const wrong[] = {
        "", "{", "[]", "\"rotate RSK\"", "{}", "{\"command\":\"make tea\"}", "{\"command\":\"rotate RSK\",\"milk\":true}",
        "{\"command\":\"expel host\",\"id\":\"00\"}", "{\"command\":\"expel host\",\"id\":7}",
        "{\"command\":\"rotate RSK\",\"valid_for\":0}", "{\"command\":\"rotate RSK\",\"valid_for\":99999999999}",
        "{\"command\":\"admit host\",\"host\":\"d284\"}", "{\"command\":\"rotate RSK\",\"valid_from\":-1}", "\xff\xfe",
    };
    static CK_BYTE out[MANY];
    for (size_t i = 0; i < COUNT(wrong); i++) {
        CK_ULONG len = sizeof out;
        CHECK_RV(kms->KMS_Propose(session, (CK_UTF8CHAR *)(uintptr_t)wrong[i], strlen(wrong[i]), out, &len),
                 CKR_ARGUMENTS_BAD);
        CHECK(strlen(last_error()) > 20);
    }
    /* A claim for another domain. */
    char request[4096];
    CK_ULONG len = sizeof out;
    domain_id[0] ^= 1;
    snprintf(request, sizeof request, "{\"command\":\"admit host\",\"host\":\"%s\"}", claim(&host, 1));
    domain_id[0] ^= 1;
    CHECK_RV(kms->KMS_Propose(session, (CK_UTF8CHAR *)request, strlen(request), out, &len), CKR_ARGUMENTS_BAD);
    says("host");
}

/* Every output, and every function with arguments that cannot be. */
static void outputs_and_hostile_arguments(void) {
    static CK_BYTE out[4 * MANY];
    static CK_BYTE noise[4096];
    static buffer proposal;
    CK_ULONG len = sizeof out, huge[] = {1, (16UL << 20) + 1, ~0UL, ~0UL >> 1, 1UL << 40};
    propose(&proposal, "{\"command\":\"rotate RSK\"}");
    OUTPUT(out, sizeof out, kms->KMS_DescribeDomain, session);
    OUTPUT(out, sizeof out, kms->KMS_DescribeProposal, session, proposal.bytes, proposal.len);
    OUTPUT(out, sizeof out, kms->KMS_ListProposals, session);
    OUTPUT(out, sizeof out, kms->KMS_ExportDomainToken, session);
    OUTPUT(out, sizeof out, kms->KMS_ReadLog, session);
    for (size_t i = 0; i < COUNT(huge); i++) {
        CK_ULONG n = huge[i];
        CK_BYTE *nothing = NULL;
        CHECK_RV(kms->KMS_Propose(session, nothing, n, out, &len), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_DescribeProposal(session, nothing, n, out, &len), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_BytesToSign(session, nothing, n, anna.signing, 120, out, &len), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_BytesToSign(session, proposal.bytes, proposal.len, nothing, n, out, &len), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_AddSignature(session, proposal.bytes, proposal.len, anna.signing, 120, nothing, n, out, &len),
                 CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_PutProposal(session, nothing, n, out, &len), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_GetProposal(session, nothing, n, out, &len), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_WithdrawProposal(session, nothing, n), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_Execute(session, nothing, n), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_ImportDomain(session, nothing, n), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_SetEnrolledPIN(session, CKU_USER, nothing, n, NULL, 0, nothing, 0), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_SetEnrolledPIN(session, CKU_USER, NULL, 0, nothing, n, nothing, 0), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_SetEnrolledPIN(session, CKU_USER, NULL, 0, NULL, 0, nothing, n), CKR_ARGUMENTS_BAD);
        KMS_BYTES contribution = {nothing, n};
        CHECK_RV(kms->KMS_Recover(slot, nothing, n, proposal.bytes, proposal.len, NULL, 0), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_Recover(slot, (CK_BYTE *)SO_PIN, 8, nothing, n, NULL, 0), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_Recover(slot, (CK_BYTE *)SO_PIN, 8, proposal.bytes, proposal.len, NULL, n), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_Recover(slot, (CK_BYTE *)SO_PIN, 8, proposal.bytes, proposal.len, &contribution, 1),
                 CKR_ARGUMENTS_BAD);
        if (n == 1) continue;
        CHECK_RV(kms->KMS_DescribeProposal(session, proposal.bytes, n, out, &len), CKR_ARGUMENTS_BAD);
        CHECK_RV(kms->KMS_Execute(session, proposal.bytes, n), CKR_ARGUMENTS_BAD);
    }
    /* Neither empty input nor noise is anything. */
    for (int i = 0; i < 50; i++) {
        CK_ULONG n = i ? (CK_ULONG)rand() % sizeof noise : 0;
        OK(p11->C_GenerateRandom(keys_session, noise, sizeof noise));
        if (i % 2) memcpy(noise, proposal.bytes, n / 4 < proposal.len ? n / 4 : proposal.len);
        len = sizeof out;
        CHECK_RV(kms->KMS_DescribeProposal(session, noise, n, out, &len), CKR_DATA_INVALID);
        CHECK_RV(kms->KMS_BytesToSign(session, noise, n, anna.signing, 120, out, &len), CKR_DATA_INVALID);
        CHECK_RV(kms->KMS_AddSignature(session, noise, n, anna.signing, 120, noise, 96, out, &len), CKR_DATA_INVALID);
        CHECK_RV(kms->KMS_PutProposal(session, noise, n, out, &len), CKR_DATA_INVALID);
        CHECK_RV(kms->KMS_Execute(session, noise, n), CKR_DATA_INVALID);
        CHECK_RV(kms->KMS_ImportDomain(session, noise, n), founder() ? CKR_TOKEN_WRITE_PROTECTED : CKR_DATA_INVALID);
    }
    /* Handles that are none. */
    len = sizeof out;
    CHECK_RV(kms->KMS_DescribeDomain(session + 99, out, &len), CKR_SESSION_HANDLE_INVALID);
    CHECK_RV(kms->KMS_ListProposals(0, out, &len), CKR_SESSION_HANDLE_INVALID);
    CHECK_RV(kms->KMS_BytesToSign(0, proposal.bytes, proposal.len, anna.signing, 120, out, &len),
             CKR_SESSION_HANDLE_INVALID);
    CHECK_RV(kms->KMS_Execute(0, proposal.bytes, proposal.len), CKR_SESSION_HANDLE_INVALID);
    CHECK_RV(kms->KMS_BeginRecovery(99999, (CK_UTF8CHAR *)SO_PIN, 8, NULL, &len), CKR_SLOT_ID_INVALID);
    CHECK_RV(kms->KMS_Recover(99999, (CK_UTF8CHAR *)SO_PIN, 8, proposal.bytes, proposal.len, NULL, 0), CKR_SLOT_ID_INVALID);
}

/* Operators let holders set their PINs; they never learn them. */
static void enrolments(void) {
    CK_UTF8CHAR *name = (CK_UTF8CHAR *)"dora", *pin = (CK_UTF8CHAR *)"dora-has-a-pin";
    CK_BYTE *code = (CK_BYTE *)"code of 128 bits";
    decide("{\"command\":\"create user\",\"role\":{\"named\":\"dora\"},\"code\":\"code of 128 bits\"}", &anna, &cleo);
    REJECTED(kms->KMS_SetEnrolledPIN(session, CKU_USER, name, 4, code, 15, pin, 14), "code is wrong");
    CHECK_RV(kms->KMS_SetEnrolledPIN(session, CKU_USER, name, 4, code, 16, pin, 2), CKR_PIN_LEN_RANGE);
    CHECK_RV(kms->KMS_SetEnrolledPIN(session, CKU_CONTEXT_SPECIFIC, name, 4, code, 16, pin, 14), CKR_USER_TYPE_INVALID);
    CHECK_RV(kms->KMS_SetEnrolledPIN(session, CKU_USER, (CK_UTF8CHAR *)"emil", 4, code, 16, pin, 14),
             CKR_TOKEN_WRITE_PROTECTED);
    OK(kms->KMS_SetEnrolledPIN(session, CKU_USER, name, 4, code, 16, pin, 14));
    CHECK_RV(kms->KMS_SetEnrolledPIN(session, CKU_USER, name, 4, code, 16, pin, 14), CKR_TOKEN_WRITE_PROTECTED);
    OK(p11->C_Logout(session));
    /* An embedded token asks who is there, a fleet for the code alone. */
    CHECK_RV(kms->KMS_SetEnrolledPIN(session, CKU_USER, name, 4, code, 16, pin, 14),
             founder() ? CKR_TOKEN_WRITE_PROTECTED : CKR_USER_NOT_LOGGED_IN);
    OK(p30->C_LoginUser(session, CKU_USER, pin, 14, name, 4));
    OK(p11->C_Logout(session));
    /* Without a code the SO is there when the user sets his PIN. */
    OK(login(session, CKU_SO, SO_PIN));
    decide("{\"command\":\"reset PIN\",\"role\":\"user\"}", &ben, &anna);
    OK(kms->KMS_SetEnrolledPIN(session, CKU_USER, NULL, 0, NULL, 0, (CK_UTF8CHAR *)"a new user PIN", 14));
    OK(p11->C_Logout(session));
    CHECK_RV(login(session, CKU_USER, USER_PIN), CKR_PIN_INCORRECT);
    OK(login(session, CKU_USER, "a new user PIN"));
}

/* A recovery begins with a claim, for which there is a buffer long enough or nothing is made. A fleet is
 * recovered at the admin socket of a fresh HSM, which has a claim at any time; this one is a member. */
static void recovery(void) {
    static buffer command;
    CK_BYTE claim_[KMS_MAX_CLAIM_LEN], other[KMS_MAX_CLAIM_LEN];
    char request[4096], hex[2 * KMS_MAX_CLAIM_LEN + 1];
    CK_UTF8CHAR *pin = (CK_UTF8CHAR *)"pin-after-recovery";
    CK_ULONG len = sizeof claim_, few = sizeof claim_ - 1;
    CK_SLOT_ID at = founder() ? OPERATORS_OF(slot) : slot;
    if (founder()) CHECK_RV(kms->KMS_BeginRecovery(slot, pin, 18, claim_, &len), CKR_TOKEN_WRITE_PROTECTED);
    else REJECTED(kms->KMS_BeginRecovery(at, pin, 18, claim_, &len), "recovery set");
    decide("{\"command\":\"make recovery set\",\"threshold\":2}", &anna, &ben);
    CHECK(strstr(describe_domain(), "\"threshold\":2"));
    propose(&command, "{\"command\":\"rotate RSK\"}");
    REJECTED(kms->KMS_Recover(at, pin, 18, command.bytes, command.len, NULL, 0),
             founder() ? "quorum not met" : "no recovery was begun");
    OK(kms->KMS_BeginRecovery(at, pin, 18, NULL, &len));
    CHECK(len == KMS_MAX_CLAIM_LEN);
    CHECK_RV(kms->KMS_BeginRecovery(at, pin, 18, claim_, &few), CKR_BUFFER_TOO_SMALL);
    CHECK(few == KMS_MAX_CLAIM_LEN);
    if (!founder()) REJECTED(kms->KMS_Recover(at, pin, 18, command.bytes, command.len, NULL, 0), "no recovery was begun");
    CHECK_RV(kms->KMS_BeginRecovery(at, pin, 2, claim_, &len), CKR_PIN_LEN_RANGE);
    OK(kms->KMS_BeginRecovery(at, pin, 18, other, &len));
    len = sizeof claim_;
    OK(kms->KMS_BeginRecovery(at, pin, 18, claim_, &len));
    CHECK(len > 400 && len < sizeof claim_ && (founder() || memcmp(claim_, other, len)));
    to_hex(hex, claim_, len);
    snprintf(request, sizeof request, "{\"command\":\"recover domain\",\"hsm\":\"%s\"}", hex);
    propose(&command, request);
    OK(approve(&command, &anna));
    OK(approve(&command, &cleo));
    CHECK_RV(execute(&command), CKR_FUNCTION_REJECTED);
    if (founder()) REJECTED(kms->KMS_Recover(at, NULL, 0, command.bytes, command.len, NULL, 0), "shares");
    else CHECK_RV(kms->KMS_Recover(at, (CK_UTF8CHAR *)"another-pin", 11, command.bytes, command.len, NULL, 0),
                  CKR_PIN_INCORRECT);
    REJECTED(kms->KMS_Recover(at, pin, 18, command.bytes, command.len, NULL, 0), "shares");
    KMS_BYTES junk[] = {{claim_, len}, {NULL, 0}};
    CHECK_RV(kms->KMS_Recover(at, pin, 18, command.bytes, command.len, junk, 2), CKR_DATA_INVALID);
    CHECK_RV(kms->KMS_Recover(at, pin, 18, command.bytes, command.len - 1, NULL, 0), CKR_DATA_INVALID);
}

/* A copy of the token from before follows the history to the newest state. A fleet has one store, and its
 * hosts follow by themselves. */
static void an_old_copy_is_brought_forward(void) {
    static CK_BYTE history[4 * MANY], token[MANY], imported[MANY];
    char command[300], old[128], new_[128];
    CK_ULONG len = sizeof history, token_len = sizeof token, imported_len = sizeof imported;
    snprintf(new_, sizeof new_, "%s/data", work_dir);
    snprintf(old, sizeof old, "%s/old", work_dir);
    snprintf(command, sizeof command, "cp -a %s %s", new_, old);
    OK(p11->C_Finalize(NULL));
    if (!founder()) CHECK(system(command) == 0);
    OK(initialize());
    slot = slot_of("domain");
    session = open_session(slot);
    keys_session = open_session(slot_of("keys"));
    OK(login(keys_session, CKU_USER, USER_PIN));
    OK(login(session, CKU_USER, "a new user PIN"));
    anna.key = ben.key = 0;
    CK_ATTRIBUTE of_anna[] = {BYTES(CKA_ID, anna.id), NUMBER(CKA_CLASS, CKO_PRIVATE_KEY)};
    CK_ATTRIBUTE of_ben[] = {BYTES(CKA_ID, ben.id), NUMBER(CKA_CLASS, CKO_PRIVATE_KEY)};
    CHECK(find(keys_session, of_anna, 2, &anna.key) == 1 && find(keys_session, of_ben, 2, &ben.key) == 1);
    unsigned long version = number("version");
    decide("{\"command\":\"rotate RSK\"}", &anna, &ben);
    decide("{\"command\":\"rotate domain key\"}", &ben, &anna);
    CHECK(number("version") == version + 2);
    OK(kms->KMS_ReadLog(session, history, &len));
    CHECK(history[0] == 0x83);
    OK(kms->KMS_ExportDomainToken(session, token, &token_len));
    if (founder()) {
        CHECK_RV(kms->KMS_ImportDomain(session, history, len), CKR_TOKEN_WRITE_PROTECTED);
        OK(p11->C_Finalize(NULL));
        return;
    }
    REJECTED(kms->KMS_ImportDomain(session, history, len), "nothing newer");

    OK(p11->C_Finalize(NULL));
    setenv("CONCLAVE_HOME", old, 1);
    OK(initialize());
    slot = slot_of("domain");
    session = open_session(slot);
    CHECK(number("version") == version);
    CHECK_RV(kms->KMS_ImportDomain(session, history, len), CKR_USER_NOT_LOGGED_IN);
    OK(login(session, CKU_USER, "a new user PIN"));
    /* No byte of the last entry's command, and none of the newest token, may differ. */
    CK_BYTE *entry = memmem(history, len, decided.bytes, decided.len);
    if (!CHECK(entry)) return;
    for (CK_ULONG at = (CK_ULONG)(entry - history); at < len; at += 37 * (CK_ULONG)slowness()) {
        history[at] ^= 1;
        CHECK_RV_IN(kms->KMS_ImportDomain(session, history, len), CKR_DATA_INVALID, CKR_FUNCTION_REJECTED,
                    CKR_TOKEN_NOT_RECOGNIZED);
        history[at] ^= 1;
    }
    CHECK_RV(kms->KMS_ImportDomain(session, history, len - 1), CKR_DATA_INVALID);
    CHECK(number("version") == version);
    OK(kms->KMS_ImportDomain(session, history, len));
    CHECK(number("version") == version + 2);
    OK(kms->KMS_ExportDomainToken(session, imported, &imported_len));
    CHECK(imported_len == token_len && !memcmp(imported, token, token_len));
    OK(p11->C_Finalize(NULL));
    setenv("CONCLAVE_HOME", new_, 1);
    CK_ULONG n = sizeof history;
    CHECK_RV(kms->KMS_DescribeDomain(session, history, &n), CKR_CRYPTOKI_NOT_INITIALIZED);
    CHECK_RV(kms->KMS_BeginRecovery(slot, NULL, 0, NULL, &n), CKR_CRYPTOKI_NOT_INITIALIZED);
}

int main(int argc, char **argv) {
    start(argc, argv);
    RUN(interface);
    OK(initialize());
    make_keys_token();
    make_unfounded("domain", founder() != NULL);
    party *all[] = {&anna, &ben, &cleo, &stranger, &host};
    for (size_t i = 0; i < COUNT(all); i++) make_party(all[i]);
    RUN(governed_by_the_so);
    RUN(found);
    RUN(the_operators_slot);
    RUN(the_so_governs_no_more);
    RUN(admit_a_host);
    RUN(no_bit_may_change);
    RUN(rotate);
    RUN(list_and_withdraw);
    RUN(requests_are_checked);
    RUN(outputs_and_hostile_arguments);
    RUN(enrolments);
    RUN(recovery);
    RUN(an_old_copy_is_brought_forward);
    return finish();
}
