"""Instructions that TVM's printer does not know, as functions of device code.

What a warp does together, and copies into shared memory that nobody waits for: PTX ISA 8.5,
sections 9.7.8.25.3 (cp.async), 9.7.14.5 (mma, ldmatrix). A product is always one of 16 rows, 8
columns and 32 bytes along the folded axis; GPUs before sm_80 take it in parts, whose fragments are
the same registers. The emulator of the tests has OPTC_INSTRUCTIONS of its own; the rest runs there
as it is.
"""

WARP_FUNCTIONS = r"""
#ifndef OPTC_WARP_FUNCTIONS
#define OPTC_WARP_FUNCTIONS
#define OPTC_INLINE __device__ __forceinline__
#ifndef OPTC_INSTRUCTIONS
#define OPTC_INSTRUCTIONS
OPTC_INLINE uint32_t optc_shared(const void *place)
{
  return (uint32_t)__cvta_generic_to_shared(place);
}
/* Four matrices of 8 x 16 bytes; lane 8 i + j gives the address of row j of matrix i. */
OPTC_INLINE void optc_matrices(uint32_t *r, const void *row)
{
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(optc_shared(row)) : "memory");
}
OPTC_INLINE void optc_turned_matrices(uint32_t *r, const void *row)
{
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(optc_shared(row)) : "memory");
}
#if __CUDA_ARCH__ >= 800
#define OPTC_MMA_HALVES(name, type)                                                        \
  OPTC_INLINE void name(float *c, const uint32_t *a, const uint32_t *b)                    \
  {                                                                                        \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, "   \
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                    \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                   \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));               \
  }
OPTC_MMA_HALVES(optc_mma_m16n8k16_f16, "f16")
OPTC_MMA_HALVES(optc_mma_m16n8k16_bf16, "bf16")
#define OPTC_MMA_BYTES(left, right)                                                        \
  OPTC_INLINE void optc_mma_m16n8k32_##left##right(int *c, const uint32_t *a, const uint32_t *b) \
  {                                                                                        \
    asm("mma.sync.aligned.m16n8k32.row.col.s32." #left "." #right ".s32 {%0, %1, %2, %3}, " \
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                    \
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                                   \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));               \
  }
#else
OPTC_INLINE void optc_mma_m16n8k8_f16(float *c, uint32_t a0, uint32_t a1, uint32_t b)
{
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(b));
}
#define OPTC_MMA_BYTES(left, right)                                                        \
  OPTC_INLINE void optc_mma_m8n8k16_##left##right(int *c, uint32_t a, uint32_t b)          \
  {                                                                                        \
    asm("mma.sync.aligned.m8n8k16.row.col.s32." #left "." #right ".s32 {%0, %1}, {%2}, "   \
        "{%3}, {%0, %1};" : "+r"(c[0]), "+r"(c[1]) : "r"(a), "r"(b));                      \
  }
#endif
OPTC_MMA_BYTES(s8, s8)
OPTC_MMA_BYTES(s8, u8)
OPTC_MMA_BYTES(u8, s8)
OPTC_MMA_BYTES(u8, u8)
/* Bytes to shared memory, which a later optc_wait sees; zeros, and nothing read, if not inside. */
#if __CUDA_ARCH__ >= 800
#define OPTC_COPY(bytes, cache, type)                                                  \
  OPTC_INLINE void optc_copy_##bytes(void *shared, const void *global, int inside)     \
  {                                                                                    \
    asm volatile("cp.async." cache ".shared.global [%0], [%1], " #bytes ", %2;"        \
                 :: "r"(optc_shared(shared)), "l"(__cvta_generic_to_global(global)),   \
                    "r"(inside ? bytes : 0) : "memory");                               \
  }
OPTC_INLINE void optc_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> OPTC_INLINE void optc_wait()
{
  asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}
#else
#define OPTC_COPY(bytes, cache, type)                                                  \
  OPTC_INLINE void optc_copy_##bytes(void *shared, const void *global, int inside)     \
  {                                                                                    \
    *(type *)shared = inside ? *(const type *)global : type();                         \
  }
OPTC_INLINE void optc_commit() {}
template <int N> OPTC_INLINE void optc_wait() {}
#endif
OPTC_COPY(16, "cg", uint4)
OPTC_COPY(8, "ca", uint2)
OPTC_COPY(4, "ca", uint32_t)
#endif
/* c += a b: 16 x 8 in f32 or s32, from 16 x 32 bytes and 32 bytes x 8. */
OPTC_INLINE void optc_product_f16(float *c, const uint32_t *a, const uint32_t *b)
{
#if __CUDA_ARCH__ >= 800
  optc_mma_m16n8k16_f16(c, a, b);
#else
  optc_mma_m16n8k8_f16(c, a[0], a[1], b[0]);
  optc_mma_m16n8k8_f16(c, a[2], a[3], b[1]);
#endif
}
#if __CUDA_ARCH__ >= 800
OPTC_INLINE void optc_product_bf16(float *c, const uint32_t *a, const uint32_t *b)
{
  optc_mma_m16n8k16_bf16(c, a, b);
}
#define OPTC_PRODUCT_BYTES(types)                                                          \
  OPTC_INLINE void optc_product_##types(int *c, const uint32_t *a, const uint32_t *b)      \
  {                                                                                        \
    optc_mma_m16n8k32_##types(c, a, b);                                                    \
  }
#else
#define OPTC_PRODUCT_BYTES(types)                                                          \
  OPTC_INLINE void optc_product_##types(int *c, const uint32_t *a, const uint32_t *b)      \
  {                                                                                        \
    optc_mma_m8n8k16_##types(c, a[0], b[0]);                                               \
    optc_mma_m8n8k16_##types(c, a[2], b[1]);                                               \
    optc_mma_m8n8k16_##types(c + 2, a[1], b[0]);                                           \
    optc_mma_m8n8k16_##types(c + 2, a[3], b[1]);                                           \
  }
#endif
OPTC_PRODUCT_BYTES(s8s8)
OPTC_PRODUCT_BYTES(s8u8)
OPTC_PRODUCT_BYTES(u8s8)
OPTC_PRODUCT_BYTES(u8u8)
/* Two numbers as the fragment of a product holds them: the first in the low half. */
template <class T> OPTC_INLINE uint32_t optc_packed(float x, float y)
{
  T low(x), high(y);
  return (uint32_t)*(unsigned short *)&low | (uint32_t)*(unsigned short *)&high << 16;
}
/* --- memory in vectors: whoever calls has asked optc_aligned before */
OPTC_INLINE int optc_aligned(const void *place, int bytes)
{
  return ((uint64_t)place & (uint64_t)(bytes - 1)) == 0;
}
template <int N> struct optc_vector {
  typedef uint4 type;
};
template <> struct optc_vector<4> {
  typedef uint32_t type;
};
template <> struct optc_vector<8> {
  typedef uint2 type;
};
template <int N> OPTC_INLINE void optc_load(void *registers, const void *place)
{
  typedef typename optc_vector<N>::type part;
  for (int i = 0; i < N / (int)sizeof(part); ++i) {
    part item = ((const part *)place)[i];
    memcpy((char *)registers + i * sizeof(part), &item, sizeof(part));
  }
}
template <int N> OPTC_INLINE void optc_store(void *place, const void *registers)
{
  typedef typename optc_vector<N>::type part;
  for (int i = 0; i < N / (int)sizeof(part); ++i) {
    part item;
    memcpy(&item, (const char *)registers + i * sizeof(part), sizeof(part));
    ((part *)place)[i] = item;
  }
}
template <class T> struct alignas(2 * sizeof(T)) optc_pair {
  T x, y;
};
template <class T, class U> OPTC_INLINE void optc_store_pair(T *place, U x, U y)
{
  optc_pair<T> both;
  both.x = T(x), both.y = T(y);
  *(optc_pair<T> *)place = both;
}
#endif
"""
