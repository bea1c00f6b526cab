/* Weights of which the file holds half bytes: they are widened as they are read, into memory. */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <unistd.h>

#include "runtime.h"

static int read_some(int file, uint8_t *target, size_t bytes, const char *path)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t got = read(file, target + done, bytes - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return optc_rt_fail(OPTC_NO_FILE, "cannot read %s: %s", path, got ? strerror(errno) : "it ended");
        done += (size_t)got;
    }
    return OPTC_OK;
}

/* Pairs lie at the end of where they are spread over, which never overtakes them. The even one is
   the low half; halves are signed. */
static void widen(uint8_t *block, size_t bytes)
{
    const uint8_t *pairs = block + bytes - (bytes + 1) / 2;
    for (size_t i = 0; i < bytes; i += 2) {
        uint8_t pair = pairs[i / 2];
        block[i] = (uint8_t)(((pair & 15) ^ 8) - 8);
        if (i + 1 < bytes) block[i + 1] = (uint8_t)(((pair >> 4) ^ 8) - 8);
    }
}

static int read_blocks(const struct optc_rt_model *model, int file, uint8_t *weights)
{
    size_t end = 0;
    for (int i = 0; i < model->narrow_count; ++i) {
        const struct optc_rt_narrow *block = &model->narrow[i];
        size_t half = (block->bytes + 1) / 2;
        int status = read_some(file, weights + end, block->at - end, model->name);
        end = block->at + block->bytes;
        if (status == OPTC_OK) status = read_some(file, weights + end - half, half, model->name);
        if (status != OPTC_OK) return status;
        widen(weights + block->at, block->bytes);
    }
    return read_some(file, weights + end, model->weights_bytes - end, model->name);
}

int optc_rt_read_weights(const struct optc_rt_model *model, const char *path, unsigned flags,
                         struct optc_rt_block *block, uint8_t **weights)
{
    int file;
    *weights = NULL;
    int status = optc_rt_check_weights(model, path, flags, &file);
    if (status != OPTC_OK) return status;
    status = optc_rt_map(block, model->weights_bytes, "weights");
    if (status == OPTC_OK && lseek(file, OPTC_RT_ALIGNMENT, SEEK_SET) < 0)
        status = optc_rt_fail(OPTC_NO_FILE, "cannot read the weights of %s: %s", model->name, strerror(errno));
    if (status == OPTC_OK) status = read_blocks(model, file, block->address);
    close(file);
    if (status != OPTC_OK) optc_rt_unmap(block);
    else *weights = block->address;
    return status;
}
