/* Runs a model with streamed weights: under load, or counting what it takes from the system. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model.h"

enum { N = 1024, RUNS = 30, THREADS = 3 };

static size_t mapped;

#ifdef COUNT_MAPS
void *__real_mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset);
int __real_munmap(void *address, size_t bytes);

static size_t pages(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

void *__wrap_mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset)
{
    void *result = __real_mmap(address, bytes, protection, flags, file, offset);
    if (result != MAP_FAILED) mapped += pages(bytes);
    return result;
}

int __wrap_munmap(void *address, size_t bytes)
{
    mapped -= pages(bytes);
    return __real_munmap(address, bytes);
}
#endif

static long high_water(void)
{
    char line[256];
    long kilobytes = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %ld", &kilobytes) == 1) break;
    if (file) fclose(file);
    return kilobytes * 1024;
}

static float x[N], right[N];

static int run(layers_model *model)
{
    static _Thread_local float y[N];
    const void *inputs[] = {x};
    void *outputs[] = {y};
    if (layers_run(model, inputs, outputs) != OPTC_OK) return 2;
    return memcmp(y, right, sizeof y) != 0;
}

static void *live(void *path)
{
    long wrong = 0;
    for (int turn = 0; turn < 4; ++turn) {
        layers_model *model;
        optc_options options = {turn % 3, turn % 2 ? OPTC_SKIP_DIGEST : 0};
        if (layers_create(path, &options, &model) != OPTC_OK) return (void *)1;
        for (int i = 0; i < (turn ? RUNS : 0); ++i) wrong += run(model);
        layers_destroy(model);
    }
    return (void *)wrong;
}

/* The file is cut while a model runs: every run is right or an error, and the last one is right. */
static int cut(const char *path)
{
    struct stat status;
    layers_model *model;
    int wrong = 0;
    if (layers_create(path, NULL, &model) != OPTC_OK || stat(path, &status) != 0) return 1;
    char *content = malloc((size_t)status.st_size);
    FILE *file = fopen(path, "rb");
    if (!file || fread(content, 1, (size_t)status.st_size, file) != (size_t)status.st_size) return 1;
    fclose(file);
    for (int i = 0; i < RUNS; ++i) {
        if (i % 5 == 2 && truncate(path, status.st_size / 2) != 0) return 1;
        if (i % 5 == 4) {
            file = fopen(path, "wb");
            if (!file || fwrite(content, 1, (size_t)status.st_size, file) != (size_t)status.st_size) return 1;
            fclose(file);
        }
        int expected = i % 5 == 2 || i % 5 == 3 ? 2 : 0;
        wrong += run(model) != expected;
    }
    free(content);
    layers_destroy(model);
    return wrong;
}

int main(int count, char **arguments)
{
    const void *inputs[] = {x};
    void *outputs[] = {right};
    layers_model *model;
    long before = high_water();
    for (int i = 0; i < N; ++i) x[i] = (float)(i % 7);
    if (count < 3) return 1;
    if (layers_create(arguments[1], NULL, &model) != OPTC_OK || layers_run(model, inputs, outputs) != OPTC_OK) {
        fprintf(stderr, "%s\n", layers_last_error());
        return 1;
    }
    if (strcmp(arguments[2], "measure") == 0) {
        int wrong = 0;
        for (int i = 0; i < 5; ++i) wrong += run(model);
        printf("mapped %zu\nbefore %ld\nhigh_water %ld\nright %d\n", mapped, before, high_water(), !wrong);
        return 0;
    }
    pthread_t threads[THREADS];
    long wrong = 0;
    for (int i = 0; i < THREADS; ++i)
        if (pthread_create(&threads[i], NULL, live, arguments[1]) != 0) return 1;
    for (int i = 0; i < RUNS; ++i) wrong += run(model);
    for (int i = 0; i < THREADS; ++i) {
        void *answer;
        pthread_join(threads[i], &answer);
        wrong += (long)answer;
    }
    layers_destroy(model);
    wrong += cut(arguments[1]);
    if (wrong) fprintf(stderr, "%ld runs were wrong\n", wrong);
    return wrong != 0;
}
