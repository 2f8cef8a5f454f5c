/* SPDX-License-Identifier: Apache-2.0 */
/* How: libyaml makes a tree whose nodes know their lines; two tables of keys, of a class and of its match, say who
 * reads which value. Aliases are followed by libyaml; every list is bounded, so none can grow much.
 */
#include "serve/gateway/services.h"

#include "base/file.h"
#include "base/pattern.h"
#include "serve/gateway/dialect.h"
#include "serve/gateway/fields.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

#define FILE_MAX (1 << 20)
#define PATTERN_MAX 256
#define TERMS_MAX 32
#define GOAL_MOST_US (3600ll * 1000000)

struct reading {
	const char *name;
	yaml_document_t document;
	struct service_rule *rule; /* being read */
	struct error *err;
};

__attribute__((format(printf, 3, 4))) static int bad(const struct reading *r, const yaml_node_t *node,
                                                     const char *format, ...)
{
	char words[300];
	va_list args;

	va_start(args, format);
	vsnprintf(words, sizeof(words), format, args);
	va_end(args);
	str_blank_controls(words, strlen(words));
	return error_set(r->err, E_INVAL, "%s:%zu: %s", r->name, node->start_mark.line + 1, words);
}

static int text_of(struct reading *r, const yaml_node_t *node, const char *key, struct str *ret_text)
{
	if (node->type != YAML_SCALAR_NODE || node->data.scalar.length == 0 ||
	    memchr(node->data.scalar.value, 0, node->data.scalar.length))
		return bad(r, node, "%s: expected a text", key);
	*ret_text = (struct str){(const char *)node->data.scalar.value, node->data.scalar.length};
	return 0;
}

/* ---- match ------------------------------------------------------------------------------------------------- */

static bool is_an_api(struct str pattern)
{
	static const struct dialect *const all[] = {
	    &dialect_chat,         &dialect_completion,  &dialect_embeddings,     &dialect_rerank,
	    &dialect_tokenize,     &dialect_detokenize,  &dialect_responses,      &dialect_messages,
	    &dialect_count_tokens, &dialect_ollama_chat, &dialect_ollama_generate};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (pattern_match(pattern, str_from(all[i]->name)))
			return true;
	return false;
}

static int take_pattern(struct reading *r, struct service_term *term, const yaml_node_t *node, const char *key)
{
	struct str text;
	int rc = text_of(r, node, key, &text);

	if (rc == 0 && (text.len > PATTERN_MAX || term->pattern_count == SERVICE_PATTERNS_MAX))
		rc =
		    bad(r, node, "%s: at most %d patterns of at most %d bytes", key, SERVICE_PATTERNS_MAX, PATTERN_MAX);
	if (rc == 0 && term->field == SERVICE_API && !is_an_api(text))
		rc = bad(r, node,
		         "api: there are chat, completion, responses, messages, count_tokens, embeddings, "
		         "rerank, tokenize, detokenize, ollama_chat, ollama_generate");
	if (rc < 0)
		return rc;
	term->patterns = mem_resize(term->patterns, term->pattern_count + 1, sizeof(*term->patterns));
	term->patterns[term->pattern_count++] = str_dup(text);
	return 0;
}

/* One pattern, or a list of them. */
static int take_term(struct reading *r, enum service_field field, struct str header, yaml_node_t *node, const char *key)
{
	struct service_rule *rule = r->rule;
	int rc = 0;

	if (rule->term_count == TERMS_MAX)
		return bad(r, node, "match: at most %d of them", TERMS_MAX);
	rule->terms = mem_resize(rule->terms, rule->term_count + 1, sizeof(*rule->terms));
	struct service_term *term = &rule->terms[rule->term_count++];
	*term = (struct service_term){.field = field, .header = header.len ? str_dup(header) : NULL};
	for (char *c = term->header; c && *c; c++)
		*c = *c >= 'A' && *c <= 'Z' ? (char)(*c + 'a' - 'A') : *c;
	if (node->type != YAML_SEQUENCE_NODE)
		return take_pattern(r, term, node, key);
	if (node->data.sequence.items.start == node->data.sequence.items.top)
		return bad(r, node, "%s: an empty list fits nothing; leave it out", key);
	for (yaml_node_item_t *i = node->data.sequence.items.start; rc == 0 && i < node->data.sequence.items.top; i++)
		rc = take_pattern(r, term, yaml_document_get_node(&r->document, *i), key);
	return rc;
}

static int take_headers(struct reading *r, yaml_node_t *node)
{
	int rc = 0;

	if (node->type != YAML_MAPPING_NODE)
		return bad(r, node, "header: expected names and patterns, such as {x-app: \"dialer*\"}");
	for (yaml_node_pair_t *p = node->data.mapping.pairs.start; rc == 0 && p < node->data.mapping.pairs.top; p++) {
		yaml_node_t *key = yaml_document_get_node(&r->document, p->key);
		struct str name;

		rc = text_of(r, key, "header", &name);
		if (rc == 0 && name.len > 64)
			rc = bad(r, key, "header: a name of at most 64 bytes");
		if (rc == 0)
			rc = take_term(r, SERVICE_HEADER, name, yaml_document_get_node(&r->document, p->value),
			               "header");
	}
	return rc;
}

static const char *const fields[SERVICE_FIELDS + 1] = {"tenant", "team", "sni", "user_agent", "api", "model", "header"};

static int take_match_key(struct reading *r, const yaml_node_t *key, struct str name, yaml_node_t *value)
{
	for (size_t i = 0; i < SERVICE_HEADER; i++)
		if (str_equal(name, str_from(fields[i])))
			return take_term(r, (enum service_field)i, STR(""), value, fields[i]);
	if (str_equal(name, STR("header")))
		return take_headers(r, value);
	return bad(r, key, "match: unknown key \"%.*s\"; there are tenant, team, sni, user_agent, api, model, header",
	           (int)(name.len < 64 ? name.len : 64), name.base);
}

/* ---- a class ------------------------------------------------------------------------------------------------ */

/* RFC 2474, 2597, 3246, 5865, 8622. */
static const struct {
	const char *name;
	uint8_t value;
} code_points[] = {{"default", 0}, {"le", 1},    {"cs1", 8},   {"af11", 10}, {"af12", 12}, {"af13", 14}, {"cs2", 16},
                   {"af21", 18},   {"af22", 20}, {"af23", 22}, {"cs3", 24},  {"af31", 26}, {"af32", 28}, {"af33", 30},
                   {"cs4", 32},    {"af41", 34}, {"af42", 36}, {"af43", 38}, {"cs5", 40},  {"va", 44},   {"ef", 46}};

static int take_dscp(struct reading *r, yaml_node_t *node)
{
	struct str text;
	uint64_t number;
	int rc = text_of(r, node, "dscp", &text);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < sizeof(code_points) / sizeof(code_points[0]); i++)
		if (str_equal_nocase(text, str_from(code_points[i].name))) {
			r->rule->service.dscp = code_points[i].value;
			return 0;
		}
	if (str_to_u64(text, &number) < 0 || number > 63)
		return bad(r, node, "dscp: a number of 0 to 63, or a name: le, cs1 to cs5, af11 to af43, va, ef");
	r->rule->service.dscp = (uint8_t)number;
	return 0;
}

static int take_name(struct reading *r, yaml_node_t *node)
{
	struct str text;
	int rc = text_of(r, node, "name", &text);

	for (size_t i = 0; rc == 0 && i < text.len; i++)
		if (!((text.base[i] >= 'a' && text.base[i] <= 'z') || (text.base[i] >= '0' && text.base[i] <= '9') ||
		      strchr("-._", text.base[i])))
			rc = bad(r, node, "name: only a to z, 0 to 9, - . and _");
	if (rc == 0 && !str_copy(text, r->rule->service.name, SERVICE_NAME_SIZE))
		rc = bad(r, node, "name: at most %d bytes", SERVICE_NAME_SIZE - 1);
	return rc;
}

static int take_class(struct reading *r, yaml_node_t *node)
{
	struct service *s = &r->rule->service;
	enum engine_class class;
	struct str text;
	int64_t number;
	int32_t none;
	int rc = text_of(r, node, "class", &text);

	if (rc < 0)
		return rc;
	if (str_to_i64(text, &number) == 0 || !class_parse(text, &class, &none) || class == ENGINE_SYSTEM)
		return bad(r, node, "class: interactive, default or bulk");
	s->service_class = class;
	s->has_class = true;
	return 0;
}

static int take_priority(struct reading *r, yaml_node_t *node)
{
	struct str text;
	int64_t number;
	int rc = text_of(r, node, "priority", &text);

	if (rc < 0)
		return rc;
	if (str_to_i64(text, &number) < 0 || number < -999 || number > 999)
		return bad(r, node, "priority: a whole number of -999 to 999; the smaller goes first");
	r->rule->service.priority = (int32_t)number;
	return 0;
}

static int take_goal(struct reading *r, yaml_node_t *node, const char *key, int64_t *ret_us)
{
	struct str text;
	int rc = text_of(r, node, key, &text);

	if (rc < 0)
		return rc;
	if (str_to_duration_us(text, ret_us) < 0 || *ret_us <= 0 || *ret_us > GOAL_MOST_US)
		return bad(r, node, "%s: a duration of at most 1h, such as 300ms", key);
	return 0;
}

static int take_ttft(struct reading *r, yaml_node_t *node)
{
	return take_goal(r, node, "ttft", &r->rule->service.ttft_us);
}

static int take_itl(struct reading *r, yaml_node_t *node)
{
	return take_goal(r, node, "itl", &r->rule->service.itl_us);
}

static int take_deadline(struct reading *r, yaml_node_t *node)
{
	return take_goal(r, node, "deadline", &r->rule->service.deadline_us);
}

static int each_key(struct reading *r, yaml_node_t *node, const char *what,
                    int (*take)(struct reading *r, const yaml_node_t *key, struct str name, yaml_node_t *value))
{
	int rc = 0;

	if (node->type != YAML_MAPPING_NODE)
		return bad(r, node, "%s: expected keys and values", what);
	yaml_node_pair_t *first = node->data.mapping.pairs.start;
	for (yaml_node_pair_t *p = first; rc == 0 && p < node->data.mapping.pairs.top; p++) {
		yaml_node_t *key = yaml_document_get_node(&r->document, p->key);
		struct str name, other;

		if ((rc = text_of(r, key, what, &name)) < 0)
			return rc;
		for (yaml_node_pair_t *q = first; q < p; q++)
			if (text_of(r, yaml_document_get_node(&r->document, q->key), what, &other) == 0 &&
			    str_equal(other, name))
				return bad(r, key, "%.*s is here a second time", (int)(name.len < 64 ? name.len : 64),
				           name.base);
		rc = take(r, key, name, yaml_document_get_node(&r->document, p->value));
	}
	return rc;
}

static int take_match(struct reading *r, yaml_node_t *node)
{
	return each_key(r, node, "match", take_match_key);
}

static int take_class_key(struct reading *r, const yaml_node_t *key, struct str name, yaml_node_t *value)
{
	static const struct {
		const char *name;
		int (*take)(struct reading *r, yaml_node_t *node);
	} keys[] = {{"name", take_name},         {"match", take_match}, {"class", take_class},
	            {"priority", take_priority}, {"ttft", take_ttft},   {"itl", take_itl},
	            {"deadline", take_deadline}, {"dscp", take_dscp}};

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (str_equal(name, str_from(keys[i].name)))
			return keys[i].take(r, value);
	return bad(r, key, "unknown key \"%.*s\"; there are name, match, class, priority, ttft, itl, deadline, dscp",
	           (int)(name.len < 64 ? name.len : 64), name.base);
}

/* ---- the file ----------------------------------------------------------------------------------------------- */

static int take_classes(struct reading *r, yaml_node_t *root, struct service_rules *rules)
{
	yaml_node_t *list = NULL;
	int rc = 0;

	if (root->type != YAML_MAPPING_NODE)
		return bad(r, root, "expected \"classes:\" and a list");
	for (yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top; p++) {
		yaml_node_t *key = yaml_document_get_node(&r->document, p->key);
		struct str name = {0};

		if (text_of(r, key, "classes", &name) < 0 || !str_equal(name, STR("classes")) || list)
			return bad(r, key, "only one key belongs here: \"classes\"");
		list = yaml_document_get_node(&r->document, p->value);
	}
	if (!list || list->type != YAML_SEQUENCE_NODE)
		return bad(r, list ? list : root, "classes: expected a list, each item beginning with - name:");
	size_t count = (size_t)(list->data.sequence.items.top - list->data.sequence.items.start);
	if (count > SERVICE_RULES_MAX)
		return bad(r, list, "classes: %zu rules; at most %d", count, SERVICE_RULES_MAX);
	rules->rules = mem_new((count + 1) * sizeof(*rules->rules));
	for (size_t i = 0; rc == 0 && i < count; i++) {
		yaml_node_t *node = yaml_document_get_node(&r->document, list->data.sequence.items.start[i]);

		r->rule = &rules->rules[rules->count++];
		rc = each_key(r, node, "classes", take_class_key);
		if (rc == 0 && !r->rule->service.name[0])
			rc = bad(r, node, "name: every class needs one");
	}
	return rc;
}

int services_parse(const char *name, struct str text, struct service_rules *ret_rules, struct error *err)
{
	struct reading r = {.name = name, .err = err};
	struct service_rules rules = {0};
	yaml_parser_t parser;
	int rc = 0;

	if (!yaml_parser_initialize(&parser))
		return error_set(err, E_INTERNAL, "%s: no memory", name);
	yaml_parser_set_input_string(&parser, (const unsigned char *)(text.base ? text.base : ""), text.len);
	if (!yaml_parser_load(&parser, &r.document)) {
		rc = error_set(err, E_INVAL, "%s:%zu: %s", name, parser.problem_mark.line + 1,
		               parser.problem ? parser.problem : "not YAML");
	} else {
		yaml_node_t *root = yaml_document_get_root_node(&r.document);

		rc = root ? take_classes(&r, root, &rules) : 0; /* an empty file has no rules */
		yaml_document_delete(&r.document);
	}
	yaml_parser_delete(&parser);
	if (rc < 0)
		service_rules_fini(&rules);
	else
		*ret_rules = rules;
	return rc;
}

int services_read(const char *path, struct service_rules *ret_rules, struct error *err)
{
	struct buf text = {0};
	int rc = file_read(path, FILE_MAX, &text, err);

	if (rc == 0)
		rc = services_parse(path, buf_str(&text), ret_rules, err);
	buf_fini(&text);
	return rc;
}
