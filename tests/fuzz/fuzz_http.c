/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_http.c - a client of the worst kind against the whole server side, over an in-memory connection.
 *
 * The first byte says how the rest is cut; handlers read bodies in each way there is, by the path's first letter.
 */
#include "net/http_server_internal.h"

#include <stdint.h>
#include <stdlib.h>
#include <uv.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct loop *loop;
static struct http_server *server;
static struct buf answers;
static bool ended;

static void collected(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	(void)arg;
	if (err)
		http_respond_error(x, err);
	else
		http_respond(x, 200, "text/plain", body);
}

static struct http_exchange *reading; /* the one whose body is read in pieces; one connection has one at a time */

static void gone(void *arg)
{
	(void)arg;
	reading = NULL;
}

static void resume(void *arg)
{
	(void)arg;
	if (reading)
		http_body_resume(reading);
}

static bool body_data(void *arg, struct str data)
{
	struct http_exchange *x = arg;
	http_write(x, data);
	loop_post(loop, resume, NULL); /* each piece pauses */
	return false;
}

static void body_done(void *arg, const struct error *err)
{
	if (err)
		http_abort(arg);
	else
		http_end(arg);
}

static void handler(void *arg, struct http_exchange *x)
{
	(void)arg;
	struct str path = http_path(x), value;
	char kind = path.len > 1 ? path.base[1] : ' ';
	http_query(x, "q", &value);
	if (path.len == 0 || http_method(x).len == 0 || http_target(x).len == 0)
		abort();
	if (memmem(path.base, path.len, "/../", 4))
		abort();
	if (kind == 'c') {
		http_body_collect(x, 1000, collected, NULL);
	} else if (kind == 's') {
		http_respond_begin(x, 200, NULL, -1);
		http_body_collect(x, 1000, collected, NULL);
		http_abort(x);
	} else if (kind == 'p') {
		reading = x;
		http_watch(x, NULL, gone, NULL);
		http_respond_begin(x, 200, NULL, -1);
		http_body_read(x, 5000, body_data, body_done, x);
	} else if (kind == 'a') {
		http_abort(x);
	} else {
		http_respond(x, 200, "text/plain", path);
	}
}

static void client_data(void *arg, struct str data)
{
	(void)arg;
	buf_append_str(&answers, data);
}

static void client_end(void *arg, const struct error *err)
{
	(void)arg;
	(void)err;
	ended = true;
}

static void nothing(void *arg)
{
	(void)arg;
}

static const struct conn_events client_events = {
    .on_open = nothing, .on_data = client_data, .on_end = client_end, .on_writable = nothing, .on_deadline = nothing};

static void turn(int times)
{
	while (times-- > 0)
		uv_run(loop_uv(loop), UV_RUN_NOWAIT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	if (!loop) {
		loop_new(&loop);
		server = http_server_bare(loop, &(struct http_server_options){.inherited_fd = -1, .handler = handler});
	}
	struct session *s = session_new(server);
	struct conn *ours, *theirs;
	struct conn_options server_side = {.events = &session_events, .arg = s};
	struct conn_options client_side = {.events = &client_events};
	conn_pair(loop, &server_side, &client_side, &ours, &theirs);
	session_begin(s, ours);
	buf_clear(&answers);
	ended = false;
	size_t cut = data[0] < 8 ? (size_t)data[0] + 1 : (size_t)data[0] * 64;
	for (size_t at = 1; at < size && !ended; at += cut) {
		struct str piece = {(const char *)data + at, size - at < cut ? size - at : cut};
		conn_write(theirs, &piece, 1);
		conn_flush(theirs);
		turn(3);
	}
	turn(8);
	if (answers.len >= 9 && memcmp(answers.base, "HTTP/1.1 ", 9) != 0)
		abort();
	conn_close(theirs);
	for (int i = 0; i < 10000 && (reading || server->session_count); i++)
		turn(1);
	turn(2);
	if (http_server_exchanges(server) != 0 || server->session_count != 0)
		abort(); /* something outlived its client */
	return 0;
}
