/* Runs the measuring program on a device: a function that TVM's RPC server loads and calls, so that a
   stock server (`python -m tvm.exec.rpc_server`) is enough there.

   int64_t optc_launch(int64_t patience_ms)

   The session's folder, which is the working directory, holds `command`, one word a line, and
   `input`; `answer` and `complaint` are written. Returns the exit status, a signal as a negative
   number, HANGS when `answer` has not grown for so long, NOT_STARTED when there is no process. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_WORDS = 4096, MOST_BYTES = 1 << 16, GLANCE_MS = 50, HANGS = 1000, NOT_STARTED = 1001 };

/* TVMFFIAny of TVM's stable C interface (tvm/ffi/c_api.h). */
typedef struct {
    int32_t type_index;
    uint32_t zero_padding;
    union { int64_t v_int64; void *v_ptr; };
} ffi_any;
enum { FFI_INT = 1 };

static int read_words(char *text, char **words)
{
    FILE *file = fopen("command", "r");
    if (!file) return 0;
    size_t bytes = fread(text, 1, MOST_BYTES - 1, file);
    fclose(file);
    text[bytes] = 0;
    int count = 0;
    for (char *word = strtok(text, "\n"); word && count < MOST_WORDS - 1; word = strtok(NULL, "\n"))
        words[count++] = word;
    words[count] = NULL;
    return count;
}

static pid_t start(char **words)
{
    int in = open("input", O_RDONLY | O_CLOEXEC);
    int out = open("answer", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int err = open("complaint", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    pid_t child = in >= 0 && out >= 0 && err >= 0 ? fork() : -1;
    if (child == 0) {
        setpgid(0, 0);
        if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0) _exit(126);
        execvp(words[0], words);
        _exit(127);
    }
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    if (err >= 0) close(err);
    return child;
}

static int64_t watch(pid_t child, int64_t patience_ms)
{
    int64_t silent = 0;
    off_t size = -1;
    for (;;) {
        int status;
        struct stat answer;
        struct timespec glance = {0, GLANCE_MS * 1000000L};
        if (waitpid(child, &status, WNOHANG) == child)
            return WIFSIGNALED(status) ? -(int64_t)WTERMSIG(status) : WEXITSTATUS(status);
        nanosleep(&glance, NULL);
        silent += GLANCE_MS;
        if (stat("answer", &answer) == 0 && answer.st_size != size) {
            size = answer.st_size;
            silent = 0;
        }
        if (silent <= patience_ms) continue;
        kill(-child, SIGKILL);
        waitpid(child, &status, 0);
        return HANGS;
    }
}

__attribute__((visibility("default"))) int
__tvm_ffi_optc_launch(void *self, const ffi_any *arguments, int32_t count, ffi_any *result)
{
    static char text[MOST_BYTES];
    static char *words[MOST_WORDS];
    (void)self;
    int64_t patience = count == 1 && arguments[0].type_index == FFI_INT ? arguments[0].v_int64 : 10000;
    pid_t child = read_words(text, words) && chmod("measure", 0755) == 0 ? start(words) : -1;
    *result = (ffi_any){FFI_INT, 0, {child < 0 ? NOT_STARTED : watch(child, patience)}};
    return 0;
}
