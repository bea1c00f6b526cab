/* Runs a grid on the CPU: blocks one after another, the threads of a block as coroutines.

   A thread runs on the stack of whoever started it until it meets others; only then does the next
   one get a stack of its own. So kernels without barriers cost a call for each thread. */
#pragma once
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

#pragma clang attribute push(__attribute__((no_sanitize("thread"))), apply_to = function) /* see races.h */
#include "memory.h"
#ifndef __x86_64__
#error "the emulator switches stacks on x86-64 only"
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
unsigned char *emulated_dynamic;

namespace emulated {

enum { STACK = 128 << 10, MAXIMUM = 1024, SHARED = 227 << 10, NAMED = 48 << 10 /* without asking */ };
enum State { FRESH, READY, AT_BARRIER, IN_WARP, DONE };

struct Kernel {
    const char *name;
    void (*call)(void **operands);
    int operands;
    unsigned char *shared, *shared_end;
};

struct Thread {
    State state;
    int fiber;
    const void *site;
    unsigned mask;
    emulated_shuffle how;
    uint64_t value, result;
    int lane, width;
};

struct Fiber {
    void *stack_pointer;
    char *stack;
};

static Thread threads[MAXIMUM];
static Fiber fibers[MAXIMUM];
static int idle[MAXIMUM], idle_count, fiber_count;
static int thread_count, startable, started, finished, current, running, backwards;
static void *scheduler_stack;
static const Kernel *kernel;
static void **operands;
static char *message;
static size_t message_room;
static sigjmp_buf escape;

extern "C" void emulated_switch(void **from, void *to);
__asm__(".text\n.globl emulated_switch\n.hidden emulated_switch\nemulated_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

static void place(int thread)
{
    current = thread;
    threadIdx.x = (unsigned)thread % blockDim.x;
    threadIdx.y = (unsigned)thread / blockDim.x % blockDim.y;
    threadIdx.z = (unsigned)thread / (blockDim.x * blockDim.y);
}

[[noreturn]] static void misuse(const char *format, ...)
{
    int used = snprintf(message, message_room, "kernel %s, block (%u, %u, %u): ", kernel->name, blockIdx.x,
                        blockIdx.y, blockIdx.z);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message + used, message_room - (size_t)used, format, arguments);
    va_end(arguments);
    siglongjmp(escape, 1);
}

}
#include "races.h"

namespace emulated {

/* --- threads and stacks */
static void run_threads()
{
    const int self = running;
    for (;;) {
        while (started < startable) {
            int thread = backwards ? thread_count - 1 - started : started;
            ++started;
            threads[thread].fiber = self;
            place(thread);
            kernel->call(operands);
            threads[thread].state = DONE;
            ++finished;
        }
        idle[idle_count++] = self;
        emulated_switch(&fibers[self].stack_pointer, scheduler_stack);
    }
}

static void resume(int fiber)
{
    running = fiber;
    emulated_switch(&scheduler_stack, fibers[fiber].stack_pointer);
}

static void prepare(Fiber &fiber)
{
    if (!fiber.stack) {
        fiber.stack = (char *)mmap(nullptr, STACK, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (fiber.stack == MAP_FAILED) abort();
        mprotect(fiber.stack, PAGE, PROT_NONE);
    }
    auto *top = (void **)(fiber.stack + STACK) - 2; /* as if `run_threads` had been called: 8 mod 16 */
    *--top = nullptr;
    *--top = (void *)run_threads;
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    fiber.stack_pointer = top;
}

static void start_more()
{
    int fiber = idle_count ? idle[--idle_count] : fiber_count;
    if (fiber == fiber_count) prepare(fibers[fiber_count++]);
    resume(fiber);
}

static void wait(State state)
{
    threads[current].state = state;
    emulated_switch(&fibers[threads[current].fiber].stack_pointer, scheduler_stack);
}

/* --- meetings */
static int members(int warp) { return thread_count - warp * 32 < 32 ? thread_count - warp * 32 : 32; }

static uint64_t answer(const Thread *lanes, int lane, int count, unsigned voted)
{
    const Thread &t = lanes[lane];
    int first = lane / t.width * t.width, from = lane;
    switch (t.how) {
    default: return voted;
    case EMULATED_INDEX: from = first + (t.lane & (t.width - 1)); break;
    case EMULATED_UP: from = lane - t.lane < first ? lane : lane - t.lane; break;
    case EMULATED_DOWN: from = lane + t.lane >= first + t.width ? lane : lane + t.lane; break;
    case EMULATED_XOR: from = (lane ^ t.lane) >= first + t.width ? lane : lane ^ t.lane; break;
    }
    bool there = from < count && lanes[from].state == IN_WARP && (t.mask >> from & 1);
    return there ? lanes[from].value : ~(uint64_t)0; /* undefined on the device: NaN here */
}

/* Lets a group of lanes go when all that its mask names, and that still live, are there. */
static bool release_lanes(int warp)
{
    Thread *lanes = threads + warp * 32;
    int count = members(warp);
    for (int lane = 0; lane < count; ++lane) {
        if (lanes[lane].state != IN_WARP) continue;
        unsigned mask = lanes[lane].mask, voted = 0;
        if (!(mask >> lane & 1)) misuse("lane %d calls a warp function whose mask %#x omits it", lane, mask);
        bool all = true;
        for (int other = 0; other < count; ++other) {
            if (!(mask >> other & 1) || lanes[other].state == DONE) continue;
            if (lanes[other].state != IN_WARP) all = false;
            else if (lanes[other].mask != mask || lanes[other].how != lanes[lane].how)
                misuse("lanes %d and %d of a warp meet in different warp functions or masks", lane, other);
            else if (lanes[other].how == EMULATED_VOTE && lanes[other].value) voted |= 1u << other;
        }
        if (!all) continue;
        for (int other = 0; other < count; ++other)
            if ((mask >> other & 1) && lanes[other].state == IN_WARP)
                lanes[other].result = answer(lanes, other, count, voted);
        for (int other = 0; other < count; ++other)
            if ((mask >> other & 1) && lanes[other].state == IN_WARP) lanes[other].state = READY;
        return true;
    }
    return false;
}

static void release_barrier()
{
    const void *site = nullptr;
    int waiting = 0, in_warp = 0;
    for (int i = 0; i < thread_count; ++i) {
        in_warp += threads[i].state == IN_WARP;
        if (threads[i].state != AT_BARRIER) continue;
        ++waiting;
        if (site && site != threads[i].site) misuse("its threads wait at different barriers");
        site = threads[i].site;
    }
    if (in_warp) misuse("%d threads wait for others of their warp, which never come", in_warp);
    if (finished)
        misuse("%d threads wait at a barrier and %d have returned", waiting, finished);
    for (int i = 0; i < thread_count; ++i) threads[i].state = READY;
    next_interval();
}

/* Runs a warp until none of its threads can go on; whether any did. Other warps stay where they are, so
   that what they have not yet written is missed where no barrier waits for it. */
static bool run_warp(int warp)
{
    int count = members(warp);
    bool ran = false, progress;
    do {
        progress = false;
        for (int i = 0; i < count; ++i) {
            int thread = warp * 32 + (backwards ? count - 1 - i : i);
            if (threads[thread].state != READY) continue;
            progress = true;
            place(thread);
            resume(threads[thread].fiber);
        }
        while (release_lanes(warp)) progress = true;
        ran |= progress;
    } while (progress);
    return ran;
}

static void forget_copies();
static void run_block(size_t shared_bytes)
{
    memset(kernel->shared, POISON, (size_t)(kernel->shared_end - kernel->shared));
    if (shared_bytes) memset(emulated_dynamic, POISON, shared_bytes);
    for (int i = 0; i < thread_count; ++i) threads[i].state = FRESH;
    started = finished = startable = 0;
    forget_copies();
    watch_block();
    int warps = (thread_count + 31) / 32;
    while (finished < thread_count) {
        bool ran = false;
        for (int i = 0; i < warps; ++i) {
            int warp = backwards ? warps - 1 - i : i;
            if (startable < thread_count) {
                startable += members(warp);
                while (started < startable) start_more();
                ran = true;
            }
            ran |= run_warp(warp);
        }
        if (!ran) release_barrier();
    }
}

/* --- what the device would report as an illegal address or instruction */
static volatile sig_atomic_t inside;
static struct sigaction before[4];
static const int signals[4] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};

static void fault(int number, siginfo_t *info, void *)
{
    if (!inside) { /* not ours: let it happen again under the handler that was there */
        for (int i = 0; i < 4; ++i) sigaction(signals[i], &before[i], nullptr);
        return;
    }
    int used = snprintf(message, message_room, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u): ",
                        kernel->name, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    char *rest = message + used;
    size_t room = message_room - (size_t)used;
    Allocation *a = owner(info->si_addr);
    if (number == SIGSEGV && info->si_code == SI_KERNEL) number = SIGILL; /* an aligned move that was not */
    if (number == SIGILL) 
        snprintf(rest, room, "a misaligned address, an index outside of its array, or a division by zero");
    else if (number == SIGFPE) snprintf(rest, room, "a division by zero");
    else if (!a) snprintf(rest, room, "an address outside of all memory: %p", info->si_addr);
    else {
        int which = -1;
        for (int i = 0; i < kernel->operands; ++i)
            if (owner(operands[i]) == a) which = i;
        used = snprintf(rest, room, "byte %td of the %zu bytes of ", (unsigned char *)info->si_addr - a->start,
                        a->bytes);
        if (which < 0) snprintf(rest + used, room - (size_t)used, "its dynamic shared memory");
        else snprintf(rest + used, room - (size_t)used, "operand %d", which);
    }
    siglongjmp(escape, 1);
}

static void watch(bool on)
{
    static char stack[64 << 10];
    static stack_t old;
    stack_t mine = {};
    mine.ss_sp = stack;
    mine.ss_size = sizeof stack;
    if (on) sigaltstack(&mine, &old);
    struct sigaction action = {};
    action.sa_sigaction = fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int i = 0; i < 4; ++i) on ? sigaction(signals[i], &action, &before[i]) : sigaction(signals[i], &before[i], nullptr);
    if (!on) sigaltstack(&old, nullptr);
    inside = on;
}

static void run_grid(size_t shared_bytes)
{
    unsigned count = gridDim.x * gridDim.y * gridDim.z;
    for (unsigned i = 0; i < count; ++i) {
        unsigned block = backwards ? count - 1 - i : i;
        blockIdx = {block % gridDim.x, block / gridDim.x % gridDim.y, block / (gridDim.x * gridDim.y)};
        run_block(shared_bytes);
    }
}

/* --- kernels as the table at the end of the source lists them */
template <class T, T... I> struct Indices {};

template <class... A, int... I> static void spread(void (*f)(A...), void **a, Indices<int, I...>)
{
    f((A)a[I]...);
}
template <auto F, class... A> static void call_with(void (*)(A...), void **a)
{
    spread(F, a, __make_integer_seq<Indices, int, sizeof...(A)>());
}
template <auto F> static void call(void **a) { call_with<F>(F, a); }
template <class... A> constexpr int count(void (*)(A...)) { return sizeof...(A); }

}

void __syncthreads()
{
    using namespace emulated;
    threads[current].site = __builtin_return_address(0);
    wait(AT_BARRIER);
}

void __syncwarp(unsigned mask)
{
    (void)emulated_meet(mask, EMULATED_VOTE, 0, 0, 32);
    if (mask == 0xffffffffu) ++emulated::meetings[emulated::current];
}

uint64_t emulated_meet(unsigned mask, emulated_shuffle how, uint64_t value, int lane, int width)
{
    using namespace emulated;
    Thread &t = threads[current];
    t.mask = mask, t.how = how, t.value = value, t.lane = lane, t.width = width;
    wait(IN_WARP);
    return t.result;
}

#include "warp.h"

extern const emulated::Kernel emulated_kernels[];

/* The number of operands of a kernel, -1 where there is none of this name. */
extern "C" int emulated_operands(const char *name)
{
    for (auto *k = emulated_kernels; k->name; ++k)
        if (strcmp(k->name, name) == 0) return k->operands;
    return -1;
}

/* Runs a grid; 0, or -1 with a sentence in `text`. One launch at a time. */
extern "C" int emulated_launch(const char *name, const unsigned *grid, const unsigned *block, void **arguments,
                               size_t shared_bytes, int order, char *text, size_t room)
{
    using namespace emulated;
    for (kernel = emulated_kernels; kernel->name && strcmp(kernel->name, name) != 0; ++kernel) {}
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    thread_count = (int)(block[0] * block[1] * block[2]);
    message = text, message_room = room, operands = arguments, backwards = order;
    if (!kernel->name || thread_count < 1 || thread_count > MAXIMUM || shared_bytes > SHARED) {
        snprintf(text, room, "%s cannot be launched like this", name);
        return -1;
    }
    if (kernel->shared_end - kernel->shared > NAMED) {
        snprintf(text, room, "kernel %s names %td bytes of shared memory, more than %d", name,
                 kernel->shared_end - kernel->shared, NAMED);
        return -1;
    }
    void *dynamic = shared_bytes ? emulated_alloc(shared_bytes, 128) : nullptr;
    emulated_dynamic = (unsigned char *)dynamic;
    watch_launch(!order);
    watch(true);
    int failed = sigsetjmp(escape, 1);
    if (!failed) run_grid(shared_bytes);
    watch(false);
    if (failed) { /* stacks were left in the middle: they begin anew */
        for (int i = 0; i < fiber_count; ++i) prepare(fibers[i]);
        idle_count = 0;
        for (int i = fiber_count; i-- > 0;) idle[idle_count++] = i;
    }
    if (!failed && emulated_spilled()) {
        snprintf(text, room, "kernel %s writes beside its operands or its shared memory", name);
        failed = 1;
    }
    if (dynamic) emulated_free(dynamic);
    return failed ? -1 : 0;
}
#pragma clang attribute pop
