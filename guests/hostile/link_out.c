/* Leaves traps in /out for whoever collects it: symbolic links to files of the host, upwards, to itself, hard links,
 * and odd names. Whether making them is refused or not, nothing of the host may appear in the result. Exits with 0. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void try_link(const char *target, const char *path) {
    if (symlink(target, path) == 0)
        printf("made %s -> %s\n", path, target);
    else
        printf("refused %s -> %s: %s\n", path, target, strerror(errno));
}

static void try_name(const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    printf("%s a file with an odd name\n", fd < 0 ? "refused" : "made");
    if (fd >= 0) close(fd);
}

int main(void) {
    try_link("/etc/passwd", "/out/absolute");
    try_link("../../../../../../../etc/passwd", "/out/climbing");
    try_link("/", "/out/root");
    try_link("..", "/out/parent");
    try_link("loop", "/out/loop");
    try_link("/proc/self/environ", "/out/environ");
    try_link("../scratch/secret", "/out/sideways");
    if (mkdir("/out/directory", 0700) == 0) try_link("/etc", "/out/directory/etc");
    int fd = open("/out/honest", O_WRONLY | O_CREAT, 0600);
    if (fd >= 0) {
        (void)!write(fd, "honest\n", 7);
        close(fd);
        printf("%s a hard link\n", link("/out/honest", "/out/hard") == 0 ? "made" : "refused");
    }
    try_name("/out/-rf");
    try_name("/out/new\nline");
    try_name("/out/\x1b[31mred");
    try_name("/out/\xff\xfe");
    try_name("/out/.hidden");
    return 0;
}
