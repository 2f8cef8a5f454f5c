/* SPDX-License-Identifier: Apache-2.0 */
/* distance.h - sites by name and number, and the round trip between any two of them.
 *
 * Configured beats measured beats what the places on the globe make likely beats the defaults of node_map.h. Round
 * trips are symmetric. A measured one is the least of the last one to two windows of 30 s, so that it follows a longer
 * way but not a queue. Sites are never forgotten (at most SITES_MAX). Owned by the node map; zeroed is empty and valid.
 * Microseconds. Pure, one thread.
 */
#ifndef MDN_CORE_DISTANCE_H
#define MDN_CORE_DISTANCE_H

#include "base/error.h"
#include "core/hash.h"
#include "core/report.h"

#define SITES_MAX 65536
#define SITE_PAIRS_MAX 4194304 /* measured pairs remembered; more stay unknown */
#define DISTANCE_MOST_US (INT64_C(3600) * 1000 * 1000)

struct site_pair {
	uint32_t a, b;               /* a <= b */
	int64_t configured_us;       /* -1: not */
	int64_t window_us;           /* start of the window of `now` */
	int64_t least_us, before_us; /* of this window and the one before; -1: none */
};

struct site_place {
	bool known;
	double latitude, longitude; /* degrees */
};

struct distance_rows; /* tables for decisions, made when first asked for */

struct distances {
	char **names;
	struct site_place *places; /* by site, place_count of them */
	uint32_t count, cap, place_count;
	struct hash_index by_name;
	struct site_pair *pairs;
	uint32_t pair_count, pair_cap;
	struct hash_index by_pair;
	struct distance_rows *rows;
	uint64_t changes; /* rises when a site or a distance does */
};

void distances_fini(struct distances *d);
void distances_copy(const struct distances *d, struct distances *ret_copy);
int distances_site(struct distances *d, struct str name, uint32_t *ret_site, struct error *err); /* found or made */
uint32_t distances_site_find(const struct distances *d, struct str name);                        /* UINT32_MAX: none */
struct str distances_site_name(const struct distances *d, uint32_t site);
int distances_configure(struct distances *d, const struct str *lines, size_t count, struct error *err);
void distances_measured(struct distances *d, uint32_t a, uint32_t b, int64_t rtt_us, int64_t now_us);
void distances_place(struct distances *d, uint32_t site, double latitude, double longitude);
void distances_unplace(struct distances *d); /* all sites */
bool distances_is_configured(const struct distances *d, uint32_t a, uint32_t b);
int64_t distances_between(const struct distances *d, uint32_t a, uint32_t b);
/* distances_between(d, site, i) for every i < count; for readers on other threads, which keep rows of their own. */
void distances_row(const struct distances *d, uint32_t site, uint32_t *ret_row);
/* One number per site; lives until the next change of d. */
const uint32_t *distances_from(const struct distances *d, uint32_t site);
void distances_format(const struct distances *d, struct buf *out); /* the configured ones, as in docs/wire.md */
struct yyjson_val;
int distances_parse(struct distances *d, struct yyjson_val *array, struct error *err);

#endif
