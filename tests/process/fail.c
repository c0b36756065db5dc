/* Makes one system call on a volume fail with EIO, as a dying disk does: ZFABRIC_FAIL=CALL:N, the N-th of its kind.
 *
 * CALL is "flush" (fdatasync of data.mdb), "pages" (a write of data to it) or "meta" (the synchronous write that ends a
 * commit). Later calls work again, as they do on Linux after a failed flush.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static char kind[16];
static long at;
static atomic_long seen;

__attribute__((constructor)) static void begin(void) {
    const char *wanted = getenv("ZFABRIC_FAIL");
    if (!wanted || sscanf(wanted, "%15[a-z]:%ld", kind, &at) != 2) at = 0;
}

static int fails(int fd, const char *call) {
    char link[64], path[PATH_MAX];
    if (!at || strcmp(call, kind)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 9 || strncmp(path + length - 9, "/data.mdb", 9)) return 0;
    if (atomic_fetch_add(&seen, 1) + 1 != at) return 0;
    errno = EIO;
    return 1;
}

static const char *write_kind(int fd) { return fcntl(fd, F_GETFL) & O_DSYNC ? "meta" : "pages"; }

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int fdatasync(int fd) {
    REAL(fdatasync);
    return fails(fd, "flush") ? -1 : real(fd);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t where) {
    REAL(pwrite);
    return fails(fd, write_kind(fd)) ? -1 : real(fd, data, size, where);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    return fails(fd, write_kind(fd)) ? -1 : real(fd, parts, count);
}
