/* SPDX-License-Identifier: Apache-2.0 */
/* Who takes what from whom: core/spread over the nodes that are to hold a version, while one of them still lacks it.
 *
 * Made anew when somebody comes, goes, falls far behind or turns out clearly quicker or slower; looked at
 * once a second and with every new set of documents. A node gets only its own places. What nodes are measured at is
 * kept here and in memory only.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/limits.h"
#include "core/hash.h"
#include "core/spread_place.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define MEASURED_US (5 * US_PER_S)

struct pace { /* of one node */
	char id[NODE_ID_SIZE];
	struct spread_progress progress;
	int64_t since_us;   /* it fetches */
	uint64_t rates_sum; /* of its reports since rates were last looked at: one alone says little */
	uint32_t rates_count;
	bool complete;
};

enum look { LOOK_AT_NODES, LOOK_AT_REPORTS, LOOK_AT_RATES }; /* each at what those before it look at, too */

struct spread_plan {
	char name_tag[NAME_TAG_SIZE];
	struct digest manifest, inputs;
	struct pace *paces; /* those that take part, sorted by id; the origin is among them */
	size_t count;
	struct spread *spread;
	bool seen;
};

struct spreads {
	struct spread_plan *plans;
	size_t count;
	int64_t rated_us; /* when rates were last looked at */
};

static void plan_fini(struct spread_plan *p)
{
	free(p->paces);
	spread_free(p->spread);
}

void spreads_free(struct center *c)
{
	for (size_t i = 0; c->spreads && i < c->spreads->count; i++)
		plan_fini(&c->spreads->plans[i]);
	if (c->spreads)
		free(c->spreads->plans);
	free(c->spreads);
	c->spreads = NULL;
}

static struct spread_plan *plan_find(const struct spreads *s, const char *name_tag, const struct digest *manifest)
{
	for (size_t i = 0; i < s->count; i++)
		if (strcmp(s->plans[i].name_tag, name_tag) == 0 && digest_equal(&s->plans[i].manifest, manifest))
			return &s->plans[i];
	return NULL;
}

static const struct pace *pace_find(const struct spread_plan *p, const char *id)
{
	size_t from = 0, to = p ? p->count : 0;
	while (from < to) {
		size_t middle = (from + to) / 2;
		int order = strcmp(p->paces[middle].id, id);
		if (order == 0)
			return &p->paces[middle];
		if (order < 0)
			from = middle + 1;
		else
			to = middle;
	}
	return NULL;
}

/* Alive, as far as a distribution is concerned: one that never reported cannot feed anybody. */
static bool is_up(const struct center *c, const struct registered *r, int64_t now_us)
{
	const struct node_entry *e = node_map_find(c->map, str_from(r->id));
	return !r->removed && e && node_map_health(c->map, e, now_us) != NODE_DOWN;
}

static bool takes_part(struct center *c, const struct known_version *k, const struct registered *r, int64_t now_us)
{
	const struct held_rollout *h = rollouts_find(c, k->name_tag);
	bool load;
	if (strcmp(k->source, r->id) == 0)
		return is_up(c, r, now_us);
	return is_up(c, r, now_us) && places_holds(c, r, k->name_tag, &load) &&
	       (!h || rollouts_want(h, r->id) != WANT_OLD);
}

/* Who joins while others are on their way counts as late until it is judged, as does one that was away: those it would
 * feed would wait until it caught up. */
static void pace_read(const struct center *c, const struct known_version *k, const struct registered *r,
                      const struct pace *before, bool joins, enum look look, int64_t now_us, struct pace *ret)
{
	const struct model_report *m = models_reported(c, r, k->name_tag, &k->version.manifest);
	*ret = before ? *before : (struct pace){.since_us = now_us, .progress.late = joins};
	memcpy(ret->id, r->id, sizeof ret->id);
	ret->progress.have = m ? m->have_bytes : 0;
	ret->progress.site = hash_str(str_from(r->site));
	ret->progress.measured = 0;
	ret->complete = m && (m->state == MODEL_READY || m->state == MODEL_LOADING ||
	                      (m->total_bytes && m->have_bytes == m->total_bytes));
	if (look >= LOOK_AT_REPORTS && m && m->state == MODEL_FETCHING && m->fetch_rate > 0) {
		ret->rates_sum += (uint64_t)m->fetch_rate;
		ret->rates_count++;
	}
	if (look < LOOK_AT_RATES)
		return;
	if (ret->rates_count && now_us - ret->since_us > MEASURED_US)
		ret->progress.measured = ret->rates_sum / ret->rates_count;
	ret->rates_sum = ret->rates_count = 0;
}

static void judge(struct pace *paces, size_t count, const char *origin, uint64_t size)
{
	struct spread_progress *all = mem_new((count + 1) * sizeof *all);
	size_t known = 0;
	for (size_t i = 0; i < count; i++) {
		if (strcmp(paces[i].id, origin) == 0)
			continue;
		all[known] = paces[i].progress;
		all[known].have = paces[i].complete ? size : all[known].have;
		known++;
	}
	spread_judge(all, known, size);
	for (size_t i = 0, k = 0; i < count; i++)
		if (strcmp(paces[i].id, origin) != 0)
			paces[i].progress = all[k++];
	free(all);
}

static void plan_make(struct center *c, struct spread_plan *p, const struct known_version *k)
{
	struct spread_node *nodes = mem_new((p->count + 1) * sizeof *nodes);
	uint64_t salt;
	memcpy(&salt, p->manifest.bytes, sizeof salt);
	for (size_t i = 0; i < p->count; i++) {
		const struct pace *a = &p->paces[i];
		const struct registered *r = registry_find(c, str_from(a->id));
		nodes[i] = (struct spread_node){.key = hash_str(str_from(a->id)),
		                                .site = hash_str(str_from(r->site)),
		                                .rate = a->progress.rate,
		                                .origin = strcmp(a->id, k->source) == 0,
		                                .complete = a->complete,
		                                .leaf = a->progress.late,
		                                .behind = a->progress.behind};
	}
	spread_free(p->spread);
	p->spread = spread_new(nodes, p->count, salt);
	free(nodes);
}

/* What a new plan is made for. Not for one that has it all: it goes on feeding those it feeds, and counts as a root
 * once there is another reason. */
static struct digest inputs_of(struct center *c, const struct spread_plan *p)
{
	struct buf text = {0};
	for (size_t i = 0; i < p->count; i++) {
		const struct registered *r = registry_find(c, str_from(p->paces[i].id));
		buf_printf(&text, "%s %s %" PRIu64 " %d %d\n", p->paces[i].id, r->site, p->paces[i].progress.rate,
		           p->paces[i].progress.late, p->paces[i].progress.behind);
	}
	struct digest d = digest_of(text.base, text.len);
	buf_fini(&text);
	return d;
}

static uint64_t version_bytes(const struct version *v)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < v->file_count; i++)
		bytes += v->files[i].size;
	return bytes;
}

/* True when the plan changed. */
static bool refresh_version(struct center *c, const struct known_version *k, bool measured, int64_t now_us)
{
	struct spreads *s = c->spreads;
	enum look look = !measured                            ? LOOK_AT_NODES
	                 : now_us < s->rated_us + MEASURED_US ? LOOK_AT_REPORTS
	                                                      : LOOK_AT_RATES;
	struct spread_plan *p = plan_find(s, k->name_tag, &k->version.manifest);
	struct pace *paces = mem_new((c->node_count + 1) * sizeof *paces);
	size_t count = 0, lacking = 0;
	for (size_t i = 0; i < c->node_count; i++) {
		const struct registered *r = c->nodes[i];
		if (!takes_part(c, k, r, now_us))
			continue;
		pace_read(c, k, r, pace_find(p, r->id), p != NULL, look, now_us, &paces[count]);
		lacking += !paces[count].complete && strcmp(r->id, k->source) != 0;
		count++;
	}
	if (lacking == 0) {
		free(paces);
		return false; /* an old plan, if any, goes with what is not seen */
	}
	if (measured || p)
		judge(paces, count, k->source, version_bytes(&k->version));
	if (!p) {
		struct spread_plan *more = realloc(s->plans, (s->count + 1) * sizeof *more);
		if (!more)
			abort();
		s->plans = more;
		p = &s->plans[s->count++];
		*p = (struct spread_plan){.manifest = k->version.manifest};
		memcpy(p->name_tag, k->name_tag, sizeof p->name_tag);
	}
	free(p->paces);
	p->paces = paces;
	p->count = count;
	p->seen = true;
	struct digest inputs = inputs_of(c, p);
	if (p->spread && digest_equal(&inputs, &p->inputs))
		return false;
	p->inputs = inputs;
	plan_make(c, p, k);
	return true;
}

static bool refresh(struct center *c, bool measured)
{
	bool changed = false;
	size_t kept = 0;
	int64_t now_us = loop_now_us(c->loop);
	if (!c->spreads)
		c->spreads = NEW(struct spreads);
	struct spreads *s = c->spreads;
	for (size_t i = 0; i < s->count; i++)
		s->plans[i].seen = false;
	for (size_t i = 0; i < c->version_count; i++)
		if (places_rule(c, c->versions[i].name_tag, false))
			changed |= refresh_version(c, &c->versions[i], measured, now_us);
	if (measured && now_us >= s->rated_us + MEASURED_US)
		s->rated_us = now_us;
	for (size_t i = 0; i < s->count; i++) {
		changed |= !s->plans[i].seen;
		if (s->plans[i].seen)
			s->plans[kept++] = s->plans[i];
		else
			plan_fini(&s->plans[i]);
	}
	s->count = kept;
	return changed;
}

void spreads_refresh(struct center *c)
{
	refresh(c, false);
}

/* Nothing is looked at while nobody fetches. */
void spreads_tick(struct center *c)
{
	bool busy = c->spreads && c->spreads->count > 0;
	if (busy && refresh(c, true))
		center_touch(c);
}

void spreads_format(struct center *c, const struct registered *r, struct buf *out)
{
	size_t told = 0;
	buf_append_str(out, STR("\"spread\":["));
	for (size_t i = 0; c->spreads && i < c->spreads->count && told < LIMIT_NODE_MODELS; i++) {
		const struct spread_plan *p = &c->spreads->plans[i];
		const struct pace *self = pace_find(p, r->id);
		struct spread_place place = {0};
		if (!self || self->complete)
			continue;
		memcpy(place.model, p->name_tag, sizeof place.model);
		digest_format(&p->manifest, place.manifest);
		for (uint32_t s = 0; s < SPREAD_STRIPES; s++) {
			const uint32_t *parents = spread_parents(p->spread, (size_t)(self - p->paces), s);
			place.ranks[s] = spread_rank(p->spread, (size_t)(self - p->paces), s);
			for (uint32_t k = 0; k < SPREAD_PARENTS && parents[k] != SPREAD_NONE; k++)
				memcpy(place.parents[s][k], p->paces[parents[k]].id, NODE_ID_SIZE);
		}
		buf_append_str(out, told++ ? STR(",") : STR(""));
		spread_place_format(&place, out);
	}
	buf_append_str(out, STR("]"));
}
