/* Runs one benchmark for a while in some threads, and prints what came out as a line of JSON. */
#define _GNU_SOURCE
#include "bench.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 1 << 18, GIVE_UP = 50 };

struct run {
    struct worker worker;
    pthread_barrier_t *barrier;
    double seconds;
    CK_RV rv; /* of a failed preparation, or the first failure */
    bool usable;
    unsigned long operations, failed;
    double rate;
    float *samples; /* microseconds */
    size_t sample_count;
};

/* One operation with what surrounds it; answers its duration in seconds. */
static double operate(struct run *run, double *clock) {
    struct worker *w = &run->worker;
    const struct benchmark *bench = w->bench;
    if (bench->before) {
        CK_RV rv = bench->before(w);
        if (rv != CKR_OK) {
            run->failed++;
            if (run->rv == CKR_OK) run->rv = rv;
            return -1;
        }
    }
    double start = bench->before || bench->after ? now() : *clock;
    CK_RV rv = bench->operate(w);
    double end = now();
    if (rv != CKR_OK) {
        run->failed++;
        if (run->rv == CKR_OK) run->rv = rv;
        *clock = end;
        return -1;
    }
    run->operations++;
    if (bench->after && (rv = bench->after(w)) != CKR_OK) {
        run->failed++;
        if (run->rv == CKR_OK) run->rv = rv;
    }
    *clock = end;
    return end - start;
}

/* Each operation timed: for the percentiles, and for those with untimed parts. */
static void run_timed(struct run *run, double seconds) {
    double busy = 0, clock = now();
    /* Untimed parts count towards the limit, but at most threefold. */
    double deadline = clock + seconds, limit = clock + 3 * seconds;
    unsigned long before = run->operations, consecutive = 0;
    bool surrounded = run->worker.bench->before || run->worker.bench->after;
    do {
        double took = operate(run, &clock);
        if (took < 0) {
            if (++consecutive >= GIVE_UP) break;
            continue;
        }
        consecutive = 0;
        busy += took;
        if (run->sample_count < SAMPLES) run->samples[run->sample_count++] = (float)(took * 1e6);
    } while (surrounded ? busy < seconds && now() < limit : clock < deadline);
    if (surrounded && busy > 0) run->rate = (double)(run->operations - before) / busy;
}

/* Without a clock around each operation: for the rate. */
static void run_untimed(struct run *run, double seconds) {
    struct worker *w = &run->worker;
    double start = now(), last = start, clock = start;
    unsigned long batch = 1, done = 0, consecutive = 0;
    do {
        for (unsigned long i = 0; i < batch; i++) {
            CK_RV rv = w->bench->operate(w);
            if (rv == CKR_OK) {
                done++;
                consecutive = 0;
                continue;
            }
            run->failed++;
            consecutive++;
            if (run->rv == CKR_OK) run->rv = rv;
            if (consecutive >= GIVE_UP) break;
        }
        last = clock;
        clock = now();
        if (clock - last < 200e-6 && batch < 4096) batch *= 2;
    } while (clock - start < seconds && consecutive < GIVE_UP);
    run->operations += done;
    run->rate = (double)done / (clock - start);
}

static void *run_thread(void *argument) {
    struct run *run = argument;
    struct worker *w = &run->worker;
    CK_RV rv = p11->C_OpenSession(w->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &w->session);
    bool open = rv == CKR_OK;
    if (rv == CKR_OK && w->bench->prepare) rv = w->bench->prepare(w);
    run->usable = rv == CKR_OK;
    run->rv = rv;
    if (run->usable) {
        /* Warm up; also tells an unsupported mechanism. */
        double clock = now(), end = clock + run->seconds / 10;
        unsigned long tried = 0;
        do operate(run, &clock), tried++;
        while (clock < end && run->operations > 0 && tried < 100000);
        if (run->operations == 0 && run->rv == CKR_MECHANISM_INVALID) run->usable = false;
        run->failed = 0;
        run->operations = 0;
    }
    pthread_barrier_wait(run->barrier);
    if (run->usable) {
        bool surrounded = w->bench->before || w->bench->after;
        if (!surrounded) run_untimed(run, run->seconds / 2);
        /* A second start line, or the rate of a thread would profit from the others' pause. */
        pthread_barrier_wait(run->barrier);
        run_timed(run, surrounded ? run->seconds : run->seconds / 2);
    } else {
        pthread_barrier_wait(run->barrier);
    }
    pthread_barrier_wait(run->barrier);
    if (open) p11->C_CloseSession(w->session);
    return NULL;
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void report(struct run *runs, const char *name, unsigned threads) {
    size_t count = 0;
    unsigned long operations = 0, failed = 0;
    double rate = 0;
    CK_RV rv = CKR_OK;
    bool usable = true;
    for (unsigned i = 0; i < threads; i++) {
        usable = usable && runs[i].usable;
        operations += runs[i].operations;
        failed += runs[i].failed;
        rate += runs[i].rate;
        count += runs[i].sample_count;
        if (rv == CKR_OK) rv = runs[i].rv;
    }
    if (!usable || operations == 0) {
        printf("{\"name\":\"%s\",\"rv\":\"%s\"}\n", name, rv_name(rv));
        return;
    }
    float *all = malloc((count + 1) * sizeof *all);
    if (!all) abort();
    size_t at = 0;
    for (unsigned i = 0; i < threads; i++) {
        memcpy(all + at, runs[i].samples, runs[i].sample_count * sizeof *all);
        at += runs[i].sample_count;
    }
    qsort(all, count, sizeof *all, compare);
    printf("{\"name\":\"%s\",\"threads\":%u,\"rate\":%.6g,\"operations\":%lu,\"failed\":%lu", name, threads, rate,
           operations, failed);
    if (count)
        printf(",\"p50\":%.6g,\"p99\":%.6g,\"max\":%.6g", (double)all[count / 2], (double)all[count * 99 / 100],
               (double)all[count - 1]);
    if (failed) printf(",\"rv\":\"%s\"", rv_name(rv));
    printf("}\n");
    free(all);
}

void measure(const struct options *options, CK_SLOT_ID slot, CK_SESSION_HANDLE session, const char *name,
             double seconds, unsigned threads, unsigned long population) {
    (void)options;
    const struct benchmark *bench = benchmark_named(name);
    if (!bench || threads == 0 || threads > 64) {
        printf("{\"name\":\"%s\",\"rv\":\"unknown benchmark\"}\n", name);
        return;
    }
    const struct keys *keys = fixture(session, bench->fixture);
    const struct keys *other = fixture(session, bench->fixture == FIXTURE_KEK ? FIXTURE_PAYLOAD : FIXTURE_NONE);
    if (keys->rv != CKR_OK || other->rv != CKR_OK) {
        printf("{\"name\":\"%s\",\"rv\":\"%s\"}\n", name, rv_name(keys->rv != CKR_OK ? keys->rv : other->rv));
        return;
    }
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, threads);
    struct run *runs = calloc(threads, sizeof *runs);
    pthread_t ids[64];
    if (!runs) abort();
    for (unsigned i = 0; i < threads; i++) {
        runs[i].barrier = &barrier;
        runs[i].seconds = seconds;
        runs[i].samples = malloc(SAMPLES * sizeof(float));
        runs[i].worker = (struct worker){
            .bench = bench,
            .slot = slot,
            .keys = keys,
            .other = other,
            .index = i,
            .population = population ? population : 1,
            .random = 0x9e3779b97f4a7c15ULL * (i + 1),
            .input = calloc(1, BUFFER_SIZE),
            .output = calloc(1, BUFFER_SIZE),
        };
        if (!runs[i].samples || !runs[i].worker.input || !runs[i].worker.output) abort();
        /* Touch the memory now, not while the clock runs. */
        memset(runs[i].samples, 1, SAMPLES * sizeof(float));
        memset(runs[i].worker.output, 1, BUFFER_SIZE);
        memset(runs[i].worker.input, 'x', BUFFER_SIZE);
    }
    for (unsigned i = 1; i < threads; i++) pthread_create(&ids[i], NULL, run_thread, &runs[i]);
    run_thread(&runs[0]);
    for (unsigned i = 1; i < threads; i++) pthread_join(ids[i], NULL);
    report(runs, name, threads);
    for (unsigned i = 0; i < threads; i++) {
        free(runs[i].samples);
        free(runs[i].worker.input);
        free(runs[i].worker.output);
    }
    free(runs);
    pthread_barrier_destroy(&barrier);
}
