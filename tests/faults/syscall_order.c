/* Records, in order, what a process receives, sends and syncs: preloaded by test_sync_order.py.
 *
 * One file per process, $SYSCALL_ORDER_DIR/<pid>, of records: kind (1 byte), fd (i32), length (i32), payload.
 *   R received from a socket, S sent on a socket (payload: the bytes), C a descriptor was closed
 *   W written to data.mdb, D written to data.mdb through a descriptor opened with O_DSYNC, F data.mdb synced
 *   A written to the write-ahead log, L the write-ahead log synced
 * Each is written after the call has returned, and only if it succeeded.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int log_fd = -1;

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void open_log(void) {
    const char *directory = getenv("SYSCALL_ORDER_DIR");
    char path[4096];
    if (!directory) return;
    snprintf(path, sizeof path, "%s/%d", directory, (int)getpid());
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void record_parts(char kind, int fd, const struct iovec *parts, int count, int32_t length) {
    struct iovec out[66];
    struct { char kind; int32_t fd, length; } __attribute__((packed)) head = {kind, fd, length};
    int used = 1;
    if (log_fd < 0) return;
    out[0] = (struct iovec){&head, sizeof head};
    for (int at = 0; at < count && used < 66 && length > 0; at++, used++) {
        size_t size = parts[at].iov_len < (size_t)length ? parts[at].iov_len : (size_t)length;
        out[used] = (struct iovec){parts[at].iov_base, size};
        length -= (int32_t)size;
    }
    if (syscall(SYS_writev, log_fd, out, used) < 0) abort();
}

static void record(char kind, int fd, const void *bytes, ssize_t length) {
    struct iovec part = {(void *)bytes, length > 0 ? (size_t)length : 0};
    record_parts(kind, fd, &part, 1, length > 0 ? (int32_t)length : 0);
}

static int is_socket(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

static int is_named(int fd, const char *name) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    const char *last = strrchr(path, '/');
    return last && strcmp(last + 1, name) == 0;
}

static int is_data(int fd) { return is_named(fd, "data.mdb"); }

static int is_wal(int fd) { return is_named(fd, "wal"); }

static int synced(int fd, int result) {
    if (result == 0 && is_data(fd)) record('F', fd, NULL, 0);
    else if (result == 0 && is_wal(fd)) record('L', fd, NULL, 0);
    return result;
}

static void wrote(int fd, const struct iovec *parts, int count, ssize_t result) {
    if (result <= 0) return;
    if (is_socket(fd)) record_parts('S', fd, parts, count, (int32_t)result);
    else if (is_data(fd)) record(fcntl(fd, F_GETFL) & O_DSYNC ? 'D' : 'W', fd, NULL, 0);
    else if (is_wal(fd)) record('A', fd, NULL, 0);
}

static void wrote_one(int fd, const void *bytes, ssize_t result) {
    struct iovec part = {(void *)bytes, result > 0 ? (size_t)result : 0};
    wrote(fd, &part, 1, result);
}

static ssize_t received(int fd, const void *bytes, ssize_t result) {
    if (result > 0 && is_socket(fd)) record('R', fd, bytes, result);
    return result;
}

ssize_t write(int fd, const void *bytes, size_t size) {
    NEXT(write);
    ssize_t result = next(fd, bytes, size);
    wrote_one(fd, bytes, result);
    return result;
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) {
    NEXT(pwrite);
    ssize_t result = next(fd, bytes, size, offset);
    wrote_one(fd, bytes, result);
    return result;
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t offset) { return pwrite(fd, bytes, size, offset); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    NEXT(writev);
    ssize_t result = next(fd, parts, count);
    wrote(fd, parts, count, result);
    return result;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    NEXT(pwritev);
    ssize_t result = next(fd, parts, count, offset);
    wrote(fd, parts, count, result);
    return result;
}

ssize_t send(int fd, const void *bytes, size_t size, int flags) {
    NEXT(send);
    ssize_t result = next(fd, bytes, size, flags);
    wrote_one(fd, bytes, result);
    return result;
}

ssize_t sendto(int fd, const void *bytes, size_t size, int flags, const struct sockaddr *to, socklen_t to_size) {
    NEXT(sendto);
    ssize_t result = next(fd, bytes, size, flags, to, to_size);
    wrote_one(fd, bytes, result);
    return result;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    NEXT(sendmsg);
    ssize_t result = next(fd, message, flags);
    wrote(fd, message->msg_iov, (int)message->msg_iovlen, result);
    return result;
}

ssize_t recv(int fd, void *bytes, size_t size, int flags) {
    NEXT(recv);
    return received(fd, bytes, next(fd, bytes, size, flags));
}

ssize_t recvfrom(int fd, void *bytes, size_t size, int flags, struct sockaddr *from, socklen_t *from_size) {
    NEXT(recvfrom);
    return received(fd, bytes, next(fd, bytes, size, flags, from, from_size));
}

ssize_t read(int fd, void *bytes, size_t size) {
    NEXT(read);
    return received(fd, bytes, next(fd, bytes, size));
}

int fdatasync(int fd) {
    NEXT(fdatasync);
    return synced(fd, next(fd));
}

int fsync(int fd) {
    NEXT(fsync);
    return synced(fd, next(fd));
}

int close(int fd) {
    NEXT(close);
    if (log_fd >= 0) record('C', fd, NULL, 0);
    return next(fd);
}
