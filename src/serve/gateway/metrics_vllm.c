/* SPDX-License-Identifier: Apache-2.0 */
/* How: what a vLLM server tells in /metrics, told of the models here under its names, labels and buckets (vLLM 0.32,
 * v1/metrics/loggers.py), so that what reads a vLLM server reads a node: boards, routers, autoscalers. What vLLM has
 * and a node does not know is left out rather than 0; docs/operator-guide.md lists it. Labels come from our own tables
 * and model names, never from a request.
 */
#include "serve/gateway/metrics.h"

#include <stdio.h>

static const double ttft_bounds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                     1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
static const double itl_bounds[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                    0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
static const double latency_bounds[] = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                        30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
/* vLLM ends at the longest context of its model. */
static const double token_bounds[] = {1,    2,    5,     10,    20,    50,     100,    200,    500, 1000,
                                      2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1e6};
static const double n_bounds[] = {1, 2, 5, 10, 20};
static const double batch_bounds[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};

static const struct histogram_kind {
	const char *name, *help;
	const double *bounds;
	size_t count;
} kinds[MODEL_HISTOGRAMS] = {
#define BOUNDS(list) list, sizeof(list) / sizeof(list[0])
    [H_TTFT] = {"vllm:time_to_first_token_seconds", "Time to first token.", BOUNDS(ttft_bounds)},
    [H_ITL] = {"vllm:inter_token_latency_seconds", "Time between tokens of one answer.", BOUNDS(itl_bounds)},
    [H_TPOT] = {"vllm:request_time_per_output_token_seconds", "Mean time between an answer's tokens.",
                BOUNDS(itl_bounds)},
    [H_E2E] = {"vllm:e2e_request_latency_seconds", "Time from request to last token.", BOUNDS(latency_bounds)},
    [H_QUEUE] = {"vllm:request_queue_time_seconds", "Time spent waiting for a slot.", BOUNDS(latency_bounds)},
    [H_INFERENCE] = {"vllm:request_inference_time_seconds", "Time from slot to last token.", BOUNDS(latency_bounds)},
    [H_PREFILL] = {"vllm:request_prefill_time_seconds", "Time from slot to first token.", BOUNDS(latency_bounds)},
    [H_DECODE] = {"vllm:request_decode_time_seconds", "Time from first to last token.", BOUNDS(latency_bounds)},
    [H_PROMPT] = {"vllm:request_prompt_tokens", "Tokens of a request's prompts.", BOUNDS(token_bounds)},
    [H_GENERATION] = {"vllm:request_generation_tokens", "Tokens generated for a request.", BOUNDS(token_bounds)},
    [H_LONGEST] = {"vllm:request_max_num_generation_tokens", "Tokens of a request's longest answer.",
                   BOUNDS(token_bounds)},
    [H_N] = {"vllm:request_params_n", "n of requests.", BOUNDS(n_bounds)},
    [H_MAX_TOKENS] = {"vllm:request_params_max_tokens", "max_tokens of requests that have it.", BOUNDS(token_bounds)},
    [H_COMPUTED] = {"vllm:request_prefill_kv_computed_tokens", "Prompt tokens of a request that were not cached.",
                    BOUNDS(token_bounds)},
#undef BOUNDS
};

const double *histogram_bounds(enum model_histogram which, size_t *ret_count)
{
	*ret_count = kinds[which].count;
	return kinds[which].bounds;
}

void vllm_histogram_add(struct histogram *h, enum model_histogram which, double value)
{
	const struct histogram_kind *k = &kinds[which];
	size_t i = 0;

	while (i < k->count && value > k->bounds[i])
		i++;
	h->counts[i]++;
	h->sum += value;
}

/* ---- load ------------------------------------------------------------------------------------------------------- */

static void put_load(const struct gateway *g, struct buf *out)
{
	EACH_MODEL("vllm:num_requests_running", "gauge", "Requests being computed.", "%d", load.running);
	EACH_MODEL("vllm:num_requests_waiting", "gauge", "Requests waiting for a slot.", "%d", load.waiting);
	EACH_MODEL("vllm:kv_cache_usage_perc", "gauge", "KV cache in use, 0 to 1.", "%.6f", load.kv_usage);
	EACH_MODEL("vllm:num_preemptions_total", "counter", "Requests that gave up their slot to others.", "%llu",
	           (unsigned long long)load.preemptions_total);
}

static void put_waiting(const struct gateway *g, struct buf *out)
{
	static const char name[] = "vllm:num_requests_waiting_by_reason";

	put_head(out, name, "gauge", "Waiting requests by reason; here they wait for a slot and nothing else.");
	for (const struct model *m = g->models; m; m = m->following) {
		char label[LABEL_SIZE];

		put_label(name, m, label);
		buf_printf(out, "%s{%s,reason=\"capacity\"} %d\n", name, label,
		           m->state == MODEL_READY && m->engine ? engine_load(m->engine).waiting : 0);
		buf_printf(out, "%s{%s,reason=\"deferred\"} 0\n", name, label);
	}
}

/* A model that is on disk only is what vLLM calls asleep at level 2. */
static void put_sleep(const struct gateway *g, struct buf *out)
{
	static const char name[] = "vllm:engine_sleep_state";

	put_head(out, name, "gauge", "awake 1: in memory; discard_all 1: on disk, loaded when it is asked.");
	for (const struct model *m = g->models; m; m = m->following) {
		char label[LABEL_SIZE];
		bool awake = m->state == MODEL_READY;

		put_label(name, m, label);
		buf_printf(out, "%s{%s,sleep_state=\"awake\"} %d\n", name, label, awake);
		buf_printf(out, "%s{%s,sleep_state=\"weights_offloaded\"} 0\n", name, label);
		buf_printf(out, "%s{%s,sleep_state=\"discard_all\"} %d\n", name, label, !awake);
	}
}

static void put_cache_config(const struct gateway *g, struct buf *out)
{
	static const char name[] = "vllm:cache_config_info";

	put_head(out, name, "gauge", "The KV cache: its size in blocks, and how many tokens one is.");
	for (const struct model *m = g->models; m; m = m->following) {
		const struct engine_info *info = m->state == MODEL_READY && m->engine ? engine_info(m->engine) : NULL;
		char label[LABEL_SIZE];

		if (!info || info->kv_block <= 0)
			continue;
		put_label(name, m, label);
		buf_printf(out,
		           "%s{%s,block_size=\"%d\",num_gpu_blocks=\"%d\",num_gpu_blocks_override=\"None\","
		           "enable_prefix_caching=\"True\",cache_dtype=\"auto\"} 1\n",
		           name, label, info->kv_block, info->kv_tokens / info->kv_block);
	}
}

/* ---- adapters -----------------------------------------------------------------------------------------------------
 */

/* Names of base's adapters with requests of one kind, comma separated; and how many adapters it has. */
static size_t put_adapters(const struct gateway *g, const struct model *base, bool running, struct buf *out)
{
	size_t count = 0;
	bool first = true;

	for (const struct model *m = g->models; m; m = m->following) {
		if (!m->fit.adapter || lora_base(m) != base)
			continue;
		count++;
		if (running ? !m->metrics->running : m->requests <= m->metrics->running)
			continue;
		if (!first)
			put(out, ",");
		first = false;
		put_escaped(out, m->name);
	}
	return count;
}

/* Its value is when it was true, as vLLM has it. All adapters of a model can be computed side by side. */
static void put_lora(const struct gateway *g, struct buf *out)
{
	static const char name[] = "vllm:lora_requests_info";
	struct buf running = {0}, waiting = {0};

	put_head(out, name, "gauge", "LoRA adapters that requests run with and wait for; the value is the time.");
	for (const struct model *m = g->models; m; m = m->following) {
		char label[LABEL_SIZE];
		size_t count;

		if (m->fit.adapter)
			continue;
		buf_clear(&running);
		buf_clear(&waiting);
		count = put_adapters(g, m, true, &running);
		put_adapters(g, m, false, &waiting);
		if (!count)
			continue;
		put_label(name, m, label);
		buf_printf(out,
		           "%s{%s,max_lora=\"%zu\",running_lora_adapters=\"" STR_FMT
		           "\",waiting_lora_adapters=\"" STR_FMT "\"} %.3f\n",
		           name, label, count, STR_ARG(text_or_empty(&running)), STR_ARG(text_or_empty(&waiting)),
		           (double)clock_wall_us() / US_PER_S);
	}
	buf_fini(&running);
	buf_fini(&waiting);
}

/* ---- tokens -------------------------------------------------------------------------------------------------------
 */

static void put_tokens(const struct gateway *g, struct buf *out)
{
	EACH_MODEL("vllm:prompt_tokens_total", "counter", "Prompt tokens of answered requests.", "%llu",
	           (unsigned long long)m->metrics->prompt_tokens);
	EACH_MODEL("vllm:prompt_tokens_cached_total", "counter", "Those of them that were cached.", "%llu",
	           (unsigned long long)m->metrics->cached_tokens);
	EACH_MODEL("vllm:generation_tokens_total", "counter", "Tokens generated in answered requests.", "%llu",
	           (unsigned long long)m->metrics->generation_tokens);
	EACH_MODEL("vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up in the KV cache.", "%llu",
	           (unsigned long long)m->metrics->prompt_tokens);
	EACH_MODEL("vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the KV cache.", "%llu",
	           (unsigned long long)m->metrics->cached_tokens);
	EACH_MODEL("vllm:spec_decode_num_drafts_total", "counter", "Guesses of speculative decoding.", "%llu",
	           (unsigned long long)load.drafts_total);
	EACH_MODEL("vllm:spec_decode_num_draft_tokens_total", "counter", "Tokens guessed by speculative decoding.",
	           "%llu", (unsigned long long)load.drafted_tokens_total);
	EACH_MODEL("vllm:spec_decode_num_accepted_tokens_total", "counter", "Those of them that came true.", "%llu",
	           (unsigned long long)load.accepted_tokens_total);
}

static void put_sources(const struct gateway *g, struct buf *out)
{
	static const char all[] = "vllm:prompt_tokens_by_source_total",
			  cached[] = "vllm:prompt_tokens_cached_by_source_total";
	char label[LABEL_SIZE];

	put_head(out, all, "counter", "Prompt tokens of answered requests by where their KV came from.");
	for (const struct model *m = g->models; m; m = m->following) {
		put_label(all, m, label);
		buf_printf(out, "%s{%s,source=\"local_compute\"} %llu\n", all, label,
		           (unsigned long long)(m->metrics->prompt_tokens - m->metrics->cached_tokens));
		buf_printf(out, "%s{%s,source=\"local_cache_hit\"} %llu\n", all, label,
		           (unsigned long long)m->metrics->cached_tokens);
	}
	put_head(out, cached, "counter",
	         "Prompt tokens found in the cache by tier; device is the engine's own memory.");
	for (const struct model *m = g->models; m; m = m->following) {
		struct engine_load load = {0};

		if (m->state == MODEL_READY && m->engine)
			load = engine_load(m->engine);
		put_label(cached, m, label);
		buf_printf(out, "%s{%s,source=\"device\"} %llu\n", cached, label,
		           (unsigned long long)load.cached_cells_total);
		buf_printf(out, "%s{%s,source=\"host\"} %llu\n", cached, label,
		           (unsigned long long)load.cached_memory_total);
		buf_printf(out, "%s{%s,source=\"disk\"} %llu\n", cached, label,
		           (unsigned long long)load.cached_disk_total);
	}
}

/* ---- answers ------------------------------------------------------------------------------------------------------
 */

/* vLLM's words: an answer that calls a tool has stopped. */
static void put_finished(const struct gateway *g, struct buf *out)
{
	static const char name[] = "vllm:request_success_total";

	put_head(out, name, "counter", "Answers by finish reason.");
	for (const struct model *m = g->models; m; m = m->following) {
		const uint64_t *f = m->metrics->finished;
		const struct {
			const char *reason;
			uint64_t count;
		} lines[] = {{"stop", f[FINISH_STOP] + f[FINISH_TOOL_CALLS]},
		             {"length", f[FINISH_LENGTH]},
		             {"abort", m->metrics->aborted},
		             {"error", f[FINISH_ERROR]}};
		char label[LABEL_SIZE];

		put_label(name, m, label);
		for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
			buf_printf(out, "%s{%s,finished_reason=\"%s\"} %llu\n", name, label, lines[i].reason,
			           (unsigned long long)lines[i].count);
	}
}

static void put_batches(const struct gateway *g, struct buf *out)
{
	static const char name[] = "vllm:iteration_tokens_total";

	put_head(out, name, "histogram", "Tokens a batch, of prompts and answers.");
	for (const struct model *m = g->models; m; m = m->following) {
		struct engine_load load = {0};
		char label[LABEL_SIZE];

		if (m->state == MODEL_READY && m->engine)
			load = engine_load(m->engine);
		put_label(name, m, label);
		put_histogram(out, name, label, batch_bounds, sizeof(batch_bounds) / sizeof(batch_bounds[0]),
		              load.batches, (double)load.batch_tokens_total);
	}
}

static void put_histograms(const struct gateway *g, struct buf *out)
{
	for (size_t i = 0; i < MODEL_HISTOGRAMS; i++) {
		put_head(out, kinds[i].name, "histogram", kinds[i].help);
		for (const struct model *m = g->models; m; m = m->following) {
			const struct histogram *h = &m->metrics->histograms[i];
			char label[LABEL_SIZE];

			put_label(kinds[i].name, m, label);
			put_histogram(out, kinds[i].name, label, kinds[i].bounds, kinds[i].count, h->counts, h->sum);
		}
	}
}

void metrics_format_vllm(struct gateway *g, struct buf *out)
{
	put_load(g, out);
	put_waiting(g, out);
	put_sleep(g, out);
	put_cache_config(g, out);
	put_lora(g, out);
	put_tokens(g, out);
	put_sources(g, out);
	put_finished(g, out);
	put_batches(g, out);
	put_histograms(g, out);
}
