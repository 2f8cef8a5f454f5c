/* SPDX-License-Identifier: Apache-2.0 */
/* How: what a prompt is made of is fed to core/affinity once, in the order a template would put it: tools, then
 * messages. The estimate of tokens is that of the dialects, four bytes each, so the two can be compared. Nothing is
 * done on a node that has nobody to choose between, nor for requests that no prefix cache helps.
 *
 * A prompt counts as computed from the moment it is sent: those behind it in the same queue find it there.
 */
#include "serve/gateway/internal.h"

#include <stdio.h>
#include <stdlib.h>

static void feed_text(struct affinity_prompt *p, struct str text)
{
	affinity_feed(p, text.base, text.len);
	affinity_feed(p, "", 1);
}

/* Parsed JSON is no deeper than LIMIT_JSON_DEPTH. */
static void feed_value(struct affinity_prompt *p, yyjson_val *v)
{
	yyjson_val *key, *item;
	size_t i, n;
	uint8_t type = yyjson_get_tag(v);

	if (yyjson_is_str(v)) {
		feed_text(p, (struct str){yyjson_get_str(v), yyjson_get_len(v)});
	} else if (yyjson_is_arr(v)) {
		yyjson_arr_foreach(v, i, n, item) feed_value(p, item);
	} else if (yyjson_is_obj(v)) {
		yyjson_obj_foreach(v, i, n, key, item)
		{
			feed_value(p, key);
			feed_value(p, item);
		}
	} else {
		affinity_feed(p, &type, 1);
		if (yyjson_is_num(v))
			affinity_feed(p, &v->uni, sizeof(v->uni));
	}
}

static void feed_request(struct affinity_prompt *p, const struct api_request *in)
{
	if (in->task == ENGINE_COMPLETION && in->prompts[0].tokens) {
		affinity_feed(p, in->prompts[0].tokens, in->prompts[0].token_count * sizeof(int32_t));
		return;
	}
	if (in->task == ENGINE_COMPLETION) {
		feed_text(p, in->prompts[0].text);
		return;
	}
	if (in->tools)
		feed_value(p, in->tools);
	affinity_feed(p, in->tools_text.base, in->tools_text.len);
	if (in->messages)
		feed_value(p, in->messages);
	affinity_feed(p, in->messages_text.base, in->messages_text.len);
}

size_t sticky_find(struct request *r, struct route_query *query, struct route_warm warm[static AFFINITY_HOLDERS_MAX])
{
	struct gateway *g = r->g;
	const struct api_request *in = &r->in;

	if (!g->client || node_map_count(g->map.map) < 2 || (in->task != ENGINE_CHAT && in->task != ENGINE_COMPLETION))
		return 0;
	if (!r->prompt) {
		r->prompt = mem_resize(NULL, 1, sizeof(*r->prompt));
		affinity_begin(g->affinity, r->prompt, in->model, str_from(r->tenant), in->cache_salt);
		affinity_session(r->prompt, in->session);
		feed_request(r->prompt, in);
	}
	query->key = r->prompt->key;
	query->session_key = r->prompt->session_key;
	query->warm = warm;
	query->warm_count = affinity_find(g->affinity, r->prompt, loop_now_us(g->loop), warm);
	for (size_t i = 0; i < query->warm_count; i++)
		if (warm[i].tokens > r->known_tokens)
			r->known_tokens = warm[i].tokens;
	return query->warm_count;
}

void sticky_take(struct request *r, const struct route_candidate *to)
{
	struct gateway *g = r->g;
	const struct node_entry *e = node_map_find(g->map.map, str_from(to->id));

	r->uncached_tokens = r->in.prompt_tokens - to->warm_tokens;
	if (to->warm_tokens > 0)
		snprintf(r->why, sizeof(r->why), "%s; prefix of %d tokens is warm there", g->policy->name,
		         to->warm_tokens);
	else
		join(r->why, sizeof(r->why),
		     (const char *const[]){g->policy->name, to->session ? "; the session was there" : "", NULL});
	if (!r->prompt || !e)
		return;
	if (r->prompt->count > 0 && r->tries == 0)
		g->metrics.prefixes[to->warm_tokens > 0   ? PREFIX_HIT
		                    : r->known_tokens > 0 ? PREFIX_MOVED
		                                          : PREFIX_MISS]++;
	affinity_learn(g->affinity, r->prompt, str_from(to->id), e->report.boot, loop_now_us(g->loop));
}
