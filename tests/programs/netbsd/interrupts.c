// A driver of QEMU's educational device that takes its interrupt and gives it up, again and again.
// usage: interrupts
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define DEVICE 0x11e81234
#define STATUS (0x24 / 4)
#define RAISE (0x60 / 4)
#define ACKNOWLEDGE (0x64 / 4)
#define ROUNDS 20
#define EACH 5

void rump_schedule(void);
void rump_unschedule(void);
int rumpcomp_pci_irq_map(unsigned, unsigned, unsigned, int, unsigned);
int rumpcomp_pci_confread(unsigned, unsigned, unsigned, int, unsigned *);
void *rumpcomp_pci_map(unsigned long, unsigned long);
void *rumpns_pci_intr_establish(void *, uint64_t, int, int (*)(void *), void *);
void rumpns_pci_intr_disestablish(void *, void *);

static volatile int calls;
static volatile uint32_t *registers;

static int handle(void *argument)
{
	registers[ACKNOWLEDGE] = registers[STATUS];
	calls++;
	return argument == NULL;
}

int main(void)
{
	unsigned device, value = 0;
	for (device = 0; device < 32 && value != DEVICE; device++)
		rumpcomp_pci_confread(0, device, 0, 0, &value);
	if (device-- == 32) {
		puts("no device");
		return 1;
	}
	rumpcomp_pci_confread(0, device, 0, 0x10, &value);
	registers = rumpcomp_pci_map(value & ~15u, 4096);
	for (int round = 0; round < ROUNDS; round++) {
		unsigned cookie = 0x10000 + round;
		rump_schedule();
		rumpcomp_pci_irq_map(0, device, 0, 0, cookie);
		void *handler = rumpns_pci_intr_establish(NULL, cookie, 0, handle, NULL);
		rump_unschedule();
		for (int time = 0; time < EACH; time++) {
			int before = calls;
			registers[RAISE] = 1;
			for (int wait = 0; calls == before && wait < 5000; wait++)
				usleep(1000);
			if (calls == before) {
				printf("round %d: no interrupt\n", round);
				return 1;
			}
		}
		rump_schedule();
		rumpns_pci_intr_disestablish(NULL, handler);
		rumpns_pci_intr_disestablish(NULL, handler);
		rumpns_pci_intr_disestablish(NULL, NULL);
		rump_unschedule();
		int before = calls;
		registers[RAISE] = 1;
		usleep(10000);
		registers[ACKNOWLEDGE] = registers[STATUS];
		if (calls != before) {
			printf("round %d: called after its end\n", round);
			return 1;
		}
	}
	puts("interrupts begin and end");
	return 0;
}
