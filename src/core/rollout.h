/* SPDX-License-Identifier: Apache-2.0 */
/* rollout.h - from one version of a model to the next, node by node, in waves behind health gates.
 *
 *   moving -> soaking -> moving (next wave) ... -> done
 *      any of them -> halted -> moving ; -> returning -> returned
 *
 * Nodes have a fixed order: canaries first, then by a hash of node and model. A wave is the first so many of them. A
 * node of the wave first fetches the new version; once it is on disk it is *granted* it, which is to be told to run it.
 * At most `unavailable_percent` of all nodes are between being granted and being ready. What nodes are told follows
 * from the roll-out and the grants alone, so that whoever keeps those on disk can be killed at any moment. Pure; plain
 * values; times are the caller's wall-clock microseconds.
 */
#ifndef MDN_CORE_ROLLOUT_H
#define MDN_CORE_ROLLOUT_H

#include "base/error.h"
#include "base/str.h"

#define ROLLOUT_WAVES_MAX 8

enum rollout_phase {
	ROLLOUT_MOVING,
	ROLLOUT_SOAKING,
	ROLLOUT_HALTED,
	ROLLOUT_RETURNING,
	ROLLOUT_RETURNED,
	ROLLOUT_DONE,
};

struct rollout_policy {
	bool gated;                          /* false: everywhere at once, whatever becomes of it */
	bool canary;                         /* the first wave is the canaries */
	uint8_t percents[ROLLOUT_WAVES_MAX]; /* rising, the last is 100; none: 100 */
	size_t percent_count;
	int64_t soak_us;
	double error_factor;     /* error rate: at most this times the old version's, and a percent */
	double latency_factor;   /* TTFT and ITL: at most this times the old version's, and a little */
	uint32_t least_requests; /* fewer are not judged */
	uint8_t unavailable_percent;
	int64_t patience_us; /* a node of the wave that is not ready so long after it was granted fails the gate */
	bool halt_only;      /* a failed gate halts and does not roll back */
};
#define ROLLOUT_POLICY_DEFAULT \
	{ \
		.error_factor = 2, .latency_factor = 1.5, .least_requests = 20, .unavailable_percent = 25, \
		.patience_us = INT64_C(1800) * 1000000, .soak_us = INT64_C(600) * 1000000, \
	}
int rollout_percents_parse(struct str text, struct rollout_policy *policy, struct error *err); /* "10,50,100" */

struct rollout_measure { /* sums over the same requests */
	uint64_t requests, errors;
	uint64_t ttft_us; /* of requests */
	uint64_t tokens, decode_us;
};
void rollout_measure_add(struct rollout_measure *to, const struct rollout_measure *more);

struct rollout {
	struct rollout_policy policy;
	enum rollout_phase phase;
	uint32_t wave;
	int64_t begun_us, since_us;        /* since: of the phase */
	struct rollout_measure old, fresh; /* what the caller measured: of the old version since the beginning, of the
	                                      new one since the wave began */
	char why[200];                     /* of the last halt or return; while moving, what it waits for */
};

enum rollout_have { HAVE_NOTHING, HAVE_ON_DISK, HAVE_LOADING, HAVE_READY, HAVE_FAILED };
struct rollout_node {
	const char *name;
	uint64_t key; /* stable hash of node and model */
	bool canary, away;
	enum rollout_have old, fresh;
	const char *error;  /* of HAVE_FAILED */
	int64_t granted_us; /* 0: not granted. In and out */
	size_t rank;        /* out */
};
enum rollout_want { WANT_OLD, WANT_FETCH, WANT_NEW };

void rollout_begin(struct rollout *r, const struct rollout_policy *policy, int64_t now_us);
void rollout_rank(const struct rollout *r, struct rollout_node *nodes, size_t count); /* sorts, fills rank */
/* Ranks nodes, moves on as far as it can now; true when anything but the measures and `why` changed. */
bool rollout_step(struct rollout *r, struct rollout_node *nodes, size_t count, int64_t now_us);
/* After rollout_step, with its target. WANT_FETCH and WANT_OLD: the old one runs. */
enum rollout_want rollout_want(const struct rollout *r, const struct rollout_node *node, size_t target);
size_t rollout_target(const struct rollout *r, const struct rollout_node *nodes, size_t count); /* nodes in the wave */
uint32_t rollout_waves(const struct rollout_policy *p);

/* By people: E_CONFLICT in words when it makes no sense now. */
int rollout_halt(struct rollout *r, int64_t now_us, const char *why, struct error *err);
/* Also of one that was rolled back. Nodes that failed lose their grant, and so try again. */
int rollout_continue(struct rollout *r, struct rollout_node *nodes, size_t count, int64_t now_us, struct error *err);
int rollout_return(struct rollout *r, int64_t now_us, const char *why, struct error *err);
const char *rollout_phase_name(enum rollout_phase p);
int rollout_phase_parse(struct str text, enum rollout_phase *ret_phase);

#endif
