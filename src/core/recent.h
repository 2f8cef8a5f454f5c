/* SPDX-License-Identifier: Apache-2.0 */
/* recent.h - pairs of a hash and a small number, at most so many: those used least recently go first.
 *
 * Of one hash at most RECENT_VALUES_MAX, so that none takes long to look at.
 * Grows with its content up to `max`. Owns its arrays. Who inserts what strangers choose makes the hash with a secret.
 * Pure; one thread; times are the caller's microseconds.
 */
#ifndef MDN_CORE_RECENT_H
#define MDN_CORE_RECENT_H

#include "core/hash.h"

#define RECENT_VALUES_MAX 8

struct recent;
struct recent *recent_new(uint32_t max); /* at least 1 */
void recent_free(struct recent *r);      /* NULL is fine */
/* Newest from now on; the oldest goes when there is no room. */
void recent_touch(struct recent *r, uint64_t hash, uint32_t value, int64_t now_us);
bool recent_has(const struct recent *r, uint64_t hash);
/* Values under `hash`, one a call, while *cursor (start: 0) goes on; false at the end. */
bool recent_next(const struct recent *r, uint64_t hash, size_t *cursor, uint32_t *ret_value);
void recent_forget(struct recent *r, uint64_t hash);     /* all of them */
void recent_expire(struct recent *r, int64_t before_us); /* those not used since go */
uint32_t recent_count(const struct recent *r);

#endif
