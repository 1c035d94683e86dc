/*
 * The key: everything that a child of the server would inherit from it, and not from
 * us. Two processes with the same key are the same to what they start; its hash names
 * the server. Its lines are the server's, too: each is what /proc says, so that the
 * server's child can compare them with what it reads of us.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void add_stat_pair(struct bytes *text, const struct stat *status)
{
    bytes_number(text, status->st_dev);
    bytes_text(text, ":");
    bytes_number(text, status->st_ino);
}

/* Which code this is: an upgrade replaces our file. */
static bool add_code(int self, struct bytes *code)
{
    struct stat status;
    if (fstatat(self, "exe", &status, 0))
        return false;
    bytes_text(code, DUNNAGE_VERSION ":");
    add_stat_pair(code, &status);
    bytes_text(code, ":");
    bytes_signed(code, (intmax_t)status.st_mtim.tv_sec * 1000000000 +
                           status.st_mtim.tv_nsec);
    bytes_text(code, ":");
    bytes_signed(code, status.st_size);
    return true;
}

static bool add_status(int self, struct bytes *text)
{
    static const char *const names[] = {
        "Uid:",        "Gid:",    "Groups:",          "CapInh:",       "CapPrm:",
        "CapEff:",     "CapBnd:", "CapAmb:",          "NoNewPrivs:",   "Seccomp:",
        "Seccomp_filters:",       "Cpus_allowed:",    "Mems_allowed:",
    };
    struct bytes status = {0};
    if (!read_file(self, "status", &status))
        return false;
    for (size_t i = 0; i < COUNT(names); i++) {
        size_t length = strlen(names[i]);
        const char *line = status.data, *end = status.data + status.length;
        while (line < end) {
            const char *next = memchr(line, '\n', (size_t)(end - line));
            next = next ? next + 1 : end;
            if ((size_t)(next - line) > length && !memcmp(line, names[i], length)) {
                bytes_add(text, line, (size_t)(next - line));
                break;
            }
            line = next;
        }
    }
    free(status.data);
    return true;
}

static bool is_in(char byte, const char *set)
{
    return byte ? strchr(set, byte) != NULL : false;
}

/* `NAME=` and a file's content without what stands at its end. */
static void add_file(int self, struct bytes *text, const char *path, const char *name,
                     const char *stripped)
{
    bytes_text(text, name);
    bytes_text(text, "=");
    size_t before = text->length;
    read_file(self, path, text);
    while (text->length > before && (!text->data[text->length - 1] ||
                                     is_in(text->data[text->length - 1], stripped)))
        text->length--;
    bytes_text(text, "\n");
}

/* A file as it is; an empty line where it cannot be read. */
static void add_lines(int self, struct bytes *text, const char *path)
{
    size_t before = text->length;
    read_file(self, path, text);
    while (text->length > before && text->data[text->length - 1] == '\n')
        text->length--;
    bytes_text(text, "\n");
}

static void add_root(int self, struct bytes *text)
{
    struct stat status;
    bytes_text(text, "root=");
    if (!fstatat(self, "root", &status, 0))
        add_stat_pair(text, &status);
    bytes_text(text, "\n");
}

static void add_namespaces(int self, struct bytes *text)
{
    static const char *const names[] = {
        "cgroup", "ipc", "mnt", "net", "pid", "pid_for_children",
        "time", "time_for_children", "user", "uts",
    };
    int directory = openat(self, "ns", O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 0; i < COUNT(names); i++) {
        char target[64];
        bytes_text(text, "ns/");
        bytes_text(text, names[i]);
        bytes_text(text, "=");
        if (directory >= 0) {
            ssize_t length = readlinkat(directory, names[i], target, sizeof target);
            if (length > 0)
                bytes_add(text, target, (size_t)length);
        }
        bytes_text(text, "\n");
    }
    if (directory >= 0)
        close(directory);
}

/* nice, rt_priority and policy: fields 19, 40 and 41, as proc(5) counts. */
static void add_scheduling(int self, struct bytes *text)
{
    struct bytes stat = {0};
    bytes_text(text, "sched=");
    if (read_file(self, "stat", &stat)) {
        /* The second field is a program's name, which may hold anything. */
        size_t at = stat.length;
        while (at && stat.data[at - 1] != ')')
            at--;
        int field = 2;
        const char *separator = "";
        while (at < stat.length) {
            while (at < stat.length && is_in(stat.data[at], " \n"))
                at++;
            size_t begin = at;
            while (at < stat.length && !is_in(stat.data[at], " \n"))
                at++;
            field++;
            if (at > begin && (field == 19 || field == 40 || field == 41)) {
                bytes_text(text, separator);
                bytes_add(text, stat.data + begin, at - begin);
                separator = ":";
            }
        }
    }
    bytes_text(text, "\n");
    free(stat.data);
}

static int compare_entries(const void *left, const void *right)
{
    /* strcmp compares as unsigned bytes, whatever char is. */
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static bool add_environment(char **environment, struct bytes *text)
{
    size_t count = 0;
    for (char **entry = environment; *entry; entry++)
        count += has_entry_for_interpreter(*entry);
    if (!count)
        return true;
    char **entries = calloc(count, sizeof *entries);
    if (!entries)
        return false;
    size_t at = 0;
    for (char **entry = environment; *entry; entry++)
        if (has_entry_for_interpreter(*entry))
            entries[at++] = *entry;
    qsort(entries, count, sizeof *entries, compare_entries);
    for (at = 0; at < count; at++) {
        bytes_text(text, "env:");
        bytes_text(text, entries[at]);
        bytes_text(text, "\n");
    }
    free(entries);
    return true;
}

/* FNV-1a of 64 bits: a name, not a proof; the proof is the comparison of the texts. */
static void name_of(const struct bytes *text, char name[NAME_LENGTH + 1])
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < text->length; i++)
        hash = (hash ^ (unsigned char)text->data[i]) * 0x100000001b3u;
    for (int i = NAME_LENGTH - 1; i >= 0; i--, hash >>= 4)
        name[i] = "0123456789abcdef"[hash & 15];
    name[NAME_LENGTH] = '\0';
}

/* False where /proc does not say who we are. */
bool make_key(const struct call *call, struct key *key)
{
    static const char *const values[] = {
        "oom_score_adj", "loginuid", "sessionid", "personality", "timerslack_ns",
    };
    struct bytes *text = &key->text;
    int self = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (self < 0)
        return false;
    bool known = add_code(self, &key->code);
    bytes_text(text, "code=");
    bytes_add(text, key->code.data, key->code.length);
    bytes_text(text, "\n");
    known = known && add_status(self, text);
    add_file(self, text, "attr/current", "attr", "\n");
    add_root(self, text);
    add_namespaces(self, text);
    add_lines(self, text, "cgroup");
    for (size_t i = 0; i < COUNT(values); i++)
        add_file(self, text, values[i], values[i], " \t\n\v\f\r");
    add_lines(self, text, "limits");
    add_scheduling(self, text);
    known = add_environment(call->environment, text) && known;
    close(self);
    bytes_add(&key->code, "", 1);
    if (!known || text->failed || key->code.failed)
        return false;
    name_of(text, key->name);
    return true;
}
