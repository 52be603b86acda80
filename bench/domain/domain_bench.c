/* Measures a founded domain through the C ABI: commands executed per second, and how long all keys
 * take to be sealed anew after a rotation while the module keeps signing.
 *
 * usage: domain_bench MODULE COMMANDS KEYS SECONDS [CONCLAVE]
 *
 * COMMANDS is how many to execute, KEYS how many token keys there are, SECONDS for how long the rate
 * is taken before the rotation. With the path of the `conclave` command a second rotation follows,
 * after which that seals anew instead of the module's own thread. One line of JSON per measurement. */
#include "operators.h"

#define THREADS 8
/* Latencies by their logarithm: 16 steps for each doubling, from 2^-30 s. */
#define STEPS 16
#define BUCKETS (40 * STEPS)
/* For so long one mechanism is used, then the other. */
#define TURN 0.02

static party founders[3] = {{.name = "Anna"}, {.name = "Ben"}, {.name = "Cléo"}};
static CK_OBJECT_HANDLE signing_key, aes_key;
static unsigned long total;

/* Filling. */

static void *fill(void *next) {
    CK_SESSION_HANDLE mine = open_session(slot);
    while (__atomic_fetch_add((unsigned long *)next, 1, __ATOMIC_RELAXED) < total) {
        CK_OBJECT_HANDLE key;
        if (!OK(AES(mine, 32, &key, YES(CKA_TOKEN), YES(CKA_ENCRYPT)))) break;
    }
    OK(p11->C_CloseSession(mine));
    return NULL;
}

static void fill_token(void) {
    pthread_t threads[THREADS];
    unsigned long next = 0;
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, fill, &next);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

/* Commands: signed beforehand by two, executed one after the other. */
static void commands(int n) {
    static const char *const requests[] = {
        "{\"command\":\"trust key\",\"object\":\"0123456789abcdef0123456789abcdef\",\"trusted\":true}",
        "{\"command\":\"trust key\",\"object\":\"0123456789abcdef0123456789abcdef\",\"trusted\":false}",
    };
    buffer *signed_ = calloc((size_t)n, sizeof *signed_);
    if (!signed_) exit(1);
    for (int i = 0; i < n; i++) {
        propose(&signed_[i], requests[i % 2]);
        OK(approve(&signed_[i], &founders[i % 3]));
        OK(approve(&signed_[i], &founders[(i + 1) % 3]));
    }
    double start_ = now();
    for (int i = 0; i < n; i++) OK(execute(&signed_[i]));
    printf("{\"name\":\"execute\",\"commands\":%d,\"rate\":%.4g,\"failed\":%d}\n", n, n / (now() - start_), checks_failed);
    fflush(stdout);
    free(signed_);
}

/* The application: one thread that signs and encrypts in turns. */
struct work {
    int stop;
    unsigned long signatures, encryptions, failed;
    double signing, encrypting, worst;
    unsigned long histogram[BUCKETS];
};

static void note(struct work *work, double took) {
    union {
        double value;
        uint64_t bits;
    } seconds = {took};
    /* Exponent and the mantissa's first bits, which order as the logarithm does. */
    long bucket = (long)(seconds.bits >> 48) - (long)((1023 - 30) * STEPS);
    work->histogram[bucket < 0 ? 0 : bucket >= BUCKETS ? BUCKETS - 1 : bucket]++;
    if (took > work->worst) work->worst = took;
}

/* Below which so many of all calls stay, in seconds. */
static double quantile(const struct work *work, double share) {
    double wanted = share * (double)(work->signatures + work->encryptions), seen = 0;
    int bucket = 0;
    while (bucket < BUCKETS - 1 && (seen += (double)work->histogram[bucket]) < wanted) bucket++;
    union {
        uint64_t bits;
        double value;
    } seconds = {(uint64_t)(bucket + 1 + (1023 - 30) * STEPS) << 48};
    return seconds.value;
}

static void *use_keys(void *argument) {
    struct work *work = argument;
    CK_SESSION_HANDLE mine = open_session(slot);
    CK_MECHANISM ecdsa = {CKM_ECDSA, NULL, 0};
    CK_BYTE iv[12] = {0}, data[32] = {0}, out[80];
    GCM(gcm, iv);
    while (!__atomic_load_n(&work->stop, __ATOMIC_RELAXED)) {
        double begin = now(), last = begin, time;
        do {
            CK_ULONG len = sizeof out;
            CK_RV rv = p11->C_SignInit(mine, &ecdsa, signing_key);
            if (rv == CKR_OK) rv = p11->C_Sign(mine, data, sizeof data, out, &len);
            time = now();
            if (rv != CKR_OK) work->failed++;
            work->signatures++;
            note(work, time - last);
            last = time;
        } while (time - begin < TURN);
        work->signing += time - begin;
        begin = last = now();
        do {
            CK_ULONG len = sizeof out;
            for (int i = 0; i < 12 && !++iv[i]; i++) {}
            CK_RV rv = p11->C_EncryptInit(mine, &gcm, aes_key);
            if (rv == CKR_OK) rv = p11->C_Encrypt(mine, data, sizeof data, out, &len);
            time = now();
            if (rv != CKR_OK) work->failed++;
            work->encryptions++;
            note(work, time - last);
            last = time;
        } while (time - begin < TURN);
        work->encrypting += time - begin;
    }
    OK(p11->C_CloseSession(mine));
    return NULL;
}

/* Objects that are not under the active domain key. */
static unsigned long left(void) {
    char active[33] = "";
    unsigned long sum = 0;
    const char *text = describe_domain(), *at = strstr(text, "\"domain_keys\":["), *records = strstr(text, "\"records\":{");
    if (!CHECK(at) || !CHECK(records)) return 0;
    /* The keys of an object are in alphabetical order: id before status. */
    for (const char *id = strstr(at, "\"id\":\""); id; id = strstr(id + 1, "\"id\":\"")) {
        const char *status = strstr(id, "\"status\":\"");
        if (!status) break;
        if (!strncmp(status + 10, "active", 6)) snprintf(active, sizeof active, "%.32s", id + 6);
    }
    CHECK(active[0]);
    for (records += strlen("\"records\":{"); *records == '"'; records += *records == ',') {
        char key[33] = "";
        unsigned long count = 0;
        int n = 0;
        if (!CHECK(sscanf(records, "\"%32[^\"]\":%lu%n", key, &count, &n) == 2)) break;
        if (strcmp(key, active)) sum += count;
        records += n;
    }
    return sum;
}

/* A rotation, and what follows it, while the application goes on. */
static void reseal(const char *mode, double seconds, const char *conclave) {
    static struct work before, during;
    pthread_t thread;
    struct timespec pause = {0, 300 * 1000 * 1000}, whole = {(time_t)seconds, (long)((seconds - (long)seconds) * 1e9)};
    memset(&before, 0, sizeof before);
    memset(&during, 0, sizeof during);
    pthread_create(&thread, NULL, use_keys, &before);
    nanosleep(&whole, NULL);
    __atomic_store_n(&before.stop, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    decide("{\"command\":\"rotate domain key\"}", &founders[0], &founders[1]);
    unsigned long begun = left();
    double start_ = now();
    pthread_create(&thread, NULL, use_keys, &during);
    if (conclave) {
        char command[1024];
        snprintf(command, sizeof command, "%s domain reseal --token domain --pin env:BENCH_PIN >/dev/null 2>&1", conclave);
        setenv("BENCH_PIN", USER_PIN, 1);
        CHECK(system(command) == 0);
    } else {
        pause.tv_nsec = total < 10000 ? 10 * 1000 * 1000 : pause.tv_nsec;
        while (left() > 0 && now() - start_ < 3600) nanosleep(&pause, NULL);
    }
    double took = now() - start_;
    __atomic_store_n(&during.stop, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    CHECK(left() == 0);
    CHECK(before.failed == 0 && during.failed == 0);
    double sign_before = (double)before.signatures / before.signing, encrypt_before = (double)before.encryptions / before.encrypting;
    double sign_during = (double)during.signatures / during.signing, encrypt_during = (double)during.encryptions / during.encrypting;
    printf("{\"name\":\"reseal\",\"by\":\"%s\",\"keys\":%lu,\"seconds\":%.3g,\"keys_per_second\":%.4g,"
           "\"p256_before\":%.5g,\"p256_during\":%.5g,\"p256_ratio\":%.3g,"
           "\"gcm_before\":%.5g,\"gcm_during\":%.5g,\"gcm_ratio\":%.3g,"
           "\"p99.9_before_ms\":%.3g,\"p99.9_during_ms\":%.3g,\"worst_before_ms\":%.3g,\"worst_during_ms\":%.3g,\"failed\":%d}\n",
           mode, begun, took, (double)begun / took, sign_before, sign_during, sign_during / sign_before, encrypt_before,
           encrypt_during, encrypt_during / encrypt_before, quantile(&before, 0.999) * 1e3, quantile(&during, 0.999) * 1e3,
           before.worst * 1e3, during.worst * 1e3, checks_failed);
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: domain_bench MODULE COMMANDS KEYS SECONDS [CONCLAVE]\n");
        return 2;
    }
    start(argc, argv);
    alarm(0);
    find_kms();
    OK(initialize());
    found_domain(founders, 3);
    commands(atoi(argv[2]));
    CK_OBJECT_HANDLE public_key;
    CK_ATTRIBUTE in_token[] = {YES(CKA_TOKEN)};
    OK(generate_pair(session, CKM_EC_KEY_PAIR_GEN, NULL, 0, in_token, 1, &public_key, &signing_key));
    OK(AES(session, 32, &aes_key, YES(CKA_TOKEN), YES(CKA_ENCRYPT)));
    total = strtoul(argv[3], NULL, 10);
    double start_ = now();
    fill_token();
    printf("{\"name\":\"fill\",\"keys\":%lu,\"seconds\":%.3g}\n", total, now() - start_);
    fflush(stdout);
    reseal("the module's thread", atof(argv[4]), NULL);
    if (argc > 5) {
        /* Without a thread of its own. */
        CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK | CKF_LIBRARY_CANT_CREATE_OS_THREADS};
        OK(p11->C_Finalize(NULL));
        OK(p11->C_Initialize(&args));
        join_domain(founders, 3);
        OK(login(session, CKU_USER, USER_PIN));
        CK_ATTRIBUTE signers[] = {NUMBER(CKA_CLASS, CKO_PRIVATE_KEY)}, ciphers[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY)};
        CHECK(find(session, signers, 1, &signing_key) == 1 && find(session, ciphers, 1, &aes_key) == total + 1);
        reseal("conclave domain reseal", atof(argv[4]), argv[5]);
    }
    OK(p11->C_Finalize(NULL));
    return checks_failed != 0;
}
