/*
 * What containerd executes: a small client of the fork server.
 *
 * It asks the server for the action (warm), or, where there is none to ask, runs the
 * shim's own program in its place (cold). Whatever is odd leads to cold, which is never
 * wrong: only slower. The one thing that must not happen is both at once, and so cold
 * is open until the word `go` has been sent, and after it only when the server's child
 * is known to be gone (the connection has ended).
 */
#ifndef LAUNCHER_H
#define LAUNCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef DUNNAGE_VERSION
#error "the build says which version this is"
#endif

/* How long it may take until the server has heard us, and again until it is ready. */
#ifndef READY_LIMIT_MS
#define READY_LIMIT_MS 3000
#endif
/* How long a server may take to come up. */
#ifndef START_LIMIT_MS
#define START_LIMIT_MS 1500
#endif
#define START_STEP_MS 5
/* How long the server's child may take to end when all is said. */
#ifndef END_LIMIT_MS
#define END_LIMIT_MS 1000
#endif

/* One byte more than the shim allows, so that it can say what is too much. */
#define STDIN_LIMIT ((10u << 20) + 1)
#define MESSAGE_LIMIT (64u << 20)
/* The longest file of /proc that we read is a list of 65,536 groups. */
#define FILE_LIMIT (4u << 20)

/* -- bytes.c: text that grows; what failed once stays failed, and is asked at the end */

struct bytes {
    char *data;
    size_t length;
    size_t room;
    bool failed; /* no memory, or longer than MESSAGE_LIMIT */
};

bool bytes_reserve(struct bytes *bytes, size_t more);
void bytes_add(struct bytes *bytes, const void *data, size_t length);
void bytes_text(struct bytes *bytes, const char *text);
void bytes_u32(struct bytes *bytes, uint32_t number);
void bytes_str(struct bytes *bytes, const char *data, size_t length);
void bytes_number(struct bytes *bytes, uintmax_t number);
void bytes_signed(struct bytes *bytes, intmax_t number);

/* -- files.c */

bool read_more(int fd, struct bytes *into, size_t limit);
bool read_file(int directory, const char *path, struct bytes *into);
bool write_all(int fd, const char *data, size_t length);

/* -- call.c: how we were called */

enum action {
    ACTION_SERVE, /* the internal way of being a server: never warm */
    ACTION_START, /* the only one that is worth a new server */
    ACTION_OTHER,
};

struct call {
    int argc;
    char **argv;
    char **environment;
    enum action action;
    bool wants_input;
    bool input_broken; /* `input` is not all that stdin said: nobody may act on it */
    struct bytes input;
    char python[4096];
};

void read_flags(struct call *call);
bool has_entry_for_interpreter(const char *entry);
const char *environment_get(char **environment, const char *name);
bool fill_standard_fds(void);
void find_python(struct call *call);
bool take_input(struct call *call);

/* -- key.c: what a child would inherit wrongly */

#define NAME_LENGTH 16

struct key {
    struct bytes code; /* without the line's name */
    struct bytes text;
    char name[NAME_LENGTH + 1];
};

bool make_key(const struct call *call, struct key *key);

/* -- place.c: the directory of servers */

struct place {
    int fd; /* of the key's own directory; it carries the lock */
    char path[4096];
};

enum found { FOUND, ABSENT, UNUSABLE };

bool find_place(const struct call *call, const char *name, bool make,
                struct place *place);
bool is_still_there(const struct place *place);
enum found connect_to_server(const struct place *place, int *connection);

/* -- spawn.c: a server that is missing */

enum found start_server(const struct call *call, const struct key *key,
                        struct place *place, int *connection);

/* -- request.c and talk.c */

bool make_request(const struct call *call, const struct key *key, struct bytes *request);
int talk(int connection, const struct bytes *request, const struct bytes *input,
         bool start);
uint64_t now_ms(void);

#define NOBODY_ANSWERED (-1)

/* -- cold.c */

_Noreturn void go_cold(struct call *call);

#endif
