/* Graphs of the stand-in for the driver, a part of driver.c: what was recorded is queued as often as
   the graph is launched. A driver before CUDA 11.4 is one without this file. */
#pragma once

static CUgraph new_graph(void)
{
    CUgraph graph = calloc(1, sizeof *graph);
    graph->end = &graph->first;
    ++context.graphs;
    return graph;
}

static void drop_graph(CUgraph graph)
{
    while (graph->first) {
        struct operation *operation = graph->first;
        graph->first = operation->next;
        free(operation);
    }
    free(graph);
    --context.graphs;
}

EXPORT CUresult CUDAAPI cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode)
{
    CUresult error = enter();
    if (error != CUDA_SUCCESS) return error;
    if (mode > CU_STREAM_CAPTURE_MODE_RELAXED || stream->capture) return leave(CUDA_ERROR_INVALID_VALUE);
    stream->capture = new_graph();
    stream->broken = 0;
    note("graph: recording");
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult CUDAAPI cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
    CUresult error = enter();
    if (error != CUDA_SUCCESS) return error;
    CUgraph recorded = stream->capture;
    stream->capture = NULL;
    *graph = NULL;
    if (!recorded) return leave(CUDA_ERROR_ILLEGAL_STATE);
    if (stream->broken) {
        drop_graph(recorded);
        return leave(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    }
    *graph = recorded;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec *made, CUgraph graph, unsigned long long flags)
{
    CUresult error = enter();
    if (error != CUDA_SUCCESS) return error;
    if (flags) return leave(CUDA_ERROR_INVALID_VALUE);
    if (getenv("OPTC_EMULATED_GRAPHS_FAIL")) return leave(CUDA_ERROR_OUT_OF_MEMORY);
    CUgraph copy = new_graph();
    for (struct operation *o = graph->first; o; o = o->next) append(copy, o);
    *made = (CUgraphExec)copy;
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult CUDAAPI cuGraphLaunch(CUgraphExec made, CUstream stream)
{
    CUgraph graph = (CUgraph)made;
    note("graph: %d operations", graph->count);
    for (struct operation *o = graph->first; o; o = o->next) {
        struct operation operation = *o;
        operation.next = NULL;
        CUresult error = queue(stream, operation);
        if (error != CUDA_SUCCESS) return error;
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec made)
{
    pthread_mutex_lock(&lock);
    drop_graph((CUgraph)made);
    return leave(CUDA_SUCCESS);
}

EXPORT CUresult CUDAAPI cuGraphDestroy(CUgraph graph)
{
    pthread_mutex_lock(&lock);
    drop_graph(graph);
    return leave(CUDA_SUCCESS);
}
