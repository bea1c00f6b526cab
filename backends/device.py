"""What every unit of device code begins with: types and constants that TVM's printer names.

TVM's own preamble wants CUDA's headers; with this one NVRTC needs nothing but the text.
"""

from optc.backends.warp import WARP_FUNCTIONS

_TYPES = """\
#ifndef OPTC_DEVICE_TYPES
#define OPTC_DEVICE_TYPES
#pragma nv_diag_suppress 177   /* a variable that is not read */
#pragma nv_diag_suppress 1046  /* a constant with more digits than its type */
#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef unsigned int uint;
typedef unsigned short ushort;
#else
#include <cstdint>
#endif
typedef unsigned char uchar;
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
#define CUDART_INF __longlong_as_double(0x7ff0000000000000LL)
#define CUDART_NAN __longlong_as_double(0xfff8000000000000LL)
struct half {
  unsigned short bits;
  __device__ half() {}
  __device__ half(float value) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value)); }
  __device__ operator float() const {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
  }
};
struct nv_bfloat16 {
  unsigned short bits;
  __device__ nv_bfloat16() {}
  __device__ nv_bfloat16(float value) {
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    unsigned wide = __float_as_uint(value);
    bits = value != value ? 0x7fff : (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
#endif
  }
  __device__ operator float() const { return __uint_as_float((unsigned)bits << 16); }
};
__device__ __forceinline__ half __float2half_rn(float value) { return half(value); }
__device__ __forceinline__ nv_bfloat16 __float2bfloat16_rn(float value)
{
  return nv_bfloat16(value);
}
#endif
"""

PREAMBLE = _TYPES + WARP_FUNCTIONS
