// Does what its arguments say: one module, so one compile, for all that a test wants to see.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static int number(char **argv, int i) { return argv[i] ? atoi(argv[i]) : 0; }

static int flood(int fd, long bytes) {
    static char line[1024];
    memset(line, 'x', sizeof line);
    for (long left = bytes; left > 0;) {
        ssize_t wrote = write(fd, line, left < 1024 ? left : 1024);
        if (wrote <= 0) return errno;
        left -= wrote;
    }
    return 0;
}

static __attribute__((noinline)) int deep(volatile int *above, int depth) {
    volatile int here = *above + 1;
    return depth ? deep(&here, depth - 1) + here : here;
}

// Take memory a page at a time and say how many MiB were had.
static int grow(int mib) {
    int pages = 0;
    for (; pages < 16 * mib; pages++)
        if (__builtin_wasm_memory_grow(0, 1) == (size_t)-1) break;
    printf("%d", pages / 16);
    return pages < 16 * mib;
}

static int rest(long ms) {
    struct timespec wait = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&wait, NULL);
    printf("rested");
    return 0;
}

// Log what comes in.
static int echo_to_log(void) {
    static char text[4096];
    for (ssize_t got; (got = read(0, text, sizeof text)) > 0;)
        if (write(2, text, got) != got) return 1;
    return 0;
}

static int environment(void) {
    for (char **e = environ; *e; e++) puts(*e);
    return 0;
}

static int arguments(char **argv) {
    for (; *argv; argv++) puts(*argv);
    return 0;
}

// Everything a curious guest tries; prints what it reached, so nothing is the right answer.
static int pry(void) {
    static const char *paths[] = {"/etc/passwd", "/proc/self/environ", "../x", ".", "/dev/null"};
    for (int i = 0; i < 5; i++)
        if (open(paths[i], O_RDONLY) >= 0) printf("opened %s\n", paths[i]);
    if (open("new", O_WRONLY | O_CREAT, 0600) >= 0) puts("created");
    if (opendir("/")) puts("listed /");
    for (int fd = 3; fd < 32; fd++) {
        char byte;
        if (read(fd, &byte, 1) >= 0) printf("read %d\n", fd);
        if (write(fd, "x", 1) >= 0) printf("wrote %d\n", fd);
        if (accept(fd, NULL, NULL) >= 0) printf("accepted on %d\n", fd);
    }
    if (unlink("/tmp/x") == 0 || mkdir("/tmp/y", 0700) == 0) puts("changed");
    return 0;
}

static int chance(void) {
    uint64_t random[2];
    if (getentropy(random, sizeof random)) return 1;
    printf("%llu %llu", random[0], random[1]);
    return 0;
}

static int now(void) {
    struct timespec wall, steady;
    if (clock_gettime(CLOCK_REALTIME, &wall) || clock_gettime(CLOCK_MONOTONIC, &steady)) return 1;
    printf("%lld %lld", (long long)wall.tv_sec, (long long)steady.tv_nsec);
    return 0;
}

static int polled(void) {
    struct pollfd fds[] = {{0, POLLIN, 0}, {1, POLLOUT, 0}, {9, POLLIN, 0}};
    int ready = poll(fds, 3, 60000);
    printf("%d in=%d out=%d bad=%d", ready, !!(fds[0].revents & POLLIN),
           !!(fds[1].revents & POLLOUT), !!(fds[2].revents & POLLNVAL));
    return 0;
}

static int answer(char **argv) {
    printf("%s", argv[2] ? argv[2] : "");
    fflush(stdout);
    fprintf(stderr, "log of %s", argv[2] ? argv[2] : "");
    return number(argv, 3);
}

int main(int argc, char **argv) {
    const char *act = argc > 1 ? argv[1] : "";
    volatile int zero = 0;
    if (!strcmp(act, "answer")) return answer(argv);
    if (!strcmp(act, "exit")) _Exit(number(argv, 2));
    if (!strcmp(act, "spin")) for (volatile unsigned long i = 0;; i++) {}
    if (!strcmp(act, "rest")) return rest(number(argv, 2));
    if (!strcmp(act, "note")) return fputs("before", stderr), rest(number(argv, 2));
    if (!strcmp(act, "grow")) return grow(number(argv, 2));
    if (!strcmp(act, "stdout")) return flood(1, number(argv, 2));
    if (!strcmp(act, "stderr")) return flood(2, number(argv, 2));
    if (!strcmp(act, "tail")) return fputs("first ", stderr), flood(2, number(argv, 2)),
                                     fputs(" last", stderr), 0;
    if (!strcmp(act, "log")) return echo_to_log();
    if (!strcmp(act, "deep")) return deep(&zero, number(argv, 2)) == 0;
    if (!strcmp(act, "abort")) abort();
    if (!strcmp(act, "divide")) return 100 / zero;
    if (!strcmp(act, "env")) return environment();
    if (!strcmp(act, "args")) return arguments(argv);
    if (!strcmp(act, "pry")) return pry();
    if (!strcmp(act, "chance")) return chance();
    if (!strcmp(act, "now")) return now();
    if (!strcmp(act, "poll")) return polled();
    if (!strcmp(act, "oom")) return fputs("cannot allocate memory", stderr), 1;
    return 99;
}
