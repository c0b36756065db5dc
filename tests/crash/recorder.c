/* Records what a process does to the files under ZFABRIC_RECORD_ROOT, in order, into the file ZFABRIC_RECORD.
 *
 * An entry: kind u8, synchronous u8, path length u16, data length u32, begin u64 and end u64 (CLOCK_MONOTONIC, ns),
 * place u64, then the path relative to the root and the data. Only calls that succeeded are recorded, after they
 * returned, by one thread at a time. See replay.py for the kinds. Memory maps are not seen: LMDB is not used with
 * MDB_WRITEMAP, and its lock file does not outlive a crash.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
static int out = -1;
static char root[PATH_MAX];
static size_t root_length;

__attribute__((constructor)) static void begin(void) {
    const char *record = getenv("ZFABRIC_RECORD"), *place = getenv("ZFABRIC_RECORD_ROOT");
    if (record && place && realpath(place, root)) {
        root_length = strlen(root);
        out = syscall(SYS_openat, AT_FDCWD, record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* The part of an absolute path below the root, or NULL. */
static const char *below(const char *path) {
    if (out < 0 || strncmp(path, root, root_length)) return NULL;
    if (path[root_length] == 0) return "";
    return path[root_length] == '/' ? path + root_length + 1 : NULL;
}

static const char *path_of(int fd, char *buffer) {
    char link[64];
    if (out < 0) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, buffer, PATH_MAX - 1);
    if (length <= 0) return NULL;
    buffer[length] = 0;
    return below(buffer);
}

static void note(char kind, int synchronous, uint64_t began, uint64_t place, const char *path,
                 const struct iovec *parts, int count, size_t total) {
    struct __attribute__((packed)) {
        uint8_t kind, synchronous;
        uint16_t path;
        uint32_t data;
        uint64_t began, ended, place;
    } head = {(uint8_t)kind, (uint8_t)synchronous, (uint16_t)strlen(path), (uint32_t)total, began, now(), place};
    char *entry = malloc(sizeof head + head.path + total), *at = entry;
    if (!entry) abort();
    at = mempcpy(mempcpy(at, &head, sizeof head), path, head.path);
    for (int i = 0; i < count && total; i++) {
        size_t size = parts[i].iov_len < total ? parts[i].iov_len : total;
        at = mempcpy(at, parts[i].iov_base, size);
        total -= size;
    }
    if (syscall(SYS_write, out, entry, at - entry) != at - entry) abort();
    free(entry);
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* place < 0: where the file stands, or its end if it is open for appending. */
#define WRITE(call, parts, count, place_given)                                        \
    char buffer[PATH_MAX];                                                            \
    const char *path = path_of(fd, buffer);                                           \
    if (!path) return call;                                                           \
    pthread_mutex_lock(&one);                                                         \
    int flags = fcntl(fd, F_GETFL);                                                   \
    off_t place = place_given;                                                        \
    if (place < 0) place = lseek(fd, 0, flags & O_APPEND ? SEEK_END : SEEK_CUR);      \
    uint64_t began = now();                                                           \
    ssize_t done = call;                                                              \
    if (done > 0) note('W', (flags & O_DSYNC) != 0, began, place, path, parts, count, done); \
    pthread_mutex_unlock(&one);                                                       \
    return done;

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    struct iovec part = {(void *)data, size};
    WRITE(real(fd, data, size), &part, 1, -1)
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    WRITE(real(fd, parts, count), parts, count, -1)
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t where) {
    REAL(pwrite);
    struct iovec part = {(void *)data, size};
    WRITE(real(fd, data, size, where), &part, 1, where)
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t where) { return pwrite(fd, data, size, where); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t where) {
    REAL(pwritev);
    WRITE(real(fd, parts, count, where), parts, count, where)
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t where) {
    return pwritev(fd, parts, count, where);
}

/* One call on a descriptor that changes no bytes: S for a flush, T for a cut. */
#define CALL(call, kind, place)                                   \
    char buffer[PATH_MAX];                                        \
    const char *path = path_of(fd, buffer);                       \
    if (!path) return call;                                       \
    pthread_mutex_lock(&one);                                     \
    uint64_t began = now();                                       \
    int done = call;                                              \
    if (!done) note(kind, 0, began, place, path, NULL, 0, 0);     \
    pthread_mutex_unlock(&one);                                   \
    return done;

int fsync(int fd) { REAL(fsync); CALL(real(fd), 'S', 0) }
int fdatasync(int fd) { REAL(fdatasync); CALL(real(fd), 'S', 0) }
int ftruncate(int fd, off_t length) { REAL(ftruncate); CALL(real(fd, length), 'T', length) }
int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

/* Names: absolute paths as zfabric uses them; D a directory, C a new file, R a rename (the new name is the data). */
#define NAMED(call, kind, name, parts, size)                                 \
    const char *path = below(name);                                          \
    if (!path) return call;                                                  \
    pthread_mutex_lock(&one);                                                \
    uint64_t began = now();                                                  \
    int done = call;                                                         \
    if (!done) note(kind, 0, began, 0, path, parts, (size) > 0, size);       \
    pthread_mutex_unlock(&one);                                              \
    return done;

int mkdir(const char *name, mode_t mode) { REAL(mkdir); NAMED(real(name, mode), 'D', name, NULL, 0) }
int unlink(const char *name) { REAL(unlink); NAMED(real(name), 'U', name, NULL, 0) }
int rename(const char *from, const char *to) {
    REAL(rename);
    const char *target = below(to);
    struct iovec part = {(void *)target, target ? strlen(target) : 0};
    NAMED(real(from, to), 'R', from, &part, part.iov_len)
}

int open(const char *name, int flags, ...) {
    REAL(open);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    const char *path = below(name);
    if (!path || !(flags & (O_CREAT | O_TRUNC))) return real(name, flags, mode);
    pthread_mutex_lock(&one);
    uint64_t began = now();
    struct stat before;
    int there = !stat(name, &before), fd = real(name, flags, mode);
    if (fd >= 0 && !there) note('C', 0, began, 0, path, NULL, 0, 0);
    if (fd >= 0 && there && flags & O_TRUNC && before.st_size) note('T', 0, began, 0, path, NULL, 0, 0);
    pthread_mutex_unlock(&one);
    return fd;
}
int open64(const char *name, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open(name, flags, mode);
}
