/* A libcuda.so.1 for tests: NVIDIA's interface, checked against its header by the compiler, on top of
   kernels that were compiled for the CPU.

   OPTC_EMULATED_KERNELS  the library of the kernels, see ../cuda_emulator.py
   OPTC_EMULATED_GPU      the compute capability to pretend, "8.0"; "none": there is no GPU
   OPTC_EMULATED_MEMORY   bytes of device memory, without end by default
   OPTC_EMULATED_LOG      a file to which it appends what it was asked to do

   Everything is done when a stream is synchronised and not before, so that a caller who does not wait
   sees nothing. As on the device, the first failed launch makes all that follows fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cuda.h>

#define EXPORT __attribute__((visibility("default")))
enum { MOST_OPERANDS = 512, PLAIN_SHARED = 48 << 10, ALIGNMENT = 256, DEVICE = 0 };

struct CUfunc_st {
    char name[256];
    int operands;
    unsigned dynamic; /* the most shared memory that a launch may ask for */
    CUfunction next;
};
struct CUmod_st {
    const void *image;
    CUfunction functions;
};
struct operation {
    enum { LAUNCH, IN, OUT, WITHIN, FILL } kind;
    CUfunction function;
    unsigned grid[3], block[3], shared;
    void *operands[MOST_OPERANDS];
    unsigned char *to, *from;
    int value;
    size_t bytes;
    struct operation *next;
};
struct CUgraph_st {
    struct operation *first, **end;
    int count;
};
struct CUstream_st {
    struct operation *first, **end;
    CUgraph capture; /* what is recorded, nothing of which is done */
    int broken;      /* by a call that a capture does not bear */
};
struct CUctx_st {
    int retained, allocations, modules, streams, graphs;
};
struct held {
    CUcontext context;
    struct held *below;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct CUctx_st context;
static _Thread_local struct held *stack;
static CUresult sticky;
static char complaint[1024];
static int started;
static size_t used;

static struct {
    int (*operands)(const char *);
    int (*launch)(const char *, const unsigned *, const unsigned *, void **, size_t, int, char *, size_t);
    void *(*alloc)(size_t, size_t);
    int (*inside)(const void *, size_t);
    size_t (*bytes)(const void *);
    int (*release)(void *);
} emulated;

static void note(const char *format, ...)
{
    const char *path = getenv("OPTC_EMULATED_LOG");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (!file) return;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(file, format, arguments);
    va_end(arguments);
    fputc('\n', file);
    fclose(file);
}

static int capability(void)
{
    const char *text = getenv("OPTC_EMULATED_GPU");
    int major = 8, minor = 0;
    if (text && sscanf(text, "%d.%d", &major, &minor) != 2) return 0;
    return 10 * major + minor;
}

/* Entered by every function that needs a context. */
static CUresult enter(void)
{
    pthread_mutex_lock(&lock);
    CUresult error = !started ? CUDA_ERROR_NOT_INITIALIZED : !stack ? CUDA_ERROR_INVALID_CONTEXT : sticky;
    if (error != CUDA_SUCCESS) pthread_mutex_unlock(&lock);
    return error;
}

static CUresult leave(CUresult error)
{
    pthread_mutex_unlock(&lock);
    return error;
}

static CUresult misuse(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(complaint, sizeof complaint, format, arguments);
    va_end(arguments);
    note("misuse: %s", complaint);
    return sticky = CUDA_ERROR_ILLEGAL_ADDRESS;
}

/* --- the driver and its devices */
EXPORT CUresult CUDAAPI cuInit(unsigned flags)
{
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (!capability()) return CUDA_ERROR_NO_DEVICE;
    const char *path = getenv("OPTC_EMULATED_KERNELS");
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) {
        note("misuse: no kernels: %s", path ? dlerror() : "OPTC_EMULATED_KERNELS is not set");
        return CUDA_ERROR_SYSTEM_DRIVER_MISMATCH;
    }
#define FIND(name) *(void **)&emulated.name = dlsym(library, "emulated_" #name)
    FIND(operands), FIND(launch), FIND(alloc), FIND(inside), FIND(bytes);
    *(void **)&emulated.release = dlsym(library, "emulated_free");
    started = 1;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuDriverGetVersion(int *version)
{
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuGetErrorString(CUresult error, const char **text)
{
    switch (error) {
    case CUDA_ERROR_OUT_OF_MEMORY: *text = "out of memory"; break;
    case CUDA_ERROR_NO_DEVICE: *text = "no CUDA-capable device is detected"; break;
    case CUDA_ERROR_INVALID_CONTEXT: *text = "invalid device context"; break;
    case CUDA_ERROR_NO_BINARY_FOR_GPU: *text = "no kernel image is available for execution on the device"; break;
    case CUDA_ERROR_INVALID_PTX: *text = "a PTX JIT compilation failed"; break;
    case CUDA_ERROR_NOT_FOUND: *text = "named symbol not found"; break;
    case CUDA_ERROR_ILLEGAL_ADDRESS: *text = complaint; break;
    case CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: *text = "system has unsupported display driver"; break;
    case CUDA_ERROR_INVALID_VALUE: *text = "invalid argument"; break;
    default: *text = NULL; return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuDeviceGetCount(int *count)
{
    *count = 1;
    return started ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

EXPORT CUresult CUDAAPI cuDeviceGet(CUdevice *device, int ordinal)
{
    *device = DEVICE;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

EXPORT CUresult CUDAAPI cuDeviceGetName(char *name, int length, CUdevice device)
{
    snprintf(name, (size_t)length, "Emulated GPU");
    return device == DEVICE ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

EXPORT CUresult CUDAAPI cuDeviceGetAttribute(int *value, CUdevice_attribute what, CUdevice device)
{
    if (device != DEVICE) return CUDA_ERROR_INVALID_DEVICE;
    if (what == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) *value = capability() / 10;
    else if (what == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) *value = capability() % 10;
    else return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

/* --- contexts */
EXPORT CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice device)
{
    if (device != DEVICE || !started) return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&lock);
    ++context.retained;
    *out = &context;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult CUDAAPI cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    if (device != DEVICE) return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&lock);
    if (--context.retained == 0) {
        note("released: %d allocations, %d modules, %d streams, %d graphs left", context.allocations,
             context.modules, context.streams, context.graphs);
    }
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult CUDAAPI cuCtxPushCurrent_v2(CUcontext pushed)
{
    if (pushed != &context || context.retained < 1) return CUDA_ERROR_INVALID_CONTEXT;
    struct held *held = malloc(sizeof *held);
    *held = (struct held){pushed, stack};
    stack = held;
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuCtxPopCurrent_v2(CUcontext *popped)
{
    struct held *held = stack;
    if (!held) return CUDA_ERROR_INVALID_CONTEXT;
    *popped = held->context;
    stack = held->below;
    free(held);
    return CUDA_SUCCESS;
}

/* --- modules: the images are real ones; only the kernels come from elsewhere */
static CUresult check_image(const void *image)
{
    int minor = 0;
    if (memcmp(image, ELFMAG, SELFMAG) == 0) {
        unsigned architecture = ((const Elf64_Ehdr *)image)->e_flags >> 8 & 0xff;
        note("module: cubin of sm_%u", architecture);
        int fits = (int)architecture / 10 == capability() / 10 && (int)architecture <= capability();
        return fits ? CUDA_SUCCESS : CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    const char *target = strstr(image, ".target sm_");
    if (!target || sscanf(target, ".target sm_%d", &minor) != 1) return CUDA_ERROR_INVALID_PTX;
    note("module: PTX of sm_%d", minor);
    return minor <= capability() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_PTX;
}

EXPORT CUresult CUDAAPI cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count,
                                           CUjit_option *options, void **values)
{
    CUresult error = enter();
    if (error != CUDA_SUCCESS) return error;
    for (unsigned i = 0; i < count; ++i)
        if (options[i] != CU_JIT_ERROR_LOG_BUFFER && options[i] != CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
            return leave(CUDA_ERROR_INVALID_VALUE);
    (void)values;
    error = check_image(image);
    if (error != CUDA_SUCCESS) return leave(error);
    *module = calloc(1, sizeof **module);
    (*module)->image = image;
    ++context.modules;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult CUDAAPI cuModuleUnload(CUmodule module)
{
    pthread_mutex_lock(&lock);
    while (module->functions) {
        CUfunction function = module->functions;
        module->functions = function->next;
        free(function);
    }
    free(module);
    --context.modules;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult CUDAAPI cuModuleGetFunction(CUfunction *out, CUmodule module, const char *name)
{
    CUresult error = enter();
    if (error != CUDA_SUCCESS) return error;
    int operands = emulated.operands(name);
    if (operands < 0) return leave(CUDA_ERROR_NOT_FOUND);
    *out = calloc(1, sizeof **out);
    snprintf((*out)->name, sizeof (*out)->name, "%s", name);
    (*out)->operands = operands;
    (*out)->dynamic = PLAIN_SHARED;
    (*out)->next = module->functions;
    module->functions = *out;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult CUDAAPI cuFuncSetAttribute(CUfunction function, CUfunction_attribute what, int value)
{
    if (what != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_INVALID_VALUE;
    int most = capability() < 80 ? 64 << 10 : capability() < 90 ? 99 << 10 : 227 << 10;
    if (capability() == 80) most = 163 << 10;
    if (value > most) return CUDA_ERROR_INVALID_VALUE;
    function->dynamic = (unsigned)value;
    return CUDA_SUCCESS;
}

/* --- memory */
EXPORT CUresult CUDAAPI cuMemAlloc_v2(CUdeviceptr *out, size_t bytes)
{
    CUresult error = enter();
    const char *limit = getenv("OPTC_EMULATED_MEMORY");
    if (error != CUDA_SUCCESS) return error;
    if (bytes == 0) return leave(CUDA_ERROR_INVALID_VALUE);
    if (limit && used + bytes > strtoull(limit, NULL, 10)) return leave(CUDA_ERROR_OUT_OF_MEMORY);
    void *memory = emulated.alloc(bytes, ALIGNMENT);
    if (!memory) return leave(CUDA_ERROR_OUT_OF_MEMORY);
    used += bytes;
    ++context.allocations;
    note("alloc: %zu bytes", bytes);
    *out = (CUdeviceptr)(uintptr_t)memory;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult CUDAAPI cuMemFree_v2(CUdeviceptr memory)
{
    pthread_mutex_lock(&lock);
    void *address = (void *)(uintptr_t)memory;
    size_t bytes = emulated.bytes(address);
    if (!emulated.release(address)) return leave(CUDA_ERROR_INVALID_VALUE);
    used -= bytes;
    --context.allocations;
    return leave(CUDA_SUCCESS);
}

#include "streams.h"
#ifndef WITHOUT_GRAPHS
#include "graphs.h"
#endif
