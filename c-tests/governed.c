/* Several processes with several threads on one founded token at once: some execute commands, which
 * rotate the domain key, reset PINs and trust keys; objects are sealed anew in the background and on
 * use; others sign, log in and out, initialise and finalise, fork and exit in the middle of it. No
 * call fails that should not, and nothing is lost. */
#include "operators.h"

#define KEYS 200
#define SIGNERS 3

static party founders[3] = {{.name = "Anna"}, {.name = "Ben"}, {.name = "Cléo"}};
static double until;
static int stop;

static int going(void) { return now() < until && !__atomic_load_n(&stop, __ATOMIC_RELAXED); }

static void rest(int ms) {
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000 * 1000};
    nanosleep(&time, NULL);
}

/* The one object of that class and label. Without a login none is found that is private, and a search
 * that could see one ends with the login. */
static CK_OBJECT_HANDLE look_up(CK_SESSION_HANDLE mine, CK_OBJECT_CLASS class, const char *label, const void *steady) {
    CK_OBJECT_HANDLE found[8];
    CK_ULONG n = 0;
    CK_ATTRIBUTE template[] = {NUMBER(CKA_CLASS, class), {CKA_LABEL, (void *)(uintptr_t)label, strlen(label)}};
    OK(p11->C_FindObjectsInit(mine, template, 2));
    CK_RV rv = p11->C_FindObjects(mine, found, COUNT(found), &n);
    if (rv == CKR_OK) rv = p11->C_FindObjectsFinal(mine);
    if (steady) OK(rv);
    else CHECK_RV_IN(rv, CKR_OK, CKR_OPERATION_NOT_INITIALIZED);
    CHECK(n == 1 || (n == 0 && !steady));
    return n == 1 ? found[0] : 0;
}

/* What the end of a login may do to a call. */
static void check_use(CK_RV rv, const void *steady) {
    if (steady) OK(rv);
    else CHECK_RV_IN(rv, CKR_OK, CKR_KEY_HANDLE_INVALID, CKR_USER_NOT_LOGGED_IN, CKR_OPERATION_NOT_INITIALIZED);
}

/* Signatures and encryptions with keys of the token. `steady`, if not NULL: the login stays. */
static void *sign_and_encrypt(void *steady) {
    CK_SESSION_HANDLE mine = open_session(slot);
    CK_MECHANISM ecdsa = {CKM_ECDSA, NULL, 0};
    CK_BYTE data[32] = {0}, iv[12] = {0}, out[80], back[80];
    GCM(gcm, iv);
    for (unsigned i = 0; going(); i++) {
        char label[16];
        CK_ULONG len = sizeof out, back_len = sizeof back;
        snprintf(label, sizeof label, "key %u", i % KEYS);
        CK_OBJECT_HANDLE key = look_up(mine, CKO_SECRET_KEY, label, steady);
        CK_RV rv = p11->C_EncryptInit(mine, &gcm, key);
        if (rv == CKR_OK) rv = p11->C_Encrypt(mine, data, sizeof data, out, &len);
        if (rv == CKR_OK) rv = p11->C_DecryptInit(mine, &gcm, key);
        if (rv == CKR_OK) rv = p11->C_Decrypt(mine, out, len, back, &back_len);
        if (rv == CKR_OK) CHECK(back_len == sizeof data && !memcmp(back, data, sizeof data));
        check_use(rv, steady);
        key = look_up(mine, CKO_PRIVATE_KEY, "signer", steady);
        len = sizeof out;
        rv = p11->C_SignInit(mine, &ecdsa, key);
        if (rv == CKR_OK) rv = p11->C_Sign(mine, data, sizeof data, out, &len);
        check_use(rv, steady);
        if (rv != CKR_OK) continue;
        rv = p11->C_VerifyInit(mine, &ecdsa, look_up(mine, CKO_PUBLIC_KEY, "signer", steady));
        if (rv == CKR_OK) rv = p11->C_Verify(mine, data, sizeof data, out, len);
        check_use(rv, steady);
    }
    OK(p11->C_CloseSession(mine));
    return NULL;
}

/* Looks at all that is public, which needs no login. */
static void *look(void *unused) {
    static CK_BYTE out[16 * MANY];
    CK_SESSION_HANDLE mine = open_session(slot);
    CK_TOKEN_INFO info;
    while (going()) {
        CK_ULONG len = sizeof out;
        OK(kms->KMS_DescribeDomain(mine, out, &len));
        len = sizeof out;
        OK(kms->KMS_ListProposals(mine, out, &len));
        len = sizeof out;
        OK(kms->KMS_ReadLog(mine, out, &len));
        len = sizeof out;
        OK(kms->KMS_ExportDomainToken(mine, out, &len));
        OK(p11->C_GetTokenInfo(slot, &info));
        rest(20);
    }
    OK(p11->C_CloseSession(mine));
    return unused;
}

static void set_up(void) {
    OK(initialize());
    join_domain(founders, 3);
    OK(login(session, CKU_USER, USER_PIN));
}

/* Executes one command after the other while other threads sign. The login stays. */
static void role_govern(int number) {
    pthread_t threads[SIGNERS + 1];
    set_up();
    for (int i = 0; i < SIGNERS; i++) pthread_create(&threads[i], NULL, sign_and_encrypt, &threads);
    pthread_create(&threads[SIGNERS], NULL, look, NULL);
    for (int i = 0; going(); i++) {
        const party *one = &founders[(i + number) % 3], *other = &founders[(i + number + 1) % 3];
        char request[256];
        snprintf(request, sizeof request,
                 "{\"command\":\"%s\",\"role\":{\"named\":\"dora %d\"},\"code\":\"an enrolment code %d\"}",
                 i == 1 ? "create user" : "reset PIN", number, i);
        switch (i % 4) {
        case 0: decide("{\"command\":\"rotate domain key\"}", one, other); break;
        case 1:
            decide(request, one, other);
            break;
        case 2: {
            char name[32], code[48], pin[32];
            sprintf(name, "dora %d", number), sprintf(code, "an enrolment code %d", i - 1);
            sprintf(pin, "dora's %d", i);
            OK(kms->KMS_SetEnrolledPIN(session, CKU_USER, (CK_BYTE *)name, strlen(name), (CK_BYTE *)code, strlen(code),
                                       (CK_BYTE *)pin, strlen(pin)));
            break;
        }
        default:
            snprintf(request, sizeof request, "{\"command\":\"trust key\",\"object\":\"%032x\",\"trusted\":true}", 1000 * number + i);
            decide(request, one, other);
        }
        rest(30);
    }
    for (int i = 0; i <= SIGNERS; i++) pthread_join(threads[i], NULL);
    OK(p11->C_Finalize(NULL));
}

/* Logs in and out, as user and as SO, while other threads try to sign. */
static void role_log_in_and_out(int number) {
    pthread_t threads[SIGNERS];
    set_up();
    for (int i = 0; i < SIGNERS; i++) pthread_create(&threads[i], NULL, sign_and_encrypt, NULL);
    for (int i = number; going(); i++) {
        rest(15);
        OK(p11->C_Logout(session));
        OK(i % 3 ? login(session, CKU_USER, USER_PIN) : login(session, CKU_SO, SO_PIN));
    }
    for (int i = 0; i < SIGNERS; i++) pthread_join(threads[i], NULL);
    OK(p11->C_Finalize(NULL));
}

/* Rotates, which begins the sealing anew, and is gone: by C_Finalize, by a fork beforehand, by exit
 * with another thread still in a call. */
static void role_come_and_go(int number) {
    for (int i = number; now() < until; i++) {
        pthread_t thread;
        set_up();
        decide("{\"command\":\"rotate domain key\"}", &founders[0], &founders[1]);
#ifndef NO_BUSY_FORK /* the sealing goes on meanwhile */
        if (i % 3 == 0) {
            fflush(NULL);
            pid_t child = fork();
            if (child == 0) {
                CK_BYTE out[16];
                CHECK_RV(p11->C_GenerateRandom(session, out, sizeof out), CKR_CRYPTOKI_NOT_INITIALIZED);
                set_up();
                OK(p11->C_Finalize(NULL));
                _exit(checks_failed != 0);
            }
            int status = -1;
            waitpid(child, &status, 0);
            CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        }
#endif
        if (now() > until) {
            /* The rest of the process is `exit`, in which this thread goes on. */
            until += 1000;
            pthread_create(&thread, NULL, sign_and_encrypt, NULL);
            rest(5);
            fflush(NULL);
            exit(checks_failed != 0);
        }
        OK(p11->C_Finalize(NULL));
    }
}

static const struct {
    const char *name;
    void (*run)(int);
} roles[] = {{"govern", role_govern}, {"log in and out", role_log_in_and_out}, {"come and go", role_come_and_go}};

static char self[] = "/proc/self/exe";

static pid_t start_process(int role, int number) {
    char text[4][32];
    sprintf(text[0], "%d", role), sprintf(text[1], "%d", number), sprintf(text[2], "%.3f", until);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        execl(self, self, module_path, text[0], text[1], text[2], work_dir, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static void share_founders(int save) {
    char path[128];
    snprintf(path, sizeof path, "%s/founders", work_dir);
    FILE *file = fopen(path, save ? "w" : "r");
    if (!CHECK(file)) exit(1);
    for (int i = 0; i < 3; i++) {
        party *one = &founders[i];
        size_t done = save ? fwrite(one->id, 1, 16, file) + fwrite(one->signing, 1, 120, file)
                           : fread(one->id, 1, 16, file) + fread(one->signing, 1, 120, file);
        CHECK(done == 136);
    }
    fclose(file);
}

/* Waits for the sealing in the background; everything is there and under the active domain key. */
static void nothing_is_lost(void) {
    char active[33] = "", wanted[64];
    OK(initialize());
    join_domain(founders, 3);
    OK(login(session, CKU_USER, USER_PIN));
    for (double end = now() + 60 * slowness(); now() < end; rest(50)) {
        const char *text = describe_domain();
        const char *id = strstr(text, "\"domain_keys\":["), *status;
        while (id && (id = strstr(id + 1, "\"id\":\"")) && (status = strstr(id, "\"status\":\"")))
            if (!strncmp(status + 10, "active", 6)) snprintf(active, sizeof active, "%.32s", id + 6);
        snprintf(wanted, sizeof wanted, "\"records\":{\"%s\":%d}", active, KEYS + 2);
        if (strstr(text, wanted)) break;
    }
    CHECK(strstr(describe_domain(), wanted));
    until = now() + 1;
    sign_and_encrypt(&until);
    OK(p11->C_Finalize(NULL));
}

static void all_at_once(void) {
    static const int plan[] = {0, 0, 1, 2};
    pid_t pids[COUNT(plan)];
    until = now() + 6;
    for (size_t i = 0; i < COUNT(plan); i++) pids[i] = start_process(plan[i], (int)i + 1);
    for (size_t i = 0; i < COUNT(plan); i++) {
        int status = -1;
        waitpid(pids[i], &status, 0);
        if (!CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0)) fprintf(stderr, "status %x of: %s\n", status, roles[plan[i]].name);
    }
}

static int run_role(char **argv) {
    module_path = argv[1];
    until = atof(argv[4]);
    strncpy(work_dir, argv[5], sizeof work_dir - 1);
    signal(SIGALRM, on_alarm);
    signal(SIGABRT, on_abort);
    alarm(140 * (unsigned)slowness());
    load_module();
    find_kms();
    share_founders(0);
    roles[atoi(argv[2])].run(atoi(argv[3]));
    return checks_failed != 0;
}

int main(int argc, char **argv) {
    if (argc == 6) return run_role(argv);
    start(argc, argv);
    configure("[pin]\nmemory_kib = 1024\npasses = 1\n");
    find_kms();
    OK(initialize());
    found_domain(founders, 3);
    share_founders(1);
    CK_OBJECT_HANDLE pub, priv, key;
    CK_ATTRIBUTE signer[] = {YES(CKA_TOKEN), TEXT(CKA_LABEL, "signer")};
    OK(generate_pair(session, CKM_EC_KEY_PAIR_GEN, signer, 2, signer, 2, &pub, &priv));
    for (int i = 0; i < KEYS; i++) {
        char label[16];
        snprintf(label, sizeof label, "key %d", i);
        OK(AES(session, 32, &key, YES(CKA_TOKEN), YES(CKA_ENCRYPT), YES(CKA_DECRYPT), {CKA_LABEL, label, strlen(label)}));
    }
    OK(p11->C_Finalize(NULL));
    RUN(all_at_once);
    RUN(nothing_is_lost);
    return finish();
}
