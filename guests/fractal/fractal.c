/* Renders one tile of a Mandelbrot or Julia picture, so that an array of tasks renders all of it.
 *
 * Task i of n renders tile i of a square grid of n tiles, row by row from the top left, as raw RGB8 into
 * /out/tile.rgb. Every pixel is computed from its place in the whole picture, so tiles meet without a seam.
 *
 * Exit codes: 0 done, 2 wrong arguments or environment, 3 the tile could not be written. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_USAGE = 2, EXIT_OUTPUT = 3 };
enum { MAX_SIZE_PX = 65536, MAX_TILES = 65536, MAX_ITERATIONS = 10000000, MAX_SAMPLES = 8 };

/* Squared radius beyond which a point has escaped; far out, so that the smooth count is smooth. */
static const double BAILOUT_SQUARED = 1.0e6;

typedef struct {
    int julia;
    long size_px;
    long tiles;
    double center_re, center_im;
    double scale; /* width of the whole picture in the complex plane */
    double c_re, c_im; /* the constant of a Julia set */
    long max_iter;
    long samples; /* per pixel and direction */
} View;

typedef struct {
    double r, g, b; /* linear light, 0 to 1 */
} Color;

static void usage(const char *problem, const char *value) {
    fprintf(stderr, "fractal: %s: %s\n", problem, value);
    fprintf(stderr,
            "usage: fractal [--set mandelbrot|julia] [--size PX] [--tiles N] [--center RE,IM] [--scale WIDTH]\n"
            "               [--julia RE,IM] [--max-iter N] [--samples N]\n");
    exit(EXIT_USAGE);
}

static long parse_long(const char *name, const char *text, long low, long high) {
    char *end;
    long value = strtol(text, &end, 10);
    if (end == text || *end != '\0' || value < low || value > high) usage(name, text);
    return value;
}

static double parse_double(const char *name, const char *text, char stop, const char **rest) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != stop || !(fabs(value) < 1e6)) usage(name, text);
    *rest = *end ? end + 1 : end;
    return value;
}

static void parse_point(const char *name, const char *text, double *re, double *im) {
    const char *rest;
    *re = parse_double(name, text, ',', &rest);
    *im = parse_double(name, rest, '\0', &rest);
}

/* One turn of the palette: ink, indigo, lagoon, cream, amber, ember, plum, and back. sRGB. */
static const unsigned char PALETTE[][3] = {
    {8, 10, 34},    {22, 44, 120},  {28, 126, 170}, {150, 216, 206}, {253, 243, 214},
    {246, 184, 92}, {214, 84, 44},  {112, 24, 66},  {34, 10, 52},
};
enum { PALETTE_STOPS = sizeof PALETTE / sizeof PALETTE[0] };

/* Squaring stands in for the sRGB curve: close enough for blending, and exact everywhere. */
static double to_linear(unsigned char channel) {
    double v = channel / 255.0;
    return v * v;
}

static unsigned char from_linear(double v) {
    if (v <= 0.0) return 0;
    if (v >= 1.0) return 255;
    return (unsigned char)(sqrt(v) * 255.0 + 0.5);
}

/* Colour at `turn` of the palette, of which only the fraction counts. */
static Color palette_at(double turn) {
    double at = (turn - floor(turn)) * PALETTE_STOPS;
    int i = (int)at % PALETTE_STOPS;
    int j = (i + 1) % PALETTE_STOPS;
    double t = at - floor(at);
    t = t * t * (3.0 - 2.0 * t);
    const unsigned char *p = PALETTE[i], *q = PALETTE[j];
    Color color = {
        to_linear(p[0]) * (1.0 - t) + to_linear(q[0]) * t,
        to_linear(p[1]) * (1.0 - t) + to_linear(q[1]) * t,
        to_linear(p[2]) * (1.0 - t) + to_linear(q[2]) * t,
    };
    return color;
}

/* True inside the main cardioid and the period-two disc, where iterating would only confirm it. */
static int surely_inside(double re, double im) {
    double x = re - 0.25, y2 = im * im, q = x * x + y2;
    if (q * (q + x) <= 0.25 * y2) return 1;
    return (re + 1.0) * (re + 1.0) + y2 <= 0.0625;
}

/* Colour of one point: the smooth escape count picks from the palette, and the derivative of the orbit gives the
 * slope of the potential, which is lit from the upper left like a relief. */
static Color shade(const View *view, double re, double im) {
    const Color inside = {0.0006, 0.0008, 0.004};
    double z_re = view->julia ? re : 0.0, z_im = view->julia ? im : 0.0;
    double c_re = view->julia ? view->c_re : re, c_im = view->julia ? view->c_im : im;
    double d_re = view->julia ? 1.0 : 0.0, d_im = 0.0; /* dz/dz0 or dz/dc */
    double grow = view->julia ? 0.0 : 1.0;
    double old_re = z_re, old_im = z_im; /* Brent: an orbit that comes back never escapes */
    long check_at = 32, n;

    if (!view->julia && surely_inside(re, im)) return inside;
    for (n = 0; n < view->max_iter; n++) {
        double re2 = z_re * z_re, im2 = z_im * z_im;
        if (re2 + im2 > BAILOUT_SQUARED) break;
        double t = 2.0 * (z_re * d_re - z_im * d_im) + grow;
        d_im = 2.0 * (z_re * d_im + z_im * d_re);
        d_re = t;
        z_im = 2.0 * z_re * z_im + c_im;
        z_re = re2 - im2 + c_re;
        if (z_re == old_re && z_im == old_im) return inside;
        if (n == check_at) {
            old_re = z_re;
            old_im = z_im;
            check_at *= 2;
        }
    }
    if (n == view->max_iter) return inside;

    double log_r2 = log(z_re * z_re + z_im * z_im);
    double smooth = (double)n + 1.0 - log(log_r2 / log(BAILOUT_SQUARED)) / 0.69314718055994531;
    Color color = palette_at(0.12 + 0.62 * log(smooth + 12.0));

    double norm = d_re * d_re + d_im * d_im;
    double u_re = (z_re * d_re + z_im * d_im) / norm, u_im = (z_im * d_re - z_re * d_im) / norm;
    double length = sqrt(u_re * u_re + u_im * u_im);
    if (length > 0.0 && length < 1e30) {
        double facing = (-0.7071 * u_re + 0.7071 * u_im) / length;
        double light = (facing + 1.35) / 2.35;
        light = 0.32 + 0.86 * light;
        color.r *= light;
        color.g *= light;
        color.b *= light;
    }
    return color;
}

int main(int argc, char **argv) {
    View view = {.size_px = 2048, .tiles = 0, .max_iter = 0, .samples = 2, .c_re = -0.7885, .c_im = 0.15};
    int have_center = 0;
    for (int i = 1; i < argc; i += 2) {
        const char *name = argv[i], *rest;
        if (i + 1 >= argc) usage("argument without a value", name);
        const char *value = argv[i + 1];
        if (!strcmp(name, "--set")) {
            if (strcmp(value, "mandelbrot") && strcmp(value, "julia")) usage(name, value);
            view.julia = value[0] == 'j';
        } else if (!strcmp(name, "--size")) {
            view.size_px = parse_long(name, value, 1, MAX_SIZE_PX);
        } else if (!strcmp(name, "--tiles")) {
            view.tiles = parse_long(name, value, 1, MAX_TILES);
        } else if (!strcmp(name, "--center")) {
            parse_point(name, value, &view.center_re, &view.center_im);
            have_center = 1;
        } else if (!strcmp(name, "--scale")) {
            view.scale = parse_double(name, value, '\0', &rest);
            if (!(view.scale > 0.0)) usage(name, value);
        } else if (!strcmp(name, "--julia")) {
            parse_point(name, value, &view.c_re, &view.c_im);
        } else if (!strcmp(name, "--max-iter")) {
            view.max_iter = parse_long(name, value, 1, MAX_ITERATIONS);
        } else if (!strcmp(name, "--samples")) {
            view.samples = parse_long(name, value, 1, MAX_SAMPLES);
        } else {
            usage("unknown argument", name);
        }
    }
    if (!have_center && !view.julia) {
        view.center_re = -0.74364;
        view.center_im = 0.13182;
    }
    if (view.scale == 0.0) view.scale = view.julia ? 3.2 : 0.00035;
    if (view.max_iter == 0) view.max_iter = view.julia ? 1000 : 4000;

    const char *index_text = getenv("WC_TASK_INDEX"), *count_text = getenv("WC_TASK_COUNT");
    if (count_text) {
        long count = parse_long("WC_TASK_COUNT", count_text, 1, MAX_TILES);
        if (view.tiles && view.tiles != count) usage("--tiles differs from WC_TASK_COUNT", count_text);
        view.tiles = count;
    }
    if (!view.tiles) view.tiles = 64;
    long index = index_text ? parse_long("WC_TASK_INDEX", index_text, 0, view.tiles - 1) : 0;

    long grid = 1;
    while (grid * grid < view.tiles) grid++;
    if (grid * grid != view.tiles) usage("the number of tiles must be a square", count_text ? count_text : "--tiles");
    if (view.size_px % grid) usage("--size must be a multiple of the tiles per side", "--size");

    long side_px = view.size_px / grid, left = index % grid * side_px, top = index / grid * side_px;
    size_t bytes = (size_t)side_px * (size_t)side_px * 3;
    unsigned char *tile = malloc(bytes), *pixel = tile;
    if (!tile) usage("not enough memory for a tile", "--size");

    double step = view.scale / (double)(view.size_px * view.samples);
    double middle = (double)(view.size_px * view.samples) / 2.0;
    double weight = 1.0 / (double)(view.samples * view.samples);
    for (long y = top; y < top + side_px; y++) {
        for (long x = left; x < left + side_px; x++) {
            Color sum = {0.0, 0.0, 0.0};
            for (long sy = 0; sy < view.samples; sy++) {
                for (long sx = 0; sx < view.samples; sx++) {
                    double re = view.center_re + ((double)(x * view.samples + sx) + 0.5 - middle) * step;
                    double im = view.center_im - ((double)(y * view.samples + sy) + 0.5 - middle) * step;
                    Color color = shade(&view, re, im);
                    sum.r += color.r;
                    sum.g += color.g;
                    sum.b += color.b;
                }
            }
            *pixel++ = from_linear(sum.r * weight);
            *pixel++ = from_linear(sum.g * weight);
            *pixel++ = from_linear(sum.b * weight);
        }
    }

    FILE *out = fopen("/out/tile.rgb", "wb");
    if (!out || fwrite(tile, 1, bytes, out) != bytes || fclose(out) != 0) {
        perror("fractal: /out/tile.rgb");
        return EXIT_OUTPUT;
    }
    return 0;
}
