/* SPDX-License-Identifier: Apache-2.0 */
/* How: a request whose model is not loaded keeps its place in the gateway's list and looks again whenever something
 * settles, and at every tick; looking again asks for the model again (models_room.c). Nothing is sent meanwhile, so
 * that another node may still take it. Only a stream that no other node could take is told of the progress, as
 * comments that event stream readers skip ("WHATWG HTML", 9.2.6), after PATIENCE_US: from then on it is bound to this
 * node, and what fails is an event in the stream. Waiting is bounded in number and time.
 */
#include "serve/gateway/internal.h"

#include <stdio.h>

#define WAIT_MOST_US (120 * US_PER_S) /* a large model takes its time to load */
#define PATIENCE_US (2 * US_PER_S)
#define TELL_US (1 * US_PER_S)

void request_wait_end(struct request *r)
{
	if (!r->waits)
		return;
	r->waits = false;
	r->g->waiting--;
}

/* May end r. */
static void refuse(struct request *r, const struct model *m)
{
	struct fault fault = {.dropped = "rejected-saturated"};
	int64_t us = model_load_us(m);

	error_set(&fault.err, E_UNAVAILABLE, "The model '%s' is being loaded and %u requests wait for models already",
	          m->name, r->g->waiting);
	fault.retry_after_s = (int)(us / US_PER_S) + 2;
	request_fail(r, &fault);
}

static bool hears_comments(const struct request *r)
{
	return r->in.stream && !r->hop && str_starts(str_from(r->dialect->stream_type), STR("text/event-stream"));
}

/* May end r. */
static void tell(struct request *r, const struct model *m, int64_t now)
{
	struct gateway *g = r->g;
	char line[NODE_TEXT_SIZE + 48];
	int percent = (int)(model_progress(m) * 100);

	r->told_us = now;
	if (!r->head_sent) {
		r->head_sent = true;
		request_name_node(r, str_from(g->id), str_from(g->name), str_from(g->site));
		http_add_header(r->x, "cache-control", STR("no-cache"));
		http_add_header(r->x, "x-accel-buffering", STR("no"));
		http_respond_begin(r->x, 200, r->dialect->stream_type, -1);
	}
	if (m->state == MODEL_LOADING)
		snprintf(line, sizeof(line), ": loading %s %d %%\n\n", m->name, percent);
	else
		snprintf(line, sizeof(line), ": waiting for memory to load %s\n\n", m->name);
	http_write(r->x, str_from(line));
}

bool request_wait(struct request *r, struct model *m, bool alone)
{
	int64_t now = loop_now_us(r->g->loop);

	if (r->parked_us && now - r->parked_us > WAIT_MOST_US)
		return false;
	if (!r->waits && r->g->waiting >= LIMIT_MODEL_WAITERS) {
		refuse(r, m);
		return true;
	}
	if (!r->waits) {
		r->waits = true;
		r->g->waiting++;
	}
	if (!r->parked_us)
		r->parked_us = now;
	model_want(m);
	if (alone && hears_comments(r) && now - r->parked_us >= PATIENCE_US && now - r->told_us >= TELL_US)
		tell(r, m, now);
	return true;
}

void requests_unpark(struct gateway *g)
{
	for (struct request *r = g->requests, *next; r && g->waiting; r = next) {
		next = r->next; /* only r may end */
		if (!r->waits || r->finished)
			continue;
		if (r->hop)
			request_answer_hop(r);
		else
			request_dispatch(r);
	}
}
