/* Without a server: the shim's own program takes our place. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "launcher.h"

#define NAME_VARIABLE "DUNNAGE_ARGV0="

_Noreturn static void fail(const struct call *call, const char *what)
{
    int number = errno;
    const char *name = call->argc ? call->argv[0] : "";
    const char *slash = strrchr(name, '/');
    dprintf(STDERR_FILENO, "%s: %s: %s", slash ? slash + 1 : name, what,
            strerror(number));
    exit(1);
}

/* What has been read of stdin stands there again. */
static void give_input_back(const struct call *call)
{
    if (call->input_broken)
        fail(call, "stdin");
    if (!call->input.length)
        return; /* not read, or at its end: then it says so again */
    int fd = (int)syscall(SYS_memfd_create, "stdin", 1u /* close on exec */);
    if (fd < 0 || !write_all(fd, call->input.data, call->input.length) ||
        lseek(fd, 0, SEEK_SET) < 0 || dup2(fd, STDIN_FILENO) < 0)
        fail(call, "stdin");
}

_Noreturn void go_cold(struct call *call)
{
    give_input_back(call);
    size_t count = 0;
    while (call->environment[count])
        count++;
    const char *name = call->argc ? call->argv[0] : "";
    size_t words = call->argc > 1 ? (size_t)call->argc - 1 : 0;
    char **environment = calloc(count + 2, sizeof *environment);
    char **argv = calloc(words + 5, sizeof *argv);
    char *entry = malloc(sizeof NAME_VARIABLE + strlen(name));
    if (!environment || !argv || !entry)
        fail(call, "memory");

    /* The interpreter finds its own files by its own name; ours goes beside it. */
    strcpy(entry, NAME_VARIABLE);
    strcat(entry, name);
    size_t at = 0;
    for (size_t i = 0; i < count; i++)
        if (strncmp(call->environment[i], NAME_VARIABLE, sizeof NAME_VARIABLE - 1))
            environment[at++] = call->environment[i];
    environment[at] = entry;

    static char isolated[] = "-I", module[] = "-m", shim[] = "dunnage.shim.main";
    argv[0] = call->python;
    argv[1] = isolated;
    argv[2] = module;
    argv[3] = shim;
    for (size_t i = 0; i < words; i++)
        argv[4 + i] = call->argv[1 + i];
    execve(call->python, argv, environment);
    fail(call, call->python);
}
