/* SPDX-License-Identifier: Apache-2.0 */
/* map_making.h - which site each prefix of clients is sent to: demand against room, near first, moved with care.
 *
 * A round looks at all prefixes at once. Demand and capacity are requests in work at a time (a request that takes 4 s
 * every 10 s is 0.4). What it promises:
 *   - every prefix has a site, while any site has capacity;
 *   - a prefix moves only for a gain of MAKING_GAIN_US and of a tenth, or because its site is too full, and of all
 *     demand at most MAKING_MOVED_MOST a round (a single prefix larger than that moves alone). Not counted: prefixes
 *     whose site takes nobody any more or that an operator pinned, which go at once, and those that are new;
 *   - a site gets no more than its capacity where total demand and one largest prefix a site fit into the total, once
 *     what had to move has moved; else all sites are equally too full.
 * Pure. Source: Maggs, Sitaraman, "Algorithmic Nuggets in Content Delivery", CCR 2015 (stable allocation).
 */
#ifndef MDN_CORE_MAP_MAKING_H
#define MDN_CORE_MAP_MAKING_H

#include "base/error.h"
#include "base/rng.h"

#include <stdbool.h>
#include <stdint.h>

#define MAKING_NONE UINT32_MAX
#define MAKING_FILL 0.8       /* of a site's capacity is used before the next nearest is, while all together suffice */
#define MAKING_MOVED_MOST 0.1 /* of all demand, a round; in it, there and back: */
#define MAKING_EXPLORED 0.01  /* named the second nearest site for a round, so that the way there gets measured */
#define MAKING_GAIN_US 5000
#define MAKING_RAMP_US (60 * INT64_C(1000) * 1000) /* until a site that came back is given all it can take */
#define MAKING_RAMP_LEAST 0.1                      /* what it is given at once */

struct making_unit {
	double demand;
	uint32_t home;  /* row of distances */
	uint32_t pin;   /* site, or MAKING_NONE */
	uint32_t site;  /* in: what the last round gave, or MAKING_NONE; out: what this one gives */
	uint32_t named; /* in and out: what clients are told; another than site only while exploring */
	bool explore;   /* in: measuring another way is of use */
};

struct making_input {
	struct making_unit *units;
	uint32_t unit_count;
	const double *capacities; /* by site; 0: takes nobody */
	uint32_t site_count;
	const uint32_t *const *rows; /* rows[home][site]: round trip in us; NULL where no unit is at home */
	uint32_t home_count;
};

struct making_result {
	double demand, capacity;     /* totals */
	double moved, forced, fresh; /* demand that moved within the limit; at once; had no site */
	double explored;             /* demand named another site for a while */
	uint32_t moves, waiting;     /* prefixes moved within the limit; that will when there is room for it */
};

/* E_UNAVAILABLE: no site has capacity; nothing changes, so that the last map goes on. */
int map_make(const struct making_input *in, struct rng *rng, struct making_result *ret_result, struct error *err);

/* How much of its capacity a site may be given: all at first sight, but little by little after it was away. */
struct making_ramp {
	int64_t back_us; /* 0: was never away */
	bool known, away;
};
double making_ramp(struct making_ramp *r, bool up, int64_t now_us); /* 0 to 1 */

#endif
