/* Makes 10,000 directories, one inside the other, in the directory that the argument names, /scratch by default: a
 * tree that cannot be removed by recursion on the stack or by full path. When it is refused, exits with 28. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv) {
    const char *top = argc > 1 ? argv[1] : "/scratch";
    int parent = open(top, O_RDONLY | O_DIRECTORY);
    if (parent < 0) {
        perror(top);
        return 2;
    }
    for (int depth = 0; depth < 10000; depth++) {
        int child = mkdirat(parent, "d", 0700) == 0 ? openat(parent, "d", O_RDONLY | O_DIRECTORY) : -1;
        if (child < 0) {
            printf("refused at depth %d: %s\n", depth, strerror(errno));
            return 28;
        }
        close(parent);
        parent = child;
    }
    return 0;
}
