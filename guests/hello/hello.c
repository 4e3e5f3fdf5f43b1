/* Says which task of its array it is. Outside an array it is task 0 of 1. */
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    const char *index = getenv("WC_TASK_INDEX"), *count = getenv("WC_TASK_COUNT");
    printf("hello from task %s of %s\n", index ? index : "0", count ? count : "1");
    return 0;
}
