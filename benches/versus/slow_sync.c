/* Makes every fsync and fdatasync take VERSUS_SLOW_SYNC_MS milliseconds more: a slower disk.
 * The bench compiles it and preloads it into itself and into the servers that it starts. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

static int slow(const char *name, int fd) {
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *text = getenv("VERSUS_SLOW_SYNC_MS");
    long ms = text ? atol(text) : 0;
    int result = sync(fd);
    int error = errno;
    struct timespec left = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
    errno = error;
    return result;
}

int fsync(int fd) { return slow("fsync", fd); }
int fdatasync(int fd) { return slow("fdatasync", fd); }
