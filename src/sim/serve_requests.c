/* SPDX-License-Identifier: Apache-2.0 */
/* Every request by itself. Events are in three places, whichever is first goes next: the next arrival (drawn by
 * thinning), messages on their way (a heap), and each node's next event (a heap that knows where each node is).
 * Requests live in slots that are used again. Reports go out one node after the other through each period.
 */
#include "sim/serve.h"

#include "sim/dispatch.h"
#include "sim/engine_model.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define SILENT_US INT64_C(10000000) /* a client waits so long for a connection that nobody answers */
#define NONE UINT32_MAX

struct request {
	int64_t came_us, first_us;
	int64_t back_us; /* from the node to the user */
	uint32_t city, model, site, node, tries, excluded[SCENARIO_TRIES_MAX], next_free;
	int32_t prompt, uncached, output;
	struct ledger_ticket *ticket;
	uint64_t number;
};

enum { REFUSALS_KEPT = 4 };
#define REFUSED_US INT64_C(1000000) /* as long a refusal keeps a gateway from trying again (node_map.h) */

/* Of a site's gateway: who refused its connections lately, the newest first. */
struct refusals {
	uint32_t nodes[REFUSALS_KEPT];
	int64_t until_us[REFUSALS_KEPT];
};

enum message_kind { AT_NODE, REFUSED, AT_GATEWAY, FAILURE, RECOVERY };

struct message {
	int64_t at_us;
	uint64_t order;
	enum message_kind kind;
	uint32_t request; /* FAILURE, RECOVERY: which */
};

struct node {
	struct engine_model engine;
	uint64_t seq, *seen; /* seen: of each site's gateway */
	int64_t next_us;
	bool dead, silent;
};

struct play {
	const struct sim_world *w;
	const struct scenario *s;
	struct figures *f;
	struct dispatch d;
	struct node *nodes;
	struct refusals *refusals; /* of sites */
	struct request *requests;
	uint32_t request_count, request_cap, free_request, open;
	struct message *messages;
	uint32_t message_count, message_cap;
	uint64_t order;
	uint32_t *heap, *heap_at; /* nodes by next_us; where each is */
	struct rng rng;
	int64_t now_us, arrival_us, report_us, snapshot_us;
	uint32_t report_node;
	int64_t line_us;           /* when the report's next line begins */
	double busy_us;            /* of all slots until then */
	struct node_report report; /* scratch, with its arrays */
};

/* ---- requests and messages ------------------------------------------------------------------- */

static uint32_t request_new(struct play *p)
{
	uint32_t at = p->free_request;
	if (at != NONE) {
		p->free_request = p->requests[at].next_free;
	} else {
		if (p->request_count == p->request_cap) {
			p->request_cap = p->request_cap ? p->request_cap * 2 : 1024;
			p->requests = mem_resize(p->requests, p->request_cap, sizeof(*p->requests));
		}
		at = p->request_count++;
	}
	p->requests[at] = (struct request){.first_us = -1};
	p->open++;
	return at;
}

static void request_end(struct play *p, uint32_t at)
{
	struct request *r = &p->requests[at];
	ledger_close(r->ticket);
	r->ticket = NULL;
	r->next_free = p->free_request;
	p->free_request = at;
	p->open--;
}

static bool is_sooner(const struct message *a, const struct message *b)
{
	return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

static void send(struct play *p, int64_t at_us, enum message_kind kind, uint32_t request)
{
	struct message m = {at_us, p->order++, kind, request};
	if (p->message_count == p->message_cap) {
		p->message_cap = p->message_cap ? p->message_cap * 2 : 256;
		p->messages = mem_resize(p->messages, p->message_cap, sizeof(*p->messages));
	}
	uint32_t at = p->message_count++;
	for (uint32_t up; at > 0 && is_sooner(&m, &p->messages[up = (at - 1) / 2]); at = up)
		p->messages[at] = p->messages[up];
	p->messages[at] = m;
}

static struct message receive(struct play *p)
{
	struct message first = p->messages[0], last = p->messages[--p->message_count];
	uint32_t at = 0, count = p->message_count;
	for (uint32_t child; (child = at * 2 + 1) < count; at = child) {
		if (child + 1 < count && is_sooner(&p->messages[child + 1], &p->messages[child]))
			child++;
		if (!is_sooner(&p->messages[child], &last))
			break;
		p->messages[at] = p->messages[child];
	}
	p->messages[at] = last;
	return first;
}

/* The node's next event has changed: up or down the heap with it. */
static void node_moved(struct play *p, uint32_t node)
{
	int64_t us = engine_model_next_us(&p->nodes[node].engine);
	uint32_t at = p->heap_at[node], count = p->w->node_count, *heap = p->heap;
	p->nodes[node].next_us = us;
	for (uint32_t up; at > 0 && p->nodes[heap[up = (at - 1) / 2]].next_us > us; at = up) {
		heap[at] = heap[up];
		p->heap_at[heap[at]] = at;
	}
	for (uint32_t child; (child = at * 2 + 1) < count; at = child) {
		if (child + 1 < count && p->nodes[heap[child + 1]].next_us < p->nodes[heap[child]].next_us)
			child++;
		if (p->nodes[heap[child]].next_us >= us)
			break;
		heap[at] = heap[child];
		p->heap_at[heap[at]] = at;
	}
	heap[at] = node;
	p->heap_at[node] = at;
}

/* ---- reports --------------------------------------------------------------------------------- */

static void report_models(struct play *p, uint32_t n, struct node_report *r)
{
	const struct scenario_engine *e = &p->s->engine;
	const struct engine_model *m = &p->nodes[n].engine;
	r->model_count = 0;
	for (uint32_t i = 0; i < p->s->model_count; i++) {
		if (!(p->w->nodes[n].models >> i & 1))
			continue;
		struct model_report *to = &r->models[r->model_count++];
		str_copy(str_from(p->w->model_names[i]), to->name, sizeof(to->name));
		to->state = MODEL_READY;
		to->running = (int32_t)engine_model_busy(m);
		to->waiting = (int32_t)m->waiting.count;
		to->slots = (int32_t)e->slots;
		to->kv_usage = (double)m->kv / e->kv_tokens;
		to->tokens_to_prefill = m->tokens_to_prefill;
		to->prefill_tokens_per_s = e->prefill_tokens_per_s;
		to->itl_us = (double)e->itl_base_us + e->itl_slope_us * m->running_count;
		to->decode_tokens_per_s = 1e6 / to->itl_us;
	}
}

static void report(struct play *p, uint32_t n)
{
	struct node *node = &p->nodes[n];
	struct model_report *models = p->report.models;
	struct node_seen *seen = p->report.seen;
	struct error err;
	if (node->dead)
		return;
	dispatch_report(&p->d, n, &p->report);
	p->report.models = models;
	p->report.seen = seen;
	report_models(p, n, &p->report);
	for (uint32_t i = 0; i < p->w->site_count; i++) {
		if (node->seen[i] == 0)
			continue;
		dispatch_site_id(i, seen[p->report.seen_count].id);
		seen[p->report.seen_count++].dispatched = node->seen[i];
	}
	p->report.seq = ++node->seq;
	int rc = node_map_report(p->d.map, &p->report, p->now_us, &err);
	assert(rc == 0);
}

/* One node's turn, or a whole map's. */
static void report_turn(struct play *p)
{
	int64_t period_us = p->s->reports.period_us;
	if (p->s->reports.map_age_us > 0) {
		for (uint32_t n = 0; n < p->w->node_count; n++)
			report(p, n);
		p->report_us = p->now_us + p->s->reports.map_age_us;
		return;
	}
	report(p, p->report_node);
	if (++p->report_node == p->w->node_count)
		p->report_node = 0;
	p->snapshot_us += p->report_node == 0 ? period_us : 0;
	p->report_us = p->snapshot_us + period_us * p->report_node / p->w->node_count;
}

/* ---- the way of a request -------------------------------------------------------------------- */

static double exact_load(const void *arg, uint32_t n)
{
	const struct play *p = arg;
	const struct engine_model *m = &p->nodes[n].engine;
	return p->nodes[n].dead ? 1e9 : engine_model_busy(m) + m->waiting.count + (double)m->tokens_to_prefill * 1e-9;
}

static bool room_anywhere(const struct play *p, uint32_t model)
{
	for (uint32_t n = 0; n < p->w->node_count; n++)
		if (!p->nodes[n].dead && p->w->nodes[n].models >> model & 1 &&
		    engine_model_has_room(&p->nodes[n].engine))
			return true;
	return false;
}

static void is_busy(struct play *p, uint32_t at)
{
	figures_busy(p->f, 1, room_anywhere(p, p->requests[at].model));
	request_end(p, at);
}

static void refused(struct refusals *list, uint32_t node, int64_t now_us)
{
	memmove(list->nodes + 1, list->nodes, sizeof(list->nodes) - sizeof(list->nodes[0]));
	memmove(list->until_us + 1, list->until_us, sizeof(list->until_us) - sizeof(list->until_us[0]));
	list->nodes[0] = node;
	list->until_us[0] = now_us + REFUSED_US;
}

/* The request's own tries, and what its gateway has seen of late. */
static uint32_t decide(struct play *p, const struct request *r)
{
	const struct refusals *list = &p->refusals[r->site];
	uint32_t excluded[SCENARIO_TRIES_MAX], count = r->tries;
	memcpy(excluded, r->excluded, count * sizeof(*excluded));
	for (unsigned i = 0; i < REFUSALS_KEPT && count < SCENARIO_TRIES_MAX - 1; i++)
		if (list->until_us[i] > p->now_us)
			excluded[count++] = list->nodes[i];
	return dispatch_decide(&p->d, r->site, r->model, r->uncached, excluded, count, p->now_us, exact_load, p);
}

static void go_to_node(struct play *p, uint32_t at)
{
	struct request *r = &p->requests[at];
	char id[NODE_ID_SIZE];
	uint32_t n = decide(p, r);
	if (n == NONE) {
		if (r->tries > 0)
			is_busy(p, at);
		else {
			figures_lost(p->f, 1);
			request_end(p, at);
		}
		return;
	}
	p->f->wrong += !(p->w->nodes[n].models >> r->model & 1);
	r->node = n;
	dispatch_node_id(n, id);
	r->ticket = ledger_open(p->d.ledgers[r->site], str_from(id), str_from(p->w->model_names[r->model]), r->uncached,
	                        &r->number);
	send(p, p->now_us + sim_rtt_us(p->w, r->site, p->w->nodes[n].site) / 2, AT_NODE, at);
}

/* The name is resolved and the first address that answers is used; those that refuse cost a round trip each. */
static void go_to_gateway(struct play *p, uint32_t at)
{
	struct request *r = &p->requests[at];
	struct dispatch_answer a = dispatch_resolve(&p->d, r->city, r->model, p->now_us);
	int64_t wait_us = 0;
	for (unsigned i = 0; i < a.count; i++) {
		const struct node *n = &p->nodes[a.nodes[i]];
		int64_t way_us = sim_rtt_us(p->w, r->city, p->w->nodes[a.nodes[i]].site) + p->s->network.access_us;
		if (n->dead) {
			wait_us += n->silent ? SILENT_US : way_us;
			continue;
		}
		r->site = p->w->nodes[a.nodes[i]].site;
		r->back_us = way_us / 2;
		send(p, p->now_us + wait_us + way_us / 2, AT_GATEWAY, at);
		return;
	}
	figures_lost(p->f, 1);
	request_end(p, at);
}

static int32_t tokens(struct rng *rng, double median, double sigma, double most)
{
	return sim_tokens_at(median, sigma, most, rng_unit(rng));
}

static void next_arrival(struct play *p)
{
	double most = sim_rate_most(p->s);
	p->arrival_us += 1 + (int64_t)(-1e6 / most * log(1 - rng_unit(&p->rng)));
	if (p->arrival_us >= p->s->duration_us)
		p->arrival_us = INT64_MAX;
}

/* A candidate of the thinned process: it comes if the rate of now, its model and its region is high enough. */
static void arrive(struct play *p)
{
	const struct scenario_tokens *t = &p->s->tokens;
	uint32_t city = sim_city_draw(p->w, &p->rng), model = sim_model_draw(p->s, &p->rng);
	double rate = sim_rate(p->s, p->now_us) * sim_flash(p->s, p->now_us, model, p->w->cities[city].region);
	bool comes = rng_unit(&p->rng) * sim_rate_most(p->s) < rate;
	next_arrival(p);
	if (!comes)
		return;
	uint32_t at = request_new(p);
	struct request *r = &p->requests[at];
	r->came_us = p->now_us;
	r->city = city;
	r->model = model;
	r->prompt = tokens(&p->rng, t->prompt_median, t->prompt_sigma, t->prompt_most);
	r->output = tokens(&p->rng, t->output_median, t->output_sigma, t->output_most);
	r->uncached = (int32_t)(r->prompt * (1 - t->cached_share));
	r->uncached += r->uncached == 0;
	figures_request(p->f, 1);
	go_to_gateway(p, at);
}

static void come_back(struct play *p, uint32_t at)
{
	struct request *r = &p->requests[at];
	ledger_close(r->ticket);
	r->ticket = NULL;
	r->excluded[r->tries] = r->node;
	if (p->nodes[r->node].dead)
		refused(&p->refusals[r->site], r->node, p->now_us);
	if (++r->tries >= p->s->gateway.tries) {
		is_busy(p, at);
		return;
	}
	p->f->retries++;
	go_to_node(p, at);
}

static void happened(void *arg, uint32_t at, enum engine_event event, int64_t now_us)
{
	struct play *p = arg;
	struct request *r = &p->requests[at];
	int64_t way_us = sim_rtt_us(p->w, r->site, p->w->nodes[r->node].site) / 2;
	if (event == ENGINE_FIRST_TOKEN) {
		r->first_us = now_us;
		ledger_first_token(r->ticket);
		figures_ttft(p->f, (double)(now_us + way_us + r->back_us - r->came_us), 1);
		figures_served(p->f, p->w, r->city, p->w->nodes[r->node].site, r->model, 1);
	} else if (event == ENGINE_DONE) {
		if (r->output > 1)
			histogram_add(&p->f->itl, (double)(now_us - r->first_us) / (r->output - 1), 1);
		request_end(p, at);
	} else { /* the gateway hears of it, and tries another one */
		send(p, now_us + way_us, REFUSED, at);
	}
}

static void reach_node(struct play *p, uint32_t at)
{
	struct request *r = &p->requests[at];
	struct node *n = &p->nodes[r->node];
	int64_t way_us = sim_rtt_us(p->w, r->site, p->w->nodes[r->node].site) / 2;
	if (n->dead) {
		send(p, p->now_us + way_us, REFUSED, at);
		return;
	}
	if (r->number > n->seen[r->site])
		n->seen[r->site] = r->number;
	const struct engine_work work = {at, r->uncached, r->output, r->prompt + r->output, p->now_us};
	if (!engine_model_offer(&n->engine, &work, p->now_us))
		send(p, p->now_us + way_us, REFUSED, at);
	node_moved(p, r->node);
}

/* ---- mishaps --------------------------------------------------------------------------------- */

static void broke(void *arg, uint32_t at)
{
	struct play *p = arg;
	struct request *r = &p->requests[at];
	if (r->first_us < 0) { /* no token yet: the gateway tries another one */
		send(p, p->now_us, REFUSED, at);
		return;
	}
	p->f->served--; /* it was counted with its first token */
	figures_lost(p->f, 1);
	request_end(p, at);
}

static void fail(struct play *p, const struct scenario_failure *failure, bool dead)
{
	uint32_t site = (uint32_t)failure->site - 1;
	if (site >= p->w->site_count)
		return;
	for (uint32_t n = p->w->site_first[site]; n < p->w->site_first[site] + p->w->site_nodes[site]; n++) {
		p->nodes[n].dead = dead;
		p->nodes[n].silent = failure->silent;
		if (dead)
			engine_model_drop(&p->nodes[n].engine, p->now_us, broke, p);
		node_moved(p, n);
	}
}

static void handle(struct play *p, struct message m)
{
	switch (m.kind) {
	case AT_GATEWAY:
		go_to_node(p, m.request);
		break;
	case AT_NODE:
		reach_node(p, m.request);
		break;
	case REFUSED:
		come_back(p, m.request);
		break;
	case FAILURE:
	case RECOVERY:
		fail(p, &p->s->failures[m.request], m.kind == FAILURE);
		break;
	}
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void play_init(struct play *p, const struct sim_world *w, enum sim_policy policy, struct figures *f)
{
	*p = (struct play){.w = w, .s = w->scenario, .f = f, .free_request = NONE};
	rng_init(&p->rng, p->s->seed * 104729 + 2); /* the same users for every policy */
	dispatch_init(&p->d, w, policy, p->s->reports.map_age_us > 0);
	p->nodes = mem_new(w->node_count * sizeof(*p->nodes));
	p->refusals = mem_new(w->site_count * sizeof(*p->refusals));
	p->heap = mem_new(w->node_count * sizeof(uint32_t));
	p->heap_at = mem_new(w->node_count * sizeof(uint32_t));
	p->report.models = mem_new(p->s->model_count * sizeof(struct model_report));
	p->report.seen = mem_new(w->site_count * sizeof(struct node_seen));
	for (uint32_t n = 0; n < w->node_count; n++) {
		engine_model_init(&p->nodes[n].engine, &p->s->engine);
		p->nodes[n].seen = mem_new(w->site_count * sizeof(uint64_t));
		p->nodes[n].next_us = INT64_MAX;
		p->heap[n] = p->heap_at[n] = n;
		report(p, n);
	}
	p->report_us = p->snapshot_us = p->s->reports.map_age_us > 0 ? p->s->reports.map_age_us : 0;
	for (uint32_t i = 0; i < p->s->failure_count; i++) {
		send(p, p->s->failures[i].at_us, FAILURE, i);
		send(p, p->s->failures[i].at_us + p->s->failures[i].lasts_us, RECOVERY, i);
	}
	next_arrival(p);
}

static void play_fini(struct play *p)
{
	for (uint32_t n = 0; n < p->w->node_count; n++) {
		engine_model_fini(&p->nodes[n].engine);
		free(p->nodes[n].seen);
	}
	free(p->report.models);
	free(p->report.seen);
	free(p->nodes);
	free(p->refusals);
	free(p->heap);
	free(p->heap_at);
	free(p->requests);
	free(p->messages);
	dispatch_fini(&p->d);
}

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* A line of the report ends: how long slots were taken since the one before. */
static void turn_line(struct play *p)
{
	double sum = 0;
	uint32_t line = p->f->line;
	for (uint32_t n = 0; n < p->w->node_count; n++) {
		const struct engine_model *e = &p->nodes[n].engine;
		sum += e->busy_us + (double)(p->now_us - e->at_us) * engine_model_busy(e);
	}
	p->f->lines[line].streams += sum - p->busy_us;
	p->busy_us = sum;
	figures_turn(p->f, p->w, p->now_us);
}

static bool step(struct play *p)
{
	int64_t message_us = p->message_count ? p->messages[0].at_us : INT64_MAX;
	int64_t node_us = p->nodes[p->heap[0]].next_us;
	if (p->arrival_us == INT64_MAX && p->open == 0)
		return false;
	p->now_us = least(least(message_us, node_us), least(p->arrival_us, p->report_us));
	if (p->now_us >= p->line_us) {
		turn_line(p);
		p->line_us += p->s->duration_us / FIGURES_LINES + 1;
		if (p->now_us >= p->s->duration_us) /* what is left only ends */
			p->line_us = INT64_MAX;
	}
	if (p->now_us == p->report_us) {
		report_turn(p);
	} else if (p->now_us == node_us) {
		uint32_t n = p->heap[0];
		engine_model_run(&p->nodes[n].engine, p->now_us, happened, p);
		node_moved(p, n);
	} else if (p->now_us == message_us) {
		handle(p, receive(p));
	} else {
		arrive(p);
	}
	return true;
}

void sim_serve_requests(const struct sim_world *w, enum sim_policy policy, struct figures *f)
{
	struct play p;
	play_init(&p, w, policy, f);
	while (step(&p))
		;
	if (p.line_us <= w->scenario->duration_us)
		turn_line(&p);
	for (uint32_t i = 0; i < w->site_count; i++)
		assert(ledger_count(p.d.ledgers[i]) == 0);
	f->decisions = p.d.decisions;
	f->decision_s = p.d.decision_s;
	play_fini(&p);
}
