/* Tries the socket calls of WASI preview 1 on every descriptor it might have been left. */
#include "attempt.h"
#include <wasi/api.h>

int main(void) {
    for (__wasi_fd_t fd = 0; fd < 64; fd++) {
        char line[64], byte = 0;
        __wasi_fd_t accepted;
        __wasi_size_t moved;
        __wasi_roflags_t flags;
        __wasi_iovec_t in = {.buf = (uint8_t *)&byte, .buf_len = 1};
        __wasi_ciovec_t out = {.buf = (const uint8_t *)&byte, .buf_len = 1};
        snprintf(line, sizeof line, "sock_accept(%u)", (unsigned)fd);
        errno = __wasi_sock_accept(fd, 0, &accepted);
        attempt(line, errno != 0);
        snprintf(line, sizeof line, "sock_recv(%u)", (unsigned)fd);
        errno = __wasi_sock_recv(fd, &in, 1, 0, &moved, &flags);
        attempt(line, errno != 0);
        snprintf(line, sizeof line, "sock_send(%u)", (unsigned)fd);
        errno = __wasi_sock_send(fd, &out, 1, 0, &moved);
        attempt(line, errno != 0);
        snprintf(line, sizeof line, "sock_shutdown(%u)", (unsigned)fd);
        errno = __wasi_sock_shutdown(fd, __WASI_SDFLAGS_WR);
        attempt(line, errno != 0);
    }
    return verdict();
}
