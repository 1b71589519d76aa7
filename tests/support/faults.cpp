// Faults in the I/O of SQLite files, for tests: preloaded, told by edgeslm_fault() which call fails and how.
// Calls on files whose path has ".sqlite", ".salvaged" or ".damaged" in it are counted; one of them fails.

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

namespace {

enum Kind { NONE, SHORT_WRITE, NO_SPACE, IO_ERROR, BAD_PAGE, BAD_DISK };
long at = 0, count = 0;
int kind = NONE;

template <typename F> F real(const char *name) { return reinterpret_cast<F>(dlsym(RTLD_NEXT, name)); }

bool concerns(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size <= 0) return false;
    path[size] = 0;
    return strstr(path, ".sqlite") || strstr(path, ".salvaged") || strstr(path, ".damaged");
}

// Whether this call fails: the at-th, and with BAD_DISK all behind it.
bool fails(int fd) {
    if (kind == NONE || !concerns(fd)) return false;
    ++count;
    return at && (count == at || (kind == BAD_DISK && count > at));
}

ssize_t write_fault(size_t &size) {
    switch (kind) {
    case SHORT_WRITE: size = size > 1 ? size / 2 : size; return 0;
    case NO_SPACE: errno = ENOSPC; return -1;
    case BAD_PAGE: return 0;
    default: errno = EIO; return -1;
    }
}

ssize_t read_fault(void *data, ssize_t size) {
    if (kind == BAD_PAGE && size > 0) { memset(data, 0xFF, size); return size; }
    if (kind == IO_ERROR || kind == BAD_DISK) { errno = EIO; return -1; }
    return size;
}

int sync_fault() {
    if (kind == NO_SPACE) { errno = ENOSPC; return -1; }
    if (kind == IO_ERROR || kind == BAD_DISK) { errno = EIO; return -1; }
    return 0;
}

} // namespace

extern "C" {

// Has the call number `which` fail (0: none, they are only counted) and counts anew. Returns the count so far.
long edgeslm_fault(long which, int how) {
    long before = count;
    at = which, kind = how, count = 0;
    return before;
}

#define WRITE(NAME, PARAMETERS, ARGUMENTS)                                                                    \
    ssize_t NAME PARAMETERS {                                                                                 \
        static auto next = real<ssize_t(*) PARAMETERS>(#NAME);                                                \
        if (fails(fd) && write_fault(size) < 0) return -1;                                                    \
        return next ARGUMENTS;                                                                                \
    }
WRITE(write, (int fd, const void *data, size_t size), (fd, data, size))
WRITE(pwrite, (int fd, const void *data, size_t size, off_t offset), (fd, data, size, offset))
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t offset), (fd, data, size, offset))

#define READ(NAME, PARAMETERS, ARGUMENTS)                                                                     \
    ssize_t NAME PARAMETERS {                                                                                 \
        static auto next = real<ssize_t(*) PARAMETERS>(#NAME);                                                \
        bool faulty = fails(fd);                                                                              \
        ssize_t got = next ARGUMENTS;                                                                         \
        return faulty ? read_fault(data, got) : got;                                                          \
    }
READ(read, (int fd, void *data, size_t size), (fd, data, size))
READ(pread, (int fd, void *data, size_t size, off_t offset), (fd, data, size, offset))
READ(pread64, (int fd, void *data, size_t size, off64_t offset), (fd, data, size, offset))

#define SYNC(NAME, PARAMETERS, ARGUMENTS)                                                                     \
    int NAME PARAMETERS {                                                                                     \
        static auto next = real<int(*) PARAMETERS>(#NAME);                                                    \
        if (fails(fd) && sync_fault() < 0) return -1;                                                         \
        return next ARGUMENTS;                                                                                \
    }
SYNC(ftruncate, (int fd, off_t size), (fd, size))
SYNC(ftruncate64, (int fd, off64_t size), (fd, size))

// Nothing waits for the disk: no power is cut here.
int fsync(int fd) { return fails(fd) ? sync_fault() : 0; }
int fdatasync(int fd) { return fails(fd) ? sync_fault() : 0; }
}
