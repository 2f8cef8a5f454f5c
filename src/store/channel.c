/* SPDX-License-Identifier: Apache-2.0 */
#include "store/channel.h"

#include "base/clock.h"
#include "base/json.h"

#include <stdio.h>

void channel_fini(struct channel *c)
{
	if (!c)
		return;
	signed_model_fini(&c->files);
	*c = (struct channel){0};
}

void channel_of_version(const struct version *v, struct channel *ret_channel)
{
	struct channel c = {.manifest = v->manifest};
	snprintf(c.name, sizeof c.name, "%s:%s", v->name, v->tag);
	signed_model_of_version(v, &c.files);
	*ret_channel = c;
}

void channel_format(struct channel *c, struct buf *out)
{
	char manifest[DIGEST_TEXT_SIZE];
	struct buf more = {0};
	digest_format(&c->manifest, manifest);
	buf_append_str(&more, STR("\"channel\":{\"name\":"));
	buf_append_json(&more, str_from(c->name));
	buf_printf(&more, ",\"manifest\":\"%s\",\"counter\":%llu,\"issued_us\":%lld,\"expires_us\":%lld},", manifest,
	           (unsigned long long)c->counter, (long long)c->issued_wall_us, (long long)c->expires_wall_us);
	signed_statement_format(&c->files, CHANNEL_PREDICATE, buf_str(&more), out);
	buf_fini(&more);
}

static int take_channel(yyjson_val *root, struct channel *c, struct error *err)
{
	yyjson_val *predicate = NULL, *own = NULL;
	struct str name = {0}, manifest = {0};
	int64_t counter = 0;
	int rc = json_obj(root, "predicate", &predicate, err);
	if (!rc && !(rc = json_obj(predicate, "channel", &own, err)) && !own)
		rc = error_set(err, E_INVAL, "the channel statement has no \"channel\"");
	if (!rc)
		rc = json_str(own, "name", &name, err);
	if (!rc && (!name.len || memchr(name.base, 0, name.len) || !str_copy(name, c->name, sizeof c->name)))
		rc = error_set(err, E_INVAL, "the channel statement needs a \"name\" of at most 259 bytes");
	if (!rc)
		rc = json_str(own, "manifest", &manifest, err);
	if (!rc && digest_parse(manifest, &c->manifest))
		rc = error_set(err, E_INVAL, "the channel statement's \"manifest\" is not a sha256 digest");
	if (!rc)
		rc = json_i64(own, "counter", 1, INT64_MAX, &counter, err);
	if (!rc && counter == 0)
		rc = error_set(err, E_INVAL, "the channel statement has no \"counter\"");
	c->counter = (uint64_t)counter;
	if (!rc)
		rc = json_i64(own, "issued_us", 0, INT64_MAX, &c->issued_wall_us, err);
	if (!rc)
		rc = json_i64(own, "expires_us", 1, INT64_MAX, &c->expires_wall_us, err);
	if (!rc && c->expires_wall_us <= c->issued_wall_us)
		rc = error_set(err, E_INVAL, "the channel statement ends before it begins");
	return rc;
}

int channel_parse(struct str payload, struct channel *ret_channel, struct error *err)
{
	struct channel c = {0};
	yyjson_doc *doc;
	int rc = signed_statement_parse(payload, CHANNEL_PREDICATE, &c.files, &doc, err);
	if (rc)
		return rc;
	rc = take_channel(yyjson_doc_get_root(doc), &c, err);
	yyjson_doc_free(doc);
	if (rc) {
		channel_fini(&c);
		return rc;
	}
	*ret_channel = c;
	return 0;
}

int channel_check(const struct channel *c, const struct version *v, const struct channel_seen *seen,
                  int64_t now_wall_us, struct error *err)
{
	char name[260], text[25];
	snprintf(name, sizeof name, "%s:%s", v->name, v->tag);
	if (strcmp(name, c->name))
		return error_set(err, E_FORBIDDEN, "the statement is about the channel %s", c->name);
	if (!digest_equal(&v->manifest, &c->manifest))
		return error_set(err, E_FORBIDDEN, "the statement names another version than the one that %s is now",
		                 name);
	if (c->counter < seen->counter)
		return error_set(
		    err, E_FORBIDDEN,
		    "%s was statement %llu here before and is %llu now: an old version was put back; if that "
		    "is meant, sign the channel again",
		    name, (unsigned long long)seen->counter, (unsigned long long)c->counter);
	if (c->counter == seen->counter && !digest_equal(&seen->manifest, &c->manifest))
		return error_set(err, E_FORBIDDEN,
		                 "two statements of %s have the number %llu and name different versions", name,
		                 (unsigned long long)c->counter);
	if (c->expires_wall_us > now_wall_us)
		return 0;
	clock_format(c->expires_wall_us, text);
	return error_set(err, E_FORBIDDEN, "the statement of %s expired on %s: sign the channel again", name, text);
}
