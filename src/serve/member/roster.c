/* SPDX-License-Identifier: Apache-2.0 */
/* How: everything is checked while it is copied, so that a roster is whole or refused. `removed` is sorted for
 * member_admit. */
#include "serve/member/member.h"

#include "base/json.h"
#include "base/limits.h"

#include <stdlib.h>

void roster_fini(struct roster *r)
{
	if (!r)
		return;
	free(r->nodes);
	free(r->removed);
	free(r->keys);
	free(r->teams);
	*r = (struct roster){0};
}

static int take(yyjson_val *o, const char *key, bool needed, char *to, size_t size, struct error *err)
{
	struct str text = {0};
	int rc = json_str(o, key, &text, err);
	if (rc < 0)
		return rc;
	if (needed && text.len == 0)
		return error_set(err, E_INVAL, "\"%s\" is missing", key);
	for (size_t i = 0; i < text.len; i++)
		if ((unsigned char)text.base[i] <= ' ' || text.base[i] == 0x7f)
			return error_set(err, E_INVAL, "\"%s\" has a blank or control character", key);
	return str_copy(text, to, size) ? 0 : error_set(err, E_LIMIT, "\"%s\" is longer than %zu bytes", key, size - 1);
}

static int node_parse(yyjson_val *o, struct roster_node *n, struct error *err)
{
	struct str roles = {0};
	int rc;
	if ((rc = take(o, "id", true, n->id, sizeof(n->id), err)) < 0 ||
	    (rc = take(o, "name", true, n->name, sizeof(n->name), err)) < 0 ||
	    (rc = take(o, "site", true, n->site, sizeof(n->site), err)) < 0 ||
	    (rc = take(o, "node_url", true, n->node_url, sizeof(n->node_url), err)) < 0 ||
	    (rc = take(o, "api_url", false, n->api_url, sizeof(n->api_url), err)) < 0 ||
	    (rc = json_str(o, "roles", &roles, err)) < 0)
		return rc;
	return node_roles_parse(roles, &n->roles, err);
}

static int array_of(yyjson_val *o, const char *key, size_t most, yyjson_val **ret, size_t *ret_count, struct error *err)
{
	yyjson_val *array = NULL;
	int rc = json_arr(o, key, &array, err);
	if (rc < 0)
		return rc;
	if (!array)
		return error_set(err, E_INVAL, "\"%s\" is missing", key);
	if (yyjson_arr_size(array) > most)
		return error_set(err, E_LIMIT, "\"%s\" has more than %zu entries", key, most);
	*ret = array;
	*ret_count = yyjson_arr_size(array);
	return 0;
}

static int nodes_parse(yyjson_val *o, struct roster *r, struct error *err)
{
	yyjson_val *array, *item;
	size_t i, count;
	int rc = array_of(o, "nodes", LIMIT_NODES, &array, &count, err);
	if (rc < 0 || count == 0)
		return rc;
	r->nodes = mem_new(count * sizeof(*r->nodes));
	yyjson_arr_foreach(array, i, count, item)
	{
		if ((rc = node_parse(item, &r->nodes[i], err)) < 0)
			return rc;
		r->node_count++;
	}
	return 0;
}

static int compare_ids(const void *a, const void *b)
{
	return strcmp(a, b);
}

static int removed_parse(yyjson_val *o, struct roster *r, struct error *err)
{
	yyjson_val *array, *item;
	size_t i, count;
	int rc = array_of(o, "removed", LIMIT_NODES, &array, &count, err);
	if (rc < 0 || count == 0)
		return rc;
	r->removed = mem_new(count * sizeof(*r->removed));
	yyjson_arr_foreach(array, i, count, item)
	{
		struct str id = {yyjson_get_str(item), yyjson_get_len(item)};
		if (!yyjson_is_str(item) || !str_copy(id, r->removed[i], NODE_ID_SIZE))
			return error_set(err, E_INVAL, "\"removed\" wants ids");
		r->removed_count++;
	}
	qsort(r->removed, r->removed_count, sizeof(*r->removed), compare_ids);
	return 0;
}

static int limits_parse(yyjson_val *o, struct quota_limits *l, struct error *err)
{
	yyjson_val *limits = NULL;
	int rc = json_obj(o, "limits", &limits, err);
	return rc < 0 || !limits ? rc : quota_limits_read(limits, l, err);
}

static int keys_parse(yyjson_val *o, struct roster *r, struct error *err)
{
	yyjson_val *array, *item;
	size_t i, count;
	int rc = array_of(o, "keys", LIMIT_API_KEYS, &array, &count, err);
	if (rc < 0 || count == 0)
		return rc;
	r->keys = mem_new(count * sizeof(*r->keys));
	yyjson_arr_foreach(array, i, count, item)
	{
		struct roster_key *k = &r->keys[i];
		if ((rc = take(item, "id", true, k->id, sizeof(k->id), err)) < 0 ||
		    (rc = take(item, "hash", true, k->hash, sizeof(k->hash), err)) < 0 ||
		    (rc = take(item, "team", false, k->team, sizeof(k->team), err)) < 0 ||
		    (rc = limits_parse(item, &k->limits, err)) < 0)
			return rc;
		r->key_count++;
	}
	return 0;
}

static int teams_parse(yyjson_val *o, struct roster *r, struct error *err)
{
	yyjson_val *array = NULL, *item;
	size_t i, count;
	int rc = json_arr(o, "teams", &array, err);
	if (rc < 0 || !array)
		return rc;
	if ((count = yyjson_arr_size(array)) > LIMIT_TEAMS)
		return error_set(err, E_LIMIT, "\"teams\" has more than %d entries", LIMIT_TEAMS);
	r->teams = mem_new((count + 1) * sizeof(*r->teams));
	yyjson_arr_foreach(array, i, count, item)
	{
		struct roster_team *t = &r->teams[i];
		if ((rc = take(item, "name", true, t->name, sizeof(t->name), err)) < 0 ||
		    (rc = limits_parse(item, &t->limits, err)) < 0)
			return rc;
		r->team_count++;
	}
	return 0;
}

int roster_parse(struct str json, struct roster *ret_roster, struct error *err)
{
	yyjson_doc *doc;
	struct roster r = {0};
	int64_t version = -1;
	int rc = json_parse(json, &doc, err);
	if (rc < 0)
		return rc;
	yyjson_val *o = yyjson_doc_get_root(doc);
	if ((rc = json_i64(o, "version", 0, INT64_MAX, &version, err)) == 0 && version < 0)
		rc = error_set(err, E_INVAL, "\"version\" is missing");
	r.version = (uint64_t)version;
	if (rc == 0 && (rc = nodes_parse(o, &r, err)) == 0 && (rc = removed_parse(o, &r, err)) == 0)
		rc = keys_parse(o, &r, err);
	if (rc == 0)
		rc = teams_parse(o, &r, err);
	yyjson_doc_free(doc);
	if (rc < 0)
		roster_fini(&r);
	else
		*ret_roster = r;
	return rc;
}
