/* SPDX-License-Identifier: Apache-2.0 */

/* link.c - a bad link between two network interfaces: delay, jitter, loss, rate, and a knife.
 *
 * usage: link IF_A IF_B, then one order a line on standard input, each answered by one line:
 *
 *   delay MS      each frame arrives that much later, either way (so the round trip takes twice as long)
 *   jitter MS     up to that much more, at random; frames keep their order
 *   loss PERCENT  of the frames vanish, at random
 *   seed N        where chance begins: the same frames then meet the same fate
 *   rate MBIT     megabits per second, either way; 0: as fast as it goes
 *   cut, restore  nothing passes; what is under way is lost too
 *   count         "passed N lost N full N cut N overrun N": what became of the frames so far, both ways together;
 *                 overrun is what the kernel threw away because this program was too slow: an experiment with any is
 * void
 *
 * The link ends with its standard input, so it cannot outlive whoever holds the other end.
 *
 * How it works: a packet socket on each interface takes every frame off the wire, with the kernel's virtio header in
 * front (checksums may be left to a card that does not exist; the header carries that promise to the other side). A
 * frame is given its due time on arrival and put at the end of its way's queue; one loop sends what is due and sleeps
 * till the next. Rate is a token bucket kept as a time: `free_ns` is when the wire will have carried all that was
 * accepted so far, and it may lie at most BURST behind the clock. What would wait longer than BUFFER finds the queue
 * full.
 *
 * A sender that hands 64 KB to its card as one frame would lose 64 KB at once; give the interfaces gso_max_segs 1. */

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MS_NS 1000000LL
#define BURST_BYTES 16384
#define BUFFER_NS (100 * MS_NS)
#define QUEUE_FRAMES 65536 /* a power of two */
#define FRAME_BYTES (65536 + 64)

struct frame {
	int64_t due_ns;
	size_t bytes; /* with the virtio header */
	uint8_t data[];
};

struct way {
	int from, to;
	uint64_t chance;
	int64_t free_ns;     /* when the wire is free again */
	int64_t last_due_ns; /* no frame overtakes another */
	uint32_t head, count;
	struct frame *queue[QUEUE_FRAMES];
};

static struct {
	int64_t delay_ns, jitter_ns;
	double loss, rate_bits; /* loss from 0 to 1; rate 0: none */
	bool cut;
	uint64_t passed, lost, full, severed, overrun;
} link_state;

static struct way ways[2];

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 * MS_NS + t.tv_nsec;
}

/* SplitMix64; from 0 to 1, without 1. */
static double chance(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static void fail(const char *what)
{
	fprintf(stderr, "link: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void set(int fd, int level, int option, const void *value, socklen_t size, const char *what)
{
	if (setsockopt(fd, level, option, value, size) < 0)
		fail(what);
}

static int open_interface(const char *name)
{
	const int one = 1, room = 32 << 20;
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
	address.sll_ifindex = (int)if_nametoindex(name);
	if (address.sll_ifindex == 0)
		fail(name);
	/* Protocol 0: it hears nothing before it is bound and set up. */
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		fail("packet socket");
	struct packet_mreq all = {.mr_ifindex = address.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
	set(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all, "promiscuous mode");
	set(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one, "virtio header");
	set(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one, "ignoring what we send");
	set(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room, "receive buffer");
	set(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room, "send buffer");
	if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
		fail(name);
	return fd;
}

/* When the wire will have carried these bytes; negative when its buffer has no room for them. */
static int64_t wire_time(struct way *way, size_t bytes, int64_t now)
{
	if (link_state.rate_bits <= 0)
		return now;
	double ns_per_byte = 8e9 / link_state.rate_bits;
	int64_t oldest = now - (int64_t)(BURST_BYTES * ns_per_byte);
	int64_t done = (way->free_ns > oldest ? way->free_ns : oldest) + (int64_t)((double)bytes * ns_per_byte);
	if (done - now > BUFFER_NS)
		return -1;
	way->free_ns = done;
	return done > now ? done : now;
}

static void accept_frame(struct way *way, const uint8_t *data, size_t bytes)
{
	int64_t now = now_ns();
	if (link_state.cut) {
		link_state.severed++;
		return;
	}
	if (chance(&way->chance) < link_state.loss) {
		link_state.lost++;
		return;
	}
	int64_t due = wire_time(way, bytes - sizeof(struct virtio_net_hdr), now);
	if (due < 0 || way->count == QUEUE_FRAMES) {
		link_state.full++;
		return;
	}
	due += link_state.delay_ns + (int64_t)(chance(&way->chance) * (double)link_state.jitter_ns);
	if (due < way->last_due_ns)
		due = way->last_due_ns;
	way->last_due_ns = due;

	struct frame *frame = malloc(sizeof *frame + bytes);
	if (frame == NULL)
		fail("memory");
	frame->due_ns = due;
	frame->bytes = bytes;
	memcpy(frame->data, data, bytes);
	way->queue[(way->head + way->count++) % QUEUE_FRAMES] = frame;
}

static struct frame *take(struct way *way)
{
	struct frame *frame = way->queue[way->head];
	way->head = (way->head + 1) % QUEUE_FRAMES;
	way->count--;
	return frame;
}

/* Takes what has come, but not for ever: frames that are due wait meanwhile. */
static void hear(struct way *way)
{
	static uint8_t data[FRAME_BYTES];
	for (int i = 0; i < 64; i++) {
		ssize_t bytes = recv(way->from, data, sizeof data, 0);
		if (bytes < 0 &&
		    (errno == EAGAIN || errno == ENETDOWN)) /* ENETDOWN: once, when the interface goes down */
			return;
		if (bytes < 0)
			fail("receiving");
		if (bytes > (ssize_t)sizeof(struct virtio_net_hdr))
			accept_frame(way, data, (size_t)bytes);
	}
}

/* Sends what is due. The time of the next frame is put into *ret_next_ns when that is earlier. */
static void speak(struct way *way, int64_t *ret_next_ns)
{
	int64_t now = now_ns();
	while (way->count > 0 && way->queue[way->head]->due_ns <= now) {
		struct frame *frame = take(way);
		if (send(way->to, frame->data, frame->bytes, 0) == (ssize_t)frame->bytes)
			link_state.passed++;
		else
			link_state.overrun++;
		free(frame);
	}
	if (way->count > 0 && way->queue[way->head]->due_ns < *ret_next_ns)
		*ret_next_ns = way->queue[way->head]->due_ns;
}

static void cut(void)
{
	link_state.cut = true;
	for (int i = 0; i < 2; i++) {
		while (ways[i].count > 0) {
			free(take(&ways[i]));
			link_state.severed++;
		}
		ways[i].last_due_ns = 0;
	}
}

static void count(void)
{
	for (int i = 0; i < 2; i++) {
		struct tpacket_stats stats; /* since the last time they were read */
		socklen_t size = sizeof stats;
		if (getsockopt(ways[i].from, SOL_PACKET, PACKET_STATISTICS, &stats, &size) == 0)
			link_state.overrun += stats.tp_drops;
	}
	printf("passed %llu lost %llu full %llu cut %llu overrun %llu\n", (unsigned long long)link_state.passed,
	       (unsigned long long)link_state.lost, (unsigned long long)link_state.full,
	       (unsigned long long)link_state.severed, (unsigned long long)link_state.overrun);
}

static void obey(const char *line)
{
	char word[16] = "";
	double value = 0;
	int words = sscanf(line, "%15s %lf", word, &value);
	if (strcmp(word, "count") == 0) {
		count();
		return;
	}
	if (strcmp(word, "cut") == 0) {
		cut();
	} else if (strcmp(word, "restore") == 0) {
		link_state.cut = false;
	} else if (words == 2 && value >= 0 && strcmp(word, "delay") == 0) {
		link_state.delay_ns = (int64_t)(value * MS_NS);
	} else if (words == 2 && value >= 0 && strcmp(word, "jitter") == 0) {
		link_state.jitter_ns = (int64_t)(value * MS_NS);
	} else if (words == 2 && value >= 0 && value <= 100 && strcmp(word, "loss") == 0) {
		link_state.loss = value / 100;
	} else if (words == 2 && value >= 0 && strcmp(word, "rate") == 0) {
		link_state.rate_bits = value * 1e6;
	} else if (words == 2 && value >= 0 && strcmp(word, "seed") == 0) {
		ways[0].chance = (uint64_t)value;
		ways[1].chance = ~(uint64_t)value;
	} else {
		puts("what?");
		return;
	}
	puts("ok");
}

/* Reads what there is of orders; false at the end of input. */
static bool hear_orders(void)
{
	static char text[4096];
	static size_t have;
	ssize_t bytes = read(STDIN_FILENO, text + have, sizeof text - 1 - have);
	if (bytes <= 0)
		return false;
	have += (size_t)bytes;
	text[have] = '\0';
	char *line = text, *end;
	while ((end = strchr(line, '\n')) != NULL) {
		*end = '\0';
		obey(line);
		line = end + 1;
	}
	have = strlen(line);
	memmove(text, line, have);
	return have < sizeof text - 1; /* a line without end is none */
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fputs("usage: link IF_A IF_B; the orders it takes are at the top of link.c\n", stderr);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* Punctual, where that is allowed: a busy machine must not look like a slow link. */
	prctl(PR_SET_TIMERSLACK, 1UL);
	sched_setscheduler(0, SCHED_RR, &(struct sched_param){.sched_priority = 1});
	int a = open_interface(argv[1]), b = open_interface(argv[2]);
	ways[0] = (struct way){.from = a, .to = b, .chance = 1};
	ways[1] = (struct way){.from = b, .to = a, .chance = ~1ULL};
	puts("ready");

	struct pollfd fds[] = {{a, POLLIN, 0}, {b, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
	for (;;) {
		int64_t next = INT64_MAX;
		speak(&ways[0], &next);
		speak(&ways[1], &next);
		int64_t wait = next == INT64_MAX ? 0 : next - now_ns();
		wait = wait < 0 ? 0 : wait;
		struct timespec timeout = {.tv_sec = wait / (1000 * MS_NS), .tv_nsec = wait % (1000 * MS_NS)};
		if (ppoll(fds, 3, next == INT64_MAX ? NULL : &timeout, NULL) < 0 && errno != EINTR)
			fail("poll");
		if (fds[0].revents != 0)
			hear(&ways[0]);
		if (fds[1].revents != 0)
			hear(&ways[1]);
		if (fds[2].revents != 0 && !hear_orders())
			return 0;
	}
}
