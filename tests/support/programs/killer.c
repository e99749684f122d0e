/* killer PID COUNT: stop PID at each of its system calls, and kill it at the COUNTth stop.
 * Says "attached" when it begins. Ends with 0 if it killed, 1 if PID ended by itself. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

int main(int argc, char **argv) {
    pid_t pid = atoi(argv[1]);
    int count = atoi(argv[argc - 1]), status;
    if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) || ptrace(PTRACE_INTERRUPT, pid, 0, 0))
        return perror("ptrace"), 2;
    for (int stops = 0, said = 0; waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status);) {
        int number = WSTOPSIG(status), is_call = number == (SIGTRAP | 0x80);
        if (is_call && ++stops >= count) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, __WALL);
            return 0;
        }
        int is_event = status >> 16 != 0;
        ptrace(PTRACE_SYSCALL, pid, 0, is_call || is_event ? 0 : number);
        if (!said++) {
            puts("attached");
            fflush(stdout);
        }
    }
    return 1;
}
