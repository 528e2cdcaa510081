// A plug-in for QEMU's translator that counts the guest's instructions (QEMU: docs/devel/tcg-plugins, version 1 of the
// interface). `count=FILE`: a file whose first 8 bytes are the count while the guest runs. `profile=FILE`: when QEMU ends
// in order, a line for each block of code that ran: its address, its instructions, and how often it ran. What ran before
// somebody set the second 8 bytes of the count's file is not in the profile. Both for one CPU. `cpus=FILE`: a file with
// the count of each CPU, 64 bytes apart; slower.
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// The part of qemu-plugin.h that is used here; Debian does not package the file.
typedef uint64_t qemu_plugin_id_t;
struct qemu_info_t;
struct qemu_plugin_tb;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
typedef void (*executed_callback)(unsigned int, void *);
typedef void (*translated_callback)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*exit_callback)(qemu_plugin_id_t, void *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_callback);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, executed_callback, enum qemu_plugin_cb_flags, void *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, exit_callback, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = 1;

struct block {
    struct block *next;
    uint64_t address, instructions, runs;
};

enum { CPUS = 64 };
struct cpu {
    uint64_t count, padding[7];
};

static uint64_t *count;
static struct cpu *cpus;
static const char *profile;
static struct block *blocks[1 << 16];

static struct block *find(uint64_t address, uint64_t instructions) {
    struct block **place = &blocks[(address ^ address >> 16) % (sizeof blocks / sizeof *blocks)];
    for (struct block *block = *place; block != NULL; block = block->next)
        if (block->address == address && block->instructions == instructions) return block;
    struct block *block = calloc(1, sizeof *block);
    if (block != NULL) *block = (struct block){*place, address, instructions, 0};
    if (block != NULL) *place = block;
    return block;
}

static void executed(unsigned int cpu, void *instructions) {
    // Each has its own.
    if (cpu < CPUS) cpus[cpu].count += (uintptr_t)instructions;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *translation) {
    (void)id;
    if (count != NULL && count[1] != 0) {
        // New code comes with new work, so that this is soon.
        for (size_t index = 0; index < sizeof blocks / sizeof *blocks; index++)
            for (struct block *block = blocks[index]; block != NULL; block = block->next) block->runs = 0;
        count[1] = 0;
    }
    uint64_t instructions = qemu_plugin_tb_n_insns(translation);
    if (count != NULL)
        qemu_plugin_register_vcpu_tb_exec_inline(translation, QEMU_PLUGIN_INLINE_ADD_U64, count, instructions);
    if (cpus != NULL)
        qemu_plugin_register_vcpu_tb_exec_cb(translation, executed, QEMU_PLUGIN_CB_NO_REGS, (void *)(uintptr_t)instructions);
    if (profile != NULL) {
        struct block *block = find(qemu_plugin_tb_vaddr(translation), instructions);
        if (block != NULL)
            qemu_plugin_register_vcpu_tb_exec_inline(translation, QEMU_PLUGIN_INLINE_ADD_U64, &block->runs, 1);
    }
}

static void at_exit(qemu_plugin_id_t id, void *data) {
    (void)id, (void)data;
    FILE *file = profile != NULL ? fopen(profile, "w") : NULL;
    if (file == NULL) return;
    for (size_t index = 0; index < sizeof blocks / sizeof *blocks; index++)
        for (struct block *block = blocks[index]; block != NULL; block = block->next)
            if (block->runs != 0)
                fprintf(file, "%" PRIx64 " %" PRIu64 " %" PRIu64 "\n", block->address, block->instructions, block->runs);
    fclose(file);
}

// A file as memory that others can read; NULL if that can't be.
static void *share(const char *path, size_t size) {
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (file < 0) return NULL;
    void *memory = ftruncate(file, size) == 0 ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
    close(file);
    return memory == MAP_FAILED ? NULL : memory;
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info, int argc, char **argv) {
    (void)info;
    for (int index = 0; index < argc; index++) {
        if (strncmp(argv[index], "count=", 6) == 0) {
            count = share(argv[index] + 6, 2 * sizeof *count);
            if (count == NULL) return -1;
        } else if (strncmp(argv[index], "cpus=", 5) == 0) {
            cpus = share(argv[index] + 5, CPUS * sizeof *cpus);
            if (cpus == NULL) return -1;
        } else if (strncmp(argv[index], "profile=", 8) == 0) {
            profile = strdup(argv[index] + 8);
        } else {
            fprintf(stderr, "count.so: what is %s?\n", argv[index]);
            return -1;
        }
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
