/* SPDX-License-Identifier: Apache-2.0 */
/* Several centers, one state in etcd, one leader. A center that is elected loads all of it and begins, as after a
 * restart; one that is no longer stops what runs and tells its nodes by ending their streams, so that they look for the
 * next. When etcd is gone nobody leads: nodes go on with the last documents, and the center that led shows what it has
 * loaded. Elected again it loads anew, since another may have led in between.
 *
 * Below mdn/DOMAIN/PIN/ (PIN: the first 16 digits of the CA key's hash): `leader`, and state/SPACE/KEY.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"

#include <stdlib.h>

#define LOOK_US (100 * US_PER_MS)

struct lead {
	struct center *c;
	struct election *election;
	struct election_view view; /* as last looked at */
	struct etcd_options etcd;
	char *prefix, *leader_key, *db; /* db: the center.db of a network that had no etcd */
	int64_t revision;               /* under which all was loaded and is written; 0: none */
	bool lost;                      /* a write failed */
	bool said;                      /* in the log, why not */
	struct loop_timer *timer;
};

bool center_leads(struct center *c)
{
	struct lead *l = c->lead;
	if (!c->leads || !l)
		return c->leads;
	election_look(l->election, &l->view);
	return !l->lost && l->view.revision == l->revision && clock_mono_us() < l->view.until_us;
}

bool center_others(struct center *c)
{
	return c->lead && c->lead->view.leader[0];
}

/* {"id","name","url"} of who leads; false when nobody is known to. The document is the caller's. */
static bool leader_of(const struct lead *l, yyjson_doc **ret_doc, struct str *id, struct str *name, struct str *url)
{
	if (json_parse(str_from(l->view.leader), ret_doc, NULL) < 0)
		return false;
	yyjson_val *o = yyjson_doc_get_root(*ret_doc);
	json_str(o, "id", id, NULL);
	json_str(o, "name", name, NULL);
	json_str(o, "url", url, NULL);
	return url->len > 0;
}

void lead_name(struct center *c, struct http_exchange *x)
{
	struct str id = {0}, name = {0}, url = {0};
	struct buf text = {0};
	yyjson_doc *doc = NULL;
	if (c->lead && leader_of(c->lead, &doc, &id, &name, &url)) {
		buf_printf(&text, STR_FMT " " STR_FMT, STR_ARG(id), STR_ARG(url));
		http_add_header(x, "x-mdn-centers", buf_str(&text));
	}
	yyjson_doc_free(doc);
	buf_fini(&text);
}

int center_refuse(struct center *c, struct error *err)
{
	const struct lead *l = c->lead;
	struct str id = {0}, name = {0}, url = {0};
	yyjson_doc *doc = NULL;
	int rc = E_UNAVAILABLE;
	if (!l)
		return error_set(err, rc, "the center is not ready yet: try again in a moment");
	bool known = leader_of(l, &doc, &id, &name, &url);
	if (known && str_equal(id, str_from(c->self.id))) /* before it was begun anew */
		error_set(err, rc, "no center leads yet: try again in a few seconds");
	else if (known)
		error_set(err, rc, "this center stands by: " STR_FMT " leads, ask it at " STR_FMT, STR_ARG(name),
		          STR_ARG(url));
	else
		error_set(err, rc,
		          "no center leads now, so nothing can be changed; what was decided stays, try again (%s)",
		          l->view.problem.code ? l->view.problem.text : "one is being elected");
	yyjson_doc_free(doc);
	return rc;
}

/* An empty etcd is filled by the first center only, and once: what another would begin with is nothing, and what was
 * moved there is old when etcd has lost it. */
static int found(struct lead *l, struct state *to, struct error *err)
{
	struct center *c = l->c;
	struct buf text = {0};
	struct state *from = NULL;
	int rc = state_get(to, "meta", STR("revision"), &text, err);
	buf_fini(&text);
	if (rc != E_NOTFOUND)
		return rc;
	if (strcmp(c->self.id, c->self.founder) != 0)
		return error_set(err, E_UNAVAILABLE,
		                 "etcd has nothing of this network yet: start the center that `mdn init` made first");
	if ((rc = state_open(str_from(l->db), &from, err)) < 0)
		return rc;
	if (state_get(from, "meta", STR("moved"), &text, NULL) == 0)
		rc =
		    error_set(err, E_CORRUPT,
		              "etcd has nothing of this network, though its state was moved there: restore etcd from a "
		              "backup");
	else if ((rc = state_copy(to, from, "meta", err)) == 0 &&
	         (rc = state_put(from, "meta", STR("moved"), STR("etcd"), err)) == 0)
		log_info(ROOM, "from now on the state is in etcd, not in %s", l->db);
	state_close(from);
	buf_fini(&text);
	return rc;
}

static void on_lost(void *arg)
{
	((struct lead *)arg)->lost = true;
}

static int begin(struct lead *l, struct error *err)
{
	struct center *c = l->c;
	struct state *state = NULL;
	char *prefix = file_join(str_from(l->prefix), "state/");
	struct state_etcd_options o = {
	    .etcd = &l->etcd,
	    .prefix = str_from(prefix),
	    .leader_key = str_from(l->leader_key),
	    .leader_revision = l->view.revision,
	    .on_lost = on_lost,
	    .arg = l,
	};
	int rc = state_open_etcd(&o, &state, err);
	free(prefix);
	if (rc == 0)
		rc = found(l, state, err);
	if (rc < 0) {
		state_close(state);
		return rc;
	}
	state_close(c->state);
	c->state = state;
	l->revision = l->view.revision;
	l->lost = false;
	return center_start(c, err);
}

static void say_why_not(struct lead *l)
{
	struct error why = {0};
	if (l->said)
		return;
	l->said = true;
	center_refuse(l->c, &why);
	if (l->view.problem.code)
		log_warn(ROOM, "%s", why.text);
	else
		log_info(ROOM, "%s", why.text);
}

static void on_look(void *arg)
{
	struct lead *l = arg;
	struct center *c = l->c;
	struct error err = {0};
	bool had_other = l->view.leader[0], was_lost = l->lost;
	if (c->leads && !center_leads(c)) {
		log_warn(ROOM, "this center no longer leads");
		if (was_lost)
			election_yield(l->election);
		l->said = false;
		center_stop(c);
	}
	election_look(l->election, &l->view);
	if (had_other != (l->view.leader[0] != 0))
		l->said = false;
	if (c->leads)
		return;
	if (!l->view.revision || clock_mono_us() >= l->view.until_us) {
		if (l->view.leader[0] || l->view.problem.code)
			say_why_not(l);
		return;
	}
	if (begin(l, &err) < 0) {
		if (!l->said)
			log_error(ROOM, "this center was elected but cannot begin, trying on: %s", err.text);
		l->said = true;
		c->leads = false;
		l->lost = true;
		election_yield(l->election);
		return;
	}
	l->said = false;
	log_info(ROOM, "this center leads");
}

static void tell_self(const struct center *c, struct str url, struct buf *out)
{
	buf_printf(out, "{\"id\":\"%s\",\"name\":\"%s\",\"url\":", c->self.id, c->self.name);
	buf_append_json(out, url);
	buf_append_str(out, STR("}"));
}

int lead_new(struct center *c, const struct center_options *options, struct error *err)
{
	struct lead *l = c->lead = NEW(struct lead);
	struct buf prefix = {0}, value = {0};
	l->c = c;
	l->etcd = *options->etcd;
	l->db = file_join(options->data, "center.db");
	buf_printf(&prefix, "mdn/%s/%.16s", c->self.domain, c->ca.pin);
	l->prefix = str_dup(buf_str(&prefix));
	l->leader_key = file_join(buf_str(&prefix), "leader");
	tell_self(c, options->node_url, &value);
	const struct election_options o = {.etcd = l->etcd, .key = str_from(l->leader_key), .value = buf_str(&value)};
	int rc = election_new(&o, &l->election, err);
	if (rc == 0) {
		election_look(l->election, &l->view);
		l->timer = loop_timer_new(c->loop, on_look, l);
		loop_timer_start(l->timer, LOOK_US, LOOK_US);
	}
	buf_fini(&prefix);
	buf_fini(&value);
	return rc;
}

void lead_free(struct center *c)
{
	struct lead *l = c->lead;
	if (!l)
		return;
	election_free(l->election);
	loop_timer_free(l->timer);
	free(l->prefix);
	free(l->leader_key);
	free(l->db);
	free(l);
	c->lead = NULL;
}
