/* SPDX-License-Identifier: Apache-2.0 */
/* load.c - HTTP clients that each send the same POST again and again, over connections kept open.
 *
 *   load PORT PATH BODY-FILE CONNECTIONS SECONDS
 *
 * One thread, epoll. The first requests are spread over START_SPREAD of the time, so that the clients do not march in
 * step, and answers that began before WARM of it has passed do not count. TTFT is from the first byte sent to the first
 * byte of the body received. Delays are those of tokens from upstream.c with a time in them, while it counts. Events
 * are those of streams that came in the time that counts, whether or not their answer ended in it. Prints one JSON
 * object. Bodies are ended by the last chunk: our servers send those in one piece.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX (4 << 20)
#define READ_SIZE 65536
#define START_SPREAD 0.10
#define WARM 0.20

struct client {
	int fd;
	bool waits_to_write, in_body;
	size_t sent, head_len, tail_len;
	int64_t began_ns, first_ns;
	char head[2048], tail[8];
};

static struct {
	struct sockaddr_in to;
	char *request;
	size_t request_len;
	int epoll;
	int64_t began_ns, warm_ns, end_ns;
	uint64_t done, errors, events;
	size_t samples, delays;
	float *ttft_us, *total_us, *delay_us;
} load;

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* ---- one client ------------------------------------------------------------------------------------------ */

static void client_watch(struct client *c, bool write, int operation)
{
	struct epoll_event e = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
	c->waits_to_write = write;
	if (epoll_ctl(load.epoll, operation, c->fd, &e) < 0)
		die("epoll_ctl");
}

static void client_write(struct client *c)
{
	while (c->sent < load.request_len) {
		ssize_t n = write(c->fd, load.request + c->sent, load.request_len - c->sent);
		if (n < 0 && errno != EAGAIN)
			return; /* the reading side tells */
		if (n < 0) {
			if (!c->waits_to_write)
				client_watch(c, true, EPOLL_CTL_MOD);
			return;
		}
		c->sent += (size_t)n;
	}
	if (c->waits_to_write)
		client_watch(c, false, EPOLL_CTL_MOD);
}

static void client_ask(struct client *c)
{
	c->began_ns = now_ns();
	c->first_ns = 0;
	c->in_body = false;
	c->sent = c->head_len = c->tail_len = 0;
	client_write(c);
}

static void client_connect(struct client *c)
{
	int one = 1;
	c->fd = socket(AF_INET, SOCK_STREAM, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&load.to, sizeof(load.to)) < 0)
		die("connect");
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	fcntl(c->fd, F_SETFL, O_NONBLOCK);
	client_watch(c, false, EPOLL_CTL_ADD);
}

static void client_again(struct client *c, bool connected)
{
	if (!connected) {
		close(c->fd);
		client_connect(c);
	}
	client_ask(c);
}

static void client_done(struct client *c, bool connected)
{
	int64_t now = now_ns();
	bool good = strncmp(c->head, "HTTP/1.1 200", 12) == 0;
	if (c->began_ns >= load.warm_ns && now <= load.end_ns) {
		if (!good && load.errors++ == 0)
			fprintf(stderr, "an answer was no 200:\n%s\n", c->head);
		load.done += good;
		if (good && load.samples < SAMPLES_MAX) {
			load.ttft_us[load.samples] = (float)(c->first_ns - c->began_ns) / 1e3f;
			load.total_us[load.samples++] = (float)(now - c->began_ns) / 1e3f;
		}
	}
	client_again(c, connected);
}

static void take_token(const char *at, const char *end, int64_t now)
{
	char digits[20] = "";
	if (end - at < 19 || load.delays == SAMPLES_MAX)
		return;
	memcpy(digits, at, 19);
	int64_t sent = strtoll(digits, NULL, 10);
	if (sent)
		load.delay_us[load.delays++] = (float)(now - sent) / 1e3f;
}

static void take_events(const char *data, const char *end)
{
	int64_t now = now_ns();
	if (now < load.warm_ns)
		return;
	for (const char *at = data; (at = memmem(at, (size_t)(end - at), "\ndata:", 6)); at += 6)
		load.events++;
	for (const char *at = data; (at = memmem(at, (size_t)(end - at), "\"@", 2)); at += 2)
		take_token(at + 2, end, now);
}

/* Keeps the head as text, and the last bytes of the body. Returns whether the answer is whole. */
static bool client_take(struct client *c, const char *data, size_t len)
{
	if (!c->in_body) {
		size_t take = len < sizeof(c->head) - 1 - c->head_len ? len : sizeof(c->head) - 1 - c->head_len;
		memcpy(c->head + c->head_len, data, take);
		c->head[c->head_len + take] = '\0';
		char *end = strstr(c->head, "\r\n\r\n");
		if (!end) {
			c->head_len += take;
			return false;
		}
		size_t used = (size_t)(end + 4 - c->head) - c->head_len;
		data += used;
		len -= used;
		c->in_body = true;
	}
	if (!len)
		return false;
	if (!c->first_ns)
		c->first_ns = now_ns();
	take_events(data, data + len);
	for (size_t i = len > 7 ? len - 7 : 0; i < len; i++) {
		memmove(c->tail, c->tail + 1, 6);
		c->tail[6] = data[i];
	}
	return memcmp(c->tail, "\r\n0\r\n\r\n", 7) == 0;
}

static void client_read(struct client *c)
{
	static char data[READ_SIZE];
	ssize_t n = read(c->fd, data, sizeof(data));
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		load.errors++;
		client_again(c, false);
	} else if (client_take(c, data, (size_t)n)) {
		client_done(c, true);
	} else if (c->in_body && strncmp(c->head, "HTTP/1.1 200", 12) != 0) {
		client_done(c, false);
	}
}

/* ---- all of them ----------------------------------------------------------------------------------------- */

static void read_request(int port, const char *path, const char *body_file)
{
	FILE *f = fopen(body_file, "rb");
	if (!f)
		die(body_file);
	fseek(f, 0, SEEK_END);
	size_t body_len = (size_t)ftell(f);
	rewind(f);
	load.request = malloc(body_len + 1024);
	load.request_len =
	    (size_t)sprintf(load.request,
	                    "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
	                    "Content-Length: %zu\r\n\r\n",
	                    path, port, body_len);
	load.request_len += fread(load.request + load.request_len, 1, body_len, f);
	fclose(f);
}

static int by_value(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

static void print_percentiles(const char *name, float *values, size_t n)
{
	static const double at[] = {0.5, 0.9, 0.99, 0.999};
	qsort(values, n, sizeof(*values), by_value);
	printf(", \"%s\": {", name);
	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++)
		printf("%s\"p%g\": %.1f", i ? ", " : "", at[i] * 100,
		       n ? values[(size_t)(at[i] * (double)(n - 1))] : -1);
	printf("}");
}

static void run(struct client *clients, size_t count)
{
	struct epoll_event events[256];
	size_t started = 0;
	int64_t spread_ns = (int64_t)((double)(load.end_ns - load.began_ns) * START_SPREAD);
	for (int64_t now = now_ns(); now < load.end_ns; now = now_ns()) {
		while (started < count && now >= load.began_ns + spread_ns * (int64_t)started / (int64_t)count) {
			client_connect(&clients[started]);
			client_ask(&clients[started++]);
		}
		int n = epoll_wait(load.epoll, events, 256, started < count ? 1 : 50);
		for (int i = 0; i < n; i++) {
			struct client *c = events[i].data.ptr;
			if (events[i].events & EPOLLOUT)
				client_write(c);
			if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
				client_read(c);
		}
	}
}

int main(int argc, char **argv)
{
	if (argc != 6) {
		fprintf(stderr, "usage: load PORT PATH BODY-FILE CONNECTIONS SECONDS\n");
		return 2;
	}
	int port = atoi(argv[1]);
	size_t count = (size_t)atoi(argv[4]);
	double seconds = atof(argv[5]);
	load.to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	load.to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	read_request(port, argv[2], argv[3]);
	load.epoll = epoll_create1(0);
	load.ttft_us = malloc(SAMPLES_MAX * sizeof(float));
	load.total_us = malloc(SAMPLES_MAX * sizeof(float));
	load.delay_us = malloc(SAMPLES_MAX * sizeof(float));
	struct client *clients = calloc(count, sizeof(*clients));
	load.began_ns = now_ns();
	load.warm_ns = load.began_ns + (int64_t)(seconds * WARM * 1e9);
	load.end_ns = load.began_ns + (int64_t)(seconds * 1e9);
	run(clients, count);
	printf("{\"requests\": %lu, \"errors\": %lu, \"events\": %lu, \"seconds\": %.3f", load.done, load.errors,
	       load.events, (double)(load.end_ns - load.warm_ns) / 1e9);
	print_percentiles("ttft_us", load.ttft_us, load.samples);
	print_percentiles("total_us", load.total_us, load.samples);
	print_percentiles("delay_us", load.delay_us, load.delays);
	printf("}\n");
	return 0;
}
