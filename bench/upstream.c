/* SPDX-License-Identifier: Apache-2.0 */
/* upstream.c - stands for an inference node that costs nothing: reads a request whole, answers a fixed event stream.
 *
 *   upstream PORT [EVENTS INTERVAL-MS]
 *
 * The head is what a node of ours sends over its node port. EVENTS tokens go out at once, or, with an interval, the
 * first at once and the others one by one, each time up to a quarter early or late: so are clients kept out of step.
 * Then each token's text is "@" and the monotonic time it was sent at, 19 digits, for load.c to tell the way's delay.
 * It is far cheaper than anything that is measured in front of it: no parsing but for Content-Length, no allocation.
 * What is no chat is answered as routers that look at their nodes need it: healthy, vLLM by its version, one model.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNS_MAX 4096
#define HEAD_MAX 8192

static const char response_head[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nx-mdn-node: n-upstream\r\n"
    "endpoint-load-metrics: JSON {\"named_metrics\":{\"kv_cache_usage_perc\":0.1250,\"num_requests_running\":3,"
    "\"num_requests_waiting\":0,\"tokens_to_prefill\":0}}\r\ntransfer-encoding: chunked\r\n\r\n";
#define TOKEN "@0000000000000000000"
#define EVENT \
	"data: " \
	"{\"id\":\"chatcmpl-0123456789abcdef01234567\",\"object\":\"chat.completion.chunk\",\"created\":1700000000," \
	"\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" TOKEN \
	"\"},\"finish_reason\":null}]}\n\n"
static const char last[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

struct conn {
	int fd;
	size_t head_len, body_left;
	bool in_body;
	const char *page; /* the answer, unless it is a stream */
	int events_left;  /* > 0: an answer is on its way */
	int64_t due_ns;
	char head[HEAD_MAX];
};

static struct conn *conns[CONNS_MAX]; /* by file descriptor */
static int events_each = 8, interval_ms, fd_most;
static char event[512];
static size_t event_len, token_at;

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void conn_close(struct conn *c)
{
	close(c->fd);
	conns[c->fd] = NULL;
	free(c);
}

/* Small against any socket buffer; what does not fit means that the reader is gone. */
static bool conn_send(struct conn *c, const char *data, size_t len)
{
	if (write(c->fd, data, len) == (ssize_t)len)
		return true;
	conn_close(c);
	return false;
}

static void conn_schedule(struct conn *c)
{
	int64_t step = (int64_t)interval_ms * 1000000;
	c->due_ns = now_ns() + step * 3 / 4 + (step ? rand() % (step / 2) : 0);
}

static void event_stamp(char *at)
{
	char digits[20];
	if (!interval_ms)
		return;
	snprintf(digits, sizeof(digits), "%019lld", (long long)now_ns());
	memcpy(at + token_at + 1, digits, 19);
}

static bool conn_page(struct conn *c)
{
	char out[512];
	int len =
	    snprintf(out, sizeof(out), "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
	             c->page[0] ? "200 OK" : "404 Not Found", strlen(c->page), c->page);
	c->head_len = 0;
	return conn_send(c, out, (size_t)len);
}

static void conn_answer(struct conn *c)
{
	char out[16384];
	if (c->page) {
		conn_page(c);
		return;
	}
	size_t len = sizeof(response_head) - 1;
	int now = interval_ms ? 1 : events_each;
	memcpy(out, response_head, len);
	for (int i = 0; i < now; i++, len += event_len) {
		memcpy(out + len, event, event_len);
		event_stamp(out + len);
	}
	c->events_left = events_each - now;
	c->head_len = 0;
	if (c->events_left == 0) {
		memcpy(out + len, last, sizeof(last) - 1);
		len += sizeof(last) - 1;
	}
	if (conn_send(c, out, len))
		conn_schedule(c);
}

static void conn_tick(struct conn *c, int64_t now)
{
	if (c->events_left == 0 || now < c->due_ns)
		return;
	bool ends = --c->events_left == 0;
	event_stamp(event);
	if (conn_send(c, event, event_len) && (!ends || conn_send(c, last, sizeof(last) - 1)))
		conn_schedule(c);
}

static const char *page_of(const char *head)
{
	static const struct {
		const char *line, *page;
	} pages[] = {
	    {"POST /v1/chat/completions ", NULL},
	    {"GET /health ", "{}"},
	    {"GET /version ", "{\"version\":\"0.11.0\"}"},
	    {"GET /v1/models ", "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\","
	                        "\"created\":1,\"owned_by\":\"bench\",\"max_model_len\":1048576}]}"},
	};
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		if (strncmp(head, pages[i].line, strlen(pages[i].line)) == 0)
			return pages[i].page;
	return "";
}

static void conn_head(struct conn *c)
{
	c->head[c->head_len] = '\0';
	char *end = strstr(c->head, "\r\n\r\n"), *length = strcasestr(c->head, "\ncontent-length:");
	if (!end)
		return;
	size_t body = length && length < end ? strtoul(length + 16, NULL, 10) : 0;
	c->page = page_of(c->head);
	size_t have = c->head_len - (size_t)(end + 4 - c->head);
	c->in_body = have < body;
	c->body_left = c->in_body ? body - have : 0;
	if (!c->in_body)
		conn_answer(c);
}

static void conn_read(struct conn *c)
{
	static char body[262144];
	char *to = c->in_body ? body : c->head + c->head_len;
	size_t room = c->in_body ? sizeof(body) : HEAD_MAX - 1 - c->head_len;
	ssize_t n = read(c->fd, to, room);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		conn_close(c);
	} else if (!c->in_body) {
		c->head_len += (size_t)n;
		conn_head(c);
	} else if ((c->body_left -= (size_t)n) == 0) {
		c->in_body = false;
		conn_answer(c);
	}
}

static void conn_accept(int listener, int epoll)
{
	int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
	if (fd < 0 || fd >= CONNS_MAX) {
		close(fd);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	struct conn *c = calloc(1, sizeof(*c));
	c->fd = fd;
	conns[fd] = c;
	fd_most = fd > fd_most ? fd : fd_most;
	epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.fd = fd});
}

int main(int argc, char **argv)
{
	if (argc != 2 && argc != 4) {
		fprintf(stderr, "usage: upstream PORT [EVENTS INTERVAL-MS]\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (argc == 4) {
		events_each = atoi(argv[2]);
		interval_ms = atoi(argv[3]);
	}
	event_len = (size_t)snprintf(event, sizeof(event), "%zx\r\n" EVENT "\r\n", sizeof(EVENT) - 1);
	token_at = (size_t)(strstr(event, TOKEN) - event);
	int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(listener, 1024) < 0) {
		perror("listen");
		return 1;
	}
	epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.fd = listener});
	for (;;) {
		struct epoll_event events[256];
		int n = epoll_wait(epoll, events, 256, interval_ms ? 1 : -1);
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;
			if (fd == listener)
				conn_accept(listener, epoll);
			else if (conns[fd])
				conn_read(conns[fd]);
		}
		int64_t now = interval_ms ? now_ns() : 0;
		for (int fd = 0; interval_ms && fd <= fd_most; fd++)
			if (conns[fd])
				conn_tick(conns[fd], now);
	}
}
