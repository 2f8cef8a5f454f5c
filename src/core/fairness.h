/* SPDX-License-Identifier: Apache-2.0 */
/* fairness.h - how much service each tenant has had, and who of those that wait has had least.
 *
 * The virtual token counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): each tenant has a
 * counter of the tokens it was given, divided by its weight. Input is charged when a request begins, without what
 * the prefix cache held; output as it is generated, so nobody need guess its length. Serve who waits with the smallest
 * counter. A tenant that had nothing waiting is lifted to the smallest counter of those that wait: idle time earns no
 * credit. When nobody waited it is lifted to the largest there ever was: what was given while nobody else wanted it is
 * forgotten.
 *
 * Of two tenants that both wait all the time, the counters differ by at most (input x longest prompt + output x what
 * all that run may still say) / weight (lemma 4.3 there): when the one ahead was last served it was not ahead.
 *
 * Pure; one thread. Owns its tenants; one is valid from fairness_hold until as many fairness_release. Idle tenants are
 * remembered only while that can matter, at most FAIRNESS_IDLE_MAX.
 */
#ifndef MDN_CORE_FAIRNESS_H
#define MDN_CORE_FAIRNESS_H

#include "base/str.h"

/* What a token costs. Output costs more: a step reads all weights for one token of each stream. */
enum { FAIRNESS_INPUT = 1, FAIRNESS_OUTPUT = 2 };
enum { FAIRNESS_IDLE_MAX = 1024, FAIRNESS_BUCKETS = 256 };

struct fairness_tenant {
	struct fairness_tenant *bucket_next, *prev,
	    *next;                        /* prev, next: those with something waiting, or the idle ones */
	double service, weight;           /* tokens / weight */
	uint32_t holds, waiting, running; /* requests: all; those that wait; the others */
	void *line;                       /* the caller's */
	uint64_t hash;
	size_t name_len;
	char name[];
};

struct fairness {
	struct fairness_tenant *buckets[FAIRNESS_BUCKETS];
	struct fairness_tenant *backlog, *idle; /* idle: no holds, remembered for their counter */
	size_t idle_count;
	double most; /* the largest counter there ever was */
};

void fairness_fini(struct fairness *f); /* nobody is held any more */
/* A request of this tenant has come, and does not wait yet. The newest weight counts; not above 0: 1. */
struct fairness_tenant *fairness_hold(struct fairness *f, struct str name, double weight);
void fairness_release(struct fairness *f, struct fairness_tenant *t);
void fairness_wait(struct fairness *f, struct fairness_tenant *t);  /* one of its requests waits from now on */
void fairness_begin(struct fairness *f, struct fairness_tenant *t); /* ... has stopped waiting */
void fairness_charge(struct fairness *f, struct fairness_tenant *t, double cost);
/* The tenant with the smallest counter of those with something waiting; NULL: nobody waits. */
struct fairness_tenant *fairness_first(const struct fairness *f);

#endif
