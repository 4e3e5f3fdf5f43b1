/* Imports what no sandbox offers, `env.fork` and `env.execve`: must be refused before it runs. */
__attribute__((import_module("env"), import_name("fork"))) int host_fork(void);
__attribute__((import_module("env"), import_name("execve"))) int host_execve(const char *, char **, char **);

int main(void) {
    char *none[] = {0};
    return host_fork() == 0 ? host_execve("/bin/sh", none, none) : 42;
}
