/*
 * Starts a program as no library would: any words, none at all, an environment of any
 * entries, with a signal pending.
 *
 *   odd PROGRAM WORDS ENTRIES [pending]      two files, of strings that end in NUL
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char **strings(const char *path)
{
    struct stat status;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &status))
        exit(125);
    size_t size = (size_t)status.st_size, count = 0;
    char *data = malloc(size + 1), **found = calloc(size + 1, sizeof *found);
    if (!data || !found || read(fd, data, size) != (ssize_t)size)
        exit(125);
    close(fd);
    for (char *at = data; at < data + size; at += strlen(at) + 1)
        found[count++] = at;
    return found;
}

int main(int argc, char **argv)
{
    if (argc > 4) {
        sigset_t blocked;
        sigemptyset(&blocked);
        sigaddset(&blocked, SIGTERM);
        sigprocmask(SIG_BLOCK, &blocked, NULL);
        raise(SIGTERM);
    }
    execve(argv[1], strings(argv[2]), strings(argv[3]));
    return 126;
}
