/* A shared object whose destructor takes its time: for lifecycle.c. */
#include <unistd.h>

__attribute__((destructor)) static void linger(void) { usleep(200000); }
