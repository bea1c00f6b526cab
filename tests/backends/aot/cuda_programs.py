"""Hand-written programs for a GPU, each with what it should give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optc.backends.program import (
    Call,
    Copy,
    DeviceCode,
    ExitIf,
    Launch,
    Operand,
    Port,
    Program,
    RunSegment,
    Segment,
    Space,
    StateSlot,
    Switch,
    place_weights,
)
from optc.ir.dtype import DType

N = 1024
HOST = "x86_64-linux-gnu"
IN = Operand(Space.INPUT, 0)
OUT = Operand(Space.OUTPUT, 0)
ARENA = Operand(Space.ARENA, 0)
STATE = Operand(Space.STATE, 0)
WEIGHTS = Operand(Space.WEIGHTS, 4096)

SOURCE = r"""
#include <cuda_fp16.h>

extern "C" __global__ void __launch_bounds__(256)
add(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ out)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = a[i] + b[i];
}

extern "C" __global__ void twice(const float *__restrict__ x, float *__restrict__ out)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = 2.0f * x[i];
}

/* One number for each block of 256. */
extern "C" __global__ void sum(const float *__restrict__ x, float *__restrict__ out)
{
    __shared__ float part[256];
    int t = threadIdx.x;
    part[t] = x[blockIdx.x * 256 + t];
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if (t < half) part[t] += part[t + half];
        __syncthreads();
    }
    if (t == 0) out[blockIdx.x] = part[0];
}

/* 1024 floats backwards, through 64 KiB of dynamic shared memory. */
extern "C" __global__ void reverse(const float *__restrict__ x, float *__restrict__ out)
{
    extern __shared__ float line[];
    int t = threadIdx.x;
    line[16 * t] = x[t];
    __syncthreads();
    out[t] = line[16 * (blockDim.x - 1 - t)];
}

/* The sum of each warp. */
extern "C" __global__ void warps(const float *__restrict__ x, float *__restrict__ out)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float value = x[i];
    for (int by = 16; by > 0; by /= 2) value += __shfl_down_sync(0xffffffffu, value, by);
    if (i % 32 == 0) out[i / 32] = value;
}

extern "C" __global__ void scale_half(const __half *__restrict__ x, __half *__restrict__ out)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = __float2half(2.0f * __half2float(x[i]));
}

extern "C" __global__ void count(const int *in, int *out) { out[0] = in[0] + 1; }
extern "C" __global__ void above(const float *x, unsigned char *flag) { *flag = x[0] > 0.0f; }
extern "C" __global__ void whole(const float *x, int *index) { *index = (int)x[0]; }
extern "C" __global__ void far_away(const float *x, float *out) { out[1 << 24] = x[0]; }
"""


def launch(symbol: str, *operands: Operand, blocks: int = 4, threads: int = 256) -> Call:
    """A call of one launch."""
    indices = tuple(range(len(operands)))
    once = Launch(symbol, (blocks, 1, 1), (threads, 1, 1), indices)
    return Call(symbol, operands, f"{symbol} @ model.py:3", launches=(once,))


def program(name: str, *calls: Call | Copy, outputs: tuple[Port, ...] = ()) -> Program:
    """x: 1024 f32 to y, with 0 to 1023 as weights at byte 4096."""
    return Program(
        name=name,
        inputs=(Port("x", (N,), DType.F32),),
        outputs=outputs or (Port("y", (N,), DType.F32),),
        segments=(Segment("main", calls),),
        flow=(RunSegment("main"),),
        objects=(),
        triple=HOST,
        arena_bytes=8192,
        weights=place_weights([np.zeros(N, np.float32), np.arange(N, dtype=np.float32)]),
        device=DeviceCode("sm_75", SOURCE),
    )


def adder() -> Program:
    """y = 2 * (x + weights), through the arena, and a copy of x."""
    copy = Copy(IN, Operand(Space.OUTPUT, 1), 4 * N, "copy x")
    ports = (Port("y", (N,), DType.F32), Port("same", (N,), DType.F32))
    calls = (launch("add", IN, WEIGHTS, ARENA), launch("twice", ARENA, OUT), copy)
    return program("adder", *calls, outputs=ports)


def both_in_one() -> Program:
    """y = 2 * (x + weights), as one call of two launches."""
    size = ((4, 1, 1), (256, 1, 1))
    launches = (Launch("add", *size, (0, 1, 2)), Launch("twice", *size, (2, 3)))
    return program("both", Call("both", (IN, WEIGHTS, ARENA, OUT), "both", launches=launches))


def reversed_sums() -> Program:
    """Sums of blocks and of warps, and x backwards."""
    ports = tuple(Port(name, (n,), DType.F32) for name, n in (("s", 4), ("w", 32), ("r", N)))
    back = Launch("reverse", (1, 1, 1), (N, 1, 1), (0, 1), 64 << 10)
    calls = (
        launch("sum", IN, OUT),
        launch("warps", IN, Operand(Space.OUTPUT, 1)),
        Call("reverse", (IN, Operand(Space.OUTPUT, 2)), "reverse", launches=(back,)),
    )
    return program("sums", *calls, outputs=ports)


def halves() -> Program:
    """y = 2 * x in f16."""
    ports = {"inputs": (Port("x", (N,), DType.F16),), "outputs": (Port("y", (N,), DType.F16),)}
    return replace(program("halves", launch("scale_half", IN, OUT)), **ports)


def counter() -> Program:
    """A state that begins at 41 and one that begins at 0; each call adds one to both."""
    other = Operand(Space.STATE, 64)
    calls = tuple(
        part
        for number, state in enumerate((STATE, other))
        for part in (
            launch("count", state, ARENA, blocks=1, threads=1),
            Copy(ARENA, Operand(Space.OUTPUT, number), 4),
            Copy(ARENA, state, 4),
        )
    )
    slots = (StateSlot("n", (1,), DType.I32, 0, 0), StateSlot("zero", (1,), DType.I32, 64))
    return replace(
        program(
            "counter", *calls, outputs=(Port("a", (1,), DType.I32), Port("b", (1,), DType.I32))
        ),
        inputs=(),
        states=slots,
        weights=place_weights([np.array([41], np.int32)]),
    )


def early_exit() -> Program:
    """x[0] above 0: y = 2 * x and no more; else y = x + weights."""
    first = Segment("first", (launch("above", IN, ARENA, blocks=1, threads=1),))
    segments = (
        first,
        Segment("short", (launch("twice", IN, OUT),)),
        Segment("long", (launch("add", IN, WEIGHTS, OUT),)),
    )
    flow = (RunSegment("first"), ExitIf(ARENA, (RunSegment("short"),)), RunSegment("long"))
    return replace(program("early"), segments=segments, flow=flow)


def choice() -> Program:
    """x[0] is 0: y = 2 * x; else y = x + weights."""
    segments = (
        Segment("first", (launch("whole", IN, ARENA, blocks=1, threads=1),)),
        Segment("zero", (launch("twice", IN, OUT),)),
        Segment("rest", (launch("add", IN, WEIGHTS, OUT),)),
    )
    cases = ((RunSegment("zero"),), (RunSegment("rest"),))
    flow = (RunSegment("first"), Switch(ARENA, cases))
    return replace(program("choice"), segments=segments, flow=flow)


def broken() -> Program:
    """Writes 64 MiB behind its output."""
    return program("broken", launch("far_away", IN, OUT, blocks=1, threads=1))
