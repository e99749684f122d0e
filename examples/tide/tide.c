/* tide [SECONDS]: tells the tide once a second, one hour a line, until SECONDS or SIGINT. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tide.h"

static volatile sig_atomic_t asked_to_stop;

static void on_interrupt(int number) { asked_to_stop = number; }

int main(int argc, char **argv) {
    int seconds = argc > 1 ? atoi(argv[1]) : 3600;
    signal(SIGINT, on_interrupt);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int hour = 0; hour < seconds && !asked_to_stop; hour++) {
        printf("hour %d: %.2f m (%s)\n", hour, tide_height_m(hour), getenv("CORPS_INSTANCE"));
        sleep(1);
    }
    puts(asked_to_stop ? "asked to stop: good bye" : "the day is over");
    return asked_to_stop ? 0 : 3;
}
