/* Threads that launch at the same time, nest launches, and change how many workers they want. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime.h"

typedef struct {
    void *sync_handle;
    int32_t num_task;
} parallel_env;

typedef int (*parallel_body)(int, parallel_env *, void *);
extern int (*__TVMBackendParallelLaunch)(parallel_body, void *, int);

enum { CALLERS = 4, LAUNCHES = 400, SLOTS = 300 };

struct job {
    int slots[SLOTS]; /* plain memory: a task that runs twice, or after the launch, is a race */
    int nested;
};

static int inner(int task, parallel_env *env, void *data)
{
    (void)task;
    *(int *)data += env->num_task;
    return 0;
}

static int outer(int task, parallel_env *env, void *data)
{
    struct job *job = data;
    int sum = 0;
    if (job->nested) __TVMBackendParallelLaunch(inner, &sum, 3);
    job->slots[task] += 1 + (job->nested && sum != 9) + (env->num_task > SLOTS);
    return 0;
}

static void *caller(void *number)
{
    static const int sizes[] = {0, 1, 2, 3, 7, 31, 32, 33, 64, 257, 300};
    unsigned seed = (unsigned)(uintptr_t)number;
    for (int launch = 0; launch < LAUNCHES; ++launch) {
        struct job job = {{0}, rand_r(&seed) % 4 == 0};
        int threads = 1 + rand_r(&seed) % 40, tasks = sizes[rand_r(&seed) % 11], ran = 0;
        optc_rt_enter(threads);
        int status = __TVMBackendParallelLaunch(outer, &job, tasks);
        optc_rt_leave();
        for (int slot = 0; slot < SLOTS; ++slot) {
            if (job.slots[slot] > 1) return "a task ran twice";
            ran += job.slots[slot];
        }
        if (status != 0) return "a status from nowhere";
        if (tasks && ran != tasks) return "not every task ran";
        if (!tasks && ran != threads && ran != 1) return "neither one task for each thread nor one";
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[CALLERS];
    int failures = 0;
    for (uintptr_t i = 0; i < CALLERS; ++i) pthread_create(&threads[i], NULL, caller, (void *)i);
    for (int i = 0; i < CALLERS; ++i) {
        void *problem;
        pthread_join(threads[i], &problem);
        if (problem) failures += fprintf(stderr, "%s\n", (char *)problem) > 0;
    }
    return failures;
}
