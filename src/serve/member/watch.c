/* SPDX-License-Identifier: Apache-2.0 */
/* The center's event stream, opened again whenever it ends. The center sends something every 2 s, so silence for
 * SILENCE_US means a dead path. Where there are several centers the next is tried after each failure: only the one that
 * leads takes the stream. Pauses between tries grow to PAUSE_MAX_US and start small again after an event came.
 */
#include "serve/member/inside.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"

#include <stdlib.h>

#define SILENCE_US (7 * US_PER_S)
#define PAUSE_MIN_US (100 * US_PER_MS)
#define PAUSE_MAX_US (3 * US_PER_S)

static int on_event(void *arg, struct str event, struct str data)
{
	struct member *m = arg;
	m->watch_pause_us = PAUSE_MIN_US;
	if (m->watch_failing)
		log_info(ROOM, "the center is back");
	m->watch_failing = false;
	documents_take(m, event, data);
	return 0;
}

static bool on_head(void *arg, struct http_call *call, int status)
{
	struct member *m = arg;
	if (status == 200) {
		m->watch_turn = 0;
		m->center = m->watch_at;
		reports_retarget(m);
		return true;
	}
	error_set(&m->watch_error, status == 403 ? E_FORBIDDEN : E_PEER, "it answered with status %d%s", status,
	          status == 403   ? ": this node was removed, or was never part of that network"
	          : status == 503 ? ": it does not lead now"
	                          : "");
	return false;
}

static bool on_data(void *arg, struct str data)
{
	struct member *m = arg;
	if (m->watch_error.code == 0 && sse_parser_feed(&m->watch_parser, data, &m->watch_error) < 0)
		loop_timer_start(m->watch_timer, 0, 0); /* a call cannot end inside its own callback */
	return true;
}

static void again(struct member *m, const char *why)
{
	if (!m->watch_failing)
		log_warn(ROOM, "no word from the center at %s (%s); going on with what it said last, trying again",
		         m->watch_at.url, why);
	m->watch_failing = true;
	m->watch_turn++;
	sse_parser_fini(&m->watch_parser);
	loop_timer_start(m->watch_timer, member_jitter(m, m->watch_pause_us), 0);
	m->watch_pause_us = m->watch_pause_us * 2 > PAUSE_MAX_US ? PAUSE_MAX_US : m->watch_pause_us * 2;
}

static void on_done(void *arg, struct http_call *call, const struct error *failure)
{
	struct member *m = arg;
	struct error why = m->watch_error;
	m->watch_call = NULL;
	if (why.code == 0)
		error_set(&why, E_PEER, "%s", failure ? failure->text : "it ended the stream");
	again(m, why.text);
}

static void open_stream(struct member *m)
{
	struct buf url = {0}, center = {0};
	m->watch_at = member_center(m, m->watch_turn);
	buf_printf(&url, "%s/mdn/v1/watch", m->watch_at.url);
	if (m->watch_at.id[0])
		member_identity_of(m, m->watch_at.id, &center);
	m->watch_error = (struct error){0};
	sse_parser_init(&m->watch_parser, LIMIT_CONTROL_DOCUMENT, on_event, m);
	struct http_call_options options = {
	    .url = buf_str(&url),
	    .peer_identity = buf_str(&center),
	    .head_timeout_us = 5 * US_PER_S,
	    .stall_timeout_us = SILENCE_US,
	    .on_head = on_head,
	    .on_data = on_data,
	    .on_done = on_done,
	    .arg = m,
	};
	m->watch_call = http_call_start(m->client, &options);
	buf_fini(&url);
	buf_fini(&center);
}

static void on_timer(void *arg)
{
	struct member *m = arg;
	if (!m->watch_call) {
		open_stream(m);
		return;
	}
	struct error why = m->watch_error; /* the stream went wrong on our side: an event past the limit */
	http_call_cancel(m->watch_call);
	m->watch_call = NULL;
	again(m, why.text);
}

void watch_init(struct member *m)
{
	m->watch_timer = loop_timer_new(m->loop, on_timer, m);
	m->watch_pause_us = PAUSE_MIN_US;
}

void watch_start(struct member *m)
{
	loop_timer_start(m->watch_timer, 0, 0);
}

void watch_fini(struct member *m)
{
	if (m->watch_call)
		http_call_cancel(m->watch_call);
	sse_parser_fini(&m->watch_parser);
	loop_timer_free(m->watch_timer);
}
