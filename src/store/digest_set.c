/* SPDX-License-Identifier: Apache-2.0 */
/* Open addressing with linear probing, at most half full. Digests are their own hash. */
#include "store/digest_set.h"

#include <stdlib.h>

static const struct digest zero;

void digest_set_fini(struct digest_set *s)
{
	free(s->slots);
	*s = (struct digest_set){0};
}

/* Where d is, or would be. */
static size_t slot_of(const struct digest_set *s, const struct digest *d)
{
	uint64_t hash;
	memcpy(&hash, d->bytes, sizeof hash);
	size_t i = hash & (s->size - 1);
	while (!digest_equal(&s->slots[i], &zero) && !digest_equal(&s->slots[i], d))
		i = (i + 1) & (s->size - 1);
	return i;
}

static void grow(struct digest_set *s)
{
	struct digest_set now = {.size = s->size ? 2 * s->size : 64, .count = s->count, .has_zero = s->has_zero};
	now.slots = mem_new(now.size * sizeof *now.slots);
	for (size_t i = 0; i < s->size; i++)
		if (!digest_equal(&s->slots[i], &zero))
			now.slots[slot_of(&now, &s->slots[i])] = s->slots[i];
	free(s->slots);
	*s = now;
}

bool digest_set_has(const struct digest_set *s, const struct digest *d)
{
	if (digest_equal(d, &zero))
		return s->has_zero;
	return s->size && !digest_equal(&s->slots[slot_of(s, d)], &zero);
}

bool digest_set_add(struct digest_set *s, const struct digest *d)
{
	if (digest_set_has(s, d))
		return false;
	if (digest_equal(d, &zero)) {
		s->has_zero = true;
		return true;
	}
	if (2 * (s->count + 1) > s->size)
		grow(s);
	s->slots[slot_of(s, d)] = *d;
	s->count++;
	return true;
}
