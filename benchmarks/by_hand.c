/* What code written by hand reaches on products of 17 columns by 17 rows of weights, one core of an AVX-512 machine
   with VNNI and bf16: the shape that stays furthest below its limit in results/kernels.md. Prints nanoseconds of a
   call, the empty call taken off, and each is checked against a plain loop first.

       cc -O3 -march=native benchmarks/by_hand.c -o by_hand && ./by_hand

   vectors: two vectors for each row, as for any other width. tail: the 17th column along K, as gemm does it. */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { N = 17, MOST = 512, LANES = 16, TILE = 8, TALL = 16, BATCHES = 200 };

static float left[MOST * N + 64], weights[N][N], found[MOST * N + 64];
static uint8_t bytes[MOST * N + 64];
static int8_t byte_weights[N][N];
static int32_t sums[MOST * N + 64];
static uint16_t halves[MOST * N + 64], half_found[MOST * N + 64];
/* Packed: [k][32] floats, [k / 4][32] words of bytes, [k / 2][32] words of halves. */
static float packed[N][32], last[LANES], corner[LANES];
static int32_t byte_words[5][32], half_words[9][32];

static void vectors_f32(long m)
{
    for (long r = 0; r < m; r += TILE) {
        __m512 s[TILE][2] = {0};
#pragma GCC unroll 17
        for (int k = 0; k < N; ++k) {
            __m512 a = _mm512_loadu_ps(packed[k]), b = _mm512_loadu_ps(packed[k] + LANES);
#pragma GCC unroll 8
            for (int i = 0; i < TILE; ++i) {
                __m512 x = _mm512_set1_ps(left[(r + i) * N + k]);
                s[i][0] = _mm512_fmadd_ps(x, a, s[i][0]);
                s[i][1] = _mm512_fmadd_ps(x, b, s[i][1]);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < TILE; ++i) {
            _mm512_storeu_ps(found + (r + i) * N, s[i][0]);
            _mm_store_ss(found + (r + i) * N + LANES, _mm512_castps512_ps128(s[i][1]));
        }
    }
}

static void tail_f32(long m)
{
    const __m512 along = _mm512_loadu_ps(last), end = _mm512_loadu_ps(corner);
    for (long r = 0; r < m; r += TALL) {
        __m512 s[TALL], t[TALL];
#pragma GCC unroll 16
        for (int i = 0; i < TALL; ++i) {
            s[i] = _mm512_setzero_ps();
            t[i] = _mm512_mul_ps(_mm512_loadu_ps(left + (r + i) * N), along);
        }
#pragma GCC unroll 17
        for (int k = 0; k < N; ++k) {
            __m512 a = _mm512_loadu_ps(packed[k]);
#pragma GCC unroll 16
            for (int i = 0; i < TALL; ++i) {
                __m512 x = _mm512_set1_ps(left[(r + i) * N + k]);
                s[i] = _mm512_fmadd_ps(x, a, s[i]);
                if (k == LANES) t[i] = _mm512_fmadd_ps(x, end, t[i]);
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < TALL; ++i) {
            _mm512_storeu_ps(found + (r + i) * N, s[i]);
            found[(r + i) * N + LANES] = _mm512_reduce_add_ps(t[i]);
        }
    }
}

static void vectors_i8(long m)
{
    for (long r = 0; r < m; ++r) {
        const uint8_t *row = bytes + r * N;
        __m512i s = _mm512_setzero_si512(), t = s;
#pragma GCC unroll 5
        for (int k = 0; k < 5; ++k) {
            int32_t word = row[LANES];
            if (k < 4) memcpy(&word, row + 4 * k, sizeof word);
            __m512i x = _mm512_set1_epi32(word);
            s = _mm512_dpbusd_epi32(s, x, _mm512_loadu_si512(byte_words[k]));
            t = _mm512_dpbusd_epi32(t, x, _mm512_loadu_si512(byte_words[k] + LANES));
        }
        _mm512_storeu_si512(sums + r * N, s);
        sums[r * N + LANES] = _mm_cvtsi128_si32(_mm512_castsi512_si128(t));
    }
}

static void vectors_bf16(long m)
{
    for (long r = 0; r < m; r += TILE) {
        __m512 s[TILE][2] = {0};
#pragma GCC unroll 9
        for (int k = 0; k < 9; ++k) {
            __m512bh a = (__m512bh)_mm512_loadu_si512(half_words[k]);
            __m512bh b = (__m512bh)_mm512_loadu_si512(half_words[k] + LANES);
#pragma GCC unroll 8
            for (int i = 0; i < TILE; ++i) {
                const uint16_t *row = halves + (r + i) * N;
                int32_t word = row[LANES];
                if (k < 8) memcpy(&word, row + 2 * k, sizeof word);
                __m512bh x = (__m512bh)_mm512_set1_epi32(word);
                s[i][0] = _mm512_dpbf16_ps(s[i][0], x, a);
                s[i][1] = _mm512_dpbf16_ps(s[i][1], x, b);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < TILE; ++i) {
            uint16_t *to = half_found + (r + i) * N;
            _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(s[i][0]));
            to[LANES] = (uint16_t)_mm256_extract_epi16((__m256i)_mm512_cvtneps_pbh(s[i][1]), 0);
        }
    }
}

static void nothing(long m) { (void)m; }

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static double best(void (*volatile function)(long), long m)
{
    double least = INFINITY;
    for (int batch = 0; batch < BATCHES; ++batch) {
        double start = now();
        for (int call = 0; call < 200; ++call) {
            function(m);
            _mm_lfence();
        }
        double took = (now() - start) / 200;
        if (took < least) least = took;
    }
    return least;
}

static float half(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static void fill(void)
{
    for (int i = 0; i < MOST * N; ++i) {
        left[i] = (float)(i % 13 - 6);
        bytes[i] = (uint8_t)(i * 7);
        uint32_t bits;
        memcpy(&bits, &left[i], sizeof bits);
        halves[i] = (uint16_t)(bits >> 16);
    }
    for (int k = 0; k < N; ++k)
        for (int n = 0; n < N; ++n) {
            weights[k][n] = packed[k][n] = (float)((k * 5 + n * 3) % 11 - 5);
            byte_weights[k][n] = (int8_t)(k * 9 - n * 4);
            ((int8_t *)byte_words[k / 4])[4 * n + k % 4] = byte_weights[k][n];
            uint32_t bits;
            memcpy(&bits, &weights[k][n], sizeof bits);
            ((uint16_t *)half_words[k / 2])[2 * n + k % 2] = (uint16_t)(bits >> 16);
        }
    for (int k = 0; k < LANES; ++k) last[k] = weights[k][LANES];
    corner[0] = weights[LANES][LANES];
}

/* Small whole numbers: floats are exact. */
static int wrong(void (*function)(long), int kind)
{
    int count = 0;
    memset(found, 0, sizeof found);
    function(MOST);
    for (int r = 0; r < MOST; ++r)
        for (int n = 0; n < N; ++n) {
            float exact = 0;
            int32_t whole = 0;
            for (int k = 0; k < N; ++k) {
                exact += left[r * N + k] * weights[k][n];
                whole += bytes[r * N + k] * byte_weights[k][n];
            }
            count += kind == 0 ? found[r * N + n] != exact
                   : kind == 1 ? sums[r * N + n] != whole
                               : fabsf(half(half_found[r * N + n]) - exact) > fabsf(exact) / 128;
        }
    return count;
}

int main(void)
{
    static const struct { const char *name; void (*function)(long); int kind; } ways[] = {
        {"f32, vectors", vectors_f32, 0}, {"f32, tail", tail_f32, 0},
        {"u8 by i8, vectors", vectors_i8, 1}, {"bf16, vectors", vectors_bf16, 2},
    };
    static const long rows[] = {16, 32, 64, 128, 512};
    fill();
    printf("| 17x17 by hand | M = 16 | 32 | 64 | 128 | 512 |\n|---|---|---|---|---|---|\n");
    for (unsigned way = 0; way < sizeof ways / sizeof *ways; ++way) {
        if (wrong(ways[way].function, ways[way].kind)) return 1;
        printf("| %s |", ways[way].name);
        for (unsigned i = 0; i < sizeof rows / sizeof *rows; ++i)
            printf(" %.0f |", best(ways[way].function, rows[i]) - best(nothing, rows[i]));
        printf("\n");
    }
    return 0;
}
