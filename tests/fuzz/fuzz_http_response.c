/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_http_response.c - a server of the worst kind against the whole client side, over an in-memory connection.
 *
 * The first byte says how the rest is cut, the second what is called and how its answer is read.
 */
#include "net/http_client_internal.h"

#include <stdint.h>
#include <stdlib.h>
#include <uv.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HOW_HEAD 1
#define HOW_PAUSES 2
#define HOW_FETCH 4
#define FETCH_MAX 100

static struct loop *loop;
static struct http_client *client;
static struct http_call *running; /* NULL: over */
static size_t got;
static uint8_t how;

static void over(const struct error *err, size_t size)
{
	if (!running || (err && (err->code == 0 || !err->text[0])) || (size > 0 && how & HOW_HEAD))
		abort();
	running = NULL;
}

static bool on_head(void *arg, struct http_call *call, int status)
{
	(void)arg;
	const struct http_header *headers;
	if (status < 200 || http_call_headers(call, &headers) > 100)
		abort();
	return status != 299;
}

static void resume(void *arg)
{
	(void)arg;
	if (running)
		http_call_resume(running);
}

static bool on_data(void *arg, struct str data)
{
	(void)arg;
	got += data.len;
	if (how & HOW_PAUSES)
		loop_post(loop, resume, NULL);
	return !(how & HOW_PAUSES);
}

static void on_done(void *arg, struct http_call *call, const struct error *err)
{
	(void)arg;
	(void)call;
	over(err, got);
}

static void on_fetched(void *arg, int status, struct str body, const struct error *err)
{
	(void)arg;
	(void)status;
	if (body.len > FETCH_MAX)
		abort();
	over(err, body.len);
}

static void nothing(void *arg)
{
	(void)arg;
}

static void their_data(void *arg, struct str data)
{
	(void)arg;
	(void)data;
}

static void their_end(void *arg, const struct error *err)
{
	(void)err;
	*(bool *)arg = true;
}

static const struct conn_events their_events = {
    .on_open = nothing, .on_data = their_data, .on_end = their_end, .on_writable = nothing, .on_deadline = nothing};

static void turn(int times)
{
	while (times-- > 0)
		uv_run(loop_uv(loop), UV_RUN_NOWAIT);
}

/* A connection to us, as if it had been dialed. */
static struct conn *meet(bool *hung_up)
{
	struct origin *o = origin_get(client, false, STR("server"), 80, STR(""));
	struct link *l = link_add(o);
	struct conn *theirs;
	struct conn_options client_side = {.events = &link_events, .arg = l};
	struct conn_options server_side = {.events = &their_events, .arg = hung_up};
	conn_pair(loop, &client_side, &server_side, &l->conn, &theirs);
	link_return(l);
	l->used = false; /* a used one would be dialed again */
	return theirs;
}

static void call_server(void)
{
	struct http_call_options options = {.method = how & HOW_HEAD ? STR("HEAD") : STR("POST"),
	                                    .url = STR("http://server/"),
	                                    .body = STR("question")};
	if (how & HOW_FETCH) {
		running = http_fetch(client, &options, FETCH_MAX, on_fetched, NULL);
		return;
	}
	options.on_head = on_head;
	options.on_data = on_data;
	options.on_done = on_done;
	running = http_call_start(client, &options);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	bool hung_up = false;
	if (size < 3)
		return 0;
	if (!loop) {
		loop_new(&loop);
		client = http_client_new(loop, &(struct http_client_options){.tls = NULL});
	}
	struct conn *theirs = meet(&hung_up);
	how = data[1];
	got = 0;
	call_server();
	turn(2);
	size_t cut = data[0] < 8 ? (size_t)data[0] + 1 : (size_t)data[0] * 64;
	for (size_t at = 2; at < size && !hung_up; at += cut) {
		struct str piece = {(const char *)data + at, size - at < cut ? size - at : cut};
		conn_write(theirs, &piece, 1);
		conn_flush(theirs);
		turn(3);
	}
	turn(8);
	if (got > size)
		abort();
	conn_close(theirs);
	for (int i = 0; i < 10000 && (running || client->origins); i++)
		turn(1);
	turn(2);
	if (running || client->calls || client->origins)
		abort(); /* something outlived its server */
	return 0;
}
