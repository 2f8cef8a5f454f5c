/* SPDX-License-Identifier: Apache-2.0 */
/* API keys: made here, shown once, kept as hashes that the roster carries to all gateways. */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/rng.h"

#include <inttypes.h>
#include <stdlib.h>

static int load_key(struct center *c, yyjson_val *o, struct str key, struct error *err)
{
	struct kept_key k = {0};
	struct str hash = {0}, name = {0};
	int rc;
	if ((rc = json_str(o, "hash", &hash, err)) < 0 || (rc = json_str(o, "name", &name, err)) < 0 ||
	    (rc = json_i64(o, "created_us", INT64_MIN, INT64_MAX, &k.created_wall_us, err)) < 0)
		return rc;
	str_copy(key, k.id, sizeof(k.id));
	str_copy(hash, k.hash, sizeof(k.hash));
	str_copy(name, k.name, sizeof(k.name));
	c->keys = mem_resize(c->keys, c->key_count + 1, sizeof(*c->keys));
	c->keys[c->key_count++] = k;
	return 0;
}

int keys_load(struct center *c, struct error *err)
{
	return center_load(c, "key", "API key", load_key, err);
}

void keys_free(struct center *c)
{
	free(c->keys);
	c->keys = NULL;
	c->key_count = 0;
}

int keys_new(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err)
{
	struct kept_key k = {.created_wall_us = clock_wall_us()};
	struct str name = {0};
	uint8_t id[6], secret[API_KEY_SECRET_BYTES];
	char key[API_KEY_SIZE];
	int rc;
	if ((rc = json_str(body, "name", &name, err)) < 0 ||
	    (rc = center_name(name, "\"name\" (whom the key is for)", k.name, sizeof(k.name), err)) < 0)
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
	buf_printf(&text, "{\"hash\":\"%s\",\"name\":\"%s\",\"created_us\":%" PRId64 "}", k.hash, k.name,
	           k.created_wall_us);
	rc = state_put_if(c->state, "key", str_from(k.id), (struct str){0}, buf_str(&text), err);
	buf_fini(&text);
	if (rc == 0) {
		c->keys = mem_resize(c->keys, c->key_count + 1, sizeof(*c->keys));
		c->keys[c->key_count++] = k;
		log_info(ROOM, "API key %s made for %s", k.id, k.name);
		center_touch(c);
		buf_printf(&text, "{\"key\":\"%s\",\"id\":\"%s\"}", key, k.id);
		center_answer(x, &text);
	}
	explicit_bzero(secret, sizeof(secret));
	explicit_bzero(key, sizeof(key));
	return rc;
}

int keys_delete(struct center *c, struct http_exchange *x, struct str id, struct error *err)
{
	for (size_t i = 0; i < c->key_count; i++) {
		if (!str_equal(str_from(c->keys[i].id), id))
			continue;
		int rc = state_delete(c->state, "key", id, err);
		if (rc < 0)
			return rc;
		log_info(ROOM, "API key %s of %s revoked", c->keys[i].id, c->keys[i].name);
		c->keys[i] = c->keys[--c->key_count];
		center_touch(c);
		http_respond(x, 204, NULL, (struct str){0});
		return 0;
	}
	return error_set(err, E_NOTFOUND,
	                 "there is no API key with the id " STR_FMT ": the id is what follows mdn-, 12 characters",
	                 STR_ARG(((struct str){id.base, id.len < 64 ? id.len : 64})));
}

void keys_list(struct center *c, struct http_exchange *x)
{
	struct buf out = {0};
	buf_append_str(&out, STR("{\"keys\":["));
	for (size_t i = 0; i < c->key_count; i++)
		buf_printf(&out, "%s{\"id\":\"%s\",\"name\":\"%s\",\"created_us\":%" PRId64 "}", i ? "," : "",
		           c->keys[i].id, c->keys[i].name, c->keys[i].created_wall_us);
	buf_append_str(&out, STR("]}"));
	center_answer(x, &out);
}
