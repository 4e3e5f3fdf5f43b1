// Floating-point work: escape times of the Mandelbrot set, double precision.
#include "kernel.h"

void _start(void) {
    uint64_t sum = 0;
    for (int y = 0; y < 900; y++) {
        for (int x = 0; x < 900; x++) {
            double cr = x * (3.0 / 900) - 2.25, ci = y * (2.5 / 900) - 1.25, zr = 0, zi = 0;
            int steps = 0;
            while (steps < 1500 && zr * zr + zi * zi < 4) {
                double next = zr * zr - zi * zi + cr;
                zi = 2 * zr * zi + ci;
                zr = next;
                steps++;
            }
            sum += steps;
        }
    }
    result = (uint32_t)sum;
}
