/* SPDX-License-Identifier: Apache-2.0 */
/* How: counters and histograms live where they are counted; this page prints them in Prometheus' text form. vllm:*
 * names and buckets are those of vLLM, so that what reads a vLLM server reads a node; mdn_* is what only we have.
 * Labels come from our own tables and model names, never from a request.
 */
#include "serve/gateway/internal.h"

#include <stdio.h>

static const double ttft_bounds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                     1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
static const double itl_bounds[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                    0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
static const double e2e_bounds[] = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                    30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};

static const struct histogram_kind {
	const char *name, *help;
	const double *bounds;
	size_t count;
} kinds[MODEL_HISTOGRAMS] = {
#define BOUNDS(list) list, sizeof(list) / sizeof(list[0])
    [H_TTFT] = {"vllm:time_to_first_token_seconds", "Time to first token.", BOUNDS(ttft_bounds)},
    [H_ITL] = {"vllm:inter_token_latency_seconds", "Time between tokens of one answer.", BOUNDS(itl_bounds)},
    [H_E2E] = {"vllm:e2e_request_latency_seconds", "Time from request to last token.", BOUNDS(e2e_bounds)},
    [H_QUEUE] = {"vllm:request_queue_time_seconds", "Time spent waiting for a slot.", BOUNDS(e2e_bounds)},
    [H_PREFILL] = {"vllm:request_prefill_time_seconds", "Time from slot to first token.", BOUNDS(e2e_bounds)},
    [H_DECODE] = {"vllm:request_decode_time_seconds", "Time from first to last token.", BOUNDS(e2e_bounds)},
#undef BOUNDS
};

void histogram_add(struct histogram *h, enum model_histogram which, double seconds)
{
	const struct histogram_kind *k = &kinds[which];
	size_t i = 0;

	while (i < k->count && seconds > k->bounds[i])
		i++;
	h->counts[i]++;
	h->sum += seconds;
}

static void put_head(struct buf *out, const char *name, const char *type, const char *help)
{
	buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* label: `model_name="..."`, or empty. */
static void put_histogram(struct buf *out, const char *name, const char *label, const struct histogram *h,
                          enum model_histogram which)
{
	const struct histogram_kind *k = &kinds[which];
	const char *comma = label[0] ? "," : "";
	uint64_t sum = 0;

	for (size_t i = 0; i <= k->count; i++) {
		sum += h->counts[i];
		if (i < k->count)
			buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %llu\n", name, label, comma, k->bounds[i],
			           (unsigned long long)sum);
		else
			buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, label, comma,
			           (unsigned long long)sum);
	}
	buf_printf(out, label[0] ? "%s_sum{%s} %.6f\n" : "%s_sum%s %.6f\n", name, label, h->sum);
	buf_printf(out, label[0] ? "%s_count{%s} %llu\n" : "%s_count%s %llu\n", name, label, (unsigned long long)sum);
}

/* Model names are ours, but may hold any byte a label must escape. */
static void model_label(const struct model *m, char *to, size_t size)
{
	size_t at = (size_t)snprintf(to, size, "model_name=\"");

	for (const char *c = m->name; *c && at + 4 < size; c++) {
		if (*c == '"' || *c == '\\')
			to[at++] = '\\';
		to[at++] = (unsigned char)*c < ' ' ? '_' : *c;
	}
	snprintf(to + at, size - at, "\"");
}

enum { LABEL_SIZE = 2 * NODE_TEXT_SIZE + 16 };

/* One line a model of what an expression on (m, load) says. */
#define EACH_MODEL(name, type, help, format, value) \
	do { \
		put_head(out, name, type, help); \
		for (const struct model *m = g->models; m; m = m->following) { \
			struct engine_load load = {0}; \
			char label[LABEL_SIZE]; \
			if (m->state == MODEL_READY && m->engine) \
				load = engine_load(m->engine); \
			model_label(m, label, sizeof(label)); \
			buf_printf(out, "%s{%s} " format "\n", name, label, value); \
			(void)load; \
		} \
	} while (0)

static void put_models(const struct gateway *g, struct buf *out)
{
	EACH_MODEL("vllm:num_requests_running", "gauge", "Requests being computed.", "%d", load.running);
	EACH_MODEL("vllm:num_requests_waiting", "gauge", "Requests waiting for a slot.", "%d", load.waiting);
	EACH_MODEL("vllm:kv_cache_usage_perc", "gauge", "KV cache in use, 0 to 1.", "%.6f", load.kv_usage);
	EACH_MODEL("vllm:prompt_tokens_total", "counter", "Prompt tokens of answered requests.", "%llu",
	           (unsigned long long)m->metrics->prompt_tokens);
	EACH_MODEL("vllm:generation_tokens_total", "counter", "Tokens generated in answered requests.", "%llu",
	           (unsigned long long)m->metrics->generation_tokens);
	EACH_MODEL("vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up in the KV cache.", "%llu",
	           (unsigned long long)m->metrics->prompt_tokens);
	EACH_MODEL("vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the KV cache.", "%llu",
	           (unsigned long long)m->metrics->cached_tokens);
	EACH_MODEL("mdn_model_ready", "gauge", "1 when the model can answer here.", "%d", m->state == MODEL_READY);
	EACH_MODEL("mdn_model_memory_bytes", "gauge", "Memory it takes; on disk: that it would.", "%llu",
	           (unsigned long long)(m->engine ? model_memory(m) : m->fit.need));
	EACH_MODEL("mdn_model_loaded", "gauge", "1 when its weights are in memory.", "%d", m->engine != NULL);
	EACH_MODEL("mdn_model_pinned", "gauge", "1 when it is never unloaded for another one.", "%d",
	           model_is_pinned(m));
	EACH_MODEL("mdn_model_load_progress", "gauge", "Of its loading, 0 to 1.", "%.3f", model_progress(m));
	EACH_MODEL("mdn_model_load_seconds", "gauge", "How long its last loading took; 0: not yet loaded.", "%.3f",
	           (double)m->load_us / US_PER_S);
	EACH_MODEL("mdn_model_last_asked_seconds", "gauge", "When it was last asked, seconds since 1970; 0: not yet.",
	           "%lld", (long long)(m->used_wall_us / US_PER_S));
	EACH_MODEL("mdn_engine_slots", "gauge", "Requests the engine computes at once.", "%d", load.slots);
	EACH_MODEL("mdn_engine_tokens_to_prefill", "gauge", "Prompt tokens queued and not yet computed.", "%lld",
	           (long long)load.tokens_to_prefill);
	EACH_MODEL("mdn_engine_prefill_tokens_per_second", "gauge", "Measured prefill rate.", "%.3f",
	           load.prefill_tokens_per_s);
	EACH_MODEL("mdn_engine_decode_tokens_per_second", "gauge", "Measured decode rate, all answers.", "%.3f",
	           load.decode_tokens_per_s);
	EACH_MODEL("mdn_engine_cancels_total", "counter", "Requests cancelled in the engine.", "%llu",
	           (unsigned long long)load.cancels_total);
	EACH_MODEL("mdn_engine_expiries_total", "counter", "Requests that did not begin before their deadline.", "%llu",
	           (unsigned long long)load.expiries_total);
	EACH_MODEL("vllm:num_preemptions_total", "counter", "Requests that gave up their slot to others.", "%llu",
	           (unsigned long long)load.preemptions_total);
	EACH_MODEL("mdn_engine_swaps_total", "counter", "Preempted requests whose KV waited in host memory.", "%llu",
	           (unsigned long long)load.swaps_total);
	EACH_MODEL("mdn_engine_swapped_bytes", "gauge", "KV of preempted requests in host memory now.", "%llu",
	           (unsigned long long)load.swapped_bytes);
	EACH_MODEL("mdn_engine_prompt_computed_tokens_total", "counter", "Prompt tokens computed, again included.",
	           "%llu", (unsigned long long)load.prompt_computed_tokens_total);
}

static void put_guesses(const struct gateway *g, struct buf *out)
{
	EACH_MODEL("vllm:spec_decode_num_draft_tokens_total", "counter", "Tokens guessed by speculative decoding.",
	           "%llu", (unsigned long long)load.drafted_tokens_total);
	EACH_MODEL("vllm:spec_decode_num_accepted_tokens_total", "counter", "Those of them that came true.", "%llu",
	           (unsigned long long)load.accepted_tokens_total);
}

static void put_cache(const struct gateway *g, struct buf *out)
{
	EACH_MODEL("mdn_prefix_cache_cells_tokens_total", "counter",
	           "Prompt tokens found in the KV cache itself, of this and of other requests.", "%llu",
	           (unsigned long long)load.cached_cells_total);
	EACH_MODEL("mdn_prefix_cache_memory_tokens_total", "counter", "Prompt tokens found in copies in memory.",
	           "%llu", (unsigned long long)load.cached_memory_total);
	EACH_MODEL("mdn_prefix_cache_disk_tokens_total", "counter", "Prompt tokens found on disk.", "%llu",
	           (unsigned long long)load.cached_disk_total);
	EACH_MODEL("mdn_prefix_cache_memory_bytes", "gauge", "Copies of KV in memory.", "%llu",
	           (unsigned long long)load.cache_memory_bytes);
	EACH_MODEL("mdn_prefix_cache_disk_bytes", "gauge", "Copies of KV on disk.", "%llu",
	           (unsigned long long)load.cache_disk_bytes);
}

static void put_finished(const struct gateway *g, struct buf *out)
{
	static const char *const reasons[] = {
	    [FINISH_STOP] = "stop", [FINISH_LENGTH] = "length", [FINISH_TOOL_CALLS] = "tool_calls"};
	static const char name[] = "vllm:request_success_total";

	put_head(out, name, "counter", "Answers by finish reason.");
	for (const struct model *m = g->models; m; m = m->following) {
		char label[LABEL_SIZE];

		model_label(m, label, sizeof(label));
		for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
			buf_printf(out, "%s{%s,finished_reason=\"%s\"} %llu\n", name, label, reasons[i],
			           (unsigned long long)m->metrics->finished[i]);
		buf_printf(out, "%s{%s,finished_reason=\"abort\"} %llu\n", name, label,
		           (unsigned long long)m->metrics->aborted);
	}
}

static void put_one(struct buf *out, const char *name, const char *type, const char *help, double value)
{
	put_head(out, name, type, help);
	buf_printf(out, "%s %.15g\n", name, value);
}

static void put_requests(const struct gateway *g, struct buf *out)
{
	static const char *const routes[] = {
	    [ROUTE_NONE] = "none", [ROUTE_LOCAL] = "local", [ROUTE_FORWARD] = "forward"};
	static const char *const classes[] = {"gone", "1xx", "2xx", "3xx", "4xx", "5xx"};

	put_head(out, "mdn_requests_total", "counter", "Requests by route and status class; gone: the client left.");
	for (size_t i = 0; i < ROUTES; i++)
		for (size_t j = 0; j < sizeof(classes) / sizeof(classes[0]); j++)
			if (g->metrics.requests[i][j])
				buf_printf(out, "mdn_requests_total{route=\"%s\",status=\"%s\"} %llu\n", routes[i],
				           classes[j], (unsigned long long)g->metrics.requests[i][j]);
	put_head(out, "mdn_errors_total", "counter", "Errors told to clients, by kind.");
	for (size_t i = 1; i < sizeof(g->metrics.errors) / sizeof(g->metrics.errors[0]); i++)
		if (g->metrics.errors[i])
			buf_printf(out, "mdn_errors_total{error=\"%s\"} %llu\n", error_label(-(int)i),
			           (unsigned long long)g->metrics.errors[i]);
}

void metrics_format(struct gateway *g, struct buf *out)
{
	double age = g->map.received_us ? (double)(loop_now_us(g->loop) - g->map.received_us) / US_PER_S : -1;

	put_models(g, out);
	put_guesses(g, out);
	put_cache(g, out);
	put_finished(g, out);
	for (int i = 0; i < MODEL_HISTOGRAMS; i++) {
		put_head(out, kinds[i].name, "histogram", kinds[i].help);
		for (const struct model *m = g->models; m; m = m->following) {
			char label[LABEL_SIZE];

			model_label(m, label, sizeof(label));
			put_histogram(out, kinds[i].name, label, &m->metrics->histograms[i], (enum model_histogram)i);
		}
	}
	put_requests(g, out);
	put_one(out, "mdn_forwards_total", "counter", "Requests answered by another node.",
	        (double)g->metrics.forwards);
	put_one(out, "mdn_hops_total", "counter", "Requests other nodes sent here.", (double)g->metrics.hops);
	put_one(out, "mdn_retries_total", "counter", "Tries repeated on another node before the first token.",
	        (double)g->metrics.retries);
	put_one(out, "mdn_broken_total", "counter", "Answers that ended in an error after the first token.",
	        (double)g->metrics.broken);
	put_head(out, "mdn_forward_ttft_seconds", "histogram", "Time to first token of forwarded requests.");
	put_histogram(out, "mdn_forward_ttft_seconds", "", &g->metrics.forward_ttft, H_TTFT);
	put_one(out, "mdn_model_loads_total", "counter", "Models loaded.", (double)g->room.loads);
	put_one(out, "mdn_model_unloads_total", "counter", "Models unloaded, for others or because nobody asked.",
	        (double)g->room.unloads);
	put_one(out, "mdn_requests_waiting_for_model", "gauge", "Requests that wait until a model is loaded.",
	        (double)g->waiting);
	put_one(out, "mdn_requests_running", "gauge", "Requests in this gateway now.", (double)g->request_count);
	put_one(out, "mdn_ledger_open", "gauge", "Dispatches not yet closed.", (double)ledger_count(g->ledger));
	put_one(out, "mdn_map_nodes", "gauge", "Nodes in the map.", (double)node_map_count(g->map.map));
	put_one(out, "mdn_map_age_seconds", "gauge", "Age of the last map; -1: never had one.", age);
	put_one(out, "mdn_schedulers_live", "gauge", "Schedulers whose map stream is up.", (double)map_live_count(g));
	put_one(out, "mdn_draining", "gauge", "1 while this node refuses new requests.", g->draining);
}
