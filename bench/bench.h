/* A benchmark of any PKCS#11 module: what its source files share. */
#ifndef BENCH_H
#define BENCH_H

#include <p11-kit/pkcs11.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Newer than some pkcs11.h in use. */
#ifndef CKM_EC_MONTGOMERY_KEY_PAIR_GEN
#define CKM_EC_MONTGOMERY_KEY_PAIR_GEN 0x1056UL
#endif
#ifndef CKM_EC_EDWARDS_KEY_PAIR_GEN
#define CKM_EC_EDWARDS_KEY_PAIR_GEN 0x1055UL
#endif
#ifndef CKM_EDDSA
#define CKM_EDDSA 0x1057UL
#endif
#ifndef CKM_AES_KEY_WRAP
#define CKM_AES_KEY_WRAP 0x2109UL
#endif

/* How to load a module and find its token; from the command line. */
struct options {
    const char *module;     /* path of the shared object */
    const char *parameters; /* NSS: LibraryParameters of C_Initialize, else NULL */
    const char *label;      /* the token's label; NULL: any initialised token */
    long slot;              /* slot id, or -1: look for the label */
    const char *pin;        /* user PIN */
    const char *so_pin;
    const char *so_initial; /* SO PIN before C_InitToken, where the token has one; else NULL */
};

extern CK_FUNCTION_LIST *p11;

/* module.c */
CK_RV module_load(const struct options *options);
CK_RV module_initialize(const struct options *options);
CK_RV module_find_slot(const struct options *options, CK_SLOT_ID *slot);
CK_RV module_init_token(const struct options *options);
CK_RV module_login(CK_SESSION_HANDLE session, const struct options *options);
double now(void); /* seconds, monotonic */
const char *rv_name(CK_RV rv);

/* The keys that a benchmark may ask for; made at the first use, kept until the process ends. */
enum fixture {
    FIXTURE_NONE,
    FIXTURE_AES,
    FIXTURE_HMAC,
    FIXTURE_KEK,     /* AES, wraps and unwraps only */
    FIXTURE_PAYLOAD, /* AES, extractable */
    FIXTURE_RSA2048,
    FIXTURE_RSA3072,
    FIXTURE_RSA4096,
    FIXTURE_P256,
    FIXTURE_P384,
    FIXTURE_ED25519,
    FIXTURE_ECDH_P256,
    FIXTURE_X25519,
    FIXTURE_SIGNER, /* the token key that fill() leaves */
    FIXTURE_COUNT
};

struct keys {
    bool ready;
    CK_RV rv;
    CK_OBJECT_HANDLE private_key; /* or the secret key */
    CK_OBJECT_HANDLE public_key;
    unsigned char point[200]; /* a peer's public point, for key agreement */
    size_t point_len;
};

/* keys.c */
struct keys *fixture(CK_SESSION_HANDLE session, enum fixture which);
CK_RV generate_secret(CK_SESSION_HANDLE session, enum fixture which, bool token, CK_OBJECT_HANDLE *key);
CK_RV generate_pair(CK_SESSION_HANDLE session, enum fixture which, bool token, const char *label,
                    CK_OBJECT_HANDLE *public_key, CK_OBJECT_HANDLE *private_key);
CK_RV create_secret(CK_SESSION_HANDLE session, bool token, const char *label, const unsigned char *id, size_t id_len,
                    CK_OBJECT_HANDLE *key);
CK_RV find_one(CK_SESSION_HANDLE session, CK_OBJECT_CLASS class, CK_ATTRIBUTE_TYPE by, const void *value,
               size_t length, CK_OBJECT_HANDLE *found);
/* The label and the id of the n-th key that fill() makes. */
void nth_label(unsigned long n, char label[16]);
void nth_id(unsigned long n, unsigned char id[20]);
CK_RV sign_with_signer(CK_SESSION_HANDLE session, const char **kind);

/* One benchmark; `operate` is timed, `before` and `after` are not. */
struct worker;
struct benchmark {
    const char *name;
    enum fixture fixture;
    CK_MECHANISM_TYPE mechanism;
    size_t size;
    bool token;
    CK_RV (*operate)(struct worker *);
    CK_RV (*before)(struct worker *);
    CK_RV (*after)(struct worker *);
    CK_RV (*prepare)(struct worker *); /* once a thread, untimed */
};

enum { BUFFER_SIZE = (1 << 20) + 1024 };

struct worker {
    const struct benchmark *bench;
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE session;
    const struct keys *keys;
    const struct keys *other; /* the key to wrap */
    unsigned index;           /* of the thread */
    unsigned long population; /* keys in the token, for searches */
    uint64_t counter, random;
    unsigned char *input, *output;
    unsigned char signature[600];
    CK_ULONG signature_len;
    CK_OBJECT_HANDLE object, object2;
};

/* operations.c */
const struct benchmark *benchmark_named(const char *name);
void benchmark_list(void);

/* measure.c: prints one line of JSON. */
void measure(const struct options *options, CK_SLOT_ID slot, CK_SESSION_HANDLE session, const char *name,
             double seconds, unsigned threads, unsigned long population);

#endif
