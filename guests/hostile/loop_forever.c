/* Spins and never comes back, without a single call to the host. */
volatile unsigned turns;

int main(void) {
    for (;;) turns++;
}
