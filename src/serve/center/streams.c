/* SPDX-License-Identifier: Apache-2.0 */
/* Event streams out: `watch` (a node's roster and assignment) and `events` (progress of a model, for people).
 *
 * Documents are whole, so a slow reader needs no queue: while its connection is full nothing is written to it, and once
 * it is writable it gets the newest of each. One that stays full for STUCK_US is cut; it comes back and starts anew.
 * The roster is formatted once per revision for all; an assignment per node, sent when its hash differs from what the
 * stream last had.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/limits.h"
#include "base/log.h"
#include "net/sse.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define STUCK_US (20 * US_PER_S)
#define REVISIONS_AHEAD 1024

struct stream {
	struct http_exchange *x;
	bool full;
	int64_t full_since_us;
};

struct watcher {
	struct center *c;
	struct stream out;
	struct registered *node;
	uint64_t roster_sent; /* revision; 0: none yet */
	struct digest assign_sent, spread_sent;
	bool drain, ended;
	struct watcher *next;
};

struct progress {
	struct center *c;
	struct stream out;
	char name_tag[NAME_TAG_SIZE];
	struct digest sent;
	bool ended;
	struct progress *next;
};

static void stream_write(struct center *c, struct stream *s, struct buf *text)
{
	if (text->len && !http_write(s->x, buf_str(text))) {
		s->full = true;
		s->full_since_us = loop_now_us(c->loop);
	}
}

static bool stream_stuck(const struct center *c, const struct stream *s)
{
	return s->full && loop_now_us(c->loop) - s->full_since_us > STUCK_US;
}

/* ---- watch --------------------------------------------------------------------------------------------- */

static void append_assign(struct watcher *w, struct buf *out)
{
	struct buf models = {0}, document = {0};
	places_assign(w->c, w->node, &models);
	struct digest d = digest_of(models.base, models.len);
	if (!digest_equal(&d, &w->assign_sent)) {
		w->assign_sent = d;
		buf_printf(&document, "{\"version\":%" PRIu64 ",", w->c->revision);
		buf_append_str(&document, buf_str(&models));
		buf_append_str(&document, STR("}"));
		sse_append(out, STR("assign"), buf_str(&document));
	}
	buf_fini(&models);
	buf_fini(&document);
}

/* Comes before the assignment, so that a fetch begins with it. */
static void append_spread(struct watcher *w, struct buf *out)
{
	struct buf places = {0}, document = {0};
	spreads_format(w->c, w->node, &places);
	struct digest d = digest_of(places.base, places.len);
	bool first = digest_equal(&w->spread_sent, &(struct digest){0}); /* nothing is no news then */
	if (!digest_equal(&d, &w->spread_sent) && !(first && str_equal(buf_str(&places), STR("\"spread\":[]")))) {
		w->spread_sent = d;
		buf_printf(&document, "{\"version\":%" PRIu64 "," STR_FMT "}", w->c->revision,
		           STR_ARG(buf_str(&places)));
		sse_append(out, STR("spread"), buf_str(&document));
	}
	buf_fini(&places);
	buf_fini(&document);
}

static void watcher_send(struct watcher *w)
{
	struct buf out = {0};
	if (w->out.full || w->ended)
		return;
	if (w->roster_sent != w->c->roster_revision) {
		w->roster_sent = w->c->roster_revision;
		sse_append(&out, STR("roster"), buf_str(&w->c->roster));
	}
	append_spread(w, &out);
	append_assign(w, &out);
	if (w->drain)
		sse_append(&out, STR("drain"), STR("{}"));
	w->drain = false;
	stream_write(w->c, &w->out, &out);
	buf_fini(&out);
}

static void on_watcher_writable(void *arg)
{
	struct watcher *w = arg;
	w->out.full = false;
	watcher_send(w);
}

static void on_watcher_gone(void *arg)
{
	struct watcher *w = arg, **at = &w->c->watchers;
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	w->c->watcher_count--;
	if (w->node && w->node->watcher == w)
		w->node->watcher = NULL;
	free(w);
}

/* Cuts its connection; on_watcher_gone frees. */
static void watcher_cut(struct watcher *w)
{
	if (w->ended)
		return;
	w->ended = true;
	if (w->node && w->node->watcher == w)
		w->node->watcher = NULL;
	w->node = NULL;
	http_abort(w->out.x);
}

void streams_end(struct registered *r)
{
	if (r->watcher)
		watcher_cut(r->watcher);
}

void streams_watch(struct center *c, struct http_exchange *x, struct registered *r)
{
	struct error err = {0};
	streams_end(r); /* the newer connection of a node counts; the older one is half open or about to go */
	if (c->watcher_count >= LIMIT_NODES) {
		error_set(&err, E_UNAVAILABLE, "%zu nodes are watching, the most there can be", c->watcher_count);
		http_respond_error(x, &err);
		return;
	}
	struct watcher *w = NEW(struct watcher);
	*w = (struct watcher){.c = c, .out = {.x = x}, .node = r, .next = c->watchers};
	c->watchers = w;
	c->watcher_count++;
	r->watcher = w;
	http_respond_begin(x, 200, "text/event-stream", -1);
	http_watch(x, on_watcher_writable, on_watcher_gone, w);
	watcher_send(w);
}

void streams_end_all(struct center *c)
{
	for (struct watcher *w = c->watchers, *next; w; w = next) {
		next = w->next;
		watcher_cut(w);
	}
	for (struct progress *p = c->progresses, *next; p; p = next) {
		next = p->next;
		if (!p->ended)
			http_abort(p->out.x);
		p->ended = true;
	}
}

int streams_drain(struct center *c, struct registered *r, struct error *err)
{
	if (!r->watcher)
		return error_set(err, E_UNAVAILABLE,
		                 "node %s is not connected to the center now: nothing was told to it", r->name);
	r->watcher->drain = true;
	watcher_send(r->watcher);
	log_info(ROOM, "node %s (%s) is told to drain", r->id, r->name);
	return 0;
}

/* ---- the roster ------------------------------------------------------------------------------------------ */

static void append_node(const struct registered *r, bool first, struct buf *out)
{
	struct buf roles = {0};
	node_roles_format(r->roles, &roles);
	buf_printf(out, "%s{\"id\":\"%s\",\"name\":\"%s\",\"site\":\"%s\",\"roles\":\"" STR_FMT "\",\"node_url\":",
	           first ? "" : ",", r->id, r->name, r->site, STR_ARG(buf_str(&roles)));
	buf_append_json(out, str_from(r->node_url));
	buf_append_str(out, STR(",\"api_url\":"));
	buf_append_json(out, str_from(r->api_url));
	buf_printf(out, ",\"state\":\"%s\"}", node_state_name(r->state));
	buf_fini(&roles);
}

/* Everything of the roster behind its version. Nodes that never said their URL cannot be reached and are left out. */
static void roster_body(const struct center *c, struct buf *out)
{
	bool first = true;
	buf_printf(out, ",\"domain\":\"%s\",\"nodes\":[", c->self.domain);
	for (size_t i = 0; i < c->node_count; i++) {
		if (c->nodes[i]->removed || !c->nodes[i]->node_url[0])
			continue;
		append_node(c->nodes[i], first, out);
		first = false;
	}
	buf_append_str(out, STR("],\"removed\":["));
	first = true;
	for (size_t i = 0; i < c->node_count; i++) {
		if (!c->nodes[i]->removed)
			continue;
		buf_printf(out, "%s\"%s\"", first ? "" : ",", c->nodes[i]->id);
		first = false;
	}
	buf_append_str(out, STR("]"));
	keys_roster(c, out);
	buf_append_str(out, STR("}"));
}

/* No version goes out that is not below one written down, so that it never goes back; many at a time, so that the loop
 * seldom waits for the disk. */
static bool next_revision(struct center *c)
{
	struct error err = {0};
	char text[24];
	if (c->revision == c->revisions_kept) {
		uint64_t ahead = c->revision + REVISIONS_AHEAD;
		size_t len = (size_t)snprintf(text, sizeof(text), "%" PRIu64, ahead);
		if (state_put(c->state, "meta", STR("revision"), (struct str){text, len}, &err) < 0) {
			log_error(ROOM, "no new documents go out, trying on: %s", err.text);
			return false;
		}
		c->revisions_kept = ahead;
	}
	c->revision++;
	return true;
}

static struct str after_version(const struct buf *document)
{
	const char *comma = document->len ? memchr(document->base, ',', document->len) : NULL;
	return comma ? (struct str){comma, (size_t)(document->base + document->len - comma)} : (struct str){0};
}

bool streams_flush(struct center *c)
{
	struct buf body = {0};
	if (!next_revision(c))
		return false;
	roster_body(c, &body);
	if (!str_equal(after_version(&c->roster), buf_str(&body))) {
		c->roster_revision = c->revision;
		buf_clear(&c->roster);
		buf_printf(&c->roster, "{\"version\":%" PRIu64, c->revision);
		buf_append_str(&c->roster, buf_str(&body));
	}
	buf_fini(&body);
	spreads_refresh(c);
	for (struct watcher *w = c->watchers, *next; w; w = next) {
		next = w->next;
		watcher_send(w);
	}
	return true;
}

/* ---- events: progress of a model ---------------------------------------------------------------------------- */

static void progress_send(struct progress *p)
{
	struct buf document = {0}, out = {0};
	struct error err = {0};
	if (p->out.full || p->ended)
		return;
	if (models_format(p->c, str_from(p->name_tag), &document, &err) < 0) { /* it left its repository */
		p->ended = true;
		http_end(p->out.x);
		buf_fini(&document);
		return;
	}
	struct digest d = digest_of(document.base, document.len);
	if (!digest_equal(&d, &p->sent)) {
		p->sent = d;
		sse_append(&out, STR("progress"), buf_str(&document));
		stream_write(p->c, &p->out, &out);
	}
	buf_fini(&document);
	buf_fini(&out);
}

static void on_progress_writable(void *arg)
{
	struct progress *p = arg;
	p->out.full = false;
	p->c->progress_stale = true; /* the next tick sends, so that the rate stays bounded */
}

static void on_progress_gone(void *arg)
{
	struct progress *p = arg, **at = &p->c->progresses;
	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	p->c->progress_count--;
	free(p);
}

int streams_events(struct center *c, struct http_exchange *x, struct error *err)
{
	struct str model;
	struct buf document = {0};
	char name_tag[NAME_TAG_SIZE];
	int rc;
	if (!http_query(x, "model", &model))
		return error_set(err, E_INVAL, "say which model: /mdn/v1/events?model=NAME:TAG");
	if ((rc = places_name_tag(model, name_tag, err)) < 0)
		return rc;
	rc = models_format(c, str_from(name_tag), &document, err);
	buf_fini(&document);
	if (rc < 0)
		return rc;
	if (c->progress_count >= LIMIT_SSE_WATCHERS)
		return error_set(err, E_UNAVAILABLE, "%zu event streams are open, the most there can be",
		                 c->progress_count);
	struct progress *p = NEW(struct progress);
	*p = (struct progress){.c = c, .out = {.x = x}, .next = c->progresses};
	str_copy(str_from(name_tag), p->name_tag, sizeof(p->name_tag));
	c->progresses = p;
	c->progress_count++;
	http_respond_begin(x, 200, "text/event-stream", -1);
	http_watch(x, on_progress_writable, on_progress_gone, p);
	progress_send(p);
	return 0;
}

void streams_tick(struct center *c)
{
	if (!c->progress_stale)
		return;
	c->progress_stale = false;
	for (struct progress *p = c->progresses, *next; p; p = next) {
		next = p->next;
		progress_send(p);
	}
}

void streams_beat(struct center *c)
{
	struct buf beat = {0};
	buf_append_str(&beat, STR(":\n\n"));
	for (struct watcher *w = c->watchers, *next; w; w = next) {
		next = w->next;
		if (stream_stuck(c, &w->out))
			watcher_cut(w);
		else if (!w->out.full && !w->ended)
			stream_write(c, &w->out, &beat);
	}
	for (struct progress *p = c->progresses, *next; p; p = next) {
		next = p->next;
		if (stream_stuck(c, &p->out) && !p->ended) {
			p->ended = true;
			http_abort(p->out.x);
		} else if (!p->out.full && !p->ended) {
			stream_write(c, &p->out, &beat);
		}
	}
	buf_fini(&beat);
}
