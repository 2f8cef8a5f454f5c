/* SPDX-License-Identifier: Apache-2.0 */
/* Reports: built once, sent to the center that took our watch and to every scheduler of the roster. Each target has at
 * most one in flight; what came meanwhile is sent after it, the newest only, so that a slow target sees fewer reports
 * and never older ones. `boot` is the wall clock at start, but above the last one (DATA/control/boot): a clock set back
 * must not make a node look old.
 */
#include "serve/member/inside.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define EVERY_US (1 * US_PER_S)
#define SOON_US (20 * US_PER_MS)
#define ANSWER_MAX 4096

static void send_to(struct target *t);

static void on_answer(void *arg, int status, struct str body, const struct error *failure)
{
	struct target *t = arg;
	bool fine = !failure && status >= 200 && status < 300;
	t->call = NULL;
	if (!fine && !t->failing) {
		struct error err = {0};
		if (!failure)
			identity_refusal(status, body, &err);
		log_warn(ROOM, "report to %s %s not taken, going on: %s", t->scheduler ? "scheduler" : "center", t->url,
		         failure ? failure->text : err.text);
	} else if (fine && t->failing) {
		log_info(ROOM, "%s %s takes reports again", t->scheduler ? "scheduler" : "center", t->url);
	}
	t->failing = !fine;
	/* After a failure the next report is soon enough. */
	if (t->waiting && fine)
		send_to(t);
	t->waiting = false;
}

static struct http_call *post(struct target *t, const char *path, struct str body, http_fetch_done *done)
{
	struct member *m = t->m;
	struct buf url = {0}, identity = {0};
	buf_printf(&url, "%s%s", t->url, path);
	if (t->id[0])
		member_identity_of(m, t->id, &identity);
	const struct http_header headers[] = {{STR("content-type"), STR("application/json")}};
	struct http_call_options options = {
	    .method = STR("POST"),
	    .url = buf_str(&url),
	    .peer_identity = buf_str(&identity),
	    .headers = headers,
	    .header_count = 1,
	    .body = body,
	    .head_timeout_us = 2 * US_PER_S,
	};
	struct http_call *call = http_fetch(m->client, &options, ANSWER_MAX, done, t);
	buf_fini(&url);
	buf_fini(&identity);
	return call;
}

static void send_to(struct target *t)
{
	if (t->call) {
		t->waiting = true;
		return;
	}
	t->call =
	    post(t, t->scheduler ? "/mdn/v1/report?to=scheduler" : "/mdn/v1/report", buf_str(&t->m->report), on_answer);
}

/* That a scheduler is away is told of the reports. */
static void on_told(void *arg, int status, struct str body, const struct error *failure)
{
	struct target *t = arg;
	t->tell = NULL;
}

void member_tell_schedulers(struct member *m, const char *path, struct str body)
{
	for (size_t i = 0; i < m->target_count; i++) {
		struct target *t = m->targets[i];
		if (t->scheduler && !t->tell)
			t->tell = post(t, path, body, on_told);
	}
}

static void build(struct member *m)
{
	struct node_report r = {
	    .roles = m->roles, .state = NODE_READY, .boot = m->boot, .seq = ++m->seq, .wall_us = clock_wall_us()};
	str_copy(str_from(m->self.id), r.id, sizeof(r.id));
	str_copy(m->name, r.name, sizeof(r.name));
	str_copy(m->site, r.site, sizeof(r.site));
	str_copy(m->node_url, r.node_url, sizeof(r.node_url));
	str_copy(m->api_url, r.api_url, sizeof(r.api_url));
	if (m->fill_report)
		m->fill_report(m->arg, &r);
	pings_fill(m, &r);
	buf_clear(&m->report);
	node_report_format(&r, &m->report);
	node_report_fini(&r);
}

static void report_now(struct member *m)
{
	build(m);
	for (size_t i = 0; i < m->target_count; i++)
		send_to(m->targets[i]);
}

static void on_every(void *arg)
{
	report_now(arg);
}

static void on_soon(void *arg)
{
	struct member *m = arg;
	m->soon_armed = false;
	report_now(m);
	loop_timer_start(m->report_timer, EVERY_US, EVERY_US); /* at least every second: counted from here */
}

void member_report_soon(struct member *m)
{
	if (m->soon_armed)
		return;
	m->soon_armed = true;
	loop_timer_start(m->soon_timer, SOON_US, 0);
}

/* ---- targets ------------------------------------------------------------------------------------------------ */

static void want(struct member *m, const char *id, const char *url, bool scheduler)
{
	for (size_t i = 0; i < m->target_count; i++) {
		struct target *t = m->targets[i];
		if (t->scheduler == scheduler && strcmp(t->id, id) == 0 && strcmp(t->url, url) == 0) {
			t->wanted = true;
			return;
		}
	}
	struct target *t = NEW(struct target);
	t->m = m;
	t->scheduler = scheduler;
	t->wanted = true;
	str_copy(str_from(id), t->id, sizeof(t->id));
	str_copy(str_from(url), t->url, sizeof(t->url));
	m->targets = mem_resize(m->targets, m->target_count + 1, sizeof(*m->targets));
	m->targets[m->target_count++] = t;
}

static void target_free(struct target *t)
{
	if (t->call)
		http_call_cancel(t->call);
	if (t->tell)
		http_call_cancel(t->tell);
	free(t);
}

void reports_retarget(struct member *m)
{
	size_t before = m->target_count, kept = 0;
	for (size_t i = 0; i < m->target_count; i++)
		m->targets[i]->wanted = false;
	want(m, m->center.id, m->center.url, false);
	for (size_t i = 0; i < m->roster.node_count; i++)
		if (m->roster.nodes[i].roles & ROLE_SCHEDULER)
			want(m, m->roster.nodes[i].id, m->roster.nodes[i].node_url, true);
	bool grew = m->target_count > before;
	for (size_t i = 0; i < m->target_count; i++) {
		if (m->targets[i]->wanted)
			m->targets[kept++] = m->targets[i];
		else
			target_free(m->targets[i]);
	}
	m->target_count = kept;
	if (grew)
		member_report_soon(m);
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

int reports_init(struct member *m, struct error *err)
{
	char *path = file_join(str_from(m->control), "boot"), text[24];
	struct buf saved = {0};
	uint64_t last = 0;
	m->report_timer = loop_timer_new(m->loop, on_every, m);
	m->soon_timer = loop_timer_new(m->loop, on_soon, m);
	if (file_read(path, 64, &saved, NULL) == 0 && str_to_u64(str_trim(buf_str(&saved)), &last) < 0)
		last = 0;
	m->boot = (uint64_t)clock_wall_us();
	if (m->boot <= last && last < UINT64_MAX / 2)
		m->boot = last + 1;
	size_t len = (size_t)snprintf(text, sizeof(text), "%" PRIu64, m->boot);
	int rc = file_write(path, 0600, (struct str){text, len}, err);
	buf_fini(&saved);
	free(path);
	return rc;
}

void reports_start(struct member *m)
{
	loop_timer_start(m->report_timer, EVERY_US, EVERY_US);
	member_report_soon(m);
}

void reports_fini(struct member *m)
{
	for (size_t i = 0; i < m->target_count; i++)
		target_free(m->targets[i]);
	free(m->targets);
	loop_timer_free(m->report_timer);
	loop_timer_free(m->soon_timer);
	buf_fini(&m->report);
}
