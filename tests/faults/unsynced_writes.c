/* Remembers what a process wrote to data.mdb and wal and has not synced yet: preloaded into members, read by power.py.
 *
 * For each file one log, $UNSYNCED_WRITES_DIR/<device>-<inode>: the bytes in use (u64, this head included), then
 * records: kind (1 byte), offset, size of the file before, bytes replaced, bytes written (u64 each), the bytes
 * replaced, the bytes written.
 *   W a write, D a write through a descriptor opened with O_DSYNC, T the file was cut to `offset`
 * A record is there before its write is made. A sync that succeeds empties the log.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 64

struct log { dev_t device; ino_t inode; int fd; uint64_t used; };
struct head { char kind; uint64_t offset, size_before, replaced, written; } __attribute__((packed));

static struct log logs[FILES];
static int log_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void die(const char *what) {
    perror(what);
    abort();
}

static void put(int fd, const void *bytes, size_t size, uint64_t offset) {
    for (size_t done = 0; done < size;) {
        ssize_t part = syscall(SYS_pwrite64, fd, (const char *)bytes + done, size - done, offset + done);
        if (part <= 0) die("unsynced_writes: cannot write its log");
        done += (size_t)part;
    }
}

static void set_used(struct log *log, uint64_t used) {
    log->used = used;
    put(log->fd, &used, sizeof used, 0);
}

static struct log *open_log(const struct stat *status, const char *directory) {
    char path[4096];
    struct log *log = &logs[log_count];
    if (log_count == FILES) die("unsynced_writes: too many files");
    snprintf(path, sizeof path, "%s/%llu-%llu", directory, (unsigned long long)status->st_dev,
             (unsigned long long)status->st_ino);
    log->device = status->st_dev;
    log->inode = status->st_ino;
    log->fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (log->fd < 0) die(path);
    if (syscall(SYS_pread64, log->fd, &log->used, sizeof log->used, 0) != sizeof log->used)
        set_used(log, sizeof log->used);
    log_count++;
    return log;
}

/* Takes no lock: signal handlers write too, to pipes, whatever the thread under them holds. */
static int is_data(int fd) {
    struct stat status;
    char link[64], path[4096];
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    const char *name = strrchr(path, '/');
    return name && (strcmp(name, "/data.mdb") == 0 || strcmp(name, "/wal") == 0);
}

/* Locked, the log of the file behind fd; NULL, and not locked: it is neither. */
static struct log *lock_log(int fd, struct stat *status) {
    const char *directory = getenv("UNSYNCED_WRITES_DIR");
    struct log *log = NULL;
    if (!directory || !is_data(fd)) return NULL;
    pthread_mutex_lock(&lock);
    if (fstat(fd, status) != 0) die("unsynced_writes");
    for (int at = 0; at < log_count && !log; at++)
        if (logs[at].device == status->st_dev && logs[at].inode == status->st_ino) log = &logs[at];
    if (!log) log = open_log(status, directory);
    /* An empty file is new, even if it got an old inode. */
    if (status->st_size == 0) set_used(log, sizeof log->used);
    return log;
}

/* Through a descriptor of its own: LMDB's synchronous one cannot be read. */
static void read_back(int fd, char *to, uint64_t size, uint64_t offset) {
    char link[64];
    if (size == 0) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int reader = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC, 0);
    for (uint64_t done = 0; done < size;) {
        ssize_t part = syscall(SYS_pread64, reader, to + done, size - done, offset + done);
        if (part <= 0) die("unsynced_writes: cannot read what is replaced");
        done += (uint64_t)part;
    }
    syscall(SYS_close, reader);
}

/* Returns where the record's head stands. */
static uint64_t note(struct log *log, int fd, struct head head, const struct iovec *parts, int count) {
    size_t size = sizeof head + head.replaced + head.written;
    char *record = malloc(size), *at = record + sizeof head;
    uint64_t start = log->used;
    if (!record) die("unsynced_writes");
    memcpy(record, &head, sizeof head);
    read_back(fd, at, head.replaced, head.offset);
    at += head.replaced;
    for (int part = 0; part < count; at += parts[part].iov_len, part++)
        memcpy(at, parts[part].iov_base, parts[part].iov_len);
    put(log->fd, record, size, start);
    set_used(log, start + size);
    free(record);
    return start;
}

static uint64_t note_write(struct log *log, int fd, const struct stat *status, const struct iovec *parts, int count,
                           uint64_t offset) {
    uint64_t size = (uint64_t)status->st_size, length = 0;
    for (int at = 0; at < count; at++) length += parts[at].iov_len;
    uint64_t left = offset < size ? size - offset : 0;
    struct head head = {fcntl(fd, F_GETFL) & O_DSYNC ? 'D' : 'W', offset, size, left < length ? left : length, length};
    return note(log, fd, head, parts, count);
}

/* A full disk takes a part of a write, or nothing of it. */
static void wrote(struct log *log, uint64_t start, ssize_t result) {
    struct head head;
    if (syscall(SYS_pread64, log->fd, &head, sizeof head, start) != sizeof head) die("unsynced_writes");
    uint64_t written = result < 0 ? 0 : (uint64_t)result;
    if (written == head.written) return;
    head.written = written;
    set_used(log, start + sizeof head + head.replaced + written);
    put(log->fd, &head, sizeof head, start);
}

#define NOTED(fd, parts, count, offset, call) \
    struct stat status; \
    struct log *log = lock_log(fd, &status); \
    if (!log) return call; \
    uint64_t start = note_write(log, fd, &status, parts, count, (uint64_t)(offset)); \
    ssize_t result = call; \
    wrote(log, start, result); \
    pthread_mutex_unlock(&lock); \
    return result

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) {
    NEXT(pwrite);
    struct iovec part = {(void *)bytes, size};
    NOTED(fd, &part, 1, offset, next(fd, bytes, size, offset));
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t offset) { return pwrite(fd, bytes, size, offset); }

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    NEXT(pwritev);
    NOTED(fd, parts, count, offset, next(fd, parts, count, offset));
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) {
    return pwritev(fd, parts, count, offset);
}

ssize_t write(int fd, const void *bytes, size_t size) {
    NEXT(write);
    struct iovec part = {(void *)bytes, size};
    NOTED(fd, &part, 1, lseek(fd, 0, SEEK_CUR), next(fd, bytes, size));
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    NEXT(writev);
    NOTED(fd, parts, count, lseek(fd, 0, SEEK_CUR), next(fd, parts, count));
}

int ftruncate(int fd, off_t length) {
    NEXT(ftruncate);
    struct stat status;
    struct log *log = lock_log(fd, &status);
    if (!log) return next(fd, length);
    uint64_t size = (uint64_t)status.st_size, cut = (uint64_t)length;
    note(log, fd, (struct head){'T', cut, size, cut < size ? size - cut : 0, 0}, NULL, 0);
    int result = next(fd, length);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

static int synced(int fd, int (*next)(int)) {
    struct stat status;
    struct log *log = lock_log(fd, &status);
    if (!log) return next(fd);
    int result = next(fd);
    if (result == 0) set_used(log, sizeof log->used);
    pthread_mutex_unlock(&lock);
    return result;
}

int fdatasync(int fd) {
    NEXT(fdatasync);
    return synced(fd, next);
}

int fsync(int fd) {
    NEXT(fsync);
    return synced(fd, next);
}
