/* Grows its memory page by page and writes to every page. If growing is refused instead of ending the guest, says
 * how far it came and exits with 12. */
#include <stdio.h>

enum { PAGE_BYTES = 65536 };

int main(void) {
    for (;;) {
        unsigned long page = __builtin_wasm_memory_grow(0, 1);
        if (page == (unsigned long)-1) break;
        volatile unsigned char *at = (volatile unsigned char *)(page * PAGE_BYTES);
        for (int i = 0; i < PAGE_BYTES; i += 4096) at[i] = 1;
    }
    printf("refused at %lu pages of memory\n", (unsigned long)__builtin_wasm_memory_size(0));
    return 12;
}
