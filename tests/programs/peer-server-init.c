// The init of the Linux guest that `cargo xtask bench net` compares with: loads the modules that /peer/modules names,
// gives eth0 the address in /peer/network, and runs the programs of /peer/programs: a word a line, behind a blank,
// and an empty line behind each program; all but the last run in the background. Powers off when the last has ended.
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char modules[4096], network[256], programs[8192];

static void load(const char *path, char *buffer, size_t size) {
    int file = open(path, O_RDONLY);
    if (file >= 0 && read(file, buffer, size - 1) < 0) perror(path);
    close(file);
}

static void file_system(const char *type, const char *place) {
    mkdir(place, 0755);
    mount(type, place, type, 0, NULL);
}

static void interface_up(int control, const char *name, const char *address) {
    struct ifreq request = {0};
    struct sockaddr_in *internet = (struct sockaddr_in *)&request.ifr_addr;
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (address != NULL) {
        internet->sin_family = AF_INET;
        inet_pton(AF_INET, address, &internet->sin_addr);
        if (ioctl(control, SIOCSIFADDR, &request) != 0) perror("SIOCSIFADDR");
        inet_pton(AF_INET, "255.255.255.0", &internet->sin_addr);
        if (ioctl(control, SIOCSIFNETMASK, &request) != 0) perror("SIOCSIFNETMASK");
    }
    if (ioctl(control, SIOCGIFFLAGS, &request) != 0) perror(name);
    request.ifr_flags |= IFF_UP;
    if (ioctl(control, SIOCSIFFLAGS, &request) != 0) perror(name);
}

static pid_t start(char **words) {
    pid_t child = fork();
    if (child == 0) {
        execv(words[0], words);
        perror(words[0]);
        _exit(127);
    }
    return child;
}

int main(void) {
    file_system("proc", "/proc");
    file_system("sysfs", "/sys");
    file_system("devtmpfs", "/dev");
    file_system("tmpfs", "/dev/shm");
    file_system("tmpfs", "/tmp");
    file_system("tmpfs", "/run");
    int console = open("/dev/console", O_RDWR);
    for (int descriptor = 0; descriptor < 3; descriptor++) dup2(console, descriptor);
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", "/root", 1);

    load("/peer/modules", modules, sizeof modules);
    for (char *path = strtok(modules, "\n"); path != NULL; path = strtok(NULL, "\n")) {
        int file = open(path, O_RDONLY);
        if (file < 0 || syscall(SYS_finit_module, file, "", 0) != 0) perror(path);
        close(file);
    }
    load("/peer/network", network, sizeof network);
    int control = socket(AF_INET, SOCK_DGRAM, 0);
    interface_up(control, "lo", NULL);
    interface_up(control, "eth0", strtok(network, "\n"));
    close(control);

    load("/peer/programs", programs, sizeof programs);
    char *words[64], *rest = programs;
    int count = 0, status = 0;
    pid_t last = 0;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        if (*line != 0 && count < 63) {
            words[count++] = line + 1;
        } else if (count > 0) {
            words[count] = NULL;
            last = start(words);
            count = 0;
        }
    }
    while (last > 0 && waitpid(-1, &status, 0) != last) {
    }
    printf("exit %d\n", WEXITSTATUS(status));
    fflush(stdout);
    reboot(RB_POWER_OFF);
    return 1;
}
