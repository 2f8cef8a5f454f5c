/* SPDX-License-Identifier: Apache-2.0 */
/* What should be where: rules over versions, kept; and what follows from them for one node.
 *
 * A placing that names a version the feed has not brought yet (pushed a moment ago) waits for it, up to PLACE_WAIT_US,
 * then is refused: a typing mistake must not become a rule. Which nodes a rule with replicas means is worked out once
 * per change (places_refresh) and asked often.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>

#define PLACE_WAIT_US (3 * US_PER_S)
#define PENDING_MAX 64

/* ---- rules as text -------------------------------------------------------------------------------------- */

static void rule_fini(struct rule *rule)
{
	selector_fini(&rule->where.on);
	selector_fini(&rule->canary);
	free(rule->chosen);
	*rule = (struct rule){0};
}

/* The state's key of a rule: short whatever the selector's length. */
static void rule_key(const struct rule *rule, char ret_hex[static 65])
{
	struct buf text = {0};
	buf_printf(&text, "%s ", rule->where.model);
	selector_format(&rule->where.on, &text);
	struct digest d = digest_of(text.base, text.len);
	hex_encode(d.bytes, sizeof(d.bytes), ret_hex);
	buf_fini(&text);
}

static void rule_format(const struct rule *rule, struct buf *out)
{
	struct buf on = {0};
	selector_format(&rule->where.on, &on);
	buf_printf(out, "{\"model\":\"%s\",\"on\":", rule->where.model);
	buf_append_json(out, buf_str(&on));
	buf_fini(&on);
	if (rule->where.replicas_max)
		buf_printf(out, ",\"replicas\":%" PRIu32 ",\"replicas_max\":%" PRIu32 ",\"per_site\":%s",
		           rule->where.replicas_min, rule->where.replicas_max, rule->where.per_site ? "true" : "false");
	if (rule->demand.replicas)
		buf_printf(out, ",\"replicas_now\":%" PRIu32, rule->demand.replicas);
	if (rule->where.preheat)
		buf_append_str(out, STR(",\"preheat\":true"));
	if (rule->by_wall_us)
		buf_printf(out, ",\"by_us\":%" PRId64, rule->by_wall_us);
	if (rule->has_policy) {
		buf_append_str(out, STR(",\"rollout\":"));
		rollout_policy_write(&rule->policy, &rule->canary, out);
	}
	buf_append_str(out, STR("}"));
}

static int read_replicas(yyjson_val *o, struct rule *rule, struct error *err)
{
	int64_t least = 0, most = 0, now = 0;
	int rc;
	if ((rc = json_i64(o, "replicas", 1, LIMIT_NODES, &least, err)) < 0)
		return rc;
	most = least;
	if ((rc = json_i64(o, "replicas_max", 1, LIMIT_NODES, &most, err)) < 0 ||
	    (rc = json_i64(o, "replicas_now", 0, LIMIT_NODES, &now, err)) < 0 ||
	    (rc = json_bool(o, "per_site", &rule->where.per_site, err)) < 0)
		return rc;
	if (most < least || (least == 0 && most > 0))
		return error_set(err, E_INVAL, "\"replicas_max\" must be at least \"replicas\", and both be given");
	if (rule->where.per_site && least == 0)
		return error_set(err, E_INVAL, "per site means so many replicas of each site: say how many");
	if (rule->where.per_site && most != least)
		return error_set(err, E_INVAL, "replicas per site do not follow demand: give one number");
	rule->where.replicas_min = (uint32_t)least;
	rule->where.replicas_max = (uint32_t)most;
	rule->demand.replicas = (uint32_t)now;
	return 0;
}

static int rule_parse(yyjson_val *o, struct rule *rule, struct error *err)
{
	struct str model = {0}, on = {0};
	yyjson_val *policy = NULL;
	int rc;
	if ((rc = json_str(o, "model", &model, err)) < 0 || (rc = json_str(o, "on", &on, err)) < 0)
		return rc;
	if (model.len == 0)
		return error_set(err, E_INVAL, "\"model\" is missing: which NAME:TAG is to be placed?");
	if ((rc = places_name_tag(model, rule->where.model, err)) < 0 ||
	    (rc = selector_parse(on, &rule->where.on, err)) < 0 || (rc = read_replicas(o, rule, err)) < 0 ||
	    (rc = json_bool(o, "preheat", &rule->where.preheat, err)) < 0 ||
	    (rc = json_i64(o, "by_us", 0, INT64_MAX, &rule->by_wall_us, err)) < 0 ||
	    (rc = json_obj(o, "rollout", &policy, err)) < 0)
		return rc;
	rule->loads = yyjson_obj_get(o, "preheat") && !rule->where.preheat;
	rule->has_policy = policy != NULL;
	return policy ? rollout_policy_read(policy, &rule->policy, &rule->canary, err) : 0;
}

static int rule_store(struct center *c, const struct rule *rule, struct error *err)
{
	char key[65];
	struct buf text = {0};
	rule_key(rule, key);
	rule_format(rule, &text);
	int rc = state_put(c->state, "rule", str_from(key), buf_str(&text), err);
	buf_fini(&text);
	return rc;
}

/* The first rule of the model, or where it would stand. */
static size_t rules_of(const struct center *c, const char *model)
{
	size_t low = 0, high = c->rule_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(c->rules[middle].where.model, model) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool is_rule_of(const struct center *c, size_t at, const char *model)
{
	return at < c->rule_count && strcmp(c->rules[at].where.model, model) == 0;
}

/* Takes over *rule; behind those of its model. Its place. */
static size_t rule_insert(struct center *c, struct rule *rule)
{
	size_t at = rules_of(c, rule->where.model);
	while (is_rule_of(c, at, rule->where.model))
		at++;
	c->rules = mem_resize(c->rules, c->rule_count + 1, sizeof(*c->rules));
	memmove(c->rules + at + 1, c->rules + at, (c->rule_count++ - at) * sizeof(*c->rules));
	c->rules[at] = *rule;
	*rule = (struct rule){0};
	return at;
}

static int load_rule(struct center *c, yyjson_val *o, struct str key, struct error *err)
{
	struct rule rule = {0};
	int rc = rule_parse(o, &rule, err);
	if (rc < 0) {
		rule_fini(&rule);
		return rc;
	}
	rule_insert(c, &rule);
	return 0;
}

static int load_pause(struct center *c, yyjson_val *o, struct str key, struct error *err)
{
	c->paused = mem_resize(c->paused, c->paused_count + 1, sizeof(*c->paused));
	str_copy(key, c->paused[c->paused_count++], NAME_TAG_SIZE);
	return 0;
}

int places_load(struct center *c, struct error *err)
{
	int rc = center_load(c, "rule", "rule", load_rule, err);
	c->places_stale = true;
	return rc < 0 ? rc : center_load(c, "pause", "paused model", load_pause, err);
}

void places_free(struct center *c)
{
	for (size_t i = 0; i < c->rule_count; i++)
		rule_fini(&c->rules[i]);
	free(c->rules);
	free(c->paused);
	c->rules = NULL;
	c->paused = NULL;
	c->rule_count = c->paused_count = 0;
}

/* ---- which nodes a rule means ---------------------------------------------------------------------------- */

static uint32_t replicas_now(const struct rule *rule)
{
	const struct placement_rule *w = &rule->where;
	if (w->replicas_min == w->replicas_max || rule->demand.replicas < w->replicas_min)
		return w->replicas_min;
	return rule->demand.replicas > w->replicas_max ? w->replicas_max : rule->demand.replicas;
}

void places_refresh(struct center *c)
{
	if (!c->places_stale)
		return;
	c->places_stale = false;
	struct placement_node *views = mem_new((c->node_count + 1) * sizeof(*views));
	for (size_t i = 0; i < c->node_count; i++) {
		views[i] = registry_view(c->nodes[i]);
		if (c->nodes[i]->removed)
			views[i].roles = 0;
	}
	for (size_t i = 0; i < c->rule_count; i++) {
		struct rule *rule = &c->rules[i];
		const struct known_version *k = version_find(c, str_from(rule->where.model));
		free(rule->chosen);
		rule->chosen = NULL;
		if (rule->where.replicas_min == 0)
			continue;
		rule->chosen = mem_new(c->node_count + 1);
		placement_choose(&rule->where, replicas_now(rule), k ? version_size(&k->version) : 0, views,
		                 c->node_count, rule->chosen);
	}
	free(views);
	rollouts_rank(c);
	limits_refresh(c);
}

static bool rule_means(struct center *c, const struct rule *rule, size_t node)
{
	const struct registered *r = c->nodes[node];
	if (r->removed)
		return false;
	if (rule->where.replicas_min > 0)
		return rule->chosen && rule->chosen[node];
	struct placement_node view = registry_view(r);
	return placement_rule_holds(&rule->where, &view);
}

static size_t node_index(const struct center *c, const struct registered *r)
{
	size_t low = 0, high = c->node_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(c->nodes[middle]->id, r->id) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool places_holds(struct center *c, const struct registered *r, const char *name_tag, bool *ret_load)
{
	bool holds = false, load = false;
	size_t at = node_index(c, r);
	places_refresh(c);
	for (size_t i = rules_of(c, name_tag); is_rule_of(c, i, name_tag); i++) {
		if (!rule_means(c, &c->rules[i], at))
			continue;
		holds = true;
		load = load || !c->rules[i].where.preheat;
	}
	if (ret_load)
		*ret_load = load;
	return holds;
}

const struct rule *places_rule(const struct center *c, const char *name_tag, bool with_policy)
{
	for (size_t i = rules_of(c, name_tag); is_rule_of(c, i, name_tag); i++)
		if (c->rules[i].has_policy || !with_policy)
			return &c->rules[i];
	return NULL;
}

/* ---- demand and absence -------------------------------------------------------------------------------------- */

static void measure_demand(struct center *c, struct rule *rule)
{
	double busy = 0;
	uint32_t slots = 0, before = rule->demand.replicas;
	struct error err = {0};
	places_refresh(c);
	for (size_t n = 0; n < c->node_count; n++) {
		const struct node_entry *e =
		    rule_means(c, rule, n) ? node_map_find(c->map, str_from(c->nodes[n]->id)) : NULL;
		const struct model_report *m = e ? node_model(e, str_from(rule->where.model)) : NULL;
		if (!m || m->state != MODEL_READY)
			continue;
		busy += m->running + m->waiting;
		if (m->slots > 0)
			slots = (uint32_t)m->slots;
	}
	if (!demand_step(&rule->demand, rule->where.replicas_min, rule->where.replicas_max, busy, slots,
	                 loop_now_us(c->loop)))
		return;
	log_info(ROOM, "%s: %.1f requests at once, %" PRIu32 " instead of %" PRIu32 " replicas", rule->where.model,
	         rule->demand.busy, rule->demand.replicas, before);
	if (rule_store(c, rule, &err) < 0)
		log_warn(ROOM, "how many replicas %s has is not kept: %s", rule->where.model, err.text);
	center_touch(c);
}

void places_tick(struct center *c)
{
	bool changed = false;
	for (size_t i = 0; i < c->node_count; i++) {
		struct registered *r = c->nodes[i];
		bool away = registry_is_away(c, r);
		changed = changed || away != r->away;
		r->away = away;
	}
	if (changed)
		center_touch(c);
	for (size_t i = 0; i < c->rule_count; i++)
		if (c->rules[i].where.replicas_min != c->rules[i].where.replicas_max)
			measure_demand(c, &c->rules[i]);
}

/* ---- paused ------------------------------------------------------------------------------------------------- */

static int no_rule(const struct center *c, const char *model, struct error *err)
{
	struct buf there = {0};
	for (size_t i = 0; i < c->rule_count && there.len < 200; i++) {
		if (strcmp(c->rules[i].where.model, model) != 0)
			continue;
		buf_append_str(&there, there.len ? STR(" and ") : STR("; it is placed on "));
		selector_format(&c->rules[i].where.on, &there);
	}
	int rc = there.len ? error_set(err, E_NOTFOUND, "no rule places %s there%.300s", model, there.base)
	                   : error_set(err, E_NOTFOUND, "no rule places %s: see `mdn place`", model);
	buf_fini(&there);
	return rc;
}

static size_t paused_at(const struct center *c, const char *name_tag)
{
	size_t i = 0;
	while (i < c->paused_count && strcmp(c->paused[i], name_tag) != 0)
		i++;
	return i;
}

bool places_paused(const struct center *c, const char *name_tag)
{
	return paused_at(c, name_tag) < c->paused_count;
}

static int set_paused(struct center *c, const char *name_tag, bool on, struct error *err)
{
	size_t at = paused_at(c, name_tag);
	int rc = 0;
	if (on == (at < c->paused_count))
		return 0;
	if (on && !places_rule(c, name_tag, false))
		return no_rule(c, name_tag, err);
	if (on)
		rc = state_put(c->state, "pause", str_from(name_tag), STR("{}"), err);
	else
		rc = state_delete(c->state, "pause", str_from(name_tag), err);
	if (rc < 0)
		return rc;
	if (on) {
		c->paused = mem_resize(c->paused, c->paused_count + 1, sizeof(*c->paused));
		str_copy(str_from(name_tag), c->paused[c->paused_count++], NAME_TAG_SIZE);
	} else {
		memcpy(c->paused[at], c->paused[--c->paused_count], NAME_TAG_SIZE);
	}
	log_info(ROOM, "distribution of %s is %s by an operator", name_tag, on ? "paused" : "resumed");
	center_touch(c);
	return 0;
}

/* ---- POST place ----------------------------------------------------------------------------------------- */

static size_t rule_find(const struct center *c, const char *key)
{
	char there[65];
	for (size_t i = 0; i < c->rule_count; i++) {
		rule_key(&c->rules[i], there);
		if (strcmp(there, key) == 0)
			return i;
	}
	return c->rule_count;
}

static void answer_nodes(struct center *c, struct http_exchange *x, const struct rule *rule)
{
	struct buf out = {0};
	buf_append_str(&out, STR("{\"nodes\":["));
	bool first = true;
	places_refresh(c);
	for (size_t i = 0; i < c->node_count; i++) {
		if (!rule_means(c, rule, i))
			continue;
		buf_printf(&out, "%s\"%s\"", first ? "" : ",", c->nodes[i]->id);
		first = false;
	}
	buf_append_str(&out, STR("]}"));
	center_answer(x, &out);
}

/* The same place named again: only what else is said of it may be new. What demand has found out stays. */
static void rule_renew(struct rule *kept, struct rule *fresh)
{
	fresh->demand = kept->demand;
	struct rule before = *kept;
	*kept = *fresh;
	*fresh = before;
}

/* Nothing but a place: a push that names it again must not undo what was said of it. */
static bool says_nothing_more(const struct rule *rule)
{
	return !rule->where.replicas_max && !rule->where.preheat && !rule->by_wall_us && !rule->has_policy;
}

/* What was only to be on disk is to be loaded; the rest of what was said stays. */
static int rule_load(struct center *c, struct rule *kept, struct error *err)
{
	if (!kept->where.preheat)
		return 0;
	kept->where.preheat = false;
	int rc = rule_store(c, kept, err);
	kept->where.preheat = rc < 0;
	center_touch(c);
	return rc;
}

/* Takes over *rule in every case. */
static int rule_add(struct center *c, struct http_exchange *x, struct rule *rule, struct error *err)
{
	char key[65];
	rule_key(rule, key);
	size_t at = rule_find(c, key);
	const struct known_version *k = version_find(c, str_from(rule->where.model));
	bool first = !places_rule(c, rule->where.model, false);
	int rc = 0;
	if (at < c->rule_count && says_nothing_more(rule)) {
		if (!rule->loads || (rc = rule_load(c, &c->rules[at], err)) == 0)
			answer_nodes(c, x, &c->rules[at]);
		rule_fini(rule);
		return rc;
	}
	if (at == c->rule_count && c->rule_count >= LIMIT_PLACEMENT_RULES)
		rc = error_set(err, E_BUSY, "there are %d placement rules, the most there can be: remove some",
		               LIMIT_PLACEMENT_RULES);
	/* Before the rule: one without its gates must never be found by a center that was killed in between. */
	if (rc == 0 && first && k)
		rollouts_begin_first(c, rule, &k->version);
	if (rc == 0 && (rc = rule_store(c, rule, err)) < 0 && first)
		rollouts_forget(c, rule->where.model);
	if (rc < 0) {
		rule_fini(rule);
		return rc;
	}
	if (at < c->rule_count) {
		rule_renew(&c->rules[at], rule);
		rule_fini(rule);
	} else {
		at = rule_insert(c, rule);
	}
	center_touch(c);
	answer_nodes(c, x, &c->rules[at]);
	return 0;
}

static int rule_drop(struct center *c, size_t at, struct error *err)
{
	char key[65], model[NAME_TAG_SIZE];
	rule_key(&c->rules[at], key);
	int rc = state_delete(c->state, "rule", str_from(key), err);
	if (rc < 0)
		return rc;
	memcpy(model, c->rules[at].where.model, sizeof(model));
	rule_fini(&c->rules[at]);
	memmove(c->rules + at, c->rules + at + 1, (--c->rule_count - at) * sizeof(*c->rules));
	if (!places_rule(c, model, false)) { /* nothing is left to roll out, or to pause */
		rollouts_forget(c, model);
		rc = set_paused(c, model, false, err);
	}
	center_touch(c);
	return rc;
}

static int rule_remove(struct center *c, struct http_exchange *x, const struct rule *rule, struct error *err)
{
	char key[65];
	rule_key(rule, key);
	size_t at = rule_find(c, key);
	if (at == c->rule_count)
		return no_rule(c, rule->where.model, err);
	struct buf out = {0};
	size_t count = 0;
	places_refresh(c);
	buf_append_str(&out, STR("{\"nodes\":["));
	for (size_t i = 0; i < c->node_count; i++)
		if (rule_means(c, &c->rules[at], i))
			buf_printf(&out, "%s\"%s\"", count++ ? "," : "", c->nodes[i]->id);
	buf_append_str(&out, STR("]}"));
	int rc = rule_drop(c, at, err);
	if (rc == 0)
		center_answer(x, &out);
	buf_fini(&out);
	return rc;
}

int places_remove_all(struct center *c, const char *name_tag, size_t *ret_count, struct error *err)
{
	size_t count = 0;
	for (size_t i = c->rule_count; i-- > 0;) {
		if (strcmp(c->rules[i].where.model, name_tag) != 0)
			continue;
		int rc = rule_drop(c, i, err);
		if (rc < 0)
			return rc;
		count++;
	}
	*ret_count = count;
	return 0;
}

struct pending_place {
	struct center *c;
	struct http_exchange *x;
	struct rule rule;
	struct loop_timer *timer;
	struct pending_place *next;
};

static void pending_free(void *arg)
{
	struct pending_place *p = arg, **at = &p->c->pending;
	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	p->c->pending_count--;
	loop_timer_free(p->timer);
	rule_fini(&p->rule);
	free(p);
}

static void on_pending_timeout(void *arg)
{
	struct pending_place *p = arg;
	struct error err = {0};
	version_unknown(p->c, p->rule.where.model, &err);
	p->rule.where.model[0] = '\0';  /* answered */
	http_respond_error(p->x, &err); /* on_gone frees */
}

void places_retry(struct center *c)
{
	for (struct pending_place *p = c->pending, *next; p; p = next) {
		struct error err = {0};
		next = p->next;
		if (p->rule.where.model[0] == '\0' || !version_find(c, str_from(p->rule.where.model)))
			continue;
		struct rule rule = p->rule;
		p->rule = (struct rule){0}; /* answered: nothing to do but wait for on_gone */
		loop_timer_stop(p->timer);
		if (rule_add(c, p->x, &rule, &err) < 0)
			http_respond_error(p->x, &err);
	}
}

void places_refuse(struct center *c, const struct error *why)
{
	for (struct pending_place *p = c->pending, *next; p; p = next) {
		next = p->next;
		if (p->rule.where.model[0] == '\0')
			continue;
		p->rule.where.model[0] = '\0'; /* answered */
		loop_timer_stop(p->timer);
		http_respond_error(p->x, why);
	}
}

static int pending_add(struct center *c, struct http_exchange *x, struct rule *rule, struct error *err)
{
	if (c->pending_count >= PENDING_MAX) {
		int rc = version_unknown(c, rule->where.model, err);
		rule_fini(rule);
		return rc;
	}
	struct pending_place *p = NEW(struct pending_place);
	*p = (struct pending_place){c, x, *rule, NULL, c->pending};
	p->timer = loop_timer_new(c->loop, on_pending_timeout, p);
	c->pending = p;
	c->pending_count++;
	loop_timer_start(p->timer, PLACE_WAIT_US, 0);
	http_watch(x, NULL, pending_free, p);
	return 0;
}

int places_place(struct center *c, struct http_exchange *x, yyjson_val *body, struct error *err)
{
	struct rule rule = {0};
	bool removing = false;
	int rc = json_bool(body, "remove", &removing, err);
	if (rc == 0)
		rc = rule_parse(body, &rule, err);
	if (rc == 0)
		rule.demand.replicas = 0;
	if (rc < 0 || removing) {
		if (rc == 0)
			rc = rule_remove(c, x, &rule, err);
		rule_fini(&rule);
		return rc;
	}
	const struct known_version *known = version_find(c, str_from(rule.where.model));
	if (known && known->version.retired) {
		rc = error_set(err, E_CONFLICT,
		               "%s is retired, so it cannot be placed; bring it back with `mdn retire --undo`",
		               rule.where.model);
		rule_fini(&rule);
		return rc;
	}
	return known ? rule_add(c, x, &rule, err) : pending_add(c, x, &rule, err);
}

/* ---- pause, resume, cancel -------------------------------------------------------------------------------- */

/* A roll-out goes back to what ran before; a first distribution, which has no before, is taken back. */
static int cancel(struct center *c, struct http_exchange *x, const char *name_tag, struct error *err)
{
	bool was_one = false;
	size_t removed = 0;
	struct buf out = {0};
	int rc = rollouts_cancel(c, name_tag, &was_one, err);
	if (rc == 0 && !was_one)
		rc = places_remove_all(c, name_tag, &removed, err);
	if (rc == 0 && !was_one && removed == 0)
		rc = no_rule(c, name_tag, err);
	if (rc == 0)
		rc = set_paused(c, name_tag, false, err);
	if (rc < 0)
		return rc;
	buf_printf(&out, "{\"returning\":%s,\"rules_removed\":%zu}", was_one ? "true" : "false", removed);
	center_answer(x, &out);
	return 0;
}

static bool take_suffix(struct str *text, struct str suffix)
{
	if (!str_ends(*text, suffix) || text->len == suffix.len)
		return false;
	text->len -= suffix.len;
	return true;
}

int places_command(struct center *c, struct http_exchange *x, struct str rest, struct error *err)
{
	char name_tag[NAME_TAG_SIZE];
	bool pauses = take_suffix(&rest, STR("/pause")), resumes = !pauses && take_suffix(&rest, STR("/resume"));
	if (!pauses && !resumes && !take_suffix(&rest, STR("/cancel")))
		return error_set(err, E_NOTFOUND,
		                 "there is no such call: POST /mdn/v1/models/NAME:TAG/pause, resume or cancel");
	int rc = places_name_tag(rest, name_tag, err);
	if (rc < 0)
		return rc;
	if (!pauses && !resumes)
		return cancel(c, x, name_tag, err);
	if ((rc = set_paused(c, name_tag, pauses, err)) == 0)
		http_respond(x, 204, NULL, (struct str){0});
	return rc;
}

/* ---- what a node is told ---------------------------------------------------------------------------------- */

static void append_version(struct buf *out, const struct version *v, bool load, bool paused)
{
	if (out->base[out->len - 1] != '[')
		buf_append_str(out, STR(","));
	version_format(v, out);
	if (load && !paused)
		return;
	out->len--; /* its closing brace */
	buf_append_str(out, load ? STR("") : STR(",\"load\":false"));
	buf_append_str(out, paused ? STR(",\"paused\":true}") : STR("}"));
}

static void append_model(struct center *c, const struct registered *r, const char *name_tag, struct buf *out)
{
	const struct known_version *k = version_find(c, str_from(name_tag));
	const struct held_rollout *h = rollouts_find(c, name_tag);
	bool load = false, paused = places_paused(c, name_tag);
	if (!k || !places_holds(c, r, name_tag, &load))
		return;
	enum rollout_want want = h ? rollouts_want(h, r->id) : WANT_NEW;
	if (want != WANT_OLD)
		append_version(out, &k->version, load && want == WANT_NEW, paused);
	/* The old one stays at hand until the roll-out is done, so that the way back is short. */
	if (h && h->has_old && h->r.phase != ROLLOUT_DONE)
		append_version(out, &h->old, load && want != WANT_NEW, paused);
}

void places_assign(struct center *c, struct registered *r, struct buf *out)
{
	const char *last = "";
	size_t count = 0, at = node_index(c, r);
	places_refresh(c);
	buf_append_str(out, STR("\"models\":["));
	for (size_t i = 0; i < c->rule_count && !r->removed && count < LIMIT_NODE_MODELS; i++) {
		const char *model = c->rules[i].where.model;
		if (strcmp(model, last) == 0 || !rule_means(c, &c->rules[i], at))
			continue;
		append_model(c, r, model, out);
		last = model;
		count++;
	}
	buf_append_str(out, STR("]"));
	limits_assign(c, r, out);
}
