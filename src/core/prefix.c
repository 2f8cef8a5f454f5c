/* SPDX-License-Identifier: Apache-2.0 */
/* prefix.c - children are sorted by their tokens, so a block is found by bisection and the child most like the rest of
 * a prompt is next to where that would stand: no hash, and no prompt makes a lookup slow. The salt is the first level's
 * tokens. Copies that may go are in one heap a tier, by rank; the rank of what goes is what all others have aged by. */
#include "core/prefix.h"

#include "base/error.h"
#include "base/str.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { SALT_TOKENS = PREFIX_SALT_SIZE / sizeof(int32_t), USES_MAX = 16 };

struct copy {
	void *handle; /* NULL: none */
	uint64_t bytes;
	double worth; /* cost for each byte */
	double rank;
	uint32_t at; /* in the heap, from 1; 0: not in it */
};

struct prefix_node {
	struct prefix_node *parent; /* NULL: the top, whose children are salts */
	struct prefix_node **children;
	uint32_t child_count, child_room;
	uint32_t pins, uses;
	uint32_t held_children; /* those with a copy */
	int32_t end, count;
	struct copy copies[PREFIX_TIERS];
	int32_t tokens[];
};

struct heap {
	struct prefix_node **nodes; /* from 1 */
	uint32_t count, room;
	double clock;
};

struct prefix {
	struct prefix_options options;
	struct prefix_node *top;
	struct heap heaps[PREFIX_TIERS];
	struct prefix_numbers numbers;
};

/* ---- heaps ------------------------------------------------------------------------------------- */

static double heap_rank(const struct heap *h, uint32_t at, enum prefix_tier tier)
{
	return h->nodes[at]->copies[tier].rank;
}

static void heap_set(struct heap *h, uint32_t at, struct prefix_node *node, enum prefix_tier tier)
{
	h->nodes[at] = node;
	node->copies[tier].at = at;
}

static void heap_settle(struct heap *h, uint32_t at, enum prefix_tier tier)
{
	struct prefix_node *node = h->nodes[at];
	double rank = node->copies[tier].rank;

	for (; at > 1 && heap_rank(h, at / 2, tier) > rank; at /= 2)
		heap_set(h, at, h->nodes[at / 2], tier);
	for (uint32_t child; (child = 2 * at) <= h->count; at = child) {
		if (child < h->count && heap_rank(h, child + 1, tier) < heap_rank(h, child, tier))
			child++;
		if (heap_rank(h, child, tier) >= rank)
			break;
		heap_set(h, at, h->nodes[child], tier);
	}
	heap_set(h, at, node, tier);
}

static void heap_add(struct heap *h, struct prefix_node *node, enum prefix_tier tier)
{
	if (h->count + 1 >= h->room) {
		h->room = h->room ? 2 * h->room : 64;
		h->nodes = mem_resize(h->nodes, h->room, sizeof(*h->nodes));
	}
	heap_set(h, ++h->count, node, tier);
	heap_settle(h, h->count, tier);
}

static void heap_remove(struct heap *h, struct prefix_node *node, enum prefix_tier tier)
{
	uint32_t at = node->copies[tier].at;
	struct prefix_node *last = h->nodes[h->count--];

	node->copies[tier].at = 0;
	if (last == node)
		return;
	heap_set(h, at, last, tier);
	heap_settle(h, at, tier);
}

/* ---- copies ------------------------------------------------------------------------------------ */

static bool node_holds(const struct prefix_node *node)
{
	for (int tier = 0; tier < PREFIX_TIERS; tier++)
		if (node->copies[tier].handle)
			return true;
	return false;
}

static bool copy_may_go(const struct prefix *p, const struct prefix_node *node, enum prefix_tier tier)
{
	bool other = false;

	if (!node->copies[tier].handle || node->pins)
		return false;
	for (int t = 0; t < PREFIX_TIERS; t++)
		other |= t != (int)tier && node->copies[t].handle;
	return !p->options.chained || other || !node->held_children;
}

static void node_changed(struct prefix *p, struct prefix_node *node)
{
	for (int tier = 0; tier < PREFIX_TIERS; tier++) {
		bool in = node->copies[tier].at != 0, should = copy_may_go(p, node, tier);
		if (in && !should)
			heap_remove(&p->heaps[tier], node, tier);
		else if (!in && should)
			heap_add(&p->heaps[tier], node, tier);
	}
}

static void copy_drop(struct prefix *p, struct prefix_node *node, enum prefix_tier tier)
{
	struct copy *copy = &node->copies[tier];
	void *handle = copy->handle;

	if (copy->at)
		heap_remove(&p->heaps[tier], node, tier);
	p->numbers.bytes[tier] -= copy->bytes;
	p->numbers.copies[tier]--;
	*copy = (struct copy){0};
	if (!node_holds(node)) {
		node->parent->held_children--;
		node_changed(p, node->parent);
	}
	node_changed(p, node);
	p->options.drop(p->options.arg, tier, handle);
}

/* ---- nodes ------------------------------------------------------------------------------------- */

static int tokens_order(const int32_t *a, int32_t a_count, const int32_t *b, int32_t b_count)
{
	int32_t least = a_count < b_count ? a_count : b_count;

	for (int32_t i = 0; i < least; i++)
		if (a[i] != b[i])
			return a[i] < b[i] ? -1 : 1;
	return a_count < b_count ? -1 : a_count > b_count;
}

/* The first child not before these tokens. */
static uint32_t child_place(const struct prefix_node *node, const int32_t *tokens, int32_t count)
{
	uint32_t low = 0, high = node->child_count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		const struct prefix_node *child = node->children[middle];
		if (tokens_order(child->tokens, child->count, tokens, count) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct prefix_node *child_exact(const struct prefix_node *node, const int32_t *tokens, int32_t count)
{
	uint32_t at = child_place(node, tokens, count);

	if (at == node->child_count)
		return NULL;
	struct prefix_node *child = node->children[at];
	return tokens_order(child->tokens, child->count, tokens, count) == 0 ? child : NULL;
}

static int32_t child_common(const struct prefix_node *child, const int32_t *tokens, int32_t count)
{
	int32_t n = 0;

	while (n < count && n < child->count && child->tokens[n] == tokens[n])
		n++;
	return n;
}

static struct prefix_node *child_new(struct prefix *p, struct prefix_node *parent, const int32_t *tokens, int32_t count)
{
	uint32_t at = child_place(parent, tokens, count);
	struct prefix_node *node = mem_new(sizeof(*node) + (size_t)count * sizeof(*tokens));

	if (parent->child_count == parent->child_room) {
		parent->child_room = parent->child_room ? 2 * parent->child_room : 2;
		parent->children = mem_resize(parent->children, parent->child_room, sizeof(struct prefix_node *));
	}
	memmove(parent->children + at + 1, parent->children + at, (parent->child_count - at) * sizeof(node));
	parent->children[at] = node;
	parent->child_count++;
	node->parent = parent;
	node->count = count;
	node->end = parent->parent ? parent->end + count : 0; /* a salt is no part of the prompt */
	memcpy(node->tokens, tokens, (size_t)count * sizeof(*tokens));
	p->numbers.nodes++;
	return node;
}

/* Frees nodes that stand for nothing, from this one up. */
static void node_prune(struct prefix *p, struct prefix_node *node)
{
	while (node->parent && !node->child_count && !node->pins && !node_holds(node)) {
		struct prefix_node *parent = node->parent;
		uint32_t at = child_place(parent, node->tokens, node->count);
		parent->child_count--;
		memmove(parent->children + at, parent->children + at + 1, (parent->child_count - at) * sizeof(node));
		free(node->children);
		free(node);
		p->numbers.nodes--;
		node = parent;
	}
}

/* The copy of the least worth goes; false: all are in use. */
static bool tier_evict(struct prefix *p, enum prefix_tier tier)
{
	struct heap *h = &p->heaps[tier];

	if (!h->count)
		return false;
	struct prefix_node *node = h->nodes[1];
	h->clock = node->copies[tier].rank;
	p->numbers.evictions[tier]++;
	copy_drop(p, node, tier);
	node_prune(p, node);
	return true;
}

/* Room for one more node. */
static bool nodes_room(struct prefix *p)
{
	while (p->numbers.nodes >= p->options.nodes_max) {
		int tier = PREFIX_TIERS;
		while (tier-- > 0) /* what is further away first */
			if (tier_evict(p, tier))
				break;
		if (tier < 0)
			return false;
	}
	return true;
}

static void copy_rank(struct prefix *p, struct prefix_node *node, enum prefix_tier tier)
{
	struct copy *copy = &node->copies[tier];

	copy->rank = p->heaps[tier].clock + (1 + node->uses) * copy->worth;
	if (copy->at)
		heap_settle(&p->heaps[tier], copy->at, tier);
}

/* ---- interface --------------------------------------------------------------------------------- */

struct prefix *prefix_new(const struct prefix_options *options)
{
	struct prefix *p = NEW(struct prefix);

	assert(options->block > 0 && options->block <= PREFIX_BLOCK_MAX);
	p->options = *options;
	p->top = NEW(struct prefix_node);
	return p;
}

static void node_free(struct prefix *p, struct prefix_node *node)
{
	while (node->child_count)
		node_free(p, node->children[--node->child_count]);
	for (int tier = 0; tier < PREFIX_TIERS; tier++)
		if (node->copies[tier].handle)
			p->options.drop(p->options.arg, tier, node->copies[tier].handle);
	free(node->children);
	free(node);
}

void prefix_free(struct prefix *p)
{
	if (!p)
		return;
	node_free(p, p->top);
	for (int tier = 0; tier < PREFIX_TIERS; tier++)
		free(p->heaps[tier].nodes);
	free(p);
}

static void salt_tokens(const struct prefix_salt *salt, int32_t tokens[static SALT_TOKENS])
{
	memcpy(tokens, salt->bytes, PREFIX_SALT_SIZE);
}

/* The child with a copy that begins most like these tokens. Away from their place it is ever less alike. */
static void find_alike(const struct prefix_node *node, const int32_t *tokens, int32_t count, struct prefix_match *match)
{
	uint32_t place = child_place(node, tokens, count);
	int32_t best = 0, common;

	for (uint32_t at = place; at < node->child_count; at++) {
		if ((common = child_common(node->children[at], tokens, count)) <= best)
			break;
		if (node_holds(node->children[at])) {
			best = common;
			match->node = node->children[at];
		}
	}
	for (uint32_t at = place; at-- > 0;) {
		if ((common = child_common(node->children[at], tokens, count)) <= best)
			break;
		if (node_holds(node->children[at])) {
			best = common;
			match->node = node->children[at];
		}
	}
	if (best)
		match->common = node->end + best;
}

/* The longest child that is a beginning of these tokens and has a copy. */
static void find_beginning(const struct prefix_node *node, const int32_t *tokens, int32_t count,
                           struct prefix_match *match)
{
	for (int32_t n = count; n > 0; n--) {
		struct prefix_node *child = child_exact(node, tokens, n);
		if (child && node_holds(child)) {
			match->node = child;
			match->common = child->end;
			return;
		}
	}
}

static int32_t find_known(const struct prefix_node *node, const int32_t *tokens, int32_t count)
{
	uint32_t place = child_place(node, tokens, count);
	int32_t after = place < node->child_count ? child_common(node->children[place], tokens, count) : 0;
	int32_t before = place > 0 ? child_common(node->children[place - 1], tokens, count) : 0;

	return node->end + (after > before ? after : before);
}

struct prefix_match prefix_find(const struct prefix *p, const struct prefix_salt *salt, const int32_t *tokens,
                                int32_t count)
{
	struct prefix_match match = {0};
	int32_t key[SALT_TOKENS], block = p->options.block;
	struct prefix_node *node, *next;

	salt_tokens(salt, key);
	if (!(node = child_exact(p->top, key, SALT_TOKENS)))
		return match;
	/* Behind a block without a copy there is nothing of use in a chain. */
	for (bool linked = true;; node = next) {
		int32_t left = count - node->end, most = left < block ? left : block;
		next = left < block ? NULL : child_exact(node, tokens + node->end, block);
		if (!p->options.chained) {
			find_beginning(node, tokens + node->end, most, &match);
		} else if (linked && next && node_holds(next)) {
			match.node = next;
			match.common = next->end;
		} else if (linked) {
			find_alike(node, tokens + node->end, most, &match);
			linked = false;
		}
		if (!next) {
			match.known = find_known(node, tokens + node->end, most);
			return match;
		}
	}
}

int prefix_add(struct prefix *p, const struct prefix_salt *salt, const int32_t *tokens, int32_t count,
               struct prefix_node **ret_node)
{
	int32_t key[SALT_TOKENS];
	const int32_t *want = key;
	int32_t length = SALT_TOKENS;
	struct prefix_node *node = p->top;

	assert(count > 0);
	salt_tokens(salt, key);
	while (length > 0) {
		struct prefix_node *child = child_exact(node, want, length);
		if (!child && p->options.chained && node->parent && length < p->options.block) {
			/* A tail that another one goes on from. */
			uint32_t at = child_place(node, want, length);
			if (at < node->child_count && child_common(node->children[at], want, length) == length &&
			    node_holds(node->children[at]))
				child = node->children[at];
		}
		prefix_pin(p, node); /* making room must not free it */
		if (!child && nodes_room(p))
			child = child_new(p, node, want, length);
		node->pins--;
		for (struct prefix_node *up = node->parent; up; up = up->parent)
			up->pins--;
		if (!child) {
			for (struct prefix_node *up = node; up; up = up->parent)
				node_changed(p, up);
			node_prune(p, node);
			return E_LIMIT;
		}
		node = child;
		want = tokens + node->end;
		length = count - node->end < p->options.block ? count - node->end : p->options.block;
	}
	prefix_pin(p, node);
	*ret_node = node;
	return 0;
}

void prefix_pin(struct prefix *p, struct prefix_node *node)
{
	for (; node; node = node->parent) {
		node->pins++;
		node_changed(p, node);
	}
}

void prefix_unpin(struct prefix *p, struct prefix_node *node)
{
	assert(node->pins);
	for (struct prefix_node *up = node; up; up = up->parent) {
		up->pins--;
		node_changed(p, up);
	}
	node_prune(p, node);
}

/* In a chain, what is the beginning of a block that has a copy says nothing more. */
static void drop_beginnings(struct prefix *p, struct prefix_node *node)
{
	struct prefix_node *parent = node->parent;

	for (int32_t n = node->count - 1; n > 0; n--) {
		struct prefix_node *shorter = child_exact(parent, node->tokens, n);
		if (!shorter || shorter->pins)
			continue;
		for (int tier = 0; tier < PREFIX_TIERS; tier++)
			if (shorter->copies[tier].handle)
				copy_drop(p, shorter, tier);
		node_prune(p, shorter);
	}
}

bool prefix_put(struct prefix *p, struct prefix_node *node, enum prefix_tier tier, void *handle, uint64_t bytes,
                double cost_us)
{
	uint64_t most = p->options.bytes_max[tier];

	assert(node->pins && handle && !node->copies[tier].handle);
	if (!bytes || bytes > most || (p->options.chained && node->parent->parent->parent && !node_holds(node->parent)))
		return false;
	while (p->numbers.bytes[tier] > most - bytes)
		if (!tier_evict(p, tier))
			return false;
	if (!node_holds(node)) {
		node->parent->held_children++;
		node_changed(p, node->parent);
	}
	node->copies[tier] = (struct copy){.handle = handle, .bytes = bytes, .worth = cost_us / (double)bytes};
	p->numbers.bytes[tier] += bytes;
	p->numbers.copies[tier]++;
	copy_rank(p, node, tier);
	node_changed(p, node);
	if (p->options.chained)
		drop_beginnings(p, node);
	return true;
}

/* Copies behind a gap. Children first; a node may be freed with its last child, so the caller goes on by number. */
static void lose_behind(struct prefix *p, struct prefix_node *node)
{
	for (uint32_t i = node->child_count; i-- > 0;) {
		struct prefix_node *child = node->children[i];
		child->pins++; /* stays while we are in it */
		lose_behind(p, child);
		child->pins--;
		for (int tier = 0; tier < PREFIX_TIERS && !child->pins; tier++)
			if (child->copies[tier].handle)
				copy_drop(p, child, tier);
		node_changed(p, child);
		node->pins++;
		node_prune(p, child);
		node->pins--;
	}
}

void prefix_lose(struct prefix *p, struct prefix_node *node, enum prefix_tier tier)
{
	if (!node->copies[tier].handle)
		return;
	copy_drop(p, node, tier);
	if (p->options.chained && !node_holds(node))
		lose_behind(p, node);
	node_prune(p, node);
}

void prefix_hit(struct prefix *p, struct prefix_node *node)
{
	do {
		node->uses += node->uses < USES_MAX;
		for (int tier = 0; tier < PREFIX_TIERS; tier++)
			if (node->copies[tier].handle)
				copy_rank(p, node, tier);
		node = node->parent;
	} while (p->options.chained && node->parent);
}

struct prefix_node *prefix_parent(const struct prefix_node *node)
{
	return node->parent->parent->parent ? node->parent : NULL;
}

int32_t prefix_end(const struct prefix_node *node)
{
	return node->end;
}

int32_t prefix_begin(const struct prefix_node *node)
{
	return node->end - node->count;
}

void prefix_path(const struct prefix_node *node, int32_t *ret_tokens)
{
	for (; node->end; node = node->parent)
		memcpy(ret_tokens + prefix_begin(node), node->tokens, (size_t)node->count * sizeof(*ret_tokens));
}

const struct prefix_salt *prefix_salt_of(const struct prefix_node *node)
{
	while (node->end)
		node = node->parent;
	return (const struct prefix_salt *)(const void *)node->tokens;
}

void *prefix_handle(const struct prefix_node *node, enum prefix_tier tier)
{
	return node->copies[tier].handle;
}

struct prefix_numbers prefix_numbers(const struct prefix *p)
{
	return p->numbers;
}
