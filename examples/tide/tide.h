/* The library half of the example: a program that works only where its library is. */
double tide_height_m(double hours);
