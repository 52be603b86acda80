/* C_Finalize, exit and dlclose while other threads are inside. */
#include "harness.h"

#define THREADS 6

static CK_SLOT_ID slot;
static int stop, inside;

/* Calls of all kinds until told to stop. Any answer will do, as long as each call comes back. */
static void *keep_calling(void *arg) {
    CK_BYTE data[64] = {0}, out[128];
    CK_MECHANISM sha = {CKM_SHA256, NULL, 0}, cbc = {CKM_AES_CBC, data, 16};
    CK_SLOT_ID slots[8];
    (void)arg;
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        CK_SESSION_HANDLE session = 0;
        CK_OBJECT_HANDLE key = 0, found[4];
        CK_ULONG len = sizeof out, n = COUNT(slots);
        (void)p11->C_GetSlotList(CK_TRUE, slots, &n);
        CK_RV rv = p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session);
        CHECK_RV_IN(rv, CKR_OK, CKR_CRYPTOKI_NOT_INITIALIZED);
        if (p11->C_DigestInit(session, &sha) == CKR_OK) (void)p11->C_Digest(session, data, 64, out, &len);
        if (AES(session, 16, &key, YES(CKA_ENCRYPT), NO(CKA_PRIVATE)) == CKR_OK &&
            p11->C_EncryptInit(session, &cbc, key) == CKR_OK) {
            len = sizeof out;
            (void)p11->C_Encrypt(session, data, 64, out, &len);
        }
        if (p11->C_FindObjectsInit(session, NULL, 0) == CKR_OK) {
            (void)p11->C_FindObjects(session, found, 4, &n);
            (void)p11->C_FindObjectsFinal(session);
        }
        (void)p11->C_GenerateRandom(session, out, 32);
        (void)p11->C_CloseSession(session);
        __atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static void pause_ms(int ms) { usleep((useconds_t)ms * 1000 * (useconds_t)slowness()); }

static void finalize_with_threads_inside(void) {
    pthread_t thread[THREADS];
    stop = inside = 0;
    OK(initialize());
    for (int i = 0; i < THREADS; i++) pthread_create(&thread[i], NULL, keep_calling, NULL);
    for (int round = 0; round < 20; round++) {
        pause_ms(5);
        OK(p11->C_Finalize(NULL));
        CHECK_RV(p11->C_GetInfo(&(CK_INFO){0}), CKR_CRYPTOKI_NOT_INITIALIZED);
        pause_ms(1);
        OK(initialize());
        CHECK(slot_of("test") == slot);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
    CHECK(inside > 0);
    OK(p11->C_Finalize(NULL));
}

static int succeeded;
static void *initialize_and_finalize(void *arg) {
    (void)arg;
    for (int i = 0; i < 50; i++) {
        CK_RV rv = initialize();
        CHECK_RV_IN(rv, CKR_OK, CKR_CRYPTOKI_ALREADY_INITIALIZED);
        if (rv == CKR_OK) __atomic_add_fetch(&succeeded, 1, __ATOMIC_SEQ_CST);
        rv = p11->C_Finalize(NULL);
        CHECK_RV_IN(rv, CKR_OK, CKR_CRYPTOKI_NOT_INITIALIZED);
        if (rv == CKR_OK) __atomic_sub_fetch(&succeeded, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

/* Each success of the one is matched by one of the other. */
static void initialize_races(void) {
    pthread_t thread[THREADS];
    succeeded = 0;
    for (int i = 0; i < THREADS; i++) pthread_create(&thread[i], NULL, initialize_and_finalize, NULL);
    for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
    if (p11->C_Finalize(NULL) == CKR_OK) succeeded--;
    CHECK(succeeded == 0);
}

/* Runs `body` in a child of its own; 0 if it exited as it should. */
static int child_status(void (*body)(void)) {
    int status = -1;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60 * (unsigned)slowness());
        body();
        _exit(9);
    }
    waitpid(pid, &status, 0);
    if (status) fprintf(stderr, "  the child ended with wait status %#x\n", (unsigned)status);
    return status;
}

static void start_threads(void) {
    pthread_t thread;
    stop = inside = 0;
    if (initialize() != CKR_OK) _exit(8);
    for (int i = 0; i < THREADS; i++) pthread_create(&thread, NULL, keep_calling, NULL);
    while (__atomic_load_n(&inside, __ATOMIC_SEQ_CST) < 5) usleep(500);
}

static void late_caller(void) {
    /* Runs in exit handlers, after the module's own if it had any. */
    CK_INFO info;
    CK_RV rv = p11->C_GetInfo(&info);
    if (rv != CKR_OK && rv != CKR_CRYPTOKI_NOT_INITIALIZED) _exit(7);
    rv = p11->C_Finalize(NULL);
    if (rv != CKR_OK && rv != CKR_CRYPTOKI_NOT_INITIALIZED) _exit(7);
}

static void body_exit(void) {
    start_threads();
    exit(0);
}

static void body_exit_with_handler(void) {
    atexit(late_caller);
    start_threads();
    exit(0);
}

static void body_finalize_and_exit(void) {
    start_threads();
    if (p11->C_Finalize(NULL) != CKR_OK) _exit(8);
    exit(0);
}

static void body_return_after_dlclose(void) {
    start_threads();
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    usleep(20000);
    dlclose(module);
    exit(0);
}

/* Fresh threads come in, one after the other, while the destructors of all shared objects have run and
 * the process still lives: $TEST_LINGER is a shared object whose destructor takes its time. */
static void *come_and_go(void *arg) {
    CK_SESSION_HANDLE session;
    CK_BYTE out[100];
    (void)arg;
    if (p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session) == CKR_OK) {
        (void)p11->C_GenerateRandom(session, out, sizeof out);
        (void)p11->C_CloseSession(session);
    }
    return NULL;
}

static void *send_threads(void *arg) {
    pthread_t thread;
    for (;; usleep(200))
        if (pthread_create(&thread, NULL, come_and_go, NULL) == 0) pthread_detach(thread);
    return arg;
}

static void body_exit_with_fresh_threads(void) {
    pthread_t thread;
    if (!dlopen(getenv("TEST_LINGER"), RTLD_NOW)) _exit(6);
    if (initialize() != CKR_OK) _exit(8);
    pthread_create(&thread, NULL, send_threads, NULL);
    usleep(20000);
    exit(0);
}

static void exit_with_fresh_threads(void) {
    if (!getenv("TEST_LINGER")) return;
    for (int round = 0; round < 3; round++) CHECK(child_status(body_exit_with_fresh_threads) == 0);
}

static void exit_with_threads_inside(void) {
    for (int round = 0; round < 8; round++) {
        CHECK(child_status(body_exit) == 0);
        CHECK(child_status(body_exit_with_handler) == 0);
        CHECK(child_status(body_finalize_and_exit) == 0);
    }
    CHECK(child_status(body_return_after_dlclose) == 0);
}

/* A thread that has used the module outlives dlclose: its exit hooks must still have code to run. */
static pthread_barrier_t used, closed;
static void *use_then_wait(void *arg) {
    CK_SESSION_HANDLE session = 0;
    CK_BYTE out[32];
    (void)arg;
    OK(p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session));
    OK(p11->C_GenerateRandom(session, out, sizeof out));
    pthread_barrier_wait(&used);
    pthread_barrier_wait(&closed);
    return NULL;
}

static void reload_cycles(void) {
    for (int round = 0; round < 10; round++) {
        pthread_t thread[3];
        pthread_barrier_init(&used, NULL, 4);
        pthread_barrier_init(&closed, NULL, 4);
        OK(initialize());
        for (int i = 0; i < 3; i++) pthread_create(&thread[i], NULL, use_then_wait, NULL);
        pthread_barrier_wait(&used);
        if (round % 2) OK(p11->C_Finalize(NULL));
        CHECK(dlclose(module) == 0);
        pthread_barrier_wait(&closed);
        for (int i = 0; i < 3; i++) pthread_join(thread[i], NULL);
        load_module();
        CK_RV rv = p11->C_Finalize(NULL);
        CHECK_RV_IN(rv, CKR_OK, CKR_CRYPTOKI_NOT_INITIALIZED);
        pthread_barrier_destroy(&used);
        pthread_barrier_destroy(&closed);
    }
}

/* The module does not notice a changed locale, and leaves signals and the umask alone. */
static void good_manners(void) {
    struct sigaction before, after;
    mode_t mask = umask(022);
    umask(mask);
    sigaction(SIGPIPE, NULL, &before);
    OK(initialize());
    CK_SESSION_HANDLE session = open_session(slot);
    CK_BYTE out[8];
    OK(p11->C_GenerateRandom(session, out, sizeof out));
    OK(p11->C_Finalize(NULL));
    sigaction(SIGPIPE, NULL, &after);
    CHECK(before.sa_handler == after.sa_handler);
    mode_t now_ = umask(mask);
    CHECK(now_ == mask);
}

/* C_Initialize starts no thread, and C_Finalize leaves none, but one that is in the middle of something ends
 * with that. */
static int threads_now(void) {
    int n = 0;
    DIR *dir = opendir("/proc/self/task");
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        if (entry->d_name[0] != '.') n++;
    if (dir) closedir(dir);
    return n;
}

static int files_now(void) {
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) n++;
    if (dir) closedir(dir);
    return n;
}

static int soon(int (*count)(void), int most) {
    for (double end = now() + 10 * slowness(); count() > most && now() < end;) usleep(5000);
    return count() <= most;
}

static void nothing_left_behind(void) {
    int threads = threads_now(), files;
    OK(initialize());
    CHECK(threads_now() == threads);
    CK_SESSION_HANDLE session = open_session(slot);
    CK_OBJECT_HANDLE key;
    OK(login(session, CKU_USER, USER_PIN));
    OK(AES(session, 16, &key, YES(CKA_TOKEN)));
    OK(p11->C_DestroyObject(session, key));
    OK(p11->C_Finalize(NULL));
    CHECK(soon(threads_now, threads));
    files = files_now();
    for (int i = 0; i < 5; i++) {
        OK(initialize());
        session = open_session(slot);
        OK(login(session, CKU_USER, USER_PIN));
        OK(p11->C_Finalize(NULL));
    }
    CHECK(soon(threads_now, threads) && soon(files_now, files));
}

int main(int argc, char **argv) {
    start(argc, argv);
    OK(initialize());
    slot = make_token("test");
    OK(p11->C_Finalize(NULL));
    RUN(finalize_with_threads_inside);
    RUN(initialize_races);
    RUN(exit_with_threads_inside);
    RUN(exit_with_fresh_threads);
    RUN(reload_cycles);
    RUN(good_manners);
    RUN(nothing_left_behind);
    return finish();
}
