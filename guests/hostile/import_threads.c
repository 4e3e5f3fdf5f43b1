/* Imports `wasi.thread-spawn`, which would start a thread: must be refused before it runs. */
__attribute__((import_module("wasi"), import_name("thread-spawn"))) int host_thread_spawn(void *);

__attribute__((export_name("wasi_thread_start"))) void wasi_thread_start(int id, void *argument) {
    (void)id, (void)argument;
    for (;;) {
    }
}

int main(void) { return host_thread_spawn(0) > 0 ? 42 : 0; }
