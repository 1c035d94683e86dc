/* The directory of servers: ours alone, or nothing in it is believed. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "launcher.h"

static bool make_directories(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        bool made = !mkdir(path, 0755) || errno == EEXIST;
        *slash = '/';
        if (!made)
            return false;
    }
    return true;
}

/* Open a directory that must be private to us; a new one is. */
static int open_private(int parent, const char *path, bool make, int flags)
{
    /* The umask may take from the mode of a new one what its owner needs. */
    if (make && !mkdirat(parent, path, 0700) && fchmodat(parent, path, 0700, 0))
        return -1;
    int fd = openat(parent, path, flags | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    struct stat status;
    if (fstat(fd, &status) || status.st_uid != geteuid() ||
        (status.st_mode & 0777) != 0700) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Open the directory of a key, false if it is not there or not to be trusted. */
bool find_place(const struct call *call, const char *name, bool make,
                struct place *place)
{
    char base[sizeof place->path - NAME_LENGTH - 2];
    const char *told = environment_get(call->environment, "DUNNAGE_FORKSERVER");
    int length;
    if (told && *told)
        length = snprintf(base, sizeof base, "%s", told);
    else if (geteuid() == 0)
        length = snprintf(base, sizeof base, "/run/dunnage/forkserver");
    else
        length = snprintf(base, sizeof base, "/run/user/%lu/dunnage/forkserver",
                          (unsigned long)geteuid());
    if (length < 0 || (size_t)length >= sizeof base || base[0] != '/')
        return false;
    while (length > 1 && base[length - 1] == '/')
        base[--length] = '\0';
    int parent = open_private(AT_FDCWD, base, false, O_PATH);
    if (parent < 0 && make && make_directories(base))
        parent = open_private(AT_FDCWD, base, true, O_PATH);
    if (parent < 0)
        return false;
    place->fd = open_private(parent, name, make, O_RDONLY);
    close(parent);
    if (place->fd < 0)
        return false;
    snprintf(place->path, sizeof place->path, "%s/%s", base, name);
    return true;
}

/* Whether the path still leads to what was opened: a server that leaves removes it. */
bool is_still_there(const struct place *place)
{
    struct stat opened, named;
    return !fstat(place->fd, &opened) && !lstat(place->path, &named) &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

/* Connect; ABSENT if nobody listens, UNUSABLE if somebody does and is no help. */
enum found connect_to_server(const struct place *place, int *connection)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return UNUSABLE;
    /* A path that is as long as it likes, to what was looked at and to nothing else. */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/s", place->fd);
    struct timeval limit = {.tv_sec = READY_LIMIT_MS / 1000,
                            .tv_usec = READY_LIMIT_MS % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    int done;
    do
        done = connect(fd, (struct sockaddr *)&address, sizeof address);
    while (done && errno == EINTR);
    if (done) {
        bool absent = errno == ENOENT || errno == ECONNREFUSED;
        close(fd);
        return absent ? ABSENT : UNUSABLE;
    }
    struct ucred peer = {0};
    socklen_t length = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) ||
        peer.uid != geteuid()) {
        close(fd);
        return UNUSABLE;
    }
    *connection = fd;
    return FOUND;
}
