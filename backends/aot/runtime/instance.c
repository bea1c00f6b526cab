/* What the C interface of every model does: the generated file only says on which constants. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "runtime.h"

static int allocate_here(struct optc_rt_instance *m)
{
    int status = optc_rt_map(&m->arena_block, m->model->arena_bytes, "arena");
    if (status == OPTC_OK) status = optc_rt_map(&m->state_block, m->model->state_bytes, "state");
    m->arena = m->arena_block.address;
    m->state = m->state_block.address;
    return status;
}

static int initialize(struct optc_rt_instance *m, int parameters);

static int allocate(struct optc_rt_instance *m, const char *path, unsigned flags)
{
    const struct optc_rt_model *model = m->model;
    int (*open)(const struct optc_rt_model *, const char *, unsigned, struct optc_rt_block *, uint8_t **) =
        model->narrow_count ? optc_rt_read_weights : optc_rt_open_weights;
    int status = model->stream ? optc_rt_open_stream(m, path, flags)
                               : open(model, path, flags, &m->weights_block, &m->weights);
    if (status == OPTC_OK) status = model->device ? model->device->open(m) : allocate_here(m);
    m->counters = calloc((size_t)model->call_count + 1, sizeof *m->counters);
    m->segment_runs = calloc((size_t)model->segment_count + 1, sizeof *m->segment_runs);
    if (status == OPTC_OK && (!m->counters || !m->segment_runs))
        status = optc_rt_fail(OPTC_NO_MEMORY, "no memory for an instance of %s", model->name);
    return status;
}

int optc_rt_create(const struct optc_rt_model *model, const char *path, const optc_options *options,
                   struct optc_rt_instance **out)
{
    optc_options defaults = {0, 0};
    if (!out) return optc_rt_fail(OPTC_BAD_ARGUMENT, "no place for the instance: `out` is null");
    *out = NULL;
    if (!options) options = &defaults;
    if (options->threads < 0) return optc_rt_fail(OPTC_BAD_ARGUMENT, "%d threads", options->threads);
    int status = optc_rt_check_features(model->name, model->features, model->feature_count);
    if (status != OPTC_OK) return status;
    struct optc_rt_instance *m = calloc(1, sizeof *m);
    if (!m) return optc_rt_fail(OPTC_NO_MEMORY, "no memory for an instance of %s", model->name);
    m->model = model;
    m->threads = options->threads ? options->threads : optc_rt_usable_cores();
    pthread_mutex_init(&m->lock, NULL);
    status = allocate(m, path, options->flags);
    if (status == OPTC_OK) status = initialize(m, 1);
    if (status != OPTC_OK) {
        optc_rt_destroy(m);
        return status;
    }
    *out = m;
    return OPTC_OK;
}

void optc_rt_destroy(struct optc_rt_instance *m)
{
    if (!m) return;
    if (m->model->device) m->model->device->close(m);
    optc_rt_close_stream(m);
    pthread_mutex_destroy(&m->lock);
    optc_rt_unmap(&m->arena_block);
    optc_rt_unmap(&m->state_block);
    optc_rt_unmap(&m->weights_block);
    optc_rt_unmap(&m->window_block);
    optc_rt_unmap(&m->tables_block);
    free(m->counters);
    free(m->segment_runs);
    free(m);
}

static int null_instance(void)
{
    return optc_rt_fail(OPTC_BAD_ARGUMENT, "the instance is null");
}

static int check_buffers(const char *kind, const optc_port *ports, int count, const void *const *buffers)
{
    if (count > 0 && !buffers) return optc_rt_fail(OPTC_BAD_ARGUMENT, "the array of %ss is null", kind);
    for (int i = 0; i < count; ++i) {
        if (!buffers[i] && ports[i].bytes)
            return optc_rt_fail(OPTC_BAD_ARGUMENT, "%s %d (%s) is null", kind, i, ports[i].name);
        if ((uintptr_t)buffers[i] % ports[i].alignment)
            return optc_rt_fail(OPTC_BAD_ARGUMENT, "%s %d (%s) is not aligned to its %zu-byte elements", kind,
                                i, ports[i].name, ports[i].alignment);
    }
    return OPTC_OK;
}

static int run_here(struct optc_rt_instance *m, const void *const *inputs, void *const *outputs)
{
    m->inputs = (uint8_t *const *)(uintptr_t)inputs; /* kernels take plain pointers and only read these */
    m->outputs = (uint8_t *const *)outputs;
    if (m->model->stream) OPTC_RT_DO(optc_rt_stream_begin(m));
    optc_rt_enter(m->threads);
    int status = m->model->run(m);
    optc_rt_leave();
    if (status == OPTC_OK && m->model->stream) status = optc_rt_stream_end(m);
    return status;
}

int optc_rt_run(struct optc_rt_instance *m, const void *const *inputs, void *const *outputs)
{
    if (!m) return null_instance();
    int status = check_buffers("input", m->model->inputs, m->model->input_count, inputs);
    if (status == OPTC_OK)
        status = check_buffers("output", m->model->outputs, m->model->output_count,
                               (const void *const *)outputs);
    if (status != OPTC_OK) return status;
    pthread_mutex_lock(&m->lock);
    status = m->model->device ? m->model->device->run(m, inputs, outputs) : run_here(m, inputs, outputs);
    pthread_mutex_unlock(&m->lock);
    return status;
}

int optc_rt_bench(struct optc_rt_instance *m, const void *const *inputs, void *const *outputs, int runs,
                  uint64_t *nanoseconds)
{
    if (!m) return null_instance();
    if (runs < 0) return optc_rt_fail(OPTC_BAD_ARGUMENT, "%d runs", runs);
    if (runs > 0 && !nanoseconds) return optc_rt_fail(OPTC_BAD_ARGUMENT, "no place for the times");
    for (int i = 0; i < runs; ++i) {
        uint64_t start = optc_rt_now();
        int status = optc_rt_run(m, inputs, outputs);
        nanoseconds[i] = optc_rt_now() - start;
        if (status != OPTC_OK) return status;
    }
    return OPTC_OK;
}

int optc_rt_set_threads(struct optc_rt_instance *m, int threads)
{
    if (!m) return null_instance();
    if (threads < 0) return optc_rt_fail(OPTC_BAD_ARGUMENT, "%d threads", threads);
    pthread_mutex_lock(&m->lock);
    m->threads = threads ? threads : optc_rt_usable_cores();
    pthread_mutex_unlock(&m->lock);
    return OPTC_OK;
}

static int copy(struct optc_rt_instance *m, void *target, const void *source, size_t bytes,
                enum optc_rt_way way)
{
    if (m->model->device) return m->model->device->copy(m, target, source, bytes, way);
    if (source) memcpy(target, source, bytes);
    else memset(target, 0, bytes);
    return OPTC_OK;
}

static int initialize(struct optc_rt_instance *m, int parameters)
{
    int status = OPTC_OK;
    pthread_mutex_lock(&m->lock);
    for (int i = 0; status == OPTC_OK && i < m->model->state_count; ++i) {
        const struct optc_rt_state *state = &m->model->states[i];
        const uint8_t *initial = state->initial < 0 ? NULL : m->weights + state->initial;
        if (state->parameter && !parameters) continue;
        status = copy(m, m->state + state->offset, initial, state->port.bytes, OPTC_RT_WITHIN);
    }
    pthread_mutex_unlock(&m->lock);
    return status;
}

int optc_rt_state_reset(struct optc_rt_instance *m)
{
    return m ? initialize(m, 0) : null_instance();
}

static const struct optc_rt_state *find_state(struct optc_rt_instance *m, int index, const void *bytes)
{
    if (!m) null_instance();
    else if (index < 0 || index >= m->model->state_count)
        optc_rt_fail(OPTC_BAD_ARGUMENT, "state %d of %d", index, m->model->state_count);
    else if (!bytes) optc_rt_fail(OPTC_BAD_ARGUMENT, "the bytes of state %d are null", index);
    else return &m->model->states[index];
    return NULL;
}

int optc_rt_state_get(struct optc_rt_instance *m, int index, void *bytes)
{
    const struct optc_rt_state *state = find_state(m, index, bytes);
    if (!state) return OPTC_BAD_ARGUMENT;
    pthread_mutex_lock(&m->lock);
    int status = copy(m, bytes, m->state + state->offset, state->port.bytes, OPTC_RT_OUT);
    pthread_mutex_unlock(&m->lock);
    return status;
}

int optc_rt_state_set(struct optc_rt_instance *m, int index, const void *bytes)
{
    const struct optc_rt_state *state = find_state(m, index, bytes);
    if (!state) return OPTC_BAD_ARGUMENT;
    pthread_mutex_lock(&m->lock);
    int status = copy(m, m->state + state->offset, bytes, state->port.bytes, OPTC_RT_IN);
    pthread_mutex_unlock(&m->lock);
    return status;
}

static int find_parameter(struct optc_rt_instance *m, const char *name)
{
    if (!m) return null_instance(), -1;
    for (int i = 0; name && i < m->model->state_count; ++i) {
        const struct optc_rt_state *state = &m->model->states[i];
        if (state->parameter && state->port.rank == 0 && !strcmp(state->port.dtype, "f32") &&
            !strcmp(state->port.name, name))
            return i;
    }
    optc_rt_fail(OPTC_BAD_ARGUMENT, "%s has no parameter '%s'", m->model->name, name ? name : "");
    return -1;
}

int optc_rt_set_parameter(struct optc_rt_instance *m, const char *name, float value)
{
    int index = find_parameter(m, name);
    if (index < 0) return OPTC_BAD_ARGUMENT;
    if (value != value)
        return optc_rt_fail(OPTC_BAD_ARGUMENT, "parameter '%s' cannot be not-a-number", name);
    return optc_rt_state_set(m, index, &value);
}

int optc_rt_get_parameter(struct optc_rt_instance *m, const char *name, float *value)
{
    int index = find_parameter(m, name);
    return index < 0 ? OPTC_BAD_ARGUMENT : optc_rt_state_get(m, index, value);
}

int optc_rt_profile_start(struct optc_rt_instance *m)
{
    if (!m) return null_instance();
    pthread_mutex_lock(&m->lock);
    memset(m->counters, 0, (size_t)m->model->call_count * sizeof *m->counters);
    memset(m->segment_runs, 0, (size_t)m->model->segment_count * sizeof *m->segment_runs);
    m->profiling = 1;
    pthread_mutex_unlock(&m->lock);
    return OPTC_OK;
}

int optc_rt_profile_stop(struct optc_rt_instance *m)
{
    if (!m) return null_instance();
    pthread_mutex_lock(&m->lock);
    m->profiling = 0;
    pthread_mutex_unlock(&m->lock);
    return OPTC_OK;
}

int optc_rt_profile_get(struct optc_rt_instance *m, optc_profile_entry *entries, int capacity)
{
    if (!m) return null_instance(), 0;
    const struct optc_rt_model *model = m->model;
    pthread_mutex_lock(&m->lock);
    for (int i = 0; entries && i < model->call_count && i < capacity; ++i) {
        const struct optc_rt_call *call = &model->calls[i];
        const struct optc_rt_counter *counter = &m->counters[i];
        entries[i] = (optc_profile_entry){
            call->label, call->symbol,   model->segments[call->segment], call->flops,
            call->bytes, counter->calls, counter->total_ns,              counter->fastest_ns};
    }
    pthread_mutex_unlock(&m->lock);
    return model->call_count;
}

uint64_t optc_rt_segment_runs(struct optc_rt_instance *m, int segment)
{
    if (!m || segment < 0 || segment >= m->model->segment_count) return 0;
    pthread_mutex_lock(&m->lock);
    uint64_t runs = m->segment_runs[segment];
    pthread_mutex_unlock(&m->lock);
    return runs;
}

void optc_rt_count(struct optc_rt_instance *m, int call, uint64_t start)
{
    struct optc_rt_counter *counter = &m->counters[call];
    uint64_t spent = optc_rt_now() - start;
    if (counter->calls == 0 || spent < counter->fastest_ns) counter->fastest_ns = spent;
    ++counter->calls;
    counter->total_ns += spent;
}

int optc_rt_kernel_failed(struct optc_rt_instance *m, int call, int status)
{
    return optc_rt_fail(OPTC_KERNEL_FAILED, "kernel %s (%s) failed with status %d",
                        m->model->calls[call].symbol, m->model->calls[call].label, status);
}

/* Where a program unloads the library, or ends, no thread may be left in its code. */
__attribute__((destructor)) static void unload(void)
{
    optc_rt_stop_workers();
    optc_rt_release_workspaces();
}
