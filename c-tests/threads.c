/* Eight threads on shared keys, on sessions of their own and on one session together; the token's
 * state under calls from everywhere. Runs under helgrind too. */
#include "harness.h"

#define THREADS 8
#define ROUNDS 300

static CK_OBJECT_HANDLE aes, ec_public, ec_private, hmac;
static CK_SESSION_HANDLE shared;
static int rounds;

static void in_threads(void *(*work)(void *)) {
    pthread_t thread[THREADS];
    for (long i = 0; i < THREADS; i++) pthread_create(&thread[i], NULL, work, (void *)i);
    for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
}

/* Everything right, from every thread at once. */
static void *own_session(void *arg) {
    CK_SESSION_HANDLE session = open_session(test_slot);
    CK_BYTE iv[16] = {0}, data[64], sealed[96], opened[96], signature[64], mac[32];
    CK_MECHANISM ecdsa = {CKM_ECDSA, NULL, 0}, hmac_sha = {CKM_SHA256_HMAC, NULL, 0};
    memset(data, (int)(long)arg + 1, sizeof data);
    for (int i = 0; i < rounds && !checks_failed; i++) {
        CK_ULONG len = sizeof sealed, got = sizeof opened;
        memcpy(iv, &i, sizeof i);
        GCM(gcm, iv);
        OK(p11->C_EncryptInit(session, &gcm, aes));
        OK(p11->C_Encrypt(session, data, sizeof data, sealed, &len));
        OK(p11->C_DecryptInit(session, &gcm, aes));
        OK(p11->C_Decrypt(session, sealed, len, opened, &got));
        CHECK(got == sizeof data && !memcmp(opened, data, sizeof data));
        len = sizeof signature;
        OK(p11->C_SignInit(session, &ecdsa, ec_private));
        OK(p11->C_Sign(session, data, 32, signature, &len));
        OK(p11->C_VerifyInit(session, &ecdsa, ec_public));
        OK(p11->C_Verify(session, data, 32, signature, len));
        len = sizeof mac;
        OK(p11->C_SignInit(session, &hmac_sha, hmac));
        OK(p11->C_Sign(session, data, 32, mac, &len));
        OK(p11->C_GenerateRandom(session, iv, sizeof iv));
        CHECK(get_bool(session, ec_private, CKA_SENSITIVE) == 1);
        if (i % 16 == 0) {
            CK_SESSION_HANDLE brief = open_session(test_slot);
            CK_OBJECT_HANDLE made;
            CK_BYTE id[8];
            OK(p11->C_GenerateRandom(session, id, sizeof id));
            CK_ATTRIBUTE by_id[] = {BYTES(CKA_ID, id)};
            OK(AES(brief, 16, &made, BYTES(CKA_ID, id)));
            CHECK(find(session, by_id, 1, NULL) == 1);
            OK(p11->C_CloseSession(brief));
            CHECK(find(session, by_id, 1, NULL) == 0);
        }
    }
    OK(p11->C_CloseSession(session));
    return NULL;
}

static void own_sessions(void) { in_threads(own_session); }

/* One session for all: calls come between each other's, so any answer will do, but the module and
 * the session live on, and a success is a true one. */
static void *same_session(void *arg) {
    CK_BYTE data[64] = {0}, out[128];
    CK_MECHANISM sha = {CKM_SHA256, NULL, 0}, ecdsa = {CKM_ECDSA, NULL, 0}, cbc = {CKM_AES_CBC, data, 16};
    long me = (long)arg;
    for (int i = 0; i < rounds; i++) {
        CK_ULONG len = sizeof out;
        switch ((i + me) % 6) {
        case 0:
            (void)p11->C_DigestInit(shared, &sha);
            (void)p11->C_DigestUpdate(shared, data, 64);
            if (p11->C_DigestFinal(shared, out, &len) == CKR_OK) CHECK(len == 32);
            break;
        case 1:
            (void)p11->C_SignInit(shared, &ecdsa, ec_private);
            if (p11->C_Sign(shared, data, 32, out, &len) == CKR_OK) CHECK(len == 64);
            break;
        case 2:
            (void)p11->C_EncryptInit(shared, &cbc, aes);
            if (p11->C_Encrypt(shared, data, 64, out, &len) == CKR_OK) CHECK(len == 64);
            break;
        case 3: {
            CK_OBJECT_HANDLE found[4];
            CK_ULONG n = 0;
            (void)p11->C_FindObjectsInit(shared, NULL, 0);
            (void)p11->C_FindObjects(shared, found, 4, &n);
            (void)p11->C_FindObjectsFinal(shared);
            break;
        }
        case 4: {
            CK_OBJECT_HANDLE made = 0;
            OK(AES(shared, 16, &made, YES(CKA_ENCRYPT)));
            OK(p11->C_DestroyObject(shared, made));
            break;
        }
        default:
            (void)p11->C_VerifyInit(shared, &ecdsa, ec_public);
            (void)p11->C_Verify(shared, data, 32, out, 64);
            OK(p11->C_GenerateRandom(shared, out, 16));
        }
    }
    return NULL;
}

static void one_session(void) {
    CK_SESSION_INFO info;
    shared = open_session(test_slot);
    in_threads(same_session);
    OK(p11->C_GetSessionInfo(shared, &info));
    OK(p11->C_CloseSession(shared));
}

/* Sessions closed under their users' hands. */
static CK_SESSION_HANDLE moving;
static int stop;
static void *use_moving(void *arg) {
    CK_BYTE out[64];
    CK_MECHANISM ecdsa = {CKM_ECDSA, NULL, 0};
    (void)arg;
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        CK_SESSION_HANDLE session = __atomic_load_n(&moving, __ATOMIC_SEQ_CST);
        CK_ULONG len = sizeof out;
        CK_RV rv = p11->C_SignInit(session, &ecdsa, ec_private);
        if (rv == CKR_OK) rv = p11->C_Sign(session, out, 32, out, &len);
        CHECK_RV_IN(rv, CKR_OK, CKR_SESSION_HANDLE_INVALID, CKR_SESSION_CLOSED, CKR_OPERATION_ACTIVE,
                    CKR_OPERATION_NOT_INITIALIZED);
    }
    return NULL;
}

static void sessions_closed_in_use(void) {
    pthread_t thread[THREADS];
    stop = 0;
    moving = open_session(test_slot);
    for (int i = 0; i < THREADS; i++) pthread_create(&thread[i], NULL, use_moving, NULL);
    for (int i = 0; i < rounds / 2; i++) {
        CK_SESSION_HANDLE old = moving;
        __atomic_store_n(&moving, open_session(test_slot), __ATOMIC_SEQ_CST);
        OK(p11->C_CloseSession(old));
    }
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
    OK(p11->C_CloseSession(moving));
}

/* Token objects made by all threads; each finds its own at once and the count is right at the end. */
static void *create_objects(void *arg) {
    CK_SESSION_HANDLE session = open_session(test_slot);
    CK_ATTRIBUTE template[] = {NUMBER(CKA_CLASS, CKO_DATA), YES(CKA_TOKEN), TEXT(CKA_APPLICATION, "threads"),
                               {CKA_LABEL, NULL, 0}, YES(CKA_PRIVATE)};
    char label[32];
    for (int i = 0; i < rounds / 20 + 2; i++) {
        CK_OBJECT_HANDLE object;
        template[3].pValue = label;
        template[3].ulValueLen = (CK_ULONG)snprintf(label, sizeof label, "object %ld.%d", (long)arg, i);
        OK(p11->C_CreateObject(session, template, COUNT(template), &object));
        CHECK(find(session, &template[3], 1, NULL) == 1);
    }
    OK(p11->C_CloseSession(session));
    return NULL;
}

static void token_objects(void) {
    CK_SESSION_HANDLE session = open_session(test_slot);
    CK_ATTRIBUTE all[] = {TEXT(CKA_APPLICATION, "threads")};
    in_threads(create_objects);
    CHECK(find(session, all, 1, NULL) == THREADS * (CK_ULONG)(rounds / 20 + 2));
    OK(p11->C_CloseSession(session));
}

/* One long key generation does not stop the others. */
static int generated;
static void *generate_rsa(void *arg) {
    CK_SESSION_HANDLE session = open_session(test_slot);
    CK_OBJECT_HANDLE pub, priv;
    CK_ATTRIBUTE bits[] = {NUMBER(CKA_MODULUS_BITS, 3072)};
    (void)arg;
    OK(generate_pair(session, CKM_RSA_PKCS_KEY_PAIR_GEN, bits, 1, NULL, 0, &pub, &priv));
    __atomic_store_n(&generated, 1, __ATOMIC_SEQ_CST);
    OK(p11->C_CloseSession(session));
    return NULL;
}

static void no_global_lock(void) {
    CK_SESSION_HANDLE session = open_session(test_slot);
    CK_BYTE iv[16] = {0}, out[64];
    double longest = 0;
    pthread_t thread;
    GCM(gcm, iv);
    generated = 0;
    pthread_create(&thread, NULL, generate_rsa, NULL);
    long calls = 0;
    while (!__atomic_load_n(&generated, __ATOMIC_SEQ_CST)) {
        double begin = now();
        CK_ULONG len = sizeof out;
        OK(p11->C_EncryptInit(session, &gcm, aes));
        OK(p11->C_Encrypt(session, iv, 16, out, &len));
        double took = now() - begin;
        if (took > longest) longest = took;
        calls++;
    }
    pthread_join(thread, NULL);
    /* A generation takes a good part of a second; a call that waited for it would show. */
    CHECK(calls > 3);
    OK(p11->C_CloseSession(session));
}

int main(int argc, char **argv) {
    CK_MECHANISM generic = {CKM_GENERIC_SECRET_KEY_GEN, NULL, 0};
    CK_ATTRIBUTE secret[] = {NUMBER(CKA_VALUE_LEN, 32), YES(CKA_SIGN), YES(CKA_VERIFY), NO(CKA_TOKEN)};
    start(argc, argv);
    rounds = ROUNDS / slowness();
    if (rounds < 6) rounds = 6;
    CK_SESSION_HANDLE session = user_session();
    OK(AES(session, 32, &aes, YES(CKA_ENCRYPT), YES(CKA_DECRYPT)));
    OK(p11->C_GenerateKey(session, &generic, secret, COUNT(secret), &hmac));
    OK(generate_pair(session, CKM_EC_KEY_PAIR_GEN, NULL, 0, NULL, 0, &ec_public, &ec_private));
    RUN(own_sessions);
    RUN(one_session);
    RUN(sessions_closed_in_use);
    RUN(token_objects);
    if (slowness() == 1) RUN(no_global_lock);
    OK(p11->C_Finalize(NULL));
    return finish();
}
