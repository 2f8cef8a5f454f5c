/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes for tests, made the way a peer makes them: as JSON. */
#ifndef MDN_TEST_CORE_FIXTURE_H
#define MDN_TEST_CORE_FIXTURE_H

#include "core/node_map.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

struct node_spec {
	const char *id, *site, *state, *api; /* state "ready", api "http://10.0.0.1:80" by default */
	uint64_t boot, seq;
	const char *model, *model_state; /* NULL: none; "ready" */
	int running, waiting, slots;
	double prefill;
	int64_t load_us;
	const char *seen_id;
	uint64_t seen;
	const char *rtt_id;
	int64_t rtt_us;
};

static inline struct node_report node_report_of(const struct node_spec *s)
{
	struct buf json = {0};
	struct node_report r;
	struct error err = {0};
	buf_printf(&json,
	           "{\"id\":\"%s\",\"site\":\"%s\",\"roles\":\"edge\",\"state\":\"%s\",\"boot\":%llu,\"seq\":%llu,",
	           s->id, s->site ? s->site : "west", s->state ? s->state : "ready",
	           (unsigned long long)(s->boot ? s->boot : 1), (unsigned long long)s->seq);
	buf_printf(&json, "\"node_url\":\"https://127.0.0.1:7300\",\"api_url\":\"%s\"",
	           s->api ? s->api : "http://10.0.0.1:80");
	if (s->model)
		buf_printf(&json,
		           ",\"models\":[{\"name\":\"%s\",\"state\":\"%s\",\"running\":%d,\"waiting\":%d,\"slots\":%d,"
		           "\"prefill_tokens_per_s\":%g,\"load_us\":%lld}]",
		           s->model, s->model_state ? s->model_state : "ready", s->running, s->waiting,
		           s->slots ? s->slots : 8, s->prefill, (long long)s->load_us);
	if (s->seen_id)
		buf_printf(&json, ",\"seen\":[{\"id\":\"%s\",\"dispatched\":%llu}]", s->seen_id,
		           (unsigned long long)s->seen);
	if (s->rtt_id)
		buf_printf(&json, ",\"rtts\":[{\"id\":\"%s\",\"rtt_us\":%lld}]", s->rtt_id, (long long)s->rtt_us);
	buf_append_str(&json, STR("}"));
	if (node_report_parse(buf_str(&json), &r, &err) < 0)
		fail_msg("%s", err.text);
	buf_fini(&json);
	return r;
}

static inline int report_at(struct node_map *m, const struct node_spec *s, int64_t now_us)
{
	struct node_report r = node_report_of(s);
	int rc = node_map_report(m, &r, now_us, NULL);
	node_report_fini(&r);
	return rc;
}

#endif
