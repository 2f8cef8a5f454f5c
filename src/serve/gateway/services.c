/* SPDX-License-Identifier: Apache-2.0 */
/* How: a request of a client is identified once, when its body has been read, and takes its own copy of what its
 * service gets: a reload changes only requests to come. The node that it may be sent on to is told. Counters belong to
 * the name and outlive reloads.
 */
#include "serve/gateway/services.h"

#include "net/http_wire.h"
#include "serve/gateway/metrics.h"

#include <stdlib.h>

static bool header_is(void *exchange, const char *name, struct str *ret_value)
{
	return http_header(exchange, name, ret_value);
}

void request_identify(struct request *r)
{
	struct service_query query = {
	    .texts =
		{
		    [SERVICE_TENANT] = str_from(r->tenant),
		    [SERVICE_TEAM] = str_from(r->quota.team),
		    [SERVICE_SNI] = http_server_name(r->x),
		    [SERVICE_API] = str_from(r->dialect->name),
		    [SERVICE_MODEL] = r->in.model,
		},
	    .header = header_is,
	    .arg = r->x,
	};

	http_header(r->x, "user-agent", &query.texts[SERVICE_USER_AGENT]);
	const struct service *s = service_find(&r->g->services.rules, &query);
	http_mark(r->x, s ? s->dscp : 0); /* the connection may have carried another's */
	if (!s)
		return;
	r->service = *s;
	if (!r->deadline_us && s->deadline_us)
		r->deadline_us = loop_now_us(r->g->loop) + s->deadline_us;
	if (r->offline)
		return; /* bulk, whatever it is */
	if (r->in.has_class && (!s->has_class || (int)r->in.service_class >= s->service_class))
		return; /* it asks for no more than it may */
	r->in.priority = s->priority;
	if (s->has_class)
		r->in.service_class = (enum engine_class)s->service_class;
}

void request_identified(struct request *r, struct str name, struct str dscp)
{
	uint64_t number = 0;

	if (name.len)
		str_copy(name, r->service.name, sizeof(r->service.name));
	if (str_to_u64(dscp, &number) < 0 || number > 63)
		number = 0;
	r->service.dscp = (uint8_t)number;
	http_mark(r->x, r->service.dscp);
}

void services_count(const struct request *r)
{
	int64_t now = clock_mono_us();
	const struct service *s = &r->service;

	if (!s->name[0] || r->hop || r->status == 499)
		return;
	struct service_counts *c = &r->g->services.counts[s->number];
	bool answered = r->status < 400, ours = r->status == 429 || r->status >= 500; /* not the client's fault */
	c->requests++;
	c->refused += ours;
	c->prompt_tokens += r->prompt_tokens > 0 ? (uint64_t)r->prompt_tokens : 0;
	c->completion_tokens += r->completion_tokens > 0 ? (uint64_t)r->completion_tokens : 0;
	if (s->ttft_us && (ours || (answered && r->first_us)))
		c->ttft[!ours && r->first_us - r->begun_us <= s->ttft_us]++;
	if (s->itl_us && answered && r->in.stream && r->completion_tokens > 1)
		c->itl[(now - r->first_us) / (r->completion_tokens - 1) <= s->itl_us]++;
}

static const struct {
	const char *name, *help;
	size_t place;
} sums[] = {
    {"mdn_service_requests_total", "Requests of a service that clients sent here.",
     offsetof(struct service_counts, requests)},
    {"mdn_service_refused_total", "Of those, not answered for want of capacity or by a fault.",
     offsetof(struct service_counts, refused)},
    {"mdn_service_prompt_tokens_total", "Their prompt tokens.", offsetof(struct service_counts, prompt_tokens)},
    {"mdn_service_completion_tokens_total", "Tokens of their answers.",
     offsetof(struct service_counts, completion_tokens)},
};

static void put_goal(struct buf *out, const struct service_counts *c, const char *goal, const uint64_t counts[2])
{
	for (int met = 0; met < 2; met++)
		buf_printf(out, "mdn_service_goal_total{service=\"%s\",goal=\"%s\",met=\"%s\"} %llu\n", c->name, goal,
		           met ? "true" : "false", (unsigned long long)counts[met]);
}

void services_metrics(const struct gateway *g, struct buf *out)
{
	const struct services *all = &g->services;

	if (all->count == 0)
		return;
	for (size_t i = 0; i < sizeof(sums) / sizeof(sums[0]); i++) {
		put_head(out, sums[i].name, "counter", sums[i].help);
		for (size_t j = 0; j < all->count; j++)
			buf_printf(out, "%s{service=\"%s\"} %llu\n", sums[i].name, all->counts[j].name,
			           (unsigned long long)*(const uint64_t *)(const void *)((const char *)&all->counts[j] +
			                                                                 sums[i].place));
	}
	put_head(out, "mdn_service_goal_total", "counter", "Answers by whether they met a goal of their service.");
	for (size_t i = 0; i < all->count; i++) {
		put_goal(out, &all->counts[i], "ttft", all->counts[i].ttft);
		put_goal(out, &all->counts[i], "itl", all->counts[i].itl);
	}
}

/* ---- the rules ---------------------------------------------------------------------------------------------- */

static uint32_t counts_of(struct services *all, const char *name)
{
	for (uint32_t i = 0; i < all->count; i++)
		if (strcmp(all->counts[i].name, name) == 0)
			return i;
	all->counts = mem_resize(all->counts, all->count + 1, sizeof(*all->counts));
	all->counts[all->count] = (struct service_counts){0};
	str_copy(str_from(name), all->counts[all->count].name, SERVICE_NAME_SIZE);
	return all->count++;
}

int gateway_try_services(const char *path, struct error *err)
{
	struct service_rules rules = {0};
	int rc = path[0] ? services_read(path, &rules, err) : 0;

	service_rules_fini(&rules);
	return rc < 0 ? error_prefix(err, "service_classes: ") : 0;
}

int gateway_set_services(struct gateway *g, const char *path, struct error *err)
{
	struct services *all = &g->services;
	struct service_rules rules = {0};
	int rc = path[0] ? services_read(path, &rules, err) : 0;

	if (rc == 0 && all->count + rules.count > SERVICE_NAMES_MAX)
		rc = error_set(err, E_LIMIT,
		               "%s: with those of before there are over %d names; counters of old ones go with a "
		               "restart",
		               path, SERVICE_NAMES_MAX);
	if (rc < 0) {
		service_rules_fini(&rules);
		return error_prefix(err, "service_classes: ");
	}
	for (size_t i = 0; i < rules.count; i++)
		rules.rules[i].service.number = counts_of(all, rules.rules[i].service.name);
	service_rules_fini(&all->rules);
	all->rules = rules;
	return 0;
}

void services_fini(struct services *all)
{
	service_rules_fini(&all->rules);
	free(all->counts);
}
