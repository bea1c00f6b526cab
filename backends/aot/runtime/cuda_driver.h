/* The driver's library, which is looked for when an instance is made: a part of cuda.c. */
#ifndef OPTC_CUDA_DRIVER_H
#define OPTC_CUDA_DRIVER_H

#define _GNU_SOURCE
#include <dlfcn.h>

#include "cuda.h"

/* The driver's interface, as far as it is used: types and numbers are those of cuda.h. */
typedef uint64_t address;
enum { SUCCESS = 0, OUT_OF_MEMORY = 2, NO_DEVICE = 100 };
enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 }; /* attributes of a device */
enum { MAX_DYNAMIC_SHARED = 8 };                       /* an attribute of a function */
enum { NON_BLOCKING = 1 };
enum { JIT_ERROR_LOG = 5, JIT_ERROR_LOG_BYTES = 6 };
enum { PLAIN_SHARED = 48 << 10 }; /* what a launch gets without asking for more */

#define DRIVER_FUNCTIONS(X)                                                                         \
    X(cuInit, (unsigned))                                                                           \
    X(cuDriverGetVersion, (int *))                                                                  \
    X(cuGetErrorString, (int, const char **))                                                       \
    X(cuDeviceGetCount, (int *))                                                                    \
    X(cuDeviceGet, (int *, int))                                                                    \
    X(cuDeviceGetName, (char *, int, int))                                                          \
    X(cuDeviceGetAttribute, (int *, int, int))                                                      \
    X(cuDevicePrimaryCtxRetain, (void **, int))                                                     \
    X(cuDevicePrimaryCtxRelease_v2, (int))                                                          \
    X(cuCtxPushCurrent_v2, (void *))                                                                \
    X(cuCtxPopCurrent_v2, (void **))                                                                \
    X(cuStreamCreate, (void **, unsigned))                                                          \
    X(cuStreamDestroy_v2, (void *))                                                                 \
    X(cuStreamSynchronize, (void *))                                                                \
    X(cuModuleLoadDataEx, (void **, const void *, unsigned, int *, void **))                        \
    X(cuModuleUnload, (void *))                                                                     \
    X(cuModuleGetFunction, (void **, void *, const char *))                                         \
    X(cuFuncSetAttribute, (void *, int, int))                                                       \
    X(cuMemAlloc_v2, (address *, size_t))                                                           \
    X(cuMemFree_v2, (address))                                                                      \
    X(cuMemcpyHtoDAsync_v2, (address, const void *, size_t, void *))                                \
    X(cuMemcpyDtoHAsync_v2, (void *, address, size_t, void *))                                      \
    X(cuMemcpyDtoDAsync_v2, (address, address, size_t, void *))                                     \
    X(cuMemsetD8Async, (address, unsigned char, size_t, void *))                                    \
    X(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, \
                       void *, void **, void **))

/* Drivers since CUDA 11.4; without them every launch is asked for by itself. */
#define GRAPH_FUNCTIONS(X)                                                  \
    X(cuStreamBeginCapture_v2, (void *, int))                               \
    X(cuStreamEndCapture, (void *, void **))                                \
    X(cuGraphInstantiateWithFlags, (void **, void *, unsigned long long))   \
    X(cuGraphLaunch, (void *, void *))                                      \
    X(cuGraphExecDestroy, (void *))                                         \
    X(cuGraphDestroy, (void *))
enum { RELAXED = 2 }; /* capture: other threads may go on as they like */

#define DECLARE(name, parameters) int(*name) parameters;
static struct {
    void *library;
    int graphs; /* all of GRAPH_FUNCTIONS are there */
    DRIVER_FUNCTIONS(DECLARE)
    GRAPH_FUNCTIONS(DECLARE)
} cu;
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;

static const char *text_of(int error)
{
    const char *text = NULL;
    if (cu.cuGetErrorString(error, &text) != SUCCESS || !text) text = "an error without a name";
    return text;
}

/* --- the library */
static int load_driver(const char *model)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return optc_rt_fail(OPTC_NO_GPU, "%s needs an NVIDIA driver: %s", model, dlerror());
    /* POSIX has a function's address pass through void *. */
#define FIND(name, parameters)                                                                              \
    *(void **)(void *)&cu.name = dlsym(library, #name);                                                     \
    if (!cu.name) {                                                                                         \
        dlclose(library);                                                                                   \
        return optc_rt_fail(OPTC_NO_GPU, "%s needs a newer NVIDIA driver: its libcuda.so.1 has no " #name, model); \
    }
    DRIVER_FUNCTIONS(FIND)
    cu.graphs = 1;
#define LOOK_FOR(name, parameters)                      \
    *(void **)(void *)&cu.name = dlsym(library, #name); \
    if (!cu.name) cu.graphs = 0;
    GRAPH_FUNCTIONS(LOOK_FOR)
    int error = cu.cuInit(0);
    if (error != SUCCESS) {
        int code = error == NO_DEVICE
                       ? optc_rt_fail(OPTC_NO_GPU, "%s needs an NVIDIA GPU: the driver finds none", model)
                       : optc_rt_fail(OPTC_NO_GPU, "%s needs an NVIDIA GPU: the driver does not start: %s (error %d)",
                                      model, text_of(error), error);
        dlclose(library);
        return code;
    }
    cu.library = library; /* for good: the driver leaves threads behind */
    return OPTC_OK;
}

static int open_driver(const char *model)
{
    pthread_mutex_lock(&opening);
    int status = cu.library ? OPTC_OK : load_driver(model);
    pthread_mutex_unlock(&opening);
    return status;
}

#endif
