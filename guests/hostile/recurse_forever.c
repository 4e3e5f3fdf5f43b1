/* Calls itself without end, keeping nothing in linear memory, so that it is the host's stack that fills. */
volatile unsigned depth;

__attribute__((noinline)) static unsigned descend(unsigned seed) {
    if (++depth == 0) return seed; /* after four billion calls, which no stack holds */
    return descend(seed + depth) * 3 + depth;
}

int main(void) { return (int)descend(1); }
