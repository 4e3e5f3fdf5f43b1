/* Sleeps for a century inside one host call, where no count of instructions will find it; if the sleep is cut
 * short, sleeps again. */
#include <stdint.h>
#include <wasi/api.h>

int main(void) {
    __wasi_subscription_t century = {
        .u.tag = __WASI_EVENTTYPE_CLOCK,
        .u.u.clock = {.id = __WASI_CLOCKID_MONOTONIC, .timeout = UINT64_C(3155760000) * 1000000000},
    };
    for (;;) {
        __wasi_event_t event;
        __wasi_size_t events;
        (void)__wasi_poll_oneoff(&century, &event, 1, &events);
    }
}
