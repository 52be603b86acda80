/* Measures managed keys through the C ABI.
 *
 * usage: managed_bench MODULE SECONDS KEYS ROTATIONS
 *
 * With the audit log off, on and strict: envelopes and data keys per second, in turns with
 * CKM_AES_GCM under an ordinary key, of which the ratio is given. Then KEYS managed keys with an alias
 * each: what a new process needs to find one by its alias, and its memory. Then ROTATIONS rotations of
 * one key, and its use before and after. One line of JSON per measurement. */
#include "harness.h"

#define THREADS 8
/* For so long one thing is measured, then the other. */
#define TURN 0.05
#define CONTEXT "{\"purpose\":\"bench\"}"

static KMS_FUNCTION_LIST *kms;
static CK_SLOT_ID slot;
static CK_SESSION_HANDLE session;
static unsigned long total;

static void find_kms(void) {
    CK_RV (*find_interface)(CK_UTF8CHAR *, CK_VERSION *, CK_INTERFACE **, CK_FLAGS);
    CK_INTERFACE *found = NULL;
    *(void **)&find_interface = dlsym(module, "C_GetInterface");
    OK(find_interface((CK_UTF8CHAR *)KMS_INTERFACE_NAME, NULL, &found, 0));
    if (!CHECK(found)) exit(1);
    kms = found->pFunctionList;
}

static void log_in(void) {
    OK(initialize());
    slot = slot_of("managed");
    session = open_session(slot);
    OK(login(session, CKU_USER, USER_PIN));
}

static void create_key(CK_SESSION_HANDLE mine, char id[37]) {
    CK_ULONG len = 36;
    OK(kms->KMS_CreateKey(mine, 0, (CK_UTF8CHAR *)"{}", 2, (CK_UTF8CHAR *)id, &len));
    id[36] = 0;
}

/* What is measured. Each answers whether it went well. */

static char key_id[37];
static CK_OBJECT_HANDLE plain_key, envelope_key;
static CK_BYTE blob[512];
static CK_ULONG blob_len;

static int aes_gcm(void) {
    static CK_BYTE iv[12], data[32];
    CK_BYTE out[64];
    CK_ULONG len = sizeof out;
    GCM(gcm, iv);
    for (int i = 0; i < 12 && !++iv[i]; i++) {}
    return p11->C_EncryptInit(session, &gcm, plain_key) == CKR_OK && p11->C_Encrypt(session, data, 32, out, &len) == CKR_OK;
}

static int encrypt(void) {
    static CK_BYTE data[32];
    CK_BYTE out[512];
    CK_ULONG len = sizeof out;
    return kms->KMS_Encrypt(session, 0, (CK_UTF8CHAR *)key_id, 36, (CK_UTF8CHAR *)CONTEXT, strlen(CONTEXT), data, 32, out,
                            &len) == CKR_OK;
}

static int decrypt(void) {
    CK_BYTE out[64];
    CK_ULONG len = sizeof out;
    return kms->KMS_Decrypt(session, 0, NULL, 0, (CK_UTF8CHAR *)CONTEXT, strlen(CONTEXT), blob, blob_len, out, &len) == CKR_OK;
}

static int mechanism(void) {
    static CK_BYTE data[32];
    CK_BYTE out[512];
    CK_ULONG len = sizeof out;
    CK_MECHANISM envelope = {CKM_KMS_ENVELOPE, CONTEXT, strlen(CONTEXT)};
    return p11->C_EncryptInit(session, &envelope, envelope_key) == CKR_OK &&
           p11->C_Encrypt(session, data, 32, out, &len) == CKR_OK;
}

static int data_key(void) {
    CK_BYTE plaintext[32], out[512];
    CK_ULONG plaintext_len = sizeof plaintext, len = sizeof out;
    return kms->KMS_GenerateDataKey(session, 0, (CK_UTF8CHAR *)key_id, 36, 32, (CK_UTF8CHAR *)CONTEXT, strlen(CONTEXT),
                                    plaintext, &plaintext_len, out, &len) == CKR_OK;
}

static double turn(int (*work)(void), double seconds, unsigned long *count) {
    double begin = now(), time;
    do {
        for (int i = 0; i < 8; i++) {
            if (!work()) check_failed(__FILE__, __LINE__, "%s", last_error());
            ++*count;
        }
        time = now();
    } while (time - begin < seconds);
    return time - begin;
}

/* Rates of both, in turns. */
static void compare(int (*work)(void), double seconds, double *rate, double *reference) {
    unsigned long worked = 0, compared = 0;
    double working = 0, comparing = 0;
    turn(work, TURN, &(unsigned long){0});
    turn(aes_gcm, TURN, &(unsigned long){0});
    while (working + comparing < seconds) {
        working += turn(work, TURN, &worked);
        comparing += turn(aes_gcm, TURN, &compared);
    }
    *rate = (double)worked / working, *reference = (double)compared / comparing;
}

static void operations(double seconds) {
    static const struct {
        const char *name;
        int (*work)(void);
    } rows[] = {{"KMS_Encrypt", encrypt},
                {"KMS_Decrypt", decrypt},
                {"C_Encrypt, CKM_KMS_ENVELOPE", mechanism},
                {"KMS_GenerateDataKey", data_key}};
    static const char *const modes[] = {"off", "on", "strict"};
    for (size_t m = 0; m < COUNT(modes); m++) {
        char toml[64];
        snprintf(toml, sizeof toml, "audit = \"%s\"\n", modes[m]);
        configure(toml);
        log_in();
        CK_ATTRIBUTE of_key[] = {{CKA_ID, key_id, 36}};
        CHECK(find(session, of_key, 1, &envelope_key) == 1);
        OK(AES(session, 32, &plain_key, YES(CKA_ENCRYPT)));
        for (size_t r = 0; r < COUNT(rows); r++) {
            double rate, reference;
            compare(rows[r].work, seconds, &rate, &reference);
            printf("{\"name\":\"%s\",\"audit\":\"%s\",\"rate\":%.4g,\"aes_gcm\":%.4g,\"ratio\":%.3g,\"failed\":%d}\n",
                   rows[r].name, modes[m], rate, reference, rate / reference, checks_failed);
            fflush(stdout);
        }
        OK(p11->C_Finalize(NULL));
    }
    configure("");
}

/* Many keys. */

static void *fill(void *next) {
    CK_SESSION_HANDLE mine = open_session(slot);
    unsigned long number;
    while ((number = __atomic_fetch_add((unsigned long *)next, 1, __ATOMIC_RELAXED)) < total && !checks_failed) {
        char id[37], request[128];
        create_key(mine, id);
        snprintf(request, sizeof request, "{\"AliasName\":\"alias/key-%lu\",\"TargetKeyId\":\"%s\"}", number, id);
        OK(kms->KMS_CreateAlias(mine, 0, (CK_UTF8CHAR *)request, strlen(request)));
    }
    OK(p11->C_CloseSession(mine));
    return NULL;
}

static double memory(void) {
    char line[256];
    unsigned long kib = 0;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "Pss: %lu", &kib) == 1) break;
    fclose(file);
    return (double)kib / 1024;
}

/* In a process of its own: from C_Initialize to the first envelope, by an alias. */
static int cold(unsigned long keys) {
    CK_BYTE out[512], data[32] = {0};
    char alias[64];
    CK_ULONG len = sizeof out;
    double begin = now();
    OK(initialize());
    slot = slot_of("managed");
    session = open_session(slot);
    double before_login = now();
    OK(login(session, CKU_USER, USER_PIN));
    double after_login = now();
    snprintf(alias, sizeof alias, "alias/key-%lu", keys / 2);
    OK(kms->KMS_Encrypt(session, 0, (CK_UTF8CHAR *)alias, strlen(alias), NULL, 0, data, 32, out, &len));
    double first = now();
    /* Each alias is another, so that none was seen before. */
    unsigned long looked = 0;
    double look = now(), took;
    do {
        unsigned long number = (looked * 7919 + 13) % keys;
        snprintf(alias, sizeof alias, "alias/key-%lu", number);
        len = sizeof out;
        OK(kms->KMS_Encrypt(session, 0, (CK_UTF8CHAR *)alias, strlen(alias), NULL, 0, data, 32, out, &len));
        took = now() - look;
    } while (++looked < keys && took < 2);
    printf("{\"name\":\"cold\",\"keys\":%lu,\"start_ms\":%.3g,\"login_ms\":%.3g,\"first_envelope_ms\":%.3g,"
           "\"alias_lookups_per_second\":%.4g,\"memory_mib\":%.3g,\"failed\":%d}\n",
           keys, (before_login - begin) * 1e3, (after_login - before_login) * 1e3, (first - after_login) * 1e3,
           (double)looked / took, memory(), checks_failed);
    fflush(stdout);
    OK(p11->C_Finalize(NULL));
    return checks_failed != 0;
}

static void many(void) {
    pthread_t threads[THREADS];
    unsigned long next = 0;
    log_in();
    double begin = now();
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, fill, &next);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    printf("{\"name\":\"create a key and its alias\",\"keys\":%lu,\"threads\":%d,\"rate\":%.4g,\"failed\":%d}\n", total,
           THREADS, (double)total / (now() - begin), checks_failed);
    fflush(stdout);
    OK(p11->C_Finalize(NULL));
    pid_t child = fork();
    if (child == 0) {
        char keys[32];
        snprintf(keys, sizeof keys, "%lu", total);
        execl("/proc/self/exe", "managed_bench", module_path, "cold", keys, (char *)NULL);
        _exit(127);
    }
    int status = 1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

/* One key, rotated often. */
static void rotations(unsigned long n, double seconds) {
    char request[64];
    log_in();
    OK(AES(session, 32, &plain_key, YES(CKA_ENCRYPT)));
    double before, reference, after, oldest;
    compare(encrypt, seconds, &before, &reference);
    blob_len = sizeof blob;
    CK_BYTE data[32] = {0};
    OK(kms->KMS_Encrypt(session, 0, (CK_UTF8CHAR *)key_id, 36, (CK_UTF8CHAR *)CONTEXT, strlen(CONTEXT), data, 32, blob,
                        &blob_len));
    snprintf(request, sizeof request, "{\"KeyId\":\"%s\"}", key_id);
    double begin = now();
    for (unsigned long i = 0; i < n && !checks_failed; i++)
        OK(kms->KMS_RotateKey(session, 0, (CK_UTF8CHAR *)request, strlen(request)));
    double took = now() - begin;
    compare(encrypt, seconds, &after, &reference);
    compare(decrypt, seconds, &oldest, &reference);
    printf("{\"name\":\"rotations\",\"rotations\":%lu,\"rate\":%.4g,\"encrypt_before\":%.4g,\"encrypt_after\":%.4g,"
           "\"ratio\":%.3g,\"decrypt_oldest\":%.4g,\"failed\":%d}\n",
           n, (double)n / took, before, after, after / before, oldest, checks_failed);
    fflush(stdout);
    OK(p11->C_Finalize(NULL));
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[2], "cold")) {
        module_path = argv[1];
        load_module();
        find_kms();
        return cold(strtoul(argv[3], NULL, 10));
    }
    if (argc != 5) {
        fprintf(stderr, "usage: managed_bench MODULE SECONDS KEYS ROTATIONS\n");
        return 2;
    }
    start(argc, argv);
    alarm(0);
    find_kms();
    OK(initialize());
    slot = make_token("managed");
    session = open_session(slot);
    OK(login(session, CKU_USER, USER_PIN));
    create_key(session, key_id);
    CK_BYTE data[32] = {0};
    blob_len = sizeof blob;
    OK(kms->KMS_Encrypt(session, 0, (CK_UTF8CHAR *)key_id, 36, (CK_UTF8CHAR *)CONTEXT, strlen(CONTEXT), data, 32, blob,
                        &blob_len));
    OK(p11->C_Finalize(NULL));
    operations(atof(argv[2]));
    rotations(strtoul(argv[4], NULL, 10), atof(argv[2]) / 2);
    total = strtoul(argv[3], NULL, 10) - 1; /* one is there */
    many();
    return checks_failed != 0;
}
