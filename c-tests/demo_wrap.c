/* Part of `make demo`: a C program that opens the module with dlopen, wraps a key under another,
 * unwraps it again, and shows that it is the same key.
 *
 * usage: demo_wrap MODULE TOKEN PIN */
#include <conclave.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static CK_FUNCTION_LIST *p11;

static void must(CK_RV rv, const char *what) {
    if (rv == CKR_OK) return;
    fprintf(stderr, "%s: 0x%lx\n", what, (unsigned long)rv);
    exit(1);
}

static CK_SLOT_ID find_token(const char *label) {
    CK_SLOT_ID slots[32];
    CK_ULONG n = 32;
    CK_TOKEN_INFO info;
    must(p11->C_GetSlotList(CK_TRUE, slots, &n), "C_GetSlotList");
    for (CK_ULONG i = 0; i < n; i++)
        if (p11->C_GetTokenInfo(slots[i], &info) == CKR_OK && !memcmp(info.label, label, strlen(label))) return slots[i];
    fprintf(stderr, "no token %s\n", label);
    exit(1);
}

static CK_OBJECT_HANDLE generate(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG n) {
    CK_MECHANISM aes = {CKM_AES_KEY_GEN, NULL, 0};
    CK_OBJECT_HANDLE key;
    must(p11->C_GenerateKey(session, &aes, template, n, &key), "C_GenerateKey");
    return key;
}

static void encrypt_block(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, CK_BYTE out[16]) {
    CK_MECHANISM ecb = {CKM_AES_ECB, NULL, 0};
    CK_ULONG len = 16;
    must(p11->C_EncryptInit(session, &ecb, key), "C_EncryptInit");
    must(p11->C_Encrypt(session, (CK_BYTE *)(uintptr_t) "exactly 16 bytes", 16, out, &len), "C_Encrypt");
}

static void print(const char *what, const CK_BYTE *bytes, CK_ULONG n) {
    printf("   %s ", what);
    for (CK_ULONG i = 0; i < n; i++) printf("%02x", bytes[i]);
    printf("\n");
}

int main(int argc, char **argv) {
    CK_C_GetFunctionList get_list;
    CK_C_INITIALIZE_ARGS args;
    CK_SESSION_HANDLE session;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_ULONG size = 32, class = CKO_SECRET_KEY, type = CKK_AES;
    CK_OBJECT_HANDLE kek, key, again;
    CK_MECHANISM wrap = {CKM_AES_KEY_WRAP, NULL, 0};
    CK_BYTE wrapped[64], first[16], second[16], value[64];
    CK_ULONG len = sizeof wrapped;
    if (argc != 4) return 2;

    void *module = dlopen(argv[1], RTLD_NOW);
    if (!module) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    *(void **)&get_list = dlsym(module, "C_GetFunctionList");
    must(get_list(&p11), "C_GetFunctionList");
    memset(&args, 0, sizeof args);
    args.flags = CKF_OS_LOCKING_OK;
    must(p11->C_Initialize(&args), "C_Initialize");
    must(p11->C_OpenSession(find_token(argv[2]), CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session),
         "C_OpenSession");
    must(p11->C_Login(session, CKU_USER, (CK_UTF8CHAR *)argv[3], strlen(argv[3])), "C_Login");

    /* A key that wraps and does nothing else, and a sensitive key that may leave under it. */
    CK_ATTRIBUTE wrapping[] = {{CKA_VALUE_LEN, &size, sizeof size}, {CKA_WRAP, &yes, 1}, {CKA_UNWRAP, &yes, 1},
                               {CKA_TOKEN, &no, 1}};
    CK_ATTRIBUTE travelling[] = {{CKA_VALUE_LEN, &size, sizeof size}, {CKA_SENSITIVE, &yes, 1},
                                 {CKA_EXTRACTABLE, &yes, 1}, {CKA_ENCRYPT, &yes, 1}, {CKA_TOKEN, &no, 1}};
    kek = generate(session, wrapping, 4);
    key = generate(session, travelling, 5);
    encrypt_block(session, key, first);
    print("the key encrypts to     ", first, 16);

    CK_ATTRIBUTE read = {CKA_VALUE, value, sizeof value};
    if (p11->C_GetAttributeValue(session, key, &read, 1) == CKR_OK) return 1;
    printf("   its value cannot be read: CKR_ATTRIBUTE_SENSITIVE\n");

    must(p11->C_WrapKey(session, &wrap, kek, key, wrapped, &len), "C_WrapKey");
    print("wrapped under the other ", wrapped, len);
    must(p11->C_DestroyObject(session, key), "C_DestroyObject");

    CK_ATTRIBUTE arriving[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type},
                               {CKA_ENCRYPT, &yes, 1}, {CKA_TOKEN, &no, 1}};
    must(p11->C_UnwrapKey(session, &wrap, kek, wrapped, len, arriving, 4, &again), "C_UnwrapKey");
    encrypt_block(session, again, second);
    print("unwrapped, it encrypts to", second, 16);

    wrapped[5] ^= 1;
    CK_RV rv = p11->C_UnwrapKey(session, &wrap, kek, wrapped, len, arriving, 4, &again);
    printf("   one bit changed, it is refused: %s\n", rv == CKR_WRAPPED_KEY_INVALID ? "CKR_WRAPPED_KEY_INVALID" : "?");
    must(p11->C_Finalize(NULL), "C_Finalize");
    return memcmp(first, second, 16) != 0 || rv != CKR_WRAPPED_KEY_INVALID;
}
