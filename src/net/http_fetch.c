/* SPDX-License-Identifier: Apache-2.0 */
/* http_fetch.c - a call that collects its answer in memory. */
#include "net/http_client_internal.h"

#include <stdlib.h>

struct fetch {
	struct http_call *call;
	http_fetch_done *on_done;
	void *arg;
	struct buf body;
	bool too_large;
};

static bool fetch_data(void *arg, struct str data)
{
	struct fetch *f = arg;
	buf_append_str(&f->body, data);
	if (f->body.failed)
		call_fail(f->call, E_PEER, STR_FMT " answered with more than %zu bytes", STR_ARG(f->call->options.url),
		          f->body.max);
	return true;
}

static void fetch_done(void *arg, struct http_call *call, const struct error *err)
{
	struct fetch *f = arg;
	f->on_done(f->arg, http_call_status(call), buf_str(&f->body), err);
}

struct http_call *http_fetch(struct http_client *client, const struct http_call_options *options, size_t max_bytes,
                             http_fetch_done *on_done, void *arg)
{
	struct fetch *f = NEW(struct fetch);
	*f = (struct fetch){.on_done = on_done, .arg = arg, .body = {.max = max_bytes}};
	struct http_call_options own = *options;
	own.on_head = NULL;
	own.on_data = fetch_data;
	own.on_done = fetch_done;
	own.arg = f;
	f->call = http_call_start(client, &own);
	f->call->fetch = f;
	return f->call;
}

void http_fetch_free(struct fetch *f)
{
	if (!f)
		return;
	buf_fini(&f->body);
	free(f);
}
