/* SPDX-License-Identifier: Apache-2.0 */
/* Strangers choose the addresses that are counted here, but a window has few lines, so that a bad case of the index is
 * a short one. */
#include "core/demand.h"

#include "base/json.h"
#include "base/limits.h"

#include <stdlib.h>

#define PREFIX_V4 24
#define PREFIX_V6 48
#define BUSY_MOST_US (INT64_C(1) << 50) /* of a line: keeps sums far from overflow */
#define WINDOW_MOST_US (3600 * INT64_C(1000) * 1000)
#define RTT_MOST_US (60 * INT64_C(1000) * 1000)

struct ip_prefix demand_prefix(const struct ip *client)
{
	struct ip_prefix p = {.ip.bits = client->bits, .length = client->bits == 32 ? PREFIX_V4 : PREFIX_V6};
	memcpy(p.ip.bytes, client->bytes, p.length / 8u);
	return p;
}

uint64_t demand_hash(const struct ip_prefix *p)
{
	return hash_join(hash_bytes(p->ip.bytes, p->ip.bits / 8u), p->length);
}

static struct demand_line *line_of(struct demand *d, const struct ip_prefix *p)
{
	uint64_t hash = demand_hash(p);
	uint32_t at;
	for (size_t cursor = 0; hash_index_next(&d->by_prefix, hash, &cursor, &at);) {
		if (ip_prefix_equal(&d->lines[at].prefix, p))
			return &d->lines[at];
	}
	if (d->count == LIMIT_DEMAND)
		return NULL;
	if (d->count == d->cap) {
		d->cap = d->cap ? d->cap * 2 : 16;
		d->lines = mem_resize(d->lines, d->cap, sizeof(*d->lines));
	}
	d->lines[d->count] = (struct demand_line){.prefix = *p};
	hash_index_add(&d->by_prefix, hash, d->count);
	return &d->lines[d->count++];
}

static void line_add(struct demand *d, const struct ip_prefix *p, int64_t busy_us, int64_t rtt_us)
{
	struct demand_line *l = line_of(d, p);
	if (!l) {
		d->untold_us += busy_us;
		return;
	}
	l->busy_us += busy_us;
	if (rtt_us > 0 && (l->rtt_us == 0 || rtt_us < l->rtt_us))
		l->rtt_us = rtt_us;
}

void demand_add(struct demand *d, const struct ip *client, int64_t busy_us, int64_t rtt_us)
{
	struct ip_prefix p = demand_prefix(client);
	line_add(d, &p, busy_us > 0 ? busy_us : 0, rtt_us);
}

void demand_clear(struct demand *d)
{
	hash_index_fini(&d->by_prefix);
	d->count = 0;
	d->untold_us = 0;
}

void demand_fini(struct demand *d)
{
	hash_index_fini(&d->by_prefix);
	free(d->lines);
	*d = (struct demand){0};
}

void demand_format(const struct demand *d, const char *node_id, int64_t window_us, struct buf *out)
{
	buf_append_str(out, STR("{\"id\":"));
	buf_append_json(out, str_from(node_id));
	buf_printf(out, ",\"window_us\":%lld,\"demand\":[", (long long)window_us);
	for (uint32_t i = 0; i < d->count; i++) {
		const struct demand_line *l = &d->lines[i];
		char text[IP_TEXT_SIZE];
		ip_format(&l->prefix.ip, text);
		buf_printf(out, "%s{\"prefix\":\"%s/%u\",\"busy_us\":%lld", i > 0 ? "," : "", text, l->prefix.length,
		           (long long)l->busy_us);
		if (l->rtt_us > 0)
			buf_printf(out, ",\"rtt_us\":%lld", (long long)l->rtt_us);
		buf_append_str(out, STR("}"));
	}
	buf_append_str(out, STR("]}"));
}

static int line_parse(struct demand *d, yyjson_val *item, struct error *err)
{
	struct str text = {0};
	struct ip_prefix p;
	int64_t busy_us = 0, rtt_us = 0;
	int rc;
	if ((rc = json_str(item, "prefix", &text, err)) < 0 ||
	    (rc = json_i64(item, "busy_us", 0, BUSY_MOST_US, &busy_us, err)) < 0 ||
	    (rc = json_i64(item, "rtt_us", 0, RTT_MOST_US, &rtt_us, err)) < 0)
		return rc;
	if (ip_prefix_parse(text, &p) < 0 || p.length != (p.ip.bits == 32 ? PREFIX_V4 : PREFIX_V6))
		return error_set(err, E_INVAL,
		                 "\"prefix\" of a line of \"demand\" must be a /%d of IPv4 or a /%d of IPv6", PREFIX_V4,
		                 PREFIX_V6);
	line_add(d, &p, busy_us, rtt_us);
	return 0;
}

static int document_read(yyjson_val *root, struct demand *d, char *id, int64_t *window_us, struct error *err)
{
	yyjson_val *lines = NULL, *item;
	struct str text = {0};
	size_t i, n;
	int rc;
	if (!yyjson_is_obj(root))
		return error_set(err, E_INVAL, "demand must be a JSON object");
	if ((rc = json_str(root, "id", &text, err)) < 0 ||
	    (rc = json_i64(root, "window_us", 1, WINDOW_MOST_US, window_us, err)) < 0 ||
	    (rc = json_arr(root, "demand", &lines, err)) < 0)
		return rc;
	if (text.len == 0 || !str_copy(text, id, NODE_ID_SIZE) || *window_us == 0 || !lines)
		return error_set(err, E_INVAL, "demand needs \"id\", \"window_us\" and \"demand\"");
	if (yyjson_arr_size(lines) > LIMIT_DEMAND)
		return error_set(err, E_LIMIT, "%zu lines of demand; at most %d are taken", yyjson_arr_size(lines),
		                 LIMIT_DEMAND);
	yyjson_arr_foreach(lines, i, n, item)
	{
		if ((rc = line_parse(d, item, err)) < 0)
			return rc;
	}
	return 0;
}

int demand_parse(struct str json, struct demand *ret_demand, char ret_id[static NODE_ID_SIZE], int64_t *ret_window_us,
                 struct error *err)
{
	struct demand d = {0};
	yyjson_doc *doc;
	int64_t window_us = 0;
	int rc = json_parse(json, &doc, err);
	if (rc < 0)
		return rc;
	rc = document_read(yyjson_doc_get_root(doc), &d, ret_id, &window_us, err);
	yyjson_doc_free(doc);
	if (rc < 0) {
		demand_fini(&d);
		return rc;
	}
	*ret_demand = d;
	*ret_window_us = window_us;
	return 0;
}
