/* SPDX-License-Identifier: Apache-2.0 */
/* A list and an index; what says nothing any more makes room for new words when there is no other. */
#include "core/steer.h"

#include "base/json.h"
#include "base/limits.h"

#include <stdlib.h>

static const char *const kinds[] = {[STEER_SITE] = "site", [STEER_NODE] = "node", [STEER_PREFIX] = "prefix"};

void steer_fini(struct steer *s)
{
	free(s->words);
	hash_index_fini(&s->by_subject);
	*s = (struct steer){0};
}

static uint64_t hash_of(enum steer_kind kind, struct str subject)
{
	return hash_join(hash_str(subject), kind + 1);
}

static uint32_t find(const struct steer *s, enum steer_kind kind, struct str subject)
{
	uint32_t at;
	for (size_t cursor = 0; hash_index_next(&s->by_subject, hash_of(kind, subject), &cursor, &at);) {
		if (s->words[at].kind == kind && str_equal(str_from(s->words[at].subject), subject))
			return at;
	}
	return UINT32_MAX;
}

bool steer_word_speaks(const struct steer_word *w)
{
	return w->kind == STEER_PREFIX ? w->site[0] != '\0' : w->weight != 100;
}

/* A place for a new word; UINT32_MAX: all speak. */
static uint32_t place_for(struct steer *s)
{
	if (s->count == LIMIT_STEERS) {
		for (uint32_t i = 0; i < s->count; i++) {
			const struct steer_word *w = &s->words[i];
			if (steer_word_speaks(w))
				continue;
			hash_index_remove(&s->by_subject, hash_of(w->kind, str_from(w->subject)), i);
			return i;
		}
		return UINT32_MAX;
	}
	if (s->count == s->cap) {
		s->cap = s->cap ? s->cap * 2 : 8;
		s->words = mem_resize(s->words, s->cap, sizeof(*s->words));
	}
	return s->count++;
}

int steer_set(struct steer *s, const struct steer_word *w, struct error *err)
{
	uint32_t at = find(s, w->kind, str_from(w->subject));
	if (at != UINT32_MAX && s->words[at].at_us > w->at_us)
		return error_set(err, E_CONFLICT, "a later word on %s=%s is here", kinds[w->kind], w->subject);
	if (at == UINT32_MAX) {
		if ((at = place_for(s)) == UINT32_MAX)
			return error_set(err, E_LIMIT,
			                 "%d sites, nodes and prefixes are steered already; take some back",
			                 LIMIT_STEERS);
		hash_index_add(&s->by_subject, hash_of(w->kind, str_from(w->subject)), at);
	}
	s->words[at] = *w;
	return 0;
}

int32_t steer_weight(const struct steer *s, enum steer_kind kind, struct str subject)
{
	uint32_t at = s->count > 0 ? find(s, kind, subject) : UINT32_MAX;
	return at == UINT32_MAX ? 100 : s->words[at].weight;
}

/* ---- words ----------------------------------------------------------------------------------- */

static int subject_parse(struct str text, struct steer_word *w, struct error *err)
{
	struct str name, kind = str_cut(text, '=', &name);
	for (w->kind = STEER_SITE; w->kind <= STEER_PREFIX; w->kind++) {
		if (str_equal(kind, str_from(kinds[w->kind])))
			break;
	}
	if (w->kind > STEER_PREFIX || name.len == 0 || !str_copy(name, w->subject, sizeof(w->subject)))
		return error_set(err, E_INVAL, "\"subject\" must be site=NAME, node=ID or prefix=PREFIX");
	if (w->kind != STEER_PREFIX)
		return 0;
	if (ip_prefix_parse(name, &w->prefix) < 0)
		return error_set(err, E_INVAL, "%s is not a prefix such as 192.0.2.0/24, without bits past the length",
		                 w->subject);
	/* One text a prefix. */
	char ip[IP_TEXT_SIZE];
	ip_format(&w->prefix.ip, ip);
	snprintf(w->subject, sizeof(w->subject), "%s/%u", ip, w->prefix.length);
	return 0;
}

int steer_word_parse(yyjson_val *obj, struct steer_word *ret_word, struct error *err)
{
	struct steer_word w = {.weight = 100};
	struct str subject = {0}, site = {0};
	int64_t weight = -1, at_us = 0;
	int rc;
	if (!yyjson_is_obj(obj))
		return error_set(err, E_INVAL, "a word must be a JSON object");
	if ((rc = json_str(obj, "subject", &subject, err)) < 0 || (rc = json_str(obj, "site", &site, err)) < 0 ||
	    (rc = json_i64(obj, "weight", 0, 100, &weight, err)) < 0 ||
	    (rc = json_i64(obj, "at_us", 0, INT64_MAX / 2, &at_us, err)) < 0 ||
	    (rc = subject_parse(subject, &w, err)) < 0)
		return rc;
	if (w.kind == STEER_PREFIX && weight >= 0)
		return error_set(err, E_INVAL, "a prefix has a \"site\", not a \"weight\"");
	if (w.kind != STEER_PREFIX && (weight < 0 || site.len > 0))
		return error_set(err, E_INVAL, "a site or a node has a \"weight\" from 0 to 100");
	if (!str_copy(site, w.site, sizeof(w.site)))
		return error_set(err, E_INVAL, "\"site\" is longer than %d bytes", NODE_TEXT_SIZE - 1);
	w.weight = weight >= 0 ? (int32_t)weight : 100;
	w.at_us = at_us;
	*ret_word = w;
	return 0;
}

void steer_format(const struct steer *s, struct buf *out)
{
	buf_append_str(out, STR("["));
	for (uint32_t i = 0; i < s->count; i++) {
		const struct steer_word *w = &s->words[i];
		buf_printf(out, "%s{\"subject\":", i > 0 ? "," : "");
		struct buf subject = {0};
		buf_printf(&subject, "%s=%s", kinds[w->kind], w->subject);
		buf_append_json(out, buf_str(&subject));
		buf_fini(&subject);
		if (w->kind == STEER_PREFIX) {
			buf_append_str(out, STR(",\"site\":"));
			buf_append_json(out, str_from(w->site));
		} else {
			buf_printf(out, ",\"weight\":%d", w->weight);
		}
		buf_printf(out, ",\"at_us\":%lld}", (long long)w->at_us);
	}
	buf_append_str(out, STR("]"));
}

int steer_parse(yyjson_val *array, struct steer *ret_steer, struct error *err)
{
	struct steer s = {0};
	struct steer_word w;
	yyjson_val *item;
	size_t i, n;
	int rc = 0;
	yyjson_arr_foreach(array, i, n, item)
	{
		if ((rc = steer_word_parse(item, &w, err)) < 0 ||
		    ((rc = steer_set(&s, &w, err)) < 0 && rc != E_CONFLICT)) {
			steer_fini(&s);
			return rc;
		}
	}
	*ret_steer = s;
	return 0;
}
