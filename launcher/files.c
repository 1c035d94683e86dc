/* Reading to the end and writing to the end, whatever kind of file it is. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "launcher.h"

/* Whether to try again; waits first where the file is one that does not wait itself. */
static bool again(int fd, short what)
{
    if (errno == EINTR)
        return true;
    if (errno != EAGAIN)
        return false;
    struct pollfd ready = {.fd = fd, .events = what};
    return poll(&ready, 1, -1) >= 0 || errno == EINTR;
}

/* Read to the end, or until `into` holds `limit` bytes; false on an error. */
bool read_more(int fd, struct bytes *into, size_t limit)
{
    while (into->length < limit) {
        size_t room = into->room - into->length;
        if (!room) {
            if (!bytes_reserve(into, 1))
                return false;
            room = into->room - into->length;
        }
        if (room > limit - into->length)
            room = limit - into->length;
        ssize_t count = read(fd, into->data + into->length, room);
        if (count == 0)
            return true;
        if (count > 0)
            into->length += (size_t)count;
        else if (!again(fd, POLLIN))
            return false;
    }
    return true;
}

/* Append a whole file; nothing is appended where it cannot be read to its end. */
bool read_file(int directory, const char *path, struct bytes *into)
{
    size_t before = into->length;
    int fd = openat(directory, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return false;
    bool whole = read_more(fd, into, before + FILE_LIMIT);
    close(fd);
    if (!whole)
        into->length = before;
    return whole;
}

bool write_all(int fd, const char *data, size_t length)
{
    while (length) {
        ssize_t count = write(fd, data, length);
        if (count >= 0) {
            data += count;
            length -= (size_t)count;
        } else if (!again(fd, POLLOUT)) {
            return false;
        }
    }
    return true;
}
