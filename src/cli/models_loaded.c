/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/models_loaded.h"

#include "base/clock.h"
#include "cli/answers.h"
#include "cli/progress.h"
#include "cli/table.h"

#include <stdio.h>

static const char *state_words(yyjson_val *m, char *to, size_t size)
{
	struct str state = answer_text(m, "state");
	double progress = yyjson_get_num(yyjson_obj_get(m, "load_progress"));
	bool demand = answer_number(m, "load_us") > 0;
	if (str_equal(state, STR("ready")))
		return "loaded";
	if (str_equal(state, STR("loading")))
		snprintf(to, size, "loading %.0f %%", progress * 100);
	else if (str_equal(state, STR("cached")))
		snprintf(to, size, demand ? "on disk, loaded when asked for" : "on disk");
	else
		snprintf(to, size, STR_FMT, STR_ARG(state));
	return to;
}

static const char *asked_words(yyjson_val *m, char *to, size_t size)
{
	int64_t used_us = answer_number(m, "used_wall_us"), s = (clock_wall_us() - used_us) / US_PER_S;
	if (answer_number(m, "running") + answer_number(m, "waiting") > 0)
		return "now";
	if (!used_us)
		return "never";
	if (s < 120)
		snprintf(to, size, "%lld s ago", (long long)(s > 0 ? s : 0));
	else if (s < 7200)
		snprintf(to, size, "%lld min ago", (long long)(s / 60));
	else
		snprintf(to, size, "%lld h ago", (long long)(s / 3600));
	return to;
}

static void add_lines(struct table *t, yyjson_val *node)
{
	yyjson_val *m;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(node, "models"), i, max, m)
	{
		char bytes[16], state[64], asked[32];
		struct str name = answer_text(node, "name"), model = answer_text(m, "name");
		format_bytes((uint64_t)answer_number(m, "memory_bytes"), bytes);
		table_add(t, STR_FMT, STR_ARG(name));
		table_add(t, STR_FMT, STR_ARG(model));
		table_add(t, "%s", state_words(m, state, sizeof state));
		table_add(t, "%s", answer_number(m, "memory_bytes") ? bytes : "");
		table_add(t, "%s", asked_words(m, asked, sizeof asked));
		table_add(t, "%s", yyjson_get_bool(yyjson_obj_get(m, "pinned")) ? "yes" : "");
	}
}

void models_loaded_print(yyjson_val *root)
{
	struct table *t = table_new("NODE,~MODEL,STATE,>MEMORY,>ASKED,PINNED");
	yyjson_val *node;
	size_t i, max;
	yyjson_arr_foreach(yyjson_obj_get(root, "nodes"), i, max, node) add_lines(t, node);
	table_print(t, stdout);
	table_free(t);
}
