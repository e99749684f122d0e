#include "tide.h"

/* A made-up harbour: a triangle wave of 12.4 hours between 0 and 4 metres. */
double tide_height_m(double hours) {
    double period = 12.4, phase = hours / period;
    phase -= (long)phase;
    return phase < 0.5 ? 8.0 * phase : 8.0 * (1.0 - phase);
}
