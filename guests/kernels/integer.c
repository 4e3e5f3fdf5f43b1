/* Benchmark kernel, integers: rounds of SHA-256 over a running block, and a sieve of primes. No memory to speak of.
 *
 *   integer [ROUNDS]   thousands of SHA-256 blocks, 4000 by default */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_ROUNDS = 4000, BLOCKS_PER_ROUND = 1000, SIEVE_BYTES = 1 << 15 };

/* The first 32 bits of the fractions of the cube roots of the first 64 primes, found in integers. */
static uint32_t K[64];

static uint32_t cube_root_fraction(uint64_t prime) {
    /* Largest x with x^3 <= prime * 2^96, by bits; x = floor(cbrt(prime) * 2^32). */
    unsigned __int128 target = (unsigned __int128)prime << 96, x = 0;
    for (int bit = 35; bit >= 0; bit--) {
        unsigned __int128 candidate = x | (unsigned __int128)1 << bit;
        if (candidate * candidate * candidate <= target) x = candidate;
    }
    return (uint32_t)x;
}

static uint32_t rotate(uint32_t v, int by) { return v >> by | v << (32 - by); }

static void compress(uint32_t state[8], const uint32_t block[16]) {
    uint32_t w[64];
    memcpy(w, block, 16 * sizeof *w);
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i];
        uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static unsigned sieve(unsigned char *composite) {
    unsigned primes = 0;
    memset(composite, 0, SIEVE_BYTES);
    for (unsigned i = 2; i < SIEVE_BYTES; i++) {
        if (composite[i]) continue;
        if (primes < 64) K[primes] = cube_root_fraction(i);
        primes++;
        for (unsigned j = i * i; i < 256 && j < SIEVE_BYTES; j += i) composite[j] = 1;
    }
    return primes;
}

int main(int argc, char **argv) {
    static unsigned char composite[SIEVE_BYTES];
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : DEFAULT_ROUNDS;
    if (rounds < 1) {
        fputs("usage: integer [ROUNDS]\n", stderr);
        return 2;
    }
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint32_t block[16];
    uint64_t random = 0x9e3779b97f4a7c15u, primes = 0;
    for (long round = 0; round < rounds; round++) {
        primes += sieve(composite);
        for (int i = 0; i < BLOCKS_PER_ROUND; i++) {
            for (int j = 0; j < 16; j++) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                block[j] = (uint32_t)random ^ state[j & 7];
            }
            compress(state, block);
        }
    }
    printf("integer %ld %" PRIu64 " ", rounds, primes);
    for (int i = 0; i < 8; i++) printf("%08" PRIx32, state[i]);
    putchar('\n');
    return 0;
}
