"""The oracle itself: it computes what a GPU would, and sees what a GPU would not survive."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.cuda_emulator import Kernels, Misuse, Order, emulate

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the emulator switches stacks on x86-64 only"
)

SOURCE = r"""
#include <cuda_bf16.h>
#define ROW 64

__device__ __forceinline__ float doubled(float x) { return x + x; }

extern "C" __global__ void __launch_bounds__(256) add(const float *a, const float *b, float *out)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < 1000) out[i] = a[i] + b[i];
}
extern "C" __global__ void where(int *out)
{
    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = 1000 * block + thread;
}
extern "C" __global__ void sum(const float *x, float *out)
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
extern "C" __global__ void reverse(const float *x, float *out)
{
    extern __shared__ __align__(16) float row[];
    row[threadIdx.x] = doubled(x[threadIdx.x]);
    __syncthreads();
    out[threadIdx.x] = row[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void no_barrier(const float *x, float *out)
{
    __shared__ float row[ROW];
    row[threadIdx.x] = x[threadIdx.x];
    out[threadIdx.x] = row[ROW - 1 - threadIdx.x];
}
extern "C" __global__ void no_barrier_between_warps(const float *x, float *out)
{
    __shared__ float row[ROW];
    row[threadIdx.x] = x[threadIdx.x];
    float beside = __shfl_xor_sync(0xffffffff, x[threadIdx.x], 1); /* only lanes of a warp meet */
    out[threadIdx.x] = beside + row[ROW - 1 - threadIdx.x];
}
extern "C" __global__ void overwritten(const float *x, float *out)
{
    __shared__ float one;
    for (int i = 0; i < 2; ++i) {
        if (threadIdx.x == 0) one = x[i];
        __syncthreads();
        out[64 * i + threadIdx.x] = one; /* a barrier is missing behind this */
        if (i == 0 && threadIdx.x == 0) one = -1.0f;
    }
}
extern "C" __global__ void shuffled(const float *x, float *out)
{
    __shared__ float row[ROW];
    row[threadIdx.x] = x[threadIdx.x]; /* a shuffle waits for the warp, and orders no memory */
    float beside = __shfl_xor_sync(0xffffffff, x[threadIdx.x], 1);
    out[threadIdx.x] = beside + row[threadIdx.x ^ 1];
}
extern "C" __global__ void synced_warps(const float *x, float *out)
{
    __shared__ float row[ROW];
    row[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    float other = row[threadIdx.x ^ 31];
    __syncwarp();
    row[threadIdx.x] = 0;
    out[threadIdx.x] = other;
}
extern "C" __global__ void all_the_same(const float *x, float *out)
{
    __shared__ float one;
    one = x[0];
    __syncthreads();
    out[threadIdx.x] = one;
}
extern "C" __global__ void before_it_came(const float *x, float *out)
{
    __shared__ __align__(16) float row[ROW];
    optc_copy_4(row + threadIdx.x, x + threadIdx.x, 1);
    optc_commit();
    out[threadIdx.x] = row[threadIdx.x];
}
extern "C" __global__ void before_all_waited(const float *x, float *out)
{
    __shared__ __align__(16) float row[ROW];
    optc_copy_4(row + threadIdx.x, x + threadIdx.x, 1);
    optc_commit();
    __syncthreads(); /* before the wait instead of after it */
    optc_wait<0>();
    out[threadIdx.x] = row[threadIdx.x ^ 1];
}
extern "C" __global__ void in_memory(const float *x, float *out)
{
    out[threadIdx.x] = x[threadIdx.x];
    if (threadIdx.x == 0) out[0] = out[1];
    __syncthreads();
}
extern "C" __global__ void between_blocks(const float *x, float *out)
{
    if (threadIdx.x == 0) out[0] = x[0];
}
extern "C" __global__ void across_blocks(const float *x, float *out)
{
    float sum = out[0];
    if (blockIdx.x == 2) out[0] = sum + x[0];
}
extern "C" __global__ void neighbours(const float *x, float *out)
{
    __shared__ signed char row[ROW]; /* bytes of one word are not one place */
    row[threadIdx.x] = (signed char)x[threadIdx.x];
    out[threadIdx.x] = row[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = row[threadIdx.x ^ 1];
}
extern "C" __global__ void one_owner(const float *x, float *out)
{
    __shared__ float one;
    for (int i = 0; i < 3; ++i) {
        if (threadIdx.x == 0) one = x[i];
        __syncthreads();
        out[threadIdx.x] += one;
        __syncthreads();
    }
}
extern "C" __global__ void shuffles(const int *x, int *out)
{
    int t = threadIdx.x, v = x[t];
    out[t] = __shfl_sync(0xffffffffu, v, 3);
    out[32 + t] = __shfl_up_sync(0xffffffffu, v, 2);
    out[64 + t] = __shfl_down_sync(0xffffffffu, v, 2, 8);
    out[96 + t] = __shfl_xor_sync(0xffffffffu, v, 5);
    out[128 + t] = (int)__ballot_sync(0xffffffffu, v & 1);
}
extern "C" __global__ void half_warp(const int *x, int *out)
{
    int t = threadIdx.x;
    if (t < 16) out[t] = __shfl_xor_sync(0x0000ffffu, x[t], 1);
    else out[t] = __shfl_xor_sync(0xffff0000u, x[t], 2);
}
extern "C" __global__ void round_bf16(const float *x, __nv_bfloat16 *out)
{
    out[threadIdx.x] = __float2bfloat16(x[threadIdx.x]);
}
extern "C" __global__ void past_the_end(float *out) { out[threadIdx.x] = 1.0f; }
extern "C" __global__ void before(float *out) { out[-1] = 1.0f; }
extern "C" __global__ void read_past(const float *x, float *out) { out[0] = x[1 << 20]; }
extern "C" __global__ void nowhere(float *out) { *(float *)64 = out[0]; }
extern "C" __global__ void some_leave(float *out)
{
    __shared__ float one;
    if (threadIdx.x < 16) return;
    one = 2.0f;
    __syncthreads();
    out[threadIdx.x] = one;
}
extern "C" __global__ void all_leave(float *out)
{
    if (blockIdx.x > 0) return;
    __syncthreads();
    out[threadIdx.x] = 1.0f;
}
extern "C" __global__ void lanes_missing(int *out)
{
    if (threadIdx.x < 8) out[0] = __shfl_sync(0xffffffffu, 1, 0);
    else __syncthreads();
}
extern "C" __global__ void misaligned(float *out)
{
    *(float4 *)(out + 1) = make_float4(1, 2, 3, 4);
}
extern "C" __global__ void array_end(float *out)
{
    float four[4] = {1, 2, 3, 4};
    out[0] = four[(int)out[1]];
}
extern "C" __global__ void too_much(float *out)
{
    __shared__ float line[12289];
    line[threadIdx.x] = 0;
    __syncthreads();
    out[threadIdx.x] = line[threadIdx.x ^ 1];
}
extern "C" __global__ void copied_askew(float *out)
{
    __shared__ __align__(16) float line[8];
    optc_copy_16(line, out + 1, 0); /* nothing is read, but the address is looked at */
    optc_commit();
    optc_wait<0>();
    out[0] = line[0];
}
extern "C" __global__ void divided(int *out) { out[0] = 1 / out[1]; }
"""


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return emulate(SOURCE)


@pytest.fixture(params=list(Order))
def order(request: pytest.FixtureRequest) -> Order:
    return Order(request.param)


X = np.arange(1024, dtype=np.float32) % 19


def _launch(kernels: Kernels, symbol: str, threads: int, *arrays: np.ndarray) -> None:
    kernels.launch(symbol, (1, 1, 1), (threads, 1, 1), arrays)


def test_a_grid_covers_its_elements(kernels: Kernels, order: Order) -> None:
    out = np.full(1000, np.nan, np.float32)
    kernels.launch("add", (4, 1, 1), (256, 1, 1), [X[:1000], X[:1000], out], order=order)
    assert np.array_equal(out, 2 * X[:1000])


@given(st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_indices_are_three_dimensional(
    grid: tuple[int, int, int], block: tuple[int, int, int]
) -> None:
    threads = int(np.prod(block))
    out = np.full((int(np.prod(grid)), threads), -1, np.int32)
    emulate(SOURCE).launch("where", grid, block, [out])
    assert np.array_equal(out, 1000 * np.arange(len(out))[:, None] + np.arange(threads))


def test_blocks_share_between_barriers(kernels: Kernels, order: Order) -> None:
    out = np.zeros(4, np.float32)
    kernels.launch("sum", (4, 1, 1), (256, 1, 1), [X, out], order=order)
    assert np.array_equal(out, X.reshape(4, 256).sum(axis=1))


def test_dynamic_shared_memory(kernels: Kernels, order: Order) -> None:
    out = np.zeros(96, np.float32)
    x = X[:96].copy()
    kernels.launch("reverse", (1, 1, 1), (96, 1, 1), [x, out], shared_bytes=384, order=order)
    assert np.array_equal(out, 2 * x[::-1])
    with pytest.raises(
        Misuse,
        match=r"thread \(64, 0, 0\): byte 256 of the 256 bytes of its dynamic shared|thread \(31",
    ):
        kernels.launch("reverse", (1, 1, 1), (96, 1, 1), [x, out], shared_bytes=256)


RACES = {
    "no_barrier": "thread 32 writes byte 128 of shared memory, which thread 31 read",
    "no_barrier_between_warps": "thread 32 writes byte 128 of shared memory, which thread 31 read",
    "overwritten": "thread 1 reads byte 0 of shared memory, which thread 0 wrote",
    "shuffled": "thread 0 reads byte 4 of shared memory, which thread 1 wrote",
    "all_the_same": "thread 1 writes byte 0 of shared memory, which thread 0 wrote",
    "before_it_came": "thread 0 reads byte 0 of shared memory, which thread 0 copies to and has",
    "before_all_waited": "thread 0 reads byte 4 of shared memory, which thread 1 copies to and has",
    "in_memory": "thread 1 writes byte 4 of an operand, which thread 0 read",
    "between_blocks": "thread 0 writes byte 0 of an operand, which thread 0 of another block wrote",
    "across_blocks": "writes byte 0 of an operand, which thread 0 and others of other blocks read",
}


@pytest.mark.parametrize("symbol", RACES)
def test_a_race_is_an_error_whatever_the_values(kernels: Kernels, symbol: str) -> None:
    out = np.zeros(128, np.float32)
    arrays = [np.zeros(128, np.float32), out]
    with pytest.raises(Misuse, match=f"a race: .*{RACES[symbol]}.*no barrier lies between"):
        kernels.launch(symbol, (3, 1, 1), (64, 1, 1), arrays)


@pytest.mark.parametrize("symbol", ["synced_warps", "neighbours", "one_owner"])
def test_what_is_ordered_is_no_race(kernels: Kernels, symbol: str) -> None:
    x, out = X[:128].copy(), np.zeros(128, np.float32)
    kernels.launch(symbol, (1, 1, 1), (64, 1, 1), [x, out])
    if symbol == "synced_warps":
        assert np.array_equal(out[:64], x[:64].reshape(2, 32)[:, ::-1].reshape(-1))


def test_threads_in_another_order_still_show_other_values(kernels: Kernels) -> None:
    """Races are looked for where threads start forwards; values differ where they do not."""
    out = np.zeros(64, np.float32)
    kernels.launch("no_barrier", (1, 1, 1), (64, 1, 1), [X[:64].copy(), out], order=Order.BACKWARD)
    assert np.isnan(out).any()  # read before it was written


def test_warps_exchange(kernels: Kernels, order: Order) -> None:
    x = np.random.default_rng(0).integers(0, 1000, 32, dtype=np.int32)
    out = np.zeros((5, 32), np.int32)
    kernels.launch("shuffles", (1, 1, 1), (32, 1, 1), [x, out], order=order)
    t = np.arange(32)
    assert (out[0] == x[3]).all()
    assert np.array_equal(out[1], np.where(t < 2, x, x[t - 2]))
    assert np.array_equal(out[2], np.where(t % 8 < 6, x[(t + 2) % 32], x))
    assert np.array_equal(out[3], x[t ^ 5])
    assert (out[4].view(np.uint32) == int(sum((int(v) & 1) << i for i, v in enumerate(x)))).all()


def test_parts_of_a_warp_exchange(kernels: Kernels, order: Order) -> None:
    x = np.arange(32, dtype=np.int32)
    out = np.zeros(32, np.int32)
    kernels.launch("half_warp", (1, 1, 1), (32, 1, 1), [x, out], order=order)
    assert np.array_equal(out, np.where(x < 16, x ^ 1, x ^ 2))


def test_bfloat16_rounds_to_even(kernels: Kernels) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x = np.random.default_rng(1).normal(size=512).astype(np.float32)
    x[:3] = np.inf, 1.00390625, 1.01171875  # infinity and two ties
    out = np.zeros(512, np.uint16)
    _launch(kernels, "round_bf16", 512, x, out)
    assert np.array_equal(out, x.astype(bfloat16).view(np.uint16))


def test_a_block_may_leave_as_a_whole(kernels: Kernels) -> None:
    out = np.zeros(32, np.float32)
    kernels.launch("all_leave", (3, 1, 1), (32, 1, 1), [out])
    assert (out == 1).all()


@pytest.mark.parametrize(
    ("symbol", "threads", "arrays", "sentence"),
    [
        ("past_the_end", 257, 1, r"thread \(256, 0, 0\): byte 1024 of the 1024 bytes of operand 0"),
        ("before", 1, 1, "byte -4 of the 1024 bytes of operand 0|beside its operands"),
        ("read_past", 1, 2, "byte 4194304 of the 1024 bytes of operand 0"),
        ("nowhere", 1, 1, "an address outside of all memory: 0x40"),
        ("some_leave", 32, 1, "16 threads wait at a barrier and 16 have returned"),
        ("lanes_missing", 32, 1, "8 threads wait for others of their warp, which never come"),
        ("misaligned", 1, 1, "a misaligned address"),
        ("array_end", 1, 1, "an index outside of its array"),
        ("divided", 1, 1, "a division by zero"),
        ("too_much", 1, 1, "too_much names 49156 bytes of shared memory, more than 49152"),
        ("copied_askew", 1, 1, "cp.async of misaligned 16 bytes"),
        ("absent", 1, 1, "no such kernel"),
        ("add", 1, 2, "add takes 3 operands, not 2"),
    ],
)
def test_misuse_is_one_sentence(
    kernels: Kernels, symbol: str, threads: int, arrays: int, sentence: str
) -> None:
    data = [np.full(256, 7, np.float32) for _ in range(arrays)]
    if symbol == "divided":
        data[0][:] = 0
    with pytest.raises(Misuse, match=sentence):
        _launch(kernels, symbol, threads, *data)
    out = np.zeros(4, np.float32)  # and it goes on as if nothing had happened
    kernels.launch("sum", (4, 1, 1), (256, 1, 1), [X, out])
    assert np.array_equal(out, X.reshape(4, 256).sum(axis=1))


def test_a_write_beside_the_pages_end_is_seen(kernels: Kernels) -> None:
    with pytest.raises(Misuse, match="past_the_end writes beside its operands"):
        _launch(kernels, "past_the_end", 258, np.zeros(257, np.float32))


def test_read_only_arrays_are_watched(kernels: Kernels) -> None:
    out = np.zeros(32, np.float32)
    out.flags.writeable = False
    with pytest.raises(Misuse, match="writes to operand 0, which is read only"):
        _launch(kernels, "past_the_end", 32, out)


def test_source_that_does_not_compile_shows_its_line() -> None:
    with pytest.raises(Misuse, match=r"source.cu:3:"):
        emulate("\n\nthis is no C\n")
