/* The thread pool: one for the process, shared by all instances in this library.

   A launch publishes one claim bit for each group of tasks. Every thread first claims the bit of
   its own number, so that the same core works on the same slice of layer after layer, then takes
   what is left. The caller claims too: a worker that sleeps or was preempted costs balance, never
   a wait for its wake-up. A launch that finds the pool busy, or comes from inside a task, runs its
   tasks on its own thread. */
#define _GNU_SOURCE
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "runtime.h"

enum { MAX_THREADS = 256, CLAIM_BITS = 32, CLAIM_WORDS = MAX_THREADS / CLAIM_BITS };

/* How long an idle worker looks for work before it sleeps: a futex wake-up costs the caller and the
   worker some tens of microseconds, a kernel that runs on one thread rarely more than 2 ms; after
   a run the next one often comes at once. */
static const uint64_t AWAKE_IN_RUN_NS = 2000000, AWAKE_AFTER_RUN_NS = 200000;
static const unsigned TURNS_BEFORE_YIELD = 2000;

typedef struct {
    void *sync_handle;
    int32_t num_task;
} parallel_env;

typedef int (*parallel_body)(int task, parallel_env *env, void *data);

static struct {
    _Atomic int owned;         /* a launch is in progress */
    _Atomic int runs;          /* between enter and leave */
    _Atomic int stopping;
    _Atomic uint32_t sleepers;
    _Atomic int threads;       /* that may take part in the current launch */
    _Atomic int workers;       /* started; changed by the owner only */
    _Atomic pid_t process;     /* that started them */
    /* The launch: written by the owner while no bit is free, read after a claim. */
    parallel_body body;
    void *data;
    int tasks, groups;
    _Atomic int status;        /* of a task that failed */
    _Alignas(64) _Atomic uint32_t epoch; /* counts launches; the futex */
    _Alignas(64) _Atomic uint32_t claims[CLAIM_WORDS]; /* a set bit is taken or was never there */
    _Alignas(64) _Atomic int pending; /* groups that are not done */
    pthread_t handles[MAX_THREADS];
} pool;

static _Thread_local int my_threads; /* what the instance that runs on this thread may use */

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* `yield` is a no-op on most cores */
#elif defined(__arm__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

uint64_t optc_rt_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void futex_wait(uint32_t expected)
{
    syscall(SYS_futex, &pool.epoch, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(int count)
{
    syscall(SYS_futex, &pool.epoch, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

/* Claims a group, that of `thread` if it is free. Returns -1 when there is none. */
static int claim(unsigned thread)
{
    for (unsigned turn = 0; turn < CLAIM_WORDS; ++turn) {
        unsigned index = (thread / CLAIM_BITS + turn) % CLAIM_WORDS, own = thread % CLAIM_BITS;
        uint32_t taken = atomic_load_explicit(&pool.claims[index], memory_order_relaxed);
        while (taken != UINT32_MAX) {
            unsigned bit = turn == 0 && !(taken >> own & 1) ? own : (unsigned)__builtin_ctz(~taken);
            if (atomic_compare_exchange_weak_explicit(&pool.claims[index], &taken, taken | 1u << bit,
                                                      memory_order_acq_rel, memory_order_relaxed))
                return (int)(index * CLAIM_BITS + bit);
        }
    }
    return -1;
}

static void work(unsigned thread)
{
    int group;
    while ((group = claim(thread)) >= 0) {
        parallel_env env = {NULL, pool.tasks};
        int status = 0;
        for (int task = group; task < pool.tasks && status == 0; task += pool.groups)
            status = pool.body(task, &env, pool.data);
        if (status) atomic_store_explicit(&pool.status, status, memory_order_relaxed);
        atomic_fetch_sub_explicit(&pool.pending, 1, memory_order_release);
    }
}

static uint32_t wait_for_launch(uint32_t seen)
{
    uint64_t start = 0;
    for (unsigned turn = 1;; ++turn) {
        uint32_t epoch = atomic_load_explicit(&pool.epoch, memory_order_acquire);
        if (epoch != seen) return epoch;
        relax();
        if (turn % 64) continue;
        uint64_t now = optc_rt_now();
        if (start == 0) start = now;
        uint64_t patience = atomic_load_explicit(&pool.runs, memory_order_relaxed) ? AWAKE_IN_RUN_NS
                                                                                  : AWAKE_AFTER_RUN_NS;
        if (now - start < patience) continue;
        /* Sleepers are counted before the epoch is read again, and a launch raises the epoch before
           it reads the count, both in one total order: one of the two sees the other. */
        atomic_fetch_add(&pool.sleepers, 1);
        if (atomic_load(&pool.epoch) == seen) futex_wait(seen);
        atomic_fetch_sub(&pool.sleepers, 1);
        start = 0;
    }
}

static void *worker(void *number)
{
    unsigned thread = (unsigned)(uintptr_t)number;
    uint32_t epoch = atomic_load_explicit(&pool.epoch, memory_order_acquire);
    while (!atomic_load_explicit(&pool.stopping, memory_order_relaxed)) {
        if ((int)thread < atomic_load_explicit(&pool.threads, memory_order_relaxed)) work(thread);
        epoch = wait_for_launch(epoch);
    }
    return NULL;
}

static int own(void)
{
    int expected = 0;
    return atomic_compare_exchange_strong_explicit(&pool.owned, &expected, 1, memory_order_acquire,
                                                   memory_order_relaxed);
}

static void disown(void)
{
    atomic_store_explicit(&pool.owned, 0, memory_order_release);
}

/* Starts workers up to `wanted` (numbers 1 ...); fewer where the system refuses, which is only slower. */
static void start_workers(int wanted)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    if (pthread_attr_init(&attributes) != 0) return;
    pthread_attr_setstacksize(&attributes, (size_t)2 << 20); /* musl's default is 128 KiB */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's, not ours */
    while (pool.workers < wanted) {
        void *number = (void *)(uintptr_t)(pool.workers + 1);
        if (pthread_create(&pool.handles[pool.workers], &attributes, worker, number) != 0) break;
        ++pool.workers;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

/* The child of a fork has none of its parent's workers, and the pool may have been busy. */
static void forget_parents_workers(pid_t process)
{
    atomic_store(&pool.workers, 0);
    atomic_store(&pool.runs, 0);
    atomic_store(&pool.sleepers, 0);
    for (int i = 0; i < CLAIM_WORDS; ++i) atomic_store(&pool.claims[i], UINT32_MAX);
    atomic_store(&pool.owned, 0);
    atomic_store(&pool.process, process); /* last: from here on other threads use the pool */
}

void optc_rt_enter(int threads)
{
    pid_t process = getpid();
    if (pool.process != process) {
        static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
        pthread_mutex_lock(&once);
        if (pool.process != process) forget_parents_workers(process);
        pthread_mutex_unlock(&once);
    }
    my_threads = threads < MAX_THREADS ? threads : MAX_THREADS;
    atomic_fetch_add_explicit(&pool.runs, 1, memory_order_relaxed);
    if (pool.workers < my_threads - 1 && own()) {
        start_workers(my_threads - 1);
        disown();
    }
}

void optc_rt_leave(void)
{
    atomic_fetch_sub_explicit(&pool.runs, 1, memory_order_relaxed);
    my_threads = 0;
}

static int run_alone(parallel_body body, void *data, int tasks)
{
    parallel_env env = {NULL, tasks};
    int threads = my_threads, status = 0;
    my_threads = 0; /* as in a launch: one from inside a task stays on its thread */
    for (int task = 0; task < tasks && status == 0; ++task) status = body(task, &env, data);
    my_threads = threads;
    return status;
}

/* Shows the launch to the workers. All fields come first: a worker may claim as soon as its bit is free. */
static void publish(parallel_body body, void *data, int tasks, int groups, int threads)
{
    pool.body = body;
    pool.data = data;
    pool.tasks = tasks;
    pool.groups = groups;
    atomic_store_explicit(&pool.status, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.threads, threads, memory_order_relaxed);
    atomic_store_explicit(&pool.pending, groups, memory_order_relaxed);
    for (int word = 0; word * CLAIM_BITS < groups; ++word) {
        int bits = groups - word * CLAIM_BITS;
        uint32_t taken = bits >= CLAIM_BITS ? 0 : UINT32_MAX << bits;
        atomic_store_explicit(&pool.claims[word], taken, memory_order_release);
    }
    atomic_fetch_add(&pool.epoch, 1);
    if (atomic_load(&pool.sleepers)) futex_wake(threads > pool.workers ? groups - 1 : INT_MAX);
}

/* `tasks` 0 leaves the number to us: one for each thread. Returns the status of a task that failed, or 0. */
static int launch(parallel_body body, void *data, int tasks)
{
    int threads = my_threads;
    if (threads <= 1 || tasks == 1 || !own()) return run_alone(body, data, tasks > 0 ? tasks : 1);
    if (tasks <= 0) tasks = threads;
    int groups = tasks < threads ? tasks : threads;
    publish(body, data, tasks, groups, threads);
    my_threads = 0; /* a launch from inside a task stays on its thread */
    work(0);
    for (unsigned turn = 0; atomic_load_explicit(&pool.pending, memory_order_acquire) > 0; ++turn)
        if (turn < TURNS_BEFORE_YIELD) relax();
        else sched_yield(); /* a worker lost its core in the middle of a task */
    int status = atomic_load_explicit(&pool.status, memory_order_relaxed);
    my_threads = threads;
    disown();
    return status;
}

/* Kernels reach the pool through this pointer, which their objects define weakly. */
int (*__TVMBackendParallelLaunch)(parallel_body, void *, int) = launch;

void optc_rt_stop_workers(void)
{
    if (pool.process != getpid()) return;
    atomic_store(&pool.stopping, 1);
    atomic_fetch_add(&pool.epoch, 1);
    futex_wake(INT_MAX);
    for (int i = 0; i < pool.workers; ++i) pthread_join(pool.handles[i], NULL);
    pool.workers = 0;
}
