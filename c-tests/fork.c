/* Fork: the child is told that it is not initialised, initialises, and works; the parent notices
 * nothing. Also with the parent busy, with the parent gone, and with both writing. */
#include "harness.h"

static CK_SLOT_ID slot;
static CK_SESSION_HANDLE session;
#ifndef NO_BUSY_FORK
static int stop;
#endif

/* Checks in a child count there; a child ends with the number of its failures. */
static void end_child(int before) { _exit(checks_failed - before > 100 ? 100 : checks_failed - before); }

static pid_t start_child(void (*body)(void)) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int before = checks_failed;
        alarm(100 * (unsigned)slowness());
        body();
        end_child(before);
    }
    return pid;
}

static int child_ok(pid_t pid) {
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static CK_RV make_key(CK_SESSION_HANDLE with, const char *label) {
    CK_OBJECT_HANDLE key;
    CK_ATTRIBUTE extra[] = {YES(CKA_TOKEN), {CKA_LABEL, (void *)(uintptr_t)label, strlen(label)}};
    return generate_aes(with, 16, extra, 2, &key);
}

static CK_ULONG count(CK_SESSION_HANDLE with, const char *label) {
    CK_ATTRIBUTE by_label[] = {{CKA_LABEL, (void *)(uintptr_t)label, strlen(label)}};
    return find(with, by_label, 1, NULL);
}

/* The library's life in a child, from the first call on; a user session of its own. */
static CK_SESSION_HANDLE child_session(void) {
    CHECK_RV(p11->C_GetInfo(&(CK_INFO){0}), CKR_CRYPTOKI_NOT_INITIALIZED);
    CHECK_RV(p11->C_GenerateRandom(session, (CK_BYTE[8]){0}, 8), CKR_CRYPTOKI_NOT_INITIALIZED);
    CHECK_RV(p11->C_CloseSession(session), CKR_CRYPTOKI_NOT_INITIALIZED);
    CHECK_RV(p11->C_Finalize(NULL), CKR_CRYPTOKI_NOT_INITIALIZED);
    OK(initialize());
    CHECK(slot_of("test") == slot);
    /* The parent's sessions and logins are not the child's. */
    CHECK_RV(p11->C_GetSessionInfo(session, &(CK_SESSION_INFO){0}), CKR_SESSION_HANDLE_INVALID);
    CK_SESSION_HANDLE mine = open_session(slot);
    CK_SESSION_INFO info = {0};
    OK(p11->C_GetSessionInfo(mine, &info));
    CHECK(info.state == CKS_RW_PUBLIC_SESSION);
    OK(login(mine, CKU_USER, USER_PIN));
    return mine;
}

static void body_works(void) {
    CK_SESSION_HANDLE mine = child_session();
    CHECK(count(mine, "parent's") == 1);
    CK_ULONG before = count(mine, "child's");
    OK(make_key(mine, "child's"));
    CHECK(count(mine, "child's") == before + 1);
    OK(p11->C_Finalize(NULL));
}

static void child_works(void) {
    OK(make_key(session, "parent's"));
    CHECK(child_ok(start_child(body_works)));
    /* The child's end did nothing to the parent; each sees what the other made. */
    CHECK(count(session, "child's") == 1);
    OK(make_key(session, "parent's second"));
    CHECK(count(session, "parent's second") == 1);
}

static void body_does_nothing(void) {}

static void child_that_does_nothing(void) {
    for (int i = 0; i < 5; i++) CHECK(child_ok(start_child(body_does_nothing)));
    CHECK(count(session, "parent's") == 1);
    OK(make_key(session, "after idle children"));
}

/* The same random bytes must not come out of both. */
static int pipe_fds[2];
static void body_random(void) {
    CK_BYTE bytes[32];
    OK(initialize());
    CK_SESSION_HANDLE mine = open_session(slot);
    OK(p11->C_GenerateRandom(mine, bytes, sizeof bytes));
    CHECK(write(pipe_fds[1], bytes, sizeof bytes) == sizeof bytes);
}

static void random_differs(void) {
    CK_BYTE mine[32], theirs[2][32];
    CHECK(pipe(pipe_fds) == 0);
    OK(p11->C_GenerateRandom(session, mine, 16)); /* fills whatever is buffered */
    for (int i = 0; i < 2; i++) {
        CHECK(child_ok(start_child(body_random)));
        CHECK(read(pipe_fds[0], theirs[i], 32) == 32);
    }
    OK(p11->C_GenerateRandom(session, mine, sizeof mine));
    CHECK(memcmp(mine, theirs[0], 32) && memcmp(mine, theirs[1], 32) && memcmp(theirs[0], theirs[1], 32));
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

#ifndef NO_BUSY_FORK
static void *keep_busy(void *arg) {
    CK_SESSION_HANDLE own = open_session(slot);
    CK_BYTE out[64];
    CK_MECHANISM sha = {CKM_SHA256, NULL, 0};
    int i = 0;
    (void)arg;
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        CK_ULONG len = sizeof out;
        CK_OBJECT_HANDLE key;
        OK(p11->C_DigestInit(own, &sha));
        OK(p11->C_Digest(own, out, 32, out, &len));
        OK(AES(own, 16, &key, NO(CKA_TOKEN)));
        OK(p11->C_DestroyObject(own, key));
        if (i++ % 20 == 0) OK(make_key(own, "busy"));
        (void)count(own, "parent's");
    }
    OK(p11->C_CloseSession(own));
    return NULL;
}

/* Fork while other threads hold whatever the module locks. */
static void busy_parent(void) {
    pthread_t thread[4];
    stop = 0;
    for (int i = 0; i < 4; i++) pthread_create(&thread[i], NULL, keep_busy, NULL);
    for (int i = 0; i < 12; i++) {
        usleep(3000);
        CHECK(child_ok(start_child(body_works)));
    }
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
    CHECK(count(session, "child's") == 13);
}
#endif

#define WRITES 60

static void body_writes(void) {
    CK_SESSION_HANDLE mine = child_session();
    CHECK(write(pipe_fds[1], "r", 1) == 1);
    for (int i = 0; i < WRITES; i++) OK(make_key(mine, "written by the child"));
    CHECK(count(mine, "written by the child") == WRITES);
    OK(p11->C_Finalize(NULL));
}

/* The parent closes its database while the child is writing: nothing acknowledged is lost. */
static void parent_finalizes(void) {
    char ready;
    CHECK(pipe(pipe_fds) == 0);
    pid_t pid = start_child(body_writes);
    CHECK(read(pipe_fds[0], &ready, 1) == 1);
    for (int i = 0; i < 5; i++) OK(make_key(session, "written by the parent"));
    OK(p11->C_Finalize(NULL));
    CHECK(child_ok(pid));
    OK(initialize());
    session = open_session(slot);
    OK(login(session, CKU_USER, USER_PIN));
    CHECK(count(session, "written by the child") == WRITES);
    CHECK(count(session, "written by the parent") == 5);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

/* Forked before C_Initialize, and forked after C_Finalize. */
static void body_fresh(void) {
    OK(initialize());
    CK_SESSION_HANDLE mine = open_session(slot);
    OK(login(mine, CKU_USER, USER_PIN));
    CHECK(count(mine, "parent's") == 1);
}

static void forked_uninitialised(void) {
    OK(p11->C_Finalize(NULL));
    CHECK(child_ok(start_child(body_fresh)));
    OK(initialize());
    session = open_session(slot);
    OK(login(session, CKU_USER, USER_PIN));
}

/* A child of a child. */
static void body_grandchild(void) {
    CK_SESSION_HANDLE mine = child_session();
    pid_t pid = start_child(body_works);
    CHECK(child_ok(pid));
    CHECK(count(mine, "parent's") == 1);
}

static void grandchild(void) { CHECK(child_ok(start_child(body_grandchild))); }

/* vfork and exec, as system() does it. */
static void running_programs(void) {
    CHECK(system("true") == 0);
    FILE *out = popen("echo x", "r");
    CHECK(out && fgetc(out) == 'x');
    if (out) pclose(out);
    OK(make_key(session, "after system"));
}

int main(int argc, char **argv) {
    start(argc, argv);
    session = user_session();
    slot = test_slot;
    RUN(child_works);
    RUN(child_that_does_nothing);
    RUN(random_differs);
#ifndef NO_BUSY_FORK
    RUN(busy_parent);
#endif
    RUN(parent_finalizes);
    RUN(forked_uninitialised);
    RUN(grandchild);
    RUN(running_programs);
    OK(p11->C_Finalize(NULL));
    return finish();
}
