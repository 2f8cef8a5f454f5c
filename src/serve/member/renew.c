/* SPDX-License-Identifier: Apache-2.0 */
/* Renewal at half of the certificate's life, give or take a tenth, counted on the monotonic clock from when the
 * certificate came: a wrong wall clock must not make a node renew all the time or never. A failed try is repeated with
 * growing pauses for as long as it takes, also past expiry: the request is signed with the key the center knows and
 * goes over a connection without a client certificate, so an expired one is no hindrance.
 */
#include "serve/member/inside.h"

#include "base/clock.h"
#include "base/log.h"
#include "net/x509.h"

#include <stdlib.h>

#define PAUSE_MIN_US (500 * US_PER_MS)
#define PAUSE_MAX_US (30 * US_PER_S)
#define ANSWER_MAX (1u << 20)
#define CENTER_FIRST_US (3 * US_PER_S) /* its report was heard by then */

/* Half of the life the certificate was given, and how much of it is over by the wall clock. */
static int half_life(const struct member *m, int64_t *ret_half_us, int64_t *ret_age_us, struct error *err)
{
	char identity[TLS_IDENTITY_SIZE];
	int64_t from, to;
	int rc = x509_cert_info(str_from(m->self.cert_pem), identity, sizeof(identity), &from, &to, err);
	if (rc < 0)
		return rc;
	int64_t issued = from + CERT_BACKDATE_US < to ? from + CERT_BACKDATE_US : from;
	*ret_half_us = (to - issued) / 2;
	*ret_age_us = clock_wall_us() - issued;
	return 0;
}

static void arm(struct member *m, bool fresh)
{
	struct error err = {0};
	int64_t half, age = 0, after = PAUSE_MAX_US;
	if (half_life(m, &half, &age, &err) < 0) {
		log_error(ROOM, "the node's certificate is unreadable, a new one is asked for: %s", err.text);
		after = 0;
	} else {
		after = half - half / 10 + (int64_t)rng_below(&m->rng, (uint64_t)(half / 5) + 1);
		if (!fresh && age > 0)
			after = age < after ? after - age : 0;
	}
	loop_timer_start(m->renew_timer, after, 0);
}

static int use_answer(struct member *m, struct str body, struct error *err)
{
	int rc = identity_take(&m->self, body, err);
	if (rc < 0)
		return rc;
	if ((rc = member_tls_set(m, err)) < 0)
		return rc;
	if (identity_write_cert(str_from(m->data), &m->self, err) < 0)
		log_warn(ROOM, "the new certificate is in use but not on disk: %s", err->text);
	return 0;
}

static void on_answer(void *arg, int status, struct str body, const struct error *failure)
{
	struct member *m = arg;
	struct error err = {0};
	int rc;
	m->renew_call = NULL;
	if (failure)
		rc = error_set(&err, failure->code, "%s", failure->text);
	else if (status != 200)
		rc = identity_refusal(status, body, &err);
	else
		rc = use_answer(m, body, &err);
	if (rc == 0) {
		log_debug(ROOM, "certificate renewed");
		if (m->renew_failing)
			log_info(ROOM, "certificate renewed after failed tries");
		m->renew_failing = false;
		m->renew_turn = 0;
		m->renew_pause_us = PAUSE_MIN_US;
		arm(m, true);
		return;
	}
	if (!m->renew_failing)
		log_warn(ROOM, "certificate not renewed, trying on: %s", err.text);
	m->renew_failing = true;
	m->renew_turn++;
	loop_timer_start(m->renew_timer, member_jitter(m, m->renew_pause_us), 0);
	m->renew_pause_us = m->renew_pause_us * 2 > PAUSE_MAX_US ? PAUSE_MAX_US : m->renew_pause_us * 2;
}

static void ask(void *arg)
{
	struct member *m = arg;
	struct buf url = {0}, body = {0}, center = {0};
	struct error err = {0};
	char *csr = NULL;
	if (x509_request_new(str_from(m->self.key_pem), str_from(m->self.id), &csr, &err) < 0) {
		log_error(ROOM, "no certificate request can be made from the node's key: %s", err.text);
		loop_timer_start(m->renew_timer, PAUSE_MAX_US, 0);
		return;
	}
	const struct http_header headers[] = {{STR("content-type"), STR("application/json")}};
	struct center_place at = member_center(m, m->renew_turn);
	buf_printf(&url, "%s/mdn/v1/renew", at.url);
	buf_printf(&body, "{\"id\":\"%s\",\"csr\":", m->self.id);
	buf_append_json(&body, str_from(csr));
	buf_append_str(&body, STR("}"));
	if (at.id[0])
		member_identity_of(m, at.id, &center);
	struct http_call_options options = {
	    .method = STR("POST"),
	    .url = buf_str(&url),
	    .peer_identity = buf_str(&center),
	    .headers = headers,
	    .header_count = 1,
	    .body = buf_str(&body),
	    .head_timeout_us = 10 * US_PER_S,
	};
	m->renew_call = http_fetch(m->renew_client, &options, ANSWER_MAX, on_answer, m);
	free(csr);
	buf_fini(&url);
	buf_fini(&body);
	buf_fini(&center);
}

void renew_init(struct member *m)
{
	m->renew_timer = loop_timer_new(m->loop, ask, m);
	m->renew_pause_us = PAUSE_MIN_US;
}

/* A center's certificate names the host of its URL, so that nodes can join there; the first one it got when it joined
 * does not, for nobody knew the URL. */
void renew_start(struct member *m)
{
	if (m->roles & ROLE_CENTER)
		loop_timer_start(m->renew_timer, CENTER_FIRST_US, 0);
	else
		arm(m, false);
}

void renew_fini(struct member *m)
{
	if (m->renew_call)
		http_call_cancel(m->renew_call);
	loop_timer_free(m->renew_timer);
}
