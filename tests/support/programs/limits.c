/* limits WHAT [ARG]: does what a limit is there for, and says how it went.
 * files   opens /dev/null until it may not: "N files, errno E"
 * forks   forks until it may not, ends them: "N forks, errno E"
 * memory  takes ARG MiB: "all of it", or exits 9 without
 * hold    forks ARG children and waits for ever with them
 * burn    uses CPU for ever; SIGXCPU is counted and said once: "SIGXCPU"
 * spin    uses CPU for ever
 * born    what it was born with: ids, groups, nice, umask, limits, no_new_privs */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void said(int number) {
    (void)number;
    if (write(1, "SIGXCPU\n", 8) != 8) _exit(9);
}

static void born(void) {
    gid_t groups[64];
    int count = getgroups(64, groups);
    uid_t ruid, euid, suid;
    gid_t rgid, egid, sgid;
    getresuid(&ruid, &euid, &suid);
    getresgid(&rgid, &egid, &sgid);
    printf("uid:%d %d %d\ngid:%d %d %d\ngroups:", ruid, euid, suid, rgid, egid, sgid);
    for (int i = 0; i < count; i++) printf(i ? " %d" : "%d", groups[i]);
    printf("\nnice:%d\nno_new_privs:%d\n", getpriority(PRIO_PROCESS, 0),
           prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    const char *names[] = {"nofile", "nproc", "core", "as", "cpu"};
    int numbers[] = {RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_CORE, RLIMIT_AS, RLIMIT_CPU};
    for (int i = 0; i < 5; i++) {
        struct rlimit limit;
        getrlimit(numbers[i], &limit);
        printf("%s:%ld %ld\n", names[i], (long)limit.rlim_cur, (long)limit.rlim_max);
    }
    int fd = open("made", O_WRONLY | O_CREAT, 0666);
    struct stat made;
    if (fd < 0 || fstat(fd, &made)) printf("made:errno %d\n", errno);
    else printf("made:%o\n", made.st_mode & 0777);
}

int main(int argc, char **argv) {
    long amount = argc > 2 ? atol(argv[2]) : 0;
    int count = 0;
    if (!strcmp(argv[1], "files")) {
        while (open("/dev/null", O_RDONLY) >= 0) count++;
        printf("%d files, errno %d\n", count, errno);
    } else if (!strcmp(argv[1], "forks")) {
        pid_t children[4096], child;
        while (count < 4096 && (child = fork()) >= 0) {
            if (child == 0) for (;;) pause();
            children[count++] = child;
        }
        printf("%d forks, errno %d\n", count, errno);
        for (int i = 0; i < count; i++) kill(children[i], SIGKILL);
        while (wait(NULL) > 0) {}
    } else if (!strcmp(argv[1], "memory")) {
        for (long i = 0; i < amount; i++) {
            char *more = malloc(1 << 20);
            if (!more) return 9;
            memset(more, 1, 1 << 20);
        }
        puts("all of it");
        fflush(stdout);
        for (;;) pause();
    } else if (!strcmp(argv[1], "hold")) {
        while (count < amount && fork() != 0) count++;
        for (;;) pause();
    } else if (!strcmp(argv[1], "burn")) {
        signal(SIGXCPU, said);
        for (;;) {}
    } else if (!strcmp(argv[1], "spin")) {
        for (;;) {}
    } else {
        born();
    }
    return 0;
}
