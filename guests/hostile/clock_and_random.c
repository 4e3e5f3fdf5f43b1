/* Prints every clock and some random bytes: two runs of one task must print the same. */
#include <inttypes.h>
#include <stdio.h>
#include <wasi/api.h>

int main(void) {
    static const char *const NAMES[] = {"realtime", "monotonic", "process-cpu", "thread-cpu"};
    for (int round = 0; round < 3; round++) {
        for (__wasi_clockid_t clock = 0; clock < 4; clock++) {
            __wasi_timestamp_t now = 0, resolution = 0;
            __wasi_errno_t time = __wasi_clock_time_get(clock, 1, &now), res = __wasi_clock_res_get(clock, &resolution);
            printf("%s: error %d, %" PRIu64 " ns; error %d, resolution %" PRIu64 " ns\n", NAMES[clock], time, now, res, resolution);
        }
        unsigned char bytes[32] = {0};
        printf("random: error %d, ", __wasi_random_get(bytes, sizeof bytes));
        for (unsigned i = 0; i < sizeof bytes; i++) printf("%02x", bytes[i]);
        putchar('\n');
        for (volatile unsigned i = 0; i < 10000000; i++) {
        }
    }
    return 0;
}
