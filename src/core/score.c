/* SPDX-License-Identifier: Apache-2.0 */
/* One sweep over the model's keys (node_map_index.h) keeps the ROUTE_CANDIDATES_MAX least in a heap; only what would
 * enter it has its health looked at. Then our ledger's dispatches, a hash lookup each, are added to those few. They can
 * only raise a score, so the best of the few is the best of all unless it now costs more than the worst that was kept:
 * then, rarely, a second sweep asks the ledger as it goes. Suspect nodes sort behind all healthy ones. Texts are filled
 * in at the end and by hand: eight sentences by printf would cost more than the sweep over a thousand nodes. */
#include "core/score.h"

#include "core/ledger_hash.h"
#include "core/node_map_index.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SCORE_NEAR_PERMILLE 100           /* within a tenth of the best, */
#define SCORE_NEAR_US (2 * INT64_C(1000)) /* or this: as good as it */
#define SUSPECT_US (INT64_C(1) << 50)     /* added to a suspect node's score: behind everybody */
#define PREFILL_MOST_US 1e12
#define KEY_PREFILL_MOST_US (1 << 30)
#define KEY_ROUND 0.999999f /* keys must not come out above the exact score */
/* Taken when the query does not say (DNS, route): a short turn. More would let noise in measured rates outweigh
 * distance. */
#define PROMPT_UNKNOWN_TOKENS 32
/* What a session's node gets ahead: its history may be there, and nothing says how long that is. */
#define SESSION_US (5 * INT64_C(1000))
#define AGE_TOLD_US INT64_C(1000000000000)
#define HOT_PERMILLE 840 /* of the candidates are no busier than that: Prequal's quantile */

struct pick {
	const struct map_place *place;
	int64_t score_us, rtt_us, queue_us, prefill_us;
	struct ledger_load own;
	int32_t warm_tokens;
	bool suspect, session;
};

struct warm_node {
	uint32_t node;
	int32_t tokens;
	bool session;
};

struct sweep {
	const struct node_map *map;
	const struct ledger *ledger;
	const struct route_query *query;
	const struct map_model *model;
	const struct map_hot *hots;
	const uint32_t *row; /* distances from the client's site; NULL: unknown */
	uint32_t self;       /* the dispatcher's own node, no way from itself; MAP_NONE */
	int64_t now_us;
	int32_t prompt_tokens;
	struct warm_node warm[AFFINITY_HOLDERS_MAX];
	size_t warm_count;
	int32_t warm_most;                      /* tokens that one of them has */
	struct pick heap[ROUTE_CANDIDATES_MAX]; /* worst on top */
	size_t count;
};

static bool is_excluded(const struct route_query *q, const char *id)
{
	for (size_t i = 0; i < q->excluded_count; i++) {
		if (str_equal(q->excluded[i], str_from(id)))
			return true;
	}
	return false;
}

static void heap_down(struct pick *heap, size_t count, size_t at)
{
	for (size_t child; (child = at * 2 + 1) < count; at = child) {
		if (child + 1 < count && heap[child + 1].score_us > heap[child].score_us)
			child++;
		if (heap[child].score_us <= heap[at].score_us)
			return;
		struct pick swap = heap[at];
		heap[at] = heap[child];
		heap[child] = swap;
	}
}

static void heap_add(struct sweep *s, const struct pick *p)
{
	if (s->count == ROUTE_CANDIDATES_MAX) {
		s->heap[0] = *p;
		heap_down(s->heap, s->count, 0);
		return;
	}
	size_t at = s->count++;
	s->heap[at] = *p;
	for (size_t up; at > 0 && s->heap[up = (at - 1) / 2].score_us < s->heap[at].score_us; at = up) {
		struct pick swap = s->heap[at];
		s->heap[at] = s->heap[up];
		s->heap[up] = swap;
	}
}

/* NULL: the place can take a request. */
static const char *why_not(const struct sweep *s, const struct map_place *p, const struct map_hot *h,
                           enum node_health health)
{
	if (health == NODE_DOWN)
		return "down";
	if (h->draining)
		return "draining";
	if (h->starting)
		return "starting";
	if (!p->ready)
		return "not ready";
	if (s->query->for_client && !h->has_api)
		return "has no public API";
	if (s->query->excluded_count > 0 && is_excluded(s->query, map_node_at(s->map, p->node)->entry.report.id))
		return "excluded";
	return NULL;
}

static void refuse(struct sweep *s, const struct map_place *p, const char *why, struct route_decision *d)
{
	if (d->refused_count == ROUTE_REFUSED_MAX)
		return;
	if (!d->refused)
		d->refused = mem_new(ROUTE_REFUSED_MAX * sizeof(*d->refused));
	const struct node_report *r = &map_node_at(s->map, p->node)->entry.report;
	const struct model_report *model = &r->models[p->link];
	struct route_refusal *f = &d->refused[d->refused_count++];
	memcpy(f->id, r->id, sizeof(f->id));
	memcpy(f->name, r->name, sizeof(f->name));
	if (strcmp(why, "down") == 0) {
		int64_t age_ms = (s->now_us - map_hots(s->map)[p->node].received_us) / 1000;
		snprintf(f->reason, sizeof(f->reason), "down: last report %lld ms ago", (long long)age_ms);
	} else if (strcmp(why, "not ready") == 0) {
		snprintf(f->reason, sizeof(f->reason), "model not ready: %s%s%.100s", model_state_name(model->state),
		         model->error[0] ? ", " : "", model->error);
	} else {
		snprintf(f->reason, sizeof(f->reason), "%s", why);
	}
}

static bool heap_takes(const struct sweep *s, int64_t score_us)
{
	return s->count < ROUTE_CANDIDATES_MAX || score_us < s->heap[0].score_us;
}

/* With what we sent there and its report has not seen. */
static void add_own(const struct sweep *s, struct pick *k)
{
	if (!s->ledger || ledger_count(s->ledger) == 0)
		return;
	const struct map_node *n = map_node_at(s->map, k->place->node);
	uint64_t seen = map_seen(n, s->query->self_id);
	k->own = ledger_unseen_hashed(s->ledger, str_from(n->entry.report.id), n->hash, str_from(s->model->name),
	                              s->model->hash, seen);
	if (k->own.running == 0)
		return;
	k->score_us -= k->queue_us;
	k->queue_us = place_queue_us(k->place, k->own.running, k->own.tokens_to_prefill);
	k->score_us += k->queue_us;
}

static const struct warm_node *warm_of(const struct sweep *s, uint32_t node)
{
	for (size_t i = 0; i < s->warm_count; i++)
		if (s->warm[i].node == node)
			return &s->warm[i];
	return NULL;
}

static struct pick pick_of(const struct sweep *s, const struct map_place *p, const struct map_hot *h, bool suspect)
{
	struct pick k = {.place = p, .suspect = suspect, .queue_us = p->queue_us};
	const struct warm_node *w = warm_of(s, p->node);
	k.rtt_us = p->node == s->self ? 0 : s->row ? s->row[h->site] : NODE_DISTANCE_UNKNOWN_US;
	if (w) { /* at least one token is always computed */
		k.warm_tokens = w->tokens < s->prompt_tokens ? w->tokens : s->prompt_tokens - 1;
		k.session = w->session;
	}
	k.prefill_us = (int64_t)fmin((s->prompt_tokens - k.warm_tokens) * p->us_per_token, PREFILL_MOST_US);
	/* What another has computed already would keep those behind it waiting, too. */
	int32_t again = s->warm_most > k.warm_tokens ? s->warm_most - k.warm_tokens : 0;
	k.score_us = k.rtt_us + k.queue_us + k.prefill_us;
	k.score_us += (int64_t)fmin(again * p->us_per_token, PREFILL_MOST_US);
	k.score_us += (suspect ? SUSPECT_US : 0) - (k.session ? SESSION_US : 0);
	return k;
}

static void consider(struct sweep *s, const struct map_place *p, const struct map_hot *h, bool suspect, bool with_own)
{
	struct pick k = pick_of(s, p, h, suspect);
	if (with_own && heap_takes(s, k.score_us))
		add_own(s, &k);
	if (heap_takes(s, k.score_us))
		heap_add(s, &k);
}

/* refusals NULL: told before. */
static void try_place(struct sweep *s, const struct map_place *p, bool with_own, struct route_decision *refusals)
{
	const struct map_hot *h = &s->hots[p->node];
	enum node_health health = map_health(s->map, h, s->now_us);
	const char *why = why_not(s, p, h, health);
	if (!why)
		consider(s, p, h, health == NODE_SUSPECT, with_own);
	else if (refusals)
		refuse(s, p, why, refusals);
}

/* Places [from, to) but the dispatcher's own and the warm ones. */
static void sweep(struct sweep *s, uint32_t from, uint32_t to, bool with_own, struct route_decision *refusals)
{
	const struct map_key *keys = s->model->keys;
	float tokens = (float)s->prompt_tokens;
	for (uint32_t at = from; at < to; at++) {
		const struct map_key *key = &keys[at];
		int64_t least_us = (int64_t)(s->row ? s->row[key->site] : NODE_DISTANCE_UNKNOWN_US) + key->queue_us;
		float prefill_us = tokens * key->us_per_token;
		least_us += prefill_us < KEY_PREFILL_MOST_US ? (int64_t)(prefill_us * KEY_ROUND) : KEY_PREFILL_MOST_US;
		uint32_t node = s->model->places[at].node;
		if (heap_takes(s, least_us) && node != s->self && !warm_of(s, node))
			try_place(s, &s->model->places[at], with_own, refusals);
	}
}

/* The dispatcher's own place first and those that are warm (their keys do not tell that they have no way, or less to
 * prefill), then all from a random start. */
static void sweep_all(struct sweep *s, uint32_t start, bool with_own, struct route_decision *refusals)
{
	const struct map_place *own = s->self == MAP_NONE ? NULL : map_place_find(s->map, s->self, s->model);
	if (own)
		try_place(s, own, with_own, refusals);
	for (size_t i = 0; i < s->warm_count; i++) {
		const struct map_place *warm = map_place_find(s->map, s->warm[i].node, s->model);
		if (warm && warm != own)
			try_place(s, warm, with_own, refusals);
	}
	sweep(s, start, s->model->count, with_own, refusals);
	sweep(s, 0, start, with_own, refusals);
}

static int by_score(const void *a, const void *b)
{
	int64_t x = ((const struct pick *)a)->score_us, y = ((const struct pick *)b)->score_us;
	return (x > y) - (x < y);
}

/* Fills the heap and sorts it, best first. */
static void find_best(struct sweep *s, uint32_t start, struct route_decision *refusals)
{
	sweep_all(s, start, false, refusals);
	int64_t worst_us = s->count == ROUTE_CANDIDATES_MAX ? s->heap[0].score_us : INT64_MAX;
	for (size_t i = 0; i < s->count; i++)
		add_own(s, &s->heap[i]);
	qsort(s->heap, s->count, sizeof(s->heap[0]), by_score);
	if (s->count == 0 || s->heap[0].score_us <= worst_us)
		return;
	s->count = 0;
	sweep_all(s, start, true, NULL);
	qsort(s->heap, s->count, sizeof(s->heap[0]), by_score);
}

static char *put_text(char *to, const char *text)
{
	size_t len = strlen(text);
	memcpy(to, text, len + 1);
	return to + len;
}

static char *put_number(char *to, uint64_t value)
{
	char digits[20];
	size_t n = 0;
	do
		digits[n++] = (char)('0' + value % 10);
	while (value /= 10);
	while (n > 0)
		*to++ = digits[--n];
	*to = '\0';
	return to;
}

/* "12.3 ms" of a duration that is not negative */
static char *put_ms(char *to, int64_t us)
{
	to = put_number(to, (uint64_t)us / 1000);
	*to++ = '.';
	return put_text(put_number(to, (uint64_t)us / 100 % 10), " ms");
}

/* At most 4 durations of 15 digits (all are bounded by 1e12 us), 3 counts of 10 and 160 letters: fits. */
static void describe(const struct pick *k, int64_t age_us, char *to)
{
	to = put_ms(put_text(to, "distance "), k->rtt_us);
	to = put_ms(put_text(to, " + queue "), k->queue_us);
	to = put_ms(put_text(to, " + prefill "), k->prefill_us);
	to = put_number(put_text(to, "; "), (uint64_t)lround(k->place->load + k->own.running));
	to = put_number(put_text(to, " of "), (uint64_t)k->place->slots);
	to = put_text(to, " slots busy");
	if (k->place->load_us)
		to = put_text(to, "; it must be loaded first");
	if (age_us > NODE_STALE_AGE_US)
		to = put_text(put_ms(put_text(to, "; its load, "), age_us), " old, is not believed");
	else if (age_us > NODE_SUSPECT_AGE_US)
		to = put_text(put_ms(put_text(to, "; its load is "), age_us), " old");
	if (k->suspect)
		to = put_text(to, "; its reports are late");
	if (k->warm_tokens > 0)
		put_text(put_number(put_text(to, "; prefix of "), (uint64_t)k->warm_tokens), " tokens is warm there");
	else if (k->session)
		put_text(to, "; the session was there");
}

static void fill(const struct sweep *s, const struct pick *k, struct route_candidate *c)
{
	const struct node_report *r = &map_node_at(s->map, k->place->node)->entry.report;
	put_text(c->id, r->id); /* the same sizes on both sides */
	put_text(c->name, r->name);
	put_text(c->site, r->site);
	put_text(c->node_url, r->node_url);
	put_text(c->api_url, r->api_url);
	put_text(c->model, s->model->name);
	c->score_us = k->rtt_us + k->queue_us + k->prefill_us;
	c->rtt_us = k->rtt_us;
	c->queue_us = k->queue_us;
	c->prefill_us = k->prefill_us;
	c->warm_tokens = k->warm_tokens;
	c->session = k->session;
	c->age_us = s->now_us - s->hots[k->place->node].received_us;
	describe(k, c->age_us < AGE_TOLD_US ? c->age_us : AGE_TOLD_US, c->reason);
}

static double use_of(const struct pick *k)
{
	return (k->place->load + k->own.running) / k->place->slots;
}

static int by_use(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Prequal's rule: of those as good as the best, the ones that are not hot; all hot: the least busy. ret_cold: their
 * places in the heap, in its order; how many. */
static size_t leave_hot(const struct sweep *s, size_t near, size_t ret_cold[static ROUTE_CANDIDATES_MAX])
{
	double uses[ROUTE_CANDIDATES_MAX];
	size_t count = 0, least = 0;
	for (size_t i = 0; i < s->count; i++)
		uses[i] = use_of(&s->heap[i]);
	qsort(uses, s->count, sizeof(uses[0]), by_use);
	double hot = uses[(s->count - 1) * HOT_PERMILLE / 1000];
	for (size_t i = 0; i < near; i++) {
		if (use_of(&s->heap[i]) <= hot)
			ret_cold[count++] = i;
		if (use_of(&s->heap[i]) < use_of(&s->heap[least]))
			least = i;
	}
	if (count == 0)
		ret_cold[count++] = least;
	return count;
}

/* The one of `cold` that the prompt's key belongs to, so that other dispatchers send it there, too. */
static size_t by_key(const struct sweep *s, const size_t *cold, size_t count)
{
	uint64_t most = 0;
	size_t best = cold[0];
	for (size_t i = 0; i < count; i++) {
		const struct pick *k = &s->heap[cold[i]];
		uint64_t rank = policy_rank(s->map, k->place->node, s->query->key);
		if (rank > most && k->rtt_us <= s->heap[0].rtt_us + SCORE_NEAR_US) {
			most = rank;
			best = cold[i];
		}
	}
	return best;
}

/* Of those as good as the best: who is warm; whom the prompt belongs to; ourselves, for a hop costs something; else two
 * at random, the better of the two. */
static size_t draw(const struct sweep *s, struct rng *rng)
{
	int64_t best_us = s->heap[0].score_us;
	int64_t pure_us = s->heap[0].suspect ? best_us - SUSPECT_US : best_us;
	int64_t near_us = pure_us * SCORE_NEAR_PERMILLE / 1000;
	size_t near = 1, cold[ROUTE_CANDIDATES_MAX];
	if (near_us < SCORE_NEAR_US)
		near_us = SCORE_NEAR_US;
	while (near < s->count && s->heap[near].score_us <= best_us + near_us)
		near++;
	for (size_t i = 0; i < near && s->warm_count > 0; i++)
		if (s->heap[i].warm_tokens > 0 || s->heap[i].session)
			return i;
	if (near == 1)
		return 0;
	size_t count = leave_hot(s, near, cold);
	if (s->query->key)
		return by_key(s, cold, count);
	for (size_t i = 0; i < count && s->self != MAP_NONE; i++)
		if (s->heap[cold[i]].place->node == s->self)
			return cold[i];
	if (!rng)
		return cold[0];
	size_t a = rng_below(rng, count), b = rng_below(rng, count);
	return s->heap[cold[b]].score_us < s->heap[cold[a]].score_us ? cold[b] : cold[a];
}

/* ---- policies by other names --------------------------------------------------------------------------- */

/* Places that can take it; suspect ones only when there are no others. */
static uint32_t all_fit(const struct sweep *s, uint32_t *fit)
{
	uint32_t count = 0, suspects = 0;
	for (uint32_t i = 0; i < s->model->count; i++) {
		const struct map_place *p = &s->model->places[i];
		const struct map_hot *h = &s->hots[p->node];
		enum node_health health = map_health(s->map, h, s->now_us);
		if (why_not(s, p, h, health))
			continue;
		if (health == NODE_SUSPECT)
			fit[s->model->count - ++suspects] = i;
		else
			fit[count++] = i;
	}
	if (count == 0 && suspects > 0)
		memmove(fit, fit + s->model->count - suspects, suspects * sizeof(*fit));
	return count > 0 ? count : suspects;
}

/* Its choice; when that is none of the best, it takes the place of the last of them. */
static size_t by_policy(struct sweep *s, struct rng *rng)
{
	uint32_t *fit = mem_resize(NULL, s->model->count, sizeof(*fit));
	const struct policy_pool pool = {
	    .map = s->map,
	    .model = s->model,
	    .ledger = s->ledger,
	    .self_id = s->query->self_id,
	    .fit = fit,
	    .fit_count = all_fit(s, fit),
	    .warm = s->query->warm,
	    .warm_count = s->query->warm_count,
	    .prompt_tokens = s->prompt_tokens,
	    .key = s->query->key,
	    .session_key = s->query->session_key,
	    .turn = s->query->turn,
	    .rng = rng,
	};
	const struct map_place *p = &s->model->places[s->query->policy->choose(&pool)];
	free(fit);
	for (size_t i = 0; i < s->count; i++)
		if (s->heap[i].place == p)
			return i;
	const struct map_hot *h = &s->hots[p->node];
	s->heap[s->count - 1] = pick_of(s, p, h, map_health(s->map, h, s->now_us) == NODE_SUSPECT);
	add_own(s, &s->heap[s->count - 1]);
	return s->count - 1;
}

/* ---- */

/* Those of the query that live the life in which they computed it. */
static void take_warm(struct sweep *s)
{
	for (size_t i = 0; i < s->query->warm_count && s->warm_count < AFFINITY_HOLDERS_MAX; i++) {
		const struct route_warm *w = &s->query->warm[i];
		uint32_t node = map_node_find(s->map, str_from(w->id));
		if (node == MAP_NONE || map_node_at(s->map, node)->entry.report.boot != w->boot)
			continue;
		s->warm[s->warm_count++] = (struct warm_node){node, w->tokens, w->session};
		int32_t tokens = w->tokens < s->prompt_tokens ? w->tokens : s->prompt_tokens - 1;
		s->warm_most = tokens > s->warm_most ? tokens : s->warm_most;
	}
}

static int nothing_found(const struct sweep *s, const struct route_decision *d, struct error *err)
{
	int width = (int)(s->query->model.len < 128 ? s->query->model.len : 128);
	const char *model = s->query->model.base ? s->query->model.base : "";
	if (!s->model || s->model->count == 0)
		return error_set(err, E_NOTFOUND, "no node has the model \"%.*s\"; `mdn models` lists what there is",
		                 width, model);
	return error_set(err, E_UNAVAILABLE,
	                 "%u nodes have the model \"%.*s\" but none can take a request now (%.48s: %.100s)",
	                 s->model->count, width, model, d->refused_count ? d->refused[0].name : "?",
	                 d->refused_count ? d->refused[0].reason : "?");
}

int route_decide(const struct node_map *map, const struct ledger *ledger, const struct route_query *query,
                 int64_t now_us, struct rng *rng, struct route_decision *ret_decision, struct error *err)
{
	struct route_decision d = {0};
	struct sweep s;
	s.map = map;
	s.ledger = ledger;
	s.query = query;
	s.model = map_model_find(map, query->model);
	s.row = NULL;
	s.self = query->for_client || query->self_id.len == 0 ? MAP_NONE : map_node_find(map, query->self_id);
	s.now_us = now_us;
	s.prompt_tokens = query->prompt_tokens > 0 ? query->prompt_tokens : PROMPT_UNKNOWN_TOKENS;
	s.count = s.warm_count = 0;
	s.warm_most = 0;
	take_warm(&s);
	uint32_t site = query->client_site.len > 0 ? map_site_find(map, query->client_site) : MAP_NONE;
	if (site != MAP_NONE)
		s.row = map_distances(map, site);

	s.hots = map_hots(map);
	uint32_t count = s.model ? s.model->count : 0;
	/* From a random start, so that equals beyond the heap's size take turns. */
	if (count > 0)
		find_best(&s, count > ROUTE_CANDIDATES_MAX && rng ? (uint32_t)rng_below(rng, count) : 0, &d);
	if (s.count == 0) {
		*ret_decision = d;
		return nothing_found(&s, &d, err);
	}
	d.choice = query->policy && query->policy->choose ? by_policy(&s, rng) : draw(&s, rng);
	d.candidates = mem_resize(NULL, s.count, sizeof(*d.candidates));
	d.candidate_count = s.count;
	for (size_t i = 0; i < s.count; i++)
		fill(&s, &s.heap[i], &d.candidates[i]);
	*ret_decision = d;
	return 0;
}

void route_decision_fini(struct route_decision *d)
{
	if (!d)
		return;
	free(d->candidates);
	free(d->refused);
	*d = (struct route_decision){0};
}
