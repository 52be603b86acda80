/* What every C test of the module shares: loading it, a token of its own, checks and counts.
 *
 * A program has tests (functions run with RUN); a test fails if one of its CHECKs does. The module
 * is argv[1] or $CONCLAVE_MODULE. Each program works in a directory of its own, which goes away at
 * the end.
 *
 * With $CONCLAVE_TEST_FOUNDER, the socket of `python-tests/fleet.py serve`, the tokens are those of
 * fleets; where these do otherwise, a test asks founder(). */
#ifndef CONCLAVE_TEST_HARNESS_H
#define CONCLAVE_TEST_HARNESS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
/* ASan's allocator before LLVM 18 does not give up its locks at a fork: the child of a busy process
 * waits for them for ever (llvm/llvm-project#63224). The other builds fork a busy parent. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) && __clang_major__ < 18
#define NO_BUSY_FORK 1
#endif
#endif

#include <conclave.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SO_PIN "12345678"
#define USER_PIN "9876-user"
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define UNUSED __attribute__((unused))
/* Whether the program has slots on the admin sockets of its fleets. */
#ifndef OPERATORS
#define OPERATORS "false"
#endif

static CK_FUNCTION_LIST *p11;
static CK_FUNCTION_LIST_3_0 *p30 UNUSED;
static void *module;
static const char *module_path;
static char work_dir[64];
static int work_dir_owner;
static int tests_passed, tests_failed;
static int checks_failed;

/* Checks. Safe from several threads. */

static void check_failed(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void check_failed(const char *file, int line, const char *format, ...) {
    va_list args;
    char text[512];
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    /* A test that loops should not fill the log. */
    if (__atomic_add_fetch(&checks_failed, 1, __ATOMIC_SEQ_CST) <= 40)
        fprintf(stderr, "FAIL %s:%d: %s\n", file, line, text);
}

#define CHECK(condition) \
    ((condition) ? 1 : (check_failed(__FILE__, __LINE__, "%s", #condition), 0))

/* The module's own sentence about the last failed call, where it has one. */
static UNUSED const char *last_error(void) {
    static __thread char text[300];
    CK_RV (*ask)(CK_UTF8CHAR *, CK_ULONG *) = NULL;
    CK_ULONG len = sizeof text - 1;
    if (module) *(void **)&ask = dlsym(module, "KMS_LastError");
    if (!ask || ask((CK_UTF8CHAR *)text, &len) != CKR_OK || len >= sizeof text) len = 0;
    text[len] = 0;
    return text;
}

static inline int check_rv(const char *file, int line, const char *call, CK_RV got, CK_RV want) {
    if (got == want) return 1;
    check_failed(file, line, "%.120s: 0x%lx, wanted 0x%lx; %s", call, (unsigned long)got, (unsigned long)want,
                 got ? last_error() : "");
    return 0;
}
#define CHECK_RV(call, want) check_rv(__FILE__, __LINE__, #call, (call), (want))
#define OK(call) CHECK_RV(call, CKR_OK)

/* One of several return values. */
static inline int check_rv_in(const char *file, int line, const char *call, CK_RV got, const CK_RV *want, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (got == want[i]) return 1;
    check_failed(file, line, "%.120s: 0x%lx, wanted 0x%lx or its like; %s", call, (unsigned long)got,
                 (unsigned long)want[0], got ? last_error() : "");
    return 0;
}
#define CHECK_RV_IN(call, ...)                                     \
    check_rv_in(__FILE__, __LINE__, #call, (call), (const CK_RV[]){__VA_ARGS__}, \
                sizeof((const CK_RV[]){__VA_ARGS__}) / sizeof(CK_RV))

/* Anything but success. */
#define REFUSED(call)                                                                  \
    ((call) != CKR_OK ? 1 : (check_failed(__FILE__, __LINE__, "%s succeeded", #call), 0))

#define RUN(test)                                                          \
    do {                                                                   \
        int before_ = checks_failed;                                       \
        test();                                                            \
        if (checks_failed == before_) tests_passed++;                      \
        else {                                                             \
            tests_failed++;                                                \
            fprintf(stderr, "FAILED %s: %s\n", program_invocation_short_name, #test); \
        }                                                                  \
    } while (0)

/* The module. */

static UNUSED void load_module(void) {
    CK_C_GetFunctionList list;
    CK_C_GetInterface interface;
    module = dlopen(module_path, RTLD_NOW | RTLD_LOCAL);
    if (!module) {
        fprintf(stderr, "%s\n", dlerror());
        exit(2);
    }
    *(void **)&list = dlsym(module, "C_GetFunctionList");
    if (!list || list(&p11) != CKR_OK) {
        fprintf(stderr, "no C_GetFunctionList\n");
        exit(2);
    }
    p30 = NULL;
    *(void **)&interface = dlsym(module, "C_GetInterface");
    CK_VERSION version = {3, 0};
    CK_INTERFACE *found = NULL;
    if (interface && interface((CK_UTF8CHAR *)"PKCS 11", &version, &found, 0) == CKR_OK && found)
        p30 = (CK_FUNCTION_LIST_3_0 *)found->pFunctionList;
}

static int remove_tree(const char *path) {
    DIR *dir = opendir(path);
    struct dirent *entry;
    char name[512];
    if (!dir) return unlink(path);
    while ((entry = readdir(dir))) {
        struct stat info;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (lstat(name, &info) == 0 && S_ISDIR(info.st_mode)) remove_tree(name);
        else unlink(name);
    }
    closedir(dir);
    return rmdir(path);
}

static void write_file(const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", work_dir, name);
    FILE *file = fopen(path, "w");
    if (file) {
        fputs(text, file);
        fclose(file);
    }
}

/* Fleets that the program may have; where their slots are, and those of their operators. */
#define MOST_FLEETS 4
#define HSMS 2 /* of each */
#define FIRST_FLEET ((CK_SLOT_ID)1 << 30)
#define OPERATORS_ABOVE 64
#define OPERATORS_OF(slot) ((slot) + OPERATORS_ABOVE)
static int fleets_made;
static char fleet_entries[8192];
static const char *fleet_options = "";

static UNUSED const char *founder(void) { return getenv("CONCLAVE_TEST_FOUNDER"); }

/* Replaces the configuration; in force from the next C_Initialize on. */
static UNUSED void configure(const char *toml) {
    char text[sizeof fleet_entries + 1024];
    snprintf(text, sizeof text, "%s\n%s", toml, fleet_entries);
    write_file("conclave.toml", text);
}

/* Settings of HSMs. `toml`: of the configuration, in force from the next C_Initialize on; `options`: of the
 * conclaved of fleets that are founded from now on, as more of a JSON object. */
static UNUSED void configure_hsms(const char *toml, const char *options) {
    configure(toml);
    fleet_options = options;
}

/* Asks the founder for something (python-tests/fleet.py, `serve`): what it answers. */
static UNUSED const char *ask_founder(const char *format, ...) __attribute__((format(printf, 1, 2)));
static UNUSED const char *ask_founder(const char *format, ...) {
    static char line[8192], answer[8192];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size_t at = (size_t)snprintf(line, sizeof line, "{\"pool\": \"%s/fleets\", ", work_dir);
    ssize_t n;
    va_list args;
    va_start(args, format);
    vsnprintf(line + at, sizeof line - at - 2, format, args);
    va_end(args);
    strcat(line, "}\n");
    snprintf(address.sun_path, sizeof address.sun_path, "%s", founder());
    at = 0;
    if (s >= 0 && connect(s, (struct sockaddr *)&address, sizeof address) == 0 && write(s, line, strlen(line)) > 0)
        while (at + 1 < sizeof answer && (n = read(s, answer + at, sizeof answer - at - 1)) > 0) at += (size_t)n;
    answer[at] = 0;
    if (s >= 0) close(s);
    if (strncmp(answer, "ok ", 3) == 0) return answer + 3;
    check_failed(__FILE__, __LINE__, "the founder does not: %.200s: %.250s", line, answer);
    return "";
}

static UNUSED CK_SLOT_ID found_fleet(const char *label, const char *more) {
    CK_SLOT_ID slot = FIRST_FLEET + (CK_SLOT_ID)fleets_made++;
    ask_founder("\"do\": \"make\", \"with\": {\"label\": \"%s\", \"so_pin\": \"" SO_PIN "\", \"pin\": \"" USER_PIN "\"%s%s}", label,
                fleet_options, more);
    return slot;
}

static void remove_work_dir(void) {
    if (work_dir_owner != (int)getpid()) return;
    if (fleets_made) ask_founder("\"do\": \"close\"");
    remove_tree(work_dir);
}

static void on_alarm(int signal_) {
    static const char text[] = "FAIL: timed out\n";
    (void)signal_;
    if (write(2, text, sizeof text - 1) < 0) _exit(4);
    _exit(3);
}

/* Where it aborted; then it does. */
static void on_abort(int signal_) {
    void *frames[40];
    backtrace_symbols_fd(frames, backtrace(frames, 40), 2);
    signal(signal_, SIG_DFL);
    raise(signal_);
}

/* Seconds until a program that hangs is ended; TEST_SLOWNESS multiplies it (valgrind). */
static int slowness(void) {
    const char *text = getenv("TEST_SLOWNESS");
    return text && atoi(text) > 0 ? atoi(text) : 1;
}

/* First thing in main: finds and loads the module, makes the working directory. */
static UNUSED void start(int argc, char **argv) {
    char text[256];
    module_path = argc > 1 ? argv[1] : getenv("CONCLAVE_MODULE");
    if (!module_path) {
        fprintf(stderr, "usage: %s MODULE\n", argv[0]);
        exit(2);
    }
    strcpy(work_dir, "/tmp/conclave-test-XXXXXX");
    if (!mkdtemp(work_dir)) {
        perror("mkdtemp");
        exit(2);
    }
    work_dir_owner = (int)getpid();
    atexit(remove_work_dir);
    snprintf(text, sizeof text, "%s/data", work_dir);
    mkdir(text, 0700);
    setenv("CONCLAVE_HOME", text, 1);
    /* The suite runs against any module; these two lines are what SoftHSM2 needs. */
    snprintf(text, sizeof text, "directories.tokendir = %s/data\nlog.level = ERROR\n", work_dir);
    write_file("softhsm2.conf", text);
    snprintf(text, sizeof text, "%s/softhsm2.conf", work_dir);
    setenv("SOFTHSM2_CONF", text, 1);
    if (founder())
        snprintf(fleet_entries, sizeof fleet_entries, "%s",
                 ask_founder("\"open\": {\"count\": %d, \"operators\": %s, \"hsms\": %d}", MOST_FLEETS, OPERATORS, HSMS));
    configure("");
    snprintf(text, sizeof text, "%s/conclave.toml", work_dir);
    setenv("CONCLAVE_CONF", text, 1);
    signal(SIGALRM, on_alarm);
    backtrace((void *[1]){NULL}, 1); /* loads what the handler needs */
    signal(SIGABRT, on_abort);
    alarm(150 * (unsigned)slowness());
    load_module();
}

/* Last thing in main. */
static UNUSED int finish(void) {
    printf("%s: %d passed, %d failed\n", program_invocation_short_name, tests_passed, tests_failed);
    fflush(stdout);
    return tests_failed != 0;
}

/* Tokens and sessions. */

static UNUSED CK_RV initialize(void) {
    CK_C_INITIALIZE_ARGS args;
    memset(&args, 0, sizeof args);
    args.flags = CKF_OS_LOCKING_OK;
    return p11->C_Initialize(&args);
}

static UNUSED CK_SLOT_ID slot_of(const char *label) {
    CK_SLOT_ID slots[64];
    CK_ULONG n = COUNT(slots);
    CK_TOKEN_INFO info;
    if (p11->C_GetSlotList(CK_TRUE, slots, &n) != CKR_OK) return (CK_SLOT_ID)-1;
    for (CK_ULONG i = 0; i < n; i++)
        if (slots[i] < OPERATORS_OF(FIRST_FLEET) && p11->C_GetTokenInfo(slots[i], &info) == CKR_OK &&
            (info.flags & CKF_TOKEN_INITIALIZED) && !memcmp(info.label, label, strlen(label)) && info.label[strlen(label)] == ' ')
            return slots[i];
    return (CK_SLOT_ID)-1;
}

static UNUSED CK_SLOT_ID free_slot(void) {
    CK_SLOT_ID slots[64];
    CK_ULONG n = COUNT(slots);
    CK_TOKEN_INFO info;
    /* With a NULL list the module looks anew. */
    if (p11->C_GetSlotList(CK_TRUE, NULL, &n) != CKR_OK) return (CK_SLOT_ID)-1;
    n = COUNT(slots);
    if (p11->C_GetSlotList(CK_TRUE, slots, &n) != CKR_OK) return (CK_SLOT_ID)-1;
    for (CK_ULONG i = 0; i < n; i++)
        if (slots[i] < FIRST_FLEET && p11->C_GetTokenInfo(slots[i], &info) == CKR_OK &&
            !(info.flags & CKF_TOKEN_INITIALIZED))
            return slots[i];
    return (CK_SLOT_ID)-1;
}

/* A token of that label with both PINs, made on the free slot of the data directory. */
static UNUSED CK_SLOT_ID make_embedded_token(const char *label) {
    CK_UTF8CHAR padded[32];
    CK_SESSION_HANDLE session;
    memset(padded, ' ', sizeof padded);
    memcpy(padded, label, strlen(label));
    OK(p11->C_InitToken(free_slot(), (CK_UTF8CHAR *)SO_PIN, strlen(SO_PIN), padded));
    CK_SLOT_ID slot = slot_of(label);
    CHECK(slot != (CK_SLOT_ID)-1);
    OK(p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    OK(p11->C_Login(session, CKU_SO, (CK_UTF8CHAR *)SO_PIN, strlen(SO_PIN)));
    OK(p11->C_InitPIN(session, (CK_UTF8CHAR *)USER_PIN, strlen(USER_PIN)));
    OK(p11->C_Logout(session));
    OK(p11->C_CloseSession(session));
    return slot;
}

/* The same, or with a founder that of a fleet. */
static UNUSED CK_SLOT_ID make_token(const char *label) {
    return founder() ? found_fleet(label, "") : make_embedded_token(label);
}

static UNUSED CK_SESSION_HANDLE open_session(CK_SLOT_ID slot) {
    CK_SESSION_HANDLE session = 0;
    OK(p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    return session;
}

static UNUSED CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, const char *pin) {
    return p11->C_Login(session, user, (CK_UTF8CHAR *)pin, strlen(pin));
}

/* Initialises the library, makes the token "test" and logs the user in: how most programs begin. */
static UNUSED CK_SLOT_ID test_slot;
static UNUSED CK_SESSION_HANDLE user_session(void) {
    OK(initialize());
    test_slot = make_token("test");
    CK_SESSION_HANDLE session = open_session(test_slot);
    OK(login(session, CKU_USER, USER_PIN));
    return session;
}

/* Templates: CK_ATTRIBUTE t[] = { YES(CKA_TOKEN), NUMBER(CKA_VALUE_LEN, 32), TEXT(CKA_LABEL, "a") }; */

#define YES(type) {type, &(CK_BBOOL){CK_TRUE}, sizeof(CK_BBOOL)}
#define NO(type) {type, &(CK_BBOOL){CK_FALSE}, sizeof(CK_BBOOL)}
#define NUMBER(type, value) {type, &(CK_ULONG){value}, sizeof(CK_ULONG)}
#define TEXT(type, text) {type, (void *)(uintptr_t)(text), sizeof(text) - 1}
#define BYTES(type, array) {type, (void *)(uintptr_t)(array), sizeof(array)}
#define MAX_TEMPLATE 40

/* Defaults of a helper, then what the test wants otherwise: a later entry replaces an earlier one. */
static UNUSED CK_ULONG merge(CK_ATTRIBUTE *out, CK_ULONG n, const CK_ATTRIBUTE *extra, CK_ULONG more) {
    for (CK_ULONG i = 0; i < more; i++) {
        CK_ULONG at = 0;
        while (at < n && out[at].type != extra[i].type) at++;
        out[at] = extra[i];
        if (at == n) n++;
    }
    return n;
}

static UNUSED CK_RV generate_aes(CK_SESSION_HANDLE session, CK_ULONG bytes, const CK_ATTRIBUTE *extra, CK_ULONG more,
                                 CK_OBJECT_HANDLE *key) {
    CK_MECHANISM mechanism = {CKM_AES_KEY_GEN, NULL, 0};
    CK_ATTRIBUTE template[MAX_TEMPLATE] = {NUMBER(CKA_VALUE_LEN, bytes), NO(CKA_TOKEN)};
    *key = 0;
    return p11->C_GenerateKey(session, &mechanism, template, merge(template, 2, extra, more), key);
}
#define AES(session, bytes, key, ...)                                                 \
    generate_aes(session, bytes, (const CK_ATTRIBUTE[]){__VA_ARGS__},                 \
                 sizeof((const CK_ATTRIBUTE[]){__VA_ARGS__}) / sizeof(CK_ATTRIBUTE), key)

static const CK_BYTE P256_OID[] UNUSED = {6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7};

/* A P-256 pair for signing, or with `mechanism` CKM_RSA_PKCS_KEY_PAIR_GEN an RSA-2048 pair. */
static UNUSED CK_RV generate_pair(CK_SESSION_HANDLE session, CK_MECHANISM_TYPE type, const CK_ATTRIBUTE *public_,
                                  CK_ULONG npublic, const CK_ATTRIBUTE *private_, CK_ULONG nprivate,
                                  CK_OBJECT_HANDLE *pub, CK_OBJECT_HANDLE *priv) {
    CK_MECHANISM mechanism = {type, NULL, 0};
    CK_ATTRIBUTE first[MAX_TEMPLATE] = {NO(CKA_TOKEN)}, second[MAX_TEMPLATE] = {NO(CKA_TOKEN)};
    CK_ATTRIBUTE rsa = NUMBER(CKA_MODULUS_BITS, 2048), ec = BYTES(CKA_EC_PARAMS, P256_OID);
    first[1] = type == CKM_RSA_PKCS_KEY_PAIR_GEN ? rsa : ec;
    *pub = *priv = 0;
    return p11->C_GenerateKeyPair(session, &mechanism, first, merge(first, 2, public_, npublic), second,
                                  merge(second, 1, private_, nprivate), pub, priv);
}

/* Reads one attribute; its length, or (CK_ULONG)-1. */
static UNUSED CK_ULONG get(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type, void *into,
                           CK_ULONG size) {
    CK_ATTRIBUTE attribute = {type, into, size};
    return p11->C_GetAttributeValue(session, object, &attribute, 1) == CKR_OK ? attribute.ulValueLen : (CK_ULONG)-1;
}

/* A boolean attribute: 0, 1, or -1 if it cannot be read. */
static UNUSED int get_bool(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type) {
    CK_BBOOL value = 0x55;
    return get(session, object, type, &value, sizeof value) == 1 && value <= 1 ? value : -1;
}

static UNUSED CK_RV set_bool(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type, int value) {
    CK_BBOOL byte = value ? CK_TRUE : CK_FALSE;
    CK_ATTRIBUTE attribute = {type, &byte, sizeof byte};
    return p11->C_SetAttributeValue(session, object, &attribute, 1);
}

/* How many objects match; the first one's handle in `first` if wanted. */
static UNUSED CK_ULONG find(CK_SESSION_HANDLE session, const CK_ATTRIBUTE *template, CK_ULONG n,
                            CK_OBJECT_HANDLE *first) {
    CK_OBJECT_HANDLE found[64];
    CK_ULONG count = 0, total = 0;
    if (!OK(p11->C_FindObjectsInit(session, (CK_ATTRIBUTE *)(uintptr_t)template, n))) return 0;
    while (p11->C_FindObjects(session, found, COUNT(found), &count) == CKR_OK && count) {
        if (first && !total) *first = found[0];
        total += count;
    }
    OK(p11->C_FindObjectsFinal(session));
    return total;
}

/* A 12-byte IV, no AAD, a full tag. */
#define GCM(name, iv) \
    CK_GCM_PARAMS name##_params = {iv, 12, 96, NULL, 0, 128}; \
    CK_MECHANISM name = {CKM_AES_GCM, &name##_params, sizeof name##_params}

static UNUSED double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

#endif
