/* Hand-written kernels with the interface of the generated ones. */
#include <stdint.h>

typedef struct {
    void *sync_handle;
    int32_t num_task;
} parallel_env;

/* What the objects of a kernel compiler define: weak pointers that the runtime's definitions replace. */
__attribute__((weak)) int (*__TVMBackendParallelLaunch)(int (*)(int, parallel_env *, void *), void *, int);
__attribute__((weak)) void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
__attribute__((weak)) int (*__TVMBackendFreeWorkspace)(int, int, void *);

enum { N = 1024 };

struct add {
    const float *a, *b;
    float *out;
};

static int add_slice(int task, parallel_env *env, void *data)
{
    struct add *add = data;
    int slice = (N + env->num_task - 1) / env->num_task;
    for (int i = task * slice; i < N && i < (task + 1) * slice; ++i) add->out[i] = add->a[i] + add->b[i];
    return 0;
}

/* 1024 f32, 1024 f32 -> 1024 f32, in parallel */
int32_t k_add(void *a, void *b, void *out)
{
    struct add add = {a, b, out};
    return __TVMBackendParallelLaunch(add_slice, &add, 0);
}

/* 1024 f32 -> 1024 f32: twice the input, through two workspaces, on the calling thread */
int32_t k_double(void *x, void *out)
{
    float *first = __TVMBackendAllocWorkspace(1, 0, N * sizeof(float), 2, 32);
    float *second = __TVMBackendAllocWorkspace(1, 0, 2 * N * sizeof(float), 2, 32);
    if (!first || !second || (uintptr_t)first % 64 || (uintptr_t)second % 64) return -1;
    for (int i = 0; i < N; ++i) first[i] = ((float *)x)[i];
    for (int i = 0; i < N; ++i) second[i] = first[i] + first[i];
    for (int i = 0; i < N; ++i) ((float *)out)[i] = second[i];
    __TVMBackendFreeWorkspace(1, 0, second);
    __TVMBackendFreeWorkspace(1, 0, first);
    return 0;
}

static int mark(int task, parallel_env *env, void *data)
{
    int32_t *out = data;
    out[task] += 1000 * env->num_task + task;
    return 0;
}

/* -> 64 i32: 37 tasks, more than there are threads; each must run once */
int32_t k_tasks(void *out)
{
    for (int i = 0; i < 64; ++i) ((int32_t *)out)[i] = 0;
    return __TVMBackendParallelLaunch(mark, out, 37);
}

/* -> 1024 i32: as many tasks as the pool decides */
int32_t k_decide(void *out)
{
    for (int i = 0; i < N; ++i) ((int32_t *)out)[i] = 0;
    return __TVMBackendParallelLaunch(mark, out, 0);
}

static int fail_third(int task, parallel_env *env, void *data)
{
    (void)env, (void)data;
    return task == 3 ? 5 : 0;
}

/* 4 bytes -> 4 bytes: one of eight tasks fails */
int32_t k_fail_in_task(void *x, void *out)
{
    (void)x, (void)out;
    return __TVMBackendParallelLaunch(fail_third, 0, 8);
}

/* i32 -> i32 */
int32_t k_increment(void *in, void *out)
{
    *(int32_t *)out = *(int32_t *)in + 1;
    return 0;
}

/* i32, i32 -> bool */
int32_t k_less(void *a, void *b, void *out)
{
    *(uint8_t *)out = *(int32_t *)a < *(int32_t *)b;
    return 0;
}

/* 5000 x 300 f32, 4 i64 -> 4 x 300 f32: rows, indices are clamped */
int32_t k_pick(void *table, void *indices, void *out)
{
    for (int i = 0; i < 4; ++i) {
        int64_t row = ((int64_t *)indices)[i];
        row = row < 0 ? 0 : row > 4999 ? 4999 : row;
        for (int k = 0; k < 300; ++k) ((float *)out)[300 * i + k] = ((float *)table)[300 * row + k];
    }
    return 0;
}
