/* Races of a launch: two threads touch a byte, one of them writes, and no barrier lies between. What
   the bytes are does not matter, nor in which order the threads happened to run.

   The compiler calls a function at each load and store of a kernel, as it does for ThreadSanitizer;
   for each byte the last write and the last reads are kept (Flanagan and Freund 2009). Blocks of a
   launch never meet, so that what one writes no other may touch. cp.async writes from the copy to
   its wait: until then nobody may touch the bytes, nor may the thread that copies. Shuffles order
   nothing; __syncwarp orders its warp. Atomics are not watched. */
#pragma once

namespace emulated {

/* Readers of an interval, beside the one that is kept. */
enum Others : uint8_t { NO_OTHERS, OF_ITS_WARP, OF_OTHER_WARPS };
struct Touch {
    uint32_t interval; /* between two barriers of a block: numbered through all blocks and launches */
    uint16_t thread, meeting;
};
struct Cell { /* of a byte */
    Touch write, read;
    Others others;
    bool arriving, by_blocks; /* read by more than one */
};
struct Watched {
    const unsigned char *start, *end;
    Cell *cells;
    bool shared;
};
enum { MOST_WATCHED = 300, WATCHED_BYTES = 64 << 20 /* larger allocations are not watched */ };

static Cell shared_cells[SHARED];
static Watched watched[MOST_WATCHED];
static int watched_count;
static uint32_t interval, block_began, launch_began;
static uint16_t meetings[MAXIMUM]; /* full __syncwarp's of each thread since the barrier */
static bool watching;

static void next_interval()
{
    ++interval;
    memset(meetings, 0, sizeof meetings);
}
static void watch_block() { next_interval(), block_began = interval; }

static void watch_memory(const void *address, bool shared)
{
    Allocation *a = address ? owner(address) : nullptr;
    if (!a || a->bytes > WATCHED_BYTES || watched_count == MOST_WATCHED) return;
    for (int i = 0; i < watched_count; ++i)
        if (watched[i].start == a->start) return;
    if (!a->cells) a->cells = calloc(a->bytes + 1, sizeof(Cell));
    watched[watched_count++] = {a->start, a->start + a->bytes, (Cell *)a->cells, shared};
}
static void watch_launch(bool on)
{
    watching = on, watched_count = 0, launch_began = interval + 1;
    watched[watched_count++] = {kernel->shared, kernel->shared_end, shared_cells, true};
    watch_memory(emulated_dynamic, true);
    for (int i = 0; i < kernel->operands; ++i) watch_memory(operands[i], false);
}

/* Whether a touch lies before what the running thread does now. */
static bool ordered(const Touch &t)
{
    if (t.thread == current && t.interval >= block_began) return true;
    if (t.interval < interval) return t.interval >= block_began; /* another block's never does */
    return t.thread / 32 == current / 32 && t.meeting < meetings[current];
}
static bool reads_are_ordered(const Cell &c)
{
    if (c.others == NO_OTHERS || c.read.interval < interval) return ordered(c.read);
    return c.others == OF_ITS_WARP && c.read.thread / 32 == current / 32 && c.read.meeting < meetings[current];
}

[[noreturn]] static void race(const Watched &w, size_t byte, const char *does, const char *did, const Touch &t)
{
    const char *where = w.shared ? "shared memory" : "an operand";
    const char *who = t.interval < block_began ? "of another block " : "";
    misuse("a race: thread %d %s byte %zu of %s, which thread %u %s%s; no barrier lies between", current, does, byte,
           where, t.thread, who, did);
}

static void keep_read(Cell &c, const Touch &now)
{
    if (c.read.interval == interval && c.read.thread != current && !ordered(c.read)) {
        bool near = c.read.thread / 32 == current / 32 && c.others != OF_OTHER_WARPS;
        c.others = near ? OF_ITS_WARP : OF_OTHER_WARPS;
    } else if (c.read.interval != interval || c.others == NO_OTHERS) c.others = NO_OTHERS;
    c.by_blocks = c.read.interval >= launch_began && (c.by_blocks || c.read.interval < block_began);
    c.read = now;
}

static void touch_cell(const Watched &w, Cell &c, size_t byte, bool writes)
{
    const char *does = writes ? "writes" : "reads";
    uint32_t began = w.shared ? block_began : launch_began;
    Touch now = {interval, (uint16_t)current, meetings[current]};
    if (c.write.interval >= began) {
        if (c.arriving) race(w, byte, does, "copies to and has not waited for", c.write);
        if (!ordered(c.write)) race(w, byte, does, "wrote", c.write);
    }
    if (!writes) return keep_read(c, now);
    if (c.read.interval >= began && (!reads_are_ordered(c) || (c.by_blocks && !w.shared)))
        race(w, byte, does, c.by_blocks && !w.shared ? "and others of other blocks read" : "read", c.read);
    c.write = now, c.arriving = false;
}

static const Watched *find(const void *address)
{
    for (int i = 0; i < watched_count; ++i)
        if (address >= watched[i].start && address < watched[i].end) return &watched[i];
    return nullptr;
}

static void touch(const void *address, size_t bytes, bool writes, bool arriving = false)
{
    const Watched *w = watching ? find(address) : nullptr;
    if (!w) return;
    size_t first = (size_t)((const unsigned char *)address - w->start), room = (size_t)(w->end - w->start);
    for (size_t at = first; at < first + bytes && at < room; ++at) {
        touch_cell(*w, w->cells[at], at, writes);
        w->cells[at].arriving = arriving;
    }
}

/* Bytes that cp.async asked for are there: from now on they are as if the thread had stored them. */
static void arrived(const void *address, size_t bytes)
{
    const Watched *w = watching ? find(address) : nullptr;
    if (!w) return;
    Cell *first = w->cells + ((const unsigned char *)address - w->start);
    for (Cell *c = first; c < first + bytes; ++c)
        c->write = {interval, (uint16_t)current, meetings[current]}, c->arriving = false;
}

/* The device moves nothing that is not aligned. The compiler promises 8 of a vector's 16 bytes. */
static void touch_aligned(const void *address, size_t bytes, bool writes)
{
    if ((uintptr_t)address % (bytes > 8 ? 8 : bytes)) misuse("thread %d: a misaligned address of %zu bytes", current, bytes);
    touch(address, bytes, writes);
}

/* A copy of whole vectors. */
static void touch_all(const void *address, size_t bytes, bool writes)
{
    if ((bytes == 8 || bytes == 16) && (uintptr_t)address % bytes && find(address))
        misuse("thread %d: a misaligned address of %zu bytes", current, bytes);
    touch(address, bytes, writes);
}

}

/* --- what the compiler calls */
#define EMULATED_HOOK extern "C" __attribute__((visibility("hidden"))) void
#define EMULATED_ACCESS(bytes)                                                                     \
    EMULATED_HOOK __tsan_read##bytes(void *p) { emulated::touch_aligned(p, bytes, false); }                \
    EMULATED_HOOK __tsan_write##bytes(void *p) { emulated::touch_aligned(p, bytes, true); }                \
    EMULATED_HOOK __tsan_unaligned_read##bytes(void *p) { emulated::touch(p, bytes, false); }      \
    EMULATED_HOOK __tsan_unaligned_write##bytes(void *p) { emulated::touch(p, bytes, true); }
EMULATED_ACCESS(1) EMULATED_ACCESS(2) EMULATED_ACCESS(4) EMULATED_ACCESS(8) EMULATED_ACCESS(16)
EMULATED_HOOK __tsan_init() {}
#undef EMULATED_HOOK
#define EMULATED_HOOK extern "C" __attribute__((visibility("hidden"))) void *
EMULATED_HOOK __tsan_memcpy(void *to, const void *from, size_t bytes)
{
    emulated::touch_all(from, bytes, false);
    emulated::touch_all(to, bytes, true);
    return memcpy(to, from, bytes);
}
EMULATED_HOOK __tsan_memmove(void *to, const void *from, size_t bytes)
{
    emulated::touch_all(from, bytes, false);
    emulated::touch_all(to, bytes, true);
    return memmove(to, from, bytes);
}
EMULATED_HOOK __tsan_memset(void *to, int value, size_t bytes)
{
    emulated::touch_all(to, bytes, true);
    return memset(to, value, bytes);
}
