/* SPDX-License-Identifier: Apache-2.0 */
/* http_client.c - connections per origin: used again, bounded, watched while idle.
 *
 * The last used idle link is taken first, so that surplus ones age and close. Any byte or end on an idle link closes
 * it. A call dials a link of its own when none is idle and the origin has room; else it waits, in order.
 */
#include "net/http_client_internal.h"
#include "net/http_server_internal.h"

#include "base/clock.h"
#include "base/limits.h"

#include <stdio.h>
#include <stdlib.h>

#define WAIT_TICK_US 20000

/* ---- origins ---- */

static bool origin_is(const struct origin *o, bool tls, struct str host, uint16_t port, struct str identity)
{
	return o->port == port && o->tls == tls && str_equal(str_from(o->identity), identity) &&
	       str_equal_nocase(str_from(o->host), host);
}

struct origin *origin_get(struct http_client *client, bool tls, struct str host, uint16_t port, struct str identity)
{
	struct origin **at = &client->origins, *o;
	while ((o = *at) && !origin_is(o, tls, host, port, identity))
		at = &o->next;
	if (o) {
		*at = o->next; /* to the front: the busy ones are found first */
	} else {
		o = NEW(struct origin);
		o->client = client;
		o->host = str_dup(host);
		o->identity = str_dup(identity);
		o->port = port;
		o->tls = tls;
		o->waiting_tail = &o->waiting;
	}
	o->next = client->origins;
	client->origins = o;
	return o;
}

static void origin_free(struct origin *o)
{
	struct origin **at = &o->client->origins;
	while (*at != o)
		at = &(*at)->next;
	*at = o->next;
	free(o->host);
	free(o->identity);
	free(o);
}

/* An origin nobody uses is forgotten, so that many hosts called once do not add up. */
static void origin_settle(struct origin *o)
{
	if (o->links || o->waiting)
		return;
	for (struct http_call *call = o->client->calls; call; call = call->next)
		if (call->origin == o)
			return;
	origin_free(o);
}

/* ---- links ---- */

static void link_free_task(void *arg)
{
	struct link *l = arg;
	buf_fini(&l->rest);
	free(l);
}

static void link_feed_task(void *arg)
{
	struct link *l = arg;
	if (l->call)
		call_feed(l->call, buf_str(&l->rest), true);
}

struct link *link_add(struct origin *o)
{
	struct link *l = NEW(struct link);
	l->origin = o;
	loop_task_init(&l->feed_task, link_feed_task, l);
	loop_task_init(&l->free_task, link_free_task, l);
	l->next = o->links;
	if (l->next)
		l->next->prev = l;
	o->links = l;
	o->link_count++;
	return l;
}

static struct link *link_dial(struct origin *o)
{
	struct link *l = link_add(o);
	const struct http_client_options *options = &o->client->options;
	struct conn_options dial = {.tls = o->tls ? options->tls : NULL,
	                            .stall_us = 60 * US_PER_S,
	                            .events = &link_events,
	                            .arg = l,
	                            .host = str_from(o->host),
	                            .port = o->port,
	                            .peer_identity = str_from(o->identity),
	                            .connect_timeout_us = options->connect_timeout_us,
	                            .background = options->background};
	l->conn = options->inside ? server_connect(options->inside, &dial) : conn_dial(o->client->loop, &dial);
	return l;
}

static void link_unidle(struct link *l)
{
	if (!l->idle)
		return;
	struct link **at = &l->origin->idle;
	while (*at != l)
		at = &(*at)->idle_next;
	*at = l->idle_next;
	l->idle = false;
}

static void origin_serve(struct origin *o);

void link_close(struct link *l)
{
	if (!l->conn)
		return;
	struct origin *o = l->origin;
	conn_close(l->conn);
	l->conn = NULL;
	l->call = NULL;
	link_unidle(l);
	if (l->prev)
		l->prev->next = l->next;
	else
		o->links = l->next;
	if (l->next)
		l->next->prev = l->prev;
	o->link_count--;
	loop_task_cancel(&l->feed_task);
	loop_task_add(o->client->loop, &l->free_task);
	origin_serve(o);
	origin_settle(o);
}

void link_return(struct link *l)
{
	l->call = NULL;
	l->used = true;
	l->idle = true;
	l->scanned = 0;
	buf_fini(&l->rest);
	l->idle_next = l->origin->idle;
	l->origin->idle = l;
	conn_resume(l->conn);
	conn_deadline(l->conn, loop_now_us(l->origin->client->loop) + l->origin->client->options.idle_us);
	origin_serve(l->origin);
}

/* ---- the queue ---- */

static bool origin_try(struct origin *o, struct http_call *call)
{
	struct link *l = o->idle;
	if (l)
		link_unidle(l);
	else if (o->link_count < o->client->options.conns_per_origin)
		l = link_dial(o);
	if (l)
		call_begin(call, l);
	return l != NULL;
}

static void origin_serve(struct origin *o)
{
	while (o->waiting && (o->idle || o->link_count < o->client->options.conns_per_origin)) {
		struct http_call *call = o->waiting;
		origin_forget(call);
		origin_try(o, call);
	}
}

void origin_assign(struct http_call *call)
{
	struct origin *o = call->origin;
	if (!o->waiting && origin_try(o, call))
		return;
	call->waiting = true;
	call->wait_next = NULL;
	*o->waiting_tail = call;
	o->waiting_tail = &call->wait_next;
	client_wait_tick(o->client);
}

void origin_forget(struct http_call *call)
{
	struct origin *o = call->origin;
	if (!call->waiting)
		return;
	call->waiting = false;
	struct http_call **at = &o->waiting;
	while (*at != call)
		at = &(*at)->wait_next;
	*at = call->wait_next;
	if (!call->wait_next)
		o->waiting_tail = at;
}

static void client_waited(void *arg)
{
	struct http_client *client = arg;
	int64_t now = loop_now_us(client->loop);
	client->wait_timed = false;
	bool more = false;
	struct http_call *next;
	for (struct http_call *call = client->calls; call; call = next) {
		next = call->next;
		if (!call->waiting)
			continue;
		if (now < call->deadline_us) {
			more = true;
			continue;
		}
		call->unsent = true;
		/* on_done may end other calls: look again from the start, next turn */
		call_fail(call, E_TIMEOUT, "all connections to " STR_FMT " stayed busy", STR_ARG(call->options.url));
		more = true;
		break;
	}
	if (more)
		client_wait_tick(client);
}

void client_wait_tick(struct http_client *client)
{
	if (client->wait_timed)
		return;
	client->wait_timed = true;
	loop_timer_start(client->wait_timer, WAIT_TICK_US, 0);
}

/* ---- the connection's events ---- */

static void link_open(void *arg)
{
	struct link *l = arg;
	(void)l; /* the request waits corked in the connection and leaves by itself */
}

static void link_data(void *arg, struct str data)
{
	struct link *l = arg;
	if (!l->call) {
		link_close(l); /* nobody asked */
		return;
	}
	if (l->rest.len == 0) {
		call_feed(l->call, data, false);
		return;
	}
	buf_append_str(&l->rest, data);
	call_feed(l->call, buf_str(&l->rest), true);
}

static char *link_room(void *arg, size_t *ret_size)
{
	struct link *l = arg;
	return l->call && !l->rest.len ? call_room(l->call, ret_size) : NULL;
}

static void link_end(void *arg, const struct error *err)
{
	struct link *l = arg;
	if (l->call)
		call_lost(l->call, err);
	else
		link_close(l);
}

static void link_writable(void *arg)
{
	struct link *l = arg;
	if (l->call)
		call_writable(l->call);
}

static void link_deadline(void *arg)
{
	struct link *l = arg;
	if (l->call)
		call_deadline(l->call);
	else
		link_close(l);
}

const struct conn_events link_events = {
    .on_open = link_open,
    .on_data = link_data,
    .on_room = link_room,
    .on_end = link_end,
    .on_writable = link_writable,
    .on_deadline = link_deadline,
};

/* ---- the client ---- */

struct http_client *http_client_new(struct loop *loop, const struct http_client_options *options)
{
	struct http_client *client = NEW(struct http_client);
	client->loop = loop;
	client->options = *options;
	if (!client->options.conns_per_origin)
		client->options.conns_per_origin = 64;
	if (!client->options.connect_timeout_us)
		client->options.connect_timeout_us = 3 * US_PER_S;
	if (!client->options.idle_us)
		client->options.idle_us = 60 * US_PER_S;
	client->wait_timer = loop_timer_new(loop, client_waited, client);
	return client;
}

void http_client_free(struct http_client *client)
{
	if (!client)
		return;
	while (client->calls)
		call_fail(client->calls, E_CANCELED, "the program is stopping");
	while (client->origins) {
		struct origin *o = client->origins;
		while (client->origins == o && o->links)
			link_close(o->links);
		if (client->origins == o)
			origin_free(o);
	}
	loop_timer_free(client->wait_timer);
	free(client);
}

static struct link *link_of(struct http_client *client, struct str identity)
{
	for (struct origin *o = client->origins; o; o = o->next) {
		bool whole = str_equal(str_from(o->identity), identity); /* those that still dial, too */
		for (struct link *l = o->links; l; l = l->next)
			if (whole || str_equal(str_from(conn_identity(l->conn)), identity))
				return l;
	}
	return NULL;
}

size_t http_client_cut(struct http_client *client, struct str identity)
{
	size_t count = 0;
	struct link *l;
	/* Ending a call runs its on_done, which may change the lists: look from the start each time. */
	while (identity.len && (l = link_of(client, identity))) {
		count++;
		if (l->call)
			call_fail(l->call, E_PEER, STR_FMT " was cut off", STR_ARG(identity));
		else
			link_close(l);
	}
	return count;
}
