/* Loading a module, finding its token, initialising one. */
#define _GNU_SOURCE
#include "bench.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

CK_FUNCTION_LIST *p11;

double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

CK_RV module_load(const struct options *options) {
    void *library = dlopen(options->module, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return CKR_GENERAL_ERROR;
    }
    CK_RV (*get)(CK_FUNCTION_LIST **) = NULL;
    *(void **)&get = dlsym(library, "C_GetFunctionList");
    return get ? get(&p11) : CKR_GENERAL_ERROR;
}

CK_RV module_initialize(const struct options *options) {
    if (options->parameters) {
        /* NSS puts its parameter string between the flags and pReserved. */
        struct {
            void *mutexes[4];
            CK_FLAGS flags;
            const char *parameters;
            void *reserved;
        } arguments = {.flags = CKF_OS_LOCKING_OK, .parameters = options->parameters};
        return p11->C_Initialize(&arguments);
    }
    CK_C_INITIALIZE_ARGS arguments;
    memset(&arguments, 0, sizeof arguments);
    arguments.flags = CKF_OS_LOCKING_OK;
    return p11->C_Initialize(&arguments);
}

static bool label_is(const CK_TOKEN_INFO *info, const char *label) {
    char padded[33];
    snprintf(padded, sizeof padded, "%-32s", label);
    return memcmp(info->label, padded, 32) == 0;
}

/* The slot with the token of that label; `free_slot`: the first whose token is not initialised. */
static CK_RV find_slot(const struct options *options, bool free_slot, CK_SLOT_ID *slot) {
    if (options->slot >= 0) {
        *slot = (CK_SLOT_ID)options->slot;
        return CKR_OK;
    }
    CK_SLOT_ID slots[64];
    CK_ULONG count = 64;
    CK_RV rv = p11->C_GetSlotList(CK_TRUE, slots, &count);
    if (rv != CKR_OK) return rv;
    for (CK_ULONG i = 0; i < count; i++) {
        CK_TOKEN_INFO info;
        if (p11->C_GetTokenInfo(slots[i], &info) != CKR_OK) continue;
        bool initialised = (info.flags & CKF_TOKEN_INITIALIZED) != 0;
        bool wanted = free_slot ? !initialised : initialised && (!options->label || label_is(&info, options->label));
        if (wanted) {
            *slot = slots[i];
            return CKR_OK;
        }
    }
    return CKR_TOKEN_NOT_PRESENT;
}

CK_RV module_find_slot(const struct options *options, CK_SLOT_ID *slot) { return find_slot(options, false, slot); }

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, const char *pin) {
    return p11->C_Login(session, user, (unsigned char *)(uintptr_t)pin, strlen(pin));
}

CK_RV module_login(CK_SESSION_HANDLE session, const struct options *options) {
    CK_RV rv = login(session, CKU_USER, options->pin);
    return rv == CKR_USER_ALREADY_LOGGED_IN ? CKR_OK : rv;
}

static CK_RV set_pin(CK_SESSION_HANDLE session, const char *from, const char *to) {
    return p11->C_SetPIN(session, (unsigned char *)(uintptr_t)from, strlen(from), (unsigned char *)(uintptr_t)to,
                         strlen(to));
}

/* C_InitToken, then both PINs; some tokens insist that a first PIN is changed. */
CK_RV module_init_token(const struct options *options) {
    static const char first_user_pin[] = "48261537";
    const char *so = options->so_initial ? options->so_initial : options->so_pin;
    CK_SLOT_ID slot;
    CK_RV rv = find_slot(options, true, &slot);
    if (rv != CKR_OK) return rv;
    char label[33];
    snprintf(label, sizeof label, "%-32s", options->label ? options->label : "bench");
    rv = p11->C_InitToken(slot, (unsigned char *)(uintptr_t)so, strlen(so), (unsigned char *)label);
    if (rv != CKR_OK) return rv;
    /* A module may move the new token to another slot. */
    rv = find_slot(options, false, &slot);
    if (rv != CKR_OK) return rv;
    CK_SESSION_HANDLE session;
    rv = p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session);
    if (rv != CKR_OK) return rv;
    rv = login(session, CKU_SO, so);
    if (rv == CKR_OK && strcmp(so, options->so_pin) != 0) rv = set_pin(session, so, options->so_pin);
    const char *user = options->so_initial ? first_user_pin : options->pin;
    if (rv == CKR_OK) rv = p11->C_InitPIN(session, (unsigned char *)(uintptr_t)user, strlen(user));
    if (rv == CKR_OK) rv = p11->C_Logout(session);
    if (rv == CKR_OK && options->so_initial) {
        rv = login(session, CKU_USER, user);
        if (rv == CKR_OK) rv = set_pin(session, user, options->pin);
    }
    p11->C_CloseSession(session);
    return rv;
}

const char *rv_name(CK_RV rv) {
    static _Thread_local char text[32];
    static const struct {
        CK_RV rv;
        const char *name;
    } names[] = {
        {CKR_OK, "CKR_OK"},
        {CKR_HOST_MEMORY, "CKR_HOST_MEMORY"},
        {CKR_GENERAL_ERROR, "CKR_GENERAL_ERROR"},
        {CKR_FUNCTION_FAILED, "CKR_FUNCTION_FAILED"},
        {CKR_ARGUMENTS_BAD, "CKR_ARGUMENTS_BAD"},
        {CKR_ATTRIBUTE_TYPE_INVALID, "CKR_ATTRIBUTE_TYPE_INVALID"},
        {CKR_ATTRIBUTE_VALUE_INVALID, "CKR_ATTRIBUTE_VALUE_INVALID"},
        {CKR_DEVICE_ERROR, "CKR_DEVICE_ERROR"},
        {CKR_DEVICE_MEMORY, "CKR_DEVICE_MEMORY"},
        {CKR_FUNCTION_NOT_SUPPORTED, "CKR_FUNCTION_NOT_SUPPORTED"},
        {CKR_KEY_HANDLE_INVALID, "CKR_KEY_HANDLE_INVALID"},
        {CKR_KEY_FUNCTION_NOT_PERMITTED, "CKR_KEY_FUNCTION_NOT_PERMITTED"},
        {CKR_MECHANISM_INVALID, "CKR_MECHANISM_INVALID"},
        {CKR_MECHANISM_PARAM_INVALID, "CKR_MECHANISM_PARAM_INVALID"},
        {CKR_OBJECT_HANDLE_INVALID, "CKR_OBJECT_HANDLE_INVALID"},
        {CKR_OPERATION_ACTIVE, "CKR_OPERATION_ACTIVE"},
        {CKR_PIN_EXPIRED, "CKR_PIN_EXPIRED"},
        {CKR_PIN_INCORRECT, "CKR_PIN_INCORRECT"},
        {CKR_SESSION_HANDLE_INVALID, "CKR_SESSION_HANDLE_INVALID"},
        {CKR_TEMPLATE_INCOMPLETE, "CKR_TEMPLATE_INCOMPLETE"},
        {CKR_TEMPLATE_INCONSISTENT, "CKR_TEMPLATE_INCONSISTENT"},
        {CKR_TOKEN_NOT_PRESENT, "CKR_TOKEN_NOT_PRESENT"},
        {CKR_USER_NOT_LOGGED_IN, "CKR_USER_NOT_LOGGED_IN"},
        {CKR_KEY_NOT_WRAPPABLE, "CKR_KEY_NOT_WRAPPABLE"},
        {CKR_DOMAIN_PARAMS_INVALID, "CKR_DOMAIN_PARAMS_INVALID"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].rv == rv) return names[i].name;
    snprintf(text, sizeof text, "0x%lx", (unsigned long)rv);
    return text;
}
