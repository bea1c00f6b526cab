/* The types that the headers of all models share. */
#ifndef OPTC_H
#define OPTC_H

#include <stddef.h>
#include <stdint.h>

/* What a function answers; the sentence that goes with it is in <model>_last_error(). */
enum {
    OPTC_OK = 0,
    OPTC_BAD_ARGUMENT = 1, /* a null or misaligned pointer, an index out of range */
    OPTC_NO_FILE = 2,      /* the weights cannot be opened or mapped */
    OPTC_CORRUPT = 3,      /* the weights are damaged or belong to another model */
    OPTC_WRONG_CPU = 4,    /* this CPU lacks what the kernels were built for */
    OPTC_NO_MEMORY = 5,
    OPTC_KERNEL_FAILED = 6,
    OPTC_NO_GPU = 7,    /* no driver, no GPU, or one that is too old for the kernels */
    OPTC_GPU_FAILED = 8 /* the GPU's driver reports an error */
};

/* An input, an output or a state: dense, row major. */
typedef struct optc_port {
    const char *name;
    const char *dtype; /* f64 f32 f16 bf16 i64 i32 i16 i8 u8 bool */
    int rank;
    const int64_t *shape;
    size_t bytes;
    size_t alignment; /* what the buffer's address must be a multiple of: one element */
} optc_port;

/* How to create an instance; all zero is the default. */
typedef struct optc_options {
    int threads;        /* 0: one for each physical core this process may use */
    unsigned flags;     /* OPTC_SKIP_DIGEST | OPTC_COPY_WEIGHTS */
} optc_options;

enum {
    OPTC_SKIP_DIGEST = 1, /* trust the weights file; pages are then read when first touched */
    OPTC_COPY_WEIGHTS = 2 /* read the weights into memory (huge pages) instead of mapping them */
};

/* One kernel call of the program and what it has cost since profiling began. */
typedef struct optc_profile_entry {
    const char *label;
    const char *symbol;
    const char *segment;
    uint64_t flops; /* of one call */
    uint64_t bytes; /* of one call: read and written at least */
    uint64_t calls;
    uint64_t total_ns;
    uint64_t fastest_ns;
} optc_profile_entry;

#endif
