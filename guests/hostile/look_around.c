/* Prints all it can learn about where it runs: arguments, environment, descriptors, directories with the times and
 * numbers of their files, and what stdin holds. Where two machines print different lines, a result can depend on the
 * machine. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wasi/api.h>

extern char **environ;

static void list(const char *path, int depth) {
    DIR *directory = opendir(path);
    if (!directory) {
        printf("directory %s: %s\n", path, strerror(errno));
        return;
    }
    struct dirent *entry;
    while ((entry = readdir(directory))) {
        char inside[1024];
        struct stat about;
        snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name);
        printf("entry %s: cookie type %d, inode %llu", inside, entry->d_type, (unsigned long long)entry->d_ino);
        if (lstat(inside, &about) == 0)
            printf(", device %llu, inode %llu, links %llu, size %lld, times %lld %lld %lld", (unsigned long long)about.st_dev,
                   (unsigned long long)about.st_ino, (unsigned long long)about.st_nlink, (long long)about.st_size,
                   (long long)about.st_atim.tv_sec, (long long)about.st_mtim.tv_sec, (long long)about.st_ctim.tv_sec);
        putchar('\n');
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.' && depth < 3) list(inside, depth + 1);
    }
    closedir(directory);
}

int main(int argc, char **argv) {
    for (int i = 0; i < argc; i++) printf("argument %d: %s\n", i, argv[i]);
    for (char **variable = environ; *variable; variable++) printf("environment: %s\n", *variable);
    for (__wasi_fd_t fd = 0; fd < 32; fd++) {
        __wasi_fdstat_t status;
        if (__wasi_fd_fdstat_get(fd, &status) != 0) continue;
        printf("descriptor %u: type %d, flags %d, rights %" PRIx64 "\n", (unsigned)fd, status.fs_filetype, status.fs_flags, status.fs_rights_base);
        __wasi_prestat_t preopened;
        if (__wasi_fd_prestat_get(fd, &preopened) != 0) continue;
        char name[256] = {0};
        if (preopened.u.dir.pr_name_len < sizeof name && __wasi_fd_prestat_dir_name(fd, (uint8_t *)name, preopened.u.dir.pr_name_len) == 0)
            printf("descriptor %u: opened as %s\n", (unsigned)fd, name);
    }
    list("/in", 0);
    list("/out", 0);
    list("/scratch", 0);
    list("/checkpoint", 0);
    char bytes[64];
    ssize_t got = read(0, bytes, sizeof bytes);
    printf("stdin: %zd bytes\n", got);
    return 0;
}
