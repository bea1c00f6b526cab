/* Device memory whose ends are watched: pages that fault, and red bytes where it fills no page. */
#pragma once
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace emulated {

enum { PAGE = 4096, GUARD = 64 << 20 /* on both sides: addresses cost nothing */, RED = 0xA5, POISON = 0xFF };
struct Allocation {
    unsigned char *base, *start;
    size_t bytes, mapped;
    Allocation *next;
    void *cells; /* what races.h knows of its bytes */
};
static Allocation *allocations;

static size_t whole_pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

extern "C" void *emulated_alloc(size_t bytes, size_t alignment)
{
    size_t tail = (alignment - bytes % alignment) % alignment;
    size_t inner = whole_pages(bytes + tail ? bytes + tail : 1), mapped = inner + 2 * (size_t)GUARD;
    void *base = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return nullptr;
    auto *first = (unsigned char *)base + GUARD;
    if (mprotect(first, inner, PROT_READ | PROT_WRITE) != 0) return nullptr;
    auto *start = first + inner - tail - bytes;
    memset(first, RED, (size_t)(start - first));
    memset(start, POISON, bytes);
    memset(start + bytes, RED, tail);
    auto *a = (Allocation *)malloc(sizeof(Allocation));
    *a = {(unsigned char *)base, start, bytes, mapped, allocations, nullptr};
    allocations = a;
    return start;
}

static Allocation *owner(const void *address)
{
    for (auto *a = allocations; a; a = a->next)
        if (address >= a->base && address < a->base + a->mapped) return a;
    return nullptr;
}

/* Whether `bytes` from `address` on lie in one allocation. */
extern "C" int emulated_inside(const void *address, size_t bytes)
{
    auto *a = owner(address);
    auto *first = (const unsigned char *)address;
    return a && first >= a->start && bytes <= a->bytes && first - a->start <= (ptrdiff_t)(a->bytes - bytes);
}

/* The bytes of the allocation that starts at `address`, 0 where none does. */
extern "C" size_t emulated_bytes(const void *address)
{
    auto *a = owner(address);
    return a && a->start == address ? a->bytes : 0;
}

/* The allocation whose red bytes were written to, or null. */
extern "C" const void *emulated_spilled()
{
    for (auto *a = allocations; a; a = a->next) {
        for (auto *p = a->base + GUARD; p < a->start; ++p)
            if (*p != RED) return a->start;
        for (auto *p = a->start + a->bytes; p < a->base + a->mapped - GUARD; ++p)
            if (*p != RED) return a->start;
    }
    return nullptr;
}

extern "C" int emulated_free(void *address)
{
    for (auto **link = &allocations; *link; link = &(*link)->next) {
        auto *a = *link;
        if (a->start != address) continue;
        *link = a->next;
        munmap(a->base, a->mapped);
        free(a->cells);
        free(a);
        return 1;
    }
    return 0;
}

}
