/* The functions of backends/warp.py on the CPU, written from the PTX ISA (8.5) and not from their use:
   every lane lays its fragments into whole matrices, by the formulas of the section that is named. */
#pragma once

namespace emulated {

struct Fragments {
    const uint32_t *a, *b;
    const void *row;
};
static Fragments boards[MAXIMUM];

/* All lanes of a warp show what they brought. They read it until `part`. */
static const Fragments *gather(emulated_shuffle how, Fragments mine)
{
    int first = current / 32 * 32;
    if (thread_count - first < 32) misuse("a warp function of 32 lanes in a warp of %d", thread_count - first);
    boards[current] = mine;
    (void)emulated_meet(0xffffffffu, how, 0, 0, 32);
    for (int lane = 0; lane < 32; ++lane)
        if (threads[first + lane].state == DONE) misuse("lane %d has left before a warp function of 32", lane);
    return boards + first;
}
static double wide(float) { return 0; }
static unsigned wide(int) { return 0; }
static float number(half value) { return (float)value; }
static float number(nv_bfloat16 value) { return (float)value; }
static int number(int8_t value) { return value; }
static int number(uint8_t value) { return value; }
static void part() { (void)emulated_meet(0xffffffffu, EMULATED_VOTE, 0, 0, 32); }

template <class T> static T element(const uint32_t *registers, int i)
{
    T value;
    memcpy(&value, (const unsigned char *)registers + i * sizeof(T), sizeof(T));
    return value;
}

/* Where the i-th element of a lane's fragment lies in its matrix. */
struct Place {
    int row, column;
};
using Where = Place (*)(int group, int in_group, int i);

/* c += a b, with `count` elements of a and of b in each lane's fragments. */
template <class A, class B, class C>
static void product(C *c, Where in_a, int a_count, Where in_b, int b_count, Where in_c, int c_count, int depth,
                    const uint32_t *a, const uint32_t *b)
{
    const Fragments *lanes = gather(EMULATED_PRODUCT, {a, b, nullptr});
    using Wide = __typeof__(wide((C)0));
    static Wide left[16][32], right[32][8];
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < a_count; ++i) {
            Place at = in_a(lane >> 2, lane % 4, i);
            left[at.row][at.column] = (Wide)number(element<A>(lanes[lane].a, i));
        }
        for (int i = 0; i < b_count; ++i) {
            Place at = in_b(lane >> 2, lane % 4, i);
            right[at.row][at.column] = (Wide)number(element<B>(lanes[lane].b, i));
        }
    }
    for (int i = 0; i < c_count; ++i) {
        Place at = in_c(current % 32 >> 2, current % 4, i);
        Wide sum = (Wide)c[i];
        for (int k = 0; k < depth; ++k) sum += left[at.row][k] * right[k][at.column];
        c[i] = (C)sum;
    }
    part();
}

/* 9.7.14.5.7, mma.m16n8k8 with .f16 */
static Place a_k8(int group, int in_group, int i) { return {i < 2 ? group : group + 8, in_group * 2 + (i & 1)}; }
static Place b_k8(int group, int in_group, int i) { return {in_group * 2 + i, group}; }
/* 9.7.14.5.8, mma.m16n8k16 with floating point type */
static Place a_k16(int group, int in_group, int i)
{
    int row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
    return {row, i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8};
}
static Place b_k16(int group, int in_group, int i)
{
    return {i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8, group};
}
/* Those two, and mma.m16n8k32: accumulators */
static Place c_16(int group, int in_group, int i) { return {i < 2 ? group : group + 8, in_group * 2 + (i & 1)}; }
/* 9.7.14.5.10, mma.m16n8k32 with integer type; sums wrap without .satfinite */
static Place a_k32(int group, int in_group, int i)
{
    int row = i < 4 || (8 <= i && i < 12) ? group : group + 8;
    return {row, i < 8 ? in_group * 4 + (i & 3) : in_group * 4 + (i & 3) + 16};
}
static Place b_k32(int group, int in_group, int i)
{
    return {i < 4 ? in_group * 4 + (i & 3) : in_group * 4 + (i & 3) + 16, group};
}
/* 9.7.14.5.3, mma.m8n8k16 */
static Place a_8(int group, int in_group, int i) { return {group, in_group * 4 + i}; }
static Place b_8(int group, int in_group, int i) { return {in_group * 4 + i, group}; }
static Place c_8(int group, int in_group, int i) { return {group, in_group * 2 + i}; }

static bool is_shared(const void *place, size_t bytes)
{
    auto *p = (const unsigned char *)place;
    if (p >= kernel->shared && p + bytes <= kernel->shared_end) return true;
    return emulated_dynamic && owner(p) == owner(emulated_dynamic) && emulated_inside(p, bytes);
}

/* 9.7.14.5.15, ldmatrix.x4: lane 8 i + j addresses row j of matrix i; lane L gets elements 2 (L % 4)
   and the next of row L / 4 of each matrix, with .trans those of column L / 4. */
static void matrices(uint32_t *r, const void *row, bool turned)
{
    if ((uintptr_t)row % 16) misuse("ldmatrix of an address that is no multiple of 16 bytes");
    if (!is_shared(row, 16)) misuse("ldmatrix of bytes outside of shared memory");
    const Fragments *lanes = gather(turned ? EMULATED_TURNED : EMULATED_MATRICES, {nullptr, nullptr, row});
    int line = current % 32 / 4, pair = 2 * (current % 4);
    for (int matrix = 0; matrix < 4; ++matrix) {
        uint16_t halves[2];
        for (int i = 0; i < 2; ++i) {
            int from = turned ? pair + i : line, column = turned ? line : pair + i;
            auto *half = (const uint16_t *)lanes[8 * matrix + from].row + column;
            touch(half, 2, false);
            halves[i] = *half;
        }
        memcpy(&r[matrix], halves, 4);
    }
    part();
}

/* 9.7.8.25.3, cp.async: bytes arrive some time before the wait for their group. Both extremes are
   played: with it, when threads start forwards, and at once, when they start backwards. */
struct Arriving {
    void *to;
    const void *from;
    int bytes, inside, group;
};
static struct {
    Arriving *items;
    int count, room, group;
} arriving[MAXIMUM];

static void arrive(const Arriving &item)
{
    arrived(item.to, (size_t)item.bytes);
    if (item.inside) memcpy(item.to, item.from, (size_t)item.bytes);
    else memset(item.to, 0, (size_t)item.bytes);
}
static void copy(void *to, const void *from, int bytes, int inside)
{
    if ((uintptr_t)to % bytes || (uintptr_t)from % bytes) misuse("cp.async of misaligned %d bytes", bytes);
    if (!is_shared(to, (size_t)bytes)) misuse("cp.async to bytes outside of shared memory");
    auto &mine = arriving[current];
    if (inside) (void)*(const volatile char *)from; /* an illegal address is reported here */
    if (inside) touch(from, (size_t)bytes, false);
    touch(to, (size_t)bytes, true, true);
    if (backwards) return arrive({to, from, bytes, inside, 0});
    if (mine.count == mine.room) {
        mine.room = mine.room ? 2 * mine.room : 64;
        mine.items = (Arriving *)realloc(mine.items, (size_t)mine.room * sizeof *mine.items);
    }
    mine.items[mine.count++] = {to, from, bytes, inside, mine.group};
}
static void wait_for_copies(int groups)
{
    auto &mine = arriving[current];
    int kept = 0;
    for (int i = 0; i < mine.count; ++i)
        if (mine.items[i].group < mine.group - groups) arrive(mine.items[i]);
        else mine.items[kept++] = mine.items[i];
    mine.count = kept;
}
static void forget_copies()
{
    for (int i = 0; i < thread_count; ++i) arriving[i].count = arriving[i].group = 0;
}

}

void optc_matrices(uint32_t *r, const void *row) { emulated::matrices(r, row, false); }
void optc_turned_matrices(uint32_t *r, const void *row) { emulated::matrices(r, row, true); }
void optc_mma_m16n8k16_f16(float *c, const uint32_t *a, const uint32_t *b)
{
    using namespace emulated;
    product<half, half>(c, a_k16, 8, b_k16, 4, c_16, 4, 16, a, b);
}
void optc_mma_m16n8k16_bf16(float *c, const uint32_t *a, const uint32_t *b)
{
    using namespace emulated;
    product<nv_bfloat16, nv_bfloat16>(c, a_k16, 8, b_k16, 4, c_16, 4, 16, a, b);
}
void optc_mma_m16n8k8_f16(float *c, uint32_t a0, uint32_t a1, uint32_t b)
{
    using namespace emulated;
    const uint32_t a[2] = {a0, a1};
    product<half, half>(c, a_k8, 4, b_k8, 2, c_16, 4, 8, a, &b);
}
#define EMULATED_BYTES_PRODUCTS(types, A, B)                                                  \
    void optc_mma_m16n8k32_##types(int *c, const uint32_t *a, const uint32_t *b)              \
    {                                                                                         \
        emulated::product<A, B>(c, emulated::a_k32, 16, emulated::b_k32, 8, emulated::c_16, 4, 32, a, b); \
    }                                                                                         \
    void optc_mma_m8n8k16_##types(int *c, uint32_t a, uint32_t b)                             \
    {                                                                                         \
        emulated::product<A, B>(c, emulated::a_8, 4, emulated::b_8, 4, emulated::c_8, 2, 16, &a, &b); \
    }
EMULATED_BYTES_PRODUCTS(s8s8, int8_t, int8_t)
EMULATED_BYTES_PRODUCTS(s8u8, int8_t, uint8_t)
EMULATED_BYTES_PRODUCTS(u8s8, uint8_t, int8_t)
EMULATED_BYTES_PRODUCTS(u8u8, uint8_t, uint8_t)
void optc_copy_16(void *to, const void *from, int inside) { emulated::copy(to, from, 16, inside); }
void optc_copy_8(void *to, const void *from, int inside) { emulated::copy(to, from, 8, inside); }
void optc_copy_4(void *to, const void *from, int inside) { emulated::copy(to, from, 4, inside); }
void optc_commit() { ++emulated::arriving[emulated::current].group; }
void emulated_wait(int groups) { emulated::wait_for_copies(groups); }
