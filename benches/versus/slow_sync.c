/* Makes every fsync and fdatasync take VERSUS_SLOW_SYNC_MS milliseconds more, and every write to a file that was opened
 * with O_DSYNC: a slower disk. The bench compiles it and preloads it into itself and into the servers that it starts. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>

static void rest(void) {
    const char *text = getenv("VERSUS_SLOW_SYNC_MS");
    long ms = text ? atol(text) : 0;
    int error = errno;
    struct timespec left = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
    errno = error;
}

static int slow(const char *name, int fd) {
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int result = sync(fd);
    rest();
    return result;
}

int fsync(int fd) { return slow("fsync", fd); }
int fdatasync(int fd) { return slow("fdatasync", fd); }

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    static ssize_t (*write_at)(int, const void *, size_t, off64_t);
    if (!write_at) {
        write_at = (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    }
    ssize_t result = write_at(fd, bytes, length, offset);
    int flags = fcntl(fd, F_GETFL);
    if (flags != -1 && (flags & O_DSYNC) != 0) {
        rest();
    }
    return result;
}
