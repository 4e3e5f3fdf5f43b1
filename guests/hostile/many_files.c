/* Makes 100,000 small files in the directory that the argument names, /out by default. When it is refused, says
 * where and exits with 28. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char path[256];
    for (int i = 0; i < 100000; i++) {
        snprintf(path, sizeof path, "%s/file-%06d", argc > 1 ? argv[1] : "/out", i);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
        if (fd < 0 || write(fd, "x", 1) != 1) {
            printf("refused at %d files: %s\n", i, strerror(errno));
            return 28;
        }
        close(fd);
    }
    return 0;
}
