/* SPDX-License-Identifier: Apache-2.0 */
/* There are few rules, and most differ in their first term: they are tried one after the other. */
#include "core/service.h"

#include "base/pattern.h"

#include <stdlib.h>

/* Names of hosts and programs are compared without regard to case, as their standards say; who asks is not. */
static bool has_case(enum service_field field)
{
	return field == SERVICE_TENANT || field == SERVICE_TEAM || field == SERVICE_API || field == SERVICE_MODEL;
}

static bool term_holds(const struct service_term *term, const struct service_query *query)
{
	struct str text;

	if (term->field != SERVICE_HEADER)
		text = query->texts[term->field];
	else if (!query->header || !query->header(query->arg, term->header, &text))
		return false;
	for (size_t i = 0; text.len && i < term->pattern_count; i++) {
		struct str pattern = str_from(term->patterns[i]);

		if (has_case(term->field) ? pattern_match(pattern, text) : pattern_match_nocase(pattern, text))
			return true;
	}
	return false;
}

const struct service *service_find(const struct service_rules *rules, const struct service_query *query)
{
	for (size_t i = 0; i < rules->count; i++) {
		const struct service_rule *rule = &rules->rules[i];
		size_t held = 0;

		while (held < rule->term_count && term_holds(&rule->terms[held], query))
			held++;
		if (held == rule->term_count)
			return &rule->service;
	}
	return NULL;
}

static void term_fini(struct service_term *term)
{
	for (size_t i = 0; i < term->pattern_count; i++)
		free(term->patterns[i]);
	free(term->patterns);
	free(term->header);
}

void service_rules_fini(struct service_rules *rules)
{
	for (size_t i = 0; i < rules->count; i++) {
		for (size_t j = 0; j < rules->rules[i].term_count; j++)
			term_fini(&rules->rules[i].terms[j]);
		free(rules->rules[i].terms);
	}
	free(rules->rules);
	*rules = (struct service_rules){0};
}
