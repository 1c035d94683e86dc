/* A server where none is: whoever gets the lock starts it, all wait for it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"

/* Where the server finds the lock; nothing else of ours is open in it. */
#define LOCK_FD 3

static void close_from(int lowest)
{
#ifdef SYS_close_range
    if (!syscall(SYS_close_range, lowest, ~0u, 0))
        return;
#endif
    /* Before Linux 5.9. */
    DIR *fds = opendir("/proc/self/fd");
    if (!fds)
        _exit(127);
    for (struct dirent *entry; (entry = readdir(fds));) {
        int fd = (int)strtol(entry->d_name, NULL, 10);
        if (fd >= lowest && fd != dirfd(fds))
            close(fd);
    }
    closedir(fds);
}

/* Nothing that a signal does to us is the server's business. */
static void reset_signals(void)
{
    for (int number = 1; number < 65; number++)
        signal(number, SIG_DFL); /* SIGKILL, SIGSTOP and libc's own refuse */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* In the child's child: become the server. */
_Noreturn static void become_server(const struct call *call, const struct key *key,
                                    const struct place *place)
{
    size_t count = 0;
    for (char **entry = call->environment; *entry; entry++)
        count += has_entry_for_interpreter(*entry);
    char **environment = calloc(count + 1, sizeof *environment);
    if (!environment)
        _exit(127);
    count = 0;
    for (char **entry = call->environment; *entry; entry++)
        if (has_entry_for_interpreter(*entry))
            environment[count++] = *entry;

    char lock[16];
    snprintf(lock, sizeof lock, "%d", LOCK_FD);
    const char *const argv[] = {
        call->python,     "-I",          "-m",     "dunnage.shim.forkserver",
        "--directory",    place->path,   "--code", key->code.data,
        "--lock-fd",      lock,          NULL,
    };
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0)
        _exit(127);
    if (place->fd == LOCK_FD ? fcntl(LOCK_FD, F_SETFD, 0) : dup2(place->fd, LOCK_FD) < 0)
        _exit(127);
    close_from(LOCK_FD + 1);
    if (chdir("/"))
        _exit(127);
    umask(077);
    reset_signals();
    execve(call->python, (char *const *)argv, environment);
    _exit(127);
}

/* The server shares the lock with us: it must be closed here, never unlocked. */
static bool spawn_server(const struct call *call, const struct key *key,
                         const struct place *place)
{
    pid_t child = fork();
    if (child < 0)
        return false;
    if (!child) {
        setsid();
        pid_t server = fork();
        if (!server)
            become_server(call, key, place);
        _exit(server < 0);
    }
    int status = 1;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) /* reaped by an ignored SIGCHLD */
            return true;
    return WIFEXITED(status) && !WEXITSTATUS(status);
}

/*
 * Whether nobody holds the lock: who was to start a server has given up, or the server
 * died young. Seen by an open file of its own, which shares no lock with the server.
 */
static bool is_unlocked(const struct place *place)
{
    int fd = open(place->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return true;
    bool free = !flock(fd, LOCK_SH | LOCK_NB);
    close(fd);
    return free;
}

static enum found wait_for_server(const struct place *place, int *connection)
{
    uint64_t until = now_ms() + START_LIMIT_MS;
    do {
        /* Asked first: a server that has let go of the lock does not come any more. */
        bool unlocked = is_unlocked(place);
        enum found found = connect_to_server(place, connection);
        if (found != ABSENT)
            return found;
        if (!is_still_there(place))
            return ABSENT;
        if (unlocked)
            return UNUSABLE;
        nanosleep(&(struct timespec){.tv_nsec = START_STEP_MS * 1000000L}, NULL);
    } while (now_ms() < until);
    return UNUSABLE;
}

/*
 * Connect to a server that is started if need be; ABSENT if the directory went away
 * under us (a server was leaving), and all has to begin anew.
 */
enum found start_server(const struct call *call, const struct key *key,
                        struct place *place, int *connection)
{
    if (!flock(place->fd, LOCK_EX | LOCK_NB)) {
        if (!is_still_there(place))
            return ABSENT;
        /* It may have come and gone to work between our look and our lock. */
        enum found found = connect_to_server(place, connection);
        if (found != ABSENT)
            return found;
        if (!spawn_server(call, key, place))
            return UNUSABLE;
    }
    /* Our own copy of the lock would outlive the server's. */
    int lock = place->fd;
    int fd = open(place->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return ABSENT;
    place->fd = fd;
    close(lock);
    return wait_for_server(place, connection);
}
