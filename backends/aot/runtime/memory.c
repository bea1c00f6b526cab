/* Arena memory, and the scratch blocks that kernels ask for while they run. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime.h"

#define HUGE_PAGE ((size_t)2 << 20)

int optc_rt_map(struct optc_rt_block *block, size_t bytes, const char *purpose)
{
    block->address = NULL;
    block->bytes = 0;
    if (bytes == 0) return OPTC_OK;
    /* A large block starts on a huge page: GEMMs that stream megabytes lose a lot to TLB misses on
       4 KiB pages. Anonymous pages arrive zeroed. */
    size_t slack = bytes >= HUGE_PAGE ? HUGE_PAGE : 0;
    uint8_t *base = mmap(NULL, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return optc_rt_fail(OPTC_NO_MEMORY, "no memory for %zu bytes of %s: %s", bytes, purpose,
                            strerror(errno));
    if (slack) {
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        size_t head = (HUGE_PAGE - (uintptr_t)base % HUGE_PAGE) % HUGE_PAGE;
        size_t used = (bytes + page - 1) / page * page;
        if (head) munmap(base, head);
        base += head;
        if (bytes + slack - head > used) munmap(base + used, bytes + slack - head - used);
#ifdef MADV_HUGEPAGE
        madvise(base, bytes, MADV_HUGEPAGE); /* a wish: where it is refused, small pages serve */
#endif
    }
    block->address = base;
    block->bytes = bytes;
    return OPTC_OK;
}

int optc_rt_reserve(struct optc_rt_block *block, size_t bytes)
{
    if (bytes == 0) return OPTC_OK;
    void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED)
        return optc_rt_fail(OPTC_NO_MEMORY, "no address space for %zu bytes of tables: %s", bytes,
                            strerror(errno));
#ifdef MADV_NOHUGEPAGE
    madvise(address, bytes, MADV_NOHUGEPAGE); /* a row must not cost two megabytes */
#endif
    block->address = address;
    block->bytes = bytes;
    return OPTC_OK;
}

void optc_rt_unmap(struct optc_rt_block *block)
{
    if (block->bytes) munmap(block->address, block->bytes);
    block->address = NULL;
    block->bytes = 0;
}

/* Workspaces: a kernel takes a few blocks and gives them back before it returns, the same sizes
   every time, so each thread keeps its blocks. */
enum { CACHED = 8 };

struct workspaces {
    struct {
        void *address;
        size_t bytes;
        int taken;
    } blocks[CACHED];
};

static _Thread_local struct workspaces *mine;
static pthread_key_t key;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static int key_made;

static void free_workspaces(void *cache)
{
    struct workspaces *all = cache;
    for (int i = 0; i < CACHED; ++i) free(all->blocks[i].address);
    free(all);
}

static void make_key(void)
{
    key_made = pthread_key_create(&key, free_workspaces) == 0;
}

/* The library is about to be unloaded: the key's destructor must not outlive it. */
void optc_rt_release_workspaces(void)
{
    if (key_made) pthread_key_delete(key);
    key_made = 0;
    if (mine) free_workspaces(mine);
    mine = NULL;
}

static void *aligned(size_t bytes)
{
    void *address = NULL;
    if (posix_memalign(&address, OPTC_RT_ALIGNMENT, bytes ? bytes : 1) == 0) return address;
    optc_rt_fail(OPTC_NO_MEMORY, "no memory for %zu bytes of kernel workspace", bytes);
    return NULL;
}

static void *alloc_workspace(int device, int device_index, uint64_t bytes, int code, int bits)
{
    (void)device, (void)device_index, (void)code, (void)bits;
    if (bytes > SIZE_MAX / 2) return NULL;
    if (!mine) {
        pthread_once(&key_once, make_key);
        if (key_made) mine = calloc(1, sizeof *mine);
        if (!mine) return aligned((size_t)bytes);
        pthread_setspecific(key, mine);
    }
    int fit = -1, unused = -1;
    for (int i = 0; i < CACHED; ++i) {
        if (mine->blocks[i].taken) continue;
        if (mine->blocks[i].bytes < bytes) unused = i;
        else if (fit < 0 || mine->blocks[i].bytes < mine->blocks[fit].bytes) fit = i;
    }
    if (fit < 0 && unused < 0) return aligned((size_t)bytes);
    if (fit < 0) {
        fit = unused;
        free(mine->blocks[fit].address);
        mine->blocks[fit].address = aligned((size_t)bytes);
        mine->blocks[fit].bytes = mine->blocks[fit].address ? (size_t)bytes : 0;
        if (!mine->blocks[fit].address) return NULL;
    }
    mine->blocks[fit].taken = 1;
    return mine->blocks[fit].address;
}

static int free_workspace(int device, int device_index, void *address)
{
    (void)device, (void)device_index;
    for (int i = 0; mine && i < CACHED; ++i)
        if (mine->blocks[i].address == address) return mine->blocks[i].taken = 0;
    free(address);
    return 0;
}

/* Kernels reach both through pointers that they define weakly. */
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = alloc_workspace;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = free_workspace;
