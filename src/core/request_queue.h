/* SPDX-License-Identifier: Apache-2.0 */
/* request_queue.h - whose turn it is at an engine: by class, then by fairness among tenants, then in a tenant's own
 * order.
 *
 * A class never waits for one below it. Within a class the tenant with the least service is next (core/fairness.h; each
 * class has its own counters). Among a tenant's requests: priority, then the earlier deadline, then arrival. So a
 * tenant cannot get ahead of another one by what it writes into its requests.
 *
 * Pure; one thread. The caller embeds a `struct queued` in each request and owns it; the queue links those that wait.
 * From join until leave a request either waits or runs.
 */
#ifndef MDN_CORE_REQUEST_QUEUE_H
#define MDN_CORE_REQUEST_QUEUE_H

#include "core/fairness.h"

enum { QUEUE_CLASSES = 4 }; /* 0 goes first; the last is bulk, which may be interrupted while it runs */

struct queued {
	/* Given by the caller before join. */
	int service_class;   /* 0 .. QUEUE_CLASSES - 1 */
	int priority;        /* smaller first */
	int64_t deadline_us; /* INT64_MAX: none */
	uint64_t order;      /* of arrival; unique */
	bool answering;      /* its first token is out */
	/* The queue's. */
	struct queued *prev, *next;
	struct fairness_tenant *tenant; /* NULL: not joined */
	bool waits;
};

struct request_queue {
	struct fairness classes[QUEUE_CLASSES];
	size_t waiting; /* requests */
};

void request_queue_fini(struct request_queue *q); /* everybody has left */
void request_queue_join(struct request_queue *q, struct queued *r, struct str tenant,
                        double weight); /* waits from now on */
void request_queue_leave(struct request_queue *q,
                         struct queued *r); /* has ended, waiting or not; not joined: nothing */
void request_queue_begin(struct request_queue *q, struct queued *r);               /* runs from now on */
void request_queue_back(struct request_queue *q, struct queued *r);                /* was interrupted, waits again */
void request_queue_charge(struct request_queue *q, struct queued *r, double cost); /* see core/fairness.h */

struct queued *request_queue_first(const struct request_queue *q); /* whose turn it is; NULL: nobody waits */
/* All that wait, in no order that means anything: after NULL comes the first, after the last NULL. */
struct queued *request_queue_next(const struct request_queue *q, const struct queued *after);

/* May `waits`, whose turn it is, take the place of `runs`? A higher class may before the other's first token, and may
 * interrupt bulk at any time. Within a class a tenant of which nothing runs may take a place of one that has had as
 * much service and holds several. */
bool queued_may_displace(const struct queued *waits, const struct queued *runs);
/* Of two that may be displaced: is a the better choice? Lower class, no token yet, more places held, later come. */
bool queued_yields_before(const struct queued *a, const struct queued *b);

#endif
