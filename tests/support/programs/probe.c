/* Prints what it was born with, one fact a line. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv) {
    char line[4096];
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status))
        if (!strncmp(line, "Sig", 3) || !strncmp(line, "ShdPnd", 6)) fputs(line, stdout);
    fclose(status);

    DIR *fds = opendir("/proc/self/fd");
    for (struct dirent *entry; (entry = readdir(fds));)
        if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(fds))
            printf("fd:%s\n", entry->d_name);
    closedir(fds);

    for (int fd = 0; fd < 3; fd++) {
        char name[32], target[4096] = "";
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        if (readlink(name, target, sizeof target - 1) > 0) printf("open%d:%s\n", fd, target);
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    printf("nofile:%lu %lu\n", files.rlim_cur, files.rlim_max);
    printf("pid:%d\nsid:%d\npgid:%d\n", getpid(), getsid(0), getpgid(0));
    printf("cwd:%s\n", getcwd(line, sizeof line));
    mode_t mask = umask(0);
    printf("umask:%o\n", mask);
    for (int i = 0; i < argc; i++) printf("arg:%s\n", argv[i]);
    for (char **one = environ; *one; one++) printf("env:%s\n", *one);
    return 0;
}
