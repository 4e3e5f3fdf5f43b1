/* Benchmark kernel, memory: follows one random cycle through 64 MiB, and walks it in large strides.
 *
 *   memory [STEPS]   millions of steps of the chase, 6 by default */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { DEFAULT_STEPS = 6, WORDS = 16 << 20, STRIDE = 4099, STRIDED_PER_STEP = 2 };

int main(int argc, char **argv) {
    long steps = argc > 1 ? strtol(argv[1], NULL, 10) : DEFAULT_STEPS;
    uint32_t *next = malloc(WORDS * sizeof *next);
    if (steps < 1 || !next) {
        fputs(next ? "usage: memory [STEPS]\n" : "memory: 64 MiB are not to be had\n", stderr);
        return 2;
    }
    /* Sattolo: a permutation that is one cycle, so the chase visits every word before it repeats. */
    uint64_t random = 0x9e3779b97f4a7c15u;
    for (uint32_t i = 0; i < WORDS; i++) next[i] = i;
    for (uint32_t i = WORDS - 1; i > 0; i--) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        uint32_t j = (uint32_t)((random >> 32) * i >> 32), swapped = next[i];
        next[i] = next[j];
        next[j] = swapped;
    }
    uint32_t at = 0, place = 0;
    uint64_t sum = 0;
    for (long step = 0; step < steps; step++) {
        for (int i = 0; i < 1000000; i++) {
            at = next[at];
            sum += at;
        }
        for (int i = 0; i < STRIDED_PER_STEP * 1000000; i++) {
            place = (place + STRIDE) & (WORDS - 1);
            sum = sum * 31 + next[place];
        }
    }
    printf("memory %ld %" PRIu32 " %016" PRIx64 "\n", steps, at, sum);
    return 0;
}
