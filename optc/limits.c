/* Measures a machine: see limits.py, which puts VECTOR_BYTES and TARGET in front of this. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

typedef float vector __attribute__((vector_size(VECTOR_BYTES)));
typedef int64_t words __attribute__((vector_size(VECTOR_BYTES)));

enum { ACCUMULATORS = 12, MAX_THREADS = 256, FMA_ROUNDS = 2000000, READ_BYTES = 1 << 29 };

struct job {
    size_t bytes;
    uint8_t *buffer;
    pthread_barrier_t *start;
    double seconds;
    double result; /* keeps the compiler from dropping the work */
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* 12 independent chains: two units times a latency of four to six cycles. */
TARGET static float multiply_add(float start) {
    vector sum[ACCUMULATORS], a, b, total;
    for (int lane = 0; lane < (int)(VECTOR_BYTES / sizeof(float)); ++lane) {
        a[lane] = 0.5f + start;
        b[lane] = 0.25f;
    }
    for (int i = 0; i < ACCUMULATORS; ++i) sum[i] = b * (float)i;
    for (int round = 0; round < FMA_ROUNDS; ++round) {
#pragma clang loop unroll(full)
        for (int i = 0; i < ACCUMULATORS; ++i) sum[i] = sum[i] * a + b;
    }
    total = sum[0];
    for (int i = 1; i < ACCUMULATORS; ++i) total += sum[i];
    return total[0];
}

TARGET static int64_t read_all(const uint8_t *buffer, size_t bytes) {
    words sum[8];
    int64_t total = 0;
    const words *data = (const words *)buffer;
    size_t count = bytes / sizeof(words) / 8 * 8;
    for (int i = 0; i < 8; ++i) sum[i] = data[i];
    for (size_t at = 0; at < count; at += 8) {
#pragma clang loop unroll(full)
        for (int i = 0; i < 8; ++i) sum[i] += data[at + i];
    }
    for (int i = 0; i < 8; ++i) total += sum[i][0];
    return total;
}

static void *fma_thread(void *argument) {
    struct job *job = argument;
    pthread_barrier_wait(job->start);
    double start = now();
    job->result = multiply_add((float)(job->bytes & 1) * 0.125f);
    job->seconds = now() - start;
    return NULL;
}

static void *read_thread(void *argument) {
    struct job *job = argument;
    size_t passes = READ_BYTES / job->bytes + 1;
    for (size_t i = 0; i < job->bytes; ++i) job->buffer[i] = (uint8_t)i;
    job->result = (double)read_all(job->buffer, job->bytes);
    pthread_barrier_wait(job->start);
    double start = now();
    for (size_t pass = 0; pass < passes; ++pass) {
        job->result += (double)read_all(job->buffer, job->bytes);
        __asm__ volatile("" ::: "memory");
    }
    job->seconds = (now() - start) / (double)passes;
    return NULL;
}

/* The slowest thread's time: all of them must be done. */
static double slowest(void *(*body)(void *), struct job *jobs, int threads) {
    pthread_t handles[MAX_THREADS];
    pthread_barrier_t start;
    double seconds = 0;
    pthread_barrier_init(&start, NULL, (unsigned)threads);
    for (int i = 0; i < threads; ++i) jobs[i].start = &start;
    for (int i = 1; i < threads; ++i) pthread_create(&handles[i], NULL, body, &jobs[i]);
    body(&jobs[0]);
    for (int i = 1; i < threads; ++i) pthread_join(handles[i], NULL);
    for (int i = 0; i < threads; ++i) seconds = jobs[i].seconds > seconds ? jobs[i].seconds : seconds;
    pthread_barrier_destroy(&start);
    return seconds;
}

/* f32 operations per second of `threads` threads together. */
EXPORT double optc_limits_fma(int threads) {
    struct job jobs[MAX_THREADS] = {{0}};
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    double each = 2.0 * FMA_ROUNDS * ACCUMULATORS * (VECTOR_BYTES / sizeof(float));
    return each * threads / slowest(fma_thread, jobs, threads);
}

/* Bytes read per second by `threads` threads together, each going round its own `bytes`. */
EXPORT double optc_limits_read(int threads, size_t bytes) {
    struct job jobs[MAX_THREADS] = {{0}};
    double seconds = 0;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    for (int i = 0; i < threads; ++i) {
        jobs[i].bytes = bytes;
        jobs[i].buffer = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
        if (jobs[i].buffer == NULL) goto out;
    }
    seconds = slowest(read_thread, jobs, threads);
out:
    for (int i = 0; i < threads; ++i) free(jobs[i].buffer);
    return seconds > 0 ? (double)bytes * threads / seconds : 0;
}
