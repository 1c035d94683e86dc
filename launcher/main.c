/* The order of things. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "launcher.h"

/* A server that leaves removes its directory; not every time that we come. */
#define TRIES 8

static int ask_server(struct call *call)
{
    const char *told = environment_get(call->environment, "DUNNAGE_FORKSERVER");
    if (call->action == ACTION_SERVE || (told && !strcmp(told, "off")))
        return NOBODY_ANSWERED;
    struct key key = {0};
    struct bytes request = {0};
    bool start = call->action == ACTION_START;
    struct place place;
    if (!make_key(call, &key) || !find_place(call, key.name, start, &place))
        return NOBODY_ANSWERED;
    /* Before it connects: a server waits for nobody's stdin. */
    if (!take_input(call) || !make_request(call, &key, &request))
        return NOBODY_ANSWERED;
    for (int tries = TRIES; tries; tries--) {
        int connection = -1;
        enum found found = connect_to_server(&place, &connection);
        if (found == ABSENT && start)
            found = start_server(call, &key, &place, &connection);
        if (place.fd >= 0)
            close(place.fd);
        if (found == FOUND)
            return talk(connection, &request, &call->input, start);
        if (found == UNUSABLE || !start || !find_place(call, key.name, true, &place))
            break;
    }
    return NOBODY_ANSWERED;
}

int main(int argc, char **argv, char **environment)
{
    struct call call = {.argc = argc, .argv = argv, .environment = environment};
    find_python(&call);
    if (!fill_standard_fds())
        go_cold(&call);
    read_flags(&call);
    /* Nobody types a message of options. */
    if (call.wants_input && isatty(STDIN_FILENO)) {
        int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (null >= 0)
            dup2(null, STDIN_FILENO);
    }
    int status = ask_server(&call);
    if (status != NOBODY_ANSWERED)
        return status;
    go_cold(&call);
}
