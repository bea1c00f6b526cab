/* Runs an artifact of any model: all inputs from stdin, all outputs to stdout, both as plain bytes.
   PREFIX is the model's. */
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

#define PASTE(a, b) a##_##b
#define NAME(a, b) PASTE(a, b)
#define MODEL(name) NAME(PREFIX, name)

static void *block(size_t bytes)
{
    void *place = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (!place) abort();
    return place;
}

static int failed(void)
{
    fprintf(stderr, "%s\n", MODEL(last_error)());
    return 1;
}

int main(int argc, char **argv)
{
    enum { MOST = 64 };
    const void *inputs[MOST];
    void *outputs[MOST];
    MODEL(model) *model = NULL;

    if (argc != 2) return 2;
    for (int i = 0; i < MODEL(input_count)(); ++i) {
        size_t bytes = MODEL(input)(i)->bytes;
        void *place = block(bytes);
        if (fread(place, 1, bytes, stdin) != bytes) return 2;
        inputs[i] = place;
    }
    for (int i = 0; i < MODEL(output_count)(); ++i) outputs[i] = block(MODEL(output)(i)->bytes);
    if (MODEL(create)(argv[1], NULL, &model) != OPTC_OK) return failed();
    if (MODEL(run)(model, inputs, outputs) != OPTC_OK) return failed();
    for (int i = 0; i < MODEL(output_count)(); ++i)
        fwrite(outputs[i], 1, MODEL(output)(i)->bytes, stdout);
    MODEL(destroy)(model);
    return 0;
}
