/* The streams of the stand-in for the driver, a part of driver.c: work is queued, and done when the
   stream is synchronised. */
#pragma once

EXPORT CUresult CUDAAPI cuStreamCreate(CUstream *stream, unsigned flags)
{
    CUresult error = enter();
    if (error != CUDA_SUCCESS) return error;
    if (flags > CU_STREAM_NON_BLOCKING) return leave(CUDA_ERROR_INVALID_VALUE);
    *stream = calloc(1, sizeof **stream);
    (*stream)->end = &(*stream)->first;
    ++context.streams;
    return leave(CUDA_SUCCESS);
}

static void drop(CUstream stream)
{
    struct operation *operation = stream->first;
    stream->first = operation->next;
    if (!stream->first) stream->end = &stream->first;
    if (operation->kind == IN) free(operation->from);
    free(operation);
}

EXPORT CUresult CUDAAPI cuStreamDestroy_v2(CUstream stream)
{
    pthread_mutex_lock(&lock);
    if (stream->first) note("misuse: a stream is destroyed with work in it");
    while (stream->first) drop(stream);
    free(stream);
    --context.streams;
    return leave(CUDA_SUCCESS);
}

static void append(CUgraph graph, const struct operation *operation)
{
    struct operation *kept = malloc(sizeof *kept);
    *kept = *operation;
    kept->next = NULL;
    *graph->end = kept;
    graph->end = &kept->next;
    ++graph->count;
}

static CUresult queue(CUstream stream, struct operation operation)
{
    CUresult error = enter();
    if (error != CUDA_SUCCESS) return error;
    if (stream->capture) {
        if (operation.kind == IN || operation.kind == OUT) { /* a program copies outside of it */
            stream->broken = 1;
            return leave(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        append(stream->capture, &operation);
        return leave(CUDA_SUCCESS);
    }
    struct operation *kept = malloc(sizeof *kept);
    *kept = operation;
    if (kept->kind == IN) { /* the caller may change its bytes as soon as this returns */
        kept->from = malloc(kept->bytes + 1);
        memcpy(kept->from, operation.from, kept->bytes);
    }
    *stream->end = kept;
    stream->end = &kept->next;
    return leave(CUDA_SUCCESS);
}

static void *at(CUdeviceptr memory) { return (void *)(uintptr_t)memory; }

EXPORT CUresult CUDAAPI cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
    return queue(stream, (struct operation){.kind = IN, .to = at(to), .from = (void *)from, .bytes = bytes});
}

EXPORT CUresult CUDAAPI cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    return queue(stream, (struct operation){.kind = OUT, .to = to, .from = at(from), .bytes = bytes});
}

EXPORT CUresult CUDAAPI cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    return queue(stream, (struct operation){.kind = WITHIN, .to = at(to), .from = at(from), .bytes = bytes});
}

EXPORT CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream)
{
    return queue(stream, (struct operation){.kind = FILL, .to = at(to), .value = value, .bytes = bytes});
}

EXPORT CUresult CUDAAPI cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                                       unsigned by, unsigned bz, unsigned shared, CUstream stream, void **operands,
                                       void **extra)
{
    struct operation launch = {.kind = LAUNCH, .function = function, .grid = {gx, gy, gz}, .block = {bx, by, bz},
                               .shared = shared};
    int sizes = gx && gy && gz && gy < 65536 && gz < 65536 && bx && by && bz && bz <= 64 && bx * by * bz <= 1024;
    if (!sizes || extra || shared > function->dynamic || function->operands > MOST_OPERANDS)
        return CUDA_ERROR_INVALID_VALUE;
    for (int i = 0; i < function->operands; ++i) launch.operands[i] = *(void **)operands[i];
    note("launch: %s (%u, %u, %u) (%u, %u, %u) %u", function->name, gx, gy, gz, bx, by, bz, shared);
    return queue(stream, launch);
}

static CUresult launch_now(struct operation *launch)
{
    char text[768];
    for (int i = 0; i < launch->function->operands; ++i)
        if (!emulated.inside(launch->operands[i], 0))
            return misuse("operand %d of %s is no device memory", i, launch->function->name);
    if (emulated.launch(launch->function->name, launch->grid, launch->block, launch->operands, launch->shared, 0,
                        text, sizeof text) != 0)
        return misuse("%s", text);
    return CUDA_SUCCESS;
}

static CUresult do_now(struct operation *o)
{
    if (o->kind == LAUNCH) return launch_now(o);
    if (o->kind != OUT && !emulated.inside(o->to, o->bytes)) return misuse("%zu bytes written outside", o->bytes);
    if ((o->kind == OUT || o->kind == WITHIN) && !emulated.inside(o->from, o->bytes))
        return misuse("%zu bytes read outside", o->bytes);
    if (o->kind == WITHIN && o->to < o->from + o->bytes && o->from < o->to + o->bytes)
        return misuse("a copy of %zu bytes overlaps itself", o->bytes);
    if (o->kind == FILL) memset(o->to, o->value, o->bytes);
    else memcpy(o->to, o->from, o->bytes);
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuStreamSynchronize(CUstream stream)
{
    CUresult error = enter();
    if (error != CUDA_SUCCESS) return error;
    if (stream->capture) {
        stream->broken = 1;
        return leave(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    while (stream->first) {
        if (error == CUDA_SUCCESS) error = do_now(stream->first);
        drop(stream);
    }
    return leave(error);
}
