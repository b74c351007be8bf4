/*
 * A router with NAT for UDP, in one process: what a host behind it sends (a TUN device that is its default route) leaves from
 * sockets in another network namespace. TCP and the rest is dropped, as where only UDP gets through.
 *
 *   nat INSIDE OUTSIDE HOST PUBLIC KIND
 *
 * INSIDE, OUTSIDE: paths of network namespaces. HOST: the IPv4 address of the host on the TUN device. PUBLIC: the router's, in
 * OUTSIDE. KIND: cone (one port for each of the host's, whoever it talks to; who was talked to may answer) or symmetric (another random
 * port for each whom it talks to, and only they may answer).
 *
 * SIGUSR1: forgets all mappings, as after a restart: new ones have new ports. Prints "ready", then a line for each such.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAPPINGS 2048
#define TALKED 64

struct end { uint32_t host; uint16_t port; };
struct mapping { int fd; uint16_t inner; struct end to; struct end talked[TALKED]; int n; unsigned long used; };

static struct mapping mappings[MAPPINGS];
static int count, symmetric;
static unsigned long ticks;
static struct in_addr host, public;
static volatile sig_atomic_t forget;

static void on_signal(int s) { (void)s; forget = 1; }
static void die(const char *what) { perror(what); exit(1); }

static void enter(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET) < 0) die(path);
	close(fd);
}

static uint16_t sum(const void *data, size_t length)
{
	const uint16_t *p = data;
	uint32_t s = 0;
	for (; length > 1; length -= 2) s += *p++;
	while (s >> 16) s = (s & 0xffff) + (s >> 16);
	return (uint16_t)~s;
}

static int same(struct end a, struct end b) { return a.host == b.host && a.port == b.port; }

static struct mapping *mapping_for(uint16_t inner, struct end to)
{
	struct mapping *oldest = NULL;
	for (int i = 0; i < count; i++) {
		struct mapping *m = &mappings[i];
		if (m->inner == inner && (!symmetric || same(m->to, to))) return m;
		if (!oldest || m->used < oldest->used) oldest = m;
	}
	struct mapping *m = count < MAPPINGS ? &mappings[count] : oldest;
	if (m == oldest) close(m->fd);
	else count++;
	memset(m, 0, sizeof *m);
	m->inner = inner;
	m->to = to;
	m->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int large = 4 << 20;
	setsockopt(m->fd, SOL_SOCKET, SO_RCVBUFFORCE, &large, sizeof large);
	setsockopt(m->fd, SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof large);
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = public };
	for (;;) {
		at.sin_port = htons((uint16_t)(1024 + random() % 64000));
		if (bind(m->fd, (struct sockaddr *)&at, sizeof at) == 0) return m;
		if (errno != EADDRINUSE) die("bind");
	}
}

static void send_out(const unsigned char *packet, ssize_t length)
{
	const struct iphdr *ip = (const void *)packet;
	size_t head = (size_t)ip->ihl * 4;
	if (length < (ssize_t)(head + sizeof(struct udphdr)) || ip->version != 4 || ip->protocol != IPPROTO_UDP || ip->saddr != host.s_addr) return;
	const struct udphdr *udp = (const void *)(packet + head);
	struct end to = { ip->daddr, udp->dest };
	struct mapping *m = mapping_for(udp->source, to);
	m->used = ++ticks;
	int known = 0;
	for (int i = 0; i < TALKED && i < m->n; i++) known |= same(m->talked[i], to);
	if (!known) m->talked[m->n++ % TALKED] = to;
	/* It would not have got further than to the first routers: it opens the mapping, no more. */
	if (ip->ttl < 10) return;
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = to.host, .sin_port = to.port };
	sendto(m->fd, packet + head + sizeof *udp, (size_t)length - head - sizeof *udp, 0, (struct sockaddr *)&at, sizeof at);
}

static void take_in(struct mapping *m, int tun)
{
	unsigned char packet[65536];
	struct iphdr *ip = (void *)packet;
	struct udphdr *udp = (void *)(packet + sizeof *ip);
	struct sockaddr_in from;
	socklen_t size = sizeof from;
	ssize_t got;
	for (int i = 0; i < 64 && (got = recvfrom(m->fd, packet + sizeof *ip + sizeof *udp, sizeof packet - 64, 0, (struct sockaddr *)&from, &size)) >= 0; i++) {
		struct end at = { from.sin_addr.s_addr, from.sin_port };
		int known = 0;
		for (int k = 0; k < TALKED && k < m->n; k++) known |= same(m->talked[k], at);
		if (!known) continue;
		size_t whole = sizeof *ip + sizeof *udp + (size_t)got;
		*ip = (struct iphdr){ .version = 4, .ihl = 5, .tot_len = htons((uint16_t)whole), .ttl = 60, .protocol = IPPROTO_UDP, .saddr = at.host, .daddr = host.s_addr };
		ip->check = sum(ip, sizeof *ip);
		*udp = (struct udphdr){ .source = at.port, .dest = m->inner, .len = htons((uint16_t)(sizeof *udp + (size_t)got)) };
		if (write(tun, packet, whole) < 0) continue;
	}
}

int main(int argc, char **argv)
{
	if (argc != 6) return 2;
	srandom((unsigned)getpid());
	symmetric = strcmp(argv[5], "symmetric") == 0;
	inet_pton(AF_INET, argv[3], &host);
	inet_pton(AF_INET, argv[4], &public);
	signal(SIGUSR1, on_signal);
	enter(argv[1]);
	int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	strcpy(request.ifr_name, "tun0");
	if (tun < 0 || ioctl(tun, TUNSETIFF, &request) < 0) die("/dev/net/tun");
	enter(argv[2]);
	puts("ready");
	fflush(stdout);
	static struct pollfd polled[MAPPINGS + 2];
	for (;;) {
		if (forget) {
			forget = 0;
			for (int i = 0; i < count; i++) close(mappings[i].fd);
			printf("%d mappings forgotten\n", count);
			fflush(stdout);
			count = 0;
		}
		/* Ends with whoever started it. */
		polled[0] = (struct pollfd){ .fd = tun, .events = POLLIN };
		polled[1] = (struct pollfd){ .fd = STDIN_FILENO, .events = POLLIN };
		int n = count;
		for (int i = 0; i < n; i++) polled[i + 2] = (struct pollfd){ .fd = mappings[i].fd, .events = POLLIN };
		if (poll(polled, (nfds_t)n + 2, -1) < 0) continue;
		if (polled[1].revents) return 0;
		for (int i = 0; i < n; i++) if (polled[i + 2].revents) take_in(&mappings[i], tun);
		if (polled[0].revents) {
			unsigned char packet[65536];
			ssize_t got;
			for (int i = 0; i < 64 && (got = read(tun, packet, sizeof packet)) > 0; i++) send_out(packet, got);
		}
	}
}
