/* Tries to change its inputs, which other tasks on the machine may share: write, truncate, rename, remove, create,
 * link. Works on /in/data, or on the name that the argument gives. */
#include "attempt.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char path[256];
    snprintf(path, sizeof path, "/in/%s", argc > 1 ? argv[1] : "data");
    if (access(path, R_OK) != 0) {
        perror(path);
        return 2;
    }
    struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    attempt("open for writing", open(path, O_WRONLY) < 0);
    attempt("open for reading and writing", open(path, O_RDWR) < 0);
    attempt("open for appending", open(path, O_WRONLY | O_APPEND) < 0);
    attempt("truncate", open(path, O_WRONLY | O_TRUNC) < 0);
    attempt("truncate while reading", open(path, O_RDONLY | O_TRUNC) < 0);
    attempt("create", open("/in/new", O_WRONLY | O_CREAT, 0600) < 0);
    attempt("make a directory", mkdir("/in/directory", 0700) != 0);
    attempt("make a symbolic link", symlink("/etc/passwd", "/in/link") != 0);
    attempt("hard link into /in", link(path, "/in/hard") != 0);
    attempt("hard link into /out", link(path, "/out/hard") != 0);
    attempt("hard link into /scratch", link(path, "/scratch/hard") != 0);
    attempt("change its times", utimensat(AT_FDCWD, path, times, 0) != 0);
    attempt("rename into /out", rename(path, "/out/stolen") != 0);
    attempt("rename", rename(path, "/in/renamed") != 0);
    attempt("remove", unlink(path) != 0);
    return verdict();
}
