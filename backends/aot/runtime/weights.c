/* weights.bin: a header of 64 bytes, then the blocks at the offsets that the driver knows. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime.h"

struct header { /* little endian, as every target of ours is */
    char magic[8];
    uint32_t version;
    uint32_t header_bytes;
    uint64_t data_bytes;
    uint64_t digest;
    uint8_t zero[32];
};

_Static_assert(sizeof(struct header) == OPTC_RT_ALIGNMENT, "data must stay aligned behind the header");

#define WORDS 1024 /* of 8 bytes in a block of the digest */
static const uint64_t ODD = 0x9E3779B97F4A7C15u; /* 2^64 over the golden ratio */

/* Multilinear hash of each block, chained. The sum of a block has no dependency from word to word,
   so it runs at memory bandwidth here and vectorises in numpy, which writes the files. The fold of
   the high bits makes two flipped top bits count, which a plain sum of odd multiples would lose. */
static uint64_t block_sum(const uint64_t *words, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; ++i) sum += (words[i] ^ words[i] >> 29) * ((2 * i + 1) * ODD);
    return sum;
}

uint64_t optc_rt_digest(const uint8_t *data, size_t bytes)
{
    uint64_t hash = ODD;
    const uint64_t *words = (const uint64_t *)(const void *)data;
    size_t count = bytes / 8; /* the data is padded to whole cache lines */
    for (size_t first = 0; first < count; first += WORDS) {
        hash = (hash ^ block_sum(words + first, count - first < WORDS ? count - first : WORDS)) * ODD;
        hash ^= hash >> 32;
    }
    hash = (hash ^ bytes) * ODD;
    return hash ^ hash >> 32;
}

static int check(const struct optc_rt_model *model, const char *path, const uint8_t *file, size_t size,
                 unsigned flags)
{
    const struct header *header = (const void *)file;
    if (size < sizeof *header || memcmp(header->magic, "OPTCWTS", 8) != 0)
        return optc_rt_fail(OPTC_CORRUPT, "%s is not a weights file of optc", path);
    if (header->version != 1 || header->header_bytes != sizeof *header)
        return optc_rt_fail(OPTC_CORRUPT, "%s has weights format %u, this model reads format 1", path,
                            header->version);
    if (header->data_bytes != size - sizeof *header)
        return optc_rt_fail(OPTC_CORRUPT, "%s should have %llu bytes and has %zu", path,
                            (unsigned long long)(header->data_bytes + sizeof *header), size);
    if (header->data_bytes != model->weights_bytes || header->digest != model->weights_digest)
        return optc_rt_fail(OPTC_CORRUPT, "%s holds the weights of another model than %s", path, model->name);
    if (!(flags & OPTC_SKIP_DIGEST) &&
        optc_rt_digest(file + sizeof *header, size - sizeof *header) != header->digest)
        return optc_rt_fail(OPTC_CORRUPT, "%s is damaged: its bytes do not match its digest", path);
    return OPTC_OK;
}

static int read_all(int file, uint8_t *target, size_t size, const char *path)
{
    for (size_t done = 0; done < size;) {
        ssize_t got = read(file, target + done, size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return optc_rt_fail(OPTC_NO_FILE, "cannot read %s: %s", path, got ? strerror(errno) : "it ended");
        done += (size_t)got;
    }
    return OPTC_OK;
}

static int take(int file, size_t size, unsigned flags, const char *path, struct optc_rt_block *block)
{
    if (flags & OPTC_COPY_WEIGHTS) {
        int status = optc_rt_map(block, size, "weights");
        return status ? status : read_all(file, block->address, size, path);
    }
#ifdef MAP_POPULATE
    int mode = MAP_PRIVATE | (flags & OPTC_SKIP_DIGEST ? 0 : MAP_POPULATE);
#else
    int mode = MAP_PRIVATE;
#endif
    void *address = mmap(NULL, size, PROT_READ, mode, file, 0);
    if (address == MAP_FAILED)
        return optc_rt_fail(OPTC_NO_FILE, "cannot map %s: %s", path, strerror(errno));
    block->address = address;
    block->bytes = size;
    return OPTC_OK;
}

int optc_rt_open_weights(const struct optc_rt_model *model, const char *path, unsigned flags,
                         struct optc_rt_block *block, uint8_t **weights)
{
    char inside[PATH_MAX];
    struct stat status;
    *weights = NULL;
    if (model->weights_bytes == 0) return OPTC_OK;
    if (!path) return optc_rt_fail(OPTC_BAD_ARGUMENT, "%s needs the path of its weights", model->name);
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) {
        if (snprintf(inside, sizeof inside, "%s/weights.bin", path) >= (int)sizeof inside)
            return optc_rt_fail(OPTC_BAD_ARGUMENT, "the path of the weights is too long");
        path = inside;
    }
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status) != 0) {
        int code = optc_rt_fail(OPTC_NO_FILE, "cannot open %s: %s", path, strerror(errno));
        if (file >= 0) close(file);
        return code;
    }
    size_t size = (size_t)status.st_size;
    int result = size < sizeof(struct header)
                     ? optc_rt_fail(OPTC_CORRUPT, "%s is not a weights file of optc", path)
                     : take(file, size, flags, path, block);
    close(file);
    if (result == OPTC_OK) result = check(model, path, block->address, size, flags);
    if (result != OPTC_OK) {
        optc_rt_unmap(block);
        return result;
    }
    *weights = (uint8_t *)block->address + sizeof(struct header);
    return OPTC_OK;
}
