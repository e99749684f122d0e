/* Forks 20 children that wait, says how many it got, then takes memory until it is ended. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void) {
    int got = 0;
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0)
            for (;;) pause();
        got += child > 0;
    }
    printf("%d children\n", got);
    fflush(stdout);
    for (;;) {
        char *more = malloc(1 << 20);
        if (more == NULL) return 9;
        memset(more, 1, 1 << 20);
    }
}
