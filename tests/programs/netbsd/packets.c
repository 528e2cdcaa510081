/*
 * Looks at packets by bpf(4) and filters them by npf(7). Who says something at port 7001 or 7002 hears "hello"; who
 * connects to 7003 ends the program. After three pings, which libpcap shows it, port 7001 is refused by a rule that libnpf loads.
 */
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <err.h>
#include <fcntl.h>
#include <net/npf.h>
#include <netinet/in.h>
#include <npf.h>
#include <pcap.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *
greet(void *argument)
{
	int port = (int)(long)argument, on = 1, listener = socket(AF_INET, SOCK_STREAM, 0), connection;
	char byte;
	struct sockaddr_in any = { .sin_len = sizeof(any), .sin_family = AF_INET, .sin_port = htons(port) };

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (void *)&any, sizeof(any)) != 0 || listen(listener, 5) != 0)
		err(1, "port %d", port);
	while ((connection = accept(listener, NULL, NULL)) >= 0) {
		if (port == 7003)
			exit(0);
		if (read(connection, &byte, 1) == 1)
			write(connection, "hello\n", 6);
		close(connection);
	}
	return NULL;
}

static void
wait_for_pings(int count)
{
	char error[PCAP_ERRBUF_SIZE];
	const u_char *packet;
	struct pcap_pkthdr header;
	struct bpf_program filter;
	pcap_t *capture = pcap_open_live("vioif0", 128, 0, 100, error);

	if (capture == NULL)
		errx(1, "pcap: %s", error);
	if (pcap_compile(capture, &filter, "icmp[icmptype] = icmp-echo and dst host 10.77.0.2", 1, 0) != 0 ||
	    pcap_setfilter(capture, &filter) != 0)
		errx(1, "pcap: %s", pcap_geterr(capture));
	printf("capturing\n");
	while (count > 0)
		if ((packet = pcap_next(capture, &header)) != NULL) {
			printf("a ping of %u bytes, type %d\n", header.len, packet[34]);
			count--;
		}
	pcap_close(capture);
}

static void
refuse(const char *what)
{
	struct bpf_program code;
	pcap_t *compiler = pcap_open_dead(DLT_RAW, 65535);
	nl_config_t *configuration = npf_config_create();
	nl_rule_t *group = npf_rule_create("all", NPF_RULE_GROUP | NPF_RULE_IN | NPF_RULE_OUT, NULL);
	nl_rule_t *refused = npf_rule_create(NULL, NPF_RULE_FINAL | NPF_RULE_RETRST | NPF_RULE_IN, NULL);
	nl_rule_t *passed = npf_rule_create(NULL, NPF_RULE_FINAL | NPF_RULE_PASS | NPF_RULE_IN | NPF_RULE_OUT, NULL);
	int device = open("/dev/npf", O_RDWR), on = 1, error;

	if (device < 0)
		err(1, "/dev/npf");
	if (pcap_compile(compiler, &code, what, 1, PCAP_NETMASK_UNKNOWN) != 0)
		errx(1, "pcap: %s", pcap_geterr(compiler));
	npf_rule_setcode(refused, NPF_CODE_BPF, code.bf_insns, code.bf_len * sizeof(struct bpf_insn));
	npf_rule_insert(configuration, group, refused);
	npf_rule_insert(configuration, group, passed);
	npf_rule_insert(configuration, NULL, group);
	if ((error = npf_config_submit(configuration, device)) != 0 || ioctl(device, IOC_NPF_SWITCH, &on) != 0)
		errx(1, "npf: error %d", error);
	npf_config_destroy(configuration);
	close(device);
}

int
main(void)
{
	pthread_t thread;

	for (long port = 7001; port <= 7003; port++)
		pthread_create(&thread, NULL, greet, (void *)port);
	wait_for_pings(3);
	refuse("tcp dst port 7001");
	printf("filtering\n");
	pthread_join(thread, NULL);
	return 1;
}
