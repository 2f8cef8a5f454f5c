/* SPDX-License-Identifier: Apache-2.0 */
/* Pairs are found by a hash of both numbers. Decisions read whole rows instead (a lookup per candidate would cost more
 * than the rest of the score); a row is made when its site is first a client's, and kept in step by each change. Rows
 * are dropped altogether when they pass ROWS_BYTES_MAX or sites outgrow them. */
#include "core/distance.h"

#include "core/node_map.h"

#include "base/json.h"

#include <math.h>
#include <stdlib.h>

#define WINDOW_US (30 * INT64_C(1000) * 1000)
/* Round trip by the way on the globe: light in fibre takes 10 us a km there and back, lines go half as far again. */
#define US_PER_KM 15.0
#define PLACE_LEAST_US 1000.0 /* access, routers */
#define EARTH_KM 6371.0
#define RADIANS (3.14159265358979323846 / 180)
#define ROWS_BYTES_MAX (64u << 20)

struct distance_rows {
	uint32_t **rows; /* NULL: not made */
	uint32_t cap;    /* sites a row has room for; rows[] too */
	size_t bytes;
};

static void rows_drop(struct distances *d)
{
	if (!d->rows)
		return;
	for (uint32_t i = 0; i < d->rows->cap; i++)
		free(d->rows->rows[i]);
	free(d->rows->rows);
	*d->rows = (struct distance_rows){0};
}

void distances_fini(struct distances *d)
{
	for (uint32_t i = 0; i < d->count; i++)
		free(d->names[i]);
	free(d->names);
	free(d->places);
	free(d->pairs);
	hash_index_fini(&d->by_name);
	hash_index_fini(&d->by_pair);
	rows_drop(d);
	free(d->rows);
	*d = (struct distances){0};
}

void distances_copy(const struct distances *d, struct distances *ret_copy)
{
	struct distances c = {
	    .count = d->count, .cap = d->count, .pair_count = d->pair_count, .pair_cap = d->pair_count};
	c.changes = d->changes;
	c.rows = NEW(struct distance_rows);
	c.names = mem_resize(NULL, c.count + 1, sizeof(*c.names));
	for (uint32_t i = 0; i < c.count; i++)
		c.names[i] = str_dup(str_from(d->names[i]));
	c.place_count = d->place_count;
	c.places = mem_resize(NULL, c.place_count + 1, sizeof(*c.places));
	if (c.place_count > 0)
		memcpy(c.places, d->places, c.place_count * sizeof(*c.places));
	c.pairs = mem_resize(NULL, c.pair_count + 1, sizeof(*c.pairs));
	if (c.pair_count > 0)
		memcpy(c.pairs, d->pairs, c.pair_count * sizeof(*c.pairs));
	hash_index_copy(&d->by_name, &c.by_name);
	hash_index_copy(&d->by_pair, &c.by_pair);
	*ret_copy = c;
}

uint32_t distances_site_find(const struct distances *d, struct str name)
{
	uint32_t at;
	uint64_t hash = hash_str(name);
	for (size_t cursor = 0; hash_index_next(&d->by_name, hash, &cursor, &at);) {
		if (str_equal(str_from(d->names[at]), name))
			return at;
	}
	return UINT32_MAX;
}

int distances_site(struct distances *d, struct str name, uint32_t *ret_site, struct error *err)
{
	uint32_t at = distances_site_find(d, name);
	if (at == UINT32_MAX) {
		if (name.len >= NODE_TEXT_SIZE)
			return error_set(err, E_LIMIT, "a site's name is longer than %d bytes", NODE_TEXT_SIZE - 1);
		if (d->count >= SITES_MAX)
			return error_set(err, E_LIMIT, "more than %d different sites; use fewer names", SITES_MAX);
		if (d->count == d->cap) {
			d->cap = d->cap ? d->cap * 2 : 64;
			d->names = mem_resize(d->names, d->cap, sizeof(char *));
		}
		at = d->count++;
		d->changes++;
		d->names[at] = str_dup(name);
		hash_index_add(&d->by_name, hash_str(name), at);
		if (!d->rows)
			d->rows = NEW(struct distance_rows);
		if (d->rows->cap < d->count)
			rows_drop(d);
	}
	*ret_site = at;
	return 0;
}

struct str distances_site_name(const struct distances *d, uint32_t site)
{
	return str_from(d->names[site]);
}

/* ---- pairs ----------------------------------------------------------------------------------- */

static uint64_t pair_hash(uint32_t a, uint32_t b)
{
	return hash_join(a, b);
}

static struct site_pair *pair_find(const struct distances *d, uint32_t a, uint32_t b)
{
	uint32_t low = a < b ? a : b, high = a < b ? b : a, at;
	for (size_t cursor = 0; hash_index_next(&d->by_pair, pair_hash(low, high), &cursor, &at);) {
		if (d->pairs[at].a == low && d->pairs[at].b == high)
			return &d->pairs[at];
	}
	return NULL;
}

static struct site_pair *pair_of(struct distances *d, uint32_t a, uint32_t b)
{
	struct site_pair *p = pair_find(d, a, b);
	if (p || d->pair_count >= SITE_PAIRS_MAX)
		return p;
	if (d->pair_count == d->pair_cap) {
		d->pair_cap = d->pair_cap ? d->pair_cap * 2 : 64;
		d->pairs = mem_resize(d->pairs, d->pair_cap, sizeof(*d->pairs));
	}
	p = &d->pairs[d->pair_count];
	*p = (struct site_pair){
	    .a = a < b ? a : b, .b = a < b ? b : a, .configured_us = -1, .least_us = -1, .before_us = -1};
	hash_index_add(&d->by_pair, pair_hash(p->a, p->b), d->pair_count++);
	return p;
}

/* Haversine; -1: one of the two is not placed. */
static int64_t placed_us(const struct distances *d, uint32_t a, uint32_t b)
{
	if (a >= d->place_count || b >= d->place_count || !d->places[a].known || !d->places[b].known)
		return -1;
	const struct site_place *p = &d->places[a], *q = &d->places[b];
	double up = sin((q->latitude - p->latitude) * RADIANS / 2),
	       along = sin((q->longitude - p->longitude) * RADIANS / 2);
	double h = up * up + cos(p->latitude * RADIANS) * cos(q->latitude * RADIANS) * along * along;
	return (int64_t)(PLACE_LEAST_US + 2 * EARTH_KM * asin(sqrt(h < 1 ? h : 1)) * US_PER_KM);
}

void distances_place(struct distances *d, uint32_t site, double latitude, double longitude)
{
	if (site >= d->place_count) {
		d->places = mem_resize(d->places, d->cap, sizeof(*d->places));
		memset(d->places + d->place_count, 0, (d->cap - d->place_count) * sizeof(*d->places));
		d->place_count = d->cap;
	}
	d->places[site] = (struct site_place){true, latitude, longitude};
	d->changes++;
	rows_drop(d);
}

void distances_unplace(struct distances *d)
{
	if (d->place_count == 0)
		return;
	d->place_count = 0;
	d->changes++;
	rows_drop(d);
}

static int64_t pair_us(const struct distances *d, const struct site_pair *p, uint32_t a, uint32_t b)
{
	if (p && p->configured_us >= 0)
		return p->configured_us;
	if (p && p->least_us >= 0)
		return p->before_us >= 0 && p->before_us < p->least_us ? p->before_us : p->least_us;
	if (a == b)
		return NODE_DISTANCE_LOCAL_US;
	int64_t us = placed_us(d, a, b);
	return us >= 0 ? us : NODE_DISTANCE_UNKNOWN_US;
}

bool distances_is_configured(const struct distances *d, uint32_t a, uint32_t b)
{
	const struct site_pair *p = pair_find(d, a, b);
	return p && p->configured_us >= 0;
}

int64_t distances_between(const struct distances *d, uint32_t a, uint32_t b)
{
	return pair_us(d, pair_find(d, a, b), a, b);
}

void distances_measured(struct distances *d, uint32_t a, uint32_t b, int64_t rtt_us, int64_t now_us)
{
	struct site_pair *p = pair_of(d, a, b);
	if (!p)
		return;
	int64_t was_us = pair_us(d, p, a, b);
	if (p->least_us < 0 || now_us - p->window_us >= WINDOW_US) {
		p->before_us = p->least_us;
		p->least_us = rtt_us;
		p->window_us = now_us;
	} else if (rtt_us < p->least_us) {
		p->least_us = rtt_us;
	}
	int64_t is_us = pair_us(d, p, a, b);
	d->changes += is_us != was_us;
	if (is_us == was_us || a >= d->rows->cap || b >= d->rows->cap)
		return;
	if (d->rows->rows[a])
		d->rows->rows[a][b] = (uint32_t)is_us;
	if (d->rows->rows[b])
		d->rows->rows[b][a] = (uint32_t)is_us;
}

void distances_row(const struct distances *d, uint32_t site, uint32_t *ret_row)
{
	for (uint32_t i = 0; i < d->count; i++)
		ret_row[i] = (uint32_t)distances_between(d, site, i);
}

const uint32_t *distances_from(const struct distances *d, uint32_t site)
{
	struct distance_rows *t = d->rows;
	if (t->cap < d->count || t->bytes > ROWS_BYTES_MAX) {
		rows_drop((struct distances *)(uintptr_t)d); /* a cache: nothing a caller can tell */
		t->cap = d->cap;
		t->rows = mem_new(t->cap * sizeof(*t->rows));
	}
	if (t->rows[site])
		return t->rows[site];
	uint32_t *row = mem_resize(NULL, t->cap, sizeof(*row));
	for (uint32_t i = 0; i < t->cap; i++)
		row[i] = (uint32_t)distances_between(d, site, i);
	t->bytes += t->cap * sizeof(*row);
	t->rows[site] = row;
	return row;
}

/* ---- configuration and wire ------------------------------------------------------------------ */

static bool name_is_fine(struct str s)
{
	for (size_t i = 0; i < s.len; i++) {
		char c = s.base[i];
		if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '.' &&
		    c != '_' && c != '-')
			return false;
	}
	return s.len > 0 && s.len < NODE_TEXT_SIZE;
}

static int line_refused(struct str line, struct error *err, const char *why)
{
	return error_set(err, E_INVAL, "distance \"" STR_FMT "\": %s", (int)(line.len < 128 ? line.len : 128),
	                 line.base ? line.base : "", why);
}

static int line_parse(struct str line, struct str *ret_a, struct str *ret_b, int64_t *ret_us, struct error *err)
{
	struct str duration, pair = str_trim(str_cut(line, '=', &duration)), b;
	struct str a = str_cut(pair, '/', &b);
	if (a.len == pair.len) {
		a = str_cut(pair, '-', &b);
		if (b.len > 0 && memchr(b.base, '-', b.len))
			return line_refused(line, err, "which '-' parts the two sites? Write SITE/SITE=DURATION");
	}
	a = str_trim(a);
	b = str_trim(b);
	if (!name_is_fine(a) || !name_is_fine(b))
		return line_refused(line, err, "write SITE-SITE=DURATION, such as east-west=20ms");
	if (str_to_duration_us(str_trim(duration), ret_us) < 0 || *ret_us < 0 || *ret_us > DISTANCE_MOST_US)
		return line_refused(line, err, "the duration must be like 800us or 20ms, and an hour at most");
	*ret_a = a;
	*ret_b = b;
	return 0;
}

static int configure_pair(struct distances *d, struct str a, struct str b, int64_t us, struct error *err)
{
	uint32_t at, bt;
	int rc;
	if ((rc = distances_site(d, a, &at, err)) < 0 || (rc = distances_site(d, b, &bt, err)) < 0)
		return rc;
	struct site_pair *p = pair_of(d, at, bt);
	if (!p)
		return error_set(err, E_LIMIT, "more than %d pairs of sites", SITE_PAIRS_MAX);
	p->configured_us = us;
	return 0;
}

int distances_configure(struct distances *d, const struct str *lines, size_t count, struct error *err)
{
	struct str a, b;
	int64_t us;
	int rc = 0;
	for (size_t i = 0; i < count; i++) {
		if ((rc = line_parse(lines[i], &a, &b, &us, err)) < 0)
			return rc;
	}
	d->changes++;
	for (uint32_t i = 0; i < d->pair_count; i++)
		d->pairs[i].configured_us = -1;
	for (size_t i = 0; i < count && rc == 0; i++) {
		if ((rc = line_parse(lines[i], &a, &b, &us, err)) == 0)
			rc = configure_pair(d, a, b, us, err);
	}
	rows_drop(d);
	return rc;
}

void distances_format(const struct distances *d, struct buf *out)
{
	const char *separator = "";
	for (uint32_t i = 0; i < d->pair_count; i++) {
		const struct site_pair *p = &d->pairs[i];
		if (p->configured_us < 0)
			continue;
		buf_printf(out, "%s{\"from\":", separator);
		buf_append_json(out, str_from(d->names[p->a]));
		buf_append_str(out, STR(",\"to\":"));
		buf_append_json(out, str_from(d->names[p->b]));
		buf_printf(out, ",\"us\":%lld}", (long long)p->configured_us);
		separator = ",";
	}
}

int distances_parse(struct distances *d, yyjson_val *array, struct error *err)
{
	size_t i, n;
	yyjson_val *item;
	yyjson_arr_foreach(array, i, n, item)
	{
		struct str from = {0}, to = {0};
		int64_t us = -1;
		int rc;
		if ((rc = json_str(item, "from", &from, err)) < 0 || (rc = json_str(item, "to", &to, err)) < 0 ||
		    (rc = json_i64(item, "us", 0, DISTANCE_MOST_US, &us, err)) < 0)
			return rc;
		if (us < 0)
			return error_set(err, E_INVAL, "a distance of the map has no \"us\"; it is required");
		if ((rc = configure_pair(d, from, to, us, err)) < 0)
			return rc;
	}
	rows_drop(d);
	return 0;
}
