/* SPDX-License-Identifier: Apache-2.0 */
/* One long poll per repository: GET /mdn/v1/catalog?after=SERIAL&wait_ms=N over mutual TLS, answered with the whole
 * catalog when it changed. A reply whose serial is the one we have is the wait being over. A failing repository is
 * asked again with growing pauses; what it told before stays.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>

#define WAIT_MS 20000
#define PAUSE_MIN_US (200 * US_PER_MS)
#define PAUSE_MAX_US (5 * US_PER_S)

struct feed {
	struct center *c;
	char id[NODE_ID_SIZE], url[NODE_URL_SIZE];
	bool known; /* the serial; that of an empty repository is 0 */
	uint64_t serial;
	int64_t pause_us;
	struct loop_timer *timer;
	struct http_call *call; /* in flight; NULL between */
};

static void ask(void *arg);

static int take_versions(struct feed *f, yyjson_val *versions, struct error *err)
{
	struct center *c = f->c;
	size_t i, count;
	yyjson_val *item;
	struct error why_not = {0};
	int rc = 0, bad = 0;
	c->mark++;
	bool together = state_begin(c->state, NULL) == 0; /* a first catalog may bring thousands */
	yyjson_arr_foreach(versions, i, count, item)
	{
		struct version v = {0};
		struct error why = {0};
		if (version_parse(item, &v, &why) == 0) {
			version_set(c, &v, f->id);
			version_fini(&v);
		} else if (bad++ == 0) {
			rc = error_set(err, E_PEER, "version %zu of its catalog is damaged (%s)", i, why.text);
		}
	}
	if (rc == 0)
		version_drop_unmarked(c, f->id); /* never on the word of a damaged catalog */
	if (together && state_commit(c->state, &why_not) < 0)
		log_error(ROOM, "cannot keep the catalog of repository %s: %s", f->id, why_not.text);
	places_retry(c);
	return rc;
}

static int take_catalog(struct feed *f, struct str body, struct error *err)
{
	yyjson_doc *doc;
	yyjson_val *versions = NULL;
	int64_t serial = -1;
	int rc = json_parse(body, &doc, err);
	if (rc < 0)
		return rc;
	yyjson_val *o = yyjson_doc_get_root(doc);
	if ((rc = json_i64(o, "serial", 0, INT64_MAX, &serial, err)) == 0 &&
	    (rc = json_arr(o, "versions", &versions, err)) == 0) {
		if (serial < 0 || !versions)
			rc = error_set(err, E_PEER, "its catalog lacks \"serial\" or \"versions\"");
		else if (!f->known || (uint64_t)serial != f->serial)
			rc = take_versions(f, versions, err);
		if (rc == 0) {
			f->serial = (uint64_t)serial;
			f->known = true;
		}
	}
	yyjson_doc_free(doc);
	return rc;
}

static void on_catalog(void *arg, int status, struct str body, const struct error *failure)
{
	struct feed *f = arg;
	struct error err = {0};
	int rc;
	f->call = NULL;
	if (failure)
		rc = error_set(&err, failure->code, "%s", failure->text);
	else if (status != 200)
		rc = error_set(&err, E_PEER, "it answered with status %d", status);
	else
		rc = take_catalog(f, body, &err);
	if (rc == 0) {
		f->pause_us = 0;
		loop_timer_start(f->timer, 0, 0);
		return;
	}
	if (f->pause_us == 0)
		log_warn(ROOM, "catalog of repository %s: %s; asking again", f->id, err.text);
	f->pause_us = f->pause_us == 0 ? PAUSE_MIN_US : f->pause_us * 2 > PAUSE_MAX_US ? PAUSE_MAX_US : f->pause_us * 2;
	loop_timer_start(f->timer, f->pause_us, 0);
}

static void ask(void *arg)
{
	struct feed *f = arg;
	struct buf url = {0}, identity = {0};
	buf_printf(&url, "%s/mdn/v1/catalog?after=%" PRIu64 "&wait_ms=%d", f->url, f->serial, f->known ? WAIT_MS : 0);
	center_identity(f->c, "node", f->id, &identity);
	struct http_call_options options = {
	    .url = buf_str(&url),
	    .peer_identity = buf_str(&identity),
	    .head_timeout_us = (WAIT_MS + 5000) * US_PER_MS,
	};
	f->call = http_fetch(f->c->client, &options, LIMIT_CONTROL_DOCUMENT, on_catalog, f);
	buf_fini(&url);
	buf_fini(&identity);
}

static void feed_free(struct feed *f)
{
	if (f->call)
		http_call_cancel(f->call);
	loop_timer_free(f->timer);
	free(f);
}

void feed_stop(struct registered *r)
{
	if (r->feed)
		feed_free(r->feed);
	r->feed = NULL;
}

void feeds_update(struct center *c)
{
	for (size_t i = 0; i < c->node_count; i++) {
		struct registered *r = c->nodes[i];
		bool wanted = c->client && !r->removed && (r->roles & ROLE_REPOSITORY) && r->node_url[0];
		if (r->feed && (!wanted || strcmp(r->feed->url, r->node_url) != 0))
			feed_stop(r);
		if (!wanted || r->feed)
			continue;
		struct feed *f = NEW(struct feed);
		f->c = c;
		str_copy(str_from(r->id), f->id, sizeof(f->id));
		str_copy(str_from(r->node_url), f->url, sizeof(f->url));
		f->timer = loop_timer_new(c->loop, ask, f);
		loop_timer_start(f->timer, 0, 0);
		r->feed = f;
	}
}

void feeds_again(struct center *c, const char *but_source)
{
	for (size_t i = 0; i < c->node_count; i++) {
		struct feed *f = c->nodes[i]->feed;
		if (!f || strcmp(f->id, but_source) == 0)
			continue;
		f->known = false;
		f->pause_us = 0;
		if (f->call) {
			http_call_cancel(f->call);
			f->call = NULL;
		}
		loop_timer_start(f->timer, 0, 0);
	}
}
