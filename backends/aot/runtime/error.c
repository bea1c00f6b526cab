/* Error sentences: each thread reads the one of its own last failed call. */
#include <stdarg.h>
#include <stdio.h>

#include "runtime.h"

static _Thread_local char sentence[512];

int optc_rt_fail(int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    return code;
}

const char *optc_rt_last_error(void)
{
    return sentence;
}
