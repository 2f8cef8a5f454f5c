/* SPDX-License-Identifier: Apache-2.0 */
/* The thread waits in recvmmsg for a first query, takes what else is there, answers all, and sends all with sendmmsg:
 * two system calls a batch. What the kernel will not take is dropped, as UDP may. On a wildcard address replies leave
 * from the address that was asked (IP_PKTINFO). A receive timeout lets it look around while nobody asks. Closing shuts
 * the socket down, which wakes it. */
#include "serve/scheduler/dns_udp.h"

#include "base/clock.h"
#include "net/dns.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64
#define QUERY_SIZE 1500
#define CONTROL_SIZE 64
#define LOOK_AROUND_US (100 * US_PER_MS)

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct batch {
	struct mmsghdr in[BATCH], out[BATCH];
	struct iovec in_iov[BATCH], out_iov[BATCH];
	union address from[BATCH];
	char control[BATCH][CONTROL_SIZE];
	uint8_t query[BATCH][QUERY_SIZE];
	uint8_t reply[BATCH][DNS_UDP_SIZE];
};

struct dns_udp {
	int fd;
	bool wildcard;
	_Atomic bool stop;
	_Atomic(struct dns_shared *) next; /* given, not taken yet */
	struct dns_shared *now;
	struct dns_zone *zone;
	pthread_t thread;
	struct batch batch;
};

struct ip dns_ip_of(const struct sockaddr *address)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	const union address *a = (const void *)address;
	struct ip ip = {.bits = 32};
	if (a->any.sa_family == AF_INET) {
		memcpy(ip.bytes, &a->v4.sin_addr, 4);
	} else if (memcmp(&a->v6.sin6_addr, mapped, 12) == 0) {
		memcpy(ip.bytes, (const uint8_t *)&a->v6.sin6_addr + 12, 4);
	} else {
		ip.bits = 128;
		memcpy(ip.bytes, &a->v6.sin6_addr, 16);
	}
	return ip;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void let_go(struct dns_shared *s)
{
	if (s)
		atomic_fetch_sub_explicit(&s->holders, 1, memory_order_release);
}

static void scene_take(struct dns_udp *u)
{
	if (!atomic_load_explicit(&u->next, memory_order_relaxed))
		return;
	struct dns_shared *s = atomic_exchange_explicit(&u->next, NULL, memory_order_acquire);
	if (!s)
		return;
	dns_zone_set(u->zone, &s->scene);
	let_go(u->now);
	u->now = s;
}

/* The kernel writes over lengths only, so the rest is set once. */
static void batch_init(struct batch *b, bool wildcard)
{
	for (size_t i = 0; i < BATCH; i++) {
		b->in_iov[i] = (struct iovec){b->query[i], QUERY_SIZE};
		b->in[i].msg_hdr = (struct msghdr){.msg_name = &b->from[i], .msg_iov = &b->in_iov[i], .msg_iovlen = 1};
		b->out[i].msg_hdr = (struct msghdr){.msg_iov = &b->out_iov[i], .msg_iovlen = 1};
		if (wildcard)
			b->in[i].msg_hdr.msg_control = b->control[i];
	}
}

static void batch_reset(struct batch *b, size_t used, bool wildcard)
{
	for (size_t i = 0; i < used; i++) {
		b->in[i].msg_hdr.msg_namelen = sizeof(b->from[i]);
		b->in[i].msg_hdr.msg_controllen = wildcard ? CONTROL_SIZE : 0;
	}
}

/* Sends from the address that was asked, by whatever way there is. */
static void control_reuse(struct msghdr *to, const struct msghdr *from)
{
	to->msg_control = from->msg_control;
	to->msg_controllen = from->msg_controllen;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(to); c; c = CMSG_NXTHDR(to, c)) {
		if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO)
			((struct in_pktinfo *)(void *)CMSG_DATA(c))->ipi_ifindex = 0;
	}
}

static unsigned batch_answer(struct dns_udp *u, size_t got)
{
	struct batch *b = &u->batch;
	unsigned replies = 0;
	int64_t now = clock_mono_us();
	for (size_t i = 0; i < got; i++) {
		struct ip from = dns_ip_of(&b->from[i].any);
		/* A source port of 0 cannot be answered, only bounced. */
		if (b->from[i].v4.sin_port == 0)
			continue;
		size_t len =
		    dns_zone_answer(u->zone, b->query[i], b->in[i].msg_len, &from, false, now, b->reply[replies]);
		if (len == 0)
			continue;
		struct msghdr *to = &b->out[replies].msg_hdr;
		b->out_iov[replies] = (struct iovec){b->reply[replies], len};
		to->msg_name = &b->from[i];
		to->msg_namelen = b->in[i].msg_hdr.msg_namelen;
		if (u->wildcard)
			control_reuse(to, &b->in[i].msg_hdr);
		replies++;
	}
	return replies;
}

static void batch_send(struct dns_udp *u, unsigned replies)
{
	for (unsigned sent = 0; sent < replies;) {
		int n = sendmmsg(u->fd, u->batch.out + sent, replies - sent, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS))
			break;
		sent += n > 0 ? (unsigned)n : 1; /* an unreachable one must not stop the others */
	}
}

static void *run(void *arg)
{
	struct dns_udp *u = arg;
	size_t used = BATCH;
	batch_init(&u->batch, u->wildcard);
	while (!atomic_load_explicit(&u->stop, memory_order_relaxed)) {
		batch_reset(&u->batch, used, u->wildcard);
		int got = recvmmsg(u->fd, u->batch.in, BATCH, MSG_WAITFORONE, NULL);
		scene_take(u);
		used = got > 0 ? (size_t)got : 0;
		if (used > 0)
			batch_send(u, batch_answer(u, used));
	}
	return NULL;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* Signals are the loop's. */
static int thread_start(struct dns_udp *u)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int rc = pthread_create(&u->thread, NULL, run, u);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc;
}

int dns_udp_new(int fd, bool wildcard, struct dns_zone *zone, struct dns_shared *first, struct dns_udp **ret_udp,
                struct error *err)
{
	const struct timeval wait = {.tv_usec = LOOK_AROUND_US};
	struct dns_udp *u = NEW(struct dns_udp);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	u->fd = fd;
	u->wildcard = wildcard;
	u->zone = zone;
	u->now = first;
	atomic_fetch_add(&first->holders, 1);
	dns_zone_set(zone, &first->scene);
	int rc = thread_start(u);
	if (rc != 0) {
		let_go(first);
		close(fd);
		dns_zone_free(zone);
		free(u);
		return error_errno(err, rc, "no thread for DNS (lower dns_threads)");
	}
	*ret_udp = u;
	return 0;
}

void dns_udp_free(struct dns_udp *u)
{
	if (!u)
		return;
	atomic_store(&u->stop, true);
	shutdown(u->fd, SHUT_RDWR);
	pthread_join(u->thread, NULL);
	close(u->fd);
	let_go(u->now);
	let_go(atomic_load(&u->next));
	dns_zone_free(u->zone);
	free(u);
}

void dns_udp_give(struct dns_udp *u, struct dns_shared *scene)
{
	atomic_fetch_add_explicit(&scene->holders, 1, memory_order_relaxed);
	let_go(atomic_exchange_explicit(&u->next, scene, memory_order_acq_rel));
}

const struct dns_counts *dns_udp_counts(const struct dns_udp *u)
{
	return dns_zone_counts(u->zone);
}
