// Writes the free memory of the machine to the console each second: "free-memory KIBIBYTES".
#include <stdio.h>
#include <unistd.h>

int main(void) {
    for (;;) {
        char line[128];
        unsigned long value;
        FILE *file = fopen("/proc/meminfo", "r");
        while (file != NULL && fgets(line, sizeof line, file) != NULL)
            if (sscanf(line, "MemFree: %lu", &value) == 1) printf("free-memory %lu\n", value);
        if (file != NULL) fclose(file);
        fflush(stdout);
        sleep(1);
    }
}
