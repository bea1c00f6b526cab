/* Runs the artifact of a model called `tiny` from C: no Python, no PyTorch, no TVM on the device.

   usage: main FOLDER      the folder that `optc compile` wrote */
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

static void print_port(const char *kind, const optc_port *port)
{
    printf("%s %s: %s", kind, port->name, port->dtype);
    for (int i = 0; i < port->rank; ++i) printf("%c%lld", i ? 'x' : ' ', (long long)port->shape[i]);
    printf(", %zu bytes\n", port->bytes);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    enum { RUNS = 1000 };
    static float input[TINY_INPUT_0_BYTES / sizeof(float)];
    static float output[TINY_OUTPUT_0_BYTES / sizeof(float)];
    static uint64_t nanoseconds[RUNS];
    const void *inputs[TINY_INPUTS] = {input};
    void *outputs[TINY_OUTPUTS] = {output};
    tiny_model *model = NULL;

    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    /* Every function that can fail answers OPTC_OK or a code; the sentence is in last_error. */
    if (tiny_create(argv[1], NULL, &model) != OPTC_OK) {
        fprintf(stderr, "%s\n", tiny_last_error());
        return 1;
    }
    for (int i = 0; i < tiny_input_count(); ++i) print_port("input", tiny_input(i));
    for (int i = 0; i < tiny_output_count(); ++i) print_port("output", tiny_output(i));

    for (size_t i = 0; i < sizeof input / sizeof *input; ++i) input[i] = (float)(i % 7);
    if (tiny_run(model, inputs, outputs) != OPTC_OK) {
        fprintf(stderr, "%s\n", tiny_last_error());
        tiny_destroy(model);
        return 1;
    }
    printf("first outputs:");
    for (size_t i = 0; i < 4 && i < sizeof output / sizeof *output; ++i) printf(" %g", output[i]);
    printf("\n");

    if (tiny_bench(model, inputs, outputs, RUNS, nanoseconds) == OPTC_OK) {
        qsort(nanoseconds, RUNS, sizeof *nanoseconds, by_value);
        printf("median of %d runs: %.2f microseconds\n", RUNS, (double)nanoseconds[RUNS / 2] / 1000);
    }
    tiny_destroy(model);
    return 0;
}
