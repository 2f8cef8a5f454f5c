/* SPDX-License-Identifier: Apache-2.0 */
/* prefix.h - which beginning of a prompt has been computed before, and where its KV lies.
 *
 * A radix tree over blocks of tokens, one root per salt: what was put under one salt is never found under another.
 * Tokens themselves are compared, never hashes. A node is one block; a last, shorter one has no children. A node may
 * have a copy of KV in each tier; what a copy is only the caller knows. The tree bounds nodes and bytes and says
 * through `drop` which copy goes: the one cheapest to compute again for its bytes, where each hit counts once more and
 * age counts against it (GreedyDual-Size with frequency: Cao and Irani 1997, Cherkasova 1998). `chained`: a copy is its
 * own block's KV and of use only behind its parents' copies; so the last copy of a block goes after those of its
 * children. Otherwise a copy is the whole state at the block's end, of use by itself. Owns nodes, not handles. Pure;
 * one thread. Errors: -E_LIMIT, nothing changes.
 */
#ifndef MDN_CORE_PREFIX_H
#define MDN_CORE_PREFIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PREFIX_SALT_SIZE = 32, PREFIX_BLOCK_MAX = 256 };
enum prefix_tier { PREFIX_MEMORY, PREFIX_DISK, PREFIX_TIERS };

struct prefix;
struct prefix_node;

struct prefix_salt {
	uint8_t bytes[PREFIX_SALT_SIZE];
};

/* The copy is no longer in the tree; the handle is the caller's to free. Must not call the tree. */
typedef void prefix_drop(void *arg, enum prefix_tier tier, void *handle);

struct prefix_options {
	int32_t block; /* tokens; 1..PREFIX_BLOCK_MAX */
	bool chained;
	uint32_t nodes_max;
	uint64_t bytes_max[PREFIX_TIERS];
	prefix_drop *drop;
	void *arg;
};

struct prefix_numbers {
	uint32_t nodes;
	uint64_t bytes[PREFIX_TIERS], copies[PREFIX_TIERS], evictions[PREFIX_TIERS];
};

struct prefix_match {
	struct prefix_node *node; /* NULL: none */
	int32_t common; /* tokens of the prompt its KV is good for; chained: maybe fewer than prefix_end(node) */
	int32_t known;  /* tokens that some prompt before began with, computed or not */
};

struct prefix *prefix_new(const struct prefix_options *options);
void prefix_free(struct prefix *p); /* drops every copy; NULL is fine */

/* The longest beginning with a copy in any tier. */
struct prefix_match prefix_find(const struct prefix *p, const struct prefix_salt *salt, const int32_t *tokens,
                                int32_t count);
/* Makes the blocks of these tokens (at least one) and pins the last, which ret_node is; chained: one that goes on
 * beyond these tokens may stand for it. */
int prefix_add(struct prefix *p, const struct prefix_salt *salt, const int32_t *tokens, int32_t count,
               struct prefix_node **ret_node);
/* A pinned node and those before it stay, with their copies, until unpinned as often; unpinned and empty it goes. */
void prefix_pin(struct prefix *p, struct prefix_node *node);
void prefix_unpin(struct prefix *p, struct prefix_node *node);
/* Gives a pinned node without a copy in that tier one. cost: microseconds it takes to compute it again. Makes room;
 * false when there is none, or when chained and the block before has no copy: the handle stays the caller's. */
bool prefix_put(struct prefix *p, struct prefix_node *node, enum prefix_tier tier, void *handle, uint64_t bytes,
                double cost_us);
/* A copy turned out bad or is not wanted: it is dropped (through `drop`), chained: with the unpinned ones behind it if
 * it was the last. */
void prefix_lose(struct prefix *p, struct prefix_node *node, enum prefix_tier tier);
void prefix_hit(struct prefix *p, struct prefix_node *node); /* chained: with those before it */

struct prefix_node *prefix_parent(const struct prefix_node *node); /* NULL: it is the first block */
int32_t prefix_end(const struct prefix_node *node);                /* tokens from the prompt's beginning to its end */
int32_t prefix_begin(const struct prefix_node *node);
void prefix_path(const struct prefix_node *node, int32_t *ret_tokens); /* prefix_end(node) of them */
const struct prefix_salt *prefix_salt_of(const struct prefix_node *node);
void *prefix_handle(const struct prefix_node *node, enum prefix_tier tier); /* NULL: no copy there */
struct prefix_numbers prefix_numbers(const struct prefix *p);

#endif
