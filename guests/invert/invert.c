/* Writes /in/input with every bit turned over to /out/output; with an argument, only that many bytes of it, but it
   reads all. */
#include <stdio.h>
#include <stdlib.h>

static unsigned char buffer[64 * 1024];

int main(int count, char **words) {
    unsigned long left = count > 1 ? strtoul(words[1], NULL, 10) : (unsigned long)-1;
    FILE *in = fopen("/in/input", "r"), *out = fopen("/out/output", "w");
    if (!in || !out) {
        fprintf(stderr, "there is no /in/input, or no room for /out/output\n");
        return in ? 3 : 2;
    }
    size_t length;
    while ((length = fread(buffer, 1, sizeof buffer, in)) > 0) {
        for (size_t at = 0; at < length; at++)
            buffer[at] = (unsigned char)~buffer[at];
        size_t wanted = length < left ? length : left;
        if (fwrite(buffer, 1, wanted, out) != wanted)
            return 3;
        left -= wanted;
    }
    if (ferror(in))
        return 2;
    return fclose(out) ? 3 : 0;
}
