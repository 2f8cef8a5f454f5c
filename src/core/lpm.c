/* SPDX-License-Identifier: Apache-2.0 */
/* A path-compressed binary trie per family: at most two nodes a prefix, whatever its length. lpm_seal works out for
 * every node the answer in force there, the one answer of its whole subtree (or that there are several), and how far
 * the region around it with that one answer reaches; so a find, with its RFC 7871 scope, is one walk down. For IPv4
 * tables over the first 16 and the next 8 bits skip most of it (after DIR-24-8, Gupta et al., 1998). A map changed
 * since it was sealed is sealed anew, in a copy, by every find. */
#include "core/lpm.h"

#include "base/limits.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdlib.h>

#define NIL UINT32_MAX
#define NONE UINT32_MAX        /* no answer */
#define MIXED (UINT32_MAX - 1) /* not one answer */
#define JUMP_BITS 16
#define BLOCK (UINT32_C(1) << 31)
#define BLOCK_SIZE 256u
#define JUMP_NODES_LEAST 64 /* smaller tables are walked */

struct lpm_node {
	uint8_t bytes[16];
	uint32_t child[2];
	uint32_t value; /* its own; NONE: a mere fork */
	/* while sealed */
	uint32_t answer; /* its own or the nearest above */
	uint32_t all;    /* of every address under it, or MIXED */
	uint8_t length;
	uint8_t wide; /* length of the widest prefix around it with that one answer */
};

/* 256 addresses: what they all get, or else the deepest node they are under (NIL: none). */
struct lpm_slot {
	uint32_t at;
	uint8_t scope;
	bool final; /* at is the answer */
};

struct lpm {
	struct lpm_node *nodes;
	uint32_t count, cap;
	uint32_t root[2]; /* v4, v6 */
	uint32_t prefixes;
	/* By the first 16 bits: the deepest node of so many bits that they are under, NIL, or BLOCK and the number of a
	 * block that tells the same by the next 8. */
	uint32_t *jump;
	struct lpm_slot *blocks;
	uint32_t block_count, block_cap;
	bool sealed;
	unsigned others; /* owners besides the first */
};

int ip_parse(struct str text, struct ip *ret_ip)
{
	char copy[IP_TEXT_SIZE];
	if (text.len == 0 || memchr(text.base, '\0', text.len) || !str_copy(text, copy, sizeof(copy)))
		return E_INVAL;
	struct ip ip = {0};
	if (inet_pton(AF_INET, copy, ip.bytes) == 1) {
		ip.bits = 32;
	} else if (inet_pton(AF_INET6, copy, ip.bytes) == 1) {
		static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
		ip.bits = 128;
		if (memcmp(ip.bytes, mapped, sizeof(mapped)) == 0) {
			memmove(ip.bytes, ip.bytes + 12, 4);
			memset(ip.bytes + 4, 0, 12);
			ip.bits = 32;
		}
	} else {
		return E_INVAL;
	}
	*ret_ip = ip;
	return 0;
}

void ip_format(const struct ip *ip, char ret_text[static IP_TEXT_SIZE])
{
	if (!inet_ntop(ip->bits == 32 ? AF_INET : AF_INET6, ip->bytes, ret_text, IP_TEXT_SIZE))
		ret_text[0] = '\0';
}

bool ip_prefix_equal(const struct ip_prefix *a, const struct ip_prefix *b)
{
	return a->ip.bits == b->ip.bits && a->length == b->length &&
	       memcmp(a->ip.bytes, b->ip.bytes, a->ip.bits / 8u) == 0;
}

bool ip_is_loopback(const struct ip *ip)
{
	static const uint8_t one[16] = {[15] = 1};
	return ip->bits == 32 ? ip->bytes[0] == 127 : memcmp(ip->bytes, one, 16) == 0;
}

static unsigned bit_at(const uint8_t bytes[static 16], unsigned i)
{
	return (bytes[i / 8] >> (7 - i % 8)) & 1u;
}

static uint64_t word_at(const uint8_t *bytes)
{
	uint64_t word;
	memcpy(&word, bytes, sizeof(word));
	return __builtin_bswap64(word);
}

/* Leading bits that a and b share, at most `most`. */
static unsigned common_bits(const uint8_t a[static 16], const uint8_t b[static 16], unsigned most)
{
	uint64_t differ = word_at(a) ^ word_at(b);
	unsigned same = differ ? (unsigned)__builtin_clzll(differ) : 64;
	if (same == 64 && most > 64) {
		differ = word_at(a + 8) ^ word_at(b + 8);
		same += differ ? (unsigned)__builtin_clzll(differ) : 64;
	}
	return same < most ? same : most;
}

static void cut_bits(struct ip *ip, unsigned length)
{
	for (unsigned i = length; i < 128; i++) {
		if (i % 8 == 0) {
			memset(ip->bytes + i / 8, 0, 16 - i / 8);
			return;
		}
		ip->bytes[i / 8] &= (uint8_t) ~(1u << (7 - i % 8));
	}
}

int ip_prefix_parse(struct str text, struct ip_prefix *ret_prefix)
{
	struct str rest, address = str_cut(text, '/', &rest);
	struct ip_prefix p;
	if (ip_parse(address, &p.ip) < 0)
		return E_INVAL;
	p.length = p.ip.bits;
	if (address.len < text.len) {
		uint64_t length;
		if (str_to_u64(rest, &length) < 0 || length > p.ip.bits)
			return E_INVAL;
		p.length = (uint8_t)length;
	}
	struct ip zeroed = p.ip;
	cut_bits(&zeroed, p.length);
	if (memcmp(&zeroed, &p.ip, sizeof(zeroed)) != 0)
		return E_INVAL;
	*ret_prefix = p;
	return 0;
}

struct lpm *lpm_new(void)
{
	struct lpm *l = NEW(struct lpm);
	l->root[0] = l->root[1] = NIL;
	l->sealed = true;
	return l;
}

static void jumps_drop(struct lpm *l)
{
	free(l->jump);
	free(l->blocks);
	l->jump = NULL;
	l->blocks = NULL;
	l->block_count = l->block_cap = 0;
}

void lpm_free(struct lpm *l)
{
	if (!l || l->others-- > 0)
		return;
	free(l->nodes);
	jumps_drop(l);
	free(l);
}

struct lpm *lpm_share(struct lpm *l)
{
	l->others++;
	return l;
}

static uint32_t node_add(struct lpm *l, const struct ip_prefix *prefix, uint32_t value)
{
	if (l->count == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 64;
		l->nodes = mem_resize(l->nodes, l->cap, sizeof(*l->nodes));
	}
	struct lpm_node *n = &l->nodes[l->count];
	*n = (struct lpm_node){.length = prefix->length, .value = value, .child = {NIL, NIL}};
	memcpy(n->bytes, prefix->ip.bytes, sizeof(n->bytes));
	l->prefixes += value != NONE;
	return l->count++;
}

/* Where `at` hangs: the root, or a child of its parent (indexes, as the array may move). */
static void link_set(struct lpm *l, uint32_t parent, unsigned side, unsigned family, uint32_t to)
{
	if (parent == NIL)
		l->root[family] = to;
	else
		l->nodes[parent].child[side] = to;
}

int lpm_set(struct lpm *l, const struct ip_prefix *prefix, uint32_t value)
{
	assert(value < MIXED);
	if (l->prefixes >= LIMIT_ZONES)
		return E_LIMIT;
	unsigned family = prefix->ip.bits == 128, side = 0;
	uint32_t parent = NIL, at = l->root[family];
	l->sealed = false;
	while (at != NIL) {
		struct lpm_node *n = &l->nodes[at];
		unsigned most = n->length < prefix->length ? n->length : prefix->length;
		unsigned same = common_bits(n->bytes, prefix->ip.bytes, most);
		if (same == n->length && same == prefix->length) {
			l->prefixes += n->value == NONE;
			n->value = value;
			return 0;
		}
		if (same < n->length) { /* the new one goes above, or a fork does */
			struct ip_prefix fork = *prefix;
			bool is_it = same == prefix->length;
			fork.length = (uint8_t)same;
			cut_bits(&fork.ip, same);
			unsigned old_side = bit_at(n->bytes, same);
			uint32_t above = node_add(l, &fork, is_it ? value : NONE);
			l->nodes[above].child[old_side] = at;
			link_set(l, parent, side, family, above);
			if (is_it)
				return 0;
			parent = above;
			side = !old_side;
			break;
		}
		parent = at;
		side = bit_at(prefix->ip.bytes, same);
		at = n->child[side];
	}
	link_set(l, parent, side, family, node_add(l, prefix, value));
	return 0;
}

/* ---- sealing --------------------------------------------------------------------------------- */

/* Upwards: answers, and whether a subtree has one only. Depth is at most 129. */
static void seal_answers(struct lpm *l, uint32_t at, uint32_t above)
{
	struct lpm_node *n = &l->nodes[at];
	uint32_t halves[2];
	n->answer = n->value != NONE ? n->value : above;
	for (unsigned side = 0; side < 2; side++) {
		halves[side] = n->answer;
		if (n->child[side] == NIL)
			continue;
		const struct lpm_node *c = &l->nodes[n->child[side]];
		seal_answers(l, n->child[side], n->answer);
		/* A child that does not fill the half leaves the rest of it to us. */
		halves[side] = c->length > n->length + 1 && c->all != n->answer ? MIXED : c->all;
	}
	n->all = halves[0] == halves[1] ? halves[0] : MIXED;
}

/* Downwards: how far around the node its one answer reaches. */
static void seal_widths(struct lpm *l, uint32_t at, const struct lpm_node *parent)
{
	struct lpm_node *n = &l->nodes[at];
	unsigned floor = parent ? parent->length + 1u : 0;
	n->wide = n->length;
	if (n->all != MIXED && (n->length == floor || n->all == (parent ? parent->answer : NONE)))
		n->wide = parent && parent->all == n->all ? parent->wide : (uint8_t)floor;
	for (unsigned side = 0; side < 2; side++) {
		if (n->child[side] != NIL)
			seal_widths(l, n->child[side], n);
	}
}

static struct lpm_slot *block_of(struct lpm *l, uint32_t first16)
{
	uint32_t here = l->jump[first16];
	if (here != NIL && here & BLOCK)
		return &l->blocks[(here & ~BLOCK) * BLOCK_SIZE];
	if (l->block_count == l->block_cap) {
		l->block_cap = l->block_cap ? l->block_cap * 2 : 16;
		l->blocks = mem_resize(l->blocks, (size_t)l->block_cap * BLOCK_SIZE, sizeof(*l->blocks));
	}
	struct lpm_slot *block = &l->blocks[l->block_count * BLOCK_SIZE];
	for (uint32_t i = 0; i < BLOCK_SIZE; i++)
		block[i] = (struct lpm_slot){.at = here};
	l->jump[first16] = BLOCK | l->block_count++;
	return block;
}

/* Parents before children, so that the deepest stays. */
static void seal_jumps(struct lpm *l, uint32_t at)
{
	const struct lpm_node *n = &l->nodes[at];
	uint32_t first16 = (uint32_t)n->bytes[0] << 8 | n->bytes[1];
	if (n->length > 24)
		return;
	if (n->length > JUMP_BITS) {
		struct lpm_slot *to = block_of(l, first16) + n->bytes[2];
		for (uint32_t i = 0; i < 1u << (24 - n->length); i++)
			to[i].at = at;
	} else {
		for (uint32_t i = 0; i < 1u << (JUMP_BITS - n->length); i++)
			l->jump[first16 + i] = at;
	}
	for (unsigned side = 0; side < 2; side++) {
		if (n->child[side] != NIL)
			seal_jumps(l, n->child[side]);
	}
}

/* Everything in n's half towards us has the answer `now`: how far does that reach? */
static unsigned widen(const struct lpm_node *n, uint32_t now)
{
	if (!n)
		return 0;
	return n->all == now ? n->wide : n->length + 1u;
}

/* On from `under` (the deepest known that we are under) to its child `at`. */
static uint32_t walk(const struct lpm *l, const struct lpm_node *under, uint32_t at, const struct ip *ip,
                     unsigned *ret_scope)
{
	while (at != NIL) {
		const struct lpm_node *n = &l->nodes[at];
		unsigned same = common_bits(n->bytes, ip->bytes, n->length);
		if (same < n->length) { /* we part from n on the way to it */
			uint32_t now = under ? under->answer : NONE;
			*ret_scope = n->all == now ? widen(under, now) : same + 1;
			return now;
		}
		under = n;
		at = n->length < ip->bits ? n->child[bit_at(ip->bytes, n->length)] : NIL;
	}
	uint32_t now = under ? under->answer : NONE;
	*ret_scope = widen(under, now);
	return now;
}

/* Most /24 lie whole in one region: their finds need no node at all. */
static void seal_slot(const struct lpm *l, struct lpm_slot *slot, const struct ip *ip)
{
	if (slot->at == NIL)
		return;
	const struct lpm_node *n = &l->nodes[slot->at];
	if (n->length == 24 && (n->child[0] != NIL || n->child[1] != NIL))
		return;
	uint32_t child = n->length < 24 ? n->child[bit_at(ip->bytes, n->length)] : NIL;
	if (child != NIL && common_bits(l->nodes[child].bytes, ip->bytes, 24) == 24)
		return;
	unsigned scope;
	slot->at = walk(l, n, child, ip, &scope);
	slot->scope = (uint8_t)scope;
	slot->final = true;
}

static void seal_slots(struct lpm *l)
{
	for (uint32_t first16 = 0; first16 < 1u << JUMP_BITS; first16++) {
		if (l->jump[first16] == NIL || !(l->jump[first16] & BLOCK))
			continue;
		struct lpm_slot *block = &l->blocks[(l->jump[first16] & ~BLOCK) * BLOCK_SIZE];
		for (uint32_t i = 0; i < BLOCK_SIZE; i++) {
			const struct ip ip = {32, {(uint8_t)(first16 >> 8), (uint8_t)first16, (uint8_t)i}};
			seal_slot(l, &block[i], &ip);
		}
	}
}

void lpm_seal(struct lpm *l)
{
	for (int family = 0; family < 2; family++) {
		if (l->root[family] == NIL)
			continue;
		seal_answers(l, l->root[family], NONE);
		seal_widths(l, l->root[family], NULL);
	}
	jumps_drop(l);
	if (l->root[0] != NIL && l->count >= JUMP_NODES_LEAST) {
		l->jump = mem_resize(NULL, (size_t)1 << JUMP_BITS, sizeof(*l->jump));
		memset(l->jump, 0xff, ((size_t)1 << JUMP_BITS) * sizeof(*l->jump));
		seal_jumps(l, l->root[0]);
		seal_slots(l);
	}
	l->sealed = true;
}

/* ---- finding --------------------------------------------------------------------------------- */

static uint32_t find(const struct lpm *l, const struct ip *ip, unsigned *ret_scope)
{
	const struct lpm_node *under = NULL;
	uint32_t at = l->root[ip->bits == 128];
	if (ip->bits == 32 && l->jump) {
		uint32_t jump = l->jump[(uint32_t)ip->bytes[0] << 8 | ip->bytes[1]];
		if (jump != NIL && jump & BLOCK) {
			const struct lpm_slot *slot = &l->blocks[(jump & ~BLOCK) * BLOCK_SIZE + ip->bytes[2]];
			if (slot->final) {
				*ret_scope = slot->scope;
				return slot->at;
			}
			jump = slot->at;
		}
		if (jump != NIL) {
			under = &l->nodes[jump];
			at = under->child[bit_at(ip->bytes, under->length)];
		}
	}
	return walk(l, under, at, ip, ret_scope);
}

bool lpm_find(const struct lpm *l, const struct ip *ip, uint32_t *ret_value, uint8_t *ret_scope)
{
	unsigned scope;
	uint32_t found;
	if (l->sealed) {
		found = find(l, ip, &scope);
	} else {
		struct lpm copy = *l;
		copy.jump = NULL;
		copy.blocks = NULL;
		copy.block_count = copy.block_cap = 0;
		copy.nodes = mem_resize(NULL, l->count, sizeof(*l->nodes));
		memcpy(copy.nodes, l->nodes, l->count * sizeof(*l->nodes));
		lpm_seal(&copy);
		found = find(&copy, ip, &scope);
		free(copy.nodes);
		jumps_drop(&copy);
	}
	*ret_scope = (uint8_t)scope;
	if (found == NONE)
		return false;
	*ret_value = found;
	return true;
}
