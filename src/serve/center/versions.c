/* SPDX-License-Identifier: Apache-2.0 */
/* Versions come from the repositories' feeds and are kept, so that assignments stand while a repository is away. When a
 * tag moves, what becomes of the nodes that have it is the roll-out's to say; both are written together.
 */
#include "serve/center/inside.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "store/ociname.h"

#include <stdlib.h>

int places_name_tag(struct str text, char ret[static NAME_TAG_SIZE], struct error *err)
{
	struct str repo, tag;
	struct buf joined = {0};
	if (!oci_reference_parse(text, &repo, &tag))
		return error_set(err, E_INVAL,
		                 "\"" STR_FMT
		                 "\" is no model name: write NAME:TAG in lower case, as `mdn models` shows it",
		                 STR_ARG(((struct str){text.base, text.len < 100 ? text.len : 100})));
	buf_printf(&joined, STR_FMT ":" STR_FMT, STR_ARG(repo), STR_ARG(tag));
	bool fits = str_copy(buf_str(&joined), ret, NAME_TAG_SIZE);
	buf_fini(&joined);
	return fits ? 0 : error_set(err, E_LIMIT, "a model's NAME:TAG has at most %d bytes", NAME_TAG_SIZE - 1);
}

static size_t version_position(const struct center *c, struct str name_tag)
{
	size_t low = 0, high = c->version_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const char *there = c->versions[middle].name_tag;
		size_t len = strlen(there);
		int order = memcmp(there, name_tag.base, len < name_tag.len ? len : name_tag.len);
		if (order < 0 || (order == 0 && len < name_tag.len))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct known_version *version_find(struct center *c, struct str name_tag)
{
	size_t at = version_position(c, name_tag);
	bool found = at < c->version_count && str_equal(str_from(c->versions[at].name_tag), name_tag);
	return found ? &c->versions[at] : NULL;
}

int version_unknown(const struct center *c, const char *model, struct error *err)
{
	struct buf known = {0};
	for (size_t i = 0; i < c->version_count && known.len < 250; i++)
		buf_printf(&known, "%s%s", i ? ", " : "", c->versions[i].name_tag);
	int rc =
	    error_set(err, E_NOTFOUND, "no repository of this network has %s: push it first with `mdn push`%s%.300s",
	              model, known.len ? ", or place one of: " : "", known.len ? known.base : "");
	buf_fini(&known);
	return rc;
}

static bool version_same(const struct version *a, const struct version *b)
{
	struct buf x = {0}, y = {0};
	version_format(a, &x);
	version_format(b, &y);
	bool same = str_equal(buf_str(&x), buf_str(&y));
	buf_fini(&x);
	buf_fini(&y);
	return same;
}

static int version_store(struct center *c, const struct known_version *k, struct error *err)
{
	struct buf text = {0};
	buf_printf(&text, "{\"source\":\"%s\",\"version\":", k->source);
	version_format(&k->version, &text);
	buf_append_str(&text, STR("}"));
	int rc = state_put(c->state, "version", str_from(k->name_tag), buf_str(&text), err);
	buf_fini(&text);
	return rc;
}

/* Takes over *k. */
static void version_keep(struct center *c, struct known_version *k)
{
	size_t at = version_position(c, str_from(k->name_tag));
	if (at < c->version_count && strcmp(c->versions[at].name_tag, k->name_tag) == 0) {
		version_fini(&c->versions[at].version);
		c->versions[at] = *k;
		return;
	}
	c->versions = mem_resize(c->versions, c->version_count + 1, sizeof(*c->versions));
	memmove(c->versions + at + 1, c->versions + at, (c->version_count - at) * sizeof(*c->versions));
	c->versions[at] = *k;
	c->version_count++;
}

/* A repository has this version. Of two repositories with the same name and tag, the later made one counts. */
void version_set(struct center *c, const struct version *v, const char *source)
{
	struct known_version k = {0};
	struct error err = {0};
	struct buf text = {0};
	buf_printf(&text, "%s:%s", v->name, v->tag);
	bool fits = str_copy(buf_str(&text), k.name_tag, sizeof(k.name_tag));
	buf_fini(&text);
	if (!fits) {
		log_warn(ROOM, "version %s:%s is left out: the name is longer than %d bytes", v->name, v->tag,
		         NAME_TAG_SIZE - 1);
		return;
	}
	struct known_version *old = version_find(c, str_from(k.name_tag));
	if (old && strcmp(old->source, source) != 0 && old->version.created_wall_us >= v->created_wall_us)
		return;
	if (old && strcmp(old->source, source) == 0 && version_same(&old->version, v)) {
		old->mark = c->mark;
		return;
	}
	if (!old && c->version_count >= LIMIT_MODELS) {
		log_warn(ROOM, "version %s is left out: %d versions are known, the most there can be", k.name_tag,
		         LIMIT_MODELS);
		return;
	}
	k.mark = c->mark;
	str_copy(str_from(source), k.source, sizeof(k.source));
	version_copy(v, &k.version);
	/* The roll-out is written first: with the version alone, nothing would hold it back. */
	if (old && !digest_equal(&old->version.manifest, &v->manifest))
		rollouts_moved(c, k.name_tag, &old->version, v);
	if (!old)
		rollouts_begin_first(c, places_rule(c, k.name_tag, true), v);
	if (version_store(c, &k, &err) < 0)
		log_error(ROOM, "cannot keep version %s: %s", k.name_tag, err.text);
	log_info(ROOM, "version %s from repository %s", k.name_tag, source);
	version_keep(c, &k);
	center_touch(c);
}

void version_drop_unmarked(struct center *c, const char *source)
{
	size_t left = 0;
	for (size_t i = 0; i < c->version_count; i++) {
		struct known_version *k = &c->versions[i];
		if (k->mark == c->mark || strcmp(k->source, source) != 0) {
			c->versions[left++] = *k;
			continue;
		}
		log_info(ROOM, "version %s is no longer in its repository", k->name_tag);
		state_delete(c->state, "version", str_from(k->name_tag), NULL);
		rollouts_forget(c, k->name_tag);
		version_fini(&k->version);
	}
	if (left == c->version_count)
		return;
	c->version_count = left;
	center_touch(c);
	feeds_again(c, source); /* another repository may have what this one dropped */
}

static int load_version(struct center *c, yyjson_val *o, struct str key, struct error *err)
{
	struct known_version k = {0};
	struct str source = {0};
	yyjson_val *version = NULL;
	int rc;
	if ((rc = json_str(o, "source", &source, err)) < 0 || (rc = json_obj(o, "version", &version, err)) < 0 ||
	    (rc = version_parse(version, &k.version, err)) < 0)
		return rc;
	str_copy(source, k.source, sizeof(k.source));
	str_copy(key, k.name_tag, sizeof(k.name_tag));
	version_keep(c, &k);
	return 0;
}

int versions_load(struct center *c, struct error *err)
{
	return center_load(c, "version", "version", load_version, err);
}

void versions_free(struct center *c)
{
	for (size_t i = 0; i < c->version_count; i++)
		version_fini(&c->versions[i].version);
	free(c->versions);
	c->versions = NULL;
	c->version_count = 0;
}
