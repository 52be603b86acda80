/* Many processes on one token for a time: each makes, finds, uses and destroys keys and checks what
 * it gets; the sums must agree at the end.
 *
 * usage: soak MODULE SECONDS [PROCESSES] */
#include "harness.h"

#define MOST 64

static int seconds, processes;

struct tally {
    long made, destroyed, signed_, found;
};

static void worker(int number, int out) {
    struct tally tally = {0, 0, 0, 0};
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE pub, priv, mine[16] = {0};
    CK_MECHANISM ecdsa = {CKM_ECDSA, NULL, 0};
    CK_BYTE digest[32] = {0}, signature[64];
    char label[32];
    double end;
    OK(initialize());
    session = open_session(slot_of("test"));
    OK(login(session, CKU_USER, USER_PIN));
    OK(generate_pair(session, CKM_EC_KEY_PAIR_GEN, NULL, 0, NULL, 0, &pub, &priv));
    end = now() + seconds;
    for (long i = 0; now() < end && !checks_failed; i++) {
        int place = (int)(i % (long)COUNT(mine));
        if (mine[place]) {
            OK(p11->C_DestroyObject(session, mine[place]));
            tally.destroyed++;
        }
        snprintf(label, sizeof label, "soak %d.%ld", number, i);
        CK_ATTRIBUTE extra[] = {YES(CKA_TOKEN), {CKA_LABEL, label, strlen(label)}};
        OK(generate_aes(session, 32, extra, 2, &mine[place]));
        tally.made++;
        CHECK(find(session, &extra[1], 1, NULL) == 1);
        tally.found++;
        for (int k = 0; k < 20; k++) {
            CK_ULONG len = sizeof signature;
            memcpy(digest, &i, sizeof i);
            OK(p11->C_SignInit(session, &ecdsa, priv));
            OK(p11->C_Sign(session, digest, sizeof digest, signature, &len));
            OK(p11->C_VerifyInit(session, &ecdsa, pub));
            OK(p11->C_Verify(session, digest, sizeof digest, signature, len));
            tally.signed_++;
        }
        if (i % 50 == 49) { /* a new life now and then */
            OK(p11->C_Finalize(NULL));
            OK(initialize());
            session = open_session(slot_of("test"));
            OK(login(session, CKU_USER, USER_PIN));
            OK(generate_pair(session, CKM_EC_KEY_PAIR_GEN, NULL, 0, NULL, 0, &pub, &priv));
            for (size_t k = 0; k < COUNT(mine); k++) {
                if (!mine[k]) continue;
                snprintf(label, sizeof label, "soak %d.%ld", number, i - (i - (long)k) % (long)COUNT(mine));
                CK_ATTRIBUTE by_label[] = {{CKA_LABEL, label, strlen(label)}};
                CHECK(find(session, by_label, 1, &mine[k]) == 1);
            }
        }
    }
    OK(p11->C_Finalize(NULL));
    if (write(out, &tally, sizeof tally) != (ssize_t)sizeof tally) _exit(1);
    _exit(checks_failed != 0);
}

static void load(void) {
    int fds[2], status;
    struct tally sum = {0, 0, 0, 0}, one;
    pid_t pids[MOST];
    alarm((unsigned)seconds + 120);
    CHECK(pipe(fds) == 0);
    fflush(NULL);
    for (int i = 0; i < processes; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            alarm((unsigned)seconds + 100);
            worker(i, fds[1]);
        }
    }
    for (int i = 0; i < processes; i++) {
        waitpid(pids[i], &status, 0);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    close(fds[1]);
    while (read(fds[0], &one, sizeof one) == (ssize_t)sizeof one) {
        sum.made += one.made;
        sum.destroyed += one.destroyed;
        sum.signed_ += one.signed_;
        sum.found += one.found;
    }
    OK(initialize());
    CK_SESSION_HANDLE session = open_session(slot_of("test"));
    OK(login(session, CKU_USER, USER_PIN));
    CK_ATTRIBUTE aes[] = {NUMBER(CKA_CLASS, CKO_SECRET_KEY)};
    CK_ULONG left = find(session, aes, 1, NULL);
    CHECK(left == (CK_ULONG)(sum.made - sum.destroyed));
    OK(p11->C_Finalize(NULL));
    printf("%d processes, %d s: %ld keys made, %ld destroyed, %lu left, %ld found, %ld signatures\n", processes,
           seconds, sum.made, sum.destroyed, left, sum.found, sum.signed_);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: soak MODULE SECONDS [PROCESSES]\n");
        return 2;
    }
    start(argc, argv);
    seconds = atoi(argv[2]);
    processes = argc > 3 && atoi(argv[3]) > 0 && atoi(argv[3]) <= MOST ? atoi(argv[3]) : 8;
    OK(initialize());
    make_token("test");
    OK(p11->C_Finalize(NULL));
    RUN(load);
    return finish();
}
