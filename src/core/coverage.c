/* SPDX-License-Identifier: Apache-2.0 */
/* One pass over the document. Zones and nets are counted before they are made room for, so that a file of any shape
 * costs two allocations and the names. A site may have no network (it is then only placed). */
#include "core/coverage.h"

#include "base/json.h"
#include "base/limits.h"
#include "core/report.h"

#include <stdlib.h>

#define ZONES_MAX 65536

void coverage_fini(struct coverage *c)
{
	for (uint32_t i = 0; i < c->zone_count; i++)
		free(c->zones[i].site);
	free(c->zones);
	free(c->nets);
	*c = (struct coverage){0};
}

/* As ip_prefix_parse, but bits past the length are cut. */
static int prefix_read(struct str text, struct ip_prefix *ret_prefix)
{
	struct str rest, address = str_cut(text, '/', &rest);
	struct ip_prefix p;
	uint64_t length;
	if (ip_parse(address, &p.ip) < 0)
		return E_INVAL;
	p.length = p.ip.bits;
	if (address.len < text.len) {
		if (str_to_u64(rest, &length) < 0 || length > p.ip.bits)
			return E_INVAL;
		p.length = (uint8_t)length;
	}
	for (unsigned i = p.length; i < p.ip.bits; i++)
		p.ip.bytes[i / 8] &= (uint8_t) ~(1u << (7 - i % 8));
	*ret_prefix = p;
	return 0;
}

static struct str cut_text(struct str s)
{
	return (struct str){s.base, s.len < 128 ? s.len : 128};
}

static int nets_read(struct coverage *c, yyjson_val *zone, const char *key, struct error *err)
{
	yyjson_val *list = NULL, *item;
	const char *site = c->zones[c->zone_count - 1].site;
	size_t i, n;
	int rc = json_arr(zone, key, &list, err);
	if (rc < 0)
		return error_prefix(err, "zone \"%s\"", site);
	if (!list)
		return 0;
	if (c->net_count + yyjson_arr_size(list) > LIMIT_ZONES)
		return error_set(err, E_LIMIT, "zone \"%s\": more than %d networks in the file up to here", site,
		                 LIMIT_ZONES);
	c->nets = mem_resize(c->nets, c->net_count + yyjson_arr_size(list) + 1, sizeof(*c->nets));
	yyjson_arr_foreach(list, i, n, item)
	{
		struct coverage_net *net = &c->nets[c->net_count];
		struct str text = {yyjson_get_str(item), yyjson_get_len(item)};
		bool six = strcmp(key, "network6") == 0;
		if (!yyjson_is_str(item))
			return error_set(err, E_INVAL, "zone \"%s\": %s[%zu] is not a text such as \"%s\"", site, key,
			                 i, six ? "2001:db8::/32" : "192.0.2.0/24");
		if (prefix_read(text, &net->prefix) < 0)
			return error_set(err, E_INVAL,
			                 "zone \"%s\": %s[%zu], \"" STR_FMT "\", is not a prefix such as %s", site, key,
			                 i, STR_ARG(cut_text(text)), six ? "2001:db8::/32" : "192.0.2.0/24");
		net->zone = c->zone_count - 1;
		c->net_count++;
	}
	return 0;
}

static int place_read(struct coverage_zone *z, yyjson_val *zone, struct error *err)
{
	yyjson_val *at = NULL;
	double none = 1000;
	z->latitude = z->longitude = none;
	int rc = json_obj(zone, "coordinates", &at, err);
	if (rc == 0 && at && (rc = json_num(at, "latitude", -90, 90, &z->latitude, err)) == 0)
		rc = json_num(at, "longitude", -180, 180, &z->longitude, err);
	if (rc == 0 && at && (z->latitude >= none || z->longitude >= none))
		rc = error_set(err, E_INVAL, "\"coordinates\" need \"latitude\" and \"longitude\"");
	z->placed = rc == 0 && at;
	return rc < 0 ? error_prefix(err, "zone \"%s\"", z->site) : 0;
}

static int zone_read(struct coverage *c, struct str site, yyjson_val *zone, struct error *err)
{
	struct coverage_zone *z = &c->zones[c->zone_count];
	int rc;
	if (site.len == 0 || site.len >= NODE_TEXT_SIZE || memchr(site.base, '\0', site.len))
		return error_set(err, E_INVAL, "zone \"" STR_FMT "\": a site's name has 1 to %d bytes",
		                 STR_ARG(cut_text(site)), NODE_TEXT_SIZE - 1);
	*z = (struct coverage_zone){.site = str_dup(site)};
	c->zone_count++;
	if (!yyjson_is_obj(zone))
		return error_set(err, E_INVAL, "zone \"%s\" must be an object with \"network\" or \"network6\"",
		                 z->site);
	if ((rc = place_read(z, zone, err)) < 0 || (rc = nets_read(c, zone, "network", err)) < 0)
		return rc;
	return nets_read(c, zone, "network6", err);
}

int coverage_parse(struct str json, struct coverage *ret_coverage, struct error *err)
{
	struct coverage c = {0};
	yyjson_doc *doc;
	yyjson_val *zones = NULL, *name, *zone;
	size_t i, n;
	int rc = json_parse(json, &doc, err);
	if (rc < 0)
		return rc;
	if (!yyjson_is_obj(yyjson_doc_get_root(doc)))
		rc = error_set(err, E_INVAL, "a coverage-zone file is a JSON object with \"coverageZones\"");
	else if ((rc = json_obj(yyjson_doc_get_root(doc), "coverageZones", &zones, err)) == 0 && !zones)
		rc = error_set(err, E_INVAL, "there is no \"coverageZones\"; it is required (deep files are not read)");
	if (rc == 0 && yyjson_obj_size(zones) > ZONES_MAX)
		rc = error_set(err, E_LIMIT, "%zu zones; at most %d are taken", yyjson_obj_size(zones), ZONES_MAX);
	if (rc == 0) {
		c.zones = mem_resize(NULL, yyjson_obj_size(zones) + 1, sizeof(*c.zones));
		yyjson_obj_foreach(zones, i, n, name, zone)
		{
			const struct str site = {yyjson_get_str(name), yyjson_get_len(name)};
			if (rc == 0)
				rc = zone_read(&c, site, zone, err);
		}
	}
	yyjson_doc_free(doc);
	if (rc < 0) {
		coverage_fini(&c);
		return rc;
	}
	*ret_coverage = c;
	return 0;
}
