#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* Its first act: append its attempt to the file argv[1]. Up to attempt argv[2] it then exits with
 * argv[3]; the ones after that stay. */
int main(int argc, char **argv) {
    char line[256];
    int fd = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0644);
    (void)argc;
    snprintf(line, sizeof line, "%s\n", getenv("CORPS_ATTEMPT"));
    if (fd < 0 || write(fd, line, strlen(line)) < 0) return 9;
    close(fd);
    printf("attempt %s\n", getenv("CORPS_ATTEMPT_NUMBER"));
    fflush(stdout);
    if (atoi(getenv("CORPS_ATTEMPT_NUMBER")) <= atoi(argv[2])) return atoi(argv[3]);
    for (;;) pause();
}
