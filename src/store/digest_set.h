/* SPDX-License-Identifier: Apache-2.0 */
/* digest_set.h - a set of digests in memory: 64 bytes each at most. Caller's memory; {0} is the empty set. One thread.
 */
#ifndef MDN_STORE_DIGEST_SET_H
#define MDN_STORE_DIGEST_SET_H

#include "base/digest.h"

struct digest_set {
	struct digest *slots; /* all zeros: free */
	size_t count, size;
	bool has_zero;
};
void digest_set_fini(struct digest_set *s);
bool digest_set_add(struct digest_set *s, const struct digest *d); /* false: it was there */
bool digest_set_has(const struct digest_set *s, const struct digest *d);

#endif
