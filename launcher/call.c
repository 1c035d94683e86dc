/* How we were called: flags, environment, stdin, and the interpreter that is ours. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher.h"

static const char *const value_flags[] = {
    "namespace", "address", "publish-binary", "id", "bundle", "socket", "debug-socket",
};

static bool is_one_of(const char *word, size_t length, const char *const *words,
                      size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strlen(words[i]) == length && !memcmp(words[i], word, length))
            return true;
    return false;
}

/* Whether `-flag=VALUE` turns a switch off; a word that is neither is an error later. */
static bool is_off(const char *value)
{
    static const char *const words[] = {"0", "f", "F", "false", "FALSE", "False"};
    return is_one_of(value, strlen(value), words, sizeof words / sizeof *words);
}

/*
 * Only what the launcher has to know: which action it is, and whether that reads stdin.
 * Errors are for the shim's own reading of the flags to tell; it comes before the shim
 * reads stdin, so a command line that looks wrong takes none here either (it may never
 * end).
 */
void read_flags(struct call *call)
{
    const char *action = "";
    bool version = false, info = false, help = false, wrong = false;
    int at = call->argc ? 1 : 0;
    while (at < call->argc) {
        const char *word = call->argv[at];
        if (word[0] != '-' || !word[1]) {
            action = word;
            break;
        }
        at++;
        if (!strcmp(word, "--")) {
            action = at < call->argc ? call->argv[at] : "";
            break;
        }
        const char *name = word + (word[1] == '-' ? 2 : 1);
        const char *equals = strchr(name, '=');
        size_t length = equals ? (size_t)(equals - name) : strlen(name);
        if (is_one_of(name, length, value_flags,
                      sizeof value_flags / sizeof *value_flags)) {
            if (!equals)
                at++;
            continue;
        }
        bool on = !equals || !is_off(equals + 1);
        if ((length == 1 && *name == 'v') ||
            (length == 7 && !memcmp(name, "version", 7)))
            version = on;
        else if (length == 4 && !memcmp(name, "info", 4))
            info = on;
        else if ((length == 1 && *name == 'h') ||
                 (length == 4 && !memcmp(name, "help", 4)))
            help = true;
        else if (length != 5 || memcmp(name, "debug", 5))
            wrong = true;
    }
    bool start = !strcmp(action, "start");
    call->wants_input = !version && !help && !wrong && (info || start);
    if (!*action && !version && !info && !help)
        call->action = ACTION_SERVE;
    else
        call->action =
            start && !version && !info && !help ? ACTION_START : ACTION_OTHER;
}

/* Whether an entry of the environment acts on the interpreter or on libc. */
bool has_entry_for_interpreter(const char *entry)
{
    /* One without a value is none, to Python as to the dynamic linker. */
    return strchr(entry, '=') &&
           (!strncmp(entry, "LD_", 3) || !strncmp(entry, "MALLOC_", 7) ||
            !strncmp(entry, "PYTHON", 6) || !strncmp(entry, "GLIBC_TUNABLES=", 15));
}

const char *environment_get(char **environment, const char *name)
{
    size_t length = strlen(name);
    for (; *environment; environment++)
        if (!strncmp(*environment, name, length) && (*environment)[length] == '=')
            return *environment + length + 1;
    return NULL;
}

/* Something stands at 0, 1 and 2, lest a socket of ours does; false if it cannot. */
bool fill_standard_fds(void)
{
    for (int fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) >= 0)
            continue;
        /* The lowest free one is this: those below are open by now. */
        if (open("/dev/null", fd ? O_WRONLY : O_RDONLY) != fd)
            return false;
    }
    return true;
}

/*
 * The python3 beside us: pip put both into one folder. What a symbolic link points to
 * is where we are; where there is no /proc, the name that execve was given tells it.
 */
void find_python(struct call *call)
{
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length > 0) {
        self[length] = '\0';
    } else {
        /* The kernel has put this pointer there as a number. */
        const char *given = (const char *)getauxval(AT_EXECFN); // NOLINT
        if (!given || !realpath(given, self))
            self[0] = '\0';
    }
    char *slash = strrchr(self, '/');
    static const char beside[] = "/python3";
    if (slash && (size_t)(slash - self) + sizeof beside <= sizeof call->python) {
        size_t folder = (size_t)(slash - self);
        memcpy(call->python, self, folder);
        memcpy(call->python + folder, beside, sizeof beside);
        if (!access(call->python, X_OK))
            return;
    }
    strcpy(call->python, "/usr/bin/python3");
}

/*
 * Read stdin to its end, or to the limit. False if it cannot be read: where nothing has
 * come, the shim meets the same error by itself.
 */
bool take_input(struct call *call)
{
    if (!call->wants_input || read_more(STDIN_FILENO, &call->input, STDIN_LIMIT))
        return true;
    call->input_broken = call->input.length > 0;
    return false;
}
