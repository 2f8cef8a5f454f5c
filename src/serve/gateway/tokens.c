/* SPDX-License-Identifier: Apache-2.0 */
/* How: a token that was found good is remembered by its hash until it ends, so that a client's later requests cost one
 * hash and no signature. What is remembered goes when keys or rules change: a key taken back is not good a moment
 * longer than it takes to hear of it.
 */
#include "serve/gateway/tokens.h"

#include "base/file.h"
#include "serve/gateway/internal.h"

#include <stdio.h>
#include <stdlib.h>

#define JWKS_MAX (1 << 20)
#define SKEW_US (30 * US_PER_S)
#define FRESH_US (600 * US_PER_S)
#define AGAIN_US (30 * US_PER_S) /* least between two questions, and after one that failed */
#define CLAIM_MAX 512

static bool is_url(struct str source)
{
	return str_starts(source, STR("http://")) || str_starts(source, STR("https://"));
}

static void set_keys(struct tokens *t, struct jwt_keys *keys)
{
	jwt_keys_free(t->keys);
	t->keys = keys;
	memset(t->known, 0, TOKENS_KNOWN * sizeof(*t->known));
}

static int read_keys(const char *path, struct jwt_keys **ret_keys, struct error *err)
{
	struct buf text = {0};
	int rc = file_read(path, JWKS_MAX, &text, err);

	if (rc == 0 && (rc = jwt_keys_parse(buf_str(&text), ret_keys, err)) < 0)
		error_prefix(err, "%s: ", path);
	buf_fini(&text);
	return rc;
}

/* ---- from a URL ------------------------------------------------------------------------------------------ */

static bool on_data(void *arg, struct str data)
{
	struct tokens *t = arg;

	buf_append_str(&t->body, data);
	return true;
}

static void on_done(void *arg, struct outside_call *call, const struct error *err)
{
	struct tokens *t = arg;
	struct jwt_keys *keys;
	struct error why = {0};
	int status = outside_status(call);

	t->call = NULL;
	if (err)
		why = *err;
	else if (status != 200)
		error_set(&why, E_PEER, "it answers with status %d", status);
	else if (jwt_keys_parse(buf_str(&t->body), &keys, &why) == 0)
		set_keys(t, keys);
	if (why.code) {
		log_warn(ROOM, "the keys of %s cannot be had from %s, %s: %s", t->issuer, t->source,
		         t->keys ? "the old ones stay" : "nobody comes in with a token", why.text);
		t->next_us = loop_now_us(t->loop) + AGAIN_US;
		return;
	}
	log_info(ROOM, "%zu keys of %s", jwt_keys_count(t->keys), t->issuer);
	t->next_us = loop_now_us(t->loop) + FRESH_US;
	if (t->kept && file_write(t->kept, 0600, buf_str(&t->body), &why) < 0)
		log_warn(ROOM, "the keys of %s are not kept: %s", t->issuer, why.text);
}

void tokens_tick(struct tokens *t)
{
	if (!t->outside || t->call || loop_now_us(t->loop) < t->next_us)
		return;
	const struct http_header accept = {STR("accept"), STR("application/json")};
	const struct outside_request request = {
	    .url = str_from(t->source),
	    .headers = &accept,
	    .header_count = 1,
	    .bytes_max = JWKS_MAX,
	    .on_data = on_data,
	    .on_done = on_done,
	    .arg = t,
	};
	buf_clear(&t->body);
	t->asked_us = loop_now_us(t->loop);
	t->call = outside_start(t->outside, &request);
}

static void ask_sooner(struct tokens *t)
{
	int64_t soon = t->asked_us + AGAIN_US;

	if (t->outside && !t->call && t->next_us > soon)
		t->next_us = soon;
}

/* ---- a token ------------------------------------------------------------------------------------------------ */

/* The team is part of the name, so that it is known wherever the tenant is. A claim that does not fit is named by its
 * hash. */
static int name_tenant(const struct tokens *t, yyjson_val *claims, char ret_tenant[static TOKEN_TENANT_SIZE],
                       struct error *err)
{
	struct str claim = {0}, team = {0};

	if (json_str(claims, t->claim, &claim, NULL) < 0 || claim.len == 0 || claim.len > CLAIM_MAX)
		return error_set(err, E_AUTH, "the token has no claim \"%s\", which is to say who asks", t->claim);
	if (t->team[0] && (json_str(claims, t->team, &team, NULL) < 0 || !id_is_sane(team) ||
	                   team.len >= TOKEN_TEAM_SIZE || memchr(team.base, ':', team.len)))
		return error_set(err, E_AUTH,
		                 "the token has no claim \"%s\" that names a team in at most %d characters", t->team,
		                 TOKEN_TEAM_SIZE - 1);
	int at = snprintf(ret_tenant, TOKEN_TENANT_SIZE, "jwt:" STR_FMT "%s", STR_ARG(team), t->team[0] ? ":" : "");
	if (!id_is_sane(claim) || !str_copy(claim, ret_tenant + at, TOKEN_TENANT_SIZE - (size_t)at)) {
		struct digest d = digest_of(claim.base, claim.len);

		hex_encode(d.bytes, 16, ret_tenant + at);
	}
	return 0;
}

bool tokens_named(const char *tenant)
{
	return str_starts(str_from(tenant), STR("jwt:"));
}

bool tokens_team(const struct tokens *t, const char *tenant, char ret_team[static TOKEN_TEAM_SIZE])
{
	struct str rest;

	return t->source && t->team[0] && tokens_named(tenant) &&
	       str_copy(str_cut(str_from(tenant + 4), ':', &rest), ret_team, TOKEN_TEAM_SIZE);
}

static int verify(struct tokens *t, struct str text, struct token_known *ret_known, struct error *err)
{
	const struct jwt_rules rules = {str_from(t->issuer), str_from(t->audience), SKEW_US};
	yyjson_doc *claims;
	bool unknown_key;
	int rc = jwt_verify(t->keys, &rules, text, clock_wall_us(), &claims, &ret_known->until_us, &unknown_key, err);

	if (rc < 0) {
		if (unknown_key)
			ask_sooner(t);
		return rc;
	}
	rc = name_tenant(t, yyjson_doc_get_root(claims), ret_known->tenant, err);
	yyjson_doc_free(claims);
	return rc;
}

int tokens_check(struct tokens *t, struct str text, char ret_tenant[static TOKEN_TENANT_SIZE], struct error *err)
{
	struct token_known fresh = {.digest = digest_of(text.base, text.len)};
	struct token_known *known = &t->known[(fresh.digest.bytes[0] << 8 | fresh.digest.bytes[1]) % TOKENS_KNOWN];
	int rc = 0;

	if (!t->keys)
		return error_set(err, E_UNAVAILABLE,
		                 "tokens cannot be checked yet: the keys of their issuer are not here");
	if (!digest_equal(&known->digest, &fresh.digest) || clock_wall_us() >= known->until_us) {
		rc = verify(t, text, &fresh, err);
		if (rc == 0)
			*known = fresh;
	}
	if (rc == 0)
		memcpy(ret_tenant, known->tenant, TOKEN_TENANT_SIZE);
	return rc;
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

/* The part between :// and the path. */
static struct str host_of(const char *url)
{
	const char *host = strstr(url, "://") + 3;

	return (struct str){host, strcspn(host, "/?#")};
}

static bool is_loopback(struct str host)
{
	struct str port, name = host.len && host.base[0] == '[' ? host : str_cut(host, ':', &port);

	return str_equal(name, STR("127.0.0.1")) || str_equal(name, STR("[::1]")) || str_starts(name, STR("[::1]:"));
}

static int open_outside(struct tokens *t, const struct gateway_tokens *o, struct error *err)
{
	struct buf allowed = {0};

	buf_printf(&allowed, "private:" STR_FMT, STR_ARG(host_of(t->source))); /* the operator named it */
	const struct outside_options options = {.allowed = buf_str(&allowed), .proxy = o->proxy, .ca_file = o->ca_file};
	int rc = outside_new(t->loop, &options, &t->outside, err);
	buf_fini(&allowed);
	return rc;
}

static int check_options(const struct gateway_tokens *o, struct error *err)
{
	if (!o->issuer.len || !o->audience.len || !o->claim.len)
		return error_set(err, E_INVAL,
		                 "jwt_keys: set jwt_issuer, jwt_audience and jwt_tenant, too: a token of "
		                 "somebody else's, or for somebody else, must not be good here");
	if (str_starts(o->keys, STR("http://")) && !is_loopback(host_of(o->keys.base)))
		return error_set(err, E_INVAL,
		                 "jwt_keys: use https:// or a file: whoever can change the keys on their "
		                 "way here can make tokens");
	return 0;
}

static bool is_the_same(const struct tokens *t, const struct gateway_tokens *o)
{
	return str_equal(str_from(t->source), o->keys) && str_equal(str_from(t->issuer), o->issuer) &&
	       str_equal(str_from(t->audience), o->audience) && str_equal(str_from(t->claim), o->claim) &&
	       str_equal(str_from(t->team), o->team);
}

/* Of this source, so that keys of another provider's are never taken for its. */
static char *kept_path(struct str folder, struct str source)
{
	struct digest d = digest_of(source.base, source.len);
	char name[32] = "jwks-";

	hex_encode(d.bytes, 8, name + 5);
	strcat(name, ".json");
	return file_join(folder, name);
}

int tokens_set(struct tokens *t, struct loop *loop, const struct gateway_tokens *o, struct error *err)
{
	struct tokens fresh = {.loop = loop};
	int rc = 0;

	if (t->outside && is_the_same(t, o)) {
		t->next_us = 0; /* new keys, if there are some */
		return 0;
	}
	if (o->keys.len) {
		if ((rc = check_options(o, err)) < 0)
			return rc;
		fresh.source = str_dup(o->keys);
		fresh.issuer = str_dup(o->issuer);
		fresh.audience = str_dup(o->audience);
		fresh.claim = str_dup(o->claim);
		fresh.team = str_dup(o->team);
		fresh.known = mem_new(TOKENS_KNOWN * sizeof(*fresh.known));
		if (is_url(o->keys)) {
			rc = open_outside(&fresh, o, err);
			fresh.kept = o->folder.len ? kept_path(o->folder, o->keys) : NULL;
			if (fresh.kept)
				read_keys(fresh.kept, &fresh.keys, NULL); /* until new ones are here */
		} else {
			rc = read_keys(fresh.source, &fresh.keys, err);
		}
	}
	if (rc < 0) {
		tokens_fini(&fresh);
		return error_prefix(err, "jwt_keys: ");
	}
	tokens_fini(t);
	*t = fresh;
	return 0;
}

void tokens_fini(struct tokens *t)
{
	if (t->call)
		outside_cancel(t->call);
	outside_free(t->outside);
	jwt_keys_free(t->keys);
	buf_fini(&t->body);
	free(t->known);
	free(t->source);
	free(t->issuer);
	free(t->audience);
	free(t->claim);
	free(t->team);
	free(t->kept);
	*t = (struct tokens){0};
}
