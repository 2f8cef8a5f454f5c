/* SPDX-License-Identifier: Apache-2.0 */
/* API keys: made here, shown once, kept as hashes that the roster carries to all gateways; and the teams that share a
 * budget. What a key or a team may use is handed out by quotas.c.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/rng.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- on disk ------------------------------------------------------------------------------------------------ */

static int limits_of_body(yyjson_val *o, struct quota_limits *l, struct error *err)
{
	yyjson_val *limits = NULL;
	int rc = json_obj(o, "limits", &limits, err);
	return rc < 0 || !limits ? rc : quota_limits_read(limits, l, err);
}

static void put_limits(const struct quota_limits *l, struct buf *out)
{
	if (!quota_is_limited(l))
		return;
	buf_append_str(out, STR(",\"limits\":"));
	quota_limits_write(l, out);
}

static int load_key(struct center *c, yyjson_val *o, struct str key, struct error *err)
{
	struct kept_key k = {0};
	struct str hash = {0}, name = {0}, team = {0};
	int rc;
	if ((rc = json_str(o, "hash", &hash, err)) < 0 || (rc = json_str(o, "name", &name, err)) < 0 ||
	    (rc = json_str(o, "team", &team, err)) < 0 || (rc = limits_of_body(o, &k.limits, err)) < 0 ||
	    (rc = json_i64(o, "created_us", INT64_MIN, INT64_MAX, &k.created_wall_us, err)) < 0)
		return rc;
	str_copy(key, k.id, sizeof(k.id));
	str_copy(hash, k.hash, sizeof(k.hash));
	str_copy(name, k.name, sizeof(k.name));
	str_copy(team, k.team, sizeof(k.team));
	c->keys = mem_resize(c->keys, c->key_count + 1, sizeof(*c->keys));
	c->keys[c->key_count++] = k;
	quotas_set(c, k.id, &k.limits);
	return 0;
}

static int load_team(struct center *c, yyjson_val *o, struct str name, struct error *err)
{
	struct kept_team t = {0};
	char account[QUOTA_ACCOUNT_SIZE];
	int rc;
	if ((rc = limits_of_body(o, &t.limits, err)) < 0 ||
	    (rc = json_i64(o, "created_us", INT64_MIN, INT64_MAX, &t.created_wall_us, err)) < 0)
		return rc;
	str_copy(name, t.name, sizeof(t.name));
	c->teams = mem_resize(c->teams, c->team_count + 1, sizeof(*c->teams));
	c->teams[c->team_count++] = t;
	quota_team_account(t.name, account);
	quotas_set(c, account, &t.limits);
	return 0;
}

int keys_load(struct center *c, struct error *err)
{
	int rc = center_load(c, "team", "team", load_team, err);
	return rc < 0 ? rc : center_load(c, "key", "API key", load_key, err);
}

static void key_format(const struct kept_key *k, struct buf *out)
{
	buf_printf(out, "{\"hash\":\"%s\",\"name\":\"%s\",\"created_us\":%" PRId64, k->hash, k->name,
	           k->created_wall_us);
	if (k->team[0])
		buf_printf(out, ",\"team\":\"%s\"", k->team);
	put_limits(&k->limits, out);
	buf_append_str(out, STR("}"));
}

/* ---- keys --------------------------------------------------------------------------------------------------- */

static struct kept_team *team_find(const struct center *c, struct str name)
{
	for (size_t i = 0; i < c->team_count; i++)
		if (str_equal(str_from(c->teams[i].name), name))
			return &c->teams[i];
	return NULL;
}

/* What a call says of a key: its team and its limits. */
static int key_terms(const struct center *c, yyjson_val *body, struct kept_key *k, struct error *err)
{
	struct str team = str_from(k->team);
	int rc = json_str(body, "team", &team, err);
	if (rc < 0 || (rc = limits_of_body(body, &k->limits, err)) < 0)
		return rc;
	if (team.len && !team_find(c, team))
		return error_set(err, E_NOTFOUND, "there is no team \"" STR_FMT "\"; make it: mdn team set NAME",
		                 STR_ARG(((struct str){team.base, team.len < 64 ? team.len : 64})));
	if (team.base != k->team)
		str_copy(team, k->team, sizeof(k->team));
	return 0;
}

static struct kept_key *key_find(const struct center *c, struct str id)
{
	for (size_t i = 0; i < c->key_count; i++)
		if (str_equal(str_from(c->keys[i].id), id))
			return &c->keys[i];
	return NULL;
}

static int no_such_key(struct str id, struct error *err)
{
	return error_set(err, E_NOTFOUND,
	                 "there is no API key with the id " STR_FMT ": the id is what follows mdn-, 12 characters",
	                 STR_ARG(((struct str){id.base, id.len < 64 ? id.len : 64})));
}

void keys_free(struct center *c)
{
	free(c->keys);
	free(c->teams);
	c->keys = NULL;
	c->teams = NULL;
	c->key_count = c->team_count = 0;
}

int keys_new(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err)
{
	struct kept_key k = {.created_wall_us = clock_wall_us()};
	struct str name = {0};
	uint8_t id[6], secret[API_KEY_SECRET_BYTES];
	char key[API_KEY_SIZE];
	int rc;
	if ((rc = json_str(body, "name", &name, err)) < 0 ||
	    (rc = center_name(name, "\"name\" (whom the key is for)", k.name, sizeof(k.name), err)) < 0 ||
	    (rc = key_terms(c, body, &k, err)) < 0)
		return rc;
	if (c->key_count >= LIMIT_API_KEYS)
		return error_set(err, E_BUSY, "there are %d API keys, the most there can be: revoke some",
		                 LIMIT_API_KEYS);
	rng_secret(id, sizeof(id));
	rng_secret(secret, sizeof(secret));
	api_key_format(id, secret, key);
	hex_encode(id, sizeof(id), k.id);
	api_key_hash(str_from(key), k.hash);

	struct buf text = {0};
	key_format(&k, &text);
	rc = state_put_if(c->state, "key", str_from(k.id), (struct str){0}, buf_str(&text), err);
	buf_fini(&text);
	if (rc == 0) {
		c->keys = mem_resize(c->keys, c->key_count + 1, sizeof(*c->keys));
		c->keys[c->key_count++] = k;
		log_info(ROOM, "API key %s made for %s", k.id, k.name);
		quotas_set(c, k.id, &k.limits);
		center_touch(c);
		buf_printf(&text, "{\"key\":\"%s\",\"id\":\"%s\"}", key, k.id);
		center_answer(x, &text);
	}
	explicit_bzero(secret, sizeof(secret));
	explicit_bzero(key, sizeof(key));
	return rc;
}

int keys_set(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err)
{
	struct str path = http_path(x), id = {path.base + strlen("/mdn/v1/keys/"), path.len - strlen("/mdn/v1/keys/")};
	struct kept_key *k = key_find(c, id);
	struct buf text = {0};
	if (!k)
		return no_such_key(id, err);
	struct kept_key changed = *k;
	int rc = key_terms(c, body, &changed, err);
	if (rc < 0)
		return rc;
	key_format(&changed, &text);
	rc = state_put(c->state, "key", id, buf_str(&text), err);
	buf_fini(&text);
	if (rc < 0)
		return rc;
	*k = changed;
	quotas_set(c, k->id, &k->limits);
	center_touch(c);
	http_respond(x, 204, NULL, (struct str){0});
	return 0;
}

int keys_delete(struct center *c, struct http_exchange *x, struct str id, struct error *err)
{
	struct kept_key *k = key_find(c, id);
	if (!k)
		return no_such_key(id, err);
	int rc = state_delete(c->state, "key", id, err);
	if (rc < 0)
		return rc;
	state_delete(c->state, "spent", id, NULL); /* nobody will ask for it */
	log_info(ROOM, "API key %s of %s revoked", k->id, k->name);
	quotas_set(c, k->id, NULL);
	*k = c->keys[--c->key_count];
	center_touch(c);
	http_respond(x, 204, NULL, (struct str){0});
	return 0;
}

void keys_list(struct center *c, struct http_exchange *x)
{
	struct buf out = {0};
	buf_append_str(&out, STR("{\"keys\":["));
	for (size_t i = 0; i < c->key_count; i++) {
		const struct kept_key *k = &c->keys[i];
		buf_printf(&out, "%s{\"id\":\"%s\",\"name\":\"%s\",\"created_us\":%" PRId64, i ? "," : "", k->id,
		           k->name, k->created_wall_us);
		if (k->team[0])
			buf_printf(&out, ",\"team\":\"%s\"", k->team);
		put_limits(&k->limits, &out);
		buf_append_str(&out, STR("}"));
	}
	buf_append_str(&out, STR("]}"));
	center_answer(x, &out);
}

/* ---- teams -------------------------------------------------------------------------------------------------- */

int teams_set(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err)
{
	struct kept_team t = {.created_wall_us = clock_wall_us()};
	struct str name = {0};
	struct buf text = {0};
	char account[QUOTA_ACCOUNT_SIZE];
	int rc;
	if ((rc = json_str(body, "name", &name, err)) < 0 ||
	    (rc = center_name(name, "\"name\" of a team", t.name, sizeof(t.name), err)) < 0)
		return rc;
	struct kept_team *known = team_find(c, name);
	if (known)
		t = *known;
	else if (c->team_count >= LIMIT_TEAMS)
		return error_set(err, E_BUSY, "there are %d teams, the most there can be", LIMIT_TEAMS);
	if ((rc = limits_of_body(body, &t.limits, err)) < 0)
		return rc;
	buf_printf(&text, "{\"created_us\":%" PRId64, t.created_wall_us);
	put_limits(&t.limits, &text);
	buf_append_str(&text, STR("}"));
	rc = state_put(c->state, "team", str_from(t.name), buf_str(&text), err);
	buf_fini(&text);
	if (rc < 0)
		return rc;
	if (!known) {
		c->teams = mem_resize(c->teams, c->team_count + 1, sizeof(*c->teams));
		known = &c->teams[c->team_count++];
	}
	*known = t;
	quota_team_account(t.name, account);
	quotas_set(c, account, &t.limits);
	center_touch(c);
	http_respond(x, 204, NULL, (struct str){0});
	return 0;
}

int teams_delete(struct center *c, struct http_exchange *x, struct str name, struct error *err)
{
	struct kept_team *t = team_find(c, name);
	char account[QUOTA_ACCOUNT_SIZE];
	if (!t)
		return error_set(err, E_NOTFOUND, "there is no such team: see `mdn team list`");
	for (size_t i = 0; i < c->key_count; i++)
		if (str_equal(str_from(c->keys[i].team), name))
			return error_set(err, E_CONFLICT,
			                 "key %s (%s) is of this team: revoke it, or mdn key set %s --team ''",
			                 c->keys[i].id, c->keys[i].name, c->keys[i].id);
	int rc = state_delete(c->state, "team", name, err);
	if (rc < 0)
		return rc;
	quota_team_account(t->name, account);
	quotas_set(c, account, NULL);
	*t = c->teams[--c->team_count];
	center_touch(c);
	http_respond(x, 204, NULL, (struct str){0});
	return 0;
}

static void put_teams(const struct center *c, struct buf *out)
{
	buf_append_str(out, STR("\"teams\":["));
	for (size_t i = 0; i < c->team_count; i++) {
		buf_printf(out, "%s{\"name\":\"%s\"", i ? "," : "", c->teams[i].name);
		put_limits(&c->teams[i].limits, out);
		buf_append_str(out, STR("}"));
	}
	buf_append_str(out, STR("]"));
}

void teams_list(struct center *c, struct http_exchange *x)
{
	struct buf out = {0};
	buf_append_str(&out, STR("{"));
	put_teams(c, &out);
	buf_append_str(&out, STR("}"));
	center_answer(x, &out);
}

void keys_roster(const struct center *c, struct buf *out)
{
	buf_append_str(out, STR(",\"keys\":["));
	for (size_t i = 0; i < c->key_count; i++) {
		const struct kept_key *k = &c->keys[i];
		buf_printf(out, "%s{\"id\":\"%s\",\"hash\":\"%s\"", i ? "," : "", k->id, k->hash);
		if (k->team[0])
			buf_printf(out, ",\"team\":\"%s\"", k->team);
		put_limits(&k->limits, out);
		buf_append_str(out, STR("}"));
	}
	buf_append_str(out, STR("]"));
	if (c->team_count) {
		buf_append_str(out, STR(","));
		put_teams(c, out);
	}
}
