// Memory-bound work: dependent random reads and writes over 64 MiB, then passes over all of it.
#include "kernel.h"

#define WORDS (16u << 20)
static uint32_t table[WORDS];

void _start(void) {
    for (uint32_t i = 0; i < WORDS; i++) table[i] = i * 2654435761u;
    uint32_t at = 1;
    for (uint32_t i = 0; i < 12000000; i++) {
        uint32_t next = table[at & (WORDS - 1)] + i;
        table[at & (WORDS - 1)] = next;
        at = next ^ next >> 15;
    }
    for (int pass = 0; pass < 12; pass++)
        for (uint32_t i = 1; i < WORDS; i++) table[i] += table[i - 1];
    result = table[WORDS - 1] ^ at;
}
