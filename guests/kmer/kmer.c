/* Counts the words of k bases in a genome: many `count` tasks over chunks, then one `merge` task over their parts.
 *
 *   kmer count [--k K]   reads /in/chunk, writes /out/counts
 *   kmer merge           reads /in/parts/<index>/counts, writes /out/counts.tsv and a summary line on stdout
 *
 * Words are counted as they stand on the given strand; the reverse complement is another word. The formats of a
 * chunk and of a part are in guests/README.md.
 *
 * Exit codes: 0 done, 2 wrong arguments or bad input (named on stderr), 3 the output could not be written. */
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_INPUT = 2, EXIT_OUTPUT = 3 };
enum { DEFAULT_K = 11, MAX_K = 12, INDEX_DIGITS = 8, TOP = 10 };

/* Words in one part. With the most parts that eight digits can name, a sum still fits into 64 bits. */
static const uint64_t MAX_TOTAL = (uint64_t)1 << 37;

static const char CHUNK[] = "/in/chunk";
static const char PARTS[] = "/in/parts";
static const char COUNTS[] = "/out/counts";
static const char TABLE[] = "/out/counts.tsv";
static const char BASES[] = "ACGT";
static const char MAGIC[4] = {'W', 'C', 'K', 'M'};
enum { FORMAT_VERSION = 1, HEADER_BYTES = 24 };

__attribute__((noreturn, format(printf, 1, 2))) static void bad_input(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("kmer: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(EXIT_INPUT);
}

__attribute__((noreturn)) static void bad_output(const char *path) {
    fprintf(stderr, "kmer: %s: %s\n", path, strerror(errno));
    exit(EXIT_OUTPUT);
}

static uint64_t *new_counts(int k) {
    uint64_t *counts = calloc((size_t)1 << 2 * k, sizeof *counts);
    if (!counts) bad_input("not enough memory to count words of %d bases", k);
    return counts;
}

/* ---- count ---- */

enum { AMBIGUOUS = 4, BLANK = 5, FOREIGN = 6 };

static int classify(int byte) {
    switch (byte) {
    case 'A': case 'a': return 0;
    case 'C': case 'c': return 1;
    case 'G': case 'g': return 2;
    case 'T': case 't': return 3;
    case '\n': case '\r': case ' ': case '\t': return BLANK;
    }
    /* The other letters of the IUPAC alphabet stand for one of several bases, or for a gap. */
    return byte && strchr("NRYSWKMBDHVUnryswkmbdhvu-", byte) ? AMBIGUOUS : FOREIGN;
}

static void put_u64(unsigned char *at, uint64_t value) {
    for (int i = 0; i < 8; i++) at[i] = (unsigned char)(value >> 8 * i);
}

static uint64_t get_u64(const unsigned char *at) {
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static void put_varint(FILE *out, uint64_t value) {
    for (; value >= 0x80; value >>= 7) fputc((int)(value & 0x7f) | 0x80, out);
    fputc((int)value, out);
}

static void count(int k) {
    FILE *in = fopen(CHUNK, "rb");
    if (!in) bad_input("%s: %s", CHUNK, strerror(errno));
    uint64_t *counts = new_counts(k), total = 0, distinct = 0, word = 0, mask = ((uint64_t)1 << 2 * k) - 1, at = 0;
    int run = 0, at_line_start = 1, in_header = 0, byte;
    for (; (byte = getc(in)) != EOF; at++) {
        if (in_header) {
            if (byte == '\n') in_header = 0, at_line_start = 1;
            continue;
        }
        if (byte == '>' && at_line_start) {
            in_header = 1;
            run = 0; /* a word never spans two records */
            continue;
        }
        int base = classify(byte);
        at_line_start = byte == '\n';
        if (base == BLANK) continue;
        if (base == FOREIGN) bad_input("%s: byte 0x%02x at offset %llu is not a base", CHUNK, byte, (unsigned long long)at);
        if (base == AMBIGUOUS) {
            run = 0;
            continue;
        }
        word = (word << 2 | (uint64_t)base) & mask;
        if (++run >= k) {
            distinct += counts[word]++ == 0;
            total++;
        }
    }
    if (ferror(in)) bad_input("%s: %s", CHUNK, strerror(errno));
    if (at == 0) bad_input("%s: the chunk is empty", CHUNK);

    FILE *out = fopen(COUNTS, "wb");
    if (!out) bad_output(COUNTS);
    unsigned char header[HEADER_BYTES] = {0};
    memcpy(header, MAGIC, sizeof MAGIC);
    header[4] = FORMAT_VERSION;
    header[5] = (unsigned char)k;
    put_u64(header + 8, total);
    put_u64(header + 16, distinct);
    fwrite(header, 1, sizeof header, out);
    uint64_t next = 0;
    for (uint64_t w = 0; w <= mask; w++) {
        if (!counts[w]) continue;
        put_varint(out, w - next);
        put_varint(out, counts[w]);
        next = w + 1;
    }
    if (ferror(out) || fclose(out) != 0) bad_output(COUNTS);
    printf("%d-mers: %llu total, %llu distinct\n", k, (unsigned long long)total, (unsigned long long)distinct);
}

/* ---- merge ---- */

static uint64_t get_varint(FILE *in, const char *path) {
    uint64_t value = 0;
    for (int shift = 0; shift < 63; shift += 7) {
        int byte = getc(in);
        if (byte == EOF) bad_input("%s: the part ends early", path);
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            if (byte == 0 && shift) break; /* written longer than needed */
            return value;
        }
    }
    bad_input("%s: a number is malformed", path);
}

/* Returns how many parts there are, having checked that none is missing: their names must be 0, 1, 2, ... */
static long count_parts(void) {
    DIR *directory = opendir(PARTS);
    if (!directory) bad_input("%s: %s", PARTS, strerror(errno));
    long parts = 0, highest = -1;
    struct dirent *entry;
    while ((errno = 0, entry = readdir(directory))) {
        const char *name = entry->d_name;
        if (!strcmp(name, ".") || !strcmp(name, "..")) continue;
        if (strlen(name) != INDEX_DIGITS || strspn(name, "0123456789") != INDEX_DIGITS)
            bad_input("%s: '%s' is not an index of %d digits", PARTS, name, INDEX_DIGITS);
        long index = strtol(name, NULL, 10);
        if (index > highest) highest = index;
        parts++;
    }
    if (errno) bad_input("%s: %s", PARTS, strerror(errno));
    closedir(directory);
    if (parts == 0) bad_input("%s: there are no parts", PARTS);
    if (highest + 1 != parts) bad_input("%s: %ld parts, but the highest index is %ld", PARTS, parts, highest);
    return parts;
}

typedef struct {
    uint64_t word, count;
} Entry;

static int more_frequent_first(const void *left, const void *right) {
    const Entry *a = left, *b = right;
    if (a->count != b->count) return a->count > b->count ? -1 : 1;
    return a->word < b->word ? -1 : a->word > b->word;
}

static const char *spell(uint64_t word, int k) {
    static char text[MAX_K + 1];
    for (int i = 0; i < k; i++) text[i] = BASES[word >> 2 * (k - 1 - i) & 3];
    text[k] = '\0';
    return text;
}

static void merge(void) {
    long parts = count_parts();
    uint64_t *counts = NULL, total = 0;
    int k = 0;
    for (long part = 0; part < parts; part++) {
        char path[64];
        unsigned char header[HEADER_BYTES];
        snprintf(path, sizeof path, "%s/%0*ld/counts", PARTS, INDEX_DIGITS, part);
        FILE *in = fopen(path, "rb");
        if (!in) bad_input("%s: %s", path, strerror(errno));
        if (fread(header, 1, sizeof header, in) != sizeof header || memcmp(header, MAGIC, sizeof MAGIC))
            bad_input("%s: not a part written by 'kmer count'", path);
        if (header[4] != FORMAT_VERSION) bad_input("%s: unknown format version %d", path, header[4]);
        if (header[5] < 1 || header[5] > MAX_K || header[6] || header[7]) bad_input("%s: the header is malformed", path);
        if (!counts) {
            k = header[5];
            counts = new_counts(k);
        }
        if (header[5] != k) bad_input("%s: words of %d bases, but the parts before have %d", path, header[5], k);
        uint64_t stated = get_u64(header + 8), distinct = get_u64(header + 16), words = (uint64_t)1 << 2 * k;
        uint64_t seen = 0, next = 0;
        if (distinct > words) bad_input("%s: more distinct words than exist", path);
        if (stated > MAX_TOTAL) bad_input("%s: the total is out of range", path);
        for (uint64_t i = 0; i < distinct; i++) {
            uint64_t gap = get_varint(in, path), times = get_varint(in, path);
            if (gap >= words - next) bad_input("%s: a word is out of range", path);
            if (times == 0 || times > stated - seen) bad_input("%s: the counts do not add up to %llu", path, (unsigned long long)stated);
            counts[next + gap] += times;
            seen += times;
            next += gap + 1;
        }
        if (seen != stated) bad_input("%s: the counts do not add up to %llu", path, (unsigned long long)stated);
        if (getc(in) != EOF) bad_input("%s: there are bytes after the end", path);
        fclose(in);
        total += seen;
    }

    size_t words = (size_t)1 << 2 * k, distinct = 0;
    for (size_t w = 0; w < words; w++) distinct += counts[w] != 0;
    Entry *entries = malloc((distinct ? distinct : 1) * sizeof *entries);
    if (!entries) bad_input("not enough memory to sort %zu words", distinct);
    size_t filled = 0;
    for (size_t w = 0; w < words; w++)
        if (counts[w]) entries[filled++] = (Entry){w, counts[w]};
    qsort(entries, distinct, sizeof *entries, more_frequent_first);

    FILE *out = fopen(TABLE, "wb");
    if (!out) bad_output(TABLE);
    for (size_t i = 0; i < distinct; i++)
        fprintf(out, "%s\t%llu\n", spell(entries[i].word, k), (unsigned long long)entries[i].count);
    if (ferror(out) || fclose(out) != 0) bad_output(TABLE);

    printf("%d-mers: %llu total, %zu distinct; top %d:", k, (unsigned long long)total, distinct, TOP);
    for (size_t i = 0; i < distinct && i < TOP; i++)
        printf("%s %s %llu", i ? "," : "", spell(entries[i].word, k), (unsigned long long)entries[i].count);
    putchar('\n');
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "merge")) {
        merge();
    } else if ((argc == 2 || argc == 4) && !strcmp(argv[1], "count")) {
        long k = DEFAULT_K;
        if (argc == 4) {
            char *end;
            k = strtol(argv[3], &end, 10);
            if (strcmp(argv[2], "--k") || end == argv[3] || *end || k < 1 || k > MAX_K)
                bad_input("%s %s: expected --k with a number from 1 to %d", argv[2], argv[3], MAX_K);
        }
        count((int)k);
    } else {
        bad_input("usage: kmer count [--k K] | kmer merge");
    }
    if (fflush(stdout) != 0) bad_output("stdout");
    return 0;
}
