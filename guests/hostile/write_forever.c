/* Fills one file in the directory that the argument names, /out by default, up to 64 GiB. With `sparse` as second
 * argument asks for the size at once, by every call there is. When it is refused, says where and exits with 28. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_REFUSED = 28 };
static const off_t GOAL_BYTES = (off_t)64 << 30;

static int sparse(int fd) {
    int refused = 0;
    if (posix_fallocate(fd, 0, GOAL_BYTES) != 0) refused++;
    if (ftruncate(fd, GOAL_BYTES) != 0) refused++;
    if (pwrite(fd, "x", 1, GOAL_BYTES - 1) != 1) refused++;
    printf("%d of 3 calls refused\n", refused);
    return refused == 3 ? EXIT_REFUSED : 0;
}

int main(int argc, char **argv) {
    static char block[1 << 20];
    char path[256];
    snprintf(path, sizeof path, "%s/huge", argc > 1 ? argv[1] : "/out");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0) {
        perror(path);
        return 2;
    }
    if (argc > 2 && !strcmp(argv[2], "sparse")) return sparse(fd);
    memset(block, 'x', sizeof block);
    for (off_t done = 0; done < GOAL_BYTES;) {
        ssize_t written = write(fd, block, sizeof block);
        if (written <= 0) {
            printf("refused at %lld bytes: %s\n", (long long)done, strerror(errno));
            return EXIT_REFUSED;
        }
        done += written;
    }
    return 0;
}
