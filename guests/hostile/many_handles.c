/* Opens the same directory without ever closing it, a million times. When it is refused, says where and exits with
 * 24. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    for (int i = 0; i < 1000000; i++) {
        if (open("/scratch", O_RDONLY | O_DIRECTORY) < 0) {
            printf("refused at %d handles: %s\n", i, strerror(errno));
            return 24;
        }
    }
    return 0;
}
