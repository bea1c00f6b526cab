/* Times the calls of a model: one number for each call and round, in nanoseconds.

   usage: measure FOLDER THREADS ROUNDS BUDGET_MS

   Inputs come from stdin as plain bytes. All calls run one after the other in every round, so that
   what disturbs the machine disturbs all of them; short ones are repeated by running more rounds.
   Writes the outputs of the first run as plain bytes, for a comparison of the candidates, and then
   a uint64_t for each call of each round. PREFIX is the model's. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model.h"

#define PASTE(a, b) a##_##b
#define NAME(a, b) PASTE(a, b)
#define MODEL(name) NAME(PREFIX, name)

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

int main(int argc, char **argv)
{
    MODEL(model) *model = NULL;
    if (argc != 5) return 2;
    int rounds = atoi(argv[3]), inputs = MODEL(input_count)(), outputs = MODEL(output_count)();
    double budget = atof(argv[4]);
    const void **in = block(sizeof *in * (size_t)(inputs + 1));
    void **out = block(sizeof *out * (size_t)(outputs + 1));
    for (int i = 0; i < inputs; ++i) {
        size_t bytes = MODEL(input)(i)->bytes;
        void *place = block(bytes);
        if (fread(place, 1, bytes, stdin) != bytes) return 2;
        in[i] = place;
    }
    for (int i = 0; i < outputs; ++i) out[i] = block(MODEL(output)(i)->bytes);
    optc_options options = {atoi(argv[2]), 0};
    if (MODEL(create)(argv[1], &options, &model) != OPTC_OK) return failed();
    if (MODEL(run)(model, in, out) != OPTC_OK) return failed();
    for (int i = 0; i < outputs; ++i) fwrite(out[i], 1, MODEL(output)(i)->bytes, stdout);

    optc_profile_entry entries[512];
    double end = milliseconds() + budget;
    for (int round = 0; round < rounds && (round < 3 || milliseconds() < end); ++round) {
        if (MODEL(profile_start)(model) != OPTC_OK) return failed();
        if (MODEL(run)(model, in, out) != OPTC_OK) return failed();
        if (MODEL(profile_stop)(model) != OPTC_OK) return failed();
        int count = MODEL(profile_get)(model, entries, 512);
        uint64_t times[512];
        for (int i = 0; i < count; ++i) times[i] = entries[i].total_ns;
        fwrite(times, sizeof *times, (size_t)count, stdout);
    }
    MODEL(destroy)(model);
    return 0;
}
