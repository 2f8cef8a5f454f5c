/* SPDX-License-Identifier: Apache-2.0 */
/* rate.c - a share a tick; what is taken over it is paid back by the ticks after it. */
#include "serve/peer/rate.h"

#include "base/clock.h"
#include "net/http.h"

void rate_set(struct rate *r, uint64_t bytes_per_s)
{
	r->bytes_per_s = bytes_per_s;
}

/* Resuming may deliver at once, and so hold the call back again, or end any other: hence one at a time, from the list.
 */
void rate_tick(struct rate *r, int64_t tick_us)
{
	size_t count = 0;
	int64_t share = (int64_t)((double)r->bytes_per_s * (double)tick_us / US_PER_S);
	r->allowance = r->allowance < 0 && r->bytes_per_s ? r->allowance + share : share;
	if (r->bytes_per_s && r->allowance <= 0)
		return;
	for (const struct rate_hold *h = r->first; h; h = h->next)
		count++;
	while (count-- > 0 && r->first) {
		struct rate_hold *h = r->first;
		r->first = h->next;
		h->held = false;
		http_call_resume(h->call);
	}
}

bool rate_take(struct rate *r, struct rate_hold *hold, size_t bytes)
{
	if (r->bytes_per_s == 0)
		return true;
	r->allowance -= (int64_t)bytes;
	if (r->allowance > 0)
		return true;
	if (!hold->held) {
		struct rate_hold **tail = &r->first;
		while (*tail)
			tail = &(*tail)->next;
		hold->next = NULL;
		hold->held = true;
		*tail = hold;
	}
	return false;
}

void rate_forget(struct rate *r, struct rate_hold *hold)
{
	if (!hold->held)
		return;
	for (struct rate_hold **at = &r->first; *at; at = &(*at)->next) {
		if (*at == hold) {
			*at = hold->next;
			break;
		}
	}
	hold->held = false;
}
