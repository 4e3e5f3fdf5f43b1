/* Declares almost 4 GiB of memory that it wants to start with (see build.sh), and needs none of it. */
int main(void) { return 0; }
