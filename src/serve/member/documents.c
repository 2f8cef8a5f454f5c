/* SPDX-License-Identifier: Apache-2.0 */
/* Roster and assignment: parsed, delivered, and kept in DATA/control for a start without a center. Written in the job
 * pool, one job a document at a time, the newest text wins. A document that cannot be read is dropped with a line in
 * the log and the one before it stays: better old than none.
 */
#include "serve/member/inside.h"

#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>

struct save {
	struct document *document; /* NULL: the member is gone */
	char *path;
	struct buf text;
	struct error err;
	int rc;
};

static void save_start(struct document *d);

static void save_work(void *arg)
{
	struct save *s = arg;
	s->rc = file_write(s->path, 0600, buf_str(&s->text), &s->err);
}

static void save_done(void *arg)
{
	struct save *s = arg;
	struct document *d = s->document;
	if (s->rc < 0)
		log_warn(ROOM, "the center's word is not kept for a restart: %s", s->err.text);
	buf_fini(&s->text);
	free(s->path);
	free(s);
	if (!d)
		return;
	d->saving = NULL;
	if (d->stale)
		save_start(d);
}

static void save_start(struct document *d)
{
	d->stale = d->saving != NULL;
	if (d->saving)
		return;
	struct save *s = NEW(struct save);
	s->document = d;
	s->path = file_join(str_from(d->m->control), d->file);
	buf_append_str(&s->text, buf_str(&d->text));
	d->saving = s;
	loop_job(d->m->loop, save_work, save_done, s);
}

/* ---- assignments -------------------------------------------------------------------------------------- */

void assignment_fini(struct assignment *a)
{
	for (size_t i = 0; i < a->count; i++)
		version_fini(&a->versions[i]);
	free(a->versions);
	free(a->how);
	free(a->limits);
	*a = (struct assignment){0};
}

static int models_parse(yyjson_val *models, struct assignment *a, struct error *err)
{
	yyjson_val *item;
	size_t i, count;
	int rc;
	if (!models)
		return error_set(err, E_INVAL, "\"models\" is missing");
	if (yyjson_arr_size(models) > 2 * LIMIT_NODE_MODELS)
		return error_set(err, E_LIMIT, "more than %d versions are assigned", 2 * LIMIT_NODE_MODELS);
	a->versions = mem_new((yyjson_arr_size(models) + 1) * sizeof(*a->versions));
	a->how = mem_new((yyjson_arr_size(models) + 1) * sizeof(*a->how));
	yyjson_arr_foreach(models, i, count, item)
	{
		struct assigned_how *how = &a->how[i];
		how->load = true;
		if ((rc = json_bool(item, "load", &how->load, err)) < 0 ||
		    (rc = json_bool(item, "paused", &how->paused, err)) < 0 ||
		    (rc = version_parse(item, &a->versions[i], err)) < 0)
			return rc;
		a->count++;
	}
	return 0;
}

static int limit_parse(yyjson_val *o, struct assigned_limit *l, struct error *err)
{
	struct str text = {0}, site = {0};
	int64_t receivers = 1, senders = 1;
	int rc;
	if ((rc = json_str(o, "calendar", &text, err)) < 0 || (rc = calendar_parse(text, &l->calendar, err)) < 0 ||
	    (rc = json_i64(o, "receivers", 1, LIMIT_NODES, &receivers, err)) < 0 ||
	    (rc = json_i64(o, "senders", 1, LIMIT_NODES, &senders, err)) < 0 ||
	    (rc = json_bool(o, "other_sites", &l->other_sites, err)) < 0 || (rc = json_str(o, "site", &site, err)) < 0)
		return rc;
	if (!str_copy(site, l->site, sizeof(l->site)))
		return error_set(err, E_LIMIT, "the site of a limit is longer than %d bytes", NODE_TEXT_SIZE - 1);
	l->receivers = (uint32_t)receivers;
	l->senders = (uint32_t)senders;
	return 0;
}

static int limits_parse(yyjson_val *limits, struct assignment *a, struct error *err)
{
	yyjson_val *item;
	size_t i, count;
	int rc;
	if (yyjson_arr_size(limits) > LIMIT_BANDWIDTH_LIMITS)
		return error_set(err, E_LIMIT, "more than %d limits are told", LIMIT_BANDWIDTH_LIMITS);
	a->limits = mem_new((yyjson_arr_size(limits) + 1) * sizeof(*a->limits));
	yyjson_arr_foreach(limits, i, count, item)
	{
		if ((rc = limit_parse(item, &a->limits[a->limit_count], err)) < 0)
			return rc;
		a->limit_count++;
	}
	return 0;
}

int assignment_parse(struct str json, struct assignment *ret_assignment, struct error *err)
{
	struct assignment a = {0};
	yyjson_doc *doc;
	yyjson_val *models = NULL, *limits = NULL;
	int rc = json_parse(json, &doc, err);
	if (rc < 0)
		return rc;
	yyjson_val *o = yyjson_doc_get_root(doc);
	if ((rc = json_arr(o, "models", &models, err)) == 0 && (rc = json_arr(o, "limits", &limits, err)) == 0 &&
	    (rc = models_parse(models, &a, err)) == 0)
		rc = limits_parse(limits, &a, err);
	yyjson_doc_free(doc);
	if (rc < 0)
		assignment_fini(&a);
	else
		*ret_assignment = a;
	return rc;
}

static int deliver_assign(struct member *m, struct str json, struct error *err)
{
	struct assignment a;
	int rc = assignment_parse(json, &a, err);
	if (rc < 0)
		return rc;
	if (m->on_assign)
		m->on_assign(m->arg, &a);
	assignment_fini(&a);
	return 0;
}

/* ---- the roster ----------------------------------------------------------------------------------------- */

/* The center's word on what this node is counts; a configuration that says otherwise is a mistake worth telling. */
static void compare_self(struct member *m)
{
	for (size_t i = 0; i < m->roster.node_count; i++) {
		const struct roster_node *n = &m->roster.nodes[i];
		if (strcmp(n->id, m->self.id) != 0 || m->said_differs)
			continue;
		m->said_differs = true;
		if (!str_equal(str_from(n->name), m->name) || !str_equal(str_from(n->site), m->site) ||
		    n->roles != m->roles)
			log_warn(ROOM,
			         "this node joined as %s, site %s; its configuration says name " STR_FMT
			         ", site " STR_FMT
			         ", or other roles: the network goes by the former until it is removed and joins again",
			         n->name, n->site, STR_ARG(m->name), STR_ARG(m->site));
	}
}

static void use_roster(struct member *m, struct roster *r)
{
	roster_fini(&m->roster);
	m->roster = *r;
	reports_retarget(m);
	pings_retarget(m);
}

static void deliver_roster(struct member *m)
{
	struct buf self = {0};
	compare_self(m);
	member_identity_of(m, m->self.id, &self);
	if (member_is_removed(m, buf_str(&self)))
		log_error(
		    ROOM,
		    "this node was removed from the network; to come back, delete its identity folder and join again");
	buf_fini(&self);
	if (m->on_roster)
		m->on_roster(m->arg, &m->roster);
}

/* ---- in and out ------------------------------------------------------------------------------------------ */

static void keep(struct document *d, struct str text)
{
	buf_clear(&d->text);
	buf_append_str(&d->text, text);
	save_start(d);
}

static void take_roster(struct member *m, struct str data)
{
	struct roster r;
	struct error err = {0};
	if (str_equal(buf_str(&m->roster_document.text), data))
		return; /* a new stream begins with what we have */
	if (roster_parse(data, &r, &err) < 0) {
		log_error(ROOM, "the center's roster is unreadable, the last one stays: %s", err.text);
		return;
	}
	keep(&m->roster_document, data);
	use_roster(m, &r);
	deliver_roster(m);
}

static void take_assign(struct member *m, struct str data)
{
	struct error err = {0};
	if (str_equal(buf_str(&m->assign_document.text), data))
		return;
	if (deliver_assign(m, data, &err) < 0) {
		log_error(ROOM, "the center's assignment is unreadable, the last one stays: %s", err.text);
		return;
	}
	keep(&m->assign_document, data);
}

static void take_spread(struct member *m, struct str data)
{
	struct spread_place *places;
	size_t count;
	struct error err = {0};
	if (spread_places_parse(data, &places, &count, &err) < 0) {
		log_error(ROOM, "who to take models from is unreadable, the last word stays: %s", err.text);
		return;
	}
	if (m->on_spread)
		m->on_spread(m->arg, places, count);
	free(places);
}

void documents_take(struct member *m, struct str event, struct str data)
{
	if (str_equal(event, STR("roster")))
		take_roster(m, data);
	else if (str_equal(event, STR("assign")))
		take_assign(m, data);
	else if (str_equal(event, STR("spread")))
		take_spread(m, data);
	else if (str_equal(event, STR("drain")) && m->on_drain)
		m->on_drain(m->arg);
}

static void document_init(struct member *m, struct document *d, const char *file)
{
	struct error err = {0};
	char *path = file_join(str_from(m->control), file);
	*d = (struct document){.m = m, .file = file};
	if (file_read(path, LIMIT_CONTROL_DOCUMENT, &d->text, &err) < 0) {
		if (err.code != E_NOTFOUND)
			log_warn(ROOM, "the saved word of the center is not used: %s", err.text);
		buf_clear(&d->text);
	}
	free(path);
}

int documents_load(struct member *m, struct error *err)
{
	struct roster r;
	struct error why = {0};
	int rc = folder_make(m->control, 0700, err);
	if (rc < 0)
		return rc;
	document_init(m, &m->roster_document, "roster.json");
	document_init(m, &m->assign_document, "assign.json");
	if (m->roster_document.text.len == 0)
		return 0;
	if (roster_parse(buf_str(&m->roster_document.text), &r, &why) == 0) {
		m->roster = r; /* no targets yet: reports and pings begin with it */
	} else {
		log_warn(ROOM, "the saved roster is not used: %s", why.text);
		buf_clear(&m->roster_document.text);
	}
	return 0;
}

void documents_deliver_saved(struct member *m)
{
	struct error err = {0};
	if (m->roster_document.text.len)
		deliver_roster(m);
	if (m->assign_document.text.len && deliver_assign(m, buf_str(&m->assign_document.text), &err) < 0) {
		log_warn(ROOM, "the saved assignment is not used: %s", err.text);
		buf_clear(&m->assign_document.text);
	}
}

static void document_fini(struct document *d)
{
	if (d->saving)
		d->saving->document = NULL;
	buf_fini(&d->text);
}

void documents_free(struct member *m)
{
	document_fini(&m->roster_document);
	document_fini(&m->assign_document);
	roster_fini(&m->roster);
}
