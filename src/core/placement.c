/* SPDX-License-Identifier: Apache-2.0 */
/* How: a selector is parsed into sorted terms without repeats, so that matching is a walk and formatting is canonical.
 * Replicas: each node draws a number from its name and the model's, heavier nodes better ones (weighted rendezvous
 * hashing: Schindelhauer & Schomaker 2005, -w/ln(h)); the best are chosen.
 */
#include "core/placement.h"

#include "core/hash.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#define WORDS "role=edge, site=NAME, node=NAME-or-ID, label=KEY:VALUE, accelerator=KIND, memory>=16G or all"

static const struct {
	struct str name;
	bool colon; /* its texts have a ':' inside */
} kinds[] = {
    [TERM_ROLE] = {{"role", 4}, false},
    [TERM_SITE] = {{"site", 4}, false},
    [TERM_NODE] = {{"node", 4}, false},
    [TERM_LABEL] = {{"label", 5}, true},
    [TERM_ACCELERATOR] = {{"accelerator", 11}, false},
    [TERM_MEMORY] = {{"memory>", 7}, false},
};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static bool text_is_name(struct str s)
{
	if (s.len == 0 || s.len >= NODE_TEXT_SIZE)
		return false;
	for (size_t i = 0; i < s.len; i++) {
		unsigned char c = (unsigned char)s.base[i];
		if (c <= ' ' || c == ',' || c == '=' || c == '!' || c == '"' || c == '\\' || c >= 0x7f)
			return false;
	}
	return true;
}

static int term_value(struct selector_term *t, struct str value, struct error *err)
{
	struct str name = kinds[t->kind].name;
	if (t->kind == TERM_ROLE) {
		int rc = node_roles_parse(value, &t->role, err);
		/* one each: several would be one term with several meanings under "!" */
		if (rc == 0 && (t->role == 0 || (t->role & (t->role - 1))))
			rc = error_set(err, E_INVAL,
			               "the selector's role= wants a role: repository, center, edge or scheduler");
		return rc;
	}
	if (t->kind == TERM_MEMORY) {
		if (str_to_bytes(value, &t->bytes) < 0 || t->bytes == 0)
			return error_set(err, E_INVAL, "the selector's memory>= wants bytes, as 16G");
		return 0;
	}
	if (!text_is_name(value))
		return error_set(err, E_INVAL,
		                 "the selector's " STR_FMT "= wants a name of 1 to %d letters, digits, '.', '-' or '_'",
		                 STR_ARG(name), NODE_TEXT_SIZE - 1);
	if (kinds[t->kind].colon && !memchr(value.base, ':', value.len))
		return error_set(err, E_INVAL, "the selector's label= wants KEY:VALUE, as label=rack:7");
	str_copy(value, t->text, sizeof(t->text));
	return 0;
}

static int parse_term(struct selector *s, struct str term, struct error *err)
{
	struct selector_term t = {0};
	struct str whole = term;
	t.negated = term.len > 0 && term.base[0] == '!';
	if (t.negated)
		term = str_trim((struct str){term.base + 1, term.len - 1});
	struct str value = {0}, kind = str_cut(term, '=', &value);
	bool has_value = kind.len < term.len;
	kind = str_trim(kind);
	value = str_trim(value);
	if (!has_value && !t.negated && str_equal(kind, STR("all")))
		return 0;
	for (size_t i = 0; has_value && i < COUNT(kinds); i++) {
		if (!str_equal(kind, kinds[i].name))
			continue;
		t.kind = (enum selector_kind)i;
		int rc = term_value(&t, value, err);
		if (rc < 0)
			return rc;
		s->terms = mem_resize(s->terms, s->count + 1, sizeof(*s->terms));
		s->terms[s->count++] = t;
		return 0;
	}
	return error_set(err, E_INVAL, "\"" STR_FMT "\" is no selector term: write " WORDS ", with commas between",
	                 STR_ARG(((struct str){whole.base, whole.len < 64 ? whole.len : 64})));
}

static int compare_terms(const void *a, const void *b)
{
	const struct selector_term *x = a, *y = b;
	if (x->negated != y->negated)
		return x->negated - y->negated;
	if (x->kind != y->kind)
		return (int)x->kind - (int)y->kind;
	if (x->role != y->role)
		return x->role < y->role ? -1 : 1;
	if (x->bytes != y->bytes)
		return x->bytes < y->bytes ? -1 : 1;
	return strcmp(x->text, y->text);
}

static void sort_unique(struct selector *s)
{
	size_t kept = 1;
	if (s->count < 2)
		return;
	qsort(s->terms, s->count, sizeof(*s->terms), compare_terms);
	for (size_t i = 1; i < s->count; i++)
		if (compare_terms(&s->terms[i], &s->terms[kept - 1]) != 0)
			s->terms[kept++] = s->terms[i];
	s->count = kept;
}

int selector_parse(struct str text, struct selector *ret_selector, struct error *err)
{
	struct selector s = {0};
	size_t terms = 0;
	int rc = str_trim(text).len == 0 ? error_set(err, E_INVAL, "the selector is empty: write " WORDS) : 0;
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
	sort_unique(&s);
	*ret_selector = s;
	return 0;
}

void selector_fini(struct selector *s)
{
	if (!s)
		return;
	free(s->terms);
	*s = (struct selector){0};
}

void selector_format(const struct selector *s, struct buf *out)
{
	size_t start = out->len;
	for (size_t i = 0; i < s->count; i++) {
		const struct selector_term *t = &s->terms[i];
		struct str name = kinds[t->kind].name;
		buf_printf(out, "%s%s" STR_FMT "=", out->len > start ? "," : "", t->negated ? "!" : "", STR_ARG(name));
		if (t->kind == TERM_ROLE)
			node_roles_format(t->role, out);
		else if (t->kind == TERM_MEMORY && t->bytes % (1u << 30) == 0)
			buf_printf(out, "%" PRIu64 "G", t->bytes >> 30);
		else if (t->kind == TERM_MEMORY)
			buf_printf(out, "%" PRIu64, t->bytes);
		else
			buf_append_str(out, str_from(t->text));
	}
	if (out->len == start)
		buf_append_str(out, STR("all"));
}

/* ---- matching --------------------------------------------------------------------------------------- */

static bool term_holds(const struct selector_term *t, const struct placement_node *node)
{
	struct str text = str_from(t->text);
	switch (t->kind) {
	case TERM_ROLE:
		return t->role & node->roles;
	case TERM_SITE:
		return str_equal(text, node->site);
	case TERM_NODE:
		return str_equal(text, node->name) || str_equal(text, node->id);
	case TERM_ACCELERATOR:
		return str_equal(text, node->accelerator);
	case TERM_MEMORY:
		return node->memory_bytes >= t->bytes;
	case TERM_LABEL:
		for (size_t i = 0; i < node->label_count; i++)
			if (str_equal(text, str_from(node->labels[i])))
				return true;
		return false;
	}
	return false;
}

bool selector_match(const struct selector *s, const struct placement_node *node)
{
	bool holds = true;
	for (size_t i = 0; i < s->count && holds;) {
		const struct selector_term *t = &s->terms[i];
		bool any = false;
		if (t->negated) {
			holds = !term_holds(t, node);
			i++;
			continue;
		}
		for (; i < s->count && s->terms[i].kind == t->kind && !s->terms[i].negated; i++)
			any = any || term_holds(&s->terms[i], node);
		holds = any;
	}
	return holds;
}

static bool names_center(const struct selector *s, const struct placement_node *node)
{
	for (size_t i = 0; i < s->count; i++) {
		const struct selector_term *t = &s->terms[i];
		if (!t->negated &&
		    ((t->kind == TERM_ROLE && t->role == ROLE_CENTER) || (t->kind == TERM_NODE && term_holds(t, node))))
			return true;
	}
	return false;
}

bool placement_rule_holds(const struct placement_rule *rule, const struct placement_node *node)
{
	if (!selector_match(&rule->on, node))
		return false;
	return (node->roles & ROLE_EDGE) || ((node->roles & ROLE_CENTER) && names_center(&rule->on, node));
}

/* ---- replicas ------------------------------------------------------------------------------------------ */

struct draw {
	size_t node;
	bool away, tight;
	double number;
	struct str site, id;
};

/* Best first: who is there, has room, and drew well. */
static int by_draw(const void *a, const void *b)
{
	const struct draw *x = a, *y = b;
	if (x->away != y->away)
		return x->away - y->away;
	if (x->tight != y->tight)
		return x->tight - y->tight;
	if (x->number > y->number || x->number < y->number)
		return x->number > y->number ? -1 : 1;
	size_t len = x->id.len < y->id.len ? x->id.len : y->id.len;
	int order = memcmp(x->id.base, y->id.base, len);
	return order ? order : (x->id.len > y->id.len) - (x->id.len < y->id.len);
}

static double draw_number(uint64_t model, const struct placement_node *n)
{
	uint64_t h = hash_join(model, hash_str(n->id));
	h = (h ^ h >> 31) * UINT64_C(0x9e3779b97f4a7c15);
	double unit = ((double)(h >> 11) + 0.5) / 9007199254740992.0;
	/* in steps of 2, so that what a report rounds differently moves nothing */
	double weight = n->memory_bytes ? exp2(floor(log2((double)n->memory_bytes) + 0.5) - 30) : 1;
	return -weight / log(unit);
}

static bool site_is_full(const struct draw *draws, size_t before, const bool *chosen, uint32_t replicas)
{
	uint32_t there = 0;
	for (size_t i = 0; i < before; i++)
		there += chosen[draws[i].node] && str_equal(draws[i].site, draws[before].site);
	return there >= replicas;
}

void placement_choose(const struct placement_rule *rule, uint32_t replicas, uint64_t size_bytes,
                      const struct placement_node *nodes, size_t count, bool *ret_chosen)
{
	struct draw *draws = mem_new((count + 1) * sizeof(*draws));
	uint64_t model = hash_str(str_from(rule->model));
	size_t holds = 0, taken = 0;
	for (size_t i = 0; i < count; i++) {
		ret_chosen[i] = placement_rule_holds(rule, &nodes[i]);
		if (!ret_chosen[i] || replicas == 0)
			continue;
		ret_chosen[i] = false;
		draws[holds++] = (struct draw){
		    .node = i,
		    .away = nodes[i].away,
		    .tight = nodes[i].memory_bytes && nodes[i].memory_bytes < size_bytes,
		    .number = draw_number(model, &nodes[i]),
		    .site = nodes[i].site,
		    .id = nodes[i].id,
		};
	}
	if (holds > 1)
		qsort(draws, holds, sizeof(*draws), by_draw);
	for (size_t i = 0; i < holds && (rule->per_site || taken < replicas); i++) {
		if (rule->per_site && site_is_full(draws, i, ret_chosen, replicas))
			continue;
		ret_chosen[draws[i].node] = true;
		taken++;
	}
	free(draws);
}

/* ---- demand ------------------------------------------------------------------------------------------------ */

#define BUSY_HIGH 0.7 /* of slots: more nodes */
#define BUSY_LOW 0.4  /* of the slots that would be left: fewer */

bool demand_step(struct demand *d, uint32_t least, uint32_t most, double busy, uint32_t slots, int64_t now_us)
{
	uint32_t before = d->replicas, wanted;
	double share = 1;
	if (d->measured_us && now_us > d->measured_us)
		share = 1 - exp(-(double)(now_us - d->measured_us) / (double)DEMAND_WINDOW_US);
	else if (d->measured_us)
		share = 0;
	d->busy += (busy - d->busy) * share;
	d->measured_us = now_us;
	if (d->replicas < least)
		d->replicas = least;
	if (d->replicas > most)
		d->replicas = most;
	if (slots == 0)
		return d->replicas != before;
	double needs = ceil(d->busy / (slots * BUSY_HIGH));
	wanted = needs >= most ? most : (uint32_t)needs;
	if (wanted > d->replicas) {
		d->replicas = wanted;
		d->quiet_us = 0;
	} else if (d->replicas > least && d->busy < (d->replicas - 1) * slots * BUSY_LOW) {
		if (!d->quiet_us)
			d->quiet_us = now_us;
		if (now_us - d->quiet_us >= DEMAND_QUIET_US) {
			d->replicas--;
			d->quiet_us = 0;
		}
	} else {
		d->quiet_us = 0;
	}
	return d->replicas != before;
}
