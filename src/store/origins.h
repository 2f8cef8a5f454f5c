/* SPDX-License-Identifier: Apache-2.0 */
/* origins.h - where a blob can be had that a manifest here names and that is not here yet; what mirrors asked when.
 *
 * One SQLite file beside the catalog. What it says is a hint: a wrong or lost row costs a question to the other side,
 * never a wrong byte. Any thread; short.
 */
#ifndef MDN_STORE_ORIGINS_H
#define MDN_STORE_ORIGINS_H

#include "base/digest.h"
#include "base/error.h"
#include "base/str.h"

#include <stdbool.h>

#define ORIGIN_URL_SIZE 2048

struct origins;
struct origin {
	char url[ORIGIN_URL_SIZE];
	char scope[256]; /* of the token that its host may want; empty: none */
	uint64_t size;
};
int origins_open(struct str path, struct origins **ret_origins, struct error *err);
void origins_close(struct origins *o);
int origins_put(struct origins *o, struct str repo, const struct digest *d, const struct origin *origin,
                struct error *err);
int origins_get(struct origins *o, struct str repo, const struct digest *d, struct origin *ret_origin,
                struct error *err); /* E_NOTFOUND */
/* Whether fn says yes of a repository that d is known for, and where it has it from. fn runs with no lock held. */
bool origins_any(struct origins *o, const struct digest *d, bool (*fn)(void *arg, struct str repo, struct str url),
                 void *arg);
bool origins_knows(struct origins *o, struct str repo); /* of any blob of it */
/* When `key` was last asked for, and found to be as it is here; 0: never. Wall clock, microseconds. */
int64_t origins_asked(struct origins *o, struct str key);
int origins_set_asked(struct origins *o, struct str key, int64_t wall_us, struct error *err);

#endif
