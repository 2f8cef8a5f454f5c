/* SPDX-License-Identifier: Apache-2.0 */
/* What should be where (rules over versions), how far it is, and API keys.
 *
 * Versions come from the repositories' feeds and are kept, so that assignments stand while a repository is away. A
 * placing that names a version the feed has not brought yet (pushed a moment ago) waits for it, up to PLACE_WAIT_US,
 * then is refused: a typing mistake must not become a rule.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/rng.h"
#include "store/ociname.h"

#include <inttypes.h>
#include <stdlib.h>

#define PLACE_WAIT_US (3 * US_PER_S)
#define PENDING_MAX 64

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

/* ---- versions --------------------------------------------------------------------------------------- */

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
		version_fini(&k->version);
	}
	if (left == c->version_count)
		return;
	c->version_count = left;
	center_touch(c);
	feeds_again(c, source); /* another repository may have what this one dropped */
}

/* ---- loading ------------------------------------------------------------------------------------------ */

struct loading {
	struct center *c;
	struct error *err;
	int rc;
};

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

static int load_rule(struct center *c, yyjson_val *o, struct str key, struct error *err)
{
	struct placement_rule rule = {0};
	struct str model = {0}, on = {0};
	int rc;
	if ((rc = json_str(o, "model", &model, err)) < 0 || (rc = json_str(o, "on", &on, err)) < 0 ||
	    (rc = selector_parse(on, &rule.on, err)) < 0)
		return rc;
	str_copy(model, rule.model, sizeof(rule.model));
	c->rules = mem_resize(c->rules, c->rule_count + 1, sizeof(*c->rules));
	c->rules[c->rule_count++] = rule;
	return 0;
}

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

typedef int load_fn(struct center *c, yyjson_val *o, struct str key, struct error *err);

static void load_with(struct loading *l, const char *what, load_fn *fn, struct str key, struct str value)
{
	yyjson_doc *doc = NULL;
	if (l->rc < 0)
		return;
	if ((l->rc = json_parse(value, &doc, l->err)) == 0)
		l->rc = fn(l->c, yyjson_doc_get_root(doc), key, l->err);
	yyjson_doc_free(doc);
	if (l->rc < 0)
		error_prefix(l->err,
		             "the center's record of %s " STR_FMT " is damaged, restore center.db from a backup", what,
		             STR_ARG(key));
}

static void on_version(void *arg, struct str key, struct str value)
{
	load_with(arg, "version", load_version, key, value);
}
static void on_rule(void *arg, struct str key, struct str value)
{
	load_with(arg, "rule", load_rule, key, value);
}
static void on_key(void *arg, struct str key, struct str value)
{
	load_with(arg, "API key", load_key, key, value);
}

int places_load(struct center *c, struct error *err)
{
	struct loading l = {c, err, 0};
	int rc;
	if ((rc = state_each(c->state, "version", on_version, &l, err)) < 0 ||
	    (rc = state_each(c->state, "rule", on_rule, &l, err)) < 0 ||
	    (rc = state_each(c->state, "key", on_key, &l, err)) < 0)
		return rc;
	return l.rc;
}

void places_free(struct center *c)
{
	for (size_t i = 0; i < c->version_count; i++)
		version_fini(&c->versions[i].version);
	for (size_t i = 0; i < c->rule_count; i++)
		selector_fini(&c->rules[i].on);
	free(c->versions);
	free(c->rules);
	free(c->keys);
}

/* ---- POST place ----------------------------------------------------------------------------------------- */

/* The state's key of a rule: short whatever the selector's length. */
static void rule_key(const struct placement_rule *rule, char ret_hex[static 65])
{
	struct buf text = {0};
	buf_printf(&text, "%s ", rule->model);
	selector_format(&rule->on, &text);
	struct digest d = digest_of(text.base, text.len);
	hex_encode(d.bytes, sizeof(d.bytes), ret_hex);
	buf_fini(&text);
}

static size_t rule_find(const struct center *c, const char *key)
{
	char there[65];
	for (size_t i = 0; i < c->rule_count; i++) {
		rule_key(&c->rules[i], there);
		if (strcmp(there, key) == 0)
			return i;
	}
	return c->rule_count;
}

static void answer_nodes(struct center *c, struct http_exchange *x, const struct placement_rule *rule)
{
	struct buf out = {0};
	buf_append_str(&out, STR("{\"nodes\":["));
	bool first = true;
	for (size_t i = 0; i < c->node_count; i++) {
		struct placement_node view = registry_view(c->nodes[i]);
		if (c->nodes[i]->removed || !placement_rule_holds(rule, &view))
			continue;
		buf_printf(&out, "%s\"%s\"", first ? "" : ",", c->nodes[i]->id);
		first = false;
	}
	buf_append_str(&out, STR("]}"));
	center_answer(x, &out);
}

/* Takes over *rule in every case. */
static int rule_add(struct center *c, struct http_exchange *x, struct placement_rule *rule, struct error *err)
{
	char key[65];
	struct buf text = {0};
	int rc = 0;
	rule_key(rule, key);
	if (rule_find(c, key) < c->rule_count) {
		answer_nodes(c, x, rule); /* said before */
		selector_fini(&rule->on);
		return 0;
	}
	if (c->rule_count >= LIMIT_PLACEMENT_RULES)
		rc = error_set(err, E_BUSY, "there are %d placement rules, the most there can be: remove some",
		               LIMIT_PLACEMENT_RULES);
	if (rc == 0) {
		buf_printf(&text, "{\"model\":\"%s\",\"on\":\"", rule->model);
		selector_format(&rule->on, &text);
		buf_append_str(&text, STR("\"}"));
		rc = state_put(c->state, "rule", str_from(key), buf_str(&text), err);
	}
	if (rc == 0) {
		c->rules = mem_resize(c->rules, c->rule_count + 1, sizeof(*c->rules));
		c->rules[c->rule_count++] = *rule;
		answer_nodes(c, x, rule);
		center_touch(c);
	} else {
		selector_fini(&rule->on);
	}
	buf_fini(&text);
	return rc;
}

static int no_rule(const struct center *c, const char *model, struct error *err)
{
	struct buf there = {0};
	for (size_t i = 0; i < c->rule_count && there.len < 200; i++) {
		if (strcmp(c->rules[i].model, model) != 0)
			continue;
		buf_append_str(&there, there.len ? STR(" and ") : STR("; it is placed on "));
		selector_format(&c->rules[i].on, &there);
	}
	int rc = error_set(err, E_NOTFOUND, "no rule places %s there%.300s", model,
	                   there.len ? there.base : ", or anywhere");
	buf_fini(&there);
	return rc;
}

static int rule_remove(struct center *c, struct http_exchange *x, const struct placement_rule *rule, struct error *err)
{
	char key[65];
	rule_key(rule, key);
	size_t at = rule_find(c, key);
	if (at == c->rule_count)
		return no_rule(c, rule->model, err);
	int rc = state_delete(c->state, "rule", str_from(key), err);
	if (rc < 0)
		return rc;
	selector_fini(&c->rules[at].on);
	c->rules[at] = c->rules[--c->rule_count];
	answer_nodes(c, x, rule);
	center_touch(c);
	return 0;
}

struct pending_place {
	struct center *c;
	struct http_exchange *x;
	struct placement_rule rule;
	struct loop_timer *timer;
	struct pending_place *next;
};

static void pending_free(void *arg)
{
	struct pending_place *p = arg, **at = &p->c->pending;
	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	p->c->pending_count--;
	loop_timer_free(p->timer);
	selector_fini(&p->rule.on);
	free(p);
}

static int unknown_version(const struct center *c, const char *model, struct error *err)
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

static void on_pending_timeout(void *arg)
{
	struct pending_place *p = arg;
	struct error err = {0};
	unknown_version(p->c, p->rule.model, &err);
	p->rule.model[0] = '\0';        /* answered */
	http_respond_error(p->x, &err); /* on_gone frees */
}

void places_retry(struct center *c)
{
	for (struct pending_place *p = c->pending, *next; p; p = next) {
		struct error err = {0};
		next = p->next;
		if (p->rule.model[0] == '\0' || !version_find(c, str_from(p->rule.model)))
			continue;
		struct placement_rule rule = p->rule;
		p->rule = (struct placement_rule){0}; /* answered: nothing to do but wait for on_gone */
		loop_timer_stop(p->timer);
		if (rule_add(c, p->x, &rule, &err) < 0)
			http_respond_error(p->x, &err);
	}
}

static int pending_add(struct center *c, struct http_exchange *x, struct placement_rule *rule, struct error *err)
{
	if (c->pending_count >= PENDING_MAX) {
		int rc = unknown_version(c, rule->model, err);
		selector_fini(&rule->on);
		return rc;
	}
	struct pending_place *p = NEW(struct pending_place);
	*p = (struct pending_place){c, x, *rule, NULL, c->pending};
	p->timer = loop_timer_new(c->loop, on_pending_timeout, p);
	c->pending = p;
	c->pending_count++;
	loop_timer_start(p->timer, PLACE_WAIT_US, 0);
	http_watch(x, NULL, pending_free, p);
	return 0;
}

int places_place(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err)
{
	struct str model = {0}, on = {0};
	struct placement_rule rule = {0};
	bool removing = false;
	int rc;
	if ((rc = json_str(body, "model", &model, err)) < 0 || (rc = json_str(body, "on", &on, err)) < 0 ||
	    (rc = json_bool(body, "remove", &removing, err)) < 0)
		return rc;
	if (model.len == 0)
		return error_set(err, E_INVAL, "\"model\" is missing: which NAME:TAG is to be placed?");
	if ((rc = places_name_tag(model, rule.model, err)) < 0 || (rc = selector_parse(on, &rule.on, err)) < 0)
		return rc;
	if (removing) {
		rc = rule_remove(c, x, &rule, err);
		selector_fini(&rule.on);
		return rc;
	}
	return version_find(c, str_from(rule.model)) ? rule_add(c, x, &rule, err) : pending_add(c, x, &rule, err);
}

void places_assign(struct center *c, const struct registered *r, struct buf *out)
{
	const char *models[LIMIT_NODE_MODELS];
	struct placement_node view = registry_view(r);
	size_t count = r->removed ? 0 : placement_of(c->rules, c->rule_count, &view, models, LIMIT_NODE_MODELS);
	bool first = true;
	buf_append_str(out, STR("["));
	for (size_t i = 0; i < count; i++) {
		const struct known_version *k = version_find(c, str_from(models[i]));
		if (!k)
			continue;
		if (!first)
			buf_append_str(out, STR(","));
		first = false;
		version_format(&k->version, out);
	}
	buf_append_str(out, STR("]"));
}

/* ---- models --------------------------------------------------------------------------------------------------- */

static bool is_placed(const struct center *c, const struct registered *r, const char *name_tag)
{
	struct placement_node view = registry_view(r);
	for (size_t i = 0; i < c->rule_count; i++)
		if (strcmp(c->rules[i].model, name_tag) == 0 && placement_rule_holds(&c->rules[i], &view))
			return true;
	return false;
}

/* What the node says of this very version; NULL when nothing. It may have a line of an older one of the name, too. */
static const struct model_report *reported(const struct center *c, const struct registered *r,
                                           const struct known_version *k)
{
	const struct node_entry *e = node_map_find(c->map, str_from(r->id));
	char digest[DIGEST_TEXT_SIZE];
	digest_format(&k->version.manifest, digest);
	for (size_t i = 0; e && i < e->report.model_count; i++) {
		const struct model_report *m = &e->report.models[i];
		if (strcmp(m->name, k->name_tag) == 0 && (m->digest[0] == '\0' || strcmp(m->digest, digest) == 0))
			return m;
	}
	return NULL;
}

/* One JSON object without its closing brace. */
static void version_format_open(const struct known_version *k, struct buf *out)
{
	version_format(&k->version, out);
	out->len--;
}

void models_answer(struct center *c, struct http_exchange *x)
{
	struct buf out = {0};
	buf_append_str(&out, STR("{\"models\":["));
	for (size_t i = 0; i < c->version_count; i++) {
		const struct known_version *k = &c->versions[i];
		size_t placed = 0, ready = 0, failed = 0;
		for (size_t n = 0; n < c->node_count; n++) {
			const struct registered *r = c->nodes[n];
			if (r->removed || !is_placed(c, r, k->name_tag))
				continue;
			const struct model_report *m = reported(c, r, k);
			placed++;
			ready += m && m->state == MODEL_READY;
			failed += m && m->state == MODEL_FAILED;
		}
		if (i)
			buf_append_str(&out, STR(","));
		version_format_open(k, &out);
		buf_printf(&out, ",\"placed\":%zu,\"ready\":%zu,\"failed\":%zu}", placed, ready, failed);
	}
	buf_append_str(&out, STR("]}"));
	center_answer(x, &out);
}

static void node_line(const struct center *c, const struct registered *r, const struct known_version *k, bool first,
                      struct buf *out)
{
	static const struct model_report nothing;
	const struct model_report *m = reported(c, r, k);
	uint64_t total = m && m->total_bytes ? m->total_bytes : version_size(&k->version);
	if (!m)
		m = &nothing;
	buf_printf(out, "%s{\"id\":\"%s\",\"name\":\"%s\",\"site\":\"%s\",\"state\":\"%s\",", first ? "" : ",", r->id,
	           r->name, r->site, model_state_name(m->state));
	buf_printf(out, "\"have_bytes\":%" PRIu64 ",\"total_bytes\":%" PRIu64 ",\"fetch_rate\":%.0f,\"error\":",
	           m->have_bytes, total, m->fetch_rate);
	buf_append_json(out, str_from(m->error));
	buf_append_str(out, STR("}"));
}

int models_format(struct center *c, struct str text, struct buf *out, struct error *err)
{
	char name_tag[NAME_TAG_SIZE];
	int rc = places_name_tag(text, name_tag, err);
	if (rc < 0)
		return rc;
	const struct known_version *k = version_find(c, str_from(name_tag));
	if (!k)
		return unknown_version(c, name_tag, err);
	version_format_open(k, out);
	buf_append_str(out, STR(",\"nodes\":["));
	bool first = true;
	for (size_t n = 0; n < c->node_count; n++) {
		const struct registered *r = c->nodes[n];
		if (r->removed || (!is_placed(c, r, name_tag) && !reported(c, r, k)))
			continue;
		node_line(c, r, k, first, out);
		first = false;
	}
	buf_append_str(out, STR("]}"));
	return 0;
}

/* ---- API keys --------------------------------------------------------------------------------------------------- */

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
