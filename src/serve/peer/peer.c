/* SPDX-License-Identifier: Apache-2.0 */
/* peer.c - what is assigned, from whom it can be had, and how far each version is.
 *
 * A version is a set of files; files are fetched one by one by digest (fetch.c), so two versions that share a file
 * share its fetch. Sources keep their number as long as they stay, for chunk plans know them by it. It does not drop
 * finished blobs: that is garbage collection's work.
 */
#include "serve/peer/room.h"

#include "base/log.h"
#include "core/hash.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t key_of(struct str id)
{
	struct digest d = digest_of(id.base, id.len);
	uint64_t key;
	memcpy(&key, d.bytes, sizeof key);
	return key;
}

static bool active(enum fetch_stage s)
{
	return s != FETCH_DONE && s != FETCH_FAILED;
}

static void on_tick(void *arg)
{
	struct peer *p = arg;
	int64_t now = loop_now_us(p->loop);
	bool moving = false;
	rate_tick(&p->rate, TICK_US);
	for (size_t i = 0; i < PEER_CLASSES_MAX; i++)
		rate_tick(&p->class_rates[i], TICK_US);
	for (struct fetch *f = p->fetches, *next; f; f = next) {
		next = fetch_next(f);
		fetch_tick(f, now);
		moving = moving || active(fetch_stage(f));
	}
	if (moving && p->o.on_progress)
		p->o.on_progress(p->o.arg);
}

int peer_new(struct loop *loop, const struct peer_options *options, struct peer **ret_peer, struct error *err)
{
	struct peer *p = NEW(struct peer);
	p->loop = loop;
	p->o = *options;
	if (!str_copy(options->site, p->site, sizeof p->site) ||
	    !str_copy(options->domain, p->domain, sizeof p->domain)) {
		free(p);
		return error_set(err, E_LIMIT, "site or domain name is longer than %d bytes", NODE_TEXT_SIZE - 1);
	}
	p->self_key = key_of(options->self_id);
	rng_init(&p->rng, rng_seed());
	turns_init(&p->turns, loop);
	p->tick = loop_timer_new(loop, on_tick, p);
	rate_set(&p->rate, p->o.rate_max);
	rate_tick(&p->rate, TICK_US);
	loop_timer_start(p->tick, TICK_US, TICK_US);
	*ret_peer = p;
	return 0;
}

static void versions_free(struct version *versions, size_t count)
{
	for (size_t i = 0; i < count; i++)
		version_fini(&versions[i]);
	free(versions);
}

void peer_free(struct peer *p)
{
	if (!p)
		return;
	while (p->fetches)
		fetch_abandon(p->fetches);
	while (p->dropped)
		fetch_abandon(p->dropped);
	turns_fini(&p->turns);
	sends_fini(&p->sends);
	loop_timer_free(p->tick);
	versions_free(p->versions, p->version_count);
	free(p->version_told);
	free(p->known);
	free(p->spreads);
	free(p);
}

void peer_set_limits(struct peer *p, int32_t parallel, uint64_t rate_max)
{
	p->o.parallel = parallel;
	rate_set(&p->rate, rate_max);
}

void peer_set_classes(struct peer *p, const struct peer_class *classes, size_t count)
{
	memset(p->classes, 0, sizeof p->classes);
	for (size_t i = 0; i < PEER_CLASSES_MAX; i++) {
		if (i < count)
			p->classes[i] = classes[i];
		rate_set(&p->class_rates[i], p->classes[i].rate_max);
	}
}

static uint32_t classes_of(const struct peer *p, const struct peer_class *classes, const char *site)
{
	uint32_t bits = 0;
	for (size_t i = 0; i < PEER_CLASSES_MAX; i++) {
		const char *own = classes[i].site;
		bool in = own[0] ? strcmp(own, site) == 0 : strcmp(site, p->site) != 0;
		if (in && classes[i].rate_max)
			bits |= 1u << i;
	}
	return bits;
}

uint32_t peer_classes_of(const struct peer *p, const char *site)
{
	return classes_of(p, p->classes, site);
}

void peer_set_send_rates(struct peer *p, uint64_t rate_max, const struct peer_class *classes, size_t count)
{
	uint64_t rates[SENDS_RATES] = {rate_max};
	memset(p->send_classes, 0, sizeof p->send_classes);
	p->sends_by_class = false;
	for (size_t i = 0; i < PEER_CLASSES_MAX && i < count; i++) {
		p->send_classes[i] = classes[i];
		rates[1 + i] = classes[i].rate_max;
		p->sends_by_class = p->sends_by_class || classes[i].rate_max;
	}
	sends_set(&p->sends, rates);
}

/* Of somebody who is not known here, or whose connection says no name, no site is known: then it is another one. */
static const char *site_of(const struct peer *p, struct str identity)
{
	const char *slash = identity.len ? memrchr(identity.base, '/', identity.len) : NULL;
	struct str id = slash ? (struct str){slash + 1, (size_t)(identity.base + identity.len - slash - 1)} : identity;
	for (size_t i = 0; i < p->known_count; i++)
		if (str_equal(str_from(p->known[i].id), id))
			return p->known[i].site;
	return "";
}

bool peer_is_near(const struct peer *p, struct str identity)
{
	return strcmp(site_of(p, identity), p->site) == 0;
}

uint32_t peer_sends_to(const struct peer *p, struct str identity)
{
	return p->sends_by_class ? 1 | classes_of(p, p->send_classes, site_of(p, identity)) << 1 : 1;
}

/* ---- sources ---------------------------------------------------------------------------------- */

static const struct peer_source *source_in(const struct peer_source *list, size_t count, const char *id)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(list[i].id, id) == 0)
			return &list[i];
	return NULL;
}

static bool source_known(const struct peer *p, const char *id)
{
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++)
		if (p->sources[i].used && strcmp(p->sources[i].at.id, id) == 0)
			return true;
	return false;
}

static void source_drop(struct peer *p, uint32_t i)
{
	p->sources[i].used = false;
	for (struct fetch *f = p->fetches; f; f = fetch_next(f))
		fetch_drop_source(f, i);
}

static void source_add(struct peer *p, const struct peer_source *from)
{
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++) {
		struct source *s = &p->sources[i];
		if (s->used)
			continue;
		*s = (struct source){.used = true, .at = *from};
		snprintf(s->identity, sizeof s->identity, "spiffe://%s/node/%s", p->domain, from->id);
		return;
	}
}

static bool planned(const struct peer *p, const char *id)
{
	for (size_t i = 0; i < p->spread_count; i++)
		for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
			for (uint32_t k = 0; k < SPREAD_PARENTS; k++)
				if (strcmp(p->spreads[i].parents[s][k], id) == 0)
					return true;
	return false;
}

static void replan(struct peer *p)
{
	for (struct fetch *f = p->fetches; f; f = fetch_next(f))
		fetch_replan(f);
}

/* Places are few (CHUNK_SOURCES_MAX): origins first, then whom the plan names, then this site, then the rest. Those
 * without a place keep theirs, unless others need it. */
static void sources_choose(struct peer *p)
{
	const struct peer_source *chosen[CHUNK_SOURCES_MAX];
	uint32_t count = 0;
	for (int round = 0; round < 4; round++) {
		for (size_t i = 0; i < p->known_count && count < CHUNK_SOURCES_MAX; i++) {
			const struct peer_source *s = &p->known[i];
			int rank = s->origin ? 0 : planned(p, s->id) ? 1 : strcmp(s->site, p->site) == 0 ? 2 : 3;
			if (rank == round)
				chosen[count++] = s;
		}
	}
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++) {
		bool stays = false;
		for (uint32_t k = 0; k < count && p->sources[i].used; k++)
			stays = stays || strcmp(chosen[k]->id, p->sources[i].at.id) == 0;
		if (p->sources[i].used && !stays)
			source_drop(p, i);
	}
	for (uint32_t k = 0; k < count; k++)
		if (!source_known(p, chosen[k]->id))
			source_add(p, chosen[k]);
	replan(p);
}

void peer_set_sources(struct peer *p, const struct peer_source *sources, size_t count)
{
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++) {
		const struct source *s = &p->sources[i];
		const struct peer_source *now = s->used ? source_in(sources, count, s->at.id) : NULL;
		bool same = now && strcmp(now->url, s->at.url) == 0 && strcmp(now->site, s->at.site) == 0 &&
		            now->origin == s->at.origin;
		if (s->used && !same)
			source_drop(p, i);
	}
	free(p->known);
	p->known = mem_new((count + 1) * sizeof *p->known);
	memcpy(p->known, sources, count * sizeof *sources);
	p->known_count = count;
	sources_choose(p);
}

void peer_set_spread(struct peer *p, const struct spread_place *spreads, size_t count)
{
	free(p->spreads);
	p->spreads = mem_new((count + 1) * sizeof *p->spreads);
	memcpy(p->spreads, spreads, count * sizeof *spreads);
	p->spread_count = count;
	sources_choose(p);
}

/* ---- parents ---------------------------------------------------------------------------------- */

static uint32_t source_number(const struct peer *p, const char *id)
{
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++)
		if (p->sources[i].used && strcmp(p->sources[i].at.id, id) == 0)
			return i;
	return CHUNK_SOURCES_MAX;
}

static bool version_has(const struct version *v, const struct fetch *f)
{
	for (size_t i = 0; i < v->file_count; i++)
		if (fetch_is(f, &v->files[i].digest))
			return true;
	return false;
}

/* The center's plan of a version with this file. */
static const struct spread_place *spread_of(const struct peer *p, const struct fetch *f)
{
	char manifest[DIGEST_TEXT_SIZE];
	for (size_t v = 0; v < p->version_count; v++) {
		digest_format(&p->versions[v].manifest, manifest);
		for (size_t i = 0; i < p->spread_count && version_has(&p->versions[v], f); i++)
			if (strcmp(p->spreads[i].manifest, manifest) == 0)
				return &p->spreads[i];
	}
	return NULL;
}

/* Without a center's plan: as if all receivers known here took part. Everybody who knows the same comes to the same. */
static uint32_t parents_compute(const struct peer *p, const struct fetch *f, uint32_t stripe,
                                uint32_t ret[SPREAD_PARENTS], uint32_t *ret_rank)
{
	struct spread_node nodes[CHUNK_SOURCES_MAX + 1] = {{.key = p->self_key, .site = hash_str(str_from(p->site))}};
	uint32_t numbers[CHUNK_SOURCES_MAX + 1], count = 1, found = 0;
	uint64_t salt;
	memcpy(&salt, fetch_digest(f)->bytes, sizeof salt);
	for (uint32_t i = 0; i < CHUNK_SOURCES_MAX; i++) {
		const struct source *s = &p->sources[i];
		if (!s->used || !(s->at.origin || s->at.receiver))
			continue;
		numbers[count] = i;
		nodes[count++] = (struct spread_node){
		    .key = key_of(str_from(s->at.id)), .site = hash_str(str_from(s->at.site)), .origin = s->at.origin};
	}
	struct spread *spread = spread_new(nodes, count, salt);
	const uint32_t *parents = spread_parents(spread, 0, stripe);
	for (uint32_t i = 0; i < SPREAD_PARENTS && parents[i] != SPREAD_NONE; i++)
		ret[found++] = numbers[parents[i]];
	*ret_rank = spread_rank(spread, 0, stripe);
	spread_free(spread);
	return found;
}

uint32_t peer_parents(const struct peer *p, const struct fetch *f, uint32_t stripe, uint32_t ret[SPREAD_PARENTS],
                      uint32_t *ret_rank)
{
	const struct spread_place *spread = spread_of(p, f);
	uint32_t found = 0;
	if (!spread)
		return parents_compute(p, f, stripe, ret, ret_rank);
	for (uint32_t i = 0; i < SPREAD_PARENTS; i++) {
		uint32_t source = source_number(p, spread->parents[stripe][i]);
		if (source != CHUNK_SOURCES_MAX)
			ret[found++] = source;
	}
	*ret_rank = spread->ranks[stripe];
	return found;
}

/* ---- versions --------------------------------------------------------------------------------- */

struct fetch *peer_fetch(const struct peer *p, const struct digest *d)
{
	for (struct fetch *f = p->fetches; f; f = fetch_next(f))
		if (fetch_is(f, d))
			return f;
	return NULL;
}

static bool version_done(const struct peer *p, const struct version *v)
{
	for (size_t i = 0; i < v->file_count; i++) {
		const struct fetch *f = peer_fetch(p, &v->files[i].digest);
		if (!f || fetch_stage(f) != FETCH_DONE)
			return false;
	}
	return true;
}

void peer_fetched(struct peer *p)
{
	for (size_t i = 0; i < p->version_count; i++) {
		if (p->version_told[i] || !version_done(p, &p->versions[i]))
			continue;
		p->version_told[i] = true;
		log_info("peer", "%s:%s is on disk, verified", p->versions[i].name, p->versions[i].tag);
		if (p->o.on_ready)
			p->o.on_ready(p->o.arg, &p->versions[i]);
	}
	if (p->o.on_progress)
		p->o.on_progress(p->o.arg);
}

static bool wanted(const struct version *versions, size_t count, const struct fetch *f)
{
	for (size_t v = 0; v < count; v++)
		for (size_t i = 0; i < versions[v].file_count; i++)
			if (fetch_is(f, &versions[v].files[i].digest))
				return true;
	return false;
}

static bool same_files(const struct version *a, const struct version *b)
{
	bool same = a->file_count == b->file_count;
	for (size_t i = 0; same && i < a->file_count; i++)
		same = digest_equal(&a->files[i].digest, &b->files[i].digest);
	return same;
}

/* The same content under the same name was told before and need not be told again. */
static bool told_before(const struct peer *p, const struct version *v)
{
	for (size_t i = 0; i < p->version_count; i++) {
		const struct version *o = &p->versions[i];
		if (strcmp(o->name, v->name) == 0 && strcmp(o->tag, v->tag) == 0 &&
		    digest_equal(&o->manifest, &v->manifest))
			return p->version_told[i] && same_files(o, v);
	}
	return false;
}

void peer_set_assigned(struct peer *p, const struct version *versions, size_t count)
{
	struct version *now = mem_new((count + 1) * sizeof *now);
	bool *told = mem_new((count + 1) * sizeof *told);
	for (size_t i = 0; i < count; i++) {
		told[i] = told_before(p, &versions[i]);
		version_copy(&versions[i], &now[i]);
	}
	versions_free(p->versions, p->version_count);
	free(p->version_told);
	p->versions = now;
	p->version_told = told;
	p->version_count = count;

	for (struct fetch *f = p->fetches, *next; f; f = next) {
		next = fetch_next(f);
		if (!wanted(now, count, f))
			fetch_free(f);
	}
	for (size_t v = 0; v < count; v++)
		for (size_t i = 0; i < now[v].file_count; i++)
			if (!peer_fetch(p, &now[v].files[i].digest))
				fetch_new(p, &now[v].files[i]);
	peer_fetched(p);
}

static void version_progress(const struct peer *p, const struct version *version, struct model_report *r)
{
	*r = (struct model_report){.state = MODEL_READY};
	struct buf text = {0};
	buf_printf(&text, "%s:%s", version->name, version->tag);
	str_copy(buf_str(&text), r->name, sizeof r->name);
	buf_fini(&text);
	digest_format(&version->manifest, r->digest);
	for (size_t i = 0; i < version->file_count; i++) {
		const struct fetch *f = peer_fetch(p, &version->files[i].digest);
		enum fetch_stage stage = fetch_stage(f);
		r->total_bytes += version->files[i].size;
		r->have_bytes += fetch_have_bytes(f);
		r->fetch_rate += fetch_rate(f);
		fetch_sources(f, r);
		if (stage == FETCH_FAILED) {
			r->state = MODEL_FAILED;
			snprintf(r->error, sizeof r->error, "%s", fetch_error(f));
		} else if (stage != FETCH_DONE && r->state != MODEL_FAILED) {
			r->state = MODEL_FETCHING;
		}
		if (stage != FETCH_DONE && stage != FETCH_FAILED && r->file[0] == '\0' && fetch_have_bytes(f) > 0)
			str_copy(str_from(version->files[i].path), r->file, sizeof r->file);
	}
	if (r->state == MODEL_FETCHING && r->have_bytes == 0)
		r->state = MODEL_WAITING;
}

static bool progress(const struct peer *p, struct str name_tag, const struct digest *manifest, struct model_report *r)
{
	for (size_t v = 0; v < p->version_count; v++) {
		const struct version *version = &p->versions[v];
		char text[2 * NODE_TEXT_SIZE + 2];
		snprintf(text, sizeof text, "%s:%s", version->name, version->tag);
		if (!str_equal(str_from(text), name_tag) || (manifest && !digest_equal(manifest, &version->manifest)))
			continue;
		version_progress(p, version, r);
		return true;
	}
	return false;
}

bool peer_progress(const struct peer *p, struct str name_tag, struct model_report *ret_report)
{
	return progress(p, name_tag, NULL, ret_report);
}

bool peer_progress_of(const struct peer *p, struct str name_tag, const struct digest *manifest,
                      struct model_report *ret_report)
{
	return progress(p, name_tag, manifest, ret_report);
}
