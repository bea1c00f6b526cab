/* Measures a machine: see microkernels.py, which puts a few #defines in front of this:
   VECTOR_BYTES, TARGET (the attribute that allows the instructions), and of F16, BF16, DOT8 and DOT16
   those the CPU has. Every computing kernel counts: its operands are ones, so the sum of its
   accumulators is the number of multiply-adds that it did. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define REGISTER "+x"
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#define REGISTER "+w"
#endif

#define EXPORT __attribute__((visibility("default")))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef float floats __attribute__((vector_size(VECTOR_BYTES)));
typedef int64_t words __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t integers __attribute__((vector_size(VECTOR_BYTES)));

enum { MAX_THREADS = 256, PAGE = 4096 };

/* 12 independent chains: two units times a latency of four to six cycles. */
enum { CHAINS = 12 };

#define SUM(type, sums)                                                                            \
    double total = 0;                                                                              \
    for (int i = 0; i < CHAINS; ++i)                                                               \
        for (size_t lane = 0; lane < sizeof(sums[0]) / sizeof(type); ++lane)                       \
            total += (double)((const type *)&sums[i])[lane];                                       \
    return total

/* `step` is one instruction's work on `sums[i]`, of operands `a` and `b` that the compiler cannot know. */
#define CHAIN_KERNEL(name, vector, type, operand, ones, step)                                      \
    TARGET static double name(int64_t rounds) {                                                    \
        vector sums[CHAINS];                                                                       \
        operand a = ones, b = ones;                                                                \
        memset(sums, 0, sizeof sums);                                                              \
        for (int64_t round = 0; round < rounds; ++round) {                                         \
            __asm__ volatile("" : REGISTER(a), REGISTER(b));                                       \
            UNROLL for (int i = 0; i < CHAINS; ++i) sums[i] = step;                                \
        }                                                                                          \
        SUM(type, sums);                                                                           \
    }

#define ONES (floats){0} + 1.0f
CHAIN_KERNEL(multiply_add_f32, floats, float, floats, ONES, sums[i] * a + b)

#if defined(F16)
/* Its sums are zero and one in turn, since eleven bits could not count far: rounds must be odd. */
#if defined(__x86_64__)
CHAIN_KERNEL(ones_f16, __m512h, _Float16, __m512h, _mm512_set1_ph(1), _mm512_fnmadd_ph(sums[i], a, b))
#else
typedef _Float16 halves __attribute__((vector_size(VECTOR_BYTES)));
CHAIN_KERNEL(ones_f16, halves, _Float16, halves, (halves){0} + (_Float16)1, b - sums[i] * a)
#endif
static double multiply_add_f16(int64_t rounds) { return ones_f16(rounds) * (double)rounds; }
#endif

#if defined(BF16) && defined(__x86_64__)
#define PAIRS (__m512bh)_mm512_set1_epi16(0x3f80)
CHAIN_KERNEL(dot_bf16, __m512, float, __m512bh, PAIRS, _mm512_dpbf16_ps(sums[i], a, b))
#elif defined(BF16)
#define QUADS vreinterpretq_bf16_u16(vdupq_n_u16(0x3f80))
CHAIN_KERNEL(dot_bf16, float32x4_t, float, bfloat16x8_t, QUADS, vbfmmlaq_f32(sums[i], a, b))
#endif

#if defined(DOT8) && defined(__x86_64__) && VECTOR_BYTES == 64
CHAIN_KERNEL(dot_i8, __m512i, int32_t, __m512i, _mm512_set1_epi8(1), _mm512_dpbusd_epi32(sums[i], a, b))
#elif defined(DOT8) && defined(MATRIX8)
CHAIN_KERNEL(dot_i8, int32x4_t, int32_t, int8x16_t, vdupq_n_s8(1), vmmlaq_s32(sums[i], a, b))
#elif defined(DOT8)
CHAIN_KERNEL(dot_i8, int32x4_t, int32_t, int8x16_t, vdupq_n_s8(1), vdotq_s32(sums[i], a, b))
#elif defined(__x86_64__)
/* No instruction sums products of bytes in 32 bits: bytes are widened to 16 bits, where two products
   and their sum are exact. Chains have operands of their own, for which no product serves twice. */
#if VECTOR_BYTES == 64
#define MULTIPLY_PAIRS(x, y) (integers)_mm512_madd_epi16((__m512i)(x), (__m512i)(y))
#elif VECTOR_BYTES == 32
#define MULTIPLY_PAIRS(x, y) (integers)_mm256_madd_epi16((__m256i)(x), (__m256i)(y))
#else
#define MULTIPLY_PAIRS(x, y) (integers)_mm_madd_epi16((__m128i)(x), (__m128i)(y))
#endif
TARGET static double dot_i8(int64_t rounds) {
    integers sums[CHAINS], a[2], b = (integers){0} + 0x00010001;
    memset(sums, 0, sizeof sums);
    a[0] = a[1] = b;
    for (int64_t round = 0; round < rounds; ++round)
        UNROLL for (int i = 0; i < CHAINS; ++i) {
            if (i % 2 == 0) __asm__ volatile("" : REGISTER(a[0]), REGISTER(a[1]));
            sums[i] += MULTIPLY_PAIRS(a[i % 2], b);
        }
    SUM(int32_t, sums);
}
#elif defined(__ARM_NEON)
TARGET static double dot_i8(int64_t rounds) {
    int32x4_t sums[CHAINS];
    int8x8_t a = vdup_n_s8(1), b = vdup_n_s8(1);
    memset(sums, 0, sizeof sums);
    for (int64_t round = 0; round < rounds; ++round)
        UNROLL for (int i = 0; i < CHAINS; ++i) {
            __asm__ volatile("" : REGISTER(a), REGISTER(b));
            sums[i] = vpadalq_s16(sums[i], vmull_s8(a, b));
        }
    SUM(int32_t, sums);
}
#endif

#if !defined(F16)
#define multiply_add_f16 NULL
#endif
#if !defined(BF16)
#define dot_bf16 NULL
#endif
#if !defined(__x86_64__) && !defined(__ARM_NEON)
#define dot_i8 NULL
#endif
#define KERNELS multiply_add_f32, multiply_add_f16, dot_bf16, dot_i8

/* Memory: a thread's words, read into sums, written, or copied with one changed so that no library
   function takes the loop's place. `other` is the second half of a copy's bytes. */
enum { STEP = 8 };

TARGET static void read_all(words *data, size_t count, words *sums) {
    words own[STEP];
    memcpy(own, sums, sizeof own);
    for (size_t at = 0; at < count; at += STEP)
        UNROLL for (int i = 0; i < STEP; ++i) own[i] += data[at + i];
    memcpy(sums, own, sizeof own);
}

TARGET static void write_all(words *data, size_t count, words *sums) {
    words own = sums[0];
    for (size_t at = 0; at < count; at += STEP)
        UNROLL for (int i = 0; i < STEP; ++i) data[at + i] = own;
}

TARGET static void copy_all(words *data, size_t count, words *sums) {
    words own = sums[0];
    size_t half = count / 2 / STEP * STEP;
    words *restrict other = data + half;
    for (size_t at = 0; at < half; at += STEP)
        UNROLL for (int i = 0; i < STEP; ++i) other[at + i] = data[at + i] + own;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* What every thread does `repeats` times, all starting together: computes, or moves its `bytes`. */
struct experiment {
    double (*compute)(int64_t rounds);
    void (*move)(words *, size_t count, words *sums);
    int64_t rounds;
    size_t bytes;
    int repeats;
    int threads;
    pthread_barrier_t woken;
    _Atomic int go; /* 1, or -1 when the system refused a thread */
    _Atomic int arrived;
};

struct thread {
    struct experiment *experiment;
    words *buffer;
    double *times;  /* begin and end of each repeat */
    double counted; /* multiply-adds of one repeat */
    words sums[STEP];
    pthread_t handle;
};

static void work(struct thread *me) {
    const struct experiment *it = me->experiment;
    if (it->compute) {
        me->counted = it->compute(it->rounds);
        return;
    }
    for (int64_t round = 0; round < it->rounds; ++round) {
        it->move(me->buffer, it->bytes / sizeof(words) / STEP * STEP, me->sums);
        __asm__ volatile("" ::: "memory");
    }
}

/* First asleep, because a thread that is woken gets a core that is free; then spinning, because those
   that are woken one after the other would not start together. */
static void meet(struct experiment *it, int turn) {
    pthread_barrier_wait(&it->woken);
    ++it->arrived;
    for (unsigned spins = 1; it->arrived < it->threads * (turn + 1); ++spins)
        if (spins % 4096 == 0) sched_yield();
}

static void *run_thread(void *argument) {
    struct thread *me = argument;
    while (me->experiment->go == 0) sched_yield();
    if (me->experiment->go < 0) return NULL;
    if (me->buffer) memset(me->buffer, 0, me->experiment->bytes); /* its pages are near its core */
    work(me);
    for (int i = 0; i < me->experiment->repeats; ++i) {
        meet(me->experiment, i);
        me->times[2 * i] = now();
        work(me);
        me->times[2 * i + 1] = now();
    }
    return NULL;
}

/* From the first thread's start to the last one's end. */
static double elapsed(const struct thread *threads, int count, int repeat) {
    double begin = threads[0].times[2 * repeat], end = threads[0].times[2 * repeat + 1];
    for (int i = 1; i < count; ++i) {
        const double *times = threads[i].times + 2 * repeat;
        begin = times[0] < begin ? times[0] : begin;
        end = times[1] > end ? times[1] : end;
    }
    return end - begin;
}

/* Operations or bytes per second of the fastest repeat; 0 where the system refuses memory or a thread. */
static double fastest(struct experiment *it, double operations) {
    static struct thread threads[MAX_THREADS];
    int asked = it->threads, made = asked, refused = 0;
    double best = 0;
    memset(threads, 0, sizeof threads);
    for (int i = 0; i < asked; ++i) {
        struct thread *each = &threads[i];
        each->experiment = it;
        each->times = calloc((size_t)it->repeats, 2 * sizeof(double));
        if (it->bytes) each->buffer = aligned_alloc(PAGE, (it->bytes + PAGE - 1) / PAGE * PAGE);
        refused |= !each->times || (it->bytes && !each->buffer);
    }
    if (refused) goto out;
    pthread_barrier_init(&it->woken, NULL, (unsigned)asked);
    for (int i = 1; i < asked && !refused; ++i)
        if (pthread_create(&threads[i].handle, NULL, run_thread, &threads[i])) {
            asked = i;
            refused = 1;
        }
    it->go = refused ? -1 : 1;
    if (!refused) run_thread(&threads[0]);
    for (int i = 1; i < asked; ++i) pthread_join(threads[i].handle, NULL);
    pthread_barrier_destroy(&it->woken);
    if (refused) goto out;
    for (int i = 0; i < it->repeats; ++i) {
        double each = it->compute ? 2 * threads[0].counted : operations;
        double speed = each * asked / elapsed(threads, asked, i);
        best = speed > best ? speed : best;
    }
out:
    for (int i = 0; i < made; ++i) free(threads[i].times), free(threads[i].buffer);
    return best;
}

static int bounded(int threads) { return threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads; }

/* Multiply-adds of `rounds` rounds, as their results say; 0 without an instruction for the dtype. */
EXPORT double optc_limits_count(int dtype, int64_t rounds) {
    double (*const kernels[])(int64_t) = {KERNELS};
    return kernels[dtype] ? kernels[dtype](rounds) : 0;
}

/* Operations per second of `threads` threads together, a multiply-add being two. 0 for a dtype
   (0 f32, 1 f16, 2 bf16, 3 i8) that the CPU has no instruction for. `rounds` must be odd. */
EXPORT double optc_limits_compute(int dtype, int threads, int64_t rounds, int repeats) {
    double (*const kernels[])(int64_t) = {KERNELS};
    struct experiment it = {.compute = kernels[dtype], .rounds = rounds, .repeats = repeats, .threads = bounded(threads)};
    return it.compute ? fastest(&it, 0) : 0;
}

/* Bytes per second that `threads` threads together read (0), write (1), or read and write (2), each
   going `rounds` times round its own `bytes`. */
EXPORT double optc_limits_move(int how, int threads, size_t bytes, int64_t rounds, int repeats) {
    void (*const kernels[])(words *, size_t, words *) = {read_all, write_all, copy_all};
    struct experiment it = {
        .move = kernels[how], .bytes = bytes, .rounds = rounds, .repeats = repeats, .threads = bounded(threads)};
    return fastest(&it, (double)bytes * (double)rounds);
}

/* The artifacts' own thread pool, linked in. */
typedef struct {
    void *sync_handle;
    int32_t num_task;
} parallel_env;
typedef int (*parallel_body)(int task, parallel_env *env, void *data);
extern int (*__TVMBackendParallelLaunch)(parallel_body, void *, int);
void optc_rt_enter(int threads);
void optc_rt_leave(void);

static int spin(int task, parallel_env *env, void *seconds) {
    double end = now() + *(const double *)seconds;
    (void)task, (void)env;
    while (now() < end) {}
    return 0;
}

/* Seconds that a parallel kernel takes beyond its work, of which every thread has `work` seconds: the
   fastest of `launches`, while the pool is awake, as it is within a run. */
EXPORT double optc_limits_fork_join(int threads, double work, int launches) {
    double best = 1;
    optc_rt_enter(bounded(threads));
    for (int i = 0; i < launches; ++i) {
        double start = now(), spent;
        __TVMBackendParallelLaunch(spin, &work, 0);
        spent = now() - start - work;
        best = spent < best ? spent : best;
    }
    optc_rt_leave();
    return best > 0 ? best : 0;
}
