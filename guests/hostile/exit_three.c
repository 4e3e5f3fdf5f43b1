/* Says why on stderr, leaves a file behind, and fails with exit code 3. */
#include <stdio.h>

int main(void) {
    FILE *out = fopen("/out/partial", "w");
    if (out) {
        fputs("not to be trusted\n", out);
        fclose(out);
    }
    fputs("exit_three: failing on purpose\n", stderr);
    return 3;
}
