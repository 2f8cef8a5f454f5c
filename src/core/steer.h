/* SPDX-License-Identifier: Apache-2.0 */
/* steer.h - operators' words on where clients go: what a site or a node may be given, and where a prefix is sent.
 *
 * "site=NAME" and "node=ID" have a weight in percent: 100 is as if nothing had been said, 0 takes no new clients at
 * all. "prefix=P" has a site, or none for as if nothing had been said. Each word carries the wall clock of when it was
 * given; of two on the same subject the later counts, so that schedulers that heard them in another order agree in the
 * end. A word that says nothing any more is kept for that. Bounded by LIMIT_STEERS. Owns its words; zeroed is empty.
 * Pure.
 */
#ifndef MDN_CORE_STEER_H
#define MDN_CORE_STEER_H

#include "core/hash.h"
#include "core/lpm.h"
#include "core/report.h"

enum steer_kind { STEER_SITE, STEER_NODE, STEER_PREFIX };

struct steer_word {
	enum steer_kind kind;
	char subject[NODE_TEXT_SIZE]; /* NAME, ID or P */
	struct ip_prefix prefix;
	int32_t weight;            /* percent, of sites and nodes */
	char site[NODE_TEXT_SIZE]; /* of prefixes; empty: as if nothing had been said */
	int64_t at_us;             /* wall clock */
};

struct steer {
	struct steer_word *words;
	uint32_t count, cap;
	struct hash_index by_subject;
};

void steer_fini(struct steer *s);
/* {"subject":"site=paris","weight":50,"at_us":N} or {"subject":"prefix=192.0.2.0/24","site":"lyon","at_us":N}; E_INVAL.
 */
struct yyjson_val;
int steer_word_parse(struct yyjson_val *obj, struct steer_word *ret_word, struct error *err);
bool steer_word_speaks(const struct steer_word *w); /* says something still */
/* E_CONFLICT: a later word on it is here; E_LIMIT. */
int steer_set(struct steer *s, const struct steer_word *w, struct error *err);
int32_t steer_weight(const struct steer *s, enum steer_kind kind, struct str subject); /* percent; 100: nothing said */
void steer_format(const struct steer *s, struct buf *out);                             /* a JSON array, all words */
int steer_parse(struct yyjson_val *array, struct steer *ret_steer, struct error *err);

#endif
