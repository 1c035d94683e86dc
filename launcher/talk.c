/* One conversation: the request, `R`, `G`, the answer. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "launcher.h"

uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Wait for a connection until a moment; false when that has passed. */
static bool wait_for(int connection, short what, uint64_t until)
{
    for (;;) {
        uint64_t now = now_ms();
        if (now >= until)
            return false;
        struct pollfd ready = {.fd = connection, .events = what};
        int count = poll(&ready, 1, (int)(until - now));
        if (count > 0)
            return true;
        if (count < 0 && errno != EINTR)
            return false;
    }
}

static bool send_request(int connection, const struct bytes *request,
                         const struct bytes *input)
{
    int directory = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return false;
    struct iovec parts[2] = {{request->data, request->length},
                             {input->data, input->length}};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    memset(&control, 0, sizeof control);
    struct msghdr message = {
        .msg_iov = parts,
        .msg_iovlen = 2,
        .msg_control = control.room,
        .msg_controllen = sizeof control.room,
    };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &directory, sizeof(int));

    uint64_t until = now_ms() + READY_LIMIT_MS;
    size_t left = request->length + input->length;
    while (left) {
        ssize_t count = sendmsg(connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0) {
            if (errno == EINTR ||
                (errno == EAGAIN && wait_for(connection, POLLOUT, until)))
                continue;
            break;
        }
        left -= (size_t)count;
        message.msg_control = NULL; /* it went with the first byte */
        message.msg_controllen = 0;
        for (size_t i = 0; i < 2; i++) {
            size_t of_part = (size_t)count < parts[i].iov_len ? (size_t)count
                                                              : parts[i].iov_len;
            if (of_part) {
                parts[i].iov_base = (char *)parts[i].iov_base + of_part;
                parts[i].iov_len -= of_part;
                count -= (ssize_t)of_part;
            }
        }
    }
    close(directory);
    return !left;
}

static bool receive(int connection, char *data, size_t length)
{
    while (length) {
        ssize_t count = recv(connection, data, length, 0);
        if (count > 0) {
            data += count;
            length -= (size_t)count;
        } else if (count == 0 || errno != EINTR) {
            return false;
        }
    }
    return true;
}

static bool receive_u32(int connection, uint32_t *number)
{
    unsigned char little[4];
    if (!receive(connection, (char *)little, sizeof little))
        return false;
    *number = 0;
    for (int i = 3; i >= 0; i--)
        *number = *number << 8 | little[i];
    return true;
}

/* As much memory as has come, not as much as is promised. */
static bool receive_str(int connection, struct bytes *into)
{
    uint32_t length;
    if (!receive_u32(connection, &length) || length > MESSAGE_LIMIT)
        return false;
    while (length) {
        uint32_t part = length < 65536 ? length : 65536;
        if (!bytes_reserve(into, part) ||
            !receive(connection, into->data + into->length, part))
            return false;
        into->length += part;
        length -= part;
    }
    return true;
}

/* Whoever looks when we are gone finds no child but a shim. */
static void wait_for_end(int connection)
{
    uint64_t until = now_ms() + END_LIMIT_MS;
    char more;
    while (wait_for(connection, POLLIN, until) && recv(connection, &more, 1, 0) > 0)
        ;
}

/* Return the exit status that the server's child gave us, or NOBODY_ANSWERED. */
static int hear_answer(int connection, bool start)
{
    char kind;
    uint32_t status;
    struct bytes out = {0}, err = {0};
    /* Nothing is written before all has come: what ends half way is done again. */
    if (!receive(connection, &kind, 1) || kind != 'A' ||
        !receive_u32(connection, &status) || !receive_str(connection, &out) ||
        !receive_str(connection, &err))
        return NOBODY_ANSWERED;
    bool written = write_all(STDERR_FILENO, err.data, err.length);
    written = write_all(STDOUT_FILENO, out.data, out.length) && written;
    /* A shim whose address nobody has heard must not stay. */
    if (written && send(connection, "K", 1, MSG_NOSIGNAL) == 1 && !start)
        wait_for_end(connection);
    return written || status ? (int)(status & 0xff) : 1;
}

int talk(int connection, const struct bytes *request, const struct bytes *input,
         bool start)
{
    char word = 0;
    int status = NOBODY_ANSWERED;
    if (send_request(connection, request, input) &&
        wait_for(connection, POLLIN, now_ms() + READY_LIMIT_MS) &&
        receive(connection, &word, 1) && word == 'R' &&
        send(connection, "G", 1, MSG_NOSIGNAL) == 1)
        status = hear_answer(connection, start);
    close(connection);
    return status;
}
