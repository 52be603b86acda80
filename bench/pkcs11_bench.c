/* Benchmarks one PKCS#11 module. The command line names the module, its token and what to do:
 *
 *   list          the names of the benchmarks
 *   init-token    initialises a token and both PINs
 *   fill START COUNT THREADS SECONDS
 *                 keys from START up to COUNT, for at most so many seconds
 *   signer        a signing key pair
 *   initialize    C_Initialize and the first C_GenerateRandom, in a fresh process
 *   cold          from dlopen to the first signature, C_Login apart
 *   memory COUNT  how far memory grows when a program uses a token of COUNT keys
 *   serve         reads "NAME SECONDS THREADS KEYS" lines, answers each
 *
 * Each answer is one line of JSON; times are in microseconds where not named otherwise. */
#define _GNU_SOURCE
#include "bench.h"

#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *what, CK_RV rv) {
    printf("{\"rv\":\"%s\",\"at\":\"%s\"}\n", rv_name(rv), what);
    return 1;
}

static CK_RV open_token(const struct options *options, CK_SLOT_ID *slot, CK_SESSION_HANDLE *session) {
    CK_RV rv = module_find_slot(options, slot);
    if (rv != CKR_OK) return rv;
    return p11->C_OpenSession(*slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, session);
}

static CK_RV start(const struct options *options, CK_SLOT_ID *slot, CK_SESSION_HANDLE *session) {
    CK_RV rv = module_load(options);
    if (rv == CKR_OK) rv = module_initialize(options);
    if (rv == CKR_OK) rv = open_token(options, slot, session);
    return rv == CKR_OK ? module_login(*session, options) : rv;
}

static int initialize(const struct options *options) {
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE session;
    unsigned char random[32];
    CK_RV rv = module_load(options);
    double begin = now();
    if (rv == CKR_OK) rv = module_initialize(options);
    double initialized = now();
    if (rv == CKR_OK) rv = open_token(options, &slot, &session);
    double opened = now();
    if (rv == CKR_OK) rv = p11->C_GenerateRandom(session, random, sizeof random);
    double end = now();
    if (rv != CKR_OK) return fail("initialize", rv);
    printf("{\"name\":\"initialize\",\"initialize\":%.6g,\"random\":%.6g,\"both\":%.6g}\n", (initialized - begin) * 1e6,
           (end - opened) * 1e6, (initialized - begin + end - opened) * 1e6);
    p11->C_Finalize(NULL);
    return 0;
}

static int cold(const struct options *options) {
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE session;
    const char *kind = "";
    double begin = now();
    CK_RV rv = module_load(options);
    if (rv == CKR_OK) rv = module_initialize(options);
    if (rv == CKR_OK) rv = open_token(options, &slot, &session);
    double opened = now();
    if (rv == CKR_OK) rv = module_login(session, options);
    double logged_in = now();
    if (rv == CKR_OK) rv = sign_with_signer(session, &kind);
    double end = now();
    if (rv != CKR_OK) return fail("cold", rv);
    printf("{\"name\":\"cold\",\"cold\":%.6g,\"login\":%.6g,\"key\":\"%s\"}\n",
           (opened - begin + end - logged_in) * 1e6, (logged_in - opened) * 1e6, kind);
    p11->C_Finalize(NULL);
    return 0;
}

/* Resident memory in KiB: all of it, or what is not backed by a file. */
static long resident(const char *field) {
    char line[256];
    long value = -1;
    FILE *status = fopen("/proc/self/status", "r");
    if (!status) return -1;
    while (fgets(line, sizeof line, status))
        if (strncmp(line, field, strlen(field)) == 0) value = strtol(line + strlen(field) + 1, NULL, 10);
    fclose(status);
    return value;
}

/* A server's working day in short: log in, sign, a thousand searches, a list of everything. */
static int memory(const struct options *options, unsigned long population) {
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE session;
    const char *kind = "";
    long all = resident("VmRSS"), anonymous = resident("RssAnon");
    CK_RV rv = start(options, &slot, &session);
    if (rv == CKR_OK) rv = sign_with_signer(session, &kind);
    double deadline = now() + 5;
    for (unsigned long i = 0; rv == CKR_OK && i < 1000 && now() < deadline; i++) {
        char label[16];
        CK_OBJECT_HANDLE key;
        nth_label(i * 7919 % population, label);
        rv = find_one(session, CKO_SECRET_KEY, CKA_LABEL, label, strlen(label), &key);
    }
    long used = resident("VmRSS"), used_anonymous = resident("RssAnon");
    CK_OBJECT_HANDLE found[100];
    CK_ULONG count = 0;
    unsigned long total = 0;
    if (rv == CKR_OK) rv = p11->C_FindObjectsInit(session, NULL, 0);
    do {
        if (rv == CKR_OK) rv = p11->C_FindObjects(session, found, 100, &count);
        total += count;
    } while (rv == CKR_OK && count == 100);
    if (rv == CKR_OK) rv = p11->C_FindObjectsFinal(session);
    if (rv != CKR_OK) return fail("memory", rv);
    printf("{\"name\":\"memory\",\"objects\":%lu,\"used\":%ld,\"used_anonymous\":%ld,\"listed\":%ld,"
           "\"listed_anonymous\":%ld}\n",
           total, used - all, used_anonymous - anonymous, resident("VmRSS") - all, resident("RssAnon") - anonymous);
    p11->C_Finalize(NULL);
    return 0;
}

struct filler {
    pthread_t thread;
    CK_SLOT_ID slot;
    unsigned long *next, count;
    double deadline;
    CK_RV rv;
};

static void *fill_thread(void *argument) {
    struct filler *filler = argument;
    CK_SESSION_HANDLE session;
    filler->rv = p11->C_OpenSession(filler->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session);
    if (filler->rv != CKR_OK) return NULL;
    while (filler->rv == CKR_OK && now() < filler->deadline) {
        unsigned long n = __atomic_fetch_add(filler->next, 1, __ATOMIC_RELAXED);
        if (n >= filler->count) break;
        char label[16];
        unsigned char id[20];
        CK_OBJECT_HANDLE key;
        nth_label(n, label);
        nth_id(n, id);
        filler->rv = create_secret(session, true, label, id, sizeof id, &key);
    }
    p11->C_CloseSession(session);
    return NULL;
}

static int fill(const struct options *options, unsigned long next, unsigned long count, unsigned threads,
                double seconds) {
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE session;
    static struct filler fillers[64];
    CK_RV rv = start(options, &slot, &session);
    if (rv != CKR_OK) return fail("start", rv);
    double begin = now();
    if (threads > 64) threads = 64;
    for (unsigned i = 0; i < threads; i++) {
        fillers[i] = (struct filler){.slot = slot, .next = &next, .count = count, .deadline = begin + seconds};
        pthread_create(&fillers[i].thread, NULL, fill_thread, &fillers[i]);
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(fillers[i].thread, NULL);
        if (rv == CKR_OK) rv = fillers[i].rv;
    }
    if (rv != CKR_OK) return fail("fill", rv);
    double took = now() - begin;
    bool complete = next >= count;
    printf("{\"name\":\"fill\",\"complete\":%s,\"made\":%lu,\"seconds\":%.3g}\n", complete ? "true" : "false",
           complete ? count : next, took);
    p11->C_Finalize(NULL);
    return 0;
}

static int signer(const struct options *options) {
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE public_key, private_key;
    CK_RV rv = start(options, &slot, &session);
    if (rv != CKR_OK) return fail("start", rv);
    rv = generate_pair(session, FIXTURE_P256, true, "signer", &public_key, &private_key);
    if (rv != CKR_OK) rv = generate_pair(session, FIXTURE_RSA2048, true, "signer", &public_key, &private_key);
    if (rv != CKR_OK) return fail("signer", rv);
    printf("{\"name\":\"signer\"}\n");
    p11->C_Finalize(NULL);
    return 0;
}

static int serve(const struct options *options) {
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE session;
    CK_RV rv = start(options, &slot, &session);
    if (rv != CKR_OK) return fail("start", rv);
    CK_INFO info;
    memset(&info, 0, sizeof info);
    p11->C_GetInfo(&info);
    printf("{\"name\":\"ready\",\"library\":\"%.32s\",\"version\":\"%u.%u\"}\n", info.libraryDescription,
           info.libraryVersion.major, info.libraryVersion.minor);
    fflush(stdout);
    char line[256], name[64];
    while (fgets(line, sizeof line, stdin)) {
        double seconds = 0.3;
        unsigned threads = 1;
        unsigned long population = 1;
        if (sscanf(line, "%63s %lf %u %lu", name, &seconds, &threads, &population) < 1) continue;
        measure(options, slot, session, name, seconds, threads, population);
        fflush(stdout);
    }
    p11->C_Finalize(NULL);
    return 0;
}

int main(int argc, char **argv) {
    struct options options = {.slot = -1, .pin = "28461537", .so_pin = "73516284"};
    int option;
    while ((option = getopt(argc, argv, "m:i:l:s:p:o:")) != -1) {
        switch (option) {
        case 'm': options.module = optarg; break;
        case 'i': options.parameters = optarg; break;
        case 'l': options.label = optarg; break;
        case 's': options.slot = strtol(optarg, NULL, 0); break;
        case 'p': options.pin = optarg; break;
        case 'o': options.so_initial = optarg; break;
        default: return 2;
        }
    }
    const char *command = optind < argc ? argv[optind] : "";
    unsigned long count = optind + 1 < argc ? strtoul(argv[optind + 1], NULL, 10) : 0;
    if (strcmp(command, "list") == 0) {
        benchmark_list();
        return 0;
    }
    if (!options.module) {
        fprintf(stderr, "usage: %s -m MODULE [-i NSS-PARAMETERS] [-l LABEL | -s SLOT] [-p PIN] COMMAND\n", argv[0]);
        return 2;
    }
    if (strcmp(command, "init-token") == 0) {
        CK_RV rv = module_load(&options);
        if (rv == CKR_OK) rv = module_initialize(&options);
        if (rv == CKR_OK) rv = module_init_token(&options);
        if (rv != CKR_OK) return fail("init-token", rv);
        printf("{\"name\":\"init-token\"}\n");
        p11->C_Finalize(NULL);
        return 0;
    }
    if (strcmp(command, "initialize") == 0) return initialize(&options);
    if (strcmp(command, "cold") == 0) return cold(&options);
    if (strcmp(command, "memory") == 0) return memory(&options, count ? count : 1);
    if (strcmp(command, "serve") == 0) return serve(&options);
    if (strcmp(command, "signer") == 0) return signer(&options);
    if (strcmp(command, "fill") == 0 && optind + 4 < argc)
        return fill(&options, count, strtoul(argv[optind + 2], NULL, 10), (unsigned)atoi(argv[optind + 3]),
                    atof(argv[optind + 4]));
    fprintf(stderr, "unknown command: %s\n", command);
    return 2;
}
