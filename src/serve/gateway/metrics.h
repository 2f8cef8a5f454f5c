/* SPDX-License-Identifier: Apache-2.0 */
/* metrics.h - Prometheus' text form, for the two files that write it: metrics.c (mdn_*) and metrics_vllm.c (vllm:*).
 *
 * Numbers of buckets are written as vLLM's client library writes them ("1.0", "1e+06"), so that what sums over nodes
 * and vLLM servers by `le` finds the same labels.
 */
#ifndef MDN_GATEWAY_METRICS_H
#define MDN_GATEWAY_METRICS_H

#include "serve/gateway/internal.h"

enum { LABEL_SIZE = 2 * NODE_TEXT_SIZE + 32 };

void put_head(struct buf *out, const char *name, const char *type, const char *help);
/* `model_name="..."`, and for names of vLLM's also the engine: there is one. */
void put_label(const char *metric, const struct model *m, char to[static LABEL_SIZE]);
void put_escaped(struct buf *out, const char *text); /* within the quotes of a label */
/* label: as above, or empty. counts: one for each bound, and one for what is larger. */
void put_histogram(struct buf *out, const char *name, const char *label, const double *bounds, size_t count,
                   const uint64_t *counts, double sum);
const double *histogram_bounds(enum model_histogram which, size_t *ret_count);

/* One line a model of what an expression on (m, load) says. */
#define EACH_MODEL(name, type, help, format, value) \
	do { \
		put_head(out, name, type, help); \
		for (const struct model *m = g->models; m; m = m->following) { \
			struct engine_load load = {0}; \
			char label[LABEL_SIZE]; \
			if (m->state == MODEL_READY && m->engine) \
				load = engine_load(m->engine); \
			put_label(name, m, label); \
			buf_printf(out, "%s{%s} " format "\n", name, label, value); \
			(void)load; \
		} \
	} while (0)

void metrics_format_vllm(struct gateway *g, struct buf *out);

#endif
