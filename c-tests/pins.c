/* PINs and login: who may do what, the failure counter and its flags, locking and unlocking. */
#include "harness.h"

static CK_SLOT_ID slot;
static CK_SESSION_HANDLE session;

static CK_FLAGS token_flags(void) {
    CK_TOKEN_INFO info = {{0}};
    OK(p11->C_GetTokenInfo(slot, &info));
    return info.flags;
}

static CK_STATE state(void) {
    CK_SESSION_INFO info = {0};
    OK(p11->C_GetSessionInfo(session, &info));
    return info.state;
}

static CK_RV set_pin(const char *old, const char *new_) {
    return p11->C_SetPIN(session, (CK_UTF8CHAR *)(uintptr_t)old, strlen(old), (CK_UTF8CHAR *)(uintptr_t)new_,
                         strlen(new_));
}

/* Lifts the lock of a PIN, which is the same as before. The SO does that; in a fleet he does not, but the
 * operators, who let its holder set it. */
static void unlock(CK_USER_TYPE user, const char *pin) {
    static const char code[] = "an enrolment code";
    CK_RV (*set_enrolled_pin)(CK_SESSION_HANDLE, CK_USER_TYPE, CK_UTF8CHAR *, CK_ULONG, CK_BYTE *, CK_ULONG, CK_UTF8CHAR *, CK_ULONG);
    if (user == CKU_USER) {
        OK(login(session, CKU_SO, SO_PIN));
        CHECK_RV(p11->C_InitPIN(session, (CK_UTF8CHAR *)(uintptr_t)pin, strlen(pin)),
                 founder() ? CKR_TOKEN_WRITE_PROTECTED : CKR_OK);
        OK(p11->C_Logout(session));
    }
    if (!founder()) return;
    CHECK_RV(login(session, user, pin), CKR_PIN_LOCKED);
    ask_founder("\"slot\": %lu, \"do\": \"reset_pin\", \"with\": {\"role\": \"%s\"}", slot, user == CKU_SO ? "SO" : "user");
    *(void **)&set_enrolled_pin = dlsym(module, "KMS_SetEnrolledPIN");
    OK(set_enrolled_pin(session, user, NULL, 0, (CK_BYTE *)(uintptr_t)code, sizeof code - 1, (CK_UTF8CHAR *)(uintptr_t)pin, strlen(pin)));
}

static void states(void) {
    CK_SESSION_HANDLE ro;
    CHECK(state() == CKS_RW_PUBLIC_SESSION);
    CHECK_RV(p11->C_Logout(session), CKR_USER_NOT_LOGGED_IN);
    CHECK_RV(login(session, 77, USER_PIN), CKR_USER_TYPE_INVALID);
    OK(login(session, CKU_USER, USER_PIN));
    CHECK(state() == CKS_RW_USER_FUNCTIONS);
    CHECK_RV(login(session, CKU_USER, USER_PIN), CKR_USER_ALREADY_LOGGED_IN);
    CHECK_RV(login(session, CKU_SO, SO_PIN), CKR_USER_ANOTHER_ALREADY_LOGGED_IN);
    OK(p11->C_Logout(session));
    OK(p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &ro));
    CHECK_RV(login(session, CKU_SO, SO_PIN), CKR_SESSION_READ_ONLY_EXISTS);
    OK(p11->C_CloseSession(ro));
    OK(login(session, CKU_SO, SO_PIN));
    CHECK(state() == CKS_RW_SO_FUNCTIONS);
    CHECK_RV(p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &ro), CKR_SESSION_READ_WRITE_SO_EXISTS);
    OK(p11->C_Logout(session));
    /* The login is the token's: a new session is logged in too, and the last one closed ends it. */
    OK(login(session, CKU_USER, USER_PIN));
    CK_SESSION_HANDLE other = open_session(slot);
    OK(p11->C_CloseSession(session));
    session = other;
    CHECK(state() == CKS_RW_USER_FUNCTIONS);
    OK(p11->C_CloseSession(session));
    session = open_session(slot);
    CHECK(state() == CKS_RW_PUBLIC_SESSION);
}

/* The SO administers; the user's objects are not the SO's. */
static void so_and_private_objects(void) {
    CK_OBJECT_HANDLE key, made;
    CK_ATTRIBUTE label[] = {TEXT(CKA_LABEL, "the user's")};
    OK(login(session, CKU_USER, USER_PIN));
    OK(AES(session, 16, &key, YES(CKA_TOKEN), TEXT(CKA_LABEL, "the user's")));
    OK(p11->C_Logout(session));
    CHECK(find(session, label, 1, NULL) == 0);
    CHECK_RV_IN(p11->C_DestroyObject(session, key), CKR_OBJECT_HANDLE_INVALID, CKR_USER_NOT_LOGGED_IN);
    OK(login(session, CKU_SO, SO_PIN));
    CHECK(find(session, label, 1, NULL) == 0);
    CHECK_RV_IN(AES(session, 16, &made, YES(CKA_PRIVATE)), CKR_USER_NOT_LOGGED_IN, CKR_TEMPLATE_INCONSISTENT);
    OK(p11->C_Logout(session));
    CHECK_RV(AES(session, 16, &made, YES(CKA_PRIVATE)), CKR_USER_NOT_LOGGED_IN);
    OK(login(session, CKU_USER, USER_PIN));
    CHECK(find(session, label, 1, &key) == 1);
    OK(p11->C_DestroyObject(session, key));
    OK(p11->C_Logout(session));
}

static void changing(void) {
    CHECK_RV_IN(p11->C_InitPIN(session, (CK_UTF8CHAR *)"1234567", 7), CKR_USER_NOT_LOGGED_IN);
    OK(login(session, CKU_USER, USER_PIN));
    CHECK_RV_IN(p11->C_InitPIN(session, (CK_UTF8CHAR *)"1234567", 7), CKR_USER_NOT_LOGGED_IN);
    CHECK_RV(set_pin("wrong-pin", "another-pin"), CKR_PIN_INCORRECT);
    OK(set_pin(USER_PIN, "another-pin"));
    OK(p11->C_Logout(session));
    CHECK_RV(login(session, CKU_USER, USER_PIN), CKR_PIN_INCORRECT);
    OK(login(session, CKU_USER, "another-pin"));
    OK(p11->C_Logout(session));
    /* Without a login, C_SetPIN changes the user's PIN. */
    OK(set_pin("another-pin", USER_PIN));
    OK(login(session, CKU_SO, SO_PIN));
    OK(set_pin(SO_PIN, "so-pin-2"));
    OK(p11->C_Logout(session));
    CHECK_RV(login(session, CKU_SO, SO_PIN), CKR_PIN_INCORRECT);
    OK(login(session, CKU_SO, "so-pin-2"));
    OK(set_pin("so-pin-2", SO_PIN));
    OK(p11->C_Logout(session));
    OK(login(session, CKU_USER, USER_PIN));
    OK(p11->C_Logout(session));
}

static void user_lock(void) {
    CK_OBJECT_HANDLE key;
    CK_ATTRIBUTE label[] = {TEXT(CKA_LABEL, "survives")};
    OK(login(session, CKU_USER, USER_PIN));
    OK(AES(session, 16, &key, YES(CKA_TOKEN), TEXT(CKA_LABEL, "survives")));
    OK(p11->C_Logout(session));
    CHECK(!(token_flags() & CKF_USER_PIN_COUNT_LOW));
    CHECK_RV(login(session, CKU_USER, "wrong-1"), CKR_PIN_INCORRECT);
    CHECK(token_flags() & CKF_USER_PIN_COUNT_LOW);
    /* The counter is on disk: a new life of the library does not forget it. */
    OK(p11->C_Finalize(NULL));
    OK(initialize());
    session = open_session(slot);
    CHECK(token_flags() & CKF_USER_PIN_COUNT_LOW);
    /* A right PIN clears it. */
    OK(login(session, CKU_USER, USER_PIN));
    CHECK(!(token_flags() & (CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY)));
    OK(p11->C_Logout(session));
    for (int i = 0; i < 9; i++) CHECK_RV(login(session, CKU_USER, "wrong-2"), CKR_PIN_INCORRECT);
    CHECK(token_flags() & CKF_USER_PIN_FINAL_TRY);
    CHECK_RV_IN(login(session, CKU_USER, "wrong-2"), CKR_PIN_INCORRECT, CKR_PIN_LOCKED);
    CHECK(token_flags() & CKF_USER_PIN_LOCKED);
    CHECK_RV(login(session, CKU_USER, USER_PIN), CKR_PIN_LOCKED);
    CHECK_RV(set_pin(USER_PIN, "another-pin"), CKR_PIN_LOCKED);
    OK(p11->C_Finalize(NULL));
    OK(initialize());
    session = open_session(slot);
    CHECK_RV(login(session, CKU_USER, USER_PIN), CKR_PIN_LOCKED);
    unlock(CKU_USER, USER_PIN);
    /* The keys are still there. */
    CHECK(!(token_flags() & (CKF_USER_PIN_LOCKED | CKF_USER_PIN_COUNT_LOW)));
    OK(login(session, CKU_USER, USER_PIN));
    CHECK(find(session, label, 1, &key) == 1);
    OK(p11->C_DestroyObject(session, key));
    OK(p11->C_Logout(session));
}

/* C_SetPIN is no way round the counter. */
static void set_pin_counts(void) {
    for (int i = 0; i < 10; i++)
        CHECK_RV_IN(set_pin("wrong-pin", "another-pin"), CKR_PIN_INCORRECT, CKR_PIN_LOCKED);
    CHECK_RV(login(session, CKU_USER, USER_PIN), CKR_PIN_LOCKED);
    unlock(CKU_USER, USER_PIN);
}

/* C_InitToken makes no token of a fleet anew, whatever PIN is given. */
static void init_token_of_a_fleet(void) {
    CK_UTF8CHAR label[32];
    CK_OBJECT_HANDLE key;
    CK_ATTRIBUTE stays[] = {TEXT(CKA_LABEL, "stays")};
    memset(label, ' ', 32);
    OK(login(session, CKU_USER, USER_PIN));
    OK(AES(session, 16, &key, YES(CKA_TOKEN), TEXT(CKA_LABEL, "stays")));
    CHECK_RV(p11->C_InitToken(slot, (CK_UTF8CHAR *)SO_PIN, strlen(SO_PIN), label), CKR_TOKEN_WRITE_PROTECTED);
    OK(p11->C_CloseAllSessions(slot));
    CHECK_RV(p11->C_InitToken(slot, (CK_UTF8CHAR *)"not-the-pin", 11, label), CKR_TOKEN_WRITE_PROTECTED);
    CHECK_RV(p11->C_InitToken(slot, (CK_UTF8CHAR *)SO_PIN, strlen(SO_PIN), label), CKR_TOKEN_WRITE_PROTECTED);
    CHECK(slot_of("test") == slot && token_flags() & CKF_USER_PIN_INITIALIZED);
    session = open_session(slot);
    OK(login(session, CKU_USER, USER_PIN));
    CHECK(find(session, stays, 1, &key) == 1);
    OK(p11->C_DestroyObject(session, key));
    OK(p11->C_Logout(session));
}

/* C_InitToken on a token in use asks for its SO PIN, and not while sessions are open. */
static void init_token(void) {
    CK_UTF8CHAR label[32];
    CK_OBJECT_HANDLE key;
    if (founder()) {
        init_token_of_a_fleet();
        return;
    }
    memset(label, ' ', 32);
    memcpy(label, "test", 4);
    CHECK_RV(p11->C_InitToken(slot, (CK_UTF8CHAR *)SO_PIN, strlen(SO_PIN), label), CKR_SESSION_EXISTS);
    OK(login(session, CKU_USER, USER_PIN));
    OK(AES(session, 16, &key, YES(CKA_TOKEN), TEXT(CKA_LABEL, "doomed")));
    OK(p11->C_CloseAllSessions(slot));
    CHECK_RV(p11->C_InitToken(slot, (CK_UTF8CHAR *)"not-the-pin", 11, label), CKR_PIN_INCORRECT);
    OK(p11->C_InitToken(slot, (CK_UTF8CHAR *)SO_PIN, strlen(SO_PIN), label));
    CHECK(!(token_flags() & CKF_USER_PIN_INITIALIZED));
    session = open_session(slot);
    CHECK_RV(login(session, CKU_USER, USER_PIN), CKR_USER_PIN_NOT_INITIALIZED);
    OK(login(session, CKU_SO, SO_PIN));
    OK(p11->C_InitPIN(session, (CK_UTF8CHAR *)USER_PIN, strlen(USER_PIN)));
    OK(p11->C_Logout(session));
    OK(login(session, CKU_USER, USER_PIN));
    CK_ATTRIBUTE doomed[] = {TEXT(CKA_LABEL, "doomed")};
    CHECK(find(session, doomed, 1, NULL) == 0);
    OK(p11->C_Logout(session));
}

/* CKA_ALWAYS_AUTHENTICATE: each use asks for the PIN again. */
static void context_specific(void) {
    CK_OBJECT_HANDLE pub, priv;
    CK_ATTRIBUTE always[] = {YES(CKA_ALWAYS_AUTHENTICATE), YES(CKA_PRIVATE)};
    CK_MECHANISM ecdsa = {CKM_ECDSA, NULL, 0};
    CK_BYTE data[32] = {0}, signature[64];
    CK_ULONG len = sizeof signature;
    OK(login(session, CKU_USER, USER_PIN));
    OK(generate_pair(session, CKM_EC_KEY_PAIR_GEN, NULL, 0, always, 2, &pub, &priv));
    CK_OBJECT_HANDLE other[2];
    CK_ATTRIBUTE not_private[] = {YES(CKA_ALWAYS_AUTHENTICATE), NO(CKA_PRIVATE)};
    CHECK_RV(generate_pair(session, CKM_EC_KEY_PAIR_GEN, NULL, 0, not_private, 2, &other[0], &other[1]),
             CKR_TEMPLATE_INCONSISTENT);
    CHECK_RV(login(session, CKU_CONTEXT_SPECIFIC, USER_PIN), CKR_OPERATION_NOT_INITIALIZED);
    OK(p11->C_SignInit(session, &ecdsa, priv));
    CHECK_RV(p11->C_Sign(session, data, 32, signature, &len), CKR_USER_NOT_LOGGED_IN);
    (void)p11->C_SignInit(session, NULL, 0);
    OK(p11->C_SignInit(session, &ecdsa, priv));
    CHECK_RV(login(session, CKU_CONTEXT_SPECIFIC, "wrong-pin"), CKR_PIN_INCORRECT);
    (void)p11->C_SignInit(session, NULL, 0);
    OK(p11->C_SignInit(session, &ecdsa, priv));
    OK(login(session, CKU_CONTEXT_SPECIFIC, USER_PIN));
    len = sizeof signature;
    OK(p11->C_Sign(session, data, 32, signature, &len));
    OK(p11->C_SignInit(session, &ecdsa, priv));
    CHECK_RV(p11->C_Sign(session, data, 32, signature, &len), CKR_USER_NOT_LOGGED_IN);
    (void)p11->C_SignInit(session, NULL, 0);
    OK(p11->C_Logout(session));
}

/* Logging out destroys private session objects and hides private token objects' handles. */
static void logout_forgets(void) {
    CK_OBJECT_HANDLE key, open_key;
    OK(login(session, CKU_USER, USER_PIN));
    OK(AES(session, 16, &key, YES(CKA_PRIVATE), YES(CKA_ENCRYPT)));
    OK(AES(session, 16, &open_key, NO(CKA_PRIVATE), YES(CKA_ENCRYPT)));
    CK_MECHANISM ecb = {CKM_AES_ECB, NULL, 0};
    OK(p11->C_Logout(session));
    CHECK_RV_IN(p11->C_EncryptInit(session, &ecb, key), CKR_KEY_HANDLE_INVALID, CKR_OBJECT_HANDLE_INVALID);
    OK(p11->C_DestroyObject(session, open_key));
    OK(login(session, CKU_USER, USER_PIN));
    CHECK_RV_IN(p11->C_EncryptInit(session, &ecb, key), CKR_KEY_HANDLE_INVALID, CKR_OBJECT_HANDLE_INVALID);
    OK(p11->C_Logout(session));
}

static void so_lock(void) {
    CK_UTF8CHAR label[32];
    memset(label, ' ', 32);
    for (int i = 0; i < 10; i++) CHECK_RV_IN(login(session, CKU_SO, "wrong-so"), CKR_PIN_INCORRECT, CKR_PIN_LOCKED);
    CHECK(token_flags() & CKF_SO_PIN_LOCKED);
    CHECK_RV(login(session, CKU_SO, SO_PIN), CKR_PIN_LOCKED);
    /* The user goes on. */
    OK(login(session, CKU_USER, USER_PIN));
    OK(p11->C_CloseAllSessions(slot));
    CHECK_RV(p11->C_InitToken(slot, (CK_UTF8CHAR *)SO_PIN, strlen(SO_PIN), label),
             founder() ? CKR_TOKEN_WRITE_PROTECTED : CKR_PIN_LOCKED);
    session = open_session(slot);
    /* An embedded token's SO is locked for ever. */
    if (!founder()) return;
    unlock(CKU_SO, SO_PIN);
    CHECK(!(token_flags() & CKF_SO_PIN_LOCKED));
    OK(login(session, CKU_SO, SO_PIN));
}

int main(int argc, char **argv) {
    start(argc, argv);
    OK(initialize());
    slot = make_token("test");
    session = open_session(slot);
    RUN(states);
    RUN(so_and_private_objects);
    RUN(changing);
    RUN(user_lock);
    RUN(set_pin_counts);
    RUN(init_token);
    RUN(context_specific);
    RUN(logout_forgets);
    RUN(so_lock);
    OK(p11->C_Finalize(NULL));
    return finish();
}
