/* What CUDA C source sees when it is compiled as C++ for the CPU: keywords, indices, math, shuffles.
   Nothing of CUDA is included; what a kernel needs beyond this fails to compile, and is added here. */
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ EMULATED_SHARED /* the emulator says in which kernel: one section for each */
#define __CUDACC__ 1
#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN
#define CUDART_INF ((double)INFINITY)
#define CUDART_NAN ((double)NAN)
#define OPTC_DEVICE_TYPES /* generated source brings these types for a GPU: here they are C's */
#define OPTC_INSTRUCTIONS /* and these functions: here they are those of warp.h */
typedef unsigned char uchar;

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
static const int warpSize = 32;
extern unsigned char *emulated_dynamic; /* of this block */

/* --- vectors, aligned as on the device: a misaligned one is reported */
#define EMULATED_VECTOR(T, name)                                                              \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                        \
    struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; };        \
    struct name##1 { T x; };                                                                  \
    static inline name##1 make_##name##1(T x) { return {x}; }                                 \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                         \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATED_VECTOR(float, float)
EMULATED_VECTOR(double, double)
EMULATED_VECTOR(int, int)
EMULATED_VECTOR(unsigned, uint)
EMULATED_VECTOR(short, short)
EMULATED_VECTOR(unsigned short, ushort)
EMULATED_VECTOR(signed char, char)
EMULATED_VECTOR(unsigned char, uchar)
EMULATED_VECTOR(long long, longlong)
EMULATED_VECTOR(unsigned long long, ulonglong)
struct float3 {
    float x, y, z;
};
struct int3 {
    int x, y, z;
};
static inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
static inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }

/* --- barriers and warps: blocks.h has the bodies; none may be duplicated, their place is their name */
#define EMULATED_MEETING __attribute__((noinline, convergent, noduplicate))
enum emulated_shuffle {
    EMULATED_INDEX, EMULATED_UP, EMULATED_DOWN, EMULATED_XOR, EMULATED_VOTE,
    EMULATED_PRODUCT, EMULATED_MATRICES, EMULATED_TURNED
};
EMULATED_MEETING void __syncthreads();
EMULATED_MEETING uint64_t emulated_meet(unsigned mask, emulated_shuffle how, uint64_t value, int lane, int width);

template <class T>
static inline T emulated_exchange(unsigned mask, emulated_shuffle how, T value, int lane, int width)
{
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = emulated_meet(mask, how, bits, lane, width);
    memcpy(&value, &bits, sizeof value);
    return value;
}
template <class T> static inline T __shfl_sync(unsigned m, T v, int lane, int width = 32)
{
    return emulated_exchange(m, EMULATED_INDEX, v, lane, width);
}
template <class T> static inline T __shfl_up_sync(unsigned m, T v, unsigned by, int width = 32)
{
    return emulated_exchange(m, EMULATED_UP, v, (int)by, width);
}
template <class T> static inline T __shfl_down_sync(unsigned m, T v, unsigned by, int width = 32)
{
    return emulated_exchange(m, EMULATED_DOWN, v, (int)by, width);
}
template <class T> static inline T __shfl_xor_sync(unsigned m, T v, int by, int width = 32)
{
    return emulated_exchange(m, EMULATED_XOR, v, by, width);
}
static inline unsigned __ballot_sync(unsigned mask, int vote)
{
    return (unsigned)emulated_meet(mask, EMULATED_VOTE, vote != 0, 0, 32);
}
static inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
static inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, !vote) == 0; }
EMULATED_MEETING void __syncwarp(unsigned mask = 0xffffffffu);
static inline void __threadfence() {}
static inline void __threadfence_block() {}

/* --- one thread runs at a time, so that plain arithmetic is atomic; races.h does not see it */
#define EMULATED_ATOMIC template <class T> __attribute__((noinline, no_sanitize("thread"))) static T
EMULATED_ATOMIC atomicAdd(T *p, T v) { T old = *p; *p = old + v; return old; }
EMULATED_ATOMIC atomicMax(T *p, T v) { T old = *p; *p = old > v ? old : v; return old; }
EMULATED_ATOMIC atomicMin(T *p, T v) { T old = *p; *p = old < v ? old : v; return old; }
EMULATED_ATOMIC atomicExch(T *p, T v) { T old = *p; *p = v; return old; }
EMULATED_ATOMIC atomicCAS(T *p, T c, T v) { T old = *p; if (old == c) *p = v; return old; }
template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T __ldcg(const T *p) { return *p; }
template <class T> static inline T __ldcs(const T *p) { return *p; }
template <class T, class U> static inline void __stcs(T *p, U v) { *p = v; }

/* --- half and bfloat16: stored in 16 bits, computed in 32, rounded to nearest even */
static inline float emulated_from_bf16(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}
static inline uint16_t emulated_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value != value) return 0x7fff;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
struct __half {
    _Float16 raw;
    __half() = default;
    __half(float v) : raw((_Float16)v) {}
    __half(double v) : raw((_Float16)v) {}
    __half(int v) : raw((_Float16)v) {}
    __half(unsigned v) : raw((_Float16)v) {}
    __half(long long v) : raw((_Float16)v) {}
    operator float() const { return (float)raw; }
};
struct __nv_bfloat16 {
    uint16_t raw;
    __nv_bfloat16() = default;
    __nv_bfloat16(float v) : raw(emulated_to_bf16(v)) {}
    __nv_bfloat16(double v) : raw(emulated_to_bf16((float)v)) {}
    __nv_bfloat16(int v) : raw(emulated_to_bf16((float)v)) {}
    __nv_bfloat16(unsigned v) : raw(emulated_to_bf16((float)v)) {}
    __nv_bfloat16(long long v) : raw(emulated_to_bf16((float)v)) {}
    operator float() const { return emulated_from_bf16(raw); }
};
typedef __half half;
typedef __nv_bfloat16 nv_bfloat16;
#define EMULATED_NARROW(T, V)                                                                     \
    struct alignas(4) V { T x, y; };                                                              \
    static inline T operator+(T a, T b) { return T((float)a + (float)b); }                        \
    static inline T operator-(T a, T b) { return T((float)a - (float)b); }                        \
    static inline T operator*(T a, T b) { return T((float)a * (float)b); }                        \
    static inline T operator/(T a, T b) { return T((float)a / (float)b); }                        \
    static inline T operator-(T a) { return T(-(float)a); }                                       \
    static inline T &operator+=(T &a, T b) { return a = a + b; }                                  \
    static inline T &operator-=(T &a, T b) { return a = a - b; }                                  \
    static inline T &operator*=(T &a, T b) { return a = a * b; }                                  \
    static inline bool operator<(T a, T b) { return (float)a < (float)b; }                        \
    static inline bool operator>(T a, T b) { return (float)a > (float)b; }                        \
    static inline bool operator<=(T a, T b) { return (float)a <= (float)b; }                      \
    static inline bool operator>=(T a, T b) { return (float)a >= (float)b; }                      \
    static inline bool operator==(T a, T b) { return (float)a == (float)b; }                      \
    static inline bool operator!=(T a, T b) { return (float)a != (float)b; }                      \
    static inline T __hadd(T a, T b) { return a + b; }                                            \
    static inline T __hsub(T a, T b) { return a - b; }                                            \
    static inline T __hmul(T a, T b) { return a * b; }                                            \
    static inline T __hmax(T a, T b) { return a > b ? a : b; }                                    \
    static inline T __hmin(T a, T b) { return a < b ? a : b; }                                    \
    static inline T __hfma(T a, T b, T c) { return T(fmaf((float)a, (float)b, (float)c)); }       \
    static inline V __hadd2(V a, V b) { return {a.x + b.x, a.y + b.y}; }                          \
    static inline V __hmul2(V a, V b) { return {a.x * b.x, a.y * b.y}; }                          \
    static inline V __hfma2(V a, V b, V c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
EMULATED_NARROW(__half, __half2)
EMULATED_NARROW(__nv_bfloat16, __nv_bfloat162)
typedef __half2 half2;
typedef __nv_bfloat162 nv_bfloat162;
static inline float __half2float(__half v) { return (float)v; }
static inline __half __float2half(float v) { return __half(v); }
static inline __half __float2half_rn(float v) { return __half(v); }
static inline float __low2float(__half2 v) { return (float)v.x; }
static inline float __high2float(__half2 v) { return (float)v.y; }
static inline float2 __half22float2(__half2 v) { return {(float)v.x, (float)v.y}; }
static inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
static inline __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline __half2 make_half2(__half x, __half y) { return {x, y}; }
static inline unsigned short __half_as_ushort(__half v)
{
    unsigned short bits;
    memcpy(&bits, &v, 2);
    return bits;
}
static inline __half __ushort_as_half(unsigned short bits)
{
    __half v;
    memcpy(&v, &bits, 2);
    return v;
}
static inline float __bfloat162float(__nv_bfloat16 v) { return (float)v; }
static inline __nv_bfloat16 __float2bfloat16(float v) { return __nv_bfloat16(v); }
static inline __nv_bfloat16 __float2bfloat16_rn(float v) { return __nv_bfloat16(v); }
static inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {(float)v.x, (float)v.y}; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) { return v.raw; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
    __nv_bfloat16 v;
    v.raw = bits;
    return v;
}

/* --- instructions that generated source calls by name: warp.h has the bodies */
EMULATED_MEETING void optc_matrices(uint32_t *r, const void *row);
EMULATED_MEETING void optc_turned_matrices(uint32_t *r, const void *row);
EMULATED_MEETING void optc_mma_m16n8k16_f16(float *c, const uint32_t *a, const uint32_t *b);
EMULATED_MEETING void optc_mma_m16n8k16_bf16(float *c, const uint32_t *a, const uint32_t *b);
EMULATED_MEETING void optc_mma_m16n8k8_f16(float *c, uint32_t a0, uint32_t a1, uint32_t b);
#define EMULATED_BYTES(types)                                                                    \
    EMULATED_MEETING void optc_mma_m16n8k32_##types(int *c, const uint32_t *a, const uint32_t *b); \
    EMULATED_MEETING void optc_mma_m8n8k16_##types(int *c, uint32_t a, uint32_t b);
EMULATED_BYTES(s8s8) EMULATED_BYTES(s8u8) EMULATED_BYTES(u8s8) EMULATED_BYTES(u8u8)
void optc_copy_16(void *shared, const void *global, int inside);
void optc_copy_8(void *shared, const void *global, int inside);
void optc_copy_4(void *shared, const void *global, int inside);
void optc_commit();
void emulated_wait(int groups);
template <int N> static inline void optc_wait() { emulated_wait(N); }

/* --- math: overloads of C++ and the names of the device */
#define EMULATED_MATH(name) static inline float name(float x) { return name##f(x); }
EMULATED_MATH(exp) EMULATED_MATH(exp2) EMULATED_MATH(log) EMULATED_MATH(log2) EMULATED_MATH(sqrt)
EMULATED_MATH(sin) EMULATED_MATH(cos) EMULATED_MATH(tan) EMULATED_MATH(tanh) EMULATED_MATH(erf)
EMULATED_MATH(floor) EMULATED_MATH(ceil) EMULATED_MATH(round) EMULATED_MATH(trunc) EMULATED_MATH(fabs)
EMULATED_MATH(rint) EMULATED_MATH(nearbyint) EMULATED_MATH(log10) EMULATED_MATH(log1p) EMULATED_MATH(expm1)
EMULATED_MATH(sinh) EMULATED_MATH(cosh) EMULATED_MATH(asin) EMULATED_MATH(acos) EMULATED_MATH(atan)
EMULATED_MATH(asinh) EMULATED_MATH(acosh) EMULATED_MATH(atanh)
static inline float pow(float x, float y) { return powf(x, y); }
static inline float atan2(float x, float y) { return atan2f(x, y); }
static inline float fmod(float x, float y) { return fmodf(x, y); }
static inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
static inline float fmax(float x, float y) { return fmaxf(x, y); }
static inline float fmin(float x, float y) { return fminf(x, y); }
static inline long long abs(long long x) { return x < 0 ? -x : x; }
static inline float abs(float x) { return fabsf(x); }
static inline double abs(double x) { return fabs(x); }
#define EMULATED_EXTREMES(T)                                      \
    static inline T max(T a, T b) { return a > b ? a : b; }       \
    static inline T min(T a, T b) { return a < b ? a : b; }
EMULATED_EXTREMES(int) EMULATED_EXTREMES(unsigned) EMULATED_EXTREMES(long) EMULATED_EXTREMES(unsigned long)
EMULATED_EXTREMES(long long) EMULATED_EXTREMES(unsigned long long)
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline float min(float a, float b) { return fminf(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline float emulated_rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float emulated_rsqrt(float x) { return 1.0f / sqrtf(x); }
static inline double emulated_rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline int __float2int_rn(float x) { return (int)rintf(x); }
static inline int __float2int_rz(float x) { return (int)truncf(x); }
static inline int __float2int_rd(float x) { return (int)floorf(x); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline int __float_as_int(float x) { int y; memcpy(&y, &x, 4); return y; }
static inline unsigned __float_as_uint(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
static inline float __int_as_float(int x) { float y; memcpy(&y, &x, 4); return y; }
static inline long long __double_as_longlong(double x) { long long y; memcpy(&y, &x, 8); return y; }
static inline double __longlong_as_double(long long x) { double y; memcpy(&y, &x, 8); return y; }
static inline float __uint_as_float(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __mul24(int x, int y) { return x * y; }
static inline int __mulhi(int x, int y) { return (int)((long long)x * y >> 32); }
static inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((unsigned long long)x * y >> 32); }
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 32; i += 8) c += (int)(int8_t)(a >> i) * (int)(int8_t)(b >> i);
    return c;
}
static inline float emulated_exp10f(float x) { return powf(10.0f, x); }
/* The C library declares some of these names for itself. */
#define rsqrtf emulated_rsqrtf
#define rsqrt emulated_rsqrt
#define __expf expf
#define __exp10f emulated_exp10f
#define __logf logf
#define __log2f log2f
#define __log10f log10f
#define __sinf sinf
#define __cosf cosf
#define __tanf tanf
#define __powf powf
#define __tanhf tanhf
