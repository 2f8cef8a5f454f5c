/* SPDX-License-Identifier: Apache-2.0 */
/* coverage.h - a coverage-zone file: which networks of clients belong to which site, and where sites lie on the globe.
 *
 * The format is Apache Traffic Control's, read as it is:
 *   {"coverageZones": {"SITE": {"network": ["192.0.2.0/24"], "network6": ["2001:db8::/32"],
 *                               "coordinates": {"latitude": 40.7, "longitude": -74}}}}
 * Keys that say nothing of that (revision, customerName, backupZones) are passed over. Bits past a prefix's length are
 * cut. Owns all it holds; zeroed is empty. Errors name the zone and the place in its list. Pure.
 * Source: Traffic Control, "Coverage Zone File", traffic_router/coverage-zone.
 */
#ifndef MDN_CORE_COVERAGE_H
#define MDN_CORE_COVERAGE_H

#include "core/lpm.h"

struct coverage_zone {
	char *site;
	bool placed; /* coordinates are given */
	double latitude, longitude;
};

struct coverage_net {
	struct ip_prefix prefix;
	uint32_t zone;
};

struct coverage {
	struct coverage_zone *zones;
	uint32_t zone_count;
	struct coverage_net *nets; /* as in the file: of the same prefix twice the first counts */
	uint32_t net_count;
};

int coverage_parse(struct str json, struct coverage *ret_coverage, struct error *err); /* E_INVAL, E_LIMIT */
void coverage_fini(struct coverage *c);

#endif
