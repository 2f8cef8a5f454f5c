/* SPDX-License-Identifier: Apache-2.0 */
/* server.c - our HTTP server with a handler that tells what it was asked: what tests of the wire talk to.
 *
 *   server [head=MS] [idle=MS] [stall=MS] [conns=N] [ahead=BYTES] [unread=BYTES] [cert=FILE key=FILE]
 *
 * Prints its address. Each request is one more line, "METHOD TARGET BODY-BYTES VIA" (VIA: the header x-front, which a
 * proxy in front sets, else "-"), which is its answer, too. GET /stream is answered with small events until the client
 * is gone, GET /flood with as much as the client takes. SIGHUP reads the certificate again, SIGUSR1 refuses new
 * clients, and the end of standard input ends it.
 */
#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "net/http.h"
#include "net/tls.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct stream {
	struct http_exchange *x;
	struct loop_timer *timer;
};

static struct {
	struct loop *loop;
	struct http_server *server;
	struct tls_context *tls;
	const char *cert, *key;
} front;

static char block[65536];

static void die(const char *what, const struct error *err)
{
	fprintf(stderr, "server: %s: %s\n", what, err->text);
	exit(1);
}

static void tell(struct http_exchange *x, size_t body_bytes)
{
	struct str via = STR("-"), method = http_method(x), target = http_target(x);
	struct buf line = {0};
	http_header(x, "x-front", &via);
	buf_printf(&line, STR_FMT " " STR_FMT " %zu " STR_FMT "\n", STR_ARG(method), STR_ARG(target), body_bytes,
	           STR_ARG(via));
	fwrite(line.base, 1, line.len, stdout);
	fflush(stdout);
	http_respond(x, 200, "text/plain", buf_str(&line));
	buf_fini(&line);
}

static void on_body(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	if (err)
		http_respond_error(x, err);
	else
		tell(x, body.len);
}

static void flood(void *arg)
{
	struct stream *s = arg;
	while (http_write(s->x, (struct str){block, sizeof(block)}))
		;
}

static void event(void *arg)
{
	struct stream *s = arg;
	http_write(s->x, STR("data: {\"choices\":[{\"delta\":{\"content\":\"word\"}}]}\n\n"));
}

static void stream_gone(void *arg)
{
	struct stream *s = arg;
	loop_timer_free(s->timer);
	puts("gone");
	fflush(stdout);
}

static void on_request(void *arg, struct http_exchange *x)
{
	bool floods = str_equal(http_path(x), STR("/flood"));
	if (floods || str_equal(http_path(x), STR("/stream"))) {
		struct stream *s = http_alloc(x, sizeof(*s));
		s->x = x;
		http_watch(x, floods ? flood : NULL, stream_gone, s);
		http_respond_begin(x, 200, "text/event-stream", -1);
		if (floods) {
			flood(s);
			return;
		}
		s->timer = loop_timer_new(front.loop, event, s);
		loop_timer_start(s->timer, 0, 5 * US_PER_MS);
	} else if (http_has_body(x)) {
		http_body_collect(x, 1 << 20, on_body, NULL);
	} else {
		tell(x, 0);
	}
}

static int read_certificate(struct buf pem[2], struct tls_options *ret_options, struct error *err)
{
	int rc = file_read(front.cert, 1 << 20, &pem[0], err);
	if (rc == 0)
		rc = file_read(front.key, 1 << 20, &pem[1], err);
	*ret_options =
	    (struct tls_options){.cert_pem = buf_str(&pem[0]), .key_pem = buf_str(&pem[1]), .any_version = true};
	return rc;
}

/* First, and again on SIGHUP. */
static void load_certificate(void *arg)
{
	struct buf pem[2] = {0};
	struct tls_options o;
	struct error err;
	int rc = read_certificate(pem, &o, &err);
	if (rc == 0)
		rc = front.tls ? tls_context_replace(front.tls, &o, &err) : tls_context_new(&o, &front.tls, &err);
	if (rc != 0 && !front.tls)
		die("certificate", &err);
	if (arg)
		printf("reloaded: %s\n", rc == 0 ? "yes" : err.text);
	fflush(stdout);
	buf_fini(&pem[0]);
	buf_fini(&pem[1]);
}

static void refuse_new(void *arg)
{
	http_server_refuse_new(front.server);
	puts("refusing");
	fflush(stdout);
}

static void wait_for_end(void *arg)
{
	char c;
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
}

static void ended(void *arg)
{
	loop_stop(front.loop);
}

static void take_option(const char *text, struct http_server_options *o)
{
	struct str value = {0}, key = str_cut(str_from(text), '=', &value);
	uint64_t n = 0;
	str_to_u64(value, &n);
	if (str_equal(key, STR("head")))
		o->head_timeout_us = (int64_t)n * US_PER_MS;
	else if (str_equal(key, STR("idle")))
		o->idle_us = (int64_t)n * US_PER_MS;
	else if (str_equal(key, STR("stall")))
		o->stall_timeout_us = (int64_t)n * US_PER_MS;
	else if (str_equal(key, STR("conns")))
		o->conns_max = n;
	else if (str_equal(key, STR("ahead")))
		o->ahead_max = n;
	else if (str_equal(key, STR("unread")))
		o->unread_max = n;
	else if (str_equal(key, STR("cert")))
		front.cert = value.base;
	else if (str_equal(key, STR("key")))
		front.key = value.base;
	else
		exit(2);
}

int main(int argc, char **argv)
{
	struct http_server_options o = {.address = STR("127.0.0.1:0"), .inherited_fd = -1, .handler = on_request};
	struct error err;
	for (int i = 1; i < argc; i++)
		take_option(argv[i], &o);
	loop_new(&front.loop);
	if (front.cert)
		load_certificate(NULL);
	o.tls = front.tls;
	if (http_server_new(front.loop, &o, &front.server, &err) < 0)
		die("listen", &err);
	loop_on_signal(front.loop, SIGHUP, load_certificate, &front);
	loop_on_signal(front.loop, SIGUSR1, refuse_new, NULL);
	loop_job(front.loop, wait_for_end, ended, NULL);
	struct str at = http_server_address(front.server);
	printf(STR_FMT "\n", STR_ARG(at));
	fflush(stdout);
	loop_run(front.loop);
	http_server_free(front.server);
	tls_context_free(front.tls);
	loop_free(front.loop);
	return 0;
}
