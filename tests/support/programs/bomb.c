/* Forks for ever, and so does each child; it prints "full" when no fork succeeds any more. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
    for (int said = 0;;) {
        pid_t child = fork();
        if (child == 0) said = 1;
        if (child < 0 && !said++) {
            puts("full");
            fflush(stdout);
        }
        if (child < 0) usleep(1000);
    }
}
