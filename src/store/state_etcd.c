/* SPDX-License-Identifier: Apache-2.0 */
/* Reads come from a copy in memory: nobody but the leader writes, and that is us or nobody, for every write is one etcd
 * transaction that compares the leader's key first, and touches it. So a write may be sent twice (etcd_call does), and
 * one that comes late, behind others of the same leader, does nothing. Keys are PREFIX SPACE "/" KEY. Writes between
 * begin and commit are collected; of one key the last counts, since a transaction of etcd takes each key once, and at
 * most 128 of them.
 */
#include "store/etcd.h"
#include "store/state_private.h"

#include "base/clock.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#define PAGE 100 /* values may have 1 MiB */
#define PART_WRITES 100
#define PART_BYTES (1u << 20)
#define WITHIN_US (2 * US_PER_S)

struct item {
	char *key; /* SPACE/KEY */
	char *value;
	size_t len;
	bool deletes; /* of a write */
};

struct items {
	struct item *items;
	size_t count, room;
};

struct remote {
	struct state state;
	struct etcd *etcd;
	char *prefix, *leader_key;
	int64_t leader_revision;
	int64_t written; /* revision of the last write: the leader's key was touched then */
	void (*on_lost)(void *arg);
	void *arg;
	struct items held;   /* sorted by key */
	struct items writes; /* not done yet, in order */
	bool collects, lost;
};

static struct remote *remote_of(struct state *s)
{
	return (struct remote *)s; /* its first member */
}

/* ---- the copy --------------------------------------------------------------------------------------------- */

static void item_fini(struct item *i)
{
	free(i->key);
	free(i->value);
}

static void items_clear(struct items *l)
{
	for (size_t i = 0; i < l->count; i++)
		item_fini(&l->items[i]);
	l->count = 0;
}

static void items_insert(struct items *l, size_t at, struct item item)
{
	if (l->count == l->room) {
		l->room = l->room ? l->room * 2 : 64;
		l->items = mem_resize(l->items, l->room, sizeof(*l->items));
	}
	memmove(l->items + at + 1, l->items + at, (l->count - at) * sizeof(*l->items));
	l->items[at] = item;
	l->count++;
}

static size_t position(const struct items *l, const char *key)
{
	size_t low = 0, high = l->count;
	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (strcmp(l->items[mid].key, key) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static bool is_at(const struct items *l, size_t at, const char *key)
{
	return at < l->count && strcmp(l->items[at].key, key) == 0;
}

/* Takes over the item of a write that was done. */
static void hold(struct items *l, struct item *w)
{
	size_t at = position(l, w->key);
	bool known = is_at(l, at, w->key);
	if (known)
		item_fini(&l->items[at]);
	if (known && w->deletes) {
		l->count--;
		memmove(l->items + at, l->items + at + 1, (l->count - at) * sizeof(*l->items));
	} else if (known) {
		l->items[at] = *w;
	} else if (!w->deletes) {
		items_insert(l, at, *w);
	}
	if (w->deletes)
		item_fini(w);
	*w = (struct item){0};
}

static char *key_of(const char *space, struct str key)
{
	struct buf text = {0};
	buf_printf(&text, "%s/" STR_FMT, space, STR_ARG(key));
	return text.base;
}

/* ---- reading all of it --------------------------------------------------------------------------------------- */

static int take_page(struct remote *s, yyjson_val *page, struct error *err)
{
	yyjson_val *kv;
	size_t i, count;
	int rc = 0;
	yyjson_arr_foreach(yyjson_obj_get(page, "kvs"), i, count, kv)
	{
		struct buf key = {0}, value = {0};
		if ((rc = etcd_bytes(kv, "key", &key, err)) == 0 && (rc = etcd_bytes(kv, "value", &value, err)) == 0 &&
		    str_starts(buf_str(&key), str_from(s->prefix))) {
			buf_consume(&key, strlen(s->prefix));
			struct str text = buf_str(&value);
			items_insert(&s->held, s->held.count,
			             (struct item){str_dup(buf_str(&key)), str_dup(text), text.len, false});
		}
		buf_fini(&key);
		buf_fini(&value);
		if (rc < 0)
			break;
	}
	return rc;
}

/* Pages of one moment: they have the revision of the first. */
static int read_page(struct remote *s, int64_t *revision, bool *ret_more, struct error *err)
{
	struct buf from = {0}, end = {0}, body = {0};
	yyjson_doc *doc = NULL;
	buf_append_str(&end, str_from(s->prefix));
	end.base[end.len - 1]++; /* '/' becomes '0' */
	buf_append_str(&from, str_from(s->prefix));
	if (s->held.count) {
		buf_append_str(&from, str_from(s->held.items[s->held.count - 1].key));
		buf_append(&from, "", 1); /* what follows it */
	}
	buf_append_str(&body, STR("{\"key\":"));
	etcd_append_bytes(&body, buf_str(&from));
	buf_append_str(&body, STR(",\"range_end\":"));
	etcd_append_bytes(&body, buf_str(&end));
	buf_printf(&body, ",\"limit\":\"%d\",\"revision\":\"%" PRId64 "\"}", PAGE, *revision);
	int rc = etcd_call(s->etcd, "/v3/kv/range", buf_str(&body), WITHIN_US, &doc, err);
	if (rc == 0) {
		yyjson_val *o = yyjson_doc_get_root(doc);
		if (*revision == 0)
			*revision = etcd_number(yyjson_obj_get(o, "header"), "revision");
		*ret_more = yyjson_is_true(yyjson_obj_get(o, "more"));
		rc = take_page(s, o, err);
	}
	yyjson_doc_free(doc);
	buf_fini(&from);
	buf_fini(&end);
	buf_fini(&body);
	return rc;
}

/* ---- writing -------------------------------------------------------------------------------------------------- */

static void append_write(const struct remote *s, const struct item *w, struct buf *out)
{
	struct buf key = {0};
	buf_printf(&key, "%s%s", s->prefix, w->key);
	buf_printf(out, "{\"%s\":{\"key\":", w->deletes ? "request_delete_range" : "request_put");
	etcd_append_bytes(out, buf_str(&key));
	if (!w->deletes) {
		buf_append_str(out, STR(",\"value\":"));
		etcd_append_bytes(out, (struct str){w->value, w->len});
	}
	buf_append_str(out, STR("}}"));
	buf_fini(&key);
}

static int lose(struct remote *s, struct error *err)
{
	if (!s->lost && s->on_lost)
		s->on_lost(s->arg);
	s->lost = true;
	return error_prefix(err, "nothing is written now, try again in a moment");
}

/* writes[from, to) in one transaction. */
static int write_part(struct remote *s, size_t from, size_t to, struct error *err)
{
	struct buf body = {0};
	yyjson_doc *doc = NULL;
	buf_append_str(&body, STR("{\"compare\":[{\"key\":"));
	etcd_append_bytes(&body, str_from(s->leader_key));
	buf_printf(&body, ",\"target\":\"CREATE\",\"result\":\"EQUAL\",\"create_revision\":\"%" PRId64 "\"},{\"key\":",
	           s->leader_revision);
	etcd_append_bytes(&body, str_from(s->leader_key));
	buf_printf(&body,
	           ",\"target\":\"MOD\",\"result\":\"EQUAL\",\"mod_revision\":\"%" PRId64
	           "\"}],\"success\":[{\"request_put\":{\"key\":",
	           s->written);
	etcd_append_bytes(&body, str_from(s->leader_key));
	buf_append_str(&body, STR(",\"ignore_value\":true,\"ignore_lease\":true}}"));
	for (size_t i = from; i < to; i++) {
		buf_append_str(&body, STR(","));
		append_write(s, &s->writes.items[i], &body);
	}
	buf_append_str(&body, STR("]}"));
	struct error why = {0};
	int rc = etcd_call(s->etcd, "/v3/kv/txn", buf_str(&body), WITHIN_US, &doc, &why);
	if (rc == 0 && !yyjson_is_true(yyjson_obj_get(yyjson_doc_get_root(doc), "succeeded")))
		rc = error_set(&why, E_UNAVAILABLE, "another center leads, or etcd did not say that it wrote");
	if (rc == 0)
		s->written = etcd_number(yyjson_obj_get(yyjson_doc_get_root(doc), "header"), "revision");
	if (rc < 0) {
		error_set(err, E_UNAVAILABLE, "%s", why.text);
		rc = lose(s, err);
	}
	for (size_t i = from; i < to && rc == 0; i++)
		hold(&s->held, &s->writes.items[i]);
	yyjson_doc_free(doc);
	buf_fini(&body);
	return rc;
}

static int write_all(struct remote *s, struct error *err)
{
	int rc = 0;
	for (size_t from = 0, to; from < s->writes.count && rc == 0; from = to) {
		size_t bytes = 0;
		for (to = from; to < s->writes.count && to - from < PART_WRITES; to++) {
			bytes += s->writes.items[to].len;
			if (to > from && bytes > PART_BYTES)
				break;
		}
		rc = write_part(s, from, to, err);
	}
	items_clear(&s->writes);
	return rc;
}

static int write_add(struct remote *s, const char *space, struct str key, struct str value, bool deletes,
                     struct error *err)
{
	struct item w = {key_of(space, key), str_dup(value), value.len, deletes};
	if (s->lost) {
		item_fini(&w);
		return error_set(
		    err, E_UNAVAILABLE,
		    "nothing is written now: etcd was lost, or another center leads; try again in a moment");
	}
	for (size_t i = 0; i < s->writes.count; i++) {
		if (strcmp(s->writes.items[i].key, w.key) != 0)
			continue;
		item_fini(&s->writes.items[i]);
		s->writes.items[i] = w;
		return 0;
	}
	items_insert(&s->writes, s->writes.count, w);
	return s->collects ? 0 : write_all(s, err);
}

/* ---- the seam ------------------------------------------------------------------------------------------------- */

static void remote_close(struct state *state)
{
	struct remote *s = remote_of(state);
	items_clear(&s->held);
	items_clear(&s->writes);
	free(s->held.items);
	free(s->writes.items);
	etcd_free(s->etcd);
	free(s->prefix);
	free(s->leader_key);
	free(s);
}

static int remote_get(struct state *state, const char *space, struct str key, struct buf *out, struct error *err)
{
	struct remote *s = remote_of(state);
	char *text = key_of(space, key);
	const struct item *found = NULL;
	size_t at = position(&s->held, text);
	if (is_at(&s->held, at, text))
		found = &s->held.items[at];
	for (size_t i = 0; i < s->writes.count; i++)
		if (strcmp(s->writes.items[i].key, text) == 0)
			found = &s->writes.items[i];
	free(text);
	if (!found || found->deletes)
		return error_set(err, E_NOTFOUND, "there is no " STR_FMT " in %s", STR_ARG(key), space);
	buf_append_str(out, (struct str){found->value, found->len});
	return 0;
}

static int remote_put(struct state *state, const char *space, struct str key, struct str value, struct error *err)
{
	return write_add(remote_of(state), space, key, value, false, err);
}

static int remote_delete(struct state *state, const char *space, struct str key, struct error *err)
{
	return write_add(remote_of(state), space, key, (struct str){0}, true, err);
}

static int remote_begin(struct state *state, struct error *err)
{
	assert(!remote_of(state)->collects);
	remote_of(state)->collects = true;
	return 0;
}

static int remote_commit(struct state *state, struct error *err)
{
	remote_of(state)->collects = false;
	return write_all(remote_of(state), err);
}

static void remote_undo(struct state *state)
{
	remote_of(state)->collects = false;
	items_clear(&remote_of(state)->writes);
}

/* The callback may change the state: items are copied out first. */
static int remote_each(struct state *state, const char *space, state_fn *fn, void *arg, struct error *err)
{
	struct remote *s = remote_of(state);
	struct items copy = {0};
	char *first = key_of(space, (struct str){0});
	size_t skip = strlen(first);
	assert(!s->collects);
	for (size_t i = position(&s->held, first); i < s->held.count; i++) {
		const struct item *h = &s->held.items[i];
		if (strncmp(h->key, first, skip) != 0)
			break;
		items_insert(
		    &copy, copy.count,
		    (struct item){str_dup(str_from(h->key)), str_dup((struct str){h->value, h->len}), h->len, false});
	}
	for (size_t i = 0; i < copy.count; i++)
		fn(arg, str_from(copy.items[i].key + skip), (struct str){copy.items[i].value, copy.items[i].len});
	items_clear(&copy);
	free(copy.items);
	free(first);
	return 0;
}

static int remote_spaces(struct state *state, state_space_fn *fn, void *arg, struct error *err)
{
	const struct remote *s = remote_of(state);
	char *last = NULL;
	for (size_t i = 0; i < s->held.count; i++) {
		const char *key = s->held.items[i].key, *slash = strchr(key, '/');
		struct str space = {key, slash ? (size_t)(slash - key) : strlen(key)};
		if (last && str_equal(str_from(last), space))
			continue;
		free(last);
		last = str_dup(space);
		fn(arg, last);
	}
	free(last);
	return 0;
}

int state_open_etcd(const struct state_etcd_options *o, struct state **ret_state, struct error *err)
{
	static const struct state_ops ops = {remote_close,  remote_get,   remote_put,    remote_delete, remote_each,
	                                     remote_spaces, remote_begin, remote_commit, remote_undo};
	struct remote *s = NEW(struct remote);
	int64_t revision = 0;
	bool more = true;
	s->state.ops = &ops;
	s->prefix = str_dup(o->prefix);
	s->leader_key = str_dup(o->leader_key);
	s->leader_revision = s->written = o->leader_revision;
	s->on_lost = o->on_lost;
	s->arg = o->arg;
	int rc = etcd_new(o->etcd, &s->etcd, err);
	while (rc == 0 && more)
		rc = read_page(s, &revision, &more, err);
	if (rc < 0)
		remote_close(&s->state);
	else
		*ret_state = &s->state;
	return rc;
}
