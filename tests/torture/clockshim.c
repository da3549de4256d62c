/* A wall clock that a test can move, for one program only: preloaded, it adds what a file says (nanoseconds,
 * signed, memory-mapped) to CLOCK_REALTIME and, for sleep, to CLOCK_BOOTTIME, and takes it off timerfds that
 * are set to an absolute wall instant. A timer fires early or late after a step: to be woken by the step itself,
 * as the kernel does with TFD_TIMER_CANCEL_ON_SET, the daemon's timers are kept short (at most 0.2 s). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
static volatile int64_t *moved; /* [0] wall, [1] boot (suspend) */
static unsigned char is_wall[65536];

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CLOCKSHIM");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *map = mmap(NULL, 16, PROT_READ, MAP_SHARED, fd, 0);
    moved = map == MAP_FAILED ? NULL : map;
    close(fd);
}

static void shift(struct timespec *at, int64_t by)
{
    int64_t nanos = at->tv_nsec + by % SECOND;
    at->tv_sec += by / SECOND;
    if (nanos < 0) { nanos += SECOND; at->tv_sec--; }
    if (nanos >= SECOND) { nanos -= SECOND; at->tv_sec++; }
    at->tv_nsec = nanos;
}

int clock_gettime(clockid_t clock, struct timespec *at)
{
    long answer = syscall(SYS_clock_gettime, clock, at);
    if (answer == 0 && moved) {
        if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) shift(at, moved[0]);
        if (clock == CLOCK_BOOTTIME) shift(at, moved[1]);
    }
    return (int)answer;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
    struct timespec at;
    (void)tz;
    clock_gettime(CLOCK_REALTIME, &at);
    tv->tv_sec = at.tv_sec;
    tv->tv_usec = at.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out)
{
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (out) *out = at.tv_sec;
    return at.tv_sec;
}

int timerfd_create(int clock, int flags)
{
    int fd = (int)syscall(SYS_timerfd_create, clock, flags);
    if (fd >= 0 && fd < 65536) is_wall[fd] = clock == CLOCK_REALTIME;
    return fd;
}

int timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old)
{
    struct itimerspec real = *new;
    if (moved && fd >= 0 && fd < 65536 && is_wall[fd] && (flags & TFD_TIMER_ABSTIME)) {
        struct timespec soon;
        shift(&real.it_value, -moved[0]);
        syscall(SYS_clock_gettime, CLOCK_REALTIME, &soon);
        shift(&soon, SECOND / 5);
        if (real.it_value.tv_sec < 1) { real.it_value.tv_sec = 1; real.it_value.tv_nsec = 0; }
        if (real.it_value.tv_sec > soon.tv_sec || (real.it_value.tv_sec == soon.tv_sec && real.it_value.tv_nsec > soon.tv_nsec))
            real.it_value = soon;
    }
    return (int)syscall(SYS_timerfd_settime, fd, flags, &real, old);
}
