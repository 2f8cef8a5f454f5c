/* SPDX-License-Identifier: Apache-2.0 */
/* scenario.h - what a serving simulation is about: users, network, sites, engines, names, mishaps. One YAML file.
 *
 * Read by libcyaml against a schema; unknown keys, wrong types and values out of range are refused with file and line.
 * A scenario owns its texts. Durations are written with a unit ("20s") and kept in microseconds; rates are per second.
 * Words for every key: docs/rooms/sim.md.
 */
#ifndef MDN_SIM_SCENARIO_H
#define MDN_SIM_SCENARIO_H

#include "base/error.h"
#include "base/str.h"

enum {
	SCENARIO_SITES_MAX = 4096,
	SCENARIO_NODES_MAX = 65536,
	SCENARIO_MODELS_MAX = 16,
	SCENARIO_EVENTS_MAX = 64,
	SCENARIO_TRIES_MAX = 16
};

enum sim_policy {
	SIM_MDN,
	SIM_SINGLE_POOL,
	SIM_ROUND_ROBIN,
	SIM_RANDOM,
	SIM_POWER_OF_TWO,
	SIM_LEAST_LOAD,
	SIM_POLICIES
};
extern const char *const sim_policy_names[SIM_POLICIES];

struct scenario_model {
	char *name;
	double share;       /* of all requests */
	double nodes_share; /* of the nodes that have it; at least one in the network. Default: 1 */
};

/* So many times the usual rate, of one model or region or all, for a while; a smooth rise and fall. */
struct scenario_flash {
	char *at, *lasts, *model;
	double times;
	double region; /* 1 .. regions; 0: everywhere */
	int64_t at_us, lasts_us;
	int model_at; /* -1: all */
};

/* The site is gone, with all that was on it: connections are refused, or (silent) not answered. */
struct scenario_failure {
	char *at, *lasts;
	double site; /* 1: the largest */
	bool silent;
	int64_t at_us, lasts_us;
};

struct scenario_users {
	double count, grow_from; /* a day; grow_from: on the first day, then the same factor each day. 0: constant */
	double requests_per_day;
	double diurnal; /* the rate goes from 1 - this to 1 + this */
	char *peak;     /* time of day */
	int64_t peak_us;
};

struct scenario_tokens { /* lognormal, cut off at most */
	double prompt_median, prompt_sigma, prompt_most;
	double output_median, output_sigma, output_most;
	double cached_share; /* of a prompt: in the prefix cache */
	char *source;
};

struct scenario_network {
	double regions, cities;     /* cities are places of users, by Zipf's law */
	double width_km, height_km; /* regions lie on a grid over it */
	double region_km;           /* cities around their region's capital */
	double us_per_km;           /* of a round trip */
	char *access;               /* round trip between a user and his city */
	int64_t access_us;
};

struct scenario_engine {
	double slots, kv_tokens, prefill_tokens_per_s, queue; /* queue: requests that may wait on a node */
	char *itl_base, *itl_slope, *queue_wait;              /* ITL = base + slope x running */
	int64_t itl_base_us, queue_wait_us;
	double itl_slope_us;
};

struct scenario_sites {
	double count, nodes;   /* in the largest cities, of every region first; nodes in the network, by users nearby */
	double pool_addresses; /* of the single pool */
};

struct scenario_dns {
	char *ttl;
	double public_share, ecs_share; /* of users with a resolver far away (region 1); of those, with client subnet */
	int64_t ttl_us;
};

struct scenario_gateway {
	double tries; /* nodes a request is offered to before it is told "busy" */
};

struct scenario_reports {
	char *period, *map_age; /* map_age: gateways see the map only so often; 0s: reports as they come */
	int64_t period_us, map_age_us;
};

struct scenario {
	char *name, *about, *mode, *duration, *step, *day;
	uint64_t seed;
	bool flows; /* mode: flows */
	int64_t duration_us, step_us, day_us;
	struct scenario_users users;
	struct scenario_tokens tokens;
	struct scenario_network network;
	struct scenario_engine engine;
	struct scenario_sites sites;
	struct scenario_dns dns;
	struct scenario_reports reports;
	struct scenario_gateway gateway;
	struct scenario_model *models;
	unsigned model_count;
	struct scenario_flash *flash;
	unsigned flash_count;
	struct scenario_failure *failures;
	unsigned failure_count;
	char **policy_names;
	unsigned policy_count;
	enum sim_policy policies[SIM_POLICIES];
};

/* `path` stands for the file in error words. */
int scenario_parse(const char *path, struct str text, struct scenario **ret_scenario, struct error *err);
int scenario_read(const char *path, struct scenario **ret_scenario, struct error *err);
void scenario_free(struct scenario *s);

#endif
