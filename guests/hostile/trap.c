/* Traps: executes `unreachable`, or with an argument divides by zero (`divide`), reads beyond its memory (`memory`)
 * or calls a null function (`call`). */
#include <stdint.h>
#include <string.h>

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "";
    volatile int one = 1, zero = 0;
    if (!strcmp(how, "divide")) return one / zero;
    if (!strcmp(how, "memory")) return *(volatile unsigned char *)(uintptr_t)0xfffffff0u;
    if (!strcmp(how, "call")) {
        int (*volatile nowhere)(void) = 0;
        return nowhere();
    }
    __builtin_trap();
}
