/* SPDX-License-Identifier: Apache-2.0 */
/* node_table.c - see node_table.h. */
#include "cli/node_table.h"

#include "cli/answers.h"
#include "cli/table.h"

#include <stdlib.h>

/* What a node does now, over all its models. */
struct load {
	int64_t running, waiting, slots;
	double tokens_per_s;
	struct buf models; /* "smollm2:latest 40%" */
};

static struct load load_of(yyjson_val *node)
{
	struct load l = {0};
	yyjson_val *model;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(node, "models"), i, max, model)
	{
		struct str name = answer_text(model, "name"), state = answer_text(model, "state");
		int64_t total = answer_number(model, "total_bytes");
		l.running += answer_number(model, "running");
		l.waiting += answer_number(model, "waiting");
		l.slots += answer_number(model, "slots");
		if (answer_number(model, "running") > 0)
			l.tokens_per_s += answer_rate(model, "decode_tokens_per_s");
		buf_printf(&l.models, "%s" STR_FMT, i ? ", " : "", STR_ARG(name));
		if (str_equal(state, STR("fetching")) && total > 0)
			buf_printf(&l.models, " %d%%", (int)(answer_number(model, "have_bytes") * 100 / total));
		else if (!str_equal(state, STR("ready")))
			buf_printf(&l.models, " " STR_FMT, STR_ARG(state));
	}
	return l;
}

/* Edges last, as there are many; by name. */
static int node_order(const void *a, const void *b)
{
	yyjson_val *x = *(yyjson_val *const *)a, *y = *(yyjson_val *const *)b;
	bool x_edge = str_equal(answer_text(x, "roles"), STR("edge"));
	bool y_edge = str_equal(answer_text(y, "roles"), STR("edge"));
	struct str m = answer_text(x, "name"), n = answer_text(y, "name");
	if (x_edge != y_edge)
		return x_edge - y_edge;
	int order = memcmp(m.base, n.base, m.len < n.len ? m.len : n.len);
	return order ? order : (m.len > n.len) - (m.len < n.len);
}

yyjson_val **nodes_sorted(yyjson_val *root, size_t *ret_count)
{
	yyjson_val *list = yyjson_obj_get(root, "nodes"), *node, **nodes;
	size_t i, max;
	nodes = mem_new((yyjson_arr_size(list) + 1) * sizeof *nodes);
	yyjson_arr_foreach(list, i, max, node) nodes[i] = node;
	*ret_count = yyjson_arr_size(list);
	qsort(nodes, *ret_count, sizeof *nodes, node_order);
	return nodes;
}

void node_table_print(yyjson_val *nodes, const char *(*distance)(struct str site), FILE *out)
{
	struct table *t = table_new(distance ? "NODE,ROLES,SITE,>DISTANCE,HEALTH,>RUNNING,>WAITING,>TOKENS/S,~MODELS"
	                                     : "NODE,ROLES,SITE,HEALTH,STATE,>RUNNING,>WAITING,>TOKENS/S,~MODELS");
	size_t count;
	yyjson_val **sorted = nodes_sorted(nodes, &count);
	for (size_t i = 0; i < count; i++) {
		yyjson_val *node = sorted[i];
		struct load l = load_of(node);
		struct str name = answer_text(node, "name"), roles = answer_text(node, "roles"),
			   site = answer_text(node, "site");
		struct str health = answer_text(node, "health"), state = answer_text(node, "state");
		table_add(t, STR_FMT, STR_ARG(name));
		table_add(t, STR_FMT, STR_ARG(roles));
		table_add(t, STR_FMT, STR_ARG(site));
		if (distance)
			table_add(t, "%s", distance(site));
		table_add(t, STR_FMT, STR_ARG(health));
		if (!distance)
			table_add(t, STR_FMT, STR_ARG(state));
		if (l.slots > 0) {
			table_add(t, "%lld of %lld", (long long)l.running, (long long)l.slots);
			table_add(t, "%lld", (long long)l.waiting);
			table_add(t, "%.0f", l.tokens_per_s);
		} else {
			for (int k = 0; k < 3; k++)
				table_add(t, "%s", "");
		}
		table_add(t, STR_FMT, STR_ARG(buf_str(&l.models)));
		buf_fini(&l.models);
	}
	table_print(t, out);
	table_free(t);
	free(sorted);
}

struct network_summary node_table_summary(yyjson_val *nodes, yyjson_val *models)
{
	struct network_summary s = {0};
	yyjson_val *o;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(nodes, "nodes"), i, max, o)
	{
		struct load l = load_of(o);
		s.nodes++;
		s.up += str_equal(answer_text(o, "health"), STR("up"));
		s.running += l.running;
		s.waiting += l.waiting;
		s.tokens_per_s += l.tokens_per_s;
		buf_fini(&l.models);
	}
	yyjson_arr_foreach(yyjson_obj_get(models, "models"), i, max, o)
	{
		s.models++;
		s.placed += (size_t)answer_number(o, "placed");
		s.ready += (size_t)answer_number(o, "ready");
	}
	return s;
}
