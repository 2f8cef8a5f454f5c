/* SPDX-License-Identifier: Apache-2.0 */
/* peer.h - moves blobs: fetches what is assigned in verified chunks from several sources, re-serves while receiving.
 *
 * One peer per node, over the node's blob store. Sources are other nodes of the roster. Which chunk to ask next and
 * from whom is core/chunk_plan. Disk and hashing run in jobs. Loop thread. Wire: docs/wire.md, "Blobs".
 */
#ifndef MDN_SERVE_PEER_H
#define MDN_SERVE_PEER_H

#include "core/report.h"
#include "core/spread_place.h"
#include "net/http.h"
#include "store/blob.h"
#include "store/version.h"

struct peer;
struct peer_source {
	char id[NODE_ID_SIZE], site[NODE_TEXT_SIZE], url[NODE_URL_SIZE];
	bool origin;   /* a repository: holds everything whole */
	bool receiver; /* an edge: takes part where the center plans nothing */
};
struct peer_options {
	struct blob_store *store;
	struct http_client *client;
	struct str self_id, site, domain;
	int32_t parallel;  /* chunks asked for at once, per file */
	uint64_t rate_max; /* bytes per second received; 0: no limit */
	/* A version became complete on disk (all files), or failed with words. */
	void (*on_ready)(void *arg, const struct version *v);
	void (*on_progress)(void *arg); /* something a report shows changed */
	void *arg;
};
int peer_new(struct loop *loop, const struct peer_options *options, struct peer **ret_peer, struct error *err);
void peer_free(struct peer *p);
void peer_set_limits(struct peer *p, int32_t parallel, uint64_t rate_max); /* live */
/* What comes from other sites, or from one, together with the limit of all. Live; a place in the list that is not given
 * limits nothing. */
#define PEER_CLASSES_MAX 8
struct peer_class {
	char site[NODE_TEXT_SIZE]; /* empty: any but this node's own */
	uint64_t rate_max;         /* bytes per second; 0: no limit */
};
void peer_set_classes(struct peer *p, const struct peer_class *classes, size_t count);
/* Bytes per second sent at most, evenly: to all together (0: no limit), and to other sites or one. Live. */
void peer_set_send_rates(struct peer *p, uint64_t rate_max, const struct peer_class *classes, size_t count);
void peer_set_sources(struct peer *p, const struct peer_source *sources, size_t count);
/* What the center plans. Copies; models without one are planned by this node itself, as if everybody known took part.
 */
void peer_set_spread(struct peer *p, const struct spread_place *spreads, size_t count);
void peer_set_assigned(struct peer *p, const struct version *versions, size_t count); /* copies; dropped ones stop */
/* have_bytes, total_bytes, fetch_rate, state WAITING/FETCHING/FAILED/READY(on disk), error of one version. */
bool peer_progress(const struct peer *p, struct str name_tag, struct model_report *ret_report);
/* The same of the version with that manifest: of one name there may be two. */
bool peer_progress_of(const struct peer *p, struct str name_tag, const struct digest *manifest,
                      struct model_report *ret_report);
bool peer_handle(struct peer *p, struct http_exchange *x); /* /mdn/v1/blobs/..., /mdn/v1/ping */

#endif
