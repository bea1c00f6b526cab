/* Weights that stay in their file. A thread reads the blocks that the coming calls need into a
   window, in the order in which the flow is expected to ask for them, each as soon as what lay in
   its place was given up. Where the flow goes another way, what was read ahead is dropped and the
   thread follows; so it does after an error, so that the instance stays usable. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime.h"

struct ahead { /* a block that was read, or is being read */
    int visit, block, ready;
};

struct optc_rt_stream {
    const struct optc_rt_stream_plan *plan;
    int file;
    struct stat seen; /* the file as it was when its digest was checked */
    char path[240];
    uint8_t *window;
    pthread_mutex_t lock;
    pthread_cond_t arrived, room; /* for the caller; for the thread */
    pthread_t thread;
    pid_t process; /* that started the thread */
    int stopping;
    int visit, block;         /* what the thread reads next; visit -1: not known yet */
    unsigned generation;      /* counts changes of the path */
    struct ahead *queue;      /* of `slots`, a ring in the order of use */
    int slots, first, count;
    int status;               /* of the read that failed, and its sentence */
    char sentence[400];
    int current;              /* the visit that the caller is in */
};

static int changed(const struct optc_rt_stream *s)
{
    struct stat now;
    return fstat(s->file, &now) != 0 || now.st_size != s->seen.st_size ||
           now.st_mtim.tv_sec != s->seen.st_mtim.tv_sec || now.st_mtim.tv_nsec != s->seen.st_mtim.tv_nsec;
}

static int read_at(struct optc_rt_stream *s, uint8_t *target, size_t bytes, uint64_t source)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t got = pread(s->file, target + done, bytes - done,
                            (off_t)(source + done + OPTC_RT_ALIGNMENT));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return optc_rt_fail(OPTC_NO_FILE, "cannot read %s: %s", s->path, strerror(errno));
        if (got == 0)
            return optc_rt_fail(OPTC_CORRUPT, "%s ended while it was read: it was cut short", s->path);
        done += (size_t)got;
    }
    return OPTC_OK;
}

static void advance(struct optc_rt_stream *s)
{
    if (++s->block < s->plan->visits[s->visit].count) return;
    s->block = 0;
    s->visit = s->plan->visits[s->visit].next;
}

static int number(const struct optc_rt_stream *s, int visit, int block)
{
    return s->plan->visits[visit].first + block;
}

/* Whether the next block's place in the window is free. */
static int fits(const struct optc_rt_stream *s)
{
    if (s->visit < 0 || s->status != OPTC_OK || s->count == s->slots) return 0;
    const struct optc_rt_block_plan *next = &s->plan->blocks[number(s, s->visit, s->block)];
    for (int i = 0; i < s->count; ++i) {
        const struct optc_rt_block_plan *other = &s->plan->blocks[s->queue[(s->first + i) % s->slots].block];
        if (next->at < other->at + other->bytes && other->at < next->at + next->bytes) return 0;
    }
    return 1;
}

static int read_block(struct optc_rt_stream *s, int block)
{
    const struct optc_rt_block_plan *plan = &s->plan->blocks[block];
    int status = OPTC_OK;
    for (int i = 0; i < plan->count && status == OPTC_OK; ++i) {
        const struct optc_rt_piece *piece = &s->plan->pieces[plan->first + i];
        status = read_at(s, s->window + piece->at, piece->bytes, piece->source);
    }
    return status;
}

static void *reader(void *stream)
{
    struct optc_rt_stream *s = stream;
    pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        if (!fits(s)) {
            pthread_cond_wait(&s->room, &s->lock);
            continue;
        }
        unsigned generation = s->generation;
        int place = (s->first + s->count++) % s->slots, block = number(s, s->visit, s->block);
        s->queue[place] = (struct ahead){s->visit, block, 0};
        advance(s);
        pthread_mutex_unlock(&s->lock);
        int status = read_block(s, block);
        pthread_mutex_lock(&s->lock);
        if (generation != s->generation) continue; /* the path changed: nobody waits for this one */
        s->queue[place].ready = 1;
        if (status != OPTC_OK) {
            s->status = status;
            snprintf(s->sentence, sizeof s->sentence, "%s", optc_rt_last_error());
        }
        pthread_cond_signal(&s->arrived);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* From now on the path begins at a block; what was read ahead is given up. */
static void follow(struct optc_rt_stream *s, int visit, int block)
{
    ++s->generation;
    s->first = s->count = 0;
    s->visit = visit;
    s->block = block;
    s->status = OPTC_OK;
    pthread_cond_signal(&s->room);
}

static int start(struct optc_rt_stream *s)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->arrived, NULL);
    pthread_cond_init(&s->room, NULL);
    s->process = getpid();
    s->visit = s->plan->first_visit;
    s->block = s->first = s->count = 0;
    if (pthread_attr_init(&attributes) != 0) return optc_rt_fail(OPTC_NO_MEMORY, "no thread for %s", s->path);
    pthread_attr_setstacksize(&attributes, (size_t)256 << 10);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's, not ours */
    int refused = pthread_create(&s->thread, &attributes, reader, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (!refused) return OPTC_OK;
    s->process = 0;
    return optc_rt_fail(OPTC_NO_MEMORY, "no thread that reads %s: %s", s->path, strerror(refused));
}

static int take(struct optc_rt_instance *m, struct optc_rt_stream *s, const char *path, unsigned flags)
{
    const struct optc_rt_stream_plan *plan = s->plan;
    if (flags & OPTC_COPY_WEIGHTS)
        return optc_rt_fail(OPTC_BAD_ARGUMENT, "%s streams its weights: they cannot be copied into memory",
                            m->model->name);
    int status = optc_rt_check_weights(m->model, path, flags, &s->file);
    if (status == OPTC_OK && fstat(s->file, &s->seen) != 0)
        status = optc_rt_fail(OPTC_NO_FILE, "cannot read %s: %s", s->path, strerror(errno));
    if (status == OPTC_OK) status = optc_rt_map(&m->weights_block, plan->pinned_bytes, "weights");
    if (status == OPTC_OK) status = optc_rt_map(&m->window_block, plan->window_bytes, "the weights' window");
    if (status == OPTC_OK) status = optc_rt_reserve(&m->tables_block, plan->tables_bytes);
    m->weights = m->weights_block.address;
    m->window = s->window = m->window_block.address;
    m->tables = m->tables_block.address;
    if (status == OPTC_OK) status = read_at(s, m->weights, plan->pinned_bytes, 0);
    return status;
}

int optc_rt_open_stream(struct optc_rt_instance *m, const char *path, unsigned flags)
{
    struct optc_rt_stream *s = calloc(1, sizeof *s);
    if (!s) return optc_rt_fail(OPTC_NO_MEMORY, "no memory for an instance of %s", m->model->name);
    m->stream = s;
    s->plan = m->model->stream;
    s->file = -1;
    s->slots = s->plan->block_count + 1;
    s->queue = calloc((size_t)s->slots, sizeof *s->queue);
    snprintf(s->path, sizeof s->path, "the weights of %s in %s", m->model->name, path ? path : "");
    if (!s->queue) return optc_rt_fail(OPTC_NO_MEMORY, "no memory for an instance of %s", m->model->name);
    int status = take(m, s, path, flags);
    return status == OPTC_OK && s->plan->block_count ? start(s) : status;
}

void optc_rt_close_stream(struct optc_rt_instance *m)
{
    struct optc_rt_stream *s = m->stream;
    if (!s) return;
    if (s->process && s->process == getpid()) { /* the child of a fork has no such thread */
        pthread_mutex_lock(&s->lock);
        s->stopping = 1;
        pthread_cond_signal(&s->room);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
        pthread_mutex_destroy(&s->lock);
        pthread_cond_destroy(&s->arrived);
        pthread_cond_destroy(&s->room);
    }
    if (s->file >= 0) close(s->file);
    free(s->queue);
    free(s);
    m->stream = NULL;
}

/* The file is another one than was checked: look at all of it again, and trust nothing read ahead. */
static int check_again(struct optc_rt_instance *m, struct optc_rt_stream *s)
{
    int status = optc_rt_check_open_weights(m->model, s->path, s->file);
    if (status == OPTC_OK && fstat(s->file, &s->seen) != 0)
        status = optc_rt_fail(OPTC_NO_FILE, "cannot read %s: %s", s->path, strerror(errno));
    if (status == OPTC_OK) status = read_at(s, m->weights, s->plan->pinned_bytes, 0);
    if (status != OPTC_OK || !s->plan->block_count) return status;
    pthread_mutex_lock(&s->lock);
    follow(s, s->plan->first_visit, 0);
    pthread_mutex_unlock(&s->lock);
    return OPTC_OK;
}

int optc_rt_stream_begin(struct optc_rt_instance *m)
{
    struct optc_rt_stream *s = m->stream;
    int status = s->plan->block_count && s->process != getpid() ? start(s) : OPTC_OK;
    return status == OPTC_OK && changed(s) ? check_again(m, s) : status;
}

int optc_rt_stream_end(struct optc_rt_instance *m)
{
    if (!changed(m->stream)) return OPTC_OK;
    return optc_rt_fail(OPTC_CORRUPT, "%s was changed during a run", m->stream->path);
}

void optc_rt_stream_enter(struct optc_rt_instance *m, int visit)
{
    struct optc_rt_stream *s = m->stream;
    if (s->plan->visits[visit].count == 0) return;
    pthread_mutex_lock(&s->lock);
    s->current = visit;
    int expected = s->count ? s->queue[s->first].visit == visit &&
                                  s->queue[s->first].block == number(s, visit, 0)
                            : s->visit == visit && s->block == 0;
    if (!expected || s->status != OPTC_OK) follow(s, visit, 0);
    pthread_mutex_unlock(&s->lock);
}

int optc_rt_stream_wait(struct optc_rt_instance *m, int block)
{
    struct optc_rt_stream *s = m->stream;
    int status = OPTC_OK;
    pthread_mutex_lock(&s->lock);
    while (!s->count || !s->queue[s->first].ready) {
        if (s->status != OPTC_OK && !s->count) break;
        pthread_cond_wait(&s->arrived, &s->lock);
    }
    /* A failed read is the last in the queue: the blocks before it are good. */
    if (s->status != OPTC_OK && s->count <= 1) status = optc_rt_fail(s->status, "%s", s->sentence);
    else if (s->queue[s->first].block != block)
        status = optc_rt_fail(OPTC_KERNEL_FAILED, "%s: a block of weights came out of turn", m->model->name);
    pthread_mutex_unlock(&s->lock);
    return status;
}

void optc_rt_stream_release(struct optc_rt_instance *m)
{
    struct optc_rt_stream *s = m->stream;
    pthread_mutex_lock(&s->lock);
    s->first = (s->first + 1) % s->slots;
    --s->count;
    pthread_cond_signal(&s->room);
    pthread_mutex_unlock(&s->lock);
}

/* Kernels clamp indices, and so do we: any index gives the row that the kernel will read. */
int optc_rt_stream_rows(struct optc_rt_instance *m, int index, const uint8_t *indices)
{
    const struct optc_rt_rows *rows = &m->model->stream->rows[index];
    int status = OPTC_OK;
    int64_t before = -1;
    for (size_t i = 0; i < rows->count && status == OPTC_OK; ++i) {
        int64_t row = 0;
        if (rows->index_bytes == sizeof row) memcpy(&row, indices + i * sizeof row, sizeof row);
        else {
            int32_t narrow;
            memcpy(&narrow, indices + i * sizeof narrow, sizeof narrow);
            row = narrow;
        }
        row = row < 0 ? 0 : row >= (int64_t)rows->rows ? (int64_t)rows->rows - 1 : row;
        if (row == before) continue;
        before = row;
        uint64_t start = (uint64_t)row * rows->row_bytes;
        status = read_at(m->stream, m->tables + rows->at + start, rows->row_bytes, rows->source + start);
    }
    return status;
}

void optc_rt_stream_drop(struct optc_rt_instance *m, int index)
{
    const struct optc_rt_rows *rows = &m->model->stream->rows[index];
    madvise(m->tables + rows->at, rows->rows * rows->row_bytes, MADV_DONTNEED);
}
