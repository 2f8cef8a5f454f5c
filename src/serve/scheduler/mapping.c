/* SPDX-License-Identifier: Apache-2.0 */
/* Every 10 s, and when an operator said something, a round: copied here, made in the job pool, taken here. Between
 * rounds the map of nodes alone decides, so a site that dies costs nobody 10 s. When more than half of the nodes are
 * gone at once, the reports are doubted rather than the nodes, and the last map stays for a minute, but for pins.
 *
 * Kept in the folder: what is named (map.json), written after each round that changed it, and operators' words
 * (steer.json), written before they are answered: seldom, and a few kilobytes. A file that cannot be read is put aside
 * by the next write; the log says so. */
#include "serve/scheduler/scheduler_internal.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "core/client_map.h"
#include "core/distance.h"
#include "core/node_map_index.h"

#include <stdlib.h>

#define ROOM "scheduler"
#define ROUND_US (10 * US_PER_S)
#define FROZEN_ROUNDS 6
#define FREEZE_LEAST 4 /* of fewer nodes half may well be gone */
#define FILE_MAX (64u << 20)

struct round_job {
	struct mapping *mapping; /* NULL: gone meanwhile */
	struct client_round *round;
	int64_t took_us;
};

struct save_job {
	struct mapping *mapping;
	char *path;
	struct buf text;
	struct error err;
	int rc;
};

struct mapping {
	struct scheduler *scheduler;
	struct loop_timer *timer;
	char *folder; /* NULL: nothing is kept */
	struct client_map map;
	struct steer steer;
	struct round_job *round;
	struct save_job *saving;
	bool save_again;
	bool word_waits; /* for a round */
	size_t up_before;
	unsigned frozen; /* rounds left out in a row */
	/* of the last round */
	struct client_site *sites;
	uint32_t site_count;
	struct making_result result;
	int64_t round_us, took_us;
	double moved; /* sum */
};

static void on_round(void *arg);

/* ---- kept ------------------------------------------------------------------------------------ */

static void save(struct mapping *m);

static void save_work(void *arg)
{
	struct save_job *j = arg;
	j->rc = file_write(j->path, 0600, buf_str(&j->text), &j->err);
}

static void save_done(void *arg)
{
	struct save_job *j = arg;
	struct mapping *m = j->mapping;
	if (j->rc < 0)
		log_warn(ROOM, "the map of clients is not kept over a restart: %s", j->err.text);
	free(j->path);
	buf_fini(&j->text);
	free(j);
	if (!m)
		return;
	m->saving = NULL;
	if (m->save_again)
		save(m);
}

static void save(struct mapping *m)
{
	m->save_again = m->saving != NULL;
	if (m->saving || !m->folder)
		return;
	struct save_job *j = NEW(struct save_job);
	j->mapping = m;
	j->path = file_join(str_from(m->folder), "map.json");
	client_map_format(&m->map, m->scheduler->map, &j->text);
	m->saving = j;
	loop_job(m->scheduler->loop, save_work, save_done, j);
}

static int steer_save(struct mapping *m, struct error *err)
{
	struct buf text = {0};
	if (!m->folder)
		return 0;
	char *path = file_join(str_from(m->folder), "steer.json");
	steer_format(&m->steer, &text);
	buf_append_str(&text, STR("\n"));
	int rc = file_write(path, 0600, buf_str(&text), err);
	buf_fini(&text);
	free(path);
	return rc;
}

/* False: there is none. */
static bool saved_read(const struct mapping *m, const char *name, struct buf *ret_text)
{
	struct error err = {0};
	char *path = file_join(str_from(m->folder), name);
	int rc = file_read(path, FILE_MAX, ret_text, &err);
	if (rc < 0 && rc != E_NOTFOUND)
		log_warn(ROOM, "%s", err.text);
	free(path);
	return rc == 0;
}

static void load(struct mapping *m)
{
	struct error err = {0};
	struct buf text = {0};
	yyjson_doc *doc;
	struct lpm *named;
	if (saved_read(m, "steer.json", &text)) {
		int rc = json_parse(buf_str(&text), &doc, &err);
		if (rc == 0) {
			rc = steer_parse(yyjson_doc_get_root(doc), &m->steer, &err);
			yyjson_doc_free(doc);
		}
		if (rc < 0)
			log_warn(ROOM, "operators' words in steer.json do not count: %s", err.text);
	}
	buf_clear(&text);
	if (saved_read(m, "map.json", &text)) {
		if (client_map_parse(&m->map, buf_str(&text), m->scheduler->map, loop_now_us(m->scheduler->loop),
		                     &named, &err) == 0)
			node_map_set_named(m->scheduler->map, named);
		else
			log_warn(ROOM, "the kept map of clients is not used: %s", err.text);
	}
	buf_fini(&text);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static void round_work(void *arg)
{
	struct round_job *j = arg;
	int64_t began = clock_mono_us();
	client_round_make(j->round);
	j->took_us = clock_mono_us() - began;
}

static void round_tell(struct mapping *m, struct round_job *j)
{
	free(m->sites);
	m->sites = j->round->sites;
	m->site_count = j->round->site_count;
	j->round->sites = NULL;
	m->result = j->round->result;
	m->moved += m->result.moved + m->result.forced;
	m->took_us = j->took_us;
	m->round_us = loop_now_us(m->scheduler->loop);
	if (m->result.moved + m->result.forced > 0)
		log_info(ROOM,
		         "map of clients %llu: %.1f of %.1f requests in work moved, %u prefixes wait for their turn",
		         (unsigned long long)m->map.number, m->result.moved + m->result.forced, m->result.demand,
		         m->result.waiting);
}

static void round_done(void *arg)
{
	struct round_job *j = arg;
	struct mapping *m = j->mapping;
	struct error err = {0};
	struct lpm *named;
	bool changed;
	if (m) {
		m->round = NULL;
		int rc = client_map_take(&m->map, j->round, &changed, &named, &err);
		if (changed) {
			node_map_set_named(m->scheduler->map, named);
			save(m);
		}
		if (rc == 0 && !j->round->hold)
			round_tell(m, j);
		else if (rc == E_CONFLICT)
			loop_timer_start(m->timer, 0, ROUND_US);
		else if (rc < 0)
			log_debug(ROOM, "no new map of clients: %s", err.text);
	}
	client_round_free(j->round);
	free(j);
}

/* Half of the nodes do not die in ten seconds; it is rather we who do not hear them. */
static bool is_doubtful(struct mapping *m)
{
	const struct scheduler *s = m->scheduler;
	int64_t now = loop_now_us(s->loop);
	size_t up = 0, count = node_map_count(s->map);
	for (uint32_t i = 0; i < count; i++)
		up += map_health(s->map, &map_hots(s->map)[i], now) != NODE_DOWN;
	bool doubt = m->up_before >= FREEZE_LEAST && up * 2 < m->up_before && m->frozen < FROZEN_ROUNDS;
	if (doubt && m->frozen++ == 0)
		log_warn(ROOM, "%zu of %zu nodes are gone at once; the map of clients stays as it is for a while",
		         m->up_before - up, m->up_before);
	if (doubt)
		return true;
	m->frozen = 0;
	m->up_before = up;
	return false;
}

static void on_round(void *arg)
{
	struct mapping *m = arg;
	struct scheduler *s = m->scheduler;
	struct error err = {0};
	struct client_round *round;
	if (m->round || (m->map.count == 0 && m->map.named_count == 0 && m->steer.count == 0))
		return;
	bool doubtful = is_doubtful(m);
	if (doubtful && !m->word_waits)
		return;
	m->word_waits = false;
	int64_t now = loop_now_us(s->loop);
	if (client_map_begin(&m->map, s->map, &m->steer, now, rng_next(&s->rng), &round, &err) < 0) {
		log_warn(ROOM, "no new map of clients: %s", err.text);
		return;
	}
	m->round = NEW(struct round_job);
	m->round->mapping = m;
	m->round->round = round;
	round->hold = doubtful;
	loop_job(s->loop, round_work, round_done, m->round);
}

/* ---- demand and words ------------------------------------------------------------------------ */

static uint32_t node_site(const struct mapping *m, struct str id)
{
	uint32_t at = map_node_find(m->scheduler->map, id);
	return at == MAP_NONE ? MAKING_NONE : map_hots(m->scheduler->map)[at].site;
}

int mapping_demand(struct mapping *m, struct str identity, struct str body, struct error *err)
{
	struct demand d;
	char id[NODE_ID_SIZE];
	int64_t window_us;
	int rc = demand_parse(body, &d, id, &window_us, err);
	if (rc < 0)
		return rc;
	if (!str_equal(scheduler_identity_node(identity), str_from(id)))
		rc = error_set(err, E_FORBIDDEN, "the demand is of node %s, but the certificate is not", id);
	else
		client_map_tell(&m->map, &d, node_site(m, str_from(id)), loop_now_us(m->scheduler->loop));
	demand_fini(&d);
	return rc;
}

static void word_apply(struct mapping *m, const struct steer_word *w)
{
	bool closed = w->weight == 0;
	if (w->kind == STEER_SITE)
		node_map_close_site(m->scheduler->map, str_from(w->subject), closed, NULL);
	else if (w->kind == STEER_NODE)
		node_map_close_node(m->scheduler->map, str_from(w->subject), closed);
}

void mapping_tick(struct mapping *m)
{
	for (uint32_t i = 0; i < m->steer.count; i++) {
		if (m->steer.words[i].kind == STEER_NODE) /* it may have come just now */
			word_apply(m, &m->steer.words[i]);
	}
}

int mapping_steer(struct mapping *m, struct str body, struct error *err)
{
	struct steer_word w;
	yyjson_doc *doc;
	int rc = json_parse(body, &doc, err);
	if (rc < 0)
		return rc;
	rc = steer_word_parse(yyjson_doc_get_root(doc), &w, err);
	yyjson_doc_free(doc);
	if (rc < 0)
		return rc;
	if (w.at_us == 0)
		w.at_us = clock_wall_us();
	if ((rc = steer_set(&m->steer, &w, err)) < 0)
		return rc;
	word_apply(m, &w);
	client_map_change(&m->map);
	m->word_waits = true;
	loop_timer_start(m->timer, 0, ROUND_US);
	watch_changed(m->scheduler->watch);
	if (steer_save(m, err) < 0)
		return error_prefix(err, "it counts now, but not after a restart");
	return 0;
}

void mapping_format(const struct mapping *m, struct buf *out)
{
	const struct distances *d = map_distances_all(m->scheduler->map);
	const char *separator = "";
	buf_printf(out, "{\"number\":%llu,\"prefixes\":%u,\"named\":%u,\"turned_away\":%llu,\"frozen\":%s",
	           (unsigned long long)m->map.number, m->map.count, m->map.named_count,
	           (unsigned long long)m->map.turned_away, m->frozen ? "true" : "false");
	buf_printf(out, ",\"demand\":%.3f,\"capacity\":%.3f,\"moved\":%.3f,\"waiting\":%u,\"round_us\":%lld",
	           m->result.demand, m->result.capacity, m->result.moved + m->result.forced, m->result.waiting,
	           (long long)m->took_us);
	buf_printf(out, ",\"age_us\":%lld,\"sites\":[",
	           m->round_us ? (long long)(loop_now_us(m->scheduler->loop) - m->round_us) : -1);
	for (uint32_t i = 0; i < m->site_count; i++) {
		const struct client_site *s = &m->sites[i];
		if (s->nodes == 0 && s->demand <= 0 && s->weight == 100)
			continue;
		buf_printf(out, "%s{\"site\":", separator);
		buf_append_json(out, distances_site_name(d, i));
		buf_printf(out, ",\"nodes\":%u,\"capacity\":%.3f,\"demand\":%.3f,\"weight\":%d}", s->nodes, s->capacity,
		           s->demand, s->weight);
		separator = ",";
	}
	buf_append_str(out, STR("],\"words\":"));
	steer_format(&m->steer, out);
	buf_append_str(out, STR("}\n"));
}

void mapping_counts(const struct mapping *m, struct mapping_counts *ret_counts)
{
	*ret_counts = (struct mapping_counts){.number = m->map.number,
	                                      .prefixes = m->map.count,
	                                      .named = m->map.named_count,
	                                      .turned_away = m->map.turned_away,
	                                      .demand = m->result.demand,
	                                      .capacity = m->result.capacity,
	                                      .moved = m->moved,
	                                      .took_us = m->took_us};
}

/* ---- life ------------------------------------------------------------------------------------ */

struct mapping *mapping_new(struct scheduler *s, struct str folder)
{
	struct mapping *m = NEW(struct mapping);
	struct error err = {0};
	m->scheduler = s;
	m->timer = loop_timer_new(s->loop, on_round, m);
	if (folder.len > 0) {
		m->folder = str_dup(folder);
		if (folder_make(m->folder, 0700, &err) < 0)
			log_warn(ROOM, "%s", err.text);
		load(m);
	}
	for (uint32_t i = 0; i < m->steer.count; i++)
		word_apply(m, &m->steer.words[i]);
	loop_timer_start(m->timer, ROUND_US, ROUND_US);
	return m;
}

void mapping_free(struct mapping *m)
{
	if (!m)
		return;
	if (m->round)
		m->round->mapping = NULL;
	if (m->saving)
		m->saving->mapping = NULL;
	loop_timer_free(m->timer);
	client_map_fini(&m->map);
	steer_fini(&m->steer);
	free(m->sites);
	free(m->folder);
	free(m);
}
