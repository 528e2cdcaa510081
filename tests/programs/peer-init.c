// The init of the Linux guest that `cargo xtask bench` compares with: runs /program with the arguments in
// /arguments (one a line), and powers off.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    char lines[4096] = {0}, *arguments[64] = {"/program"};
    int count = 1, status = 0;
    mkdir("/proc", 0755);
    mkdir("/dev", 0755);
    mkdir("/tmp", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    mount("tmp", "/tmp", "tmpfs", 0, NULL);
    int console = open("/dev/console", O_RDWR);
    for (int descriptor = 0; descriptor < 3; descriptor++) dup2(console, descriptor);
    int file = open("/arguments", O_RDONLY);
    if (file >= 0 && read(file, lines, sizeof lines - 1) > 0)
        for (char *line = strtok(lines, "\n"); line != NULL && count < 63; line = strtok(NULL, "\n"))
            arguments[count++] = line;
    pid_t child = fork();
    if (child == 0) {
        execv(arguments[0], arguments);
        perror(arguments[0]);
        _exit(127);
    }
    waitpid(child, &status, 0);
    printf("exit %d\n", WEXITSTATUS(status));
    fflush(stdout);
    reboot(RB_POWER_OFF);
    return 1;
}
