/* Many processes on one token, and processes that are killed. The program starts itself again for
 * each process, so that none is a fork of another. */
#include "harness.h"

#define PROCESSES 8
#define OBJECTS 25

static CK_SLOT_ID slot;
static const char *self;

static CK_RV make_object(CK_SESSION_HANDLE session, const char *label) {
    CK_OBJECT_HANDLE key;
    CK_ATTRIBUTE extra[] = {YES(CKA_TOKEN), {CKA_LABEL, (void *)(uintptr_t)label, strlen(label)}, YES(CKA_ENCRYPT)};
    return generate_aes(session, 16, extra, 3, &key);
}

static CK_ULONG count(CK_SESSION_HANDLE session, const char *label) {
    CK_ATTRIBUTE by_label[] = {{CKA_LABEL, (void *)(uintptr_t)label, strlen(label)}};
    return find(session, by_label, 1, NULL);
}

/* The token is logged into anew by each process. */
static CK_SESSION_HANDLE process_session(void) {
    OK(initialize());
    slot = slot_of("test");
    CK_SESSION_HANDLE session = open_session(slot);
    OK(login(session, CKU_USER, USER_PIN));
    return session;
}

static pid_t start_process(const char *role, int number, int out) {
    char text[16];
    snprintf(text, sizeof text, "%d", number);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (out >= 0) dup2(out, 1);
        execl(self, self, module_path, role, text, work_dir, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static int ended_well(pid_t pid) {
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Each makes objects and finds each of them at once; every call succeeds. */
static void role_create(int number) {
    CK_SESSION_HANDLE session = process_session();
    char label[32];
    for (int i = 0; i < OBJECTS; i++) {
        snprintf(label, sizeof label, "p%d.%d", number, i);
        OK(make_object(session, label));
        CHECK(count(session, label) == 1);
    }
    OK(p11->C_Finalize(NULL));
}

static void creating_at_once(void) {
    pid_t pids[PROCESSES];
    char label[32];
    CK_SESSION_HANDLE session = process_session();
    for (int i = 0; i < PROCESSES; i++) pids[i] = start_process("create", i, -1);
    for (int i = 0; i < PROCESSES; i++) CHECK(ended_well(pids[i]));
    /* A process that was there before finds all of it without doing anything. */
    for (int i = 0; i < PROCESSES; i++)
        for (int k = 0; k < OBJECTS; k++) {
            snprintf(label, sizeof label, "p%d.%d", i, k);
            CHECK(count(session, label) == 1);
        }
    OK(p11->C_Finalize(NULL));
}

/* What one creates the other finds when the call has returned; what it destroys is gone. */
static void role_echo(int number) {
    CK_SESSION_HANDLE session = process_session();
    char label[32], go;
    (void)number;
    for (int i = 0; i < 20; i++) {
        snprintf(label, sizeof label, "echo.%d", i);
        OK(make_object(session, label));
        CHECK(write(1, "c", 1) == 1);
        CHECK(read(0, &go, 1) == 1);
        /* The parent has destroyed it. */
        CHECK(count(session, label) == 0);
    }
    OK(p11->C_Finalize(NULL));
}

static void seen_at_once(void) {
    int from[2], to[2];
    char label[32], ready;
    CK_OBJECT_HANDLE object;
    CK_SESSION_HANDLE session = process_session();
    CHECK(pipe(from) == 0 && pipe(to) == 0);
    int stdin_ = dup(0);
    dup2(to[0], 0);
    pid_t pid = start_process("echo", 0, from[1]);
    dup2(stdin_, 0);
    close(from[1]);
    for (int i = 0; i < 20 && read(from[0], &ready, 1) == 1; i++) {
        snprintf(label, sizeof label, "echo.%d", i);
        CK_ATTRIBUTE by_label[] = {{CKA_LABEL, label, strlen(label)}};
        object = 0;
        CHECK(find(session, by_label, 1, &object) == 1);
        OK(p11->C_DestroyObject(session, object));
        CHECK(write(to[1], "g", 1) == 1);
    }
    CHECK(ended_well(pid));
    OK(p11->C_Finalize(NULL));
}

/* An attribute changed by one process is read by another; a key destroyed is not used any more. */
static void role_change(int number) {
    CK_SESSION_HANDLE session = process_session();
    CK_OBJECT_HANDLE object = 0;
    CK_ATTRIBUTE old[] = {TEXT(CKA_LABEL, "old name")}, new_[] = {TEXT(CKA_LABEL, "new name")};
    CHECK(find(session, number ? new_ : old, 1, &object) == 1);
    if (number) OK(p11->C_DestroyObject(session, object));
    else OK(p11->C_SetAttributeValue(session, object, new_, 1));
    OK(p11->C_Finalize(NULL));
}

static void changes_are_seen(void) {
    CK_SESSION_HANDLE session = process_session();
    CK_OBJECT_HANDLE key = 0;
    CK_BYTE label[32], out[16];
    CK_ULONG len = sizeof out;
    CK_MECHANISM ecb = {CKM_AES_ECB, NULL, 0};
    OK(AES(session, 16, &key, YES(CKA_TOKEN), TEXT(CKA_LABEL, "old name"), YES(CKA_ENCRYPT)));
    OK(p11->C_EncryptInit(session, &ecb, key));
    OK(p11->C_Encrypt(session, (CK_BYTE *)"sixteen bytes ok", 16, out, &len));
    CHECK(ended_well(start_process("change", 0, -1)));
    CHECK(get(session, key, CKA_LABEL, label, sizeof label) == 8 && !memcmp(label, "new name", 8));
    CHECK(ended_well(start_process("change", 1, -1)));
    CHECK_RV_IN(p11->C_EncryptInit(session, &ecb, key), CKR_KEY_HANDLE_INVALID, CKR_OBJECT_HANDLE_INVALID);
    OK(p11->C_Finalize(NULL));
}

/* Writes keys and says so, one byte each, until it is killed. */
static void role_write_for_ever(int number) {
    CK_SESSION_HANDLE session = process_session();
    char label[32];
    for (int i = 0;; i++) {
        snprintf(label, sizeof label, "k%d.%d", number, i);
        if (make_object(session, label) != CKR_OK || write(1, "a", 1) != 1) _exit(1);
    }
}

/* kill -9 at any moment: every key that was acknowledged is there, and usable. */
static void killed_writers(void) {
    for (int round = 0; round < 6; round++) {
        int fds[2];
        char byte[256], label[32];
        ssize_t got;
        int acknowledged = 0;
        CHECK(pipe(fds) == 0);
        pid_t pid = start_process("write", round, fds[1]);
        close(fds[1]);
        /* Kill it after a varying number of acknowledgements. */
        while (acknowledged < 5 + round * 7 && (got = read(fds[0], byte, 1)) > 0) acknowledged += (int)got;
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        while ((got = read(fds[0], byte, sizeof byte)) > 0) acknowledged += (int)got;
        close(fds[0]);
        CK_SESSION_HANDLE session = process_session();
        CK_MECHANISM ecb = {CKM_AES_ECB, NULL, 0};
        for (int i = 0; i < acknowledged; i++) {
            CK_OBJECT_HANDLE key = 0;
            CK_BYTE out[16];
            CK_ULONG len = sizeof out;
            snprintf(label, sizeof label, "k%d.%d", round, i);
            CK_ATTRIBUTE by_label[] = {{CKA_LABEL, label, strlen(label)}};
            if (!CHECK(find(session, by_label, 1, &key) == 1)) break;
            OK(p11->C_EncryptInit(session, &ecb, key));
            OK(p11->C_Encrypt(session, (CK_BYTE *)"sixteen bytes ok", 16, out, &len));
        }
        CHECK(acknowledged >= 5);
        OK(make_object(session, "after a kill"));
        OK(p11->C_Finalize(NULL));
    }
}

/* Eight processes on an empty data directory: each finds the free slot, one token is made. */
static void role_first(int number) {
    char label[32];
    OK(initialize());
    snprintf(label, sizeof label, "first %d", number);
    (void)free_slot();
    (void)slot_of(label);
    OK(p11->C_Finalize(NULL));
}

static void starting_at_once(void) {
    pid_t pids[PROCESSES];
    char empty[128], data[128];
    snprintf(empty, sizeof empty, "%s/empty", work_dir);
    snprintf(data, sizeof data, "%s/data", work_dir);
    setenv("CONCLAVE_HOME", empty, 1);
    for (int i = 0; i < PROCESSES; i++) pids[i] = start_process("first", i, -1);
    for (int i = 0; i < PROCESSES; i++) CHECK(ended_well(pids[i]));
    setenv("CONCLAVE_HOME", data, 1);
}

/* Wrong PINs are counted once each, whoever enters them: eight processes cannot try more than ten. */
static void role_guess(int number) {
    OK(initialize());
    slot = slot_of("test");
    CK_SESSION_HANDLE session = open_session(slot);
    (void)number;
    for (int i = 0; i < 3; i++) {
        CK_RV rv = login(session, CKU_USER, "guessed");
        CHECK_RV_IN(rv, CKR_PIN_INCORRECT, CKR_PIN_LOCKED);
        if (rv == CKR_PIN_INCORRECT && write(1, "x", 1) != 1) _exit(1);
    }
    OK(p11->C_Finalize(NULL));
}

static void guesses_add_up(void) {
    int fds[2], guesses = 0;
    char byte;
    pid_t pids[PROCESSES];
    CHECK(pipe(fds) == 0);
    for (int i = 0; i < PROCESSES; i++) pids[i] = start_process("guess", i, fds[1]);
    close(fds[1]);
    while (read(fds[0], &byte, 1) == 1) guesses++;
    for (int i = 0; i < PROCESSES; i++) CHECK(ended_well(pids[i]));
    CHECK(guesses <= 10);
    OK(initialize());
    CK_TOKEN_INFO info;
    OK(p11->C_GetTokenInfo(slot_of("test"), &info));
    CHECK(info.flags & CKF_USER_PIN_LOCKED);
    OK(p11->C_Finalize(NULL));
}

static int run_role(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(int);
    } roles[] = {{"create", role_create}, {"echo", role_echo},   {"change", role_change},
                 {"write", role_write_for_ever}, {"first", role_first}, {"guess", role_guess}};
    (void)argc;
    module_path = argv[1];
    strncpy(work_dir, argv[4], sizeof work_dir - 1);
    signal(SIGALRM, on_alarm);
    alarm(140 * (unsigned)slowness());
    load_module();
    for (size_t i = 0; i < COUNT(roles); i++)
        if (!strcmp(argv[2], roles[i].name)) roles[i].run(atoi(argv[3]));
    return checks_failed != 0;
}

int main(int argc, char **argv) {
    if (argc == 5) return run_role(argc, argv);
    self = "/proc/self/exe";
    start(argc, argv);
    OK(initialize());
    slot = make_token("test");
    OK(p11->C_Finalize(NULL));
    RUN(creating_at_once);
    RUN(seen_at_once);
    RUN(changes_are_seen);
    RUN(killed_writers);
    RUN(starting_at_once);
    RUN(guesses_add_up);
    return finish();
}
