/* Runs the candidates of a trial and times them, one call at a time.

   usage: measure FOLDER THREADS BUDGET_MS ROUNDS FLUSH_BYTES CANDIDATE...

   stdin has the trial's inputs as plain bytes, without the first one, which names the candidate.
   stdout is a list of entries, each a letter and the candidate's number as an int32_t; entries reach
   the file before the call that may never come back:
     B  the candidate is about to be called
     O  it has computed: the bytes of all outputs follow
     T  it has been timed: a uint64_t of nanoseconds follows
     E  all is done

   Candidates take turns, so that what disturbs the machine disturbs all of them. Rounds go on until
   the budget is spent, at most ROUNDS and at least FEWEST of them, so short kernels get many. After
   FEWEST rounds a candidate that takes HOPELESS times as long as the fastest is left out.
   FLUSH_BYTES are read before each call to empty the caches of what the kernel reads, its inputs
   excepted: those come fresh from the kernel before, in a model. 0 measures with warm caches.
   PREFIX is the model's. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model.h"

#define PASTE(a, b) a##_##b
#define NAME(a, b) PASTE(a, b)
#define MODEL(name) NAME(PREFIX, name)

enum { FEWEST = 5, HOPELESS = 4, ARGUMENTS = 6, MOST_CALLS = 4096 };

/* Of the runtime, which the archive holds: workers that sleep would be woken inside the timed call. */
void optc_rt_enter(int threads);
void optc_rt_leave(void);
typedef struct { void *sync_handle; int32_t num_task; } parallel_env;
extern int (*__TVMBackendParallelLaunch)(int (*)(int, parallel_env *, void *), void *, int);

typedef struct { const uint8_t *place; size_t bytes; } piece;
static volatile uint64_t sink;

static void *block(size_t bytes)
{
    void *place = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (!place) abort();
    memset(place, 0, (bytes + 64) / 64 * 64);
    return place;
}

static int failed(void)
{
    fprintf(stderr, "%s\n", MODEL(last_error)());
    return 1;
}

static double milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static void entry(char kind, int32_t candidate)
{
    fputc(kind, stdout);
    fwrite(&candidate, sizeof candidate, 1, stdout);
}

/* Each thread reads its share of the piece, a cache line at a time. */
static int read_share(int task, parallel_env *env, void *data)
{
    const piece *all = data;
    size_t share = all->bytes / (size_t)env->num_task;
    uint64_t sum = 0;
    for (size_t at = share * (size_t)task; at < share * (size_t)(task + 1); at += 64) sum += all->place[at];
    sink += sum;
    return 0;
}

/* Wakes the workers, and empties the caches when the piece is large. */
static void prepare(piece flush, int threads, const void **in, int inputs)
{
    optc_rt_enter(threads);
    __TVMBackendParallelLaunch(read_share, &flush, threads);
    optc_rt_leave();
    if (!flush.bytes) return;
    for (int i = 1; i < inputs; ++i) {
        const uint8_t *place = in[i];
        uint64_t sum = 0;
        for (size_t at = 0; at < MODEL(input)(i)->bytes; at += 64) sum += place[at];
        sink += sum;
    }
}

static int timed(MODEL(model) *model, const void **in, void **out, int candidate, uint64_t *ns)
{
    static optc_profile_entry entries[MOST_CALLS];
    *(int32_t *)(void *)(uintptr_t)in[0] = candidate;
    if (MODEL(profile_start)(model) != OPTC_OK || MODEL(run)(model, in, out) != OPTC_OK ||
        MODEL(profile_stop)(model) != OPTC_OK)
        return failed();
    if (MODEL(profile_get)(model, entries, MOST_CALLS) <= candidate) return 2;
    *ns = entries[candidate].total_ns;
    return 0;
}

int main(int argc, char **argv)
{
    MODEL(model) *model = NULL;
    if (argc < ARGUMENTS) return 2;
    int threads = atoi(argv[2]), rounds = atoi(argv[4]), count = argc - ARGUMENTS;
    int inputs = MODEL(input_count)(), outputs = MODEL(output_count)(), status;
    double budget = atof(argv[3]);
    size_t flush_bytes = (size_t)strtoull(argv[5], NULL, 10);
    const void **in = block(sizeof *in * (size_t)(inputs + 1));
    void **out = block(sizeof *out * (size_t)(outputs + 1));
    uint64_t *fastest = block(sizeof *fastest * (size_t)(count + 1)), ns;
    for (int i = 0; i < inputs; ++i) {
        size_t bytes = MODEL(input)(i)->bytes;
        void *place = block(bytes);
        if (i && fread(place, 1, bytes, stdin) != bytes) return 2;
        in[i] = place;
    }
    for (int i = 0; i < outputs; ++i) out[i] = block(MODEL(output)(i)->bytes);
    piece flush = {block(flush_bytes), flush_bytes};
    optc_options options = {threads, OPTC_COPY_WEIGHTS};
    if (MODEL(create)(argv[1], &options, &model) != OPTC_OK) return failed();

    for (int i = 0; i < count; ++i) {
        int candidate = atoi(argv[ARGUMENTS + i]);
        for (int o = 0; o < outputs; ++o) memset(out[o], 0xA5, MODEL(output)(o)->bytes);
        entry('B', candidate);
        fflush(stdout);
        if ((status = timed(model, in, out, candidate, &ns))) return status;
        fastest[i] = UINT64_MAX;
        entry('O', candidate);
        for (int o = 0; o < outputs; ++o) fwrite(out[o], 1, MODEL(output)(o)->bytes, stdout);
    }
    double end = milliseconds() + budget;
    for (int round = 0; round < rounds && (round < FEWEST || milliseconds() < end); ++round) {
        uint64_t best = UINT64_MAX;
        for (int i = 0; i < count; ++i) best = fastest[i] < best ? fastest[i] : best;
        for (int i = 0; i < count; ++i) {
            int candidate = atoi(argv[ARGUMENTS + i]);
            if (round >= FEWEST && fastest[i] / HOPELESS > best) continue;
            entry('B', candidate);
            fflush(stdout);
            prepare(flush, threads, in, inputs);
            if ((status = timed(model, in, out, candidate, &ns))) return status;
            if (ns < fastest[i]) fastest[i] = ns;
            entry('T', candidate);
            fwrite(&ns, sizeof ns, 1, stdout);
        }
    }
    entry('E', 0);
    MODEL(destroy)(model);
    return fflush(stdout) ? 2 : 0;
}
