/* Dies of SIGSEGV; may dump argv[1] bytes of core. */
#include <stdlib.h>
#include <sys/resource.h>

int main(int argc, char **argv) {
    struct rlimit core = {atol(argv[argc - 1]), atol(argv[argc - 1])};
    setrlimit(RLIMIT_CORE, &core);
    *(volatile int *)0 = 1;
    return 0;
}
