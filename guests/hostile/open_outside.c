/* Tries to open files of the host: by absolute path, by climbing, and through symbolic links of its own making. */
#include "attempt.h"
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wasi/api.h>

static const char *const TARGETS[] = {
    "/etc/passwd",
    "/etc/hostname",
    "/proc/self/environ",
    "/proc/self/mem",
    "/proc/1/root/etc/passwd",
    "/dev/null",
    "/dev/kmsg",
    "/root",
    "/tmp",
    "/home",
    "../../../../../../../../etc/passwd",
    "/scratch/../../../../../../../../etc/passwd",
    "/scratch/./../in/../../../../../../etc/passwd",
    "/out/../../etc/passwd",
    "/in/../../etc/passwd",
    "/checkpoint/../../etc/passwd",
    "/scratch//../..//etc/passwd",
};

static void try_open(const char *what, const char *path) {
    char line[256];
    snprintf(line, sizeof line, "%s %s", what, path);
    int fd = open(path, O_RDONLY);
    attempt(line, fd < 0);
    if (fd >= 0) close(fd);
}

int main(void) {
    for (size_t i = 0; i < sizeof TARGETS / sizeof *TARGETS; i++) try_open("open", TARGETS[i]);

    /* Making the link may be allowed; following it out must not be. */
    static const char *const LINKS[] = {"/etc/passwd", "../../../../../../etc/passwd", "/", "..", "../../../.."};
    for (size_t i = 0; i < sizeof LINKS / sizeof *LINKS; i++) {
        char link[64], through[128];
        snprintf(link, sizeof link, "/scratch/link-%zu", i);
        if (symlink(LINKS[i], link) != 0) {
            printf("refused symlink to %s: %s\n", LINKS[i], strerror(errno));
            continue;
        }
        if (i < 2) {
            try_open("open through link", link);
        } else {
            snprintf(through, sizeof through, "%s/etc/passwd", link);
            try_open("open through link", through);
            try_open("open through link", link);
        }
    }

    /* The same below the C library, which keeps its own idea of which paths exist. */
    for (__wasi_fd_t fd = 3; fd < 16; fd++) {
        char line[128];
        __wasi_fd_t opened;
        static const char *const RAW[] = {"/etc/passwd", "../etc/passwd", "../../../../../../../etc/passwd", ".."};
        for (size_t i = 0; i < sizeof RAW / sizeof *RAW; i++) {
            errno = __wasi_path_open(fd, __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW, RAW[i], 0, __WASI_RIGHTS_FD_READ, 0, 0, &opened);
            int refused = errno != 0;
            snprintf(line, sizeof line, "path_open(%u, %s)", (unsigned)fd, RAW[i]);
            attempt(line, refused);
        }
    }
    return verdict();
}
