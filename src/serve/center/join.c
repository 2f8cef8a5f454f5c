/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens, joining, renewal.
 *
 *   token text: mdn1.ID.SECRET.CAPIN       base64url; 9 random bytes, 32 random bytes, SHA-256 of the CA's public key
 *   kept:       {"hash": hex SHA-256 of SECRET, "expires_us", "roles", "site", "pin", "node"}
 *
 * The first request with the secret binds the token to its key (pin) and to a new node id in one compare-and-set.
 * Everything after it can be repeated by that key: a crash between binding and registering, or a lost reply, costs the
 * node nothing, and nobody else can use what was left. Renewal asks for the registered key only; how the connection was
 * made does not matter, so an expired certificate renews.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/rng.h"
#include "net/x509.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define TOKEN_LIFE_MIN_US (1 * US_PER_MS)
#define TOKEN_LIFE_MAX_US (24 * 3600 * US_PER_S)
#define TOKEN_REPEAT_US (3600 * US_PER_S) /* a bound token answers its own key this long after it expired */

/* ---- token text ----------------------------------------------------------------------------------- */

static void hash_hex(struct str text, char ret_hex[static 65])
{
	struct digest d = digest_of(text.base, text.len);
	hex_encode(d.bytes, sizeof(d.bytes), ret_hex);
}

int token_parse(struct str text, struct token *ret_token, struct error *err)
{
	static const char words[] =
	    "this is not a join token: those look like mdn1.ID.SECRET.PIN; make one with `mdn token` at the center";
	struct str id, secret, pin, rest, extra = {0};
	struct token t;
	uint8_t bytes[48];
	size_t len;
	struct str head = str_cut(text, '.', &rest);
	id = str_cut(rest, '.', &rest);
	secret = str_cut(rest, '.', &rest);
	pin = str_cut(rest, '.', &extra);
	if (!str_equal(head, STR("mdn1")) || pin.len != rest.len)
		return error_set(err, E_AUTH, "%s", words);
	if (!str_copy(id, t.id, sizeof(t.id)) || base64url_decode(id, bytes, sizeof(bytes), &len) < 0 || len != 9 ||
	    base64url_decode(secret, bytes, sizeof(bytes), &len) < 0 || len != 32)
		return error_set(err, E_AUTH, "%s", words);
	hash_hex(secret, t.secret_hash);
	if (base64url_decode(pin, bytes, sizeof(bytes), &len) < 0 || len != DIGEST_SIZE)
		return error_set(err, E_AUTH, "%s", words);
	hex_encode(bytes, DIGEST_SIZE, t.ca_pin);
	explicit_bzero(bytes, sizeof(bytes));
	*ret_token = t;
	return 0;
}

/* ---- token records --------------------------------------------------------------------------------- */

struct record {
	char hash[65];
	int64_t expires_wall_us;
	uint32_t roles; /* 0: any */
	char site[NODE_TEXT_SIZE];
	char pin[65]; /* empty: nobody used it yet */
	char node[NODE_ID_SIZE];
};

static void record_format(const struct record *t, struct buf *out)
{
	struct buf roles = {0};
	node_roles_format(t->roles, &roles);
	buf_printf(out,
	           "{\"hash\":\"%s\",\"expires_us\":%" PRId64 ",\"roles\":\"" STR_FMT
	           "\",\"site\":\"%s\",\"pin\":\"%s\",\"node\":\"%s\"}",
	           t->hash, t->expires_wall_us, STR_ARG(buf_str(&roles)), t->site, t->pin, t->node);
	buf_fini(&roles);
}

static int record_parse(struct str text, struct record *ret, struct error *err)
{
	yyjson_doc *doc;
	struct record t = {0};
	struct str hash = {0}, roles = {0}, site = {0}, pin = {0}, node = {0};
	int rc = json_parse(text, &doc, err);
	if (rc < 0)
		return rc;
	yyjson_val *o = yyjson_doc_get_root(doc);
	if ((rc = json_str(o, "hash", &hash, err)) == 0 && (rc = json_str(o, "roles", &roles, err)) == 0 &&
	    (rc = json_str(o, "site", &site, err)) == 0 && (rc = json_str(o, "pin", &pin, err)) == 0 &&
	    (rc = json_str(o, "node", &node, err)) == 0 &&
	    (rc = json_i64(o, "expires_us", INT64_MIN, INT64_MAX, &t.expires_wall_us, err)) == 0 &&
	    (rc = roles.len ? node_roles_parse(roles, &t.roles, err) : 0) == 0) {
		str_copy(hash, t.hash, sizeof(t.hash));
		str_copy(site, t.site, sizeof(t.site));
		str_copy(pin, t.pin, sizeof(t.pin));
		str_copy(node, t.node, sizeof(t.node));
		*ret = t;
	}
	yyjson_doc_free(doc);
	return rc;
}

/* ---- POST tokens ------------------------------------------------------------------------------------ */

static void count_open(void *arg, struct str key, struct str value)
{
	struct record t;
	if (record_parse(value, &t, NULL) == 0 && !t.pin[0])
		++*(size_t *)arg;
}

int join_token_new(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err)
{
	struct record t = {0};
	struct str roles = {0}, site = {0};
	int64_t life = c->token_life_us;
	size_t count = 0;
	int rc;
	if ((rc = json_i64(body, "ttl_us", TOKEN_LIFE_MIN_US, TOKEN_LIFE_MAX_US, &life, err)) < 0 ||
	    (rc = json_str(body, "roles", &roles, err)) < 0 || (rc = json_str(body, "site", &site, err)) < 0 ||
	    (roles.len && (rc = node_roles_parse(roles, &t.roles, err)) < 0) ||
	    (site.len && (rc = center_name(site, "site", t.site, sizeof(t.site), err)) < 0))
		return rc;
	join_sweep(c);
	if ((rc = state_each(c->state, "token", count_open, &count, err)) < 0)
		return rc;
	if (count >= LIMIT_JOIN_TOKENS)
		return error_set(err, E_BUSY, "there are %d open join tokens: wait until some expire",
		                 LIMIT_JOIN_TOKENS);

	uint8_t id[9], secret[32], pin[DIGEST_SIZE];
	char id_text[16], secret_text[48], pin_text[48];
	rng_secret(id, sizeof(id));
	rng_secret(secret, sizeof(secret));
	hex_decode(str_from(c->ca.pin), pin, sizeof(pin));
	base64url_encode(id, sizeof(id), id_text);
	base64url_encode(secret, sizeof(secret), secret_text);
	base64url_encode(pin, sizeof(pin), pin_text);
	hash_hex(str_from(secret_text), t.hash);
	t.expires_wall_us = clock_wall_us() + life;

	struct buf text = {0};
	record_format(&t, &text);
	rc = state_put_if(c->state, "token", str_from(id_text), (struct str){0}, buf_str(&text), err);
	buf_clear(&text);
	if (rc == 0) {
		buf_printf(&text, "{\"token\":\"mdn1.%s.%s.%s\",\"expires_us\":%" PRId64 "}", id_text, secret_text,
		           pin_text, t.expires_wall_us);
		center_answer(x, &text);
	}
	explicit_bzero(secret, sizeof(secret));
	explicit_bzero(secret_text, sizeof(secret_text));
	buf_fini(&text);
	return rc;
}

struct sweep {
	struct buf dead; /* ids, each with a newline */
	int64_t now;
};

static void sweep_one(void *arg, struct str key, struct str value)
{
	struct sweep *s = arg;
	struct record t;
	if (record_parse(value, &t, NULL) == 0 &&
	    s->now < t.expires_wall_us + (t.pin[0] ? TOKEN_REPEAT_US : US_PER_S * 60))
		return;
	buf_append_str(&s->dead, key);
	buf_append_str(&s->dead, STR("\n"));
}

void join_sweep(struct center *c)
{
	struct sweep s = {.now = clock_wall_us()};
	if (state_each(c->state, "token", sweep_one, &s, NULL) == 0) {
		struct str rest = buf_str(&s.dead);
		while (rest.len) {
			struct str id = str_cut(rest, '\n', &rest);
			state_delete(c->state, "token", id, NULL);
		}
	}
	buf_fini(&s.dead);
}

/* ---- POST join --------------------------------------------------------------------------------------- */

static int required(yyjson_val *body, const char *key, struct str *ret, struct error *err)
{
	int rc = json_str(body, key, ret, err);
	if (rc == 0 && ret->len == 0)
		rc = error_set(err, E_INVAL, "\"%s\" is missing", key);
	return rc;
}

int join_asked_parse(const struct center *c, yyjson_val *body, struct asked *a, struct error *err)
{
	struct str token = {0}, name = {0}, site = {0}, roles = {0};
	int rc;
	if ((rc = required(body, "token", &token, err)) < 0 || (rc = required(body, "csr", &a->csr, err)) < 0 ||
	    (rc = required(body, "name", &name, err)) < 0 || (rc = required(body, "roles", &roles, err)) < 0 ||
	    (rc = json_str(body, "site", &site, err)) < 0 || (rc = token_parse(token, &a->token, err)) < 0 ||
	    (rc = center_name(name, "name", a->name, sizeof(a->name), err)) < 0 ||
	    (site.len && (rc = center_name(site, "site", a->site, sizeof(a->site), err)) < 0) ||
	    (rc = node_roles_parse(roles, &a->roles, err)) < 0)
		return rc;
	if (a->roles == 0)
		return error_set(err, E_INVAL, "\"roles\" is empty: a node has at least one role");
	if (strcmp(a->token.ca_pin, c->ca.pin) != 0)
		return error_set(err, E_AUTH,
		                 "this token is of another network: make one with `mdn token` at this center");
	return 0;
}

static bool hash_equal(const char *a, const char *b)
{
	uint8_t difference = 0;
	for (size_t i = 0; i < 64; i++)
		difference |= (uint8_t)(a[i] ^ b[i]);
	return difference == 0;
}

/* The token's record when this request may use it; *text is what is stored now, for the compare-and-set. Only who knows
 * a secret gets as far as the ASN.1 of a certificate request. */
static int find_token(struct center *c, struct asked *a, struct record *t, struct buf *text, struct error *err)
{
	int rc = state_get(c->state, "token", str_from(a->token.id), text, err);
	if (rc < 0 && rc != E_NOTFOUND)
		return rc;
	if (rc == E_NOTFOUND || record_parse(buf_str(text), t, err) < 0 || !hash_equal(t->hash, a->token.secret_hash))
		return error_set(err, E_AUTH, "this join token is not known: make a new one with `mdn token`");
	if ((rc = x509_request_pin(a->csr, a->pin, err)) < 0)
		return rc;
	if (t->pin[0] && strcmp(t->pin, a->pin) != 0)
		return error_set(err, E_FORBIDDEN,
		                 "this join token was used by another key: a token is good for one node; make a new "
		                 "one with `mdn token`");
	if (!t->pin[0] && clock_wall_us() > t->expires_wall_us)
		return error_set(err, E_AUTH,
		                 "this join token expired %" PRId64 " s ago: make a new one with `mdn token`",
		                 (clock_wall_us() - t->expires_wall_us) / US_PER_S);
	return 0;
}

static int check_grant(const struct asked *a, const struct record *t, struct error *err)
{
	struct buf roles = {0};
	int rc = 0;
	node_roles_format(t->roles, &roles);
	if (t->roles && (a->roles & ~t->roles))
		rc = error_set(err, E_FORBIDDEN, "this join token is for the roles " STR_FMT " only",
		               STR_ARG(buf_str(&roles)));
	else if (t->site[0] && a->site[0] && strcmp(t->site, a->site) != 0)
		rc = error_set(err, E_FORBIDDEN, "this join token is for the site %s only, not for %s", t->site,
		               a->site);
	buf_fini(&roles);
	return rc;
}

/* The node this key already is, or NULL for a new one; refuses what must not join. */
static int find_node(struct center *c, const struct asked *a, struct registered **ret, struct error *err)
{
	struct registered *same_key = registry_find_pin(c, a->pin),
			  *same_name = registry_find_name(c, str_from(a->name));
	if (same_key && same_key->removed)
		return error_set(err, E_FORBIDDEN,
		                 "this key belongs to the removed node %s: delete the node's identity folder, so that "
		                 "it makes a new key, and join again",
		                 same_key->id);
	if (same_name && same_name != same_key)
		return error_set(err, E_CONFLICT,
		                 "there is a node named %s (%s): choose another name, or remove that node first",
		                 a->name, same_name->id);
	if (!same_key && c->node_count >= LIMIT_NODES)
		return error_set(err, E_UNAVAILABLE, "this network has %d nodes, the most it can: remove some",
		                 LIMIT_NODES);
	*ret = same_key;
	return 0;
}

/* The id this request gets: that of its key, that the token already gave, or a new one. */
static void choose_id(const struct registered *known, const struct record *t, char ret_id[static NODE_ID_SIZE])
{
	uint8_t random[8];
	char hex[17];
	if (known || t->node[0]) {
		str_copy(str_from(known ? known->id : t->node), ret_id, NODE_ID_SIZE);
		return;
	}
	rng_secret(random, sizeof(random));
	hex_encode(random, sizeof(random), hex);
	snprintf(ret_id, NODE_ID_SIZE, "n-%s", hex);
}

/* One compare-and-set gives the token to this key. */
static int bind_token(struct center *c, const struct asked *a, const char *id, struct record *t, struct str stored,
                      struct error *err)
{
	if (t->pin[0])
		return 0;
	str_copy(str_from(a->pin), t->pin, sizeof(t->pin));
	str_copy(str_from(id), t->node, sizeof(t->node));
	struct buf text = {0};
	record_format(t, &text);
	int rc = state_put_if(c->state, "token", str_from(a->token.id), stored, buf_str(&text), err);
	buf_fini(&text);
	if (rc == E_CONFLICT)
		rc = error_set(err, E_FORBIDDEN,
		               "this join token was used by another key just now: make a new one with `mdn token`");
	return rc;
}

static void answer_identity(struct center *c, struct http_exchange *x, const char *id, const char *cert,
                            int64_t expires)
{
	struct buf out = {0};
	buf_printf(&out, "{\"id\":\"%s\",\"domain\":\"%s\",\"center\":\"%s\",\"certificate\":", id, c->self.domain,
	           c->self.id);
	buf_append_json(&out, str_from(cert));
	buf_append_str(&out, STR(",\"ca\":"));
	buf_append_json(&out, str_from(c->ca.cert_pem));
	buf_printf(&out, ",\"expires_us\":%" PRId64 "}", expires);
	center_answer(x, &out);
}

int join_join(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err)
{
	struct asked a = {0};
	struct record t = {0};
	struct registered *known = NULL, r = {0};
	struct buf stored = {0};
	char *cert = NULL, id[NODE_ID_SIZE];
	int rc;
	if ((rc = join_asked_parse(c, body, &a, err)) < 0 || (rc = find_token(c, &a, &t, &stored, err)) < 0 ||
	    (rc = check_grant(&a, &t, err)) < 0 || (rc = find_node(c, &a, &known, err)) < 0)
		goto out;
	if (known)
		r = *known;
	choose_id(known, &t, id);
	/* Made before the token is spent: a request without a good signature costs nothing. */
	if ((rc = ca_issue_node(c, id, a.csr, &cert, &r.cert_expires_wall_us, err)) < 0 ||
	    (rc = bind_token(c, &a, id, &t, buf_str(&stored), err)) < 0)
		goto out;
	str_copy(str_from(id), r.id, sizeof(r.id));
	str_copy(str_from(a.name), r.name, sizeof(r.name));
	str_copy(str_from(a.site[0] ? a.site : t.site[0] ? t.site : "default"), r.site, sizeof(r.site));
	str_copy(str_from(a.pin), r.pin, sizeof(r.pin));
	r.roles = a.roles;
	if ((rc = registry_put(c, &r, &known, err)) < 0)
		goto out;
	log_info(ROOM, "node %s joined as %s, site %s", r.id, r.name, r.site);
	center_touch(c);
	answer_identity(c, x, r.id, cert, r.cert_expires_wall_us);
out:
	free(cert);
	buf_fini(&stored);
	return rc;
}

/* ---- POST renew ----------------------------------------------------------------------------------------- */

int join_renew(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err)
{
	struct str id = {0}, csr = {0};
	char pin[65], *cert = NULL;
	int64_t expires = 0;
	int rc;
	if ((rc = required(body, "id", &id, err)) < 0 || (rc = required(body, "csr", &csr, err)) < 0)
		return rc;
	struct registered *r = registry_find(c, id);
	if (!r)
		return error_set(err, E_FORBIDDEN,
		                 "this network has no such node: join it with a token from `mdn token`");
	if ((rc = x509_request_pin(csr, pin, err)) < 0)
		return rc;
	if (strcmp(r->pin, pin) != 0)
		return error_set(err, E_FORBIDDEN, "the request is not signed with the key that node %s joined with",
		                 r->id);
	if (r->removed)
		return error_set(err, E_FORBIDDEN,
		                 "node %s was removed from this network: to come back, delete its identity folder and "
		                 "join again with a token",
		                 r->id);
	if ((rc = ca_issue_node(c, r->id, csr, &cert, &expires, err)) < 0)
		return rc;
	struct registered changed = *r;
	changed.cert_expires_wall_us = expires;
	if ((rc = registry_put(c, &changed, &r, err)) == 0)
		answer_identity(c, x, r->id, cert, expires);
	free(cert);
	return rc;
}
