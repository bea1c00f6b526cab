/* Runs a model on an NVIDIA GPU through the driver's library, which is looked for when an instance is
   made: nothing of CUDA is needed to build or to link this. */
#include "cuda_driver.h"

#include <stdio.h>
#include <stdlib.h>

struct optc_rt_gpu {
    int device, call;
    uint64_t began;
    void *context, *stream, *module;
    void **functions;
    address memory[4]; /* arena, state, weights, and inputs and outputs */
    uint8_t **ports;   /* where inputs, then outputs, lie on the device */
    enum { FIRST_RUN, UNCAPTURED, CAPTURED, PLAIN } way;
    void *graph;    /* the launches of a run, if CAPTURED */
    uint64_t *runs; /* how often such a run goes through each segment */
};

enum { ARENA, STATE, WEIGHTS, PORTS };
enum { PORT_ALIGNMENT = 256, MAX_OPERANDS = 256 };

static int failed(struct optc_rt_instance *m, int error, const char *what)
{
    int code = error == OUT_OF_MEMORY ? OPTC_NO_MEMORY : OPTC_GPU_FAILED;
    return optc_rt_fail(code, "%s: %s: %s (error %d of the GPU's driver)", m->model->name, what, text_of(error),
                        error);
}

/* --- the module */
static int load_module(struct optc_rt_instance *m, const void *image)
{
    char log[256] = "";
    int options[] = {JIT_ERROR_LOG, JIT_ERROR_LOG_BYTES};
    void *values[] = {log, (void *)(uintptr_t)sizeof log};
    int error = cu.cuModuleLoadDataEx(&m->gpu->module, image, 2, options, values);
    if (error == SUCCESS) return OPTC_OK;
    int version = 0;
    cu.cuDriverGetVersion(&version);
    return optc_rt_fail(OPTC_GPU_FAILED, "%s: the driver, for CUDA %d.%d, refuses the kernels: %s (error %d)%s%s",
                        m->model->name, version / 1000, version % 1000 / 10, text_of(error), error, log[0] ? ": " : "",
                        log);
}

/* Machine code serves the GPUs of its own major number, PTX those after it. */
static int choose_image(struct optc_rt_instance *m, const void **image)
{
    const struct optc_rt_gpu_code *code = m->model->gpu_code;
    int count = 0, major = 0, minor = 0;
    char name[100] = "a GPU";
    int error = cu.cuDeviceGetCount(&count);
    if (error == SUCCESS && count == 0)
        return optc_rt_fail(OPTC_NO_GPU, "%s needs an NVIDIA GPU: the driver finds none", m->model->name);
    if (error == SUCCESS) error = cu.cuDeviceGet(&m->gpu->device, 0);
    if (error == SUCCESS) error = cu.cuDeviceGetName(name, (int)sizeof name, m->gpu->device);
    if (error == SUCCESS) error = cu.cuDeviceGetAttribute(&major, CAPABILITY_MAJOR, m->gpu->device);
    if (error == SUCCESS) error = cu.cuDeviceGetAttribute(&minor, CAPABILITY_MINOR, m->gpu->device);
    if (error != SUCCESS) return failed(m, error, "the GPU cannot be asked");
    if (major < code->major || (major == code->major && minor < code->minor))
        return optc_rt_fail(OPTC_NO_GPU, "%s needs a GPU of compute capability %d.%d or newer, %s has %d.%d",
                            m->model->name, code->major, code->minor, name, major, minor);
    *image = major == code->major ? code->cubin : code->ptx;
    return OPTC_OK;
}

static int find_kernels(struct optc_rt_instance *m)
{
    const struct optc_rt_gpu_code *code = m->model->gpu_code;
    m->gpu->functions = calloc((size_t)code->kernel_count + 1, sizeof *m->gpu->functions);
    if (!m->gpu->functions) return optc_rt_fail(OPTC_NO_MEMORY, "no memory for an instance of %s", m->model->name);
    for (int i = 0; i < code->kernel_count; ++i) {
        int error = cu.cuModuleGetFunction(&m->gpu->functions[i], m->gpu->module, code->kernels[i]);
        if (error == SUCCESS && code->shared_bytes[i] > PLAIN_SHARED)
            error = cu.cuFuncSetAttribute(m->gpu->functions[i], MAX_DYNAMIC_SHARED, code->shared_bytes[i]);
        if (error != SUCCESS) return failed(m, error, code->kernels[i]);
    }
    return OPTC_OK;
}

/* --- memory */
static int reserve(struct optc_rt_instance *m, int which, size_t bytes, const char *what)
{
    if (bytes == 0) return OPTC_OK;
    int error = cu.cuMemAlloc_v2(&m->gpu->memory[which], bytes);
    if (error == SUCCESS) return OPTC_OK;
    return optc_rt_fail(error == OUT_OF_MEMORY ? OPTC_NO_MEMORY : OPTC_GPU_FAILED,
                        "no GPU memory for %zu bytes of %s: %s (error %d)", bytes, what, text_of(error), error);
}

static size_t place_ports(struct optc_rt_instance *m, const optc_port *ports, int count, uint8_t **places, size_t end)
{
    for (int i = 0; i < count; ++i) {
        places[i] = (uint8_t *)(uintptr_t)m->gpu->memory[PORTS] + end;
        end += (ports[i].bytes + PORT_ALIGNMENT - 1) / PORT_ALIGNMENT * PORT_ALIGNMENT;
    }
    return end;
}

static size_t place_all_ports(struct optc_rt_instance *m)
{
    const struct optc_rt_model *model = m->model;
    size_t end = place_ports(m, model->inputs, model->input_count, m->gpu->ports, 0);
    return place_ports(m, model->outputs, model->output_count, m->gpu->ports + model->input_count, end);
}

static int reserve_all(struct optc_rt_instance *m)
{
    const struct optc_rt_model *model = m->model;
    struct optc_rt_gpu *gpu = m->gpu;
    gpu->ports = calloc((size_t)(model->input_count + model->output_count) + 1, sizeof *gpu->ports);
    if (!gpu->ports) return optc_rt_fail(OPTC_NO_MEMORY, "no memory for an instance of %s", model->name);
    int status = reserve(m, ARENA, model->arena_bytes, "arena");
    if (status == OPTC_OK) status = reserve(m, STATE, model->state_bytes, "state");
    if (status == OPTC_OK) status = reserve(m, WEIGHTS, model->weights_bytes, "weights");
    if (status == OPTC_OK) status = reserve(m, PORTS, place_all_ports(m), "inputs and outputs");
    if (status != OPTC_OK) return status;
    place_all_ports(m);
    m->arena = (uint8_t *)(uintptr_t)gpu->memory[ARENA];
    m->state = (uint8_t *)(uintptr_t)gpu->memory[STATE];
    m->inputs = gpu->ports;
    m->outputs = gpu->ports + model->input_count;
    return OPTC_OK;
}

static int copy(struct optc_rt_instance *m, void *target, const void *source, size_t bytes, enum optc_rt_way way)
{
    address to = (uintptr_t)target, from = (uintptr_t)source;
    if (bytes == 0) return SUCCESS;
    if (!source) return cu.cuMemsetD8Async(to, 0, bytes, m->gpu->stream);
    switch (way) {
    case OPTC_RT_IN: return cu.cuMemcpyHtoDAsync_v2(to, source, bytes, m->gpu->stream);
    case OPTC_RT_OUT: return cu.cuMemcpyDtoHAsync_v2(target, from, bytes, m->gpu->stream);
    case OPTC_RT_WITHIN: break;
    }
    return cu.cuMemcpyDtoDAsync_v2(to, from, bytes, m->gpu->stream);
}

/* All that was asked of the GPU is done when this returns, also where something failed before. */
static int finish(struct optc_rt_instance *m, int error, const char *what)
{
    int last = cu.cuStreamSynchronize(m->gpu->stream);
    if (error == SUCCESS) error = last;
    return error == SUCCESS ? OPTC_OK : failed(m, error, what);
}

/* --- the hooks: each makes the context current on the thread that it happens to be on */
static int enter(struct optc_rt_instance *m)
{
    int error = cu.cuCtxPushCurrent_v2(m->gpu->context);
    return error == SUCCESS ? OPTC_OK : failed(m, error, "the GPU cannot be used");
}

static void leave(void)
{
    void *context;
    cu.cuCtxPopCurrent_v2(&context);
}

static int upload(struct optc_rt_instance *m)
{
    uint8_t *there = (uint8_t *)(uintptr_t)m->gpu->memory[WEIGHTS];
    int error = copy(m, there, m->weights, m->model->weights_bytes, OPTC_RT_IN);
    int status = finish(m, error, "the weights cannot be moved to the GPU");
    optc_rt_unmap(&m->weights_block);
    m->weights = there;
    return status;
}

static int fill(struct optc_rt_instance *m, const void *image)
{
    int error = cu.cuStreamCreate(&m->gpu->stream, NON_BLOCKING);
    if (error != SUCCESS) return failed(m, error, "no stream on the GPU");
    int status = load_module(m, image);
    if (status == OPTC_OK) status = find_kernels(m);
    if (status == OPTC_OK) status = reserve_all(m);
    if (status == OPTC_OK) status = upload(m);
    return status;
}

static int cuda_open(struct optc_rt_instance *m)
{
    const void *image = NULL;
    int status = open_driver(m->model->name);
    if (status != OPTC_OK) return status;
    m->gpu = calloc(1, sizeof *m->gpu);
    if (!m->gpu) return optc_rt_fail(OPTC_NO_MEMORY, "no memory for an instance of %s", m->model->name);
    status = choose_image(m, &image);
    if (status != OPTC_OK) return status;
    int error = cu.cuDevicePrimaryCtxRetain(&m->gpu->context, m->gpu->device);
    if (error != SUCCESS) return failed(m, error, "no context on the GPU");
    status = enter(m);
    if (status != OPTC_OK) return status;
    status = fill(m, image);
    leave();
    return status;
}

static void cuda_close(struct optc_rt_instance *m)
{
    struct optc_rt_gpu *gpu = m->gpu;
    if (!gpu) return;
    if (gpu->context && cu.cuCtxPushCurrent_v2(gpu->context) == SUCCESS) {
        for (int i = 0; i <= PORTS; ++i)
            if (gpu->memory[i]) cu.cuMemFree_v2(gpu->memory[i]);
        if (gpu->graph) cu.cuGraphExecDestroy(gpu->graph);
        if (gpu->module) cu.cuModuleUnload(gpu->module);
        if (gpu->stream) cu.cuStreamDestroy_v2(gpu->stream);
        leave();
    }
    if (gpu->context) cu.cuDevicePrimaryCtxRelease_v2(gpu->device);
    free(gpu->functions);
    free(gpu->ports);
    free(gpu->runs);
    free(gpu);
}

/* --- a run as one graph: all addresses are this instance's own, so that it never changes */
static void count_runs(struct optc_rt_instance *m, const uint64_t *more)
{
    for (int i = 0; i < m->model->segment_count; ++i) m->segment_runs[i] += more[i];
}

/* Runs the segments while nothing happens: what they counted is kept for those runs that do. */
static int record(struct optc_rt_instance *m, void **graph)
{
    uint64_t *runs = m->gpu->runs;
    int segments = m->model->segment_count;
    for (int i = 0; i < segments; ++i) runs[i] = m->segment_runs[i];
    int status = m->model->run(m);
    for (int i = 0; i < segments; ++i) {
        uint64_t before = runs[i];
        runs[i] = m->segment_runs[i] - before;
        m->segment_runs[i] = before;
    }
    int error = cu.cuStreamEndCapture(m->gpu->stream, graph);
    return status == OPTC_OK && error == SUCCESS;
}

static void capture(struct optc_rt_instance *m)
{
    struct optc_rt_gpu *gpu = m->gpu;
    void *graph = NULL;
    gpu->way = PLAIN; /* what fails once is not tried again: the run itself says what is wrong */
    gpu->runs = calloc((size_t)m->model->segment_count + 1, sizeof *gpu->runs);
    if (!gpu->runs || cu.cuStreamBeginCapture_v2(gpu->stream, RELAXED) != SUCCESS) return;
    if (record(m, &graph)) {
        if (cu.cuGraphInstantiateWithFlags(&gpu->graph, graph, 0) == SUCCESS) gpu->way = CAPTURED;
        else gpu->graph = NULL;
    }
    if (graph) cu.cuGraphDestroy(graph);
}

/* The first run asks for every launch, so that the driver has loaded all kernels before a capture. */
static int run_first(struct optc_rt_instance *m)
{
    int status = m->model->run(m);
    if (status == OPTC_OK && cu.graphs && m->model->gpu_code->straight) m->gpu->way = UNCAPTURED;
    return status;
}

static int launch_all(struct optc_rt_instance *m)
{
    struct optc_rt_gpu *gpu = m->gpu;
    if (m->profiling) return m->model->run(m); /* times every call */
    if (gpu->way == FIRST_RUN) return run_first(m);
    if (gpu->way == UNCAPTURED) capture(m);
    if (gpu->way != CAPTURED) return m->model->run(m);
    int error = cu.cuGraphLaunch(gpu->graph, gpu->stream);
    if (error != SUCCESS) return failed(m, error, "its graph cannot be launched");
    count_runs(m, gpu->runs);
    return OPTC_OK;
}

static int cuda_run(struct optc_rt_instance *m, const void *const *inputs, void *const *outputs)
{
    const struct optc_rt_model *model = m->model;
    int status = enter(m), error = SUCCESS;
    if (status != OPTC_OK) return status;
    for (int i = 0; error == SUCCESS && i < model->input_count; ++i)
        error = copy(m, m->inputs[i], inputs[i], model->inputs[i].bytes, OPTC_RT_IN);
    if (error == SUCCESS) status = launch_all(m);
    for (int i = 0; error == SUCCESS && status == OPTC_OK && i < model->output_count; ++i)
        error = copy(m, outputs[i], m->outputs[i], model->outputs[i].bytes, OPTC_RT_OUT);
    int last = finish(m, error, "a run failed on the GPU");
    leave();
    return status == OPTC_OK ? last : status;
}

static int cuda_copy(struct optc_rt_instance *m, void *target, const void *source, size_t bytes,
                     enum optc_rt_way way)
{
    int status = enter(m);
    if (status != OPTC_OK) return status;
    status = finish(m, copy(m, target, source, bytes, way), "a copy failed on the GPU");
    leave();
    return status;
}

const struct optc_rt_device optc_rt_cuda = {cuda_open, cuda_close, cuda_run, cuda_copy};

/* --- what the generated segments call, with the context current */
void optc_rt_cuda_start(struct optc_rt_instance *m, int call)
{
    m->gpu->call = call;
    if (m->profiling) m->gpu->began = optc_rt_now();
}

int optc_rt_cuda_stop(struct optc_rt_instance *m)
{
    if (!m->profiling) return OPTC_OK; /* the GPU works on while the next launch is prepared */
    int error = cu.cuStreamSynchronize(m->gpu->stream);
    if (error != SUCCESS) return failed(m, error, m->model->calls[m->gpu->call].label);
    optc_rt_count(m, m->gpu->call, m->gpu->began);
    return OPTC_OK;
}

int optc_rt_cuda_launch(struct optc_rt_instance *m, const struct optc_rt_launch *launch, int count,
                        void *const *operands)
{
    void *parameters[MAX_OPERANDS];
    if (count > MAX_OPERANDS) return optc_rt_fail(OPTC_BAD_ARGUMENT, "a kernel with %d operands", count);
    for (int i = 0; i < count; ++i) parameters[i] = (void *)(uintptr_t)&operands[i];
    int error = cu.cuLaunchKernel(m->gpu->functions[launch->kernel], launch->grid[0], launch->grid[1],
                                  launch->grid[2], launch->block[0], launch->block[1], launch->block[2],
                                  launch->shared_bytes, m->gpu->stream, parameters, NULL);
    return error == SUCCESS ? OPTC_OK : failed(m, error, m->model->gpu_code->kernels[launch->kernel]);
}

int optc_rt_cuda_move(struct optc_rt_instance *m, void *target, const void *source, size_t bytes)
{
    int error = copy(m, target, source, bytes, OPTC_RT_WITHIN);
    return error == SUCCESS ? OPTC_OK : failed(m, error, m->model->calls[m->gpu->call].label);
}

int optc_rt_cuda_read(struct optc_rt_instance *m, void *here, const void *there, size_t bytes)
{
    return finish(m, copy(m, here, there, bytes, OPTC_RT_OUT), "a decision cannot be read from the GPU");
}
