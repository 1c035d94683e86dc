/* Memory that forks share, and what of its copies may be given back.

   dunnage_share moves the contents of private anonymous memory into a sealed file in
   memory, and maps that, privately, in its place: nobody who looks at memory sees a
   difference. A fork has nothing to copy for it, and what it never touches costs it
   nothing.

   dunnage_give_back drops those pages of it that were copied, since they were written
   to, and have the file's content again. It looks once more at what it has dropped, and
   puts it back where the file was not what came to light (the memory was unmapped, and
   something else mapped in its place): so whatever happened, memory reads as before.

   But for one thing: how often an immortal object of Python is referred to, which
   nobody asks. Such a count has a mark in its upper half (dunnage_immortalize), and
   counts for equal whatever its lower half says.

   dunnage_populate does ahead of time what a fork is known to need.

   The first two are safe because nothing else can write to the memory meanwhile: the
   caller has one thread and no process shares its memory (the caller's duty), signals
   are blocked, the stack is not among the ranges, and nor are the pages around the
   thread's control block, to which the kernel itself writes (rseq). They call the kernel
   without libc, whose errno lies there.

   Loaded by dunnage.host.native, which states the same structures for ctypes. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "call.h"

#define EXPORT __attribute__((visibility("default")))

struct range {
  uint64_t start, end; /* addresses, multiples of the page's size */
  uint64_t offset;     /* in the file */
};

#define ENTRIES 256 /* of the page map, read at once */
#define PRESENT (1ULL << 63)
#define IN_FILE (1ULL << 61) /* else it is the process's own copy */

/* The kernel's set of signals has eight bytes, libc's has more. */
static long block(uint64_t *before) {
  uint64_t all = ~0ULL;
  return call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)before, 8, 0, 0);
}

static void unblock(const uint64_t *before) {
  call(SYS_rt_sigprocmask, SIG_SETMASK, (long)before, 0, 8, 0, 0);
}

static int holds(const struct range *ranges, size_t count, uintptr_t address) {
  for (size_t i = 0; i < count; i++)
    if (address >= ranges[i].start && address < ranges[i].end)
      return 1;
  return 0;
}

/* Whether we, or the kernel by itself, would write to what must stand still. */
static int is_unsafe(const struct range *ranges, size_t count) {
  char here;
  return holds(ranges, count, (uintptr_t)&here) ||
         holds(ranges, count, (uintptr_t)pthread_self());
}

EXPORT int64_t dunnage_thread_block(void) { return (int64_t)(uintptr_t)pthread_self(); }

static long write_all(int fd, const struct range *range) {
  uint64_t done = 0, size = range->end - range->start;
  while (done < size) {
    long n = call(SYS_pwrite64, fd, (long)(range->start + done), (long)(size - done),
                  (long)(range->offset + done), 0, 0);
    if (n == -EINTR)
      continue;
    if (n <= 0)
      return n ? n : -EIO;
    done += (uint64_t)n;
  }
  return 0;
}

/* Returns where the whole file is mapped for reading, or -errno. Privately, as not every
   kernel maps a sealed file otherwise. */
EXPORT int64_t dunnage_view(int fd, uint64_t size) {
  return call(SYS_mmap, 0, (long)size, PROT_READ, MAP_PRIVATE, fd, 0);
}

EXPORT void dunnage_unview(int64_t view, uint64_t size) {
  call(SYS_munmap, (long)view, (long)size, 0, 0, 0, 0);
}

/* Returns 0, or -errno; then, but for a failure of the mapping itself, nothing has
   changed, and where some ranges are mapped and others not, all still hold the same. */
EXPORT int64_t dunnage_share(int fd, const struct range *ranges, size_t count) {
  uint64_t mask;
  long result;

  if (is_unsafe(ranges, count))
    return -EFAULT;
  if ((result = block(&mask)))
    return result;
  for (size_t i = 0; i < count && !result; i++)
    result = write_all(fd, &ranges[i]);
  if (!result)
    result = call(SYS_fcntl, fd, F_ADD_SEALS,
                  F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE, 0, 0, 0);
  for (size_t i = 0; i < count && !result; i++) {
    long at = call(SYS_mmap, (long)ranges[i].start,
                   (long)(ranges[i].end - ranges[i].start), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_FIXED, fd, (long)ranges[i].offset);
    if (at < 0 && at > -4096)
      result = at;
  }
  unblock(&mask);
  return result;
}

/* Has pages read or copied before somebody waits for it: ``advice`` is MADV_POPULATE_READ
   or _WRITE. What cannot be (Linux before 5.14, memory that is gone) happens later. */
EXPORT void dunnage_populate(const struct range *ranges, size_t count, int advice) {
  for (size_t i = 0; i < count; i++)
    call(SYS_madvise, (long)ranges[i].start, (long)(ranges[i].end - ranges[i].start),
         advice, 0, 0, 0);
}

#define MARK 0x2ADD0000ULL
#define MIDDLE 0x80000000ULL /* so that it may go down as well as up */
#define MOST_PAGE 65536

/* Has objects referred to so often that they are never freed: that many references more,
   each once. They lie at these addresses, with their count first. Returns how many. */
EXPORT int64_t dunnage_immortalize(const uint64_t *addresses, size_t count) {
  int64_t made = 0;
  for (size_t i = 0; i < count; i++) {
    uint64_t *references = (uint64_t *)(uintptr_t)addresses[i];
    if (*references && *references >> 32 == 0) {
      *references += MARK << 32 | MIDDLE;
      made++;
    }
  }
  return made;
}

static int is_alike(uint64_t a, uint64_t b) {
  return a == b || (a >> 32 == MARK && b >> 32 == MARK);
}

static int is_same(const void *a, const void *b, size_t size) {
  const uint64_t *x = a, *y = b;
  for (size_t i = 0; i < size / sizeof *x; i += 4)
    if ((x[i] ^ y[i]) | (x[i + 1] ^ y[i + 1]) | (x[i + 2] ^ y[i + 2]) |
        (x[i + 3] ^ y[i + 3]))
      for (size_t k = i; k < i + 4; k++)
        if (!is_alike(x[k], y[k]))
          return 0;
  return 1;
}

/* Drops a page that has the content of ``original``. */
static long drop(char *at, const char *original, uint64_t page) {
  char content[MOST_PAGE];
  long result;

  for (uint64_t i = 0; i < page; i++)
    ((volatile char *)content)[i] = at[i];
  result = call(SYS_madvise, (long)at, (long)page, MADV_DONTNEED, 0, 0, 0);
  if (!result && !is_same(at, original, page))
    for (uint64_t i = 0; i < page; i++)
      ((volatile char *)at)[i] = content[i];
  return result;
}

/* ``view`` is where the whole file is mapped for reading. Returns how many pages were
   given back, and in the upper half how many were copies before; or -errno. */
EXPORT int64_t dunnage_give_back(int pagemap, int64_t view,
                                 const struct range *ranges, size_t count,
                                 uint64_t page) {
  uint64_t entries[ENTRIES], mask;
  uint64_t size = 0;
  int64_t own = 0, same = 0;
  long result;

  if (is_unsafe(ranges, count))
    return -EFAULT;
  if (page > MOST_PAGE)
    return -EINVAL;
  if ((result = block(&mask)))
    return result;
  for (size_t i = 0; i < count && !result; i++) {
    const struct range *range = &ranges[i];
    size = range->offset + (range->end - range->start);
    for (uint64_t at = range->start; at < range->end && !result;) {
      uint64_t number = (range->end - at) / page;
      if (number > ENTRIES)
        number = ENTRIES;
      long n = call(SYS_pread64, pagemap, (long)entries, (long)(number * 8),
                    (long)(at / page * 8), 0, 0);
      if (n != (long)(number * 8))
        result = n < 0 ? n : -EIO;
      for (uint64_t k = 0; k < number && !result; k++, at += page) {
        const char *original = (const char *)view + range->offset + (at - range->start);
        if ((entries[k] & (PRESENT | IN_FILE)) != PRESENT)
          continue;
        own++;
        if (is_same((const void *)at, original, page)) {
          result = drop((char *)at, original, page);
          same += !result;
        }
      }
    }
  }
  unblock(&mask);
  /* What was looked at would count as used. */
  call(SYS_madvise, (long)view, (long)size, MADV_DONTNEED, 0, 0, 0);
  return result ? result : own << 32 | same;
}
