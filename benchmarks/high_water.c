/* Runs an artifact and prints what the system says: kilobytes, milliseconds, a digest of the outputs.
   Compiled with -DPREFIX=<the model's prefix> against its model.h and model.so. Arguments: the artifact, runs,
   and parameters to set to infinity: thresholds of exits that are then never taken. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

#define JOIN(a, b) a##b
#define JOINED(a, b) JOIN(a, b)
#define MODEL(name) JOINED(PREFIX, name)

enum { PORTS = 64, RUNS = 100 };

static long status(const char *field)
{
    char line[256], format[32];
    long kilobytes = 0;
    FILE *file = fopen("/proc/self/status", "r");
    snprintf(format, sizeof format, "%s: %%ld", field);
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, format, &kilobytes) == 1) break;
    if (file) fclose(file);
    return kilobytes;
}

static void *buffer(const optc_port *port)
{
    unsigned char *bytes = aligned_alloc(64, (port->bytes + 63) / 64 * 64);
    if (!bytes) exit(2);
    memset(bytes, 0, port->bytes);
    for (size_t i = 0; !strcmp(port->dtype, "i64") && i < port->bytes / 8; ++i)
        ((int64_t *)(void *)bytes)[i] = (int64_t)(i * 7919 % 1000);
    for (size_t i = 0; !strcmp(port->dtype, "f32") && i < port->bytes / 4; ++i)
        ((float *)(void *)bytes)[i] = (float)(i % 17) / 17;
    return bytes;
}

int main(int count, char **arguments)
{
    MODEL(_model) *model;
    const void *inputs[PORTS];
    void *outputs[PORTS];
    uint64_t times[RUNS];
    uint64_t digest = 1469598103934665603u, fastest = UINT64_MAX;
    int runs = count > 2 ? atoi(arguments[2]) : 5;
    long before = status("VmHWM");
    if (count < 2 || runs < 1 || runs > RUNS) return 2;
    if (MODEL(_create)(arguments[1], NULL, &model) != OPTC_OK) {
        fprintf(stderr, "%s\n", MODEL(_last_error)());
        return 1;
    }
    for (int i = 3; i < count; ++i)
        if (MODEL(_set_parameter)(model, arguments[i], INFINITY) != OPTC_OK) return 1;
    for (int i = 0; i < MODEL(_input_count)(); ++i) inputs[i] = buffer(MODEL(_input)(i));
    for (int i = 0; i < MODEL(_output_count)(); ++i) outputs[i] = buffer(MODEL(_output)(i));
    if (MODEL(_bench)(model, inputs, outputs, runs, times) != OPTC_OK) {
        fprintf(stderr, "%s\n", MODEL(_last_error)());
        return 1;
    }
    for (int i = 0; i < runs; ++i) fastest = times[i] < fastest ? times[i] : fastest;
    for (int i = 0; i < MODEL(_output_count)(); ++i)
        for (size_t k = 0; k < MODEL(_output)(i)->bytes; ++k)
            digest = (digest ^ ((unsigned char *)outputs[i])[k]) * 1099511628211u;
    printf("%ld %ld %.3f %016llx\n", before, status("VmHWM"), (double)fastest / 1e6,
           (unsigned long long)digest);
    MODEL(_destroy)(model);
    return 0;
}
