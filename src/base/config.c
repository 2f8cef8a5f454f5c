/* SPDX-License-Identifier: Apache-2.0 */
/* How: config.def becomes one array of keys. A file is read twice. First libyaml's events, only for what libcyaml
 * keeps to itself: the line of every key, unknown keys, and whether a list was written as a list or as one text with
 * commas. Then libcyaml checks the whole against a schema made of the same array, and gives every value as text.
 * File, flags and defaults then go through one function that parses and checks a value, so all three
 * accept the same spellings and complain in the same words.
 *
 * What it will not do: nested keys, anchors, several documents, including other files.
 */
#include "base/config.h"

#include "base/file.h"

#include <assert.h>
#include <cyaml/cyaml.h>
#include <stdlib.h>
#include <unistd.h>
#include <yaml.h>

#define FILE_MAX (1 << 20)
#define LIST_MAX 4096

enum kind { KIND_text, KIND_secret, KIND_list, KIND_bytes, KIND_duration, KIND_integer, KIND_flag };

static const char *const kind_names[] = {"text", "secret", "list", "bytes", "duration", "integer", "flag"};
static const char *const kind_wants[] = {
    "a text",
    "a text",
    "a list",
    "a number of bytes: write 1048576, 512K, 4M, 2G",
    "a duration: write a number and its unit, such as 250ms, 20s, 10m, 1h, 1d",
    "a whole number",
    "true or false",
};

#define CONFIG_PLACE_text(name) offsetof(struct config, name)
#define CONFIG_PLACE_secret(name) offsetof(struct config, name)
#define CONFIG_PLACE_list(name) offsetof(struct config, name)
#define CONFIG_PLACE_bytes(name) offsetof(struct config, name)
#define CONFIG_PLACE_duration(name) offsetof(struct config, name##_us)
#define CONFIG_PLACE_integer(name) offsetof(struct config, name)
#define CONFIG_PLACE_flag(name) offsetof(struct config, name)
#define RELOAD_live true
#define RELOAD_restart false

static const struct key {
	const char *name, *fallback, *help;
	enum kind kind;
	bool live;
	size_t place; /* in struct config */
} keys[] = {
#define CONFIG(kind, name, fallback, reload, help) \
	{#name, fallback, help, KIND_##kind, RELOAD_##reload, CONFIG_PLACE_##kind(name)},
#include "base/config.def"
#undef CONFIG
};

#define KEY_COUNT (sizeof(keys) / sizeof(keys[0]))

/* Which values of its kind a key takes: "LEAST to MOST", or words. Numbers without a rule must not be negative. */
static const struct rule {
	const char *key, *says;
} rules[] = {
    {"roles", "repository, center, edge, scheduler"},
    {"state", "sqlite, etcd"},
    {"repository_access", "open, pull, key"},
    {"route_policy", "mdn, round_robin, random, power_of_two, least_load, cache_aware, prefix_hash, session"},
    {"engine", "llama, remote, synthetic"},
    {"engine_isolation", "process, none"},
    {"log_level", "debug, info, warn, error"},
    {"log_format", "text, json, auto"},
    {"dns_ttl", "0s to 1d"},
    {"token_life", "1s to 7d"},
    {"cert_life", "1s to 24h"},
    {"chunk_size", "1M to 16M"},
    {"fetch_parallel", "1 to 64"},
    {"slots", "1 to 1024"},
    {"context", "64 to 16777216"},
    {"batch_tokens", "1 to 65536"},
    {"itl_target", "1ms to 1m"},
    {"queue_wait", "0s to 1d"},
    {"threads", "0 to 1024"},
    {"drain_deadline", "0s to 1d"},
};

static const char *rule_of(const struct key *key)
{
	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
		if (strcmp(rules[i].key, key->name) == 0)
			return rules[i].says;
	return NULL;
}

static const struct key *find_key(struct str name)
{
	for (size_t i = 0; i < KEY_COUNT; i++) {
		const char *p = keys[i].name;
		size_t j = 0;
		while (j < name.len && (p[j] == name.base[j] || (p[j] == '_' && name.base[j] == '-')))
			j++;
		if (j == name.len && p[j] == '\0')
			return &keys[i];
	}
	return NULL;
}

static void key_flag(const struct key *k, char *ret_text, size_t size)
{
	snprintf(ret_text, size, "%s", k->name);
	for (char *p = ret_text; *p != '\0'; p++)
		if (*p == '_')
			*p = '-';
}

static const char *nearest_key(struct str name)
{
	size_t best = 0, least = SIZE_MAX;

	for (size_t i = 0; i < KEY_COUNT; i++) {
		size_t distance = str_distance(name, str_from(keys[i].name));
		if (distance < least) {
			least = distance;
			best = i;
		}
	}
	return keys[best].name;
}

/* ---- one value ---------------------------------------------------------------------------------------------- */

static char **text_at(struct config *c, const struct key *k)
{
	return (char **)(void *)((char *)c + k->place);
}

static struct config_list *list_at(struct config *c, const struct key *k)
{
	return (struct config_list *)(void *)((char *)c + k->place);
}

/* bytes, duration, integer: all 64 bits */
static int64_t *number_at(struct config *c, const struct key *k)
{
	return (int64_t *)(void *)((char *)c + k->place);
}

static bool *flag_at(struct config *c, const struct key *k)
{
	return (bool *)((char *)c + k->place);
}

static int parse_flag(struct str text, bool *ret)
{
	static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};

	for (unsigned i = 0; i < 6; i++) {
		if (str_equal_nocase(text, str_from(words[i]))) {
			*ret = i % 2 == 1;
			return 0;
		}
	}
	return E_INVAL;
}

static int parse_number(enum kind kind, struct str text, int64_t *ret)
{
	uint64_t bytes;

	if (kind == KIND_duration)
		return str_to_duration_us(text, ret);
	if (kind == KIND_integer)
		return str_to_i64(text, ret);
	if (str_to_bytes(text, &bytes) != 0 || bytes > INT64_MAX)
		return E_INVAL;
	*ret = (int64_t)bytes;
	return 0;
}

static void clear_list(struct config_list *list)
{
	for (unsigned i = 0; i < list->count; i++)
		free(list->items[i]);
	free(list->items);
	*list = (struct config_list){0};
}

static void add_item(struct config_list *list, struct str item)
{
	list->items = mem_resize(list->items, list->count + 1, sizeof(list->items[0]));
	list->items[list->count++] = str_dup(item);
}

static int check_word(const struct key *k, const char *word, const char *where, struct error *err)
{
	const char *rule = rule_of(k);
	struct str rest = str_from(rule);

	if (rule == NULL)
		return 0;
	while (rest.len > 0)
		if (str_equal(str_trim(str_cut(rest, ',', &rest)), str_from(word)))
			return 0;
	return error_set(err, E_INVAL, "%s: \"%.64s\" is none of: %s", where, word, rule);
}

static int check_number(const struct key *k, int64_t value, const char *where, struct error *err)
{
	const char *rule = rule_of(k), *to = rule != NULL ? strstr(rule, " to ") : NULL;
	int64_t least = 0, most = INT64_MAX;

	if (to != NULL && (parse_number(k->kind, (struct str){rule, (size_t)(to - rule)}, &least) != 0 ||
	                   parse_number(k->kind, str_from(to + 4), &most) != 0))
		abort(); /* the table above is wrong */
	if (value >= least && value <= most)
		return 0;
	return error_set(err, E_INVAL, "%s is out of range: it must be %s", where, rule != NULL ? rule : "0 or more");
}

static int wrong_value(const struct key *k, struct str text, const char *where, struct error *err)
{
	return error_set(err, E_INVAL, "%s: \"%.*s\" is not %s", where, (int)(text.len < 64 ? text.len : 64), text.base,
	                 kind_wants[k->kind]);
}

static int set_list(struct config *c, const struct key *k, char **items, size_t count, const char *where,
                    struct error *err)
{
	if (count > LIST_MAX)
		return error_set(err, E_LIMIT, "%s: more than %d items", where, LIST_MAX);
	clear_list(list_at(c, k));
	for (size_t i = 0; i < count; i++) {
		int rc = check_word(k, items[i], where, err);
		if (rc != 0)
			return rc;
		add_item(list_at(c, k), str_from(items[i]));
	}
	return 0;
}

/* Text with commas; spaces around items and empty items do not count. */
static int set_list_text(struct config *c, const struct key *k, struct str text, const char *where, struct error *err)
{
	struct config_list items = {0};

	while (text.len > 0) {
		struct str item = str_trim(str_cut(text, ',', &text));
		if (item.len > 0)
			add_item(&items, item);
	}
	int rc = set_list(c, k, items.items, items.count, where, err);
	clear_list(&items);
	return rc;
}

/* `where` begins the words of an error: "FILE:LINE: key" or "--key". */
static int set_text(struct config *c, const struct key *k, struct str text, const char *where, struct error *err)
{
	int rc;
	int64_t number;

	switch (k->kind) {
	case KIND_list:
		return set_list_text(c, k, text, where, err);
	case KIND_flag:
		return parse_flag(text, flag_at(c, k)) == 0 ? 0 : wrong_value(k, text, where, err);
	case KIND_bytes:
	case KIND_duration:
	case KIND_integer:
		if (parse_number(k->kind, text, &number) != 0)
			return wrong_value(k, text, where, err);
		rc = check_number(k, number, where, err);
		if (rc == 0)
			*number_at(c, k) = number;
		return rc;
	case KIND_text:
	case KIND_secret:
		break;
	}
	char *copy = str_dup(text);
	rc = check_word(k, copy, where, err);
	if (rc != 0) {
		free(copy);
		return rc;
	}
	free(*text_at(c, k));
	*text_at(c, k) = copy;
	return 0;
}

/* ---- the file: what libyaml tells --------------------------------------------------------------------------- */

struct scan {
	const char *path;
	unsigned lines[KEY_COUNT]; /* 0: the key is not in the file */
	bool has_keys;
	bool is_sequence[KEY_COUNT]; /* of list keys */
};

static unsigned line_of(const yaml_mark_t *mark)
{
	return (unsigned)mark->line + 1;
}

/* A document of nothing but "---" or comments */
static bool is_nothing(const yaml_event_t *e)
{
	return e->type == YAML_SCALAR_EVENT && e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
	       e->data.scalar.length == 0;
}

static bool is_null(const yaml_event_t *e)
{
	const char *text = (const char *)e->data.scalar.value;

	return e->type == YAML_SCALAR_EVENT && e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
	       (strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static int scan_key(struct scan *s, const yaml_event_t *e, const struct key **ret_key, struct error *err)
{
	unsigned line = line_of(&e->start_mark);

	if (e->type != YAML_SCALAR_EVENT)
		return error_set(err, E_INVAL, "%s:%u: expected a key, such as \"name: edge-1\"", s->path, line);
	struct str name = {(const char *)e->data.scalar.value, e->data.scalar.length};
	const struct key *k = find_key(name);
	if (k == NULL || strlen(k->name) != name.len || memcmp(k->name, name.base, name.len) != 0)
		return error_set(err, E_INVAL, "%s:%u: unknown key \"%.64s\"; the nearest known key is \"%s\"", s->path,
		                 line, name.base, nearest_key(name));
	if (s->lines[k - keys] != 0)
		return error_set(err, E_INVAL, "%s:%u: %s is here a second time; it was set in line %u", s->path, line,
		                 k->name, s->lines[k - keys]);
	s->lines[k - keys] = line;
	s->has_keys = true;
	*ret_key = k;
	return 0;
}

static int scan_value(struct scan *s, const yaml_event_t *e, const struct key *k, struct error *err)
{
	if (is_null(e))
		return error_set(err, E_INVAL, "%s:%u: %s: null says nothing; leave the key out, or write \"\"",
		                 s->path, line_of(&e->start_mark), k->name);
	s->is_sequence[k - keys] = k->kind == KIND_list && e->type == YAML_SEQUENCE_START_EVENT;
	return 0;
}

/* Anywhere: what we do not want of YAML at all. */
static int scan_refuse(const struct scan *s, const yaml_event_t *e, unsigned documents, struct error *err)
{
	unsigned line = line_of(&e->start_mark);

	if (e->type == YAML_ALIAS_EVENT)
		return error_set(err, E_INVAL, "%s:%u: aliases (*name) are not supported; write the value again",
		                 s->path, line);
	if (e->type == YAML_DOCUMENT_START_EVENT && documents > 0)
		return error_set(err, E_INVAL, "%s:%u: a second document begins here; one file holds one", s->path,
		                 line);
	if (e->type == YAML_SCALAR_EVENT && strlen((const char *)e->data.scalar.value) != e->data.scalar.length)
		return error_set(err, E_INVAL, "%s:%u: a NUL character in a text", s->path, line);
	return 0;
}

struct scan_state {
	unsigned depth, documents;
	const struct key *key; /* the one whose value is next */
};

static int scan_event(struct scan *s, const yaml_event_t *e, struct scan_state *st, struct error *err)
{
	bool begins = e->type == YAML_MAPPING_START_EVENT || e->type == YAML_SEQUENCE_START_EVENT;
	bool is_value = begins || e->type == YAML_SCALAR_EVENT;
	int rc = scan_refuse(s, e, st->documents, err);

	if (rc != 0)
		return rc;
	if (e->type == YAML_DOCUMENT_START_EVENT)
		st->documents++;
	if (is_value && st->depth == 0 && e->type != YAML_MAPPING_START_EVENT && !is_nothing(e))
		return error_set(err, E_INVAL, "%s:%u: expected keys and values, such as \"name: edge-1\"", s->path,
		                 line_of(&e->start_mark));
	if (is_value && st->depth == 1 && st->key == NULL) {
		rc = scan_key(s, e, &st->key, err);
	} else if (is_value && st->depth == 1) {
		rc = scan_value(s, e, st->key, err);
		st->key = NULL;
	}
	if (begins)
		st->depth++;
	if (e->type == YAML_MAPPING_END_EVENT || e->type == YAML_SEQUENCE_END_EVENT)
		st->depth--;
	return rc;
}

static int scan_file(struct scan *s, struct str text, struct error *err)
{
	struct scan_state st = {0};
	yaml_parser_t parser;
	bool done = false;
	int rc = 0;

	if (yaml_parser_initialize(&parser) != 1)
		abort();
	yaml_parser_set_input_string(&parser, (const unsigned char *)text.base, text.len);
	while (rc == 0 && !done) {
		yaml_event_t event;
		if (yaml_parser_parse(&parser, &event) != 1) {
			rc =
			    error_set(err, E_INVAL, "%s:%u: not valid YAML: %s", s->path, line_of(&parser.problem_mark),
			              parser.problem != NULL ? parser.problem : "no memory");
			break;
		}
		done = event.type == YAML_STREAM_END_EVENT;
		rc = scan_event(s, &event, &st, err);
		yaml_event_delete(&event);
	}
	yaml_parser_delete(&parser);
	return rc;
}

/* ---- the file: libcyaml's schema ---------------------------------------------------------------------------- */

struct raw_value {
	char *text;
	struct config_list list;
};

struct raw {
	struct raw_value values[KEY_COUNT];
};

static const cyaml_schema_value_t item_schema = {CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 0, CYAML_UNLIMITED)};

static void make_fields(const struct scan *s, cyaml_schema_field_t fields[static KEY_COUNT + 1])
{
	static const cyaml_schema_field_t text_field = CYAML_FIELD_STRING_PTR(
	    "", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct raw_value, text, 0, CYAML_UNLIMITED);
	static const cyaml_schema_field_t list_field =
	    CYAML_FIELD_SEQUENCE_COUNT("", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct raw_value, list.items,
	                               list.count, &item_schema, 0, LIST_MAX);
	static const cyaml_schema_field_t end = CYAML_FIELD_END;

	for (size_t i = 0; i < KEY_COUNT; i++) {
		fields[i] = s->is_sequence[i] ? list_field : text_field;
		fields[i].key = keys[i].name;
		fields[i].data_offset += (uint32_t)(i * sizeof(struct raw_value));
		fields[i].count_offset += (uint32_t)(i * sizeof(struct raw_value));
	}
	fields[KEY_COUNT] = end;
}

/* libcyaml says what is wrong in its first message and where in the last. */
struct schema_log {
	char what[160], key[64];
};

static void keep_log(cyaml_log_t level, void *ctx, const char *format, va_list args)
{
	struct schema_log *log = ctx;
	char line[256];

	vsnprintf(line, sizeof(line), format, args);
	line[strcspn(line, "\n")] = '\0';
	if (log->what[0] == '\0')
		snprintf(log->what, sizeof(log->what), "%.150s", strncmp(line, "Load: ", 6) == 0 ? line + 6 : line);
	sscanf(line, " in mapping field '%63[^']'", log->key);
}

static int schema_failed(const struct scan *s, const struct schema_log *log, cyaml_err_t why, struct error *err)
{
	const struct key *k = find_key(str_from(log->key));

	if (k == NULL)
		return error_set(err, E_INVAL, "%s: %s", s->path,
		                 log->what[0] != '\0' ? log->what : cyaml_strerror(why));
	unsigned line = s->lines[k - keys];
	if (why == CYAML_ERR_INVALID_VALUE && k->kind == KIND_list)
		return error_set(err, E_INVAL, "%s:%u: %s: expected a list of texts, such as [a, b]", s->path, line,
		                 k->name);
	if (why == CYAML_ERR_INVALID_VALUE)
		return error_set(err, E_INVAL, "%s:%u: %s: expected one value, not a list or a mapping; it is %s",
		                 s->path, line, k->name, kind_wants[k->kind]);
	return error_set(err, E_INVAL, "%s:%u: %s: %s", s->path, line, k->name, log->what);
}

static int apply_raw(struct config *c, const struct scan *s, const struct raw *raw, struct error *err)
{
	for (size_t i = 0; i < KEY_COUNT; i++) {
		char where[512];
		int rc;
		if (s->lines[i] == 0)
			continue;
		const struct raw_value *v = &raw->values[i];
		snprintf(where, sizeof(where), "%.400s:%u: %s", s->path, s->lines[i], keys[i].name);
		if (s->is_sequence[i])
			rc = set_list(c, &keys[i], v->list.items, v->list.count, where, err);
		else
			rc = set_text(c, &keys[i], str_from(v->text), where, err);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int load_text(struct config *c, const char *path, struct str text, struct error *err)
{
	struct scan scan = {.path = path};
	cyaml_schema_field_t fields[KEY_COUNT + 1];
	const cyaml_schema_value_t schema = {CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct raw, fields)};
	struct schema_log log = {{0}, {0}};
	const cyaml_config_t setting = {
	    .log_fn = keep_log, .log_ctx = &log, .mem_fn = cyaml_mem, .log_level = CYAML_LOG_ERROR};
	struct raw *raw = NULL;

	int rc = scan_file(&scan, text, err);
	if (rc != 0 || !scan.has_keys)
		return rc;
	make_fields(&scan, fields);
	cyaml_err_t why =
	    cyaml_load_data((const uint8_t *)text.base, text.len, &setting, &schema, (cyaml_data_t **)&raw, NULL);
	if (why != CYAML_OK)
		rc = schema_failed(&scan, &log, why, err);
	else if (raw != NULL)
		rc = apply_raw(c, &scan, raw, err);
	cyaml_free(&setting, &schema, raw, 0);
	return rc;
}

/* ---- loading ------------------------------------------------------------------------------------------------ */

static int apply_override(struct config *c, const struct config_override *o, struct error *err)
{
	const struct key *k = find_key(str_from(o->key));

	if (k == NULL)
		return error_set(err, E_INVAL, "unknown key \"%.64s\"; the nearest known key is \"%s\"", o->key,
		                 nearest_key(str_from(o->key)));
	char flag[64] = "--";
	key_flag(k, flag + 2, sizeof(flag) - 2);
	return set_text(c, k, str_from(o->value), flag, err);
}

static void name_after_host(struct config *c)
{
	char host[256] = "";

	if (c->name[0] != '\0')
		return;
	if (gethostname(host, sizeof(host) - 1) != 0 || host[0] == '\0')
		snprintf(host, sizeof(host), "localhost");
	free(c->name);
	c->name = str_dup(str_from(host));
}

int config_load_text(const char *name, struct str text, const struct config_override *overrides, size_t override_count,
                     struct config **ret_config, struct error *err)
{
	struct config *c = NEW(struct config);

	for (size_t i = 0; i < KEY_COUNT; i++)
		if (set_text(c, &keys[i], str_from(keys[i].fallback), "", NULL) != 0)
			abort(); /* config.def is wrong */
	int rc = text.len > 0 ? load_text(c, name, text, err) : 0;
	for (size_t i = 0; rc == 0 && i < override_count; i++)
		rc = apply_override(c, &overrides[i], err);
	if (rc != 0) {
		config_free(c);
		return rc;
	}
	name_after_host(c);
	*ret_config = c;
	return 0;
}

int config_load(const char *path, const struct config_override *overrides, size_t override_count,
                struct config **ret_config, struct error *err)
{
	struct buf text = {0};
	int rc = path != NULL ? file_read(path, FILE_MAX, &text, err) : 0;

	if (rc == E_NOTFOUND)
		error_set(err, E_NOTFOUND, "there is no configuration file %s", path);
	else if (rc != 0)
		error_prefix(err, "the configuration file: ");
	else
		rc = config_load_text(path, buf_str(&text), overrides, override_count, ret_config, err);
	buf_fini(&text);
	return rc;
}

void config_free(struct config *c)
{
	if (c == NULL)
		return;
	for (size_t i = 0; i < KEY_COUNT; i++) {
		if (keys[i].kind == KIND_text || keys[i].kind == KIND_secret)
			free(*text_at(c, &keys[i]));
		else if (keys[i].kind == KIND_list)
			clear_list(list_at(c, &keys[i]));
	}
	free(c);
}

/* ---- telling ------------------------------------------------------------------------------------------------ */

/* A JSON string is a YAML one too; without quotes where nobody can take it for anything else. */
static void append_text(struct buf *b, const char *text, bool json)
{
	bool plain = text[0] != '\0' && strchr("-:~", text[0]) == NULL && text[strlen(text) - 1] != ':' &&
	             strcmp(text, "null") != 0;

	for (const char *p = text; plain && *p != '\0'; p++)
		plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
		        strchr("_.-/:=", *p) != NULL;
	if (plain && !json)
		buf_append_str(b, str_from(text));
	else
		buf_append_json(b, str_from(text));
}

static void append_duration(struct buf *b, int64_t us, bool json)
{
	static const struct {
		int64_t us;
		const char *name;
	} units[] = {{86400000000, "d"}, {3600000000, "h"}, {60000000, "m"}, {1000000, "s"}, {1000, "ms"}, {1, "us"}};
	size_t i = 0;

	while (us % units[i].us != 0)
		i++;
	if (us == 0)
		i = 3;
	buf_printf(b, json ? "\"%lld%s\"" : "%lld%s", (long long)(us / units[i].us), units[i].name);
}

static void append_bytes(struct buf *b, uint64_t bytes, bool json)
{
	static const char *const units[] = {"", "K", "M", "G", "T"};
	int unit = 0;

	while (!json && unit < 4 && bytes > 0 && bytes % 1024 == 0) {
		bytes /= 1024;
		unit++;
	}
	buf_printf(b, "%llu%s", (unsigned long long)bytes, units[unit]);
}

static void append_list(struct buf *b, const struct config_list *list, bool json)
{
	buf_append_str(b, STR("["));
	for (unsigned i = 0; i < list->count; i++) {
		if (i > 0)
			buf_append_str(b, STR(", "));
		append_text(b, list->items[i], json);
	}
	buf_append_str(b, STR("]"));
}

static void append_value(struct buf *b, const struct config *config, const struct key *k, bool json, bool secrets)
{
	struct config *c = (struct config *)(uintptr_t)config; /* only read */

	switch (k->kind) {
	case KIND_text:
		append_text(b, *text_at(c, k), json);
		break;
	case KIND_secret:
		append_text(b, secrets || (*text_at(c, k))[0] == '\0' ? *text_at(c, k) : "***", json);
		break;
	case KIND_list:
		append_list(b, list_at(c, k), json);
		break;
	case KIND_bytes:
		append_bytes(b, (uint64_t)*number_at(c, k), json);
		break;
	case KIND_duration:
		append_duration(b, *number_at(c, k), json);
		break;
	case KIND_integer:
		buf_printf(b, "%lld", (long long)*number_at(c, k));
		break;
	case KIND_flag:
		buf_append_str(b, *flag_at(c, k) ? STR("true") : STR("false"));
		break;
	}
}

void config_show(const struct config *c, FILE *out, bool json)
{
	struct buf b = {0};

	for (size_t i = 0; i < KEY_COUNT; i++) {
		if (json)
			buf_printf(&b, "%s\"%s\": ", i == 0 ? "{\n  " : ",\n  ", keys[i].name);
		else
			buf_printf(&b, "%s: ", keys[i].name);
		append_value(&b, c, &keys[i], json, false);
		if (!json)
			buf_append_str(&b, STR("\n"));
	}
	if (json)
		buf_append_str(&b, STR("\n}\n"));
	fwrite(b.base, 1, b.len, out);
	buf_fini(&b);
}

static void explain(const struct key *k, FILE *out)
{
	const char *rule = rule_of(k);
	char flag[64];

	key_flag(k, flag, sizeof(flag));
	fprintf(out, "%s\n    %s\n    %s%s%s, default %s; flag --%s; %s\n", k->name, k->help, kind_names[k->kind],
	        rule != NULL ? ": " : "", rule != NULL ? rule : "", k->fallback[0] != '\0' ? k->fallback : "\"\"", flag,
	        k->live ? "SIGHUP applies a change" : "a change needs a restart");
}

int config_explain(const char *key, FILE *out, struct error *err)
{
	const struct key *k = key != NULL ? find_key(str_from(key)) : NULL;

	if (key != NULL && k == NULL)
		return error_set(err, E_NOTFOUND, "there is no key \"%.64s\"; the nearest is \"%s\"", key,
		                 nearest_key(str_from(key)));
	for (size_t i = 0; i < KEY_COUNT; i++)
		if (k == NULL || k == &keys[i])
			explain(&keys[i], out);
	return 0;
}

bool config_is_key(const char *key)
{
	return find_key(str_from(key)) != NULL;
}

size_t config_key_count(void)
{
	return KEY_COUNT;
}

const char *config_key_name(size_t i)
{
	assert(i < KEY_COUNT);
	return keys[i].name;
}

const char *config_key_help(size_t i)
{
	assert(i < KEY_COUNT);
	return keys[i].help;
}

const char *config_key_kind(size_t i)
{
	assert(i < KEY_COUNT);
	return kind_names[keys[i].kind];
}

const char *config_key_fallback(size_t i)
{
	assert(i < KEY_COUNT);
	return keys[i].fallback;
}

bool config_key_is_live(size_t i)
{
	assert(i < KEY_COUNT);
	return keys[i].live;
}

const char *config_key_rule(size_t i)
{
	assert(i < KEY_COUNT);
	return rule_of(&keys[i]);
}

void config_compare(const struct config *before, const struct config *after,
                    void (*fn)(void *arg, const char *key, bool live), void *arg)
{
	struct buf a = {0}, b = {0};

	for (size_t i = 0; i < KEY_COUNT; i++) {
		buf_clear(&a);
		buf_clear(&b);
		append_value(&a, before, &keys[i], true, true);
		append_value(&b, after, &keys[i], true, true);
		if (!str_equal(buf_str(&a), buf_str(&b)))
			fn(arg, keys[i].name, keys[i].live);
	}
	buf_fini(&a);
	buf_fini(&b);
}
