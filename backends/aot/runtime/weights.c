/* weights.bin: a header of 64 bytes, then the blocks at the offsets that the driver knows. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
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

/* The digest of whole blocks, and the last one, that follow those of `hash`. */
static uint64_t digest_more(uint64_t hash, const uint8_t *data, size_t bytes)
{
    const uint64_t *words = (const uint64_t *)(const void *)data;
    size_t count = bytes / 8; /* the data is padded to whole cache lines */
    for (size_t first = 0; first < count; first += WORDS) {
        hash = (hash ^ block_sum(words + first, count - first < WORDS ? count - first : WORDS)) * ODD;
        hash ^= hash >> 32;
    }
    return hash;
}

static uint64_t digest_end(uint64_t hash, size_t bytes)
{
    hash = (hash ^ bytes) * ODD;
    return hash ^ hash >> 32;
}

uint64_t optc_rt_digest(const uint8_t *data, size_t bytes)
{
    return digest_end(digest_more(ODD, data, bytes), bytes);
}

static int check_header(const struct optc_rt_model *model, const char *path, const struct header *header,
                        size_t size)
{
    if (size < sizeof *header || memcmp(header->magic, "OPTCWTS", 8) != 0)
        return optc_rt_fail(OPTC_CORRUPT, "%s is not a weights file of optc", path);
    if (header->version != 1 || header->header_bytes != sizeof *header)
        return optc_rt_fail(OPTC_CORRUPT, "%s has weights format %u, this model reads format 1", path,
                            header->version);
    if (header->data_bytes != size - sizeof *header)
        return optc_rt_fail(OPTC_CORRUPT, "%s should have %llu bytes and has %zu", path,
                            (unsigned long long)(header->data_bytes + sizeof *header), size);
    if (header->data_bytes != model->stored_bytes || header->digest != model->weights_digest)
        return optc_rt_fail(OPTC_CORRUPT, "%s holds the weights of another model than %s", path, model->name);
    return OPTC_OK;
}

static int damaged(const char *path)
{
    return optc_rt_fail(OPTC_CORRUPT, "%s is damaged: its bytes do not match its digest", path);
}

static int check(const struct optc_rt_model *model, const char *path, const uint8_t *file, size_t size,
                 unsigned flags)
{
    const struct header *header = (const void *)file;
    int status = check_header(model, path, header, size);
    if (status == OPTC_OK && !(flags & OPTC_SKIP_DIGEST) &&
        optc_rt_digest(file + sizeof *header, size - sizeof *header) != header->digest)
        status = damaged(path);
    return status;
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

/* Opens the weights at `path`, a file or the folder that holds it; `name` gets the file's path. */
static int open_file(const struct optc_rt_model *model, const char *path, char name[PATH_MAX], int *file,
                     size_t *size)
{
    struct stat status;
    *file = -1;
    if (!path) return optc_rt_fail(OPTC_BAD_ARGUMENT, "%s needs the path of its weights", model->name);
    const char *inside = stat(path, &status) == 0 && S_ISDIR(status.st_mode) ? "/weights.bin" : "";
    if (snprintf(name, PATH_MAX, "%s%s", path, inside) >= PATH_MAX)
        return optc_rt_fail(OPTC_BAD_ARGUMENT, "the path of the weights is too long");
    *file = open(name, O_RDONLY | O_CLOEXEC);
    if (*file < 0 || fstat(*file, &status) != 0) {
        int code = optc_rt_fail(OPTC_NO_FILE, "cannot open %s: %s", name, strerror(errno));
        if (*file >= 0) close(*file);
        *file = -1;
        return code;
    }
    *size = (size_t)status.st_size;
    if (*size >= sizeof(struct header)) return OPTC_OK;
    close(*file);
    *file = -1;
    return optc_rt_fail(OPTC_CORRUPT, "%s is not a weights file of optc", name);
}

int optc_rt_open_weights(const struct optc_rt_model *model, const char *path, unsigned flags,
                         struct optc_rt_block *block, uint8_t **weights)
{
    char name[PATH_MAX];
    size_t size;
    int file;
    *weights = NULL;
    if (model->weights_bytes == 0) return OPTC_OK;
    int result = open_file(model, path, name, &file, &size);
    if (result != OPTC_OK) return result;
    result = take(file, size, flags, name, block);
    close(file);
    if (result == OPTC_OK) result = check(model, name, block->address, size, flags);
    if (result != OPTC_OK) {
        optc_rt_unmap(block);
        return result;
    }
    *weights = (uint8_t *)block->address + sizeof(struct header);
    return OPTC_OK;
}

/* The digest of an open file, read piece by piece from behind its header. */
static int check_digest(int file, size_t size, const struct header *header, const char *path)
{
    enum { PIECE = 16 * WORDS * 8 };
    uint8_t *piece = malloc(PIECE);
    uint64_t hash = ODD;
    int status = piece ? OPTC_OK : optc_rt_fail(OPTC_NO_MEMORY, "no memory to check %s", path);
    for (size_t left = size - sizeof *header; left && status == OPTC_OK;) {
        size_t bytes = left < PIECE ? left : PIECE;
        status = read_all(file, piece, bytes, path);
        if (status == OPTC_OK) hash = digest_more(hash, piece, bytes);
        left -= bytes;
    }
    free(piece);
    if (status == OPTC_OK && digest_end(hash, size - sizeof *header) != header->digest) status = damaged(path);
    return status;
}

static int check_open(const struct optc_rt_model *model, const char *path, unsigned flags, int file, size_t size)
{
    struct header header;
    int status = read_all(file, (uint8_t *)&header, sizeof header, path);
    if (status == OPTC_OK) status = check_header(model, path, &header, size);
    if (status == OPTC_OK && !(flags & OPTC_SKIP_DIGEST)) status = check_digest(file, size, &header, path);
    return status;
}

int optc_rt_check_open_weights(const struct optc_rt_model *model, const char *path, int file)
{
    struct stat status;
    if (fstat(file, &status) != 0 || lseek(file, 0, SEEK_SET) != 0)
        return optc_rt_fail(OPTC_NO_FILE, "cannot read %s: %s", path, strerror(errno));
    return check_open(model, path, 0, file, (size_t)status.st_size);
}

int optc_rt_check_weights(const struct optc_rt_model *model, const char *path, unsigned flags, int *file)
{
    char name[PATH_MAX];
    size_t size;
    int status = open_file(model, path, name, file, &size);
    if (status != OPTC_OK) return status;
    status = check_open(model, name, flags, *file, size);
    if (status == OPTC_OK) return OPTC_OK;
    close(*file);
    *file = -1;
    return status;
}
