/* What the generated driver of a model for NVIDIA GPUs knows beside runtime.h. */
#ifndef OPTC_CUDA_H
#define OPTC_CUDA_H

#include "runtime.h"

struct optc_rt_gpu_code {
    int major, minor;        /* the oldest compute capability that takes it */
    const void *cubin, *ptx; /* for that major; text for those after it */
    int kernel_count;
    int straight; /* no decision is read: every run is the same launches */
    const char *const *kernels;
    const int *shared_bytes; /* the most dynamic shared memory that a launch of each asks for */
};

extern const struct optc_rt_device optc_rt_cuda;

struct optc_rt_launch {
    int kernel;
    unsigned grid[3], block[3], shared_bytes;
};

/* Those that return int answer OPTC_OK or fail with the driver's text; `call` is the number that the profile counts. */
void optc_rt_cuda_start(struct optc_rt_instance *m, int call);
int optc_rt_cuda_stop(struct optc_rt_instance *m);
int optc_rt_cuda_launch(struct optc_rt_instance *m, const struct optc_rt_launch *launch, int count,
                        void *const *operands);
int optc_rt_cuda_move(struct optc_rt_instance *m, void *target, const void *source, size_t bytes);
int optc_rt_cuda_read(struct optc_rt_instance *m, void *here, const void *there, size_t bytes);

#define OPTC_RT_TRY(expression)                       \
    do {                                              \
        int status_ = (expression);                   \
        if (status_ != OPTC_OK) return status_;       \
    } while (0)

#define OPTC_RT_SIZES(x, y, z) {x, y, z}

/* OPTC_RT_LAUNCH(m, kernel, (grid), (block), dynamic shared memory, operands...): device addresses. */
#define OPTC_RT_LAUNCH(m, kernel, grid_, block_, shared, ...)                                         \
    OPTC_RT_TRY(optc_rt_cuda_launch(                                                                  \
        (m), &(const struct optc_rt_launch){kernel, OPTC_RT_SIZES grid_, OPTC_RT_SIZES block_, shared}, \
        (int)(sizeof((void *[]){__VA_ARGS__}) / sizeof(void *)), (void *[]){__VA_ARGS__}))

#endif
