/* SPDX-License-Identifier: Apache-2.0 */
/* A DNS query from anybody against a small zone: a reply is silent or whole, within its limit, and never answers a
 * reply. */
#include "net/dns.h"
#include "serve/scheduler/dns_zone.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct dns_zone *zone_make(void)
{
	static const char report[] =
	    "{\"id\":\"n-1\",\"site\":\"west\",\"roles\":\"edge\",\"state\":\"ready\",\"boot\":1,\"seq\":1,"
	    "\"api_url\":\"http://10.0.0.1:80\",\"models\":[{\"name\":\"x:latest\",\"state\":\"ready\",\"slots\":8}]}";
	struct node_map *map = node_map_new();
	struct node_report r;
	struct dns_zone *zone;
	static struct dns_scene scene = {.ttl_us = 20000000, .why = true, .own = {.bits = 32, .bytes = {127, 0, 0, 1}}};
	struct str lines[] = {STR("10.1.0.0/16=west"), STR("10.1.7.0/24=east"), STR("2001:db8::/32=east")};
	if (node_report_parse(str_from(report), &r, NULL) < 0 || node_map_report(map, &r, 1000, NULL) < 0 ||
	    node_map_set_zones(map, lines, 3, NULL) < 0 || dns_zone_new(STR("mdn.test"), &zone, NULL) < 0)
		abort();
	node_report_fini(&r);
	scene.view = dns_view_new(map, NULL, 2000);
	node_map_free(map);
	dns_zone_set(zone, &scene);
	return zone; /* with its view, for the life of the process */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct dns_zone *zone;
	static const struct ip from = {.bits = 32, .bytes = {192, 0, 2, 1}};
	uint8_t out[DNS_REPLY_SIZE];
	if (!zone)
		zone = zone_make();
	for (int tcp = 0; tcp < 2; tcp++) {
		size_t len = dns_zone_answer(zone, data, size, &from, tcp, 2000, out);
		if (len == 0)
			continue;
		if (len < DNS_HEADER_SIZE || len > (tcp ? DNS_REPLY_SIZE : DNS_UDP_SIZE) || !(out[2] & 0x80) ||
		    data[2] & 0x80 || memcmp(out, data, 2) != 0)
			abort();
		struct dns_query q;
		if (dns_query_parse(out, len, &q) != DNS_DROP)
			abort();
	}
	return 0;
}
