/* SPDX-License-Identifier: Apache-2.0 */
/* Round trips to a few other nodes, one of each other site first: GET /mdn/v1/ping on a warm connection, every
 * PING_EVERY_US. What is reported is the least of the last PING_SAMPLES: queueing only ever adds. The first answer of a
 * connection also measured its set-up, so it is thrown away and the ping repeated at once.
 */
#include "serve/member/inside.h"

#include "base/clock.h"

#include <stdlib.h>

#define PING_EVERY_US (5 * US_PER_S)
#define SLOWEST_US (60 * US_PER_S)

static void ping_send(struct ping *p);

static bool on_head(void *arg, struct http_call *call, int status)
{
	struct ping *p = arg;
	int64_t took = clock_mono_us() - p->started_us;
	if (status == 204 && p->warm)
		p->samples[p->count++ % PING_SAMPLES] = took > 0 ? took : 1;
	return true;
}

static void on_done(void *arg, struct http_call *call, const struct error *failure)
{
	struct ping *p = arg;
	bool fine = !failure && http_call_status(call) == 204, again = fine && !p->warm;
	p->call = NULL;
	p->warm = fine;
	if (!fine)
		p->count = 0; /* unreachable: nothing is claimed about it */
	if (again)
		ping_send(p);
}

static void ping_send(struct ping *p)
{
	struct buf url = {0}, identity = {0};
	if (p->call)
		return;
	buf_printf(&url, "%s/mdn/v1/ping", p->url);
	member_identity_of(p->m, p->id, &identity);
	struct http_call_options options = {
	    .url = buf_str(&url),
	    .peer_identity = buf_str(&identity),
	    .head_timeout_us = 3 * US_PER_S,
	    .on_head = on_head,
	    .on_done = on_done,
	    .arg = p,
	};
	p->started_us = clock_mono_us();
	p->call = http_call_start(p->m->client, &options);
	buf_fini(&url);
	buf_fini(&identity);
}

static void on_timer(void *arg)
{
	struct member *m = arg;
	for (size_t i = 0; i < m->ping_count; i++)
		ping_send(m->pings[i]);
}

/* ---- whom ------------------------------------------------------------------------------------------------- */

static void ping_free(struct ping *p)
{
	if (p->call)
		http_call_cancel(p->call);
	free(p);
}

static bool in_roster(const struct member *m, const struct ping *p)
{
	for (size_t i = 0; i < m->roster.node_count; i++) {
		const struct roster_node *n = &m->roster.nodes[i];
		if (strcmp(n->id, p->id) == 0)
			return strcmp(n->node_url, p->url) == 0 && strcmp(n->site, p->site) == 0;
	}
	return false;
}

static bool chosen(const struct member *m, const struct roster_node *n)
{
	for (size_t i = 0; i < m->ping_count; i++)
		if (strcmp(m->pings[i]->id, n->id) == 0)
			return true;
	return strcmp(n->id, m->self.id) == 0;
}

static bool site_covered(const struct member *m, const struct roster_node *n)
{
	for (size_t i = 0; i < m->ping_count; i++)
		if (strcmp(m->pings[i]->site, n->site) == 0)
			return true;
	return str_equal(str_from(n->site), m->site);
}

static void choose(struct member *m, const struct roster_node *n)
{
	struct ping *p = NEW(struct ping);
	p->m = m;
	str_copy(str_from(n->id), p->id, sizeof(p->id));
	str_copy(str_from(n->node_url), p->url, sizeof(p->url));
	str_copy(str_from(n->site), p->site, sizeof(p->site));
	m->pings[m->ping_count++] = p;
}

/* From a random place on, so that a large network's nodes do not all ask the same eight. */
static void choose_more(struct member *m, bool new_sites_only)
{
	size_t count = m->roster.node_count, start = count ? (size_t)rng_below(&m->rng, count) : 0;
	for (size_t k = 0; k < count && m->ping_count < PING_TARGETS_MAX; k++) {
		const struct roster_node *n = &m->roster.nodes[(start + k) % count];
		if (!chosen(m, n) && !(new_sites_only && site_covered(m, n)))
			choose(m, n);
	}
}

void pings_retarget(struct member *m)
{
	size_t kept = 0, before;
	for (size_t i = 0; i < m->ping_count; i++) {
		if (in_roster(m, m->pings[i]))
			m->pings[kept++] = m->pings[i];
		else
			ping_free(m->pings[i]);
	}
	m->ping_count = before = kept;
	choose_more(m, true);
	choose_more(m, false);
	for (size_t i = before; i < m->ping_count; i++)
		ping_send(m->pings[i]);
}

void pings_fill(const struct member *m, struct node_report *report)
{
	for (size_t i = 0; i < m->ping_count; i++) {
		const struct ping *p = m->pings[i];
		int64_t least = SLOWEST_US;
		for (size_t k = 0; k < p->count && k < PING_SAMPLES; k++)
			least = p->samples[k] < least ? p->samples[k] : least;
		if (p->count == 0 || report->rtt_count >= REPORT_PEERS_MAX)
			continue;
		report->rtts = mem_resize(report->rtts, report->rtt_count + 1, sizeof(*report->rtts));
		struct node_rtt *t = &report->rtts[report->rtt_count++];
		*t = (struct node_rtt){.rtt_us = least};
		str_copy(str_from(p->id), t->id, sizeof(t->id));
	}
}

void pings_init(struct member *m)
{
	m->ping_timer = loop_timer_new(m->loop, on_timer, m);
}

void pings_start(struct member *m)
{
	loop_timer_start(m->ping_timer, PING_EVERY_US, PING_EVERY_US);
}

void pings_fini(struct member *m)
{
	for (size_t i = 0; i < m->ping_count; i++)
		ping_free(m->pings[i]);
	loop_timer_free(m->ping_timer);
}
