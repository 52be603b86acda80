/* For LD_PRELOAD: makes what a process writes to its files fail, or kills it there. Armed by faults_arm(). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

/* Kills at so many syncs from now; 0 never does. */
static int kill_at;
/* What every write then fails with; 0 for none. */
static int fails_with;
static int syncs;

void faults_arm(int at, int error) {
    __atomic_store_n(&syncs, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&kill_at, at, __ATOMIC_SEQ_CST);
    __atomic_store_n(&fails_with, error, __ATOMIC_SEQ_CST);
}

/* How many syncs there were since. */
int faults_syncs(void) { return __atomic_load_n(&syncs, __ATOMIC_SEQ_CST); }

static int fault(int fd) {
    struct stat status;
    int error = __atomic_load_n(&fails_with, __ATOMIC_SEQ_CST);
    if (!error || fstat(fd, &status) || !S_ISREG(status.st_mode)) return 0;
    errno = error;
    return 1;
}

static void point(void) {
    int at = __atomic_load_n(&kill_at, __ATOMIC_SEQ_CST);
    if (__atomic_add_fetch(&syncs, 1, __ATOMIC_SEQ_CST) == at) kill(getpid(), SIGKILL);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t len) { return fault(fd) ? -1 : REAL(write)(fd, data, len); }
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return fault(fd) ? -1 : REAL(pwrite)(fd, data, len, at); }
ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) {
    return fault(fd) ? -1 : REAL(pwrite64)(fd, data, len, at);
}

int fsync(int fd) {
    point();
    return fault(fd) ? -1 : REAL(fsync)(fd);
}

int fdatasync(int fd) {
    point();
    return fault(fd) ? -1 : REAL(fdatasync)(fd);
}
