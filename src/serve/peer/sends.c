/* SPDX-License-Identifier: Apache-2.0 */
#include "serve/peer/sends.h"

#include "base/clock.h"

#include <stdlib.h>

#define ACTIVE_US (3 * US_PER_S)

void sends_set(struct sends *s, const uint64_t rates[SENDS_RATES])
{
	memcpy(s->rates, rates, sizeof s->rates);
}

/* Keeps those that asked lately, this one among them. */
static void note(struct sends *s, struct sender now)
{
	size_t kept = 0;
	if (!s->senders)
		s->senders = mem_new(SENDS_MAX * sizeof *s->senders);
	for (size_t i = 0; i < s->count; i++)
		if (s->senders[i].connection != now.connection && now.asked_us - s->senders[i].asked_us < ACTIVE_US)
			s->senders[kept++] = s->senders[i];
	if (kept < SENDS_MAX)
		s->senders[kept++] = now;
	s->count = kept;
}

static uint64_t share_of(const struct sends *s, uint32_t rate)
{
	uint64_t active = 0;
	for (size_t i = 0; i < s->count; i++)
		active += s->senders[i].rates >> rate & 1;
	uint64_t each = s->rates[rate] / (active ? active : 1);
	return each ? each : 1;
}

uint64_t sends_share(struct sends *s, uint64_t connection, uint32_t rates, int64_t now_us)
{
	uint64_t least = 0;
	bool any = false;
	for (uint32_t i = 0; i < SENDS_RATES; i++)
		any = any || s->rates[i];
	if (!any) {
		s->count = 0;
		return 0;
	}
	note(s, (struct sender){connection, now_us, rates});
	for (uint32_t i = 0; i < SENDS_RATES; i++) {
		uint64_t each = s->rates[i] && rates >> i & 1 ? share_of(s, i) : 0;
		least = each && (!least || each < least) ? each : least;
	}
	return least;
}

void sends_begin(struct sends *s, struct http_exchange *x, uint32_t rates, int64_t now_us)
{
	http_background(x, sends_share(s, http_connection(x), rates, now_us));
}

void sends_fini(struct sends *s)
{
	free(s->senders);
	*s = (struct sends){0};
}
