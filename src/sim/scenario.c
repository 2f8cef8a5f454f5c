/* SPDX-License-Identifier: Apache-2.0 */
/* How: libcyaml loads the file into the struct by a schema, then each text with a unit is parsed and each number is
 * checked against its range. libcyaml tells lines for what it refuses; for what we refuse, the line is found by looking
 * for the section and the key in the text.
 */
#include "sim/scenario.h"

#include "base/file.h"
#include "base/limits.h"

#include <cyaml/cyaml.h>
#include <stdio.h>
#include <stdlib.h>

#define FILE_MAX (1 << 20)

const char *const sim_policy_names[SIM_POLICIES] = {"mdn",    "single_pool",  "round_robin",
                                                    "random", "power_of_two", "least_load"};

/* ---- schema ---------------------------------------------------------------------------------- */

#define OPTIONAL CYAML_FLAG_OPTIONAL
#define TEXT(type, name) CYAML_FIELD_STRING_PTR(#name, CYAML_FLAG_POINTER | OPTIONAL, type, name, 0, CYAML_UNLIMITED)
#define NUMBER(type, name) CYAML_FIELD_FLOAT(#name, OPTIONAL, type, name)
#define SECTION(name, fields) CYAML_FIELD_MAPPING(#name, OPTIONAL, struct scenario, name, fields)
#define LIST(name, count, schema, most) \
	CYAML_FIELD_SEQUENCE_COUNT(#name, CYAML_FLAG_POINTER | OPTIONAL, struct scenario, name, count, schema, 0, most)

static const cyaml_schema_field_t users_fields[] = {
    NUMBER(struct scenario_users, count),
    NUMBER(struct scenario_users, grow_from),
    NUMBER(struct scenario_users, requests_per_day),
    NUMBER(struct scenario_users, diurnal),
    TEXT(struct scenario_users, peak),
    CYAML_FIELD_END,
};
static const cyaml_schema_field_t tokens_fields[] = {
    NUMBER(struct scenario_tokens, prompt_median),
    NUMBER(struct scenario_tokens, prompt_sigma),
    NUMBER(struct scenario_tokens, prompt_most),
    NUMBER(struct scenario_tokens, output_median),
    NUMBER(struct scenario_tokens, output_sigma),
    NUMBER(struct scenario_tokens, output_most),
    NUMBER(struct scenario_tokens, cached_share),
    TEXT(struct scenario_tokens, source),
    CYAML_FIELD_END,
};
static const cyaml_schema_field_t network_fields[] = {
    NUMBER(struct scenario_network, regions),   NUMBER(struct scenario_network, cities),
    NUMBER(struct scenario_network, width_km),  NUMBER(struct scenario_network, height_km),
    NUMBER(struct scenario_network, region_km), NUMBER(struct scenario_network, us_per_km),
    TEXT(struct scenario_network, access),      CYAML_FIELD_END,
};
static const cyaml_schema_field_t engine_fields[] = {
    NUMBER(struct scenario_engine, slots),
    NUMBER(struct scenario_engine, kv_tokens),
    NUMBER(struct scenario_engine, prefill_tokens_per_s),
    NUMBER(struct scenario_engine, queue),
    TEXT(struct scenario_engine, itl_base),
    TEXT(struct scenario_engine, itl_slope),
    TEXT(struct scenario_engine, queue_wait),
    CYAML_FIELD_END,
};
static const cyaml_schema_field_t sites_fields[] = {
    NUMBER(struct scenario_sites, count),
    NUMBER(struct scenario_sites, nodes),
    NUMBER(struct scenario_sites, pool_addresses),
    CYAML_FIELD_END,
};
static const cyaml_schema_field_t dns_fields[] = {
    TEXT(struct scenario_dns, ttl),
    NUMBER(struct scenario_dns, public_share),
    NUMBER(struct scenario_dns, ecs_share),
    CYAML_FIELD_END,
};
static const cyaml_schema_field_t reports_fields[] = {
    TEXT(struct scenario_reports, period),
    TEXT(struct scenario_reports, map_age),
    CYAML_FIELD_END,
};
static const cyaml_schema_field_t gateway_fields[] = {NUMBER(struct scenario_gateway, tries), CYAML_FIELD_END};
static const cyaml_schema_field_t model_fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct scenario_model, name, 1, 64),
    NUMBER(struct scenario_model, share),
    NUMBER(struct scenario_model, nodes_share),
    CYAML_FIELD_END,
};
static const cyaml_schema_field_t flash_fields[] = {
    TEXT(struct scenario_flash, at),      TEXT(struct scenario_flash, lasts),    TEXT(struct scenario_flash, model),
    NUMBER(struct scenario_flash, times), NUMBER(struct scenario_flash, region), CYAML_FIELD_END,
};
static const cyaml_schema_field_t failure_fields[] = {
    TEXT(struct scenario_failure, at),
    TEXT(struct scenario_failure, lasts),
    NUMBER(struct scenario_failure, site),
    CYAML_FIELD_BOOL("silent", OPTIONAL, struct scenario_failure, silent),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t model_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct scenario_model, model_fields)};
static const cyaml_schema_value_t flash_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct scenario_flash, flash_fields)};
static const cyaml_schema_value_t failure_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct scenario_failure, failure_fields)};
static const cyaml_schema_value_t policy_schema = {CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 0, 64)};

static const cyaml_schema_field_t scenario_fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct scenario, name, 1, 128),
    TEXT(struct scenario, about),
    TEXT(struct scenario, mode),
    TEXT(struct scenario, duration),
    TEXT(struct scenario, step),
    TEXT(struct scenario, day),
    CYAML_FIELD_UINT("seed", OPTIONAL, struct scenario, seed),
    SECTION(users, users_fields),
    SECTION(tokens, tokens_fields),
    SECTION(network, network_fields),
    SECTION(engine, engine_fields),
    SECTION(sites, sites_fields),
    SECTION(dns, dns_fields),
    SECTION(reports, reports_fields),
    SECTION(gateway, gateway_fields),
    LIST(models, model_count, &model_schema, SCENARIO_MODELS_MAX),
    LIST(flash, flash_count, &flash_schema, SCENARIO_EVENTS_MAX),
    LIST(failures, failure_count, &failure_schema, SCENARIO_EVENTS_MAX),
    CYAML_FIELD_SEQUENCE_COUNT("policies", CYAML_FLAG_POINTER | OPTIONAL, struct scenario, policy_names, policy_count,
                               &policy_schema, 0, SIM_POLICIES),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t scenario_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct scenario, scenario_fields)};

/* ---- what libcyaml says ---------------------------------------------------------------------- */

struct complaint {
	char what[200];
	unsigned line;
};

/* The first message says what is wrong, the first with a line where. */
static void keep_log(cyaml_log_t level, void *ctx, const char *format, va_list args)
{
	struct complaint *c = ctx;
	char line[256];
	vsnprintf(line, sizeof(line), format, args);
	line[strcspn(line, "\n")] = '\0';
	const char *at = strstr(line, "line: ");
	if (c->what[0] == '\0')
		snprintf(c->what, sizeof(c->what), "%.190s", strncmp(line, "Load: ", 6) == 0 ? line + 6 : line);
	if (at && c->line == 0)
		c->line = (unsigned)strtoul(at + 6, NULL, 10);
}

static void settle(cyaml_config_t *config, struct complaint *c)
{
	*config = (cyaml_config_t){.log_fn = keep_log, .log_ctx = c, .mem_fn = cyaml_mem, .log_level = CYAML_LOG_ERROR};
}

/* ---- what we check --------------------------------------------------------------------------- */

struct reader {
	const char *path, *section; /* section NULL: top */
	struct str text;
	unsigned item; /* of a list, from 0 */
	bool in_list;
	struct error *err;
	int rc;
};

static bool is_key_at(const char *line, size_t len, const char *key)
{
	size_t n = strlen(key);
	for (size_t i = 0; i + n < len; i++)
		if ((i == 0 || strchr(" {,-\t", line[i - 1])) && memcmp(line + i, key, n) == 0 && line[i + n] == ':')
			return true;
	return false;
}

/* The line of a key of the section, else of the section, else 1. */
static unsigned line_of(const struct reader *r, const char *key)
{
	struct str rest = r->text, line;
	bool inside = r->section == NULL;
	unsigned found = 1, number = 0, items = 0;
	while (rest.len > 0) {
		line = str_cut(rest, '\n', &rest);
		number++;
		bool top = line.len > 0 && !strchr(" \t-#", line.base[0]);
		if (r->section && top) {
			inside = is_key_at(line.base, line.len, r->section);
			if (inside)
				found = number;
		}
		struct str text = str_trim(line);
		if (inside && r->in_list && str_starts(text, STR("-")) && items++ == r->item)
			found = number;
		if (inside && (!r->in_list || items == r->item + 1) && (r->section || top) &&
		    is_key_at(line.base, line.len, key))
			return number;
	}
	return found;
}

#define REFUSE(r, key, ...) \
	do { \
		char words_[256]; \
		snprintf(words_, sizeof(words_), __VA_ARGS__); \
		if ((r)->rc == 0) \
			(r)->rc = \
			    error_set((r)->err, E_INVAL, "%s:%u: %s: %s", (r)->path, line_of(r, key), key, words_); \
	} while (0)

static void duration(struct reader *r, const char *key, const char *text, int64_t least, int64_t most, int64_t fallback,
                     int64_t *ret_us)
{
	*ret_us = fallback;
	if (!text)
		return;
	if (str_to_duration_us(str_from(text), ret_us) != 0)
		REFUSE(r, key, "\"%.40s\" is not a duration; write a number and its unit, such as 250ms, 20s, 10m, 1d",
		       text);
	else if (*ret_us < least || *ret_us > most)
		REFUSE(r, key, "%.40s is out of range; %lld ms to %lld s are taken", text, (long long)(least / 1000),
		       (long long)(most / 1000000));
}

static void number(struct reader *r, const char *key, double *value, double least, double most, double fallback)
{
	if (*value == 0)
		*value = fallback;
	if (!(*value >= least && *value <= most))
		REFUSE(r, key, "%g is out of range; %g to %g are taken", *value, least, most);
}

#define SECOND INT64_C(1000000)
#define DAY (86400 * SECOND)

static void check_top(struct reader *r, struct scenario *s)
{
	r->section = NULL;
	if (s->mode && strcmp(s->mode, "flows") != 0 && strcmp(s->mode, "requests") != 0)
		REFUSE(r, "mode", "\"%.40s\" is not known; requests (each one by itself) or flows (many at once)",
		       s->mode);
	s->flows = s->mode && strcmp(s->mode, "flows") == 0;
	duration(r, "duration", s->duration, SECOND, 366 * DAY, 3600 * SECOND, &s->duration_us);
	duration(r, "day", s->day, 60 * SECOND, DAY, DAY, &s->day_us);
	duration(r, "step", s->step, SECOND / 10, 60 * SECOND, SECOND, &s->step_us);
	if (s->seed == 0)
		s->seed = 1;
}

static void check_users(struct reader *r, struct scenario *s)
{
	struct scenario_users *u = &s->users;
	struct scenario_tokens *t = &s->tokens;
	r->section = "users";
	number(r, "count", &u->count, 1, 1e10, 1e6);
	number(r, "grow_from", &u->grow_from, 1, 1e10, u->count);
	number(r, "requests_per_day", &u->requests_per_day, 1e-3, 1e5, 8);
	number(r, "diurnal", &u->diurnal, 0, 1, 0);
	duration(r, "peak", u->peak, 0, DAY, 21 * 3600 * SECOND, &u->peak_us);
	r->section = "tokens"; /* defaults: docs/rooms/sim.md names their source */
	number(r, "prompt_median", &t->prompt_median, 1, 1e6, 1020);
	number(r, "prompt_sigma", &t->prompt_sigma, 0, 3, 0.5);
	number(r, "prompt_most", &t->prompt_most, 1, 1e7, 16384);
	number(r, "output_median", &t->output_median, 1, 1e6, 129);
	number(r, "output_sigma", &t->output_sigma, 0, 3, 0.99);
	number(r, "output_most", &t->output_most, 1, 1e6, 8192);
	number(r, "cached_share", &t->cached_share, 0, 1, 0);
}

static void check_network(struct reader *r, struct scenario *s)
{
	struct scenario_network *n = &s->network;
	r->section = "network";
	number(r, "regions", &n->regions, 1, 1000, 1);
	number(r, "cities", &n->cities, n->regions, SCENARIO_SITES_MAX, n->regions);
	number(r, "width_km", &n->width_km, 1, 20000, 2000);
	number(r, "height_km", &n->height_km, 1, 20000, 1500);
	number(r, "region_km", &n->region_km, 1, 5000, 200);
	number(r, "us_per_km", &n->us_per_km, 10, 100, 15); /* light in glass: 10; the way is half longer */
	duration(r, "access", n->access, 0, SECOND, 4000, &n->access_us);
	r->section = "sites";
	number(r, "count", &s->sites.count, 1, n->cities, n->cities);
	number(r, "nodes", &s->sites.nodes, s->sites.count, s->flows ? 1e7 : SCENARIO_NODES_MAX, s->sites.count);
	number(r, "pool_addresses", &s->sites.pool_addresses, 1, s->sites.count, s->sites.count < 3 ? 1 : 3);
	r->section = "dns";
	duration(r, "ttl", s->dns.ttl, SECOND, DAY, 20 * SECOND, &s->dns.ttl_us);
	number(r, "public_share", &s->dns.public_share, 0, 1, 0);
	number(r, "ecs_share", &s->dns.ecs_share, 0, 1, 0);
	r->section = "gateway";
	number(r, "tries", &s->gateway.tries, 1, SCENARIO_TRIES_MAX, 3);
	r->section = "reports";
	duration(r, "period", s->reports.period, SECOND / 10, SECOND, SECOND, &s->reports.period_us);
	duration(r, "map_age", s->reports.map_age, 0, 3600 * SECOND, 0, &s->reports.map_age_us);
	if (s->flows && s->reports.map_age_us > 0)
		REFUSE(r, "map_age", "only where every request is played: mode: requests");
}

static void check_engine(struct reader *r, struct scenario *s)
{
	struct scenario_engine *e = &s->engine;
	int64_t slope_us;
	r->section = "engine";
	number(r, "slots", &e->slots, 1, 65536, 32);
	number(r, "kv_tokens", &e->kv_tokens, s->tokens.prompt_most + s->tokens.output_most, 1e10, 1e9);
	number(r, "prefill_tokens_per_s", &e->prefill_tokens_per_s, 1, 1e7, 8000);
	number(r, "queue", &e->queue, 1, 1e6, LIMIT_QUEUE);
	duration(r, "itl_base", e->itl_base, 1, SECOND, 20000, &e->itl_base_us);
	duration(r, "itl_slope", e->itl_slope, 0, SECOND, 200, &slope_us);
	duration(r, "queue_wait", e->queue_wait, SECOND, DAY, 600 * SECOND, &e->queue_wait_us);
	e->itl_slope_us = (double)slope_us;
}

static void check_models(struct reader *r, struct scenario *s)
{
	double sum = 0;
	r->in_list = true;
	r->section = "models";
	if (s->model_count == 0)
		REFUSE(r, "models", "at least one is wanted: \"models: [{name: chat}]\"");
	for (r->item = 0; r->item < s->model_count; r->item++) {
		number(r, "share", &s->models[r->item].share, 1e-6, 1e6, 1);
		number(r, "nodes_share", &s->models[r->item].nodes_share, 1e-6, 1, 1);
		sum += s->models[r->item].share;
		for (unsigned i = 0; i < r->item; i++)
			if (strcmp(s->models[i].name, s->models[r->item].name) == 0)
				REFUSE(r, "name", "\"%.64s\" is here a second time", s->models[i].name);
	}
	for (unsigned i = 0; i < s->model_count; i++)
		s->models[i].share /= sum > 0 ? sum : 1;
}

static int model_named(const struct scenario *s, const char *name)
{
	for (unsigned i = 0; i < s->model_count; i++)
		if (strcmp(s->models[i].name, name) == 0)
			return (int)i;
	return -1;
}

static void check_events(struct reader *r, struct scenario *s)
{
	r->section = "flash";
	for (r->item = 0; r->item < s->flash_count; r->item++) {
		struct scenario_flash *f = &s->flash[r->item];
		duration(r, "at", f->at, 0, s->duration_us, 0, &f->at_us);
		duration(r, "lasts", f->lasts, SECOND, s->duration_us, 600 * SECOND, &f->lasts_us);
		number(r, "times", &f->times, 1, 1000, 2);
		number(r, "region", &f->region, 0, s->network.regions, 0);
		f->model_at = f->model ? model_named(s, f->model) : -1;
		if (f->model && f->model_at < 0)
			REFUSE(r, "model", "\"%.64s\" is not among the models", f->model);
	}
	r->section = "failures";
	for (r->item = 0; r->item < s->failure_count; r->item++) {
		struct scenario_failure *f = &s->failures[r->item];
		duration(r, "at", f->at, 0, s->duration_us, 0, &f->at_us);
		duration(r, "lasts", f->lasts, SECOND, s->duration_us, s->duration_us, &f->lasts_us);
		number(r, "site", &f->site, 1, s->sites.count, 1);
	}
	r->in_list = false;
}

static void check_policies(struct reader *r, struct scenario *s)
{
	r->section = NULL;
	if (s->policy_count == 0) {
		s->policies[s->policy_count++] = SIM_MDN;
		s->policy_names = mem_new(sizeof(char *));
		s->policy_names[0] = str_dup(STR("mdn"));
	}
	for (unsigned i = 0; i < s->policy_count; i++) {
		unsigned p = 0;
		while (p < SIM_POLICIES && strcmp(sim_policy_names[p], s->policy_names[i]) != 0)
			p++;
		if (p == SIM_POLICIES)
			REFUSE(
			    r, "policies",
			    "\"%.40s\" is not known; mdn, single_pool, round_robin, random, power_of_two, least_load",
			    s->policy_names[i]);
		else
			s->policies[i] = (enum sim_policy)p;
	}
}

int scenario_parse(const char *path, struct str text, struct scenario **ret_scenario, struct error *err)
{
	struct complaint complaint = {{0}, 0};
	cyaml_config_t config;
	struct scenario *s = NULL;
	settle(&config, &complaint);
	cyaml_err_t why =
	    cyaml_load_data((const uint8_t *)text.base, text.len, &config, &scenario_schema, (cyaml_data_t **)&s, NULL);
	if (why != CYAML_OK || !s)
		return error_set(err, E_INVAL, "%s:%u: %s", path, complaint.line ? complaint.line : 1,
		                 complaint.what[0] ? complaint.what : cyaml_strerror(why));
	struct reader r = {.path = path, .text = text, .err = err};
	check_top(&r, s);
	check_users(&r, s);
	check_network(&r, s);
	check_engine(&r, s);
	check_models(&r, s);
	check_events(&r, s);
	check_policies(&r, s);
	if (r.rc != 0) {
		scenario_free(s);
		return r.rc;
	}
	*ret_scenario = s;
	return 0;
}

int scenario_read(const char *path, struct scenario **ret_scenario, struct error *err)
{
	struct buf text = {0};
	int rc = file_read(path, FILE_MAX, &text, err);
	if (rc == 0)
		rc = scenario_parse(path, buf_str(&text), ret_scenario, err);
	buf_fini(&text);
	return rc;
}

void scenario_free(struct scenario *s)
{
	struct complaint ignored = {{0}, 0};
	cyaml_config_t config;
	settle(&config, &ignored);
	cyaml_free(&config, &scenario_schema, s, 0);
}
