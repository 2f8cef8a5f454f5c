/* SPDX-License-Identifier: Apache-2.0 */
/* report.h - what a node says about itself (C-SMA of IETF CATS), and its JSON form.
 *
 * Plain values, bounded by the limit table; a report owns its arrays. Sequence
 * numbers rise within one boot; (boot, seq) orders reports, an older one is ignored. Durations are
 * microseconds, sizes bytes, rates per second. Pure; any thread. Wire form: docs/wire.md, "Report".
 */
#ifndef MDN_CORE_REPORT_H
#define MDN_CORE_REPORT_H

#include "base/error.h"
#include "base/str.h"

#define NODE_ID_SIZE 48    /* "n-" + 16 hex, NUL; room to grow */
#define NODE_TEXT_SIZE 129 /* LIMIT_NAME + NUL: names, sites, models */
#define NODE_URL_SIZE 256
#define NODE_LABELS_MAX 16
#define REPORT_SOURCES_MAX 4  /* of a model on its way: the fastest */
#define REPORT_PEERS_MAX 4096 /* entries of `seen` and of `rtts`; a report with more is refused */

enum node_role { ROLE_REPOSITORY = 1, ROLE_CENTER = 2, ROLE_EDGE = 4, ROLE_SCHEDULER = 8 };
enum node_state { NODE_STARTING, NODE_READY, NODE_DRAINING };
enum model_state {
	MODEL_WAITING,
	MODEL_FETCHING,
	MODEL_LOADING,
	MODEL_READY,
	MODEL_FAILED,
	MODEL_CACHED, /* on disk, verified; load_us tells whether a request would have it loaded */
	MODEL_PAUSED, /* not fetched further, by an operator's word */
};

struct model_report {
	char name[NODE_TEXT_SIZE]; /* "name:tag" */
	char digest[72];           /* "sha256:..." of the version's manifest */
	enum model_state state;
	uint64_t have_bytes, total_bytes;
	double fetch_rate; /* bytes/s now */
	char error[256];
	/* load of its engine; zeros while not ready */
	int32_t running, waiting, slots;
	int32_t context_tokens;
	double kv_usage;
	int64_t tokens_to_prefill;
	double prefill_tokens_per_s, decode_tokens_per_s, itl_us;
	/* Not READY: a request that comes now waits about so long and is answered; 0: it is not. */
	int64_t load_us;
	double load_progress;  /* LOADING: 0..1 */
	uint64_t memory_bytes; /* that it takes, or would; 0 unknown */
	int64_t used_wall_us;  /* when it was last asked; 0: not yet */
	bool pinned;           /* never unloaded for another one's sake */
	/* Sums since its engine was made, of requests answered here; errors are the engine's, not the clients'. */
	uint64_t served, errors, ttft_sum_us, tokens, decode_sum_us;
	/* of a fetch: the file under way, and who feeds it */
	char file[128];
	struct model_source {
		char id[NODE_ID_SIZE];
		double rate; /* bytes/s */
	} sources[REPORT_SOURCES_MAX];
	size_t source_count;
};

/* A request is answered: at once, or after it was loaded for it. */
static inline bool model_report_serves(const struct model_report *m)
{
	return m->state == MODEL_READY || (m->state == MODEL_CACHED && m->load_us > 0);
}

struct node_report {
	char id[NODE_ID_SIZE];
	char name[NODE_TEXT_SIZE];
	char site[NODE_TEXT_SIZE];
	uint32_t roles;
	enum node_state state;
	uint64_t boot; /* random per process start, greater than the last (wall clock in us) */
	uint64_t seq;
	int64_t wall_us;
	char node_url[NODE_URL_SIZE];   /* https://ip:port of the node port */
	char api_url[NODE_URL_SIZE];    /* public API; empty when none */
	char (*labels)[NODE_TEXT_SIZE]; /* "key:value"; heap, since most have none and 16 take 2 KB */
	size_t label_count;
	uint64_t memory_bytes; /* that models may take; 0 unknown */
	char accelerator[32];  /* "none", "cuda"; empty unknown */
	struct model_report *models;
	size_t model_count;
	/* Dispatches of each sender this report has already seen: the sender's counter when it was made. */
	struct node_seen {
		char id[NODE_ID_SIZE];
		uint64_t dispatched;
	} * seen;
	size_t seen_count;
	/* Round trips this node measured to others. */
	struct node_rtt {
		char id[NODE_ID_SIZE];
		int64_t rtt_us;
	} * rtts;
	size_t rtt_count;
};

void node_report_fini(struct node_report *r);
int node_report_copy(const struct node_report *from, struct node_report *ret_to); /* deep */
void node_report_format(const struct node_report *r, struct buf *out);            /* one JSON object */
/* The same without the closing brace, for documents that are "Report + more keys". */
void node_report_format_open(const struct node_report *r, struct buf *out);
int node_report_parse(struct str json, struct node_report *ret_report, struct error *err);
struct yyjson_val;
int node_report_from_json(struct yyjson_val *obj, struct node_report *ret_report, struct error *err);
/* As _open, but only what choosing a node needs: no sums, sources, labels. For the map. */
void node_report_format_brief_open(const struct node_report *r, struct buf *out);
const char *node_state_name(enum node_state s);
const char *model_state_name(enum model_state s);
/* "edge,center" both ways; unknown roles are E_INVAL. */
int node_roles_parse(struct str text, uint32_t *ret_roles, struct error *err);
void node_roles_format(uint32_t roles, struct buf *out);

#endif
