/* SPDX-License-Identifier: Apache-2.0 */
/* Roll-outs: the durable side of core/rollout. One record per name whose tag has moved (or that was first placed with
 * gates), with the old version whole, so that the way back needs no repository. A step is written down before anybody
 * is told; what nodes are told follows from the record, so a center that is killed goes on where it was.
 *
 * A tag that moves again in the middle begins anew from the version that ran before: the one in between was never
 * accepted. A tag that moves back to that version ends the roll-out. Where nothing ran before, gates begin anew, too.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "core/hash.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define GRACE_US (3 * US_PER_S) /* after a start: until reports have come */
#define MEASURES_EVERY_US (10 * US_PER_S)
#define AWAY_FOR_ROLLOUT_US (10 * US_PER_S)
#define SOAK_MOST_US (30 * 24 * 3600 * US_PER_S)

static void held_fini(struct held_rollout *h)
{
	if (h->has_old)
		version_fini(&h->old);
	selector_fini(&h->canary);
	free(h->grants);
	free(h->nodes);
	*h = (struct held_rollout){0};
}

static size_t position(const struct center *c, const char *name_tag)
{
	size_t low = 0, high = c->rollout_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(c->rollouts[middle].name_tag, name_tag) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct held_rollout *rollouts_find(struct center *c, const char *name_tag)
{
	size_t at = position(c, name_tag);
	return at < c->rollout_count && strcmp(c->rollouts[at].name_tag, name_tag) == 0 ? &c->rollouts[at] : NULL;
}

/* Takes over *h; in place of the one that is there. */
static struct held_rollout *insert(struct center *c, struct held_rollout *h)
{
	size_t at = position(c, h->name_tag);
	if (at < c->rollout_count && strcmp(c->rollouts[at].name_tag, h->name_tag) == 0) {
		held_fini(&c->rollouts[at]);
	} else {
		c->rollouts = mem_resize(c->rollouts, c->rollout_count + 1, sizeof(*c->rollouts));
		memmove(c->rollouts + at + 1, c->rollouts + at, (c->rollout_count - at) * sizeof(*c->rollouts));
		c->rollout_count++;
	}
	c->rollouts[at] = *h;
	return &c->rollouts[at];
}

/* ---- policies as JSON --------------------------------------------------------------------------------------- */

int rollout_policy_read(yyjson_val *o, struct rollout_policy *ret_policy, struct selector *ret_canary,
                        struct error *err)
{
	struct rollout_policy p = ROLLOUT_POLICY_DEFAULT;
	struct str percents = {0}, canary = {0}, on_failure = {0};
	int64_t least = p.least_requests, unavailable = p.unavailable_percent;
	int rc;
	p.gated = true;
	if ((rc = json_bool(o, "gated", &p.gated, err)) < 0 || (rc = json_str(o, "percents", &percents, err)) < 0 ||
	    (rc = json_str(o, "canary", &canary, err)) < 0 || (rc = json_str(o, "on_failure", &on_failure, err)) < 0 ||
	    (rc = json_i64(o, "soak_us", 0, SOAK_MOST_US, &p.soak_us, err)) < 0 ||
	    (rc = json_i64(o, "patience_us", US_PER_S, SOAK_MOST_US, &p.patience_us, err)) < 0 ||
	    (rc = json_num(o, "error_factor", 0, 1000, &p.error_factor, err)) < 0 ||
	    (rc = json_num(o, "latency_factor", 1, 1000, &p.latency_factor, err)) < 0 ||
	    (rc = json_i64(o, "least_requests", 1, UINT32_MAX, &least, err)) < 0 ||
	    (rc = json_i64(o, "unavailable_percent", 1, 100, &unavailable, err)) < 0)
		return rc;
	if (on_failure.len && !str_equal(on_failure, STR("halt")) && !str_equal(on_failure, STR("rollback")))
		return error_set(err, E_INVAL, "\"on_failure\" is halt or rollback");
	p.halt_only = str_equal(on_failure, STR("halt"));
	p.least_requests = (uint32_t)least;
	p.unavailable_percent = (uint8_t)unavailable;
	if (percents.len && (rc = rollout_percents_parse(percents, &p, err)) < 0)
		return rc;
	p.canary = canary.len > 0;
	if (p.canary && selector_parse(canary, ret_canary, err) < 0)
		return error_prefix(err, "canary: ");
	*ret_policy = p;
	return 0;
}

void rollout_policy_write(const struct rollout_policy *p, const struct selector *canary, struct buf *out)
{
	buf_printf(out, "{\"gated\":%s,\"soak_us\":%" PRId64 ",\"patience_us\":%" PRId64 ",\"error_factor\":%g",
	           p->gated ? "true" : "false", p->soak_us, p->patience_us, p->error_factor);
	buf_printf(out, ",\"latency_factor\":%g,\"least_requests\":%" PRIu32 ",\"unavailable_percent\":%u",
	           p->latency_factor, p->least_requests, p->unavailable_percent);
	buf_printf(out, ",\"on_failure\":\"%s\"", p->halt_only ? "halt" : "rollback");
	for (size_t i = 0; i < p->percent_count; i++)
		buf_printf(out, i ? ",%u" : ",\"percents\":\"%u", p->percents[i]);
	buf_append_str(out, p->percent_count ? STR("\"") : STR(""));
	if (p->canary) {
		struct buf text = {0};
		selector_format(canary, &text);
		buf_append_str(out, STR(",\"canary\":"));
		buf_append_json(out, buf_str(&text));
		buf_fini(&text);
	}
	buf_append_str(out, STR("}"));
}

/* ---- the record ------------------------------------------------------------------------------------------------ */

static void sums_write(const char *key, const struct rollout_measure *m, struct buf *out)
{
	buf_printf(out, ",\"%s\":[%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 "]", key, m->requests,
	           m->errors, m->ttft_us, m->tokens, m->decode_us);
}

static int sums_read(yyjson_val *o, const char *key, struct rollout_measure *ret, struct error *err)
{
	yyjson_val *array = NULL;
	uint64_t *to[] = {&ret->requests, &ret->errors, &ret->ttft_us, &ret->tokens, &ret->decode_us};
	int rc = json_arr(o, key, &array, err);
	for (size_t i = 0; rc == 0 && i < 5; i++)
		*to[i] = yyjson_get_uint(yyjson_arr_get(array, i));
	return rc;
}

static void record_write(const struct held_rollout *h, struct buf *out)
{
	char fresh[DIGEST_TEXT_SIZE];
	digest_format(&h->fresh, fresh);
	buf_printf(out, "{\"new\":\"%s\",\"phase\":\"%s\",\"wave\":%" PRIu32, fresh, rollout_phase_name(h->r.phase),
	           h->r.wave);
	buf_printf(out, ",\"begun_us\":%" PRId64 ",\"since_us\":%" PRId64 ",\"why\":", h->r.begun_us, h->r.since_us);
	buf_append_json(out, str_from(h->r.why));
	buf_append_str(out, STR(",\"policy\":"));
	rollout_policy_write(&h->r.policy, &h->canary, out);
	sums_write("old_sums", &h->r.old, out);
	sums_write("new_sums", &h->r.fresh, out);
	buf_append_str(out, STR(",\"granted\":["));
	for (size_t i = 0; i < h->grant_count; i++)
		buf_printf(out, "%s{\"id\":\"%s\",\"us\":%" PRId64 "}", i ? "," : "", h->grants[i].id, h->grants[i].us);
	buf_append_str(out, STR("]"));
	if (h->has_old) {
		buf_append_str(out, STR(",\"old\":"));
		version_format(&h->old, out);
	}
	buf_append_str(out, STR("}"));
}

static int by_id(const void *a, const void *b)
{
	return strcmp(((const struct grant *)a)->id, ((const struct grant *)b)->id);
}

static int grants_read(yyjson_val *o, struct held_rollout *h, struct error *err)
{
	yyjson_val *array = NULL, *item;
	size_t i, count;
	int rc = json_arr(o, "granted", &array, err);
	if (rc < 0 || !array)
		return rc;
	h->grants = mem_new((yyjson_arr_size(array) + 1) * sizeof(*h->grants));
	yyjson_arr_foreach(array, i, count, item)
	{
		struct grant *g = &h->grants[h->grant_count];
		struct str id = {0};
		if ((rc = json_str(item, "id", &id, err)) < 0 ||
		    (rc = json_i64(item, "us", 1, INT64_MAX, &g->us, err)) < 0)
			return rc;
		if (str_copy(id, g->id, sizeof(g->id)) && g->us)
			h->grant_count++;
	}
	if (h->grant_count > 1)
		qsort(h->grants, h->grant_count, sizeof(*h->grants), by_id);
	return 0;
}

static int record_read(yyjson_val *o, struct held_rollout *h, struct error *err)
{
	struct str fresh = {0}, phase = {0}, why = {0};
	yyjson_val *policy = NULL, *old = NULL;
	int64_t wave = 0;
	int rc;
	if ((rc = json_str(o, "new", &fresh, err)) < 0 || (rc = json_str(o, "phase", &phase, err)) < 0 ||
	    (rc = json_str(o, "why", &why, err)) < 0 || (rc = json_i64(o, "wave", 0, 1000, &wave, err)) < 0 ||
	    (rc = json_i64(o, "begun_us", 0, INT64_MAX, &h->r.begun_us, err)) < 0 ||
	    (rc = json_i64(o, "since_us", 0, INT64_MAX, &h->r.since_us, err)) < 0 ||
	    (rc = json_obj(o, "policy", &policy, err)) < 0 || (rc = json_obj(o, "old", &old, err)) < 0 ||
	    (rc = sums_read(o, "old_sums", &h->r.old, err)) < 0 ||
	    (rc = sums_read(o, "new_sums", &h->r.fresh, err)) < 0)
		return rc;
	if (digest_parse(fresh, &h->fresh) < 0 || rollout_phase_parse(phase, &h->r.phase) < 0 || !policy)
		return error_set(err, E_CORRUPT, "a value is missing or unknown");
	h->r.wave = (uint32_t)wave;
	str_copy(why, h->r.why, sizeof(h->r.why));
	if ((rc = rollout_policy_read(policy, &h->r.policy, &h->canary, err)) < 0 ||
	    (rc = grants_read(o, h, err)) < 0 || (old && (rc = version_parse(old, &h->old, err)) < 0))
		return rc;
	h->has_old = old != NULL;
	return 0;
}

static int load_rollout(struct center *c, yyjson_val *o, struct str key, struct error *err)
{
	struct held_rollout h = {0};
	int rc = record_read(o, &h, err);
	if (rc == 0 && !str_copy(key, h.name_tag, sizeof(h.name_tag)))
		rc = error_set(err, E_CORRUPT, "its name is too long");
	if (rc < 0) {
		held_fini(&h);
		return rc;
	}
	if (!places_rule(c, h.name_tag, false)) {
		held_fini(&h);
		return state_delete(c->state, "rollout", key, err);
	}
	insert(c, &h);
	return 0;
}

/* After the rules: one without a rule was left when the center was killed between the two. */
int rollouts_load(struct center *c, struct error *err)
{
	return center_load(c, "rollout", "roll-out", load_rollout, err);
}

void rollouts_free(struct center *c)
{
	for (size_t i = 0; i < c->rollout_count; i++)
		held_fini(&c->rollouts[i]);
	free(c->rollouts);
	c->rollouts = NULL;
	c->rollout_count = 0;
	loop_timer_free(c->rollouts_timer);
	c->rollouts_timer = NULL;
}

static int record_store(struct center *c, struct held_rollout *h, struct error *err)
{
	struct buf text = {0};
	record_write(h, &text);
	int rc = state_put(c->state, "rollout", str_from(h->name_tag), buf_str(&text), err);
	buf_fini(&text);
	if (rc == 0) {
		h->measures_stale = false;
		h->measured_us = loop_now_us(c->loop);
	}
	return rc;
}

/* ---- beginnings and ends ---------------------------------------------------------------------------------------- */

/* `rule`: with the policy; NULL: none has one. */
static void begin(struct center *c, const char *name_tag, const struct rule *rule, const struct version *old,
                  const struct version *fresh)
{
	static const struct rollout_policy everywhere = {.unavailable_percent = 25};
	struct held_rollout h = {.fresh = fresh->manifest, .has_old = old != NULL};
	struct error err = {0};
	str_copy(str_from(name_tag), h.name_tag, sizeof(h.name_tag));
	if (old)
		version_copy(old, &h.old);
	rollout_begin(&h.r, rule ? &rule->policy : &everywhere, clock_wall_us());
	if (rule && rule->policy.canary) {
		struct buf text = {0};
		selector_format(&rule->canary, &text);
		selector_parse(buf_str(&text), &h.canary, NULL);
		buf_fini(&text);
	}
	if (record_store(c, &h, &err) < 0)
		log_error(ROOM, "cannot keep the roll-out of %s: %s", name_tag, err.text);
	log_info(ROOM, "roll-out of %s begins: %" PRIu32 " waves%s", name_tag, rollout_waves(&h.r.policy),
	         h.r.policy.gated ? "" : ", without gates");
	insert(c, &h);
	center_touch(c);
}

void rollouts_moved(struct center *c, const char *name_tag, const struct version *old, const struct version *fresh)
{
	struct held_rollout *h = rollouts_find(c, name_tag);
	const struct rule *rule = places_rule(c, name_tag, true);
	if (!places_rule(c, name_tag, false))
		return;
	if (!h || h->r.phase == ROLLOUT_DONE) {
		begin(c, name_tag, rule, old, fresh);
		return;
	}
	if (!h->has_old) {
		rollouts_forget(c, name_tag);
		rollouts_begin_first(c, rule, fresh);
		return;
	}
	if (digest_equal(&h->old.manifest, &fresh->manifest)) {
		log_info(ROOM, "roll-out of %s ends: its tag moved back", name_tag);
		rollouts_forget(c, name_tag);
		return;
	}
	struct version before;
	version_copy(&h->old, &before);
	begin(c, name_tag, rule, &before, fresh);
	version_fini(&before);
}

void rollouts_begin_first(struct center *c, const struct rule *rule, const struct version *fresh)
{
	if (rule && rule->has_policy && rule->policy.gated)
		begin(c, rule->where.model, rule, NULL, fresh);
}

void rollouts_forget(struct center *c, const char *name_tag)
{
	size_t at = position(c, name_tag);
	struct error err = {0};
	if (at == c->rollout_count || strcmp(c->rollouts[at].name_tag, name_tag) != 0)
		return;
	if (state_delete(c->state, "rollout", str_from(name_tag), &err) < 0)
		log_error(ROOM, "cannot forget the roll-out of %s: %s", name_tag, err.text);
	held_fini(&c->rollouts[at]);
	c->rollout_count--;
	memmove(c->rollouts + at, c->rollouts + at + 1, (c->rollout_count - at) * sizeof(*c->rollouts));
	center_touch(c);
}

/* ---- steps --------------------------------------------------------------------------------------------------------
 */

static const struct grant *grant_find(const struct held_rollout *h, const char *id)
{
	struct grant wanted;
	str_copy(str_from(id), wanted.id, sizeof(wanted.id));
	return h->grant_count ? bsearch(&wanted, h->grants, h->grant_count, sizeof(wanted), by_id) : NULL;
}

static enum rollout_have have(const struct model_report *m)
{
	if (!m)
		return HAVE_NOTHING;
	switch (m->state) {
	case MODEL_READY:
		return HAVE_READY;
	case MODEL_LOADING:
		return HAVE_LOADING;
	case MODEL_CACHED:
		return model_report_serves(m) ? HAVE_READY : HAVE_ON_DISK;
	case MODEL_FAILED:
		return HAVE_FAILED;
	default:
		return HAVE_NOTHING;
	}
}

static uint64_t node_key(const struct held_rollout *h, const char *id)
{
	return hash_join(hash_str(str_from(h->name_tag)), hash_str(str_from(id)));
}

/* `load`: else the model is to be on disk only, and is ready when it is there. */
static void look_at(struct center *c, const struct held_rollout *h, const struct registered *r, bool load,
                    struct rollout_node *n)
{
	struct placement_node view = registry_view(r);
	const struct node_entry *e = node_map_find(c->map, str_from(r->id));
	const struct model_report *fresh = models_reported(c, r, h->name_tag, &h->fresh);
	const struct model_report *old = h->has_old ? models_reported(c, r, h->name_tag, &h->old.manifest) : NULL;
	const struct grant *g = grant_find(h, r->id);
	*n = (struct rollout_node){
	    .name = r->id,
	    .key = node_key(h, r->id),
	    .canary = h->r.policy.canary && selector_match(&h->canary, &view),
	    .away = !e || loop_now_us(c->loop) - e->received_us > AWAY_FOR_ROLLOUT_US,
	    .old = have(old),
	    .fresh = have(fresh),
	    .error = fresh ? fresh->error : NULL,
	    .granted_us = g ? g->us : 0,
	};
	if (!load && n->fresh == HAVE_ON_DISK)
		n->fresh = HAVE_READY;
	if (!load && n->old == HAVE_ON_DISK)
		n->old = HAVE_READY;
}

/* After places_refresh, which looks itself: it must not happen half way. */
static void look(struct center *c, struct held_rollout *h)
{
	assert(!c->places_stale);
	free(h->nodes);
	h->nodes = mem_new((c->node_count + 1) * sizeof(*h->nodes));
	h->node_count = 0;
	for (size_t i = 0; i < c->node_count; i++) {
		bool load;
		if (!c->nodes[i]->removed && places_holds(c, c->nodes[i], h->name_tag, &load))
			look_at(c, h, c->nodes[i], load, &h->nodes[h->node_count++]);
	}
	rollout_rank(&h->r, h->nodes, h->node_count);
	h->target = rollout_target(&h->r, h->nodes, h->node_count);
}

static bool is_moving(const struct held_rollout *h)
{
	return h->r.phase == ROLLOUT_MOVING || h->r.phase == ROLLOUT_SOAKING;
}

/* Places in the order matter only while it moves; those that are done, and there may be many, cost nothing. */
void rollouts_rank(struct center *c)
{
	for (size_t i = 0; i < c->rollout_count; i++) {
		struct held_rollout *h = &c->rollouts[i];
		if (is_moving(h)) {
			look(c, h);
			continue;
		}
		free(h->nodes);
		h->nodes = NULL;
		h->node_count = h->target = 0;
	}
}

void rollouts_look(struct center *c, struct held_rollout *h)
{
	places_refresh(c);
	look(c, h);
}

/* Those granted among the nodes; a node that left and comes back is told anew. */
static void take_grants(struct held_rollout *h)
{
	free(h->grants);
	h->grants = mem_new((h->node_count + 1) * sizeof(*h->grants));
	h->grant_count = 0;
	for (size_t i = 0; i < h->node_count; i++) {
		if (!h->nodes[i].granted_us || h->r.phase == ROLLOUT_DONE)
			continue;
		struct grant *g = &h->grants[h->grant_count++];
		str_copy(str_from(h->nodes[i].name), g->id, sizeof(g->id));
		g->us = h->nodes[i].granted_us;
	}
	if (h->grant_count > 1)
		qsort(h->grants, h->grant_count, sizeof(*h->grants), by_id);
}

static void tell(const struct held_rollout *h, enum rollout_phase before, uint32_t wave)
{
	if (h->r.phase == before && h->r.wave == wave)
		return;
	const char *colon = h->r.why[0] ? ": " : "";
	if (h->r.phase == ROLLOUT_HALTED || (h->r.phase == ROLLOUT_RETURNING && before != ROLLOUT_RETURNING))
		log_warn(ROOM, "roll-out of %s is %s%s%s", h->name_tag, rollout_phase_name(h->r.phase), colon,
		         h->r.why);
	else
		log_info(ROOM, "roll-out of %s is %s, wave %" PRIu32 " of %" PRIu32, h->name_tag,
		         rollout_phase_name(h->r.phase), h->r.wave + 1, rollout_waves(&h->r.policy));
}

/* What was decided is written down, with the grants, or did not happen. */
static int commit(struct center *c, struct held_rollout *h, const struct rollout *before, struct error *err)
{
	struct grant *grants = h->grants;
	size_t grant_count = h->grant_count;
	h->grants = NULL;
	take_grants(h);
	int rc = record_store(c, h, err);
	if (rc < 0) {
		free(h->grants);
		h->grants = grants;
		h->grant_count = grant_count;
		h->r = *before;
		return rc;
	}
	free(grants);
	tell(h, before->phase, before->wave);
	return 0;
}

/* True when nodes are to be told of it. */
static bool step(struct center *c, struct held_rollout *h)
{
	struct error err = {0};
	struct rollout before = h->r;
	look(c, h);
	bool changed = rollout_step(&h->r, h->nodes, h->node_count, clock_wall_us());
	h->target = rollout_target(&h->r, h->nodes, h->node_count);
	if (!changed) {
		if (h->measures_stale && loop_now_us(c->loop) - h->measured_us > MEASURES_EVERY_US)
			record_store(c, h, NULL);
		return false;
	}
	if (commit(c, h, &before, &err) < 0) {
		log_error(ROOM, "roll-out of %s cannot go on: %s", h->name_tag, err.text);
		look(c, h);
		return false;
	}
	return true;
}

void rollouts_tick(struct center *c)
{
	if (c->rollout_count == 0 || loop_now_us(c->loop) - c->begun_us < GRACE_US)
		return;
	bool changed = false;
	places_refresh(c);
	for (size_t i = 0; i < c->rollout_count; i++) {
		if (is_moving(&c->rollouts[i]) || c->rollouts[i].r.phase == ROLLOUT_RETURNING)
			changed |= step(c, &c->rollouts[i]);
	}
	if (changed)
		center_touch(c);
}

static void on_soon(void *arg)
{
	rollouts_tick(arg);
}

void rollouts_soon(struct center *c)
{
	if (c->rollout_count == 0)
		return;
	if (!c->rollouts_timer)
		c->rollouts_timer = loop_timer_new(c->loop, on_soon, c);
	loop_timer_start(c->rollouts_timer, 50 * US_PER_MS, 0);
}

/* The first of the nodes, which are in order of rank, that does not come before this one. */
static size_t rank_of(const struct held_rollout *h, bool canary, uint64_t key)
{
	size_t low = 0, high = h->node_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct rollout_node *n = &h->nodes[middle];
		if (n->canary != canary ? n->canary : n->key < key)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Asked for each node in turn, so not by a walk over all. */
static const struct rollout_node *node_find(const struct held_rollout *h, const char *id)
{
	uint64_t key = node_key(h, id);
	for (int canary = 0; canary < 2; canary++)
		for (size_t i = rank_of(h, canary, key); i < h->node_count && h->nodes[i].key == key; i++)
			if (strcmp(h->nodes[i].name, id) == 0)
				return &h->nodes[i];
	return NULL;
}

enum rollout_want rollouts_want(const struct held_rollout *h, const char *id)
{
	struct rollout_node nobody = {.rank = SIZE_MAX};
	const struct grant *g = grant_find(h, id);
	const struct rollout_node *n = NULL;
	bool moving = is_moving(h);
	if (moving && !g && h->target < h->node_count)
		n = node_find(h, id); /* only here does its place matter */
	else if (moving)
		nobody.rank = 0;
	if (g)
		nobody.granted_us = g->us;
	return rollout_want(&h->r, n ? n : &nobody, h->target);
}

void rollouts_measure(struct center *c, const char *name_tag, const char *digest, const struct rollout_measure *m)
{
	struct held_rollout *h = rollouts_find(c, name_tag);
	struct digest d;
	if (!h || digest_parse(str_from(digest), &d) < 0)
		return;
	bool fresh = digest_equal(&d, &h->fresh), old = h->has_old && digest_equal(&d, &h->old.manifest);
	if (!fresh && !old)
		return;
	rollout_measure_add(fresh ? &h->r.fresh : &h->r.old, m);
	h->measures_stale = true;
}

/* ---- calls
 * ------------------------------------------------------------------------------------------------------------ */

static void measure_format(const char *key, const struct rollout_measure *m, struct buf *out)
{
	buf_printf(out,
	           ",\"%s\":{\"requests\":%" PRIu64 ",\"errors\":%" PRIu64 ",\"ttft_us\":%" PRIu64
	           ",\"itl_us\":%" PRIu64 "}",
	           key, m->requests, m->errors, m->requests ? m->ttft_us / m->requests : 0,
	           m->tokens ? m->decode_us / m->tokens : 0);
}

void rollouts_format(struct center *c, const struct held_rollout *h, bool with_nodes, struct buf *out)
{
	static const char *const haves[] = {"nothing", "on disk", "loading", "ready", "failed"};
	char fresh[DIGEST_TEXT_SIZE], old[DIGEST_TEXT_SIZE] = "";
	size_t ready = 0;
	digest_format(&h->fresh, fresh);
	if (h->has_old)
		digest_format(&h->old.manifest, old);
	for (size_t i = 0; i < h->node_count; i++)
		ready += h->nodes[i].fresh == HAVE_READY;
	buf_printf(out,
	           "{\"model\":\"%s\",\"old\":\"%s\",\"new\":\"%s\",\"phase\":\"%s\",\"wave\":%" PRIu32
	           ",\"waves\":%" PRIu32,
	           h->name_tag, old, fresh, rollout_phase_name(h->r.phase), h->r.wave + 1, rollout_waves(&h->r.policy));
	buf_printf(out, ",\"target\":%zu,\"placed\":%zu,\"ready\":%zu,\"begun_us\":%" PRId64 ",\"since_us\":%" PRId64,
	           h->target, h->node_count, ready, h->r.begun_us, h->r.since_us);
	if (h->r.phase == ROLLOUT_SOAKING)
		buf_printf(out, ",\"soaked_us\":%" PRId64, h->r.since_us + h->r.policy.soak_us);
	buf_append_str(out, STR(",\"why\":"));
	buf_append_json(out, str_from(h->r.why));
	measure_format("old_measured", &h->r.old, out);
	measure_format("new_measured", &h->r.fresh, out);
	buf_append_str(out, STR(",\"policy\":"));
	rollout_policy_write(&h->r.policy, &h->canary, out);
	for (size_t i = 0; with_nodes && i < h->node_count; i++) {
		const struct rollout_node *n = &h->nodes[i];
		const struct registered *r = registry_find(c, str_from(n->name));
		buf_printf(out, "%s{\"id\":\"%s\",\"name\":\"%s\",\"site\":\"%s\",", i ? "," : ",\"nodes\":[", n->name,
		           r ? r->name : "", r ? r->site : "");
		buf_printf(out, "\"canary\":%s,\"away\":%s,\"granted\":%s,\"old\":\"%s\",\"new\":\"%s\"}",
		           n->canary ? "true" : "false", n->away ? "true" : "false", n->granted_us ? "true" : "false",
		           haves[n->old], haves[n->fresh]);
	}
	buf_append_str(out, with_nodes && h->node_count ? STR("]}") : STR("}"));
}

void rollouts_answer(struct center *c, struct http_exchange *x)
{
	struct buf out = {0};
	places_refresh(c);
	buf_append_str(&out, STR("{\"rollouts\":["));
	for (size_t i = 0; i < c->rollout_count; i++) {
		look(c, &c->rollouts[i]);
		buf_append_str(&out, i ? STR(",") : STR(""));
		rollouts_format(c, &c->rollouts[i], false, &out);
	}
	buf_append_str(&out, STR("]}"));
	center_answer(x, &out);
}

static int wanted(struct center *c, struct str text, struct held_rollout **ret, struct error *err)
{
	char name_tag[NAME_TAG_SIZE];
	int rc = places_name_tag(text, name_tag, err);
	if (rc < 0)
		return rc;
	places_refresh(c);
	*ret = rollouts_find(c, name_tag);
	return *ret ? 0
	            : error_set(
			  err, E_NOTFOUND,
			  "there is no roll-out of %s: one begins when its tag moves to another version while it is "
			  "placed",
			  name_tag);
}

int rollouts_one(struct center *c, struct http_exchange *x, struct str rest, struct error *err)
{
	struct held_rollout *h;
	struct buf out = {0};
	int rc = wanted(c, rest, &h, err);
	if (rc < 0)
		return rc;
	look(c, h);
	rollouts_format(c, h, true, &out);
	center_answer(x, &out);
	return 0;
}

static int halt(struct center *c, struct held_rollout *h, struct error *err)
{
	struct rollout before = h->r;
	look(c, h);
	int rc = rollout_halt(&h->r, clock_wall_us(), "halted by an operator", err);
	return rc < 0 ? rc : commit(c, h, &before, err);
}

static int go_on(struct center *c, struct held_rollout *h, struct error *err)
{
	struct rollout before = h->r;
	look(c, h);
	int rc = rollout_continue(&h->r, h->nodes, h->node_count, clock_wall_us(), err);
	return rc < 0 ? rc : commit(c, h, &before, err);
}

/* Going back from a roll-out that is done: every node that may have the new one is taken back in turn. */
static void grant_all(struct held_rollout *h)
{
	int64_t now = clock_wall_us();
	for (size_t i = 0; i < h->node_count; i++)
		h->nodes[i].granted_us = now;
}

static int go_back(struct center *c, struct held_rollout *h, const char *why, struct error *err)
{
	struct rollout before = h->r;
	bool done = h->r.phase == ROLLOUT_DONE;
	if (done && !h->has_old)
		return error_set(err, E_CONFLICT,
		                 "%s ran nowhere before: take its rules back with `mdn place --remove`", h->name_tag);
	int rc = rollout_return(&h->r, clock_wall_us(), why, err);
	if (rc < 0)
		return rc;
	look(c, h);
	if (done)
		grant_all(h);
	return commit(c, h, &before, err);
}

int rollouts_cancel(struct center *c, const char *name_tag, bool *ret_was_one, struct error *err)
{
	struct held_rollout *h = rollouts_find(c, name_tag);
	places_refresh(c);
	*ret_was_one = h && h->has_old && h->r.phase != ROLLOUT_DONE;
	if (!*ret_was_one || h->r.phase == ROLLOUT_RETURNING || h->r.phase == ROLLOUT_RETURNED)
		return 0;
	int rc = go_back(c, h, "cancelled by an operator", err);
	if (rc == 0)
		center_touch(c);
	return rc;
}

int rollouts_command(struct center *c, struct http_exchange *x, struct str rest, struct error *err)
{
	const char *slash = rest.len ? memrchr(rest.base, '/', rest.len) : NULL;
	struct str verb = slash ? (struct str){slash + 1, (size_t)(rest.base + rest.len - slash - 1)} : (struct str){0};
	struct held_rollout *h;
	int rc = wanted(c, slash ? (struct str){rest.base, (size_t)(slash - rest.base)} : rest, &h, err);
	if (rc < 0)
		return rc;
	if (str_equal(verb, STR("rollback")))
		rc = go_back(c, h, "rolled back by an operator", err);
	else if (str_equal(verb, STR("halt")))
		rc = halt(c, h, err);
	else if (str_equal(verb, STR("continue")))
		rc = go_on(c, h, err);
	else
		rc = error_set(err, E_NOTFOUND,
		               "there is no such call: POST /mdn/v1/rollouts/NAME:TAG/halt, continue or rollback");
	if (rc < 0)
		return rc;
	center_touch(c);
	rollouts_soon(c);
	http_respond(x, 204, NULL, (struct str){0});
	return 0;
}
