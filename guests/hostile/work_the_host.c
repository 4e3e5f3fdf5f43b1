/* Makes the host do the work: fills 16 MiB with random bytes in one call, again and again. */
#include <stdlib.h>
#include <wasi/api.h>

int main(void) {
    __wasi_size_t bytes = 16u << 20;
    unsigned char *buffer;
    while (!(buffer = malloc(bytes)) && bytes > 1) bytes /= 2;
    for (;;) (void)__wasi_random_get(buffer, bytes);
}
