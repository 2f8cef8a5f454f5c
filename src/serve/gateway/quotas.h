/* SPDX-License-Identifier: Apache-2.0 */
/* quotas.h - budgets of keys and teams at this edge (core/quota.h), and the record of what each request took.
 *
 * quotas_admit comes before a request is sent anywhere, quotas_end is its end, whatever happened between. Requests
 * without a key or token are nobody's; those of keys without limits cost a record. A request that this edge's lease has
 * no room for waits for one call to the center; where the center does not answer, the edge goes on with its share. Loop
 * thread.
 */
#ifndef MDN_GATEWAY_QUOTAS_H
#define MDN_GATEWAY_QUOTAS_H

#include "base/error.h"
#include "core/quota.h"

struct gateway;
struct request;
struct quotas;
struct purse;

struct quota_claim {         /* of a request */
	bool billed;         /* it has a key: a record is written */
	bool limited, taken; /* an account of it has limits; reserved there */
	bool waits, asked;
	int64_t tokens; /* the most it may take */
	char team[QUOTA_TEAM_SIZE];
	struct purse *of[2]; /* the key's, the team's; NULL: no limits */
	struct quota_hold hold[2];
	struct request *next; /* of those that wait */
};

/* outbox: the file records wait in until a center has them; empty: none are written. */
int quotas_new(struct gateway *g, struct str outbox, struct quotas **ret_quotas, struct error *err);
void quotas_free(struct quotas *q);
void quotas_set_accounts(struct gateway *g); /* keys or teams changed */
void quotas_set_center(struct quotas *q, struct str url, struct str id, size_t edges);
void quotas_name(struct request *r); /* is there a record to be written, and of which team; before quotas_admit */
/* True: it may go on now. False: it goes on or is refused later, or was. */
bool quotas_admit(struct request *r);
void quotas_end(struct request *r);
bool quotas_tell(struct request *r); /* x-ratelimit-* headers; true: those of requests, too */

#endif
