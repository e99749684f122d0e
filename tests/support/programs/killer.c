/* killer PID [OTHER...] COUNT: stop PID, all its threads, at each entry of a system call; at the
 * COUNTth one kill it, and the OTHERs. What it does is seen only by its calls, so to die between
 * two of them is to die at the entry of the next.
 * Says "attached" when it holds every thread, and before which call it killed. Ends with 0 if it
 * killed, 1 if PID ended by itself or SIGTERM came before: then PID goes on. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE)

static volatile sig_atomic_t is_told_to_end;

static void end(int number) { is_told_to_end = number; }

/* Again until none is new: a thread not held yet may have made another. */
static int seize_all(pid_t pid) {
    char path[64];
    int held = 0, found;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    do {
        DIR *tasks = opendir(path);
        found = 0;
        if (tasks == NULL) break;
        for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
            pid_t tid = atoi(task->d_name);
            if (tid == 0 || ptrace(PTRACE_SEIZE, tid, 0, OPTIONS)) continue;
            found += ptrace(PTRACE_INTERRUPT, tid, 0, 0) == 0;
        }
        closedir(tasks);
        held += found;
    } while (found > 0);
    return held;
}

static int entered(pid_t tid) {
    struct __ptrace_syscall_info info;
    int is_entry = ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info) > 0 &&
                   info.op == PTRACE_SYSCALL_INFO_ENTRY;
    return is_entry ? (int)info.entry.nr : -1;
}

int main(int argc, char **argv) {
    pid_t pid = atoi(argv[1]);
    int count = atoi(argv[argc - 1]), entries = 0, status, call;
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = end}, NULL);
    int unheard = seize_all(pid);
    if (unheard == 0) return perror("ptrace"), 2;
    for (pid_t tid; !is_told_to_end && (tid = waitpid(-1, &status, __WALL)) > 0;) {
        if (!WIFSTOPPED(status)) {
            if (tid == pid) return 1;
            continue;
        }
        int number = WSTOPSIG(status), is_call = number == (SIGTRAP | 0x80);
        if (is_call && unheard <= 0 && (call = entered(tid)) >= 0 && ++entries >= count) {
            for (int other = 1; other < argc - 1; other++) kill(atoi(argv[other]), SIGKILL);
            while (waitpid(-1, &status, __WALL) > 0 || errno == EINTR)
                continue;
            printf("before call %d\n", call);
            return 0;
        }
        int is_event = status >> 16 != 0;
        ptrace(PTRACE_SYSCALL, tid, 0, is_call || is_event ? 0 : number);
        if (is_event && unheard > 0 && --unheard == 0) {
            puts("attached");
            fflush(stdout);
        }
    }
    return 1;
}
