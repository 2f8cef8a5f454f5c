/* SPDX-License-Identifier: Apache-2.0 */
#include "serve/peer/sends.h"

#include "base/clock.h"

#include <stdlib.h>

#define ACTIVE_US (3 * US_PER_S)

void sends_set(struct sends *s, uint64_t rate_max)
{
	s->rate_max = rate_max;
	if (rate_max == 0)
		s->count = 0;
}

/* Those that asked lately, this one among them. */
static size_t count_active(struct sends *s, uint64_t connection, int64_t now_us)
{
	size_t kept = 0;
	for (size_t i = 0; i < s->count; i++)
		if (s->senders[i].connection != connection && now_us - s->senders[i].asked_us < ACTIVE_US)
			s->senders[kept++] = s->senders[i];
	if (kept < SENDS_MAX)
		s->senders[kept++] = (struct sender){connection, now_us};
	s->count = kept;
	return kept;
}

void sends_begin(struct sends *s, struct http_exchange *x, int64_t now_us)
{
	if (s->rate_max == 0) {
		http_background(x, 0);
		return;
	}
	if (!s->senders)
		s->senders = mem_new(SENDS_MAX * sizeof *s->senders);
	uint64_t each = s->rate_max / count_active(s, http_connection(x), now_us);
	http_background(x, each ? each : 1);
}

void sends_fini(struct sends *s)
{
	free(s->senders);
	*s = (struct sends){0};
}
