/* The request, but for stdin's bytes, which follow it as they are. */
#include <string.h>
#include <sys/stat.h>

#include "launcher.h"

static void add_strings(struct bytes *request, char *const *strings, bool entries_only)
{
    size_t at = request->length;
    uint32_t count = 0;
    bytes_u32(request, 0);
    for (; *strings; strings++) {
        /* What has no name is no entry of an environment, to Python as to us. */
        if (entries_only && !strchr(*strings, '='))
            continue;
        bytes_str(request, *strings, strlen(*strings));
        count++;
    }
    if (!request->failed)
        for (int i = 0; i < 4; i++)
            request->data[at + (size_t)i] = (char)(count >> (8 * i));
}

bool make_request(const struct call *call, const struct key *key, struct bytes *request)
{
    static char empty[] = "";
    char *nameless[] = {empty, NULL};
    mode_t mask = umask(0);
    umask(mask);

    bytes_text(request, "DNG1");
    bytes_u32(request, 0);
    bytes_u32(request, mask);
    bytes_str(request, key->code.data, key->code.length - 1);
    add_strings(request, call->argc ? call->argv : nameless, false);
    add_strings(request, call->environment, true);
    bytes_u32(request, (uint32_t)call->input.length);
    uint64_t rest = (uint64_t)request->length - 8 + call->input.length;
    if (request->failed || rest > MESSAGE_LIMIT)
        return false;
    for (int i = 0; i < 4; i++)
        request->data[4 + i] = (char)(rest >> (8 * i));
    return true;
}
