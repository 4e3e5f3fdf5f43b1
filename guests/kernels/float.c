/* Benchmark kernel, floating point: the gravity of a few bodies, and products of matrices that stay in the cache.
 *
 *   float [STEPS]   thousands of time steps, 6000 by default */
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_STEPS = 6000, STEPS_PER_UNIT = 1000, BODIES = 8, SIDE = 64 };

typedef struct {
    double x[3], v[3], mass;
} Body;

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static double uniform(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (double)(random_state >> 11) / 9007199254740992.0 - 0.5;
}

static void step(Body *bodies, double dt) {
    for (int i = 0; i < BODIES; i++) {
        for (int j = i + 1; j < BODIES; j++) {
            double d[3], r2 = 0.05;
            for (int k = 0; k < 3; k++) {
                d[k] = bodies[j].x[k] - bodies[i].x[k];
                r2 += d[k] * d[k];
            }
            double pull = dt / (r2 * sqrt(r2));
            for (int k = 0; k < 3; k++) {
                bodies[i].v[k] += d[k] * pull * bodies[j].mass;
                bodies[j].v[k] -= d[k] * pull * bodies[i].mass;
            }
        }
    }
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++) bodies[i].x[k] += dt * bodies[i].v[k];
}

static double base[SIDE][SIDE], a[SIDE][SIDE], b[SIDE][SIDE], c[SIDE][SIDE];

/* The next matrix is a rolled copy of the first plus a small product, so values neither grow nor fade away. */
static void multiply(long unit) {
    for (int i = 0; i < SIDE; i++) {
        double row[SIDE] = {0};
        for (int k = 0; k < SIDE; k++)
            for (int j = 0; j < SIDE; j++) row[j] += a[i][k] * b[k][j];
        memcpy(c[i], row, sizeof row);
    }
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) a[i][j] = base[(i + unit) % SIDE][j] + 0.25 * c[j][i];
}

static void mix(uint64_t *hash, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    *hash = (*hash ^ bits) * 0x100000001b3u;
}

int main(int argc, char **argv) {
    long units = argc > 1 ? strtol(argv[1], NULL, 10) : DEFAULT_STEPS;
    if (units < 1) {
        fputs("usage: float [STEPS]\n", stderr);
        return 2;
    }
    Body bodies[BODIES];
    for (int i = 0; i < BODIES; i++) {
        for (int k = 0; k < 3; k++) bodies[i].x[k] = 4.0 * uniform(), bodies[i].v[k] = 0.3 * uniform();
        bodies[i].mass = 1.0 + uniform();
    }
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) a[i][j] = base[i][j] = uniform(), b[i][j] = uniform();

    for (long unit = 0; unit < units; unit++) {
        for (int i = 0; i < STEPS_PER_UNIT; i++) step(bodies, 0.001);
        multiply(unit);
    }

    uint64_t hash = 0xcbf29ce484222325u;
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++) mix(&hash, bodies[i].x[k]), mix(&hash, bodies[i].v[k]);
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) mix(&hash, a[i][j]);
    printf("float %ld %016" PRIx64 "\n", units, hash);
    return 0;
}
