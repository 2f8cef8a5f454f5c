/* SPDX-License-Identifier: Apache-2.0 */
/* Joining, on a loop of its own that lives for the call. The center is known by the CA pin in the token and its host
 * name: whoever cannot show a chain up to that key, or is another node of that network, never sees the token. A try
 * that got no answer is repeated as it was, with the same key.
 */
#include "serve/member/inside.h"

#include "base/clock.h"
#include "base/limits.h"
#include "net/x509.h"

#include <stdlib.h>
#include <unistd.h>

#define TRIES 5
#define PAUSE_US (200 * US_PER_MS)
#define ANSWER_MAX (1u << 20)

struct joining {
	struct loop *loop;
	struct loop_timer *pause;
	struct http_client *client;
	struct buf url, body;
	struct identity *identity;
	struct error *err;
	int tries, rc;
};

static void try_once(void *arg);

static bool worth_repeating(int code)
{
	return code == E_UNAVAILABLE || code == E_PEER || code == E_TIMEOUT || code == E_IO || code == E_CANCELED;
}

static void on_answer(void *arg, int status, struct str body, const struct error *failure)
{
	struct joining *j = arg;
	if (failure && worth_repeating(failure->code) && ++j->tries < TRIES) {
		loop_timer_start(j->pause, PAUSE_US << (j->tries - 1), 0);
		return;
	}
	if (failure)
		j->rc = error_set(j->err, failure->code, "cannot ask the center: %s", failure->text);
	else if (status != 200)
		j->rc = identity_refusal(status, body, j->err);
	else
		j->rc = identity_take(j->identity, body, j->err);
	loop_stop(j->loop);
}

static void try_once(void *arg)
{
	struct joining *j = arg;
	const struct http_header headers[] = {{STR("content-type"), STR("application/json")}};
	struct http_call_options options = {
	    .method = STR("POST"),
	    .url = buf_str(&j->url),
	    .headers = headers,
	    .header_count = 1,
	    .body = buf_str(&j->body),
	    .head_timeout_us = 10 * US_PER_S,
	};
	http_fetch(j->client, &options, ANSWER_MAX, on_answer, j);
}

static int ask_center(struct identity *identity, const char *csr, struct str token, const char *ca_pin,
                      struct error *err)
{
	struct joining j = {.identity = identity, .err = err};
	struct tls_context *tls = NULL;
	struct tls_options tls_options = {
	    .ca_pin_hex = str_from(ca_pin), .peer = TLS_PEER_NONE, .skew_us = JOIN_SKEW_US};
	struct buf roles = {0};
	int rc = tls_context_new(&tls_options, &tls, err);
	if (rc < 0)
		return rc;
	if (loop_new(&j.loop) < 0) {
		tls_context_free(tls);
		return error_set(err, E_INTERNAL, "no event loop can be made: are there too many open files?");
	}
	struct http_client_options client_options = {.tls = tls};
	j.client = http_client_new(j.loop, &client_options);
	j.pause = loop_timer_new(j.loop, try_once, &j);
	buf_printf(&j.url, "%s/mdn/v1/join", identity->center_url);
	node_roles_format(identity->roles, &roles);
	buf_append_str(&j.body, STR("{\"token\":"));
	buf_append_json(&j.body, token);
	buf_append_str(&j.body, STR(",\"csr\":"));
	buf_append_json(&j.body, str_from(csr));
	buf_append_str(&j.body, STR(",\"name\":"));
	buf_append_json(&j.body, str_from(identity->name));
	buf_append_str(&j.body, STR(",\"site\":"));
	buf_append_json(&j.body, str_from(identity->site));
	buf_printf(&j.body, ",\"roles\":\"" STR_FMT "\"}", STR_ARG(buf_str(&roles)));
	loop_timer_start(j.pause, 0, 0);
	loop_run(j.loop);

	loop_timer_free(j.pause);
	http_client_free(j.client);
	loop_free(j.loop);
	tls_context_free(tls);
	explicit_bzero(j.body.base, j.body.len);
	buf_fini(&j.body);
	buf_fini(&j.url);
	buf_fini(&roles);
	return j.rc;
}

static int check_ca(const struct identity *i, const char *wanted, struct error *err)
{
	char pin[65];
	int rc = x509_cert_pin(str_from(i->ca_pem), pin, err);
	if (rc == 0 && strcmp(pin, wanted) != 0)
		rc = error_set(err, E_PEER, "the center sent another CA than the token names");
	return rc;
}

int member_join(struct str center_url, struct str token, struct str data, struct str name, struct str site,
                uint32_t roles, struct error *err)
{
	struct identity i = {.roles = roles};
	char ca_pin[65], *csr = NULL;
	int rc;
	token = str_trim(token);
	while (center_url.len && center_url.base[center_url.len - 1] == '/')
		center_url.len--;
	if (!str_starts(center_url, STR("https://")) || !str_copy(center_url, i.center_url, sizeof(i.center_url)))
		return error_set(err, E_INVAL, "the center's URL must be https://HOST:PORT, as `mdn token` prints it");
	if (!str_copy(name, i.name, sizeof(i.name)) || !str_copy(site, i.site, sizeof(i.site)) || !name.len ||
	    !site.len)
		return error_set(err, E_INVAL, "a node needs a name and a site, at most %d bytes each",
		                 NODE_TEXT_SIZE - 1);
	if (roles == 0)
		return error_set(err, E_INVAL, "a node needs at least one role: repository, center, edge, scheduler");
	if ((rc = identity_token_pin(token, ca_pin, err)) < 0)
		return rc;
	if (identity_exists(data))
		return error_set(err, E_CONFLICT,
		                 STR_FMT
		                 "/identity exists: this node has joined already; to join anew, delete that folder",
		                 STR_ARG(data));
	if ((rc = identity_key(data, &i.key_pem, err)) == 0 &&
	    (rc = x509_request_new(str_from(i.key_pem), name, &csr, err)) == 0 &&
	    (rc = x509_request_pin(str_from(csr), i.pin, err)) == 0 &&
	    (rc = ask_center(&i, csr, token, ca_pin, err)) == 0 && (rc = check_ca(&i, ca_pin, err)) == 0)
		rc = identity_write(data, &i, err);
	free(csr);
	identity_fini(&i);
	return rc;
}
