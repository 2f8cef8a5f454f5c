/* SPDX-License-Identifier: Apache-2.0 */
/* GET /v1/route: the decision of core/score.h with its reasons, and the dispatches that answered routes stand for. */
#include "serve/scheduler/scheduler_internal.h"

#include "base/clock.h"
#include "core/hash.h"
#include "core/score.h"

#include <stdlib.h>

/* ---- dispatches ------------------------------------------------------------------------------ */

struct dispatched {
	struct ledger_ticket *ticket;
	int64_t at_us;
};

/* Of one node, oldest first: [first, count). */
struct dispatched_node {
	char id[NODE_ID_SIZE];
	struct dispatched *list;
	size_t first, count, cap;
};

struct dispatches {
	struct dispatched_node *nodes; /* as many as nodes were ever chosen */
	uint32_t count, cap;
	struct hash_index by_id;
};

struct dispatches *dispatches_new(void)
{
	return NEW(struct dispatches);
}

void dispatches_free(struct dispatches *d)
{
	if (!d)
		return;
	for (uint32_t i = 0; i < d->count; i++) {
		for (size_t k = d->nodes[i].first; k < d->nodes[i].count; k++)
			ledger_close(d->nodes[i].list[k].ticket);
		free(d->nodes[i].list);
	}
	free(d->nodes);
	hash_index_fini(&d->by_id);
	free(d);
}

static struct dispatched_node *node_find(const struct dispatches *d, struct str id)
{
	uint32_t at;
	for (size_t cursor = 0; hash_index_next(&d->by_id, hash_str(id), &cursor, &at);) {
		if (str_equal(str_from(d->nodes[at].id), id))
			return &d->nodes[at];
	}
	return NULL;
}

static struct dispatched_node *node_of(struct dispatches *d, struct str id)
{
	struct dispatched_node *n = node_find(d, id);
	if (n)
		return n;
	if (d->count == d->cap) {
		d->cap = d->cap ? d->cap * 2 : 16;
		d->nodes = mem_resize(d->nodes, d->cap, sizeof(*d->nodes));
	}
	n = &d->nodes[d->count];
	*n = (struct dispatched_node){0};
	str_copy(id, n->id, sizeof(n->id));
	hash_index_add(&d->by_id, hash_str(id), d->count++);
	return n;
}

static void node_close(struct dispatched_node *n, int64_t before_us)
{
	while (n->first < n->count && n->list[n->first].at_us <= before_us)
		ledger_close(n->list[n->first++].ticket);
	if (n->first == n->count)
		n->first = n->count = 0;
}

void dispatches_reported(struct dispatches *d, struct str node, int64_t now_us)
{
	struct dispatched_node *n = node_find(d, node);
	if (n)
		node_close(n, now_us - DISPATCH_SETTLE_US);
}

void dispatches_expire(struct dispatches *d, int64_t now_us)
{
	for (uint32_t i = 0; i < d->count; i++)
		node_close(&d->nodes[i], now_us - DISPATCH_LIFE_US);
}

static void dispatch(struct scheduler *s, const struct route_candidate *c, int64_t now_us)
{
	struct dispatched_node *n = node_of(s->dispatches, str_from(c->id));
	if (n->count == n->cap) {
		if (n->first > 0) {
			memmove(n->list, n->list + n->first, (n->count - n->first) * sizeof(*n->list));
			n->count -= n->first;
			n->first = 0;
		} else if (n->cap == DISPATCHES_PER_NODE) {
			return;
		} else {
			n->cap = n->cap ? n->cap * 2 : 16;
			n->list = mem_resize(n->list, n->cap, sizeof(*n->list));
		}
	}
	struct ledger_ticket *t = ledger_open(s->ledger, str_from(c->id), str_from(c->model), 0, NULL);
	n->list[n->count++] = (struct dispatched){t, now_us};
}

/* ---- the answer ------------------------------------------------------------------------------ */

static void put(struct buf *out, const char *before, const char *text)
{
	buf_append_str(out, str_from(before));
	buf_append_json(out, str_from(text));
}

static void format_refused(const struct route_decision *d, struct buf *out)
{
	buf_append_str(out, STR("\"refused\":["));
	for (size_t i = 0; i < d->refused_count; i++) {
		put(out, i > 0 ? ",{\"id\":" : "{\"id\":", d->refused[i].id);
		put(out, ",\"name\":", d->refused[i].name);
		put(out, ",\"reason\":", d->refused[i].reason);
		buf_append_str(out, STR("}"));
	}
	buf_append_str(out, STR("]"));
}

static void format_decision(const struct route_decision *d, const char *address, struct str site, struct buf *out)
{
	const struct route_candidate *choice = &d->candidates[d->choice];
	put(out, "{\"model\":", choice->model);
	put(out, ",\"client\":{\"address\":", address);
	buf_append_str(out, STR(",\"site\":"));
	buf_append_json(out, site);
	put(out, "},\"choice\":{\"id\":", choice->id);
	put(out, ",\"name\":", choice->name);
	put(out, ",\"site\":", choice->site);
	put(out, ",\"api_url\":", choice->api_url);
	put(out, "},\"cs_id\":", choice->model); /* as CATS calls them: the service, and who is to be contacted */
	put(out, ",\"csci_id\":", choice->id);
	buf_append_str(out, STR(",\"candidates\":["));
	for (size_t i = 0; i < d->candidate_count; i++) {
		const struct route_candidate *c = &d->candidates[i];
		put(out, i > 0 ? ",{\"id\":" : "{\"id\":", c->id);
		put(out, ",\"name\":", c->name);
		put(out, ",\"site\":", c->site);
		put(out, ",\"api_url\":", c->api_url);
		buf_printf(out,
		           ",\"score_us\":%lld,\"rtt_us\":%lld,\"queue_us\":%lld,\"prefill_us\":%lld,"
		           "\"age_us\":%lld,\"reason\":",
		           (long long)c->score_us, (long long)c->rtt_us, (long long)c->queue_us,
		           (long long)c->prefill_us, (long long)c->age_us);
		buf_append_json(out, str_from(c->reason));
		buf_append_str(out, STR("}"));
	}
	buf_append_str(out, STR("],"));
	format_refused(d, out);
	buf_append_str(out, STR("}\n"));
}

static void respond_error(struct http_exchange *x, const struct route_decision *d, const struct error *err)
{
	struct buf out = {0};
	buf_append_str(&out, STR("{\"error\":{\"message\":"));
	buf_append_json(&out, str_from(err->text));
	buf_printf(&out, ",\"type\":\"%s\",\"code\":\"%s\"},", error_openai_type(err->code), error_label(err->code));
	format_refused(d, &out);
	buf_append_str(&out, STR("}\n"));
	http_respond(x, error_http_status(err->code), "application/json", buf_str(&out));
	buf_fini(&out);
}

/* Who asks, and from which site: the query says, else the zones tell from the address. */
static int read_client(struct scheduler *s, struct http_exchange *x, char ret_address[static IP_TEXT_SIZE],
                       struct str *ret_site, struct error *err)
{
	struct str text = http_peer_address(x), site = {0};
	struct ip ip;
	uint8_t scope;
	bool given = http_query(x, "client", &text);
	if (ip_parse(text, &ip) < 0) {
		if (given)
			return error_set(err, E_INVAL, "client=\"" STR_FMT "\" is not an IP address",
			                 (int)(text.len < 64 ? text.len : 64), text.base);
		ret_address[0] = '\0';
	} else {
		ip_format(&ip, ret_address);
		node_map_site_of(s->map, &ip, &site, &scope);
	}
	http_query(x, "site", &site);
	*ret_site = site;
	return 0;
}

void route_handle(struct scheduler *s, struct http_exchange *x)
{
	struct error err = {0};
	char address[IP_TEXT_SIZE];
	struct route_query query = {.for_client = true};
	int rc = 0;
	if (!http_query(x, "model", &query.model) || query.model.len == 0)
		rc = error_set(&err, E_INVAL, "say which model: /v1/route?model=NAME");
	if (rc == 0)
		rc = read_client(s, x, address, &query.client_site, &err);
	if (rc < 0) {
		s->counts.routes_invalid++;
		http_respond_error(x, &err);
		return;
	}
	struct route_decision d;
	scheduler_awake(s);
	int64_t now = loop_now_us(s->loop), began = clock_mono_us();
	rc = route_decide(s->map, s->ledger, &query, now, &s->rng, &d, &err);
	s->counts.decide_us += (uint64_t)(clock_mono_us() - began);
	if (rc == E_NOTFOUND && scheduler_is_young(s))
		rc = error_set(&err, E_UNAVAILABLE,
		               "this scheduler has just begun and knows no such model yet; ask again in a second, or "
		               "ask another scheduler");
	if (rc < 0) {
		*(rc == E_NOTFOUND ? &s->counts.routes_not_found : &s->counts.routes_unavailable) += 1;
		respond_error(x, &d, &err);
	} else {
		struct buf out = {0};
		s->counts.routes_answered++;
		dispatch(s, &d.candidates[d.choice], now);
		format_decision(&d, address, query.client_site, &out);
		http_respond(x, 200, "application/json", buf_str(&out));
		buf_fini(&out);
	}
	route_decision_fini(&d);
}
