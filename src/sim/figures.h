/* SPDX-License-Identifier: Apache-2.0 */
/* figures.h - what a serving simulation counts: histograms, totals, and a line every so often.
 *
 * Counts are doubles, since flows count parts of requests. A histogram has 32 buckets an octave of microseconds, so a
 * quantile is right within 2.2 %. Zeroed is empty and valid. Owned by the caller; figures_fini frees.
 */
#ifndef MDN_SIM_FIGURES_H
#define MDN_SIM_FIGURES_H

#include "sim/world.h"

enum { HISTOGRAM_OCTAVES = 40, HISTOGRAM_STEPS = 32, FIGURES_LINES = 96 };

struct histogram {
	double counts[HISTOGRAM_OCTAVES * HISTOGRAM_STEPS], total, sum_us;
};
void histogram_add(struct histogram *h, double us, double count);
double histogram_at(const struct histogram *h, double share); /* microseconds; 0 when empty */

struct figures_line { /* of one 96th of the time */
	double requests, served, busy, lost;
	double offered; /* load over capacity, at its middle */
	double streams; /* time they ran / length of the line: running on average */
	double moved;   /* share of demand that is answered elsewhere than in the line before */
	double p50_us, p99_us;
};

struct figures {
	enum sim_policy policy;
	double requests, served;
	double busy;                  /* answered "busy": queues full, or waited too long in one */
	double busy_with_room;        /* of those: while a living node with the model had room in its queue */
	double busy_early;            /* of those: before the offered load was ever above 1 */
	double lost;                  /* no address answered, or a stream's node died */
	double retries;               /* second and third tries of gateways */
	double near;                  /* served within 5 ms of the nearest site that has the model */
	double in_10_ms;              /* served by a node within 10 ms of the user's city */
	double way_sum_us;            /* round trip between the user's city and the node */
	double wrong;                 /* went to a node without the model: must be 0 */
	double decisions, decision_s; /* of the shipping code, and the time it took */
	double slots;                 /* of all nodes */
	double took_s;                /* to compute */
	struct histogram ttft, itl, way;
	struct figures_line lines[FIGURES_LINES];
	struct histogram *line_ttft; /* FIGURES_LINES of them */
	float *flows, *flows_before; /* [region * sites + site], of this line and the one before */
	uint32_t line, sites, regions;
	double streams_most;
	bool was_full; /* the offered load has been above 1 */
};

void figures_init(struct figures *f, const struct sim_world *w, enum sim_policy policy);
void figures_fini(struct figures *f);
/* To be called as time goes on: closes lines. */
void figures_turn(struct figures *f, const struct sim_world *w, int64_t now_us);
void figures_request(struct figures *f, double count);
void figures_served(struct figures *f, const struct sim_world *w, uint32_t city, uint32_t site, uint32_t model,
                    double count);
void figures_ttft(struct figures *f, double us, double count);
void figures_busy(struct figures *f, double count, bool with_room);
void figures_lost(struct figures *f, double count);
/* After the last: closes all, derives what is derived. */
void figures_end(struct figures *f, const struct sim_world *w);

/* The same, as JSON: {"scenario":..., "policies":[...]}. */
void figures_format(const struct scenario *s, const struct sim_world *w, const struct figures *all, unsigned count,
                    struct buf *out);
/* One page of its own, without anything from elsewhere. */
void figures_page(const struct scenario *s, const struct sim_world *w, const struct figures *all, unsigned count,
                  struct buf *out);

#endif
