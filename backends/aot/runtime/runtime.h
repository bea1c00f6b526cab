/* What the generated driver and the runtime know of each other; users never see it. */
#ifndef OPTC_RUNTIME_H
#define OPTC_RUNTIME_H

#include <pthread.h>
#include <string.h>

#include "optc.h"

#define OPTC_RT_ALIGNMENT 64

struct optc_rt_instance;
struct optc_rt_device;
struct optc_rt_gpu_code;

struct optc_rt_state {
    optc_port port;
    size_t offset;
    int64_t initial; /* byte offset in the weights, or -1 for zeros */
    int parameter;   /* calls read it and only the user writes it: a reset leaves it alone */
};

struct optc_rt_exit {
    const char *name;
    int segment; /* runs where the exit is taken, and nowhere else */
};

struct optc_rt_call {
    const char *label;
    const char *symbol;
    int segment;
    uint64_t flops;
    uint64_t bytes;
};

/* How weights come that stay in their file; sources are offsets behind the file's header. */
struct optc_rt_piece {
    uint64_t source;
    size_t at, bytes;
};
struct optc_rt_block_plan { /* what one call needs in the window */
    int first, count;       /* its pieces */
    size_t at, bytes;
};
struct optc_rt_visit { /* a step of the flow that runs a segment */
    int first, count;  /* its blocks */
    int next;          /* the next visit with blocks that is expected; -1: it is not known before */
};
struct optc_rt_rows { /* a table of which a call picks rows */
    uint64_t source;
    size_t at, rows, row_bytes, count, index_bytes;
};
struct optc_rt_stream_plan {
    size_t window_bytes, pinned_bytes, tables_bytes;
    int block_count, first_visit;
    const struct optc_rt_piece *pieces;
    const struct optc_rt_block_plan *blocks;
    const struct optc_rt_visit *visits;
    const struct optc_rt_rows *rows;
};

struct optc_rt_narrow { /* a block of the weights that the file holds in half bytes */
    size_t at, bytes;   /* where it lies in memory, and how much of it */
};

/* The generated driver's constants. */
struct optc_rt_model {
    const char *name;
    int (*run)(struct optc_rt_instance *);
    size_t arena_bytes, state_bytes, weights_bytes;
    size_t stored_bytes; /* of weights in their file */
    uint64_t weights_digest;
    int input_count, output_count, state_count, feature_count, call_count, segment_count,
        exit_count, narrow_count;
    const optc_port *inputs, *outputs;
    const struct optc_rt_state *states;
    const char *const *features;
    const struct optc_rt_call *calls;
    const char *const *segments;
    const struct optc_rt_exit *exits;
    const struct optc_rt_narrow *narrow;      /* in order */
    const struct optc_rt_stream_plan *stream; /* null: all weights are mapped */
    const struct optc_rt_device *device;     /* null: the kernels run on this CPU */
    const struct optc_rt_gpu_code *gpu_code; /* what the device runs */
};

/* What differs where arena, state and weights lie in a memory that is not this one's. Instances are
   locked by the caller. */
enum optc_rt_way { OPTC_RT_IN, OPTC_RT_OUT, OPTC_RT_WITHIN }; /* as the device sees it */
struct optc_rt_device {
    int (*open)(struct optc_rt_instance *m); /* moves the weights, makes the rest */
    void (*close)(struct optc_rt_instance *m);
    int (*run)(struct optc_rt_instance *m, const void *const *inputs, void *const *outputs);
    /* A null source stands for zeros. */
    int (*copy)(struct optc_rt_instance *m, void *target, const void *source, size_t bytes,
                enum optc_rt_way way);
};

struct optc_rt_block { /* memory that was mapped; `bytes` is 0 for none */
    void *address;
    size_t bytes;
};

struct optc_rt_counter {
    uint64_t calls, total_ns, fastest_ns;
};

struct optc_rt_instance {
    const struct optc_rt_model *model;
    uint8_t *arena, *state;
    uint8_t *weights; /* never written; without const so that kernels' plain pointers take it */
    uint8_t *const *inputs, *const *outputs;
    int threads;
    int profiling;
    struct optc_rt_counter *counters; /* one for each call */
    uint64_t *segment_runs;
    pthread_mutex_t lock;
    struct optc_rt_block arena_block, state_block, weights_block;
    struct optc_rt_gpu *gpu; /* the device's own part */
    uint8_t *window, *tables; /* of streamed weights */
    struct optc_rt_block window_block, tables_block;
    struct optc_rt_stream *stream;
};

/* error.c: the sentence of this thread's last error. Returns `code`. */
int optc_rt_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *optc_rt_last_error(void);

/* memory.c: zeroed memory on 64-byte (large blocks: huge page) boundaries. */
int optc_rt_map(struct optc_rt_block *block, size_t bytes, const char *purpose);
int optc_rt_reserve(struct optc_rt_block *block, size_t bytes); /* memory only where it is touched */
void optc_rt_unmap(struct optc_rt_block *block);
void optc_rt_release_workspaces(void);

/* weights.c */
int optc_rt_open_weights(const struct optc_rt_model *model, const char *path, unsigned flags,
                         struct optc_rt_block *block, uint8_t **weights);
/* Opens and checks the file without mapping it; the caller closes it. */
int optc_rt_check_weights(const struct optc_rt_model *model, const char *path, unsigned flags, int *file);
/* narrow.c: in the place of optc_rt_open_weights where the file holds half bytes. */
int optc_rt_read_weights(const struct optc_rt_model *model, const char *path, unsigned flags,
                         struct optc_rt_block *block, uint8_t **weights);
int optc_rt_check_open_weights(const struct optc_rt_model *model, const char *path, int file);
uint64_t optc_rt_digest(const uint8_t *data, size_t bytes);

/* stream.c: between begin and the end of a run a caller enters each visit, waits for each block
   before its call and releases it after; rows are read before and dropped after their call. */
int optc_rt_open_stream(struct optc_rt_instance *m, const char *path, unsigned flags);
void optc_rt_close_stream(struct optc_rt_instance *m);
int optc_rt_stream_begin(struct optc_rt_instance *m);
int optc_rt_stream_end(struct optc_rt_instance *m); /* of a run that went well */
void optc_rt_stream_enter(struct optc_rt_instance *m, int visit);
int optc_rt_stream_wait(struct optc_rt_instance *m, int block);
void optc_rt_stream_release(struct optc_rt_instance *m);
int optc_rt_stream_rows(struct optc_rt_instance *m, int rows, const uint8_t *indices);
void optc_rt_stream_drop(struct optc_rt_instance *m, int rows);

/* features.c: refuses with a sentence that names every missing feature. */
int optc_rt_check_features(const char *model, const char *const *features, int count);

/* cores.c: physical cores in the affinity mask, no more than the control group's quota. */
int optc_rt_usable_cores(void);

/* pool.c: a run holds the pool's workers awake between enter and leave. */
void optc_rt_enter(int threads);
void optc_rt_leave(void);
void optc_rt_stop_workers(void);

/* instance.c: what the functions of every model's C interface do. */
int optc_rt_create(const struct optc_rt_model *model, const char *path, const optc_options *options,
                   struct optc_rt_instance **out);
void optc_rt_destroy(struct optc_rt_instance *m);
int optc_rt_run(struct optc_rt_instance *m, const void *const *inputs, void *const *outputs);
int optc_rt_bench(struct optc_rt_instance *m, const void *const *inputs, void *const *outputs,
                  int runs, uint64_t *nanoseconds);
int optc_rt_set_threads(struct optc_rt_instance *m, int threads);
int optc_rt_state_reset(struct optc_rt_instance *m);
int optc_rt_state_get(struct optc_rt_instance *m, int index, void *bytes);
int optc_rt_state_set(struct optc_rt_instance *m, int index, const void *bytes);
int optc_rt_set_parameter(struct optc_rt_instance *m, const char *name, float value);
int optc_rt_get_parameter(struct optc_rt_instance *m, const char *name, float *value);
int optc_rt_profile_start(struct optc_rt_instance *m);
int optc_rt_profile_stop(struct optc_rt_instance *m);
int optc_rt_profile_get(struct optc_rt_instance *m, optc_profile_entry *entries, int capacity);
uint64_t optc_rt_segment_runs(struct optc_rt_instance *m, int segment);

/* Used by the generated code, one for each kernel call. */
uint64_t optc_rt_now(void); /* nanoseconds, monotonic */
void optc_rt_count(struct optc_rt_instance *m, int call, uint64_t start);
int optc_rt_kernel_failed(struct optc_rt_instance *m, int call, int status);

#define OPTC_RT_CALL(m, index, kernel_call)                                  \
    do {                                                                     \
        uint64_t start_ = (m)->profiling ? optc_rt_now() : 0;                \
        int status_ = (kernel_call);                                         \
        if (status_ != 0) return optc_rt_kernel_failed((m), (index), status_); \
        if ((m)->profiling) optc_rt_count((m), (index), start_);             \
    } while (0)

#define OPTC_RT_COPY(m, index, target, source, bytes)             \
    do {                                                          \
        uint64_t start_ = (m)->profiling ? optc_rt_now() : 0;     \
        memmove((target), (source), (bytes));                     \
        if ((m)->profiling) optc_rt_count((m), (index), start_);  \
    } while (0)

#define OPTC_RT_DO(call)                                  \
    do {                                                  \
        int done_ = (call);                               \
        if (done_ != OPTC_OK) return done_;               \
    } while (0)

#endif
