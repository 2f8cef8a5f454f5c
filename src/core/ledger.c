/* SPDX-License-Identifier: Apache-2.0 */
/* Tickets of one (node, model) hang in a list in the order of their numbers, with the totals beside it, so that what a
 * report has not seen is found from the newest end without a walk over what it has. A node's counter stays for good:
 * numbers must never repeat, or the node's `seen` would hide new work. */
#include "core/ledger.h"

#include "core/hash.h"
#include "core/ledger_hash.h"

#include <assert.h>
#include <stdlib.h>

struct ledger_node {
	char *id;
	uint64_t hash, next_number;
};

/* Work in flight on one (node, model); lives while it has tickets. */
struct ledger_place {
	struct ledger *ledger;
	uint32_t node, slot;
	char *model;
	uint64_t hash;
	struct ledger_ticket *oldest, *newest;
	struct ledger_load total;
};

struct ledger_ticket {
	struct ledger_place *place;
	struct ledger_ticket *older, *newer;
	uint64_t number;
	int32_t prompt_tokens; /* 0 once the first token came */
};

struct ledger {
	struct ledger_node *nodes;
	uint32_t node_count, node_cap;
	struct hash_index by_node;
	struct ledger_place **places; /* NULL: free slot, listed in `free_slots` */
	uint32_t *free_slots;
	uint32_t place_count, place_cap, free_count;
	struct hash_index by_place;
	size_t tickets;
	uint64_t first_number;
};

struct ledger *ledger_new(uint64_t first)
{
	struct ledger *l = NEW(struct ledger);
	assert(first > 0);
	l->first_number = first;
	return l;
}

static void place_free(struct ledger_place *p)
{
	free(p->model);
	free(p);
}

void ledger_free(struct ledger *l)
{
	if (!l)
		return;
	for (uint32_t i = 0; i < l->place_count; i++) {
		struct ledger_place *p = l->places[i];
		if (!p)
			continue;
		for (struct ledger_ticket *t = p->oldest, *newer; t; t = newer) {
			newer = t->newer;
			free(t);
		}
		place_free(p);
	}
	for (uint32_t i = 0; i < l->node_count; i++)
		free(l->nodes[i].id);
	free(l->nodes);
	free(l->places);
	free(l->free_slots);
	hash_index_fini(&l->by_node);
	hash_index_fini(&l->by_place);
	free(l);
}

static uint32_t node_of(struct ledger *l, struct str id)
{
	uint64_t hash = hash_str(id);
	uint32_t at;
	for (size_t cursor = 0; hash_index_next(&l->by_node, hash, &cursor, &at);) {
		if (str_equal(str_from(l->nodes[at].id), id))
			return at;
	}
	if (l->node_count == l->node_cap) {
		l->node_cap = l->node_cap ? l->node_cap * 2 : 16;
		l->nodes = mem_resize(l->nodes, l->node_cap, sizeof(*l->nodes));
	}
	l->nodes[l->node_count] = (struct ledger_node){.id = str_dup(id), .hash = hash, .next_number = l->first_number};
	hash_index_add(&l->by_node, hash, l->node_count);
	return l->node_count++;
}

static struct ledger_place *place_find(const struct ledger *l, struct str node, struct str model, uint64_t hash)
{
	uint32_t at;
	for (size_t cursor = 0; hash_index_next(&l->by_place, hash, &cursor, &at);) {
		struct ledger_place *p = l->places[at];
		if (str_equal(str_from(l->nodes[p->node].id), node) && str_equal(str_from(p->model), model))
			return p;
	}
	return NULL;
}

static struct ledger_place *place_new(struct ledger *l, uint32_t node, struct str model, uint64_t hash)
{
	uint32_t slot;
	if (l->free_count > 0) {
		slot = l->free_slots[--l->free_count];
	} else {
		if (l->place_count == l->place_cap) {
			l->place_cap = l->place_cap ? l->place_cap * 2 : 16;
			l->places = mem_resize(l->places, l->place_cap, sizeof(struct ledger_place *));
			l->free_slots = mem_resize(l->free_slots, l->place_cap, sizeof(*l->free_slots));
		}
		slot = l->place_count++;
	}
	struct ledger_place *p = NEW(struct ledger_place);
	*p = (struct ledger_place){.ledger = l, .node = node, .slot = slot, .model = str_dup(model), .hash = hash};
	l->places[slot] = p;
	hash_index_add(&l->by_place, hash, slot);
	return p;
}

struct ledger_ticket *ledger_open(struct ledger *l, struct str node, struct str model, int32_t prompt_tokens,
                                  uint64_t *ret_number)
{
	uint32_t at = node_of(l, node);
	uint64_t hash = hash_join(l->nodes[at].hash, hash_str(model));
	struct ledger_place *p = place_find(l, node, model, hash);
	if (!p)
		p = place_new(l, at, model, hash);
	struct ledger_ticket *t = NEW(struct ledger_ticket);
	t->place = p;
	t->number = l->nodes[at].next_number++;
	t->prompt_tokens = prompt_tokens > 0 ? prompt_tokens : 0;
	t->older = p->newest;
	if (p->newest)
		p->newest->newer = t;
	else
		p->oldest = t;
	p->newest = t;
	p->total.running++;
	p->total.tokens_to_prefill += t->prompt_tokens;
	l->tickets++;
	if (ret_number)
		*ret_number = t->number;
	return t;
}

void ledger_first_token(struct ledger_ticket *t)
{
	t->place->total.tokens_to_prefill -= t->prompt_tokens;
	t->prompt_tokens = 0;
}

void ledger_close(struct ledger_ticket *t)
{
	if (!t)
		return;
	struct ledger_place *p = t->place;
	struct ledger *l = p->ledger;
	ledger_first_token(t);
	if (t->older)
		t->older->newer = t->newer;
	else
		p->oldest = t->newer;
	if (t->newer)
		t->newer->older = t->older;
	else
		p->newest = t->older;
	p->total.running--;
	l->tickets--;
	free(t);
	if (p->oldest)
		return;
	hash_index_remove(&l->by_place, p->hash, p->slot);
	l->places[p->slot] = NULL;
	l->free_slots[l->free_count++] = p->slot;
	place_free(p);
}

size_t ledger_count(const struct ledger *l)
{
	return l->tickets;
}

struct ledger_load ledger_unseen_hashed(const struct ledger *l, struct str node, uint64_t node_hash, struct str model,
                                        uint64_t model_hash, uint64_t seen)
{
	struct ledger_load load = {0};
	if (l->tickets == 0)
		return load;
	const struct ledger_place *p = place_find(l, node, model, hash_join(node_hash, model_hash));
	if (!p)
		return load;
	if (p->oldest->number > seen)
		return p->total;
	for (const struct ledger_ticket *t = p->newest; t && t->number > seen; t = t->older) {
		load.running++;
		load.tokens_to_prefill += t->prompt_tokens;
	}
	return load;
}

struct ledger_load ledger_unseen(const struct ledger *l, struct str node, struct str model, uint64_t seen)
{
	return ledger_unseen_hashed(l, node, hash_str(node), model, hash_str(model), seen);
}
