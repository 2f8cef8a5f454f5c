/* SPDX-License-Identifier: Apache-2.0 */
/* How: a selector is parsed into sorted lists without repeats, so that matching is a walk and formatting is canonical.
 */
#include "core/placement.h"

#include <stdlib.h>

static int compare_texts(const void *a, const void *b)
{
	return strcmp(a, b);
}

static bool text_is_name(struct str s)
{
	if (s.len == 0 || s.len >= NODE_TEXT_SIZE)
		return false;
	for (size_t i = 0; i < s.len; i++) {
		unsigned char c = (unsigned char)s.base[i];
		if (c <= ' ' || c == ',' || c == '=' || c == '"' || c == '\\' || c >= 0x7f)
			return false;
	}
	return true;
}

static int add_text(char (**list)[NODE_TEXT_SIZE], size_t *count, const char *kind, struct str value, struct error *err)
{
	if (!text_is_name(value))
		return error_set(err, E_INVAL,
		                 "the selector's %s= wants a name of 1 to %d letters, digits, '.', '-' or '_'", kind,
		                 NODE_TEXT_SIZE - 1);
	*list = mem_resize(*list, *count + 1, sizeof(**list));
	str_copy(value, (*list)[(*count)++], NODE_TEXT_SIZE);
	return 0;
}

static void sort_unique(char (*list)[NODE_TEXT_SIZE], size_t *count)
{
	if (*count == 0)
		return;
	qsort(list, *count, sizeof(*list), compare_texts);
	size_t kept = 1;
	for (size_t i = 1; i < *count; i++)
		if (strcmp(list[i], list[kept - 1]) != 0)
			memmove(list[kept++], list[i], sizeof(*list));
	*count = kept;
}

static int parse_term(struct selector *s, struct str term, struct error *err)
{
	struct str value = {0}, kind = str_cut(term, '=', &value);
	bool has_value = kind.len < term.len;
	kind = str_trim(kind);
	value = str_trim(value);
	if (!has_value && str_equal(kind, STR("all")))
		return 0;
	if (has_value && str_equal(kind, STR("site")))
		return add_text(&s->sites, &s->site_count, "site", value, err);
	if (has_value && str_equal(kind, STR("node")))
		return add_text(&s->nodes, &s->node_count, "node", value, err);
	if (has_value && str_equal(kind, STR("role"))) {
		uint32_t roles = 0;
		int rc = node_roles_parse(value, &roles, err);
		if (rc == 0 && roles == 0)
			rc = error_set(err, E_INVAL,
			               "the selector's role= wants a role: repository, center, edge or scheduler");
		s->roles |= roles;
		return rc;
	}
	return error_set(
	    err, E_INVAL,
	    "\"" STR_FMT
	    "\" is no selector term: write role=edge, site=NAME, node=NAME-or-ID or all, with commas between",
	    STR_ARG(((struct str){term.base, term.len < 64 ? term.len : 64})));
}

int selector_parse(struct str text, struct selector *ret_selector, struct error *err)
{
	struct selector s = {0};
	size_t terms = 0;
	int rc =
	    str_trim(text).len == 0
		? error_set(err, E_INVAL, "the selector is empty: write role=edge, site=NAME, node=NAME-or-ID or all")
		: 0;
	for (bool more = true; rc == 0 && more;) {
		struct str rest = {0}, term = str_cut(text, ',', &rest);
		more = term.len < text.len;
		text = rest;
		if (++terms > SELECTOR_TERMS_MAX)
			rc = error_set(err, E_LIMIT, "a selector has at most %d terms", SELECTOR_TERMS_MAX);
		else
			rc = parse_term(&s, str_trim(term), err);
	}
	if (rc < 0) {
		selector_fini(&s);
		return rc;
	}
	sort_unique(s.sites, &s.site_count);
	sort_unique(s.nodes, &s.node_count);
	*ret_selector = s;
	return 0;
}

void selector_fini(struct selector *s)
{
	if (!s)
		return;
	free(s->sites);
	free(s->nodes);
	*s = (struct selector){0};
}

static void append_term(struct buf *out, size_t start, const char *kind, const char *value)
{
	buf_printf(out, "%s%s=%s", out->len > start ? "," : "", kind, value);
}

void selector_format(const struct selector *s, struct buf *out)
{
	size_t start = out->len;
	for (uint32_t bit = 1; bit != 0 && bit <= s->roles; bit <<= 1) {
		if (!(s->roles & bit))
			continue;
		struct buf name = {0};
		node_roles_format(bit, &name);
		append_term(out, start, "role", name.base);
		buf_fini(&name);
	}
	for (size_t i = 0; i < s->site_count; i++)
		append_term(out, start, "site", s->sites[i]);
	for (size_t i = 0; i < s->node_count; i++)
		append_term(out, start, "node", s->nodes[i]);
	if (out->len == start)
		buf_append_str(out, STR("all"));
}

static bool names_node(const struct selector *s, const struct placement_node *node)
{
	for (size_t i = 0; i < s->node_count; i++)
		if (str_equal(str_from(s->nodes[i]), node->name) || str_equal(str_from(s->nodes[i]), node->id))
			return true;
	return false;
}

bool selector_match(const struct selector *s, const struct placement_node *node)
{
	if (s->roles && !(s->roles & node->roles))
		return false;
	bool here = s->site_count == 0;
	for (size_t i = 0; !here && i < s->site_count; i++)
		here = str_equal(str_from(s->sites[i]), node->site);
	return here && (s->node_count == 0 || names_node(s, node));
}

bool placement_rule_holds(const struct placement_rule *rule, const struct placement_node *node)
{
	if (!selector_match(&rule->on, node))
		return false;
	if (node->roles & ROLE_EDGE)
		return true;
	return (node->roles & ROLE_CENTER) && ((rule->on.roles & ROLE_CENTER) || names_node(&rule->on, node));
}

static int compare_pointers(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

size_t placement_of(const struct placement_rule *rules, size_t rule_count, const struct placement_node *node,
                    const char **ret_models, size_t max)
{
	size_t count = 0;
	for (size_t i = 0; i < rule_count; i++) {
		if (!placement_rule_holds(&rules[i], node))
			continue;
		bool known = false;
		for (size_t k = 0; !known && k < count; k++)
			known = strcmp(ret_models[k], rules[i].model) == 0;
		if (!known && count < max)
			ret_models[count++] = rules[i].model;
	}
	if (count > 1)
		qsort(ret_models, count, sizeof(*ret_models), compare_pointers);
	return count;
}
