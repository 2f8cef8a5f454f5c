/* SPDX-License-Identifier: Apache-2.0 */
/* How: counters and histograms live where they are counted; this page prints them in Prometheus' text form: vllm:* in
 * metrics_vllm.c, here mdn_*, which is what only we have. Labels come from our own tables and model names, never from a
 * request.
 */
#include "serve/gateway/metrics.h"

#include <stdio.h>

void put_head(struct buf *out, const char *name, const char *type, const char *help)
{
	buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void number_of(double value, char to[static 32])
{
	snprintf(to, 32, value < 1e6 && value == (double)(int64_t)value ? "%.1f" : "%g", value);
}

void put_histogram(struct buf *out, const char *name, const char *label, const double *bounds, size_t count,
                   const uint64_t *counts, double sum)
{
	const char *comma = label[0] ? "," : "";
	uint64_t total = 0;
	char number[32];

	for (size_t i = 0; i < count; i++) {
		total += counts[i];
		number_of(bounds[i], number);
		buf_printf(out, "%s_bucket{%s%sle=\"%s\"} %llu\n", name, label, comma, number,
		           (unsigned long long)total);
	}
	total += counts[count];
	buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, label, comma, (unsigned long long)total);
	buf_printf(out, label[0] ? "%s_sum{%s} %.6f\n" : "%s_sum%s %.6f\n", name, label, sum);
	buf_printf(out, label[0] ? "%s_count{%s} %llu\n" : "%s_count%s %llu\n", name, label, (unsigned long long)total);
}

/* Model names are ours, but may hold any byte a label must escape. */
void put_escaped(struct buf *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			buf_append(out, "\\", 1);
		buf_append(out, (unsigned char)*text < ' ' ? "_" : text, 1);
	}
}

void put_label(const char *metric, const struct model *m, char to[static LABEL_SIZE])
{
	struct buf out = {0};

	put_escaped(&out, m->name);
	snprintf(to, LABEL_SIZE, "model_name=\"" STR_FMT "\"%s", STR_ARG(text_or_empty(&out)),
	         str_starts(str_from(metric), STR("vllm:")) ? ",engine=\"0\"" : "");
	buf_fini(&out);
}

static void put_models(const struct gateway *g, struct buf *out)
{
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
	EACH_MODEL("mdn_engine_swaps_total", "counter", "Preempted requests whose KV waited in host memory.", "%llu",
	           (unsigned long long)load.swaps_total);
	EACH_MODEL("mdn_engine_swapped_bytes", "gauge", "KV of preempted requests in host memory now.", "%llu",
	           (unsigned long long)load.swapped_bytes);
	EACH_MODEL("mdn_engine_prompt_computed_tokens_total", "counter", "Prompt tokens computed, again included.",
	           "%llu", (unsigned long long)load.prompt_computed_tokens_total);
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
	static const char *const results[PREFIX_RESULTS] = {"hit", "moved", "miss"};
	size_t bound_count;
	const double *bounds = histogram_bounds(H_TTFT, &bound_count);
	double age = g->map.received_us ? (double)(loop_now_us(g->loop) - g->map.received_us) / US_PER_S : -1;

	metrics_format_vllm(g, out);
	put_models(g, out);
	put_cache(g, out);
	put_requests(g, out);
	services_metrics(g, out);
	put_one(out, "mdn_forwards_total", "counter", "Requests answered by another node.",
	        (double)g->metrics.forwards);
	put_one(out, "mdn_hops_total", "counter", "Requests other nodes sent here.", (double)g->metrics.hops);
	put_head(
	    out, "mdn_route_prefix_total", "counter",
	    "Prompts by where they went: hit, to a node that has their beginning; moved, elsewhere for its load; miss, "
	    "nobody has it.");
	for (size_t i = 0; i < PREFIX_RESULTS; i++)
		buf_printf(out, "mdn_route_prefix_total{result=\"%s\"} %llu\n", results[i],
		           (unsigned long long)g->metrics.prefixes[i]);
	put_one(out, "mdn_route_prefix_entries", "gauge", "Blocks of prompts remembered, with a node each.",
	        (double)affinity_count(g->affinity));
	put_one(out, "mdn_quota_refused_total", "counter",
	        "Requests refused because a key or team had used up a limit.", (double)g->metrics.quota_refused);
	put_one(out, "mdn_usage_lost_total", "counter", "Usage records that could be kept nowhere.",
	        (double)g->metrics.usage_lost);
	put_one(out, "mdn_retries_total", "counter", "Tries repeated on another node before the first token.",
	        (double)g->metrics.retries);
	put_one(out, "mdn_resumed_total", "counter", "Streams that another engine went on with.",
	        (double)g->metrics.resumed);
	put_one(out, "mdn_broken_total", "counter", "Answers that ended in an error after the first token.",
	        (double)g->metrics.broken);
	put_head(out, "mdn_forward_ttft_seconds", "histogram", "Time to first token of forwarded requests.");
	put_histogram(out, "mdn_forward_ttft_seconds", "", bounds, bound_count, g->metrics.forward_ttft.counts,
	              g->metrics.forward_ttft.sum);
	put_one(out, "mdn_model_loads_total", "counter", "Models loaded.", (double)g->room.loads);
	put_one(out, "mdn_model_unloads_total", "counter", "Models unloaded, for others or because nobody asked.",
	        (double)g->room.unloads);
	put_one(out, "mdn_requests_waiting_for_model", "gauge", "Requests that wait until a model is loaded.",
	        (double)g->waiting);
	put_one(out, "mdn_requests_running", "gauge", "Requests in this gateway now.", (double)g->request_count);
	put_one(out, "mdn_ledger_open", "gauge", "Dispatches not yet closed.", (double)ledger_count(g->ledger));
	put_one(out, "mdn_map_nodes", "gauge", "Nodes in the map.", (double)node_map_count(g->map.map));
	put_one(out, "mdn_map_nodes_stale", "gauge", "Of those, whose load is too old to be believed.",
	        (double)node_map_stale(g->map.map, loop_now_us(g->loop)));
	put_one(out, "mdn_map_age_seconds", "gauge", "Age of the last map; -1: never had one.", age);
	put_one(out, "mdn_schedulers_live", "gauge", "Schedulers whose map stream is up.", (double)map_live_count(g));
	put_one(out, "mdn_draining", "gauge", "1 while this node refuses new requests.", g->draining);
}
