/* Does this CPU, and the system on it, have what the kernels were built for?
   The names are those of Linux: /proc/cpuinfo on x86, the hwcaps on ARM. */
#include <stdio.h>

#include "runtime.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

enum { EAX, EBX, ECX, EDX };
enum { NO_STATE = 0, YMM = 0x6, ZMM = 0xE6 }; /* register state that the system must save (XCR0) */

static const struct {
    const char *name;
    unsigned leaf, subleaf, reg, bit, state;
} known[] = {
    {"pni", 1, 0, ECX, 0, NO_STATE},
    {"pclmulqdq", 1, 0, ECX, 1, NO_STATE},
    {"ssse3", 1, 0, ECX, 9, NO_STATE},
    {"fma", 1, 0, ECX, 12, YMM},
    {"cx16", 1, 0, ECX, 13, NO_STATE},
    {"sse4_1", 1, 0, ECX, 19, NO_STATE},
    {"sse4_2", 1, 0, ECX, 20, NO_STATE},
    {"movbe", 1, 0, ECX, 22, NO_STATE},
    {"popcnt", 1, 0, ECX, 23, NO_STATE},
    {"aes", 1, 0, ECX, 25, NO_STATE},
    {"xsave", 1, 0, ECX, 26, NO_STATE},
    {"avx", 1, 0, ECX, 28, YMM},
    {"f16c", 1, 0, ECX, 29, YMM},
    {"rdrand", 1, 0, ECX, 30, NO_STATE},
    {"sse2", 1, 0, EDX, 26, NO_STATE},
    {"bmi1", 7, 0, EBX, 3, NO_STATE},
    {"avx2", 7, 0, EBX, 5, YMM},
    {"bmi2", 7, 0, EBX, 8, NO_STATE},
    {"avx512f", 7, 0, EBX, 16, ZMM},
    {"avx512dq", 7, 0, EBX, 17, ZMM},
    {"adx", 7, 0, EBX, 19, NO_STATE},
    {"avx512ifma", 7, 0, EBX, 21, ZMM},
    {"avx512cd", 7, 0, EBX, 28, ZMM},
    {"sha_ni", 7, 0, EBX, 29, NO_STATE},
    {"avx512bw", 7, 0, EBX, 30, ZMM},
    {"avx512vl", 7, 0, EBX, 31, ZMM},
    {"avx512vbmi", 7, 0, ECX, 1, ZMM},
    {"avx512_vbmi2", 7, 0, ECX, 6, ZMM},
    {"gfni", 7, 0, ECX, 8, NO_STATE},
    {"vaes", 7, 0, ECX, 9, YMM},
    {"vpclmulqdq", 7, 0, ECX, 10, YMM},
    {"avx512_vnni", 7, 0, ECX, 11, ZMM},
    {"avx512_bitalg", 7, 0, ECX, 12, ZMM},
    {"avx512_vpopcntdq", 7, 0, ECX, 14, ZMM},
    {"avx512_vp2intersect", 7, 0, EDX, 8, ZMM},
    {"avx512_fp16", 7, 0, EDX, 23, ZMM},
    {"avx_vnni", 7, 1, EAX, 4, YMM},
    {"avx512_bf16", 7, 1, EAX, 5, ZMM},
    {"avx_ifma", 7, 1, EAX, 23, YMM},
    {"avx_vnni_int8", 7, 1, EDX, 4, YMM},
    {"avx_ne_convert", 7, 1, EDX, 5, YMM},
    {"abm", 0x80000001u, 0, ECX, 5, NO_STATE},
    {"sse4a", 0x80000001u, 0, ECX, 6, NO_STATE},
};

static unsigned saved_state(void)
{
    unsigned registers[4], low, high;
    if (!__get_cpuid_count(1, 0, registers, registers + 1, registers + 2, registers + 3)) return 0;
    if (!(registers[ECX] >> 27 & 1)) return 0; /* no OSXSAVE: xgetbv itself would be illegal */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int present(const char *name)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; ++i) {
        if (strcmp(known[i].name, name) != 0) continue;
        unsigned registers[4] = {0};
        if (!__get_cpuid_count(known[i].leaf, known[i].subleaf, registers, registers + 1, registers + 2,
                               registers + 3))
            return 0;
        return (registers[known[i].reg] >> known[i].bit & 1) &&
               (saved_state() & known[i].state) == known[i].state;
    }
    return 0; /* unknown to this runtime: better a refusal than an illegal instruction */
}

#elif defined(__aarch64__) || defined(__arm__)
#include <sys/auxv.h>
#include <sys/prctl.h>

enum { HWCAP = 16, HWCAP2 = 26 }; /* AT_HWCAP and AT_HWCAP2 */
enum { SVE_GET_VL = 51, SVE_VL = 0xffff }; /* of prctl: bytes of a scalable vector */

static const struct {
    const char *name;
    unsigned long word;
    unsigned bit;
} known[] = {
#ifdef __aarch64__
    {"fp", HWCAP, 0},
    {"asimd", HWCAP, 1},
    {"aes", HWCAP, 3},
    {"pmull", HWCAP, 4},
    {"sha1", HWCAP, 5},
    {"sha2", HWCAP, 6},
    {"crc32", HWCAP, 7},
    {"atomics", HWCAP, 8},
    {"fphp", HWCAP, 9},
    {"asimdhp", HWCAP, 10},
    {"asimdrdm", HWCAP, 12},
    {"lrcpc", HWCAP, 15},
    {"sha3", HWCAP, 17},
    {"asimddp", HWCAP, 20},
    {"sve", HWCAP, 22},
    {"asimdfhm", HWCAP, 23},
    {"sve2", HWCAP2, 1},
    {"i8mm", HWCAP2, 13},
    {"bf16", HWCAP2, 14},
#else
    {"neon", HWCAP, 12},
    {"vfpv3", HWCAP, 13},
    {"vfpv4", HWCAP, 16},
    {"idiva", HWCAP, 17},
    {"idivt", HWCAP, 18},
    {"vfpd32", HWCAP, 19},
#endif
};

/* What this thread's scalable vectors hold; those it starts have the same length. */
static int scalable_bits(void)
{
    int found = prctl(SVE_GET_VL, 0, 0, 0, 0);
    return found < 0 ? 0 : (found & SVE_VL) * 8;
}

static int present(const char *name)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; ++i)
        if (strcmp(known[i].name, name) == 0) return getauxval(known[i].word) >> known[i].bit & 1;
    if (strcmp(name, "sve256") == 0) return scalable_bits() >= 256;
    if (strcmp(name, "sve512") == 0) return scalable_bits() >= 512;
    return 0;
}

#else
#error "no feature check for this architecture"
#endif

int optc_rt_check_features(const char *model, const char *const *features, int count)
{
    char missing[384] = "";
    size_t used = 0;
    for (int i = 0; i < count; ++i) {
        if (present(features[i])) continue;
        int more = snprintf(missing + used, sizeof missing - used, "%s%s", used ? ", " : "", features[i]);
        used += (size_t)more;
        if (used >= sizeof missing) break;
    }
    if (!used) return OPTC_OK;
    return optc_rt_fail(OPTC_WRONG_CPU, "%s needs CPU features that this machine lacks: %s", model, missing);
}
