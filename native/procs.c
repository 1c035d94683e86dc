/* Starting a program, and the mounts that may block, without a copy of the caller.

   A fork copies the page tables of a Python process, and then, one by one, the pages
   that either side writes to. Here the new process shares the caller's memory instead,
   and so must touch nothing but its own stack and what it is given.

   dunnage_spawn: the caller stands still until the program runs (vfork). Between the
   two there are only system calls.

   dunnage_mount, dunnage_unmount and dunnage_rmdir: the caller goes on at once, as the
   calls may block for ever. What they are given, the stack too, stays until the process
   is reaped. They call the kernel without libc, whose errno would be the caller's.

   Loaded by dunnage.host.native, which states the same structures for ctypes. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "call.h"

#define EXPORT __attribute__((visibility("default")))
#define MOST_FDS 6

/* To be raised with every change of a structure or of a function's meaning. */
EXPORT extern const int32_t dunnage_layout;
const int32_t dunnage_layout = 7;

struct order {
  const char *const *programs; /* paths, to be tried in turn; NULL ends them */
  char *const *argv;
  char *const *envp;
  const char *cwd;   /* or NULL */
  uint64_t defaults; /* signals to have their default action: bit N-1 for N */
  uint64_t nofile_soft, nofile_hard;
  int32_t fds[MOST_FDS]; /* none of them is 0, 1 or 2 */
  int32_t fd_count;
  int32_t outlives; /* it is not killed when the caller dies */
};

/* As a shell does: who cannot be run is passed over, but remembered. */
static int execute(const struct order *order) {
  int last = ENOENT, first = 0;

  for (const char *const *program = order->programs; *program; program++) {
    execve(*program, order->argv, order->envp);
    last = errno;
    if (last != ENOENT && last != ENOTDIR && !first)
      first = last;
  }
  return first ? first : last;
}

/* They become 0, 1, 2 and so on. */
static int place(const struct order *order) {
  int count = order->fd_count, fds[MOST_FDS];

  /* One that is in another's place is moved first; the others need no room for that. */
  for (int i = 0; i < count; i++) {
    fds[i] = order->fds[i];
    if (fds[i] < count && (fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, count)) < 0)
      return errno;
  }
  for (int i = 0; i < count; i++)
    if (dup2(fds[i], i) < 0)
      return errno;
  return 0;
}

static int be_the_child(const struct order *order, pid_t parent, const sigset_t *mask) {
  struct rlimit nofile = {order->nofile_soft, order->nofile_hard};
  struct sigaction action, standard = {.sa_handler = SIG_DFL};
  int error;

  /* A handler would run in the caller's memory: none may be left when signals are let
     in. Those that libc keeps for itself are refused, and never blocked. */
  for (int number = 1; number < 65; number++) {
    int is_wanted = order->defaults >> (number - 1) & 1;
    if (sigaction(number, NULL, &action) == 0 && action.sa_handler != SIG_DFL &&
        (is_wanted || action.sa_handler != SIG_IGN))
      sigaction(number, &standard, NULL);
  }
  if (!order->outlives && prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
    return errno;
  if (getppid() != parent) /* it died before we asked */
    return ESRCH;
  if ((error = place(order)) != 0)
    return error;
  if (order->cwd && chdir(order->cwd) != 0)
    return errno;
  if (setrlimit(RLIMIT_NOFILE, &nofile) != 0)
    return errno;
  sigprocmask(SIG_SETMASK, mask, NULL);
  return execute(order);
}

/* Returns the pid, or an errno, negated. */
EXPORT int dunnage_spawn(const struct order *order) {
  sigset_t everything, mask;
  volatile int error = 0;
  pid_t parent = getpid();
  pid_t pid;

  sigfillset(&everything);
  pthread_sigmask(SIG_SETMASK, &everything, &mask);
  pid = vfork();
  if (pid == 0) {
    error = be_the_child(order, parent, &mask);
    _exit(127);
  }
  if (pid < 0)
    error = errno;
  else if (error)
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
      ;
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  return error ? -error : pid;
}

struct errand {
  const char *source, *target, *type, *data;
  const char *const *directories; /* NULL ends them */
  uint64_t flags;
  char *stack;
  uint64_t stack_bytes;
  int32_t parent;
  int32_t error; /* what the process tells */
};

#ifdef NO_RAW_CALLS

EXPORT int dunnage_mount(struct errand *errand) { return (void)errand, -ENOSYS; }
EXPORT int dunnage_unmount(struct errand *errand) { return (void)errand, -ENOSYS; }
EXPORT int dunnage_rmdir(struct errand *errand) { return (void)errand, -ENOSYS; }

#else

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef STATX_ATTR_MOUNT_ROOT
#define STATX_ATTR_MOUNT_ROOT 0x2000
#endif

/* Returns 0, or an errno, negated, like all that follows. */
static long set_out(const struct errand *errand) {
  long result = call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0, 0);

  if (result == 0 && call(SYS_getppid, 0, 0, 0, 0, 0, 0) != errand->parent)
    result = -ESRCH;
  /* It may hang for long: of what the caller holds it keeps nothing open. */
  return result ? result : call(SYS_close_range, 3, ~0U, 0, 0, 0, 0);
}

static int mount_it(void *argument) {
  struct errand *errand = argument;
  long result = set_out(errand);

  if (result == 0)
    result = call(SYS_mount, (long)errand->source, (long)errand->target,
                  (long)errand->type, (long)errand->flags, (long)errand->data, 0);
  errand->error = (int32_t)-result;
  return result != 0;
}

/* In a directory that is empty, and not a mount point itself, nothing is mounted. */
static long expect_empty(const char *path) {
  int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  struct {
    uint64_t inode, offset;
    uint16_t bytes;
    uint8_t type;
    char name[5];
  } __attribute__((aligned(8))) entries[32], *entry;
  struct statx about;
  long fd = call(SYS_openat, AT_FDCWD, (long)path, flags, 0, 0, 0);
  long bytes;

  if (fd < 0)
    return fd == -ENOENT ? 0 : fd;
  bytes = call(SYS_statx, fd, (long)"", AT_EMPTY_PATH, 0, (long)&about, 0);
  if (bytes < 0)
    return bytes;
  if (!(about.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) ||
      about.stx_attributes & STATX_ATTR_MOUNT_ROOT)
    return -EBUSY;
  while ((bytes = call(SYS_getdents64, fd, (long)entries, sizeof entries, 0, 0, 0)) > 0)
    for (long at = 0; at < bytes; at += entry->bytes) {
      const char *name;
      entry = (void *)((char *)entries + at);
      name = entry->name;
      if (name[0] != '.' || (name[1] && (name[1] != '.' || name[2])))
        return -ENOTEMPTY;
    }
  return bytes;
}

static int unmount_it(void *argument) {
  struct errand *errand = argument;
  long result = set_out(errand);

  while (result == 0)
    result = call(SYS_umount2, (long)errand->target, UMOUNT_NOFOLLOW, 0, 0, 0, 0);
  if (result == -EINVAL) /* nothing is mounted there (any more) */
    result = expect_empty(errand->target);
  else if (result == -ENOENT)
    result = 0;
  errand->error = (int32_t)-result;
  return result != 0;
}

/* Those that are not there are fine; it ends at one that stays. */
static int remove_them(void *argument) {
  struct errand *errand = argument;
  long result = set_out(errand);

  for (const char *const *path = errand->directories; result == 0 && *path; path++) {
    result = call(SYS_unlinkat, AT_FDCWD, (long)*path, AT_REMOVEDIR, 0, 0, 0);
    if (result == -ENOENT)
      result = 0;
  }
  errand->error = (int32_t)-result;
  return result != 0;
}

/* Returns the pid, or an errno, negated. */
static int begin(struct errand *errand, int (*body)(void *)) {
  sigset_t everything, mask;
  int pid;

  errand->parent = getpid();
  sigfillset(&everything);
  pthread_sigmask(SIG_SETMASK, &everything, &mask);
  pid = clone(body, errand->stack + errand->stack_bytes, CLONE_VM | SIGCHLD, errand);
  if (pid < 0)
    pid = -errno;
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  return pid;
}

EXPORT int dunnage_mount(struct errand *errand) { return begin(errand, mount_it); }
EXPORT int dunnage_unmount(struct errand *errand) { return begin(errand, unmount_it); }
EXPORT int dunnage_rmdir(struct errand *errand) { return begin(errand, remove_them); }

#endif
