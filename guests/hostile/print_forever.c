/* Prints sixteen GiB on stdout, or on stderr if the argument is `stderr`; when a write fails, exits with 5. */
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    static char line[65536];
    int to = argc > 1 && !strcmp(argv[1], "stderr") ? 2 : 1;
    memset(line, 'x', sizeof line);
    for (size_t i = 63; i < sizeof line; i += 64) line[i] = '\n';
    for (long i = 0; i < 16l * 16384; i++)
        if (write(to, line, sizeof line) < 0) return 5;
    return 0;
}
