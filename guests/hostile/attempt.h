/* Shared by the guests that try to get out: each attempt is reported as one line on stdout, and the guest exits
 * with 0 if all of them were refused, with 42 if one was not. */
#ifndef ATTEMPT_H
#define ATTEMPT_H
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { EXIT_ESCAPED = 42 };

static int escaped;

/* `refused` is true if the attempt failed as it should. */
static inline void attempt(const char *what, int refused) {
    int error = errno;
    if (refused) {
        printf("refused %s: %s\n", what, strerror(error));
    } else {
        printf("ESCAPED %s\n", what);
        escaped = 1;
    }
    fflush(stdout);
    errno = 0;
}

static inline int verdict(void) { return escaped ? EXIT_ESCAPED : 0; }
#endif
