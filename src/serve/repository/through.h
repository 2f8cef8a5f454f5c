/* SPDX-License-Identifier: Apache-2.0 */
/* through.h - a blob that is not here yet is fetched from where it comes from, once, for all who want it.
 *
 * Several pieces at once by range where the other side can, in order where it cannot; kept over restarts (store/spool);
 * checked as a whole before it is a blob. Who asks for it meanwhile reads along as pieces come. Wanted by nobody, it
 * goes on to its end: it is wanted again soon enough. Loop thread; disk in jobs.
 */
#ifndef MDN_SERVE_REPOSITORY_THROUGH_H
#define MDN_SERVE_REPOSITORY_THROUGH_H

#include "serve/repository/hub.h"
#include "serve/repository/repository_private.h"
#include "store/origins.h"

struct through;

/* What the files that speak to the outside share. */
struct mirror {
	struct repository *r;
	struct hub *hub;
	struct origins *origins;
	struct through *throughs; /* list */
	size_t through_count;
	void (*on_blob)(struct mirror *m, struct str repo, const struct digest *d); /* one became the repository's */
};

/* A manifest from elsewhere is no proof that a blob may be read under its name: whoever knows the digest of what
 * only others may read here could write one. So a blob is the repository's once it came from the repository's own
 * origin, or is held by another one that all of its readers may read. */
bool through_knows(struct mirror *m, struct str repo, const struct digest *d); /* named there, with an origin */
/* What is held may be given under that name. Also true when nothing of it came from elsewhere. */
bool through_may_give(struct mirror *m, struct str repo, const struct digest *d);

/* The running one, or a new one. E_BUSY: too many run, or one for others that this one may not share; E_FORBIDDEN: past
 * the quota of the repository's namespace. */
int through_open(struct mirror *m, struct str repo, const struct digest *d, const struct origin *from,
                 struct through **ret_through, struct error *err);
/* Called once, when it is a blob (err NULL) or failed; not when unwatched before. */
typedef void through_fn(void *arg, const struct error *err);
struct through_watch;
struct through_watch *through_watch(struct through *t, through_fn *fn, void *arg);
void through_unwatch(struct through_watch *w);
uint64_t through_held(const struct through *t); /* bytes, with those of pieces on their way */

/* GET and HEAD of a blob that is named here but not held, or may not be given: answered as it comes. False when it is
 * held and may be, or nobody is known to have it: nothing was answered. Headers that the door wants are added before.
 */
bool through_offer(struct mirror *m, struct http_exchange *x, struct str repo, const struct digest *d);
/* An error in the shape of the door that was asked. */
void through_fail(struct http_exchange *x, const struct error *err);
void through_fini(struct mirror *m); /* cuts who reads, keeps what is held */

#endif
