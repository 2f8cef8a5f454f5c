/* SPDX-License-Identifier: Apache-2.0 */
/* A path-compressed binary trie per family: at most two nodes a prefix, whatever its length. lpm_seal fills in, for
 * every node, whether all addresses under it have one answer; with that the RFC 7871 scope costs no more than the walk.
 * A map that was changed since keeps answering, but works the flags out anew on each find (correct, slow): seal after
 * building. */
#include "core/lpm.h"

#include "base/limits.h"

#include <arpa/inet.h>
#include <stdlib.h>

#define NIL UINT32_MAX

/* What an address, or a whole subtree, is answered with. */
struct answer {
	bool mixed; /* subtree: not all the same */
	bool has;
	uint32_t value;
};

struct lpm_node {
	struct ip_prefix prefix;
	bool has;
	uint32_t value;
	uint32_t child[2];
	struct answer all; /* of its subtree, while sealed */
};

struct lpm {
	struct lpm_node *nodes;
	uint32_t count, cap;
	uint32_t root[2]; /* v4, v6 */
	uint32_t prefixes;
	bool sealed;
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

bool ip_is_loopback(const struct ip *ip)
{
	static const uint8_t one[16] = {[15] = 1};
	return ip->bits == 32 ? ip->bytes[0] == 127 : memcmp(ip->bytes, one, 16) == 0;
}

static unsigned bit_at(const struct ip *ip, unsigned i)
{
	return (ip->bytes[i / 8] >> (7 - i % 8)) & 1u;
}

/* Leading bits that a and b share, at most `most`. */
static unsigned common_bits(const struct ip *a, const struct ip *b, unsigned most)
{
	unsigned n = 0;
	while (n + 8 <= most && a->bytes[n / 8] == b->bytes[n / 8])
		n += 8;
	while (n < most && bit_at(a, n) == bit_at(b, n))
		n++;
	return n;
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

void lpm_free(struct lpm *l)
{
	if (!l)
		return;
	free(l->nodes);
	free(l);
}

static uint32_t node_add(struct lpm *l, const struct ip_prefix *prefix)
{
	if (l->count == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 64;
		l->nodes = mem_resize(l->nodes, l->cap, sizeof(*l->nodes));
	}
	l->nodes[l->count] = (struct lpm_node){.prefix = *prefix, .child = {NIL, NIL}};
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
	if (l->prefixes >= LIMIT_ZONES)
		return E_LIMIT;
	unsigned family = prefix->ip.bits == 128, side = 0;
	uint32_t parent = NIL, at = l->root[family];
	l->sealed = false;
	while (at != NIL) {
		struct lpm_node *n = &l->nodes[at];
		unsigned most = n->prefix.length < prefix->length ? n->prefix.length : prefix->length;
		unsigned same = common_bits(&n->prefix.ip, &prefix->ip, most);
		if (same == n->prefix.length && same == prefix->length) {
			l->prefixes += !n->has;
			n->has = true;
			n->value = value;
			return 0;
		}
		if (same < n->prefix.length) { /* the new one goes above, or a fork does */
			struct ip_prefix fork = *prefix;
			fork.length = (uint8_t)same;
			cut_bits(&fork.ip, same);
			unsigned old_side = bit_at(&n->prefix.ip, same);
			uint32_t above = node_add(l, &fork);
			l->nodes[above].child[old_side] = at;
			link_set(l, parent, side, family, above);
			parent = above;
			if (same == prefix->length) {
				l->nodes[above].has = true;
				l->nodes[above].value = value;
				l->prefixes++;
				return 0;
			}
			side = !old_side;
			break;
		}
		parent = at;
		side = bit_at(&prefix->ip, same);
		at = n->child[side];
	}
	uint32_t leaf = node_add(l, prefix);
	l->nodes[leaf].has = true;
	l->nodes[leaf].value = value;
	link_set(l, parent, side, family, leaf);
	l->prefixes++;
	return 0;
}

static bool same_answer(const struct answer *a, const struct answer *b)
{
	return !a->mixed && !b->mixed && a->has == b->has && (!a->has || a->value == b->value);
}

static struct answer own_answer(const struct lpm_node *n, const struct answer *above)
{
	return n->has ? (struct answer){.has = true, .value = n->value} : *above;
}

/* The one answer of all addresses under a node, or mixed. Depth is at most 129. */
static struct answer subtree_answer(struct lpm *store, const struct lpm *l, uint32_t at, const struct answer *above)
{
	const struct lpm_node *n = &l->nodes[at];
	struct answer own = own_answer(n, above), all = own;
	for (unsigned side = 0; side < 2 && n->prefix.length < n->prefix.ip.bits; side++) {
		struct answer half = own;
		uint32_t c = n->child[side];
		if (c != NIL) {
			half = subtree_answer(store, l, c, &own);
			/* A child that does not fill the half leaves part of it to us. */
			if (l->nodes[c].prefix.length > n->prefix.length + 1 && !same_answer(&half, &own))
				half.mixed = true;
		}
		if (side == 0)
			all = half;
		else if (!same_answer(&all, &half))
			all.mixed = true;
	}
	if (store)
		store->nodes[at].all = all;
	return all;
}

void lpm_seal(struct lpm *l)
{
	static const struct answer none = {0};
	for (int family = 0; family < 2; family++) {
		if (l->root[family] != NIL)
			subtree_answer(l, l, l->root[family], &none);
	}
	l->sealed = true;
}

bool lpm_find(const struct lpm *l, const struct ip *ip, uint32_t *ret_value, uint8_t *ret_scope)
{
	uint32_t path[130];
	struct answer above[130]; /* what holds around path[i] */
	size_t depth = 0;
	struct answer now = {0};
	uint32_t at = l->root[ip->bits == 128];
	unsigned scope = 0; /* the region known to have one answer, before looking upwards */
	while (at != NIL) {
		const struct lpm_node *n = &l->nodes[at];
		unsigned same = common_bits(&n->prefix.ip, ip, n->prefix.length);
		path[depth] = at;
		above[depth++] = now;
		if (same < n->prefix.length) {
			scope = same + 1;
			break;
		}
		now = own_answer(n, &now);
		scope = n->prefix.length;
		if (n->prefix.length == ip->bits)
			break;
		scope++;
		at = n->child[bit_at(ip, n->prefix.length)];
	}
	/* Widen while everything around still has the same answer. */
	while (depth > 0) {
		const struct lpm_node *n = &l->nodes[path[--depth]];
		struct answer all = l->sealed ? n->all : subtree_answer(NULL, l, path[depth], &above[depth]);
		if (scope > n->prefix.length) {
			/* We left inside n's subtree; does all of n agree? When we left on the way to n, `scope` is
			 * at most n's length and the region one bit shorter holds n as well. */
			if (!same_answer(&all, &now))
				break;
			scope = n->prefix.length;
		} else if (!same_answer(&all, &now)) {
			break;
		}
		unsigned floor = depth > 0 ? l->nodes[path[depth - 1]].prefix.length + 1u : 0;
		if (scope > floor) {
			if (!same_answer(&above[depth], &now))
				break;
			scope = floor;
		}
	}
	*ret_scope = (uint8_t)scope;
	if (now.has)
		*ret_value = now.value;
	return now.has;
}
